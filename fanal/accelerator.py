"""The accelerator of this machine: there is none. What asks for one is answered; what needs one raises.

Scripts for any device choose by it: `current_accelerator() if is_available() else "cpu"`.
"""

from __future__ import annotations

from typing import Any

from fanal.core.base.device import device
from fanal.core.base.missing import finder

_NEED_ONE = """
    current_device_idx current_device_index current_stream empty_cache empty_host_cache get_device_capability
    get_memory_info max_memory_allocated max_memory_reserved memory_allocated memory_reserved memory_stats
    reset_accumulated_memory_stats reset_peak_memory_stats set_device_idx set_device_index set_stream synchronize
""".split()


def is_available() -> bool:
    """Return False."""
    return False


def device_count() -> int:
    """Return 0."""
    return 0


def current_accelerator(check_available: bool = False) -> device | None:
    """Return None."""
    return None


class device_index:
    """A `with` block on the device of an index: None leaves all as it is, an index raises RuntimeError."""

    def __init__(self, device: int | None, /) -> None:
        self.idx = device

    def __enter__(self) -> None:
        if self.idx is not None:
            _refuse()

    def __exit__(self, *exc: Any) -> None:
        pass


def _refuse(*args: Any, **kwargs: Any) -> None:
    """Raise RuntimeError: no accelerator is available."""
    raise RuntimeError("Cannot access accelerator device when none is available.")


globals().update(dict.fromkeys(_NEED_ONE, _refuse))
__getattr__ = finder("torch.accelerator")
