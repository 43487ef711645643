"""PyTorch behind the serializer's seam: the same formats, checked against the original."""

from __future__ import annotations

import numpy as np
import torch

from fanal.serialization.adapter import StorageParts, TensorParts
from fanal.serialization.dtypes import STORAGE_CLASS, numpy_dtype

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


def to_numpy(flat: torch.Tensor) -> np.ndarray:
    name = str(flat.dtype).removeprefix("torch.")
    return flat.detach().resolve_conj().view(torch.uint8).numpy().view(numpy_dtype(name))


class TorchAdapter:
    tensor_class = torch.Tensor
    parameter_class = torch.nn.Parameter

    def kind(self, obj):
        if torch.nn.parameter.is_lazy(obj):
            return "lazy"
        if isinstance(obj, torch.Tensor):
            return "tensor"
        if isinstance(obj, (torch.UntypedStorage, torch.storage.TypedStorage)):
            return "storage"
        return {torch.dtype: "dtype", torch.device: "device", torch.Size: "size"}.get(type(obj))

    def tensor_parts(self, tensor):
        storage = tensor.untyped_storage()
        width = tensor.dtype.itemsize
        name = self.dtype_name(tensor.dtype)
        if tensor.device.type == "meta":
            flat, key = np.empty(0, np.uint8), id(tensor)
        else:
            raw = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (storage.nbytes(),), (1,))
            flat = raw.numpy().view(numpy_dtype(name)) if storage.nbytes() % width == 0 else raw.numpy()
            key = storage._cdata
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        cls = None if is_parameter or type(tensor) is torch.Tensor else type(tensor)
        state = dict(tensor.__dict__)
        return TensorParts(
            StorageParts(flat, key, str(tensor.device)), tensor.storage_offset(), tuple(tensor.shape),
            tensor.stride(), name, tensor.requires_grad, cls, is_parameter, state,
            {k: True for k, on in (("conj", tensor.is_conj()), ("neg", tensor.is_neg())) if on},
        )  # fmt: skip

    def storage_parts(self, storage):
        dtype = getattr(storage, "dtype", None)
        untyped = storage._untyped_storage if dtype else storage
        raw = torch.empty(0, dtype=torch.uint8).set_(untyped, 0, (untyped.nbytes(),), (1,)).numpy()
        name = self.dtype_name(dtype) if dtype else None
        flat = raw.view(numpy_dtype(name)) if name in STORAGE_CLASS else raw
        return StorageParts(flat, untyped._cdata, str(untyped.device)), name

    def dtype_name(self, dtype):
        return str(dtype).removeprefix("torch.")

    def device_args(self, device):
        return (device.type,) if device.index is None else (device.type, device.index)

    def public_name(self, obj):
        return None

    def has_device(self, device):
        return device in ("cpu", "meta")

    def make_base(self, flat, device):
        name = flat.dtype.name
        raw = torch.from_numpy(flat.view(np.uint8)) if flat.size else torch.empty(0, dtype=torch.uint8)
        return raw.view(getattr(torch, name))

    def make_tensor(self, base, offset, shape, strides, requires_grad, flags):
        tensor = torch.empty(0, dtype=base.dtype).set_(base.untyped_storage(), offset, shape, strides)
        if flags:
            torch._utils.set_tensor_metadata(tensor, flags)
        return tensor.requires_grad_(requires_grad)

    def make_meta(self, shape, strides, dtype, requires_grad):
        kind = getattr(torch, dtype)
        return torch.empty_strided(shape, strides, dtype=kind, device="meta", requires_grad=requires_grad)

    def make_sparse(self, layout, args):
        if layout != "torch.sparse_coo":
            raise RuntimeError(f"layout {layout}")
        indices, values, size, *rest = args
        return torch.sparse_coo_tensor(indices, values, size, is_coalesced=rest[0] if rest else None)

    def make_parameter(self, data, requires_grad):
        return torch.nn.Parameter(data, requires_grad)

    def make_lazy(self, name, requires_grad):
        return getattr(torch.nn.parameter, name)(requires_grad)

    def as_subclass(self, tensor, cls):
        return tensor.as_subclass(cls)

    def set_state(self, tensor, state):
        tensor.__dict__.update(state)

    def make_dtype(self, name):
        return getattr(torch, name)

    def make_device(self, args):
        return torch.device(*args)

    def make_size(self, sizes):
        return torch.Size(sizes)

    def make_layout(self, name):
        return getattr(torch, name)

    def find_class(self, module, name):
        return getattr(torch.nn, name, None) if module.startswith("torch.nn.modules.") else None

    def find_function(self, module, name):
        return getattr(torch.nn.functional, name, None) if module == "torch.nn.functional" else None
