"""__torch_function__ for those who define it: what can be overridden, who overrides, and modes for all calls."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import fanal
from fanal.core.base.missing import finder
from fanal.core.ops.surface import FUNCTIONS
from fanal.core.tensor.override import answer, overloaded, overrides, overrides_calls, without
from fanal.core.tensor.tensor import Tensor

# Functions and methods that PyTorch never dispatches: they make tensors of something else, or set a switch.
_IGNORED = (
    "as_tensor asarray can_cast dtype finfo frombuffer from_dlpack from_numpy get_default_dtype iinfo is_grad_enabled "
    "is_storage is_tensor manual_seed no_grad enable_grad set_grad_enabled inference_mode promote_types seed "
    "initial_seed set_default_dtype set_printoptions printoptions get_rng_state set_rng_state"
).split()


def has_torch_function(relevant_args: Iterable[Any]) -> bool:
    """Tell whether an argument has a __torch_function__ that is not disabled, or a mode is on."""
    if overrides.modes and overrides.everything:
        return True
    return overrides.subclasses and any(overrides_calls(type(a)) for a in relevant_args)


def has_torch_function_unary(x: Any) -> bool:
    """Tell the same of one argument."""
    return has_torch_function((x,))


def has_torch_function_variadic(*args: Any) -> bool:
    """Tell the same of several arguments."""
    return has_torch_function(args)


def handle_torch_function(
    public_api: Callable, relevant_args: Iterable[Any], *args: Any, **kwargs: Any
) -> Any:
    """Let a mode, or the first of `relevant_args` that does not return NotImplemented, answer a call.

    Raises TypeError when none does.
    """
    return answer(public_api, overloaded(relevant_args) if overrides.subclasses else [], args, kwargs)


def wrap_torch_function(dispatcher: Callable) -> Callable:
    """Decorate a function of the user's so that it can be overridden; `dispatcher` returns the relevant arguments."""

    def decorate(func: Callable) -> Callable:
        @functools.wraps(func)
        def call(*args: Any, **kwargs: Any) -> Any:
            relevant = dispatcher(*args, **kwargs)
            if has_torch_function(relevant):
                return handle_torch_function(call, relevant, *args, **kwargs)
            return func(*args, **kwargs)

        return call

    return decorate


def is_tensor_like(inp: Any) -> bool:
    """Tell whether `inp` is a tensor, or of a class with __torch_function__."""
    return type(inp) is Tensor or hasattr(inp, "__torch_function__")


@functools.cache
def _names() -> dict[Callable, str]:
    """Every function and method that can be overridden, with its full name."""
    found: dict[Callable, str] = {}
    for name in list(vars(Tensor)):
        member = getattr(Tensor, name, None)
        if isinstance(member, property):
            found[member.__get__] = f"torch.Tensor.{name}.__get__"
            found[member.__set__] = f"torch.Tensor.{name}.__set__"
        elif callable(member) and name not in ("__new__", "__init__"):
            found.setdefault(member, f"torch.Tensor.{name}")
    for module, functions in FUNCTIONS.items():
        for name, f in functions.items():
            if not isinstance(f, type) and name not in _IGNORED:
                found.setdefault(f, f"{'torch.' * (module != 'torch')}{module}.{name}")
    return found


def resolve_name(f: Callable) -> str | None:
    """Return the name of a function under which PyTorch's users know it, or None."""
    return _names().get(f)


def is_tensor_method_or_property(func: Callable) -> bool:
    """Tell whether `func` is a method, or reads a property, of Tensor."""
    return (resolve_name(func) or "").startswith("torch.Tensor.")


def get_overridable_functions() -> dict[Any, list[Callable]]:
    """Return the functions that can be overridden, by the module or class that has them."""
    found: dict[Any, list[Callable]] = {}
    for f, name in _names().items():
        place: Any = fanal
        for part in name.split(".")[1:-1]:
            place = getattr(place, part, None) if part != "__get__" else place
        found.setdefault(Tensor if name.startswith("torch.Tensor.") else place, []).append(f)
    return found


def get_ignored_functions() -> set[Callable]:
    """Return the functions that cannot be overridden."""
    return {getattr(fanal, name) for name in _IGNORED if hasattr(fanal, name)}


class TorchFunctionMode:
    """Answer every public call inside a block by `__torch_function__(func, types, args, kwargs)`.

    Inside it, this mode is off and those around it are on.
    """

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        raise NotImplementedError

    def __enter__(self) -> Any:
        overrides.enter(self)
        return self

    def __exit__(self, *exc: object) -> None:
        overrides.leave()

    @classmethod
    def push(cls, *args: Any, **kwargs: Any) -> Any:
        """Return a new mode; an older way to write it."""
        return cls(*args, **kwargs)


class BaseTorchFunctionMode(TorchFunctionMode):
    """A mode that changes nothing."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class DisableTorchFunctionSubclass(without):
    """Call no __torch_function__ of arguments inside a block."""

    def __init__(self) -> None:
        super().__init__()


class DisableTorchFunction(without):
    """Call no __torch_function__ of arguments, and none of modes, inside a block."""

    def __init__(self) -> None:
        super().__init__(everything=True)


def _get_current_function_mode_stack() -> list[Any]:
    return list(overrides.modes)


def _get_current_function_mode() -> Any:
    return overrides.modes[-1] if overrides.modes else None


__all__ = [
    "BaseTorchFunctionMode",
    "TorchFunctionMode",
    "get_ignored_functions",
    "get_overridable_functions",
    "handle_torch_function",
    "has_torch_function",
    "is_tensor_like",
    "is_tensor_method_or_property",
    "resolve_name",
    "wrap_torch_function",
]

__getattr__ = finder("torch.overrides")
