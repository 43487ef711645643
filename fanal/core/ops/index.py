"""Indexing: x[...], x[...] = v, and the operators that say the same with a tensor of positions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.dim import plainly
from fanal.core.base.shape import Shape, broadcast_shapes, contiguous_strides, wrap_dim
from fanal.core.base.state import state
from fanal.core.engine.handle import Handle
from fanal.core.engine.record import session, written_ahead
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import (
    Answer,
    assign,
    check_fits,
    check_inplace,
    constant,
    dense,
    is_number,
    node_of,
    number,
    public,
    read,
    result,
    wrap,
)
from fanal.core.ops.create import data_of
from fanal.core.ops.shape import unsqueeze
from fanal.core.ops.subscript import Plan, items_of, known, parse, row, width
from fanal.core.tensor.alias import rebase
from fanal.core.tensor.tensor import compute, is_ready

_INDEX_TYPES = (dt.int64, dt.int32, dt.int16, dt.int8)
_PLACES = (int, slice, type(...))


def _is_mask(item: Any) -> bool:
    return isinstance(item, Handle) and bool(item._shape) and item._dtype in (dt.bool_, dt.uint8)


def _is_one(item: Any) -> bool:
    return isinstance(item, Handle) and not item._shape and item._dtype in _INDEX_TYPES and not item._storage.meta


def _with_data(x: Any, index: Any) -> Any:
    """Return an index whose values are known before the call, which can be followed then, also for others: arrays as
    tensors that come from outside, and tensors of one position as integers."""
    items = items_of(index)
    if any(map(_is_one, items)) and not (session.levels or x._storage.meta):
        items = tuple([int(compute(i)) if _is_one(i) else i for i in items])
        index = items if len(items) > 1 else items[0]
    if session.levels or not any(isinstance(i, (list, np.ndarray, np.generic)) for i in items):
        return index
    items = tuple(map(data_of, items))
    return items[0] if len(items) == 1 else items


def _unmasked(x: Any, index: Any) -> Any:
    """Return an index with masks turned into the positions of their true elements, as tensors that come from outside.

    The size of the result is known before the call then, which can be followed. An index that is not right stays.
    """
    items = items_of(index)
    if not any(map(_is_mask, items)) or session.levels or x._storage.meta:
        return index
    n, used = len(x._shape), sum(map(width, items))
    new: list[Any] = []
    d = 0
    for item in items:
        if _is_mask(item):
            if x._shape[d:d + len(item._shape)] != item._shape or item._storage.meta:
                return index
            new += [wrap(P.given(np.ascontiguousarray(c, np.int64), dt.int64)) for c in np.nonzero(compute(item))]
        else:
            new.append(item)
        d += n - used if item is ... else width(item)
    return tuple(new)


def _read_ahead(x: Any, index: Any) -> Any:
    if session.loading and _is_view_of_data(x, index):
        return Answer(row(x, index))
    return x, _unmasked(x, _with_data(x, index))


def _is_view_of_data(x: Any, index: Any) -> bool:
    """Tell whether x[index] is a view of numbers that are in memory."""
    return (type(index) is int or all(i is None or type(i) in _PLACES for i in items_of(index))) and is_ready(x) \
        and not (written_ahead(x._storage) or session.levels or state.levels)


def _written_ahead(x: Any, index: Any, value: Any) -> tuple:
    index = _with_data(x, index)
    one = not isinstance(value, Handle) or math.prod(value._shape) == 1  # that is a choice by the mask
    return x, index if one else _unmasked(x, index), value


def _positions(plan: Plan) -> dict[int, Node]:
    """Return positions by dimension, masks turned into the positions of their true elements."""
    out: dict[int, Node] = {}
    for d, item in plan.at.items():
        if item._dtype in (dt.bool_, dt.uint8):
            for k, column in enumerate(np.nonzero(known(item))):
                out[d + k] = P.given(np.ascontiguousarray(column, np.int64), dt.int64)
        else:
            out[d] = P.convert(read(item), dt.int64)
    return out


def _checked(i: Node, dim: int, size: int) -> Node:
    """Return positions counted from the front. What is known already is checked here, the rest where it is used."""
    if i.buffer is not None:
        a, n = i.buffer, plainly(size)
        if a.size and (a.min() < -n or a.max() >= n):
            bad = next(int(v) for v in a.flat if not -n <= v < n)
            raise IndexError(f"index {bad} is out of bounds for dimension {dim} with size {n}")
        if not a.size or a.min() >= 0:
            return i
    return P.where(P.lt(i, P.num(i, 0)), P.add(i, P.num(i, size)), i)


def _together(at: dict[int, Node]) -> Shape:
    """Return the shape to which positions broadcast."""
    try:
        return broadcast_shapes(*(at[d].shape for d in sorted(at)))
    except RuntimeError:
        shapes = ", ".join(str(list(at[d].shape)) for d in sorted(at))
        raise IndexError(
            f"shape mismatch: indexing tensors could not be broadcast together with shapes {shapes}"
        ) from None


def linear(at: dict[int, Node], shape: Shape, strides: Shape | None = None) -> tuple[Node, list[int]]:
    """Return one position into the merged indexed dimensions, and these dimensions in order; with `strides`, a position
    into all of the memory."""
    dims = sorted(at)
    _together(at)
    checked = [_checked(at[d], d, shape[d]) for d in dims]
    if len(dims) == 1 and strides is None:
        return checked[0], dims
    steps = contiguous_strides([shape[d] for d in dims]) if strides is None else [strides[d] for d in dims]
    total = math.prod(shape if strides is not None else [shape[d] for d in dims])
    flat: Node | None = None
    bad: Node | None = None
    for d, i, step in zip(dims, checked, steps):
        part = i if step == 1 else P.mul(i, P.num(i, step))
        flat = part if flat is None else P.add(flat, part)
        if i.buffer is None:
            out = P.or_(P.lt(i, P.num(i, 0)), P.le(P.num(i, shape[d]), i))
            bad = out if bad is None else P.or_(bad, out)
    assert flat is not None
    if bad is not None:  # one position out of range must not fall on another element
        flat = P.where(bad, P.num(flat, total), flat)
    return flat, dims


def _merge(shape: Shape, dims: list[int]) -> tuple[Shape, int, Shape]:
    """Return the order that puts indexed dimensions side by side, where they begin, and the shape merged there."""
    start = dims[0] if dims == list(range(dims[0], dims[-1] + 1)) else 0
    rest = [d for d in range(len(shape)) if d not in dims]
    order = (*rest[:start], *dims, *rest[start:])
    merged = (
        *(shape[d] for d in rest[:start]),
        math.prod(shape[d] for d in dims),
        *(shape[d] for d in rest[start:]),
    )
    return order, start, merged


def taken(x: Node, at: dict[int, Node]) -> Node:
    """Return the elements of x at positions given for some of its dimensions."""
    dims = sorted(at)
    rest = [d for d in range(len(x.shape)) if d not in at]
    lead = _together(at) if dims[-1] - dims[0] >= len(dims) else ()
    few = 2 * math.prod(lead) * math.prod(x.shape[d] for d in rest) < x.size
    if lead and few:  # apart: single elements of x, where it lies
        strides = contiguous_strides(x.shape)
        index, _ = linear(at, x.shape, strides)
        index = P.reshape(index, (*lead, *(1,) * len(rest)))
        shape = (*(1,) * len(lead), *(x.shape[d] for d in rest))
        for k, d in enumerate(rest, len(lead)):
            i = P.iota(tuple(n if j == k else 1 for j, n in enumerate(shape)), k, dt.int64)
            index = P.add(index, P.mul(i, P.num(i, strides[d])))
        return P.take(P.reshape(x, (x.size,)), index, 0)
    flat, dims = linear(at, x.shape)
    order, start, merged = _merge(x.shape, dims)
    return P.take(P.reshape(P.permute(x, order), merged), flat, start)


def placed(x: Node, at: dict[int, Node], v: Node, mode: str) -> Node:
    """Return x with v (broadcast) written, or added, at positions given for some of its dimensions."""
    flat, dims = linear(at, x.shape)
    order, start, merged = _merge(x.shape, dims)
    shape = (*merged[:start], *flat.shape, *merged[start + 1 :])
    lead = 0
    while len(v.shape) - lead > len(shape) and v.shape[lead] == 1:
        lead += 1
    ok = len(v.shape) - lead <= len(shape) and all(
        a in (1, b) for a, b in zip(reversed(v.shape[lead:]), reversed(shape))
    )
    if not ok:
        raise RuntimeError(
            f"shape mismatch: value tensor of shape {list(v.shape)} cannot be broadcast to indexing result of "
            f"shape {list(shape)}"
        )
    v = P.broadcast(P.reshape(v, v.shape[lead:]), shape)
    y = P.put(P.reshape(P.permute(x, order), merged), flat, v, start, mode)
    inverse = tuple(order.index(d) for d in range(len(order)))
    return P.permute(P.reshape(y, tuple(x.shape[d] for d in order)), inverse)


@public("__getitem__", function=False, ahead=_read_ahead)
def getitem(self: Any, index: Any) -> Any:
    """Return x[index]: a view for ints, slices, None and Ellipsis; a copy where tensors or lists say the positions."""
    plan = parse(self, index)
    if not plan.at:
        return plan.view
    source = self if plan.view._shape == self._shape else plan.view  # no new name for it: its memory may be shared
    return dense(taken(read(source), _positions(plan)), self)


def fit(n: Node, shape: Shape) -> Node:
    """Broadcast a value for assignment: leading dimensions of size 1 do not count."""
    lead = 0
    while len(n.shape) - lead > len(shape) and n.shape[lead] == 1:
        lead += 1
    have = n.shape[lead:]
    gap = len(shape) - len(have)
    if gap < 0:
        raise RuntimeError(
            f"expand(torch.{dt.scalar_name(n.dtype)}Tensor{{{list(have)}}}, size={list(shape)}): the number of "
            f"sizes provided ({len(shape)}) must be greater or equal to the number of dimensions in the tensor "
            f"({len(have)})"
        )
    for k, m in enumerate(have):
        if m not in (1, shape[gap + k]):
            raise RuntimeError(
                f"The expanded size of the tensor ({shape[gap + k]}) must match the existing size ({m}) at "
                f"non-singleton dimension {gap + k}.  Target sizes: {list(shape)}.  Tensor sizes: {list(have)}"
            )
    return P.broadcast(P.reshape(n, have), shape)


def _value(self: Any, value: Any) -> Node:
    if isinstance(value, Handle):
        return read(value)
    if not is_number(value):
        kind = type(value)
        name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
        raise TypeError(f"can't assign a {name} to a torch.{dt.scalar_name(self._dtype)}Tensor")
    check_fits(value, self._dtype)
    return number(
        int(value) if self._dtype.category == 1 and not isinstance(value, bool) else value, self._dtype
    )


@public("__setitem__", function=False, ahead=_written_ahead)
def setitem(self: Any, index: Any, value: Any) -> None:
    """Write `value` into x[index]."""
    plan = parse(self, index)
    view, v = plan.view, _value(self, value)
    if not plan.at:
        if v.shape == view._shape and v is view._node:
            return  # x[i] += y has written already
        assign(view, P.convert(fit(v, view._shape), self._dtype))
        return
    check_inplace(self)
    rebase(view)
    masks = [i for i in plan.at.values() if i._dtype in (dt.bool_, dt.uint8)]
    if len(masks) == len(plan.at) == 1 and v.size == 1:
        ((d, mask),) = plan.at.items()
        m = read(mask)
        m = m if m.dtype is dt.bool_ else P.ne(m, P.num(m, 0))
        m = P.reshape(m, (*m.shape, *(1,) * (len(view._shape) - d - len(m.shape))))
        new = P.where(m, P.convert(P.reshape(v, ()), self._dtype), read(view))
        assign(view, new)
        return
    if v.dtype is not self._dtype:
        raise RuntimeError(
            "Index put requires the source and destination dtypes match, got "
            f"{dt.scalar_name(self._dtype)} for the destination and {dt.scalar_name(v.dtype)} for the source."
        )
    assign(view, placed(read(view), _positions(plan), v, "set"))


def _index_put(x: Any, indices: Any, values: Any, accumulate: bool) -> Node:
    index = tuple(slice(None) if i is None else i for i in indices)
    for i in index:
        if isinstance(i, Handle) and i._dtype not in (*_INDEX_TYPES, dt.bool_, dt.uint8):
            raise IndexError("tensors used as indices must be long, int, byte or bool tensors")
    index = tuple(
        unsqueeze(i, 0)
        if isinstance(i, Handle) and not i._shape and i._dtype.category == 1 and i._dtype is not dt.uint8
        else i
        for i in index
    )
    plan = parse(x, index)
    v = read(values)
    if v.dtype is not x._dtype:
        raise RuntimeError(
            "Index put requires the source and destination dtypes match, got "
            f"{dt.scalar_name(x._dtype)} for the destination and {dt.scalar_name(v.dtype)} for the source."
        )
    if not plan.at:
        old = read(plan.view)
        v = fit(v, old.shape)
        return P.reshape(P.add(old, v) if accumulate else v, x._shape)
    if plan.view._shape != x._shape:  # a 0-d mask adds a dimension
        return P.reshape(
            placed(read(plan.view), _positions(plan), v, "add" if accumulate else "set"), x._shape
        )
    return placed(read(x), _positions(plan), v, "add" if accumulate else "set")


@public(inplace=True)
def index_put(input: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
    """Return input with values written (or added) at input[indices]; None in `indices` means a whole dimension."""
    return result(_index_put(input, indices, values, accumulate), input)


def vector_index(index: Any, name: str) -> Node:
    """Return a 1-d (or 0-d) index as int64 positions."""
    if len(index._shape) > 1:
        raise IndexError(f"{name}(): Index is supposed to be a vector")
    if index._dtype not in (dt.int32, dt.int64):
        raise RuntimeError(f"{name}(): Expected dtype int32 or int64 for index")
    return P.reshape(P.convert(read(index), dt.int64), (math.prod(index._shape),))


@public(out="alone")
def index_select(input: Any, dim: int, index: Any) -> Any:
    """Return the slices of input at positions `index` along a dimension."""
    d = wrap_dim(dim, len(input._shape))
    i, x = vector_index(index, "index_select"), read(input)
    if i.buffer is not None and i.buffer.size:
        size = plainly(x.shape[d]) if x.shape else 1
        if i.buffer.min() < 0 or i.buffer.max() >= size:
            raise IndexError("index out of range in self")
    if not x.shape:
        if i.size != 1:
            raise RuntimeError(f"index_select(): Index to scalar can have only 1 value, got {i.size} value(s)")
        return dense(P.reshape(P.take(P.reshape(x, (1,)), i, 0), ()), input)
    return dense(P.take(x, i, d), input)


@public(out="alone", event=False)  # its calls are events, of which x[mask] is followed
def masked_select(input: Any, mask: Any) -> Any:
    """Return the elements where mask is true, in one dimension. Shapes broadcast."""
    if mask._dtype is not dt.bool_:
        raise RuntimeError("masked_select: expected BoolTensor for mask")
    shape = broadcast_shapes(mask._shape, input._shape)
    x, m = [t if t._shape == shape else t.expand(shape) for t in (input, mask)]
    return x[m]


@public(inplace=True, out=True)
def masked_scatter(input: Any, mask: Any, source: Any) -> Any:
    """Return input with its masked elements replaced by the elements of source, in order."""
    if input._dtype is not source._dtype:
        raise RuntimeError(
            "masked_scatter: expected self and source to have same dtypes but got "
            f"{dt.scalar_name(input._dtype)} and {dt.scalar_name(source._dtype)}"
        )
    if mask._dtype is not dt.bool_:
        raise RuntimeError(
            "masked_scatter_ only supports boolean masks, but got mask with dtype "
            f"{dt.scalar_name(mask._dtype)}"
        )
    shape = broadcast_shapes(mask._shape, input._shape)
    m, x, s = P.broadcast(read(mask), shape), P.broadcast(read(input), shape), read(source)
    if m.buffer is not None or mask._storage.node.buffer is not None or not s.size:
        if int(np.count_nonzero(np.broadcast_to(compute(mask), shape))) > s.size:
            raise RuntimeError("Number of elements of source < number of ones in mask")
        if not s.size:
            return dense(P.alias(x), input)
    flat = P.reshape(m, (m.size,))
    order = P.scan(P.convert(flat, dt.int64), "add", 0)
    at = P.where(flat, P.sub(order, P.num(order, 1)), P.num(order, 0))
    new = P.reshape(P.take(P.reshape(s, (s.size,)), at, 0), shape)
    return dense(P.where(m, new, x), input)


def nonzero_array(input: Any) -> np.ndarray:
    """Return the positions of elements that are not zero, one row each."""
    a = compute(input)
    if not a.ndim:
        return np.zeros((int(bool(a)), 0), np.int64)
    at = np.flatnonzero(a)
    out = np.empty((at.size, a.ndim), np.int64)
    for d in range(a.ndim - 1, 0, -1):
        above = at // a.shape[d]
        np.subtract(at, above * a.shape[d], out=out[:, d])
        at = above
    out[:, 0] = at
    return out


@public(out="alone", event=False)
def nonzero(input: Any, *, as_tuple: bool = False) -> Any:
    """Return the positions of elements that are not zero: rows of a matrix, or one vector per dimension."""
    if as_tuple:
        a = np.atleast_1d(compute(input))
        return tuple(wrap(P.given(np.ascontiguousarray(c, np.int64), dt.int64)) for c in np.nonzero(a))
    return wrap(P.given(np.ascontiguousarray(nonzero_array(input)), dt.int64))


@public(event=False)
def argwhere(input: Any) -> Any:
    """Return the positions of elements that are not zero, as rows."""
    return nonzero(input)


@public(out="alone", event=False)
def nonzero_static(input: Any, *, size: int, fill_value: int = -1) -> Any:
    """Return the first `size` positions of elements that are not zero, filled up with `fill_value`."""
    if size < 0:
        raise RuntimeError(f"nonzero_static: 'size' must be an non-negative integer, but got {size}")
    a = nonzero_array(input)[:size] if size else np.zeros((0, len(input._shape)), np.int64)
    out = np.full((size, a.shape[1]), fill_value, np.int64)
    out[: len(a)] = a
    return wrap(P.given(out, dt.int64))


def _triangle_indices(row: int, col: int, offset: int, lower: bool, d: Any) -> Any:
    for name, n in (("row", row), ("col", col)):
        if n < 0:
            raise RuntimeError(f"{name} must be non-negative, got{n}")
    a = (np.tril_indices if lower else np.triu_indices)(row, offset, col)
    return wrap(P.convert(P.alias(constant(np.stack(a))), d or dt.int64))


@public(method=False)
def tril_indices(
    row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None, layout: Any = None
) -> Any:
    """Return the positions of the lower triangle of a matrix, one column each."""
    return _triangle_indices(row, col, offset, True, dtype)


@public(method=False)
def triu_indices(
    row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None, layout: Any = None
) -> Any:
    """Return the positions of the upper triangle of a matrix, one column each."""
    return _triangle_indices(row, col, offset, False, dtype)


__all__ = ["fit", "getitem", "linear", "node_of", "placed", "setitem", "taken", "vector_index"]
