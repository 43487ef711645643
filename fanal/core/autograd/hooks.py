"""Hooks: Python that runs while gradients pass a tensor, a leaf or a backward function.

A hook of a leaf hangs on the tensor, a hook of a computed tensor on the value it held when the hook was
registered. Hooks are Python that must run in every step, so no segment in which they run is ever followed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from fanal.core.base.dtype import scalar_name
from fanal.core.base.removable import RemovableHandle
from fanal.core.engine.carry import template, unfold
from fanal.core.engine.handle import Storage
from fanal.core.engine.record import changed, leave_path, unfollowable
from fanal.core.ir.prims import add, alias
from fanal.core.ir.program import Node
from fanal.core.tensor.alias import check_origin, read, value
from fanal.core.tensor.tensor import Tensor, blank, wrap

REASON = "a hook runs Python during backward"


class Hooks:
    """The hooks of one leaf or one value, in the order in which they run."""

    __slots__ = ("after", "keep", "metadata", "post", "pre", "saved", "tensor")

    def __init__(self) -> None:
        self.tensor: OrderedDict[int, Callable] = OrderedDict()  # see, and may replace, the gradient
        self.keep: list[Any] = []  # tensors that retain it
        self.pre: OrderedDict[int, Callable] = OrderedDict()  # of the backward function, before it runs
        self.post: OrderedDict[int, Callable] = OrderedDict()  # of the backward function, after it ran
        self.after: OrderedDict[int, Callable] = OrderedDict()  # of a leaf, after .grad was updated
        self.saved: Any = None  # what its backward reads, where somebody packed that: see `saving`
        self.metadata: dict | None = None  # of the backward function: the user's

    def __bool__(self) -> bool:
        return bool(self.tensor or self.keep or self.pre or self.post or self.after)

    def arriving(self, g: Node) -> Node:
        """Run what runs when a gradient arrives; return the gradient that goes on."""
        unfollowable(REASON)
        for hook in list(self.tensor.values()):
            g = _checked(hook, hook(wrap(g)), g)
        for t in self.keep:
            t._grad = wrap(alias(g)) if t._grad is None else wrap(add(read(t._grad), g))
        for hook in list(self.pre.values()):
            out = hook((wrap(alias(g)),))
            if out is not None:
                g = _checked(hook, out[0] if isinstance(out, tuple) else out, g)
        return g

    def leaving(self, g: Node, outs: list[Node | None]) -> list[Node | None]:
        """Run what runs after the backward function; return the gradients of its inputs."""
        unfollowable(REASON)
        for hook in list(self.post.values()):
            given = tuple(None if o is None else wrap(alias(o)) for o in outs)
            out = hook(given, (wrap(alias(g)),))
            if out is not None:
                new = out if isinstance(out, tuple) else (out,)
                outs = [None if n is None else read(n) for n in new]
        return outs


def _checked(hook: Callable, out: Any, g: Node) -> Node:
    if out is None:
        return g
    if not isinstance(out, Tensor):
        raise TypeError(f"expected Variable, but hook returned '{type(out).__name__}'")
    n = read(out)
    if n.shape != g.shape:
        raise RuntimeError(f"hook '{_name(hook)}' has changed the size of value")
    if n.dtype is not g.dtype:
        raise RuntimeError(
            f"hook '{_name(hook)}' has changed the type of value (was torch.{scalar_name(g.dtype)}Tensor got "
            f"torch.{scalar_name(n.dtype)}Tensor)"
        )
    return n


def _name(hook: Callable) -> str:
    return getattr(hook, "__name__", type(hook).__name__)


def of_leaf(t: Any) -> Hooks:
    """Return the hooks of a leaf, made at first use."""
    if t._hooks is None:
        t._hooks = Hooks()
    return t._hooks


def of_value(n: Node) -> Hooks:
    """Return the hooks of a value, made at first use."""
    unfold(n)
    if n.hooks is None:
        n.hooks = Hooks()
    return n.hooks


def _table(t: Any, name: str) -> OrderedDict:
    leave_path()
    changed()
    return getattr(of_leaf(t) if t._leaf else of_value(_present(t)), name)


def _present(t: Any) -> Node:
    n = value(t)
    check_origin(t, n)
    return n


def _put(table: OrderedDict, hook: Callable) -> RemovableHandle:
    handle = RemovableHandle(table)
    table[handle.id] = hook
    return handle


def register_hook(self: Any, hook: Callable) -> RemovableHandle:
    """Run `hook(grad)` whenever the gradient of this tensor is computed; a result replaces the gradient.

    Raises RuntimeError for a tensor that does not require gradients.
    """
    if not self.requires_grad:
        raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
    return _put(_table(self, "tensor"), hook)


def register_post_accumulate_grad_hook(self: Any, hook: Callable) -> RemovableHandle:
    """Run `hook(tensor)` after .grad of this leaf was updated."""
    if not self.requires_grad:
        raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
    if not self._leaf:
        raise RuntimeError("post accumulate grad hooks cannot be registered on non-leaf tensors")
    return _put(_table(self, "after"), hook)


def retain_grad(self: Any) -> None:
    """Make .grad available after backward though this tensor is no leaf."""
    if not self.requires_grad:
        raise RuntimeError("can't retain_grad on Tensor that has requires_grad=False")
    if self._leaf or self._retain:
        return
    leave_path()
    unfollowable(REASON)
    self._retain = True
    of_value(_present(self)).keep.append(self)


@cache
def _kind(name: str) -> type[GradFn]:
    return type(name, (GradFn,), {"__slots__": ()})


def grad_fn(node: Node) -> GradFn:
    """Return the backward function of a value; its class has PyTorch's name."""
    from fanal.core.autograd.backward import grad_name

    return _kind(grad_name(node))(node)


