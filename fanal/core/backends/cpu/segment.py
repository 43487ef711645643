"""Launches between two host steps, which one native call runs: their records, phases and parts."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from fanal.core.backends.contract import Buf, Launch, Planned, Repeat
from fanal.core.base.dim import Dim, now, varies

from . import memory, runner_ir, schedule

WORD = 8
Note = Callable[..., None]  # note(array, at, number, more): array[at] is number + more


class Segment:
    """Launches between two host steps: one native call."""

    def __init__(self, steps: list[tuple[int, Launch | Repeat | Planned]]) -> None:
        """`steps` with their index in Lowered.steps."""
        self.launches: list[tuple[int, Launch]] = []  # with the index of their step
        self.turns: list[Turns] = []
        self.anew: list[Anew] = []
        self.apart: set[int] = set()  # launches of these two, which keep their own words
        for i, step in steps:
            first = len(self.launches)
            if isinstance(step, Launch):
                self.launches.append((i, step))
                continue
            if isinstance(step, Repeat):
                self.turns.append(Turns(step, first))
            else:
                self.anew.append(Anew(step, first))
            self.launches += [(i, launch) for launch in (step.launches if isinstance(step, Repeat) else step.rows)]
            self.apart |= set(range(first, len(self.launches)))
        self.once = np.zeros((len(self.launches), runner_ir.STEP_WORDS), np.int64)  # a record for each launch
        self.phases = np.zeros((0, runner_ir.PHASE_WORDS), np.int64)
        self.job = np.zeros(runner_ir.JOB_WORDS, np.int64)
        self.address = self.job.ctypes.data
        self.words = memoryview(self.job)
        self.parallel = False
        self._guarded = len(self.launches)  # the first launch that is guarded
        self.arrange()

    @property
    def runs(self) -> int:
        """How often it ran."""
        return self.words[8]

    def arrange(self) -> None:
        """Lay out the records of all launches that are made."""
        self.order = np.arange(len(self.launches))  # which launch each record is of
        shift = np.zeros(len(self.order), np.int64)
        for anew in self.anew:
            for k, launch in enumerate(anew.step.rows, anew.first):
                self.launches[k] = self.launches[k][0], launch
        for turns in reversed(self.turns):
            first, end, count = turns.span()
            self.order = np.concatenate([self.order[:first], np.tile(self.order[first:end], count), self.order[end:]])
            moved = np.repeat(np.arange(count) * (WORD * turns.width), end - first)
            shift = np.concatenate([shift[:first], moved, shift[end:]])
        self.records = self.once[self.order] if self.turns else self.once
        self.records[:, 1] += shift
        guarded = int(np.searchsorted(self.order, self._guarded))
        self.job[:2] = self.records.ctypes.data, len(self.records)
        self.job[9] = guarded if self._guarded < len(self.launches) else runner_ir.UNGUARDED

    def guard(self, first: int, checks: np.ndarray) -> None:
        """Run the steps from index `first` of Lowered.steps on only if no check has failed."""
        self._guarded = sum(i < first for i, _ in self.launches)
        self.job[10:12] = checks.ctypes.data, len(checks)
        self.arrange()

    def place(self, count: int, overlaps: Any) -> None:
        """Cut the launches into phases and parts for `count` threads."""
        cut = self._guarded if self._guarded < len(self.launches) else 0
        slots = schedule.schedule([_now(launch) for _, launch in self.launches], count, overlaps, cut,
                                  [turns.span() for turns in self.turns])
        self.records[:, 3:5] = [(slot.first, slot.width) for slot in slots]
        self.parallel = any(slot.width > 1 for slot in slots)
        starts = [0, *(i for i, slot in enumerate(slots) if slot.barrier)]
        ends = [*starts[1:], len(slots)]
        # Rows of 64 bytes, of which the threads change the last words.
        self.phases = memory.empty_aligned((len(starts), runner_ir.PHASE_WORDS), np.dtype(np.int64))
        self.phases[:, :3] = [(a, b, max((slot.first + slot.width for slot in slots[a:b]), default=1))
                              for a, b in zip(starts, ends, strict=True)]
        self.job[5:8] = count, memory.address_of(self.phases), len(starts)

    def placed(self) -> Iterator[tuple[int, Launch, int, int]]:
        """Yield (number of its phase, launch, first thread, number of threads) of every launch that is made."""
        for phase, (first, end) in enumerate(self.phases[:, :2].tolist()):
            for k, where in zip(self.order[first:end].tolist(), self.records[first:end, 3:5].tolist(), strict=True):
                yield phase, self.launches[k][1], *where


class Turns:
    """The launches of a `Repeat` in a segment: their words, at every place."""

    def __init__(self, repeat: Repeat, first: int) -> None:
        """`first`: the number of its first launch in the segment."""
        self.repeat, self.first = repeat, first
        self.args = [a for launch in repeat.launches for a in launch.args]
        self.width = len(self.args)
        self.base = np.zeros(self.width, np.int64)  # at place 0, beside the address of what a word points to
        self.step = np.zeros(self.width, np.int64)  # from one place to the next
        self.inner: list[int] = []  # the words that point into the arena
        self.values: list[int] = []  # and at which values
        self.moving: list[tuple[int, int]] = []  # (word, the array it points into)
        self._room = np.zeros((0, self.width), np.int64)

    def span(self) -> tuple[int, int, int]:
        """Return the first launch in the segment, the end, and how often they are made."""
        return self.first, self.first + len(self.repeat.launches), now(self.repeat.count)

    def arrange(self, once: np.ndarray) -> None:
        """Write the words of every place, but for what they point to, and into the records where they are."""
        count = now(self.repeat.count)
        if count > len(self._room):
            more = count + count // 2 if type(self.repeat.count) is Dim else count
            self._room = np.zeros((more, self.width), np.int64)
        places = np.arange(count)[:, None]
        self.words = self._room[:count]
        self.words[:] = self.base + (places[::-1] if self.repeat.reverse else places) * self.step
        at = self._room.ctypes.data
        for k, launch in enumerate(self.repeat.launches, self.first):
            once[k, 1] = at
            at += WORD * len(launch.args)
        self._offsets = self.words[:, self.inner]

    def settle(self, places: np.ndarray) -> None:
        """Point the words at the places of values in memory."""
        self.words[:, self.inner] = self._offsets + places

    def uses(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield (array, the addresses of words that point into it, their offsets)."""
        start = self._room.ctypes.data
        for word, array in self.moving:
            yield array, start + WORD * (self.width * np.arange(len(self.words)) + word), self.words[:, word].copy()


