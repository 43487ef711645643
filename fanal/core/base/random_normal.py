"""Normal numbers as PyTorch's CPU kernels draw them: Box-Muller over blocks of 16, and one by one below 16.

Sources: Box and Muller, Ann. Math. Statist. 29(2), 1958; the single precision polynomials of log, sin and cos
are those of the Cephes library (Moshier), in the order, and fused as, PyTorch's AVX2 kernel is compiled to.
"""
from __future__ import annotations

import math

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.mt19937 import Mt19937
from fanal.core.base.random_fma import CHUNK, each, exp, fma32, fma64, narrow

BLOCK = 16  # eight uniforms for the radius, then eight for the angle

_F = np.float32
_SQRT_HALF = _F(0.707106781186547524)
_LOG_P = tuple(
    float(_F(p))
    for p in (
        7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
        -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
    )
)  # fmt: skip
_LOG_Q1, _LOG_Q2 = _F(-2.12194440e-4), _F(0.693359375)  # log(2) in two parts, the second exact in 9 bits
_TWO_PI, _FOUR_OVER_PI = _F(2 * math.pi), _F(1.27323954473516)
# pi/4 in three parts; multiples of the first two up to 8 are exact.
_PI_4 = (_F(-0.78515625), _F(-2.4187564849853515625e-4), float(_F(-3.77489497744594108e-8)))
_SIN = tuple(float(_F(p)) for p in (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1))
_COS = tuple(float(_F(p)) for p in (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2))


class _Horner:
    """Evaluate polynomials in float32 steps, each a fused multiply-add.

    A step runs in float64, where the product of two float32 numbers is exact, and rounds to float32. Rounding
    twice equals rounding once for every one of the 2**24 uniforms that can come here.
    """

    def __init__(self, size: int) -> None:
        self.wide, self.point, self.single = np.empty(size), np.empty(size), np.empty(size, np.float32)

    def __call__(self, point: np.ndarray, coefficients: tuple[float, ...]) -> np.ndarray:
        wide, single = self.wide[: point.size], self.single[: point.size]
        x = self.point[: point.size]
        x[...] = point
        np.multiply(x, coefficients[0], out=wide)
        for coefficient in coefficients[1:-1]:
            wide += coefficient
            single[...] = wide
            np.multiply(single, x, out=wide, dtype=np.float64)
        wide += coefficients[-1]
        single[...] = wide
        return single

    def fma(self, a: np.ndarray, b: np.ndarray | float, c: np.ndarray) -> np.ndarray:
        wide, single = self.wide[: a.size], np.empty(a.size, np.float32)
        np.multiply(a, b, out=wide, dtype=np.float64)
        wide += c
        single[...] = wide
        return single


def _radius(u: np.ndarray, horner: _Horner) -> np.ndarray:
    """Return sqrt(-2 log(1 - u)), float32."""
    u = _F(1) - u
    bits = u.view(np.int32)
    exponent = ((bits >> 23) - 126).astype(np.float32)
    x = ((bits & np.int32(0x7FFFFF)) | np.int32(0x3F000000)).view(np.float32)  # the fraction in [0.5, 1)
    low = x < _SQRT_HALF
    doubled = x * low
    x = x - _F(1)
    x += doubled
    exponent -= low
    z = x * x
    y = horner(x, _LOG_P)
    y = horner.fma(x * y, z, exponent * _LOG_Q1)
    y -= z * _F(0.5)
    x += y
    x += exponent * _LOG_Q2
    x *= _F(-2)
    return np.sqrt(x, out=x)


