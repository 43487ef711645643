"""Dropout. The mask is a function of a counter, so backward makes it again instead of keeping it."""

from __future__ import annotations

import math
import warnings
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.engine.rng import draw
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node, Shape
from fanal.core.ops.build import assign, counted, public, read, result


def uniform_node(shape: Shape, d: dt.dtype) -> Node:
    """Return numbers in [0, 1), multiples of 2**-24, in dtype `d`."""
    bits = P.shr(draw(shape), P.full((), 8, dt.uint32))
    exact = dt.float64 if d is dt.float64 else dt.float32
    u = P.convert(bits, exact)
    return P.convert(P.mul(u, P.num(u, 2.0**-24)), d)


def kept_mask(shape: Shape, p: float) -> Node:
    """Return a mask that is true with probability 1 - p."""
    u = uniform_node(shape, dt.float32)
    return P.le(counted(p, dt.float32), u)


def _probability(p: float) -> None:
    if p < 0.0 or p > 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")


def dropped(x: Node, p: float, shape: Shape) -> Node:
    """x * mask / (1 - p), the mask drawn for `shape` and broadcast."""
    if p == 1:
        return P.mul(x, P.num(x, 0))
    noise = P.div(P.convert(kept_mask(shape, p), x.dtype), counted(1.0 - p, x.dtype))
    return P.mul(x, noise)


def _drop(input: Any, p: float, training: bool, inplace: bool, shape: Shape) -> Any:
    if p == 0 or not training or not math.prod(input._shape):
        return input
    if input._dtype.category < 2:
        raise RuntimeError(
            f"result type Float can't be cast to the desired output type {dt.scalar_name(input._dtype)}"
        )
    y = dropped(read(input), p, shape)
    return assign(input, y) if inplace else result(y, input)


@public("dropout", method=False, inplace=True)
def torch_dropout(input: Any, p: float, train: bool) -> Any:
    """Return input with elements set to 0 with probability p, and the others divided by 1 - p."""
    if not 0 <= p <= 1:
        raise RuntimeError(f"dropout probability has to be between 0 and 1, but got {p:g}")
    return dropout(input, p, train)


@public(module="nn.functional", method=False)
def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Return input with elements set to 0 with probability p, and the others divided by 1 - p.

    Differs from torch: the random numbers, for the same seed. Source: Srivastava et al. 2014.
    """
    _probability(p)
    return _drop(input, p, training, inplace, input._shape)


def _channels(x: Any, drops: bool = True) -> Shape:
    if drops and len(x._shape) < 2:
        raise RuntimeError("Feature dropout requires at least 2 dimensions in the input")
    return (*x._shape[:2], *(1,) * (len(x._shape) - 2))


@public(method=False, inplace=True)
def feature_dropout(input: Any, p: float, train: bool) -> Any:
    """Return input with whole channels set to 0 with probability p."""
    _probability(p)
    return _drop(input, p, train, False, _channels(input, train and p > 0))


@public(module="nn.functional", method=False)
def dropout1d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Return input with whole channels set to 0. Shapes: (N, C, L) or (C, L)."""
    _probability(p)
    n = len(input._shape)
    if n not in (2, 3):
        raise RuntimeError(
            f"dropout1d: Expected 2D or 3D input, but received a {n}D input. Note that dropout1d exists to "
            "provide channel-wise dropout on inputs with 1 spatial dimension, a channel dimension, and an "
            "optional batch dimension (i.e. 2D or 3D inputs)."
        )
    shape = (input._shape[0], 1) if n == 2 else _channels(input)
    return _drop(input, p, training, inplace, shape)


