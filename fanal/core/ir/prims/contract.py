"""Contractions: matrix products and convolutions, each closed under differentiation."""

from __future__ import annotations

import math

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.shape import Shape, broadcast_shapes
from fanal.core.ir.prims.batching import convolving, matrices
from fanal.core.ir.prims.point import conj, convert
from fanal.core.ir.prims.view import permute, sum_to
from fanal.core.ir.program import Node
from fanal.core.ir.row import Row, kept, prim


def swap(x: Node) -> Node:
    """Transpose the last two dimensions."""
    n = len(x.shape)
    return permute(x, (*range(n - 2), n - 1, n - 2))


def _acc(*xs: np.ndarray) -> list[np.ndarray]:
    a = dt.ACCUMULATE.get(dt.from_numpy(xs[0].dtype))
    return [x.astype(a.np) for x in xs] if a else list(xs)


def _dot_ref(a: np.ndarray, b: np.ndarray, to: dt.dtype | None = None) -> np.ndarray:
    if to is not None:
        return np.matmul(a.astype(to.np), b.astype(to.np))
    wa, wb = _acc(a, b)
    if a.dtype == bool:
        return np.matmul(a.astype(np.int32), b.astype(np.int32)) > 0
    with np.errstate(all="ignore"):
        return np.matmul(wa, wb).astype(a.dtype)


# (..., M, K) x (..., K, N) -> (..., M, N); batch dimensions broadcast; equal rank. Sums of 8-bit integers and 16-bit
# floats may be asked for in the type in which they are added up: dot(a, b, int32).
dot: Row = prim(
    "dot",
    kind="contract",
    arity=2,
    dtype=lambda i, p: p[0] if p else kept(i, p),
    ref=_dot_ref,
    shape=lambda i, p: (*broadcast_shapes(i[0].shape[:-2], i[1].shape[:-2]), i[0].shape[-2], i[1].shape[-1]),
    grad=lambda g, y, a, b, *_: [
        sum_to(dot(convert(g, a.dtype), conj(swap(b))), a.shape) if a.varies else None,
        sum_to(dot(conj(swap(a)), convert(g, b.dtype)), b.shape) if b.varies else None,
    ],
    batch=matrices,
    code=None,
    flops=lambda i, p: (
        2
        * math.prod(broadcast_shapes(i[0].shape[:-2], i[1].shape[:-2]))
        * i[0].shape[-2]
        * i[0].shape[-1]
        * i[1].shape[-1]
    ),
)


def conv_size(n: int, k: int, stride: int, padding: int, dilation: int) -> int:
    """Return the number of places a kernel takes along one dimension."""
    return (n + 2 * padding - dilation * (k - 1) - 1) // stride + 1


def _conv_shape(i: tuple, p: tuple) -> Shape:
    x, w = i
    stride, padding, dilation, groups = p
    return (
        x.shape[0],
        w.shape[0],
        *(
            conv_size(n, k, s, q, d)
            for n, k, s, q, d in zip(x.shape[2:], w.shape[2:], stride, padding, dilation)
        ),
    )


def _patches(x: np.ndarray, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape) -> np.ndarray:
    """Return (N, C, *out, *kernel) windows of the zero-padded input."""
    x = np.pad(x, [(0, 0), (0, 0)] + [(q, q) for q in padding]) if any(padding) else np.ascontiguousarray(x)
    out = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(x.shape[2:], kernel, stride, dilation)]
    return np.lib.stride_tricks.as_strided(
        x,
        (*x.shape[:2], *out, *kernel),
        (
            *x.strides[:2],
            *(a * s for a, s in zip(x.strides[2:], stride)),
            *(a * d for a, d in zip(x.strides[2:], dilation)),
        ),
    )


def _letters(n: int) -> tuple[str, str]:
    return "xyz"[:n], "uvw"[:n]


