"""Following: when the calls of a known segment come again, hand back its tensors; in the end run its program.

Python always runs, so the stream of calls is the guard: a call that differs ends the following. What was
matched until then is recorded after the fact, onto the very tensors that were handed out, and recording goes
on from there.
"""
from __future__ import annotations

from sys import getrefcount
from typing import Any
from weakref import getweakrefcount, ref

import numpy as np

from fanal.core.base import knobs
from fanal.core.base.state import state
from fanal.core.engine import flush as recorded
from fanal.core.engine import record
from fanal.core.engine.cache import executable
from fanal.core.engine.draft import Draft, copy_handle, graft, stub
from fanal.core.engine.handle import Storage, shared_outside, signature
from fanal.core.engine.ledger import ledger
from fanal.core.engine.matcher import matcher
from fanal.core.engine.path import MANUAL, Path
from fanal.core.engine.record import OUT, Op, session
from fanal.core.ir.prims import given
from fanal.core.ir.program import FREED

MAX_PATHS = 64  # known segments of one thread


class Paths:
    """The known segments of a thread."""

    def __init__(self) -> None:
        self.all: list[Path] = []
        self.last: Path | None = None  # the segment that ended last

    def add(self, p: Path) -> None:
        if len(self.all) >= MAX_PATHS:
            self.all.pop(0)
        self.all.append(p)


def _mode() -> tuple:
    return (state.grad, state.inference)


def paths() -> Paths:
    """Return the known segments of this thread."""
    if session.paths is None:
        session.paths = Paths()
    return session.paths


def position() -> int:
    """Return how many events of the current path were followed."""
    path = session.path
    if path is None:
        return 0
    here = matcher.get_cursor()
    return len(path.steps) if here is None else path.index[id(here)]


record.set_position(position)


def dispatch(op: Op, args: tuple, kwargs: dict) -> Any:
    """Answer a call that the matcher did not: follow it in Python, or record it."""
    s = session
    if s.depth:
        return op.fn(*args, **kwargs)
    path: Path | None = s.path
    if path is not None:
        k = position()
        if k < len(path.steps) and path.same_call(path.steps[k], op, args, kwargs):
            return _take(path, k, op)
        if k == 0:
            other = _start(op, args, kwargs, path)
            if other is not None:
                return other[0]
            leave(path, 0)
        else:
            other_path = _switch(path, k, op, args, kwargs)
            if other_path is not None:
                return _take(other_path, k, op)
            leave(path, k)
    elif not s.events and not s.touched and knobs.follow:
        known = _start(op, args, kwargs, None)
        if known is not None:
            return known[0]
    return record.run_event(op, args, kwargs, record.caller(2))


def _current(p: Path) -> bool:
    """Tell whether the tensors from outside are still what the path was made for."""
    if p.epoch != session.epoch:
        for slot in p.slots:
            if slot.tensor is not None:
                shared_outside(slot.tensor._storage)
                if signature(slot.tensor) != slot.signature:
                    return False
                if slot.tensor._storage is not p.groups[slot.group].storage and not p.bind(slot, slot.tensor):
                    return False
        p.epoch = session.epoch
    return True


def _start(op: Op, args: tuple, kwargs: dict, but: Path | None) -> tuple | None:
    mode = _mode()
    for p in reversed(paths().all):
        if p is not but and p.steps[0].op is op and p.mode == mode and _current(p) and \
                p.same_call(p.steps[0], op, args, kwargs):
            # The cursor first: an interrupt finds the path at its start. With very many threads there may be none to
            # have; then this thread records.
            if not matcher.set_cursor(p.steps[0].native):
                return None
            session.path = p
            return (_take(p, 0, op),)
    return None


def _take(path: Path, k: int, op: Op) -> Any:
    """Follow event k: move on, repeat its effects, return its result."""
    step = path.steps[k]
    matcher.set_cursor(step.native.next)
    if step.grads:
        path.disarm()
        taken = path.taken(step)
        if taken:
            renew(path, taken)
        path.effects(step)
    out = step.native.out
    if op.flush:
        record.flush(op.name)
    return out


