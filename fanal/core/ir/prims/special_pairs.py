"""Special functions of two numbers, whose work depends on the numbers: computed by NumPy between kernels.

Sources: Abramowitz & Stegun (A&S); the Digital Library of Mathematical Functions (DLMF).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from fanal.core.ir.prims.special import FORMULAS

PAIRS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {}
_EPS = 2.0**-53
_CHUNK = 1 << 14  # elements worked on at a time, so that intermediate results stay in the cache
_MANY = 20000  # terms after which a sum is left as it is


def pair(f: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Register a function of two float64 arrays of one shape."""
    PAIRS[f.__name__] = f
    return f


def pairs_ref(a: np.ndarray, b: np.ndarray, kind: str) -> np.ndarray:
    """The reference of the row `special2`."""
    x, y = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    p, q = np.ascontiguousarray(x).reshape(-1), np.ascontiguousarray(y).reshape(-1)
    out = np.empty(p.size, a.dtype)
    with np.errstate(all="ignore"):
        for k in range(0, p.size, _CHUNK):
            out[k : k + _CHUNK] = PAIRS[kind](p[k : k + _CHUNK], q[k : k + _CHUNK])
    return out.reshape(x.shape)


# Zeta and polygamma.


@pair
def zeta(x: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Hurwitz zeta: sum over n >= 0 of (q + n)**-x, by Euler and Maclaurin's formula (DLMF 25.11.5)."""
    steps = np.where(q > 0, 10, np.minimum(np.ceil(10 - q), _MANY))
    steps = np.where(np.isfinite(q), steps, 0)
    total = np.zeros_like(q)
    for n in range(int(steps.max(initial=0))):
        left = np.flatnonzero(steps > n)
        total[left] += (q[left] + n) ** -x[left]
    w = q + steps
    head = w**-x
    total += head * w / (x - 1) + 0.5 * head
    term = head * x / w
    for k, b in enumerate(_BERNOULLI_OVER_FACTORIAL):
        total += b * term
        term = term * (x + 2 * k + 1) * (x + 2 * k + 2) / (w * w)
    total = np.where((q <= 0) & (x != np.floor(x)), np.nan, total)
    total = np.where((q <= 0) & (q == np.floor(q)), np.inf, total)
    return np.where(x == 1, np.inf, np.where((x < 1) | np.isnan(x) | np.isnan(q), np.nan, total))


_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510, 43867 / 798)
_BERNOULLI_OVER_FACTORIAL = tuple(b / math.factorial(2 * k + 2) for k, b in enumerate(_BERNOULLI))


