"""Counting and searching: unique values, histograms, positions in sorted sequences."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.shape import wrap_dim
from fanal.core.engine.handle import Handle
from fanal.core.ir import prims as P
from fanal.core.ir.interp import interpret
from fanal.core.ir.program import Program, toposort
from fanal.core.ops.build import dense, is_number, public, read, result_type, unsupported
from fanal.core.ops.named import named
from fanal.core.ops.spaced import points
from fanal.core.tensor.tensor import compute, wrap_array


def _tensors(d: dt.dtype, values: np.ndarray, inverse: Any, counts: Any) -> Any:
    out = [wrap_array(np.asarray(values, order="C").astype(d.np), d)]
    out += [
        wrap_array(np.asarray(a, np.int64, order="C"), dt.int64) for a in (inverse, counts) if a is not None
    ]
    return out[0] if len(out) == 1 else tuple(out)


@public(event=False)
def unique(
    input: Any,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """Return the values that occur, sorted; with their positions and counts if asked. NaN is never equal."""
    if input._dtype.is_complex:
        raise unsupported("unique", input._dtype)
    a = dt.ordered(compute(input))
    axis = None if dim is None else wrap_dim(dim, a.ndim)
    if axis is not None and not a.size:
        if a.shape[axis]:
            raise RuntimeError(
                "There are 0 sized dimensions, and they aren't selected, so unique cannot be applied"
            )
        empty = np.zeros(0, np.int64)
        return _tensors(input._dtype, a, empty if return_inverse else None, empty if return_counts else None)
    values, inverse, counts = np.unique(
        a, return_inverse=True, return_counts=True, axis=axis, equal_nan=False
    )
    inverse = inverse.reshape(a.shape if axis is None else (a.shape[axis],))
    return _tensors(
        input._dtype, values, inverse if return_inverse else None, counts if return_counts else None
    )


@public(event=False)
def unique_consecutive(
    input: Any, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """Return the input with runs of equal values (or slices) shortened to one."""
    a = compute(input)
    axis = None if dim is None else wrap_dim(dim, a.ndim)
    rows = a.reshape(-1) if axis is None else np.moveaxis(a, axis, 0)
    n = len(rows)
    new = np.ones(n, bool)
    if n > 1:
        change = rows[1:] != rows[:-1]
        new[1:] = change.reshape(n - 1, -1).any(1) if rows.ndim > 1 else change
    starts = np.flatnonzero(new)
    values = rows[starts] if axis is None else np.moveaxis(rows[starts], 0, axis)
    inverse = np.cumsum(new) - 1
    if axis is None:
        inverse = inverse.reshape(a.shape)
    counts = np.diff(np.append(starts, n))
    return _tensors(
        input._dtype, values, inverse if return_inverse else None, counts if return_counts else None
    )


@public(out=True, event=False)
def bincount(input: Any, weights: Any = None, minlength: int = 0) -> Any:
    """Return how often each non-negative integer occurs, or the sum of its weights."""
    a = compute(input)
    if input._dtype.category != 1 or a.ndim != 1 or (a.size and a.min() < 0):
        raise RuntimeError("bincount only supports 1-d non-negative integral inputs.")
    if minlength < 0:
        raise RuntimeError("minlength should be >= 0")
    if weights is None:
        return wrap_array(np.bincount(a, minlength=minlength).astype(np.int64), dt.int64)
    if weights._shape != input._shape:
        raise RuntimeError("weights should be 1-d and have the same length as input")
    d = dt.float32 if weights._dtype is dt.float32 else dt.float64
    out = np.zeros(max(minlength, int(a.max()) + 1 if a.size else 0), d.np)
    np.add.at(out, a, compute(weights).astype(d.np))
    return wrap_array(out, d)


def _limits(a: np.ndarray, low: float, high: float, name: str, widen: float = 1.0) -> tuple[float, float]:
    if low == high:
        low, high = (float(a.min()), float(a.max())) if a.size else (low, low + 1)
    if low == high:
        low, high = low - widen, high + widen
    if not (math.isfinite(low) and math.isfinite(high)):
        raise RuntimeError(f"{name}: range of [{low:g}, {high:g}] is not finite")
    if low > high:
        raise RuntimeError(f"{name}: max must be larger than min")
    return low, high


@public(out="alone", event=False)
def histc(input: Any, bins: int = 100, min: float = 0, max: float = 0) -> Any:
    """Return how many elements fall into each of `bins` equal parts of [min, max] (of their range by default)."""
    if not input._dtype.is_floating_point:
        raise unsupported("histogram_cpu", input._dtype)
    if bins <= 0:
        raise RuntimeError(f"bins must be > 0, but got {bins} for dimension 0")
    a = compute(input).reshape(-1)
    low, high = _limits(a, min, max, "torch.histc")
    a = a.astype(np.float64) if a.dtype.kind != "f" else a
    inside = (a >= low) & (a <= high)
    k = a.dtype.type
    part = (a if inside.all() else a[inside]) - k(low)
    part *= k(bins)
    part /= k(high) - k(low)
    at = np.minimum(part.astype(np.intp), bins - 1)
    return wrap_array(np.bincount(at, minlength=bins).astype(input._dtype.np), input._dtype)


@public(out="alone", event=False)
def histogram(input: Any, bins: Any, *, range: Any = None, weight: Any = None, density: bool = False) -> Any:
    """Return counts (or weights, or densities) in bins, and the edges of the bins."""
    d = input._dtype
    if d not in (dt.float32, dt.float64):
        raise unsupported("histogram_cpu", d)
    a = compute(input).reshape(-1)
    if isinstance(bins, Handle):
        edges = compute(bins).astype(d.np)
    else:
        if bins <= 0:
            raise RuntimeError(f"torch.histogramdd(): bins must be > 0, but got {bins} for dimension 0")
        low, high = _limits(a, *(range or (0, 0)), "torch.histogram", 0.5)
        edges = _edges(low, high, bins, d)
    at, ok = _bins(a, edges, not isinstance(bins, Handle))
    out = _totals(at, ok, weight, len(edges) - 1, d)
    if density:
        out = (out / out.sum() / np.diff(edges)).astype(d.np)
    return named("histogram")(
        wrap_array(out, d), wrap_array(np.array(edges), d)
    )


def _bins(a: np.ndarray, edges: np.ndarray, equal: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the bin of each element, and which of them are in one; the last bin has its upper edge.

    In `equal` bins a division finds it, but for one to either side: sooner, where there are many elements.
    """
    last = len(edges) - 2
    ok = (a >= edges[0]) & (a <= edges[-1])
    if not equal or len(a) < 1 << 10 or last >= 1 << 16:
        return np.minimum(np.searchsorted(edges, a, "right") - 1, last), ok
    part = np.where(ok, a, edges[0])
    part -= edges[0]
    part *= (last + 1) / (float(edges[-1]) - float(edges[0]))
    at = part.astype(np.intp)
    np.minimum(at, last, out=at)
    at -= a < edges[at]
    at += a >= np.append(edges[1:-1], np.inf).astype(edges.dtype)[at]
    return at, ok


