"""LLVM IR of the register tile, which products, convolutions and attention share: sums kept in registers over k."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fanal.core.backends.cpu import tiles_ir
from fanal.core.backends.cpu.irtext import SCALAR, Value, Writer, bits
from fanal.core.backends.cpu.target import Target

_PREFETCH = {False: 24, True: 8}  # steps of k ahead, where B is packed and where its rows fall on few lines
_UNROLL = {False: 4, True: 2}  # steps of k in a turn of the loop, where rows of A lie side by side and where apart
_LEAST_SHARE = 8  # steps of k between two rows of C that are asked for


@dataclass(frozen=True)
class Spec:
    """Structure of one product kernel: everything that changes its text."""

    height: int  # rows of the register tile
    vectors: int  # its columns, in vector registers
    acc: str  # dtype of the accumulators
    a: str  # dtype of A as it lies in memory
    b: str
    out: str
    a_form: str  # "k": rows of A are contiguous; "m": columns are, as in a copy
    a_copy: str = ""  # "": in place; "m", "k", "any": packed per unit in tiles of rows, by its contiguous axis
    b_copy: str = ""  # "": in place or packed before; "n", "k", "any": packed per unit, by its contiguous axis
    in_place: bool = False  # B is neither packed before nor per unit
    masked: bool = False  # and its last panel is partial
    edge: int = 0  # columns of the tile over the last panel, in vector registers, where fewer hold them
    blocked: bool = False  # K is done in blocks
    batch: int = 0  # number of batch axes
    tiles: bool = False  # on the matrix unit: `k` counts words, and LENGTH the elements of k
    past: bool = False  # there: B is read past the first-level cache
    turned: bool = False  # there: parts of numbers meet in the order of the transposed product
    pairs: bool = False  # multiply-adds of pairs of bfloat16: `k` counts words as well

    @property
    def key(self) -> str:
        return "matmul32:" + ":".join(str(v) for v in vars(self).values())

    @property
    def words(self) -> bool:
        """Whether operands are matrices of words of 32 bits, neighbours along k."""
        return self.tiles or self.pairs

    @property
    def split(self) -> bool:
        """Whether numbers are split into parts for the matrix unit."""
        return self.tiles and (self.a, self.b) == tiles_ir.SPLIT


def heights(height: int, tiles: bool = False) -> list[int]:
    """Return the row counts a tile may have: a few, as each is code of its own."""
    return [*(h for h in ((tiles_ir.ROWS,) if tiles else (2, 4, 8)) if h < height), height]


def tile_rows(w: Writer, rows: Value, choices: list[int]) -> Value:
    """Return the least of the tile heights that holds `rows`, which are at most the largest."""
    high = str(choices[-1])
    for choice in reversed(choices[:-1]):
        high = w.select(w.less(str(choice), rows), high, str(choice))
    return high


def tile_rows_within(w: Writer, rows: Value, choices: list[int]) -> Value:
    """Return the largest of the tile heights that is no more than `rows`, or the least."""
    low = str(choices[0])
    for choice in choices[1:]:
        low = w.select(w.less(rows, str(choice)), low, str(choice))
    return low


def multiply_add(w: Writer, vector: str, a: Value, b: Value, c: Value, pairs: bool) -> Value:
    """Return a*b+c. pairs: lanes are pairs of bfloat16, whose two products are added as the processor does it."""
    if not pairs:
        return w.fma(vector, a, b, c)
    halves = f"<{2 * int(vector[1:].split()[0])} x bfloat>"
    a, b = (w.let(f"bitcast {vector} {x} to {halves}") for x in (a, b))
    return w.call(vector, "llvm.x86.avx512bf16.dpbf16ps.512", (vector, c), (halves, a), (halves, b))


class Stream(NamedTuple):
    """Memory asked for long before its use: as much as a row of the tile in each of the first turns of its loop."""

    base: Value
    step: Value  # bytes from one turn to the next
    turns: Value


class Tile:
    """The register tile: `rows` x `vectors` accumulators over one panel of B."""

    def __init__(self, w: Writer, spec: Spec) -> None:
        self.w, self.spec = w, spec
        self.kind = SCALAR[spec.acc]
        self.size = bits(self.kind) // 8
        self.lanes = w.target.lanes(self.size)
        self.vector = f"<{self.lanes} x {self.kind}>"

    def product(self, rows: int, a: Value, a_step: Value, b: Value, b_step: Value, depth: Value,
                masks: list[Value] | None, start: list[Value],
                between: Callable[[Value], None] | None = None, stream: Stream | None = None,
                unrolled: bool = True) -> list[Value]:
        """Write the loop over k. Steps are in bytes; `start` and the result are rows*vectors accumulators.

        With `between`, the loop has as many parts as there are rows, and `between(row)` is written ahead of each.
        The first turns of the loop also ask for the lines of `stream`.
        """
        w, v = self.w, self.spec.vectors
        strided = self.spec.a_form == "k"
        large = rows * v >= 16
        aligned = 2 if self.spec.pairs else self.size
        # Of two columns, the second reads every other row through a pointer of its own: that load becomes part of the
        # multiply-add. Fewer instructions count where another thread of the core takes half of the decoder; were it
        # every row, loads would take longer than multiply-adds.
        twins = large and bool(self.spec.a_copy) and v == 2
        # Every third row gets a pointer; the two between are addressed as base + step and base + 2*step.
        bases = list(range(0, rows, 3)) if strided else [0, 0] if twins else [0]
        first = [w.at(a, w.mul(a_step, str(r))) for r in bases]
        twice = w.mul(a_step, "2") if strided and rows > 2 else "0"
        a_next = str(self.size) if strided else a_step
        # Out-of-order execution sees about eight steps ahead, too few for what lies beyond the first-level cache.
        far_ahead = str(_PREFETCH[self.spec.in_place])
        ahead = [w.mul(step, far_ahead) for step in (b_step, a_next)] if large else []
        line = max(1, 64 // (self.lanes * self.size))
        ends = [0] if self.spec.a_copy else [0, (rows - 1) * self.size]  # a step of a copy is one line

        def fetch(base: Value, at: int, level: int = 1) -> None:
            """Ask for a line in the cache of a level."""
            w.call("void", "llvm.prefetch.p0", ("ptr", w.at(base, str(at))), ("i32", "0"), ("i32", str(4 - level)),
                   ("i32", "1"))

        def steps(count: int, *carried: Value) -> list[Value]:
            pointers, b_now, acc = list(carried[:len(bases)]), carried[len(bases)], list(carried[len(bases) + 1:])
            if strided and large:  # LLVM is not to see how they go on, or it keeps one for each row, more than it has
                pointers = [w.call("ptr", "llvm.launder.invariant.group.p0", ("ptr", p)) for p in pointers]

            def read(row: int, pointer: Value, step: Value = "0") -> Value:
                address = w.at(pointer, step) if strided else w.at(pointer, str(row), self.size)
                return w.splat(self.vector, w.let(f"load {self.kind}, ptr {address}, align {aligned}"))
            for _step in range(count):
                if ahead:
                    far = w.at(b_now, ahead[0])
                    for j in range(0, v, line):
                        fetch(far, j * self.lanes * self.size)
                if rows == 1 and self.spec.in_place:  # what comes next along the same row of B
                    for j in range(0, v, line):
                        fetch(b_now, (v + j) * self.lanes * self.size)
                if ahead and not strided:
                    far = w.at(pointers[0], ahead[1])
                    for at in ends:
                        fetch(far, at)
                panel = [w.load(self.vector, w.at(b_now, str(j * self.lanes), self.size),
                                masks[j] if masks else None, self.size) for j in range(v)]
                for r in range(rows):
                    if strided:
                        scalar = read(r, pointers[r // 3], ("0", a_step, twice)[r % 3])
                    else:
                        scalar = read(r, pointers[0])
                    for j in range(v):
                        if j and twins and r % 2:
                            scalar = read(r, pointers[1])
                        acc[r * v + j] = multiply_add(w, self.vector, scalar, panel[j], acc[r * v + j], self.spec.pairs)
                pointers, b_now = [w.at(p, a_next) for p in pointers], w.at(b_now, b_step)
            return [*pointers, b_now, *acc]

        carried = [*(("ptr", p) for p in first), ("ptr", b), *((self.vector, x) for x in start)]
        kinds = [kind for kind, _ in carried]
        unroll = _UNROLL[strided] if large and unrolled else 1
        whole = depth if unroll == 1 else w.let(f"and i64 {depth}, {-unroll}")

        def run(low: Value, high: Value, values: Sequence[Value], count: int = unroll) -> list[Value]:
            return w.loop(low, high, str(count), lambda _, *c: steps(count, *c), list(zip(kinds, values, strict=True)))

        def run_ahead(low: Value, high: Value, values: Sequence[Value], stream: Stream) -> list[Value]:
            def turn(_: Value, now: Value, *values: Value) -> list[Value]:
                for at in range(0, v * self.lanes * self.size, 64):
                    fetch(now, at, level=2)
                return [w.at(now, stream.step), *steps(unroll, *values)]
            now = w.at(stream.base, w.mul(w.div(low, str(unroll)), stream.step))
            return w.loop(low, high, str(unroll), turn, list(zip(("ptr", *kinds), (now, *values), strict=True)))[1:]

        if between:
            share = w.mul(w.div(w.add(whole, str(unroll * rows - 1)), str(unroll * rows)), str(unroll))
            share = w.max(share, str(_LEAST_SHARE))
            turns = w.mul(stream.turns, str(unroll)) if stream else ""

            def part(row: Value, *values: Value) -> list[Value]:
                between(row)
                low = w.mul(row, share)
                high = w.min(w.add(low, share), whole)
                if stream:
                    middle = w.min(high, turns)
                    values = run_ahead(low, middle, values, stream)
                    low = w.max(low, middle)
                return run(low, high, values)
            done = w.loop("0", str(rows), "1", part, carried, once=True)
        else:
            done = run("0", whole, [x for _, x in carried])
        if unroll > 1:
            done = run(whole, depth, done, 1)
        return done[len(bases) + 1:]


def partial_tile(target: Target, declared: set[str], spec: Spec, name: str, choices: list[int],
                 edges: bool = False) -> str:
    """Return the function that computes a tile of one of several heights into memory, going on from it if `resume`.

    Steps are in bytes; `acc_step` leads from a row of the tile to the next. `cols` counts for masked tiles only.
    With `edges` it is for what full tiles leave, and shorter code.
    """
    w = Writer(target, declared)
    tile = Tile(w, spec)
    v, lanes = spec.vectors, tile.lanes
    signature = (f"internal void @{name}(ptr %a, i64 %a_step, ptr %b, i64 %b_step, i64 %depth, ptr %acc, "
                 "i64 %acc_step, i1 %resume, i64 %rows, i64 %cols) nounwind")
    masks = None
    if spec.masked:
        masks = [w.lane_mask(lanes, w.sub("%cols", str(j * lanes))) for j in range(v)]
    labels = {h: w.fresh("rows") for h in choices}
    w.do("switch i64 %rows, label %" + labels[spec.height] + " [ "
         + " ".join(f"i64 {h}, label %{labels[h]}" for h in choices[:-1]) + " ]")
    for h in choices:
        w.label(labels[h])
        at, row = [], "%acc"
        for _ in range(h):
            at += [w.at(row, str(j * lanes), tile.size) for j in range(v)]
            row = w.at(row, "%acc_step")
        start = ["zeroinitializer"] * (h * v)
        if spec.blocked:
            before, again, go = w.block, w.fresh("resume"), w.fresh("go")
            w.do(f"br i1 %resume, label %{again}, label %{go}")
            w.label(again)
            kept = [w.load(tile.vector, p, None, tile.size) for p in at]
            w.do(f"br label %{go}")
            w.label(go)
            start = [w.let(f"phi {tile.vector} [ zeroinitializer, %{before} ], [ {x}, %{again} ]") for x in kept]
        done = tile.product(h, "%a", "%a_step", "%b", "%b_step", "%depth", masks, start,
                            unrolled=not edges)
        for p, x in zip(at, done, strict=True):
            w.store(tile.vector, x, p, None, tile.size)
        w.do("ret void")
    w.lines.pop()  # `function` writes the last return
    return w.function(signature)
