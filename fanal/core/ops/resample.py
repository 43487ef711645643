"""Resizing images.

Nearest, linear and cubic interpolation along each dimension, with antialiasing if wanted.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.dim import fixed, whole
from fanal.core.base.shape import Shape
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.adaptive_pool import adaptive_average
from fanal.core.ops.build import public, read, tabled, unsupported
from fanal.core.ops.reduce import wrap_like

LINEAR = {"linear": 1, "bilinear": 2, "trilinear": 3}
NEAREST = ("nearest", "nearest-exact")
ALIGNABLE = "linear | bilinear | bicubic | trilinear"


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Return the cubic convolution kernel. Source: Keys, "Cubic convolution interpolation" (1981)."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0)).astype(x.dtype)


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _step(n: int, out: int, align: bool, scale: float | None) -> float:
    """Return how far apart in the input two neighbours of the output are."""
    if align:
        return (n - 1) / (out - 1) if out > 1 else 0.0
    return 1.0 / scale if scale is not None and scale > 0 else n / out


@functools.lru_cache(512)
def table(
    kind: str, n: int, out: int, align: bool, scale: float | None, antialias: bool, real: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return (out, K) positions in the input and their weights, or None for weights of one."""
    f = np.dtype(real).type
    if kind in NEAREST:
        step = np.float32(_step(n, out, False, scale))
        at = np.arange(out, dtype=np.float32)
        at = np.floor((at + np.float32(0.5)) * step if kind == "nearest-exact" else at * step)
        return np.minimum(at.astype(np.int64), n - 1)[:, None].copy(), None
    step = f(_step(n, out, align, scale))
    i = np.arange(out, dtype=f)
    if antialias:
        return _antialiased(kind, n, out, float(step), f)
    source = step * i if align else step * (i + f(0.5)) - f(0.5)
    if kind == "cubic":
        first = np.floor(source)
        t = (source - first)[:, None]
        at = first.astype(np.int64)[:, None] + np.arange(-1, 3)
        return np.clip(at, 0, n - 1), _cubic(t - np.arange(-1, 3, dtype=f), f(-0.75))
    source = np.maximum(source, f(0))
    first = np.minimum(source.astype(np.int64), n - 1)
    t = np.clip(source - first.astype(f), f(0), f(1))
    return np.stack([first, np.minimum(first + 1, n - 1)], 1), np.stack([f(1) - t, t], 1)


