"""Plans attention: softmax(q k^T scale + mask) v and its gradients, the weights never leaving the cache."""

from __future__ import annotations

import functools
import struct

from fanal.core.backends.contract import Buf, Kernel, Launch, Temp
from fanal.core.backends.cpu import attention_ir as ir
from fanal.core.backends.cpu import target as targets
from fanal.core.backends.cpu.matmul import Operand
from fanal.core.backends.cpu.target import Target
from fanal.core.base import dtype as dt
from fanal.core.base.dim import plain, plainly
from fanal.core.compiler.loopir import ROW_BLOCK

_TILES = {32: 14, 16: 6}  # rows of a tile two vectors wide, by registers
_UNITS = 16  # units wanted where there are few heads
_LEAST_ROWS = 112  # rows of a unit, to pay for copying keys and values again


def _check(*operands: Operand) -> None:
    for x in operands:
        if x.dtype not in (dt.float32, dt.float64) or x.dtype is not operands[0].dtype:
            raise TypeError(
                f"attention kernels take operands of one dtype, float32 or float64, got {x.dtype}"
            )
        if len(x.shape) != 4:
            raise ValueError(f"attention kernels take operands (B, H, T, D), got shape {x.shape}")
        if x.strides[-1] != 1 and x.shape[-1] > 1:
            raise ValueError(f"attention kernels read rows contiguously, got strides {x.strides}")


