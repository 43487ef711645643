"""Trees of Python containers: taken apart into leaves and a structure, and put together again.

Containers are tuples, named tuples, lists, dicts, OrderedDicts, defaultdicts, deques, and what is registered;
everything else, None included, is a leaf.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

PyTree = Any


class NodeDef(NamedTuple):
    """How a container is taken apart, into (children, context), and put together from them."""

    flatten_fn: Callable
    unflatten_fn: Callable


def _named(x: Any) -> bool:
    return isinstance(x, tuple) and hasattr(type(x), "_fields")


SUPPORTED_NODES: dict[Any, NodeDef] = {
    tuple: NodeDef(lambda x: (list(x), None), lambda xs, _: tuple(xs)),
    list: NodeDef(lambda x: (list(x), None), lambda xs, _: list(xs)),
    dict: NodeDef(lambda x: (list(x.values()), list(x)), lambda xs, keys: dict(zip(keys, xs))),
    OrderedDict: NodeDef(lambda x: (list(x.values()), list(x)), lambda xs, keys: OrderedDict(zip(keys, xs))),
    defaultdict: NodeDef(
        lambda x: (list(x.values()), [x.default_factory, list(x)]),
        lambda xs, how: defaultdict(how[0], zip(how[1], xs)),
    ),
    deque: NodeDef(lambda x: (list(x), x.maxlen), lambda xs, size: deque(xs, maxlen=size)),
}
_NAMED = NodeDef(lambda x: (list(x), type(x)), lambda xs, kind: kind(*xs))


def register_pytree_node(cls: type, flatten_fn: Callable, unflatten_fn: Callable, **_: Any) -> None:
    """Make a class a container. flatten_fn: x -> (children, context); unflatten_fn: (children, context) -> x."""
    if cls in SUPPORTED_NODES:
        raise ValueError(f"{cls} is already registered as pytree node. Overwriting the previous registration is not "
                         "allowed.")
    SUPPORTED_NODES[cls] = NodeDef(flatten_fn, unflatten_fn)


def _node(x: Any) -> tuple[Any, NodeDef | None]:
    """Return the kind of container that something is, and how it comes apart; (its type, None) for a leaf."""
    kind = type(x)
    if kind not in SUPPORTED_NODES and _named(x):
        return "namedtuple", _NAMED
    return kind, SUPPORTED_NODES.get(kind)


class TreeSpec:
    """The structure of a tree: a container's type, its context, and the structures of its children."""

    __slots__ = ("children", "context", "num_leaves", "type")

    def __init__(self, type: Any, context: Any, children: list[TreeSpec]) -> None:
        self.type, self.context, self.children = type, context, children
        self.num_leaves = 1 if type is None else sum(c.num_leaves for c in children)

    def is_leaf(self) -> bool:
        """Tell whether the tree is a single leaf."""
        return self.type is None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TreeSpec) and self.type == other.type and self.context == other.context and \
            self.children == other.children

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self, indent: int = 0) -> str:
        if self.type is None:
            return "*"
        name = self.type if isinstance(self.type, str) else self.type.__name__
        inner = (",\n" + " " * (indent + 2)).join(c.__repr__(indent + 2) for c in self.children)
        return f"TreeSpec({name}, {self.context}, [{inner}])"


LeafSpec = TreeSpec
_LEAF = TreeSpec(None, None, [])


def tree_flatten(tree: PyTree, is_leaf: Callable | None = None) -> tuple[list[Any], TreeSpec]:
    """Return the leaves, from left to right, and the structure."""
    leaves: list[Any] = []
    return leaves, _flatten(tree, leaves, is_leaf)


def _flatten(tree: PyTree, leaves: list[Any], is_leaf: Callable | None) -> TreeSpec:
    kind, node = _node(tree)
    if node is None or (is_leaf is not None and is_leaf(tree)):
        leaves.append(tree)
        return _LEAF
    children, context = node.flatten_fn(tree)
    return TreeSpec(kind, context, [_flatten(c, leaves, is_leaf) for c in children])


def tree_unflatten(leaves: Iterable[Any], treespec: TreeSpec) -> PyTree:
    """Return the tree of a structure with these leaves."""
    leaves = list(leaves)
    if len(leaves) != treespec.num_leaves:
        raise ValueError(
            f"tree_unflatten(leaves, treespec): `leaves` has length {len(leaves)} but the spec refers to a pytree that "
            f"holds {treespec.num_leaves} items ({treespec})."
        )
    return _unflatten(iter(leaves), treespec)


def _unflatten(leaves: Any, spec: TreeSpec) -> PyTree:
    if spec.type is None:
        return next(leaves)
    node = _NAMED if spec.type == "namedtuple" else SUPPORTED_NODES[spec.type]
    return node.unflatten_fn([_unflatten(leaves, c) for c in spec.children], spec.context)


def tree_leaves(tree: PyTree, is_leaf: Callable | None = None) -> list[Any]:
    """Return the leaves, from left to right."""
    return tree_flatten(tree, is_leaf)[0]


def tree_structure(tree: PyTree, is_leaf: Callable | None = None) -> TreeSpec:
    """Return the structure of a tree."""
    return tree_flatten(tree, is_leaf)[1]


def tree_map(func: Callable, tree: PyTree, *rests: PyTree, is_leaf: Callable | None = None) -> PyTree:
    """Return a tree of func(leaf, *the leaves of `rests` at its place)."""
    leaves, spec = tree_flatten(tree, is_leaf)
    columns = [leaves]
    for rest in rests:
        found = _broadcast_to_and_flatten(rest, spec, of_leaves=True)
        if found is None:
            raise ValueError(f"Node arity mismatch; expected {spec}, but got {tree_structure(rest)}.")
        columns.append(found)
    return tree_unflatten(map(func, *columns), spec)


def tree_map_only(kind: Any, func: Callable, tree: PyTree, is_leaf: Callable | None = None) -> PyTree:
    """Return a tree of func(leaf) where the leaf is of a type (or a predicate says so); other leaves stay."""
    wanted = (lambda x: isinstance(x, kind)) if isinstance(kind, (type, tuple)) else kind
    return tree_map(lambda x: func(x) if wanted(x) else x, tree, is_leaf=is_leaf)


def tree_any(pred: Callable, tree: PyTree, is_leaf: Callable | None = None) -> bool:
    """Tell whether some leaf satisfies a predicate."""
    return any(map(pred, tree_leaves(tree, is_leaf)))


def tree_all(pred: Callable, tree: PyTree, is_leaf: Callable | None = None) -> bool:
    """Tell whether all leaves satisfy a predicate."""
    return all(map(pred, tree_leaves(tree, is_leaf)))


def _broadcast_to_and_flatten(tree: PyTree, treespec: TreeSpec, is_leaf: Callable | None = None, *,
                              of_leaves: bool = False) -> list[Any] | None:
    """Return a leaf of `tree` for each leaf of a structure, of which `tree` is the upper part; None if it is not.

    of_leaves: where the structure has a leaf, `tree` may have anything.
    """
    if treespec.is_leaf() and of_leaves:
        return [tree]
    kind, node = _node(tree)
    if node is None or (is_leaf is not None and is_leaf(tree)):
        return None if of_leaves else [tree] * treespec.num_leaves
    children, context = node.flatten_fn(tree)
    if kind != treespec.type or context != treespec.context or len(children) != len(treespec.children):
        return None
    found: list[Any] = []
    for c, spec in zip(children, treespec.children):
        part = _broadcast_to_and_flatten(c, spec, is_leaf, of_leaves=of_leaves)
        if part is None:
            return None
        found += part
    return found
