"""One call of a custom function, as the graph knows it, and the two events that stand for it.

The first gives the outputs their history when forward has ended; the other gives backward an output that was saved. In
the graph the outputs are `tape` values. One output hangs on the inputs directly; several hang on a hub, at which
backward stops once, after the gradients of all outputs have arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import ref

from fanal.core.autograd.backward import grad_name
from fanal.core.autograd.callbacks import Callback, Rule, next_note, note, noted_as, number_of
from fanal.core.autograd.forward import give_tangent, levels
from fanal.core.base.dtype import float32, scalar_name
from fanal.core.base.shape import broadcast_shapes
from fanal.core.base.state import grad_mode, state
from fanal.core.engine.follow import dispatch
from fanal.core.engine.handle import Origin, counted
from fanal.core.engine.matcher import matcher
from fanal.core.engine.record import Op, hold, session
from fanal.core.ir.prims import add, detach, full, sum_to, tape, zeros
from fanal.core.ir.program import Node
from fanal.core.tensor.alias import cut, read, value, write
from fanal.core.tensor.tensor import Tensor, blank, wrap


class Layout(NamedTuple):
    """What one call of a function is like, but for its tensors: calls that are alike are one number to the engine."""

    name: str
    args: int  # the first tensors are the arguments, then the outputs, then what is saved
    outs: int
    dirty: tuple[int, ...]  # outputs that were written in place
    fixed: tuple[int, ...]  # outputs without a gradient
    saved: tuple[int, ...]  # outputs that are saved
    materialize: bool


_layouts: list[Layout] = []
_numbers: dict[Layout, int] = {}


class Call(Callback):
    """One call of a custom function, as the graph knows it."""

    def __init__(self, function: str, backward: Callable, ctx: Any, args: tuple) -> None:
        self.function, self.backward, self.ctx = function, backward, ctx
        self.name = function + "Backward"
        self.tensors = [isinstance(a, Tensor) for a in args]
        self.places = [k for k, needed in enumerate(ctx.needs_input_grad) if needed]
        # The graph, where it is recorded:
        self.inputs: list[Node] = []
        self.raws: list[Node | None] = []  # the outputs' values; None for an output that is no tensor
        self.outputs: list[tuple | None] = []  # where outputs stand: weak storage, version, chain, strides, offset
        self.saved: list[tuple] = []  # (weak storage, version, dtype, shape, name) of what was saved
        self.materialize = True
        self.direct = False
        self.waiting: dict[int, list[Node | None]] = {}  # by hub: the gradients that arrived
        self.tangents: list[dict[int, Node]] | None = None

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

    def note_saved(self, t: Any, label: str) -> None:
        """Note at which version a tensor is saved."""
        self.saved.append((ref(t._storage), t._storage.version, t._dtype, t._shape, label))

    def check_versions(self) -> None:
        """Raise PyTorch's error if a saved tensor was written since. In a followed segment none was."""
        if session.path is not None:
            return
        for weak, version, d, shape, label in self.saved:
            storage = weak()
            if storage is not None and storage.version != version:
                raise RuntimeError(
                    "one of the variables needed for gradient computation has been modified by an inplace operation: "
                    f"[torch.{scalar_name(d)}Tensor {list(shape)}], which is output 0 of {label}, is at version "
                    f"{storage.version}; expected version {version} instead. Hint: enable anomaly detection to find "
                    "the operation that failed to compute its gradient, with torch.autograd.set_detect_anomaly(True)."
                )

    def saved_output(self, k: int) -> Any:
        """Return output k, which was saved, with its history."""
        return _output_event(number_of(self), k)

    def output(self, k: int) -> Any:
        """Return output k with its history, made anew: a saved output would hold itself alive."""
        raw, place = self.raws[k], self.outputs[k]
        assert raw is not None and place is not None
        weak, version, chain, strides, offset = place
        node = self.node(raw, k, None if self.direct else self.hub())
        storage = weak()
        if storage is None:
            return wrap(node)
        t = blank(Tensor, storage, chain, node.shape, node.dtype, node, strides, offset)
        t._inference = False
        return t

    def shown(self, grads: list[Node | None]) -> list[Node | None]:
        """Return the gradients of the outputs as the user's backward sees them."""
        return [zeros(raw.shape, raw.dtype) if g is None and raw is not None and self.materialize else g
                for g, raw in zip(grads, self.raws)]

    def answer(self, grads: tuple) -> tuple:
        """Run the user's backward; return gradients of the inputs that need one."""
        out = self.backward(self.ctx, *grads)
        outs = list(out) if isinstance(out, tuple) else [out]
        arity = len(self.tensors)
        while len(outs) > arity and outs[-1] is None:
            outs.pop()
        if len(outs) != arity:
            raise RuntimeError(
                f"function {self.name} returned an incorrect number of gradients (expected {arity}, got {len(outs)})"
            )
        for k, o in enumerate(outs):
            if o is not None and not self.tensors[k]:
                raise RuntimeError(
                    f"function {self.name} returned a gradient different than None at position {k + 1}, but "
                    "the corresponding forward input was not a Variable"
                )
            if o is not None and not isinstance(o, Tensor):
                raise TypeError(f"expected Variable or None (got {type(o).__name__})")
        return tuple([outs[k] for k in self.places])

    def result(self, reply: list[Node | None]) -> list[Node | None]:
        """Return the gradients of the inputs that need one."""
        return [None if g is None else self._shaped(g, k) for k, g in enumerate(reply)]

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