def _up(x: int, step: int) -> int:
    return -(-x // step) * step


def attention_launches(
    q: Operand,
    k: Operand,
    v: Operand,
    out: Operand,
    stats: Buf,
    scale: float,
    causal: bool = False,
    mask: Operand | None = None,
    target: Target | None = None,
) -> list[Temp | Launch]:
    """Return what computes `out = softmax(q k^T * scale + mask) v`.

    Shapes: q (B, H, L, D), k (B, H, S, D), v (B, H, S, E), out (B, H, L, E); mask (B, H, L, S) with steps of zero
    where it repeats, bool (True takes part) or of q's dtype. `stats` is a contiguous buffer (B, H, L, 2) that
    receives the largest score and the sum of exponentials of every row, for the backward pass.
    Dtypes: float32, float64. Raises ValueError for rows that are not contiguous and for S above 8192.
    """
    _check(q, k, v, out)
    return _plan("forward", q, k, v, out, stats, None, None, scale, causal, mask, target or targets.host())


def attention_backward_launches(
    q: Operand,
    k: Operand,
    v: Operand,
    stats: Buf,
    g: Operand,
    dq: Operand,
    dk: Operand,
    dv: Operand,
    scale: float,
    causal: bool = False,
    mask: Operand | None = None,
    target: Target | None = None,
) -> list[Temp | Launch]:
    """Return what computes the gradients of attention by q, k and v from that by its output, `g`."""
    _check(q, k, v, g, dq, dk, dv)
    return _plan(
        "backward", q, k, v, None, stats, g, (dq, dk, dv), scale, causal, mask, target or targets.host()
    )


def _plan(
    kind: str,
    q: Operand,
    k: Operand,
    v: Operand,
    out: Operand | None,
    stats: Buf,
    g: Operand | None,
    gradients: tuple[Operand, Operand, Operand] | None,
    scale: float,
    causal: bool,
    mask: Operand | None,
    target: Target,
) -> list[Temp | Launch]:
    batch, heads, rows, d = q.shape
    keys, e = v.shape[-2:]
    if k.shape != (batch, heads, keys, d) or v.shape[:2] != (batch, heads):
        raise ValueError(f"attention shapes do not fit: q {q.shape}, k {k.shape}, v {v.shape}")
    if keys > ROW_BLOCK:
        raise ValueError(f"attention kernels take up to {ROW_BLOCK} keys, got {keys}")
    if 0 in (*q.shape, *v.shape):
        raise ValueError(f"attention kernels take no empty operands, got q {q.shape}, v {v.shape}")
    if mask is not None and (
        causal or mask.dtype not in (dt.bool_, q.dtype) or mask.strides[-1] not in (0, 1)
    ):
        raise ValueError(
            "attention kernels take a bool mask or one of q's dtype, with contiguous rows, and no other "
            f"mask besides the causal one; got {mask.dtype}, strides {mask.strides}, causal={causal}"
        )
    size = q.dtype.itemsize
    lanes = target.lanes(size)
    vectors = 2 if max(d, e) > lanes else 1
    height = _TILES[target.registers]
    width = lanes * vectors
    form = "causal" if causal else "" if mask is None else "bool" if mask.dtype is dt.bool_ else "add"
    spec = ir.AttentionSpec(kind, height, vectors, q.dtype.name, form)
    d_wide, e_wide = _up(d, width), _up(e, width)
    forward = kind == "forward"
    block = rows
    if forward:
        blocks = max(1, min(-(-_UNITS // plain(batch * heads)), plain(rows) // _LEAST_ROWS))
        block = _up(-(-rows // blocks), width)
    blocks = -(-rows // block)

    scores = max(keys, ir.RUN) + height  # a tile may compute and read rows too many
    sizes = {  # elements of each piece of scratch
        ir.S_AT: scores * width,
        ir.QT_AT: d * width,
        ir.TILE_AT: height * max(d_wide, e_wide),
        ir.K_AT: (keys + height) * d_wide,
        ir.V_AT: (keys + height) * e_wide,
        ir.PART_AT: ir.RUN * width,
        ir.STAT_AT: 2 * width,
    }
    if not forward:
        sizes |= {
            ir.DS_AT: scores * width,
            ir.Q_AT: width * d_wide,
            ir.G_AT: width * e_wide,
            ir.GT_AT: e * width,
            ir.DK_AT: (keys + height) * d_wide,
            ir.DV_AT: (keys + height) * e_wide,
        }
    at, scratch = {}, 0
    for word, count in sizes.items():
        at[word] = scratch
        scratch = _up(scratch + count * size, 64)

    bits = (
        struct.unpack("<I", struct.pack("<f", scale))[0]
        if size == 4
        else struct.unpack("<q", struct.pack("<d", scale))[0]
    )
    words: dict[int, Buf | int] = {
        ir.HEADS: heads,
        ir.TQ: rows,
        ir.TK: keys,
        ir.D: d,
        ir.E: e,
        ir.SCALE: bits,
        ir.BLOCK: block,
        ir.BLOCKS: blocks,
        ir.D_WIDE: d_wide,
        ir.E_WIDE: e_wide,
        ir.STATS: stats,
        ir.MASK_COL: mask.strides[-1] if mask else 0,
        **at,
    }

    def put(pointer: int, step: int, x: Operand | None) -> None:
        words[pointer] = x.buf if x else stats  # the latter is never read
        for i in range(3):
            words[step + i] = x.strides[i] if x else 0

    dq, dk, dv = gradients or (None, None, None)
    for pointer, step, x in (
        (ir.Q, ir.Q_STEP, q),
        (ir.K, ir.K_STEP, k),
        (ir.V, ir.V_STEP, v),
        (ir.OUT, ir.OUT_STEP, out),
        (ir.G, ir.G_STEP, g),
        (ir.DQ, ir.DQ_STEP, dq),
        (ir.DK, ir.DK_STEP, dk),
        (ir.DV, ir.DV_STEP, dv),
        (ir.MASK, ir.MASK_STEP, mask),
    ):
        put(pointer, step, x)
    reads = [x.value_id for x in (q, k, v, g, mask) if x]
    writes = [x.value_id for x in (out, dq, dk, dv) if x]
    (writes if forward else reads).append(stats.value_id)
    least = min(plainly((rows, keys)))
    pairs = rows * keys - (least * (least - 1) // 2 if causal else 0)
    flops = 2 * batch * heads * pairs * ((d + e) if forward else (3 * d + 2 * e))
    nbytes = size * batch * heads * (rows + keys) * (d + e) * (1 if forward else 2)
    name = target.symbol(spec.key)
    label = "x".join(map(str, plainly((batch, heads, rows, keys, d))))
    label = f"attention {'' if forward else 'gradient '}{label} {q.dtype.name}"
    label += f" {form}" if form else ""
    units = batch * heads * (blocks if forward else 1)
    kernel = Kernel(name, functools.partial(ir.attention_source, target, name, spec))
    args = [words.get(i, 0) for i in range(ir.AT + len(ir.SCRATCH))]
    return [
        Launch(
            kernel,
            args,
            units,
            scratch,
            flops,
            nbytes,
            tuple(dict.fromkeys(reads)),
            tuple(dict.fromkeys(writes)),
            label,
        )
    ]
