"""Custom functions: a forward and a backward written by the user.

Both are Python that must run in every step, so no segment with a custom function in it is ever followed. In
the graph the outputs of a call are `tape` values. One output hangs on the inputs directly; several hang on a
hub, whose rule runs the user's backward once, after the gradients of all outputs have arrived.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any
from weakref import ref

from fanal.core.autograd.backward import FREED
from fanal.core.autograd.forward import give_tangent, levels, tangent_at
from fanal.core.autograd.saving import Packed, saving
from fanal.core.base.dtype import float32, scalar_name
from fanal.core.base.shape import broadcast_shapes
from fanal.core.base.state import grad_mode, state
from fanal.core.engine.handle import Origin, Storage, counted
from fanal.core.engine.record import hold, leave_path, unfollowable
from fanal.core.ir.prims import alias, detach, full, sum_to, tape, zeros
from fanal.core.ir.program import Node
from fanal.core.tensor.alias import read, value, write
from fanal.core.tensor.tensor import Tensor, blank, wrap

REASON = "a custom autograd function runs Python"


class FunctionCtx:
    """What forward leaves for backward."""

    def __init__(self) -> None:
        self._to_save: tuple = ()
        self._saved: list[Saved | Packed | None] | None = []
        self._forward: tuple | None = None  # what save_for_forward was given, until jvp ran
        self._call: Call | None = None
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
        if self._saved is None:
            raise RuntimeError(FREED)
        return tuple(
            None if s is None else s.tensor() if isinstance(s, Packed) else s.unpack(self._call) for s in self._saved
        )

    saved_variables = saved_tensors

    def name(self) -> str:
        """Return the name of the backward function."""
        return self._call.name if self._call is not None else type(self).__name__ + "Backward"


class Saved:
    """A tensor kept for backward: its value, and the memory it stood in."""

    __slots__ = ("chain", "label", "node", "offset", "output", "storage", "strides", "version", "weak")

    def __init__(self, t: Any, output: int, node: Node, label: str) -> None:
        self.output = output  # which output of the call it is; -1: none
        self.node: Node | None = node
        self.storage: Storage | None = t._storage if output < 0 else None  # an output must be free to die
        self.weak = ref(t._storage)
        self.version = t._storage.version
        self.chain, self.strides, self.offset = t._chain, t._strides, t._offset
        self.label = label

    def unpack(self, call: Call | None) -> Any:
        """Return the tensor."""
        storage = self.weak()
        node = self.node
        assert node is not None
        if storage is not None and storage.version != self.version:
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace "
                "operation: "
                f"[torch.{scalar_name(node.dtype)}Tensor {list(node.shape)}], which is output 0 of "
                f"{self.label}, is at "
                f"version {storage.version}; expected version {self.version} instead. Hint: enable anomaly "
                f"detection to "
                "find the operation that failed to compute its gradient, with "
                "torch.autograd.set_detect_anomaly(True)."
            )
        if node.leaf is not None:
            return node.leaf
        if self.output >= 0 and call is not None:
            node = call.output(self.output)
        if storage is None:
            return wrap(node)
        t = blank(Tensor, storage, self.chain, node.shape, node.dtype, node, self.strides, self.offset)
        t._inference = False
        return t


class Call:
    """One call of a custom function, as the graph knows it."""

    def __init__(self, cls: type[Function], ctx: Any, args: tuple) -> None:
        self.cls, self.ctx = cls, ctx
        self.name = cls.__name__ + "Backward"
        self.places = [k for k, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad]
        self.arity = len(args)
        self.tensors = [isinstance(a, Tensor) for a in args]
        self.inputs: list[Node] = []
        self.raws: list[Node | None] = []  # the outputs' values; None for an output that is no tensor
        self.shapes: list[tuple] = []
        self.direct = False
        self.waiting: dict[int, list[Node | None]] = {}  # by hub: the gradients that arrived

    def node(self, raw: Node, k: int, hub: Node | None) -> Node:
        """Return output k with its history."""
        with grad_mode(True), levels(()):
            if self.direct:
                return tape((raw, *self.inputs), Direct(self, k))
            return tape((raw, hub), Output(self, k))

    def hub(self) -> Node:
        """Return a value on which all outputs can hang."""
        with grad_mode(True), levels(()):
            return tape((full((), 0, float32), *self.inputs), Hub(self))

    def output(self, k: int) -> Node:
        """Return output k with its history, made anew: a saved output would hold itself alive."""
        raw = self.raws[k]
        assert raw is not None
        return self.node(raw, k, None if self.direct else self.hub())

    def run(self, grads: list[Node | None]) -> list[Node | None]:
        """Run the user's backward; return gradients of the inputs that need one."""
        unfollowable(REASON)
        ctx = self.ctx
        given: list[Any] = []
        for g, raw in zip(grads, self.raws):
            if g is None and raw is not None and ctx.materialize_grads:
                g = zeros(raw.shape, raw.dtype)
            given.append(None if g is None else wrap(g))
        f = self.cls.backward
        if f is Function.backward and self.cls.vjp is not Function.vjp:
            f = self.cls.vjp
        out = f(ctx, *given)
        outs = list(out) if isinstance(out, tuple) else [out]
        while len(outs) > self.arity and outs[-1] is None:
            outs.pop()
        if len(outs) != self.arity:
            raise RuntimeError(
                f"function {self.name} returned an incorrect number of gradients (expected {self.arity}, "
                f"got {len(outs)})"
            )
        result: list[Node | None] = []
        for k, o in enumerate(outs):
            if o is not None and not self.tensors[k]:
                raise RuntimeError(
                    f"function {self.name} returned a gradient different than None at position {k + 1}, but "
                    "the corresponding forward input was not a Variable"
                )
            if o is not None and not isinstance(o, Tensor):
                raise TypeError(f"expected Variable or None (got {type(o).__name__})")
            if k in self.places:
                result.append(None if o is None else self._shaped(read(o), len(result)))
        return result

    def _shaped(self, g: Node, k: int) -> Node:
        shape = self.inputs[k].shape
        if g.shape == shape:
            return g
        try:
            if broadcast_shapes(g.shape, shape) == g.shape:
                return sum_to(g, shape)
        except RuntimeError:
            pass
        raise RuntimeError(
            f"Function {self.name} returned an invalid gradient at index {k} - got {list(g.shape)} but "
            f"expected shape compatible with {list(shape)}"
        )

    def release(self) -> None:
        """Free what was saved."""
        if self.ctx._saved:
            self.ctx._saved = None


