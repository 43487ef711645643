"""Every distribution against PyTorch: moments, densities, samples of a seed, expansion, and all gradients."""

from __future__ import annotations

import copy
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fanal
from fanal.core.base import knobs

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))
from cases import CASES, Maker

SHOWN = ("batch_shape", "event_shape", "has_rsample", "has_enumerate_support", "mean", "mode", "variance", "stddev")
# Where PyTorch 2.13 is wrong, or cannot: the mode of Kumaraswamy is NaN; a Wishart sample is thrown away once, and
# the gradient to its factor has numbers above the diagonal; GeneralizedPareto compares float64 parameters with a float32 zero.
ROUGH = {"VonMises": 1e-6, "Multinomial": 5e-7}  # what PyTorch computes of them in float32
SKIPPED = {("Kumaraswamy", "mode"), ("Wishart", "samples"), ("GeneralizedPareto", "densities"), ("Wishart", "gradients")}


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Formulas are tested here, kernels elsewhere: nothing is compiled."""
    monkeypatch.setattr(knobs, "compile", False)


def _outcome(f: Callable[[], Any]) -> Any:
    """Return what a call gives: an array, a value, or the class of its error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = f()
    except (NotImplementedError, ValueError) as e:
        return type(e)
    return found.detach().numpy() if hasattr(found, "detach") else found


def _compare(name: str, what: str, f: Callable[[Any], Any], t: Any, d: Any, rtol: float = 1e-10) -> Any:
    """Compare f(distribution) of PyTorch and of Fanal, and return PyTorch's result."""
    expected, got = _outcome(lambda: f(t)), _outcome(lambda: f(d))
    if isinstance(expected, np.ndarray):
        assert got.dtype == expected.dtype, what
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=1e-12, err_msg=f"{name}: {what}")
    else:
        assert str(got) == str(expected).replace("torch.Size", "fanal.Size").replace("fanal", "torch"), (name, what)
    return expected


def _gradients(value: Any, leaves: list[Any], library: Any, weights: np.ndarray) -> list[Any]:
    loss = (value * library.tensor(weights, dtype=value.dtype)).sum()
    return library.autograd.grad(loss, leaves, allow_unused=True)


def _compare_gradients(name: str, what: str, pair: tuple, makers: tuple, rtol: float) -> None:
    t, d = pair
    weights = np.random.default_rng(5).normal(size=tuple(t.shape))
    expected = _gradients(t, makers[0].leaves, torch, weights)
    got = _gradients(d, makers[1].leaves, fanal, weights)
    for e, g in zip(expected, got, strict=True):
        if e is None:
            assert g is None or not g.any(), (name, what)
        else:
            np.testing.assert_allclose(g.numpy(), e.numpy(), rtol=rtol, atol=rtol / 50, err_msg=f"{name}: {what}")


def _both(name: str) -> tuple[Any, Any, tuple[Maker, Maker]]:
    makers = Maker(torch), Maker(fanal)
    return CASES[name](makers[0]), CASES[name](makers[1]), makers


@pytest.mark.parametrize("name", list(CASES))
def test_moments_and_densities(name: str) -> None:
    t, d, makers = _both(name)
    assert repr(d) == repr(t)
    for attribute in SHOWN:
        if (name, attribute) not in SKIPPED:
            _compare(name, attribute, lambda x, a=attribute: getattr(x, a), t, d, ROUGH.get(name, 1e-9))
    for method in ("entropy", "perplexity", "enumerate_support"):
        _compare(name, method, lambda x, m=method: getattr(x, m)(), t, d, ROUGH.get(name, 1e-9))
    torch.manual_seed(3)
    x = t.sample((4,))
    values = {id(t): x, id(d): fanal.tensor(x.numpy())}
    if (name, "densities") in SKIPPED:
        return
    for method in ("log_prob", "cdf"):
        _compare(name, method, lambda a, m=method: getattr(a, m)(values[id(a)]), t, d, ROUGH.get(name, 1e-8))
    log_probs = t.log_prob(x), d.log_prob(values[id(d)])
    if log_probs[0].requires_grad and name != "VonMises" and (name, "gradients") not in SKIPPED:
        _compare_gradients(name, "log_prob", log_probs, makers, 1e-8)


