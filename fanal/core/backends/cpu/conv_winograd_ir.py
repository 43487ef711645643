"""LLVM IR of 3 x 3 convolutions by Winograd's minimal filtering F(2x2, 3x3).

Outputs are made in tiles of 2 x 2 from 4 x 4 inputs: inputs and weight are transformed (additions only), multiplied
place by place, and the products transformed back. A product of two numbers serves 2.25 outputs' worth of the
direct form's. Over channels the products are 16 matrix products of tiles x input channels x output channels.

Lanes are channels: an image is staged as (row, column, lane), zeros around it, so that every tile reads whole
vectors whatever the width of the image. Sums run over input channels in order. Sources: Winograd 1980; Lavin and
Gray 2016, section 4.1; the weight gradient is the transpose of the forward form by the weight.
"""

from __future__ import annotations

from dataclasses import dataclass

from fanal.core.backends.cpu.epilogue import Epilogue, Site, conclude
from fanal.core.backends.cpu.irtext import SCALAR, Value, Writer, bits, mangle, module
from fanal.core.backends.cpu.pack_ir import transpose
from fanal.core.backends.cpu.register_tile_ir import Spec as TileSpec
from fanal.core.backends.cpu.register_tile_ir import heights, partial_tile, tile_rows
from fanal.core.backends.cpu.target import Target
from fanal.core.base import dtype as dt

PLACES = 16  # of a transformed tile

# Argument words. X: image; W: transformed weight, or the output gradient; Y: output, or partial sums. P*: padding.
# BAND: rows of tiles of a unit. TOGETHER: images whose tiles are added up in one go. *_AT: where a part of scratch
# begins. ROWS: rows kept for a place, more than tiles.
(X, W, Y, N, C, M, H, WIDTH, OH, OW, PY, PX, X_IMAGE, X_CHANNEL, Y_IMAGE, Y_CHANNEL, TW, TH, BAND, BANDS, IMAGES, PARTS,
 BLOCK, C_BLOCK, TOGETHER, PITCH, V_ROW, Z_ROW, ROWS, STAGE_AT, V_AT, Z_AT, M_AT, OUT_AT, TURNED_AT, WIDE, ONE,
 BASE) = range(38)  # fmt: skip


@dataclass(frozen=True)
class WinogradSpec:
    """Structure of one kernel."""

    kind: str  # "forward" or "weight"
    height: int  # rows of the register tile of the products
    vectors: int
    dtype: str

    @property
    def key(self) -> str:
        return "winograd5:" + ":".join(str(v) for v in vars(self).values())


class Shared:
    """What the functions of a module share."""

    def __init__(self, target: Target, declared: set[str], spec: WinogradSpec, name: str) -> None:
        self.w, self.spec, self.name = Writer(target, declared), spec, name
        self.kind = SCALAR[spec.dtype]
        self.size = bits(self.kind) // 8
        self.lanes = target.lanes(self.size)
        self.width = self.lanes * spec.vectors
        self.vector = f"<{self.lanes} x {self.kind}>"

    def plus(self, a: Value, b: Value) -> Value:
        return self.w.let(f"fadd {self.vector} {a}, {b}")

    def minus(self, a: Value, b: Value) -> Value:
        return self.w.let(f"fsub {self.vector} {a}, {b}")

    def half(self, a: Value) -> Value:
        return self.w.let(f"fmul {self.vector} {a}, splat ({self.kind} 0.5)")

    def at(self, base: Value, index: Value) -> Value:
        return self.w.at(base, index, self.size)

    def load(self, base: Value, index: Value = "0") -> Value:
        return self.w.load(self.vector, self.at(base, index), None, self.size)

    def store(self, value: Value, base: Value, index: Value = "0") -> None:
        self.w.store(self.vector, value, self.at(base, index), None, self.size)

    # The transforms of four, three or two values along one axis.

    def input(self, d: list[Value]) -> list[Value]:
        return [self.minus(d[0], d[2]), self.plus(d[1], d[2]), self.minus(d[2], d[1]), self.minus(d[1], d[3])]

    def weight(self, g: list[Value]) -> list[Value]:
        outer = self.plus(g[0], g[2])
        return [g[0], self.half(self.plus(outer, g[1])), self.half(self.minus(outer, g[1])), g[2]]

    def output(self, m: list[Value]) -> list[Value]:
        return [self.plus(self.plus(m[0], m[1]), m[2]), self.minus(self.minus(m[1], m[2]), m[3])]

    def gradient(self, g: list[Value]) -> list[Value]:
        return [g[0], self.plus(g[0], g[1]), self.minus(g[0], g[1]), self.minus("zeroinitializer", g[1])]

    def weight_back(self, s: list[Value]) -> list[Value]:
        both = self.half(self.plus(s[1], s[2]))
        return [self.plus(s[0], both), self.half(self.minus(s[1], s[2])), self.plus(both, s[3])]

    def function(self, part: str, parameters: str) -> str:
        return self.w.function(f"internal void @{self.name}_{part}({parameters}) nounwind")


