"""Values that cannot be computed: an index out of range, a division of integers by zero.

PyTorch raises where the operator is called. Here the calls that came after it are recorded by then. So a flush that
fails finds the first call to blame and takes back what later calls wrote, as if they had not come; computes all that
does not need what failed, and raises. What needs it stays as `failed`: whoever uses it gets the same error again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from fanal.core.base.where import show
from fanal.core.engine.cache import run_program
from fanal.core.ir.prims import idiv
from fanal.core.ir.program import Node, Program, toposort
from fanal.core.ir.row import Row, reference

FAILURES = (IndexError, RuntimeError)


class Failure:
    """An error, to be raised as often as somebody asks for the value, and the call to blame."""

    def __init__(self, error: Exception, where: Any) -> None:
        self.kind, self.args, self.where = type(error), error.args, where

    def error(self) -> Exception:
        """Return the error anew: with the traceback of one raise it would keep what that one's frames hold."""
        e = self.kind(*self.args)
        if self.where is not None:
            e.add_note(f"called at {show(self.where)}")
        return e


def _refuse(shape: tuple, dtype: Any, failure: Failure) -> NoReturn:
    raise failure.error()


# No primitive: what stands in a storage whose value could not be computed.
failed = Row("failed", "opaque", 0, lambda i, p: p[0], lambda i, p: p[1], _refuse, None,
             lambda *_: None, None, 0, None, False, None)


def refuse(n: Node) -> None:
    """Raise the error of a value that could not be computed."""
    if n.row is failed:
        raise n.params[2].error()


def give_up(storage: Any, failure: Failure) -> None:
    """Let a storage hold a value that could not be computed."""
    n = storage.node
    storage.node = Node(failed, (), (n.shape, n.dtype, failure), n.shape, n.dtype)
    storage.version += 1  # tensors that know its value ask again


def failures(outputs: list[Node]) -> dict[int, Failure]:
    """Return which of the pending values that `outputs` need cannot be computed, and why, by their ids."""
    pending = toposort(outputs)
    found: dict[int, Failure] = {}
    waiting = [n for n in pending if n.row.kind in ("index", "opaque") or n.row is idiv]
    while waiting:
        _spread(pending, found)
        waiting = [n for n in waiting if id(n) not in found]
        behind = _needing(pending, waiting)
        now, waiting = [n for n in waiting if id(n) not in behind], [n for n in waiting if id(n) in behind]
        values = _values([i for n in now for i in n.inputs])
        for n in now:
            try:
                reference(n)(*[values[id(i)] for i in n.inputs])
            except FAILURES as e:
                found[id(n)] = n.params[2] if n.row is failed else Failure(e, n.where)
    _spread(pending, found)
    return found


def _needing(pending: list[Node], some: list[Node]) -> set[int]:
    """Return the ids of the values that need one of some others."""
    these = {id(n) for n in some}
    found: set[int] = set()
    for n in pending:
        if any(id(i) in these or id(i) in found for i in n.inputs):
            found.add(id(n))
    return found


def _spread(pending: list[Node], found: dict[int, Failure]) -> None:
    """Let what needs a value that fails fail for the same reason."""
    for n in pending if found else ():
        why = next((found[id(i)] for i in n.inputs if id(i) in found), None)
        if why is not None:
            found.setdefault(id(n), why)


def _values(nodes: list[Node]) -> dict[int, Any]:
    """Return the values of some nodes by their ids. They stay pending."""
    values = {id(n): n.buffer for n in nodes}
    wanted = list({id(n): n for n in nodes if n.buffer is None}.values())
    if wanted:
        values.update(zip(map(id, wanted), run_program(*closed(wanted))))
    return values


def closed(outputs: list[Node]) -> tuple[Program, list[Any]]:
    """Return the program that computes pending values, and what it is given."""
    nodes = toposort(outputs)
    inputs = list({id(i): i for n in nodes for i in n.inputs if i.buffer is not None}.values())
    return Program(inputs, nodes, outputs), [i.buffer for i in inputs]


def rewind(writes: list[tuple], grads: list[tuple], since: int) -> None:
    """Take back writes and changes of .grad from position `since` on, see `record.written_at`."""
    for at, storage, node in reversed(writes):
        st = storage()
        if at >= since and st is not None:
            st.node = node
            st.version += 1  # a version that nobody has seen: tensors ask again
            if node.home is not None and node.home[0]() is st:
                node.home = node.home[0], st.version
    for at, tensor, before in reversed(grads):
        t = tensor()
        if at >= since and t is not None:
            t._grad = None if before is None else before()


def first_of(found: Iterable[Failure], calls: list[Any]) -> tuple[int, Failure]:
    """Return which of the recorded calls is to blame first, by number, and its failure."""
    place = {id(where): k for k, where in enumerate(calls)}
    return min(((place.get(id(f.where), len(calls)), f) for f in found), key=lambda pair: pair[0])
