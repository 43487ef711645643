"""More segments than are remembered: those that come often stay."""
from __future__ import annotations

import itertools
import random
from typing import Any

import fanal
from fanal.core.engine.branch import MAX_PATHS
from fanal.core.engine.ledger import ledger


def step(x: Any, functions: tuple[str, ...]) -> float:
    for name in functions:
        x = getattr(fanal, name)(x)
    return x.sum().item()


def test_what_comes_often_is_not_forgotten_for_what_came_once() -> None:
    """The oldest was dropped, however often it came: layers dropped at random were recorded for good."""
    x, chance = fanal.rand(4), random.Random(0)
    names = ("exp", "sin", "cos", "tanh", "abs", "neg")
    often = [("exp", "sin"), ("sin", "exp"), ("cos", "cos", "cos")]
    for _ in range(4):
        for functions in often:
            step(x, functions)
    rare = itertools.islice(itertools.product(names, repeat=4), 3 * MAX_PATHS)
    for functions in rare:
        step(x, functions)
        step(x, functions)  # a second time, so that it is kept
        before = ledger.recorded
        step(x, chance.choice(often))
        assert ledger.recorded == before
