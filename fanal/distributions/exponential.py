"""The exponential distribution and what is made of it, and powers of uniform numbers (Kumaraswamy)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fanal
from fanal import Size, Tensor
from fanal.distributions import constraints
from fanal.distributions.composite import TransformedDistribution
from fanal.distributions.distribution import Distribution, ExponentialFamily
from fanal.distributions.gamma import Gamma, log_beta
from fanal.distributions.location_scale import Uniform
from fanal.distributions.transforms import AffineTransform, ExpTransform, PowerTransform
from fanal.distributions.utils import broadcast_all, euler_constant, uniform

__all__ = ["Exponential", "GeneralizedPareto", "InverseGamma", "Kumaraswamy", "Pareto", "Weibull"]


class Exponential(ExponentialFamily):
    """Waiting times for events that come at `rate`."""

    arg_constraints = {"rate": constraints.positive}
    support = constraints.nonnegative
    has_rsample = True
    _mean_carrier_measure = 0

    def __init__(self, rate: Any, validate_args: bool | None = None) -> None:
        (self.rate,) = broadcast_all(rate)
        super().__init__(self.rate.size(), validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.rate.reciprocal()

    @property
    def mode(self) -> Tensor:
        return fanal.zeros_like(self.rate)

    @property
    def stddev(self) -> Tensor:
        return self.rate.reciprocal()

    @property
    def variance(self) -> Tensor:
        return self.rate.pow(-2)

    def rsample(self, sample_shape: Sequence[int] = Size()) -> Tensor:
        return self.rate.new_empty(self._extended_shape(sample_shape)).exponential_() / self.rate

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self.rate.log() - self.rate * value

    def cdf(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return 1 - fanal.exp(-self.rate * value)

    def icdf(self, value: Tensor) -> Tensor:
        return -fanal.log1p(-value) / self.rate

    def entropy(self) -> Tensor:
        return 1.0 - fanal.log(self.rate)

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return (-self.rate,)

    def _log_normalizer(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return -fanal.log(-x)


class InverseGamma(TransformedDistribution):
    """1 / x of a gamma number x."""

    arg_constraints = {"concentration": constraints.positive, "rate": constraints.positive}
    support = constraints.positive
    has_rsample = True

    def __init__(self, concentration: Any, rate: Any, validate_args: bool | None = None) -> None:
        base = Gamma(concentration, rate, validate_args=validate_args)
        super().__init__(base, PowerTransform(-base.rate.new_ones(())), validate_args=validate_args)

    @property
    def concentration(self) -> Tensor:
        return self.base_dist.concentration

    @property
    def rate(self) -> Tensor:
        return self.base_dist.rate

    @property
    def mean(self) -> Tensor:
        a = self.concentration
        return fanal.where(a > 1, self.rate / (a - 1), fanal.inf)

    @property
    def mode(self) -> Tensor:
        return self.rate / (self.concentration + 1)

    @property
    def variance(self) -> Tensor:
        a = self.concentration
        return fanal.where(a > 2, self.rate.square() / ((a - 1).square() * (a - 2)), fanal.inf)

    def entropy(self) -> Tensor:
        a = self.concentration
        return a + self.rate.log() + a.lgamma() - (1 + a) * a.digamma()


class Weibull(TransformedDistribution):
    """scale * x**(1 / concentration), x exponential."""

    arg_constraints = {"scale": constraints.positive, "concentration": constraints.positive}
    support = constraints.positive

    def __init__(self, scale: Any, concentration: Any, validate_args: bool | None = None) -> None:
        self.scale, self.concentration = broadcast_all(scale, concentration)
        base = Exponential(fanal.ones_like(self.scale), validate_args=False)
        transforms = [
            PowerTransform(exponent=self.concentration_reciprocal),
            AffineTransform(loc=0, scale=self.scale),
        ]
        super().__init__(base, transforms, validate_args=validate_args)

    @property
    def concentration_reciprocal(self) -> Tensor:
        return self.concentration.reciprocal()

    @property
    def mean(self) -> Tensor:
        return self.scale * fanal.exp(fanal.lgamma(1 + self.concentration_reciprocal))

    @property
    def mode(self) -> Tensor:
        inverse = self.concentration_reciprocal
        return self.scale * ((self.concentration - 1) / self.concentration) ** inverse

    @property
    def variance(self) -> Tensor:
        inverse = self.concentration_reciprocal
        second, first = fanal.lgamma(1 + 2 * inverse), fanal.lgamma(1 + inverse)
        return self.scale.pow(2) * (second.exp() - (2 * first).exp())

    def entropy(self) -> Tensor:
        inverse = self.concentration_reciprocal
        return euler_constant * (1 - inverse) + fanal.log(self.scale * inverse) + 1


class Pareto(TransformedDistribution):
    """scale * exp(x), x exponential of rate `alpha`."""

    arg_constraints = {"alpha": constraints.positive, "scale": constraints.positive}

    def __init__(self, scale: Any, alpha: Any, validate_args: bool | None = None) -> None:
        self.scale, self.alpha = broadcast_all(scale, alpha)
        base = Exponential(self.alpha, validate_args=validate_args)
        transforms = [ExpTransform(), AffineTransform(loc=0, scale=self.scale)]
        super().__init__(base, transforms, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        return constraints.greater_than_eq(self.scale)

    @property
    def mean(self) -> Tensor:
        a = self.alpha.clamp(min=1)  # infinite up to there
        return a * self.scale / (a - 1)

    @property
    def mode(self) -> Tensor:
        return self.scale

    @property
    def variance(self) -> Tensor:
        a = self.alpha.clamp(min=2)
        return self.scale.pow(2) * a / ((a - 1).pow(2) * (a - 2))

    def entropy(self) -> Tensor:
        return (self.scale / self.alpha).log() + (1 + self.alpha.reciprocal())


class Kumaraswamy(TransformedDistribution):
    """(1 - u**(1 / concentration0))**(1 / concentration1), u uniform: much like a beta number."""

    arg_constraints = {"concentration1": constraints.positive, "concentration0": constraints.positive}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, concentration1: Any, concentration0: Any, validate_args: bool | None = None) -> None:
        self.concentration1, self.concentration0 = broadcast_all(concentration1, concentration0)
        zero = fanal.zeros_like(self.concentration0)
        transforms = [
            PowerTransform(exponent=self.concentration0.reciprocal()),
            AffineTransform(loc=1.0, scale=-1.0),
            PowerTransform(exponent=self.concentration1.reciprocal()),
        ]
        super().__init__(
            Uniform(zero, zero + 1, validate_args=False), transforms, validate_args=validate_args
        )

    def _moment(self, n: int) -> Tensor:
        """E x**n = b B(1 + n / a, b)."""
        b = self.concentration0
        return b * log_beta(1 + n / self.concentration1, b).exp()

    @property
    def mean(self) -> Tensor:
        return self._moment(1)

    @property
    def mode(self) -> Tensor:
        a, b = self.concentration1, self.concentration0
        return fanal.where((a >= 1) & (b >= 1), ((a - 1) / (a * b - 1)) ** a.reciprocal(), fanal.nan)

    @property
    def variance(self) -> Tensor:
        return self._moment(2) - self.mean.pow(2)

    def entropy(self) -> Tensor:
        a, b = self.concentration1, self.concentration0
        harmonic = fanal.digamma(b + 1) + euler_constant
        return 1 - b.reciprocal() + (1 - a.reciprocal()) * harmonic - a.log() - b.log()


class GeneralizedPareto(Distribution):
    """Excesses over a threshold `loc`; exponential where `concentration` is 0.

    Source: Hosking & Wallis, "Parameter and quantile estimation for the generalized Pareto distribution",
    Technometrics 29 (1987).
    """

    arg_constraints = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "concentration": constraints.real,
    }
    has_rsample = True

    def __init__(self, loc: Any, scale: Any, concentration: Any, validate_args: bool | None = None) -> None:
        self.loc, self.scale, self.concentration = broadcast_all(loc, scale, concentration)
        super().__init__(self.loc.size(), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        c = self.concentration
        return constraints.interval(self.loc, fanal.where(c < 0, self.loc - self.scale / c, fanal.inf))

    def _exponential_where(self) -> tuple[Tensor, Tensor]:
        """Return where the concentration is 0, and the concentration with 1 there."""
        zero = fanal.isclose(self.concentration, fanal.zeros_like(self.concentration))
        return zero, fanal.where(zero, 1.0, self.concentration)

    def _z(self, x: Tensor) -> Tensor:
        return (x - self.loc) / self.scale

    @property
    def mean(self) -> Tensor:
        c = self.concentration
        return fanal.where(c < 1, self.loc + self.scale / (1 - fanal.where(c < 1, c, 0.5)), fanal.nan)

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        c = fanal.where(self.concentration < 0.5, self.concentration, 0.25)
        variance = self.scale**2 / ((1 - c) ** 2 * (1 - 2 * c))
        return fanal.where(self.concentration < 0.5, variance, fanal.nan)

    def rsample(self, sample_shape: Sequence[int] = Size()) -> Tensor:
        return self.icdf(uniform(self._extended_shape(sample_shape), self.loc))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        z = self._z(value)
        zero, c = self._exponential_where()
        power = 1 / c + 1
        fall = fanal.where(power == 0, power, power * fanal.log1p(c * z))
        return -self.scale.log() - fanal.where(zero, z, fall)

    def log_survival_function(self, value: Tensor) -> Tensor:
        """Return the logarithm of the probability of larger samples."""
        if self._validate_args:
            self._validate_sample(value)
        z = self._z(value)
        zero, c = self._exponential_where()
        return fanal.where(zero, -z, -fanal.log1p(c * z) / c)

    def log_cdf(self, value: Tensor) -> Tensor:
        """Return the logarithm of the probability of samples up to `value`."""
        return fanal.log1p(-fanal.exp(self.log_survival_function(value)))

    def cdf(self, value: Tensor) -> Tensor:
        return fanal.exp(self.log_cdf(value))

    def icdf(self, value: Tensor) -> Tensor:
        zero, c = self._exponential_where()
        log_rest = fanal.log1p(-value)
        curved = self.loc + self.scale / c * fanal.expm1(-c * log_rest)
        return fanal.where(zero, self.loc - self.scale * log_rest, curved)

    def entropy(self) -> Tensor:
        return fanal.broadcast_to(self.scale.log() + self.concentration + 1, self._batch_shape)
