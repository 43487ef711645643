"""Primitives that move elements without computing: views, joins and the tape."""

from __future__ import annotations

import math

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.shape import Shape
from fanal.core.ir.prims.batching import recasting, shifted, spreading, taped, up, walking
from fanal.core.ir.program import Node
from fanal.core.ir.row import Row, kept, prim, same


def _view(name, shape, ref, grad, batch, fold=None, flops=0):  # type: ignore[no-untyped-def]
    return prim(
        name,
        kind="view",
        shape=shape,
        dtype=kept,
        ref=ref,
        grad=grad,
        batch=batch,
        code=None,
        flops=flops,
        exact=True,
        fold=fold,
    )


def _inverse(perm: tuple[int, ...]) -> tuple[int, ...]:
    out = [0] * len(perm)
    for i, p in enumerate(perm):
        out[p] = i
    return tuple(out)


def sum_to(g: Node, shape: Shape) -> Node:
    """Sum `g` down to `shape`, undoing a broadcast."""
    return g if g.shape == shape else sum_over(g, shape)


def sum_over(g: Node, shape: Shape) -> Node:
    """Sum `g` over what `shape` does not have, or has once: a single row as well, to be recorded as several are."""
    from fanal.core.ir.prims.reduce import sum_

    lead = len(g.shape) - len(shape)
    dims = tuple(range(lead)) + tuple(lead + i for i, n in enumerate(shape) if n == 1)
    return reshape(sum_(g, dims) if dims else g, shape)


broadcast: Row = _view(
    "broadcast",
    lambda i, p: p[0],
    lambda x, shape: np.broadcast_to(x, shape),
    lambda g, y, x, shape: [sum_to(g, x.shape)],
    spreading,
    lambda x, shape: x if x.shape == shape else None,
)
reshape: Row = _view(
    "reshape",
    lambda i, p: p[0],
    lambda x, shape: np.reshape(x, shape),
    lambda g, y, x, shape: [reshape(g, x.shape)],
    shifted(lambda size, shape: ((size, *shape),)),
    lambda x, shape: (
        x
        if x.shape == shape
        else reshape(x.inputs[0], shape)
        if x.row is reshape and not x.needs_grad and x.buffer is None
        else None
    ),
)
permute: Row = _view(
    "permute",
    lambda i, p: tuple(i[0].shape[d] for d in p[0]),
    lambda x, dims: np.transpose(x, dims),
    lambda g, y, x, dims: [permute(g, _inverse(dims))],
    shifted(lambda size, dims: ((0, *up(dims)),)),
    lambda x, dims: x if dims == tuple(range(len(dims))) else None,
)


