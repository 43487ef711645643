"""Steps that never come again run in pieces: with the same bits, and soon without planning."""
from __future__ import annotations

import random
from typing import Any

import numpy as np
import programs
import pytest
import wide_programs
from test_follow import on_a_thread
from training import MODELS, fresh, train

import fanal
from fanal.core.engine.flush import Place
from fanal.core.engine.ledger import ledger

peer = pytest.importorskip("torch")


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every recorded step in pieces."""
    monkeypatch.setattr(Place, "meet", lambda place, s: True)


def _decode(lib: Any, steps: int) -> tuple[list[Any], list[int]]:
    """Train a decoder that is given the truth or its own guess, at random, over a random length."""
    lib.manual_seed(0)
    r = random.Random(0)
    nn, F = lib.nn, lib.nn.functional
    emb, cell, head = nn.Embedding(8, 6), nn.GRUCell(6, 6), nn.Linear(6, 8)
    ws = [p for m in (emb, cell, head) for p in m.parameters()]
    opt = lib.optim.SGD(ws, 0.1)
    losses, plans = [], []
    for _ in range(steps):
        before = ledger.plans
        h, token, loss = lib.zeros(1, 6), lib.tensor([0]), 0.0
        for t in range(r.randint(2, 7)):
            h = cell(emb(token), h)
            logits = head(h)
            target = lib.tensor([(t * 3) % 8])
            loss = loss + F.cross_entropy(logits, target)
            token = target if r.random() < 0.5 else logits.argmax(1)
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
        plans.append(ledger.plans - before)
    return [losses, *(w.detach().numpy().copy() for w in ws)], plans


def test_a_step_that_never_comes_again_is_run_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    found, plans = on_a_thread(lambda: _decode(fanal, 22))
    expected, _ = _decode(peer, 22)
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert sum(plans[-4:]) < 20  # of some 200 pieces
    monkeypatch.setattr(Place, "meet", lambda place, s: False)
    whole, _ = on_a_thread(lambda: _decode(fanal, 22))
    for a, b in zip(found, whole):
        np.testing.assert_array_equal(a, b)


def _episodes(lib: Any, lengths: list[int]) -> tuple[list[Any], list[int]]:
    """Train a policy on episodes of these lengths, whose steps all begin where the end of an episode does."""
    lib.manual_seed(0)
    nn = lib.nn
    policy = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2), nn.Softmax(1))
    opt = lib.optim.SGD(policy.parameters(), 0.1)
    x = np.random.RandomState(0).randn(max(lengths), 1, 4).astype(np.float32)
    plans = []
    for length in lengths:
        before = ledger.plans
        saved = []
        for t in range(length):
            of = lib.distributions.Categorical(policy(lib.from_numpy(x[t])))
            action = of.sample()
            saved.append(of.log_prob(action))
            action.item()
        returns = lib.arange(float(length)) / length
        opt.zero_grad()
        lib.cat([-p * r for p, r in zip(saved, returns)]).sum().backward()
        opt.step()
        plans.append(ledger.plans - before)
    return [p.detach().numpy().copy() for p in policy.parameters()], plans


def test_episodes_of_other_lengths_have_the_same_pieces() -> None:
    lengths = [5, 9, 7, 12, 10, 6, 11, 14, 8, 15, 13, 18, 16, 20, 17, 22]
    found, plans = on_a_thread(lambda: _episodes(fanal, lengths))
    for a, b in zip(found, _episodes(peer, lengths)[0]):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert max(plans[-2:]) < 8 < max(plans), plans  # of some 40 pieces


@pytest.mark.parametrize("name", ["mlp", "gpt"])
def test_pieces_have_the_bits_of_the_whole(name: str, always: None) -> None:
    expected = fresh(name)
    assert on_a_thread(lambda: train(MODELS[name](fanal))) == expected


@pytest.mark.parametrize("module", [programs, wide_programs])
def test_random_programs_in_pieces(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(seed: int) -> Any:
        return on_a_thread(lambda: module.run(fanal, module.source(seed), seed, bits))

    def bits(t: Any) -> Any:
        t = t.detach().resolve_conj().resolve_neg()
        return np.array((t.float() if str(t.dtype) == "torch.bfloat16" else t).numpy()).tobytes()
    for seed in range(4):
        whole = run(seed)
        with monkeypatch.context() as m:
            m.setattr(Place, "meet", lambda place, s: True)
            assert run(seed) == whole, module.source(seed)


@pytest.mark.parametrize("kept", [True, False])
def test_results_that_are_a_few_elements_of_others(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> list[Any]:
        whole = fanal.arange(6.).exp().cumsum(0)
        parts = [whole[2:4].clone(), whole[:1].clone(), whole[2:4].clone()]
        if not kept:
            del whole
        parts[0].add_(1)
        return [p.tolist() for p in parts] + [whole.tolist() if kept else None]
    expected = on_a_thread(work)
    monkeypatch.setattr(Place, "meet", lambda place, s: True)
    assert on_a_thread(work) == expected


def test_a_loop_of_many_shapes_is_followed_when_they_come_again() -> None:
    def work() -> int:
        w = fanal.ones(3, requires_grad=True)

        def step(n: int) -> None:
            (fanal.ones(n, 3) * w).sum().backward()
            w.grad = None
            fanal.zeros(1).item()
        for n in (*range(1, 30), *range(1, 30), *range(1, 30)):
            step(n)
        before = ledger.recorded
        for n in range(1, 30):
            step(n)
        return ledger.recorded - before
    assert on_a_thread(work) == 0


def _drop_layers(lib: Any, steps: int) -> tuple[list[Any], list[int]]:
    """Train a net of which each step leaves out other layers: what differs is which parameters the calls name."""
    lib.manual_seed(0)
    r = random.Random(0)
    layers = [lib.nn.Linear(4, 4) for _ in range(9)]
    opt = lib.optim.Adam([p for m in layers for p in m.parameters()], 0.01)
    x = lib.arange(8.).view(2, 4) / 8
    plans = []
    for _ in range(steps):
        before = ledger.plans
        h = x
        for layer in layers:
            if r.random() < 0.7:
                h = lib.tanh(layer(h) + h)
        opt.zero_grad()
        (h ** 2).mean().backward()
        opt.step()
        plans.append(ledger.plans - before)
    return [p.detach().numpy().copy() for m in layers for p in m.parameters()], plans


def test_calls_of_the_same_form_on_other_parameters_are_other_segments() -> None:
    found, plans = on_a_thread(lambda: _drop_layers(fanal, 70))
    for a, b in zip(found, _drop_layers(peer, 70)[0]):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert sum(plans[-10:]) < 5, plans


def _pick(lib: Any, steps: int) -> list[Any]:
    """Train on elements that Python chooses, other ones in every step."""
    lib.manual_seed(0)
    r = random.Random(0)
    w = lib.nn.Parameter(lib.eye(4))
    x = lib.arange(8.).view(2, 4) / 8
    for _ in range(steps):
        losses = []
        for _ in range(12):
            scores = lib.log_softmax((x @ w).sum(0), 0)
            losses.append(scores[r.randrange(4)] * r.random())
        lib.stack(losses).sum().backward()
        with lib.no_grad():
            w += 0.01 * w.grad
        w.grad = None
        lib.zeros(1).item()
    return w.tolist()


def test_calls_of_the_same_form_with_other_constants_are_other_segments() -> None:
    before = ledger.refused.get("a segment that begins where none comes again", 0)
    found = on_a_thread(lambda: _pick(fanal, 60))
    np.testing.assert_allclose(found, _pick(peer, 60), rtol=1e-3, atol=1e-5)
    assert ledger.refused.get("a segment that begins where none comes again", 0) - before > 20


def _choose(lib: Any, steps: int) -> list[Any]:
    """Train through one of 64 chains of functions, at random."""
    r = random.Random(0)
    w = lib.nn.Parameter(lib.eye(4))
    for _ in range(steps):
        h = lib.ones(2, 4)
        for _ in range(6):
            h = lib.tanh(h @ w) if r.random() < 0.5 else lib.sigmoid(h @ w)
        h.sum().backward()
        with lib.no_grad():
            w += 0.01 * w.grad
        w.grad = None
        lib.zeros(1).item()
    return w.tolist()


def test_what_comes_again_by_chance_is_no_loop_that_repeats() -> None:
    """Some chains come a second time in 60 steps: each was planned as a whole."""
    before = ledger.refused.get("a segment that begins where none comes again", 0)
    found = on_a_thread(lambda: _choose(fanal, 60))
    np.testing.assert_allclose(found, _choose(peer, 60), rtol=1e-3, atol=1e-5)
    assert ledger.refused.get("a segment that begins where none comes again", 0) - before > 40


@pytest.mark.parametrize("fresh", [False, True], ids=["parameter", "other leaves"])
def test_a_loop_after_many_strangers_is_followed_from_the_third_step(fresh: bool) -> None:
    """As in a notebook, where one function was called for many things before."""
    def body() -> list[int]:
        leaves = [fanal.tensor([1.0, 2.0, 3.0]).requires_grad_() for _ in range(60)]
        w = fanal.ones(3, requires_grad=True)
        sum(leaves).sum().item()

        def step(depth: int) -> int:
            x = leaves.pop() if fresh else w
            before = ledger.recorded
            y = x * 2
            for _ in range(depth):
                y = y.sin() * w
            y.sum().backward()
            x.grad.sum().item()
            return ledger.recorded - before
        for depth in range(1, 30):
            step(depth)
        return [step(40) for _ in range(6)]
    assert on_a_thread(body)[2:] == [0] * 4
