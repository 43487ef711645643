"""What stands between the brackets of x[...]: a view by ints, slices and None, and positions given by tensors."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.dim import index, limits
from fanal.core.base.shape import Shape
from fanal.core.engine.handle import Chain, Handle
from fanal.core.engine.record import unfollowable
from fanal.core.ir import prims as P
from fanal.core.ops.build import constant, wrap
from fanal.core.ops.create import array_from
from fanal.core.ops.shape import view_of
from fanal.core.tensor.tensor import compute, strides_of, view_of_data


def known(t: Any) -> np.ndarray:
    """Return the value of a tensor on which the shape of a result depends."""
    a = compute(t)
    unfollowable("a shape depends on a value")
    return a


def items_of(index: Any) -> tuple:
    """Return the items between the brackets: a list of such items counts as a tuple of them."""
    if isinstance(index, tuple):
        return index
    if (
        isinstance(index, list)
        and len(index) < 32
        and any(
            i is None or i is ... or isinstance(i, (Handle, slice, list, tuple, np.ndarray)) for i in index
        )
    ):
        return tuple(index)
    return (index,)


def _tensor_of(item: Any) -> Any:
    """Return a list or array used as an index as a tensor; other items as they are."""
    if isinstance(item, (list, np.ndarray, range)) or (isinstance(item, tuple)):
        a, _ = array_from(item)
        if isinstance(item, (list, tuple, range)) and not a.size:
            return wrap(P.full(a.shape, 0, dt.int64))
        return wrap(constant(a))
    return item


def width(item: Any) -> int:
    """Return how many dimensions of the indexed tensor an item uses."""
    if item is None or item is ... or isinstance(item, (bool, np.bool_)):
        return 0
    if isinstance(item, Handle):
        return len(item._shape) if item._dtype in (dt.bool_, dt.uint8) else 1
    return 1


class Plan:
    """An index taken apart: a view by ints, slices and None, then positions for some dimensions of it."""

    __slots__ = ("at", "view")

    def __init__(self, view: Any, at: dict[int, Any]) -> None:
        self.view, self.at = view, at


class _Taking:
    """The view of a tensor that ints, slices and None make, dimension by dimension."""

    def __init__(self, x: Any) -> None:
        self.x, self.shape, self.strides = x, x._shape, strides_of(x)
        n = len(self.shape)
        self.starts, self.stops, self.steps = [0] * n, list(self.shape), [1] * n
        self.out_shape: list[int] = []
        self.out_strides: list[int] = []
        self.offset, self.d, self.moved = x._offset, 0, False

    def keep(self, size: int, stride: int) -> None:
        """Append a dimension to the view."""
        self.out_shape.append(size)
        self.out_strides.append(stride)

    def whole(self, count: int) -> None:
        """Take the next dimensions as they are."""
        for d in range(self.d, self.d + count):
            self.keep(self.shape[d], self.strides[d])
        self.d += count

    def new(self) -> None:
        """Insert a dimension of size 1."""
        d = self.d
        self.keep(1, self.strides[d] * self.shape[d] if d < len(self.shape) else 1)
        self.moved = True

    def sliced(self, item: slice) -> None:
        """Take a slice of the next dimension."""
        if item.step is not None and operator.index(item.step) < 0:
            raise ValueError("step must be greater than zero")
        d = self.d
        a, b, s = limits(item, self.shape[d])
        b = max(a, b)
        self.starts[d], self.stops[d], self.steps[d] = a, b, s
        self.offset += a * self.strides[d]
        self.keep(-(-(b - a) // s), self.strides[d] * s)
        self.d += 1

    def one(self, i: int) -> None:
        """Take one place of the next dimension, which is gone then."""
        d, size = self.d, self.shape[self.d]
        if not -size <= i < size:
            raise IndexError(f"index {i} is out of bounds for dimension {d} with size {size}")
        i = i + size if i < 0 else i
        self.starts[d], self.stops[d] = i, i + 1
        self.offset += i * self.strides[d]
        self.moved = True
        self.d += 1

    def view(self, make: Callable[..., Any]) -> Any:
        """Return the view, once every dimension is taken: make(x, chain, shape, strides, offset)."""
        new = tuple(self.out_shape)
        chain: Chain = ()
        if any(self.starts) or tuple(self.stops) != self.shape or any(s != 1 for s in self.steps):
            chain = ((P.slice_, (tuple(self.starts), tuple(self.stops), tuple(self.steps))),)
        if self.moved or not chain:
            chain = (*chain, (P.reshape, (new,)))
        return make(self.x, chain, new, tuple(self.out_strides), self.offset)


def parse(x: Any, index: Any, make: Callable[..., Any] = view_of) -> Plan:
    """Take an index apart; make(x, chain, shape, strides, offset) returns the view.

    Raises IndexError, TypeError and ValueError with PyTorch's texts.
    """
    items = [_tensor_of(i) for i in items_of(index)]
    n = len(x._shape)
    left = n - sum(map(width, items))  # what an ellipsis stands for
    if left < 0:
        _check_scalar(n, items)
        raise IndexError(f"too many indices for tensor of dimension {n}")
    taking, at = _Taking(x), {}
    for item in items:
        if item is None:
            taking.new()
        elif item is ...:
            taking.whole(left)
            left = 0
        elif isinstance(item, slice):
            taking.sliced(item)
        elif isinstance(item, (bool, np.bool_)) or (
            isinstance(item, Handle) and not item._shape and item._dtype in (dt.bool_, dt.uint8)
        ):
            hit = bool(known(item)) if isinstance(item, Handle) else bool(item)
            at[len(taking.out_shape)] = wrap(P.full((int(hit),), 0, dt.int64))
            taking.new()
        elif isinstance(item, Handle) and item._shape:
            k = width(item)
            if k > 1 or item._dtype in (dt.bool_, dt.uint8):
                _check_mask(item, x._shape, taking.d)
            elif item._dtype not in (dt.int64, dt.int32):
                raise IndexError("tensors used as indices must be long, int, byte or bool tensors")
            at[len(taking.out_shape)] = item
            taking.whole(k)
        else:
            taking.one(_position(item))
    taking.whole(n - taking.d)
    return Plan(taking.view(make), at)


def row(x: Any, i: Any) -> Any:
    """Return x[i], the same view of data as `parse` makes. Most samples of a dataset are rows of a tensor."""
    shape = x._shape
    n = len(shape)
    size = shape[0] if n else 0
    new = shape[1:]
    stride = math.prod(new)
    if type(i) is not int or x._strides is not None or size < 2 or not stride or not -size <= i < size:
        return parse(x, i, view_of_data).view
    if i < 0:
        i += size
    chain = ((P.slice_, ((i, *(0,) * (n - 1)), (i + 1, *new), (1,) * n)), (P.reshape, (new,)))
    return view_of_data(x, chain, new, None, x._offset + i * stride)


def _check_scalar(n: int, items: list[Any]) -> None:
    """Raise PyTorch's error for a tensor without dimensions that is indexed as if it had some."""
    if n:
        return
    if len(items) == 1 and isinstance(items[0], slice):
        raise IndexError("slice() cannot be applied to a 0-dim tensor.")
    raise IndexError(
        "invalid index of a 0-dim tensor. Use `tensor.item()` in Python or `tensor.item<T>()` in C++ "
        "to convert a 0-dim tensor to a number"
    )


def _position(item: Any) -> int:
    if isinstance(item, Handle):
        if item._dtype.category >= 2:
            raise IndexError("tensors used as indices must be long, int, byte or bool tensors")
        return int(known(item))
    if isinstance(item, str):
        raise TypeError("new(): invalid data type 'str'")
    try:
        return index(item)
    except TypeError:
        raise IndexError(
            "only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables are valid indices "
            f"(got {type(item).__name__})"
        ) from None


def _check_mask(mask: Any, shape: Shape, d: int) -> None:
    for k, m in enumerate(mask._shape):
        if shape[d + k] != m:
            raise IndexError(
                f"The shape of the mask {list(mask._shape)} at index {k} does not match the shape of the "
                f"indexed tensor {list(shape)} at index {d + k}"
            )
