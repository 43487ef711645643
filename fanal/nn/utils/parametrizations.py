"""Ready-made parametrizations: weight norm, spectral norm, orthogonal matrices."""

from __future__ import annotations

from typing import Any

import fanal
from fanal import Tensor
from fanal.core.base.missing import finder
from fanal.nn import functional as F
from fanal.nn.modules.module import Module
from fanal.nn.utils import parametrize

__all__ = ["orthogonal", "spectral_norm", "weight_norm"]


MAPS = ("matrix_exp", "cayley", "householder")


def _positive_q(a: Tensor) -> Tensor:
    """Return Q of a = QR with a positive diagonal of R. Shapes: (*, n, k), n >= k."""
    packed, tau = fanal.geqrf(a)
    return fanal.linalg.householder_product(packed, tau) * _diagonal(packed).sgn().unsqueeze(-2)


def _diagonal(a: Tensor) -> Tensor:
    return a.diagonal(dim1=-2, dim2=-1)


def _is_orthogonal(q: Tensor) -> bool:
    n, k = q.shape[-2:]
    return fanal.allclose(q.mH @ q, fanal.eye(k, dtype=q.dtype), atol=10 * n * fanal.finfo(q.dtype).eps)


class _Orthogonal(Module):
    """A map from matrices to orthogonal ones; with a base, around that."""

    base: Tensor | None

    def __init__(self, weight: Tensor, orthogonal_map: str, use_trivialization: bool) -> None:
        super().__init__()
        if weight.is_complex() and orthogonal_map == "householder":
            raise ValueError("The householder parametrization does not support complex tensors.")
        self.shape, self.orthogonal_map = weight.shape, orthogonal_map
        self.around_base = use_trivialization
        if use_trivialization:
            self.register_buffer("base", None)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.size(-2) < x.size(-1)
        q = self._map(x.mT if wide else x)
        q = self.base @ q if self.around_base and self.base is not None else q
        return q.mT if wide else q

    def _map(self, x: Tensor) -> Tensor:  # (*, n, k), n >= k
        n, k = x.shape[-2:]
        if self.orthogonal_map == "householder":
            reflectors = x.tril(-1)
            tau = 2 / (1 + reflectors.square().sum(-2))
            signs = _diagonal(x).detach().int()  # 1 and -1: not learnt
            return fanal.linalg.householder_product(reflectors, tau) * signs.unsqueeze(-2)
        lower = F.pad(x.tril(), (0, n - k))
        skew = lower - lower.mH
        if self.orthogonal_map == "matrix_exp":
            return fanal.matrix_exp(skew)[..., :k]
        one = fanal.eye(n, dtype=x.dtype)
        return fanal.linalg.solve(one - skew / 2, one + skew / 2)[..., :k]

    @fanal.no_grad()
    def right_inverse(self, q: Tensor) -> Tensor:
        if q.shape != self.shape:
            raise ValueError(
                f"Expected a matrix or batch of matrices of shape {self.shape}. Got a tensor of shape {q.shape}."
            )
        wide = q.size(-2) < q.size(-1)
        tall = q.mT if wide else q
        if not self.around_base:
            if self.orthogonal_map != "householder":
                raise NotImplementedError(
                    "It is not possible to assign to the matrix exponential or the Cayley parametrizations when "
                    "use_trivialization=False."
                )
            packed, tau = fanal.geqrf(tall)
            signs = _diagonal(packed).sign()
            signs = fanal.where(tau == 0, -signs, signs)  # LAPACK leaves out a reflection
            packed = packed.diagonal_scatter(signs, dim1=-2, dim2=-1)
            return packed.mT if wide else packed
        n, k = tall.shape[-2:]
        if n == k and _is_orthogonal(tall):
            self.base = tall.clone()
        else:
            more = fanal.randn(*tall.shape[:-1], n - k, dtype=tall.dtype)
            self.base = _positive_q(fanal.cat([tall, more], -1) if n > k else tall)
        # Where every map gives the identity; the Householder vectors have their signs on the diagonal.
        return fanal.zeros_like(q).diagonal_scatter(fanal.full_like(_diagonal(q), -1), dim1=-2, dim2=-1)


