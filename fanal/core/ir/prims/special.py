"""Special functions of one number: formulas written once, read by NumPy and by the emitters of kernels.

A formula is a function (m, x) in double precision; `m` has the functions of NumPy that are used here, and `x` is an
array or a vector of lanes. There are no branches: `where` chooses between pieces that are all computed. Everything is
computed in float64, whatever the dtype, and rounded once.

Sources: Clenshaw (1962) for the series, whose coefficients are in `chebyshev.py`; Abramowitz & Stegun (A&S) and the
Digital Library of Mathematical Functions (DLMF) for the pieces, as noted with each.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.ir.prims import chebyshev as C

FORMULAS: dict[str, Callable[[Any, Any], Any]] = {}


def formula(f: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Register a formula under its name."""
    FORMULAS[f.__name__] = f
    return f


class Lanes:
    """A vector of float64 lanes (or bits) in an emitter, with the operators that formulas use."""

    __slots__ = ("e", "x")

    def __init__(self, e: Any, x: Any) -> None:
        self.e, self.x = e, x

    def _like(self, other: Any) -> Any:
        """Return an operand as the emitter's value: a number becomes a constant in every lane."""
        if isinstance(other, Lanes):
            return other.x
        old, self.e.lanes = self.e.lanes, self.x.lanes
        c = self.e.const(other, self.x.dtype)
        self.e.lanes = old
        return c

    def _do(self, name: str, other: Any, swap: bool = False) -> Lanes:
        a, b = self.x, self._like(other)
        return Lanes(self.e, getattr(self.e, name)(*((b, a) if swap else (a, b))))

    def __add__(self, o: Any) -> Lanes:
        return self._do("add", o)

    __radd__ = __add__

    def __sub__(self, o: Any) -> Lanes:
        return self._do("sub", o)

    def __rsub__(self, o: Any) -> Lanes:
        return self._do("sub", o, True)

    def __mul__(self, o: Any) -> Lanes:
        return self._do("mul", o)

    __rmul__ = __mul__

    def __truediv__(self, o: Any) -> Lanes:
        return self._do("div", o)

    def __rtruediv__(self, o: Any) -> Lanes:
        return self._do("div", o, True)

    def __neg__(self) -> Lanes:
        return Lanes(self.e, self.e.neg(self.x))

    def __lt__(self, o: Any) -> Lanes:
        return self._do("lt", o)

    def __le__(self, o: Any) -> Lanes:
        return self._do("le", o)

    def __gt__(self, o: Any) -> Lanes:
        return self._do("lt", o, True)

    def __ge__(self, o: Any) -> Lanes:
        return self._do("le", o, True)

    def __and__(self, o: Any) -> Lanes:
        return self._do("and_", o)

    def __or__(self, o: Any) -> Lanes:
        return self._do("or_", o)

    def equals(self, o: Any) -> Lanes:
        return self._do("eq", o)


class Arrays:
    """What a formula knows as `m` when NumPy computes it: NumPy's functions, loops and branches."""

    narrow = False  # the result has float64's digits

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def like(self, x: Any, number: float) -> Any:
        """Return a number in the shape of `x`."""
        return np.full_like(x, number)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """Return a * b + c; a kernel rounds it once."""
        return a * b + c

    def rarely(self, c: Any, usual: Any, other: Callable) -> Any:
        """Return `usual`, or other() where `c` holds, which it seldom does: a kernel asks first whether anywhere."""
        return np.where(c, other(), usual)

    def repeat(self, step: Callable, start: tuple, going: Any, limit: float) -> tuple:
        """Run step(k, *values) -> (*values, more) for k = 1, 2, ... where `going`: until nowhere, or up to `limit`."""
        values, k = start, 1.0
        while k <= limit and np.any(going):
            *new, more = step(k, *values)
            values = tuple(np.where(going, n, v) for n, v in zip(new, values))
            going, k = going & more, k + 1
        return values


ARRAYS = Arrays()
_NAMES = {"arccos": "acos"}  # what NumPy and emitters call differently


