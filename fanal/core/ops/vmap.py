"""The events of a vmapped function: it begins with the part of each operand that belongs to one example, and ends
with what the function made of it, for all examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fanal.core.autograd.events import event
from fanal.core.engine import level as levels
from fanal.core.engine.level import Level
from fanal.core.engine.record import leave_path, session
from fanal.core.ir.prims.batching import from_front
from fanal.core.ops.build import assign
from fanal.core.ops.shape import movedim
from fanal.core.tensor.alias import read, value
from fanal.core.tensor.tensor import wrap


def _begin(size: int, randomness: str, tensors: Sequence[Any], dims: tuple[int, ...]) -> tuple:
    """Begin a level of `size` examples; return the part of each tensor, along its dimension, that is the example's."""
    nodes = [read(t) for t in tensors]  # may raise: no level is open yet
    level = levels.enter(size, randomness)
    return tuple([wrap(level.example(n, d)) for n, d in zip(nodes, dims)])


def _part(t: Any, depth: int) -> Any:
    """Return the part of a tensor, along its first dimension, that belongs to the example of a level."""
    return wrap(session.levels[depth].example(read(t), 0))


def _collect(results: Sequence[Any], out_dims: tuple, tensors: Sequence[Any], parts: Sequence[Any],
            in_dims: tuple[int, ...]) -> tuple:
    """Return results of the innermost level for all its examples, in front of which dimension is said.

    Where `out_dims` has None, the result must be the same for all. What was written into `parts` is written into the
    tensors that they are parts of.
    """
    b = session.levels[-1].batch
    assert b is not None
    made = []
    for t, dim in zip(results, out_dims):
        if dim is not None:
            made.append(movedim(wrap(b.whole(read(t))), 0, dim))
        elif b.of(read(t)) is None:
            made.append(t)
        else:
            raise ValueError("can not return a BatchedTensor when out_dim is None")
    for t, one, dim in zip(tensors, parts, in_dims):
        if one._storage.version:
            assign(t, from_front(b.whole(value(one)), dim))
    return tuple(made)


def _end() -> None:
    """End the innermost level."""
    levels.leave()


begin = event("vmap.begin", _begin, __name__)
part = event("vmap.part", _part, __name__)
collect = event("vmap.collect", _collect, __name__)
end = event("vmap.end", _end, __name__)


class mapped:
    """A level while Python is in it. Entering returns the parts of the tensors."""

    def __init__(self, size: int, randomness: str, tensors: Sequence[Any], dims: tuple[int, ...]) -> None:
        self.size, self.randomness, self.tensors, self.dims = size, randomness, tensors, dims

    def __enter__(self) -> mapped:
        s = session
        self._depth = len(s.levels)
        self._outer, s.checks = s.checks, []
        self._checks: list[tuple] = []
        self.parts = begin(self.size, self.randomness, self.tensors, self.dims)
        if len(s.levels) == self._depth:  # followed: nothing ran
            s.levels.append(Level(self.size, self.randomness, recorded=False))
        return self

    def collect(self, results: Sequence[Any], out_dims: Sequence[int | None]) -> list[Any]:
        """Return results for all examples, see `collect`."""
        checks = session.checks
        every = [*results, *(info for _, info in checks)]
        dims = (*out_dims, *(0 for _ in checks))
        made = list(collect(every, dims, self.tensors, list(self.parts), self.dims))
        self._checks = [(check, info) for (check, _), info in zip(checks, made[len(results):])]
        return made[:len(results)]

    def __exit__(self, *exc: object) -> None:
        end()
        s = session
        del s.levels[self._depth:]
        s.checks = self._outer
        for check, info in self._checks:
            check(info)


def examples(t: Any, own: Sequence[Level]) -> Any:
    """Return what belongs to the example of each of some levels, outermost first, of a tensor of all of them."""
    for depth, level in enumerate(list(session.levels)):
        if level in own:
            t = part(t, depth)
    return t


def across(t: Any) -> tuple[int, Any] | None:
    """Return the innermost level (counted from 1) on whose example a tensor depends, and the tensor for all of its
    examples, in front; None if it depends on none."""
    if session.levels:
        leave_path()  # only what is recorded can be had for all
        for depth, level in reversed(list(enumerate(session.levels, 1))):
            found = level.batch.of(read(t))
            if found is not None:
                return depth, wrap(found)
    return None


def whole(t: Any) -> Any:
    """Return a tensor for all examples that draw numbers of their own, the outermost level's in front."""
    if not session.levels:
        return t
    leave_path()  # only what is recorded can be had for all
    n = read(t)
    for level in reversed(levels.own_draws()):
        assert level.batch is not None
        n = level.batch.whole(n)
    return wrap(n)
