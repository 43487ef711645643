"""Every primitive's batching rule against the primitive itself, example by example: generated from the table."""
from __future__ import annotations

import itertools

import numpy as np
import pytest
from samples import SAMPLES
from test_rows import Draw, use

from fanal.core.ir import prims as P
from fanal.core.ir.batch import Batch, number
from fanal.core.ir.interp import interpret
from fanal.core.ir.program import Node, Program, toposort
from fanal.core.ir.row import ROWS

SIZE = 3
SHARED = ("input", "full", "iota", "philox")  # values that no example has to itself


def _values(outputs: list[Node], values: dict[Node, np.ndarray]) -> list[np.ndarray]:
    known = {id(n) for n in values}
    nodes = [n for n in toposort(outputs, known) if id(n) not in known]
    return interpret(Program(list(values), nodes, outputs), list(values.values()))


@pytest.mark.parametrize("name", [n for n in ROWS if n not in SHARED])
def test_all_examples_at_once(name: str) -> None:
    row, sample = ROWS[name], SAMPLES[name]
    for k, case in enumerate(sample.cases):
        d = sample.dtypes[0]
        batched = list(itertools.product((True, False), repeat=len(case.shapes)))[:-1]
        for marks in batched[:7]:
            if case.params == ("polygamma",) and marks[0]:
                continue  # its order is one for the whole call
            draw = Draw(row, sample, f"batch{k}")
            examples = [draw.operands(case, d, "contiguous") for _ in range(SIZE)]
            xs = [P.concat([P.reshape(e[i], (1, *e[i].shape)) for e in examples], 0) if m else examples[0][i]
                  for i, m in enumerate(marks)]
            which = number()
            one = use(row, [P.take(x, which, 0) if m else x for x, m in zip(xs, marks)], case.params)
            whole = Batch(which, SIZE).of(one)
            assert whole is not None and whole.shape == (SIZE, *one.shape)
            apart = [use(row, [e[i] if m else examples[0][i] for i, m in enumerate(marks)], case.params)
                     for e in examples]
            got, *want = _values([whole, *apart], draw.values)
            for a, b in zip(got, want):
                if row.exact:
                    np.testing.assert_array_equal(a, b, err_msg=f"{case} {marks}")
                else:
                    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5, err_msg=f"{case} {marks}")
