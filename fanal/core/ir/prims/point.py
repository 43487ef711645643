"""Pointwise primitives: one result element from one element of each operand.

Operands broadcast as in NumPy and share one dtype; gradients come out in the broadcast shape and the caller sums
them down. `code` is written once against a scalar emitter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.ir.prims.batching import broadcasting
from fanal.core.ir.program import Node
from fanal.core.ir.row import NO_GRADIENT, Row, kept, ordered, prim, same, spread


def _bool(inputs: tuple, params: tuple) -> dt.dtype:
    return dt.bool_


def _real(inputs: tuple, params: tuple) -> dt.dtype:
    return inputs[0].dtype.to_real()


def _second(inputs: tuple, params: tuple) -> dt.dtype:
    return inputs[1].dtype


def _quiet(f):  # type: ignore[no-untyped-def]
    """Evaluate without NumPy's floating-point warnings: infinities and NaN are values here, as in PyTorch."""

    def call(*args):  # type: ignore[no-untyped-def]
        with np.errstate(all="ignore"):
            return f(*args)

    return call


def _one_by_one(f: Callable) -> Callable:
    """Make a reference from a function of one Python float."""
    table = np.frompyfunc(f, 1, 1)
    return lambda x: np.asarray(table(np.asarray(x, np.float64))).astype(x.dtype)


def unary(
    name: str,
    ref: Callable,
    grad: Any,
    code: Any,
    flops: int = 1,
    domain: tuple = (-2, 2),
    exact: bool = False,
    dtype: Callable = kept,
    fold: Callable | None = None,
) -> Row:
    """Declare a pointwise primitive of one operand."""
    return prim(
        name,
        kind="point",
        shape=same,
        dtype=dtype,
        ref=_quiet(ref),
        grad=grad,
        batch=broadcasting,
        code=code,
        flops=flops,
        domain=domain,
        exact=exact,
        fold=fold,
    )


def binary(
    name: str,
    ref: Callable,
    grad: Any,
    code: Any,
    flops: int = 1,
    domain: tuple = (-2, 2),
    exact: bool = False,
    dtype: Callable = kept,
) -> Row:
    """Declare a pointwise primitive of two operands."""
    return prim(
        name,
        kind="point",
        arity=2,
        shape=spread,
        dtype=dtype,
        ref=_quiet(ref),
        grad=grad,
        batch=broadcasting,
        code=code,
        flops=flops,
        domain=domain,
        exact=exact,
    )


def num(x: Node, value: float | complex) -> Node:
    """Return the constant `value` in the dtype of `x`."""
    from fanal.core.ir.prims.source import full

    return full((), value, x.dtype)


def _convert_ref(x: np.ndarray, to: dt.dtype) -> np.ndarray:
    if x.dtype.kind == "c" and not to.is_complex and to is not dt.bool_:
        x = x.real
    if to is dt.bool_:
        return x != 0
    if x.dtype.kind == "f" and to.category == 1 and to.itemsize < 8:
        with np.errstate(all="ignore"):  # C++ converts through a wider integer: wraps instead of saturating
            return x.astype(np.int64).astype(to.np)
    if to is dt.float8_e4m3fn:  # has no infinity: saturates
        return x.astype(np.float32).clip(-448, 448).astype(to.np)
    return x.astype(to.np)


convert: Row = prim(
    "convert",
    kind="point",
    shape=same,
    dtype=lambda i, p: p[0],
    ref=_quiet(_convert_ref),
    grad=lambda g, y, x, to: [
        convert(real(g) if g.dtype.is_complex and not x.dtype.is_complex else g, x.dtype)
    ],
    batch=broadcasting,
    code=lambda e, x, to: e.convert(x, to),
    flops=0,
    exact=True,
    fold=lambda x, to: x if x.dtype is to else None,
)
bitcast: Row = prim(
    "bitcast",
    kind="point",
    shape=same,
    dtype=lambda i, p: p[0],
    ref=lambda x, to: x.view(to.np),
    grad=NO_GRADIENT,
    batch=broadcasting,
    code=lambda e, x, to: e.bitcast(x, to),
    flops=0,
    exact=True,
    fold=lambda x, to: x if x.dtype is to else None,
)

