"""Values read in the midst of a segment that follow, by little work, from what is in memory already.

Which examples have this label, whether any row goes to that expert: Python asks such things between two calls of a
model. To run everything that is pending for the answer would cut the model in two at every question. So the answer is
computed aside, by a program of its own, and the segment goes on. What else needs the value computes it once more: the
bits are the same. See docs/decisions/asides.md.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fanal.core.base import knobs
from fanal.core.base.dim import Dim, now
from fanal.core.base.state import state
from fanal.core.engine import record
from fanal.core.engine.cache import Interpreted, Runnable, executable, run_program
from fanal.core.engine.failure import FAILURES, closed
from fanal.core.engine.handle import Handle
from fanal.core.engine.record import PATIENCE, place_key, session
from fanal.core.ir.prims import input_, philox
from fanal.core.ir.program import Node, Program, toposort

if TYPE_CHECKING:
    from fanal.core.engine.draft import Draft
    from fanal.core.engine.path import Path

MOST_VALUES = 16  # between what is in memory and what is read
MOST_BYTES = 1 << 20  # of these values, and of what they are computed from
_LITTLE = frozenset(("source", "point", "view", "join", "reduce", "scan", "index", "tape"))  # kinds of primitives


def read(t: Handle) -> np.ndarray | None:
    """Return the pending value of a tensor's storage if it is to be computed aside; None if all pending is to run."""
    s = session
    if s.depth or s.levels or s.vmapped or s.waiting or s.driving or s.loading or state.levels \
            or not (knobs.follow and knobs.compile):
        return None
    if s.path is not None:
        path = s.path
        found = next((a for a in path.asides.get(record.followed(), ()) if path.outs[a.out] is t), None)
        return None if found is None else found.value(path)
    out = s.index.get(id(t))
    n = t._storage.node
    if out is None or not (_is_little(n) and _history_is_pending() and _comes_again()):
        return None
    try:
        program, given = closed([n])
        (found,) = run_program(_as_now(program), given)
    except FAILURES:  # the flush finds out which call is to blame
        return None
    note(t)
    return found


def note(t: Handle) -> None:
    """Note that what a result of the recorded segment holds now is computed aside when it is read here."""
    session.asides.append((len(session.events), session.index[id(t)], t._storage.node))


def _is_little(root: Node) -> bool:
    """Tell whether a pending value follows by little work from what is in memory, without history."""
    waiting, seen, count, size = [root], set(), 0, 0
    while waiting:
        n = waiting.pop()
        if id(n) in seen:
            continue
        seen.add(id(n))
        size += n.nbytes
        if n.buffer is None:
            count += 1
            if n.needs_grad or n.row.kind not in _LITTLE or n.row is philox:
                return False
            waiting += n.inputs
        if count > MOST_VALUES or size > MOST_BYTES:
            return False
    return True


def _history_is_pending() -> bool:
    """Tell whether something is pending that gradients may flow through."""
    return any(st is not None and st.node.buffer is None and st.node.needs_grad and not st.node.freed
               for st in (r() for r in session.touched.values()))


def _comes_again() -> bool:
    """Tell whether segments that begin where the present one does are known. Others are best cut at every read."""
    place = session.places.get(place_key(session.events[0].where))
    return place is None or place.recorded <= PATIENCE


def _as_now(program: Program) -> Program:
    """Return a program of plain sizes, as they are now."""
    made = {id(n): input_(now(n.shape), n.dtype) for n in program.inputs}
    inputs = list(made.values())
    for n in program.nodes:
        made[id(n)] = Node(n.row, tuple([made[id(i)] for i in n.inputs]), now(n.params), now(n.shape), n.dtype)
        made[id(n)].where = n.where
    return Program(inputs, [made[id(n)] for n in program.nodes], [made[id(n)] for n in program.outputs])


class Aside:
    """A value of a known segment that is computed aside when it is read after a certain number of events."""

    __slots__ = ("dims", "exe", "given", "out", "program", "shapes", "sizes")

    def __init__(self, out: int, program: Program, given: list[tuple[str, Any]]) -> None:
        self.out = out
        self.program = program
        self.given = given  # where its inputs come from, as `Draft.sources` says it
        self.dims = [d for n in (*program.inputs, *program.nodes) for d in _dims_in((n.shape, n.params))]
        self.exe: Runnable | None = None
        self.sizes: list[int] = []  # for which `exe` was made
        self.shapes: list[tuple] = []  # of what it is given then

    def value(self, path: Path) -> np.ndarray | None:
        """Return the value in the present run; None if that is not to be had this way."""
        arrays = []
        for kind, x in self.given:
            a = _present(path, x) if kind == "group" else path.scalars[x][1] if kind == "scalar" else x
            if a is None:
                return None
            arrays.append(a)
        if self.dims and any(d.dims.late and d.dims.names_in(d.form) & d.dims.late for d in self.dims):
            return None  # where something is cut out is known when the segment ends
        sizes = [d.now() for d in self.dims]
        if self.exe is None or type(self.exe) is Interpreted or sizes != self.sizes:  # it is seen again
            program = _as_now(self.program)
            self.exe, self.sizes, self.shapes = executable(program), sizes, [n.shape for n in program.inputs]
        if [a.shape for a in arrays] != self.shapes:
            return None
        try:
            return self.exe.run(arrays)[0]
        except FAILURES:
            return None


def _dims_in(x: Any) -> list[Dim]:
    return [x] if type(x) is Dim else [d for i in x for d in _dims_in(i)] if type(x) is tuple else []


def _present(path: Path, group: int) -> np.ndarray | None:
    """Return what a storage from outside holds that has come in this run."""
    for slot in path.slots:
        if slot.group == group:
            t = slot.uses[0][0].held if path.steady is not None and slot.uses else None
            t = slot.tensor if t is None else t  # the matcher may have taken over another
            if t is not None:
                return t._storage.node.buffer
    return path.groups[group].storage.node.buffer


def asides_of(draft: Draft, noted: list[tuple[int, int, Node]]) -> dict[int, list[Aside]]:
    """Return what was computed aside while a segment was recorded, by the number of events before."""
    found: dict[int, list[Aside]] = {}
    sources = {id(n): source for n, source in zip(draft.inputs, draft.sources)}
    for at, out, original in noted:
        n = draft.copies[id(original)]
        nodes = toposort([n])
        inputs = list({id(i): i for m in nodes for i in m.inputs if id(i) in sources}.values())
        given = [sources[id(i)] for i in inputs]
        nodes = [m for m in nodes if id(m) not in sources]
        if nodes and all(kind in ("group", "constant") or (kind == "scalar" and draft.scalars[x][2] is None)
                         for kind, x in given):
            found.setdefault(at, []).append(Aside(out, Program(inputs, nodes, [n]), given))
    return found
