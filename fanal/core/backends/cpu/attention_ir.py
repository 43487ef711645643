"""LLVM IR of attention, forward and backward, a block of rows at a time with the weights kept in cache.

Every number is the one that the separate operations would give: products run over k in order, the softmax is
max, exp of the difference, a sum by the tree of row kernels (see compiler/loopir.py), one division. Columns behind
the diagonal are skipped where attention is causal: their weights are zero and add nothing to a finite value.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from fanal.core.backends.cpu.emit import LANES, Emitter, Scalar
from fanal.core.backends.cpu.irtext import SCALAR, Value, Writer, bits, module
from fanal.core.backends.cpu.loops import combine, identity
from fanal.core.backends.cpu.matmul_ir import Spec as TileSpec
from fanal.core.backends.cpu.matmul_ir import copy_block, pack_panel, partial_tile
from fanal.core.backends.cpu.target import Target
from fanal.core.backends.cpu.vecmath import FUNCTIONS
from fanal.core.base import dtype as dt

# Argument words. Every operand has steps of batch, head and row; its columns are contiguous. STATS holds the
# largest score and the sum of exponentials of every row. D and E: columns of q and k, of v and the output.
(Q, K, V, OUT, STATS, MASK, G, DQ, DK, DV, HEADS, TQ, TK, D, E, SCALE, BLOCK, BLOCKS, WIDE, D_WIDE, E_WIDE,
 MASK_COL) = range(22)
(Q_STEP, K_STEP, V_STEP, OUT_STEP, G_STEP, DQ_STEP, DK_STEP, DV_STEP, MASK_STEP, AT) = range(22, 50, 3)
# Offsets into scratch: scores, a block of q, panels of k^T, a tile of the output, the copy of k or v; going back
# also gradients of the scores, a block of g, panels of v^T, sums for k and for v.
SCRATCH = range(AT, AT + 10)
S_AT, Q_AT, KT_AT, TILE_AT, KC_AT, DS_AT, G_AT, VT_AT, DK_AT, DV_AT = SCRATCH


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
        return "attention5:" + ":".join(str(v) for v in vars(self).values())


def _halves(e: Emitter, w: Writer, how: str, x: Scalar, kind: str) -> Scalar:
    """Combine the lanes of a vector by halves, as row kernels do."""
    n = LANES
    while n > 1:
        n //= 2
        if n == 1:
            parts = [w.let(f"extractelement <2 x {kind}> {x.name}, i64 {i}") for i in (0, 1)]
        else:
            parts = [w.let(f"shufflevector <{2 * n} x {kind}> {x.name}, <{2 * n} x {kind}> poison, <{n} x i32> <"
                           + ", ".join(f"i32 {i + k}" for k in range(n)) + ">") for i in (0, n)]
        a, b = (Scalar(p, x.dtype, n) for p in parts)
        x = combine(e, how, a, b)
    return x


class _Attention:
    def __init__(self, target: Target, declared: set[str], spec: AttentionSpec, name: str) -> None:
        self.w = Writer(target, declared)
        self.spec, self.name = spec, name
        self.of = dt.by_name(spec.dtype)
        self.kind = SCALAR[spec.dtype]
        self.size = bits(self.kind) // 8
        self.width = target.lanes(self.size) * spec.vectors
        self.e, self.one = Emitter(self.w, LANES), Emitter(self.w, 1)
        self.vector = f"<{LANES} x {self.kind}>"

    def word(self, i: int) -> Value:
        return self.w.word("%args", i)

    def scratch(self, i: int) -> Value:
        return self.w.at("%scratch", self.word(i))

    def operand(self, pointer: int, step: int, batch: Value, head: Value, itemsize: int | None = None) -> Value:
        """Return the address of one head's matrix."""
        w = self.w
        at = w.add(w.mul(batch, self.word(step)), w.mul(head, self.word(step + 1)))
        return w.at(w.word("%args", pointer, True), at, itemsize or self.size)

    def begin(self) -> None:
        w = self.w
        self.heads, self.tq, self.tk, self.d, self.ev = (self.word(i) for i in (HEADS, TQ, TK, D, E))
        self.wide, self.d_wide, self.e_wide = (self.word(i) for i in (WIDE, D_WIDE, E_WIDE))
        pattern = self.word(SCALE)
        if self.kind == "float":
            pattern = w.let(f"trunc i64 {pattern} to i32")
        scale = w.let(f"bitcast {'i32' if self.kind == 'float' else 'i64'} {pattern} to {self.kind}")
        self.scale = Scalar(w.splat(self.vector, scale), self.of, LANES)

    def bytes(self, elements: Value) -> Value:
        return self.w.mul(elements, str(self.size))

    def product(self, form: str, a: Value, a_step: Value, b: Value, b_step: Value, depth: Value, acc: Value,
                acc_step: Value, rows: Value, resume: bool = False) -> None:
        """Write one tile of a product; steps in elements."""
        w = self.w
        low = heights(self.spec.height)[0]
        high = w.select(w.less(str(low), rows), str(self.spec.height), str(low))
        w.do(f"call void @{self.name}_{form}(ptr {a}, i64 {self.bytes(a_step)}, ptr {b}, i64 {self.bytes(b_step)}, "
             f"i64 {depth}, ptr {acc}, i64 {self.bytes(acc_step)}, i1 {'true' if resume else 'false'}, i64 {high}, "
             f"i64 {self.width})")

    def pack_transposed(self, source: Value, step: Value, rows: Value, depth: Value, out: Value) -> None:
        """Write the panels of the transpose of a rows x depth matrix."""
        self.w.do(f"call void @{self.name}_pack(ptr {source}, i64 {step}, i64 {rows}, i64 {depth}, ptr {out})")

    def copy(self, source: Value, step: Value, out: Value, out_step: Value, rows: Value, cols: Value,
             wide: Value | None = None) -> None:
        """Write a copy of a rows x cols matrix, with zeros up to column `wide`."""
        self.w.do(f"call void @{self.name}_copy(ptr {source}, i64 {step}, ptr {out}, i64 {out_step}, i64 {rows}, "
                  f"i64 {cols}, i64 {wide or cols})")

    def scores(self, j: Value, at: Value, row: Value, limit: Value, mask_row: Value) -> Scalar:
        """Return the scores of 16 columns from j on: scaled, masked, -inf behind `limit`."""
        w, e = self.w, self.e
        x = e.mul(Scalar(w.load(self.vector, w.at(at, j, self.size)), self.of, LANES), self.scale)
        inside = w.lane_mask(LANES, w.sub(limit, j))
        if self.spec.mask in ("add", "bool"):
            kind = "i8" if self.spec.mask == "bool" else self.kind
            size = 1 if self.spec.mask == "bool" else self.size
            place = w.at(mask_row, w.mul(j, self.word(MASK_COL)), size)
            wide = w.load(f"<{LANES} x {kind}>", place, inside)
            first = w.splat(f"<{LANES} x {kind}>", w.let(f"load {kind}, ptr {place}"))
            spread = w.let(f"icmp eq i64 {self.word(MASK_COL)}, 0")
            m = w.select(spread, first, wide, f"<{LANES} x {kind}>")
            if self.spec.mask == "bool":
                keep = w.let(f"icmp ne <{LANES} x i8> {m}, zeroinitializer")
                x = e.where(Scalar(keep, dt.bool_, LANES), x, e.const(float("-inf"), self.of))
            else:
                x = e.add(x, Scalar(m, self.of, LANES))
        return e.where(Scalar(inside, dt.bool_, LANES), x, e.const(float("-inf"), self.of))

    def limit(self, row: Value) -> Value:
        """Return how many columns `row` sees."""
        return self.w.min(self.w.add(row, "1"), self.tk) if self.spec.mask == "causal" else self.tk

    def reduce(self, how: str, limit: Value, value: Callable[[Value], Scalar]) -> Scalar:
        """Reduce values of [0, limit) by the tree of row kernels; `value(j)` holds the identity behind `limit`."""
        w, e = self.w, self.e
        start = identity(e, how, self.of).name

        def step(j: Value, a: Value, b: Value, c: Value, d: Value) -> list[Value]:
            return [b, c, d, combine(e, how, Scalar(a, self.of, LANES), value(j)).name]
        kinds = [self.vector] * 4
        accs = w.loop("0", limit, str(LANES), step, [(kind, start) for kind in kinds])
        if self.spec.mask == "causal" and how == "sum":
            # The zeros behind the diagonal add nothing, but each vector of them moves the accumulators on by one.
            done, whole = (w.div(w.add(n, str(LANES - 1)), str(LANES)) for n in (limit, self.tk))
            turns = w.let(f"and i64 {w.sub(whole, done)}, 3")
            accs = w.loop("0", turns, "1", lambda _, a, b, c, d: [b, c, d, a], list(zip(kinds, accs, strict=True)))
        a, b, c, d = (Scalar(x, self.of, LANES) for x in accs)
        total = _halves(e, w, how, combine(e, how, combine(e, how, a, b), combine(e, how, c, d)), self.kind)
        return combine(self.one, how, identity(self.one, how, self.of), total)

    def splat(self, x: Scalar) -> Scalar:
        return Scalar(self.w.splat(self.vector, x.name), self.of, LANES)

    def mask_at(self, batch: Value, head: Value) -> Value:
        if self.spec.mask not in ("add", "bool"):
            return "null"
        return self.operand(MASK, MASK_STEP, batch, head, 1 if self.spec.mask == "bool" else None)

    def mask_row(self, mask: Value, row: Value) -> Value:
        if mask == "null":
            return mask
        step = self.w.mul(row, self.word(MASK_STEP + 2))
        return self.w.at(mask, step, 1 if self.spec.mask == "bool" else self.size)

    def put(self, j: Value, at: Value, x: Scalar) -> None:
        self.w.store(self.vector, x.name, self.w.at(at, j, self.size))

    def first(self, start: Value, column: Value) -> Value:
        """Return the first row of a block that sees a column or one after it."""
        w = self.w
        return w.select(w.less(start, column), w.sub(column, start), "0") if self.spec.mask == "causal" else "0"

    def ends(self, rows: Value, start: Value) -> Value:
        """Return how many columns a block of rows sees."""
        return self.limit(self.w.sub(self.w.add(start, rows), "1"))


