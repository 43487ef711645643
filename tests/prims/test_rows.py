"""Every primitive against its reference, and every gradient rule against differences: generated from the table."""
from __future__ import annotations

import zlib
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from samples import RULE_ELSEWHERE, SAMPLES, WITHOUT_GRADIENT, Case, Index, Sample

from fanal.core.autograd import backward
from fanal.core.base import dtype as dt
from fanal.core.engine.cache import Compiled
from fanal.core.ir import prims as P
from fanal.core.ir.check import check
from fanal.core.ir.interp import interpret
from fanal.core.ir.program import Node, Program, toposort
from fanal.core.ir.row import ROWS, Row

LAYOUTS = ("contiguous", "transposed", "sliced", "broadcast")
Values = dict[Node, np.ndarray]


def program_of(values: Values, outputs: list[Node]) -> Program:
    """Return the program that computes `outputs` from the nodes that have values."""
    known = {id(n) for n in values}
    program = Program(list(values), [n for n in toposort(outputs, known) if id(n) not in known], outputs)
    check(program)
    return program


class Draw:
    """Makes operands. `values` collects the contents of the inputs behind them."""

    def __init__(self, row: Row, sample: Sample, salt: str = "") -> None:
        self.values: Values = {}
        self.rng = np.random.default_rng(zlib.crc32((row.name + salt).encode()))
        self.low, self.high = row.domain or (sample.low, sample.high)
        self.apart = sample.apart

    def numbers(self, shape: tuple[int, ...], d: dt.dtype) -> np.ndarray:
        """Return random contents."""
        if d is dt.bool_:
            return self.rng.random(shape) < 0.5
        if d.category == 1:
            low = int(np.ceil(self.low)) if d.is_signed else max(0, int(np.ceil(self.low)))
            return self.rng.integers(low, int(self.high), shape, np.int64, endpoint=True).astype(d.np)
        if self.apart:  # a shuffled grid that avoids whole and half numbers
            n = int(np.prod(shape))
            steps = np.linspace(self.low, self.high, n + 2)[1:-1]
            kinks = np.rint(steps * 2) / 2
            steps = np.where(np.abs(steps - kinks) < self.apart, kinks + self.apart + (steps - kinks) / 4, steps)
            parts = [self.rng.permutation(steps).reshape(shape) for _ in range(1 + d.is_complex)]
        else:
            parts = [self.rng.uniform(self.low, self.high, shape) for _ in range(1 + d.is_complex)]
        return (parts[0] + 1j * parts[1] if d.is_complex else parts[0]).astype(d.np)

    def input(self, shape: tuple[int, ...], d: dt.dtype) -> Node:
        """Return a new input of the program."""
        n = P.input_(shape, d)
        self.values[n] = np.asarray(self.numbers(shape, d))
        return n

    def operand(self, shape: tuple[int, ...], kind: Any, layout: str) -> Node:
        """Return an operand, seen through views in some layouts."""
        if isinstance(kind, Index):
            n = P.input_(shape, dt.int64)
            self.values[n] = np.asarray(self._indices(shape, kind))
            return n
        if layout == "transposed" and len(shape) > 1:
            back = tuple(reversed(range(len(shape))))
            return P.permute(self.input(shape[::-1], kind), back)
        if layout == "sliced" and shape:
            wide = self.input(tuple(2 * k + 2 for k in shape), kind)
            return P.slice_(wide, (1,) * len(shape), tuple(2 * k + 1 for k in shape), (2,) * len(shape))
        if layout == "broadcast" and shape:
            return P.broadcast(self.input(tuple(k if i % 2 else min(k, 1) for i, k in enumerate(shape)), kind), shape)
        return self.input(shape, kind)

    def _indices(self, shape: tuple[int, ...], kind: Index) -> np.ndarray:
        if not kind.unique:
            return self.rng.integers(-kind.size, kind.size, shape, np.int64)
        at = self.rng.permuted(np.arange(kind.size))[:shape[0]] if len(shape) == 1 else \
            np.argsort(self.rng.random((*shape[:-1], kind.size)))[..., :shape[-1]]
        if len(shape) == 2 and shape[0] < kind.size and at.shape[-1] > shape[0]:
            at = np.argsort(self.rng.random((kind.size, shape[1])), 0)[:shape[0]]
        return np.where(self.rng.random(shape) < 0.5, at, at - kind.size)

    def operands(self, case: Case, d: dt.dtype, layout: str) -> list[Node]:
        """Return the operands of a case."""
        return [self.operand(s, case.other.get(i, d), layout) for i, s in enumerate(case.shapes)]


