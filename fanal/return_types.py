"""The types of results with names, as torch.return_types."""

from __future__ import annotations

from typing import Any

from fanal.core.base.missing import absent
from fanal.core.ops.named import FIELDS, named

__all__ = [name for name in FIELDS if not name.startswith("_")]


def __getattr__(name: str) -> Any:
    if name not in FIELDS:
        raise absent("torch.return_types", name)
    return named(name)


def __dir__() -> list[str]:
    return __all__
