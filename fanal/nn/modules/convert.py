"""Moving a module's tensors to another device or dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import fanal
from fanal import Tensor
from fanal.nn.modules.mirror import table_of

T = TypeVar("T", bound="Convertible")


def _parse_to(*args: Any, **kwargs: Any) -> tuple[Any, Any, bool, Any]:
    """Return (device, dtype, non_blocking, memory_format) from the arguments of any form of `to`."""
    device, dtype, rest = kwargs.pop("device", None), kwargs.pop("dtype", None), list(args)
    non_blocking, memory_format = kwargs.pop("non_blocking", False), kwargs.pop("memory_format", None)
    like = kwargs.pop("tensor", None)
    kwargs.pop("copy", None)
    if kwargs:
        raise TypeError(f"to() received an invalid keyword argument '{next(iter(kwargs))}'")
    if rest and isinstance(rest[0], Tensor):
        like = rest.pop(0)
    if like is not None:
        device, dtype = like.device, like.dtype
    elif rest and isinstance(rest[0], fanal.dtype):
        dtype = rest.pop(0)
    elif rest:
        device = rest.pop(0)
        if rest and (rest[0] is None or isinstance(rest[0], fanal.dtype)):
            dtype = rest.pop(0)
    if rest:
        non_blocking = rest.pop(0)
    return None if device is None else fanal.device(device), dtype, bool(non_blocking), memory_format


class Convertible:
    """The part of a module that converts its tensors in place."""

    def _apply(self: T, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> T:
        """Replace the data of every parameter, gradient and buffer by `fn` of it.

        Parameters keep their identity.
        """
        if recurse:
            for module in self.children():  # type: ignore[attr-defined]
                module._apply(fn)
        parameters, buffers = table_of(self, "_parameters"), table_of(self, "_buffers")
        for parameter in parameters.values():
            if parameter is None:
                continue
            with fanal.no_grad():
                applied, grad = fn(parameter), parameter.grad
                if applied is not parameter:
                    parameter.data = applied
                if grad is not None:
                    applied = fn(grad)
                    if applied is not grad:
                        parameter.grad = applied
        for name, buffer in buffers.items():
            if buffer is not None:
                buffers[name] = fn(buffer)
        return self

    def to(self: T, *args: Any, **kwargs: Any) -> T:
        """Move to a device and / or to a floating point or complex dtype, in place.

        Integer tensors keep theirs.
        """
        device, dtype, non_blocking, memory_format = _parse_to(*args, **kwargs)
        if dtype is not None and not (dtype.is_floating_point or dtype.is_complex):
            raise TypeError(
                f"nn.Module.to only accepts floating point or complex dtypes, but got desired dtype={dtype}"
            )

        def convert(t: Tensor) -> Tensor:
            wanted = dtype if t.is_floating_point() or t.is_complex() else None
            if memory_format is not None and t.dim() in (4, 5):
                return t.to(device, wanted, non_blocking, memory_format=memory_format)
            return t.to(device, wanted, non_blocking)

        return self._apply(convert)

    def cpu(self: T) -> T:
        """Move to the CPU."""
        return self._apply(lambda t: t.cpu())

    def cuda(self: T, device: Any = None) -> T:
        """Move to a GPU."""
        return self._apply(lambda t: t.cuda(device))

    def type(self: T, dst_type: Any) -> T:
        """Cast all parameters and buffers."""
        return self._apply(lambda t: t.type(dst_type))

    def _cast_floating(self: T, dtype: Any) -> T:
        return self._apply(lambda t: t.to(dtype) if t.is_floating_point() else t)

    def float(self: T) -> T:
        """Cast floating point parameters and buffers to float32."""
        return self._cast_floating(fanal.float32)

    def double(self: T) -> T:
        """Cast floating point parameters and buffers to float64."""
        return self._cast_floating(fanal.float64)

    def half(self: T) -> T:
        """Cast floating point parameters and buffers to float16."""
        return self._cast_floating(fanal.float16)

    def bfloat16(self: T) -> T:
        """Cast floating point parameters and buffers to bfloat16."""
        return self._cast_floating(fanal.bfloat16)

    def to_empty(self: T, *, device: Any, recurse: bool = True) -> T:
        """Move to a device without the values."""
        return self._apply(lambda t: fanal.empty_like(t, device=device), recurse=recurse)

    def share_memory(self: T) -> T:
        """Put the tensors in memory shared between processes."""
        return self._apply(lambda t: t.share_memory_())

    def requires_grad_(self: T, requires_grad: bool = True) -> T:
        """Freeze or unfreeze all parameters."""
        for parameter in self.parameters():  # type: ignore[attr-defined]
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or set them to zero."""
        for parameter in self.parameters():  # type: ignore[attr-defined]
            if parameter.grad is None:
                continue
            if set_to_none:
                parameter.grad = None
            else:
                parameter.grad = fanal.zeros_like(parameter.grad)


__all__ = ["Convertible"]
