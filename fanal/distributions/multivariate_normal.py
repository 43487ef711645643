"""Normal distributions of vectors: of any covariance, and of one of low rank and a diagonal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import fanal
from fanal import Size, Tensor
from fanal.distributions import constraints
from fanal.distributions.distribution import Distribution
from fanal.distributions.utils import lazy_property, standard_normal

__all__ = ["LowRankMultivariateNormal", "MultivariateNormal"]

_LOG_2PI = math.log(2 * math.pi)


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Multiply matrices with vectors. Shapes: (..., n, m), (..., m) -> (..., n)."""
    return fanal.matmul(matrix, vector.unsqueeze(-1)).squeeze(-1)


def log_diagonal(tril: Tensor) -> Tensor:
    """Return the sum of the logarithms of the diagonal: half the log-determinant of L L^T."""
    return tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def solve_lower(tril: Tensor, columns: Tensor) -> Tensor:
    """Return L^-1 B. Shapes: (..., n, n), (..., n, m) -> (..., n, m)."""
    return fanal.linalg.solve_triangular(tril, columns, upper=False)


def _squared_solution(tril: Tensor, x: Tensor) -> Tensor:
    """Return |L^-1 x|**2. Shapes: (..., n, n), (..., n) -> (...)."""
    if tril.dim() == 2:  # one matrix: all vectors are columns of one right-hand side
        rows = x.reshape(-1, x.shape[-1])
        return solve_lower(tril, rows.mT).pow(2).sum(-2).reshape(x.shape[:-1])
    return solve_lower(tril, x.unsqueeze(-1)).squeeze(-1).pow(2).sum(-1)


def precision_to_scale_tril(precision: Tensor) -> Tensor:
    """Return the Cholesky factor of an inverse: that of the matrix turned round, inverted and turned back."""
    factor = fanal.linalg.cholesky(fanal.flip(precision, (-2, -1)))
    upper = fanal.flip(factor, (-2, -1)).mT
    identity = fanal.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
    return solve_lower(upper, identity)


class OfNormalVector(Distribution):
    """What normal distributions of vectors share. Subclasses give the covariance S as a square F F^T."""

    support = constraints.real_vector
    has_rsample = True
    loc: Tensor

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

    def _factor(self) -> Tensor:
        """F with S = F F^T."""
        raise NotImplementedError

    def _half_log_det(self) -> Tensor:
        """log det(S) / 2."""
        raise NotImplementedError

    def _mahalanobis(self, x: Tensor) -> Tensor:
        """x^T S^-1 x. Shapes: (..., n) -> (...)."""
        raise NotImplementedError

    def _mahalanobis_columns(self, columns: Tensor) -> Tensor:
        """b^T S^-1 b of each column. Shapes: (..., n, m) -> (..., m)."""
        raise NotImplementedError

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        distance = self._mahalanobis(value - self.loc)
        return -0.5 * (self._event_shape[0] * _LOG_2PI + distance) - self._half_log_det()

    def entropy(self) -> Tensor:
        entropy = 0.5 * self._event_shape[0] * (1.0 + _LOG_2PI) + self._half_log_det()
        return entropy.expand(self._batch_shape)


