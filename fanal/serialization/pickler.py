"""Write the pickle inside a checkpoint, in the words PyTorch reads.

The result names ``torch._utils._rebuild_tensor_v2``, ``torch.FloatStorage`` and their like, so
either library loads it. Tensor data stays out of the pickle: a persistent id names the storage.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections import OrderedDict
from collections.abc import Hashable
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np

from .adapter import Adapter, StorageParts, TensorParts
from .dtypes import STORAGE_CLASS, UNTYPED
from .storage import LoadedStorage


class Name:
    """A global that exists in the file only: a module and a name, nothing to import."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name

    def __call__(self, *args: Any) -> Any:  # the pickler asks whether a constructor is callable
        raise TypeError(f"{self.module}.{self.name} is a name in a file, not a function")


@cache
def name_of(module: str, name: str) -> Name:
    """Return the one Name of a global, so that the pickle memo can refer back to it."""
    return Name(module, name)


class _StorageRef:
    """A storage inside the object being pickled."""

    __slots__ = ("dtype", "parts")

    def __init__(self, parts: StorageParts, dtype: str | None) -> None:
        self.parts = parts
        self.dtype = dtype


# The standard library's pickler written in Python: the one in C refuses names it cannot import.
_Pickler: Any = pickle._Pickler


class CheckpointPickler(_Pickler):
    """The standard pickler with words for tensors.

    After ``dump``, ``storages`` maps each key ("0", "1", ...) to the flat array to be stored.
    """

    def __init__(self, file: io.BytesIO, adapter: Adapter, protocol: int) -> None:
        super().__init__(file, protocol=protocol)
        self.adapter = adapter
        self.storages: dict[str, np.ndarray] = {}
        self._keys: dict[Hashable, str] = {}
        self._dtypes: dict[Hashable, str | None] = {}
        self._alive: list[Any] = []  # storages compare by address: none may be freed while pickling

    def persistent_id(self, obj: Any) -> Any:
        """Return the id of a storage; None for anything else."""
        if not isinstance(obj, _StorageRef):
            return None
        parts, dtype = obj.parts, obj.dtype
        stored_as = None if dtype in UNTYPED else dtype
        if parts.flat.size and self._dtypes.setdefault(parts.key, stored_as) != stored_as:
            raise RuntimeError(
                "Cannot save multiple tensors or storages that view the same data as different types"
            )
        key = self._keys.setdefault(parts.key, str(len(self._keys)))
        self.storages[key] = parts.flat
        self._alive.append(parts)
        if stored_as is None:
            storage_class, count = name_of("torch.storage", "UntypedStorage"), parts.flat.nbytes
        else:
            storage_class, count = name_of("torch", STORAGE_CLASS[stored_as]), parts.flat.size
        return ("storage", storage_class, key, sys.intern(parts.device), count)

    def reducer_override(self, obj: Any) -> Any:
        """Return how tensors and their kin are rebuilt; NotImplemented for other objects."""
        if isinstance(obj, Name):
            return obj.name
        if isinstance(obj, _Plain):
            return self._plain(obj.parts)
        kind = self.adapter.kind(obj)
        if kind is None:
            return NotImplemented
        if kind == "tensor":
            return self._reduce_tensor(obj)
        if kind == "dtype":
            return self.adapter.dtype_name(obj)
        if kind == "device":
            return name_of("torch", "device"), self.adapter.device_args(obj)
        if kind == "size":
            return name_of("torch", "Size"), (tuple(obj),)
        if kind == "lazy":
            return name_of("torch.nn.parameter", type(obj).__name__), (bool(obj.requires_grad),)
        if kind == "module":
            return self._reduce_module(obj)
        raise pickle.PicklingError(f"no way to save a {kind}")

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        """Write one object; storages are told apart here, before the memo sees them."""
        if isinstance(obj, LoadedStorage):
            obj = _StorageRef(StorageParts(obj.numpy(), id(obj.raw), obj.device), obj.dtype)
        elif self.adapter.kind(obj) == "storage":
            obj = _StorageRef(*self.adapter.storage_parts(obj))
        super().save(obj, save_persistent_id)

    def save_global(self, obj: Any, name: str | None = None) -> None:
        """Write a reference to a class or function, under the name PyTorch knows it by."""
        if isinstance(obj, Name):
            self._write_name(obj, obj.module, obj.name)
        elif self.adapter.kind(obj) == "dtype":
            self._write_name(obj, "torch", self.adapter.dtype_name(obj))
        elif (public := self.adapter.public_name(obj)) is not None:
            self._write_name(obj, *public)
        else:
            super().save_global(obj, name)

    def _save_type(self, obj: Any) -> None:
        if obj in (type(None), type(NotImplemented), type(...)):
            super().save_type(obj)
        else:
            self.save_global(obj)

    def _save_function(self, obj: Any) -> None:
        self.save_global(obj)

    # The base class finds its methods in this table, so overriding them is not enough.
    dispatch = _Pickler.dispatch | {
        type: _save_type,
        FunctionType: _save_function,
    }

    def _write_name(self, obj: Any, module: str, name: str) -> None:
        if self.proto >= 4:
            self.save(module)
            self.save(name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode("ascii"))
        self.memoize(obj)

    def _reduce_tensor(self, tensor: Any) -> Any:
        parts = self.adapter.tensor_parts(tensor)
        if parts.storage.device == "meta":
            dtype = self.adapter.make_dtype(parts.dtype)
            args: tuple = (dtype, parts.shape, parts.strides, parts.requires_grad)
            return name_of("torch._utils", "_rebuild_meta_tensor_no_storage"), args
        if parts.is_parameter:
            plain = _Plain(parts._replace(requires_grad=False, is_parameter=False, state={}))
            if parts.state:
                args = (plain, parts.requires_grad, OrderedDict(), parts.state)
                return name_of("torch._utils", "_rebuild_parameter_with_state"), args
            return name_of("torch._utils", "_rebuild_parameter"), (plain, parts.requires_grad, OrderedDict())
        function, args = self._plain(parts)
        if parts.state or parts.cls is not None:
            cls = parts.cls or name_of("torch", "Tensor")
            return name_of("torch._tensor", "_rebuild_from_type_v2"), (function, cls, args, parts.state)
        return function, args

    def _reduce_module(self, module: Any) -> Any:
        """Reduce a module as its class does, with the empty tables PyTorch reads without asking."""
        reduced = module.__reduce_ex__(self.proto)
        if isinstance(reduced, tuple) and len(reduced) > 2 and isinstance(reduced[2], dict):
            state = self.adapter.module_defaults() | reduced[2]
            reduced = (*reduced[:2], state, *reduced[3:])
        return reduced

    def _plain(self, parts: TensorParts) -> tuple[Name, tuple]:
        storage = _StorageRef(parts.storage, parts.dtype)
        args: tuple = (
            storage, parts.offset, parts.shape, parts.strides, parts.requires_grad, OrderedDict(),
        )  # fmt: skip
        if parts.dtype in UNTYPED:
            args += (self.adapter.make_dtype(parts.dtype),)
            return name_of("torch._utils", "_rebuild_tensor_v3"), args
        if parts.flags:
            args += (dict(parts.flags),)
        return name_of("torch._utils", "_rebuild_tensor_v2"), args


class _Plain:
    """The data of a parameter, to be written as a tensor of its own."""

    __slots__ = ("parts",)

    def __init__(self, parts: TensorParts) -> None:
        self.parts = parts
