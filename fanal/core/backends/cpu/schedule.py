"""Which threads run which launch, and where they must wait for each other.

A launch worth several threads is divided over them; a small one runs on one thread, the one that made its
inputs if possible. Launches that do not touch each other's memory share a phase; a barrier separates
phases.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from fanal.core.backends.contract import Launch

SHARE = 32 << 10  # bytes of work that pay for one more thread
_GAIN = 64 << 10  # work that threads must take from the caller in a plan to be woken at all
_ALONE = 8 << 10  # a launch below this follows its inputs' thread rather than balance the load
_FLOPS_PER_BYTE = 8  # arithmetic that takes as long as moving one byte


class Slot(NamedTuple):
    """Where a launch runs: threads [first, first + width), after a barrier or not."""

    first: int
    width: int
    barrier: bool


def cost(launch: Launch) -> int:
    """Return the work of a launch in bytes moved, or what takes as long."""
    return launch.nbytes + launch.flops // _FLOPS_PER_BYTE


def width(launch: Launch, threads: int) -> int:
    """Return how many threads a launch is worth."""
    return max(1, min(threads, launch.units, cost(launch) // SHARE))


def schedule(launches: Sequence[Launch], threads: int,
             overlaps: Callable[[int], Sequence[int]], cut: int = 0) -> list[Slot]:
    """Place launches, in order, on `threads` threads. `overlaps(id)` gives the ids whose memory `id` shares.

    `cut`: the launch that begins only when all those before it have ended; 0 for none.
    Returns one Slot per launch. Slots of width 1 only mean that one thread should do it all.
    """
    widths = [width(launch, threads) for launch in launches]
    if sum(cost(launch) * (wide - 1) // wide for launch, wide in zip(launches, widths, strict=True)) < _GAIN:
        return [Slot(0, 1, False)] * len(launches)
    phase = _Phase(threads)
    slots = []
    for i, (launch, wide) in enumerate(zip(launches, widths, strict=True)):
        # Nobody may write what this reads or writes, nor read what this writes; sharing memory is the same.
        blockers: set[tuple[int, int]] = set()
        for value in launch.reads:
            for other in (value, *overlaps(value)):
                blockers |= phase.writers.get(other, _NONE)
        for value in launch.writes:
            for other in (value, *overlaps(value)):
                blockers |= phase.writers.get(other, _NONE) | phase.readers.get(other, _NONE)
        first, barrier = 0, False
        if cut and i == cut:
            barrier = True
        elif wide > 1:
            barrier = bool(blockers)
        elif not blockers:
            first = phase.idlest() if cost(launch) >= _ALONE else 0
        elif len(blockers) == 1 and (only := next(iter(blockers)))[1] == 1:
            first = only[0]  # that thread has done it by then
        else:
            barrier = True
        if barrier:
            phase = _Phase(threads)
            first = 0
        phase.add(launch, first, wide)
        slots.append(Slot(first, wide, barrier))
    return slots


_NONE: frozenset[tuple[int, int]] = frozenset()


class _Phase:
    """The launches since the last barrier: who touched what, and how busy each thread is."""

    def __init__(self, threads: int) -> None:
        self.readers: dict[int, set[tuple[int, int]]] = {}
        self.writers: dict[int, set[tuple[int, int]]] = {}
        self.load = [0] * threads

    def idlest(self) -> int:
        return self.load.index(min(self.load))

    def add(self, launch: Launch, first: int, wide: int) -> None:
        for value in launch.reads:
            self.readers.setdefault(value, set()).add((first, wide))
        for value in launch.writes:
            self.writers.setdefault(value, set()).add((first, wide))
        share = cost(launch) // wide
        for thread in range(first, first + wide):
            self.load[thread] += share
