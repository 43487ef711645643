"""Special functions of two numbers: formulas as those of one (`special.py`), with loops where the work depends on the
numbers.

A loop goes on until every lane is done; a lane that is done keeps its values, so no result depends on its neighbours.

Sources: Abramowitz & Stegun (A&S); the Digital Library of Mathematical Functions (DLMF).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.ir.prims.special import ARRAYS, LaneFunctions, Lanes, lgamma, powers

PAIRS: dict[str, Callable[[Any, Any, Any], Any]] = {}
_MANY = 20000  # terms after which a sum is left as it is


def pair(f: Callable[[Any, Any, Any], Any]) -> Callable[[Any, Any, Any], Any]:
    """Register a formula (m, x, y) of two operands in double precision."""
    PAIRS[f.__name__] = f
    return f


def pairs_ref(a: np.ndarray, b: np.ndarray, kind: str) -> np.ndarray:
    """The reference of the row `special2`."""
    x, y = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    with np.errstate(all="ignore"):
        return np.asarray(PAIRS[kind](ARRAYS, x, y)).astype(a.dtype)


def pairs_code(e: Any, a: Any, b: Any, kind: str) -> Any:
    """The kernel code of the row `special2`."""
    x, y = (Lanes(e, e.convert(v, dt.float64)) for v in (a, b))
    return e.convert(PAIRS[kind](LaneFunctions(e, narrow=a.dtype is not dt.float64), x, y).x, a.dtype)


def _eps(m: Any) -> float:
    return 2.0**-32 if m.narrow else 2.0**-53


def _nan(m: Any, x: Any) -> Any:
    return m.not_equal(x, x)


def _odd(m: Any, n: Any) -> Any:
    """Tell where whole numbers are odd."""
    half = n * 0.5
    return m.not_equal(m.trunc(half), half)


# Zeta and polygamma.

_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510, 43867 / 798)
_BERNOULLI_OVER_FACTORIAL = tuple(b / math.factorial(2 * k + 2) for k, b in enumerate(_BERNOULLI))


@pair
def zeta(m: Any, x: Any, q: Any) -> Any:
    """Hurwitz zeta: sum over n >= 0 of (q + n)**-x, by Euler and Maclaurin's formula (DLMF 25.11.5)."""
    whole = m.equal(m.floor(q), q)
    defined = (x > 1) & (m.abs(q) < math.inf) & ((q > 0) | (m.equal(m.floor(x), x) & m.logical_not(whole)))
    least = 5.0 if m.narrow else 10.0
    steps = m.where(defined, m.where(q > 0, least, m.ceil(least - q)), 0.0)

    def term(k: Any, total: Any) -> tuple:
        return total + m.power(q + (k - 1), -x), steps > k

    (total,) = m.repeat(term, (m.like(q, 0.0),), steps > 0, _MANY)
    w = q + m.where(steps < _MANY, steps, float(_MANY))
    head = m.power(w, -x)
    total = total + (head * w / (x - 1) + 0.5 * head)
    rest = head * x / w
    for k, b in enumerate(_BERNOULLI_OVER_FACTORIAL):
        total = total + b * rest
        rest = rest * (x + (2 * k + 1.0)) * (x + (2 * k + 2.0)) / (w * w)
    left = m.where(whole, math.inf, m.where(m.equal(m.floor(x), x), total, math.nan))
    total = m.where(q > 0, total, left)
    total = m.where(m.logical_not(x >= 1) | _nan(m, q), math.nan, total)
    return m.where(m.equal(x, 1), math.inf, total)


@pair
def polygamma(m: Any, n: Any, x: Any) -> Any:
    """The n-th derivative of digamma, for whole n >= 1 (A&S 6.4.10)."""
    (factorial,) = m.repeat(lambda k, y: (y * k, n > k), (m.like(n, 1.0),), n >= 1, 171)  # then it is infinite
    y = factorial * zeta(m, n + 1, x)
    return m.where(_odd(m, n), y, -y)


# Incomplete gamma functions.

_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)


