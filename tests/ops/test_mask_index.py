"""x[mask] in loops: masks become positions before the call, so that it is followed; values, gradients, errors as torch."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fanal
from fanal.core.engine.ledger import ledger

peer = pytest.importorskip("torch")


def graph_network(torch: Any) -> Iterator[list[float]]:
    """A loss over the rows of a mask, and the accuracy over the others."""
    torch.manual_seed(0)
    x, y = torch.randn(30, 6), torch.randint(0, 3, (30,))
    train = torch.rand(30) < 0.6
    model = torch.nn.Linear(6, 3)
    opt = torch.optim.Adam(model.parameters(), 0.1)
    for _ in range(8):
        out = model(x)
        loss = torch.nn.functional.cross_entropy(out[train], y[train])
        opt.zero_grad()
        loss.backward()
        opt.step()
        yield [loss.item(), (out.argmax(1)[~train] == y[~train]).float().mean().item()]


def written(torch: Any) -> Iterator[list[float]]:
    """Masks among other indices, with values of their own and with one, read and written."""
    torch.manual_seed(0)
    x = torch.randn(4, 3, 5)
    low = torch.arange(15).reshape(3, 5) % 4 == 0
    first, some, rows = torch.arange(5) < 2, low.any(1), torch.tensor([True, False, True, False])
    w = torch.ones(3, requires_grad=True)
    for k in range(8):
        a = x * w[:, None] + k
        a[:, low] = a[:, low] * 2
        a[..., first] += 1
        a[1, some, None] = torch.arange(5.) * w[0]
        a[a > 3] = 3.0
        part = a[rows, 1:, low[0]]
        (part.sum() * k).backward()
        yield [*np.ravel(part.tolist()), *w.grad.tolist(), a.detach().sum().item()]
        w.grad = None


@pytest.mark.parametrize("loop", [graph_network, written])
def test_masks_in_a_loop(loop: Any) -> None:
    want = list(loop(peer))
    got, recorded = [], []
    for values in loop(fanal):
        got.append(values)
        recorded.append(ledger.recorded)
    for a, b in zip(got, want, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    assert recorded[-1] == recorded[-3], "recorded in each step"


def test_a_mask_that_changes_is_read_anew() -> None:
    x, scores = fanal.arange(6.0), np.zeros(6)
    mask = fanal.zeros(6, dtype=fanal.bool)
    for k in range(10):
        mask[k % 6] = not mask[k % 6]
        scores[k % 6] = 1 - scores[k % 6]
        kept = np.arange(6.0)[scores > 0]
        assert x[mask].tolist() == kept.tolist() and (x[mask] * 2).sum().item() == 2 * kept.sum()


@pytest.mark.parametrize("index", [
    lambda m: m.ones(4).bool(), lambda m: (..., m.ones(2, 3).bool()), lambda m: m.ones(3, 0).bool(),
    lambda m: (m.ones(3, 4).bool(), 0, 0), lambda m: (m.ones(3, 4).bool(), m.ones(2).bool()),
])
def test_masks_of_another_shape_raise_as_in_torch(index: Any) -> None:
    for write in (False, True):
        texts = []
        for m in (peer, fanal):
            x = m.zeros(3, 4)
            with pytest.raises(IndexError) as e:
                if write:
                    x[index(m)] = m.ones(5)
                else:
                    x[index(m)].sum().item()
            texts.append(str(e.value))
        assert texts[1].startswith(texts[0])


@pytest.mark.parametrize("pick", ["masked_select", "where"])
def test_what_depends_on_a_mask_is_followed(pick: str) -> None:
    def run(t: Any) -> Any:
        x, w = t.arange(12.0).reshape(3, 4), t.ones(4, requires_grad=True)
        for k in range(16):
            mask = (x * 7 + k) % 5 > 2
            y = x * w
            chosen = y.masked_select(mask) if pick == "masked_select" else y[t.where(mask)]
            w.grad = None
            chosen.sum().backward()
            counts.append(ledger.recorded)
            yield chosen.tolist(), w.grad.tolist(), t.masked_select(x, mask[:1]).tolist()
    counts: list[int] = []
    assert list(run(fanal)) == list(run(peer))
    assert counts[15] == counts[12], "recorded in each step"