@pytest.mark.parametrize("name", list(CASES))
def test_samples_and_expansion(name: str) -> None:
    t, d, makers = _both(name)
    if (name, "samples") in SKIPPED:
        return
    torch.manual_seed(11), fanal.manual_seed(11)
    _compare(name, "sample", lambda x: x.sample((3, 2)), t, d)
    pair = None
    if t.has_rsample:
        pair = t.rsample((3,)), d.rsample((3,))
        np.testing.assert_allclose(pair[1].detach().numpy(), pair[0].detach().numpy(), rtol=1e-9)
    np.testing.assert_array_equal(fanal.get_rng_state().numpy(), torch.get_rng_state().numpy())
    if pair is not None and pair[0].requires_grad:
        # PyTorch approximates the gradients of gamma and beta numbers to a few parts in a thousand.
        _compare_gradients(name, "rsample", pair, makers, 5e-3)
    wide = (5, *t.batch_shape)
    t, d = t.expand(wide), d.expand(wide)
    assert d.batch_shape == wide and d.event_shape == t.event_shape
    for attribute in ("mean", "variance"):
        _compare(name, attribute, lambda x, a=attribute: getattr(x, a), t, d, ROUGH.get(name, 1e-9))
    x = t.sample()
    values = {id(t): x, id(d): fanal.tensor(x.numpy())}
    if (name, "densities") not in SKIPPED:
        _compare(name, "log_prob", lambda a: a.log_prob(values[id(a)]), t, d, ROUGH.get(name, 1e-8))
    u = torch.linspace(0.05, 0.95, 5, dtype=torch.float64).reshape(5, *[1] * len(t.batch_shape))
    values = {id(t): u, id(d): fanal.tensor(u.numpy())}
    _compare(name, "icdf", lambda a: a.icdf(values[id(a)]), t, d, 1e-8)


@pytest.mark.parametrize("name", ["Normal", "Gumbel", "MixtureSameFamily", "Categorical"])
def test_pickle_and_deepcopy(name: str) -> None:
    d = CASES[name](Maker(fanal, requires_grad=False))
    fanal.manual_seed(0)
    x = d.sample()
    for again in (pickle.loads(pickle.dumps(d)), copy.deepcopy(d)):
        np.testing.assert_array_equal(again.log_prob(x).detach().numpy(), d.log_prob(x).detach().numpy())


def test_validation() -> None:
    for library in (torch, fanal):
        D = library.distributions
        one = library.tensor(1.0)
        with pytest.raises(ValueError, match=r"Expected parameter scale .* to satisfy the constraint GreaterThan"):
            D.Normal(0.0, -one)
        with pytest.raises(ValueError, match="within the support"):
            D.Exponential(one).log_prob(-one)
        with pytest.raises(ValueError, match="not broadcastable with batch_shape"):
            D.Normal(library.zeros(3), 1.0).log_prob(library.zeros(4))
        with pytest.raises(ValueError, match="right-most size of value must match event_shape"):
            D.Dirichlet(library.ones(3)).log_prob(library.ones(4) / 4)
        with pytest.raises(ValueError, match="must be a Tensor"):
            D.Normal(0.0, 1.0).log_prob(0.5)
        with pytest.raises(ValueError, match="Either `probs` or `logits` must be specified"):
            D.Bernoulli()
        with pytest.raises(ValueError, match=r"Expected parameter low .* constraint LessThan"):
            D.Uniform(one, one)
        with pytest.raises(ValueError, match="instances of Number"):
            D.Normal([0.0], 1.0)
        D.Normal(0.0, -one, validate_args=False)

        class Mine(D.Normal):
            def __init__(self) -> None:
                super().__init__(0.0, 1.0)

        with pytest.raises(NotImplementedError, match="must also define a custom"):
            Mine().expand((2,))


def test_implicit_gradients_against_float64_mathematics() -> None:
    """dx/da by differences of the distribution function, where PyTorch is off by up to 2 %."""
    special = pytest.importorskip("scipy.special")
    a, x = np.array([0.3, 1.0, 4.0, 60.0, 900.0]), np.array([0.05, 2.0, 3.5, 75.0, 880.0])
    h = 1e-4 * a
    by_a = (8 * (special.gammainc(a + h, x) - special.gammainc(a - h, x))
            - special.gammainc(a + 2 * h, x) + special.gammainc(a - 2 * h, x)) / (12 * h)  # fmt: skip
    density = np.exp((a - 1) * np.log(x) - x - special.gammaln(a))
    got = fanal._standard_gamma_grad(fanal.tensor(a), fanal.tensor(x)).numpy()
    np.testing.assert_allclose(got, -by_a / density, rtol=1e-7)
    b, u = np.array([2.0, 0.4, 3.0, 20.0, 1000.0]), np.array([0.1, 0.8, 0.6, 0.8, 0.45])
    by_a = (8 * (special.betainc(a + h, b, u) - special.betainc(a - h, b, u))
            - special.betainc(a + 2 * h, b, u) + special.betainc(a - 2 * h, b, u)) / (12 * h)  # fmt: skip
    density = np.exp((a - 1) * np.log(u) + (b - 1) * np.log1p(-u) - special.betaln(a, b))
    got = fanal._dirichlet_grad(fanal.tensor(u), fanal.tensor(a), fanal.tensor(a + b)).numpy()
    np.testing.assert_allclose(got, -by_a / density / (1 - u), rtol=1e-6)
