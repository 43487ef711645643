"""A lowered program made runnable: code, memory and threads assigned; each run costs one native call.

All argument words of all launches are one array. Running with other arrays than last time rewrites the words
that hold their addresses, natively, and nothing else.
"""
from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from fanal.core.backends.contract import Buf, Launch, Temp
from fanal.core.base.dim import Dim, Dims, Formulas, now, varies
from fanal.core.compiler import plan
from fanal.core.compiler.steps import Buffer, HostStep, Lowered, failed

from . import jit, memory, runner_ir, schedule, threads
from .target import Target

Arrays = list[np.ndarray]
_WORD = 8


class Timing(NamedTuple):
    """One thread's part of a launch, or a host step. Times in nanoseconds of time.perf_counter_ns."""

    step: int  # index into Lowered.steps
    label: str
    part: int
    begin: int
    end: int


class _Workspace:
    """Memory for what lives only while a plan runs. Plans take turns with it."""

    def __init__(self) -> None:
        self.nbytes = 0
        self.address = 0
        self.array: np.ndarray | None = None

    def grow(self, nbytes: int) -> None:
        if nbytes > self.nbytes:
            self.array = None  # not both at once: it would be kept for another of its size, which does not come
            self.nbytes = self.address = 0
            memory.release_kept()
            self.array = memory.empty_aligned((nbytes,), np.dtype(np.uint8))
            self.nbytes, self.address = nbytes, memory.address_of(self.array)


_idle: list[_Workspace] = []  # popping and appending are atomic


class _Segment:
    """Launches between two host steps: one native call."""

    def __init__(self, launches: list[tuple[int, Launch]]) -> None:
        self.launches = launches  # with their index in Lowered.steps
        self.records = np.zeros((len(launches), runner_ir.STEP_WORDS), np.int64)
        self.phases = np.zeros((0, runner_ir.PHASE_WORDS), np.int64)
        self.job = np.zeros(runner_ir.JOB_WORDS, np.int64)
        self.job[:2] = self.records.ctypes.data, len(launches)
        self.address = self.job.ctypes.data
        self.job[9] = runner_ir.UNGUARDED
        self.words = memoryview(self.job)
        self.parallel = False

    @property
    def runs(self) -> int:
        """How often it ran."""
        return self.words[8]

    def guard(self, first: int, checks: np.ndarray) -> None:
        """Run the steps from index `first` of Lowered.steps on only if no check has failed."""
        begin = sum(i < first for i, _ in self.launches)
        if begin < len(self.launches):
            self.job[9:12] = begin, checks.ctypes.data, len(checks)

    def place(self, count: int, overlaps: Any) -> None:
        """Cut the launches into phases and parts for `count` threads."""
        guarded = int(self.job[9])
        slots = schedule.schedule([_now(launch) for _, launch in self.launches], count, overlaps,
                                  guarded if guarded < len(self.launches) else 0)
        self.records[:, 3:5] = [(slot.first, slot.width) for slot in slots]
        self.parallel = any(slot.width > 1 for slot in slots)
        starts = [0, *(i for i, slot in enumerate(slots) if slot.barrier)]
        ends = [*starts[1:], len(slots)]
        # Rows of 64 bytes, of which the threads change the last words.
        self.phases = memory.empty_aligned((len(starts), runner_ir.PHASE_WORDS), np.dtype(np.int64))
        self.phases[:, :3] = [(a, b, max(slot.first + slot.width for slot in slots[a:b]))
                              for a, b in zip(starts, ends, strict=True)]
        self.job[5:8] = count, memory.address_of(self.phases), len(starts)


