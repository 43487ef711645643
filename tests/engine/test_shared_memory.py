"""Tensors that share memory with NumPy, in steps that are followed: every step sees the bytes of its own event."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fanal

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
