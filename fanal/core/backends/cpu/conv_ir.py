"""LLVM IR of convolutions: products whose columns are read from the image itself, shifted by each tap.

The image, padded (and for a stride above one split into its phases), is taken as one flat line. The inputs of
neighbouring outputs are then neighbours for every tap, across the ends of rows too, so nothing is gathered: an
output row of a few positions too many is computed and those are dropped on the way to memory. Where there is
neither padding nor stride the image is read in place.

Forward, and the input gradient, which is the same with the taps mirrored: sums run over input channels, then taps,
in order.
"""

from __future__ import annotations

from dataclasses import dataclass

from fanal.core.backends.cpu.epilogue import Epilogue, Site, conclude
from fanal.core.backends.cpu.irtext import SCALAR, Value, Writer, bits, module
from fanal.core.backends.cpu.register_tile_ir import Spec as TileSpec
from fanal.core.backends.cpu.register_tile_ir import Tile, heights, tile_rows
from fanal.core.backends.cpu.target import Target
from fanal.core.base import dtype as dt

# Argument words. X: image; W: weight or output gradient; Y: output or partial sums. E*: least tap in units of the
# stride. *Q: extents of the flat image. Then the words of the epilogue, the taps, and five words for each phase:
# offsets along z and y, first source column, first and last flat column that lie inside.
(
    X,
    W,
    Y,
    N,
    GROUPS,
    CG,
    M,
    X_IMAGE,
    X_CHANNEL,
    X_PLANE,
    X_ROW,
    D,
    H,
    SZ,
    SY,
    SX,
    EZ,
    EY,
    DQ,
    HQ,
    WQ,
    PHASES,
    TAPS,
    OD,
    OH,
    OW,
    BAND,
    BANDS,
    Y_IMAGE,
    Y_CHANNEL,
    Y_Z,
    Y_ROW,
    Y_COL,
    BLOCK,
    W_ROW,
    WIDE,
    FLAT_AT,
    PACK_AT,
    PARTS,
    IMAGES,
    SUMS_AT,
    PIXELS_AT,
    BASE,
) = range(43)


@dataclass(frozen=True)
class ConvSpec:
    """Structure of one convolution kernel."""

    kind: str  # "forward", "wide", "weight" or "dot"
    height: int
    vectors: int
    dtype: str
    flat: bool  # the image is copied into its flat form
    unit: bool = True  # its columns are contiguous there and here (no stride along x)
    scatter: bool = False  # outputs are not contiguous along x

    @property
    def key(self) -> str:
        return "conv6:" + ":".join(str(v) for v in vars(self).values())


