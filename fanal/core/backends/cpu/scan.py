"""Running combinations along one dimension: vectors across the dimensions after it, else element by element."""

from __future__ import annotations

import math

from fanal.core.backends.contract import Buf, Kernel, Launch
from fanal.core.backends.cpu.emit import LANES, REGISTER, STORED, Emitter, Scalar, vector
from fanal.core.backends.cpu.irtext import Value as Name
from fanal.core.backends.cpu.irtext import Writer, module
from fanal.core.backends.cpu.target import Target
from fanal.core.base import dtype as dt
from fanal.core.base.dtype import dtype as DType
from fanal.core.compiler.graph import Value, base

_WIDE = 4 * LANES  # neighbours that one unit combines: a few cache lines of each row


def _log_add(e: Emitter, a: Scalar, b: Scalar) -> Scalar:
    """log(exp(a) + exp(b)); infinities of one sign stay."""
    apart = e.where(e.eq(a, b), e.const(0, a.dtype), e.sub(a, b))
    return e.add(e.max(a, b), e.log1p(e.exp(e.neg(e.abs(apart)))))


def _combine(e: Emitter, op: str, a: Scalar, b: Scalar) -> Scalar:
    if op == "logaddexp":
        return _log_add(e, a, b)
    return {"add": e.add, "mul": e.mul, "max": e.max, "min": e.min}[op](a, b)


def scan_launch(v: Value, target: Target) -> Launch | None:
    """Return the launch of a value of `scan`, or None if NumPy must do it."""
    (x,) = v.inputs
    op, dim = v.params
    if not x.size or not x.shape or x.dtype not in STORED or x.dtype is dt.bool_ or not _able(op, x.dtype, target):
        return None
    count, inner = x.shape[dim], math.prod(x.shape[dim + 1 :])
    wide = inner > 1
    chunks = -(-inner // _WIDE)
    symbol = target.symbol(f"scan:{op}:{x.dtype.name}:{wide}")
    return Launch(
        Kernel(symbol, lambda: _source(target, symbol, op, x.dtype, wide)),
        [Buf(base(x).id), Buf(v.id), count, inner, chunks],
        x.size // (count * inner) * chunks,
        0,
        x.size,
        2 * x.size * x.dtype.itemsize,
        (base(x).id,),
        (v.id,),
        f"scan {op}",
        [v.where] if v.where else [],
    )


def _able(op: str, dtype: DType, target: Target) -> bool:
    if dtype is dt.float16 and target.name == "sse2":
        return False
    return dtype.is_floating_point or op != "logaddexp"


def _source(target: Target, name: str, op: str, dtype: DType, wide: bool) -> str:
    w = Writer(target, set())
    of, to, count, inner, chunks = (w.word("%args", i, pointer=i < 2) for i in range(5))
    size, acc = dtype.itemsize, dt.ACCUMULATE.get(dtype, dtype)

    def along(start: Name, e: Emitter, mask: Name | None) -> None:
        """Combine the elements from `start` on, `inner` apart."""
        stored = vector(STORED[dtype], e.lanes)
        kind = vector(REGISTER[acc], e.lanes)

        def get(place: Name) -> Scalar:
            raw = w.load(stored, w.at(of, place, size), mask, size)
            return e.convert(e.unpack(raw, dtype, e.lanes), acc)

        def put(total: Scalar, place: Name) -> None:
            w.store(stored, e.pack(e.convert(total, dtype)), w.at(to, place, size), mask, size)

        def step(k: Name, total: Name) -> list[Name]:
            place = w.add(start, w.mul(k, inner) if wide else k)
            y = _combine(e, op, Scalar(total, acc, e.lanes), get(place))
            put(y, place)
            return [y.name]

        first = get(start)
        put(first, start)
        w.loop("1", count, "1", step, [(kind, first.name)])

    def unit(u: Name) -> tuple:
        if not wide:
            along(w.mul(u, count), Emitter(w, 1), None)
            return ()
        row = w.div(u, chunks)
        low = w.mul(w.sub(u, w.mul(row, chunks)), str(_WIDE))
        high = w.min(w.add(low, str(_WIDE)), inner)
        begin = w.mul(row, w.mul(count, inner))
        middle = w.add(low, w.let(f"and i64 {w.sub(high, low)}, {-LANES}"))

        def whole(c: Name) -> tuple:
            along(w.add(begin, c), Emitter(w, LANES), None)
            return ()

        def rest(c: Name) -> tuple:
            along(w.add(begin, c), Emitter(w, LANES), w.lane_mask(LANES, w.sub(high, c)))
            return ()

        w.loop(low, middle, str(LANES), whole)
        w.loop(middle, high, str(LANES), rest)
        return ()

    w.loop("%lo", "%hi", "1", unit)
    return module(
        [w.function(f"void @{name}(ptr noalias %args, i64 %lo, i64 %hi, ptr noalias %scratch)")], w.declared
    )
