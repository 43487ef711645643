"""The rows of the special functions: one of one operand and one of two."""

from __future__ import annotations

import math
from collections.abc import Callable

from fanal.core.ir.prims.batching import broadcasting
from fanal.core.ir.prims.point import add, div, eq, exp, log, mul, neg, num, sign, sub, times, where
from fanal.core.ir.prims.special import special_code, special_ref
from fanal.core.ir.prims.special_pairs import pairs_code, pairs_ref
from fanal.core.ir.program import Node
from fanal.core.ir.row import Row, kept, prim, same, spread


def _i1_slope(y: Node, x: Node, even: Node, scaled: bool) -> Node:
    """i0 - i1 / x, less i1 once more where both carry exp(-|x|); 1/2 at zero."""
    at_zero = eq(x, num(x, 0))
    safe = where(at_zero, num(x, 1), x)
    slope = sub(even, div(y, safe))
    if scaled:
        slope = sub(slope, mul(y, sign(safe)))
    return where(at_zero, num(x, 0.5), slope)


def _square(x: Node) -> Node:
    return mul(x, x)


# kind -> (y, x) -> dy/dx. PyTorch differentiates these, and no others.
SLOPES: dict[str, Callable[[Node, Node], Node]] = {
    "i0": lambda y, x: special(x, "i1"),
    "i0e": lambda y, x: sub(special(x, "i1e"), mul(sign(x), y)),
    "i1": lambda y, x: _i1_slope(y, x, special(x, "i0"), False),
    "i1e": lambda y, x: _i1_slope(y, x, special(x, "i0e"), True),
    "erfcx": lambda y, x: sub(mul(mul(num(x, 2), x), y), num(x, 2 / math.sqrt(math.pi))),
    "ndtri": lambda y, x: times(exp(mul(num(x, 0.5), mul(y, y))), math.sqrt(2 * math.pi)),
    "erfinv": lambda y, x: times(exp(_square(special(x, "erfinv"))), math.sqrt(math.pi) / 2),  # of x: PyTorch saves it
    "digamma": lambda y, x: special(x, "trigamma"),
    "lgamma": lambda y, x: special(x, "digamma"),
    "trigamma": lambda y, x: special2(num(x, 2), x, "polygamma"),
}


def _grad(g: Node, y: Node, x: Node, kind: str) -> list[Node | None]:
    if kind not in SLOPES:
        raise RuntimeError(f"derivative for special.{kind} is not implemented")
    return [mul(g, SLOPES[kind](y, x))]


special: Row = prim(
    "special",
    kind="point",
    shape=same,
    dtype=kept,
    ref=special_ref,
    grad=_grad,
    batch=broadcasting,
    code=special_code,
    flops=60,
    domain=(0.1, 0.9),
)


def _grad2(g: Node, y: Node, a: Node, b: Node, kind: str) -> list[Node | None]:
    if kind == "zeta" and not a.varies:
        return [None, neg(mul(g, mul(a, special2(add(a, num(a, 1)), b, "zeta"))))]
    if kind == "polygamma" and not a.varies:
        return [None, mul(g, special2(add(a, num(a, 1)), b, "polygamma"))]
    if kind in ("gammainc", "gammaincc") and not a.varies:
        density = exp(sub(sub(_xlogy(sub(a, num(a, 1)), b), b), special(a, "lgamma")))  # b**(a-1) exp(-b) / gamma(a)
        return [None, mul(g, density if kind == "gammainc" else neg(density))]
    name = {"gammainc": "igamma", "gammaincc": "igammac"}.get(kind, kind)
    operand = "input" if a.varies else "other"
    raise NotImplementedError(f"the derivative for '{name}: {operand}' is not implemented.")


def _xlogy(a: Node, b: Node) -> Node:
    return where(eq(a, num(a, 0)), num(a, 0), mul(a, log(b)))


special2: Row = prim(
    "special2",
    kind="point",
    arity=2,
    shape=spread,
    dtype=kept,
    ref=pairs_ref,
    grad=_grad2,
    batch=broadcasting,
    code=pairs_code,
    flops=200,
    domain=(1.5, 4),
)
