"""Loops to launches: picks the form of each kernel, names it by its structure and lays out its arguments."""

from __future__ import annotations

import math
from collections.abc import Callable

from fanal.core.backends.contract import Buf, Kernel, Launch, Temp
from fanal.core.backends.cpu.columns import CHUNK, ColumnsWriter
from fanal.core.backends.cpu.emit import LANES
from fanal.core.backends.cpu.loops import WRITTEN, access_key, accumulator, is_one, op_key, word_bits
from fanal.core.backends.cpu.matmul import TEMP_IDS
from fanal.core.backends.cpu.passes import LONG, Passes, cost
from fanal.core.backends.cpu.rows import GROUP, RowsWriter
from fanal.core.backends.cpu.target import Target
from fanal.core.backends.cpu.transpose import untangle
from fanal.core.base.dim import plain
from fanal.core.compiler.loopir import (
    REDUCED,
    ROW_BLOCK,
    Access,
    Loop,
    Op,
    column_block,
    find_deps,
    kept_if,
)

_FEW = 32  # fewer rows than this, and long: blocks of a row become units of their own
_LONG = 4
_WIDE = 256  # columns: shorter rows take turns faster
_STREAM = 8  # times the second-level cache: beyond, nothing is in a cache when it is used again


def structure(loop: Loop, split: bool, streams: frozenset[int] = frozenset(), abreast: bool = False) -> str:
    """Return what the kernel's text depends on."""
    last = len(loop.dims) - 1
    parts = [loop.form, f"{len(loop.outer)}/{len(loop.reduced)}/{len(loop.inner)}", "split" if split else ""]
    parts += [op_key(op) for op in loop.ops]
    parts += [access_key(a, last) for a in loop.loads]
    parts += [f"{i}->{access_key(a, last)}" for i, a in loop.stores]
    if streams:
        parts.append(f"streams{sorted(streams)}")
    if abreast:
        parts.append("abreast")
    if kept_if(loop) is not None:
        parts.append("in place")
    return ";".join(parts)


def streams(loop: Loop, target: Target) -> frozenset[int]:
    """Return the stores of a row kernel, counted after loads, that write more memory than caches keep.

    They go past the caches, which saves reading it first.
    """
    if not target.masks:
        return frozenset()
    last = len(loop.dims) - 1
    read = {a.value for a in loop.loads}
    found = set()
    for n, (_, a) in enumerate(loop.stores, len(loop.loads)):
        nbytes = a.dtype.itemsize * math.prod(size for size, s in zip(loop.dims, a.strides) if s)
        along = a.strides[last] == 1 and len(loop.reduced) == 1
        if along and plain(nbytes) >= _STREAM * target.l2 and a.value not in read:
            found.add(n)
    return frozenset(found)


def loop_words(loop: Loop) -> list[Buf | int]:
    """Return the argument words that every form has, in the order LoopWriter.read_words takes them."""
    words: list[Buf | int] = list(loop.dims)
    last = len(loop.dims) - 1
    for a in [*loop.loads, *(a for _, a in loop.stores)]:
        size = a.dtype.itemsize
        words.append(Buf(a.value, a.offset * size))
        words += [s * size for d, s in enumerate(a.strides) if s != 0 and not (s in WRITTEN and d == last)]
        words += [s * size for _, s in a.at if not is_one(s)]
    for op in loop.ops:
        if op.kind == "word":
            words.append(word_bits(op.params, op.dtype))
        elif op.kind == "index":
            words.append(op.params[0])
            words += [s for s in op.params[1] if s not in (0, 1)]
    return words


def _bytes(loop: Loop) -> int:
    """Return how many bytes the loop must move, every element of an access once."""
    if kept_if(loop) is not None:
        return 0
    total = 0
    for a in [*loop.loads, *(a for _, a in loop.stores)]:
        total += a.dtype.itemsize * math.prod(n for n, s in zip(loop.dims, a.strides) if s)
    return total