def _conv_ref(
    x: np.ndarray, w: np.ndarray, stride: Shape, padding: Shape, dilation: Shape, groups: int
) -> np.ndarray:
    wx, ww = _acc(x, w)
    p = _patches(wx, w.shape[2:], stride, padding, dilation)
    o, k = _letters(len(stride))
    p = p.reshape(p.shape[0], groups, p.shape[1] // groups, *p.shape[2:])
    ww = ww.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    y = np.einsum(f"ngc{o}{k},gmc{k}->ngm{o}", p, ww, optimize=True)
    return y.reshape(y.shape[0], ww.shape[0] * ww.shape[1], *y.shape[3:]).astype(x.dtype)


def _conv_dw_ref(
    g: np.ndarray, x: np.ndarray, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape, groups: int
) -> np.ndarray:
    wg, wx = _acc(g, x)
    p = _patches(wx, kernel, stride, padding, dilation)
    o, k = _letters(len(stride))
    crop = (slice(None), slice(None), *(slice(0, n) for n in g.shape[2:]))
    p = p[crop]
    p = p.reshape(p.shape[0], groups, p.shape[1] // groups, *p.shape[2:])
    wg = wg.reshape(g.shape[0], groups, g.shape[1] // groups, *g.shape[2:])
    y = np.einsum(f"ngc{o}{k},ngm{o}->gmc{k}", p, wg, optimize=True)
    return y.reshape(g.shape[1], *y.shape[2:]).astype(x.dtype)


def _conv_dx_ref(
    g: np.ndarray, w: np.ndarray, size: Shape, stride: Shape, padding: Shape, dilation: Shape, groups: int
) -> np.ndarray:
    wg, ww = _acc(g, w)
    o, k = _letters(len(stride))
    n, kernel = g.shape[0], w.shape[2:]
    wg = wg.reshape(n, groups, g.shape[1] // groups, *g.shape[2:])
    ww = ww.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    p = np.einsum(f"ngm{o},gmc{k}->ngc{o}{k}", wg, ww, optimize=True)
    out = np.zeros((n, groups, w.shape[1], *(s + 2 * q for s, q in zip(size, padding))), wg.dtype)
    for offset in np.ndindex(*kernel):
        at = tuple(
            slice(u * d, u * d + s * (m - 1) + 1, s)
            for u, d, s, m in zip(offset, dilation, stride, g.shape[2:])
        )
        out[(slice(None),) * 3 + at] += p[(..., *offset)]
    out = out[(slice(None),) * 3 + tuple(slice(q, q + s) for s, q in zip(size, padding))]
    return np.ascontiguousarray(out).reshape(n, groups * w.shape[1], *size).astype(g.dtype)


# x (N, C, *size), w (O, C/groups, *kernel) -> (N, O, *out); parameters: stride, padding, dilation (tuples), groups.
conv: Row = prim(
    "conv",
    kind="contract",
    arity=2,
    dtype=kept,
    ref=_conv_ref,
    shape=_conv_shape,
    grad=lambda g, y, x, w, s, q, d, n: [
        conv_dx(g, conj(w), x.shape[2:], s, q, d, n) if x.varies else None,
        conv_dw(g, conj(x), w.shape[2:], s, q, d, n) if w.varies else None,
    ],
    batch=convolving,
    code=None,
    flops=lambda i, p: 2 * math.prod(_conv_shape(i, p)) * math.prod(i[1].shape[1:]),
)
# The gradient of conv by its input: g (N, O, *out), w -> (N, C, *size); also the transposed convolution.
conv_dx: Row = prim(
    "conv_dx",
    kind="contract",
    arity=2,
    dtype=kept,
    ref=_conv_dx_ref,
    shape=lambda i, p: (i[0].shape[0], i[1].shape[1] * p[4], *p[0]),
    grad=lambda g, y, x, w, size, s, q, d, n: [
        conv(g, conj(w), s, q, d, n) if x.varies else None,
        conv_dw(conj(x), g, w.shape[2:], s, q, d, n) if w.varies else None,
    ],
    batch=convolving,
    code=None,
    flops=lambda i, p: 2 * i[0].size * math.prod(i[1].shape[1:]),
)
# The gradient of conv by its weight: g (N, O, *out), x (N, C, *size) -> (O, C/groups, *kernel).
conv_dw: Row = prim(
    "conv_dw",
    kind="contract",
    arity=2,
    dtype=kept,
    ref=_conv_dw_ref,
    shape=lambda i, p: (i[0].shape[1], i[1].shape[1] // p[4], *p[0]),
    grad=lambda g, y, x, v, k, s, q, d, n: [
        conv(conj(v), g, s, q, d, n) if x.varies else None,
        conv_dx(conj(x), g, v.shape[2:], s, q, d, n) if v.varies else None,
    ],
    batch=convolving,
    code=None,
    flops=lambda i, p: 2 * i[0].size * (i[1].shape[1] // p[4]) * math.prod(p[0]),
)
