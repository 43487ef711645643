"""Rearranging images: pixel shuffles, patches and back, and sampling at given points."""

from __future__ import annotations

import math
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.base.shape import Shape
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import public, read
from fanal.core.ops.reduce import wrap_like


@public(method=False)
@public(module="nn.functional", method=False)
def pixel_shuffle(input: Any, upscale_factor: int) -> Any:
    """Rearrange (*, C * r * r, H, W) to (*, C, H * r, W * r)."""
    x, r = read(input), int(upscale_factor)
    if len(x.shape) < 3:
        raise RuntimeError(
            "pixel_shuffle expects input to have at least 3 dimensions, but got input with "
            f"{len(x.shape)} dimension(s)"
        )
    if r <= 0:
        raise RuntimeError(f"pixel_shuffle expects a positive upscale_factor, but got {r}")
    *lead, c, h, w = x.shape
    if c % (r * r):
        raise RuntimeError(
            "pixel_shuffle expects its input's 'channel' dimension to be divisible by the square of "
            f"upscale_factor, but input.size(-3)={c} is not divisible by {r * r}"
        )
    n = len(lead)
    y = P.reshape(x, (*lead, c // (r * r), r, r, h, w))
    y = P.permute(y, (*range(n), n, n + 3, n + 1, n + 4, n + 2))
    return wrap_like(P.reshape(y, (*lead, c // (r * r), h * r, w * r)), input)


@public(method=False)
@public(module="nn.functional", method=False)
def pixel_unshuffle(input: Any, downscale_factor: int) -> Any:
    """Rearrange (*, C, H * r, W * r) to (*, C * r * r, H, W)."""
    x, r = read(input), int(downscale_factor)
    if len(x.shape) < 3:
        raise RuntimeError(
            "pixel_unshuffle expects input to have at least 3 dimensions, but got input with "
            f"{len(x.shape)} dimension(s)"
        )
    if r <= 0:
        raise RuntimeError(f"pixel_unshuffle expects a positive downscale_factor, but got {r}")
    *lead, c, h, w = x.shape
    for name, size in (("height", h), ("width", w)):
        if size % r:
            raise RuntimeError(
                f"pixel_unshuffle expects {name} to be divisible by downscale_factor, but input.size("
                f"{-2 if name == 'height' else -1})={size} is not divisible by {r}"
            )
    n = len(lead)
    y = P.reshape(x, (*lead, c, h // r, r, w // r, r))
    y = P.permute(y, (*range(n), n, n + 2, n + 4, n + 1, n + 3))
    return wrap_like(P.reshape(y, (*lead, c * r * r, h // r, w // r)), input)


@public(method=False)
@public("native_channel_shuffle", method=False)
@public(module="nn.functional", method=False)
@public("native_channel_shuffle", module="nn.functional", method=False)
def channel_shuffle(input: Any, groups: int) -> Any:
    """Interleave `groups` groups of the channels of (N, C, *)."""
    x = read(input)
    if len(x.shape) < 3:
        raise RuntimeError(
            f"channel_shuffle expects input with > 2 dims, but got input with sizes {list(x.shape)}"
        )
    if groups <= 0:
        raise RuntimeError(
            f"Number of groups to divide channels in must be positive. Value of groups:{groups}"
        )
    b, c, *rest = x.shape
    if c % groups:
        raise RuntimeError(
            f"Number of channels must be divisible by groups. Got {c} channels and {groups} groups."
        )
    y = P.permute(P.reshape(x, (b, groups, c // groups, *rest)), (0, 2, 1, *range(3, len(rest) + 3)))
    return wrap_like(P.reshape(y, x.shape), input)


def _two(x: Any) -> tuple[int, int]:
    return (int(x[0]), int(x[-1])) if isinstance(x, (tuple, list)) else (int(x), int(x))


def _positive(name: str, values: tuple[int, int], least: int = 1) -> None:
    if min(values) < least:
        word = "non-negative" if least == 0 else "greater than zero"
        raise RuntimeError(
            f"{name} should be {word}, but got {name}_height: {values[0]} {name}_width: {values[1]}"
        )


def _patch_settings(kernel: Any, dilation: Any, padding: Any, stride: Any) -> tuple:
    k, d, p, s = _two(kernel), _two(dilation), _two(padding), _two(stride)
    _positive("kernel", k)
    _positive("dilation", d)
    _positive("padding", p, 0)
    _positive("stride", s)
    return k, d, p, s


def _blocks(size: Shape, k: Shape, d: Shape, p: Shape, s: Shape) -> Shape:
    return tuple((n + 2 * q - e * (m - 1) - 1) // t + 1 for n, m, e, q, t in zip(size, k, d, p, s))


@public("im2col", method=False)
@public(module="nn.functional", method=False)
def unfold(input: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    """Return the patches of (N, C, H, W) as columns: (N, C * KH * KW, L)."""
    k, d, p, s = _patch_settings(kernel_size, dilation, padding, stride)
    x = read(input)
    single = len(x.shape) == 3
    if not (len(x.shape) in (3, 4) and 0 not in x.shape[-3:]):
        raise RuntimeError(
            "Expected 3D or 4D (batch mode) tensor with possibly 0 batch size and other non-zero dimensions "
            f"for input, but got: {list(x.shape)}"
        )
    if single:
        x = P.reshape(x, (1, *x.shape))
    out = _blocks(x.shape[2:], k, d, p, s)
    if min(out) < 1:
        raise RuntimeError(
            f"Given input with spatial size {x.shape[2:]}, kernel_size={k}, dilation={d}, padding={p}, "
            f"calculated shape of the array of sliding blocks as {out}, but its components must be at least "
            "one."
        )
    w = P.window(P.pad(x, (0, 0, *p), (0, 0, *p), 0), (2, 3), k, s, d)
    y = P.reshape(P.permute(w, (0, 1, 4, 5, 2, 3)), (x.shape[0], x.shape[1] * k[0] * k[1], out[0] * out[1]))
    return wrap_like(P.reshape(y, y.shape[1:]) if single else y, input)


@public("col2im", method=False)
@public(module="nn.functional", method=False)
def fold(
    input: Any, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Any:
    """Sum columns (N, C * KH * KW, L) of patches to an image (N, C, *output_size)."""
    k, d, p, s = _patch_settings(kernel_size, dilation, padding, stride)
    size = _two(output_size)
    x = read(input)
    single = len(x.shape) == 2
    if not (len(x.shape) in (2, 3) and 0 not in x.shape[-2:]):
        raise RuntimeError(
            "Expected 2D or 3D (batch mode) tensor for input with possibly 0 batch size and non-zero "
            f"dimensions for input, but got: {list(x.shape)}"
        )
    if single:
        x = P.reshape(x, (1, *x.shape))
    n, rows, columns = x.shape
    if rows % (k[0] * k[1]):
        raise RuntimeError(
            "Expected size of input's dimension 1 to be divisible by the product of kernel_size, but got "
            f"input.size(1)={rows} and kernel_size={k}."
        )
    out = _blocks(size, k, d, p, s)
    if columns != math.prod(out) or min(out) < 1:
        raise RuntimeError(
            f"Given output_size={size}, kernel_size={k}, dilation={d}, padding={p}, stride={s}, "
            "expected size "
            f"of input's dimension 2 to match the calculated number of sliding blocks {out[0]} * {out[1]} = "
            f"{math.prod(out)}, but got input.size(2)={columns}."
        )
    c = rows // (k[0] * k[1])
    w = P.permute(P.reshape(x, (n, c, *k, *out)), (0, 1, 4, 5, 2, 3))
    whole = (n, c, size[0] + 2 * p[0], size[1] + 2 * p[1])
    y = P.fold(w, whole, (2, 3), k, s, d)
    y = P.slice_(y, (0, 0, *p), (n, c, p[0] + size[0], p[1] + size[1]), (1,) * 4)
    return wrap_like(P.reshape(y, y.shape[1:]) if single else y, input)


@public(method=False)
@public("affine_grid", module="nn.functional", method=False)
def affine_grid_generator(theta: Any, size: Any, align_corners: bool | None = None) -> Any:
    """Return the points (N, H, W, 2) or (N, D, H, W, 3) that an affine map sends a regular grid to."""
    t = read(theta)
    size = tuple(int(s) for s in size)
    if t.dtype.category != 2:
        raise ValueError(f"Expected theta to have floating point type, but got {t.dtype}")
    n = len(size) - 2
    if n not in (2, 3):
        raise NotImplementedError(
            "affine_grid only supports 4D and 5D sizes, for 2D and 3D affine transforms, respectively. "
            f"Got size {size}."
        )
    if len(t.shape) != 3 or t.shape[-2:] != (n, n + 1):
        raise ValueError(
            f"Expected a batch of {n}D affine matrices of shape Nx{n}x{n + 1} for size {size}. Got {t.shape}."
        )
    if min(size) <= 0:
        raise ValueError(f"Expected non-zero, positive output size. Got {size}")
    space = size[2:]
    axes = []
    for i in reversed(range(n)):  # x first
        k = space[i]
        shape = tuple(k if j == i else 1 for j in range(n))
        at = P.iota(shape, i, t.dtype)
        if align_corners:
            step = 2.0 / (k - 1) if k > 1 else 0.0
            line = P.sub(P.mul(at, P.num(at, step)), P.num(at, 1 if k > 1 else 0))
        else:
            line = P.sub(P.div(P.add(P.mul(at, P.num(at, 2)), P.num(at, 1)), P.num(at, k)), P.num(at, 1))
        axes.append(P.reshape(P.broadcast(line, space), (math.prod(space), 1)))
    axes.append(P.full((math.prod(space), 1), 1, t.dtype))
    base = P.reshape(P.concat(tuple(axes), 1), (1, math.prod(space), n + 1))
    y = P.dot(P.broadcast(base, (t.shape[0], *base.shape[1:])), P.swap(t))
    return wrap_like(P.reshape(y, (t.shape[0], *space, n)), theta)


def _unnormalize(x: Node, n: int, align: bool) -> Node:
    """From [-1, 1] to positions of elements."""
    one = P.num(x, 1)
    if align:
        return P.mul(P.div(P.add(x, one), P.num(x, 2)), P.num(x, n - 1))
    return P.div(P.sub(P.mul(P.add(x, one), P.num(x, n)), one), P.num(x, 2))


def _reflect(x: Node, low: float, high: float) -> Node:
    """Reflect positions at both borders (given doubled)."""
    if low == high:
        return P.mul(x, P.num(x, 0))
    least, span = P.num(x, low / 2), P.num(x, (high - low) / 2)
    x = P.abs_(P.sub(x, least))
    extra = P.fmod(x, span)
    flips = P.floor(P.div(P.detach(x), span))
    even = P.eq(P.fmod(flips, P.num(x, 2)), P.num(x, 0))
    return P.where(even, P.add(extra, least), P.add(P.sub(span, extra), least))


def _clip(x: Node, n: int) -> Node:
    """Limit positions to the image; beyond it no gradient flows, nor on its border."""
    zero, top = P.num(x, 0), P.num(x, n - 1)
    inside = P.and_(P.lt(zero, x), P.lt(x, top))
    edge = P.detach(P.min_(top, P.where(P.lt(zero, x), x, zero)))
    return P.where(inside, x, edge)


def _source(x: Node, n: int, padding: str, align: bool) -> Node:
    x = _unnormalize(x, n, align)
    if padding == "border":
        return _clip(x, n)
    if padding == "reflection":
        x = _reflect(x, 0, 2 * (n - 1)) if align else _reflect(x, -1, 2 * n - 1)
        return _clip(x, n)
    return x


def _at(image: Node, where: list[Node], sizes: Shape) -> Node:
    """Return image values (N, C, *) at whole positions (N, *); 0 outside."""
    n, c = image.shape[:2]
    flat = P.reshape(image, (n, c, math.prod(sizes)))
    index: Node | None = None
    valid: Node | None = None
    for w, s in zip(where, sizes):
        w = P.detach(w)
        ok = P.and_(P.le(P.num(w, 0), w), P.le(w, P.num(w, s - 1)))
        valid = ok if valid is None else P.and_(valid, ok)
        whole = P.convert(P.where(ok, w, P.num(w, 0)), dt.int64)
        index = whole if index is None else P.add(P.mul(index, P.full((), s, dt.int64)), whole)
    assert index is not None and valid is not None
    places = math.prod(index.shape[1:])
    wide = P.broadcast(P.reshape(index, (n, 1, places)), (n, c, places))
    seen = P.reshape(P.gather(flat, wide, 2), (n, c, *index.shape[1:]))
    return P.where(P.reshape(valid, (n, 1, *valid.shape[1:])), seen, P.num(seen, 0))


def _cubic(t: Node) -> list[Node]:
    """Weights of the four neighbours at distance t past the second. Source: Keys (1981), a = -0.75."""
    a = -0.75

    def near(x: Node) -> Node:
        return P.add(P.mul(P.mul(P.sub(P.mul(P.num(x, a + 2), x), P.num(x, a + 3)), x), x), P.num(x, 1))

    def far(x: Node) -> Node:
        y = P.sub(P.mul(P.num(x, a), x), P.num(x, 5 * a))
        return P.sub(P.mul(P.add(P.mul(y, x), P.num(x, 8 * a)), x), P.num(x, 4 * a))

    one = P.num(t, 1)
    return [far(P.add(t, one)), near(t), near(P.sub(one, t)), far(P.sub(P.num(t, 2), t))]


def _weighted(image: Node, corners: list, sizes: Shape) -> Node:
    """Sum image values at positions times their weights: corners is [(positions, weight), ...]."""
    total: Node | None = None
    for where, w in corners:
        part = P.mul(_at(image, where, sizes), P.reshape(w, (w.shape[0], 1, *w.shape[1:])))
        total = part if total is None else P.add(total, part)
    assert total is not None
    return total


MODES, PADDINGS = ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")


@public("grid_sampler", method=False)
def grid_sampler(
    input: Any, grid: Any, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> Any:
    """Sample an image at points; modes by number."""
    return grid_sample(input, grid, MODES[interpolation_mode], PADDINGS[padding_mode], align_corners)


@public("grid_sampler_2d", method=False)
def grid_sampler_2d(
    input: Any, grid: Any, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> Any:
    """Sample a flat image at points; modes by number."""
    return grid_sample(input, grid, MODES[interpolation_mode], PADDINGS[padding_mode], align_corners)


@public("grid_sampler_3d", method=False)
def grid_sampler_3d(
    input: Any, grid: Any, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> Any:
    """Sample a volume at points; modes by number."""
    return grid_sample(input, grid, MODES[interpolation_mode], PADDINGS[padding_mode], align_corners)


def _check_grid(x: Node, g: Node, mode: str, padding: str) -> int:
    if mode not in MODES:
        raise ValueError(
            "nn.functional.grid_sample(): expected mode to be 'bilinear', 'nearest' or 'bicubic', but got: "
            f"'{mode}'"
        )
    if padding not in PADDINGS:
        raise ValueError(
            "nn.functional.grid_sample(): expected padding_mode to be 'zeros', 'border', or "
            f"'reflection', but got: '{padding}'"
        )
    n = len(x.shape) - 2
    if n not in (2, 3) or len(g.shape) != n + 2:
        raise RuntimeError(
            "grid_sampler(): expected 4D or 5D input and grid with same number of dimensions, but got input "
            f"with sizes {list(x.shape)} and grid with sizes {list(g.shape)}"
        )
    if x.shape[0] != g.shape[0]:
        raise RuntimeError(
            "grid_sampler(): expected grid and input to have same batch size, but got input with sizes "
            f"{list(x.shape)} and grid with sizes {list(g.shape)}"
        )
    if g.shape[-1] != n:
        raise RuntimeError(
            f"grid_sampler(): expected grid to have size {n} in last dimension, but got grid with sizes "
            f"{list(g.shape)}"
        )
    if 0 in x.shape[2:]:
        raise RuntimeError(
            "grid_sampler(): expected input to have non-empty spatial dimensions, but input has sizes "
            f"{list(x.shape)}"
        )
    if n == 3 and mode == "bicubic":
        raise RuntimeError("grid_sampler(): bicubic interpolation only supports 4D input")
    if x.dtype is not g.dtype:
        raise RuntimeError(
            "grid_sampler(): expected input and grid to have same dtype, but input has "
            f"{dt.scalar_name(x.dtype)} and grid has {dt.scalar_name(g.dtype)}"
        )
    return n


@public(module="nn.functional", method=False)
def grid_sample(
    input: Any,
    grid: Any,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Any:
    """Sample (N, C, H, W) at points (N, H', W', 2) in [-1, 1], x first.

    Or (N, C, D, H, W) at (N, D', H', W', 3).
    """
    x, g = read(input), read(grid)
    n = _check_grid(x, g, mode, padding_mode)
    align, sizes = bool(align_corners), x.shape[2:]
    points = []
    for i in range(n):  # dimension i of the image is coordinate n - 1 - i of the point
        points.append(P.reshape(P.span(g, n + 1, n - 1 - i, n - i), g.shape[:-1]))
    if mode == "bicubic":
        return wrap_like(_grid_cubic(x, points, sizes, padding_mode, align), input)
    points = [_source(p, s, padding_mode, align) for p, s in zip(points, sizes)]
    if mode == "nearest":
        y = _at(x, [P.round_(P.detach(p)) for p in points], sizes)
        # The points receive a gradient of zeros, as in PyTorch, not none.
        nothing = (
            [P.mul(P.where(P.eq(p, p), P.round_(p), P.num(p, 0)), P.num(p, 0)) for p in points]
            if g.varies
            else []
        )
        for p in nothing:
            y = P.add(y, P.reshape(p, (p.shape[0], 1, *p.shape[1:])))
        return wrap_like(y, input)
    floors = [P.floor(P.detach(p)) for p in points]
    corners = []
    for code in range(2**n):
        where, weight = [], None
        for i, (p, f) in enumerate(zip(points, floors)):
            up = code >> (n - 1 - i) & 1
            next_ = P.add(f, P.num(f, 1))
            where.append(next_ if up else f)
            w = P.sub(p, f) if up else P.sub(next_, p)
            weight = w if weight is None else P.mul(weight, w)
        corners.append((where, weight))
    return wrap_like(_weighted(x, corners, sizes), input)


def _grid_cubic(x: Node, points: list[Node], sizes: Shape, padding: str, align: bool) -> Node:
    points = [_unnormalize(p, s, align) for p, s in zip(points, sizes)]
    floors = [P.floor(P.detach(p)) for p in points]
    weights = [_cubic(P.sub(p, f)) for p, f in zip(points, floors)]
    corners = []
    for i in range(4):
        for j in range(4):
            where = [P.add(f, P.num(f, k - 1)) for f, k in zip(floors, (i, j))]
            if padding == "border":
                where = [P.max_(P.min_(w, P.num(w, s - 1)), P.num(w, 0)) for w, s in zip(where, sizes)]
            elif padding == "reflection":
                where = [
                    _clip(_reflect(w, 0, 2 * (s - 1)) if align else _reflect(w, -1, 2 * s - 1), s)
                    for w, s in zip(where, sizes)
                ]
            corners.append((where, P.mul(weights[0][i], weights[1][j])))
    return _weighted(x, corners, sizes)
