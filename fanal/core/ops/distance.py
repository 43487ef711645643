"""Distances and similarities between vectors."""

from __future__ import annotations

import math
from typing import Any

from fanal.core.base.shape import broadcast_shapes, wrap_dim
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import floating, node_of, nodes_of, number, public, read, result_type, wrap
from fanal.core.ops.pointwise import with_gradient
from fanal.core.ops.reduce import norm_node


def distance_node(d: Node, p: float) -> Node:
    """The p-norm of differences over the last dimension; its gradient at 0 is 0."""
    last = (len(d.shape) - 1,)
    if not d.shape[-1]:
        return P.sum_(P.abs_(d), last)
    if p == math.inf:
        a, keep = P.abs_(P.detach(d)), (*d.shape[:-1], 1)
        y = P.max_of(a, last)

        def rule(g: Node, y: Node, d: Node) -> list[Node | None]:
            hit = P.eq(P.abs_(d), P.reshape(y, keep))
            return [P.where(hit, P.mul(P.reshape(g, keep), P.sign(d)), P.num(d, 0))]

        return with_gradient(y, rule, d)
    if p == 0:
        a = P.detach(d)
        differs = P.where(P.eq(a, a), P.convert(P.ne(a, P.num(a, 0)), a.dtype), a)  # NaN stays
        return with_gradient(P.sum_(differs, last), lambda g, y, d: [P.zeros(d.shape, d.dtype)], d)
    return norm_node(d, p, last, False)


def _euclid_by_product(x: Node, y: Node) -> Node:
    """|x|^2 - 2 x.y + |y|^2 in one matrix product: quick for many rows, less exact for near ones."""
    d, e = P.detach(x), P.detach(y)
    xx = P.reshape(P.sum_(P.mul(d, d), (len(x.shape) - 1,)), (*x.shape[:-1], 1))
    yy = P.reshape(P.sum_(P.mul(e, e), (len(y.shape) - 1,)), (*y.shape[:-2], 1, y.shape[-2]))
    sq = P.add(P.add(P.dot(P.mul(d, P.num(d, -2)), P.swap(e)), xx), yy)  # in PyTorch's order
    dist = P.sqrt(P.max_(sq, P.num(sq, 0)))

    def rule(g: Node, dist: Node, x: Node, y: Node) -> list[Node | None]:
        zero = P.eq(dist, P.num(dist, 0))
        r = P.where(zero, P.num(g, 0), P.div(g, P.where(zero, P.num(dist, 1), dist)))
        rx = P.reshape(P.sum_(r, (len(r.shape) - 1,)), (*r.shape[:-1], 1))
        ry = P.reshape(P.sum_(r, (len(r.shape) - 2,)), (*r.shape[:-2], r.shape[-1], 1))
        return [P.sub(P.mul(x, rx), P.dot(r, y)), P.sub(P.mul(y, ry), P.dot(P.swap(r), x))]

    return with_gradient(dist, rule, x, y)


@public(method=False)
def cdist(
    x1: Any, x2: Any, p: float = 2.0, compute_mode: str | None = "use_mm_for_euclid_dist_if_necessary"
) -> Any:
    """Return the p-norm distance of each pair of rows. Shapes: (..., P, M) and (..., R, M) -> (..., P, R)."""
    modes = ("use_mm_for_euclid_dist_if_necessary", "use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist")
    if compute_mode is not None and compute_mode not in modes:
        raise ValueError(f"{compute_mode} is not a valid value for compute_mode")
    for t, name in ((x1, "X1"), (x2, "X2")):
        if len(t._shape) < 2:
            raise RuntimeError(f"cdist only supports at least 2D tensors, {name} got: {len(t._shape)}D")
        if t._dtype.category < 2:
            raise RuntimeError(f"cdist only supports floating-point dtypes, {name} got: {t._dtype.name}")
    if x1._shape[-1] != x2._shape[-1]:
        raise RuntimeError(
            f"X1 and X2 must have the same number of columns. X1: {x1._shape[-1]} X2: {x2._shape[-1]}"
        )
    if p < 0:
        raise RuntimeError("cdist only supports non-negative p values")
    a, b = nodes_of(x1, x2)
    batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a = P.reshape(a, (1,) * (len(batch) + 2 - len(a.shape)) + a.shape)
    b = P.reshape(b, (1,) * (len(batch) + 2 - len(b.shape)) + b.shape)
    large = a.shape[-2] > 25 or b.shape[-2] > 25
    if p == 2 and a.shape[-1] and (compute_mode == modes[1] or (compute_mode in (None, modes[0]) and large)):
        a, b = (P.broadcast(x, (*batch, *x.shape[-2:])) for x in (a, b))
        return wrap(_euclid_by_product(a, b))
    left = P.reshape(a, (*a.shape[:-1], 1, a.shape[-1]))
    right = P.reshape(b, (*b.shape[:-2], 1, *b.shape[-2:]))
    return wrap(distance_node(P.sub(left, right), float(p)))


@public(method=False)
@public(module="nn.functional", method=False)
def pdist(input: Any, p: float = 2.0) -> Any:
    """Return the p-norm distances of all pairs of rows, the upper triangle row by row. Shapes: (N, M) -> (N(N-1)/2)."""
    if len(input._shape) != 2:
        raise RuntimeError(f"pdist only supports 2D tensors, got: {len(input._shape)}D")
    if p < 0:
        raise RuntimeError("pdist only supports non-negative p values")
    import numpy as np

    x = read(input)
    i, j = (P.given(np.ascontiguousarray(v, np.int64)) for v in np.triu_indices(x.shape[0], 1))
    return wrap(distance_node(P.sub(P.take(x, i, 0), P.take(x, j, 0)), float(p)))


@public(method=False)
@public(module="nn.functional", method=False)
def pairwise_distance(x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Any:
    """Return the p-norm of x1 - x2 + eps over the last dimension."""
    y = pairwise_node(*nodes_of(x1, x2), float(p), eps)
    return wrap(P.reshape(y, (*y.shape, 1)) if keepdim and (x1._shape or x2._shape) else y)


def pairwise_node(a: Node, b: Node, p: float, eps: float) -> Node:
    """The p-norm of a - b + eps over the last dimension."""
    d = P.sub(a, b)
    d = P.convert(d, floating(d.dtype))
    d = P.add(d, number(float(eps), d.dtype))
    return norm_node(d, p, (len(d.shape) - 1,) if d.shape else (), False)


@public(method=False)
@public(module="nn.functional", method=False)
def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    """Return x1.x2 / (max(|x1|, eps) * max(|x2|, eps)) along a dimension."""
    d = result_type(x1, x2)
    if d.category != 2:
        raise RuntimeError(
            "expected common dtype to be floating point, yet common dtype is " + d.name.title()
        )
    a, b = node_of(x1, d), node_of(x2, d)
    shape = broadcast_shapes(a.shape, b.shape)
    a, b = P.broadcast(a, shape), P.broadcast(b, shape)
    d0 = wrap_dim(dim, len(shape) or 1)
    at = (d0,) if shape else ()
    tiny = number(float(eps), d)

    def unit(x: Node) -> Node:
        n = norm_node(x, 2, at, True)
        n = with_gradient(P.max_(P.detach(n), tiny), lambda g, y, n: [g], n)  # PyTorch's gradient knows no limit
        return P.div(x, n)

    return wrap(P.sum_(P.mul(unit(a), unit(b)), at))
