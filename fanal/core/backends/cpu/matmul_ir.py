"""LLVM IR of the matrix product: register tiles, packing, the loops around them.

One element of C is the sum over k = 0, 1, ... of A[m,k]*B[k,n], one fused multiply-add after the other in that
order, whatever the tile, the blocking of K (partial sums are kept in full precision and taken up again) and the
division among threads. So the bits of a row do not depend on the other rows.

float32 may be split for the matrix unit (`compiler.graph.Split`, `tiles_ir`), and summed in the order of that; shapes
decide, and what was said of tiles, blocks and threads holds as well.
"""
from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

from fanal.core.backends.cpu import tiles_ir
from fanal.core.backends.cpu.epilogue import Epilogue, Site, conclude
from fanal.core.backends.cpu.irtext import SCALAR, Value, Writer, bits, module
from fanal.core.backends.cpu.pack_ir import (
    PACK_ROWS,
    SIDE,
    SPLIT_ROWS,
    elements_of,
    pack_panel,
    pack_parts,
    pack_words,
    sums_again,
)
from fanal.core.backends.cpu.register_tile_ir import (
    Spec,
    Stream,
    Tile,
    heights,
    partial_tile,
    tile_rows,
    tile_rows_within,
)
from fanal.core.backends.cpu.target import Target
from fanal.core.base import dtype as dt
from fanal.core.compiler.graph import FEW

# Argument words.
A, B, C, M, N, K, A_ROW, A_K, B_K, B_COL, B_PANEL, C_ROW, MC, MB, NC, NB, KC, A_AT, B_AT = range(19)
LENGTH, PASS, SOURCE_K, DOWN, BATCH = range(19, 24)

_COPY_ROWS = 8  # taken at a time where columns are contiguous: all may fall on the same lines of the first-level cache
_FINISH_ROWS = 4  # of a tile of the matrix unit, between two parts of the next


def matrix_at(w: Writer, first: int, axes: int, index: Value) -> list[Value]:
    """Return where in A, B and C the matrices of a batch index begin, in elements.

    The words of a batch axis are its extent and its steps in the three; those of the outermost begin at `first`.
    """
    at = ["0", "0", "0"]
    for i in reversed(range(axes)):
        extent, *steps = (first + 4 * i + k for k in range(4))
        here = index
        if i:
            size = w.word("%args", extent)
            here = w.let(f"urem i64 {index}, {size}")
            index = w.div(index, size)
        at = [w.add(x, w.mul(here, w.word("%args", step))) for x, step in zip(at, steps, strict=True)]
    return at


def product_source(target: Target, name: str, spec: Spec, epilogue: Epilogue | None) -> str:
    """Return the module of one product kernel."""
    declared: set[str] = set()
    product = _Product(target, declared, spec, name, epilogue)
    functions = [product.write(), _finish(target, declared, spec, name, epilogue)]
    if spec.split:
        functions.append(_again(target, declared, spec, name))
    if not spec.tiles:
        whole = replace(spec, masked=spec.masked and not spec.edge)
        functions.append(partial_tile(target, declared, whole, name + "_part", heights(spec.height), product.inline))
    if spec.edge:
        last = replace(spec, vectors=spec.edge)
        functions.append(partial_tile(target, declared, last, name + "_edge", heights(spec.height), True))
    return module(functions, declared)


