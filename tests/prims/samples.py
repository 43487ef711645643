"""Sample uses of every primitive: operand shapes, parameters and element types.

A new row without an entry here fails test_rows.py.
"""
from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.ir import prims as P
from fanal.core.ir.body import record
from fanal.core.ir.prims.point import ELEMENTARY
from fanal.core.ir.prims.special import FORMULAS
from fanal.core.ir.prims.special_pairs import PAIRS
from fanal.core.ir.prims.special_rows import SLOPES
from fanal.core.ir.prims.view import tape
from fanal.core.ir.program import Node

Shape = tuple[int, ...]
FLOATS = (dt.float32, dt.float64, dt.float16, dt.bfloat16)
COMPLEX = (dt.complex64, dt.complex128)
INTS = (dt.int8, dt.uint8, dt.int16, dt.uint16, dt.int32, dt.uint32, dt.int64, dt.uint64)
BOOL = (dt.bool_,)
NUMBERS = FLOATS + INTS
ALL = BOOL + NUMBERS + COMPLEX

UNARY: tuple[tuple[Shape, ...], ...] = (((5, 37),), ((),), ((0, 3),), ((2, 1, 9),))
BINARY: tuple[tuple[Shape, ...], ...] = (((5, 37), (5, 37)), ((4, 1, 9), (3, 1)), ((), (7,)), ((), ()), ((0, 3), (1, 3)),
                                         ((2, 33), (33,)))
TERNARY: tuple[tuple[Shape, ...], ...] = (((5, 37), (5, 37), (5, 37)), ((4, 1), (4, 9), (9,)), ((), (7,), ()), ((), (), ()),
                                          ((1, 3), (0, 3), (3,)))


@dataclass(frozen=True)
class Index:
    """An operand of int64 indices in [-size, size); `unique`: all different."""

    size: int
    unique: bool = False


@dataclass(frozen=True)
class Case:
    """Operand shapes, parameters, and operands that are not of the type under test (by position)."""

    shapes: tuple[Shape, ...]
    params: tuple = ()
    other: dict[int, Any] = field(default_factory=dict)  # a dtype, or an Index
    smooth: bool = True  # has a gradient to check


@dataclass(frozen=True)
class Sample:
    """Cases of one primitive. `error`: how results may differ from the reference in double precision.

    "ulps": `limit` units in the last place of the result; "terms": `limit` units of the result for the operands'
    magnitudes, as sums of products round; "weights": of the largest result. Exact rows agree to the bit instead.
    `low`, `high`: the domain, where the row has none. `apart`: least distance of values from each other and from
    kinks, for numeric gradients.
    """

    cases: tuple[Case, ...]
    dtypes: tuple[dt.dtype, ...]
    error: str = "ulps"
    limit: float = 4
    low: float = -2
    high: float = 2
    apart: float = 0.0
    second: bool = True  # its gradient has a gradient


def _elman(h: Node, x: Node, w: Node) -> tuple[list[Node], list[Node]]:
    """One step of a recurrence h' = tanh(x + h w) that also gives its derivative."""
    h = P.tanh(P.add(x, P.dot(h, w)))
    return [h], [P.sub(P.num(h, 1), P.mul(h, h))]


_ELMAN = record(_elman, [P.input_((2, 3), dt.float64)], [P.input_((2, 3), dt.float64)], [P.input_((3, 3), dt.float64)])


def point(dtypes: tuple[dt.dtype, ...], shapes: Any = UNARY, params: tuple = (), **kw: Any) -> Sample:
    """Return the sample of a pointwise primitive."""
    return Sample(tuple(Case(s, params) for s in shapes), dtypes, **kw)


def cases(*many: tuple[Any, ...], **kw: Any) -> tuple[Case, ...]:
    """Return cases from (shapes, params) pairs."""
    return tuple(Case(s, p, **kw) for s, p in many)


def _conversions(to: tuple[dt.dtype, ...]) -> tuple[Case, ...]:
    return tuple(Case(((5, 37),), (t,), smooth=t is dt.float64) for t in to) + (Case(((),), (dt.float32,), smooth=False),
                                                                               Case(((0, 3),), (dt.int32,), smooth=False))


