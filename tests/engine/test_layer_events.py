"""A call of a built-in layer is one event, and whatever the layer becomes in between is noticed."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_follow import Log, agree

import fanal as torch
from fanal import nn
from fanal.core.engine.follow import paths
from fanal.core.engine.ledger import ledger
from fanal.core.engine.matcher import matcher
from fanal.nn import functional as F

STEPS, AT = 20, (9, 15)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(6, 8), nn.Sequential(nn.BatchNorm1d(8), nn.LeakyReLU(0.1)), nn.Dropout(0.1))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.norm(self.features(x)))


def same(net: Net) -> None:
    pass


def weight(net: Net) -> None:
    net.head.weight = nn.Parameter(torch.full((3, 8), 0.1))


def bias_away(net: Net) -> None:
    net.head.bias = None


def slope(net: Net) -> None:
    net.features[1][1].negative_slope = 0.5


def rate(net: Net) -> None:
    net.features[2].p = 0.7


def momentum(net: Net) -> None:
    net.features[1][0].momentum = 0.5


def evaluation(net: Net) -> None:
    net.train(not net.training)


def frozen_statistics(net: Net) -> None:
    net.features[1][0].eval()


def child(net: Net) -> None:
    net.features[1][1] = nn.Tanh()


def longer(net: Net) -> None:
    net.features.append(nn.Sigmoid())


def shorter(net: Net) -> None:
    del net.features[-1]


def hook(net: Net) -> None:
    net.features[0].register_forward_hook(lambda m, i, o: o * 0.5)


def pre_hook(net: Net) -> None:
    net.features[1].register_forward_pre_hook(lambda m, i: (i[0] + 1,))


def own_forward(net: Net) -> None:
    net.head.forward = lambda x: F.linear(x, net.head.weight) * 2  # type: ignore[method-assign]


def other_table(net: Net) -> None:
    net.head._parameters["weight"] = nn.Parameter(torch.full((3, 8), -0.1))


def frozen(net: Net) -> None:
    net.features[0].requires_grad_(False)


def other_module(net: Net) -> None:
    net.head = nn.Linear(8, 3)


CHANGES: list[Callable[[Net], None]] = [
    same, weight, bias_away, slope, rate, momentum, evaluation, frozen_statistics, child, longer, shorter, hook, pre_hook,
    own_forward, other_table, frozen, other_module]


def train(log: Log, change: Callable[[Net], None]) -> None:
    net = Net()
    r = np.random.default_rng(1)
    data = [(torch.tensor(r.standard_normal((5, 6)).astype(np.float32)), torch.tensor(r.integers(0, 3, 5)))
            for _ in range(3)]
    for k in range(STEPS):
        x, y = data[k % 3]
        loss = F.cross_entropy(net(x), y)
        net.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in net.parameters():
                if p.grad is not None:
                    p -= 0.05 * p.grad
        log(loss)
        if k in AT:
            change(net)
    log(list(net.parameters()))
    log(list(net.buffers()))


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_a_change_is_noticed(change: Callable[[Net], None], monkeypatch: Any) -> None:
    def work(log: Log) -> None:
        train(log, change)
    agree(work, 20)


def test_a_patched_class_is_noticed(monkeypatch: Any) -> None:
    plain = nn.Linear.forward

    def work(log: Log) -> None:
        monkeypatch.setattr(nn.Linear, "forward", plain)

        def patch(net: Net) -> None:
            monkeypatch.setattr(nn.Linear, "forward", lambda self, x: plain(self, x) * 0.5)
        train(log, patch)
    agree(work, 20)


@pytest.mark.skipif(matcher.name != "native", reason="only the native matcher follows layers")
def test_layers_are_one_event_each() -> None:
    def work(log: Log) -> None:
        train(log, same)
        for p in paths().all:
            names = [s.op.name for s in p.steps]
            assert names.count("nn.Module.__call__") in (0, 3) and "nn.functional.linear" not in names
    agree(work, 20)


def test_one_layer_used_twice_and_layers_that_die() -> None:
    def work(log: Log) -> None:
        for _ in range(3):  # the next layer may get the address of the last
            layer = nn.Linear(4, 4).requires_grad_(False)
            for k in range(8):
                x = torch.tensor(np.full((2, 4), k, np.float32))
                log(layer(layer(x)).sum())
            del layer
    agree(work, 10)


@pytest.mark.parametrize("make", [
    lambda x: nn.ELU()(x), lambda x: nn.Softmax(-1)(nn.Hardtanh()(x)), lambda x: nn.MaxPool1d(2)(x[None])[0],
], ids=["activation", "two", "pool"])
def test_layers_made_for_one_call_are_followed(make: Any) -> None:
    """Another layer was another argument, so every step was recorded."""
    def work(log: Log) -> None:
        w, x = torch.linspace(-1, 1, 24).reshape(4, 6).requires_grad_(), torch.ones(3, 4)
        optimizer = torch.optim.SGD([w], lr=0.1)
        for k in range(12):
            if k == 6:
                before[:] = [ledger.recorded]
            optimizer.zero_grad()
            loss = make(x @ w).square().sum()
            loss.backward()
            optimizer.step()
            log(loss.detach())
        recorded.append(ledger.recorded - before[0])
    before: list[int] = []
    recorded: list[int] = []
    agree(work, 5)
    assert recorded[-1] == 0
