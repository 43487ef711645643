"""One step of a recurrence as a small program of its own, recorded once for all steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fanal.core.base.state import state
from fanal.core.ir.program import Node, toposort


class Body:
    """What happens at one step: (states, inputs of the step, what stays the same) -> (next states, results).

    Bodies are compared by identity: whoever records one keeps it for the next time.
    """

    __slots__ = ("after", "derived", "fixed", "nodes", "results", "states", "steps")

    def __init__(self, states: Sequence[Node], steps: Sequence[Node], fixed: Sequence[Node], after: Sequence[Node],
                 results: Sequence[Node]) -> None:
        self.states, self.steps, self.fixed = tuple(states), tuple(steps), tuple(fixed)
        self.after, self.results = tuple(after), tuple(results)
        for old, new in zip(self.states, self.after, strict=True):
            if (old.shape, old.dtype) != (new.shape, new.dtype):
                raise ValueError(f"a state {old!r} cannot become {new!r}")
        given = {id(n) for n in self.inputs}
        self.nodes = [n for n in toposort([*self.after, *self.results], given)]
        for n in self.nodes:
            if n.row.name == "input":
                raise ValueError("a step reads a value that is none of its inputs")
        self.derived: dict[Any, Any] = {}  # other bodies made from this one

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (*self.states, *self.steps, *self.fixed)

    @property
    def outputs(self) -> tuple[Node, ...]:
        return (*self.after, *self.results)

    def __repr__(self) -> str:
        return f"<step of {len(self.nodes)} values>"


class recording:
    """Record values of a body inside a `with` block: with gradients whatever the mode, for no line in particular."""

    __slots__ = ("old",)

    def __enter__(self) -> None:
        self.old = state.grad, state.inference, state.where
        state.grad, state.inference, state.where = True, False, None

    def __exit__(self, *exc: object) -> None:
        state.grad, state.inference, state.where = self.old


def record(step: Callable[..., tuple[Sequence[Node], Sequence[Node]]], states: Sequence[Node], steps: Sequence[Node],
           fixed: Sequence[Node]) -> Body:
    """Return the body step(*states, *steps, *fixed) -> (next states, results), for inputs like the nodes given."""
    from fanal.core.ir.prims.source import input_

    with recording():
        first, each, still = ([input_(n.shape, n.dtype) for n in nodes] for nodes in (states, steps, fixed))
        for n in (*first, *each, *still):
            n.needs_grad = True
        after, results = step(*first, *each, *still)
    return Body(first, each, still, after, results)
