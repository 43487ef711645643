"""Distributions to compare with PyTorch's: each made from the same NumPy parameters by either library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class Maker:
    """Parameters for one library: `t` gives a tensor that requires a gradient."""

    def __init__(self, library: Any, dtype: str = "float64", requires_grad: bool = True) -> None:
        self.lib, self.D, self.dtype, self.requires_grad = library, library.distributions, dtype, requires_grad
        self.rng = np.random.default_rng(7)
        self.leaves: list[Any] = []

    def t(self, array: Any) -> Any:
        dtype = getattr(self.lib, self.dtype)
        leaf = self.lib.tensor(np.asarray(array), dtype=dtype, requires_grad=self.requires_grad)
        self.leaves.append(leaf)
        return leaf

    def real(self, *shape: int) -> Any:
        return self.t(self.rng.normal(size=shape))

    def positive(self, *shape: int, at_least: float = 0.4) -> Any:
        return self.t(self.rng.gamma(2.0, size=shape) + at_least)

    def unit(self, *shape: int) -> Any:
        return self.t(self.rng.uniform(0.1, 0.9, size=shape))

    def simplex(self, *shape: int) -> Any:
        p = self.rng.uniform(0.1, 1, size=shape)
        return self.t(p / p.sum(-1, keepdims=True))

    def tril(self, *shape: int) -> Any:
        a = np.tril(self.rng.normal(size=shape), -1)
        return self.t(a + np.eye(shape[-1]) * self.rng.uniform(0.5, 1.5, size=shape[:-1])[..., None])

    def covariance(self, *shape: int) -> Any:
        a = np.tril(self.rng.normal(size=shape)) + 2 * np.eye(shape[-1])
        return self.t(a @ np.swapaxes(a, -1, -2))


CASES: dict[str, Callable[[Maker], Any]] = {
    "Bernoulli": lambda m: m.D.Bernoulli(m.unit(3)),
    "Bernoulli logits": lambda m: m.D.Bernoulli(logits=m.real(2, 3)),
    "Beta": lambda m: m.D.Beta(m.positive(4), m.positive(4)),
    "Binomial": lambda m: m.D.Binomial(10, m.unit(3)),
    "Categorical": lambda m: m.D.Categorical(m.simplex(2, 4)),
    "Categorical logits": lambda m: m.D.Categorical(logits=m.real(5)),
    "Cauchy": lambda m: m.D.Cauchy(m.real(3), m.positive(3)),
    "Chi2": lambda m: m.D.Chi2(m.positive(3)),
    "ContinuousBernoulli": lambda m: m.D.ContinuousBernoulli(m.t([0.1, 0.5, 0.4999, 0.8])),
    "ContinuousBernoulli logits": lambda m: m.D.ContinuousBernoulli(logits=m.real(3)),
    "Dirichlet": lambda m: m.D.Dirichlet(m.positive(2, 4)),
    "Exponential": lambda m: m.D.Exponential(m.positive(3)),
    "FisherSnedecor": lambda m: m.D.FisherSnedecor(m.positive(3, at_least=4.5), m.positive(3, at_least=4.5)),
    "Gamma": lambda m: m.D.Gamma(m.positive(2, 3), m.positive(3)),
    "GeneralizedPareto": lambda m: m.D.GeneralizedPareto(m.real(3), m.positive(3), m.t([0.2, 0.0, -0.3])),
    "Geometric": lambda m: m.D.Geometric(m.unit(3)),
    "Geometric logits": lambda m: m.D.Geometric(logits=m.real(3)),
    "Gumbel": lambda m: m.D.Gumbel(m.real(3), m.positive(3)),
    "HalfCauchy": lambda m: m.D.HalfCauchy(m.positive(3)),
    "HalfNormal": lambda m: m.D.HalfNormal(m.positive(3)),
    "Independent": lambda m: m.D.Independent(m.D.Normal(m.real(2, 3), m.positive(2, 3)), 1),
    "InverseGamma": lambda m: m.D.InverseGamma(m.positive(3, at_least=2.5), m.positive(3)),
    "Kumaraswamy": lambda m: m.D.Kumaraswamy(m.positive(3), m.positive(3)),
    "LKJCholesky": lambda m: m.D.LKJCholesky(3, m.positive(2)),
    "Laplace": lambda m: m.D.Laplace(m.real(3), m.positive(3)),
    "LogNormal": lambda m: m.D.LogNormal(m.real(3), m.unit(3)),
    "LogisticNormal": lambda m: m.D.LogisticNormal(m.real(2, 3), m.unit(2, 3)),
    "LowRankMultivariateNormal": lambda m: m.D.LowRankMultivariateNormal(
        m.real(2, 4), m.real(4, 2), m.positive(2, 4)
    ),
    "MixtureSameFamily": lambda m: m.D.MixtureSameFamily(
        m.D.Categorical(m.simplex(2, 3)), m.D.Normal(m.real(2, 3), m.positive(2, 3))
    ),
    "MixtureSameFamily vectors": lambda m: m.D.MixtureSameFamily(
        m.D.Categorical(logits=m.real(3)), m.D.Independent(m.D.Normal(m.real(3, 2), m.positive(3, 2)), 1)
    ),
    "Multinomial": lambda m: m.D.Multinomial(7, m.simplex(2, 3)),
    "MultivariateNormal": lambda m: m.D.MultivariateNormal(m.real(2, 3), scale_tril=m.tril(3, 3)),
    "MultivariateNormal covariance": lambda m: m.D.MultivariateNormal(m.real(3), m.covariance(2, 3, 3)),
    "MultivariateNormal precision": lambda m: m.D.MultivariateNormal(
        m.real(3), precision_matrix=m.covariance(3, 3)
    ),
    "NegativeBinomial": lambda m: m.D.NegativeBinomial(m.positive(3), m.unit(3)),
    "Normal": lambda m: m.D.Normal(m.real(2, 1), m.positive(3)),
    "Normal number": lambda m: m.D.Normal(0.5, 2),
    "OneHotCategorical": lambda m: m.D.OneHotCategorical(m.simplex(2, 3)),
    "OneHotCategoricalStraightThrough": lambda m: m.D.OneHotCategoricalStraightThrough(m.simplex(2, 3)),
    "Pareto": lambda m: m.D.Pareto(m.positive(3), m.positive(3, at_least=2.5)),
    "Poisson": lambda m: m.D.Poisson(m.positive(4)),
    "RelaxedBernoulli": lambda m: m.D.RelaxedBernoulli(m.positive(1), m.unit(3)),
    "RelaxedOneHotCategorical": lambda m: m.D.RelaxedOneHotCategorical(m.positive(1), m.simplex(2, 3)),
    "StudentT": lambda m: m.D.StudentT(m.positive(3, at_least=2.5), m.real(3), m.positive(3)),
    "TransformedDistribution": lambda m: m.D.TransformedDistribution(
        m.D.Normal(m.real(3), m.positive(3)),
        [m.D.SigmoidTransform().inv.inv, m.D.AffineTransform(m.real(2, 3), m.positive(3))],
    ),
    "Uniform": lambda m: m.D.Uniform(m.unit(3), m.positive(3, at_least=1.5)),
    "VonMises": lambda m: m.D.VonMises(m.real(3), m.positive(3)),
    "Weibull": lambda m: m.D.Weibull(m.positive(3), m.positive(3, at_least=1.5)),
    "Wishart": lambda m: m.D.Wishart(m.positive(2, at_least=5.0), scale_tril=m.tril(3, 3)),
}
