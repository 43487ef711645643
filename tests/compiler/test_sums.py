"""Sums of products become one product, of the right value, where that costs less."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fanal
from fanal.core.compiler import sums
from fanal.core.compiler.graph import Value

torch = pytest.importorskip("torch")


def _terms(library: Any, count: int, shape: tuple[int, int, int], bias: bool) -> list[Any]:
    """A weight used `count` times, as by a recurrence: the gradients by it, by a bias and by the states."""
    library.manual_seed(0)
    rows, inner, outer = shape
    w, b = (library.randn(*s).requires_grad_() for s in ((outer, inner), (outer,)))
    xs = [library.randn(rows, inner).requires_grad_() for _ in range(count)]
    total = 0
    for x in xs:
        y = library.nn.functional.linear(x, w, b if bias else None)
        total = total + (y * y.tanh()).sum()
    total.backward()
    return [w.grad, *([b.grad] if bias else []), *(x.grad for x in xs)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("count", "shape"), [(3, (4, 16, 16)), (4, (3, 16, 24)), (9, (2, 40, 33)), (5, (64, 4, 4))])
def test_values(count: int, shape: tuple[int, int, int], bias: bool) -> None:
    for got, want in zip(_terms(fanal, count, shape, bias), _terms(torch, count, shape, bias), strict=True):
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-4, atol=1e-5)


def _dots(monkeypatch: pytest.MonkeyPatch, count: int, shape: tuple[int, int, int]) -> int:
    """Return how many products by a weight's rows are left in the whole program, which may be compiled in pieces."""
    seen: list[int] = []
    plain = sums.gather_sums

    def watched(order: list[Value], outputs: Any) -> list[Value]:
        found = plain(order, outputs)
        alive = set(outputs)
        for v in reversed(found):
            if v in alive:
                alive.update(v.inputs)
        seen.append(sum(v.name == "dot" and v.shape == (shape[2], shape[1]) for v in found if v in alive))
        return found
    monkeypatch.setattr("fanal.core.compiler.simplify.gather_sums", watched)
    [g.numpy() for g in _terms(fanal, count, shape, False)[:1]]
    return max(seen)


def test_a_recurrence_has_one_product_for_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _dots(monkeypatch, 6, (2, 20, 28)) == 1


def test_long_products_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    # Putting their operands side by side would move more than adding up the results does.
    assert _dots(monkeypatch, 6, (200, 4, 6)) == 6
