"""Plans 3 x 3 convolutions by minimal filtering: when it pays, and how much of the work a unit takes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from math import prod

from fanal.core.backends.contract import Buf, Kernel, Launch, Temp
from fanal.core.backends.cpu import conv_weight_ir as weight_ir
from fanal.core.backends.cpu import conv_winograd_dw_ir as dw_ir
from fanal.core.backends.cpu import conv_winograd_ir as ir
from fanal.core.backends.cpu.epilogue import Epilogue
from fanal.core.backends.cpu.matmul import TEMP_IDS, Operand
from fanal.core.backends.cpu.target import Target
from fanal.core.base import dtype as dt

_CHANNELS = 16  # of input and output at least: fewer do not repay the transforms
_USEFUL = 0.6  # of the outputs of all tiles, at least
_UNITS = 64  # of a weight gradient at least, if there are as many images
_WEIGHT_TILES = 64  # tiles a weight gradient takes at a time
_C_BLOCK, _M_BLOCK = 64, 128  # channels whose sums are kept in the second-level cache
_PART_BYTES = 64 << 20  # most memory spent on partial sums


def fits(
    c: int,
    m: int,
    out: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    dtype: dt.dtype,
) -> bool:
    """Tell whether a convolution is done in this form. The batch has no say: its size changes no kernel."""
    if (
        tuple(kernel) != (3, 3)
        or set(stride) != {1}
        or set(dilation) != {1}
        or groups != 1
        or max(padding) > 2
    ):
        return False
    covered = prod(n / (n + n % 2) for n in out)
    return dtype is dt.float32 and min(c, m) >= _CHANNELS and covered >= _USEFUL


def _up(x: int, step: int) -> int:
    return -(-x // step) * step


def _spec(kind: str, target: Target, dtype: dt.dtype) -> ir.WinogradSpec:
    return ir.WinogradSpec(kind, 14 if target.registers == 32 else 6, 2, dtype.name)


def _even(total: int, most: int) -> int:
    """Return the size of parts of `total` as even as they can be, none above `most`."""
    most = max(1, min(total, most))
    return -(-total // -(-total // most))


class _Scratch:
    """Places in scratch, each on a line of its own."""

    def __init__(self) -> None:
        self.at: dict[int, int] = {}
        self.nbytes = 0

    def add(self, word: int, nbytes: int) -> None:
        self.at[word] = self.nbytes
        self.nbytes = _up(self.nbytes + nbytes, 64)


def forward(
    x: Operand,
    w: Operand,
    out: Operand,
    padding: Sequence[int],
    mirrored: bool,
    epilogue: Epilogue | None,
    flops: int,
    label: str,
    target: Target,
) -> list[Temp | Launch]:
    """Plan a convolution, or with `mirrored` the input gradient: x is the output gradient then."""
    (n, c), (m, oh, ow) = x.shape[:2], out.shape[1:]
    size = x.dtype.itemsize
    spec = _spec("forward", target, x.dtype)
    lanes = target.lanes(size)
    panel = lanes * spec.vectors
    m_up = _up(m, panel)

    temp = Temp(next(TEMP_IDS), m_up * c * ir.PLACES * size)
    name = target.symbol("weights:" + spec.key)
    steps = (9, 9 * c) if not mirrored else (9 * m, 9)  # of input and output channels
    words: list[Buf | int] = [w.buf, Buf(temp.id), c, m, *steps, *((8, -1) if mirrored else (0, 1))]
    weights = Launch(
        Kernel(name, functools.partial(ir.weights_source, target, name, spec)),
        words,
        m_up // panel * c,
        0,
        28 * m * c,
        prod(w.shape) * size + temp.nbytes,
        (w.value_id,),
        (temp.id,),
        "transform weight",
    )

    th, tw = -(-oh // 2), -(-ow // 2)
    v_row = _up(c, lanes) + lanes  # an odd number of vectors, so that rows do not fall on the same cache sets
    most = max(spec.height, target.l2 * 5 // 8 // (ir.PLACES * size * (v_row + panel)))
    band = _even(th, most // tw)
    images = _even(n, most // (th * tw)) if band == th else 1
    bands, parts = -(-th // band), -(-n // images)
    rows = images * band * tw + spec.height
    pixels = _up(4 * band * tw, lanes)

    scratch = _Scratch()
    scratch.add(ir.STAGE_AT, ((2 * band + 2) * (2 * tw + 2) + lanes) * lanes * size)
    scratch.add(ir.V_AT, ir.PLACES * rows * v_row * size)
    scratch.add(ir.M_AT, ir.PLACES * rows * panel * size)
    scratch.add(ir.OUT_AT, (pixels + lanes) * panel * size)
    scratch.add(ir.TURNED_AT, pixels * panel * size)
    found: dict[int, Buf | int] = {
        ir.W: Buf(temp.id), ir.Y: out.buf, ir.WIDE: pixels, ir.V_ROW: v_row, ir.ROWS: rows,
        ir.IMAGES: images, ir.BAND: band, ir.BANDS: bands, ir.PITCH: 2 * tw,
        **scratch.at, **_shapes(x, c, m, (oh, ow), padding)}  # fmt: skip
    name = target.symbol(spec.key + "|" + (epilogue.structure if epilogue else ""))
    args = [found.get(i, 0) for i in range(ir.BASE)]
    reads, writes = [x.value_id, temp.id], [out.value_id]
    if epilogue is not None:
        args += epilogue.args
        reads += epilogue.reads
        writes += epilogue.writes
        flops += epilogue.flops * prod(out.shape)
        label += " " + epilogue.label
    source: Callable[[], str] = functools.partial(ir.forward_source, target, name, spec, epilogue)
    nbytes = (prod(x.shape) + prod(out.shape)) * size + temp.nbytes
    return [
        temp,
        weights,
        Launch(
            Kernel(name, source),
            args,
            bands * parts * (m_up // panel),
            scratch.nbytes,
            flops,
            nbytes,
            tuple(reads),
            tuple(writes),
            label,
        ),
    ]


def _shapes(
    x: Operand, c: int, m: int, places: Sequence[int], padding: Sequence[int]
) -> dict[int, Buf | int]:
    (n, _, height, width), (oh, ow) = x.shape, places
    return {ir.X: x.buf, ir.N: n, ir.C: c, ir.M: m, ir.H: height, ir.WIDTH: width, ir.OH: oh, ir.OW: ow,
            ir.PY: padding[0], ir.PX: padding[1], ir.X_IMAGE: c * height * width, ir.X_CHANNEL: height * width,
            ir.Y_IMAGE: m * oh * ow, ir.Y_CHANNEL: oh * ow, ir.TW: -(-ow // 2), ir.TH: -(-oh // 2)}  # fmt: skip


def weight_gradient(
    g: Operand, x: Operand, out: Operand, padding: Sequence[int], label: str, target: Target
) -> list[Temp | Launch]:
    """Plan the gradient of a convolution by its weight."""
    (n, m, oh, ow), c = g.shape, x.shape[1]
    size = x.dtype.itemsize
    spec = _spec("weight", target, x.dtype)
    lanes = target.lanes(size)
    panel = lanes * spec.vectors
    th, tw = -(-oh // 2), -(-ow // 2)
    band = _even(th, _WEIGHT_TILES // tw)
    c_block, m_block = _up(_even(c, _C_BLOCK), lanes), _up(_even(m, _M_BLOCK), panel)
    blocks = -(-c // c_block) * -(-m // panel)
    wide = _up(m, panel) + lanes  # an odd number of vectors, as above
    one = 9 * c * wide
    parts = max(1, min(n, -(-_UNITS // blocks), _PART_BYTES // (one * size)))
    images = -(-n // parts)
    parts = -(-n // images)
    v_row, z_row = c_block + lanes, m_block + lanes
    together = max(1, _WEIGHT_TILES // (th * tw)) if band == th else 1
    rows = min(together, n) * band * tw
    temp = Temp(next(TEMP_IDS), parts * one * size)

    scratch = _Scratch()
    sums = (c_block + spec.height) * z_row
    scratch.add(ir.STAGE_AT, ((2 * band + 2) * (2 * tw + 2) + lanes) * lanes * size)
    scratch.add(ir.V_AT, (ir.PLACES * rows * v_row + spec.height) * size)
    scratch.add(ir.Z_AT, ir.PLACES * rows * z_row * size)
    scratch.add(ir.M_AT, ir.PLACES * sums * size)
    found: dict[int, Buf | int] = {
        ir.W: g.buf, ir.Y: Buf(temp.id), ir.BLOCK: m_block, ir.C_BLOCK: c_block, ir.V_ROW: v_row, ir.Z_ROW: z_row,
        ir.ROWS: rows, ir.IMAGES: images, ir.BAND: band, ir.BANDS: -(-th // band), ir.PARTS: parts, ir.WIDE: wide,
        ir.ONE: sums,
        ir.TOGETHER: together, **scratch.at, **_shapes(x, c, m, (oh, ow), padding)}  # fmt: skip
    name = target.symbol(spec.key)
    kernel = Kernel(name, functools.partial(dw_ir.weight_gradient_source, target, name, spec))
    flops = 2 * prod(g.shape) * c * 9
    products = Launch(
        kernel,
        [found.get(i, 0) for i in range(ir.BASE)],
        parts * blocks,
        scratch.nbytes,
        flops,
        (prod(g.shape) + prod(x.shape) + parts * one) * size,
        (g.value_id, x.value_id),
        (temp.id,),
        label,
    )
    name = target.symbol(f"sumparts2:{x.dtype.name}")
    total = 9 * c
    sum_blocks = -(-total // lanes)
    add = Launch(
        Kernel(name, functools.partial(weight_ir.sum_parts_source, target, name, x.dtype.name)),
        [Buf(temp.id), out.buf, parts, one, total, m, wide, sum_blocks],
        sum_blocks,
        lanes * lanes * size,
        parts * one,
        (parts * one + prod(out.shape)) * size,
        (temp.id,),
        (out.value_id,),
        f"{label}: add up parts",
    )
    return [temp, products, add]
