"""Graphs that outlive their segment: what a later backward needs when a value was read before it.

A segment that ends with live history leaves its graph *folded*: the tensors it handed out stand on `folded`
nodes, which hold a `Carried`: the values that gradient rules will ask for, and the `Graph` they belong to. A
`Graph` is a template without values, the same object for all runs and for all segments that leave the same
graph. A backward that is followed takes the values and never looks at the graph. A backward that is recorded
meets a folded node, unfolds it into the nodes it stands for, and goes on as if it had recorded them itself.
"""
from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from types import BuiltinFunctionType, CellType, FunctionType, ModuleType
from typing import Any
from weakref import WeakValueDictionary, ref

import numpy as np

from fanal.core.base.dim import now, varies
from fanal.core.base.dtype import dtype as DType
from fanal.core.base.state import forward_mode, grad_mode
from fanal.core.ir.body import Body
from fanal.core.ir.prims import alias, detach, input_
from fanal.core.ir.program import FREED, Node, postorder
from fanal.core.ir.row import Row

# No primitive: it is never computed, and whoever walks a graph unfolds it first.
folded = Row("folded", "tape", 0, lambda i, p: (), lambda i, p: None, lambda: None, None,
             lambda *_: None, None, 0, None, False, None)

HELD, DETACHED = 1, 2  # a value is what its storage holds, or that without its history
HOOKED = "a hook on a value that is kept for a later backward"
DEEPEST = 8  # functions within functions in a gradient rule


class Uncarried(Exception):
    """A graph that cannot be kept as a template; says why."""


class _Unfolded(threading.local):
    """What this thread has unfolded in the present segment."""

    def __init__(self) -> None:
        self.nodes: dict[int, tuple[Carried, int, tuple]] = {}  # id -> whose, which, and its flags before
        self.walked: list[Carried] = []  # by the present event
        self.naming: Any = None  # the sizes that the present event has names for

    def clear(self) -> None:
        self.nodes.clear()
        self.walked.clear()


unfolded = _Unfolded()


def origin(n: Node) -> tuple[Carried, int, tuple] | None:
    """Return the carried graph a value belongs to, its place there, and what was freed as the segment began."""
    if n.row is folded:
        carried, k = n.params
        return carried, k, carried.flags
    return unfolded.nodes.get(id(n))


def history(n: Node) -> Any:
    """Return what must be equal of two values for a backward to do the same with them."""
    if not n.needs_grad:
        return False
    found = origin(n)
    return True if found is None else (found[0].graph.kind, found[1], found[2])


def template(n: Node) -> Node:
    """Return a node with the row and the parameters that a folded node stands for; others as they are."""
    return n.params[0].graph.nodes[n.params[1]] if n.row is folded else n


def unfold(n: Node) -> None:
    """Give a folded node the graph it stands for."""
    if n.row is folded:
        n.params[0].unfold()


class Graph:
    """The graph that leads to some values, without what was computed.

    `nodes` come inputs first. For the node of the same index: `leaf` is the number of the tensor whose
    gradient is collected there; `home` is (number of a storage, versions before its last, HELD or DETACHED if the
    storage holds this value now); `parent` is (number of a carried graph, place in it, its kind) of a value that
    another segment left. `kind` is the same object for graphs that differ in sizes and other integers only.
    """

    __slots__ = ("__weakref__", "_numbers", "flags", "home", "kind", "leaf", "leaf_value", "needs", "nodes", "parent",
                 "roots", "values", "watched")

    def __init__(self, nodes: list[Node], leaf: list, home: list, parent: list, roots: list[int],
                 needs: list[tuple[int, ...]], kind: Kind) -> None:
        self.kind = kind
        self._numbers: tuple[int, ...] | None = None
        self.nodes, self.leaf, self.home, self.parent, self.roots = nodes, leaf, home, parent, roots
        place = {id(n): i for i, n in enumerate(nodes)}
        self.leaf_value = {place[id(n.inputs[0])]: k for n, k in zip(nodes, leaf) if k is not None}
        self.flags = tuple([n.freed for n in nodes])
        self.values = sorted({v for i, vs in enumerate(needs) if self.flags[i] != FREED for v in vs})
        self.needs = needs  # of each node: which values its rule reads
        # Storages whose version a backward asks for: those that hold a value which it reads.
        self.watched = sorted({home[v][0] for v in self.values if home[v] is not None})

    @property
    def numbers(self) -> tuple[int, ...]:
        """Every integer in the shapes and parameters of the nodes, in order."""
        if self._numbers is None:
            self._numbers = tuple([x for n in self.nodes for x in numbers_in((n.shape, n.params))])
        return self._numbers

    def still_needed(self, flags: tuple) -> frozenset[int]:
        """Return the values that rules may still read when these nodes are freed."""
        return frozenset(v for i, vs in enumerate(self.needs) if not flags[i] for v in vs)


