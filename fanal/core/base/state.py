"""The switches of a thread that change what an operation means: gradient recording, inference, autocast."""
from __future__ import annotations

import threading


class State(threading.local):
    """Modes of the current thread. `word` is what the engine compares before it follows an event."""

    grad: bool = True
    inference: bool = False
    anomaly: bool = False
    check_nan: bool = True
    where: tuple | None = None

    @property
    def word(self) -> int:
        return self.grad | self.inference << 1 | self.anomaly << 2


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