def use(row: Row, operands: list[Node], params: tuple) -> Node:
    """Record a primitive."""
    return row(operands, *params) if row.arity < 0 else row(*operands, *params)


def unit(x: np.ndarray, d: dt.dtype) -> np.ndarray:
    """Return the distance between neighbouring numbers of a real type at `x`, in double precision."""
    info: Any = ml_dtypes.finfo(d.np)
    exponent = np.frexp(np.abs(np.where(np.isfinite(x), x, 1)).astype(np.float64))[1] - 1
    return np.ldexp(1.0, np.maximum(exponent, int(info.minexp)) - int(info.nmant))


def widened(a: np.ndarray) -> np.ndarray:
    """Return floating values in the double precision of their kind."""
    d = dt.from_numpy(a.dtype)
    return a.astype(np.complex128 if d.is_complex else np.float64) if d.category > 1 else a


def assert_same(got: np.ndarray, want: np.ndarray, note: Any) -> None:
    """Require the same bits, except that a NaN is a NaN."""
    assert got.dtype == want.dtype and got.shape == want.shape, note
    if got.tobytes() != want.tobytes():
        ok = (got == want) & (np.signbit(got) == np.signbit(want)) if got.dtype.kind not in "cbiu" else got == want
        both = np.isnan(got) & np.isnan(want) if got.dtype.kind not in "biu" else np.False_
        wrong = ~(ok | both)
        assert not wrong.any(), (note, got[wrong][:4], want[wrong][:4])


def assert_close(row: Row, sample: Sample, y: Node, args: list[np.ndarray], got: np.ndarray, note: Any) -> None:
    """Require a result near the reference in double precision."""
    wide = [widened(a) for a in args]
    want = np.asarray(row.ref(*wide, *y.params))
    if sample.error == "terms":
        scale = np.asarray(row.ref(*[np.abs(a) if a.dtype.kind in "fc" else a for a in wide], *y.params)).astype(np.float64)
        scale = np.maximum(np.abs(scale), np.abs(want))
    elif sample.error == "weights":
        scale = np.full(want.shape, np.abs(want).max(initial=0))
    else:
        scale = np.abs(want)
    with np.errstate(all="ignore"):
        # NumPy's own complex functions, which run here as they are, are several units off in either part.
        bound = sample.limit * (8 if y.dtype.is_complex else 1) * unit(scale, y.dtype.to_real())
        error = np.abs(widened(got) - want)
        ok = (error <= bound) | (widened(got) == want) | (np.isnan(want) & np.isnan(widened(got)))
        limit = float(ml_dtypes.finfo(y.dtype.to_real().np).max)
        ok |= (np.abs(want) > limit) & (np.abs(widened(got)) >= limit)  # beyond the type
    assert got.shape == want.shape, note
    assert ok.all(), (note, float((error / bound)[~ok].max()) * sample.limit, got[~ok][:4], want[~ok][:4])


def compare(row: Row, sample: Sample, values: Values, uses: list[tuple[Node, Any]]) -> None:
    """Run every use in one compiled program and compare it with the reference."""
    outputs = [y for y, _ in uses]
    program = program_of(values, outputs)
    arrays = list(values.values())
    got = Compiled(program).run([np.array(a, order="C") for a in arrays])
    operands = list({id(i): i for y in outputs for i in y.inputs}.values())
    known = dict(zip(map(id, operands), interpret(program_of(values, operands), arrays)))
    known |= {id(n): a for n, a in values.items()}
    for (y, note), g in zip(uses, got):
        assert g.dtype == y.dtype.np and g.shape == y.shape, note
        args = [known[id(i)] for i in y.inputs]
        if row.exact or y.dtype.category < 2:
            assert_same(g, np.asarray(row.ref(*args, *y.params)).astype(y.dtype.np), note)
        else:
            assert_close(row, sample, y, args, g, note)


