"""The CPU as a device, under PyTorch's names."""

from __future__ import annotations

import importlib
from typing import Any

from fanal.core.base.missing import absent


def is_available() -> bool:
    """Return True."""
    return True


def device_count() -> int:
    """Return 1."""
    return 1


def current_device() -> str:
    """Return "cpu"."""
    return "cpu"


def synchronize(device: Any = None) -> None:
    """Run what is pending."""
    from fanal.core.engine.record import flush

    flush("synchronize")


def __getattr__(name: str) -> Any:
    if name == "amp":
        return importlib.import_module(f"{__name__}.amp")
    raise absent("torch.cpu", name)
