"""Order: sort, topk, medians, quantiles, modes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.dim import varies
from fanal.core.base.shape import wrap_dim
from fanal.core.engine.handle import Handle
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import dense, public, read, result, unsupported
from fanal.core.ops.compare import nan_node
from fanal.core.ops.named import named
from fanal.core.ops.pointwise import with_gradient
from fanal.core.ops.reduce import arg_node
from fanal.core.tensor.tensor import compute


def order_of(x: Node, d: int, descending: bool = False, start: int = 0, stop: int | None = None) -> Node:
    """Return positions that sort along a dimension, stable, or a part of them; NaN counts as the largest."""
    if x.dtype.is_complex:
        raise RuntimeError("Sort does not support complex dtypes on CPU")
    y = P.convert(x, dt.uint8) if x.dtype is dt.bool_ else x
    if not x.shape:
        return P.full((), 0, dt.int64)
    return P.argsort(P.detach(y), d, descending, start, x.shape[d] if stop is None else stop)


def _at(x: Node, i: Node, d: int) -> Node:
    return P.gather(x, i, d) if x.shape else P.alias(x)


@public(out="alone")
def sort(input: Any, *args: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """Return elements in order along a dimension, and where they came from. Always stable."""
    if args:
        dim, descending = args[0], args[1] if len(args) > 1 else descending
    d = wrap_dim(dim, len(input._shape))
    x = read(input)
    i = order_of(x, d, descending)
    return named("sort")(result(_at(x, i, d), input), result(i, input))


@public()
def argsort(input: Any, dim: int = -1, descending: bool = False, *, stable: bool = False) -> Any:
    """Return positions that sort along a dimension."""
    return result(order_of(read(input), wrap_dim(dim, len(input._shape)), descending), input)


@public(out="alone")
def msort(input: Any) -> Any:
    """Return elements in order along the first dimension."""
    return sort(input, 0)[0]


_FEW = 8  # so many passes over the elements cost less than ordering them

# Dtypes whose numbers have keys of 32 bits, in order.
_NARROW = (dt.bool_, dt.uint8, dt.int8, dt.int16, dt.int32, dt.float16, dt.bfloat16, dt.float32)


def _first(x: Node, d: int, k: int, largest: bool) -> Node:
    """Return where the k largest (or smallest) elements stand, in order, by as many passes; k is not 0.

    In every pass the largest key below the last one is found. A key is 64 bits: those of the number, as an int that is
    ordered the same way, then the place counted from the end. So no two are equal, and of equal numbers the first comes
    first. NaN counts as the largest.
    """
    n = x.shape[d]
    number = lambda v, kind: P.full((), v, kind)
    if x.dtype.category == 2:
        y = P.add(P.convert(x, dt.float32), number(0.0, dt.float32))  # of -0.0, 0.0
        bits = P.bitcast(y, dt.int32)
        below = P.shr(bits, number(31, dt.int32))  # all ones for numbers below 0, whose order is to be turned around
        key = P.xor(bits, P.and_(below, number(0x7FFFFFFF, dt.int32)))
        key = P.where(P.eq(y, y), key, number(0x7FFFFFFF, dt.int32))
    else:
        key = P.convert(x, dt.int32)
    key = key if largest else P.xor(key, number(-1, dt.int32))
    shape = tuple(n if i == d else 1 for i in range(len(x.shape)))
    place = P.sub(number(0xFFFFFFFF, dt.int64), P.iota(shape, d, dt.int64))
    key = P.add(P.shl(P.convert(key, dt.int64), number(32, dt.int64)), place)
    kept = tuple(1 if i == d else m for i, m in enumerate(x.shape))
    found: list[Node] = []
    last: Node | None = None
    for _ in range(k):
        rest = key if last is None else P.where(P.lt(key, last), key, number(-(1 << 63), dt.int64))
        last = P.reshape(P.max_of(rest, (d,)), kept)
        found.append(P.sub(number(0xFFFFFFFF, dt.int64), P.and_(last, number(0xFFFFFFFF, dt.int64))))
    return P.concat(tuple(found), d)


@public(out="alone")
def topk(input: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """Return the k largest (or smallest) elements along a dimension, and where they stand."""
    d = wrap_dim(dim, len(input._shape))
    x = read(input)
    size = x.shape[d] if x.shape else 1
    if not 0 <= k <= size:
        raise RuntimeError("selected index k out of range")
    few = x.shape and not varies((k,)) and 0 < k <= _FEW and x.dtype in _NARROW
    i = _first(P.detach(x), d, k, largest) if few else order_of(x, d, largest, 0, k)
    return named("topk")(dense(_at(x, i, d), input), dense(i, input))


def _picked(input: Any, x: Node, i: Node, d: int, keepdim: bool, name: str) -> Any:
    """Return values and positions of one element along a dimension, which `i` keeps with size 1."""
    y = _at(x, i, d)
    shape = y.shape if keepdim or not x.shape else (*y.shape[:d], *y.shape[d + 1 :])
    return named(name)(
        dense(P.reshape(y, shape), input), dense(P.reshape(i, shape), input)
    )


@public(out="alone")
def kthvalue(input: Any, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """Return the k-th smallest element along a dimension, and where it stands."""
    d = wrap_dim(dim, len(input._shape))
    x = read(input)
    size = x.shape[d] if x.shape else 1
    if not size:
        raise IndexError(f"kthvalue(): Expected reduction dim {d} to have non-zero size.")
    if not 1 <= k <= size:
        raise RuntimeError(f"kthvalue(): selected number k out of range for dimension {d}")
    return _picked(input, x, order_of(x, d, False, k - 1, k), d, keepdim, "kthvalue")


def _middle(x: Node, d: int, ignore_nan: bool) -> Node:
    """Return where the lower median stands along a dimension (kept with size 1)."""
    n = x.shape[d] if x.shape else 1
    if x.dtype.category < 2 or not ignore_nan or not x.shape:
        place = order_of(x, d, False, (n - 1) // 2, (n - 1) // 2 + 1)
        if x.dtype.category < 2 or not x.shape:
            return place
        nan = nan_node(P.detach(x))
        first = arg_node(nan, d, True, P.argmax)
        return P.where(P.gather(nan, first, d), first, place)
    order = order_of(x, d)
    shape = tuple(1 if k == d else m for k, m in enumerate(x.shape))
    count = P.reshape(P.sum_(P.convert(P.not_(nan_node(x)), dt.int64), (d,)), shape)
    one = P.num(count, 1)
    half = P.shr(P.max_(P.sub(count, one), P.num(count, 0)), one)
    return P.gather(order, half, d)


def _lower_median(a: np.ndarray, skip: bool) -> np.ndarray:
    """The element in the middle, the lower of two. NaN is skipped, or is the result."""
    nan = a != a
    if nan.any():
        a = a[~nan] if skip and not nan.all() else a[nan]
    middle = (a.size - 1) // 2
    return np.partition(a, middle)[middle] if a.dtype.kind in "fiu" else np.sort(a)[middle]


_LOWER_MEDIAN = {skip: functools.partial(_lower_median, skip=skip) for skip in (False, True)}


def _median(input: Any, dim: int | None, keepdim: bool, name: str) -> Any:
    x = read(input)
    if x.dtype.is_complex:
        raise unsupported("median_cpu", x.dtype)
    skip = name == "nanmedian"
    if dim is not None:
        d = wrap_dim(dim, len(x.shape))
        if x.shape and not x.shape[d]:
            raise IndexError(f"{name}(): Expected reduction dim {d} to have non-zero size.")
        return _picked(input, x, _middle(x, d, skip), d, keepdim, name)
    flat = P.reshape(x, (x.size,))
    if not x.size:
        nothing = P.full((), math.nan if x.dtype.category == 2 else np.iinfo(x.dtype.np).min, x.dtype)
        return dense(with_gradient(nothing, lambda g, y, x: [x], flat), input)
    y = P.host((P.detach(flat),), _LOWER_MEDIAN[skip], (), x.dtype)

    def rule(g: Node, y: Node, x: Node) -> list[Node]:
        hit = P.or_(P.eq(x, y), P.and_(nan_node(x), nan_node(y)))
        share = P.div(g, P.sum_(P.convert(hit, g.dtype), tuple(range(len(x.shape)))))
        return [P.where(hit, share, P.num(g, 0))]

    return dense(with_gradient(y, rule, x), input)


@public(out="alone")
def median(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Return the lower median; with `dim`, values and indices. NaN propagates."""
    return _median(input, dim, keepdim, "median")


