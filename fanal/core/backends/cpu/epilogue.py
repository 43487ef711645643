"""What is done to an accumulator before it is stored: bias, activation, residual, any pointwise consumer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fanal.core.backends.contract import Buf
from fanal.core.backends.cpu.emit import STORED, Emitter, Scalar, vector
from fanal.core.backends.cpu.irtext import Value, Writer
from fanal.core.base import dtype as dt
from fanal.core.base.dtype import dtype as DType


@dataclass
class Site:
    """Where the vector of accumulators at hand lies in the output."""

    writer: Writer
    args: Value  # the argument array; the epilogue's own words start at `base`
    base: int
    row: Value
    col: Value  # column of lane 0
    offset: (
        Value  # elements from the start of the output to lane 0: fits every operand laid out as the output
    )
    mask: Value | None  # None: every lane is inside
    lanes: int

    @property
    def e(self) -> Emitter:
        """The emitter of operations on vectors of this width."""
        return Emitter(self.writer, self.lanes)

    def word(self, word: int) -> Value:
        """Return the integer in the epilogue's argument word `word`."""
        return self.writer.word(self.args, self.base + word)

    def pointer(self, word: int) -> Value:
        """Return the address in the epilogue's argument word `word`."""
        return self.writer.word(self.args, self.base + word, pointer=True)

    def load(self, word: int, index: Value, dtype: DType) -> Scalar:
        """Load a vector from buffer `word` at element `index`."""
        address = self.writer.at(self.pointer(word), index, dtype.itemsize)
        loaded = self.writer.load(vector(STORED[dtype], self.lanes), address, self.mask)
        return self.e.unpack(loaded, dtype, self.lanes)

    def load_splat(self, word: int, index: Value, dtype: DType) -> Scalar:
        """Load one element from buffer `word` into every lane."""
        kind = STORED[dtype]
        address = self.writer.at(self.pointer(word), index, dtype.itemsize)
        one = self.writer.let(f"load {kind}, ptr {address}")
        return self.e.unpack(self.writer.splat(vector(kind, self.lanes), one), dtype, self.lanes)

    def store(self, word: int, index: Value, value: Scalar) -> None:
        """Store a vector in buffer `word` at element `index`."""
        self.store_at(self.pointer(word), index, value)

    def store_at(self, buffer: Value, index: Value, value: Scalar) -> None:
        """Store a vector in a buffer of its dtype at element `index`."""
        self.store_packed(buffer, index, self.e.pack(value), value.dtype)

    def store_packed(self, buffer: Value, index: Value, packed: Value, dtype: DType) -> None:
        """Store a vector in the form that memory holds."""
        address = self.writer.at(buffer, index, dtype.itemsize)
        self.writer.store(vector(STORED[dtype], self.lanes), packed, address, self.mask)


@dataclass(frozen=True)
class Epilogue:
    """A pointwise tail. `emit(site, acc)` writes IR and returns what to store, or None to store nothing.

    `acc` has the dtype `dtype`: accumulators are rounded to it first, so fusing never changes a bit; None means
    the output's. `key` names the structure (it becomes part of the kernel's name), `args` are the words `emit`
    reads through its site, `cost` is the rough number of vector instructions (long tails are written once, in a
    loop), `flops` are per element, `reads` and `writes` the values behind `args`, `beside` those of them that
    are asked for together with the lines of the output.
    """

    key: str
    emit: Callable[[Site, Scalar], Scalar | None]
    args: tuple[Buf | int, ...] = ()
    cost: int = 1
    flops: int = 1
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    label: str = ""
    dtype: DType | None = None
    beside: tuple[tuple[int, int], ...] = ()  # (word, bytes of an element) of what is laid out as the output

    @property
    def structure(self) -> str:
        return f"{self.key}@{self.dtype.name if self.dtype else ''}"


def conclude(
    site: Site, epilogue: Epilogue | None, value: Value, acc: DType, out: DType, buffer: Value, flushed: bool = False
) -> None:
    """Write the rounding, the epilogue and the store of one vector of accumulators.

    `flushed` says that no accumulator is subnormal, so that the processor's own rounding to bfloat16 may be used.
    """
    e = site.e
    first = out if epilogue is None else epilogue.dtype or out
    x: Scalar | None = Scalar(value, acc, site.lanes)
    if flushed and epilogue is None and out is dt.bfloat16:
        site.store_packed(buffer, site.offset, e.packed_by_processor(x), out)
        return
    x = e.rounded_by_processor(x) if flushed and first is dt.bfloat16 else e.convert(x, first)
    if epilogue is not None:
        x = epilogue.emit(site, x)
    if x is not None:
        site.store_at(buffer, site.offset, e.convert(x, out))


def chain(*parts: Epilogue) -> Epilogue:
    """Return the epilogue that applies `parts` in order; only the last may store nothing."""

    def emit(site: Site, acc: Scalar) -> Scalar | None:
        base = site.base
        value: Scalar | None = acc
        for part in parts:
            if value is None:
                raise ValueError(f"the epilogue before {part.key!r} produces no value")
            site.base = base
            value = part.emit(site, value)
            base += len(part.args)
        return value

    return Epilogue(
        ";".join(p.key for p in parts),
        emit,
        tuple(w for p in parts for w in p.args),
        sum(p.cost for p in parts),
        sum(p.flops for p in parts),
        tuple(r for p in parts for r in p.reads),
        tuple(w for p in parts for w in p.writes),
        " ".join(p.label for p in parts),
        parts[0].dtype,
    )


def bias(value_id: int, dtype: DType = dt.float32, offset: int = 0) -> Epilogue:
    """Return `acc + bias[column]`."""
    return Epilogue(
        f"bias:{dtype.name}",
        lambda site, acc: site.e.add(acc, site.load(0, site.col, dtype)),
        (Buf(value_id, offset),),
        2,
        reads=(value_id,),
        label="+bias",
    )


def row_bias(value_id: int, dtype: DType = dt.float32, offset: int = 0) -> Epilogue:
    """Return `acc + bias[row]`, as a convolution's output channels need."""
    return Epilogue(
        f"rowbias:{dtype.name}",
        lambda site, acc: site.e.add(acc, site.load_splat(0, site.row, dtype)),
        (Buf(value_id, offset),),
        2,
        reads=(value_id,),
        label="+bias",
    )


def residual(value_id: int, dtype: DType = dt.float32, offset: int = 0) -> Epilogue:
    """Return `acc + other` where `other` is laid out as the output; `other` may be the output itself."""
    return Epilogue(
        f"residual:{dtype.name}",
        lambda site, acc: site.e.add(acc, site.load(0, site.offset, dtype)),
        (Buf(value_id, offset),),
        2,
        reads=(value_id,),
        label="+residual",
        beside=((0, dtype.itemsize),),
    )


def relu() -> Epilogue:
    """Return `max(acc, 0)`, NaN kept."""
    return Epilogue(
        "relu", lambda site, acc: site.e.max(acc, site.e.const(0, acc.dtype)), (), 2, label="+relu"
    )


def function(name: str, cost: int = 40) -> Epilogue:
    """Return `name(acc)` for a function of the vector library: tanh, exp, erf, ..."""
    return Epilogue(name, lambda site, acc: getattr(site.e, name)(acc), (), cost, cost, label=f"+{name}")
