"""LLVM IR that copies operands into the order the register tiles read: panels of B, rows of A, with conversion."""
from __future__ import annotations

import functools
from collections.abc import Callable

from fanal.core.backends.cpu import tiles_ir
from fanal.core.backends.cpu.irtext import SCALAR, Value, Writer, bits, module
from fanal.core.backends.cpu.target import Target

PACK_ROWS = 32  # of an operand whose columns are contiguous, copied at a time: memory is read along its pages
SPLIT_ROWS = tiles_ir.PARTS * tiles_ir.ROWS  # of words, where numbers are split: 32 of an operand
SIDE = 16  # of the blocks of words that the matrix unit takes
_WORDS = f"<{SIDE} x i32>"
_ELEMENT = {"bfloat16": "i16", "int8": "i8", "uint8": "i8"}


def elements_of(w: Writer, words: Value, per_word: int, split: bool) -> Value:
    """Return which element of k the first of `words` holds; a multiple of SPLIT_ROWS where numbers are split."""
    return w.mul(w.div(words, str(tiles_ir.PARTS)), "2") if split else w.mul(words, str(per_word))


def copy_block(w: Writer, source: str, target: str, src: Value, src_row: Value, src_col: Value, dst: Value,
               dst_row: Value, rows: Value, cols: Value, unit: bool) -> None:
    """Write a copy of a rows x cols block with conversion. Steps in elements; `unit`: src_col is 1."""
    size, wide = bits(source) // 8, bits(target) // 8
    lanes = w.target.lanes(wide)

    def one(row_src: Value, row_dst: Value, c: Value) -> list[Value]:
        x = w.let(f"load {source}, ptr {w.at(row_src, w.mul(c, src_col), size)}")
        w.do(f"store {target} {w.cast(source, target, x)}, ptr {w.at(row_dst, c, wide)}")
        return []

    def many(row_src: Value, row_dst: Value, c: Value, mask: Value | None) -> list[Value]:
        x = w.load(f"<{lanes} x {source}>", w.at(row_src, c, size), mask)
        w.store(f"<{lanes} x {target}>", w.cast(f"<{lanes} x {source}>", f"<{lanes} x {target}>", x),
                w.at(row_dst, c, wide), mask)
        return []

    def row(r: Value) -> list[Value]:
        row_src, row_dst = w.at(src, w.mul(r, src_row), size), w.at(dst, w.mul(r, dst_row), wide)
        tail = "0"
        if unit:
            tail = w.let(f"and i64 {cols}, {-lanes}")
            w.loop("0", tail, str(lanes), lambda c: many(row_src, row_dst, c, None))
            if w.target.masks:
                rest = w.sub(cols, tail)
                w.when(w.less("0", rest), lambda: many(row_src, row_dst, tail, w.lane_mask(lanes, rest)))
                return []
        w.loop(tail, cols, "1", lambda c: one(row_src, row_dst, c))
        return []
    w.loop("0", rows, "1", row)


