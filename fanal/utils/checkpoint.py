"""Checkpoints: run a part of the model again in backward instead of keeping its values.

Backward stops at a checkpoint and runs the user's Python again, whose calls are events as ever.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

import fanal
from fanal.amp import autocast
from fanal.amp.settings import get_autocast_dtype, is_autocast_cache_enabled, is_autocast_enabled
from fanal.core.autograd.backward import gradients, target
from fanal.core.autograd.callbacks import (
    Callback,
    Noted,
    Rule,
    Walk,
    next_note,
    note,
    noted_as,
    number_of,
    running,
    stepwise,
    values,
)
from fanal.core.autograd.events import event
from fanal.core.base.dtype import float32
from fanal.core.base.missing import finder
from fanal.core.base.state import grad_mode, state
from fanal.core.engine.record import leave_path, session, unfollowable
from fanal.core.engine.rng import rng
from fanal.core.ir.prims import add, detach, full, tape, zeros
from fanal.core.ir.program import Node
from fanal.core.ops.random import default_generator
from fanal.core.tensor.alias import read, value
from fanal.core.tensor.tensor import Tensor, wrap

_debug = False


class CheckpointError(RuntimeError):
    """The second run was not like the first."""


@contextmanager
def set_checkpoint_debug_enabled(enabled: bool) -> Iterator[None]:
    """Keep a flag inside the block; errors here always tell what differed."""
    global _debug
    before, _debug = _debug, enabled
    try:
        yield
    finally:
        _debug = before


def detach_variable(inputs: tuple) -> tuple:
    """Return tensors cut from their history that require gradients where the given ones do."""
    return tuple(x.detach().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x for x in inputs)


def noop_context_fn() -> tuple[AbstractContextManager, AbstractContextManager]:
    """Return two contexts that do nothing."""
    return nullcontext(), nullcontext()


def _tensors(x: Any, found: list[Any]) -> list[Any]:
    if isinstance(x, Tensor):
        found.append(x)
    elif isinstance(x, (tuple, list)):
        for i in x:
            _tensors(i, found)
    elif isinstance(x, dict):
        for i in x.values():
            _tensors(i, found)
    return found


def _map(f: Callable, x: Any) -> Any:
    if isinstance(x, Tensor):
        return f(x)
    if isinstance(x, (tuple, list)):
        items = [_map(f, i) for i in x]
        return type(x)(*items) if hasattr(x, "_fields") else type(x)(items)
    if isinstance(x, dict):
        return type(x)((k, _map(f, v)) for k, v in x.items())
    return x


class _Draws(Noted):
    """The random numbers that a region draws, so that they can be drawn again."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.pairs: list[tuple] = []  # of the counter behind dropout, in the recorded graph
        self.state: Any = None  # of the CPU generator as the region began, if it drew from that

    @contextmanager
    def first(self) -> Iterator[None]:
        """Note what is drawn inside this block."""
        if not self.wanted:
            yield
            return
        if session.depth:
            unfollowable("a checkpoint inside an event")
        stream = default_generator._mt
        before = stream.get_state()
        note(self)
        _keep_event()
        try:
            yield
        except BaseException:
            leave_path()
            unfollowable("a checkpointed function raised")
            _forget(self.pairs)
            raise
        _kept_event(number_of(self))
        self.state = None if np.array_equal(before, stream.get_state()) else before

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draw the same inside this block."""
        if not self.wanted:
            yield
            return
        stream = default_generator._mt
        outside = None
        if self.state is not None:
            outside = stream.get_state()
            stream.set_state(self.state)
        _repeat_event(number_of(self))
        try:
            yield
        except BaseException:
            leave_path()
            rng.repeated.clear()
            raise
        finally:
            if outside is not None:
                stream.set_state(outside)
        _repeated_event()


def _forget(pairs: list[tuple]) -> None:
    rng.kept[:] = [kept for kept in rng.kept if kept is not pairs]


def _keep() -> None:
    draws = session.notes[next_note(lambda: _Draws(True))]
    draws.pairs = []
    rng.kept.append(draws.pairs)


def _kept(number: int) -> None:
    _forget(noted_as(number).pairs)


def _repeat(number: int) -> None:
    rng.repeated.append(iter(noted_as(number).pairs))


def _repeated() -> None:
    rng.repeated.pop()


def _casts() -> tuple[Any, bool, bool]:
    return get_autocast_dtype("cpu"), is_autocast_enabled("cpu"), is_autocast_cache_enabled()


def _same_casts() -> Callable[[], AbstractContextManager]:
    """Return what makes autocast be as it is now: backward is mostly outside the block that the forward ran in."""
    then = _casts()
    return lambda: nullcontext() if _casts() == then else autocast("cpu", *then)


class _Region(Callback):
    """One checkpointed call: enough to run it again."""

    def __init__(
        self, function: Callable, args: tuple, kwargs: dict, draws: _Draws, again: AbstractContextManager
    ) -> None:
        self.function, self.args, self.kwargs, self.draws, self.again = function, args, kwargs, draws, again
        self.casts = _same_casts()
        self.given = _tensors((args, kwargs), [])
        self.shapes: list[tuple] = []
        # Where the graph is recorded:
        self.versions: list[int] = []  # of what was given
        self.inputs: list[Node] = []
        self.waiting: dict[int, dict[int, Node]] = {}

    def check(self) -> None:
        """Raise if an argument was written since. In a followed segment none was."""
        if session.path is not None:
            return
        for t, v in zip(self.given, self.versions):
            if t._storage.version != v:
                raise RuntimeError(
                    "one of the variables needed for gradient computation has been modified by an inplace "
                    f"operation: an argument of shape {list(t.shape)} of a checkpoint is at version "
                    f"{t._storage.version}; expected version {v} instead."
                )

    def answer(self, grads: tuple) -> tuple:
        """Run the function again; return the gradients of what it was computed from."""
        self.check()
        create = state.grad
        with self.draws.again(), fanal.enable_grad(), self.casts(), self.again:
            out = self.function(*self.args, **self.kwargs)
        outs = _tensors(out, [])
        if [tuple(o.shape) for o in outs] != self.shapes:
            raise CheckpointError(
                "torch.utils.checkpoint: Recomputed values for the following tensors have different "
                f"metadata than during the forward pass: {self.shapes} then, "
                f"{[tuple(o.shape) for o in outs]} now"
            )
        pairs = [(o, g) for o, g in zip(outs, grads) if g is not None]
        return _pulled_event(number_of(self), create, *[o for o, _ in pairs], *[g for _, g in pairs])


def _pulled(number: int, create: bool, *tensors: Any) -> Walk:
    """Return the gradients of what a region was computed from: of its second outputs, for their gradients."""
    region, half = noted_as(number), len(tensors) // 2
    with grad_mode(True):
        roots = [read(o) for o in tensors[:half]]
    if not all(r.needs_grad for r in roots):
        raise CheckpointError("torch.utils.checkpoint: an output that required gradients no longer does")
    found = yield from gradients(
        roots,
        values(tensors[half:]),
        {target(i) for i in region.inputs},
        create_graph=create,
        retain=True,
        accumulate=None,
        stop=True,
    )
    grads = [found.get(target(i)) for i in region.inputs]
    return tuple([None if g is None else wrap(g) for g in grads])


class _Output:
    """The gradient rule of one output of a region: leave the gradient at the hub."""

    __slots__ = ("__weakref__", "k", "region")
    name = "CheckpointBackward"

    def __init__(self, region: _Region, k: int) -> None:
        self.region, self.k = region, k

    def __call__(self, g: Node, y: Node, hub: Node) -> list[Node | None]:
        waiting = self.region.waiting.setdefault(id(hub), {})
        waiting[self.k] = add(waiting[self.k], g) if self.k in waiting else g
        return [zeros((), float32)]


class _Hub(Rule):
    """The gradient rule of the hub on which all outputs hang."""

    __slots__ = ()
    name = "CheckpointBackward"

    def __init__(self, region: _Region) -> None:
        self.callback = region

    def given(self, g: Node, y: Node) -> list[Node | None]:
        waiting = self.callback.waiting.pop(id(y), {})
        return [waiting.get(k) for k in range(len(self.callback.shapes))]


def _boundary(roots: list[Node], given: set[int]) -> list[Node]:
    """Return the leaves, and the values of arguments, from which outputs were computed."""
    found: dict[int, Node] = {}
    seen: set[int] = set()
    queue = [r for r in roots if r.needs_grad]
    while queue:
        n = queue.pop()
        if id(n) in seen:
            continue
        seen.add(id(n))
        if n.leaf is not None or id(n) in given:
            found.setdefault(target(n), n)
        else:
            queue.extend(i for i in n.inputs if i.needs_grad)
    return list(found.values())


def _check_kept(args: tuple) -> None:
    """Raise PyTorch's error for an inference tensor among the arguments, all of which are kept for backward."""
    if any(isinstance(t, Tensor) and t.is_inference() for t in args):
        raise RuntimeError(
            "Inference tensors cannot be saved for backward. Please do not use Tensors created in inference mode in "
            "computation tracked by autograd. To work around this, you can make a clone to get a normal tensor and "
            "use it in autograd, or use `torch.no_grad()` instead of `torch.inference_mode()`."
        )


