"""Loops over the words of the Mersenne Twister, as machine code: words in, numbers of a distribution out.

Every kernel is `void name(ptr state, ptr out, i64 count, ptr other, double a, double b)`. It draws words in
chunks that stay in the first-level cache, and transforms them as PyTorch's CPU kernels do, bit for bit: these
are compiled with fused multiply-adds and call the C library one double at a time. `a` and `b` are numbers of the
distribution, `other` is an operand of as many elements as `out`. `state` is the memory of `Mt19937`: 624 words,
the POSITION of the next (FRESH if none was drawn since seeding), and the second half of a pair of normals, if one
is WAITING.

Sources: Matsumoto and Nishimura, "Mersenne Twister", ACM TOMACS 8(1), 1998; Box and Muller, Ann. Math. Statist.
29(2), 1958; the polynomials of log, sin and cos are those of the Cephes library (Moshier), in the order, and
fused as, PyTorch's AVX2 kernel is compiled to.
"""
from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable

import numpy as np

from fanal.core.backends.contract import Kernel
from fanal.core.backends.cpu.irtext import Value, Writer, module
from fanal.core.backends.cpu.jit import compile_many
from fanal.core.backends.cpu.target import host

WORDS, FRESH = 624, 625
POSITION, WAITING, NORMAL, STATE_WORDS = 624, 625, 626, 628  # of the state, in 32-bit words
BLOCK = 16  # of float32 normals: eight uniforms for the radius, then eight for the angle
_CHUNK = 4096  # words
_LANES = 16
_SHIFT = 397
_TWIST = 0x9908B0DF
_IR = {"f": "float", "d": "double", "l": "i64"}  # by the characters of NumPy
_SIZE = {"float": 4, "double": 8, "i64": 8}


def _vector(kind: str, lanes: int = _LANES) -> str:
    return f"<{lanes} x {kind}>" if lanes > 1 else kind


def _f32(x: float) -> str:
    """Write a float32 constant: LLVM wants the digits of the double with that value."""
    return f"0x{np.float64(np.float32(x)).view(np.uint64):016X}"


def _f64(x: float) -> str:
    return f"0x{np.float64(x).view(np.uint64):016X}"


class Loop(Writer):
    """Writes vectors of `lanes` elements; of one, scalars."""

    lanes = 1

    def vector(self, kind: str) -> str:
        return _vector(kind, self.lanes)

    def op(self, name: str, kind: str, a: Value, b: Value) -> Value:
        return self.let(f"{name} {self.vector(kind)} {a}, {b}")

    def all(self, kind: str, constant: str | int) -> Value:
        """Return a literal in every lane."""
        return f"splat ({kind} {constant})" if self.lanes > 1 else str(constant)

    def spread(self, kind: str, value: Value) -> Value:
        return self.splat(self.vector(kind), value) if self.lanes > 1 else value

    def exactly(self, kind: str, a: Value, b: Value, c: Value) -> Value:
        """Return a * b + c, rounded once on every target."""
        wide = self.vector(kind)
        return self.call(wide, f"llvm.fma.{self.suffix(kind)}", (wide, a), (wide, b), (wide, c))

    def suffix(self, kind: str) -> str:
        element = {"float": "f32", "double": "f64"}.get(kind, kind)
        return f"v{self.lanes}{element}" if self.lanes > 1 else element

    def root(self, kind: str, x: Value) -> Value:
        return self.call(self.vector(kind), f"llvm.sqrt.{self.suffix(kind)}", (self.vector(kind), x))

    def library(self, name: str, x: Value) -> Value:
        """Call a function of the C library. `nobuiltin`: LLVM must not replace it by another."""
        self.declared.add(f"declare double @{name}(double) nounwind")
        return self.let(f"call double @{name}(double {x}) nobuiltin nounwind")


# ---- words ---------------------------------------------------------------------------------------