def flipped(of: list[list[Value]]) -> list[list[Value]]:
    return [list(x) for x in zip(*of, strict=True)]


def stage(k: Shared) -> str:
    """Return the function that writes `rows` rows of `channels` channels (up to a vector) as (row, column, lane).

    Rows from `top` and columns from `-left` on; what lies outside the image is zero.
    """
    w, lanes = k.w, k.lanes

    def zero(to: Value, start: Value, stop: Value) -> None:
        def one(x: Value) -> list[Value]:
            k.store("zeroinitializer", to, w.mul(x, str(lanes)))
            return []

        w.loop(start, stop, "1", one)

    def row(r: Value) -> list[Value]:
        y = w.add("%top", r)
        to = k.at("%to", w.mul(w.mul(r, "%columns"), str(lanes)))

        def inside() -> None:
            zero(to, "0", "%left")
            source = k.at("%from", w.mul(y, "%width"))

            def block(x: Value) -> list[Value]:
                rest = w.sub("%width", x)
                out = k.at(to, w.mul(w.add("%left", x), str(lanes)))

                def turn(full: bool) -> None:
                    mask = None if full else w.lane_mask(lanes, rest)
                    at, lines = k.at(source, x), []
                    for c in range(lanes):
                        here = mask
                        if not full:
                            some = f"<{lanes} x i1>"
                            here = w.let(
                                f"select i1 {w.less(str(c), '%channels')}, {some} {mask}, {some} zeroinitializer"
                            )
                        lines.append(w.load(k.vector, k.at(at, w.mul("%apart", str(c))), here, k.size))
                    for i, line in enumerate(transpose(w, k.vector, lines)):
                        k.store(line, out, str(i * lanes))

                whole = w.let(f"and i1 {w.less(str(lanes - 1), rest)}, {w.less(str(lanes - 1), '%channels')}")
                w.when(whole, lambda: turn(True), lambda: turn(False))
                return []

            w.loop("0", "%width", str(lanes), block, once=True)  # the overrun is zeros, or written again
            zero(to, w.add("%left", "%width"), "%columns")

        w.when(w.let(f"icmp ult i64 {y}, %height"), inside, lambda: zero(to, "0", "%columns"))
        return []

    w.loop("0", "%rows", "1", row, once=True)
    return k.function(
        "stage",
        "ptr %from, i64 %apart, i64 %channels, i64 %top, i64 %rows, i64 %left, i64 %columns, "
        "i64 %height, i64 %width, ptr %to",
    )


def inputs(k: Shared) -> str:
    """Return the function that transforms staged rows of tiles; `plane` leads from a place to the next."""
    w, lanes = k.w, k.lanes

    def row(ty: Value) -> list[Value]:
        top = k.at("%from", w.mul(w.mul(w.mul(ty, "2"), "%columns"), str(lanes)))
        lines = [k.at(top, w.mul(w.mul("%columns", str(i)), str(lanes))) for i in range(4)]
        out = k.at("%to", w.mul(w.mul(ty, "%tiles"), "%row"))

        def column(at: Value) -> list[Value]:
            return k.input([k.load(line, at) for line in lines])

        def tile(tx: Value, *carried: Value) -> list[Value]:
            at = w.mul(tx, str(2 * lanes))
            columns = [
                list(carried[:4]),
                list(carried[4:]),
                *(column(w.add(at, str(j * lanes))) for j in (2, 3)),
            ]
            to = k.at(out, w.mul(tx, "%row"))
            for i, line in enumerate(flipped(columns)):
                for j, x in enumerate(k.input(line)):
                    k.store(x, to, w.mul("%plane", str(4 * i + j)))
            return [*columns[2], *columns[3]]

        first = [(k.vector, x) for j in (0, 1) for x in column(str(j * lanes))]
        w.loop("0", "%tiles", "1", tile, first, once=True)
        return []

    w.loop("0", "%rows", "1", row, once=True)
    return k.function(
        "inputs", "ptr %from, i64 %columns, i64 %rows, i64 %tiles, ptr %to, i64 %row, i64 %plane"
    )


