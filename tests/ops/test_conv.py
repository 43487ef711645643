"""Convolutions against PyTorch."""

from math import prod
from typing import Any

import numpy as np
import pytest
import torch

import fanal
from tests.ops.against_torch import compare, same_error

CASES = [
    ("conv1d", [(2, 4, 9), (6, 2, 3), (6,)], {"groups": 2, "dilation": 2}),
    ("conv1d", [(2, 3, 8), (4, 3, 4)], {"padding": "same"}),
    ("conv2d", [(2, 3, 7, 8), (4, 3, 3, 3), (4,)], {"stride": 2, "padding": 1}),
    ("conv2d", [(3, 7, 8), (4, 3, 3, 2)], {"padding": "same"}),
    ("conv2d", [(2, 4, 7, 8), (4, 1, 3, 3), (4,)], {"groups": 4, "padding": (1, 0)}),
    ("conv2d", [(0, 3, 7, 8), (4, 3, 3, 3)], {}),
    ("conv3d", [(2, 2, 5, 6, 5), (3, 2, 2, 3, 2)], {"stride": (1, 2, 1)}),
    ("conv1d", [(2, 3, 11), (32, 3, 4)], {"stride": 4}),
    ("conv2d", [(2, 3, 9, 8), (33, 3, 4, 2), (33,)], {"stride": (4, 2)}),
    ("conv2d", [(3, 8, 9), (32, 3, 4, 4), (32,)], {"stride": 4}),
    ("conv2d", [(0, 3, 8, 8), (32, 3, 4, 4), (32,)], {"stride": 4}),
    ("conv3d", [(2, 2, 4, 6, 5), (32, 2, 2, 3, 2)], {"stride": (2, 3, 2)}),
    ("conv_transpose1d", [(2, 4, 5), (4, 3, 3), (3,)], {"stride": 2}),
    (
        "conv_transpose2d",
        [(2, 4, 5, 6), (4, 3, 3, 3), (6,)],
        {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2},
    ),
    ("conv_transpose2d", [(2, 4, 5, 6), (4, 3, 3, 3)], {"padding": 2, "output_padding": 1, "dilation": 2}),
    ("conv_transpose3d", [(1, 2, 3, 3, 2), (2, 2, 2, 3, 2)], {"stride": 2}),
]


@pytest.mark.parametrize(("name", "shapes", "kwargs"), CASES)
def test_values_and_gradients(name, shapes, kwargs):
    compare(name, *shapes, **kwargs)


R = torch.randn
WRONG = [
    ("conv2d", (R(1, 1, 5, 5), R(4, 3, 3, 3)), {}),
    ("conv2d", (R(1, 3, 5, 5).double(), R(4, 3, 3, 3)), {}),
    ("conv2d", (R(1, 3, 5, 5), R(4, 3, 3, 3), R(4).double()), {}),
    ("conv2d", (R(1, 3, 5, 5), R(4, 3, 3, 3), R(3)), {}),
    ("conv2d", (R(3, 5), R(4, 3, 3, 3)), {}),
    ("conv2d", (R(1, 3, 2, 2), R(4, 3, 3, 3)), {}),
    ("conv2d", (R(1, 3, 5, 5), R(4, 3, 3, 3)), {"stride": 0}),
    ("conv2d", (R(1, 3, 5, 5), R(4, 3, 3, 3)), {"padding": -1}),
    ("conv2d", (R(1, 3, 5, 5), R(4, 3, 3, 3)), {"dilation": 0}),
    ("conv2d", (R(1, 3, 5, 5), R(4, 3, 3, 3)), {"groups": 3}),
    ("conv2d", (R(1, 3, 5, 5), R(4, 3, 3, 3)), {"stride": (1, 1, 1)}),
    ("conv2d", (R(1, 3, 5, 5), R(4, 3, 3, 3)), {"padding": "same", "stride": 2}),
    ("conv_transpose2d", (R(1, 3, 5, 5), R(4, 3, 3, 3)), {}),
    ("conv_transpose2d", (R(1, 3, 5, 5), R(3, 3, 3, 3)), {"output_padding": 1}),
    ("conv_transpose2d", (R(1, 3, 1, 1), R(3, 3, 3, 3)), {"padding": 2}),
    ("conv2d", (R(1, 3, 4, 4).long(), R(2, 3, 3, 3).long(), R(2)), {}),
]


@pytest.mark.parametrize(("name", "tensors", "kwargs"), WRONG)
def test_errors(name, tensors, kwargs):
    same_error(name, *tensors, **kwargs)


def test_gradients_of_weights_round_hardly_more_than_pytorchs() -> None:
    """The sum over all pixels went through one chain of additions."""
    shape = (2, 4, 3, 4, 5)

    def gradient(m: Any, dtype: Any) -> Any:
        numbers = m.linspace(-1, 3, prod(shape), dtype=m.float64)
        x = (numbers * 12345.678).sin().add(1).view(shape).to(dtype)
        w = m.ones(5, 4, 3, 3, 3, dtype=dtype).requires_grad_()
        y = m.nn.functional.conv3d(x, w, padding=1)
        g = (m.linspace(0, 1, y.numel(), dtype=m.float64) * 23456.789).cos().view(y.shape).to(dtype)
        y.backward(g + 1)
        return w.grad.double().numpy()
    exact = gradient(torch, torch.float64)
    ours, theirs = (np.square(gradient(m, m.float32) - exact).mean() ** 0.5 for m in (fanal, torch))
    assert ours < 1.5 * theirs


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(("name", "shapes", "kwargs"), [
    ("linear", [(5, 7), (6, 7), (6,)], {}), ("conv1d", [(2, 3, 8), (32, 3, 4), (32,)], {"stride": 4}),
    ("conv2d", [(2, 4, 5, 5), (6, 4, 3, 3), (6,)], {"padding": 1}), ("conv_transpose2d", [(2, 4, 5, 5), (4, 6, 3, 3), (6,)], {}),
])
def test_16_bit_floats_are_rounded_once_with_a_bias(name: str, shapes: list, kwargs: dict, dtype: str) -> None:
    """Eighths, whose sums float32 holds: rounded once, they are the float64 numbers rounded."""
    r = np.random.default_rng(0)
    x, w, b = (r.integers(-40, 40, s) / 8 for s in shapes)
    b = b + 1 / 8192
    x, w, b = (torch.tensor(a, dtype=getattr(torch, dtype)).double() for a in (x, w, b))
    exact = getattr(torch.nn.functional, name)(x, w, b, **kwargs).to(getattr(torch, dtype)).double()
    x, w, b = (fanal.tensor(t.numpy(), dtype=getattr(fanal, dtype)) for t in (x, w, b))
    for _ in range(2):  # interpreted, then compiled
        found = getattr(fanal.nn.functional, name)(x, w, b, **kwargs)
        assert found.dtype is getattr(fanal, dtype)
        np.testing.assert_array_equal(found.double().numpy(), exact.numpy())
