"""Special functions, as torch.special."""

from __future__ import annotations

from fanal.core.base.missing import finder
from fanal.core.engine.matcher import matcher as _matcher
from fanal.core.ops import surface as _surface

globals().update(_surface.FUNCTIONS.get("special", {}))
__getattr__ = finder("torch.special")
_matcher.quicken(__name__)
