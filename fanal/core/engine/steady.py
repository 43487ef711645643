"""The steady state: a path that ran as it did last time is armed, and the next run takes the short way.

An armed path has native tables. The step of a `backward` asks for itself whether every `.grad` is where it was,
and sets the new ones; a batch that comes as a new tensor is compared and taken over by the matcher; and the end of
the segment asks once whether parameters, states and holders are what they were. Whatever changes a path (a tensor
that somebody kept, a parameter that was replaced, another branch) disarms it, and the long way in `follow` and
`path` decides. Both ways do the same; this one only asks faster.
"""

from __future__ import annotations

from sys import getrefcount
from typing import TYPE_CHECKING, Any
from weakref import ref

from fanal.core.base.dim import Dim, varies
from fanal.core.engine.draft import BY_GRADIENT
from fanal.core.engine.ledger import ledger
from fanal.core.engine.matcher import matcher
from fanal.core.engine.naming import named
from fanal.core.engine.record import CONST, OUT, SEQUENCE, SLOT, parts, renew
from fanal.core.engine.tables import (
    HANDLE,
    NODE,
    STORAGE,
    Condition,
    Elements,
    Rebinding,
    Table,
    alone,
    bare,
    holds,
    length,
    native,
    references,
)
from fanal.core.ir.prims import input_

if TYPE_CHECKING:
    from fanal.core.engine.path import Path
    from fanal.core.engine.spare import Generation

NOBODY = object()  # an argument no caller can pass: such a step is always compared in Python


def _looks() -> int:
    """Return how many references `path.count` sees more than there are: those of looking."""
    o = [object()]
    return next(map(getrefcount, o)) - references(map(id, o))[0]


_LOOKED_AT = _looks()


class Patience:
    """How many runs to wait before a path is armed again: more and more, if it was armed for nothing.

    A batch joined of examples does that, of which one may come twice, and arming costs as much as some runs.
    """

    def __init__(self) -> None:
        self.vain = self.runs = 0

    def note(self, ran: bool) -> None:
        """Note whether an armed path ran the short way before it had to take the long one."""
        self.vain = 0 if ran else min(self.vain + 1, 6)
        self.runs = 1 << self.vain >> 2  # the first two times are as good as none

    def over(self) -> bool:
        """Tell whether the waiting is over, one run later."""
        self.runs -= 1
        return self.runs < 0


