"""The primitive of discrete Fourier transforms: complex, real to half, and half to real, over several
dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.shape import Shape
from fanal.core.ir.prims.batching import shifted, up
from fanal.core.ir.prims.point import le, lt, mul, num, real, where
from fanal.core.ir.prims.source import iota
from fanal.core.ir.prims.view import pad, reshape
from fanal.core.ir.program import Node
from fanal.core.ir.row import Row, prim


def _shape(inputs: Sequence[Node], params: tuple) -> Shape:
    kind, dims, size = params
    out = list(inputs[0].shape)
    if kind in ("half", "real"):
        out[dims[-1]] = size // 2 + 1 if kind == "half" else size
    return tuple(out)


def _dtype(inputs: Sequence[Node], params: tuple) -> dt.dtype:
    d = inputs[0].dtype
    return d.to_complex() if params[0] == "half" else d.to_real() if params[0] == "real" else d


def _ref(x: np.ndarray, kind: str, dims: Shape, size: int) -> np.ndarray:
    if kind == "forward":
        return np.fft.fftn(x, axes=dims)
    if kind == "back":
        return np.fft.ifftn(x, axes=dims, norm="forward")
    if kind == "half":
        return np.fft.rfftn(x, axes=dims)
    lengths = [x.shape[d] for d in dims[:-1]] + [size]
    return np.fft.irfftn(x, lengths, dims, norm="forward")


def _grad(g: Node, y: Node, x: Node, kind: str, dims: Shape, size: int) -> list[Node | None]:
    if kind in ("forward", "back"):
        return [fft(g, "back" if kind == "forward" else "forward", dims, size)]
    last, n = dims[-1], size
    if kind == "half":  # the missing half has no gradient
        zero = (0,) * len(g.shape)
        high = tuple(n - g.shape[d] if d == last else 0 for d in range(len(g.shape)))
        return [real(fft(pad(g, zero, high, 0), "back", dims, n))]
    # Every frequency stands for itself and its mirror image, but for 0 and (n even) n / 2.
    half = x.shape[last]
    at = reshape(iota((half,), 0, dt.int64), tuple(half if d == last else 1 for d in range(len(x.shape))))
    h = fft(g, "half", dims, n)
    twice = where(lt(num(at, 0), at), le(at, num(at, (n - 1) // 2)), lt(at, num(at, 0)))
    return [where(twice, mul(h, num(h, 2)), h)]


# Unscaled transforms over `dims`. Parameters: kind, dims, n. "forward": exp(-2 pi i jk/n), and "back": exp(2
# pi i jk/n), of complex values. "half": forward, of real values, frequencies 0 ... n/2 of the last of `dims`
# alone. "real": the inverse of that, from the half to the n real values. Source: Cooley & Tukey (1965),
# through NumPy's pocketfft.
fft: Row = prim(
    "fft",
    kind="opaque",
    shape=_shape,
    dtype=_dtype,
    ref=_ref,
    grad=_grad,
    batch=shifted(lambda size, kind, dims, n: (kind, up(dims), n)),
    code=None,
    flops=lambda i, p: int(
        5 * i[0].size * max(1.0, math.log2(max(2, math.prod(i[0].shape[d] for d in p[1]))))
    ),
)
