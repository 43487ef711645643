"""The scaling of losses on the CPU, beside PyTorch's."""
from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest

import fanal

torch = pytest.importorskip("torch")


def agree(f: Any) -> None:
    expected, found = (f(library) for library in (torch, fanal))
    assert found == expected


def test_steps_with_infinite_gradients_are_skipped() -> None:
    def walk(t: Any) -> list:
        p = t.nn.Parameter(t.tensor([1.0, 2.0]))
        optimizer = t.optim.SGD([p], lr=0.5)
        scaler = t.amp.GradScaler("cpu", init_scale=8.0, growth_factor=1.5, growth_interval=2)
        found = []
        for factor in (1.0, float("inf"), 1.0, 1.0, 1.0, float("nan"), 2.0):
            optimizer.zero_grad()
            scaler.scale((p * factor).sum()).backward()
            result = scaler.step(optimizer)
            scaler.update()
            found.append((p.tolist(), scaler.get_scale(), scaler.state_dict(), result))
        return found
    agree(walk)


def test_several_outputs_and_optimizers() -> None:
    def walk(t: Any) -> list:
        a, b = (t.nn.Parameter(t.ones(2)) for _ in range(2))
        first, second = t.optim.SGD([a], lr=1.0), t.optim.SGD([b], lr=1.0)
        scaler = t.amp.GradScaler("cpu", init_scale=4.0)
        x, (y,) = scaler.scale([a.sum(), (b.sum() * float("inf"),)])
        (x + y).backward()
        scaler.unscale_(first)
        grad = a.grad.tolist()
        scaler.step(first)
        scaler.step(second)
        scaler.update()
        low = scaler.scale(t.ones((), dtype=t.bfloat16))
        return [grad, a.tolist(), b.tolist(), scaler.get_scale(), str(low.dtype), float(low)]
    agree(walk)


def test_errors() -> None:
    def texts(t: Any) -> list:
        p = t.nn.Parameter(t.ones(1))
        optimizer = t.optim.SGD([p], lr=0.1)
        scaler = t.amp.GradScaler("cpu")
        found = []

        def attempt(f: Any) -> None:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                try:
                    found.append(f())
                except (AssertionError, RuntimeError, ValueError) as e:
                    found.append(f"{type(e).__name__}: {e}")
            found.extend(str(w.message) for w in warned)
        attempt(lambda: scaler.step(optimizer))
        attempt(lambda: scaler.unscale_(optimizer))
        attempt(scaler.update)
        attempt(lambda: scaler.scale(3))
        scaler.scale(t.ones(1))
        attempt(scaler.update)
        attempt(lambda: scaler.step(optimizer))
        attempt(lambda: scaler.update(2.0))
        scaler.scale(p.sum()).backward()
        scaler.unscale_(optimizer)
        attempt(lambda: scaler.unscale_(optimizer))
        scaler.step(optimizer)
        attempt(lambda: scaler.unscale_(optimizer))
        attempt(lambda: scaler.step(optimizer))
        attempt(lambda: scaler.step(optimizer, closure=None))
        attempt(lambda: scaler.load_state_dict({}))
        attempt(lambda: pickle.dumps(scaler))
        attempt(lambda: t.amp.GradScaler("cpu", growth_factor=1.0))
        attempt(lambda: t.amp.GradScaler("cpu", backoff_factor=1.0))
        attempt(lambda: t.amp.GradScaler().is_enabled())
        half = t.nn.Parameter(t.ones(1, dtype=t.float16))
        half.grad = t.ones_like(half)
        attempt(lambda: scaler.unscale_(t.optim.SGD([half], lr=0.1)))
        return found
    agree(texts)


def test_state_travels_between_libraries() -> None:
    states = []
    for t, other in ((torch, fanal), (fanal, torch)):
        scaler = t.amp.GradScaler("cpu", init_scale=256.0, growth_interval=7)
        scaler.scale(t.ones(1))
        scaler.update(3.0)
        taken = other.amp.GradScaler("cpu")
        taken.load_state_dict(scaler.state_dict())
        assert pickle.loads(pickle.dumps(taken)).state_dict() == copy.deepcopy(scaler).state_dict()
        states.append(taken.state_dict())
    assert states[0] == states[1]


def test_disabled_it_changes_nothing() -> None:
    scaler = fanal.amp.GradScaler("cpu", enabled=False)
    p = fanal.nn.Parameter(fanal.ones(1))
    optimizer = fanal.optim.SGD([p], lr=1.0)
    assert scaler.scale(p) is p
    p.sum().backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert (p.tolist(), scaler.get_scale(), scaler.state_dict()) == ([0.0], 1.0, {})
