"""Maximum pooling: the maximum of each window, where it lies, and the gradient, which goes there.

A unit is one plane of the input (one channel of one image), so the gradient adds up windows in row-major
order. A row of windows runs along vectors; offsets inside the windows are looped over, those outside the
input left out. Axes missing in front of the size are taken as of extent one.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from fanal.core.backends.contract import Buf, Kernel, Launch, Temp
from fanal.core.backends.cpu.emit import LANES, STORED, Emitter, Scalar, vector
from fanal.core.backends.cpu.irtext import Value as Name
from fanal.core.backends.cpu.irtext import Writer, module
from fanal.core.backends.cpu.loops import identity
from fanal.core.backends.cpu.target import Target
from fanal.core.base import dtype as dt
from fanal.core.base.dtype import dtype as DType
from fanal.core.compiler.graph import Value
from fanal.core.compiler.tail import Operand

POOLS = ("max_pool", "max_pool_at", "max_pool_dx")
_UNROLLED = 8  # kernels up to this wide are written out along x
_I32 = f"<{LANES} x i32>"
_MASK = f"<{LANES} x i1>"
_STEPS = "<" + ", ".join(f"i32 {i}" for i in range(LANES)) + ">"


@dataclass(frozen=True)
class _Spec:
    """Structure of one kernel."""

    what: str  # one of POOLS
    dtype: DType
    stride: int  # along x: 1, 2 or 0 for any other
    width: int  # of the kernel along x, 0 when it is looped over
    padded: bool
    dilated: bool

    @property
    def key(self) -> str:
        return f"pool:{self.what}:{self.dtype.name}:{self.stride}:{self.width}:{self.padded}:{self.dilated}"


def pool_launches(v: Value, operands: list[Operand], target: Target) -> list[Temp | Launch]:
    """Return the launch of one of POOLS. Raises ValueError for windows that may miss the input altogether."""
    x = operands[-1]
    kernel, stride, padding, dilation, out = v.params
    n = len(kernel)
    size = x.shape[-n:]
    for k, s, p, d, o, m in zip(*v.params, size):
        if any(not any(0 <= i * s - p + j * d < m for j in range(k)) for i in range(o)):
            raise ValueError("a window without an element")
    if math.prod(size) >= 1 << 31:
        raise ValueError("positions in 32 bits")
    three = [(*(1,) * (3 - n), *t) for t in (size, out, kernel, stride, dilation)]
    pads = (*(0,) * (3 - n), *padding)
    spec = _Spec(v.name, x.value.dtype, stride[-1] if stride[-1] <= 2 else 0,
                 kernel[-1] if kernel[-1] <= _UNROLLED else 0, any(padding), any(d != 1 for d in dilation))
    name = target.symbol(spec.key)
    buffers = [Buf(o.value.id, o.offset * o.value.dtype.itemsize) for o in operands]
    words: list[Buf | int] = [buffers[-1], buffers[0], Buf(v.id)]
    for t in (*three[:4], pads, three[4]):
        words += t
    scratch = 0
    if v.name == "max_pool_dx":
        scratch = _round(4 * (math.prod(out) + LANES))
        words.append(scratch)
        if v.dtype in dt.ACCUMULATE:
            scratch += _round(4 * (math.prod(size) + LANES))
    moved = sum(math.prod(o.shape) * o.value.dtype.itemsize for o in operands) + v.size * v.dtype.itemsize
    label = f"{v.name} {'x'.join(map(str, x.shape))} {'x'.join(map(str, kernel))} {x.value.dtype.name}"
    flops = v.row.flops(v.inputs, v.params)  # type: ignore[union-attr]
    return [Launch(Kernel(name, lambda: _Pooling(spec, target).text(name)), words, math.prod(x.shape[:-n]),
                   scratch, flops, moved, tuple(o.value.id for o in operands), (v.id,), label,
                   [v.where] if v.where is not None else [])]


def _round(n: int) -> int:
    return -(-n // 64) * 64


class _Pooling:
    """Writes one kernel."""

    def __init__(self, spec: _Spec, target: Target) -> None:
        self.spec, self.w = spec, Writer(target, set())
        self.scalar, self.vector = Emitter(self.w, 1), Emitter(self.w, LANES)
        self.kind, self.size = STORED[spec.dtype], spec.dtype.itemsize
        self.wide = dt.ACCUMULATE.get(spec.dtype, spec.dtype)

    def text(self, name: str) -> str:
        """Return the module that defines the kernel."""
        w = self.w
        self.x, self.g, self.y = (w.word("%args", i, pointer=True) for i in range(3))
        rows = [[w.word("%args", 3 + 3 * i + j) for j in range(3)] for i in range(6)]
        self.extent, self.out, self.kernel, self.stride, self.pad, self.dilation = rows
        if not self.spec.padded:
            self.pad = ["0", "0", "0"]
        if not self.spec.dilated:
            self.dilation = ["1", "1", "1"]
        if self.spec.stride:
            self.stride[2] = str(self.spec.stride)
        if self.spec.width:
            self.kernel[2] = str(self.spec.width)
        self.plane = w.mul(w.mul(self.extent[0], self.extent[1]), self.extent[2])
        self.places = w.mul(w.mul(self.out[0], self.out[1]), self.out[2])
        self.lanes = _STEPS  # of places along x
        if self.spec.stride != 1:
            step = "splat (i32 2)" if self.spec.stride else w.splat(_I32, self._narrow(self.stride[2]))
            self.lanes = w.let(f"mul {_I32} {_STEPS}, {step}")
        self.edge = w.splat(_I32, self._narrow(self.extent[2]))
        if self.spec.what == "max_pool_dx":
            self.apart = w.word("%args", 21)
        w.loop("%lo", "%hi", "1", self._unit)
        signature = f"void @{name}(ptr noalias %args, i64 %lo, i64 %hi, ptr noalias %scratch)"
        return module([w.function(signature)], w.declared)

    def _narrow(self, x: Name) -> Name:
        return x if x[0] != "%" else self.w.let(f"trunc i64 {x} to i32")

    def _unit(self, u: Name) -> tuple:
        w, spec = self.w, self.spec
        image = w.at(self.x, w.mul(u, self.plane), self.size)
        places = w.mul(u, self.places)
        if spec.what == "max_pool_dx":
            result = w.at(self.y, w.mul(u, self.plane), self.size)
            into = result if self.wide is spec.dtype else w.at("%scratch", self.apart)
            zero = self.vector.const(0, self.wide)
            self._along(self.plane, lambda at, mask: w.store(
                vector(STORED[self.wide], LANES), zero.name, w.at(into, at, self.wide.itemsize), mask))
            self._rows(lambda row, oz, oy: self._note_row(row, image, oz, oy))
            self._add(w.at(self.g, places, self.size), into)
            if into is not result:
                self._along(self.plane, lambda at, mask: self._round_to(into, result, at, mask))
            return ()
        size = 8 if spec.what == "max_pool_at" else self.size

        def line(row: Name, oz: Name, oy: Name) -> None:
            to = w.at(self.y, w.add(places, row), size)

            def put(at: Name, mask: Name | None) -> None:
                best, place = self._search(image, oz, oy, at)
                if spec.what == "max_pool_at":
                    wide = w.let(f"sext {_I32} {place} to <{LANES} x i64>")
                    w.store(f"<{LANES} x i64>", wide, w.at(to, at, 8), mask, 8)
                else:
                    w.store(vector(self.kind, LANES), self.vector.pack(best), w.at(to, at, size), mask, size)
            self._along(self.out[2], put)
        self._rows(line)
        return ()

    def _rows(self, write: Callable[[Name, Name, Name], None]) -> None:
        """Write the loops over rows of windows: write(flat index of the first, indices along z and y)."""
        w = self.w

        def deep(oz: Name) -> tuple:
            def down(oy: Name) -> tuple:
                write(w.mul(w.add(w.mul(oz, self.out[1]), oy), self.out[2]), oz, oy)
                return ()
            w.loop("0", self.out[1], "1", down)
            return ()
        w.loop("0", self.out[0], "1", deep)

    def _along(self, count: Name, write: Callable[[Name, Name | None], None]) -> None:
        """Write a loop over vectors: the whole ones, then the rest under a mask."""
        w = self.w
        middle = w.let(f"and i64 {count}, {-LANES}")

        def whole(at: Name) -> tuple:
            write(at, None)
            return ()

        def rest(at: Name) -> tuple:
            write(at, w.lane_mask(LANES, w.sub(count, at)))
            return ()
        w.loop("0", middle, str(LANES), whole)
        w.loop(middle, count, str(LANES), rest)

    def _span(self, axis: int, o: Name) -> tuple[Name, Name, Name]:
        """Return where a window begins along an axis, and which of its offsets [low, high) lie inside."""
        w, by = self.w, self.dilation[axis]
        start = w.sub(w.mul(o, self.stride[axis]), self.pad[axis])

        def steps(x: Name) -> Name:
            return w.div(w.add(w.max(x, "0"), w.sub(by, "1")), by)
        low = steps(w.sub("0", start)) if self.spec.padded else "0"
        return start, low, w.min(self.kernel[axis], steps(w.sub(self.extent[axis], start)))

    def _search(self, image: Name, oz: Name, oy: Name, at: Name) -> tuple[Scalar, Name]:
        """Write the search of the windows from `at` on in a row. Returns the maxima and their places."""
        w, e, spec = self.w, self.vector, self.spec
        (z, z_low, z_high), (y, y_low, y_high) = self._span(0, oz), self._span(1, oy)
        x = w.sub(w.mul(at, self.stride[2]), self.pad[2])
        register = e.type(spec.dtype)
        first = "splat (i32 -1)"
        if not spec.padded:  # the first offset is inside
            row = w.add(w.mul(w.add(w.mul(z, self.extent[1]), y), self.extent[2]), x)
            first = w.let(f"add {_I32} {self.lanes}, {w.splat(_I32, self._narrow(row))}")
        start = [(register, identity(e, "max_of", spec.dtype).name)]
        if spec.what != "max_pool":
            start.append((_I32, first))

        def deep(kz: Name, *found: Name) -> list[Name]:
            there = w.mul(w.add(z, w.mul(kz, self.dilation[0])), self.extent[1])

            def down(ky: Name, *found: Name) -> list[Name]:
                row = w.mul(w.add(there, w.add(y, w.mul(ky, self.dilation[1]))), self.extent[2])

                def across(kx: Name, *found: Name) -> list[Name]:
                    return self._compare(image, row, w.add(x, w.mul(kx, self.dilation[2])), found)
                if not spec.width:
                    return w.loop("0", self.kernel[2], "1", across, self._carried(start, found), once=True)
                state = list(found)
                for k in range(spec.width):
                    state = across(str(k), *state)
                return state
            return w.loop(y_low, y_high, "1", down, self._carried(start, found))
        found = w.loop(z_low, z_high, "1", deep, start)
        return Scalar(found[0], spec.dtype, LANES), found[-1]

    @staticmethod
    def _carried(kinds: list[tuple[str, Name]], values: tuple[Name, ...]) -> list[tuple[str, Name]]:
        return [(kind, v) for (kind, _), v in zip(kinds, values)]

    def _compare(self, image: Name, row: Name, x: Name, found: tuple[Name, ...]) -> list[Name]:
        """Write one offset: element `x` of a row for the first lane."""
        w, e, spec = self.w, self.vector, self.spec
        start = w.splat(_I32, self._narrow(x))
        columns = w.let(f"add {_I32} {self.lanes}, {start}")
        inside = w.let(f"icmp ult {_I32} {columns}, {self.edge}")
        value = self._take(w.at(image, w.add(row, x), self.size), start, inside)
        best = Scalar(found[0], spec.dtype, LANES)
        if spec.what == "max_pool":
            return [e.max(best, value).name]
        better = e.lt(best, value)
        if spec.dtype.is_floating_point:
            better = e.or_(better, e.fcmp("uno", value, value))
        place = w.let(f"add {_I32} {columns}, {w.splat(_I32, self._narrow(row))}")
        if spec.padded:  # the first element inside counts, however low
            none = w.let(f"icmp slt {_I32} {found[1]}, zeroinitializer")
            better = e.or_(better, Scalar(w.let(f"and {_MASK} {none}, {inside}"), dt.bool_, LANES))
        return [e.where(better, value, best).name,
                w.let(f"select {_MASK} {better.name}, {_I32} {place}, {_I32} {found[1]}")]

    def _take(self, address: Name, start: Name, inside: Name) -> Scalar:
        """Load an element for every lane; those outside the image read as the lowest value."""
        w, e = self.w, self.vector
        full = vector(self.kind, LANES)
        fill = e.pack(identity(e, "max_of", self.spec.dtype))
        short = {"float": "f32", "double": "f64", "half": "f16"}.get(self.kind, self.kind)

        def load(skip: int, mask: Name) -> Name:
            where = w.at(address, str(skip), self.size)
            return w.call(full, f"llvm.masked.load.v{LANES}{short}.p0", ("ptr", where),
                          ("i32", str(self.size)), (_MASK, mask), (full, fill))
        if self.spec.stride == 1:
            return e.unpack(load(0, inside), self.spec.dtype, LANES)
        if self.spec.stride == 2:
            halves = []
            for skip in (0, LANES):
                steps = "<" + ", ".join(f"i32 {skip + i}" for i in range(LANES)) + ">"
                there = w.let(f"add {_I32} {start}, {steps}")
                halves.append(load(skip, w.let(f"icmp ult {_I32} {there}, {self.edge}")))
            even = ", ".join(f"i32 {2 * i}" for i in range(LANES))
            return e.unpack(w.let(f"shufflevector {full} {halves[0]}, {full} {halves[1]}, {_I32} <{even}>"),
                            self.spec.dtype, LANES)
        offsets = w.let(f"sext {_I32} {self.lanes} to <{LANES} x i64>")
        where = w.let(f"getelementptr {self.kind}, ptr {address}, <{LANES} x i64> {offsets}")
        got = w.call(full, f"llvm.masked.gather.v{LANES}{short}.v{LANES}p0", (f"<{LANES} x ptr>", where),
                     ("i32", str(self.size)), (_MASK, inside), (full, fill))
        return e.unpack(got, self.spec.dtype, LANES)

    # The gradient.

    def _note_row(self, row: Name, image: Name, oz: Name, oy: Name) -> None:
        """Write the search of a row of windows into scratch; the next overwrites what follows its end."""
        w = self.w
        to = w.at("%scratch", row, 4)

        def search(at: Name) -> tuple:
            w.store(_I32, self._search(image, oz, oy, at)[1], w.at(to, at, 4), None, 4)
            return ()
        w.loop("0", self.out[2], str(LANES), search)

    def _add(self, source: Name, into: Name) -> None:
        """Write the loop that adds what each window has to the element it took."""
        w, e, wide = self.w, self.scalar, self.wide

        def add(i: Name) -> tuple:
            offset = w.let(f"load i32, ptr {w.at('%scratch', i, 4)}")
            to = w.at(into, w.let(f"sext i32 {offset} to i64"), wide.itemsize)
            new = e.unpack(w.let(f"load {self.kind}, ptr {w.at(source, i, self.size)}"), self.spec.dtype, 1)
            old = Scalar(w.let(f"load {STORED[wide]}, ptr {to}"), wide, 1)
            w.do(f"store {STORED[wide]} {e.add(old, Scalar(new.name, wide, 1)).name}, ptr {to}")
            return ()
        w.loop("0", self.places, "1", add)

    def _round_to(self, of: Name, to: Name, at: Name, mask: Name | None) -> None:
        w, e, kind = self.w, self.vector, vector(STORED[self.wide], LANES)
        sums = Scalar(w.load(kind, w.at(of, at, self.wide.itemsize), mask), self.wide, LANES)
        rounded = e.pack(e.convert(sums, self.spec.dtype))
        w.store(vector(self.kind, LANES), rounded, w.at(to, at, self.size), mask)


__all__ = ["POOLS", "pool_launches"]