class Convolution:
    """What both kinds of kernel share: argument words and the flat copy of the image."""

    def __init__(self, target: Target, declared: set[str], spec: ConvSpec, name: str, extra: int) -> None:
        self.w = Writer(target, declared)
        self.spec, self.name = spec, name
        self.tile = Tile(
            self.w, TileSpec(spec.height, spec.vectors, spec.dtype, spec.dtype, spec.dtype, spec.dtype, "k")
        )
        self.kind, self.size, self.lanes = self.tile.kind, self.tile.size, self.tile.lanes
        self.width = self.lanes * spec.vectors
        self.taps_at = BASE + extra

    def load_words(self) -> None:
        self.words = {i: self.w.word("%args", i, i in (X, W, Y)) for i in range(BASE)}
        self.taps = self.w.at("%args", str(self.taps_at), 8)
        self.phases = self.w.at(self.taps, self.words[TAPS], 8)

    def flatten(self, x: Value, channels: Value, oz: Value, oy: Value, out: Value) -> None:
        """Write the copy of a band of `channels` channels, from output plane `oz` and row `oy` on."""
        w, p = self.w, self.words
        vector = f"<{self.lanes} x {self.kind}>"
        line = w.mul(w.mul(p[DQ], p[HQ]), p[WQ])

        def row(x_c: Value, out_p: Value, phase: list[Value], jz: Value, jy: Value) -> None:
            z = w.add(w.mul(w.add(w.add(oz, jz), p[EZ]), p[SZ]), phase[0])
            y = w.add(w.mul(w.add(w.add(oy, jy), p[EY]), p[SY]), phase[1])
            inside = w.let(
                f"and i1 {w.let(f'icmp ult i64 {z}, {p[D]}')}, {w.let(f'icmp ult i64 {y}, {p[H]}')}"
            )
            low, high = w.select(inside, phase[3], p[WQ]), w.select(inside, phase[4], p[WQ])
            source = w.add(w.add(w.mul(z, p[X_PLANE]), w.mul(y, p[X_ROW])), phase[2])
            start = w.add(w.mul(jz, p[HQ]), jy)
            dst = w.at(out_p, w.mul(start, p[WQ]), self.size)
            if self.spec.unit and w.target.masks:
                src = w.at(x_c, w.sub(source, low), self.size)

                def many(j: Value) -> list[Value]:
                    # Lanes of [low, high) come from the image, the others are zero; the overrun past the row is
                    # written again by the next.
                    upper = w.lane_mask(self.lanes, w.sub(high, j))
                    lower = w.lane_mask(self.lanes, w.sub(low, j))
                    mask = w.let(f"xor <{self.lanes} x i1> {upper}, {lower}")
                    w.store(vector, w.load(vector, w.at(src, j, self.size), mask), w.at(dst, j, self.size))
                    return []

                w.loop("0", p[WQ], str(self.lanes), many, once=True)
                return

            def zero(j: Value) -> list[Value]:
                w.do(f"store {self.kind} 0.0, ptr {w.at(dst, j, self.size)}")
                return []

            def one(j: Value) -> list[Value]:
                at = w.add(source, w.mul(w.sub(j, low), p[SX]))
                value = w.let(f"load {self.kind}, ptr {w.at(x_c, at, self.size)}")
                w.do(f"store {self.kind} {value}, ptr {w.at(dst, j, self.size)}")
                return []

            w.loop("0", low, "1", zero)
            w.loop(low, high, "1", one)
            w.loop(high, p[WQ], "1", zero)

        def channel(c: Value) -> list[Value]:
            x_c = w.at(x, w.mul(c, p[X_CHANNEL]), self.size)

            def phase(ph: Value) -> list[Value]:
                table = [w.word(w.at(self.phases, w.mul(ph, "5"), 8), i) for i in range(5)]
                out_p = w.at(out, w.mul(w.add(w.mul(c, p[PHASES]), ph), line), self.size)

                def plane(jz: Value) -> list[Value]:
                    def line_of(jy: Value) -> list[Value]:
                        row(x_c, out_p, table, jz, jy)
                        return []

                    w.loop("0", p[HQ], "1", line_of)
                    return []

                w.loop("0", p[DQ], "1", plane)
                return []

            w.loop("0", p[PHASES], "1", phase)
            return []

        w.loop("0", channels, "1", channel)

    def source(
        self, image: Value, first: Value, channels: Value, oz: Value, oy: Value, shift: Value = "0"
    ) -> tuple[Value, Value]:
        """Return the address of the flat image for a band, and the elements from one channel to the next.

        A copy is put `shift` elements into its place in scratch.
        """
        w, p = self.w, self.words
        x = w.at(p[X], w.add(w.mul(image, p[X_IMAGE]), w.mul(first, p[X_CHANNEL])), self.size)
        if not self.spec.flat:
            return w.at(x, w.add(w.mul(oz, p[X_PLANE]), w.mul(oy, p[X_ROW])), self.size), p[X_CHANNEL]
        out = w.at(w.at("%scratch", p[FLAT_AT]), shift, self.size)
        self.flatten(x, channels, oz, oy, out)
        return out, w.mul(w.mul(p[PHASES], p[DQ]), w.mul(p[HQ], p[WQ]))

    def offsets(self, plane: Value, channels: Value, place: Value) -> Value:
        """Write the table of byte offsets of every (channel, tap) at `place` in scratch; the last is repeated."""
        w, p = self.w, self.words
        table, step = w.at("%scratch", place), w.mul(plane, str(self.size))

        def channel(c: Value) -> list[Value]:
            base, row = w.mul(c, step), w.at(table, w.mul(c, p[TAPS]), 8)

            def tap(t: Value) -> list[Value]:
                offset = w.let(f"load i64, ptr {w.at(self.taps, t, 8)}, align 8")
                w.do(f"store i64 {w.add(base, offset)}, ptr {w.at(row, t, 8)}, align 8")
                return []

            w.loop("0", p[TAPS], "1", tap)
            return []

        w.loop("0", channels, "1", channel)
        if self.spec.kind in ("weight", "dot"):
            total = w.mul(channels, p[TAPS])
            last = w.let(f"load i64, ptr {w.at(table, w.sub(total, '1'), 8)}, align 8")

            def repeat(r: Value) -> list[Value]:
                w.do(f"store i64 {last}, ptr {w.at(table, w.add(total, r), 8)}, align 8")
                return []

            w.loop("0", str(self.spec.height), "1", repeat, once=True)
        return table

    def split(self, unit: Value, *extents: Value) -> list[Value]:
        """Return the digits of `unit`, the fastest first; the last one is what remains."""
        w, digits = self.w, []
        for extent in extents:
            rest = w.div(unit, extent)
            digits.append(w.sub(unit, w.mul(rest, extent)))
            unit = rest
        return [*digits, unit]

    def function(self) -> str:
        return self.w.function(f"void @{self.name}(ptr %args, i64 %lo, i64 %hi, ptr %scratch) nounwind")


