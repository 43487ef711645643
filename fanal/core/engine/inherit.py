"""Graphs of earlier segments that a known segment goes through: how it finds them, what must hold, what it frees; and
what came from outside, gets a history, and fades.

A layer writes to zeros that an earlier segment made, and what it has written gets a history; when the layer has
returned, only the results that follow from it are held. Whoever still held the zeros could begin a backward there.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from sys import getrefcount
from typing import Any

from fanal.core.engine.carry import Carried, Uncarried, folded
from fanal.core.engine.record import SLOT
from fanal.core.engine.views import join

_LOOKED_AT = 1  # by so much more getrefcount counts the references to what an attribute holds


def found_at(slots: list[Any], slot: int, route: tuple) -> Carried | None:
    """Return the folded graph to which the tensor in a slot belongs, or one that this leads on to."""
    t = slots[slot].tensor
    if t is None:
        return None
    n = t._storage.node
    if n.row is not folded:
        return None
    carried: Carried = n.params[0]
    for k in route:
        carried = carried.parents[k]
    return carried if carried.nodes is None else None


class Inherited:
    """One carried graph as a segment knows it."""

    __slots__ = ("after", "before", "carried", "graph", "homes", "kept", "leaves", "numbers", "others", "routes",
                 "views")

    def __init__(self, carried: Carried, routes: list[tuple[int, tuple]], leaves: list[tuple[int, int]],
                 homes: list[tuple[int, int]], views: dict[int, tuple[int, int]]) -> None:
        assert carried.nodes is not None
        self.graph, self.before = carried.graph, carried.flags
        self.numbers = carried.numbers  # of the recorded run
        self.after = tuple([n.freed if p is None else f for n, p, f in
                            zip(carried.nodes, self.graph.parent, self.before)])
        self.kept = self.graph.still_needed(self.after)
        self.routes = routes  # (slot, number of a parent, number of a parent of that, ...)
        self.leaves = leaves  # (number of the leaf, its slot)
        known = {k for k, _ in leaves}
        self.others = [k for k in range(len(carried.leaves)) if k not in known]  # leaves that are in no slot
        self.homes = dict(homes)  # number of the storage -> its group
        self.views = views  # slot -> where in the graph the view is that comes there, see `Carried.place`
        self.carried: Carried | None = carried  # of the present run

    def _find(self, slots: list[Any], step: int) -> Carried | None:
        """Return the carried graph to which all routes lead that are known at a step."""
        found = None
        for slot, route in self.routes:
            if slots[slot].step <= step:
                c = found_at(slots, slot, route)
                if c is None or (found is not None and c is not found):
                    return None
                found = c
        return found

    def like(self, other: Inherited) -> bool:
        """Tell whether the graph of another segment is like this one, but for integers."""
        return self.graph.kind is other.graph.kind and all(
            getattr(self, x) == getattr(other, x) for x in ("before", "after", "routes", "leaves", "homes", "views"))

    def admit(self, path: Any, step: int) -> bool:
        """Tell whether the graph that is there now is like the one that was recorded; if so, take it."""
        c = self._find(path.slots, step)
        if c is None or c.graph.kind is not self.graph.kind or c.flags != self.before or not c.intact():
            return False
        if path.sizes is not None:
            if not path.sizes.admit_graph(self, c.numbers):
                return False
        elif c.numbers is not self.numbers and c.numbers != self.numbers:
            return False
        for k, place in self.leaves:
            slot, t = path.slots[place], c.leaves[k]
            if slot.tensor is not t and not (slot.may_change(step) and path.bind(slot, t)):
                return False
        self.carried = c
        return True

    def at_its_leaves(self, path: Any, step: int) -> bool:
        """Tell whether the graph that was taken ends at the tensors that the segment has for its leaves, and at no
        other tensor that has come to it by a step: `autograd.grad` would have found a gradient for that one."""
        c = self.carried
        if c is None or any([path.slots[place].tensor is not c.leaves[k] for k, place in self.leaves]):
            return False
        others = {id(c.leaves[k]) for k in self.others}
        return not others or all([id(slot.tensor) not in others for slot in path.slots if slot.step <= step])

    def holds(self, path: Any) -> bool:
        """Tell, at the end of the segment, whether its tensors are related to the graph as they were."""
        c = self.carried
        if c is None or self._find(path.slots, len(path.steps)) is not c:
            return False
        groups, homes = path.groups, self.homes
        written = {id(groups[k].storage) for k in path.writes}
        for k, r in enumerate(c.storages):
            storage = r and r()
            g = homes.get(k)
            if g is not None:
                if groups[g].storage is not storage:
                    return False
            elif storage is not None and id(storage) in written:
                return False
        return self.views == {k: at for k, n in path.views.outside().items() if (at := c.place(n)) is not None}

    def spend(self) -> None:
        """Free what the segment frees."""
        if self.carried is not None:
            self.carried.spend(self.after, self.kept)
            self.carried = None


def admit_graphs(path: Any, steps: Iterable[Any]) -> bool:
    """Tell whether the graphs that steps go through are like those that were recorded, and share leaves as they did."""
    walks = [(u, s.index) for s in steps for u in s.walks]
    return all([u.admit(path, k) for u, k in walks]) and all([u.at_its_leaves(path, k) for u, k in walks])


def references(segments: Iterable[Any]) -> Counter[int]:
    """Return how often segments refer to storages from outside, by their ids: of themselves, and by tensors that nobody
    else holds."""
    segments = list(segments)
    found = Counter(id(g.storage) for p in segments for g in p.groups if g.external)
    found.update(id(o._storage) for p in segments for o, g in zip(p.outs, p.out_groups) if p.groups[g].external)
    slots = [slot for p in segments for slot in p.slots if slot.tensor is not None]
    times = Counter(id(slot.tensor) for slot in slots)
    tensors = {id(slot.tensor): slot for slot in slots}
    found.update(id(slot.tensor._storage) for key, slot in tensors.items()
                 if getrefcount(slot.tensor) == times[key] + _LOOKED_AT)
    return found


def fade(path: Any, known: Iterable[Any]) -> bool:
    """Tell whether what somebody holds of what is not to be held after a run of `path` can be left a history."""
    fading = [g for g in path.gives if g.fades]
    if not fading:
        return True
    found = references(known)
    held = [g for g in fading if getrefcount(g.storage) != found[id(g.storage)] + _LOOKED_AT]
    return not held or widen(path, {path.groups.index(g) for g in held})


def widen(path: Any, roots: set[int]) -> bool:
    """Let a path leave the history of these groups, too. Returns False if that is impossible."""
    if roots.issubset(path.roots):
        return True
    if path.outline is None or path.sizes is not None:
        return False
    wider = sorted(roots.union(path.roots))
    try:
        path.outline.graphs(wider)
    except (Uncarried, KeyError):
        return False
    path.roots, path.exe = wider, None
    for g in roots:
        path.groups[g].fades = False
    return True


def parents_of(path: Any) -> list[list[Carried]] | None:
    """Return the graphs on which each graph of a run stands; None if they are not those expected."""
    found: list[list[Carried]] = []
    for taken in path.taken:
        found.append([])
        for kind, (slot, route) in taken.parents:
            c = found_at(path.slots, slot, route)
            if c is None or c.graph.kind is not kind:
                return None
            found[-1].append(c)
    return found


def _shown(path: Any, kind: str, x: Any, held: Collection[int]) -> bool:
    """Tell whether a tensor that somebody may hold shows a value, said by its source."""
    g = x if kind == "group" else path.keep[x] if kind == "result" and x < len(path.keep) else -1
    return g >= 0 and (path.groups[g].external or any(i in held for i in path.groups[g].outs))


def hand_on(path: Any, results: list[Any], storages: list[Any], parents: list[list[Carried]], outs: list[Any],
            held: Collection[int]) -> None:
    """Leave the history of a run to whoever holds its tensors; of `outs`, those in `held` are held."""
    for taken, above in zip(path.taken, parents):
        arrays = {}
        for v, kind, x in taken.handed:
            arrays[v] = results[x] if kind == "result" else \
                path.groups[x].storage.node.buffer if kind == "group" else \
                path.scalars[x][1].copy() if kind == "scalar" else \
                path.steps[x[0]].copies[x[1]] if kind == "snapshot" else \
                path.inherited[x[0]].carried.arrays[x[1]] if kind == "carried" else x  # type: ignore
            # No version is asked about what no tensor held, and another may show its memory, and be written to.
            if taken.graph.home[v] is None and _shown(path, kind, x, held):
                arrays[v] = arrays[v].copy()
        leaves = [path.slots[k].tensor if kind == SLOT else outs[k] for kind, k in taken.leaves]
        carried = Carried(taken.graph, arrays, leaves, [storages[k] for k in taken.homes], above, taken.sized)
        for g, k in taken.groups.items():
            if storages[g] is not None:
                carried.fold(storages[g].node, k)
        join(carried, [(path.slots[k].tensor if kind == SLOT else outs[k] if k in held else None, places)
                       for (kind, k), places in taken.views])
