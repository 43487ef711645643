"""Known segments of a thread, and going over from one to another that began with the same events."""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import wraps
from threading import Thread, get_ident
from typing import Any

from fanal.core.base.dim import Dim, now
from fanal.core.engine import record
from fanal.core.engine.draft import BY_GRADIENT, Slot, Step, outs_in
from fanal.core.engine.handle import Handle, shared_outside, signature
from fanal.core.engine.inherit import admit_graphs
from fanal.core.engine.interrupt import finish
from fanal.core.engine.matcher import matcher
from fanal.core.engine.naming import Families, same_make
from fanal.core.engine.path import Path
from fanal.core.engine.record import OUT, Op, session

MAX_BATCH_BYTES = 4 << 20  # of batches that known segments of one thread hold
KEPT_PATHS = 4  # whatever they hold
MAX_PATHS = 128  # known segments of one thread


class Leaving:
    """Takes the cursor of a thread away when the thread ends: its segments are full of cycles, and stay for a while.

    Only the thread's session holds it. A fork lets go of the sessions of all other threads in the one that goes on.
    """

    def __init__(self) -> None:
        self.thread = get_ident()

    def __del__(self, get_ident: Callable = get_ident, set_cursor: Callable = matcher.set_cursor) -> None:
        if get_ident() == self.thread:
            set_cursor(None)


@wraps(Thread.start)
def _start(self: Thread, start: Callable[[Thread], None] = Thread.start) -> None:
    if not session.depth and record.busy():  # what a thread follows shows no writes to others before it has run
        record.flush("a thread starts")
    start(self)


Thread.start = _start  # type: ignore[method-assign]


class Paths:
    """The known segments of a thread."""

    def __init__(self) -> None:
        session.leaving = Leaving()
        self.all: list[Path] = []
        self.last: Path | None = None  # the segment that ended last
        self.families = session.families = Families()

    def add(self, p: Path) -> None:
        if len(self.all) >= MAX_PATHS:
            self.drop(min(self.all, key=lambda p: p.followed))  # the one that has not come for the longest time
        self._forget_batches()
        if p.sizes is None and p.steps:
            self.families.add(p, self.last)
        self.all.append(p)

    def tried(self) -> list[Path]:
        """Return the paths in the order in which they are tried: those of one size first, of these the latest."""
        return sorted(reversed(self.all), key=lambda p: p.sizes is not None)

    def drop(self, p: Path) -> None:
        """Forget a path; nobody is to follow it, or it would live on."""
        self.all.remove(p)
        self.families.forget(p)
        for other in self.all:
            if other.successor is p:
                other.successor = None
        if p is not session.path and p is not self.last:
            p.disarm()
            vars(p).clear()  # it is full of cycles, and would wait for the collector

    def _forget_batches(self) -> None:
        """Drop old paths that hold too much of what nobody else may need: the batches of steps that came once."""
        found = [_batches(p) for p in self.all]
        uses = Counter(key for held in found for key in held)  # what several paths hold belongs to a model
        total = 0
        for age, (p, held) in enumerate(zip(self.all[::-1], found[::-1])):
            own = sum(size for key, size in held.items() if uses[key] == 1)
            total += own
            if own and total > MAX_BATCH_BYTES and age >= KEPT_PATHS and p is not session.path and p is not self.last:
                self.drop(p)


def _batches(p: Path) -> dict[int, int]:
    """Return the bytes of the tensors from outside that a path holds and does not write, by their ids; a path that
    came again holds no batch, since its slots move."""
    return {id(slot.tensor): slot.tensor._storage.node.nbytes for slot in p.slots
            if slot.tensor is not None and not slot.tensor._leaf and slot.group not in p.writes}


def paths() -> Paths:
    """Return the known segments of this thread."""
    if session.paths is None:
        session.paths = Paths()
    return session.paths