class _Forward(Convolution):
    """Units are bands of output rows x planes x images x groups x blocks of output channels, in that nesting."""

    def __init__(
        self, target: Target, declared: set[str], spec: ConvSpec, name: str, epilogue: Epilogue | None
    ):
        super().__init__(target, declared, spec, name, len(epilogue.args) if epilogue else 0)
        self.epilogue = epilogue

    def write(self) -> str:
        self.load_words()
        self.w.loop("%lo", "%hi", "1", self.unit)
        return self.function()

    def unit(self, u: Value) -> list[Value]:
        w, p = self.w, self.words
        band, oz, image, group, block = self.split(u, p[BANDS], p[OD], p[N], p[GROUPS])
        oy = w.mul(band, p[BAND])
        rows = w.min(p[BAND], w.sub(p[OH], oy))
        flat, plane = self.source(image, w.mul(group, p[CG]), p[CG], oz, oy)
        table, depth = self.offsets(plane, p[CG], p[PACK_AT]), w.mul(p[CG], p[TAPS])
        positions = w.add(w.mul(w.sub(rows, "1"), p[WQ]), p[OW])
        weights = w.at(p[W], w.mul(w.mul(group, p[M]), p[W_ROW]), self.size)
        i0 = w.mul(block, p[BLOCK])
        i1 = w.min(w.add(i0, p[BLOCK]), p[M])
        shift = w.add(w.mul(image, p[Y_IMAGE]), w.add(w.mul(oz, p[Y_Z]), w.mul(oy, p[Y_ROW])))

        def channels(i: Value) -> list[Value]:
            rest = w.min(w.sub(i1, i), str(self.spec.height))
            high = tile_rows(w, rest, heights(self.spec.height))
            skip = w.sub(high, rest)
            a = w.at(weights, w.mul(w.sub(i, skip), p[W_ROW]), self.size)
            first = w.add(w.mul(group, p[M]), i)
            here = w.at(p[Y], w.add(shift, w.mul(first, p[Y_CHANNEL])), self.size)

            def panel(q: Value) -> list[Value]:
                if not self.spec.scatter:
                    self.ask(w.at(here, q, self.size), rest)
                w.do(
                    f"call void @{self.name}_part(ptr {a}, i64 {w.mul(p[W_ROW], str(self.size))}, "
                    f"ptr {w.at(flat, q, self.size)}, ptr {table}, i64 {depth}, ptr {w.at('%scratch', q, self.size)}, "
                    f"i64 {w.mul(p[WIDE], str(self.size))}, i64 {high}, i64 {w.sub(positions, q)})"
                )
                return []

            w.loop("0", positions, str(self.width), panel, once=True)
            acc = w.at("%scratch", w.mul(skip, p[WIDE]), self.size)
            self.finish(acc, first, rest, rows, oy, shift)
            return []

        w.loop(i0, i1, str(self.spec.height), channels)
        return []

    def ask(self, out: Value, channels: Value) -> None:
        """Ask for the lines that a panel will be written to: one store that waits holds up all after it."""
        w = self.w

        def channel(r: Value) -> list[Value]:
            at = w.at(out, w.mul(r, w.mul(self.words[Y_CHANNEL], str(self.size))))
            for line in range(0, self.width * self.size, 64):
                w.call("void", "llvm.prefetch.p0", ("ptr", w.at(at, str(line))), ("i32", "1"), ("i32", "3"),
                       ("i32", "1"))
            return []

        w.loop("0", channels, "1", channel, once=True)

    def finish(self, acc: Value, first: Value, channels: Value, rows: Value, oy: Value, shift: Value) -> None:
        """Write the epilogue of `channels` x `rows` rows, dropping what lies between the ends of rows."""
        w, p, vector = self.w, self.words, self.tile.vector
        tail = w.let(f"and i64 {p[OW]}, {-self.lanes}")
        rest = w.sub(p[OW], tail)
        mask = w.lane_mask(self.lanes, rest)
        tail_mask = mask

        def channel(r: Value) -> list[Value]:
            here = w.add(first, r)
            at_channel = w.at(acc, w.mul(r, p[WIDE]), self.size)
            out_channel = w.add(shift, w.mul(here, p[Y_CHANNEL]))

            def row(y: Value) -> list[Value]:
                at = w.at(at_channel, w.mul(y, p[WQ]), self.size)
                offset = w.add(out_channel, w.mul(y, p[Y_ROW]))
                pixel = w.mul(w.add(oy, y), p[OW])

                def put(x: Value, mask: Value | None = None) -> list[Value]:
                    value = w.load(vector, w.at(at, x, self.size), None, self.size)
                    site = Site(w, "%args", BASE, here, w.add(pixel, x), w.add(offset, x), mask, self.lanes)
                    of = dt.by_name(self.spec.dtype)
                    conclude(site, self.epilogue, value, of, of, p[Y])
                    return []

                def one(x: Value) -> list[Value]:
                    value = w.let(f"load {self.kind}, ptr {w.at(at, x, self.size)}")
                    place = w.add(offset, w.mul(x, p[Y_COL]))
                    w.do(f"store {self.kind} {value}, ptr {w.at(p[Y], place, self.size)}")
                    return []

                if self.spec.scatter:
                    w.loop("0", p[OW], "1", one)
                else:
                    w.loop("0", tail, str(self.lanes), put)
                    w.when(w.less("0", rest), lambda: put(tail, tail_mask))
                return []

            w.loop("0", rows, "1", row)
            return []

        w.loop("0", channels, "1", channel)


