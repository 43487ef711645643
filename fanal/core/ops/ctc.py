"""Connectionist temporal classification: the probability of a label sequence over all its alignments.

Source: Graves et al. 2006, "Connectionist temporal classification". Forward and backward variables run on the host.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.engine.handle import Handle
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import counted, public, read, wrap
from fanal.core.ops.loss import reduction_by_number, reduction_of
from fanal.core.ops.pointwise import with_gradient

Array = np.ndarray
NEVER = -1e30  # the logarithm of a probability of 0, with which sums and differences stay numbers


def _extended(targets: Array, lengths: Array, blank: int) -> Array:
    """Labels with blanks between and around: (N, 2 S + 1)."""
    n, widest = len(lengths), int(lengths.max()) if len(lengths) else 0
    out = np.full((n, 2 * widest + 1), blank, np.int64)
    at = 0
    for b, s in enumerate(lengths):
        out[b, 1 : 2 * s + 1 : 2] = targets[b, :s] if targets.ndim == 2 else targets[at : at + s]
        at += s
    return out


def _steps(scores: Array, labels: Array, blank: int) -> Array:
    """Forward variables in logarithms, (T, N, 2 S + 1), for emission scores of the same shape."""
    t, n, s = scores.shape
    skip = np.full((n, s), NEVER)  # or 0, where a blank may be skipped
    skip[:, 2:][(labels[:, 2:] != blank) & (labels[:, 2:] != labels[:, :-2])] = 0
    alpha = np.full((t, n, s + 2), NEVER)  # two places that nothing reaches come first
    scores = np.maximum(scores, NEVER)
    alpha[0, :, 2:4] = scores[0, :, :2]
    for before, after, score in zip(alpha, alpha[1:], scores[1:]):
        ways = before[:, 2:], before[:, 1:-1], before[:, :-2] + skip
        top = np.maximum(np.maximum(ways[0], ways[1]), ways[2])
        # One of the terms is 1, beside which exp(-700) is nothing; NumPy is slow where exp underflows.
        total = sum(np.exp(np.maximum(way - top, -700)) for way in ways)
        after[:, 2:] = np.log(total) + top + score
    alpha[alpha < NEVER / 2] = -np.inf
    return alpha[:, :, 2:]


def _turned(a: Array, inputs: Array, lengths: Array) -> Array:
    """Return (T, N, 2 S + 1) with the steps and the labels of each sequence in reverse; beyond its ends stands -inf."""
    t, n, m = a.shape
    step = inputs[:, None] - 1 - np.arange(t)[:, None, None]
    label = 2 * lengths[:, None] - np.arange(m)
    found = a[np.maximum(step, 0), np.arange(n)[:, None], np.maximum(label, 0)]
    return np.where((step >= 0) & (label >= 0), found, -np.inf)


def _check(log_probs: Array, targets: Array, inputs: Array, lengths: Array) -> None:
    if (inputs > log_probs.shape[0]).any() or (inputs < 0).any():
        raise RuntimeError(
            f"Expected input_lengths to have value at most {log_probs.shape[0]}, but got "
            f"value {int(inputs.max())}"
        )
    if targets.ndim == 2 and (lengths > targets.shape[1]).any():
        raise RuntimeError(
            f"Expected tensor to have size at least {int(lengths.max())} at dimension 1, but got size "
            f"{targets.shape[1]}"
        )


def _ends(alpha: Array, inputs: Array, lengths: Array) -> Array:
    """log p of each sequence: the last label or the blank after it, at the last step."""
    step, b = np.maximum(inputs - 1, 0), np.arange(len(inputs))
    last, before = alpha[step, b, 2 * lengths], alpha[step, b, np.maximum(2 * lengths - 1, 0)]
    out = np.where(lengths > 0, np.logaddexp(last, before), last)
    return np.where(inputs > 0, out, np.where(lengths == 0, 0.0, -np.inf))


def _forward(
    log_probs: Array, targets: Array, inputs: Array, lengths: Array, *, blank: int
) -> tuple[Array, Array, Array]:
    _check(log_probs, targets, inputs, lengths)
    labels = _extended(targets, lengths, blank)
    each = np.broadcast_to(labels, (len(log_probs), *labels.shape))
    scores = np.take_along_axis(log_probs.astype(np.float64), each, 2)
    with np.errstate(all="ignore"):
        alpha = _steps(scores, labels, blank)
    return labels, scores, alpha


def _loss(log_probs: Array, targets: Array, inputs: Array, lengths: Array, *, blank: int) -> Array:
    with np.errstate(all="ignore"):
        alpha = _forward(log_probs, targets, inputs, lengths, blank=blank)[2]
        return (-_ends(alpha, inputs, lengths)).astype(log_probs.dtype)


def _gradient(log_probs: Array, targets: Array, inputs: Array, lengths: Array, *, blank: int) -> Array:
    """Gradient by log_probs as PyTorch defines it: probability - posterior, as if through log_softmax."""
    labels, scores, alpha = _forward(log_probs, targets, inputs, lengths, blank=blank)
    t, n, c = log_probs.shape
    with np.errstate(all="ignore"):
        total = _ends(alpha, inputs, lengths)
        turned = labels[np.arange(n)[:, None], np.maximum(2 * lengths[:, None] - np.arange(labels.shape[1]), 0)]
        beta = _turned(_steps(_turned(scores, inputs, lengths), turned, blank), inputs, lengths)
        share = np.where(np.isneginf(beta), 0, np.exp(alpha + beta - scores - total[:, None]))
        at = np.arange(t * n).reshape(t, n, 1) * c + labels
        posterior = np.bincount(at.reshape(-1), share.reshape(-1), t * n * c).reshape(t, n, c)
        grad = np.exp(log_probs.astype(np.float64)) - posterior
    grad[:, np.isinf(total)] = np.nan
    grad[np.arange(t)[:, None] >= inputs] = 0
    return grad.astype(log_probs.dtype)


@functools.lru_cache(None)
def _with_blank(f: Callable, blank: int) -> Callable:
    return functools.partial(f, blank=blank)


def _lengths(x: Any, n: int, name: str) -> Node:
    if isinstance(x, Handle):
        if x._dtype.category != 1:
            raise RuntimeError(f"{name} must be integral")
        node = P.convert(read(x), dt.int64)
        node = P.reshape(node, (node.size,))
    else:
        node = P.given(np.atleast_1d(np.array(x, np.int64)))
    if node.shape != (n,):
        raise RuntimeError(f"{name} must be of size batch_size")
    return node


@public("ctc_loss", method=False)
def torch_ctc_loss(
    log_probs: Any,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: int = 1,
    zero_infinity: bool = False,
) -> Any:
    """Return the CTC loss; reduction: 0 none, 1 mean, 2 sum."""
    how = reduction_by_number(reduction, "ctc_loss")
    return ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, how, zero_infinity)


@public(module="nn.functional", method=False)
def ctc_loss(
    log_probs: Any,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Any:
    """Return -log of the probability of the targets; the mean divides each by its target length first.

    Shapes: log-probabilities (T, N, C) or (T, C); targets (N, S), or all in one row; lengths (N).
    """
    reduction = reduction_of(reduction)
    x = read(log_probs)
    if x.dtype not in (dt.float32, dt.float64):
        raise RuntimeError(f"\"ctc_loss_cpu\" not implemented for '{dt.scalar_name(x.dtype)}'")
    single = len(x.shape) == 2
    if single:
        x = P.reshape(x, (x.shape[0], 1, x.shape[1]))
    t, n, c = x.shape
    if not 0 <= blank < c:
        raise RuntimeError("blank must be in label range")
    if not n:
        raise RuntimeError("log_probs tensor must not be empty")
    inputs, lengths = (
        _lengths(input_lengths, n, "input_lengths"),
        _lengths(target_lengths, n, "target_lengths"),
    )
    labels = P.convert(read(targets), dt.int64)
    data = (labels, inputs, lengths)
    loss = P.host((P.detach(x), *data), _with_blank(_loss, blank), (n,), x.dtype)
    infinite = P.eq(loss, P.num(loss, float("inf")))

    def rule(g: Node, y: Node, x: Node) -> list[Node | None]:
        d = P.host((P.detach(x), *data), _with_blank(_gradient, blank), (t, n, c), x.dtype)
        d = P.mul(d, P.reshape(g, (1, n, 1)))
        return [P.where(P.reshape(infinite, (1, n, 1)), P.num(d, 0), d) if zero_infinity else d]

    loss = with_gradient(loss, rule, x)
    if zero_infinity:
        loss = P.where(infinite, P.num(loss, 0), loss)
    if reduction == "mean":
        size = P.convert(P.max_(lengths, P.num(lengths, 1)), x.dtype)
        return wrap(P.div(P.sum_(P.div(loss, size), (0,)), counted(n, x.dtype)))
    if reduction == "sum":
        return wrap(P.sum_(loss, (0,)))
    return wrap(P.reshape(loss, ()) if single else loss)
