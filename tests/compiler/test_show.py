"""A printed program runs, and the checker sees what is wrong."""
from __future__ import annotations

import numpy as np
import pytest
from harness import contents, inp, program_of
from test_loops import gelu, layer_norm, softmax

from fanal.core.backends.cpu.backend import default
from fanal.core.base import dtype as dt
from fanal.core.compiler.pipeline import lower, show_stages
from fanal.core.ir import prims as P
from fanal.core.ir.check import InvalidProgram, check
from fanal.core.ir.interp import interpret
from fanal.core.ir.program import Node, Program
from fanal.core.ir.show import show


def _program():
    x, w, b = inp((6, 32)), inp((32,)), inp((32,))
    y, _ = layer_norm(x, w, b)
    return program_of([x, w, b], [softmax(gelu(y)), P.concat([P.flip(y, (1,)), x], 0)], {}), [x, w, b]


def test_printed_programs_run():
    program, inputs = _program()
    check(program)
    scope: dict = {}
    text = show(program)
    exec(compile(text, "shown", "exec"), scope)
    check(scope["program"])
    arrays = [contents[i] for i in inputs]
    for a, b in zip(interpret(program, arrays), interpret(scope["program"], arrays)):
        assert a.tobytes() == b.tobytes()
    assert "float32[6, 32]" in text


def test_every_stage_prints():
    program, _ = _program()
    stages = show_stages(program, default())
    assert list(stages) == ["simplify", "fuse", "order", "emit"]
    assert all(stages.values())
    assert "k_" in stages["emit"] and "exp" in stages["fuse"]


def test_the_checker_sees_errors():
    x = inp((3,))
    y = P.neg(x)
    z = P.exp(y)
    with pytest.raises(InvalidProgram, match="later or never"):
        check(Program([x], [z, y], [z]))
    with pytest.raises(InvalidProgram, match="never computed"):
        check(Program([x], [y], [z]))
    with pytest.raises(InvalidProgram, match="its row says"):
        check(Program([x], [Node(y.row, (x,), (), (4,), dt.float32)], []))
    with pytest.raises(InvalidProgram, match="operands of dtypes"):
        other = inp((3,), dt.int64)
        check(Program([x, other], [P.add(x, other)], []))
    with pytest.raises(InvalidProgram, match="cannot replace"):
        check(Program([x, inp((4,))], [y], [y], {0: 1}))


def test_compile_time_per_primitive():
    import time
    x = inp((64, 64))
    v = x
    for _ in range(400):
        v = P.max_(P.add(P.mul(v, P.num(v, 1.01)), x), P.num(v, 0))
    program = program_of([x], [v])
    lower(program, default())
    best = min(_timed(lambda: lower(program, default()), time) for _ in range(3))
    assert best / len(program.nodes) < 500e-6  # a bound for busy machines; the budget is 50 us
    assert np.isfinite(best)


def _timed(f, time):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start
