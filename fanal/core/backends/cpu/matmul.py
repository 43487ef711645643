"""Plans matrix products: chooses register tile, packing and blocking, and lays out the launches."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import prod

from fanal.core.backends.contract import Buf, Kernel, Launch, Temp
from fanal.core.backends.cpu import jit, pack_ir, thin_ir, tiles_ir
from fanal.core.backends.cpu import target as targets
from fanal.core.backends.cpu.epilogue import Epilogue
from fanal.core.backends.cpu.matmul_ir import product_source
from fanal.core.backends.cpu.register_tile_ir import Spec, heights
from fanal.core.backends.cpu.target import Target
from fanal.core.base import dtype as dt
from fanal.core.base.dim import Dim, fixed, plain, plainly
from fanal.core.compiler.graph import Split

TILED = frozenset((dt.by_name(a), dt.by_name(b)) for a, b in tiles_ir.MULTIPLY)  # operands of the matrix unit
TEMP_IDS: Iterator[int] = itertools.count(-1, -1)

# Rows of the register tile for each number of vector columns: accumulators, a row of B and one splat must fit.
_HEIGHTS = {32: {1: 14, 2: 14, 3: 9, 4: 6, 5: 5, 8: 2}, 16: {1: 8, 2: 6, 3: 4, 4: 2}}
_TALL_VECTORS = 2  # of a tall one
_EDGE = 1.2  # of the time that its columns would take otherwise
# An output of fewer rows is fitted exactly. Others take the tile that is best by proportion, whatever their rows, so
# that a last partial batch finds the kernels of the others.
_EXACT_ROWS = 14
# B is read in place, when its rows are contiguous, up to half of the second-level cache; or up to this where more rows
# use it, or to the last where few rows of B share a page, or A is read transposed: its k is then often a batch, and
# a last partial one is to find the same kernels.
_OFTEN, _OFTEN_BYTES, _FAR_BYTES = 64, 128 << 10, 32 << 10
_OFTEN_COLS = 512  # columns from which A is packed, so that loads of it need fewer instructions,
_LARGE_COLS = 200  # or where it has many rows,
_AGAIN = 64  # or above which where its rows or steps of k are far apart:
_FAR_ROWS = 4096  # bytes between rows that fall on the same lines of the first-level cache
_FAR_PAGES = 4 << 20  # bytes between the first and the last step of k, on more pages than address translation holds,
# or twice what the second-level cache holds: it keeps few lines that are a power of two apart
# Where no copies are made, the tile of two vector columns: its rows may all fall on the same lines of that cache.
_LOW = {32: 8, 16: 6}
_ONE_ROW = (1, 8)  # the tile of a single row: as many sums as hide the latency of an addition
_PAGE = 4096
_SHORT, _LINE = 32, 1024  # rows and columns that a unit of it takes at a time
_UNIT_FLOPS = 1 << 18  # least work worth a unit of its own
_THREADS = 64  # that many units are to divide over, and so over 32, 16, 8
# Most work of a unit, by the contiguous axis of A: where its rows lie across memory, more of each line is used at once.
_LARGEST = {"k": 1 << 22, "m": 1 << 23}
_LARGEST_TILES = 1 << 28  # with the matrix unit
# Each panel of B is packed by the unit that uses it up to this many rows; or up to more of them, without and with the
# matrix unit, where A is so small that it stays in the second-level cache and a panel is no large part of the work.
_UNIT_PACK_ROWS, _MOST_PACK_ROWS, _PACK_PANELS, _HOME_BYTES = 140, {False: 480, True: 256}, 6, 1 << 20
_PANEL_BYTES = 512 << 10  # of B that multiply-adds take in one, if half of the second-level cache holds it,
_DEEPER = 3  # or as many times more where the rows of few tiles would be a single unit of work
_MANY_ROWS = 1 << 16  # more than any of these bounds
_LEAST_ROWS = 224  # of a unit when K is blocked, if there are: they share what is read of B
_LEAST_SPLIT = 64  # the same where numbers are split
_UNIT_ROWS = 240  # of a unit, or fewer so that their part of A stays in the second-level cache
_TILE_ROWS = {False: 128, True: 480}  # the same with the matrix unit, where B stays in that cache and where not
_PARTIAL_COLS = 512  # columns of a unit when K is blocked: their partial sums stay there too


@dataclass(frozen=True)
class Operand:
    """A matrix, or a stack of them, in a value's buffer. Strides and offset are in elements."""

    value_id: int
    dtype: dt.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    fixed: bool = False  # the same for many runs

    @property
    def buf(self) -> Buf:
        return Buf(self.value_id, self.offset * self.dtype.itemsize)


