"""Column kernels: reductions over leading indices, the kept last index running along vectors.

A unit is up to CHUNK columns. Their running sums live in scratch, so that memory is read row by row.
"""

from __future__ import annotations

from fanal.core.backends.cpu.emit import LANES, REGISTER, STORED, Scalar, vector
from fanal.core.backends.cpu.irtext import Value, module
from fanal.core.backends.cpu.loops import LoopWriter, accumulator, combine, identity
from fanal.core.backends.cpu.target import Target
from fanal.core.compiler.loopir import INNER, REDUCED, Loop

CHUNK = 512
_AHEAD = 4  # rows


class ColumnsWriter(LoopWriter):
    """Writes a loop of form "columns". `split`: a unit is one block of rows and leaves partial results."""

    def __init__(self, loop: Loop, target: Target, split: bool) -> None:
        super().__init__(loop, target)
        self.split = split
        self.first = len(loop.outer)
        self.last = self.first + len(loop.reduced)
        self.reduces = [i for i, op in enumerate(loop.ops) if op.kind == "reduce"]
        self.body: dict[int, Scalar] = {}
        self.addresses: dict[int, Value] = {}

    def text(self, name: str) -> str:
        """Return the module that defines the kernel."""
        w, loop = self.w, self.loop
        self.read_words()
        self.width = self.sizes[-1]
        self.rows = w.word("%args", next(self.words))
        self.block = w.word("%args", next(self.words))
        self.partials = (
            [w.word("%args", next(self.words), pointer=True) for _ in self.reduces] if self.split else []
        )
        self.chunks = w.div(w.add(self.width, str(CHUNK - 1)), str(CHUNK))
        self.blocks = w.div(w.sub(w.add(self.rows, self.block), "1"), self.block)
        for i, op in enumerate(loop.ops):
            if not op.deps and op.kind not in ("reduce", "const"):
                self.scalar_value(i)
        known, bases = dict(self.known), dict(self.bases)
        self.before = self.closure([loop.ops[i].args[0] for i in self.reduces], set())
        self.after = self.closure([i for i, _ in loop.stores], set())
        for i in sorted({*self.before, *self.after}):
            if not loop.ops[i].deps:
                self.splat(i)
        splats = dict(self.splats)

        def unit(u: Value) -> tuple:
            self.known, self.bases, self.splats = dict(known), dict(bases), dict(splats)
            self._unit(u)
            return ()

        w.loop("%lo", "%hi", "1", unit)
        return module(
            [w.function(f"void @{name}(ptr noalias %args, i64 %lo, i64 %hi, ptr noalias %scratch)")],
            w.declared,
        )

    def _sum(self, which: int, k: int, column: Value) -> tuple[str, Value]:
        """Return the type and address of running sum k (0: of the block, 1: of all blocks) at a column."""
        t = REGISTER[accumulator(self.loop.ops[self.reduces[k]].dtype)]
        kind = "i8" if t == "i1" else t
        start = (2 * k + which) * CHUNK * 8
        return vector(kind, LANES), self.w.let(
            f"getelementptr {kind}, ptr {self.w.at('%scratch', str(start))}, i64 {column}"
        )

    def _get(self, which: int, k: int, column: Value) -> Scalar:
        kind, where = self._sum(which, k, column)
        acc = accumulator(self.loop.ops[self.reduces[k]].dtype)
        got = self.w.load(kind, where, None, 8)
        return self.vector.unpack(got, acc, LANES) if REGISTER[acc] == "i1" else Scalar(got, acc, LANES)

    def _set(self, which: int, k: int, column: Value, x: Scalar) -> None:
        kind, where = self._sum(which, k, column)
        self.w.store(kind, self.vector.pack(x) if REGISTER[x.dtype] == "i1" else x.name, where, None, 8)

    def _clear(self, which: int, count: Value) -> None:
        def body(c: Value) -> tuple:
            for k, i in enumerate(self.reduces):
                self._set(
                    which,
                    k,
                    c,
                    identity(self.vector, self.loop.ops[i].params, accumulator(self.loop.ops[i].dtype)),
                )
            return ()

        self.w.loop("0", count, str(LANES), body)

    def _unit(self, u: Value) -> None:
        w = self.w
        up = w.div(u, self.chunks)
        low = w.mul(w.sub(u, w.mul(up, self.chunks)), str(CHUNK))
        high = w.min(w.add(low, str(CHUNK)), self.width)
        count = w.sub(high, low)
        flat, number = up, "0"
        if self.split:
            flat = w.div(up, self.blocks)
            number = w.sub(up, w.mul(flat, self.blocks))
        self.decode(flat, range(self.first))
        for i in self.before + self.after:
            op = self.loop.ops[i]
            if not op.deps & (REDUCED | INNER) and op.kind != "reduce":
                self.splat(i)
            elif op.kind == "load":
                self.base(op.params)
        for n in range(len(self.loop.loads), len(self.accesses)):
            self.base(n)
        if self.split:
            self._clear(0, count)
            first = w.mul(number, self.block)
            self._rows(first, w.min(w.add(first, self.block), self.rows), low, high)
        else:
            self._clear(1, count)

            def block(b: Value) -> tuple:
                self._clear(0, count)
                first = w.mul(b, self.block)
                self._rows(first, w.min(w.add(first, self.block), self.rows), low, high)

                def add(c: Value) -> tuple:
                    for k, i in enumerate(self.reduces):
                        self._set(
                            1,
                            k,
                            c,
                            combine(
                                self.vector, self.loop.ops[i].params, self._get(1, k, c), self._get(0, k, c)
                            ),
                        )
                    return ()

                w.loop("0", count, str(LANES), add)
                return ()

            w.loop("0", self.blocks, "1", block)
        self._finish(up, low, high)

    def _rows(self, first: Value, last: Value, low: Value, high: Value) -> None:
        """Write the loop that adds rows [first, last) to the block's sums."""
        w = self.w
        dims = range(self.first, self.last)

        def row(r: Value) -> tuple:
            self.decode(r, dims)
            self._place(self.before, dims)

            def columns(at: Value, mask: Value | None) -> None:
                self._ask_ahead(at)
                self._values(self.before, at, mask)
                for k, i in enumerate(self.reduces):
                    how = self.loop.ops[i].params
                    source = self.lane_value(self.loop.ops[i].args[0])
                    old = self._get(0, k, w.sub(at, low))
                    self._set(
                        0,
                        k,
                        w.sub(at, low),
                        combine(self.vector, how, old, Scalar(source.name, old.dtype, LANES)),
                    )

            self._along(low, high, columns)
            return ()

        w.loop(first, last, "1", row)

    def _ask_ahead(self, at: Value) -> None:
        """Ask for the same place some rows on: the processor does not follow rows of which it reads a part each."""
        w = self.w
        for i, address in self.addresses.items():
            n = self.loop.ops[i].params
            if self.loop.ops[i].kind != "load" or self.accesses[n].strides[-1] != 1:
                continue
            size = self.accesses[n].dtype.itemsize
            there = w.at(w.at(address, at, size), w.mul(self.strides[n][self.last - 1], str(_AHEAD)))
            for line in range(0, LANES * size, 64):
                asked = w.at(there, str(line))
                w.call("void", "llvm.prefetch.p0", ("ptr", asked), ("i32", "0"), ("i32", "3"), ("i32", "1"))

    def _along(self, low: Value, high: Value, write) -> None:  # type: ignore[no-untyped-def]
        """Write a loop over columns: whole vectors, then the rest under a mask."""
        w = self.w
        middle = w.add(low, w.let(f"and i64 {w.sub(high, low)}, {-LANES}"))

        def whole(at: Value) -> tuple:
            write(at, None)
            return ()

        def rest(at: Value) -> tuple:
            write(at, w.lane_mask(LANES, w.sub(high, at)))
            return ()

        w.loop(low, middle, str(LANES), whole)
        w.loop(middle, high, str(LANES), rest)

    def _place(self, used: list[int], dims: range) -> None:
        """Compute the addresses of a row."""
        w, self.addresses = self.w, {}
        for i in used:
            op = self.loop.ops[i]
            if op.kind == "load" and op.deps & (REDUCED | INNER):
                self.addresses[i] = w.at(self.bases[op.params], self.offset(self.strides[op.params], dims))
            elif op.kind == "index" and op.deps & (REDUCED | INNER):
                base, *steps = self.op_words[i]
                self.addresses[i] = w.add(base, self.offset(steps, range(dims.stop)))

    def lane_value(self, i: int) -> Scalar:
        return self.body[i] if i in self.body else self.splats[i]

    def _values(
        self, used: list[int], at: Value, mask: Value | None, sums: dict[int, Scalar] | None = None
    ) -> None:
        self.body = dict(sums) if sums else {}
        for i in used:
            op = self.loop.ops[i]
            if i in self.body or not op.deps & (REDUCED | INNER):
                continue
            args = [self.lane_value(a) for a in op.args]
            self.body[i] = self.vector_op(i, op, args, self.addresses.get(i, "0"), at, mask)

    def _finish(self, up: Value, low: Value, high: Value) -> None:
        """Write what follows the reductions: partial results, or everything else and the stores."""
        w, loop = self.w, self.loop
        if self.split:

            def put(at: Value, mask: Value | None) -> None:
                for k, pointer in enumerate(self.partials):
                    x = self._get(0, k, w.sub(at, low))
                    kind = STORED[x.dtype]
                    where = w.let(
                        f"getelementptr {kind}, ptr {pointer}, i64 {w.add(w.mul(up, self.width), at)}"
                    )
                    w.store(vector(kind, LANES), self.vector.pack(x), where, mask, x.dtype.itemsize)

            self._along(low, high, put)
            return
        self._place(self.after, range(self.first, self.first))

        def columns(at: Value, mask: Value | None) -> None:
            sums = {}
            for k, i in enumerate(self.reduces):
                to = loop.ops[i].dtype
                total = self._get(1, k, w.sub(at, low))
                sums[i] = self.vector.rounded(Scalar(total.name, to, LANES), to)
            self._values(self.after, at, mask, sums)
            for n, (i, _) in enumerate(loop.stores):
                access = len(loop.loads) + n
                self._put(access, self.lane_value(i), at, mask)

        self._along(low, high, columns)

    def _put(self, access: int, value: Scalar, at: Value, mask: Value | None) -> None:
        a = self.accesses[access]
        if a.strides[-1]:
            self.store(access, value, self.bases[access], at, mask)
            return
        kind, packed = STORED[a.dtype], self.vector.pack(value)  # a single column
        one = self.w.let(f"extractelement {vector(kind, LANES)} {packed}, i64 0")
        self.w.do(f"store {kind} {one}, ptr {self.bases[access]}")
