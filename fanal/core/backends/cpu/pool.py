"""Maximum pooling: the maximum of each window, where it lies, and the gradient, which goes there.

A unit is one plane of the input (one channel of one image). A row of windows runs along vectors; offsets inside the
windows are looped over, those outside the input left out. What depends on the place along x alone (masks, columns) is
computed once for a strip of rows. The gradient of an element adds up the windows that took it in row-major order: for
usual strides every element asks the windows over it, else the windows are gone through one by one. Axes missing in
front of the size are taken as of extent one.
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
_STRIP = 8  # rows that share what depends on the place along x
_I32 = f"<{LANES} x i32>"
_MASK = f"<{LANES} x i1>"
_STEPS = "<" + ", ".join(f"i32 {i}" for i in range(LANES)) + ">"


@dataclass(frozen=True)
class _Spec:
    """Structure of one kernel."""

    what: str  # one of POOLS
    dtype: DType
    flat: bool  # one or two dimensions
    strides: tuple[int, int]  # along y and x: 1, 2 or 0 for any other
    kernel: tuple[int, int]  # 0 when it is looped over
    padded: bool
    dilated: bool
    beside: bool  # windows of two by two side by side, whose gradient is asked for
    asks: bool  # elements ask windows for their gradient
    odd: bool  # then: is the padding along x

    @property
    def key(self) -> str:
        return "pool:" + ":".join(str(getattr(x, "name", x)) for x in vars(self).values())


_Put = Callable[[Name, Scalar, Name], None]  # number of the row of windows, maxima, places


@dataclass(frozen=True)
class _Columns:
    """What the windows of a vector take from every row."""

    begin: Name  # the column of the first offset
    first: Name  # the first column inside the image
    each: list[Name]  # columns by offset, where these are written out
    masks: list[list[Name | None]]  # of what is loaded, by load and vector; None loads all


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
    strides, kernels = (tuple(i if i <= most else 0 for i in t[1:])
                        for t, most in ((three[3], 2), (three[2], _UNROLLED)))
    beside = v.name == "max_pool_dx" and strides == kernels == (2, 2) and n == 2 and not any(padding) \
        and all(d == 1 for d in dilation) and all(2 * o <= m for o, m in zip(out, size))
    enough = (size[-1] + 2 * padding[-1] - kernel[-1]) // stride[-1] < out[-1]
    asks = v.name == "max_pool_dx" and strides[1] > 0 and kernels[1] > 0 and enough and target.vector_bytes >= 32 \
        and all(d == 1 for d in dilation) and not beside
    spec = _Spec(v.name, x.value.dtype, n < 3, strides, kernels, any(padding), any(d != 1 for d in dilation), beside,
                 asks, asks and strides[1] == 2 and padding[-1] % 2 == 1)
    name = target.symbol(spec.key)
    buffers = [Buf(o.value.id, o.offset * o.value.dtype.itemsize) for o in operands]
    words: list[Buf | int] = [buffers[-1], buffers[0], Buf(v.id)]
    for t in (*three[:4], pads, three[4]):
        words += t
    scratch = 0
    if v.name == "max_pool_dx":
        pitch = three[1][2] + (spec.kernel[1] if spec.asks else 0)
        scratch = _round(4 * (math.prod(three[1][:2]) * pitch + spec.kernel[1] + 2 * LANES))
        words.append(scratch)
        if v.dtype in dt.ACCUMULATE and not spec.asks:
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
        w, spec = self.w, self.spec
        self.x, self.g, self.y = (w.word("%args", i, pointer=True) for i in range(3))
        rows = [[w.word("%args", 3 + 3 * i + j) for j in range(3)] for i in range(6)]
        self.extent, self.out, self.kernel, self.stride, self.pad, self.dilation = rows
        if spec.flat:
            for row in rows[:4]:
                row[0] = "1"
        if not spec.padded:
            self.pad = ["0", "0", "0"]
        if not spec.dilated:
            self.dilation = ["1", "1", "1"]
        for axis in (1, 2):
            self.stride[axis] = str(spec.strides[axis - 1] or self.stride[axis])
            self.kernel[axis] = str(spec.kernel[axis - 1] or self.kernel[axis])
        self.plane = w.mul(w.mul(self.extent[0], self.extent[1]), self.extent[2])
        self.places = w.mul(w.mul(self.out[0], self.out[1]), self.out[2])
        self.edge = w.splat(_I32, self._narrow(self.extent[2]))
        if spec.what == "max_pool_dx":
            self.apart = w.word("%args", 21)
            self.pitch = w.add(self.out[2], str(spec.kernel[1])) if spec.asks else self.out[2]
        self.ahead = w.max(str(4096 // self.size), w.mul(self.extent[2], w.mul(self.stride[1], str(_STRIP))))
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
            self._gradient(image, w.at(self.g, places, self.size), w.at(self.y, w.mul(u, self.plane), self.size))
            return ()
        size = 8 if spec.what == "max_pool_at" else self.size

        def strip(at: Name, left: Name | None, columns: _Columns) -> _Put:
            mask = None if left is None else w.lane_mask(LANES, left)

            def put(row: Name, best: Scalar, place: Name) -> None:
                to = w.at(w.at(self.y, w.add(places, w.mul(row, self.out[2])), size), at, size)
                if spec.what == "max_pool_at":
                    wide = w.let(f"sext {_I32} {place} to <{LANES} x i64>")
                    w.store(f"<{LANES} x i64>", wide, to, mask, 8)
                else:
                    w.store(vector(self.kind, LANES), self.vector.pack(best), to, mask, size)
            return put
        self._windows(image, strip)
        return ()

    def _windows(self, image: Name, write: Callable[[Name, Name | None, _Columns], _Put]) -> None:
        """Write the search of all windows, strip by strip.

        `write` gets what a strip has, as in `_strips`, and returns what writes the results of a row.
        """
        w = self.w

        def deep(oz: Name) -> None:
            def strip(at: Name, left: Name | None) -> Callable[[Name], None]:
                x = w.sub(w.mul(at, self.stride[2]), self.pad[2])
                columns = self._columns(x, left is None and not self.spec.padded)
                put = write(at, left, columns)
                return lambda oy: put(w.add(w.mul(oz, self.out[1]), oy), *self._search(image, oz, oy, x, columns))
            self._strips(self.out[1], self.out[2], LANES, strip)
        self._deep(self.out[0], deep)

    def _deep(self, count: Name, write: Callable[[Name], None]) -> None:
        if self.spec.flat:
            write("0")
        else:
            self.w.loop("0", count, "1", lambda z: write(z) or ())

    def _strips(self, rows: Name, along: Name, step: int,
                write: Callable[[Name, Name | None], Callable[[Name], None]]) -> None:
        """Write the loops over strips of rows, vectors along them, and rows.

        write(index along x, how many elements are left there or None for enough) writes what a strip shares and
        returns what writes the part of a row.
        """
        w = self.w
        middle = w.let(f"and i64 {along}, {-step}")

        def strip(first: Name) -> tuple:
            last = w.min(w.add(first, str(_STRIP)), rows)

            def down(at: Name, left: Name | None) -> tuple:
                part = write(at, left)
                w.loop(first, last, "1", lambda y: part(y) or (), once=True)
                return ()
            w.loop("0", middle, str(step), lambda at: down(at, None))
            w.loop(middle, along, str(step), lambda at: down(at, w.sub(along, at)))
            return ()
        w.loop("0", rows, str(_STRIP), strip)

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

    # Along x: what all rows of a strip share.

    def _steps(self, start: Name, by: Name) -> Name:
        """Return start + lane * by as a vector of i32."""
        w = self.w
        lanes = _STEPS if by == "1" else w.let(f"mul {_I32} {_STEPS}, {w.splat(_I32, self._narrow(by))}")
        return w.let(f"add {_I32} {lanes}, {w.splat(_I32, self._narrow(start))}")

    def _inside(self, columns: Name) -> Name:
        return self.w.let(f"icmp ult {_I32} {columns}, {self.edge}")

    def _columns(self, x: Name, inside: bool) -> _Columns:
        """Write columns and masks of the elements that the windows from column `x` on take from a row. `inside`: all of
        these windows are."""
        w, spec = self.w, self.spec
        begin = self._steps(x, self.stride[2])
        first = begin
        if spec.padded:  # the first column inside: counts, however low its element
            by = self.dilation[2]
            if by == "1":
                first = w.call(_I32, f"llvm.smax.v{LANES}i32", (_I32, begin), (_I32, "zeroinitializer"))
            else:
                many = w.splat(_I32, self._narrow(by))
                up = w.let(f"add {_I32} {w.let(f'sub {_I32} zeroinitializer, {begin}')}, "
                           f"{w.let(f'add {_I32} {many}, splat (i32 -1)')}")
                up = w.let(f"mul {_I32} {w.let(f'sdiv {_I32} {up}, {many}')}, {many}")
                out = w.let(f"icmp slt {_I32} {begin}, zeroinitializer")
                moved = w.let(f"add {_I32} {begin}, {up}")
                first = w.let(f"select {_MASK} {out}, {_I32} {moved}, {_I32} {begin}")
        if not spec.kernel[1]:
            return _Columns(begin, first, [], [])
        steps = [w.mul(str(k), self.dilation[2]) for k in range(spec.kernel[1])]
        columns = [begin, *(w.let(f"add {_I32} {begin}, {w.splat(_I32, self._narrow(k))}") for k in steps[1:])]
        masks: list[list[Name | None]] = []
        if spec.strides[1] == 2:
            for i, k in enumerate(steps if spec.dilated else steps[::2]):
                exact = inside and not spec.dilated and 2 * i + 1 < len(steps)
                masks.append([None if exact else self._inside(self._steps(w.add(x, w.add(k, str(skip))), "1"))
                              for skip in (0, LANES)])
        else:
            masks += [[None if inside and spec.strides[1] else self._inside(c)] for c in columns]
        return _Columns(begin, first, columns, masks)

    # Windows.

    def _search(self, image: Name, oz: Name, oy: Name, x: Name, columns: _Columns) -> tuple[Scalar, Name]:
        """Write the search of the windows from column `x` on in a row. Returns the maxima and their places."""
        w, e, spec = self.w, self.vector, self.spec
        z, z_low, z_high = ("0", "0", "1") if spec.flat else self._span(0, oz)
        y, y_low, y_high = self._span(1, oy)

        def line(kz: Name, ky: Name) -> Name:
            there = w.mul(w.add(z, w.mul(kz, self.dilation[0])), self.extent[1])
            return w.mul(w.add(there, w.add(y, w.mul(ky, self.dilation[1]))), self.extent[2])
        start = [(e.type(spec.dtype), identity(e, "max_of", spec.dtype).name)]
        if spec.what != "max_pool":
            start.append((_I32, self._place(columns.first, line(z_low, y_low))))

        def deep(kz: Name, *found: Name) -> list[Name]:
            def down(ky: Name, *found: Name) -> list[Name]:
                row = line(kz, ky)
                self._fetch(image, w.add(row, x))

                def across(kx: Name, *found: Name) -> list[Name]:
                    step = w.mul(kx, self.dilation[2])
                    there = w.let(f"add {_I32} {columns.begin}, {w.splat(_I32, self._narrow(step))}")
                    at = w.at(image, w.add(row, w.add(x, step)), self.size)
                    value = self._spaced(at, self._inside(there))
                    return self._compare(value, self._place(there, row), list(found))
                if not spec.kernel[1]:
                    return w.loop("0", self.kernel[2], "1", across, self._carried(start, found), once=True)
                state = list(found)
                for value, there in zip(self._values(w.at(image, w.add(row, x), self.size), columns), columns.each):
                    state = self._compare(value, self._place(there, row), state)
                return state
            return w.loop(y_low, y_high, "1", down, self._carried(start, found), once=True)
        state = deep("0", *(v for _, v in start)) if spec.flat else w.loop(z_low, z_high, "1", deep, start, once=True)
        return Scalar(state[0], spec.dtype, LANES), state[-1]

    def _fetch(self, plane: Name, at: Name, write: bool = False) -> None:
        """Ask for as much of a row some rows on as a vector of windows takes: rows in turn keep the machine from it."""
        w = self.w
        there = w.at(plane, w.add(at, self.ahead), self.size)
        for near in range(0, LANES * self.size * (self.spec.strides[1] or 1), 64):
            w.call("void", "llvm.prefetch.p0", ("ptr", w.at(there, str(near))), ("i32", str(int(write))), ("i32", "3"),
                   ("i32", "1"))

    def _place(self, columns: Name, row: Name) -> Name:
        if self.spec.what == "max_pool":
            return ""
        return self.w.let(f"add {_I32} {columns}, {self.w.splat(_I32, self._narrow(row))}")

    @staticmethod
    def _carried(kinds: list[tuple[str, Name]], values: tuple[Name, ...]) -> list[tuple[str, Name]]:
        return [(kind, v) for (kind, _), v in zip(kinds, values)]

    def _compare(self, value: Scalar, place: Name, found: list[Name]) -> list[Name]:
        """Write one offset: the elements at it and their places."""
        w, e, spec = self.w, self.vector, self.spec
        best = Scalar(found[0], spec.dtype, LANES)
        if spec.what == "max_pool":
            return [e.max(best, value).name]
        if spec.dtype.is_floating_point:  # one comparison under the mask of the other
            kept = e.and_(e.fcmp("ord", value, value), e.fcmp("ule", value, best))
        else:
            kept = e.le(value, best)
        return [e.where(kept, best, value).name,
                w.let(f"select {_MASK} {kept.name}, {_I32} {found[1]}, {_I32} {place}")]

    def _values(self, address: Name, columns: _Columns) -> list[Scalar]:
        """Load what every offset along x takes from a row; `address` is that of the first for the first lane."""
        w, e, spec = self.w, self.vector, self.spec
        if not spec.strides[1]:
            steps = [w.mul(str(k), self.dilation[2]) for k in range(spec.kernel[1])]
            return [self._spaced(w.at(address, k, self.size), m or "") for k, (m,) in zip(steps, columns.masks)]
        together = 1 if spec.dilated else spec.strides[1]
        found: list[Scalar] = []
        for i, masks in enumerate(columns.masks):
            there = w.at(address, w.mul(str(i * together), self.dilation[2]), self.size)
            parts = [self._load(w.at(there, str(LANES * k), self.size), m) for k, m in enumerate(masks)]
            if spec.strides[1] == 1:
                found.append(e.unpack(parts[0], spec.dtype, LANES))
                continue
            for odd in range(together):
                order = ", ".join(f"i32 {2 * k + odd}" for k in range(LANES))
                full = vector(self.kind, LANES)
                taken = w.let(f"shufflevector {full} {parts[0]}, {full} {parts[1]}, {_I32} <{order}>")
                found.append(e.unpack(taken, spec.dtype, LANES))
        return found[:spec.kernel[1]]

    def _load(self, address: Name, mask: Name | None) -> Name:
        """Load a vector; elements outside the image read as the lowest value."""
        full = vector(self.kind, LANES)
        if mask is None:
            return self.w.load(full, address, None, self.size)
        fill = self.vector.pack(identity(self.vector, "max_of", self.spec.dtype))
        return self.w.call(full, f"llvm.masked.load.v{LANES}{self._short}.p0", ("ptr", address),
                           ("i32", str(self.size)), (_MASK, mask), (full, fill))

    @property
    def _short(self) -> str:
        return {"float": "f32", "double": "f64", "half": "f16"}.get(self.kind, self.kind)

    def _spaced(self, address: Name, inside: Name) -> Scalar:
        """Gather an element for every lane, as far apart as windows are."""
        w, e = self.w, self.vector
        full = vector(self.kind, LANES)
        offsets = w.let(f"sext {_I32} {self._steps('0', self.stride[2])} to <{LANES} x i64>")
        where = w.let(f"getelementptr {self.kind}, ptr {address}, <{LANES} x i64> {offsets}")
        fill = e.pack(identity(e, "max_of", self.spec.dtype))
        got = w.call(full, f"llvm.masked.gather.v{LANES}{self._short}.v{LANES}p0", (f"<{LANES} x ptr>", where),
                     ("i32", str(self.size)), (_MASK, inside), (full, fill))
        return e.unpack(got, self.spec.dtype, LANES)

    # The gradient.

    def _gradient(self, image: Name, g: Name, result: Name) -> None:
        """Write the gradient of a plane."""
        w, spec = self.w, self.spec
        if spec.beside:
            self._beside(image, g, result)
            return
        margin = str(spec.kernel[1]) if spec.asks else "0"  # on each side of a row: places that no element has

        def strip(at: Name, left: Name | None, columns: _Columns) -> _Put:
            mask = None if left is None else w.lane_mask(LANES, left)
            return lambda row, best, place: w.store(
                _I32, place, w.at("%scratch", w.add(margin, w.add(w.mul(row, self.pitch), at)), 4), mask, 4)
        self._windows(image, strip)
        if spec.asks:
            self._ask(g, result)
            return
        into = result if self.wide is spec.dtype else w.at("%scratch", self.apart)
        self._clear(into, self.wide)
        self._add(g, into)
        if into is not result:
            self._along(self.plane, lambda at, mask: self._round_to(into, result, at, mask))

    def _clear(self, plane: Name, dtype: DType) -> None:
        w, zero = self.w, self.vector.const(0, dtype)
        self._along(self.plane, lambda at, mask: w.store(
            vector(STORED[dtype], LANES), self.vector.pack(zero), w.at(plane, at, dtype.itemsize), mask))

    def _beside(self, image: Name, g: Name, result: Name) -> None:
        """Write the gradient of windows of two by two that lie side by side: an element is in one or none."""
        w, e, spec = self.w, self.vector, self.spec
        full, zero = vector(self.kind, LANES), e.const(0, self.wide)
        rest = w.let(f"icmp ne i64 {self.plane}, {w.mul('4', self.places)}")
        w.when(rest, lambda: self._clear(result, spec.dtype))

        def strip(at: Name, left: Name | None, columns: _Columns) -> _Put:
            mask = None if left is None else w.lane_mask(LANES, left)
            masks = [None if left is None else w.lane_mask(LANES, w.sub(w.mul(left, "2"), str(LANES * k)))
                     for k in (0, 1)]

            def put(row: Name, best: Scalar, place: Name) -> None:
                there = w.at(g, w.add(w.mul(row, self.out[2]), at), self.size)
                given = Scalar(e.unpack(w.load(full, there, mask, self.size), spec.dtype, LANES).name, self.wide, LANES)
                given = e.add(zero, given)  # -0 becomes 0, as in a sum
                for ky in ("0", "1"):
                    line = w.mul(w.add(w.mul(row, "2"), ky), self.extent[2])
                    here = [w.let(f"add {_I32} {c}, {w.splat(_I32, self._narrow(line))}") for c in columns.each]
                    took = [Scalar(w.let(f"icmp eq {_I32} {place}, {h}"), dt.bool_, LANES) for h in here]
                    parts = [e.pack(e.convert(e.where(t, given, zero), spec.dtype)) for t in took]
                    self._fetch(result, w.add(line, w.mul(at, "2")), write=True)
                    to = w.at(result, w.add(line, w.mul(at, "2")), self.size)
                    for k, part in enumerate(self._interleaved(parts)):
                        w.store(full, part, w.at(to, str(LANES * k), self.size), masks[k], self.size)
            return put
        self._windows(image, strip)

    def _interleaved(self, parts: list[Name]) -> list[Name]:
        full = vector(self.kind, LANES)
        orders = (", ".join(f"i32 {LANES * (i % 2) + i // 2 + k}" for i in range(LANES)) for k in (0, LANES // 2))
        return [self.w.let(f"shufflevector {full} {parts[0]}, {full} {parts[1]}, {_I32} <{order}>") for order in orders]

    def _ask(self, g: Name, result: Name) -> None:
        """Write for each element the sum over the windows that it is in, in order, of what those that took it have."""
        w, e, spec = self.w, self.vector, self.spec
        wide, by = spec.kernel[1], spec.strides[1]
        full, sums = vector(self.kind, LANES), e.type(self.wide)
        zero = e.const(0, self.wide).name

        def guard(row: Name) -> tuple:
            w.do(f"store <{wide} x i32> splat (i32 -1), ptr {w.at('%scratch', w.mul(row, self.pitch), 4)}, align 4")
            return ()
        w.loop("0", w.add(w.mul(self.out[0], self.out[1]), "1"), "1", guard)

        def over(axis: int, i: Name) -> tuple[Name, Name]:
            """Return the range of the windows along an axis that index `i` is in."""
            i, step = w.add(i, self.pad[axis]), self.stride[axis]
            low = w.div(w.max(w.add(w.sub(i, self.kernel[axis]), step), "0"), step)
            return low, w.min(w.add(w.div(i, step), "1"), self.out[axis])

        def deep(iz: Name) -> None:
            z_low, z_high = ("0", "1") if spec.flat else over(0, iz)

            def strip(x: Name, left: Name | None) -> Callable[[Name], None]:
                columns = [self._steps(w.add(x, str(f)), str(by)) for f in range(by)]
                inside = [None if left is None else self._inside(c) for c in columns]
                masks = [None if left is None else w.lane_mask(LANES, w.sub(left, str(LANES * k))) for k in range(by)]
                first = w.div(w.add(x, self.pad[2]), str(by))  # the window that begins there

                def row(iy: Name) -> None:
                    line = w.mul(w.add(w.mul(iz, self.extent[1]), iy), self.extent[2])
                    here = [w.let(f"add {_I32} {c}, {w.splat(_I32, self._narrow(line))}") for c in columns]
                    self._fetch(result, w.add(line, x), write=True)
                    low, high = over(1, iy)

                    def down(oz: Name, *acc: Name) -> list[Name]:
                        def windows(oy: Name, *acc: Name) -> list[Name]:
                            number = w.add(w.mul(oz, self.out[1]), oy)
                            took = w.at("%scratch", w.add(w.add(w.mul(number, self.pitch), str(wide)), first), 4)
                            given = w.at(g, w.add(w.mul(number, self.out[2]), first), self.size)
                            return [self._taken(f, here[f], inside[f], took, given, acc[f]) for f in range(by)]
                        return w.loop(low, high, "1", windows, [(sums, a) for a in acc])
                    start = [(sums, zero)] * by
                    found = down("0", *[zero] * by) if spec.flat else w.loop(z_low, z_high, "1", down, start)
                    packed = [e.pack(e.convert(Scalar(v, self.wide, LANES), spec.dtype)) for v in found]
                    if by == 2:
                        packed = self._interleaved(packed)
                    for k, (part, mask) in enumerate(zip(packed, masks)):
                        to = w.at(result, w.add(w.add(line, x), str(LANES * k)), self.size)
                        w.store(full, part, to, mask, self.size)
                return row
            self._strips(self.extent[1], self.extent[2], LANES * by, strip)
        self._deep(self.extent[0], deep)

    def _taken(self, f: int, here: Name, inside: Name | None, took: Name, given: Name, total: Name) -> Name:
        """Add what the windows of a row have for the elements `here`, which are `f` columns from every begin."""
        w, spec = self.w, self.spec
        acc = Scalar(total, self.wide, LANES)
        for kx in reversed(range(spec.kernel[1])):
            shift, rest = divmod(f + spec.odd - kx, spec.strides[1])
            if rest:
                continue
            place = w.load(_I32, w.at(took, str(shift), 4), None, 4)
            match = w.let(f"icmp eq {_I32} {place}, {here}")
            if inside:
                match = w.let(f"and {_MASK} {match}, {inside}")
            new = w.load(vector(self.kind, LANES), w.at(given, str(shift), self.size), match, self.size)
            acc = self.vector.add(acc, Scalar(self.vector.unpack(new, spec.dtype, LANES).name, self.wide, LANES))
        return acc.name

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
