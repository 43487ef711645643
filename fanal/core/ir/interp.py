"""The interpreter: the slow, obvious meaning of a program. Every backend answers to it."""

from __future__ import annotations

import numpy as np

from fanal.core.ir.program import Node, Program
from fanal.core.ir.row import reference


def evaluate(node: Node, values: dict[int, np.ndarray]) -> np.ndarray:
    """Return the value of one node, given those of its inputs by id."""
    args = [values[id(i)] if id(i) in values else i.buffer for i in node.inputs]
    out = np.asarray(reference(node)(*args))
    if out.dtype != node.dtype.np:
        out = out.astype(node.dtype.np)
    if out.shape != node.shape:
        raise AssertionError(f"{node!r}: the reference gave shape {out.shape}")
    return out


def interpret(program: Program, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Return the outputs of `program`, computed node by node in NumPy; C-contiguous, none aliasing another."""
    values = {id(n): a for n, a in zip(program.inputs, inputs)}
    uses: dict[int, int] = {}
    for n in program.nodes:
        for i in n.inputs:
            uses[id(i)] = uses.get(id(i), 0) + 1
    keep = {id(o) for o in program.outputs} | {id(n) for n in program.inputs}
    for n in program.nodes:
        values[id(n)] = evaluate(n, values)
        for i in n.inputs:
            uses[id(i)] -= 1
            if not uses[id(i)] and id(i) not in keep:
                values.pop(id(i), None)
    return [
        np.array(values[id(o)] if id(o) in values else o.buffer, order="C", copy=True)
        for o in program.outputs
    ]
