"""parametrizations.orthogonal beside PyTorch's: weights, gradients, and assigning."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fanal

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("sizes", [(4, 4), (3, 5), (6, 2)])
@pytest.mark.parametrize("kind", [None, "matrix_exp", "cayley", "householder"])
def test_weights_and_gradients(sizes: tuple[int, int], kind: str | None) -> None:
    def run(t: Any) -> list[np.ndarray]:
        t.manual_seed(0)
        layer = t.nn.utils.parametrizations.orthogonal(t.nn.Linear(*sizes).double(), orthogonal_map=kind)
        first = layer.weight.detach().numpy().copy()
        with t.no_grad():
            layer.parametrizations.weight.original.add_(
                t.tensor(np.random.RandomState(0).randn(sizes[1], sizes[0]) / 10).tril(-1))
        (layer.weight * t.arange(float(sizes[0] * sizes[1])).reshape(sizes[1], sizes[0])).sum().backward()
        return [first, layer.weight.detach().numpy(), layer.parametrizations.weight.original.grad.numpy()]
    for found, expected in zip(run(fanal), run(torch), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7)


def test_assigning_without_a_base_and_errors() -> None:
    def run(t: Any) -> list:
        orthogonal = t.nn.utils.parametrizations.orthogonal
        t.manual_seed(0)
        layer = orthogonal(t.nn.Linear(3, 5).double(), orthogonal_map="householder", use_trivialization=False)
        found = [layer.weight.detach().numpy().round(6).tolist()]
        for f in (lambda: orthogonal(t.nn.Linear(2, 2), "bias"), lambda: orthogonal(t.nn.Linear(2, 2), "none"),
                  lambda: orthogonal(t.nn.Linear(2, 2), orthogonal_map="other"),
                  lambda: orthogonal(t.nn.Linear(2, 2), orthogonal_map="cayley", use_trivialization=False)):
            try:
                found.append(type(f()).__name__)
            except (ValueError, NotImplementedError) as e:
                found.append(f"{type(e).__name__}: {e}")
        return found
    assert run(fanal) == run(torch)
