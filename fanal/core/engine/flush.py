"""The flush of a recorded segment: find what must be in memory afterwards, run it, keep the tape usable."""

from __future__ import annotations

import gc
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from sys import getrefcount
from typing import Any
from weakref import ref

from fanal.core.base import knobs
from fanal.core.base.state import state
from fanal.core.engine.cache import run_program
from fanal.core.engine.carry import Uncarried, reads
from fanal.core.engine.failure import FAILURES, Failure, closed, failures, first_of, give_up, rewind
from fanal.core.engine.handle import Handle, newest
from fanal.core.engine.inherit import references
from fanal.core.engine.ledger import ledger
from fanal.core.engine.record import CONST, OUT, PATIENCE, SEQUENCE, SLOT, Session, place_key, session
from fanal.core.engine.rng import rng
from fanal.core.ir.batch import unknown
from fanal.core.ir.prims import alias, input_
from fanal.core.ir.program import FREED, Node, toposort

STRANGERS = 8  # by so many more segments at a place are new than come again, before they are run in pieces
MAX_PLACES = 64
MAX_SEEN = 512  # segments remembered at a place
LATELY = 4  # segments at a place, among which one that came again is of a loop that repeats
MAX_LEAVES = 1 << 14  # the same of their leaves
_LISTED = next(map(getrefcount, [object()]))  # references to what only a list holds, as getrefcount counts them

# Installed by `follow`: draw a path from the session before it runs; run it and keep it.
draft: Callable[[Any], Any] | None = None
learn: Callable[[Any, tuple, list, bool], None] | None = None

# A segment is recorded when its backward goes through history that another left as it was recorded. It is run as a path
# all the same, once: so its own history is carried, and the next segment need not be recorded for the same reason.
EARLIER = "backward goes through values of an earlier segment"


def residuals(roots: list[Node]) -> list[Node]:
    """Return the pending forward values that the gradient rules of live history will ask for.

    Found by a dry run of the rules on a stand-in gradient: what they reference is what they need.
    """
    needed: dict[int, Node] = {}
    seen: set[int] = set()
    stack = [r for r in roots if r.needs_grad and not r.freed]
    while stack:
        n = stack.pop()
        if id(n) in seen or n.freed:
            continue
        seen.add(id(n))
        stack.extend(i for i in n.inputs if i.needs_grad)
        if n.hooks is not None and n.hooks.saved is not None:
            continue  # whoever packed the values keeps them
        try:
            needed.update((id(r), r) for r in reads(n))
        except (Uncarried, RuntimeError):
            # A rule that runs the user's Python may ask for anything; one without a derivative raises in backward.
            needed.update((id(i), i) for i in (n, *n.inputs))
    found: dict[int, Node] = {}
    for n in needed.values():
        while n.row is alias and n.buffer is None:
            n = n.inputs[0]  # where a leaf's gradient arrives, the value is the leaf's own
        if n.buffer is None:
            found[id(n)] = n
    return list(found.values())


def directions(roots: list[Node]) -> list[Node]:
    """Return the pending tangents of values, and theirs, at the levels that are still open."""
    found = {}
    waiting = list(roots)
    while waiting:
        known = waiting.pop().tangents or {}
        for t in (known[level] for level in state.levels if level in known):
            if id(t) not in found:
                found[id(t)] = t
                waiting.append(t)
    return [t for t in found.values() if t.buffer is None]


def flush_recorded(reason: str) -> None:
    """Run every pending value of this thread that anybody still holds."""
    s = session
    if not (s.touched or s.events):  # nothing is pending
        s.unfollowable = None
        s.begin()
        return
    touched, s.touched = s.touched, {}
    calls, writes, grads = [e.where for e in s.events], s.writes, s.regrads
    # A plan is a great many objects that stay: the collector would look through all of them again and again.
    collecting = gc.isenabled()
    gc.disable()
    try:
        try:
            _run_recorded(touched)
        except FAILURES:
            failure = _without_failures(touched, calls, writes, grads)
            if failure is None:
                raise
        else:
            failure = None
    except BaseException:  # Ctrl-C, or memory that ran out: what has no value yet stays pending, for the next flush
        for key, r in touched.items():
            st = r()
            if st is not None and st.node.buffer is None:
                s.touched.setdefault(key, r)
        raise
    finally:
        if collecting:
            gc.enable()
    if failure is not None:
        raise failure.error()