def _plain(function: Callable, args: tuple, kwargs: dict, preserve: bool, context_fn: Callable) -> Any:
    """Checkpoint without nesting backward: the region is one function of its arguments and of every leaf
    inside it."""
    forward, again = context_fn()
    if not state.grad:
        with forward:
            return function(*args, **kwargs)
    _check_kept(args)
    region = _Region(function, args, kwargs, _Draws(preserve), again)
    with region.draws.first(), forward:
        out = function(*args, **kwargs)
    outs = _tensors(out, [])
    region.shapes = [tuple(o.shape) for o in outs]
    if session.depth:
        unfollowable("a checkpoint inside an event")
    note(region)
    made = iter(_outputs_event(len(region.given), *region.given, *outs))
    return _map(lambda _: next(made), out)


def _outputs(count: int, *tensors: Any) -> tuple:
    """Return the outputs of the region that was noted, hanging on what they were computed from and nothing between."""
    region = session.notes[next_note(_unnoted)]
    given, outs = tensors[:count], tensors[count:]
    region.versions = [t._storage.version for t in given]
    with grad_mode(True):
        roots = [read(o) for o in outs]
        values_given = {id(read(t)) for t in given if t.requires_grad}
        region.inputs = _boundary(roots, values_given)
        hub = tape((full((), 0, float32), *region.inputs), _Hub(region)) if region.inputs else None
        return tuple([
            t if hub is None or not t.requires_grad or id(root) in values_given
            else wrap(tape((detach(value(t)), hub), _Output(region, k)), t._strides)
            for k, (t, root) in enumerate(zip(outs, roots))])