def _totals(at: np.ndarray, ok: np.ndarray, weight: Any, bins: int, d: dt.dtype) -> np.ndarray:
    """Return how many elements are in each bin, or the sum of their weights."""
    at = np.where(ok, at, bins)  # one bin more takes the rest
    w = None if weight is None else compute(weight).reshape(-1)
    return np.bincount(at, w, bins + 1)[:bins].astype(d.np)


@functools.lru_cache(maxsize=256)
def _edges(low: float, high: float, bins: int, d: dt.dtype) -> np.ndarray:
    """Return the edges of `bins` equal parts, read-only. NumPy computes them node by node: ranges come again."""
    node = points(low, high, bins + 1, d)
    (edges,) = interpret(Program([], toposort([node]), [node]), [])
    edges.flags.writeable = False
    return edges


def _ranges(a: np.ndarray, bins: Any, range: Any, d: dt.dtype) -> list[np.ndarray]:
    """Return the edges of the bins of each column of `a`."""
    n = a.shape[1]
    if isinstance(bins, Handle) or (isinstance(bins, (list, tuple)) and any(isinstance(b, Handle) for b in bins)):
        given = [bins] if isinstance(bins, Handle) else list(bins)
        if len(given) != n:
            raise RuntimeError(
                f"histogramdd(): The size of bins must be equal to the innermost dimension of the input, but got "
                f"{len(given)} and {n}"
            )
        return [compute(b).astype(d.np) for b in given]
    counts = [bins] * n if isinstance(bins, int) else list(bins)
    if len(counts) != n:
        raise RuntimeError(
            f"histogramdd(): The size of bins must be equal to the innermost dimension of the input, but got "
            f"{len(counts)} and {n}"
        )
    if range is not None and len(range) != 2 * n:
        raise RuntimeError(
            f"torch.histogramdd(): for a {n}-dimensional histogram range should have {2 * n} elements, but got "
            f"{len(range)}"
        )
    edges = []
    for k, count in enumerate(counts):
        if count <= 0:
            raise RuntimeError(f"torch.histogramdd(): bins must be > 0, but got {count} for dimension {k}")
        low, high = range[2 * k : 2 * k + 2] if range is not None else (0, 0)
        if range is None and not a.size:
            low, high = 0.0, 1.0
        elif range is None:
            low, high = float(a[:, k].min()), float(a[:, k].max())
        if low == high:
            low, high = low - 0.5, high + 0.5
        low, high = _limits(a[:0, k], low, high, "torch.histogramdd")
        edges.append(_edges(low, high, count, d))
    return edges


