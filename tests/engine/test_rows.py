"""Gradients of tables are kept as the rows they have, and whoever looks sees all of them."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_follow import on_a_thread

import fanal
from tests.ops.functional import array

ROWS, WIDTH, BATCH, STEPS = 20_000, 16, 64, 9


def train(t: Any, look: tuple[int, ...] = (), keep: bool = False, zero: bool = True, clip: bool = False) -> list[np.ndarray]:
    """Train a table and a head; return what was seen. `look`: steps after which the gradient is read."""
    nn, F = t.nn, t.nn.functional
    random = np.random.default_rng(0)
    table, head = nn.Embedding(ROWS, WIDTH), nn.Linear(WIDTH, 1)
    with t.no_grad():
        for p in (table.weight, head.weight, head.bias):
            p.copy_(t.tensor(random.normal(size=tuple(p.shape)).astype(np.float32)))
    opt = t.optim.SGD([table.weight, *head.parameters()], lr=0.1)
    batches = [(t.tensor(np.concatenate(([3, 3, 3], random.integers(0, ROWS, BATCH)))),
                t.tensor(random.normal(size=(BATCH + 3, 1)).astype(np.float32))) for _ in range(3)]
    seen, kept = [], []
    for k in range(STEPS):
        x, y = batches[k % 3]
        if zero or not k:
            opt.zero_grad()
        F.mse_loss(head(table(x)), y).backward()
        if clip:
            nn.utils.clip_grad_norm_([table.weight], 0.01)
        opt.step()
        if k in look:
            seen += [array(table.weight.grad.sum(0)), array(table.weight.grad)]
        if keep:
            kept.append(table.weight.grad)
    return [*seen, array(table.weight), array(table.weight.grad), *map(array, kept)]


@pytest.mark.parametrize("how", [
    {}, {"look": (0,)}, {"look": (4,)}, {"look": (5, 6, 7, 8)}, {"keep": True}, {"zero": False}, {"clip": True},
    {"look": (4, 6), "keep": True}], ids=str)
def test_gradients_are_those_of_torch(how: dict[str, Any]) -> None:
    for mine, theirs in zip(train(fanal, **how), train(torch, **how), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=2e-6)


def test_a_gradient_nobody_reads_is_not_computed() -> None:
    on_a_thread(_leave_gradients)  # which no segments of other tests have been to: most of them are new


def _leave_gradients() -> None:
    t = fanal
    table = t.nn.Embedding(ROWS, WIDTH)
    opt = t.optim.SGD(table.parameters(), lr=0.1)
    x = t.arange(BATCH)
    for _ in range(6):
        opt.zero_grad()
        table(x).sum().backward()
        opt.step()
        assert table.weight.grad._storage.node.buffer is None
    held = table.weight.grad
    x.zero_()  # what it is made of is its own
    opt.zero_grad()
    table(x).sum().backward()
    opt.step()
    assert array(held.sum(1)).tolist() == [WIDTH] * BATCH + [0] * (ROWS - BATCH)
    assert array(table.weight.grad.sum(1)).tolist() == [WIDTH * BATCH] + [0] * (ROWS - 1)
