"""What a tensor tells: size, strides, values as Python numbers and arrays, .grad, .data, flags."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np

from fanal.core.autograd.hooks import GradFn, grad_fn
from fanal.core.base import dtype as dt
from fanal.core.base import layout
from fanal.core.base.shape import Size, is_contiguous, wrap_dim
from fanal.core.engine.handle import Handle
from fanal.core.engine.level import CONTROL_FLOW, ITEM
from fanal.core.engine.record import changed, flush, leave_path, set_grad, written_ahead
from fanal.core.ops.build import public
from fanal.core.tensor.alias import UNCOUNTED, check_origin, cut, value
from fanal.core.tensor.tensor import Tensor, adopt, compute, strides_of


def _plain(name: str, f: Any) -> None:
    """Install a method that is no event: it asks about the handle, not the value."""
    f.__name__ = f.__qualname__ = name
    setattr(Tensor, name, f)


def _size(self: Tensor, dim: int | None = None) -> Any:
    return Size(self._shape) if dim is None else self._shape[wrap_dim(dim, len(self._shape))]


def _stride(self: Tensor, dim: int | None = None) -> Any:
    st = strides_of(self)
    return st if dim is None else st[wrap_dim(dim, len(st))]


def _len(self: Tensor) -> int:
    if not self._shape:
        raise TypeError("len() of a 0-d tensor")
    return self._shape[0]


def _is_contiguous(self: Tensor, memory_format: Any = None) -> bool:
    if memory_format is not None and "channels_last" in str(memory_format):
        st = strides_of(self)
        order = (0, *range(2, len(st)), 1)
        return len(st) in (4, 5) and is_contiguous([self._shape[d] for d in order], [st[d] for d in order])
    return self._strides is None or is_contiguous(self._shape, self._strides)


def _dim_order(self: Tensor) -> tuple[int, ...]:
    """Return the dimensions from the widest stride to the narrowest."""
    st = strides_of(self)
    return tuple(sorted(range(len(st)), key=lambda d: (-st[d], d)))


for _name, _f in {
    "size": _size,
    "stride": _stride,
    "__len__": _len,
    "is_contiguous": _is_contiguous,
    "dim": lambda self: len(self._shape),
    "ndimension": lambda self: len(self._shape),
    "numel": lambda self: math.prod(self._shape),
    "nelement": lambda self: math.prod(self._shape),
    "storage_offset": lambda self: self._offset,
    "element_size": lambda self: self._dtype.itemsize,
    "is_floating_point": lambda self: self._dtype.is_floating_point,
    "is_complex": lambda self: self._dtype.is_complex,
    "is_signed": lambda self: self._dtype.is_signed,
    "get_device": lambda self: -1,
    "is_inference": lambda self: self._inference,
    "is_pinned": lambda self, device=None: False,
    "is_shared": lambda self: False,
    "is_conj": lambda self: False,
    "is_neg": lambda self: False,
    "is_coalesced": lambda self: True,
    "is_distributed": lambda self: False,
    "is_same_size": lambda self, other: self._shape == other._shape,
    "dim_order": _dim_order,
    "is_set_to": lambda self, o: self._storage is o._storage and self._chain == o._chain,
}.items():
    _plain(_name, _f)

for _name, _f in {
    "is_cuda": lambda self: False,
    "is_meta": lambda self: self._storage.meta,
    "is_sparse": lambda self: False,
    "is_cpu": lambda self: not self._storage.meta,
    "is_quantized": lambda self: False,
    "is_mps": lambda self: False,
    "is_nested": lambda self: False,
    "is_mkldnn": lambda self: False,
    "is_xpu": lambda self: False,
    "is_ipu": lambda self: False,
    "is_maia": lambda self: False,
    "is_mtia": lambda self: False,
    "is_vulkan": lambda self: False,
    "is_xla": lambda self: False,
    "is_sparse_csr": lambda self: False,
    "layout": lambda self: layout.strided,
    "itemsize": lambda self: self._dtype.itemsize,
    "nbytes": lambda self: math.prod(self._shape) * self._dtype.itemsize,
    "names": lambda self: (None,) * len(self._shape),
    "retains_grad": lambda self: self._retain,
    "output_nr": lambda self: 0,
    "name": lambda self: None,
}.items():
    setattr(Tensor, _name, property(_f))


Tensor.__hash__ = object.__hash__  # by identity, as PyTorch's, and in C


def item(self: Any) -> Any:
    """Return the value of a tensor with one element as a Python number."""
    if math.prod(self._shape) != 1:
        raise RuntimeError(f"a Tensor with {math.prod(self._shape)} elements cannot be converted to Scalar")
    v = dt.plain(compute(self, ITEM)).reshape(()).item()
    return float(v) if self._dtype.itemsize <= 2 and self._dtype.is_floating_point else v


def tolist(self: Any) -> Any:
    """Return the values as nested lists of Python numbers."""
    a = dt.plain(compute(self))
    if self._dtype.is_floating_point and self._dtype.itemsize <= 2:
        a = a.astype(np.float64)
    return a.tolist()


def _bool(self: Any) -> bool:
    n = math.prod(self._shape)
    if n == 0:
        raise RuntimeError("Boolean value of Tensor with no values is ambiguous")
    if n > 1:
        raise RuntimeError("Boolean value of Tensor with more than one value is ambiguous")
    return bool(dt.plain(compute(self, CONTROL_FLOW)).reshape(()).item())


def _index(self: Any) -> int:
    if self._dtype.category > 1 or math.prod(self._shape) != 1:
        raise TypeError("only integer tensors of a single element can be converted to an index")
    return int(item(self))


_plain("item", item)
_plain("tolist", tolist)


_plain("__bool__", _bool)
_plain("__index__", _index)


def _number(kind: type, name: str) -> None:
    """Install a conversion to one of Python's numbers."""

    def call(self: Tensor) -> Any:
        if math.prod(self._shape) != 1:
            raise ValueError("only one element tensors can be converted to Python scalars")
        v = item(self)
        if isinstance(v, complex) and kind is not complex:
            if v.imag:
                raise RuntimeError(
                    f"value cannot be converted to type {'double' if kind is float else 'int64_t'} without overflow"
                )
            v = v.real
        return kind(v)

    _plain(name, call)