@public(method=False, event=False)
def histogramdd(
    input: Any, bins: Any, *, range: Any = None, weight: Any = None, density: bool = False
) -> Any:
    """Return counts (or weights, or densities) of points in a grid of bins, and the edges along each dimension.

    Shapes: input (..., N) -> a tensor of N dimensions and N tensors of edges.
    """
    d = input._dtype
    if d not in (dt.float32, dt.float64):
        raise unsupported("histogram_cpu", d)
    if input.ndim < 2:
        raise RuntimeError("torch.histogramdd: input tensor should have at least 2 dimensions")
    a = compute(input).reshape(-1, input._shape[-1])
    if weight is not None and (weight._shape != input._shape[:-1] or weight._dtype is not d):
        raise RuntimeError(
            "torch.histogramdd: if weight tensor is provided it should have the shape of the input without its "
            "last dimension, and its dtype"
        )
    edges = _ranges(a, bins, range, d)
    equal = not (isinstance(bins, Handle) or (isinstance(bins, (list, tuple)) and isinstance(bins[0], Handle)))
    at, ok = np.zeros(len(a), np.intp), np.ones(len(a), bool)
    for x, e in zip(a.T, edges):
        k, inside = _bins(np.ascontiguousarray(x), e, equal)
        at, ok = at * (len(e) - 1) + k, ok & inside
    shape = tuple(len(e) - 1 for e in edges)
    out = _totals(at, ok, weight, math.prod(shape), d).reshape(shape)
    if density:
        volume: Any = 1.0
        for k, e in enumerate(edges):
            volume = volume * np.diff(e).reshape(tuple(-1 if j == k else 1 for j, _ in enumerate(edges)))
        out = (out / out.sum() / volume).astype(d.np)
    shown = tuple(wrap_array(np.array(e), d) for e in edges)
    return named("histogramdd")(wrap_array(out, d), shown)


@functools.cache
def _searcher(right: bool, kind: Any, sorter: bool) -> Callable[..., np.ndarray]:
    """Return the function that finds where values belong in sorted rows; NaN belongs at the end."""
    side: Any = "right" if right else "left"

    def find(rows: np.ndarray, values: np.ndarray, *order: np.ndarray) -> np.ndarray:
        rows, values = dt.ordered(rows), dt.ordered(values)
        if sorter:
            rows = np.take_along_axis(rows, order[0], -1)
        if rows.ndim == 1:
            return np.asarray(np.searchsorted(rows, values, side)).astype(kind)
        out = np.empty(values.shape, kind)
        for at in np.ndindex(*rows.shape[:-1]):
            out[at] = np.searchsorted(rows[at], values[at], side)
        return out

    return find


def _search(rows: Any, values: Any, out_int32: bool, right: bool, sorter: Any, name: str) -> Any:
    r = read(rows)
    v = P.full((), values, r.dtype) if is_number(values) else read(values)
    if is_number(values) and r.dtype.category == 1 and isinstance(values, float):
        v = P.full((), values, dt.get_default())
    if v.dtype is not r.dtype and not is_number(values):
        common = result_type(rows, values)
        r, v = P.convert(r, common), P.convert(v, common)
    if r.dtype.is_complex:
        raise unsupported("searchsorted_out_cpu", r.dtype)
    if len(r.shape) != 1 and (not v.shape or r.shape[:-1] != v.shape[:-1]):
        raise RuntimeError(
            f"torch.{name}(): boundaries tensor should be 1 dimension or the first N-1 dimensions of boundaries "
            f"tensor and input value tensor must match, but we got boundaries tensor {list(r.shape)} and input "
            f"value tensor {list(v.shape)}"
        )
    d = dt.int32 if out_int32 else dt.int64
    inputs = (P.detach(r), P.detach(v)) + ((read(sorter),) if sorter is not None else ())
    return dense(P.host(inputs, _searcher(right, d.np, sorter is not None), v.shape, d), rows)


@public(method=False, out="alone")
def searchsorted(
    sorted_sequence: Any,
    input: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Any = None,
) -> Any:
    """Return where values belong in sorted rows: before equals, or behind them with right=True."""
    if side not in (None, "left", "right"):
        raise RuntimeError(f"torch.searchsorted(): side can only be 'left' or 'right' but got {side}")
    if side == "left" and right:
        raise RuntimeError(
            "torch.searchsorted(): side and right can't be set to opposites, got side of left while right was "
            "True"
        )
    return _search(sorted_sequence, input, out_int32, right or side == "right", sorter, "searchsorted")


@public(method=False, out="alone", tensors=0)
def bucketize(input: Any, boundaries: Any, *, out_int32: bool = False, right: bool = False) -> Any:
    """Return the bucket of each value: the number of boundaries below it (or not above it with right=True)."""
    if len(boundaries._shape) != 1:
        raise RuntimeError(
            f"bucketize(): boundaries tensor must be 1 dimension, but got dim({len(boundaries._shape)})"
        )
    return _search(boundaries, input, out_int32, right, None, "bucketize")
