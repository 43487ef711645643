"""Paths that take tensors of other sizes: what follows from their named sizes, and giving those other values.

A last batch of a single row is planned once. What is recorded for one row is compiled without the dimension of one, so
hardly any of its kernels is there. But a kernel takes any size. So the program is lowered in the form of the known one
of several rows, with a name for their number, and the name stands for one when the words are laid out.
"""
from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from fanal.core.base.dim import Dim, Dims, near, now, plain, plainly, varies
from fanal.core.base.shape import broadcast_shapes, contiguous_strides
from fanal.core.compiler.steps import OtherSize
from fanal.core.engine.cache import Compiled, executable
from fanal.core.engine.draft import stub
from fanal.core.engine.handle import signature
from fanal.core.engine.matcher import matcher
from fanal.core.engine.naming import (
    Naming,
    Unlike,
    alike_but_for_views,
    cut_out,
    forget_names,
    leaves,
    other_sizes,
    resized,
    same_make,
    whole,
)
from fanal.core.engine.record import CONST, SEQUENCE, SLOT
from fanal.core.engine.steady import NOBODY
from fanal.core.ir.body import Body
from fanal.core.ir.prims import broadcast, input_, permute, reshape, slice_, sum_
from fanal.core.ir.program import Node, Program, Shape, toposort
from fanal.core.ir.row import spread

_SIZED = ("_shape", "_strides", "_offset", "_chain")  # what may follow from sizes, of a tensor
STAYS = 32  # runs in a row in the same sizes, and these get a program of their own


class Window:
    """Where tensors from outside are cut out of their memory: all are alike but for where the first element is."""

    def __init__(self, shape: Shape, chain: tuple, within: dict[Any, tuple[int, int]], offset: int) -> None:
        """Take one apart that is cut out of memory of this shape; within: the name of a Dim, and how much more it is.

        Raises Unlike where a name does not say where something begins.
        """
        for row, params in chain:
            if row is slice_:
                starts, stops, _ = params
                break
            shape, = params
        self.starts: list[tuple[int, int, int, int, int]] = []  # name, how much more, stride, size, the most
        for start, stop, stride, size in zip(starts, stops, contiguous_strides(shape), shape):
            if type(start) is Dim:
                name, more = within[start.form]
                self.starts.append((name, more, stride, size, size - (plain(stop) - plain(start))))
                offset -= plain(start) * stride
            elif type(stop) is Dim:
                raise Unlike
        self.rest = offset  # where the first element is if all these begin at zero
        if self.names() != {name for name, _ in within.values()}:
            raise Unlike

    def names(self) -> set[int]:
        """Return the names that it has."""
        return {name for name, *_ in self.starts}

    def values(self, t: Any) -> list[tuple[int, int]] | None:
        """Return what the names are for another tensor, (name, value); None if it is none that they can say."""
        offset = rest = t._offset
        found = []
        for name, more, stride, size, most in self.starts:
            start = offset // stride % size
            if start > most:
                return None
            rest -= start * stride
            found.append((name, start - more))
        return found if rest == self.rest else None


