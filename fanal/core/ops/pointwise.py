"""Pointwise operators: one result element from one element of each operand."""
from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.base.state import state
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ir.row import Row
from fanal.core.ops.arguments import no_zero
from fanal.core.ops.build import (
    Handle,
    Operand,
    check_fits,
    counted,
    dense,
    floating,
    is_number,
    node_of,
    nodes_of,
    number,
    public,
    read,
    result,
    result_type,
    scaling,
    unsupported,
    wide,
)


def _float_unary(name: str, row: Row, *aliases: str, inplace: bool = True, method: bool = True) -> Any:
    """Make an operator that computes integers in the default floating dtype."""
    def fn(input: Any) -> Any:
        return result(row(node_of(input, floating(input._dtype))), input)
    fn.__name__, fn.__doc__ = name, f"Return {name} of each element. Integers are computed in the default dtype."
    return public(name, inplace=inplace, out=True, aliases=aliases, method=method)(fn)


exp = _float_unary("exp", P.exp)
expm1 = _float_unary("expm1", P.expm1)
log = _float_unary("log", P.log)
log1p = _float_unary("log1p", P.log1p)
log2 = _float_unary("log2", P.log2)
sqrt = _float_unary("sqrt", P.sqrt)
sin = _float_unary("sin", P.sin)
cos = _float_unary("cos", P.cos)
tan = _float_unary("tan", P.tan)
asin = _float_unary("asin", P.asin, "arcsin")
acos = _float_unary("acos", P.acos, "arccos")
atan = _float_unary("atan", P.atan, "arctan")
sinh = _float_unary("sinh", P.sinh)
cosh = _float_unary("cosh", P.cosh)
tanh = _float_unary("tanh", P.tanh)
asinh = _float_unary("asinh", P.asinh, "arcsinh")
acosh = _float_unary("acosh", P.acosh, "arccosh")
atanh = _float_unary("atanh", P.atanh, "arctanh")
erf = _float_unary("erf", P.erf)
erfc = _float_unary("erfc", P.erfc)


def _plus(row: Row, input: Operand, other: Operand, alpha: Any, d: dt.dtype) -> Node:
    """row(input, alpha * other) in dtype `d`, rounded once."""
    a, b = node_of(input, d), node_of(other, d)
    if isinstance(alpha, bool) and d is not dt.bool_:
        raise RuntimeError("Boolean alpha only supported for Boolean results.")
    if isinstance(alpha, int) and alpha == 1:
        return row(a, b)
    if d.category < 2 and isinstance(alpha, float):
        raise RuntimeError("For integral input tensors, argument alpha must not be a floating point number.")
    check_fits(alpha, d)
    return P.convert(row(wide(a), P.mul(wide(b), wide(number(alpha, d)))), d)


@public(inplace=True, out=True, tensors=0)
def add(input: Operand, other: Operand, *, alpha: Any = 1) -> Any:
    """Return input + alpha * other. Shapes broadcast; dtypes promote."""
    d = result_type(input, other)
    return result(_plus(P.or_ if d is dt.bool_ else P.add, input, other, alpha, d), input, other)


@public(inplace=True, out=True, aliases=("multiply",), tensors=0)
def mul(input: Operand, other: Operand) -> Any:
    """Return input * other. Shapes broadcast; dtypes promote."""
    d = result_type(input, other)
    a, b = scaling(input, other, d)
    return result(P.and_(a, b) if d is dt.bool_ else P.convert(P.mul(a, b), d), input, other)


@public(inplace=True, out=True)
def reciprocal(input: Any) -> Any:
    """Return 1 / input, in floating point."""
    x = node_of(input, floating(input._dtype))
    y = P.div(P.num(x, 1), P.detach(x))
    rule = lambda g, y, x: [P.neg(P.mul(g, P.conj(P.mul(y, y))))]  # reads y, as PyTorch
    return result(with_gradient(y, rule, x), input)


def sigmoid_node(x: Node) -> Node:
    """1 / (1 + exp(-x)), with PyTorch's gradient g * (1 - y) * y."""
    d = wide(P.detach(x))
    one = P.num(d, 1)
    y = P.convert(P.div(one, P.add(one, P.exp(P.neg(d)))), x.dtype)

    def rule(g: Node, y: Node, x: Node) -> list[Node | None]:
        if y.dtype is dt.bfloat16:  # PyTorch's kernel rounds bfloat16 once, and float16 after every operation
            g, y = wide(g), wide(y)
        return [P.mul(P.mul(g, P.conj(P.sub(P.num(y, 1), y))), P.conj(y))]

    return with_gradient(y, rule, x)


