"""Maximum pooling. Sums over windows need no rows of their own: they are `window` and `sum`.

Geometry: kernel, stride, padding, dilation, out, one int each for every one of the last dimensions of x.
`padding` is in front; `out` counts the windows, of which the last may end beyond the input. Elements outside
never count.
"""
from __future__ import annotations

import math

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.shape import Shape
from fanal.core.ir.prims.batching import shifted
from fanal.core.ir.prims.index import gather
from fanal.core.ir.prims.view import reshape
from fanal.core.ir.program import Node
from fanal.core.ir.row import NO_GRADIENT, kept, prim


def _search(x: np.ndarray, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape, out: Shape,
            ) -> tuple[np.ndarray, np.ndarray]:
    """Return the maximum of each window and its flat position: the first of equals, the last NaN."""
    n = len(kernel)
    lead, size = x.shape[:-n], x.shape[-n:]
    margins = [(p, max(0, (o - 1) * s + d * (k - 1) + 1 - p - m)) for k, s, p, d, o, m in
               zip(kernel, stride, padding, dilation, out, size)]
    places = np.pad(np.arange(math.prod(size)).reshape(size), margins, constant_values=-1)
    padded = np.pad(x, [(0, 0)] * len(lead) + margins)
    best, at = np.zeros((*lead, *out), x.dtype), np.full((*lead, *out), -1, np.int64)
    for offset in np.ndindex(*kernel):
        where = tuple(slice(a * d, a * d + s * (o - 1) + 1, s)
                      for a, d, s, o in zip(offset, dilation, stride, out))
        value, place = padded[(slice(None),) * len(lead) + where], places[where]
        with np.errstate(invalid="ignore"):
            better = (place >= 0) & ((at < 0) | (value > best) | (value != value))
        best, at = np.where(better, value, best), np.where(better, place, at)
    low = -np.inf if x.dtype.kind not in "iu" else np.iinfo(x.dtype).min
    return np.where(at < 0, np.asarray(low).astype(x.dtype), best), at


def _dx_ref(g: np.ndarray, x: np.ndarray, *geometry: Shape) -> np.ndarray:
    n, acc = len(geometry[0]), dt.ACCUMULATE.get(dt.from_numpy(g.dtype))
    lead = x.shape[:-n]
    at = _search(x, *geometry)[1].reshape(math.prod(lead), math.prod(geometry[-1]))
    y = np.zeros((at.shape[0], math.prod(x.shape[-n:])), acc.np if acc else g.dtype)
    rows = np.broadcast_to(np.arange(at.shape[0])[:, None], at.shape)
    inside = at >= 0  # a dilated window may miss the input
    np.add.at(y, (rows[inside], at[inside]), g.reshape(at.shape)[inside].astype(y.dtype))
    return y.astype(g.dtype).reshape(x.shape)


def _grad(g: Node, y: Node, x: Node, *geometry: Shape) -> list[Node | None]:
    return [max_pool_dx(g, x, *geometry)]


def _dx_grad(v: Node, y: Node, g: Node, x: Node, *geometry: Shape) -> list[Node | None]:
    n = len(geometry[0])
    lead = x.shape[:-n]
    at = max_pool_at(x, *geometry)
    flat = reshape(v, (*lead, math.prod(x.shape[-n:])))
    picked = gather(flat, reshape(at, (*lead, math.prod(geometry[-1]))), len(lead))
    return [reshape(picked, g.shape), None]


def _windows(i: tuple, p: tuple) -> Shape:
    return (*i[0].shape[:-len(p[0])], *p[-1])


def _work(i: tuple, p: tuple) -> int:
    return math.prod(i[-1].shape[:-len(p[0])]) * math.prod(p[-1]) * math.prod(p[0])


# x (..., *size) -> (..., *out). The gradient goes to one element of each window; NaN propagates.
max_pool = prim("max_pool", kind="pool", shape=_windows, dtype=kept, ref=lambda x, *p: _search(x, *p)[0],
                grad=_grad, batch=shifted(), code=None, flops=_work, exact=True)
# The flat position, in the last dimensions of x, of the element that max_pool takes: the first of equals, the
# last NaN.
max_pool_at = prim("max_pool_at", kind="pool", shape=_windows, dtype=lambda i, p: dt.int64,
                   ref=lambda x, *p: _search(x, *p)[1], grad=NO_GRADIENT, batch=shifted(), code=None,
                   flops=_work, exact=True)
# g (..., *out), x (..., *size) -> (..., *size): each window adds its g to the element it took, in row-major
# order.
max_pool_dx = prim("max_pool_dx", kind="pool", arity=2, shape=lambda i, p: i[1].shape, dtype=kept,
                   ref=_dx_ref, grad=_dx_grad, batch=shifted(), code=None, flops=_work)
