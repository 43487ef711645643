"""Programs seen before: one executable per structure, and the choice of how a program runs.

The choice depends on the program and on how often it was seen, never on a clock, and never changes a bit: the
interpreter is used only for small programs of primitives to which IEEE arithmetic gives one right answer.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from typing import Any, Protocol

import numpy as np

from fanal.core.backends.cpu.memory import empty_aligned
from fanal.core.base import knobs
from fanal.core.base.dim import Dims, now, varies
from fanal.core.compiler.steps import OtherSize
from fanal.core.engine.ledger import ledger
from fanal.core.ir.interp import interpret
from fanal.core.ir.program import Program

MAX_PLANS = 64
MAX_SEEN = 256  # small programs remembered as seen once
SMALL = 1 << 16  # elements computed by a program that may be interpreted the first time
_plans: OrderedDict[Any, Runnable] = OrderedDict()
_seen: dict[int, None] = {}


Like = Callable[[], tuple[Program, Dims] | None]


class Runnable:
    """A program ready to run."""

    def new(self, i: int) -> np.ndarray | None:
        """Return memory for output i; None where it has none of its own."""
        return None

    def provide(self, outputs: list[Any], which: Iterable[int]) -> None:
        """Give outputs memory, where they have some of their own. Gradients that all need it lie in one block."""

    def begin(self, inputs: list[np.ndarray], outputs: list[Any] | None = None) -> Run:
        """Prepare a run that writes into `outputs` where given."""
        raise NotImplementedError

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Return the outputs; those that replace an input are that input's array."""
        run = self.begin(inputs)
        run.complete(False)
        return run.results


class Run(Protocol):
    """One run of a program. Those of `results` that replace an input are that input's array."""

    results: list[np.ndarray]
    handed_on: bool  # whether the history that it leaves was taken over, which is done once

    def complete(self, again: bool) -> None:
        """Run. `again`: an interrupt ended a former call, and it is not known what was done."""