class MultivariateNormal(OfNormalVector):
    """The normal distribution of vectors with mean `loc`.

    Its covariance is given as such, as its inverse, or as its Cholesky factor, which costs least.
    """

    arg_constraints = {
        "loc": constraints.real_vector,
        "covariance_matrix": constraints.positive_definite,
        "precision_matrix": constraints.positive_definite,
        "scale_tril": constraints.lower_cholesky,
    }

    def __init__(
        self,
        loc: Tensor,
        covariance_matrix: Tensor | None = None,
        precision_matrix: Tensor | None = None,
        scale_tril: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if loc.dim() < 1:
            raise ValueError("loc must be at least one-dimensional.")
        given = {
            "covariance_matrix": covariance_matrix,
            "precision_matrix": precision_matrix,
            "scale_tril": scale_tril,
        }
        given = {name: matrix for name, matrix in given.items() if matrix is not None}
        if len(given) != 1:
            raise ValueError(
                "Exactly one of covariance_matrix or precision_matrix or scale_tril may be specified."
            )
        ((name, matrix),) = given.items()
        if matrix.dim() < 2:
            what = "scale_tril matrix" if name == "scale_tril" else name
            raise ValueError(
                f"{what} must be at least two-dimensional, with optional leading batch dimensions"
            )
        batch_shape = fanal.broadcast_shapes(matrix.shape[:-2], loc.shape[:-1])
        self.__dict__[name] = matrix.expand(*batch_shape, -1, -1)
        self.loc = loc.expand(*batch_shape, -1)
        super().__init__(batch_shape, self.loc.shape[-1:], validate_args=validate_args)
        self._unbroadcasted_scale_tril = scale_tril_of(name, matrix)

    @lazy_property
    def scale_tril(self) -> Tensor:
        return self._over_batch(self._unbroadcasted_scale_tril)

    @lazy_property
    def covariance_matrix(self) -> Tensor:
        return self._over_batch(self._unbroadcasted_scale_tril @ self._unbroadcasted_scale_tril.mT)

    @lazy_property
    def precision_matrix(self) -> Tensor:
        return self._over_batch(fanal.cholesky_inverse(self._unbroadcasted_scale_tril))

    def _over_batch(self, matrix: Tensor) -> Tensor:
        return matrix.expand(self._batch_shape + self._event_shape + self._event_shape)

    @property
    def variance(self) -> Tensor:
        return self._unbroadcasted_scale_tril.pow(2).sum(-1).expand(self._batch_shape + self._event_shape)

    def rsample(self, sample_shape: Sequence[int] = Size()) -> Tensor:
        eps = standard_normal(self._extended_shape(sample_shape), self.loc)
        return self.loc + times(self._unbroadcasted_scale_tril, eps)

    def _factor(self) -> Tensor:
        return self._unbroadcasted_scale_tril

    def _half_log_det(self) -> Tensor:
        return log_diagonal(self._unbroadcasted_scale_tril)

    def _mahalanobis(self, x: Tensor) -> Tensor:
        return _squared_solution(self._unbroadcasted_scale_tril, x)

    def _mahalanobis_columns(self, columns: Tensor) -> Tensor:
        return solve_lower(self._unbroadcasted_scale_tril, columns).pow(2).sum(-2)


def scale_tril_of(name: str, matrix: Tensor) -> Tensor:
    """Return the Cholesky factor of a covariance, given under the name of an argument."""
    if name == "covariance_matrix":
        return fanal.linalg.cholesky(matrix)
    return precision_to_scale_tril(matrix) if name == "precision_matrix" else matrix


class LowRankMultivariateNormal(OfNormalVector):
    """The normal distribution of vectors with covariance W W^T + diag(D), W of few columns.

    Determinant and inverse come from the small matrix C = I + W^T D^-1 W (the matrix determinant lemma, and
    Woodbury's identity D^-1 - D^-1 W C^-1 W^T D^-1).
    """

    arg_constraints = {
        "loc": constraints.real_vector,
        "cov_factor": constraints.independent(constraints.real, 2),
        "cov_diag": constraints.independent(constraints.positive, 1),
    }

    def __init__(
        self, loc: Tensor, cov_factor: Tensor, cov_diag: Tensor, validate_args: bool | None = None
    ) -> None:
        if loc.dim() < 1:
            raise ValueError("loc must be at least one-dimensional.")
        event_shape = loc.shape[-1:]
        if cov_factor.dim() < 2:
            raise ValueError(
                "cov_factor must be at least two-dimensional, with optional leading batch dimensions"
            )
        if cov_factor.shape[-2:-1] != event_shape:
            raise ValueError(f"cov_factor must be a batch of matrices with shape {event_shape[0]} x m")
        if cov_diag.shape[-1:] != event_shape:
            raise ValueError(f"cov_diag must be a batch of vectors with shape {event_shape}")
        try:
            batch_shape = fanal.broadcast_shapes(loc.shape[:-1], cov_factor.shape[:-2], cov_diag.shape[:-1])
        except RuntimeError as e:
            raise ValueError(
                f"Incompatible batch shapes: loc {loc.shape}, cov_factor {cov_factor.shape}, "
                f"cov_diag {cov_diag.shape}"
            ) from e
        self.loc, self.cov_diag = loc.expand(*batch_shape, -1), cov_diag.expand(*batch_shape, -1)
        self.cov_factor = cov_factor.expand(*batch_shape, -1, -1)
        self._w, self._d = cov_factor, cov_diag
        over_d = self._w_over_d() @ self._w
        identity = fanal.eye(cov_factor.shape[-1], dtype=loc.dtype, device=loc.device)
        self._capacitance_tril = fanal.linalg.cholesky(over_d + identity)
        super().__init__(batch_shape, event_shape, validate_args=validate_args)

    def _w_over_d(self) -> Tensor:
        """W^T D^-1."""
        return self._w.mT / self._d.unsqueeze(-2)

    def _over_batch(self, matrix: Tensor) -> Tensor:
        return matrix.expand(self._batch_shape + self._event_shape + self._event_shape)

    @lazy_property
    def variance(self) -> Tensor:  # type: ignore[override]
        return (self._w.pow(2).sum(-1) + self._d).expand(self._batch_shape + self._event_shape)

    @lazy_property
    def scale_tril(self) -> Tensor:
        # D**1/2 times the factor of I + D**-1/2 W W^T D**-1/2, whose eigenvalues are at least 1
        root = self._d.sqrt().unsqueeze(-1)
        scaled = self._w / root
        identity = fanal.eye(self._event_shape[0], dtype=self.loc.dtype, device=self.loc.device)
        return self._over_batch(root * fanal.linalg.cholesky(scaled @ scaled.mT + identity))

    @lazy_property
    def covariance_matrix(self) -> Tensor:
        return self._over_batch(self._w @ self._w.mT + self._d.diag_embed())

    @lazy_property
    def precision_matrix(self) -> Tensor:
        a = solve_lower(self._capacitance_tril, self._w_over_d())
        return self._over_batch(self._d.reciprocal().diag_embed() - a.mT @ a)

    def rsample(self, sample_shape: Sequence[int] = Size()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        of_factor = standard_normal(shape[:-1] + self.cov_factor.shape[-1:], self.loc)
        of_diagonal = standard_normal(shape, self.loc)
        return self.loc + times(self._w, of_factor) + self._d.sqrt() * of_diagonal

    def _factor(self) -> Tensor:
        return fanal.cat([self.cov_factor, self.cov_diag.sqrt().diag_embed()], -1)

    def _half_log_det(self) -> Tensor:
        return log_diagonal(self._capacitance_tril) + 0.5 * self._d.log().sum(-1)

    def _mahalanobis(self, x: Tensor) -> Tensor:
        apart = _squared_solution(self._capacitance_tril, times(self._w_over_d(), x))
        return (x.pow(2) / self._d).sum(-1) - apart

    def _mahalanobis_columns(self, columns: Tensor) -> Tensor:
        apart = solve_lower(self._capacitance_tril, self._w_over_d() @ columns).pow(2).sum(-2)
        return (columns.pow(2) / self._d.unsqueeze(-1)).sum(-2) - apart


def kl_normal_vectors(p: Any, q: Any) -> Tensor:
    """Return KL(p || q) = (log det Sq - log det Sp + tr(Sq^-1 Sp) + distance of the means - n) / 2."""
    if p.event_shape != q.event_shape:
        raise ValueError(
            "KL-divergence between two (Low Rank) Multivariate Normals with different event shapes cannot be "
            "computed"
        )
    shape = fanal.broadcast_shapes(p.batch_shape, q.batch_shape)
    factor = p._factor()
    factor = factor.expand(*shape, *factor.shape[-2:])
    spread = q._mahalanobis_columns(factor).sum(-1)
    distance = q._mahalanobis(q.loc - p.loc)
    return q._half_log_det() - p._half_log_det() + 0.5 * (spread + distance - p.event_shape[0])