class Sizes:
    """The named sizes of a path.

    A name gets its value where it first comes, in the order of events; elsewhere it must be the same. Those that only
    say where tensors from outside are cut out get theirs when the segment ends: until then nothing depends on them, and
    the matcher need not know them. Loading a batch cuts out every sample somewhere else.
    """

    def __init__(self, path: Any, naming: Naming) -> None:
        """Leave plain sizes in the path, as they are now, and remember what they follow from."""
        self.path, self.dims, self.family = path, naming.dims, naming.family
        self.possible = True  # the conditions hold
        self.settled = True  # and the program has these sizes
        self.resized = False  # something is of another size since then, and not just at another place
        # Names that say where something is, and nothing else: to move it changes no tensor's make, and no memory.
        self.windows = {k for k, name in enumerate(naming.given) if name in naming.family.windows}
        self.runs = 0  # in a row, of the present sizes
        self.general: Any = None  # the program for all sizes, while that of the present ones alone runs
        self.wrong: set[tuple[int, ...]] = set()  # values of the first names that do not meet them
        known: dict[Any, Any] = {}

        def one(x: Any) -> Any:
            """Return the same object for what follows from the names in the same way."""
            return known.setdefault(_form(x), x)
        self.outs: list[tuple[int, str, Any]] = []
        for i, o in enumerate(path.outs):
            for name in _SIZED:
                made = getattr(o, name)
                if varies(made):
                    self.outs.append((i, name, one(made)))
                    setattr(o, name, plainly(made))
        finals = [(g, g.final.shape) for g in path.groups if g.final is not None]
        self.groups = [(g, one(shape)) for g, shape in finals if varies(shape)]
        self.slots = [slot for slot in path.slots if varies(slot.signature)]
        for slot in self.slots:
            slot.template, slot.signature = one(cut_out(slot.signature)), plainly(slot.signature)
            slot.moves = True
        # By the place of a slot: (which of its numbers, name, how much more).
        self.within = {slot.place: [(k, *self._name(d)) for k, d in enumerate(leaves(slot.template)) if type(d) is Dim]
                       for slot in self.slots}
        # Of graphs of earlier segments: (which of its integers, name, how much more).
        self.graphs: dict[Any, list[tuple[int, int, int]]] = {u: [] for u in path.inherited}
        came = {which: k for k, which in enumerate(naming.given)}
        for (kind, k, *at), (which, more) in naming.family.names.items():
            if kind == -2 and which in came:
                self.graphs[path.inherited[k]].append((at[0], came[which], more))
        self.numbers: list[tuple[Any, int, Dim]] = []  # (step, place among its arguments, Dim)
        self.expected: list[Any] = []  # what the matcher expects there: it knows objects by address
        self.first: dict[int, Any] = {}  # name -> the specification or the slot where it first comes
        for s in path.steps:
            for place, spec in enumerate(s.specs):
                self._find(s, place, spec, True)
            for u in s.walks:
                for _, which, _ in self.graphs[u]:
                    self.first.setdefault(which, u)
        self._find_windows()
        self._expect_numbers()

    def _find_windows(self) -> None:
        """Find the slots of which only the place varies, and nothing else with it."""
        found: dict[Any, Window] = {}
        for slot in self.slots:
            shape, chain = slot.template
            within = {d.form: self._name(d) for d in leaves(chain) if type(d) is Dim}
            if chain and not varies(shape) and {name for name, _ in within.values()} <= self.windows:
                with suppress(Unlike):
                    found[slot] = Window(whole(slot.signature), chain, within, slot.tensor._offset)
        used = {self._name(d)[0] for _, _, d in self.numbers} | {
            name for template in (*(x for *_, x in self.outs), *(shape for _, shape in self.groups),
                                  *(slot.template for slot in self.slots if slot not in found))
            for d in leaves(template) if type(d) is Dim for name in self.dims.names_in(d.form)}
        while mixed := [slot for slot, window in found.items() if window.names() & used]:
            for slot in mixed:
                used |= found.pop(slot).names()
        for slot, window in found.items():
            slot.window = window
        self.cut = list(found)
        self.sized = [slot for slot in self.slots if slot not in found]
        self.dims.come_late({name for window in found.values() for name in window.names()})

    def _find(self, step: Any, place: int, spec: tuple, direct: bool) -> None:
        kind, x = spec
        if kind == SEQUENCE:
            for i in x[1]:
                self._find(step, place, i, False)
        elif kind == CONST and type(x) is Dim:
            self.first.setdefault(self._name(x)[0], spec)
            if direct:
                self.numbers.append((step, place, x))
        elif kind == SLOT and self.path.slots[x] in self.slots:
            for _, name, _ in self.within[x]:
                self.first.setdefault(name, self.path.slots[x])

    def _name(self, d: Dim) -> tuple[int, int]:
        """Return which name a Dim is, and how much more than that."""
        *more, ((at,), _) = d.form
        return self.dims.atoms[at], more[0][1] if more else 0  # type: ignore[return-value]

    def take(self, spec: tuple, value: Any) -> bool:
        """Tell whether a number among the arguments is the expected size, or says what that is."""
        d = spec[1]
        if type(value) is not int:
            return False
        name, more = self._name(d)
        if d.now() == value:  # it may not go with earlier names, which have other values now
            return self.possible or self.first[name] is not spec or self.dims.hold(name + 1)
        return self.first[name] is spec and self._resize({name: value - more})

    def admit(self, slot: Any, t: Any) -> bool:
        """Tell whether a tensor is of the make of a slot with other sizes, and take those over."""
        made = signature(t)
        if slot.window is not None:
            if not alike_but_for_views(made, slot.signature) or slot.window.values(t) is None:
                return False
            slot.signature = made
            return True
        if slot.template is None or not same_make(made, slot.signature):
            return False
        old, new = [*leaves(cut_out(slot.signature))], [*leaves(cut_out(made))]
        values: dict[int, int] = {}
        for k, name, more in self.within[slot.place]:
            n = new[k] - more
            if (new[k] != old[k] and self.first[name] is not slot) or values.setdefault(name, n) != n:
                return False
            new[k] = old[k]
        return new == old and self._resize({k: n for k, n in values.items() if n != self.dims.names[k]})

    def admit_graph(self, u: Any, numbers: tuple[int, ...]) -> bool:
        """Tell whether a graph of an earlier segment is that of `u` with other sizes, and take those over."""
        new = list(numbers)
        values: dict[int, int] = {}
        for at, name, more in self.graphs[u]:
            n = new[at] - more
            if values.setdefault(name, n) != n or (n != self.dims.names[name] and self.first[name] is not u):
                return False
            new[at] = u.numbers[at]
        changed = {k: n for k, n in values.items() if n != self.dims.names[k]}
        return tuple(new) == u.numbers and (not changed or self._resize(changed))

    def look(self) -> bool:
        """Find where the windows are, at the end of the segment. Returns False if they do not go together."""
        if not self.cut:
            return True
        names, seen = self.dims.names.copy(), set()
        rebound = self.path.steady.rebound if self.path.steady is not None else ()
        for slot in self.cut:
            t = slot.uses[0][0].held if slot in rebound else None
            if t is None:
                t = slot.tensor
            found = None if t is None else slot.window.values(t)
            if found is None:
                return False
            for name, n in found:
                if name not in seen:
                    seen.add(name)
                    names[name] = n
                elif names[name] != n:
                    return False
        if names != self.dims.names:
            self.dims.set(names)
            self.possible = self.settled = False
        return True

    def _resize(self, changed: dict[int, int]) -> bool:
        """Give names other values if they may have these, and all that follows from them."""
        path, dims = self.path, self.dims
        before = list(dims.names)
        after = tuple([changed.get(k, n) for k, n in enumerate(before)])
        first = after[:max(changed) + 1]  # later names are still to come
        if after in self.family.frequent or first in self.wrong:
            return False
        dims.set(after)
        if not dims.hold(len(first)):
            self.wrong.add(first)
        elif self.windows.issuperset(changed) or path.disarm():
            self.possible, self.settled = len(first) == len(after) and not self.dims.late, False
            self.resized |= not self.windows.issuperset(changed)
            if self.general is not None:
                path.exe, self.general = self.general, None
            self._follow()
            return True
        dims.set(before)
        return False

    def _follow(self) -> None:
        """Give all that follows from the names, but for the program, its sizes."""
        known: dict[int, Any] = {}

        def value(template: Any) -> Any:
            found = known.get(id(template))
            if found is None:
                found = known[id(template)] = now(template)
            return found
        path = self.path
        for s in self.sized:
            cut = value(s.template)
            if cut != cut_out(s.signature):
                s.signature = resized(s.signature, cut)
                if s.tensor is not None:
                    path.release(s)
        for group, template in self.groups:
            shape = value(template)
            if group.storage.node.shape != shape:
                group.storage.node = _stub(group.storage.node, shape)
        for i, name, template in self.outs:
            o = path.outs[i]
            setattr(o, name, value(template))
            if o._node.shape != o._shape:
                o._node = _stub(o._node, o._shape)
        self._expect_numbers()
        path.frozen.clear()

    def _expect_numbers(self) -> None:
        # Names that come first as a number are asked for in Python as long as it is not known whether all go together.
        numbers = [d.now() if self.possible or self.first[self._name(d)[0]] is not step.specs[place] else NOBODY
                   for step, place, d in self.numbers]
        for (step, place, _), n in zip(self.numbers, numbers):
            matcher.set_arg(step.native, place, n)
        self.expected = numbers

    def settle(self) -> bool:
        """Give the program the present sizes. Returns False if it is not the program for them."""
        if not (self.possible or self.dims.hold()) or not all(map(self._fits, self.sized)):
            return False
        try:
            self.path.exe.resize()
        except OtherSize:
            self.wrong.add(tuple(self.dims.names))
            return False
        self.settled, self.runs = True, 0
        if NOBODY in self.expected:
            self.possible = True
            self._expect_numbers()
        if self.resized:
            self.family.ran(tuple(self.dims.names))
            self.resized = False
        return True

    @staticmethod
    def _fits(slot: Any) -> bool:
        return slot.tensor is not None and slot.tensor._storage.node.shape == whole(slot.signature)

    def stayed(self) -> bool:
        """Count a run; tell whether it is time that the present sizes got a program of their own."""
        self.runs += 1
        return self.runs == STAYS and self.settled and len(self.windows) < len(self.dims.names)

    def specialise(self) -> None:
        """Give the present sizes a program of their own, which is faster: its kernels are chosen for them."""
        path = self.path
        if isinstance(path.exe, Compiled):
            program = _as_now(path.program())
            own = executable(program)
            # What the interpreter would run the first time is compiled the second.
            self.general, path.exe = path.exe, own if isinstance(own, Compiled) else executable(program)
            for slot in self.slots:
                slot.moves = False  # until another tensor comes

    def compiled(self) -> Dims:
        """Return the sizes for a program that is to be compiled."""
        self.possible = self.settled = False
        self.general = None
        return self.dims

    def give_up(self) -> None:
        """Leave a path of these sizes alone."""
        for s in self.path.steps:
            forget_names(s.specs)
        for s, place, _ in self.numbers:
            matcher.set_arg(s.native, place, s.specs[place][1])
        for slot in self.slots:
            slot.template, slot.window, slot.moves = None, None, False
        self.path.sizes = None


