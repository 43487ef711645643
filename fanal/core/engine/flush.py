"""The flush of a recorded segment: find what must be in memory afterwards, run it once, keep the tape usable."""
from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from fanal.core.base.state import grad_mode
from fanal.core.engine import record
from fanal.core.engine.cache import run_program
from fanal.core.engine.handle import Handle, Storage
from fanal.core.engine.record import Event, session
from fanal.core.ir.prims import input_
from fanal.core.ir.program import Node, Program, toposort

learn: Callable[..., None] | None = None  # installed by `follow`: (events, reason, writes) of a segment that ran


def handles(x: Any, out: list[Handle]) -> list[Handle]:
    """Append every handle inside a result to `out`."""
    if isinstance(x, Handle):
        out.append(x)
    elif isinstance(x, (tuple, list)):
        for i in x:
            handles(i, out)
    elif isinstance(x, dict):
        for i in x.values():
            handles(i, out)
    return out


def _live(touched: dict[int, Storage], events: list[Event]) -> list[Storage]:
    """Return the pending storages that anybody but the recorder still holds."""
    return [s for s in touched.values() if s.node.buffer is None and not s.meta]


def residuals(roots: list[Node]) -> list[Node]:
    """Return the pending forward values that the gradient rules of live history will ask for.

    Found by a dry run of the rules on a stand-in gradient: what they reference is what they need.
    """
    needed: dict[int, Node] = {}
    seen: set[int] = set()
    stack = [r for r in roots if r.needs_grad and not r.freed]
    with grad_mode(False):
        while stack:
            n = stack.pop()
            if id(n) in seen or n.freed:
                continue
            seen.add(id(n))
            stack.extend(i for i in n.inputs if i.needs_grad)
            if n.row.grad is None or not n.inputs:
                continue
            if n.row.name == "tape":
                for i in (n, *n.inputs):
                    needed[id(i)] = i
                continue
            g = input_(n.shape, n.dtype)
            mine = {id(i) for i in n.inputs} | {id(n)}
            todo = [r for r in n.row.grad(g, n, *n.inputs, *n.params) if r is not None]
            inner: set[int] = set()
            while todo:
                r = todo.pop()
                if id(r) in inner:
                    continue
                inner.add(id(r))
                if id(r) in mine:
                    needed[id(r)] = r
                else:
                    todo.extend(r.inputs)
    return [n for n in needed.values() if n.buffer is None]


def flush_recorded(reason: str) -> None:
    """Run every pending value of this thread."""
    s = session
    events, touched = s.events, s.touched
    s.events, s.touched = [], {}
    followable, s.unfollowable = s.unfollowable, None
    live = _live(touched, events)
    if live:
        outputs: dict[int, Node] = {}
        for st in live:
            outputs[id(st.node)] = st.node
        extra = residuals([st.node for st in live])
        for n in extra:
            outputs.setdefault(id(n), n)
        _compute(list(outputs.values()))
    if learn is not None:
        learn(events, reason, followable)


def _compute(outputs: list[Node]) -> None:
    nodes = toposort(outputs)
    inputs: dict[int, Node] = {}
    for n in nodes:
        for i in n.inputs:
            if i.buffer is not None:
                inputs[id(i)] = i
    program = Program(list(inputs.values()), nodes, outputs)
    results = run_program(program, [i.buffer for i in program.inputs])  # type: ignore[misc]
    for n, a in zip(outputs, results):
        n.buffer = a
    for n in nodes:  # a value that is known needs its past only for gradients
        if n.buffer is not None and (not n.needs_grad or n.freed):
            n.inputs = ()
            n.row = n.row if n.needs_grad else input_
            n.params = n.params if n.needs_grad else (n.shape, n.dtype)


record.set_flusher(flush_recorded)


def array_of(storage: Storage) -> np.ndarray:
    """Return the contents of a storage, running what is pending."""
    if storage.node.buffer is None:
        record.flush("read")
    assert storage.node.buffer is not None
    return storage.node.buffer


def refcount(o: object) -> int:
    """Return the reference count of `o` as its owner's loop sees it."""
    return sys.getrefcount(o)
