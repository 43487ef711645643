"""The switches of a thread that change what an operation means: gradient recording, inference, autocast."""
from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from fanal.core.base.dtype import dtype, get_default, set_default


class State(threading.local):
    """Modes of the current thread. `mode` is what the engine compares before it follows a segment.

    It has the default dtype of the process, too.
    """

    def __init__(self) -> None:
        self.grad: bool = True
        self.inference: bool = False
        # To what operators that lose little are cast, None: nothing is cast. A weight that several cast is cast once.
        self.autocast: dtype | None = None
        self.cast_once: bool = True

    anomaly: bool = False
    check_nan: bool = True
    where: tuple | None = None
    levels: tuple[int, ...] = ()  # of forward mode, the innermost last
    aside: tuple[int, ...] | None = None  # the levels while forward mode is switched off
    forward: Callable[[Any], None] | None = None  # called with every new value that has a gradient rule

    @property
    def mode(self) -> tuple:
        own = self.__dict__  # to ask which thread this is takes longer than the rest
        return own["grad"], own["inference"], own["autocast"], own["cast_once"], get_default()

    @mode.setter
    def mode(self, mode: tuple) -> None:
        self.grad, self.inference, self.autocast, self.cast_once, default = mode
        set_default(default)


state = State()


class forward_mode:
    """Call another function, or none, with every new value inside a `with` block."""

    __slots__ = ("forward", "old")

    def __init__(self, forward: Callable[[Any], None] | None) -> None:
        self.forward = forward

    def __enter__(self) -> None:
        self.old = state.forward
        state.forward = self.forward

    def __exit__(self, *exc: object) -> None:
        state.forward = self.old


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
