"""Kullback-Leibler divergences between different families.

KL(p || q) = -H(p) - E log q(x). The logarithm of each density q is a sum of a few functions of x, whose means
under p are its moments: so a family p tells its moments once, a family q what it needs of them, and every
pair follows. Where p reaches outside the support of q, the divergence is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import fanal
from fanal import Tensor
from fanal.distributions.counts import Bernoulli, Binomial, Poisson
from fanal.distributions.exponential import Exponential, Pareto
from fanal.distributions.gamma import Beta, Gamma, log_beta
from fanal.distributions.kl import infinite_where, register_kl
from fanal.distributions.location_scale import Gumbel, Laplace, Uniform
from fanal.distributions.normal import Normal
from fanal.distributions.relaxed import ContinuousBernoulli
from fanal.distributions.utils import euler_constant


class _Moments:
    """The means of functions of x under p, of those that have a closed form."""

    def __init__(self, p: Any) -> None:
        self.p, self.mean, self.variance = p, p.mean, p.variance

    def log(self) -> Tensor:
        """E log x."""
        raise NotImplementedError

    def log_rest(self) -> Tensor:
        """E log(1 - x)."""
        raise NotImplementedError

    def exp(self, t: Tensor) -> Tensor:
        """E exp(-t x)."""
        raise NotImplementedError

    def distance(self, m: Tensor) -> Tensor:
        """E |x - m|."""
        raise NotImplementedError


class _OfBeta(_Moments):
    def log(self) -> Tensor:
        a, b = self.p.concentration1, self.p.concentration0
        return a.digamma() - (a + b).digamma()


class _OfGamma(_Moments):
    def log(self) -> Tensor:
        return self.p.concentration.digamma() - self.p.rate.log()

    def exp(self, t: Tensor) -> Tensor:
        return (1 + t / self.p.rate) ** -self.p.concentration


class _OfExponential(_Moments):
    def log(self) -> Tensor:
        return -euler_constant - self.p.rate.log()

    def exp(self, t: Tensor) -> Tensor:
        return self.p.rate / (self.p.rate + t)


class _OfNormal(_Moments):
    def exp(self, t: Tensor) -> Tensor:
        return fanal.exp(0.5 * (t * self.p.scale) ** 2 - t * self.p.loc)

    def distance(self, m: Tensor) -> Tensor:
        z = (self.p.loc - m) / self.p.scale
        density = math.sqrt(2 / math.pi) * fanal.exp(-0.5 * z**2)
        return self.p.scale * (density + z * fanal.erf(math.sqrt(0.5) * z))


class _OfPareto(_Moments):
    def log(self) -> Tensor:
        return self.p.scale.log() + self.p.alpha.reciprocal()


class _OfUniform(_Moments):
    def _mean_log(self, low: Tensor, high: Tensor) -> Tensor:
        return (fanal.xlogy(high, high) - fanal.xlogy(low, low)) / (high - low) - 1

    def log(self) -> Tensor:
        return self._mean_log(self.p.low, self.p.high)

    def log_rest(self) -> Tensor:
        return self._mean_log(1 - self.p.high, 1 - self.p.low)

    def exp(self, t: Tensor) -> Tensor:
        low, high = self.p.low, self.p.high
        return (fanal.exp(-t * low) - fanal.exp(-t * high)) / (t * (high - low))


# -E log q(x), from the moments of p.


def _to_beta(m: _Moments, q: Beta) -> Tensor:
    a, b = q.concentration1, q.concentration0
    return log_beta(a, b) - (a - 1) * m.log() - (b - 1) * m.log_rest()


def _to_continuous_bernoulli(m: _Moments, q: ContinuousBernoulli) -> Tensor:
    return -m.mean * q.logits - fanal.log1p(-q.probs) - q._cont_bern_log_norm()


def _to_exponential(m: _Moments, q: Exponential) -> Tensor:
    return q.rate * m.mean - q.rate.log()


def _to_gamma(m: _Moments, q: Gamma) -> Tensor:
    a = q.concentration
    return a.lgamma() - a * q.rate.log() + (1 - a) * m.log() + q.rate * m.mean


def _to_gumbel(m: _Moments, q: Gumbel) -> Tensor:
    tail = fanal.exp(q.loc / q.scale) * m.exp(q.scale.reciprocal())
    return q.scale.log() + (m.mean - q.loc) / q.scale + tail


def _to_laplace(m: _Moments, q: Laplace) -> Tensor:
    return fanal.log(2 * q.scale) + m.distance(q.loc) / q.scale


def _to_normal(m: _Moments, q: Normal) -> Tensor:
    spread = (m.variance + (m.mean - q.loc) ** 2) / (2 * q.scale**2)
    return 0.5 * math.log(2 * math.pi) + q.scale.log() + spread


def _to_pareto(m: _Moments, q: Pareto) -> Tensor:
    return (q.alpha + 1) * m.log() - q.alpha.log() - q.alpha * q.scale.log()


def _to_uniform(m: _Moments, q: Uniform) -> Tensor:
    return fanal.log(q.high - q.low)


_COST: dict[type, Callable[[Any, Any], Tensor]] = {
    Beta: _to_beta,
    ContinuousBernoulli: _to_continuous_bernoulli,
    Exponential: _to_exponential,
    Gamma: _to_gamma,
    Gumbel: _to_gumbel,
    Laplace: _to_laplace,
    Normal: _to_normal,
    Pareto: _to_pareto,
    Uniform: _to_uniform,
}
# Where the samples of a family lie; where q allows them (by its parameters, if it has a bound of its own).
_RANGE: dict[type, Callable[[Any], tuple[Any, Any]]] = {
    Beta: lambda d: (0, 1),
    ContinuousBernoulli: lambda d: (0, 1),
    Exponential: lambda d: (0, math.inf),
    Gamma: lambda d: (0, math.inf),
    Gumbel: lambda d: (-math.inf, math.inf),
    Laplace: lambda d: (-math.inf, math.inf),
    Normal: lambda d: (-math.inf, math.inf),
    Pareto: lambda d: (d.scale, math.inf),
    Uniform: lambda d: (d.low, d.high),
}
# p -> its moments and the families q they serve. A pair with a bound that p always exceeds is infinite.
_SERVED: dict[type, tuple[type[_Moments], tuple[type, ...]]] = {
    Beta: (_OfBeta, (ContinuousBernoulli, Exponential, Gamma, Normal, Uniform)),
    ContinuousBernoulli: (_Moments, (Exponential, Normal, Uniform)),
    Exponential: (_OfExponential, (Gamma, Gumbel, Normal)),
    Gamma: (_OfGamma, (Exponential, Gumbel, Normal)),
    Gumbel: (_Moments, (Normal,)),
    Laplace: (_Moments, (Normal,)),
    Normal: (_OfNormal, (Gumbel, Laplace)),
    Pareto: (_OfPareto, (Exponential, Gamma, Normal)),
    Uniform: (_OfUniform, (Beta, ContinuousBernoulli, Exponential, Gamma, Gumbel, Normal, Pareto)),
}
_UNBOUNDED = (
    Beta,
    ContinuousBernoulli,
    Exponential,
    Gamma,
    Pareto,
    Uniform,
)  # p of the whole line leaves all these
_INFINITE: dict[type, tuple[type, ...]] = {
    Beta: (Pareto,),
    ContinuousBernoulli: (Pareto,),
    Exponential: (Beta, ContinuousBernoulli, Pareto, Uniform),
    Gamma: (Beta, ContinuousBernoulli, Pareto, Uniform),
    Gumbel: _UNBOUNDED,
    Laplace: _UNBOUNDED,
    Normal: _UNBOUNDED,
    Pareto: (Beta, ContinuousBernoulli, Uniform),
}


def _finite_pair(p_type: type, q_type: type) -> Callable[[Any, Any], Tensor]:
    moments = _SERVED[p_type][0]

    def kl(p: Any, q: Any) -> Tensor:
        value = _COST[q_type](moments(p), q) - p.entropy()
        (p_low, p_high), (low, high) = _RANGE[p_type](p), _RANGE[q_type](q)
        outside = (p_low < low) | (p_high > high)
        return infinite_where(outside, value) if isinstance(outside, Tensor) else value

    return kl


def _infinite(p: Any, q: Any) -> Tensor:
    return fanal.full_like(p.mean, fanal.inf)


for _p, (_, _family) in _SERVED.items():
    for _q in _family:
        register_kl(_p, _q)(_finite_pair(_p, _q))
for _p, _family in _INFINITE.items():
    for _q in _family:
        register_kl(_p, _q)(_infinite)
for _q in (Bernoulli, Binomial):
    register_kl(Poisson, _q)(_infinite)


@register_kl(Bernoulli, Poisson)
def _bernoulli_poisson(p: Bernoulli, q: Poisson) -> Tensor:
    return q.rate - p.probs * q.rate.log() - p.entropy()
