"""Pooling against PyTorch."""

import math

import numpy as np
import pytest
import torch

import fanal
from tests.ops.against_torch import FUNCTIONAL, array, compare, same_error, to_fanal

S2 = [(2, 3, 9, 8)]
CASES = [
    ("max_pool1d", [(2, 3, 9)], (3, 2, 1), {"return_indices": True}),
    ("max_pool2d", S2, (2,), {}),
    ("max_pool2d", [(3, 9, 8)], (3,), {"stride": 2, "padding": 1, "return_indices": True}),
    ("max_pool2d", S2, ((2, 3), (3, 1)), {"dilation": (2, 1), "ceil_mode": True, "return_indices": True}),
    ("max_pool3d", [(2, 3, 5, 6, 5)], (3, 2, 1), {"return_indices": True}),
    ("avg_pool1d", [(2, 3, 9)], (3, 2, 1), {}),
    ("avg_pool2d", S2, (2,), {}),
    ("avg_pool2d", S2, (3, 2, 1), {"ceil_mode": True}),
    ("avg_pool2d", S2, (3, 2, 1), {"ceil_mode": True, "count_include_pad": False}),
    ("avg_pool2d", S2, ((2, 3), (3, 1)), {"divisor_override": 3}),
    ("avg_pool3d", [(2, 3, 5, 6, 5)], (2,), {}),
    ("adaptive_avg_pool1d", [(2, 3, 9)], (4,), {}),
    ("adaptive_avg_pool2d", S2, (1,), {}),
    ("adaptive_avg_pool2d", S2, ((3, 4),), {}),
    ("adaptive_avg_pool2d", S2, ((5, 3),), {}),
    ("adaptive_avg_pool3d", [(2, 3, 5, 9, 8)], ((None, 5, 10),), {}),
    ("adaptive_max_pool1d", [(2, 3, 9)], (4,), {"return_indices": True}),
    ("adaptive_max_pool2d", S2, ((5, 3),), {"return_indices": True}),
    ("adaptive_max_pool3d", [(1, 2, 4, 5, 6)], (3,), {"return_indices": True}),
    ("lp_pool1d", [(2, 3, 9)], (2.0, 3, 2), {}),
    ("lp_pool2d", S2, (2.0, 3, 2), {"ceil_mode": True}),
]


@pytest.mark.parametrize(("name", "shapes", "args", "kwargs"), CASES)
def test_values_and_gradients(name, shapes, args, kwargs):
    compare(name, *shapes, args=args, **kwargs)


@pytest.mark.parametrize("fill", [-math.inf, 0.0])
def test_equal_elements_give_all_to_the_first(fill):
    x = torch.full((1, 1, 4, 4), fill, requires_grad=True)
    f = to_fanal(x, True)
    y, at = torch.nn.functional.max_pool2d(x, 3, 2, 1, return_indices=True)
    z, where = FUNCTIONAL["max_pool2d"](f, 3, 2, 1, return_indices=True)
    y.backward(torch.ones_like(y))
    z.backward(to_fanal(torch.ones_like(y)))
    assert (array(where) == at.numpy()).all()
    np.testing.assert_array_equal(array(f.grad), x.grad.numpy())


def test_result_may_be_overwritten_before_backward():
    f = to_fanal(torch.randn(1, 2, 4, 4), True)
    y = FUNCTIONAL["max_pool2d"](f, 2)
    y.mul_(2)
    y.sum().backward()
    assert array(f.grad).sum() == 16


def test_unpool_undoes_pool():
    x = torch.randn(2, 3, 9, 8)
    v, at = torch.nn.functional.max_pool2d(x, 2, return_indices=True)
    y = FUNCTIONAL["max_unpool2d"](to_fanal(v), to_fanal(at), 2, output_size=(9, 8))
    np.testing.assert_array_equal(
        array(y), torch.nn.functional.max_unpool2d(v, at, 2, output_size=(9, 8)).numpy()
    )


@pytest.mark.parametrize("n", [2, 3])
def test_fractional(n):
    shape, out = (2, 3, *(9, 8, 7)[:n]), (4, 5, 3)[:n]
    x, u = torch.randn(shape), torch.rand(2, 3, n)
    name = f"fractional_max_pool{n}d"
    y, at = getattr(torch.nn.functional, name)(x, 2, output_size=out, _random_samples=u, return_indices=True)
    z, where = FUNCTIONAL[name](
        to_fanal(x), 2, output_size=out, _random_samples=to_fanal(u), return_indices=True
    )
    assert (array(where) == at.numpy()).all() and (array(z) == y.numpy()).all()
    # More samples than needed may be given, as for two examples to one.
    expected = getattr(torch.nn.functional, name)(x[0], 2, output_size=out, _random_samples=u)
    one = FUNCTIONAL[name](to_fanal(x[0]), 2, output_size=out, _random_samples=to_fanal(u))
    assert (array(one) == expected.numpy()).all()


R = torch.randn
WRONG = [
    ("max_pool2d", (R(1, 3, 5, 5),), {"kernel_size": 2, "padding": 2}),
    ("max_pool2d", (R(1, 3, 5, 5),), {"kernel_size": 2, "stride": 0}),
    ("max_pool2d", (R(1, 3, 1, 1),), {"kernel_size": 3}),
    ("max_pool2d", (R(1, 0, 5, 5),), {"kernel_size": 2}),
    ("max_pool1d", (R(1, 3, 1),), {"kernel_size": 3}),
    ("max_pool1d", (R(1, 3, 9),), {"kernel_size": 2, "padding": 2}),
    ("avg_pool2d", (R(1, 3, 5, 5),), {"kernel_size": 2, "divisor_override": 0}),
    ("avg_pool1d", (R(3),), {"kernel_size": 2}),
    ("adaptive_avg_pool2d", (R(3, 5),), {"output_size": 2}),
    ("adaptive_avg_pool2d", (R(1, 3, 5, 0),), {"output_size": 2}),
    ("adaptive_avg_pool2d", (R(3, 5),), {"output_size": (2, 2)}),
    *(("fractional_max_pool2d", (R(2, 3, 5, 5),), {"kernel_size": 2, "output_size": 2, "_random_samples": R(shape)})
      for shape in ((1, 3, 2), (2, 4, 2), (2, 3, 3), (2, 3))),
]


@pytest.mark.parametrize(("name", "tensors", "kwargs"), WRONG)
def test_errors(name, tensors, kwargs):
    same_error(name, *tensors, **kwargs)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("shape", [(1, 4), (1, 1, 2, 3, 4), (2, 0, 3), (0, 2, 3, 4)])
@pytest.mark.parametrize("dtype", ["float64", "complex128", "int64"])
def test_adaptive_average_to_one_place_is_a_mean(n, shape, dtype):
    x = np.random.default_rng(0).normal(size=shape)

    def outcome(m):
        try:
            return getattr(m.nn.functional, f"adaptive_avg_pool{n}d")(m.tensor(x).to(getattr(m, dtype)), 1).numpy()
        except (RuntimeError, IndexError) as e:
            return type(e)
    expected, got = outcome(torch), outcome(fanal)
    if isinstance(expected, type):
        assert got is expected
    else:
        np.testing.assert_allclose(got, expected)
