"""Following: when the calls of a known segment come again, hand back its tensors; in the end run its program.

Python always runs, so the stream of calls is the guard: a call that differs ends the following. What was
matched until then is recorded after the fact, onto the very tensors that were handed out, and recording goes
on from there.
"""
from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from sys import getrefcount
from typing import Any
from weakref import getweakrefcount, ref

import numpy as np

from fanal.core.base import knobs
from fanal.core.base.dim import plainly
from fanal.core.base.state import state
from fanal.core.engine import aside, record
from fanal.core.engine import flush as recorded
from fanal.core.engine.branch import current, ending, handed_out, install, paths, possible, switch
from fanal.core.engine.cache import Interpreted, Run, executable
from fanal.core.engine.draft import Draft, ViewOfLeaf, copy_handle, derived, graft, stub
from fanal.core.engine.failure import FAILURES, Failure, give_up
from fanal.core.engine.handle import Origin, Storage, counted, keep_rows
from fanal.core.engine.inherit import fade, hand_on, parents_of, widen
from fanal.core.engine.interrupt import finish
from fanal.core.engine.ledger import ledger
from fanal.core.engine.matcher import matcher
from fanal.core.engine.naming import operations
from fanal.core.engine.path import MANUAL, Path
from fanal.core.engine.record import OUT, Op, session
from fanal.core.engine.sizes import Sizes, in_the_form_of
from fanal.core.engine.spare import MAX_MISSES, Generation, serves
from fanal.core.engine.steady import Steady
from fanal.core.engine.views import chain_of
from fanal.core.ir.prims import given
from fanal.core.ir.program import FREED


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
        return op.fn(*args, **kwargs) if s.opaque else record.explained(op, args, kwargs)
    path: Path | None = s.path
    if path is not None:
        k = position()
        # The matcher may know tensors that Python does not; a backward looks at leaves that no argument names.
        fits = k == len(path.steps) or not path.steps[k].grads or path.disarm()
        if fits and k < len(path.steps) and (
            path.same_call(path.steps[k], op, args, kwargs)
            or (path.steady is not None and path.take_over(path.steady)
                and path.same_call(path.steps[k], op, args, kwargs))
        ):
            return _take(path, k, op)
        if not fits:
            leave(path, k)
        elif k == 0:
            other = _start(op, args, kwargs, path)
            if other is not None:
                return other[0]
            leave(path, 0)
        else:
            other_path = switch(path, k, op, args, kwargs)
            if other_path is not None:
                return _take(other_path, k, op)
            if k == len(path.steps) or path.steps[k].op is not op:
                session.families.left = operations(path)
            leave(path, k)
    elif not s.events and not s.touched and knobs.follow:
        known = _start(op, args, kwargs, None)
        if known is not None:
            return known[0]
    where = record.caller(2)
    if s.border is not None and knobs.follow and record.cut(where):
        known = _start(op, args, kwargs, None)
        if known is not None:
            return known[0]
    return record.run_event(op, args, kwargs, where)


def _start(op: Op, args: tuple, kwargs: dict, but: Path | None) -> tuple | None:
    if session.levels or state.levels:
        return None
    mode = state.mode
    for p in paths().tried():
        if p is not but and p.mode == mode and possible(p, p.steps[0], op, args, kwargs, set()) and current(p) and \
                p.same_call(p.steps[0], op, args, kwargs):
            if not finish(_enter, p):
                return None
            return (_take(p, 0, op),)
    return None


def _enter(again: bool, path: Path) -> bool:
    """Follow a path from its start. With very many threads there may be no cursor to have; then this thread records."""
    if not matcher.set_cursor(path.steps[0].native):
        return False
    session.path = path
    return True


def _take(path: Path, k: int, op: Op) -> Any:
    """Follow event k: move on, repeat its effects, return its result."""
    step = path.steps[k]
    if step.copies:
        path.copy_shared(step)
    if step.grads or step.built:
        finish(_take_gradients, path, step)
    else:
        matcher.set_cursor(step.native.next)
    if step.returns_list:
        path.hand(step)
    out = step.native.out
    if step.flush:
        record.flush_after(op, op.name)
    return out


