"""torch.compile and its helpers. Everything is compiled anyway, when it runs; these return what they are
given."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from fanal.core.base.missing import finder


def compile(
    model: Any = None,
    *,
    fullgraph: bool = False,
    dynamic: bool | None = None,
    backend: Any = "inductor",
    mode: str | None = None,
    options: Any = None,
    disable: bool = False,
) -> Any:
    """Return a function or module as it is; without one, a decorator that does."""
    if mode is not None and options is not None:
        raise RuntimeError(
            "Either mode or options can be specified, but both can't be specified at the same time."
        )
    if model is None:
        return lambda model: model
    if not callable(model):
        raise RuntimeError(f"torch.compile expects a function or a module, got {type(model).__name__}")
    return model


def _same(fn: Callable | None = None, *args: Any, **kwargs: Any) -> Any:
    """Return a function as it is; without one, a decorator that does."""
    return (lambda f: f) if fn is None else fn


disable = allow_in_graph = assume_constant_result = substitute_in_graph = nested_compile_region = _same


def is_compiling() -> bool:
    """Return False: Python always runs."""
    return False


is_dynamo_compiling = is_exporting = is_compiling


def reset() -> None:
    """Do nothing: what is known of past steps is never wrong."""


def cudagraph_mark_step_begin() -> None:
    """Do nothing."""


def list_backends(exclude_tags: Any = ()) -> list[str]:
    """Return the names of backends."""
    return ["inductor", "eager"]


class set_stance:
    """Do nothing: there is one way to run."""

    def __init__(self, stance: str = "default", **kwargs: Any) -> None:
        self.stance = stance

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass

    def __call__(self, fn: Callable) -> Callable:
        return functools.wraps(fn)(lambda *args, **kwargs: fn(*args, **kwargs))

__getattr__ = finder("torch.compiler")
