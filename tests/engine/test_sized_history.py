"""Steps on batches of many sizes that read a value before their backward: the history that is left has sizes too."""
from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from loops import Loop, data, labels
from test_follow import Log, agree, on_a_thread

import fanal
from fanal.core.base import knobs
from fanal.core.engine.ledger import ledger

pytorch = pytest.importorskip("torch")
STEPS = 30


@pytest.fixture(autouse=True)
def _sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knobs, "sizes", True)


def _numbered(m: Any, net: Any) -> Any:
    """Give a network parameters that are the same in both libraries."""
    with m.no_grad():
        for k, p in enumerate(net.parameters()):
            p.copy_(data(m, *p.shape, seed=k) * 0.3)
    return net


def _mlp(m: Any) -> Any:
    return _numbered(m, m.nn.Sequential(m.nn.Linear(6, 8), m.nn.Tanh(), m.nn.Linear(8, 3)))


def _sizes_of(steps: int, least: int = 3, most: int = 40) -> list[int]:
    r = random.Random(0)
    return [r.randint(least, most) for _ in range(steps)]


def accuracy(m: Any, steps: int, log: Callable[[Any], None]) -> None:
    """The loss and the accuracy of a batch are read before its backward."""
    net = _mlp(m)
    opt = m.optim.Adam(net.parameters(), lr=0.05)
    for k, n in enumerate(_sizes_of(steps)):
        x, y = data(m, n, 6, seed=k), labels(m, n, 3, k)
        out = net(x)
        loss = m.nn.functional.cross_entropy(out, y)
        right = (out.argmax(1) == y).float().mean().item()
        assert loss.item() > 0
        opt.zero_grad()
        loss.backward()
        opt.step()
        log(loss)
        log(m.tensor(right))


def attention(m: Any, steps: int, log: Callable[[Any], None]) -> None:
    """A layer of a Transformer on sequences of many lengths; both of its sizes vary."""
    net = _numbered(m, m.nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True))
    opt = m.optim.SGD(net.parameters(), lr=0.1)
    for k, n in enumerate(_sizes_of(steps, 4, 20)):
        x = data(m, 2 + k % 3, n, 8, seed=k)
        loss = (net(x) - x).square().mean()
        if not np.isfinite(loss.item()):
            break
        opt.zero_grad()
        loss.backward()
        opt.step()
        log(loss)


def parts(m: Any, steps: int, log: Callable[[Any], None]) -> None:
    """A network in two parts, and the result of the first is looked at; losses of two batches are added."""
    a, b = _numbered(m, m.nn.Linear(6, 8)), _numbered(m, m.nn.Linear(8, 3))
    opt = m.optim.SGD([*a.parameters(), *b.parameters()], lr=0.05)
    for k, n in enumerate(_sizes_of(steps)):
        losses = []
        for x in (data(m, n, 6, seed=k), data(m, 7, 6, seed=k + 1)):
            h = m.tanh(a(x))
            scale = 1.0 + (h.detach().abs().mean().item() > 0.5)
            out = b(h * scale)
            losses.append(out.logsumexp(1).mean() / (1 + out.detach().max().item() ** 2))
        total = losses[0] + losses[1]
        assert total.item() != 0
        opt.zero_grad()
        total.backward()
        opt.step()
        log(total)


def twice(m: Any, steps: int, log: Callable[[Any], None]) -> None:
    """Two backwards through one graph; every fourth step a hook looks at a gradient, or somebody at the graph."""
    net = _mlp(m)
    opt = m.optim.SGD(net.parameters(), lr=0.05)
    for k, n in enumerate(_sizes_of(steps)):
        x = data(m, n, 6, seed=k)
        h = net[:2](x)
        loss = net[2](h).square().mean()
        assert loss.item() > 0
        if k % 4 == 3:
            h.register_hook(lambda g: g * 2)
        if k % 8 == 1:
            assert loss.grad_fn is not None and loss.grad_fn.next_functions
        opt.zero_grad()
        loss.backward(retain_graph=True)
        g = net[0].weight.grad.norm().item()
        (loss * 0.5 + h.sum() * g * 0.01).backward()
        opt.step()
        log(loss)
        log(net[0].weight.grad)


def convolutions(m: Any, steps: int, log: Callable[[Any], None]) -> None:
    """Images of many sizes, and a norm that keeps statistics."""
    F = m.nn.functional
    net = _numbered(m, m.nn.Sequential(m.nn.Conv2d(2, 4, 3, padding=1), m.nn.BatchNorm2d(4), m.nn.ReLU(),
                                       m.nn.AdaptiveAvgPool2d(1), m.nn.Flatten(), m.nn.Linear(4, 3)))
    opt = m.optim.SGD(net.parameters(), lr=0.05)
    for k, n in enumerate(_sizes_of(steps, 2, 12)):
        x, y = data(m, n, 2, 9, 9, seed=k), labels(m, n, 3, k)
        loss = F.cross_entropy(net(x), y)
        assert loss.item() > 0
        opt.zero_grad()
        loss.backward()
        opt.step()
        log(loss)


