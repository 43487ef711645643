"""A validity check of programs, for tests and for whoever builds programs by hand."""

from __future__ import annotations

from fanal.core.ir.program import Node, Program
from fanal.core.ir.row import KINDS


class InvalidProgram(ValueError):
    """A program breaks a rule that every stage relies on."""


def check(program: Program) -> None:
    """Raise InvalidProgram unless every value is computed before use, with the shape and dtype its row says.

    Operands of a point row share one dtype (the condition of `where` aside), outputs are computed, given or known,
    and an output replaces an input of its own shape and dtype at most once.
    """
    ready = {id(n) for n in program.inputs}
    for n in program.inputs:
        if n.row.name != "input" and n.buffer is None and n.inputs and id(n) not in ready:
            raise InvalidProgram(f"{n!r} is an input but neither given nor known")
    for at, n in enumerate(program.nodes):
        if n.buffer is not None or id(n) in ready:
            ready.add(id(n))
            continue
        _check_node(n, at, ready)
        ready.add(id(n))
    for k, o in enumerate(program.outputs):
        if id(o) not in ready and o.buffer is None:
            raise InvalidProgram(f"output {k}, {o!r}, is never computed")
    taken: set[int] = set()
    for k, j in program.writes.items():
        if not 0 <= k < len(program.outputs) or not 0 <= j < len(program.inputs):
            raise InvalidProgram(f"writes[{k}] = {j} is out of range")
        o, i = program.outputs[k], program.inputs[j]
        if o.shape != i.shape or o.dtype is not i.dtype:
            raise InvalidProgram(f"output {k}, {o!r}, cannot replace input {j}, {i!r}")
        if j in taken:
            raise InvalidProgram(f"two outputs replace input {j}, {i!r}")
        taken.add(j)


def _check_node(n: Node, at: int, ready: set[int]) -> None:
    row = n.row
    where = f"node {at}, {n!r}"
    if row.kind not in KINDS:
        raise InvalidProgram(f"{where}: unknown kind {row.kind!r}")
    if row.name == "input":
        raise InvalidProgram(f"{where}: an input without a value that the program does not list")
    for i in n.inputs:
        if id(i) not in ready and i.buffer is None:
            raise InvalidProgram(f"{where}: reads {i!r}, which is computed later or never")
    if row.arity >= 0 and len(n.inputs) != row.arity:
        raise InvalidProgram(f"{where}: {len(n.inputs)} operands where the primitive has {row.arity}")
    shape, dtype = row.shape(n.inputs, n.params), row.dtype(n.inputs, n.params)
    if tuple(shape) != tuple(n.shape) or dtype is not n.dtype:
        raise InvalidProgram(f"{where}: its row says {dtype.name}{list(shape)}")
    if row.kind == "point":
        operands = n.inputs[1:] if row.name == "where" else n.inputs
        if len({i.dtype for i in operands}) > 1:
            raise InvalidProgram(f"{where}: operands of dtypes {[i.dtype.name for i in operands]}")
