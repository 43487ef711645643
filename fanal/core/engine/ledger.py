"""What happened: counts of events, flushes, plans, kernels; and executables with their costs by source line."""

from __future__ import annotations

from collections import deque
from typing import Any


class Ledger:
    """Counters of this process. `snapshot` copies them; tests compare two snapshots."""

    COUNTS = ("recorded", "followed", "diverged", "flushes", "plans")

    def __init__(self) -> None:
        self.recorded = 0  # events whose function ran
        self.followed = 0  # events answered from a known segment
        self.diverged = 0  # segments left half-way
        self.flushes = 0
        self.plans = 0  # programs planned
        self.compile_seconds = 0.0
        self.profiling = False  # time some runs kernel by kernel
        self.observer: Any = None  # called with the steps and timings of every run; steps are None without kernels
        self.executables: deque[Any] = deque(maxlen=64)  # the latest; each holds its plan
        self.refused: dict[str, int] = {}  # why segments could not be kept for following

    def snapshot(self) -> dict[str, int]:
        """Return the counters, with the number of kernels compiled or loaded."""
        from fanal.core.backends.cpu import jit

        return {
            **{k: getattr(self, k) for k in self.COUNTS},
            "kernels": len(jit._addresses),
            "compiled": jit.compiled,
        }


ledger = Ledger()
