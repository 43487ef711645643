"""Attention as one kernel: gradients of both orders against torch, the bits of the separate operations, no copies."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fanal
from fanal.core.base import knobs
from fanal.core.engine.ledger import ledger
from fanal.core.ops.attention import attention_nodes
from fanal.core.ops.build import read, wrap
from tests.ops.functional import array, ours

B, H, T, D = 2, 3, 21, 8
KINDS = ["plain", "causal", "bool", "empty row", "float", "keys"]


def _case(kind: str, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor | None]:
    g = torch.Generator().manual_seed(0)
    mask = None
    if kind in ("bool", "empty row"):
        mask = torch.rand(T, T, generator=g) > 0.3
        mask[4] = kind == "bool"
    elif kind == "float":
        mask = torch.randn(1, H, T, T, generator=g, dtype=dtype)
    elif kind == "keys":
        mask = torch.rand(B, 1, 1, T, generator=g) > 0.3
    return torch.randn(B, T, 3 * H * D, generator=g, dtype=dtype), mask


def _heads(w: Any) -> list[Any]:
    return [x.view(B, T, H, D).transpose(1, 2) for x in w.split(H * D, dim=2)]


def _gradients(t: Any, w: Any, mask: Any, causal: bool, second: bool) -> list[np.ndarray]:
    w.requires_grad_()
    y = t.nn.functional.scaled_dot_product_attention(*_heads(w), attn_mask=mask, is_causal=causal)
    z = y.transpose(1, 2).reshape(B, T, H * D).sin().sum()
    g, = t.autograd.grad(z, w, create_graph=second)
    out = [array(y), array(g)]
    if second:
        out.append(array(t.autograd.grad((g * g).sum(), w)[0]))
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("second", [False, True])
def test_gradients(kind: str, second: bool) -> None:
    w, mask = _case(kind)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        want = _gradients(torch, w.clone(), mask, kind == "causal", second)
    got = _gradients(fanal, ours(w), None if mask is None else ours(mask), kind == "causal", second)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_as_the_separate_operations_and_with_create_graph(kind: str, monkeypatch: Any) -> None:
    w, mask = _case(kind, torch.float32)
    m, causal = None if mask is None else ours(mask), kind == "causal"

    def separate() -> list[np.ndarray]:
        monkeypatch.setattr(knobs, "follow", False)  # values made outside of any call belong to no known segment
        x = ours(w).requires_grad_()
        q, k, v = (read(h) for h in _heads(x))
        y = wrap(attention_nodes(q, k, v, None if m is None else read(m), 0.0, causal, None)[0])
        y.transpose(1, 2).reshape(B, T, H * D).sin().sum().backward()
        found = [array(y), array(x.grad)]
        monkeypatch.undo()
        return found
    want = separate()
    for second in (False, True):
        for a, b in zip(_gradients(fanal, ours(w), m, causal, second), want):
            assert (a == b).all()


def test_attention_between_projections_copies_nothing() -> None:
    r = np.random.default_rng(0)
    C = H * D
    x, p, o = (fanal.tensor(r.standard_normal(s).astype(np.float32)) for s in ((B, T, C), (3 * C, C), (C, C)))
    p.requires_grad_()
    o.requires_grad_()
    before = set(map(id, ledger.executables))
    functional = fanal.nn.functional

    def loss() -> Any:
        y = functional.scaled_dot_product_attention(*_heads(functional.linear(x, p)), is_causal=True)
        return functional.linear(y.transpose(1, 2).contiguous().view(B, T, C), o).square().sum()
    loss().backward()
    p.grad.tolist()
    new = [e for e in ledger.executables if id(e) not in before]
    labels = [s.label for e in new for s in e.exe.lowered.steps]
    assert sum(label.startswith("attention ") for label in labels) == 2, labels
    assert not [label for label in labels if "update_slice" in label or "concat" in label or not label], labels


def test_a_gradient_of_slices_is_written_region_by_region() -> None:
    for cuts in ([0, 2, 5, 7], [0, 3, 2, 7], [1, 4, 5, 7]):  # tiles, an overlap, a gap
        w = torch.arange(14.0).view(2, 7).requires_grad_()
        mine = ours(w.detach()).requires_grad_()
        for x in (w, mine):
            parts = [x[:, a:b] if a < b else x[:, b:a] for a, b in zip(cuts, cuts[1:])]
            sum((part * part * (i + 1)).sum() for i, part in enumerate(parts)).backward()
        np.testing.assert_array_equal(array(mine.grad), array(w.grad))
