"""Results in integers and in 16-bit floats are PyTorch's, to the bit."""

import re
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as their

import fanal
import fanal.nn.functional as ours
from fanal.core.ops import spaced
from fanal.core.ops.build import read, wrap

X = np.random.default_rng(0).normal(5, 3, (4, 500)).astype(np.float32)


def pair(name):
    return torch.tensor(X).to(getattr(torch, name)), fanal.tensor(X).to(getattr(fanal, name))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["mean", "std", "var", "norm", "sum", "nansum"])
def test_reductions_round_once(name, dtype):
    a, b = pair(dtype)
    assert getattr(b, name)(dim=1).tolist() == getattr(a, name)(dim=1).tolist()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_losses_round_their_mean_once(dtype):
    a, b = pair(dtype)
    assert ours.l1_loss(b, b * 2).item() == their.l1_loss(a, a * 2).item()


SUMS = {
    "addmm": lambda m, a, b: m.addmm(a[:, :4], a[:, :8], b[:8, :4], beta=0.2, alpha=0.6),
    "baddbmm": lambda m, a, b: m.baddbmm(a[None, :, :4], a[None, :, :8], b[None, :8, :4]),
    "addmv": lambda m, a, b: m.addmv(a[:, 0], a[:, :8], b[:8, 0]),
    "addcmul": lambda m, a, b: m.addcmul(a, a * 2, a, value=0.3),
    "addcdiv": lambda m, a, b: m.addcdiv(a, a * 2, a + 1, value=0.3),
    "lerp": lambda m, a, b: m.lerp(a, a * 3, 0.3),
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", SUMS)
def test_sums_round_once(name, dtype):
    a, b = pair(dtype)
    expected, got = SUMS[name](torch, a, a.T.contiguous()), SUMS[name](fanal, b, b.T.contiguous())
    assert got.tolist() == expected.tolist()


LOSSES = {
    "margin_ranking": lambda f, m, x, y: f.margin_ranking_loss(x, y, m.ones_like(x)),
    "triplet": lambda f, m, x, y: f.triplet_margin_loss(x, y, x * 2),
    "poisson": lambda f, m, x, y: f.poisson_nll_loss(x, y),
    "pairwise": lambda f, m, x, y: f.pairwise_distance(x, y),
    "response": lambda f, m, x, y: f.local_response_norm(x.reshape(1, 2, -1), 3),
}


@pytest.mark.parametrize("name", LOSSES)
def test_integers_become_floats(name):
    made = []
    for f, m in ((their, torch), (ours, fanal)):
        made.append(LOSSES[name](f, m, m.arange(6).reshape(2, 3), m.arange(6).reshape(2, 3).flip(0)))
    assert str(made[0].dtype) == str(made[1].dtype)
    np.testing.assert_allclose(made[1].numpy(), made[0].numpy(), rtol=1e-6)


def test_integers_to_negative_powers():
    for n in (1, 300):
        a, b = (
            (m.tensor([0, 1, -1, -1, 2, 7] * n) ** m.tensor([-1, -2, -3, -2, -1, 22] * n)).tolist()
            for m in (torch, fanal)
        )
        assert a == b


def test_whole_numbers_on_a_logarithmic_scale():
    for ends in ((0, 1.2, 4), (0.9, 3.7, 5)):
        expected = torch.logspace(*ends, dtype=torch.int64).tolist()
        assert fanal.logspace(*ends, dtype=fanal.int64).tolist() == expected


def test_a_root_mean_square_of_complex_numbers_has_a_gradient():
    values = np.array([[1 + 2j, 3 - 1j, -2j]], np.complex64)
    grads = []
    for f, m in ((their, torch), (ours, fanal)):
        x = m.tensor(values, requires_grad=True)
        f.rms_norm(x, (3,), eps=0.5).abs().sum().backward()
        grads.append(x.grad.numpy())
    np.testing.assert_allclose(grads[1], grads[0], rtol=1e-4)


def test_resolving_a_conjugate_changes_no_value():
    values = np.array([1 + 2j, 3 - 1j], np.complex64)
    for m in (torch, fanal):
        x = m.tensor(values)
        assert m.resolve_conj(x).tolist() == [1 + 2j, 3 - 1j]
        assert m.resolve_conj(x.conj()).tolist() == [1 - 2j, 3 + 1j]
        assert m.resolve_neg(x.conj().imag).tolist() == [-2, 1]


@pytest.mark.parametrize("name", ["logsumexp", "logcumsumexp"])
def test_logarithms_of_complex_sums(name):
    draw = np.random.default_rng(1)
    x, g = ((draw.normal(size=(3, 4)) + 1j * draw.normal(size=(3, 4))).astype(np.complex64) * 3 for _ in range(2))
    found = []
    for m in (torch, fanal):
        leaf = m.tensor(x, requires_grad=True)
        y = getattr(m, name)(leaf, 1)
        y.backward(m.tensor(g if y.ndim == 2 else g[:, 0]))
        found.append((y.detach().numpy(), leaf.grad.resolve_conj().numpy()))
    for expected, got in zip(*found):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_truth_values_are_counted():
    for m in (torch, fanal):
        x = m.tensor([[True, False], [True, True]])
        assert m.square(x).dtype is m.int64 and x.square().tolist() == [[1, 0], [1, 1]]
        assert x.sum_to_size(1, 2).tolist() == [[2, 1]] and x.sum_to_size(1, 2).dtype is m.int64
        assert x.sum_to_size(2, 2).dtype is m.bool and x[0, 0].sum_to_size(()).dtype is m.int64
        assert x.short().sum_to_size(1, 2).dtype is m.int64 and x.short().sum_to_size(2, 2).dtype is m.int16


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_bilinear_rounds_once(dtype):
    draw = np.random.default_rng(0)
    made = [draw.normal(size=s).astype(np.float32) for s in ((6, 3), (6, 4), (5, 3, 4), (5,))]
    low = [torch.tensor(x).to(getattr(torch, dtype)) for x in made]
    exact = torch.nn.functional.bilinear(*(t.double() for t in low)).to(low[0].dtype)
    assert ours.bilinear(*(fanal.tensor(x).to(getattr(fanal, dtype)) for x in made)).tolist() == exact.tolist()


HALVES = {
    "arithmetic": lambda m, h: [h * h, h * 2.5, h * 1j, h - h.conj(), -h, h.sgn()],
    "parts": lambda m, h: [h.real, h.imag, h.abs(), m.view_as_real(h), m.complex(h.real, h.imag), h.half()],
    "promotion": lambda m, h: [h.real * 1j, h * m.ones(4), h * m.ones(4, dtype=m.bfloat16), h.real + m.tensor(1j),
                               h + m.ones(4, dtype=m.float64), h + m.ones((), dtype=m.float64)],
    "movement": lambda m, h: [h.reshape(2, 2).mT.contiguous(), m.cat([h, h]), h[[2, 0]], m.where(h == h, h, 0), h.roll(1)],
    "conversion": lambda m, h: [h.cfloat(), h.cdouble().chalf(), m.arange(3).to(m.chalf), h.view(m.int32).view(m.chalf)],
    "making": lambda m, h: [m.zeros(2, dtype=m.chalf), m.full((2,), 1 + 2j, dtype=m.chalf), m.rand(3, dtype=m.chalf),
                            m.randn(20, dtype=m.chalf), m.ones(2, 2, dtype=m.chalf).tril()],
    "writing": lambda m, h: [h.clone().mul_(h), h.clone().fill_(3), h.clone().index_add_(0, m.tensor([1, 1]), h[:2])],
}


@pytest.mark.filterwarnings("ignore:ComplexHalf", "ignore:Casting complex")
@pytest.mark.parametrize("name", HALVES)
def test_complex_numbers_of_float16(name):
    found = []
    for m in (torch, fanal):
        m.manual_seed(3)
        h = m.tensor([1 + 2j, 0.25 - 0.5j, 3.3, -2 + 0.1j], dtype=m.complex32)
        found.append([(str(t.dtype), t.tolist(), repr(t)) for t in HALVES[name](m, h)])
    for expected, got in zip(*found):
        assert got == expected


def test_gradient_in_complex_numbers_of_float16():
    found = []
    for m in (torch, fanal):
        h = m.tensor([1 + 2j, 0.25 - 0.5j], dtype=m.chalf, requires_grad=True)
        (h * h).backward(m.tensor([1 - 1j, 0.5j], dtype=m.chalf))
        found.append((h.grad.dtype is m.complex32, h.grad.resolve_conj().tolist(), h.element_size(), h.type()))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["reciprocal", "exp2"])
