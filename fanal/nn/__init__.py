"""Neural networks: layers, losses, and what they are made of. Everything is imported when first used."""

from __future__ import annotations

import importlib
from typing import Any

from fanal.core.base.missing import absent
from fanal.nn import modules as modules

_PARAMETERS = ("Buffer", "Parameter", "UninitializedBuffer", "UninitializedParameter")
_SUBMODULES = ("attention", "common_types", "functional", "init", "parallel", "parameter", "utils")
__all__ = list(modules.__all__) + list(_PARAMETERS) + list(_SUBMODULES) + ["DataParallel"]


def __getattr__(name: str) -> Any:
    if name in _PARAMETERS:
        value = getattr(importlib.import_module("fanal.nn.parameter"), name)
    elif name == "DataParallel":
        value = importlib.import_module("fanal.nn.parallel").DataParallel
    elif name in _SUBMODULES:
        try:
            value = importlib.import_module(f"fanal.nn.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"fanal.nn.{name}":
                raise
            raise absent("torch.nn", name) from None
    elif name in modules.__all__:
        value = getattr(modules, name)
    else:
        raise absent("torch.nn", name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
