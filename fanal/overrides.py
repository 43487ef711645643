"""__torch_function__: Fanal never dispatches to it, so everything here says that nothing is overridden."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from fanal.core.base.missing import finder


def has_torch_function(relevant_args: Iterable[Any]) -> bool:
    """Return False."""
    return False


def has_torch_function_unary(x: Any) -> bool:
    """Return False."""
    return False


def has_torch_function_variadic(*args: Any) -> bool:
    """Return False."""
    return False


def is_tensor_like(inp: Any) -> bool:
    """Return whether `inp` is a tensor."""
    from fanal.core.tensor.tensor import Tensor

    return isinstance(inp, Tensor)


def is_tensor_method_or_property(func: Callable) -> bool:
    """Return whether `func` is a method of Tensor."""
    from fanal.core.tensor.tensor import Tensor

    return getattr(Tensor, getattr(func, "__name__", ""), None) is func


def handle_torch_function(
    public_api: Callable, relevant_args: Iterable[Any], *args: Any, **kwargs: Any
) -> Any:
    """Call the function itself."""
    return public_api(*args, **kwargs)


def resolve_name(f: Callable) -> str:
    """Return the name of a function with its module."""
    return f"{getattr(f, '__module__', '')}.{getattr(f, '__name__', '')}"


class TorchFunctionMode:
    """Refused: calls are not dispatched."""

    def __enter__(self) -> Any:
        raise RuntimeError(
            "TorchFunctionMode is not supported: Fanal dispatches no calls to __torch_function__"
        )

    def __exit__(self, *exc: object) -> None:
        pass


__all__ = [
    "TorchFunctionMode",
    "handle_torch_function",
    "has_torch_function",
    "is_tensor_like",
    "is_tensor_method_or_property",
    "resolve_name",
]

__getattr__ = finder("torch.overrides")
