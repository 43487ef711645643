"""Losses with margins: ranking, embedding, multi-class, multi-label and triplet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.activation import log_sigmoid_node
from fanal.core.ops.build import counted, floating, node_of, nodes_of, number, public, read, result_type, wrap
from fanal.core.ops.distance import pairwise_distance, pairwise_node
from fanal.core.ops.loss import need_float, picked, reduced, reduction_by_number, reduction_of
from fanal.core.ops.pointwise import with_gradient


def positive_part(x: Node) -> Node:
    """max(x, 0), with gradient 1 at 0."""
    d = P.detach(x)
    return with_gradient(
        P.max_(d, P.num(d, 0)), lambda g, y, x: [P.where(P.le(P.num(x, 0), x), g, P.num(g, 0))], x
    )


def _by_sign(t: Node, one: Node, other: Node) -> Node:
    """`one` where the target is 1, `other` where it is -1, else 0; both add up where they meet."""
    zero = P.num(one, 0)
    return P.add(P.where(P.eq(t, P.num(t, 1)), one, zero), P.where(P.eq(t, P.num(t, -1)), other, zero))


@public(module="nn.functional", method=False)
def hinge_embedding_loss(
    input: Any,
    target: Any,
    margin: float = 1.0,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Any:
    """Return the mean of input where target is 1, max(0, margin - input) where it is -1."""
    reduction = reduction_of(reduction, size_average, reduce)
    x, t = read(input), read(target)
    zero = P.num(x, 0)
    far = positive_part(P.sub(number(float(margin), x.dtype), x))
    y = P.add(P.where(P.ne(t, P.num(t, 1)), far, zero), P.where(P.ne(t, P.num(t, -1)), x, zero))
    return wrap(reduced(y, reduction))


@public(module="nn.functional", method=False)
def margin_ranking_loss(
    input1: Any,
    input2: Any,
    target: Any,
    margin: float = 0,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Any:
    """Return the mean of max(0, -target * (input1 - input2) + margin)."""
    reduction = reduction_of(reduction, size_average, reduce)
    if len(input1._shape) != len(input2._shape) or len(input1._shape) != len(target._shape):
        raise RuntimeError(
            "margin_ranking_loss : All input tensors should have same dimension but got sizes: input1: "
            f"{input1.shape}, input2: {input2.shape}, target: {target.shape} "
        )
    difference = P.sub(*nodes_of(input1, input2))  # in the dtype of the operands: integers wrap
    d = result_type(input1, input2, target)
    y = P.convert(P.mul(P.neg(node_of(target, d)), P.convert(difference, d)), floating(d))
    return wrap(reduced(positive_part(P.add(y, number(float(margin), y.dtype))), reduction))


@public(module="nn.functional", method=False)
def cosine_embedding_loss(
    input1: Any,
    input2: Any,
    target: Any,
    margin: float = 0,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Any:
    """Return the mean of 1 - cos where target is 1, max(0, cos - margin) where it is -1. Shapes: (N, D) or (D)."""
    reduction = reduction_of(reduction, size_average, reduce)
    n = len(target._shape)
    if n > 1:
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
    if len(input1._shape) != n + 1 or len(input2._shape) != n + 1:
        raise RuntimeError(
            f"{n}D target tensor expects {n + 1}D input tensors, but found inputs with sizes "
            f"{list(input1._shape)} and {list(input2._shape)}."
        )
    a, b = nodes_of(input1, input2)
    d = floating(a.dtype)
    eps = number(1e-12, d)

    def inner(x: Node, y: Node) -> Node:
        return P.sum_(P.convert(P.mul(x, y), d), (n,))  # integers wrap in products

    cos = P.div(inner(a, b), P.sqrt(P.mul(P.add(inner(a, a), eps), P.add(inner(b, b), eps))))
    y = _by_sign(
        read(target), P.sub(P.num(cos, 1), cos), positive_part(P.sub(cos, number(float(margin), cos.dtype)))
    )
    return wrap(reduced(y, reduction))


def _triplet(near: Node, far: Node, other: Node | None, margin: float, reduction: str) -> Any:
    if other is not None:
        far = P.min_(far, other)
    return wrap(reduced(positive_part(P.sub(P.add(near, number(float(margin), near.dtype)), far)), reduction))


@public(module="nn.functional", method=False)
def triplet_margin_loss(
    anchor: Any,
    positive: Any,
    negative: Any,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Any:
    """Return the mean of max(0, d(anchor, positive) - d(anchor, negative) + margin), d the p-norm of the difference.

    swap: d(positive, negative) counts when it is smaller. Source: Balntas et al. 2016.
    """
    reduction = reduction_of(reduction, size_average, reduce)
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    if not len(anchor._shape) == len(positive._shape) == len(negative._shape):
        raise RuntimeError(
            "The anchor, positive, and negative tensors are expected to have the same number "
            "of dimensions, but "
            f"got: anchor {len(anchor._shape)}D, positive {len(positive._shape)}D, and negative "
            f"{len(negative._shape)}D inputs"
        )
    a, b, c = nodes_of(anchor, positive, negative)
    other = pairwise_node(b, c, float(p), eps) if swap else None
    return _triplet(
        pairwise_node(a, b, float(p), eps), pairwise_node(a, c, float(p), eps), other, margin, reduction
    )


@public(module="nn.functional", method=False)
def triplet_margin_with_distance_loss(
    anchor: Any,
    positive: Any,
    negative: Any,
    *,
    distance_function: Callable[[Any, Any], Any] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Any:
    """Return triplet_margin_loss with any distance (the Euclidean one by default)."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    if distance_function is None:
        distance_function = pairwise_distance
    if not len(anchor._shape) == len(positive._shape) == len(negative._shape):
        raise RuntimeError(
            "The anchor, positive, and negative tensors are expected to have the same number "
            "of dimensions, but "
            f"got: anchor {len(anchor._shape)}D, positive {len(positive._shape)}D, and negative "
            f"{len(negative._shape)}D inputs"
        )
    other = read(distance_function(positive, negative)) if swap else None
    near, far = read(distance_function(anchor, positive)), read(distance_function(anchor, negative))
    return _triplet(near, far, other, margin, reduction)


