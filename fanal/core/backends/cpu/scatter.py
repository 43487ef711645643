"""Writes where an index says: `put` (whole slices) and `scatter` (single elements), in order of the index.

A unit owns the places it writes, so the order, and with it the bits and the winner of equal indices, is fixed.
"""

from __future__ import annotations

import math

from fanal.core.backends.contract import Buf, Kernel, Launch, Temp
from fanal.core.backends.cpu.emit import LANES, STORED, Emitter, Scalar, vector
from fanal.core.backends.cpu.irtext import Value as Name
from fanal.core.backends.cpu.irtext import Writer, module
from fanal.core.backends.cpu.target import Target
from fanal.core.base import dtype as dt
from fanal.core.base.dtype import dtype as DType
from fanal.core.base.shape import contiguous_strides
from fanal.core.compiler.graph import Value
from fanal.core.compiler.tail import operand

_CHUNK = 64  # elements of a slice that one unit writes


def _combine(e: Emitter, mode: str, old: Scalar, new: Scalar) -> Scalar:
    return {"add": e.add, "mul": e.mul, "max": e.max, "min": e.min}[mode](old, new)


def scatter_launches(v: Value, target: Target) -> list[Temp | Launch]:
    """Return the launch that writes values over what the output's buffer holds."""
    x, index, new = v.inputs
    dim, mode = v.params
    if v.name == "put":
        lead, width = math.prod(x.shape[:dim]), math.prod(x.shape[dim + 1 :])
        sizes, count = [lead], index.size
        steps = [(x.shape[dim] * width, 0, count * width)]
        along = (width, 1, width)
    else:
        width = 1
        others = [d for d in range(len(x.shape)) if d != dim]
        sizes, count = [index.shape[d] for d in others], index.shape[dim] if index.shape else 1
        to, of = contiguous_strides(x.shape), contiguous_strides(index.shape)
        steps = [(to[d], of[d], of[d]) for d in others]
        along = (to[dim], of[dim], of[dim]) if index.shape else (1, 1, 1)
    wide = width > 1
    chunks = -(-width // _CHUNK) if wide else 1
    key = f"scatter:{mode}:{v.dtype.name}:{index.dtype.name}:{len(sizes)}:{wide}"
    name = target.symbol(key)
    sources = [operand(i) for i in (index, new)]
    extent = x.shape[dim] if x.shape else 1
    words: list[Buf | int] = [Buf(v.id), *(Buf(s.value.id, s.offset * s.value.dtype.itemsize) for s in sources)]
    words += [extent, count, width, *along]
    for n, s in zip(sizes, steps):
        words += [n, *s]
    moved = (2 if mode == "set" else 3) * new.size * v.dtype.itemsize + index.size * index.dtype.itemsize
    return [
        Launch(
            Kernel(name, lambda: _source(target, name, mode, v.dtype, index.dtype, len(sizes), wide)),
            words,
            math.prod(sizes) * chunks,
            0,
            new.size,
            moved,
            (*(s.value.id for s in sources), v.id),
            (v.id,),
            v.name,
            [v.where] if v.where is not None else [],
        )
    ]


def _source(target: Target, name: str, mode: str, dtype: DType, index: DType, rank: int, wide: bool) -> str:
    w = Writer(target, set())
    words = [w.word("%args", i, pointer=i < 3) for i in range(9 + 4 * rank)]
    out, at, new, extent, count, width, out_step, at_step, new_step = words[:9]
    dims = [words[9 + 4 * d : 13 + 4 * d] for d in range(rank)]
    size, scalar, lanes = dtype.itemsize, Emitter(w, 1), Emitter(w, LANES)
    chunks = w.div(w.add(width, str(_CHUNK - 1)), str(_CHUNK)) if wide else "1"

    def unit(u: Name) -> tuple:
        flat, low = u, "0"
        if wide:
            flat = w.div(u, chunks)
            low = w.mul(w.sub(u, w.mul(flat, chunks)), str(_CHUNK))
        places = ["0", "0", "0"]
        for d in reversed(range(rank)):
            n, *steps = dims[d]
            i = flat
            if d:
                up = w.div(flat, n)
                i, flat = w.sub(flat, w.mul(up, n)), up
            places = [w.add(p, w.mul(i, s)) for p, s in zip(places, steps)]
        high = w.min(w.add(low, str(_CHUNK)), width)

        def step(m: Name) -> tuple:
            where = w.at(at, w.add(places[1], w.mul(m, at_step)), index.itemsize)
            raw = scalar.unpack(w.let(f"load {STORED[index]}, ptr {where}"), index, 1)
            i = scalar.convert(raw, dt.int64).name
            i = w.select(w.less(i, "0"), w.add(i, extent), i)
            i = w.max(w.min(i, w.sub(extent, "1")), "0")  # a bad index is reported by its check
            to = w.at(out, w.add(places[0], w.mul(i, out_step)), size)
            of = w.at(new, w.add(places[2], w.mul(m, new_step)), size)
            if not wide:
                _move(w, scalar, mode, dtype, of, to, None)
                return ()
            middle = w.add(low, w.let(f"and i64 {w.sub(high, low)}, {-LANES}"))

            def whole(c: Name) -> tuple:
                _move(w, lanes, mode, dtype, w.at(of, c, size), w.at(to, c, size), None)
                return ()

            def rest(c: Name) -> tuple:
                _move(
                    w,
                    lanes,
                    mode,
                    dtype,
                    w.at(of, c, size),
                    w.at(to, c, size),
                    w.lane_mask(LANES, w.sub(high, c)),
                )
                return ()

            w.loop(low, middle, str(LANES), whole)
            w.loop(middle, high, str(LANES), rest)
            return ()

        w.loop("0", count, "1", step)
        return ()

    w.loop("%lo", "%hi", "1", unit)
    return module(
        [w.function(f"void @{name}(ptr noalias %args, i64 %lo, i64 %hi, ptr noalias %scratch)")], w.declared
    )


def _move(w: Writer, e: Emitter, mode: str, dtype: DType, of: Name, to: Name, mask: Name | None) -> None:
    kind, size = vector(STORED[dtype], e.lanes), dtype.itemsize

    def get(address: Name) -> Scalar:
        raw = w.let(f"load {kind}, ptr {address}") if e.lanes == 1 else w.load(kind, address, mask, size)
        return e.unpack(raw, dtype, e.lanes)

    value = get(of)
    if mode != "set":
        value = _combine(e, mode, get(to), value)
    packed = e.pack(value)
    if e.lanes == 1:
        w.do(f"store {kind} {packed}, ptr {to}")
    else:
        w.store(kind, packed, to, mask, size)