class _Rule:
    """A gradient rule that belongs to a call."""

    __slots__ = ("__weakref__", "call", "k")

    def __init__(self, call: Call, k: int = 0) -> None:
        self.call, self.k = call, k

    @property
    def name(self) -> str:
        return self.call.name

    @property
    def ctx(self) -> Any:
        return self.call.ctx

    def release(self) -> None:
        self.call.release()


class Direct(_Rule):
    """The rule of the only output."""

    __slots__ = ()

    def __call__(self, g: Node, y: Node, *inputs: Node) -> list[Node | None]:
        return self.call.run([g if k == self.k else None for k in range(len(self.call.raws))])


class Output(_Rule):
    """The rule of one of several outputs: leave the gradient at the hub."""

    __slots__ = ()

    def __call__(self, g: Node, y: Node, hub: Node) -> list[Node | None]:
        call = self.call
        waiting = call.waiting.setdefault(id(hub), [None] * len(call.raws))
        known = waiting[self.k]
        if known is not None:
            from fanal.core.ir.prims import add

            g = add(known, g)
        waiting[self.k] = g
        return [zeros((), float32)]

    def release(self) -> None:
        pass


class Hub(_Rule):
    """The rule of the hub."""

    __slots__ = ()

    def __call__(self, g: Node, y: Node, *inputs: Node) -> list[Node | None]:
        grads = self.call.waiting.pop(id(y), None)
        return self.call.run(grads or [None] * len(self.call.raws))


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
        """Batched form: never called by Fanal."""
        raise NotImplementedError("vmap is not part of Fanal")

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Run forward and put the outputs into the graph."""
        leave_path()
        unfollowable(REASON)
        try:
            return _apply(cls, args, kwargs)
        finally:  # a value read in forward may have begun a new segment
            leave_path()
            unfollowable(REASON)


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
    ctx = object.__new__(cls)
    FunctionCtx.__init__(ctx)
    ctx.needs_input_grad = tuple(isinstance(a, Tensor) and a.requires_grad for a in args)
    recording = state.grad and any(ctx.needs_input_grad)
    call = Call(cls, ctx, args)
    given = [read(a) if isinstance(a, Tensor) else None for a in args] if state.levels else []
    if recording:
        call.inputs = [read(args[k]) for k in call.places]
    ctx._call = call
    with grad_mode(False), levels(()):
        if split:
            out = cls.forward(*args)
            cls.setup_context(ctx, args, out)
        else:
            out = cls.forward(ctx, *args)
    outs = list(out) if isinstance(out, tuple) else [out]
    tangents = _tangents(ctx, given, len(outs))
    results = _outputs(call, ctx, args, outs, recording, tangents)
    if recording:
        _save(call, ctx, outs, results)
    ctx._to_save = ctx._dirty = ctx._fixed = ()
    if not isinstance(out, tuple):
        return results[0]
    return type(out)(*results) if hasattr(out, "_fields") else tuple(results)


def _among(x: Any, xs: Any) -> bool:
    return any(x is i for i in xs)


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


def _outputs(call: Call, ctx: Any, args: tuple, outs: list, recording: bool, tangents: list) -> list:
    """Give the outputs their history."""
    for t in ctx._dirty:
        if recording and t._leaf:
            raise RuntimeError("a leaf Variable that requires grad has been used in an in-place operation.")
        if not _among(t, outs):
            raise RuntimeError(
                "Some elements marked as dirty during the forward method were not returned as output. The "
                "inputs that are modified inplace must all be outputs of the Function."
            )
    with grad_mode(False):
        for o in outs:
            if isinstance(o, Tensor):
                n = value(o)
                call.raws.append(detach(n) if n.needs_grad else n)
            else:
                call.raws.append(None)
    live = [
        k
        for k, o in enumerate(outs)
        if (recording or tangents[k]) and isinstance(o, Tensor) and o._dtype.category >= 2 and not _among(o, ctx._fixed)
    ]
    call.direct = len(live) == 1
    hub = call.hub() if len(live) > 1 else None
    results: list[Any] = []
    for k, o in enumerate(outs):
        if not isinstance(o, Tensor):
            results.append(o)
        elif k in live:
            raw = call.raws[k]
            assert raw is not None
            y = call.node(raw, k, hub)
            for level, t in tangents[k].items():
                give_tangent(y, level, t)
            results.append(_with_history(call, o, y, args, _among(o, ctx._dirty)))
        elif _among(o, args) and not _among(o, ctx._dirty) and o.requires_grad:
            results.append(_cut(o))
        else:
            results.append(o)
    return results


def _cut(o: Any) -> Any:
    t = blank(Tensor, o._storage, o._chain, o._shape, o._dtype, o._node, o._strides, o._offset)
    t._detached, t._seen = True, -1
    value(t)
    return t


VIEW_OF_FUNCTION = (
    " This view was created inside a custom Function (or because an input was returned as-is) and the autograd logic "
    "to handle view+inplace would override the custom backward associated with the custom Function, leading to "
    "incorrect gradients. This behavior is forbidden. You can fix this by cloning the output of the custom Function."
)


def _with_history(call: Call, o: Any, y: Node, args: tuple, dirty: bool) -> Any:
    """Return the tensor of an output whose value is `y`."""
    s = o._storage
    if dirty:
        with grad_mode(True):
            write(o, y)
        return o
    if _among(o, args):
        o = blank(Tensor, s, o._chain, o._shape, o._dtype, y, o._strides, o._offset)
    elif not o._chain and not any(isinstance(a, Tensor) and a._storage is s for a in args):
        s.node = y
        hold(s)
        y.home = (ref(s), s.version)
        o._node, o._seen, o._detached = y, s.version, False
        return o
    # A view of something: the memory is shared, the history is the function's.
    o._node, o._seen, o._detached = y, s.version, True
    y.home = (ref(s), s.version)
    o._base_ref = Origin("function", counted(s), None, (y.params[-1].k, call.cls.__name__), VIEW_OF_FUNCTION)
    return o


def _save(call: Call, ctx: Any, outs: list, results: list) -> None:
    saved: list[Saved | Packed | None] = []
    for k, t in enumerate(ctx._to_save):
        if t is None:
            saved.append(None)
            continue
        if not isinstance(t, Tensor):
            raise TypeError(
                f"save_for_backward can only save variables, but argument {k} is of type {type(t).__name__}"
            )
        at = next((i for i, o in enumerate(outs) if o is t), -1)
        if saving.hooks:
            saved.append(saving.packed(t if t._leaf else wrap(alias(detach(value(t)))), value(t)))
        elif at >= 0 and call.raws[at] is not None and results[at].requires_grad:
            raw = call.raws[at]
            assert raw is not None
            saved.append(Saved(results[at], at, raw, call.name))
        else:
            with grad_mode(True):
                n = read(t)
            from fanal.core.autograd.backward import grad_name

            saved.append(Saved(t, -1, n, grad_name(n)))
    ctx._saved = saved


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
