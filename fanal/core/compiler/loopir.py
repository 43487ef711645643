"""Loops: what a fused kernel computes, before a backend writes it.

A Loop runs over `outer` x `reduced` (x `inner`) indices. Its values (`ops`) are in order of definition:

  load    a buffer at an affine index, plus computed indices for `take` and `gather`
  const   a number written into the code;  word: a number passed at run time
  index   an affine function of the loop indices, as int64
  point   a pointwise primitive
  reduce  a combination over the `reduced` indices
  begin   (form "rows") a combination over blocks of `outer` indices: stored only, at [block, reduced index]

`deps` of a value are the indices it varies with: OUTER | REDUCED | INNER.
Form "rows": the last reduced index runs along vectors; without reductions this is a plain pointwise loop.
Form "columns": `inner` runs along vectors and the reduced indices are looped over.

The reduction trees, which depend on the reduced and kept sizes alone:
  rows     The reduced elements are cut into blocks: runs of ROW_BLOCK along the last index, or as many whole runs of
           the last index as fit into ROW_BLOCK. In a block, vectors of 16 go to four accumulators in rotation,
           which are combined as (a0+a1)+(a2+a3) and then by halves; blocks are added up in order.
  columns  Each column adds up blocks of `column_block(rows)` rows, in order, and then the blocks in order. A "rows"
           kernel that begins such reductions leaves the blocks; a loop `of_blocks` adds up what it reads in order.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fanal.core.base.dim import plain
from fanal.core.base.dtype import dtype as DType

OUTER, REDUCED, INNER = 1, 2, 4
ROW_BLOCK = 8192


def column_block(rows: int) -> int:
    """Return how many rows a block of a column's sum has: a block is a unit of work, and its sums are to be few."""
    return min(256, max(32, rows // 64))


class Op:
    """One value of a loop."""

    __slots__ = ("args", "deps", "dtype", "kind", "params")

    def __init__(self, kind: str, args: tuple[int, ...], params: Any, dtype: DType) -> None:
        self.kind, self.args, self.params, self.dtype = kind, args, params, dtype
        self.deps = 0

    def __repr__(self) -> str:
        what = self.params[0].name if self.kind == "point" else self.params
        return f"{self.kind} {what} {self.args} {self.dtype.name} deps={self.deps}"


@dataclass
class Access:
    """An affine index into a buffer, in elements: one stride per loop dimension (outer, reduced, inner)."""

    value: int
    dtype: DType
    offset: int
    strides: tuple[int, ...]
    at: tuple[tuple[int, int], ...] = ()  # (op, stride): computed indices added to it


@dataclass
class Loop:
    """A kernel to be. Dimensions are `outer + reduced + inner` in the order of the strides."""

    form: str
    outer: list[int]
    reduced: list[int]
    inner: list[int]  # one size for "columns", empty for "rows"
    ops: list[Op]
    loads: list[Access]
    stores: list[tuple[int, Access]]
    label: str = ""
    where: list[Any] = field(default_factory=list)
    flops: int = 0
    of_blocks: bool = False

    @property
    def dims(self) -> list[int]:
        return self.outer + self.reduced + self.inner

    def operands(self, op: Op) -> tuple[int, ...]:
        """Return the ops that an op needs: its arguments, and the indices by which it loads."""
        return (*op.args, *(i for i, _ in self.loads[op.params].at)) if op.kind == "load" else op.args


def _vector_dim(sizes: list[int]) -> int:
    """Return which dimension of a pointwise loop runs along vectors: the last that is not tiny."""
    for d in range(len(sizes) - 1, -1, -1):
        if plain(sizes[d]) >= 8:
            return d
    return len(sizes) - 1


def collapse(loop: Loop) -> None:
    """Drop dimensions of size one and merge neighbours that every access runs through as one."""
    rows: list[list[int]] = [list(a.strides) for a in loop.loads] + [list(a.strides) for _, a in loop.stores]
    indices = [op for op in loop.ops if op.kind == "index"]
    rows += [list(op.params[1]) for op in indices]
    groups, at = [], 0
    for part in (loop.outer, loop.reduced, loop.inner):
        sizes: list[int] = []
        columns: list[list[int]] = []
        for n in part:
            column = [r[at] for r in rows]
            at += 1
            if n == 1:
                continue
            if sizes and all(a == b * n for a, b in zip(columns[-1], column)):
                sizes[-1] *= n
                columns[-1] = column
            else:
                sizes.append(n)
                columns.append(column)
        groups.append((sizes, columns))
    (loop.outer, a), (loop.reduced, b), (loop.inner, c) = groups
    zero = [0] * len(rows)
    if loop.form == "rows" and not loop.reduced:
        if loop.outer and not any(op.kind == "reduce" for op in loop.ops):
            last = _vector_dim(loop.outer)
            loop.reduced, b = [loop.outer.pop(last)], [a.pop(last)]
        else:
            loop.reduced, b = [1], [zero]
    if loop.form == "columns" and len(loop.inner) > 1:  # a broadcast kept them apart: only the last runs along vectors
        loop.outer, a = loop.outer + loop.inner[:-1], a + c[:-1]
        loop.inner, c = loop.inner[-1:], c[-1:]
    if loop.form == "columns" and not loop.inner:
        loop.inner, c = [1], [zero]
    if loop.form == "columns" and not loop.reduced:
        loop.reduced, b = [1], [zero]
    columns = a + b + c
    strides = [tuple(col[i] for col in columns) for i in range(len(rows))]
    for access, s in zip([*loop.loads, *(x for _, x in loop.stores)], strides):
        access.strides = s
    for op, s in zip(indices, strides[len(rows) - len(indices):]):
        op.params = (op.params[0], s)

    find_deps(loop)


def _varies(loop: Loop, strides: tuple[int, ...]) -> int:
    a, b = len(loop.outer), len(loop.outer) + len(loop.reduced)
    return (OUTER if any(strides[:a]) else 0) | (REDUCED if any(strides[a:b]) else 0) | \
        (INNER if any(strides[b:]) else 0)


def kept_if(loop: Loop) -> int | None:
    """Return the value that says, once for all, that a loop stores what stands there already, if there is one."""
    if len(loop.stores) == 1:
        i, to = loop.stores[0]
        op = loop.ops[i]
        if op.kind == "point" and op.params[0].name == "where":
            condition, old, _ = op.args
            once, load = not loop.ops[condition].deps, loop.ops[old]
            if once and load.kind == "load" and loop.loads[load.params] == to:
                return condition
    return None


def find_deps(loop: Loop) -> None:
    """Note with which indices each value varies."""
    for op in loop.ops:
        if op.kind == "reduce":
            op.deps = OUTER | (INNER if loop.form == "columns" else 0)
            continue
        if op.kind == "begin":
            op.deps = OUTER | REDUCED
            continue
        deps = 0
        for i in op.args:
            deps |= loop.ops[i].deps
        if op.kind == "load":
            access = loop.loads[op.params]
            deps |= _varies(loop, access.strides)
            for i, _ in access.at:
                deps |= loop.ops[i].deps
        elif op.kind == "index":
            deps |= _varies(loop, op.params[1])
        op.deps = deps
