"""Normalisation: statistics in two passes, and gradients written so that each direction is one kernel over rows.

A layer reads mean and reciprocal deviation as values with a history of their own, but its rule sends the whole
gradient to the input at once; the history serves derivatives of the rule, that is, second derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.layout import channels_last, channels_last_3d, is_format
from fanal.core.base.shape import Shape, reduced_shape, wrap_dims
from fanal.core.base.state import grad_mode
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import counted, dense, number, public, read, result, unsupported, wide
from fanal.core.ops.pointwise import with_gradient
from fanal.core.ops.reduce import norm_node, sum_node
from fanal.core.tensor.alias import value, write


def _mean(x: Node, dims: Shape) -> Node:
    """Mean over dimensions, which stay with size 1."""
    return P.div(sum_node(x, dims, True), counted(math.prod(x.shape[d] for d in dims), x.dtype))


def moments(x: Node, dims: Shape) -> tuple[Node, Node]:
    """Mean and biased variance over dimensions, which stay with size 1."""
    m = _mean(x, dims)
    c = P.sub(x, m)
    return m, _mean(P.mul(c, c), dims)


def reciprocal_deviation(variance: Node, eps: float) -> Node:
    """1 / sqrt(variance + eps)."""
    return P.div(P.num(variance, 1), P.sqrt(P.add(variance, number(float(eps), variance.dtype))))


def _given(*nodes: Node | None) -> list[Node]:
    return [n for n in nodes if n is not None]


def normalized(x: Node, m: Node, r: Node, w: Node | None, b: Node | None, dims: Shape) -> Node:
    """(x - m) * r * w + b, for the mean m and reciprocal deviation r of x itself over `dims`.

    w and b have as many dimensions as x.
    """
    affine = _given(w, b)
    # Over these neither w nor b changes: gradients are summed over them first, and once.
    even = tuple(d for d in dims if all(t.shape[d] == 1 for t in affine))

    def rule(g: Node, y: Node, x: Node, m: Node, r: Node, *rest: Node) -> list[Node | None]:
        weighed = (lambda t: t) if w is None else (lambda t: P.mul(t, rest[0]))
        unit = P.mul(P.sub(x, m), r)
        shift, scale = sum_node(g, even, True), sum_node(P.mul(g, unit), even, True)
        n = counted(math.prod(x.shape[d] for d in dims), x.dtype)
        mean, slope = (P.div(sum_node(weighed(t), dims, True), n) for t in (shift, scale))
        centred = P.sub(P.sub(weighed(g), mean), P.mul(unit, slope))
        out: list[Node | None] = [P.mul(centred, r), None, None]
        if w is not None:
            out.append(P.sum_over(scale, w.shape) if rest[0].varies else None)
        if b is not None:
            out.append(P.sum_over(shift, b.shape))
        return out

    dx, dm, dr = (P.detach(n) for n in (x, m, r))
    if w is not None and even:
        dr = P.mul(dr, P.detach(w))  # fewer elements than x has
    y = P.mul(P.sub(dx, dm), dr)
    if w is not None and not even:
        y = P.mul(y, P.detach(w))
    return with_gradient(y if b is None else P.add(y, P.detach(b)), rule, x, m, r, *affine)


def _affine(t: Any, d: dt.dtype, shape: Shape) -> Node | None:
    """A weight or bias, in the dtype of the computation and a shape that broadcasts."""
    return None if t is None else P.reshape(P.convert(read(t), d), shape)


def _need_float(x: Node, kernel: str) -> None:
    if x.dtype.category < 2 or (x.dtype.is_complex and kernel != "rms_norm"):
        raise unsupported(kernel, x.dtype)


def _one_dtype(x: Node, *parameters: Any) -> None:
    """Parameters share the dtype of the input, or are float32 beside a 16-bit input, or in its dtype."""
    for t in parameters:
        if t is not None and t._dtype is not x.dtype:
            if x.dtype not in (dt.bfloat16, dt.float16):
                raise RuntimeError("mixed dtype (CPU): expect parameter to have scalar type of Float")
            if t._dtype is not dt.float32:
                raise RuntimeError("mixed dtype (CPU): all inputs must share same datatype.")


def _match(t: Any, name: str, n: int) -> None:
    if t is not None and math.prod(t._shape) != n:
        raise RuntimeError(f"{name} should contain {n} elements not {math.prod(t._shape)}")


def _blend(running: Any, new: Node, momentum: float) -> None:
    """running = (1 - momentum) * running + momentum * new, in place and outside every history."""
    with grad_mode(False):
        old = value(running)
        new = P.convert(P.reshape(P.detach(new), old.shape), old.dtype)
        share = number(float(momentum), dt.float64)
        keep, take = P.convert(P.sub(P.num(share, 1), share), old.dtype), P.convert(share, old.dtype)
        write(running, P.add(P.mul(old, keep), P.mul(new, take)))


def _running(mean: Any, var: Any, m: Node, v: Node, n: int, momentum: float) -> None:
    """Update running statistics; the variance is unbiased."""
    if mean is not None:
        _blend(mean, m, momentum)
    if var is not None:
        with grad_mode(False):
            factor = P.div(*(counted(k, dt.float64) for k in (n, n - 1)))  # infinity for one element
            _blend(var, P.mul(P.detach(v), P.convert(factor, v.dtype)), momentum)


def _by_format(y: Node, input: Any) -> Any:
    """Return a result that is laid out with its channels last where the operand is, else contiguous."""
    st = input._strides
    last = st is not None and any(is_format(y.shape, st, f) for f in (channels_last, channels_last_3d))
    return result(y, input) if last else dense(y, input)


def _batch_norm(
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    x0 = read(input)
    _need_float(x0, "batch_norm")
    if not x0.size and len(x0.shape) < 2:
        return result(P.alias(x0), input)
    if len(x0.shape) < 2:
        raise RuntimeError("batch_norm(): input must have at least 2 dimensions")
    channels = x0.shape[1]
    for t, name in (
        (running_mean, "running_mean"),
        (running_var, "running_var"),
        (weight, "weight"),
        (bias, "bias"),
    ):
        _match(t, name, channels)
    if x0.dtype not in (dt.bfloat16, dt.float16):
        for t in (weight, bias, running_mean, running_var):
            if t is not None and t._dtype is not x0.dtype:
                raise RuntimeError("mixed dtype (CPU): all inputs must share same datatype.")
    x = wide(x0)
    dims = tuple(d for d in range(len(x.shape)) if d != 1)
    row = reduced_shape(x.shape, dims, True)
    w, b = _affine(weight, x.dtype, row), _affine(bias, x.dtype, row)
    if training:
        if not x.size:
            return result(P.alias(x0), input)
        m, v = moments(x, dims)
        y = normalized(x, m, reciprocal_deviation(v, eps), w, b, dims)
        _running(running_mean, running_var, m, v, x.size // channels, momentum)
    else:
        if running_mean is None or running_var is None:
            raise RuntimeError(
                f"{'running_mean' if running_mean is None else 'running_var'} must be "
                "defined in evaluation mode"
            )
        m, v = (P.reshape(P.convert(read(t), x.dtype), row) for t in (running_mean, running_var))
        scale = reciprocal_deviation(v, eps)
        y = P.mul(P.sub(x, m), scale if w is None else P.mul(scale, w))
        y = y if b is None else P.add(y, b)
    return _by_format(P.convert(y, x0.dtype), input)


@public("batch_norm", method=False)
def torch_batch_norm(
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Any:
    """Return input normalised for each channel over batch and space."""
    return _batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps)


def _several(size: Sequence[int]) -> None:
    n = size[0] * math.prod(size[2:])
    if n == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size torch.Size({list(size)})"
        )


@public(module="nn.functional", method=False)
def batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Return input normalised for each channel over batch and space; training updates the running statistics.

    Shapes: (N, C, *), parameters (C). Source: Ioffe & Szegedy 2015.
    """
    if training:
        _several(input._shape)
        if eps <= 0:
            raise ValueError(f"batch_norm eps must be positive during training, but got {eps}")
    elif eps < 0:
        raise ValueError(f"batch_norm eps must be non-negative, but got {eps}")
    return _batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps)