def _launch(
    loop: Loop,
    key: str,
    target: Target,
    words: list,
    units: int,
    scratch: int,
    text: Callable[[str], str],
    writes: tuple[int, ...],
) -> Launch:
    name = target.symbol(key)
    return Launch(
        Kernel(name, lambda: text(name)),
        words,
        units,
        scratch,
        loop.flops,
        _bytes(loop),
        tuple(dict.fromkeys(a.value for a in loop.loads)),
        writes,
        loop.label,
        loop.where,
    )


def loop_launches(loop: Loop, target: Target) -> list[Temp | Launch]:
    """Return what runs a collapsed loop."""
    found, done = untangle(loop, target)
    return (
        found if done else found + (_columns(loop, target) if loop.form == "columns" else _rows(loop, target))
    )


def _abreast(loop: Loop, far: frozenset[int]) -> bool:
    """Tell whether the passes over a row run side by side: what takes long to compute, and goes to memory by lines."""
    if not far or plain(loop.reduced[-1]) < _WIDE or plain(loop.reduced[-1]) % LANES:
        return False
    plan = Passes(loop)
    if plan.count == 1 or any(plan.begins):
        return False
    apart = {a.value for a in loop.loads}.isdisjoint(a.value for _, a in loop.stores)
    return apart and any(cost(op) >= LONG for op in loop.ops)


