"""Recording: public calls become events, events become values, and a flush runs everything pending.

An *event* is one call of the public API. Recording runs its function, which builds nodes and computes
nothing. A *segment* is the events between two flushes. When the calls of a known segment come again, `follow`
recognises them and nothing of this runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from weakref import ref

import numpy as np

from fanal.core.base import knobs
from fanal.core.base.dim import Dim, now
from fanal.core.base.dtype import dtype
from fanal.core.base.state import state
from fanal.core.base.where import caller, show
from fanal.core.engine.carry import Carried, origin, unfolded
from fanal.core.engine.explain import explain
from fanal.core.engine.failure import failed, refuse
from fanal.core.engine.handle import Handle, Storage, shared_outside, signature, spread
from fanal.core.engine.ledger import ledger
from fanal.core.engine.views import values_of
from fanal.core.ir.program import Node

PATIENCE = 16  # by so many more segments at a place are recorded than followed, before they are cut
MAX_PENDING = 4096  # values of an unknown segment after which it is run (engine notes, section 2)


class Op:
    """A public operation: its name, its function on handles, and how the engine treats a call."""

    __slots__ = ("name", "fn", "key", "flush", "manual", "explains", "operator")
    count = 0

    def __init__(
        self, name: str, fn: Callable, *, flush: bool = False, manual: bool = False, explains: bool = True,
        operator: bool = False
    ) -> None:
        self.name, self.fn = name, fn
        self.operator = operator  # all that comes of a call is its results and what it writes
        self.explains = explains  # an error is told with the operands of this call, not of one inside it
        self.flush = flush  # run everything pending when the event ends
        self.manual = manual or flush  # matched in Python: a call has effects that following must repeat
        Op.count += 1
        self.key = Op.count

    def __repr__(self) -> str:
        return f"<op {self.name}>"


class Event:
    """One recorded call: what is needed to recognise it and to run it again."""

    __slots__ = ("op", "specs", "kwnames", "positional", "out", "where", "mode", "scalars", "grads", "built", "watch",
                 "walks", "hooked", "manual", "flush", "snapshots", "fitted")

    def __init__(self, op: Op, where: Any) -> None:
        self.op, self.where = op, where
        self.specs: list[tuple] = []
        self.snapshots: list[tuple[tuple, Node]] = []  # copies of memory shared with NumPy that it read, and of what
        self.watch: Any = None  # what the call depends on besides its arguments, see tables.Watch
        self.kwnames: tuple[str, ...] = ()
        self.positional = 0
        self.out: Any = None
        self.mode = state.mode
        self.scalars: list[tuple[Node, Any]] = []  # numbers that may differ next time
        self.fitted: list[tuple[Any, dtype]] = []  # numbers that must have a place in a dtype
        self.grads: list[
            tuple[Any, Any, Any]
        ] = []  # (leaf, .grad before, new .grad or None when added in place)
        self.built: list[tuple[Any, tuple, Callable]] = []  # (leaf, tensors, how its new .grad is made of them)
        self.walks: list[Carried] = []  # graphs of earlier segments that it went through
        self.hooked: list[tuple[Any, int]] = []  # (leaf, which kinds of hooks it had when its gradient arrived)
        self.manual = op.manual or bool(session.asked)  # matched in Python: something beside the event must run
        self.flush = op.flush  # run everything pending when it ends


class Session(threading.local):
    """The pending work of one thread."""

    def __init__(self) -> None:
        self.depth = 0
        self.opaque = True  # calls inside an event are its own business, errors included
        self.segment = 0  # counts segments, so that an event notices a flush inside it
        self.event: Event | None = None
        self.touched: dict[int, ref[Storage]] = {}  # storages with pending values, by id
        self.unfollowable: str | None = None
        self.flushing = False
        self.path: Any = None  # the known segment being followed
        self.paths: Any = None  # every known segment of this thread
        self.effects: list[tuple[int, Callable[[], None]]] = []  # what Python did between followed events
        self.epoch = 0  # counts changes to tensors that are no events: hooks, requires_grad
        self.levels: list[Any] = []  # vmapped functions that run now, see engine.level
        self.vmapped = False  # there were some: values may hang on an example
        self.checks: list[tuple[Callable, Any]] = []  # of values in the innermost, to be made when it has ended
        self.due: list[tuple[Callable, Any, Any]] = []  # checks of pending values, and where they were asked for
        self.notes: list[Any] = []  # what Python left for events of this segment to find, by number
        self.older: list[Any] = []  # what it left for those of earlier segments, and is asked for in this one
        self.waiting: list[Any] = []  # recorded backwards that wait for Python, the innermost last
        self.asked = 0  # how many modes must see every call, followed or not
        self.driving = 0  # how many backwards wait for Python, recorded or followed
        self.owed: list[Any] = []  # what wanted a flush meanwhile
        # Of a followed step that is being recorded after the fact: what it returned, and its leaves' hooks by id.
        self.again: tuple[Any, dict[int, int]] | None = None
        self.doubt: str | None = None  # why the present event must not have read what it did, if a gradient follows
        self.loading = False  # a dataset makes a sample: see utils.data.fetch
        self.places: dict[Any, Any] = {}  # where segments begin, see engine.flush
        self.leaving: Any = None  # what happens when the thread ends, see engine.branch
        self.families: Any = None  # known segments that come in several sizes, see engine.naming
        self.naming: Any = None  # the sizes that the present recording has names for
        self.begin()

    def begin(self) -> None:
        """Forget the recorded segment."""
        if self.naming is not None:
            self.naming.end()
            self.naming = None
        self.segment += 1
        self.events: list[Event] = []
        self.outs: list[Any] = []  # every tensor the segment returned, once
        self.index: dict[int, int] = {}  # id -> place in outs
        self.slots: list[Any] = []  # tensors from outside, in order of first use
        self.slot_index: dict[int, int] = {}
        self.starts: dict[
            int, tuple[Storage, Node, int]
        ] = {}  # id of a storage from outside -> its value at first use
        # What was written and which .grad were set, and what stood there before, see `failure.rewind`.
        self.writes: list[tuple[int, ref[Storage], Node]] = []
        self.regrads: list[tuple[int, ref[Any], ref[Any] | None]] = []
        self.shown: dict[int, Any] = {}  # what tensors held at an event that is recorded after the fact, by id
        self.origins: dict[int, Carried] = {}  # slot -> the graph of an earlier segment it belongs to
        self.asides: list[tuple[int, int, Node]] = []  # (events before, out, value): read aside, see engine.aside
        self.views: dict[int, Node] = {}  # slot -> the value of a view that has history, at its first use
        unfolded.clear()
        self.effects.clear()
        self.inside = bool(state.levels)  # the segment began inside a level of forward mode
        self.noted = 0  # how many notes the recorded events have found
        self.border: Any = None  # where it is cut, see engine.flush.Place
        self.began = self.epoch


session = Session()

# Kinds of argument specifications: (kind, payload).
CONST, SLOT, OUT, RUNTIME, SEQUENCE, OBJECT = range(6)
_IMMUTABLE = (int, float, complex, str, bytes, type(None), slice, type(Ellipsis), range, dtype)


def alike(a: Any, x: Any) -> bool:
    """Tell whether two constants mean the same: 1, 1.0 and True are equal and do not, nor do 0.0 and -0.0."""
    return type(a) is type(x) and a == x and (type(a) is not float or a != 0 or repr(a) == repr(x))


def spec_of(x: Any, s: Session, event: Event) -> tuple:
    """Describe an argument so that the same call can be recognised and repeated."""
    if isinstance(x, Handle):
        event.manual |= x._asked
        k = s.index.get(id(x))
        if k is not None:
            return (OUT, k)
        k = s.slot_index.get(id(x))
        if k is None:
            st = x._storage
            refuse(st.node)
            k = s.slot_index[id(x)] = len(s.slots)
            shared_outside(st)
            spread(st)
            s.slots.append((x, signature(x), st))
            if st.node.needs_grad:
                found = origin(st.node)
                if found is not None:
                    s.origins[k] = found[0]
            if x._chain:
                s.views.update(values_of([(k, x)]))
            if id(st) not in s.starts:
                s.starts[id(st)] = (st, st.node, st.version)
                if st.node.buffer is None:
                    s.unfollowable = "a tensor from outside is pending"
                    hold(st)  # or another thread's would be pending for good, and every step of this one recorded
        return (SLOT, k)
    if isinstance(x, (tuple, list)):
        return (SEQUENCE, (type(x), [spec_of(i, s, event) for i in x]))
    if isinstance(x, _IMMUTABLE):
        if type(x) is slice:
            if any(isinstance(i, Handle) for i in parts(x)):
                s.unfollowable = "a slice whose limits are tensors"
            elif any(type(i) is Dim for i in parts(x)):
                return (SEQUENCE, (slice, [(CONST, i) for i in parts(x)]))
        return (CONST, x)
    if isinstance(x, dict) or type(x).__module__ == "numpy":
        s.unfollowable = f"an argument of type {type(x).__name__}"
        return (CONST, x)
    try:
        return (OBJECT, ref(x))
    except TypeError:
        return (CONST, x)


def parts(x: slice) -> tuple:
    """Return the limits of a slice."""
    return x.start, x.stop, x.step


def name(x: Handle) -> None:
    """Note a tensor that the present event writes though no argument names it. Call it before the write."""
    s = session
    if s.event is not None:
        spec_of(x, s, s.event)


def run_event(op: Op, args: tuple, kwargs: dict, where: Any = None) -> Any:
    """Run one call as an event of the segment, or plainly when inside another one."""
    s = session
    if s.depth:
        return op.fn(*args, **kwargs)
    if where is None:
        where = caller(2)
    try:
        return _run_event(op, args, kwargs, where)
    except BaseException as e:  # its values are right, but it may be no event, or half of one
        wrote = 2 * len(s.events) < max(s.writes[-1][0] if s.writes else 0, s.regrads[-1][0] if s.regrads else 0)
        if wrote or not isinstance(e, Exception):
            s.unfollowable = "a call was interrupted"
        raise


def _run_event(op: Op, args: tuple, kwargs: dict, where: Any) -> Any:
    s = session
    state.where = where
    event = Event(op, where)
    if not s.events and not s.levels:
        place = s.places.get(place_key(where))
        s.border = None if place is None else place.border
        if s.naming is not None:  # the first call raised an error
            s.naming.abandon()
            s.naming = None
        if s.families is not None and s.border is None:
            s.naming = s.families.naming(op, args, kwargs, s.paths.last)
    naming = s.naming
    if naming is None:
        out = _make(event, args, kwargs)
    else:
        named = naming.called(len(s.events), op, args, kwargs)
        if named is None:
            naming.abandon()
            s.naming = None
            out = _make(event, args, kwargs)
        else:
            with naming:
                out = _make(event, *named)
    if s.again is None:  # what is recorded after the fact ends where it was followed to
        if (len(s.touched) > MAX_PENDING or len(s.events) > MAX_PENDING) and not s.flushing:
            event.flush = event.manual = True
        if event.flush:
            flush_after(op, op.name)
    return out


def _make(event: Event, args: tuple, kwargs: dict) -> Any:
    """Run an event's function, and append the event to the segment."""
    s = session
    op = event.op
    event.specs = [spec_of(a, s, event) for a in args]
    if kwargs:
        event.kwnames = tuple(kwargs)
        event.specs += [spec_of(a, s, event) for a in kwargs.values()]
    event.positional = len(args)
    if unfolded.walked:
        s.unfollowable = "the graph of an earlier segment was looked at"
        unfolded.walked = []
    s.depth = 1
    s.event = event
    s.doubt = None
    segment = s.segment
    try:
        out = op.fn(*args, **kwargs)
        if s.doubt is not None and not _discrete(out):
            raise RuntimeError(s.doubt)
    except Exception as e:
        if op.explains:
            explain(e, op.name, args, kwargs)
        raise
    finally:
        s.depth = 0
        s.event = None
    if s.segment != segment:
        s.unfollowable = f"'{op.name}' needed a value before it could go on"
    ledger.recorded += 1
    if unfolded.walked:
        event.walks, unfolded.walked = unfolded.walked, []
    event.out = out
    s.events.append(event)
    _note_outs(out, s)
    for _, _, new in event.grads:
        if new is not None:
            _note_outs(new, s)
    for _, parts, _ in event.built:
        _note_outs(parts, s)
    return out


