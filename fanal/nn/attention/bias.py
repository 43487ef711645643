"""Causal masks as objects that attention takes."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import fanal
from fanal.core.base.missing import finder
from fanal.core.tensor.override import disabled
from fanal.core.tensor.tensor import Tensor


class CausalVariant(IntEnum):
    """Which corner of the scores the diagonal goes through."""

    UPPER_LEFT = 1
    LOWER_RIGHT = 2


class CausalBias(Tensor):
    """A causal mask of (seq_len_q, seq_len_kv), for attn_mask=.

    Differs from torch: it is the mask, as a tensor of truth values, not a promise to make one.
    """

    __torch_function__ = disabled
    variant: CausalVariant
    seq_len_q: int
    seq_len_kv: int

    def __new__(cls, variant: CausalVariant, seq_len_q: int, seq_len_kv: int) -> Any:
        if not isinstance(variant, CausalVariant):
            raise AssertionError(f"variant must be a CausalVariant, got {type(variant).__name__}")
        diagonal = seq_len_kv - seq_len_q if variant is CausalVariant.LOWER_RIGHT else 0
        mask = fanal.ones(seq_len_q, seq_len_kv, dtype=fanal.bool).tril(diagonal)
        self = Tensor._make_subclass(cls, mask)
        self.variant, self.seq_len_q, self.seq_len_kv = variant, seq_len_q, seq_len_kv
        return self

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return repr(self.as_subclass(Tensor))


def causal_upper_left(*size: int) -> CausalBias:
    """Return the causal mask in which the first query sees the first key. Shapes: two sizes."""
    if len(size) != 2:
        raise AssertionError("causal_upper_left only supports 2D tensors")
    return CausalBias(CausalVariant.UPPER_LEFT, *size)


def causal_lower_right(*size: int) -> CausalBias:
    """Return the causal mask in which the last query sees the last key. Shapes: two sizes."""
    if len(size) != 2:
        raise AssertionError("causal_lower_right only supports 2D tensors")
    return CausalBias(CausalVariant.LOWER_RIGHT, *size)


__all__ = ["CausalBias", "CausalVariant", "causal_lower_right", "causal_upper_left"]

__getattr__ = finder("torch.nn.attention.bias")
