"""Conversion of dtype and device, and plain writes: to, type, copy_, fill_, apply_, set_, resize_."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fanal.core.base import device as devices
from fanal.core.base import dtype as dt
from fanal.core.base import layout
from fanal.core.base.shape import broadcast_shapes, contiguous_strides
from fanal.core.engine.handle import Handle
from fanal.core.engine.record import changed, unfollowable
from fanal.core.ir import prims as P
from fanal.core.ops.arguments import of_python
from fanal.core.ops.build import (
    assign,
    can_cast,
    check_fits,
    check_inplace,
    is_number,
    node_of,
    public,
    read,
    result,
    result_type,
    wrap,
)
from fanal.core.ops.create import filled
from fanal.core.ops.shape import as_strided, clone, contiguous, ints, whole
from fanal.core.ops.storage_ops import resize
from fanal.core.ops.storage_view import UntypedStorage
from fanal.core.tensor.tensor import Tensor, compute

LEGACY: dict[str, dt.dtype] = {f"{dt.scalar_name(d)}Tensor": d for d in dt.ALL if d.category < 3}


def converted(t: Any, d: dt.dtype, copy: bool = False, memory_format: Any = None) -> Any:
    """Return a tensor in dtype `d`: itself if it has that dtype already and no copy is asked for."""
    if d is t._dtype and not copy:
        keep = memory_format in (None, layout.preserve_format)
        return t if keep else contiguous(t, memory_format)
    if d is t._dtype:
        return clone(t, memory_format=memory_format or layout.preserve_format)
    n = P.convert(read(t), d)
    if memory_format in (None, layout.preserve_format):
        return result(n, t)
    y = wrap(n, layout.format_strides(t._shape, memory_format))
    y._storage.meta = t._storage.meta
    return y


def _moved(t: Any, where: Any, copy: bool) -> Any:
    """Return a tensor on a device: the CPU, or meta, where tensors have no contents."""
    target = devices.resolve(where)
    if (target is devices.META) == t._storage.meta:
        return clone(t) if copy else t
    if t._storage.meta:
        raise NotImplementedError("Cannot copy out of meta tensor; no data!")
    y = wrap(P.full(t._shape, 0, t._dtype), t._strides if t._strides and 0 not in t._strides else None)
    y._storage.meta = True
    return y


@public(function=False)
def to(
    self: Any,
    *args: Any,
    dtype: Any = None,
    device: Any = None,
    other: Any = None,
    non_blocking: bool = False,
    copy: bool = False,
    memory_format: Any = None,
) -> Any:
    """Return the tensor with another dtype, device or memory format; itself when nothing changes.

    Forms: to(dtype), to(device), to(device, dtype), to(other), each followed by non_blocking and copy.
    """
    flags = []
    for a in args:
        if isinstance(a, dt.dtype):
            dtype = a
        elif isinstance(a, type):
            dtype = of_python(a, "to")
        elif isinstance(a, Handle):
            other = a
        elif isinstance(a, bool):
            flags.append(a)
        elif isinstance(a, (str, devices.device, int)):
            device = a
        elif a is not None:
            raise TypeError(
                "to() received an invalid combination of arguments - got "
                f"({', '.join(type(x).__name__ for x in args)})"
            )
    copy = copy or (len(flags) > 1 and flags[1])
    if other is not None:
        dtype, device = other._dtype, other.device
    t = self
    if device is not None:
        moved = _moved(t, device, False)
        copy, t = copy and moved is t, moved
    return converted(t, dtype or t._dtype, copy, memory_format)


def _cast(name: str, d: dt.dtype) -> None:
    def fn(self: Any, memory_format: Any = layout.preserve_format) -> Any:
        return converted(self, d, False, memory_format)

    fn.__name__, fn.__doc__ = name, f"Return the tensor as {d.name}."
    public(name, function=False)(fn)


for _name, _d in {
    "float": dt.float32,
    "double": dt.float64,
    "half": dt.float16,
    "bfloat16": dt.bfloat16,
    "long": dt.int64,
    "int": dt.int32,
    "short": dt.int16,
    "char": dt.int8,
    "byte": dt.uint8,
    "bool": dt.bool_,
    "chalf": dt.complex32,
    "cfloat": dt.complex64,
    "cdouble": dt.complex128,
}.items():
    _cast(_name, _d)


@public(function=False)
def type_as(self: Any, other: Any) -> Any:
    """Return the tensor in the dtype of another."""
    return converted(self, other._dtype)


@public(function=False)
def cpu(self: Any, memory_format: Any = layout.preserve_format) -> Any:
    """Return the tensor on the CPU: itself."""
    if self._storage.meta:
        raise NotImplementedError("Cannot copy out of meta tensor; no data!")
    return self


@public(function=False)
def cuda(self: Any, device: Any = None, non_blocking: bool = False, memory_format: Any = None) -> Any:
    """Return the tensor on a GPU. Raises AssertionError where there is none."""
    return _moved(self, "cuda" if device is None else device, False)


@public(function=False)
def pin_memory(self: Any, device: Any = None) -> Any:
    """Return the tensor: memory of the CPU needs no pinning here."""
    return self


@public("type", function=False)
def type_(self: Any, dtype: Any = None, non_blocking: bool = False, **kwargs: Any) -> Any:
    """Return the name of the tensor's type, or the tensor converted to a dtype or a legacy type."""
    if dtype is None:
        return f"torch.{dt.scalar_name(self._dtype)}Tensor"
    if isinstance(dtype, dt.dtype):
        return converted(self, dtype)
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", str(dtype))
    known = LEGACY.get(name.rpartition(".")[2])
    if known is None:
        raise ValueError(f"invalid type: '{name}'")
    return converted(self, known)


