"""What a primitive is: one row that holds its shape rule, reference, gradient, code and cost.

From the row everything else is derived: shape errors, the NumPy reference, gradients of every order (rules are
written in primitives), kernels of every backend, FLOP and byte reports, generated tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fanal.core.base.dtype import complex32, complex64, pairs, plain, scalar_name
from fanal.core.base.dtype import dtype as DType
from fanal.core.base.shape import Shape, broadcast_shapes
from fanal.core.base.state import state
from fanal.core.ir.program import Node

KINDS = ("source", "point", "view", "join", "reduce", "scan", "contract", "pool", "index", "recur", "tape", "opaque")
ROWS: dict[str, Row] = {}
NO_GRADIENT = None  # written in a row whose result does not vary smoothly with its inputs


class Row:
    """One primitive. Call it with nodes, then its parameters, to record a value."""

    __slots__ = (
        "name",
        "kind",
        "shape",
        "dtype",
        "ref",
        "grad",
        "batch",
        "code",
        "flops",
        "domain",
        "exact",
        "fold",
        "arity",
    )

    def __init__(
        self,
        name: str,
        kind: str,
        arity: int,
        shape: Callable,
        dtype: Callable,
        ref: Callable,
        grad: Callable | None,
        batch: Callable,
        code: Callable | None,
        flops: Any,
        domain: tuple | None,
        exact: bool,
        fold: Callable | None,
    ) -> None:
        self.name, self.kind, self.arity = name, kind, arity
        self.shape, self.dtype, self.ref, self.grad, self.batch, self.code = shape, dtype, ref, grad, batch, code
        self.flops, self.domain, self.exact, self.fold = flops, domain, exact, fold

    def __call__(self, *args: Any) -> Node:
        """Record this primitive on nodes (a sequence of nodes when arity is -1) and parameters."""
        if self.arity < 0:
            inputs, params = tuple(args[0]), args[1:]
        else:
            inputs, params = args[: self.arity], args[self.arity :]
        if self.fold is not None:
            known = self.fold(*inputs, *params) if self.arity >= 0 else self.fold(inputs, *params)
            if known is not None:
                return known
        node = Node(self, inputs, params, self.shape(inputs, params), self.dtype(inputs, params))
        if self.grad is not None and node.dtype.category >= 2:
            if state.grad:
                for i in inputs:
                    if i.needs_grad:
                        node.needs_grad = not state.inference
                        break
            if state.forward is not None:
                state.forward(node)
        return node

    def __repr__(self) -> str:
        return f"<primitive {self.name}>"


def prim(
    name: str,
    *,
    kind: str,
    shape: Callable,
    dtype: Callable,
    ref: Callable,
    grad: Callable | None,
    batch: Callable,
    code: Callable | None,
    flops: Any,
    arity: int = 1,
    domain: tuple | None = None,
    exact: bool = False,
    fold: Callable | None = None,
) -> Row:
    """Declare a primitive.

    kind: one of KINDS. arity: number of input values, -1 for a sequence. shape, dtype: (inputs, params) -> result's.
    ref: (*arrays, *params) -> array, the meaning, in NumPy. grad: (g, y, *inputs, *params) -> one node or None per
    input, in primitives; NO_GRADIENT is a written value. batch: how many examples are done at once, see
    `prims.batching`. code: (emitter, *scalars) -> scalar, for point rows.
    flops: per result element, or (inputs, params) -> total. domain: where random test inputs are drawn.
    exact: IEEE gives one right answer, so NumPy and generated code agree to the bit.
    fold: (*inputs, *params) -> node or None, when the result is known without computing.
    """
    assert kind in KINDS and name not in ROWS, name
    row = ROWS[name] = Row(name, kind, arity, shape, dtype, ref, grad, batch, code, flops, domain, exact, fold)
    return row


_AS_THEY_ARE = ("bitcast", "recast", "broadcast", "reshape", "permute", "slice", "flip")  # bytes, only read or moved


def reference(node: Any) -> Callable:
    """Return the function of arrays that a node, or a value of a compiler's graph, stands for.

    NumPy cannot compute with complex32: primitives take it as complex64, and their result is rounded.
    """
    row, params = node.row, node.params
    ref = row.ref
    if row.name not in _AS_THEY_ARE and any(x.dtype is complex32 for x in (node, *node.inputs)):
        params = tuple(complex64 if p is complex32 else p for p in params)
        rounded = pairs if node.dtype is complex32 else np.asarray
        return lambda *arrays: rounded(ref(*map(plain, arrays), *params))
    return (lambda *arrays: ref(*arrays, *params)) if params else ref


def same(inputs: Sequence[Node], params: tuple) -> Shape:
    """Shape rule: that of the first input."""
    return inputs[0].shape


def spread(inputs: Sequence[Node], params: tuple) -> Shape:
    """Shape rule: the inputs' common broadcast shape."""
    return broadcast_shapes(*[i.shape for i in inputs])


def kept(inputs: Sequence[Node], params: tuple) -> DType:
    """Dtype rule: that of the first input."""
    return inputs[0].dtype


def ordered(name: str, rule: Callable = kept) -> Callable:
    """Dtype rule of what is defined for real numbers only: raises NotImplementedError for complex ones."""
    def dtype(inputs: Sequence[Node], params: tuple) -> DType:
        found = inputs[0].dtype
        if found.is_complex:
            raise NotImplementedError(f"\"{name}_cpu\" not implemented for '{scalar_name(found)}'")
        return rule(inputs, params)
    return dtype
