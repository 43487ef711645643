"""Loops with sparse gradients are followed like others, and give what PyTorch gives."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fanal
from fanal.core.engine.ledger import ledger

STEPS = 16


def loop(lib: Any, disturb: Any = None) -> tuple[list[float], list[np.ndarray], Any]:
    """Train two tables and a layer; return the losses, the parameters and the model."""
    lib.manual_seed(0)
    nn = lib.nn
    model = nn.ModuleDict({"a": nn.Embedding(50, 4, sparse=True), "b": nn.Embedding(20, 4, sparse=True),
                           "top": nn.Linear(8, 1)})
    opt = lib.optim.SGD(model.parameters(), lr=0.1)
    r = np.random.default_rng(0)
    losses = []
    for k in range(STEPS):
        ids = lib.tensor(r.integers(0, 20, (6, 2)))
        y = lib.tensor(r.standard_normal((6, 1)).astype(np.float32))
        if disturb != "accumulate" or k % 4 == 0:
            opt.zero_grad()
        out = model["top"](lib.cat([model["a"](ids[:, 0]), model["b"](ids[:, 1])], 1))
        loss = (out - y).square().mean()
        loss.backward()
        if disturb == "look" and k in (7, 11):
            losses.append(float(model["a"].weight.grad.to_dense().abs().sum()))
        if disturb == "drop" and k == 9:
            model["a"].weight.grad = None
        if disturb == "keep" and k in (8, 9):
            model.kept = model["b"].weight.grad
        if disturb == "rate" and k == 10:
            opt.param_groups[0]["lr"] = 0.05
        opt.step()
        losses.append(loss.item())
    if disturb == "keep":
        losses.append(float(model.kept.to_dense().sum()))
    return losses, [p.detach().numpy().copy() for p in model.parameters()], model


@pytest.mark.parametrize("disturb", [None, "accumulate", "look", "drop", "keep", "rate"])
def test_agrees_with_torch(disturb: str | None) -> None:
    want, parameters, _ = loop(torch, disturb)
    got, ours, _ = loop(fanal, disturb)
    np.testing.assert_allclose(got, want, 1e-5)
    for a, b in zip(ours, parameters):
        np.testing.assert_allclose(a, b, 1e-5, 1e-6)


def test_is_followed_and_writes_in_place() -> None:
    fanal.manual_seed(0)
    model = fanal.nn.Embedding(5000, 8, sparse=True)
    opt = fanal.optim.SGD(model.parameters(), lr=0.1)
    at = []
    for k in range(8):
        ids = fanal.tensor(np.random.default_rng(k).integers(0, 5000, 32))
        opt.zero_grad()
        model(ids).square().sum().backward()
        opt.step()
        at.append((ledger.recorded, ledger.plans, model.weight.data_ptr()))
    assert at[-1] == at[3]
