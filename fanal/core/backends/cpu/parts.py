"""Complex numbers as memory: kernels do not compute with them, but copy them, and make them of real numbers."""

from __future__ import annotations

from fanal.core.backends.contract import Buf, Kernel, Launch
from fanal.core.backends.cpu.emit import LANES, STORED, Emitter, vector
from fanal.core.backends.cpu.irtext import Value as Name
from fanal.core.backends.cpu.irtext import Writer, module
from fanal.core.backends.cpu.target import Target
from fanal.core.base import dtype as dt
from fanal.core.base.dtype import dtype as DType
from fanal.core.compiler.graph import Value, base

_PIECE = 1 << 14  # elements that one unit does


def copy_launch(v: Value, target: Target) -> Launch | None:
    """Return the launch of a value that has the bytes of its operand, in order."""
    (x,) = v.inputs
    nbytes = v.size * v.dtype.itemsize
    if not nbytes or nbytes != x.size * x.dtype.itemsize:
        return None
    name = target.symbol("bytes")
    return _launch(Kernel(name, lambda: _source(target, name, None, None)), v, x, nbytes)


def convert_launch(v: Value, target: Target) -> Launch | None:
    """Return the launch that makes complex numbers of real ones, or None if NumPy must do it."""
    (x,) = v.inputs
    if not x.size or not v.dtype.is_complex or x.dtype not in STORED:
        return None
    part = v.dtype.to_real()
    if target.name == "sse2" and dt.float16 in (x.dtype, part):
        return None
    name = target.symbol(f"complex:{x.dtype.name}:{v.dtype.name}")
    return _launch(Kernel(name, lambda: _source(target, name, x.dtype, part)), v, x, x.size)


def _launch(kernel: Kernel, v: Value, x: Value, count: int) -> Launch:
    moved = v.size * v.dtype.itemsize + x.size * x.dtype.itemsize
    where = [v.where] if v.where else []
    words: list[Buf | int] = [Buf(base(x).id), Buf(v.id), count]
    return Launch(kernel, words, -(-count // _PIECE), 0, 0, moved, (base(x).id,), (v.id,), v.name, where)


def _source(target: Target, name: str, of: DType | None, part: DType | None) -> str:
    w = Writer(target, set())
    source, to, count = (w.word("%args", i, pointer=i < 2) for i in range(3))

    def unit(u: Name) -> tuple:
        low = w.mul(u, str(_PIECE))
        high = w.min(w.add(low, str(_PIECE)), count)
        if of is None or part is None:
            size = w.sub(high, low)
            w.call("void", "llvm.memcpy.p0.p0.i64", ("ptr", w.at(to, low)), ("ptr", w.at(source, low)),
                   ("i64", size), ("i1", "false"))
            return ()
        e, kind, stored = Emitter(w, LANES), vector(STORED[of], LANES), vector(STORED[part], LANES)
        both = vector(STORED[part], 2 * LANES)
        order = ", ".join(f"i32 {i // 2 + (i % 2) * LANES}" for i in range(2 * LANES))

        def some(i: Name, mask: bool) -> tuple:
            left = w.sub(high, i)
            within = w.lane_mask(LANES, left) if mask else None
            x = e.unpack(w.load(kind, w.at(source, i, of.itemsize), within, of.itemsize), of, LANES)
            real = e.pack(e.convert(x, part))
            pairs = w.let(f"shufflevector {stored} {real}, {stored} zeroinitializer, <{2 * LANES} x i32> <{order}>")
            pair_mask = w.lane_mask(2 * LANES, w.mul(left, "2")) if mask else None
            w.store(both, pairs, w.at(to, i, 2 * part.itemsize), pair_mask, part.itemsize)
            return ()

        middle = w.add(low, w.let(f"and i64 {w.sub(high, low)}, {-LANES}"))
        w.loop(low, middle, str(LANES), lambda i: some(i, False))
        w.loop(middle, high, str(LANES), lambda i: some(i, True))
        return ()

    w.loop("%lo", "%hi", "1", unit)
    return module(
        [w.function(f"void @{name}(ptr noalias %args, i64 %lo, i64 %hi, ptr noalias %scratch)")], w.declared
    )