def with_gradient(y: Node, rule: Any, *inputs: Node) -> Node:
    """Return `y` (computed from detached inputs) with a gradient rule of its own: rule(g, y, *inputs) -> one each."""
    if not ((state.grad and any(i.needs_grad for i in inputs)) or (state.forward and any(i.varies for i in inputs))):
        return y
    return P.tape((y, *inputs), rule)


@public(inplace=True, out=True)
def sigmoid(input: Any) -> Any:
    """Return 1 / (1 + exp(-input))."""
    return result(sigmoid_node(node_of(input, floating(input._dtype))), input)


def relu_node(x: Node) -> Node:
    """max(x, 0); the gradient at 0 is 0."""
    if x.dtype is dt.bool_:
        raise RuntimeError("Boolean inputs not supported for relu")
    if x.dtype.is_complex:
        raise NotImplementedError("clamp is not supported for complex types")

    def rule(g: Node, y: Node, x: Node) -> list[Node | None]:
        return [P.where(P.le(y, P.num(y, 0)), P.num(g, 0), g)]  # passed at NaN, as in PyTorch

    return with_gradient(P.max_(P.detach(x), P.num(x, 0)), rule, x)


@public(inplace=True)
def relu(input: Any) -> Any:
    """Return max(input, 0); the gradient at 0 is 0."""
    return result(relu_node(read(input)), input)


@public(inplace=True, out=True, aliases=("subtract",), tensors=0)
def sub(input: Operand, other: Operand, *, alpha: Any = 1) -> Any:
    """Return input - alpha * other. Shapes broadcast; dtypes promote."""
    d = result_type(input, other)
    if d is dt.bool_:
        raise RuntimeError("Subtraction, the `-` operator, with two bool tensors is not supported. Use the `^` or "
                           "`logical_xor()` operator instead.")
    if any(isinstance(x, bool) or getattr(x, "_dtype", None) is dt.bool_ for x in (input, other)):
        raise RuntimeError("Subtraction, the `-` operator, with a bool tensor is not supported. If you are trying to "
                           "invert a mask, use the `~` or `logical_not()` operator instead.")
    return result(_plus(P.sub, input, other, alpha, d), input, other)


@public(inplace=True)
def rsub(input: Any, other: Operand, *, alpha: Any = 1) -> Any:
    """Return other - alpha * input."""
    return sub(other, input, alpha=alpha)


def floor_divide_nodes(a: Node, b: Node) -> Node:
    """Division rounded down."""
    if a.dtype.category < 2:
        q = P.idiv(a, b)
        if not a.dtype.is_signed:
            return q
        zero = P.num(a, 0)
        inexact = P.ne(P.mul(q, b), a)
        opposite = P.xor(P.lt(a, zero), P.lt(b, zero))
        return P.where(P.and_(inexact, opposite), P.sub(q, P.num(a, 1)), q)
    # Python's rule: (a - remainder) / b, rounded to the nearest integer when b divides a - remainder inexactly.
    r = P.fmod(a, b)
    zero = P.num(a, 0)
    q = P.div(P.sub(a, r), b)
    q = P.where(P.and_(P.ne(r, zero), P.ne(P.lt(b, zero), P.lt(r, zero))), P.sub(q, P.num(a, 1)), q)
    f = P.floor(q)
    f = P.where(P.lt(P.num(a, 0.5), P.sub(q, f)), P.add(f, P.num(a, 1)), f)
    f = P.where(P.eq(q, zero), P.mul(zero, P.div(a, b)), f)
    return P.where(P.eq(b, zero), P.div(a, b), f)