class Kind:
    """What graphs that differ in integers only have in common."""

    __slots__ = ("__weakref__",)


_graphs: WeakValueDictionary[Any, Graph] = WeakValueDictionary()
_kinds: WeakValueDictionary[Any, Kind] = WeakValueDictionary()


class Carried:
    """The graph of one run of a segment: a template, and what differs from run to run."""

    __slots__ = ("__weakref__", "_numbers", "arrays", "flags", "graph", "leaves", "nodes", "parents", "storages",
                 "stubs", "versions", "views", "whole")

    def __init__(self, graph: Graph, arrays: dict[int, np.ndarray], leaves: list[Any], storages: list[Any],
                 parents: list[Carried], sized: bool = False) -> None:
        """sized: some integers of the graph follow from named sizes, which have other values in another run."""
        self.graph = graph
        self._numbers = tuple(map(now, graph.numbers)) if sized else None
        self.arrays = arrays  # by node
        self.leaves = leaves
        self.storages = [None if s is None else ref(s) for s in storages]
        self.versions = [0 if s is None else s.version for s in storages]
        self.parents = parents
        self.flags = graph.flags
        self.nodes: list[Node] | None = None  # once unfolded
        self.whole = True  # nobody had written to what a backward reads when it was unfolded
        self.stubs: dict[int, ref[Node]] = {}  # the folded nodes, by place
        self.views: dict[int, ref[Node]] = {}  # of views that somebody holds, which are not folded

    @property
    def numbers(self) -> tuple[int, ...]:
        """The integers of the graph in this run."""
        return self.graph.numbers if self._numbers is None else self._numbers

    def fold(self, n: Node, place: int) -> None:
        """Let a node stand for its part of the graph."""
        n.row, n.params, n.inputs, n.needs_grad, n.freed = folded, (self, place), (), True, 0
        self.stubs[place] = ref(n)

    def place(self, n: Node) -> tuple[int, int] | None:
        """Return the place in the graph of a view, or of what it is a view of, and how many views lie between."""
        at = {id(r()): k for k, r in self.views.items()}
        depth = 0
        while id(n) not in at:
            if len(n.inputs) != 1 or n.leaf is not None:
                return None
            n = n.inputs[0]
            depth += 1
        return depth, at[id(n)]

    def intact(self) -> bool:
        """Tell whether nobody wrote to what a backward reads."""
        storages, versions = self.storages, self.versions
        for k in self.graph.watched:
            r = storages[k]
            s = r and r()
            if s is not None and s.version != versions[k]:
                return False
        return True

    def spend(self, flags: tuple, kept: frozenset[int]) -> None:
        """Take over what a followed backward has freed."""
        self.flags = flags
        self.arrays = {k: a for k, a in self.arrays.items() if k in kept}

    def unfold(self) -> None:
        """Make the nodes, in place of the folded ones that somebody holds."""
        if self.nodes is not None:
            return
        self.whole = self.intact()
        for p in self.parents:
            p.unfold()
        graph, flags = self.graph, self.flags
        made: dict[int, Node] = {}
        nodes: list[Node] = []
        self.nodes = nodes
        naming = unfolded.naming
        numbers = self._numbers if naming is None else naming.numbers(self)
        rest = None if numbers is None else iter(numbers)
        for i, h in enumerate(graph.nodes):
            shape, params = (h.shape, h.params) if rest is None else with_numbers((h.shape, h.params), rest)
            n = made[id(h)] = self._node(i, h, shape, params, made)
            if naming is not None:
                naming.show(n, shape)
            nodes.append(n)
            if h.needs_grad and graph.leaf[i] is None and graph.parent[i] is None:
                n.freed = flags[i]
                unfolded.nodes[id(n)] = (self, i, flags)
        unfolded.walked.append(self)

    def _node(self, i: int, h: Node, shape: Any, params: tuple, made: dict[int, Node]) -> Node:
        graph = self.graph
        parent = graph.parent[i]
        if parent is not None:
            nodes = self.parents[parent[0]].nodes
            assert nodes is not None
            n = nodes[parent[1]]
            if n.buffer is None:
                n.buffer = self.arrays.get(i)
            return n
        home = graph.home[i]
        storage = None
        if home is not None:
            r = self.storages[home[0]]
            storage = r and r()
        if not h.needs_grad and storage is not None and home[2] and \
                storage.version == self.versions[home[0]]:
            return self._present(i, storage, home[2])
        if graph.leaf[i] is not None:
            return leaf_node(self.leaves[graph.leaf[i]], made[id(h.inputs[0])])
        view = self.views[i]() if i in self.views else None
        if view is not None and view.inputs == tuple([made[id(x)] for x in h.inputs]):
            if view.buffer is None:
                view.buffer = self.arrays.get(i)
            return view
        held = self.stubs[i]() if i in self.stubs else None
        if held is not None:
            n = held
            n.row, n.params, n.inputs = h.row, (), ()
        else:
            n = Node(h.row, (), (), shape, h.dtype)
            n.buffer = self.arrays.get(i)
            if storage is not None:
                n.home = (ref(storage), self.versions[home[0]] - home[1])
        n.params = moved(params, lambda x: made[id(x)])
        n.inputs = tuple([made[id(x)] for x in h.inputs])
        n.needs_grad, n.where = h.needs_grad, h.where
        return n

    def _present(self, i: int, storage: Any, how: int) -> Node:
        """Return a value that a storage still holds: the very node, so that it is known for what it is."""
        k = self.graph.leaf_value.get(i)
        if how == HELD and k is None:
            return storage.node
        t = None if k is None else self.leaves[k]
        if t is not None and t._storage is storage and t._seen == storage.version:
            return t._node
        n = storage.node if how == HELD else detach(storage.node)
        if n.home is None:  # else who reads it in a later segment takes it for a constant
            n.home = (ref(storage), storage.version)
        if t is not None and t._storage is storage and not t._chain:
            t._node, t._seen = n, storage.version
        return n


