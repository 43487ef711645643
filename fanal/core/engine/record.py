"""Recording: public calls become events, events become values, and a flush runs everything pending.

An *event* is one call of the public API. Recording runs its function, which builds nodes and computes nothing. A
*segment* is the events between two flushes. What a segment did is handed to `follow`, which replays it when the same
calls come again.
"""
from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

from fanal.core.base.state import state
from fanal.core.base.where import caller
from fanal.core.engine.handle import Handle, Storage
from fanal.core.ir.program import Node

MAX_PENDING = 4096  # nodes of an unknown segment after which it is run (engine notes, section 2)


class Op:
    """A public operation: its name, its function on handles, and how the engine treats a call."""

    __slots__ = ("name", "fn", "key", "flush", "guard", "apply", "scalars", "read")
    count = 0

    def __init__(self, name: str, fn: Callable, *, flush: bool = False, guard: Callable | None = None,
                 apply: Callable | None = None, scalars: Callable | None = None, read: bool = False) -> None:
        self.name, self.fn = name, fn
        self.flush = flush  # run everything pending when the event ends
        self.guard = guard  # (args) -> a hashable that must be unchanged for a followed call
        self.apply = apply  # (event, args): Python-visible effects of a followed call, at once
        self.read = read  # returns Python data: whatever is pending must have run
        self.scalars = scalars  # (args) -> runtime numbers of a followed call
        Op.count += 1
        self.key = Op.count

    def __repr__(self) -> str:
        return f"<op {self.name}>"


class Event:
    """One recorded call."""

    __slots__ = ("op", "args", "kwargs", "out", "where", "guard", "scalars", "extra")

    def __init__(self, op: Op, args: tuple, kwargs: dict, where: Any) -> None:
        self.op, self.args, self.kwargs, self.where = op, args, kwargs, where
        self.out: Any = None
        self.guard: Any = None
        self.scalars: list[tuple[Node, Any]] = []  # runtime numbers made while it ran
        self.extra: Any = None  # what `apply` needs to repeat the effect


class Session(threading.local):
    """The pending work of one thread."""

    def __init__(self) -> None:
        self.depth = 0
        self.events: list[Event] = []
        self.event: Event | None = None
        self.touched: dict[int, Storage] = {}  # storages written or made in this segment, by id
        self.nodes = 0
        self.unfollowable: str | None = None
        self.flushing = False


session = Session()


def run_event(op: Op, args: tuple, kwargs: dict) -> Any:
    """Run one call as an event of the segment, or plainly when inside another one."""
    s = session
    if s.depth:
        return op.fn(*args, **kwargs)
    where = state.where = caller(2)
    event = Event(op, args, kwargs, where)
    if op.guard is not None:
        event.guard = op.guard(*args, **kwargs)
    s.depth = 1
    s.event = event
    try:
        event.out = op.fn(*args, **kwargs)
    finally:
        s.depth = 0
        s.event = None
    s.events.append(event)
    out = event.out
    if op.flush or len(s.touched) > MAX_PENDING:
        flush(op.name if op.flush else "limit")
    return out


def hold(storage: Storage) -> None:
    """Note that `storage` has a pending value."""
    session.touched[id(storage)] = storage


def runtime(node: Node, value: Any) -> Node:
    """Note that `node` is a number which may differ the next time this event comes."""
    if session.event is not None:
        session.event.scalars.append((node, value))
    return node


def unfollowable(reason: str) -> None:
    """Say that this segment does something that only Python can repeat, so it is recorded every time."""
    session.unfollowable = reason


_flusher: Callable[[str], None] | None = None


def set_flusher(f: Callable[[str], None]) -> None:
    """Install the function that runs pending work (the floor above the recorder)."""
    global _flusher
    _flusher = f


def flush(reason: str) -> None:
    """Run everything pending on this thread."""
    s = session
    if s.flushing:
        return
    s.flushing = True
    depth, s.depth = s.depth, 1
    try:
        assert _flusher is not None
        _flusher(reason)
    finally:
        s.depth = depth
        s.flushing = False


def references(o: Handle) -> int:
    """Return the reference count of a handle as seen from here."""
    return sys.getrefcount(o)
