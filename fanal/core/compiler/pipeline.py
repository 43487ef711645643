"""The ordered list of stages from a program to steps: simplify, fuse, order, emit."""
from __future__ import annotations

import heapq
from typing import Any

import numpy as np

from fanal.core.compiler.build import Builder, Unmappable
from fanal.core.compiler.fuse import SAME, Group, fuse, scan
from fanal.core.compiler.graph import Graph, Value, base
from fanal.core.compiler.loopir import Access, Loop, Op, collapse
from fanal.core.compiler.simplify import simplify
from fanal.core.compiler.tail import TailBuilder, operand
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
        outputs, replaced, first, copies = self._outputs(inputs, groups)
        self._number(graph.values, replaced)
        self._copy_all(first)
        order = _order(groups, replaced, self.overwrites.readers)
        position = {id(v): k for k, v in enumerate(graph.values)}
        again: set[int] = set()
        for g in order:
            try:
                self._emit(g)
            except Unmappable as e:
                again.add(position[id(e.value)])
        if again:
            return again
        self._copy_all(copies)
        return Lowered(self.steps, inputs, outputs, self.buffers, self.known, self.checks)

    def _number_inputs(self) -> list[int]:
        graph = self.graph
        for v in graph.given:
            if v.id < 0:
                v.id = graph.number()
        return [v.id for v in graph.given]

    def _outputs(self, inputs: list[int], groups: list[Group],
                 ) -> tuple[list[int], dict[Value, Value], list, list]:
        """Decide where outputs live.

        Returns ids, value -> the input it is computed into, and copies to make first and last.
        """
        graph = self.graph
        outputs: list[int] = []
        taken: set[Value] = set()
        replaced: dict[Value, Value] = {}
        first: list[tuple[Value, int]] = []
        copies: list[tuple[Value, int]] = []
        overwrites = self.overwrites = _Overwrites(groups)
        overwritten = {graph.given[j] for j in graph.writes.values()}
        for k, v in enumerate(graph.outputs):
            j = graph.writes.get(k)
            source = base(v)
            if j is not None:
                into = graph.given[j]
                if source is into and v.shape == into.shape:
                    pass
                elif source.group is not None and source not in taken and source.dtype is into.dtype \
                        and source.size == into.size and overwrites.allow(source, into):
                    replaced[source] = into
                    taken.add(source)
                else:
                    copies.append((v, into.id))
                outputs.append(into.id)
                continue
            if (source.group is not None or source.role == "empty") and source not in taken:
                taken.add(source)
                outputs.append(-1 - k)  # numbered below
            else:
                fresh = graph.number()
                self.buffers[fresh] = Buffer(v.size * v.dtype.itemsize, v.shape, v.dtype)
                (first if source in overwritten else copies).append((v, fresh))  # before its contents change
                outputs.append(fresh)
        for k, o in enumerate(outputs):
            if o < 0:
                source = base(graph.outputs[-1 - o])
                if source.id < 0:
                    source.id = graph.number()
                outputs[k] = source.id
        return outputs, replaced, first, copies

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
        if g.kind == "contract":
            self._contract(g)
            return
        for v in g.roots:
            self._host(v)

    def _contract(self, g: Group) -> None:
        """Emit a contraction with its pointwise tail."""
        v = g.roots[0]
        builder = TailBuilder(v)
        tail = builder.tail
        for r in g.roots:
            if r is not v:
                builder.add(r)
            if r.output or r.outside:
                tail.stores.append((builder.place[r], r))
        operands = [operand(i) for i in v.inputs]
        try:
            found = self.backend.contract(v, operands, tail)
        except ValueError:  # a layout it does not take
            for i, o in zip(v.inputs, operands):
                if base(i) is not o.value:
                    raise Unmappable(i) from None
            if len(g.roots) > 1:
                raise Unmappable(v) from None
            self._host(v)
            return
        self._launch(found)

    def _host(self, v: Value) -> None:
        self.steps.append(HostStep(_bound(v), tuple(base(i).id for i in v.inputs), tuple(i.shape for i in v.inputs),
                                   v.id, v.name, [v.where] if v.where else []))

    def _copy_all(self, copies: list[tuple[Value, int]]) -> None:
        """Copy values to other buffers. What a copy overwrites must not be read by a later one."""
        targets = {dst for _, dst in copies}
        if any(base(v).id in targets for v, _ in copies):  # inputs that trade places: by way of buffers
            waiting = []
            for v, dst in copies:
                fresh = self.graph.number()
                self.buffers[fresh] = Buffer(v.size * v.dtype.itemsize, v.shape, v.dtype)
                self._copy(v, base(v).id, fresh)
                waiting.append((v, fresh, dst))
        else:
            waiting = [(v, base(v).id, dst) for v, dst in copies]
        for v, source, dst in waiting:
            self._copy(v, source, dst)

    def _copy(self, v: Value, source: int, to: int) -> None:
        where = [v.where] if v.where else []
        if not self.backend.stores(v.dtype):
            self.steps.append(HostStep(lambda x: x, (source,), (v.shape,), to, "copy", where))
        elif v.size:
            access = (v.dtype, 0, (1,))
            loop = Loop("rows", [v.size], [], [], [Op("load", (), 0, v.dtype)], [Access(source, *access)],
                        [(0, Access(to, *access))], "copy", where)
            collapse(loop)
            self._launch(self.backend.loop(loop))

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


class _Overwrites:
    """Decides which outputs may be computed into the inputs they replace."""

    def __init__(self, groups: list[Group]) -> None:
        self.groups = groups
        self.readers: dict[Value, list[Group]] = {}
        for g in groups:
            for v in g.reads:
                if v.row is None:
                    self.readers.setdefault(v, []).append(g)

    def allow(self, v: Value, into: Value) -> bool:
        """Tell whether every other reader of `into` can run before `v` is computed there, and make that an order."""
        own = v.group
        if own.kind not in ("loop", "row", "reduce"):
            return False
        bit = 1 << own.number
        before = own.before
        for g in self.readers.get(into, ()):
            if g is own:
                if own.kind == "reduce" or any(r.role == "reduce" for r in own.roots):
                    return False  # several passes: a later one might read what an earlier one has stored
                for r in own.roots:
                    how = scan(r).get(into)
                    if how is not None and how != SAME:
                        return False
            elif g.before & bit:
                return False
            else:
                before |= g.before | 1 << g.number
        if before != own.before:
            own.before = before
            for h in self.groups:
                if h.before & bit:
                    h.before |= before
        return True


def _order(groups: list[Group], replaced: dict[Value, Value], readers: dict[Value, list[Group]]) -> list[Group]:
    """Return groups so that needs come first, and readers of an input before what overwrites it."""
    after: dict[int, set[int]] = {g.number: set() for g in groups}
    waits = dict.fromkeys(after, 0)
    number = {g.number: g for g in groups}

    def edge(a: Group, b: Group) -> None:
        if a is not b and b.number not in after[a.number]:
            after[a.number].add(b.number)
            waits[b.number] += 1
    for g in groups:
        for v in g.reads:
            if v.group is not None:
                edge(v.group, g)
    for v, into in replaced.items():
        for g in readers.get(into, ()):
            edge(g, v.group)
    ready = [(number[n].roots[0].position, n) for n, w in waits.items() if not w]
    heapq.heapify(ready)
    out: list[Group] = []
    while ready:
        _, n = heapq.heappop(ready)
        out.append(number[n])
        for k in after[n]:
            waits[k] -= 1
            if not waits[k]:
                heapq.heappush(ready, (number[k].roots[0].position, k))
    assert len(out) == len(groups), "a cycle between kernels"
    return out
