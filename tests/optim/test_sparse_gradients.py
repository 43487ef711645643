"""Sparse gradients of embeddings, and the optimizers that take them, against PyTorch."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fanal


def trained(m: Any, make: Any, bag: bool, steps: int = 5) -> tuple[list, list, Any]:
    """Train a small table on both sides: losses, weights, and the last gradient."""
    layer = m.nn.EmbeddingBag(7, 3, mode="sum", sparse=True) if bag else m.nn.Embedding(7, 3, sparse=True)
    with m.no_grad():
        layer.weight.copy_(m.arange(21.).reshape(7, 3) / 10 - 1)
    opt = make(m.optim, layer.parameters())
    losses = []
    for k in range(steps):
        opt.zero_grad()
        ids = m.tensor([[1, 4, 4], [k % 7, 0, 6]])
        loss = (layer(ids) ** 2).sum()
        loss.backward()
        opt.step()
        losses.append(float(loss.detach()))
    return losses, layer.weight.detach().tolist(), layer.weight.grad


OPTIMIZERS = {
    "sgd": lambda o, p: o.SGD(p, lr=0.05),
    "momentum": lambda o, p: o.SGD(p, lr=0.05, momentum=0.9),
    "nesterov": lambda o, p: o.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "maximize": lambda o, p: o.SGD(p, lr=0.05, maximize=True),
    "adagrad": lambda o, p: o.Adagrad(p, lr=0.05, lr_decay=0.01),
    "sparse adam": lambda o, p: o.SparseAdam(list(p), lr=0.05),
}


@pytest.mark.parametrize("bag", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training(name: str, bag: bool) -> None:
    ours, theirs = (trained(m, OPTIMIZERS[name], bag) for m in (fanal, torch))
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-5, atol=1e-6)
    g, h = ours[2], theirs[2]
    assert g.is_sparse and str(g.layout) == str(h.layout) and tuple(g.shape) == tuple(h.shape)
    np.testing.assert_allclose(g.to_dense().tolist(), h.to_dense().tolist(), rtol=1e-5, atol=1e-6)


def test_gradients_accumulate_and_mix() -> None:
    found = []
    for m in (fanal, torch):
        w = m.arange(12.).reshape(4, 3).requires_grad_()
        F = m.nn.functional
        (F.embedding(m.tensor([1, 1]), w, sparse=True) ** 2).sum().backward()
        (F.embedding(m.tensor([3]), w, sparse=True) * 2).sum().backward()
        rows = w.grad._nnz(), w.grad.coalesce().indices().tolist(), w.grad.to_dense().tolist()
        (w * 2).sum().backward()
        found.append((rows, str(w.grad.layout), w.grad.tolist()))
    assert found[0] == found[1]


def test_other_optimizers_say_so() -> None:
    for m in (fanal, torch):
        with pytest.raises(RuntimeError, match="does not support sparse gradients"):
            trained(m, lambda o, p: o.Adam(p), False, 1)
        w = m.ones(3, requires_grad=True)
        opt = m.optim.SparseAdam([w])
        w.sum().backward()
        with pytest.raises(RuntimeError, match="SparseAdam does not support dense gradients"):
            opt.step()


def test_sparse_adam_takes_dense_real_parameters():
    for m in (torch, fanal):
        with pytest.raises(ValueError, match="SparseAdam requires dense parameter tensors"):
            m.optim.SparseAdam([m.zeros(3, layout=m.sparse_coo)])
        with pytest.raises(ValueError, match="does not support complex parameters"):
            m.optim.SparseAdam([m.zeros(3, dtype=m.complex64)])