def _twist(w: Loop) -> None:
    """Replace the 624 words of the state by the next ones, in place."""
    def new(here: Value, following: Value, far: Value) -> Value:
        y = w.op("or", "i32", w.op("and", "i32", here, w.all("i32", -(1 << 31))),
                 w.op("and", "i32", following, w.all("i32", (1 << 31) - 1)))
        last = w.op("and", "i32", y, w.all("i32", 1))
        odd = w.op("and", "i32", w.op("sub", "i32", w.all("i32", 0), last), w.all("i32", _TWIST - (1 << 32)))
        return w.op("xor", "i32", w.op("xor", "i32", far, w.op("lshr", "i32", y, w.all("i32", 1))), odd)

    def some(far: int) -> Callable[[Value], tuple]:
        def body(i: Value) -> tuple:
            kind = w.vector("i32")
            here, following, other = (
                w.load(kind, w.at("%state", w.add(i, str(by)), 4), None, 4) for by in (0, 1, far))
            w.store(kind, new(here, following, other), w.at("%state", i, 4), None, 4)
            return ()
        return body

    for begin, end, far in ((0, WORDS - _SHIFT, _SHIFT), (WORDS - _SHIFT, WORDS - 1, _SHIFT - WORDS)):
        middle = begin + (end - begin) // _LANES * _LANES
        w.lanes = _LANES
        w.loop(str(begin), str(middle), str(_LANES), some(far), once=True)
        w.lanes = 1
        w.loop(str(middle), str(end), "1", some(far), once=True)
    last, first, far = (w.load("i32", w.at("%state", str(i), 4), None, 4) for i in (WORDS - 1, 0, _SHIFT - 1))
    w.store("i32", new(last, first, far), w.at("%state", str(WORDS - 1), 4), None, 4)


def _temper(w: Loop, y: Value) -> Value:
    steps = (("lshr", 11, None), ("shl", 7, 0x9D2C5680), ("shl", 15, 0xEFC60000), ("lshr", 18, None))
    for shift, by, mask in steps:
        moved = w.op(shift, "i32", y, w.all("i32", by))
        if mask is not None:
            moved = w.op("and", "i32", moved, w.all("i32", mask - (1 << 32)))
        y = w.op("xor", "i32", y, moved)
    return y


def _words(target: object, declared: set[str]) -> str:
    """Return the function that draws `count` words."""
    w = Loop(target, declared)  # type: ignore[arg-type]
    kind = _vector("i32")
    place = w.at("%state", str(POSITION), 4)

    def run(_: Value, done: Value) -> list[Value]:
        spent = w.let(f"icmp uge i32 {w.let(f'load i32, ptr {place}')}, {WORDS}")

        def again() -> None:
            w.do("call void @twist(ptr %state)")
            w.do(f"store i32 0, ptr {place}")
        w.when(spent, again)
        position = w.let(f"load i32, ptr {place}")
        begin = w.let(f"zext i32 {position} to i64")
        size = w.min(w.sub(str(WORDS), begin), w.sub("%count", done))
        of, to = w.at("%state", begin, 4), w.at("%out", done, 4)

        def tempered(mask: bool) -> Callable[[Value], tuple]:
            def body(i: Value) -> tuple:
                lanes = w.lane_mask(_LANES, w.sub(size, i)) if mask else None
                w.lanes = _LANES
                value = _temper(w, w.load(kind, w.at(of, i, 4), lanes, 4))
                w.lanes = 1
                w.store(kind, value, w.at(to, i, 4), lanes, 4)
                return ()
            return body
        middle = w.let(f"and i64 {size}, {-_LANES}")
        w.loop("0", middle, str(_LANES), tempered(False))
        w.loop(middle, size, str(_LANES), tempered(True))
        w.do(f"store i32 {w.let(f'add i32 {position}, ' + w.let(f'trunc i64 {size} to i32'))}, ptr {place}")
        return [w.add(done, size)]

    head, body, end = (w.fresh(name) for name in ("runs", "run", "drawn"))
    w.do(f"br label %{head}")
    before = w.block
    w.label(head)
    hole = len(w.lines)
    more = w.let("icmp slt i64 %done, %count")
    w.do(f"br i1 {more}, label %{body}, label %{end}")
    w.label(body)
    (after,) = run("", "%done")
    w.lines.insert(hole, f"  %done = phi i64 [ 0, %{before} ], [ {after}, %{w.block} ]")
    w.do(f"br label %{head}")
    w.label(end)
    twist = Loop(target, declared)  # type: ignore[arg-type]
    _twist(twist)
    return twist.function("internal void @twist(ptr %state) nounwind") + w.function(
        "internal void @words(ptr %state, ptr %out, i64 %count) nounwind")