def _without_failures(touched: dict, calls: list[Any], writes: list[tuple], grads: list[tuple]) -> Failure | None:
    """Run what is pending but for what cannot be computed; return the first failure. See `failure`."""
    pending = [st.node for st in _pending(touched)]
    if session.levels or (session.vmapped and unknown(toposort(pending))):
        return None  # what belongs to one example of a mapped function has no value
    found = failures(pending)
    if not found:
        return None
    k, first = first_of(found.values(), calls)
    rewind(writes, grads, 2 * k + 1)
    live = _pending(touched)
    found = failures([st.node for st in live])
    good = []
    for st in live:
        if id(st.node) in found:
            give_up(st, found[id(st.node)])
        else:
            good.append(st.node)
    extra = residuals(good) + directions(good)
    found = failures(extra)
    _compute(list({id(n): n for n in [*good, *extra] if id(n) not in found}.values()))
    return first


def _pending(touched: dict) -> list[Any]:
    """Return the storages that somebody holds whose values are still to be computed."""
    storages = [r() for r in touched.values()]
    return [st for st in storages if st is not None and st.node.buffer is None and not st.meta]


def _run_recorded(touched: dict) -> None:
    s = session
    refused, s.unfollowable = s.unfollowable, None
    drawn: Any = None
    mode: tuple = ()
    run = run_program
    if s.events:
        mode = s.events[0].mode
        if s.waiting or rng.kept or s.inside or state.levels:
            refused = refused or "a value was read in a callback, a checkpoint or a level of forward mode"
        if s.event is not None:  # what it did until here is no call that could come again
            refused = refused or "a value was needed within a call"
        place = place_of(s)
        place.note(s)
        if knobs.follow and knobs.compile and s.naming is None and place.meet(s):
            from fanal.core.engine.pieces import run_in_pieces  # and with it the compiler

            refused, run = "a segment that begins where none comes again", run_in_pieces
        if refused in (None, EARLIER) and draft is not None and knobs.follow:
            with s.naming or nullcontext():
                drawn = draft(s)
            drawn.place = place
            refused = refused or drawn.refused or drawn.unnamed
    handles = [ref(o) for o in s.outs] if drawn is not None else []
    s.begin()  # whatever is alive from here on is held by somebody else
    live = _pending(touched)
    if s.vmapped:
        hidden = unknown(toposort([st.node for st in live]))
        known = [st for st in live if id(st.node) not in hidden]
        if s.levels or len(known) < len(live):
            refused = refused or "a value was read inside a function that is mapped, or outlives it"
        live = known
    alive = [o for o in (h() for h in handles) if o is not None]
    held = [o for o in alive if (n := newest(o)).needs_grad and not n.freed]
    others = _open_elsewhere(live, alive, held, drawn)
    left = bool(held or others)
    once = refused == EARLIER and drawn is not None and drawn.refused is None and left
    uncarried = drawn.leave_open(held, others) if drawn is not None and (refused is None or once) and left else None
    refused = refused or uncarried
    if drawn is not None and not uncarried and (refused is None or once) and learn is not None and drawn.covers(live):
        learn(drawn, mode, held, not once)
        forget(drawn.originals)
    elif live:
        extra = residuals([st.node for st in live]) + directions([st.node for st in live])
        if s.vmapped:
            hidden = unknown(toposort(extra))
            extra = [n for n in extra if id(n) not in hidden]
        _compute(list({id(n): n for n in [*(st.node for st in live), *extra]}.values()), run)
    if live:
        ledger.flushes += 1
    if refused:
        ledger.refused[refused] = ledger.refused.get(refused, 0) + 1


def _open_elsewhere(live: list[Any], alive: list[Any], held: list[Any], drawn: Any) -> list[Any]:
    """Return the storages whose history may be continued by others than `held`, of the tensors that are `alive`.

    A value that only detached tensors show, as the hidden state that a loop takes over, ends its history here.
    """
    counts = list(map(getrefcount, live))
    known = {id(o._storage) for o in held}
    shown = Counter(id(o._storage) for o in alive)
    if drawn is not None:
        shown.update(references((drawn, *(session.paths.all if session.paths is not None else ()))))
    return [st for st, count in zip(live, counts) if st.node.needs_grad and not st.node.freed
            and id(st) not in known and count - _LISTED != shown[id(st)]]


