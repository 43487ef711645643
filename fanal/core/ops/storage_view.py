"""Storages as objects: untyped_storage(), storage(), data_ptr()."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.device import CPU, META, device
from fanal.core.ir import prims as P
from fanal.core.ops.build import public
from fanal.core.tensor.alias import write
from fanal.core.tensor.tensor import Tensor, blank, settled


def memory_of(t: Any) -> np.ndarray:
    """Return the memory of a tensor's storage, flat, in elements of the storage. Flushes."""
    return settled(t).reshape(-1)


class UntypedStorage:
    """The bytes behind a tensor, as torch.UntypedStorage."""

    __module__ = "torch.storage"
    __slots__ = ("_storage",)

    def __init__(self, tensor: Any) -> None:
        if not tensor._storage.meta:
            settled(tensor)
        self._storage = tensor._storage

    @property
    def device(self) -> device:
        return META if self._storage.meta else CPU

    def _bytes(self) -> np.ndarray:
        return memory_of(self).view(np.uint8)

    def _tensor(self, d: dt.dtype) -> Any:
        """Return a flat tensor over the storage, in a dtype."""
        n = self._storage.node
        chain: Any = (
            (P.reshape, ((n.size,),)),
            (P.recast if d.itemsize != n.dtype.itemsize else P.bitcast, (d,)),
        )
        v = n
        for row, params in chain:
            v = row(v, *params)
        return blank(Tensor, self._storage, chain, v.shape, d, v, None, 0)

    def nbytes(self) -> int:
        """Return the size in bytes."""
        return self._storage.node.nbytes

    size = nbytes

    def element_size(self) -> int:
        """Return the size of an element: one byte."""
        return 1

    def data_ptr(self) -> int:
        """Return the address of the first byte."""
        return 0 if self._storage.meta or not self.nbytes() else int(memory_of(self).ctypes.data)

    def tolist(self) -> list[int]:
        """Return the bytes as numbers."""
        return self._bytes().tolist()

    def __len__(self) -> int:
        return self.nbytes()

    def __getitem__(self, i: Any) -> Any:
        part = self._bytes()[i]
        return int(part) if np.isscalar(part) or part.ndim == 0 else part.tolist()

    def __iter__(self) -> Iterator[int]:
        return iter(self.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UntypedStorage) and other._storage is self._storage

    def __hash__(self) -> int:
        return id(self._storage)

    def __repr__(self) -> str:
        lines = "".join(f" {b}\n" for b in self.tolist())
        return f"{lines}[torch.storage.UntypedStorage(device={self.device}) of size {self.nbytes()}]"


class TypedStorage:
    """The elements behind a tensor, as torch.TypedStorage."""

    __module__ = "torch.storage"
    __slots__ = ("_untyped", "dtype")

    def __init__(self, tensor: Any) -> None:
        self._untyped, self.dtype = UntypedStorage(tensor), tensor._dtype

    @property
    def device(self) -> device:
        return self._untyped.device

    def untyped(self) -> UntypedStorage:
        """Return the bytes."""
        return self._untyped

    def size(self) -> int:
        """Return the number of elements."""
        return self._untyped.nbytes() // self.dtype.itemsize

    __len__ = size

    def nbytes(self) -> int:
        """Return the size in bytes."""
        return self._untyped.nbytes()

    def element_size(self) -> int:
        """Return the size of an element in bytes."""
        return self.dtype.itemsize

    def data_ptr(self) -> int:
        """Return the address of the first element."""
        return self._untyped.data_ptr()

    def tolist(self) -> list:
        """Return the elements as numbers."""
        return self._untyped._tensor(self.dtype).tolist()

    def __getitem__(self, i: Any) -> Any:
        return self.tolist()[i]

    def __setitem__(self, i: Any, value: Any) -> None:
        t = self._untyped._tensor(self.dtype)
        a = np.array(t.tolist(), self.dtype.np)
        a[i] = value
        write(t, P.given(a, self.dtype))

    def __iter__(self) -> Iterator:
        return iter(self.tolist())

    def __repr__(self) -> str:
        lines = "".join(f" {v}\n" for v in self.tolist())
        return f"{lines}[torch.storage.TypedStorage(dtype={self.dtype}, device={self.device}) of size {self.size()}]"


def _data_ptr(self: Any) -> int:
    """Return the address of the first element. Flushes; a later write may move it."""
    s = self._storage
    if s.meta or not math.prod(self._shape):
        return 0
    return int(memory_of(self).ctypes.data) + self._offset * self._dtype.itemsize


Tensor.untyped_storage = lambda self: UntypedStorage(self)  # type: ignore[attr-defined]
Tensor.storage = Tensor._typed_storage = lambda self: TypedStorage(self)  # type: ignore[attr-defined]
Tensor.data_ptr = _data_ptr  # type: ignore[attr-defined]


def _is_storage(obj: Any) -> bool:
    """Tell whether an object is a storage."""
    return isinstance(obj, (UntypedStorage, TypedStorage))


public("is_storage", method=False, event=False)(_is_storage)
public("UntypedStorage", method=False, event=False)(UntypedStorage)
public("TypedStorage", method=False, event=False)(TypedStorage)