def _discrete(out: Any) -> bool:
    """Tell whether no gradient can follow from the results of a call: truth values and whole numbers."""
    if isinstance(out, (tuple, list)):
        return all(map(_discrete, out))
    return isinstance(out, (bool, int)) or (isinstance(out, Handle) and out._dtype.category < 2)


def cut(where: Any) -> bool:
    """Run what is recorded, if the segment is to be cut before a call at `where`; tell whether that was so."""
    s = session
    if s.border != where or not s.events or s.flushing or s.driving or s.waiting or s.levels or state.levels:
        return False
    s.unfollowable = s.unfollowable or "the data of a step is made in another way every time"
    flush("what comes before a model")
    return True


def place_key(where: Any) -> tuple[int, int]:
    """Return what is equal for segments that begin at the same place: at the call `where`."""
    code, at = where or (None, 0)
    return id(code), at


def explained(op: Op, args: tuple, kwargs: dict) -> Any:
    """Run a call inside an event that leaves the explanation of errors to the calls in it."""
    session.opaque = True
    try:
        return op.fn(*args, **kwargs)
    except Exception as e:
        explain(e, op.name, args, kwargs)
        raise
    finally:
        session.opaque = False


def _note_outs(x: Any, s: Session) -> None:
    if isinstance(x, Handle):
        if id(x) not in s.index and id(x) not in s.slot_index:
            s.index[id(x)] = len(s.outs)
            s.outs.append(x)
    elif isinstance(x, (tuple, list)):
        for i in x:
            _note_outs(i, s)


