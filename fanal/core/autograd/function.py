"""Custom functions: a forward and a backward written by the user.

Both are Python that runs in every step, and what they call are events as ever. What the graph knows of it is a `Call`.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any
from weakref import ref

from fanal.core.autograd.backward import FREED
from fanal.core.autograd.call import Call, Layout, among, with_histories
from fanal.core.autograd.forward import levels, tangent_at
from fanal.core.autograd.modes import no_grad
from fanal.core.autograd.saving import Packed, saving
from fanal.core.base.state import grad_mode, state
from fanal.core.engine.record import leave_path, session, unfollowable
from fanal.core.ir.prims import alias, tape, zeros
from fanal.core.ir.program import Node
from fanal.core.tensor.alias import read, value
from fanal.core.tensor.sparse import Sparse
from fanal.core.tensor.tensor import Tensor, wrap

REASON = "a custom autograd function inside an event, or in forward mode"


class FunctionCtx:
    """What forward leaves for backward."""

    def __init__(self) -> None:
        self._to_save: tuple = ()
        self._saved: list[Any] | None = []  # tensors, numbers of outputs, Packed, None
        self._forward: tuple | None = None  # what save_for_forward was given, until jvp ran
        self._call: Any = None  # weak: the graph owns the call, and the call owns this
        self._dirty: tuple = ()
        self._fixed: tuple = ()
        self.materialize_grads = True
        self.needs_input_grad: tuple[bool, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep tensors for backward, which finds them in ctx.saved_tensors. Inputs and outputs belong
        here."""
        self._to_save = tensors

    def save_for_forward(self, *tensors: Any) -> None:
        """Keep tensors for jvp, which finds them in ctx.saved_tensors. Inputs and outputs belong here."""
        self._forward = tensors

    def mark_dirty(self, *tensors: Any) -> None:
        """Say which inputs forward wrote in place."""
        self._dirty = tensors

    def mark_non_differentiable(self, *tensors: Any) -> None:
        """Say which outputs have no gradient."""
        self._fixed = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Say whether backward sees zeros (the default) or None for outputs that got no gradient."""
        self.materialize_grads = value

    @property
    def saved_tensors(self) -> tuple:
        """The tensors given to save_for_backward; in jvp, those given to save_for_forward.

        Raises RuntimeError after they were freed, or when one was written in place since.
        """
        if self._forward is not None:
            return self._forward
        if not self._saved:
            if self._saved is None:
                raise RuntimeError(FREED)
            return ()
        call = self._call()
        if call is None:  # nothing leads here any more
            raise RuntimeError(FREED)
        call.check_versions()
        return tuple([s.tensor() if isinstance(s, Packed) else call.saved_output(s) if isinstance(s, int) else s
                      for s in self._saved])

    saved_variables = saved_tensors

    def name(self) -> str:
        """Return the name of the backward function."""
        return type(self).__name__ + "Backward"


def _unset(ctx: Any, inputs: tuple, output: Any) -> Any:
    """Do what a subclass says after forward, when forward takes no ctx."""
    raise NotImplementedError("setup_context is not overridden")


class Function(FunctionCtx):
    """A differentiable operation of the user's: static forward and backward; call it by `apply`.

    Source: PyTorch documentation, "Extending torch.autograd".
    """

    generate_vmap_rule = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(
            "Legacy autograd function with non-static forward method is deprecated. Please use new-style "
            "autograd function with static forward method. (Example: "
            "https://pytorch.org/docs/stable/autograd.html#torch.autograd.Function)"
        )

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """Compute the outputs: forward(ctx, *args), or forward(*args) beside setup_context."""
        raise NotImplementedError("You must implement the forward function for custom autograd.Function.")

    setup_context = staticmethod(_unset)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """Return one gradient per argument of forward, None for those that need none."""
        raise NotImplementedError(
            "You must implement either the backward or vjp method for your custom "
            "autograd.Function to use it with backward mode AD."
        )

    vjp = backward

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> Any:
        """Return one tangent per output of forward, from one per argument: None for what is no tensor."""
        raise NotImplementedError(
            "You must implement the jvp function for custom autograd.Function to use it with forward mode AD."
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        """Batched form. Never called: `vmap` maps forward and backward themselves, with or without a rule."""
        raise NotImplementedError("Function.vmap has no default: torch.vmap maps forward and backward themselves")

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Run forward and put the outputs into the graph."""
        return _apply(cls, args, kwargs)


def _bound(f: Callable, args: tuple, kwargs: dict) -> tuple:
    bound = inspect.signature(f).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.args


def _apply(cls: type[Function], args: tuple, kwargs: dict) -> Any:
    split = cls.setup_context is not _unset
    if split:
        args = _bound(cls.forward, args, kwargs)
    elif kwargs:
        raise TypeError(f"{cls.__name__}.apply() takes no keyword arguments")
    if session.depth or state.levels:
        leave_path()
        unfollowable(REASON)
    ctx = object.__new__(cls)
    FunctionCtx.__init__(ctx)
    ctx.needs_input_grad = tuple(isinstance(a, Tensor) and a.requires_grad for a in args)
    backward = cls.vjp if cls.backward is Function.backward else cls.backward
    call = Call(cls.__name__, backward, ctx, args)
    ctx._call = ref(call)
    given = [read(a) if isinstance(a, Tensor) else None for a in args] if state.levels else []
    with no_grad(), levels(()):
        if split:
            out = cls.forward(*args)
            cls.setup_context(ctx, args, out)
        else:
            out = cls.forward(ctx, *args)
    outs = list(out) if isinstance(out, tuple) else [out]
    if state.levels:
        call.tangents = _tangents(ctx, given, len(outs))
    results = _recorded(call, args, outs)
    if not isinstance(out, tuple):
        return results[0]
    return type(out)(*results) if hasattr(out, "_fields") else tuple(results)


