"""Linear algebra, as torch.linalg: factorisations, systems, spectra, norms."""

from __future__ import annotations

from fanal.core.base.errors import LinAlgError as LinAlgError
from fanal.core.base.missing import finder
from fanal.core.engine.matcher import matcher as _matcher
from fanal.core.ops import surface as _surface

globals().update(_surface.FUNCTIONS["linalg"])
__getattr__ = finder("torch.linalg")
_matcher.quicken(__name__)