for _name, _kind in (("__float__", float), ("__int__", int), ("__complex__", complex)):
    _number(_kind, _name)


def _iter(self: Any) -> Any:
    if not self._shape:
        raise TypeError("iteration over a 0-d tensor")
    return iter(self.unbind(0))


_plain("__iter__", _iter)


def _set_grad(self: Any, grad: Any) -> None:
    if grad is not None:
        if not isinstance(grad, Handle):
            raise TypeError(
                f"assigned grad expected to be a Tensor or None but got grad of type {type(grad).__name__}"
            )
        if grad is self:
            raise RuntimeError("can't assign Variable as its own grad")
        if grad._shape != self._shape:
            raise RuntimeError(
                f"attempting to assign a gradient of size '{list(grad._shape)}' to a tensor of size "
                f"'{list(self._shape)}'. Please ensure that the gradient and the tensor are the same size"
            )
        if grad._dtype is not self._dtype:
            raise RuntimeError(
                f"attempting to assign a gradient with dtype '{grad._dtype}' to a tensor with grad_dtype "
                f"'{self._dtype}'. The gradient must match the tensor's dtype."
            )
    set_grad(self, grad)


setattr(Tensor, "grad", property(lambda self: self._grad, _set_grad, lambda self: set_grad(self, None)))


def _grad_fn(self: Any) -> GradFn | None:
    if self._path or self._storage.node.buffer is None or written_ahead(self._storage):
        leave_path()  # a followed segment has no graph to look at
    if self._leaf:
        return None
    n = value(self)
    check_origin(self, n)
    return grad_fn(n) if n.needs_grad else None


Tensor.grad_fn = property(_grad_fn)  # type: ignore[attr-defined]


def _set_data(self: Any, new: Any) -> None:
    """t.data = x: take over the storage of x."""
    flush("data")
    if not isinstance(new, Handle):
        raise TypeError(f"Variable data has to be a tensor, but got {type(new).__name__}")
    self._storage, self._chain, self._shape, self._dtype = new._storage, new._chain, new._shape, new._dtype
    self._strides, self._offset, self._leaf_node = new._strides, new._offset, None
    self._detached = self._detached or bool(value(new).needs_grad)
    self._seen = -1
    changed()


@public("_data", function=False, method="data", property=True, setter=_set_data)
def data(self: Any) -> Any:
    """The tensor outside its history. PyTorch's version counter does not see what is written through it."""
    t = adopt(Tensor, self)
    t._detached = cut(t._storage)
    t._seen = -1
    t._base_ref = UNCOUNTED
    value(t)
    return t


def _is_view(self: Any) -> bool:
    return bool(self._chain) or self._base_ref is not None


_plain("_is_view", _is_view)


def _on_demand(name: str) -> Any:
    """Return a method that loads the sparse operators, which then replace it."""

    def fn(self: Any, *args: Any, **kwargs: Any) -> Any:
        importlib.import_module("fanal.core.ops.sparse_math")
        return getattr(Tensor, name)(self, *args, **kwargs)

    fn.__name__, fn.__doc__ = name, "See ops/sparse.py."
    return fn


for _name in (
    "to_dense",
    "to_sparse",
    "to_sparse_coo",
    "to_sparse_csr",
    "indices",
    "values",
    "crow_indices",
    "col_indices",
    "sparse_dim",
    "dense_dim",
    "sparse_mask",
):
    setattr(Tensor, _name, _on_demand(_name))
