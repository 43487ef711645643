"""Row kernels: pointwise loops, reductions along rows, and any sequence of both over rows kept in cache."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fanal.core.backends.cpu.emit import LANES, REGISTER, STORED, Scalar, vector
from fanal.core.backends.cpu.irtext import Value, module
from fanal.core.backends.cpu.loops import LoopWriter, accumulator, combine, identity
from fanal.core.backends.cpu.passes import GROUP_ROWS, LONG, Passes, cost
from fanal.core.backends.cpu.target import Target
from fanal.core.base import dtype as dt
from fanal.core.base.dtype import dtype as DType
from fanal.core.compiler.loopir import REDUCED, ROW_BLOCK, Loop, Op, kept_if

_PAGE = 4096
GROUP = 2048  # elements of short rows that go through the passes together; half of it where they go to memory
_NUMBERS = {"max_of": "max_number", "min_of": "min_number"}
_UNSIGNED, _INFINITE = 0x7FFFFFFF, 0x7F800000  # of the bits of a float32: all but the sign, and infinity
_ONE_BODY = (
    24  # a loop body of more operations is written once, masked, instead of once whole and once masked
)


@dataclass
class _Row:
    """Pass `p` over row `unit`: number `at` of the rows at hand, which lies at `place` in scratch.

    What is known of it is its own: passes over several rows may be written in turn.
    """

    p: int
    unit: Value
    at: Value
    place: Value
    known: dict[int, Scalar]
    splats: dict[int, Scalar]
    bases: dict[int, Value]
    index: dict[int, Value]
    used: list[int] = field(default_factory=list)
    stop_at: set[int] = field(default_factory=set)
    addresses: dict[int, Value] = field(default_factory=dict)


class RowsWriter(LoopWriter):
    """Writes a loop of form "rows". `split`: a unit is one block of a row, and reductions leave partial results.

    `abreast`: the passes run side by side, each a group of rows behind the one before, so that what one waits for, of
    memory or of its own results, is hidden behind the others.
    """

    def __init__(self, loop: Loop, target: Target, split: bool, streams: frozenset[int] = frozenset(),
                 abreast: bool = False) -> None:
        super().__init__(loop, target, streams)
        self.split = split
        self.abreast = abreast
        self.plan = Passes(loop, abreast)
        self.body: dict[int, Scalar] = {}
        self.first = len(loop.outer)
        self.many = len(loop.reduced) > 1

    def text(self, name: str) -> str:
        """Return the module that defines the kernel."""
        w, loop = self.w, self.loop
        self.read_words()
        self.length = self.sizes[-1]
        self.partials = []
        if self.many:
            self.runs = w.word("%args", next(self.words))  # how many there are, and in a block
            self.per_block = w.word("%args", next(self.words))
        self.chunks = w.div(w.add(self.length, str(ROW_BLOCK - 1)), str(ROW_BLOCK))
        self.blocks = self.chunks
        if self.many:
            groups = w.div(w.sub(w.add(self.runs, self.per_block), "1"), self.per_block)
            self.blocks = w.mul(groups, self.chunks)
        if self.plan.cached:
            self.slot = w.word("%args", next(self.words))
        if any(self.plan.begins):
            self.rows, self.block = (w.word("%args", next(self.words)) for _ in range(2))
        if self.split:
            for p in self.plan.reduces:
                self.partials += [(i, w.word("%args", next(self.words), pointer=True)) for i in p]
        for i, op in enumerate(loop.ops):
            if not op.deps and op.kind not in ("reduce", "const"):
                self.scalar_value(i)
        outer_bases = {k: v for k, v in self.bases.items()}
        for p in range(self.plan.count):
            for i in self._used(p):
                if not loop.ops[i].deps:
                    self.splat(i)
        known, splats = dict(self.known), dict(self.splats)
        whole = w.mul(self.runs, self.length) if self.many else self.length
        self.group = "1"
        if self.plan.count > 1:
            few = w.div(str(GROUP // 2 if self.streams and not self.abreast else GROUP), w.max(whole, "1"))
            self.group = w.max(w.min(few, str(GROUP_ROWS)), "1")
            self.ahead = w.add(self.group, w.max(self.group, "2"))

        def over(*rows: tuple[int, Value, Value, Value]) -> tuple:
            """Write passes over rows: which pass, which row, and its number in which of the groups at hand."""
            self._rows([_Row(p, unit, w.add(w.mul(at, str(GROUP_ROWS)), k),
                             w.mul(w.add(w.mul(at, self.group), k), whole),
                             dict(known), dict(splats), dict(outer_bases), {}) for p, unit, k, at in rows])
            return ()

        def between(p: int, at: Value) -> None:
            self.known, self.splats = dict(known), dict(splats)
            self._between(p, w.mul(at, str(GROUP_ROWS)))

        def one_by_one(low: Value, high: Value) -> None:
            """Take rows through pass after pass in groups: what ends a pass over one is hidden behind the next."""
            def group(first: Value) -> tuple:
                last = w.min(w.add(first, self.group), high)
                for p in range(count):
                    w.loop(first, last, "1", lambda unit, p=p: over((p, unit, w.sub(unit, first), "0")))
                    between(p, "0")
                return ()

            w.loop(low, high, self.group, group)

        def side_by_side(low: Value, high: Value) -> None:
            """Take rows through the passes in groups, each pass one group behind the one before."""
            behind = [w.mul(self.group, str(p)) for p in range(count)]

            def turn(newest: Value, at: Value) -> list[Value]:
                firsts, ats = [w.sub(newest, b) for b in behind], [at]
                for _ in behind[1:]:
                    ats.append(w.select(w.less("0", ats[-1]), w.sub(ats[-1], "1"), str(count - 1)))
                all_of_them = w.let(f"and i1 {w.less(w.sub(low, '1'), firsts[-1])}, "
                                    f"{w.less(w.add(newest, self.group), w.add(high, '1'))}")
                w.loop("0", w.select(all_of_them, self.group, "0"), "1",
                       lambda k: over(*((p, w.add(firsts[p], k), k, ats[p]) for p in reversed(range(count)))))
                for p, first in enumerate(firsts):  # where not every pass has a whole group
                    there = w.min(w.sub(high, first), self.group)
                    there = w.select(w.let(f"or i1 {all_of_them}, {w.less(first, low)}"), "0", there)
                    w.loop("0", there, "1", lambda k, p=p: over((p, w.add(firsts[p], k), k, ats[p])))
                for p in range(count):
                    between(p, ats[p])
                following = w.add(at, "1")
                return [w.select(w.less(following, str(count)), following, "0")]

            w.loop(low, w.add(high, behind[-1]), self.group, turn, [("i64", "0")])

        count = self.plan.count

        def rows(low: Value, high: Value) -> None:
            if count > 1:
                (side_by_side if self.abreast else one_by_one)(low, high)
            else:
                w.loop(low, high, "1", lambda unit: over((0, unit, "0", "0")))

        def block(unit: Value) -> tuple:
            first = w.mul(unit, self.block)
            self._begin(unit, outer_bases)
            rows(first, w.min(w.add(first, self.block), self.rows))
            return ()

        kept = kept_if(loop)
        high = "%hi" if kept is None else w.select(self.scalar_value(kept).name, "%lo", "%hi")
        if any(self.plan.begins):
            w.loop("%lo", high, "1", block)
        else:
            rows("%lo", high)
        if self.streams:
            w.call("void", "llvm.x86.sse.sfence")
        return module(
            [w.function(f"void @{name}(ptr noalias %args, i64 %lo, i64 %hi, ptr noalias %scratch)")],
            w.declared,
        )

    def _begin(self, unit: Value, bases: dict[int, Value]) -> None:
        """Clear the sums of columns of a block of rows."""
        w, sums = self.w, [s for p in self.plan.begins for s in p]
        for _, access in sums:
            size = self.accesses[access].dtype.itemsize
            bases[access] = w.at(self.pointers[access], w.mul(unit, self.length), size)

        def clear(at: Value) -> tuple:
            mask = w.lane_mask(LANES, w.sub(self.length, at))
            for i, access in sums:
                op = self.loop.ops[i]
                self.store(access, identity(self.vector, op.params, op.dtype), bases[access], at, mask)
            return ()

        w.loop("0", self.length, str(LANES), clear)

    def _add(self, op: Op, access: int, address: Value, at: Value, mask: Value | None) -> None:
        """Add a vector to the sums of its columns."""
        w, kind, size = self.w, STORED[op.dtype], op.dtype.itemsize
        where = w.let(f"getelementptr {kind}, ptr {address}, i64 {at}")
        old = self.vector.unpack(w.load(vector(kind, LANES), where, mask, size), op.dtype, LANES)
        new = Scalar(self.lane_value(op.args[0]).name, op.dtype, LANES)
        self.store(access, combine(self.vector, op.params, old, new), address, at, mask)

    def _used(self, p: int) -> list[int]:
        roots = self.plan.roots(self.loop, p) + self.plan.kept[p]
        stop = {i for i in self.plan.cached if i not in self.plan.kept[p]}
        return self.closure(roots, stop)

    def _enter(self, row: _Row) -> _Row:
        """Write about this row from now on."""
        self.known, self.splats, self.bases, self.index = row.known, row.splats, row.bases, row.index
        return row

    def _rows(self, rows: list[_Row]) -> None:
        """Write passes over a row each."""
        w, loop, plan = self.w, self.loop, self.plan
        start, stop = "0", self.blocks
        for row in rows:
            self._enter(row)
            if self.split:
                flat = w.div(row.unit, self.blocks) if self.first else "0"
                start = w.sub(row.unit, w.mul(flat, self.blocks))
                stop = w.add(start, "1")
                self.decode(flat, range(self.first))
            else:
                self.decode(row.unit, range(self.first))
            for i in plan.slots:
                if plan.ready[i] <= row.p:
                    kind, slot = self._slot(i, row.at)
                    value = w.let(f"load {kind}, ptr {slot}")
                    if loop.ops[i].kind == "reduce":
                        self._reduced(i, value)
                    else:
                        self.known[i] = Scalar(value, loop.ops[i].dtype, 1)
            if row.p == 0 and plan.count > 1 and not self.abreast:
                self._ask_for_line()
        found = self._passes(rows, start, stop) if plan.count else [[] for _ in rows]
        for row, totals in zip(rows, found):
            self._enter(row)
            for i, total in zip(plan.reduces[row.p] if totals else [], totals):
                if self.split:
                    pointer = next(q for k, q in self.partials if k == i)
                    kind = STORED[accumulator(loop.ops[i].dtype)]
                    where = w.let(f"getelementptr {kind}, ptr {pointer}, i64 {row.unit}")
                    w.do(f"store {kind} {self.scalar.pack(total)}, ptr {where}")
                elif i in plan.slots:
                    kind, slot = self._slot(i, row.at)
                    w.do(f"store {kind} {total.name}, ptr {slot}")
                else:
                    self._reduced(i, total.name)
            for i, access in plan.row_stores if row.p >= plan.count - 1 else ():
                value = self.scalar.pack(self.scalar_value(i))
                w.do(f"store {STORED[self.accesses[access].dtype]} {value}, ptr {self.base(access)}")

    def _slot(self, i: int, at: Value) -> tuple[str, Value]:
        """Return the type of a number of the row and its address, for row `at` of those at hand."""
        op = self.loop.ops[i]
        of = accumulator(op.dtype) if op.kind == "reduce" else op.dtype
        place = self.w.at("%scratch", str(8 * self.plan.rows * self.plan.slots[i]))
        return REGISTER[of], self.w.at(place, at, of.itemsize if of in (dt.float32, dt.float64) else 8)

    def _between(self, p: int, at: Value) -> None:
        """Compute numbers of all rows of a group, a lane for each: one by one, every row would wait for its own."""
        w, plan, ops = self.w, self.plan, self.loop.ops
        lanes: dict[int, Scalar] = {}

        def value(i: int) -> Scalar:
            if i not in lanes:
                kept = i in plan.slots and (ops[i].kind == "reduce" or plan.ready[i] <= p)
                if not ops[i].deps:
                    lanes[i] = self.splat(i)
                elif kept:
                    kind, slot = self._slot(i, at)
                    lanes[i] = Scalar(w.load(vector(kind, LANES), slot), ops[i].dtype, LANES)
                else:
                    row, *params = ops[i].params
                    lanes[i] = row.code(self.vector, *map(value, ops[i].args), *params)
            return lanes[i]

        for i in plan.between[p]:
            kind, slot = self._slot(i, at)
            w.store(vector(kind, LANES), value(i).name, slot)

    def _reduced(self, i: int, total: Value) -> None:
        to = self.loop.ops[i].dtype
        self.known[i] = self.scalar.rounded(Scalar(total, to, 1), to)

    def _passes(self, rows: list[_Row], start: Value, stop: Value) -> list[list[Scalar]]:
        """Write passes over a row each, side by side; return what each adds up."""
        w, loop, plan = self.w, self.loop, self.plan
        for row in rows:
            p = self._enter(row).p
            row.used = self._used(p)
            row.stop_at = set(plan.cached) - set(plan.kept[p])
            lanes = [i for i in row.used if loop.ops[i].deps & REDUCED]
            wanted = {a for i in lanes if i not in row.stop_at for a in loop.ops[i].args}
            for i in sorted(wanted.union(plan.roots(loop, p))):  # everything scalar is in lanes before the loops begin
                if not loop.ops[i].deps & REDUCED:
                    self.splat(i)
            for i in lanes:
                if i not in row.stop_at and loop.ops[i].kind == "load":
                    self.base(loop.ops[i].params)
            for access in [*(a for _, a in plan.stores[p] + plan.begins[p]), *self._fetched()]:
                self.base(access)
        sought = [self._reductions(row.p) for row in rows]
        reduces = [r for found in sought for r in found]
        types = [t for _, _, t in reduces]
        hows = [how for _, how, _ in reduces]
        starts = [identity(self.scalar, h, t) for h, t in zip(hows, types)]
        empty = [identity(self.vector, h, t) for h, t in zip(hows, types)]
        if not reduces and not self.many and not self.split:  # nothing depends on the blocks
            self._run(rows, "0", self.length, "0", [], [])
            return [[] for _ in rows]

        def block(number: Value, *totals: Value) -> list[Value]:
            part, group = number, "0"
            if self.many:
                group = w.div(number, self.chunks)
                part = w.sub(number, w.mul(group, self.chunks))
            low = w.mul(part, str(ROW_BLOCK))
            high = w.min(w.add(low, str(ROW_BLOCK)), self.length)
            carried = [(vector(REGISTER[t], LANES), x.name) for t, x in zip(types, empty) for _ in range(4)]
            if self.many:
                first = w.mul(group, self.per_block)
                last = w.min(w.add(first, self.per_block), self.runs)

                def run(r: Value, *sums: Value) -> list[Value]:
                    for row in rows:
                        self._enter(row)
                        self.decode(r, range(self.first, self.first + len(loop.reduced) - 1))
                    return self._run(rows, low, high, w.mul(r, self.length), carried, list(sums))

                sums = w.loop(first, last, "1", run, carried)
            else:
                sums = self._run(rows, low, high, "0", carried, [c for _, c in carried])
            out = []
            for k, (how, t) in enumerate(zip(hows, types)):
                a, b, c, d = (Scalar(v, t, LANES) for v in sums[4 * k : 4 * k + 4])
                v = combine(
                    self.vector, how, combine(self.vector, how, a, b), combine(self.vector, how, c, d)
                )
                out.append(combine(self.scalar, how, Scalar(totals[k], t, 1), self._halves(how, v)).name)
            return out

        kinds = [(REGISTER[t], x.name) for t, x in zip(types, starts)]
        totals = iter([Scalar(v, t, 1) for v, t in zip(w.loop(start, stop, "1", block, kinds), types)])
        return [self._found(found, totals) for found in sought]

    def _found(self, reduces: list[tuple[int, str, DType]], totals: Iterator[Scalar]) -> list[Scalar]:
        """Return what a pass adds up, of the totals of its vectors."""
        found: dict[int, Scalar] = {}
        for (i, how, _), total in zip(reduces, totals):
            if how == "nan":
                e = self.scalar
                nan = e.icmp("sgt", total, e.const(_INFINITE, dt.int32))
                total = e.where(nan, e.const(float("nan"), dt.float32), found[i])
            found[i] = total
        return list(found.values())

    def _reductions(self, p: int) -> list[tuple[int, str, DType]]:
        """Return what vectors of sums a pass keeps: op, how they are made, and of which dtype.

        The largest float32 is that of the numbers, and the largest bits without sign tell whether there was a NaN:
        to let NaN win at every step takes twice as long.
        """
        found: list[tuple[int, str, DType]] = []
        for i in self.plan.reduces[p]:
            how, t = self.loop.ops[i].params, accumulator(self.loop.ops[i].dtype)
            if how in _NUMBERS and t is dt.float32:
                found += [(i, _NUMBERS[how], t), (i, "nan", dt.int32)]
            else:
                found.append((i, how, t))
        return found

    def _halves(self, how: str, x: Scalar) -> Scalar:
        """Combine the lanes of a vector by halves."""
        w, n, kind = self.w, LANES, REGISTER[x.dtype]
        while n > 1:
            n //= 2
            parts = []
            for first in (0, n):
                order = ", ".join(f"i32 {first + i}" for i in range(n))
                if n == 1:
                    parts.append(w.let(f"extractelement <2 x {kind}> {x.name}, i64 {first}"))
                else:
                    parts.append(
                        w.let(
                            f"shufflevector <{2 * n} x {kind}> {x.name}, <{2 * n} x {kind}> poison, "
                            f"<{n} x i32> <{order}>"
                        )
                    )
            a, b = (Scalar(v, x.dtype, n) for v in parts)
            x = combine(self.scalar if n == 1 else self.vector, how, a, b)
        return x

    def _run(self, rows: list[_Row], low: Value, high: Value, away: Value, carried: list[tuple[str, Value]],
             sums: list[Value]) -> list[Value]:
        """Write the loop over one run of the vector dimension, `away` from where the rows begin in scratch."""
        w, ops = self.w, self.loop.ops
        for row in rows:
            self._enter(row)
            self._locate(row)
        kinds = [k for k, _ in carried]
        taken = list(itertools.accumulate([4 * len(self._reductions(row.p)) for row in rows], initial=0))
        parts = [(row, slice(*ends)) for row, ends in zip(rows, itertools.pairwise(taken))]
        inner = [[ops[i] for i in row.used if ops[i].deps & REDUCED and i not in row.stop_at] for row in rows]
        long = [any(cost(op) >= LONG for op in found) for found in inner]

        def terms(row: _Row, at: Value, mask: Value | None = None) -> list[Scalar]:
            return self._body(row, at, w.add(row.place, away), mask)

        def vectors(at: Value, *accs: Value, count: int, end: Value | None = None, fetch: bool = True) -> list[Value]:
            """Write so many vectors of every row, or one up to an end. Long chains of operations stand abreast."""
            out = []
            for (row, own), chains in zip(parts, long):
                self._enter(row)
                if fetch:
                    self._fetch(row, at, count)
                mask = w.lane_mask(LANES, w.sub(end, at)) if end else None
                bodies = [functools.partial(terms, row, w.add(at, str(k * LANES)), mask) for k in range(count)]
                sums = list(accs[own])
                if chains and count > 1:
                    for found in w.abreast(bodies):
                        sums = self._add_up(row.p, found, sums)
                else:
                    for body in bodies:
                        sums = self._add_up(row.p, body(), sums)
                out += sums
            return out

        masked = functools.partial(vectors, count=1, end=high)
        if max(len(row.used) for row in rows) > _ONE_BODY and not self.streams:
            if self.first and self.plan.count == 1:
                def masked_next(at: Value, *accs: Value) -> list[Value]:
                    self._next_row(rows[0].addresses, at)
                    return masked(at, *accs, fetch=False)
                return w.loop(low, high, str(LANES), masked_next, list(zip(kinds, sums)))
            return w.loop(low, high, str(LANES), masked, list(zip(kinds, sums)))
        if not carried and (far := [a for _, a in self.plan.stores[rows[0].p] if a in self.streams]):
            first = w.min(w.add(low, self._to_line(far[0], rows[0].addresses[far[0]])), high)
            w.loop(low, first, str(LANES), functools.partial(vectors, count=1, end=first, fetch=False))
            low = first
        middle = w.add(low, w.let(f"and i64 {w.sub(high, low)}, {-LANES}"))
        several = bool(carried or self.streams or any(long))
        if several:
            # Several vectors at a time, so that the accumulators stay in their registers and need not change places.
            narrow = all(op.dtype.itemsize * LANES <= w.target.vector_bytes for found in inner for op in found)
            for count in (8, 4) if any(long) and carried and narrow else (4,):
                start, low = low, w.add(low, w.let(f"and i64 {w.sub(high, low)}, {-count * LANES}"))
                sums = w.loop(start, low, str(count * LANES), functools.partial(vectors, count=count),
                              list(zip(kinds, sums)))
        whole = functools.partial(vectors, count=1, fetch=not several)
        sums = w.loop(low, middle, str(LANES), whole, list(zip(kinds, sums)))
        return w.loop(middle, high, str(LANES), functools.partial(masked, fetch=False), list(zip(kinds, sums)))

    def _ask_for_line(self) -> None:
        """Ask for the line that the end of a row shares with the next: a store to it would keep those past the caches
        waiting."""
        w = self.w
        for access in self.streams:
            end = w.at(self.base(access), self.length, self.accesses[access].dtype.itemsize)
            within = w.less("0", w.let(f"and i64 {w.let(f'ptrtoint ptr {end} to i64')}, 63"))
            w.call("void", "llvm.prefetch.p0", ("ptr", w.select(within, end, "%args", "ptr")),
                   ("i32", "1"), ("i32", "3"), ("i32", "1"))

    def _to_line(self, access: int, address: Value) -> Value:
        """Return how many elements there are before a vector can go past the caches."""
        size = self.accesses[access].dtype.itemsize
        away = self.w.sub("0", self.w.let(f"ptrtoint ptr {address} to i64"))
        return self.w.div(self.w.let(f"and i64 {away}, {LANES * size - 1}"), str(size))

    def _locate(self, row: _Row) -> None:
        """Find out where what a pass loads and stores lies, with all indices but the last."""
        dims = range(self.first, self.first + len(self.loop.reduced) - 1)
        wanted = [a for _, a in self.plan.stores[row.p] + self.plan.begins[row.p]]
        row.addresses = {}
        for i in row.used:
            op = self.loop.ops[i]
            if op.deps & REDUCED and i not in row.stop_at:
                if op.kind == "load":
                    wanted.append(op.params)
                elif op.kind == "index":
                    base, *steps = self.op_words[i]
                    row.addresses[-1 - i] = self.w.add(base, self.offset(steps, range(len(steps) - 1)))
        for access in wanted:
            if access not in row.addresses:
                row.addresses[access] = self.w.at(row.bases[access], self.offset(self.strides[access], dims))

    def lane_value(self, i: int) -> Scalar:
        return self.body[i] if self.loop.ops[i].deps & REDUCED else self.splats[i]

    def _body(self, row: _Row, at: Value, place: Value, mask: Value | None) -> list[Scalar]:
        """Write what a pass does to one vector; return what it adds to each vector of sums."""
        loop, plan, p, addresses = self.loop, self.plan, row.p, row.addresses
        self.body = {}
        for i in row.used:
            op = loop.ops[i]
            if not op.deps & REDUCED:
                continue
            if i in row.stop_at:
                self.body[i] = self._cache(i, op, at, place)
                continue
            if self._picks(op):
                self.body[i] = self._picked(op, addresses, at)
                continue
            args = [self.lane_value(a) for a in op.args]
            where = addresses.get(op.params if op.kind == "load" else -1 - i, "0")
            self.body[i] = self.vector_op(i, op, args, where, at, mask)
        for i in plan.kept[p]:
            self._cache(i, loop.ops[i], at, place, self.body[i])
        for i, access in plan.stores[p]:
            self.store(access, self.lane_value(i), addresses[access], at, mask)
        for i, access in plan.begins[p]:
            self._add(loop.ops[i], access, addresses[access], at, mask)
        terms: list[Scalar] = []
        for i, how, acc in self._reductions(p):
            x = Scalar(self.lane_value(loop.ops[i].args[0]).name, dt.float32 if how == "nan" else acc, LANES)
            if how == "nan":
                x = self.vector.op("and", self.vector.cast("bitcast", x, acc), self.vector.const(_UNSIGNED, acc))
            if mask is not None:
                x = self.vector.where(Scalar(mask, x.dtype, LANES), x, identity(self.vector, how, acc))
            terms.append(x)
        return terms

    def _picks(self, op: Op) -> bool:
        """Tell whether an op compares the index in the row with a number of the row: it holds in one lane at most."""
        if not self.w.target.masks or op.kind != "point" or op.params[0].name != "eq":
            return False
        index, number = (self.loop.ops[a] for a in op.args)
        return index.kind == "index" and self.op_words[op.args[0]][-1] == "1" and not number.deps & REDUCED

    def _picked(self, op: Op, addresses: dict[int, Value], at: Value) -> Scalar:
        """Return in which of the lanes from `at` on the index is the number: a bit is less than sixteen comparisons."""
        w, (index, number) = self.w, op.args
        away = w.sub(self.scalar_value(number).name, w.add(addresses[-1 - index], at))
        lane = w.let(f"trunc i64 {w.call('i64', 'llvm.umin.i64', ('i64', away), ('i64', str(LANES)))} to i32")
        bit = w.let(f"trunc i32 {w.let(f'shl i32 1, {lane}')} to i{LANES}")
        return Scalar(w.let(f"bitcast i{LANES} {bit} to <{LANES} x i1>"), dt.bool_, LANES)

    def _add_up(self, p: int, terms: Sequence[Scalar], accs: Sequence[Value]) -> list[Value]:
        """Add a vector to the first of the four vectors of each sum, and rotate them."""
        out: list[Value] = []
        for k, (_, how, acc) in enumerate(self._reductions(p)):
            a, b, c, d = accs[4 * k : 4 * k + 4]
            out += [b, c, d, combine(self.vector, how, Scalar(a, acc, LANES), terms[k]).name]
        return out

    def _fetch(self, row: _Row, at: Value, vectors: int) -> None:
        """Ask for this pass's share of so many vectors of a row in the next group; where a row is one pass, in the next
        page. Shares are quarters of a row; where passes run side by side, all is the first one's."""
        w, plan = self.w, self.plan
        effort = list(itertools.accumulate(map(self._effort, range(plan.count)), initial=0))
        first, last = (round(4 * x / max(effort[-1], 1)) for x in effort[row.p : row.p + 2])
        if self.abreast:
            first, last = (0, 0) if row.p else (0, 4)
        for access in self._fetched():
            size = self.accesses[access].dtype.itemsize
            there, ahead = at, str(_PAGE)
            if plan.count > 1:
                there = w.div(w.add(w.mul(self.length, str(first)), w.mul(at, str(last - first))), "4")
                ahead = w.mul(self.strides[access][self.first - 1], self.ahead)
            there = w.at(w.at(self.bases[access], there, size), ahead)
            for line in range(-(-vectors * LANES * size * (last - first) // 256)):
                w.call("void", "llvm.prefetch.p0", ("ptr", w.at(there, str(64 * line))), ("i32", "0"),
                       ("i32", "3"), ("i32", "1"))

    def _effort(self, p: int) -> int:
        """Return about how long a pass takes."""
        stop = set(self.plan.cached) - set(self.plan.kept[p])
        ops = self.loop.ops
        return sum(cost(ops[i]) for i in self._used(p) if ops[i].deps & REDUCED and i not in stop)

    def _next_row(self, addresses: dict[int, Value], at: Value) -> None:
        """Ask for the same place in the next row: the processor does not follow many rows of which each is short."""
        w = self.w
        for access, address in addresses.items():
            if access < 0 or self.accesses[access].strides[self.vector_dim] != 1:
                continue
            step = self.strides[access][self.first - 1]
            if step != "0":
                there = w.at(w.at(address, at, self.accesses[access].dtype.itemsize), step)
                w.call("void", "llvm.prefetch.p0", ("ptr", there), ("i32", "0"), ("i32", "2"), ("i32", "1"))

    def _fetched(self) -> list[int]:
        """Return the loads that go through memory as the loop does."""
        loads = enumerate(self.loop.loads) if self.w.target.masks and not self.many else ()
        return [n for n, a in loads if a.strides[-1] == 1 and all(a.strides) and not a.at]

    def _cache(self, i: int, op: Op, at: Value, row: Value, value: Scalar | None = None) -> Scalar:
        """Load op `i` from its slot in scratch, or store it."""
        w, kind = self.w, REGISTER[op.dtype]
        kind = "i8" if kind == "i1" else kind
        slot = w.at("%scratch", w.add(w.mul(self.slot, str(self.plan.cached[i])), str(self.plan.totals)))
        where = w.let(f"getelementptr {kind}, ptr {slot}, i64 {w.add(row, at)}")
        full = vector(kind, LANES)
        if value is not None:
            w.store(full, self.vector.pack(value) if kind == "i8" else value.name, where, None, 1)
            return value
        got = w.load(full, where, None, 1)
        return self.vector.unpack(got, op.dtype, LANES) if kind == "i8" else Scalar(got, op.dtype, LANES)
