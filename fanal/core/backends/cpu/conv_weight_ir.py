"""LLVM IR of the gradient of a convolution by its weight.

Sums run over the pixels of a fixed part of the images in order, and the parts are added up in order; how many parts
there are depends on the shapes alone.
"""

from __future__ import annotations

from fanal.core.backends.cpu import conv_ir as words
from fanal.core.backends.cpu.conv_ir import Convolution, ConvSpec
from fanal.core.backends.cpu.irtext import SCALAR, Value, Writer, bits, module
from fanal.core.backends.cpu.pack_ir import pack_panel, transpose
from fanal.core.backends.cpu.register_tile_ir import Spec as TileSpec
from fanal.core.backends.cpu.register_tile_ir import Tile
from fanal.core.backends.cpu.target import Target


class _Weight(Convolution):
    """Units are blocks of input channels x groups x parts of the images.

    Rows of a product are (input channel, tap), columns output channels, k the pixels. Sums are kept in the part's
    slice of the partial sums, laid out (part, group, channel, tap, output channel).
    """

    def write(self) -> str:
        self.load_words()
        self.w.loop("%lo", "%hi", "1", self.unit)
        return self.function()

    def unit(self, u: Value) -> list[Value]:
        w, p = self.w, self.words
        blocks = w.div(w.add(p[words.CG], w.sub(p[words.BLOCK], "1")), p[words.BLOCK])
        block, group, part = self.split(u, blocks, p[words.GROUPS])
        c0 = w.mul(block, p[words.BLOCK])
        channels = w.min(p[words.BLOCK], w.sub(p[words.CG], c0))
        row_bytes = w.mul(p[words.WIDE], str(self.size))
        place = w.add(w.mul(w.add(w.mul(part, p[words.GROUPS]), group), p[words.CG]), c0)
        acc = w.at(p[words.Y], w.mul(w.mul(place, p[words.TAPS]), row_bytes))
        first = w.mul(part, p[words.IMAGES])
        last = w.min(w.add(first, p[words.IMAGES]), p[words.N])

        def image(n: Value) -> list[Value]:
            def plane(oz: Value) -> list[Value]:
                def band(oy: Value) -> list[Value]:
                    same = [w.let(f"icmp eq i64 {a}, {b}") for a, b in ((n, first), (oz, "0"), (oy, "0"))]
                    fresh = w.let(f"and i1 {w.let(f'and i1 {same[0]}, {same[1]}')}, {same[2]}")
                    self.band(n, group, c0, channels, oz, oy, acc, row_bytes, w.let(f"xor i1 {fresh}, true"))
                    return []

                w.loop("0", p[words.OH], p[words.BAND], band)
                return []

            w.loop("0", p[words.OD], "1", plane)
            return []

        w.loop(first, last, "1", image)
        return []

    def band(
        self,
        n: Value,
        group: Value,
        c0: Value,
        channels: Value,
        oz: Value,
        oy: Value,
        acc: Value,
        row_bytes: Value,
        resume: Value,
    ) -> None:
        w, p = self.w, self.words
        rows = w.min(p[words.BAND], w.sub(p[words.OH], oy))
        flat, plane = self.source(n, w.add(w.mul(group, p[words.CG]), c0), channels, oz, oy)
        depth = w.mul(rows, p[words.OW])
        packed = w.at("%scratch", p[words.PACK_AT])
        at = w.add(w.mul(n, p[words.Y_IMAGE]), w.mul(w.mul(group, p[words.M]), p[words.Y_CHANNEL]))
        at = w.add(at, w.add(w.mul(oz, p[words.Y_Z]), w.mul(oy, p[words.OW])))
        gradient = w.at(p[words.W], at, self.size)

        def pack(j: Value) -> list[Value]:
            pack_panel(
                w,
                "k",
                self.kind,
                self.kind,
                self.spec.vectors,
                w.at(gradient, w.mul(j, p[words.Y_CHANNEL]), self.size),
                "1",
                p[words.Y_CHANNEL],
                w.at(packed, w.mul(j, depth), self.size),
                depth,
                w.min(w.sub(p[words.M], j), str(self.width)),
            )
            return []

        w.loop("0", p[words.M], str(self.width), pack)
        total = w.mul(channels, p[words.TAPS])
        table = self.offsets(plane, channels, p[words.W_ROW])

        def panel(j: Value) -> list[Value]:
            b = w.at(packed, w.mul(j, depth), self.size)

            def tile(r: Value) -> list[Value]:
                out = w.at(w.at(acc, w.mul(r, row_bytes)), j, self.size)
                w.do(
                    f"call void @{self.name}_part(ptr {flat}, ptr {w.at(table, r, 8)}, "
                    f"i64 {w.sub(w.sub(total, r), '1')}, ptr {b}, ptr {out}, i64 {row_bytes}, i64 {rows}, "
                    f"i64 {p[words.OW]}, i64 {p[words.WQ]}, i1 {resume})"
                )
                return []

            w.loop("0", total, str(self.spec.height), tile)
            return []

        w.loop("0", p[words.M], str(self.width), panel)