def _recorded(call: Call, args: tuple, outs: list) -> list:
    """Give the outputs their history, and keep for backward what was saved."""
    ctx = call.ctx
    recording = state.grad and any(ctx.needs_input_grad)
    saved: list[Any] = []
    others: list[Any] = []  # what is saved and is no output
    for k, t in enumerate(ctx._to_save if recording else ()):
        if t is None:
            saved.append(None)
            continue
        at = next((i for i, o in enumerate(outs) if o is t), -1)
        if not isinstance(t, Tensor):
            raise TypeError(
                f"save_for_backward can only save variables, but argument {k} is of type {type(t).__name__}"
            )
        if saving.hooks:
            saved.append(saving.packed(saving.cut(t)))
        elif at >= 0 and t._dtype.category >= 2 and not among(t, ctx._fixed):
            saved.append(at)
        else:
            saved.append(t)
            if not isinstance(t, Sparse):  # it has no storage whose writes are counted
                others.append(t)
    for t in ctx._dirty:
        if recording and t._leaf:
            raise RuntimeError("a leaf Variable that requires grad has been used in an in-place operation.")
        if not among(t, outs):
            raise RuntimeError(
                "Some elements marked as dirty during the forward method were not returned as output. The "
                "inputs that are modified inplace must all be outputs of the Function."
            )
    layout = Layout(
        call.name, len(args), len(outs), tuple([k for k, o in enumerate(outs) if among(o, ctx._dirty)]),
        tuple([k for k, o in enumerate(outs) if among(o, ctx._fixed)]),
        tuple([k for k in saved if isinstance(k, int)]), ctx.materialize_grads)
    made = with_histories(call, layout, *[x if isinstance(x, Tensor) else None for x in (*args, *outs)], *others)
    ctx._saved = saved
    ctx._to_save = ctx._dirty = ctx._fixed = ()
    return [o if t is None else t for o, t in zip(outs, made)]


def _tangents(ctx: Any, inputs: list[Node | None], count: int) -> list[dict[int, Node]]:
    """Run the user's jvp at every level at which an input has a tangent; return the tangents of each output."""
    found: list[dict[int, Node]] = [{} for _ in range(count)]
    active = state.levels
    for k, level in enumerate(active):
        known = [None if n is None else tangent_at(n, level) for n in inputs]
        if not any(known):
            continue
        with levels(active[:k]):
            if ctx.materialize_grads:
                known = [zeros(n.shape, n.dtype) if t is None and n is not None and n.dtype.category >= 2 else t
                         for t, n in zip(known, inputs)]
            out = ctx.jvp(ctx, *(None if t is None else wrap(alias(t)) for t in known))
        outs = out if isinstance(out, tuple) else (out,)
        if len(outs) != count:
            raise RuntimeError(
                "Function's jvp returned an invalid number of forward gradients (expected "
                f"{count} but got {len(outs)})"
            )
        for i, t in enumerate(outs):
            if isinstance(t, Tensor):
                found[i][level] = read(t)
            elif t is not None:
                raise RuntimeError(f"expected Variable or None (got {type(t).__name__}) for grad output {i}.")
    ctx._forward = None
    return found


class _Once:
    """The gradient rule of a result that may be differentiated no further."""

    name = "torch::autograd::Error"

    def __call__(self, g: Node, y: Node, *inputs: Node) -> list[Node | None]:
        raise RuntimeError(
            "trying to differentiate twice a function that was marked with @once_differentiable"
        )


def once_differentiable(f: Callable) -> Callable:
    """Decorate a backward that cannot be differentiated: a second differentiation raises."""

    @functools.wraps(f)
    def call(ctx: Any, *args: Any) -> Any:
        with grad_mode(False):
            outs = f(ctx, *args)
        if not state.grad or not any(isinstance(a, Tensor) and a.requires_grad for a in args):
            return outs
        leave_path()
        unfollowable("a function that is differentiable once is differentiated with create_graph")
        history = [read(a) for a in args if isinstance(a, Tensor) and a.requires_grad]
        several = isinstance(outs, tuple)
        made = tuple(
            None if o is None else wrap(tape((value(o), *history), _Once()))
            for o in (outs if several else (outs,))
        )
        return made if several else made[0]

    return call


class InplaceFunction(Function):
    """A function with a flag for writing in place; kept for older programs."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace


def traceable(f: type) -> type:
    """Return the class; kept for older programs."""
    warnings.warn(
        "torch.autograd.function.traceable is deprecated and has no effect", FutureWarning, stacklevel=2
    )
    return f


__all__ = ["Function", "FunctionCtx", "InplaceFunction", "once_differentiable", "traceable"]