@dataclass
class Problem:
    """One product after the batch axes are merged. Strides in elements, batch as (extent, a, b, c)."""

    m: int
    n: int
    k: int
    a: tuple[int, int]  # steps of m, k
    b: tuple[int, int]  # steps of k, n
    c: int  # step of m
    batch: list[tuple[int, int, int, int]]

    def text(self) -> str:
        """Return its sizes, to be read."""
        batch = "x".join(str(plain(e)) for e, *_ in self.batch)
        return f"{batch} {plain(self.m)}x{plain(self.k)}x{plain(self.n)}".lstrip()


def matmul_launches(
    a: Operand, b: Operand, out: Operand, epilogue: Epilogue | None = None, target: Target | None = None,
    sparing: bool = False, split: Split | None = None
) -> list[Temp | Launch]:
    """Return what computes `out = epilogue(a @ b)`: temporary buffers first, then launches in order.

    sparing: rather by the kernels that there are, of products with more or fewer rows, than by others.
    split: float32 may be split for the matrix unit; then sums do not run in order.

    Shapes: a (*batch, M, K), b (*batch, K, N), out (*batch, M, N); batch axes of a and b broadcast.
    Dtypes: float32, float64, float16, bfloat16; half types are accumulated in float32. Sums run over k in order. With a
    matrix unit also int8 and uint8, in any pair, accumulated in int32.
    Raises ValueError when out is not contiguous along N or more than three batch axes remain after merging,
    TypeError for other dtypes.
    """
    target = target or targets.host()
    tiled = target.tiles and (a.dtype, b.dtype) in TILED
    split = split if target.tiles else None
    for operand in (a, b):
        if operand.dtype not in (dt.float32, dt.float64, dt.float16, dt.bfloat16) and not tiled:
            raise TypeError(f"matmul kernels take floating-point operands, got {operand.dtype}")
    acc = _accumulator(a.dtype)
    if _accumulator(b.dtype) is not acc:
        raise TypeError(f"matmul operands must share an accumulator type, got {a.dtype} and {b.dtype}")
    if 0 in out.shape:
        return []
    if epilogue is None and out.strides[-1] != 1 and out.strides[-2] == 1 and out.shape[-1] > 1:
        a, b, out, split = _transposed(b), _transposed(a), _transposed(out), split and split.turned()
    p = _problem(a, b, out)
    if plain(p.m) == 1:  # a name that is one is so whenever its plan serves: a single row has kernels of its own
        p.m = fixed(p.m)
    rows = p.m if type(p.m) is not Dim else max(plain(p.m), _EXACT_ROWS)
    few = split is None or split.few
    if few and _thin(p, a, b, acc, target):
        best: list[Temp | Launch] = [_thin_launch(p, a, b, out, acc, epilogue, target)]
    else:
        best = _plan(p, a, b, out, acc, epilogue, target, rows, None if few else split)
    if sparing and not _known(best):
        for how in dict.fromkeys((None, split) if few else (split,)):
            for rows in (_MANY_ROWS, _MOST_PACK_ROWS[tiled], _UNIT_PACK_ROWS, _OFTEN):
                other = _plan(p, a, b, out, acc, epilogue, target, rows, how)
                if _known(other):
                    return other
    return best


def _known(plan: list[Temp | Launch]) -> bool:
    return all(jit.known(step.kernel.name) for step in plan if isinstance(step, Launch))


def _accumulator(dtype: dt.dtype) -> dt.dtype:
    return dt.int32 if dtype.itemsize == 1 else dt.ACCUMULATE.get(dtype, dtype)


