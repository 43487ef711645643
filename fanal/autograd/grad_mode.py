"""Gradient modes under their PyTorch address."""

from __future__ import annotations

from fanal.core.autograd.modes import enable_grad, inference_mode, no_grad, set_grad_enabled

__all__ = ["enable_grad", "inference_mode", "no_grad", "set_grad_enabled"]
