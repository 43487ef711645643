"""Losses against torch: values, gradients of two orders, reductions, errors."""
from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import fanal
import fanal.nn.functional as FF
from tests.ops.functional import Draw, agree, array, ours

reductions = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])


@reductions
@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_classes(name: str, reduction: str) -> None:
    r = Draw(0)
    w = r.rand(4, grad=False)
    agree(name, r(5, 4), r.ints(4, 5), reduction=reduction)
    agree(name, r(5, 4), r.ints(4, 5), weight=w, ignore_index=2, reduction=reduction)
    agree(name, r(3, 4, 6), r.ints(4, 3, 6), reduction=reduction, ignore_index=1)
    agree(name, r(2, 4, 3, 5), r.ints(4, 2, 3, 5), weight=w, reduction=reduction)
    agree(name, r(4), torch.tensor(2), reduction=reduction)


@reductions
def test_soft_classes(reduction: str) -> None:
    r = Draw(1)
    w = r.rand(4, grad=False)
    agree("cross_entropy", r(5, 4), r.ints(4, 5), label_smoothing=0.1, weight=w, ignore_index=1, reduction=reduction)
    agree("cross_entropy", r(2, 4, 3), r.ints(4, 2, 3), label_smoothing=0.1, reduction=reduction)
    agree("cross_entropy", r(5, 4), r.rand(5, 4), reduction=reduction)
    agree("cross_entropy", r(2, 4, 3), r.rand(2, 4, 3, grad=False), label_smoothing=0.2, weight=w, reduction=reduction)


def test_class_errors() -> None:
    r = Draw(2)
    x = r(5, 4)
    agree("cross_entropy", x, torch.tensor([1, 5, 1, 1, 1]), text=False)
    agree("cross_entropy", x, torch.tensor([1, -5, 1, 1, 1]), text=False)
    for target in (r.ints(4, 5).int(), r.ints(4, 3), r.ints(4, 5, 2), r(5, grad=False)):
        agree("cross_entropy", x, target)
    agree("cross_entropy", r(2, 3, 4), r.ints(3, 2, 5))
    agree("cross_entropy", r(4), r.ints(4, 2))
    agree("cross_entropy", x, r.ints(4, 5), weight=r.rand(5, grad=False))
    agree("cross_entropy", x, r.ints(4, 5), reduction="foo")
    agree("cross_entropy", x, torch.full((5,), -100))


@reductions
def test_regression(reduction: str) -> None:
    r = Draw(3)
    for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"):
        agree(name, r(3, 4), r(3, 4), reduction=reduction)
    agree("smooth_l1_loss", r(3, 4), r(3, 4), beta=0.3, reduction=reduction)
    agree("huber_loss", r(3, 4), r(3, 4), delta=0.3, reduction=reduction)
    agree("mse_loss", r(3, 4), r(3, 4), reduction=reduction, weight=r.rand(3, 4, grad=False))
    agree("poisson_nll_loss", r(3, 4), r.rand(3, 4), reduction=reduction)
    agree("poisson_nll_loss", r.rand(3, 4), r.rand(3, 4), log_input=False, full=True, reduction=reduction)
    agree("gaussian_nll_loss", r(3, 4), r(3, 4), r.rand(3, 4), full=True, reduction=reduction)
    agree("gaussian_nll_loss", r(3, 4), r(3, 4), -r.rand(3, 4, grad=False), reduction=reduction)


def test_broadcasting_warns() -> None:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        FF.mse_loss(ours(torch.ones(3, 4)), ours(torch.ones(4)))
    assert "different to the input size (torch.Size([3, 4]))" in str(found[0].message)


@reductions
def test_probabilities(reduction: str) -> None:
    r = Draw(4)
    p, q, w = r.rand(3, 4), r.rand(3, 4), r.rand(4, grad=False)
    agree("binary_cross_entropy", p, q, weight=w, reduction=reduction, tol=1e-8)
    agree("binary_cross_entropy_with_logits", r(3, 4), q, weight=w, pos_weight=w, reduction=reduction)
    agree("kl_div", r(3, 4), q, reduction=reduction)
    agree("kl_div", r(3, 4), r(3, 4), reduction=reduction, log_target=True)
    agree("soft_margin_loss", r(3, 4), 2 * r.ints(2, 3, 4) - 1.0, reduction=reduction)
    agree("multilabel_soft_margin_loss", r(3, 4), r.ints(2, 3, 4) * 1.0, reduction=reduction, weight=w)