conj: Row = unary(
    "conj",
    np.conj,
    lambda g, y, x: [conj(g)],
    lambda e, x: e.conj(x),
    exact=True,
    fold=lambda x: None if x.dtype.is_complex else x,
)
real: Row = unary(
    "real",
    np.real,
    lambda g, y, x: [convert(g, x.dtype)],
    lambda e, x: e.real(x),
    exact=True,
    dtype=_real,
    fold=lambda x: None if x.dtype.is_complex else x,
)
imag: Row = unary(
    "imag",
    np.imag,
    lambda g, y, x: [mul(convert(g, x.dtype), num(x, 1j))],
    lambda e, x: e.imag(x),
    exact=True,
    dtype=_real,
)

neg: Row = unary("neg", np.negative, lambda g, y, x: [neg(g)], lambda e, x: e.neg(x), exact=True)
abs_: Row = unary(
    "abs",
    np.abs,
    lambda g, y, x: [mul(g, sign(x))] if not x.dtype.is_complex else [mul(convert(g, x.dtype), sign(x))],
    lambda e, x: e.abs(x),
    exact=True,
    dtype=_real,
)


def _sign_ref(x: np.ndarray) -> np.ndarray:
    if x.dtype.kind == "c":
        r = np.abs(x)
        return np.where(r == 0, 0, x / np.where(r == 0, 1, r)).astype(x.dtype)
    if x.dtype.kind in "iub":
        return x if x.dtype == bool else np.sign(x)
    return np.where(np.isnan(x) | (x == 0), np.zeros((), x.dtype), np.sign(x))


def _phase_grad(g: Node, y: Node, x: Node) -> Node:
    """The part of g across the direction y of x, divided by |x|; 0 at 0."""
    size = convert(abs_(x), x.dtype)
    still = eq(size, num(size, 0))
    across = sub(g, mul(y, convert(real(mul(conj(g), y)), y.dtype)))
    return where(still, num(g, 0), div(across, where(still, num(size, 1), size)))


sign: Row = unary(
    "sign",
    _sign_ref,
    lambda g, y, x: [_phase_grad(g, y, x)] if x.dtype.is_complex else _zero(g, y, x),
    lambda e, x: e.sign(x),
    exact=True,
)


def _zero(g: Node, y: Node, x: Node) -> list[Node | None]:
    from fanal.core.ir.prims.view import zeros

    return [zeros(x.shape, x.dtype)]  # of an infinite gradient, too


floor: Row = unary("floor", np.floor, _zero, lambda e, x: e.floor(x), exact=True)
ceil: Row = unary("ceil", np.ceil, _zero, lambda e, x: e.ceil(x), exact=True)
trunc: Row = unary("trunc", np.trunc, _zero, lambda e, x: e.trunc(x), exact=True)
round_: Row = unary("round", np.rint, _zero, lambda e, x: e.round(x), exact=True)  # half to even, as PyTorch
sqrt: Row = unary(
    "sqrt",
    np.sqrt,
    lambda g, y, x: [div(g, conj(mul(num(y, 2), y)))],
    lambda e, x: e.sqrt(x),
    4,
    (0.1, 4),
    True,
)
exp: Row = unary("exp", np.exp, lambda g, y, x: [mul(g, conj(y))], lambda e, x: e.exp(x), 8)
expm1: Row = unary(
    "expm1", np.expm1, lambda g, y, x: [mul(g, conj(add(y, num(y, 1))))], lambda e, x: e.expm1(x), 10
)
log: Row = unary("log", np.log, lambda g, y, x: [div(g, conj(x))], lambda e, x: e.log(x), 10, (0.1, 4))
log1p: Row = unary(
    "log1p",
    np.log1p,
    lambda g, y, x: [div(g, conj(add(x, num(x, 1))))],
    lambda e, x: e.log1p(x),
    12,
    (-0.9, 4),
)
log2: Row = unary(
    "log2",
    np.log2,
    lambda g, y, x: [div(g, conj(times(x, math.log(2))))],
    lambda e, x: e.log2(x),
    10,
    (0.1, 4),
)
sin: Row = unary("sin", np.sin, lambda g, y, x: [mul(g, conj(cos(x)))], lambda e, x: e.sin(x), 12)
cos: Row = unary("cos", np.cos, lambda g, y, x: [neg(mul(g, conj(sin(x))))], lambda e, x: e.cos(x), 12)