def leaf_node(t: Any, n: Node) -> Node:
    """Return where the gradient of a leaf arrives whose value is `n`."""
    known = t._leaf_node
    if known is not None and known.inputs[:1] == (n,):
        return known
    with grad_mode(False):
        known = alias(n)
    known.leaf, known.needs_grad, known.home = t, True, n.home
    if t._node is n and t._seen == t._storage.version:
        t._leaf_node = known
    return known


class Outline:
    """The history of a recorded segment, copied node by node, from which the graph of some roots is taken."""

    def __init__(self, roots: dict[int, Node], copies: dict[int, Node], place_of: Callable[[Any], tuple | None],
                 group_of: Callable[[Node], tuple | None], route_of: Callable[[Carried], tuple],
                 views: list[tuple[tuple, list[Node]]]) -> None:
        self.roots: dict[int, Node] = {}  # by group
        self.leaf: dict[int, tuple] = {}  # (SLOT or OUT, which), by node
        self.home: dict[int, tuple] = {}  # (group, versions before the last, HELD, DETACHED or 0)
        self.parent: dict[int, tuple] = {}  # (place in its graph, its kind, where the segment finds it)
        self.ended: set[int] = set()  # nodes whose own history an earlier backward has freed
        self.overwritten: set[int] = set()  # inputs of the program whose memory it writes
        self.value: dict[int, Node] = {}  # the node of the program that computes it
        made: dict[int, Node] = {}
        for n in lineage(roots.values()):
            h = made[id(n)] = self._copy(n, made, place_of, route_of)
            at = group_of(n)
            if at is not None:
                self.home[id(h)] = at
            if id(n) in copies:
                self.value[id(h)] = copies[id(n)]
        for g, n in roots.items():
            self.roots[g] = made[id(n)]
        # Of tensors that are views, (SLOT or OUT, which): their values, from the own one to that which is no view.
        self.views = [(spec, [made.get(id(n)) for n in chain]) for spec, chain in views]
        self.needs: dict[int, list[Node]] = {}
        self.known = {id(h) for h in made.values()}

    def _copy(self, n: Node, made: dict[int, Node], place_of: Callable[[Any], tuple | None],
              route_of: Callable[[Carried], tuple]) -> Node:
        found = origin(n) if n.needs_grad else None
        if not n.needs_grad or found is not None:
            source = n.row.kind == "source" and not n.inputs and n.row is not input_ and n.buffer is None
            h = Node(n.row, (), n.params, n.shape, n.dtype) if source and n.row is not folded else \
                Node(input_, (), (n.shape, n.dtype), n.shape, n.dtype)
            if found is not None:
                h.needs_grad = True
                self.parent[id(h)] = (found[1], found[0].graph.kind, route_of(found[0]))
            return h
        if n.hooks is not None:
            raise Uncarried(HOOKED)
        if n.leaf is not None:
            place = place_of(n.leaf)
            if place is None:
                raise Uncarried("a leaf that no argument names is kept for a later backward")
        elif n.buffer is not None:
            if n.freed != FREED:
                raise Uncarried("history of an earlier segment is kept for a later backward")
            h = Node(n.row, (), (n.shape, n.dtype), n.shape, n.dtype)  # a backward ends here, with an error
            h.needs_grad, h.freed, h.where = True, FREED, n.where
            self.ended.add(id(h))
            return h
        h = Node(n.row, tuple([made[id(i)] for i in n.inputs]), moved(n.params, lambda x: made[id(x)]),
                 n.shape, n.dtype)
        h.needs_grad, h.freed, h.where = True, n.freed, n.where
        if n.leaf is not None:
            assert place is not None
            self.leaf[id(h)] = place
        return h

    def _reads(self, h: Node) -> list[Node]:
        """Return the values that the rule of a node reads, found by a dry run on a stand-in gradient."""
        found = self.needs.get(id(h))
        if found is None:
            found = self.needs[id(h)] = []
            if h.needs_grad and h.row.grad is not None and h.inputs and id(h) not in self.leaf:
                try:
                    with grad_mode(False):
                        outs = h.row.grad(input_(h.shape, h.dtype), h, *h.inputs, *h.params)
                except RuntimeError as e:  # its backward will say so
                    raise Uncarried(f"a value without a derivative is kept: {e}") from None
                waiting, seen = [o for o in outs if o is not None], set()
                while waiting:
                    r = waiting.pop()
                    if id(r) in seen:
                        continue
                    seen.add(id(r))
                    if id(r) in self.known:
                        if id(r) in self.leaf:
                            r = r.inputs[0]  # where a leaf's gradient arrives, the value is the leaf's own
                        if r.row is input_ or r.inputs or id(r) in self.ended:
                            found.append(r)
                    else:
                        waiting.extend(r.inputs)
        return found

    def graphs(self, groups: list[int]) -> list[Taken]:
        """Return the graphs that lead to the values of `groups`.

        Values without common history have a graph each. So what a value stands on does not depend on what else its
        segment leaves, such as the log-probability of the action before, which would make every iteration another.
        """
        joined: dict[int, int] = {}  # a tape node -> one joined with it, itself at the end

        def end(k: int) -> int:
            while joined[k] != k:
                joined[k] = k = joined[joined[k]]
            return k
        for h in lineage([self.roots[g] for g in groups]):
            if h.needs_grad and id(h) not in self.leaf and id(h) not in self.parent:
                joined[id(h)] = id(h)
                for i in (*captured(h.params), *h.inputs):
                    if id(i) in joined:
                        joined[end(id(i))] = end(id(h))
        parts: dict[int, list[int]] = {}
        for g in groups:
            root = id(self.roots[g])
            parts.setdefault(end(root) if root in joined else root, []).append(g)
        return [self.graph(part) for part in parts.values()]

    def graph(self, groups: list[int]) -> Taken:
        """Return the graph that leads to the values of `groups`, and where its parts are in this segment."""
        nodes = lineage([self.roots[g] for g in groups])
        place = {id(h): i for i, h in enumerate(nodes)}
        leaves: dict[tuple, int] = {}
        homes: dict[int, int] = {}
        parents: dict[tuple, int] = {}
        leaf: list[Any] = []
        home: list[Any] = []
        parent: list[Any] = []
        key: list[Any] = []
        for h in nodes:
            at_leaf = self.leaf.get(id(h))
            leaf.append(None if at_leaf is None else leaves.setdefault(at_leaf, len(leaves)))
            at = self.home.get(id(h))
            home.append(None if at is None else (homes.setdefault(at[0], len(homes)), *at[1:]))
            above = self.parent.get(id(h))
            parent.append(None if above is None else
                          (parents.setdefault(above[1:], len(parents)), above[0], above[1]))
            key.append((h.row, _key(h.params, place), h.shape, h.dtype, h.needs_grad, h.freed,
                        tuple([place[id(i)] for i in h.inputs]), leaf[-1], home[-1], parent[-1]))
        needs = [tuple([place[id(r)] for r in self._reads(h)]) for h in nodes]
        roots = [place[id(self.roots[g])] for g in groups]
        whole = (tuple(key), tuple(roots))
        sized = varies(whole)  # then it has the names of this segment, and is its own
        try:
            graph = None if sized else _graphs.get(whole)
            if graph is None:
                alike = tuple([(row, _loose(params), len(shape), *rest) for row, params, shape, *rest in key]), \
                    tuple(roots), tuple(needs)
                kind = _kinds.get(alike)
                if kind is None:
                    kind = _kinds[alike] = Kind()
                graph = Graph(nodes, leaf, home, parent, roots, needs, kind)
                if not sized:
                    _graphs[whole] = graph
        except TypeError:
            raise Uncarried("a parameter that cannot be compared is kept for a later backward") from None
        values = {}
        for v in graph.values:
            n = self.value.get(id(nodes[v]))
            if n is None or id(n) in self.overwritten:
                raise Uncarried("a value that the segment overwrites is kept for a later backward")
            values[v] = n
        views = [(spec, [place.get(id(h)) for h in chain]) for spec, chain in self.views]
        return Taken(graph, dict(zip(groups, roots)), list(leaves), list(homes), list(parents), values,
                     [(spec, at) for spec, at in views if any(k is not None for k in at)], sized)