@public(out="alone")
def nanmedian(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Return the lower median of what is not NaN; with `dim`, values and indices."""
    return _median(input, dim, keepdim, "nanmedian")


@functools.cache
def _mode_position(d: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that finds the most frequent value: the smallest of equally frequent ones, its last place."""

    def find(a: np.ndarray) -> np.ndarray:
        if not a.ndim:
            return np.zeros((), np.int64)
        rows = np.moveaxis(dt.ordered(a), d, -1)
        ordered = np.sort(rows, -1)
        at = np.arange(rows.shape[-1])
        same = (ordered[..., 1:] == ordered[..., :-1]) | (ordered[..., :-1] != ordered[..., :-1])
        begin = np.where(np.concatenate((np.zeros_like(ordered[..., :1], bool), same), -1), 0, at)
        longest = (at - np.maximum.accumulate(begin, -1)).argmax(-1, keepdims=True)
        found = np.take_along_axis(ordered, longest, -1)
        hit = (rows == found) | ((rows != rows) & (found != found))
        out = at[-1] - hit[..., ::-1].argmax(-1)
        return np.expand_dims(out, d)

    return find


@public(out="alone")
def mode(input: Any, dim: int = -1, keepdim: bool = False) -> Any:
    """Return the most frequent value along a dimension, and where it stands."""
    d = wrap_dim(dim, len(input._shape))
    x = read(input)
    if x.dtype.is_complex:
        raise RuntimeError("mode does not support complex inputs")
    if x.shape and not x.shape[d]:
        raise IndexError(f"mode(): Expected reduction dim {d} to have non-zero size.")
    shape = tuple(1 if k == d else n for k, n in enumerate(x.shape))
    return _picked(input, x, P.host((P.detach(x),), _mode_position(d), shape, dt.int64), d, keepdim, "mode")


def _levels(q: Any, d: dt.dtype, name: str) -> Node:
    """Return the levels of quantiles, which lie in [0, 1], as a value."""
    if not isinstance(q, Handle):
        if not 0 <= q <= 1:
            raise RuntimeError(f"{name}() q must be in the range [0, 1] but got {q:g}")
        return P.full((), q, d)
    if len(q._shape) > 1:
        raise RuntimeError(f"{name}() q must be a scalar or 1D tensor")
    if q._dtype is not d:
        raise RuntimeError(f"{name}() q tensor must be same dtype as the input tensor")
    n = read(q)
    if n.buffer is not None and not ((compute(q) >= 0) & (compute(q) <= 1)).all():
        raise RuntimeError(f"{name}() q values must be in the range [0, 1]")
    return n


def _at_rank(ordered: Node, rank: Node, interpolation: str) -> Node:
    """Return the values at places along the last dimension that may lie between two."""
    last = len(ordered.shape) - 1
    whole = {"nearest": P.round_, "lower": P.floor, "higher": P.ceil}.get(interpolation)
    rank = whole(rank) if whole else rank
    low = P.floor(rank)
    y = P.gather(ordered, P.convert(P.detach(low), dt.int64), last)
    if whole:
        return y
    high = P.gather(ordered, P.convert(P.detach(P.ceil(rank)), dt.int64), last)
    w = P.num(rank, 0.5) if interpolation == "midpoint" else P.sub(rank, low)
    gap = P.sub(high, y)
    near, far = P.add(y, P.mul(w, gap)), P.sub(high, P.mul(gap, P.sub(P.num(w, 1), w)))
    return P.where(P.lt(w, P.num(w, 0.5)), near, far)


def _quantile(input: Any, q: Any, dim: int | None, keepdim: bool, interpolation: str, name: str) -> Any:
    if interpolation not in ("linear", "lower", "higher", "midpoint", "nearest"):
        raise RuntimeError(
            f"quantile() interpolation must be one of linear, lower, higher, midpoint or nearest, but got "
            f"{interpolation}"
        )
    x = read(input)
    if not x.size:
        raise RuntimeError(f"{name}() input tensor must be non-empty")
    if x.dtype not in (dt.float32, dt.float64):
        raise RuntimeError(f"{name}() input tensor must be either float or double dtype")
    qn = _levels(q, x.dtype, name)
    many = len(qn.shape) == 1
    count_q = qn.size
    shape = x.shape
    if dim is None:
        d, rows = 0, P.reshape(x, (x.size,))
    else:
        d = wrap_dim(dim, len(shape))
        rows = x if shape else P.reshape(x, (1,))
        order = (*(k for k in range(len(rows.shape)) if k != d), d)
        rows = P.permute(rows, order)
    lead, n = rows.shape[:-1], rows.shape[-1]
    last = len(lead)
    ordered = P.gather(rows, order_of(rows, last), last)
    nan = nan_node(rows)
    top = P.num(rows, n - 1)
    qs = P.reshape(qn, (*(1,) * last, count_q))
    if name == "nanquantile":
        m = P.reshape(P.sum_(P.convert(P.not_(nan), rows.dtype), (last,)), (*lead, 1))
        rank = P.max_(P.mul(qs, P.sub(m, P.num(m, 1))), P.num(m, 0))
    else:
        some = P.reshape(P.max_of(P.convert(nan, dt.uint8), (last,)), (*lead, 1))
        rank = P.where(P.convert(some, dt.bool_), top, P.mul(qs, top))
    y = _at_rank(ordered, P.broadcast(rank, (*lead, count_q)), interpolation)
    y = P.permute(y, (last, *range(last)))
    out = P.reshape(y, (count_q, *lead))
    if keepdim:
        kept = (
            tuple(1 for _ in shape) if dim is None else tuple(1 if k == d else m for k, m in enumerate(shape))
        )
        out = P.reshape(out, (count_q, *kept))
    return dense(out if many else P.reshape(out, out.shape[1:]), input)


@public(out="alone")
def quantile(
    input: Any, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Any:
    """Return the q-th quantiles over a dimension, or of all elements. NaN propagates."""
    return _quantile(input, q, dim, keepdim, interpolation, "quantile")


@public(out="alone")
def nanquantile(
    input: Any, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Any:
    """Return the q-th quantiles of what is not NaN."""
    return _quantile(input, q, dim, keepdim, interpolation, "nanquantile")