def _resumed(w: Writer, vector: str, at: list[Value], done: list[Value], size: int) -> list[Value]:
    """Return the sums of a band, with those that stand in memory added if `%resume`.

    They are added last: one chain of additions through all bands would round as often as there are pixels.
    """
    before, again, go = w.block, w.fresh("resume"), w.fresh("go")
    w.do(f"br i1 %resume, label %{again}, label %{go}")
    w.label(again)
    sums = [w.let(f"fadd {vector} {w.load(vector, p, None, size)}, {x}") for p, x in zip(at, done, strict=True)]
    w.do(f"br label %{go}")
    w.label(go)
    return [w.let(f"phi {vector} [ {x}, %{before} ], [ {y}, %{again} ]") for x, y in zip(done, sums, strict=True)]


def _weight_part(target: Target, declared: set[str], spec: ConvSpec, name: str) -> str:
    """Return the function adding the pixels of a band to a tile of (channel, tap) x output channels."""
    w = Writer(target, declared)
    tile = Tile(w, TileSpec(spec.height, spec.vectors, spec.dtype, spec.dtype, spec.dtype, spec.dtype, "k"))
    h, v, lanes, size, vector = spec.height, spec.vectors, tile.lanes, tile.size, tile.vector
    offsets = [w.let(f"load i64, ptr {w.at('%table', str(r), 8)}, align 8") for r in range(h)]
    outs = [
        w.at("%acc", w.mul(w.min(str(r), "%last"), "%acc_step")) for r in range(h)
    ]  # rows too many repeat

    def line(_: Value, *outer: Value) -> list[Value]:
        def pixel(x: Value, *inner: Value) -> list[Value]:
            b, acc = inner[0], list(inner[1:])
            at = w.at(outer[0], x, size)
            panel = [w.load(vector, w.at(b, str(j * lanes), size), None, size) for j in range(v)]
            for r in range(h):
                scalar = w.splat(vector, w.let(f"load {tile.kind}, ptr {w.at(at, offsets[r])}, align {size}"))
                for j in range(v):
                    acc[r * v + j] = w.fma(vector, scalar, panel[j], acc[r * v + j])
            return [w.at(b, str(lanes * v), size), *acc]

        done = w.loop(
            "0", "%cols", "1", pixel, [("ptr", outer[1]), *((vector, x) for x in outer[2:])], once=True
        )
        return [w.at(outer[0], "%pitch", size), *done]

    done = w.loop(
        "0", "%rows", "1", line, [("ptr", "%x"), ("ptr", "%b"), *[(vector, "zeroinitializer")] * (h * v)], once=True
    )
    at = [w.at(out, str(j * lanes), size) for out in outs for j in range(v)]
    for p, x in zip(at, _resumed(w, vector, at, done[2:], size), strict=True):
        w.store(vector, x, p, None, size)
    return w.function(
        f"internal void @{name}_part(ptr %x, ptr %table, i64 %last, ptr %b, "
        " ptr %acc, i64 %acc_step, i64 %rows, i64 %cols, i64 %pitch, i1 %resume) nounwind"
    )


def weight_source(target: Target, name: str, spec: ConvSpec) -> str:
    """Return the module of a weight-gradient kernel, which leaves sums per part."""
    declared: set[str] = set()
    main = _Weight(target, declared, spec, name, 0).write()
    return module([main, _weight_part(target, declared, spec, name)], declared)


