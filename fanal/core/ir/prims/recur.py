"""Recurrence: one body of computation for every step of a sequence, each step starting from the states of the last.

All states and results have one dtype. They lie in one flat value: the history of every state (T + 1, *shape), at
place t the state before step t and at t + 1 that after it (backward in time the other way round), then the results
of all steps, (T, *shape) each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np

from fanal.core.base.shape import Shape
from fanal.core.ir.batch import Batch, number
from fanal.core.ir.body import Body, recording
from fanal.core.ir.interp import evaluate
from fanal.core.ir.prims.batching import each, from_front
from fanal.core.ir.prims.derivative import GRADIENT, Source, derive
from fanal.core.ir.prims.point import add
from fanal.core.ir.prims.source import input_
from fanal.core.ir.prims.view import concat, disjoint, reshape, span, zeros
from fanal.core.ir.program import Node
from fanal.core.ir.row import kept, prim


class Track:
    """The value `y` of a recurrence of so many steps, and where its states and results lie in it."""

    def __init__(self, body: Body, reverse: bool, count: int, y: Node | None = None) -> None:
        self.y: Any = y
        self.reverse, self.count = reverse, count
        self.states: list[tuple[int, Shape]] = []
        self.results: list[tuple[int, Shape]] = []
        at = 0
        for n in body.states:
            self.states.append((at, n.shape))
            at += (count + 1) * n.size
        for n in body.results:
            self.results.append((at, n.shape))
            at += count * n.size
        self.size = at

    def extent(self, kind: str, k: int) -> tuple[int, int, Shape]:
        """Return where something begins and ends, and its shape.

        kind: the state "before" or "after" every step, (T, *shape), before the "first" or after the "last"; a
        "result" of every step.
        """
        at, shape = (self.results if kind == "result" else self.states)[k]
        one, late = math.prod(shape), kind in ("after", "last")
        if kind in ("first", "last"):
            at += one * self.count * (late != self.reverse)
            return at, at + one, shape
        at += one * (kind != "result" and late != self.reverse)
        return at, at + one * self.count, (self.count, *shape)

    def get(self, kind: str, k: int) -> Node:
        """Return what lies at an extent."""
        start, stop, shape = self.extent(kind, k)
        return reshape(span(self.y, 0, start, stop), shape)


def _ref(*args: Any) -> np.ndarray:
    *arrays, body, reverse = args
    n, m = len(body.states), len(body.steps)
    values = {id(b): a for b, a in zip(body.fixed, arrays[n + m:])}
    count = arrays[n].shape[0]
    history = [np.empty((count + 1, *a.shape), a.dtype) for a in arrays[:n]]
    results = [np.empty((count, *r.shape), r.dtype.np) for r in body.results]
    for h, a in zip(history, arrays):
        h[count if reverse else 0] = a
    for t in reversed(range(count)) if reverse else range(count):
        values |= {id(b): h[t + reverse] for b, h in zip(body.states, history)}
        values |= {id(b): a[t] for b, a in zip(body.steps, arrays[n:])}
        for node in body.nodes:
            values[id(node)] = evaluate(node, values)
        for h, b in zip(history, body.after):
            h[t + (not reverse)] = values[id(b)]
        for r, b in zip(results, body.results):
            r[t] = values[id(b)]
    return np.concatenate([x.reshape(-1) for x in (*history, *results)])


def _regions(g: Node) -> list[tuple[int, int, Node]] | None:
    """Return the parts of a gradient by a flat value, as its slices leave them, or None where it is not of such."""
    if g.row is add:
        left, right = (_regions(i) for i in g.inputs)
        return None if left is None or right is None else left + right
    if g.row.name == "full" and g.params[1] == 0:
        return []
    if g.row.name != "update_slice" or not g.inputs:
        return None
    before = _regions(g.inputs[0])
    if before is None or any(not disjoint(g.params, ((a,), (b,), (1,))) for a, b, _ in before):
        return None
    return [*before, (g.params[0][0], g.params[1][0], g.inputs[1])]


def _arrived(g: Node, track: Track) -> dict[tuple[str, int], Node]:
    """Return the gradients by what lies in the value of a recurrence, from that by the whole."""
    states, results = range(len(track.states)), range(len(track.results))
    known: dict[tuple[int, int], tuple[str, int]] = {}
    for kind in ("first", "last", "after"):
        known |= {track.extent(kind, k)[:2]: (kind, k) for k in states}
    known |= {track.extent("result", k)[:2]: ("result", k) for k in results}
    parts = _regions(g)
    found: dict[tuple[str, int], Node] = {}
    if parts is None or any((a, b) not in known for a, b, _ in parts):
        whole = copy(track)
        whole.y = g
        names = [*((kind, k) for kind in ("first", "after") for k in states), *(("result", k) for k in results)]
        return {name: whole.get(*name) for name in names}
    for a, b, x in parts:
        name = known[a, b]
        x = reshape(x, track.extent(*name)[2])
        found[name] = add(found[name], x) if name in found else x
    return found


def _grad(g: Node, y: Node, *rest: Any) -> list[Node | None]:
    *inputs, body, reverse = rest
    n, m = len(body.states), len(body.steps)
    count = inputs[n].shape[0]
    track = Track(body, reverse, count, y)
    arrived = _arrived(g, track)
    d = derive(body, tuple(("after", k) in arrived for k in range(n)),
               tuple(("result", k) in arrived for k in range(len(body.results))),
               tuple(i.varies for i in inputs[n:n + m]), tuple(i.varies for i in inputs[n + m:]))

    def stack(source: Source) -> Node:
        """Return a value of every step."""
        kind, k = source
        if kind == "step":
            return inputs[n + k]
        if kind == "back":
            return back.get("result", k)
        return arrived[kind[len(GRADIENT):], k] if kind.startswith(GRADIENT) else track.get(kind, k)

    starts = [arrived[("last", k)] if ("last", k) in arrived else zeros(s.shape, s.dtype)
              for k, s in enumerate(body.states)]
    z = recur([*starts, *map(stack, d.stacks), *(inputs[n + m + k] for k in d.fixed)], d.body, not reverse)
    back = Track(d.body, not reverse, count, z)
    out: list[Node | None] = []
    for k in range(n):
        last = back.get("last", k)
        out.append(add(last, arrived["first", k]) if ("first", k) in arrived else last)
    out += [None if k is None else back.get("result", k) for k in d.steps]
    for terms in d.sums:
        total: Node | None = None
        for term in terms:
            part = term.total([stack(s) for s in term.sources])
            total = part if total is None else add(total, part)
        out.append(total)
    return out


def _body_for_all(body: Body, size: int, marks: tuple[bool, ...]) -> Body:
    """Return the body that takes a step for all examples; `marks`: which inputs they have to themselves."""
    known = body.derived.get((Batch, size, marks))
    if known is not None:
        return known
    batch = Batch(number(), size)
    with recording():
        inputs = [input_((size, *i.shape), i.dtype) if m else i for i, m in zip(body.inputs, marks)]
        for i, x in zip(body.inputs, inputs):
            if x is not i:
                x.needs_grad = True
                batch.know(i, x)
        after, results = ([batch.whole(o) for o in outs] for outs in (body.after, body.results))
    n, m = len(body.states), len(body.steps)
    made = body.derived[Batch, size, marks] = Body(inputs[:n], inputs[n:n + m], inputs[n + m:], after, results)
    return made


def _for_all(b: Batch, node: Node, xs: Sequence[Node], marks: Sequence[bool]) -> Node:
    """The batching rule: a recurrence whose every step is taken for all examples."""
    body, reverse = node.params
    n, m = len(body.states), len(body.steps)
    states = [x if mark else each(x, b.size) for x, mark in zip(xs[:n], marks)]
    steps = [from_front(x, 1) if mark else x for x, mark in zip(xs[n:n + m], marks[n:])]
    many = _body_for_all(body, b.size, (*(True for _ in states), *marks[n:]))
    y = recur([*states, *steps, *xs[n + m:]], many, reverse)
    track = Track(many, reverse, node.inputs[n].shape[0])
    parts = []
    for lines, places in ((track.count + 1, track.states), (track.count, track.results)):
        for at, shape in places:
            lie = span(y, 0, at, at + lines * math.prod(shape))
            by_example = from_front(reshape(lie, (lines, *shape)), 1)
            parts.append(reshape(by_example, (b.size, lines * math.prod(shape[1:]))))
    return concat(parts, 1)


def _flops(inputs: Sequence[Node], params: tuple) -> int:
    body = params[0]
    one = 0
    for n in body.nodes:
        flops = n.row.flops
        one += flops(n.inputs, n.params) if callable(flops) else flops * n.size
    return one * inputs[len(body.states)].shape[0]


# (states..., inputs of all steps (T, *shape)..., what stays the same...), body, backward in time -> see above.
recur = prim(
    "recur",
    kind="recur",
    arity=-1,
    shape=lambda i, p: (Track(p[0], p[1], i[len(p[0].states)].shape[0]).size,),
    dtype=kept,
    ref=_ref,
    grad=_grad,
    batch=_for_all,
    code=None,
    flops=_flops,
)