class Taken:
    """A graph as one segment makes it: where its leaves are, the groups of its storages, its values."""

    __slots__ = ("graph", "groups", "handed", "homes", "leaves", "parents", "sized", "values", "views")

    def __init__(self, graph: Graph, groups: dict[int, int], leaves: list[tuple], homes: list[int],
                 parents: list[tuple], values: dict[int, Node], views: list[tuple[tuple, list[int | None]]],
                 sized: bool) -> None:
        self.graph = graph
        self.groups = groups  # group -> place of its value in the graph
        self.leaves, self.homes = leaves, homes
        self.parents = parents  # (kind of graph, where the segment finds it)
        self.values = values  # place in the graph -> node of the program
        self.views = views  # (SLOT or OUT, which), the places of its values from the own one down, or None
        self.sized = sized  # whether it follows from named sizes
        self.handed: list[tuple[int, str, Any]] = []  # (place in the graph, kind of source, source)


def lineage(roots: Iterable[Node]) -> list[Node]:
    """Return the history that leads to `roots`, and the values beside it, inputs first."""
    def behind(n: Node) -> Iterable[Node]:
        return (*captured(n.params), *reversed(n.inputs)) if n.needs_grad and origin(n) is None else ()

    return postorder(reversed(list(roots)), behind)


# Gradient rules are functions, often closures over values of their step. These three look into them.