class Anew:
    """The launches of a `Planned` in a segment: their words, for the present sizes."""

    def __init__(self, step: Planned, first: int) -> None:
        """`first`: the number of its first launch in the segment."""
        self.step, self.first = step, first
        self.inner: list[int] = []  # the words that point into the arena
        self.values: list[int] = []  # and at which values
        self._uses: list[tuple[int, int]] = []  # (array that a word points into, word)

    def arrange(self, once: np.ndarray, code: dict[str, int], fixed: dict[int, int], offsets: dict[int, int],
                arrays: dict[int, int]) -> None:
        """Write the words, but for the addresses of what they point to, and the records.

        `fixed` has the addresses of values, `offsets` those in the arena, `arrays` the number of what comes and goes.
        """
        rows = self.step.rows
        words: list[int] = []
        self.inner, self.values, self._uses = [], [], []
        starts = []
        for launch in rows:
            starts.append(len(words))
            for a in launch.args:
                if not isinstance(a, Buf):
                    words.append(a)
                    continue
                at = fixed.get(a.value_id)
                if at is None and a.value_id in offsets:
                    self.inner.append(len(words))
                    self.values.append(a.value_id)
                elif at is None:
                    self._uses.append((arrays[a.value_id], len(words)))
                words.append(a.offset + (at or 0))
        self.words = np.array([signed(n) for n in words], np.int64)
        self._offsets = self.words[self.inner]
        start = self.words.ctypes.data
        for k, (launch, at) in enumerate(zip(rows, starts), self.first):
            once[k, :3] = code[launch.kernel.name], start + WORD * at, launch.units

    def settle(self, places: np.ndarray) -> None:
        """Point the words at the places of values in memory."""
        self.words[self.inner] = self._offsets + places

    def uses(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield (array, the addresses of words that point into it, their offsets)."""
        start = self.words.ctypes.data
        for array, at in self._uses:
            yield array, np.array([start + WORD * at]), self.words[at:at + 1].copy()


def signed(n: int) -> int:
    """Return the 64 bits of a number, which may be unsigned, as a signed one."""
    return (n + (1 << 63)) % (1 << 64) - (1 << 63)


def _now(launch: Launch) -> Launch:
    """Return a launch as it is for the present sizes."""
    if not varies((launch.units, launch.flops, launch.nbytes)):
        return launch
    return replace(launch, units=now(launch.units), flops=now(launch.flops), nbytes=now(launch.nbytes))
