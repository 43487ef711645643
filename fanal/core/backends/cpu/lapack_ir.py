"""The writer of kernels that call LAPACK: arguments by reference, matrices turned to column-major order and back."""

from __future__ import annotations

import functools
from collections.abc import Callable

from fanal.core.backends.cpu.irtext import Value, Writer, module
from fanal.core.backends.cpu.target import Target
from fanal.core.base.dtype import dtype as DType

NUMBERS = 64  # words of scratch memory for what is passed by reference; the last is info
_NAN = "0x7FF8000000000000"
_LINES = 16  # rows turned side by side


def source(target: Target, symbol: str, emit: Callable[[Caller], None], dtype: DType, out: DType, inputs: int,
           calls: int, spaces: int) -> str:
    """Return the module of one kernel; `emit` writes what is done with one matrix.

    Words: addresses of inputs and result; sizes m, n, k, elements of a result; addresses of routines; where the spaces
    begin in scratch memory; elements of a matrix of each input.
    """
    w = Writer(target, set())
    pointers = [w.word("%args", i, pointer=True) for i in range(inputs + 1)]
    numbers = [w.word("%args", inputs + 1 + i) for i in range(4)]
    at = inputs + 5
    entries = [w.word("%args", at + i, pointer=True) for i in range(calls)]
    starts = [w.word("%args", at + calls + i) for i in range(spaces)]
    steps = [w.word("%args", at + calls + spaces + i) for i in range(inputs)]

    def unit(u: Value) -> tuple:
        e = Caller(w, dtype, numbers, entries, [w.at("%scratch", s) for s in starts])
        e.inputs = [w.at(p, w.mul(u, step), dtype.itemsize) for p, step in zip(pointers, steps)]
        e.result = w.at(pointers[-1], w.mul(u, e.width), out.itemsize)
        emit(e)
        return ()

    w.loop("%lo", "%hi", "1", unit)
    return module(
        [w.function(f"void @{symbol}(ptr noalias %args, i64 %lo, i64 %hi, ptr noalias %scratch)")], w.declared
    )