_PLAIN = (Body, bool, int, float, complex, str, bytes, type(None), DType, Row, type, np.dtype, np.generic, slice, range,
          type(Ellipsis), BuiltinFunctionType, ModuleType)


def captured(x: Any, depth: int = 0) -> list[Node]:
    """Return the values that a parameter refers to."""
    if isinstance(x, Node):
        return [x]
    if isinstance(x, (tuple, list)):
        return [n for i in x for n in captured(i, depth)]
    if type(x) is FunctionType:
        if depth > DEEPEST:
            raise Uncarried("a gradient rule that refers to itself")
        return [n for c in x.__closure__ or () for n in captured(c.cell_contents, depth + 1)]
    if not isinstance(x, _PLAIN):
        raise Uncarried(f"a gradient rule with a {type(x).__name__} is kept for a later backward")
    return []


def reads(n: Node) -> list[Node]:
    """Return the values that the gradient rule of `n` reads: of itself, its inputs, and what the rule refers to.

    Found by a dry run on a stand-in gradient. Raises Uncarried for a rule that runs the user's Python.
    """
    if n.row.grad is None or not n.inputs:
        return []
    mine = {id(i) for i in (n, *n.inputs, *captured(n.params))}
    found: list[Node] = []
    seen: set[int] = set()
    with grad_mode(False), forward_mode(None):
        outs = n.row.grad(input_(n.shape, n.dtype), n, *n.inputs, *n.params)
    waiting = [o for i, o in zip(n.inputs, outs) if o is not None and i.needs_grad]
    while waiting:
        r = waiting.pop()
        if id(r) not in seen:
            seen.add(id(r))
            if id(r) in mine:
                found.append(r)
            else:
                waiting.extend(r.inputs)
    return found


