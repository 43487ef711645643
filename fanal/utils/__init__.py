"""Utilities beside the tensors: data loading, checkpoints, hooks."""

from __future__ import annotations

import importlib
from types import ModuleType

from fanal.core.base.missing import absent

__all__ = ["benchmark", "checkpoint", "collect_env", "data", "dlpack", "hooks"]


def __getattr__(name: str) -> ModuleType:
    # `torch.utils.data` needs no import of its own, so its parts are found when they are asked for.
    if name in (*__all__, "_mode_utils"):
        return importlib.import_module(f"{__name__}.{name}")
    raise absent("torch.utils", name)
