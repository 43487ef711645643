"""Numbers drawn one element after the other from one uniform each, as PyTorch's CPU kernels draw them.

uniform, integers, permutations, bernoulli, exponential, geometric and cauchy. Every function fills a
C-contiguous array in order; an empty shape draws nothing.
"""
from __future__ import annotations

import math
import warnings

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.mt19937 import Mt19937
from fanal.core.base.random_fma import each, fma32, fma64, log, narrow

_INT64 = np.dtype(np.int64)
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_DIGITS = {"bfloat16": 8, "float16": 11, "float32": 24, "float64": 53}  # of the significand
_LARGEST = {"bfloat16": 3.3895313892515355e38, "float16": 65504.0, "float32": 3.4028234663852886e38}
_LARGEST["float64"] = 1.7976931348623157e308
_INTEGERS = ("uint8", "int8", "int16", "int32", "int64")
_UNSIGNED = ("uint16", "uint32", "uint64")
# From this range on an integer takes 64 random bits, which keeps the skew of the remainder small.
_RANGE_OF_64_BITS = 2**28
# From this length on randperm takes 64 random bits a swap.
_PERM_OF_64_BITS = (2**32 - 1) // 20
_PERM_STEP = 1 << 20  # swaps whose draws are held at a time


def _unsupported(kernel: str, dtype: np.dtype) -> NotImplementedError:
    return NotImplementedError(f'"{kernel}" not implemented for \'{dtype.name}\'')


# ---- uniform -------------------------------------------------------------------------------------