def layer_norm_node(x0: Node, weight: Any, bias: Any, k: int, eps: float) -> Node:
    """Normalise over the last k dimensions."""
    x = wide(x0)
    dims = tuple(range(len(x.shape) - k, len(x.shape)))
    shape = (1,) * dims[0] + x.shape[dims[0]:]
    m, v = moments(x, dims)
    w, b = _affine(weight, x.dtype, shape), _affine(bias, x.dtype, shape)
    y = normalized(x, m, reciprocal_deviation(v, eps), w, b, dims)
    return P.convert(y, x0.dtype)


def _check_normalized(input: Any, shape: Shape, weight: Any, bias: Any, name: str) -> None:
    if not shape:
        raise RuntimeError(
            "Expected normalized_shape to be at least 1-dimensional, i.e., containing at least one element, "
            "but got normalized_shape = []"
        )
    for t, which in ((weight, "weight"), (bias, "bias")):
        if t is not None and t._shape != shape:
            raise RuntimeError(
                f"Expected {which} to be of same shape as normalized_shape, but got {which} of shape "
                f"{list(t._shape)} and normalized_shape = {list(shape)}"
            )
    if len(input._shape) < len(shape) or input._shape[len(input._shape) - len(shape) :] != shape:
        raise RuntimeError(
            f"Given normalized_shape={list(shape)}, expected input with shape "
            f"[{'*, ' if name == 'layer_norm' else '*'}{', '.join(map(str, shape))}], but "
            f"got input of size{list(input._shape)}"
        )


