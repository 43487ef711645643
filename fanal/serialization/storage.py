"""Storages and views of a checkpoint, checked before they become tensors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .dtypes import numpy_dtype
from .errors import ViewError

MAX_DIMS = 64
INT64_MAX = 2**63 - 1


class LoadedStorage:
    """The bytes of one storage of a checkpoint, on the device they are meant for.

    This is what a ``map_location`` function receives and returns; tensors that share a storage in
    the file share this one. ``dtype`` is None for untyped bytes.
    """

    __slots__ = ("bases", "byte_size", "device", "dtype", "key", "raw")

    def __init__(self, raw: np.ndarray, dtype: str | None, key: str, device: str, byte_size: int) -> None:
        self.raw = raw  # uint8; empty on the meta device
        self.dtype = dtype
        self.key = key
        self.device = device
        self.byte_size = byte_size
        self.bases: dict[str, Any] = {}  # dtype name -> the adapter's flat tensor over these bytes

    def nbytes(self) -> int:
        """Return the size in bytes."""
        return self.byte_size

    def size(self) -> int:
        """Return the number of elements."""
        return self.byte_size // (numpy_dtype(self.dtype).itemsize if self.dtype else 1)

    __len__ = size

    @property
    def is_cuda(self) -> bool:
        """Whether the storage is meant for a CUDA device."""
        return self.device.startswith("cuda")

    def to(self, device: Any) -> LoadedStorage:
        """Return the same bytes meant for another device."""
        return LoadedStorage(self.raw, self.dtype, self.key, str(device), self.byte_size)

    def cpu(self) -> LoadedStorage:
        """Return the same bytes meant for the CPU."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> LoadedStorage:
        """Return the same bytes meant for a CUDA device (0 unless given)."""
        return self.to(f"cuda:{0 if device is None else device}" if not isinstance(device, str) else device)

    def numpy(self) -> np.ndarray:
        """Return the elements as a flat NumPy array over the same memory."""
        return self.elements(self.dtype or "uint8")

    def part(self, key: str, begin: int, end: int) -> LoadedStorage:
        """Return a storage over some of the bytes, sharing them."""
        if not 0 <= begin <= end <= self.byte_size:
            raise ViewError(f"bytes {begin} to {end} of a storage of {self.byte_size} bytes", key=self.key)
        return LoadedStorage(self.raw[begin:end], self.dtype, key, self.device, end - begin)

    def elements(self, dtype: str) -> np.ndarray:
        """Return the bytes as a flat array of one dtype, without copying where alignment allows."""
        element = numpy_dtype(dtype)
        if len(self.raw) % element.itemsize:
            raise ViewError(f"{len(self.raw)} bytes are no whole number of {dtype} elements", key=self.key)
        if dtype == "bool" and len(self.raw) and self.raw.max() > 1:
            return self.raw != 0  # a bool is one byte, 0 or 1; other bytes never come from a tensor
        flat = self.raw.view(element)
        return flat if flat.flags.aligned else flat.copy()

    def __repr__(self) -> str:
        return (
            f"LoadedStorage(key={self.key!r}, dtype={self.dtype}, device={self.device!r}, "
            f"nbytes={self.byte_size})"
        )


def check_view(storage: LoadedStorage, dtype: str, offset: Any, shape: Any, strides: Any) -> None:
    """Refuse a view that reaches outside its storage, or whose numbers are no numbers.

    Raises: ViewError with the storage's key, from which the tensor's name is found.
    """
    key = storage.key
    for name, value in (("shape", shape), ("strides", strides)):
        if not isinstance(value, (tuple, list)) or not all(type(v) is int and v >= 0 for v in value):
            raise ViewError(f"{name} {value!r:.80} is not a tuple of integers >= 0", key=key)
    if type(offset) is not int or offset < 0:
        raise ViewError(f"storage offset {offset!r:.80} is not an integer >= 0", key=key)
    if len(shape) != len(strides) or len(shape) > MAX_DIMS:
        raise ViewError(f"{len(shape)} sizes with {len(strides)} strides (at most {MAX_DIMS})", key=key)
    itemsize = numpy_dtype(dtype).itemsize
    if math.prod(shape) * itemsize > INT64_MAX or offset > INT64_MAX:
        raise ViewError(f"shape {tuple(shape)} is larger than any memory", key=key)
    if 0 in shape:
        return
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    held = storage.byte_size // itemsize
    if last >= held:
        raise ViewError(
            f"the tensor of shape {tuple(shape)}, strides {tuple(strides)}, offset {offset} needs "
            f"{last + 1} elements of {dtype}, its storage holds {held}",
            key=key,
        )
