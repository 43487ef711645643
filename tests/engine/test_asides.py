"""Values read in the midst of a step that follow from what is in memory: computed aside, and the step stays one segment."""
from __future__ import annotations

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
STEPS = 24


@pytest.fixture(autouse=True)
def _sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knobs, "sizes", True)


def _layers(m: Any, *sizes: int) -> list[Any]:
    layers = []
    for k, (a, b) in enumerate(zip(sizes, sizes[1:])):
        layer = m.nn.Linear(a, b)
        with m.no_grad():
            layer.weight.copy_(data(m, b, a, seed=k) * 0.3)
            layer.bias.copy_(data(m, b, seed=k + 9) * 0.3)
        layers.append(layer)
    return layers


def _trained(m: Any, layers: list[Any]) -> Any:
    return m.optim.SGD([p for layer in layers for p in layer.parameters()], lr=0.1)


def prototypes(m: Any, steps: int, log: Callable[[Any], None]) -> None:
    """Means of what is computed of the examples of each class."""
    a, b = layers = _layers(m, 5, 8, 4)
    opt = _trained(m, layers)
    for k in range(steps):
        x, y = data(m, 20, 5, seed=k), labels(m, 20, 3, k)
        f = b(m.tanh(a(x)))
        loss = m.nn.functional.cross_entropy(-m.cdist(f, m.stack([f[y == c].mean(0) for c in range(3)])), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        log(loss)


def experts(m: Any, steps: int, log: Callable[[Any], None]) -> None:
    """Rows that are sent to one of several layers, of which some get none."""
    gate, *es = layers = [*_layers(m, 5, 4), *(e for k in range(4) for e in _layers(m, 5, 5))]
    opt = _trained(m, layers)
    for k in range(steps):
        x = data(m, 12, 5, seed=k)
        w, i = gate(x).softmax(-1).max(-1)
        out = m.zeros_like(x)
        for j, e in enumerate(es):
            mine = i == j
            if mine.any():
                out[mine] = e(x[mine]) * w[mine].unsqueeze(1)
        loss = (out - x).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        log(loss)


def positions(m: Any, steps: int, log: Callable[[Any], None]) -> None:
    """The same by positions, added to; a row goes to two experts."""
    gate, *es = layers = [*_layers(m, 5, 4), *(e for k in range(4) for e in _layers(m, 5, 5))]
    opt = _trained(m, layers)
    for k in range(steps):
        x = data(m, 16, 5, seed=k)
        w, i = gate(x).softmax(-1).topk(2)
        out = m.zeros_like(x)
        for j, e in enumerate(es):
            row, slot = m.where(i == j)
            out[row] += w[row, slot, None] * m.tanh(e(x[row]))
        loss = (out - x).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        log(loss)


def written(m: Any, steps: int, log: Callable[[Any], None]) -> None:
    """What is asked about is written to in between, by the step itself."""
    a, b = layers = _layers(m, 5, 8, 4)
    opt = _trained(m, layers)
    count = m.zeros(20, dtype=m.int64)
    for k in range(steps):
        x, y = data(m, 20, 5, seed=k), labels(m, 20, 4, k)
        f = a(x)
        seen = int((y == 1).sum())
        y += 1
        mask = y % 5 == 0
        y.clamp_(max=3)
        count += y
        late = (count > 40).sum().item()
        loss = m.nn.functional.cross_entropy(b(m.tanh(f)), y) * (1 + seen) + f[mask].sum() + late * f.mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        log(loss)
        log(count)


def batches(m: Any, steps: int, log: Callable[[Any], None]) -> None:
    """The same of batches of many sizes: what is asked has a size that varies, and so has the answer."""
    a, b = layers = _layers(m, 5, 8, 3)
    opt = m.optim.SGD([p for layer in layers for p in layer.parameters()], lr=0.02)
    for k in range(2 * steps):
        x = data(m, (9, 11, 14, 10, 22, 30, 17, 12, 28, 13)[k * 3 % 10] * 4, 5, seed=k)
        f = a(x)
        loss = b(m.tanh(f[x[:, 0] > 0])).square().mean() + b(f).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        log(loss)


LOOPS = [prototypes, experts, positions, written, batches]


@pytest.mark.parametrize("loop", LOOPS)
def test_asides_are_what_pytorch_computes(loop: Loop) -> None:
    def logged(m: Any) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        on_a_thread(lambda: loop(m, STEPS, lambda t: found.append(t.detach().numpy().copy())))
        return found
    for got, expected in zip(logged(fanal), logged(pytorch), strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("loop", LOOPS)
def test_asides_change_no_bit(loop: Loop) -> None:
    def work(log: Log) -> None:
        loop(fanal, STEPS, log)
    agree(work, 50)


@pytest.mark.parametrize(("loop", "flushes"), [(prototypes, 1), (positions, 2)])
def test_a_step_that_asks_about_its_data_stays_whole(loop: Loop, flushes: int) -> None:
    ran: list[int] = []

    def work() -> None:
        # The value that is logged is read after the step, in which it was computed.
        loop(fanal, STEPS, lambda t: ran.append(ledger.flushes))
    on_a_thread(work)
    assert set(np.diff(ran)) == {flushes}


@pytest.mark.parametrize("loop", [positions, batches])
def test_sizes_of_answers_are_followed(loop: Loop) -> None:
    """That a size comes which is far from all before is rare; every other step is followed."""
    recorded: list[int] = []
    on_a_thread(lambda: loop(fanal, 40, lambda t: recorded.append(ledger.recorded)))
    assert sum(map(bool, np.diff(recorded)[-20:])) <= 4


def test_a_question_in_what_never_comes_again_cuts_it_off() -> None:
    """A number that is another in every step, and cannot be followed: the model behind the question is."""
    recorded: list[int] = []

    def work() -> None:
        a, b = layers = _layers(fanal, 5, 8, 3)
        opt = _trained(fanal, layers)
        for k in range(40):
            f = a(data(fanal, 6, 5, seed=k))
            s = (fanal.full((3,), k * 0.05 - 1) + 1).tolist()
            loss = b(fanal.tanh(f)).square().mean() + s[0]
            opt.zero_grad()
            loss.backward()
            opt.step()
            recorded.append(ledger.recorded)
    on_a_thread(work)
    assert max(np.diff(recorded)[-10:]) <= 3


def test_an_answer_that_cannot_be_computed_is_an_error_at_its_call() -> None:
    def work() -> None:
        a, = _layers(fanal, 5, 3)
        f = a(data(fanal, 4, 5))
        y = labels(fanal, 4, 3, 0)[fanal.tensor([0, 4]) + 5]
        with pytest.raises(IndexError, match="index 9"):
            (y == 1).any().item()
        f.sum().backward()
        assert a.weight.grad is not None
    on_a_thread(work)


def test_history_and_much_work_are_not_computed_aside() -> None:
    def work() -> None:
        a, = _layers(fanal, 5, 3)
        x = data(fanal, 4, 5)
        f, g = a(x), a(x + 1)
        before = ledger.flushes
        assert isinstance(f.sum().item(), float)
        assert ledger.flushes == before + 1
        assert g._storage.node.buffer is not None  # all that was pending ran
    on_a_thread(work)