def _take_gradients(again: bool, path: Path, step: Any) -> None:
    path.disarm()
    kept = path.kept(step)
    if kept:
        renew(path, kept)
    path.effects(step)
    matcher.set_cursor(step.native.next)


def leave(path: Path, k: int) -> None:
    """Stop following after k events: record them after the fact, onto the tensors that were handed out."""
    finish(_leave, path, k, list(session.effects), list(path.undo), state.mode, len(session.waiting))


def _leave(again: bool, path: Path, k: int, effects: list, undo: list, mode: tuple, waiting: int) -> None:
    s = session
    s.path = None
    matcher.set_cursor(None)
    if k == 0:
        s.effects.clear()
        path.undo.clear()
        return
    path.disarm()
    if again:
        state.mode = mode
        for storage, node, version in s.starts.values():  # as they were before what was recorded
            storage.node, storage.version = node, version
    path.undo[:] = undo
    path.undo_grads(k)
    s.levels.clear()  # what was followed begins them again, of both kinds
    state.levels, state.forward = (), None
    if again:  # so it does with backwards that wait for Python
        del s.waiting[waiting:]
    s.begin()
    handed = handed_out(path, k)
    depth, s.depth, e = s.depth, 0, 0  # a flush may have brought us here
    try:
        for i in range(k):
            while e < len(effects) and effects[e][0] <= i:
                effects[e][1]()
                e += 1
            _again(path, path.steps[i])
            for a in path.asides.get(i + 1, ()):
                aside.note(path.outs[a.out])
        for _, effect in effects[e:]:
            effect()
    except FAILURES as error:  # the call raises, now that it runs: nobody can have what comes of it and of later ones
        for j in handed:
            if id(path.outs[j]) not in s.index and not path.groups[path.out_groups[j]].external:
                give_up(path.outs[j]._storage, Failure(error, path.steps[i].where))
        renew(path, handed)
        raise
    finally:
        s.depth = depth
        state.mode = mode
    renew(path, handed)
    for u in path.inherited:
        u.carried = None
    for slot in path.slots:
        t = slot.tensor
        if t is not None and ((slot.moves and slot.signature[-2]) or t._storage is not path.groups[slot.group].storage):
            path.release(slot)  # it keeps a graph, or is what came last and did not fit
    ledger.diverged += 1


def _again(path: Path, step: Any) -> None:
    """Record one followed event, and graft its results onto the tensors that were handed out."""
    s = session
    values = [path.value(spec) for spec in step.specs]
    if step.watch is not None and values[0] is None:
        values[0] = step.watch.of()
    args, kwargs = tuple(values[:step.positional]), dict(zip(step.kwnames, values[step.positional:]))
    state.mode = step.mode
    s.shown = {id(path.value(spec)): x for spec, x in step.copies.items()}
    s.again = step.native.out, {id(path.value(leaf)): kinds for leaf, kinds in step.hooked}
    try:
        with step.watch.restored() if step.watch is not None else nullcontext():
            record.run_event(step.op, args, kwargs, step.where)
    finally:
        s.again, s.shown = None, {}
    event = s.events[-1]
    event.flush |= step.flush
    event.manual |= step.manual
    event.out = _graft(path, step.out, event.out, s)
    grads = []
    for (_, _, new), (t, before, made) in zip(step.grads, event.grads):
        if made is not None and new is not None:
            made = _graft_one(path.outs[new], made, s)
            t._grad = made
        grads.append((t, before, made))
    event.grads = grads
    event.built = [(t, tuple([_graft_one(path.outs[i], n, s) for i, n in zip(which, parts)]), build)
                   for (_, which, build), (t, parts, _) in zip(step.built, event.built)]
    for t, parts, build in event.built:
        t._grad = build(t, *parts)


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
        if s.naming is not None:
            s.naming.replaced(n, o)
    return o


