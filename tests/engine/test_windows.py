"""Data cut out at another place in every step, and used again after a value was read: followed, as PyTorch has it."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_follow import on_a_thread

import fanal
from fanal.core.base import knobs
from fanal.core.engine.ledger import ledger

ROWS, WIDTH, CLASSES = 400, 12, 5
_r = np.random.default_rng(0)
DATA, LABELS = _r.standard_normal((ROWS, WIDTH)).astype(np.float32), _r.integers(0, CLASSES, ROWS)
WEIGHTS = _r.standard_normal((WIDTH, CLASSES)).astype(np.float32)


@pytest.fixture(autouse=True)
def _sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knobs, "sizes", True)


class Loop:
    """What a loop works on, of either library."""

    def __init__(self, library: Any) -> None:
        self.m = library
        self.x, self.y = library.tensor(DATA), library.tensor(LABELS)
        self.w = library.tensor(WEIGHTS, requires_grad=True)
        self.state = library.zeros(CLASSES)


def column(loop: Loop, k: int) -> list[Any]:
    x = loop.x[:, k % 5:k % 5 + 4]
    return [x.sum(), (x * 2).mean(1), x.storage_offset(), x[3:5].storage_offset()]


def row(loop: Loop, k: int) -> list[Any]:
    x = loop.x[k * 7]
    return [x.sum(), (x * 3).max(), x.storage_offset()]


def flat(loop: Loop, k: int) -> list[Any]:
    x = loop.x.view(-1)[k * 7:k * 7 + 24]
    return [x.sum(), x.view(4, 6).sum(0), x.view(2, 12)[1].storage_offset()]


def every_other(loop: Loop, k: int) -> list[Any]:
    x = loop.x[k * 7:k * 7 + 16:2]
    return [x.sum(), x * x, x.stride(), x.storage_offset()]


def cut_again(loop: Loop, k: int) -> list[Any]:
    x = loop.x[k * 7:k * 7 + 8][k % 4:k % 4 + 2]
    return [x.sum(), x * x, x.storage_offset()]


def turned(loop: Loop, k: int) -> list[Any]:
    x = loop.x[k * 7:k * 7 + 8].t()
    return [x.sum(), x @ x.t(), x.storage_offset(), x.stride()]


def two_that_overlap(loop: Loop, k: int) -> list[Any]:
    x, z = loop.x[k * 7:k * 7 + 8], loop.x[k * 7 + 3:k * 7 + 11]
    return [x.sum(), x - z, z.storage_offset()]


def in_other_strides(loop: Loop, k: int) -> list[Any]:
    x = loop.x[k * 7:k * 7 + 8]
    at = x.storage_offset() + 1
    return [x.sum(), loop.m.as_strided(x, (4,), (2,)).sum(), loop.m.as_strided(x, (4,), (2,), at).sum()]


def written(loop: Loop, k: int) -> list[Any]:
    x = loop.x[k * 7:k * 7 + 8]
    total = x.sum().item()
    x += 1
    return [total, x.sum(), loop.x.mean()]


def written_behind(loop: Loop, k: int) -> list[Any]:
    x = loop.x[k * 7:k * 7 + 8]
    total = x.sum().item()
    z = x * 2
    loop.x[k * 7] = 0.5
    return [total, z, x]


def grown(loop: Loop, k: int) -> list[Any]:
    x = loop.x[:k + 1]
    return [x.sum(), x * 2, x.mean(0)]


def last_one_shorter(loop: Loop, k: int) -> list[Any]:
    n = 8 if k % 6 else 5
    x, y = loop.x[k * 7:k * 7 + n], loop.y[k * 7:k * 7 + n]
    loss = loop.m.nn.functional.cross_entropy(x @ loop.w, y)
    loss.backward()
    found = [loss, loop.w.grad, (y == 2).sum(), (x > 0).sum()]
    loop.w.grad = None
    return found


def accuracy(loop: Loop, k: int) -> list[Any]:
    x, y = loop.x[k * 7:k * 7 + 8], loop.y[k * 7:k * 7 + 8]
    out = x @ loop.w
    loss = loop.m.nn.functional.cross_entropy(out, y)
    loss.backward()
    total = loss.item()
    most, place = out.max(1)  # its history is freed
    right = place.eq(y).sum().item()
    found = [total, right, loop.w.grad, most.requires_grad]
    loop.w.grad = None
    return found


def freed(loop: Loop, k: int) -> list[Any]:
    x, y = loop.x[k * 7:k * 7 + 8], loop.y[k * 7:k * 7 + 8]
    out = (x @ loop.w).relu()
    loss = loop.m.nn.functional.cross_entropy(out, y)
    loss.backward()
    total = loss.item()
    most, place = (out * 2).max(1)
    right = place.eq(y).sum().item()
    if k % 5 < 4:
        return [total, right]
    with pytest.raises(RuntimeError, match="backward through the graph a second time") as e:
        most.sum().backward()
    return [total, right, str(e.value)[:70], loop.w.grad]


def state(loop: Loop, k: int) -> list[Any]:
    x, y = loop.x[k * 7:k * 7 + 8], loop.y[k * 7:k * 7 + 8]
    new = loop.m.tanh(x @ loop.w + loop.state.detach() * 0.5).mean(0)  # kept with its history, until here
    loss = (new * y[:5]).square().mean()
    loss.backward()
    loop.state = new
    found = [loss, loop.w.grad]
    loop.w.grad = None
    return found


def result(x: Any) -> Any:
    return x.detach().tolist() if hasattr(x, "detach") else x


def run(library: Any, body: Callable[[Loop, int], list[Any]], steps: int = 30) -> list[list[Any]]:
    loop = Loop(library)
    return [[result(x) for x in body(loop, k)] for k in range(steps)]


def agrees(a: Any, b: Any) -> bool:
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(agrees, a, b))
    return a == b if not isinstance(a, float) else abs(a - b) <= 2e-5 * max(1, abs(a))


BODIES = (column, row, flat, every_other, cut_again, turned, two_that_overlap, in_other_strides, written, written_behind,
          grown, last_one_shorter, accuracy, freed, state)


@pytest.mark.parametrize("body", BODIES, ids=lambda f: f.__name__)
def test_agrees_with_torch(body: Callable[[Loop, int], list[Any]]) -> None:
    assert agrees(run(torch, body), on_a_thread(lambda: run(fanal, body)))


@pytest.mark.parametrize("body", [row, flat, turned, two_that_overlap, accuracy, state], ids=lambda f: f.__name__)
def test_is_followed(body: Callable[[Loop, int], list[Any]]) -> None:
    """All places are one plan, but for the first, which a condition tells from the others."""
    at = []

    def counted(loop: Loop, k: int) -> list[Any]:
        at.append(ledger.snapshot())
        return [result(x) for x in body(loop, k)]
    on_a_thread(lambda: run(fanal, counted, 24))
    assert at[-1]["recorded"] == at[8]["recorded"] and at[-1]["plans"] == at[8]["plans"]