def pack_panel(w: Writer, form: str, source: str, target: str, vectors: int, src: Value, src_k: Value,
               src_col: Value, dst: Value, depth: Value, cols: Value) -> None:
    """Write the packing of one panel of B: depth x (vectors*lanes). Steps in elements.

    Missing columns get finite numbers of no meaning.
    `form` names the contiguous axis: "n" copies rows, "k" transposes register blocks, "any" goes by elements.
    """
    size, wide = bits(source) // 8, bits(target) // 8
    lanes = w.target.lanes(wide)
    width = lanes * vectors
    from_, to = f"<{lanes} x {source}>", f"<{lanes} x {target}>"

    def rows(masks: list[Value] | None) -> None:
        def row(_: Value, src: Value, dst: Value) -> list[Value]:
            for j in range(vectors):
                x = w.load(from_, w.at(src, str(j * lanes), size), masks[j] if masks else None)
                w.store(to, w.cast(from_, to, x), w.at(dst, str(j * lanes), wide))
            return [w.at(src, src_k, size), w.at(dst, str(width), wide)]
        w.loop("0", depth, "1", row, [("ptr", src), ("ptr", dst)])

    def elements(k_from: Value, col_from: Value, span: int) -> None:
        """Columns col_from.. of rows k_from.. one by one."""
        here = w.max(w.min(w.sub(cols, col_from), str(span)), "0")

        def row(k: Value) -> list[Value]:
            out = w.at(dst, w.add(w.mul(k, str(width)), col_from), wide)
            at = w.at(src, w.add(w.mul(k, src_k), w.mul(col_from, src_col)), size)

            def one(c: Value) -> list[Value]:
                x = w.let(f"load {source}, ptr {w.at(at, w.mul(c, src_col), size)}")
                w.do(f"store {target} {w.cast(source, target, x)}, ptr {w.at(out, c, wide)}")
                return []

            def zero(c: Value) -> list[Value]:
                w.do(f"store {target} 0.0, ptr {w.at(out, c, wide)}")
                return []
            w.loop("0", here, "1", one)
            w.loop(here, str(span), "1", zero)
            return []
        w.loop(k_from, depth, "1", row)

    def group(col: Value) -> list[Value]:
        whole = w.let(f"and i64 {depth}, {-lanes}")
        whole = w.select(w.less(col, cols), whole, "0")
        column = w.at(src, w.mul(col, src_col), size)
        last = w.sub(w.sub(cols, "1"), col)

        def block(k: Value) -> list[Value]:
            at = w.at(column, k, size)
            # Missing columns repeat the last one.
            places = [w.mul(w.min(str(c), last), src_col) for c in range(lanes)]
            x = [w.cast(from_, to, w.load(from_, w.at(at, place, size))) for place in places]
            for r, y in enumerate(transpose(w, to, x)):
                line = w.mul(w.add(k, str(r)), str(width))
                w.store(to, y, w.at(dst, w.add(line, col), wide))
            return []
        w.loop("0", whole, str(lanes), block)
        elements(whole, col, lanes)
        return []

    if form == "n":
        def partial() -> None:
            rows([w.lane_mask(lanes, w.sub(cols, str(j * lanes))) for j in range(vectors)])
        w.when(w.less(cols, str(width)), partial, lambda: rows(None))
    elif form == "any":
        elements("0", "0", width)
    else:
        w.loop("0", str(width), str(lanes), group)


def pack_words(w: Writer, form: str, dtype: str, vectors: int, src: Value, src_k: Value, src_line: Value, dst: Value,
               depth: Value, left: Value, lines: Value, right: bool) -> None:
    """Write the packing of 16*vectors lines (rows of A, or columns of B if `right`) of `depth` words.

    Steps are in elements. `form` names the contiguous axis: "k", "n" the lines, "any" neither. Elements from the
    `left`-th on are zero, lines from the `lines`-th on arbitrary. A comes out as tiles, those of the next 16 words
    after those of all lines; B as `depth` rows of words.
    """
    kind = _ELEMENT[dtype]
    wide = int(kind[1:])
    size, each = wide // 8, 32 // wide  # bytes of an element, elements of a word

    def along(k: Value, line: Value) -> list[Value]:
        """Return 16 lines of 16 words."""
        mask = w.lane_mask(SIDE * each, w.sub(left, w.mul(k, str(each))))
        found = []
        for r in range(SIDE):
            place = w.mul(w.min(w.add(line, str(r)), w.sub(lines, "1")), src_line)
            x = w.load(f"<{SIDE * each} x {kind}>", w.at(w.at(src, place, size), k, 4), mask)
            found.append(w.let(f"bitcast <{SIDE * each} x {kind}> {x} to {_WORDS}"))
        return found

    def across(k: Value, line: Value) -> list[Value]:
        """Return 16 words of 16 lines."""
        found, mask = [], w.lane_mask(SIDE, w.sub(lines, line))
        for r in range(SIDE):
            word = "zeroinitializer"
            for part in range(each):
                at = w.add(w.mul(w.add(k, str(r)), str(each)), str(part))
                inside = w.less(at, left)
                row = w.at(src, w.mul(at, src_k), size)
                if form == "n":
                    here = w.select(inside, mask, "zeroinitializer", f"<{SIDE} x i1>")
                    x = w.load(f"<{SIDE} x {kind}>", w.at(row, line, size), here)
                else:
                    x = elements(w.select(inside, row, src, "ptr"), line)
                    x = w.select(inside, x, "zeroinitializer", f"<{SIDE} x {kind}>")
                x = w.let(f"zext <{SIDE} x {kind}> {x} to {_WORDS}")
                if part:
                    x = w.let(f"shl {_WORDS} {x}, splat (i32 {part * wide})")
                    x = w.let(f"or {_WORDS} {word}, {x}")
                word = x
            found.append(word)
        return found

    def elements(row: Value, line: Value) -> Value:
        x = "poison"
        for r in range(SIDE):
            place = w.mul(w.min(w.add(line, str(r)), w.sub(lines, "1")), src_line)
            one = w.let(f"load {kind}, ptr {w.at(row, place, size)}")
            x = w.let(f"insertelement <{SIDE} x {kind}> {x}, {kind} {one}, i64 {r}")
        return x

    def block(k: Value, line: Value) -> list[Value]:
        words = (along if form == "k" else across)(k, line)
        if right == (form == "k"):
            words = transpose(w, _WORDS, words)
        row = SIDE * vectors if right else SIDE  # words from one to the next
        at = w.at(w.at(dst, w.mul(k, str(SIDE * vectors)), 4), w.mul(line, "1" if right else str(SIDE)), 4)
        for r, x in enumerate(words):
            w.store(_WORDS, x, w.at(at, str(row * r), 4), None, 64)
        return []

    def blocks(k: Value) -> list[Value]:
        w.loop("0", str(SIDE * vectors), str(SIDE), functools.partial(block, k))
        return []
    w.loop("0", depth, str(SIDE), blocks)