def _unnoted() -> Any:
    raise AssertionError("nobody has noted this region")


_keep_event, _kept_event = event("checkpoint.keep", _keep), event("checkpoint.kept", _kept)
_repeat_event, _repeated_event = event("checkpoint.repeat", _repeat), event("checkpoint.repeated", _repeated)
_outputs_event, _pulled_event = event("checkpoint", _outputs), event("checkpoint.pulled", stepwise(_pulled))


class CheckpointFunction(fanal.autograd.Function):
    """The reentrant checkpoint: backward runs the function and a backward of its own."""

    @staticmethod
    def forward(ctx: Any, run_function: Callable, preserve_rng_state: bool, *args: Any) -> Any:
        ctx.run_function, ctx.draws, ctx.casts = run_function, _Draws(preserve_rng_state), _same_casts()
        ctx.at = [k for k, a in enumerate(args) if isinstance(a, Tensor)]
        ctx.save_for_backward(*(args[k] for k in ctx.at))
        ctx.given = tuple(None if isinstance(a, Tensor) else a for a in args)
        with ctx.draws.first(), fanal.no_grad():
            return run_function(*args)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple:
        if running.partial:
            raise RuntimeError(
                "When use_reentrant=True, torch.utils.checkpoint is incompatible with .grad() or passing an `inputs` "
                "parameter to .backward(). To resolve this error, you can either set use_reentrant=False, or call "
                ".backward() without passing the `inputs` argument."
            )
        inputs = list(ctx.given)
        for k, t in zip(ctx.at, ctx.saved_tensors):
            inputs[k] = t
        own = detach_variable(tuple(inputs))
        with ctx.draws.again(), fanal.enable_grad(), ctx.casts():
            outputs = ctx.run_function(*own)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        pairs = [(o, g) for o, g in zip(outputs, grads) if isinstance(o, Tensor) and o.requires_grad]
        if not pairs:
            raise RuntimeError("none of output has requires_grad=True, this checkpoint() is not necessary")
        fanal.autograd.backward([o for o, _ in pairs], [g for _, g in pairs])
        return (None, None, *(x.grad if isinstance(x, Tensor) else None for x in own))