class LaneFunctions:
    """What a formula knows as `m` when it writes a kernel. narrow: the result is rounded to float32 or less."""

    def __init__(self, e: Any, narrow: bool) -> None:
        self.e, self.narrow = e, narrow

    def __getattr__(self, name: str) -> Callable[[Lanes], Lanes]:
        f = getattr(self.e, _NAMES.get(name, name))
        return lambda x: Lanes(self.e, f(x.x))

    def where(self, c: Lanes, a: Any, b: Any) -> Lanes:
        some = next((v for v in (a, b) if isinstance(v, Lanes)), None)
        if some is None:
            some = Lanes(self.e, self.e.convert(c.x, dt.float64))
        return Lanes(self.e, self.e.where(c.x, some._like(a), some._like(b)))

    def equal(self, a: Lanes, b: Any) -> Lanes:
        return a.equals(b)

    def not_equal(self, a: Lanes, b: Any) -> Lanes:
        return self.logical_not(a.equals(b))

    def logical_not(self, c: Lanes) -> Lanes:
        return Lanes(self.e, self.e.not_(c.x))

    def like(self, x: Lanes, number: float) -> Lanes:
        return Lanes(self.e, x._like(number))

    def power(self, a: Lanes, b: Lanes) -> Lanes:
        """a**b, where b is whole if a is negative."""
        if not self.narrow:
            return Lanes(self.e, self.e.pow(a.x, b.x))
        y = self.exp(b * self.log(self.abs(a)))
        half = b * 0.5
        return self.where((a < 0) & self.not_equal(self.trunc(half), half), -y, y)

    def fma(self, a: Lanes, b: Any, c: Any) -> Lanes:
        return Lanes(self.e, self.e.fma(a.x, a._like(b), a._like(c)))

    def rarely(self, c: Lanes, usual: Lanes, other: Callable) -> Lanes:
        return Lanes(self.e, self.e.rarely(c.x, usual.x, lambda: other().x))

    def repeat(self, step: Callable, start: tuple, going: Lanes, limit: float) -> tuple:
        """As `Arrays.repeat`."""

        def body(k: Any, go: Any, *values: Any) -> tuple:
            *new, more = step(*(Lanes(self.e, v) for v in (k, *values)))
            return self.e.and_(go, more.x), *(self.e.where(go, n.x, v) for n, v in zip(new, values))

        found = self.e.repeat(body, (going.x, *(v.x for v in start)), limit)
        return tuple(Lanes(self.e, v) for v in found[1:])


def special_ref(x: np.ndarray, kind: str) -> np.ndarray:
    """The reference of the row `special`."""
    with np.errstate(all="ignore"):
        y = FORMULAS[kind](ARRAYS, np.asarray(x, np.float64))
        return np.asarray(y).astype(x.dtype)


def special_code(e: Any, x: Any, kind: str) -> Any:
    """The kernel code of the row `special`."""
    m = LaneFunctions(e, narrow=x.dtype is not dt.float64)
    y = FORMULAS[kind](m, Lanes(e, e.convert(x, dt.float64)))
    return e.convert(y.x, x.dtype)


def series(m: Any, t: Any, c: tuple[float, ...]) -> Any:
    """Sum a Chebyshev series at t in [-1, 1] (Clenshaw's recurrence)."""
    c = _shortened(c) if m.narrow else c
    twice = t + t
    b1: Any = c[-1]
    b2: Any = 0.0
    for k in reversed(c[1:-1]):
        b1, b2 = m.fma(twice, b1, k - b2), b1
    return m.fma(t, b1, c[0] - b2)


@functools.cache
def _shortened(c: tuple[float, ...]) -> tuple[float, ...]:
    """Return the first terms of a Chebyshev series, without those below 2**-31 of its least value in [-1, 1]."""
    least = np.abs(series(ARRAYS, np.linspace(-1, 1, 257), c)).min()
    left = np.cumsum(np.abs(c[::-1]))[::-1]  # no sum of the terms from the k-th on is larger
    return c[: max(2, int(np.count_nonzero(left > 2.0**-31 * least)))]


