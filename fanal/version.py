"""The PyTorch version whose interface this is, and Fanal's own version behind the plus sign."""
from __future__ import annotations

__version__ = "2.13.0+fanal0.1.0"
debug = False
cuda: str | None = None
hip: str | None = None
xpu: str | None = None
rocm: str | None = None
git_version = "fanal"
