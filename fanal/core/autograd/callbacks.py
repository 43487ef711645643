"""A backward as a sequence of events, split where Python is called back.

Hooks, custom functions and checkpoints are the user's Python, which runs in every step. So a walk through the graph is
a generator that stops there: the walk up to a callback is one event, whose result is a `Stop`; then the callback runs,
and its tensor calls are ordinary events; the walk goes on as the next event, whose arguments are what the callback
returned. A followed backward has no graph: its stops come from the known segment, and what they name is looked up in
the present: the hooks of a leaf on the leaf, everything else among the session's *notes*, the objects that Python has
left for this segment, numbered in order.
"""
from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

from fanal.core.base.state import grad_mode, state
from fanal.core.engine.follow import dispatch
from fanal.core.engine.matcher import matcher
from fanal.core.engine.record import Op, flush, leave_path, name, session, unfollowable
from fanal.core.ir.prims import alias
from fanal.core.ir.program import Node
from fanal.core.tensor.alias import read
from fanal.core.tensor.tensor import wrap

REASON = "Python was called inside an event"


class Stop(NamedTuple):
    """Where a walk waits for Python."""

    kind: str  # "begin": for nothing; "leaf", "after": for hooks; "note", "unpack": for something that was noted
    which: Any  # the leaf, or the number of the note, or what of the note to unpack
    grads: tuple  # tensors and None
    create_graph: bool = False
    retain: bool = True
    partial: bool = False  # the walk goes to some values only


Walk = Generator[Stop, tuple, Any]


class Noted:
    """Something that Python leaves for an event to find."""

    number = -1  # its place among the notes, if it is there


class Callback(Noted):
    """Something noted that Python runs when gradients arrive."""

    def answer(self, grads: tuple) -> tuple:
        """Run the user's Python on the gradients; return the tensors (or None) with which the walk goes on."""
        raise NotImplementedError

    def release(self) -> None:
        """Free what was saved for a backward that has ended."""


class Rule:
    """The gradient rule of a value whose backward is the user's: a callback, and what stands on both sides of it."""

    __slots__ = ("__weakref__", "callback")
    callback: Any

    def given(self, g: Node, y: Node) -> list[Node | None]:
        """Return the gradients to be shown."""
        raise NotImplementedError

    def result(self, reply: list[Node | None]) -> list[Node | None]:
        """Return the gradients of the inputs, from what the callback returned."""
        return reply

    def __call__(self, g: Node, y: Node, *inputs: Node) -> list[Node | None]:
        """Return the gradients of the inputs, with the callback inside the present event."""
        unfollowable(REASON)
        return self.result(values(self.callback.answer(tuple(map(shown, self.given(g, y))))))


class Packs(Noted):
    """What the gradient rules of the values that one call made will read, packed: see `saving`."""

    def __init__(self) -> None:
        self.objects: list[Any] = []
        # Where the graph is recorded:
        self.known: list[Node] | None = None  # values that were there before
        self.left: dict[int, int] = {}  # by place, how many rules may still ask for it

    def unpacked(self, which: Sequence[Any]) -> tuple:
        """Return tensors; `which` has a place, and whether it is asked for last, for each."""
        found = []
        for k, last in zip(which[::2], which[1::2]):
            found.append(self.objects[k].tensor())
            if last:
                self.objects[k] = None
        return tuple(found)


def note(noted: Noted) -> int:
    """Leave something for the next event that asks for a note; return its number."""
    notes = session.notes
    noted.number = len(notes)
    notes.append(noted)
    return noted.number


def next_note(make: Callable[[], Noted]) -> int:
    """Return the number of what Python has noted for the present event; make it if the event comes first."""
    s = session
    k = s.noted
    s.noted += 1
    return note(make()) if k == len(s.notes) else k


def number_of(noted: Noted) -> int:
    """Return the number of a note. What was noted in an earlier segment, or by nobody, is found in no later step."""
    k, notes = noted.number, session.notes
    if 0 <= k < len(notes) and notes[k] is noted:
        return k
    unfollowable("Python left of an earlier segment is called in backward")
    session.older.append(noted)
    return -len(session.older)


def noted_as(number: int) -> Any:
    """Return what has a number, see `number_of`."""
    return session.notes[number] if number >= 0 else session.older[-1 - number]