class Interpreted(Runnable):
    """A program run node by node in NumPy; it makes its own results."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def begin(self, inputs: list[np.ndarray], outputs: list[Any] | None = None) -> Run:
        return _InterpretedRun(self.program, inputs)


class _InterpretedRun:
    handed_on = False

    def __init__(self, program: Program, inputs: list[np.ndarray]) -> None:
        self.program, self.inputs = program, inputs
        self.results: list[np.ndarray] = []

    def complete(self, again: bool) -> None:
        if not self.results:
            begin = time.perf_counter_ns()
            self.results = interpret(self.program, self.inputs)
            if ledger.observer is not None:
                from fanal.core.backends.cpu.run import Timing

                ledger.observer(None, [Timing(0, "in NumPy, for the first time", 0, begin, time.perf_counter_ns())])
        for i, j in self.program.writes.items():
            if self.results[i] is not self.inputs[j]:
                np.copyto(self.inputs[j], self.results[i])
                self.results[i] = self.inputs[j]


class Compiled(Runnable):
    """A program run as kernels. When the ledger profiles, a few runs are timed kernel by kernel."""

    def __init__(self, program: Program, dims: Dims | None = None, like: Like | None = None) -> None:
        """`dims`: the sizes that may be others in a later run, see `resize`. like: see `executable`."""
        begin = time.perf_counter()
        self.exe = _compiled(program, dims, like)
        self.exe.forget_sources()
        # In the shape of the program's value: the compiler may store it as what that is a reshape of.
        self.makes = [
            None if a is None else (now(o.shape), o.dtype.np)
            for a, o in zip(self.exe.allocate(), program.outputs)
        ]
        self._sized = [
            (i, o.shape, o.dtype.np)
            for i, o in enumerate(program.outputs)
            if varies(o.shape) and self.makes[i] is not None
        ]
        ledger.compile_seconds += time.perf_counter() - begin
        self.runs = 0
        self.profiles: list[list[Any]] = []
        ledger.executables.append(self)

    def resize(self) -> None:
        """Follow the named sizes, which have other values now."""
        self.exe.resize()
        for i, shape, kind in self._sized:
            self.makes[i] = now(shape), kind

    def new(self, i: int) -> np.ndarray | None:
        """Return memory for output i; None where it has none of its own."""
        make = self.makes[i]
        if make is None:
            return None
        shape, kind = make
        return np.empty(shape, kind) if not shape else empty_aligned(shape, kind)

    def provide(self, outputs: list[Any], which: Iterable[int]) -> None:
        """Give outputs memory, where they have some of their own. Gradients that all need it lie in one block."""
        makes = {i: make for i in which if (make := self.makes[i]) is not None}
        for i, a in self.exe.provide(makes).items():
            outputs[i] = a

    def begin(self, inputs: list[np.ndarray], outputs: list[Any] | None = None) -> Run:
        """Prepare a run that writes into `outputs` where given."""
        if outputs is None:
            outputs = [None] * len(self.makes)
            self.provide(outputs, range(len(outputs)))
        return _CompiledRun(self, inputs, self.exe.standing(inputs, outputs))

    def again(self, inputs: list[np.ndarray], outputs: list[Any]) -> None:
        """Run on arrays of the right make, one for every output."""
        self.runs += 1
        keep = ledger.profiling and self.runs in (2, 4, 8, 16, 32)
        if not keep and ledger.observer is None:
            self.exe.again(inputs, outputs)
            return
        timings: list[Any] = []
        self.exe.again(inputs, outputs, timings)
        if keep:
            self.profiles.append(timings)
        if ledger.observer is not None:
            ledger.observer(self.exe.lowered.steps, timings)


def _compiled(program: Program, dims: Dims | None, like: Like | None) -> Any:
    """Return kernels and memory for a program."""
    # The backend loader: one of the two late imports of the house.
    from fanal.core.backends.cpu.backend import default, ready
    from fanal.core.backends.cpu.run import Executable
    from fanal.core.compiler.pipeline import lower

    sparing = like is not None
    with dims or nullcontext():
        lowered = lower(program, default(sparing))
        if like is None or ready(lowered):
            return Executable(lowered, None, dims)
        other = lower(program, default(sparing, as_many=True))
    if ready(other):
        return Executable(other, None, dims)
    found = like() if dims is None else None
    if found is not None:
        form, rows = found
        with rows:
            other = lower(form, default(sparing))
        rows.set([1])
        if ready(other) and rows.hold_or_meet():
            exe = Executable(other, None, rows)
            with suppress(OtherSize):
                exe.resize()
                return exe
    return Executable(lowered, None, dims)


class _CompiledRun:
    handed_on = False

    def __init__(self, program: Compiled, inputs: list[np.ndarray], results: list[np.ndarray]) -> None:
        self.program, self.inputs, self.results = program, inputs, results
        self.begun = program.exe.begun

    def complete(self, again: bool) -> None:
        if not again or self.program.exe.begun == self.begun:
            self.program.again(self.inputs, self.results)


def kinds(params: tuple) -> tuple:
    """Return what keeps parameters apart that compare equal: types 1, 1.0 and True, texts 0.0 and -0.0."""
    return tuple([type(p) if type(p) is not float or p else repr(p) for p in params])


def structure(program: Program) -> Any:
    """Return a key equal for programs that run the same way, or None when a parameter cannot be compared."""
    place: dict[int, int] = {}
    key: list[Any] = []
    for n in program.inputs:
        place[id(n)] = len(place)
        key.append((n.shape, n.dtype))
    for n in program.nodes:
        if n.buffer is not None:
            return None
        try:
            key.append(
                (
                    n.row,
                    tuple([place[id(i)] for i in n.inputs]),
                    n.params,
                    kinds(n.params),
                    n.dtype,
                    n.shape,
                )
            )
        except KeyError:
            return None
        place[id(n)] = len(place)
    key.append(tuple([place[id(o)] for o in program.outputs]))
    key.append(tuple(program.writes.items()))
    key.append(program.gradients)
    whole = tuple(key)
    try:
        hash(whole)
    except TypeError:
        return None
    return (len(program.inputs), whole)


def executable(program: Program, dims: Dims | None = None, like: Like | None = None) -> Runnable:
    """Return something that runs `program`, from the cache when its structure was seen before.

    What has sizes that may change (`dims`) is its owner's alone. like: it may come only once, and is made of kernels
    that are there, if it can; where it is of a single row, this gives it in the form of a program of several (`sizes`).
    """
    if not knobs.compile:
        ledger.plans += 1
        return Interpreted(program)
    if dims is not None:
        ledger.plans += 1
        return Compiled(program, dims, like)
    key = structure(program)
    if key is not None:
        known = _plans.get(key)
        if known is not None:
            _plans.move_to_end(key)
            return known
        if _exact_and_small(program) and hash(key) not in _seen:
            _seen[hash(key)] = None
            if len(_seen) > MAX_SEEN:
                del _seen[next(iter(_seen))]
            return Interpreted(program)
    ledger.plans += 1
    exe = Compiled(program, like=like)
    if key is not None:
        _plans[key] = exe
        if len(_plans) > MAX_PLANS:
            _plans.popitem(last=False)
    return exe


def _exact_and_small(program: Program) -> bool:
    total = 0
    for n in program.nodes:
        if not n.row.exact:
            return False
        total += n.size
    return total <= SMALL


def run_program(program: Program, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Compute the outputs of a program once."""
    return executable(program).run(inputs)
