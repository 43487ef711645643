"""Views that have history of their own, and are held when their segment ends.

A view is a value of its own in the history: what is computed from it later must be computed from the very same value,
or the gradient at the view would miss a part, and that of its base would be summed in another order. Recording leaves
the values as they are; following makes them as they were recorded.
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple
from weakref import ref

from fanal.core.base.dim import now
from fanal.core.engine.carry import Carried, leaf_node
from fanal.core.engine.handle import Origin, counted, hooked
from fanal.core.ir.prims import detach
from fanal.core.ir.program import Node


class Chain(NamedTuple):
    """The history of a view, from its own value down to what it is a view of."""

    nodes: list[Node]  # the base is not among them
    leaf: Any  # the leaf that is the base; None if the base is what the storage holds


def chain_of(t: Any) -> Chain | None:
    """Return the history of a tensor that is a view, if it is up to date and nothing of it was freed."""
    st, n = t._storage, t._node
    if not t._chain or t._seen != st.version or not n.needs_grad or n.freed:
        return None
    nodes = []
    for row, _ in reversed(t._chain):
        if n.row is not row or len(n.inputs) != 1:
            return None
        nodes.append(n)
        n = n.inputs[0]
        if n.leaf is not None or n is st.node:
            return Chain(nodes, n.leaf)
    return None


def repeatable(t: Any) -> bool:
    """Tell whether following can make the value of a tensor as it was recorded.

    It cannot for views with hooks, for views of a leaf that change nothing, and what is cut out of those, nor for views
    that a custom function returned: their history is the function's.
    """
    n = t._node
    if hooked(t):
        return False
    return t._leaf or not n.needs_grad or bool(n.freed) or (t._storage.node.needs_grad and not t._detached) or \
        chain_of(t) is not None


def _related(views: dict[int, Node]) -> dict[int, tuple[int, int]]:
    """Return which of these values is a view of which other, and through how many views."""
    at = {id(n): k for k, n in views.items()}
    found = {}
    for k, n in views.items():
        depth = 0
        while len(n.inputs) == 1 and n.leaf is None:
            n = n.inputs[0]
            depth += 1
            if id(n) in at:
                found[k] = depth, at[id(n)]
                break
    return found


def values_of(tensors: Iterable[tuple[int, Any]]) -> dict[int, Node]:
    """Return the values of those tensors that are views, up to date, and have history."""
    return {k: t._node for k, t in tensors
            if t is not None and t._chain and t._seen == t._storage.version and t._node.needs_grad and t._node.inputs}


def _arrival(leaf: Any) -> Node:
    """Return where the gradient of a leaf arrives."""
    st = leaf._storage
    if leaf._seen != st.version:
        n = st.node
        for row, params in leaf._chain:
            n = row(n, *params)
        leaf._node, leaf._seen = detach(n) if leaf._detached else n, st.version
    return leaf_node(leaf, leaf._node)


def join(carried: Carried, views: Iterable[tuple[Any, list[int | None]]]) -> None:
    """Let the values of views, if there are tensors, be those at these places of a graph."""
    for t, places in views:
        chain = None if t is None else chain_of(t)
        if chain is not None and len(chain.nodes) == len(places):
            carried.views.update((k, ref(n)) for k, n in zip(places, chain.nodes) if k is not None)


class Views:
    """The views of a segment: those it makes, as it makes them, and those that come from outside."""

    def __init__(self, outs: list[Any], slots: list[Any], outside: dict[int, Node], place_of: Any) -> None:
        """outs: the tensors it returns. outside: values by slot. place_of(leaf) -> its specification or None."""
        self.slots = [slot for slot in slots if slot.tensor._chain and not slot.without_history]
        # By out: how many versions ago its storage was as it was made, where PyTorch asks for that.
        self.ages = {i: counted(o._storage) - o._base_ref.version for i, o in enumerate(outs)
                     if type(o._base_ref) is Origin}
        self.aging: tuple[Any, list[tuple[int, int]]] = None, []  # groups whose values a run leaves, and ages on them
        self.related = _related(outside)
        self.once = {i for i, o in enumerate(outs) if not repeatable(o)}
        keys: dict[int, int] = {}
        above = {id(n): k for k, n in outside.items()}
        # By out: the slot of a view that it is a view of, or None; the specification of the leaf that it is a view of,
        # or None; and (key, row, params, shape, dtype, where) of its values from there up.
        self.outs: dict[int, tuple] = {}
        for i, o in enumerate(outs):
            chain = chain_of(o)
            if chain is None:
                continue
            begin = next((at for at, n in enumerate(chain.nodes) if id(n) in above), None)
            slot = None if begin is None else above[id(chain.nodes[begin])]
            leaf = None if slot is not None or chain.leaf is None else place_of(chain.leaf)
            if slot is not None or leaf is not None or chain.leaf is None:
                self.outs[i] = slot, leaf, [
                    (keys.setdefault(id(n), len(keys)), n.row, n.params, n.shape, n.dtype, n.where)
                    for n in reversed(chain.nodes[:begin])]

    def outside(self) -> dict[int, Node]:
        """Return the values of those from outside that have history, by slot."""
        return values_of((slot.place, slot.tensor) for slot in self.slots)

    def related_as_before(self) -> bool:
        """Tell whether those from outside are views of each other as they were."""
        return len(self.slots) < 2 or self.related == _related(self.outside())

    def may_change(self) -> bool:
        """Tell whether others may come from outside, related in another way."""
        return len(self.slots) > 1 and any(slot.moves for slot in self.slots)

    def bases(self, path: Any) -> tuple[dict[int, Node], dict[tuple, Any]]:
        """Return what the views are views of, while the path has it: values by slot, leaves by specification."""
        if not self.outs:
            return {}, {}
        return self.outside(), {leaf: path.value(leaf) for _, leaf, _ in self.outs.values() if leaf is not None}

    def stand(self, path: Any, held: Iterable[int], bases: tuple[dict[int, Node], dict[tuple, Any]]) -> None:
        """Make the values of the views that somebody holds."""
        if self.aging[0] is not path.keep:  # other storages are of no new version after a run
            kept = {*path.keep, *(k for k, g in enumerate(path.groups) if g.external)}
            self.aging = path.keep, [(i, age) for i, age in self.ages.items() if path.out_groups[i] in kept]
        for i, age in self.aging[1]:
            o = path.outs[i]
            o._base_ref.version = counted(o._storage) - age
        for i in held:
            if path.out_groups[i] in path.outside:
                path.outs[i]._storage.shared = True
        if not self.outs:
            return
        outside, leaves = bases
        made: dict[int, Node] = {}
        for i in held:
            slot, leaf, chain = self.outs.get(i, (None, None, ()))
            if not chain or (slot is not None and slot not in outside):
                continue
            o = path.outs[i]
            st = o._storage
            n = outside[slot] if slot is not None else st.node if leaf is None else _arrival(leaves[leaf])
            for key, row, params, shape, dtype, where in chain:
                view = made.get(key)
                if view is None:
                    view = made[key] = Node(row, (n,), now(params), now(shape), dtype)
                    view.needs_grad, view.where = True, where
                n = view
            o._node, o._seen = n, st.version
            if n.home is None:
                n.home = (ref(st), st.version)