def _rows(loop: Loop, target: Target) -> list[Temp | Launch]:
    length = loop.reduced[-1]
    runs = math.prod(loop.reduced[:-1])
    per_block = max(ROW_BLOCK // max(length, 1), 1) if len(loop.reduced) > 1 else 1
    blocks = -(-runs // per_block) * -(-length // ROW_BLOCK)
    rows = math.prod(loop.outer)
    far = streams(loop, target)
    abreast = _abreast(loop, far)
    plan = Passes(loop, abreast)
    reduces = any(op.kind == "reduce" for op in loop.ops)
    begins = any(plan.begins)
    split = not loop.outer if not reduces else False
    simple = not begins and plan.count == 1 and not plan.cached
    if not split and simple and plain(rows) < _FEW and plain(blocks) >= _LONG:
        split = not reduces or not any(plan.stores)
    words = loop_words(loop)
    if len(loop.reduced) > 1:
        words += [runs, per_block]
    scratch = plan.totals
    if plan.cached:
        widest = max(loop.ops[i].dtype.itemsize if loop.ops[i].dtype.itemsize > 2 else 4 for i in plan.cached)
        slot = -(-((runs * length + GROUP) * (plan.count if abreast else 1) + LANES) * widest // 64) * 64
        words.append(slot)
        scratch += slot * len(plan.cached)
    if begins:
        words += [rows, column_block(rows)]
    writes = tuple(a.value for _, a in loop.stores)
    if split and reduces:
        return _partial(loop, target, plan, words, rows, blocks)
    units = -(-rows // column_block(rows)) if begins else rows * blocks if split else rows
    return [
        _launch(
            loop,
            structure(loop, split, far, abreast),
            target,
            words,
            units,
            scratch,
            lambda name: RowsWriter(loop, target, split, far, abreast).text(name),
            writes,
        )
    ]


def _partial(
    loop: Loop,
    target: Target,
    plan: Passes,
    words: list,
    rows: int,
    blocks: int,
) -> list[Temp | Launch]:
    """Split a reduction to few results: blocks leave partial results, which a second launch combines in order."""
    temps: list[Temp | Launch] = []
    reduces = plan.reduces[0]
    for i in reduces:
        temps.append(Temp(next(TEMP_IDS), rows * blocks * accumulator(loop.ops[i].dtype).itemsize))
        words.append(Buf(temps[-1].id))
    # The structure of the first kernel is that of its reductions alone.
    first = Loop(
        "rows", loop.outer, loop.reduced, [], loop.ops, loop.loads, [], loop.label, loop.where, loop.flops
    )
    first_words = loop_words(first) + words[len(loop_words(loop)) :]
    launch = _launch(
        first,
        structure(first, True),
        target,
        first_words,
        rows * blocks,
        0,
        lambda name: RowsWriter(first, target, True).text(name),
        tuple(t.id for t in temps),
    )
    return [*temps, launch, *_combine(loop, target, reduces, temps, blocks, 1)]


def _combine(
    loop: Loop,
    target: Target,
    reduces: list[int],
    temps: list,
    blocks: int,
    columns: int,
) -> list[Temp | Launch]:
    """Add up partial results stored as (*outer, blocks, columns) and do what follows the reductions."""
    keep = [i for i, op in enumerate(loop.ops) if not op.deps & REDUCED or op.kind == "reduce"]
    ops: list[Op] = []
    place: dict[int, int] = {}
    loads: list[Access] = []
    outer = loop.outer
    steps = []
    step = blocks * columns
    for n in reversed(outer):
        steps.insert(0, step)
        step *= n
    skip = len(outer) + len(loop.reduced)
    for i in keep:
        op = loop.ops[i]
        if op.kind == "reduce":
            temp = temps[reduces.index(i)]
            acc = accumulator(op.dtype)
            inner = (1,) if loop.inner else (0,)
            loads.append(Access(temp.id, acc, 0, (*steps, columns, *inner)))
            ops.append(Op("load", (), len(loads) - 1, acc))
            ops.append(Op("reduce", (len(ops) - 1,), op.params, op.dtype))
        elif op.kind == "load":
            a = loop.loads[op.params]
            loads.append(
                Access(
                    a.value,
                    a.dtype,
                    a.offset,
                    (*a.strides[: len(outer)], 0, *(a.strides[skip:] or (0,))),
                    tuple((place[k], s) for k, s in a.at),
                )
            )
            ops.append(Op("load", (), len(loads) - 1, op.dtype))
        elif op.kind == "index":
            base, s = op.params
            ops.append(Op("index", (), (base, (*s[: len(outer)], 0, *(s[skip:] or (0,)))), op.dtype))
        else:
            ops.append(Op(op.kind, tuple(place[a] for a in op.args), op.params, op.dtype))
        place[i] = len(ops) - 1
    stores = [
        (
            place[i],
            Access(a.value, a.dtype, a.offset, (*a.strides[: len(outer)], 0, *(a.strides[skip:] or (0,)))),
        )
        for i, a in loop.stores
    ]
    second = Loop(
        "columns",
        list(outer),
        [blocks],
        list(loop.inner) or [1],
        ops,
        loads,
        stores,
        loop.label + " combine",
        loop.where,
        0,
        of_blocks=True,
    )
    find_deps(second)
    return _columns(second, target)


def _columns(loop: Loop, target: Target) -> list[Temp | Launch]:
    width = loop.inner[0]
    chunks = -(-width // CHUNK)
    rows = math.prod(loop.reduced)
    outer = math.prod(loop.outer)
    reduces = [i for i, op in enumerate(loop.ops) if op.kind == "reduce"]
    block = max(rows, 1) if loop.of_blocks else column_block(rows)
    blocks = max(-(-rows // block), 1)  # not max(1, ...): whether a named size is above 1 need not be known
    split = not loop.of_blocks and plain(outer * chunks) < _FEW and plain(blocks) >= _LONG
    scratch = 2 * len(reduces) * CHUNK * 8
    if not split:
        words = loop_words(loop) + [rows, block]
        return [
            _launch(
                loop,
                structure(loop, False),
                target,
                words,
                outer * chunks,
                scratch,
                lambda name: ColumnsWriter(loop, target, False).text(name),
                tuple(a.value for _, a in loop.stores),
            )
        ]
    temps: list[Temp | Launch] = [
        Temp(next(TEMP_IDS), outer * blocks * width * accumulator(loop.ops[i].dtype).itemsize)
        for i in reduces
    ]
    first = Loop(
        "columns",
        loop.outer,
        loop.reduced,
        loop.inner,
        loop.ops,
        loop.loads,
        [],
        loop.label,
        loop.where,
        loop.flops,
    )
    words = [*loop_words(first), rows, block, *(Buf(t.id) for t in temps)]  # type: ignore[union-attr]
    launch = _launch(
        first,
        structure(first, True),
        target,
        words,
        outer * blocks * chunks,
        scratch,
        lambda name: ColumnsWriter(first, target, True).text(name),
        tuple(t.id for t in temps),
    )  # type: ignore[union-attr]
    return [*temps, launch, *_combine(loop, target, reduces, temps, blocks, width)]