def _shape_tuple(s: Any) -> Shape:
    return (s,) if isinstance(s, int) else tuple(int(i) for i in s)


@public(method=False)
def layer_norm(
    input: Any,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Any:
    """Return input normalised over its last dimensions, `normalized_shape`. Source: Ba, Kiros & Hinton 2016."""
    shape = _shape_tuple(normalized_shape)
    _check_normalized(input, shape, weight, bias, "layer_norm")
    x = read(input)
    _need_float(x, "LayerNormKernelImpl")
    _one_dtype(x, weight, bias)
    if not x.size:
        return dense(P.alias(x), input)
    return dense(layer_norm_node(x, weight, bias, len(shape), eps), input)


@public("layer_norm", module="nn.functional", method=False)
def layer_norm_functional(
    input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    """Return input normalised over its last dimensions, `normalized_shape`. Source: Ba, Kiros & Hinton 2016."""
    return layer_norm(input, normalized_shape, weight, bias, eps)


@public(method=False)
@public(module="nn.functional", method=False)
def rms_norm(input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    """Return input divided by its root mean square over the last dimensions. Source: Zhang & Sennrich 2019."""
    shape = _shape_tuple(normalized_shape)
    _check_normalized(input, shape, weight, None, "rms_norm")
    x0 = read(input)
    _need_float(x0, "rms_norm")
    if not x0.size:
        return result(P.alias(x0), input)
    x = wide(x0)
    if eps is None:
        eps = float(np.finfo(x.dtype.np).eps)
    dims = tuple(range(len(x.shape) - len(shape), len(x.shape)))
    r = reciprocal_deviation(_mean(P.mul(x, x), dims), eps)

    def rule(g: Node, y: Node, x: Node, r: Node) -> list[Node | None]:
        unit = P.mul(x, r)
        return [P.mul(P.sub(g, P.mul(unit, _mean(P.mul(g, unit), dims))), r), None]

    y = P.mul(x, r) if x.dtype.is_complex else with_gradient(P.mul(P.detach(x), P.detach(r)), rule, x, r)
    w = _affine(weight, x.dtype, shape)
    return _by_format(P.convert(y if w is None else P.mul(y, w), x0.dtype), input)


@public("group_norm", method=False)
def torch_group_norm(
    input: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    """Return input normalised over groups of channels and space."""
    x0 = read(input)
    if len(x0.shape) < 2:
        raise RuntimeError(f"Expected at least 2 dimensions for input tensor but received {len(x0.shape)}")
    if num_groups <= 0:
        raise RuntimeError(f"Expected num groups to be greater than 0, got {num_groups}")
    _need_float(x0, "GroupNormKernelImpl")
    n, c = x0.shape[:2]
    if c % num_groups:
        raise RuntimeError(
            "Expected number of channels in input to be divisible by num_groups, but got input of shape "
            f"{list(x0.shape)} and num_groups={num_groups}"
        )
    for t, name in ((weight, "weight"), (bias, "bias")):
        if t is not None and t._shape != (c,):
            raise RuntimeError(
                f"Expected {name} to be a vector of size equal to the number of channels in input, but got "
                f"{name} of shape {list(t._shape)} and input of shape {list(x0.shape)}"
            )
    if not x0.size:
        return result(P.alias(x0), input)
    x = P.reshape(wide(x0), (n, num_groups, c // num_groups, math.prod(x0.shape[2:])))
    row = (1, num_groups, c // num_groups, 1)
    # The parameters change within a group: as rows of their own, statistics are one kernel.
    rows = P.reshape(x, (n, num_groups, x.size // (n * num_groups)))
    m, v = (P.reshape(t, (n, num_groups, 1, 1)) for t in moments(rows, (2,)))
    w, b = _affine(weight, x.dtype, row), _affine(bias, x.dtype, row)
    y = normalized(x, m, reciprocal_deviation(v, eps), w, b, (2, 3))
    return _by_format(P.convert(P.reshape(y, x0.shape), x0.dtype), input)


@public(module="nn.functional", method=False)
def group_norm(input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Return input normalised over groups of channels and space. Shapes: (N, C, *), parameters (C).

    Source: Wu & He 2018.
    """
    if len(input._shape) < 2:
        raise RuntimeError(
            f"Expected at least 2 dimensions for input tensor but received {len(input._shape)}"
        )
    if num_groups > 0:
        _several((input._shape[0] * input._shape[1] // num_groups, num_groups, *input._shape[2:]))
    return torch_group_norm(input, num_groups, weight, bias, eps)


def _instance_norm(
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    use_input_stats: bool,
    momentum: float,
    eps: float,
) -> Any:
    if not use_input_stats:
        if running_mean is None or running_var is None:
            raise RuntimeError(
                "Expected running_mean and running_var to be defined when use_input_stats is false"
            )
        return _batch_norm(input, weight, bias, running_mean, running_var, False, momentum, eps)
    x0 = read(input)
    n, c = x0.shape[:2]
    for t, name in (
        (running_mean, "running_mean"),
        (running_var, "running_var"),
        (weight, "weight"),
        (bias, "bias"),
    ):
        _match(t, name, c)
    if not n * c:  # no means to move running ones by
        return result(P.alias(x0), input)
    x = wide(x0)
    dims = tuple(range(2, len(x.shape)))
    row = (1, c, *(1,) * len(dims))
    m, v = moments(x, dims)
    w, b = _affine(weight, x.dtype, row), _affine(bias, x.dtype, row)
    y = normalized(x, m, reciprocal_deviation(v, eps), w, b, dims)
    with grad_mode(False):
        means, variances = _mean(P.detach(m), (0,)), _mean(P.detach(v), (0,))
        _running(running_mean, running_var, means, variances, x.size // (n * c), momentum)
    return dense(P.convert(y, x0.dtype), input)


@public("instance_norm", method=False)
def torch_instance_norm(
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Any:
    """Return input normalised for each sample and channel over space."""
    return _instance_norm(input, weight, bias, running_mean, running_var, use_input_stats, momentum, eps)


@public(module="nn.functional", method=False)
def instance_norm(
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Return input normalised for each sample and channel over space. Shapes: (N, C, *), parameters (C).

    Source: Ulyanov, Vedaldi & Lempitsky 2016.
    """
    if use_input_stats and math.prod(input._shape[2:]) == 1:
        raise ValueError(
            "Expected more than 1 spatial element when training, got input size "
            f"torch.Size({list(input._shape)})"
        )
    return _instance_norm(input, weight, bias, running_mean, running_var, use_input_stats, momentum, eps)


@public(module="nn.functional", method=False)
def local_response_norm(
    input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Any:
    """Return input / (k + alpha * mean of squares over `size` neighbouring channels) ** beta.

    Source: Krizhevsky, Sutskever & Hinton 2012.
    """
    x = read(input)
    n = len(x.shape)
    if n < 3:
        raise ValueError(
            f"Expected 3D or higher dimensionality                          input (got {n} dimensions)"
        )
    if not x.size:
        return input
    low = tuple(size // 2 if d == 1 else 0 for d in range(n))
    high = tuple((size - 1) // 2 if d == 1 else 0 for d in range(n))
    around = P.window(P.pad(P.mul(x, x), low, high, 0), (1,), (size,), (1,), (1,))
    total = P.sum_(around, (n,))
    if x.dtype.category < 2:  # integers are averaged as integers, then everything is floating point
        x, total = P.convert(x, dt.get_default()), P.idiv(total, P.num(total, size))
    mean = P.convert(total, x.dtype) if total.dtype is not x.dtype else P.div(total, counted(size, x.dtype))
    base = P.add(P.mul(mean, number(float(alpha), x.dtype)), number(float(k), x.dtype))
    return result(P.div(x, P.pow_(base, number(float(beta), x.dtype))), input)


@public(module="nn.functional", method=False, out=True)
def normalize(input: Any, p: float = 2.0, dim: Any = 1, eps: float = 1e-12) -> Any:
    """Return input / max(p-norm of input along `dim`, eps)."""
    x = read(input)
    dims = wrap_dims(dim, len(x.shape))
    length = norm_node(x, p, dims, True)
    tiny = number(float(eps), length.dtype)
    clamped = with_gradient(
        P.max_(P.detach(length), tiny), lambda g, y, n: [P.where(P.le(tiny, n), g, P.num(g, 0))], length
    )
    y = P.div(x, P.convert(clamped, x.dtype))
    return result(y, input)
