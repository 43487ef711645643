"""Contractions as backends see them: operands as strided views of buffers, and the pointwise tail of the result."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.base.dtype import dtype as DType
from fanal.core.base.shape import Shape, contiguous_strides
from fanal.core.compiler.build import ZERO, Map, Split, Unmappable, through, written
from fanal.core.compiler.graph import VIEWS, Value, base
from fanal.core.compiler.loopir import Op
from fanal.core.ir.row import ROWS

# How a tail reads an operand, given the place in the result at hand: there, at its column or row, or one number.
HERE, COLUMN, ROW, ONE = "here", "column", "row", "one"
STRIDED = ("dot", "attention", "attention_grad")  # primitives that read views of buffers where they lie
_VIEWS = tuple(v for v in VIEWS if v != "flip")  # backends take no negative strides


@dataclass
class Operand:
    """A strided view of a value's buffer, in elements."""

    value: Value
    shape: Shape
    strides: Shape
    offset: int
    fixed: bool = False  # the same for many runs

    @property
    def contiguous(self) -> bool:
        return all(n == 1 or s == c for n, s, c in zip(self.shape, self.strides, contiguous_strides(self.shape)))


def operand(v: Value) -> Operand:
    """Return `v` as a view of the nearest value behind it that has a buffer, or of what must get one."""
    at: Map = tuple([(0, ((d, 1),)) if n != 1 else ZERO for d, n in enumerate(v.shape)])
    sizes = list(v.shape)
    x = v
    while not x.root and x.name in _VIEWS:
        try:
            at = through(x, at, sizes)
        except (Split, Unmappable):
            break
        x = x.inputs[0]
    strides = [0] * len(v.shape)
    offset, step = 0, 1
    shape = x.shape
    if not x.root and base(x).root:  # a reshape that no index follows is still that buffer
        x = base(x)
    for (constant, terms), n in zip(reversed(at), reversed(shape)):
        offset += constant * step
        for d, c in terms:
            strides[d] += c * step
        step *= n
    while not x.root and x.name == "reshape":  # the same memory
        x = x.inputs[0]
    return Operand(x, v.shape, tuple(strides), offset)


@dataclass
class Tail:
    """What is done to each element of a contraction's result: `ops[0]` is the element itself.

    Loads have params (value, how). `stores` are (op, value): what must be in memory.
    """

    of: Value
    ops: list[Op] = field(default_factory=list)
    stores: list[tuple[int, Value]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    where: list[Any] = field(default_factory=list)
    flops: int = 0


class Inexpressible(Exception):
    """A tail needs more than the place at hand."""


class TailBuilder:
    """Writes pointwise values over the result of a contraction as a Tail."""

    def __init__(self, of: Value) -> None:
        self.tail = Tail(of, [Op("result", (), None, of.dtype)])
        self.place: dict[Value, int] = {of: 0}
        self.memo: dict[tuple[int, str], int] = {}
        self.loads: dict[tuple[int, str], int] = {}

    def add(self, v: Value) -> None:
        """Append a root. Raises Inexpressible."""
        self.place[v] = self._expand(v, HERE)

    def _op(self, kind: str, args: tuple[int, ...], params: Any, dtype: DType) -> int:
        self.tail.ops.append(Op(kind, args, params, dtype))
        return len(self.tail.ops) - 1

    def _value(self, v: Value, how: str) -> int:
        under = base(v)
        if under in self.place:
            if how != HERE:
                raise Inexpressible
            return self.place[under]
        if under.root:
            key = (id(under), how)
            if key not in self.loads:
                self.loads[key] = self._op("load", (), (under, how), v.dtype)
            return self.loads[key]
        key = (id(v), how)
        if key not in self.memo:
            self.memo[key] = self._expand(v, how)
        return self.memo[key]

    def _expand(self, v: Value, how: str) -> int:
        row, name = v.row, v.name
        if row is None:
            raise Inexpressible
        if v.name == "idiv":  # its check is written with loops
            raise Inexpressible
        if row.kind == "point":
            args = tuple([self._value(i, self._how(i, v, how)) for i in v.inputs])
            self.tail.names.append(name)
            if v.where is not None and v.where not in self.tail.where:
                self.tail.where.append(v.where)
            self.tail.flops += row.flops if isinstance(row.flops, int) else 0
            return self._op("point", args, (row, *v.params), v.dtype)
        if name == "full":
            return self._op("const" if written(v.params[1], v.dtype) else "word", (), v.params[1], v.dtype)
        if name in ("reshape", "broadcast"):
            return self._value(v.inputs[0], self._how(v.inputs[0], v, how))
        if name == "philox" and how == HERE:
            words = [self._op("index", (), None, dt.int64)]
            for i in v.inputs:
                k = self._value(i, ONE)
                if i.dtype is not dt.int64:
                    k = self._op("point", (k,), (ROWS["convert"], dt.int64), dt.int64)
                words.append(k)
            return self._op("point", tuple(words), (row,), v.dtype)
        raise Inexpressible

    def _how(self, small: Value, big: Value, how: str) -> str:
        """Return how `small` is read where `big` is read as `how`."""
        if small.size == 1:
            return ONE
        if small.size == big.size:
            return how
        result = self.tail.of.shape
        if how == HERE:
            extra = len(big.shape) - len(small.shape)
            real = [d + extra for d, n in enumerate(small.shape) if n != 1]
            if len(real) == 1:
                d = real[0]
                if self.tail.of.name == "dot" and d == len(big.shape) - 1 and big.shape[d] == result[-1]:
                    return COLUMN
                if self.tail.of.name in ("conv", "conv_dx") and d == 1 and big.shape == result:
                    return ROW
        raise Inexpressible
