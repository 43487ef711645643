"""A writer of LLVM IR text with structured loops: what the contraction emitters are written in."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

from .target import Target

Value = str  # an SSA name or a literal
T = TypeVar("T")


class Writer:
    """Collects the body of one function. Names are numbered, so equal input gives equal text."""

    def __init__(self, target: Target, declared: set[str]) -> None:
        self.target = target
        self.declared = declared  # `declare` lines the module needs; shared by its functions
        self.lines: list[str] = []
        self.count = 0
        self.block = "entry"

    def do(self, line: str) -> None:
        """Write one instruction without a result."""
        self.lines.append("  " + line)

    def let(self, expression: str) -> Value:
        """Write one instruction and return the name of its result."""
        self.count += 1
        name = f"%v{self.count}"
        self.lines.append(f"  {name} = {expression}")
        return name

    def fresh(self, hint: str) -> str:
        """Return an unused label."""
        self.count += 1
        return f"{hint}{self.count}"

    def label(self, name: str) -> None:
        """Start the block `name`."""
        self.lines.append(f"{name}:")
        self.block = name

    def call(self, result: str, function: str, *operands: tuple[str, Value]) -> Value:
        """Call an intrinsic, declaring it once. Operands are (type, value) pairs."""
        types = ", ".join(kind for kind, _ in operands)
        self.declared.add(f"declare {result} @{function}({types})")
        text = f"call {result} @{function}(" + ", ".join(f"{kind} {value}" for kind, value in operands) + ")"
        if result == "void":
            self.do(text)
            return ""
        return self.let(text)

    def abreast(self, bodies: Sequence[Callable[[], T]]) -> list[T]:
        """Write bodies that do not need each other line by line in turn, and return what they return.

        So what one waits for is hidden behind the others. Bodies that branch, or differ in length, follow each other.
        """
        block, cuts, found = self.block, [len(self.lines)], []
        for body in bodies:
            found.append(body())
            cuts.append(len(self.lines))
        parts = [self.lines[a:b] for a, b in itertools.pairwise(cuts)]
        if self.block == block and len({len(part) for part in parts}) == 1:
            self.lines[cuts[0]:] = itertools.chain.from_iterable(zip(*parts, strict=True))
        return found

    # Integers and addresses. Literal operands are folded here, since no IR pass runs afterwards.

    def add(self, a: Value, b: Value) -> Value:
        return a if b == "0" else b if a == "0" else self._int("add", a, b, lambda x, y: x + y)

    def sub(self, a: Value, b: Value) -> Value:
        return a if b == "0" else self._int("sub", a, b, lambda x, y: x - y)

    def mul(self, a: Value, b: Value) -> Value:
        if "0" in (a, b):
            return "0"
        return a if b == "1" else b if a == "1" else self._int("mul", a, b, lambda x, y: x * y)

    def div(self, a: Value, b: Value) -> Value:
        return a if b == "1" else self.let(f"udiv i64 {a}, {b}")

    def _int(self, op: str, a: Value, b: Value, fold: Callable[[int, int], int]) -> Value:
        if a[0] != "%" and b[0] != "%":
            return str(fold(int(a), int(b)))
        return self.let(f"{op} i64 {a}, {b}")

    def min(self, a: Value, b: Value) -> Value:
        return self.call("i64", "llvm.smin.i64", ("i64", a), ("i64", b))

    def max(self, a: Value, b: Value) -> Value:
        return self.call("i64", "llvm.smax.i64", ("i64", a), ("i64", b))

    def less(self, a: Value, b: Value) -> Value:
        return self.let(f"icmp slt i64 {a}, {b}")

    def at(self, base: Value, index: Value, size: int = 1) -> Value:
        """Return the address `base` plus `index` elements of `size` bytes."""
        return (
            base
            if index == "0"
            else self.let(f"getelementptr i8, ptr {base}, i64 {self.mul(index, str(size))}")
        )

    def word(self, args: Value, index: int, pointer: bool = False) -> Value:
        """Load argument word `index`."""
        return self.let(f"load {'ptr' if pointer else 'i64'}, ptr {self.at(args, str(index), 8)}, align 8")

    # Vectors.

    def splat(self, vector: str, scalar: Value) -> Value:
        """Return a vector with `scalar` in every lane. `vector` is the vector type."""
        lanes, kind = vector[1:-1].split(" x ")
        first = self.let(f"insertelement {vector} poison, {kind} {scalar}, i64 0")
        return self.let(f"shufflevector {vector} {first}, {vector} poison, <{lanes} x i32> zeroinitializer")

    def fma(self, vector: str, a: Value, b: Value, c: Value) -> Value:
        """Return a*b+c, rounded once where the target has the instruction and twice where it has not."""
        operands = ((vector, a), (vector, b), (vector, c))
        if self.target.fma:
            return self.call(vector, "llvm.fma." + mangle(vector), *operands)
        return self.let(f"fadd {vector} {self.let(f'fmul {vector} {a}, {b}')}, {c}")

    def lane_mask(self, lanes: int, count: Value) -> Value:
        """Return the mask of the first `count` lanes; `count` may be negative or larger than `lanes`."""
        low = self.max(self.min(count, str(lanes)), "0")
        wide = self.splat(f"<{lanes} x i32>", self.let(f"trunc i64 {low} to i32"))
        steps = ", ".join(f"i32 {i}" for i in range(lanes))
        return self.let(f"icmp ult <{lanes} x i32> <{steps}>, {wide}")

    def load(self, vector: str, address: Value, mask: Value | None = None, align: int = 1) -> Value:
        """Load a vector; lanes outside `mask` are not touched and read as zero."""
        if mask is None:
            return self.let(f"load {vector}, ptr {address}, align {align}")
        lanes = vector[1:].split(" ")[0]
        if _element(vector) == "bfloat":  # split into lanes that are rounded again, where no instruction knows the type
            words = self.load(f"<{lanes} x i16>", address, mask, align)
            return self.let(f"bitcast <{lanes} x i16> {words} to {vector}")
        # The form with an explicit alignment operand: newer LLVMs upgrade it while parsing.
        return self.call(
            vector,
            f"llvm.masked.load.{mangle(vector)}.p0",
            ("ptr", address),
            ("i32", str(align)),
            (f"<{lanes} x i1>", mask),
            (vector, "zeroinitializer"),
        )

    def store(
        self, vector: str, value: Value, address: Value, mask: Value | None = None, align: int = 1
    ) -> None:
        """Store a vector, leaving what is outside `mask` alone."""
        if mask is None:
            self.do(f"store {vector} {value}, ptr {address}, align {align}")
            return
        lanes = vector[1:].split(" ")[0]
        self.call(
            "void",
            f"llvm.masked.store.{mangle(vector)}.p0",
            (vector, value),
            ("ptr", address),
            ("i32", str(align)),
            (f"<{lanes} x i1>", mask),
        )

    def stream(self, vector: str, value: Value, address: Value, align: int) -> None:
        """Store a vector past the caches, to an aligned address. Others see it after a fence."""
        self.do(f"store {vector} {value}, ptr {address}, align {align}, !nontemporal !{{i32 1}}")

    def cast(self, source: str, target: str, value: Value) -> Value:
        """Convert floating-point scalars or vectors; a no-op between equal types."""
        if source == target:
            return value
        op = "fpext" if bits(source) < bits(target) else "fptrunc"
        return self.let(f"{op} {source} {value} to {target}")

    # Control flow.

    def loop(
        self,
        start: Value,
        stop: Value,
        step: Value,
        body: Callable[..., Sequence[Value]],
        carried: Sequence[tuple[str, Value]] = (),
        once: bool = False,
    ) -> list[Value]:
        """Write `for i in range(start, stop, step)`. `body(i, *values)` returns the values carried on.

        Bottom-tested, so the hot path has one branch. `once` says that at least one pass is certain.
        """
        head, done = self.fresh("loop"), self.fresh("done")
        before = self.block
        self.do(
            f"br label %{head}" if once else f"br i1 {self.less(start, stop)}, label %{head}, label %{done}"
        )
        self.label(head)
        self.count += 1
        index, names = f"%i{self.count}", [f"%c{self.count}_{n}" for n in range(len(carried))]
        hole = len(self.lines)  # the phis need the values of the latch, known only after the body
        values = list(body(index, *names))
        following = self.add(index, step)
        latch = self.block
        self.do(f"br i1 {self.less(following, stop)}, label %{head}, label %{done}")
        phis = [f"  {index} = phi i64 [ {start}, %{before} ], [ {following}, %{latch} ]"]
        phis += [
            f"  {name} = phi {kind} [ {first}, %{before} ], [ {value}, %{latch} ]"
            for name, (kind, first), value in zip(names, carried, values, strict=True)
        ]
        self.lines[hole:hole] = phis
        self.label(done)
        if once:
            return values
        return [
            self.let(f"phi {kind} [ {first}, %{before} ], [ {value}, %{latch} ]")
            for (kind, first), value in zip(carried, values, strict=True)
        ]

    def repeat(
        self, begin: Value, body: Callable[..., tuple[Sequence[Value], Value]], carried: Sequence[tuple[str, Value]]
    ) -> list[Value]:
        """Write `if begin: do values, more = body(*values) while more`; return the values at the end."""
        head, done, before = self.fresh("again"), self.fresh("done"), self.block
        self.do(f"br i1 {begin}, label %{head}, label %{done}")
        self.label(head)
        self.count += 1
        names = [f"%c{self.count}_{n}" for n in range(len(carried))]
        hole = len(self.lines)
        values, more = body(*names)
        latch = self.block
        self.do(f"br i1 {more}, label %{head}, label %{done}")
        self.lines[hole:hole] = [
            f"  {name} = phi {kind} [ {first}, %{before} ], [ {value}, %{latch} ]"
            for name, (kind, first), value in zip(names, carried, values, strict=True)
        ]
        self.label(done)
        return [
            self.let(f"phi {kind} [ {first}, %{before} ], [ {value}, %{latch} ]")
            for (kind, first), value in zip(carried, values, strict=True)
        ]

    def when(
        self, condition: Value, then: Callable[[], object], other: Callable[[], object] | None = None
    ) -> None:
        """Write `if condition: then() else: other()`."""
        yes, no, after = self.fresh("then"), self.fresh("else"), self.fresh("after")
        self.do(f"br i1 {condition}, label %{yes}, label %{no if other else after}")
        self.label(yes)
        then()
        self.do(f"br label %{after}")
        if other:
            self.label(no)
            other()
            self.do(f"br label %{after}")
        self.label(after)

    def select(self, condition: Value, a: Value, b: Value, kind: str = "i64") -> Value:
        return self.let(f"select i1 {condition}, {kind} {a}, {kind} {b}")

    def function(self, signature: str) -> str:
        """Return the finished function."""
        return f"define {signature} {{\nentry:\n" + "\n".join(self.lines) + "\n  ret void\n}\n"


SCALAR = {
    "float32": "float",
    "float64": "double",
    "float16": "half",
    "bfloat16": "bfloat",
    "int32": "i32",
    "int8": "i8",
    "uint8": "i8",
}
_MANGLED = {"float": "f32", "double": "f64", "half": "f16", "bfloat": "bf16"}
_BITS = {"float": 32, "double": 64, "half": 16, "bfloat": 16, "i32": 32, "i8": 8}


def _element(kind: str) -> str:
    return kind[1:-1].split(" x ")[1] if kind[0] == "<" else kind


def bits(kind: str) -> int:
    """Return the width of an element of a type."""
    return _BITS[_element(kind)]


def mangle(vector: str) -> str:
    """Return the suffix LLVM gives intrinsics over `vector`, such as v16f32."""
    lanes, kind = vector[1:-1].split(" x ")
    return f"v{lanes}{_MANGLED.get(kind, kind)}"


def module(functions: Sequence[str], declared: set[str]) -> str:
    """Return the text of a module."""
    return "\n".join(functions) + "\n".join(sorted(declared)) + "\n"
