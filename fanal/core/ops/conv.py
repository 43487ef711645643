"""Convolutions and transposed convolutions over one, two or three dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.base.shape import Shape
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import public, read, wide
from fanal.core.ops.matmul import biased
from fanal.core.ops.reduce import wrap_like

_PATCH_CHANNELS = 32  # of the result: for fewer, gathering the input costs as much as the faster product saves


def expand(x: Any, n: int, name: str) -> Shape:
    """Return a convolution setting for every dimension.

    Raises PyTorch's error when there are too many or few.
    """
    values = tuple(x) if isinstance(x, (tuple, list)) else (x,)
    if len(values) == 1:
        values = values * n
    if len(values) != n:
        raise RuntimeError(
            f"expected {name} to be a single integer value or a list of {n} values to match the "
            f"convolution dimensions, but got {name}={list(values)}"
        )
    return tuple(int(v) for v in values)


def _check_settings(stride: Shape, padding: Shape, dilation: Shape, groups: int) -> None:
    if min(padding) < 0:
        raise RuntimeError("negative padding is not supported")
    if min(stride) <= 0:
        raise RuntimeError("non-positive stride is not supported")
    if min(dilation) <= 0:
        raise RuntimeError(f"dilation should be greater than zero, but got {list(dilation)}")
    if groups <= 0:
        raise RuntimeError("non-positive groups is not supported")


def _check_rank(input: Any, n: int, name: str) -> None:
    if len(input._shape) not in (n + 1, n + 2):
        raise RuntimeError(
            f"Expected {n + 1}D (unbatched) or {n + 2}D (batched) input to {name}, but got input of size: "
            f"{list(input._shape)}"
        )


def _check_types(input: Any, weight: Any, bias: Any) -> None:
    d = input._dtype
    if len(weight._shape) < 3:
        raise RuntimeError("weight should have at least three dimensions")
    if d is dt.bool_:
        raise NotImplementedError("\"slow_conv2d_cpu\" not implemented for 'Bool'")
    if bias is not None and bias._dtype is not d:
        raise RuntimeError(
            f"Input type ({dt.c_name(d)}) and bias type ({dt.c_name(bias._dtype)}) should be the same"
        )
    if weight._dtype is not d:
        raise RuntimeError(
            f"expected scalar type {dt.scalar_name(d)} but found {dt.scalar_name(weight._dtype)}"
        )


def _check_weight(weight: Shape, x: Shape, bias: Any, groups: int, transposed: bool) -> None:
    if weight[0] < groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be at least {groups} at dimension 0, but got weight "
            f"of size {list(weight)} instead"
        )
    if weight[0] % groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, but got "
            f"weight of size [{list(weight)}] instead"
        )
    wanted, outs = (weight[0], weight[1] * groups) if transposed else (weight[1] * groups, weight[0])
    if x[1] != wanted:
        kind = f"transposed={int(transposed)}" if transposed else f"groups={groups}"
        raise RuntimeError(
            f"Given {kind}, weight of size {list(weight)}, expected input{list(x)} to have {wanted} "
            f"channels, but got {x[1]} channels instead"
        )
    if bias is not None and (len(bias._shape) != 1 or bias._shape[0] != outs):
        given = "transposed=1, " if transposed else ""
        raise RuntimeError(
            f"Given {given}weight of size {list(weight)}, expected bias to be 1-dimensional with {outs} "
            f"elements, but got bias of size {list(bias._shape)} instead"
        )


def _times(xs: Sequence[int]) -> str:
    return "(" + " x ".join(map(str, xs)) + ")"


def _add_bias(y: Node, bias: Any, d: dt.dtype) -> Node:
    """Add a bias for each channel and round to `d`."""
    if bias is not None:
        y = P.add(y, P.reshape(wide(read(bias)), (1, y.shape[1], *(1,) * (len(y.shape) - 2))))
    return P.convert(y, d)


def _batched(x: Node, n: int) -> tuple[Node, bool]:
    """Return the value with a batch dimension, and whether it had to be added."""
    return (x, False) if len(x.shape) == n + 2 else (P.reshape(x, (1, *x.shape)), True)


def _finish(y: Node, single: bool, input: Any) -> Any:
    return wrap_like(P.reshape(y, y.shape[1:]) if single else y, input)


def _conv(
    input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int, n: int
) -> Any:
    _check_rank(input, n, f"conv{n}d")
    _check_types(input, weight, bias)
    x, single = _batched(read(input), n)
    w = read(weight)
    k = len(w.shape) - 2
    if k != n:
        stride = expand(stride, n, "stride")
    stride, dilation = expand(stride, k, "stride"), expand(dilation, k, "dilation")
    if isinstance(padding, str):
        x, padding = _padding_by_name(x, w, padding, stride, dilation)
    padding = expand(padding, k, "padding")
    _check_settings(stride, padding, dilation, groups)
    _check_weight(w.shape, x.shape, bias, groups, False)
    padded = tuple(s + 2 * p for s, p in zip(x.shape[2:], padding))
    reach = tuple(d * (s - 1) + 1 for s, d in zip(w.shape[2:], dilation))
    if any(r > s for r, s in zip(reach, padded)):
        raise RuntimeError(
            f"Calculated padded input size per channel: {_times(padded)}. Kernel size: {_times(reach)}. "
            "Kernel size can't be greater than actual input size"
        )
    if stride == w.shape[2:] and groups == 1 and not any(padding) and max(dilation) == 1 and _fills(w):
        return _finish(_patches(x, w, bias), single, input)
    y = P.conv(wide(x), wide(w), stride, padding, dilation, groups)
    return _finish(_add_bias(y, bias, x.dtype), single, input)


def _fills(w: Node) -> bool:
    """Tell whether products with a weight of windows that lie side by side are worth a copy of the input."""
    return w.dtype.is_floating_point and math.prod(w.shape[2:]) > 1 and w.shape[0] >= _PATCH_CHANNELS


def _patches(x: Node, w: Node, bias: Any) -> Node:
    """Convolve with a kernel as large as its stride: every window is a row of a matrix."""
    size = w.shape[2:]
    places = tuple(n // k for n, k in zip(x.shape[2:], size))
    x = P.corner(x, (*x.shape[:2], *(n * k for n, k in zip(places, size))))
    x = P.reshape(x, (*x.shape[:2], *(n for pair in zip(places, size) for n in pair)))
    outer = range(2, len(x.shape), 2)
    x = P.permute(x, (0, *outer, 1, *(d + 1 for d in outer)))
    depth = math.prod(w.shape[1:])
    rows = P.reshape(x, (x.shape[0] * math.prod(places), depth))
    y = biased(rows, P.swap(P.reshape(w, (w.shape[0], depth))), bias)
    return P.permute(P.reshape(y, (x.shape[0], *places, w.shape[0])), (0, len(size) + 1, *range(1, len(size) + 1)))


def _padding_by_name(x: Node, w: Node, padding: str, stride: Shape, dilation: Shape) -> tuple[Node, Shape]:
    """Resolve "same" and "valid". An odd total is padded at the end by a pad of its own, as PyTorch does."""
    n = len(stride)
    if padding == "valid":
        return x, (0,) * n
    if padding != "same":
        raise RuntimeError(f"Invalid padding string: '{padding}'")
    if any(s != 1 for s in stride):
        raise RuntimeError("padding='same' is not supported for strided convolutions")
    total = [d * (k - 1) for k, d in zip(w.shape[2:], dilation)]
    extra = tuple(t % 2 for t in total)
    return P.pad(x, (0,) * (n + 2), (0, 0, *extra), 0), tuple(t // 2 for t in total)


@public(method=False)
@public(module="nn.functional", method=False)
def conv1d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Convolve (N, C, L) with weight (O, C/groups, K). padding: int, tuple, "same" or "valid"."""
    return _conv(input, weight, bias, stride, padding, dilation, groups, 1)