def orthogonal(
    module: Module, name: str = "weight", orthogonal_map: str | None = None, *, use_trivialization: bool = True
) -> Module:
    """Keep a weight orthogonal (unitary, for complex dtypes), or with orthogonal rows or columns.

    orthogonal_map: "matrix_exp", "cayley" or "householder"; by default the first for square and complex matrices, else
    the last. use_trivialization: the map is around the present weight. Raises ValueError for what is no matrix.
    Source: Lezcano-Casado, "Trivializations for gradient-based optimization on manifolds" (2019).
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"Module '{module}' has no parameter or buffer with name '{name}'")
    if weight.ndim < 2:
        raise ValueError(
            f"Expected a matrix or batch of matrices. Got a tensor of {weight.ndim} dimensions."
        )
    if orthogonal_map is None:
        square = weight.size(-2) == weight.size(-1)
        orthogonal_map = "matrix_exp" if square or weight.is_complex() else "householder"
    if orthogonal_map not in MAPS:
        raise ValueError(
            f'orthogonal_map has to be one of "matrix_exp", "cayley", "householder". Got: {orthogonal_map}'
        )
    made = _Orthogonal(weight, orthogonal_map, use_trivialization)
    parametrize.register_parametrization(module, name, made, unsafe=True)
    return module


def norm_except_dim(weight: Tensor, dim: int | None) -> Tensor:
    """Return the norms of the slices along `dim`, all dimensions kept; of the whole for None or -1."""
    if dim is None or dim == -1:
        return fanal.norm(weight)
    others = [d for d in range(weight.dim()) if d != dim % weight.dim()]
    return fanal.norm(weight, dim=others, keepdim=True) if others else weight.abs()


class _WeightNorm(Module):
    def __init__(self, dim: int | None = 0) -> None:
        super().__init__()
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return weight_v * (weight_g / norm_except_dim(weight_v, self.dim))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return norm_except_dim(weight, self.dim), weight


def weight_norm(module: Module, name: str = "weight", dim: int = 0) -> Module:
    """Learn length and direction of a weight apart: g v / |v|. Source: Salimans & Kingma 2016."""
    parametrize.register_parametrization(module, name, _WeightNorm(dim), unsafe=True)

    def from_older_names(state_dict: dict, prefix: str, *rest: Any) -> None:
        for i, old in enumerate(("g", "v")):
            key = f"{prefix}{name}_{old}"
            if key in state_dict:
                state_dict[f"{prefix}parametrizations.{name}.original{i}"] = state_dict.pop(key)

    module._register_load_state_dict_pre_hook(from_older_names)
    return module


class _SpectralNorm(Module):
    def __init__(self, weight: Tensor, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12) -> None:
        super().__init__()
        if dim >= weight.dim() or dim < -weight.dim():
            raise IndexError(
                f"Dimension out of range (expected to be in range of [-{weight.dim()}, {weight.dim() - 1}] "
                f"but got {dim})"
            )
        if n_power_iterations <= 0:
            raise ValueError(
                f"Expected n_power_iterations to be positive, but got n_power_iterations={n_power_iterations}"
            )
        self.dim = dim if dim >= 0 else dim + weight.dim()
        self.eps = eps
        if weight.dim() > 1:
            self.n_power_iterations = n_power_iterations
            matrix = self._matrix(weight)
            rows, columns = matrix.size()
            u, v = matrix.new_empty(rows).normal_(0, 1), matrix.new_empty(columns).normal_(0, 1)
            self.register_buffer("_u", F.normalize(u, dim=0, eps=eps))
            self.register_buffer("_v", F.normalize(v, dim=0, eps=eps))
            self._power_method(matrix, 15)  # enough for a good start

    def _matrix(self, weight: Tensor) -> Tensor:
        if self.dim != 0:
            weight = weight.permute(self.dim, *(d for d in range(weight.dim()) if d != self.dim))
        return weight.flatten(1)

    def _power_method(self, matrix: Tensor, n_power_iterations: int) -> None:
        with fanal.no_grad():
            for _ in range(n_power_iterations):
                self._u.copy_(F.normalize(fanal.mv(matrix, self._v), dim=0, eps=self.eps))
                self._v.copy_(F.normalize(fanal.mv(matrix.t(), self._u), dim=0, eps=self.eps))

    def forward(self, weight: Tensor) -> Tensor:
        if weight.dim() == 1:
            return F.normalize(weight, dim=0, eps=self.eps)
        matrix = self._matrix(weight)
        if self.training:
            self._power_method(matrix.detach(), self.n_power_iterations)
        # Copies, so that a second forward before backward may move u and v.
        u, v = self._u.clone(), self._v.clone()
        return weight / fanal.vdot(u, fanal.mv(matrix, v))

    def right_inverse(self, value: Tensor) -> Tensor:
        return value


def spectral_norm(
    module: Module,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
) -> Module:
    """Divide a weight by its largest singular value, found by power iteration. Source: Miyato et al. 2018."""
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"Module '{module}' has no parameter or buffer with name '{name}'")
    if dim is None:
        dim = 1 if type(module).__name__.startswith("ConvTranspose") else 0
    with fanal.no_grad():
        parametrization = _SpectralNorm(weight.detach(), n_power_iterations, dim, eps)
    return parametrize.register_parametrization(module, name, parametrization)

__getattr__ = finder("torch.nn.utils.parametrizations")
