"""Switches of PyTorch's dispatcher that its own test helpers turn; there is no dispatcher here to turn off."""

from __future__ import annotations

from contextlib import nullcontext

no_dispatch = nullcontext
