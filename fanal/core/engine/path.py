"""A known segment: its steps, the tensors it hands out, and the program that computes it.

A path is made from a draft, and holds nothing of the user's but the tensors that come from outside (slots).
It owns copies of every tensor the segment returned; following hands those out.
"""
from __future__ import annotations

from sys import getrefcount
from typing import Any
from weakref import ref

import numpy as np

from fanal.core.base.dim import Dim, now
from fanal.core.base.dtype import fits
from fanal.core.engine.cache import Compiled
from fanal.core.engine.carry import Taken
from fanal.core.engine.draft import BY_GRADIENT, Draft, Slot, Step, outs_in, sequences_in
from fanal.core.engine.handle import Handle, copied, few_rows, keep_rows, shared_outside, signature, spread
from fanal.core.engine.inherit import admit_graphs
from fanal.core.engine.ledger import ledger
from fanal.core.engine.matcher import matcher
from fanal.core.engine.record import CONST, OBJECT, OUT, RUNTIME, SEQUENCE, SLOT, alike, changed, parts, renew
from fanal.core.engine.steady import NOBODY, Patience, Steady
from fanal.core.engine.tables import ATTRIBUTES, references
from fanal.core.ir.prims import input_
from fanal.core.ir.program import Node, Program, toposort

MANUAL = 0  # the key of steps matched in Python; operations count from 1


def _expect(native: Any, place: int, x: Any) -> ref:
    """Let the matcher expect an object by address until it dies: the next one there is another."""
    matcher.set_arg(native, place, x)
    return ref(x, lambda _: matcher.set_arg(native, place, NOBODY))


