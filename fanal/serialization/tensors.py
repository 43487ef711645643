"""Fanal's tensors behind the serializer's seam."""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.device import device as Device
from fanal.core.base.device import resolve
from fanal.core.base.shape import Size, contiguous_strides, is_contiguous
from fanal.core.base.state import grad_mode
from fanal.core.engine.record import flush
from fanal.core.ir.prims import permute, reshape, slice_, window
from fanal.core.tensor.tensor import (
    Tensor,
    adopt,
    compute,
    strides_of,
    view_chain,
    wrap_array,
)

from .adapter import StorageParts, TensorParts
from .nn_names import NN_FILES
from .opaque import Opaque

Shape = tuple[int, ...]


# To PyTorch a buffer is a plain tensor with a mark.
_BUFFERS = {(name, "fanal.nn.parameter") for name in ("Buffer", "_MaterializedBuffer")}


class _Base:
    """The elements of one loaded storage, and the tensor that owns them once there is one.

    Waiting for the first view lets a storage with one dense tensor, nearly every parameter, become
    exactly that tensor, with no chain of views in the way of later programs.
    """

    __slots__ = ("flat", "owner")

    def __init__(self, flat: np.ndarray) -> None:
        self.flat = flat
        self.owner: Tensor | None = None


class FanalAdapter:
    """Turns arrays, names and numbers into Fanal's tensors, and back."""

    tensor_class = Tensor

    @property
    def parameter_class(self) -> type:
        """The class of parameters."""
        from fanal.nn.parameter import Parameter

        return Parameter

    # -- saving

    def kind(self, obj: object) -> str | None:
        """Return what part of the library an object is; None for objects of other origin."""
        return _kind(type(obj))

    def tensor_parts(self, tensor: Tensor) -> TensorParts:
        """Return a tensor as a view of its storage's elements."""
        shape, strides, offset = tuple(tensor._shape), strides_of(tensor), tensor._offset
        if tensor._storage.meta:
            storage = StorageParts(np.empty(0, np.uint8), id(tensor._storage), "meta")
        else:
            storage, strides, offset = _locate(tensor)
        is_parameter = isinstance(tensor, self.parameter_class)
        cls = None if is_parameter or type(tensor) is Tensor else type(tensor)
        state = dict(tensor.__dict__)
        if cls is not None and (cls.__name__, cls.__module__) in _BUFFERS:
            cls, state = (
                None,
                {"persistent": bool(getattr(tensor, "persistent", True)), "_is_buffer": True} | state,
            )
        return TensorParts(
            storage, offset, shape, strides, tensor._dtype.name, bool(tensor.requires_grad), cls,
            is_parameter, state, {},
        )  # fmt: skip

    def storage_parts(self, storage: Any) -> tuple[StorageParts, str | None]:
        """Storages of Fanal are saved as parts of tensors only."""
        raise TypeError("save the tensor instead of its storage")

    def dtype_name(self, dtype: dt.dtype) -> str:
        """Return "float32" for fanal.float32."""
        return dtype.name

    def device_args(self, device: Device) -> tuple:
        """Return the arguments that make the device again."""
        return (device.type,) if device.index is None else (device.type, device.index)

    def module_defaults(self) -> dict[str, Any]:
        """Return the attributes PyTorch expects in the state of every nn module."""
        tables: dict[str, Any] = {name: OrderedDict() for name in _HOOK_TABLES}
        return {
            "training": True,
            "_is_full_backward_hook": None,
            "_non_persistent_buffers_set": set(),
            **tables,
        }

    def public_name(self, obj: Any) -> tuple[str, str] | None:
        """Return PyTorch's (module, name) for a class or function of the library."""
        module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
        if (
            not isinstance(module, str)
            or not isinstance(name, str)
            or not isinstance(obj, (type, FunctionType))
        ):
            return None
        if module.partition(".")[0] not in ("fanal", "torch"):
            return None
        if obj is Tensor:
            return "torch", "Tensor"
        if module.startswith("fanal.core"):
            if _functional(name) is obj:
                return "torch.nn.functional", name
            return None
        if name in NN_FILES and _nn_class(name) is obj:
            return f"torch.nn.modules.{NN_FILES[name]}", name
        return "torch" + module.removeprefix("fanal") if module.startswith("fanal") else module, name

    # -- loading

    def has_device(self, device: str) -> bool:
        """Whether tensors can be placed on a device here."""
        try:
            resolve(device)
        except (RuntimeError, AssertionError):
            return False
        return True

    def make_base(self, flat: np.ndarray, device: str) -> _Base:
        """Return the owner-to-be of a storage's elements."""
        if Device(device).type != "cpu":
            raise RuntimeError(f"tensors are loaded to the CPU, not to {device}: load, then move with .to()")
        return _Base(flat)

    def make_tensor(
        self,
        base: _Base,
        offset: int,
        shape: Shape,
        strides: Shape,
        requires_grad: bool,
        flags: dict[str, bool],
    ) -> Any:
        """Return a view of a storage's elements (C order is not required), as a leaf."""
        with grad_mode(False):
            view = _view(base, offset, shape, strides)
            if flags.get("conj"):
                view = view.conj()
            if flags.get("neg"):
                view = -view
            return adopt(Tensor, view, True) if requires_grad else view

    def make_meta(self, shape: Shape, strides: Shape, dtype: str, requires_grad: bool) -> Any:
        """Return a tensor without data."""
        import fanal

        kind = self.make_dtype(dtype)
        return fanal.empty_strided(shape, strides, dtype=kind, device="meta", requires_grad=requires_grad)

    def make_sparse(self, layout: str, args: Any) -> Any:
        """Return a sparse COO tensor."""
        import fanal

        make = getattr(fanal, "sparse_coo_tensor", None)
        if make is None or not layout.endswith("sparse_coo") or not isinstance(args, tuple) or len(args) < 3:
            raise RuntimeError(f"sparse tensors of layout {layout} cannot be loaded")
        return make(*args[:3], is_coalesced=args[3] if len(args) > 3 else None)

    def make_parameter(self, data: Any, requires_grad: bool) -> Any:
        """Return a parameter over a tensor's memory."""
        return self.parameter_class(data, requires_grad)

    def make_lazy(self, name: str, requires_grad: bool) -> Any:
        """Return a parameter or buffer that has no shape yet."""
        from fanal.nn import parameter

        return getattr(parameter, name)(requires_grad)

    def as_subclass(self, tensor: Any, cls: type) -> Any:
        """Return the tensor as another class, over the same memory."""
        return adopt(cls, tensor, tensor._leaf)

    def set_state(self, tensor: Any, state: dict[str, Any]) -> None:
        """Set a tensor's own attributes."""
        tensor.__dict__.update(state)

    def make_dtype(self, name: str) -> dt.dtype:
        """Return the dtype of a name. Raises TypeError where Fanal has none."""
        try:
            return dt.by_name(name)
        except KeyError:
            raise TypeError(f"dtype {name} is not a dtype of Fanal") from None

    def make_device(self, args: tuple) -> Device:
        """Return a device, present here or not."""
        return Device(*args)

    def make_size(self, sizes: Shape) -> Size:
        """Return a shape."""
        return Size(sizes)

    def make_layout(self, name: str) -> Any:
        """Return a memory layout; one that Fanal lacks stays a name."""
        import fanal

        return getattr(fanal, name, None) or Opaque("torch", name)

    def find_class(self, module: str, name: str) -> type | None:
        """Return the nn module class that PyTorch pickles as ``module.name``."""
        return _nn_class(name) if module.startswith("torch.nn.modules.") and name in NN_FILES else None

    def find_function(self, module: str, name: str) -> Any:
        """Return the function of nn.functional that PyTorch pickles as ``module.name``."""
        return _functional(name) if module in ("torch.nn.functional", "torch._C._nn") else None


