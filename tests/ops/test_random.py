"""Random tensors are torch's, number for number."""
from __future__ import annotations

import numpy as np
import pytest
import torch

import fanal

CALLS = """m.rand(3, 5) | m.randn(17) | m.randn(5, 7) | m.randint(5, (4,)) | m.randint(-3, 9, (2, 3)) | m.randperm(10) | m.normal(1., 2., (20,))
m.normal(m.zeros(20), m.ones(20)) | m.bernoulli(m.full((20,), .3)) | m.multinomial(m.tensor([.1, .2, .7]), 9, replacement=True)
m.poisson(m.full((9,), 4.)) | m.rand_like(m.zeros(2, 3)) | m.randn_like(m.zeros(4, 5).t()) | m.randint_like(m.zeros(6), 2, 9)
m.empty(30).uniform_(-1, 2) | m.empty(4, 9).t().normal_() | m.empty(30).random_(7) | m.empty(9).random_(3, 8) | m.empty(9, dtype=m.int64).random_()
m.empty(9).bernoulli_(.4) | m.empty(9).exponential_(2.) | m.empty(9).geometric_(.3) | m.empty(9).cauchy_() | m.empty(9).log_normal_()
m.rand(5, dtype=m.float64) | m.randn(20, dtype=m.bfloat16) | m.rand(3, generator=m.Generator().manual_seed(7))
m.empty(4, 6)[:, ::2].normal_() | m.empty(3, 3).bernoulli_(m.full((3,), .5))""".replace("\n", " | ").split(" | ")


@pytest.mark.parametrize("code", CALLS)
def test_same_numbers(code: str) -> None:
    results = []
    for m in (fanal, torch):
        m.manual_seed(11)
        results.append([eval(code, {"m": m}).tolist() for _ in range(2)] + [m.rand(2).tolist()])
    np.testing.assert_allclose(*map(np.array, map(np.hstack, [[np.ravel(x) for x in r] for r in results])), rtol=1e-6)


def test_state_travels() -> None:
    torch.manual_seed(5)
    torch.randn(7)
    fanal.set_rng_state(fanal.tensor(torch.get_rng_state().numpy()))
    assert fanal.randn(3).tolist() == torch.randn(3).tolist()
    state = fanal.get_rng_state()
    assert state.tolist() == torch.get_rng_state().tolist()
    first = (fanal.rand(3).tolist(), fanal.nn.functional.dropout(fanal.ones(50)).tolist())
    fanal.set_rng_state(state)
    assert (fanal.rand(3).tolist(), fanal.nn.functional.dropout(fanal.ones(50)).tolist()) == first


def test_generator() -> None:
    g, h = fanal.Generator(), torch.Generator()
    assert g.initial_seed() == h.initial_seed() and str(g.device) == "cpu"
    assert g.manual_seed(3) is g
    copy = g.clone_state()
    assert fanal.rand(2, generator=g).tolist() == torch.rand(2, generator=h.manual_seed(3)).tolist()
    assert fanal.rand(2, generator=copy).tolist() == torch.rand(2, generator=torch.Generator().manual_seed(3)).tolist()


def test_in_place_draws_keep_the_order_of_writes() -> None:
    x = fanal.zeros(4)
    y = x + 1
    x.uniform_()
    z = x + 1
    assert y.tolist() == [1.0] * 4 and z.tolist() == (fanal.tensor(x.tolist()) + 1).tolist()


def test_drawing_in_place_spares_what_others_hold() -> None:
    found = []
    for m in (torch, fanal):
        m.manual_seed(5)
        x = m.ones(40)
        copy, view = x.clone(), x[3:5]
        x.normal_()
        kept = copy.tolist(), view.tolist(), x.tolist()
        x.uniform_()
        x.exponential_()
        found.append((kept, view.tolist(), x.tolist()))
    assert found[0] == found[1]
    x, w = fanal.ones(40), fanal.full((40,), 2.0, requires_grad=True)
    loss = (w * x).sum()
    x.data.normal_()
    loss.backward()  # the graph needs the old values
    assert w.grad.tolist() == [1.0] * 40


def test_drawing_in_place_draws_into_the_same_memory() -> None:
    x = fanal.empty(40).normal_()
    at = x.data_ptr()
    assert x.normal_().data_ptr() == at and x.uniform_().data_ptr() == at
