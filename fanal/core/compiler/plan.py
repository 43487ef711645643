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
    if total > _LOOSE * _most(spans, sizes):
        other, least = _largest_first(spans, sizes)
        if least < total:
            return other, least
    return offsets, total


def _most(spans: Mapping[int, tuple[int, int]], nbytes: Mapping[int, int]) -> int:
    """Return how many bytes are in use at once, at most."""
    change: dict[int, int] = {}
    for value, (first, last) in spans.items():
        change[first] = change.get(first, 0) + nbytes[value]
        change[last + 1] = change.get(last + 1, 0) - nbytes[value]
    return max(accumulate(change[at] for at in sorted(change)), default=0)


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
        (first, last), size, at = spans[value], nbytes[value], 0
        for offset, end, a, b in placed:
            if a <= last and first <= b:
                if at + size <= offset:
                    break
                at = max(at, end)
        offsets[value] = at
        total = max(total, at + size)
        insort(placed, (at, at + size, first, last))
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