def float_parts(w: Writer, x: Value) -> list[Value]:
    """Return the parts of floats, as floats: two of 8 bits, the nearest, and what is left, which has no more.

    Of infinity and NaN, which are no sum of such parts, the last is NaN.
    """
    vector, found = f"<{SIDE} x float>", []
    for _ in range(tiles_ir.PARTS - 1):
        y = w.let(f"add {_WORDS} {w.let(f'bitcast {vector} {x} to {_WORDS}')}, splat (i32 32768)")
        y = w.let(f"bitcast {_WORDS} {w.let(f'and {_WORDS} {y}, splat (i32 -65536)')} to {vector}")
        x = w.let(f"fsub {vector} {x}, {y}")
        found.append(y)
    return [*found, x]


def pack_parts(w: Writer, form: str, vectors: int, src: Value, src_k: Value, src_line: Value, dst: Value,
               depth: Value, left: Value, lines: Value, right: bool) -> None:
    """Write the packing of float32 in parts of bfloat16: as `pack_words`, but 16 words of every part in turn.

    A word holds the numbers at k and at k + 16.
    """
    vector = f"<{SIDE} x float>"
    row = SIDE * vectors if right else SIDE  # words from one to the next

    def block(k: Value, line: Value) -> list[Value]:
        first = elements_of(w, k, 0, True)
        at = w.at(w.at(dst, w.mul(k, str(SIDE * vectors)), 4), w.mul(line, "1" if right else str(SIDE)), 4)

        inside = w.lane_mask(SIDE, w.sub(lines, line))

        def read(r: Value, half: int) -> Value:
            """Return the r-th line along k, or all lines at the r-th k."""
            begin = w.add(first, str(SIDE * half))
            if form == "k":
                place = w.add(w.mul(w.min(w.add(line, r), w.sub(lines, "1")), src_line), begin)
                return w.load(vector, w.at(src, place, 4), w.lane_mask(SIDE, w.sub(left, begin)), 4)
            here = w.add(begin, r)
            there = w.less(here, left)
            if form == "n":
                mask = w.select(there, inside, "zeroinitializer", f"<{SIDE} x i1>")
                return w.load(vector, w.at(src, w.add(w.mul(here, src_k), line), 4), mask, 4)
            x = "poison"
            for n in range(SIDE):
                place = w.add(w.mul(w.select(there, here, "0"), src_k),
                              w.mul(w.min(w.add(line, str(n)), w.sub(lines, "1")), src_line))
                one = w.let(f"load float, ptr {w.at(src, place, 4)}")
                x = w.let(f"insertelement {vector} {x}, float {one}, i64 {n}")
            return w.select(there, x, "zeroinitializer", vector)

        def finish(r: Value, low: Value, high: Value) -> list[Value]:
            to = w.at(at, w.mul(r, str(row)), 4)
            for part, pair in enumerate(zip(float_parts(w, low), float_parts(w, high), strict=True)):
                x, y = (w.let(f"bitcast {vector} {half} to {_WORDS}") for half in pair)
                x, y = w.let(f"lshr {_WORDS} {x}, splat (i32 16)"), w.let(f"and {_WORDS} {y}, splat (i32 -65536)")
                at_part = w.at(to, str(part * SIDE * SIDE * vectors), 4)
                w.store(_WORDS, w.let(f"or {_WORDS} {x}, {y}"), at_part, None, 64)
            return []
        if right == (form == "k"):
            low, high = (transpose(w, vector, [read(str(r), half) for r in range(SIDE)]) for half in (0, 1))
            for r in range(SIDE):
                finish(str(r), low[r], high[r])
        else:
            w.loop("0", str(SIDE), "1", lambda r: finish(r, read(r, 0), read(r, 1)))
        return []

    def blocks(k: Value) -> list[Value]:
        w.loop("0", str(SIDE * vectors), str(SIDE), functools.partial(block, k))
        return []
    w.loop("0", depth, str(SPLIT_ROWS), blocks)


