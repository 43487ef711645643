"""Distributions of matrices: covariances (Wishart), and Cholesky factors of correlations (LKJ)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from numbers import Number
from typing import Any

import fanal
from fanal import Size, Tensor
from fanal.distributions import constraints
from fanal.distributions.distribution import Distribution, ExponentialFamily
from fanal.distributions.gamma import Beta, Chi2
from fanal.distributions.multivariate_normal import log_diagonal, scale_tril_of
from fanal.distributions.utils import broadcast_all, lazy_property, vec_to_tril_matrix

__all__ = ["LKJCholesky", "Wishart"]

_LOG_2 = math.log(2)


class Wishart(ExponentialFamily):
    """The distribution of the sum of x x^T over `df` normal vectors x of covariance S.

    Source: Anderson, "An introduction to multivariate statistical analysis" (2003), chapter 7.
    Differs from torch: positive definite samples are kept; PyTorch 2.13 draws them anew, and warns.
    """

    support = constraints.positive_definite
    has_rsample = True
    _mean_carrier_measure = 0

    def __init__(
        self,
        df: Any,
        covariance_matrix: Tensor | None = None,
        precision_matrix: Tensor | None = None,
        scale_tril: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        given = {
            "covariance_matrix": covariance_matrix,
            "precision_matrix": precision_matrix,
            "scale_tril": scale_tril,
        }
        given = {name: matrix for name, matrix in given.items() if matrix is not None}
        if len(given) != 1:
            raise AssertionError(
                "Exactly one of covariance_matrix or precision_matrix or scale_tril may be specified."
            )
        ((name, matrix),) = given.items()
        if matrix.dim() < 2:
            raise ValueError(
                "scale_tril must be at least two-dimensional, with optional leading batch dimensions"
            )
        if isinstance(df, Number):
            batch_shape = matrix.shape[:-2]
            self.df = fanal.tensor(df, dtype=matrix.dtype, device=matrix.device)
        else:
            batch_shape = fanal.broadcast_shapes(matrix.shape[:-2], df.shape)
            self.df = df.expand(batch_shape)
        event_shape = matrix.shape[-2:]
        dims = event_shape[-1]
        if (self.df <= dims - 1).any():
            raise ValueError(f"Value of df={df} expected to be greater than ndim - 1 = {dims - 1}.")
        if (self.df < dims).any():
            warnings.warn(
                "Low df values detected. Singular samples are highly likely to occur for ndim - 1 < df < ndim.",
                stacklevel=2,
            )
        self.__dict__[name] = matrix.expand(*batch_shape, -1, -1)
        super().__init__(batch_shape, event_shape, validate_args=validate_args)
        self._unbroadcasted_scale_tril = scale_tril_of(name, matrix)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        return {
            "covariance_matrix": constraints.positive_definite,
            "precision_matrix": constraints.positive_definite,
            "scale_tril": constraints.lower_cholesky,
            "df": constraints.greater_than(self._event_shape[-1] - 1),
        }

    def _over_batch(self, matrix: Tensor) -> Tensor:
        return matrix.expand(self._batch_shape + self._event_shape)

    @lazy_property
    def scale_tril(self) -> Tensor:
        return self._over_batch(self._unbroadcasted_scale_tril)

    @lazy_property
    def covariance_matrix(self) -> Tensor:
        return self._over_batch(self._unbroadcasted_scale_tril @ self._unbroadcasted_scale_tril.mT)

    @lazy_property
    def precision_matrix(self) -> Tensor:
        return self._over_batch(fanal.cholesky_inverse(self._unbroadcasted_scale_tril))

    @property
    def _df_of_matrices(self) -> Tensor:
        return self.df.expand(self._batch_shape).reshape(*self._batch_shape, 1, 1)

    @property
    def mean(self) -> Tensor:
        return self._df_of_matrices * self.covariance_matrix

    @property
    def mode(self) -> Tensor:
        factor = self._df_of_matrices - self._event_shape[-1] - 1
        return fanal.where(factor > 0, factor, fanal.nan) * self.covariance_matrix

    @property
    def variance(self) -> Tensor:
        v = self.covariance_matrix
        diagonal = v.diagonal(dim1=-2, dim2=-1)
        return self._df_of_matrices * (v.pow(2) + diagonal.unsqueeze(-1) * diagonal.unsqueeze(-2))

    def _bartlett(self, sample_shape: Sequence[int]) -> Tensor:
        """Draw L A A^T L^T; A is lower triangular, of roots of chi-squared numbers and of normal ones.

        Source: Bartlett's decomposition; Anderson, theorem 7.2.1.
        """
        n, eps = self._event_shape[-1], fanal.finfo(self.df.dtype).eps
        count = fanal.arange(n, dtype=self.df.dtype, device=self.df.device)
        squares = Chi2(self.df.expand(self._batch_shape).unsqueeze(-1) - count, validate_args=False)
        diagonal = squares.rsample(sample_shape).sqrt().clamp(min=eps)
        below = fanal.randn(*sample_shape, *self._batch_shape, n * (n - 1) // 2, dtype=self.df.dtype)
        factor = self._unbroadcasted_scale_tril @ (vec_to_tril_matrix(below, diag=-1) + diagonal.diag_embed())
        return factor @ factor.mT

    def rsample(self, sample_shape: Sequence[int] = Size(), max_try_correction: int | None = None) -> Tensor:
        """Draw matrices; singular ones, of small `df`, are drawn anew `max_try_correction` times (10)."""
        sample = self._bartlett(Size(sample_shape))
        bad = ~self.support.check(sample)
        if bad.any():
            warnings.warn("Singular sample detected.", stacklevel=2)
        for _ in range(10 if max_try_correction is None else max_try_correction):
            if not bad.any():
                break
            sample = fanal.where(bad[..., None, None], self._bartlett(Size(sample_shape)), sample)
            bad = ~self.support.check(sample)
        return sample

    def _log_det_term(self) -> Tensor:
        """(p log 2 + log det S) / 2."""
        return self._event_shape[-1] * _LOG_2 / 2 + log_diagonal(self._unbroadcasted_scale_tril)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        nu, p = self.df, self._event_shape[-1]
        ratio = fanal.cholesky_solve(value, self._unbroadcasted_scale_tril)
        return (
            -nu * self._log_det_term()
            - fanal.mvlgamma(nu / 2, p=p)
            + (nu - p - 1) / 2 * fanal.linalg.slogdet(value).logabsdet
            - ratio.diagonal(dim1=-2, dim2=-1).sum(-1) / 2
        )

    def entropy(self) -> Tensor:
        nu, p = self.df, self._event_shape[-1]
        halves = fanal.arange(p, dtype=nu.dtype, device=nu.device) / 2
        digammas = fanal.digamma((nu / 2).unsqueeze(-1) - halves).sum(-1)
        return (
            (p + 1) * self._log_det_term()
            + fanal.mvlgamma(nu / 2, p=p)
            - (nu - p - 1) / 2 * digammas
            + nu * p / 2
        )

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return -self.precision_matrix / 2, (self.df - self._event_shape[-1] - 1) / 2

    def _log_normalizer(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        p = self._event_shape[-1]
        half_df = y + (p + 1) / 2
        log_det = fanal.linalg.slogdet(-2 * x).logabsdet
        return half_df * (_LOG_2 * p - log_det) + fanal.mvlgamma(half_df, p=p)


class LKJCholesky(Distribution):
    """Cholesky factors of correlation matrices C, with density of C proportional to det(C)**(concentration -
    1).

    Source: Lewandowski, Kurowicka & Joe, "Generating random correlation matrices based on vines and extended
    onion method", Journal of Multivariate Analysis 100 (2009): samples by section 3.2, the constant by
    equation 16.
    """

    arg_constraints = {"concentration": constraints.positive}
    support = constraints.corr_cholesky

    def __init__(self, dim: int, concentration: Any = 1.0, validate_args: bool | None = None) -> None:
        if dim < 2:
            raise ValueError(f"Expected dim to be an integer greater than or equal to 2. Found dim={dim}.")
        self.dim = dim
        (self.concentration,) = broadcast_all(concentration)
        super().__init__(self.concentration.size(), (dim, dim), validate_args)

    def sample(self, sample_shape: Sequence[int] = Size()) -> Tensor:
        """Draw row by row: a direction on the sphere, times the root of a beta number; the diagonal makes up
        to 1.
        """
        with fanal.no_grad():
            eta, d = self.concentration.unsqueeze(-1), self.dim
            before = fanal.arange(d, dtype=eta.dtype, device=eta.device).sub(1).clamp(min=0)
            part = Beta(before + 0.5, eta + 0.5 * (d - 2) - 0.5 * before, validate_args=False)
            length = part.sample(sample_shape).sqrt().unsqueeze(-1)
            direction = fanal.randn(self._extended_shape(sample_shape), dtype=eta.dtype).tril(-1)
            below = direction[..., 1:, :]
            below = length[..., 1:, :] * (below / below.norm(dim=-1, keepdim=True))
            rows = fanal.cat([fanal.zeros_like(direction[..., :1, :]), below], -2)
            rest = (1 - rows.pow(2).sum(-1)).clamp(min=fanal.finfo(rows.dtype).tiny)
            return rows + rest.sqrt().diag_embed()

    def log_prob(self, value: Tensor) -> Tensor:
        """Row i of the factor has the power 2 (concentration - 1) + dim - i, with the Jacobian of L -> L L^T."""
        if self._validate_args:
            self._validate_sample(value)
        d = self.dim
        diagonal = value.diagonal(dim1=-1, dim2=-2)[..., 1:]
        rows = fanal.arange(2, d + 1, device=self.concentration.device)
        power = 2 * (self.concentration - 1).unsqueeze(-1) + d - rows
        alpha = self.concentration + 0.5 * (d - 1)
        constant = 0.5 * (d - 1) * math.log(math.pi) + fanal.mvlgamma(alpha - 0.5, d - 1)
        return (power * diagonal.log()).sum(-1) - constant + fanal.lgamma(alpha) * (d - 1)
