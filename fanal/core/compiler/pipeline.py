"""The ordered list of stages from a program to steps: simplify, fuse, order, emit."""
from __future__ import annotations

import heapq
from typing import Any

import numpy as np

from fanal.core.compiler.build import Builder, Unmappable
from fanal.core.compiler.fuse import SAME, Group, base, fuse, scan
from fanal.core.compiler.graph import Graph, Value
from fanal.core.compiler.simplify import simplify
from fanal.core.compiler.steps import Buffer, HostStep, Lowered
from fanal.core.ir.program import Program

STAGES = ("simplify", "fuse", "order", "emit")


def lower(program: Program, backend: Any = None) -> Lowered:
    """Return the steps that compute a program.

    `backend` says what kernels can do and turns loops into launches; None is this machine's CPU.
    """
    if backend is None:
        from fanal.core.backends.cpu.backend import default  # the backend loader: the one import that goes up
        backend = default()
    forced: set[int] = set()
    while True:
        graph = simplify(program)
        found = _Lowering(graph, backend, forced).run()
        if isinstance(found, Lowered):
            return found
        forced |= found


class _Lowering:
    def __init__(self, graph: Graph, backend: Any, forced: set[int]) -> None:
        self.graph, self.backend = graph, backend
        self.forced = {id(graph.values[k]) for k in forced}
        self.known: dict[int, np.ndarray] = {}
        self.buffers: dict[int, Buffer] = {}
        self.steps: list[Any] = []
        self.checks: list[tuple[int, str]] = []
        self.checked: set[tuple[int, int]] = set()

    def run(self) -> Lowered | set[int]:
        """Return the steps, or the positions of values that must get a buffer first."""
        graph = self.graph
        inputs = self._number_inputs()
        for v in graph.outputs:
            v.output = v.row is not None
        groups = fuse(graph, self.backend, self.forced)
        outputs, replaced, copies = self._outputs(inputs, groups)
        self._number(graph.values, replaced)
        order = _order(groups, replaced)
        position = {id(v): k for k, v in enumerate(graph.values)}
        again: set[int] = set()
        for g in order:
            try:
                self._emit(g)
            except Unmappable as e:
                again.add(position[id(e.value)])
        if again:
            return again
        for source, dst in copies:
            self.steps.append(_copy(source, base(source).id, dst))
        return Lowered(self.steps, inputs, outputs, self.buffers, self.known, self.checks)

    def _number_inputs(self) -> list[int]:
        graph = self.graph
        for v in graph.given:
            if v.id < 0:
                v.id = graph.number()
        return [v.id for v in graph.given]

    def _outputs(self, inputs: list[int], groups: list[Group]) -> tuple[list[int], dict[Value, Value], list]:
        """Decide where outputs live. Returns ids, value -> the input it is computed into, and copies to make last."""
        graph = self.graph
        outputs: list[int] = []
        taken: set[Value] = set()
        replaced: dict[Value, Value] = {}
        copies: list[tuple[Value, int]] = []
        owners = {id(b) for b in ()}
        del owners
        overwritten = {graph.given[j] for j in graph.writes.values()}
        for k, v in enumerate(graph.outputs):
            j = graph.writes.get(k)
            source = base(v)
            if j is not None:
                into = graph.given[j]
                if source is into and v.shape == into.shape:
                    pass
                elif source.group is not None and source not in taken and source.dtype is into.dtype \
                        and source.size == into.size and _may_replace(source, into, groups):
                    replaced[source] = into
                    taken.add(source)
                else:
                    copies.append((v, into.id))
                outputs.append(into.id)
                continue
            if source.group is not None and source not in taken and not (source in replaced):
                taken.add(source)
                outputs.append(-1 - k)  # numbered below
            else:
                fresh = graph.number()
                self.buffers[fresh] = Buffer(v.size * v.dtype.itemsize, v.shape, v.dtype)
                if source in overwritten:  # what it shows is about to change: copy first
                    self.steps.append(_copy(v, source.id, fresh))
                else:
                    copies.append((v, fresh))
                outputs.append(fresh)
        for k, o in enumerate(outputs):
            if o < 0:
                source = base(graph.outputs[-1 - o])
                if source.id < 0:
                    source.id = graph.number()
                outputs[k] = source.id
        return outputs, replaced, copies

    def _number(self, values: list[Value], replaced: dict[Value, Value]) -> None:
        for v in values:
            if not v.root:
                continue
            if v in replaced:
                v.id = replaced[v].id
                continue
            if v.id < 0:
                v.id = self.graph.number()
            if v.known is not None:
                self.known[v.id] = v.known
            elif v.output or v.outside or v.role in ("host", "empty"):
                self.buffers[v.id] = Buffer(v.size * v.dtype.itemsize, v.shape, v.dtype)

    def _emit(self, g: Group) -> None:
        if g.kind in ("loop", "row", "reduce"):
            builder = Builder(g)
            loop = builder.loop()
            if loop.stores:
                self._launch(self.backend.loop(loop))
            return
        for v in g.roots:
            self.steps.append(HostStep(_bound(v), tuple(base(i).id for i in v.inputs), tuple(i.shape for i in v.inputs),
                                       v.id, v.name, [v.where] if v.where else []))

    def _launch(self, found: list[Any]) -> None:
        """Append launches, giving their temporaries ids."""
        ids: dict[int, int] = {}
        for item in found:
            if hasattr(item, "kernel"):
                if ids:
                    item.args = [a._replace(value_id=ids.get(a.value_id, a.value_id)) if isinstance(a, tuple) else a
                                 for a in item.args]
                    item.reads = tuple(ids.get(r, r) for r in item.reads)
                    item.writes = tuple(ids.get(w, w) for w in item.writes)
                if item.units > 0:
                    self.steps.append(item)
            else:
                ids[item.id] = fresh = self.graph.number()
                self.buffers[fresh] = Buffer(item.nbytes, (item.nbytes,), _byte())