def test_gradients_of_complex_functions_are_conjugated(name):
    z, g = np.array([1 + 2j, -0.5 + 0.3j]), np.array([1 - 1j, 0.5 + 2j])
    grads = []
    for m in (torch, fanal):
        x = m.tensor(z, requires_grad=True)
        getattr(m, name)(x).backward(m.tensor(g))
        grads.append(x.grad.resolve_conj().numpy())
    np.testing.assert_allclose(grads[1], grads[0], rtol=1e-12)


ORDERED = {
    "div": lambda m, a, b: a / b, "remainder": lambda m, a, b: a % b, "atan2": lambda m, a, b: m.atan2(a, b),
    "fmax": lambda m, a, b: m.fmax(a, b), "fmin": lambda m, a, b: m.fmin(a, b), "hypot": lambda m, a, b: m.hypot(a, b),
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ORDERED)
def test_gradients_round_in_the_order_of_pytorch(name, dtype):
    draw = np.random.default_rng(0)
    a, b, g = (draw.integers(-40, 40, s).astype(np.float32) / 8 + 0.0625 for s in ((10, 1, 5), (10, 5), (10, 10, 5)))
    grads = []
    for m in (torch, fanal):
        x, y = (m.tensor(v, dtype=getattr(m, dtype), requires_grad=True) for v in (a, b))
        ORDERED[name](m, x, y).backward(m.tensor(g, dtype=getattr(m, dtype)))
        grads.append([x.grad.tolist(), y.grad.tolist()])
    assert grads[1] == grads[0]