@public(inplace=True, out=True, aliases=("divide",), tensors=0)
def div(input: Operand, other: Operand, *, rounding_mode: str | None = None) -> Any:
    """Return input / other; rounding_mode "trunc" or "floor" rounds the quotient and keeps integers."""
    d = result_type(input, other)
    if rounding_mode is None:
        d = floating(d)
        return result(P.convert(P.div(*scaling(input, other, d)), d), input, other)
    no_zero(d, other)
    if rounding_mode not in ("trunc", "floor"):
        raise RuntimeError(f"div expected rounding_mode to be one of None, 'trunc', or 'floor' but found "
                           f"'{rounding_mode}'")
    if d is dt.bool_:
        d = dt.uint8
        a, b = node_of(input, d), node_of(other, d)
        return result(P.convert(P.idiv(a, b), dt.bool_), input, other)
    if d.is_complex:
        raise unsupported(f"div_{rounding_mode}_cpu", d)
    a, b = scaling(input, other, d)
    if rounding_mode == "floor":
        y = floor_divide_nodes(a, b)
    else:
        y = P.idiv(a, b) if d.category < 2 else P.trunc(P.div(a, b))
    return result(P.convert(y, d), input, other)


@public("true_divide", inplace=True, out=True, tensors=0)
def true_divide(input: Operand, other: Operand) -> Any:
    """Return input / other in floating point."""
    return div(input, other)


@public(inplace=True, out=True, tensors=0)
def floor_divide(input: Operand, other: Operand) -> Any:
    """Return the quotient rounded down."""
    return div(input, other, rounding_mode="floor")


def remainder_nodes(a: Node, b: Node) -> Node:
    """Remainder with the sign of the divisor, as Python's %."""
    if a.dtype.category < 2:
        return P.sub(a, P.mul(floor_divide_nodes(a, b), b))
    r = P.fmod(P.detach(a), P.detach(b))
    zero = P.num(a, 0)
    r = P.where(P.and_(P.ne(r, zero), P.ne(P.lt(b, zero), P.lt(r, zero))), P.add(r, P.detach(b)), r)
    return with_gradient(r, lambda g, y, a, b: [g, P.mul(P.neg(g), floor_divide_nodes(a, b))], a, b)


@public(inplace=True, out=True)
def remainder(input: Operand, other: Operand) -> Any:
    """Return the remainder with the sign of `other`."""
    a, b = nodes_of(input, other)
    if a.dtype.is_complex:
        raise unsupported("remainder_cpu", a.dtype)
    no_zero(a.dtype, other)
    return result(remainder_nodes(a, b), input, other)


@public(inplace=True, out=True)
def fmod(input: Any, other: Operand) -> Any:
    """Return the remainder with the sign of `input`."""
    a, b = nodes_of(input, other)
    if a.dtype.is_complex:
        raise unsupported("fmod_cpu", a.dtype)
    no_zero(a.dtype, other)
    if a.dtype.category < 2:
        return result(P.sub(a, P.mul(P.idiv(a, b), b)), input, other)
    return result(P.fmod(a, b), input, other)


def pow_node(x: Node, e: Any) -> Node:
    """x to a Python number, with the shortcuts PyTorch takes for small exponents."""
    if x.dtype.category < 2:
        if e < 0:
            raise RuntimeError("Integers to negative integer powers are not allowed.")
        return P.pow_(x, P.num(x, e))
    grad = lambda g, y, x: [P.mul(g, P.conj(P.mul(P.num(x, e), pow_node(x, e - 1))))]
    if e == 0:
        return with_gradient(P.full(x.shape, 1, x.dtype), lambda g, y, x: [P.mul(g, P.num(g, 0))], x)
    if e == 1:
        return P.alias(x)
    if e in (2, 3, 0.5, -0.5, -1, -2):
        d = P.detach(x)
        y = {2: lambda: P.mul(d, d), 3: lambda: P.mul(P.mul(d, d), d), 0.5: lambda: P.sqrt(d),
             -0.5: lambda: P.div(P.num(d, 1), P.sqrt(d)), -1: lambda: P.div(P.num(d, 1), d),
             -2: lambda: P.div(P.num(d, 1), P.mul(d, d))}[e]()
        return with_gradient(y, grad, x)
    power = counted(e, x.dtype) if x.dtype.category == 2 else number(e, x.dtype)
    return with_gradient(P.pow_(P.detach(x), power), grad, x)


@public(inplace=True, out=True)
def pow(input: Operand, exponent: Operand) -> Any:
    """Return input to the power `exponent`."""
    d = result_type(input, exponent)
    if is_number(exponent) and not isinstance(exponent, complex):
        return result(pow_node(node_of(input, d), exponent), input)
    made = dense if is_number(input) else result
    return made(P.pow_(node_of(input, d), node_of(exponent, d)), input, exponent)


