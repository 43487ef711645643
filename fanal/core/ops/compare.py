"""Comparisons, logic and tests of elements."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.shape import broadcast_shapes
from fanal.core.engine.handle import Handle
from fanal.core.engine.record import unfollowable
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import (
    Answer,
    Operand,
    dense,
    floating,
    is_number,
    node_of,
    nodes_of,
    public,
    read,
    result,
    result_type,
    unsupported,
    wrap,
)
from fanal.core.ops.index import nonzero
from fanal.core.ops.pointwise import with_gradient
from fanal.core.tensor.tensor import Tensor, compute


def _ordered(d: dt.dtype, name: str) -> None:
    if d.is_complex:
        raise unsupported(f"{name}_cpu", d)


def less(a: Node, b: Node) -> Node:
    """a < b, on a dtype that has an order (booleans: False before True)."""
    if a.dtype is dt.bool_:
        return P.and_(P.not_(a), b)
    return P.lt(a, b)


def less_equal(a: Node, b: Node) -> Node:
    """a <= b."""
    if a.dtype is dt.bool_:
        return P.or_(P.not_(a), b)
    return P.le(a, b)


_RELATIONS = {
    "eq": (lambda a, b: P.eq(a, b), ()),
    "ne": (lambda a, b: P.ne(a, b), ("not_equal",)),
    "lt": (lambda a, b: less(a, b), ("less",)),
    "le": (lambda a, b: less_equal(a, b), ("less_equal",)),
    "gt": (lambda a, b: less(b, a), ("greater",)),
    "ge": (lambda a, b: less_equal(b, a), ("greater_equal",)),
}


def _relation(name: str, rule: Any, aliases: tuple[str, ...]) -> Any:
    def fn(input: Any, other: Operand) -> Any:
        d = result_type(input, other)
        if name not in ("eq", "ne"):
            _ordered(d, name)
        a, b = nodes_of(input, other)
        return result(rule(a, b), input, other)

    fn.__name__, fn.__doc__ = (
        name,
        f"Return where input {name} other holds. Shapes broadcast; dtypes promote.",
    )
    public(name, inplace=True, out=True, aliases=aliases)(fn)
    public(f"__{name}__", function=False, dunder=True)(fn)
    return fn


eq, ne, lt, le, gt, ge = (_relation(n, r, a) for n, (r, a) in _RELATIONS.items())


def truth(x: Node) -> Node:
    """Return whether elements are not zero."""
    return x if x.dtype is dt.bool_ else P.ne(x, P.num(x, 0))


@public(inplace=True, out=True)
def logical_not(input: Any) -> Any:
    """Return where elements are zero."""
    return result(P.not_(truth(read(input))), input)


def _logical(name: str, row: Any) -> Any:
    def fn(input: Any, other: Any) -> Any:
        return result(row(truth(read(input)), truth(read(other))), input, other)

    fn.__name__, fn.__doc__ = name, f"Return {name} of truth values."
    return public(name, inplace=True, out=True, tensors=2)(fn)


logical_and = _logical("logical_and", P.and_)
logical_or = _logical("logical_or", P.or_)
logical_xor = _logical("logical_xor", P.xor)


def nan_node(x: Node) -> Node:
    """Return where elements are NaN."""
    return P.ne(x, x) if x.dtype.category >= 2 else P.full(x.shape, False, dt.bool_)


def _parts(x: Node) -> list[Node]:
    return [P.real(x), P.imag(x)] if x.dtype.is_complex else [x]


def inf_node(x: Node) -> Node:
    """Return where elements (or a part of them) are infinite."""
    if x.dtype.category < 2 or x.dtype is dt.float8_e4m3fn:
        return P.full(x.shape, False, dt.bool_)
    hits = [P.eq(P.abs_(p), P.num(p, math.inf)) for p in _parts(x)]
    return P.or_(*hits) if len(hits) == 2 else hits[0]


@public()
def isnan(input: Any) -> Any:
    """Return where elements are NaN."""
    return result(nan_node(read(input)), input)


@public()
def isinf(input: Any) -> Any:
    """Return where elements are infinite."""
    return result(inf_node(read(input)), input)


@public()
def isfinite(input: Any) -> Any:
    """Return where elements are neither NaN nor infinite."""
    x = read(input)
    return result(P.not_(P.or_(nan_node(x), inf_node(x))), input)


def _signed_inf(input: Any, sign: float, name: str) -> Any:
    x = read(input)
    if x.dtype.is_complex:
        raise RuntimeError(f"{name} does not support complex inputs.")
    y = P.eq(x, P.num(x, sign)) if x.dtype.category == 2 else P.full(x.shape, False, dt.bool_)
    return result(y, input)


@public(out="same")
def isposinf(input: Any) -> Any:
    """Return where elements are +inf."""
    return _signed_inf(input, math.inf, "isposinf")


@public(out="same")
def isneginf(input: Any) -> Any:
    """Return where elements are -inf."""
    return _signed_inf(input, -math.inf, "isneginf")


@public()
def isreal(input: Any) -> Any:
    """Return where the imaginary part is zero."""
    x = read(input)
    return result(
        P.eq(P.imag(x), P.num(P.imag(x), 0)) if x.dtype.is_complex else P.full(x.shape, True, dt.bool_), input
    )


@public(out="same")
def signbit(input: Any) -> Any:
    """Return where the sign bit is set (-0.0 included)."""
    x = read(input)
    if x.dtype.is_complex:
        raise RuntimeError("signbit is not implemented for complex tensors.")
    if x.dtype.category == 2:
        return result(_sign_bit(x), input)
    y = P.lt(x, P.num(x, 0)) if x.dtype.is_signed else P.full(x.shape, False, dt.bool_)
    return result(y, input)


def _sign_bit(x: Node) -> Node:
    bits = P.bitcast(P.detach(x), {1: dt.int8, 2: dt.int16, 4: dt.int32, 8: dt.int64}[x.dtype.itemsize])
    return P.lt(bits, P.num(bits, 0))


@public(inplace=True, out=True)
def copysign(input: Any, other: Operand) -> Any:
    """Return the magnitude of input with the sign of other."""
    d = floating(result_type(input, other))
    _ordered(d, "copysign")
    a, b = node_of(input, d), node_of(other, d)
    broadcast_shapes(a.shape, b.shape)  # the error names input first
    m = P.abs_(P.detach(a))
    y = P.where(_sign_bit(b), P.neg(m), m)

    def rule(g: Node, y: Node, a: Node) -> list[Node]:
        same = P.div(y, a)
        return [P.mul(g, P.where(P.eq(a, P.num(a, 0)), P.num(g, 0), same))]

    return result(with_gradient(y, rule, a), input, other)


@public(inplace=True, out="same", tensors=2)
def heaviside(input: Any, values: Any) -> Any:
    """Return 0 below zero, 1 above, `values` at zero."""
    a, b = read(input), read(values)
    if a.dtype is not b.dtype:
        raise RuntimeError("heaviside is not yet implemented for tensors with different dtypes.")
    if a.dtype.is_complex:
        raise RuntimeError("heaviside is not yet implemented for complex tensors.")
    if a.dtype is dt.bool_:
        return result(P.or_(a, b), input, values)
    one, zero = P.num(a, 1), P.num(a, 0)
    y = P.where(P.eq(a, zero), b, P.where(P.lt(zero, a), one, zero))
    return result(y, input, values)


def close_node(a: Node, b: Node, rtol: float, atol: float, equal_nan: bool) -> Node:
    """|a - b| <= atol + rtol * |b|; equal infinities are close."""
    same = P.eq(a, b)
    if equal_nan and a.dtype.category >= 2:
        same = P.or_(same, P.and_(P.ne(a, a), P.ne(b, b)))
    if rtol == 0 and atol == 0:
        return same
    if a.dtype.category < 2:
        a, b = P.convert(a, dt.get_default()), P.convert(b, dt.get_default())
    gap = P.abs_(P.sub(a, b))
    allowed = P.add(P.num(gap, atol), P.abs_(P.mul(P.num(b, rtol), b)))
    finite = P.lt(gap, P.num(gap, math.inf))
    return P.or_(same, P.and_(finite, P.le(gap, allowed)))


@public(tensors=2)
def isclose(input: Any, other: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> Any:
    """Return where |input - other| <= atol + rtol * |other|."""
    if input._dtype is not other._dtype:
        raise RuntimeError(f"{dt.scalar_name(input._dtype)} did not match {dt.scalar_name(other._dtype)}")
    if rtol < 0 or atol < 0:
        raise RuntimeError(
            f"{'rtol' if rtol < 0 else 'atol'} must be greater than or equal to zero, but got "
            f"{rtol if rtol < 0 else atol:g}"
        )
    return result(close_node(read(input), read(other), rtol, atol, equal_nan), input, other)


@public(event=False)
def allclose(
    input: Any, other: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> bool:
    """Tell whether all elements are close."""
    return bool(compute(Tensor.isclose(input, other, rtol, atol, equal_nan)).all())  # type: ignore[attr-defined]


@public(event=False)
def equal(input: Any, other: Any) -> bool:
    """Tell whether two tensors have the same shape and elements."""
    if not isinstance(other, Handle):
        raise TypeError(f"equal(): argument 'other' (position 1) must be Tensor, not {type(other).__name__}")
    if input._shape != other._shape:
        return False
    return bool(compute(Tensor.eq(input, other)).all())  # type: ignore[attr-defined]


@public(method=False, out="same")
def isin(
    elements: Operand, test_elements: Operand, *, assume_unique: bool = False, invert: bool = False
) -> Any:
    """Return where elements are among the test elements."""
    if is_number(elements) and is_number(test_elements):
        raise RuntimeError("isin: at least one of elements and test_elements must be a tensor")
    d = result_type(elements, test_elements)
    _ordered(d, "isin")
    a, b = node_of(elements, d), node_of(test_elements, d)
    n = b.size
    like = elements if isinstance(elements, Handle) else test_elements
    if n <= 64:
        wide = P.eq(P.reshape(a, (*a.shape, 1)), P.reshape(b, (1,) * len(a.shape) + (n,)))
        hit = (
            P.convert(P.max_of(P.convert(wide, dt.uint8), (len(a.shape),)), dt.bool_)
            if n
            else P.full(a.shape, False, dt.bool_)
        )
        return dense(P.not_(hit) if invert else hit, like)
    unfollowable("membership is searched on the host")
    found = np.isin(compute(wrap(a)), compute(wrap(b)), assume_unique=assume_unique, invert=invert)
    return wrap(P.given(np.asarray(found, order="C"), dt.bool_))


@public("is_nonzero", event=False)
def is_nonzero(input: Any) -> bool:
    """Tell whether the only element is not zero."""
    n = math.prod(input._shape)
    if n != 1:
        raise RuntimeError(
            "Boolean value of Tensor with no values is ambiguous"
            if not n
            else "Boolean value of Tensor with more than one value is ambiguous"
        )
    return bool(compute(input))


def _indices(*args: Any, **kwargs: Any) -> Any:
    return Answer(where(*args)) if len(args) == 1 and not kwargs else args


@public(out="same", ahead=_indices)
def where(condition: Any, input: Operand = None, other: Operand = None) -> Any:
    """Return input where condition holds and other elsewhere; with one argument, the indices of true elements."""
    if input is None and other is None:
        return nonzero(condition, as_tuple=True)
    d = result_type(input, other)
    c = read(condition)
    if c.dtype is not dt.bool_:
        if c.dtype is not dt.uint8:
            raise RuntimeError("where expected condition to be a boolean tensor, but got a tensor with dtype "
                               f"{dt.scalar_name(c.dtype)}")
        c = P.ne(c, P.num(c, 0))
    return result(P.where(c, node_of(input, d), node_of(other, d)), condition, input, other)


@public("_where_method", function=False, method="where")
def where_method(self: Any, condition: Any, other: Operand) -> Any:
    """Return self where condition holds and other elsewhere."""
    return where(condition, self, other)
