"""Products of looked-up rows: the table is multiplied, and what comes back is added up before the product."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fanal
from fanal.core.engine.ledger import ledger
from tests.ops.functional import array

INDEX = np.random.default_rng(0).integers(-7, 7, (5, 9))


def run(t: Any, turned: bool, read: bool = False) -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    table, weight = (t.tensor(generator.normal(size=s), requires_grad=True) for s in ((7, 32), (20, 32)))
    x = table[t.tensor(INDEX)]
    if read:
        x.sum().item()
    y = t.nn.functional.linear(x.transpose(0, 1) if turned else x, weight)
    y.sin().sum().backward()
    return [array(y), array(table.grad), array(weight.grad)]


@pytest.mark.parametrize("turned", [False, True])
def test_products_after_a_lookup(turned: bool) -> None:
    mine = run(fanal, turned)
    labels = [step.label for low in ledger.executables for step in low.exe.lowered.steps]
    assert any(label.startswith("matmul 7x32x20") for label in labels)
    assert any(label.startswith("matmul 7x20x32") for label in labels)
    assert any(label.startswith("matmul 20x7x32") for label in labels)
    assert not any(label.startswith(("matmul 45x32x20", "matmul 20x45x32")) for label in labels)
    for a, b in zip(mine, run(torch, turned), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_the_result_has_the_same_bits_when_the_rows_were_read() -> None:
    assert run(fanal, False)[0].tobytes() == run(fanal, False, read=True)[0].tobytes()


def test_parts_are_written_in_place() -> None:
    x = fanal.rand(40, 30)
    y = fanal.cat((x.sin() * 2, x.cos() + 1), 1)
    got = array(y)
    labels = [step.label for step in ledger.executables[-1].exe.lowered.steps]
    assert not any("concat" in label for label in labels), labels
    want = np.concatenate((np.sin(array(x)) * 2, np.cos(array(x)) + 1), 1)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
