"""A lowered program made runnable: code, memory and threads assigned; each run costs one native call.

All argument words of all launches are one array. Running with other arrays than last time rewrites the words
that hold their addresses, natively, and nothing else.
"""
from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fanal.core.backends.contract import Buf, Launch, Planned, Repeat, Temp
from fanal.core.base.dim import Dim, Dims, now
from fanal.core.compiler import plan
from fanal.core.compiler.steps import Buffer, HostStep, Lowered, OtherSize, failed

from . import jit, memory, runner_ir, threads
from .segment import WORD, Segment, signed
from .target import Target
from .words import Binding, Sized

Arrays = list[np.ndarray]


class Timing(NamedTuple):
    """One thread's part of a launch, or a host step. Times in nanoseconds of time.perf_counter_ns."""

    step: int  # index into Lowered.steps
    label: str
    part: int
    begin: int
    end: int
    turn: int = 0  # which launch of the native call: a step may be repeated


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


_LITTLE = 1 << 16  # bytes: a block of gradients that saves less is not made
_idle: list[_Workspace] = []  # popping and appending are atomic


class Executable:
    """A program ready to run. Python threads may share one: they take turns."""

    def __init__(self, lowered: Lowered, target: Target | None = None, dims: Dims | None = None) -> None:
        """`dims` are the sizes that may be others in a later run, see `resize`."""
        self.lowered = lowered
        self._sized = Sized(dims) if dims is not None else None
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
        self._segments: list[Segment | tuple[int, HostStep]] = []
        self._split()
        self._protect()
        self._fill(target)
        only = self._segments[0] if len(self._segments) == 1 else None
        self._only = only if isinstance(only, Segment) else None
        self._hosted = 0  # how often a host step was the first of the program
        self._space = 0  # address of the workspace the words point into
        self._base = 0  # and of the block of gradients
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
        scratch = [launch.scratch for step in steps if not isinstance(step, HostStep)
                   for launch in ([step] if isinstance(step, Launch) else step.launches)]
        if self._sized is not None:
            self._sized.room(wanted, scratch)
        sizes = {value: now(nbytes) for value, nbytes in wanted.items()}
        mine = {low.outputs[i]: i for i in low.gradients if self._results.get(low.outputs[i]) == i}
        # Those that steps write: output, bytes and the first step that does.
        self._gradients = {value: (mine[value], low.buffers[value].nbytes, first)
                           for value, (first, _) in plan.lifetimes(steps, mine).items()
                           if type(low.buffers[value].nbytes) is not Dim}
        self.block: dict[int, int] = {}  # output -> offset
        self._lay_out(sizes, max(map(now, scratch), default=0))

    def _lay_out(self, sizes: dict[int, int], scratch: int) -> None:
        """Give everything that lives only while the plan runs a place: in the block of gradients or the workspace.

        Offsets count through the block first.
        """
        steps = [step for step in self.lowered.steps if not isinstance(step, Temp)]
        spans = plan.lifetimes(steps, sizes)
        lent = self._lend(steps, spans, sizes)
        rest = {value: span for value, span in spans.items() if value not in lent}
        offsets, self.arena_bytes = plan.place(rest, sizes)
        self.offsets = lent | {value: self.block_bytes + at for value, at in offsets.items()}
        self._sizes = sizes
        self.scratch_bytes = -(-scratch // 128) * 128  # threads write to neighbouring lines of no other

    def _lend(self, steps: list[Any], spans: dict[int, tuple[int, int]], sizes: dict[int, int]) -> dict[int, int]:
        """Lay out the block of gradients; return the offsets of what lies there until they are written.

        There is no block where that saves little.
        """
        self.block_bytes = 0
        if not self._gradients:
            self.block = {}
            return {}
        hosted = {value for step in steps if isinstance(step, HostStep) for value in (*step.reads, *step.writes)}
        may = {value: span for value, span in spans.items() if value not in hosted}
        nbytes = sizes | {value: n for value, (_, n, _) in self._gradients.items()}
        places, lent, self.block_bytes = plan.lend(may, nbytes, {v: at for v, (*_, at) in self._gradients.items()})
        rest = {value: span for value, span in spans.items() if value not in lent}
        if not self.block and plan.most(spans, sizes) - plan.most(rest, sizes) < _LITTLE:
            self._gradients, self.block_bytes = {}, 0
            return {}
        self.block = {self._gradients[value][0]: at for value, at in places.items()}
        self._block_at = np.array([*self.block], np.int64) + len(self.lowered.inputs)
        self._block_offsets = np.array([*self.block.values()], np.int64)
        return lent

    def _move(self) -> None:
        """Follow a new layout."""
        self._inner_places[:] = [self.offsets[value] for value in self._inner_values]
        self._threads = 0  # another amount of work may be worth other threads

    def forget_sources(self) -> None:
        """Let go of the sources of kernels, and of all that the compiler knew of them: a third of what a plan takes."""
        for segment in self._segments:
            for _, launch in segment.launches if isinstance(segment, Segment) else ():
                launch.kernel = launch.kernel.compiled()

    def _split(self) -> None:
        """Cut the steps into native segments and host steps."""
        native: list[tuple[int, Launch | Repeat | Planned]] = []
        for i, step in enumerate(self.lowered.steps):
            if isinstance(step, HostStep):
                if native:
                    self._segments.append(Segment(native))
                    native = []
                self._segments.append((i, step))
            elif isinstance(step, (Repeat, Planned)) or (isinstance(step, Launch) and step.units > 0):
                native.append((i, step))
        if native:
            self._segments.append(Segment(native))

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
                if isinstance(segment, Segment):
                    segment.guard(first, self._checks)

    def _fill(self, target: Target | None) -> None:
        """Compile the kernels and write everything into the words that does not change from run to run."""
        segments = [segment for segment in self._segments if isinstance(segment, Segment)]
        launches = [(segment, row, launch) for segment in segments for row, (_, launch) in enumerate(segment.launches)]
        code = jit.compile_many([launch.kernel for _, _, launch in launches], target)
        self._turns = [turns for segment in segments for turns in segment.turns]
        self._anew = [anew for segment in segments for anew in segment.anew]
        self._words = np.zeros(sum(len(launch.args) for segment, row, launch in launches if row not in segment.apart),
                               np.int64)
        self._fixed = {value: memory.address_of(array) for value, array in self._known.items()}
        self._fixed |= {value: memory.address_of(self._checks) + WORD * i for i, (value, _) in
                        enumerate(self.lowered.checks)}
        start, at = memory.address_of(self._words), 0
        inner: list[tuple[int, Buf]] = []  # (word, what it points to in the arena)
        moving: dict[int, list[tuple[int, int]]] = {}  # value -> (word address, offset)
        for segment, row, launch in launches:
            segment.once[row, :3] = code[launch.kernel.name], start + WORD * at, now(launch.units)
            self._note(segment.once.reshape(-1), row * runner_ir.STEP_WORDS + 2, launch.units)
            for argument in launch.args if row not in segment.apart else ():
                self._write(self._words, at, argument)
                if isinstance(argument, Buf) and argument.value_id in self.offsets:
                    inner.append((at, argument))
                elif isinstance(argument, Buf) and argument.value_id not in self._fixed:
                    moving.setdefault(argument.value_id, []).append((start + WORD * at, argument.offset))
                at += 1
        self._inner = np.array([word for word, _ in inner], np.int64)
        self._inner_values = [buf.value_id for _, buf in inner]
        self._inner_follow = any(type(buf.offset) is Dim for _, buf in inner)
        self._inner_offsets = np.array([now(buf.offset) for _, buf in inner], np.int64)
        for k, (_, buf) in enumerate(inner):
            self._note(self._inner_offsets, k, buf.offset)
        self._inner_places = np.array([self.offsets[value] for value in self._inner_values], np.int64)
        first = {i: value for value, i in self._results.items()}
        arrays = [*self.lowered.inputs, *(first.get(i) for i in range(len(self.lowered.outputs)))]
        self._arrays = places = {value: i for i, value in reversed([*enumerate(arrays)]) if value is not None}
        unknown = moving.keys() - places.keys()
        for turns in self._turns:
            for k, argument in enumerate(turns.args):
                self._write(turns.base, k, argument)
                if isinstance(argument, Buf):
                    turns.step[k] = now(argument.step)
                    self._note(turns.step, k, argument.step)
                    if argument.value_id in self.offsets:
                        turns.inner.append(k)
                        turns.values.append(argument.value_id)
                    elif argument.value_id in places:
                        turns.moving.append((k, places[argument.value_id]))
                    elif argument.value_id not in self._fixed:
                        unknown.add(argument.value_id)
        if unknown:
            raise ValueError(f"launches use values that have no buffer: {sorted(unknown)}")
        self._binding = Binding([moving.pop(value, ()) if value is not None else () for value in arrays], self._note)
        self._arrange()

    def _write(self, words: np.ndarray, at: int, argument: Buf | int) -> None:
        """Write an argument, without the address of what it points to where that is still unknown."""
        if isinstance(argument, Buf):
            address = self._fixed.get(argument.value_id, 0)
            words[at] = now(argument.offset) + address
            self._note(words, at, argument.offset, address)
        else:
            words[at] = signed(now(argument))
            self._note(words, at, argument)

    def _arrange(self) -> None:
        """Lay out what is repeated, as often as it is now, and what is planned for every size."""
        code = jit.compile_many([launch.kernel for anew in self._anew for launch in anew.step.launches], self.target)
        for segment in self._segments:
            if isinstance(segment, Segment) and (segment.turns or segment.anew):
                for turns in segment.turns:
                    turns.arrange(segment.once)
                for anew in segment.anew:
                    anew.arrange(segment.once, code, self._fixed, self.offsets, self._arrays)
                segment.arrange()
        self._binding.arrange([use for part in (*self._turns, *self._anew) for use in part.uses()])
        self._space = 0

    def _note(self, array: np.ndarray, at: int, number: int, more: int = 0) -> None:
        """Remember that array[at] is `number` + `more` and must follow, if sizes are named."""
        if type(number) is Dim and self._sized is not None:
            self._sized.note(array, at, number, more)

    def resize(self) -> None:
        """Follow the named sizes, which have other values now. Raises OtherSize if this is no program for them."""
        sized = self._sized
        assert sized is not None
        with self._lock:
            if not sized.reaches_beyond(self._words, self._binding.uses):
                sized.follow()
                self._binding.known[:] = 0  # all addresses are written anew
                return
            temps, most = self._plan_again()
            sized.follow()
            if sized.outgrown() or temps or most > self.scratch_bytes:
                sizes, scratch = sized.roomy()
                self._lay_out(self._sizes | sizes | temps, max(scratch, most, self.scratch_bytes))
                self._move()
            if self._turns or self._anew:
                self._threads = 0
                self._arrange()
                return
            self._binding.known[:] = 0
            if self._inner_follow:
                self._space = 0

    def _plan_again(self) -> tuple[dict[int, int], int]:
        """Plan what follows from sizes by no formula. Returns temporaries that outgrew theirs, and the most scratch."""
        steps = [anew.step for anew in self._anew]
        try:
            plans = [step.plan() for step in steps]
        except ValueError:  # a layout that it does not take
            raise OtherSize from None
        if not all(step.fits(made) for step, made in zip(steps, plans)):
            raise OtherSize
        temps: dict[int, int] = {}
        for step, made in zip(steps, plans):
            step.take(made)
            temps |= {i: nbytes * 3 // 2 for i, nbytes in step.temps.items() if nbytes > self._sizes[i]}
        return temps, max((launch.scratch for step in steps for launch in step.launches), default=0)

    def _overlaps(self, value: int) -> Sequence[int]:
        """Return the other values whose arena memory `value` shares, at other times."""
        found = self._overlap.get(value)
        if found is None:
            ids, begins, ends = self._arena
            begin, end = self._spots.get(value, (0, 0))
            hit = (begins < end) & (ends > begin)
            found = tuple(other for other in ids[hit].tolist() if other != value)
            self._overlap[value] = found
        return found

    def _place(self, count: int) -> None:
        """Divide the work over `count` threads."""
        self._spots = {value: (at, at + self._sizes[value]) for value, at in self.offsets.items()}
        self._spots |= {value: (self.block[i], self.block[i] + n) for value, (i, n, _) in self._gradients.items()}
        begins, ends = np.array([*self._spots.values()], np.int64).reshape(-1, 2).T
        self._arena = np.array([*self._spots], np.int64), begins, ends
        self._overlap: dict[int, Sequence[int]] = {}
        for segment in self._segments:
            if isinstance(segment, Segment):
                segment.place(count, self._overlaps)
        del self._arena, self._spots, self._overlap
        self._threads = count
        self._need = max(64, self.arena_bytes + self.scratch_bytes * count)
        self._space = 0

    def placed(self) -> Iterator[tuple[int, Launch, int, int]]:
        """Yield (number of its phase, launch, first thread, number of threads) of every launch, as it ran last."""
        done = 0
        for segment in self._segments:
            if isinstance(segment, Segment):
                for phase, *placed in segment.placed():
                    yield done + phase, *placed
                done += len(segment.phases)

    def _settle(self, space: _Workspace, block: int) -> None:
        """Point the words into a workspace and the block of gradients."""
        space.grow(self._need)

        def addresses(places: np.ndarray) -> np.ndarray:
            return places + np.where(places < self.block_bytes, block, space.address - self.block_bytes)
        self._words[self._inner] = addresses(self._inner_places) + self._inner_offsets
        for part in (*self._turns, *self._anew):
            part.settle(addresses(np.array([self.offsets[value] for value in part.values], np.int64)))
        for segment in self._segments:
            if isinstance(segment, Segment):
                segment.job[2:4] = space.address + self.arena_bytes, self.scratch_bytes
        self._space, self._base = space.address, block

    def _find_block(self) -> int:
        """Return the address of the block of gradients. If they do not lie in one, there is none from now on."""
        starts = self._binding.known[self._block_at] - self._block_offsets
        if (starts == starts[0]).all():
            return int(starts[0])
        self._gradients = {}
        self._lay_out(self._sizes, self.scratch_bytes)
        self._move()
        self._space = 0
        return 0

    # Running.

    def allocate(self) -> list[np.ndarray | None]:
        """Return fresh arrays for the outputs; None where an output replaces an input or is a known value."""
        buffers = self.lowered.buffers
        found = self.provide({i: (now(buffers[value].shape), buffers[value].dtype.np)
                              for value, i in self._results.items()})
        return [found.get(i) for i in range(len(self.lowered.outputs))]

    def provide(self, makes: dict[int, tuple[tuple[int, ...], np.dtype]]) -> dict[int, np.ndarray]:
        """Return fresh arrays of these shapes and dtypes for outputs. Gradients all together lie in a block."""
        places = self.block if self.block.keys() <= makes.keys() else {}
        block = memory.empty_aligned((self.block_bytes,), np.dtype(np.uint8)) if places else None
        return {i: np.ndarray(*make, block, places[i]) if i in places else memory.empty_aligned(*make)  # type: ignore
                for i, make in makes.items()}

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
        return first.runs if isinstance(first, Segment) else self._hosted

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
        block = self._find_block() if self.block else 0
        if threads.pool.count != self._threads or not self._threads:
            self._place(threads.get_num_threads())
        try:
            space = _idle.pop()
        except IndexError:
            space = _Workspace()
        try:
            if space.address != self._space or block != self._base or space.nbytes < self._need:
                self._settle(space, block)
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
            done = segment.runs if isinstance(segment, Segment) else 0
            while True:
                try:
                    self._step(segment, space, inputs, outputs, profile)
                    break
                except Exception:
                    raise
                except BaseException as e:
                    ran = isinstance(segment, Segment) and segment.runs != done
                    if not k and not ran:
                        raise
                    late = e
                    if ran:
                        break
            if not k and not isinstance(segment, Segment):
                self._hosted += 1
        if late is not None:
            raise late

    def _step(self, segment: Segment | tuple[int, HostStep], space: _Workspace, inputs: Arrays, outputs: Arrays,
              profile: list[Timing] | None) -> None:
        if not isinstance(segment, Segment):
            index, step = segment
            begin = time.perf_counter_ns()
            self._call(step, space, inputs, outputs)
            if profile is not None:
                profile.append(Timing(index, step.label, 0, begin, time.perf_counter_ns()))
        elif profile is None:
            threads.pool.run(segment.address, segment.parallel)
        else:
            self._timed(segment, profile)

    def _timed(self, segment: Segment, profile: list[Timing]) -> None:
        count = len(segment.order)
        times = np.zeros(count * self._threads * 2, np.int64)
        segment.job[4] = times.ctypes.data
        try:
            threads.pool.run(segment.address, segment.parallel)
        finally:
            segment.job[4] = 0
        rows = times.reshape(count, -1, 2).tolist()
        for turn, (which, row) in enumerate(zip(segment.order.tolist(), rows, strict=True)):
            index, launch = segment.launches[which]
            profile += [Timing(index, launch.label, part, begin, end, turn)
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
        return np.ndarray(buffer.shape, buffer.dtype.np, space.array, self.offsets[value] - self.block_bytes)

    def _complain(self) -> None:
        """Raise the first failed check, and forget all."""
        codes = self._checks.tolist()
        self._checks[:] = 0
        for code, (_, size) in zip(codes, self.lowered.checks, strict=True):
            if code:
                raise failed(code, now(size))


_alive: weakref.WeakSet[Executable] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    _idle.clear()
    for executable in _alive:
        if executable._owner != threading.get_ident():  # a thread that the child does not have
            executable._lock = threading.RLock()
            executable._owner = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
