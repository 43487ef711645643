"""The counter behind random bits drawn in kernels: one key, one offset for each draw.

Philox turns (key, offset, position) into bits, so a draw is a value like any other: it can be made again in backward,
and a followed step draws anew by moving the offset. `draw` marks both numbers as runtime scalars of the event: `SEED`
stands for the key, `Offset(k)` for the offset of the segment's first draw plus k.
"""
from __future__ import annotations

import numpy as np

from fanal.core.engine.record import runtime, session, unfollowable
from fanal.core.ir.prims import given, philox
from fanal.core.ir.program import Node, Shape

DEFAULT_SEED = 67280421310721  # that of PyTorch's default generator


class Seed:
    """Marks the runtime scalar that holds the key."""

    __slots__ = ()


class Offset:
    """Marks a runtime scalar that holds an offset: `relative` to the first draw of the segment; `at` when recorded."""

    __slots__ = ("at", "relative")

    def __init__(self, relative: int, at: int) -> None:
        self.relative, self.at = relative, at


SEED = Seed()


class Rng:
    """The state of the counter."""

    __slots__ = ("offset", "seed")

    def __init__(self) -> None:
        self.seed, self.offset = DEFAULT_SEED, 0

    def next(self, count: int = 1) -> int:
        """Take `count` offsets and return the first."""
        at = self.offset
        self.offset += count
        return at

    def reset(self, seed: int, offset: int = 0) -> None:
        """Start again from a seed."""
        if session.events:
            unfollowable("the random generator was seeded")
        self.seed, self.offset = seed, offset


rng = Rng()


def _first() -> int | None:
    """Return the offset of the first draw of the recorded segment."""
    for event in (*session.events, session.event):
        if event is not None:
            for _, mark in event.scalars:
                if type(mark) is Offset:
                    return mark.at
    return None


def _signed(x: int) -> np.ndarray:
    x &= (1 << 64) - 1
    return np.array(x - (1 << 64) if x >> 63 else x, np.int64)


def draw(shape: Shape) -> Node:
    """Return 32 fresh random bits for each element of a shape, as uint32."""
    at = rng.next()
    first = _first()
    seed = runtime(given(_signed(rng.seed)), SEED)
    offset = runtime(given(_signed(at)), Offset(0 if first is None else at - first, at))
    return philox(seed, offset, shape)