@public(method=False)
@public(module="nn.functional", method=False)
def conv2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Convolve (N, C, H, W) with weight (O, C/groups, KH, KW). padding: int, tuple, "same" or "valid"."""
    return _conv(input, weight, bias, stride, padding, dilation, groups, 2)


@public(method=False)
@public(module="nn.functional", method=False)
def conv3d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Convolve (N, C, D, H, W) with weight (O, C/groups, KD, KH, KW).

    padding: int, tuple, "same" or "valid".
    """
    return _conv(input, weight, bias, stride, padding, dilation, groups, 3)


def _transposed(
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
    n: int,
) -> Any:
    _check_rank(input, n, f"conv_transpose{n}d")
    _check_types(input, weight, bias)
    x, single = _batched(read(input), n)
    w = read(weight)
    k = len(w.shape) - 2
    if k != n:
        stride = expand(stride, n, "stride")
    stride, padding, dilation = (
        expand(stride, k, "stride"),
        expand(padding, k, "padding"),
        expand(dilation, k, "dilation"),
    )
    extra = expand(output_padding, k, "output_padding")
    _check_settings(stride, padding, dilation, groups)
    _check_weight(w.shape, x.shape, bias, groups, True)
    if any(e >= s and e >= d for e, s, d in zip(extra, stride, dilation)):
        names = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}[n]
        parts = [
            f"{what}_{a}: {v}"
            for what, vs in (("output_padding", extra), ("stride", stride), ("dilation", dilation))
            for a, v in zip(names, vs)
        ]
        raise RuntimeError(
            "output padding must be smaller than either stride or dilation, but got " + " ".join(parts)
        )
    whole = tuple(
        (s - 1) * t + d * (r - 1) + 1 for s, t, d, r in zip(x.shape[2:], stride, dilation, w.shape[2:])
    )
    size = tuple(f - 2 * p + e for f, p, e in zip(whole, padding, extra))
    if min(size) < 1:
        raise RuntimeError(
            f"Given input size per channel: {_times(x.shape[2:])}. Calculated output size per channel: "
            f"{_times(size)}. Output size is too small"
        )
    d, x, w = x.dtype, wide(x), wide(w)
    if all(e < s for e, s in zip(extra, stride)):
        y = P.conv_dx(x, w, size, stride, padding, dilation, groups)
    else:  # a convolution of that size would see more places than `input` has: compute all, then cut and pad
        y = P.conv_dx(x, w, whole, stride, (0,) * n, dilation, groups)
        stop = tuple(min(p + s, f) for p, s, f in zip(padding, size, whole))
        y = P.slice_(y, (0, 0, *padding), (*y.shape[:2], *stop), (1,) * (n + 2))
        y = P.pad(y, (0,) * (n + 2), (0, 0, *(s - m for s, m in zip(size, y.shape[2:]))), 0)
    return _finish(_add_bias(y, bias, d), single, input)


