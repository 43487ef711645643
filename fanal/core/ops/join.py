"""Operators that put tensors together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.shape import wrap_dim
from fanal.core.base.state import state
from fanal.core.engine.handle import Handle, root_array, shown_of
from fanal.core.engine.record import session, writes_ahead
from fanal.core.ir import prims as P
from fanal.core.ops.build import Answer, node_of, public, read, result_type, wrap
from fanal.core.ops.create import zeros
from fanal.core.ops.rearrange import atleast_1d, atleast_2d, atleast_3d, meshgrid
from fanal.core.ops.shape import reshape, unsqueeze
from fanal.core.tensor.tensor import is_ready, wrap_array


def check_list(tensors: Any, name: str) -> list:
    """Return a sequence of tensors as a list. Raises PyTorch's errors for anything else."""
    if isinstance(tensors, Handle) or not isinstance(tensors, (list, tuple)):
        raise TypeError(
            f"{name}(): argument 'tensors' (position 1) must be tuple of Tensors, not "
            f"{type(tensors).__name__}"
        )
    for i, t in enumerate(tensors):
        if not isinstance(t, Handle):
            raise TypeError(f"expected Tensor as element {i} in argument 0, but got {type(t).__name__}")
    return list(tensors)


MANY = 8  # tensors in a list: fewer are joined in the step, where nothing is copied twice
LITTLE = 1 << 20  # bytes


def _joined(xs: Sequence[Any], dim: int, d: dt.dtype) -> Any:
    y = wrap(P.concat(tuple(node_of(x, d) for x in xs), dim))
    y._storage.meta = any(x._storage.meta for x in xs)
    return y


def _data(tensors: Any, dim: Any, new: bool) -> Any:
    """Join many small tensors of data along a dimension, which is a new one or one that they have, or return None where
    they are few, large, not in memory, or do not fit.

    What a replay buffer or a rollout puts together has another number of tensors in every step, each from elsewhere.
    """
    if not isinstance(tensors, (list, tuple)) or len(tensors) < MANY or type(dim) is not int \
            or session.levels or state.levels or not all(map(is_ready, tensors)):
        return None
    first = tensors[0]
    n = len(first._shape) + new
    if not -n <= dim < n or any([t._dtype is not first._dtype or len(t._shape) + new != n for t in tensors]) \
            or sum([math.prod(t._shape) for t in tensors]) * first._dtype.np.itemsize > LITTLE \
            or not writes_ahead().isdisjoint([id(t._storage) for t in tensors]):
        return None
    arrays = list(map(_numbers, tensors))
    try:
        joined = np.stack(arrays, dim) if new else np.concatenate(arrays, dim)
    except ValueError:
        return None  # PyTorch's error is raised by the operator
    return wrap_array(joined, first._dtype)


def _numbers(t: Any) -> np.ndarray:
    """Return the numbers of a tensor that is in memory."""
    a = root_array(t._storage)
    if not t._chain:
        return a
    if t._strides is None and a.size == math.prod(t._shape) and a.dtype == t._dtype.np and a.flags.c_contiguous:
        return a.reshape(t._shape)  # a view that only counts its dimensions in another way
    return shown_of(t, a)


def _at_once(new: bool) -> Callable:
    def ahead(*args: Any, **kwargs: Any) -> Any:
        if len(args) > 2 or not args or not kwargs.keys() <= {"dim"}:
            return args
        made = _data(args[0], args[1] if len(args) > 1 else kwargs.get("dim", 0), new)
        return args if made is None else Answer(made)
    return ahead


@public(method=False, out="apart", aliases=("concat", "concatenate"), ahead=_at_once(False))
def cat(tensors: Any, dim: int = 0, *, axis: int | None = None) -> Any:
    """Return tensors joined along an existing dimension. Dtypes promote; empty 1-d tensors are skipped."""
    xs = check_list(tensors, "cat")
    if not xs:
        raise ValueError("torch.cat(): expected a non-empty list of Tensors")
    for i, x in enumerate(xs):
        if not x._shape:
            raise RuntimeError(f"zero-dimensional tensor (at position {i}) cannot be concatenated")
    real = [x for x in xs if x._shape != (0,)]
    first = (real or xs)[0]
    n = len(first._shape)
    d = wrap_dim(dim if axis is None else axis, n)
    for i, x in enumerate(xs):
        if x._shape == (0,):
            continue
        if len(x._shape) != n:
            raise RuntimeError(f"Tensors must have same number of dimensions: got {n} and {len(x._shape)}")
        for k in range(n):
            if k != d and x._shape[k] != first._shape[k]:
                raise RuntimeError(
                    f"Sizes of tensors must match except in dimension {d}. Expected size {first._shape[k]} "
                    f"but got size {x._shape[k]} for tensor number {i} in the list."
                )
    return _joined(real or xs[:1], d, result_type(*xs))


