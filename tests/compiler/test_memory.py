"""Recycled memory: bounded by what was in use, and given back in the order of use."""
from __future__ import annotations

import numpy as np

from fanal.core.backends.cpu import memory, run


def test_memory_of_sizes_out_of_use_is_given_back() -> None:
    memory.release_kept()
    byte = np.dtype(np.uint8)
    for n in range(1, 300):
        a = memory.empty_aligned((n * 4096,), byte)
        del a
    assert memory._Counts.kept <= max(memory._MIN_KEPT, memory._Counts.peak)
    assert memory._Counts.kept == sum(size * len(blocks) for size, blocks in memory._free.items())
    memory.release_kept()
    for size in (1 << 14, 1 << 15, 1 << 14):
        a = memory.empty_aligned((size,), byte)
        del a
    assert list(memory._free) == [1 << 15, 1 << 14], "the sizes longest unused come first, and go first"


def test_a_workspace_that_grows_leaves_nothing_behind() -> None:
    space = run._Workspace()
    space.grow(1 << 20)
    space.grow(1 << 21)
    assert space.nbytes == 1 << 21 and memory._Counts.kept == 0