def _switch(path: Path, k: int, op: Op, args: tuple, kwargs: dict) -> Path | None:
    """Find another known segment that began with the same k events, and move what was handed out onto it."""
    if not path.disarm():
        return None
    for p in reversed(paths().all):
        if p is path or p.mode != path.mode or not p.outs or len(p.steps) <= k or p.steps[k].op is not op:
            continue
        if not _current(p) or not _same_prefix(path, p, k):
            continue
        if not _adopt(path, p, k):
            continue
        if p.same_call(p.steps[k], op, args, kwargs):
            session.path = p
            path.undo, p.undo = [], path.undo
            _finish_switch(path, p, k)
            return p
        _exchange(path, p, k)  # back
    return None


def _same_prefix(a: Path, b: Path, k: int) -> bool:
    return all(x.op is y.op and x.mode == y.mode and x.kwnames == y.kwnames and _alike(a, b, x.specs, y.specs)
               and x.out == y.out and x.grads == y.grads for x, y in zip(a.steps[:k], b.steps[:k]))


def _alike(a: Path, b: Path, x: list, y: list) -> bool:
    if len(x) != len(y):
        return False
    for (ka, pa), (kb, pb) in zip(x, y):
        if ka != kb:
            return False
        if ka == record.SEQUENCE:
            if pa[0] is not pb[0] or not _alike(a, b, pa[1], pb[1]):
                return False
        elif ka == record.SLOT:
            if pa != pb or a.slots[pa].signature != b.slots[pb].signature:
                return False
        elif ka == record.CONST:
            if not (pa is pb or (type(pa) is type(pb) and pa == pb)):
                return False
        elif ka == record.OBJECT:
            if pa() is not pb():
                return False
        elif pa != pb:
            return False
    return True


def _handed(path: Path, k: int) -> list[int]:
    """Return the outs that the first k events returned."""
    found: dict[int, None] = {}

    def walk(spec: tuple) -> None:
        if spec[0] == OUT:
            found[spec[1]] = None
        elif spec[0] == record.SEQUENCE:
            for i in spec[1][1]:
                walk(i)
    for s in path.steps[:k]:
        walk(s.out)
        for _, _, new in s.grads:
            if new is not None:
                found[new] = None
    return list(found)


def _used(path: Path, k: int) -> list[int]:
    found: dict[int, None] = {}

    def walk(specs: list) -> None:
        for kind, x in specs:
            if kind == record.SLOT:
                found[x] = None
            elif kind == record.SEQUENCE:
                walk(x[1])
    for s in path.steps[:k]:
        walk(s.specs)
        walk([p for g in s.grads for p in g[:2] if p is not None])
    return list(found)


def _adopt(a: Path, b: Path, k: int) -> bool:
    """Give b the tensors that a handed out and was given."""
    b.disarm()
    for i in _used(a, k):
        if a.slots[i].tensor is not b.slots[i].tensor and not b.bind(b.slots[i], a.slots[i].tensor):
            return False
    for x, y in zip(a.steps[:k], b.steps[:k]):
        for sa, sb in zip(x.specs, y.specs):
            if sa[0] == record.RUNTIME:
                b.matches(sb, a.scalars[sa[1]][0])
    _exchange(a, b, k)
    return True


def _exchange(a: Path, b: Path, k: int) -> None:
    """Swap the tensors of the first k events, with the storages they stand on, between two paths."""
    done: set[int] = set()
    for i in _handed(a, k):
        ga, gb = a.out_groups[i], b.out_groups[i]
        if ga not in done and not a.groups[ga].external:
            done.add(ga)
            a.groups[ga].storage, b.groups[gb].storage = b.groups[gb].storage, a.groups[ga].storage
        oa, ob = a.outs[i], b.outs[i]
        _install(a, i, ob)
        _install(b, i, oa)
    for p in (a, b):
        for g in p.groups:
            for i in g.outs:
                p.outs[i]._storage = g.storage
        for s in p.steps:
            matcher.set_out(s.native, p.value(s.out))


def _finish_switch(a: Path, b: Path, k: int) -> None:
    for slot in a.slots:
        if slot.moves:
            a.release(slot)


def _install(p: Path, i: int, t: Any) -> None:
    p.forget((OUT, i))
    p.outs[i] = t
    for native, place in p.refs.get(i, ()):
        matcher.set_arg(native, place, t)


