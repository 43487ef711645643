"""Samplers of more than one uniform an element, in PyTorch's order: multinomial, poisson, binomial, gamma.

They follow the CPU kernels that PyTorch compiles without fused operations, one element after the other.
"""
from __future__ import annotations

import math
from typing import Self

import numpy as np

from fanal.core.random.draws import FLOATS, exponential, narrow
from fanal.core.random.mt19937 import Mt19937

_MAX_CATEGORIES = 2**24
_LARGEST_BATCH = 1 << 16


def _log(x: float) -> float:
    """Return the C library's log of a number that is at least 0."""
    return math.log(x) if x > 0 else -math.inf


class _Uniforms:
    """Hand out 53-bit uniforms one by one; on leaving, the generator stands behind the last of them."""

    def __init__(self, gen: Mt19937) -> None:
        self.gen = gen
        self.size = 32

    def __enter__(self) -> Self:
        self.refill()
        return self

    def refill(self) -> None:
        """Draw the next batch, twice the last."""
        self.before = self.gen.get_state()
        self.size = min(2 * self.size, _LARGEST_BATCH)
        self.batch: list[float] = self.gen.unit64(self.size).tolist()
        self.used = 0

    def __call__(self) -> float:
        if self.used == self.size:
            self.refill()
        self.used += 1
        return self.batch[self.used - 1]

    def normal(self) -> float:
        """Return a standard normal; its pair waits in the generator, as with every single normal."""
        gen = self.gen
        if gen.cached_double is not None:
            value, gen.cached_double = gen.cached_double, None
            return value
        theta = 2 * math.pi * self()
        radius = math.sqrt(-2.0 * math.log1p(-self()))
        gen.cached_double = radius * math.sin(theta)
        return radius * math.cos(theta)

    def __exit__(self, *error: object) -> None:
        cached = self.gen.cached_double, self.gen.cached_float
        self.gen.set_state(self.before)
        self.gen.random64(self.used)
        self.gen.cached_double, self.gen.cached_float = cached


# ---- multinomial ---------------------------------------------------------------------------------


def multinomial(gen: Mt19937, probs: np.ndarray, num_samples: int, replacement: bool = False) -> np.ndarray:
    """Draw category indices by weight, int64 of shape (num_samples,) or (rows, num_samples).

    Shapes: `probs` (categories,) or (rows, categories), not necessarily summing to 1. dtypes: the floats.
    Raises: RuntimeError for weights that are negative, not finite or all zero, and for impossible sizes.
    Differs from torch: without replacement, weights that tie (zeros, say) come in the order of their index.
    """
    if probs.ndim not in (1, 2):
        raise RuntimeError("prob_dist must be 1 or 2 dim")
    if probs.dtype.name not in FLOATS:
        raise RuntimeError(
            f"multinomial only supports floating-point dtypes for input, got: {probs.dtype.name}"
        )
    if num_samples <= 0:
        raise RuntimeError("cannot sample n_sample <= 0 samples")
    categories = probs.shape[-1]
    if not replacement and num_samples > categories:
        raise RuntimeError("cannot sample n_sample > prob_dist.size(-1) samples without replacement")
    if categories > _MAX_CATEGORIES:
        raise RuntimeError("number of categories cannot exceed 2^24")
    shape = (*probs.shape[:-1], num_samples)
    if math.prod(shape) == 0:
        return np.empty(shape, np.int64)
    weights = probs.astype(np.float64)
    if not (np.isfinite(weights).all() and weights.min(initial=0.0) >= 0):
        raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")
    if (weights.sum(-1) == 0).any():
        raise RuntimeError("invalid multinomial distribution (sum of probabilities <= 0)")
    if replacement and num_samples > 1:
        return _with_replacement(gen, probs, shape)
    # The largest p / q, q exponential, is a sample without replacement (Gumbel-max, exponentiated).
    wide = np.float64 if probs.dtype == np.float64 else np.float32
    waits = exponential(gen, probs.shape, probs.dtype).astype(wide)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = narrow(np.divide(probs.astype(wide), waits), probs.dtype).astype(np.float64)
    ratio[np.isnan(ratio)] = np.inf
    if num_samples == 1:
        return np.expand_dims(ratio.argmax(-1), -1)
    return np.ascontiguousarray(np.argsort(-ratio, axis=-1, kind="stable")[..., :num_samples])


