"""The public forms of every operator: functions by module, Tensor methods, in-place and out= variants."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

from fanal.core.base import layout
from fanal.core.engine.follow import dispatch
from fanal.core.engine.handle import Handle
from fanal.core.engine.matcher import matcher
from fanal.core.engine.record import Op
from fanal.core.ops.build import ENTRIES, Entry, assign, is_number, store
from fanal.core.tensor.alias import read
from fanal.core.tensor.tensor import Tensor

# The topic files, in the order in which their operators are made public.
TOPICS = (
    "pointwise",
    "compare",
    "reduce",
    "create",
    "shape",
    "pieces",
    "rearrange",
    "join",
    "index",
    "grad_ops",
    "access",
    "random",
    "matmul",
    "norm",
    "activation",
    "loss",
    "margin",
    "ctc",
    "dropout",
    "einsum",
    "distance",
    "conv",
    "pool",
    "adaptive_pool",
    "pad",
    "vision",
    "resample",
    "attention",
    "embedding",
    "scan",
    "sort",
    "show",
    "convert",
    "factory",
    "numpy_share",
    "limits",
    "scatter",
    "search",
    "storage_view",
    "modes",
    "linalg",
)
FUNCTIONS: dict[str, dict[str, Callable]] = {}
CONSTANTS: dict[str, Any] = {
    "pi": math.pi,
    "e": math.e,
    "inf": math.inf,
    "nan": math.nan,
    "newaxis": None,
    **layout.CONSTANTS,
}
OPS: dict[str, Op] = {}


def _with_out(fn: Callable) -> Callable:
    """Accept out=: the result is stored there and returned."""

    def call(*args: Any, out: Any = None, **kwargs: Any) -> Any:
        r = fn(*args, **kwargs)
        if out is None:
            return r
        if isinstance(r, tuple):
            for o, x in zip(out, r):
                store(o, read(x))
            return type(r)(out) if type(r) is tuple else type(r)(*out)
        return store(out, read(r))

    return call


def _in_place(fn: Callable) -> Callable:
    """Write the result of `fn` into its first argument and return that."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return assign(self, read(fn(self, *args, **kwargs)))

    return call


def _operator(fn: Callable) -> Callable:
    """Return NotImplemented for operands that are neither tensors nor numbers, so that Python asks the other side."""

    def call(self: Any, other: Any) -> Any:
        if isinstance(other, Handle) or is_number(other):
            return fn(self, other)
        return NotImplemented

    return call


def event(name: str, fn: Callable, owner: type | None = None, **options: Any) -> Any:
    """Return the public function of an operator: a call of it is an event."""
    op = OPS[name] = Op(name, fn, **options)

    def slow(*args: Any, **kwargs: Any) -> Any:
        return dispatch(op, args, kwargs)

    short = name.rpartition(".")[2]
    if owner is not None:
        return matcher.method(owner, op.key, slow, short, fn.__doc__)
    return matcher.function(op.key, slow, short, fn.__doc__, MODULES.get(name.rpartition(".")[0], "fanal"))


MODULES = {
    "nn.functional": "fanal.nn.functional",
    "linalg": "fanal.linalg",
    "special": "fanal.special",
    "fft": "fanal.fft",
}


def install() -> None:
    """Make every registered operator public."""
    for topic in TOPICS:
        importlib.import_module(f"fanal.core.ops.{topic}")
    for e in ENTRIES:
        _install(e)


def _install(e: Entry) -> None:
    dunder = e.options.pop("dunder", False)
    prop, setter = e.options.pop("property", False), e.options.pop("setter", None)
    if dunder == "inplace":
        setattr(Tensor, e.name, event(f"Tensor.{e.name}", _operator(_in_place(e.fn)), Tensor))
        return
    fn = _with_out(e.fn) if e.out else _operator(e.fn) if dunder else e.fn
    fn.__doc__ = e.fn.__doc__
    if not e.options.pop(
        "event", True
    ):  # makes a tensor from data at once: to the engine it comes from outside
        if e.function:
            FUNCTIONS.setdefault(e.module, {})[e.name] = fn
        if e.method:
            setattr(Tensor, e.method, fn)
        return
    if e.function:
        FUNCTIONS.setdefault(e.module, {})[e.name] = event(f"{e.module}.{e.name}", fn, **e.options)
    if e.method:
        form = event(f"Tensor.{e.method}", fn, Tensor, **e.options)
        setattr(Tensor, e.method, property(form, setter) if prop else form)
    if e.inplace:
        form = _in_place(e.fn)
        form.__doc__ = f"In-place form of {e.name}."
        name = e.name + "_"
        setattr(Tensor, name, event(f"Tensor.{name}", form, Tensor))
        if e.module == "torch" and e.function:
            FUNCTIONS.setdefault(e.module, {})[name] = event(f"torch.{name}", form)


install()
