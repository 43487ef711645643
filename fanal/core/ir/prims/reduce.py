"""Primitives that combine elements along dimensions: reductions and scans."""

from __future__ import annotations

import itertools

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.shape import Shape, reduced_shape
from fanal.core.ir.prims.batching import along, shifted, up
from fanal.core.ir.prims.point import _quiet, conj, div, eq, exp, le, lt, mul, neg, num, where
from fanal.core.ir.prims.source import iota
from fanal.core.ir.prims.view import broadcast, corner, flip, pad, permute, reshape
from fanal.core.ir.program import Node
from fanal.core.ir.row import NO_GRADIENT, Row, kept, ordered, prim, same


def _out(i: tuple, p: tuple) -> Shape:
    return reduced_shape(i[0].shape, p[0])


def spread_back(g: Node, x: Node, dims: Shape) -> Node:
    """Repeat a reduced value over the dimensions that were reduced."""
    return broadcast(reshape(g, reduced_shape(x.shape, dims, True)), x.shape)


def _wide(f):  # type: ignore[no-untyped-def]
    """Accumulate 16-bit and 8-bit floats in float32."""

    def call(x, dims):  # type: ignore[no-untyped-def]
        acc = dt.ACCUMULATE.get(dt.from_numpy(x.dtype))
        return np.asarray(f(x.astype(acc.np) if acc else x, dims)).astype(x.dtype)

    return call


def _reduce(name, ref, grad, fold=None, dtype=kept):  # type: ignore[no-untyped-def]
    return prim(
        name,
        kind="reduce",
        shape=_out,
        dtype=dtype,
        ref=_quiet(ref),
        grad=grad,
        batch=shifted(lambda size, dims: (up(dims),)),
        code=None,
        flops=lambda i, p: i[0].size,
        fold=fold,
    )


def _none(x: Node, dims: Shape) -> Node | None:
    return x if not dims else None


sum_: Row = _reduce(
    "sum",
    _wide(lambda x, d: np.sum(x, d, dtype=x.dtype) if x.dtype != bool else np.any(x, d)),
    lambda g, y, x, d: [spread_back(g, x, d)],
    _none,
)
prod: Row = _reduce(
    "prod", _wide(lambda x, d: np.prod(x, d, dtype=x.dtype)), lambda g, y, x, d: _prod_grad(g, y, x, d), _none
)
# Over all elements of `dims`; ties share the gradient evenly; NaN propagates.
max_of: Row = _reduce(
    "max_of", lambda x, d: np.max(x, d), lambda g, y, x, d: _extreme_grad(g, y, x, d), _none, ordered("max")
)
min_of: Row = _reduce(
    "min_of", lambda x, d: np.min(x, d), lambda g, y, x, d: _extreme_grad(g, y, x, d), _none, ordered("min")
)


def _arg(f):  # type: ignore[no-untyped-def]
    return prim(
        "arg" + f.__name__[3:],
        kind="reduce",
        shape=lambda i, p: reduced_shape(i[0].shape, p[:1]),
        dtype=ordered("arg" + f.__name__[3:], lambda i, p: dt.int64),
        ref=lambda x, d: np.asarray(f(x, d)).astype(np.int64),
        grad=NO_GRADIENT,
        batch=shifted(lambda size, dim: (dim + 1,)),
        code=None,
        flops=lambda i, p: i[0].size,
        exact=True,
    )


argmax: Row = _arg(np.argmax)  # first of equals; the first NaN wins
argmin: Row = _arg(np.argmin)


def _extreme_grad(g: Node, y: Node, x: Node, dims: Shape) -> list[Node | None]:
    hit = eq(x, spread_back(y, x, dims))
    one = where(hit, num(g, 1), num(g, 0))
    share = div(g, sum_(one, dims))
    return [where(hit, spread_back(share, x, dims), num(g, 0))]


