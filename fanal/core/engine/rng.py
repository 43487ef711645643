"""The counter behind random bits drawn in kernels: one key, one offset for each draw.

Philox turns (key, offset, position) into bits, so a draw is a value like any other: it can be made again in
backward, and a followed step draws anew by taking new offsets. `draw` marks both numbers as runtime scalars
of the event; when the step is followed, the engine asks each marker, in the order of the draws, what its
number is `now`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fanal.core.engine.level import for_each
from fanal.core.engine.record import runtime, session, unfollowable
from fanal.core.ir.prims import given, philox
from fanal.core.ir.program import Node, Shape

DEFAULT_SEED = 67280421310721  # that of PyTorch's default generator


class Rng:
    """The state of the counter."""

    __slots__ = ("kept", "offset", "repeated", "seed")

    def __init__(self) -> None:
        self.seed, self.offset = DEFAULT_SEED, 0
        self.kept: list[list] = []  # where draws are noted that may be repeated
        self.repeated: list[Iterator] = []  # draws that are repeated now, the innermost last

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


def _signed(x: int) -> int:
    """Return the int64 with the bits of an unsigned 64-bit number."""
    x &= (1 << 64) - 1
    return x - (1 << 64) if x >> 63 else x


class Seed:
    """Marks the runtime scalar that holds the key of a draw."""

    __slots__ = ()

    def now(self) -> int:
        """Return the key, as int64."""
        return _signed(rng.seed)


class Offset:
    """Marks the runtime scalar that holds the offset of a draw."""

    __slots__ = ()

    def now(self) -> int:
        """Take the next offset."""
        return _signed(rng.next())


def draw(shape: Shape) -> Node:
    """Return 32 fresh random bits for each element of a shape, as uint32."""
    drawn = next(rng.repeated[-1], None) if rng.repeated else None
    if drawn is None:
        seed, offset = Seed(), Offset()
        drawn = (runtime(given(np.array(seed.now(), np.int64)), seed),
                 runtime(given(np.array(offset.now(), np.int64)), offset))
    for draws in rng.kept:
        draws.append(drawn)
    key, at = drawn
    return for_each(shape, lambda whole: philox(key, at, whole))