def sums_again(w: Writer, a: Value, a_k: Value, b: Value, b_k: Value, b_col: Value, n: Value, depth: Value, col: Value,
               at: Value, inside: Value) -> None:
    """Write the computing, by multiply-adds of whole numbers, of those of 16 sums at `at` that are NaN.

    Infinity and NaN have no parts, so that what depends on them is NaN. It ends when all of these stay NaN.
    """
    vector, places, flags = f"<{SIDE} x float>", f"<{SIDE} x i64>", f"<{SIDE} x i1>"
    x = w.load(vector, at, None, 4)
    wrong = w.let(f"and {flags} {inside}, {w.let(f'fcmp uno {vector} {x}, zeroinitializer')}")

    def some(which: Value) -> Value:
        return w.let(f"icmp ne i{SIDE} {w.let(f'bitcast {flags} {which} to i{SIDE}')}, 0")

    def again() -> None:
        steps = ", ".join(f"i64 {i}" for i in range(SIDE))
        column = w.let(f"add {places} {w.splat(places, col)}, <{steps}>")
        column = w.call(places, f"llvm.smin.v{SIDE}i64", (places, column), (places, w.splat(places, w.sub(n, "1"))))
        column = w.let(f"mul {places} {column}, {w.splat(places, b_col)}")

        def step(k: Value, sums: Value) -> tuple[list[Value], Value]:
            one = w.splat(vector, w.let(f"load float, ptr {w.at(a, w.mul(k, a_k), 4)}"))
            row = w.let(f"getelementptr float, ptr {w.at(b, w.mul(k, b_k), 4)}, {places} {column}")
            y = w.call(vector, f"llvm.masked.gather.v{SIDE}f32.v{SIDE}p0", (f"<{SIDE} x ptr>", row), ("i32", "4"),
                       (flags, "splat (i1 true)"), (vector, "zeroinitializer"))
            sums = w.fma(vector, one, y, sums)
            more = some(w.let(f"and {flags} {wrong}, {w.let(f'fcmp ord {vector} {sums}, zeroinitializer')}"))
            k = w.add(k, "1")
            return [k, sums], w.let(f"and i1 {more}, {w.less(k, depth)}")
        _, sums = w.repeat("true", step, [("i64", "0"), (vector, "zeroinitializer")])
        w.store(vector, sums, at, wrong, 4)
    w.when(some(wrong), again)


def _pair(w: Writer, vector: str, a: Value, b: Value, order: Callable[[int], int]) -> Value:
    """Shuffle two registers; `order(i)` is the source of lane i, lanes of b counting from those of a."""
    n = int(vector[1:].split(" ")[0])
    lanes = ", ".join(f"i32 {order(i)}" for i in range(n))
    return w.let(f"shufflevector {vector} {a}, {vector} {b}, <{n} x i32> <{lanes}>")


