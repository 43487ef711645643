"""Kullback-Leibler divergences: the table of pairs, and those of two distributions of one family.

Pairs of different families are in `kl_pairs`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import fanal
from fanal import Tensor
from fanal.distributions.categorical import Categorical, OneHotCategorical
from fanal.distributions.composite import Independent, TransformedDistribution
from fanal.distributions.counts import Bernoulli, Binomial, Geometric, Poisson
from fanal.distributions.distribution import Distribution, ExponentialFamily
from fanal.distributions.exponential import Exponential, Pareto
from fanal.distributions.gamma import Beta, Dirichlet, Gamma, log_beta
from fanal.distributions.location_scale import Cauchy, Gumbel, Laplace, Uniform
from fanal.distributions.multivariate_normal import (
    LowRankMultivariateNormal,
    MultivariateNormal,
    kl_normal_vectors,
)
from fanal.distributions.normal import HalfNormal, Normal
from fanal.distributions.relaxed import ContinuousBernoulli
from fanal.distributions.utils import euler_constant, sum_rightmost
from fanal.nn.functional import softplus

__all__ = ["kl_divergence", "register_kl"]

_REGISTRY: dict[tuple[type, type], Callable[[Any, Any], Tensor]] = {}
_FOUND: dict[tuple[type, type], Callable[[Any, Any], Tensor] | None] = {}


def register_kl(type_p: type, type_q: type) -> Callable:
    """Register the decorated function for KL(p || q) of two classes; subclasses find the most specific one.

    Raises: TypeError for what is no class. It may be one that is no Distribution: a library's common base of its own.
    """
    for name, kind in (("type_p", type_p), ("type_q", type_q)):
        if not isinstance(kind, type):
            raise TypeError(f"register_kl(): {name} must be a class, but got {kind}")

    def decorator(fun: Callable) -> Callable:
        _REGISTRY[type_p, type_q] = fun
        _FOUND.clear()
        return fun

    return decorator


def _most_specific(type_p: type, type_q: type) -> Callable[[Any, Any], Tensor] | None:
    """Return the function of the nearest base classes; warn where p and q do not agree on which that is."""
    depth = lambda kind, base: kind.__mro__.index(base)
    matches = [(p, q) for p, q in _REGISTRY if issubclass(type_p, p) and issubclass(type_q, q)]
    if not matches:
        return None
    by_p = min(matches, key=lambda m: (depth(type_p, m[0]), depth(type_q, m[1])))
    by_q = min(matches, key=lambda m: (depth(type_q, m[1]), depth(type_p, m[0])))
    if _REGISTRY[by_p] is not _REGISTRY[by_q]:
        warnings.warn(
            f"Ambiguous kl_divergence({type_p.__name__}, {type_q.__name__}). "
            f"Please register_kl({by_p[0].__name__}, {by_q[1].__name__})",
            RuntimeWarning,
            stacklevel=3,
        )
    return _REGISTRY[by_p]


def kl_divergence(p: Distribution, q: Distribution) -> Tensor:
    """Return KL(p || q), the mean of log p(x) - log q(x) for x of p. Shapes: batch_shape.

    Raises: NotImplementedError for classes that nobody has registered.
    """
    key = type(p), type(q)
    if key not in _FOUND:
        _FOUND[key] = _most_specific(*key)
    fun = _FOUND[key]
    if fun is None:
        raise NotImplementedError(
            f"No KL(p || q) is implemented for p type {p.__class__.__name__} and q type {q.__class__.__name__}"
        )
    return fun(p, q)


def infinite_where(outside: Tensor, value: Tensor) -> Tensor:
    """Return infinity where p reaches outside the support of q."""
    return fanal.where(outside, fanal.inf, value)


# Discrete distributions.


@register_kl(Bernoulli, Bernoulli)
def _bernoulli(p: Bernoulli, q: Bernoulli) -> Tensor:
    # log p = -softplus(-logit), log(1 - p) = -softplus(logit)
    one = p.probs * (softplus(-q.logits) - softplus(-p.logits))
    one = fanal.where(p.probs == 0, 0.0, infinite_where(q.probs == 0, one))
    zero = (1 - p.probs) * (softplus(q.logits) - softplus(p.logits))
    zero = fanal.where(p.probs == 1, 0.0, infinite_where(q.probs == 1, zero))
    return one + zero


@register_kl(Binomial, Binomial)
def _binomial(p: Binomial, q: Binomial) -> Tensor:
    if (p.total_count < q.total_count).any():
        raise NotImplementedError(
            "KL between Binomials where q.total_count > p.total_count is not implemented"
        )
    one_trial = p.probs * (p.logits - q.logits) + (-p.probs).log1p() - (-q.probs).log1p()
    return infinite_where(p.total_count > q.total_count, p.total_count * one_trial)


@register_kl(Categorical, Categorical)
def _categorical(p: Categorical, q: Categorical) -> Tensor:
    terms = infinite_where(q.probs == 0, p.probs * (p.logits - q.logits))
    return fanal.where(p.probs == 0, 0.0, terms).sum(-1)


@register_kl(OneHotCategorical, OneHotCategorical)
def _one_hot(p: OneHotCategorical, q: OneHotCategorical) -> Tensor:
    return _categorical(p._categorical, q._categorical)


@register_kl(Geometric, Geometric)
def _geometric(p: Geometric, q: Geometric) -> Tensor:
    return -p.entropy() - fanal.log1p(-q.probs) / p.probs - q.logits


@register_kl(Poisson, Poisson)
def _poisson(p: Poisson, q: Poisson) -> Tensor:
    return p.rate * (p.rate.log() - q.rate.log()) - (p.rate - q.rate)


# Numbers.


@register_kl(Normal, Normal)
def _normal(p: Normal, q: Normal) -> Tensor:
    ratio = (p.scale / q.scale).pow(2)
    return 0.5 * (ratio + ((p.loc - q.loc) / q.scale).pow(2) - 1 - ratio.log())


@register_kl(HalfNormal, HalfNormal)
def _half_normal(p: HalfNormal, q: HalfNormal) -> Tensor:
    return _normal(p.base_dist, q.base_dist)  # type: ignore[arg-type]


@register_kl(Cauchy, Cauchy)
def _cauchy(p: Cauchy, q: Cauchy) -> Tensor:
    # Chyzak & Nielsen, "A closed-form formula for the KL divergence between Cauchy distributions" (2019)
    apart = (p.scale + q.scale).pow(2) + (p.loc - q.loc).pow(2)
    return apart.log() - (4 * p.scale * q.scale).log()


@register_kl(Exponential, Exponential)
def _exponential(p: Exponential, q: Exponential) -> Tensor:
    ratio = q.rate / p.rate
    return ratio - 1 - ratio.log()


@register_kl(Gamma, Gamma)
def _gamma(p: Gamma, q: Gamma) -> Tensor:
    a, b = p.concentration, q.concentration
    norms = b * (p.rate / q.rate).log() + b.lgamma() - a.lgamma()
    return norms + (a - b) * a.digamma() + (q.rate - p.rate) * (a / p.rate)


@register_kl(Gumbel, Gumbel)
def _gumbel(p: Gumbel, q: Gumbel) -> Tensor:
    ratio, apart = p.scale / q.scale, (p.loc - q.loc) / q.scale
    tail = fanal.exp((1 + ratio).lgamma() - apart)
    return apart - ratio.log() + ratio * euler_constant + tail - (1 + euler_constant)


@register_kl(Laplace, Laplace)
def _laplace(p: Laplace, q: Laplace) -> Tensor:
    ratio, apart = p.scale / q.scale, (p.loc - q.loc).abs()
    return apart / q.scale + ratio * fanal.exp(-apart / p.scale) - ratio.log() - 1


@register_kl(Pareto, Pareto)
def _pareto(p: Pareto, q: Pareto) -> Tensor:
    ratio = q.alpha / p.alpha
    value = q.alpha * (p.scale / q.scale).log() - ratio.log() + ratio - 1
    return infinite_where(p.scale < q.scale, value)


@register_kl(Uniform, Uniform)
def _uniform(p: Uniform, q: Uniform) -> Tensor:
    outside = (q.low > p.low) | (q.high < p.high)
    return infinite_where(outside, ((q.high - q.low) / (p.high - p.low)).log())


@register_kl(Beta, Beta)
def _beta(p: Beta, q: Beta) -> Tensor:
    a, b, c, d = p.concentration1, p.concentration0, q.concentration1, q.concentration0
    means = (a - c) * a.digamma() + (b - d) * b.digamma() + (c + d - a - b) * (a + b).digamma()
    return log_beta(c, d) - log_beta(a, b) + means


@register_kl(ContinuousBernoulli, ContinuousBernoulli)
def _continuous_bernoulli(p: ContinuousBernoulli, q: ContinuousBernoulli) -> Tensor:
    of_p = p._cont_bern_log_norm() + fanal.log1p(-p.probs)
    of_q = q._cont_bern_log_norm() + fanal.log1p(-q.probs)
    return p.mean * (p.logits - q.logits) + of_p - of_q


# Vectors.


@register_kl(Dirichlet, Dirichlet)
def _dirichlet(p: Dirichlet, q: Dirichlet) -> Tensor:
    a, b = p.concentration, q.concentration
    norms = a.sum(-1).lgamma() - b.sum(-1).lgamma() - (a.lgamma() - b.lgamma()).sum(-1)
    return norms + ((a - b) * (a.digamma() - a.sum(-1, keepdim=True).digamma())).sum(-1)


for _p in (MultivariateNormal, LowRankMultivariateNormal):
    for _q in (MultivariateNormal, LowRankMultivariateNormal):
        register_kl(_p, _q)(kl_normal_vectors)


# Families of families.


@register_kl(ExponentialFamily, ExponentialFamily)
def _exponential_family(p: ExponentialFamily, q: ExponentialFamily) -> Tensor:
    """The Bregman divergence of the log-normaliser."""
    if type(p) is not type(q):
        raise NotImplementedError(
            "The cross KL-divergence between different exponential families cannot be computed using Bregman "
            "divergences"
        )
    log_norm, natural, means = p._normalizer_and_means()
    others = q._natural_params
    result = q._log_normalizer(*others) - log_norm
    for n, other, mean in zip(natural, others, means):
        result = result - sum_rightmost((other - n) * mean, len(q.event_shape))
    return result


@register_kl(TransformedDistribution, TransformedDistribution)
def _transformed(p: TransformedDistribution, q: TransformedDistribution) -> Tensor:
    if p.transforms != q.transforms or p.event_shape != q.event_shape:
        raise NotImplementedError
    return kl_divergence(p.base_dist, q.base_dist)


@register_kl(Independent, Independent)
def _independent(p: Independent, q: Independent) -> Tensor:
    if p.reinterpreted_batch_ndims != q.reinterpreted_batch_ndims:
        raise NotImplementedError
    return sum_rightmost(kl_divergence(p.base_dist, q.base_dist), p.reinterpreted_batch_ndims)
