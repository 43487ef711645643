"""Probability distributions that can be sampled, scored, and differentiated, as torch.distributions.

Distributions of one family share a file; PyTorch's module of each class (torch.distributions.normal and so
on) is another name of it.
"""

from __future__ import annotations

import sys

from fanal.core.base.missing import finder
from fanal.distributions import (
    categorical,
    composite,
    constraint_registry,
    constraints,
    counts,
    distribution,
    exponential,
    gamma,
    kl,
    kl_pairs,
    location_scale,
    matrix,
    multivariate_normal,
    normal,
    relaxed,
    transforms,
    utils,
)
from fanal.distributions.categorical import (
    Categorical,
    Multinomial,
    OneHotCategorical,
    OneHotCategoricalStraightThrough,
)
from fanal.distributions.composite import Independent, MixtureSameFamily, TransformedDistribution
from fanal.distributions.constraint_registry import biject_to, transform_to
from fanal.distributions.counts import Bernoulli, Binomial, Geometric, NegativeBinomial, Poisson
from fanal.distributions.distribution import Distribution, ExponentialFamily
from fanal.distributions.exponential import (
    Exponential,
    GeneralizedPareto,
    InverseGamma,
    Kumaraswamy,
    Pareto,
    Weibull,
)
from fanal.distributions.gamma import Beta, Chi2, Dirichlet, FisherSnedecor, Gamma, StudentT
from fanal.distributions.kl import kl_divergence, register_kl
from fanal.distributions.location_scale import Cauchy, Gumbel, HalfCauchy, Laplace, Uniform, VonMises
from fanal.distributions.matrix import LKJCholesky, Wishart
from fanal.distributions.multivariate_normal import LowRankMultivariateNormal, MultivariateNormal
from fanal.distributions.normal import HalfNormal, LogisticNormal, LogNormal, Normal
from fanal.distributions.relaxed import ContinuousBernoulli, RelaxedBernoulli, RelaxedOneHotCategorical
from fanal.distributions.transforms import *  # noqa: F403

_MODULES = {
    categorical: "multinomial one_hot_categorical",
    composite: "independent mixture_same_family transformed_distribution",
    counts: "bernoulli binomial geometric negative_binomial poisson",
    distribution: "exp_family",
    exponential: "generalized_pareto inverse_gamma kumaraswamy pareto weibull",
    gamma: "beta chi2 dirichlet fishersnedecor studentT",
    location_scale: "cauchy gumbel half_cauchy laplace uniform von_mises",
    matrix: "lkj_cholesky wishart",
    multivariate_normal: "lowrank_multivariate_normal",
    normal: "half_normal log_normal logistic_normal",
    relaxed: "continuous_bernoulli relaxed_bernoulli relaxed_categorical",
}
for _module, _names in _MODULES.items():
    for _name in _names.split():
        sys.modules[f"{__name__}.{_name}"] = globals()[_name] = _module

__getattr__ = finder("torch.distributions")