def _prod_grad(g: Node, y: Node, x: Node, dims: Shape) -> list[Node | None]:
    """d prod / d x_i = product of the others, by exclusive products from both ends: right with zeros, and smooth."""
    keep = tuple(d for d in range(len(x.shape)) if d not in dims)
    perm = keep + dims
    lead = tuple(x.shape[d] for d in keep)
    n = 1
    for d in dims:
        n *= x.shape[d]
    flat = reshape(permute(x, perm), (*lead, n))
    last = len(lead)
    before = _exclusive(flat, last)
    after = flip(_exclusive(flip(flat, (last,)), last), (last,))
    others = reshape(mul(before, after), tuple(x.shape[d] for d in perm))
    back = tuple(perm.index(d) for d in range(len(perm)))

    return [mul(spread_back(g, x, dims), conj(permute(others, back)))]


def _exclusive(x: Node, dim: int) -> Node:
    """Return the products of all elements before each one."""
    zero = (0,) * len(x.shape)
    one = tuple(int(d == dim) for d in range(len(x.shape)))
    return scan(corner(pad(x, one, zero, 1), x.shape), "mul", dim)


_SCANS = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum, "logaddexp": np.logaddexp}


def _complex_log_add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """log(exp(a) + exp(b)) from the larger real part on, which NumPy has for real numbers only."""
    first = a.real >= b.real
    high, low = np.where(first, a, b), np.where(first, b, a)
    same = np.isinf(high.real) & (high.real == low.real)  # inf - inf is no number
    return np.where(same, high, high + np.log1p(np.exp(low - np.where(same, 0, high))))


def _scan_ref(x: np.ndarray, op: str, dim: int) -> np.ndarray:
    if x.ndim == 0 or x.size == 0:
        return x.copy()
    if op == "logaddexp" and x.dtype.kind == "c":
        steps = itertools.accumulate(np.moveaxis(x, dim, 0), _complex_log_add)
        return np.stack(list(steps), dim).astype(x.dtype)
    acc = dt.ACCUMULATE.get(dt.from_numpy(x.dtype))
    wide = x.astype(acc.np) if acc else x
    return _SCANS[op].accumulate(wide, dim, dtype=wide.dtype).astype(x.dtype)


def _running_product_grad(g: Node, x: Node, dim: int) -> Node:
    """Gradient of running products, right with zeros and differentiable.

    dy_k / dx_i = prod_{j<i} x_j * prod_{i<j<=k} x_j: the second factors are made for all pairs, n**2 of them, without
    a division.
    """
    n, rank = x.shape[dim], len(x.shape)
    order = (*(d for d in range(rank) if d != dim), dim)
    xs, gs = permute(x, order), permute(g, order)
    lead = xs.shape[:-1]
    rows, cols = iota((n, n), 0, dt.int64), iota((n, n), 1, dt.int64)
    # between[i, k] = prod_{i<j<=k} x_j for k >= i: running products of rows masked to ones up to the diagonal.
    wide = broadcast(reshape(xs, (*lead, 1, n)), (*lead, n, n))
    between = scan(where(lt(rows, cols), wide, num(xs, 1)), "mul", rank)
    seen = where(le(rows, cols), mul(conj(between), reshape(gs, (*lead, 1, n))), num(gs, 0))
    found = mul(conj(_exclusive(xs, rank - 1)), sum_(seen, (rank,)))
    return permute(found, tuple(order.index(d) for d in range(rank)))


def _scan_grad(g: Node, y: Node, x: Node, op: str, dim: int) -> list[Node | None]:
    if op == "add":
        return [flip(scan(flip(g, (dim,)), "add", dim), (dim,))]
    if op == "mul":
        return [_running_product_grad(g, x, dim) if x.shape and x.size else g]
    if op == "logaddexp":  # dy_j/dx_i = exp(x_i - y_j) for j >= i
        shifted = scan(flip(mul(g, conj(exp(neg(y)))), (dim,)), "add", dim)
        return [mul(conj(exp(x)), flip(shifted, (dim,)))]
    raise RuntimeError(f"the gradient of scan '{op}' is written in the operator that uses it")


# Inclusive running combination along one dimension.
scan: Row = prim(
    "scan",
    kind="scan",
    shape=same,
    dtype=kept,
    ref=_quiet(_scan_ref),
    grad=_scan_grad,
    batch=along(lambda size, op, dim: (op, dim + 1)),
    code=None,
    flops=lambda i, p: i[0].size,
)
