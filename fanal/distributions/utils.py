"""What distributions share: broadcasting of parameters, lazy attributes, probabilities and log-odds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from numbers import Number
from typing import Any

import fanal
from fanal import Tensor
from fanal.nn import functional as F

__all__ = [
    "broadcast_all",
    "clamp_probs",
    "lazy_property",
    "logits_to_probs",
    "probs_to_logits",
    "tril_matrix_to_vec",
    "vec_to_tril_matrix",
]

euler_constant = 0.57721566490153286060


def broadcast_all(*values: Any) -> tuple[Tensor, ...]:
    """Return numbers and tensors as tensors of one shape; numbers take the dtype of the first tensor.

    Raises: ValueError for anything else.
    """
    if not all(isinstance(v, (Tensor, Number)) for v in values):
        raise ValueError(
            "Input arguments must all be instances of Number, torch.Tensor or objects implementing "
            "__torch_function__."
        )
    like = next((v for v in values if isinstance(v, Tensor)), None)
    dtype = fanal.get_default_dtype() if like is None else like.dtype
    tensors = [v if isinstance(v, Tensor) else fanal.tensor(v, dtype=dtype) for v in values]
    return tuple(fanal.broadcast_tensors(*tensors))


def standard_normal(shape: Sequence[int], like: Tensor) -> Tensor:
    """Draw from N(0, 1) in the dtype of a parameter."""
    return fanal.randn(shape, dtype=like.dtype, device=like.device)


def _standard_normal(shape: Sequence[int], dtype: Any, device: Any) -> Tensor:
    """Draw from N(0, 1); PyTorch's name, for distributions that programs write."""
    return fanal.randn(shape, dtype=dtype, device=device)


def uniform(shape: Sequence[int], like: Tensor) -> Tensor:
    """Draw from [0, 1) in the dtype of a parameter."""
    return fanal.rand(shape, dtype=like.dtype, device=like.device)


def sum_rightmost(value: Tensor, count: int) -> Tensor:
    """Sum over the last `count` dimensions."""
    return value.flatten(-count).sum(-1) if count > 0 else value


_sum_rightmost = sum_rightmost  # PyTorch's name


def logits_to_probs(logits: Tensor, is_binary: bool = False) -> Tensor:
    """Return probabilities: sigmoid of log-odds, or softmax of log-weights along the last dimension."""
    return fanal.sigmoid(logits) if is_binary else F.softmax(logits, dim=-1)


def clamp_probs(probs: Tensor) -> Tensor:
    """Keep probabilities inside [eps, 1 - eps] of their dtype."""
    eps = fanal.finfo(probs.dtype).eps
    return probs.clamp(min=eps, max=1 - eps)


def probs_to_logits(probs: Tensor, is_binary: bool = False) -> Tensor:
    """Return log-odds, or log-probabilities, of clamped probabilities."""
    inside = clamp_probs(probs)
    return fanal.log(inside) - fanal.log1p(-inside) if is_binary else fanal.log(inside)


class lazy_property:
    """A method that is called once; its result then takes its place on the object."""

    def __init__(self, wrapped: Callable[[Any], Any]) -> None:
        self.wrapped = wrapped
        functools.update_wrapper(self, wrapped)  # type: ignore[arg-type]

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        with fanal.enable_grad():
            value = self.wrapped(instance)
        setattr(instance, self.wrapped.__name__, value)
        return value


def _tril_mask(n: int, diag: int, device: Any) -> Tensor:
    return fanal.ones(n, n, dtype=fanal.bool, device=device).tril(diag)


def tril_matrix_to_vec(mat: Tensor, diag: int = 0) -> Tensor:
    """Return the entries on and below a diagonal, row by row. Shapes: (..., D, D) -> (..., N)."""
    n = mat.shape[-1]
    if not -n <= diag < n:
        raise ValueError(f"diag ({diag}) provided is outside [{-n}, {n - 1}].")
    return mat[..., _tril_mask(n, diag, mat.device)]


def vec_to_tril_matrix(vec: Tensor, diag: int = 0) -> Tensor:
    """Put a vector on and below a diagonal, row by row. Shapes: (..., N) -> (..., D, D).

    Raises: ValueError if no D has N such entries.
    """
    length = vec.shape[-1]
    # D (D + 1) / 2 entries for diag 0; each step of the diagonal adds (or leaves out) a shorter one.
    root = ((1 + 2 * diag) ** 2 + 8 * length + 4 * abs(diag) * (diag + 1)) ** 0.5
    size = (root - (1 + 2 * diag)) / 2
    n = round(size)
    if abs(n - size) > fanal.finfo(vec.dtype).eps:
        raise ValueError(
            f"The size of last dimension is {length} which cannot be expressed as "
            "the lower triangular part of a square D x D matrix."
        )
    mat = vec.new_zeros((*vec.shape[:-1], n, n))
    mat[..., _tril_mask(n, diag, vec.device)] = vec
    return mat