# ---- uniforms ------------------------------------------------------------------------------------


def _unit32(w: Loop, at: Value) -> Value:
    """Return float32 in [0, 1), multiples of 2**-24, from one word each."""
    kind = w.vector("i32")
    word = w.op("and", "i32", w.load(kind, at, None, 4), w.all("i32", (1 << 24) - 1))
    whole = w.let(f"sitofp {kind} {word} to {w.vector('float')}")
    return w.op("fmul", "float", whole, w.all("float", _f32(2.0**-24)))


def _pair(w: Loop, at: Value) -> tuple[Value, Value]:
    """Return the high and the low half of 64-bit words; the first word drawn is the high half."""
    if w.lanes == 1:
        return w.let(f"load i32, ptr {at}"), w.let(f"load i32, ptr {w.at(at, '4')}")
    wide = _vector("i32", 2 * w.lanes)
    both = w.load(wide, at, None, 4)

    def every_second(first: int) -> Value:
        order = ", ".join(f"i32 {2 * i + first}" for i in range(w.lanes))
        return w.let(f"shufflevector {wide} {both}, {wide} poison, <{w.lanes} x i32> <{order}>")
    return every_second(0), every_second(1)


def _unit64(w: Loop, at: Value) -> Value:
    """Return float64 in [0, 1), multiples of 2**-53, from two words each."""
    high, low = _pair(w, at)
    kind, wide = w.vector("i32"), w.vector("double")
    high = w.op("and", "i32", high, w.all("i32", (1 << 21) - 1))
    # 21 and 32 bits: every step is exact.
    upper = w.op("fmul", "double", w.let(f"sitofp {kind} {high} to {wide}"), w.all("double", _f64(2.0**-21)))
    lower = w.op("fmul", "double", w.let(f"uitofp {kind} {low} to {wide}"), w.all("double", _f64(2.0**-53)))
    return w.op("fadd", "double", upper, lower)


# ---- distributions of one uniform: f(w, address of the words, index, kind of the output) -> value --


def _uniform(w: Loop, at: Value, i: Value, kind: str) -> Value:
    low, high = (w.cast("double", kind, x) for x in ("%a", "%b"))
    width = w.let(f"fsub {kind} {high}, {low}")
    low, high, width = (w.spread(kind, x) for x in (low, high, width))
    u = w.exactly(kind, (_unit32 if kind == "float" else _unit64)(w, at), width, low)
    # Rounding can reach the excluded bound; PyTorch then takes the other one.
    reached = w.op("fcmp oeq", kind, u, high)
    return w.let(f"select {w.vector('i1')} {reached}, {w.vector(kind)} {low}, {w.vector(kind)} {u}")


def _bernoulli(w: Loop, at: Value, i: Value, kind: str) -> Value:
    hit = w.op("fcmp olt", "double", _unit64(w, at), w.spread("double", "%a"))
    return w.let(f"uitofp {w.vector('i1')} {hit} to {w.vector(kind)}")


def _bernoulli_each(w: Loop, at: Value, i: Value, kind: str) -> Value:
    """`other` holds the probabilities."""
    p = w.load(kind, w.at("%other", i, _SIZE[kind]), None, 4)
    hit = w.op("fcmp olt", kind, (_unit32 if kind == "float" else _unit64)(w, at), p)
    return w.let(f"uitofp i1 {hit} to {kind}")


