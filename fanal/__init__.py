"""Fanal: PyTorch's API, without PyTorch; fast by itself, and see-through.

This file is the door: PyTorch's top-level names. Operators come from one table; submodules are imported on first use.
"""
from __future__ import annotations

import importlib
from typing import Any

from fanal.core.base import dtype as _dt
from fanal.core.base.device import device as device
from fanal.core.base.dtype import dtype as dtype
from fanal.core.base.dtype import promote_types as promote_types
from fanal.core.base.shape import Size as Size
from fanal.core.ops import surface as _surface
from fanal.core.tensor.tensor import Tensor as Tensor

__version__ = "0.1.0"

_SUBMODULES = ("nn", "optim", "utils", "autograd", "linalg", "fft", "special", "serialization", "random", "cuda", "backends",
               "version", "testing", "func", "amp", "jit", "onnx", "distributions", "lens", "cli", "compat", "overrides",
               "types", "compiler", "mps", "multiprocessing", "hub", "functional", "return_types")
for _d in _dt.ALL:
    globals()[_d.name] = _d
for _name, _d in _dt.ALIASES.items():
    globals()[_name] = _d
globals().update(_surface.FUNCTIONS["torch"])
globals().update(_surface.CONSTANTS)

# Names that live in a submodule, resolved on first use.
_ELSEWHERE = {"save": "serialization", "load": "serialization"}


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        try:
            return importlib.import_module(f"fanal.{name}")
        except ModuleNotFoundError as e:
            if e.name != f"fanal.{name}":
                raise
    if name in _ELSEWHERE:
        value = getattr(importlib.import_module(f"fanal.{_ELSEWHERE[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'torch' has no attribute '{name}' in Fanal {__version__}; gaps.txt lists what is missing")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBMODULES, *_ELSEWHERE})