@public(function=False)
def copy_(self: Any, other: Any, non_blocking: bool = False) -> Any:
    """Write the elements of src, broadcast and converted, into this tensor."""
    if not isinstance(other, Handle):
        if not is_number(other):
            raise TypeError(
                f"copy_(): argument 'other' (position 1) must be Tensor, not {type(other).__name__}"
            )
        n = node_of(other, self._dtype)
    else:
        if other._storage.meta and not self._storage.meta:
            raise NotImplementedError("Cannot copy out of meta tensor; no data!")
        n = read(other)
    if n.shape != self._shape:
        shape = broadcast_shapes(self._shape, n.shape)
        if shape != self._shape:
            raise RuntimeError(
                f"output with shape {list(self._shape)} doesn't match the broadcast shape {list(shape)}"
            )
    return assign(self, P.convert(n, self._dtype))


@public(inplace=True)
def fill(input: Any, value: Any) -> Any:
    """Return input with every element set to one number."""
    if isinstance(value, Handle) and value._shape:
        raise RuntimeError(
            f"fill_ only supports 0-dimension value tensor but got tensor with {len(value._shape)} "
            "dimensions."
        )
    if not isinstance(value, Handle):
        check_fits(value, input._dtype)
    n = node_of(value, input._dtype)
    return result(P.broadcast(n, input._shape) if input._shape else P.alias(n), input)


@public("_zero", function=False, method=False)
def zeroed(input: Any) -> Any:
    """Return zeros in the shape of input."""
    return result(P.full(input._shape, 0, input._dtype), input)


@public(function=False)
def zero_(self: Any) -> Any:
    """Set every element to zero."""
    return assign(self, P.full(self._shape, 0, self._dtype))


@public("zero_", method=False)
def zero_function(input: Any) -> Any:
    """Set every element to zero."""
    return zero_(input)


@public(function=False)
def resize_(self: Any, *sizes: Any, memory_format: Any = None) -> Any:
    """Change the shape in place; new elements are zero."""
    if self.requires_grad:
        raise RuntimeError("cannot resize variables that require grad")
    shape = ints(sizes, "resize_", "size")
    if shape == self._shape:
        return self
    unfollowable("a tensor was resized")
    return resize(self, shape)