def _form(x: Any) -> Any:
    """Return something equal only for what follows from the names in the same way."""
    return (Dim, x.form) if type(x) is Dim else tuple(map(_form, x)) if type(x) is tuple else x


def _as_now(program: Program) -> Program:
    """Return a program with plain sizes, as they are now."""
    made = _nodes_now((*program.inputs, *program.nodes))
    inputs, nodes, outputs = ([made[id(n)] for n in some] for some in (program.inputs, program.nodes, program.outputs))
    return Program(inputs, nodes, outputs, program.writes, program.gradients)


def _nodes_now(nodes: Iterable[Node]) -> dict[int, Node]:
    """Return values with plain sizes, as they are now, by the ids of those that they stand for."""
    made: dict[int, Node] = {}
    for n in nodes:
        if id(n) not in made:  # a value that several steps compute comes several times
            made[id(n)] = Node(n.row, tuple([made[id(i)] for i in n.inputs]), tuple(map(_parameter_now, n.params)),
                               now(n.shape), n.dtype)
            made[id(n)].where = n.where
    return made


def _parameter_now(x: Any) -> Any:
    if type(x) is not Body or not any(varies(n.shape) for n in x.inputs):
        return now(x)
    made = _nodes_now((*x.inputs, *x.nodes))
    return Body(*([made[id(n)] for n in some] for some in (x.states, x.steps, x.fixed, x.after, x.results)))