def _sort_back(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sort(x, -1)[..., ::-1] + y


def _doubled(g: Any, y: Any, x: Any) -> list[Any]:
    from fanal.core.ir.prims import add
    return [add(g, g)]


_REDUCED = cases((((5, 37),), ((1,),)), (((5, 37),), ((0,),)), (((3, 4, 7),), ((0, 2),)), (((3, 4, 7),), ((0, 1, 2),)),
                 (((40,),), ((0,),)), (((4, 1, 3),), ((1,),)))
_NONE_LEFT = cases((((0, 3),), ((0,),)), (((3, 0),), ((1,),)))
_ARG = cases((((5, 37),), (1,)), (((5, 37),), (0,)), (((3, 4, 7),), (1,)), (((6,),), (0,)))
_POOLS = cases((((2, 3, 8, 9),), ((2, 3), (2, 2), (0, 1), (1, 1), (4, 5))), (((2, 7),), ((3,), (1,), (1,), (2,), (5,))),
               (((0, 3, 6),), ((2,), (2,), (0,), (1,), (3,))))
_CONVS = (((2, 4, 7), (6, 2, 3), (4,), (2,), (1,), (1,), 2), ((2, 3, 6, 5), (4, 3, 3, 2), (6, 2), (1, 2), (1, 0), (1, 1), 1),
          ((1, 2, 9), (3, 2, 2), (7,), (1,), (0,), (2,), 1), ((1, 1, 4, 4, 4), (2, 1, 2, 2, 2), (3, 3, 3), (1, 1, 1), (0, 0, 0),
                                                           (1, 1, 1), 1))


def _conv(make: Callable[..., tuple]) -> tuple[Case, ...]:
    return tuple(Case(*make(x, w, (x[0], w[0], *out), out, rest)) for x, w, out, *rest in _CONVS)


def _writes(shape: Shape, index: Shape, value: Shape, dim: int, unique: bool) -> tuple[Case, ...]:
    found = []
    for mode in ("set", "add", "mul", "max", "min"):
        differ = unique or mode == "set"
        found.append(Case((shape, index, value), (dim, mode), {1: Index(shape[dim], differ)}, smooth=mode in ("set", "add")))
    return tuple(found)


def _kinds(kinds: Iterable[str], smooth: Container[str], shapes: tuple[tuple[Shape, ...], ...]) -> tuple[Case, ...]:
    return tuple(Case(s, (k,), smooth=k in smooth) for k in kinds for s in shapes)


_HEADS: tuple[Shape, ...] = ((2, 3, 5, 4), (2, 3, 5, 4), (2, 3, 5, 4))

SAMPLES: dict[str, Sample] = {
    # Conversions and complex parts. Conversions to uint64 of what is out of range differ between machines.
    "convert": Sample(_conversions(tuple(d for d in ALL if d is not dt.uint64)), ALL, low=0, high=100),
    "bitcast": Sample((Case(((5, 36),), (dt.int32,)), Case(((),), (dt.uint32,)), Case(((0, 2),), (dt.int32,))), (dt.float32,)),
    "conj": point(COMPLEX), "real": point(COMPLEX), "imag": point(COMPLEX),
    # Unary.
    "neg": point(NUMBERS + COMPLEX), "abs": point(ALL, apart=0.05), "sign": point(ALL, apart=0.05),
    **{n: point(NUMBERS, apart=0.05) for n in ("floor", "ceil", "trunc", "round")},
    "sqrt": point(FLOATS + COMPLEX),
    **{n: point(FLOATS + COMPLEX) for n in (
        "exp", "expm1", "log", "log1p", "log2", "sin", "cos", "tanh", "acosh")},
    "elementary": Sample(_kinds(ELEMENTARY, ELEMENTARY, UNARY), FLOATS + COMPLEX),
    **{n: point(FLOATS) for n in ("erf", "erfc")},
    # Kernels and NumPy differ by a unit or two in exp and log, which large arguments and cancellation multiply.
    "special": Sample(_kinds(FORMULAS, SLOPES, UNARY[:1]), FLOATS, limit=4096),
    "special2": Sample(_kinds(PAIRS, (), BINARY[:1]), FLOATS, limit=256),
    "not": point(BOOL + INTS),
    # Binary and ternary.
    **{n: point(ALL, BINARY) for n in ("add", "mul")},
    "sub": point(ALL, BINARY), "div": point(FLOATS + COMPLEX, BINARY), "idiv": point(INTS, BINARY),
    "fmod": point(NUMBERS, BINARY), "pow": point(FLOATS + COMPLEX, BINARY), "atan2": point(FLOATS, BINARY),
    **{n: point(BOOL + NUMBERS, BINARY, apart=0.05) for n in ("max", "min")},
    **{n: point(BOOL + INTS, BINARY) for n in ("and", "or")},
    **{n: point(INTS, BINARY) for n in ("shl", "shr")},
    "eq": point(ALL, BINARY),
    **{n: point(BOOL + NUMBERS, BINARY) for n in ("lt", "le")},
    "where": Sample(tuple(Case(s, (), {0: dt.bool_}) for s in TERNARY), ALL),
    # Views and joins.
    "broadcast": Sample(cases((((4, 1),), ((3, 4, 5),)), (((),), ((2, 2),)), (((1, 3),), ((0, 3),))), ALL),
    "reshape": Sample(cases((((4, 6),), ((3, 8),)), (((1,),), ((),)), (((0, 3),), ((3, 0, 2),))), ALL),
    "permute": Sample(cases((((3, 4, 5),), ((2, 0, 1),)), (((33, 20),), ((1, 0),)), (((0, 3),), ((1, 0),))), ALL),
    "slice": Sample(cases((((6, 9),), ((1, 0), (6, 8), (2, 3))), (((6,),), ((6,), (6,), (1,)))), ALL),
    "flip": Sample(cases((((4, 7),), ((1,),)), (((3, 2, 5),), ((0, 2),)), (((0, 3),), ((0,),))), ALL),
    "pad": Sample(cases((((3, 5),), ((1, 0), (2, 3), 1)), (((0, 3),), ((1, 1), (1, 0), 0)), (((4,),), ((0,), (2,), 0))), ALL),
    "window": Sample(cases((((2, 9),), ((1,), (3,), (2,), (1,))), (((7, 6),), ((0, 1), (2, 3), (1, 2), (2, 1)))), ALL),
    "fold": Sample(cases((((2, 4, 3),), ((2, 9), (1,), (3,), (2,), (1,))),
                         (((5, 2, 2, 3),), ((7, 6), (0, 1), (2, 3), (1, 2), (2, 1)))), NUMBERS + COMPLEX, "terms"),
    "strided": Sample(cases((((24,),), ((3, 4), (5, 2), 1)), (((6,),), ((3, 2), (0, 1), 2)), (((5,),), ((), (), 3))), ALL),
    "recast": Sample((Case(((3, 4),), (dt.int64,)), Case(((5, 2),), (dt.uint8,)), Case(((0, 2),), (dt.float64,)),
                      Case(((2, 4),), (dt.complex128,)), Case(((2, 4),), (dt.float64,))),
                     (dt.float32, dt.int32, dt.float64, dt.complex128)),
    "concat": Sample(cases((((2, 3), (2, 5)), (1,)), (((2, 3), (0, 3), (4, 3)), (0,))), ALL),
    "update_slice": Sample(cases((((6, 9), (3, 4)), ((1, 0), (6, 8), (2, 2))), (((6,), (0,)), ((2,), (2,), (1,)))), ALL),
    # The tape.
    "detach": point(ALL), "alias": point(ALL),
    "tape": Sample((Case(((3, 4), (3, 4)), (_doubled,), smooth=False),), FLOATS),
    # Contractions.
    "dot": Sample(cases((((3, 4), (4, 5)), ()), (((2, 1, 3, 4), (1, 3, 4, 2)), ()), (((3, 0), (0, 5)), ()), (((1, 40), (40, 1)), ()),
                        (((0, 3), (3, 2)), ()), (((19, 33), (33, 21)), ())), FLOATS + COMPLEX + BOOL + (dt.int32, dt.int64), "terms"),
    "conv": Sample(_conv(lambda x, w, y, out, rest: ((x, w), tuple(rest))), FLOATS + COMPLEX, "terms"),
    "conv_dx": Sample(_conv(lambda x, w, y, out, rest: ((y, w), (x[2:], *rest))), FLOATS + COMPLEX, "terms"),
    "conv_dw": Sample(_conv(lambda x, w, y, out, rest: ((y, x), (w[2:], *rest))), FLOATS + COMPLEX, "terms"),
    "attention": Sample((Case(_HEADS, (0.5, False), smooth=False), Case(_HEADS, (0.5, True), smooth=False)),
                        (dt.float32, dt.float64), "weights", 16),
    "attention_grad": Sample((Case((*_HEADS, (2, 3, 5, 2), (2, 3, 5, 4)), (0.5, False), smooth=False),),
                             (dt.float32, dt.float64), "weights", 64, low=0.5, high=2),
    "recur": Sample(tuple(Case(((2, 3), (5, 2, 3), (3, 3)), (_ELMAN, back)) for back in (False, True)), (dt.float64,),
                    "weights", 64),
    # Indices.
    "take": Sample(tuple(Case(((5, 4), (2, 3)), (d,), {1: Index(n)}) for d, n in ((0, 5), (1, 4)))
                   + (Case(((3, 2), ()), (0,), {1: Index(3)}), Case(((3, 0), (2,)), (0,), {1: Index(3)}),
                      Case(((3, 2), (0,)), (0,), {1: Index(3)})), ALL),
    "put": Sample(_writes((6, 7), (9,), (9, 7), 0, False)[1:] + _writes((6, 7), (4,), (6, 4), 1, True), NUMBERS, "terms"),
    "gather": Sample((Case(((5, 4), (3, 4)), (0,), {1: Index(5)}), Case(((5, 4), (5, 6)), (1,), {1: Index(4)})), ALL),
    "scatter": Sample(_writes((6, 7), (4, 7), (4, 7), 0, True)[:1] + _writes((6, 7), (9, 7), (9, 7), 0, False)[1:]
                      + _writes((6, 7), (6, 2), (6, 2), 1, True)[1:2], NUMBERS, "terms"),
    "argsort": Sample(cases((((5, 9),), (1, False, 0, 9)), (((5, 9),), (0, True, 0, 5)), (((50, 60),), (1, True, 2, 6)),
                            (((50, 60),), (0, False, 4, 5)), (((),), (0, False, 0, 1)), (((0, 3),), (0, False, 0, 0))),
                      BOOL + NUMBERS),
    # Linear algebra and Fourier transforms. Routines that no layout makes singular; the rest is in tests/ops.
    "lapack": Sample((Case(((2, 3, 3),), ("expm",)), Case(((4, 3),), ("svdvals",)), Case(((3, 3),), ("det",), smooth=False),
                      Case(((2, 3, 3), (2, 3, 2)), ("triangular", True, False)), Case(((3, 3), (3, 2)), ("triangular", False, True)),
                      Case(((0, 3, 3),), ("expm",)), Case(((0, 3),), ("svdvals",))),
                     (dt.float32, dt.float64, *COMPLEX), "weights", 64, 0.5, 2),
    "fft": Sample((Case(((3, 5),), ("whole", False, (1,), (5,), 1.0)), Case(((2, 4, 3),), ("whole", True, (1, 2), (4, 2), 0.25)), Case(((3, 4),), ("real", True, (0, 1), (3, 6), 1.0)),
                   Case(((3, 4),), ("real", False, (1,), (7,), 0.5)), Case(((3, 5),), ("half", False, (0, 1), (4, 5), 1.0), {0: dt.float64}, False),
                   Case(((0, 4),), ("whole", False, (1,), (4,), 1.0))), COMPLEX, "weights", 16),
    "host": Sample((Case(((3, 5), (3, 5)), (_sort_back, (3, 5), dt.float64)),), (dt.float64,)),
    # Pooling. max_pool_dx takes (gradient, input).
    "max_pool": Sample(_POOLS, FLOATS + (dt.int32, dt.uint8), apart=0.01), "max_pool_at": Sample(_POOLS, FLOATS + (dt.int32,)),
    "max_pool_dx": Sample(tuple(Case(((*c.shapes[0][:-len(c.params[0])], *c.params[-1]), c.shapes[0]), c.params) for c in _POOLS),
                          FLOATS, "terms", apart=0.01),
    # Reductions and scans.
    "sum": Sample(_REDUCED + _NONE_LEFT, ALL, "terms"),
    "prod": Sample(_REDUCED[1:5] + _NONE_LEFT, NUMBERS + COMPLEX, limit=60, low=0.5, high=1.5),
    "max_of": Sample(_REDUCED, BOOL + NUMBERS, limit=0, apart=0.01), "min_of": Sample(_REDUCED, BOOL + NUMBERS, limit=0, apart=0.01),
    "argmax": Sample(_ARG, BOOL + NUMBERS), "argmin": Sample(_ARG, BOOL + NUMBERS),
    "scan": Sample(tuple(Case(s, (op, d), smooth=op in ("add", "mul", "logaddexp")) for op in ("add", "mul", "max", "min", "logaddexp")
                         for s, d in ((((4, 6),), 1), (((4, 6),), 0), (((0, 3),), 0))), FLOATS, "terms", 40, 0.5, 1.5),
    # Sources.
    "input": Sample((), ()),
    "full": Sample(cases(((), ((2, 3), 7.5, dt.float32)), ((), ((), 1, dt.bool_)), ((), ((0, 2), -3, dt.int16)),
                         ((), ((4,), float("nan"), dt.float64)), ((), ((4,), 0.1, dt.bfloat16))), (dt.float32,)),
    "iota": Sample(cases(((), ((3, 20), 1, dt.int64)), ((), ((3, 20), 0, dt.float32)), ((), ((0,), 0, dt.int32)),
                         ((), ((300,), 0, dt.uint8))), (dt.float32,)),
    "philox": Sample((Case(((), ()), ((7, 33),)), Case(((), ()), ((),)), Case(((), ()), ((0, 2),))), (dt.int64,), high=1 << 40),
}

# Rows without a gradient rule: their results are indices, bits or truth, or stop gradients on purpose.
WITHOUT_GRADIENT = {
    "bitcast", "not", "idiv", "and", "or", "shl", "shr", "eq", "lt", "le", "argsort", "host",
    "max_pool_at", "argmax", "argmin", "input", "full", "iota", "philox", "detach"}
# Rows whose derivative is the work of the operator that uses them, or of a rule given with each use.
RULE_ELSEWHERE = {"attention", "attention_grad", "tape", "special2"}  # special2: by one operand; see tests/ops

assert tape.name == "tape"