def _cos_sin(u: np.ndarray, horner: _Horner) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosine and the sine of 2 pi u, float32."""
    theta = u * _TWO_PI
    octant = (theta * _FOUR_OVER_PI).astype(np.int32)
    octant += 1
    octant &= ~1
    j = octant.astype(np.float32)
    theta += j * _PI_4[0]
    theta += j * _PI_4[1]
    x = horner.fma(j, _PI_4[2], theta)
    z = x * x
    half = z * _F(0.5)
    y = horner(z, _COS) * z
    cosine = horner.fma(z, y, -half)
    cosine += _F(1)
    y = horner(z, _SIN) * z
    sine = horner.fma(x, y, x)
    swap = (octant & 2) != 0
    out_cos, out_sin = np.where(swap, sine, cosine), np.where(swap, cosine, sine)
    # The sign is the bit of the octant that says which half turn: shift it to the sign of the float.
    out_sin.view(np.int32)[...] ^= (octant & 4) << 29
    out_cos.view(np.int32)[...] ^= (~(octant - 2) & 4) << 29
    return out_cos, out_sin


def _box_muller32(u: np.ndarray, mean: float, std: float) -> np.ndarray:
    """Turn uniforms, float32 of shape (blocks, 16), into normals."""
    out = np.empty(u.shape, np.float32)
    rows = CHUNK // 8
    horner = _Horner(min(u.shape[0], rows) * 8)
    for start in range(0, u.shape[0], rows):
        block = u[start : start + rows]
        radius = _radius(block[:, :8].ravel(), horner)
        cosine, sine = _cos_sin(block[:, 8:].ravel(), horner)
        cosine *= radius
        sine *= radius
        out[start : start + rows, :8] = fma32(cosine, std, mean).reshape(-1, 8)
        out[start : start + rows, 8:] = fma32(sine, std, mean).reshape(-1, 8)
    return out


def _box_muller64(u: np.ndarray, mean: float, std: float) -> np.ndarray:
    """Turn uniforms, float64 of shape (blocks, 16), into normals."""
    radius = np.sqrt(-2.0 * each(math.log, 1.0 - u[:, :8]))
    theta = 2 * math.pi * u[:, 8:]
    out = np.empty(u.shape, np.float64)
    out[:, :8] = fma64((radius * each(math.cos, theta)).ravel(), std, mean).reshape(-1, 8)
    out[:, 8:] = fma64((radius * each(math.sin, theta)).ravel(), std, mean).reshape(-1, 8)
    return out


def _fill(gen: Mt19937, size: int, dtype: np.dtype, mean: float, std: float) -> np.ndarray:
    """Return `size` >= 16 normals. A size that is no multiple of 16 draws its last 16 values again."""
    blocks, rest = divmod(size, BLOCK)
    wide = dtype == np.float64
    unit, transform = (gen.unit64, _box_muller64) if wide else (gen.unit32, _box_muller32)
    # float32 and float64 draw a uniform for every element first; narrower types only for whole blocks.
    head = unit(size)[: blocks * BLOCK] if dtype.itemsize >= 4 else unit(blocks * BLOCK)
    u = np.concatenate((head, unit(BLOCK))) if rest else head
    values = transform(u.reshape(-1, BLOCK), mean, std).ravel()
    if not rest:
        return narrow(values, dtype)
    values = narrow(values, dtype)
    out = np.empty(size, dtype)
    out[: blocks * BLOCK] = values[:-BLOCK]
    out[-BLOCK:] = values[-BLOCK:]
    return out


def normal_serial(gen: Mt19937, size: int, mean: float, std: float) -> np.ndarray:
    """Return `size` float64 normals drawn one by one; a second half left over waits for the next call."""
    out = np.empty(size)
    done = 0
    if size and gen.cached_double is not None:
        out[0], gen.cached_double, done = gen.cached_double, None, 1
    pairs = (size - done + 1) // 2
    u = gen.unit64(2 * pairs).reshape(pairs, 2)
    radius = np.sqrt(-2.0 * each(math.log1p, -u[:, 1]))
    theta = 2 * math.pi * u[:, 0]
    both = np.stack((radius * each(math.cos, theta), radius * each(math.sin, theta)), 1).ravel()
    out[done:] = both[: size - done]
    if both.size > size - done:
        gen.cached_double = float(both[-1])
    return fma64(out, std, mean)


def _check_float(dtype: np.dtype, kernel: str) -> None:
    if dtype.name not in ("float16", "bfloat16", "float32", "float64"):
        raise NotImplementedError(f'"{kernel}" not implemented for \'{dtype.name}\'')


def normal(
    gen: Mt19937,
    shape: tuple[int, ...],
    dtype: np.dtype,
    mean: float = 0.0,
    std: float = 1.0,
    *,
    contiguous: bool = True,
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
        return pairs.view(dtype).reshape(shape)
    size = math.prod(shape)
    if size == 0:
        return np.empty(shape, dtype)
    _check_float(dtype, "normal_kernel_cpu")
    if size >= BLOCK and contiguous:
        return _fill(gen, size, dtype, float(mean), float(std)).reshape(shape)
    return narrow(normal_serial(gen, size, float(mean), float(std)), dtype).reshape(shape)


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
    gen: Mt19937, shape: tuple[int, ...], dtype: np.dtype, mean: float = 1.0, std: float = 2.0
) -> np.ndarray:
    """Draw exp(N(mean, std**2)).

    dtypes: float16, bfloat16, float32, float64.
    Raises: RuntimeError unless std > 0; NotImplementedError for other dtypes.
    """
    dtype = np.dtype(dtype)
    if not std > 0:
        raise RuntimeError(f"log_normal_ expects std > 0.0, but found std={std:g}")
    size = math.prod(shape)
    if size == 0:
        return np.empty(shape, dtype)
    _check_float(dtype, "log_normal_cpu")
    return narrow(each(exp, normal_serial(gen, size, float(mean), float(std))), dtype).reshape(shape)