def _exponential(w: Loop, at: Value, i: Value, kind: str) -> Value:
    """`a` is -1 / rate."""
    u = w.library("log1p", w.let(f"fneg double {_unit64(w, at)}"))
    return w.cast("double", kind, w.op("fmul", "double", "%a", u))


def _geometric(w: Loop, at: Value, i: Value, kind: str) -> Value:
    """`a` is log1p(-p)."""
    trials = w.op("fdiv", "double", w.library("log", _unit64(w, at)), "%a")
    return w.cast("double", kind, w.call("double", "llvm.ceil.f64", ("double", trials)))


def _cauchy(w: Loop, at: Value, i: Value, kind: str) -> Value:
    turn = w.op("fmul", "double", _f64(math.pi), w.op("fsub", "double", _unit64(w, at), _f64(0.5)))
    return w.cast("double", kind, w.exactly("double", w.library("tan", turn), "%b", "%a"))


def _integer(bits: int) -> Callable[[Loop, Value, Value, str], Value]:
    """`other` points to the lowest integer and their number."""
    def draw(w: Loop, at: Value, i: Value, kind: str) -> Value:
        low, count = (w.let(f"load i64, ptr {w.at('%other', str(k), 8)}") for k in range(2))
        if bits == 32:
            few = w.let(f"trunc i64 {count} to i32")
            rest = w.let(f"zext i32 {w.op('urem', 'i32', w.let(f'load i32, ptr {at}'), few)} to i64")
        else:
            high, low_half = (w.let(f"zext i32 {half} to i64") for half in _pair(w, at))
            rest = w.op("urem", "i64", w.op("or", "i64", w.op("shl", "i64", high, "32"), low_half), count)
        return w.add(rest, low)
    return draw


# ---- normals -------------------------------------------------------------------------------------

_LOG_P = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
_LOG_Q1, _LOG_Q2 = -2.12194440e-4, 0.693359375  # log(2) in two parts, the second exact in 9 bits
_SQRT_HALF = 0.707106781186547524
_FOUR_OVER_PI = 1.27323954473516
# pi/4 in three parts; multiples of the first two up to 8 are exact.
_PI_4 = (-0.78515625, -2.4187564849853515625e-4, -3.77489497744594108e-8)
_SIN = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
_COS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)


def _horner(w: Loop, x: Value, coefficients: tuple[float, ...]) -> Value:
    y = w.all("float", _f32(coefficients[0]))
    for c in coefficients[1:]:
        y = w.exactly("float", y, x, w.all("float", _f32(c)))
    return y


def _radius(w: Loop, u: Value) -> Value:
    """Return sqrt(-2 log(1 - u)), float32."""
    c = lambda x: w.all("float", _f32(x))
    f = lambda name, a, b: w.op(name, "float", a, b)
    ints, floats = w.vector("i32"), w.vector("float")
    bits = w.let(f"bitcast {floats} {f('fsub', c(1), u)} to {ints}")
    power = w.op("sub", "i32", w.op("lshr", "i32", bits, w.all("i32", 23)), w.all("i32", 126))
    exponent = w.let(f"sitofp {ints} {power} to {floats}")
    part = w.op("or", "i32", w.op("and", "i32", bits, w.all("i32", 0x7FFFFF)), w.all("i32", 0x3F000000))
    x = w.let(f"bitcast {ints} {part} to {floats}")  # the fraction in [0.5, 1)
    low = f("fcmp olt", x, c(_SQRT_HALF))
    choose = lambda a: w.let(f"select {w.vector('i1')} {low}, {floats} {a}, {floats} zeroinitializer")
    x, exponent = f("fadd", f("fsub", x, c(1)), choose(x)), f("fsub", exponent, choose(c(1)))
    z = f("fmul", x, x)
    y = f("fmul", x, _horner(w, x, _LOG_P))
    y = w.exactly("float", y, z, f("fmul", exponent, c(_LOG_Q1)))
    y = f("fsub", y, f("fmul", z, c(0.5)))
    x = f("fadd", f("fadd", x, y), f("fmul", exponent, c(_LOG_Q2)))
    return w.root("float", f("fmul", x, c(-2)))


