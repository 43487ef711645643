"""Operators that copy elements into another arrangement: flips, rolls, repeats, diagonals, triangles, grids."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.shape import Shape, Size, broadcast_shapes, wrap_dim, wrap_dims
from fanal.core.engine.handle import Handle
from fanal.core.engine.record import unfollowable
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import assign, dense, public, read, result, wrap
from fanal.core.ops.convert import fill
from fanal.core.ops.shape import as_strided, clone, expanded, ints, reshape, view_shape
from fanal.core.ops.shape import diagonal as view
from fanal.core.tensor.tensor import compute, strides_of


@public()
def flip(input: Any, *axes: Any, dims: Any = None) -> Any:
    """Return a copy with the order of elements reversed along dimensions."""
    d = wrap_dims(ints(axes if dims is None else (dims,), "flip", "dims"), len(input._shape))
    return result(P.flip(read(input), d), input)


@public()
def fliplr(input: Any) -> Any:
    """Return a copy with columns in reverse order."""
    if len(input._shape) < 2:
        raise RuntimeError("Input must be >= 2-d.")
    return flip(input, 1)


@public()
def flipud(input: Any) -> Any:
    """Return a copy with rows in reverse order."""
    if not input._shape:
        raise RuntimeError("Input must be >= 1-d.")
    return flip(input, 0)


def rolled(x: Node, shift: int, dim: int) -> Node:
    """Move elements along a dimension; what leaves at the end comes in at the front."""
    n = x.shape[dim]
    k = shift % n if n else 0
    if not k:
        return x
    return P.concat((P.span(x, dim, n - k, n), P.span(x, dim, 0, n - k)), dim)


@public()
def roll(input: Any, shifts: Any, dims: Any = ()) -> Any:
    """Return a copy rolled along dimensions, or as a flat sequence."""
    by = (shifts,) if isinstance(shifts, int) else tuple(shifts)
    at = (dims,) if isinstance(dims, int) else tuple(dims)
    x = read(input)
    if not by:
        raise RuntimeError("`shifts` required")
    if not at and len(by) == 1:
        return dense(P.reshape(rolled(P.reshape(x, (x.size,)), by[0], 0), x.shape), input)
    if len(by) != len(at):
        raise RuntimeError(f"shifts and dimensions must align. shifts: {len(by)}, dims:{len(at)}")
    for s, d in zip(by, at):
        w = wrap_dim(d, len(x.shape))
        if not x.shape:
            raise IndexError("Dimension specified as 0 but tensor has no dimensions")
        x = rolled(x, s, w)
    return dense(x, input)


@public()
def rot90(input: Any, k: int = 1, dims: Any = (0, 1)) -> Any:
    """Return a copy rotated k times by 90 degrees, from the first of `dims` towards the second."""
    n, dims = len(input._shape), tuple(dims)
    if len(dims) != 2:
        raise RuntimeError(f"expected total rotation dims == 2, but got dims = {len(dims)}")
    if n < 2:
        raise RuntimeError(f"expected total dims >= 2, but got total dims = {n}")
    a, b = wrap_dim(dims[0], n), wrap_dim(dims[1], n)
    if a == b:
        raise RuntimeError(
            f"expected rotation dims to be different, but got dim0 = {dims[0]} and dim1 = {dims[1]}"
        )
    x = read(input)
    order = list(range(n))
    order[a], order[b] = b, a
    k %= 4
    if k == 1:
        x = P.permute(P.flip(x, (b,)), tuple(order))
    elif k == 2:
        x = P.flip(x, (min(a, b), max(a, b)))
    elif k == 3:
        x = P.permute(P.flip(x, (a,)), tuple(order))
    return dense(x, input)


@public(function=False)
def repeat(self: Any, *sizes: Any, repeats: Any = None) -> Any:
    """Return a copy repeated along each dimension; new dimensions come in front."""
    times = ints(sizes if repeats is None else (repeats,), "repeat", "repeats")
    return tiled(self, times)


def tiled(t: Any, times: Shape) -> Any:
    """Return a copy repeated `times` along the last dimensions."""
    x = read(t)
    lead = len(times) - len(x.shape)
    if lead < 0:
        raise RuntimeError(
            "Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor"
        )
    shape = (1,) * lead + x.shape
    new = tuple(n * k for n, k in zip(shape, times))
    if any(n < 0 for n in new) or any(k < 0 for k in times):
        raise RuntimeError(
            f"Trying to create tensor with negative dimension {next(n for n in new if n < 0)}: {list(new)}"
            if any(n < 0 for n in new)
            else "Repeats must be non-negative"
        )
    spread = [m for k, n in zip(times, shape) for m in (k, n)]
    pairs = [m for n in shape for m in (1, n)]
    return dense(P.reshape(P.broadcast(P.reshape(x, tuple(pairs)), tuple(spread)), new), t)


@public()
def tile(input: Any, *sizes: Any, dims: Any = None) -> Any:
    """Return a copy repeated as numpy.tile."""
    times = ints(sizes if dims is None else (dims,), "tile", "dims")
    return tiled(input, (1,) * (len(input._shape) - len(times)) + times)


@public()
def repeat_interleave(
    input: Any, repeats: Any = None, dim: int | None = None, *, output_size: int | None = None
) -> Any:
    """Return each element repeated, next to itself; with one argument, the indices that do so."""
    if repeats is None:
        counts, source = input, None
    else:
        counts, source = repeats, input
    if source is not None:
        if dim is None or not source._shape:
            source, dim = reshape(source, (-1,)), 0
        dim = wrap_dim(dim, len(source._shape))
        if isinstance(counts, int):
            if counts < 0:
                raise RuntimeError("Repeats must be non-negative")
            n, x = source._shape[dim], read(source)
            wide = P.broadcast(
                P.reshape(x, (*x.shape[: dim + 1], 1, *x.shape[dim + 1 :])),
                (*x.shape[: dim + 1], counts, *x.shape[dim + 1 :]),
            )
            return dense(P.reshape(wide, (*x.shape[:dim], n * counts, *x.shape[dim + 1 :])), source)
    if not isinstance(counts, Handle):
        counts = np.asarray(counts, np.int64)
    else:
        if counts._dtype not in (dt.int32, dt.int64):
            raise RuntimeError("repeats has to be Long or Int tensor")
        counts = compute(counts).astype(np.int64)
        unfollowable("the result's size depends on a value")
    if counts.ndim > 1:
        raise RuntimeError(
            "repeats must be 0-dim or 1-dim tensor"
            if source is not None
            else "repeat_interleave only accept 1D vector as repeat"
        )
    if counts.size and counts.min() < 0:
        raise RuntimeError("repeats can not be negative")
    if source is None:
        return wrap(P.given(np.repeat(np.arange(counts.size), counts), dt.int64))
    n = source._shape[dim]
    if counts.size == 1:
        counts = np.broadcast_to(counts.reshape(-1), (n,))
    if counts.shape != (n,):
        raise RuntimeError(
            "repeats must have the same size as input along dim, but got repeats.size(0) = "
            f"{counts.shape[0]} and input.size({dim}) = {n}"
        )
    at = np.repeat(np.arange(n), counts)
    return dense(P.take(read(source), P.given(at, dt.int64), dim), source)


def diag_embed_node(x: Node, offset: int) -> Node:
    """Put the last dimension on the diagonal of a matrix otherwise zero."""
    lead, k = x.shape[:-1], x.shape[-1]
    zero = (0,) * len(lead)
    wide = P.pad(P.reshape(x, (*lead, k, 1)), (*zero, 0, 0), (*zero, 0, k), 0)
    flat = P.corner(P.reshape(wide, (*lead, k * (k + 1))), (*lead, k * k))
    top, left = max(-offset, 0), max(offset, 0)
    return P.pad(P.reshape(flat, (*lead, k, k)), (*zero, top, left), (*zero, left, top), 0)


@public()
def diag_embed(input: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """Return matrices whose diagonals are the last dimension of the input."""
    if not input._shape:
        raise RuntimeError("diag_embed: expected at least a 1-dimensional tensor")
    n = len(input._shape) + 1
    a, b = wrap_dim(dim1, n), wrap_dim(dim2, n)
    if a == b:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    y = diag_embed_node(read(input), offset)
    rest = iter(range(n - 2))
    order = tuple(n - 2 if d == a else n - 1 if d == b else next(rest) for d in range(n))
    return dense(P.permute(y, order), input)


@public(out="same")
def diag(input: Any, diagonal: int = 0) -> Any:
    """Return the matrix with a vector on its diagonal, or the diagonal of a matrix."""
    n = len(input._shape)
    if n not in (1, 2):
        raise RuntimeError(f"diag(): Supports 1D or 2D tensors. Got {n}D")
    return diag_embed(input, diagonal) if n == 1 else clone(view(input, diagonal))


@public()
def diagflat(input: Any, offset: int = 0) -> Any:
    """Return the matrix with all elements of the input on its diagonal."""
    return diag_embed(reshape(input, (-1,)), offset)


def band(shape: Shape, diagonal: int, lower: bool) -> Node:
    """Return where the lower (or upper) triangle of the last two dimensions is."""
    rows, cols = P.iota(shape[-2:], 0, dt.int64), P.iota(shape[-2:], 1, dt.int64)
    edge = P.add(rows, P.num(rows, diagonal))
    return P.le(cols, edge) if lower else P.le(edge, cols)


def _triangle(input: Any, diagonal: int, lower: bool) -> Any:
    x = read(input)
    if len(x.shape) < 2:
        raise RuntimeError(f"{'tril' if lower else 'triu'}: input tensor must have at least 2 dimensions")
    return dense(P.where(band(x.shape, diagonal, lower), x, P.num(x, 0)), input)


@public(function=False)
def fill_diagonal_(self: Any, fill_value: Any, wrap: bool = False) -> Any:
    """Fill the main diagonal of a matrix, or of a cube; with `wrap` it starts again below a tall matrix."""
    shape = self._shape
    if len(shape) < 2:
        raise RuntimeError("dimensions must larger than 1")
    if len(shape) > 2 and len(set(shape)) > 1:
        raise RuntimeError("all dimensions of input must be of equal length")
    st, rows = strides_of(self), shape[0]
    period = shape[1] + 1 if wrap and len(shape) == 2 else max(rows, 1)  # rows from one diagonal to the next
    for start in range(0, rows, period):
        n = min(min(shape), rows - start)
        line = as_strided(self, (n,), (sum(st),), self._offset + start * st[0])
        assign(line, read(fill(line, fill_value)))
    return self


@public(inplace=True, out="same")
def tril(input: Any, diagonal: int = 0) -> Any:
    """Return the lower triangle of matrices, the rest zero."""
    return _triangle(input, diagonal, True)


@public(inplace=True, out="same")
def triu(input: Any, diagonal: int = 0) -> Any:
    """Return the upper triangle of matrices, the rest zero."""
    return _triangle(input, diagonal, False)


@public(method=False)
def broadcast_tensors(*tensors: Any) -> tuple:
    """Return views of all tensors in their common shape; a tensor that has it is returned itself."""
    if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)):
        tensors = tuple(tensors[0])
    if not tensors:
        return ()
    shape = broadcast_shapes(*(t._shape for t in tensors))
    return tuple(t if t._shape == shape else expanded(t, shape) for t in tensors)


@public("broadcast_shapes", method=False)
def common_shape(*shapes: Any) -> Any:
    """Return the common shape of shapes."""
    given = [(s,) if isinstance(s, int) else tuple(s) for s in shapes]
    for s in given:
        for n in s:
            if n < 0:
                raise RuntimeError(f"Trying to create tensor with negative dimension ({n}): ({n})")
    common: tuple = (1,) * max(map(len, given), default=0)
    for k, s in enumerate(given):
        for d in range(-1, -1 - len(s), -1):
            if 1 != s[d] != common[d] != 1:
                raise RuntimeError(f"Attempting to broadcast a dimension of length {s[d]} at {d}! Mismatching "
                                   f"argument at index {k} had {s}; but expected shape should be broadcastable to "
                                   f"{list(common)}")
        common = broadcast_shapes(common, s)
    return Size(common)


@public(method=False)
def meshgrid(*tensors: Any, indexing: str | None = None) -> tuple:
    """Return the coordinates of a grid spanned by vectors; "ij" order, or "xy" as in plotting."""
    if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)):
        tensors = tuple(tensors[0])
    if not tensors:
        raise RuntimeError("meshgrid expects a non-empty TensorList")
    if indexing not in (None, "ij", "xy"):
        raise RuntimeError(f'torch.meshgrid: indexing must be one of "xy" or "ij", but received: {indexing}')
    for t in tensors:
        if len(t._shape) > 1:
            raise RuntimeError(f"torch.meshgrid: Expected 0D or 1D tensor in the tensor list but got: {t!r}")
        if t._dtype is not tensors[0]._dtype:
            raise RuntimeError("torch.meshgrid expects all tensors to have the same dtype")
    swap = indexing == "xy" and len(tensors) >= 2
    ts = (tensors[1], tensors[0], *tensors[2:]) if swap else tensors
    shape = tuple(math.prod(t._shape) for t in ts)
    n = len(ts)
    grids = [
        expanded(view_shape(t, tuple(shape[i] if d == i else 1 for d in range(n))), shape)
        for i, t in enumerate(ts)
    ]
    if swap:
        grids[0], grids[1] = grids[1], grids[0]
    return tuple(grids)


def _at_least(n: int, raise_to: Any) -> Any:
    def fn(*tensors: Any) -> Any:
        if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)):
            return tuple(raise_to(t) for t in tensors[0])
        out = tuple(raise_to(t) for t in tensors)
        return out[0] if len(out) == 1 else out

    fn.__name__ = f"atleast_{n}d"
    fn.__doc__ = f"Return tensors with at least {n} dimensions."
    return public(fn.__name__, method=False)(fn)


def _to_2d(t: Any) -> Any:
    return t if len(t._shape) > 1 else reshape(t, (1, *(t._shape or (1,))))


def _to_3d(t: Any) -> Any:
    shape = t._shape
    return t if len(shape) > 2 else reshape(t, (*shape, 1) if len(shape) == 2 else (1, *(shape or (1,)), 1))


atleast_1d = _at_least(1, lambda t: t if t._shape else reshape(t, (1,)))
atleast_2d = _at_least(2, _to_2d)
atleast_3d = _at_least(3, _to_3d)


@public(method=False)
def vander(x: Any, N: int | None = None, increasing: bool = False) -> Any:
    """Return the Vandermonde matrix of a vector."""
    from fanal.core.ops.pointwise import pow_node

    if len(x._shape) != 1:
        raise RuntimeError("x must be a one-dimensional tensor.")
    n = x._shape[0] if N is None else N
    if n < 0:
        raise RuntimeError("N must be non-negative.")
    v = read(x)
    v = v if v.dtype.category >= 1 else P.convert(v, dt.int64)
    v = P.convert(v, dt.int64) if v.dtype.category == 1 else v
    if not n:
        return wrap(P.full((x._shape[0], 0), 0, v.dtype))
    cols = [
        P.reshape(pow_node(v, k) if k else P.full(v.shape, 1, v.dtype), (v.shape[0], 1)) for k in range(n)
    ]
    return wrap(P.concat(tuple(cols if increasing else cols[::-1]), 1))