def uniform(
    gen: Mt19937, shape: tuple[int, ...], dtype: np.dtype, lo: float = 0.0, hi: float = 1.0
) -> np.ndarray:
    """Draw from [lo, hi).

    dtypes: float16, bfloat16, float32, float64; complex ones draw both parts.
    Raises: RuntimeError if lo > hi or a bound or the width leaves the dtype; NotImplementedError for other
    dtypes.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape)
    if dtype.kind == "c" or dtype == dt.complex32.np:
        part = dt.from_numpy(dtype).to_real().np
        return uniform(gen, (*shape, 2), part, lo, hi).view(dtype).reshape(shape)
    if dtype.name not in _DIGITS:
        raise _unsupported("check_uniform_bounds", dtype)
    largest = _LARGEST[dtype.name]
    for name, bound in (("from", lo), ("to", hi)):
        if not -largest <= bound <= largest:
            raise RuntimeError(f"{name} is out of bounds for {dtype.name}")
    if not lo <= hi:
        raise RuntimeError(
            f"uniform_ expects to return a [from, to) range, but found from={lo:g} > to={hi:g}"
        )
    if not hi - lo <= largest:
        raise RuntimeError(
            f"uniform_ expects to-from <= std::numeric_limits<{dtype.name}>::max(), but found to={hi:g} and "
            f"from={lo:g} which result in to-from to exceed the limit"
        )
    if size == 0:
        return np.empty(shape, dtype)
    wide = np.float64 if dtype == np.float64 else np.float32
    low, high = wide(lo), wide(hi)
    out = gen.unit64(size) if wide is np.float64 else gen.unit32(size)
    scaled = low != 0 or high != 1
    if scaled:
        fma = fma64 if wide is np.float64 else fma32
        out = fma(out, float(high - low), float(low))
    out = narrow(out, dtype)
    if scaled or dtype.itemsize < 4:
        # Rounding can reach the excluded bound; PyTorch then takes the other one.
        out[out == high.astype(dtype)] = low.astype(dtype)
    return out.reshape(shape)


# ---- integers ------------------------------------------------------------------------------------


def _converted(bound: int, dtype: np.dtype) -> float:
    """Return `bound` as a floating `dtype` holds it; infinite if it cannot."""
    return float(narrow(np.array(bound, np.int64), dtype))


def _lowest(bound: int, dtype: np.dtype) -> int:
    """Return the first integer from `bound` on that a floating `dtype` does not round below `bound`."""
    near = _converted(bound + 1, dtype)
    if math.isfinite(near) and near < bound:
        return int(near) + (1 << (abs(bound + 1).bit_length() - _DIGITS[dtype.name]))
    return bound


def _highest(bound: int, dtype: np.dtype) -> int:
    """Return the exclusive bound that keeps a floating `dtype` from rounding up to `bound`."""
    near = _converted(bound - 1, dtype)
    if bound <= near < 2**63:  # C++ converts a number that int64 cannot hold to -2**63
        return int(near) - (1 << (abs(bound - 1).bit_length() - _DIGITS[dtype.name]))
    return bound


def _check_bounds(low: int, last: int, dtype: np.dtype) -> None:
    if dtype.name in _DIGITS:
        smallest, largest = -_LARGEST[dtype.name], _LARGEST[dtype.name]
    elif dtype.kind == "b":
        smallest, largest = 0, 1
    elif dtype.name == "uint64":
        smallest, largest = 0, _INT64_MAX
    else:
        smallest, largest = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    for name, bound in (("from", low), ("to - 1", last)):
        if not smallest <= bound <= largest:
            raise RuntimeError(f"{name} is out of bounds for {dtype.name}")
        digits = _DIGITS.get(dtype.name, 64)
        if abs(bound) > 1 << digits:
            warnings.warn(
                f"{name} is out of bounds [-(2^{digits}), 2^{digits}]. Due to precision limitations "
                f"{dtype.name} can support discrete uniform distribution only within this range.",
                stacklevel=3,
            )


def _remainder(words: np.ndarray, divisor: int) -> np.ndarray:
    """Return words % divisor; numpy vectorises the division by a scalar, not the remainder."""
    by = words.dtype.type(divisor)
    if divisor & (divisor - 1) == 0:
        rest: np.ndarray = words & (by - 1)
    else:
        rest = words - words // by * by
    return rest


def _from_range(gen: Mt19937, shape: tuple[int, ...], dtype: np.dtype, low: int, count: int) -> np.ndarray:
    """Draw integers in [low, low + count)."""
    size = math.prod(shape)
    draw = gen.random64 if count >= _RANGE_OF_64_BITS else gen.random32
    values = _remainder(draw(size), count).astype(np.uint64, copy=False).view(np.int64)
    if low:
        values = values + np.int64(low)
    return narrow(values, dtype).reshape(shape)


def randint(
    gen: Mt19937, shape: tuple[int, ...], low: int, high: int | None, dtype: np.dtype = _INT64
) -> np.ndarray:
    """Draw integers in [low, high); up to the largest of the dtype if `high` is None.

    dtypes: bool, the integers, float16, bfloat16, float32, float64; `low` alone as -2**63 draws 64 full bits.
    Warns: UserWarning if a floating dtype cannot tell the integers of the range apart.
    Raises: RuntimeError for an empty range, a bound outside the dtype or other dtypes; NotImplementedError
    for 64 full bits in a dtype that has none.
    """
    dtype = np.dtype(dtype)
    low = int(low)
    floating = dtype.name in _DIGITS
    if not (floating or dtype.kind == "b" or dtype.name in _INTEGERS + _UNSIGNED):
        raise RuntimeError("check_random_bounds handles only integral, floating-point and boolean types")
    if high is None and low == _INT64_MIN:
        if math.prod(shape) == 0:
            return np.empty(shape, dtype)
        if dtype.name in ("float16", "bool", *_UNSIGNED):
            raise _unsupported("random_full_64_bits_range_kernel_cpu", dtype)
        if dtype.name not in ("int64", "float64", "float32", "bfloat16"):
            raise RuntimeError(
                "random_full_64_bits_range_kernel_cpu handles only int64, double, float and bfloat16"
            )
        return narrow(gen.random64(math.prod(shape)).view(np.int64), dtype).reshape(shape)
    if high is not None:
        high = int(high)
        if not low < high:
            raise RuntimeError(
                f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}"
            )
        if floating:
            low, high = _lowest(low, dtype), _highest(high, dtype)
            if not low < high:
                raise RuntimeError(
                    "random_ expects 'from' casted to dtype to be less than 'to' casted to dtype, "
                    f"but got from={low} >= to={high}"
                )
        last = high - 1
    elif floating:
        low, last = _lowest(low, dtype), 1 << _DIGITS[dtype.name]
        if not low < last:
            raise RuntimeError(
                "random_ expects 'from' casted to dtype to be less than or equal to 'to_inc' casted to "
                f"dtype, but got from={low} > to_inc={last}"
            )
    else:
        last = 1 if dtype.kind == "b" else int(np.iinfo(dtype).max)  # of uint64, out of the bounds of int64
    _check_bounds(low, last, dtype)
    if math.prod(shape) == 0:
        return np.empty(shape, dtype)
    return _from_range(gen, shape, dtype, low, last - low + 1)


def random(gen: Mt19937, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Draw integers from 0 to the largest of an integer dtype, or to 2**digits of a floating one.

    dtypes: bool, uint8, int8, int16, int32, int64, float16, bfloat16, float32, float64.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape)
    if size == 0:
        return np.empty(shape, dtype)
    if dtype.name in _DIGITS:
        count = (1 << _DIGITS[dtype.name]) + 1
    elif dtype.kind == "b":
        count = 2
    elif dtype.name in _INTEGERS:
        count = int(np.iinfo(dtype).max) + 1
    else:
        raise _unsupported("random_kernel_cpu", dtype)
    draw = gen.random64 if dtype.itemsize == 8 else gen.random32
    values = _remainder(draw(size), count)
    return narrow(values, dtype).reshape(shape)


# ---- permutations --------------------------------------------------------------------------------


def randperm(gen: Mt19937, n: int, dtype: np.dtype = _INT64) -> np.ndarray:
    """Draw a permutation of range(n), shape (n,).

    dtypes: the signed integers, uint8, float16, bfloat16, float32, float64.
    Raises: RuntimeError if n is negative or leaves the dtype; NotImplementedError for other dtypes.
    """
    dtype = np.dtype(dtype)
    if n < 0:
        raise RuntimeError(f"Trying to create tensor with negative dimension {n}: [{n}]")
    if dtype.name in _DIGITS:
        most = (1 << _DIGITS[dtype.name]) + 1
        if n > most and dtype.name != "bfloat16":  # PyTorch lets values of bfloat16 repeat
            raise RuntimeError(f"n cannot be greater than {most} for {dtype.name} type.")
    elif dtype.name not in _INTEGERS:
        raise _unsupported("randperm", dtype)
    elif n > 0 and n - 1 > int(np.iinfo(dtype).max):
        raise RuntimeError(f"value cannot be converted to type {dtype.name} without overflow")
    order = _inside_out(gen, n) if n >= _PERM_OF_64_BITS else _fisher_yates(gen, n)
    return narrow(order, dtype)


def _fisher_yates(gen: Mt19937, n: int) -> np.ndarray:
    """Permute range(n): position i takes any of the n - i values from i on."""
    # A list is faster as long as it stays in the cache.
    order = list(range(n)) if n < 1 << 17 else np.arange(n, dtype=np.int64).data
    for start in range(0, n - 1, _PERM_STEP):
        place = np.arange(start, min(start + _PERM_STEP, n - 1), dtype=np.uint32)
        picks = gen.random32(place.size) % (np.uint32(n) - place)
        picks += place
        for i, pick in enumerate(picks.tolist(), start):
            value = order[pick]
            order[pick] = order[i]
            order[i] = value
    return np.array(order, np.int64)


def _inside_out(gen: Mt19937, n: int) -> np.ndarray:
    """Permute a range too long for remainders of 32 bits: position i takes any of the first i + 1."""
    order = np.empty(n, np.int64)
    slots = order.data
    for start in range(0, n, _PERM_STEP):
        stop = min(start + _PERM_STEP, n)
        picks = gen.random64(stop - start) % np.arange(start + 1, stop + 1, dtype=np.uint64)
        for i, pick in enumerate(picks.tolist(), start):
            slots[i] = i
            slots[i] = slots[pick]
            slots[pick] = i
    return order


# ---- distributions of one uniform ----------------------------------------------------------------


def bernoulli(
    gen: Mt19937, p: float | np.ndarray, shape: tuple[int, ...] | None = None, dtype: np.dtype | None = None
) -> np.ndarray:
    """Draw 1 with probability `p`, else 0.

    Shapes: `p`, an array or a number, broadcasts to `shape` (by default the shape of `p`).
    dtypes: bool, the signed integers, uint8, the floats; by default that of `p`, an array of floats.
    Raises: RuntimeError if `p` leaves [0, 1]; NotImplementedError for other dtypes.
    """
    shape = np.shape(p) if shape is None else shape
    size = math.prod(shape)
    if not isinstance(p, np.ndarray):
        dtype = np.dtype(np.float32 if dtype is None else dtype)
        if not 0 <= p <= 1:
            raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={p:g}")
        if size and dtype.name not in _DIGITS and dtype.name not in _INTEGERS and dtype.kind != "b":
            raise _unsupported("bernoulli_scalar_cpu_", dtype)
        return narrow(gen.unit64(size) < p, dtype).reshape(shape)
    dtype = np.dtype(p.dtype if dtype is None else dtype)
    if size == 0:
        return np.empty(shape, dtype)
    if dtype.name not in _DIGITS and dtype.name not in _INTEGERS and dtype.kind != "b":
        raise _unsupported("bernoulli_tensor_cpu_self_", dtype)
    if p.dtype.name not in _DIGITS:
        raise _unsupported("bernoulli_tensor_cpu_p_", p.dtype)
    wide = p.dtype == np.float64
    p = p if wide else p.astype(np.float32, copy=False)
    if not (p.min() >= 0 and p.max() <= 1):
        raise RuntimeError("Expected p_in >= 0 && p_in <= 1 to be true, but got false.")
    unit = gen.unit64(size) if wide else gen.unit32(size)
    return narrow(unit.reshape(shape) < np.broadcast_to(p, shape), dtype)


def _check_float(dtype: np.dtype, distribution: str) -> None:
    if dtype.name not in _DIGITS:
        raise RuntimeError(
            f"{distribution} distribution is a continuous probability distribution. "
            f"dtype must be a floating point but you specified {dtype.name}"
        )


def exponential(gen: Mt19937, shape: tuple[int, ...], dtype: np.dtype, lambd: float = 1.0) -> np.ndarray:
    """Draw from the exponential distribution of rate `lambd`. dtypes: the floats. Raises: RuntimeError."""
    dtype = np.dtype(dtype)
    if not lambd > 0:
        raise RuntimeError(f"exponential_ expects lambda > 0.0, but found lambda={lambd:g}")
    _check_float(dtype, "Exponential")
    u = gen.unit64(math.prod(shape))
    return narrow(-1.0 / lambd * each(math.log1p, -u), dtype).reshape(shape)


def geometric(gen: Mt19937, shape: tuple[int, ...], dtype: np.dtype, p: float) -> np.ndarray:
    """Draw the number of trials up to the first success, at least 1.

    dtypes: the signed integers, uint8, the floats.
    Raises: RuntimeError unless 0 < p < 1; NotImplementedError for other dtypes.
    """
    dtype = np.dtype(dtype)
    if not 0 < p < 1:
        raise RuntimeError(f"geometric_ expects p to be in (0, 1), but got p={p:g}")
    if math.prod(shape) == 0:
        return np.empty(shape, dtype)
    if dtype.name not in _DIGITS and dtype.name not in _INTEGERS:
        raise _unsupported("geometric_cpu", dtype)
    u = gen.unit64(math.prod(shape))
    return narrow(np.ceil(each(log, u) / math.log1p(-p)), dtype).reshape(shape)


def cauchy(
    gen: Mt19937, shape: tuple[int, ...], dtype: np.dtype, median: float = 0.0, sigma: float = 1.0
) -> np.ndarray:
    """Draw from the Cauchy distribution. dtypes: the floats. Raises: RuntimeError."""
    dtype = np.dtype(dtype)
    if not sigma > 0:
        raise RuntimeError(f"cauchy_ expects sigma > 0.0, but found sigma={sigma:g}")
    _check_float(dtype, "Cauchy")
    tangent = each(math.tan, math.pi * (gen.unit64(math.prod(shape)) - 0.5))
    return narrow(fma64(tangent, float(sigma), float(median)), dtype).reshape(shape)
