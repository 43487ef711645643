"""Lists of many small tensors of data are joined at once: how many there are is nobody's business."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fanal
from fanal.core.engine.ledger import ledger

_r = np.random.default_rng(0)
STATES, VALUES = _r.standard_normal((200, 1, 4)).astype(np.float32), _r.standard_normal(200).astype(np.float32)


def losses(m: Any, steps: int, between: Any = None) -> list[float]:
    """Train on batches of a replay buffer, of another number of states in every step."""
    m.manual_seed(0)
    net = m.nn.Linear(4, 3)
    opt = m.optim.SGD(net.parameters(), 0.1)
    memory = [(m.tensor(s), m.tensor(v)) for s, v in zip(STATES, VALUES)]
    chance, found = np.random.default_rng(1), []
    for k in range(steps):
        if between is not None:
            between(m, memory)
        batch = [memory[i] for i in chance.permutation(200)[:32]]
        mine = m.cat([s for i, (s, _) in enumerate(batch) if i >= k % 13], dim=0)
        aim = m.stack([v for i, (_, v) in enumerate(batch) if i >= k % 13])
        loss = (net(mine).max(1).values - aim).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        found.append(loss.item())
    return found


def test_numbers_of_tensors_that_change_are_followed() -> None:
    """13 numbers of states were a segment each; now one is followed for all of them."""
    losses(fanal, 30)
    before = ledger.snapshot()
    found = losses(fanal, 100)
    after = ledger.snapshot()
    assert after["plans"] - before["plans"] < 20
    assert after["recorded"] - before["recorded"] < 60
    np.testing.assert_allclose(found, losses(torch, 100), rtol=1e-5)


def test_a_list_of_data_is_no_event() -> None:
    rows = [fanal.tensor(s) for s in STATES[:20]]
    before = ledger.snapshot()
    for dim in (0, 1, -1):
        np.testing.assert_array_equal(fanal.cat(rows, dim).numpy(), np.concatenate(STATES[:20], dim))
        np.testing.assert_array_equal(fanal.stack(rows, dim=dim).numpy(), np.stack(STATES[:20], dim))
    assert ledger.snapshot()["recorded"] == before["recorded"]


def test_what_was_written_in_a_followed_step_is_seen() -> None:
    def between(m: Any, memory: list) -> None:
        for s, _ in memory[::7]:
            s.mul_(0.5)
            s[0, 1] += 1

    np.testing.assert_allclose(losses(fanal, 30, between), losses(torch, 30, between), rtol=1e-5)


@pytest.mark.parametrize("change", [
    lambda x: x.t(), lambda x: x[:, 1:], lambda x: x.expand(3, 4), lambda x: x.double(), lambda x: x.bfloat16(),
    lambda x: x[:, ::2], lambda x: x.reshape(2, 2), lambda x: x[:0], lambda x: x.unsqueeze(0), lambda x: x > 0,
    lambda x: x.to(torch_of(x).complex64).conj(),
])
def test_views_and_dtypes(change: Any) -> None:
    for join in ("cat", "stack"):
        ours = getattr(fanal, join)([change(fanal.tensor(s)) for s in STATES[:9]], 1)
        theirs = getattr(torch, join)([change(torch.tensor(s)) for s in STATES[:9]], 1)
        assert ours.shape == theirs.shape
        assert str(ours.dtype)[6:] == str(theirs.dtype)[6:]
        np.testing.assert_array_equal(ours.to(fanal.complex128).numpy(), theirs.to(torch.complex128).numpy())


def torch_of(x: Any) -> Any:
    return torch if isinstance(x, torch.Tensor) else fanal


def test_gradients_and_errors_are_those_of_the_operator() -> None:
    leaves = [fanal.tensor(s, requires_grad=True) for s in STATES[:9]]
    fanal.cat(leaves).sum().backward()
    assert all(float(leaf.grad.sum()) == 4 for leaf in leaves)
    rows = [fanal.tensor(s) for s in STATES[:9]]
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        fanal.cat([*rows, fanal.zeros(1, 3)])
    with pytest.raises(RuntimeError, match="equal size"):
        fanal.stack([*rows, fanal.zeros(1, 3)])
    with pytest.raises(RuntimeError, match="zero-dimensional"):
        fanal.cat([fanal.tensor(1.0)] * 9)
    with pytest.raises(IndexError):
        fanal.cat(rows, 2)
    assert fanal.cat([*rows, fanal.zeros(0)]).shape == (9, 4)
    assert fanal.cat([*rows, fanal.tensor([[1, 2, 3, 4]])]).dtype == fanal.float32