@public()
def resize_as_(self: Any, the_template: Any, memory_format: Any = None) -> Any:
    """Change the shape in place to that of another tensor."""
    return resize_(self, the_template._shape)


@public(function=False)
def set_(self: Any, source: Any = None, storage_offset: int = 0, size: Any = None, stride: Any = None) -> Any:
    """Show the storage of another tensor, or part of it, from here on."""
    check_inplace(self)
    unfollowable("set_ was called")
    if source is None:
        source = filled((0,), 0, self._dtype)
    if isinstance(source, UntypedStorage):
        source = source._tensor(self._dtype)
        size = size if size is not None else source._shape
    if source._dtype is not self._dtype:
        raise RuntimeError(
            f"Could not set tensor of type {source._dtype.name} to a tensor of type {self._dtype.name}"
        )
    if size is not None:
        shape = ints((size,))
        if stride is None:
            stride = contiguous_strides(shape)
        source = as_strided(whole(source), shape, stride, storage_offset)
    self._storage, self._chain, self._shape = source._storage, source._chain, source._shape
    self._strides, self._offset, self._leaf_node, self._seen = source._strides, source._offset, None, -1
    self._detached = source._detached
    changed()
    return self


def _mapped(function: Callable[..., Any], self: Any, *others: Any) -> Any:
    """Replace the elements of `self` by function(element, elements of the others)."""
    if self.requires_grad:
        raise RuntimeError("Can't call apply_() or map_() on Variable that requires grad. Use var.detach() first.")
    unfollowable("a Python function is called for each element")
    values = [np.broadcast_to(compute(t), self._shape).reshape(-1).tolist() for t in (self, *others)]
    found = [function(*v) for v in zip(*values)]
    for v in found:
        if isinstance(v, (str, bytes)) or not isinstance(v, (bool, int, float, complex, np.generic)):
            raise TypeError(f"must be real number, not {type(v).__name__}")
    return assign(self, P.given(np.array(found).astype(self._dtype.np).reshape(self._shape), self._dtype))


@public(function=False)
def apply_(self: Any, callable: Callable[[Any], Any]) -> Any:
    """Replace each element x by callable(x)."""
    return _mapped(callable, self)


@public(function=False)
def map_(self: Any, tensor: Any, callable: Callable[[Any, Any], Any]) -> Any:
    """Replace each element x by callable(x, y), y from another tensor."""
    return _mapped(callable, self, tensor)


@public(function=False)
def map2_(self: Any, x: Any, y: Any, callable: Callable[[Any, Any, Any], Any]) -> Any:
    """Replace each element by callable of it and those of two other tensors."""
    return _mapped(callable, self, x, y)


@public(method=False, event=False)
def is_tensor(obj: Any) -> bool:
    """Tell whether an object is a tensor."""
    return isinstance(obj, Tensor)


def _question(name: str) -> None:
    def fn(input: Any) -> Any:
        return getattr(Tensor, name)(input)

    fn.__name__, fn.__doc__ = name, f"Tell Tensor.{name}()."
    public(name, method=False, event=False)(fn)


for _name in ("is_floating_point", "is_complex", "is_signed", "numel", "is_inference", "is_conj", "is_neg",
              "is_distributed", "get_device"):
    _question(_name)


@public(method=False, event=False)
def is_same_size(input: Any, other: Any) -> bool:
    """Tell whether two tensors have the same shape."""
    return input._shape == other._shape


@public("can_cast", method=False, event=False)
def can_cast_public(from_: dt.dtype, to: dt.dtype) -> bool:
    """Tell whether a result of dtype `from_` may be stored in `to`."""
    return can_cast(from_, to)


@public("result_type", method=False, event=False)
def result_type_public(tensor: Any, other: Any) -> dt.dtype:
    """Return the dtype of an operation on two tensors or numbers."""
    return result_type(tensor, other)


__all__ = ["converted"]
