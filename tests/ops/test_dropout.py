"""Dropout: rates, scale, reproducibility, and a backward that draws the same mask."""
from __future__ import annotations

import numpy as np
import pytest
import torch

import fanal
import fanal.nn.functional as FF
from fanal.core.engine.rng import rng
from tests.ops.functional import agree, array


def test_rate_and_scale() -> None:
    y = array(FF.dropout(fanal.ones(400, 500), 0.3))
    assert abs((y == 0).mean() - 0.3) < 5e-3
    assert np.unique(y[y > 0]).tolist() == [float(np.float32(1) / np.float32(0.7))]


def test_backward_uses_the_mask_of_forward() -> None:
    x = fanal.ones(50, 40, requires_grad=True)
    y = FF.dropout(x, 0.5)
    y.sum().backward()
    assert (array(x.grad) == array(y)).all()


def test_every_call_draws_anew_and_a_seed_repeats() -> None:
    x = fanal.ones(1000)
    draws = []
    for _ in range(2):
        rng.reset(7)
        draws += [array(FF.dropout(x)), array(FF.dropout(x))]
    assert (draws[0] == draws[2]).all() and (draws[1] == draws[3]).all() and (draws[0] != draws[1]).any()


def test_off() -> None:
    x = fanal.ones(3)
    assert FF.dropout(x, 0.5, training=False) is x and FF.dropout(x, 0.0) is x
    assert not array(FF.dropout(x, 1.0)).any()


@pytest.mark.parametrize(("name", "space"), [("dropout1d", (6,)), ("dropout2d", (3, 2)), ("dropout3d", (3, 2, 1))])
def test_whole_channels(name: str, space: tuple) -> None:
    y = array(getattr(FF, name)(fanal.ones(8, 50, *space), 0.5)).reshape(400, -1)
    assert (y == y[:, :1]).all() and 0.3 < (y[:, 0] == 0).mean() < 0.7


def test_alpha_dropout_keeps_moments() -> None:
    x = np.random.default_rng(0).standard_normal((300, 300)).astype(np.float32)
    y = array(FF.alpha_dropout(fanal.tensor(x), 0.2, True))
    assert abs(y.mean()) < 0.02 and abs(y.std() - 1) < 0.02


def test_errors() -> None:
    agree("dropout", torch.ones(3), 2.0)
    agree("dropout1d", torch.ones(3), 0.5)
