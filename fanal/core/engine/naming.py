"""Recording with named sizes: when a segment has come with other sizes, the next recording of it names them.

Two known paths that are alike but for some integers (dimensions of tensors from outside, numbers among the
arguments) say which sizes vary. The third time, those are `Dim`s while operators run, so that the values recorded,
and then the program compiled of them, say how everything follows from them. The user's code never sees a Dim.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from types import FunctionType
from typing import Any

import numpy as np

from fanal.core.base import knobs
from fanal.core.base.dim import Dim, Dims, near, now, plain, plainly, varies
from fanal.core.base.shape import contiguous_strides
from fanal.core.engine import record
from fanal.core.engine.cache import Compiled
from fanal.core.engine.carry import Carried, numbers_in, unfolded, with_numbers
from fanal.core.engine.handle import SIGNATURE, Handle, signature
from fanal.core.engine.record import CONST, OBJECT, SEQUENCE, SLOT, parts, session
from fanal.core.ir.body import Body
from fanal.core.ir.prims import reshape, slice_
from fanal.core.ir.program import Node, Shape

# (-2, graph of an earlier segment, which of its integers); (-1, slot, 0, dimension); (-1, slot, 1, row, 1, parameter,
# dimension) in a chain of views; or (step, place among the arguments, ...), where what a slice has is -1, -2, -3.
Place = tuple[int, ...]
MAX_FAMILIES = 16
MAX_SAMPLES = 6
MAX_WAIT = 64  # recordings of a family after which naming is tried again, at most
RECENT = 64  # runs in sizes other than the last
OFTEN = 8  # of those in the same sizes, and these get a path of their own
MAX_FREQUENT = 16
SEVERAL = 2  # sizes that vary; of more, each may vary further without another plan

_SHAPE, _CHAIN, _STRIDES, _LEAF, _WHOLE, _HISTORY = map(
    SIGNATURE.index, ("shape", "chain", "strides", "leaf", "whole", "needs_grad"))


def resizable(made: tuple) -> bool:
    """Tell whether tensors of this signature may come in other sizes: whole and contiguous, or cut out of a tensor that
    is the same size every time, and without history."""
    cut = _strides_of_slice(made) is not None if made[_CHAIN] else made[_STRIDES] is None
    return cut and not made[_LEAF] and not made[_HISTORY]


def _strides_of_slice(made: tuple) -> tuple[int, ...] | None:
    """Return the strides of what is sliced first; None if it is not what the memory holds, in whatever shape."""
    shape = made[_WHOLE]
    for row, params in made[_CHAIN]:
        if row is slice_:
            return contiguous_strides(shape)
        if row is not reshape:
            return None
        shape, = params
    return None


def same_make(a: tuple, b: tuple) -> bool:
    """Tell whether two signatures differ in sizes, or in the place they are cut out at, only."""
    return all(x == y or (k in (_SHAPE, _CHAIN) and _same_form(x, y)) or (k == _WHOLE and not a[_CHAIN])
               for k, (x, y) in enumerate(zip(a, b)))


def alike_but_for_views(a: tuple, b: tuple) -> bool:
    """Tell whether two signatures are the same but for the chain of views."""
    return a[:_CHAIN] == b[:_CHAIN] and a[_CHAIN + 1:] == b[_CHAIN + 1:]


def _same_form(a: Any, b: Any) -> bool:
    """Tell whether two tuples differ in integers only."""
    if type(a) is tuple and type(b) is tuple:
        return len(a) == len(b) and all(map(_same_form, a, b))
    return (isinstance(a, int) and isinstance(b, int)) or a == b


def cut_out(made: tuple) -> tuple:
    """Return what sizes may change of a signature: the shape, and the chain of views."""
    return made[_SHAPE], made[_CHAIN]


def resized(made: tuple, cut: tuple) -> tuple:
    """Return a signature with another shape and chain."""
    new = list(made)
    new[_SHAPE], new[_CHAIN] = shape, chain = cut
    if not chain:
        new[_WHOLE] = shape
    return tuple(new)


def whole(made: tuple) -> tuple:
    """Return the shape of what tensors of a signature are cut out of."""
    return made[_WHOLE]


def leaves(x: Any) -> Iterator[Any]:
    """Yield what is in tuples within tuples."""
    if type(x) is tuple:
        for i in x:
            yield from leaves(i)
    else:
        yield x


def differences(p: Any, q: Any) -> dict[Place, tuple[int, int]] | None:
    """Return the integers in which two paths differ, by place; None if they differ in more."""
    found: dict[Place, tuple[int, int]] = {}

    def same(place: Place, a: Any, b: Any) -> bool:
        a, b = plainly(a), plainly(b)
        if a is b or record.alike(a, b):
            return True
        if type(a) is int and type(b) is int:
            found[place] = (a, b)
            return True
        return type(a) is slice and type(b) is slice and \
            all(same((*place, ~k), x, y) for k, (x, y) in enumerate(zip(parts(a), parts(b))))

    def within(place: Place, a: Any, b: Any) -> bool:
        if type(a) is tuple and type(b) is tuple:
            return len(a) == len(b) and all(within((*place, k), x, y) for k, (x, y) in enumerate(zip(a, b)))
        return same(place, a, b)

    def alike(place: Place, a: list, b: list) -> bool:
        if len(a) != len(b):
            return False
        for k, ((ka, x), (kb, y)) in enumerate(zip(a, b)):
            if ka != kb or not (
                    same((*place, k), x, y) if ka == CONST else
                    x[0] is y[0] and alike((*place, k), x[1], y[1]) if ka == SEQUENCE else
                    x() is y() if ka == OBJECT else x == y):
                return False
        return True
    for k, (s, t) in enumerate(zip(p.slots, q.slots)):
        a, b = s.signature, t.signature
        if a != b:
            if not same_make(a, b) or not resizable(a) or not within((-1, k), cut_out(a), cut_out(b)):
                return None
    if len(p.inherited) != len(q.inherited):
        return None
    for k, (u, v) in enumerate(zip(p.inherited, q.inherited)):
        if not u.like(v) or not all(same((-2, k, at), n, m) for at, (n, m) in enumerate(zip(u.numbers, v.numbers))):
            return None
    for k, (i, j) in enumerate(zip(p.steps, q.steps)):
        if any(getattr(i, x) != getattr(j, x) for x in _SAME) or not alike((k,), i.specs, j.specs):
            return None
    return found


def other_sizes(p: Any, q: Any) -> set[tuple[int, int]]:
    """Return what sizes two paths have where they are alike but for sizes, wherever these are cut out; else nothing."""
    found = differences(p, q) or {}
    sizes = set()
    for place, (a, b) in found.items():
        other = _other_end(place)
        c, d = found.get(other, (0, 0)) if other is not None else (0, 0)
        sizes.add((abs(a - c), abs(b - d)))
    return {(n, m) for n, m in sizes if n != m}


def _other_end(place: Place) -> Place | None:
    """Return where a slice ends, or begins, whose other end is at a place; None if none is."""
    if place[0] == -1 and place[2] == 1 and place[-2] < 2:
        return (*place[:-2], 1 - place[-2], place[-1])
    return (*place[:-1], -3 - place[-1]) if place[-1] in (-1, -2) else None


_SAME = ("kwnames", "positional", "mode", "out", "grads", "built", "hooked")  # of steps that are alike


def operations(p: Any) -> tuple:
    """Return what two paths must have in common to be compared."""
    return len(p.slots), *(s.op.key for s in p.steps)


class Family:
    """Paths that are alike but for sizes."""

    def __init__(self, one: Any) -> None:
        self.operations = operations(one)
        self.before: tuple | None = None  # those of the segment that came before the latest
        self.samples = [one]  # recorded with plain sizes, the latest last
        # Places that had the same sizes in all samples have one name, and so have those that were always so much more.
        self.names: dict[Place, tuple[int, int]] = {}
        self.windows: set[int] = set()  # names that say where something of always the same size is, and nothing else
        self.values: list[list[int]] = []  # by sample: what its names stand for
        self.tries = self.wait = 0
        self.recent: deque[tuple[int, ...]] = deque(maxlen=RECENT)  # what names stood for
        self.frequent: set[tuple[int, ...]] = set()  # what they are not to stand for: it comes too often

    def add(self, p: Any) -> bool:
        """Take a path as a sample. Returns False if it is not like the latest."""
        found = [(q, differences(q, p)) for q in self.samples]
        if found[-1][1] is None:
            return False
        alike = [(q, d) for q, d in found if d][-MAX_SAMPLES:]
        if alike:
            mine = {place: pair[1] for _, d in alike for place, pair in d.items()}
            sizes = {place: (*(d.get(place, (n,))[0] for _, d in alike), n) for place, n in mine.items()}
            least: dict[tuple[int, ...], int] = {}  # by how the sizes went on from the first
            for several in sizes.values():
                steps = tuple([n - several[0] for n in several])
                least[steps] = min(several[0], least.get(steps, several[0]))
            names = list(least)
            self.names = {}
            for place, several in sizes.items():
                steps = tuple([n - several[0] for n in several])
                self.names[place] = names.index(steps), several[0] - least[steps]
            self.windows = {*range(len(names))}.difference(
                name for place, (name, _) in self.names.items() if not self._is_window(p, place, name))
            self.samples = [*(q for q, _ in alike), p]
            self.values = [[first + steps[k] for steps, first in least.items()] for k in range(len(self.samples))]
        return True

    def _is_window(self, p: Any, place: Place, name: int) -> bool:
        """Tell whether a number is where a window begins or ends that is always as long, or which row is taken."""
        if place[0] >= 0 and place[1] == 1 and place[-1] >= 0 and p.steps[place[0]].op.name == "Tensor.__getitem__":
            kind, x = p.steps[place[0]].specs[1]
            return kind == CONST or x[0] is tuple
        other = _other_end(place)
        return other in self.names and self.names[other][0] == name

    def near(self, value: int) -> tuple[int, int]:
        """Return the limits of the sizes that are planned together with a present one."""
        return near(value, len({name for name, _ in self.names.values()} - self.windows) > SEVERAL)

    def ran(self, values: tuple[int, ...]) -> None:
        """Note the sizes that a path took. A path of its own is faster for those that come often."""
        self.recent.append(values)
        if self.recent.count(values) == OFTEN and len(self.frequent) < MAX_FREQUENT:
            self.frequent.add(values)

    def judge(self, p: Any, naming: Naming) -> None:
        """Let a path that was recorded with names take other sizes, if it agrees with what others were."""
        dims, present = naming.dims, list(naming.dims.names)
        if tuple(present) in self.frequent:
            p.sizes.give_up()
            return
        agree, held, others = _able(p), False, False
        for q, values in zip(self.samples, self.values):
            wanted = [values[name] for name in naming.given]
            if agree and all(name in self.windows or a <= n <= b
                             for name, n, (a, b) in zip(naming.given, wanted, map(self.near, present))):
                dims.set(wanted)
                if dims.hold():
                    held, agree = True, _same_program(p, q)
                else:
                    others = True
        dims.set(present)
        if held and agree:
            self.tries = self.wait = 0
            return
        p.sizes.give_up()
        if others or not agree:
            self.failed()

    def failed(self) -> None:
        """Note that a recording with names led to nothing: wait for longer and longer."""
        self.tries += 1
        self.wait = min(MAX_WAIT, 2**self.tries - 1)


class Families:
    """The families of a thread, that seen last first."""

    def __init__(self) -> None:
        self.all: list[Family] = []
        self.left: tuple | None = None  # what was followed until something else was called: what comes is no such kind

    def add(self, p: Any, last: Any) -> None:
        """Take note of a path that was recorded with plain sizes. last: the path that ran before."""
        if not knobs.sizes:
            return
        kind = operations(p)
        f = next((f for f in self.all if f.operations == kind and f.add(p)), None)
        if f is None:
            f = Family(p)
        else:
            self.all.remove(f)
        f.before = None if last is None else operations(last)
        self.all.insert(0, f)
        del self.all[MAX_FAMILIES:]

    def partial(self, p: Any) -> Any:
        """Return the known path that a path is but for smaller sizes, as that of a last partial batch is, or None."""
        kind = operations(p)
        found = [(q, other_sizes(q, p)) for f in self.all if f.operations == kind for q in f.samples]
        return next((q for q, sizes in found if sizes and all(new < known for known, new in sizes)), None)

    def forget(self, p: Any) -> None:
        """Do without a path."""
        self.all = [f for f in self.all if all(q is not p for q in f.samples)]

    def naming(self, op: Any, args: tuple, kwargs: dict, last: Any) -> Naming | None:
        """Return the naming for a recording that begins with a call, if its sizes are known to vary.

        last: the path that ran before. The layers of a model begin with the same call, but not after the same segment.
        """
        left, self.left = self.left, None
        before = None if last is None else operations(last)
        for f in sorted(self.all, key=lambda f: f.before != before) if knobs.sizes else ():
            if f.names and f.samples[-1].steps[0].op is op and f.operations != left:
                n = Naming(f)
                if n.called(0, op, args, kwargs) is not None:
                    n.end()
                    if f.wait:
                        f.wait -= 1
                        return None
                    return Naming(f)
        return None


class Naming:
    """One recording with named sizes."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.like = family.samples[-1]
        self.dims = Dims()
        self.given: dict[int, Any] = {}  # name -> Dim, in the order in which they come
        # Tensors with (shape, strides, offset, chain of views), with Dims and plain.
        self.sized: dict[int, tuple[Handle, tuple, tuple]] = {}
        self.nodes: list[tuple[Node, tuple]] = []  # values from outside, and their plain shapes
        self.graphs: list[Carried] = []  # of earlier segments, in the order in which they are unfolded
        self.unlike = False  # one of them is not that of the family
        self.seen = 0  # tensors of the session looked at

    def called(self, k: int, op: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Return the arguments of event k with names in them; None if it is none of the family's."""
        if k >= len(self.like.steps):
            return None
        step = self.like.steps[k]
        if step.op is not op or len(args) != step.positional or tuple(kwargs) != step.kwnames:
            return None
        try:
            values = [self._named((k, n), spec, a)
                      for n, (spec, a) in enumerate(zip(step.specs, (*args, *kwargs.values())))]
        except Unlike:
            return None
        return tuple(values[:len(args)]), dict(zip(kwargs, values[len(args):]))

    def _name(self, place: Place, value: Any, model: Any) -> Any:
        if place not in self.family.names:
            if value is model or record.alike(value, model):
                return value
            raise Unlike
        name, more = self.family.names[place]
        if type(value) is not int or value < more:
            raise Unlike
        known = self.given.get(name)
        if known is None:
            limits = None if name in self.family.windows else self.family.near(value - more)
            known = self.given[name] = self.dims.name(value - more, limits)
        elif plain(known) != value - more:
            raise Unlike
        with self.dims:
            return known + more

    def _named(self, place: Place, spec: tuple, a: Any) -> Any:
        kind, x = spec
        if kind == CONST:
            if type(x) is slice and type(a) is slice:
                pairs = enumerate(zip(parts(a), parts(x)))
                found = tuple([self._name((*place, ~k), i, model) for k, (i, model) in pairs])
                return slice(*found) if varies(found) else a
            return self._name(place, a, x)
        if kind == SLOT:
            slot = self.like.slots[x]
            if spec is slot.first and resizable(slot.signature):
                self._tensor(slot, a)
            return a
        if kind != SEQUENCE:
            return a
        made, specs = x
        if type(a) is not made or len(a) != len(specs):
            raise Unlike
        items = [self._named((*place, k), s, i) for k, (s, i) in enumerate(zip(specs, a))]
        if all(i is j for i, j in zip(items, a)):
            return a
        return items if made is list else made(*items) if hasattr(made, "_fields") else made(items)

    def _tensor(self, slot: Any, t: Any) -> None:
        """Name the sizes of a tensor from outside."""
        if not isinstance(t, Handle) or id(t) in self.sized:
            raise Unlike
        made = signature(t)
        if not resizable(made) or not same_make(made, slot.signature):
            raise Unlike
        shape, chain = self._within((-1, slot.place), cut_out(made), cut_out(slot.signature))
        if not varies((shape, chain)):
            return
        offset = t._offset
        if chain:
            (starts, *_), *later = [params for row, params in chain if row is slice_]
            if varies(tuple(later)):
                raise Unlike  # where it begins follows from other strides
            strides = _strides_of_slice(made)
            assert strides is not None
            with self.dims:
                for n, size in zip(starts, strides):
                    offset = offset + (n - plain(n)) * size
            t._seen = -1  # its value is read anew, with the names
        self.sized[id(t)] = t, (shape, t._strides, offset, chain), (t._shape, t._strides, t._offset, t._chain)
        for n in () if chain else (t._storage.node, t._node):
            self.nodes.append((n, n.shape))
            n.shape = shape

    def numbers(self, carried: Carried) -> Sequence[int]:
        """Return the integers of a graph of an earlier segment, which is about to be unfolded, with names in them."""
        k = len(self.graphs)
        self.graphs.append(carried)
        found = list(carried.numbers)
        try:
            if k >= len(self.like.inherited) or carried.graph.kind is not self.like.inherited[k].graph.kind:
                raise Unlike
            for at, (n, model) in enumerate(zip(found, self.like.inherited[k].numbers)):
                found[at] = self._name((-2, k, at), n, model)
        except Unlike:
            self.unlike = True
            return carried.numbers
        finally:
            self.dims.open = True
        return found

    def knows(self, graphs: int) -> bool:
        """Tell whether the segment goes through as many graphs of earlier ones as the family, of the same kinds."""
        self.unlike |= graphs != len(self.like.inherited)
        return not self.unlike

    def show(self, n: Node, shape: Shape) -> None:
        """Let a value of an unfolded graph have its shape with names."""
        if varies(shape) and n.shape is not shape:
            self.nodes.append((n, plainly(n.shape)))
            n.shape = shape

    def _within(self, place: Place, x: Any, model: Any) -> Any:
        if type(x) is tuple:
            return tuple([self._within((*place, k), i, m) for k, (i, m) in enumerate(zip(x, model))])
        return self._name(place, x, model)

    def __enter__(self) -> None:
        """Let every size be a Dim."""
        for t, named, _ in self.sized.values():
            t._shape, t._strides, t._offset, t._chain = named
        self.dims.open = True
        unfolded.naming = self

    def __exit__(self, *exc: object) -> None:
        """Let every size be plain again, those of what the segment has returned since as well."""
        self.dims.open = False
        unfolded.naming = None
        outs = session.outs
        for o in outs[self.seen:]:
            now = (o._shape, o._strides, o._offset, o._chain)
            if id(o) not in self.sized and varies(now):
                self.sized[id(o)] = o, now, plainly(now)
        self.seen = len(outs)
        for t, _, as_seen in self.sized.values():
            t._shape, t._strides, t._offset, t._chain = as_seen

    def replaced(self, t: Handle, by: Handle) -> None:
        """Note that another tensor stands for one that an operator returned."""
        if id(t) in self.sized:
            self.sized[id(by)] = (by, *self.sized.pop(id(t))[1:])

    def end(self) -> None:
        """Leave plain sizes in what is from outside, and in what later segments will find there."""
        self.dims.open = False
        for t, _, as_seen in self.sized.values():
            t._shape, t._strides, t._offset, t._chain = as_seen
            n = t._node
            while varies((n.shape, n.params)):  # a view is not computed, and goes on as it was recorded
                n.shape, n.params = plainly(n.shape), plainly(n.params)
                if n.inputs:
                    n = n.inputs[0]
        for n, shape in reversed(self.nodes):
            n.shape = shape
        for n in [n for c in self.graphs for n in c.nodes or ()]:
            n.shape, n.params = with_numbers((n.shape, n.params), map(plain, numbers_in((n.shape, n.params))))
        if self.unlike:
            self.family.failed()
        self.sized, self.nodes, self.graphs = {}, [], []

    def abandon(self) -> None:
        """End, and leave plain sizes in what was recorded: it goes on without names."""
        self.end()
        for e in session.events:
            forget_names(e.specs)
            e.scalars = [(node, plainly(value)) for node, value in e.scalars if type(value) is not record.Table]
        session.slots[:] = [(t, plainly(made), storage) for t, made, storage in session.slots]


def named(specs: list[tuple]) -> bool:
    """Tell whether there are names in the specifications of arguments."""
    return any(type(x) is Dim or (kind == SEQUENCE and named(x[1])) for kind, x in specs)


def forget_names(specs: list[tuple]) -> None:
    """Leave plain sizes in the specifications of arguments."""
    for k, (kind, x) in enumerate(specs):
        if kind == SEQUENCE:
            forget_names(x[1])
            if x[0] is slice:
                specs[k] = (CONST, slice(*[i for _, i in x[1]]))
        elif kind == CONST:
            specs[k] = (kind, plainly(x))


class Unlike(Exception):
    """A call is not that of the family."""


def _able(p: Any) -> bool:
    """Tell whether a path may take other sizes at all."""
    return isinstance(p.exe, Compiled) and not (p.hidden or p.foreign) and \
        not any(g.grad or g.external for g, _ in p.sizes.groups) and \
        not any(slot.template[1] and slot.group in p.writes for slot in p.sizes.slots) and \
        not any(type(x) is Body for t in p.taken if t.sized for n in t.graph.nodes for x in n.params)  # of one size


def _same_program(p: Any, q: Any) -> bool:
    """Tell whether what was recorded with names is, for the sizes they have now, what another path is."""
    if len(p.inputs) != len(q.inputs) or not _same_nodes(p.order, q.order, {}, {}):
        return False
    for (kind, x), (same, y) in zip(p.sources, q.sources):
        if kind == "scalar" and type(p.scalars[x][2]) is record.Table:
            if same != "constant" or not np.array_equal(p.scalars[x][2].now(), y):
                return False
        elif kind == "scalar" and type(p.scalars[x][2]) is Dim:
            there = y if same == "constant" else now(q.scalars[y][2]) if same == "scalar" else None
            if there != p.scalars[x][2].now():
                return False
        elif kind == "constant":
            if same != kind or not np.array_equal(x, y):
                return False
    return True


def _same_nodes(some: list[Node], others: list[Node], place: dict[int, int], other: dict[int, int]) -> bool:
    """Tell whether values are, for the present sizes, what others are. `place`, `other`: the number of each by id."""
    if len(some) != len(others):
        return False
    for a, b in zip(some, others):
        if a.row is not b.row or a.dtype is not b.dtype or now(a.shape) != b.shape \
                or [place[id(i)] for i in a.inputs] != [other[id(i)] for i in b.inputs] \
                or len(a.params) != len(b.params) or not all(map(_same_parameter, a.params, b.params)):
            return False
        place.setdefault(id(a), len(place))
        other.setdefault(id(b), len(other))
    return True


def _same_parameter(a: Any, b: Any) -> bool:
    if isinstance(a, FunctionType) and isinstance(b, FunctionType):  # a rule of a gradient
        return a.__code__ is b.__code__
    if type(a) is not Body or type(b) is not Body:
        return repr(now(a)) == repr(b)
    place: dict[int, int] = {}
    other: dict[int, int] = {}
    return a is b or (_same_nodes([*a.inputs, *a.nodes], [*b.inputs, *b.nodes], place, other)
                      and [place[id(n)] for n in a.outputs] == [other[id(n)] for n in b.outputs])
