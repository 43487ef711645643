"""Transforms of functions: derivatives, batching, calls of modules with other parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fanal
from fanal.core.base.missing import finder
from fanal.func.derivatives import grad as grad
from fanal.func.derivatives import grad_and_value as grad_and_value
from fanal.func.derivatives import hessian as hessian
from fanal.func.derivatives import jacfwd as jacfwd
from fanal.func.derivatives import jacrev as jacrev
from fanal.func.derivatives import jvp as jvp
from fanal.func.derivatives import linearize as linearize
from fanal.func.derivatives import vjp as vjp


def functional_call(
    module: Any,
    parameter_and_buffer_dicts: Any,
    args: Any = None,
    kwargs: dict | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """Call a module with other tensors in the place of its parameters and buffers."""
    from fanal.nn.utils import stateless

    return stateless.functional_call(
        module, parameter_and_buffer_dicts, args, kwargs, tie_weights=tie_weights, strict=strict
    )


def stack_module_state(models: Any) -> tuple[dict, dict]:
    """Return the stacked parameters and buffers of modules of one kind."""
    if not models:
        raise RuntimeError("stack_module_state: Expected at least one model, got 0.")
    params = {
        k: fanal.stack([dict(m.named_parameters())[k] for m in models]).detach().requires_grad_()
        for k, _ in models[0].named_parameters()
    }
    buffers = {
        k: fanal.stack([dict(m.named_buffers())[k] for m in models]) for k, _ in models[0].named_buffers()
    }
    return params, buffers


def vmap(
    func: Callable, in_dims: Any = 0, out_dims: Any = 0, randomness: str = "error", *, chunk_size: Any = None
) -> Callable:
    """Raise RuntimeError when called: batching is not supported."""

    def call(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("vmap is not supported: write the batch dimension out; broadcasting does the rest")

    return call


__all__ = [
    "functional_call",
    "grad",
    "grad_and_value",
    "hessian",
    "jacfwd",
    "jacrev",
    "jvp",
    "linearize",
    "stack_module_state",
    "vjp",
    "vmap",
]

__getattr__ = finder("torch.func")