def sum_parts_source(target: Target, name: str, dtype: str) -> str:
    """Return the kernel that adds up the parts of a weight gradient in order and transposes the result.

    Units are groups x blocks of (input channel, tap) rows, a vector's lanes in each. Words: partial sums, output,
    parts, elements of a part, rows of a group, M, row length of the partial sums, blocks.
    """
    declared: set[str] = set()
    w = Writer(target, declared)
    kind = SCALAR[dtype]
    size = bits(kind) // 8
    lanes = target.lanes(size)
    vector = f"<{lanes} x {kind}>"
    partial, out = w.word("%args", 0, True), w.word("%args", 1, True)
    parts, stride, total, m, wide, blocks = (w.word("%args", i) for i in range(2, 8))

    def unit(u: Value) -> list[Value]:
        group = w.div(u, blocks)
        r0 = w.mul(w.sub(u, w.mul(group, blocks)), str(lanes))
        rows = w.min(w.sub(total, r0), str(lanes))
        at = w.at(partial, w.mul(w.add(w.mul(group, total), r0), wide), size)
        to = w.at(out, w.add(w.mul(w.mul(group, m), total), r0), size)

        def added(at: Value, kind: str) -> Value:
            def part(q: Value, acc: Value) -> list[Value]:
                more = w.let(f"load {kind}, ptr {w.at(at, w.mul(q, stride), size)}, align {size}")
                return [w.let(f"fadd {kind} {acc}, {more}")]

            return w.loop("1", parts, "1", part, [(kind, w.let(f"load {kind}, ptr {at}, align {size}"))])[0]

        def columns(j: Value) -> list[Value]:
            block = [added(w.at(at, w.add(w.mul(str(r), wide), j), size), vector) for r in range(lanes)]
            for i, x in enumerate(transpose(w, vector, block)):
                w.store(vector, x, w.at("%scratch", str(i * lanes), size), None, size)

            def column(i: Value) -> list[Value]:
                x = w.load(vector, w.at("%scratch", w.mul(i, str(lanes)), size), None, size)
                w.store(vector, x, w.at(to, w.mul(w.add(j, i), total), size), None, size)
                return []

            w.loop("0", w.min(w.sub(m, j), str(lanes)), "1", column)
            return []

        def elements() -> None:
            def row(r: Value) -> list[Value]:
                def one(j: Value) -> list[Value]:
                    x = added(w.at(at, w.add(w.mul(r, wide), j), size), kind)
                    w.do(f"store {kind} {x}, ptr {w.at(to, w.add(w.mul(j, total), r), size)}")
                    return []

                w.loop("0", m, "1", one)
                return []

            w.loop("0", rows, "1", row)

        w.when(w.less(rows, str(lanes)), elements, lambda: w.loop("0", m, str(lanes), columns))
        return []

    w.loop("%lo", "%hi", "1", unit)
    return module([w.function(f"void @{name}(ptr %args, i64 %lo, i64 %hi, ptr %scratch) nounwind")], declared)


class _Dot(Convolution):
    """For few output channels to a group: lanes are pixels of a row, and are added up at the end.

    Units are groups x parts of the images. Sums are laid out (part, group, output channel, channel, tap, lane).
    """

    def write(self) -> str:
        self.load_words()
        self.w.loop("%lo", "%hi", "1", self.unit)
        return self.function()

    def unit(self, u: Value) -> list[Value]:
        w, p = self.w, self.words
        group, part = self.split(u, p[words.GROUPS])
        one = w.mul(w.mul(p[words.M], p[words.CG]), w.mul(p[words.TAPS], str(self.lanes)))
        acc = w.at(p[words.Y], w.mul(u, one), self.size)
        first = w.mul(part, p[words.IMAGES])
        last = w.min(w.add(first, p[words.IMAGES]), p[words.N])

        def image(n: Value) -> list[Value]:
            def plane(oz: Value) -> list[Value]:
                def band(oy: Value) -> list[Value]:
                    same = [w.let(f"icmp ne i64 {a}, {b}") for a, b in ((n, first), (oz, "0"), (oy, "0"))]
                    resume = w.let(f"or i1 {w.let(f'or i1 {same[0]}, {same[1]}')}, {same[2]}")
                    self.band(n, group, oz, oy, acc, resume)
                    return []

                w.loop("0", p[words.OH], p[words.BAND], band)
                return []

            w.loop("0", p[words.OD], "1", plane)
            return []

        w.loop(first, last, "1", image)
        return []

    def band(self, n: Value, group: Value, oz: Value, oy: Value, acc: Value, resume: Value) -> None:
        w, p = self.w, self.words
        rows = w.min(p[words.BAND], w.sub(p[words.OH], oy))
        flat, plane = self.source(n, w.mul(group, p[words.CG]), p[words.CG], oz, oy)
        at = w.add(w.mul(n, p[words.Y_IMAGE]), w.mul(w.mul(group, p[words.M]), p[words.Y_CHANNEL]))
        gradient = w.at(
            p[words.W], w.add(at, w.add(w.mul(oz, p[words.Y_Z]), w.mul(oy, p[words.OW]))), self.size
        )
        total = w.mul(p[words.CG], p[words.TAPS])
        table = self.offsets(plane, p[words.CG], p[words.W_ROW])

        def channel(m: Value) -> list[Value]:
            g = w.at(gradient, w.mul(m, p[words.Y_CHANNEL]), self.size)

            def taps(r: Value) -> list[Value]:
                out = w.at(acc, w.mul(w.add(w.mul(m, total), r), str(self.lanes)), self.size)
                w.do(
                    f"call void @{self.name}_part(ptr {flat}, ptr {w.at(table, r, 8)}, "
                    f"i64 {w.sub(w.sub(total, r), '1')}, ptr {g}, ptr {out}, i64 {rows}, i64 {p[words.OW]}, "
                    f"i64 {p[words.WQ]}, i1 {resume})"
                )
                return []

            w.loop("0", total, str(self.spec.height), taps)
            return []

        w.loop("0", p[words.M], "1", channel)


