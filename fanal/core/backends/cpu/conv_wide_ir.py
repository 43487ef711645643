"""LLVM IR of convolutions of small images: vectors run over output channels, rows of a tile are pixels.

No position between the ends of rows is computed, and a tile takes pixels of several images. Sums run over input
channels, then taps, in order, as in the other form.
"""

from __future__ import annotations

from fanal.core.backends.cpu import conv_ir as words
from fanal.core.backends.cpu.conv_ir import Convolution, ConvSpec
from fanal.core.backends.cpu.epilogue import Epilogue, Site, conclude
from fanal.core.backends.cpu.irtext import Value, Writer, module
from fanal.core.backends.cpu.register_tile_ir import Spec as TileSpec
from fanal.core.backends.cpu.register_tile_ir import Tile
from fanal.core.backends.cpu.target import Target
from fanal.core.base import dtype as dt


class _Wide(Convolution):
    """Units are panels of output channels x planes x groups of images x groups, in that nesting.

    Neighbouring units that share their images are done together.
    W is the weight packed in panels of output channels, (group, panel, k, lane).
    """

    def __init__(
        self, target: Target, declared: set[str], spec: ConvSpec, name: str, epilogue: Epilogue | None
    ):
        super().__init__(target, declared, spec, name, len(epilogue.args) if epilogue else 0)
        self.epilogue = epilogue

    def write(self) -> str:
        self.load_words()
        self.w.repeat(self.w.less("%lo", "%hi"), self.units, [("i64", "%lo")])
        return self.function()

    def units(self, u: Value) -> tuple[list[Value], Value]:
        w, p = self.w, self.words
        panels = w.div(w.add(p[words.M], str(self.width - 1)), str(self.width))
        first_panel, oz, part, group = self.split(u, panels, p[words.OD], p[words.PARTS])
        count = w.min(w.sub(panels, first_panel), w.sub("%hi", u))
        first = w.mul(part, p[words.IMAGES])
        images = w.min(p[words.IMAGES], w.sub(p[words.N], first))
        channel = w.mul(group, p[words.CG])
        if self.spec.flat:
            line = w.mul(w.mul(p[words.PHASES], p[words.DQ]), w.mul(p[words.HQ], p[words.WQ]))
            step = w.mul(p[words.CG], line)

            def copy(n: Value) -> list[Value]:
                self.source(w.add(first, n), channel, p[words.CG], oz, "0", w.mul(n, step))
                return []

            w.loop("0", images, "1", copy, once=True)
            flat, plane = w.at("%scratch", p[words.FLAT_AT]), line
        else:
            flat, plane = self.source(first, channel, p[words.CG], oz, "0")
            step = p[words.X_IMAGE]
        table, depth = self.offsets(plane, p[words.CG], p[words.PACK_AT]), w.mul(p[words.CG], p[words.TAPS])
        pixels = self.pixels(images, step)
        area = w.mul(p[words.OH], p[words.OW])
        total = w.mul(images, area)
        packed = w.at(p[words.W], w.mul(w.mul(group, panels), w.mul(depth, str(self.width))), self.size)
        i0 = w.mul(first_panel, str(self.width))
        i1 = w.min(w.add(i0, w.mul(count, str(self.width))), p[words.M])
        sums = w.at("%scratch", p[words.SUMS_AT])
        shift = w.mul(oz, p[words.Y_Z])

        def panel(i: Value) -> list[Value]:
            b = w.at(packed, w.mul(i, depth), self.size)
            channels = w.min(w.sub(i1, i), str(self.width))

            def tile(r: Value) -> list[Value]:
                rows = w.min(w.sub(total, r), str(self.spec.height))
                w.do(
                    f"call void @{self.name}_part(ptr {flat}, ptr {table}, i64 {depth}, ptr {w.at(pixels, r, 8)}, "
                    f"ptr {b}, ptr %scratch)"
                )
                w.do(
                    f"call void @{self.name}_turn(ptr %scratch, ptr {w.at(sums, r, self.size)}, "
                    f"i64 {p[words.WIDE]}, i64 {rows})"
                )
                return []

            w.loop("0", total, str(self.spec.height), tile, once=True)

            def image(n: Value) -> list[Value]:
                at = w.add(w.mul(w.add(first, n), p[words.Y_IMAGE]), shift)
                self.finish(
                    w.at(sums, w.mul(n, area), self.size),
                    w.add(w.mul(group, p[words.M]), i),
                    channels,
                    at,
                    area,
                )
                return []

            w.loop("0", images, "1", image, once=True)
            return []

        w.loop(i0, i1, str(self.width), panel)
        following = w.add(u, count)
        return [following], w.less(following, "%hi")

    def pixels(self, images: Value, step: Value) -> Value:
        """Write the table of byte offsets of every output pixel; the last is repeated."""
        w, p = self.w, self.words
        table = w.at("%scratch", p[words.PIXELS_AT])

        def image(n: Value, at: Value) -> list[Value]:
            def row(y: Value, at: Value) -> list[Value]:
                start = w.add(w.mul(n, step), w.mul(y, p[words.WQ]))

                def pixel(x: Value) -> list[Value]:
                    w.do(f"store i64 {w.mul(w.add(start, x), str(self.size))}, ptr {w.at(at, x, 8)}, align 8")
                    return []

                w.loop("0", p[words.OW], "1", pixel)
                return [w.at(at, p[words.OW], 8)]

            return w.loop("0", p[words.OH], "1", row, [("ptr", at)])

        end = w.loop("0", images, "1", image, [("ptr", table)])[0]
        last = w.let(f"load i64, ptr {w.at(end, '-1', 8)}, align 8")

        def repeat(r: Value) -> list[Value]:
            w.do(f"store i64 {last}, ptr {w.at(end, r, 8)}, align 8")
            return []

        w.loop("0", str(self.spec.height), "1", repeat, once=True)
        return table

    def finish(self, sums: Value, first: Value, channels: Value, shift: Value, area: Value) -> None:
        """Write the epilogue of one image's pixels of `channels` output channels."""
        w, p, vector = self.w, self.words, self.tile.vector
        of = dt.by_name(self.spec.dtype)
        tail = w.let(f"and i64 {area}, {-self.lanes}")
        rest = w.sub(area, tail)
        tail_mask = w.lane_mask(self.lanes, rest)

        def channel(r: Value) -> list[Value]:
            here, at = w.add(first, r), w.at(sums, w.mul(r, p[words.WIDE]), self.size)
            offset = w.add(shift, w.mul(here, p[words.Y_CHANNEL]))

            def put(x: Value, mask: Value | None = None) -> list[Value]:
                value = w.load(vector, w.at(at, x, self.size), None, self.size)
                site = Site(w, "%args", words.BASE, here, x, w.add(offset, x), mask, self.lanes)
                conclude(site, self.epilogue, value, of, of, p[words.Y])
                return []

            w.loop("0", tail, str(self.lanes), put)
            w.when(w.less("0", rest), lambda: put(tail, tail_mask))
            return []

        w.loop("0", channels, "1", channel)