def _cos_sin(w: Loop, u: Value) -> tuple[Value, Value]:
    """Return the cosine and the sine of 2 pi u, float32."""
    c = lambda x: w.all("float", _f32(x))
    f = lambda name, a, b: w.op(name, "float", a, b)
    ints, floats = w.vector("i32"), w.vector("float")
    theta = f("fmul", u, c(2 * math.pi))
    octant = w.let(f"fptosi {floats} {f('fmul', theta, c(_FOUR_OVER_PI))} to {ints}")
    octant = w.op("and", "i32", w.op("add", "i32", octant, w.all("i32", 1)), w.all("i32", -2))
    j = w.let(f"sitofp {ints} {octant} to {floats}")
    for part in _PI_4[:2]:
        theta = f("fadd", theta, f("fmul", j, c(part)))
    x = w.exactly("float", j, c(_PI_4[2]), theta)
    z = f("fmul", x, x)
    y = f("fmul", _horner(w, z, _COS), z)
    half = w.let(f"fneg {floats} {f('fmul', z, c(0.5))}")
    cosine = f("fadd", w.exactly("float", z, y, half), c(1))
    sine = w.exactly("float", x, f("fmul", _horner(w, z, _SIN), z), x)
    swap = w.op("icmp ne", "i32", w.op("and", "i32", octant, w.all("i32", 2)), w.all("i32", 0))

    def turned(a: Value, b: Value, turn: Value) -> Value:
        """The bit of the octant that says which half turn goes to the sign of the float."""
        chosen = w.let(f"select {w.vector('i1')} {swap}, {floats} {a}, {floats} {b}")
        sign = w.op("shl", "i32", w.op("and", "i32", turn, w.all("i32", 4)), w.all("i32", 29))
        return w.let(f"bitcast {ints} " + w.op(
            "xor", "i32", w.let(f"bitcast {floats} {chosen} to {ints}"), sign) + f" to {floats}")
    against = w.op("xor", "i32", w.op("sub", "i32", octant, w.all("i32", 2)), w.all("i32", -1))
    return turned(sine, cosine, against), turned(cosine, sine, octant)


def _block32(w: Loop, at: Value, to: Value) -> None:
    """Turn 16 uniforms into normals."""
    w.lanes = BLOCK // 2
    mean, std = (w.spread("float", w.cast("double", "float", x)) for x in ("%a", "%b"))
    radius = _radius(w, _unit32(w, at))
    for turn, place in zip(_cos_sin(w, _unit32(w, w.at(at, "32"))), ("0", "32")):
        value = w.exactly("float", w.op("fmul", "float", turn, radius), std, mean)
        w.store(w.vector("float"), value, w.at(to, place), None, 4)
    w.lanes = 1


def _polar(w: Loop, radius: Value, angle: Value) -> tuple[Value, Value]:
    """Return radius * cos and radius * sin of 2 pi `angle`, where `radius` is log(1 - u), float64."""
    radius = w.root("double", w.op("fmul", "double", _f64(-2), radius))
    theta = w.op("fmul", "double", _f64(2 * math.pi), angle)
    cosine, sine = (w.op("fmul", "double", radius, w.library(f, theta)) for f in ("cos", "sin"))
    return cosine, sine