def leave(path: Path, k: int) -> None:
    """Stop following after k events: record them after the fact, onto the tensors that were handed out."""
    s = session
    s.path = None
    matcher.set_cursor(None)
    if k == 0:
        s.effects.clear()
        path.undo.clear()
        return
    ledger.diverged += 1
    path.disarm()
    path.undo_grads(k)
    effects, s.effects = s.effects, []
    mode = _mode()
    s.begin()
    handed = _handed(path, k)
    depth, s.depth = s.depth, 0  # a flush may have brought us here
    e = 0
    try:
        for i in range(k):
            while e < len(effects) and effects[e][0] <= i:
                effects[e][1]()
                e += 1
            _again(path, path.steps[i])
        for _, effect in effects[e:]:
            effect()
    finally:
        s.depth = depth
        state.grad, state.inference = mode
    renew(path, handed)


def _again(path: Path, step: Any) -> None:
    """Record one followed event, and graft its results onto the tensors that were handed out."""
    s = session
    values = [path.value(spec) for spec in step.specs]
    args, kwargs = tuple(values[:step.positional]), dict(zip(step.kwnames, values[step.positional:]))
    state.grad, state.inference = step.mode
    flush_after, step.op.flush = step.op.flush, False
    try:
        record.run_event(step.op, args, kwargs, step.where)
    finally:
        step.op.flush = flush_after
    event = s.events[-1]
    event.out = _graft(path, step.out, event.out, s)
    grads = []
    for (_, _, new), (t, before, made) in zip(step.grads, event.grads):
        if made is not None and new is not None:
            made = _graft_one(path.outs[new], made, s)
            t._grad = made
        grads.append((t, before, made))
    event.grads = grads


def _graft(path: Path, spec: tuple, made: Any, s: Any) -> Any:
    kind, x = spec
    if kind == OUT:
        return _graft_one(path.outs[x], made, s)
    if kind == record.SEQUENCE:
        return path.value((kind, (x[0], [(record.CONST, _graft(path, i, m, s)) for i, m in zip(x[1], made)])))
    return made


def _graft_one(o: Any, n: Any, s: Any) -> Any:
    if o is n or id(o) in s.index:
        return o
    graft(o, n)
    k = s.index.pop(id(n), None)
    if k is not None:
        s.outs[k] = o
        s.index[id(o)] = k
    return o


def renew(path: Path, which: list[int]) -> None:
    """Replace tensors that somebody else now holds by fresh ones, on fresh storages."""
    done: set[int] = set()
    for i in which:
        g = path.out_groups[i]
        group = path.groups[g]
        if g not in done and not group.external:
            done.add(g)
            old = group.storage
            group.storage = new = Storage(stub(old.node), old.meta)
            if group.value is not None:
                group.stub = group.value = None
                i_own = next(j for j, k in path.own if k == g)
                path.results[i_own] = None
                path.unmade.append(i_own)
            for k in group.outs:
                if k not in which:  # the others stay with whoever holds them
                    path.outs[k]._storage = new
                    path.outs[k]._seen = 0
        o = path.outs[i]
        if o._path:
            o._seen, o._path = -1, None
        whole = not (o._chain or o._detached or group.external)  # then the storage's value is the tensor's
        _install(path, i, copy_handle(o, group.storage, group.storage.node if whole else stub(o._node)))
    for i in which:
        for s in path.holders.get(i, ()):
            matcher.set_out(s.native, path.value(s.out))


def _flush(reason: str) -> None:
    """Run everything pending: the path that was followed to its end, or what was recorded."""
    s = session
    path: Path | None = s.path
    if path is not None:
        k = position()
        if k == len(path.steps) and commit(path):
            return
        if k == 0:
            if not s.touched:
                return
        leave(path, k)
    recorded.flush_recorded(reason)


record.set_flusher(_flush)


