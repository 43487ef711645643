"""Evenly spaced points, and windows for spectra: torch.*_window and torch.signal.windows, from the same few formulas.

Source of the windows: Harris, "On the use of windows for harmonic analysis with the discrete Fourier transform" (1978).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.layout import strided
from fanal.core.engine.handle import Handle
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import counted, public, read, wrap
from fanal.core.ops.factory import placed

# ---- points on a line ----------------------------------------------------------------------------


def _two_sum(a: Node, b: Node) -> tuple[Node, Node]:
    """Return the rounded sum of float64 values and its exact error (Knuth)."""
    total = P.add(a, b)
    part = P.sub(total, a)
    return total, P.add(P.sub(a, P.sub(total, part)), P.sub(b, part))


def _to_odd(total: Node, error: Node) -> Node:
    """Round `total + error` to odd: an inexact sum takes whichever float64 neighbour is odd.

    A later rounding to fewer bits is then the correct rounding of the exact sum.
    """
    zero, one = P.num(total, 0), counted(1, dt.int64)
    bits = P.bitcast(total, dt.int64)
    up = P.eq(P.lt(zero, error), P.lt(zero, total))
    there = P.add(bits, P.where(up, one, P.neg(one)))
    inexact = P.or_(P.lt(zero, error), P.lt(error, zero))
    even = P.eq(P.and_(bits, one), P.num(bits, 0))
    return P.bitcast(P.where(P.and_(inexact, even), there, bits), dt.float64)


def _halves(x: Node) -> tuple[Node, Node]:
    """Split float64 values into two of 26 bits each (Veltkamp)."""
    wide = P.mul(x, P.num(x, 2.0**27 + 1))
    high = P.sub(wide, P.sub(wide, x))
    return high, P.sub(x, high)


def fma(a: Node, b: Node, c: Node) -> Node:
    """Return a * b + c in float32 or float64, rounded once, as kernels compiled with contraction have it.

    Source: Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", IEEE Trans. Comput. 57(4), 2008.
    """
    if a.dtype is dt.float32:
        a, b, c = (P.convert(x, dt.float64) for x in (a, b, c))
        return P.convert(_to_odd(*_two_sum(P.mul(a, b), c)), dt.float32)  # a product of 24 + 24 bits is exact
    size = P.max_(P.abs_(b), P.abs_(c))  # the products of halves must neither overflow nor underflow
    scale = P.where(P.lt(P.num(b, 2.0**900), size), P.num(b, 2.0**-200), P.where(
        P.lt(size, P.num(b, 2.0**-800)), P.num(b, 2.0**200), P.num(b, 1)))
    b, c = P.mul(b, scale), P.mul(c, scale)
    product = P.mul(a, b)
    (a1, a2), (b1, b2) = _halves(a), _halves(b)
    error = P.add(P.sub(P.mul(a1, b1), product), P.mul(a1, b2))
    error = P.add(P.add(error, P.mul(a2, b1)), P.mul(a2, b2))
    low, rest = _two_sum(error, c)
    high, middle = _two_sum(product, low)
    return P.div(P.add(high, _to_odd(*_two_sum(middle, rest))), scale)


def _counted(x: Any, d: dt.dtype) -> Node:
    return P.full((), complex(x), d) if d.is_complex else counted(x, d)


def points(start: Any, end: Any, steps: int, d: dt.dtype) -> Node:
    """Count from both ends towards the middle, in the arithmetic of the dtype (of float64, for integers)."""
    if steps is None or operator.index(steps) < 0:
        raise RuntimeError("number of steps must be non-negative")
    kind = dt.float64 if d.category == 1 else dt.ACCUMULATE.get(d, d)
    whole = (lambda x: int(x)) if d.category == 1 else (lambda x: x)
    ends = [P.convert(x if d.category > 1 else P.convert(x, dt.int64), kind) if isinstance(x, Node)
            else kind.np.type(whole(x)) for x in (start, end)]
    if any(isinstance(x, Node) for x in ends):
        a, b = (x if isinstance(x, Node) else _counted(x, kind) for x in ends)
        step = P.div(P.sub(b, a), _counted(max(steps - 1, 1), kind))
    else:
        with np.errstate(all="ignore"):
            width = (ends[1] - ends[0]) / kind.np.type(max(steps - 1, 1))
        a, b, step = (_counted(x, kind) for x in (*ends, width))
    if steps < 2:
        return P.convert(P.broadcast(a, (steps,)), d)
    i = P.iota((steps,), 0, dt.int64)
    below = P.lt(i, counted(steps // 2, dt.int64))
    i = P.convert(P.where(below, i, P.sub(i, counted(steps - 1, dt.int64))), kind)
    nearest = P.where(below, a, b)
    if kind.is_complex:
        return P.convert(P.add(P.mul(i, step), nearest), d)
    return P.convert(fma(i, step, nearest), d)


def _end(x: Any, name: str) -> Any:
    if not isinstance(x, Handle):
        return x
    if x._shape:
        raise RuntimeError(
            f"linspace only supports 0-dimensional start and end tensors, but got {name} with "
            f"{len(x._shape)} dimension(s)."
        )
    return read(x)


def _default(*ends: Any) -> dt.dtype:
    is_complex = any(x.dtype.is_complex if isinstance(x, Node) else isinstance(x, complex) for x in ends)
    return dt.get_default().to_complex() if is_complex else dt.get_default()


@public(method=False, out="fill")
def linspace(
    start: Any,
    end: Any,
    steps: int,
    *,
    dtype: dt.dtype | None = None,
    device: Any = None,
    layout: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Any:
    """Return `steps` numbers evenly spaced from start to end."""
    start, end = _end(start, "start"), _end(end, "end")
    return placed(wrap(points(start, end, steps, dtype or _default(start, end))), device, requires_grad)


@public(method=False, out="fill")
def logspace(
    start: Any,
    end: Any,
    steps: int,
    base: float = 10.0,
    *,
    dtype: dt.dtype | None = None,
    device: Any = None,
    layout: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Any:
    """Return base to the power of `steps` numbers evenly spaced from start to end."""
    start, end = _end(start, "start"), _end(end, "end")
    d = dtype or _default(start, end)
    kind = dt.complex128 if d.is_complex else dt.float64
    if d.category == 1:  # of the ends only the whole part counts; the exponents between are not rounded
        start, end = (P.convert(x, dt.int64) if isinstance(x, Node) else int(x) for x in (start, end))
    exponents = points(start, end, steps, kind)
    return placed(wrap(P.convert(P.pow_(_counted(base, kind), exponents), d)), device, requires_grad)


# ---- windows -------------------------------------------------------------------------------------

Rule = Callable[..., Node]  # (n, ...) -> a symmetric window of n >= 2 points, in float64


def _number(x: float) -> Node:
    return counted(x, dt.float64)


def _counts(n: int, times: float = 1.0, plus: float = 0.0) -> Node:
    """Return times * (0, 1, ..., n - 1) + plus."""
    i = P.convert(P.iota((n,), 0, dt.int64), dt.float64)
    return P.add(P.mul(i, _number(times)), _number(plus))


def _cosines(n: int, *a: float) -> Node:
    t = _counts(n, 2 * math.pi / (n - 1))
    total = _number(a[0])
    for k, c in enumerate(a[1:], 1):
        total = P.add(total, P.mul(P.cos(P.mul(t, _number(k))), _number((-1) ** k * c)))
    return P.broadcast(total, (n,))


def _hamming(n: int, alpha: float = 0.54, beta: float | None = None) -> Node:
    return _cosines(n, alpha, 1 - alpha if beta is None else beta)


def _triangle(n: int) -> Node:
    return P.sub(_number(1), P.abs_(_counts(n, 2 / (n - 1), -1)))


def _kaiser(n: int, beta: float = 12.0) -> Node:
    t = _counts(n, 2 / (n - 1), -1)
    within = P.max_(P.sub(_number(1), P.mul(t, t)), _number(0))
    bessel = lambda x: P.special(x, "i0")
    return P.div(bessel(P.mul(_number(beta), P.sqrt(within))), bessel(_number(beta)))


def _window(m: int, periodic: bool, rule: Callable[[int], Node], d: dt.dtype, device: Any, grad: bool) -> Any:
    """Return the first `m` points of a symmetric window, which is one point longer if `periodic`."""
    values = P.full((m,), 1, d) if m <= 1 else P.convert(P.corner(rule(m + periodic), (m,)), d)
    return placed(wrap(values), device, grad)


def _old(name: str, rule: Rule) -> None:
    """Make torch.<name>."""

    def fn(
        window_length: int,
        periodic: bool = True,
        *args: Any,
        dtype: dt.dtype | None = None,
        device: Any = None,
        layout: Any = None,
        requires_grad: bool = False,
        pin_memory: bool = False,
        **options: Any,
    ) -> Any:
        d = dtype or dt.get_default()
        if not d.is_floating_point:
            raise RuntimeError(f"{name} expects floating point dtypes, got: {dt.scalar_name(d)}")
        if window_length < 0:
            raise RuntimeError(
                f"{name} requires non-negative window_length, got window_length={window_length}"
            )
        symmetric = lambda n: rule(n, *args, **options)
        return _window(window_length, periodic, symmetric, d, device, requires_grad)

    fn.__name__ = name
    fn.__doc__ = f"Return the {name.replace('_', ' ')}; periodic for use in a spectrum, else symmetric."
    public(name, method=False)(fn)


_old("hann_window", lambda n: _hamming(n, 0.5))
_old("hamming_window", lambda n, alpha=0.54, beta=0.46: _hamming(n, alpha, beta))
_old("blackman_window", lambda n: _cosines(n, 0.42, 0.5, 0.08))
_old("bartlett_window", _triangle)
_old("kaiser_window", _kaiser)


def _new(name: str, rule: Rule, doc: str, check: Callable[..., None] | None = None) -> None:
    """Make torch.signal.windows.<name>; `rule` gets the symmetric length and the window's own options."""

    def fn(
        M: int,
        *,
        sym: bool = True,
        dtype: dt.dtype | None = None,
        layout: Any = strided,
        device: Any = None,
        requires_grad: bool = False,
        **options: Any,
    ) -> Any:
        d = dtype or dt.get_default()
        if check is not None:
            check(sym, **options)
        if M < 0:
            raise ValueError(f"{name} requires non-negative window length, got M={M}")
        if layout is not strided:
            raise ValueError(f"{name} is implemented for strided tensors only, got: {layout}")
        if d not in (dt.float32, dt.float64):
            raise ValueError(f"{name} expects float32 or float64 dtypes, got: {d}")
        return _window(M, not sym, lambda n: rule(n, **options), d, device, requires_grad)

    fn.__name__, fn.__doc__ = name, f"Return {doc} with M points; sym=False: of a window one point longer."
    public(name, module="signal.windows", method=False)(fn)