class Steady:
    """What the next run of an armed path needs, laid out once.

    Tables hold addresses; the path owns what they point to, and is disarmed before it lets go of any of it.
    """

    def __init__(self, path: Path, counts: list[int]) -> None:
        """`counts` are the references to what the path handed out, as its last run found them."""
        self.path = path
        self.ran = False
        groups = path.groups
        self.held = [(i, counts[i]) for i in path.held]
        self.sequences = counts[len(path.outs):]
        conditions: list[Condition] = [
            alone(id(path.outs[i]), c - _LOOKED_AT)
            for i, c in enumerate(counts[:len(path.outs)])
            if i not in path.held and i not in path.grads
        ]
        for i, o in enumerate(path.outs):
            if i not in path.held and i not in path.grads:  # what somebody keeps takes with it what hangs on it
                conditions += bare(o)
        self.fixed = {slot for slot in path.slots if not slot.moves or slot.cut_out_of(groups[slot.group])}
        moving = {slot.group: slot for slot in path.slots if slot not in self.fixed}
        fixed = {k: groups[k] for _, k in path.from_groups if k not in moving}
        fixed |= {k: groups[k] for k in path.keep if groups[k].external}
        conditions += [holds(g.storage, STORAGE["node"], g.storage.node) for g in fixed.values()]
        conditions += [holds(g.storage.node, NODE["buffer"], g.storage.node.buffer) for g in fixed.values()]
        nodes = [id(g.storage.node) for g in path.written]
        conditions += map(alone, nodes, references(nodes))
        self.table = Table(conditions)
        self.inputs = [(j, moving[k]) for j, k in path.from_groups if k in moving]
        self.outside = {id(groups[slot.group].storage) for slot in self.fixed}
        # A .grad that serves again changes between two versions: awaited, and computed.
        self.versions = {}
        for k in (*(k for _, k in path.own), *(k for *_, k in path.kept_rows)):
            storage = groups[k].storage
            self.versions[k] = (storage.version, storage.version + 1)
        self.computed = Table([], [
            effect
            for _, k in path.own
            for effect in ((groups[k].storage, STORAGE["node"], groups[k].value),
                           (groups[k].storage, STORAGE["version"], self.versions[k][0]))
        ])
        self.given = list(path.given)
        self.results = list(path.results)
        held = {path.out_groups[i] for i in path.held}
        self.made = [i for i, _ in path.made]
        self.kept = [(i, groups[k]) for i, k in path.made if k in held]
        self.dropped = [i for i, k in path.made if k not in held]  # this time: another run kept it
        # What is held, in two generations that take turns (spare.py): the one handed out, and the one before.
        self.now: Generation | None = None
        self.before: Generation | None = None
        self.misses = 0
        self.expected: list[tuple[Any, int, Any]] = []  # steps and arguments that are tuples known by themselves
        self.guard: list[Any] = []
        self.hooks: list[Any] = []  # those of leaves, which the tables look into
        self.rebound: dict[Any, None] = {}
        self.listed: list[Any] = []
        try:
            self.guard += [s for s in path.steps if (s.grads or s.hooked) and self._guard(s)]
            self.rebound.update({slot: None for slot in path.slots if self._rebind(slot)})
            self.listed += [s.native for s in path.steps if s.sequences and self._listed(s)]
            self.released = [slot for slot in path.slots if slot.moves and slot not in self.rebound]
            path.steady = self  # here: an interrupt must not find the matcher with tables that no path knows
        except BaseException:  # an interrupt
            path.steady = None
            self.guard = [s for s in path.steps if s.grads or s.hooked]
            self.rebound = {slot: None for slot in path.slots if slot.moves and slot.uses}
            self.listed = [s.native for s in path.steps if s.sequences]
            self.release()
            raise

    def take_turns(self, first: Generation | None) -> None:
        """Hand out what is held in generations from now on, or with None anew every time."""
        self.now, self.before = first, None

    def _stays(self, spec: tuple) -> bool:
        """Tell whether a specification means the same object in every run."""
        kind, x = spec
        return (kind == OUT and x not in self.path.held) or (kind == SLOT and not self.path.slots[x].moves) or \
            (kind == CONST and type(x) is not Dim)

    def _guard(self, step: Any) -> bool:
        """Let the matcher follow a step with gradients."""
        path = self.path
        known = [spec for g in step.grads for spec in g[:2] if spec is not None] + [leaf for leaf, _ in step.hooked]
        if step.manual or step.built or step.walks or not all(map(self._stays, known)):
            return False
        conditions: list[Condition] = []
        for leaf, kinds in step.hooked:
            t = path.value(leaf)
            if kinds if t._hooks is None else t._hooks.kinds() ^ kinds:
                return False  # registered since the backward was called: that run had none
            conditions.append(holds(t, HANDLE["_hooks"], t._hooks))
            if t._hooks is not None:
                self.hooks.append(t._hooks)
                conditions += map(length, t._hooks.tables())
        effects: list[tuple[Any, int, Any]] = []
        for leaf, before, new in step.grads:
            t = path.value(leaf)
            was = None if before is None else path.value(before)
            conditions.append(holds(t, HANDLE["_grad"], was))
            if new is None:
                continue
            o, k = path.outs[new], path.out_groups[new]
            group = path.groups[k]
            if step.alone is None or group.stub is None:
                return False
            conditions.append(alone(id(o), step.alone[new]))
            conditions.append(holds(group.storage, STORAGE["foreign"], None))
            conditions.append(holds(group.storage, STORAGE["shared"], False))
            effects.append((t, HANDLE["_grad"], o))
            effects.append((group.storage, STORAGE["node"], group.stub))
            effects.append((group.storage, STORAGE["version"], self.versions[k][1]))
        expected = step.native
        expected.extra = table = Table(conditions, effects)
        expected.guard = table.address
        expected.key = step.op.key
        return True

    def _rebind(self, slot: Any) -> bool:
        """Let the matcher take over the tensors that come to a slot."""
        path = self.path
        group = path.groups[slot.group]
        if not slot.moves or not slot.uses or slot.listed or slot.returned or slot.first is BY_GRADIENT:
            return False
        if slot not in self.fixed and (group.slots != 1 or group.outs):
            return False
        if slot.window is None and slot.template is not None and varies(slot.template[1]):  # other places, looked at
            return False
        (expected, place), *later = slot.uses
        if expected.rebind or not all(step.key for step, _ in slot.uses) or not Rebinding.serves(slot.signature):
            return False
        table = Rebinding(slot.signature, place, later, slot.window is None,
                          group.storage if slot in self.fixed else None)
        expected.extra = (expected.extra, table)
        expected.rebind = table.address
        return True

    def _listed(self, step: Any) -> bool:
        """Let the matcher compare the tuples, lists and slices that a step is called with."""
        path, expected = self.path, step.native
        if not expected.key or named(step.specs):
            return False
        new: list[tuple[int, type, tuple]] = []  # what comes as another object every step
        for place, (kind, x) in enumerate(step.specs):
            if type(x) is slice:
                new.append((place, slice, parts(x)))
            if kind != SEQUENCE:
                continue
            made, specs = x
            if made not in (tuple, list) or not specs:
                return False
            same: Any = path.frozen.get(id(specs))
            if same is None:
                same, _ = path.known.get(id(specs), (NOBODY, None))
            if same is not NOBODY:
                matcher.set_arg(expected, place, same)
                self.expected.append((expected, place, same))
            if any(type(i) is slice for _, i in specs) or same is NOBODY:
                if not all(map(self._stays, specs)):
                    return False
                new.append((place, made, tuple(map(path.value, specs))))
        for place, made, elements in new:
            table = Elements(made, elements, place, expected.rebind)
            expected.extra = (expected.extra, table)
            expected.rebind = table.address
        return bool(new)

    def release(self) -> None:
        """Take the tables away. What the matcher took over meanwhile stays in `held`."""
        self.path.patience.note(self.ran)
        for s in self.guard:
            s.native.guard = 0
            s.native.key = 0  # as steps with gradients have it
        for step in (*(s.native for s in self.guard), *(slot.uses[0][0] for slot in self.rebound), *self.listed):
            step.rebind = 0
            step.extra = None
        for step, place, _ in self.expected:
            matcher.set_arg(step, place, NOBODY)
        for k, (_, awaited) in self.versions.items():  # versions that nobody has seen
            storage = self.path.groups[k].storage
            storage.version = awaited + (1 if storage.version == awaited else 2)
            if storage.node.home is not None:
                storage.node.home = storage.node.home[0], storage.version

    def ready(self) -> bool:
        """Tell whether all is as last time, and gather what the run is given. Nothing is changed."""
        path = self.path
        outs = path.outs
        if not native.holds(self.table.address):
            return False
        for i, count in self.held:
            if getrefcount(outs[i]) != count:
                return False
        if self.sequences and list(map(getrefcount, path.sequences)) != self.sequences:
            return False
        inputs = self.given
        seen = set()
        for j, slot in self.inputs:
            t = slot.uses[0][0].held if slot in self.rebound else None
            if t is None:
                t = slot.tensor
                if t is None:
                    return False
            storage = t._storage
            if id(storage) in self.outside or id(storage) in seen:
                return False  # one memory behind two names
            seen.add(id(storage))
            inputs[j] = storage.node.buffer
        renew(path.markers)
        if path.kept_rows and path.look_at_rows():
            return False
        exe = path.exe
        results = self.results
        for i, j, _ in path.kept_rows:
            results[i], results[j] = exe.new(i), exe.new(j)
        again = self.now.buffers if self.now is not None else ()
        for i, a in again:
            results[i] = a
        for i in self.dropped if again else self.made:
            results[i] = exe.new(i)
        self.begun = exe.exe.begun
        return True

    def run(self, again: bool) -> None:
        """Run the path, and give every tensor its value. `again`: an interrupt ended a former call."""
        path = self.path
        results = self.results
        exe = path.exe
        if not again or exe.exe.begun == self.begun:
            exe.again(self.given, results)
        native.apply(self.computed.address)
        served = self.now is not None and bool(self.now.buffers)
        if served:
            self.now.compute()  # type: ignore[union-attr]
        for i, group in () if served else self.kept:
            st = group.storage
            node = st.node
            node.buffer = results[i]
            if node.needs_grad:
                node.row = group.row
            else:
                node.row, node.params = input_, (node.shape, node.dtype)
            st.version += 1
            node.home = (ref(st), st.version)
        for i, j, k in path.kept_rows:
            path.keep_rows(k, results[i], results[j])
            path.groups[k].storage.version = self.versions[k][0]
        for j, _ in self.inputs:  # what came is nobody's here: it may be what the step before handed out
            self.given[j] = None
        for slot in self.rebound:
            (first, _), *later = slot.uses
            first.held = None
            for step, place in later:
                matcher.set_arg(step, place, NOBODY)
            if slot.tensor is not None:  # Python took it over
                path.release(slot)
        for slot in self.released:
            path.release(slot)

    def end(self) -> None:
        """Let go of the results."""
        for i in self.made:
            self.results[i] = None
        for i, j, _ in self.path.kept_rows:
            self.results[i] = self.results[j] = None
        ledger.followed += len(self.path.steps)
        ledger.flushes += 1
