"""What `empty` makes is not written where nobody reads it, and is one value for all who do."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import fanal
from fanal.core.backends.cpu.backend import default
from fanal.core.compiler.pipeline import lower
from fanal.core.ir import prims as P
from fanal.core.ir.program import Program

MAKERS: list[Callable[[], Any]] = [
    lambda: fanal.empty(300, 400), lambda: fanal.empty_like(fanal.ones(300, 400)),
    lambda: fanal.ones(2).new_empty(300, 400), lambda: fanal.empty_strided((300, 400), (1, 300)),
    lambda: fanal.empty_permuted((300, 400), (1, 0))]


def test_nothing_is_computed() -> None:
    a, b = P.full((300, 400), None, fanal.float32), P.full((300, 400), None, fanal.float32)
    shown = P.permute(b, (1, 0))
    lowered = lower(Program([], [a, b, shown], [a, shown]), default())
    assert not lowered.steps
    assert len(set(lowered.outputs)) == 2


@pytest.mark.parametrize("make", MAKERS)
def test_all_readers_see_the_same(make: Callable[[], Any]) -> None:
    for _ in range(4):
        x, other = make(), make()
        y, z = x + 1, x.detach() * 2
        assert (x.nan_to_num(0) + 1 == y.nan_to_num(1)).all() and (x.nan_to_num(0) * 2 == z.nan_to_num(0)).all()
        other[3:, 2] = 5
        x.fill_(7)
        assert (x == 7).all() and (other[3:, 2] == 5).all() and x.data_ptr() != other.data_ptr()


def test_bools_are_bools() -> None:
    for _ in range(3):
        junk = fanal.full((1 << 12,), 7, dtype=fanal.uint8)
        fanal.ones(1).sum().item()
        del junk
        x = fanal.empty(1 << 12, dtype=fanal.bool)
        fanal.ones(1).sum().item()
        assert set(x.view(fanal.uint8).tolist()) <= {0, 1}
