"""What one place of a dimension needs is computed for that place alone, with the bits of all of them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import fanal
from fanal.core.compiler.one_place import along, region_of
from fanal.core.engine.ledger import ledger
from tests.ops.functional import array


def test_regions_are_what_the_cuts_show() -> None:
    for shape in ((4, 6), (2, 3, 4), (12,), (1, 6, 1), (2, 2, 2, 3)):
        flat = np.arange(np.prod(shape)).reshape(shape)
        for d, n in enumerate(shape):
            for cut in itertools.product((d,), range(n), range(1, n + 1), range(1, n + 1)):
                region = region_of(shape, cut)
                if cut[1] >= cut[2] or region is None:
                    continue
                shown = flat[(slice(None),) * d + (slice(*cut[1:]),)]
                outer, places, inner, at = region
                assert (flat.reshape(outer, places, inner)[:, at] == shown.reshape(outer, inner)).all()
                for other in ((6, 4), (4, 6), (24,), (2, 3, 4), (2, 12)):
                    seen = along(other, region) if np.prod(other) == flat.size else None
                    if seen:
                        again = flat.reshape(other)[(slice(None),) * seen[0] + (slice(*seen[1:]),)]
                        assert (again.ravel() == shown.ravel()).all()


def model(t: Any, batch: int, length: int, causal: bool) -> tuple[Any, list[Any]]:
    """Return a function of one transformer block's input, and the block's parameters."""
    generator = np.random.default_rng(0)
    width, heads = 32, 2

    def made(*shape: int) -> Any:
        return t.tensor(generator.normal(0, 0.3, shape).astype(np.float32), requires_grad=True)
    shapes = ((width,), (width,), (3 * width, width), (3 * width,), (width, width), (4 * width, width), (4 * width,),
              (width, 4 * width), (width,), (5, width))
    weights = [made(*s) for s in shapes]
    scale, shift, qkv, qkv_bias, proj, fc, fc_bias, out, out_bias, head = weights
    F = t.nn.functional

    def block(x: Any) -> Any:
        y = F.layer_norm(x, (width,), scale, shift)
        q, k, v = F.linear(y, qkv, qkv_bias).view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        x = x + F.linear(y.transpose(1, 2).reshape(batch, length, width), proj)
        y = F.layer_norm(x, (width,), scale, shift)
        return x + F.linear(F.gelu(F.linear(y, fc, fc_bias)), out, out_bias)
    return lambda x, at: F.linear(block(x)[:, at], head), weights


def run(t: Any, batch: int, length: int, at: int, causal: bool, keep: bool = False) -> list[np.ndarray]:
    f, weights = model(t, batch, length, causal)
    x = t.tensor(np.random.default_rng(1).normal(size=(batch, length, 32)).astype(np.float32), requires_grad=True)
    y = f(x, slice(None) if keep else at)
    if keep:
        y.sum().item()  # all places are read, and so computed
        y = y[:, at]
    y.sin().sum().backward()
    return [array(v) for v in (y.detach(), x.grad, *(w.grad for w in weights))]


CASES = [(3, 70, 0, False), (3, 70, -1, True), (2, 10, 4, False), (1, 40, 0, False), (40, 34, -1, True)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_block_of_which_one_token_is_read(case: tuple) -> None:
    batch, length, *_ = case
    ledger.executables.clear()
    mine = run(fanal, *case)
    labels = [step.label for low in ledger.executables for step in low.exe.lowered.steps]
    assert any(f"matmul {batch}x32x128" in label for label in labels), labels
    assert any(f"matmul {batch * length}x32x96" in label for label in labels), labels  # keys and values are all needed
    assert not any(f"matmul {batch * length}x32x128" in label for label in labels), labels
    assert not any("attention gradient" in label for label in labels), labels
    for a, b in zip(mine, run(torch, *case), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_same_bits_when_all_tokens_are_read(case: tuple) -> None:
    for a, b in zip(run(fanal, *case), run(fanal, *case, keep=True), strict=True):
        assert a.tobytes() == b.tobytes()


def test_places_that_something_else_reads_are_computed() -> None:
    f, _ = model(fanal, 2, 40, False)
    x = fanal.tensor(np.random.default_rng(1).normal(size=(2, 40, 32)).astype(np.float32))
    with fanal.no_grad():
        y = f(x, slice(None))
        two = y[:, 0] + y[:, 1]
    np.testing.assert_array_equal(two.numpy(), y.numpy()[:, 0] + y.numpy()[:, 1])


@pytest.mark.parametrize("width", [1, 2])
def test_half_of_what_attention_writes_is_no_query(width: int) -> None:
    """Of heads so narrow, the result is as long as the statistics that lie behind it, or half of that."""
    q, k, v = np.random.default_rng(0).normal(size=(3, 2, 2, 3, width)).astype(np.float32)
    mine, theirs = (t.nn.functional.scaled_dot_product_attention(*map(t.tensor, (q, k, v))) for t in (fanal, torch))
    np.testing.assert_allclose(array(mine), array(theirs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 3])
def test_one_token_of_an_attention_with_a_mask(batch: int) -> None:
    x = np.random.default_rng(0).normal(size=(batch, 5, 32)).astype(np.float32)

    def last(t: Any) -> Any:
        t.manual_seed(0)
        layer, head = t.nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True), t.nn.Linear(32, 7)
        mask = t.triu(t.full((5, 5), float("-inf")), 1)
        with t.no_grad():
            return array(head(layer(t.tensor(x), src_mask=mask))[:, -1].argmax(-1))
    assert (last(fanal) == last(torch)).all()


@pytest.mark.parametrize("rows", [6, 40])
def test_a_column_of_a_sum_is_summed_as_all_are(rows: int) -> None:
    def loss(p: Any, read: bool) -> Any:
        means = p.mean(0, keepdim=True)
        first = means[:, :1]
        if read:
            means.detach().sum().item()
        return (p * p).sum() + p.sum() + (first / (first.abs() + 1)).sum()
    r = np.random.default_rng(5)
    for _ in range(12):
        p = fanal.tensor(r.standard_normal((rows, 4)).astype(np.float32)).requires_grad_()
        found = []
        for read in (False, True):
            loss(p, read).backward()
            found.append(p.grad.tolist())
            p.grad = None
        assert found[0] == found[1]
