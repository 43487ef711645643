"""The public forms of every operator: functions by module, Tensor methods, in-place and out= variants."""

from __future__ import annotations

import importlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from threading import RLock
from typing import Any

import numpy as np

from fanal.core.autograd.callbacks import drive
from fanal.core.base import layout
from fanal.core.base.state import state
from fanal.core.base.where import ready
from fanal.core.engine.follow import dispatch
from fanal.core.engine.handle import Handle
from fanal.core.engine.matcher import matcher
from fanal.core.engine.record import Op, check_later, session
from fanal.core.ir.prims import alias
from fanal.core.ops.arguments import (
    numbers_first,
    parameters,
    passing,
    taking_tensors,
    under_numpys_names,
    with_size,
)
from fanal.core.ops.autocast import casting
from fanal.core.ops.build import ENTRIES, Answer, Entry, assign, is_number, result
from fanal.core.ops.out import accepting_out
from fanal.core.tensor.alias import read, rebase, value
from fanal.core.tensor.override import answer, overridable, overriding
from fanal.core.tensor.sparse import ELSEWHERE, elsewhere
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
    "implicit",
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
    "dlpack",
    "limits",
    "scatter",
    "search",
    "storage_view",
    "linalg_factor",
    "linalg_solve",
    "linalg_function",
    "linalg_spectrum",
    "linalg_norm",
    "moments",
    "fft",
    "stft",
    "special",
    "arithmetic",
    "spaced",
    "native_norm",
    "recurrence",
)


class Forms(Mapping[str, Any]):
    """The public functions of a module by name. Each is made when it is first asked for: `import` does not wait for
    thousands of forms of which a script uses fifty."""

    def __init__(self) -> None:
        self._make: dict[str, Callable[[], Any]] = {}
        self._made: dict[str, Any] = {}

    def later(self, name: str, make: Callable[[], Any]) -> None:
        """Have `make` called for the function `name`."""
        self._make[name] = make

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            with _MAKING:
                if name not in self._made:
                    self._made[name] = self._make[name]()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._make)

    def __len__(self) -> int:
        return len(self._make)


class _Later:
    """Stands in Tensor for a method until that is first asked for."""

    __slots__ = ("make", "name")

    def __init__(self, name: str, make: Callable[[], Any]) -> None:
        self.name, self.make = name, make

    def __get__(self, tensor: Any, owner: type) -> Any:
        with _MAKING:
            if vars(Tensor)[self.name] is self:
                setattr(Tensor, self.name, self.make())
        return vars(Tensor)[self.name].__get__(tensor, owner)


_MAKING = RLock()  # two threads must not have two functions under one name
FUNCTIONS: defaultdict[str, Forms] = defaultdict(Forms)
CONSTANTS: dict[str, Any] = {
    "pi": math.pi,
    "e": math.e,
    "inf": math.inf,
    "nan": math.nan,
    "newaxis": None,
    **layout.CONSTANTS,
}


def _beside_info(fn: Callable, name: str, way: bool | str) -> Callable:
    """Accept out= for a function that returns (result, info)."""

    def call(*args: Any, out: Any = None, **kwargs: Any) -> Any:
        found, info = fn(*args, **kwargs)
        return accepting_out(lambda *_, **__: found, name, way)(*args, out=out, **kwargs), info

    return passing(call, fn, "out")


def _checked(form: Any, check: Callable[[Any], None]) -> Callable:
    """Call an event that returns (result, info). The failure that an info tells of is raised at the user's line where
    the code there is ready for it, else when the value is computed."""

    def call(*args: Any, **kwargs: Any) -> Any:
        found, info = form(*args, **kwargs)
        now, where = (True, None) if session.depth or session.levels else ready(2)
        if now:
            check(info)
        else:
            check_later(check, info, where)
        return found

    call.__doc__, call.__module__ = form.__doc__, form.__module__
    return overridable(call, form.__name__)


def _prepared(form: Any, prepare: Callable) -> Callable:
    """Complete the arguments of an event by what must not be part of it: prepare(*args, **kwargs) returns both."""

    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = prepare(*args, **kwargs)
        return form(*args, **kwargs)

    call.__doc__, call.__module__ = form.__doc__, form.__module__
    return overridable(call, form.__name__)


def _takes_tensor(fn: Callable) -> bool:
    """Tell whether the first argument of a function is a tensor; modes and classes are none."""
    code = getattr(fn, "__code__", None)
    return code is not None and code.co_varnames[: code.co_argcount][:1] in (("input",), ("self",))


