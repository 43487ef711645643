"""What happened: counts of events, flushes, plans and kernels, and the costs of each kernel by source line."""
from __future__ import annotations


class Ledger:
    """Counters of this process. `snapshot` copies them; tests compare two snapshots."""

    __slots__ = ("recorded", "followed", "diverged", "flushes", "plans", "kernels", "refused")

    def __init__(self) -> None:
        self.recorded = self.followed = self.diverged = 0
        self.flushes = self.plans = self.kernels = 0
        self.refused: dict[str, int] = {}  # why segments could not be kept for following

    def snapshot(self) -> dict[str, int]:
        """Return the counters."""
        return {k: getattr(self, k) for k in self.__slots__ if k != "refused"}


ledger = Ledger()
