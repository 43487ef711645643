"""Embeddings: rows of a table by index, bags of rows, and one-hot vectors."""

from __future__ import annotations

import functools
import importlib
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.state import grad_mode
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import counted, number, public, read, wrap
from fanal.core.ops.pointwise import with_gradient
from fanal.core.ops.reduce import norm_node
from fanal.core.tensor.alias import value, write
from fanal.core.tensor.sparse import ROWS_WANTED
from fanal.core.tensor.tensor import compute


def _indices(input: Any, name: str) -> Node:
    if input._dtype not in (dt.int64, dt.int32):
        raise RuntimeError(
            "Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, Int; "
            f"but got torch.{dt.scalar_name(input._dtype)}Tensor instead (while checking "
            f"arguments for {name})"
        )
    return P.convert(read(input), dt.int64)


def _no_wrap(i: Node, n: int) -> Node:
    """Send negative indices out of range instead of letting them count from the end."""
    return P.where(P.lt(i, P.num(i, 0)), P.sub(i, counted(n, i.dtype)), i)


def rows_node(w: Node, i: Node, padding: int | None, by_frequency: bool) -> Node:
    """Rows of w; the row `padding` gets no gradient; by_frequency divides gradients by how often an index occurs."""
    at = _no_wrap(i, w.shape[0])
    y = P.take(P.detach(w), at, 0)

    def rule(g: Node, y: Node, w: Node) -> list[Node | None]:
        shape = (*i.shape, *(1,) * (len(w.shape) - 1))
        if by_frequency:
            ones = P.full(i.shape, 1, g.dtype)
            counts = P.take(P.put(P.zeros(w.shape[:1], g.dtype), at, ones, 0, "add"), at, 0)
            g = P.div(g, P.reshape(counts, shape))
        if padding is not None:
            g = P.where(P.reshape(P.eq(i, P.full((), padding, i.dtype)), shape), P.num(g, 0), g)
        return [P.put(P.zeros(w.shape, g.dtype), at, g, 0, "add")]

    return with_gradient(y, rule, w)


def _want_rows(weight: Any, sparse: bool) -> None:
    """Say whether the gradient of a table is to be sparse."""
    if sparse:
        weight.__dict__[ROWS_WANTED] = True
        importlib.import_module("fanal.core.ops.sparse_math")  # what can be done with that gradient
    else:
        weight.__dict__.pop(ROWS_WANTED, None)


def _shorten(weight: Any, i: Node, max_norm: float, p: float) -> None:
    """Scale the rows in use whose p-norm exceeds max_norm, in place."""
    with grad_mode(False):
        w = value(weight)
        at = _no_wrap(P.reshape(i, (i.size,)), w.shape[0])
        rows = P.take(w, at, 0)
        length = norm_node(rows, float(p), (1,), True)
        limit = number(float(max_norm), w.dtype)
        scale = P.div(limit, P.add(length, P.num(length, 1e-7)))
        rows = P.where(P.lt(limit, length), P.mul(rows, scale), rows)
        write(weight, P.put(w, at, rows, 0, "set"))


def _padding(padding_idx: int | None, n: int) -> int | None:
    if padding_idx is None:
        return None
    if padding_idx >= n:
        raise AssertionError("Padding_idx must be within num_embeddings")
    if padding_idx < -n:
        raise AssertionError("Padding_idx must be within num_embeddings")
    return padding_idx + n if padding_idx < 0 else padding_idx


