"""Training loops that sample: the losses of PyTorch, and nothing recorded from the third step on."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import fanal
from fanal.core.engine.ledger import ledger

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))
import sampling_loops


@pytest.mark.parametrize(("name", "options"), [("autoencoder", (None,)), ("autoencoder", (False,)), ("reinforce", ())])
def test_sampling_steps_are_followed(name: str, options: tuple) -> None:
    expected, ours = getattr(sampling_loops, name)(torch, *options), getattr(sampling_loops, name)(fanal, *options)
    losses = [[float(step()) for _ in range(3)] for step in (expected, ours)]
    before = ledger.snapshot()
    for losses_of, step in zip(losses, (expected, ours)):
        losses_of += [float(step()) for _ in range(20)]
    after = ledger.snapshot()
    for count in ("recorded", "plans", "kernels", "diverged"):
        assert after[count] == before[count], count
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-4)