def _block64(w: Loop, at: Value, to: Value) -> None:
    def one(i: Value) -> tuple:
        u, v = (_unit64(w, w.at(at, w.add(i, str(k)), 8)) for k in (0, BLOCK // 2))
        log = w.library("log", w.op("fsub", "double", _f64(1), u))
        for value, k in zip(_polar(w, log, v), (0, BLOCK // 2)):
            value = w.exactly("double", value, "%b", "%a")
            w.store("double", value, w.at(to, w.add(i, str(k)), 8), None, 8)
        return ()
    w.loop("0", str(BLOCK // 2), "1", one, once=True)


def _blocks(w: Loop, kind: str, scratch: Value) -> None:
    """Normals in blocks of 16. A count that is no multiple of 16 draws its last 16 values again."""
    block, words, size = (_block32, 1, 4) if kind == "float" else (_block64, 2, 8)

    def whole(start: Value, at: Value, count: Value) -> None:
        def one(i: Value) -> tuple:
            block(w, w.at(at, i, size), w.at("%out", w.add(start, i), size))
            return ()
        w.loop("0", w.let(f"and i64 {count}, {-BLOCK}"), str(BLOCK), one)

    _chunks(w, scratch, words, whole)
    rest = w.let(f"icmp ne i64 {w.let(f'and i64 %count, {BLOCK - 1}')}, 0")

    def last() -> None:
        w.do(f"call void @words(ptr %state, ptr {scratch}, i64 {BLOCK * words})")
        block(w, scratch, w.at("%out", w.sub("%count", str(BLOCK)), size))
    w.when(rest, last)


def _serial(w: Loop, kind: str, scratch: Value, exponential: bool = False) -> None:
    """Normals one by one; the second half of a pair waits in the state."""
    waits, waiting = w.at("%state", str(WAITING), 4), w.at("%state", str(NORMAL), 4)

    def one(i: Value) -> tuple:
        has = w.let(f"icmp ne i32 {w.let(f'load i32, ptr {waits}')}, 0")
        ready = w.let(f"load double, ptr {waiting}")
        before, draw, after = w.block, w.fresh("pair"), w.fresh("drawn")
        w.do(f"br i1 {has}, label %{after}, label %{draw}")
        w.label(draw)
        w.do(f"call void @words(ptr %state, ptr {scratch}, i64 4)")
        angle, u = (_unit64(w, w.at(scratch, place)) for place in ("0", "8"))
        first, second = _polar(w, w.library("log1p", w.let(f"fneg double {u}")), angle)
        w.do(f"store double {second}, ptr {waiting}")
        w.do(f"br label %{after}")
        w.label(after)
        drawn = w.let(f"phi double [ {ready}, %{before} ], [ {first}, %{draw} ]")
        left = w.let(f"xor i1 {has}, true")
        w.do(f"store i32 {w.let(f'zext i1 {left} to i32')}, ptr {waits}")
        drawn = w.exactly("double", drawn, "%b", "%a")
        if exponential:
            drawn = w.library("exp", drawn)
        w.store(kind, w.cast("double", kind, drawn), w.at("%out", i, _SIZE[kind]), None, 4)
        return ()
    w.loop("0", "%count", "1", one)


# ---- permutations --------------------------------------------------------------------------------


def _permutation(w: Loop, kind: str, scratch: Value) -> None:
    """Permute 0, 1, ... (Fisher and Yates): position i takes any of the count - i values from i on."""
    def number(i: Value) -> tuple:
        w.do(f"store i64 {i}, ptr {w.at('%out', i, 8)}")
        return ()
    w.loop("0", "%count", "1", number)
    total = w.let("trunc i64 %count to i32")

    def whole(start: Value, at: Value, count: Value) -> None:
        def one(k: Value) -> tuple:
            i = w.add(start, k)
            left = w.let(f"sub i32 {total}, {w.let(f'trunc i64 {i} to i32')}")
            pick = w.let(f"urem i32 {w.let(f'load i32, ptr {w.at(at, k, 4)}')}, {left}")
            here = w.at("%out", i, 8)
            there = w.at("%out", w.add(i, w.let(f"zext i32 {pick} to i64")), 8)
            a, b = (w.let(f"load i64, ptr {p}") for p in (here, there))
            w.do(f"store i64 {b}, ptr {here}")
            w.do(f"store i64 {a}, ptr {there}")
            return ()
        w.loop("0", count, "1", one)
    _chunks(w, scratch, 1, whole, w.sub("%count", "1"))


# ---- kernels -------------------------------------------------------------------------------------

Body = Callable[[Loop, str, Value], None]  # writes a whole kernel: (writer, kind of the output, scratch)


def _chunks(
    w: Loop, scratch: Value, words: int, body: Callable[[Value, Value, Value], None], count: Value = "%count"
) -> None:
    """Draw `words` words for each of `count` elements; body(first element, address of its words, elements)."""
    size = _CHUNK // words

    def chunk(start: Value) -> tuple:
        some = w.min(w.sub(count, start), str(size))
        w.do(f"call void @words(ptr %state, ptr {scratch}, i64 {w.mul(some, str(words))})")
        body(start, scratch, some)
        return ()
    w.loop("0", count, str(size), chunk)


def _each(draw: Callable[[Loop, Value, Value, str], Value], words: int | None, vectors: bool = False) -> Body:
    """Return the kernel whose elements are draws of `words` words each; None: as many as the output has."""
    def body(w: Loop, kind: str, scratch: Value) -> None:
        each = words or _SIZE[kind] // 4
        lanes = _LANES // each if vectors else 1

        def whole(start: Value, at: Value, count: Value) -> None:
            def some(lanes: int, mask: bool) -> Callable[[Value], tuple]:
                def step(k: Value) -> tuple:
                    i = w.add(start, k)
                    w.lanes = lanes
                    value = draw(w, w.at(at, k, 4 * each), i, kind)
                    w.lanes = 1
                    within = w.lane_mask(lanes, w.sub(count, k)) if mask else None
                    w.store(_vector(kind, lanes), value, w.at("%out", i, _SIZE[kind]), within, 4)
                    return ()
                return step
            middle = w.let(f"and i64 {count}, {-lanes}")
            w.loop("0", middle, str(lanes), some(lanes, False))
            if lanes > 1:
                w.loop(middle, count, str(lanes), some(lanes, True))
        _chunks(w, scratch, each, whole)
    return body


_BODIES: dict[str, Body] = {
    "uniform": _each(_uniform, None, True),
    "bernoulli": _each(_bernoulli, 2, True),
    "bernoulli_each": _each(_bernoulli_each, None),
    "exponential": _each(_exponential, 2),
    "geometric": _each(_geometric, 2),
    "cauchy": _each(_cauchy, 2),
    "integers32": _each(_integer(32), 1),
    "integers64": _each(_integer(64), 2),
    "normal": _blocks,
    "normal_serial": _serial,
    "log_normal": functools.partial(_serial, exponential=True),
    "permutation": _permutation,
}


def _source(symbol: str, name: str, kind: str) -> str:
    target, declared = host(), set[str]()
    w = Loop(target, declared)
    if name == "words":
        w.do("call void @words(ptr %state, ptr %out, i64 %count)")
    else:
        # A vector may read beyond the last word.
        scratch = w.let(f"alloca [{_CHUNK + 2 * _LANES} x i32], align 64")
        _BODIES[name](w, kind, scratch)
    signature = f"void @{symbol}(ptr %state, ptr %out, i64 %count, ptr %other, double %a, double %b) nounwind"
    return module([_words(target, declared), w.function(signature)], declared)


# The lock of the interpreter is held: two threads that draw from one generator take turns.
_KERNEL = ctypes.PYFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_double, ctypes.c_double
)


@functools.cache
def kernel(name: str, dtype: str = "f") -> Callable[..., None]:
    """Return a loop: "words", or a distribution and the dtype of its numbers, as a character."""
    kind = _IR[dtype]
    symbol = host().symbol(f"random:{name}:{kind}")
    address = compile_many([Kernel(symbol, lambda: _source(symbol, name, kind))])[symbol]
    return _KERNEL(address)
