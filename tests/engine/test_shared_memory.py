"""Tensors that share memory with NumPy, in steps that are followed: every step sees the bytes of its own event."""
from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_follow import on_a_thread

import fanal
from fanal.core.engine.ledger import ledger
from fanal.core.tensor import alias

torch = pytest.importorskip("torch")


def _copied(t: Any, a: np.ndarray, kept: Any) -> list[Any]:
    x = t.zeros(3)
    x.copy_(t.from_numpy(a))
    return [x.tolist()]


def _copied_outside(t: Any, a: np.ndarray, kept: Any) -> list[Any]:
    kept.copy_(t.from_numpy(a))
    return [kept.tolist()]


def _filled(t: Any, a: np.ndarray, kept: Any) -> list[Any]:
    x = t.empty(3)
    x[:] = t.from_numpy(a)
    return [x.tolist(), (x * 2).tolist()]


def _same_dtype(t: Any, a: np.ndarray, kept: Any) -> list[Any]:
    x = t.from_numpy(a)
    y, z = x.float().clone(), x.detach().reshape(3)
    a += 1
    return [y.tolist(), z.tolist()]


def _loaded(t: Any, a: np.ndarray, kept: Any) -> list[Any]:
    m = t.nn.BatchNorm1d(3, affine=False)
    m.load_state_dict({"running_mean": t.from_numpy(a), "running_var": t.ones(3), "num_batches_tracked": t.tensor(3)})
    return [v.detach().numpy().tolist() for v in m.state_dict().values()]


@pytest.mark.parametrize("step", [_copied, _copied_outside, _filled, _same_dtype, _loaded])
def test_a_copy_of_shared_memory_is_a_value_of_its_own(step: Callable) -> None:
    arrays = [np.full(3, k, np.float32) for k in range(6)]  # alive: their bytes may change at any time
    mine = [a.copy() for a in arrays]
    theirs, ours = torch.zeros(3), fanal.zeros(3)
    for a, b in zip(arrays, mine):
        assert step(fanal, b, ours) == step(torch, a, theirs)


def test_a_leaf_that_shares_memory_is_carried_over_a_read() -> None:
    found = []
    for t in (torch, fanal):
        p, seen = t.ones(3, requires_grad=True), []
        for _ in range(5):
            y = t.from_numpy(p.detach().numpy()) + p
            y.sum().item()  # ends the segment: its history is kept for the backward below
            ((p * p).sum() + y.sum()).backward()
            p.data.add_(p.grad, alpha=-0.01)
            seen.append(p.grad.tolist())
        found.append(seen)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)


def test_writing_shared_memory_before_backward_is_noticed() -> None:
    for t in (torch, fanal):
        a = np.ones(3, np.float32)
        w, x = t.ones(3, requires_grad=True), t.from_numpy(a)
        y = (w * x).sum()
        x.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.backward()


def test_what_was_read_before_a_write_outside_stays_when_following_ends() -> None:
    a = np.zeros(3, np.float32)
    found = []
    for k in range(10):
        a[:] = k
        y = fanal.from_numpy(a) * 2
        a[:] = 100
        found.append((y + 1 if k < 8 else y - 1).tolist()[0])
    assert found == [2.0 * k + 1 if k < 8 else 2.0 * k - 1 for k in range(10)]


def test_a_batch_from_numpy_is_followed_however_it_is_read() -> None:
    """Twice in a step, and through views: the usual autoencoder on slices of an array."""
    def train(lib: Any) -> tuple[list[float], list[int]]:
        data = np.linspace(-1, 1, 480, dtype=np.float32).reshape(20, 2, 12)
        layer = lib.nn.Linear(24, 24)
        with lib.no_grad():
            layer.weight.copy_(lib.linspace(-0.1, 0.1, 576).view(24, 24))
            layer.bias.zero_()
        opt = lib.optim.SGD(layer.parameters(), lr=0.1)
        losses, recorded = [], []
        for k in range(10):
            x = lib.from_numpy(data[k:k + 8])
            flat = x.permute(0, 2, 1).reshape(8, 24)
            loss = ((layer(flat) - flat) ** 2).mean() + (layer(x.view(8, 24)) ** 2).mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.item())
            data += 0.01
            recorded.append(ledger.recorded)
        return losses, recorded
    losses, recorded = train(fanal)
    np.testing.assert_allclose(losses, train(torch)[0], 1e-5)
    assert recorded[-1] == recorded[3]