@public(out="same", inplace=True)
def float_power(input: Operand, exponent: Operand) -> Any:
    """Return input to the power `exponent`, in double precision."""
    d = dt.complex128 if result_type(input, exponent).is_complex else dt.float64
    return result(P.pow_(node_of(input, d), node_of(exponent, d)), input, exponent)


@public(inplace=True, out="same", aliases=("negative",))
def neg(input: Any) -> Any:
    """Return -input."""
    if input._dtype is dt.bool_:
        raise RuntimeError("Negation, the `-` operator, on a bool tensor is not supported. If you are "
                           "trying to invert a "
                           "mask, use the `~` or `logical_not()` operator instead.")
    return result(P.neg(read(input)), input)


@public()
def positive(input: Any) -> Any:
    """Return the input itself."""
    if input._dtype is dt.bool_:
        raise RuntimeError("The `+` operator, on a bool tensor is not supported.")
    return input


@public("abs", inplace=True, out="same", aliases=("absolute",))
def abs_(input: Any) -> Any:
    """Return the absolute value; the gradient at 0 is 0."""
    if input._dtype is dt.bool_:
        raise unsupported("abs_cpu", input._dtype)
    return result(P.abs_(read(input)), input)


def _rounding(name: str, row: Row, *aliases: str) -> Any:
    """Make a rounding operator: integers are returned as they are."""
    def fn(input: Any) -> Any:
        x = read(input)
        if x.dtype.is_complex:
            raise NotImplementedError(f"{name} is not supported for complex inputs")
        if x.dtype is dt.bool_:
            raise unsupported(f"{name}_vml_cpu", x.dtype)
        return result(P.alias(x) if x.dtype.category == 1 else row(x), input)
    fn.__name__, fn.__doc__ = name, f"Return {name} of each element, in its dtype."
    return public(name, inplace=True, out="same", aliases=aliases)(fn)


floor = _rounding("floor", P.floor)
ceil = _rounding("ceil", P.ceil)
trunc = _rounding("trunc", P.trunc, "fix")


@public("round", inplace=True, out="same")
def round_(input: Any, *, decimals: int = 0) -> Any:
    """Return the nearest integer (halves to even), or the nearest multiple of 10**-decimals."""
    x = read(input)
    if x.dtype.category in (0, 3):
        raise unsupported("round_vml_cpu", x.dtype)
    if x.dtype.category == 1:
        if decimals:
            raise unsupported("round_cpu", x.dtype)
        return result(P.alias(x), input)
    if not decimals:
        return result(P.round_(x), input)
    ten = P.num(x, 10.0 ** builtins.abs(decimals))
    y = P.div(P.round_(P.mul(x, ten)), ten) if decimals > 0 else P.mul(P.round_(P.div(x, ten)), ten)
    return result(y, input)


@public(inplace=True, out="same")
def frac(input: Any) -> Any:
    """Return the part after the point."""
    x = read(input)
    if x.dtype.category != 2:
        raise unsupported("frac_cpu", x.dtype)
    return result(P.sub(x, P.trunc(x)), input)


@public(inplace=True, out="same")
def sign(input: Any) -> Any:
    """Return -1, 0 or 1."""
    if input._dtype.is_complex:
        raise NotImplementedError("Unlike NumPy, torch.sign is not intended to support complex numbers. Please use "
                                  "torch.sgn instead.")
    return sgn(input)


@public(inplace=True, out="same")
def sgn(input: Any) -> Any:
    """Return the sign; of complex numbers, the point on the unit circle."""
    x = read(input)
    return result(P.alias(x) if x.dtype is dt.bool_ else P.sign(x), input)


@public(inplace=True, out=True)
def rsqrt(input: Any) -> Any:
    """Return 1 / sqrt(input)."""
    x = node_of(input, floating(input._dtype))
    d = wide(P.detach(x))
    y = P.convert(P.div(P.num(d, 1), P.sqrt(d)), x.dtype)
    rule = lambda g, y, x: [P.mul(P.mul(g, P.num(y, -0.5)), P.conj(P.mul(P.mul(y, y), y)))]
    return result(with_gradient(y, rule, x), input)


@public(inplace=True, out=True)
def square(input: Any) -> Any:
    """Return input squared."""
    return pow(input, 2)


