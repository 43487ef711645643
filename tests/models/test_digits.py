"""The digits example, step by step: from the third step on it is one known program, whatever its loop does."""
from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fanal
import fanal.nn
import fanal.optim
import fanal.utils.data
from fanal.core.engine.ledger import ledger

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "digits.py"
COUNTS = ("recorded", "plans", "kernels", "diverged")


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    """Return examples/digits.py with `torch` meaning Fanal, as `fanal run` loads it."""
    names = {"torch": fanal, "torch.nn": fanal.nn, "torch.optim": fanal.optim,
             "torch.optim.lr_scheduler": fanal.optim.lr_scheduler, "torch.utils.data": fanal.utils.data}
    kept = {k: v for k, v in sys.modules.items() if k == "torch" or k.startswith("torch.")}
    for k in kept:
        del sys.modules[k]
    sys.modules.update(names)  # type: ignore[arg-type]
    try:
        spec = importlib.util.spec_from_file_location("digits_example", EXAMPLE)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        for k in names:
            del sys.modules[k]
        sys.modules.update(kept)
    assert module.torch is fanal
    return module


class Counted:
    """A loader that notes what the engine did in each step of the loop that goes through it."""

    def __init__(self, loader: Any, per_epoch: int) -> None:
        self.loader, self.steps, self.per_epoch = loader, [], per_epoch  # type: ignore[var-annotated]

    def __len__(self) -> int:
        return self.per_epoch

    def __iter__(self) -> Any:
        for size, batch in self.loader:
            before = ledger.snapshot()
            yield batch
            after = ledger.snapshot()
            self.steps.append((size, {k: after[k] - before[k] for k in (*COUNTS, "flushes", "followed")}))


def _batches(digits: ModuleType, sizes: list[int]) -> list[tuple[int, Any]]:
    data = np.load(digits.DATA)
    dataset = digits.Digits(data["images"][:sum(sizes)], data["labels"][:sum(sizes)], augment=True)
    found, at = [], 0
    for size in sizes:
        part = fanal.utils.data.Subset(dataset, range(at, at + size))
        found.append((size, next(iter(fanal.utils.data.DataLoader(part, batch_size=size)))))
        at += size
    return found


def _train(digits: ModuleType, tmp_path: Path, sizes: list[int], epochs: int) -> list[tuple[int, dict[str, int]]]:
    """Run the example's own training loop on batches of these sizes; return what each step did."""
    random.seed(0)
    fanal.manual_seed(0)
    loader = Counted(_batches(digits, sizes), len(sizes))
    criterion = fanal.nn.CrossEntropyLoss(label_smoothing=0.1)
    digits.train(digits.Net(), loader, [], criterion, epochs, 3e-3, tmp_path / "digits.pt")
    return loader.steps


def test_steady_from_the_third_step(digits: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cosine schedule gives every step another learning rate, and nothing is recorded or compiled for it."""
    monkeypatch.setattr(digits, "evaluate", lambda model, loader, criterion: (float("inf"), 0.0))
    steps = _train(digits, tmp_path, [32] * 8, 1)
    for k, (_, did) in enumerate(steps[2:], 3):
        assert {c: did[c] for c in COUNTS} == dict.fromkeys(COUNTS, 0), f"step {k}"
        assert did["flushes"] == 1, f"step {k}"
        assert did["followed"] > 0, f"step {k}"


def test_a_last_partial_batch(digits: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first partial batch is recorded and planned, from the same kernels; everything else is known."""
    monkeypatch.setattr(digits, "evaluate", lambda model, loader, criterion: (float("inf"), 0.0))
    sizes = [32, 32, 32, 32, 21]
    steps = _train(digits, tmp_path, sizes, 4)
    first = next(k for k, (size, _) in enumerate(steps) if size == 21)
    assert steps[first][1]["kernels"] == 0
    for k, (size, did) in enumerate(steps):
        assert did["flushes"] == 1, f"step {k + 1}, batch of {size}"
        if k >= 2 and k != first:
            assert {c: did[c] for c in COUNTS} == dict.fromkeys(COUNTS, 0), f"step {k + 1}, batch of {size}"


def test_the_whole_loop_is_known_in_the_second_epoch(digits: ModuleType, tmp_path: Path) -> None:
    """With evaluation between epochs, as the example has it: after two epochs nothing is new, evaluation included."""
    random.seed(0)
    fanal.manual_seed(0)
    train = Counted(_batches(digits, [32, 32, 32, 21]), 4)
    held = [batch for _, batch in _batches(digits, [64, 40])]
    criterion = fanal.nn.CrossEntropyLoss(label_smoothing=0.1)
    seen: list[dict[str, int]] = []
    evaluate = digits.evaluate

    def watched(*args: Any) -> Any:
        before = ledger.snapshot()
        found = evaluate(*args)
        after = ledger.snapshot()
        seen.append({k: after[k] - before[k] for k in COUNTS})
        return found
    digits.evaluate = watched
    try:
        digits.train(digits.Net(), train, held, criterion, 5, 3e-3, tmp_path / "digits.pt")
    finally:
        digits.evaluate = evaluate
    for size, did in train.steps[3 * 4:]:
        assert did["recorded"] == did["plans"] == did["kernels"] == 0, size
    for did in seen[3:]:
        assert did["recorded"] == did["plans"] == did["kernels"] == 0
