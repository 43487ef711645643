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
_GAIN = 512 << 10  # work that threads must take from the caller in a plan to be woken at all: they slow what comes next
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


def schedule(launches: Sequence[Launch], threads: int, overlaps: Callable[[int], Sequence[int]], cut: int = 0,
             repeats: Sequence[tuple[int, int, int]] = ()) -> list[Slot]:
    """Place launches, in order, on `threads` threads. `overlaps(id)` gives the ids whose memory `id` shares.

    `cut`: the launch that begins only when all those before it have ended; 0 for none. `repeats`: (first, end, count)
    of launches that follow each other so many times.
    Returns one Slot for each time a launch is made. Slots of width 1 only mean that one thread should do it all.
    """
    widths = [width(launch, threads) for launch in launches]
    counts = [1] * len(launches)
    for first, end, count in repeats:
        counts[first:end] = [count] * (end - first)
    if sum(cost(launch) * (wide - 1) // wide * count
           for launch, wide, count in zip(launches, widths, counts, strict=True)) < _GAIN:
        return [Slot(0, 1, False)] * sum(counts)
    phase = _Phase(threads)
    slots: list[Slot] = []

    def place(first: int, end: int) -> list[Slot]:
        nonlocal phase
        found = []
        for i in range(first, end):
            launch, wide = launches[i], widths[i]
            slot = phase.slot(launch, wide, overlaps, bool(cut) and i == cut)
            if slot.barrier:
                phase = _Phase(threads)
            phase.add(launch, slot.first, wide)
            found.append(slot)
        return found
    at = 0
    for first, end, count in (*repeats, (len(launches), len(launches), 0)):
        slots += place(at, first)
        turns = [place(first, end) for _ in range(min(count, _TURNS))]
        while len(turns) < count and turns[-1] != turns[-2]:
            turns.append(place(first, end))
        slots += [slot for turn in turns for slot in turn]
        slots += turns[-1] * (count - len(turns)) if turns else []  # what comes after it is as before it
        at = end
    return slots


_TURNS = 3  # of a repeated part that are placed one by one: what precedes the first is another
_NONE: frozenset[tuple[int, int]] = frozenset()


class _Phase:
    """The launches since the last barrier: who touched what, and how busy each thread is."""

    def __init__(self, threads: int) -> None:
        self.readers: dict[int, set[tuple[int, int]]] = {}
        self.writers: dict[int, set[tuple[int, int]]] = {}
        self.load = [0] * threads

    def slot(self, launch: Launch, wide: int, overlaps: Callable[[int], Sequence[int]], wait: bool) -> Slot:
        """Return where a launch runs; `wait`: after a barrier."""
        # Nobody may write what this reads or writes, nor read what this writes; sharing memory is the same.
        blockers: set[tuple[int, int]] = set()
        for value in launch.reads:
            for other in (value, *overlaps(value)):
                blockers |= self.writers.get(other, _NONE)
        for value in launch.writes:
            for other in (value, *overlaps(value)):
                blockers |= self.writers.get(other, _NONE) | self.readers.get(other, _NONE)
        if wait or (wide > 1 and blockers):
            return Slot(0, wide, True)
        if wide > 1:
            return Slot(0, wide, False)
        if not blockers:
            return Slot(self.idlest() if cost(launch) >= _ALONE else 0, wide, False)
        if len(blockers) == 1 and (only := next(iter(blockers)))[1] == 1:
            return Slot(only[0], wide, False)  # that thread has done it by then
        return Slot(0, wide, True)

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