def shown(g: Node | None) -> Any:
    """Return a gradient as a tensor for Python."""
    return None if g is None else wrap(alias(g) if g.buffer is not None else g)


def hooks_of(t: Any) -> int:
    """Return which kinds of hooks a leaf has, see Hooks.kinds; note for the present event that it depends on them."""
    s = session
    if s.again is not None:  # it ran already
        kinds = s.again[1].get(id(t), 0)
    else:
        kinds = 0 if t._hooks is None else t._hooks.kinds()
    if s.event is not None:
        name(t)
        s.event.hooked.append((t, kinds))
    return kinds


class _Running(threading.local):
    """The walks that wait for Python now, recorded or followed."""

    partial = 0  # how many of them go to some values only


running = _Running()


class _Waiting:
    """A walk that waits for Python."""

    __slots__ = ("grad", "segment", "walk")

    def __init__(self, walk: Walk) -> None:
        self.walk, self.grad, self.segment = walk, state.grad, session.segment


def _advance(waiting: _Waiting, reply: tuple | None) -> Any:
    """Let a walk go on to its next stop, or to its end; it has a gradient mode of its own."""
    outer, state.grad = state.grad, waiting.grad
    try:
        stop = waiting.walk.send(reply)  # type: ignore[arg-type]
    except StopIteration as e:
        return e.value
    finally:
        waiting.grad, state.grad = state.grad, outer
    session.waiting.append(waiting)
    return stop


def _resume(*reply: Any) -> Any:
    """Go on with the innermost walk that waits."""
    waiting = session.waiting.pop()
    if waiting.segment != session.segment:
        unfollowable("a value was read while a backward waited for Python")
    return _advance(waiting, reply)


_RESUME = Op("backward", _resume, explains=False)


def _slow_resume(*reply: Any) -> Any:
    return dispatch(_RESUME, reply, {})


_resumed = matcher.function(_RESUME.key, _slow_resume, "resume", _resume.__doc__, "fanal")


def stepwise(walk: Callable[..., Walk]) -> Callable[..., Any]:
    """Return the function of an event that is the first part of a walk; `drive` runs the others."""
    def begin(*args: Any, **kwargs: Any) -> Any:
        return _advance(_Waiting(walk(*args, **kwargs)), None)

    begin.__name__, begin.__doc__, begin.__wrapped__ = walk.__name__, walk.__doc__, walk  # type: ignore[attr-defined]
    return begin


def drive(out: Any) -> Any:
    """Return what a walk returns in the end: answer its stops, of which `out` is the first, if it is one."""
    if type(out) is not Stop:
        return out
    s = session
    if s.depth:
        unfollowable(REASON)
    called: list[Callback] = []
    s.driving += 1
    try:
        while type(out) is Stop:
            running.partial += out.partial
            try:
                with grad_mode(out.create_graph):
                    reply = _answer(out, called)
            except BaseException:
                _abandon()
                raise
            finally:
                running.partial -= out.partial
            retain = out.retain
            out = _resumed(*reply)
            del reply  # or a flush would find its tensors held
    finally:
        s.driving -= 1
        if not s.driving:
            s.waiting.clear()  # an interrupt may have left one
    if not retain:
        for callback in called:
            callback.release()
    if s.owed and not s.driving:
        flush("backward")
    return out


def _answer(stop: Stop, called: list[Callback]) -> tuple:
    kind, which, grads, *_ = stop
    if kind == "note":
        called.append(noted_as(which))
        return called[-1].answer(grads)
    if kind == "unpack":
        return noted_as(which[0]).unpacked(which[1:])
    if kind == "leaf":
        return which._hooks.answer(grads)
    if kind == "after":
        for hook in list(which._hooks.after.values()):
            if hook(which) is not None:
                raise RuntimeError("Tensor post accumulate grad hooks should return None.")
    return ()


def _abandon() -> None:
    """Give up the innermost walk: its callback raised."""
    leave_path()  # from here on it is recorded
    unfollowable("a callback of backward raised")
    if session.waiting:
        with grad_mode(state.grad):
            session.waiting.pop().walk.close()


def values(reply: Sequence[Any]) -> list[Node | None]:
    """Return the values of tensors that a callback returned."""
    return [None if t is None else read(t) for t in reply]