def moved(x: Any, to: Callable[[Node], Node]) -> Any:
    """Return a parameter that refers to other values instead."""
    if isinstance(x, Node):
        return to(x)
    if type(x) in (tuple, list):
        return type(x)([moved(i, to) for i in x])
    if type(x) is FunctionType and captured(x):
        return _with_cells(x, lambda i: moved(i, to))
    return x


def _with_cells(f: FunctionType, change: Callable[[Any], Any]) -> FunctionType:
    """Return a function that refers to other things."""
    g = FunctionType(f.__code__, f.__globals__, f.__name__, f.__defaults__,
                     tuple([CellType(change(c.cell_contents)) for c in f.__closure__ or ()]))
    g.__kwdefaults__ = f.__kwdefaults__
    return g


def _key(x: Any, place: dict[int, int]) -> Any:
    """Return something equal for parameters that mean the same."""
    if isinstance(x, Node):
        return (Node, place[id(x)])
    if isinstance(x, (tuple, list)):
        return (type(x), *[_key(i, place) for i in x])
    if type(x) is FunctionType:
        return (x.__code__, x.__defaults__, *[_key(c.cell_contents, place) for c in x.__closure__ or ()])
    return (type(x), repr(x) if isinstance(x, (float, complex)) else x)


def _loose(key: Any) -> Any:
    """Return what `_key` makes of parameters without the integers in it, which stand there as (int, value)."""
    if type(key) is tuple:
        if len(key) == 2 and isinstance(key[0], type) and issubclass(key[0], int) and key[0] is not bool:
            return int
        return tuple(map(_loose, key))
    return key


def numbers_in(x: Any) -> Iterator[int]:
    """Yield the integers in a shape or a parameter, and in what a gradient rule refers to, in order."""
    if isinstance(x, int) and type(x) is not bool:
        yield x
    elif isinstance(x, (tuple, list)):
        for i in x:
            yield from numbers_in(i)
    elif type(x) is FunctionType:
        for c in x.__closure__ or ():
            yield from numbers_in(c.cell_contents)


def with_numbers(x: Any, numbers: Iterator[int]) -> Any:
    """Return a shape or a parameter with other integers."""
    if isinstance(x, int) and type(x) is not bool:
        return next(numbers)
    if isinstance(x, (tuple, list)):
        items = [with_numbers(i, numbers) for i in x]
        return type(x)(*items) if hasattr(x, "_fields") else type(x)(items)
    if type(x) is FunctionType and x.__closure__:
        return _with_cells(x, lambda i: with_numbers(i, numbers))
    return x