def test_hypot_of_extremes():
    v = [0.0, -0.0, 1.0, -3.0, 1e30, -1e-30, float("inf"), -float("inf"), float("nan")]
    for dtype in ("float32", "float64"):
        a, b = (m.tensor(v, dtype=getattr(m, dtype)) for m in (torch, fanal))
        np.testing.assert_allclose(fanal.hypot(b[:, None], b).numpy(), torch.hypot(a[:, None], a).numpy(), rtol=3e-7)


@pytest.mark.parametrize("dtype", ["int64", "int8", "float32", "float64"])
def test_linspace_to_the_bit(dtype):
    for start, end, steps in ((4.3, -3, 50), (14, -81, 51), (-87, 75, 46), (0.1, 0.9, 30), (3, 3, 1), (5, 9, 2)):
        expected, got = (m.linspace(start, end, steps, dtype=getattr(m, dtype)).tolist() for m in (torch, fanal))
        assert got == expected


def test_a_product_and_a_sum_round_once():
    def fma(a, b, c):
        return wrap(spaced.fma(*(read(fanal.tensor(x, dtype=a.dtype)) for x in (a, b, c)))).numpy()

    a, rng = np.random.default_rng(0).standard_normal(300), np.random.default_rng(1)
    for b, c in rng.standard_normal((4, 2)) * 2.0 ** rng.integers(-40, 40, (4, 2)):
        a64 = fanal.tensor(a, dtype=fanal.float64)
        exact = [float(Fraction(x) * Fraction(b) + Fraction(c)) for x in a.tolist()]
        assert fma(a64, float(b), float(c)).tolist() == exact
    # Products that land just beside the middle between two floats: rounding twice goes wrong there.
    a32 = fanal.tensor([1 + 2.0**-23, 1 - 2.0**-24])
    for c in (2.0**-60, -(2.0**-60)):
        b = float(np.float32(1 + 2.0**-23))
        for x, got in zip(a32.tolist(), fma(a32, b, c), strict=True):
            value = Fraction(x) * Fraction(b) + Fraction(c)
            gap = abs(Fraction(float(got)) - value)
            assert all(gap < abs(Fraction(float(np.nextafter(got, np.float32(to)))) - value) for to in (9, -9))


