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
_NEAR = 8  # columns that are reached from one pointer
_AHEAD = 512  # bytes from what is read to what is asked for: the processor does not follow so many columns
A, B, C, N, K, A_ROW, B_COL, C_ROW, UNITS, BATCH = range(10)  # UNITS: of a matrix


def thin_source(
    target: Target, name: str, rows: int, vectors: int, dtype: DType, out: DType, axes: int, beyond: bool,
    epilogue: Epilogue | None,
) -> str:
    """Return the kernel. A unit is so many vectors of columns; a matrix has the columns of one at least.

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
    # Rows of a block that are transposed at once: fewer registers are in use with two chains of sums.
    part = 16 // size
    piece = max(lanes // vectors, part)
    whole = w.let(f"and i64 {depth}, {-lanes}")
    once = w.mul(b_col, str(of))
    reach = min(lanes, _NEAR)
    steps = {odd: w.mul(once, str(odd)) for odd in range(1, reach, 2)}

    next_unit = w.sub(w.mul(once, str(lanes * vectors)), w.mul(depth, str(size)))  # from the end of a column

    def unit(u: Value) -> list[Value]:
        a, b, shift = first_a, first_b, "0"
        if axes:
            units = w.word("%args", UNITS)
            matrix = w.div(u, units)
            in_a, in_b, shift = matrix_at(w, BATCH, axes, matrix)
            a, b, u = w.at(a, in_a, of), w.at(b, in_b, of), w.sub(u, w.mul(matrix, units))
        lines = [w.at(a, w.mul(a_row, str(r)), of) for r in range(rows)]
        # The last vectors begin early; what is not their own they compute again and do not store.
        own = [w.mul(u, str(lanes * vectors))]
        own += [w.add(own[0], str(lanes * v)) for v in range(1, vectors)]
        cols = [w.min(x, w.sub(n, str(lanes))) for x in own]
        bases = [w.at(w.at(b, w.mul(col, b_col), of), w.mul(once, str(i)))
                 for col in cols for i in range(0, lanes, reach)]

        def place(pointers: Sequence[Value], column: int) -> Value:
            near = column % reach
            odd = steps.get(near)
            if odd is None:  # twice and four times the step are part of an address
                power = near & -near
                odd = w.let(f"shl i64 {steps[near // power]}, {power.bit_length() - 1}") if near else "0"
            return w.at(pointers[column // reach], odd)

        def side_by_side(parts: list[Value]) -> Value:
            one = piece
            while len(parts) > 1:
                order = ", ".join(f"i32 {i}" for i in range(2 * one))
                parts = [w.let(f"shufflevector <{one} x {kind}> {x}, <{one} x {kind}> {y}, <{2 * one} x i32> <{order}>")
                         for x, y in zip(parts[::2], parts[1::2], strict=True)]
                one *= 2
            return parts[0]

        def step(k: Value, columns: Value, sums: Sequence[Value]) -> list[Value]:
            ones = [w.splat(vector, w.let(f"load {kind}, ptr {w.at(line, k, size)}, align {of}")) for line in lines]
            return [multiply_add(w, vector, one, columns, x, of < size) for one, x in zip(ones, sums, strict=True)]

        def block(k: Value, *carried: Value) -> list[Value]:
            # By whole lines: columns often lie a power of two apart, and all in one set of the first-level cache.
            # Or LLVM keeps an address for each column, and most of them in memory.
            pointers = [w.let(f'call ptr asm "", "=r,0"(ptr {p})') for p in carried[:len(bases)]]
            sums = list(carried[len(bases):])
            if beyond:
                ends = w.less(depth, w.add(k, str(_AHEAD // size)))
                ahead = w.select(ends, w.add(next_unit, str(_AHEAD)), str(_AHEAD))
                for c in range(lanes * vectors):
                    w.call("void", "llvm.prefetch.p0", ("ptr", w.at(place(pointers, c), ahead)), ("i32", "0"),
                           ("i32", "2"), ("i32", "1"))
            for at in range(0, lanes, piece):
                for v in range(vectors):
                    turned = transpose(w, vector, [side_by_side([
                        w.load(f"<{piece} x {kind}>", w.at(place(pointers, v * lanes + c), str(at * size)), None, of)
                        for c in range(i // part * part * lanes // piece + i % part, lanes, part)[:lanes // piece]])
                        for i in range(piece)])
                    for i, columns in enumerate(turned, at):
                        sums[v::vectors] = step(w.add(k, str(i)), columns, sums[v::vectors])
            return [*(w.at(p, str(lanes * size)) for p in pointers), *sums]

        def single(k: Value, *carried: Value) -> list[Value]:
            pointers, sums = carried[:len(bases)], list(carried[len(bases):])
            for v in range(vectors):
                columns = "poison"
                for i in range(lanes):
                    one = w.let(f"load {kind}, ptr {place(pointers, v * lanes + i)}, align {of}")
                    columns = w.let(f"insertelement {vector} {columns}, {kind} {one}, i64 {i}")
                sums[v::vectors] = step(k, columns, sums[v::vectors])
            return [*(w.at(p, str(size)) for p in pointers), *sums]

        kinds = ["ptr"] * len(bases) + [vector] * (rows * vectors)
        values = [*bases, *["zeroinitializer"] * (rows * vectors)]
        values = w.loop("0", whole, str(lanes), block, list(zip(kinds, values, strict=True)))
        values = w.loop(whole, depth, "1", single, list(zip(kinds, values, strict=True)))
        for v, (first, col) in enumerate(zip(own, cols, strict=True)):
            seen = w.lane_mask(lanes, w.min(str(lanes), w.sub(first, col)))
            mask = w.let(f"xor <{lanes} x i1> {seen}, splat (i1 true)")
            for r, x in enumerate(values[len(bases) + v::vectors]):
                place_c = w.add(shift, w.add(w.mul(c_row, str(r)), col))
                conclude(Site(w, "%args", BATCH + 4 * axes, str(r), col, place_c, mask, lanes), epilogue, x, acc, out,
                         c, of < size)
        return []
    w.loop("%lo", "%hi", "1", unit)
    return module([w.function(f"void @{name}(ptr %args, i64 %lo, i64 %hi, ptr %scratch) nounwind")], w.declared)
