"""Attention and embeddings against torch."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as TF

import fanal.nn.functional as FF
from tests.ops.functional import Draw, agree, array, ours


@pytest.mark.parametrize("kind", ["plain", "causal", "bool", "float", "scale", "empty row"])
def test_scaled_dot_product(kind: str) -> None:
    r = Draw(0)
    hidden = torch.ones(5, 6, dtype=torch.bool)
    hidden[2] = False
    options = {"plain": {}, "causal": {"is_causal": True}, "bool": {"attn_mask": r.rand(5, 6, grad=False) > 0.3},
               "float": {"attn_mask": r(2, 1, 5, 6)}, "scale": {"scale": 0.3}, "empty row": {"attn_mask": hidden}}[kind]
    agree("scaled_dot_product_attention", r(2, 3, 5, 4), r(2, 3, 6, 4), r(2, 3, 6, 7), **options)


def test_grouped_queries_and_errors() -> None:
    r = Draw(1)
    agree("scaled_dot_product_attention", r(2, 6, 5, 4), r(2, 3, 6, 4), r(2, 3, 6, 4), enable_gqa=True)
    agree("scaled_dot_product_attention", r(2, 3), r(2, 3), r(2, 3, dtype=torch.float32))
    agree("scaled_dot_product_attention", r(3), r(2, 3), r(2, 3))
    agree("scaled_dot_product_attention", r(2, 3), r(2, 3), r(2, 3), attn_mask=r(2, 2), is_causal=True)


def _heads(r: Draw, q: torch.Tensor, k: torch.Tensor, *bias: torch.Tensor, zero: bool = False,
           **options: object) -> None:
    more = bias or (None, None)
    agree("multi_head_attention_forward", q, k, k, 8, 2, r(24, 8), r(24), *more, zero, 0.0, r(8, 8), r(8), **options)


def test_multi_head() -> None:
    r = Draw(2)
    _heads(r, r(5, 3, 8), r(6, 3, 8))
    _heads(r, r(5, 8), r(6, 8))
    _heads(r, r(5, 3, 8), r(6, 3, 8), need_weights=False)
    _heads(r, r(5, 3, 8), r(6, 3, 8), average_attn_weights=False, attn_mask=r(6, 5, 6))
    _heads(r, x := r(5, 3, 8), x, need_weights=False, second=False)  # torch has no second derivative of its kernel
    _heads(r, r(5, 3, 8), r(5, 3, 8), need_weights=False, second=False, attn_mask=r.rand(5, 5, grad=False) > 0.7,
           key_padding_mask=torch.arange(5) > torch.tensor([[4], [3], [2]]))
    padding = torch.arange(6) > torch.tensor([[5], [4], [3]])
    _heads(r, r(5, 3, 8), r(6, 3, 8), r(1, 1, 8), r(1, 1, 8), zero=True, attn_mask=r.rand(5, 6, grad=False) > 0.7,
           key_padding_mask=padding)
    _heads(r, r(5, 3, 8), r(6, 3, 8), attn_mask=r(5, 5))


@pytest.mark.parametrize("options", [{}, {"padding_idx": 2}, {"padding_idx": -1}, {"scale_grad_by_freq": True}])
def test_embedding(options: dict) -> None:
    r = Draw(3)
    for index in (r.ints(7, 2, 3), torch.tensor(3), r.ints(7, 0)):
        agree("embedding", index, r(7, 3), **options)


def test_embedding_limits() -> None:
    w = Draw(4)(7, 3, grad=False)
    mine = ours(w)
    index = torch.tensor([1, 1, 4])
    want = TF.embedding(index, w, max_norm=1.0)
    assert abs(array(FF.embedding(ours(index), mine, max_norm=1.0)) - array(want)).max() < 1e-12
    assert abs(array(mine) - array(w)).max() < 1e-12
    agree("embedding", torch.tensor([-1]), w, text=False)
    agree("embedding", torch.tensor([7]), w, text=False)
    agree("embedding", torch.tensor([1.0]), w)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 2])
def test_bags(mode: str, padding: int | None) -> None:
    r = Draw(5)
    options = {"mode": mode, "padding_idx": padding, "second": False}
    agree("embedding_bag", r.ints(7, 9), r(7, 3), torch.tensor([0, 3, 3, 7]), **options)
    agree("embedding_bag", r.ints(7, 4, 5), r(7, 3), **options)


def test_one_hot() -> None:
    agree("one_hot", torch.tensor([[0, 2], [1, 1]]))
    agree("one_hot", torch.tensor([0, 2]), 5)
    agree("one_hot", torch.tensor([5]), 3)
    agree("one_hot", torch.tensor([-1]), 3)
    agree("one_hot", torch.tensor([1.0]))