def times(x: Node, number: float) -> Node:
    """x times a number that is not rounded to 16 bits before, as in PyTorch's kernels."""
    to = dt.ACCUMULATE.get(x.dtype)
    if to is not None:
        return convert(times(convert(x, to), number), x.dtype)
    return mul(x, num(x, number))


def _tanh_slope(g: Node, y: Node, x: Node) -> list[Node]:
    to = dt.ACCUMULATE.get(y.dtype)  # 16-bit floats round once
    if to is not None:
        g, y = convert(g, to), convert(y, to)
    return [mul(g, conj(sub(num(y, 1), mul(y, y))))]


tanh: Row = unary("tanh", np.tanh, _tanh_slope, lambda e, x: e.tanh(x), 15)


def _acosh_slope(g: Node, y: Node, x: Node) -> list[Node]:
    if not x.dtype.is_complex:
        x = abs_(x)  # below -1, too, where PyTorch's is that of sqrt(x * x - 1), if of a NaN
    return [div(g, conj(mul(sqrt(sub(x, num(x, 1))), sqrt(add(x, num(x, 1))))))]


acosh: Row = unary(
    "acosh",
    np.arccosh,
    _acosh_slope,
    lambda e, x: e.acosh(x),
    25,
    (1.1, 4),
)

# The rarer elementary functions are one row, whose parameter says which: (meaning, gradient rule).
ELEMENTARY: dict[str, tuple[Callable, Callable[[Node, Node, Node], Node]]] = {
    "tan": (np.tan, lambda g, y, x: mul(g, conj(add(mul(y, y), num(y, 1))))),
    "asin": (np.arcsin, lambda g, y, x: div(g, conj(sqrt(sub(num(x, 1), mul(x, x)))))),
    "acos": (np.arccos, lambda g, y, x: neg(div(g, conj(sqrt(sub(num(x, 1), mul(x, x))))))),
    "atan": (np.arctan, lambda g, y, x: div(g, conj(add(num(x, 1), mul(x, x))))),
    "sinh": (np.sinh, lambda g, y, x: mul(g, conj(cosh(x)))),
    "cosh": (np.cosh, lambda g, y, x: mul(g, conj(sinh(x)))),
    "asinh": (np.arcsinh, lambda g, y, x: div(g, conj(sqrt(add(mul(x, x), num(x, 1)))))),
    "atanh": (np.arctanh, lambda g, y, x: div(g, conj(sub(num(x, 1), mul(x, x))))),
}
elementary: Row = prim(
    "elementary",
    kind="point",
    shape=same,
    dtype=kept,
    ref=_quiet(lambda x, name: ELEMENTARY[name][0](x)),
    grad=lambda g, y, x, name: [ELEMENTARY[name][1](g, y, x)],
    batch=broadcasting,
    code=lambda e, x, name: getattr(e, name)(x),
    flops=20,
    domain=(-0.9, 0.9),
)


def tan(x: Node) -> Node:
    return elementary(x, "tan")


def asin(x: Node) -> Node:
    return elementary(x, "asin")


def acos(x: Node) -> Node:
    return elementary(x, "acos")


def atan(x: Node) -> Node:
    return elementary(x, "atan")


def sinh(x: Node) -> Node:
    return elementary(x, "sinh")


def cosh(x: Node) -> Node:
    return elementary(x, "cosh")


def asinh(x: Node) -> Node:
    return elementary(x, "asinh")


def atanh(x: Node) -> Node:
    return elementary(x, "atanh")


