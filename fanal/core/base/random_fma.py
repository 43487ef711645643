"""Fused multiply-add and libm functions on arrays, bit for bit as compiled C has them.

PyTorch's CPU kernels are compiled with FMA contraction, and call the C library one double at a time; numpy
has no fused multiply-add, and its own vector log, sin and cos differ from the C library in the last bit.
Source: Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", IEEE Trans. Comput. 57(4), 2008.
"""
from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

CHUNK = 8192  # elements whose temporaries stay in the second-level cache
_SPLIT = 134217729.0  # 2**27 + 1, Veltkamp's splitting constant for 53 bits


def _two_sum(a: np.ndarray, b: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Return the rounded sum of `a` and `b` and its exact error (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _round_to_odd(total: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Round `total + error` to odd in place: an inexact sum takes whichever float64 neighbour is odd.

    A later rounding to fewer bits is then the correct rounding of the exact sum.
    """
    bits = total.view(np.int64)
    even = np.flatnonzero((error != 0) & ((bits & 1) == 0))
    if even.size:
        bits[even] += np.where((error[even] > 0) == (total[even] > 0), 1, -1)
    return total


def fma32(a: np.ndarray, b: float, c: float) -> np.ndarray:
    """Return a * b + c rounded once. `a` is 1-d float32; `b` and `c` are float32 values."""
    out = np.empty(a.size, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        b, c = float(np.float32(b)), float(np.float32(c))
        exact = c == 0 or not math.isfinite(b) or not math.isfinite(c)
        for start in range(0, a.size, CHUNK):
            part = slice(start, start + CHUNK)
            product = a[part].astype(np.float64)
            product *= b  # exact: 24 + 24 bits
            if exact:
                product += c  # turns -0 into +0
            else:
                product = _round_to_odd(*_two_sum(product, c))
            out[part] = product
    return out


def fma64(a: np.ndarray, b: float, c: float) -> np.ndarray:
    """Return a * b + c rounded once. `a` is 1-d float64."""
    if c == 0 or b == 0 or not math.isfinite(b) or not math.isfinite(c):
        with np.errstate(over="ignore", invalid="ignore"):
            return a * b + c
    # A power of two keeps the products of the halves clear of overflow and underflow.
    scale = max(math.frexp(b)[1], math.frexp(c)[1])
    b, c = math.ldexp(b, -scale), math.ldexp(c, -scale)
    out = np.empty(a.size, np.float64)
    b_high = (_SPLIT * b) - (_SPLIT * b - b)
    b_low = b - b_high
    for start in range(0, a.size, CHUNK):
        x = a[start : start + CHUNK]
        product = x * b
        split = x * _SPLIT
        x_high = split - (split - x)
        x_low = x - x_high
        error = ((x_high * b_high - product) + x_high * b_low + x_low * b_high) + x_low * b_low
        low_sum, low_error = _two_sum(error, c)
        high_sum, high_error = _two_sum(product, low_sum)
        out[start : start + CHUNK] = high_sum + _round_to_odd(*_two_sum(high_error, low_error))
    with np.errstate(over="ignore"):
        return np.ldexp(out, scale, out=out)


def narrow(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Convert as C++ does: to a 16-bit float through float32, from a float to an integer by its low bits."""
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype.name in ("float16", "bfloat16"):
            values = values.astype(np.float32, copy=False)
        elif dtype.kind in "iu" and values.dtype.kind == "f":
            values = values.astype(np.int64)
        return values.astype(dtype, copy=False)


def each(function: Callable[[float], float], values: np.ndarray) -> np.ndarray:
    """Return the C library's `function` of every element, float64 in the shape of `values`."""
    flat = np.fromiter(map(function, values.ravel().tolist()), np.float64, values.size)
    return flat.reshape(values.shape)


def log(x: float) -> float:
    """Return the C library's log of a number that is at least 0."""
    return math.log(x) if x > 0 else -math.inf


def exp(x: float) -> float:
    """Return the C library's exp, infinite where it overflows."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf
