"""What a loop takes over detached ends its history there, and the loop is followed: hidden states, fakes of a GAN."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import fanal
from fanal.core.engine.ledger import ledger

peer = pytest.importorskip("torch")


def hidden_state(torch: Any) -> Iterator[float]:
    """Backpropagation through time, cut after every few steps (Williams & Peng 1990)."""
    torch.manual_seed(0)
    embedding, rnn, head = torch.nn.Embedding(20, 8), torch.nn.LSTM(8, 16, batch_first=True), torch.nn.Linear(16, 20)
    parameters = [p for m in (embedding, rnn, head) for p in m.parameters()]
    opt = torch.optim.RMSprop(parameters, 1e-2)
    text = torch.randint(0, 20, (4, 60))
    h = None
    for k in range(10):
        x, y = text[:, 5 * (k % 2):5 * (k % 2) + 5], text[:, 5 * (k % 2) + 1:5 * (k % 2) + 6]
        out, h = rnn(embedding(x), h)
        h = tuple(s.detach() for s in h)
        loss = torch.nn.functional.cross_entropy(head(out).reshape(-1, 20), y.reshape(-1))
        opt.zero_grad()
        loss.backward()
        opt.step()
        yield loss.item()


def fakes(torch: Any) -> Iterator[float]:
    """A critic with a penalty on its gradient (Gulrajani et al. 2017), which sees the generator's results detached."""
    torch.manual_seed(0)
    generator, critic = torch.nn.Linear(4, 6), torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(),
                                                                   torch.nn.Linear(8, 1))
    steps = torch.optim.SGD(generator.parameters(), 0.05), torch.optim.SGD(critic.parameters(), 0.05)
    real = torch.randn(5, 6)
    for _ in range(10):
        for _ in range(2):
            fake = generator(torch.randn(5, 4)).detach()
            between = (0.3 * real + 0.7 * fake).requires_grad_()
            (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
            loss = critic(fake).mean() - critic(real).mean() + ((slope.norm(2, dim=1) - 1) ** 2).mean()
            steps[1].zero_grad()
            loss.backward()
            steps[1].step()
        steps[0].zero_grad()
        (-critic(generator(torch.randn(5, 4))).mean()).backward()
        steps[0].step()
        yield loss.item()


def half_used(torch: Any) -> Iterator[float]:
    """States of which no part of the loss is made, and one inside a graph that is read before its backward."""
    torch.manual_seed(0)
    cell, head = torch.nn.Linear(6, 6), torch.nn.Linear(6, 3)
    opt = torch.optim.SGD([*cell.parameters(), *head.parameters()], 0.1)
    h = torch.ones(2, 6)
    for _ in range(10):
        new = torch.tanh(cell(h))
        h = (new * 2).detach()
        loss = head(new).pow(2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        through = torch.tanh(cell(h))
        shown, more = through.detach(), through * 2
        del through
        total = shown.sum().item()
        (slope,) = torch.autograd.grad(more.sum(), cell.weight)
        yield loss.item() + total + slope.sum().item()


@pytest.mark.parametrize("loop", [hidden_state, fakes, half_used])
def test_detached_results_are_followed_and_right(loop: Any) -> None:
    want = list(loop(peer))
    got, recorded = [], []
    for loss in loop(fanal):
        got.append(loss)
        recorded.append(ledger.recorded)
    assert got == pytest.approx(want, rel=1e-5)
    assert recorded[-1] == recorded[4], "recorded in each step"


def test_a_view_that_is_not_detached_keeps_the_history() -> None:
    """Held beside a detached tensor, in the loop and by a reference that no call returned."""
    w = fanal.ones(3, requires_grad=True)
    for _ in range(6):
        y = w * 2
        shown, row = y.detach(), y[1:]
        y.sum().backward(retain_graph=True)
        assert shown.sum().item() == 6
        del y
        row.sum().backward()
        assert w.grad.tolist() == [2.0, 4.0, 4.0]
        w.grad = None
