"""kl_divergence of every pair that PyTorch registers, and how a pair is found."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest

import fanal
from fanal.core.base import knobs
from fanal.distributions import kl

torch = pytest.importorskip("torch")
from torch.distributions import kl as torch_kl

FAMILIES = {
    "Bernoulli": ("unit",), "Beta": ("positive", "positive"), "Binomial": ("count", "unit"),
    "Categorical": ("simplex",), "Cauchy": ("real", "positive"), "ContinuousBernoulli": ("unit",),
    "Dirichlet": ("weights",), "Exponential": ("positive",), "Gamma": ("positive", "positive"),
    "Geometric": ("unit",), "Gumbel": ("real", "positive"), "HalfNormal": ("positive",),
    "Laplace": ("real", "positive"), "LowRankMultivariateNormal": ("vector", "factor", "diagonal"),
    "MultivariateNormal": ("vector", "covariance"), "Normal": ("real", "positive"),
    "OneHotCategorical": ("simplex",), "Pareto": ("positive", "heavy"), "Poisson": ("positive",),
    "Uniform": ("unit", "above"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knobs, "compile", False)


def _parameter(kind: str, rng: np.random.Generator) -> Any:
    a = rng.normal(size=(3, 3))
    return {
        "unit": lambda: rng.uniform(0.1, 0.9, 5),
        "above": lambda: rng.uniform(0.95, 3, 5),
        "positive": lambda: rng.gamma(3.0, size=5) + 0.2,
        "heavy": lambda: rng.uniform(0.5, 4, 5),
        "real": lambda: rng.normal(size=5),
        "count": lambda: np.full(5, 6.0),
        "simplex": lambda: rng.dirichlet(np.ones(4), size=2),
        "weights": lambda: rng.gamma(3.0, size=(2, 3)) + 0.2,
        "vector": lambda: rng.normal(size=3),
        "diagonal": lambda: rng.gamma(3.0, size=3) + 0.2,
        "factor": lambda: rng.normal(size=(3, 2)),
        "covariance": lambda: a @ a.T + np.eye(3),
    }[kind]()


def _made(library: Any, name: str, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    values = [library.tensor(_parameter(kind, rng)) for kind in FAMILIES[name]]
    return getattr(library.distributions, name)(*values)


def _pairs(registry: dict) -> set[tuple[str, str]]:
    return {(p.__name__, q.__name__) for p, q in registry}


def test_the_same_pairs_are_registered() -> None:
    assert _pairs(kl._REGISTRY) == _pairs(torch_kl._KL_REGISTRY)


PAIRS = sorted(p for p in _pairs(torch_kl._KL_REGISTRY) if p[0] in FAMILIES)


@pytest.mark.parametrize("first", sorted({p for p, _ in PAIRS}))
def test_values(first: str) -> None:
    for second in (q for p, q in PAIRS if p == first):
        expected = torch.distributions.kl_divergence(_made(torch, first, 1), _made(torch, second, 2)).numpy()
        got = fanal.distributions.kl_divergence(_made(fanal, first, 1), _made(fanal, second, 2)).numpy()
        np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-11, err_msg=f"{first}, {second}")


def test_composite_families() -> None:
    for library in (torch, fanal):
        D = library.distributions
        p, q = D.Normal(library.zeros(2, 3), 1.0), D.Normal(library.ones(2, 3), 2.0)
        plain = D.kl_divergence(p, q)
        summed = D.kl_divergence(D.Independent(p, 1), D.Independent(q, 1))
        np.testing.assert_allclose(summed.numpy(), plain.sum(-1).numpy(), rtol=1e-6)
        pushed = D.kl_divergence(D.LogNormal(p.loc, p.scale), D.LogNormal(q.loc, q.scale))
        np.testing.assert_allclose(pushed.numpy(), plain.numpy(), rtol=1e-6)
        with pytest.raises(NotImplementedError, match=r"No KL\(p \|\| q\) is implemented for p type Cauchy"):
            D.kl_divergence(D.Cauchy(0.0, 1.0), p)
        family = D.kl_divergence(D.Chi2(library.tensor(3.0)), D.Chi2(library.tensor(5.0)))
        assert math.isclose(float(family), 0.36897519, rel_tol=1e-5)


def test_edges_of_the_support() -> None:
    for library in (torch, fanal):
        D, t = library.distributions, library.tensor
        edge = D.kl_divergence(D.Bernoulli(t([0.0, 0.5, 1.0])), D.Bernoulli(t([0.5, 0.0, 1.0])))
        np.testing.assert_allclose(edge.numpy(), [math.log(2), math.inf, 0.0], rtol=1e-5)
        edge = D.kl_divergence(D.Categorical(t([0.0, 0.4, 0.6])), D.Categorical(t([0.5, 0.0, 0.5])))
        assert float(edge) == math.inf
        edge = D.kl_divergence(D.Uniform(t([0.0, 1.0]), 2.0), D.Uniform(t([1.0, 0.0]), 2.0))
        np.testing.assert_allclose(edge.numpy(), [math.inf, math.log(2)], rtol=1e-6)


def test_the_bregman_divergence_is_that_of_the_formula() -> None:
    D, t = fanal.distributions, fanal.tensor
    for make in (D.Gamma, D.Normal, D.Beta):
        p, q = make(t([1.5]), t([2.0])), make(t([2.5]), t([0.7]))
        bregman = kl._exponential_family(p, q).detach()
        np.testing.assert_allclose(bregman.numpy(), D.kl_divergence(p, q).numpy(), rtol=2e-5)
    np.testing.assert_allclose(
        D.ExponentialFamily.entropy(D.Normal(t([1.5]), t([2.0]))).detach().numpy(),
        D.Normal(t([1.5]), t([2.0])).entropy().numpy(), rtol=1e-5,
    )  # fmt: skip


def test_a_registered_function_is_found() -> None:
    for library in (torch, fanal):
        D = library.distributions

        class Mine(D.Normal):
            pass

        p = Mine(0.0, 1.0)
        assert float(D.kl_divergence(p, p)) == 0.0
        D.register_kl(Mine, Mine)(lambda p, q: 42)
        assert D.kl_divergence(p, p) == 42
        D.register_kl(Mine, D.Normal)(lambda p, q: 1)
        D.register_kl(D.Normal, Mine)(lambda p, q: 2)
        assert D.kl_divergence(D.Normal(0.0, 1.0), p) == 2
        class Base:
            """Of a library: its distributions have it beside Distribution."""

        class Other(D.Distribution, Base):
            arg_constraints: ClassVar[dict] = {}

        D.register_kl(Base, Base)(lambda p, q: 3)
        assert D.kl_divergence(Other(), Other()) == 3
        with pytest.raises(TypeError):
            D.register_kl(3, D.Normal)
