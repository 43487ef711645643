"""Memory shared with NumPy: from_numpy, Tensor.numpy, the array protocol, as_tensor."""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any
from weakref import ref

import numpy as np

from fanal.core.base import device as devices
from fanal.core.base import dtype as dt
from fanal.core.engine.handle import Chain, Handle
from fanal.core.engine.record import busy, changed, flush
from fanal.core.ir import prims as P
from fanal.core.ops.build import public
from fanal.core.ops.create import tensor
from fanal.core.tensor.tensor import Tensor, settled, strides_of, view_chain, wrap_array


def owner_of(a: np.ndarray) -> Any:
    """Return the object that owns the memory an array shows."""
    while isinstance(a, np.ndarray) and a.base is not None:
        a = a.base
    return a


class Borrowed:
    """Tells whether anybody but this storage still holds the owner of borrowed memory."""

    __slots__ = ("owner",)

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    def __call__(self) -> Any:
        # Ours: this slot, the base of the buffer, the local variable, the argument of getrefcount.
        owner = self.owner
        return owner if sys.getrefcount(owner) > 4 else None


class Lent:
    """Owns nothing but keeps lent memory alive; arrays made from it, and their views, keep it alive in turn."""

    __slots__ = ("__array_interface__", "__weakref__", "memory")

    def __init__(self, shown: np.ndarray, memory: np.ndarray) -> None:
        self.__array_interface__ = shown.__array_interface__
        self.memory = memory


class Sharers:
    """Tells whether any of several sharers of a storage is alive."""

    __slots__ = ("asks",)

    def __init__(self, *asks: Any) -> None:
        self.asks = list(asks)

    def __call__(self) -> Any:
        while self.asks:
            sharer = self.asks[-1]()
            if sharer is not None:
                return sharer
            self.asks.pop()
        return None


