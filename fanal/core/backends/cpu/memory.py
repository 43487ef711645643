"""Aligned arrays whose memory is recycled: a training loop in its steady state asks the system for nothing.

Fresh pages cost more than the arithmetic on them (the kernel zeroes each on first touch), so blocks of
arrays that died are kept by size and handed out again: never more of them than were ever in use at once, and
those of the sizes longest unused go first.
"""
from __future__ import annotations

import ctypes
import math
import sys
from collections import OrderedDict

import numpy as np

ALIGN = 64
_MIN_KEPT = 1 << 18  # bytes that may always be kept for reuse

# Raw blocks by size, the sizes last used at the end. Every single operation is atomic; a death may come at any time.
_free: OrderedDict[int, list[_Raw]] = OrderedDict()


class _Counts:
    __slots__ = ("kept", "live", "peak")

    def __init__(self) -> None:
        self.live = 0  # bytes in arrays that exist
        self.peak = 0
        self.kept = 0  # bytes waiting for reuse


_counts = _Counts()  # an object: CPython forgets what it knows of a class whose attributes are set


class _Raw(np.ndarray):
    """Memory. A type of its own, so that NumPy does not shorten the chain array -> _Block -> _Raw."""

    __slots__ = ()


class _Block(np.ndarray):
    """The owner of an array's memory. NumPy keeps it alive through `base` of every view."""

    __slots__ = ()

    def __del__(self) -> None:
        raw = self.base
        if type(raw) is not _Raw or _free is None:  # a view of a block, or the interpreter is going down
            return
        size = raw.nbytes
        _counts.live -= size
        _counts.kept += size
        _free.setdefault(size, []).append(raw)
        if _counts.kept > max(_MIN_KEPT, _counts.peak):
            _drop_oldest()


def _drop_oldest() -> None:
    """Give the memory kept of the sizes longest unused back to the system."""
    while _counts.kept > max(_MIN_KEPT, _counts.peak):
        try:
            size = next(iter(_free))
            if not _free[size]:
                del _free[size]
                continue
            _free[size].pop()
            _counts.kept -= size
        except (StopIteration, KeyError, IndexError, RuntimeError):  # another thread was faster
            return


def _size_class(nbytes: int) -> int:
    """Return the block size for `nbytes`: at most an eighth more, so that similar sizes share blocks."""
    if nbytes <= 512:
        return -(-max(nbytes, 1) // ALIGN) * ALIGN
    step = 1 << (nbytes.bit_length() - 4)
    return -(-nbytes // step) * step


def empty_aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an uninitialised C-contiguous array at an address divisible by 64."""
    size = _size_class(math.prod(shape) * dtype.itemsize)
    try:
        raw = _free[size].pop()
        _counts.kept -= size
        _free.move_to_end(size)
    except (KeyError, IndexError):
        raw = _new(size)
    _counts.live += size
    _counts.peak = max(_counts.peak, _counts.live)
    return np.ndarray(shape, dtype, raw.view(_Block))


def aligned_copy(a: np.ndarray) -> np.ndarray:
    """Return a C-contiguous copy at an address divisible by 64, as kernels read it fastest."""
    copy = empty_aligned(a.shape, a.dtype)
    copy[...] = a
    return copy


def _new(size: int) -> _Raw:
    try:
        whole = np.empty(size + ALIGN, np.uint8)
    except MemoryError:
        release_kept()
        whole = np.empty(size + ALIGN, np.uint8)
    skip = -address_of(whole) % ALIGN
    return whole[skip:skip + size].view(_Raw)


def release_kept() -> None:
    """Give the memory kept for reuse back to the system."""
    for size in list(_free):
        blocks = _free.pop(size, [])
        _counts.kept -= size * len(blocks)


# The address is the first field behind the object header, as the macro PyArray_DATA has compiled it into
# every extension module; reading it there takes a quarter of the time of `array.ctypes.data`. The items of a
# list follow the header of objects with a length in the same way. Both are checked here rather than believed.
DATA_OFFSET = object.__basicsize__
LIST_ITEMS = tuple.__basicsize__


def _address_by_layout(array: np.ndarray) -> int:
    return ctypes.c_ssize_t.from_address(id(array) + DATA_OFFSET).value


def _address_by_name(array: np.ndarray) -> int:
    return array.ctypes.data


def _layout_known() -> bool:
    array = np.empty(3)
    items = [array, array[1:]]
    word = ctypes.c_ssize_t.from_address
    place = word(id(items) + LIST_ITEMS).value
    lists_known = place and [word(place).value, word(place + 8).value] == [*map(id, items)]
    return bool(lists_known) and all(_address_by_layout(item) == item.ctypes.data for item in items)


LAYOUT_KNOWN = sys.implementation.name == "cpython" and getattr(sys, "_is_gil_enabled", lambda: True)() \
    and _layout_known()
address_of = _address_by_layout if LAYOUT_KNOWN else _address_by_name
