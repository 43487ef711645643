"""What autocast cast: operator, dtypes and line of every cast inside a block."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO

from fanal.core.base.where import line
from fanal.core.engine.record import unfollowed
from fanal.core.ops.autocast import Cast
from fanal.core.ops.autocast import casts as _thread


class casts:
    """Collect every cast that autocast makes inside a block, in order; `print()` shows them.

    Nothing is followed inside the block, so a step that is known shows its casts, too. A weight that is cast once for
    several operators is listed for each, with `kept` for the later ones.
    """

    def __init__(self) -> None:
        self.found: list[Cast] = []

    def __enter__(self) -> casts:
        self._recording = unfollowed()
        self._recording.__enter__()
        self._outer, _thread.log = _thread.log, self.found
        return self

    def __exit__(self, *exc: object) -> None:
        _thread.log = self._outer
        self._recording.__exit__()

    def __iter__(self) -> Any:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    def print(self, file: TextIO | None = None) -> None:
        """Print one line for each cast."""
        for c in self.found:
            at = line(c.where)
            place = f"{os.path.basename(at[0])}:{at[1]}" if at else ""
            kept = "  (cast before)" if c.kept else ""
            print(
                f"{c.operator:<24} {list(c.shape)!s:<18} {c.source.name} -> {c.to.name:<10} {place}{kept}",
                file=file or sys.stdout,
            )
