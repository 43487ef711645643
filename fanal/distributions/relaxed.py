"""Continuous stand-ins for binary and categorical numbers.

Sources: Maddison, Mnih & Teh, "The concrete distribution" (2017); Jang, Gu & Poole, "Categorical
reparameterization with Gumbel-softmax" (2017); Loaiza-Ganem & Cunningham, "The continuous Bernoulli" (2019).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import fanal
from fanal import Size, Tensor
from fanal.distributions import constraints
from fanal.distributions.categorical import Categorical, OfCategorical
from fanal.distributions.composite import TransformedDistribution
from fanal.distributions.counts import OfProbability
from fanal.distributions.distribution import ExponentialFamily
from fanal.distributions.transforms import ExpTransform, SigmoidTransform
from fanal.distributions.utils import broadcast_all, clamp_probs, lazy_property, logits_to_probs, uniform
from fanal.nn import functional as F

__all__ = [
    "ContinuousBernoulli",
    "ExpRelaxedCategorical",
    "LogitRelaxedBernoulli",
    "RelaxedBernoulli",
    "RelaxedOneHotCategorical",
]


class LogitRelaxedBernoulli(OfProbability):
    """Logits of relaxed Bernoulli numbers: a logistic number added to the logit, over the temperature."""

    arg_constraints = {"probs": constraints.unit_interval, "logits": constraints.real}
    support = constraints.real

    def __init__(
        self, temperature: Any, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ) -> None:
        self.temperature = temperature
        name, given = self._take(probs, logits)
        (self.__dict__[name],) = broadcast_all(given)
        super().__init__(self._param.size(), validate_args=validate_args)

    def rsample(self, sample_shape: Sequence[int] = Size()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        p = clamp_probs(self.probs.expand(shape))
        u = clamp_probs(uniform(shape, p))
        return (u.log() - (-u).log1p() + p.log() - (-p).log1p()) / self.temperature

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        logits, value = broadcast_all(self.logits, value)
        apart = logits - value * self.temperature
        return self.temperature.log() + apart - 2 * apart.exp().log1p()


class _OfBase(TransformedDistribution):
    """A transformed distribution that shows the parameters of its base."""

    @property
    def temperature(self) -> Any:
        return self.base_dist.temperature

    @property
    def logits(self) -> Tensor:
        return self.base_dist.logits

    @property
    def probs(self) -> Tensor:
        return self.base_dist.probs


class RelaxedBernoulli(_OfBase):
    """Numbers in (0, 1), near 0 or 1 for a low temperature."""

    arg_constraints = {"probs": constraints.unit_interval, "logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(
        self, temperature: Any, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ) -> None:
        base = LogitRelaxedBernoulli(temperature, probs, logits)
        super().__init__(base, SigmoidTransform(), validate_args=validate_args)


class ExpRelaxedCategorical(OfCategorical):
    """Logarithms of relaxed one-hot vectors: a Gumbel number added to each logit, over the temperature."""

    arg_constraints = {"probs": constraints.simplex, "logits": constraints.real_vector}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, temperature: Any, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ) -> None:
        self._categorical = Categorical(probs, logits)
        self.temperature = temperature
        shape = self._categorical.param_shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    def rsample(self, sample_shape: Sequence[int] = Size()) -> Tensor:
        u = clamp_probs(uniform(self._extended_shape(sample_shape), self.logits))
        scores = (self.logits - (-u.log()).log()) / self.temperature
        return scores - scores.logsumexp(dim=-1, keepdim=True)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        k = self._event_shape[0]
        logits, value = broadcast_all(self.logits, value)
        score = logits - value * self.temperature
        score = (score - score.logsumexp(dim=-1, keepdim=True)).sum(-1)
        return score + (math.lgamma(k) + self.temperature.log() * (k - 1))


class RelaxedOneHotCategorical(_OfBase):
    """Points of the simplex, near its corners for a low temperature."""

    arg_constraints = {"probs": constraints.simplex, "logits": constraints.real_vector}
    support = constraints.simplex
    has_rsample = True

    def __init__(
        self, temperature: Any, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ) -> None:
        base = ExpRelaxedCategorical(temperature, probs, logits, validate_args=validate_args)
        super().__init__(base, ExpTransform(), validate_args=validate_args)


class ContinuousBernoulli(OfProbability, ExponentialFamily):
    """Density proportional to p**x (1 - p)**(1 - x) on [0, 1].

    Between the two `lims`, around p = 1/2, closed forms cancel and a Taylor series takes their place.
    """

    arg_constraints = {"probs": constraints.unit_interval, "logits": constraints.real}
    support = constraints.unit_interval
    _mean_carrier_measure = 0
    has_rsample = True

    def __init__(
        self,
        probs: Any = None,
        logits: Any = None,
        lims: tuple[float, float] = (0.499, 0.501),
        validate_args: bool | None = None,
    ) -> None:
        name, given = self._take(probs, logits)
        (value,) = broadcast_all(given)
        if name == "probs":
            # checked before the clamp, after which every number would pass
            if validate_args is not None and not self.arg_constraints["probs"].check(value).all():
                raise ValueError("The parameter probs has invalid values")
            value = clamp_probs(value)
        self.__dict__[name] = value
        self._lims = lims
        super().__init__(value.size(), validate_args=validate_args)

    @lazy_property
    def probs(self) -> Tensor:
        return clamp_probs(logits_to_probs(self.logits, is_binary=True))

    def _outside_unstable_region(self) -> Tensor:
        return (self.probs <= self._lims[0]) | (self.probs > self._lims[1])

    def _cut_probs(self) -> Tensor:
        """The probabilities, moved to the lower limit where closed forms cancel."""
        return fanal.where(self._outside_unstable_region(), self.probs, self._lims[0])

    def _cont_bern_log_norm(self) -> Tensor:
        """log of the normalising constant, 2 artanh(1 - 2 p) / (1 - 2 p)."""
        p = self._cut_probs()
        closed = fanal.log(fanal.abs(fanal.log1p(-p) - p.log())) - fanal.log(fanal.abs(1 - 2.0 * p))
        x = (self.probs - 0.5) ** 2
        series = math.log(2.0) + (4.0 / 3.0 + 104.0 / 45.0 * x) * x
        return fanal.where(self._outside_unstable_region(), closed, series)

    @property
    def mean(self) -> Tensor:
        p, x = self._cut_probs(), self.probs - 0.5
        closed = p / (2.0 * p - 1.0) + 1.0 / (fanal.log1p(-p) - p.log())
        series = 0.5 + (1.0 / 3.0 + 16.0 / 45.0 * x**2) * x
        return fanal.where(self._outside_unstable_region(), closed, series)

    @property
    def variance(self) -> Tensor:
        p, x = self._cut_probs(), (self.probs - 0.5) ** 2
        closed = p * (p - 1.0) / (1.0 - 2.0 * p) ** 2 + 1.0 / (fanal.log1p(-p) - p.log()) ** 2
        series = 1.0 / 12.0 - (1.0 / 15.0 - 128.0 / 945.0 * x) * x
        return fanal.where(self._outside_unstable_region(), closed, series)

    def rsample(self, sample_shape: Sequence[int] = Size()) -> Tensor:
        return self.icdf(uniform(self._extended_shape(sample_shape), self.probs))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        logits, value = broadcast_all(self.logits, value)
        like_bernoulli = F.binary_cross_entropy_with_logits(logits, value, reduction="none")
        return self._cont_bern_log_norm() - like_bernoulli

    def cdf(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        p = self._cut_probs()
        closed = (p**value * (1.0 - p) ** (1.0 - value) + p - 1.0) / (2.0 * p - 1.0)
        inside = fanal.where(self._outside_unstable_region(), closed, value)
        return fanal.where(value <= 0, 0.0, fanal.where(value >= 1, 1.0, inside))

    def icdf(self, value: Tensor) -> Tensor:
        p = self._cut_probs()
        log_rest = fanal.log1p(-p)
        closed = (fanal.log1p(-p + value * (2.0 * p - 1.0)) - log_rest) / (p.log() - log_rest)
        return fanal.where(self._outside_unstable_region(), closed, value)

    def entropy(self) -> Tensor:
        log_rest = fanal.log1p(-self.probs)
        return self.mean * (log_rest - self.probs.log()) - self._cont_bern_log_norm() - log_rest

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return (self.logits,)

    def _log_normalizer(self, x: Tensor) -> Tensor:  # type: ignore[override]
        low, high = self._lims[0] - 0.5, self._lims[1] - 0.5
        outside = (x <= low) | (x > high)
        cut = fanal.where(outside, x, low)
        closed = fanal.log(fanal.abs(fanal.expm1(cut))) - fanal.log(fanal.abs(cut))
        return fanal.where(outside, closed, 0.5 * x + x**2 / 24.0 - x**4 / 2880.0)