@public(module="nn.functional", method=False)
def embedding(
    input: Any,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    """Return rows of a table. Shapes: indices (*), table (V, D) -> (*, D).

    Raises IndexError, when the rows are computed, for an index outside [0, V). sparse: the gradient of a table that
    is a leaf holds only the rows looked up.
    """
    if len(weight._shape) != 2:
        raise RuntimeError("'weight' must be 2-D")
    i = _indices(input, "embedding")
    padding = _padding(padding_idx, weight._shape[0])
    if max_norm is not None:
        _shorten(weight, i, max_norm, norm_type)
    _want_rows(weight, sparse)
    return wrap(rows_node(read(weight), i, padding, scale_grad_by_freq))


@public("embedding", method=False)
def torch_embedding(
    weight: Any, indices: Any, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Any:
    """Return rows of a table."""
    padding = None if padding_idx < 0 else padding_idx
    _want_rows(weight, sparse)
    return wrap(rows_node(read(weight), _indices(indices, "embedding"), padding, scale_grad_by_freq))


def _bag_of(positions: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The bag of each position; bag b starts at offsets[b]."""
    if len(offsets) and offsets[0] != 0:
        raise RuntimeError(
            "offsets[0] has to be 0, i.e., the first sequence in the mini-batch has to "
            f"start from position 0. However, got {offsets[0]}"
        )
    if len(offsets) and offsets[-1] > len(positions):
        raise RuntimeError(
            f"offsets[-1] can not be greater than input's length {len(positions)} but got offsets[-1] of "
            f"{offsets[-1]}"
        )
    return np.searchsorted(offsets, positions, side="right").astype(np.int64) - 1


def _bags(i: Node, offsets: Any, last: bool) -> tuple[Node, Node, int]:
    """Flat indices, the bag of each and the number of bags."""
    if len(i.shape) == 2:
        if offsets is not None:
            raise ValueError(
                "if input is 2D, then offsets has to be None, as input is treated is a "
                f"mini-batch of fixed length sequences. However, found offsets of type {type(offsets)}"
            )
        n = i.shape[0]
        return P.reshape(i, (i.size,)), P.reshape(P.iota(i.shape, 0, dt.int64), (i.size,)), n
    if len(i.shape) != 1:
        raise ValueError(f"input has to be 1D or 2D Tensor, but got Tensor of dimension {len(i.shape)}")
    if offsets is None:
        raise ValueError("offsets has to be a 1D Tensor but got None")
    if len(offsets._shape) != 1:
        raise ValueError("offsets has to be a 1D Tensor")
    o = P.convert(read(offsets), dt.int64)
    n = o.shape[0]
    if last:
        if not n:
            raise RuntimeError("include_last_offset: number of offset should be at least 1")
        n -= 1
        o = P.corner(o, (n,))
    if not i.size:
        return i, i, n
    return i, P.host((P.iota(i.shape, 0, dt.int64), o), _bag_of, i.shape, dt.int64), n


def _largest(rows: Node, bag: Node, valid: Node, n: int) -> Node:
    """Largest of each bag and column; the gradient goes to the first of equals; an empty bag gives 0."""
    d = P.detach(rows)
    low = P.full((n, rows.shape[1]), -math.inf, rows.dtype)
    masked = P.where(P.reshape(valid, (valid.size, 1)), d, P.num(d, -math.inf))
    best = P.put(low, bag, masked, 0, "max")
    y = P.where(P.eq(best, P.num(best, -math.inf)), P.num(best, 0), best)

    def rule(g: Node, y: Node, rows: Node) -> list[Node | None]:
        place = P.iota(rows.shape, 0, dt.int64)
        none = P.num(place, rows.shape[0])
        hit = P.where(P.eq(masked, P.take(best, bag, 0)), place, none)
        first = P.put(P.broadcast(none, best.shape), bag, hit, 0, "min")
        return [P.where(P.eq(P.take(first, bag, 0), place), P.take(g, bag, 0), P.num(g, 0))]

    return with_gradient(y, rule, rows)


def _check_bags(input: Any, weights: Any, mode: str, by_frequency: bool) -> None:
    if weights is not None and weights._shape != input._shape:
        raise ValueError(
            f"embedding_bag: If per_sample_weights ({weights.shape}) is not None, "
            f"then it must have the same shape as the input ({input.shape})"
        )
    if mode not in ("sum", "mean", "max"):
        raise ValueError("mode has to be one of sum, mean or max")
    if mode == "max" and by_frequency:
        raise ValueError("max mode does not support scaling the gradient by the frequency")
    if weights is not None and mode != "sum":
        raise NotImplementedError(
            "embedding_bag: per_sample_weights was not None. per_sample_weights is only supported for "
            f"mode='sum' (got mode='{mode}'). Please open a feature request on GitHub."
        )


@public(module="nn.functional", method=False)
def embedding_bag(
    input: Any,
    weight: Any,
    offsets: Any = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    """Return the sum, mean or maximum of the rows of each bag.

    Shapes: indices (B, L), or (N) with offsets (B); table (V, D) -> (B, D).
    """
    if weight._dtype is dt.int64 and input._dtype.category >= 2:
        warnings.warn(
            "Argument order of nn.functional.embedding_bag was changed. Usage "
            "`embedding_bag(weight, input, ...)` "
            "is deprecated, and should now be `embedding_bag(input, weight, ...)`.",
            stacklevel=3,
        )
        weight, input = input, weight
    _check_bags(input, per_sample_weights, mode, scale_grad_by_freq)
    i, bag, n = _bags(_indices(input, "embedding_bag"), offsets, include_last_offset)
    padding = _padding(padding_idx, weight._shape[0])
    if max_norm is not None:
        _shorten(weight, i, max_norm, norm_type)
    _want_rows(weight, sparse)
    w = read(weight)
    width = w.shape[1]
    if not i.size:
        return wrap(
            with_gradient(P.zeros((n, width), w.dtype), lambda g, y, w: [P.zeros(w.shape, g.dtype)], w)
        )
    rows = rows_node(w, i, padding, scale_grad_by_freq)
    valid = P.ne(i, P.full((), -1 if padding is None else padding, i.dtype))
    if mode == "max":
        return wrap(_largest(rows, bag, valid, n))
    if per_sample_weights is not None:
        if per_sample_weights._dtype is not weight._dtype:
            raise RuntimeError(
                f"expected per_sample_weights to have dtype {weight._dtype} but got "
                f"{per_sample_weights._dtype}"
            )
        rows = P.mul(rows, P.reshape(read(per_sample_weights), (i.size, 1)))
    if padding is not None:
        rows = P.where(P.reshape(valid, (i.size, 1)), rows, P.num(rows, 0))

    def total(t: Node) -> Node:
        """The sum of each bag; where all bags have one length, that is a sum of rows as they are read."""
        if len(input._shape) == 2:
            return P.sum_(P.reshape(t, (n, i.size // n, *t.shape[1:])), (1,))
        return P.put(P.zeros((n, *t.shape[1:]), w.dtype), bag, t, 0, "add")

    y = total(rows)
    if mode == "mean":
        count = total(P.convert(valid, w.dtype))
        count = P.max_(count, P.num(count, 1))
        y = P.div(y, P.reshape(count, (n, 1)))
    return wrap(y)


@functools.lru_cache(None)
def _class_check(n: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that passes classes through if they lie in [0, n)."""

    def check(a: np.ndarray) -> np.ndarray:
        if a.min() < 0:
            raise RuntimeError("Class values must be non-negative.")
        if a.max() >= n:
            raise RuntimeError("Class values must be smaller than num_classes.")
        return a

    return check


@public(module="nn.functional", method=False)
def one_hot(input: Any, num_classes: int = -1) -> Any:
    """Return vectors of 0 with a 1 at each index. Shapes: (*) -> (*, num_classes), int64.

    num_classes: 1 + the largest index by default. Raises, when computed, for an index outside [0, num_classes).
    """
    if input._dtype is not dt.int64:
        raise RuntimeError("one_hot is only applicable to index tensor of type LongTensor.")
    i = read(input)
    if not i.size:
        if num_classes <= 0:
            raise RuntimeError("Can not infer total number of classes from empty tensor.")
        return wrap(P.zeros((*i.shape, num_classes), dt.int64))
    if num_classes < 1:
        if num_classes != -1:
            raise RuntimeError("num_classes should be positive")
        a = compute(input)
        if a.min() < 0:
            raise RuntimeError("Class values must be non-negative.")
        num_classes = int(a.max()) + 1
    known = P.host((i,), _class_check(num_classes), i.shape, dt.int64)
    row = P.reshape(P.iota((num_classes,), 0, dt.int64), (*(1,) * len(i.shape), num_classes))
    return wrap(P.convert(P.eq(P.reshape(known, (*i.shape, 1)), row), dt.int64))
