"""LLVM IR of the weight gradient by minimal filtering: the transpose of the forward form by the weight.

The output gradient is transformed as 2 x 2 tiles, the products of all tiles added up place by place, and the sums
transformed to 3 x 3 at the end.
"""

from __future__ import annotations

from fanal.core.backends.cpu import conv_winograd_ir as words
from fanal.core.backends.cpu.conv_winograd_ir import (
    PLACES,
    Shared,
    Unit,
    WinogradSpec,
    flipped,
    inputs,
    products,
    stage,
)
from fanal.core.backends.cpu.irtext import Value, module
from fanal.core.backends.cpu.register_tile_ir import heights, tile_rows
from fanal.core.backends.cpu.target import Target


def _gradients(k: Shared) -> str:
    """Return the function that transforms staged output gradients, 2 x 2 to a tile."""
    w, lanes = k.w, k.lanes

    def row(ty: Value) -> list[Value]:
        top = k.at("%from", w.mul(w.mul(w.mul(ty, "2"), "%columns"), str(lanes)))
        lines = [top, k.at(top, w.mul("%columns", str(lanes)))]
        out = k.at("%to", w.mul(w.mul(ty, "%tiles"), "%row"))

        def tile(tx: Value) -> list[Value]:
            at, to = w.mul(tx, str(2 * lanes)), k.at(out, w.mul(tx, "%row"))
            columns = [
                k.gradient([k.load(line, w.add(at, str(j * lanes))) for line in lines]) for j in (0, 1)
            ]
            for i, line in enumerate(flipped(columns)):
                for j, x in enumerate(k.gradient(line)):
                    k.store(x, to, w.mul("%plane", str(4 * i + j)))
            return []

        w.loop("0", "%tiles", "1", tile, once=True)
        return []

    w.loop("0", "%rows", "1", row, once=True)
    return k.function(
        "gradients", "ptr %from, i64 %columns, i64 %rows, i64 %tiles, ptr %to, i64 %row, i64 %plane"
    )


