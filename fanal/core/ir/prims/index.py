"""Primitives that read or write where an index says, and sorting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.shape import Shape
from fanal.core.ir.prims.batching import along, one_by_one, reading, writing
from fanal.core.ir.prims.view import zeros
from fanal.core.ir.program import Node
from fanal.core.ir.row import NO_GRADIENT, Row, kept, prim, same

_AT: dict[str, Callable] = {
    "add": np.add.at,
    "mul": np.multiply.at,
    "max": np.maximum.at,
    "min": np.minimum.at,
}


def _check(index: np.ndarray, n: int) -> np.ndarray:
    if index.size and (index.min() < -n or index.max() >= n):
        bad = int(index.max() if index.max() >= n else index.min())
        raise IndexError(f"index {bad} is out of bounds for dimension with size {n}")
    return index


def _along(index: np.ndarray, dim: int) -> tuple:
    grid = list(np.ogrid[tuple(slice(n) for n in index.shape)])
    grid[dim] = index
    return tuple(grid)


def _put(x: np.ndarray, at: tuple, v: np.ndarray, mode: str) -> np.ndarray:
    acc = dt.ACCUMULATE.get(dt.from_numpy(x.dtype))
    out = x.astype(acc.np) if acc else x.copy()
    if mode == "set":
        out[at] = v
    elif x.dtype == bool and mode == "add":
        np.logical_or.at(out, at, v)
    else:
        _AT[mode](out, at, v.astype(out.dtype))
    return out.astype(x.dtype)


def _take_grad(g: Node, y: Node, x: Node, i: Node, dim: int) -> list[Node | None]:
    return [put(zeros(x.shape, g.dtype), i, g, dim, "add"), None]


# Whole slices: x.shape[:dim] + index.shape + x.shape[dim+1:]. index_select, embedding, advanced indexing.
# Indices are int64 in [-n, n).
take: Row = prim(
    "take",
    kind="index",
    arity=2,
    dtype=kept,
    shape=lambda i, p: (*i[0].shape[: p[0]], *i[1].shape, *i[0].shape[p[0] + 1 :]),
    ref=lambda x, i, dim: np.take(x, _check(i, x.shape[dim]), dim),
    grad=_take_grad,
    batch=reading,
    code=None,
    flops=0,
    exact=True,
)
# x with v written at the places `take` reads. Modes: set (last wins), add, mul, max, min.
put: Row = prim(
    "put",
    kind="index",
    arity=3,
    shape=same,
    dtype=kept,
    ref=lambda x, i, v, dim, mode: _put(x, (slice(None),) * dim + (_check(i, x.shape[dim]),), v, mode),
    grad=lambda g, y, x, i, v, dim, mode: _write_grad(put, take, g, x, i, v, dim, mode),
    batch=writing,
    code=None,
    flops=lambda i, p: i[2].size,
)
# Single elements: y[.., j, ..] = x[.., index[.., j, ..], ..] along `dim`; index.shape[d] <= x.shape[d] elsewhere.
gather: Row = prim(
    "gather",
    kind="index",
    arity=2,
    dtype=kept,
    shape=lambda i, p: i[1].shape,
    ref=lambda x, i, dim: x[_along(_check(i, x.shape[dim]), dim)],
    grad=lambda g, y, x, i, dim: [scatter(zeros(x.shape, g.dtype), i, g, dim, "add"), None],
    batch=along(lambda size, dim: (dim + 1,)),
    code=None,
    flops=0,
    exact=True,
)
# x with v (index.shape) written at the places `gather` reads.
scatter: Row = prim(
    "scatter",
    kind="index",
    arity=3,
    shape=same,
    dtype=kept,
    ref=lambda x, i, v, dim, mode: _put(x, _along(_check(i, x.shape[dim]), dim), v, mode),
    grad=lambda g, y, x, i, v, dim, mode: _write_grad(scatter, gather, g, x, i, v, dim, mode),
    batch=along(lambda size, dim, mode: (dim + 1, mode)),
    code=None,
    flops=lambda i, p: i[2].size,
)


def _write_grad(write, read, g, x, i, v, dim, mode):  # type: ignore[no-untyped-def]
    if mode == "add":
        return [g, None, read(g, i, dim)]
    if mode == "set":
        return [write(g, i, zeros(v.shape, g.dtype), dim, "set"), None, read(g, i, dim)]
    raise RuntimeError(
        f"the gradient of a scatter with reduce='{mode}' is written in the operator that uses it"
    )


_WORTH = 2048  # elements, from which on it pays to select before sorting


def _argsort_ref(x: np.ndarray, dim: int, descending: bool, start: int, stop: int) -> np.ndarray:
    if x.ndim == 0:
        return np.zeros((), np.int64)
    n, x = x.shape[dim], dt.ordered(x)
    if x.size > _WORTH and 0 < stop - start < n and x.dtype.kind in "fiu":
        low, high = (n - stop, n - start) if descending else (start, stop)
        ends = [k for k in {low, high - 1} if 0 <= k < n]
        found = np.argpartition(x, ends, dim).take(range(low, high), dim)
        if stop - start > 1:
            within = np.argsort(np.take_along_axis(x, found, dim), dim, kind="stable")
            found = np.take_along_axis(found, within, dim)
        return np.flip(found, dim) if descending else found
    return _whole_order(x, dim, descending).take(range(start, stop), dim)


def _whole_order(x: np.ndarray, dim: int, descending: bool) -> np.ndarray:
    if not descending:
        return np.argsort(x, dim, kind="stable").astype(np.int64)
    # Stable and descending: sort the reversed array ascending, and read it backwards. NaN comes first.
    order = np.flip(np.argsort(np.flip(x, dim), dim, kind="stable"), dim)
    return (x.shape[dim] - 1 - order).astype(np.int64)


def _argsort_shape(inputs: Sequence[Node], params: tuple) -> Shape:
    dim, _, start, stop = params
    return tuple(stop - start if d == dim else n for d, n in enumerate(inputs[0].shape))


# The places start ... stop of the order that sorts along `dim`; NaN is the largest. The whole order is stable; in a
# part, equal elements may stand for each other.
argsort: Row = prim(
    "argsort",
    kind="opaque",
    shape=_argsort_shape,
    dtype=lambda i, p: dt.int64,
    ref=_argsort_ref,
    grad=NO_GRADIENT,
    batch=along(lambda size, dim, *rest: (dim + 1, *rest)),
    code=None,
    flops=lambda i, p: 20 * i[0].size,
    exact=True,
)
# Any function of arrays, run on the host between kernels: host(*arrays) -> array. For LAPACK, FFT, searching.
host: Row = prim(
    "host",
    kind="opaque",
    arity=-1,
    shape=lambda i, p: p[1],
    dtype=lambda i, p: p[2],
    ref=lambda *a: a[-3](*a[:-3]),
    grad=NO_GRADIENT,
    batch=one_by_one,
    code=None,
    flops=0,
)
