"""The primitive of discrete Fourier transforms: to complex, real to half, and half to real, over several dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.shape import Shape
from fanal.core.ir.prims.batching import shifted, up
from fanal.core.ir.prims.point import le, lt, mul, num, real, where
from fanal.core.ir.prims.source import iota
from fanal.core.ir.prims.view import corner, pad, reshape
from fanal.core.ir.program import Node
from fanal.core.ir.row import Row, prim


def _shape(inputs: Sequence[Node], params: tuple) -> Shape:
    kind, _, dims, sizes, _ = params
    out = list(inputs[0].shape)
    for d, n in zip(dims, sizes):
        out[d] = n
    if kind == "half":
        out[dims[-1]] = sizes[-1] // 2 + 1
    return tuple(out)


def _dtype(inputs: Sequence[Node], params: tuple) -> dt.dtype:
    d = inputs[0].dtype
    return d.to_real() if params[0] == "real" else d.to_complex()


def _ref(x: np.ndarray, kind: str, back: bool, dims: Shape, sizes: Shape, scale: float) -> np.ndarray:
    y: np.ndarray
    if kind == "whole":
        y = np.fft.ifftn(x, sizes, dims, norm="forward") if back else np.fft.fftn(x, sizes, dims)
    elif kind == "half":
        y = np.fft.rfftn(x, sizes, dims)
        y = np.conj(y) if back else y
    else:
        y = np.fft.irfftn(x if back else np.conj(x), sizes, dims, norm="forward")
    return y if scale == 1 else y * y.dtype.type(scale)


def _fitted(x: Node, shape: Shape) -> Node:
    """Cut off or pad with zeros at the ends of dimensions."""
    zero = (0,) * len(shape)
    least = tuple(map(min, x.shape, shape))
    x = corner(x, least)
    return x if least == shape else pad(x, zero, tuple(n - k for n, k in zip(shape, least)), 0)


def _grad(
    g: Node, y: Node, x: Node, kind: str, back: bool, dims: Shape, sizes: Shape, scale: float
) -> list[Node | None]:
    last, n = dims[-1], sizes[-1]
    if kind == "real":
        # Every frequency stands for itself and its mirror image, but for 0 and (n even) n / 2.
        h = fft(g, "half", not back, dims, sizes, scale)
        half = h.shape[last]
        at = reshape(iota((half,), 0, dt.int64), tuple(half if d == last else 1 for d in range(len(x.shape))))
        twice = where(lt(num(at, 0), at), le(at, num(at, (n - 1) // 2)), lt(at, num(at, 0)))
        h = where(twice, mul(h, num(h, 2)), h)
    else:  # of a half spectrum, the missing half has no gradient
        whole = tuple(n if d == last else k for d, k in enumerate(g.shape))
        h = fft(_fitted(g, whole), "whole", not back, dims, sizes, scale)
    return [_fitted(h if x.dtype.is_complex else real(h), x.shape)]


# Transforms over `dims`, times `scale`. Parameters: kind, back, dims, sizes, scale. exp(-2 pi i jk/n), or exp(2 pi i
# jk/n) if `back`; each dimension is first cut, or padded with zeros, to its size n. "whole": to complex values. "half":
# of real values, frequencies 0 ... n/2 of the last of `dims` alone. "real": from such a half to the n real values.
fft: Row = prim(
    "fft",
    kind="opaque",
    shape=_shape,
    dtype=_dtype,
    ref=_ref,
    grad=_grad,
    batch=shifted(lambda size, kind, back, dims, sizes, scale: (kind, back, up(dims), sizes, scale)),
    code=None,
    flops=lambda i, p: int(5 * i[0].size * max(1.0, math.log2(max(2, math.prod(p[3]))))),
)