def _outputs(k: Shared) -> str:
    """Return the function that transforms a row of products back, to pixels of `width` channels."""
    w = k.w
    plane = w.mul("%plane", str(k.width))

    def row(ty: Value) -> list[Value]:
        source = k.at("%from", w.mul(w.mul(ty, "%tiles"), str(k.width)))
        top = k.at("%to", w.mul(w.mul(w.mul(ty, "2"), "%pitch"), str(k.width)))
        lines = [top, k.at(top, w.mul("%pitch", str(k.width)))]

        def tile(tx: Value) -> list[Value]:
            at, pixel = k.at(source, w.mul(tx, str(k.width))), w.mul(tx, str(2 * k.width))
            for v in range(k.spec.vectors):
                places = [
                    [k.load(at, w.add(w.mul(plane, str(4 * i + j)), str(v * k.lanes))) for i in range(4)]
                    for j in range(4)
                ]
                for i, line in enumerate(flipped([k.output(x) for x in places])):
                    for j, y in enumerate(k.output(line)):
                        k.store(y, lines[i], w.add(pixel, str(j * k.width + v * k.lanes)))
            return []

        w.loop("0", "%tiles", "1", tile, once=True)
        return []

    w.loop("0", "%rows", "1", row, once=True)
    return k.function("outputs", "ptr %from, i64 %plane, i64 %rows, i64 %tiles, ptr %to, i64 %pitch")


def _turned(k: Shared) -> str:
    """Return the function that turns `count` pixels of `width` channels into channels, `apart` from each other."""
    w = k.w

    def block(x: Value) -> list[Value]:
        for v in range(k.spec.vectors):
            at = k.at("%from", w.add(w.mul(x, str(k.width)), str(v * k.lanes)))
            lines = [k.load(at, str(i * k.width)) for i in range(k.lanes)]
            for c, line in enumerate(transpose(w, k.vector, lines)):
                k.store(line, "%to", w.add(w.mul("%apart", str(v * k.lanes + c)), x))
        return []

    w.loop("0", "%count", str(k.lanes), block, once=True)
    return k.function("turned", "ptr %from, i64 %count, ptr %to, i64 %apart")


class Unit(Shared):
    """The kernel itself: what forward and weight gradient share."""

    def __init__(
        self, target: Target, declared: set[str], spec: WinogradSpec, name: str, extra: int = 0
    ) -> None:
        super().__init__(target, declared, spec, name)
        self.p = {i: self.w.word("%args", i, i in (X, W, Y)) for i in range(BASE)}

    def run(self, part: str, *operands: Value) -> None:
        """Call a function of the module; operands with their types."""
        self.w.do(f"call void @{self.name}_{part}({', '.join(operands)})")

    def scratch(self, word: int) -> Value:
        return self.w.at("%scratch", self.p[word])

    def split(self, unit: Value, *extents: Value) -> list[Value]:
        """Return the digits of `unit`, the fastest first; the last one is what remains."""
        w, digits = self.w, []
        for extent in extents:
            rest = w.div(unit, extent)
            digits.append(w.sub(unit, w.mul(rest, extent)))
            unit = rest
        return [*digits, unit]

    def inputs(self, image: Value, first: Value, stop: Value, tile: Value, rows: Value, to: Value) -> None:
        """Stage and transform channels first..stop of rows of tiles of an image."""
        w, p = self.w, self.p
        stage, columns = self.scratch(STAGE_AT), w.add(w.mul(p[TW], "2"), "2")
        source = self.at(p[X], w.mul(image, p[X_IMAGE]))

        def group(c: Value) -> list[Value]:
            count = w.min(w.sub(stop, c), str(self.lanes))
            self.run(
                "stage",
                f"ptr {self.at(source, w.mul(c, p[X_CHANNEL]))}",
                f"i64 {p[X_CHANNEL]}",
                f"i64 {count}",
                f"i64 {w.sub(w.mul(tile, '2'), p[PY])}",
                f"i64 {w.add(w.mul(rows, '2'), '2')}",
                f"i64 {p[PX]}",
                f"i64 {columns}",
                f"i64 {p[H]}",
                f"i64 {p[WIDTH]}",
                f"ptr {stage}",
            )
            self.run(
                "inputs",
                f"ptr {stage}",
                f"i64 {columns}",
                f"i64 {rows}",
                f"i64 {p[TW]}",
                f"ptr {self.at(to, w.sub(c, first))}",
                f"i64 {p[V_ROW]}",
                f"i64 {w.mul(p[ROWS], p[V_ROW])}",
            )
            return []

        w.loop(first, stop, str(self.lanes), group, once=True)

    def function_of_units(self) -> str:
        return self.w.function(f"void @{self.name}(ptr %args, i64 %lo, i64 %hi, ptr %scratch) nounwind")


