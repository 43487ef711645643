"""What a step works on, found once and kept while it stays the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, repeat
from operator import is_
from typing import TYPE_CHECKING, Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.engine.handle import Handle
from fanal.core.engine.record import session, written_ahead
from fanal.core.engine.tables import Fact, Watch
from fanal.core.ir.program import Node
from fanal.core.tensor.sparse import Sparse
from fanal.core.tensor.tensor import compute, wrap_array

if TYPE_CHECKING:
    from fanal.optim.update import Stepper

Rule = Callable[[Node, Node, Sequence[Node], Sequence[Node]], tuple[Node, Sequence[Node]]]


class Formula:
    """How one parameter changes: rule(p, g, states, numbers) -> new p, new states. Compared by identity.

    keys: the names of its states. exact: the rule wants values as they are, not complex numbers as pairs
    and 16-bit floats in float32.
    """

    __slots__ = ("__weakref__", "exact", "keys", "rule")

    def __init__(self, rule: Rule, keys: tuple[str, ...], exact: bool = False) -> None:
        self.rule, self.keys, self.exact = rule, keys, exact


def scalar(x: Any) -> Any:
    """Return a number given as a number or as a tensor of one element."""
    if not isinstance(x, Handle):
        return x
    return float(compute(x).reshape(()))


class Batch:
    """Parameters that change by one formula with the same numbers."""

    __slots__ = ("formula", "group", "params", "states", "tables", "when")

    def __init__(self, formula: Formula, group: dict[str, Any], when: Any) -> None:
        self.formula, self.group, self.when = formula, group, when
        self.params: list = []
        self.states: list = []
        self.tables: list[dict[str, Any]] = []  # the state of each parameter


_grad_of = Handle._grad.__get__  # type: ignore[attr-defined]  # the read of a slot, as a function
_NONE = repeat(None)


class Gathered:
    """The arguments of a step's event, and how to tell next time that they are still the same.

    Numbers change from step to step and stand in arrays that the program reads. They are written only between
    events, when nothing that could still read them is pending. Gradients are those of one step: whoever holds a
    gradient keeps its memory from serving again.
    """

    def __init__(self, optimizer: Stepper, batches: list[Batch]) -> None:
        self.batches = batches
        self.formulas = tuple([b.formula for b in batches])
        self.counts = tuple([len(b.params) for b in batches])
        self.params = tuple([p for b in batches for p in b.params])
        self.states = tuple([s for b in batches for s in b.states])
        self.grads = tuple(map(_grad_of, self.params))
        self.arrays: list[np.ndarray] = []
        self.sizes: tuple[int, ...] = ()
        self.numbers: tuple = ()
        self.of = optimizer.param_groups, optimizer.state
        mine = {id(p) for p in self.params}
        groups = optimizer.param_groups
        # Without a gradient, or with a sparse one.
        self.others = [(p, group) for group in groups for p in group["params"] if id(p) not in mine]
        self.counters: list[np.ndarray] = []
        self.clear: Any = None
        self.watch = Watch([*self._containers(optimizer), *self._counters(optimizer)])

    def _containers(self, optimizer: Stepper) -> list[Fact]:
        """Return where groups, parameters and states were found."""
        groups = optimizer.param_groups
        found: list[Fact] = [(groups, i, group) for i, group in enumerate(groups)]
        for group in groups:
            found.append((group, "params", group["params"]))
            found += [(group["params"], i, p) for i, p in enumerate(group["params"])]
        for b in self.batches:
            for p, table in zip(b.params, b.tables):
                if table:
                    found.append((optimizer.state, p, table))
                found += [(table, key, table[key]) for key in b.formula.keys]
        return found

    def _counters(self, optimizer: Stepper) -> list[Fact]:
        """Find the arrays that count steps, for optimizers that only count; return where they were found."""
        if not optimizer.counts_only():
            return []
        found: list[Fact] = []
        for table in chain.from_iterable(b.tables for b in self.batches):
            t = table["step"]
            storage, node = t._storage, t._storage.node
            if t._chain or node.buffer is None or not node.buffer.flags.writeable:
                self.counters = []
                return []
            found += [(table, "step", t), (storage, "node", node), (node, "buffer", node.buffer)]
            self.counters.append(node.buffer)
        return found

    def holds(self, optimizer: Stepper) -> bool:
        """Tell whether all is as it was gathered; takes the gradients and counts of now."""
        if self.of[0] is not optimizer.param_groups or self.of[1] is not optimizer.state or not self.watch.hold():
            return False
        self.grads = tuple(map(_grad_of, self.params))
        if any(map(is_, self.grads, _NONE)) or \
                not all(p._grad is None or isinstance(p._grad, Sparse) for p, _ in self.others):
            return False
        start = 0
        if self.counters and not self._shown():
            return False
        for b in self.batches:
            if optimizer._formula(b.group, b.when) is not b.formula:
                return False  # before anybody asks for states that it does not have
            if self.counters:
                end = start + len(b.params)
                counts = {a.item() for a in self.counters[start:end]}
                if len(counts) != 1:
                    return False
                b.when, start = counts.pop() + 1.0, end
            else:
                standing = [optimizer._standing(p, b.group) for p in b.params]
                if any(table is not t or when != standing[0][1] for (table, when), t in zip(standing, b.tables)):
                    return False
                b.when = standing[0][1]
            if optimizer._formula(b.group, b.when) is not b.formula:
                return False
        return True

    def _shown(self) -> bool:
        """Tell whether the counters' memory shows their values: no followed event has written to them."""
        path = session.path
        if path is None:
            return True
        if path.steady is None or path.steady is not self.clear:  # what an armed path writes to stays the same
            if any(written_ahead(t["step"]._storage) for b in self.batches for t in b.tables):
                return False
            self.clear = path.steady
        return True

    def count(self, optimizer: Stepper) -> None:
        """Compute the numbers of this step."""
        found: list[float] = []
        sizes = []
        for b in self.batches:
            numbers = optimizer._numbers(b.group, b.when, scalar(b.group["lr"]))
            sizes.append(len(numbers))
            found += numbers
        if len(self.arrays) != len(found):
            self.arrays = [np.empty((), np.float64) for _ in found]
            self.numbers = tuple([wrap_array(a, dt.float64) for a in self.arrays])
            self.sizes = tuple(sizes)
        for a, x in zip(self.arrays, found):
            a[()] = x

    def end(self, optimizer: Stepper) -> None:
        """Let go of the gradients, and move the counters on."""
        self.grads = ()
        if self.counters:
            for a, b in zip(self.counters, chain.from_iterable(map(repeat, self.batches, self.counts))):
                a[()] = b.when
            return
        for b in self.batches:
            for table in b.tables:
                optimizer._ended(table, b.group, b.when)
