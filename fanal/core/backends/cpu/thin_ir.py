"""LLVM IR of the product of one to four rows with a matrix whose columns are contiguous: a linear layer on few rows.

Each element of B is used a few times only, so packing it would cost more than the product. Square blocks of B are
transposed in registers and multiplied there, one k after the other: the chain of multiply-adds of an element, and so
its bits, are those of the other products.
"""
from __future__ import annotations

from collections.abc import Sequence

from fanal.core.backends.cpu.epilogue import Epilogue, Site, conclude
from fanal.core.backends.cpu.irtext import SCALAR, Value, Writer, bits, module
from fanal.core.backends.cpu.matmul_ir import matrix_at
from fanal.core.backends.cpu.pack_ir import transpose
from fanal.core.backends.cpu.register_tile_ir import multiply_add
from fanal.core.backends.cpu.target import Target
from fanal.core.base import dtype as dt
from fanal.core.base.dtype import dtype as DType

ROWS = 4  # at the most
_AHEAD = 512  # bytes from what is read to what is asked for: the processor does not follow so many columns
A, B, C, N, K, A_ROW, B_COL, C_ROW, UNITS, BATCH = range(10)  # UNITS: of a matrix


def thin_source(
    target: Target, name: str, rows: int, dtype: DType, out: DType, axes: int, beyond: bool,
    epilogue: Epilogue | None,
) -> str:
    """Return the kernel. A unit is a vector of columns, and a matrix has as many at least.

    The `rows` of A are contiguous along k, which counts words of 32 bits for bfloat16. `axes` is how many there are
    of the batch. beyond: B comes from beyond the second-level cache.
    """
    w = Writer(target, set())
    acc = dt.ACCUMULATE.get(dtype, dtype)
    kind = SCALAR[acc.name]
    size, of = bits(kind) // 8, dtype.itemsize
    lanes = target.lanes(size)
    vector = f"<{lanes} x {kind}>"
    first_a, first_b, c = (w.word("%args", i, True) for i in (A, B, C))
    n, depth, a_row, b_col, c_row = (w.word("%args", i) for i in (N, K, A_ROW, B_COL, C_ROW))
    whole = w.let(f"and i64 {depth}, {-lanes}")
    once = w.mul(b_col, str(of))
    twice = w.mul(once, "2")

    def unit(u: Value) -> list[Value]:
        a, b, shift = first_a, first_b, "0"
        if axes:
            units = w.word("%args", UNITS)
            matrix = w.div(u, units)
            in_a, in_b, shift = matrix_at(w, BATCH, axes, matrix)
            a, b, u = w.at(a, in_a, of), w.at(b, in_b, of), w.sub(u, w.mul(matrix, units))
        lines = [w.at(a, w.mul(a_row, str(r)), of) for r in range(rows)]
        # The last unit begins early; what is not its own it computes again and does not store.
        own = w.mul(u, str(lanes))
        col = w.min(own, w.sub(n, str(lanes)))
        first = w.at(b, w.mul(col, b_col), of)
        bases = [w.at(first, w.mul(once, str(i))) for i in range(0, lanes, 3)]

        def place(pointers: Sequence[Value], column: int) -> Value:
            return w.at(pointers[column // 3], ("0", once, twice)[column % 3])

        def step(k: Value, columns: Value, sums: Sequence[Value]) -> list[Value]:
            ones = [w.splat(vector, w.let(f"load {kind}, ptr {w.at(line, k, size)}, align {of}")) for line in lines]
            return [multiply_add(w, vector, one, columns, x, of < size) for one, x in zip(ones, sums, strict=True)]

        def block(k: Value, *carried: Value) -> list[Value]:
            # By whole lines: columns often lie a power of two apart, and all in one set of the first-level cache.
            pointers, sums = carried[:len(bases)], carried[len(bases):]
            for c in range(lanes if beyond else 0):
                w.call("void", "llvm.prefetch.p0", ("ptr", w.at(place(pointers, c), str(_AHEAD))), ("i32", "0"),
                       ("i32", "3"), ("i32", "1"))
            turned = transpose(w, vector, [w.load(vector, place(pointers, c), None, of) for c in range(lanes)])
            for i, columns in enumerate(turned):
                sums = tuple(step(w.add(k, str(i)), columns, sums))
            return [*(w.at(p, str(lanes * size)) for p in pointers), *sums]

        def single(k: Value, *carried: Value) -> list[Value]:
            pointers, columns = carried[:len(bases)], "poison"
            for i in range(lanes):
                one = w.let(f"load {kind}, ptr {place(pointers, i)}, align {of}")
                columns = w.let(f"insertelement {vector} {columns}, {kind} {one}, i64 {i}")
            return [*(w.at(p, str(size)) for p in pointers), *step(k, columns, carried[len(bases):])]

        kinds = ["ptr"] * len(bases) + [vector] * rows
        values = [*bases, *["zeroinitializer"] * rows]
        values = w.loop("0", whole, str(lanes), block, list(zip(kinds, values, strict=True)))
        values = w.loop(whole, depth, "1", single, list(zip(kinds, values, strict=True)))
        seen = w.lane_mask(lanes, w.sub(own, col))
        mask = w.let(f"xor <{lanes} x i1> {seen}, splat (i1 true)")
        for r, x in enumerate(values[len(bases):]):
            place_c = w.add(shift, w.add(w.mul(c_row, str(r)), col))
            conclude(Site(w, "%args", BATCH + 4 * axes, str(r), col, place_c, mask, lanes), epilogue, x, acc, out, c,
                     of < size)
        return []
    w.loop("%lo", "%hi", "1", unit)
    return module([w.function(f"void @{name}(ptr %args, i64 %lo, i64 %hi, ptr %scratch) nounwind")], w.declared)