def _stub(n: Node, shape: Shape) -> Node:
    s = stub(n)
    s.shape = shape
    return s


def in_the_form_of(known: Any, path: Any, program: Program) -> tuple[Program, Dims] | None:
    """Return the program of a path with a name for its rows, of which it has one and the known path several.

    The name stands for as many as the known path has. None if more than that is between them.
    """
    sizes = other_sizes(known, path)
    rows, one = sizes.pop() if len(sizes) == 1 else (0, 0)
    if one != 1:
        return None
    form = _Form(rows)
    try:
        with form.dims:
            named = form.match(known.order, path.order)
        inputs, outputs = ([form.of(n) for n in some] for some in (program.inputs, program.outputs))
    except Unlike:
        return None
    needed = set(map(id, toposort(outputs)))
    nodes = [n for n in named if id(n) in needed and n.row is not input_]
    return Program(inputs, nodes, outputs, program.writes), form.dims


class _Form:
    """Matches values of a single row with those of several, and names the sizes in which they differ.

    Where several rows are spread, summed or turned, a single one may just have another shape, or none of its own.
    """

    def __init__(self, rows: int) -> None:
        self.rows, self.dims = rows, Dims()
        self.name: Any = self.dims.name(rows, near(rows))
        self.dims.conditions.clear()  # it will stand for another number
        self.single: dict[int, Node] = {}  # by the id of a value of several rows: that of a single one
        self.named: dict[int, Node] = {}  # and that with named sizes
        self.made: dict[int, Node] = {}  # that with named sizes, by the id of that of a single row

    def of(self, n: Node) -> Node:
        """Return the value with named sizes for that of a single row."""
        found = n if n.buffer is not None else self.made.get(id(n))
        if found is None:
            raise Unlike
        return found

    def match(self, several: Iterable[Node], single: Iterable[Node]) -> list[Node]:
        """Return the values with named sizes."""
        waiting = iter({id(n): n for n in single}.values())
        b = next(waiting, None)
        found = []
        for a in {id(n): n for n in several}.values():
            while b is not None and not self._alike(a, b) and b.row is reshape and self._shown(a) is None:
                b = next(waiting, None)  # several rows need no other shape there
            if b is not None and self._alike(a, b):
                self.made[id(b)] = n = self._with_name(a, b, b.params)
                b = next(waiting, None)
            elif (shown := self._shown(a)) is not None:
                n = self._with_name(a, shown, shown.params if a.row in (broadcast, reshape) else a.params)
            else:
                raise Unlike
            found.append(n)
        return found

    def _alike(self, a: Node, b: Node) -> bool:
        if a.row is not b.row or a.dtype is not b.dtype or len(a.inputs) != len(b.inputs):
            return False
        if a.row is reshape and len(a.shape) != len(b.shape):
            return False
        for i, j in zip(a.inputs, b.inputs):
            x = self.single.get(id(i), j if j.buffer is not None else None)
            if x is None or _shaped(x) is not _shaped(j) or (x.shape != j.shape and a.row is not reshape):
                return False
        return True

    def _shown(self, a: Node) -> Node | None:
        """Return what `a` is for one row, where that is its operand in another shape."""
        x = self.single.get(id(a.inputs[0])) if a.inputs else None
        if x is None:
            return None
        if a.row is broadcast:
            shape = (1,) * (len(a.shape) - len(x.shape)) + x.shape
        elif a.row is permute:
            shape = tuple([x.shape[d] for d in a.params[0]])
            if [n for n in shape if n != 1] != [n for n in x.shape if n != 1]:
                return None
        elif a.row is sum_:
            shape = tuple([n for d, n in enumerate(x.shape) if d not in a.params[0]])
        elif a.row is reshape:
            shape = tuple([1 if n == self.rows else n for n in a.shape])
        else:
            return None
        return Node(reshape, (x,), (shape,), shape, x.dtype) if math.prod(shape) == x.size else None

    def _with_name(self, a: Node, b: Node, params: tuple) -> Node:
        """Return what is `a` for the known number of rows and `b`, with these parameters, for one."""
        inputs = tuple([self.named.get(id(i), j) for i, j in zip(a.inputs, b.inputs)])
        # What was recorded with names, until they were given up, has them still.
        params = (self._window if a.row is slice_ else self._parameter)(plainly(a.params), plainly(params))
        shape = self._parameter(plainly(a.shape), plainly(b.shape))
        if a.row.shape is spread or a.row is broadcast:
            # Note what must be equal: a single row would be spread along anything else.
            broadcast_shapes(*[i.shape for i in inputs], shape)
        n = Node(a.row, inputs, params, shape, a.dtype)
        n.where = b.where
        self.single[id(a)], self.named[id(a)] = b, n
        return n

    def _window(self, several: tuple, one: tuple) -> tuple:
        """Return the bounds of a slice that begins where it does for one row."""
        (begins, ends, steps), (starts, stops, same) = several, one
        if steps != same:
            raise Unlike
        sizes = [self._size(q - p, t - s) for p, q, s, t in zip(begins, ends, starts, stops)]
        return starts, tuple([s + n for s, n in zip(starts, sizes)]), steps

    def _parameter(self, several: Any, one: Any) -> Any:
        if type(one) is int and type(several) is int:
            return self._size(several, one)
        if type(one) is tuple:
            if type(several) is not tuple or len(several) != len(one):
                raise Unlike
            return tuple(map(self._parameter, several, one))
        if type(one) is Body and type(several) is Body:
            self.match((*several.inputs, *several.nodes), (*one.inputs, *one.nodes))
            parts = one.states, one.steps, one.fixed, one.after, one.results
            return Body(*([self.of(n) for n in some] for some in parts))
        return one

    def _size(self, several: int, one: int) -> int:
        """Return what is `several` for the known number of rows and `one` for one."""
        if several == one:
            return one
        for power in (1, 2):
            if several == one * self.rows**power:
                return math.prod([self.name] * power, start=one)
        slope, rest = divmod(several - one, self.rows - 1)
        if rest:
            raise Unlike
        return self.name * slope + (one - slope)


def _shaped(n: Node) -> Node:
    """Return what a value shows in its shape."""
    while n.row is reshape and n.buffer is None:
        n = n.inputs[0]
    return n
