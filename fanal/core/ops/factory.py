"""Making tensors: filled, counted, spaced, like another one, complex from parts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fanal.core.base import device as devices
from fanal.core.base import dtype as dt
from fanal.core.base import layout as layouts
from fanal.core.base.dim import index, plain, whole
from fanal.core.base.shape import Shape, broadcast_shapes, contiguous_strides, is_contiguous
from fanal.core.engine.handle import Handle
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import is_number, kept_strides, node_of, public, read, result, unsupported, wrap
from fanal.core.ops.create import filled, held, is_data, shape_in, shape_of, tensor
from fanal.core.ops.shape import as_strided, ints
from fanal.core.tensor.tensor import compute

Dtype = dt.dtype | None


def placed(t: Any, device: Any, requires_grad: bool = False) -> Any:
    """Put a new tensor where `device` says, and let it collect gradients."""
    t._storage.meta = devices.resolve(device) is devices.META
    if requires_grad:
        if t._dtype.category < 2:
            raise RuntimeError("Only Tensors of floating point and complex dtype can require gradients")
        t._leaf = True
    return t


def scalar_of(x: Any) -> Any:
    """Return a number given as a Python number or a tensor with one element."""
    return compute(x).reshape(()).item() if isinstance(x, Handle) else x


@public(method=False, out="fill")
def empty(
    *size: Any,
    dtype: Dtype = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    pin_memory: bool = False,
    memory_format: Any = None,
) -> Any:
    """Return a tensor whose contents do not matter: whatever is in its memory."""
    shape = shape_of(size)
    st = layouts.format_strides(shape, memory_format) if memory_format is not None else None
    return placed(wrap(_unset(shape, dtype or dt.get_default()), st), device, requires_grad)


def _unset(shape: Shape, d: dt.dtype) -> Node:
    return P.full(shape, 0 if d is dt.bool_ else None, d)  # a bool is 0 or 1, whatever is in memory


@public(method=False, out="fill")
def full(
    size: Any,
    fill_value: Any,
    *,
    dtype: Dtype = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    pin_memory: bool = False,
    names: Any = None,
) -> Any:
    """Return a tensor filled with one number, whose kind decides the dtype."""
    d = dtype or (fill_value._dtype if isinstance(fill_value, Handle) else dt.of_scalar(fill_value))
    return filled(shape_in(size), scalar_of(fill_value), d, device, requires_grad)


def _like(input: Any, value: Any, dtype: Dtype, device: Any, requires_grad: bool, memory_format: Any) -> Any:
    """Return `value`, or with None anything, in the shape and layout of `input`."""
    if memory_format in (None, layouts.preserve_format):
        st = kept_strides(input._shape, input)
    else:
        st = layouts.format_strides(input._shape, memory_format)
    d = dtype or input._dtype
    t = wrap(_unset(input._shape, d) if value is None else P.full(input._shape, held(value, d), d), st)
    return placed(t, input.device if device is None else device, requires_grad)


@public(method=False)
def zeros_like(
    input: Any,
    *,
    dtype: Dtype = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    memory_format: Any = None,
    pin_memory: bool = False,
) -> Any:
    """Return zeros in the shape of input."""
    return _like(input, 0, dtype, device, requires_grad, memory_format)


@public(method=False)
def ones_like(
    input: Any,
    *,
    dtype: Dtype = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    memory_format: Any = None,
    pin_memory: bool = False,
) -> Any:
    """Return ones in the shape of input."""
    return _like(input, 1, dtype, device, requires_grad, memory_format)


@public(method=False)
def empty_like(
    input: Any,
    *,
    dtype: Dtype = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    memory_format: Any = None,
    pin_memory: bool = False,
) -> Any:
    """Return a tensor in the shape of input whose contents do not matter."""
    return _like(input, None, dtype, device, requires_grad, memory_format)


@public(method=False)
def full_like(
    input: Any,
    fill_value: Any,
    *,
    dtype: Dtype = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    memory_format: Any = None,
    pin_memory: bool = False,
) -> Any:
    """Return a tensor in the shape of input filled with one number."""
    return _like(input, scalar_of(fill_value), dtype, device, requires_grad, memory_format)


def _new(name: str, value: int | None) -> None:
    def fn(
        self: Any,
        *size: Any,
        dtype: Dtype = None,
        device: Any = None,
        requires_grad: bool = False,
        layout: Any = None,
        pin_memory: bool = False,
    ) -> Any:
        shape, d, where = shape_of(size), dtype or self._dtype, self.device if device is None else device
        if value is None:
            return placed(wrap(_unset(shape, d)), where, requires_grad)
        return filled(shape, value, d, where, requires_grad)

    fn.__name__, fn.__doc__ = (
        name,
        f"Return a tensor like {name[4:]}, in the dtype and on the device of this one.",
    )
    public(name, function=False)(fn)


for _name, _value in {"new_zeros": 0, "new_ones": 1, "new_empty": None}.items():
    _new(_name, _value)


@public(function=False)
def new_full(
    self: Any,
    size: Any,
    fill_value: Any,
    *,
    dtype: Dtype = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    pin_memory: bool = False,
) -> Any:
    """Return a tensor filled with one number, in the dtype and on the device of this one."""
    return filled(
        shape_in(size),
        scalar_of(fill_value),
        dtype or self._dtype,
        self.device if device is None else device,
        requires_grad,
    )


@public(function=False, event=False)
def new_tensor(
    self: Any,
    data: Any,
    *,
    dtype: Dtype = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    pin_memory: bool = False,
) -> Any:
    """Return a tensor with a copy of data, in the dtype and on the device of this one."""
    d = dtype or (data._dtype if isinstance(data, Handle) else self._dtype)
    return tensor(
        data, dtype=d, device=self.device if device is None else device, requires_grad=requires_grad
    )


@public("new", function=False, event=False)
def new_legacy(self: Any, *args: Any, device: Any = None) -> Any:
    """Return a tensor of sizes, or with data, in the dtype of this one."""
    if len(args) == 1 and is_data(args[0]):
        return tensor(args[0], dtype=self._dtype)
    return filled(shape_of(args) if args else (0,), 0, self._dtype)


def _strided(shape: Shape, st: Shape, d: dt.dtype, device: Any, requires_grad: bool) -> Any:
    if len(shape) != len(st):
        raise RuntimeError(
            f"dimensionality of sizes ({len(shape)}) must match dimensionality of strides ({len(st)})"
        )
    order = sorted(range(len(shape)), key=lambda i: (-st[i], i))
    if is_contiguous([shape[i] for i in order], [st[i] for i in order]):
        return placed(wrap(_unset(shape, d), st), device, requires_grad)
    n = 1 + sum((k - 1) * s for k, s in zip(shape, st)) if math.prod(shape) else 0
    return placed(as_strided(wrap(_unset((n,), d)), shape, st), device, requires_grad)


@public(method=False)
def empty_strided(
    size: Any,
    stride: Any,
    *,
    dtype: Dtype = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    pin_memory: bool = False,
) -> Any:
    """Return a tensor of the given sizes and strides whose contents do not matter."""
    return _strided(ints((size,)), ints((stride,)), dtype or dt.get_default(), device, requires_grad)


@public(function=False)
def new_empty_strided(
    self: Any,
    size: Any,
    stride: Any,
    dtype: Dtype = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    pin_memory: bool = False,
) -> Any:
    """Return a tensor of the given sizes and strides, in the dtype of this one."""
    return _strided(ints((size,)), ints((stride,)), dtype or self._dtype, device, requires_grad)


@public(method=False)
def empty_permuted(
    size: Any,
    physical_layout: Any,
    *,
    dtype: Dtype = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    pin_memory: bool = False,
) -> Any:
    """Return a dense tensor whose dimensions lie in memory in the given order."""
    shape, order = ints((size,)), tuple(physical_layout)
    if sorted(order) != list(range(len(shape))):
        raise RuntimeError(
            f"Number of dimensions in size does not match the length of the physical_layout; i.e. "
            f"len(size) = {len(shape)} is not equal to len(physical_layout) = {len(order)}"
        )
    dense = contiguous_strides([shape[d] for d in order])
    st = [0] * len(shape)
    for d, s in zip(order, dense):
        st[d] = s
    return _strided(shape, tuple(st), dtype or dt.get_default(), device, requires_grad)


def _numbers(*xs: Any) -> dt.dtype:
    return dt.int64 if all(isinstance(x, (int, np.integer)) for x in xs) else dt.get_default()


def _steps(start: Any, end: Any, step: Any) -> int:
    """Return how many steps lead from start to below end."""
    if all(isinstance(v, int) for v in (start, end, step)):
        return max(-((start - end) // step), 0)
    return max(math.ceil((end - start) / step), 0)


@public(method=False, out="fill")
def arange(
    start: Any = None,
    end: Any = None,
    step: Any = 1,
    *,
    dtype: Dtype = None,
    device: Any = None,
    layout: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Any:
    """Return start, start + step, ... below end."""
    if start is None and end is None:
        raise TypeError("arange() is missing its limit: arange(end) or arange(start, end)")
    start, end, step = scalar_of(start), scalar_of(end), scalar_of(step)
    if end is None:
        start, end = 0, start
    elif start is None:
        start = 0
    d = dtype or _numbers(start, end, step)
    if d is dt.bool_ or d.is_complex:
        raise unsupported("arange_cpu", d)
    for v in (start, end):
        if not math.isfinite(plain(v)):
            raise RuntimeError(f"unsupported range: {start:g} -> {end:g}")
    if step == 0:
        raise RuntimeError("step must be nonzero")
    if (end - start) * step < 0:
        raise RuntimeError("upper bound and lower bound inconsistent with step sign")
    given = (start, end, step)
    if d.category == 1:  # counted in the numbers as given, but in int64
        start, end, step = map(whole, given)
        if d is dt.int64:
            given = (start, end, step)
            if step == 0:
                raise ValueError("step must be nonzero")
    n = _steps(*given)
    i = P.iota((n,), 0, dt.int64 if all(isinstance(v, int) for v in (start, step)) else dt.float64)
    y = P.add(P.mul(i, P.num(i, step)), P.num(i, start))
    return placed(wrap(P.convert(y, d)), device, requires_grad)


@public("range", method=False, out="fill")
def range_(
    start: Any = None,
    end: Any = None,
    step: Any = 1,
    *,
    dtype: Dtype = None,
    device: Any = None,
    layout: Any = None,
    requires_grad: bool = False,
) -> Any:
    """Return start, start + step, ... up to and including end."""
    if end is None:
        start, end = 0, start
    d = dtype or dt.get_default()
    if step == 0:
        raise RuntimeError("step must be nonzero")
    if (end - start) * step < 0:
        raise RuntimeError("upper bound and lower bound inconsistent with step sign")
    n = math.floor((end - start) / step) + 1
    i = P.iota((n,), 0, dt.float64)
    return placed(wrap(P.convert(P.add(P.mul(i, P.num(i, step)), P.num(i, start)), d)), device, requires_grad)


@public(method=False, out="fill")
def eye(
    n: int,
    m: int | None = None,
    *,
    dtype: Dtype = None,
    device: Any = None,
    layout: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Any:
    """Return a matrix with ones on the diagonal."""
    cols = n if m is None else m
    for name, k in (("n", n), ("m", cols)):
        if index(k) < 0:
            raise RuntimeError(f"{name} must be greater or equal to 0, got {k}")
    return placed(wrap(P.convert(P.eye(n, cols), dtype or dt.get_default())), device, requires_grad)


def _pair(a: Node, b: Node) -> Node:
    """Join real parts and imaginary parts."""
    one = (*a.shape, 1)
    return P.reshape(
        P.recast(P.concat((P.reshape(a, one), P.reshape(b, one)), len(a.shape)), a.dtype.to_complex()),
        a.shape,
    )


def complex_node(a: Node, b: Node) -> Node:
    """Return a + bi, broadcast."""
    shape = broadcast_shapes(a.shape, b.shape)
    return _pair(P.broadcast(a, shape), P.broadcast(b, shape))


@public("complex", method=False, out="same", tensors=2)
def complex_of(real: Any, imag: Any) -> Any:
    """Return complex numbers from real and imaginary parts."""
    for x in (real, imag):
        if x._dtype not in (dt.float16, dt.float32, dt.float64):
            raise RuntimeError(
                "Expected both inputs to be Half, Float or Double tensors but got "
                f"{dt.scalar_name(real._dtype)} and {dt.scalar_name(imag._dtype)}"
            )
    if real._dtype is not imag._dtype:
        raise RuntimeError(
            f"Expected object of scalar type {dt.scalar_name(real._dtype)} but got scalar type "
            f"{dt.scalar_name(imag._dtype)} for second argument"
        )
    return result(complex_node(read(real), read(imag)), real, imag)


@public(method=False, out="same", tensors=2)
def polar(abs: Any, angle: Any) -> Any:
    """Return complex numbers from absolute values and angles."""
    for x in (abs, angle):
        if x._dtype not in (dt.float32, dt.float64):
            raise RuntimeError(
                "Expected both inputs to be Half, Float or Double tensors but got "
                f"{dt.scalar_name(abs._dtype)} and {dt.scalar_name(angle._dtype)}"
            )
    if abs._dtype is not angle._dtype:
        raise RuntimeError(
            f"Expected object of scalar type {dt.scalar_name(abs._dtype)} but got scalar type "
            f"{dt.scalar_name(angle._dtype)} for second argument"
        )
    r, a = read(abs), read(angle)
    return result(complex_node(P.mul(r, P.cos(a)), P.mul(r, P.sin(a))), abs, angle)


@public(method=False)
def scalar_tensor(
    s: Any,
    *,
    dtype: Dtype = None,
    device: Any = None,
    layout: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Any:
    """Return a 0-d tensor in the default dtype."""
    d = dtype or (dt.get_default().to_complex() if isinstance(s, complex) else dt.get_default())
    return filled((), scalar_of(s), d, device, requires_grad)


__all__ = ["is_number", "node_of", "placed"]