def _transposed(x: Operand) -> Operand:
    return replace(
        x,
        shape=(*x.shape[:-2], x.shape[-1], x.shape[-2]),
        strides=(*x.strides[:-2], x.strides[-1], x.strides[-2]),
    )


def _problem(a: Operand, b: Operand, out: Operand) -> Problem:
    """Check shapes, broadcast and merge batch axes, and fold them into the rows where the layout allows."""
    *outer, m, n = out.shape
    k = a.shape[-1]
    if a.shape[-2] != m or b.shape[-2:] != (k, n):
        raise ValueError(f"matmul shapes do not fit: {a.shape} @ {b.shape} -> {out.shape}")
    if n > 1 and out.strides[-1] != 1:
        raise ValueError(
            f"the output of a matmul kernel is contiguous along its last axis, got strides {out.strides}"
        )
    batch: list[tuple[int, int, int, int]] = []
    for axis, extent in enumerate(outer):
        steps = []
        for x in (a, b, out):
            i = axis - len(outer) + len(x.shape) - 2
            steps.append(x.strides[i] if i >= 0 and x.shape[i] != 1 else 0)
        if extent == 1:
            continue
        if batch and all(old == new * extent for old, new in zip(batch[-1][1:], steps, strict=True)):
            batch[-1] = (batch[-1][0] * extent, *steps)  # type: ignore[assignment]
        else:
            batch.append((extent, *steps))  # type: ignore[arg-type]
    a_m, a_k = a.strides[-2:]
    c_m = out.strides[-2]
    if m == 1 and batch and batch[-1][2] == 0:
        a_m, c_m = batch[-1][1], batch[-1][3]
        m = batch.pop()[0]
    while batch and batch[-1][2] == 0 and batch[-1][1] == a_m * m and batch[-1][3] == c_m * m:
        m *= batch.pop()[0]
    if len(batch) > 3:
        raise ValueError(
            f"matmul kernels take up to three batch axes, {len(batch)} remain of {a.shape} @ {b.shape}"
        )
    # The step of an axis of extent one is free: call it contiguous.
    return Problem(
        m,
        n,
        k,
        (1 if m == 1 and a_k != 1 else a_m, 1 if k == 1 and a_m != 1 else a_k),
        (b.strides[-2], 1 if n == 1 and b.strides[-2] != 1 else b.strides[-1]),
        c_m,
        batch,
    )