class Caller:
    """Writes what is done with one matrix."""

    def __init__(self, w: Writer, dtype: DType, numbers: list[Value], entries: list[Value],
                 spaces: list[Value]) -> None:
        self.w, self.entries, self.spaces = w, entries, spaces
        self.m, self.n, self.k, self.width = numbers
        self.complex, self.size = dtype.is_complex, dtype.itemsize
        self.parts = 2 if self.complex else 1  # real numbers in an element
        self.real_size = dtype.to_real().itemsize
        self.real = {4: "float", 8: "double"}[self.real_size]
        self.element = {4: "i32", 8: "i64", 16: "<2 x i64>"}[self.size]
        self.inputs: list[Value] = []
        self.result: Value = ""
        self.used = 0
        self.info = w.at("%scratch", str(NUMBERS - 1), 8)

    # What is passed by reference.

    def int(self, value: Value) -> Value:
        """Return the address of an integer."""
        return self._slot("i64", value)

    def char(self, letter: str) -> Value:
        """Return the address of a letter."""
        return self._slot("i64", str(ord(letter)))

    def one(self) -> Value:
        """Return the address of the number 1."""
        at = self._slot(self.real, "1.0")
        if self.complex:
            self.store_real(at, "1", "0.0")
            self.used += 1  # complex128 takes two words
        return at

    def _slot(self, kind: str, value: Value) -> Value:
        at = self.w.at("%scratch", str(self.used), 8)
        self.used += 1
        assert self.used < NUMBERS
        self.w.do(f"store {kind} {value}, ptr {at}, align 8")
        return at

    def call(self, which: int, *addresses: Value, letters: int = 0) -> None:
        """Call a routine. `letters`: how many arguments are letters, whose lengths Fortran passes at the end."""
        operands = [f"ptr {a}" for a in addresses] + ["i64 1"] * letters
        self.w.do(f"call void {self.entries[which]}({', '.join(operands)})")

    def failed(self) -> Value:
        """Return info as it stands."""
        return self.load_int(self.info, "0")

    # Memory.

    def part(self, *sizes: Value) -> Value:
        """Return the address of the next part of the result."""
        at, count = self.result, "1"
        for s in sizes:
            count = self.w.mul(count, s)
        self.result = self.w.at(at, count, self.size)
        return at

    def copy(self, to: Value, of: Value, *sizes: Value) -> None:
        """Copy elements as they lie."""
        count = str(self.size)
        for s in sizes:
            count = self.w.mul(count, s)
        self.w.call("void", "llvm.memcpy.p0.p0.i64", ("ptr", to), ("ptr", of), ("i64", count), ("i1", "false"))

    def turn(self, to: Value, of: Value, rows: Value, cols: Value, step: Value | None = None,
             to_step: Value | None = None) -> None:
        """Store the transpose of a row-major matrix; rows lie `step` elements apart, those of the result `to_step`."""
        w, step, to_step = self.w, step or cols, to_step or rows

        def band(first: Value) -> tuple:
            last = w.min(w.add(first, str(_LINES)), rows)

            def column(c: Value) -> tuple:
                here, there = w.at(of, c, self.size), w.at(to, w.mul(c, to_step), self.size)

                def move(r: Value) -> tuple:
                    x = w.let(f"load {self.element}, ptr {w.at(here, w.mul(r, step), self.size)}, align 4")
                    w.do(f"store {self.element} {x}, ptr {w.at(there, r, self.size)}, align 4")
                    return ()

                w.loop(first, last, "1", move, once=True)
                return ()

            w.loop("0", cols, "1", column)
            return ()

        w.loop("0", rows, str(_LINES), band)

    def clear(self, x: Value, rows: Value, cols: Value, above: bool) -> None:
        """Zero what is above (or below) the diagonal of a row-major matrix."""
        w = self.w

        def row(r: Value) -> tuple:
            low, high = (w.add(r, "1"), cols) if above else ("0", w.min(r, cols))
            count = w.mul(w.max(w.sub(high, low), "0"), str(self.size))
            at = w.at(x, w.add(w.mul(r, cols), low), self.size)
            w.call("void", "llvm.memset.p0.i64", ("ptr", at), ("i8", "0"), ("i64", count), ("i1", "false"))
            return ()

        w.loop("0", rows, "1", row)

    # Numbers.

    def load_real(self, at: Value, place: Value) -> Value:
        return self.w.let(f"load {self.real}, ptr {self.w.at(at, place, self.real_size)}, align 4")

    def store_real(self, at: Value, place: Value, x: Value) -> None:
        self.w.do(f"store {self.real} {x}, ptr {self.w.at(at, place, self.real_size)}, align 4")

    def put(self, at: Value, place: Value, x: Value, imaginary: Value = "0.0") -> None:
        """Store a real number as an element."""
        if self.complex:
            self.store_real(at, self.w.mul(place, "2"), x)
            self.store_real(at, self.w.add(self.w.mul(place, "2"), "1"), imaginary)
        else:
            self.store_real(at, place, x)

    def put_reals(self, at: Value, of: Value, count: Value) -> None:
        """Store an array of real numbers as elements."""
        self.each(count, lambda i: self.put(at, i, self.load_real(of, i)))

    def load_int(self, at: Value, place: Value) -> Value:
        return self.w.let(f"load i64, ptr {self.w.at(at, place, 8)}, align 8")

    def store_int(self, at: Value, place: Value, x: Value) -> None:
        self.w.do(f"store i64 {x}, ptr {self.w.at(at, place, 8)}, align 8")

    def put_int(self, at: Value, place: Value, x: Value) -> None:
        """Store an integer as an element."""
        self.put(at, place, self.w.let(f"sitofp i64 {x} to {self.real}"))

    def put_ints(self, at: Value, of: Value, count: Value) -> None:
        """Store an array of integers as elements."""
        self.each(count, lambda i: self.put_int(at, i, self.load_int(of, i)))

    def get_int(self, at: Value, place: Value) -> Value:
        """Load an element as an integer."""
        return self.w.let(f"fptosi {self.real} {self.load_real(at, self.w.mul(place, str(self.parts)))} to i64")

    def each(self, count: Value, body: Callable[[Value], object]) -> None:
        def step(i: Value) -> tuple:
            body(i)
            return ()

        self.w.loop("0", count, "1", step)

    def finish(self, info: Value, *parts: tuple[Value, Value]) -> None:
        """Store info as the last part; where it is not 0, `parts` (address, elements) are NaN."""
        w = self.w

        def nothing() -> None:
            for at, count in parts:
                self.each(w.mul(count, str(self.parts)), functools.partial(self.store_real, at, x=_NAN))

        if parts:
            w.when(w.let(f"icmp ne i64 {info}, 0"), nothing)
        self.put_int(self.part("1"), "0", info)
