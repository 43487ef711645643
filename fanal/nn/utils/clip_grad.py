"""Limits on gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import fanal
from fanal import Tensor

__all__ = ["clip_grad_norm", "clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"]


def _grads(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    return [p.grad for p in parameters if p.grad is not None]


def get_total_norm(
    tensors: Tensor | Iterable[Tensor],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Return the norm of all tensors as if they were one vector. Shapes: any -> ().

    Nothing is read by the program, unless `error_if_nonfinite`: then a norm of nan or inf raises
    RuntimeError.
    """
    tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    norm_type = float(norm_type)
    if not tensors:
        return fanal.tensor(0.0)
    device = tensors[0].device
    norms = [fanal.norm(t, norm_type) for t in tensors]
    norms = [n if n.device == device else n.to(device) for n in norms]
    total = fanal.norm(fanal.stack(norms), norm_type)
    if error_if_nonfinite and not bool(total.isfinite().item()):
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so "
            "it cannot be "
            "clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
            "`error_if_nonfinite=False`"
        )
    return total


def clip_grads_with_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, total_norm: Tensor, foreach: bool | None = None
) -> None:
    """Scale the gradients in place so that a total norm of `total_norm` becomes at most `max_norm`."""
    # Clamped to 1 rather than decided by a comparison: a decision would make the program wait for the norm.
    scale = (float(max_norm) / (total_norm + 1e-6)).clamp(max=1.0)
    with fanal.no_grad():
        for grad in _grads(parameters):
            grad.mul_(scale if scale.device == grad.device else scale.to(grad.device))


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale the gradients in place so that their total norm is at most `max_norm`; return the norm before."""
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    with fanal.no_grad():
        total = get_total_norm(_grads(parameters), norm_type, error_if_nonfinite)
    clip_grads_with_norm_(parameters, max_norm, total)
    return total


def clip_grad_norm(*args: Any, **kwargs: Any) -> Tensor:
    """Call `clip_grad_norm_` (the older name)."""
    return clip_grad_norm_(*args, **kwargs)


def clip_grad_value_(
    parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None
) -> None:
    """Clamp every element of the gradients to [-clip_value, clip_value] in place."""
    limit = float(clip_value)
    with fanal.no_grad():
        for grad in _grads(parameters):
            grad.clamp_(min=-limit, max=limit)
