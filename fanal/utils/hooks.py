"""Handles by which a registered hook is removed again."""

from __future__ import annotations

from fanal.core.base.removable import RemovableHandle

__all__ = ["RemovableHandle"]