def renew(path: Path, which: list[int]) -> None:
    """Replace tensors that somebody else now holds by fresh ones, on fresh storages."""
    shown = {path.out_groups[i] for i in which}
    which = [*which, *(i for i in path.grads if path.out_groups[i] in shown and i not in which)]  # leaves hold these
    done: set[int] = set()
    for i in which:
        g = path.out_groups[i]
        group = path.groups[g]
        if g not in done and not group.external:
            done.add(g)
            old = group.storage
            group.storage = new = Storage(stub(old.node), old.meta)
            if group.value is not None:
                for i_own in (j for j, k in path.own if k == g):
                    path.results[i_own] = None
                    path.unmade.append(i_own)
                group.stub = group.value = None
            for k in group.outs:
                if k not in which:  # the others stay with whoever holds them
                    other = path.outs[k]
                    other._storage = new
                    other._seen = 0
                    if type(other._base_ref) is Origin:
                        other._base_ref.version += counted(new) - counted(old)
        o = path.outs[i]
        if o._path:
            if not o._node.inputs:
                o._seen = -1
            o._path = None
            if o._base_ref is ViewOfLeaf:
                o._base_ref = next((s.tensor for s in path.slots if s.group == g and s.tensor is not None and
                                    s.tensor._leaf), ViewOfLeaf)
        whole = not (o._chain or o._detached or group.external)  # then the storage's value is the tensor's
        install(path, i, copy_handle(o, group.storage, group.storage.node if whole else stub(o._node)))
    for i in which:
        for s in path.holders.get(i, ()):
            path.hand(s)


def _flush(reason: str) -> None:
    """Run everything pending: the path that was followed to its end, or what was recorded."""
    s = session
    path: Path | None = s.path
    if path is not None:
        k = position()
        if 0 < k < len(path.steps):
            path = ending(path, k) or path
        try:
            if k == len(path.steps) and commit(path):
                path.place.followed(path)
                return
        except FAILURES:
            pass  # recorded after the fact, it is found out which call is to blame
        if k == 0 and not s.touched:
            return
        if 0 < k < len(path.steps):
            s.families.left = operations(path)
        try:
            leave(path, k)
        finally:
            recorded.flush_recorded(reason)
        return
    recorded.flush_recorded(reason)


record.set_flusher(_flush)


def commit(path: Path) -> bool:
    """Run the program of a path that was followed to its end, and give every tensor its value.

    Returns False, and does nothing, when somebody holds a tensor with a history that following did not make.
    """
    if path.sizes is not None and not path.sizes.look():
        return False
    if path.sizes is not None and path.sizes.stayed():
        if not path.disarm():
            return False
        path.sizes.specialise()
    sizes, steady = path.sizes, path.steady
    if steady is not None:
        if (sizes is None or sizes.settled or sizes.settle()) and steady.ready():
            finish(_run_steady, path, steady)
            return True
        if not path.disarm():
            return False
    now = path.count()
    as_usual = now == path.usual and path.exe is not None
    if not as_usual and not _look_who_holds(path, now):
        return False
    if path.inherited and not all([u.holds(path) for u in path.inherited]):
        return False
    if not path.views.related_as_before() or not fade(path, paths().all):
        return False
    if path.look_at_rows():
        path.exe = None
    if path.exe is None or (isinstance(path.exe, Interpreted) and knobs.compile):  # it is seen again
        path.exe = executable(path.program(), None if path.sizes is None else path.sizes.compiled())
    if sizes is not None and not sizes.settled:
        as_usual &= not sizes.resized  # sizes that change every time never take the short way
        if not sizes.settle():
            return False
    parents, given_arrays = parents_of(path), path.arrays()
    if parents is None or given_arrays is None:
        return False
    fresh = path.results.copy()
    path.exe.provide(fresh, path.unmade)
    finish(_run_long, path, path.exe.begin(given_arrays, fresh), fresh, parents)
    if as_usual:
        path.arm(now)
        if path.steady is not None and path.held and sizes is None and serves(path):
            path.steady.take_turns(Generation(path))
    return True