class _Forward(_Attention):
    """Units are blocks of rows x heads x batch."""

    def write(self) -> str:
        self.begin()
        self.w.loop("%lo", "%hi", "1", self.unit)
        return self.w.function(f"void @{self.name}(ptr %args, i64 %lo, i64 %hi, ptr %scratch) nounwind")

    def unit(self, u: Value) -> list[Value]:
        w = self.w
        blocks = self.word(BLOCKS)
        pair = w.div(u, blocks)
        part = w.sub(u, w.mul(pair, blocks))
        batch = w.div(pair, self.heads)
        head = w.sub(pair, w.mul(batch, self.heads))
        q, k, v, out = (self.operand(p, s, batch, head) for p, s in
                        ((Q, Q_STEP), (K, K_STEP), (V, V_STEP), (OUT, OUT_STEP)))
        mask = self.mask_at(batch, head)
        stats = w.at(w.word("%args", STATS, True), w.mul(w.mul(pair, self.tq), "2"), self.size)
        first = w.mul(part, self.word(BLOCK))
        last = w.min(w.add(first, self.word(BLOCK)), self.tq)
        seen = self.ends(w.sub(last, first), first)
        panels, values = self.scratch(KT_AT), self.scratch(KC_AT)
        self.pack_transposed(k, self.word(K_STEP + 2), seen, self.d, panels)
        v_step = self.word(V_STEP + 2)
        self.copy(v, v_step, values, self.e_wide, seen, self.ev, self.e_wide)
        s, rows_q, tile = self.scratch(S_AT), self.scratch(Q_AT), self.scratch(TILE_AT)

        def block(i: Value) -> list[Value]:
            rows = w.min(w.sub(last, i), str(self.spec.height))
            depth = self.ends(rows, i)
            q_step = self.word(Q_STEP + 2)
            self.copy(w.at(q, w.mul(i, q_step), self.size), q_step, rows_q, self.d_wide, rows, self.d)

            def panel(j: Value) -> list[Value]:
                self.product("k", rows_q, self.d_wide, w.at(panels, w.mul(j, self.d), self.size), str(self.width),
                             self.d, w.at(s, j, self.size), self.wide, rows)
                return []
            w.loop("0", depth, str(self.width), panel, once=True)

            def softmax(r: Value) -> list[Value]:
                self.softmax(w.at(s, w.mul(r, self.wide), self.size), w.add(i, r), depth,
                             self.mask_row(mask, w.add(i, r)), stats)
                return []
            w.loop("0", rows, "1", softmax, once=True)

            def columns(c: Value) -> list[Value]:
                self.product("k", s, self.wide, w.at(values, c, self.size), self.e_wide, depth,
                             w.at(tile, c, self.size), self.e_wide, rows)
                return []
            w.loop("0", self.ev, str(self.width), columns)
            out_step = self.word(OUT_STEP + 2)
            self.copy(tile, self.e_wide, w.at(out, w.mul(i, out_step), self.size), out_step, rows, self.ev)
            return []
        w.loop(first, last, str(self.spec.height), block)
        return []

    def softmax(self, at: Value, row: Value, depth: Value, mask_row: Value, stats: Value) -> None:
        w, e, one = self.w, self.e, self.one
        limit = self.limit(row)

        def score(j: Value) -> Scalar:
            x = self.scores(j, at, row, limit, mask_row)
            self.put(j, at, x)
            return x
        top = self.reduce("max_of", limit, score)
        low = one.eq(top, one.const(float("-inf"), self.of))
        top = one.where(low, one.const(0, self.of), top)
        tops = self.splat(top)

        def power(j: Value) -> Scalar:
            x = FUNCTIONS["exp"](e, e.sub(Scalar(w.load(self.vector, w.at(at, j, self.size)), self.of, LANES), tops))
            self.put(j, at, x)
            return x
        total = self.reduce("sum", limit, power)
        total = one.where(one.eq(total, one.const(0, self.of)), one.const(1, self.of), total)
        totals = self.splat(total)

        def divide(j: Value) -> list[Value]:
            x = e.div(Scalar(w.load(self.vector, w.at(at, j, self.size)), self.of, LANES), totals)
            self.put(j, at, e.where(self.inside(limit, j), x, e.const(0, self.of)))
            return []
        w.loop("0", depth, str(LANES), divide)
        place = w.at(stats, w.mul(row, "2"), self.size)
        w.do(f"store {self.kind} {top.name}, ptr {place}")
        w.do(f"store {self.kind} {total.name}, ptr {w.at(place, '1', self.size)}")

    def inside(self, limit: Value, j: Value) -> Scalar:
        return Scalar(self.w.lane_mask(LANES, self.w.sub(limit, j)), dt.bool_, LANES)


