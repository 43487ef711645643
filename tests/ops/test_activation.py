"""Activations against torch: values, gradients, second derivatives, dtypes and errors."""
from __future__ import annotations

import numpy as np
import pytest
import torch

import fanal
import fanal.nn.functional as FF
from tests.ops.functional import Draw, agree, array, ours

CALLS = [("relu", {}), ("relu6", {}), ("leaky_relu", {"negative_slope": 0.3}), ("elu", {"alpha": 2.0}),
         ("celu", {"alpha": 0.5}),
         ("selu", {}), ("gelu", {}), ("gelu", {"approximate": "tanh"}), ("silu", {}), ("mish", {}),
         ("softplus", {}),
         ("softplus", {"beta": 2.0, "threshold": 1.0}), ("softsign", {}), ("hardtanh", {}),
         ("hardswish", {}), ("hardshrink", {}),
         ("softshrink", {}), ("tanhshrink", {}), ("threshold", {"threshold": 0.2, "value": 3.0}),
         ("logsigmoid", {}), ("glu", {}),
         ("rrelu", {}), ("softmax", {"dim": 1}), ("softmax", {"dim": 0}), ("log_softmax", {"dim": -1}),
         ("softmin", {"dim": 1}),
         ("sigmoid", {}), ("tanh", {})]


@pytest.mark.parametrize(("name", "options"), CALLS)
def test_activation(name: str, options: dict) -> None:
    r = Draw(0)
    agree(name, r(4, 6), **options)
    agree(name, (r(4, 6, grad=False, dtype=torch.float32) * 3).requires_grad_(), tol=1e-5, **options)
    agree(name, r(4, 6, grad=False, dtype=torch.bfloat16), tol=1e-2, **options)


def test_hardsigmoid() -> None:
    agree("hardsigmoid", Draw(1)(4, 6, dtype=torch.float32), tol=1e-6)


@pytest.mark.parametrize("name", ["elu", "gelu", "silu", "mish", "softplus", "hardswish",
                                  "leaky_relu", "relu", "softsign"])
def test_integers(name: str) -> None:
    agree(name, torch.arange(6).reshape(2, 3))


def test_prelu() -> None:
    r = Draw(2)
    agree("prelu", r(2, 3, 4), r(3))
    agree("prelu", r(2, 3, 4), r(1))
    agree("prelu", r(2, 3, 4), r(5))


def test_errors() -> None:
    r = Draw(3)
    agree("glu", r(2, 3))
    agree("gelu", r(2, 3), approximate="x")
    agree("softmax", r(2, 3), dim=2)
    agree("softmax", r.ints(3, 2, 2), dim=1)
    agree("softshrink", r(2, 3, dtype=torch.float32), -1.0)


def test_softmax_of_extremes() -> None:
    inf = float("inf")
    for row in ([-inf, 0.0, 1.0], [1e4, -1e4, 0.0], [-inf, -inf, -inf]):
        agree("softmax", torch.tensor([row]), dim=1, tol=1e-6)
        agree("log_softmax", torch.tensor([row]), dim=1, tol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("columns", [4, 40, 300])
def test_softmax_of_nan(columns: int, dtype: torch.dtype) -> None:
    """One NaN, alone or beside infinities, in the first or the last place, of rows and of columns."""
    inf, nan = float("inf"), float("nan")
    x = Draw(1)(9, columns).detach().to(dtype)
    x[0, 0] = x[1, -1] = x[2, 1] = x[3, 2] = x[4, columns // 2] = x[5, :] = nan
    x[2, 0], x[3, 0], x[4, :-1], x[6, 3], x[7, 3] = inf, -inf, -inf, inf, -inf
    x[4, columns // 2] = nan
    for data, dim in ((x, 1), (x.T, 0)):
        for name in ("softmax", "log_softmax", "logsumexp"):
            found = getattr(fanal, name)(ours(data), dim)
            expected = getattr(torch, name)(data, dim)
            np.testing.assert_allclose(array(found.double()), array(expected.double()), rtol=2e-2 if dtype is torch.bfloat16 else 1e-5)
    t = torch.arange(9) % columns
    found = FF.cross_entropy(ours(x), ours(t), reduction="none")
    expected = torch.nn.functional.cross_entropy(x, t, reduction="none")
    np.testing.assert_allclose(array(found.double()), array(expected.double()), rtol=2e-2 if dtype is torch.bfloat16 else 1e-5, atol=1e-6)


def test_in_place_forms_write() -> None:
    x = torch.linspace(-2, 2, 6)
    for name in ("relu", "elu", "silu", "hardtanh", "leaky_relu"):
        y = ours(x)
        assert getattr(FF, name)(y, inplace=True) is y
        assert abs(array(y) - array(getattr(torch.nn.functional, name)(x))).max() < 1e-6


def test_overwriting_what_backward_reads_raises() -> None:
    x = fanal.ones(3, requires_grad=True) * 1
    y = fanal.softmax(x, 0)
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_gumbel_softmax_is_one_hot() -> None:
    y = array(FF.gumbel_softmax(ours(Draw(4)(20, 5)), hard=True))
    assert abs(y.sum(1) - 1).max() < 1e-9 and abs(y.max(1) - 1).max() < 1e-9


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["tanh", "sigmoid", "erf", "erfc", "exp2", "log2", "log10", "deg2rad", "rad2deg", "erfinv"])
def test_16_bit_floats_and_their_gradients_round_as_in_pytorch(name: str, dtype: str) -> None:
    values, weights = torch.linspace(-4, 4, 257), torch.linspace(0.3, 1.7, 257)
    values = {"log2": values.abs() + 0.1, "log10": values.abs() + 0.1, "erfinv": values / 5}.get(name, values)
    found = []
    for library, make in ((torch, lambda v: v), (fanal, ours)):
        x = make(values).to(getattr(library, dtype)).requires_grad_()
        y = getattr(library, name)(x)
        (y * make(weights).to(getattr(library, dtype))).sum().backward()
        found.append([array(y.detach().float()), array(x.grad.float())])
    np.testing.assert_array_equal(found[1], found[0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rsqrt_rounds_once(dtype: str) -> None:
    x = torch.linspace(0.01, 4, 257)
    expected, got = torch.rsqrt(x.to(getattr(torch, dtype))), fanal.rsqrt(ours(x).to(getattr(fanal, dtype)))
    np.testing.assert_array_equal(array(got.float()), array(expected.float()))
