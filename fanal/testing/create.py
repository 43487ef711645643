"""make_tensor: random tensors for tests."""

from __future__ import annotations

import math
import warnings
from typing import Any

import fanal


def _limits(
    dtype: Any, low: float | None, high: float | None, smallest: float, end: float, default: tuple[float, float]
) -> tuple[float, float]:
    """Return the interval [low, high) inside that of the dtype, in whole numbers for integers."""
    low, high = default[0] if low is None else low, default[1] if high is None else high
    if math.isnan(low) or math.isnan(high):
        raise ValueError(f"`low` and `high` cannot be NaN, but got {low=} and {high=}")
    if low == high and (dtype.is_floating_point or dtype.is_complex):
        warnings.warn(
            "Passing `low==high` to `torch.testing.make_tensor` for floating or complex types is deprecated since "
            "2.1 and will be removed in 2.3. Use `torch.full(...)` instead.",
            FutureWarning,
            stacklevel=3,
        )
    elif low >= high:
        raise ValueError(f"`low` must be less than `high`, but got {low} >= {high}")
    elif high < smallest or low >= end:
        raise ValueError(
            f"The value interval specified by `low` and `high` is [{low}, {high}), but {dtype} only supports "
            f"[{smallest}, {end})"
        )
    low, high = min(max(low, smallest), end), min(max(high, smallest), end)
    if dtype.is_floating_point or dtype.is_complex:
        return low, high
    return math.ceil(low), math.ceil(high)


def _uniform(shape: tuple[int, ...], dtype: Any, device: Any, low: float, high: float) -> Any:
    t = fanal.empty(shape, dtype=dtype, device=device)
    if high - low >= fanal.finfo(dtype).max:
        return t.uniform_(low / 2, high / 2).mul_(2)
    return t.uniform_(low, high)


def make_tensor(
    *shape: Any,
    dtype: Any,
    device: Any,
    low: float | None = None,
    high: float | None = None,
    requires_grad: bool = False,
    noncontiguous: bool = False,
    exclude_zero: bool = False,
    memory_format: Any = None,
) -> Any:
    """Return random numbers of [low, high): by default from -9 to 9, as far as the dtype has them.

    noncontiguous: every other element of a larger tensor. exclude_zero: 0 becomes the smallest number above it.
    Raises: ValueError for limits and options that do not go together.
    """
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = tuple(shape[0])
    if noncontiguous and memory_format is not None:
        raise ValueError(
            "The parameters `noncontiguous` and `memory_format` are mutually exclusive, "
            f"but got {noncontiguous=} and {memory_format=}"
        )
    whole = not (dtype.is_floating_point or dtype.is_complex)
    if requires_grad and whole:
        raise ValueError(
            f"`requires_grad=True` is not supported for boolean and integral dtypes, but got {dtype=}"
        )
    noncontiguous = noncontiguous and math.prod(shape) > 1
    if noncontiguous:
        shape = (*shape[:-1], 2 * shape[-1])
    if whole:
        if dtype is fanal.bool:
            low, high = _limits(dtype, low, high, 0, 2, (0, 2))
        else:
            info = fanal.iinfo(dtype)
            # the largest int64 cannot be an exclusive bound of randint
            end = info.max + (dtype is not fanal.int64)
            low, high = _limits(dtype, low, high, info.min, end, (-9, 10))
        t = fanal.randint(int(low), int(high), shape, device=device, dtype=dtype)
    else:
        info = fanal.finfo(dtype)
        low, high = _limits(dtype, low, high, info.min, info.max, (-9, 9))
        if dtype.is_complex:
            t = fanal.view_as_complex(_uniform((*shape, 2), dtype.to_real(), device, low, high))
        elif dtype.itemsize == 1:
            t = _uniform(shape, fanal.float32, device, low, high).to(dtype)
        else:
            t = _uniform(shape, dtype, device, low, high)
    if noncontiguous:
        t = t[..., 1::2]
    elif memory_format is not None:
        t = t.clone(memory_format=memory_format)
    if exclude_zero:
        t.masked_fill_(t == 0, 1 if whole else fanal.finfo(dtype).tiny)
    return t.requires_grad_() if requires_grad else t
