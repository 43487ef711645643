"""Data that a step makes in another way every time is no part of what is known of the step."""
from __future__ import annotations

import random

import numpy as np
import pytest
import torch as peer

import fanal
from fanal.core.engine.ledger import ledger


def letters(torch, made, length):
    """Fill a tensor as beginners do: every letter is a one among zeros."""
    x = torch.zeros(length, 1, 12)
    for i in range(length):
        x[i][0][made.randrange(12)] = 1
    return x


def crops(torch, made, length):
    """Cut pieces of many widths out of an image, and put them into a batch of zeros."""
    image = torch.arange(12.0).reshape(1, 12) / 12
    x = torch.zeros(length, 1, 12)
    for i in range(length):
        begin = made.randrange(4)
        width = made.randrange(3, 8)
        x[i, :, begin:begin + width] = image[:, begin:begin + width]
    return x


class Net:
    """A recurrent net of single steps, trained by hand."""

    def __init__(self, torch):
        torch.manual_seed(0)
        self.torch = torch
        self.cell, self.head = torch.nn.Linear(12 + 8, 8), torch.nn.Linear(8, 3)

    def step(self, x, target):
        hidden = self.torch.zeros(1, 8)
        self.cell.zero_grad()
        self.head.zero_grad()
        for i in range(x.shape[0]):
            hidden = self.torch.tanh(self.cell(self.torch.cat([x[i], hidden], 1)))
        loss = self.torch.nn.functional.cross_entropy(self.head(hidden), target)
        loss.backward()
        for p in (*self.cell.parameters(), *self.head.parameters()):
            p.data.add_(p.grad.data, alpha=-0.1)
        return loss.item()


def train(torch, make, steps):
    made, net, losses, recorded = random.Random(0), Net(torch), [], []
    for k in range(steps):
        x = make(torch, made, made.randrange(2, 5))
        target = torch.from_numpy(np.array([k % 3]))
        before = ledger.recorded
        losses.append(net.step(x, target))
        recorded.append(ledger.recorded - before)
    return losses, recorded


@pytest.mark.parametrize("make", [letters, crops])
def test_the_model_is_followed(make):
    losses, recorded = train(fanal, make, 60)
    np.testing.assert_allclose(losses, train(peer, make, 60)[0], rtol=1e-4)
    assert max(recorded[-20:]) < 12, recorded  # three calls with zeros and gradients come before the model


def test_what_is_cut_is_usable_on_both_sides():
    """Views, writes and gradients go across the border."""
    def run(torch):
        made, found = random.Random(1), []
        w = torch.ones(6, requires_grad=True)
        for _ in range(30):
            x = torch.zeros(6)
            part = x[made.randrange(5):]
            part += made.randrange(3)
            y = (x * w).sum()
            part.mul_(2.0) if not y.requires_grad else None
            y.backward()
            found += [y.item(), x.sum().item()]
            with torch.no_grad():
                w -= 0.01 * w.grad
                w.grad = None
        return found

    np.testing.assert_allclose(run(fanal), run(peer), rtol=1e-5)
