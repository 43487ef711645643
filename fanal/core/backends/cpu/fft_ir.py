"""The kernels of Fourier transforms: lines into lanes, passes, lanes into lines. See `fft.py`."""

from __future__ import annotations

import math
from collections.abc import Callable

from fanal.core.backends.cpu.emit import LANES, literal
from fanal.core.backends.cpu.irtext import Value, Writer, module
from fanal.core.backends.cpu.pack_ir import transpose
from fanal.core.backends.cpu.target import Target
from fanal.core.base.dtype import dtype as DType

Pair = tuple[Value, Value]  # real and imaginary parts, in lanes


def source(target: Target, symbol: str, what: str, of_real: bool, real: DType) -> str:
    """Return the module of one kernel. what: "whole" (to complex), "half" (real to half a spectrum), "real" (back)."""
    w = Writer(target, set())
    return module([_Transform(w, what, of_real, real).function(symbol)], w.declared)


class _Transform:
    """Writes one kernel."""

    def __init__(self, w: Writer, what: str, of_real: bool, real: DType) -> None:
        self.w, self.what = w, what
        self.size, self.kind = real.itemsize, {4: "float", 8: "double"}[real.itemsize]
        self.vector = f"<{LANES} x {self.kind}>"
        self.from_complex, self.to_complex = not of_real, what != "real"

    def function(self, symbol: str) -> str:
        w = self.w
        self.x, self.y, self.passes, self.turns = (w.word("%args", i, pointer=True) for i in range(4))
        self.count, self.n, self.inner, self.lines, self.extent, self.length, back, bits = (
            w.word("%args", 4 + i) for i in range(8)
        )
        self.back = w.let(f"icmp ne i64 {back}, 0")
        self.scale = w.cast("double", self.kind, w.let(f"bitcast i64 {bits} to double"))
        self.plane = w.mul(self.n, str(LANES * self.size))  # bytes of the real or the imaginary parts of a buffer
        self.half = w.div(self.n, "2")
        self.abreast = w.let(f"icmp eq i64 {w.let(f'urem i64 {self.inner}, {LANES}')}, 0")
        w.loop("%lo", "%hi", "1", self._unit)
        return w.function(f"void @{symbol}(ptr noalias %args, i64 %lo, i64 %hi, ptr noalias %scratch)")

    def _unit(self, u: Value) -> tuple:
        w = self.w
        first = w.mul(u, str(LANES))
        other = w.at("%scratch", w.mul(self.plane, "2"))
        re, im = self._parts("%scratch")
        w.when(self.abreast, lambda: self._load_abreast(first, re, im), lambda: self._load_lines(first, re, im))

        def one(k: Value, of: Value, to: Value) -> tuple:
            at = w.at(self.passes, k, 24)
            radix, blocks, stride = (w.word(at, i) for i in range(3))
            self._switch(radix, of, to, blocks, stride)
            return to, of

        found, _ = w.loop("0", self.count, "1", one, [("ptr", "%scratch"), ("ptr", other)])
        re, im = self._parts(found)
        w.when(self.abreast, lambda: self._store_abreast(first, re, im), lambda: self._store_lines(first, re, im))
        return ()

    def _parts(self, buffer: Value) -> Pair:
        """Return where real and imaginary parts are. Backward is forward with the two exchanged, before and after."""
        w, other = self.w, self.w.at(buffer, self.plane)
        return w.select(self.back, other, buffer, "ptr"), w.select(self.back, buffer, other, "ptr")

    # Lines.

    def _line(self, line: Value, extent: Value) -> Value:
        """Return the number of the first element of a line."""
        w = self.w
        outer = w.div(line, self.inner)
        return w.add(w.mul(w.mul(outer, extent), self.inner), w.sub(line, w.mul(outer, self.inner)))

    def _mirrored(self, e: Value) -> tuple[Value, Value, Value]:
        """Of a half spectrum: which frequency stands for `e`, whether conjugated, and whether it must be real."""
        w = self.w
        across = w.sub(self.n, e)
        turned = w.less(self.half, e)
        at = w.select(turned, across, e)
        twice = w.let(f"icmp eq i64 {w.mul(at, '2')}, {self.n}")
        return at, turned, w.let(f"or i1 {twice}, {w.let(f'icmp eq i64 {at}, 0')}")

    def _get(self, at: Value, kind: str) -> Value:
        return self.w.let(f"load {kind}, ptr {at}, align {self.size}")

    def _put(self, at: Value, x: Value, kind: str) -> None:
        self.w.do(f"store {kind} {x}, ptr {at}, align {self.size}")

    def _zero(self, kind: str) -> Value:
        return "0.0" if kind == self.kind else "zeroinitializer"

    def _seen(self, e: Value, read: Callable[[Value], Pair], kind: str) -> Pair:
        """Return element `e` of the line to transform; `read` reads what is in memory. Beyond that are zeros."""
        if self.what != "real":
            return self._within(e, read, kind)
        w = self.w
        at, turned, real = self._mirrored(e)
        x, y = self._within(at, read, kind)
        y = w.select(turned, w.let(f"fneg {kind} {y}"), y, kind)
        return x, w.select(real, self._zero(kind), y, kind)

    def _within(self, e: Value, read: Callable[[Value], Pair], kind: str) -> Pair:
        w = self.w
        inside = w.less(e, self.extent)
        x, y = read(w.select(inside, e, "0"))
        return w.select(inside, x, self._zero(kind), kind), w.select(inside, y, self._zero(kind), kind)

    def _load_lines(self, first: Value, re: Value, im: Value) -> None:
        """Load lines that lie one behind the other: by tiles that are turned, then what is left element by element."""
        w = self.w
        starts = [self._line(w.min(w.add(first, str(i)), w.sub(self.lines, "1")), self.extent) for i in range(LANES)]
        seen = w.min(self.n if self.what != "real" else w.add(self.half, "1"), self.extent)
        tiled = self._tiled(seen)
        w.loop("0", tiled, str(LANES), lambda e: self._load_tile(e, starts, re, im))
        rest = self.n
        if self.what == "real":  # a tile has written the conjugates of its elements too
            some = w.less("0", tiled)
            rest = w.select(some, w.max(w.add(w.sub(self.n, tiled), "1"), tiled), self.n)

        def lane(i: Value) -> tuple:
            start = self._line(w.min(w.add(first, i), w.sub(self.lines, "1")), self.extent)

            def read(e: Value) -> Pair:
                place = w.add(start, w.mul(e, self.inner))
                if not self.from_complex:
                    return self._get(w.at(self.x, place, self.size), self.kind), "0.0"
                at = w.at(self.x, place, 2 * self.size)
                return self._get(at, self.kind), self._get(w.at(at, "1", self.size), self.kind)

            def element(e: Value) -> tuple:
                x, y = self._seen(e, read, self.kind)
                at = w.add(w.mul(e, str(LANES)), i)
                self._put(w.at(re, at, self.size), x, self.kind)
                self._put(w.at(im, at, self.size), y, self.kind)
                return ()

            w.loop(tiled, rest, "1", element)
            return ()

        w.loop("0", str(LANES), "1", lane, once=True)

    def _tiled(self, count: Value) -> Value:
        """Return how many of `count` elements of a line are in whole tiles."""
        w = self.w
        whole = w.mul(w.div(count, str(LANES)), str(LANES))
        return w.select(w.let(f"icmp eq i64 {self.inner}, 1"), whole, "0")

    def _load_tile(self, e: Value, starts: list[Value], re: Value, im: Value) -> tuple:
        w, both = self.w, f"<{2 * LANES} x {self.kind}>"
        for which, to in enumerate((re, im) if self.from_complex else (re,)):
            rows = []
            for start in starts:
                at = w.at(self.x, w.add(start, e), self.size * (1 + self.from_complex))
                rows.append(self._picked(self._get(at, both), both, which) if self.from_complex
                            else self._get(at, self.vector))
            for j, x in enumerate(transpose(w, self.vector, rows)):
                here = w.add(e, str(j))
                if self.what == "real":
                    x = self._load_conjugate(here, x, which, to)
                self._put(w.at(to, w.mul(here, str(LANES)), self.size), x, self.vector)
        if not self.from_complex:
            for j in range(LANES):
                here, zeros = w.add(e, str(j)), "zeroinitializer"
                if self.what == "real":
                    self._load_conjugate(here, zeros, 0, im)
                self._put(w.at(im, w.mul(here, str(LANES)), self.size), zeros, self.vector)
        return ()

    def _load_conjugate(self, e: Value, x: Value, which: int, to: Value) -> Value:
        """Store what element `e` of a half spectrum says of the other half, and return what it is itself."""
        w = self.w
        other = w.select(w.let(f"icmp eq i64 {e}, 0"), "0", w.sub(self.n, e))
        turned = x
        if which:
            _, _, real = self._mirrored(e)
            x = w.select(real, "zeroinitializer", x, self.vector)
            turned = w.let(f"fneg {self.vector} {x}")
        self._put(w.at(to, w.mul(other, str(LANES)), self.size), turned, self.vector)
        return x

    def _load_abreast(self, first: Value, re: Value, im: Value) -> None:
        """Load lines that lie side by side: a vector has one element of each."""
        w, start = self.w, self._line(first, self.extent)

        def read(e: Value) -> Pair:
            place = w.add(start, w.mul(e, self.inner))
            if not self.from_complex:
                return self._get(w.at(self.x, place, self.size), self.vector), "zeroinitializer"
            both = f"<{2 * LANES} x {self.kind}>"
            found = self._get(w.at(self.x, place, 2 * self.size), both)
            return self._picked(found, both, 0), self._picked(found, both, 1)

        def element(e: Value) -> tuple:
            x, y = self._seen(e, read, self.vector)
            at = w.mul(e, str(LANES))
            self._put(w.at(re, at, self.size), x, self.vector)
            self._put(w.at(im, at, self.size), y, self.vector)
            return ()

        w.loop("0", self.n, "1", element, once=True)

    def _picked(self, x: Value, both: str, which: int) -> Value:
        places = ", ".join(f"i32 {2 * i + which}" for i in range(LANES))
        return self.w.let(f"shufflevector {both} {x}, {both} poison, <{LANES} x i32> <{places}>")

    def _scaled(self, x: Value, kind: str) -> Value:
        scale = self.scale if kind == self.kind else self.w.splat(kind, self.scale)
        return self.w.let(f"fmul {kind} {x}, {scale}")

    def _store_lines(self, first: Value, re: Value, im: Value) -> None:
        w = self.w
        many = w.min(w.sub(self.lines, first), str(LANES))
        tiled = w.select(w.let(f"icmp eq i64 {many}, {LANES}"), self._tiled(self.length), "0")
        starts = [self._line(w.add(first, str(i)), self.length) for i in range(LANES)]
        w.loop("0", tiled, str(LANES), lambda e: self._store_tile(e, starts, re, im))

        def lane(i: Value) -> tuple:
            start = self._line(w.add(first, i), self.length)

            def element(e: Value) -> tuple:
                place, of = w.add(start, w.mul(e, self.inner)), w.add(w.mul(e, str(LANES)), i)
                at = w.at(self.y, place, self.size * (2 if self.to_complex else 1))
                self._put(at, self._scaled(self._get(w.at(re, of, self.size), self.kind), self.kind), self.kind)
                if self.to_complex:
                    y = self._scaled(self._get(w.at(im, of, self.size), self.kind), self.kind)
                    self._put(w.at(at, "1", self.size), y, self.kind)
                return ()

            w.loop(tiled, self.length, "1", element)
            return ()

        w.loop("0", many, "1", lane)

    def _store_tile(self, e: Value, starts: list[Value], re: Value, im: Value) -> tuple:
        w = self.w
        turned = []
        for of in (re, im) if self.to_complex else (re,):
            places = [w.at(of, w.mul(w.add(e, str(j)), str(LANES)), self.size) for j in range(LANES)]
            columns = [self._scaled(self._get(at, self.vector), self.vector) for at in places]
            turned.append(transpose(w, self.vector, columns))
        for i, start in enumerate(starts):
            at = w.at(self.y, w.add(start, e), self.size * len(turned))
            if self.to_complex:
                self._put(at, self._mixed(turned[0][i], turned[1][i]), f"<{2 * LANES} x {self.kind}>")
            else:
                self._put(at, turned[0][i], self.vector)
        return ()

    def _mixed(self, x: Value, y: Value) -> Value:
        places = ", ".join(f"i32 {k}" for i in range(LANES) for k in (i, i + LANES))
        return self.w.let(f"shufflevector {self.vector} {x}, {self.vector} {y}, <{2 * LANES} x i32> <{places}>")

    def _store_abreast(self, first: Value, re: Value, im: Value) -> None:
        w, start = self.w, self._line(first, self.length)

        def element(e: Value) -> tuple:
            place, of = w.add(start, w.mul(e, self.inner)), w.mul(e, str(LANES))
            x = self._scaled(self._get(w.at(re, of, self.size), self.vector), self.vector)
            if not self.to_complex:
                self._put(w.at(self.y, place, self.size), x, self.vector)
                return ()
            y = self._scaled(self._get(w.at(im, of, self.size), self.vector), self.vector)
            self._put(w.at(self.y, place, 2 * self.size), self._mixed(x, y), f"<{2 * LANES} x {self.kind}>")
            return ()

        w.loop("0", self.length, "1", element, once=True)

    # Passes: element q + s (p + m k) of `of`, for k < r, become q + s (r p + j) of `to`, for j < r.

    def _switch(self, radix: Value, of: Value, to: Value, blocks: Value, stride: Value) -> None:
        w = self.w

        def other(rest: list[int]) -> None:
            if not rest:
                self._any_radix(radix, of, to, blocks, stride)
                return
            r = rest[0]
            w.when(w.let(f"icmp eq i64 {radix}, {r}"), lambda: self._radix(r, of, to, blocks, stride),
                   lambda: other(rest[1:]))

        other([4, 2, 3, 5])

    def _at(self, buffer: Value, element: Value) -> Value:
        return self.w.at(buffer, self.w.mul(element, str(LANES)), self.size)

    def _read(self, buffer: Value, element: Value) -> Pair:
        at = self._at(buffer, element)
        return self._vector(at), self._vector(self.w.at(at, self.plane))

    def _vector(self, at: Value) -> Value:
        return self.w.let(f"load {self.vector}, ptr {at}, align {LANES * self.size}")

    def _write(self, buffer: Value, element: Value, z: Pair) -> None:
        at = self._at(buffer, element)
        for x, place in zip(z, (at, self.w.at(at, self.plane))):
            self.w.do(f"store {self.vector} {x}, ptr {place}, align {LANES * self.size}")

    def _turn(self, k: Value) -> Pair:
        """Return exp(-2 pi i k / n) in every lane."""
        w, at = self.w, self.w.at(self.turns, k, 2 * self.size)
        return (w.splat(self.vector, self._get(at, self.kind)),
                w.splat(self.vector, self._get(w.at(at, "1", self.size), self.kind)))

    def _op(self, op: str, a: Value, b: Value) -> Value:
        return self.w.let(f"{op} {self.vector} {a}, {b}")

    def _add(self, a: Pair, b: Pair) -> Pair:
        return self._op("fadd", a[0], b[0]), self._op("fadd", a[1], b[1])

    def _sub(self, a: Pair, b: Pair) -> Pair:
        return self._op("fsub", a[0], b[0]), self._op("fsub", a[1], b[1])

    def _by(self, a: Pair, number: float) -> Pair:
        c = f"splat ({self.kind} {literal(number, self.kind)})"
        return self._op("fmul", a[0], c), self._op("fmul", a[1], c)

    def _mul(self, a: Pair, b: Pair) -> Pair:
        return (self._op("fsub", self._op("fmul", a[0], b[0]), self._op("fmul", a[1], b[1])),
                self._op("fadd", self._op("fmul", a[0], b[1]), self._op("fmul", a[1], b[0])))

    def _add_turned(self, a: Pair, b: Pair) -> Pair:
        """a - i b."""
        return self._op("fadd", a[0], b[1]), self._op("fsub", a[1], b[0])

    def _sub_turned(self, a: Pair, b: Pair) -> Pair:
        """a + i b."""
        return self._op("fsub", a[0], b[1]), self._op("fadd", a[1], b[0])

    def _radix(self, r: int, of: Value, to: Value, blocks: Value, stride: Value) -> None:
        w, transform = self.w, {2: self._two, 3: self._three, 4: self._four, 5: self._five}[r]
        apart = w.mul(blocks, stride)

        def block(p: Value) -> tuple:
            turns = [self._turn(w.mul(w.mul(p, str(j)), stride)) for j in range(1, r)]

            def lane(q: Value) -> tuple:
                place = w.add(q, w.mul(p, stride))
                z = [self._read(of, w.add(place, w.mul(apart, str(k)))) for k in range(r)]
                begin = w.add(q, w.mul(w.mul(p, stride), str(r)))
                for j, y in enumerate(transform(z)):
                    self._write(to, w.add(begin, w.mul(stride, str(j))), self._mul(y, turns[j - 1]) if j else y)
                return ()

            w.loop("0", stride, "1", lane, once=True)
            return ()

        w.loop("0", blocks, "1", block, once=True)

    def _two(self, z: list[Pair]) -> list[Pair]:
        return [self._add(*z), self._sub(*z)]

    def _three(self, z: list[Pair]) -> list[Pair]:
        total = self._add(z[1], z[2])
        middle = self._sub(z[0], self._by(total, 0.5))
        side = self._by(self._sub(z[1], z[2]), math.sqrt(0.75))
        return [self._add(z[0], total), self._add_turned(middle, side), self._sub_turned(middle, side)]

    def _four(self, z: list[Pair]) -> list[Pair]:
        a, b = self._add(z[0], z[2]), self._sub(z[0], z[2])
        c, d = self._add(z[1], z[3]), self._sub(z[1], z[3])
        return [self._add(a, c), self._add_turned(b, d), self._sub(a, c), self._sub_turned(b, d)]

    def _five(self, z: list[Pair]) -> list[Pair]:
        (c1, s1), (c2, s2) = ((math.cos(2 * math.pi * k / 5), math.sin(2 * math.pi * k / 5)) for k in (1, 2))
        a, b, c, d = self._add(z[1], z[4]), self._add(z[2], z[3]), self._sub(z[1], z[4]), self._sub(z[2], z[3])
        m1 = self._add(z[0], self._add(self._by(a, c1), self._by(b, c2)))
        m2 = self._add(z[0], self._add(self._by(a, c2), self._by(b, c1)))
        n1, n2 = self._add(self._by(c, s1), self._by(d, s2)), self._sub(self._by(c, s2), self._by(d, s1))
        return [self._add(z[0], self._add(a, b)), self._add_turned(m1, n1), self._add_turned(m2, n2),
                self._sub_turned(m2, n2), self._sub_turned(m1, n1)]

    def _any_radix(self, r: Value, of: Value, to: Value, blocks: Value, stride: Value) -> None:
        """One output after the other, by the sum that defines it."""
        w = self.w
        apart, step = w.mul(blocks, stride), w.div(self.n, r)

        def block(p: Value) -> tuple:
            def output(j: Value) -> tuple:
                turn = self._turn(w.mul(w.mul(p, j), stride))

                def lane(q: Value) -> tuple:
                    place = w.add(q, w.mul(p, stride))

                    def term(k: Value, re: Value, im: Value, at: Value) -> tuple:
                        z = self._mul(self._read(of, w.add(place, w.mul(apart, k))), self._turn(w.mul(at, step)))
                        following = w.add(at, j)
                        around = w.less(following, r)
                        return *self._add((re, im), z), w.select(around, following, w.sub(following, r))

                    zero = "zeroinitializer"
                    re, im, _ = w.loop("0", r, "1", term, [(self.vector, zero), (self.vector, zero), ("i64", "0")],
                                       once=True)
                    begin = w.add(q, w.mul(w.mul(p, stride), r))
                    self._write(to, w.add(begin, w.mul(stride, j)), self._mul((re, im), turn))
                    return ()

                w.loop("0", stride, "1", lane, once=True)
                return ()

            w.loop("0", r, "1", output, once=True)
            return ()

        w.loop("0", blocks, "1", block, once=True)
