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


class Stream:
    """The one order in which the CPU computes: nothing waits for it."""

    def __init__(self, priority: int = -1) -> None:
        pass

    def wait_stream(self, stream: Any) -> None:
        """Do nothing."""

    def wait_event(self, event: Any) -> None:
        """Do nothing."""

    def record_event(self) -> None:
        """Do nothing."""


class Event:
    """A place in that order, which has always been reached."""

    def query(self) -> bool:
        """Return True."""
        return True

    def record(self, stream: Any = None) -> None:
        """Do nothing."""

    def synchronize(self) -> None:
        """Do nothing."""

    def wait(self, stream: Any = None) -> None:
        """Do nothing."""


class StreamContext:
    """A block in which `stream` is current. Without one, nothing changes."""

    def __init__(self, stream: Stream | None) -> None:
        self.stream = stream

    def __enter__(self) -> None:
        global _current
        self._outer = _current
        _current = self.stream or _current

    def __exit__(self, *exc: object) -> None:
        global _current
        _current = self._outer


stream = StreamContext
_current = Stream()


def current_stream(device: Any = None) -> Stream:
    """Return the stream that is current."""
    return _current


def is_initialized() -> bool:
    """Return True."""
    return True


def set_device(device: Any) -> None:
    """Do nothing: there is one CPU."""


def __getattr__(name: str) -> Any:
    if name == "amp":
        return importlib.import_module(f"{__name__}.amp")
    raise absent("torch.cpu", name)