class Path:
    """A known segment of one thread, ready to be followed."""

    def __init__(self, draft: Draft, mode: tuple) -> None:
        self.slots, self.groups, self.scalars = draft.slots, draft.groups, draft.scalars
        self.inputs, self.sources = draft.inputs, draft.sources
        self.order = draft.order
        self.outs, self.out_groups, self.open = draft.outs, draft.out_groups, draft.open
        self.hidden, self.gains = draft.hidden, draft.gains
        self.steps = draft.steps
        self.inherited = draft.inherited  # graphs of earlier segments that it goes through
        self.outline = draft.outline  # of the history it leaves open
        self.roots = draft.roots  # groups whose history is kept for a later backward: the union over all runs
        self.taken: list[Taken] = []  # the graphs that it leaves
        self.views, self.asides = draft.views, draft.asides
        self.mode = mode
        self.place = draft.place
        self.came_again = False
        self.followed = ledger.flushes  # when it was, or was made
        self.epoch = draft.epoch  # of the tensors from outside, see record.changed
        # (event, tensor, "_grad" or "_leaf", what that was before): set between events, or by one.
        self.undo: list[tuple[int, Any, str, Any]] = []
        self.steady: Steady | None = None
        self.patience = Patience()
        self.sizes: Any = None  # those that may be others in the next run: Sizes, or None
        # Groups whose value must be in memory afterwards: the union over all runs.
        self.live = {k for k, g in enumerate(self.groups) if not g.external and g.weak() is not None}
        self.looked_at: set[int] = set()  # groups of large gradients that somebody read: they are computed
        self.exe: Any = None
        self.successor: Path | None = None
        self.outside = {k for k, g in enumerate(self.groups) if g.external}
        self.gives = [g for g in self.groups if g.gives]
        self.writes = [k for k, g in enumerate(self.groups) if g.external and g.final is not None]
        self.grads = {new: leaf for s in self.steps for leaf, _, new in s.grads if new is not None}  # by out
        self.leaves = [x for s in self.steps for (kind, x), _, _ in s.grads if kind == OUT]  # made here, with a .grad
        self.index: dict[int, int] = {}
        # By the id of a list of specifications: what matched it, as a tuple and as addresses; a tuple without tensors.
        self.known: dict[int, tuple[Any, list[int]]] = {}
        self.frozen: dict[int, tuple] = {}
        self.within: dict[tuple, set[int]] = {}  # a specification -> the lists in `known` that have it
        self.refs: dict[int, list[tuple[Any, int]]] = {}  # out -> (matcher step, place) that expect it
        self.holders: dict[int, list[Step]] = {}  # out -> steps that return it
        # Tuples and lists that the steps return, those within others too, and the outs in each of them.
        self.sequences: list[Any] = []
        self.sequence_outs: list[list[int]] = []
        self._forge()
        self.counts = self.count()
        self.alone_grads = {new: getrefcount(self.outs[new]) for new in self.grads}
        self.usual: list[int] = []  # the counts of the last run: if equal, the same tensors are held
        self.held: list[int] = []
        self.alone: list[int] = []  # reference counts of the nodes of written storages after a run

    def _forge(self) -> None:
        """Make the matcher's steps."""
        before = None
        self.objects: list[ref] = []  # of what calls are recognised by, without keeping it
        for i, s in enumerate(self.steps):
            s.index = i
            args = tuple(self._expected(spec) for spec in s.specs)
            manual = s.manual or s.copies or s.grads or s.built or s.walks or s.hooked or s.returns_list
            key = MANUAL if manual else s.op.key
            s.native = matcher.new_step(key, args, s.kwnames or None, self.value(s.out))
            if s.watch is not None and s.watch.table is not None:
                s.native.guard = s.watch.table.address
                for place, (kind, x) in enumerate(s.specs):
                    if kind == OBJECT and x() is not None:
                        self.objects.append(_expect(s.native, place, x()))
            self.index[id(s.native)] = i
            for place, (kind, x) in enumerate(s.specs):
                if kind == SLOT:
                    self.slots[x].uses.append((s.native, place))
                elif kind == OUT:
                    self.refs.setdefault(x, []).append((s.native, place))
                elif kind == RUNTIME:
                    self.scalars[x][3] = (s.native, place)
            self._note_first(s.specs, i, False)
            self._note_gradients(s)
            self._note_holder(s.out, s)
            self._note_sequences(s)
            if before is not None:
                matcher.link(before.native, s.native)
            before = s
        self.foreign = any(slot.shared for slot in self.slots)
        self.changing = [slot for slot in self.slots if slot.group in self.writes]
        for slot in self.slots:
            if slot.tensor._storage.node.needs_grad:
                slot.moves = True  # it belongs to one run of an earlier segment

    def _note_first(self, specs: list[tuple], step: int, listed: bool) -> None:
        for spec in specs:
            if spec[0] == SLOT:
                slot = self.slots[spec[1]]
                slot.listed |= listed
                if slot.first is None:
                    slot.first, slot.step = spec, step
            elif spec[0] == SEQUENCE:
                self._note_first(spec[1][1], step, True)

    def _note_gradients(self, s: Step) -> None:
        """Note what a backward finds that no call before named: what comes later as an argument must be the same."""
        leaves = [(SLOT, place) for u in s.walks for _, place in u.leaves]
        for kind, x in (*leaves, *(spec for g in s.grads for spec in g[:2] if spec is not None),
                        *(leaf for leaf, *_ in (*s.built, *s.hooked))):
            if kind == SLOT and self.slots[x].first is None:
                self.slots[x].first, self.slots[x].step = BY_GRADIENT, s.index

    def _note_holder(self, spec: tuple, s: Step) -> None:
        kind, x = spec
        if kind == OUT:
            self.holders.setdefault(x, []).append(s)
        elif kind == SLOT:
            self.slots[x].returned.append(s)
        elif kind == SEQUENCE:
            for i in x[1]:
                self._note_holder(i, s)

    def _note_sequences(self, s: Step) -> None:
        s.first_sequence = len(self.sequences)
        kind, x = s.out
        s.flat = (x[0], outs_in(s.out)) if kind == SEQUENCE and x[1] and all(i[0] == OUT for i in x[1]) else None
        for spec, x in sequences_in(s.out, s.native.out):
            self.sequences.append(x)
            self.sequence_outs.append(outs_in(spec))

    def hand(self, s: Step) -> None:
        """Let a step return the present tensors of its specification."""
        if s.flat is not None:
            kind, which = s.flat
            now = [self.outs[i] for i in which]
            out = now if kind is list else tuple.__new__(kind, now)
            matcher.set_out(s.native, out)
            self.sequences[s.first_sequence] = out
            return
        out = self.value(s.out)
        matcher.set_out(s.native, out)
        if s.out[0] == SEQUENCE:
            for k, (_, x) in enumerate(sequences_in(s.out, out), s.first_sequence):
                self.sequences[k] = x

    def _expected(self, spec: tuple) -> Any:
        kind, x = spec
        if kind == CONST:
            return x
        if kind == SLOT:
            return self.slots[x].tensor
        if kind == OUT:
            return self.outs[x]
        if kind == RUNTIME:
            return self.scalars[x][0]
        return NOBODY

    def value(self, spec: tuple) -> Any:
        """Return the object that a specification stands for."""
        kind, x = spec
        if kind == OUT:
            return self.outs[x]
        if kind == SLOT:
            return self.slots[x].tensor
        if kind == RUNTIME:
            return self.scalars[x][0]
        if kind == SEQUENCE:
            items = [self.value(i) for i in x[1]]
            several = x[0] is slice or hasattr(x[0], "_fields")
            return items if x[0] is list else x[0](*items) if several else x[0](items)
        return x() if kind == OBJECT else now(x)

    def release(self, slot: Slot) -> None:
        """Let go of a tensor from outside; the next one is compared by its signature."""
        self.forget((SLOT, slot.place))
        slot.tensor = None
        for native, place in slot.uses:
            matcher.set_arg(native, place, NOBODY)
        for step in slot.returned:
            self.hand(step)

    def bind(self, slot: Slot, t: Any) -> bool:
        """Let `t` take the place of a slot's tensor if it is of the same make."""
        if t._storage.foreign is not None:
            shared_outside(t._storage)
        if signature(t) != slot.signature and (self.sizes is None or not self.sizes.admit(slot, t)):
            return False
        g = self.groups[slot.group]
        s = t._storage
        if g.storage is not s:
            spread(s)
            if s.node.buffer is None:
                return False
        written = slot.group in self.writes
        for o in self.slots if written or t._leaf or slot.may_meet(self.groups, s) else self.changing:
            if o.tensor is None or (same := o.tensor._storage is s) == (o.group == slot.group) or o is slot:
                continue
            if o.place > slot.place and (o.moves or o.step >= 0):  # it comes later, and is looked at then
                if not o.moves:
                    if not self.disarm():
                        return False
                    o.moves = True
                    self.release(o)
            elif not same or written or t._leaf or o.group in self.writes:
                return False  # two views of one became views of two, or two became one and a write is missed
        if g.storage is not s:
            if slot.cut_out_of(g):
                if not self.disarm():
                    return False
                g.wanders = True
            g.storage = s
            for k in g.outs:  # their value is read anew, whatever version the other storage is at
                self.outs[k]._storage, self.outs[k]._seen = s, -1
        if slot.tensor is not None and not slot.moves:
            if not self.disarm():
                return False
            slot.moves = t is not slot.tensor
        self.forget((SLOT, slot.place))
        slot.tensor = t
        for step in slot.returned:
            self.hand(step)
        if s.foreign is not None:
            return True  # looked at anew every time it comes
        for native, place in slot.uses:
            matcher.set_arg(native, place, t)
        return True

    def copy_shared(self, s: Step) -> None:
        """Keep what a step reads of memory shared with NumPy, before it is changed there."""
        for spec in s.copies:
            s.copies[spec] = copied(self.value(spec))

    def nameless(self) -> bool:
        """Tell whether a tensor from outside that was let go is read before a call names it: another cannot come in.

        A layer reads its parameters so, and what shares its memory with NumPy is let go.
        """
        return any(slot.first is None and slot.tensor is None for slot in self.slots) or any(
            kind == SLOT and self.slots[x].tensor is None
            and (self.slots[x].step, self.slots[x].first is BY_GRADIENT) > (s.index, False)
            for s in self.steps for kind, x in s.copies)

    def arm(self, counts: list[int]) -> None:
        """Take the short way from now on, if what the path is made of allows it; see `steady`."""
        exe = self.exe
        if matcher.name == "native" and ATTRIBUTES and not self.foreign and isinstance(exe, Compiled) \
                and not self.inherited and not self.taken \
                and not any(s.built for s in self.steps) \
                and all(self.groups[k].value is not None for _, k in self.own) \
                and all(exe.makes[i] is not None for i, _ in self.made) \
                and all(exe.makes[i] is not None for pair in self.kept_rows for i in pair[:2]) \
                and not any(slot.moves and slot.group in self.writes for slot in self.slots) \
                and not self.views.may_change() and self.patience.over():
            Steady(self, counts)  # which makes itself known to the path, see there

    def disarm(self) -> bool:
        """Take the long way again. Returns False if a tensor that came meanwhile does not fit after all."""
        steady = self.steady
        if steady is None:
            return True
        steady.release()
        fits = self.take_over(steady)
        self.steady = None
        return fits

    def take_over(self, steady: Steady) -> bool:
        """Bind the tensors that the matcher took over. Returns False if one does not fit after all."""
        fits = True
        for slot in steady.rebound:
            native = slot.uses[0][0]
            t = native.held
            if t is not None and not self.bind(slot, t):
                slot.tensor = t  # what is recorded after the fact is right all the same
                fits = False
            native.held = None
        return fits

    def undo_grads(self, k: int) -> None:
        """Put every .grad back to where it was before the first `k` events, and who is a leaf."""
        between = self.undo
        for e in range(k, 0, -1):
            while between and between[-1][0] >= e:
                _, t, name, old = between.pop()
                setattr(t, name, old)
                if name == "_leaf":
                    t._leaf_node = None
                    changed()
            for leaf, before, new in reversed(self.steps[e - 1].grads):
                if new is not None:
                    self.value(leaf)._grad = None if before is None else self.value(before)
            for leaf, _, _ in self.steps[e - 1].built:
                self.value(leaf)._grad = None

    def matches(self, spec: tuple, a: Any) -> bool:
        """Tell whether an argument is the expected one; rebinds tensors and numbers from outside."""
        kind, x = spec
        if kind == OUT:
            return a is self.outs[x]
        if kind == SLOT:
            slot = self.slots[x]
            if not isinstance(a, Handle):  # None too, which stands in the slot of a tensor that is gone
                return False
            if a is slot.tensor and (a._storage.foreign is None or spec is not slot.first):
                return True
            return spec is slot.first and self.bind(slot, a)
        if kind == CONST:
            return a is x or alike(a, x) or (type(x) is Dim and self.sizes.take(spec, a))
        if kind == RUNTIME:
            entry = self.scalars[x]
            return a is entry[0] or self.set_number(entry, a)
        if kind == SEQUENCE:
            made, specs = x
            if type(a) is made is slice:
                a = parts(a)
            elif type(a) is not made or len(a) != len(specs):
                return False
            if not specs:
                return True
            if specs[0][0] == RUNTIME:
                return self._numbers(specs, a)
            if specs[0][0] in (OUT, SLOT) and not self.foreign:
                known = self.known.get(id(specs))
                if known is not None and (a is known[0] or list(map(id, a)) == known[1]):
                    return True
                if all(map(self.matches, specs, a)):
                    self._know(specs, a)
                    return True
                return False
            if made is tuple and a is self.frozen.get(id(specs)):
                return True
            if not all(map(self.matches, specs, a)):
                return False
            if made is tuple and all(k in (CONST, OBJECT) and type(i) is not Dim for k, i in specs):
                self.frozen[id(specs)] = a
            return True
        return x() is a

    def _know(self, specs: list[tuple], a: Any) -> None:
        """Remember the tensors of a list by address, as long as none of them is replaced."""
        for kind, x in specs:
            if kind not in (OUT, SLOT) or (kind == SLOT and self.slots[x].moves):  # another comes every time
                return
        # A tuple is known by itself, unless it has tensors that the path hands out: to hold those is to use them up.
        whole = a if type(a) is tuple and all(spec[0] == SLOT for spec in specs) else NOBODY
        self.known[id(specs)] = whole, list(map(id, a))
        for spec in specs:
            self.within.setdefault(spec, set()).add(id(specs))

    def forget(self, spec: tuple) -> None:
        """Note that a tensor is replaced: lists with it are compared element by element again."""
        for key in self.within.pop(spec, ()):
            self.known.pop(key, None)

    @staticmethod
    def set_number(entry: list, v: Any) -> bool:
        """Take over a runtime number, unless its type is another or it has no place where the last one had."""
        if type(v) is not type(entry[0]) or any(not fits(v, d) for d in entry[4]):
            return False
        entry[0] = v
        entry[1][()] = v
        if entry[3] is not None:
            native, place = entry[3]
            matcher.set_arg(native, place, v)  # it compares addresses: it must know the object held
        return True

    def _numbers(self, specs: list[tuple], a: Any) -> bool:
        """Match a list of numbers, taking over what changed."""
        scalars = self.scalars
        for (kind, x), v in zip(specs, a):
            if kind == RUNTIME:
                entry = scalars[x]
                old = entry[0]
                if (v != old or v == 0 or type(v) is not type(old)) and not self.set_number(entry, v):
                    return False  # zero has two signs
            elif not self.matches((kind, x), v):
                return False
        return True

    def same_call(self, s: Step, op: Any, args: tuple, kwargs: dict) -> bool:
        """Tell whether a call is the one of step `s`, and its gradients are where they were."""
        if s.op is not op or len(args) != s.positional or tuple(kwargs) != s.kwnames:
            return False
        if s.watch is not None and not s.watch.hold():
            return False
        for spec, a in zip(s.specs, (*args, *kwargs.values()) if kwargs else args):
            if not self.matches(spec, a):
                return False
        if s.walks and not admit_graphs(self, (s,)):  # they say which the leaves are
            return False
        for leaf, before, _ in s.grads:
            t = self.value(leaf)
            if t is None or (t._grad is None) is not (before is None):
                return False
            if before is not None and t._grad is not self.value(before):
                if before[0] != SLOT:
                    return False
                slot = self.slots[before[1]]
                if not slot.may_change(s.index) or not self.bind(slot, t._grad):
                    return False
        for leaf, _, _ in s.built:
            t = self.value(leaf)
            if t is None or t._grad is not None:
                return False
        for leaf, kinds in s.hooked:
            t = self.value(leaf)
            if t is None or (kinds if t._hooks is None else t._hooks.kinds() ^ kinds):
                return False
        return True

    def kept(self, s: Step) -> list[int]:
        """Return the .grad tensors of last time that somebody kept, or their memory: they cannot serve again."""
        outs, alone = self.outs, self.alone_grads
        undone = {id(old) for *_, old in self.undo}
        found = [new for _, _, new in s.grads
                 if new is not None and (getrefcount(outs[new]) != alone[new] + (id(outs[new]) in undone)
                                         or outs[new]._storage.shared or shared_outside(outs[new]._storage))]
        if not found:
            mine = [new for _, _, new in s.grads if new is not None]
            s.alone = dict(zip(mine, references([id(outs[new]) for new in mine])))
        return found

    def effects(self, s: Step) -> None:
        """Repeat what a followed backward does that Python can see: .grad."""
        for leaf, _, new in s.grads:
            if new is not None:
                t, g = self.value(leaf), self.outs[new]
                group = self.groups[self.out_groups[new]]
                if group.stub is not None:  # it held the last step's gradient until here
                    group.storage.node = group.stub
                    group.storage.version += 1
                t._grad = g
        for leaf, outs, build in s.built:
            t = self.value(leaf)
            t._grad = build(t, *[self.outs[i] for i in outs])

    def arrays(self) -> list[np.ndarray] | None:
        """Return the values of the program's inputs now; None if another thread wrote to one, and has not run that."""
        found, results, groups = self.given, self.results, self.groups
        for arrays, places in ((found, self.from_groups), (results, self.overwritten)):
            for j, k in places:
                storage = groups[k].storage
                if storage.node.buffer is None:
                    spread(storage)
                    if storage.node.buffer is None:
                        return None
                arrays[j] = storage.node.buffer
        for i, j in self.in_place:
            results[i] = found[j]
        for j, (k, spec) in self.from_copies:
            found[j] = self.steps[k].copies[spec]
        for j, k, i in self.from_carried:
            found[j] = self.inherited[k].carried.arrays[i]  # type: ignore[union-attr]
        renew(self.markers)
        return found

    def _prepare(self, writes: dict[int, int], count: int, rows: dict[int, int]) -> None:
        """Lay out what a run is given and where its results go, once per program.

        `rows`: results that are the rows of a gradient, and where their index is.
        """
        self.given: list[Any] = []
        self.from_groups: list[tuple[int, int]] = []
        self.from_copies: list[tuple[int, tuple[int, tuple]]] = []
        self.from_carried: list[tuple[int, int, int]] = []
        for j, k in enumerate(self.bound):
            kind, x = self.sources[k]
            if kind == "group":
                self.from_groups.append((j, x))
            elif kind == "snapshot":
                self.from_copies.append((j, x))
            elif kind == "carried":
                self.from_carried.append((j, *x))
            self.given.append(self.scalars[x][1] if kind == "scalar" else x if kind == "constant" else None)
        self.markers = [e for e in self.scalars if e[2] is not None]
        self.written = [self.groups[g] for g in self.keep if self.groups[g].external]
        grads = [(i, g) for i, g in enumerate(self.keep) if self.groups[g].grad and not self.groups[g].external]
        self.own = [(i, g) for i, g in grads if i not in rows]
        self.kept_rows = [(i, rows[i], g) for i, g in grads if i in rows]  # places of rows and index
        self.made = [(i, g) for i, g in enumerate(self.keep)
                     if not self.groups[g].external and not self.groups[g].grad]
        self.results: list[Any] = [None] * count
        self.in_place = list(writes.items())
        self.overwritten = [(i, g) for i, g in enumerate(self.keep)  # from outside, written but not read
                            if self.groups[g].external and i not in writes]
        self.unmade = [i for i, _ in (*grads, *self.made)]  # results that get new memory in the next run
        self.unmade += range(len(self.keep), count)
        for _, g in grads:
            self.groups[g].stub = self.groups[g].value = None

    def count(self) -> list[int]:
        """Return the reference counts of the tensors handed out, and of what they are handed out in.

        Whoever keeps a tuple keeps its tensors, which only the tuple refers to.
        """
        return [*map(getrefcount, self.outs), *map(getrefcount, self.sequences)]

    def held_by_others(self, now: list[int]) -> list[int]:
        """Return the outs that somebody holds besides the path, by the reference counts `now`."""
        differs = [a != b for a, b in zip(now, self.counts)]
        found = dict.fromkeys(i for i in range(len(self.outs)) if differs[i])
        for k, outs in enumerate(self.sequence_outs, len(self.outs)):
            if differs[k]:
                found.update(dict.fromkeys(outs))
        return sorted(found)

    def program(self) -> Program:
        """Return the program for the present set of live groups; `keep` are the groups of its outputs."""
        self.keep = keep = [k for k, g in enumerate(self.groups)
                            if g.final is not None and (g.external or g.grad or k in self.live)]
        outputs: list[Node] = [self.groups[k].final for k in keep]  # type: ignore[misc]
        rows = {}
        for i, k in enumerate(keep):
            g = self.groups[k]
            if g.grad and not g.external and k not in self.looked_at and not g.storage.node.needs_grad \
                    and few_rows(outputs[i]):
                rows[i] = len(outputs)
                outputs.append(outputs[i].inputs[1])
                outputs[i] = outputs[i].inputs[2]
        self._keep_history(outputs)
        needed = {id(n) for n in toposort(outputs)} | {id(o) for o in outputs}
        nodes = [n for n in self.order if id(n) in needed and n.row is not input_]
        used = {id(i) for n in nodes for i in n.inputs} | {id(o) for o in outputs}
        self.bound = [k for k, n in enumerate(self.inputs) if id(n) in used]
        inputs = [self.inputs[k] for k in self.bound]
        place = {self.sources[k][1]: j for j, k in enumerate(self.bound) if self.sources[k][0] == "group"}
        writes = {i: place[k] for i, k in enumerate(keep) if self.groups[k].external and k in place}
        self._prepare(writes, len(outputs), rows)
        return Program(inputs, nodes, outputs, writes, tuple([i for i, _ in self.own]))

    def keep_rows(self, g: int, rows: np.ndarray, index: np.ndarray) -> None:
        """Give a gradient the rows that it has."""
        group = self.groups[g]
        final: Any = group.final
        if group.stub is None:
            group.stub = group.storage.node
        group.value = Node(final.row, (), (), final.shape, final.dtype)
        keep_rows(group.storage, group.value, final, index, rows)

    def look_at_rows(self) -> bool:
        """Note which gradients kept as rows somebody has read; return whether there are new ones."""
        values = [(k, self.groups[k].value) for _, _, k in self.kept_rows]
        read = {k for k, value in values if value is not None and value.buffer is not None}
        self.looked_at |= read
        return bool(read)

    def _keep_history(self, outputs: list[Node]) -> None:
        """Add the values to the outputs that a later backward will read, and note where they all come from."""
        self.taken = []
        if not self.roots:
            return
        assert self.outline is not None
        self.taken = self.outline.graphs(self.roots)
        place = {id(n): i for i, n in enumerate(outputs)}
        source = {id(n): s for n, s in zip(self.inputs, self.sources)}
        for taken in self.taken:
            for v, n in taken.values.items():
                if id(n) in source:
                    taken.handed.append((v, *source[id(n)]))
                    continue
                if id(n) not in place:
                    place[id(n)] = len(outputs)
                    outputs.append(n)
                taken.handed.append((v, "result", place[id(n)]))