def _run_steady(again: bool, path: Path, steady: Steady) -> None:
    if again:
        steady.take_turns(None)
    bases = path.views.bases(path)  # the run lets go of them
    steady.run(again)
    steady.ran = True
    path.undo.clear()
    session.effects.clear()
    if path.held:
        path.views.stand(path, path.held, bases)
        _hand_over(path, steady)
    for i in path.leaves:
        path.outs[i]._grad = None
    _expect_next(again, path)
    steady.end()


def _run_long(again: bool, path: Path, run: Run, fresh: list[Any], parents: list[list[Any]]) -> None:
    """Run a path's program, and give every tensor its value."""
    run.complete(again)
    results, groups = run.results, path.groups
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
        st.node.home = (ref(st), st.version)  # it serves again and again
    for i, j, g in path.kept_rows:
        path.keep_rows(g, results[i], results[j])
        groups[g].storage.version += 1
    for i, g in path.made:
        group = groups[g]
        st = group.storage
        node = given(results[i], st.node.dtype)
        if st.node.needs_grad:
            node.row, node.needs_grad, node.freed = group.row, True, FREED
        st.node = node
        st.version += 1
        node.home = (ref(st), st.version)
    if not run.handed_on:
        path.views.stand(path, path.held, path.views.bases(path))
    if path.taken and not run.handed_on:
        kept = set(path.keep)  # the others belong to nobody: they wait for the next step
        hand_on(path, results, [g.storage if g.external or k in kept else None for k, g in enumerate(groups)],
                parents, path.outs, path.held)
    run.handed_on = True
    for u in path.inherited:
        u.spend()
    for j, _, _ in path.from_carried:
        path.given[j] = None  # the values of a graph end with it
    path.undo.clear()
    session.effects.clear()
    if path.held:
        renew(path, path.held)
    if any(map(vars, path.outs)) or any(map(getweakrefcount, path.outs)):
        # What hangs on a tensor ends with it.
        marked = [i for i, o in enumerate(path.outs) if vars(o) or getweakrefcount(o)]
        renew(path, [i for i in marked if i not in path.grads])
    for _, g in path.made:  # what is left is nobody's: it is handed out anew, and has no value until then
        st = groups[g].storage
        if st.node.buffer is not None:
            st.node = stub(st.node)
    for slot in path.slots:
        if slot.moves:
            path.release(slot)
    for i in path.leaves:
        path.outs[i]._grad = None
    _expect_next(again, path)
    ledger.followed += len(path.steps)
    ledger.flushes += 1


def _hand_over(path: Path, steady: Steady) -> None:
    """Leave what an armed path handed out to whoever holds it: the generation before serves again if it is free."""
    now, before = steady.now, steady.before
    if now is None:
        renew(path, path.held)
        return
    now.retire(path)
    if before is not None and before.free():
        before.enter(path)
        steady.now, steady.before = before, now
        return
    renew(path, path.held)
    steady.misses += 1
    if steady.misses < MAX_MISSES:
        steady.now, steady.before = Generation(path), now
    else:  # the loop keeps more than the last results
        steady.take_turns(None)


def _look_who_holds(path: Path, now: list[int]) -> bool:
    """Find the tensors that somebody holds besides the path; their values must be in memory afterwards."""
    # Whether a .grad may serve again is asked at the next backward: until then its parameter holds it.
    held = [i for i in path.held_by_others(now) if i not in path.grads]
    if not path.hidden.isdisjoint(held):
        return False
    if not path.open.isdisjoint(held) and not _leave_open(path, held):
        return False
    more = {path.out_groups[i] for i in held if not path.groups[path.out_groups[i]].external} - path.live
    if more:
        path.live |= more
        path.exe = None
    path.held = held
    path.usual = now
    return True


def _leave_open(path: Path, held: list[int]) -> bool:
    """Prepare to keep the history of what is held, if that is possible."""
    if not path.views.once.isdisjoint(held):
        return False
    groups = {i: path.groups[path.out_groups[i]] for i in held if i in path.open}
    roots = {path.out_groups[i] for i, g in groups.items() if not (g.external and derived(path.outs[i], g))}
    if not roots:
        return True
    return not any(g.external and not g.gives for g in map(path.groups.__getitem__, roots)) and widen(path, roots)


