"""A last batch of a single row runs the kernels of the others, to the bits of a program of its own."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from test_follow import on_a_thread

import fanal as torch
from fanal import nn
from fanal.core.base import knobs
from fanal.core.engine import cache, sizes
from fanal.nn import functional as F

ROWS = 20


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.layer(x)[0][:, -1])


def convolutions() -> nn.Module:
    return nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
                         nn.MaxPool2d(2), nn.Conv2d(16, 8, 3), nn.GroupNorm(2, 8), nn.GELU(), nn.Flatten(),
                         nn.Dropout(0.1), nn.Linear(32, 10))


def attention() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten(), nn.Linear(64, 10))


def layers() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Softmax(-1), nn.LayerNorm(6), nn.Linear(6, 10))


def trained(make: Callable[[], nn.Module], sliced: bool = False) -> list[np.ndarray]:
    """Two rounds of batches, of which the last has one row; `sliced`: cut out in every step."""
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    x, y = torch.randn(4 * ROWS + 1, 8, 8), torch.randint(0, 10, (4 * ROWS + 1,))
    batches = [(a.clone(), b.clone()) for a, b in zip(x.split(ROWS), y.split(ROWS))]
    ends = [(k, min(k + ROWS, len(x))) for k in range(0, len(x), ROWS)]
    losses = []
    for _ in range(2):
        for (a, b), (begin, end) in zip(batches, ends):
            if sliced:
                a, b = x[begin:end], y[begin:end]
            optimizer.zero_grad()
            loss = F.cross_entropy(model(a), b)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return [np.array(losses), *(p.detach().numpy().copy() for p in (*model.parameters(), *model.buffers()))]


@pytest.mark.parametrize(("make", "sliced"), [
    (convolutions, False), (Recurrent, False), (attention, False), (layers, False), (layers, True)])
def test_a_single_row_has_the_bits_of_its_own_program(make: Callable, sliced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    of = sizes.in_the_form_of

    def noted(*args: object) -> object:
        taken.append(of(*args))
        return taken[-1]
    monkeypatch.setattr("fanal.core.engine.follow.in_the_form_of", noted)
    monkeypatch.setattr("fanal.core.backends.cpu.backend.jit.known", lambda name: bool(taken))
    cache._plans.clear()
    in_a_form = on_a_thread(lambda: trained(make, sliced))
    assert taken and taken[0] is not None
    monkeypatch.setattr(knobs, "sizes", False)
    cache._plans.clear()
    for a, b in zip(in_a_form, on_a_thread(lambda: trained(make, sliced))):
        assert np.array_equal(a, b)


def test_batch_norm_of_a_single_value_raises() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    for _ in range(4):
        model(torch.randn(8, 4)).sum().backward()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        model(torch.randn(1, 4))


@pytest.mark.parametrize("shapes", [[(6,), (1,)], [(4, 6), (1,)], [(4, 6), (4, 1)], [(4, 6), (1, 6)]], ids=str)
@pytest.mark.parametrize("f", [lambda x: x + torch.ones(4, 6), lambda x: x.expand(4, 6) + torch.ones(4, 6)], ids=["spread", "expand"])
def test_a_single_element_that_is_spread_along_a_fixed_size_is_no_row(f: Callable, shapes: list) -> None:
    """It was read as if there were as many as before: from beyond its memory."""
    def body() -> list[float]:
        return [f(torch.tensor(np.full(s, -11, np.float32))).sum().item() for s in shapes]
    assert on_a_thread(body) == [-240.0] * len(shapes)
