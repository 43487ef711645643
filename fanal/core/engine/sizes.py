"""Paths that take tensors of other sizes: what follows from their named sizes, and giving those other values."""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fanal.core.base.dim import Dim, Dims, now, plainly, varies
from fanal.core.compiler.steps import OtherSize
from fanal.core.engine.cache import Compiled, executable
from fanal.core.engine.draft import stub
from fanal.core.engine.handle import signature
from fanal.core.engine.matcher import matcher
from fanal.core.engine.naming import Naming, forget_names, resized, same_make
from fanal.core.engine.record import CONST, SEQUENCE, SLOT
from fanal.core.ir.body import Body
from fanal.core.ir.program import Node, Program, Shape

STAYS = 32  # runs in a row in the same sizes, and these get a program of their own


class Sizes:
    """The named sizes of a path.

    A name gets its value where it first comes, in the order of events; elsewhere it must be the same.
    """

    def __init__(self, path: Any, naming: Naming) -> None:
        """Leave plain sizes in the path, as they are now, and remember what they follow from."""
        self.path, self.dims, self.family = path, naming.dims, naming.family
        self.possible = True  # the conditions hold
        self.settled = True  # and the program has these sizes
        self.runs = 0  # in a row, of the present sizes
        self.general: Any = None  # the program for all sizes, while that of the present ones alone runs
        self.wrong: set[tuple[int, ...]] = set()  # values of the first names that do not meet them
        known: dict[Any, Any] = {}

        def one(x: Any) -> Any:
            """Return the same object for what follows from the names in the same way."""
            return known.setdefault(_form(x), x)
        self.outs: list[tuple[int, tuple]] = []
        for i, o in enumerate(path.outs):
            made = (o._shape, o._strides, o._offset, o._chain)
            if varies(made):
                self.outs.append((i, one(made)))
                o._shape, o._strides, o._offset, o._chain = plainly(made)
        finals = [(g, g.final.shape) for g in path.groups if g.final is not None]
        self.groups = [(g, one(shape)) for g, shape in finals if varies(shape)]
        self.slots = [slot for slot in path.slots if varies(slot.signature)]
        for slot in self.slots:
            slot.template, slot.signature = one(slot.signature[1]), plainly(slot.signature)
            slot.moves = True
        self.numbers: list[tuple[Any, int, Dim]] = []  # (step, place among its arguments, Dim)
        self.expected: list[int] = []  # what the matcher expects there: it knows objects by address
        self.first: dict[int, Any] = {}  # name -> the specification or the slot where it first comes
        for s in path.steps:
            for place, spec in enumerate(s.specs):
                self._find(s, place, spec, True)
        self._expect_numbers()

    def _find(self, step: Any, place: int, spec: tuple, direct: bool) -> None:
        kind, x = spec
        if kind == SEQUENCE:
            for i in x[1]:
                self._find(step, place, i, False)
        elif kind == CONST and type(x) is Dim:
            self.first.setdefault(self._name(x), spec)
            if direct:
                self.numbers.append((step, place, x))
        elif kind == SLOT and self.path.slots[x] in self.slots:
            for d in self.path.slots[x].template:
                if type(d) is Dim:
                    self.first.setdefault(self._name(d), self.path.slots[x])

    def _name(self, d: Dim) -> int:
        """Return which name a Dim is."""
        ((at,), _), = d.form
        return self.dims.atoms[at]  # type: ignore[return-value]

    def take(self, spec: tuple, value: Any) -> bool:
        """Tell whether a number among the arguments is the expected size, or says what that is."""
        d = spec[1]
        if type(value) is not int:
            return False
        name = self._name(d)
        return d.now() == value or (self.first[name] is spec and self._resize({name: value}))

    def admit(self, slot: Any, t: Any) -> bool:
        """Tell whether a tensor is of the make of a slot with other sizes, and take those over."""
        made = signature(t)
        if slot.template is None or not same_make(made, slot.signature) or made[1] != t._storage.node.shape:
            return False
        changed: dict[int, int] = {}
        for d, old, n in zip(slot.template, slot.signature[1], t._shape):
            if n != old:
                if type(d) is not Dim or self.first[self._name(d)] is not slot \
                        or changed.setdefault(self._name(d), n) != n:
                    return False
                changed[self._name(d)] = n
        for d, n in zip(slot.template, t._shape):
            if type(d) is Dim and changed.get(self._name(d), n) != n:
                return False
        return self._resize(changed)

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
        elif path.disarm():
            self.possible, self.settled = len(first) == len(after), False
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
        for s in self.slots:
            shape = value(s.template)
            if shape != s.signature[1]:
                s.signature = resized(s.signature, shape)
                if s.tensor is not None:
                    path.release(s)
        for group, template in self.groups:
            shape = value(template)
            if group.storage.node.shape != shape:
                group.storage.node = _stub(group.storage.node, shape)
        for i, template in self.outs:
            o = path.outs[i]
            o._shape, o._strides, o._offset, o._chain = value(template)
            if o._node.shape != o._shape:
                o._node = _stub(o._node, o._shape)
        self._expect_numbers()
        path.frozen.clear()

    def _expect_numbers(self) -> None:
        numbers = [d.now() for _, _, d in self.numbers]
        for (step, place, _), n in zip(self.numbers, numbers):
            matcher.set_arg(step.native, place, n)
        self.expected = numbers

    def settle(self) -> bool:
        """Give the program the present sizes. Returns False if it is not the program for them."""
        if not (self.possible or self.dims.hold()) or not all(map(self._fits, self.slots)):
            return False
        try:
            self.path.exe.resize()
        except OtherSize:
            self.wrong.add(tuple(self.dims.names))
            return False
        self.settled, self.runs = True, 0
        self.family.ran(tuple(self.dims.names))
        return True

    @staticmethod
    def _fits(slot: Any) -> bool:
        return slot.tensor is not None and slot.tensor._storage.node.shape == slot.signature[1]

    def stayed(self) -> bool:
        """Count a run; tell whether it is time that the present sizes got a program of their own."""
        self.runs += 1
        return self.runs == STAYS and self.settled

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
            slot.template, slot.moves = None, False
        self.path.sizes = None


def _form(x: Any) -> Any:
    """Return something equal only for what follows from the names in the same way."""
    return (Dim, x.form) if type(x) is Dim else tuple(map(_form, x)) if type(x) is tuple else x


def _as_now(program: Program) -> Program:
    """Return a program with plain sizes, as they are now."""
    made = _nodes_now((*program.inputs, *program.nodes))
    inputs, nodes, outputs = ([made[id(n)] for n in some] for some in (program.inputs, program.nodes, program.outputs))
    return Program(inputs, nodes, outputs, program.writes)


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