@public(method=False)
@public(module="nn.functional", method=False)
def conv_transpose1d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """Apply the transpose of conv1d to (N, C, L), with weight (C, O/groups, K)."""
    return _transposed(input, weight, bias, stride, padding, output_padding, groups, dilation, 1)


@public(method=False)
@public(module="nn.functional", method=False)
def conv_transpose2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """Apply the transpose of conv2d to (N, C, H, W), with weight (C, O/groups, KH, KW)."""
    return _transposed(input, weight, bias, stride, padding, output_padding, groups, dilation, 2)


@public(method=False)
@public(module="nn.functional", method=False)
def conv_transpose3d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """Apply the transpose of conv3d to (N, C, D, H, W), with weight (C, O/groups, KD, KH, KW)."""
    return _transposed(input, weight, bias, stride, padding, output_padding, groups, dilation, 3)


@public(method=False)
def convolution(
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Any:
    """Convolve over as many dimensions as the weight has, or apply the transpose of that."""
    n = len(weight._shape) - 2
    if transposed:
        return _transposed(input, weight, bias, stride, padding, output_padding, groups, dilation, n)
    return _conv(input, weight, bias, stride, padding, dilation, groups, n)


@public(method=False)
@public(module="nn.functional", method=False)
def conv_tbc(input: Any, weight: Any, bias: Any, pad: int = 0) -> Any:
    """Convolve (T, N, C) with weight (K, C, O); the result is (T', N, O)."""
    x, w = P.permute(read(input), (1, 2, 0)), P.permute(read(weight), (2, 1, 0))
    y = _add_bias(P.conv(wide(x), wide(w), (1,), (pad,), (1,), 1), bias, x.dtype)
    return wrap_like(P.permute(y, (2, 0, 1)), input)
