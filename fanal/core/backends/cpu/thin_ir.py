"""LLVM IR of the product of one to four rows with a matrix whose columns are contiguous: a linear layer on few rows.

Each element of B is used a few times only, so packing it would cost more than the product. Small blocks of B are
transposed in registers and multiplied there, one k after the other: the chain of multiply-adds of an element, and so
its bits, are those of the other products.
"""
from __future__ import annotations

from collections.abc import Sequence

from fanal.core.backends.cpu.epilogue import Epilogue, Site, conclude
from fanal.core.backends.cpu.irtext import SCALAR, Value, Writer, bits, module
from fanal.core.backends.cpu.matmul_ir import matrix_at
from fanal.core.backends.cpu.pack_ir import transpose_parts
from fanal.core.backends.cpu.target import Target
from fanal.core.base.dtype import dtype as DType

ROWS = 4  # at the most
GROUPS = 2  # vectors of columns in a unit: two chains of additions hide each other's latency
A, B, C, N, K, A_ROW, B_COL, C_ROW, UNITS, BATCH = range(10)  # UNITS: of a matrix


def thin_source(
    target: Target, name: str, rows: int, acc: DType, out: DType, axes: int, epilogue: Epilogue | None
) -> str:
    """Return the kernel. A unit is GROUPS vectors of columns, and a matrix has as many at least.

    The `rows` of A are contiguous along k. `axes` is how many there are of the batch.
    """
    w = Writer(target, set())
    kind = SCALAR[acc.name]
    size = bits(kind) // 8
    lanes = target.lanes(size)
    vector = f"<{lanes} x {kind}>"
    first_a, first_b, c = (w.word("%args", i, True) for i in (A, B, C))
    n, depth, a_row, b_col, c_row = (w.word("%args", i) for i in (N, K, A_ROW, B_COL, C_ROW))
    part, span = 16 // size, GROUPS * lanes
    short = f"<{part} x {kind}>"
    whole = w.let(f"and i64 {depth}, {-lanes}")
    once = w.mul(b_col, str(size))
    twice = w.mul(once, "2")

    def unit(u: Value) -> list[Value]:
        a, b, shift = first_a, first_b, "0"
        if axes:
            units = w.word("%args", UNITS)
            matrix = w.div(u, units)
            in_a, in_b, shift = matrix_at(w, BATCH, axes, matrix)
            a, b, u = w.at(a, in_a, size), w.at(b, in_b, size), w.sub(u, w.mul(matrix, units))
        lines = [w.at(a, w.mul(a_row, str(r)), size) for r in range(rows)]
        # The last unit begins early; what is not its own it computes again and does not store.
        own = w.mul(u, str(span))
        col = w.min(own, w.sub(n, str(span)))
        first = w.at(b, w.mul(col, b_col), size)
        bases = [w.at(first, w.mul(once, str(i))) for i in range(0, span, 3)]

        def place(pointers: Sequence[Value], column: int, k: int) -> Value:
            return w.at(w.at(pointers[column // 3], ("0", once, twice)[column % 3]), str(k * size))

        def step(k: Value, columns: list[Value], sums: list[Value]) -> list[Value]:
            new = list(sums)
            for r, line in enumerate(lines):
                x = w.splat(vector, w.let(f"load {kind}, ptr {w.at(line, k, size)}"))
                for g, column in enumerate(columns):
                    new[r * GROUPS + g] = w.fma(vector, x, column, sums[r * GROUPS + g])
            return new

        def block(k: Value, *carried: Value) -> list[Value]:
            pointers, sums = carried[:len(bases)], list(carried[len(bases):])
            for some in range(0, lanes, part):
                turned = []
                for g in range(GROUPS):
                    pieces = [w.load(short, place(pointers, g * lanes + c, some), None, size) for c in range(lanes)]
                    # Register j holds columns j, j + part, j + 2*part, ... so that transposing stays in parts.
                    turned.append(transpose_parts(w, vector, [join(pieces[j::part]) for j in range(part)]))
                for i in range(part):
                    sums = step(w.add(k, str(some + i)), [x[i] for x in turned], sums)
            return [*(w.at(p, str(lanes * size)) for p in pointers), *sums]

        def join(x: list[Value]) -> Value:
            """Concatenate registers of a power of two."""
            wide = part
            while len(x) > 1:
                of, wide = f"<{wide} x {kind}>", 2 * wide
                order = ", ".join(f"i32 {i}" for i in range(wide))
                x = [w.let(f"shufflevector {of} {p}, {of} {q}, <{wide} x i32> <{order}>")
                     for p, q in zip(x[::2], x[1::2], strict=True)]
            return x[0]

        def single(k: Value, *carried: Value) -> list[Value]:
            pointers, columns = carried[:len(bases)], []
            for g in range(GROUPS):
                column = "poison"
                for i in range(lanes):
                    one = w.let(f"load {kind}, ptr {place(pointers, g * lanes + i, 0)}")
                    column = w.let(f"insertelement {vector} {column}, {kind} {one}, i64 {i}")
                columns.append(column)
            return [*(w.at(p, str(size)) for p in pointers), *step(k, columns, list(carried[len(bases):]))]

        kinds = ["ptr"] * len(bases) + [vector] * (rows * GROUPS)
        values = [*bases, *["zeroinitializer"] * (rows * GROUPS)]
        values = w.loop("0", whole, str(lanes), block, list(zip(kinds, values, strict=True)))
        values = w.loop(whole, depth, "1", single, list(zip(kinds, values, strict=True)))
        skip = w.sub(own, col)
        masks = [w.let(f"xor <{lanes} x i1> {w.lane_mask(lanes, w.sub(skip, str(g * lanes)))}, splat (i1 true)")
                 for g in range(GROUPS)]
        for r in range(rows):
            for g, mask in enumerate(masks):
                at = w.add(col, str(g * lanes))
                place_c = w.add(shift, w.add(w.mul(c_row, str(r)), at))
                site = Site(w, "%args", BATCH + 4 * axes, str(r), at, place_c, mask, lanes)
                conclude(site, epilogue, values[len(bases) + r * GROUPS + g], acc, out, c)
        return []
    w.loop("%lo", "%hi", "1", unit)
    return module([w.function(f"void @{name}(ptr %args, i64 %lo, i64 %hi, ptr %scratch) nounwind")], w.declared)