def checkpoint(
    function: Callable,
    *args: Any,
    use_reentrant: bool | None = None,
    context_fn: Callable = noop_context_fn,
    determinism_check: str = "default",
    debug: bool = False,
    early_stop: bool = True,
    **kwargs: Any,
) -> Any:
    """Run `function(*args)`; in backward run it again instead of keeping what it computed.

    preserve_rng_state=True (the default) gives both runs the same random numbers.
    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost" (2016).
    """
    if use_reentrant is None:
        warnings.warn(
            "torch.utils.checkpoint: the use_reentrant parameter should be passed explicitly. "
            "use_reentrant=False is "
            "recommended, but if you need to preserve the current default behavior, you can pass "
            "use_reentrant=True.",
            stacklevel=2,
        )
        use_reentrant = True
    preserve = kwargs.pop("preserve_rng_state", True)
    if not use_reentrant:
        return _plain(function, args, kwargs, preserve, context_fn)
    if kwargs:
        raise ValueError("Unexpected keyword arguments: " + ",".join(kwargs))
    if context_fn is not noop_context_fn or debug is not False:
        raise ValueError("Passing `context_fn` or `debug` is only supported when use_reentrant=False.")
    if not any(t.requires_grad for t in args if isinstance(t, Tensor)):
        warnings.warn("None of the inputs have requires_grad=True. Gradients will be None", stacklevel=2)
    elif state.grad:
        _check_kept(args)
    return CheckpointFunction.apply(function, preserve, *args)


def checkpoint_sequential(
    functions: Any, segments: int, input: Any, use_reentrant: bool | None = None, **kwargs: Any
) -> Any:
    """Run a sequence of modules in `segments` parts, each but the last checkpointed."""
    if use_reentrant is None:
        warnings.warn(
            "torch.utils.checkpoint.checkpoint_sequential: the use_reentrant parameter should be passed "
            "explicitly.",
            stacklevel=2,
        )
        use_reentrant = True
    preserve = kwargs.pop("preserve_rng_state", True)
    if kwargs:
        raise ValueError("Unexpected keyword arguments: " + ",".join(kwargs))
    modules = list(functions.children()) if isinstance(functions, fanal.nn.Sequential) else list(functions)

    def part(start: int, end: int) -> Callable:
        def forward(x: Any) -> Any:
            for j in range(start, end + 1):
                x = modules[j](x)
            return x

        return forward

    size, end = len(modules) // segments, -1
    for start in range(0, size * (segments - 1), size):
        end = start + size - 1
        input = checkpoint(part(start, end), input, use_reentrant=use_reentrant, preserve_rng_state=preserve)
    return part(end + 1, len(modules) - 1)(input)


__all__ = [
    "CheckpointError",
    "CheckpointFunction",
    "checkpoint",
    "checkpoint_sequential",
    "detach_variable",
    "noop_context_fn",
    "set_checkpoint_debug_enabled",
]

__getattr__ = finder("torch.utils.checkpoint")
