"""Ready-made parametrizations: weight norm and spectral norm."""

from __future__ import annotations

from typing import Any

import fanal
from fanal import Tensor
from fanal.core.base.missing import finder
from fanal.nn import functional as F
from fanal.nn.modules.module import Module
from fanal.nn.utils import parametrize

__all__ = ["spectral_norm", "weight_norm"]


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