class _OfCall:
    """What belongs to a call, and is shown as its function."""

    __slots__ = ()
    callback: Call

    @property
    def name(self) -> str:
        return self.callback.name

    @property
    def ctx(self) -> Any:
        return self.callback.ctx


class _Rule(_OfCall, Rule):
    """A gradient rule that belongs to a call."""

    __slots__ = ("k",)

    def __init__(self, call: Call, k: int = 0) -> None:
        self.callback, self.k = call, k


class Direct(_Rule):
    """The rule of the only output."""

    __slots__ = ()

    def given(self, g: Node, y: Node) -> list[Node | None]:
        call = self.callback
        return call.shown([g if k == self.k else None for k in range(len(call.raws))])

    def result(self, reply: list[Node | None]) -> list[Node | None]:
        return self.callback.result(reply)


class Hub(Direct):
    """The rule of the hub."""

    __slots__ = ()

    def given(self, g: Node, y: Node) -> list[Node | None]:
        call = self.callback
        return call.shown(call.waiting.pop(id(y), [None] * len(call.raws)))


class Output(_OfCall):
    """The rule of one of several outputs: leave the gradient at the hub."""

    __slots__ = ("__weakref__", "callback", "k")

    def __init__(self, call: Call, k: int) -> None:
        self.callback, self.k = call, k

    def __call__(self, g: Node, y: Node, hub: Node) -> list[Node | None]:
        call = self.callback
        waiting = call.waiting.setdefault(id(hub), [None] * len(call.raws))
        known = waiting[self.k]
        waiting[self.k] = g if known is None else add(known, g)
        return [zeros((), float32)]


def with_histories(call: Call, layout: Layout, *tensors: Any) -> tuple:
    """Return the outputs of a call with their history."""
    number = _numbers.get(layout)
    if number is None:
        number = _numbers[layout] = len(_layouts)
        _layouts.append(layout)
    note(call)
    return _outputs_event(number, *tensors)


def _outputs(number: int, *tensors: Any) -> tuple:
    """Return the outputs of the call that was noted for this event, with their history."""
    layout = _layouts[number]
    call = session.notes[next_note(_missing)]
    args, outs = tensors[:layout.args], tensors[layout.args:layout.args + layout.outs]
    recording = state.grad and bool(call.places)
    call.materialize = layout.materialize
    call.inputs = [read(args[k]) for k in call.places] if recording else []
    with grad_mode(False):
        call.raws = [None if o is None else _raw(o) for o in outs]
    tangents = call.tangents or [{}] * len(outs)
    live = [
        k
        for k, o in enumerate(outs)
        if (recording or tangents[k]) and o is not None and o._dtype.category >= 2 and k not in layout.fixed
    ]
    call.direct = len(live) == 1
    hub = call.hub() if len(live) > 1 else None
    results: list[Any] = []
    for k, o in enumerate(outs):
        if k in live:
            raw = call.raws[k]
            assert raw is not None
            y = call.node(raw, k, hub)
            for level, t in tangents[k].items():
                give_tangent(y, level, t)
            results.append(_with_history(call, o, y, args, k in layout.dirty))
        elif o is not None and among(o, args) and k not in layout.dirty and o.requires_grad:
            results.append(_cut(o))
        else:
            results.append(o)
    call.saved = []
    with grad_mode(True):
        for t in tensors[layout.args + layout.outs:]:
            call.note_saved(t, grad_name(read(t)))
    for k in layout.saved:
        call.note_saved(results[k], call.name)
    call.outputs = [
        None if t is None else (ref(t._storage), t._storage.version, t._chain, t._strides, t._offset) for t in results]
    return tuple(results)


def _missing() -> Any:
    raise AssertionError("nobody has noted the call of this function")


def _raw(o: Any) -> Node:
    n = value(o)
    return detach(n) if n.needs_grad else n


def _output(number: int, k: int) -> Any:
    """Return a saved output of a call that was noted."""
    return noted_as(number).output(k)


def _event(op: Op) -> Any:
    return matcher.function(op.key, lambda *args: dispatch(op, args, {}), op.name, op.fn.__doc__, "fanal.autograd")


_outputs_event = _event(Op("autograd.Function", _outputs, explains=False))
_output_event = _event(Op("autograd.Function.saved", _output, explains=False))


def among(x: Any, xs: Any) -> bool:
    return any(x is i for i in xs)


def _cut(o: Any) -> Any:
    t = blank(Tensor, o._storage, o._chain, o._shape, o._dtype, o._node, o._strides, o._offset)
    t._detached, t._seen = cut(t._storage), -1
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
    if among(o, args):
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
    o._base_ref = Origin("function", counted(s), None, (y.params[-1].k, call.function), VIEW_OF_FUNCTION)
    return o