def _with_replacement(gen: Mt19937, probs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    wide = np.float64 if probs.dtype == np.float64 else np.float32
    rows = np.cumsum(np.atleast_2d(probs), axis=-1, dtype=wide)
    rows = np.divide(rows, rows[:, -1:])
    rows[:, -1] = 1
    uniforms = gen.unit64(math.prod(shape)).reshape(len(rows), -1)
    picks = [np.searchsorted(row, u) for row, u in zip(rows.astype(np.float64), uniforms, strict=True)]
    return np.stack(picks).astype(np.int64, copy=False).reshape(shape)


# ---- element by element --------------------------------------------------------------------------


def _check_float(dtype: np.dtype, kernel: str) -> None:
    if dtype.name not in FLOATS:
        raise NotImplementedError(f'"{kernel}" not implemented for \'{dtype.name}\'')


def poisson(gen: Mt19937, rate: np.ndarray) -> np.ndarray:
    """Draw Poisson numbers of the given rates, in their shape and dtype. dtypes: the floats.

    Source, from rate 10: Hoermann, "The transformed rejection method for generating Poisson random
    variables", Insurance: Mathematics and Economics 12, 1993.
    Raises: RuntimeError for a negative rate; NotImplementedError for other dtypes.
    """
    _check_float(rate.dtype, "poisson_cpu")
    if rate.size == 0:
        return np.empty(rate.shape, rate.dtype)
    rates = rate.astype(np.float64)
    if not rates.min() >= 0:
        raise RuntimeError("invalid Poisson rate, expected rate to be non-negative")
    with _Uniforms(gen) as u:
        drawn = [_poisson(value, u) for value in rates.ravel().tolist()]
    return narrow(np.array(drawn, np.float64), rate.dtype).reshape(rate.shape)


def _poisson(rate: float, u: _Uniforms) -> int:
    if rate == 0:
        return 0
    if rate < 10:
        count, product, limit = 0, 1.0, math.exp(-rate)
        while True:
            product *= u()
            if product <= limit:
                return count
            count += 1
    log_rate = math.log(rate)
    b = 0.931 + 2.53 * math.sqrt(rate)
    a = -0.059 + 0.02483 * b
    inverse_alpha = 1.1239 + 1.1328 / (b - 3.4)
    v_r = 0.9277 - 3.6224 / (b - 2)
    while True:
        x = u() - 0.5
        v = u()
        us = 0.5 - abs(x)
        if us == 0:  # the edge of the triangle, where the count is infinite
            continue
        k = math.floor((2 * a / us + b) * x + rate + 0.43)
        if us >= 0.07 and v <= v_r:
            return k
        if k < 0 or (us < 0.013 and v > us):
            continue
        accept = _log(v) + math.log(inverse_alpha) - math.log(a / (us * us) + b)
        if accept <= -rate + k * log_rate - math.lgamma(k + 1.0):
            return k


# log k! minus Stirling's formula, for k below 10.
_STIRLING = (
    0.0810614667953272, 0.0413406959554092, 0.0276779256849983, 0.02079067210376509, 0.0166446911898211,
    0.0138761288230707, 0.0118967099458917, 0.0104112652619720, 0.00925546218271273, 0.00833056343336287,
)  # fmt: skip


def _stirling(k: float) -> float:
    if k < len(_STIRLING):
        return _STIRLING[int(k)]
    square = (k + 1) * (k + 1)
    return (1.0 / 12 - (1.0 / 360 - 1.0 / 1260 / square) / square) / (k + 1)


def binomial(gen: Mt19937, count: np.ndarray, prob: np.ndarray) -> np.ndarray:
    """Draw the number of successes in `count` trials of probability `prob`, in the dtype of `count`.

    Shapes: broadcast. dtypes: float32 and float64, the same for both.
    Source: Hoermann, "The generation of binomial random variates", J. Stat. Comput. Simul. 46, 1993 (BTRS).
    Raises: ValueError for other dtypes.
    """
    for name, values in (("count", count), ("prob", prob)):
        if values.dtype.name not in ("float32", "float64"):
            raise ValueError(
                f"binomial only supports floating-point dtypes for {name}, got: {values.dtype.name}"
            )
    if count.dtype != prob.dtype:
        raise ValueError(f"binomial expects one dtype, got: {count.dtype.name} and {prob.dtype.name}")
    kind = count.dtype.type
    counts, probs = np.broadcast_arrays(count, prob)
    out = np.empty(counts.shape, count.dtype)
    if out.size:
        with _Uniforms(gen) as u:
            out.ravel()[:] = [_binomial(n, p, kind, u) for n, p in zip(counts.flat, probs.flat, strict=True)]
    return out


def _binomial(count: np.floating, prob: np.floating, kind: type[np.floating], u: _Uniforms) -> float:
    """Arithmetic on `count` and `prob` alone rounds to `kind`, all other to float64."""
    if count <= 0 or prob <= 0:
        return 0.0
    if prob >= 1:
        return float(count)
    if math.isnan(prob):
        return math.nan
    few = prob if prob <= 0.5 else kind(1 - prob)
    sample = _btrs if count * few >= 10 else _inversion
    drawn = sample(count, few, kind, u)
    return drawn if prob <= 0.5 else float(count) - drawn


def _inversion(count: np.floating, prob: np.floating, kind: type[np.floating], u: _Uniforms) -> float:
    log_fail = float(kind(math.log1p(-float(prob))))
    trials, successes, last = 0.0, 0, float(count)
    while True:
        uniform = u()
        if uniform == 0:  # an infinite wait
            return float(successes)
        trials += math.ceil(math.log(uniform) / log_fail)
        if trials > last:
            return float(successes)
        successes += 1


def _btrs(count: np.floating, prob: np.floating, kind: type[np.floating], u: _Uniforms) -> float:
    deviation = float(np.sqrt(count * prob * (1 - prob)))
    p, n = float(prob), float(count)
    b = 1.15 + 2.53 * deviation
    a = -0.0873 + 0.0248 * b + 0.01 * p
    c = float(count * prob) + 0.5
    v_r = 0.92 - 4.2 / b
    r = float(prob / (1 - prob))
    alpha = (2.83 + 5.1 / b) * deviation
    m = float(np.floor((count + 1) * prob))
    while True:
        x = u() - 0.5
        v = u()
        us = 0.5 - abs(x)
        if us == 0:
            continue
        k = float(kind(math.floor((2 * a / us + b) * x + c)))
        if k < 0 or k > n:
            continue
        if us >= 0.07 and v <= v_r:
            return k
        misses = float(kind(n - k) + kind(1))
        bound = (
            (m + 0.5) * math.log((m + 1) / (r * (n - m + 1)))
            + float(count + 1) * math.log((n - m + 1) / misses)
            + (k + 0.5) * math.log(r * misses / float(kind(k) + kind(1)))
            + _stirling(m) + _stirling(n - m) - _stirling(k) - _stirling(float(kind(n - k)))
        )  # fmt: skip
        if _log(v * alpha / (a / (us * us) + b)) <= bound:
            return k


def standard_gamma(gen: Mt19937, alpha: np.ndarray) -> np.ndarray:
    """Draw gamma numbers of shape parameter `alpha` and scale 1, in its shape and dtype, above 0.

    dtypes: float32, float64. Raises: NotImplementedError for other dtypes.
    Source: Marsaglia and Tsang, "A simple method for generating gamma variables", ACM TOMS 26(3), 2000.
    """
    if alpha.dtype.name not in ("float32", "float64"):
        raise NotImplementedError(f'"gamma_cpu" not implemented for \'{alpha.dtype.name}\'')
    kind = alpha.dtype.type
    out = np.empty(alpha.shape, alpha.dtype)
    if out.size:
        with _Uniforms(gen) as u:
            out.ravel()[:] = [_gamma(a, kind, u) for a in alpha.flat]
    return np.maximum(out, np.finfo(kind).tiny, out=out)


_THIRD, _SQUEEZE = float(np.float32(1) / np.float32(3)), float(np.float32(0.0331))


def _gamma(alpha: np.floating, kind: type[np.floating], u: _Uniforms) -> float:
    scale = 1.0
    if alpha < 1:
        if alpha == 0:
            return 0.0
        scale = (1 - u()) ** float(kind(1) / alpha)
        alpha = alpha + kind(1)
    d = float(alpha - kind(_THIRD))
    c = 1.0 / math.sqrt(9.0 * d)
    while True:
        x = u.normal()
        y = 1.0 + c * x
        if y <= 0:
            continue
        v = y * y * y
        uniform = 1 - u()
        square = x * x
        if uniform < 1.0 - _SQUEEZE * square * square:
            return scale * d * v
        if math.log(uniform) < 0.5 * square + d * (1.0 - v + math.log(v)):
            return scale * d * v
