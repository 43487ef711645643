"""LLVM IR for the matrix unit of x86 processors (AMX): bfloat16 and 8-bit products on tiles of 16 rows of 64 bytes.

The unit multiplies words of 32 bits: pairs of bfloat16 or four 8-bit integers, neighbours along k. So an operand is
seen as a matrix of words; k counts words here, in whole tiles of 16, and what is missing of the last is zero. A tile
of A holds 16 rows of 16 words, one of B 16 words of k for 16 columns.

For bfloat16 the sums over even and over odd k of a tile are taken apart in float32, added to each other and then to
C; subnormal numbers count as zero. For integers the result is exact modulo 2**32. Neither depends on where in a tile an
element lies. Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, TDPBF16PS and TDPBSSD.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

from fanal.core.backends.cpu.irtext import Value, Writer

ROWS = 16  # of a tile, and words in each
_BYTES = 64  # of a row
_LEFT, _RIGHT = 4, 5  # tile registers of the operands; those of C come before
MULTIPLY = {
    ("bfloat16", "bfloat16"): "llvm.x86.tdpbf16ps",
    ("int8", "int8"): "llvm.x86.tdpbssd",
    ("int8", "uint8"): "llvm.x86.tdpbsud",
    ("uint8", "int8"): "llvm.x86.tdpbusd",
    ("uint8", "uint8"): "llvm.x86.tdpbuud",
}
SPLIT = ("float32", "float32")  # each the sum of PARTS bfloat16 numbers, which it is exactly
PARTS = 3
# The products of parts that count, from the smallest on; with the two left out go 2**-24 of a product, and less.
SPLIT_PAIRS = [(2, 0), (1, 0), (1, 1), (0, 1), (0, 0), (0, 2)]


def configure(w: Writer) -> None:
    """Give every tile register its full size. Registers are undefined until then, and after `release`."""
    palette = bytes([1, *[0] * 15]) + b"".join(_BYTES.to_bytes(2, "little") for _ in range(8)) + bytes(16)
    text = "".join(f"\\{byte:02X}" for byte in palette + bytes([ROWS] * 8) + bytes(8))
    w.declared.add(f'@tiles = private constant [64 x i8] c"{text}", align 64')
    w.call("void", "llvm.x86.ldtilecfg", ("ptr", "@tiles"))


def release(w: Writer) -> None:
    """Clear the tile registers, so that they need not be saved when threads take turns on a core."""
    w.call("void", "llvm.x86.tilerelease")


def product(w: Writer, dtypes: tuple[str, str], rows: int, vectors: int, a: Value, a_row: Value, a_tile: Value,
            a_next: Value, b: Value, b_step: Value, depth: Value, acc: Value, acc_step: Value, resume: Value,
            parts: Value, between: Callable[[Value], None], past: bool, turned: bool) -> None:
    """Write the product of `rows` x `vectors` tiles into memory, going on from what lies there if `resume`.

    past: B is read past the first-level cache, which is to keep the rows of A. Operands of float32 are split in PARTS,
    and a step of k takes 16 words of each; there the cache is to keep B, and A is read past it.

    Steps are in bytes: of a row of A, of a tile of A to the one below, of A to the next 16 words, of a word of B, of a
    row of C. The loop over k has `parts` parts, one at least, and `between(part)` is written ahead of each: what it
    does for the tiles before is done while the unit multiplies.
    """
    def tile(name: str, register: int, at: Value, step: Value) -> None:
        w.call("void", f"llvm.x86.{name}", ("i8", str(register)), ("ptr", at), ("i64", step))

    places = {(i, j): w.at(w.at(acc, w.mul(acc_step, str(ROWS * i))), str(_BYTES * j))
              for i in range(rows) for j in range(vectors)}

    def each(name: str) -> None:
        for (i, j), place in places.items():
            tile(name, i * vectors + j, place, acc_step)

    def clear() -> None:
        for i, j in places:
            w.call("void", "llvm.x86.tilezero", ("i8", str(i * vectors + j)))
    w.when(resume, lambda: each("tileloadd64"), clear)

    def step(_: Value, a: Value, b: Value) -> Sequence[Value]:
        # One register for each operand, loaded anew whenever another tile of it is wanted, back and forth so that it is
        # seldom: beside another thread of the core, all is the slower the more registers are in use. Where C has but
        # one row of tiles there is one for every tile of B beside it.
        held: dict[int, tuple[int, int]] = {}
        b_next = w.mul(b_step, str(ROWS))
        for p, q in pairs:
            from_a, from_b = w.at(a, w.mul(a_next, str(p))), w.at(b, w.mul(b_next, str(q)))
            for i in range(rows):
                for j in range(vectors)[::-1 if i % 2 else 1]:
                    for register, index, at, across in ((_LEFT, (p, i), w.at(from_a, w.mul(a_tile, str(i))), a_row),
                                                        (right[j], (q, j), w.at(from_b, str(_BYTES * j)), b_step)):
                        if held.get(register) != index:
                            held[register] = index
                            once = register == _LEFT if split else past and register != _LEFT
                            tile("tileloaddt164" if once else "tileloadd64", register, at, across)
                    w.call("void", multiply, ("i8", str(i * vectors + j)), ("i8", str(_LEFT)), ("i8", str(right[j])))
        return w.at(a, w.mul(a_next, str(groups))), w.at(b, w.mul(b_next, str(groups)))

    right = [_RIGHT + (j if rows == 1 else 0) for j in range(vectors)]
    split = dtypes == SPLIT
    pairs, groups = ([pair[::-1] if turned else pair for pair in SPLIT_PAIRS], PARTS) if split else ([(0, 0)], 1)
    multiply = MULTIPLY["bfloat16", "bfloat16"] if split else MULTIPLY[dtypes]
    turn = ROWS * groups  # words of a step of k
    whole = w.mul(parts, str(turn))
    share = w.mul(w.max(w.div(w.add(depth, w.sub(whole, "1")), whole), "1"), str(turn))

    def part(number: Value, *at: Value) -> Sequence[Value]:
        between(number)
        low = w.mul(number, share)
        return w.loop(low, w.min(w.add(low, share), depth), str(turn), step, list(zip(("ptr", "ptr"), at, strict=True)))
    w.loop("0", parts, "1", part, [("ptr", a), ("ptr", b)], once=True)
    each("tilestored64")