def current(p: Path) -> bool:
    """Tell whether the tensors from outside are still what the path was made for."""
    if p.epoch != session.epoch:
        for slot in p.slots:
            if slot.tensor is not None:
                still = shared_outside(slot.tensor._storage)
                if slot.shared and not still and slot.first is not None:  # its array is gone: another may come
                    slot.moves = True
                    p.release(slot)
                    continue
                if signature(slot.tensor) != slot.signature:
                    # What a call names may be another tensor next time: one that was made a leaf never comes as it was.
                    if slot.first in (None, BY_GRADIENT) or not p.disarm():
                        return False
                    p.release(slot)
                    continue
                if slot.tensor._storage is not p.groups[slot.group].storage and not p.bind(slot, slot.tensor):
                    return False
        p.epoch = session.epoch
    return True


def switch(path: Path, k: int, op: Op, args: tuple, kwargs: dict) -> Path | None:
    """Find another known segment that began with the same k events, and move what was handed out onto it."""
    if not path.disarm():
        return None
    mine = set(map(id, path.outs))
    for p in paths().tried():
        if p is path or p.mode != path.mode or len(p.steps) <= k:
            continue
        if possible(p, p.steps[k], op, args, kwargs, mine) and \
                _over(path, p, k, lambda p: p.same_call(p.steps[k], op, args, kwargs)):
            return p
    return None


def possible(p: Path, s: Step, op: Op, args: tuple, kwargs: dict, mine: set[int]) -> bool:
    """Tell whether a call may be that of a step, before anything is moved: most segments differ in a shape.

    `mine`: the tensors that the segment being followed has handed out, by address. They are not from outside.
    """
    return s.op is op and len(args) == s.positional and tuple(kwargs) == s.kwnames and \
        all(_may_match(p, spec, a, mine) for spec, a in zip(s.specs, (*args, *kwargs.values())))


def _may_match(p: Path, spec: tuple, a: Any, mine: set[int]) -> bool:
    kind, x = spec
    if kind == record.CONST:
        return a is x or type(x) is Dim or record.alike(a, x)
    if kind == record.SLOT:
        slot = p.slots[x]
        if not isinstance(a, Handle) or id(a) in mine:
            return False
        return spec is not slot.first or a._storage.foreign is not None or slot.template is not None \
            or signature(a) == slot.signature
    if kind == record.SEQUENCE:
        made, specs = x
        if type(a) is made is slice:
            a = record.parts(a)
        return type(a) in (made, tuple) and len(a) == len(specs) and \
            all(_may_match(p, spec, i, mine) for spec, i in zip(specs, a))
    return True


def ending(path: Path, k: int) -> Path | None:
    """Find another known segment that consists of the first k events of this one, and move there."""
    if not path.disarm():
        return None
    for p in paths().tried():
        if p is not path and p.mode == path.mode and len(p.steps) == k and \
                _over(path, p, k, lambda p: True):
            return p
    return None


def _over(path: Path, p: Path, k: int, fits: Callable[[Path], bool]) -> bool:
    """Go over to a path that began with the same k events, if it fits."""
    if not current(p) or not _same_prefix(path, p, k) or not _adopt(path, p, k):
        return False
    try:
        if admit_graphs(p, p.steps[:k]) and fits(p):
            finish(_go_over, path, p, k)
    finally:
        if session.path is not p:
            _exchange(path, p, k)  # back
    return session.path is p


def _go_over(again: bool, a: Path, b: Path, k: int) -> None:
    session.path = b
    matcher.set_cursor(b.steps[k].native if k < len(b.steps) else None)
    if a.undo:
        b.undo, a.undo = a.undo, []
    for x, y in zip(a.steps[:k], b.steps):
        y.copies.update(x.copies)
    for slot in a.slots:
        if slot.moves:
            a.release(slot)


def _same_prefix(a: Path, b: Path, k: int) -> bool:
    return all(x.op is y.op and x.mode == y.mode and x.kwnames == y.kwnames and _alike(a, b, x.specs, y.specs)
               and x.out == y.out and x.grads == y.grads and x.built == y.built and x.hooked == y.hooked
               and x.copies.keys() == y.copies.keys()
               and x.manual == y.manual and (y.watch is None or (x.watch is not None and y.watch.same(x.watch)))
               for x, y in zip(a.steps[:k], b.steps[:k]))


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
            if pa != pb or not _same_slot(a.slots[pa], b.slots[pb]):
                return False
        elif ka == record.CONST:
            if not (pa is pb or type(pa) is Dim or type(pb) is Dim or record.alike(pa, pb)):
                return False
        elif ka == record.OBJECT:
            if pa() is not pb():
                return False
        elif pa != pb:
            return False
    return True