class _Forward(Unit):
    """Units are panels of output channels x bands of rows of tiles x groups of images, in that nesting.

    Neighbouring units share their inputs, which are transformed for the first.
    """

    def __init__(
        self, target: Target, declared: set[str], spec: WinogradSpec, name: str, epilogue: Epilogue | None
    ):
        super().__init__(target, declared, spec, name)
        self.epilogue = epilogue

    def write(self) -> str:
        self.w.loop("%lo", "%hi", "1", self.unit, [("i64", "-1")])
        return self.function_of_units()

    def unit(self, u: Value, before: Value) -> list[Value]:
        w, p = self.w, self.p
        panels = w.div(w.add(p[M], str(self.width - 1)), str(self.width))
        panel, group = self.split(u, panels)
        band, part = self.split(group, p[BANDS])
        first, tile = w.mul(part, p[IMAGES]), w.mul(band, p[BAND])
        images = w.min(p[IMAGES], w.sub(p[N], first))
        rows = w.min(p[BAND], w.sub(p[TH], tile))
        each = w.mul(rows, p[TW])
        total = w.mul(images, each)
        values, products = self.scratch(V_AT), self.scratch(M_AT)

        def image(n: Value) -> list[Value]:
            to = self.at(values, w.mul(w.mul(n, each), p[V_ROW]))
            self.inputs(w.add(first, n), "0", p[C], tile, rows, to)
            return []

        new = w.let(f"icmp ne i64 {group}, {before}")
        w.when(new, lambda: w.loop("0", images, "1", image, once=True))
        channel = w.mul(panel, str(self.width))
        weights = self.at(p[W], w.mul(channel, w.mul(p[C], str(PLACES))))
        self.products(weights, values, products, total)

        def finish(n: Value) -> list[Value]:
            at = self.at(products, w.mul(w.mul(n, each), str(self.width)))
            self.finish(at, channel, tile, rows, w.mul(w.add(first, n), p[Y_IMAGE]))
            return []

        w.loop("0", images, "1", finish, once=True)
        return [group]

    def products(self, weights: Value, values: Value, products: Value, total: Value) -> None:
        w, p, h = self.w, self.p, self.spec.height
        a_step, row = w.mul(p[V_ROW], str(self.size)), str(self.width * self.size)

        def place(k: Value) -> list[Value]:
            of = self.at(values, w.mul(k, w.mul(p[ROWS], p[V_ROW])))
            by = self.at(weights, w.mul(k, w.mul(p[C], str(self.width))))
            to = self.at(products, w.mul(k, w.mul(p[ROWS], str(self.width))))

            def tiles(t: Value) -> list[Value]:
                high = tile_rows(w, w.min(w.sub(total, t), str(h)), heights(h))
                self.run(
                    "part",
                    f"ptr {self.at(of, w.mul(t, p[V_ROW]))}",
                    f"i64 {a_step}",
                    f"ptr {by}",
                    f"i64 {row}",
                    f"i64 {p[C]}",
                    f"ptr {self.at(to, w.mul(t, str(self.width)))}",
                    f"i64 {row}",
                    "i1 false",
                    f"i64 {high}",
                    "i64 0",
                )
                return []

            w.loop("0", total, str(h), tiles, once=True)
            return []

        w.loop("0", str(PLACES), "1", place, once=True)

    def finish(self, products: Value, channel: Value, tile: Value, rows: Value, shift: Value) -> None:
        """Transform a panel of an image's products back and write the epilogue, channel by channel."""
        w, p = self.w, self.p
        pixels, turned = self.scratch(OUT_AT), self.scratch(TURNED_AT)
        self.run(
            "outputs",
            f"ptr {products}",
            f"i64 {p[ROWS]}",
            f"i64 {rows}",
            f"i64 {p[TW]}",
            f"ptr {pixels}",
            f"i64 {p[PITCH]}",
        )
        self.run(
            "turned",
            f"ptr {pixels}",
            f"i64 {w.mul(w.mul(rows, '2'), p[PITCH])}",
            f"ptr {turned}",
            f"i64 {p[WIDE]}",
        )
        top = w.mul(tile, "2")
        inside = w.min(w.mul(rows, "2"), w.sub(p[OH], top))
        # Rows without a gap between them are one line.
        gap = w.let(f"icmp ne i64 {p[PITCH]}, {p[OW]}")
        lines, length = w.select(gap, inside, "1"), w.select(gap, p[OW], w.mul(inside, p[OW]))
        tail = w.let(f"and i64 {length}, {-self.lanes}")
        rest = w.sub(length, tail)
        mask = w.lane_mask(self.lanes, rest)
        of = dt.by_name(self.spec.dtype)

        def one(c: Value) -> list[Value]:
            here = w.add(channel, c)
            to = w.add(shift, w.mul(here, p[Y_CHANNEL]))

            def line(y: Value) -> list[Value]:
                at = self.at(turned, w.add(w.mul(c, p[WIDE]), w.mul(y, p[PITCH])))
                pixel = w.mul(w.add(top, y), p[OW])

                def put(x: Value, mask: Value | None = None) -> list[Value]:
                    col = w.add(pixel, x)
                    site = Site(w, "%args", BASE, here, col, w.add(to, col), mask, self.lanes)
                    conclude(site, self.epilogue, self.load(at, x), of, of, p[Y])
                    return []

                w.loop("0", tail, str(self.lanes), put)
                w.when(w.less("0", rest), lambda: put(tail, mask))
                return []

            w.loop("0", lines, "1", line)
            return []

        w.loop("0", w.min(w.sub(p[M], channel), str(self.width)), "1", one, once=True)


