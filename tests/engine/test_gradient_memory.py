"""The memory of gradients serves the step until they are written, and nobody can tell."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import fanal
from fanal.core.engine.ledger import ledger

STEPS, LAYERS, WIDTH, BATCH = 6, 6, 96, 256


def look(_: Any, params: list[Any], seen: list[Any]) -> None:
    """Gradients are read and let go."""
    seen.append(params[0].grad.sum().item())


def keep_one(_: Any, params: list[Any], seen: list[Any]) -> None:
    """One gradient is kept in every step, the others are not."""
    seen.append(params[2].grad)


def keep_one_once(_: Any, params: list[Any], seen: list[Any]) -> None:
    if len(seen) < 2:
        seen.append(params[4].grad)


def keep_all(_: Any, params: list[Any], seen: list[Any]) -> None:
    seen.extend(p.grad for p in params)


def share(_: Any, params: list[Any], seen: list[Any]) -> None:
    """NumPy keeps the memory of one."""
    seen.append(params[1].grad.numpy())


def detach(_: Any, params: list[Any], seen: list[Any]) -> None:
    seen.append(params[1].grad.detach())


def view(_: Any, params: list[Any], seen: list[Any]) -> None:
    seen.append(params[0].grad[1:3].T)


def combine(lib: Any, params: list[Any], seen: list[Any]) -> None:
    """The next step begins with the gradients of this one."""
    seen.append(lib.cat([p.grad.reshape(-1) for p in params]) * 2)


WAYS = (look, keep_one, keep_one_once, keep_all, share, detach, view, combine)


def train(lib: Any, between: Callable[[Any, list[Any], list[Any]], None]) -> tuple[list[Any], list[Any]]:
    """Train; return what was seen of the gradients, and the parameters."""
    nn = lib.nn
    lib.manual_seed(0)
    layers = [m for _ in range(LAYERS) for m in (nn.Linear(WIDTH, WIDTH), nn.GELU())]
    model = nn.Sequential(*layers, nn.Linear(WIDTH, 4))
    params = list(model.parameters())
    opt = lib.optim.Adam(params, lr=1e-3)
    x, y = lib.randn(BATCH, WIDTH), lib.randint(0, 4, (BATCH,))
    seen: list[Any] = []
    for _ in range(STEPS):
        opt.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        opt.step()
        between(lib, params, seen)
    return seen, [p.detach() for p in params]


@pytest.mark.parametrize("between", WAYS)
def test_gradients_that_are_kept_or_read_are_those_of_their_step(between: Callable[..., None]) -> None:
    ledger.executables.clear()
    ours, theirs = (train(lib, between) for lib in (fanal, torch))
    for a, b in zip(ours[0] + ours[1], theirs[0] + theirs[1], strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-3, atol=1e-5)
    if between is look:
        assert any(e.exe.block_bytes for e in ledger.executables)


def test_a_step_that_fails_leaves_nothing_of_itself_in_gradients() -> None:
    def run(lib: Any) -> list[Any]:
        nn = lib.nn
        lib.manual_seed(0)
        table = nn.Embedding(8, WIDTH)
        model = nn.Sequential(table, *[m for _ in range(LAYERS) for m in (nn.Linear(WIDTH, WIDTH), nn.GELU())])
        opt = lib.optim.Adam(model.parameters(), lr=1e-3)
        losses: list[Any] = []
        for k in range(8):
            index = lib.arange(BATCH) % (9 if k in (4, 6) else 8)
            try:
                opt.zero_grad()
                loss = model(index).pow(2).mean()
                loss.backward()
                opt.step()
                losses.append(loss.item())
            except IndexError:
                losses.append(None)
        return losses
    ours, theirs = run(fanal), run(torch)
    assert [a is None for a in ours] == [b is None for b in theirs]
    assert [a for a in ours if a is not None] == pytest.approx([b for b in theirs if b is not None], rel=1e-4)