def _up(x: int, step: int) -> int:
    return -(-x // step) * step


@functools.lru_cache(maxsize=4096)
def choose_tile(m: int, n: int, lanes: int, registers: int, tall: bool = True, low: bool = False) -> tuple[int, int]:
    """Return (height, vectors) of the register tile with the least estimated time for an m x n output.

    A step of k takes the longest of its multiply-adds and loads at two a cycle and a latency of four cycles; and
    all that is read or asked for costs those of another thread of the core. `tall` asks for many rows: they share
    cache lines. `low`: many rows of A, each on lines of its own, are read where they lie.
    """
    low = low and m >= _EXACT_ROWS

    def step(rows: int, vectors: int) -> float:
        return max(rows * vectors / 2, (rows + vectors) / 2, 4) + (0 if tall or low else (rows + 2 * vectors) / 8)

    def column(height: int, vectors: int) -> float:
        whole, rest = divmod(m, height)
        if m >= _EXACT_ROWS:
            return m / height * step(height, vectors)
        part = next(h for h in heights(height) if h >= rest)
        return whole * step(height, vectors) + (step(part, vectors) if rest else 0)

    def time(height: int, vectors: int) -> float:
        panels, edge = divmod(-(-n // lanes), vectors)
        return panels * column(height, vectors) + (_EDGE * column(height, edge) if edge else 0)

    if m == 1:
        return _ONE_ROW
    able = {v: h for v, h in _HEIGHTS[registers].items() if not tall or m < _EXACT_ROWS or v <= _TALL_VECTORS}
    if low:
        able[2] = _LOW[registers]
    vectors, height = min(able.items(), key=lambda item: time(item[1], item[0]))
    return height, vectors


def _unit(
    height: int,
    width: int,
    row_tiles: int,
    most: int,
    limit: int,
    panels: int,
    k: int,
    stack: int,
    largest: int,
    per_unit: bool,
    wide: bool,
    least: int,
) -> tuple[int, int]:
    """Return among how many units rows are divided, and how many panels wide one is.

    A unit is `most` tiles high and `limit` panels wide, or somewhat more, at the most, and no less than `least` tiles
    high where there are as many. Neighbouring units of a thread share rows of A, so narrow units cost nothing, unless
    `wide`: A is copied for each.
    """
    tile = 2 * height * width * max(1, k)
    wanted = min(largest, max(_UNIT_FLOPS, stack * tile * row_tiles * panels // 16))
    high = row_tiles if per_unit else min(most, row_tiles)
    across = limit if wide else min(limit, max(1, wanted // (tile * high)))
    if not per_unit:
        high = min(high, max(least, wanted // (tile * across)))
    rows, columns = -(-row_tiles // high), -(-panels // across)
    units = stack * columns
    if not per_unit and rows * units > _THREADS // 2:  # a few more or less of them, if that divides better
        more = max(rows, min(rows + rows // 3, row_tiles // least))
        rows = min(range(rows - rows // 6, more + 1), key=lambda n: -(-n * units // _THREADS) / n)
    return rows, -(-panels // columns)


def _plan(
    p: Problem, a: Operand, b: Operand, out: Operand, acc: dt.dtype, epilogue: Epilogue | None, target: Target, m: int,
    split: Split | None
) -> list[Temp | Launch]:
    """Return a way to compute the product that is good for `m` rows, and right if there are as many.

    A way for _EXACT_ROWS or more is right for any number.
    """
    size = acc.itemsize
    lanes = target.lanes(size)
    # A is packed where it needs conversion, has no contiguous axis, or is read often enough with steps that are far
    # apart; it is copied besides where it has fewer rows than a tile.
    a_form = "m" if p.a[0] == 1 and p.a[1] != 1 else "k"
    # What changes no result is decided by the sizes at hand, also for others that are to be served.
    n, k, apart = plainly((p.n, p.k, p.a))
    tiles = split is not None or (target.tiles and (a.dtype, b.dtype) in TILED)
    pairs = not tiles and _paired(a, b, target)
    words = tiles or pairs  # k counts those
    each = a.dtype.itemsize if words else size
    far = apart[1] * k * each >= min(_FAR_PAGES, 2 * target.l2) if a_form == "m" else apart[0] * each >= _FAR_ROWS
    per_word = acc.itemsize // a.dtype.itemsize if words else 1
    turn = pack_ir.SPLIT_ROWS if split else tiles_ir.ROWS if words else 1  # steps of k that are taken together
    depth = _up(-(-p.k // per_word), tiles_ir.ROWS) if words else p.k
    if split:
        depth = _parts_depth(p.k)
    low = not (target.copies or tiles) and a_form == "k"
    packed = 1 not in p.a or (far and n > _AGAIN and k > 32 and not low)
    if pairs:
        packed = packed or a_form == "m" or type(p.k) is Dim or p.k % 2 != 0
    if tiles:
        packed = packed or split is not None or a_form == "m" or depth * per_word != p.k
    if tiles:
        height, vectors = (tiles_ir.ROWS * (1 if extent <= tiles_ir.ROWS else 2) // step
                           for extent, step in ((m, 1), (n, lanes)))
        if split:
            height = tiles_ir.ROWS
    else:
        often = n >= (_LARGE_COLS if m > _UNIT_PACK_ROWS else _OFTEN_COLS)
        packed = packed or not (words or a.dtype is acc) or (m >= _EXACT_ROWS and often and not low)
        height, vectors = choose_tile(m, n, lanes, target.registers, packed or a_form == "m", low and not packed)
    width = lanes * vectors
    row_tiles = -(-p.m // height)
    panels = -(-p.n // width)
    b_form = "n" if p.b[1] == 1 else "k" if p.b[0] == 1 else "any"
    b_stack = prod(extent for extent, _, step, _ in p.batch if step)  # distinct matrices among the B's
    stack = prod(extent for extent, *_ in p.batch)
    b_bytes = plain(depth * panels * width * size)

    # How B is read: in place, packed per unit into scratch, or packed by a launch of its own.
    partial = type(p.n) is Dim or p.n % width != 0
    edge = 0 if tiles or type(p.n) is Dim else -(-(p.n % width) // lanes) % vectors
    near = a_form == "k" and plainly(p.b[0]) * size < _PAGE // 2
    little = target.l2 // 2 if m <= _OFTEN else _OFTEN_BYTES if near else _FAR_BYTES
    in_place = (
        b_form == "n"
        and b.dtype is acc
        and split is None
        and (target.masks or not partial)
        and (m < _EXACT_ROWS or b_bytes <= little)
    )

    # Steps of k in a block, whose panel of B stays in the second-level cache, or in the first-level one where numbers
    # are split. Multiply-adds read a panel slowly enough to take more steps in one.
    flat = (target.l1 * 3 // 4 if split else target.l2 // 8) // (width * size)
    deep = min(target.l2 // 2, _PANEL_BYTES) * (_DEEPER if _EXACT_ROWS <= m <= _UNIT_PACK_ROWS else 1)
    blocked = split is not None or plain(depth) * width * size > (target.l2 // 8 if tiles else deep)
    most = flat // (1 if split else 2 if tiles else 8)
    kc = _up(-(-depth // -(-depth // most)), max(turn, 16)) if blocked else depth
    # Fewer rows than a tile are copied; a plan for more takes them from both ends. (A single one must lie along k.)
    few = m >= _EXACT_ROWS and not tiles and (a_form == "k" or p.m > 1)
    low = not packed and not few and p.m < height and p.m not in heights(height, tiles)
    a_copy = "" if not packed and not low else a_form if 1 in p.a else "any"
    most_home = _MOST_PACK_ROWS[tiles and split is None]
    at_home = m <= most_home and plain(panels) >= _PACK_PANELS and m * plain(depth) * size <= _HOME_BYTES
    per_unit = not (in_place or b.fixed) and (m <= _UNIT_PACK_ROWS or at_home) and stack == b_stack

    limit = plain(panels)
    if blocked:
        limit = _PARTIAL_COLS // width
    if m == 1 and in_place and n * size > _PAGE:
        # Along the rows of B, a few at a time: down its columns every step of k would be on a page of its own.
        blocked, kc, limit = True, _SHORT, max(1, _LINE // width)
    if per_unit:
        limit = min(limit, target.l2 // 4 // (max(1, plain(kc)) * width * size))
    most_rows, share = _UNIT_ROWS, target.l2 // 2  # what A may take of the second-level cache
    if tiles:  # so fast that B from beyond that cache is the limit: take it seldom, or keep all of it there
        at_rest = b_bytes <= target.l2 * 3 // 4
        most_rows, share = _TILE_ROWS[not at_rest], share // (2 if at_rest else 1)
    copied = depth if split else kc  # steps of k that a copy of A has
    most = max(2 * _LEAST_SPLIT if split else height, min(most_rows, share // (max(1, plain(copied)) * size))) // height
    rows, across = _unit(
        height, width, plain(row_tiles), most, max(1, min(limit, plain(panels))), plain(panels), plain(depth),
        plain(stack), _LARGEST_TILES if tiles and split is None else _LARGEST[a_form], per_unit,
        blocked and bool(a_copy) and split is None,
        (_LEAST_SPLIT if split else _LEAST_ROWS) // height if blocked else 1
    )
    mc = -(-plain(row_tiles) // rows) * height
    if few and blocked and (type(p.m) is Dim or p.m < height):
        mc = max(mc, 2 * height)  # sums from both ends are kept apart
    nc = across * width
    # Rows of A that stay in the second-level cache come in turn for each panel of B, or else the other way round.
    down = not (a_copy or per_unit or tiles) and m * plain(depth) * size <= target.l2 // 4
    mb = -(-p.m // mc) if type(p.m) is Dim else rows
    nb = -(-p.n // nc)

    spec = Spec(
        height,
        vectors,
        acc.name,
        a.dtype.name,
        b.dtype.name,
        out.dtype.name,
        "m" if a_copy else a_form,
        a_copy,
        b_form if per_unit else "",
        in_place,
        in_place and partial,
        edge,
        blocked,
        len(p.batch),
        tiles,
        # What a tile reads of A would stay in the first-level cache, but not beside what it reads of B.
        tiles and split is None and height * plain(kc) * size <= target.l1 * 2 // 3
        and (height + width) * plain(kc) * size >= target.l1,
        split is not None and split.order < 0,
        pairs,
    )
    result: list[Temp | Launch] = []
    b_buf, b_k, b_panel, b_steps = b.buf, p.b[0], width, [step for _, _, step, _ in p.batch]
    reads = [a.value_id, b.value_id]
    if not in_place and not per_unit:
        temp, launch, b_steps = pack_launch(p, b, b_form, acc, vectors, b_steps, target, depth if words else 0)
        result += [temp, launch]
        b_buf, b_k, b_panel = Buf(temp.id), width, depth * width
        reads[1] = temp.id

    # Scratch: tiles in progress, the copy of A, the panels of B.
    kept = -(-mc // height) * (nc // width) if blocked else 2 if tiles else 1
    a_at = _up(kept * height * width * size, 64)
    a_tiles = -(-mc // height) if a_copy else 0
    b_at = _up(a_at + a_tiles * copied * _up(height, lanes) * size, 64)
    scratch = b_at + (kc * nc * size if per_unit else 0)

    name = target.symbol(spec.key + "|" + (epilogue.structure if epilogue else ""))
    source: Callable[[], str] = functools.partial(product_source, target, name, spec, epilogue)
    args: list[Buf | int] = [
        a.buf,
        b_buf,
        out.buf,
        p.m,
        p.n,
        depth,
        *p.a,
        b_k,
        p.b[1],
        b_panel,
        p.c,
        mc,
        mb,
        nc,
        nb,
        kc,
        a_at,
        b_at,
        p.k,
        width * (1 if split else min(across, max(1, target.l2 // 4 // (max(1, plain(kc)) * width * size)))),
        p.b[0],
        down,
    ]
    for (extent, a_step, _, c_step), b_step in zip(p.batch, b_steps, strict=True):
        args += [extent, a_step, b_step, c_step]
    if split:  # sums of few rows, and others, are computed from B as it is
        args += [*chain(*p.batch), b.buf, split.rows, split.steps]
        reads.append(b.value_id)
    label = f"matmul {p.text()} {acc.name}"
    flops = 2 * stack * p.m * p.n * p.k
    nbytes = (
        stack * (p.m * p.k * a.dtype.itemsize + p.m * p.n * out.dtype.itemsize)
        + b_stack * p.k * p.n * b.dtype.itemsize
    )
    if epilogue:
        args += epilogue.args
        reads += epilogue.reads
        flops += stack * p.m * p.n * epilogue.flops
        label += " " + epilogue.label
    result.append(
        Launch(
            Kernel(name, source),
            args,
            stack * mb * nb,
            scratch,
            flops,
            nbytes,
            tuple(reads),
            (out.value_id, *(epilogue.writes if epilogue else ())),
            label,
        )
    )
    return result


def _paired(a: Operand, b: Operand, target: Target) -> bool:
    """Tell whether a product adds pairs of bfloat16: all of them do, for the same sums."""
    return target.pairs and a.dtype is b.dtype is dt.bfloat16


def _thin(p: Problem, a: Operand, b: Operand, acc: dt.dtype, target: Target) -> bool:
    """Tell whether few rows meet a matrix that lies transposed, and no others do."""
    paired = _paired(a, b, target) and type(p.k) is not Dim and p.k % 2 == 0
    able = type(p.m) is not Dim and (paired or a.dtype is b.dtype is acc) and not b.fixed
    enough = able and p.m <= thin_ir.ROWS and p.n >= target.lanes(acc.itemsize)
    return enough and p.a[1] == 1 and p.b[0] == 1 and p.b[1] != 1 and all(step for _, _, step, _ in p.batch)


def _parts_depth(k: int) -> int:
    """Return how many words of 16 lines hold so many numbers along k in parts."""
    return -(-k // (2 * tiles_ir.ROWS)) * pack_ir.SPLIT_ROWS


def _thin_launch(
    p: Problem, a: Operand, b: Operand, out: Operand, acc: dt.dtype, epilogue: Epilogue | None, target: Target
) -> Launch:
    structure = epilogue.structure if epilogue else ""
    lanes, apart = target.lanes(acc.itemsize), plainly(p.b[1]) * b.dtype.itemsize
    beyond = plainly(p.n) * plainly(p.k) * b.dtype.itemsize > target.l2 // 2
    # The lines of two vectors of columns are too many for memory to follow, or for a set of the first-level cache.
    vectors = 2 if p.m == 1 and plainly(p.n) > lanes and apart % _FAR_ROWS and not beyond else 1
    name = target.symbol(
        f"thin10:{p.m}:{vectors}:{b.dtype.name}:{out.dtype.name}:{len(p.batch)}:{beyond}|{structure}")
    source = functools.partial(
        thin_ir.thin_source, target, name, p.m, vectors, b.dtype, out.dtype, len(p.batch), beyond, epilogue)
    units = -(-p.n // (lanes * vectors))
    depth = p.k * b.dtype.itemsize // acc.itemsize
    words: list[Buf | int] = [a.buf, b.buf, out.buf, p.n, depth, p.a[0], p.b[1], p.c, units, *chain(*p.batch)]
    stack, b_stack = prod(e for e, *_ in p.batch), prod(e for e, _, step, _ in p.batch if step)
    label = f"matmul {p.text()} {acc.name}"
    reads, writes, flops = [a.value_id, b.value_id], [out.value_id], 2 * stack * p.m * p.n * p.k
    if epilogue:
        words += epilogue.args
        reads += epilogue.reads
        writes += epilogue.writes
        flops += stack * p.m * p.n * epilogue.flops
        label += " " + epilogue.label
    nbytes = (stack * p.m * p.k + b_stack * p.k * p.n) * b.dtype.itemsize + stack * p.m * p.n * out.dtype.itemsize
    return Launch(Kernel(name, source), words, stack * units, 0, flops, nbytes, tuple(reads), tuple(writes), label)


def pack_launch(
    p: Problem, b: Operand, form: str, acc: dt.dtype, vectors: int, steps: Sequence[int], target: Target,
    words: int = 0
) -> tuple[Temp, Launch, list[int]]:
    """Return the temporary, the launch that fills it with panels of B, and its batch steps.

    `words` is how many words of k the matrix unit takes; zero: B is packed by elements.
    """
    depth = words or p.k
    width = target.lanes(acc.itemsize) * vectors
    panels = -(-p.n // width)
    distinct = [(extent, step) for (extent, *_), step in zip(p.batch, steps, strict=True) if step]
    name = target.symbol(f"pack5:{form}:{b.dtype.name}:{acc.name}:{vectors}:{len(distinct)}:{words > 0}")
    source = functools.partial(
        pack_ir.pack_source, target, name, form, b.dtype.name, acc.name, vectors, len(distinct), words > 0
    )
    one = depth * panels * width
    count = prod(extent for extent, _ in distinct)
    temp = Temp(next(TEMP_IDS), max(64, count * one * acc.itemsize))
    most = pack_ir.SPLIT_ROWS if words and (b.dtype, acc) == (dt.float32, dt.float32) else pack_ir.PACK_ROWS
    pieces = panels if form == "k" else -(-depth // most)
    args: list[Buf | int] = [b.buf, Buf(temp.id), p.n, depth, *p.b, pieces, panels, p.k]
    for pair in distinct:
        args += pair
    packed_steps, step = [], one
    for extent, old in reversed(list(zip((e for e, *_ in p.batch), steps, strict=True))):
        packed_steps.append(step if old else 0)
        step *= extent if old else 1
    nbytes = count * (p.k * p.n * b.dtype.itemsize + one * acc.itemsize)
    launch = Launch(
        Kernel(name, source),
        args,
        count * pieces,
        0,
        0,
        nbytes,
        (b.value_id,),
        (temp.id,),
        f"pack {plain(p.k)}x{plain(p.n)} {b.dtype.name}",
    )
    return temp, launch, packed_steps[::-1]
