"""Checkpoints: run a part of the model again in backward instead of keeping its values.

Backward runs the user's Python again, so a segment with a checkpoint in it is never followed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import fanal
from fanal.core.autograd.backward import gradients, target
from fanal.core.autograd.callbacks import drive, stepwise
from fanal.core.base.dtype import float32
from fanal.core.base.missing import finder
from fanal.core.base.state import grad_mode, state
from fanal.core.engine.record import leave_path, unfollowable
from fanal.core.ir.prims import add, detach, full, tape, zeros
from fanal.core.ir.program import Node
from fanal.core.tensor.alias import read, value
from fanal.core.tensor.tensor import Tensor, wrap

_REASON = "a checkpoint runs Python again in backward"
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


@contextmanager
def _random_state(kept: Any) -> Iterator[None]:
    if kept is None:
        yield
        return
    now = fanal.get_rng_state()
    fanal.set_rng_state(kept)
    try:
        yield
    finally:
        fanal.set_rng_state(now)


class _Region:
    """One checkpointed call: enough to run it again."""

    name = "CheckpointBackward"

    def __init__(
        self, function: Callable, args: tuple, kwargs: dict, preserve: bool, again: AbstractContextManager
    ) -> None:
        self.function, self.args, self.kwargs, self.again = function, args, kwargs, again
        self.random = fanal.get_rng_state() if preserve else None
        self.given = _tensors((args, kwargs), [])
        self.versions = [t._storage.version for t in self.given]
        self.inputs: list[Node] = []
        self.shapes: list[tuple] = []
        self.waiting: dict[int, dict[int, Node]] = {}

    def check(self) -> None:
        for t, v in zip(self.given, self.versions):
            if t._storage.version != v:
                raise RuntimeError(
                    "one of the variables needed for gradient computation has been modified by an inplace "
                    f"operation: an argument of shape {list(t.shape)} of a checkpoint is at version "
                    f"{t._storage.version}; expected version {v} instead."
                )

    def backward(self, grads: dict[int, Node]) -> list[Node | None]:
        """Run the function again and take its gradients."""
        unfollowable(_REASON)
        self.check()
        create = state.grad
        with _random_state(self.random), grad_mode(True), self.again:
            out = self.function(*self.args, **self.kwargs)
        outs = _tensors(out, [])
        if [tuple(o.shape) for o in outs] != self.shapes:
            raise CheckpointError(
                "torch.utils.checkpoint: Recomputed values for the following tensors have different "
                f"metadata than during the forward pass: {self.shapes} then, "
                f"{[tuple(o.shape) for o in outs]} now"
            )
        with grad_mode(True):
            roots = [read(outs[k]) for k in grads]
        if not all(r.needs_grad for r in roots):
            raise CheckpointError("torch.utils.checkpoint: an output that required gradients no longer does")
        found = drive(stepwise(gradients)(
            roots,
            list(grads.values()),
            {target(i) for i in self.inputs},
            create_graph=create,
            retain=True,
            accumulate=None,
            stop=True,
        ))
        return [found.get(target(i)) for i in self.inputs]


class _Rule:
    """The gradient rule of one output of a region: leave the gradient at the hub."""

    __slots__ = ("__weakref__", "k", "region")
    name = "CheckpointBackward"

    def __init__(self, region: _Region, k: int) -> None:
        self.region, self.k = region, k

    def __call__(self, g: Node, y: Node, hub: Node) -> list[Node | None]:
        waiting = self.region.waiting.setdefault(id(hub), {})
        waiting[self.k] = add(waiting[self.k], g) if self.k in waiting else g
        return [zeros((), float32)]

    def release(self) -> None:
        """Keep everything: the region can run any number of times."""


class _Hub(_Rule):
    """The gradient rule of the hub on which all outputs hang."""

    __slots__ = ()

    def __call__(self, g: Node, y: Node, *inputs: Node) -> list[Node | None]:
        return self.region.backward(self.region.waiting.pop(id(y), {}))


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


def _plain(function: Callable, args: tuple, kwargs: dict, preserve: bool, context_fn: Callable) -> Any:
    """Checkpoint without nesting backward: the region is one function of its arguments and of every leaf
    inside it."""
    forward, again = context_fn()
    if not state.grad:
        with forward:
            return function(*args, **kwargs)
    leave_path()
    unfollowable(_REASON)
    region = _Region(function, args, kwargs, preserve, again)
    with forward:
        out = function(*args, **kwargs)
    outs = _tensors(out, [])
    region.shapes = [tuple(o.shape) for o in outs]
    region.versions = [t._storage.version for t in region.given]
    with grad_mode(True):
        roots = [read(o) for o in outs]
        given = {id(read(t)) for t in region.given if t.requires_grad}
        region.inputs = _boundary(roots, given)
        hub = tape((full((), 0, float32), *region.inputs), _Hub(region, 0)) if region.inputs else None
    count = iter(range(len(outs)))

    def result(t: Any) -> Any:
        k = next(count)
        if hub is None or not t.requires_grad or id(roots[k]) in given:
            return t
        with grad_mode(True):
            return wrap(tape((detach(value(t)), hub), _Rule(region, k)), t._strides)

    made = _map(result, out)
    leave_path()
    unfollowable(_REASON)
    return made


class CheckpointFunction(fanal.autograd.Function):
    """The reentrant checkpoint: backward runs the function and a backward of its own."""

    @staticmethod
    def forward(ctx: Any, run_function: Callable, preserve_rng_state: bool, *args: Any) -> Any:
        ctx.run_function, ctx.given = run_function, args
        ctx.random = fanal.get_rng_state() if preserve_rng_state else None
        ctx.at = [k for k, a in enumerate(args) if isinstance(a, Tensor)]
        ctx.save_for_backward(*(args[k] for k in ctx.at))
        ctx.given = tuple(None if isinstance(a, Tensor) else a for a in args)
        with fanal.no_grad():
            return run_function(*args)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple:
        inputs = list(ctx.given)
        for k, t in zip(ctx.at, ctx.saved_tensors):
            inputs[k] = t
        own = detach_variable(tuple(inputs))
        with _random_state(ctx.random), fanal.enable_grad():
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
