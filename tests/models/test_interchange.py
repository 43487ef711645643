"""A run saved in the middle by one library goes on in the other: the same losses from model, optimizer, schedule, RNG."""
from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fanal

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))
import models

STEPS = 4


def _digits(lib: Any) -> Any:
    """The network of examples/digits.py: convolutions, batch norms (with their buffers), a classifier."""
    nn = lib.nn
    lib.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 10),
    )  # fmt: skip


def _images(size: int) -> Callable[[Any], tuple]:
    return lambda lib: (lib.randn(4, 1, size, size), lib.randint(0, 10, (4,)))


GPT = {"layers": 1, "width": 16, "heads": 2, "context": 8, "batch": 2, "vocabulary": 17}
LSTM = {"hidden": 16, "length": 6, "batch": 2, "vocabulary": 11}
# model, batch, optimizer, schedule
RUNS: dict[str, tuple[Callable, Callable, Callable, Callable]] = {
    "mlp": (
        lambda lib: models.mlp(lib, (16, 24, 10), 8).model,
        lambda lib: (lib.randn(8, 16), lib.randint(0, 10, (8,))),
        lambda lib, p: lib.optim.Adam(p, lr=1e-2, amsgrad=True),
        lambda lib, opt: lib.optim.lr_scheduler.OneCycleLR(opt, 0.02, total_steps=20),
    ),
    "cnn": (
        lambda lib: models.cnn(lib, 2).model,
        _images(28),
        lambda lib, p: lib.optim.SGD(p, lr=1e-3, momentum=0.9, nesterov=True, weight_decay=1e-3),
        lambda lib, opt: lib.optim.lr_scheduler.MultiStepLR(opt, [2, 5], gamma=0.5),
    ),
    "gpt": (
        lambda lib: models.gpt(lib, **GPT).model,
        lambda lib: (lib.randint(0, 17, (2, 9)),),
        lambda lib, p: lib.optim.AdamW([{"params": p[:3], "lr": 1e-3}, {"params": p[3:]}], lr=3e-3),
        lambda lib, opt: lib.optim.lr_scheduler.CosineAnnealingLR(opt, 20),
    ),
    "lstm": (
        lambda lib: models.lstm(lib, **LSTM).model,
        lambda lib: (lib.randint(0, 11, (2, 7)),),
        lambda lib, p: lib.optim.RMSprop(p, lr=1e-3, momentum=0.5, centered=True),
        lambda lib, opt: lib.optim.lr_scheduler.ExponentialLR(opt, 0.9),
    ),
    "digits": (
        _digits,
        _images(8),
        lambda lib, p: lib.optim.NAdam(p, lr=1e-3),
        lambda lib, opt: lib.optim.lr_scheduler.SequentialLR(
            opt,
            [lib.optim.lr_scheduler.LinearLR(opt, 0.1, total_iters=3), lib.optim.lr_scheduler.StepLR(opt, 2)],
            milestones=[3],
        ),
    ),
}


class Run:
    """A model in training, whose batches come from the library's random generator."""

    def __init__(self, lib: Any, name: str) -> None:
        make, self.batch, optimizer, schedule = RUNS[name]
        self.lib, self.tokens = lib, name in ("gpt", "lstm")
        self.model = make(lib)
        self.opt = optimizer(lib, list(self.model.parameters()))
        self.schedule = schedule(lib, self.opt)
        lib.manual_seed(5)

    def losses(self) -> list[float]:
        F, found = self.lib.nn.functional, []
        for _ in range(STEPS):
            batch = self.batch(self.lib)
            self.opt.zero_grad()
            if self.tokens:
                loss = models.next_token(F, self.model)(*batch)
            else:
                loss = F.cross_entropy(self.model(batch[0]), batch[1])
            loss.backward()
            self.opt.step()
            self.schedule.step()
            found.append(float(loss.detach()))
        return found

    def save(self) -> bytes:
        file = io.BytesIO()
        parts = {"model": self.model, "optimizer": self.opt, "schedule": self.schedule}
        state = {k: v.state_dict() for k, v in parts.items()}
        self.lib.save({**state, "rng": self.lib.get_rng_state()}, file)
        return file.getvalue()

    def load(self, data: bytes) -> None:
        state = self.lib.load(io.BytesIO(data), weights_only=True)
        self.model.load_state_dict(state["model"])
        self.opt.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.lib.set_rng_state(state["rng"])


@pytest.mark.parametrize("name", list(RUNS))
@pytest.mark.parametrize(("first", "second"), [(torch, fanal), (fanal, torch)], ids=["from_torch", "to_torch"])
def test_a_saved_run_goes_on(name: str, first: Any, second: Any) -> None:
    run = Run(first, name)
    run.losses()
    saved = run.save()
    other = Run(second, name)
    with second.no_grad():
        for p in other.model.parameters():
            p.fill_(0.1)  # nothing of its own is left
    other.losses()
    other.load(saved)
    np.testing.assert_allclose(other.losses(), run.losses(), rtol=1e-4)
    ours, theirs = other.opt.state_dict(), run.opt.state_dict()
    assert ours["param_groups"][0].keys() == theirs["param_groups"][0].keys()
    for number, state in theirs["state"].items():
        for key, value in state.items():
            np.testing.assert_allclose(np.asarray(ours["state"][number][key]), np.asarray(value), rtol=1e-3, atol=1e-7)
