"""What is done to an accumulator before it is stored: bias, activation, residual, any pointwise consumer."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..contract import Buf
from .irtext import SCALAR, Value, Writer, bits


@dataclass
class Site:
    """Where the vector of accumulators at hand lies in the output."""

    writer: Writer
    args: Value  # the argument array; the epilogue's own words start at `base`
    base: int
    row: Value
    col: Value  # column of lane 0
    offset: Value  # elements from the start of the output to lane 0, as in a C-contiguous buffer of its shape
    mask: Value | None  # None: every lane is inside
    lanes: int
    acc: str  # element type of the accumulators, in LLVM's words

    @property
    def vector(self) -> str:
        return f"<{self.lanes} x {self.acc}>"

    def pointer(self, word: int) -> Value:
        """Return the address in the epilogue's argument word `word`."""
        return self.writer.word(self.args, self.base + word, pointer=True)

    def load(self, word: int, index: Value, dtype: str) -> Value:
        """Load a vector from buffer `word` at element `index` and convert it to the accumulator's type."""
        kind = SCALAR[dtype]
        address = self.writer.at(self.pointer(word), index, bits(kind) // 8)
        loaded = self.writer.load(f"<{self.lanes} x {kind}>", address, self.mask)
        return self.writer.cast(f"<{self.lanes} x {kind}>", self.vector, loaded)

    def load_splat(self, word: int, index: Value, dtype: str) -> Value:
        """Load one element from buffer `word` into every lane, converted to the accumulator's type."""
        kind = SCALAR[dtype]
        address = self.writer.at(self.pointer(word), index, bits(kind) // 8)
        scalar = self.writer.cast(kind, self.acc, self.writer.let(f"load {kind}, ptr {address}"))
        return self.writer.splat(self.vector, scalar)

    def store(self, word: int, index: Value, dtype: str, value: Value) -> None:
        """Convert a vector of accumulators to `dtype` and store it in buffer `word` at element `index`."""
        kind = SCALAR[dtype]
        address = self.writer.at(self.pointer(word), index, bits(kind) // 8)
        self.writer.store(f"<{self.lanes} x {kind}>",
                          self.writer.cast(self.vector, f"<{self.lanes} x {kind}>", value), address, self.mask)


@dataclass(frozen=True)
class Epilogue:
    """A pointwise tail. `emit(site, acc)` writes IR and returns the vector to store, or None to store nothing.

    `key` names the structure (it becomes part of the kernel's name), `args` are the words `emit` reads through
    its site, `cost` is the rough number of vector instructions, `reads`/`writes` the values behind `args`.
    """

    key: str
    emit: Callable[[Site, Value], Value | None]
    args: tuple[Buf | int, ...] = ()
    cost: int = 1
    flops: int = 1  # per element
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    label: str = ""


def chain(*parts: Epilogue) -> Epilogue:
    """Return the epilogue that applies `parts` in order; only the last may store nothing."""
    def emit(site: Site, acc: Value) -> Value | None:
        base = site.base
        value: Value | None = acc
        for part in parts:
            if value is None:
                raise ValueError(f"epilogue part before {part.key!r} produces no value")
            site.base = base
            value = part.emit(site, value)
            base += len(part.args)
        return value
    return Epilogue(";".join(p.key for p in parts), emit, tuple(w for p in parts for w in p.args),
                    sum(p.cost for p in parts), sum(p.flops for p in parts),
                    tuple(r for p in parts for r in p.reads), tuple(w for p in parts for w in p.writes),
                    " ".join(p.label for p in parts))


def bias(value_id: int, dtype: str, offset: int = 0) -> Epilogue:
    """Return `acc + bias[column]`."""
    def emit(site: Site, acc: Value) -> Value:
        return site.writer.let(f"fadd {site.vector} {acc}, {site.load(0, site.col, dtype)}")
    return Epilogue(f"bias:{dtype}", emit, (Buf(value_id, offset),), 2, reads=(value_id,), label="+bias")


def row_bias(value_id: int, dtype: str, offset: int = 0) -> Epilogue:
    """Return `acc + bias[row]`, as a convolution's output channels need."""
    def emit(site: Site, acc: Value) -> Value:
        return site.writer.let(f"fadd {site.vector} {acc}, {site.load_splat(0, site.row, dtype)}")
    return Epilogue(f"rowbias:{dtype}", emit, (Buf(value_id, offset),), 2, reads=(value_id,), label="+bias")


def residual(value_id: int, dtype: str, offset: int = 0) -> Epilogue:
    """Return `acc + other` where `other` is laid out as the output; `other` may be the output itself."""
    def emit(site: Site, acc: Value) -> Value:
        return site.writer.let(f"fadd {site.vector} {acc}, {site.load(0, site.offset, dtype)}")
    return Epilogue(f"residual:{dtype}", emit, (Buf(value_id, offset),), 2, reads=(value_id,), label="+residual")


def relu() -> Epilogue:
    """Return `max(acc, 0)`, NaN kept."""
    def emit(site: Site, acc: Value) -> Value:
        negative = site.writer.let(f"fcmp olt {site.vector} {acc}, zeroinitializer")
        return site.writer.let(f"select <{site.lanes} x i1> {negative}, {site.vector} zeroinitializer, "
                               f"{site.vector} {acc}")
    return Epilogue("relu", emit, (), 2, label="+relu")
