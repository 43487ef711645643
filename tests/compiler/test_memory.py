"""Recycled memory: bounded by what was in use, and given back in the order of use."""
from __future__ import annotations

import numpy as np
import pytest

import fanal
from fanal.core.backends.cpu import memory, run


def test_memory_of_sizes_out_of_use_is_given_back() -> None:
    memory.release_kept()
    byte = np.dtype(np.uint8)
    for n in range(1, 300):
        a = memory.empty_aligned((n * 4096,), byte)
        del a
    assert memory._counts.kept <= max(memory._MIN_KEPT, memory._counts.peak)
    assert memory._counts.kept == sum(size * len(blocks) for size, blocks in memory._free.items())
    memory.release_kept()
    for size in (1 << 14, 1 << 15, 1 << 14):
        a = memory.empty_aligned((size,), byte)
        del a
    assert list(memory._free) == [1 << 15, 1 << 14], "the sizes longest unused come first, and go first"


def test_a_workspace_that_grows_leaves_nothing_behind() -> None:
    space = run._Workspace()
    space.grow(1 << 20)
    space.grow(1 << 21)
    assert space.nbytes == 1 << 21 and memory._counts.kept == 0


@pytest.mark.parametrize("make", [
    lambda: fanal.randn(999, 333), lambda: fanal.rand(999, 333), lambda: fanal.nn.Linear(333, 999).weight,
    lambda: fanal.tensor(np.ones((999, 334), np.float32)[:, 1:]), lambda: fanal.tensor(fanal.ones(999, 333)),
])
def test_tensors_begin_on_a_cache_line(make) -> None:
    tensors = [make() for _ in range(3)]  # NumPy's own memory is so by chance
    assert [x.data_ptr() % memory.ALIGN for x in tensors] == [0, 0, 0]