def hold(storage: Storage) -> None:
    """Note that `storage` has a pending value."""
    session.touched[id(storage)] = ref(storage)


def _at() -> int:
    """Return where the recording stands: 2 k + 1 in event k, 2 k before it."""
    s = session
    return 2 * len(s.events) + (s.event is not None)


def note_write(storage: Storage) -> None:
    """Note what a storage holds before it is written. Call it before the write."""
    session.writes.append((_at(), ref(storage), storage.node))


def note_grad(t: Any) -> None:
    """Note what a tensor's .grad is before another is set."""
    session.regrads.append((_at(), ref(t), None if t._grad is None else ref(t._grad)))


def runtime(node: Node, value: Any) -> Node:
    """Note that `node` is a number which may differ the next time this event comes."""
    if session.event is not None:
        session.event.scalars.append((node, value))
    return node


class Table:
    """Marks an input of the program that a function makes of named sizes."""

    __slots__ = ("args", "make")

    def __init__(self, make: Callable[..., np.ndarray], args: tuple) -> None:
        self.make, self.args = make, args

    def now(self) -> np.ndarray:
        """Return what it is for the present sizes."""
        return self.make(*now(self.args))


def renew(scalars: list[list]) -> None:
    """Give runtime inputs that are marked their present values, in the memory that they have."""
    for entry in scalars:
        array, value = entry[1], entry[2].now()
        if type(entry[2]) is Table and array.shape != value.shape:
            array.resize(value.shape, refcheck=False)
        array[()] = value


