"""Linear algebra: the functions of torch.linalg that are composed of primitives."""

from __future__ import annotations

from typing import Any

from fanal.core.ops import surface as _surface

globals().update(_surface.FUNCTIONS.get("linalg", {}))


def __getattr__(name: str) -> Any:
    raise AttributeError(
        f"module 'torch.linalg' has no attribute '{name}' in Fanal; gaps.txt lists what is missing"
    )
