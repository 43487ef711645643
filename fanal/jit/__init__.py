"""TorchScript's names. Fanal compiles what runs, so a scripted function is the Python function itself."""

from __future__ import annotations

import functools
import typing
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from fanal.core.base.missing import absent
from fanal.nn import Module

T = TypeVar("T")
Final = typing.Final
Future = typing.Any
_said = False


def _say() -> None:
    global _said
    if not _said:
        _said = True
        warnings.warn(
            "torch.jit: Fanal runs the Python code itself and compiles what it does; nothing is scripted "
            "or traced",
            UserWarning,
            stacklevel=3,
        )


class TracerWarning(Warning):
    """What tracing warns of; nothing is traced."""


class Error(Exception):
    """What a script raises; nothing is scripted."""


class ScriptFunction:
    """The type of scripted functions; there is none, script returns the function itself."""


class ScriptModule(Module):
    """A module; nothing is scripted."""


def script(
    obj: T, optimize: Any = None, _frames_up: int = 0, _rcb: Any = None, example_inputs: Any = None
) -> T:
    """Return a function, class or module as it is, and say so once."""
    _say()
    return obj


def trace(func: T, example_inputs: Any = None, *args: Any, **kwargs: Any) -> T:
    """Return a function or module as it is, and say so once."""
    _say()
    return func


trace_module = script


def script_if_tracing(fn: T) -> T:
    """Return a function as it is."""
    return fn


def ignore(drop: Any = False, **kwargs: Any) -> Any:
    """Return a function as it is; also with parentheses."""
    return drop if callable(drop) else lambda fn: fn


def unused(fn: T) -> T:
    """Return a function as it is."""
    return fn


script_method = export = _overload = _overload_method = interface = unused


def is_scripting() -> bool:
    """Return False."""
    return False


def is_tracing() -> bool:
    """Return False."""
    return False


def annotate(the_type: Any, the_value: T) -> T:
    """Return the value."""
    return the_value


def isinstance(obj: Any, target_type: Any) -> bool:
    """Tell whether `obj` is of a type."""
    import builtins

    return builtins.isinstance(obj, typing.get_origin(target_type) or target_type)


def freeze(mod: T, *args: Any, **kwargs: Any) -> T:
    """Return a module as it is."""
    return mod


optimize_for_inference = freeze


def fork(func: Callable, *args: Any, **kwargs: Any) -> Any:
    """Call a function at once; `wait` gives its result."""
    return functools.partial(lambda x: x, func(*args, **kwargs))


def wait(future: Any) -> Any:
    """Return the result of a fork."""
    return future()


def save(m: Any, f: Any, _extra_files: Any = None) -> None:
    """Raise RuntimeError: there is no TorchScript archive to write."""
    raise RuntimeError("torch.jit.save is not supported: save the state_dict with torch.save")


def load(f: Any, map_location: Any = None, _extra_files: Any = None) -> Any:
    """Raise RuntimeError: TorchScript archives hold a program of their own."""
    raise RuntimeError(
        "torch.jit.load is not supported: a TorchScript archive is a program; load its state_dict instead"
    )


def onednn_fusion_enabled() -> bool:
    """Return False."""
    return False


def enable_onednn_fusion(enabled: bool) -> None:
    """Do nothing."""


def set_fusion_strategy(strategy: Any) -> list:
    """Do nothing."""
    return []


def __getattr__(name: str) -> Any:
    raise absent("torch.jit", name)