def note_fit(value: Any, d: dtype) -> None:
    """Note that a number has a place in dtype `d`: another one without is not this event again."""
    if session.event is not None:
        session.event.fitted.append((value, d))


def note_snapshot(node: Node, t: Handle) -> None:
    """Note that `node` is a copy of what `t`, whose memory is shared with NumPy, held at this event."""
    s = session
    if s.event is None:  # it was looked at between two calls, and is no operand of either
        return
    out, slot = s.index.get(id(t)), s.slot_index.get(id(t))
    if out is None and slot is None:
        s.unfollowable = "memory shared with NumPy is read through a tensor that no argument names"
    else:
        s.event.snapshots.append(((SLOT, slot) if out is None else (OUT, out), node))


def unfollowable(reason: str) -> None:
    """Say that this segment does something that only Python can repeat, so it is recorded every time."""
    session.unfollowable = reason


_flusher: Callable[[str], None]
_position: Callable[[], int]


def set_flusher(f: Callable[[str], None]) -> None:
    """Install the function that runs pending work."""
    global _flusher
    _flusher = f


def set_position(f: Callable[[], int]) -> None:
    """Install the function that tells how many events were followed."""
    global _position
    _position = f


def followed() -> int:
    """Return how many events of the current path were followed."""
    return _position()


def writes_ahead() -> set[int]:
    """Return the ids of storages from outside that followed events may have written, unseen in their memory yet."""
    path = session.path
    if path is None or session.flushing or not _position():
        return set()
    return {id(path.groups[k].storage) for k in path.writes}


def written_ahead(storage: Storage) -> bool:
    """Tell whether a storage is among those of `writes_ahead`."""
    return id(storage) in writes_ahead()


def history_ahead(storage: Storage) -> bool:
    """Tell whether followed events may have given a tensor from outside a history that it does not show yet."""
    path = session.path
    return path is not None and not session.flushing and not session.depth and _position() > 0 \
        and any(g.storage is storage for g in path.gives)