def _slice_shape(i: tuple, p: tuple) -> Shape:
    return tuple(max(0, -(-(b - a) // s)) for a, b, s in zip(*p))


def _slices(starts: Shape, stops: Shape, steps: Shape) -> tuple[slice, ...]:
    return tuple(slice(a, max(b, a), s) for a, b, s in zip(starts, stops, steps))


def _region(size: int, starts: Shape, stops: Shape, steps: Shape) -> tuple[Shape, Shape, Shape]:
    return (0, *starts), (size, *stops), (1, *steps)


# starts, stops, steps: one int per dimension, 0 <= start <= stop <= size, step >= 1.
slice_: Row = _view(
    "slice",
    _slice_shape,
    lambda x, a, b, s: x[_slices(a, b, s)],
    lambda g, y, x, a, b, s: [update_slice(zeros(x.shape, g.dtype), g, a, b, s)],
    shifted(_region),
    lambda x, a, b, s: x if not any(a) and b == x.shape and all(k == 1 for k in s) else None,
)


def span(x: Node, dim: int, start: int, stop: int) -> Node:
    """Return x[start:stop] along one dimension."""
    low = tuple(start if d == dim else 0 for d in range(len(x.shape)))
    high = tuple(stop if d == dim else n for d, n in enumerate(x.shape))
    return slice_(x, low, high, (1,) * len(low))


def corner(x: Node, shape: Shape) -> Node:
    """Return the first `shape[d]` places along every dimension d."""
    return slice_(x, (0,) * len(shape), shape, (1,) * len(shape))


flip: Row = _view(
    "flip",
    same,
    lambda x, dims: np.flip(x, dims),
    lambda g, y, x, dims: [flip(g, dims)],
    shifted(lambda size, dims: (up(dims),)),
)


def _pad_ref(x: np.ndarray, low: Shape, high: Shape, value: float) -> np.ndarray:
    out = np.full([n + a + b for n, a, b in zip(x.shape, low, high)], value, x.dtype)
    out[tuple(slice(a, a + n) for n, a in zip(x.shape, low))] = x
    return out


# Constant padding, low and high >= 0 (op `pad` crops with slice first).
pad: Row = _view(
    "pad",
    lambda i, p: tuple(n + a + b for n, a, b in zip(i[0].shape, p[0], p[1])),
    _pad_ref,
    lambda g, y, x, low, high, value: [
        slice_(g, low, tuple(a + n for a, n in zip(low, x.shape)), (1,) * len(low))
    ],
    shifted(lambda size, low, high, value: ((0, *low), (0, *high), value)),
    lambda x, low, high, value: x if not any(low) and not any(high) else None,
)


def _window_shape(i: tuple, p: tuple) -> Shape:
    dims, sizes, steps, gaps = p
    out = list(i[0].shape)
    for d, k, s, r in zip(dims, sizes, steps, gaps):
        out[d] = (out[d] - r * (k - 1) - 1) // s + 1
    return (*out, *sizes)


def _window_ref(x: np.ndarray, dims: Shape, sizes: Shape, steps: Shape, gaps: Shape) -> np.ndarray:
    shape, strides = list(x.shape), list(x.strides)
    for d, k, s, r in zip(dims, sizes, steps, gaps):
        shape[d] = (x.shape[d] - r * (k - 1) - 1) // s + 1
        strides[d] = x.strides[d] * s
    return np.lib.stride_tricks.as_strided(
        x, (*shape, *sizes), (*strides, *(x.strides[d] * r for d, r in zip(dims, gaps)))
    )


# Sliding windows over `dims`: their offsets become trailing dimensions of `sizes`; the base of pooling and unfold.
window: Row = _view(
    "window",
    _window_shape,
    _window_ref,
    lambda g, y, x, dims, sizes, steps, gaps: [fold(g, x.shape, dims, sizes, steps, gaps)],
    shifted(lambda size, dims, *windows: (up(dims), *windows)),
)


def _fold_ref(
    x: np.ndarray, shape: Shape, dims: Shape, sizes: Shape, steps: Shape, gaps: Shape
) -> np.ndarray:
    acc = dt.ACCUMULATE.get(dt.from_numpy(x.dtype), dt.from_numpy(x.dtype)).np
    out = np.zeros(shape, acc)
    n = len(shape)
    for offset in np.ndindex(*sizes):
        at = [slice(None)] * n
        for d, o, s, r in zip(dims, offset, steps, gaps):
            at[d] = slice(o * r, o * r + s * (x.shape[d] - 1) + 1, s)
        out[tuple(at)] += x[(..., *offset)]
    return out.astype(x.dtype)


# The transpose of window: every element sums the windows that cover it, offsets in row-major order.
fold: Row = prim(
    "fold",
    kind="reduce",
    shape=lambda i, p: p[0],
    dtype=kept,
    ref=_fold_ref,
    grad=lambda g, y, x, shape, dims, sizes, steps, gaps: [window(g, dims, sizes, steps, gaps)],
    batch=shifted(lambda size, shape, dims, *windows: ((size, *shape), up(dims), *windows)),
    code=None,
    flops=lambda i, p: i[0].size,
)


def _strided_ref(x: np.ndarray, shape: Shape, strides: Shape, offset: int) -> np.ndarray:
    k = x.itemsize
    return np.lib.stride_tricks.as_strided(x[offset:] if x.size else x, shape, [s * k for s in strides])


def _strided_grad(g: Node, y: Node, x: Node, shape: Shape, strides: Shape, offset: int) -> list[Node]:
    from fanal.core.ir.prims.index import put
    from fanal.core.ir.prims.source import iota

    at = strided(iota(x.shape, 0, dt.int64), shape, strides, offset)
    return [put(zeros(x.shape, g.dtype), reshape(at, (at.size,)), reshape(g, (g.size,)), 0, "add")]


# Any walk over a flat value, elements may repeat: torch.as_strided.
strided: Row = prim(
    "strided",
    kind="opaque",
    shape=lambda i, p: p[0],
    dtype=kept,
    ref=_strided_ref,
    grad=_strided_grad,
    batch=walking,
    code=None,
    flops=0,
    exact=True,
)


def _recast_shape(i: tuple, p: tuple) -> Shape:
    x = i[0]
    return (*x.shape[:-1], x.shape[-1] * x.dtype.itemsize // p[0].itemsize) if x.shape else ()


def _recast_ref(x: np.ndarray, to: dt.dtype) -> np.ndarray:
    if x.ndim and x.shape[-1] != 1 and x.strides[-1] != x.itemsize:
        x = np.ascontiguousarray(x)
    return x.view(to.np)


# The bytes read as another dtype; the last dimension changes with the size of an element. Complex numbers are pairs.
recast: Row = prim(
    "recast",
    kind="opaque",
    shape=_recast_shape,
    dtype=lambda i, p: p[0],
    ref=_recast_ref,
    grad=lambda g, y, x, to: [recast(g, x.dtype)],
    batch=recasting,
    code=None,
    flops=0,
    exact=True,
    fold=lambda x, to: x if x.dtype is to else None,
)


def _concat_grad(g: Node, y: Node, *rest):  # type: ignore[no-untyped-def]
    *xs, dim = rest
    out, at = [], 0
    for x in xs:
        out.append(span(g, dim, at, at + x.shape[dim]))
        at += x.shape[dim]
    return out


concat: Row = prim(
    "concat",
    kind="join",
    arity=-1,
    dtype=kept,
    shape=lambda i, p: tuple(
        sum(x.shape[d] for x in i) if d == p[0] else n for d, n in enumerate(i[0].shape)
    ),
    ref=lambda *a: np.concatenate(a[:-1], a[-1]),
    grad=_concat_grad,
    batch=shifted(lambda size, dim: (dim + 1,)),
    code=None,
    flops=0,
    exact=True,
    fold=lambda xs, dim: xs[0] if len(xs) == 1 else None,
)


def _update_ref(x: np.ndarray, v: np.ndarray, a: Shape, b: Shape, s: Shape) -> np.ndarray:
    out = x.copy()
    out[_slices(a, b, s)] = v
    return out


# x with the region x[starts:stops:steps] replaced by v.
update_slice: Row = prim(
    "update_slice",
    kind="join",
    arity=2,
    shape=same,
    dtype=kept,
    ref=_update_ref,
    grad=lambda g, y, x, v, a, b, s: [update_slice(g, zeros(v.shape, g.dtype), a, b, s), slice_(g, a, b, s)],
    batch=shifted(_region),
    code=None,
    flops=0,
    exact=True,
)


def region_of_zeros(n: Node) -> tuple[Shape, Shape, Shape] | None:
    """Return the region outside which a value is zero by construction, as the gradient of a slice is."""
    if n.row is not update_slice or not n.inputs:
        return None
    x = n.inputs[0]
    return n.params if x.row.name == "full" and x.params[1] == 0 else None


def disjoint(a: tuple[Shape, Shape, Shape], b: tuple[Shape, Shape, Shape]) -> bool:
    """Tell whether two regions of one value surely have no element in common."""
    return any(e <= s or f <= r for r, e, s, f in zip(a[0], a[1], b[0], b[1]))


def zeros(shape: Shape, dtype: dt.dtype) -> Node:
    """Return a constant zero of a shape."""
    from fanal.core.ir.prims.source import full

    return full(shape, 0, dtype)


def size(shape: Shape) -> int:
    """Return the number of elements of a shape."""
    return math.prod(shape)


# The tape. `detach` stops gradients; `tape` is its first input with a gradient rule of its own:
# rule(g, y, *inputs) -> one node or None per remaining input.
detach: Row = prim(
    "detach",
    kind="tape",
    shape=same,
    dtype=kept,
    ref=lambda x: x,
    grad=None,
    batch=taped,
    code=None,
    flops=0,
    exact=True,
)
alias: Row = prim(
    "alias",
    kind="tape",
    shape=same,
    dtype=kept,
    ref=lambda x: x,
    grad=lambda g, y, x: [g],
    batch=taped,
    code=None,
    flops=0,
    exact=True,
)
tape: Row = prim(
    "tape",
    kind="tape",
    arity=-1,
    shape=lambda i, p: i[0].shape,
    dtype=lambda i, p: i[0].dtype,
    ref=lambda x, *_: x,
    grad=lambda g, y, x, *rest: [None, *rest[-1](g, y, *rest[:-1])],
    batch=taped,
    code=None,
    flops=0,
    exact=True,
)
