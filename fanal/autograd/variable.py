"""The old name of a tensor that takes part in differentiation."""

from __future__ import annotations

from typing import Any

from fanal.core.tensor.tensor import Tensor


class _VariableMeta(type):
    def __instancecheck__(cls, other: object) -> bool:
        return isinstance(other, Tensor)


class Variable(metaclass=_VariableMeta):
    """Return the tensor it is given; `requires_grad` makes it a leaf. Every tensor is a Variable."""

    def __new__(cls, data: Any = None, requires_grad: bool = False, volatile: Any = None) -> Any:
        import fanal

        t = fanal.empty(0) if data is None else data.detach()
        return t.requires_grad_() if requires_grad else t


__all__ = ["Variable"]