def _same_slot(x: Slot, y: Slot) -> bool:
    return x.signature == y.signature or (y.template is not None and same_make(x.signature, y.signature))


def handed_out(path: Path, k: int) -> list[int]:
    """Return the outs that the first k events returned."""
    found: dict[int, None] = {}
    for s in path.steps[:k]:
        found.update(dict.fromkeys(outs_in(s.out)))
        for _, _, new in s.grads:
            if new is not None:
                found[new] = None
        for _, parts, _ in s.built:
            found.update(dict.fromkeys(parts))
    return list(found)


def _adopt(a: Path, b: Path, k: int) -> bool:
    """Give b the tensors that a handed out and was given, and the numbers."""
    b.disarm()
    for x, y in zip(a.steps[:k], b.steps):  # in their order: sizes are named where they first come
        others = [s for g in x.grads for s in g[:2] if s is not None] + [leaf for leaf, *_ in (*x.built, *x.hooked)]
        if not all([_takes(a, b, s, t) for s, t in (*zip(x.specs, y.specs), *zip(others, others))]):
            return False
    _exchange(a, b, k)
    return True


def _takes(a: Path, b: Path, s: tuple, t: tuple) -> bool:
    """Give b what a was given for an argument; its specifications in the two are `s` and `t`."""
    (kind, x), (_, y) = s, t
    if kind == record.SLOT:
        return a.slots[x].tensor is b.slots[y].tensor or b.bind(b.slots[y], a.slots[x].tensor)
    if kind == record.SEQUENCE:
        return all(_takes(a, b, *pair) for pair in zip(x[1], y[1]))
    if kind == record.RUNTIME:
        return b.matches(t, a.scalars[x][0])  # False if it is of another type
    return Dim not in (type(x), type(y)) or b.matches(t, now(x))


def _exchange(a: Path, b: Path, k: int) -> None:
    """Swap the tensors of the first k events, with the storages they stand on and their memory, between two paths."""
    which = handed_out(a, k)
    groups: dict[int, int] = {}
    for i in which:
        if not a.groups[a.out_groups[i]].external:
            groups.setdefault(a.out_groups[i], b.out_groups[i])
    ends = [[(o._leaf, o._node) for o in map(p.outs.__getitem__, which)] for p in (a, b)]
    finish(_assign, a, b, [(i, a.outs[i], b.outs[i], *pair) for i, *pair in zip(which, *ends)],
           [(ga, gb, _standing(a, ga), _standing(b, gb)) for ga, gb in groups.items()])


def _standing(p: Path, g: int) -> tuple:
    group = p.groups[g]
    return group.storage, group.stub, group.value, group.storage.node


def _assign(again: bool, a: Path, b: Path, outs: list[tuple], storages: list[tuple]) -> None:
    for ga, gb, sa, sb in storages:
        for p, g, (storage, stub, value, _), (_, _, other, promise) in ((a, ga, sb, sa), (b, gb, sa, sb)):
            group = p.groups[g]
            if value is other is None:  # no .grad that serves again
                storage.node = promise
            group.storage, group.stub, group.value = storage, stub, value
            for i in [i for i, k in p.own if k == g]:  # where the run writes, if it writes into memory that was there
                p.results[i] = None if value is None else value.buffer
                p.unmade = [k for k in p.unmade if k != i] + ([i] if value is None else [])
    for i, oa, ob, (leaf_a, node_a), (leaf_b, node_b) in outs:
        oa._leaf, ob._leaf = leaf_b, leaf_a  # a path hands out what its tensors end as
        if node_a.buffer is node_b.buffer is None:
            oa._node, ob._node = node_b, node_a
        install(a, i, ob)
        install(b, i, oa)
    for p in (a, b):
        for g in p.groups:
            for i in g.outs:
                p.outs[i]._storage = g.storage
        for s in p.steps:
            p.hand(s)


def install(p: Path, i: int, t: Any) -> None:
    p.forget((OUT, i))
    p.outs[i] = t
    for native, place in p.refs.get(i, ()):
        matcher.set_arg(native, place, t)
