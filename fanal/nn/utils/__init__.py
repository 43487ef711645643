"""Tools for modules and their gradients, imported when first used."""

from __future__ import annotations

import importlib
from typing import Any

from fanal.core.base.missing import absent

_HOMES = {
    "clip_grad": (
        "clip_grad_norm",
        "clip_grad_norm_",
        "clip_grad_value_",
        "clip_grads_with_norm_",
        "get_total_norm",
    ),
    "convert_parameters": ("parameters_to_vector", "vector_to_parameters"),
    "fusion": ("fuse_conv_bn_eval", "fuse_conv_bn_weights", "fuse_linear_bn_eval", "fuse_linear_bn_weights"),
    "init": ("skip_init",),
    "memory_format": ("convert_conv2d_weight_memory_format", "convert_conv3d_weight_memory_format"),
    "spectral_norm_hook": ("remove_spectral_norm", "spectral_norm"),
    "weight_norm_hook": ("remove_weight_norm", "weight_norm"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_SUBMODULES = ("parametrizations", "parametrize", "prune", "rnn", "stateless")
__all__ = list(_HOME_OF) + list(_SUBMODULES)


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    elif name in _SUBMODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise absent("torch.nn.utils", name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