def powers(z: Any, c: Sequence[float]) -> Any:
    """Sum a polynomial, highest power first (Horner)."""
    y: Any = c[0]
    for k in c[1:]:
        y = y * z + k
    return y


# Bessel functions. Near 0 a series in x or x**2, then the asymptotic form times a series in 1/x (A&S 9.2, 9.7).


@formula
def i0e(m: Any, x: Any) -> Any:
    """exp(-|x|) I0(x)."""
    a = m.abs(x)
    near = series(m, a * 0.25 - 1, C.I0_SMALL)
    return m.rarely(a > 8, near, lambda: series(m, 16 / a - 1, C.I0_LARGE) / m.sqrt(a))


@formula
def i1e(m: Any, x: Any) -> Any:
    """exp(-|x|) I1(x)."""
    a = m.abs(x)
    near = a * series(m, a * 0.25 - 1, C.I1_SMALL)
    y = m.rarely(a > 8, near, lambda: series(m, 16 / a - 1, C.I1_LARGE) / m.sqrt(a))
    return m.where(x < 0, -y, y)


@formula
def i0(m: Any, x: Any) -> Any:
    return m.exp(m.abs(x)) * i0e(m, x)


@formula
def i1(m: Any, x: Any) -> Any:
    return m.exp(m.abs(x)) * i1e(m, x)


def _k0_small(m: Any, x: Any) -> Any:
    t = x * x * 0.5 - 1
    return series(m, t, C.K0_SMALL) - m.log(x * 0.5) * series(m, t, C.I0_SERIES)


def _k1_small(m: Any, x: Any) -> Any:
    t = x * x * 0.5 - 1
    y = m.log(x * 0.5) * (x * series(m, t, C.I1_SERIES)) + series(m, t, C.K1_SMALL) / x
    return m.where(m.equal(x, 0), math.inf, y)


def _k_large(m: Any, x: Any, c: tuple[float, ...]) -> Any:
    """exp(x) K(x) for x > 2."""
    return series(m, 4 / x - 1, c) / m.sqrt(x)


@formula
def k0(m: Any, x: Any) -> Any:
    return m.where(x <= 2, _k0_small(m, x), m.exp(-x) * _k_large(m, x, C.K0_LARGE))


@formula
def k1(m: Any, x: Any) -> Any:
    return m.where(x <= 2, _k1_small(m, x), m.exp(-x) * _k_large(m, x, C.K1_LARGE))


@formula
def k0e(m: Any, x: Any) -> Any:
    """exp(x) K0(x)."""
    return m.where(x <= 2, m.exp(x) * _k0_small(m, x), _k_large(m, x, C.K0_LARGE))


@formula
def k1e(m: Any, x: Any) -> Any:
    """exp(x) K1(x)."""
    return m.where(x <= 2, m.exp(x) * _k1_small(m, x), _k_large(m, x, C.K1_LARGE))


_ZEROS_J0 = (2.404825557695772768621632**2, 5.520078110286310649596604**2)
_ZEROS_J1 = (3.831705970207512315614436**2, 7.01558666981561875353705**2)


def _j0_small(m: Any, w: Any) -> Any:
    return (w - _ZEROS_J0[0]) * (w - _ZEROS_J0[1]) * series(m, w / 32 - 1, C.J0_SMALL)


def _j1_small(m: Any, a: Any, w: Any) -> Any:
    return a * (w - _ZEROS_J1[0]) * (w - _ZEROS_J1[1]) * series(m, w / 32 - 1, C.J1_SMALL)


def _wave(m: Any, a: Any, w: Any, p: tuple[float, ...], q: tuple[float, ...]) -> tuple[Any, Any, Any, Any]:
    """P and Q of the asymptotic form, times sqrt(1 / (pi a)), and the sum and difference of sin a and cos a."""
    t = 128 / w - 1
    scale = m.sqrt(1 / (math.pi * a))
    s, c = m.sin(a), m.cos(a)
    return series(m, t, p) * scale, series(m, t, q) * scale / a, s + c, s - c


