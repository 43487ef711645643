"""Gradient descent on a table of which a batch touches few rows: the bits of the update of all rows, in less memory."""
from __future__ import annotations

import math

import numpy as np
import pytest

import fanal
from fanal.core.engine.ledger import ledger

ROWS, WIDTH, COUNT = 400, 5, 24
_RANDOM = np.random.default_rng(0)
INDEX = _RANDOM.integers(-ROWS, ROWS, (COUNT // 4, 4))
INDEX[:2] = 7, 7, 7 - ROWS, 9  # rows that come more than once, also counted from the end
TABLE = _RANDOM.normal(size=(ROWS, WIDTH)).astype(np.float32)
TABLE[::3] = -0.0
TABLE[1, 1], TABLE[2, 1] = math.nan, math.inf
VALUES = _RANDOM.normal(size=(*INDEX.shape, WIDTH)).astype(np.float32)


def updated(factor: float, read: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the table after a step, and the gradient; `read`: it is needed in memory for something else."""
    table = fanal.tensor(TABLE)
    with fanal.no_grad():
        gradient = fanal.zeros(ROWS, WIDTH).index_put_((fanal.tensor(INDEX),), fanal.tensor(VALUES), accumulate=True)
        table.add_(gradient, alpha=factor)
        if not read:
            del gradient
            return table.numpy(), np.empty(0)
    return table.numpy(), gradient.numpy()


@pytest.mark.parametrize("factor", [-0.1, 0.1, 0.0, -0.0, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("read", [False, True])
def test_bits_are_those_of_the_update_of_all_rows(factor: float, read: bool) -> None:
    gradient = np.zeros((ROWS, WIDTH), np.float32)
    np.add.at(gradient, (INDEX,), VALUES)
    with np.errstate(all="ignore"):
        expected = TABLE + gradient * np.float32(factor)
    for _ in range(2):
        table, found = updated(factor, read)
        assert (np.isnan(table) == np.isnan(expected)).all()
        assert np.nan_to_num(table).tobytes() == np.nan_to_num(expected).tobytes()  # NaN has many bits
        if read:
            assert found.tobytes() == gradient.tobytes()


def test_no_gradient_of_all_rows_is_in_memory() -> None:
    updated(-0.1, False)
    updated(-0.1, False)
    exe = ledger.executables[-1].exe
    assert any("put" in step.label for step in exe.lowered.steps)
    assert exe.arena_bytes < TABLE.nbytes