def _settle_written(path: Path) -> None:
    """Note the new versions of storages from outside, whose memory the run has changed."""
    nodes = [g.storage.node for g in path.written]
    alone = list(map(getrefcount, nodes))
    # A node that somebody else refers to keeps standing for the old value, or for its part of an earlier graph.
    if alone != path.alone or path.gives:
        for k, g in enumerate(path.written):
            if g.gives or not path.alone or alone[k] != path.alone[k]:
                st = g.storage
                old = st.node
                st.node = given(old.buffer, old.dtype)
                st.node.needs_grad, st.node.freed = g.gives, FREED
        nodes = [g.storage.node for g in path.written]
        path.alone = list(map(getrefcount, nodes))
    for g in path.written:
        st = g.storage
        st.version += g.writes
        st.node.home = (ref(st), st.version)


def _expect_next(again: bool, ended: Path) -> None:
    """Set the cursor where the next segment probably begins."""
    own = session.__dict__
    known = own["paths"] or paths()
    if known.last is not None and not again:
        known.last.successor = ended
    nxt = ended.successor
    known.last = ended
    if nxt is None or own["levels"] or state.levels or not nxt.steps or nxt.mode != state.mode or not current(nxt) \
            or not matcher.set_cursor(nxt.steps[0].native):
        matcher.set_cursor(None)
        nxt = None
    own["path"] = nxt


def learn(draft: Draft, mode: tuple, held: list[Any], keep: bool) -> None:
    """Run a recorded segment as the path it will be, and keep the path or not. `held` has history for later."""
    p = Path(draft, mode)
    if draft.naming is not None:
        p.sizes = Sizes(p, draft.naming)
    program = p.program()
    if program.outputs:
        known = paths().families.partial(p)
        p.exe = executable(program, None if p.sizes is None else p.sizes.dims,
                           None if known is None else partial(in_the_form_of, known, p, program))
        arrays = []
        for k in p.bound:  # as of the start of the segment: storages stand at their new version
            kind, x = p.sources[k]
            if kind == "group":
                arrays.append(draft.starting[x].buffer)
            elif kind == "scalar":
                arrays.append(p.scalars[x][1])
            elif kind == "snapshot":
                arrays.append(draft.snapshot(*x))
                p.steps[x[0]].copies[x[1]] = arrays[-1]
            else:
                arrays.append(p.inherited[x[0]].carried.arrays[x[1]] if kind == "carried" else x)
        finish(_run_recorded, p, p.exe.begin(arrays), draft, held)
    for u in p.inherited:
        u.carried = None
    if draft.naming is not None and keep:
        draft.naming.family.judge(p, draft.naming)
    for slot in p.slots:
        if slot.moves or slot.shared:
            p.release(slot)
    if keep and not p.nameless():
        paths().add(p)
        finish(_expect_next, p)


def _run_recorded(again: bool, p: Path, run: Run, draft: Draft, held: list[Any]) -> None:
    run.complete(again)
    rows = {i: j for i, j, _ in p.kept_rows}
    for i, (g, a) in enumerate(zip(p.keep, run.results)):
        group = p.groups[g]
        storage = group.weak()
        if storage is not None and i in rows:
            keep_rows(storage, storage.node, group.final, run.results[rows[i]], a)  # type: ignore[arg-type]
        elif storage is not None:
            storage.node.buffer, storage.node.shape = a, plainly(storage.node.shape)
    if p.taken:
        hand_on(p, run.results, [g.weak() for g in p.groups], [draft.standing(t.parents) for t in p.taken],
                [r and r() for r in draft.made], range(len(draft.made)))
        for o in held:
            if o._node is not o._storage.node and chain_of(o) is None:
                o._seen = -1  # a view follows from what it is a view of


record.set_leaver(lambda: leave(session.path, position()))
recorded.draft = Draft
recorded.learn = learn
__all__ = ["MANUAL", "dispatch", "learn", "stub"]
