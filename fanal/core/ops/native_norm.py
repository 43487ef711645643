"""torch.native_*_norm: a normalisation together with the statistics that it used."""

from __future__ import annotations

from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import public, read, wide, wrap
from fanal.core.ops.convert import converted
from fanal.core.ops.norm import layer_norm, moments, reciprocal_deviation, torch_batch_norm, torch_group_norm
from fanal.core.ops.pointwise import with_gradient


def _statistics(
    x: Node, dims: tuple[int, ...], shape: tuple[int, ...], eps: float, flows: bool = False
) -> tuple[Any, Any]:
    """Mean and reciprocal deviation over `dims`; PyTorch lets gradients flow through those of groups only."""
    if not x.size:
        return wrap(P.zeros(shape, x.dtype)), wrap(P.zeros(shape, x.dtype))
    m, v = moments(x if flows else P.detach(x), dims)
    found = P.reshape(m, shape), P.reshape(reciprocal_deviation(v, eps), shape)
    a, b = found if flows else (with_gradient(n, lambda g, y, x: [None], x) for n in found)
    return wrap(a), wrap(b)


@public(method=False)
def native_layer_norm(input: Any, normalized_shape: Any, weight: Any, bias: Any, eps: float) -> tuple:
    """Return the layer norm, and the mean and reciprocal deviation of each row."""
    y = layer_norm(input, normalized_shape, weight, bias, eps)
    x = read(input)
    k = len(x.shape) - (1 if isinstance(normalized_shape, int) else len(normalized_shape))
    shape = tuple(n if d < k else 1 for d, n in enumerate(x.shape))
    return (y, *_statistics(x, tuple(range(k, len(x.shape))), shape, eps))


@public(method=False)
def native_group_norm(
    input: Any, weight: Any, bias: Any, N: int, C: int, HxW: int, group: int, eps: float
) -> tuple:
    """Return the group norm, and the mean and reciprocal deviation of each group, of shape (N, group)."""
    y = torch_group_norm(input, group, weight, bias, eps)
    x = P.reshape(read(input), (N, group, (C // group) * HxW))
    return (y, *_statistics(x, (2,), (N, group), eps, True))


@public(method=False, out=True)
def native_batch_norm(
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple:
    """Return the batch norm, and in training the mean and reciprocal deviation of each channel."""
    y = torch_batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps, False)
    x, d = wide(read(input)), input._dtype
    for t in (weight, running_mean):
        d = d if t is None else dt.promote_types(d, t._dtype)  # mixed with float32, statistics are float32
    if not training:
        return y, wrap(P.zeros((0,), d)), wrap(P.zeros((0,), d))
    dims = tuple(k for k in range(len(x.shape)) if k != 1)
    return (y, *(converted(t, d) for t in _statistics(x, dims, (x.shape[1],), eps)))