def _antialiased(kind: str, n: int, out: int, step: float, f: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return positions and weights of a filter as wide as the step.

    Source: Pillow's resize, which PyTorch follows.
    """
    reach = (2.0 if kind == "cubic" else 1.0) * max(step, 1.0)
    shrink = 1.0 / step if step >= 1.0 else 1.0
    center = step * (np.arange(out) + 0.5)
    first = np.maximum((center - reach + 0.5).astype(np.int64), 0)
    count = np.minimum((center + reach + 0.5).astype(np.int64), n) - first
    k = max(int(count.max(initial=1)), 1)
    offset = np.arange(k)
    x = (offset + first[:, None] - center[:, None] + 0.5) * shrink
    w = np.where(offset < count[:, None], _cubic(x, -0.5) if kind == "cubic" else _triangle(x), 0.0)
    total = w.sum(1, keepdims=True)
    return np.minimum(first[:, None] + offset, n - 1), (w / np.where(total == 0, 1, total)).astype(f)


def _positions(j: int, *args: Any) -> np.ndarray:
    return table(*args)[0][:, j]


def _weights(j: int, *args: Any) -> np.ndarray:
    return table(*args)[1][:, j]  # type: ignore[index]


def _reach(kind: str, n: int, out: int, align: bool, scale: float | None, antialias: bool, real: str) -> int:
    """Return how many positions an element is made of."""
    if antialias:
        return table(kind, *fixed((n, out)), align, scale, antialias, real)[0].shape[1]
    return 4 if kind == "cubic" else 2


def resize_along(x: Node, dim: int, at: Sequence[Node], weights: Sequence[Node]) -> Node:
    """Resample one dimension from listed positions with listed weights."""
    shape = tuple(at[0].shape[0] if d == dim else 1 for d in range(len(x.shape)))
    total: Node | None = None
    for positions, several in zip(at, weights, strict=True):
        part = P.mul(P.take(x, positions, dim), P.reshape(several, shape))
        total = part if total is None else P.add(total, part)
    assert total is not None
    return total


def _repeats(args: tuple) -> bool:
    """Tell whether the nearest elements are every element several times."""
    _, n, out, _, scale, *_ = args
    if not n or out % n:
        return False
    k = out // n
    if type(k) is int and not k & k - 1 and scale in (None, k):
        return True  # steps of a power of two are exact
    args = fixed(args)
    return bool((_positions(0, *args) == np.arange(args[2]) // (args[2] // args[1])).all())


def resample(x: Node, size: Shape, kind: str, align: bool, scales: tuple, antialias: bool) -> Node:
    """Resize the last dimensions. kind: nearest, nearest-exact, linear or cubic."""
    d = x.dtype
    n = len(size)
    if kind in NEAREST:
        lead, old = x.shape[:-n], x.shape[-n:]
        args = [(kind, m, o, False, s, False, "float32") for m, o, s in zip(old, size, scales)]
        if all(map(_repeats, args)):
            ones = tuple(k for m in old for k in (m, 1))
            many = tuple(k for m, o in zip(old, size) for k in (m, o // m))
            return P.reshape(P.broadcast(P.reshape(x, (*lead, *ones)), (*lead, *many)), (*lead, *size))
        for i, a in enumerate(args):
            x = P.take(x, tabled(_positions, (0, *a), (size[i],)), len(lead) + i)
        return x
    if d is dt.uint8:
        return _resample_bytes(x, size, kind, align, scales, antialias)
    wide = dt.ACCUMULATE.get(d, d)
    x = P.convert(x, wide)
    for i in reversed(range(n)):  # along rows first
        dim = len(x.shape) - n + i
        args = kind, x.shape[dim], size[i], align, scales[i], antialias, wide.np.name
        at, w = ([tabled(f, (j, *args), (size[i],)) for j in range(_reach(*args))] for f in (_positions, _weights))
        x = resize_along(x, dim, at, w)
    return P.convert(x, d)


def _fixed(at: np.ndarray, weights: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return positions, whole weights and their precision in bits, as 16-bit integers can hold them."""
    first = at[:, :1]
    k = int((at - first).max()) + 1
    merged = np.zeros((len(at), k))
    np.add.at(
        merged, (np.arange(len(at))[:, None], at - first), weights
    )  # the border counts for all beyond it
    top, bits = float(merged.max()), 0
    while bits < 22 and int(0.5 + top * (1 << bits + 1)) < 1 << 15:
        bits += 1
    scaled = merged * (1 << bits)
    whole = np.trunc(scaled + np.where(scaled < 0, -0.5, 0.5)).astype(np.int32)
    return np.minimum(first + np.arange(k), n - 1), whole, bits


def _resample_bytes(x: Node, size: Shape, kind: str, align: bool, scales: tuple, antialias: bool) -> Node:
    """Resize bytes in fixed point, rounded to bytes after each dimension. Source: Pillow's resize."""
    for i in reversed(range(len(size))):
        dim = len(x.shape) - len(size) + i
        n = x.shape[dim]
        listed, weights = table(kind, *fixed((n, size[i])), align, scales[i], antialias, "float64")
        assert weights is not None
        at, w, bits = _fixed(listed, weights, n)
        columns = ([P.given(np.ascontiguousarray(c)) for c in a.T] for a in (at, w))
        y = P.add(resize_along(P.convert(x, dt.int32), dim, *columns), P.full((), 1 << bits - 1, dt.int32))
        y = P.shr(y, P.full((), bits, dt.int32))
        x = P.convert(P.min_(P.max_(y, P.num(y, 0)), P.num(y, 255)), dt.uint8)
    return x


def _sizes(x: Shape, size: Any, scale: Any, recompute: Any) -> tuple[Shape, tuple]:
    """Return the size of the result and the scales to compute positions with."""
    n = len(x) - 2
    if size is not None and scale is not None:
        raise ValueError("only one of size or scale_factor should be defined")
    if size is not None:
        if isinstance(size, (tuple, list)):
            if len(size) != n:
                raise ValueError(
                    "Input and output must have the same number of spatial dimensions, but got input with "
                    f"spatial dimensions of {list(x[2:])} and output size of {size}. Please provide input "
                    "tensor in (N, C, d1, d2, ...,dK) format and output size in (o1, o2, ...,oK) format."
                )
            out = tuple(whole(s) for s in size)
        else:
            out = (whole(size),) * n
        if recompute:
            raise ValueError("recompute_scale_factor is not meaningful with an explicit size.")
        return out, (None,) * n
    if scale is None:
        raise ValueError("either size or scale_factor should be defined")
    if isinstance(scale, (tuple, list)):
        if len(scale) != n:
            raise ValueError(
                "Input and scale_factor must have the same number of spatial dimensions, but got input with "
                f"spatial dimensions of {list(x[2:])} and scale_factor of shape {scale}. Please "
                "provide input "
                "tensor in (N, C, d1, d2, ...,dK) format and scale_factor in (s1, s2, ...,sK) format."
            )
        scales = tuple(float(s) for s in scale)
    else:
        scales = (float(scale),) * n
    out = tuple(m * int(s) if s.is_integer() else math.floor(float(m) * s) for m, s in zip(x[2:], scales))
    return out, (None,) * n if recompute else scales


@public(module="nn.functional", method=False)
def interpolate(
    input: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Any:
    """Resize (N, C, *) to `size`, or by `scale_factor`.

    mode: "nearest", "nearest-exact", "area" in 1 to 3 dimensions; "linear", "bilinear", "bicubic",
    "trilinear" in theirs.
    """
    if mode in ("nearest", "area", "nearest-exact"):
        if align_corners is not None:
            raise ValueError(
                "align_corners option can only be set with the interpolating modes: " + ALIGNABLE
            )
    elif align_corners is None:
        align_corners = False
    x = read(input)
    n = len(x.shape) - 2
    out, scales = _sizes(x.shape, size, scale_factor, recompute_scale_factor)
    if antialias and not (mode in ("bilinear", "bicubic") and n == 2):
        raise ValueError(
            "Anti-alias option is restricted to bilinear and bicubic modes and requires a 4-D tensor as input"
        )
    if n not in (1, 2, 3):
        raise NotImplementedError(
            f"Input Error: Only 3D, 4D and 5D input Tensors supported (got {n + 2}D) for the modes: "
            f"nearest | linear | bilinear | bicubic | trilinear | area | nearest-exact (got {mode})"
        )
    wanted = LINEAR.get(mode, 2 if mode == "bicubic" else n)
    if mode not in (*NEAREST, *LINEAR, "bicubic", "area") or (wanted != n and mode == "bicubic"):
        raise NotImplementedError(
            f"Input Error: Only 3D, 4D and 5D input Tensors supported (got {n + 2}D) for the modes: "
            f"nearest | linear | bilinear | bicubic | trilinear | area | nearest-exact (got {mode})"
        )
    if wanted != n:
        raise NotImplementedError(f"Got {n + 2}D input, but {mode} mode needs {wanted + 2}D input")
    if mode == "area":
        return adaptive_average(input, out, n)
    if any(n <= 0 for n in out) or 0 in x.shape[1:]:
        raise RuntimeError(
            f"Input and output sizes should be greater than 0, but got input (sizes: {list(x.shape[2:])}) "
            f"output (sizes: {list(out)})"
        )
    if x.dtype.category != 2 and not (x.dtype is dt.uint8 and (mode in NEAREST or n == 2)):
        name = {"bicubic": "upsample_bicubic2d"}.get(mode, f"upsample_{mode.replace('-', '_')}{n}d")
        raise unsupported(name, x.dtype)
    kind = mode if mode in NEAREST else "cubic" if mode == "bicubic" else "linear"
    return wrap_like(resample(x, out, kind, bool(align_corners), scales, antialias), input)


@public(module="nn.functional", method=False)
def upsample(
    input: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Any:
    """Resize; the former name of interpolate."""
    warnings.warn(
        "`nn.functional.upsample` is deprecated. Use `nn.functional.interpolate` instead.", stacklevel=2
    )
    return interpolate(input, size, scale_factor, mode, align_corners)


@public(module="nn.functional", method=False)
def upsample_nearest(input: Any, size: Any = None, scale_factor: Any = None) -> Any:
    """Resize by the nearest neighbour."""
    warnings.warn(
        "`nn.functional.upsample_nearest` is deprecated. Use `nn.functional.interpolate` instead.",
        stacklevel=2,
    )
    return interpolate(input, size, scale_factor, "nearest")


@public(module="nn.functional", method=False)
def upsample_bilinear(input: Any, size: Any = None, scale_factor: Any = None) -> Any:
    """Resize linearly, corners on corners."""
    warnings.warn(
        "`nn.functional.upsample_bilinear` is deprecated. Use `nn.functional.interpolate` instead.",
        stacklevel=2,
    )
    return interpolate(input, size, scale_factor, "bilinear", align_corners=True)