@formula
def j0(m: Any, x: Any) -> Any:
    a = m.abs(x)
    w = a * a
    p, q, both, apart = _wave(m, a, w, C.P0, C.Q0)
    return m.where(a <= 8, _j0_small(m, w), p * both - q * apart)


@formula
def j1(m: Any, x: Any) -> Any:
    a = m.abs(x)
    w = a * a
    p, q, both, apart = _wave(m, a, w, C.P1, C.Q1)
    y = m.where(a <= 8, _j1_small(m, a, w), p * apart + q * both)
    return m.where(x < 0, -y, y)


@formula
def y0(m: Any, x: Any) -> Any:
    w = x * x
    p, q, both, apart = _wave(m, x, w, C.P0, C.Q0)
    small = series(m, w / 32 - 1, C.Y0_SMALL) + 2 / math.pi * m.log(x) * _j0_small(m, w)
    return m.where(x <= 8, small, p * apart + q * both)


@formula
def y1(m: Any, x: Any) -> Any:
    w = x * x
    p, q, both, apart = _wave(m, x, w, C.P1, C.Q1)
    small = x * series(m, w / 32 - 1, C.Y1_SMALL) + 2 / math.pi * (m.log(x) * _j1_small(m, x, w) - 1 / x)
    small = m.where(m.equal(x, 0), -math.inf, small)
    return m.where(x <= 8, small, q * apart - p * both)


@formula
def spherical_j0(m: Any, x: Any) -> Any:
    """sin(x) / x."""
    w = x * x
    near = powers(w, [(-1) ** k / math.factorial(2 * k + 1) for k in range(6, -1, -1)])
    far = m.where(m.equal(m.abs(x), math.inf), 0.0, m.sin(x) / x)
    return m.where(m.abs(x) < 0.5, near, far)


@formula
def airy_ai(m: Any, x: Any) -> Any:
    """Airy function Ai. Source: DLMF 9.7.5, 9.7.9 with zeta = 2/3 |x|**(3/2)."""
    a = m.abs(x)
    root = m.sqrt(a)
    zeta = a * root * (2 / 3)
    fourth = m.sqrt(root) * math.sqrt(math.pi)
    right = m.exp(-zeta) * series(m, 2 * _ZETA_2 / zeta - 1, C.AIRY_RIGHT) / (2 * fourth)
    t = 2 * _ZETA_5**2 / (zeta * zeta) - 1
    s, c = m.sin(zeta), m.cos(zeta)
    p, q = series(m, t, C.AIRY_LEFT_P), series(m, t, C.AIRY_LEFT_Q) / zeta
    left = ((c + s) * p + (s - c) * q) / (fourth * math.sqrt(2))
    y = m.where(x < -5, left, m.where(x <= 2, series(m, (x + 1.5) / 3.5, C.AIRY_MIDDLE), right))
    return m.where(m.equal(a, math.inf), math.nan, y)  # as PyTorch


_ZETA_2, _ZETA_5 = 2 / 3 * 2**1.5, 2 / 3 * 5**1.5


# The normal distribution.


@formula
def erfcx(m: Any, x: Any) -> Any:
    """exp(x**2) erfc(x). Source: Shepherd & Laframboise, Mathematics of Computation 36 (1981)."""
    a = m.abs(x)
    y = series(m, 1 - 7.5 / (a + 3.75), C.ERFCX) / (1 + 2 * a)
    return m.where(x < 0, 2 * m.exp(x * x) - y, y)