def _byte() -> Any:
    from fanal.core.base.dtype import uint8
    return uint8


def _bound(v: Value) -> Any:
    ref, params = v.row.ref, v.params  # type: ignore[union-attr]
    return (lambda *arrays: ref(*arrays, *params)) if params else ref


def _copy(v: Value, source: int, to: int) -> HostStep:
    return HostStep(lambda x: x, (source,), (v.shape,), to, "copy", [v.where] if v.where else [])


def _may_replace(v: Value, into: Value, groups: list[Group]) -> bool:
    """Tell whether `v` may be computed into the buffer of input `into`: every other reader can run before."""
    own = v.group
    if own.kind not in ("loop", "row", "reduce"):
        return False
    for g in groups:
        if into not in g.reads:
            continue
        if g is own:
            if own.kind == "reduce" or (own.kind == "row" and any(r.role == "reduce" for r in own.roots)):
                return False  # several passes: a later one might read what an earlier one has stored
            for r in own.roots:
                how = scan(r, r.inputs[0] if r.role == "reduce" else None).get(into)
                if how is not None and how != SAME:
                    return False
        elif g.before >> own.number & 1:
            return False
    return into.size == v.size


def _order(groups: list[Group], replaced: dict[Value, Value]) -> list[Group]:
    """Return groups so that needs come first, and readers of an input before what overwrites it."""
    after: list[set[int]] = [set() for _ in groups]
    waits = [0] * len(groups)

    def edge(a: Group, b: Group) -> None:
        if b.number not in after[a.number]:
            after[a.number].add(b.number)
            waits[b.number] += 1
    for g in groups:
        for v in g.reads:
            if v.group is not None and v.group is not g:
                edge(v.group, g)
    for v, into in replaced.items():
        for g in groups:
            if into in g.reads and g is not v.group:
                edge(g, v.group)
    ready = [n for n, w in enumerate(waits) if not w]
    heapq.heapify(ready)
    out: list[Group] = []
    while ready:
        n = heapq.heappop(ready)
        out.append(groups[n])
        for k in after[n]:
            waits[k] -= 1
            if not waits[k]:
                heapq.heappush(ready, k)
    assert len(out) == len(groups), "a cycle between kernels"
    return out
