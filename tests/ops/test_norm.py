"""Normalisation against torch: values, gradients of two orders, running statistics, errors."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as TF

import fanal.nn.functional as FF
from tests.ops.functional import Draw, agree, array, ours


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shape", [(6, 3), (5, 3, 4), (2, 3, 4, 5)])
def test_batch_norm(shape: tuple, affine: bool) -> None:
    r = Draw(0)
    w, b = (r(3), r(3)) if affine else (None, None)
    mean, var = r(3, grad=False), r.rand(3, grad=False) + 0.5
    agree("batch_norm", r(*shape), None, None, w, b, True)
    agree("batch_norm", r(*shape), mean, var, w, b, False)
    if len(shape) > 2:
        agree("instance_norm", r(*shape), None, None, w, b)


@pytest.mark.parametrize("name", ["batch_norm", "instance_norm"])
def test_running_statistics(name: str) -> None:
    r = Draw(1)
    x, mean, var = r(5, 3, 4, grad=False), r(3, grad=False), r.rand(3, grad=False)
    m, v = ours(mean), ours(var)
    getattr(TF, name)(x, mean, var, None, None, True, 0.3)
    getattr(FF, name)(ours(x), m, v, None, None, True, 0.3)
    assert abs(array(m) - array(mean)).max() < 1e-12 and abs(array(v) - array(var)).max() < 1e-12


@pytest.mark.parametrize("affine", [False, True])
def test_over_features(affine: bool) -> None:
    r = Draw(2)
    agree("layer_norm", r(2, 3, 4), (3, 4), r(3, 4) if affine else None, r(3, 4) if affine else None)
    agree("rms_norm", r(2, 3, 4), (3, 4), r(3, 4) if affine else None)
    agree("group_norm", r(2, 6, 4), 3, r(6) if affine else None, r(6) if affine else None)
    agree("group_norm", r(2, 6, 4, 3), 2, r(6) if affine else None)


def test_low_precision_is_computed_in_float32() -> None:
    agree("layer_norm", Draw(3)(4, 64, grad=False, dtype=torch.bfloat16), (64,), torch.ones(64), tol=1e-2)


def test_neighbours_and_length() -> None:
    r = Draw(4)
    agree("local_response_norm", r(2, 5, 3), 3, tol=1e-8)
    agree("local_response_norm", r(2, 5, 3, 3), 2, alpha=0.5, tol=1e-8)
    agree("normalize", r(3, 4))
    agree("normalize", r(3, 4), p=3.0, dim=0)


def test_errors() -> None:
    r = Draw(5)
    agree("layer_norm", r(2, 3), (4,))
    agree("layer_norm", r(2, 3), (3,), r(4))
    agree("layer_norm", r(2, 3), ())
    agree("rms_norm", r(2, 3), (4,))
    agree("batch_norm", r(2, 3), r(4), r(3))
    agree("batch_norm", r(2, 3), None, None)
    agree("batch_norm", r(1, 3), None, None, training=True)
    agree("group_norm", r(2, 3), 2)
    agree("instance_norm", r(2, 3, 1))
