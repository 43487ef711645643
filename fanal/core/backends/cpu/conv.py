"""Plans convolutions of one, two or three dimensions: forward, input gradient, weight gradient.

All buffers are C-contiguous: images (N, C, *size), weights (O, C/groups, *kernel). Axes missing in front of the
size are taken as of extent one.
"""
from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from fanal.core.backends.contract import Buf, Kernel, Launch, Temp
from fanal.core.backends.cpu import conv_ir as ir
from fanal.core.backends.cpu import conv_weight_ir as weight_ir
from fanal.core.backends.cpu import conv_wide_ir as wide_ir
from fanal.core.backends.cpu import conv_winograd as winograd
from fanal.core.backends.cpu import target as targets
from fanal.core.backends.cpu.epilogue import Epilogue
from fanal.core.backends.cpu.matmul import (
    TEMP_IDS,
    Operand,
    Problem,
    choose_tile,
    matmul_launches,
    pack_launch,
)
from fanal.core.backends.cpu.target import Target
from fanal.core.base import dtype as dt

_BAND = 1024  # flat positions of a band of output rows: their accumulators stay in the first-level cache
_WEIGHT_BYTES = 512 << 10  # weights a unit goes through: they stay in the second-level cache
_PARTS = 32  # units a weight gradient is divided into when there are images enough
_WIDE_HEIGHTS = {32: 10, 16: 5}  # pixels of a tile in the form for small images: their offsets are in registers
_WIDE_PIXELS = 96  # pixels taken together there, at least
_WIDE_GAIN = 1.1
_FEW_CHANNELS = 4  # output channels to a group below which lanes are better filled with pixels
_PART_BYTES = 64 << 20  # most memory spent on the parts
_GRADIENT_BYTES = 128 << 10  # packed output gradient of a band

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class _Axis:
    """One dimension: output places, and for each tap its index in the kernel and its offset at place 0."""

    size: int  # of the image read
    out: int
    stride: int
    taps: tuple[tuple[int, int], ...]

    @property
    def steps(self) -> list[tuple[int, int]]:
        """Offsets as (whole strides, phase)."""
        return [divmod(offset, self.stride) for _, offset in self.taps]

    @property
    def least(self) -> int:
        return min((e for e, _ in self.steps), default=0)

    @property
    def span(self) -> int:
        return max((e for e, _ in self.steps), default=0) - self.least

    @property
    def phases(self) -> list[int]:
        return sorted({p for _, p in self.steps})

    @property
    def inside(self) -> bool:
        return self.stride == 1 and self.least >= 0 and self.least + self.span + self.out <= self.size


def _three(x: Sequence[int], fill: int) -> Triple:
    return (*(fill,) * (3 - len(x)), *x)  # type: ignore[return-value]


def _check(name: str, *operands: Operand) -> None:
    for x in operands:
        if x.dtype not in (dt.float32, dt.float64):
            raise TypeError(f"{name} kernels take float32 or float64 operands, got {x.dtype}")
        if x.dtype is not operands[0].dtype:
            raise TypeError(f"{name} operands must share a dtype, got {operands[0].dtype} and {x.dtype}")
        if not 3 <= len(x.shape) <= 5:
            raise ValueError(f"{name} kernels take one to three dimensions, got an operand of shape {x.shape}")


def conv_launches(x: Operand, w: Operand, out: Operand, stride: Sequence[int], padding: Sequence[int],
                  dilation: Sequence[int], groups: int, epilogue: Epilogue | None = None,
                  target: Target | None = None) -> list[Temp | Launch]:
    """Return what computes `out = epilogue(conv(x, w))`; in the epilogue rows are channels, columns pixels."""
    target = target or targets.host()
    _check("convolution", x, w, out)
    if 0 in out.shape:
        return []
    pointwise = prod(w.shape[2:]) == 1 and set(stride) == {1} and not any(padding)
    if pointwise:
        return _as_matmul(x, w, out, groups, epilogue, target)
    size, kernel, places = _three(x.shape[2:], 1), _three(w.shape[2:], 1), _three(out.shape[2:], 1)
    steps, pads, spread = _three(stride, 1), _three(padding, 0), _three(dilation, 1)
    axes = [_Axis(size[i], places[i], steps[i], tuple((k, k * spread[i] - pads[i]) for k in range(kernel[i])))
            for i in range(3)]
    channels = x.shape[1]
    flops = 2 * prod(out.shape) * prod(w.shape[1:])
    label = f"conv {'x'.join(map(str, x.shape))} * {'x'.join(map(str, w.shape))} {x.dtype.name}"
    if winograd.fits(channels, w.shape[0], out.shape[2:], w.shape[2:], stride, padding, dilation, groups, x.dtype):
        return winograd.forward(x, w, out, padding, False, epilogue, flops, label, target)
    return _forward(_Convolution(x, w.buf, out, axes, channels // groups, w.shape[0] // groups, groups, (1, 1, 1),
                                 (0, 0, 0), epilogue, flops, label), target)