def _in_place(fn: Callable) -> Callable:
    """Write the result of `fn` into its first argument and return that."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        operand = self
        rebase(self)
        if state.grad and not self._leaf and value(self).needs_grad:  # its gradient keeps what it overwrites
            operand = result(alias(read(self)), self)
        return assign(self, read(fn(operand, *args, **kwargs)))

    call.__wrapped__ = fn  # type: ignore[attr-defined]
    return passing(call, fn)


def _operator(fn: Callable) -> Callable:
    """Return NotImplemented for operands that are neither tensors nor numbers, so that Python asks the other side."""

    def call(self: Any, other: Any) -> Any:
        if isinstance(other, Handle) or is_number(other):
            return fn(self, other)
        return NotImplemented

    return call


# The names that PyTorch's operators have, and __torch_function__ sees.
_SHOWN_AS = {"__pow__": "pow", "__ipow__": "pow_", "__rtruediv__": "__rdiv__"}


def event(name: str, fn: Callable, owner: type | None = None, ahead: Callable | None = None, **options: Any) -> Any:
    """Return the public function of an operator: a call of it is an event. ahead: see `build.public`."""
    op = Op(name, fn, operator=True, **options)
    public: Any = None

    def slow(*args: Any, **kwargs: Any) -> Any:
        overloaded = overriding(args, kwargs)
        if overloaded is not None:
            return answer(public, overloaded, args, kwargs)
        if ELSEWHERE:
            other = elsewhere(args, kwargs)
            if other is not None:
                return other(name, args, kwargs)
        for a in args:
            if isinstance(a, np.generic):  # a number is matched by its value, and may be another in the next step
                args = tuple([x.item() if isinstance(x, np.generic) else x for x in args])
                break
        for a in kwargs.values():
            if isinstance(a, np.generic):
                kwargs = {k: x.item() if isinstance(x, np.generic) else x for k, x in kwargs.items()}
                break
        if ahead is not None and not session.depth:
            args = ahead(*args, **kwargs)
            if type(args) is Answer:
                return args.result
        return drive(dispatch(op, args, kwargs))

    short = name.rpartition(".")[2]
    short = _SHOWN_AS.get(short, short)
    taken = parameters(fn) if matcher.name == "python" else None  # native code compares whatever comes
    if owner is not None:
        public = matcher.method(owner, op.key, slow, short, fn.__doc__, taken)
    else:
        home = MODULES.get(name.rpartition(".")[0], "fanal")
        public = matcher.function(op.key, slow, short, fn.__doc__, home, taken)
    return public


MODULES = {
    "nn.functional": "fanal.nn.functional",
    "linalg": "fanal.linalg",
    "special": "fanal.special",
    "fft": "fanal.fft",
    "masked": "fanal.masked",
    "signal.windows": "fanal.signal.windows",
}


def install(*topics: str) -> None:
    """Make the operators of topic files public. Those outside TOPICS are asked for by the module that shows them."""
    known = len(ENTRIES)
    for topic in topics:
        importlib.import_module(f"fanal.core.ops.{topic}")
    for e in ENTRIES[known:]:
        _install(e)


def _install(e: Entry) -> None:
    """Put an operator where its users look for it."""
    dunder, prop, setter = (e.options.pop(name, None) for name in ("dunder", "property", "setter"))
    if dunder:
        fn = _operator(_in_place(e.fn)) if dunder == "inplace" else casting(_operator(e.fn), e.name, e.module)
        _method(e.name, lambda: event(f"Tensor.{e.name}", fn, Tensor, **e.options))
        return
    make = _former(e)
    if e.function:
        FUNCTIONS[e.module].later(e.name, lambda: make(e.fn, e.name))
    if prop:
        setattr(Tensor, e.method, property(make(e.fn, e.method, True), setter))
    elif e.method:
        _method(e.method, lambda: make(e.fn, e.method, True))
    if e.inplace:
        name = e.name + "_"
        _method(name, lambda: make(_in_place(e.fn), name, True))
        if e.module == "torch" and e.function:
            FUNCTIONS[e.module].later(name, lambda: make(_in_place(e.fn), name))


def _method(name: str, make: Callable[[], Any]) -> None:
    setattr(Tensor, name, _Later(name, make))


def _former(e: Entry) -> Callable[..., Any]:
    """Return what makes the public forms of an operator: form(fn, name, method)."""
    options = dict(e.options)
    is_event = options.pop("event", True)  # else it makes a tensor from data at once, as if it came from outside
    tensors, check, prepare = (options.pop(name, None) for name in ("tensors", "check", "prepare"))  # see build.public

    def form(fn: Callable, name: str, method: bool = False) -> Any:
        made = taking_tensors(fn, name, tensors, method)
        takes_out = _beside_info if check else accepting_out
        made = takes_out(made, e.name, e.out) if e.out and fn is e.fn else made
        made = casting(made, e.name, e.module) if fn is e.fn else made
        if e.module != "nn.functional":  # which is written in Python, and has one name for an argument
            made = with_size(under_numpys_names(made, e.fn, method), name, e.fn)
        if e.module == "torch":
            made = numbers_first(made, e.name, e.fn)
        made.__doc__ = e.fn.__doc__ if fn is e.fn else f"In-place form of {e.name}."
        if not is_event:
            factory = e.out == "fill" or e.name == "tensor"
            return overridable(made, name, not factory) if factory or _takes_tensor(e.fn) else made
        if method:
            made = event(f"Tensor.{name}", made, Tensor, **options)
        else:
            made = event(f"{e.module}.{name}", made, **options)
        made = _prepared(made, prepare) if prepare else made
        return _checked(made, check) if check else made

    return form


install(*TOPICS)