@public(method=False, out=True, ahead=_at_once(True))
def stack(tensors: Any, dim: int = 0) -> Any:
    """Return tensors of one shape joined along a new dimension."""
    xs = check_list(tensors, "stack")
    if not xs:
        raise RuntimeError("stack expects a non-empty TensorList")
    d = wrap_dim(dim, len(xs[0]._shape) + 1)
    for i, x in enumerate(xs):
        if x._shape != xs[0]._shape:
            raise RuntimeError(
                f"stack expects each tensor to be equal size, but got {list(xs[0]._shape)} at entry 0 and "
                f"{list(x._shape)} at entry {i}"
            )
    return _joined([unsqueeze(x, d) for x in xs], d, result_type(*xs))


def _need(tensors: Any, name: str) -> list:
    xs = check_list(tensors, name)
    if not xs:
        raise RuntimeError(f"{name} expects a non-empty TensorList")
    return xs


@public(method=False, out=True)
def hstack(tensors: Any) -> Any:
    """Return tensors joined side by side: along dimension 1, or 0 for vectors."""
    xs = [atleast_1d(x) for x in _need(tensors, "hstack")]
    return cat(xs, 0 if len(xs[0]._shape) == 1 else 1)


@public(method=False, out=True, aliases=("row_stack",))
def vstack(tensors: Any) -> Any:
    """Return tensors joined as rows."""
    return cat([atleast_2d(x) for x in _need(tensors, "vstack")], 0)


@public(method=False, out=True)
def dstack(tensors: Any) -> Any:
    """Return tensors joined along the third dimension."""
    return cat([atleast_3d(x) for x in _need(tensors, "dstack")], 2)


@public(method=False, out=True)
def column_stack(tensors: Any) -> Any:
    """Return tensors joined as columns."""
    xs = _need(tensors, "column_stack")
    return hstack([reshape(x, (-1, 1)) if len(x._shape) <= 1 else x for x in xs])


@public(method=False)
def block_diag(*tensors: Any) -> Any:
    """Return a matrix with the given matrices on its diagonal."""
    if not tensors:
        return zeros(1, 0)
    for i, x in enumerate(tensors):
        if len(x._shape) > 2:
            raise RuntimeError(
                f"torch.block_diag: Input tensors must have 2 or fewer dimensions. Input {i} has "
                f"{len(x._shape)} dimensions"
            )
    xs = [atleast_2d(x) for x in tensors]
    kind = result_type(*tensors)
    rows, left = [], 0
    width = sum(x._shape[1] for x in xs)
    for x in xs:
        n = x._shape[1]
        rows.append(P.pad(node_of(x, kind), (0, left), (0, width - left - n), 0))
        left += n
    return wrap(P.concat(tuple(rows), 0))


@public(method=False)
def cartesian_prod(*tensors: Any) -> Any:
    """Return all combinations of elements of vectors, as rows."""
    for x in tensors:
        if len(x._shape) != 1:
            raise RuntimeError(f"Expect a 1D vector, but got shape {list(x._shape)}")
    if len(tensors) == 1:
        return tensors[0]
    return stack([reshape(g, (-1,)) for g in meshgrid(*tensors, indexing="ij")], 1)


@public(method=False)
def combinations(input: Any, r: int = 2, with_replacement: bool = False) -> Any:
    """Return all combinations of r elements of a vector, as rows, in index order."""
    import itertools

    import numpy as np

    if len(input._shape) != 1:
        raise RuntimeError(f"Expect a 1D vector, but got shape {list(input._shape)}")
    if r < 0:
        raise RuntimeError(f"Expect a non-negative number, but got {r}")
    if not r:
        return wrap(P.full((0,), 0, input._dtype))
    pick = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    rows = np.array(list(pick(range(input._shape[0]), r)), np.int64).reshape(-1, r)
    return wrap(P.take(read(input), P.given(rows, dt.int64), 0))
