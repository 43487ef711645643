"""What a recorded segment is before it runs: everything that its path will be made of.

A draft copies the graph without its values and holds nothing of the user's but the tensors that come from
outside.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any
from weakref import ref

import numpy as np

from fanal.core.engine.aside import asides_of
from fanal.core.engine.carry import DETACHED, HELD, HOOKED, Carried, Outline, Uncarried, lineage, template
from fanal.core.engine.handle import SIGNATURE, Handle, Origin, Storage, counted, hooked, newest
from fanal.core.engine.inherit import Inherited
from fanal.core.engine.record import CONST, OUT, RUNTIME, SEQUENCE, SLOT, Event, Session
from fanal.core.engine.tables import Watch
from fanal.core.engine.views import Views, chain_of, repeatable
from fanal.core.ir.batch import unknown
from fanal.core.ir.prims import detach, input_
from fanal.core.ir.program import FREED, NOWHERE, Node, toposort

_LEAF, _BASE, _HISTORY = map(SIGNATURE.index, ("leaf", "base", "needs_grad"))

_new = object.__new__


class ViewOfLeaf:
    """What stands in `_base_ref` of a view of a leaf when the leaf itself must not be kept."""

    _leaf = True


def copy_handle(o: Any, storage: Storage, node: Node) -> Any:
    """Return a handle like `o` onto `storage`, with value `node`."""
    t = _new(type(o))
    t._storage, t._chain, t._shape, t._dtype = storage, o._chain, o._shape, o._dtype
    t._node, t._seen = node, storage.version
    t._strides, t._offset = o._strides, o._offset
    t._leaf, t._detached, t._retain, t._inference = o._leaf, o._detached, False, o._inference
    t._grad = t._hooks = t._leaf_node = None
    base = o._base_ref
    if type(base) is Origin:  # as many versions ago as in the original
        since = counted(storage) - (counted(o._storage) - base.version)
        base = base.copy(since, None if base.leaf is None else ViewOfLeaf)
    t._base_ref = ViewOfLeaf if isinstance(base, Handle) else base  # keeps no user's tensor
    t._path = True  # the value and its history are promised
    return t


def derived(o: Any, group: Group) -> bool:
    """Tell whether the history of a view of something from outside is what it shows: nothing of it must be kept."""
    base = o._base_ref
    leaf = base is ViewOfLeaf or (isinstance(base, Handle) and base._leaf)
    if type(base) is Origin and base.kind != "several":  # the history is a function's
        return False
    return group.final is None and not o._detached and (leaf or group.storage.node.needs_grad)


def graft(o: Any, n: Any) -> None:
    """Make `o`, which was handed out, be what `n` is."""
    for slot in Handle.__slots__:
        setattr(o, slot, getattr(n, slot))
    if n._leaf_node is not None:
        n._leaf_node.leaf = o


def stub(n: Node) -> Node:
    """Return a stand-in that knows shape, dtype and whether gradients flowed, but holds no graph."""
    s = Node(template(n).row, (), (), n.shape, n.dtype)
    s.needs_grad, s.freed = n.needs_grad, FREED
    return s


BY_GRADIENT = object()  # `Slot.first` of a tensor that is first met by a backward, not as an argument


class Slot:
    """A tensor from outside: a parameter, or a batch that is another object every step."""

    __slots__ = ("first", "group", "listed", "moves", "place", "returned", "signature", "step", "template", "tensor",
                 "uses", "window")

    def __init__(self, place: int, tensor: Handle, made: tuple, group: int) -> None:
        self.place = place  # slots are numbered in the order of their first use
        self.first: Any = None  # the specification of the first use: only there may another tensor come in
        self.step = -1  # the step of the first use, as an argument, a .grad or a leaf
        self.tensor: Any = tensor
        self.signature = made
        self.template: Any = None  # the shape and the chain of views, where they follow from named sizes
        self.window: Any = None  # where it is cut out, if that is looked at when the segment ends: sizes.Window
        self.group = group
        self.uses: list[tuple[Any, int]] = []  # (matcher step, argument place), in the order of the steps
        self.listed = False  # it stands in a list or a tuple, too
        self.returned: list[Step] = []  # that hand it back, as in-place operations do
        self.moves = False  # another object was seen here: do not keep it

    @property
    def shared(self) -> bool:
        """Whether the tensor shares memory with NumPy: it is looked at anew whenever it comes."""
        return self.signature[-1] is False

    def may_change(self, step: int) -> bool:
        """Tell whether the backward of a step may find another tensor here."""
        return self.step < 0 or (self.step == step and self.first is BY_GRADIENT)

    @property
    def without_history(self) -> bool:
        """Whether no tensor of this make has history, nor is a view of what has."""
        return not (self.signature[_LEAF] or self.signature[_HISTORY]) and self.signature[_BASE] is type(None)

    def cut_out_of(self, group: Group) -> bool:
        """Tell whether its tensors are windows in memory that is expected to be the same every step."""
        return self.window is not None and group.slots > 1 and not group.wanders

    def may_meet(self, groups: list[Group], storage: Storage) -> bool:
        """Tell whether a tensor of a storage has to be compared with all others that came: one may be a view of it."""
        mine = groups[self.group]
        if self.window is not None and mine.storage is storage:  # it has been compared
            return any([g.storage is storage for g in groups if g.external and g is not mine])
        return mine.slots > 1


class Group:
    """A storage of the segment: one that came from outside, or one that it made."""

    __slots__ = ("external", "final", "writes", "outs", "storage", "slots", "grad", "weak", "stub", "value",
                 "row", "fades", "gives", "spent", "wanders")

    row: Any  # of the value that recording stored: what grad_fn shows

    def __init__(self, external: bool, storage: Storage) -> None:
        self.external = external
        self.final: Node | None = None  # the value to be stored at the end; None: unchanged
        self.writes = 0  # how many versions the segment adds
        self.outs: list[int] = []
        self.slots = 0
        self.grad = False  # holds a .grad that stays with its parameter
        self.storage: Any = storage if external else None
        self.weak = ref(storage)
        self.stub: Any = None  # of a .grad that serves again: its value before it is computed, and after
        self.value: Any = None
        self.wanders = False  # windows in it came with another storage
        self.gives = False  # it came from outside, and gets a history here
        self.fades = False  # it came from outside, gets a history here, and nobody is to hold it afterwards
        self.spent = False  # it came from outside, gets a history here, and a backward frees that


class Step:
    """One event of a path."""

    __slots__ = ("alone", "built", "copies", "first_sequence", "flat", "flush", "grads", "hooked", "index", "key",
                 "kwnames", "manual", "mode", "native", "op", "out", "positional", "returns_list", "sequences", "specs",
                 "walks", "watch", "where")

    op: Any
    specs: list[tuple]
    kwnames: tuple[str, ...]
    positional: int
    out: tuple
    where: Any
    mode: tuple
    grads: list[tuple]
    built: list[tuple]  # (leaf, outs, how its .grad is made of them), for a .grad that is several tensors
    walks: list[Inherited]  # graphs of earlier segments that it goes through
    hooked: list[tuple]  # (leaf, which kinds of hooks it must have)
    copies: dict[tuple, Any]  # by specification, what it reads of memory shared with NumPy: as of the event
    manual: bool  # matched in Python: something beside the event must run
    flush: bool  # run everything pending when it ends
    native: Any
    index: int
    watch: Watch | None  # what the call depends on besides its arguments
    sequences: bool  # some argument is a list, a tuple or a slice
    returns_list: bool  # which whoever gets it may change: it is made anew every time
    first_sequence: int  # the place of its result among the sequences of the path, if that is one
    flat: tuple[Any, list[int]] | None  # a result that is a sequence of outs and nothing else: its type, which outs
    alone: dict[int, int] | None  # references to the .grad tensors it makes when nobody else holds them


def sequences_in(spec: tuple, x: Any) -> Iterator[tuple[tuple, Any]]:
    """Yield the tuples and lists of tensors that a result consists of, with their specifications."""
    if outs_in(spec) and spec[0] == SEQUENCE:
        yield spec, x
        for i, part in zip(spec[1][1], x):
            yield from sequences_in(i, part)


def outs_in(spec: tuple) -> list[int]:
    """Return the outs that a result consists of."""
    kind, x = spec
    return [x] if kind == OUT else [i for part in x[1] for i in outs_in(part)] if kind == SEQUENCE else []


def has_list(spec: tuple) -> bool:
    """Tell whether a result is a list, or has one in it."""
    kind, x = spec
    return kind == SEQUENCE and (x[0] is list or any(map(has_list, x[1])))


class Draft:
    """What will become a path if the segment turns out to be repeatable. Made before the segment runs."""

    def __init__(self, s: Session) -> None:
        events, outs, slots, starts = s.events, s.outs, s.slots, s.starts
        index, slot_index = s.index, s.slot_index
        self.snapshots = [(i, *read) for i, e in enumerate(events) for read in e.snapshots]
        self.naming = s.naming
        self.place: Any = None  # where the segment begins, see engine.flush
        self.refused: str | None = None
        self.unnamed: str | None = None  # why it may run, but not come again
        self.epoch = s.began
        self.groups: list[Group] = []
        self.group_of: dict[int, int] = {}
        self.slots = [Slot(k, t, made, self._group(st, True)) for k, (t, made, st) in enumerate(slots)]
        for slot in self.slots:
            self.groups[slot.group].slots += 1
        for storage, _, version in starts.values():
            self.groups[self._group(storage, True)].writes = storage.version - version
        self.out_groups: list[int] = []
        for k, o in enumerate(outs):
            place = self._group(o._storage, False)
            self.out_groups.append(place)
            self.groups[place].outs.append(k)
        self.inherited: list[Inherited] = []
        self.routes: dict[int, tuple[int, tuple]] = {}  # id of a carried graph -> how a slot leads to it
        self._inherit(s, slot_index)
        if self.naming is not None and not self.naming.knows(len(self.inherited)):
            self.unnamed = "the graphs of earlier segments are not those of other sizes"
        hidden = unknown(toposort([o._storage.node for o in outs])) if s.vmapped else ()
        # Tensors that belong to one example, whichever it is: they have no value.
        self.hidden = frozenset(k for k, o in enumerate(outs) if id(o._storage.node) in hidden)
        roots: list[Node] = []
        for g in self.groups:
            st = g.weak()
            if st is not None and st.node.buffer is None and id(st.node) not in hidden:
                g.final = st.node
                g.gives = g.external and st.node.needs_grad
                g.fades = g.gives and not st.node.freed
                g.spent = g.gives and not g.fades
                roots.append(st.node)
        # By group: the event in which a write gives it a history. What was handed out before has none until then.
        self.gains = {self.group_of[id(st)]: at // 2 for at, r, old in s.writes if not old.needs_grad
                      and (st := r()) is not None and st.node.needs_grad and id(st) in self.group_of}
        open_roots = self._open(outs)
        self.uncarried: str | None = None  # why history cannot be left for a later backward
        kept: list[Node] = []
        try:
            kept = [n for n in lineage(open_roots.values()) if n.buffer is None]
        except Uncarried as e:
            self.uncarried, open_roots = str(e), {}
        noted = [(at, out, n) for at, out, n in s.asides if n.buffer is None]
        self._clone([*roots, *kept, *(n for _, _, n in noted)], starts, events)
        self.asides = asides_of(self, noted)
        self.views = Views(outs, self.slots, s.views, self._place(index, slot_index))
        self._outline(open_roots, index, slot_index, outs)
        ends = {k for kind, k in self.outline.leaf.values() if kind == OUT} if self.outline is not None else set()
        self.made = [ref(o) if k in ends or o._chain else None for k, o in enumerate(outs)]  # of the recorded run
        for g in self.groups:
            if g.final is not None:
                g.final = self.copies[id(g.final)]
        self._handles(outs)
        self.steps = [self._step(e, index, slot_index, outs) for e in events]
        for i, spec, _ in self.snapshots:
            self.steps[i].copies[spec] = None

    def _inherit(self, s: Session, slot_index: dict[int, int]) -> None:
        """Find the graphs of earlier segments that this one goes through, and what it knows of them."""
        # One route for each way that leads from one graph to another: of whole ways there may be too many to count.
        routes: dict[int, list[tuple[int, tuple]]] = {}
        waiting: deque[tuple[Carried, int, tuple]] = deque((carried, slot, ()) for slot, carried in s.origins.items())
        while waiting:
            c, slot, route = waiting.popleft()
            known = routes.setdefault(id(c), [])
            known.append((slot, route))
            if len(known) == 1:
                waiting.extend((p, slot, (*route, k)) for k, p in enumerate(c.parents))
        self.routes = {key: found[0] for key, found in routes.items()}
        self.parents = dict(s.origins)
        self.walks: dict[int, Inherited] = {}
        for e in s.events:
            for c in e.walks:
                if id(c) not in routes:
                    self.refused = "backward reached a graph that no argument names"
                    continue
                if not c.whole:
                    self.refused = "values of an earlier segment were overwritten"
                leaves = [(k, slot_index[id(t)]) for k, t in enumerate(c.leaves) if id(t) in slot_index]
                homes = []
                for k, r in enumerate(c.storages):
                    st = r and r()
                    if st is not None and id(st) in self.group_of:
                        homes.append((k, self.group_of[id(st)]))
                views = {k: at for k, n in s.views.items() if (at := c.place(n)) is not None}
                u = self.walks[id(c)] = Inherited(c, routes[id(c)], leaves, homes, views)
                self.inherited.append(u)

    def _open(self, outs: list[Any]) -> dict[int, Node]:
        """Return the values, by group, through which a later segment may yet send gradients."""
        # Who holds one of these may yet send gradients through it, and following keeps no history for that.
        self.open = {k for k, (o, g) in enumerate(zip(outs, map(self.groups.__getitem__, self.out_groups)))
                     if k not in self.hidden and not g.spent and (n := newest(o)).needs_grad and
                     (not n.freed or g.external)}
        found = {}
        for k in self.open:
            g = self.out_groups[k]
            st = self.groups[g].weak()
            if not self.groups[g].external and st is not None and st.node.needs_grad:
                found[g] = st.node
        found.update((k, g.final) for k, g in enumerate(self.groups) if g.fades and g.final is not None)
        return found

    def _outline(self, roots: dict[int, Node], index: dict[int, int], slot_index: dict[int, int],
                 outs: list[Any]) -> None:
        """Copy the history of what is left open, for whoever still holds it when the segment ends."""
        self.outline: Outline | None = None
        self.roots: list[int] = []  # groups whose history is left for a later backward

        def group_of(n: Node) -> tuple | None:
            st = n.home[0]() if n.home else None
            g = None if st is None else self.group_of.get(id(st))
            if st is None or g is None:
                return None
            held = HELD if n is st.node else \
                DETACHED if n.row is detach and n.inputs[:1] == (st.node,) else 0  # type: ignore
            return (g, st.version - n.home[1], held)  # type: ignore
        if roots:
            place_of = self._place(index, slot_index)
            tensors = [((SLOT, s.place), s.tensor) for s in self.slots] + [((OUT, k), o) for k, o in enumerate(outs)]
            chains = [(spec, chain.nodes) for spec, t in tensors if (chain := chain_of(t)) is not None]
            try:
                self.outline = Outline(roots, self.copies, place_of, group_of, lambda c: self.routes[id(c)], chains)
            except Uncarried as e:
                self.uncarried = str(e)
                return
            except KeyError:
                self.uncarried = "history that no argument names is kept for a later backward"
                return
            self.outline.overwritten = {
                id(n) for n, (kind, k) in zip(self.inputs, self.sources)
                if kind == "group" and self.groups[k].external and self.groups[k].final is not None}

    @staticmethod
    def _place(index: dict[int, int], slot_index: dict[int, int]) -> Callable[[Any], tuple | None]:
        """Return a function from a tensor to its specification, or None."""
        return lambda t: (SLOT, slot_index[id(t)]) if id(t) in slot_index else \
            (OUT, index[id(t)]) if id(t) in index else None

    def leave_open(self, held: list[Any], others: list[Storage]) -> str | None:
        """Prepare to keep the history of these results, and of storages that tensors from outside show, for a later
        backward; return why that is impossible."""
        roots = {self.group_of.get(id(st), -1) for st in others}
        if any(g < 0 or not self.groups[g].gives for g in roots):
            return "history is left over for a later backward"
        for o in held:
            if not repeatable(o):
                return HOOKED if hooked(o) else "a view of a leaf, or of a function, is kept for a later backward"
            g = self.group_of.get(id(o._storage))
            if g is not None and self.groups[g].external and (derived(o, self.groups[g]) or self.groups[g].spent):
                continue
            if g is not None and not self.groups[g].external and not o._storage.node.needs_grad:
                continue  # a view of a leaf that the segment made
            if g is None or (self.groups[g].external and not self.groups[g].gives):
                return "history of a tensor from outside is left over for a later backward"
            roots.add(g)
        if not roots:
            return None
        if self.outline is None:
            return self.uncarried or "history is left over for a later backward"
        self.roots = sorted(roots)
        try:
            self.outline.graphs(self.roots)
        except Uncarried as e:
            return str(e)
        for g in roots:
            self.groups[g].fades = False
        return None

    def standing(self, parents: list[tuple]) -> list[Carried]:
        """Return the graphs on which the history of the recorded run stands."""
        found = []
        for _, (slot, route) in parents:
            c = self.parents[slot]
            for k in route:
                c = c.parents[k]
            found.append(c)
        return found

    def snapshot(self, event: int, spec: tuple) -> np.ndarray:
        """Return the copy that was read while recording."""
        return next(n.buffer for i, x, n in self.snapshots if (i, x) == (event, spec))  # type: ignore[misc]

    def covers(self, live: list[Storage]) -> bool:
        """Tell whether every storage that must be computed is one of the segment's results."""
        return all(id(st) in self.group_of and self.groups[self.group_of[id(st)]].weak() is st for st in live)

    def _group(self, storage: Storage, external: bool) -> int:
        k = self.group_of.get(id(storage))
        if k is None:
            k = self.group_of[id(storage)] = len(self.groups)
            self.groups.append(Group(external, storage))
        return k

    def _clone(self, roots: list[Node], starts: dict, events: list[Event]) -> None:
        """Copy the graph without its values, and note where each input comes from."""
        self.inputs: list[Node] = []
        self.sources: list[tuple[str, Any]] = []  # ("group", k) | ("scalar", k) | ("constant", array)
        self.scalars: list[list] = []  # [value, array, marker, (matcher step, place), dtypes that have a place for it]
        known: dict[int, tuple[str, Any]] = {}
        self.starting = {self.group_of[sid]: node for sid, (_, node, _) in starts.items()}
        for sid, (_, node, _) in starts.items():
            known[id(node)] = ("group", self.group_of[sid])
        for at, spec, n in self.snapshots:
            known[id(n)] = ("snapshot", (at, spec))
        for j, u in enumerate(self.inherited):
            assert u.carried is not None and u.carried.nodes is not None
            for at in u.carried.arrays:
                held = u.carried.nodes[at]
                while held.buffer is None and held.inputs:
                    held = held.inputs[0]  # a leaf's own value, which its storage holds
                known.setdefault(id(held), ("carried", (j, at)))
        for e in events:
            self._runtime(e, known)
        self.copies: dict[int, Node] = {}
        copies = self.copies
        self.originals = toposort(roots)
        for n in self.originals:
            args = []
            for i in n.inputs:
                c = copies.get(id(i))
                if c is None:
                    c = copies[id(i)] = self._input(i, known)
                args.append(c)
            if n.row.kind == "tape":
                copies[id(n)] = args[0]
                continue
            c = copies[id(n)] = Node(n.row, tuple(args), n.params, n.shape, n.dtype)
            c.where = n.where
        for r in roots:
            if id(r) not in copies:
                copies[id(r)] = self._input(r, known)
        self.order = list(copies.values())

    def _input(self, n: Node, known: dict[int, tuple[str, Any]]) -> Node:
        if n.buffer is None:
            raise AssertionError(f"{n!r} has no value and no origin")
        source = known.get(id(n))
        if source is None:
            if n.home is not None and n.home is not NOWHERE:
                self.unnamed = f"a value from outside that no argument names ({n!r})"
            source = ("constant", n.buffer)
        self.inputs.append(input_(n.shape, n.dtype))
        self.sources.append(source)
        return self.inputs[-1]

    def _runtime(self, e: Event, known: dict[int, tuple[str, Any]]) -> None:
        """Find the arguments that an event's runtime numbers come from."""
        places: dict[int, list[tuple[list, int]]] = {}

        def walk(specs: list) -> None:
            for k, (kind, x) in enumerate(specs):
                if kind == SEQUENCE:
                    walk(x[1])
                elif kind == CONST and type(x) in (int, float):
                    places.setdefault(id(x), []).append((specs, k))
        walk(e.specs)
        mine: dict[int, int] = {}
        for node, value in e.scalars:
            if type(value) not in (int, float):
                if not hasattr(value, "now"):
                    continue  # a number of another type: a constant
                known[id(node)] = ("scalar", len(self.scalars))
                self.scalars.append([None, node.buffer, value, None, []])
                continue
            at = places.get(id(value), ())
            if len(at) != 1:
                continue  # computed by the operation, or two arguments that are one object: a constant
            specs, k = at[0]
            if id(value) in mine:
                j = mine[id(value)]
                if self.scalars[j][1].dtype == node.buffer.dtype:  # type: ignore[union-attr]
                    known[id(node)] = ("scalar", j)
                    continue
                specs[k] = (CONST, value)
                continue
            j = mine[id(value)] = len(self.scalars)
            self.scalars.append([value, np.array(node.buffer), None, None, [node.dtype]])
            known[id(node)] = ("scalar", j)
            specs[k] = (RUNTIME, j)
        for key, j in mine.items():  # a number used in two types stays a constant
            specs, k = places[key][0]
            if specs[k][0] == CONST:
                for node, value in e.scalars:
                    if id(value) == key:
                        known.pop(id(node), None)
                self.scalars[j][0] = None
        for value, d in e.fitted:
            if id(value) in mine:
                self.scalars[mine[id(value)]][4].append(d)

    def _handles(self, outs: list[Any]) -> None:
        """Make the tensors that following will hand out."""
        for g in self.groups:
            if not g.external:
                st = g.weak()
                assert st is not None
                g.row = st.node.row
                s = Storage(stub(st.node), st.meta)
                s.version = st.version
                g.storage = s
        self.outs: list[Any] = []
        for o, k in zip(outs, self.out_groups):
            self.outs.append(copy_handle(o, self.groups[k].storage, stub(o._node)))

    def _step(self, e: Event, index: dict[int, int], slot_index: dict[int, int], outs: list[Any]) -> Step:
        s = Step()
        s.alone = None
        s.watch = e.watch
        s.sequences = any(kind == SEQUENCE or type(x) is slice for kind, x in e.specs)
        s.op, s.specs, s.kwnames, s.positional = e.op, e.specs, e.kwnames, e.positional
        s.where, s.mode = e.where, e.mode
        s.walks = [self.walks[id(c)] for c in e.walks if id(c) in self.walks]
        s.out = self._template(e.out, index, slot_index)
        s.returns_list = has_list(s.out)
        s.grads = []

        def place(t: Any) -> tuple:
            if id(t) in index:
                return (OUT, index[id(t)])
            if id(t) in slot_index:
                return (SLOT, slot_index[id(t)])
            self.refused = "backward reached a leaf that no argument names"
            return (CONST, None)
        for leaf, before, new in e.grads:
            was = None if before is None else place(before)
            s.grads.append((place(leaf), was, None if new is None else index[id(new)]))
            if new is not None:
                self.groups[self.out_groups[index[id(new)]]].grad = True
        s.built = [(place(leaf), tuple([index[id(t)] for t in parts]), build) for leaf, parts, build in e.built]
        s.hooked = [(place(leaf), kinds) for leaf, kinds in e.hooked]
        s.manual, s.flush = e.manual, e.flush
        s.copies = {}
        return s

    def _template(self, x: Any, index: dict[int, int], slot_index: dict[int, int]) -> tuple:
        if isinstance(x, Handle):
            return (OUT, index[id(x)]) if id(x) in index else (SLOT, slot_index[id(x)])
        if isinstance(x, (tuple, list)):
            return (SEQUENCE, (type(x), [self._template(i, index, slot_index) for i in x]))
        if x is not None and not isinstance(x, (bool, int, float, str)):
            self.refused = f"a result of type {type(x).__name__}"
        return (CONST, x)
