"""Writes at an index or into a region go straight into the memory of what they write over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fanal
from fanal.core.engine.ledger import ledger
from tests.ops.functional import array

SHAPE = (2, 4, 8, 3)


def new(t: Any, *shape: int, seed: int = 0) -> Any:
    return t.tensor(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def into_index(t: Any, cache: Any) -> None:
    cache.index_copy_(2, t.tensor([5]), new(t, 2, 4, 1, 3))


def into_elements(t: Any, cache: Any) -> None:
    cache.scatter_add_(2, t.tensor(np.random.default_rng(0).integers(0, 8, (2, 4, 2, 3))), new(t, 2, 4, 2, 3))


def into_region(t: Any, cache: Any) -> None:
    cache[:, :, 3] = new(t, 2, 4, 3) * 2


def shifted(t: Any, cache: Any) -> None:
    cache[:, 1:] = cache[:, :-1].clone()


def overlapping(t: Any, cache: Any) -> None:
    cache[:, 1:3] = cache[:, :2] + 1


def of_itself(t: Any, cache: Any) -> None:
    cache.index_add_(1, t.tensor([0, 0, 2]), cache[:, :3])


@pytest.mark.parametrize("write", [into_index, into_elements, into_region, shifted, overlapping, of_itself])
def test_values(write: Any) -> None:
    def go(t: Any) -> list[np.ndarray]:
        cache, found = new(t, *SHAPE, seed=1), []
        cache.sum().item()
        for _ in range(3):
            before = cache * 1
            write(t, cache)
            found += [array(cache.sum(2)), array(cache), array(before)]
        return found

    for mine, theirs in zip(go(fanal), go(torch), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("write", [into_index, into_elements, into_region])
def test_nothing_else_is_copied(write: Any) -> None:
    cache = new(fanal, *SHAPE, seed=1)
    cache.sum().item()
    for _ in range(2):  # a small program seen once is interpreted
        write(fanal, cache)
        cache.sum().item()
    steps = ledger.executables[-1].exe.lowered.steps
    whole = 2 * cache.numel() * 4
    assert all(step.nbytes < whole for step in steps), [(step.label, step.nbytes) for step in steps]


def test_a_part_of_what_is_joined_that_a_result_reads_through_a_view() -> None:
    d, p = (np.random.default_rng(0).normal(size=s).astype(np.float32) for s in ((26, 6), (1, 6)))

    def results(t: Any) -> list[Any]:
        a, b = t.tensor(d), t.tensor(p)
        x = a * b
        return [x[:, ::2].clone(), t.cat([a, x], 0).sum()]
    for want, got in zip(results(torch), results(fanal)):
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-5)
