"""The base classes of all distributions: shapes, checks, sampling, and what follows from densities."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import fanal
from fanal import Size, Tensor
from fanal.distributions import constraints
from fanal.distributions.utils import lazy_property, sum_rightmost

__all__ = ["Distribution", "ExponentialFamily"]


class Distribution:
    """A probability distribution over events of `event_shape`, for each of `batch_shape` parameters.

    Subclasses list their parameters in `arg_constraints`. With validate_args (the default), parameters are
    read and checked when the distribution is made, values when their density is asked for.
    """

    has_rsample = False
    has_enumerate_support = False
    _validate_args = __debug__

    @staticmethod
    def set_default_validate_args(value: bool) -> None:
        """Turn the checks on or off for distributions that do not say."""
        if value not in (True, False):
            raise ValueError
        Distribution._validate_args = value

    def __init__(
        self,
        batch_shape: Sequence[int] = Size(),
        event_shape: Sequence[int] = Size(),
        validate_args: bool | None = None,
    ) -> None:
        self._batch_shape, self._event_shape = Size(batch_shape), Size(event_shape)
        if validate_args is not None:
            self._validate_args = validate_args
        if self._validate_args:
            self._check_parameters()
        super().__init__()  # there may be another base

    def _check_parameters(self) -> None:
        """Raise ValueError, naming the first parameter outside its constraint."""
        try:
            wanted = self.arg_constraints
        except NotImplementedError:
            warnings.warn(
                f"{self.__class__} does not define `arg_constraints`. Please set `arg_constraints = {{}}` or "
                "initialize the distribution with `validate_args=False` to turn off validation.",
                stacklevel=4,
            )
            return
        checks = []
        for name, constraint in wanted.items():
            derived = name not in self.__dict__ and isinstance(getattr(type(self), name), lazy_property)
            if not constraints.is_dependent(constraint) and not derived:
                checks.append((name, constraint, constraint.check(getattr(self, name)).all()))
        # One read for all parameters: the work recorded so far runs when a value is asked for.
        if checks and not fanal.stack([valid for _, _, valid in checks]).all():
            name, constraint, _ = next(c for c in checks if not c[2])
            value = getattr(self, name)
            raise ValueError(
                f"Expected parameter {name} ({type(value).__name__} of shape {tuple(value.shape)}) of distribution "
                f"{self!r} to satisfy the constraint {constraint!r}, but found invalid values:\n{value}"
            )

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the distribution with its parameters expanded to `batch_shape`, without copying them."""
        home = next(c for c in type(self).__mro__ if c.__module__.startswith("fanal.distributions."))
        if home in (Distribution, ExponentialFamily):
            raise NotImplementedError
        return self._expanded(self._get_checked_instance(home, _instance), Size(batch_shape))

    def _expanded(self, new: Any, batch_shape: Size) -> Any:
        """Fill a new instance: parameters, and distributions made from them, are expanded."""
        wanted = self.arg_constraints
        for name, value in self.__dict__.items():
            if name in wanted and isinstance(value, Tensor):
                event = value.shape[value.dim() - wanted[name].event_dim :]
                new.__dict__[name] = value.expand(batch_shape + event)
            elif isinstance(value, Distribution):
                new.__dict__[name] = value.expand(batch_shape)
            elif not isinstance(getattr(type(self), name, None), lazy_property):
                new.__dict__[name] = value
        new._batch_shape = batch_shape
        return new

    def _get_checked_instance(self, cls: type, _instance: Any = None) -> Any:
        if _instance is None and type(self).__init__ != cls.__init__:
            raise NotImplementedError(
                f"Subclass {self.__class__.__name__} of {cls.__name__} that defines a custom __init__ method "
                "must also define a custom .expand() method."
            )
        return self.__new__(type(self)) if _instance is None else _instance

    @property
    def batch_shape(self) -> Size:
        """The shape over which parameters are batched."""
        return self._batch_shape

    @property
    def event_shape(self) -> Size:
        """The shape of a single sample."""
        return self._event_shape

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """The constraint of each parameter, by its name."""
        raise NotImplementedError

    @property
    def support(self) -> Any:
        """The constraint of a sample."""
        raise NotImplementedError

    @property
    def mean(self) -> Tensor:
        raise NotImplementedError

    @property
    def mode(self) -> Tensor:
        raise NotImplementedError(f"{self.__class__} does not implement mode")

    @property
    def variance(self) -> Tensor:
        raise NotImplementedError

    @property
    def stddev(self) -> Tensor:
        return self.variance.sqrt()

    def sample(self, sample_shape: Sequence[int] = Size()) -> Tensor:
        """Draw samples, without gradient. Shapes: sample_shape + batch_shape + event_shape."""
        with fanal.no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Sequence[int] = Size()) -> Tensor:
        """Draw samples that are differentiable functions of the parameters."""
        raise NotImplementedError

    def sample_n(self, n: int) -> Tensor:
        """Draw `n` samples."""
        warnings.warn(
            "sample_n(n) will be deprecated. Use .sample((n,)) instead", FutureWarning, stacklevel=2
        )
        return self.sample(Size((n,)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the logarithm of the density (or probability) at `value`."""
        raise NotImplementedError

    def cdf(self, value: Tensor) -> Tensor:
        """Return the probability of samples up to `value`."""
        raise NotImplementedError

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantile of a probability."""
        raise NotImplementedError

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return all values that a discrete distribution can take, along a new first dimension."""
        raise NotImplementedError

    def _enumerated(self, values: Tensor, expand: bool) -> Tensor:
        """Return values (a vector) of a distribution over numbers in the shape of `enumerate_support`."""
        values = values.reshape(-1, *[1] * len(self._batch_shape))
        return values.expand(-1, *self._batch_shape) if expand else values

    def entropy(self) -> Tensor:
        """Return the entropy, in nats."""
        raise NotImplementedError

    def perplexity(self) -> Tensor:
        """Return exp of the entropy."""
        return fanal.exp(self.entropy())

    def _extended_shape(self, sample_shape: Sequence[int] = Size()) -> Size:
        return Size(sample_shape) + self._batch_shape + self._event_shape

    def _validate_sample(self, value: Any) -> None:
        """Raise ValueError for a value of a wrong shape or outside the support."""
        if not isinstance(value, Tensor):
            raise ValueError("The value argument to log_prob must be a Tensor")
        cut = value.dim() - len(self._event_shape)
        if value.shape[cut:] != self._event_shape:
            raise ValueError(
                f"The right-most size of value must match event_shape: {value.size()} vs {self._event_shape}."
            )
        expected = self._batch_shape + self._event_shape
        if any(i != 1 and j != 1 and i != j for i, j in zip(reversed(value.shape), reversed(expected))):
            raise ValueError(
                f"Value is not broadcastable with batch_shape+event_shape: {value.shape} vs {expected}."
            )
        try:
            support = self.support
        except NotImplementedError:
            warnings.warn(
                f"{self.__class__} does not define `support` to enable sample validation. Please initialize the "
                "distribution with `validate_args=False` to turn off validation.",
                stacklevel=3,
            )
            return
        if not support.check(value).all():
            raise ValueError(
                f"Expected value argument ({type(value).__name__} of shape {tuple(value.shape)}) to be within the "
                f"support ({support!r}) of the distribution {self!r}, but found invalid values:\n{value}"
            )

    def __repr__(self) -> str:
        own = {k: self.__dict__[k] for k in self.arg_constraints if k in self.__dict__}
        shown = (f"{k}: {v if v.numel() == 1 else v.size()}" for k, v in own.items())
        return f"{self.__class__.__name__}({', '.join(shown)})"


class ExponentialFamily(Distribution):
    """Densities h(x) exp(<t(x), n> - F(n)), with natural parameters n and log-normaliser F.

    Source: Nielsen & Garcia, "Statistical exponential families: a digest with flash cards" (2009).
    """

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def _log_normalizer(self, *natural_params: Tensor) -> Tensor:
        raise NotImplementedError

    @property
    def _mean_carrier_measure(self) -> float:
        """The mean of log h."""
        raise NotImplementedError

    def _normalizer_and_means(self) -> tuple[Tensor, list[Tensor], tuple[Tensor, ...]]:
        """Return F(n), n, and the means of t(x), which are the gradient of F."""
        natural = [p.detach().requires_grad_() for p in self._natural_params]
        with fanal.enable_grad():
            log_norm = self._log_normalizer(*natural)
            means = fanal.autograd.grad(log_norm.sum(), natural, create_graph=True)
        return log_norm, natural, means

    def entropy(self) -> Tensor:
        """Return the entropy, F(n) - <n, grad F(n)> - E log h."""
        result = -self._mean_carrier_measure
        log_norm, natural, means = self._normalizer_and_means()
        result = result + log_norm
        for n, mean in zip(natural, means):
            result = result - sum_rightmost(n * mean, len(self._event_shape))
        return result
