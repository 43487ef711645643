"""Numbers drawn by loops in machine code, as PyTorch's CPU kernels draw them.

From one uniform an element: uniform, integers, permutations, bernoulli, exponential, geometric and cauchy. Normals by
Box and Muller: in blocks of 16, and one by one below 16. Every function fills a C-contiguous array in order, `out` if
one is given; an empty shape draws nothing.
"""
from __future__ import annotations

import functools
import math
import warnings

import numpy as np

from fanal.core.backends.cpu.memory import empty_aligned
from fanal.core.backends.cpu.random_ir import BLOCK
from fanal.core.base import dtype as dt
from fanal.core.base.shape import Shape
from fanal.core.random.mt19937 import Mt19937

FLOATS = ("float16", "bfloat16", "float32", "float64")
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


@functools.cache
def name_of(dtype: np.dtype) -> str:
    """Return the name of a dtype; NumPy makes it anew each time, in microseconds."""
    return dtype.name


def narrow(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Convert as C++ does: to a 16-bit float through float32, from a float to an integer by its low bits."""
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        if name_of(dtype) in ("float16", "bfloat16"):
            values = values.astype(np.float32, copy=False)
        elif dtype.kind in "iu" and values.dtype.kind == "f":
            values = values.astype(np.int64)
        return values.astype(dtype, copy=False)


def into(out: np.ndarray | None, values: np.ndarray) -> np.ndarray:
    """Return `values`, or `out` after they were written there."""
    if out is None:
        return values
    out[...] = values.reshape(out.shape)
    return out


def fill(
    gen: Mt19937,
    loop: str,
    shape: Shape,
    dtype: np.dtype,
    a: float = 0.0,
    b: float = 0.0,
    *,
    wide: type[np.floating] = np.float64,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Draw by a loop of `random_ir` in the order of memory, in `wide` if there is none for `dtype`.

    `out`, if given, is a C-contiguous array of that shape and dtype, which is filled and returned.
    """
    if name_of(dtype) in ("float32", "float64"):
        return gen.fill(loop, empty_aligned(shape, dtype) if out is None else out, a, b)
    return into(out, narrow(gen.fill(loop, np.empty(shape, wide), a, b), dtype))


def _unsupported(kernel: str, dtype: np.dtype) -> NotImplementedError:
    return NotImplementedError(f'"{kernel}" not implemented for \'{name_of(dtype)}\'')


# ---- uniform -------------------------------------------------------------------------------------


def uniform(
    gen: Mt19937,
    shape: Shape,
    dtype: np.dtype,
    lo: float = 0.0,
    hi: float = 1.0,
    *,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Draw from [lo, hi).

    dtypes: float16, bfloat16, float32, float64; complex ones draw both parts.
    Raises: RuntimeError if lo > hi or a bound or the width leaves the dtype; NotImplementedError for other
    dtypes.
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "c" or dtype == dt.complex32.np:
        part = dt.from_numpy(dtype).to_real().np
        return into(out, uniform(gen, (*shape, 2), part, lo, hi).view(dtype).reshape(shape))
    if name_of(dtype) not in _DIGITS:
        raise _unsupported("check_uniform_bounds", dtype)
    largest = _LARGEST[name_of(dtype)]
    for name, bound in (("from", lo), ("to", hi)):
        if not -largest <= bound <= largest:
            raise RuntimeError(f"{name} is out of bounds for {name_of(dtype)}")
    if not lo <= hi:
        raise RuntimeError(
            f"uniform_ expects to return a [from, to) range, but found from={lo:g} > to={hi:g}"
        )
    if not hi - lo <= largest:
        raise RuntimeError(
            f"uniform_ expects to-from <= std::numeric_limits<{name_of(dtype)}>::max(), but found to={hi:g} and "
            f"from={lo:g} which result in to-from to exceed the limit"
        )
    values = fill(gen, "uniform", shape, dtype, lo, hi, wide=np.float32, out=out)
    if dtype.itemsize < 4:  # rounding can reach the excluded bound; PyTorch then takes the other one
        values[values == np.asarray(hi, np.float32).astype(dtype)] = np.asarray(lo, np.float32).astype(dtype)
    return values


# ---- integers ------------------------------------------------------------------------------------


def _converted(bound: int, dtype: np.dtype) -> float:
    """Return `bound` as a floating `dtype` holds it; infinite if it cannot."""
    return float(narrow(np.array(bound, np.int64), dtype))


def _lowest(bound: int, dtype: np.dtype) -> int:
    """Return the first integer from `bound` on that a floating `dtype` does not round below `bound`."""
    near = _converted(bound + 1, dtype)
    if math.isfinite(near) and near < bound:
        return int(near) + (1 << (abs(bound + 1).bit_length() - _DIGITS[name_of(dtype)]))
    return bound


def _highest(bound: int, dtype: np.dtype) -> int:
    """Return the exclusive bound that keeps a floating `dtype` from rounding up to `bound`."""
    near = _converted(bound - 1, dtype)
    if bound <= near < 2**63:  # C++ converts a number that int64 cannot hold to -2**63
        return int(near) - (1 << (abs(bound - 1).bit_length() - _DIGITS[name_of(dtype)]))
    return bound


@functools.cache
def _limits(dtype: np.dtype) -> tuple[float, float]:
    """Return the bounds that integers drawn in a dtype may have."""
    if name_of(dtype) in _DIGITS:
        return -_LARGEST[name_of(dtype)], _LARGEST[name_of(dtype)]
    if dtype.kind == "b":
        return 0, 1
    if name_of(dtype) == "uint64":
        return 0, _INT64_MAX
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def _check_bounds(low: int, last: int, dtype: np.dtype) -> None:
    smallest, largest = _limits(dtype)
    for name, bound in (("from", low), ("to - 1", last)):
        if not smallest <= bound <= largest:
            raise RuntimeError(f"{name} is out of bounds for {name_of(dtype)}")
        digits = _DIGITS.get(name_of(dtype), 64)
        if abs(bound) > 1 << digits:
            warnings.warn(
                f"{name} is out of bounds [-(2^{digits}), 2^{digits}]. Due to precision limitations "
                f"{name_of(dtype)} can support discrete uniform distribution only within this range.",
                stacklevel=3,
            )


def _remainders(
    gen: Mt19937, shape: Shape, dtype: np.dtype, low: int, count: int, wide: bool, out: np.ndarray | None
) -> np.ndarray:
    """Draw integers in [low, low + count), from 64 random bits each if `wide`, else from 32."""
    values = np.empty(shape, np.int64) if out is None or dtype != _INT64 else out
    span = np.array([low & 2**64 - 1, count], np.uint64)
    gen.fill("integers64" if wide else "integers32", values, other=span)
    return values if values is out else into(out, narrow(values, dtype))


def randint(
    gen: Mt19937,
    shape: Shape,
    low: int,
    high: int | None,
    dtype: np.dtype = _INT64,
    *,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Draw integers in [low, high); up to the largest of the dtype if `high` is None.

    dtypes: bool, the integers, float16, bfloat16, float32, float64; `low` alone as -2**63 draws 64 full bits.
    Warns: UserWarning if a floating dtype cannot tell the integers of the range apart.
    Raises: RuntimeError for an empty range, a bound outside the dtype or other dtypes; NotImplementedError
    for 64 full bits in a dtype that has none.
    """
    dtype = np.dtype(dtype)
    low = int(low)
    floating = name_of(dtype) in _DIGITS
    if not (floating or dtype.kind == "b" or name_of(dtype) in _INTEGERS + _UNSIGNED):
        raise RuntimeError("check_random_bounds handles only integral, floating-point and boolean types")
    if high is None and low == _INT64_MIN:
        if math.prod(shape) == 0:
            return np.empty(shape, dtype)
        if name_of(dtype) in ("float16", "bool", *_UNSIGNED):
            raise _unsupported("random_full_64_bits_range_kernel_cpu", dtype)
        if name_of(dtype) not in ("int64", "float64", "float32", "bfloat16"):
            raise RuntimeError(
                "random_full_64_bits_range_kernel_cpu handles only int64, double, float and bfloat16"
            )
        return into(out, narrow(gen.random64(math.prod(shape)).view(np.int64), dtype).reshape(shape))
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
        low, last = _lowest(low, dtype), 1 << _DIGITS[name_of(dtype)]
        if not low < last:
            raise RuntimeError(
                "random_ expects 'from' casted to dtype to be less than or equal to 'to_inc' casted to "
                f"dtype, but got from={low} > to_inc={last}"
            )
    else:
        last = 1 if dtype.kind == "b" else int(np.iinfo(dtype).max)  # of uint64, out of the bounds of int64
    _check_bounds(low, last, dtype)
    count = last - low + 1
    return _remainders(gen, shape, dtype, low, count, count >= _RANGE_OF_64_BITS, out)


def random(gen: Mt19937, shape: Shape, dtype: np.dtype, *, out: np.ndarray | None = None) -> np.ndarray:
    """Draw integers from 0 to the largest of an integer dtype, or to 2**digits of a floating one.

    dtypes: bool, uint8, int8, int16, int32, int64, float16, bfloat16, float32, float64.
    """
    dtype = np.dtype(dtype)
    if math.prod(shape) == 0:
        return np.empty(shape, dtype)
    if name_of(dtype) in _DIGITS:
        count = (1 << _DIGITS[name_of(dtype)]) + 1
    elif dtype.kind == "b":
        count = 2
    elif name_of(dtype) in _INTEGERS:
        count = int(np.iinfo(dtype).max) + 1
    else:
        raise _unsupported("random_kernel_cpu", dtype)
    return _remainders(gen, shape, dtype, 0, count, dtype.itemsize == 8, out)


# ---- permutations --------------------------------------------------------------------------------


def randperm(gen: Mt19937, n: int, dtype: np.dtype = _INT64) -> np.ndarray:
    """Draw a permutation of range(n), shape (n,).

    dtypes: the signed integers, uint8, float16, bfloat16, float32, float64.
    Raises: RuntimeError if n is negative or leaves the dtype; NotImplementedError for other dtypes.
    """
    dtype = np.dtype(dtype)
    if n < 0:
        raise RuntimeError(f"Trying to create tensor with negative dimension {n}: [{n}]")
    if name_of(dtype) in _DIGITS:
        most = (1 << _DIGITS[name_of(dtype)]) + 1
        if n > most and name_of(dtype) != "bfloat16":  # PyTorch lets values of bfloat16 repeat
            raise RuntimeError(f"n cannot be greater than {most} for {name_of(dtype)} type.")
    elif name_of(dtype) not in _INTEGERS:
        raise _unsupported("randperm", dtype)
    elif n > 0 and n - 1 > int(np.iinfo(dtype).max):
        raise RuntimeError(f"value cannot be converted to type {name_of(dtype)} without overflow")
    if n >= _PERM_OF_64_BITS:
        return narrow(_inside_out(gen, n), dtype)
    return narrow(gen.fill("permutation", np.empty(n, np.int64)), dtype)


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
    gen: Mt19937,
    p: float | np.ndarray,
    shape: Shape | None = None,
    dtype: np.dtype | None = None,
    *,
    out: np.ndarray | None = None,
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
        if size and name_of(dtype) not in _DIGITS and name_of(dtype) not in _INTEGERS and dtype.kind != "b":
            raise _unsupported("bernoulli_scalar_cpu_", dtype)
        return fill(gen, "bernoulli", shape, dtype, p, out=out)
    dtype = np.dtype(p.dtype if dtype is None else dtype)
    if size == 0:
        return np.empty(shape, dtype)
    if name_of(dtype) not in _DIGITS and name_of(dtype) not in _INTEGERS and dtype.kind != "b":
        raise _unsupported("bernoulli_tensor_cpu_self_", dtype)
    if name_of(p.dtype) not in _DIGITS:
        raise _unsupported("bernoulli_tensor_cpu_p_", p.dtype)
    kind = np.float64 if p.dtype == np.float64 else np.float32
    p = np.ascontiguousarray(np.broadcast_to(p, shape), kind)
    if not (p.min() >= 0 and p.max() <= 1):
        raise RuntimeError("Expected p_in >= 0 && p_in <= 1 to be true, but got false.")
    plain = out if dtype == kind else None
    values = gen.fill("bernoulli_each", np.empty(shape, kind) if plain is None else plain, other=p)
    return values if values is plain else into(out, narrow(values, dtype))


def _check_float(dtype: np.dtype, distribution: str) -> None:
    if name_of(dtype) not in _DIGITS:
        raise RuntimeError(
            f"{distribution} distribution is a continuous probability distribution. "
            f"dtype must be a floating point but you specified {name_of(dtype)}"
        )


def exponential(
    gen: Mt19937, shape: Shape, dtype: np.dtype, lambd: float = 1.0, *, out: np.ndarray | None = None
) -> np.ndarray:
    """Draw from the exponential distribution of rate `lambd`. dtypes: the floats. Raises: RuntimeError."""
    dtype = np.dtype(dtype)
    if not lambd > 0:
        raise RuntimeError(f"exponential_ expects lambda > 0.0, but found lambda={lambd:g}")
    _check_float(dtype, "Exponential")
    return fill(gen, "exponential", shape, dtype, -1.0 / lambd, out=out)


def geometric(
    gen: Mt19937, shape: Shape, dtype: np.dtype, p: float, *, out: np.ndarray | None = None
) -> np.ndarray:
    """Draw the number of trials up to the first success, at least 1.

    dtypes: the signed integers, uint8, the floats.
    Raises: RuntimeError unless 0 < p < 1; NotImplementedError for other dtypes.
    """
    dtype = np.dtype(dtype)
    if not 0 < p < 1:
        raise RuntimeError(f"geometric_ expects p to be in (0, 1), but got p={p:g}")
    if math.prod(shape) == 0:
        return np.empty(shape, dtype)
    if name_of(dtype) not in _DIGITS and name_of(dtype) not in _INTEGERS:
        raise _unsupported("geometric_cpu", dtype)
    return fill(gen, "geometric", shape, dtype, math.log1p(-p), out=out)


def cauchy(
    gen: Mt19937,
    shape: Shape,
    dtype: np.dtype,
    median: float = 0.0,
    sigma: float = 1.0,
    *,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Draw from the Cauchy distribution. dtypes: the floats. Raises: RuntimeError."""
    dtype = np.dtype(dtype)
    if not sigma > 0:
        raise RuntimeError(f"cauchy_ expects sigma > 0.0, but found sigma={sigma:g}")
    _check_float(dtype, "Cauchy")
    return fill(gen, "cauchy", shape, dtype, median, sigma, out=out)


# ---- normals -----------------------------------------------------------------------------------


def _check_normal(dtype: np.dtype, kernel: str) -> None:
    if name_of(dtype) not in FLOATS:
        raise _unsupported(kernel, dtype)


def normal(
    gen: Mt19937,
    shape: Shape,
    dtype: np.dtype,
    mean: float = 0.0,
    std: float = 1.0,
    *,
    contiguous: bool = True,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Draw N(mean, std**2).

    dtypes: float16, bfloat16, float32, float64; complex ones split std**2 between the two parts.
    `contiguous=False` draws as `Tensor.normal_` does into a non-contiguous tensor: one by one at any size.
    Raises: RuntimeError for a negative std; NotImplementedError for other dtypes.
    Differs from torch: where torch has no AVX2 kernel, its float32 values differ in the last bit.
    """
    dtype = np.dtype(dtype)
    if not std >= 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std:g}")
    if dtype.kind == "c" or dtype == dt.complex32.np:
        part = dt.from_numpy(dtype).to_real().np
        pairs = normal(gen, (*shape, 2), part, mean, std / math.sqrt(2.0), contiguous=contiguous)
        return into(out, pairs.view(dtype).reshape(shape))
    size = math.prod(shape)
    if size:
        _check_normal(dtype, "normal_kernel_cpu")
    if size < BLOCK or not contiguous:
        return fill(gen, "normal_serial", shape, dtype, mean, std, out=out)
    if dtype.itemsize < 4 and size % BLOCK:
        # These draw uniforms for whole blocks only; float32 and float64 for every element.
        values = np.empty(shape, np.float32)
        flat = values.reshape(-1)
        for some in (flat[:size - size % BLOCK], flat[-BLOCK:]):
            gen.fill("normal", some, mean, std)
        return into(out, narrow(values, dtype))
    return fill(gen, "normal", shape, dtype, mean, std, wide=np.float32, out=out)


def _inplace(function: np.ufunc, values: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return function(values, other) in the dtype of `values`, computed in the promoted dtype."""
    wide = np.result_type(values.dtype, other.dtype) if other.ndim else values.dtype
    if wide.itemsize < 4:
        wide = np.dtype(np.float32)
    other = other.astype(values.dtype if not other.ndim else wide, copy=False).astype(wide, copy=False)
    result: np.ndarray = function(values.astype(wide, copy=False), other)
    return result.astype(values.dtype, copy=False)


def normal_of(gen: Mt19937, mean: np.ndarray | float, std: np.ndarray | float) -> np.ndarray:
    """Draw N(mean, std**2) elementwise, as `torch.normal` with a tensor argument does.

    Shapes: broadcast. dtype: that of `mean` if it is an array, else that of `std`.
    Raises: RuntimeError for a negative or complex std.
    """
    if not isinstance(std, np.ndarray):
        if not isinstance(mean, np.ndarray):
            raise TypeError("normal_of expects an array for mean or std; `normal` takes two numbers")
        return _inplace(np.add, normal(gen, mean.shape, mean.dtype, 0.0, std), mean)
    if std.dtype.kind == "c":
        raise RuntimeError("normal expects standard deviation to be non-complex")
    if std.size and not std.min() >= 0:
        raise RuntimeError("normal expects all elements of std >= 0.0")
    dtype = mean.dtype if isinstance(mean, np.ndarray) else std.dtype
    shape = np.broadcast_shapes(np.shape(mean), std.shape)
    scaled = _inplace(np.multiply, normal(gen, shape, dtype), std)
    return _inplace(np.add, scaled, np.asarray(mean))


def log_normal(
    gen: Mt19937,
    shape: Shape,
    dtype: np.dtype,
    mean: float = 1.0,
    std: float = 2.0,
    *,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Draw exp(N(mean, std**2)).

    dtypes: float16, bfloat16, float32, float64.
    Raises: RuntimeError unless std > 0; NotImplementedError for other dtypes.
    """
    dtype = np.dtype(dtype)
    if not std > 0:
        raise RuntimeError(f"log_normal_ expects std > 0.0, but found std={std:g}")
    if math.prod(shape):
        _check_normal(dtype, "log_normal_cpu")
    return fill(gen, "log_normal", shape, dtype, mean, std, out=out)