def _normal_quantile(m: Any, y: Any, tail: Any) -> Any:
    """The x with ndtr(x) = 1/2 + y, where `tail` = 1/2 - |y|. Source of the variables: A&S 26.2.22."""
    centre = y * series(m, y * y * (128 / 9) - 1, C.NDTRI_CENTRE)

    def outside() -> Any:
        z = m.sqrt(-2 * m.log(tail))
        x = series(m, z * 0.5 - 2, C.NDTRI_NEAR)
        x = m.rarely(z > 6, x, lambda: series(m, z * 0.2 - 2.2, C.NDTRI_MID))
        x = m.rarely(z > 16, x, lambda: series(m, z * (1 / 12) - 28 / 12, C.NDTRI_FAR))
        x = m.where(m.equal(tail, 0), math.inf, x)
        return m.where(y < 0, -x, x)

    return m.rarely(m.logical_not(m.abs(y) <= 0.375), centre, outside)


@formula
def ndtri(m: Any, x: Any) -> Any:
    """The quantile of the normal distribution."""
    return _normal_quantile(m, x - 0.5, m.where(x < 0.5, x, 1 - x))


@formula
def erfinv(m: Any, x: Any) -> Any:
    return _normal_quantile(m, x * 0.5, (1 - m.abs(x)) * 0.5) * math.sqrt(0.5)


# Derivatives of log gamma: upward recurrence to 10, then the asymptotic series (A&S 6.3.18, 6.4.12).

_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)


@formula
def digamma(m: Any, x: Any) -> Any:
    y = m.where(x < 0, 1 - x, x)  # reflection: A&S 6.3.7
    small = y < 10
    w = m.where(small, y + 10, y)
    z = 1 / (w * w)
    psi = m.log(w) - 0.5 / w - z * powers(z, [b / (2 * k + 2) for k, b in enumerate(_BERNOULLI)][::-1])
    down: Any = 0.0
    for k in range(9, -1, -1):
        down = down + 1 / (y + float(k))
    psi = m.where(small, psi - down, psi)
    r = x - m.trunc(x)
    psi = m.where(x < 0, psi - math.pi / m.tan(math.pi * r), psi)
    whole = m.where(x < 0, m.where(m.equal(r, 0), math.nan, psi), psi)
    return m.where(m.equal(x, 0), -1 / x, whole)


@formula
def trigamma(m: Any, x: Any) -> Any:
    y = m.where(x < 0.5, 1 - x, x)  # reflection: A&S 6.4.7
    small = y < 10
    w = m.where(small, y + 10, y)
    z = 1 / (w * w)
    t = (1 + 0.5 / w + z * powers(z, _BERNOULLI[::-1])) / w
    up: Any = 0.0
    for k in range(9, -1, -1):
        up = up + 1 / ((y + float(k)) * (y + float(k)))
    t = m.where(small, t + up, t)
    s = m.sin(math.pi * x)
    return m.where(x < 0.5, math.pi**2 / (s * s) - t, t)


@formula
def lgamma(m: Any, x: Any) -> Any:
    """log |gamma(x)|: a series between the zeros 1 and 2, Stirling's (A&S 6.1.41) above, reflection below."""
    y = m.where(x < 0.5, 1 - x, x)
    near = (y - 1) * (y - 2) * series(m, (y - 1.75) * 0.8, C.LGAMMA)
    small = y < 10
    w = m.where(small, y + 7, y)
    z = 1 / (w * w)
    tail = powers(z, [b / ((2 * k + 1) * (2 * k + 2)) for k, b in enumerate(_BERNOULLI)][::-1]) / w
    far = (w - 0.5) * m.log(w) - w + 0.5 * math.log(2 * math.pi) + tail
    rising: Any = y
    for k in range(1, 7):
        rising = rising * (y + float(k))
    far = far - m.where(small, m.log(m.where(small, rising, 1.0)), 0.0)
    above = m.where(y < 3, near, far)
    below = math.log(math.pi) - m.log(m.abs(m.sin(math.pi * (x - m.round(x))))) - above
    below = m.where(m.equal(m.round(x), x), math.inf, below)  # all large numbers are whole
    above = m.where(m.equal(y, math.inf), math.inf, above)
    return m.where(m.equal(m.abs(x), math.inf), math.inf, m.where(x < 0.5, below, above))