def _need_long(t: Node) -> None:
    if t.dtype is not dt.int64:
        raise RuntimeError(f"expected scalar type Long but found {dt.scalar_name(t.dtype)}")


@public(module="nn.functional", method=False)
def multi_margin_loss(
    input: Any,
    target: Any,
    p: int = 1,
    margin: float = 1.0,
    weight: Any = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Any:
    """Return the mean over samples of sum_j max(0, margin - x[target] + x[j])**p / C, over j other than the target."""
    reduction = reduction_of(reduction, size_average, reduce)
    if p not in (1, 2):
        raise ValueError("only p == 1 and p == 2 supported")
    if weight is not None and len(weight._shape) != 1:
        raise ValueError("weight must be one-dimensional")
    x, t = read(input), read(target)
    _need_long(t)
    if len(x.shape) > 2 or 0 in x.shape[-1:]:
        raise RuntimeError(
            f"Expected non-empty vector or matrix with optional 0-dim batch size, but got: {list(x.shape)}"
        )
    flat = len(x.shape) < 2
    if flat:
        x, t = P.reshape(x, (1, x.size)), P.reshape(t, (1,))
    n, c = x.shape
    if t.shape != (n,):
        raise RuntimeError(f"inconsistent target size, expected {n} but got {list(t.shape)}")
    if weight is not None and weight._shape != (c,):
        raise RuntimeError(f"inconsistent weight size, expected {c} but got {list(weight._shape)}")
    mine = P.reshape(picked(x, t, 1), (n, 1))
    z = P.add(P.sub(number(float(margin), x.dtype), mine), x)
    z = P.where(P.lt(P.num(z, 0), z), z, P.num(z, 0))
    z = P.mul(z, z) if p == 2 else z
    if weight is not None:
        z = P.mul(z, P.reshape(P.take(node_of(weight, x.dtype), t, 0), (n, 1)))
    z = P.where(P.eq(P.iota((1, c), 1, t.dtype), P.reshape(t, (n, 1))), P.num(z, 0), z)
    y = P.div(P.sum_(z, (1,)), counted(c, x.dtype))
    return wrap(reduced(P.reshape(y, ()) if flat and reduction == "none" else y, reduction))


@public(module="nn.functional", method=False)
def multilabel_margin_loss(
    input: Any, target: Any, size_average: Any = None, reduce: Any = None, reduction: str = "mean"
) -> Any:
    """Return the mean over samples of sum_ij max(0, 1 - (x[target_j] - x_i)) / C, over classes i that are no targets.

    A row of targets ends at its first negative number.
    """
    reduction = reduction_of(reduction, size_average, reduce)
    x, t = read(input), read(target)
    if 0 in x.shape[1:] or x.shape == (0,):
        raise RuntimeError(
            f"Expected non-empty vector or matrix with optional 0-dim batch size, but got: {list(x.shape)}"
        )
    _need_long(t)
    if t.shape != x.shape:
        raise RuntimeError(f"inconsistent target size: {list(t.shape)} for input of size: {list(x.shape)}")
    flat = len(x.shape) < 2
    if flat:
        x, t = P.reshape(x, (1, x.size)), P.reshape(t, (1, t.size))
    n, c = x.shape
    places = P.iota((1, c), 1, dt.int64)
    end = P.min_of(P.where(P.lt(t, P.num(t, 0)), places, P.num(places, c)), (1,))
    counts = P.lt(places, P.reshape(end, (n, 1)))
    place = P.where(counts, t, P.num(t, 0))
    hits = P.and_(
        P.eq(P.reshape(P.iota((c,), 0, t.dtype), (1, c, 1)), P.reshape(place, (n, 1, c))),
        P.reshape(counts, (n, 1, c)),
    )
    is_target = P.ne(P.sum_(P.convert(hits, dt.int64), (2,)), P.full((), 0, dt.int64))
    mine = P.reshape(P.gather(x, place, 1), (n, c, 1))
    z = P.add(P.sub(P.num(x, 1), mine), P.reshape(x, (n, 1, c)))
    z = P.where(P.lt(P.num(z, 0), z), z, P.num(z, 0))
    wanted = P.and_(P.reshape(counts, (n, c, 1)), P.not_(P.reshape(is_target, (n, 1, c))))
    y = P.div(P.sum_(P.where(wanted, z, P.num(z, 0)), (1, 2)), counted(c, x.dtype))
    return wrap(reduced(P.reshape(y, ()) if flat and reduction == "none" else y, reduction))


# torch's own functions: the reduction is a number.


@public("hinge_embedding_loss", method=False)
def torch_hinge_embedding_loss(input: Any, target: Any, margin: float = 1.0, reduction: int = 1) -> Any:
    """Return the hinge embedding loss; reduction: 0 none, 1 mean, 2 sum."""
    how = reduction_by_number(reduction, "hinge_embedding_loss")
    return hinge_embedding_loss(input, target, margin, reduction=how)


@public("margin_ranking_loss", method=False)
def torch_margin_ranking_loss(
    input1: Any, input2: Any, target: Any, margin: float = 0.0, reduction: int = 1
) -> Any:
    """Return the margin ranking loss; reduction: 0 none, 1 mean, 2 sum."""
    how = reduction_by_number(reduction, "margin_ranking_loss")
    return margin_ranking_loss(input1, input2, target, margin, reduction=how)


@public("cosine_embedding_loss", method=False)
def torch_cosine_embedding_loss(
    input1: Any, input2: Any, target: Any, margin: float = 0.0, reduction: int = 1
) -> Any:
    """Return the cosine embedding loss; reduction: 0 none, 1 mean, 2 sum."""
    how = reduction_by_number(reduction, "cosine_embedding_loss")
    return cosine_embedding_loss(input1, input2, target, margin, reduction=how)


@public("triplet_margin_loss", method=False)
def torch_triplet_margin_loss(
    anchor: Any,
    positive: Any,
    negative: Any,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: int = 1,
) -> Any:
    """Return the triplet margin loss; reduction: 0 none, 1 mean, 2 sum."""
    how = reduction_by_number(reduction, "triplet_margin_loss")
    return triplet_margin_loss(anchor, positive, negative, margin, p, eps, swap, reduction=how)


@public(module="nn.functional", method=False)
def soft_margin_loss(input: Any, target: Any, size_average: Any = None, reduce: Any = None,
                     reduction: str = "mean") -> Any:
    """Return the mean of log(1 + exp(-target * input))."""
    reduction = reduction_of(reduction, size_average, reduce)
    x, t = nodes_of(input, target)
    return wrap(reduced(P.neg(log_sigmoid_node(P.mul(x, t))), reduction))


@public(module="nn.functional", method=False)
def multilabel_soft_margin_loss(input: Any, target: Any, weight: Any = None, size_average: Any = None,
                                reduce: Any = None, reduction: str = "mean") -> Any:
    """Return the mean over classes of the binary cross-entropy of sigmoid(input)."""
    reduction = reduction_of(reduction, size_average, reduce)
    x, t = read(input), node_of(target, result_type(input, target))
    need_float(x, "log_sigmoid_cpu")
    yes, no = (P.convert(log_sigmoid_node(v), t.dtype) for v in (x, P.neg(x)))
    y = P.neg(P.add(P.mul(t, yes), P.mul(P.sub(P.num(t, 1), t), no)))
    if weight is not None:
        y = P.mul(y, node_of(weight, y.dtype))
    if not x.shape:
        raise IndexError("Dimension specified as -1 but tensor has no dimensions")
    classes = len(x.shape) - 1  # those of the input, also where the target has more dimensions
    return wrap(reduced(P.div(P.sum_(y, (classes,)), counted(x.shape[classes], y.dtype)), reduction))