@reductions
def test_margins(reduction: str) -> None:
    r = Draw(5)
    s = 2.0 * r.ints(2, 3, 4) - 1
    agree("hinge_embedding_loss", r(3, 4), s, reduction=reduction)
    agree("margin_ranking_loss", r(3, 4), r(3, 4), s, margin=0.5, reduction=reduction)
    agree("cosine_embedding_loss", r(3, 4), r(3, 4), s[:, 0], margin=0.2, reduction=reduction)
    agree("triplet_margin_loss", r(3, 4), r(3, 4), r(3, 4), reduction=reduction, swap=True, p=3.0)
    agree("triplet_margin_with_distance_loss", r(3, 4), r(3, 4), r(3, 4), reduction=reduction)
    agree("multi_margin_loss", r(5, 4), r.ints(4, 5), reduction=reduction, p=2, margin=0.5,
          weight=r.rand(4, grad=False))
    agree("multilabel_margin_loss", r(2, 5), torch.tensor([[3, 0, -1, 1, 2], [1, 2, 3, 4, -1]]), reduction=reduction)


@reductions
def test_ctc(reduction: str) -> None:
    r = Draw(6)
    x = r(12, 3, 6, grad=False).log_softmax(2).requires_grad_()
    for zero in (False, True):
        options = {"reduction": reduction, "zero_infinity": zero, "second": False}
        agree("ctc_loss", x, r.ints(5, 3, 4) + 1, torch.tensor([12, 10, 12]), torch.tensor([4, 3, 2]), **options)
        agree("ctc_loss", x, r.ints(5, 9) + 1, (12, 10, 12), (4, 3, 2), **options)
        repeated = torch.tensor([[1, 1, 2, 2], [3, 3, 3, 3], [1, 2, 3, 4]])  # the second does not fit into 6 steps
        agree("ctc_loss", x, repeated, (12, 6, 9), (4, 4, 0), **options)


def test_large_logits_stay_finite() -> None:
    x = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    agree("cross_entropy", x, torch.tensor([1]), tol=1e-6, second=False)
    assert array(FF.cross_entropy(ours(x), ours(torch.tensor([0])))) == 0


@pytest.mark.parametrize("values", [[0.2, 1.5], [float("nan"), 0.5], [-0.1]])
def test_binary_cross_entropy_wants_probabilities(values):
    for m in (torch, fanal):
        with pytest.raises(RuntimeError, match="all elements of input should be between 0 and 1"):
            m.nn.functional.binary_cross_entropy(m.tensor(values), m.ones(len(values))).item()
        with pytest.raises(RuntimeError, match="all elements of target should be between 0 and 1"):
            m.nn.functional.binary_cross_entropy(m.full((len(values),), 0.3), m.tensor(values)).item()
    assert fanal.nn.functional.binary_cross_entropy(fanal.tensor([0.0, 1.0]), fanal.tensor([0.0, 1.0])).item() == 0
    assert fanal.nn.functional.binary_cross_entropy(fanal.zeros(0), fanal.zeros(0), reduction="sum").item() == 0


def test_binary_cross_entropy_bends_as_in_pytorch_where_an_input_is_0_or_1():
    found = []
    for m in (torch, fanal):
        x = m.tensor([0.0, 0, 1, 1, 0, 0.5, 0.2], dtype=m.float64).requires_grad_()
        t = m.tensor([0.0, 1, 0, 1, 0.5, 0.3, 1], dtype=m.float64).requires_grad_()
        y = m.nn.functional.binary_cross_entropy(x, t, reduction="sum")
        (g,) = m.autograd.grad(y, x, create_graph=True)
        second = m.autograd.grad(g.sum(), (x, t), create_graph=True)
        third = m.autograd.grad(second[0].sum(), x)
        found.append([v.detach().numpy() for v in (g, *second, *third)])
    for theirs, ours_ in zip(*found):
        np.testing.assert_allclose(ours_, theirs, rtol=1e-12)


def test_errors_of_linear_cross_entropy_and_batch_norm():
    for m in (torch, fanal):
        with pytest.raises(ValueError, match=r"Expected input batch_size \(4\) to match target batch_size \(5\)"):
            m.nn.LinearCrossEntropyLoss(3, 2)(m.ones(4, 3), m.zeros(5, 2))
        with pytest.raises(ValueError, match="eps must be non-negative"):
            m.nn.BatchNorm1d(3, eps=-1.0).eval()(m.ones(2, 3))