def _power_term(m: Any, a: Any, x: Any) -> Any:
    """x**a exp(-x) / gamma(a + 1), without cancellation where a is large."""
    small = a < 10
    s = m.where(small, a, 1.0)
    direct = m.exp(s * m.log(x) - x - lgamma(m, s + 1))
    w = m.where(small, 10.0, a)
    tail = powers(1 / (w * w), _STIRLING[::-1]) / w
    mu = (x - w) / w
    stirling = m.exp(w * (m.log1p(mu) - mu) - tail) / m.sqrt(2 * math.pi * w)
    return m.where(small, direct, stirling)


def _lower_series(m: Any, a: Any, x: Any, where: Any) -> Any:
    """P(a, x) over `_power_term`, by its power series (A&S 6.5.29)."""

    def step(n: Any, total: Any, term: Any) -> tuple:
        term = term * (x / (a + n))
        return total + term, term, term > _eps(m) * total

    one = m.like(a, 1.0)
    return m.repeat(step, (one, one), where, _MANY)[0]


def _upper_fraction(m: Any, a: Any, x: Any, where: Any) -> Any:
    """Q(a, x) over `_power_term`, by its continued fraction (DLMF 8.9.2), from the front by Lentz's method."""
    tiny = 1e-300

    def nonzero(v: Any) -> Any:
        return m.where(m.abs(v) < tiny, tiny, v)

    def step(n: Any, b: Any, c: Any, d: Any, h: Any) -> tuple:
        k = (a - n) * n
        b = b + 2
        d = 1 / nonzero(k * d + b)
        c = nonzero(b + k / c)
        change = d * c
        return b, c, d, h * change, m.abs(change - 1) > _eps(m)

    b = x + 1 - a
    d = 1 / nonzero(b)
    return m.repeat(step, (b, m.like(b, 1 / tiny), d, d), where, _MANY)[3] * a


def _upper_small(m: Any, a: Any, x: Any) -> Any:
    """Q(a, x) for small a and x <= 1.5, where 1 - P cancels: (1 - x**a / gamma(1+a)) - x**a/gamma(a) * rest."""
    total: Any = 0.0
    term: Any = 1.0
    for n in range(1, 30):
        term = term * (x * (-1 / n))
        total = total + term / (a + float(n))
    lead = a * m.log(x) - lgamma(m, a + 1)
    return -m.expm1(lead) - m.exp(lead) * a * total


def _gamma_ratio(m: Any, a: Any, x: Any, upper: bool) -> Any:
    easy = (a > 0) & (x > 0) & (a < math.inf) & (x < math.inf)
    large = easy & (x > 1.1) & (x > a)
    small = easy & m.logical_not(large)
    p, q = m.where(easy, a, 1.0), m.where(easy, x, 1.0)
    term = _power_term(m, p, q)
    fraction = _upper_fraction(m, p, q, large) * term
    if upper:
        near = small & (a < 1) & (x <= 1.5)
        series = 1 - _lower_series(m, p, q, small & m.logical_not(near)) * term
        y = m.where(large, fraction, m.rarely(near, series, lambda: _upper_small(m, p, q)))
    else:
        y = m.where(large, 1 - fraction, _lower_series(m, p, q, small) * term)
    zero, one = m.equal(x, 0) | m.equal(a, math.inf), m.equal(a, 0) | m.equal(x, math.inf)
    y = m.where(one, 0.0 if upper else 1.0, m.where(zero, 1.0 if upper else 0.0, y))
    return m.where((a >= 0) & (x >= 0) & m.logical_not(zero & one), y, math.nan)


@pair
def gammainc(m: Any, a: Any, x: Any) -> Any:
    """Regularised lower incomplete gamma function P(a, x)."""
    return _gamma_ratio(m, a, x, False)


@pair
def gammaincc(m: Any, a: Any, x: Any) -> Any:
    """Regularised upper incomplete gamma function Q(a, x)."""
    return _gamma_ratio(m, a, x, True)


# Orthogonal polynomials, by their three-term recurrences (A&S 22.7), and Chebyshev's by angles inside (-1, 1).


