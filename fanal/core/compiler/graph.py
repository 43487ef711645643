"""The compiler's own view of a program: one vertex per value, free to rewrite, with what later stages learn."""
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fanal.core.base.dim import plain
from fanal.core.base.dtype import dtype as DType
from fanal.core.base.dtype import float32
from fanal.core.base.shape import Shape
from fanal.core.ir.program import Node
from fanal.core.ir.row import Row

VIEWS = ("broadcast", "reshape", "permute", "slice", "flip", "window")
REDUCES = ("sum", "prod", "max_of", "min_of")
JOINS = ("pad", "concat", "update_slice")
READS = ("take", "gather")
SOURCES = ("full", "iota", "philox")


class Value:
    """A value to be computed, or given (`row` None: a program input or a known array)."""

    __slots__ = (
        "beside",
        "dtype",
        "forced",
        "group",
        "heavy",
        "id",
        "inputs",
        "known",
        "lies",
        "name",
        "ops",
        "output",
        "outside",
        "params",
        "position",
        "reads",
        "role",
        "root",
        "row",
        "shape",
        "shares",
        "size",
        "split",
        "until",
        "uses",
        "where",
    )

    def __init__(self, row: Row | None, inputs: tuple[Value, ...], params: tuple, shape: Shape, dtype: DType,
                 where: Any = None) -> None:
        self.row = row
        self.name = row.name if row else "given"
        self.inputs = inputs
        self.params = params
        self.shape = shape
        size = 1
        for n in shape:
            size *= n
        self.size = size
        self.dtype = dtype
        self.where = where
        self.id = -1
        self.known: np.ndarray | None = None
        # Fusion's notes.
        self.uses = 0  # consumers that are not views
        self.until = 0  # position of the last of them
        self.root = row is None  # has a buffer, or is a result of its kernel
        self.role = ""
        self.ops = 0  # size of the expression behind it, when it is written out in a consumer
        self.heavy = False
        self.reads: frozenset[Value] = frozenset()
        self.group: Any = None
        self.beside: Value | None = None  # to be computed by that one's kernel, if it can be
        self.output = False
        self.position = 0
        self.shares = False  # a further part of an operand whose parts are used once each
        self.split: Split | None = None
        self.forced = False  # fusing it was tried and did not work
        self.outside = False  # some reader is not in its kernel
        self.lies: Any = None  # (a join, offset, strides): its kernel writes it there at once

    def __repr__(self) -> str:
        return f"{self.name}({self.dtype.name}{list(self.shape)})"


FEW = 32  # rows, or steps of the sums, of a product: up to them its numbers are not split
_COLUMNS = 64  # of a product that is worth splitting


class Split(NamedTuple):
    """That a product of float32 may be computed from parts of its numbers, where a unit for that is faster.

    Then its sums run in another order. So this is decided once, for the product that was recorded, and kept when it is
    rewritten. Columns decide, which are features of a layer. Rows, and in a weight gradient what is summed over, are a
    batch: when they are few, the kernels of many compute what multiply-adds do.
    """

    rows: int  # of the product that was recorded
    steps: int  # of its sums
    order: int = 1  # -1: its transpose is computed instead

    def turned(self) -> Split:
        """Return what holds for the transpose."""
        return self._replace(order=-self.order)

    @property
    def few(self) -> bool:
        """Whether it is done by multiply-adds in order after all. What has a name and is few now stays so."""
        return any(plain(n) <= FEW and n <= FEW for n in (self.rows, self.steps))


def split(a: Value, b: Value) -> Split | None:
    """Return how a product that is recorded may be split."""
    if not (a.dtype is b.dtype is float32) or len(b.shape) != 2 or b.shape[1] < _COLUMNS:
        return None
    rows = 1
    for n in a.shape[:-1]:
        rows *= n
    return Split(rows, b.shape[0])


def unset(v: Node | Value) -> bool:
    """Tell whether it does not matter what a value is: nobody has written to it."""
    return v.row is not None and v.row.name == "full" and v.params[1] is None


def base(v: Value) -> Value:
    """Return the value whose buffer holds `v`: reshapes of a root are that root's memory."""
    while not v.root and v.name == "reshape":
        v = v.inputs[0]
    return v


class Graph:
    """Values in an order that respects use. `outputs` may repeat and may be given values."""

    __slots__ = ("count", "given", "outputs", "values", "writes")

    def __init__(self, given: list[Value], values: list[Value], outputs: list[Value], writes: dict[int, int]) -> None:
        self.given = given  # one per program input
        self.values = values
        self.outputs = outputs
        self.writes = writes
        self.count = 0

    def number(self) -> int:
        """Return an unused value id."""
        self.count += 1
        return self.count - 1
