"""Recurrent layers as one recurrence each: gradients of both orders, packed sequences, and how little is compiled."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

import fanal
from fanal.core.engine.ledger import ledger

KINDS = {
    "LSTM": {},
    "LSTM projected": {"proj_size": 2},
    "GRU": {},
    "RNN": {},
    "RNN relu": {"nonlinearity": "relu"},
}


def made(t: Any, kind: str, dtype: str = "float64", **options: Any) -> Any:
    t.manual_seed(3)
    return getattr(t.nn, kind.partition(" ")[0])(3, 4, **KINDS[kind], **options).to(getattr(t, dtype))


def numbers(t: Any, *shape: int, dtype: str = "float64", seed: int = 0) -> Any:
    return t.tensor(np.random.default_rng(seed).uniform(-1, 1, shape), dtype=getattr(t, dtype))


def arrays(values: Any) -> list[np.ndarray]:
    return [np.asarray(v.detach().tolist()) for v in values]


def states(state: Any) -> list[Any]:
    return list(state) if isinstance(state, tuple) else [state]


def both_orders(t: Any, kind: str, bidirectional: bool) -> list[np.ndarray]:
    net = made(t, kind, num_layers=2, bidirectional=bidirectional)
    x = numbers(t, 5, 2, 3).requires_grad_()
    out, state = net(x)
    loss = out.sin().sum() + sum(s.cos().sum() for s in states(state))
    first = t.autograd.grad(loss, [x, *net.parameters()], create_graph=True)
    second = t.autograd.grad(sum((g * g).sum() for g in first), [x, *net.parameters()])
    return arrays([out, *states(state), *first, *second])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_both_orders(kind: str) -> None:
    for mine, theirs in zip(both_orders(fanal, kind, True), both_orders(torch, kind, True), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences(kind: str) -> None:
    def go(t: Any) -> list[np.ndarray]:
        net = made(t, kind, bidirectional=True)
        sequences = [numbers(t, n, 3, seed=n).requires_grad_() for n in (2, 6, 6, 1)]
        out, state = net(t.nn.utils.rnn.pack_sequence(sequences, enforce_sorted=False))
        (out.data.sin().sum() + sum(s.sin().sum() for s in states(state))).backward()
        gradients = [p.grad for p in (*sequences, *net.parameters())]
        return arrays([out.data, *states(state), *gradients])

    for mine, theirs in zip(go(fanal), go(torch), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
def test_functions(name: str) -> None:
    kind = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN", "rnn_relu": "RNN relu"}[name]

    def go(t: Any) -> list[np.ndarray]:
        net = made(t, kind, num_layers=2)
        weights = [p for _, p in net.named_parameters()]
        h = [numbers(t, 2, 5, 4, seed=k) for k in range(2 if name == "lstm" else 1)]
        hx = tuple(h) if name == "lstm" else h[0]
        padded = getattr(t, name)(numbers(t, 5, 3, 3), hx, weights, True, 2, 0.0, False, False, True)
        sizes = t.tensor([5, 3, 3])
        packed = getattr(t, name)(numbers(t, 11, 3), sizes, hx, weights, True, 2, 0.0, False, False)
        cell = (numbers(t, 5, 3), [s[0] for s in h] if name == "lstm" else h[0][0], *weights[:4])
        return arrays([*padded, *packed, *states(getattr(t, name + "_cell")(*cell))])

    for mine, theirs in zip(go(fanal), go(torch), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


def test_no_steps_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="sequence length to be larger than 0"):
        fanal.nn.GRU(3, 4)(fanal.zeros(0, 2, 3))
    with pytest.raises(RuntimeError, match="lstm expects two hidden states"):
        fanal.lstm(fanal.zeros(2, 2, 3), (fanal.zeros(1, 2, 4),), [], True, 1, 0.0, False, False, False)


def train(length: int, threads: int = 1, read: bool = False) -> list[np.ndarray]:
    """Three steps of a layer large enough to be divided among threads; `read`: a value between forward and backward."""
    before = fanal.get_num_threads()
    fanal.set_num_threads(threads)
    try:
        fanal.manual_seed(0)
        net = fanal.nn.LSTM(48, 80, 2, bidirectional=True)
        optimizer = fanal.optim.SGD(net.parameters(), lr=0.1)
        x = numbers(fanal, length, 20, 48, dtype="float32")
        for _ in range(3):
            optimizer.zero_grad()
            loss = net(x)[0].square().mean()
            if read:
                loss.item()
            loss.backward()
            optimizer.step()
        return arrays(net.parameters())
    finally:
        fanal.set_num_threads(before)


def test_same_bits_on_two_threads_and_after_a_value_was_read() -> None:
    alone = train(7)
    for other in (train(7, threads=2), train(7, read=True)):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(alone, other, strict=True))


def test_a_longer_sequence_compiles_no_kernel() -> None:
    train(12)
    kernels = ledger.snapshot()["kernels"]
    train(15)
    assert ledger.snapshot()["kernels"] == kernels


def test_weights_are_packed_once() -> None:
    net = fanal.nn.LSTM(48, 80)
    for _ in range(2):  # where most segments are new, as after the other tests, one runs whole when it comes again
        net(numbers(fanal, 11, 20, 48, dtype="float32"))[0].tolist()
    labels = Counter(launch.label for _, launch, *_ in ledger.executables[-1].exe.placed())
    assert sum(labels.values()) > 11 and labels["pack 80x320 float32"] == 1
    assert sum(count for label, count in labels.items() if label.startswith("matmul 20x80x320")) == 11
