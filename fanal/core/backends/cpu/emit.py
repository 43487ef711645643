"""The emitter that primitives' `code` fields are written against: one call, one vector (or scalar) of IR.

float16 and bfloat16 values live in float32 registers and are rounded after every operation, so that fusing never
changes a bit. bool lives in i1. No operation is contracted or reassociated.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from fanal.core.backends.cpu import vecmath
from fanal.core.backends.cpu.irtext import Writer
from fanal.core.backends.cpu.vecmath_single import FUNCTIONS
from fanal.core.base import dtype as dt
from fanal.core.base.dtype import dtype as DType

LANES = 16  # of every kernel and target: the reduction trees, and so the bits, do not depend on the machine
STORED = {
    dt.bool_: "i8",
    dt.int8: "i8",
    dt.uint8: "i8",
    dt.int16: "i16",
    dt.uint16: "i16",
    dt.int32: "i32",
    dt.uint32: "i32",
    dt.int64: "i64",
    dt.uint64: "i64",
    dt.float16: "half",
    dt.bfloat16: "i16",
    dt.float32: "float",
    dt.float64: "double",
}
REGISTER = {**STORED, dt.bool_: "i1", dt.float16: "float", dt.bfloat16: "float"}
_SHORT = {"float": "f32", "double": "f64", "half": "f16"}


class Scalar:
    """One value in registers: an SSA name or literal, its dtype and how many lanes it has."""

    __slots__ = ("dtype", "lanes", "name")

    def __init__(self, name: str, dtype: DType, lanes: int) -> None:
        self.name, self.dtype, self.lanes = name, dtype, lanes


def literal(value: float | int | bool, kind: str) -> str:
    """Return the LLVM literal of a number in the register type `kind`."""
    if kind in ("float", "double"):
        with np.errstate(over="ignore"):
            wide = float(np.float32(value)) if kind == "float" else float(value)
        return f"0x{struct.unpack('<Q', struct.pack('<d', wide))[0]:016X}"
    return str(int(value))


def vector(kind: str, lanes: int) -> str:
    """Return the LLVM type of `lanes` elements of `kind`."""
    return kind if lanes == 1 else f"<{lanes} x {kind}>"


def suffix(kind: str, lanes: int) -> str:
    """Return how LLVM mangles that type in the names of intrinsics."""
    short = _SHORT.get(kind, kind)
    return short if lanes == 1 else f"v{lanes}{short}"


class Emitter:
    """Writes one operation at a time. `lanes` is the width of constants."""

    def __init__(self, writer: Writer, lanes: int = LANES) -> None:
        self.w = writer
        self.lanes = lanes

    # Building blocks.

    def type(self, dtype: DType, lanes: int | None = None) -> str:
        return vector(REGISTER[dtype], self.lanes if lanes is None else lanes)

    def make(self, text: str, dtype: DType, lanes: int) -> Scalar:
        return Scalar(self.w.let(text), dtype, lanes)

    def const(self, value: float | int | bool, dtype: DType) -> Scalar:
        """Return a constant in every lane."""
        if dtype in (dt.float16, dt.bfloat16):
            with np.errstate(all="ignore"):
                value = float(np.asarray(value).astype(dtype.np))
        elif dtype.category == 1:
            value = int(np.asarray(int(value) & (1 << 8 * dtype.itemsize) - 1, np.uint64).astype(dtype.np))
        text = literal(value, REGISTER[dtype])
        return Scalar(text if self.lanes == 1 else f"splat ({REGISTER[dtype]} {text})", dtype, self.lanes)

    def splat(self, x: Scalar) -> Scalar:
        """Copy a scalar to every lane."""
        return (
            Scalar(self.w.splat(vector(REGISTER[x.dtype], LANES), x.name), x.dtype, LANES)
            if x.lanes == 1
            else x
        )

    def op(self, name: str, a: Scalar, b: Scalar) -> Scalar:
        return self.make(f"{name} {self.type(a.dtype, a.lanes)} {a.name}, {b.name}", a.dtype, a.lanes)

    def cast(self, name: str, x: Scalar, to: DType) -> Scalar:
        return self.make(
            f"{name} {self.type(x.dtype, x.lanes)} {x.name} to {self.type(to, x.lanes)}", to, x.lanes
        )

    def intrinsic(self, name: str, *args: Scalar) -> Scalar:
        """Call an overloaded intrinsic whose operands and result have one type."""
        x = args[0]
        kind = self.type(x.dtype, x.lanes)
        full = f"llvm.{name}.{suffix(REGISTER[x.dtype], x.lanes)}"
        return Scalar(self.w.call(kind, full, *((kind, a.name) for a in args)), x.dtype, x.lanes)

    def scales(self, x: Scalar) -> bool:
        """Tell whether one instruction multiplies x by powers of two."""
        return self.w.target.name == "avx512" and x.dtype is dt.float32 and x.lanes == 16

    def scaled(self, x: Scalar, n: Scalar, where: Scalar) -> Scalar:
        """Return x * 2**n rounded once, for whole n, and 0 outside `where`; only if it `scales`."""
        kind = self.type(x.dtype, 16)
        mask = self.w.let(f"bitcast <16 x i1> {where.name} to i16")
        current = ("i32", "4")  # the rounding mode in force
        operands = ((kind, x.name), (kind, n.name), (kind, "zeroinitializer"), ("i16", mask), current)
        return Scalar(self.w.call(kind, "llvm.x86.avx512.mask.scalef.ps.512", *operands), x.dtype, 16)

    @property
    def looks_up(self) -> bool:
        """Tell whether tables of 16 numbers are looked up by one instruction, and not only those of four."""
        return self.w.target.name == "avx512"

    def lookup(self, table: Sequence[float], index: Scalar) -> Scalar:
        """Return table[index % len(table)] of 4 or 16 float32 numbers, for an int32 index."""
        w, lanes = self.w, index.lanes
        numbers = [f"float {literal(x, 'float')}" for x in table]

        def permuted(function: str, table: Sequence[str], index: str) -> str:
            n = len(table)
            operands = ((f"<{n} x float>", f"<{', '.join(table)}>"), (f"<{n} x i32>", index))
            return w.call(f"<{n} x float>", function, *operands)

        if len(table) == 16 == lanes and self.looks_up:
            return Scalar(permuted("llvm.x86.avx512.permvar.sf.512", numbers, index.name), dt.float32, lanes)
        if len(table) == 4 and w.target.name == "avx2" and lanes % 8 == 0:
            def order(first: int, n: int) -> str:
                return f"<{n} x i32> <{', '.join(f'i32 {first + i}' for i in range(n))}>"

            parts = [index.name] if lanes == 8 else [
                w.let(f"shufflevector <16 x i32> {index.name}, <16 x i32> poison, {order(k, 8)}") for k in (0, 8)]
            found = [permuted("llvm.x86.avx.vpermilvar.ps.256", [*numbers, *numbers], i) for i in parts]
            whole = found[0] if lanes == 8 else w.let(
                f"shufflevector <8 x float> {found[0]}, <8 x float> {found[1]}, {order(0, 16)}")
            return Scalar(whole, dt.float32, lanes)
        if lanes == 1:
            text = ", ".join(numbers)
            name = f"@table_{zlib.crc32(text.encode()):08x}"
            w.declared.add(f"{name} = private constant [{len(table)} x float] [{text}]")
            place = w.let(f"and i32 {index.name}, {len(table) - 1}")
            place = w.let(f"getelementptr float, ptr {name}, i32 {place}")
            return Scalar(w.let(f"load float, ptr {place}"), dt.float32, 1)
        # By the bits of the index, the lowest first.
        old, self.lanes = self.lanes, lanes
        rest, bit = [self.const(x, dt.float32) for x in table], 1
        while len(rest) > 1:
            odd = self.icmp("ne", self.op("and", index, self.const(bit, dt.int32)), self.const(0, dt.int32))
            rest, bit = [self._select(odd, y, x) for x, y in zip(rest[::2], rest[1::2], strict=True)], 2 * bit
        self.lanes = old
        return rest[0]

    def fma(self, a: Scalar, b: Scalar, c: Scalar) -> Scalar:
        """a*b+c inside mathematical functions; rounded twice where the target has no such instruction."""
        if self.w.target.fma:
            return self.intrinsic("fma", a, b, c)
        return self.op("fadd", self.op("fmul", a, b), c)

    def fcmp(self, how: str, a: Scalar, b: Scalar) -> Scalar:
        return self.make(f"fcmp {how} {self.type(a.dtype, a.lanes)} {a.name}, {b.name}", dt.bool_, a.lanes)

    def icmp(self, how: str, a: Scalar, b: Scalar) -> Scalar:
        return self.make(f"icmp {how} {self.type(a.dtype, a.lanes)} {a.name}, {b.name}", dt.bool_, a.lanes)

    def rounded(self, x: Scalar, to: DType) -> Scalar:
        """Round a float32 register to a 16-bit type, staying in float32; other types pass."""
        if to is dt.float16:
            half = vector("half", x.lanes)
            kind = vector("float", x.lanes)
            return self.make(
                f"fpext {half} {self.w.let(f'fptrunc {kind} {x.name} to {half}')} to {kind}", to, x.lanes
            )
        if to is dt.bfloat16:
            return self._bits_back(self._bfloat_bits(x), to)
        return x

    def _bfloat_bits(self, x: Scalar) -> Scalar:
        """Return a float32's bits rounded to nearest even at bit 16, low half cleared; NaN stays NaN.

        In integers because the instruction for it flushes subnormal numbers.
        """
        bits = self.cast("bitcast", Scalar(x.name, dt.float32, x.lanes), dt.int32)
        old, self.lanes = self.lanes, x.lanes
        half, low = self.const(0x7FFF, dt.int32), self.const(1, dt.int32)
        odd = self.op("and", self.op("lshr", bits, self.const(16, dt.int32)), low)
        up = self.op("add", bits, self.op("add", half, odd))
        nan = self.fcmp("uno", Scalar(x.name, dt.float32, x.lanes), Scalar(x.name, dt.float32, x.lanes))
        quiet = self.op("or", bits, self.const(0x400000, dt.int32))
        kept = self.op("and", self._select(nan, quiet, up), self.const(-0x10000, dt.int32))
        self.lanes = old
        return kept

    def rounded_by_processor(self, x: Scalar) -> Scalar:
        """Round a float32 that is not subnormal to bfloat16, in one instruction where there is one."""
        return self.unpack(self.packed_by_processor(x), dt.bfloat16, x.lanes)

    def packed_by_processor(self, x: Scalar) -> str:
        """Return the same as memory holds it."""
        half = self.w.let(f"fptrunc {vector('float', x.lanes)} {x.name} to {vector('bfloat', x.lanes)}")
        return self.w.let(f"bitcast {vector('bfloat', x.lanes)} {half} to {vector('i16', x.lanes)}")

    def _bits_back(self, bits: Scalar, to: DType) -> Scalar:
        kind = vector("float", bits.lanes)
        return self.make(f"bitcast {vector('i32', bits.lanes)} {bits.name} to {kind}", to, bits.lanes)

    def _select(self, c: Scalar, a: Scalar, b: Scalar) -> Scalar:
        kind = self.type(a.dtype, a.lanes)
        return self.make(
            f"select {vector('i1', c.lanes)} {c.name}, {kind} {a.name}, {kind} {b.name}", a.dtype, a.lanes
        )

    # Memory form and register form.

    def unpack(self, name: str, dtype: DType, lanes: int) -> Scalar:
        """Turn what was loaded from memory into a register value."""
        if dtype is dt.bool_:
            kind = vector("i8", lanes)
            return self.make(
                f"icmp ne {kind} {name}, {'0' if lanes == 1 else 'zeroinitializer'}", dtype, lanes
            )
        if dtype is dt.float16:
            return self.make(
                f"fpext {vector('half', lanes)} {name} to {vector('float', lanes)}", dtype, lanes
            )
        if dtype is dt.bfloat16:
            wide = self.w.let(f"zext {vector('i16', lanes)} {name} to {vector('i32', lanes)}")
            by = "16" if lanes == 1 else "splat (i32 16)"
            return self._bits_back(
                self.make(f"shl {vector('i32', lanes)} {wide}, {by}", dt.int32, lanes), dtype
            )
        return Scalar(name, dtype, lanes)

    def pack(self, x: Scalar) -> str:
        """Turn a register value into what memory holds."""
        if x.dtype is dt.bool_:
            return self.w.let(f"zext {vector('i1', x.lanes)} {x.name} to {vector('i8', x.lanes)}")
        if x.dtype is dt.float16:
            return self.w.let(f"fptrunc {vector('float', x.lanes)} {x.name} to {vector('half', x.lanes)}")
        if x.dtype is dt.bfloat16:
            i32 = vector("i32", x.lanes)
            bits = self.w.let(f"bitcast {vector('float', x.lanes)} {x.name} to {i32}")
            by = "16" if x.lanes == 1 else "splat (i32 16)"
            return self.w.let(
                f"trunc {i32} {self.w.let(f'lshr {i32} {bits}, {by}')} to {vector('i16', x.lanes)}"
            )
        return x.name

    # Conversion.

    def convert(self, x: Scalar, to: DType) -> Scalar:
        """Convert as the reference does: to bool is `!= 0`, float to a narrow integer goes through int64."""
        old, self.lanes = self.lanes, x.lanes
        try:
            return self._convert(x, to)
        finally:
            self.lanes = old

    def _convert(self, x: Scalar, to: DType) -> Scalar:
        of = x.dtype
        if of is to:
            return x
        if to is dt.bool_:
            zero = self.const(0, of)
            return self.fcmp("une", x, zero) if of.is_floating_point else self.icmp("ne", x, zero)
        if of.is_floating_point and to.is_floating_point:
            return self._float_to_float(x, to)
        if of.is_floating_point:
            return self._float_to_int(x, to)
        if to.is_floating_point:
            wide = to if to is dt.float64 else dt.float32
            y = self.cast("sitofp" if of.is_signed else "uitofp", x, wide)
            return self.rounded(y, to)
        if to.itemsize == of.itemsize and of is not dt.bool_:
            return Scalar(x.name, to, x.lanes)
        if of is not dt.bool_ and to.itemsize < of.itemsize:
            return self.cast("trunc", x, to)
        return self.cast("sext" if of.is_signed else "zext", x, to)

    def _float_to_float(self, x: Scalar, to: DType) -> Scalar:
        if to is dt.float64:
            return self.cast("fpext", x, to)
        if to is dt.float32:
            return self.cast("fptrunc", x, to) if x.dtype is dt.float64 else Scalar(x.name, to, x.lanes)
        if x.dtype is dt.float64:
            narrow = self.cast("fptrunc", x, dt.float32)
            x = self._to_odd(x, narrow) if to is dt.float16 else narrow
        return self.rounded(Scalar(x.name, dt.float32, x.lanes), to)

    def _to_odd(self, x: Scalar, near: Scalar) -> Scalar:
        """Make float32 `near` the round-to-odd of float64 `x`, so that rounding it again is rounding once."""
        back = self.cast("fpext", near, dt.float64)
        bits = self.cast("bitcast", near, dt.int32)
        one, zero = self.const(1, dt.int32), self.const(0, dt.int32)
        even = self.icmp("eq", self.op("and", bits, one), zero)
        inexact = self.fcmp("one", back, x)
        below = self.fcmp("olt", self.intrinsic("fabs", back), self.intrinsic("fabs", x))
        step = self._select(below, one, self.const(-1, dt.int32))
        moved = self._select(self.and_(even, inexact), self.op("add", bits, step), bits)
        return self.cast("bitcast", moved, dt.float32)

    def _float_to_int(self, x: Scalar, to: DType) -> Scalar:
        limit = self.const(2.0**63, x.dtype)
        fits = self.and_(self.fcmp("oge", x, self.neg(limit)), self.fcmp("olt", x, limit))
        safe = self._select(fits, x, self.const(0, x.dtype))
        wide = self._select(fits, self.cast("fptosi", safe, dt.int64), self.const(-(1 << 63), dt.int64))
        return self._convert(wide, to)

    def bitcast(self, x: Scalar, to: DType) -> Scalar:
        """Reinterpret the stored bits."""
        kind = STORED[to]
        packed = self.pack(x)
        of = vector(STORED[x.dtype], x.lanes)
        same = vector(kind, x.lanes)
        return self.unpack(
            packed if of == same else self.w.let(f"bitcast {of} {packed} to {same}"), to, x.lanes
        )

    # Arithmetic.

    def _arith(self, a: Scalar, b: Scalar, floating: str, integer: str, boolean: str) -> Scalar:
        if a.dtype.is_floating_point:
            return self.rounded(self.op(floating, a, b), a.dtype)
        return self.op(boolean if a.dtype is dt.bool_ else integer, a, b)

    def add(self, a: Scalar, b: Scalar) -> Scalar:
        return self._arith(a, b, "fadd", "add", "or")

    def sub(self, a: Scalar, b: Scalar) -> Scalar:
        return self._arith(a, b, "fsub", "sub", "xor")

    def mul(self, a: Scalar, b: Scalar) -> Scalar:
        return self._arith(a, b, "fmul", "mul", "and")

    def div(self, a: Scalar, b: Scalar) -> Scalar:
        return self.rounded(self.op("fdiv", a, b), a.dtype)

    def fmod(self, a: Scalar, b: Scalar) -> Scalar:
        if a.dtype is dt.float64:
            return vecmath.library(self, "fmod", a, b)
        if a.dtype.is_floating_point:
            return self.convert(self._fmod(*(self.convert(x, dt.float64) for x in (a, b))), a.dtype)
        zero, one = self._like(a, 0), self._like(a, 1)
        bad = self.icmp("eq", b, zero)
        if a.dtype.is_signed:  # the smallest integer modulo -1 traps
            bad = self.or_(bad, self.icmp("eq", b, self._like(a, -1)))
        rest = self.op("srem" if a.dtype.is_signed else "urem", a, self._select(bad, one, b))
        return self._select(bad, zero, rest)

    def idiv(self, a: Scalar, b: Scalar) -> Scalar:
        """Divide integers, rounding toward zero; a zero among the divisors is reported by its check."""
        one = self._like(a, 1)
        safe = self._select(self.icmp("eq", b, self._like(b, 0)), one, b)
        if not a.dtype.is_signed:
            return self.op("udiv", a, safe)
        back = self.icmp("eq", b, self._like(b, -1))  # the smallest integer over -1 traps
        return self._select(back, self.neg(a), self.op("sdiv", a, self._select(back, one, safe)))

    def _fmod(self, a: Scalar, b: Scalar) -> Scalar:
        """fmod of numbers that float32 holds. A quotient below 2**28 that is not whole is 2**-24 away from one that is,
        so float64 cuts it right, and every product with it is exact."""
        times = self.trunc(self.op("fdiv", a, b))
        rest = self.intrinsic("copysign", self.op("fsub", a, self.op("fmul", times, b)), a)
        few = self.fcmp("olt", self.abs(times), self._like(a, 2.0**28))
        finite = self.fcmp("olt", self.abs(b), self._like(a, float("inf")))
        other = self.not_(self.and_(few, finite))
        return self.rarely(other, rest, lambda: vecmath.library(self, "fmod", a, b))

    def _like(self, x: Scalar, value: float) -> Scalar:
        old, self.lanes = self.lanes, x.lanes
        out = self.const(value, x.dtype)
        self.lanes = old
        return out

    def neg(self, x: Scalar) -> Scalar:
        if x.dtype.is_floating_point:
            return self.make(f"fneg {self.type(x.dtype, x.lanes)} {x.name}", x.dtype, x.lanes)
        return self.op("sub", self._like(x, 0), x)

    def abs(self, x: Scalar) -> Scalar:
        if x.dtype.is_floating_point:
            return self.intrinsic("fabs", x)
        if not x.dtype.is_signed:
            return x
        return self._select(self.icmp("slt", x, self._like(x, 0)), self.neg(x), x)

    def sign(self, x: Scalar) -> Scalar:
        zero, one = self._like(x, 0), self._like(x, 1)
        if x.dtype is dt.bool_:
            return x
        below = self._select(self.lt(x, zero), self._like(x, -1), zero) if x.dtype.is_signed else zero
        return self._select(self.lt(zero, x), one, below)

    def _whole(self, x: Scalar, name: str) -> Scalar:
        return self.intrinsic(name, x) if x.dtype.is_floating_point else x

    def floor(self, x: Scalar) -> Scalar:
        return self._whole(x, "floor")

    def ceil(self, x: Scalar) -> Scalar:
        return self._whole(x, "ceil")

    def trunc(self, x: Scalar) -> Scalar:
        return self._whole(x, "trunc")

    def round(self, x: Scalar) -> Scalar:
        return self._whole(x, "rint")

    def sqrt(self, x: Scalar) -> Scalar:
        return self.rounded(self.intrinsic("sqrt", x), x.dtype)

    def max(self, a: Scalar, b: Scalar) -> Scalar:
        """The larger; a NaN wins."""
        return self._extreme(a, b, "ogt", "sge", "uge", "or")

    def min(self, a: Scalar, b: Scalar) -> Scalar:
        return self._extreme(a, b, "olt", "sle", "ule", "and")

    def _extreme(
        self, a: Scalar, b: Scalar, floating: str, signed: str, unsigned: str, boolean: str
    ) -> Scalar:
        if a.dtype is dt.bool_:
            return self.op(boolean, a, b)
        if a.dtype.is_floating_point:
            kept = self._select(self.fcmp(floating, b, a), b, a)  # one instruction; a where one is a NaN
            return self._select(self.fcmp("uno", b, b), b, kept) if b.name[0] == "%" else kept
        return self._select(self.icmp(signed if a.dtype.is_signed else unsigned, a, b), a, b)

    # Bits and comparisons.

    def not_(self, x: Scalar) -> Scalar:
        return self.op("xor", x, self._like(x, 1 if x.dtype is dt.bool_ else -1))

    def and_(self, a: Scalar, b: Scalar) -> Scalar:
        return self.op("and", a, b)

    def or_(self, a: Scalar, b: Scalar) -> Scalar:
        return self.op("or", a, b)

    def _outside(self, b: Scalar) -> Scalar:
        """Tell where a shift count is negative or not below the width."""
        return self.icmp("uge", b, self._like(b, 8 * b.dtype.itemsize))

    def shl(self, a: Scalar, b: Scalar) -> Scalar:
        out, zero = self._outside(b), self._like(a, 0)
        return self._select(out, zero, self.op("shl", a, self._select(out, zero, b)))

    def shr(self, a: Scalar, b: Scalar) -> Scalar:
        most = self._like(b, 8 * b.dtype.itemsize - 1)
        return self.op("ashr" if a.dtype.is_signed else "lshr", a, self._select(self._outside(b), most, b))

    def _compare(self, a: Scalar, b: Scalar, floating: str, integer: str) -> Scalar:
        if a.dtype.is_floating_point:
            return self.fcmp(floating, a, b)
        if integer[0] == "s" and not a.dtype.is_signed:
            integer = "u" + integer[1:]
        return self.icmp(integer, a, b)

    def eq(self, a: Scalar, b: Scalar) -> Scalar:
        return self._compare(a, b, "oeq", "eq")

    def lt(self, a: Scalar, b: Scalar) -> Scalar:
        return self._compare(a, b, "olt", "slt")

    def le(self, a: Scalar, b: Scalar) -> Scalar:
        return self._compare(a, b, "ole", "sle")

    def where(self, c: Scalar, a: Scalar, b: Scalar) -> Scalar:
        return self._select(c, a, b)

    # Branches and loops.

    rarely = vecmath.rarely

    def repeat(self, body: Callable[..., tuple], start: tuple[Scalar, ...], limit: float) -> list[Scalar]:
        """Run body(k, *values) -> values for k = 1.0, 2.0, ... up to `limit`, while a lane of the first value holds."""
        w, lanes = self.w, start[0].lanes
        old, self.lanes = self.lanes, 1

        def turn(*names: str) -> tuple[list[str], str]:
            k, *values = (Scalar(n, x.dtype, x.lanes) for n, x in zip(names, (first, *start)))
            new = body(self._spread(k, lanes), *values)
            following = self.op("fadd", k, self.const(1, dt.float64))
            more = self.w.let(f"fcmp ole double {following.name}, {literal(limit, 'double')}")
            return [following.name, *(n.name for n in new)], w.let(f"and i1 {more}, {self._any(new[0])}")

        first = self.const(1, dt.float64)
        kinds = [self.type(x.dtype, x.lanes) for x in (first, *start)]
        found = w.repeat(self._any(start[0]), turn, list(zip(kinds, [x.name for x in (first, *start)])))
        self.lanes = old
        return [Scalar(n, x.dtype, x.lanes) for n, x in zip(found[1:], start)]

    def _any(self, c: Scalar) -> str:
        if c.lanes == 1:
            return c.name
        kind = vector("i1", c.lanes)
        return self.w.call("i1", f"llvm.vector.reduce.or.v{c.lanes}i1", (kind, c.name))

    def _spread(self, x: Scalar, lanes: int) -> Scalar:
        return x if lanes == 1 else Scalar(self.w.splat(vector(REGISTER[x.dtype], lanes), x.name), x.dtype, lanes)

    # Random bits.

    def philox(self, index: Scalar, seed: Scalar, offset: Scalar) -> Scalar:
        """Philox4x32-10: word index % 4 of block index // 4. All are int64."""
        old, self.lanes = self.lanes, index.lanes
        c64 = lambda v: self.const(v, dt.uint64)
        low, by = c64(0xFFFFFFFF), c64(32)
        block = self.op("lshr", index, c64(2))
        c = [
            self.op("and", block, low),
            self.op("lshr", block, by),
            self.op("and", offset, low),
            self.op("lshr", offset, by),
        ]
        k0, k1 = self.op("and", seed, low), self.op("lshr", seed, by)
        for i in range(10):
            if i:
                k0 = self.op("and", self.op("add", k0, c64(0x9E3779B9)), low)
                k1 = self.op("and", self.op("add", k1, c64(0xBB67AE85)), low)
            p0, p1 = self.op("mul", c[0], c64(0xD2511F53)), self.op("mul", c[2], c64(0xCD9E8D57))
            c = [
                self.op("xor", self.op("xor", self.op("lshr", p1, by), c[1]), k0),
                self.op("and", p1, low),
                self.op("xor", self.op("xor", self.op("lshr", p0, by), c[3]), k1),
                self.op("and", p0, low),
            ]
        word = self.op("and", index, c64(3))
        first = self._select(self.icmp("eq", word, c64(0)), c[0], c[1])
        last = self._select(self.icmp("eq", word, c64(2)), c[2], c[3])
        out = self._convert(
            Scalar(self._select(self.icmp("ult", word, c64(2)), first, last).name, dt.uint64, index.lanes),
            dt.uint32,
        )
        self.lanes = old
        return out


def _function(name: str):  # type: ignore[no-untyped-def]
    def call(self: Emitter, *args: Scalar) -> Scalar:
        old, self.lanes = self.lanes, args[0].lanes
        to = args[0].dtype
        if to in (dt.float16, dt.bfloat16):
            args = tuple(Scalar(a.name, dt.float32, a.lanes) for a in args)
        out = self.rounded(FUNCTIONS[name](self, *args), to)
        self.lanes = old
        return out if out.dtype is to else Scalar(out.name, to, out.lanes)

    return call


for _name in FUNCTIONS:
    setattr(Emitter, _name, _function(_name))
FLOAT_ONLY = frozenset(FUNCTIONS) | {"div", "sqrt"}
