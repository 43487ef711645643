"""What programs ask PyTorch to check, and how it names types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fanal.core.tensor.tensor import Tensor

_NO_MESSAGE = (
    "Expected cond to be True, but got False. (Could this error message be improved? If so, please report an "
    "enhancement request to PyTorch.)"
)


def _assert(condition: Any, message: Any) -> None:
    """Raise AssertionError with a message unless a condition holds."""
    if not condition:
        raise AssertionError(message)


def _raising(error: type[Exception], name: str) -> Callable[..., None]:
    def check(cond: bool, message: Callable[[], Any] | None = None) -> None:
        if isinstance(cond, Tensor):
            raise TypeError("cond must be a bool, but got a Tensor. For tensor conditions, use "
                            "torch._check_tensor_all() to assert that all elements are true.")
        if not isinstance(cond, bool):
            raise TypeError(f"cond must be a bool, but got {type(cond)}")
        if cond:
            return
        if message is not None and not callable(message):
            raise TypeError("message must be a callable")
        raise error(_NO_MESSAGE if message is None else str(message()))

    check.__name__ = name
    check.__doc__ = f"Raise {error.__name__} with the text that `message` returns unless a truth value holds."
    return check


_check = _raising(RuntimeError, "_check")
_check_index = _raising(IndexError, "_check_index")
_check_type = _raising(TypeError, "_check_type")
_check_value = _raising(ValueError, "_check_value")


def typename(obj: Any, /) -> str:
    """Return the type of a tensor (torch.FloatTensor), or the full name of a class, of a function, or of the class of
    another object."""
    if isinstance(obj, Tensor):
        return obj.type()  # type: ignore[attr-defined]
    named = obj if hasattr(obj, "__qualname__") or hasattr(obj, "__name__") else type(obj)
    module = getattr(named, "__module__", "") or ""
    name = getattr(named, "__qualname__", None) or named.__name__
    return name if module in ("", "builtins") else f"{module}.{name}"
