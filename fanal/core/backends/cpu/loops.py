"""What loop kernels of every form share: argument words, addresses, and how single values are written."""

from __future__ import annotations

import itertools

import numpy as np

from fanal.core.backends.cpu.emit import LANES, REGISTER, STORED, Emitter, Scalar, vector
from fanal.core.backends.cpu.irtext import Value, Writer
from fanal.core.backends.cpu.target import Target
from fanal.core.base import dtype as dt
from fanal.core.base.dim import Dim
from fanal.core.base.dtype import dtype as DType
from fanal.core.compiler.loopir import INNER, OUTER, REDUCED, Access, Loop, Op

_WIDTH = {"i1": 8, "i8": 8, "i16": 16, "i32": 32, "i64": 64, "half": 16, "float": 32, "double": 64}
IOTA = "<" + ", ".join(f"i64 {i}" for i in range(LANES)) + ">"


WRITTEN = (1, 2)  # strides along vectors that are part of a kernel's text
_EVEN = ", ".join(f"i32 {2 * i}" for i in range(LANES // 2))
_ODD = ", ".join(f"i32 {LANES + 2 * i + 1}" for i in range(LANES // 2))


def accumulator(dtype: DType) -> DType:
    """Return the dtype a reduction adds up in."""
    return dt.ACCUMULATE.get(dtype, dtype)


def identity(e: Emitter, how: str, dtype: DType) -> Scalar:
    """Return what a reduction starts from."""
    if how == "sum":
        return e.const(0, dtype)
    if how == "prod":
        return e.const(1, dtype)
    low = how in ("max_of", "max_number", "nan")
    if dtype.is_floating_point:
        return e.const(-np.inf if low else np.inf, dtype)
    if dtype is dt.bool_:
        return e.const(not low, dtype)
    info = np.iinfo(dtype.np)
    return e.const(int(info.min if low else info.max), dtype)


def combine(e: Emitter, how: str, a: Scalar, b: Scalar) -> Scalar:
    """Return one step of a reduction; those to the largest and smallest number take no notice of NaN in `b`."""
    if how in ("max_number", "min_number"):
        return e.where(e.fcmp("ogt" if how == "max_number" else "olt", b, a), b, a)
    return {"sum": e.add, "prod": e.mul, "max_of": e.max, "min_of": e.min, "nan": e.max}[how](a, b)


def word_bits(value: float | int | bool, dtype: DType) -> int:
    """Return the argument word that holds a number of `dtype`, as its register form's bits."""
    if type(value) is Dim:
        if dtype is dt.int64:
            return value
        value = value.fixed()
    with np.errstate(all="ignore"):
        if dtype.category == 1:
            return int(value) & (1 << 8 * dtype.itemsize) - 1
        if dtype is dt.bool_:
            return int(bool(value))
        x = np.asarray(value).astype(dtype.np)
        if dtype in (dt.float16, dt.bfloat16):
            x = x.astype(np.float32)
    return int(x.view(np.uint32 if x.itemsize == 4 else np.uint64))


def access_key(a: Access, vector_dim: int | None) -> str:
    """Return the structure of an access: per dimension 0, 1 or 2 (along vectors) or s (a run-time stride)."""
    kinds = "".join(
        "0" if s == 0 else str(s) if s in WRITTEN and d == vector_dim else "s"
        for d, s in enumerate(a.strides)
    )
    return f"{a.dtype.name}[{kinds}]" + "".join(f"@{i}" + "+" * is_one(s) for i, s in a.at)


def is_one(step: int) -> bool:
    """Tell whether a computed index counts single elements: that is part of the structure, a named size never."""
    return type(step) is int and step == 1


def op_key(op: Op) -> str:
    if op.kind == "point":
        params = ",".join(p.name if isinstance(p, DType) else repr(p) for p in op.params[1:])
        what = f"{op.params[0].name}({params})"
    elif op.kind == "index":
        what = "".join("0" if s == 0 else "1" if s == 1 else "s" for s in op.params[1])
    elif op.kind == "word":
        what = ""
    else:
        what = repr(op.params)
    return f"{op.kind} {what}{list(op.args)}:{op.dtype.name}"


class Words:
    """Numbers the argument words, and collects their values for a launch."""

    def __init__(self) -> None:
        self.values: list = []

    def __call__(self, value: object) -> int:
        self.values.append(value)
        return len(self.values) - 1


class LoopWriter:
    """Writes the values of one loop. Forms differ in their control flow and subclass this."""

    def __init__(self, loop: Loop, target: Target, streams: frozenset[int] = frozenset()) -> None:
        self.loop = loop
        self.streams = streams  # stores to memory that no cache keeps
        self.w = Writer(target, set())
        self.scalar, self.vector = Emitter(self.w, 1), Emitter(self.w, LANES)
        self.words = itertools.count()
        self.known: dict[int, Scalar] = {}  # scalars by op
        self.splats: dict[int, Scalar] = {}
        self.bases: dict[int, Value] = {}  # addresses of accesses with the outer indices applied
        self.index: dict[int, Value] = {}  # loop indices by dimension

    # Arguments, in the order of launch.loop_words.

    def read_words(self) -> None:
        w, loop = self.w, self.loop
        self.sizes = [w.word("%args", next(self.words)) for _ in loop.dims]
        self.vector_dim = len(loop.dims) - 1
        self.accesses: list[Access] = [*loop.loads, *(a for _, a in loop.stores)]
        self.pointers, self.strides, self.at = [], [], []
        for a in self.accesses:
            self.pointers.append(w.word("%args", next(self.words), pointer=True))
            steps: list[Value] = []
            for d, s in enumerate(a.strides):
                known = s in WRITTEN and d == self.vector_dim
                steps.append(
                    "0"
                    if s == 0
                    else str(s * a.dtype.itemsize)
                    if known
                    else w.word("%args", next(self.words))
                )
            self.strides.append(steps)
            self.at.append([str(a.dtype.itemsize) if is_one(s) else w.word("%args", next(self.words)) for _, s in a.at])
        self.op_words: dict[int, list[Value]] = {}
        for i, op in enumerate(loop.ops):
            if op.kind == "word":
                self.op_words[i] = [w.word("%args", next(self.words))]
            elif op.kind == "index":
                self.op_words[i] = [w.word("%args", next(self.words))] + [
                    "0" if s == 0 else "1" if s == 1 else w.word("%args", next(self.words))
                    for s in op.params[1]
                ]

    def decode(self, flat: Value, dims: range) -> None:
        """Set the indices of `dims` from their flattened index."""
        w = self.w
        for d in reversed(dims):
            if d == dims[0]:
                self.index[d] = flat
            else:
                up = w.div(flat, self.sizes[d])
                self.index[d] = w.sub(flat, w.mul(up, self.sizes[d]))
                flat = up

    def offset(self, steps: list[Value], dims: range) -> Value:
        """Return the sum of indices times steps over `dims`."""
        total = "0"
        for d in dims:
            if steps[d] != "0":
                total = self.w.add(total, self.w.mul(self.index[d], steps[d]))
        return total

    # Values that do not run along vectors.

    def scalar_value(self, i: int) -> Scalar:
        """Return op `i`, written as a scalar where the writer stands if it is not known."""
        found = self.known.get(i)
        if found is None:
            op = self.loop.ops[i]
            args = [self.scalar_value(a) for a in op.args]
            found = self.known[i] = self.write_scalar(i, op, args)
        return found

    def write_scalar(self, i: int, op: Op, args: list[Scalar]) -> Scalar:
        w, e = self.w, self.scalar
        if op.kind == "point":
            return op.params[0].code(e, *args, *op.params[1:])
        if op.kind == "const":
            return e.const(op.params, op.dtype)
        if op.kind == "word":
            return self.from_word(self.op_words[i][0], op.dtype)
        if op.kind == "index":
            base, *steps = self.op_words[i]
            return Scalar(w.add(base, self.offset(steps, range(len(steps)))), op.dtype, 1)
        assert op.kind == "load", op
        kind = STORED[op.dtype]
        return e.unpack(w.let(f"load {kind}, ptr {self.base(op.params)}"), op.dtype, 1)

    def from_word(self, word: Value, dtype: DType) -> Scalar:
        kind = REGISTER[dtype]
        bits = _WIDTH[kind] if kind != "i1" else 1
        if bits < 64:
            word = self.w.let(f"trunc i64 {word} to i{bits}")
        if kind in ("float", "double"):
            word = self.w.let(f"bitcast i{bits} {word} to {kind}")
        return Scalar(word, dtype, 1)

    def base(self, access: int) -> Value:
        """Return the address of an access with all scalar indices applied."""
        found = self.bases.get(access)
        if found is None:
            a = self.accesses[access]
            dims = range(len(self.loop.outer))
            total = self.offset(self.strides[access], dims)
            for (op, _), step in zip(a.at, self.at[access]):
                if not self.loop.ops[op].deps & ~OUTER:
                    total = self.w.add(total, self.w.mul(self.scalar_value(op).name, step))
            found = self.bases[access] = self.w.at(self.pointers[access], total)
        return found

    def splat(self, i: int) -> Scalar:
        """Return a scalar op in every lane."""
        found = self.splats.get(i)
        if found is None:
            op = self.loop.ops[i]
            if op.kind == "const":
                found = self.vector.const(op.params, op.dtype)
            else:
                found = self.vector.splat(self.scalar_value(i))
            self.splats[i] = found
        return found

    # Values along vectors.

    def vector_op(
        self, i: int, op: Op, args: list[Scalar], address: Value, at: Value, mask: Value | None
    ) -> Scalar:
        """Write one op for the vector whose first lane has index `at`; `address` is its base when it is a load."""
        if op.kind == "point":
            return op.params[0].code(self.vector, *args, *op.params[1:])
        if op.kind == "index":
            return Scalar(self.lane_offsets(address, at, self.op_words[i][1:][-1]), op.dtype, LANES)
        return self.load(op, address, at, mask)

    def lane_offsets(self, base: Value, at: Value, step: Value) -> Value:
        """Return base + (at + lane) * step as a vector of i64."""
        w, kind = self.w, f"<{LANES} x i64>"
        lanes = IOTA if step == "1" else w.let(f"mul {kind} {IOTA}, {w.splat(kind, step)}")
        first = w.add(base, w.mul(at, step))
        return lanes if first == "0" else w.let(f"add {kind} {lanes}, {w.splat(kind, first)}")

    def load(self, op: Op, address: Value, at: Value, mask: Value | None) -> Scalar:
        w, kind = self.w, STORED[op.dtype]
        a = self.accesses[op.params]
        step = self.strides[op.params][self.vector_dim]
        size = op.dtype.itemsize
        varied = [(i, s) for (i, _), s in zip(a.at, self.at[op.params]) if self.loop.ops[i].deps & ~OUTER]
        if self.loop.form == "columns":  # an index of the row is one number for all columns
            for i, s in [(i, s) for i, s in varied if not self.loop.ops[i].deps & INNER]:
                one = w.let(f"extractelement <{LANES} x i64> {self.lane_value(i).name}, i64 0")
                address = w.at(address, w.mul(one, s))
            varied = [(i, s) for i, s in varied if self.loop.ops[i].deps & INNER]
        if not varied and a.strides[self.vector_dim] == 1:
            where = w.let(f"getelementptr {kind}, ptr {address}, i64 {at}")
            return self.vector.unpack(w.load(vector(kind, LANES), where, mask, size), op.dtype, LANES)
        if not varied and a.strides[self.vector_dim] == 2:
            where = w.at(address, at, 2 * size)
            full = vector(kind, LANES)
            # The upper half begins one element early: nothing is read past the last element that is asked for.
            low = w.load(full, where, self._spaced(mask, 0, 0) if mask else None, size)
            high = w.load(
                full,
                w.at(where, str(LANES - 1), size),
                self._spaced(mask, LANES // 2, 1) if mask else None,
                size,
            )
            both = w.let(f"shufflevector {full} {low}, {full} {high}, <{LANES} x i32> <{_EVEN}, {_ODD}>")
            return self.vector.unpack(both, op.dtype, LANES)
        if not varied and step == "0":
            one = self.scalar.unpack(w.let(f"load {kind}, ptr {address}"), op.dtype, 1)
            return self.vector.splat(one)
        many = f"<{LANES} x i64>"
        offsets = self.lane_offsets("0", at, step) if step != "0" else "zeroinitializer"
        for i, s in varied:
            there = w.let(f"mul {many} {self.lane_value(i).name}, {w.splat(many, s)}")
            offsets = there if offsets == "zeroinitializer" else w.let(f"add {many} {offsets}, {there}")
        where = w.let(f"getelementptr i8, ptr {address}, {many} {offsets}")
        full = vector(kind, LANES)
        short = {"float": "f32", "double": "f64", "half": "f16"}.get(kind, kind)
        got = w.call(
            full,
            f"llvm.masked.gather.v{LANES}{short}.v{LANES}p0",
            (f"<{LANES} x ptr>", where),
            ("i32", str(size)),
            (f"<{LANES} x i1>", mask or "splat (i1 true)"),
            (full, "zeroinitializer"),
        )
        return self.vector.unpack(got, op.dtype, LANES)

    def lane_value(self, i: int) -> Scalar:
        """Return an op in lanes, as the current body knows it."""
        raise NotImplementedError

    def _spaced(self, x: Value, first: int, skip: int, kind: str = "i1") -> Value:
        """Return half the lanes of `x`, from `first` on, at every other lane from `skip` on, and zeros between."""
        full = vector(kind, LANES)
        order = ", ".join(f"i32 {first + i // 2 if i % 2 == skip else LANES}" for i in range(LANES))
        return self.w.let(f"shufflevector {full} {x}, {full} zeroinitializer, <{LANES} x i32> <{order}>")

    def store(self, access: int, value: Scalar, address: Value, at: Value, mask: Value | None) -> None:
        """Store a vector."""
        w, a = self.w, self.accesses[access]
        kind, size = STORED[a.dtype], a.dtype.itemsize
        packed = self.vector.pack(value)
        full = vector(kind, LANES)
        if a.strides[self.vector_dim] == 1:
            there = w.let(f"getelementptr {kind}, ptr {address}, i64 {at}")
            if access not in self.streams or mask is not None:
                w.store(full, packed, there, mask, size)
                return
            # The arrays of NumPy need not be aligned as ours are, and the instruction asks for it.
            low = w.let(f"and i64 {w.let(f'ptrtoint ptr {there} to i64')}, {LANES * size - 1}")
            w.when(w.let(f"icmp eq i64 {low}, 0"), lambda: w.stream(full, packed, there, LANES * size),
                   lambda: w.store(full, packed, there, None, size))
            return
        if a.strides[self.vector_dim] == 2:
            lanes = mask or "splat (i1 true)"
            for half in (0, LANES):
                there = w.at(w.at(address, at, 2 * size), str(half), size)
                spread = self._spaced(packed, half // 2, 0, kind)
                w.store(full, spread, there, self._spaced(lanes, half // 2, 0), size)
            return
        offsets = self.lane_offsets("0", at, self.strides[access][self.vector_dim])
        where = w.let(f"getelementptr i8, ptr {address}, <{LANES} x i64> {offsets}")
        short = {"float": "f32", "double": "f64", "half": "f16"}.get(kind, kind)
        w.call(
            "void",
            f"llvm.masked.scatter.v{LANES}{short}.v{LANES}p0",
            (full, packed),
            (f"<{LANES} x ptr>", where),
            ("i32", str(size)),
            (f"<{LANES} x i1>", mask or "splat (i1 true)"),
        )

    def closure(self, roots: list[int], stop: set[int]) -> list[int]:
        """Return the ops that `roots` need, in order, not looking behind `stop`."""
        ops = self.loop.ops
        seen: set[int] = set()
        stack = list(roots)
        while stack:
            i = stack.pop()
            if i in seen:
                continue
            seen.add(i)
            if i in stop or ops[i].kind == "reduce":
                continue
            stack.extend(self.loop.operands(ops[i]))
        return sorted(seen)


__all__ = [
    "INNER",
    "OUTER",
    "REDUCED",
    "WRITTEN",
    "LoopWriter",
    "Words",
    "access_key",
    "accumulator",
    "combine",
    "identity",
    "op_key",
    "word_bits",
]