@cache
def _kind(cls: type) -> str | None:
    # A class derived from these exists only once their files are imported; never import them for it.
    parameters, modules = (sys.modules.get(f"fanal.nn.{name}") for name in ("parameter", "modules.module"))
    if parameters is not None and issubclass(cls, parameters.UninitializedTensorMixin):
        return "lazy"
    if modules is not None and issubclass(cls, modules.Module):
        return "module"
    for known, kind in ((Tensor, "tensor"), (dt.dtype, "dtype"), (Device, "device"), (Size, "size")):
        if issubclass(cls, known):
            return kind
    return None


def _locate(tensor: Tensor) -> tuple[StorageParts, Shape, int]:
    """Return (storage, strides, offset) of a tensor, read off the memory its value lies in.

    A view whose elements do not lie in its storage by plain strides (negated, converted) is saved
    as a storage of its own.
    """
    value = compute(tensor)
    storage, element = tensor._storage, tensor._dtype.np
    root = storage.node.buffer
    if root is None:
        flush("save")
        root = storage.node.buffer
    strides, width = strides_of(tensor), element.itemsize
    if root is not None and root.flags.c_contiguous and root.nbytes % width == 0:
        begin = value.__array_interface__["data"][0] - root.__array_interface__["data"][0]
        if value.size == 0:
            begin = min(tensor._offset * width, root.nbytes)
        real = tuple(
            tracked if size <= 1 or value.size == 0 else step // width
            for size, step, tracked in zip(value.shape, value.strides, strides, strict=True)
        )
        last = begin // width + sum((size - 1) * step for size, step in zip(value.shape, real, strict=True))
        inside = 0 <= begin and begin % width == 0 and min(real, default=0) >= 0
        if inside and (value.size == 0 or last < root.nbytes // width):
            flat = root.reshape(-1).view(np.uint8).view(element) if root.size else np.empty(0, element)
            return StorageParts(flat, id(storage), "cpu"), real, begin // width
    flat = np.ascontiguousarray(value).reshape(-1)
    return StorageParts(flat, id(tensor), "cpu"), contiguous_strides(value.shape), 0


def _view(base: _Base, offset: int, shape: Shape, strides: Shape) -> Any:
    """Return a tensor over part of a storage, made of the view primitives a write can go back through."""
    flat, count = base.flat, math.prod(shape)
    kept = None if is_contiguous(shape, strides) else strides
    order = tuple(sorted(range(len(shape)), key=lambda d: (-strides[d], d)))
    laid = tuple(shape[d] for d in order)
    dense = is_contiguous(laid, tuple(strides[d] for d in order))
    turn = ((permute, (tuple(order.index(d) for d in range(len(order))),)),) if kept is not None else ()
    if dense and offset == 0 and count == flat.size:
        if base.owner is None:
            base.owner = wrap_array(flat.reshape(laid if turn else shape), dt.from_numpy(flat.dtype))
            if not turn:
                return base.owner
        return view_chain(base.owner, ((reshape, (laid if turn else shape,)), *turn), kept, 0)
    if base.owner is None:
        base.owner = wrap_array(flat, dt.from_numpy(flat.dtype))
    chain: tuple = ((reshape, ((flat.size,),)),)
    if dense or count == 0:
        chain += (
            (slice_, ((offset,), (offset + count,), (1,))),
            (reshape, (laid if turn else shape,)),
            *turn,
        )
    else:
        last = sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
        chain += ((slice_, ((offset,), (offset + last + 1,), (1,))),)
        # Each window adds one dimension of the wanted size and stride; dimension 0 shrinks to 1.
        chain += tuple(
            (window, ((0,), (size,), (1,), (step,)))
            for size, step in zip(shape, strides, strict=True)
            if size > 1
        )
        chain += ((reshape, (shape,)),)
    return view_chain(base.owner, chain, kept, offset)


def _nn_class(name: str) -> type | None:
    from fanal import nn

    found = getattr(nn, name, None)
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None


def _functional(name: str) -> Any:
    """Return a public function defined by the library itself, never something it merely imports."""
    from fanal.nn import functional

    found = getattr(functional, name, None) if name.isidentifier() and not name.startswith("_") else None
    ours = getattr(found, "__module__", "").partition(".")[0] in ("fanal", "torch")
    return found if callable(found) and not isinstance(found, type) and ours else None


_HOOK_TABLES = (
    "_parameters", "_buffers", "_modules", "_backward_pre_hooks", "_backward_hooks", "_forward_hooks",
    "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs", "_state_dict_hooks", "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip
