"""Differentiation: backward, grad, custom functions, gradient modes, numeric checks."""

from __future__ import annotations

import importlib
from typing import Any

from fanal.core.autograd.events import backward as backward
from fanal.core.autograd.events import grad as grad
from fanal.core.autograd.modes import detect_anomaly as detect_anomaly
from fanal.core.autograd.modes import enable_grad as enable_grad
from fanal.core.autograd.modes import inference_mode as inference_mode
from fanal.core.autograd.modes import no_grad as no_grad
from fanal.core.autograd.modes import set_detect_anomaly as set_detect_anomaly
from fanal.core.autograd.modes import set_grad_enabled as set_grad_enabled
from fanal.core.base.missing import absent
from fanal.core.tensor.tensor import Tensor

_MODULES = ("anomaly_mode", "forward_ad", "function", "functional", "grad_mode", "gradcheck", "graph", "profiler",
            "profiler_util", "variable")
_ELSEWHERE = {
    "Function": "function",
    "GradcheckError": "gradcheck",
    "Variable": "variable",
    "gradgradcheck": "gradcheck",
}


def is_tensor_like(x: Any) -> bool:
    """Return whether `x` is a tensor."""
    return isinstance(x, Tensor)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        module = importlib.import_module(f"{__name__}.{name}")
        if name == "gradcheck":  # the function has the name of its module, as in PyTorch
            globals()[name] = module.gradcheck
            return module.gradcheck
        return module
    if name in _ELSEWHERE:
        return getattr(importlib.import_module(f"{__name__}.{_ELSEWHERE[name]}"), name)
    raise absent("torch.autograd", name)


__all__ = [
    "Function",
    "GradcheckError",
    "Variable",
    "backward",
    "detect_anomaly",
    "enable_grad",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "inference_mode",
    "no_grad",
    "set_detect_anomaly",
    "set_grad_enabled",
]
