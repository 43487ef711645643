"""LLVM IR of attention, forward and backward, a block of queries at a time with its weights kept in cache.

The scores of a block lie transposed, a row for each key and a lane for each query: largest scores and sums need
nothing across lanes, and the products that follow read them as packed tiles.

Every number is the one that the separate operations would give: products run over k in order, the softmax is
max, exp of the difference, a sum by the tree of row kernels (see compiler/loopir.py), one division. Keys behind
the diagonal are skipped where attention is causal: their weights are zero and add nothing to a finite value.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fanal.core.backends.cpu.emit import LANES, Emitter, Scalar
from fanal.core.backends.cpu.irtext import SCALAR, Value, Writer, bits, module
from fanal.core.backends.cpu.pack_ir import copy_block, pack_panel
from fanal.core.backends.cpu.register_tile_ir import Spec as TileSpec
from fanal.core.backends.cpu.register_tile_ir import partial_tile, tile_rows
from fanal.core.backends.cpu.target import Target
from fanal.core.backends.cpu.vecmath import FUNCTIONS
from fanal.core.base import dtype as dt

# Argument words. Every operand has steps of batch, head and row; its columns are contiguous. STATS holds the
# largest score and the sum of exponentials of every row. D and E: columns of q and k, of v and the output.
(Q, K, V, OUT, STATS, MASK, G, DQ, DK, DV, HEADS, TQ, TK, D, E, SCALE, BLOCK, BLOCKS, D_WIDE, E_WIDE,
 MASK_COL) = range(21)
(Q_STEP, K_STEP, V_STEP, OUT_STEP, G_STEP, DQ_STEP, DK_STEP, DV_STEP, MASK_STEP, AT) = range(21, 49, 3)
# Offsets into scratch: scores, the panel of q^T, a tile of the output, copies of k and v, partial sums, largest
# scores and sums of a block; going back also gradients of the scores, copies of a block of q and of g, the panel of
# g^T, sums for k and for v.
SCRATCH = range(AT, AT + 13)
S_AT, QT_AT, TILE_AT, K_AT, V_AT, PART_AT, STAT_AT, DS_AT, Q_AT, G_AT, GT_AT, DK_AT, DV_AT = SCRATCH
RUN = 4 * LANES  # a row kernel's accumulators: keys this far apart are added up first


@dataclass(frozen=True)
class AttentionSpec:
    """Structure of one attention kernel."""

    kind: str  # "forward" or "backward"
    height: int
    vectors: int
    dtype: str
    mask: str = ""  # "", "causal", "add" or "bool"

    @property
    def key(self) -> str:
        return "attention8:" + ":".join(str(v) for v in vars(self).values())


class _Attention:
    def __init__(self, target: Target, declared: set[str], spec: AttentionSpec, name: str) -> None:
        self.w = Writer(target, declared)
        self.spec, self.name = spec, name
        self.of = dt.by_name(spec.dtype)
        self.kind = SCALAR[spec.dtype]
        self.size = bits(self.kind) // 8
        self.width = target.lanes(self.size) * spec.vectors  # queries of a block
        self.lanes = min(LANES, self.width)
        self.parts = range(0, self.width, self.lanes)
        self.e = Emitter(self.w, self.lanes)
        self.vector = f"<{self.lanes} x {self.kind}>"
        self.masked = spec.mask in ("add", "bool")

    def word(self, i: int) -> Value:
        return self.w.word("%args", i)

    def scratch(self, i: int) -> Value:
        return self.w.at("%scratch", self.word(i))

    def operand(self, pointer: int, step: int, batch: Value, head: Value, itemsize: int | None = None) -> Value:
        """Return the address of one head's matrix."""
        w = self.w
        at = w.add(w.mul(batch, self.word(step)), w.mul(head, self.word(step + 1)))
        return w.at(w.word("%args", pointer, True), at, itemsize or self.size)

    def operands(self, pair: Value, matrices: tuple[tuple[int, int, Value], ...]) -> list[Value]:
        """Return the addresses of one head's matrices, (pointer, step, columns)."""
        batch, head = self.place(pair)
        return [self.operand(pointer, step, batch, head) for pointer, step, _ in matrices]

    def place(self, pair: Value) -> tuple[Value, Value]:
        """Return the number of the batch and the head of a pair."""
        batch = self.w.div(pair, self.heads)
        return batch, self.w.sub(pair, self.w.mul(batch, self.heads))

    def begin(self) -> None:
        w = self.w
        self.heads, self.tq, self.tk, self.d, self.ev = (self.word(i) for i in (HEADS, TQ, TK, D, E))
        self.d_wide, self.e_wide = self.word(D_WIDE), self.word(E_WIDE)
        pattern = self.word(SCALE)
        if self.kind == "float":
            pattern = w.let(f"trunc i64 {pattern} to i32")
        scale = w.let(f"bitcast {'i32' if self.kind == 'float' else 'i64'} {pattern} to {self.kind}")
        self.scale = Scalar(w.splat(self.vector, scale), self.of, self.lanes)

    def bytes(self, elements: Value) -> Value:
        return self.w.mul(elements, str(self.size))

    def product(self, form: str, a: Value, a_step: Value, b: Value, b_step: Value, depth: Value, acc: Value,
                acc_step: Value, rows: Value, resume: bool = False) -> None:
        """Write one tile of a product; steps in elements."""
        high = tile_rows(self.w, rows, heights(self.spec.height))
        self.w.do(f"call void @{self.name}_{form}(ptr {a}, i64 {self.bytes(a_step)}, ptr {b}, "
                  f"i64 {self.bytes(b_step)}, i64 {depth}, ptr {acc}, i64 {self.bytes(acc_step)}, "
                  f"i1 {'true' if resume else 'false'}, i64 {high}, i64 {self.width})")

    def result(self, a: Value, b: Value, wide: Value, depth: Value, rows: Value, cols: Value, out: Value,
               out_step: Value) -> None:
        """Write a tile of the product of transposed scores and rows of `b`; where it fits, straight to `out`."""
        w, tile = self.w, self.scratch(TILE_AT)
        fits = w.let(f"icmp eq i64 {tile_rows(w, rows, heights(self.spec.height))}, {rows}")
        fits = w.let(f"and i1 {fits}, {w.let(f'icmp eq i64 {cols}, {wide}')}")
        to, step = w.select(fits, out, tile, "ptr"), w.select(fits, out_step, wide)

        def columns(c: Value) -> list[Value]:
            self.product("m", a, str(self.width), w.at(b, c, self.size), wide, depth, w.at(to, c, self.size), step,
                         rows)
            return []
        w.loop("0", cols, str(self.width), columns, once=True)
        w.when(fits, lambda: None, lambda: self.copy(tile, wide, out, out_step, rows, cols))

    def pack_transposed(self, source: Value, step: Value, rows: Value, depth: Value, out: Value) -> None:
        """Write the panel that is the transpose of a rows x depth matrix."""
        self.w.do(f"call void @{self.name}_pack(ptr {source}, i64 {step}, i64 {rows}, i64 {depth}, ptr {out})")

    def ask(self, addresses: Sequence[Value], matrices: Sequence[tuple[int, int, Value]], first: Value, j: Value,
            depth: Value) -> None:
        """Ask for rows of the next head's matrices while this one's keys are gone over.

        They lie far apart: the processor does not see them coming. A block of queries that goes over `depth` keys
        asks for as many rows as it has, from `first` on, an equal share at every tile of keys.
        """
        w, height = self.w, str(self.spec.height)
        tiles = w.div(w.add(depth, str(self.spec.height - 1)), height)
        share = w.div(w.add(tiles, str(self.width - 1)), tiles)
        row = w.add(first, w.mul(w.div(j, height), share))
        for at, (_, step, cols) in zip(addresses, matrices, strict=True):
            wide = w.mul(self.word(step + 2), str(self.size))
            self.w.do(f"call void @{self.name}_ask(ptr {w.at(at, w.mul(row, wide))}, i64 {wide}, i64 {share}, "
                      f"i64 {self.bytes(cols)})")

    def copy(self, source: Value, step: Value, out: Value, out_step: Value, rows: Value, cols: Value,
             wide: Value | None = None) -> None:
        """Write a copy of a rows x cols matrix, with zeros up to column `wide`."""
        self.w.do(f"call void @{self.name}_copy(ptr {source}, i64 {step}, ptr {out}, i64 {out_step}, i64 {rows}, "
                  f"i64 {cols}, i64 {wide or cols})")

    # Rows of a block: one key's values, a lane for each query.

    def row(self, block: Value, j: Value) -> Value:
        """Return the address of key j's row in a block of scores."""
        return self.w.at(block, j, self.width * self.size)

    def load(self, at: Value, part: int) -> Scalar:
        return Scalar(self.w.load(self.vector, self.w.at(at, str(part), self.size)), self.of, self.lanes)

    def put(self, at: Value, part: int, x: Scalar) -> None:
        self.w.store(self.vector, x.name, self.w.at(at, str(part), self.size))

    def clear(self, block: Value, first: Value, last: Value) -> None:
        """Write zeros into rows [first, last)."""
        def row(j: Value) -> list[Value]:
            for part in self.parts:
                self.put(self.row(block, j), part, self.e.const(0, self.of))
            return []
        self.w.loop(first, last, "1", row)

    def over(self, start: Value, depth: Value, body: Callable[..., list[Value]],
             carried: list[tuple[str, Value]] | None = None) -> list[Value]:
        """Write a loop over keys [0, depth): `body(key, which queries see it or None for all, *carried)`."""
        w = self.w
        carried = carried or []
        if self.spec.mask != "causal":
            return w.loop("0", depth, "1", lambda j, *c: body(j, None, *c), carried, once=True)
        all_see = w.min(w.add(start, "1"), depth)
        done = w.loop("0", all_see, "1", lambda j, *c: body(j, None, *c), carried, once=True)
        lanes = f"<{self.lanes} x i32>"
        iota = ", ".join(f"i32 {i}" for i in range(self.lanes))
        first = w.let(f"trunc i64 {start} to i32")
        queries = [w.let(f"add {lanes} {w.splat(lanes, w.let(f'add i32 {first}, {part}'))}, <{iota}>")
                   for part in self.parts]

        def some(j: Value, *c: Value) -> list[Value]:
            key = w.splat(lanes, w.let(f"trunc i64 {j} to i32"))
            seen = [Scalar(w.let(f"icmp sle {lanes} {key}, {query}"), dt.bool_, self.lanes) for query in queries]
            return body(j, seen, *c)
        kinds = [kind for kind, _ in carried]
        return w.loop(all_see, depth, "1", some, list(zip(kinds, done, strict=True)))

    def ends(self, rows: Value, start: Value) -> Value:
        """Return how many keys a block of queries sees."""
        return self.w.min(self.w.add(start, rows), self.tk) if self.spec.mask == "causal" else self.tk

    def apply_mask(self, pair: Value, start: Value, rows: Value, depth: Value) -> None:
        """Scale the scores of a block and mask them."""
        w, e = self.w, self.e
        bool_ = self.spec.mask == "bool"
        kind, size = ("i8", 1) if bool_ else (self.kind, self.size)
        mask = self.operand(MASK, MASK_STEP, *self.place(pair), size)
        step, column = w.mul(self.word(MASK_STEP + 2), str(size)), w.mul(self.word(MASK_COL), str(size))
        mask = w.at(mask, w.mul(start, step))
        block, full = self.scratch(S_AT), f"<{self.lanes} x {kind}>"
        last = w.sub(rows, "1")

        def apply(j: Value, find: Callable[[Value, int], Value]) -> list[Value]:
            at, here = self.row(block, j), w.at(mask, w.mul(j, column))
            for part in self.parts:
                m = find(here, part)
                x = e.mul(self.load(at, part), self.scale)
                if bool_:
                    keep = Scalar(w.let(f"icmp ne {full} {m}, zeroinitializer"), dt.bool_, self.lanes)
                    x = e.where(keep, x, e.const(float("-inf"), self.of))
                else:
                    x = e.add(x, Scalar(m, self.of, self.lanes))
                self.put(at, part, x)
            return []

        def same(here: Value, _: int) -> Value:
            return w.splat(full, w.let(f"load {kind}, ptr {here}"))

        def each(here: Value, part: int) -> Value:
            m = "poison"
            for i in range(self.lanes):
                place = w.at(here, w.mul(w.min(str(part + i), last), step))
                m = w.let(f"insertelement {full} {m}, {kind} {w.let(f'load {kind}, ptr {place}')}, i64 {i}")
            return m
        w.when(w.let(f"icmp eq i64 {step}, 0"), lambda: w.loop("0", depth, "1", lambda j: apply(j, same)),
               lambda: w.loop("0", depth, "1", lambda j: apply(j, each)))

    def score(self, at: Value, part: int, seen: list[Scalar] | None) -> Scalar:
        """Return the scores of one key: scaled, masked, -inf where a query does not see it."""
        x = self.load(at, part)
        if self.masked:
            return x
        x = self.e.mul(x, self.scale)
        if seen is None:
            return x
        return self.e.where(seen[part // self.lanes], x, self.e.const(float("-inf"), self.of))

    def total(self, block: Value, depth: Value, factor: Value | None = None) -> list[Scalar]:
        """Add up the rows of a block, times those of another, as row kernels add up a row.

        Up to RUN rows behind the last of a block without factor are overwritten.
        """
        w, e = self.w, self.e
        sums = self.scratch(PART_AT)

        def term(j: Value, part: int) -> Scalar:
            x = self.load(self.row(block, j), part)
            return x if factor is None else e.mul(x, self.load(self.row(factor, j), part))

        def first(j: Value) -> list[Value]:
            for part in self.parts:
                self.put(self.row(sums, j), part, term(j, part))
            return []

        def few() -> None:
            if factor is None:
                self.clear(block, depth, str(RUN))
            else:
                w.loop("0", depth, "1", first)
                self.clear(sums, depth, str(RUN))

        def many() -> None:
            w.loop("0", str(RUN), "1", first, once=True)

            def add(j: Value) -> list[Value]:
                there = self.row(sums, w.let(f"and i64 {j}, {RUN - 1}"))
                for part in self.parts:
                    self.put(there, part, e.add(self.load(there, part), term(j, part)))
                return []
            w.loop(str(RUN), depth, "1", add)
        short = w.less(depth, str(RUN + 1))
        w.when(short, few, many)
        source = w.select(short, block, sums, "ptr") if factor is None else sums
        # Four accumulators take vectors of keys in rotation; which two meet first depends on where the rotation ends.
        turn = w.let(f"and i64 {w.div(w.add(self.tk, str(LANES - 1)), str(LANES))}, 1")
        turns = [w.mul(w.let(f"and i64 {w.add(turn, str(k))}, 3"), str(LANES)) for k in range(4)]

        def lane(k: Value, part: int) -> Scalar:
            a, b, c, d = (self.load(self.row(source, w.add(t, k)), part) for t in turns)
            return e.add(e.add(a, b), e.add(c, d))

        def halve(k: Value) -> list[Value]:
            for part in self.parts:
                self.put(self.row(sums, k), part, e.add(lane(k, part), lane(w.add(k, str(LANES // 2)), part)))
            return []
        # Row k of the sums is read for the last time in turn k.
        w.loop("0", str(LANES // 2), "1", halve, once=True)
        totals = []
        for part in self.parts:
            x = [self.load(self.row(sums, str(k)), part) for k in range(LANES // 2)]
            while len(x) > 1:
                x = [e.add(a, b) for a, b in zip(x[:len(x) // 2], x[len(x) // 2:], strict=True)]
            totals.append(e.add(e.const(0, self.of), x[0]))
        return totals


class _Forward(_Attention):
    """Units are blocks of rows x heads x batch."""

    def write(self) -> str:
        self.begin()
        self.w.loop("%lo", "%hi", "1", self.unit)
        return self.w.function(f"void @{self.name}(ptr %args, i64 %lo, i64 %hi, ptr %scratch) nounwind")

    def unit(self, u: Value) -> list[Value]:
        w, height = self.w, str(self.spec.height)
        blocks = self.word(BLOCKS)
        pair = w.div(u, blocks)
        part = w.sub(u, w.mul(pair, blocks))
        matrices = ((Q, Q_STEP, self.d), (K, K_STEP, self.d), (V, V_STEP, self.ev), (OUT, OUT_STEP, self.ev))
        q, k, v, out = self.operands(pair, matrices)
        ahead = self.operands(w.div(w.add(u, "1"), blocks), matrices)
        stats = w.at(w.word("%args", STATS, True), w.mul(w.mul(pair, self.tq), "2"), self.size)
        first = w.mul(part, self.word(BLOCK))
        last = w.min(w.add(first, self.word(BLOCK)), self.tq)
        seen = self.ends(w.sub(last, first), first)
        keys, values = self.scratch(K_AT), self.scratch(V_AT)
        self.copy(k, self.word(K_STEP + 2), keys, self.d_wide, seen, self.d)
        self.copy(v, self.word(V_STEP + 2), values, self.e_wide, seen, self.ev, self.e_wide)
        s, panel = self.scratch(S_AT), self.scratch(QT_AT)

        def block(i: Value) -> list[Value]:
            rows = w.min(w.sub(last, i), str(self.width))
            depth = self.ends(rows, i)
            q_step = self.word(Q_STEP + 2)
            self.pack_transposed(w.at(q, w.mul(i, q_step), self.size), q_step, rows, self.d, panel)

            def products(j: Value) -> list[Value]:
                self.product("k", w.at(keys, w.mul(j, self.d_wide), self.size), self.d_wide, panel, str(self.width),
                             self.d, self.row(s, j), str(self.width), w.min(w.sub(depth, j), height))
                self.ask(ahead, matrices, i, j, depth)
                return []
            w.loop("0", depth, height, products, once=True)
            if self.masked:
                self.apply_mask(pair, i, rows, depth)
            self.softmax(s, i, rows, depth, w.at(stats, w.mul(i, "2"), self.size))

            def queries(r: Value) -> list[Value]:
                high = w.min(w.sub(rows, r), height)
                behind = self.ends(high, w.add(i, r))

                out_step = self.word(OUT_STEP + 2)
                self.result(w.at(s, r, self.size), values, self.e_wide, behind, high, self.ev,
                            w.at(out, w.mul(w.add(i, r), out_step), self.size), out_step)
                return []
            w.loop("0", rows, height, queries, once=True)
            return []
        w.loop(first, last, str(self.width), block)
        return []

    def softmax(self, s: Value, start: Value, rows: Value, depth: Value, stats: Value) -> None:
        """Turn a block of products into weights, and write the statistics of its rows."""
        w, e = self.w, self.e

        def largest(j: Value, seen: list[Scalar] | None, *tops: Value) -> list[Value]:
            found = []
            for part, top in zip(self.parts, tops, strict=True):
                x = self.score(self.row(s, j), part, seen)
                if not self.masked:
                    self.put(self.row(s, j), part, x)
                found.append(e.max(Scalar(top, self.of, self.lanes), x).name)
            return found
        low = e.const(float("-inf"), self.of)
        names = self.over(start, depth, largest, [(self.vector, low.name)] * len(self.parts))
        tops = [Scalar(name, self.of, self.lanes) for name in names]
        tops = [e.where(e.eq(top, low), e.const(0, self.of), top) for top in tops]

        def power(j: Value) -> list[Value]:
            at = self.row(s, j)
            for part, top in zip(self.parts, tops, strict=True):
                self.put(at, part, FUNCTIONS["exp"](e, e.sub(self.load(at, part), top)))
            return []
        w.loop("0", depth, "1", power, once=True)
        totals = [e.where(e.eq(x, e.const(0, self.of)), e.const(1, self.of), x) for x in self.total(s, depth)]

        def divide(j: Value) -> list[Value]:
            at = self.row(s, j)
            for part, total in zip(self.parts, totals, strict=True):
                self.put(at, part, e.div(self.load(at, part), total))
            return []
        w.loop("0", depth, "1", divide, once=True)
        both = self.scratch(STAT_AT)
        for part, top, total in zip(self.parts, tops, totals, strict=True):
            self.put(both, part, top)
            self.put(self.row(both, "1"), part, total)

        def keep(r: Value) -> list[Value]:
            for k in range(2):
                x = w.let(f"load {self.kind}, ptr {w.at(self.row(both, str(k)), r, self.size)}")
                w.do(f"store {self.kind} {x}, ptr {w.at(stats, w.add(w.mul(r, '2'), str(k)), self.size)}")
            return []
        w.loop("0", rows, "1", keep, once=True)


class _Backward(_Forward):
    """Units are heads x batch: a head's blocks of queries follow each other, adding to the gradients of k and v."""

    def unit(self, u: Value) -> list[Value]:
        w, height, width = self.w, str(self.spec.height), str(self.width)
        read = ((Q, Q_STEP, self.d), (K, K_STEP, self.d), (V, V_STEP, self.ev), (G, G_STEP, self.ev))
        written = ((DQ, DQ_STEP, self.d), (DK, DK_STEP, self.d), (DV, DV_STEP, self.ev))
        q, k, v, g, dq, dk, dv = self.operands(u, read + written)
        ahead = self.operands(w.add(u, "1"), read + written)
        stats = w.at(w.word("%args", STATS, True), w.mul(w.mul(u, self.tq), "2"), self.size)
        keys, values, sum_k, sum_v = (self.scratch(i) for i in (K_AT, V_AT, DK_AT, DV_AT))
        self.copy(k, self.word(K_STEP + 2), keys, self.d_wide, self.tk, self.d, self.d_wide)
        self.copy(v, self.word(V_STEP + 2), values, self.e_wide, self.tk, self.ev)
        for out, wide in ((sum_k, self.d_wide), (sum_v, self.e_wide)):
            self.clear(out, "0", w.div(w.mul(self.tk, wide), width))
        s, ds, rows_q, rows_g, panel_q, panel_g = (
            self.scratch(i) for i in (S_AT, DS_AT, Q_AT, G_AT, QT_AT, GT_AT))

        def block(i: Value) -> list[Value]:
            rows = w.min(w.sub(self.tq, i), width)
            depth = self.ends(rows, i)
            q_step, g_step = self.word(Q_STEP + 2), self.word(G_STEP + 2)
            q_now, g_now = w.at(q, w.mul(i, q_step), self.size), w.at(g, w.mul(i, g_step), self.size)
            self.copy(q_now, q_step, rows_q, self.d_wide, rows, self.d, self.d_wide)
            self.copy(g_now, g_step, rows_g, self.e_wide, rows, self.ev, self.e_wide)
            self.pack_transposed(rows_q, self.d_wide, rows, self.d, panel_q)
            self.pack_transposed(rows_g, self.e_wide, rows, self.ev, panel_g)

            def products(j: Value) -> list[Value]:
                high = w.min(w.sub(depth, j), height)
                for source, wide, panel, deep, to in ((keys, self.d_wide, panel_q, self.d, s),
                                                      (values, self.e_wide, panel_g, self.ev, ds)):
                    self.product("k", w.at(source, w.mul(j, wide), self.size), wide, panel, width, deep,
                                 self.row(to, j), width, high)
                self.ask(ahead[:len(read)], read, i, j, depth)
                return []
            w.loop("0", depth, height, products, once=True)
            if self.masked:
                self.apply_mask(u, i, rows, depth)
            self.gradient(s, ds, i, rows, depth, w.at(stats, w.mul(i, "2"), self.size))

            def of_keys(j: Value) -> list[Value]:
                high = w.min(w.sub(depth, j), height)
                # Queries before a key do not see it.
                first = w.max(w.sub(j, i), "0") if self.spec.mask == "causal" else "0"
                for source, other, wide, cols, sums in ((s, rows_g, self.e_wide, self.ev, sum_v),
                                                        (ds, rows_q, self.d_wide, self.d, sum_k)):
                    def columns(c: Value, source: Value = source, other: Value = other, wide: Value = wide,
                                sums: Value = sums) -> list[Value]:
                        self.product("k", w.at(self.row(source, j), first, self.size), width,
                                     w.at(other, w.add(w.mul(first, wide), c), self.size), wide, w.sub(rows, first),
                                     w.at(sums, w.add(w.mul(j, wide), c), self.size), wide, high, resume=True)
                        return []
                    w.loop("0", cols, width, columns)
                self.ask(ahead[len(read):], written, i, j, depth)
                return []
            w.loop("0", depth, height, of_keys, once=True)
            dq_step = self.word(DQ_STEP + 2)

            def of_queries(r: Value) -> list[Value]:
                high = w.min(w.sub(rows, r), height)
                seen = self.ends(high, w.add(i, r))

                self.result(w.at(ds, r, self.size), keys, self.d_wide, seen, high, self.d,
                            w.at(dq, w.mul(w.add(i, r), dq_step), self.size), dq_step)
                return []
            w.loop("0", rows, height, of_queries, once=True)
            return []
        w.loop("0", self.tq, width, block)
        self.copy(sum_k, self.d_wide, dk, self.word(DK_STEP + 2), self.tk, self.d)
        self.copy(sum_v, self.e_wide, dv, self.word(DV_STEP + 2), self.tk, self.ev)
        return []

    def gradient(self, s: Value, ds: Value, start: Value, rows: Value, depth: Value, stats: Value) -> None:
        """Turn a block of products into weights (in `s`) and gradients of the products (in `ds`)."""
        w, e = self.w, self.e
        both = self.scratch(STAT_AT)
        for part in self.parts:  # lanes without a query
            self.put(both, part, e.const(0, self.of))
            self.put(self.row(both, "1"), part, e.const(1, self.of))

        def fetch(r: Value) -> list[Value]:
            for k in range(2):
                x = w.let(f"load {self.kind}, ptr {w.at(stats, w.add(w.mul(r, '2'), str(k)), self.size)}")
                w.do(f"store {self.kind} {x}, ptr {w.at(self.row(both, str(k)), r, self.size)}")
            return []
        w.loop("0", rows, "1", fetch, once=True)
        tops, totals = ([self.load(self.row(both, k), part) for part in self.parts] for k in ("0", "1"))
        zero = e.const(0, self.of)

        def weight(j: Value, seen: list[Scalar] | None) -> list[Value]:
            for n, part in enumerate(self.parts):
                x = self.score(self.row(s, j), part, seen)
                y = e.div(FUNCTIONS["exp"](e, e.sub(x, tops[n])), totals[n])
                if seen is not None:
                    y, at = e.where(seen[n], y, zero), self.row(ds, j)
                    self.put(at, part, e.where(seen[n], self.load(at, part), zero))
                self.put(self.row(s, j), part, y)
            return []
        self.over(start, depth, weight)
        sums = self.total(ds, depth, s)

        def finish(j: Value, seen: list[Scalar] | None) -> list[Value]:
            for n, part in enumerate(self.parts):
                at = self.row(ds, j)
                x = e.mul(e.sub(self.load(at, part), sums[n]), self.load(self.row(s, j), part))
                x = e.mul(x, self.scale)
                self.put(at, part, x if seen is None else e.where(seen[n], x, zero))
            return []
        self.over(start, depth, finish)
        for block in (s, ds):  # as far as a tile may read
            self.clear(block, depth, w.add(depth, str(self.spec.height)))


def _copy(target: Target, declared: set[str], kind: str, name: str) -> str:
    w = Writer(target, declared)
    size = bits(kind) // 8

    def zero(r: Value) -> list[Value]:
        row = w.at("%out", w.mul(r, "%out_step"), size)

        def one(c: Value) -> list[Value]:
            w.do(f"store {kind} 0.0, ptr {w.at(row, c, size)}")
            return []
        w.loop("%cols", "%wide", "1", one)
        return []
    w.when(w.less("%cols", "%wide"), lambda: w.loop("0", "%rows", "1", zero))
    copy_block(w, kind, kind, "%source", "%step", "1", "%out", "%out_step", "%rows", "%cols", True)
    return w.function(f"internal void @{name}_copy(ptr %source, i64 %step, ptr %out, i64 %out_step, i64 %rows, "
                      "i64 %cols, i64 %wide) nounwind")


def _ask(target: Target, declared: set[str], name: str) -> str:
    w = Writer(target, declared)

    def row(r: Value) -> list[Value]:
        at = w.at("%from", w.mul(r, "%step"))

        def line(c: Value) -> list[Value]:
            w.call("void", "llvm.prefetch.p0", ("ptr", w.at(at, c)), ("i32", "0"), ("i32", "2"), ("i32", "1"))
            return []
        w.loop("0", "%bytes", "64", line)
        return []
    w.loop("0", "%rows", "1", row)
    return w.function(f"internal void @{name}_ask(ptr %from, i64 %step, i64 %rows, i64 %bytes) nounwind")


def _pack(target: Target, declared: set[str], kind: str, vectors: int, name: str) -> str:
    w = Writer(target, declared)
    pack_panel(w, "k", kind, kind, vectors, "%source", "1", "%step", "%out", "%depth", "%rows")
    return w.function(f"internal void @{name}_pack(ptr %source, i64 %step, i64 %rows, i64 %depth, ptr %out) nounwind")


def heights(height: int) -> list[int]:
    """Return the heights of tiles: scratch is padded, so a tile may compute rows too many."""
    return [*(h for h in (4, 8) if h < height), height]


def attention_source(target: Target, name: str, spec: AttentionSpec) -> str:
    """Return the module of one attention kernel."""
    declared: set[str] = set()
    backward = spec.kind == "backward"
    scalar = SCALAR[spec.dtype]
    functions = [(_Backward if backward else _Forward)(target, declared, spec, name).write(),
                 _copy(target, declared, scalar, name), _pack(target, declared, scalar, spec.vectors, name),
                 _ask(target, declared, name)]
    tile = TileSpec(spec.height, spec.vectors, spec.dtype, spec.dtype, spec.dtype, spec.dtype, "k", blocked=backward)
    for form in ("k", "m"):
        part = replace(tile, a_form=form, blocked=backward and form == "k")
        functions.append(partial_tile(target, declared, part, f"{name}_{form}", heights(spec.height)))
    return module(functions, declared)
