"""Tensors that a loop keeps until the next ones stand in their place.

`y = f(x)` in a loop holds its result over the flush, so the next step must be given another tensor, with
memory of its own. The one before is dropped by then. So an armed path has two generations of what is kept,
and hands them out in turn: nothing is made anew, neither tensors nor memory. A generation serves again only
when nobody can tell: no reference to its tensors, storages, values or memory is left but its own, which one
native table asks, and no weak reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fanal.core.engine import layout_ir
from fanal.core.engine.draft import Group, stub
from fanal.core.engine.handle import Handle, Origin
from fanal.core.engine.record import OUT
from fanal.core.engine.tables import (
    HANDLE,
    NODE,
    STORAGE,
    Condition,
    Table,
    alone,
    bare,
    element,
    holds,
    native,
    offsets,
)

if TYPE_CHECKING:
    from fanal.core.engine.path import Path

GROUP = offsets(Group)
MAX_BYTES = 1 << 20  # of memory in one generation: where there is more, making tensors is little of the work
MAX_MISSES = 4  # generations laid out before it is clear that they do not become free


def serves(path: Path) -> bool:
    """Tell whether what is held after a run can be handed out again, once it is dropped."""
    held = set(path.held)
    groups = {path.out_groups[i] for i in held}
    moving = {slot.group for slot in path.slots if slot.moves}
    size = 0
    for k in groups:
        g = path.groups[k]
        if g.grad or (g.external and (k in moving or g.final is not None)):
            return False
        if not g.external:
            size += g.storage.node.nbytes
    return size <= MAX_BYTES and all(_of_no_leaf(path.outs[i]._base_ref) for i in path.held)


def _of_no_leaf(origin: Any) -> bool:
    """Tell whether a view keeps no tensor alive, though it may know how it came to be."""
    return origin is None or (type(origin) is Origin and origin.leaf is None)


class Generation:
    """The tensors of `path.held`, fresh: as they must be when they are handed out again."""

    def __init__(self, path: Path) -> None:
        self.tensors: list[Any] = [None] * len(path.held)  # while they are not the path's
        groups = dict.fromkeys(path.out_groups[i] for i in path.held)
        self.storages = {k: path.groups[k].storage for k in groups if not path.groups[k].external}
        self.versions = {k: (s.version, s.version + 1) for k, s in self.storages.items()}
        bases = {path.out_groups[i] for i in path.held if path.outs[i]._base_ref is not None}.difference(self.storages)
        self.bases = [(s, s.version) for s in (path.groups[k].storage for k in bases)]  # views count writes from here
        self.fresh: list[dict[str, Any]] = []
        for i in path.held:
            o = path.outs[i]
            self.fresh.append({name: getattr(o, name) for name in Handle.__slots__ if name != "_storage"})
            if self._whole(path, i):
                del self.fresh[-1]["_node"]  # becomes the value
        # Tensors that nobody keeps, on the same storages: what they were when these were handed out.
        self.others = [(i, path.outs[i]._node, path.outs[i]._seen)
                       for k in self.storages for i in path.groups[k].outs if i not in path.held]
        self.buffers: list[tuple[int, Any]] = []  # (place among the results, memory), once it has run

    def _whole(self, path: Path, i: int) -> bool:
        """Tell whether a tensor's value is that of its storage."""
        o = path.outs[i]
        return path.out_groups[i] in self.storages and not (o._chain or o._detached)

    def retire(self, path: Path) -> None:
        """Take the tensors, computed and still held by the user, off the path. They have run before if laid out."""
        if not self.buffers:
            self.tensors[:] = [path.outs[i] for i in path.held]
            self._lay_out(path)

    def _lay_out(self, path: Path) -> None:
        place = {k: i for i, k in path.made}
        self.values = {k: s.node for k, s in self.storages.items()}
        self.pending = {k: stub(v) for k, v in self.values.items()}
        conditions: list[Condition] = [holds(s, STORAGE["version"], version) for s, version in self.bases]
        again: list[tuple[Any, int, Any]] = []
        done: list[tuple[Any, int, Any]] = []
        for o, i, fresh in zip(self.tensors, path.held, self.fresh):
            k = path.out_groups[i]
            conditions += [alone(id(o), 1), *bare(o)]
            for name, x in fresh.items():
                if name in ("_node", "_seen", "_path"):
                    again.append((o, HANDLE[name], x))
                else:
                    conditions.append(holds(o, HANDLE[name], x))
            if k in self.storages:
                conditions.append(holds(o, HANDLE["_storage"], self.storages[k]))
            if "_node" not in fresh:
                again.append((o, HANDLE["_node"], self.pending[k]))
                done += [(o, HANDLE["_node"], self.values[k]), (o, HANDLE["_seen"], self.versions[k][1])]
        for k, s in self.storages.items():
            value, (before, after) = self.values[k], self.versions[k]
            mine = [i for i in path.held if path.out_groups[i] == k]
            whole = sum(self._whole(path, i) for i in mine)
            buffer = value.buffer
            conditions += [alone(id(s), 1 + len(mine)), alone(id(value), 2 + whole), alone(id(buffer), 2),
                           holds(s, STORAGE["node"], value), holds(s, STORAGE["foreign"], None),
                           holds(value, NODE["buffer"], buffer), holds(value, NODE["hooks"], None),
                           holds(value, NODE["leaf"], None)]
            if buffer.base is not None:  # whom views of the memory refer to
                conditions.append(alone(id(buffer.base), 1))
            again += [(path.groups[k], GROUP["storage"], s), (s, STORAGE["uncounted"], ()),
                      (s, STORAGE["node"], self.pending[k]), (s, STORAGE["version"], before)]
            done += [(s, STORAGE["node"], value), (s, STORAGE["version"], after)]
        for i, node, seen in self.others:
            o = path.outs[i]
            again += [(o, HANDLE["_storage"], self.storages[path.out_groups[i]]),
                      (o, HANDLE["_node"], node), (o, HANDLE["_seen"], seen)]
        for j, (o, i) in enumerate(zip(self.tensors, path.held)):
            again += [(path.outs, element(path.outs, i), o), (self.tensors, element(self.tensors, j), None)]
            done.append((self.tensors, element(self.tensors, j), o))
        holders = [(o, step) for o, i in zip(self.tensors, path.held) for step in path.holders.get(i, ())]
        again += [(step.native, layout_ir.OUT, o) for o, step in holders if step.out[0] == OUT]
        self._sequences = list({id(step): step for _, step in holders if step.out[0] != OUT}.values())
        expecting = [(*use, o) for o, i in zip(self.tensors, path.held) for use in path.refs.get(i, ())]
        self._free, self._again, self._done = Table(conditions), Table([], again, expecting), Table([], done)
        native.apply(self._done.address)
        self.buffers = [(place[k], v.buffer) for k, v in self.values.items()]

    def free(self) -> bool:
        """Tell whether nobody else has any of it."""
        return native.holds(self._free.address)

    def enter(self, path: Path) -> None:
        """Let the path hand it out, as if it were new."""
        native.apply(self._again.address)
        for step in self._sequences:
            path.hand(step)
        if path.within:
            for i in path.held:
                path.forget((OUT, i))

    def compute(self) -> None:
        """Note that the memory holds the values now, and keep what was handed out."""
        native.apply(self._done.address)
