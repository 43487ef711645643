"""From one example to all of them: how a recorded computation is done for a whole batch at once.

A vmapped function runs on the example of a number that nobody knows yet: an input without a value, from which its
operands are taken as x[number]. What it records is the computation for any one example. `Batch` then makes the
values for all numbers 0, 1, ..., size - 1, primitive by primitive, by the rules in the rows. They are values like
any others: they have gradients, are followed and compiled, and may themselves depend on the number of an outer batch.
"""

from __future__ import annotations

from collections.abc import Iterable

from fanal.core.base.dtype import int64
from fanal.core.base.state import forward_mode, grad_mode, state
from fanal.core.ir.prims.batching import each
from fanal.core.ir.prims.source import input_, iota
from fanal.core.ir.prims.view import alias, detach
from fanal.core.ir.program import Node, postorder


def number() -> Node:
    """Return the number of an example: a value that is known only when a batch replaces it."""
    return input_((), int64)


def unknown(nodes: Iterable[Node]) -> set[int]:
    """Return the ids of values that depend on the number of an example. `nodes`: inputs first."""
    found: set[int] = set()
    for n in nodes:
        if n.buffer is None and (n.row is input_ or any(id(i) in found for i in n.inputs)):
            found.add(id(n))
    return found


class Batch:
    """The values of all examples, by the values of one."""

    def __init__(self, number: Node, size: int) -> None:
        self.number, self.size = number, size
        self.numbers = iota((size,), 0, int64)
        # By the id of a value: the value itself, which must stay, and it for all examples, None if they share it.
        self._known: dict[int, tuple[Node, Node | None]] = {id(number): (number, self.numbers)}

    def is_number(self, n: Node) -> bool:
        """Tell whether a value is the numbers of all examples, in order."""
        return n is self.numbers

    def know(self, n: Node, whole: Node) -> None:
        """Say what a value is for all examples."""
        self._known[id(n)] = (n, whole)

    def of(self, root: Node) -> Node | None:
        """Return a value for all examples, (size, *shape), or None if it is the same for all."""
        known = self._known
        for n in postorder([root], lambda n: () if id(n) in known else _behind(n)):
            if id(n) not in known:
                known[id(n)] = (n, self._whole(n))
        return known[id(root)][1]

    def whole(self, n: Node) -> Node:
        """Return a value for all examples, repeated if it is the same for all."""
        found = self.of(n)
        return each(n, self.size) if found is None else found

    def _whole(self, n: Node) -> Node | None:
        if all(self._known[id(i)][1] is None for i in _behind(n)):
            return None
        line, state.where = state.where, n.where
        try:
            with grad_mode(n.needs_grad):
                return self._dual(self._value(n), _given(n))
        finally:
            state.where = line

    def _value(self, n: Node) -> Node:
        found = [self._known[id(i)][1] for i in n.inputs] if n.buffer is None else []
        marks = [x is not None for x in found]
        if not any(marks):
            return each(n, self.size)
        return n.row.batch(self, n, [i if x is None else x for i, x in zip(n.inputs, found)], marks)

    def _dual(self, value: Node, tangents: dict[int, Node]) -> Node:
        """Return a value for all examples with tangents that it was given for one."""
        if tangents:
            with forward_mode(None):
                value = alias(value)
            value.tangents = {level: self.whole(t) for level, t in tangents.items()}
        return value


def _given(n: Node) -> dict[int, Node]:
    """Return the tangents, at the levels of forward mode that are open, of a value that may have got them by hand."""
    if not n.tangents or n.row not in (alias, detach):
        return {}
    return {level: n.tangents[level] for level in state.levels if level in n.tangents}


def _behind(n: Node) -> tuple[Node, ...]:
    return (*(n.inputs if n.buffer is None else ()), *_given(n).values())
