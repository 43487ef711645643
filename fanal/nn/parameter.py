"""Tensors that a module owns: parameters, buffers, and both before their shape is known."""

from __future__ import annotations

from typing import Any

import fanal
from fanal import Tensor
from fanal.core.base.missing import finder
from fanal.core.tensor.override import disabled, overrides_calls


def _rebuild_parameter(
    data: Tensor, requires_grad: bool, attributes: dict[str, Any] | None = None
) -> Parameter:
    parameter = Parameter(data, requires_grad)
    if attributes:
        parameter.__dict__.update(attributes)
    return parameter


def _attributes(tensor: Tensor) -> dict[str, Any]:
    return dict(getattr(tensor, "__dict__", ()))


class _ParameterMeta(type(Tensor)):  # type: ignore[misc]
    """A parameter made of a subclass of Tensor keeps that class, and is a parameter all the same."""

    def __instancecheck__(cls, instance: Any) -> bool:
        if cls is Parameter and isinstance(instance, Tensor) and getattr(instance, "_is_param", False):
            return True
        return super().__instancecheck__(instance)


class Parameter(Tensor, metaclass=_ParameterMeta):
    """Make a tensor that a module registers as trainable when it is assigned as an attribute.

    Shares storage with `data`, and has its class where that is a subclass of Tensor. Raises RuntimeError for integer
    data unless `requires_grad=False`.
    """

    __torch_function__ = disabled

    def __new__(cls, data: Tensor | None = None, requires_grad: bool = True) -> Any:
        data = fanal.empty(0) if data is None else data.detach()
        if not isinstance(data, Tensor) or overrides_calls(type(data)):
            found = data.requires_grad_(requires_grad)
            found._is_param = True
            return found
        return Tensor._make_subclass(cls, data, requires_grad)

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        known = memo.get(id(self))
        if known is None:
            known = memo[id(self)] = type(self)(self.data.clone(), self.requires_grad)
        return known

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()

    def __reduce_ex__(self, protocol: Any) -> tuple:
        return _rebuild_parameter, (self.data, self.requires_grad, _attributes(self))


class Buffer(Tensor):
    """Make a tensor that a module registers as a buffer when it is assigned as an attribute.

    `persistent=False` keeps it out of the module's `state_dict`.
    """

    __torch_function__ = disabled
    persistent: bool = True

    def __new__(cls, data: Tensor | None = None, *, persistent: bool = True) -> Buffer:
        data = fanal.empty(0) if data is None else data
        buffer = Tensor._make_subclass(cls, data.detach(), data.requires_grad)
        buffer.persistent = persistent
        return buffer


_LAZY_SHAPE = (
    "Can't access the shape of an uninitialized parameter or buffer. This error usually happens in "
    "`load_state_dict` when trying to load an uninitialized parameter into an initialized one. Call "
    "`forward` to "
    "initialize the parameters before accessing their attributes."
)


class UninitializedTensorMixin:
    """Hold dtype and device until `materialize` gives the shape."""

    __torch_function__ = disabled
    cls_to_become: type

    def materialize(self, shape: Any, device: Any = None, dtype: Any = None) -> None:
        """Allocate the tensor, uninitialised, and turn this object into the ordinary class."""
        device = self.data.device if device is None else device
        dtype = self.data.dtype if dtype is None else dtype
        self.__class__ = self.cls_to_become
        self.data = fanal.empty(shape, device=device, dtype=dtype)

    @property
    def shape(self) -> Any:
        raise RuntimeError(_LAZY_SHAPE)

    def share_memory_(self) -> Any:
        raise RuntimeError(
            "Can't share memory on an uninitialized parameter or buffer. Call `forward` to "
            "initialize the parameters "
            "before calling `module.share_memory()`."
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


def is_lazy(tensor: Any) -> bool:
    """Return whether `tensor` still waits for its shape."""
    return isinstance(tensor, UninitializedTensorMixin)


class UninitializedParameter(UninitializedTensorMixin, Parameter):
    """Make a parameter whose shape the first forward pass will tell."""

    cls_to_become = Parameter

    def __new__(
        cls, requires_grad: bool = True, device: Any = None, dtype: Any = None
    ) -> UninitializedParameter:
        return Tensor._make_subclass(cls, fanal.empty(0, device=device, dtype=dtype), requires_grad)

    def __deepcopy__(self, memo: dict[int, Any]) -> UninitializedParameter:
        known = memo.get(id(self))
        if known is None:
            known = memo[id(self)] = type(self)(self.requires_grad, self.data.device, self.data.dtype)
        return known

    def __reduce_ex__(self, protocol: Any) -> tuple:
        return UninitializedParameter, (self.requires_grad, self.data.device, self.data.dtype)


class UninitializedBuffer(UninitializedTensorMixin, Tensor):
    """Make a buffer whose shape the first forward pass will tell."""

    persistent: bool = True

    def __new__(
        cls, requires_grad: bool = False, device: Any = None, dtype: Any = None, persistent: bool = True
    ) -> UninitializedBuffer:
        buffer = Tensor._make_subclass(cls, fanal.empty(0, device=device, dtype=dtype), requires_grad)
        buffer.persistent = persistent
        return buffer


class _MaterializedBuffer(Tensor):
    """A buffer that began without a shape: a subclass, as plain tensors may have another object layout."""

    __torch_function__ = disabled


UninitializedBuffer.cls_to_become = _MaterializedBuffer

__all__ = ["Buffer", "Parameter", "UninitializedBuffer", "UninitializedParameter", "is_lazy"]

__getattr__ = finder("torch.nn.parameter")