def _exponential(n: int, center: float | None = None, tau: float = 1.0) -> Node:
    middle = (n - 1) / 2 if center is None else center
    return P.exp(P.mul(P.abs_(_counts(n, 1, -middle)), _number(-1 / tau)))


def _check_exponential(sym: bool, center: float | None = None, tau: float = 1.0) -> None:
    if tau <= 0:
        raise ValueError(f"Tau must be positive, got: {tau} instead.")
    if sym and center is not None:
        raise ValueError("Center must be None for symmetric windows")


def _gaussian(n: int, std: float = 1.0) -> Node:
    t = _counts(n, 1 / std, (1 - n) / 2 / std)
    return P.exp(P.mul(P.mul(t, t), _number(-0.5)))


def _check_gaussian(sym: bool, std: float = 1.0) -> None:
    if std <= 0:
        raise ValueError(f"Standard deviation must be positive, got: {std} instead.")


def _check_kaiser(sym: bool, beta: float = 12.0) -> None:
    if beta < 0:
        raise ValueError(f"beta must be non-negative, got: {beta} instead.")


def _check_cosines(sym: bool, a: Any) -> None:
    if not isinstance(a, Iterable):
        raise TypeError("Coefficients must be a list/tuple")
    if not a:
        raise ValueError("Coefficients cannot be empty")


_new("bartlett", _triangle, "a triangle")
_new("blackman", lambda n: _cosines(n, 0.42, 0.5, 0.08), "the Blackman window")
_new("cosine", lambda n: P.sin(_counts(n, math.pi / n, math.pi / n / 2)), "half a wave of the sine")
_new("exponential", _exponential, "exp(-|n - center| / tau)", _check_exponential)
_new("gaussian", _gaussian, "a Gaussian of standard deviation std", _check_gaussian)
_new("general_cosine", lambda n, a: _cosines(n, *a), "a sum of cosines with weights a", _check_cosines)
_new("general_hamming", _hamming, "alpha minus (1 - alpha) times a cosine")
_new("hamming", _hamming, "the Hamming window")
_new("hann", lambda n: _hamming(n, 0.5), "the Hann window")
_new("kaiser", _kaiser, "the Kaiser window", _check_kaiser)
_new("nuttall", lambda n: _cosines(n, 0.3635819, 0.4891775, 0.1365995, 0.0106411), "the Nuttall window")
