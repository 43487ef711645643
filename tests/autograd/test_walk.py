"""What a backward looks at grows with the graph, not with its square."""
from __future__ import annotations

from typing import Any

import pytest

import fanal
from fanal.core.autograd import backward
from fanal.core.ir.program import Node


def state_of(state: Any) -> Any:
    return state[0] if isinstance(state, tuple) else state


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_a_recurrent_layer_called_step_by_step(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recurrence takes its gradient apart, and what is left was searched back to the first step, in every step."""
    seen: list[int] = []

    def counted(x: object) -> int:
        if isinstance(x, Node):
            seen[-1] += 1
        return id(x)

    monkeypatch.setattr(backward, "id", counted, raising=False)
    fanal.manual_seed(0)
    layer, head = getattr(fanal.nn, kind)(4, 4), fanal.nn.Linear(4, 4)
    for steps in (8, 8, 24):
        seen.append(0)
        x, state = fanal.randn(1, 2, 4), None
        for _ in range(steps):
            y, state = layer(x, state)
            x = head(y) + state_of(state)
        with fanal.core.engine.record.unfollowed():
            x.sum().backward()
    assert seen[2] < 3.3 * seen[1]
