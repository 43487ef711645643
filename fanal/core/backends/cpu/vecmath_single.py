"""Functions of float32 computed in float64, with the few terms that float32 needs: within 0.6 ULP.

Sources: argument reduction as in Cody & Waite, "Software Manual for the Elementary Functions"; the polynomials
are minimax fits of the relative error (Lawson's iteration), below 4e-9 each. Divisions and roots start from
those of float32; one Newton step makes them exact enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from fanal.core.backends.cpu.vecmath import FUNCTIONS, ROUND, copy_sign, horner, library, power, rarely
from fanal.core.base import dtype as dt

if TYPE_CHECKING:
    from fanal.core.backends.cpu.emit import Emitter, Scalar

_SIN = (-0.00019501751416457156, 0.008332015898771217, -0.16666650213701456, 0.9999999967589652)
_COS = (
    2.4372592359039488e-05, -0.001388652818656549, 0.04166661320067618,
    -0.4999999957120376, 0.9999999999438782,
)
_ATAN = (
    0.001091100447812747, -0.0071993303215313765, 0.022274236008431456, -0.04435734795318348, 0.0671609639233275,
    -0.08798766823792441, 0.11054499732817683, -0.14279159396355356, 0.19999604617658656, -0.33333323934693926,
    0.9999999996282025,
)  # fmt: skip
_ASIN = (
    0.037885558272578106, 0.014139509542808357, 0.031900799224257086, 0.0445030872249009, 0.07500604095198167,
    0.16666656944938604, 1.000000000254598,
)  # fmt: skip
# exp(r) = even(r * r) + r * odd(r * r), |r| <= ln 2 / 2
_EVEN = (0.0013948482091325769, 0.04166622041222498, 0.500000010662633, 0.9999999999603999)
_ODD = (0.00019907623567028585, 0.008333283480824493, 0.16666666786389894, 0.9999999999955155)
_SINH = (
    2.8185239283010518e-06, 0.00019835812450772522, 0.008333352592882969,
    0.16666666430247468, 1.0000000000459761,
)
_ATANH = (
    0.17758855952136884, 0.022983572311272224, 0.10340133464595276, 0.10956277901489889, 0.1429595805794135,
    0.19999670397329142, 0.33333337349900105, 0.9999999999199795,
)  # fmt: skip
_LOG = (0.1496669883509212, 0.1998725451722447, 0.33333409241562156, 0.9999999992950878)  # atanh(s) / s, s < 0.172
# exp(a * a) erfc(a) in t = 3 / (3 + a)
_ERFC = (
    -0.009714224807828206, 0.12093895240955249, -0.4868689685534813, 0.8765572832421934, -0.8293467502362787,
    0.705205643028035, -0.1650386891768899, 0.25343907725716985, 0.15574860919068587, 0.19128340007058436,
    0.18778498063308702, 1.0687558610444903e-05,
)  # fmt: skip
_OF = dt.float64


def _c(e: Emitter, value: float) -> Scalar:
    return e.const(value, _OF)


def _mul(e: Emitter, a: Scalar, b: Scalar) -> Scalar:
    return e.op("fmul", a, b)


def _reciprocal(e: Emitter, d: Scalar) -> Scalar:
    """Return 1 / d, which float32 can hold, to 45 bits."""
    q = e.convert(e.op("fdiv", e.const(1, dt.float32), e.convert(d, dt.float32)), _OF)
    return e.fma(q, e.fma(e.neg(d), q, _c(e, 1)), q)


def _root(e: Emitter, z: Scalar) -> Scalar:
    """Return the square root of what is between 0 and 1, to 45 bits."""
    s = e.intrinsic("sqrt", e.convert(z, dt.float32))
    least = e.const(1e-30, dt.float32)  # the root of 0 is 0
    half = e.op("fdiv", e.const(0.5, dt.float32), e.where(e.fcmp("olt", s, least), least, s))
    s = e.convert(s, _OF)
    return e.fma(e.fma(e.neg(s), s, z), e.convert(half, _OF), s)


def _quarter_turns(e: Emitter, x: Scalar) -> tuple[Scalar, Scalar, Scalar]:
    """Return (n as an integer, sin r, cos r) with x = n pi/2 + r."""
    magic = _c(e, ROUND[_OF])
    t = e.op("fadd", _mul(e, x, _c(e, 2 / math.pi)), magic)
    n = e.op("fsub", t, magic)
    r = e.fma(n, _c(e, -math.pi / 2), x)
    r = e.fma(n, _c(e, -6.123233995736766e-17), r)
    z = _mul(e, r, r)
    return e.cast("bitcast", t, dt.int64), _mul(e, r, horner(e, z, _SIN)), horner(e, z, _COS)


def _bit(e: Emitter, n: Scalar, k: int) -> Scalar:
    return e.icmp("ne", e.op("and", n, e.const(k, dt.int64)), e.const(0, dt.int64))


def _circular(quarter: int) -> Callable[[Emitter, Scalar], Scalar]:
    def call(e: Emitter, x: Scalar) -> Scalar:
        n, s, c = _quarter_turns(e, x)
        n = e.op("add", n, e.const(quarter, dt.int64))
        y = e.where(_bit(e, n, 1), c, s)
        return e.where(_bit(e, n, 2), e.neg(y), y)

    return call


def _tan(e: Emitter, x: Scalar) -> Scalar:
    n, s, c = _quarter_turns(e, x)
    odd = _bit(e, n, 1)
    return _mul(e, e.where(odd, c, s), _reciprocal(e, e.where(odd, e.neg(s), c)))


def _arc(e: Emitter, t: Scalar) -> Scalar:
    """Return atan(t), |t| <= 1."""
    return _mul(e, t, horner(e, _mul(e, t, t), _ATAN))


def _atan(e: Emitter, x: Scalar) -> Scalar:
    a, far = e.intrinsic("fabs", x), _c(e, 1e30)
    a = e.where(e.fcmp("ogt", a, far), far, a)
    large = e.fcmp("ogt", a, _c(e, 1))
    y = _arc(e, e.where(large, _reciprocal(e, a), a))
    return copy_sign(e, e.where(large, e.op("fsub", _c(e, math.pi / 2), y), y), x)


def _atan2(e: Emitter, y: Scalar, x: Scalar) -> Scalar:
    a, b, infinite = e.intrinsic("fabs", y), e.intrinsic("fabs", x), _c(e, math.inf)
    steep = e.fcmp("ogt", a, b)
    most, least = e.where(steep, a, b), e.where(steep, b, a)
    t = e.op("fdiv", least, most)
    t = e.where(e.fcmp("oeq", most, _c(e, 0)), _c(e, 0), t)
    t = e.where(e.fcmp("oeq", least, infinite), _c(e, 1), t)
    angle = _arc(e, t)
    angle = e.where(steep, e.op("fsub", _c(e, math.pi / 2), angle), angle)
    behind = e.icmp("slt", e.cast("bitcast", x, dt.int64), e.const(0, dt.int64))  # -0 too
    angle = e.where(behind, e.op("fsub", _c(e, math.pi), angle), angle)
    return e.where(e.fcmp("uno", x, y), _c(e, math.nan), copy_sign(e, angle, y))


def _arcsine(e: Emitter, x: Scalar) -> tuple[Scalar, Scalar]:
    """Return (|x| > 1/2, y): y is asin |x|, or where that holds half of acos |x|."""
    a = e.intrinsic("fabs", x)
    large = e.fcmp("ogt", a, _c(e, 0.5))
    rest = e.fma(a, _c(e, -0.5), _c(e, 0.5))
    z = e.where(large, rest, _mul(e, a, a))
    s = e.where(large, _root(e, rest), a)
    return large, _mul(e, s, horner(e, z, _ASIN))


def _asin(e: Emitter, x: Scalar) -> Scalar:
    large, y = _arcsine(e, x)
    return copy_sign(e, e.where(large, e.fma(y, _c(e, -2), _c(e, math.pi / 2)), y), x)


def _acos(e: Emitter, x: Scalar) -> Scalar:
    large, y = _arcsine(e, x)
    negative = e.fcmp("olt", x, _c(e, 0))
    twice = e.op("fadd", y, y)
    far = e.where(negative, e.op("fsub", _c(e, math.pi), twice), twice)
    return e.where(large, far, e.op("fsub", _c(e, math.pi / 2), copy_sign(e, y, x)))


def _exponentials(e: Emitter, a: Scalar) -> tuple[Scalar, Scalar]:
    """Return exp(a) / 2 and exp(-a) / 2."""
    end = _c(e, 120)  # beyond, float32 overflows
    a = e.where(e.fcmp("ogt", a, end), end, a)
    magic = _c(e, ROUND[_OF])
    t = e.op("fadd", _mul(e, a, _c(e, math.log2(math.e))), magic)
    n = e.op("fsub", t, magic)
    r = e.fma(n, _c(e, -math.log(2)), a)
    z = _mul(e, r, r)
    even, odd = horner(e, z, _EVEN), _mul(e, r, horner(e, z, _ODD))
    whole, one = e.op("sub", e.cast("bitcast", t, dt.int64), e.cast("bitcast", magic, dt.int64)), e.const(1, dt.int64)
    up = power(e, e.op("sub", whole, one), _OF)
    down = power(e, e.op("sub", e.const(-1, dt.int64), whole), _OF)
    return _mul(e, e.op("fadd", even, odd), up), _mul(e, e.op("fsub", even, odd), down)


def _cosh(e: Emitter, x: Scalar) -> Scalar:
    return e.op("fadd", *_exponentials(e, e.intrinsic("fabs", x)))


def _sinh(e: Emitter, x: Scalar) -> Scalar:
    a = e.intrinsic("fabs", x)
    near = _mul(e, x, horner(e, _mul(e, x, x), _SINH))
    far = copy_sign(e, e.op("fsub", *_exponentials(e, a)), x)
    return e.where(e.fcmp("olt", a, _c(e, 1)), near, far)


def _erfc(e: Emitter, x: Scalar) -> Scalar:
    a, end = e.intrinsic("fabs", x), _c(e, 10.3)  # beyond, float32 has 0
    a = e.where(e.fcmp("ogt", a, end), end, a)
    t = _mul(e, _c(e, 3), _reciprocal(e, e.op("fadd", a, _c(e, 3))))
    _, half = _exponentials(e, _mul(e, a, a))
    y = _mul(e, e.op("fadd", half, half), horner(e, t, _ERFC))
    return e.where(e.fcmp("olt", x, _c(e, 0)), e.op("fsub", _c(e, 2), y), y)


def _parts(e: Emitter, x: Scalar) -> tuple[Scalar, Scalar]:
    """Return (n, s) with x = 2**n (1 + s) / (1 - s), |s| < 0.172, for positive finite x."""
    root = e.const(0x3FE6A09E667F3BCD, dt.int64)  # bits of sqrt(1/2)
    bits = e.cast("bitcast", x, dt.int64)
    n = e.op("ashr", e.op("sub", bits, root), e.const(52, dt.int64))
    m = e.cast("bitcast", e.op("sub", bits, e.op("shl", n, e.const(52, dt.int64))), _OF)
    s = _mul(e, e.op("fsub", m, _c(e, 1)), _reciprocal(e, e.op("fadd", m, _c(e, 1))))
    return e.cast("sitofp", n, _OF), s


def _log_of(e: Emitter, x: Scalar, unit: float) -> Scalar:
    """Return log(x) * unit for positive finite x."""
    n, s = _parts(e, x)
    series = _mul(e, _mul(e, s, _c(e, 2 * unit)), horner(e, _mul(e, s, s), _LOG))
    return e.fma(n, _c(e, math.log(2) * unit), series)


def _log2(e: Emitter, x: Scalar) -> Scalar:
    y = _log_of(e, x, 1 / math.log(2))
    y = e.where(e.fcmp("oeq", x, _c(e, math.inf)), x, y)
    y = e.where(e.fcmp("oeq", x, _c(e, 0)), _c(e, -math.inf), y)
    return e.where(e.fcmp("ult", x, _c(e, 0)), _c(e, math.nan), y)


def _atanh(e: Emitter, x: Scalar) -> Scalar:
    a, one = e.intrinsic("fabs", x), _c(e, 1)
    near = _mul(e, x, horner(e, _mul(e, x, x), _ATANH))
    far = _log_of(e, _mul(e, e.op("fadd", one, a), _reciprocal(e, e.op("fsub", one, a))), 0.5)
    far = e.where(e.fcmp("oeq", a, one), _c(e, math.inf), far)
    far = e.where(e.fcmp("ugt", a, one), _c(e, math.nan), far)
    return e.where(e.fcmp("olt", a, _c(e, 0.5)), near, copy_sign(e, far, x))


def _in_double(name: str, f: Callable[..., Scalar], limit: float | None = None) -> None:
    """Define the float32 form of a function, where there is fused multiply-add; beyond `limit`, the library's."""
    other = FUNCTIONS[name]

    def call(e: Emitter, *args: Scalar) -> Scalar:
        x = args[0]
        if x.dtype is not dt.float32 or not e.w.target.fma:
            return other(e, *args)
        y = e.convert(f(e, *(e.convert(a, _OF) for a in args)), x.dtype)
        if limit is None:
            return y
        large = e.fcmp("ugt", e.intrinsic("fabs", x), e.const(limit, x.dtype))
        return rarely(e, large, y, lambda: library(e, name, x))

    FUNCTIONS[name] = call


for _name, _f in (("atan", _atan), ("atan2", _atan2), ("asin", _asin), ("acos", _acos), ("cosh", _cosh),
                  ("sinh", _sinh), ("log2", _log2), ("atanh", _atanh), ("erfc", _erfc)):
    _in_double(_name, _f)
for _name, _f in (("sin", _circular(0)), ("cos", _circular(1)), ("tan", _tan)):
    _in_double(_name, _f, 1e9)