ROW_IDS = [r for r in ROWS.values() if r.name != "input"]


def test_every_row_has_a_sample() -> None:
    assert set(SAMPLES) == set(ROWS)
    assert {r.name for r in ROWS.values() if r.grad is None} == WITHOUT_GRADIENT


@pytest.mark.parametrize("row", ROW_IDS, ids=lambda r: r.name)
def test_compiled_against_reference(row: Row) -> None:
    sample = SAMPLES[row.name]
    draw = Draw(row, sample)
    uses = []
    for d in sample.dtypes:
        for case in sample.cases:
            for layout in LAYOUTS if case.shapes and any(case.shapes) else LAYOUTS[:1]:
                y = use(row, draw.operands(case, d, layout), case.params)
                if y.row is row:  # else folded: nothing to compute
                    uses.append((y, (d.name, case.shapes, case.params, layout)))
    assert uses
    compare(row, sample, draw.values, uses)


SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.5, -3.5, float("inf"), float("-inf"), float("nan"), 1e-3, -1e-3, 30.0, -30.0, 1e4]
# special2: degrees of 65504 are as many steps.
REAL_POINTS = [r for r in ROW_IDS if r.kind == "point" and r.arity in (1, 2)
               and dt.float32 in SAMPLES[r.name].dtypes and r.name not in ("convert", "bitcast", "special2")]


@pytest.mark.parametrize("row", REAL_POINTS, ids=lambda r: r.name)
def test_special_values(row: Row) -> None:
    """Infinities, NaN, signed zeros, numbers next to nothing and the ends of the type."""
    sample = SAMPLES[row.name]
    values: Values = {}
    uses = []
    for d in (d for d in sample.dtypes if d.category == 2):
        info: Any = ml_dtypes.finfo(d.np)
        ends = [float(info.max), -float(info.max), float(info.tiny), -float(info.tiny), float(info.smallest_subnormal)]
        a = np.array(SPECIAL + ends, d.np)
        x, z = P.input_((a.size, 1), d), P.input_((a.size,), d)
        values[x] = a.reshape(-1, 1)
        if row.arity == 2:
            values[z] = a
        for params in {c.params for c in sample.cases}:
            uses.append((use(row, [x, z][:row.arity], params), (d.name, params)))
    compare(row, sample, values, uses)


# Gradients.

STEP = 1e-5


def numeric(program: Program, values: Values, of: Node) -> np.ndarray:
    """Return the derivative of a real scalar by one input: central differences, one element at a time."""
    out = np.zeros_like(values[of])
    for at in np.ndindex(values[of].shape):
        for direction in (1, 1j) if of.dtype.is_complex else (1,):
            ends = []
            for step in (STEP, -STEP):
                moved = values[of].copy()
                moved[at] += step * direction
                ends.append(interpret(program, [moved if n is of else a for n, a in values.items()])[0])
            out[at] += (float(ends[0]) - float(ends[1])) / (2 * STEP) * direction
    return out


def total(parts: list[tuple[Node, Node]]) -> Node:
    """Return the sum of Re(conj(v) * y) over pairs (v, y): a real scalar."""
    terms = []
    for v, y in parts:
        t = P.real(P.mul(P.conj(v), y))
        terms.append(P.sum_(t, tuple(range(len(t.shape)))))
    out = terms[0]
    for t in terms[1:]:
        out = P.add(out, t)
    return out


def gradients(*args: Any, **kwargs: Any) -> dict[int, Node]:
    """Walk to the end: no value has a hook at which a walk stops."""
    try:
        next(backward.gradients(*args, **kwargs, retain=True, accumulate=None))
    except StopIteration as end:
        return end.value
    raise AssertionError("the walk stopped on its way")