def products(target: Target, declared: set[str], spec: WinogradSpec, name: str) -> str:
    form = "k" if spec.kind == "forward" else "m"
    d = spec.dtype
    tile = TileSpec(spec.height, spec.vectors, d, d, d, d, form, blocked=spec.kind == "weight")
    return partial_tile(target, declared, tile, f"{name}_part", heights(spec.height))


def forward_source(target: Target, name: str, spec: WinogradSpec, epilogue: Epilogue | None) -> str:
    """Return the module of a forward or input-gradient kernel."""
    declared: set[str] = set()
    main = _Forward(target, declared, spec, name, epilogue).write()
    parts = [make(Shared(target, declared, spec, name)) for make in (stage, inputs, _outputs, _turned)]
    return module([main, *parts, products(target, declared, spec, name)], declared)


def weights_source(target: Target, name: str, spec: WinogradSpec) -> str:
    """Return the kernel that transforms a weight into panels (panel, place, input channel, lane).

    Units are panels x input channels. Words: weight, output, input and output channels, elements from one of each
    to the next, first tap, elements from a tap to the next.
    """
    declared: set[str] = set()
    k = Shared(target, declared, spec, name)
    w, lanes = k.w, k.lanes
    source, out = w.word("%args", 0, True), w.word("%args", 1, True)
    c, m, c_step, m_step, first, step = (w.word("%args", i) for i in range(2, 8))
    index = f"<{lanes} x i64>"
    lane = "<" + ", ".join(f"i64 {i}" for i in range(lanes)) + ">"
    apart = w.let(f"mul {index} {lane}, {w.splat(index, m_step)}")

    def unit(u: Value) -> list[Value]:
        panel = w.div(u, c)
        channel = w.sub(u, w.mul(panel, c))
        to = k.at(out, w.mul(w.add(w.mul(w.mul(panel, str(PLACES)), c), channel), str(k.width)))
        for v in range(spec.vectors):
            start = w.add(w.mul(panel, str(k.width)), str(v * lanes))
            mask = w.lane_mask(lanes, w.sub(m, start))
            base = k.at(source, w.add(w.add(w.mul(start, m_step), w.mul(channel, c_step)), first))

            def tap(t: int, base: Value = base, mask: Value = mask) -> Value:
                at = w.let(f"getelementptr {k.kind}, ptr {k.at(base, w.mul(step, str(t)))}, {index} {apart}")
                short = mangle(k.vector)
                return w.call(
                    k.vector,
                    f"llvm.masked.gather.{short}.v{lanes}p0",
                    (f"<{lanes} x ptr>", at),
                    ("i32", str(k.size)),
                    (f"<{lanes} x i1>", mask),
                    (k.vector, "zeroinitializer"),
                )

            columns = [k.weight([tap(3 * i + j) for i in range(3)]) for j in range(3)]
            for i, line in enumerate(flipped(columns)):
                for j, x in enumerate(k.weight(line)):
                    place = w.mul(w.mul(c, str(k.width)), str(4 * i + j))
                    k.store(x, to, w.add(place, str(v * lanes)))
        return []

    w.loop("%lo", "%hi", "1", unit)
    return module([w.function(f"void @{name}(ptr %args, i64 %lo, i64 %hi, ptr %scratch) nounwind")], declared)
