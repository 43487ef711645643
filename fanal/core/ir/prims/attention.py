"""Attention without its weights in memory: softmax(q k^T * scale + mask) v, and its gradient.

Source: Dao et al. 2022, "FlashAttention", for recomputing the weights in the backward pass from row statistics.
"""
from __future__ import annotations

import math
from typing import Any

import numpy as np

from fanal.core.base.shape import Shape
from fanal.core.ir.prims.batching import attending
from fanal.core.ir.program import Node
from fanal.core.ir.row import kept, prim


def _scores(q: np.ndarray, k: np.ndarray, mask: np.ndarray | None, scale: float, causal: bool) -> np.ndarray:
    s = q @ k.swapaxes(-1, -2) * q.dtype.type(scale)
    if causal:
        mask = np.tri(q.shape[-2], k.shape[-2]) > 0
    if mask is None:
        return s
    return np.where(mask, s, -np.inf).astype(q.dtype) if mask.dtype == bool else s + mask


def _attention_ref(q: np.ndarray, k: np.ndarray, v: np.ndarray, *rest: Any) -> np.ndarray:
    *mask, scale, causal = rest
    with np.errstate(all="ignore"):
        s = _scores(q, k, mask[0] if mask else None, scale, causal)
        top = s.max(-1, keepdims=True)
        top = np.where(top == -np.inf, 0, top).astype(q.dtype)
        e = np.exp(s - top)
        total = e.sum(-1, keepdims=True)
        out = (e / np.where(total == 0, 1, total).astype(q.dtype)) @ v
    return np.concatenate([out.swapaxes(1, 2).ravel(), np.concatenate([top, total], -1).ravel()])


def _attention_grad_ref(q: np.ndarray, k: np.ndarray, v: np.ndarray, stats: np.ndarray, g: np.ndarray,
                        *rest: Any) -> np.ndarray:
    *mask, scale, causal = rest
    with np.errstate(all="ignore"):
        s = _scores(q, k, mask[0] if mask else None, scale, causal)
        top, total = stats[..., :1], stats[..., 1:]
        w = np.exp(s - top) / np.where(total == 0, 1, total).astype(q.dtype)
        slope = g @ v.swapaxes(-1, -2)
        ds = w * (slope - (w * slope).sum(-1, keepdims=True))
        seen = np.tri(*s.shape[-2:]) > 0 if causal else mask[0] if mask and mask[0].dtype == bool else True
        ds = np.where(seen, ds, 0).astype(q.dtype) * q.dtype.type(scale)
        parts = ds @ k, ds.swapaxes(-1, -2) @ q, w.swapaxes(-1, -2) @ g
    return np.stack(parts, 2).transpose(0, 3, 2, 1, 4)


def _closed(*_: object) -> list[Node | None]:
    raise RuntimeError("attention and attention_grad have no gradient rule of their own: differentiate the products "
                       "and the softmax they stand for")


def _cost(i: Any, products: int, causal: bool) -> int:
    (b, h, rows, d), keys = i[0].shape, i[1].shape[2]
    pairs = rows * keys - (min(rows, keys) * (min(rows, keys) - 1) // 2 if causal else 0)
    return 2 * products * b * h * pairs * d


def stats_at(q: Shape) -> int:
    """Return where the statistics begin in the result of `attention` on queries of a shape."""
    return math.prod(q)


# (q (B, H, L, D), k and v (B, H, S, D)[, mask (B, H, L, S): bool, True takes part, or numbers to add]), scale, causal
# -> one flat buffer of the output (B, L, H, D) and then the statistics (B, H, L, 2): the largest score and the sum of
# exponentials of every row, from which the backward pass makes the weights again. The heads of a place lie together,
# as the projection that follows reads them.
attention = prim("attention", kind="contract", arity=-1, dtype=kept, ref=_attention_ref, grad=_closed, code=None,
                 batch=attending, shape=lambda i, p: (i[0].size + 2 * math.prod(i[0].shape[:3]),),
                 flops=lambda i, p: _cost(i, 2, p[1]))
# (q, k, v, statistics, gradient by the output (B, H, L, D)[, mask]), scale, causal, for as many keys as queries
# -> (B, L, 3, H, D): the gradients by q, k and v, laid out like the joint projection that they often come from.
attention_grad = prim("attention_grad", kind="contract", arity=-1, dtype=kept, ref=_attention_grad_ref, grad=_closed,
                      batch=attending, code=None, flops=lambda i, p: _cost(i, 5, p[1]),
                      shape=lambda i, p: (i[0].shape[0], i[0].shape[2], 3, i[0].shape[1], i[0].shape[3]))