def check_gradient(draw: Draw, y: Node, xs: list[Node], second: bool, note: Any) -> None:
    """Compare the gradients of sum(w * y) by the leaves `xs`, and theirs, with differences."""
    w = Draw(P.add, SAMPLES["add"], str(note)).input(y.shape, y.dtype)
    draw.values[w] = np.asarray(np.random.default_rng(7).uniform(-1, 1, y.shape), y.dtype.np)
    w.needs_grad = True
    loss = total([(w, y)])
    found = gradients([y], [w], {id(x) for x in xs}, create_graph=True)
    program = program_of(draw.values, [loss])
    for x in xs:
        want = numeric(program, draw.values, x)
        g = found.get(id(x))
        got = np.zeros_like(want) if g is None else interpret(program_of(draw.values, [g]), list(draw.values.values()))[0]
        assert got.shape == x.shape and got.dtype == x.dtype.np, note
        np.testing.assert_allclose(got, want, 1e-5, 1e-6, err_msg=str(note))
    pairs = []
    for g in found.values():
        v = Draw(P.add, SAMPLES["add"], "v").input(g.shape, g.dtype)
        draw.values[v] = np.asarray(np.random.default_rng(8).uniform(-1, 1, g.shape), g.dtype.np)
        pairs.append((v, g))
    if not second or not pairs:
        return
    loss = total(pairs)
    if not loss.needs_grad:
        return
    targets = [*xs, w]
    one = P.full((), 1, loss.dtype)
    again = gradients([loss], [one], {id(x) for x in targets}, create_graph=False)
    program = program_of(draw.values, [loss])
    for x in targets:
        want = numeric(program, draw.values, x)
        g = again.get(id(x))
        got = np.zeros_like(want) if g is None else interpret(program_of(draw.values, [g]), list(draw.values.values()))[0]
        np.testing.assert_allclose(got, want, 1e-4, 1e-5, err_msg=f"second order {note}")


def shrunk(shapes: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """Return shapes with long dimensions shortened: differences cost two runs an element."""
    return tuple(tuple(min(n, 4) for n in s) for s in shapes)


WITH_RULE = [r for r in ROW_IDS if r.grad is not None and r.name not in RULE_ELSEWHERE]


@pytest.mark.parametrize("row", WITH_RULE, ids=lambda r: r.name)
def test_gradient_against_differences(row: Row) -> None:
    sample = SAMPLES[row.name]
    shorten = row.kind == "point" or row.name in ("sum", "prod", "max_of", "min_of", "detach", "alias")
    checked = 0
    for d in [d for d in sample.dtypes if d in (dt.float64, dt.complex128)] or [dt.float64]:
        for k, case in enumerate(sample.cases):
            shapes = shrunk(case.shapes) if shorten else case.shapes
            if not case.smooth or sum(int(np.prod(s)) for s in shapes) > 250:
                continue
            draw = Draw(row, sample, str(k))
            xs = draw.operands(Case(shapes, case.params, case.other), d, "contiguous")
            leaves = [x for x in xs if x.dtype is d]
            for x in leaves:
                x.needs_grad = True
            y = use(row, xs, case.params)
            if y.row is row and y.size and y.dtype.category > 1:
                check_gradient(draw, y, leaves, sample.second, (row.name, d.name, shapes, case.params))
                checked += 1
    assert checked


@pytest.mark.parametrize("name", sorted({"put", "scatter", "scan"}))
def test_modes_without_a_rule_say_so(name: str) -> None:
    for case in (c for c in SAMPLES[name].cases if not c.smooth):
        draw = Draw(ROWS[name], SAMPLES[name])
        xs = draw.operands(case, dt.float64, "contiguous")
        xs[0].needs_grad = True
        y = use(ROWS[name], xs, case.params)
        with pytest.raises(RuntimeError, match="written in the operator that uses it"):
            gradients([y], [P.full(y.shape, 1, y.dtype)], None, create_graph=False)