_TWO_OVER_SQRT_PI = 2 / math.sqrt(math.pi)
erf: Row = unary(
    "erf",
    _one_by_one(math.erf),
    lambda g, y, x: [mul(g, times(exp(neg(mul(x, x))), _TWO_OVER_SQRT_PI))],
    lambda e, x: e.erf(x),
    15,
    dtype=ordered("erf_vml"),
)
erfc: Row = unary(
    "erfc",
    _one_by_one(math.erfc),
    lambda g, y, x: [mul(g, times(exp(neg(mul(x, x))), -_TWO_OVER_SQRT_PI))],
    lambda e, x: e.erfc(x),
    20,
    dtype=ordered("erfc_vml"),
)
not_: Row = unary("not", np.invert, NO_GRADIENT, lambda e, x: e.not_(x), exact=True)

add: Row = binary("add", np.add, lambda g, y, a, b: [g, g], lambda e, a, b: e.add(a, b), exact=True)
sub: Row = binary(
    "sub",
    lambda a, b: np.bitwise_xor(a, b) if a.dtype == bool else np.subtract(a, b),
    lambda g, y, a, b: [g, neg(g)],
    lambda e, a, b: e.sub(a, b),
    exact=True,
)
mul: Row = binary(
    "mul",
    np.multiply,
    lambda g, y, a, b: [mul(g, conj(b)) if a.varies else None, mul(g, conj(a)) if b.varies else None],
    lambda e, a, b: e.mul(a, b),
    exact=True,
)
div: Row = binary(
    "div",
    np.divide,
    lambda g, y, a, b: [
        div(g, conj(b)),
        mul(neg(g), conj(div(div(a, b), b))) if b.varies else None,
    ],
    lambda e, a, b: e.div(a, b),
    4,
    (0.5, 2),
    True,
)


