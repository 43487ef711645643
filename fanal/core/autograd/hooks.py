"""Hooks: Python that runs while gradients pass a tensor, a leaf or a backward function.

A hook of a leaf hangs on the tensor, a hook of a computed tensor on the value it held when the hook was
registered. Backward stops where hooks are and runs them, see `callbacks`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from fanal.core.autograd.callbacks import Callback, next_note, note, noted_as, number_of
from fanal.core.base.dtype import scalar_name
from fanal.core.base.removable import RemovableHandle
from fanal.core.engine.carry import template, unfold
from fanal.core.engine.follow import dispatch
from fanal.core.engine.handle import Storage
from fanal.core.engine.matcher import matcher
from fanal.core.engine.record import Op, changed, leave_path, session, unfollowable
from fanal.core.ir.prims import add, alias
from fanal.core.ir.program import Node
from fanal.core.tensor.alias import check_origin, history, read
from fanal.core.tensor.tensor import Tensor, blank, wrap

REASON = "a tensor that is no leaf retains its gradient"
ARRIVING, AFTER = 1, 2  # kinds of hooks of a leaf


class Hooks(Callback):
    """The hooks of one leaf or one value, in the order in which they run."""

    __slots__ = ("after", "keep", "metadata", "noted", "post", "pre", "saved", "tensor")

    def __init__(self) -> None:
        self.tensor: OrderedDict[int, Callable] = OrderedDict()  # see, and may replace, the gradient
        self.keep: list[Any] = []  # tensors that retain it
        self.pre: OrderedDict[int, Callable] = OrderedDict()  # of the backward function, before it runs
        self.post: OrderedDict[int, Callable] = OrderedDict()  # of the backward function, after it ran
        self.after: OrderedDict[int, Callable] = OrderedDict()  # of a leaf, after .grad was updated
        self.saved: Any = None  # what its backward reads, where somebody packed that: see `saving`
        self.metadata: dict | None = None  # of the backward function: the user's
        self.noted = False  # registered by an event of the present segment: backward stops here, whatever is left

    def __bool__(self) -> bool:
        return self.noted or bool(self.tensor or self.keep or self.pre)

    def tables(self) -> tuple:
        """Return the tables that decide where backward stops at a leaf."""
        return self.tensor, self.pre, self.after

    def kinds(self) -> int:
        """Return which kinds of hooks a leaf has: ARRIVING, AFTER, both or none."""
        return ARRIVING * bool(self.tensor or self.pre) | AFTER * bool(self.after)

    def answer(self, grads: tuple) -> tuple:
        """Run what runs when a gradient arrives; return the gradient that goes on."""
        g, = grads
        for hook in list(self.tensor.values()):
            g = _checked(hook, hook(g), g)
        if self.keep:
            leave_path()
            unfollowable(REASON)
            for t in self.keep:
                t._grad = wrap(alias(read(g)) if t._grad is None else add(read(t._grad), read(g)))
        for hook in list(self.pre.values()):
            out = hook((g,))
            g = _checked(hook, out[0] if isinstance(out, tuple) else out, g)
        return (g,)


class Leaving(Callback):
    """The hooks that run after a backward function, on the gradients of its inputs and then that of its output."""

    def __init__(self, hooks: Hooks) -> None:
        self.hooks = hooks

    def answer(self, grads: tuple) -> tuple:
        outs, g = grads[:-1], grads[-1]
        for hook in list(self.hooks.post.values()):
            out = hook(outs, (g,))
            if out is not None:
                outs = out if isinstance(out, tuple) else (out,)
        return outs


def _checked(hook: Callable, out: Any, g: Any) -> Any:
    if out is None:
        return g
    if not isinstance(out, Tensor):
        raise TypeError(f"expected Variable, but hook returned '{type(out).__name__}'")
    if out._shape != g._shape:
        raise RuntimeError(f"hook '{_name(hook)}' has changed the size of value")
    if out._dtype is not g._dtype:
        raise RuntimeError(
            f"hook '{_name(hook)}' has changed the type of value (was torch.{scalar_name(g._dtype)}Tensor got "
            f"torch.{scalar_name(out._dtype)}Tensor)"
        )
    return out


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


def _hook_value(t: Any) -> int:
    """Let backward stop at the value of `t`; return the number of the note where its hooks are."""
    n = _present(t)
    if id(t) in session.slot_index:
        changed()
        unfollowable("a hook on a value of an earlier segment")
    unfold(n)
    if n.hooks is not None:
        return number_of(n.hooks)
    k = next_note(Hooks)
    n.hooks = session.notes[k]
    n.hooks.noted = True
    return k


_HOOK = Op("Tensor.register_hook", _hook_value)
_hooked = matcher.function(_HOOK.key, lambda *args: dispatch(_HOOK, args, {}), "register_hook", None, "fanal")


def _hooks_of_value(t: Any) -> Hooks:
    """Return the hooks of what a tensor holds now, for backward to find."""
    notes = session.notes
    if session.depth:
        unfollowable("a hook is registered inside an event")
    k = _hooked(t)
    if k == len(notes):  # the event was followed, and left that to us
        note(Hooks())
    return notes[k] if k >= 0 else noted_as(k)


def _present(t: Any) -> Node:
    n = history(t)
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
    return _put((of_leaf(self) if self._leaf else _hooks_of_value(self)).tensor, hook)


def register_post_accumulate_grad_hook(self: Any, hook: Callable) -> RemovableHandle:
    """Run `hook(tensor)` after .grad of this leaf was updated."""
    if not self.requires_grad:
        raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
    if not self._leaf:
        raise RuntimeError("post accumulate grad hooks cannot be registered on non-leaf tensors")
    return _put(of_leaf(self).after, hook)


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
        if self._node.leaf is not None:
            return ()
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