class GradFn:
    """The backward function of a value: its name, its place in the graph, its hooks."""

    __slots__ = ("__weakref__", "_node")

    def __init__(self, node: Node) -> None:
        self._node = node

    def __getattr__(self, name: str) -> Any:
        n = template(self._node)
        rule = n.params[-1] if n.row.name == "tape" and n.params else None
        ctx = getattr(rule, "ctx", None)
        if ctx is None or name.startswith("__"):
            raise AttributeError(f"'{self.name()}' has no attribute '{name}'")
        return getattr(ctx, name)

    def name(self) -> str:
        """Return the name PyTorch gives this function."""
        from fanal.core.autograd.backward import grad_name

        name = grad_name(self._node)
        return "torch::autograd::AccumulateGrad" if name == "AccumulateGrad" else name

    @property
    def next_functions(self) -> tuple:
        """The functions to which this one passes gradients, each with an output number."""
        unfold(self._node)
        return tuple((grad_fn(i), 0) if i.needs_grad else (None, 0) for i in self._node.inputs)

    @property
    def variable(self) -> Any:
        """The leaf at which gradients are collected."""
        return self._node.leaf

    @property
    def metadata(self) -> dict:
        """A dict of the user's; at first {"where": (file, line)} in which the value was made."""
        from fanal.core.base.where import line

        hooks = of_value(self._node)
        if hooks.metadata is None:
            hooks.metadata = {"where": line(template(self._node).where)}
        return hooks.metadata

    def register_hook(self, hook: Callable) -> RemovableHandle:
        """Run `hook(grad_inputs, grad_outputs)` after this function; a result replaces grad_inputs."""
        leave_path()
        return _put(of_value(self._node).post, hook)

    def register_prehook(self, hook: Callable) -> RemovableHandle:
        """Run `hook(grad_outputs)` before this function; a result replaces grad_outputs."""
        leave_path()
        return _put(of_value(self._node).pre, hook)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} object at {hex(id(self._node))}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GradFn) and other._node is self._node

    def __hash__(self) -> int:
        return id(self._node)


class GradientEdge(NamedTuple):
    """A backward function and which of its outputs is meant: where gradients of a tensor arrive."""

    node: GradFn
    output_nr: int
    ownership_token: Any = None

    def tensor(self) -> Any:
        """Return a tensor whose gradients arrive there."""
        unfollowable("a gradient edge stands for a tensor")
        n = self.node._node
        return n.leaf if n.leaf is not None else blank(Tensor, Storage(n), (), n.shape, n.dtype, n, None, 0)