def test_a_write_to_shared_memory_among_other_calls() -> None:
    def work(lib: Any) -> list:
        a, found = np.ones((2, 3), np.float32), []
        for k in range(12):
            t = lib.from_numpy(a).unsqueeze(0)
            u = t.permute(2, 0, 1).float() / 2
            a += 1
            v = t * u.permute(1, 2, 0)
            a *= 0.5 if k % 3 else 1
            t.add_(1)
            found.append(((v + t if k < 9 else v - t).tolist(), a.tolist(), u.tolist()))
        return found
    assert work(fanal) == work(torch)


def test_a_call_that_fails_leaves_nothing_of_what_it_read() -> None:
    def loop() -> list[float]:
        found = []
        for k in range(8):
            wide, narrow = fanal.from_numpy(np.ones(4, np.float32)), fanal.from_numpy(np.ones(3, np.float32))
            shared = wide.numpy(), narrow.numpy()
            with pytest.raises(RuntimeError):
                wide + narrow
            found.append((fanal.from_numpy(np.full(3, k, np.float32)) * 2).sum().item())
            del shared
        return found
    assert on_a_thread(loop) == [6.0 * k for k in range(8)]


def test_a_look_between_calls_is_part_of_none() -> None:
    found = []
    for k in range(8):
        a, b = np.full(3, k, np.float32), np.ones(3, np.float32)
        y = fanal.from_numpy(a) * 2
        fanal.nn.Parameter(fanal.from_numpy(a))
        found.append((y + fanal.from_numpy(b)).sum().item())
    assert found == [6.0 * k + 3 for k in range(8)]


def test_rows_of_a_shared_buffer_are_followed() -> None:
    """A replay buffer in NumPy, seen through tensors made once, of which a batch is picked by an index."""
    def train(lib: Any) -> tuple[list[float], list[int]]:
        states, rewards = np.linspace(-1, 1, 80, dtype=np.float32).reshape(20, 4), np.ones(20, np.float32)
        buffer = lib.from_numpy(states), lib.from_numpy(rewards)
        layer = lib.nn.Linear(4, 1)
        with lib.no_grad():
            layer.weight.fill_(0.1)
            layer.bias.zero_()
        opt = lib.optim.SGD(layer.parameters(), lr=0.1)
        losses, recorded = [], []
        for k in range(10):
            states[k], rewards[k] = k, -k
            i = lib.from_numpy(np.arange(k, k + 6))
            s, r = buffer[0][i], buffer[1][i]
            loss = ((layer(s).squeeze(1) - r) ** 2).mean() * 0.01
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.item())
            recorded.append(ledger.recorded)
        return losses, recorded
    losses, recorded = train(fanal)
    np.testing.assert_allclose(losses, train(torch)[0], 1e-5)
    assert recorded[-1] == recorded[3]


def test_a_view_of_shared_memory_copies_what_it_shows(monkeypatch):
    copied = alias.copied
    sizes = []

    def counting(t):
        sizes.append(t.numel())
        return copied(t)

    monkeypatch.setattr(alias, "copied", counting)
    memory = np.arange(300.0).reshape(100, 3)
    x = fanal.from_numpy(memory)
    for i in (5, 6):
        assert not x.requires_grad
        assert x[i].sum().item() == memory[i].sum()
    assert max(sizes) == 3


def test_a_view_shows_what_was_written_after_it_was_made():
    memory = np.zeros((4, 3))
    x = fanal.from_numpy(memory)
    row = x[1]
    memory[1] = 7
    del memory
    gc.collect()
    assert row.tolist() == [7, 7, 7]


def test_many_arrays_share_one_tensor():
    x = fanal.zeros(60, 2)
    arrays = [x[i].numpy() for i in range(60)]
    x += 1
    assert all((a == 1).all() for a in arrays)
    del arrays[30:]
    x += 1
    assert all((a == 2).all() for a in arrays)