def _forward_part(target: Target, declared: set[str], spec: ConvSpec, name: str) -> str:
    """Return the function computing a tile of output channels x flat positions into memory."""
    w = Writer(target, declared)
    tile = Tile(w, TileSpec(spec.height, spec.vectors, spec.dtype, spec.dtype, spec.dtype, spec.dtype, "k"))
    v, lanes, size, vector = spec.vectors, tile.lanes, tile.size, tile.vector
    masks = None
    if not spec.flat:  # in place: what lies behind the last image is not ours to read
        masks = [w.lane_mask(lanes, w.sub("%cols", str(j * lanes))) for j in range(v)]
    choices = heights(spec.height)
    labels = {h: w.fresh("rows") for h in choices}
    w.do(
        "switch i64 %rows, label %"
        + labels[spec.height]
        + " [ "
        + " ".join(f"i64 {h}, label %{labels[h]}" for h in choices[:-1])
        + " ]"
    )
    for h in choices:
        w.label(labels[h])
        bases = list(range(0, h, 3))
        first = [w.at("%a", w.mul("%a_step", str(r))) for r in bases]
        twice = w.mul("%a_step", "2") if h > 2 else "0"

        def step(
            k: Value, *carried: Value, h: int = h, bases: list[int] = bases, twice: Value = twice
        ) -> list[Value]:
            pointers, acc = carried[: len(bases)], list(carried[len(bases) :])
            b = w.at("%b", w.let(f"load i64, ptr {w.at('%table', k, 8)}, align 8"))
            panel = [
                w.load(vector, w.at(b, str(j * lanes), size), masks[j] if masks else None, size)
                for j in range(v)
            ]
            for r in range(h):
                at = w.at(pointers[r // 3], ("0", "%a_step", twice)[r % 3])
                scalar = w.splat(vector, w.let(f"load {tile.kind}, ptr {at}, align {size}"))
                for j in range(v):
                    acc[r * v + j] = w.fma(vector, scalar, panel[j], acc[r * v + j])
            return [*(w.at(q, str(size)) for q in pointers), *acc]

        carried = [*(("ptr", q) for q in first), *[(vector, "zeroinitializer")] * (h * v)]
        done = w.loop("0", "%depth", "1", step, carried)[len(bases) :]
        out = "%acc"
        for r in range(h):
            for j in range(v):
                w.store(vector, done[r * v + j], w.at(out, str(j * lanes), size), None, size)
            out = w.at(out, "%acc_step")
        w.do("ret void")
    w.lines.pop()
    return w.function(
        f"internal void @{name}_part(ptr %a, i64 %a_step, ptr %b, ptr %table, i64 %depth, ptr %acc, "
        "i64 %acc_step, i64 %rows, i64 %cols) nounwind"
    )


def forward_source(target: Target, name: str, spec: ConvSpec, epilogue: Epilogue | None) -> str:
    """Return the module of a forward or input-gradient kernel."""
    declared: set[str] = set()
    main = _Forward(target, declared, spec, name, epilogue).write()
    return module([main, _forward_part(target, declared, spec, name)], declared)


def mirror_source(target: Target, name: str, dtype: str, panels: bool) -> str:
    """Return the kernel that lays a weight (group, c, m, tap) out for the input gradient, taking some of its taps.

    As rows (group, m, c, tap), units being the rows, or as panels (group, panel, c, tap, lane), units being the
    panels. Words: weight, output, M, CG, taps, taps taken, lanes of a panel, panels, then which taps.
    """
    declared: set[str] = set()
    w = Writer(target, declared)
    kind = SCALAR[dtype]
    size = bits(kind) // 8
    source, out = w.word("%args", 0, True), w.word("%args", 1, True)
    m, cg, taps, taken, lanes, count = (w.word("%args", i) for i in range(2, 8))
    table = w.at("%args", "8", 8)

    def unit(u: Value) -> list[Value]:
        units = count if panels else m
        group = w.div(u, units)
        first = w.sub(u, w.mul(group, units))
        first = w.mul(first, lanes) if panels else first
        used = w.min(w.sub(m, first), lanes) if panels else "1"
        width = lanes if panels else "1"
        to = w.at(out, w.mul(w.mul(u, width), w.mul(cg, taken)), size)

        def channel(c: Value) -> list[Value]:
            place = w.add(w.mul(w.add(w.mul(group, cg), c), m), first)
            at = w.at(source, w.mul(place, taps), size)
            row = w.at(to, w.mul(w.mul(c, taken), width), size)

            def tap(t: Value) -> list[Value]:
                which = w.let(f"load i64, ptr {w.at(table, t, 8)}, align 8")
                here, there = w.at(at, which, size), w.at(row, w.mul(t, width), size)

                def lane(i: Value) -> list[Value]:
                    value = w.let(f"load {kind}, ptr {w.at(here, w.mul(i, taps), size)}")
                    w.do(f"store {kind} {value}, ptr {w.at(there, i, size)}")
                    return []

                def zero(i: Value) -> list[Value]:
                    w.do(f"store {kind} 0.0, ptr {w.at(there, i, size)}")
                    return []

                w.loop("0", used, "1", lane, once=True)
                if panels:
                    w.loop(used, width, "1", zero)
                return []

            w.loop("0", taken, "1", tap)
            return []

        w.loop("0", cg, "1", channel)
        return []

    w.loop("%lo", "%hi", "1", unit)
    return module([w.function(f"void @{name}(ptr %args, i64 %lo, i64 %hi, ptr %scratch) nounwind")], declared)