def gradient_ahead(t: Handle) -> bool:
    """Tell whether a tensor that was handed out is made a leaf, or gets a history, by an event still to come."""
    path = session.path
    if path is None or session.flushing:
        return False
    if not t._leaf:
        return bool(path.gains) and _position() <= max(
            (path.gains.get(g, -1) for o, g in zip(path.outs, path.out_groups) if o is t), default=-1)
    makes = (k for k, s in enumerate(path.steps) if s.op.name == "Tensor.requires_grad_" and s.specs[0][0] == OUT
             and path.outs[s.specs[0][1]] is t)
    return next(makes, -1) >= _position()


def busy() -> bool:
    """Tell whether anything is pending on this thread, recorded or followed."""
    return bool(session.touched or session.events) or (session.path is not None and _position() > 0)


_leaver: Callable[[], None]


def set_leaver(leave: Callable[[], None]) -> None:
    """Install the function that stops following."""
    global _leaver
    _leaver = leave


def leave_path() -> None:
    """Stop following: what was followed is recorded now. Call it before a change that is no event."""
    if session.path is not None and not session.depth:
        _leaver()


class unfollowed:
    """Follow nothing inside a block, so that every call runs."""

    def __enter__(self) -> None:
        leave_path()
        self.outer, knobs.follow = knobs.follow, False

    def __exit__(self, *exc: object) -> None:
        knobs.follow = self.outer


def changed() -> None:
    """Note that some tensor is no longer what known segments were made for: they are checked again first."""
    session.epoch += 1
    if session.path is not None and not session.depth and _position() == 0:
        _leaver()


def flush(reason: str) -> None:
    """Run everything pending on this thread."""
    own = session.__dict__  # to ask which thread this is takes longer than to read from a dict
    if own["flushing"]:
        return
    own["flushing"] = True
    depth, own["depth"] = own["depth"], 1
    try:
        _flusher(reason)
    finally:
        own["depth"] = depth
        own["flushing"] = False
        for left in ("notes", "older", "owed"):
            if own[left]:
                own[left] = []
    if own["due"]:
        _make_checks(session)


def flush_after(what: Any, reason: str) -> None:
    """Run everything pending because a piece of work is done; inside a backward, when that has ended."""
    if session.driving:
        session.owed.append(what)
    else:
        flush(reason)


def may_be_read(storage: Storage) -> bool:
    """Tell whether pending events may read a storage from outside."""
    path = session.path
    return id(storage) in session.starts if path is None else any(g.storage is storage for g in path.groups)


def check_later(check: Callable[[Any], None], t: Handle, where: Any) -> None:
    """Let the flush that computes `t` call check(t), which may raise; all else that it computes stands by then."""
    session.due.append((check, t, where))


def _make_checks(s: Session) -> None:
    due, s.due = s.due, []
    wrong = None
    for check, t, where in due:
        value = t._storage.node.buffer
        if t._storage.node.row is failed:
            continue
        if value is None:  # a flush on the way from following to recording
            s.due.append((check, t, where))
        elif wrong is None and value.tobytes().strip(b"\0"):  # any() costs a microsecond
            wrong = check, t, where
    if wrong is not None:
        check, t, where = wrong
        try:
            check(t)
        except Exception as e:
            e.add_note(f"called at {show(where)}")
            raise


def set_grad(t: Any, new: Any) -> None:
    """Set t.grad: an effect of Python's that is no event, undone and redone if following fails."""
    if t._grad is not new:
        set_grads([t], new)


def set_grads(tensors: list[Any], new: Any) -> None:
    """Set the .grad of several tensors to `new`."""
    s = session
    k = _position() if s.path is not None and not s.depth else 0
    if k:  # before the first event there is nothing to go back to
        s.path.undo += [(k, t, "_grad", t._grad) for t in tensors]
        s.effects.append((k, lambda: set_grads(tensors, new)))
    recording = s.path is None and bool(s.events)
    for t in tensors:
        if recording:
            note_grad(t)
        t._grad = new


def note_leaf(t: Handle) -> None:
    """Note whether gradients are collected at a tensor, before a followed event has changed that."""
    s = session
    k = _position() if s.path is not None and not s.depth else 0
    if k:
        s.path.undo.append((k, t, "_leaf", t._leaf))
