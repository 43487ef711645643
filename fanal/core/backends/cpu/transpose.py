"""Copies that exchange two axes: 16 x 16 tiles turned in registers, so that memory is read and written in lines."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fanal.core.backends.contract import Buf, Kernel, Launch, Temp
from fanal.core.backends.cpu.emit import LANES
from fanal.core.backends.cpu.irtext import Value, Writer, module
from fanal.core.backends.cpu.matmul import TEMP_IDS
from fanal.core.backends.cpu.target import Target
from fanal.core.base.dim import plain
from fanal.core.base.shape import contiguous_strides
from fanal.core.compiler.loopir import Access, Loop

_WORTH = 4096  # elements: below, gathering is as good
_BAND = 4 * LANES  # lines of the source that a unit reads side by side: less would visit too many pages


def untangle(loop: Loop, target: Target) -> tuple[list[Temp | Launch], bool]:
    """Copy what the loop reads across its vector dimension into its own order first.

    Changes the loop's loads. Also tells whether that was all there was to do.
    """
    found: list[Temp | Launch] = []
    only = loop.stores[0][1] if len(loop.ops) == 1 and len(loop.stores) == 1 else None
    for n, a in enumerate(loop.loads):
        if a.at or a.strides[-1] in (0, 1) or 1 not in a.strides[:-1]:
            continue
        sizes = [k for k, s in zip(loop.dims, a.strides) if s]
        steps = [s for s in a.strides if s]
        across = steps.index(1)
        if (
            plain(math.prod(sizes)) < _WORTH
            or plain(sizes[across]) < LANES // 2
            or plain(sizes[-1]) < LANES // 2
            or min(steps) < 0
        ):
            continue
        if only is not None and only.strides[-1] == 1 and all(only.strides) and all(a.strides):
            to = Buf(only.value, only.offset * only.dtype.itemsize)
            return [_launch(a, sizes, steps, across, to, list(only.strides), loop, target)], True
        temp = Temp(next(TEMP_IDS), math.prod(sizes) * a.dtype.itemsize)
        found += [
            temp,
            _launch(a, sizes, steps, across, Buf(temp.id), contiguous_strides(sizes), loop, target),
        ]
        strides, step = [], 1
        for k, s in zip(reversed(loop.dims), reversed(a.strides)):
            strides.append(step if s else 0)
            step *= k if s else 1
        loop.loads[n] = Access(temp.id, a.dtype, 0, tuple(reversed(strides)))
    return found, False


def _launch(
    a: Access,
    sizes: list[int],
    steps: list[int],
    across: int,
    result: Buf,
    to: Sequence[int],
    loop: Loop,
    target: Target,
) -> Launch:
    size = a.dtype.itemsize
    batch = [d for d in range(len(sizes) - 1) if d != across]
    name = target.symbol(f"transpose:{size}:{len(batch)}")
    words: list[Buf | int] = [
        Buf(a.value, a.offset * size),
        result,
        sizes[across],
        sizes[-1],
        steps[-1] * size,
        to[across] * size,
    ]
    for d in batch:
        words += [sizes[d], steps[d] * size, to[d] * size]
    units = math.prod(sizes[d] for d in batch) * -(-sizes[across] // _BAND)
    return Launch(
        Kernel(name, lambda: _source(target, name, size, len(batch))),
        words,
        units,
        0,
        0,
        2 * size * math.prod(sizes),
        (a.value,),
        (result.value_id,),
        "transpose",
        loop.where,
    )


def _turned(w: Writer, kind: str, rows: list[Value]) -> list[Value]:
    """Transpose 16 vectors of 16: at distance d, exchange the off-diagonal d x d blocks."""
    vector = f"<{LANES} x {kind}>"
    d = LANES // 2
    while d:
        out = list(rows)
        for i in range(LANES):
            if i & d:
                continue
            a, b = rows[i], rows[i + d]
            low = ", ".join(f"i32 {k if not k & d else LANES + k - d}" for k in range(LANES))
            high = ", ".join(f"i32 {k + d if not k & d else LANES + k}" for k in range(LANES))
            out[i] = w.let(f"shufflevector {vector} {a}, {vector} {b}, <{LANES} x i32> <{low}>")
            out[i + d] = w.let(f"shufflevector {vector} {a}, {vector} {b}, <{LANES} x i32> <{high}>")
        rows = out
        d //= 2
    return rows


def _source(target: Target, name: str, size: int, rank: int) -> str:
    w = Writer(target, set())
    kind = f"i{8 * size}"
    vector = f"<{LANES} x {kind}>"
    words = [w.word("%args", i, pointer=i < 2) for i in range(6 + 3 * rank)]
    source, result, height, width, read, write = words[:6]
    batch = [words[6 + 3 * d : 9 + 3 * d] for d in range(rank)]
    tiles = w.div(w.add(height, str(_BAND - 1)), str(_BAND))

    def unit(u: Value) -> tuple:
        flat = w.div(u, tiles)
        top = w.mul(w.sub(u, w.mul(flat, tiles)), str(_BAND))
        of, to = w.at(source, top, size), w.at(result, w.mul(top, write))
        for d in reversed(range(rank)):
            n, a, b = batch[d]
            i = flat
            if d:
                up = w.div(flat, n)
                i, flat = w.sub(flat, w.mul(up, n)), up
            of, to = w.at(of, w.mul(i, a)), w.at(to, w.mul(i, b))
        count = w.min(w.sub(height, top), str(_BAND))

        def tile(at: Value, row: Value, rows: Value | None, columns: Value | None) -> None:
            """`rows`, `columns`: how many are inside; None for all."""
            there = w.lane_mask(LANES, rows) if rows else None
            here = w.lane_mask(LANES, columns) if columns else None
            none, many = "zeroinitializer", f"<{LANES} x i1>"
            start, stop = w.at(of, row, size), w.at(to, w.mul(row, write))

            def only(k: int, inside: Value | None, mask: Value | None) -> Value | None:
                if inside is None:
                    return mask
                return w.let(f"select i1 {w.less(str(k), inside)}, {many} {mask}, {many} {none}")

            lines = [
                w.load(vector, w.at(start, w.mul(w.add(at, str(k)), read)), only(k, columns, there), size)
                for k in range(LANES)
            ]
            for k, line in enumerate(_turned(w, kind, lines)):
                w.store(
                    vector, line, w.at(w.at(stop, w.mul(write, str(k))), at, size), only(k, rows, here), size
                )

        def along(at: Value) -> tuple:
            columns = w.min(w.sub(width, at), str(LANES))

            def across(row: Value) -> tuple:
                rows = w.min(w.sub(count, row), str(LANES))
                whole = w.let(f"icmp eq i64 {w.add(rows, columns)}, {2 * LANES}")
                w.when(whole, lambda: tile(at, row, None, None), lambda: tile(at, row, rows, columns))
                return ()

            w.loop("0", count, str(LANES), across)
            return ()

        w.loop("0", width, str(LANES), along)
        return ()

    w.loop("%lo", "%hi", "1", unit)
    return module(
        [w.function(f"void @{name}(ptr noalias %args, i64 %lo, i64 %hi, ptr noalias %scratch)")], w.declared
    )
