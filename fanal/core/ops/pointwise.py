"""Pointwise operators: one result element from one element of each operand."""
from __future__ import annotations

import math
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ir.row import Row
from fanal.core.ops.build import (Operand, floating, is_number, node_of, nodes_of, number, public, read, result,
                                  result_type)


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
erfinv = _float_unary("erfinv", P.erfinv)
lgamma = _float_unary("lgamma", P.lgamma)


@public(inplace=True, out=True)
def add(input: Operand, other: Operand, *, alpha: Any = 1) -> Any:
    """Return input + alpha * other. Shapes broadcast; dtypes promote."""
    d = result_type(input, other)
    a, b = node_of(input, d), node_of(other, d)
    if not (isinstance(alpha, int) and alpha == 1):
        if d.category < 2 and isinstance(alpha, float):
            raise RuntimeError("For integral input tensors, argument alpha must not be a floating point number.")
        b = P.mul(b, number(alpha, d))
    return result(P.or_(a, b) if d is dt.bool_ else P.add(a, b), input, other)


@public(inplace=True, out=True, aliases=("multiply",))
def mul(input: Operand, other: Operand) -> Any:
    """Return input * other. Shapes broadcast; dtypes promote."""
    a, b = nodes_of(input, other)
    return result(P.and_(a, b) if a.dtype is dt.bool_ else P.mul(a, b), input, other)


@public(inplace=True, out=True)
def reciprocal(input: Any) -> Any:
    """Return 1 / input, in floating point."""
    x = node_of(input, floating(input._dtype))
    y = P.div(P.num(x, 1), x)
    return result(y, input)


def sigmoid_node(x: Node) -> Node:
    """1 / (1 + exp(-x)), with PyTorch's gradient g * (1 - y) * y."""
    d = P.detach(x)
    one = P.num(x, 1)
    y = P.div(one, P.add(one, P.exp(P.neg(d))))
    return with_gradient(y, lambda g, y, x: [P.mul(P.mul(g, P.conj(P.sub(P.num(y, 1), y))), P.conj(y))], x)


def with_gradient(y: Node, rule: Any, *inputs: Node) -> Node:
    """Return `y` (computed from detached inputs) with a gradient rule of its own: rule(g, y, *inputs) -> one each."""
    from fanal.core.base.state import state
    if not (state.grad and any(i.needs_grad for i in inputs)):
        return y
    return P.tape((y, *inputs), rule)


@public(inplace=True, out=True)
def sigmoid(input: Any) -> Any:
    """Return 1 / (1 + exp(-input))."""
    return result(sigmoid_node(node_of(input, floating(input._dtype))), input)


@public(inplace=True)
@public(module="nn.functional", method=False)
def relu(input: Any, inplace: bool = False) -> Any:
    """Return max(input, 0); the gradient at 0 is 0."""
    x = read(input)
    d = P.detach(x)
    zero = P.num(x, 0)
    y = with_gradient(P.max_(d, zero), lambda g, y, x: [P.where(P.lt(P.num(y, 0), y), g, P.num(g, 0))], x)
    if inplace:
        from fanal.core.ops.build import assign
        return assign(input, y)
    return result(y, input)


__all__ = ["Row", "is_number", "math"]