def transpose_parts(w: Writer, vector: str, rows: list[Value]) -> list[Value]:
    """Transpose the square blocks that lie in 128 bits of registers, as many registers as elements, or of groups."""
    n = int(vector[1:].split(" ")[0])
    part = min(n, 128 // bits(vector))  # elements in 128 bits
    pair = functools.partial(_pair, w, vector)

    def interleave(rows: list[Value], group: int) -> list[Value]:
        # Lanes of two registers by turns, `group` at a time, from the low and the high half of every part.
        new = list(rows)
        for i in range(0, len(rows), 2 * group):
            for j in range(group):
                for half in (0, 1):
                    def order(x: int, half: int = half) -> int:
                        block, at = divmod(x % part, group)
                        return x // part * part + half * part // 2 + block // 2 * group + at + block % 2 * n
                    new[i + 2 * j + half] = pair(rows[i + j], rows[i + j + group], order)
        return new
    group = 1
    while group < part:
        rows = interleave(rows, group)
        group *= 2
    return rows


def transpose(w: Writer, vector: str, rows: list[Value]) -> list[Value]:
    """Transpose square register blocks: inside quarters of 128 bits by interleaving, then the quarters.

    A block has as many rows as are given. Of those that registers hold side by side, row i of a block k is row
    (i // part * blocks + k) * part + i % part of the result, where part is how many elements are in 128 bits.
    """
    lanes = int(vector[1:].split(" ")[0])
    part = min(len(rows), 128 // bits(vector))
    half = lanes // part // 2

    def pick(a: Value, b: Value, odd: int) -> Value:
        """Return every other part of a, and then of b."""
        def order(x: int) -> int:
            return (x // part % half * 2 + odd) * part + x % part + x // part // half * lanes
        return _pair(w, vector, a, b, order)

    def apart(groups: list[list[Value]]) -> list[list[Value]]:
        if len(groups) == 1:
            return groups
        even, odd = (apart([[pick(x, y, which) for x, y in zip(a, b, strict=True)]
                            for a, b in zip(groups[::2], groups[1::2], strict=True)]) for which in (0, 1))
        return [group for both in zip(even, odd, strict=True) for group in both]
    rows = transpose_parts(w, vector, rows)
    return [x for group in apart([rows[i:i + part] for i in range(0, len(rows), part)]) for x in group]


def pack_source(target: Target, name: str, form: str, source: str, acc: str, vectors: int, batch: int,
                words: bool) -> str:
    """Return the kernel that packs B into panels, by elements or in words for the matrix unit.

    Units are batch x pieces: a panel where columns are contiguous, PACK_ROWS rows of every panel otherwise, so
    that memory is read along its pages. Words: B, packed, N, K, step of k, step of n, pieces, panels, elements of k
    (K counts words then), (extent, step) of every batch axis.
    """
    declared: set[str] = set()
    w = Writer(target, declared)
    size = bits(SCALAR[source]) // 8
    wide = bits(SCALAR[acc]) // 8
    width = target.lanes(wide) * vectors
    split = words and (source, acc) == tiles_ir.SPLIT
    b, packed = w.word("%args", 0, True), w.word("%args", 1, True)
    n, depth, step_k, step_n, pieces, panels = (w.word("%args", i) for i in range(2, 8))
    one = w.mul(depth, str(width))

    def unit(u: Value) -> list[Value]:
        rest, piece, out = "0", u, packed
        at = b
        if batch:
            rest = w.div(u, pieces)
            piece = w.sub(u, w.mul(rest, pieces))
            out = w.at(packed, w.mul(w.mul(rest, panels), one), wide)
            for i in reversed(range(batch)):
                index = rest
                if i:
                    extent = w.word("%args", 9 + 2 * i)
                    index = w.let(f"urem i64 {rest}, {extent}")
                    rest = w.div(rest, extent)
                at = w.at(at, w.mul(index, w.word("%args", 10 + 2 * i)), size)

        def panel(p: Value, k0: Value, rows: Value) -> list[Value]:
            col = w.mul(p, str(width))
            first = elements_of(w, k0, wide // size if words else 1, split)
            src = w.at(at, w.add(w.mul(col, step_n), w.mul(first, step_k)), size)
            dst = w.at(out, w.add(w.mul(p, one), w.mul(k0, str(width))), wide)
            lines = w.min(w.sub(n, col), str(width))
            if words:
                left = w.sub(w.word("%args", 8), first)
                if split:
                    pack_parts(w, form, vectors, src, step_k, step_n, dst, rows, left, lines, True)
                else:
                    pack_words(w, form, source, vectors, src, step_k, step_n, dst, rows, left, lines, True)
            else:
                pack_panel(w, form, SCALAR[source], SCALAR[acc], vectors, src, step_k, step_n, dst, rows, lines)
            return []
        if form == "k":
            panel(piece, "0", depth)
        else:
            most = str(SPLIT_ROWS if split else PACK_ROWS)
            k0 = w.mul(piece, most)
            rows = w.min(w.sub(depth, k0), most)
            w.loop("0", panels, "1", lambda p: panel(p, k0, rows))
        return []
    w.loop("%lo", "%hi", "1", unit)
    return module([w.function(f"void @{name}(ptr %args, i64 %lo, i64 %hi, ptr %scratch) nounwind")], declared)