def _as_matmul(x: Operand, w: Operand, out: Operand, groups: int, epilogue: Epilogue | None,
               target: Target) -> list[Temp | Launch]:
    n, pixels = x.shape[0], prod(x.shape[2:])
    c, m = w.shape[1], w.shape[0] // groups
    a = Operand(w.value_id, w.dtype, (1, groups, m, c), (0, m * c, c, 1), w.offset)
    b = Operand(x.value_id, x.dtype, (n, groups, c, pixels), (groups * c * pixels, c * pixels, pixels, 1), x.offset)
    y = Operand(out.value_id, out.dtype, (n, groups, m, pixels), (groups * m * pixels, m * pixels, pixels, 1),
                out.offset)
    if epilogue is not None and groups > 1:
        # Rows are counted within a group there; an epilogue sees channels.
        raise ValueError("a grouped convolution with a kernel of one takes no epilogue")
    return matmul_launches(a, b, y, epilogue, target)


def input_gradient_launches(g: Operand, w: Operand, out: Operand, stride: Sequence[int], padding: Sequence[int],
                            dilation: Sequence[int], groups: int, epilogue: Epilogue | None = None,
                            target: Target | None = None) -> list[Temp | Launch]:
    """Return what computes the gradient of a convolution by its input (also the transposed convolution).

    g (N, O, *places), w (O, C/groups, *kernel), out (N, C, *size). Each residue of the input coordinates modulo the
    stride is a convolution of its own with stride one, with the taps that reach it. An epilogue needs stride one.
    """
    if epilogue is not None and set(stride) != {1}:
        raise ValueError("the input gradient of a convolution with a stride takes no epilogue")
    target = target or targets.host()
    _check("convolution", g, w, out)
    if 0 in out.shape:
        return []
    size, kernel, places = _three(out.shape[2:], 1), _three(w.shape[2:], 1), _three(g.shape[2:], 1)
    steps, pads, spread = _three(stride, 1), _three(padding, 0), _three(dilation, 1)
    channels, m = w.shape[1], w.shape[0] // groups
    label = f"conv_dx {'x'.join(map(str, g.shape))} * {'x'.join(map(str, w.shape))} {g.dtype.name}"
    if winograd.fits(m, channels, out.shape[2:], w.shape[2:], stride, padding, dilation, groups, g.dtype):
        flops = 2 * prod(g.shape) * prod(w.shape[1:])
        around = [2 - p for p in padding]
        return winograd.forward(g, w, out, around, True, epilogue, flops, label, target)
    result: list[Temp | Launch] = []
    spans = [range(min(s, n)) for s, n in zip(steps, size, strict=True)]
    for residue in itertools.product(spans[0], spans[1], spans[2]):
        axes = []
        for i, r in enumerate(residue):
            reach = [(k, divmod(r + pads[i] - k * spread[i], steps[i])) for k in range(kernel[i])]
            taps = tuple((k, whole) for k, (whole, rest) in reach if rest == 0)
            axes.append(_Axis(places[i], -(-(size[i] - r) // steps[i]), 1, taps))
        taken = [(kz * kernel[1] + ky) * kernel[2] + kx
                 for (kz, _), (ky, _), (kx, _) in itertools.product(*(a.taps for a in axes))]
        flops = 2 * g.shape[0] * groups * channels * m * len(taken) * prod(a.out for a in axes)
        result += _forward(_Convolution(g, w.buf, out, axes, m, channels, groups, steps, residue, epilogue,
                                        flops, label, Mirror(prod(kernel), taken)), target)
    return result


def _in_place(axes: list[_Axis]) -> bool:
    return all(a.inside for a in axes)


def _geometry(axes: list[_Axis], flat: bool, band: int, itemsize: int) -> tuple[Triple, list[int], list[int]]:
    """Return the extents of the flat image, the byte offset of every tap, and five words for every phase."""
    z, y, x = axes
    if not flat:
        taps = [((oz * y.size + oy) * x.size + ox) * itemsize
                for (_, oz), (_, oy), (_, ox) in itertools.product(*(a.taps for a in axes))]
        return (z.size, y.size, x.size), taps, []
    extents = (1 + z.span, band + y.span, x.out + x.span)
    phases = list(itertools.product(z.phases, y.phases, x.phases))
    taps = []
    for (ez, pz), (ey, py), (ex, px) in itertools.product(*(a.steps for a in axes)):
        at = phases.index((pz, py, px)) * extents[0] + ez - z.least
        taps.append(((at * extents[1] + ey - y.least) * extents[2] + ex - x.least) * itemsize)
    table = []
    for pz, py, px in phases:
        low = min(max(0, -x.least), extents[2])
        high = max(low, min(extents[2], (x.size - 1 - px) // x.stride + 1 - x.least))
        table += [pz, py, (low + x.least) * x.stride + px, low, high]
    return extents, taps, table


def _words(axes: list[_Axis], image: Operand, n: int, groups: int, cg: int, m: int, extents: Triple, taps: list[int],
           phases: list[int], flat: bool, band: int) -> dict[int, Buf | int]:
    z, y, x = axes
    plane = y.size * x.size
    return {ir.X: image.buf, ir.N: n, ir.GROUPS: groups, ir.CG: cg, ir.M: m, ir.X_IMAGE: groups * cg * z.size * plane,
            ir.X_CHANNEL: z.size * plane, ir.X_PLANE: plane, ir.X_ROW: x.size, ir.D: z.size, ir.H: y.size,
            ir.SZ: z.stride, ir.SY: y.stride, ir.SX: x.stride, ir.EZ: z.least if flat else 0,
            ir.EY: y.least if flat else 0, ir.DQ: extents[0], ir.HQ: extents[1], ir.WQ: extents[2],
            ir.PHASES: len(phases) // 5, ir.TAPS: len(taps), ir.OD: z.out, ir.OH: y.out, ir.OW: x.out, ir.BAND: band,
            ir.BANDS: -(-y.out // band), ir.PARTS: 1, ir.IMAGES: n}


def _up(x: int, step: int) -> int:
    return -(-x // step) * step


def _band(axes: list[_Axis], width: int, limit: int) -> int:
    """Return the output rows of a band: at most `limit`, with the least work.

    A band costs its panels and about one more for what is done once: copying rows the next band copies again,
    reading the weights.
    """
    _, y, x = axes
    pitch = x.out + x.span

    def cost(rows: int) -> int:
        whole, rest = divmod(y.out, rows)
        of = lambda r: 1 + -(-((r - 1) * pitch + x.out) // width)
        return whole * of(rows) + (of(rest) if rest else 0)
    return min(range(1, max(1, min(limit, y.out)) + 1), key=lambda rows: (cost(rows), -rows))


@dataclass(frozen=True)
class Mirror:
    """That a weight lies as (group, input channel of the convolution, output channel, tap), and the taps taken."""

    taps: int
    taken: list[int]


@dataclass
class _Convolution:
    """A convolution as both forms of its kernel take it; its weight lies as (group, m, cg, taps) but for `mirror`."""

    image: Operand
    weight: Buf
    out: Operand
    axes: list[_Axis]
    cg: int
    m: int
    groups: int
    out_steps: Triple  # outputs are this far apart, from `residue` on
    residue: Triple
    epilogue: Epilogue | None
    flops: int
    label: str
    mirror: Mirror | None = None

    @property
    def count(self) -> int:
        return prod(len(a.taps) for a in self.axes)

    @property
    def line(self) -> int:
        """Elements of a row of the flat image, over all channels, phases and planes."""
        z, y, x = self.axes
        return self.cg * len(z.phases) * len(y.phases) * len(x.phases) * (1 + z.span) * (x.out + x.span)

    def laid_out(self, width: int, target: Target) -> tuple[list[Temp | Launch], Buf]:
        """Return what lays the weight out, and where it is then.

        width 0: rows of (cg, taps) for every output channel; else panels of `width` output channels.
        """
        size, dtype = self.image.dtype.itemsize, self.image.dtype.name
        depth = self.cg * self.count
        panels = -(-self.m // width) if width else 1
        if not self.mirror:
            if not width:
                return [], self.weight
            weight = Operand(self.weight.value_id, self.image.dtype, (), (), self.weight.offset // size)
            batch = [(self.groups, 0, self.m * depth, 0)] if self.groups > 1 else []
            problem = Problem(self.m, self.m, depth, (depth, 1), (1, depth), 0, batch)
            temp, pack, _ = pack_launch(problem, weight, "k", self.image.dtype, width // target.lanes(size),
                                        [self.m * depth] * len(batch), target)
            return [temp, pack], Buf(temp.id)
        temp = Temp(next(TEMP_IDS), max(64, self.groups * depth * (panels * width or self.m) * size))
        name = target.symbol(f"mirror2:{dtype}:{'panels' if width else 'rows'}")
        source = functools.partial(ir.mirror_source, target, name, dtype, bool(width))
        words: list[Buf | int] = [self.weight, Buf(temp.id), self.m, self.cg, self.mirror.taps, self.count,
                                  width or self.m, panels, *self.mirror.taken]
        units = self.groups * (panels if width else self.m)
        launch = Launch(Kernel(name, source), words, units, 0, 0, 2 * temp.nbytes, (self.weight.value_id,), (temp.id,),
                        "transpose weight")
        return [temp, launch], Buf(temp.id)

    def launch(self, spec: ir.ConvSpec, write: Callable[..., str], words: dict[int, Buf | int], tables: list[int],
               units: int, scratch: int, target: Target) -> Launch:
        """Return the launch of a kernel, with the words that say where the output lies added."""
        size, out, groups, m = self.image.dtype.itemsize, self.out, self.groups, self.m
        n = self.image.shape[0]
        d, h, row = _three(out.shape[2:], 1)
        start = out.offset + (self.residue[0] * h + self.residue[1]) * row + self.residue[2]
        words |= {ir.Y: Buf(out.value_id, start * size), ir.Y_IMAGE: groups * m * d * h * row,
                  ir.Y_CHANNEL: d * h * row, ir.Y_Z: self.out_steps[0] * h * row, ir.Y_ROW: self.out_steps[1] * row,
                  ir.Y_COL: self.out_steps[2]}
        args = [words.get(i, 0) for i in range(ir.BASE)]
        name = target.symbol(spec.key + "|" + (self.epilogue.structure if self.epilogue else ""))
        source = functools.partial(write, target, name, spec, self.epilogue)
        weights = words[ir.W]
        assert isinstance(weights, Buf)
        reads, writes, flops, label = [self.image.value_id, weights.value_id], [out.value_id], self.flops, self.label
        if self.count == 0:
            reads.pop()
        if self.epilogue:
            args += self.epilogue.args
            reads += self.epilogue.reads
            writes += self.epilogue.writes
            flops += self.epilogue.flops * prod(out.shape)
            label += " " + self.epilogue.label
        places = n * groups * m * prod(a.out for a in self.axes)
        nbytes = (prod(self.image.shape) + groups * m * self.cg * self.count + places) * size
        return Launch(Kernel(name, source), [*args, *tables], units, scratch, flops, nbytes, tuple(reads),
                      tuple(writes), label)


def _forward(c: _Convolution, target: Target) -> list[Temp | Launch]:
    """Plan a convolution with vectors along the flat image, or along output channels where that wastes less."""
    n, size, m = c.image.shape[0], c.image.dtype.itemsize, c.m
    lanes = target.lanes(size)
    z, y, x = c.axes
    flat = not (_in_place(c.axes) and target.masks)
    pitch = x.out + x.span if flat else x.size
    height, vectors = choose_tile(m, min(_BAND, (y.out - 1) * pitch + x.out), lanes, target.registers)
    height = min(height, m)  # a partial tile goes back to rows before it: there must be some
    width = lanes * vectors
    limit = _BAND // pitch
    if flat and c.line:
        limit = min(limit, target.l2 // 2 // (c.line * size) - y.span)
    band = _band(c.axes, width, limit)
    whole, rest = divmod(y.out, band)
    computed = sum(_up((rows - 1) * pitch + x.out, width) for rows in [band] * whole + [rest] * (rest > 0))
    if c.count and c.out_steps == (1, 1, 1) and m >= lanes:
        plan = _wide(c, y.out * x.out / computed, target)
        if plan is not None:
            return plan
    extents, taps, phases = _geometry(c.axes, flat, band, size)
    wide = _up((band - 1) * extents[2] + x.out, width)
    block = m
    if m * c.cg * c.count * size > _WEIGHT_BYTES:
        block = max(1, _WEIGHT_BYTES // (c.cg * c.count * size) // height) * height
    spec = ir.ConvSpec("forward", height, vectors, c.image.dtype.name, flat, x.stride == 1, c.out_steps[2] != 1)
    pack_at = _up(height * wide * size, 64)
    flat_at = _up(pack_at + c.cg * c.count * 8, 64)
    scratch = flat_at + (_up((c.line * (band + y.span) + width + 2 * lanes) * size, 64) if flat else 0)
    words = _words(c.axes, c.image, n, c.groups, c.cg if c.count else 0, m, extents, taps, phases, flat, band)
    before, weight = c.laid_out(0, target) if c.count else ([], Buf(c.out.value_id))
    words |= {ir.W: weight, ir.BLOCK: block, ir.W_ROW: c.cg * c.count,
              ir.WIDE: wide, ir.FLAT_AT: flat_at, ir.PACK_AT: pack_at}
    units = n * c.groups * z.out * -(-y.out // band) * -(-m // block)
    return [*before, c.launch(spec, ir.forward_source, words, [*taps, *phases], units, scratch, target)]


def _wide(c: _Convolution, useful: float, target: Target) -> list[Temp | Launch] | None:
    """Plan the form for small images, unless the other computes a larger part, `useful`, of what is wanted."""
    n, size, m = c.image.shape[0], c.image.dtype.itemsize, c.m
    lanes = target.lanes(size)
    z, y, x = c.axes
    height, vectors = _WIDE_HEIGHTS[target.registers], 1 if m <= lanes else 2
    width = lanes * vectors
    area = y.out * x.out
    flat = not _in_place(c.axes)
    held = c.line * (y.out + y.span) * size if flat else 1
    most = max(1, min(n, target.l2 // 2 // held, -(-2 * _WIDE_PIXELS // area)))
    least = min(most, -(-_WIDE_PIXELS // area))
    images = min(range(least, most + 1), key=lambda i: (_up(i * area, height) / (i * area), i))
    if area * images / _up(area * images, height) * m / _up(m, width) < useful * _WIDE_GAIN:
        return None
    before, weight = c.laid_out(width, target)
    depth = c.cg * c.count
    parts = -(-n // images)
    extents, taps, phases = _geometry(c.axes, flat, y.out, size)
    spec = ir.ConvSpec("wide", height, vectors, c.image.dtype.name, flat, x.stride == 1)
    wide = _up(images * area, lanes) + lanes
    at, scratch = {}, height * width * size
    for word, nbytes in ((ir.SUMS_AT, width * wide * size), (ir.PACK_AT, depth * 8),
                         (ir.PIXELS_AT, (images * area + height) * 8),
                         (ir.FLAT_AT, images * held + 4 * lanes * size if flat else 0)):
        at[word] = scratch
        scratch = _up(scratch + nbytes, 64)
    words = _words(c.axes, c.image, n, c.groups, c.cg, m, extents, taps, phases, flat, y.out)
    words |= {ir.W: weight, ir.WIDE: wide, ir.PARTS: parts, ir.IMAGES: images, **at}
    units = z.out * parts * c.groups * -(-m // width)
    return [*before, c.launch(spec, wide_ir.wide_source, words, [*taps, *phases], units, scratch, target)]


def weight_gradient_launches(g: Operand, x: Operand, out: Operand, stride: Sequence[int], padding: Sequence[int],
                             dilation: Sequence[int], groups: int, target: Target | None = None) -> list[Temp | Launch]:
    """Return what computes the gradient of a convolution by its weight: g (N, O, *places), x (N, C, *size)."""
    target = target or targets.host()
    _check("convolution", g, x, out)
    if 0 in out.shape:
        return []
    size, kernel, places = _three(x.shape[2:], 1), _three(out.shape[2:], 1), _three(g.shape[2:], 1)
    steps, pads, spread = _three(stride, 1), _three(padding, 0), _three(dilation, 1)
    axes = [_Axis(size[i], places[i], steps[i], tuple((k, k * spread[i] - pads[i]) for k in range(kernel[i])))
            for i in range(3)]
    label = f"conv_dw {'x'.join(map(str, g.shape))} * {'x'.join(map(str, x.shape))} {x.dtype.name}"
    if winograd.fits(x.shape[1], g.shape[1], g.shape[2:], out.shape[2:], stride, padding, dilation, groups, x.dtype):
        return winograd.weight_gradient(g, x, out, padding, label, target)
    n, item = x.shape[0], x.dtype.itemsize
    lanes = target.lanes(item)
    cg, m, taps_count = out.shape[1], out.shape[0] // groups, prod(kernel)
    total = cg * taps_count
    dot = m <= _FEW_CHANNELS
    flat = not _in_place(axes)
    most = (10 if target.registers == 32 else 5) if not dot else (16 if target.registers == 32 else 9)
    height = min(range(max(1, min(most - 2, total)), min(most, total) + 1), key=lambda h: (-(-total // h) * h, -h))
    vectors = 1 if dot or m <= lanes else 2
    wide = m * lanes if dot else _up(m, lanes * vectors)  # elements kept for an input channel and tap
    z, y, xa = axes

    # Blocks of input channels whose sums stay in cache, parts of the images to have enough units.
    block = cg if dot else max(1, min(cg, _WEIGHT_BYTES // 2 // (taps_count * wide * item)))
    blocks = -(-cg // block)
    one = groups * total * wide
    parts = max(1, min(n, -(-_PARTS // (groups * blocks)), _PART_BYTES // (one * item)))
    images = -(-n // parts)
    parts = -(-n // images)
    line = block * len(z.phases) * len(y.phases) * len(xa.phases) * (1 + z.span) * (xa.out + xa.span) * item
    packed = 0 if dot else xa.out * wide * item
    limit = _GRADIENT_BYTES // packed if packed else y.out
    if flat:
        limit = min(limit, target.l2 // 4 // line - y.span)
    band = max(1, min(limit, y.out))
    band = -(-y.out // -(-y.out // band))
    extents, taps, phases = _geometry(axes, flat, band, item)
    temp = Temp(next(TEMP_IDS), parts * one * item)
    spec = ir.ConvSpec("dot" if dot else "weight", height, vectors, x.dtype.name, flat, xa.stride == 1)
    table_at = _up(band * packed, 64)
    flat_at = _up(table_at + (block * taps_count + height) * 8, 64)
    scratch = flat_at + (_up(line * (band + y.span) + 4 * lanes * item, 64) if flat else 0)
    words = _words(axes, x, n, groups, cg, m, extents, taps, phases, flat, band)
    plane = prod(places)
    words |= {ir.W: g.buf, ir.Y: Buf(temp.id), ir.Y_IMAGE: groups * m * plane, ir.Y_CHANNEL: plane,
              ir.Y_Z: places[1] * places[2], ir.Y_ROW: places[2], ir.Y_COL: 1, ir.BLOCK: block, ir.W_ROW: table_at,
              ir.WIDE: wide, ir.FLAT_AT: flat_at, ir.PACK_AT: 0, ir.PARTS: parts, ir.IMAGES: images}
    name = target.symbol(spec.key)
    write = weight_ir.dot_source if dot else weight_ir.weight_source
    sums = Launch(Kernel(name, functools.partial(write, target, name, spec)),
                  [*(words.get(i, 0) for i in range(ir.BASE)), *taps, *phases], parts * groups * blocks, scratch,
                  2 * prod(g.shape) * total, (prod(g.shape) + prod(x.shape) + parts * one) * item,
                  (g.value_id, x.value_id), (temp.id,), label)
    which = "sumlanes" if dot else "sumparts"
    name = target.symbol(f"{which}2:{x.dtype.name}")
    write_sum = weight_ir.sum_lanes_source if dot else weight_ir.sum_parts_source
    sum_blocks = -(-total // lanes)
    rest = [] if dot else [total, m, wide, sum_blocks]
    add = Launch(Kernel(name, functools.partial(write_sum, target, name, x.dtype.name)),
                 [Buf(temp.id), out.buf, parts, one, *rest], prod(out.shape) if dot else groups * sum_blocks,
                 lanes * lanes * item,
                 parts * one, (parts * one + prod(out.shape)) * item, (temp.id,), (out.value_id,),
                 f"{label}: add up parts")
    return [temp, sums, add]
