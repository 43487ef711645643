"""Memory planning: where every intermediate value of a plan lives inside one arena.

Interval best-fit: steps are walked in order; a value takes the smallest free hole that holds it when it is
first written, and gives it back after its last use. Where that leaves much unused, the largest values are placed
first instead. Same input, same plan.
"""
from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Protocol

ALIGN = 64  # bytes: a cache line, and the widest vector
_EVER = 1 << 62  # a step after all others
_LOOSE = 1.02  # an arena this much larger than what is in use at once is laid out the slower way as well


class Step(Protocol):
    """What planning needs to know of a step."""

    @property
    def reads(self) -> tuple[int, ...]: ...
    @property
    def writes(self) -> tuple[int, ...]: ...


def lifetimes(steps: Sequence[Step], ids: Iterable[int]) -> dict[int, tuple[int, int]]:
    """Return the first and last step that touches each of `ids`; what no step touches is absent."""
    wanted = set(ids)
    spans: dict[int, tuple[int, int]] = {}
    for at, step in enumerate(steps):
        for value in (*step.reads, *step.writes):
            if value in wanted:
                spans[value] = (spans[value][0] if value in spans else at, at)
    return spans


def place(spans: Mapping[int, tuple[int, int]], nbytes: Mapping[int, int]) -> tuple[dict[int, int], int]:
    """Return the arena offset of every value and the size of the arena, in bytes."""
    sizes = {value: _padded(nbytes[value]) for value in spans}
    offsets, total = _best_fit(spans, sizes)
    if total > _LOOSE * most(spans, sizes):
        other, least = _largest_first(spans, sizes)
        if least < total:
            return other, least
    return offsets, total


def lend(spans: Mapping[int, tuple[int, int]], nbytes: Mapping[int, int], results: Mapping[int, int],
         ) -> tuple[dict[int, int], dict[int, int], int]:
    """Lay out results in one block, and in it what is needed only before they are there.

    `results` says at which step each is first written; it stays. Returns the offsets of results, those of other values
    as far as they fit, and the size of the block. What is in use when most is comes first, the largest first.
    """
    places: dict[int, int] = {}
    taken: list[tuple[int, int, int, int]] = []  # (offset, end, first, last), in the order of offsets
    total = 0
    for value in sorted(results, key=lambda v: (results[v], v)):
        places[value], end = total, total + _padded(nbytes[value])
        taken.append((total, end, results[value], _EVER))
        total = end
    sizes = {value: _padded(nbytes[value]) for value in spans}
    _, at = max(_in_use(spans, sizes), default=(0, 0))
    lent: dict[int, int] = {}
    for value in sorted((v for v in spans if total >= sizes[v] >= total >> 10), key=lambda v: (
            not spans[v][0] <= at <= spans[v][1], -sizes[v], spans[v][1], v)):
        offset = _lowest(taken, *spans[value], sizes[value])
        if offset + sizes[value] <= total:
            lent[value] = offset
            insort(taken, (offset, offset + sizes[value], *spans[value]))
    return places, lent, total


def _lowest(taken: Iterable[tuple[int, int, int, int]], first: int, last: int, nbytes: int) -> int:
    """Return the lowest offset at which so many bytes are free all the time."""
    at = 0
    for offset, end, a, b in taken:
        if a <= last and first <= b:
            if at + nbytes <= offset:
                break
            at = max(at, end)
    return at


def _in_use(spans: Mapping[int, tuple[int, int]], nbytes: Mapping[int, int]) -> list[tuple[int, int]]:
    """Return (bytes in use from then on, step) wherever that changes."""
    change: dict[int, int] = {}
    for value, (first, last) in spans.items():
        change[first] = change.get(first, 0) + nbytes[value]
        change[last + 1] = change.get(last + 1, 0) - nbytes[value]
    steps = sorted(change)
    return [*zip(accumulate(change[at] for at in steps), steps)]


def most(spans: Mapping[int, tuple[int, int]], nbytes: Mapping[int, int]) -> int:
    """Return how many bytes are in use at once, at most."""
    return max(_in_use(spans, nbytes), default=(0, 0))[0]


def _best_fit(spans: Mapping[int, tuple[int, int]], nbytes: Mapping[int, int]) -> tuple[dict[int, int], int]:
    starts: dict[int, list[int]] = {}
    ends: dict[int, list[int]] = {}
    for value, (first, last) in spans.items():
        starts.setdefault(first, []).append(value)
        ends.setdefault(last, []).append(value)
    arena = _Arena()
    offsets: dict[int, int] = {}
    for at in sorted(starts.keys() | ends.keys()):
        # The largest first: it has the fewest holes to choose from.
        for value in sorted(starts.get(at, ()), key=lambda v: (-nbytes[v], v)):
            offsets[value] = arena.take(nbytes[value])
        for value in sorted(ends.get(at, ())):
            arena.give(offsets[value], nbytes[value])
    return offsets, arena.size


def _largest_first(spans: Mapping[int, tuple[int, int]], nbytes: Mapping[int, int]) -> tuple[dict[int, int], int]:
    """Place the largest values first, each at the lowest offset that is free all its life."""
    placed: list[tuple[int, int, int, int]] = []  # (offset, end, first, last), in the order of offsets
    offsets: dict[int, int] = {}
    total = 0
    for value in sorted(spans, key=lambda v: (-nbytes[v], v)):
        offsets[value] = at = _lowest(placed, *spans[value], nbytes[value])
        total = max(total, at + nbytes[value])
        insort(placed, (at, at + nbytes[value], *spans[value]))
    return offsets, total


def _padded(nbytes: int) -> int:
    return -(-max(nbytes, 1) // ALIGN) * ALIGN


class _Arena:
    """Free holes in address order; everything past `size` is free too."""

    def __init__(self) -> None:
        self.size = 0
        self.holes: list[tuple[int, int]] = []  # (offset, bytes), never touching each other

    def take(self, nbytes: int) -> int:
        fits = [(size, offset, i) for i, (offset, size) in enumerate(self.holes) if size >= nbytes]
        if fits:
            size, offset, i = min(fits)
            if size == nbytes:
                del self.holes[i]
            else:
                self.holes[i] = (offset + nbytes, size - nbytes)
            return offset
        if self.holes and sum(self.holes[-1]) == self.size:  # grow the last hole
            offset = self.holes.pop()[0]
        else:
            offset = self.size
        self.size = offset + nbytes
        return offset

    def give(self, offset: int, nbytes: int) -> None:
        i = 0
        while i < len(self.holes) and self.holes[i][0] < offset:
            i += 1
        if i < len(self.holes) and offset + nbytes == self.holes[i][0]:
            nbytes += self.holes.pop(i)[1]
        if i and sum(self.holes[i - 1]) == offset:
            offset, nbytes = self.holes[i - 1][0], self.holes[i - 1][1] + nbytes
            del self.holes[i - 1]
            i -= 1
        self.holes.insert(i, (offset, nbytes))
