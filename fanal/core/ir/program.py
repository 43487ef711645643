"""Values and programs: what a step computes, before anybody decides how.

A Node is one value: a primitive applied to values. Nodes form a graph while a step is recorded; a Program is a
closed, ordered piece of it, ready for the compiler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from fanal.core.base.dtype import dtype as DType
from fanal.core.base.state import state

if TYPE_CHECKING:
    from fanal.core.ir.row import Row

Shape = tuple[int, ...]
WALKED, FREED = (
    1,
    2,
)  # backward went through a value that saved nothing; through one whose saved values are gone


NOWHERE = (lambda: None, 0)  # the home of a constant: a value that the arguments of a call alone determine


class Node:
    """One value of a recorded step. Immutable but for what the engine learns of it.

    `buffer` is the value itself once computed (or from the start, for an input). `needs_grad` says that gradients
    flow through it, and then `inputs` stay until the graph is freed. `home` is (storage, version) when the value was
    what a tensor held, for PyTorch's check that nobody overwrote what backward needs. `tangents` are its derivatives in
    the directions that forward mode follows.
    """

    __slots__ = (
        "row",
        "inputs",
        "params",
        "shape",
        "dtype",
        "buffer",
        "needs_grad",
        "where",
        "home",
        "leaf",
        "hooks",
        "freed",
        "tangents",
        "__weakref__",
    )

    def __init__(self, row: Row, inputs: tuple[Node, ...], params: tuple, shape: Shape, dtype: DType) -> None:
        self.row = row
        self.inputs = inputs
        self.params = params
        self.shape = shape
        self.dtype = dtype
        self.buffer: np.ndarray | None = None
        self.needs_grad = False
        self.where = state.where
        self.home: tuple[Any, int] | None = None  # (weak reference to a storage, version)
        self.leaf: Any = None  # the tensor whose .grad collects what arrives here
        self.hooks: Any = None  # autograd.hooks.Hooks
        self.freed = 0  # WALKED or FREED
        self.tangents: dict[int, Node] | None = None  # by level of forward mode

    @property
    def varies(self) -> bool:
        """Tell whether a gradient rule is asked about this input, in reverse mode or to be transposed."""
        return self.needs_grad or self.tangents is not None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"{self.row.name}({self.dtype.name}{list(self.shape)})"


class Program:
    """A closed piece of a recorded step.

    `inputs` are nodes whose buffers the caller supplies (row `input`: any shape; a runtime number is a 0-d float64
    or int64 input). `nodes` lists everything to compute in an order that respects use. `outputs` are the nodes whose
    values must be in memory afterwards. `writes[i] = j` says output i replaces the contents of input j in place.
    `gradients` are the outputs that come and go together.
    """

    __slots__ = ("gradients", "inputs", "nodes", "outputs", "writes")

    def __init__(
        self, inputs: list[Node], nodes: list[Node], outputs: list[Node], writes: dict[int, int] | None = None,
        gradients: tuple[int, ...] = ()
    ) -> None:
        self.inputs = inputs
        self.nodes = nodes
        self.outputs = outputs
        self.writes = writes or {}
        self.gradients = gradients


def postorder(roots: Iterable[Node], behind: Callable[[Node], Iterable[Node]]) -> list[Node]:
    """Return every node that `roots` lead to, after those that `behind` says it leads to. Iterative, as `toposort`."""
    order: list[Node] = []
    seen: set[int] = set()
    stack: list[tuple[Node, bool]] = [(r, False) for r in roots]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((i, False) for i in behind(node) if id(i) not in seen)
    return order


def toposort(roots: list[Node], stop: set[int] | None = None) -> list[Node]:
    """Return every node that `roots` need, inputs first, without nodes whose value is known (`buffer`).

    Iterative: recorded graphs are deeper than Python's recursion limit.
    """
    order: list[Node] = []
    seen: set[int] = set(stop) if stop else set()
    stack: list[tuple[Node, bool]] = [(r, False) for r in reversed(roots)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
            continue
        key = id(node)
        if key in seen:
            continue
        seen.add(key)
        if node.buffer is None:
            stack.append((node, True))
            for i in reversed(node.inputs):
                if id(i) not in seen:
                    stack.append((i, False))
    return order