@public(method=False, event=False)
def from_numpy(ndarray: Any) -> Any:
    """Return a tensor that shares the memory of an array: writes on either side are seen on the other."""
    if not isinstance(ndarray, np.ndarray):
        raise TypeError(f"expected np.ndarray (got {type(ndarray).__name__})")
    if not ndarray.dtype.isnative:
        raise ValueError(
            "given numpy array has byte order different from the native byte order. Conversion between byte "
            "orders is currently not supported."
        )
    d = dt.from_numpy(ndarray.dtype)
    if any(s < 0 for s in ndarray.strides):
        raise ValueError(
            "At least one stride in the given numpy array is negative, and tensors with negative strides are not "
            "currently supported. (You can probably work around this by making a copy of your array  with "
            "array.copy().) "
        )
    if not ndarray.flags.writeable:
        warnings.warn(
            "The given NumPy array is not writable, and PyTorch does not support non-writable tensors. This means "
            "writing to this tensor will result in undefined behavior. You may want to copy the array to protect its "
            "data or make it writable before converting it to a tensor. This type of warning will be suppressed for "
            "the rest of this program.",
            stacklevel=2,
        )
    if not ndarray.size:
        return wrap_array(np.zeros(ndarray.shape, d.np), d)
    k = ndarray.itemsize
    if any(s % k for s in ndarray.strides):
        raise ValueError(
            "given numpy array strides not a multiple of the element byte size. Copy the numpy array to "
            "reallocate the memory."
        )
    strides = tuple(s // k for s in ndarray.strides)
    span = 1 + sum((n - 1) * s for n, s in zip(ndarray.shape, strides))
    if ndarray.flags.c_contiguous:
        memory = ndarray[...] if ndarray.base is None else ndarray.view()
        t = wrap_array(memory, d)
    else:
        memory = np.lib.stride_tricks.as_strided(ndarray, (span,), (k,))
        chain: Chain = ((P.strided, (ndarray.shape, strides, 0)),)
        t = view_chain(wrap_array(memory, d), chain, strides)
    owner = owner_of(memory)
    t._storage.foreign = Borrowed(owner) if isinstance(owner, np.ndarray) else (lambda: owner)
    return t


def shown_array(t: Any) -> np.ndarray:
    """Return an array over the memory of a tensor's storage, with the tensor's shape and strides. Flushes."""
    if t._storage.meta:
        raise NotImplementedError("Cannot copy out of meta tensor; no data!")
    memory = settled(t)
    k = t._dtype.itemsize
    if not math.prod(t._shape):
        return np.zeros(t._shape, t._dtype.np)
    flat = memory.reshape(-1).view(np.uint8)
    last = sum((n - 1) * st for n, st in zip(t._shape, strides_of(t))) + 1
    part = flat[t._offset * k : (t._offset + last) * k].view(t._dtype.np)
    return np.lib.stride_tricks.as_strided(part, t._shape, [st * k for st in strides_of(t)])


def numpy(self: Any, *, force: bool = False) -> np.ndarray:
    """Return an array that shares the memory of the tensor: writes on either side are seen on the other."""
    if not force and self.requires_grad:
        raise RuntimeError(
            "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead."
        )
    if self._dtype.np.isbuiltin != 1:  # bfloat16, float8, complex32
        raise TypeError(f"Got unsupported ScalarType {dt.scalar_name(self._dtype)}")
    if busy():
        flush("numpy")  # what is pending must not see writes that come later
    a = shown_array(self)
    if not a.size:
        return a
    s = self._storage
    memory = s.node.buffer
    assert memory is not None
    if not memory.flags.writeable:
        memory = s.node.buffer = memory.copy()
        a = shown_array(self)
    lent = Lent(a, memory)
    if s.foreign is None:
        changed()
    if s.foreign is None or s.foreign() is None:
        s.foreign = ref(lent)
    elif type(s.foreign) is Sharers:
        s.foreign.asks.append(ref(lent))
    else:
        s.foreign = Sharers(s.foreign, ref(lent))
    return np.asarray(lent)


def _array(self: Any, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    a = self.numpy()
    if dtype is not None and a.dtype != dtype:
        if copy is False:
            raise ValueError("Unable to avoid copy while creating an array as requested.")
        return a.astype(dtype)
    return a.copy() if copy else a


def _array_wrap(self: Any, array: np.ndarray, context: Any = None, return_scalar: bool = False) -> Any:
    return from_numpy(np.ascontiguousarray(array)) if isinstance(array, np.ndarray) else tensor(array)


Tensor.numpy = numpy  # type: ignore[attr-defined]
Tensor.__array__ = _array  # type: ignore[attr-defined]
Tensor.__array_wrap__ = _array_wrap  # type: ignore[attr-defined]
Tensor.__array_priority__ = 1000  # type: ignore[attr-defined]

def borrow(a: np.ndarray) -> Any:
    """Return a tensor over an array's memory, also where that must not be written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return from_numpy(a)


@public(method=False, event=False)
def frombuffer(
    buffer: Any, *, dtype: dt.dtype, count: int = -1, offset: int = 0, requires_grad: bool = False
) -> Any:
    """Return a 1-d tensor that shares the memory of an object with the buffer protocol."""
    size = memoryview(buffer).nbytes
    if not size:
        raise ValueError(f"both buffer length ({size}) and count ({count}) must not be 0")
    if offset < 0 or offset >= size:
        raise ValueError(
            f"offset ({offset} bytes) must be non-negative and no greater than buffer length ({size} bytes) minus 1"
        )
    if count < 0 and (size - offset) % dtype.itemsize:
        raise ValueError(
            f"buffer length ({size - offset} bytes) after offset ({offset} bytes) must be a multiple of element "
            f"size ({dtype.itemsize})"
        )
    if count > 0 and offset + count * dtype.itemsize > size:
        raise ValueError(
            f"requested buffer length ({count} * {dtype.itemsize} bytes) after offset ({offset} bytes) must not be "
            f"greater than actual buffer length ({size} bytes)"
        )
    t = borrow(np.frombuffer(buffer, dtype.np, count, offset))
    t._leaf = requires_grad
    return t


@public(method=False, event=False)
def as_tensor(data: Any, dtype: dt.dtype | None = None, device: Any = None) -> Any:
    """Return data as a tensor, without copying where dtype and device allow."""
    if isinstance(data, Handle):
        return Tensor.to(data, dtype=dtype, device=device)  # type: ignore[attr-defined]
    if (
        isinstance(data, np.ndarray)
        and devices.resolve(device) is devices.CPU
        and data.dtype.kind in "biufcV"
    ):
        t = from_numpy(data)
        return t if dtype is None or t._dtype is dtype else tensor(data, dtype=dtype)
    return tensor(data, dtype=dtype, device=device)


@public(method=False, event=False)
def asarray(
    obj: Any,
    *,
    dtype: dt.dtype | None = None,
    device: Any = None,
    copy: bool | None = None,
    requires_grad: bool = False,
) -> Any:
    """Return an object as a tensor, sharing memory unless `copy` says otherwise."""
    if isinstance(obj, Handle):
        t = Tensor.to(obj, dtype=dtype, device=device, copy=bool(copy))  # type: ignore[attr-defined]
        if copy is False and t is not obj and t._storage is not obj._storage:
            raise ValueError(
                "can't alias tensor with dtype '" + str(obj._dtype) + "' into dtype '" + str(dtype) + "'."
            )
        if not requires_grad:
            t = t.detach() if t.requires_grad else t
    elif copy or (
        not hasattr(obj, "__array_interface__") and not isinstance(obj, (bytes, bytearray, memoryview))
    ):
        if copy is False:
            raise ValueError("can't alias arbitrary sequence into a tensor.")
        t = tensor(obj, dtype=dtype, device=device)
    elif isinstance(obj, (bytes, bytearray, memoryview)):
        t = frombuffer(obj, dtype=dtype or dt.get_default())
        t = tensor(t) if copy else t
    else:
        t = as_tensor(np.asarray(obj), dtype, device)
    if requires_grad:
        t.requires_grad_()
    return t