@pytest.mark.parametrize("ends", [(-1e307, 1e307), (3e-310, 5e-308), (0.1, 1e305)])
def test_linspace_of_extremes(ends):
    expected, got = (m.linspace(*ends, 7, dtype=m.float64).tolist() for m in (torch, fanal))
    assert got == expected


def test_linspace_between_tensors():
    for m in (torch, fanal):
        found = m.linspace(m.tensor(0.1), m.tensor(0.9), 7).tolist()
        assert found == torch.linspace(np.float32(0.1), np.float32(0.9), 7).tolist()


def test_weights_promote_a_covariance():
    x, w = np.array([[1.0, 2, 4], [3, 1, 0.5]]), np.array([0.5, 1, 2], np.float32)
    expected, got = (m.cov(m.tensor(x, dtype=m.float16), aweights=m.tensor(w)) for m in (torch, fanal))
    assert got.dtype is fanal.float32
    np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-5)


def test_strided_view_of_a_view_of_another_dtype():
    found = []
    for m in (torch, fanal):
        z = m.zeros(4, 2, dtype=m.float64)
        part = m.view_as_complex(z).real.as_strided((2, 2), (4, 1), 1)  # reaches outside the real parts
        part.fill_(7)
        found.append((z.tolist(), part.stride(), part.storage_offset()))
    assert found[0] == found[1]


@pytest.mark.parametrize("size", [1, 17, 40000])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "bool", "float16", "bfloat16"])
def test_complex_numbers_of_real_ones(dtype, size):
    a = (torch.arange(size) % 7 - 3).to(getattr(torch, dtype))
    b = fanal.tensor(a.float().numpy()).to(getattr(fanal, dtype))
    for _ in range(3):  # the second run compiles
        for to in ("complex64", "complex128"):
            assert (b.to(getattr(fanal, to)).numpy() == a.to(getattr(torch, to)).numpy()).all()
        pair = [m.complex(x.float(), x.float() * 2).numpy() for m, x in ((torch, a), (fanal, b))]
        assert (pair[0] == pair[1]).all()
        assert fanal.view_as_real(b.to(fanal.complex32)).tolist() == torch.view_as_real(a.to(torch.complex32)).tolist()


