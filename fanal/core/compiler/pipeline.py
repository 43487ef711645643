"""The ordered list of stages from a program to steps: simplify, fuse, order, emit."""
from __future__ import annotations

import functools
import math
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np

from fanal.core.base.dim import fixed, now, varies
from fanal.core.base.dtype import int64, uint8
from fanal.core.compiler.again import compute_again
from fanal.core.compiler.bounds import in_range
from fanal.core.compiler.build import NOT_ZERO, Builder, Unmappable
from fanal.core.compiler.column_sums import begin_column_sums
from fanal.core.compiler.fuse import SAME, Group, choose_roots, fuse, note_readers, scan
from fanal.core.compiler.graph import Graph, Value, base
from fanal.core.compiler.loopir import Access, Loop, Op, collapse
from fanal.core.compiler.order import order
from fanal.core.compiler.pieces import PARTIAL, IndexCheck, changes_parts, pieces, place_parts
from fanal.core.compiler.recurrence import native, starts, turns
from fanal.core.compiler.simplify import simplify
from fanal.core.compiler.steps import Buffer, HostStep, Lowered, Planned, renumbered, settled
from fanal.core.compiler.tail import Operand, Tail, TailBuilder, operand
from fanal.core.ir.body import Body
from fanal.core.ir.program import Program
from fanal.core.ir.row import reference


def lower(program: Program, backend: Any, seen: dict[str, Any] | None = None, fixed: int = 0) -> Lowered:
    """Return the steps that compute a program.

    `backend` says what kernels can do and turns loops into launches. `seen` collects the result of every stage, by
    name. The last `fixed` inputs are the same for many runs.
    """
    kind = hash(tuple([n.row for n in program.nodes]))
    forced = _forced.get(kind, frozenset())
    while True:
        run = _Lowering(program, backend, forced, fixed)
        for stage in STAGES:
            result = getattr(run, stage)()
            if seen is not None:
                seen[stage] = result
        if not run.again:
            return run.lowered
        assert not run.again <= forced, "a value with a kernel of its own cannot be indexed"
        forced |= run.again  # views that no index can follow: give what is behind them a buffer, and start over
        _forced[kind] = forced
        if len(_forced) > MOST_FORCED:
            del _forced[next(iter(_forced))]


STAGES = ("simplify", "fuse", "order", "emit")

# Programs of the same operations in other sizes mostly need the same buffers: what was found at the second attempt is
# tried at the first. A buffer too many is no mistake: it changes no result.
_forced: dict[int, frozenset[int]] = {}
MOST_FORCED = 64


def show_stages(program: Program, backend: Any) -> dict[str, str]:
    """Return the result of every stage as text: values, kernels, their order, and what is launched."""
    seen: dict[str, Any] = {}
    lower(program, backend, seen)
    graph, groups, order, steps = (seen[s] for s in STAGES)

    def values(vs: list[Value]) -> str:
        return "\n".join(f"%{v.position} = {v!r} <- "
                         + ", ".join(f"%{i.position}" if i.row else f"given {i.id}" for i in v.inputs) for v in vs)

    def step(s: Any) -> str:
        return f"host {s.label}" if isinstance(s, HostStep) else f"{s.kernel.name} {s.label} units={s.units}"
    return {"simplify": values(graph.values),
            "fuse": "\n\n".join(f"{g.kind} {g.domain}\n{values(g.roots)}" for g in groups),
            "order": "\n".join(f"{g.kind}: {', '.join(map(repr, g.roots))}" for g in order),
            "emit": "\n".join(map(step, steps.steps))}


