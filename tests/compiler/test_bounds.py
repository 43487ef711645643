"""Indices that a program makes itself, and that lie inside, are neither checked nor kept inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import fanal
from fanal.core.compiler.bounds import in_range
from fanal.core.compiler.simplify import simplify
from fanal.core.engine.ledger import ledger
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node, Program, toposort

F32, I64 = fanal.float32, fanal.int64


def known(make: Callable[[Node, Node], Node], n: int) -> bool:
    """Tell whether an index made of unknown floats and integers is known to be in [0, n)."""
    x, i = P.input_((4,), F32), P.input_((4,), I64)
    out = make(x, i)
    nodes = [n for n in toposort([out]) if n not in (x, i)]
    return in_range(simplify(Program([x, i], nodes, [out])).outputs[0], n)


def inside(w: Node, low: float, high: float) -> Node:
    return P.and_(P.le(P.num(w, low), w), P.le(w, P.num(w, high)))


def chosen(x: Node, low: float, high: float) -> Node:
    return P.convert(P.where(inside(x, low, high), x, P.num(x, 0)), I64)


def clamped(i: Node) -> Node:
    return P.max_(P.min_(i, P.num(i, 5)), P.num(i, 0))


def long_sum(i: Node) -> Node:
    for _ in range(2000):
        i = P.add(i, P.num(i, 0))
    return i


CASES: list[tuple[Callable[[Node, Node], Node], int, bool]] = [
    (lambda x, i: chosen(x, 0, 6), 7, True),
    (lambda x, i: chosen(x, 0, 6), 6, False),
    (lambda x, i: chosen(x, -1, 6), 7, False),
    (lambda x, i: P.convert(P.where(P.le(P.num(x, 0), x), x, P.num(x, 0)), I64), 1 << 62, False),  # no upper limit
    (lambda x, i: P.convert(P.where(inside(x, 0, 3), P.neg(x), P.num(x, 0)), I64), 4, False),  # another value
    (lambda x, i: P.add(P.mul(chosen(x, 0, 2), P.num(i, 5)), chosen(x, 0, 4)), 15, True),
    (lambda x, i: P.add(P.mul(chosen(x, 0, 2), P.num(i, 5)), chosen(x, 0, 4)), 14, False),
    (lambda x, i: clamped(i), 6, True),
    (lambda x, i: clamped(i), 5, False),
    (lambda x, i: i, 1 << 62, False),
    (lambda x, i: P.sub(P.num(i, 5), clamped(i)), 6, True),
    (lambda x, i: P.mul(P.mul(clamped(i), P.num(i, 1 << 40)), P.num(i, 1 << 40)), 1 << 62, False),  # it may wrap
    (lambda x, i: P.convert(P.mul(clamped(i), P.num(i, 60)), fanal.int8), 301, False),  # so may this
    (lambda x, i: chosen(x, 0, 16777217), 16777217, True),  # the limit is rounded to float32, and then compared
    (lambda x, i: P.convert(P.min_(clamped(i), P.num(i, 16777217)), F32), 6, True),
    (lambda x, i: P.convert(P.max_(clamped(i), P.num(i, 16777217)), F32), 1 << 62, False),  # no number of float32
    (lambda x, i: long_sum(clamped(i)), 1 << 62, False),  # too far back to be looked for
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_what_is_known(case: int) -> None:
    make, n, expected = CASES[case]
    assert known(make, n) is expected


def checks(f: Callable[..., Any], *args: Any) -> int:
    """Return how many kernels of a call check indices."""
    ledger.executables.clear()
    for _ in range(2):
        f(*args).sum().item()
    return sum("check indices" in step.label for low in ledger.executables for step in low.exe.lowered.steps)


def test_sampling_checks_nothing_and_lookups_do() -> None:
    x, grid = fanal.randn(2, 3, 40, 50), fanal.randn(2, 30, 30, 2)
    assert checks(lambda: fanal.nn.functional.grid_sample(x, grid, align_corners=False)) == 0
    table, at = fanal.randn(5000, 8), fanal.randint(0, 5000, (3000,))
    assert checks(lambda: table[at]) > 0
    with pytest.raises(IndexError):
        table[at + 5000].sum().item()


def test_points_that_are_no_numbers() -> None:
    grid = np.random.default_rng(0).normal(0, 1e9, (2, 40, 40, 2)).astype(np.float32)
    grid[0, ::3] = np.nan
    grid[1, ::3, :, 0] = np.inf
    y, expected = (t.nn.functional.grid_sample(t.ones(2, 3, 9, 9), t.tensor(grid), align_corners=False)
                   for t in (fanal, torch))
    np.testing.assert_array_equal(y.numpy(), expected.numpy())
