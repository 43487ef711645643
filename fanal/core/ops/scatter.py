"""Operators that read or write single elements, or slices, at given positions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.dim import plainly
from fanal.core.base.shape import broadcast_shapes, wrap_dim
from fanal.core.engine.handle import Handle
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import dense, node_of, number, public, read, result
from fanal.core.ops.index import vector_index
from fanal.core.ops.pointwise import floor_divide_nodes, with_gradient


def _in_range(i: Node, n: int, kind: type, text: str, negative: bool = False) -> Node:
    """Check positions that are known already; others are checked where they are used. `text` names index and size."""
    if i.buffer is not None and i.buffer.size:
        a, n = i.buffer, plainly(n)
        if a.max() >= n or a.min() < (-n if negative else 0):
            bad = next(int(v) for v in a.flat if v >= n or v < (-n if negative else 0))
            raise kind(text.format(bad, n))
    return i


def element_index(input: Any, dim: int, index: Any, name: str) -> tuple[Node, int]:
    """Return positions for gather and scatter, with their dimension, both at least 1-d."""
    d = wrap_dim(dim, len(input._shape))
    if index._dtype not in (dt.int64, dt.int32) and math.prod(index._shape):
        raise RuntimeError(f"{name}(): Expected dtype int32/int64 for index")
    i = P.convert(read(index), dt.int64)
    if i.size and max(len(i.shape), 1) != max(len(input._shape), 1):
        raise RuntimeError("Index tensor must have the same number of dimensions as input tensor")
    n = input._shape[d] if input._shape else 1
    return _in_range(i, n, RuntimeError, f"index {{}} is out of bounds for dimension {d} with size {{}}"), d


def _vector(x: Node) -> Node:
    return x if x.shape else P.reshape(x, (1,))


@public(out="alone")
def gather(input: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Any:
    """Return y[.., j, ..] = input[.., index[.., j, ..], ..] along a dimension. Shape: that of index."""
    i, d = element_index(input, dim, index, "gather")
    x = read(input)
    if not i.size:
        return dense(P.reshape(P.corner(x, (0,) * len(x.shape)), i.shape), input)
    for k, (a, b) in enumerate(zip(i.shape, x.shape)):
        if k != d and a > b:
            raise RuntimeError(
                f"Size does not match at dimension {k} expected index {list(i.shape)} to be no larger than self "
                f"{list(x.shape)} apart from dimension {d}"
            )
    return dense(P.reshape(P.gather(_vector(x), _vector(i), d), i.shape), input)


@public(out="alone")
def take_along_dim(input: Any, indices: Any, dim: int | None = None) -> Any:
    """Return elements at positions along a dimension, or in the flattened input. Other dimensions broadcast."""
    if indices._dtype is not dt.int64:
        raise RuntimeError(
            "torch.take_along_dim(): dtype of indices should be Long but got "
            f"{dt.scalar_name(indices._dtype)}"
        )
    x, i = read(input), read(indices)
    if dim is None:
        return dense(P.gather(P.reshape(x, (x.size,)), P.reshape(i, (i.size,)), 0), input)
    if len(x.shape) != len(i.shape):
        raise RuntimeError(
            "torch.take_along_dim(): input and indices should have the same number of dimensions, but got "
            f"{len(x.shape)} dimensions for input, and {len(i.shape)} dimensions for indices"
        )
    d = wrap_dim(dim, len(x.shape))
    one = lambda s: tuple(1 if k == d else n for k, n in enumerate(s))
    shape = broadcast_shapes(one(x.shape), one(i.shape))
    x = P.broadcast(x, tuple(x.shape[d] if k == d else n for k, n in enumerate(shape)))
    i = P.broadcast(i, tuple(i.shape[d] if k == d else n for k, n in enumerate(shape)))
    return dense(P.gather(x, i, d), input)


def _fits(i: Node, x: Node, src: Node | None, d: int) -> None:
    if not i.size:
        return
    small = all(a <= b for k, (a, b) in enumerate(zip(i.shape, x.shape)) if k != d)
    inside = src is None or all(a <= b for a, b in zip(i.shape, src.shape))
    if src is not None and i.shape and max(len(src.shape), 1) != len(i.shape):
        raise RuntimeError("Index tensor must have the same number of dimensions as src tensor")
    if not (small and inside):
        raise RuntimeError(
            f"Expected index {list(i.shape)} to be no larger than self {list(x.shape)} apart from dimension {d}"
            + (f" and to be no larger size than src {list(src.shape)}" if src is not None else "")
        )


def scatter_source(input: Any, dim: int, index: Any, src: Any, name: str) -> tuple[Node, Node, Node, int]:
    """Return input, positions and values for a scatter, checked, at least 1-d."""
    i, d = element_index(input, dim, index, name)
    x = read(input)
    if isinstance(src, Handle):
        if src._dtype is not input._dtype:
            raise RuntimeError(f"{name}(): Expected self.dtype to be equal to src.dtype")
        v = read(src)
        _fits(i, x, v, d)
        v = _vector(v)
        i = _vector(i)
        v = P.corner(v, i.shape)
    else:
        _fits(i, x, None, d)
        i = _vector(i)
        v = P.broadcast(number(src, x.dtype), i.shape)
    return _vector(x), i, v, d


@public(inplace=True, out="alone")
def scatter(
    input: Any, dim: int, index: Any, src: Any = None, *, value: Any = None, reduce: str | None = None
) -> Any:
    """Return input with src (or a number) written at the positions `gather` would read."""
    if reduce not in (None, "add", "multiply"):
        raise RuntimeError("reduce argument must be either add or multiply.")
    x, i, v, d = scatter_source(input, dim, index, value if src is None else src, "scatter")
    mode = {None: "set", "add": "add", "multiply": "mul"}[reduce]
    y = P.scatter(x, i, v, d, mode) if i.size else P.alias(x)
    return dense(P.reshape(y, input._shape), input)


@public(inplace=True, out="alone")
def scatter_add(input: Any, dim: int, index: Any, src: Any) -> Any:
    """Return input with src added at the positions `gather` would read."""
    x, i, v, d = scatter_source(input, dim, index, src, "scatter_add")
    y = P.scatter(x, i, v, d, "add") if i.size else P.alias(x)
    return dense(P.reshape(y, input._shape), input)


def _count(x: Node, i: Node, d: int, include_self: bool) -> Node:
    """Return how many values meet in each element."""
    base = P.full(x.shape, 1, x.dtype)
    if not include_self:
        base = P.scatter(base, i, P.full(i.shape, 0, x.dtype), d, "set")
    n = P.scatter(base, i, P.full(i.shape, 1, x.dtype), d, "add")
    return P.where(P.eq(n, P.num(n, 0)), P.num(n, 1), n)


def _limit(d: dt.dtype, largest: bool) -> float | int:
    if d is dt.bool_:
        return int(largest)
    if d.category == 1:
        info = np.iinfo(d.np)
        return int(info.max if largest else info.min)
    return math.inf if largest else -math.inf


def scatter_reduce_node(
    x: Node, i: Node, v: Node, d: int, reduce: str, include_self: bool, slices: Node | None = None
) -> Node:
    """Combine values with what stands at their positions: sum, prod, mean, amax or amin.

    slices: the index of each slice along `d`, where `i` is that index for every element.
    """

    def written(x: Node, v: Node, mode: str) -> Node:
        return P.scatter(x, i, v, d, mode) if slices is None else P.put(x, slices, v, d, mode)

    start = {"sum": 0, "mean": 0, "prod": 1}.get(reduce)
    if start is None:
        start = _limit(x.dtype, reduce == "amin")
    if not include_self and i.size:
        x = written(x, P.full(i.shape, start, x.dtype), "set")
    if not i.size:
        return P.alias(x)
    if reduce in ("sum", "mean"):
        y = written(x, v, "add")
        if reduce == "sum":
            return y
        n = _count(x, i, d, include_self)
        if x.dtype.category < 2:
            return floor_divide_nodes(y, n)
        return P.div(y, n)
    mode = {"prod": "mul", "amax": "max", "amin": "min"}[reduce]
    a, b = P.detach(x), P.detach(v)
    y = written(a, b, mode)
    rule = _prod_rule if reduce == "prod" else _extreme_rule
    # An alias: in-place forms overwrite x, whose value the rule reads.
    return with_gradient(y, lambda g, y, x, v: rule(g, y, x, v, i, d), P.alias(x), v)


def _extreme_rule(g: Node, y: Node, x: Node, v: Node, i: Node, d: int) -> list[Node]:
    """Equal extremes share the gradient evenly."""
    mine = P.convert(P.eq(x, y), g.dtype)
    theirs = P.convert(P.eq(v, P.gather(y, i, d)), g.dtype)
    share = P.div(g, P.scatter(mine, i, theirs, d, "add"))
    return [P.where(P.eq(x, y), share, P.num(g, 0)), P.mul(theirs, P.gather(share, i, d))]


def _prod_rule(g: Node, y: Node, x: Node, v: Node, i: Node, d: int) -> list[Node]:
    """The product of the others, right where one factor is zero."""
    one, zero = P.num(x, 1), P.num(x, 0)
    safe = P.where(P.eq(x, zero), one, x)
    gx = P.div(P.mul(g, P.scatter(safe, i, v, d, "mul")), safe)
    none = P.eq(v, zero)
    zeros = P.gather(P.scatter(P.full(x.shape, 0, x.dtype), i, P.convert(none, x.dtype), d, "add"), i, d)
    single = P.and_(none, P.eq(zeros, P.num(zeros, 1)))
    others = P.scatter(x, i, P.where(single, one, v), d, "mul")
    with_zero = P.gather(P.mul(g, others), i, d)
    plain_ = P.div(P.gather(P.mul(g, y), i, d), P.where(none, one, v))
    return [gx, P.where(single, with_zero, plain_)]


@public(inplace=True, out="alone")
def scatter_reduce(
    input: Any, dim: int, index: Any, src: Any, reduce: str, *, include_self: bool = True
) -> Any:
    """Return input combined with src at the positions `gather` would read: sum, prod, mean, amax or amin."""
    if reduce not in ("sum", "prod", "mean", "amax", "amin"):
        raise RuntimeError("reduce argument must be either sum, prod, mean, amax or amin, got " + str(reduce))
    x, i, v, d = scatter_source(input, dim, index, src, "scatter")
    return dense(P.reshape(scatter_reduce_node(x, i, v, d, reduce, include_self), input._shape), input)


def _slices(input: Any, dim: int, index: Any, source: Any, name: str) -> tuple[Node, Node, Node, int]:
    d = wrap_dim(dim, len(input._shape))
    i = vector_index(index, name)
    x, v = read(input), read(source)
    if v.dtype is not x.dtype:
        raise RuntimeError(
            f"{name}(): self ({dt.scalar_name(x.dtype)}) and source ({dt.scalar_name(v.dtype)}) must have the "
            "same scalar type"
        )
    rows = v.shape[d] if v.shape else 1
    if rows != i.size:
        text = f"{name}_(): Number of indices ({i.size}) should be equal to source.size(dim)"
        if name == "index_copy":
            raise IndexError(f"{text} ({rows})")
        raise RuntimeError(f"{text}: ({rows}), for dim: {d}")
    x, v = _vector(x), _vector(v)
    if tuple(n for k, n in enumerate(x.shape) if k != d) != tuple(n for k, n in enumerate(v.shape) if k != d):
        raise RuntimeError(
            f"source tensor shape must match self tensor shape, excluding the specified dimension. Got "
            f"self.shape = {list(x.shape)} source.shape = {list(v.shape)}"
        )
    return (
        x,
        _in_range(
            i,
            x.shape[d],
            IndexError if name == "index_copy" else RuntimeError,
            f"index {{}} is out of bounds for dimension {d} with size {{}}",
        ),
        v,
        d,
    )


@public(inplace=True, out="alone")
def index_add(input: Any, dim: int, index: Any, source: Any, *, alpha: Any = 1) -> Any:
    """Return input with alpha * source added to its slices at positions `index`."""
    x, i, v, d = _slices(input, dim, index, source, "index_add")
    if alpha != 1:
        v = (
            P.mul(v, number(alpha, v.dtype))
            if v.dtype is not dt.bool_
            else P.and_(v, number(bool(alpha), v.dtype))
        )
    return dense(P.reshape(P.put(x, i, v, d, "add"), input._shape), input)


@public(inplace=True, out="alone")
def index_copy(input: Any, dim: int, index: Any, source: Any) -> Any:
    """Return input with its slices at positions `index` replaced by those of source."""
    x, i, v, d = _slices(input, dim, index, source, "index_copy")
    return dense(P.reshape(P.put(x, i, v, d, "set"), input._shape), input)


@public(inplace=True)
def index_fill(input: Any, dim: int, index: Any, value: Any) -> Any:
    """Return input with its slices at positions `index` filled with one value."""
    d = wrap_dim(dim, len(input._shape))
    if isinstance(value, Handle) and value._shape:
        raise RuntimeError(
            "index_fill_ only supports a 0-dimensional value tensor, but got tensor with "
            f"{len(value._shape)} dimension(s)."
        )
    i = vector_index(index, "index_fill")
    x = _vector(read(input))
    i = _in_range(
        i,
        x.shape[d],
        IndexError,
        f"index {{}} is out of bounds for dimension {d} with size {{}}",
        True,
    )
    hit = P.put(P.full((x.shape[d],), False, dt.bool_), i, P.full((i.size,), True, dt.bool_), 0, "set")
    hit = P.reshape(hit, tuple(n if k == d else 1 for k, n in enumerate(x.shape)))
    return result(P.reshape(P.where(hit, node_of(value, x.dtype), x), input._shape), input)


@public(inplace=True, out="alone")
def index_reduce(
    input: Any, dim: int, index: Any, source: Any, reduce: str, *, include_self: bool = True
) -> Any:
    """Return input with its slices at positions `index` combined with source: prod, mean, amax or amin."""
    if reduce not in ("prod", "mean", "amax", "amin"):
        raise RuntimeError(
            f"index_reduce(): Expected reduce to be one of prod, mean, amax or amin but got {reduce}."
        )
    x, i, v, d = _slices(input, dim, index, source, "index_reduce")
    wide = P.broadcast(P.reshape(i, tuple(i.size if k == d else 1 for k in range(len(x.shape)))), v.shape)
    y = scatter_reduce_node(x, wide, v, d, reduce, include_self, i)
    return dense(P.reshape(y, input._shape), input)


def _flat_index(index: Any, n: int) -> Node:
    if index._dtype is not dt.int64:
        raise RuntimeError(
            f"take(): Expected a long tensor for index, but got {dt.scalar_name(index._dtype)}"
        )
    i = read(index)
    return _in_range(
        i, n, IndexError, "out of range: tried to access index {} on a tensor of {} elements.", True
    )


@public(out="alone")
def take(input: Any, index: Any) -> Any:
    """Return the elements at positions in the flattened input, in the shape of index."""
    x = read(input)
    if not x.size and math.prod(index._shape):
        raise IndexError("take(): tried to take from an empty tensor")
    return dense(P.take(P.reshape(x, (x.size,)), _flat_index(index, x.size), 0), input)


@public(inplace=True)
def put(input: Any, index: Any, source: Any, accumulate: bool = False) -> Any:
    """Return input with source written (or added) at positions in the flattened input."""
    if input._dtype is not source._dtype:
        raise RuntimeError(
            f"put_(): self and source expected to have the same dtype, but got self.dtype = "
            f"{dt.scalar_name(input._dtype)} and source.dtype = {dt.scalar_name(source._dtype)}"
        )
    x, v = read(input), read(source)
    i = _flat_index(index, x.size)
    if i.size != v.size:
        raise RuntimeError(
            "put_(): Expected source and index to have the same number of elements, but got source.numel() = "
            f"{v.size}, index.numel() = {i.size}"
        )
    if not i.size:
        return result(P.alias(x), input)
    y = P.put(
        P.reshape(x, (x.size,)),
        P.reshape(i, (i.size,)),
        P.reshape(v, (v.size,)),
        0,
        "add" if accumulate else "set",
    )
    return result(P.reshape(y, x.shape), input)