@pytest.mark.parametrize("dtype", ["int64", "int32", "int8", "uint8"])
def test_integers_are_divided_as_torchs(dtype):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 100, 50).astype(dtype), rng.integers(1, 9, 50).astype(dtype)
    if dtype != "uint8":
        a, b = a - a.dtype.type(50), b * rng.choice([-1, 1], 50).astype(dtype)
    x, y = ([m.tensor(v) for v in (a, b)] for m in (torch, fanal))
    for _ in range(3):  # the second run compiles
        for how in ("floor", "trunc"):
            want, got = (m.div(*v, rounding_mode=how).tolist() for m, v in ((torch, x), (fanal, y)))
            assert got == want
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            (y[0] // (y[1] * 0)).sum().item()


@pytest.mark.parametrize("name", ["uint8", "int8", "int64", "bool", "float32"])
@pytest.mark.parametrize("value", [-5, 300, 2.5, 1 + 2j, 1e300, float("inf")])
def test_a_number_that_fills_a_tensor_has_a_place_in_its_dtype(name, value):
    for make in (lambda m, d: m.full((2,), value, dtype=d), lambda m, d: m.full_like(m.zeros(2, dtype=d), value),
                 lambda m, d: m.scalar_tensor(value, dtype=d)):
        try:
            expected = make(torch, getattr(torch, name)).tolist()
        except RuntimeError as e:
            with pytest.raises(RuntimeError, match=re.escape(str(e))):
                make(fanal, getattr(fanal, name))
        else:
            assert make(fanal, getattr(fanal, name)).tolist() == expected


@pytest.mark.parametrize("delta", [0.3, 8.7])
def test_huber_loss_rounds_once(delta):
    a, b = pair("float16")
    expected = their.huber_loss(a * 5, a.flip(0), reduction="none", delta=delta)
    assert ours.huber_loss(b * 5, b.flip(0), reduction="none", delta=delta).tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"])
def test_every_number_of_8_bits(name):
    beyond = [240.0, 248.0, 449.0, 57344.0, 61441.0, 7e4, -1e9, float("inf"), float("nan"), -0.0, 1e-9, 1 / 3]

    def results(lib):
        d = getattr(lib, name)
        every = lib.arange(256, dtype=lib.uint8).view(d)
        yield every.float()
        yield every.bool()
        yield lib.tensor(beyond).to(d).float()
        yield lib.eye(3, 4, dtype=d).float()
        yield lib.full((2,), 3, dtype=d) == 3
        yield lib.tensor([lib.finfo(d).max, lib.finfo(d).tiny])
        with pytest.raises(RuntimeError, match=f"Float8_{name[7:]} without overflow"):
            lib.zeros(2, dtype=d).fill_(1e6)

    for a, b in zip(results(torch), results(fanal)):
        np.testing.assert_array_equal(b.numpy(), a.numpy())
        assert (np.signbit(b.numpy()) == np.signbit(a.numpy())).all() or a.isnan().any()


@pytest.mark.parametrize("shape", [(1,), (30,), (20, 30), (20, 1)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_of_a_loss_are_not_rounded_into_its_gradient(dtype, shape):
    """Value and gradient are rounded once, from float32: to half a unit in the last place of the true ones."""
    draw = np.random.default_rng(5)
    arrays = [draw.normal(0, 2, (20, 30)), draw.uniform(0, 1, (20, 30)), draw.uniform(0.3, 3, shape), draw.normal(0, 1, (20, 30))]
    rounded = [torch.tensor(a).to(getattr(torch, dtype)) for a in arrays]
    x, t, w, g = (a.double() for a in rounded)
    y = their.binary_cross_entropy_with_logits(x.requires_grad_(), t, w, reduction="none")
    y.backward(g)
    a, b, c, h = (fanal.tensor(r.double().numpy()).to(getattr(fanal, dtype)) for r in rounded)
    z = ours.binary_cross_entropy_with_logits(a.requires_grad_(), b, c, reduction="none")
    z.backward(h)
    digits, least = (8, -126) if dtype == "bfloat16" else (11, -14)
    for got, exact in ((z.detach(), y.detach()), (a.grad, x.grad)):
        exact = exact.numpy()
        half = 2.0 ** (np.maximum(np.floor(np.log2(np.abs(exact))), least) - digits)
        # Losses near 0 are differences of larger numbers in float32.
        assert (np.abs(got.double().numpy() - exact) <= half * (1 + 2**-9) + 1e-6).all()


def test_weights_that_binary_cross_entropy_does_not_take():
    for lib, f in ((torch, their), (fanal, ours)):
        x = lib.zeros(5, requires_grad=True)
        with pytest.raises(RuntimeError, match=r"output with shape \[5\] doesn't match the broadcast shape \[3, 5\]"):
            f.binary_cross_entropy_with_logits(x, lib.ones(5), lib.ones(3, 5))
        for name in ("weight", "pos_weight"):
            given = {name: lib.ones(5, requires_grad=True)}
            with pytest.raises(RuntimeError, match=f"not differentiable with respect to argument '{name}'"):
                f.binary_cross_entropy_with_logits(x, lib.ones(5), **given)