@public(inplace=True, out=True)
def exp2(input: Any) -> Any:
    """Return 2 to the power of each element."""
    x = node_of(input, floating(input._dtype))
    y = P.pow_(P.full((), 2, x.dtype), P.detach(x))
    rule = lambda g, y, x: [P.times(P.mul(g, P.conj(y)), math.log(2))]
    return result(with_gradient(y, rule, x), input)


@public(inplace=True, out=True)
def log10(input: Any) -> Any:
    """Return the logarithm to base 10."""
    x = node_of(input, floating(input._dtype))
    d = wide(P.detach(x))
    y = P.convert(P.div(P.log(d), P.num(d, math.log(10))), x.dtype)
    return result(with_gradient(y, lambda g, y, x: [P.div(g, P.conj(P.times(x, math.log(10))))], x), input)


def _binary(name: str, row: Callable[[Node, Node], Node], *aliases: str, inplace: bool = False, integers: bool = True,
            doc: str = "") -> Any:
    def fn(input: Operand, other: Operand) -> Any:
        d = result_type(input, other)
        d = d if integers else floating(d)
        if d.is_complex:
            raise RuntimeError(f"{name} not implemented for complex tensors.")
        if d is dt.bool_:
            y = (P.or_ if row is P.max_ else P.and_)(node_of(input, d), node_of(other, d))
        else:
            y = row(node_of(input, d), node_of(other, d))
        return result(y, input, other)
    fn.__name__, fn.__doc__ = name, doc
    return public(name, inplace=inplace, out=True, aliases=aliases, tensors=2)(fn)


maximum = _binary("maximum", P.max_, doc="Return the elementwise maximum; NaN propagates, ties share the gradient.")
minimum = _binary("minimum", P.min_, doc="Return the elementwise minimum; NaN propagates, ties share the gradient.")
atan2 = _binary("atan2", P.atan2, "arctan2", inplace=True, integers=False, doc="Return the angle of (other, input).")


def _ignore_nan(name: str, row: Row) -> Any:
    def fn(input: Operand, other: Operand) -> Any:
        a, b = nodes_of(input, other)
        if a.dtype.category == 2:  # equal operands: the first has the whole gradient
            first = P.le(b, a) if row is P.max_ else P.le(a, b)
            y = P.where(P.or_(first, P.ne(b, b)), a, b)
        else:
            y = (P.or_ if row is P.max_ else P.and_)(a, b) if a.dtype is dt.bool_ else row(a, b)
        return result(y, input, other)
    fn.__name__, fn.__doc__ = name, "Return the elementwise extreme, ignoring a NaN beside a number."
    return public(name, out=True, tensors=2)(fn)


fmax = _ignore_nan("fmax", P.max_)
fmin = _ignore_nan("fmin", P.min_)


@public(inplace=True, out=True, aliases=("clip",))
def clamp(input: Any, min: Operand = None, max: Operand = None) -> Any:
    """Return input limited to [min, max]; the gradient at the limits is 1."""
    if min is None and max is None:
        raise RuntimeError("torch.clamp: At least one of 'min' or 'max' must not be None")
    d = result_type(input, min, max)
    if d.is_complex:
        raise NotImplementedError("clamp is not supported for complex types")
    for bound in (min, max):
        if is_number(bound) and isinstance(input, Handle):
            check_fits(bound, d)
    x = node_of(input, d)
    lo = None if min is None else node_of(min, d)
    hi = None if max is None else node_of(max, d)
    y, bounds = P.detach(x), [b for b in (lo, hi) if b is not None]
    if lo is not None:
        y = P.max_(y, P.detach(lo))
    if hi is not None:
        y = P.min_(y, P.detach(hi))

    def rule(g: Node, y: Node, x: Node, *bs: Node) -> list[Node | None]:
        low = bs[0] if lo is not None else None
        high = bs[-1] if hi is not None else None
        zero, inside, out = P.num(g, 0), None, []
        if low is not None:
            inside = P.le(low, x)
        if high is not None:
            h = P.le(x, high)
            inside = h if inside is None else P.and_(inside, h)
        out.append(P.where(inside, g, zero))
        if low is not None:
            below = P.lt(x, low)
            out.append(P.where(P.and_(below, P.lt(low, high)) if high is not None else below, g, zero))
        if high is not None:
            above = P.lt(high, x)
            out.append(P.where(P.or_(above, P.lt(high, low)) if low is not None else above, g, zero))
        return out
    return result(with_gradient(y, rule, x, *bounds), *(t for t in (input, min, max) if t is not None))