def _dot_part(target: Target, declared: set[str], spec: ConvSpec, name: str) -> str:
    """Return the function adding a band of one output channel to the sums of `height` (channel, tap) pairs."""
    w = Writer(target, declared)
    tile = Tile(w, TileSpec(spec.height, 1, spec.dtype, spec.dtype, spec.dtype, spec.dtype, "k"))
    h, lanes, size, vector = spec.height, tile.lanes, tile.size, tile.vector
    offsets = [w.let(f"load i64, ptr {w.at('%table', str(r), 8)}, align 8") for r in range(h)]
    outs = [w.at("%acc", w.mul(w.min(str(r), "%last"), str(lanes)), size) for r in range(h)]
    tail = w.let(f"and i64 %cols, {-lanes}")
    rest = w.sub("%cols", tail)
    mask = w.lane_mask(lanes, rest)

    def line(_: Value, *outer: Value) -> list[Value]:
        def step(x: Value, acc: list[Value], mask: Value | None) -> list[Value]:
            g = w.load(vector, w.at(outer[1], x, size), mask, size)
            at = w.at(outer[0], x, size)
            return [
                w.fma(vector, g, w.load(vector, w.at(at, o), mask, size), a)
                for o, a in zip(offsets, acc, strict=True)
            ]

        acc = w.loop(
            "0", tail, str(lanes), lambda x, *a: step(x, list(a), None), [(vector, a) for a in outer[2:]]
        )
        # Lanes beyond the row are zero in both factors.
        before, then, after = w.block, w.fresh("tail"), w.fresh("after")
        w.do(f"br i1 {w.less('0', rest)}, label %{then}, label %{after}")
        w.label(then)
        more = step(tail, acc, mask)
        end = w.block
        w.do(f"br label %{after}")
        w.label(after)
        acc = [
            w.let(f"phi {vector} [ {a}, %{before} ], [ {b}, %{end} ]") for a, b in zip(acc, more, strict=True)
        ]
        return [w.at(outer[0], "%pitch", size), w.at(outer[1], "%cols", size), *acc]

    done = w.loop(
        "0", "%rows", "1", line, [("ptr", "%x"), ("ptr", "%g"), *[(vector, "zeroinitializer")] * h], once=True
    )
    for p, x in zip(outs, _resumed(w, vector, outs, done[2:], size), strict=True):
        w.store(vector, x, p, None, size)
    return w.function(
        f"internal void @{name}_part(ptr %x, ptr %table, i64 %last, ptr %g, ptr %acc, i64 %rows, "
        "i64 %cols, i64 %pitch, i1 %resume) nounwind"
    )


def dot_source(target: Target, name: str, spec: ConvSpec) -> str:
    """Return the module of a weight-gradient kernel for few output channels to a group."""
    declared: set[str] = set()
    main = _Dot(target, declared, spec, name, 0).write()
    return module([main, _dot_part(target, declared, spec, name)], declared)


def sum_lanes_source(target: Target, name: str, dtype: str) -> str:
    """Return the kernel that adds up parts, then lanes, in order. Units are elements of the weight.

    Words: partial sums, output, parts, elements of a part.
    """
    declared: set[str] = set()
    w = Writer(target, declared)
    kind = SCALAR[dtype]
    size = bits(kind) // 8
    lanes = target.lanes(size)
    vector = f"<{lanes} x {kind}>"
    partial, out = w.word("%args", 0, True), w.word("%args", 1, True)
    parts, stride = w.word("%args", 2), w.word("%args", 3)

    def unit(u: Value) -> list[Value]:
        here = w.at(partial, w.mul(u, str(lanes)), size)

        def part(q: Value, acc: Value) -> list[Value]:
            more = w.load(vector, w.at(here, w.mul(q, stride), size), None, size)
            return [w.let(f"fadd {vector} {acc}, {more}")]

        total = w.loop("1", parts, "1", part, [(vector, w.load(vector, here, None, size))])[0]
        value = w.let(f"extractelement {vector} {total}, i64 0")
        for i in range(1, lanes):
            value = w.let(f"fadd {kind} {value}, {w.let(f'extractelement {vector} {total}, i64 {i}')}")
        w.do(f"store {kind} {value}, ptr {w.at(out, u, size)}")
        return []

    w.loop("%lo", "%hi", "1", unit)
    return module([w.function(f"void @{name}(ptr %args, i64 %lo, i64 %hi, ptr %scratch) nounwind")], declared)
