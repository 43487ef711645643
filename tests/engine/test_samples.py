"""Samples that a dataset cuts out of a tensor, each somewhere else: their places are looked at when the step ends."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_follow import on_a_thread
from test_windows import agrees, result

import fanal
from fanal.core.base import knobs
from fanal.core.engine.follow import paths
from fanal.core.engine.ledger import ledger
from fanal.core.engine.matcher import matcher

ROWS, WIDTH, CLASSES, BATCH = 52, 8, 5, 8
_r = np.random.default_rng(0)
DATA, OTHER = (_r.standard_normal((ROWS, WIDTH)).astype(np.float32) for _ in range(2))
LABELS = _r.integers(0, CLASSES, ROWS)
WEIGHTS = _r.standard_normal((WIDTH, CLASSES)).astype(np.float32)


@pytest.fixture(autouse=True)
def _sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knobs, "sizes", True)


class Data:
    """What samples are cut out of, of either library, and what happens to it between steps."""

    def __init__(self, library: Any) -> None:
        self.m = library
        self.x, self.z, self.y = library.tensor(DATA), library.tensor(OTHER), library.tensor(LABELS)
        self.step = 0
        self.kept: list[Any] = []

    def sample(self, i: int) -> tuple[Any, Any]:
        return (self.x[i] - 0.5) / 2, self.y[i]

    def between(self) -> None:
        pass


class LabelsElsewhere(Data):
    def sample(self, i: int) -> tuple[Any, Any]:
        return self.x[i] * 2, self.y[i * 7 % ROWS]


class LabelsElsewhereAtTimes(Data):
    def sample(self, i: int) -> tuple[Any, Any]:
        return self.x[i] * 2, self.y[i if self.step % 9 else i - 1] * 1


class OneOfTwo(Data):
    def sample(self, i: int) -> tuple[Any, Any]:
        return (self.x if i % 2 else self.z)[i] * 2, self.y[i]


class OtherAtTimes(Data):
    def sample(self, i: int) -> tuple[Any, Any]:
        return (self.x if self.step % 9 else self.z)[i] * 2, self.y[i]


class Replaced(Data):
    def between(self) -> None:
        if self.step % 9 == 0:
            self.x = self.x.clone() + 1


class Written(Data):
    def between(self) -> None:
        if self.step % 9 == 0:
            self.x[3] = 7.0
        if self.step % 11 == 0:
            self.x.mul_(0.5)


class WrittenEveryStep(Data):
    def between(self) -> None:
        self.x += 0.01


class LookedAt(Data):
    def sample(self, i: int) -> tuple[Any, Any]:
        x = self.x[i]
        made = x * 2
        if self.step % 9 == 0:
            self.kept += [x.storage_offset(), x.stride(), float(x.sum()), made.tolist()]
        return made, self.y[i]


class Crops(Data):
    def sample(self, i: int) -> tuple[Any, Any]:
        crop = self.x[i, i % 4:i % 4 + 4]
        return self.m.cat([crop * 2, crop]), self.y[i]


class CutAgain(Data):
    def sample(self, i: int) -> tuple[Any, Any]:
        return self.m.cat([self.x[i][i % 3:i % 3 + 4] * 2, self.x.view(-1)[i:i + 4]]), self.y[i]


class Overlapping(Data):
    """Nothing is computed: the loader stacks what it finds, sequences that overlap, or columns at times."""

    def sample(self, i: int) -> tuple[Any, Any]:
        return self.x.view(-1)[i:i + 8] if self.step % 9 else self.x[:8, i % 8], self.y[i]


class TwoAtOnce(Data):
    def sample(self, i: int) -> tuple[Any, Any]:
        return self.x[i] - self.z[i], self.y[i]


class OneTwice(Data):
    def sample(self, i: int) -> tuple[Any, Any]:
        x = self.x[i]
        return x * x + self.x[i] * self.x[-1 - i], self.y[i]


class Kept(Data):
    def sample(self, i: int) -> tuple[Any, Any]:
        x, made = self.x[i], self.x[i] * 2
        if self.step % 5 == 0:
            self.kept += [x, made]
        return made, self.y[i]


class TurnedAtTimes(Data):
    """Rows and columns of a square, which are in other strides, and rows that come by another way."""

    def sample(self, i: int) -> tuple[Any, Any]:
        square = self.x[:8]
        if self.step % 9 == 0:
            return square.t()[i % 8] * 2, self.y[i]
        if self.step % 9 == 1:
            return square.t()[:, i % 8] * 2, self.y[i]
        return square[i % 8] * 2, self.y[i]


class WithoutGradients(Data):
    def sample(self, i: int) -> tuple[Any, Any]:
        with self.m.set_grad_enabled(self.step % 9 != 0):
            return self.x[i] * 2, self.y[i]


class OfAnotherDtypeAtTimes(Data):
    def sample(self, i: int) -> tuple[Any, Any]:
        x = self.x if self.step % 9 else self.x.double()
        return (x[i] * 2).float(), self.y[i]


class OverTheEnd(Data):
    """An index error in the middle of a batch, and on with another."""

    def sample(self, i: int) -> tuple[Any, Any]:
        try:
            x = self.x[i + (ROWS if self.step % 9 == 0 and i % 5 == 0 else 0)]
        except IndexError:
            x = self.x[0]
        return x * 2, self.y[i]


KINDS = (Data, LabelsElsewhere, LabelsElsewhereAtTimes, OneOfTwo, OtherAtTimes, Replaced, Written, WrittenEveryStep,
         LookedAt, Crops, CutAgain, Overlapping, TwoAtOnce, OneTwice, Kept, TurnedAtTimes, WithoutGradients,
         OfAnotherDtypeAtTimes, OverTheEnd)


def train(library: Any, kind: type[Data], epochs: int = 5, note: Callable[[], None] = lambda: None) -> list[Any]:
    """Train a linear classifier; return all losses and weights, and what was kept."""
    data = kind(library)

    class Samples(library.utils.data.Dataset):  # type: ignore[name-defined, misc]
        def __len__(self) -> int:
            return ROWS

        def __getitem__(self, i: int) -> tuple[Any, Any]:
            return data.sample(i)
    library.manual_seed(3)
    w = library.tensor(WEIGHTS, requires_grad=True)
    found: list[Any] = []
    for _ in range(epochs):
        for x, y in library.utils.data.DataLoader(Samples(), BATCH, shuffle=True):  # the last batch is shorter
            loss = library.nn.functional.cross_entropy(x @ w, y)
            loss.backward()
            with library.no_grad():
                w -= 0.1 * w.grad
            w.grad = None
            found.append(result(loss))
            data.step += 1
            data.between()
            note()
    return [*found, result(w), [result(i) for i in data.kept], result(data.x)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_agrees_with_torch(kind: type[Data]) -> None:
    assert agrees(train(torch, kind), on_a_thread(lambda: train(fanal, kind)))


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_followed_and_recorded_give_the_same_bits(kind: type[Data], monkeypatch: pytest.MonkeyPatch) -> None:
    followed = on_a_thread(lambda: train(fanal, kind))
    monkeypatch.setattr(knobs, "follow", False)
    assert followed == on_a_thread(lambda: train(fanal, kind))


@pytest.mark.parametrize("kind", [Data, LabelsElsewhere, Crops, TwoAtOnce, OneTwice],
                         ids=lambda k: k.__name__)
def test_whole_batches_are_followed(kind: type[Data]) -> None:
    """The last one, which is shorter, comes once in an epoch: new twice or three times, then its places have names."""
    recorded: list[int] = []
    on_a_thread(lambda: train(fanal, kind, 8, lambda: recorded.append(ledger.recorded)))
    assert recorded[-1] == recorded[5 * 7], np.diff(recorded).tolist()


@pytest.mark.skipif(matcher.name != "native", reason="tables are the native matcher's")
def test_the_matcher_takes_the_samples() -> None:
    """Every sample of a batch is taken over without a look at where it was cut out."""
    rebound: list[int] = []

    def note() -> None:
        rebound.append(max((len(p.steady.rebound) for p in paths().all if p.steady is not None), default=0))
    on_a_thread(lambda: train(fanal, Data, 8, note))
    assert max(rebound) >= BATCH, rebound