@pair
def polygamma(n: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The n-th derivative of digamma; n is one whole number (A&S 6.4.10)."""
    order = int(n[0]) if n.size else 0
    if order < 2:
        return FORMULAS["trigamma" if order else "digamma"](np, x)
    return (-1) ** (order + 1) * math.exp(math.lgamma(order + 1)) * zeta(n + 1, x)


# Incomplete gamma functions.


def _lgamma(x: np.ndarray) -> np.ndarray:
    return FORMULAS["lgamma"](np, x)


_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)


def _power_term(a: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x**a exp(-x) / gamma(a + 1), without cancellation where a is large."""
    small = a < 10
    s = np.where(small, a, 1.0)
    direct = np.exp(s * np.log(x) - x - _lgamma(s + 1))
    w = np.where(small, 10.0, a)
    tail = sum(c / w ** (2 * k + 1) for k, c in enumerate(_STIRLING))
    mu = (x - w) / w
    stirling = np.exp(w * (np.log1p(mu) - mu) - tail) / np.sqrt(2 * math.pi * w)
    return np.where(small, direct, stirling)


def _lower_series(a: np.ndarray, x: np.ndarray) -> np.ndarray:
    """P(a, x) by its power series (A&S 6.5.29)."""
    total, term, left = np.ones_like(a), np.ones_like(a), np.arange(a.size)
    for n in range(1, _MANY):
        if not left.size:
            break
        term[left] *= x[left] / (a[left] + n)
        total[left] += term[left]
        left = left[term[left] > _EPS * total[left]]
    return total * _power_term(a, x)


def _upper_fraction(a: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Q(a, x) by its continued fraction (DLMF 8.9.2), evaluated from the front by Lentz's method."""
    tiny = 1e-300
    b = x + 1 - a
    c, d = np.full_like(a, 1 / tiny), 1 / np.where(b == 0, tiny, b)
    h, left = d.copy(), np.arange(a.size)
    for n in range(1, _MANY):
        if not left.size:
            break
        k = -n * (n - a[left])
        b[left] += 2
        d[left] = 1 / _nonzero(k * d[left] + b[left], tiny)
        c[left] = _nonzero(b[left] + k / c[left], tiny)
        change = d[left] * c[left]
        h[left] *= change
        left = left[np.abs(change - 1) > _EPS]
    return h * _power_term(a, x) * a


def _nonzero(x: np.ndarray, tiny: float) -> np.ndarray:
    return np.where(np.abs(x) < tiny, tiny, x)


def _upper_small(a: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Q(a, x) for small a and x <= 1.5, where 1 - P cancels: (1 - x**a / gamma(1+a)) - x**a/gamma(a) * rest."""
    total, term = np.zeros_like(a), np.ones_like(a)
    for n in range(1, 40):
        term = term * -x / n
        total += term / (a + n)
    lead = a * np.log(x) - _lgamma(a + 1)
    return -np.expm1(lead) - np.exp(lead) * a * total


def _gamma_ratio(a: np.ndarray, x: np.ndarray, upper: bool) -> np.ndarray:
    bad = (a < 0) | (x < 0) | np.isnan(a) | np.isnan(x) | ((a == 0) & (x == 0)) | (np.isinf(a) & np.isinf(x))
    zero = (x == 0) | np.isinf(a)  # P is 0
    one = (a == 0) | np.isinf(x)  # P is 1
    out = np.where(bad, np.nan, np.where(one, 0.0 if upper else 1.0, 1.0 if upper else 0.0))
    easy = ~(bad | zero | one)
    fraction = easy & (x > 1.1) & (x > a)
    near = easy & ~fraction & (a < 1) & (x <= 1.5)
    if upper and near.any():
        out[near] = _upper_small(a[near], x[near])
        easy = easy & ~near
    for where, f, is_upper in ((fraction, _upper_fraction, True), (easy & ~fraction, _lower_series, False)):
        if where.any():
            y = f(a[where], x[where])
            out[where] = y if is_upper == upper else 1 - y
    return out


@pair
def gammainc(a: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Regularised lower incomplete gamma function P(a, x)."""
    return _gamma_ratio(a, x, False)


@pair
def gammaincc(a: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Regularised upper incomplete gamma function Q(a, x)."""
    return _gamma_ratio(a, x, True)


# Orthogonal polynomials, by their three-term recurrences (A&S 22.7), and Chebyshev's by angles inside (-1, 1).


def _recur(x: np.ndarray, n: np.ndarray, first: np.ndarray, step: Callable) -> np.ndarray:
    """p(0) = 1, p(1) = first, p(k+1) = step(k, x, p(k), p(k-1)), at each element's own degree."""
    n = np.where(np.abs(n) < 2.0**63, np.trunc(n), -1)  # as PyTorch, whose degrees are int64
    before, now = np.ones_like(x), first.copy()
    if n.size and n[0] >= 1 and (n == n[0]).all():
        for k in range(1, int(n[0])):
            now, before = step(k, x, now, before), now
        return now
    # By falling degree, what is still to do is always a slice from the start. A short type sorts by radix.
    top = n.max(initial=0)
    order = np.argsort(-n.astype(np.int16) if top < 2**15 and n.min(initial=0) > -(2**15) else -n, kind="stable")
    n, x, now = n[order], x[order], now[order]
    for k in range(1, int(top)):
        left = slice(np.searchsorted(-n, -k))
        if k % 64 == 0 and np.isnan(now[left]).all():
            break
        now[left], before[left] = step(k, x[left], now[left], before[left]), now[left].copy()
    out = np.empty_like(now)
    out[order] = np.where(n < 0, 0.0, np.where(n == 0, 1.0, now))
    return out


def _double(k: int, x: np.ndarray, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return 2 * x * p - q


def _sign_of_parity(n: np.ndarray) -> np.ndarray:
    return np.where(np.trunc(n) % 2 == 0, 1.0, -1.0)


def _chebyshev(x: np.ndarray, n: np.ndarray, first: np.ndarray, angle: Callable, at_one: np.ndarray,
               at_minus_one: np.ndarray) -> np.ndarray:
    """Angles for high degrees, the recurrence elsewhere, and exact values at the ends."""
    n = np.trunc(n)
    inside = (np.abs(x) < 1) & (n > 8)
    theta = np.arccos(np.where(inside, x, 0.5))
    known = inside | (np.abs(x) == 1)
    y = np.where(inside, angle(n, theta), _recur(x, np.where(known, 0, n), first, _double))
    y = np.where(x == 1, at_one, np.where(x == -1, at_minus_one, y))
    return np.where(n < 0, 0.0, y)


@pair
def chebyshev_polynomial_t(x: np.ndarray, n: np.ndarray) -> np.ndarray:
    one = np.ones_like(x)
    return _chebyshev(x, n, x, lambda n, t: np.cos(n * t), one, _sign_of_parity(n))


@pair
def chebyshev_polynomial_u(x: np.ndarray, n: np.ndarray) -> np.ndarray:
    end = np.trunc(n) + 1
    return _chebyshev(x, n, 2 * x, lambda n, t: np.sin((n + 1) * t) / np.sin(t), end, end * _sign_of_parity(n))


@pair
def chebyshev_polynomial_v(x: np.ndarray, n: np.ndarray) -> np.ndarray:
    end = (2 * np.trunc(n) + 1) * _sign_of_parity(n)
    return _chebyshev(x, n, 2 * x - 1, lambda n, t: np.cos((n + 0.5) * t) / np.cos(t / 2), np.ones_like(x), end)


@pair
def chebyshev_polynomial_w(x: np.ndarray, n: np.ndarray) -> np.ndarray:
    angle = lambda n, t: np.sin((n + 0.5) * t) / np.sin(t / 2)
    return _chebyshev(x, n, 2 * x + 1, angle, 2 * np.trunc(n) + 1, _sign_of_parity(n))


for _letter in "tuvw":
    _name = f"chebyshev_polynomial_{_letter}"
    PAIRS[f"shifted_{_name}"] = lambda x, n, f=PAIRS[_name]: f(2 * x - 1, n)  # type: ignore[misc]


@pair
def hermite_polynomial_h(x: np.ndarray, n: np.ndarray) -> np.ndarray:
    return _recur(x, n, 2 * x, lambda k, x, p, q: 2 * x * p - 2 * k * q)


@pair
def hermite_polynomial_he(x: np.ndarray, n: np.ndarray) -> np.ndarray:
    return _recur(x, n, x, lambda k, x, p, q: x * p - k * q)


@pair
def laguerre_polynomial_l(x: np.ndarray, n: np.ndarray) -> np.ndarray:
    return _recur(x, n, 1 - x, lambda k, x, p, q: ((2 * k + 1 - x) * p - k * q) / (k + 1))


@pair
def legendre_polynomial_p(x: np.ndarray, n: np.ndarray) -> np.ndarray:
    y = _recur(x, n, x, lambda k, x, p, q: ((2 * k + 1) * x * p - k * q) / (k + 1))
    return np.where((np.abs(x) == 1) & (n >= 0), np.where(x > 0, 1.0, _sign_of_parity(n)), y)