def commit(path: Path) -> bool:
    """Run the program of a path that was followed to its end, and give every tensor its value.

    Returns False, and does nothing, when somebody holds a tensor with a history that following did not make.
    """
    steady = path.steady
    if steady is not None:
        if steady.run():
            path.undo.clear()
            session.effects.clear()
            if path.held:
                renew(path, path.held)
            _expect_next(path)
            return True
        if not path.disarm():
            return False
    now = path.count()
    as_usual = now == path.usual and path.exe is not None
    if not as_usual and not _look_who_holds(path, now):
        return False
    if path.exe is None:
        path.exe = executable(path.program())
    given_arrays, groups = path.arrays(), path.groups
    fresh = path.results.copy()
    for i in path.unmade:
        fresh[i] = path.exe.new(i)
    results = path.exe.run(given_arrays, fresh)
    for i, _ in path.overwritten:
        if results[i] is not fresh[i]:
            np.copyto(fresh[i], results[i])
    _settle_written(path)
    for i, g in path.own:
        group = groups[g]
        st = group.storage
        if group.value is None or group.value.buffer is not results[i]:
            group.stub, group.value = st.node, given(results[i], st.node.dtype)
            path.results[i] = results[i]
            path.unmade = [k for k in path.unmade if k != i]
        st.node = group.value
        st.version += 1
    for i, g in path.made:
        group = groups[g]
        st = group.storage
        node = given(results[i], st.node.dtype)
        if st.node.needs_grad:
            node.row, node.needs_grad, node.freed = st.node.row, True, FREED
        st.node = node
        st.version += 1
        node.home = (ref(st), st.version)
    path.undo.clear()
    session.effects.clear()
    ledger.followed += len(path.steps)
    ledger.flushes += 1
    if path.held:
        renew(path, path.held)
    if any(map(vars, path.outs)) or any(map(getweakrefcount, path.outs)):
        # What hangs on a tensor ends with it.
        marked = [i for i, o in enumerate(path.outs) if vars(o) or getweakrefcount(o)]
        renew(path, [i for i in marked if i not in path.grads])
    for slot in path.slots:
        if slot.moves:
            path.release(slot)
    if as_usual:
        path.arm(now)
    _expect_next(path)
    return True


def _look_who_holds(path: Path, now: list[int]) -> bool:
    """Find the tensors that somebody holds besides the path; their values must be in memory afterwards."""
    # Whether a .grad may serve again is asked at the next backward: until then its parameter holds it.
    held = [i for i, (a, b) in enumerate(zip(now, path.counts)) if a != b and i not in path.grads]
    if not path.open.isdisjoint(held):
        return False
    more = {path.out_groups[i] for i in held if not path.groups[path.out_groups[i]].external} - path.live
    if more:
        path.live |= more
        path.exe = None
    path.held = held
    path.usual = now
    return True


def _settle_written(path: Path) -> None:
    """Note the new versions of storages from outside, whose memory the run has changed."""
    nodes = [g.storage.node for g in path.written]
    alone = list(map(getrefcount, nodes))
    if alone != path.alone:  # a node that somebody else refers to keeps standing for the old value
        for k, g in enumerate(path.written):
            if not path.alone or alone[k] != path.alone[k]:
                st = g.storage
                old = st.node
                st.node = given(old.buffer, old.dtype)
                st.node.needs_grad, st.node.freed = old.needs_grad, FREED
        nodes = [g.storage.node for g in path.written]
        path.alone = list(map(getrefcount, nodes))
    for g in path.written:
        st = g.storage
        st.version += g.writes
        st.node.home = (ref(st), st.version)


def _expect_next(ended: Path | None) -> None:
    """Set the cursor where the next segment probably begins."""
    s = session
    known = paths()
    if ended is not None:
        if known.last is not None:
            known.last.successor = ended
        nxt = ended.successor
    else:
        nxt = None
    known.last = ended
    if nxt is None or not nxt.steps or nxt.mode != _mode() or not _current(nxt) \
            or not matcher.set_cursor(nxt.steps[0].native):
        nxt = None
        matcher.set_cursor(None)
    s.path = nxt


def learn(draft: Draft, mode: tuple) -> None:
    """Run a recorded segment as the path it will be, and keep the path."""
    p = Path(draft, mode)
    program = p.program()
    if program.outputs:
        p.exe = executable(program)
        arrays = []
        for k in p.bound:  # as of the start of the segment: storages stand at their new version
            kind, x = p.sources[k]
            if kind == "group":
                arrays.append(draft.starting[x].buffer)
            elif kind == "scalar":
                arrays.append(p.scalars[x][1])
            else:
                arrays.append(draft.snapshot(x) if kind == "snapshot" else x)
        for g, a in zip(p.keep, p.exe.run(arrays)):
            storage = p.groups[g].weak()
            if storage is not None:
                storage.node.buffer = a
    paths().add(p)
    _expect_next(p)


def _leave_here() -> None:
    leave(session.path, position())


record.set_leaver(_leave_here)
recorded.draft = Draft
recorded.learn = learn
__all__ = ["MANUAL", "dispatch", "learn", "stub"]
