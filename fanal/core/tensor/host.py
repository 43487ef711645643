"""What is made and found out at once, of tensors whose numbers are in memory already.

A batch made so is an input of the step and no part of it: the small copies of a loader are neither recorded nor
planned. Values that are still pending, that need gradients, or that belong to a subclass take the ordinary
operations instead, with the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fanal.core.tensor.tensor import Tensor, compute, is_ready, settled, wrap_array

__all__ = ["numbers", "pad_rows", "stack_rows", "take_rows"]


def stack_rows(tensors: Sequence[Any]) -> Tensor | None:
    """Stack tensors (...) to one (B, ...), or return None where the host cannot."""
    first = tensors[0]
    if not all(map(is_ready, tensors)):
        return None
    if any([t._dtype is not first._dtype or t._shape != first._shape for t in tensors]):
        return None  # types promote, and shapes raise, as in `stack`
    cut = _cut_out_of_one(tensors)
    return wrap_array(np.stack([compute(t) for t in tensors]) if cut is None else cut, first.dtype)


def _cut_out_of_one(tensors: Sequence[Any]) -> np.ndarray | None:
    """Stack contiguous tensors of one make that are cut out of the same memory, or return None where they are not."""
    first = tensors[0]
    storage, n = first._storage, math.prod(first._shape)
    if not n or any([t._storage is not storage or t._strides is not None for t in tensors]):
        return None
    root = settled(first)
    if storage.node.dtype is not first._dtype or not root.flags.c_contiguous:
        return None
    every = np.lib.stride_tricks.as_strided(root, (root.size - n + 1, n), (root.itemsize,) * 2, writeable=False)
    return every[[t._offset for t in tensors]].reshape(len(tensors), *first._shape)


def pad_rows(tensors: Sequence[Any], value: float, left: bool, batch_first: bool) -> Tensor | None:
    """Stack tensors (L, ...) to one (B, longest L, ...) or (longest L, B, ...), filled up with a value; or return None
    where the host cannot."""
    first = tensors[0]
    rest = first.shape[1:]
    if not all(is_ready(t) and t.dtype is first.dtype and t.ndim and t.shape[1:] == rest for t in tensors):
        return None
    if not (first.dtype.is_floating_point or value == 0):
        return None  # a value may have no place in a dtype, which `full` decides
    sizes = len(tensors), max(t.shape[0] for t in tensors)
    padded = np.full((*(sizes if batch_first else sizes[::-1]), *rest), value, first.dtype.np)
    for row, tensor in zip(padded if batch_first else padded.swapaxes(0, 1), tensors):
        n = tensor.shape[0]
        row[len(row) - n if left else 0:][:n] = compute(tensor)
    return wrap_array(padded, first.dtype)


def take_rows(tensor: Any, keys: list[int]) -> Tensor | None:
    """Gather rows of a tensor (N, ...) to one (B, ...), or return None where the host cannot."""
    if not is_ready(tensor):
        return None
    return wrap_array(compute(tensor)[np.array(keys)], tensor.dtype)


def numbers(tensor: Any) -> np.ndarray | None:
    """Return the numbers of a tensor, not to be written to, or None where they are not in memory."""
    return compute(tensor) if is_ready(tensor) else None