def _compute(outputs: list[Node], run: Callable[..., list] = run_program) -> None:
    if not outputs:
        return
    program, given = closed(outputs)
    for n, a in zip(outputs, run(program, given)):
        n.buffer = a
    forget(program.nodes)


def forget(nodes: list[Node]) -> None:
    """Cut computed values from their past, unless gradients may still flow there."""
    for n in nodes:
        if n.buffer is not None and (not n.needs_grad or n.freed == FREED):
            n.inputs = ()
            if not n.needs_grad:
                n.row, n.params = input_, (n.shape, n.dtype)


class Place:
    """Where segments begin: which ones were recorded there, and how many more were new than came again, lately.

    Data is often prepared in another way in every step: sequences of many lengths are cut and filled, letters become
    ones among zeros. Where most segments are recorded, they are cut before the first call whose result has a history,
    at the `border`: what comes before stays new, and the model's work behind it is known.
    """

    __slots__ = ("border", "leaves", "met", "recorded", "seen", "strangers")

    def __init__(self) -> None:
        self.seen: OrderedDict[int, int] = OrderedDict()  # and as which it was recorded here the last time
        self.met = 0
        self.leaves: set[int] = set()  # ids of those that segments had here
        self.strangers = 0
        self.recorded = 0  # by so many more segments were recorded than followed
        self.border: Any = None

    def followed(self, path: Any) -> None:
        """Note that a segment was followed. That it comes a third time says no more about those that are new."""
        path.followed = ledger.flushes
        if not path.came_again:
            path.came_again = True
            self.strangers = max(0, self.strangers - 1)
        self.recorded = max(0, self.recorded - 1)

    def meet(self, s: Session) -> bool:
        """Note the recorded segment; tell whether it is new where most are."""
        calls = tuple([(e.op.key, *[x if kind in (OUT, SLOT) else kind for kind, x in e.specs]) for e in s.events])
        constants = tuple([_constants(e.specs) for e in s.events])
        ids = [id(t) for t, _, _ in s.slots if t._leaf]
        leaves = tuple([i if i in self.leaves else 0 for i in ids])  # one that is new to all may be new in every step
        if len(self.leaves) > MAX_LEAVES:
            self.leaves.clear()
        self.leaves.update(ids)
        form = hash(calls)
        exact = hash((form, constants, leaves))
        # Other integers may yet get names. Where that does not help, other constants or leaves are another segment.
        same = [k for k in (exact, form)[:1 if self.recorded > PATIENCE else 2] if k in self.seen]
        # One that came long ago is there by chance. A loop that begins now is followed from the third time on.
        lately = any(self.met - self.seen[k] <= LATELY for k in same)
        for key in (form, exact):
            self.seen[key] = self.met
            self.seen.move_to_end(key)
        self.met += 1
        while len(self.seen) > MAX_SEEN:
            self.seen.popitem(last=False)
        self.strangers = max(0, self.strangers - 1) if same else min(self.strangers + 1, 2 * STRANGERS)
        return self.strangers > STRANGERS and not lately

    def note(self, s: Session) -> None:
        """Note that a segment had to be recorded."""
        self.recorded = min(self.recorded + 1, 2 * PATIENCE)
        if self.recorded > PATIENCE and self.border is None:
            self.border = next((e.where for e in s.events if _has_history(e.out)), None)
            if self.border == s.events[0].where:
                self.border = None


def _constants(specs: list[tuple]) -> tuple:
    """Return the constants of a call by which segments differ. Floats are numbers that may be others in every run."""
    found: list[Any] = []
    for kind, x in specs:
        if kind == SEQUENCE:
            found.append(_constants(x[1]))
        elif kind == CONST and type(x) in (int, bool, str, slice):
            found.append((x.start, x.stop, x.step) if type(x) is slice else x)
    return tuple(found)


def _has_history(out: Any) -> bool:
    if isinstance(out, (tuple, list)):
        return any(map(_has_history, out))
    return isinstance(out, Handle) and out._node.needs_grad


def place_of(s: Session) -> Place:
    """Return the place where the recorded segment begins."""
    key = place_key(s.events[0].where)
    found = s.places.get(key)
    if found is None:
        found = s.places[key] = Place()
        if len(s.places) > MAX_PLACES:
            del s.places[next(iter(s.places))]
    return found