def _recur(m: Any, x: Any, n: Any, first: Any, step: Callable) -> Any:
    """p(0) = 1, p(1) = first, p(k+1) = step(k, x, p(k), p(k-1)), at each element's own degree."""

    def next_(k: Any, now: Any, before: Any) -> tuple:
        y = step(k, x, now, before)
        return y, now, (n > k + 1) & m.equal(y, y)  # what is NaN remains so

    y = m.repeat(next_, (first, m.like(x, 1.0)), n > 1, 2.0**63)[0]
    return m.where(n < 1, m.where(n < 0, 0.0, 1.0), y)


def _degree(m: Any, n: Any) -> Any:
    return m.where(m.abs(n) < 2.0**63, m.trunc(n), -1.0)  # as PyTorch, whose degrees are int64


def _double(k: Any, x: Any, p: Any, q: Any) -> Any:
    return 2 * x * p - q


def _chebyshev(m: Any, x: Any, n: Any, first: Any, angle: Callable, at_one: Callable, at_minus_one: Callable) -> Any:
    """Angles for high degrees, the recurrence elsewhere, and exact values at the ends."""
    n = _degree(m, n)
    inside, end = (m.abs(x) < 1) & (n > 8), m.equal(m.abs(x), 1)
    y = _recur(m, x, m.where(inside | end, 1.0, n), first, _double)
    y = m.rarely(inside, y, lambda: angle(n, m.arccos(m.where(inside, x, 0.5))))
    sign = m.where(_odd(m, n), -1.0, 1.0)
    y = m.where(end, m.where(x > 0, at_one(n), at_minus_one(n) * sign), y)
    return m.where(n < 0, 0.0, y)


_Angle = Callable[[Any], Callable[[Any, Any], Any]]
# Letter -> p(1), the polynomial of degree n of cos t, its values at 1 and, but for the sign (-1)**n, at -1.
_CHEBYSHEV: dict[str, tuple[Callable, _Angle, Callable, Callable]] = {
    "t": (lambda x: x, lambda m: lambda n, t: m.cos(n * t), lambda n: 1.0, lambda n: 1.0),
    "u": (lambda x: 2 * x, lambda m: lambda n, t: m.sin((n + 1) * t) / m.sin(t), lambda n: n + 1, lambda n: n + 1),
    "v": (lambda x: 2 * x - 1, lambda m: lambda n, t: m.cos((n + 0.5) * t) / m.cos(t * 0.5),
          lambda n: 1.0, lambda n: 2 * n + 1),
    "w": (lambda x: 2 * x + 1, lambda m: lambda n, t: m.sin((n + 0.5) * t) / m.sin(t * 0.5),
          lambda n: 2 * n + 1, lambda n: 1.0),
}


def _make_chebyshev(letter: str) -> None:
    first, angle, at_one, at_minus_one = _CHEBYSHEV[letter]

    def plain(m: Any, x: Any, n: Any) -> Any:
        return _chebyshev(m, x, n, first(x), angle(m), at_one, at_minus_one)

    PAIRS[f"chebyshev_polynomial_{letter}"] = plain
    PAIRS[f"shifted_chebyshev_polynomial_{letter}"] = lambda m, x, n: plain(m, 2 * x - 1, n)


for _letter in _CHEBYSHEV:
    _make_chebyshev(_letter)


@pair
def hermite_polynomial_h(m: Any, x: Any, n: Any) -> Any:
    return _recur(m, x, _degree(m, n), 2 * x, lambda k, x, p, q: 2 * x * p - 2 * k * q)


@pair
def hermite_polynomial_he(m: Any, x: Any, n: Any) -> Any:
    return _recur(m, x, _degree(m, n), x, lambda k, x, p, q: x * p - k * q)


@pair
def laguerre_polynomial_l(m: Any, x: Any, n: Any) -> Any:
    return _recur(m, x, _degree(m, n), 1 - x, lambda k, x, p, q: ((2 * k + 1 - x) * p - k * q) / (k + 1))


@pair
def legendre_polynomial_p(m: Any, x: Any, n: Any) -> Any:
    n = _degree(m, n)
    end = m.equal(m.abs(x), 1)
    y = _recur(m, x, m.where(end, 1.0, n), x, lambda k, x, p, q: ((2 * k + 1) * x * p - k * q) / (k + 1))
    at_end = m.where((x > 0) | m.logical_not(_odd(m, n)), 1.0, -1.0)
    return m.where(end, m.where(n < 0, 0.0, at_end), y)