class _Lowering:
    """One attempt at lowering: the stages, and what they know of each other."""

    def __init__(self, program: Program, backend: Any, forced: frozenset[int], fixed: int) -> None:
        self.program, self.backend, self.forced, self.fixed = program, backend, forced, fixed
        self.known: dict[int, np.ndarray] = {}
        self.buffers: dict[int, Buffer] = {}
        self.steps: list[Any] = []
        self.checks: list[tuple[int, int]] = []
        self.checked: set[tuple[int, int]] = set()
        self.again: set[int] = set()  # positions of values that must get a buffer before this can work

    def simplify(self) -> Graph:
        """Make the graph."""
        self.graph = simplify(self.program)
        self.inputs = self._number_inputs()
        for v in self.graph.outputs:
            while v.name == "reshape":
                v = v.inputs[0]
            v.output = v.row is not None
        return self.graph

    def fuse(self) -> list[Group]:
        """Decide what is computed together."""
        values = self.graph.values
        choose_roots(self.graph, self.backend, {id(values[k]) for k in self.forced if k < len(values)})
        compute_again(self.graph)
        self.groups = fuse(self.graph)
        begin_column_sums(self.graph, self.groups, self.backend.as_many)
        note_readers(self.groups, values)
        place_parts(values)
        return self.groups

    def order(self) -> list[Group]:
        """Decide where outputs live and in which order groups run."""
        self.outputs, replaced, self.first, self.last = self._outputs(self.inputs, self.groups)
        self._number(self.graph.values, replaced)
        self.sequence = order(self.groups, replaced, self.overwrites.readers)
        return self.sequence

    def emit(self) -> Lowered:
        """Write the steps."""
        self._copy_all(self.first)
        for g in self.sequence:
            try:
                self._emit(g)
            except Unmappable as e:
                self.again.add(e.value.position)
        self._copy_all(self.last)
        self.lowered = Lowered(self.steps, self.inputs, self.outputs, self.buffers, self.known, self.checks,
                               self.program.gradients)
        return self.lowered

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
        first: list[tuple[Value, int, int]] = []
        copies: list[tuple[Value, int, int]] = []
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
                elif source in overwritten:  # inputs that trade places: by way of a buffer
                    fresh = self._buffer(v)
                    first.append((v, source.id, fresh))
                    copies.append((v, fresh, into.id))
                else:
                    copies.append((v, -1, into.id))
                outputs.append(into.id)
                continue
            if (source.group is not None or source.role == "empty") and source not in taken:
                taken.add(source)
                outputs.append(-1 - k)  # numbered below
            else:
                fresh = self._buffer(v)
                (first if source in overwritten else copies).append((v, -1, fresh))  # before its contents change
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
            elif v.output or v.outside or v.role in ("host", "empty", "special"):
                self.buffers[v.id] = Buffer(v.size * v.dtype.itemsize, v.shape, v.dtype)

    def _emit(self, g: Group) -> None:
        if g.kind in ("loop", "row", "reduce"):
            self._build(Builder(g))
            return
        if g.kind in ("join", "special"):
            for v in g.roots:
                if v.output or v.outside or v.role == "special":  # else only values without elements read it
                    self._pieces(v)
            return
        if g.kind == "contract":
            self._contract(g)
            return
        for v in g.roots:
            if g.kind == "recur":
                self._recur(v)
            else:
                self._host(v)

    def _build(self, builder: Builder) -> None:
        """Emit one loop and the checks of the indices it reads by."""
        loop = builder.loop()
        if loop.stores:
            self._launch(self.backend.loop(loop))
        for index, n in builder.checks:
            self._check(index, n)

    def _check(self, index: Value, n: int) -> None:
        if (id(index), n) in self.checked or not index.size or (n != NOT_ZERO and in_range(index, n)):
            return
        self.checked.add((id(index), n))
        code = self.graph.number()
        self.buffers[code] = Buffer(8, (1,), int64)
        self.checks.append((code, n))
        begin = len(self.steps)
        self._build(IndexCheck(index, n, code))
        # As soon as what it reads is there: the later a program may fail, the more inputs are saved in every run.
        check = self.steps[begin:]
        del self.steps[begin:]
        reads = {value for step in check for value in step.reads}
        at = max((k for k, step in enumerate(self.steps, 1) if not reads.isdisjoint(step.writes)), default=0)
        self.steps[at:at] = check

    def _pieces(self, v: Value) -> None:
        """Emit a value that is written region by region."""
        for piece in pieces(v, v.name in PARTIAL and v.id == base(v.inputs[0]).id):
            if isinstance(piece, Builder):
                self._build(piece)
            else:
                self._launch(self.backend.loop(piece))
        if v.name in ("put", "scatter"):
            _, index, new = v.inputs
            if new.size:
                self._check(index, v.shape[v.params[0]])
                self._launch(self.backend.scatter(v))

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
        fixed = self.graph.given[len(self.graph.given) - self.fixed:]
        for o in operands:
            if not o.value.root:
                raise Unmappable(o.value)
            o.fixed = o.value in fixed
        try:
            if self.backend.by_size(v) and varies((v.shape, v.params, *(o.shape for o in operands))):
                self._launch_by_size(v, operands, tail)
                return
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

    def _launch_by_size(self, v: Value, operands: list[Operand], tail: Tail) -> None:
        """Append launches that are planned anew for every size."""
        def plan() -> list[Any]:
            sized = copy(v)
            sized.shape, sized.params, sized.size = now(v.shape), now(v.params), now(v.size)
            views = [replace(o, shape=now(o.shape), strides=now(o.strides), offset=now(o.offset)) for o in operands]
            found = self.backend.contract(sized, views, tail)
            return [settled(x) if hasattr(x, "kernel") else x for x in found]
        step = Planned(plan, self.graph.number)
        self.steps.append(step)
        for i, nbytes in step.temps.items():
            self.buffers[i] = Buffer(nbytes, (nbytes,), uint8)

    def _recur(self, v: Value) -> None:
        """Emit a recurrence: what its states begin with, then the launches of its body for every step."""
        body = _body(v.params[0], self.backend)
        if not native(body):
            fixed((v.shape, *(i.shape for i in v.inputs)))
            for i in v.inputs:
                if not base(i).root:
                    raise Unmappable(i)
            self._host(v)
            return
        operands = [operand(i) for i in v.inputs]
        for i, o in zip(v.inputs, operands):
            if not o.value.root or not o.contiguous:
                raise Unmappable(i)
        for o, place in starts(v, operands):
            self._copy(o.value, o.value.id, v.id, math.prod(o.shape), o.offset, place)

        def fresh(i: int) -> int:
            new = self.graph.number()
            if i in body.known:
                self.known[new] = body.known[i]
            else:
                self.buffers[new] = body.buffers[i]
            return new
        self.steps += turns(v, operands, body, fresh)

    def _host(self, v: Value) -> None:
        fixed((v.shape, v.params, *(i.shape for i in v.inputs)))
        launches = self.backend.routine(v)
        if launches is not None:
            self._launch(launches)
            return
        self.steps.append(HostStep(reference(v), tuple(base(i).id for i in v.inputs), tuple(i.shape for i in v.inputs),
                                   v.id, v.name, [v.where] if v.where else []))

    def _buffer(self, v: Value) -> int:
        """Return the id of a new buffer for `v`."""
        fresh = self.graph.number()
        self.buffers[fresh] = Buffer(v.size * v.dtype.itemsize, v.shape, v.dtype)
        return fresh

    def _copy_all(self, copies: list[tuple[Value, int, int]]) -> None:
        """Copy values, each from where it is, or from another id, to an id."""
        for v, source, to in copies:
            self._copy(v, source if source >= 0 else base(v).id, to, v.size)

    def _copy(self, v: Value, source: int, to: int, count: int, first: int = 0, place: int = 0) -> None:
        """Copy `count` elements of the buffer of `v`, from number `first`, to place `place` of another."""
        where = [v.where] if v.where else []
        if not self.backend.stores(v.dtype):
            self.steps.append(HostStep(lambda x: x, (source,), (v.shape,), to, "copy", where))
        elif count:
            loop = Loop("rows", [count], [], [], [Op("load", (), 0, v.dtype)], [Access(source, v.dtype, first, (1,))],
                        [(0, Access(to, v.dtype, place, (1,)))], "copy", where)
            collapse(loop)
            self._launch(self.backend.loop(loop))

    def _launch(self, found: list[Any]) -> None:
        """Append launches, giving their temporaries ids."""
        ids: dict[int, int] = {}
        for item in found:
            if hasattr(item, "kernel"):
                if item.units > 0:
                    self.steps.append(renumbered(item, ids))
            else:
                ids[item.id] = fresh = self.graph.number()
                self.buffers[fresh] = Buffer(item.nbytes, (item.nbytes,), uint8)


@functools.lru_cache(maxsize=256)
def _body(body: Body, backend: Any) -> Lowered:
    """Return the steps of a recurrence's body."""
    return lower(Program(list(body.inputs), body.nodes, list(body.outputs)), backend, fixed=len(body.fixed))


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
        if own.kind not in ("loop", "row", "reduce", "contract") and not changes_parts(v, into):
            return False
        bit = 1 << own.number
        before = own.before
        for g in self.readers.get(into, ()):
            if g is own:
                if own.kind not in ("special", "join") and not _reads_in_place(own, into):
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


def _reads_in_place(g: Group, into: Value) -> bool:
    """Tell whether a kernel reads an input only where it may be about to overwrite it.

    Kernels read what they need at an index, or of a row, before they store there, and store over operands in their
    last pass.
    """
    rows = g.domain[0] if g.kind == "row" else 0
    for r in g.roots:
        if r.role == "contract":
            if any(into in scan(r, i) for i in r.inputs):
                return False
            continue
        how = scan(r, r.inputs[0] if r.role in ("reduce", "begun") else None).get(into)
        if how is None or (how == SAME and (g.kind != "reduce" or r.role != "reduce")):
            continue
        if how != rows or into.size != rows:
            return False
    return True