class _Product:
    """Writes the loops over units, blocks of K, panels of B and tiles of rows."""

    def __init__(self, target: Target, declared: set[str], spec: Spec, name: str, epilogue: Epilogue | None):
        self.w = Writer(target, declared)
        self.spec, self.name, self.epilogue = spec, name, epilogue
        self.tile = Tile(self.w, spec)
        self.width = self.tile.lanes * spec.vectors
        self.a_vectors = -(-spec.height // self.tile.lanes)  # of a row of packed A
        self.row_bytes = self.width * self.tile.size
        self.tile_bytes = spec.height * self.row_bytes
        # Long epilogues are written once, in a loop over rows; short ones in line behind the full tile.
        self.inline = not spec.tiles and not spec.blocked and (epilogue is None or epilogue.cost <= 4)
        self.streams = self.inline and (spec.b_copy in ("n", "k") or (not spec.b_copy and spec.a_copy in ("m", "k")))
        self.per_word = self.tile.size * 8 // bits(SCALAR[spec.a]) if spec.words else 1

    def write(self) -> str:
        w = self.w
        self.c = w.word("%args", C, True)
        self.m, self.n, self.k, self.ldc = (w.word("%args", i) for i in (M, N, K, C_ROW))
        self.a_row, self.a_k, self.b_k = (w.word("%args", i) for i in (A_ROW, A_K, B_K))
        if self.spec.tiles:
            tiles_ir.configure(w)
        # Neighbouring units share rows of A: they are copied for the first.
        w.loop("%lo", "%hi", "1", self.unit, [("i64", "-1")])
        if self.spec.tiles:
            tiles_ir.release(w)
        return w.function(f"void @{self.name}(ptr %args, i64 %lo, i64 %hi, ptr %scratch) nounwind")

    def element(self, k: Value) -> Value:
        """Return the element of k that a step of k begins with."""
        return elements_of(self.w, k, self.per_word, self.spec.split)

    def unit(self, u: Value, before: Value) -> list[Value]:
        w, spec, args = self.w, self.spec, "%args"
        nb, mb = w.word(args, NB), w.word(args, MB)
        down = "" if spec.a_copy or spec.b_copy else w.less("0", w.word(args, DOWN))

        def in_turn(x: Value, y: Value) -> tuple[Value, Value]:
            return (w.select(down, y, x), w.select(down, x, y)) if down else (x, y)
        inner, outer = in_turn(nb, mb)
        group = rest = w.div(u, inner)
        self.new_rows = w.let(f"icmp ne i64 {group}, {before}")
        a, b, shift = w.word(args, A, True), w.word(args, B, True), "0"
        a_size, b_size = bits(SCALAR[spec.a]) // 8, bits(SCALAR[spec.b]) // 8
        b_size = b_size if spec.b_copy else self.tile.size
        within, self.matrix = rest, "0"
        if spec.batch:
            self.matrix = w.div(rest, outer)
            within = w.sub(rest, w.mul(self.matrix, outer))
            in_a, in_b, shift = matrix_at(w, BATCH, spec.batch, self.matrix)
            a, b = w.at(a, in_a, a_size), w.at(b, in_b, b_size)
        ib, jb = in_turn(within, w.sub(u, w.mul(rest, inner)))
        # Units are whole tiles high, as many to within one: only the last row of tiles is partial.
        high, nc = str(spec.height), w.word(args, NC)
        tiles = w.div(w.add(self.m, str(spec.height - 1)), high)
        i0, i1 = (w.mul(w.div(w.mul(i, tiles), mb), high) for i in (ib, w.add(ib, "1")))
        j0 = w.mul(jb, nc)
        i1, j1 = w.min(i1, self.m), w.min(w.add(j0, nc), self.n)
        if self.streams:
            self.look_ahead(a, b, i0, i1, j0, j1, ib, jb, u)
        if spec.blocked:
            kc = w.word(args, KC)

            def block(k0: Value) -> list[Value]:
                depth = w.min(kc, w.sub(self.k, k0))
                self.block(a, b, shift, i0, i1, j0, j1, k0, depth)
                return []

            def blocks() -> None:
                w.loop("0", self.k, kc, block)
            if spec.split:
                many = [w.less(str(FEW), w.word(args, BATCH + 8 * spec.batch + i)) for i in (1, 2)]
                w.when(w.let(f"and i1 {many[0]}, {many[1]}"), blocks, lambda: self.in_order(shift, i0, i1, j0, j1))
            else:
                blocks()
        else:
            self.block(a, b, shift, i0, i1, j0, j1, "0", self.k)
        return [group]

    def in_order(self, shift: Value, i0: Value, i1: Value, j0: Value, j1: Value) -> None:
        """Compute a unit by multiply-adds: the bits of few rows or steps, by the kernel for many."""
        w, lanes, size = self.w, self.tile.lanes, self.tile.size

        def columns(j: Value) -> list[Value]:
            cols = w.min(w.sub(j1, j), str(lanes))

            def row(i: Value) -> list[Value]:
                w.store(self.tile.vector, f"splat ({self.tile.kind} 0x7FF8000000000000)", "%scratch", None, size)
                self.finish("%scratch", i, j, "1", cols, w.add(w.add(shift, w.mul(i, self.ldc)), j))
                return []
            w.loop(i0, i1, "1", row)
            return []
        w.loop(j0, j1, str(lanes), columns)

    def look_ahead(self, a: Value, b: Value, i0: Value, i1: Value, j0: Value, j1: Value, ib: Value, jb: Value,
                   u: Value) -> None:
        """Find what is packed next: the panels of the next unit, or this unit's share of the rows after these.

        Its lines are asked for while tiles are multiplied, which leave the memory idle.
        """
        w, spec, args = self.w, self.spec, "%args"
        nb, tiles, self.first = w.word(args, NB), w.div(w.sub(i1, i0), str(spec.height)), "0"
        if spec.b_copy:  # every panel's tiles ask for the same panel of the next unit
            size = bits(SCALAR[spec.b]) // 8
            step_n = w.mul(w.word(args, B_COL), str(size))
            self.ahead, self.ahead_panel = w.at(b, w.mul(j1, step_n)), w.mul(step_n, str(self.width))
            more, begins = w.less(w.add(jb, "1"), nb), w.add(u, "1")
            if spec.b_copy == "n":
                self.ahead_step, count = w.mul(self.b_k, str(size)), self.element(self.k)
            else:
                self.ahead_step, count = str(self.row_bytes), w.div(self.ahead_panel, str(self.row_bytes))
        else:
            size = bits(SCALAR[spec.a]) // 8
            more, begins = w.less(w.add(ib, "1"), w.word(args, MB)), w.add(w.sub(u, jb), nb)
            tiles = w.mul(tiles, w.div(w.sub(j1, j0), str(self.width)))
            if spec.a_copy == "m":  # of every step of k a few lines, which the group's tiles ask for strip by strip
                self.ahead, self.ahead_step = w.at(a, i1, size), w.mul(self.a_k, str(size))
                bytes_high = w.mul(w.word(args, MC), str(size))
                self.strips = w.div(w.add(bytes_high, str(self.row_bytes - 1)), str(self.row_bytes))
                self.first, count = w.mul(jb, tiles), self.element(self.k)
                tiles = w.div(w.mul(tiles, nb), self.strips)
            else:
                row = w.mul(self.a_row, str(size))
                self.ahead, self.ahead_step = w.at(a, w.mul(i1, row)), str(self.row_bytes)
                count = w.div(w.mul(w.word(args, MC), row), self.ahead_step)
                self.first = w.div(w.mul(count, jb), nb)
                count = w.sub(w.div(w.mul(count, w.add(jb, "1")), nb), self.first)
        self.sharers = w.max(tiles, "1")
        count = w.select(w.let(f"and i1 {more}, {w.less(begins, '%hi')}"), count, "0")
        self.share = w.div(w.add(count, w.sub(self.sharers, "1")), self.sharers)

    def stream(self, i: Value, j: Value, panels: Value) -> Stream:
        """Return what the tile at (i, j) of a unit of so many panels asks for of what is packed next."""
        w = self.w
        number, panel, base = w.div(i, str(self.spec.height)), w.div(j, str(self.width)), self.ahead
        share, first = self.share, self.first
        if self.spec.b_copy:
            base = w.at(base, w.mul(panel, self.ahead_panel))
        else:
            number = w.add(w.mul(number, panels), panel)
            if self.spec.a_copy == "m":
                number, first = w.add(first, number), "0"
                strip = w.div(number, self.sharers)
                number = w.sub(number, w.mul(strip, self.sharers))
                base = w.at(base, w.mul(strip, str(self.row_bytes)))
                share = w.select(w.less(strip, self.strips), share, "0")
        at = w.add(first, w.mul(number, self.share))
        return Stream(w.at(base, w.mul(at, self.ahead_step)), self.ahead_step, share)

    def pack(self, form: str, of: str, vectors: int, src: Value, src_k: Value, src_col: Value, cols: Value,
             width: int, k0: Value, depth: Value, out: Value, right: bool) -> None:
        """Pack depth x cols of an operand in panels `width` columns apart, each depth x (vectors*lanes)."""
        w, size = self.w, bits(SCALAR[of]) // 8
        across = vectors * self.tile.lanes
        pack_rows = str(SPLIT_ROWS if self.spec.split else PACK_ROWS if self.spec.words else _COPY_ROWS)

        def piece(k: Value) -> list[Value]:
            rows = depth if form == "k" else w.min(w.sub(depth, k), pack_rows)

            def panel(j: Value) -> list[Value]:
                number = w.div(j, str(width))
                place = w.mul(w.add(w.mul(number, depth), k), str(across))
                at = w.at(src, w.add(w.mul(j, src_col), w.mul(self.element(k), src_k)), size)
                to, lines = w.at(out, place, self.tile.size), w.min(w.sub(cols, j), str(across))
                if self.spec.words:
                    left = w.sub(w.word("%args", LENGTH), self.element(w.add(k0, k)))
                    if self.spec.split:
                        pack_parts(w, form, vectors, at, src_k, src_col, to, rows, left, lines, right)
                    else:
                        pack_words(w, form, of, vectors, at, src_k, src_col, to, rows, left, lines,
                                   right or self.spec.pairs)
                else:
                    pack_panel(w, form, SCALAR[of], self.tile.kind, vectors, at, src_k, src_col, to, rows, lines)
                return []
            w.loop("0", cols, str(width), panel)
            return []
        if form == "k":
            piece("0")
        else:  # so that memory is read along its pages
            w.loop("0", depth, pack_rows, piece)

    def block(self, a: Value, b: Value, shift: Value, i0: Value, i1: Value, j0: Value, j1: Value, k0: Value,
              depth: Value) -> None:
        w, spec, size = self.w, self.spec, self.tile.size
        rows_k = spec.a_form == "k"
        first = self.element(k0)
        of = bits(SCALAR[spec.a]) // 8
        if spec.a_copy:
            # Where numbers are split, all of k is copied at once.
            begin, steps = ("0", self.k) if spec.split else (k0, depth)
            at = w.at(a, w.add(w.mul(i0, self.a_row), w.mul("0" if spec.split else first, self.a_k)), of)
            a = w.at("%scratch", w.word("%args", A_AT))
            copy = functools.partial(
                self.pack, "n" if spec.a_copy == "m" else spec.a_copy, spec.a, self.a_vectors, at, self.a_k,
                self.a_row, w.sub(i1, i0), spec.height, begin, steps, a, False)
            if spec.split:
                w.when(w.let(f"and i1 {self.new_rows}, {w.less(k0, '1')}"), copy)
            elif spec.blocked:
                copy()
            else:
                w.when(self.new_rows, copy)
            a_step, origin = str(self.a_vectors * self.tile.lanes * size), i0
            a_panel = w.mul(steps, a_step)
            a = w.at(a, w.mul(k0, a_step)) if spec.split else a
        else:
            a = w.at(a, w.mul(k0, "1" if rows_k else self.a_k), size)
            a_step, origin = w.mul(self.a_row if rows_k else self.a_k, str(of)), "0"
        b_step = str(self.width * size) if spec.b_copy else w.mul(self.b_k, str(size))
        if spec.b_copy:
            step_n = w.word("%args", B_COL)
            at = w.at(b, w.add(w.mul(j0, step_n), w.mul(first, self.b_k)), bits(SCALAR[spec.b]) // 8)
            b = w.at("%scratch", w.word("%args", B_AT))
            self.pack(spec.b_copy, spec.b, spec.vectors, at, self.b_k, step_n, w.sub(j1, j0), self.width, k0, depth,
                      b, True)
            panel_step, b_origin = w.mul(depth, str(self.width * size)), j0
        else:
            panel_step, b_origin = w.mul(w.word("%args", B_PANEL), str(size)), "0"
            b = w.at(b, w.mul(k0, b_step))
        tiles_high = w.div(w.add(w.word("%args", MC), str(spec.height - 1)), str(spec.height))
        resume = w.let(f"icmp ne i64 {k0}, 0") if spec.blocked else "false"
        last = w.let(f"icmp eq i64 {w.add(k0, depth)}, {self.k}") if spec.blocked else "true"
        if spec.pairs:  # of a panel only the words that hold elements: they are packed 16 at a time
            depth = w.min(depth, w.sub(w.div(w.add(w.word("%args", LENGTH), "1"), "2"), k0))

        def columns(j_from: Value, *waiting: Value) -> list[Value]:
            j_to = w.min(w.add(j_from, w.word("%args", PASS)), j1)

            def tile(i: Value, j: Value, *waiting: Value) -> Sequence[Value]:
                number = w.div(w.sub(j, b_origin), str(self.width))
                b_now = w.at(b, w.mul(number, panel_step))
                cols = w.min(w.sub(j1, j), str(self.width))

                def a_at(row: Value) -> Value:
                    row = w.sub(row, origin)
                    if spec.a_copy:
                        return w.at(a, w.mul(w.div(row, str(spec.height)), a_panel))
                    return w.at(a, w.mul(row, a_step) if rows_k else row, 1 if rows_k else size)

                def part() -> Sequence[Value]:
                    rest = w.min(w.sub(i1, i), str(spec.height))
                    high = tile_rows(w, rest, heights(spec.height, spec.tiles))
                    if spec.a_copy:
                        start, skip = i, "0"  # rows too many are scratch memory
                    else:
                        skip = w.sub(high, rest)  # rows too many are those before, computed again and not stored
                        start = w.sub(i, skip)
                    acc = waiting[-1] if spec.tiles else "%scratch"
                    if spec.blocked:
                        across = w.div(w.sub(j, j0), str(self.width))
                        place = w.add(w.mul(across, tiles_high), w.div(w.sub(i, i0), str(spec.height)))
                        acc = w.at("%scratch", w.mul(place, str(self.tile_bytes)))
                    offset = w.add(w.add(shift, w.mul(i, self.ldc)), j)
                    if spec.tiles:
                        self.multiply(high, a_at(start), a_step, b_now, b_step, depth, acc, resume, offset,
                                      waiting)
                        kept = w.at(acc, w.mul(skip, str(self.width)), size)
                        return [kept, i, j, w.select(last, rest, "0"), cols, offset, waiting[0]]

                    def some(first: Value, step: Value, count: Value, to: Value, skip: Value, rows: Value,
                             before: Value = "0") -> None:
                        """Compute `count` rows from `first` on; store `rows` after `skip`, `before` rows further on."""
                        def compute(function: str) -> None:
                            w.do(f"call void @{self.name}_{function}(ptr {a}, i64 {step}, ptr {b_now}, i64 {b_step}, "
                                 f"i64 {depth}, ptr {to}, i64 {self.width * size}, i1 {resume}, i64 {count}, "
                                 f"i64 {cols})")
                        def fetch() -> None:
                            w.loop("0", rows, "1", lambda r: self.fetch_row(w.add(offset, w.mul(r, self.ldc))) or [])
                        if spec.blocked:
                            w.when(last, fetch)
                        else:
                            fetch()
                        a = a_at(first)
                        if spec.edge:
                            w.when(w.less(cols, str(self.width)), lambda: compute("edge"), lambda: compute("part"))
                        else:
                            compute("part")
                        done = [w.at(to, w.mul(skip, str(self.width)), size), w.add(i, before), j, rows, cols,
                                w.add(offset, w.mul(before, self.ldc))]
                        if spec.blocked:
                            w.when(last, lambda: self.finish(*done))
                        else:
                            self.finish(*done)

                    def few() -> None:
                        """Cover a matrix of fewer rows from both its ends; a single row is taken twice."""
                        low = tile_rows_within(w, rest, heights(spec.height))
                        step = w.select(w.less("1", rest), a_step, "0") if rows_k else a_step
                        some(i, step, low, acc, "0", w.min(low, rest))

                        def others() -> None:
                            left = w.sub(rest, low)
                            to = w.at(acc, str(self.tile_bytes)) if spec.blocked else acc
                            some(w.add(i, left), step, low, to, w.sub(low, left), left, low)
                        w.when(w.less(low, rest), others)

                    def usual() -> None:
                        some(start, a_step, high, acc, skip, rest)
                    if spec.a_copy:
                        usual()
                    else:
                        w.when(w.less(i, skip), few, usual)
                    return []

                def full() -> None:
                    offset = w.add(w.add(shift, w.mul(i, self.ldc)), j)
                    panels = w.div(w.sub(j1, j0), str(self.width))
                    stream = self.stream(w.sub(i, i0), w.sub(j, j0), panels) if self.streams else None
                    acc = self.tile.product(
                        spec.height, a_at(i), a_step, b_now, b_step, depth, None,
                        ["zeroinitializer"] * (spec.height * spec.vectors),
                        lambda row: self.fetch_row(w.add(offset, w.mul(row, self.ldc))), stream)
                    for r in range(spec.height):
                        for v in range(spec.vectors):
                            lane = v * self.tile.lanes
                            put(w, spec, self.epilogue, self.tile.lanes, self.c, acc[r * spec.vectors + v],
                                w.add(i, str(r)), w.add(j, str(lane)), w.add(offset, str(lane)), None)
                        offset = w.add(offset, self.ldc)

                if not self.inline:
                    return part()
                high = w.less(str(spec.height - 1), w.sub(i1, i))
                wide = w.let(f"icmp eq i64 {cols}, {self.width}")
                w.when(w.let(f"and i1 {high}, {wide}"), full, part)
                return []

            def rows(i: Value, *waiting: Value) -> list[Value]:
                return w.loop(j_from, j_to, str(self.width), functools.partial(tile, i), carried(waiting))
            return w.loop(i0, i1, str(spec.height), rows, carried(waiting))

        def carried(waiting: Sequence[Value]) -> list[tuple[str, Value]]:
            kinds = ("ptr", "i64", "i64", "i64", "i64", "i64", "ptr")
            return list(zip(kinds, waiting, strict=True)) if waiting else []
        # A tile of the matrix unit waits in memory until the next is multiplied: the two use different ports.
        none = ["%scratch", *["0"] * 5, w.at("%scratch", str(self.tile_bytes))] if spec.tiles else []
        waiting = w.loop(j0, j1, w.word("%args", PASS), columns, carried(none))
        if spec.tiles:
            w.when(w.less("0", waiting[3]), lambda: self.finish(*waiting[:6]))

    def multiply(self, high: Value, a: Value, a_step: Value, b: Value, b_step: Value, depth: Value, acc: Value,
                 resume: Value, place: Value, waiting: Sequence[Value]) -> None:
        """Write the product of a tile of `high` rows on the matrix unit, and meanwhile the end of the one before."""
        w, spec = self.w, self.spec
        before, row, col, rows, cols, offset, _ = waiting
        parts = w.max(w.div(w.add(rows, str(_FINISH_ROWS - 1)), str(_FINISH_ROWS)), "1")

        def between(part: Value) -> None:
            done = w.mul(part, str(_FINISH_ROWS))
            some = w.min(w.sub(rows, done), str(_FINISH_ROWS))

            def finish() -> None:
                self.finish(w.at(before, w.mul(done, str(self.width)), self.tile.size), w.add(row, done), col, some,
                            cols, w.add(offset, w.mul(done, self.ldc)))
                for i in range(_FINISH_ROWS):  # the lines that this tile is about to overwrite
                    self.fetch_row(w.add(place, w.mul(w.add(done, str(i)), self.ldc)))
            w.when(w.less("0", some), finish)

        def product(tiles: int) -> None:
            step, across, on = a_step, w.mul(a_step, str(tiles_ir.ROWS)), "64"
            if spec.a_copy:
                step, across, on = "64", str(64 * tiles_ir.ROWS), str(64 * spec.height)
            tiles_ir.product(w, (spec.a, spec.b), tiles, spec.vectors, a, step, across, on, b, b_step, depth, acc,
                             str(self.width * self.tile.size), resume, parts, between, spec.past, spec.turned)
        choices = heights(spec.height, True)
        if len(choices) == 1:
            product(1)
        else:
            w.when(w.let(f"icmp eq i64 {high}, {spec.height}"), lambda: product(2), lambda: product(1))

    def fetch_row(self, offset: Value) -> None:
        """Ask for the lines of a row of C that a tile is about to overwrite, and what its epilogue reads there."""
        w, size = self.w, dt.by_name(self.spec.out).itemsize
        rows = [(self.c, size)]
        for word, other in self.epilogue.beside if self.epilogue is not None else ():
            rows.append((w.word("%args", tail_at(self.spec) + word, True), other))
        # Into the second-level cache: those between the first and it are wanted for the operands.
        for row, each in rows:
            at = w.at(row, offset, each)
            for line in range(0, self.width * each, 64):
                w.call("void", "llvm.prefetch.p0", ("ptr", w.at(at, str(line))), ("i32", "0"), ("i32", "2"),
                       ("i32", "1"))

    def finish(self, acc: Value, row: Value, col: Value, rows: Value, cols: Value, offset: Value) -> None:
        """Write the epilogue and the store of rows of a tile kept in memory; `offset` is where they go in C."""
        self.w.do(f"call void @{self.name}_finish(ptr %args, ptr {acc}, i64 {row}, i64 {col}, i64 {rows}, i64 {cols}, "
                  f"i64 {offset}, i64 {self.matrix})")


def _finish(target: Target, declared: set[str], spec: Spec, name: str, epilogue: Epilogue | None) -> str:
    """Return the function that ends `rows` x `cols` elements of a tile kept in memory: the epilogue and the store."""
    w = Writer(target, declared)
    size = bits(SCALAR[spec.acc]) // 8
    width = target.lanes(size) * spec.vectors
    # What is only rounded to halves is stored by whole lines.
    lanes = width if spec.tiles and not spec.split and epilogue is None else target.lanes(size)
    vector = f"<{lanes} x {SCALAR[spec.acc]}>"
    c, ldc = w.word("%args", C, True), w.word("%args", C_ROW)
    places = range(0, width, lanes)
    counts = [w.sub("%cols", str(lane)) for lane in places]
    masks = [w.lane_mask(lanes, count) for count in counts]

    def renew(at: Value, row: Value, col: Value, inside: Value) -> None:
        """Have the sums at `at` that are NaN computed again."""
        flags = f"<{lanes} x i1>"
        value = w.load(vector, at, None, size)
        wrong = w.let(f"and {flags} {inside}, {w.let(f'fcmp uno {vector} {value}, zeroinitializer')}")
        w.when(w.let(f"icmp ne i{lanes} {w.let(f'bitcast {flags} {wrong} to i{lanes}')}, 0"), lambda: w.do(
            f"call void @{name}_again(ptr %args, i64 %matrix, i64 {row}, i64 {col}, ptr {at})"))

    def one(r: Value, offset: Value) -> list[Value]:
        at, here = w.at("%acc", w.mul(r, str(width)), size), w.add("%row", r)
        for lane, count, inside in zip(map(str, places), counts, masks, strict=True):
            if spec.split:
                renew(w.at(at, lane, size), here, w.add("%col", lane), inside)
            value = w.load(vector, w.at(at, lane, size), None, size)

            def store(mask: Value | None, lane: Value = lane, value: Value = value) -> None:
                put(w, spec, epilogue, lanes, c, value, here, w.add("%col", lane), w.add(offset, lane), mask)

            def tail(count: Value = count, store: Callable[[Value], None] = store, mask: Value = inside) -> None:
                w.when(w.less("0", count), lambda: store(mask))
            if target.masks:
                store(inside)
            else:
                w.when(w.less(count, str(lanes)), tail, functools.partial(store, None))
        return [w.add(offset, ldc)]
    w.loop("0", "%rows", "1", one, [("i64", "%offset")])
    return w.function(f"internal void @{name}_finish(ptr %args, ptr %acc, i64 %row, i64 %col, i64 %rows, i64 %cols, "
                      "i64 %offset, i64 %matrix) nounwind")


def _again(target: Target, declared: set[str], spec: Spec, name: str) -> str:
    """Return the function that computes those of a vector of sums again that are NaN for want of parts."""
    w = Writer(target, declared)
    in_a, in_b, _ = matrix_at(w, BATCH + 4 * spec.batch, spec.batch, "%matrix")
    a_row, a_k, b_k, b_col, n, length = (w.word("%args", i) for i in (A_ROW, A_K, SOURCE_K, B_COL, N, LENGTH))
    a = w.at(w.at(w.word("%args", A, True), in_a, 4), w.mul("%row", a_row), 4)
    b = w.at(w.word("%args", BATCH + 8 * spec.batch, True), in_b, 4)
    inside = w.lane_mask(SIDE, w.sub(n, "%col"))
    sums_again(w, a, a_k, b, b_k, b_col, n, length, "%col", "%at", inside)
    return w.function(f"internal void @{name}_again(ptr %args, i64 %matrix, i64 %row, i64 %col, ptr %at) nounwind "
                      "noinline cold")


def tail_at(spec: Spec) -> int:
    """Return the first argument word of the epilogue."""
    # Where numbers are split, more comes before: the steps of the batch axes of B as it is, its address, rows, steps.
    return BATCH + 4 * spec.batch + (4 * spec.batch + 3 if spec.split else 0)


def put(w: Writer, spec: Spec, epilogue: Epilogue | None, lanes: int, c: Value, value: Value, row: Value, col: Value,
        offset: Value, mask: Value | None) -> None:
    """Write the rounding, the epilogue and the store of one vector of sums."""
    site = Site(w, "%args", tail_at(spec), row, col, offset, mask, lanes)
    conclude(site, epilogue, value, dt.by_name(spec.acc), dt.by_name(spec.out), c, spec.words)