@public(inplace=True, out=True)
def clamp_min(input: Any, min: Operand) -> Any:
    """Return input limited from below."""
    return clamp(input, min=min)


@public(inplace=True, out=True)
def clamp_max(input: Any, max: Operand) -> Any:
    """Return input limited from above."""
    return clamp(input, max=max)


@public(inplace=True, out=True)
def masked_fill(input: Any, mask: Any, value: Operand) -> Any:
    """Return input with `value` where mask is true."""
    m = read(mask)
    if m.dtype is not dt.bool_:
        raise RuntimeError(f"masked_fill_ only supports boolean masks, but got mask with dtype "
                           f"{m.dtype.name}")
    if not is_number(value) and value._shape:
        raise RuntimeError(f"masked_fill_ only supports a 0-dimensional value tensor, but got tensor with "
                           f"{len(value._shape)} dimension(s).")
    x = read(input)
    if is_number(value):
        check_fits(value, x.dtype)
    elif value._dtype.is_complex and not x.dtype.is_complex:
        raise RuntimeError(f"value cannot be converted to type {dt.c_name(x.dtype)} without overflow")
    return dense(P.where(m, node_of(value, x.dtype), x), input)


@public(inplace=True, out="same")
def nan_to_num(input: Any, nan: float | None = None, posinf: float | None = None, neginf: float | None = None) -> Any:
    """Return input with NaN and infinities replaced."""
    x = read(input)
    if x.dtype.category < 2:
        return result(P.alias(x), input)
    import ml_dtypes
    big = float(ml_dtypes.finfo(x.dtype.np).max)
    y = P.where(P.ne(x, x), P.num(x, 0.0 if nan is None else nan), x)
    y = P.where(P.eq(x, P.num(x, math.inf)), P.num(x, big if posinf is None else posinf), y)
    return result(P.where(P.eq(x, P.num(x, -math.inf)), P.num(x, -big if neginf is None else neginf), y), input)


def _bits(name: str, row: Row, kernel: str) -> Any:
    def fn(input: Operand, other: Operand) -> Any:
        a, b = nodes_of(input, other)
        if a.dtype.category >= 2:
            raise unsupported(f"{kernel}_cpu", a.dtype)
        return result(row(a, b), input, other)
    fn.__name__, fn.__doc__ = name, f"Return {name} of the bits (of the truth values, for booleans)."
    return public(name, inplace=True, out=True)(fn)


bitwise_and = _bits("bitwise_and", P.and_, "bitwise_and")
bitwise_or = _bits("bitwise_or", P.or_, "bitwise_or")
bitwise_xor = _bits("bitwise_xor", P.xor, "bitwise_xor")
bitwise_left_shift = _bits("bitwise_left_shift", P.shl, "lshift")
bitwise_right_shift = _bits("bitwise_right_shift", P.shr, "rshift")


@public(inplace=True, out="same")
def bitwise_not(input: Any) -> Any:
    """Return the bits inverted (the truth value, for booleans)."""
    if input._dtype.category >= 2:
        raise unsupported("bitwise_not_cpu", input._dtype)
    return result(P.not_(read(input)), input)


@public("__invert__", function=False)
def invert(input: Any) -> Any:
    """Return the bits inverted. Raises TypeError for what has none."""
    if input._dtype.category >= 2:
        raise TypeError("~ (operator.invert) is only implemented on integer and Boolean-type tensors")
    return bitwise_not(input)


def _flipped(fn: Any) -> Any:
    return lambda self, other: fn(other, self)


for _name, _fn in {"add": add, "sub": sub, "mul": mul, "truediv": div, "floordiv": floor_divide, "mod": remainder,
                   "pow": pow, "and": bitwise_and, "or": bitwise_or, "xor": bitwise_xor,
                   "lshift": bitwise_left_shift, "rshift": bitwise_right_shift}.items():
    public(f"__{_name}__", function=False, dunder=True)(_fn)
    public(f"__r{_name}__", function=False, dunder=True)(
        mul if _fn is mul else (lambda self, other: mul(reciprocal(self), other)) if _fn is div else _flipped(_fn))
    public(f"__i{_name}__", function=False, dunder="inplace")(_fn)
public("__neg__", function=False)(neg)
public("__pos__", function=False)(positive)
public("__abs__", function=False)(abs_)