def _wide_part(target: Target, declared: set[str], spec: ConvSpec, name: str) -> str:
    """Return the function computing a tile of pixels x output channels."""
    w = Writer(target, declared)
    tile = Tile(w, TileSpec(spec.height, spec.vectors, spec.dtype, spec.dtype, spec.dtype, spec.dtype, "k"))
    h, v, lanes, size, vector = spec.height, spec.vectors, tile.lanes, tile.size, tile.vector
    offsets = [w.let(f"load i64, ptr {w.at('%pixels', str(r), 8)}, align 8") for r in range(h)]

    def step(k: Value, *carried: Value) -> list[Value]:
        b, acc = carried[0], list(carried[1:])
        x = w.at("%x", w.let(f"load i64, ptr {w.at('%table', k, 8)}, align 8"))
        w.call(
            "void",
            "llvm.prefetch.p0",
            ("ptr", w.at(b, str(16 * v * lanes), size)),
            ("i32", "0"),
            ("i32", "3"),
            ("i32", "1"),
        )
        panel = [w.load(vector, w.at(b, str(j * lanes), size), None, size) for j in range(v)]
        for r in range(h):
            scalar = w.splat(vector, w.let(f"load {tile.kind}, ptr {w.at(x, offsets[r])}, align {size}"))
            for j in range(v):
                acc[r * v + j] = w.fma(vector, scalar, panel[j], acc[r * v + j])
        return [w.at(b, str(v * lanes), size), *acc]

    done = w.loop("0", "%depth", "1", step, [("ptr", "%b"), *[(vector, "zeroinitializer")] * (h * v)])[1:]
    for i, x in enumerate(done):
        w.store(vector, x, w.at("%acc", str(i * lanes), size), None, size)
    return w.function(
        f"internal void @{name}_part(ptr %x, ptr %table, i64 %depth, ptr %pixels, ptr %b, ptr %acc) nounwind"
    )


def _turn(target: Target, declared: set[str], spec: ConvSpec, name: str) -> str:
    """Return the function that writes a tile the other way round, pixels contiguous."""
    w = Writer(target, declared)
    tile = Tile(w, TileSpec(spec.height, spec.vectors, spec.dtype, spec.dtype, spec.dtype, spec.dtype, "k"))
    width = tile.lanes * spec.vectors

    def pixel(r: Value) -> list[Value]:
        source, to = w.at("%acc", w.mul(r, str(width)), tile.size), w.at("%out", r, tile.size)

        def channel(c: Value, to: Value) -> list[Value]:
            value = w.let(f"load {tile.kind}, ptr {w.at(source, c, tile.size)}")
            w.do(f"store {tile.kind} {value}, ptr {to}")
            return [w.at(to, "%step", tile.size)]

        w.loop("0", str(width), "1", channel, [("ptr", to)], once=True)
        return []

    w.loop("0", "%rows", "1", pixel, once=True)
    return w.function(f"internal void @{name}_turn(ptr %acc, ptr %out, i64 %step, i64 %rows) nounwind")


def wide_source(target: Target, name: str, spec: ConvSpec, epilogue: Epilogue | None) -> str:
    """Return the module of a forward or input-gradient kernel for small images."""
    declared: set[str] = set()
    main = _Wide(target, declared, spec, name, epilogue).write()
    return module(
        [main, _wide_part(target, declared, spec, name), _turn(target, declared, spec, name)], declared
    )
