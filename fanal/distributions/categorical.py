"""Distributions over categories: as an index, as a one-hot vector, as counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fanal
from fanal import Size, Tensor
from fanal.distributions import constraints
from fanal.distributions.counts import Binomial, OfProbability
from fanal.distributions.distribution import Distribution
from fanal.distributions.utils import (
    broadcast_all,
)

__all__ = ["Categorical", "Multinomial", "OneHotCategorical", "OneHotCategoricalStraightThrough"]

_ARG_CONSTRAINTS = {"probs": constraints.simplex, "logits": constraints.real_vector}


class Categorical(OfProbability):
    """Indices 0, ..., K - 1, with probabilities (normalised here) or logits along the last dimension."""

    arg_constraints = _ARG_CONSTRAINTS
    has_enumerate_support = True
    _binary = False

    def __init__(
        self, probs: Tensor | None = None, logits: Tensor | None = None, validate_args: bool | None = None
    ) -> None:
        name, given = self._take(probs, logits)
        if given.dim() < 1:
            raise ValueError(f"`{name}` parameter must be at least one-dimensional.")
        if logits is None:
            self.probs = probs / probs.sum(-1, keepdim=True)
        else:
            self.logits = logits - logits.logsumexp(dim=-1, keepdim=True)
        self._num_events = given.shape[-1]
        super().__init__(given.shape[:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        return constraints.integer_interval(0, self._num_events - 1)

    @property
    def param_shape(self) -> Size:
        return self._batch_shape + (self._num_events,)

    def _nan(self) -> Tensor:
        """Categories have no order: no mean, no variance."""
        return fanal.full(self._batch_shape, fanal.nan, dtype=self.probs.dtype, device=self.probs.device)

    @property
    def mean(self) -> Tensor:
        return self._nan()

    @property
    def mode(self) -> Tensor:
        return self.probs.argmax(dim=-1)

    @property
    def variance(self) -> Tensor:
        return self._nan()

    def sample(self, sample_shape: Sequence[int] = Size()) -> Tensor:
        sample_shape = Size(sample_shape)
        rows = self.probs.detach().reshape(-1, self._num_events)
        drawn = fanal.multinomial(rows, sample_shape.numel(), True).T
        return drawn.reshape(self._extended_shape(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        at = value.long().unsqueeze(-1)
        shape = fanal.broadcast_shapes(at.shape[:-1], self._batch_shape)
        at, logits = at.expand(*shape, 1), self.logits.expand(*shape, self._num_events)
        return logits.gather(-1, at).squeeze(-1)

    def entropy(self) -> Tensor:
        # a probability of 0 has the logit -inf, and adds nothing
        logits = self.logits.clamp(min=fanal.finfo(self.logits.dtype).min)
        return -(logits * self.probs).sum(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        return self._enumerated(fanal.arange(self._num_events, device=self._param.device), expand)


class OfCategorical(Distribution):
    """A distribution whose parameters are those of a Categorical."""

    _categorical: Categorical

    def _new(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._categorical._new(*args, **kwargs)

    @property
    def _param(self) -> Tensor:
        return self._categorical._param

    @property
    def probs(self) -> Tensor:
        return self._categorical.probs

    @property
    def logits(self) -> Tensor:
        return self._categorical.logits

    @property
    def param_shape(self) -> Size:
        return self._categorical.param_shape


class OneHotCategorical(OfCategorical):
    """One-hot vectors of K categories."""

    arg_constraints = _ARG_CONSTRAINTS
    support = constraints.one_hot
    has_enumerate_support = True

    def __init__(
        self, probs: Tensor | None = None, logits: Tensor | None = None, validate_args: bool | None = None
    ) -> None:
        self._categorical = Categorical(probs, logits)
        shape = self._categorical.param_shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    def _one_hot(self, index: Tensor) -> Tensor:
        return fanal.nn.functional.one_hot(index, self._event_shape[-1]).to(self.probs.dtype)

    @property
    def mean(self) -> Tensor:
        return self.probs

    @property
    def mode(self) -> Tensor:
        return self._one_hot(self._categorical.mode)

    @property
    def variance(self) -> Tensor:
        return self.probs * (1 - self.probs)

    def sample(self, sample_shape: Sequence[int] = Size()) -> Tensor:
        return self._one_hot(self._categorical.sample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self._categorical.log_prob(value.max(-1)[1])

    def entropy(self) -> Tensor:
        return self._categorical.entropy()

    def enumerate_support(self, expand: bool = True) -> Tensor:
        n = self._event_shape[0]
        values = fanal.eye(n, dtype=self._param.dtype, device=self._param.device)
        values = values.reshape(n, *[1] * len(self._batch_shape), n)
        return values.expand(n, *self._batch_shape, n) if expand else values


class OneHotCategoricalStraightThrough(OneHotCategorical):
    """One-hot vectors whose gradient is that of the probabilities.

    Source: Bengio, Léonard & Courville, "Estimating or propagating gradients through stochastic neurons"
    (2013).
    """

    has_rsample = True

    def rsample(self, sample_shape: Sequence[int] = Size()) -> Tensor:
        return self.sample(sample_shape) + (self.probs - self.probs.detach())


class Multinomial(OfCategorical):
    """How often each category came in `total_count` draws (one int for the whole batch)."""

    arg_constraints = _ARG_CONSTRAINTS
    total_count: int

    def __init__(
        self,
        total_count: int = 1,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if not isinstance(total_count, int):
            raise NotImplementedError("inhomogeneous total_count is not supported")
        self.total_count = total_count
        self._categorical = Categorical(probs, logits)
        shape = self._categorical.param_shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> Any:
        return constraints.multinomial(self.total_count)

    @property
    def mean(self) -> Tensor:
        return self.probs * self.total_count

    @property
    def variance(self) -> Tensor:
        return self.total_count * self.probs * (1 - self.probs)

    def sample(self, sample_shape: Sequence[int] = Size()) -> Tensor:
        drawn = self._categorical.sample(Size((self.total_count,)) + Size(sample_shape)).movedim(0, -1)
        counts = self._new(self._extended_shape(sample_shape)).zero_()
        return counts.scatter_add(-1, drawn, fanal.ones_like(drawn, dtype=counts.dtype))

    def entropy(self) -> Tensor:
        """Return n H(p) - log n! + the expected sum of log x_k!, each x_k binomial."""
        counts = Binomial(total_count=self.total_count, probs=self.probs)
        values = counts.enumerate_support(expand=False)[1:]
        weights = fanal.exp(counts.log_prob(values))
        expected = (weights * fanal.lgamma(values + 1)).sum([0, -1])
        n = self._param.new_tensor(self.total_count)
        return n * self._categorical.entropy() - fanal.lgamma(n + 1) + expected

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        logits, value = broadcast_all(self.logits, value)
        # 0 * -inf: a category that cannot come, and did not
        logits = logits.masked_fill((value == 0) & (logits == -fanal.inf), 0)
        ways = fanal.lgamma(value.sum(-1) + 1) - fanal.lgamma(value + 1).sum(-1)
        return ways + (logits * value).sum(-1)
