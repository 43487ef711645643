"""Modules as functions of their parameters and buffers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import fanal


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


def stack_module_state(models: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parameters and the buffers of modules of one kind, by name, stacked along a new first dimension.

    The parameters are leaves. Raises RuntimeError if there are no modules, or they differ in class or mode.
    """
    if not models:
        raise RuntimeError("stack_module_state: Expected at least one model, got 0.")
    if any(m.training is not models[0].training for m in models):
        raise RuntimeError("stack_module_state: Expected all models to have the same training/eval mode.")
    if any(type(m) is not type(models[0]) for m in models):
        raise RuntimeError("stack_module_state: Expected all models to be of the same class.")
    params = [dict(m.named_parameters()) for m in models]
    buffers = [dict(m.named_buffers()) for m in models]
    return {k: _stacked(k, params) for k in params[0]}, {k: _stacked(k, buffers) for k in buffers[0]}


def _stacked(name: str, states: list[dict[str, Any]]) -> Any:
    tensors = [state[name] for state in states]
    needed = tensors[0].requires_grad
    if any(t.requires_grad is not needed for t in tensors):
        raise RuntimeError(f"Expected {name} from each model to have the same .requires_grad")
    return fanal.stack(tensors).detach().requires_grad_(needed)


def functionalize(func: Callable, *, remove: str = "mutations") -> Callable:
    """Return `func`: whatever it writes in place becomes a new value when it is recorded."""
    if remove not in ("mutations", "mutations_and_views"):
        raise RuntimeError(
            f"functionalize(f, remove='mutations'|'mutations_and_views'): received invalid argument: remove={remove}"
        )
    return func


def replace_all_batch_norm_modules_(root: Any) -> Any:
    """Let every batch norm of `root` use the statistics of its batch alone, from now on; return `root`.

    Running statistics are written by every example of a mapped function, which cannot be.
    """
    from fanal.nn.modules.batchnorm import _BatchNorm

    for module in root.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            module.running_mean = module.running_var = module.num_batches_tracked = None
            module.track_running_stats = False
    return root