class Executable:
    """A program ready to run. Python threads may share one: they take turns."""

    def __init__(self, lowered: Lowered, target: Target | None = None, dims: Dims | None = None) -> None:
        """`dims` are the sizes that may be others in a later run, see `resize`."""
        self.lowered = lowered
        self._sized = _Sized(dims) if dims is not None else None
        self.target = target
        self._lock = threading.RLock()
        self._owner = 0  # the Python thread that is running it
        self._known = {value: np.ascontiguousarray(array) for value, array in lowered.known.items()}
        self._checks = np.zeros(len(lowered.checks), np.int64)
        self._watched = memoryview(self._checks)
        self._outside = {value: i for i, value in enumerate(lowered.inputs)}
        self._results = {value: i for i, value in reversed([*enumerate(lowered.outputs)])
                         if value not in self._outside and value not in self._known}
        self._plan_memory()
        self._segments: list[_Segment | tuple[int, HostStep]] = []
        self._split()
        self._protect()
        self._fill(target)
        only = self._segments[0] if len(self._segments) == 1 else None
        self._only = only if isinstance(only, _Segment) else None
        self._hosted = 0  # how often a host step was the first of the program
        self._space = 0  # address of the workspace the words point into
        self._need = 0  # bytes of workspace
        self._threads = 0
        _alive.add(self)

    # Building.

    def _plan_memory(self) -> None:
        low = self.lowered
        steps = [step for step in low.steps if not isinstance(step, Temp)]
        apart = self._outside.keys() | self._known.keys() | self._results.keys() | {v for v, _ in low.checks}
        wanted = {value: buffer.nbytes for value, buffer in low.buffers.items() if value not in apart}
        wanted |= {step.id: step.nbytes for step in low.steps if isinstance(step, Temp)}
        scratch = [step.scratch for step in steps if isinstance(step, Launch)]
        if self._sized is not None:
            self._sized.room(wanted, scratch)
        sizes = {value: now(nbytes) for value, nbytes in wanted.items()}
        self._lay_out(sizes, max(map(now, scratch), default=0))

    def _lay_out(self, sizes: dict[int, int], scratch: int) -> None:
        """Give everything that lives only while the plan runs a place in the workspace."""
        steps = [step for step in self.lowered.steps if not isinstance(step, Temp)]
        self.offsets, self.arena_bytes = plan.place(plan.lifetimes(steps, sizes), sizes)
        self._sizes = sizes
        self.scratch_bytes = -(-scratch // 128) * 128  # threads write to neighbouring lines of no other

    def _split(self) -> None:
        """Cut the steps into native segments and host steps."""
        native: list[tuple[int, Launch]] = []
        for i, step in enumerate(self.lowered.steps):
            if isinstance(step, HostStep):
                if native:
                    self._segments.append(_Segment(native))
                    native = []
                self._segments.append((i, step))
            elif isinstance(step, Launch) and step.units > 0:
                native.append((i, step))
        if native:
            self._segments.append(_Segment(native))

    def _protect(self) -> None:
        """See to it that inputs are overwritten as a whole or not at all.

        What comes after the last step that may fail is guarded. The few inputs overwritten before it, such as running
        means, are saved in every run.
        """
        checks = {value for value, _ in self.lowered.checks}
        replaced = self._outside.keys() & set(self.lowered.outputs)
        writes = [(i, value) for i, step in enumerate(self.lowered.steps) if not isinstance(step, Temp)
                  for value in step.writes if value in replaced]
        last = max((i for i, step in enumerate(self.lowered.steps) if isinstance(step, HostStep) or
                    (isinstance(step, Launch) and not checks.isdisjoint(step.writes))), default=-1)
        self._saves = sorted({self._outside[value] for i, value in writes if i <= last})
        first = min((i for i, _ in writes if i > last), default=None)
        if first is not None and checks:
            for segment in self._segments:
                if isinstance(segment, _Segment):
                    segment.guard(first, self._checks)

    def _fill(self, target: Target | None) -> None:
        """Compile the kernels and write everything into the words that does not change from run to run."""
        launches = [(segment, row, launch) for segment in self._segments if isinstance(segment, _Segment)
                    for row, (_, launch) in enumerate(segment.launches)]
        code = jit.compile_many([launch.kernel for _, _, launch in launches], target)
        self._words = np.zeros(sum(len(launch.args) for _, _, launch in launches), np.int64)
        fixed = {value: memory.address_of(array) for value, array in self._known.items()}
        fixed |= {value: memory.address_of(self._checks) + _WORD * i for i, (value, _) in
                  enumerate(self.lowered.checks)}
        start, at = memory.address_of(self._words), 0
        inner: list[tuple[int, Buf]] = []  # (word, what it points to in the arena)
        moving: dict[int, list[tuple[int, int]]] = {}  # value -> (word address, offset)
        for segment, row, launch in launches:
            segment.records[row, :3] = code[launch.kernel.name], start + _WORD * at, now(launch.units)
            self._note(segment.records.reshape(-1), row * runner_ir.STEP_WORDS + 2, launch.units)
            for argument in launch.args:
                if not isinstance(argument, Buf):
                    value = now(argument)
                    self._words[at] = (value + (1 << 63)) % (1 << 64) - (1 << 63)  # bits may be unsigned
                    self._note(self._words, at, argument)
                elif argument.value_id in fixed:
                    self._words[at] = fixed[argument.value_id] + now(argument.offset)
                    self._note(self._words, at, argument.offset, fixed[argument.value_id])
                elif argument.value_id in self.offsets:
                    inner.append((at, argument))
                else:
                    moving.setdefault(argument.value_id, []).append((start + _WORD * at, argument.offset))
                at += 1
        self._inner = np.array([word for word, _ in inner], np.int64)
        self._inner_values = [buf.value_id for _, buf in inner]
        self._inner_offsets = np.array([now(buf.offset) for _, buf in inner], np.int64)
        for k, (_, buf) in enumerate(inner):
            self._note(self._inner_offsets, k, buf.offset)
        self._inner_places = np.array([self.offsets[value] for value in self._inner_values], np.int64)
        unknown = moving.keys() - self._outside.keys() - self._results.keys()
        if unknown:
            raise ValueError(f"launches use values that have no buffer: {sorted(unknown)}")
        first = {i: value for value, i in self._results.items()}
        self._binding = _Binding([*(moving.get(value, ()) for value in self.lowered.inputs),
                                  *(moving.get(first[i], ()) if i in first else ()
                                    for i in range(len(self.lowered.outputs)))], self._note)

    def _note(self, array: np.ndarray, at: int, number: int, more: int = 0) -> None:
        """Remember that array[at] is `number` + `more` and must follow, if sizes are named."""
        if type(number) is Dim and self._sized is not None:
            self._sized.note(array, at, number, more)

    def resize(self) -> None:
        """Follow the named sizes, which have other values now."""
        sized = self._sized
        assert sized is not None
        with self._lock:
            sized.follow()
            if sized.outgrown():
                sizes, scratch = sized.roomy()
                self._lay_out(self._sizes | sizes, max(scratch, self.scratch_bytes))
                self._inner_places[:] = [self.offsets[value] for value in self._inner_values]
                self._threads = 0  # another amount of work may be worth other threads
            self._binding.known[:] = 0
            self._space = 0

    def _overlaps(self, value: int) -> Sequence[int]:
        """Return the other values whose arena memory `value` shares, at other times."""
        found = self._overlap.get(value)
        if found is None:
            if value not in self.offsets:
                found = ()
            else:
                begin = self.offsets[value]
                hit = (self._arena[1] < begin + self._sizes[value]) & (self._arena[2] > begin)
                found = tuple(other for other in self._arena[0][hit].tolist() if other != value)
            self._overlap[value] = found
        return found

    def _place(self, count: int) -> None:
        """Divide the work over `count` threads."""
        ids = list(self.offsets)
        begins = np.array([self.offsets[value] for value in ids], np.int64)
        self._arena = np.array(ids, np.int64), begins, begins + [self._sizes[value] for value in ids]
        self._overlap: dict[int, Sequence[int]] = {}
        for segment in self._segments:
            if isinstance(segment, _Segment):
                segment.place(count, self._overlaps)
        del self._arena, self._overlap
        self._threads = count
        self._need = max(64, self.arena_bytes + self.scratch_bytes * count)
        self._space = 0

    def placed(self) -> Iterator[tuple[int, Launch, int, int]]:
        """Yield (number of its phase, launch, first thread, number of threads) of every launch, as it ran last."""
        phase = 0
        for segment in self._segments:
            if isinstance(segment, _Segment):
                for first, end in segment.phases[:, :2].tolist():
                    for (_, launch), where in zip(segment.launches[first:end], segment.records[first:end, 3:5].tolist(),
                                                  strict=True):
                        yield phase, launch, *where
                    phase += 1

    def _settle(self, space: _Workspace) -> None:
        """Point the words into a workspace."""
        space.grow(self._need)
        self._words[self._inner] = space.address + self._inner_places + self._inner_offsets
        for segment in self._segments:
            if isinstance(segment, _Segment):
                segment.job[2:4] = space.address + self.arena_bytes, self.scratch_bytes
        self._space = space.address

    # Running.

    def allocate(self) -> list[np.ndarray | None]:
        """Return fresh arrays for the outputs; None where an output replaces an input or is a known value."""
        buffers = self.lowered.buffers
        return [memory.empty_aligned(now(buffers[value].shape), buffers[value].dtype.np)
                if self._results.get(value) == i else None for i, value in enumerate(self.lowered.outputs)]

    def run(self, inputs: Arrays, outputs: Sequence[np.ndarray | None] | None = None,
            profile: list[Timing] | None = None) -> Arrays:
        """Compute the outputs. Every array is C-contiguous with the shape and dtype of the program's value.

        `outputs` are arrays to write into, as `allocate` gives them; None stands for one without memory of
        its own. No output may share memory with an input that it does not replace. `profile` collects the
        times of every launch, by part.
        Raises IndexError for an index out of range, and what host steps raise; inputs are then as they were, and
        outputs of their own undefined.
        """
        results = self.standing(inputs, self.allocate() if outputs is None else outputs)
        self.again(inputs, results, profile)
        return results

    def again(self, inputs: Arrays, outputs: Arrays, profile: list[Timing] | None = None) -> None:
        """Run on arrays of the right make, one for every output.

        Once begun it goes on to its end: an interrupt (see `begun`) is raised after.
        """
        with self._lock:
            if self._owner:  # a host step or a signal handler runs the program it is part of
                twin = Executable(self.lowered, self.target, self._sized.dims if self._sized else None)
                twin.again(inputs, outputs, profile)
                return
            self._owner = threading.get_ident()
            saved = [(inputs[j], inputs[j].copy()) for j in self._saves] if self._saves else ()
            try:
                self._binding.bind(inputs + outputs)
                self._launch(inputs, outputs, profile)
            except Exception:
                for array, before in saved:
                    np.copyto(array, before)
                raise
            finally:
                self._owner = 0

    @property
    def begun(self) -> int:
        """How often the program began: whoever is interrupted in a run finds out here if it took place."""
        first = self._segments[0] if self._segments else None
        return first.runs if isinstance(first, _Segment) else self._hosted

    def standing(self, inputs: Arrays, outputs: Sequence[np.ndarray | None]) -> Arrays:
        """Return the outputs, with the arrays that stand for those without memory of their own (None).

        Raises ValueError if there are not as many inputs as the program has.
        """
        if len(inputs) != len(self.lowered.inputs):
            raise ValueError(f"the program has {len(self.lowered.inputs)} inputs, got {len(inputs)}")
        results: Arrays = []
        for i, array in enumerate(outputs):
            results.append(self._standing(i, inputs, results) if array is None else array)
        return results

    def _standing(self, i: int, inputs: Arrays, results: Arrays) -> np.ndarray:
        """Return the array of output i, which has no memory of its own."""
        value = self.lowered.outputs[i]
        if value in self._outside:
            return inputs[self._outside[value]]
        if value in self._known:
            return self._known[value].copy()  # the caller may write to it
        if self._results[value] == i:
            raise ValueError(f"output {i} needs an array")
        return results[self._results[value]]

    def _launch(self, inputs: Arrays, outputs: Arrays, profile: list[Timing] | None) -> None:
        if threads.pool.count != self._threads or not self._threads:
            self._place(threads.get_num_threads())
        try:
            space = _idle.pop()
        except IndexError:
            space = _Workspace()
        try:
            if space.address != self._space or space.nbytes < self._need:
                self._settle(space)
            only = self._only
            if only is not None and profile is None:
                threads.pool.run(only.address, only.parallel)
            else:
                self._walk(space, inputs, outputs, profile)
        finally:
            _idle.append(space)
        if self._watched and any(self._watched):
            self._complain()

    def _walk(self, space: _Workspace, inputs: Arrays, outputs: Arrays,
              profile: list[Timing] | None) -> None:
        late: BaseException | None = None
        for k, segment in enumerate(self._segments):
            done = segment.runs if isinstance(segment, _Segment) else 0
            while True:
                try:
                    self._step(segment, space, inputs, outputs, profile)
                    break
                except Exception:
                    raise
                except BaseException as e:
                    ran = isinstance(segment, _Segment) and segment.runs != done
                    if not k and not ran:
                        raise
                    late = e
                    if ran:
                        break
            if not k and not isinstance(segment, _Segment):
                self._hosted += 1
        if late is not None:
            raise late

    def _step(self, segment: _Segment | tuple[int, HostStep], space: _Workspace, inputs: Arrays, outputs: Arrays,
              profile: list[Timing] | None) -> None:
        if not isinstance(segment, _Segment):
            index, step = segment
            begin = time.perf_counter_ns()
            self._call(step, space, inputs, outputs)
            if profile is not None:
                profile.append(Timing(index, step.label, 0, begin, time.perf_counter_ns()))
        elif profile is None:
            threads.pool.run(segment.address, segment.parallel)
        else:
            self._timed(segment, profile)

    def _timed(self, segment: _Segment, profile: list[Timing]) -> None:
        count = len(segment.launches)
        times = np.zeros(count * self._threads * 2, np.int64)
        segment.job[4] = times.ctypes.data
        try:
            threads.pool.run(segment.address, segment.parallel)
        finally:
            segment.job[4] = 0
        for (index, launch), row in zip(segment.launches, times.reshape(count, -1, 2).tolist(), strict=True):
            profile += [Timing(index, launch.label, part, begin, end)
                        for part, (begin, end) in enumerate(row) if end]

    def _call(self, step: HostStep, space: _Workspace, inputs: Arrays, outputs: Arrays) -> None:
        """Run a host step on views of the buffers."""
        arrays = [self._view(value, space, inputs, outputs).reshape(shape)
                  for value, shape in zip(step.inputs, step.shapes, strict=True)]
        target = self._view(step.output, space, inputs, outputs)
        result = np.asarray(step.fn(*arrays))
        if result.size != target.size:
            raise RuntimeError(f"{step.label} gave shape {list(result.shape)}, expected {list(target.shape)}")
        if target.dtype.fields and result.dtype == target.dtype:  # NumPy would copy the parts of complex32 one by one
            target, result = target.view(np.uint32), result.view(np.uint32)
        np.copyto(target, result.reshape(target.shape), casting="unsafe")

    def _view(self, value: int, space: _Workspace, inputs: Arrays, outputs: Arrays) -> np.ndarray:
        if value in self._outside:
            return inputs[self._outside[value]]
        if value in self._results:
            return outputs[self._results[value]]
        if value in self._known:
            return self._known[value]
        buffer: Buffer = self.lowered.buffers[value]
        return np.ndarray(buffer.shape, buffer.dtype.np, space.array, self.offsets[value])

    def _complain(self) -> None:
        """Raise the first failed check, and forget all."""
        codes = self._checks.tolist()
        self._checks[:] = 0
        for code, (_, size) in zip(codes, self.lowered.checks, strict=True):
            if code:
                raise failed(code, now(size))


class _Binding:
    """Which words hold the addresses of a list of arrays."""

    def __init__(self, uses: Sequence[Sequence[tuple[int, int]]], note: Callable[..., None]) -> None:
        self.count = len(uses)
        self.known = np.zeros(self.count, np.int64)
        self.starts = np.cumsum([0, *map(len, uses)], dtype=np.int64)
        pairs = [pair for several in uses for pair in several]
        self.uses = np.array([(word, now(offset)) for word, offset in pairs], np.int64).reshape(-1, 2)
        for k, (_, offset) in enumerate(pairs):
            note(self.uses.reshape(-1), 2 * k + 1, offset)
        parts = (self.known, self.starts, self.uses)
        self.table = np.array([self.count, *(part.ctypes.data for part in parts)], np.int64)
        self.address = self.table.ctypes.data
        self.native = threads.runner().bind if memory.LAYOUT_KNOWN else None

    def bind(self, arrays: Arrays) -> None:
        """Make the words point to these arrays."""
        if self.native is not None:
            self.native(id(arrays), self.address)
            return
        for i, array in enumerate(arrays):
            address = memory.address_of(array)
            if address != self.known[i]:
                self.known[i] = address
                for word, offset in self.uses[self.starts[i]:self.starts[i + 1]].tolist():
                    ctypes.c_int64.from_address(word).value = address + offset


class _Sized:
    """What of an executable follows from named sizes: words here and there, and how much memory it needs."""

    def __init__(self, dims: Dims) -> None:
        self.dims = dims
        self.noted: dict[int, tuple[np.ndarray, list[int], list[Dim], list[int]]] = {}
        self.parts: list[tuple[np.ndarray, np.ndarray, Formulas, np.ndarray]] = []

    def note(self, array: np.ndarray, at: int, number: Dim, more: int) -> None:
        """Remember that array[at] is number + more."""
        _, places, numbers, others = self.noted.setdefault(array.ctypes.data, (array, [], [], []))
        places.append(at)
        numbers.append(number)
        others.append(more)

    def follow(self) -> None:
        """Write everything anew."""
        if not self.parts:
            self.parts = [(array, np.array(places), Formulas(self.dims, numbers), np.array(others, np.int64))
                          for array, places, numbers, others in self.noted.values()]
        for array, at, formulas, more in self.parts:
            array[at] = formulas.values() + more

    def room(self, sizes: dict[int, int], scratch: list[int]) -> None:
        """Remember how much memory buffers and the scratch of launches take."""
        self.buffers = [value for value, nbytes in sizes.items() if type(nbytes) is Dim]
        self.needs = Formulas(self.dims, [n for n in [*(sizes[value] for value in self.buffers), *scratch]
                                          if type(n) is Dim])
        self.have = self.needs.values()

    def outgrown(self) -> bool:
        """Tell whether there is too little memory now."""
        return bool((self.needs.values() > self.have).any())

    def roomy(self) -> tuple[dict[int, int], int]:
        """Return more memory than is needed now, for buffers and as scratch: sizes that grow go on growing."""
        self.have = self.needs.values() * 3 // 2
        found = self.have.tolist()
        return dict(zip(self.buffers, found)), max(found[len(self.buffers):], default=0)


def _now(launch: Launch) -> Launch:
    """Return a launch as it is for the present sizes."""
    if not varies((launch.units, launch.flops, launch.nbytes)):
        return launch
    return replace(launch, units=now(launch.units), flops=now(launch.flops), nbytes=now(launch.nbytes))


_alive: weakref.WeakSet[Executable] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    _idle.clear()
    for executable in _alive:
        if executable._owner != threading.get_ident():  # a thread that the child does not have
            executable._lock = threading.RLock()
            executable._owner = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
