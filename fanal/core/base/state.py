"""The switches of a thread that change what an operation means: gradient recording, inference, autocast."""
from __future__ import annotations

import threading

from fanal.core.base.dtype import dtype


class State(threading.local):
    """Modes of the current thread. `mode` is what the engine compares before it follows a segment."""

    grad: bool = True
    inference: bool = False
    autocast: dtype | None = None  # to what operators that lose little are cast; None: nothing is cast
    cast_once: bool = True  # a weight that several operators cast is cast once
    anomaly: bool = False
    check_nan: bool = True
    where: tuple | None = None

    @property
    def mode(self) -> tuple:
        return self.grad, self.inference, self.autocast, self.cast_once

    @mode.setter
    def mode(self, mode: tuple) -> None:
        self.grad, self.inference, self.autocast, self.cast_once = mode


state = State()


class grad_mode:
    """Set gradient recording inside a `with` block."""

    __slots__ = ("on", "old")

    def __init__(self, on: bool) -> None:
        self.on = on

    def __enter__(self) -> None:
        self.old = state.grad
        state.grad = self.on

    def __exit__(self, *exc: object) -> None:
        state.grad = self.old