def mixtures(m: Any, steps: int, log: Callable[[Any], None]) -> None:
    """Two layers of experts, one after the other, that write to zeros; sometimes somebody holds what is written to."""
    def layer(gate: Any, experts: list[Any], x: Any, kept: list[Any]) -> Any:
        w, i = gate(x).softmax(-1).topk(2)
        out = m.zeros_like(x)
        for k, e in enumerate(experts):
            row, slot = m.where(i == k)
            out[row] += w[row, slot, None] * m.tanh(e(x[row]))
        kept.append(out)
        return x + out
    nets = [[_numbered(m, m.nn.Linear(6, 3)), *(_numbered(m, m.nn.Linear(6, 6)) for _ in range(3))] for _ in range(2)]
    opt = m.optim.SGD([p for net in nets for e in net for p in e.parameters()], lr=0.05)
    for k in range(steps):
        x = y = data(m, 48, 6, seed=k)
        kept: list[Any] = []
        for net in nets:
            x = layer(net[0], net[1:], x, kept if k % 7 == 6 else [])
        loss = (x - y * 2).square().mean()
        if kept:
            loss = loss + kept[0].sum() * 0.1
        opt.zero_grad()
        loss.backward()
        opt.step()
        log(loss)


def windows(m: Any, steps: int, log: Callable[[Any], None]) -> None:
    """A view of what has a history is held when a value is read; sometimes what follows is another thing."""
    a, b = _numbered(m, m.nn.Linear(6, 8)), _numbered(m, m.nn.Linear(3, 2))
    opt = m.optim.SGD([*a.parameters(), *b.parameters()], lr=0.05)
    for k, n in enumerate(_sizes_of(steps, 8, 40)):
        h = a(data(m, n, 6, seed=k))
        v = h[:, 2:5][1:]
        loss = m.sin(v).mean()
        assert loss.item() < 1
        if k % 6 == 5:
            v = v * 2
        loss = loss + b(m.cos(v)).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        log(loss)
        log(a.weight.grad)


LOOPS = [accuracy, attention, parts, twice, convolutions, mixtures, windows]


@pytest.mark.parametrize("loop", LOOPS)
def test_sized_history_is_what_pytorch_has(loop: Loop) -> None:
    def logged(m: Any) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        on_a_thread(lambda: loop(m, STEPS, lambda t: found.append(t.detach().numpy().copy())))
        return found
    for got, expected in zip(logged(fanal), logged(pytorch), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("loop", LOOPS)
def test_sized_history_changes_no_bit(loop: Loop) -> None:
    def work(log: Log) -> None:
        loop(fanal, STEPS, log)
    agree(work, 20)


@pytest.mark.parametrize("loop", [accuracy, attention, parts, mixtures])
def test_other_sizes_are_followed(loop: Loop) -> None:
    """Of the last twenty steps on sizes from 3 to 40, at most six plan anything: one that is far from all before."""
    planned: list[int] = []
    on_a_thread(lambda: loop(fanal, 90, lambda t: planned.append(ledger.recorded)))
    assert sum(map(bool, np.diff(planned)[-20:])) <= 6


def test_what_is_written_to_tells_of_its_history() -> None:
    """Between the write and the end of the segment, when nothing is computed yet."""
    def told(m: Any) -> list[Any]:
        a, = [_numbered(m, m.nn.Linear(6, 6))]
        opt, found = m.optim.SGD(a.parameters(), lr=0.05), []
        for k in range(16):
            x, out = data(m, 8, 6, seed=k), m.zeros(8, 6)
            out.sum().item()
            before = out._version
            out[:4] += m.tanh(a(x))[:4]
            if k > 10:
                found.append((out.requires_grad, out.is_leaf, out._version - before, out.grad_fn is None))
                with pytest.raises(RuntimeError, match="requires grad"):
                    out.numpy()
            if k > 12:
                out.register_hook(lambda g: g * 2)
            loss = (x + out - 1).square().mean()
            del out
            assert (loss * 2).item() > 0
            opt.zero_grad()
            loss.backward()
            opt.step()
            found.append(round(loss.item(), 4))
        return found
    assert on_a_thread(lambda: told(fanal)) == told(pytorch)


def test_what_backward_reads_may_not_be_overwritten() -> None:
    def work() -> None:
        net = _mlp(fanal)
        for k, n in enumerate(_sizes_of(12)):
            h = net[:2](data(fanal, n, 6, seed=k))
            loss = net[2](h).square().mean()
            loss.item()
            if k == 11:
                with fanal.no_grad():
                    h.mul_(2)
                with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                    loss.backward()
            else:
                loss.backward()
    on_a_thread(work)
