"""Functions at infinities, NaN, signed zeros, the smallest and the largest numbers, as PyTorch has them."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import fanal

VALUES = (math.inf, -math.inf, math.nan, 0.0, -0.0, 1.0, -1.0, 0.5, -3.0)
UNARY = """
    abs neg sign sgn ceil floor round trunc frac sqrt rsqrt reciprocal exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos
    atan sinh cosh tanh asinh acosh atanh sigmoid logit erf erfc erfinv digamma relu nan_to_num square sinc i0 angle
    special.i1e special.ndtri special.log_ndtr special.entr special.erfcx nn.functional.silu nn.functional.mish
    nn.functional.softplus nn.functional.elu nn.functional.hardswish nn.functional.logsigmoid nn.functional.tanhshrink
""".split()
BINARY = """
    add sub mul div pow atan2 fmax fmin hypot copysign nextafter logaddexp floor_divide xlogy special.xlog1py remainder fmod
""".split()


def same(ours: fanal.Tensor, theirs: torch.Tensor, rtol: float) -> None:
    a, b = ours.detach().double().numpy(), theirs.detach().double().numpy()
    np.testing.assert_allclose(a, b, rtol=rtol, atol=torch.finfo(theirs.dtype).tiny)
    np.testing.assert_array_equal(np.signbit(a[b == 0]), np.signbit(b[b == 0]))


def pair(values: object, dtype: str) -> tuple[fanal.Tensor, torch.Tensor]:
    return fanal.tensor(values, dtype=getattr(fanal, dtype)), torch.tensor(values, dtype=getattr(torch, dtype))


def called(module: object, name: str, *args: object) -> object:
    for part in name.split("."):
        module = getattr(module, part)
    return module(*args)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_of_one_number(dtype: str) -> None:
    ends = torch.finfo(getattr(torch, dtype))
    ours, theirs = pair([*VALUES, ends.max, ends.min, ends.tiny, -ends.tiny], dtype)
    for name in UNARY:
        same(called(fanal, name, ours), called(torch, name, theirs), 2e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_of_two_numbers(dtype: str) -> None:
    grid = np.meshgrid(VALUES, VALUES)
    (a, x), (b, y) = (pair(side.ravel().tolist(), dtype) for side in grid)
    for name in BINARY:
        same(called(fanal, name, a, b), called(torch, name, x, y), 2e-6)


def test_the_gamma_function_has_a_pole_at_every_large_negative_number() -> None:
    ours, theirs = pair([-1.7e308, -1e300, -5.0, 0.0], "float64")
    same(fanal.lgamma(ours), torch.lgamma(theirs), 0)


@pytest.mark.parametrize("name", ["logaddexp", "logaddexp2"])
def test_16_bit_floats_are_rounded_once(name: str) -> None:
    (a, x), (b, y) = pair([-1.0, -0.5, -0.5, 3.0], "bfloat16"), pair([-0.5, -0.5, -2.0, 2.5], "bfloat16")
    same(called(fanal, name, a, b), called(torch, name, x, y), 0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_rms_norm_adds_the_epsilon_of_what_it_computes_in(dtype: str) -> None:
    ours, theirs = pair([[1e-2, -2e-2, 3e-2]], dtype)
    same(fanal.nn.functional.rms_norm(ours, (3,)), torch.nn.functional.rms_norm(theirs, (3,)), 1e-6)
    same(fanal.nn.RMSNorm(3, dtype=ours.dtype)(ours), torch.nn.RMSNorm(3, dtype=theirs.dtype)(theirs), 1e-6)


def test_counting_differences_keeps_nan() -> None:
    ours, theirs = pair([[math.inf, 1.0], [math.inf, 2.0], [math.nan, 1.0], [-math.inf, 1.0]], "float32")
    same(fanal.cdist(ours, ours, 0), torch.cdist(theirs, theirs, 0), 0)
    same(fanal.pdist(ours, 0), torch.pdist(theirs, 0), 0)


def test_the_next_number_moves_with_the_first_where_they_differ() -> None:
    (a, x), (b, y) = pair([1.0, 2.0, -1.0, 0.0, math.inf, math.nan], "float32"), pair([[3.0], [-1.0]], "float32")
    ours, theirs = (
        m.autograd.grad(m.nextafter(p.requires_grad_(), q.requires_grad_()).cumsum(1).nansum(), [p, q])
        for m, p, q in ((fanal, a, b), (torch, x, y))
    )
    for g, h in zip(ours, theirs):
        same(g, h, 0)
