"""Discrete Fourier transforms, as torch.fft."""

from __future__ import annotations

from fanal.core.base.missing import finder
from fanal.core.engine.matcher import matcher as _matcher
from fanal.core.ops import surface as _surface

globals().update(_surface.FUNCTIONS["fft"])
__getattr__ = finder("torch.fft")
_matcher.quicken(__name__)