def _idiv_ref(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if (b == 0).any():
        raise RuntimeError("ZeroDivisionError")
    q = np.floor_divide(a, b)
    return np.where((q < 0) & (q * b != a), q + 1, q).astype(a.dtype)


# Integer division rounds toward zero; op `floor_divide` corrects it. Division by zero raises.
idiv: Row = binary("idiv", _idiv_ref, NO_GRADIENT, lambda e, a, b: e.idiv(a, b), 20, (1, 9), True)
fmod: Row = binary(
    "fmod",
    np.fmod,
    lambda g, y, a, b: [g, mul(neg(g), trunc(div(a, b)))],
    lambda e, a, b: e.fmod(a, b),
    20,
    (0.5, 2),
    True,
)
def _pow_ref(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """To negative powers, integers other than 1 and -1 become 0; NumPy refuses them."""
    if a.dtype.kind != "i" or not (b < 0).any():
        return np.power(a, b)
    y = np.power(a, np.abs(b))
    return np.where((b >= 0) | (np.abs(a) == 1), y, 0).astype(a.dtype)


pow_: Row = binary(
    "pow", _pow_ref, lambda g, y, a, b: _pow_grad(g, y, a, b), lambda e, a, b: e.pow(a, b), 30, (0.5, 2)
)
atan2: Row = binary(
    "atan2", np.arctan2, lambda g, y, a, b: _atan2_grad(g, a, b), lambda e, a, b: e.atan2(a, b), 30, (0.5, 2)
)
def _extreme_ref(first, f):  # type: ignore[no-untyped-def]
    """Return the first operand where it is no worse: of 0 and -0, NumPy returns either."""

    def call(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return f(a, b) if a.dtype.kind in "iub" else np.where(first(a, b) | (a != a), a, b)

    return call


# NaN propagates; equal operands share the gradient evenly (checked against PyTorch 2.13).
max_: Row = binary(
    "max",
    _extreme_ref(np.greater_equal, np.maximum),
    lambda g, y, a, b: _extreme_grad(g, lt(b, a), a, b),
    lambda e, a, b: e.max(a, b),
    exact=True,
    dtype=ordered("maximum"),
)
min_: Row = binary(
    "min",
    _extreme_ref(np.less_equal, np.minimum),
    lambda g, y, a, b: _extreme_grad(g, lt(a, b), a, b),
    lambda e, a, b: e.min(a, b),
    exact=True,
    dtype=ordered("minimum"),
)
and_: Row = binary("and", np.bitwise_and, NO_GRADIENT, lambda e, a, b: e.and_(a, b), exact=True)
or_: Row = binary("or", np.bitwise_or, NO_GRADIENT, lambda e, a, b: e.or_(a, b), exact=True)
shl: Row = binary(
    "shl",
    lambda a, b: np.where((b < 0) | (b >= 8 * a.itemsize), 0, np.left_shift(a, b)).astype(a.dtype),
    NO_GRADIENT,
    lambda e, a, b: e.shl(a, b),
    exact=True,
    domain=(0, 5),
)
shr: Row = binary(
    "shr",
    lambda a, b: np.right_shift(
        a, np.where((b < 0) | (b >= 8 * a.itemsize), 8 * a.itemsize - 1, b).astype(a.dtype)
    ),
    NO_GRADIENT,
    lambda e, a, b: e.shr(a, b),
    exact=True,
    domain=(0, 5),
)
eq: Row = binary("eq", np.equal, NO_GRADIENT, lambda e, a, b: e.eq(a, b), exact=True, dtype=_bool)
lt: Row = binary("lt", np.less, NO_GRADIENT, lambda e, a, b: e.lt(a, b), exact=True, dtype=ordered("lt", _bool))
le: Row = binary("le", np.less_equal, NO_GRADIENT, lambda e, a, b: e.le(a, b), exact=True, dtype=ordered("le", _bool))


def xor(a: Node, b: Node) -> Node:
    """Bits, or truth values, that are in one of the two."""
    return and_(or_(a, b), not_(and_(a, b)))


def ne(a: Node, b: Node) -> Node:
    """Whether values differ; NaN does from everything."""
    return not_(eq(a, b))


def nextafter(a: Node, b: Node) -> Node:
    """The next float after a towards b: of one sign, floats are ordered as the integers of the same bits are."""
    bits = {2: dt.int16, 4: dt.int32, 8: dt.int64}[a.dtype.itemsize]
    zero = num(a, 0)
    i = bitcast(a, bits)
    outwards = eq(lt(a, b), lt(zero, a))
    moved = bitcast(add(i, where(outwards, num(i, 1), num(i, -1))), a.dtype)
    least = bitcast(num(i, 1), a.dtype)
    moved = where(eq(a, zero), where(lt(b, zero), neg(least), least), moved)
    moved = where(eq(a, b), b, moved)
    return where(or_(ne(a, a), ne(b, b)), add(a, b), moved)


where: Row = prim(
    "where",
    kind="point",
    arity=3,
    shape=spread,
    dtype=_second,
    ref=np.where,
    grad=lambda g, y, c, a, b: [None, where(c, g, num(g, 0)), where(c, num(g, 0), g)],
    batch=broadcasting,
    code=lambda e, c, a, b: e.where(c, a, b),
    flops=1,
    exact=True,
)


def _pow_grad(g: Node, y: Node, a: Node, b: Node) -> list[Node | None]:
    ga = gb = None
    if a.varies:  # b * a**(b-1), and 0 where b is 0
        ga = where(eq(b, num(b, 0)), num(g, 0), mul(g, conj(mul(b, pow_(a, sub(b, num(b, 1)))))))
    if b.varies:  # y * log(a), and 0 where a is 0 and b >= 0
        free = eq(a, num(a, 0)) if a.dtype.is_complex else and_(eq(a, num(a, 0)), le(num(b, 0), b))
        gb = where(free, num(g, 0), mul(g, conj(mul(y, log(a)))))
    return [ga, gb]


def _atan2_grad(g: Node, a: Node, b: Node) -> list[Node | None]:
    r = div(num(g, 1), add(mul(a, a), mul(b, b)))
    return [mul(mul(g, b), r), mul(mul(g, neg(a)), r)]


def _extreme_grad(g: Node, first: Node, a: Node, b: Node) -> list[Node | None]:
    share = where(eq(a, b), mul(g, num(g, 0.5)), g)
    zero, tie = num(g, 0), eq(a, b)
    return [where(or_(first, tie), share, zero), where(and_(first, not_(tie)), zero, share)]
