"""Linear algebra: the functions of torch.linalg that are composed of primitives."""

from __future__ import annotations

from fanal.core.base.missing import finder
from fanal.core.ops import surface as _surface

globals().update(_surface.FUNCTIONS.get("linalg", {}))
__getattr__ = finder("torch.linalg")
