"""Custom functions under their PyTorch address."""

from __future__ import annotations

from fanal.core.autograd.function import (
    Function,
    FunctionCtx,
    InplaceFunction,
    once_differentiable,
    traceable,
)

__all__ = ["Function", "FunctionCtx", "InplaceFunction", "once_differentiable", "traceable"]
