"""Recurrences as launches: the body is compiled once, and its launches are repeated with addresses that move on."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from fanal.core.compiler.graph import Value
from fanal.core.compiler.steps import HostStep, Lowered, Repeat
from fanal.core.compiler.tail import Operand
from fanal.core.ir.prims import Track


class Moving(NamedTuple):
    """Where a value of the body lies: an id, the offset at place 0 and how far apart places are, in bytes."""

    id: int
    offset: int = 0
    step: int = 0


def native(lowered: Lowered) -> bool:
    """Tell whether a body is made of single launches only, which take addresses."""
    return not lowered.checks and not any(isinstance(s, (HostStep, Repeat)) for s in lowered.steps)


def starts(v: Value, operands: list[Operand]) -> Iterator[tuple[Operand, int]]:
    """Yield what every state begins with, and the place for it in the value of a recurrence."""
    track = _track(v)
    for k in range(len(track.states)):
        yield operands[k], track.extent("first", k)[0]


def turns(v: Value, operands: list[Operand], lowered: Lowered, fresh: Callable[[int], int]) -> Iterator[Any]:
    """Yield the launches of a recurrence: those that depend on nothing that changes, and the others repeated.

    `lowered` is the body; fresh(id) gives a buffer or known value of it an id in the program.
    """
    body, track = v.params[0], _track(v)
    n, m = len(body.states), len(body.steps)
    size = v.dtype.itemsize
    at: dict[int, Moving] = {}

    def inside(kind: str, k: int) -> Moving:
        start, _, _ = track.extent(kind, k)
        states = track.results if kind == "result" else track.states
        return Moving(v.id, start * size, math.prod(states[k][1]) * size)

    for k, (i, o) in enumerate(zip(lowered.inputs, operands, strict=True)):
        if k < n:
            at[i] = inside("before", k)
        else:
            bytes_apart = body.steps[k - n].nbytes if k < n + m else 0
            at[i] = Moving(o.value.id, o.offset * o.value.dtype.itemsize, bytes_apart)
    for k, i in enumerate(lowered.outputs):
        at[i] = inside("after", k) if k < n else inside("result", k - n)
    still = set(lowered.inputs[n + m:]) | lowered.known.keys()
    for i in (*lowered.buffers, *lowered.known):
        if i not in at:
            at[i] = Moving(fresh(i))
    changing = {w for s in lowered.steps for w in s.writes if w in lowered.outputs}
    once: list[Any] = []
    while True:  # a buffer changes if anything that changes is written to it
        more = {w for s in lowered.steps for w in s.writes
                if any(r in changing or (r in lowered.inputs and r not in still) for r in s.reads)} - changing
        if not more:
            break
        changing |= more
    every: list[Any] = []
    for s in lowered.steps:
        (every if changing & {*s.writes} else once).append(s)

    where = [v.where] if v.where is not None else []

    def moving(s: Any) -> Any:
        args = []
        for a in s.args:
            if not isinstance(a, int):
                to = at[a.value_id]
                a = a._replace(value_id=to.id, offset=to.offset + a.offset, step=to.step)
            args.append(a)
        return replace(s, args=args, reads=tuple({at[r].id for r in s.reads}),
                       writes=tuple({at[w].id for w in s.writes}), where=where)

    yield from map(moving, once)
    yield Repeat([moving(s) for s in every], track.count, track.reverse, where)


def _track(v: Value) -> Track:
    body, reverse = v.params
    return Track(body, reverse, v.inputs[len(body.states)].shape[0])