class _WeightGradient(Unit):
    """Units are panels of output channels x blocks of input channels x groups of images, in that nesting.

    Neighbouring units up to a block of output channels are done together: they share the transformed inputs. Partial
    sums go to (part, input channel, tap, output channel).
    """

    def write(self) -> str:
        self.w.repeat(self.w.less("%lo", "%hi"), self.units, [("i64", "%lo")])
        return self.function_of_units()

    def units(self, u: Value) -> tuple[list[Value], Value]:
        w, p = self.w, self.p
        blocks = w.div(w.add(p[words.C], w.sub(p[words.C_BLOCK], "1")), p[words.C_BLOCK])
        columns = w.div(w.add(p[words.M], str(self.width - 1)), str(self.width))
        panel, c_block, part = self.split(u, columns, blocks)
        together = w.div(p[words.BLOCK], str(self.width))
        count = w.sub(together, w.let(f"urem i64 {panel}, {together}"))
        count = w.min(w.min(count, w.sub(columns, panel)), w.sub("%hi", u))
        c0, m0, first = (
            w.mul(c_block, p[words.C_BLOCK]),
            w.mul(panel, str(self.width)),
            w.mul(part, p[words.IMAGES]),
        )
        c1 = w.min(w.add(c0, p[words.C_BLOCK]), p[words.C])
        m1 = w.min(w.add(m0, w.mul(count, str(self.width))), p[words.M])
        stop = w.min(w.add(first, p[words.IMAGES]), p[words.N])
        values, gradients = self.scratch(words.V_AT), self.scratch(words.Z_AT)

        def images(n: Value) -> list[Value]:
            count = w.min(p[words.TOGETHER], w.sub(stop, n))

            def band(b: Value) -> list[Value]:
                tile = w.mul(b, p[words.BAND])
                rows = w.min(p[words.BAND], w.sub(p[words.TH], tile))
                each = w.mul(rows, p[words.TW])

                def image(i: Value) -> list[Value]:
                    at, t = w.add(n, i), w.mul(i, each)
                    self.inputs(at, c0, c1, tile, rows, self.at(values, w.mul(t, p[words.V_ROW])))
                    self.gradients(at, m0, m1, tile, rows, self.at(gradients, w.mul(t, p[words.Z_ROW])))
                    return []

                w.loop("0", count, "1", image, once=True)
                again = w.let(f"icmp ne i64 {w.add(b, w.sub(n, first))}, 0")
                self.products(w.sub(c1, c0), w.sub(m1, m0), w.mul(count, each), again)
                return []

            w.loop("0", p[words.BANDS], "1", band, once=True)
            return []

        w.loop(first, stop, p[words.TOGETHER], images, once=True)
        self.finish(part, c0, c1, m0, m1)
        following = w.add(u, count)
        return [following], w.less(following, "%hi")

    def gradients(self, image: Value, first: Value, stop: Value, tile: Value, rows: Value, to: Value) -> None:
        w, p = self.w, self.p
        stage, columns = self.scratch(words.STAGE_AT), w.mul(p[words.TW], "2")
        source = self.at(p[words.W], w.mul(image, p[words.Y_IMAGE]))

        def group(m: Value) -> list[Value]:
            count = w.min(w.sub(stop, m), str(self.lanes))
            self.run(
                "stage",
                f"ptr {self.at(source, w.mul(m, p[words.Y_CHANNEL]))}",
                f"i64 {p[words.Y_CHANNEL]}",
                f"i64 {count}",
                f"i64 {w.mul(tile, '2')}",
                f"i64 {w.mul(rows, '2')}",
                "i64 0",
                f"i64 {columns}",
                f"i64 {p[words.OH]}",
                f"i64 {p[words.OW]}",
                f"ptr {stage}",
            )
            self.run(
                "gradients",
                f"ptr {stage}",
                f"i64 {columns}",
                f"i64 {rows}",
                f"i64 {p[words.TW]}",
                f"ptr {self.at(to, w.sub(m, first))}",
                f"i64 {p[words.Z_ROW]}",
                f"i64 {w.mul(p[words.ROWS], p[words.Z_ROW])}",
            )
            return []

        w.loop(first, stop, str(self.lanes), group, once=True)

    def products(self, channels: Value, outputs: Value, tiles: Value, again: Value) -> None:
        """Add the products of the tiles at hand to the sums (place, input channel, output channel)."""
        w, p, h = self.w, self.p, self.spec.height
        a_step, b_step = w.mul(p[words.V_ROW], str(self.size)), w.mul(p[words.Z_ROW], str(self.size))
        values, gradients, sums = self.scratch(words.V_AT), self.scratch(words.Z_AT), self.scratch(words.M_AT)

        def place(k: Value) -> list[Value]:
            of = self.at(values, w.mul(k, w.mul(p[words.ROWS], p[words.V_ROW])))
            by = self.at(gradients, w.mul(k, w.mul(p[words.ROWS], p[words.Z_ROW])))
            to = self.at(sums, w.mul(k, p[words.ONE]))

            def panel(m: Value) -> list[Value]:
                def rows(c: Value) -> list[Value]:
                    high = tile_rows(w, w.min(w.sub(channels, c), str(h)), heights(h))
                    self.run(
                        "part",
                        f"ptr {self.at(of, c)}",
                        f"i64 {a_step}",
                        f"ptr {self.at(by, m)}",
                        f"i64 {b_step}",
                        f"i64 {tiles}",
                        f"ptr {self.at(to, w.add(w.mul(c, p[words.Z_ROW]), m))}",
                        f"i64 {b_step}",
                        f"i1 {again}",
                        f"i64 {high}",
                        "i64 0",
                    )
                    return []

                w.loop("0", channels, str(h), rows, once=True)
                return []

            w.loop("0", outputs, str(self.width), panel, once=True)
            return []

        w.loop("0", str(PLACES), "1", place, once=True)

    def finish(self, part: Value, c0: Value, c1: Value, m0: Value, m1: Value) -> None:
        w, p = self.w, self.p
        sums = self.scratch(words.M_AT)
        out = self.at(p[words.Y], w.mul(part, w.mul(w.mul(p[words.C], "9"), p[words.WIDE])))

        def row(c: Value) -> list[Value]:
            at = self.at(sums, w.mul(w.sub(c, c0), p[words.Z_ROW]))
            to = self.at(out, w.mul(w.mul(c, "9"), p[words.WIDE]))

            def columns(m: Value) -> list[Value]:
                here = self.at(at, w.sub(m, m0))
                places = [
                    [self.load(here, w.mul(p[words.ONE], str(4 * i + j))) for i in range(4)] for j in range(4)
                ]
                for i, line in enumerate(flipped([self.weight_back(x) for x in places])):
                    for j, x in enumerate(self.weight_back(line)):
                        self.store(x, to, w.add(w.mul(p[words.WIDE], str(3 * i + j)), m))
                return []

            w.loop(m0, m1, str(self.lanes), columns, once=True)
            return []

        w.loop(c0, c1, "1", row, once=True)


def weight_gradient_source(target: Target, name: str, spec: WinogradSpec) -> str:
    """Return the module of a weight-gradient kernel; its parts are added up by the one of the direct form."""
    declared: set[str] = set()
    main = _WeightGradient(target, declared, spec, name).write()
    parts = [make(Shared(target, declared, spec, name)) for make in (stage, inputs, _gradients)]
    return module([main, *parts, products(target, declared, spec, name)], declared)
