"""Values written region by region: joins, folds, scatters' starting contents, and the checks of indices."""
from __future__ import annotations

import math
from collections.abc import Iterator

from fanal.core.base import dtype as dt
from fanal.core.base.dim import fixed
from fanal.core.base.shape import Shape, contiguous_strides
from fanal.core.compiler.build import NOT_ZERO, ZERO, Builder, Map, Split
from fanal.core.compiler.fuse import SAME, Group, scan
from fanal.core.compiler.graph import Value, base
from fanal.core.compiler.loopir import Access, Loop, Op, collapse
from fanal.core.ir.row import ROWS

Region = tuple[int, Shape]  # offset and strides, in elements, of a region of a buffer


def region(shape: Shape, starts: Shape | None = None, steps: Shape | None = None) -> Region:
    """Return where x[starts::steps] lies in a contiguous buffer of a shape."""
    strides = contiguous_strides(shape)
    offset = sum(a * s for a, s in zip(starts, strides)) if starts else 0
    return offset, tuple(s * k for s, k in zip(strides, steps)) if steps else strides


class Piece(Builder):
    """Builds a loop that writes one value into a region of another's buffer, or combines it with what is there."""

    def __init__(self, v: Value, into: Value, where: Region, old: bool = False, dims: Map | None = None,
                 shape: Shape | None = None) -> None:
        super().__init__(Group("loop", v.size, 0))
        self.source, self.into, self.region, self.old = v, into, where, old
        self.at, self.shape = dims, shape or v.shape

    def loop(self) -> Loop:
        sizes = [n for n in self.shape if n != 1] if self.at is None else list(self.shape)
        while True:
            self.sizes = sizes
            try:
                return self._write(sizes)
            except Split as cut:
                d = cut.dim
                if self.at is not None:
                    raise AssertionError("a fold's loop is not to be cut") from None
                sizes[d:d + 1] = [sizes[d] // cut.size, cut.size]
                self.__init__(self.source, self.into, self.region, self.old)  # type: ignore[misc]

    def _write(self, sizes: list[int]) -> Loop:
        from fanal.core.compiler.build import reshape_map
        flat: Map = tuple((0, ((d, 1),)) for d in range(len(sizes)))
        spots = reshape_map(flat, tuple(sizes), self.shape, sizes)
        at = self._ones(spots, self.shape)
        value = self.value(self.source, at if self.at is None else self.at)
        offset, strides = self.region
        steps = [0] * len(sizes)
        for e, s in zip(at, strides):
            offset += e[0] * s
            for d, c in e[1]:
                steps[d] += c * s
        access = (self.into.dtype, offset, tuple(steps))
        if self.old:
            self.loads.append(Access(self.into.id, *access))
            old = self._op("load", (), len(self.loads) - 1, self.into.dtype)
            value = self._op("point", (old, value), (ROWS["add"],), self.into.dtype)
        self.note(self.into)
        loop = Loop("rows", list(sizes), [], [], self.ops, self.loads, [(value, Access(self.into.id, *access))],
                    "+".join([*self.names[-8:], self.into.name]), list(self.where), self.flops)
        collapse(loop)
        return loop


def fill(into: Value, number: float, dtype: dt.dtype) -> Loop:
    """Return the loop that writes one number everywhere."""
    loop = Loop("rows", [into.size], [], [], [Op("word", (), number, dtype)], [],
                [(0, Access(into.id, dtype, 0, (1,)))], f"{into.name} fill", [into.where] if into.where else [])
    collapse(loop)
    return loop


def parts(v: Value) -> Iterator[tuple[Value, Region]]:
    """Yield the parts of a concatenation and where they lie."""
    at = 0
    for x in v.inputs:
        yield x, region(v.shape, tuple(at if d == v.params[0] else 0 for d in range(len(v.shape))))
        at += x.shape[v.params[0]]


def place_parts(values: list[Value]) -> None:
    """Let kernels write what is only a part of a concatenation straight to its place there."""
    for v in values:
        if v.name == "concat" and v.group is not None and v.group.kind == "join" and v.size:
            for x, (offset, strides) in parts(v):
                if x.root and x.role == "inline" and x.uses == 1 and not x.output and x.group.kind == "loop":
                    x.lies, x.outside = (v, offset, strides), False


PARTIAL = ("put", "scatter", "update_slice")  # begin as a copy of their first operand


def changes_parts(v: Value, into: Value) -> bool:
    """Tell whether a value is `into`, or what follows from it in place, with parts of it changed, whose new contents
    do not depend on the old.
    """
    if v.name not in PARTIAL or any(into in scan(v, i) for i in v.inputs[1:]):
        return False
    return base(v.inputs[0]) is into or (v.inputs[0].role == "inline" and scan(v, v.inputs[0]).get(into) == SAME)


def pieces(v: Value, begun: bool) -> Iterator[Builder | Loop]:
    """Yield what writes a join, a fold or the start of a scatter, in order. `begun`: it stands where its first operand
    does.
    """
    if v.name == "concat":
        for x, where in parts(v):
            if x.size and not x.lies:
                yield Piece(x, v, where)
    elif v.name == "pad":
        low, _, value = v.params
        yield fill(v, value, v.dtype)
        if v.inputs[0].size:
            yield Piece(v.inputs[0], v, region(v.shape, low))
    elif v.name == "update_slice":
        x, new = v.inputs
        starts, _, steps = v.params
        if not begun:
            yield Piece(x, v, region(v.shape))
        if new.size:
            yield Piece(new, v, region(v.shape, starts, steps))
    elif v.name == "fold":
        yield fill(v, 0, v.dtype)
        yield from _fold(v)
    elif not begun:  # scatters start from a copy
        yield Piece(v.inputs[0], v, region(v.shape))


def _fold(v: Value) -> Iterator[Builder]:
    """Add the windows offset by offset: within one offset no two of them meet."""
    x = v.inputs[0]
    _, dims, sizes, steps, gaps = v.params
    n = len(v.shape)
    shape = x.shape[:n]
    strides = contiguous_strides(v.shape)
    for flat in range(fixed(math.prod(sizes))):
        offsets: list[int] = []
        rest = flat
        for k in reversed(sizes):
            offsets.insert(0, rest % k)
            rest //= k
        start, step = [0] * n, [1] * n
        for d, o, s, r in zip(dims, offsets, steps, gaps):
            start[d], step[d] = o * r, s
        at: Map = (*((0, ((d, 1),)) if shape[d] != 1 else ZERO for d in range(n)), *((o, ()) for o in offsets))
        where = sum(a * s for a, s in zip(start, strides)), tuple(s * k for s, k in zip(strides, step))
        yield Piece(x, v, where, True, at, shape)


class IndexCheck(Builder):
    """Builds the loop that leaves 0 when every index is in [-n, n), else what Lowered.checks says.

    With n = NOT_ZERO, it leaves 0 when no element is 0.
    """

    def __init__(self, index: Value, n: int, code: int) -> None:
        super().__init__(Group("loop", index.size, 0))
        self.index, self.n, self.code = index, n, code

    def loop(self) -> Loop:
        sizes = [k for k in self.index.shape if k != 1]
        while True:
            self.sizes = sizes
            try:
                return self._check(sizes)
            except Split as cut:
                sizes[cut.dim:cut.dim + 1] = [sizes[cut.dim] // cut.size, cut.size]
                self.__init__(self.index, self.n, self.code)  # type: ignore[misc]

    def _check(self, sizes: list[int]) -> Loop:
        from fanal.core.compiler.build import reshape_map
        flat: Map = tuple((0, ((d, 1),)) for d in range(len(sizes)))
        at = self._ones(reshape_map(flat, tuple(sizes), self.index.shape, sizes), self.index.shape)
        i64, yes = dt.int64, dt.bool_
        x = self._convert(self.value(self.index, at), i64, self.index.dtype)
        if self.n == NOT_ZERO:
            hit = self._op("point", (x, self._op("const", (), 0, i64)), (ROWS["eq"],), yes)
            code = self._op("reduce", (self._convert(hit, i64, yes),), "max_of", i64)
            return self._rows(sizes, code)
        high = self._op("reduce", (x,), "max_of", i64)
        low = self._op("reduce", (x,), "min_of", i64)
        n, less = self._op("word", (), self.n, i64), self._op("word", (), -self.n, i64)
        zero, one = self._op("const", (), 0, i64), self._op("const", (), 1, i64)
        below = self._op("point", (low, less), (ROWS["lt"],), yes)
        above = self._op("point", (n, high), (ROWS["le"],), yes)
        under = self._op("point", (below, low, zero), (ROWS["where"],), i64)
        code = self._op("point", (above, self._op("point", (high, one), (ROWS["add"],), i64), under),
                        (ROWS["where"],), i64)
        return self._rows(sizes, code)

    def _rows(self, sizes: list[int], code: int) -> Loop:
        where = Access(self.code, dt.int64, 0, (0,) * len(sizes or [1]))
        names = list(self.where)
        loop = Loop("rows", [], sizes or [1], [], self.ops, self.loads, [(code, where)], "check indices", names)
        if not sizes:
            for a in self.loads:
                a.strides = (0,)
            for op in self.ops:
                if op.kind == "index":
                    op.params = (op.params[0], (0,))
        collapse(loop)
        return loop