class _Backward(_Forward):
    """Units are heads x batch: a head's blocks of rows follow each other, adding to the gradients of k and v."""

    def unit(self, u: Value) -> list[Value]:
        w = self.w
        batch = w.div(u, self.heads)
        head = w.sub(u, w.mul(batch, self.heads))
        operands = [self.operand(p, s, batch, head) for p, s in
                    ((Q, Q_STEP), (K, K_STEP), (V, V_STEP), (G, G_STEP), (DQ, DQ_STEP), (DK, DK_STEP), (DV, DV_STEP))]
        q, k, v, g, dq, dk, dv = operands
        mask = self.mask_at(batch, head)
        stats = w.at(w.word("%args", STATS, True), w.mul(w.mul(u, self.tq), "2"), self.size)
        kt, vt, kc = self.scratch(KT_AT), self.scratch(VT_AT), self.scratch(KC_AT)
        sum_k, sum_v = self.scratch(DK_AT), self.scratch(DV_AT)
        self.pack_transposed(k, self.word(K_STEP + 2), self.tk, self.d, kt)
        self.pack_transposed(v, self.word(V_STEP + 2), self.tk, self.ev, vt)
        self.copy(k, self.word(K_STEP + 2), kc, self.d_wide, self.tk, self.d, self.d_wide)
        for out, wide in ((sum_k, self.d_wide), (sum_v, self.e_wide)):
            def zero(i: Value, out: Value = out) -> list[Value]:
                self.put(i, out, self.e.const(0, self.of))
                return []
            w.loop("0", w.mul(self.tk, wide), str(LANES), zero)
        s, ds, rows_q, rows_g = (self.scratch(i) for i in (S_AT, DS_AT, Q_AT, G_AT))
        tile, height = self.scratch(TILE_AT), str(self.spec.height)

        def block(i: Value) -> list[Value]:
            rows = w.min(w.sub(self.tq, i), self.word(BLOCK))
            depth = self.ends(rows, i)
            q_step, g_step = self.word(Q_STEP + 2), self.word(G_STEP + 2)
            self.copy(w.at(q, w.mul(i, q_step), self.size), q_step, rows_q, self.d_wide, rows, self.d, self.d_wide)
            self.copy(w.at(g, w.mul(i, g_step), self.size), g_step, rows_g, self.e_wide, rows, self.ev, self.e_wide)

            def both(j: Value) -> list[Value]:
                def tiles(r: Value) -> list[Value]:
                    high = w.min(w.sub(rows, r), height)
                    place = w.add(w.mul(r, self.wide), j)
                    self.product("k", w.at(rows_q, w.mul(r, self.d_wide), self.size), self.d_wide,
                                 w.at(kt, w.mul(j, self.d), self.size), str(self.width), self.d,
                                 w.at(s, place, self.size), self.wide, high)
                    self.product("k", w.at(rows_g, w.mul(r, self.e_wide), self.size), self.e_wide,
                                 w.at(vt, w.mul(j, self.ev), self.size), str(self.width), self.ev,
                                 w.at(ds, place, self.size), self.wide, high)
                    return []
                first = self.first(i, j)  # tiles above see none of these columns
                w.loop(w.mul(w.div(first, height), height), rows, height, tiles, once=True)
                return []
            w.loop("0", depth, str(self.width), both, once=True)

            def gradient(r: Value) -> list[Value]:
                row = w.add(i, r)
                place = w.mul(r, self.wide)
                self.gradient(w.at(s, place, self.size), w.at(ds, place, self.size), row, depth,
                              self.mask_row(mask, row), stats)
                return []
            w.loop("0", rows, "1", gradient, once=True)

            def keys(j: Value) -> list[Value]:
                high = w.min(w.sub(depth, j), height)
                first = self.first(i, j)  # rows above have no weight here
                for source, other, wide, cols, total in ((s, rows_g, self.e_wide, self.ev, sum_v),
                                                         (ds, rows_q, self.d_wide, self.d, sum_k)):
                    def columns(c: Value, source: Value = source, other: Value = other, wide: Value = wide,
                                total: Value = total) -> list[Value]:
                        place = w.add(w.mul(j, wide), c)
                        self.product("m", w.at(source, w.add(w.mul(first, self.wide), j), self.size), self.wide,
                                     w.at(other, w.add(w.mul(first, wide), c), self.size), wide, w.sub(rows, first),
                                     w.at(total, place, self.size), wide, high, resume=True)
                        return []
                    w.loop("0", cols, str(self.width), columns)
                return []
            w.loop("0", depth, height, keys)
            dq_step = self.word(DQ_STEP + 2)

            def queries(r: Value) -> list[Value]:
                high = w.min(w.sub(rows, r), height)
                seen = self.ends(high, w.add(i, r))

                def columns(c: Value) -> list[Value]:
                    self.product("k", w.at(ds, w.mul(r, self.wide), self.size), self.wide, w.at(kc, c, self.size),
                                 self.d_wide, seen, w.at(tile, c, self.size), self.d_wide, high)
                    return []
                w.loop("0", self.d, str(self.width), columns)
                self.copy(tile, self.d_wide, w.at(dq, w.mul(w.add(i, r), dq_step), self.size), dq_step, high, self.d)
                return []
            w.loop("0", rows, height, queries)
            return []
        w.loop("0", self.tq, self.word(BLOCK), block)
        self.copy(sum_k, self.d_wide, dk, self.word(DK_STEP + 2), self.tk, self.d)
        self.copy(sum_v, self.e_wide, dv, self.word(DV_STEP + 2), self.tk, self.ev)
        return []

    def gradient(self, at: Value, ds: Value, row: Value, depth: Value, mask_row: Value, stats: Value) -> None:
        """Turn a row of products into weights (at `at`) and gradients of the products (at `ds`)."""
        w, e = self.w, self.e
        limit = self.limit(row)
        place = w.at(stats, w.mul(row, "2"), self.size)
        top, total = (self.splat(Scalar(w.let(f"load {self.kind}, ptr {w.at(place, i, self.size)}"), self.of, 1))
                      for i in ("0", "1"))
        zero = e.const(0, self.of)

        def weight(j: Value) -> Scalar:
            x = FUNCTIONS["exp"](e, e.sub(self.scores(j, at, row, limit, mask_row), top))
            y = e.where(self.inside(limit, j), e.div(x, total), zero)
            self.put(j, at, y)
            g = Scalar(w.load(self.vector, w.at(ds, j, self.size)), self.of, LANES)
            p = e.where(self.inside(limit, j), e.mul(g, y), zero)
            self.put(j, ds, p)
            return p
        sums = self.splat(self.reduce("sum", limit, weight))

        def finish(j: Value) -> list[Value]:
            p = Scalar(w.load(self.vector, w.at(ds, j, self.size)), self.of, LANES)
            y = Scalar(w.load(self.vector, w.at(at, j, self.size)), self.of, LANES)
            x = e.mul(e.sub(p, e.mul(y, sums)), self.scale)
            self.put(j, ds, e.where(self.inside(limit, j), x, zero))
            return []
        w.loop("0", limit, str(LANES), finish)

        def behind(j: Value) -> list[Value]:
            for x in (at, ds):
                self.put(j, x, zero)
            return []
        whole = w.let(f"and i64 {w.add(limit, str(LANES - 1))}, {-LANES}")
        w.loop(whole, w.add(depth, str(self.spec.height)), str(LANES), behind)  # as far as a tile may read


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


