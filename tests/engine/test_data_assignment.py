"""Loops that assign to `.data`, or write through it, are followed and right."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import fanal
from fanal.core.engine.ledger import ledger

peer = pytest.importorskip("torch")


def _two(torch: Any) -> tuple[Any, Any, Any]:
    """Return a small network, another with the same weights, and a batch."""
    torch.manual_seed(0)
    one, other = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    other.load_state_dict(one.state_dict())
    return one, other, torch.randn(5, 4)


def average(torch: Any) -> Iterator[float]:
    """A second network that follows the first one (He et al. 2020)."""
    one, other, x = _two(torch)
    opt = torch.optim.SGD(one.parameters(), 0.1, momentum=0.9)
    for _ in range(10):
        loss = (one(x) - other(x).detach() - 1).pow(2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        for p, q in zip(one.parameters(), other.parameters()):
            q.data = q.data * 0.9 + p.data * 0.1
        yield loss.item()


def by_hand(torch: Any) -> Iterator[float]:
    """Gradient descent without an optimizer."""
    one, other, x = _two(torch)
    for _ in range(10):
        loss = (one(x) - other(x) - 1).pow(2).mean()
        loss.backward()
        for p in one.parameters():
            p.data = p.data - 0.1 * p.grad.data
            p.grad.data.zero_()
        for p in other.parameters():
            p.data.add_(p.grad.data, alpha=-0.1)
            p.grad = None
        yield loss.item()


def exchanged(torch: Any) -> Iterator[float]:
    """Averaged weights that stand in for the trained ones while these are tried, and then give way."""
    one, other, x = _two(torch)
    opt = torch.optim.Adam(one.parameters(), 0.01)
    shadow = [p.data.clone() for p in one.parameters()]
    for _ in range(10):
        loss = (one(x) - 1).pow(2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        shadow = [0.9 * s + 0.1 * p.data for s, p in zip(shadow, one.parameters())]
        kept = [p.data for p in one.parameters()]
        for p, s in zip(one.parameters(), shadow):
            p.data = s
        tried = one(x).sum().item()
        for p, k in zip(one.parameters(), kept):
            p.data = k
        yield loss.item() + tried


def before_backward(torch: Any) -> Iterator[float]:
    """The clipped weights take the gradient of those that they were before."""
    one, other, x = _two(torch)
    opt = torch.optim.SGD(one.parameters(), 0.1)
    for _ in range(10):
        loss = one(x).sum()
        for p in one.parameters():
            p.data = p.data.clamp(-0.3, 0.3)
        opt.zero_grad()
        loss.backward()
        opt.step()
        yield loss.item()


@pytest.mark.parametrize("loop", [average, by_hand, exchanged, before_backward])
def test_assigned_data_is_followed_and_right(loop: Any) -> None:
    want = list(loop(peer))
    got, recorded = [], []
    for loss in loop(fanal):
        got.append(loss)
        recorded.append(ledger.recorded)
    assert got == pytest.approx(want, rel=1e-5, abs=1e-6)
    assert recorded[-1] == recorded[4], "recorded in each step"


def _shared(torch: Any, k: int) -> list[Any]:
    """Return what tensors hold that share memory with an assigned one, before or after, in one step of a loop."""
    p = torch.ones(3, requires_grad=True)
    found = []
    for step in range(6):
        before, row = p.data, p.detach()[1:]
        new = p.detach() * 2 + step
        p.data = new
        after, part = p.data, p.detach()[:2]
        if step >= k:
            new += 1
        before -= 1
        part *= 3
        found.append([t.tolist() for t in (p, before, row, new, after, part)])
        (p * 2).sum().backward()
        found.append(p.grad.tolist())
    return found


@pytest.mark.parametrize("k", [0, 4, 9])
def test_the_memory_moves_to_what_was_assigned(k: int) -> None:
    assert _shared(fanal, k) == _shared(peer, k)