@public(module="nn.functional", method=False)
def dropout2d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Return input with whole channels set to 0. Shapes: (N, C, H, W); (N, C, L) is treated as by dropout1d."""
    _probability(p)
    n = len(input._shape)
    if n not in (3, 4):
        warnings.warn(
            f"dropout2d: Received a {n}-D input to dropout2d, which is deprecated and will result "
            "in an error in a "
            "future release. To retain the behavior and silence this warning, please use dropout "
            "instead. Note that dropout2d exists to provide channel-wise dropout on inputs with 2 spatial "
            "dimensions, a channel dimension, and an optional batch dimension (i.e. 3D or 4D inputs).",
            stacklevel=3,
        )
    if n == 3:
        warnings.warn(
            "dropout2d: Received a 3D input to dropout2d and assuming that channel-wise 1D "
            "dropout behavior is "
            "desired - input is interpreted as shape (N, C, L), where C is the channel dim. This "
            "behavior will "
            "change in a future release to interpret the input as one without a batch dimension, "
            "i.e. shape (C, H, W). To maintain the 1D channel-wise dropout behavior, please switch to using "
            "dropout1d instead.",
            stacklevel=3,
        )
    return _drop(input, p, training, inplace, _channels(input, training and p > 0))


@public(module="nn.functional", method=False)
def dropout3d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Return input with whole channels set to 0. Shapes: (N, C, D, H, W) or (C, D, H, W)."""
    _probability(p)
    n = len(input._shape)
    if n not in (4, 5):
        warnings.warn(
            f"dropout3d: Received a {n}-D input to dropout3d, which is deprecated and will result "
            "in an error in a "
            "future release. To retain the behavior and silence this warning, please use dropout "
            "instead. Note that dropout3d exists to provide channel-wise dropout on inputs with 3 spatial "
            "dimensions, a channel dimension, and an optional batch dimension (i.e. 4D or 5D inputs).",
            stacklevel=3,
        )
    shape = (input._shape[0], 1, 1, 1) if n == 4 else _channels(input)
    return _drop(input, p, training, inplace, shape)


_ALPHA = 1.7580993408473766  # -scale * alpha of SELU, negated: where dropped units go


def _alpha(input: Any, p: float, training: bool, inplace: bool, shape: Shape) -> Any:
    """Keep mean and variance of SELU activations. Source: Klambauer et al. 2017, "Self-Normalizing Neural Networks"."""
    if p == 0 or not training or not math.prod(input._shape):
        return input
    x = read(input)
    if p == 1:
        y = P.mul(x, P.num(x, 0))
    else:
        a = 1.0 / math.sqrt((_ALPHA * _ALPHA * p + 1) * (1 - p))
        mask = P.convert(kept_mask(shape, p), x.dtype)
        shift = P.add(
            P.mul(P.sub(mask, P.num(x, 1)), counted(_ALPHA * a, x.dtype)), counted(_ALPHA * a * p, x.dtype)
        )
        y = P.add(P.mul(x, P.mul(mask, counted(a, x.dtype))), shift)
    return assign(input, y) if inplace else result(y, input)


@public("alpha_dropout", method=False, inplace=True)
def torch_alpha_dropout(input: Any, p: float, train: bool) -> Any:
    """Return input with elements set to SELU's negative saturation value, rescaled to keep mean and variance."""
    return alpha_dropout(input, p, train)


@public("feature_alpha_dropout", method=False, inplace=True)
def torch_feature_alpha_dropout(input: Any, p: float, train: bool) -> Any:
    """Return input with whole channels set to SELU's negative saturation value, rescaled."""
    return feature_alpha_dropout(input, p, train)


@public(module="nn.functional", method=False)
def alpha_dropout(input: Any, p: float = 0.5, training: bool = False, inplace: bool = False) -> Any:
    """Return input with elements set to SELU's negative saturation value, rescaled to keep mean and variance."""
    _probability(p)
    return _alpha(input, p, training, inplace, input._shape)


@public(module="nn.functional", method=False)
def feature_alpha_dropout(input: Any, p: float = 0.5, training: bool = False, inplace: bool = False) -> Any:
    """Return input with whole channels set to SELU's negative saturation value, rescaled."""
    _probability(p)
    return _alpha(input, p, training, inplace, _channels(input, training and p > 0))