def _pack(target: Target, declared: set[str], kind: str, vectors: int, name: str) -> str:
    w = Writer(target, declared)
    size = bits(kind) // 8
    width = str(target.lanes(size) * vectors)

    def panel(j: Value) -> list[Value]:
        pack_panel(w, "k", kind, kind, vectors, w.at("%source", w.mul(j, "%step"), size), "1", "%step",
                   w.at("%out", w.mul(j, "%depth"), size), "%depth", w.min(w.sub("%rows", j), width))
        return []
    w.loop("0", "%rows", width, panel)
    return w.function(f"internal void @{name}_pack(ptr %source, i64 %step, i64 %rows, i64 %depth, ptr %out) nounwind")


def heights(height: int) -> list[int]:
    """Return the two heights of tiles: scratch is padded, so a tile may compute rows too many."""
    return [(height // 2 + 1) // 2 * 2, height]


def attention_source(target: Target, name: str, spec: AttentionSpec) -> str:
    """Return the module of one attention kernel."""
    declared: set[str] = set()
    kind = _Forward if spec.kind == "forward" else _Backward
    scalar = SCALAR[spec.dtype]
    functions = [kind(target, declared, spec, name).write(), _copy(target, declared, scalar, name),
                 _pack(target, declared, scalar, spec.vectors, name)]
    tile = TileSpec(spec.height, spec.vectors, spec.dtype, spec.dtype, spec.dtype, spec.dtype, "k")
    functions.append(partial_tile(target, declared, tile, f"{name}_k", heights(spec.height)))
    if spec.kind == "backward":
        tile = replace(tile, a_form="m", blocked=True)
        functions.append(partial_tile(target, declared, tile, f"{name}_m", heights(spec.height)))
    return module(functions, declared)
