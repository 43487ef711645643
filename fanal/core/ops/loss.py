"""Losses: regression, probabilities and classes."""
from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.shape import Shape, broadcast_shapes
from fanal.core.base.state import state
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.activation import log_sigmoid_node, log_softmax_node
from fanal.core.ops.autocast import casting
from fanal.core.ops.build import (
    counted,
    floating,
    node_of,
    nodes_of,
    number,
    public,
    read,
    result_type,
    unsupported,
    wide,
    wrap,
)
from fanal.core.ops.matmul import linear
from fanal.core.ops.pointwise import pow_node, sigmoid_node, with_gradient
from fanal.core.ops.reduce import mean_node
from fanal.core.ops.shape import reshape
from fanal.core.tensor.tensor import compute


def reduction_of(reduction: str, size_average: Any = None, reduce: Any = None) -> str:
    """Return the reduction, from its name or from the two old flags. Raises ValueError for other names."""
    if size_average is not None or reduce is not None:
        average, all_ = (True if v is None else v for v in (size_average, reduce))
        reduction = "none" if not all_ else "mean" if average else "sum"
        warnings.warn(f"size_average and reduce args will be deprecated, please use reduction='{reduction}' "
                      "instead.",
                      stacklevel=4)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def reduction_by_number(number: Any, name: str) -> str:
    """Return the reduction as torch's own functions are told it: 1 mean, 2 sum, else none.

    Raises TypeError for anything but a whole number.
    """
    if not isinstance(number, int):
        raise TypeError(f"{name}(): argument 'reduction' must be int, not {type(number).__name__}")
    return {1: "mean", 2: "sum"}.get(number, "none")


def need_float(x: Node, kernel: str) -> None:
    """Raise PyTorch's error for a dtype that has no such kernel, unless it is a float."""
    if x.dtype.category != 2:
        raise unsupported(kernel, x.dtype)


def mean_all(x: Node) -> Node:
    """Mean of all elements."""
    return mean_node(x, tuple(range(len(x.shape))))


def sum_all(x: Node) -> Node:
    """Sum of all elements."""
    return P.sum_(x, tuple(range(len(x.shape))))


def reduced(x: Node, reduction: str) -> Node:
    """Reduce a loss per element."""
    return x if reduction == "none" else mean_all(x) if reduction == "mean" else sum_all(x)


def _lost(x: Node, reduction: str, d: dt.dtype | None = None) -> Any:
    y = reduced(x, reduction)
    return wrap(P.convert(y, d) if d else y)


def _pair(input: Any, target: Any) -> tuple[Node, Node]:
    """Two operands of one dtype, after PyTorch's warning if they would broadcast."""
    if input._shape != target._shape:
        warnings.warn(f"Using a target size ({target.shape}) that is different to the input size "
                      f"({input.shape}). This will "
                      "likely lead to incorrect results due to broadcasting. Please ensure they have the "
                      "same size.",
                      stacklevel=4)
    a, b = nodes_of(input, target)
    return a, b


def _weighted(x: Node, weight: Any, reduction: str) -> Node:
    """Reduce with a weight per element; the mean divides by the sum of weights."""
    if weight is None:
        return reduced(x, reduction)
    w = P.broadcast(node_of(weight, x.dtype), x.shape)
    x = P.mul(x, w)
    return P.div(sum_all(x), sum_all(w)) if reduction == "mean" else reduced(x, reduction)


@public(module="nn.functional", method=False)
def mse_loss(input: Any, target: Any, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
             weight: Any = None) -> Any:
    """Return the mean of (input - target)**2."""
    reduction = reduction_of(reduction, size_average, reduce)
    a, b = _pair(input, target)
    need_float(a, "mse_cpu")
    w = wide(P.sub(a, b))
    return wrap(P.convert(_weighted(pow_node(w, 2), weight, reduction), a.dtype))


@public(module="nn.functional", method=False)
def l1_loss(input: Any, target: Any, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
            weight: Any = None) -> Any:
    """Return the mean of |input - target|."""
    reduction = reduction_of(reduction, size_average, reduce)
    a, b = _pair(input, target)
    if reduction == "mean" and a.dtype.category < 2:
        raise RuntimeError("mean(): could not infer output dtype. Input dtype must be either a floating "
                           "point or complex "
                           f"dtype. Got: {dt.scalar_name(a.dtype)}")
    return wrap(_weighted(P.abs_(P.sub(a, b)), weight, reduction))


@public(module="nn.functional", method=False)
def smooth_l1_loss(input: Any, target: Any, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
                   beta: float = 1.0) -> Any:
    """Return the mean of d**2 / (2 beta) where d = |input - target| < beta, d - beta / 2 elsewhere."""
    reduction = reduction_of(reduction, size_average, reduce)
    a, b = _pair(input, target)
    need_float(a, "smooth_l1_cpu")
    if beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    e = P.sub(a, b)
    d = P.abs_(e)
    if beta == 0:
        return _lost(d, reduction)
    k = counted(beta, d.dtype)
    half = P.num(d, 0.5)
    y = P.where(P.lt(d, k), P.div(P.mul(P.mul(half, e), e), k), P.sub(d, P.mul(half, k)))
    return _lost(y, reduction)


@public(module="nn.functional", method=False)
def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0, weight: Any = None) -> Any:
    """Return the mean of d**2 / 2 where d = |input - target| < delta, delta * (d - delta / 2) elsewhere."""
    reduction = reduction_of(reduction)
    a, b = _pair(input, target)
    need_float(a, "huber_cpu")
    if delta <= 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")
    e = P.sub(wide(a), wide(b))
    d = P.abs_(e)  # its second derivative is 0 at 0, that of the square is not
    k, half = number(float(delta), d.dtype), P.num(d, 0.5)
    y = P.where(P.lt(d, k), P.mul(P.mul(half, e), e), P.mul(k, P.sub(d, P.mul(half, k))))
    return wrap(_weighted(P.convert(y, a.dtype), weight, reduction))


def _least_logarithm(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the bound of the logarithms, where none of the inputs and targets is outside [0, 1]."""
    for name, outside in (("input", inputs), ("target", targets)):
        if outside:
            raise RuntimeError(f"all elements of {name} should be between 0 and 1")
    return np.array(-100.0)


_LEAST = float(np.float32(1e-12))  # PyTorch's limit of x (1 - x), which is a float32 for float64, too


def _spread(x: Node, limit: float = _LEAST) -> Node:
    """Return x (1 - x), at least `limit`."""
    y, least = P.mul(P.sub(P.num(x, 1), x), x), P.num(x, limit)
    return P.where(P.lt(y, least), least, y)


def _odds_curve(h: Node, y: Node, g: Node, x: Node, t: Node) -> list[Node | None]:
    """The gradient of g (x - t) / spread(x). By x it is PyTorch's, whose divisor is moved away from 0, not limited."""
    one, small = P.num(x, 1), P.num(x, 1e-12)
    bend = P.add(P.sub(P.mul(x, x), P.mul(P.mul(P.num(x, 2), x), t)), t)
    moved = P.mul(P.add(x, small), P.add(P.sub(one, x), small))
    by_x = P.div(P.mul(P.mul(h, g), bend), P.mul(moved, moved))
    return [P.div(P.mul(h, P.sub(x, t)), _spread(x)), by_x, P.neg(P.div(P.mul(h, g), _spread(x, 1e-12)))]


@public(module="nn.functional", method=False)
def binary_cross_entropy(input: Any, target: Any, weight: Any = None, size_average: Any = None, reduce: Any = None,
                         reduction: str = "mean") -> Any:
    """Return the mean of -(target * log(input) + (1 - target) * log(1 - input)), the logarithms at least -100.

    Raises RuntimeError, when the loss is computed, for elements of input and target outside [0, 1].
    """
    reduction = reduction_of(reduction, size_average, reduce)
    if target._shape != input._shape:
        raise ValueError(f"Using a target size ({target.shape}) that is different to the input size "
                         f"({input.shape}) is "
                         "deprecated. Please ensure they have the same size.")
    if input._dtype is not target._dtype:
        raise RuntimeError(f"Found dtype {dt.scalar_name(target._dtype)} but expected "
                           f"{dt.scalar_name(input._dtype)}")
    x, t = read(input), read(target)
    need_float(x, "binary_cross_entropy")
    dx, s = wide(P.detach(x)), wide(P.detach(t))
    zero, one = P.num(dx, 0), P.num(dx, 1)
    outside = [P.sum_(P.convert(P.not_(P.and_(P.le(zero, of), P.le(of, one))), dt.int64), tuple(range(len(of.shape))))
               for of in (dx, s)]
    floor = P.host(tuple(outside), _least_logarithm, (), dx.dtype)
    y = P.sub(P.mul(P.sub(s, one), P.max_(P.log1p(P.neg(dx)), floor)), P.mul(s, P.max_(P.log(dx), floor)))

    asked = target.requires_grad

    def rule(g: Node, y: Node, x: Node, t: Node) -> list[Node | None]:
        g, x, t = wide(g), wide(x), wide(t)
        slope = P.div(P.mul(P.detach(g), P.sub(P.detach(x), P.detach(t))), _spread(P.detach(x)))
        slope = with_gradient(slope, _odds_curve, g, x, t)
        return [slope, P.mul(g, P.sub(P.log1p(P.neg(x)), P.log(x))) if asked else None]
    y = with_gradient(P.convert(y, x.dtype), rule, x, t)
    if weight is not None:
        y = P.mul(y, node_of(weight, y.dtype))
    return _lost(y, reduction)


@public(module="nn.functional", method=False)
def binary_cross_entropy_with_logits(input: Any, target: Any, weight: Any = None, size_average: Any = None,
                                     reduce: Any = None, reduction: str = "mean", pos_weight: Any = None) -> Any:
    """Return the mean binary cross-entropy of sigmoid(input), computed without overflow."""
    reduction = reduction_of(reduction, size_average, reduce)
    if target._shape != input._shape:
        raise ValueError(f"Target size ({target.shape}) must be the same as input size ({input.shape})")
    d = result_type(input, target)
    x, t = node_of(input, d), node_of(target, d)
    need_float(x, "log_sigmoid_cpu")
    for name, given in (("weight", weight), ("pos_weight", pos_weight)):
        if given is not None and given.requires_grad and state.grad:
            raise RuntimeError(f"The function 'binary_cross_entropy_with_logits' is not differentiable with respect to "
                               f"argument '{name}'. This input cannot have requires_grad True.")
    if weight is not None and (wider := broadcast_shapes(x.shape, weight._shape)) != x.shape:
        raise RuntimeError(f"output with shape {list(x.shape)} doesn't match the broadcast shape {list(wider)}")
    p = None if pos_weight is None else P.detach(node_of(pos_weight, d))
    w = None if weight is None else wide(P.detach(node_of(weight, d)))
    weighted = lambda y: y if w is None else P.mul(y, w)

    def scaled(t: Node) -> Node:
        """What log(sigmoid(x)) counts: 1, or 1 - t + p * t."""
        assert p is not None
        return P.add(P.num(t, 1), P.mul(P.sub(wide(p), P.num(t, 1)), t))

    dx, s = wide(P.detach(x)), wide(P.detach(t))
    log = log_sigmoid_node(dx)
    y = P.sub(P.mul(P.sub(P.num(s, 1), s), dx), log if p is None else P.mul(log, scaled(s)))
    asked = target.requires_grad

    def rule(g: Node, y: Node, x: Node, t: Node) -> list[Node | None]:
        g, x, t = wide(g), wide(x), wide(t)
        y = sigmoid_node(x)
        slope = P.sub(y, t) if p is None else P.sub(P.mul(scaled(t), y), P.mul(wide(p), t))
        rise = x if p is None else P.add(x, P.mul(P.sub(wide(p), P.num(x, 1)), log_sigmoid_node(x)))
        g = weighted(g)
        return [P.mul(slope, g), P.neg(P.mul(rise, g)) if asked else None]

    return _lost(with_gradient(P.convert(weighted(y), d), rule, x, t), reduction)


def xlogx(t: Node) -> Node:
    """t * log(t), and 0 at 0."""
    return P.mul(t, P.log(P.where(P.eq(t, P.num(t, 0)), P.num(t, 1), t)))


@public(module="nn.functional", method=False)
def kl_div(input: Any, target: Any, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
           log_target: bool = False) -> Any:
    """Return the mean of target * (log(target) - input); "batchmean" divides the sum by the batch size."""
    batch = reduction == "batchmean"
    if reduction == "mean":
        warnings.warn("reduction: 'mean' divides the total loss by both the batch size and the support "
                      "size.'batchmean' "
                      "divides only by the batch size, and aligns with the KL div math definition.'mean' "
                      "will be changed "
                      "to behave the same as 'batchmean' in the next major release.", stacklevel=3)
    reduction = "sum" if batch else reduction_of(reduction, size_average, reduce)
    x, t = nodes_of(input, target)
    if x.dtype.category != 2:
        raise RuntimeError(f"kl_div: {'Complex' if x.dtype.is_complex else 'Integral'} inputs not supported.")
    y = P.mul(P.exp(t), P.sub(t, x)) if log_target else P.sub(xlogx(t), P.mul(t, x))
    total = reduced(y, reduction)
    if batch and x.shape:
        total = P.div(total, counted(x.shape[0], x.dtype))
    return wrap(total)


@public("poisson_nll_loss", method=False)
def torch_poisson_nll_loss(input: Any, target: Any, log_input: bool, full: bool, eps: float, reduction: int) -> Any:
    """Return the negative log-likelihood of counts under Poisson rates; reduction: 0 none, 1 mean, 2 sum."""
    how = reduction_by_number(reduction, "poisson_nll_loss")
    return poisson_nll_loss(input, target, log_input, full, eps=eps, reduction=how)


@public(module="nn.functional", method=False)
def poisson_nll_loss(input: Any, target: Any, log_input: bool = True, full: bool = False, size_average: Any = None,
                     eps: float = 1e-8, reduce: Any = None, reduction: str = "mean") -> Any:
    """Return the mean of exp(input) - target * input; full adds Stirling's term for log(target!)."""
    reduction = reduction_of(reduction, size_average, reduce)
    x, t = nodes_of(input, target, to=floating(result_type(input, target)))
    if log_input:
        y = P.sub(P.exp(x), P.mul(t, x))
    else:
        y = P.sub(x, P.mul(t, P.log(P.add(x, number(float(eps), x.dtype)))))
    if full:
        one = P.num(t, 1)
        big = P.where(P.le(t, one), one, t)
        root = P.mul(P.num(t, 0.5), P.log(P.mul(P.num(t, 2 * math.pi), big)))
        stirling = P.add(P.sub(P.mul(big, P.log(big)), big), root)
        y = P.add(y, P.where(P.le(t, one), P.num(t, 0), stirling))
    return _lost(y, reduction)


@public(module="nn.functional", method=False)
def gaussian_nll_loss(input: Any, target: Any, var: Any, full: bool = False, eps: float = 1e-6,
                      reduction: str = "mean") -> Any:
    """Return the mean of (log(var) + (input - target)**2 / var) / 2, with var at least eps."""
    if isinstance(var, float):
        if var < 0:
            raise ValueError("var has negative entry/entries")
        v = P.broadcast(number(var, input._dtype), input._shape)
    else:
        shape = input._shape
        if var._shape == shape:
            v = read(var)
        elif var._shape == shape[:-1]:
            v = P.reshape(read(var), (*shape[:-1], 1))
        elif len(var._shape) == len(shape) and sum(a != b for a, b in zip(shape, var._shape)) == 1 and any(
                b == 1 and a != b for a, b in zip(shape, var._shape)):
            v = read(var)
        else:
            raise ValueError("var is of incorrect size")
        if (compute(var) < 0).any():
            raise ValueError("var has negative entry/entries")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(reduction + " is not valid")
    x, t = nodes_of(input, target)
    v = P.convert(v, x.dtype.to_real())
    v = with_gradient(P.max_(P.detach(v), number(float(eps), v.dtype)), lambda g, y, v: [g], v)
    v = P.convert(v, x.dtype)
    y = P.mul(P.num(x, 0.5), P.add(P.log(v), P.div(pow_node(P.sub(x, t), 2), v)))
    if full:
        y = P.add(y, P.num(x, 0.5 * math.log(2 * math.pi)))
    return _lost(y, reduction)


def _class_row(c: int, at: int, ndim: int) -> Shape:
    return tuple(c if d == at else 1 for d in range(ndim))


def _is_class(t: Node, c: int, at: int) -> Node:
    """Compare classes with 0, 1, ..., c - 1 along a new dimension `at`."""
    shape = (*t.shape[:at], 1, *t.shape[at:])
    return P.eq(P.reshape(P.iota((c,), 0, t.dtype), _class_row(c, at, len(shape))), P.reshape(t, shape))


def picked(x: Node, t: Node, at: int) -> Node:
    """x at the class of each place; a class outside [0, C) raises IndexError when the value is computed."""
    d = P.detach(x)
    n = counted(x.shape[at], t.dtype)
    safe = P.where(P.lt(t, P.num(t, 0)), P.sub(t, n), t)  # a negative class must not count from the end
    i = P.reshape(safe, (*t.shape[:at], 1, *t.shape[at:]))
    y = P.reshape(P.gather(d, i, at), t.shape)

    def rule(g: Node, y: Node, x: Node) -> list[Node | None]:
        g = P.reshape(g, (*t.shape[:at], 1, *t.shape[at:]))
        return [P.where(_is_class(t, x.shape[at], at), g, P.num(g, 0))]
    return with_gradient(y, rule, x)


class _Classes:
    """Targets as the losses need them: which count, their safe indices and their weights."""

    __slots__ = ("at", "t", "valid", "weight")

    def __init__(self, target: Any, weight: Any, ignore_index: int, d: dt.dtype, at: int) -> None:
        t = P.convert(read(target), dt.int64)
        if at == 0:
            t = P.reshape(t, ())
        self.at = at
        skip = P.full((), ignore_index, dt.int64)
        self.valid = P.ne(t, skip)
        self.t = P.where(self.valid, t, P.num(t, 0))
        self.weight: Node | None = None
        if weight is not None:
            n = counted(weight._shape[0], dt.int64)
            i = P.where(P.lt(self.t, P.num(t, 0)), P.sub(self.t, n), self.t)
            w = P.take(P.detach(P.convert(read(weight), d)), i, 0)
            self.weight = P.where(self.valid, w, P.num(w, 0))

    def total(self, d: dt.dtype) -> Node:
        """Sum of the weights of the targets that count (their number, without weights)."""
        if self.weight is not None:
            return sum_all(self.weight)
        return P.convert(sum_all(P.convert(self.valid, dt.int64)), d)

    def finish(self, y: Node, reduction: str) -> Node:
        """Reduce a loss per place, weighted already."""
        return P.div(sum_all(y), self.total(y.dtype)) if reduction == "mean" else reduced(y, reduction)

    def keep(self, y: Node) -> Node:
        """y times the weight, 0 where ignored."""
        if self.weight is not None:
            y = P.mul(y, self.weight)
        return P.where(self.valid, y, P.num(y, 0))


def _check_classes(input: Any, target: Any, weight: Any) -> int:
    """Check shapes and dtypes as PyTorch does; return the dimension of the classes."""
    x, t = input._shape, target._shape
    if target._dtype not in (dt.int64, dt.uint8):
        raise RuntimeError(f"expected target dtype to be Long or Byte, but got "
                           f"{dt.scalar_name(target._dtype)}")
    at = 1 if len(x) > 1 else 0
    if weight is not None and weight._shape != (x[at],):
        raise RuntimeError("weight tensor should be defined either for all "
                           f"{x[at]} classes or no classes but got weight tensor of shape: "
                           f"{list(weight._shape)}")
    if len(x) == 1:
        if t not in ((), (1,)):
            raise ValueError("For 1D input, 1D target must have size 1, but got target size: "
                             f"{t[0]}" if len(t) == 1 else
                             "0D or 1D target tensor expected, multi-target not supported")
    elif len(x) == 2:
        if len(t) > 1:
            raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
        if t != x[:1]:
            raise ValueError(f"Expected input batch_size ({x[0]}) to match target batch_size "
                             f"({t[0] if t else 1}).")
    else:
        want = (x[0], *x[2:])
        if t[:1] != x[:1]:
            raise ValueError(f"Expected input batch_size ({x[0]}) to match target batch_size "
                             f"({t[0] if t else 1}).")
        if t != want and len(x) == 4:
            raise RuntimeError(f"size mismatch (got input: {list(x)} , target: {list(t)}")
        if t != want:
            raise RuntimeError(f"Expected target size {list(want)}, got {list(t)}")
    return at


@public(module="nn.functional", method=False)
def nll_loss(input: Any, target: Any, weight: Any = None, size_average: Any = None, ignore_index: int = -100,
             reduce: Any = None, reduction: str = "mean") -> Any:
    """Return the mean of -input[target] over the targets that are not ignored.

    Shapes: log-probabilities (C), (N, C) or (N, C, *), classes (), (N) or (N, *); weight (C).
    Raises IndexError, when the loss is computed, for a class outside [0, C).
    """
    reduction = reduction_of(reduction, size_average, reduce)
    if not input._shape:
        raise ValueError("Expected 1 or more dimensions (got 0)")
    at = _check_classes(input, target, weight)
    x = read(input)
    c = _Classes(target, weight, ignore_index, x.dtype, at)
    y = c.keep(P.neg(picked(x, c.t, at)))
    return wrap(c.finish(y, reduction))


public("nll_loss2d", module="nn.functional", method=False)(nll_loss)
public("nll_loss_nd", module="nn.functional", method=False)(nll_loss)


def class_loss(x: Node, c: _Classes) -> Node:
    """-log softmax(x)[class] at each place; the gradient softmax - onehot comes out of one pass over the row."""
    at, t = c.at, c.t
    keep = tuple(1 if d == at else n for d, n in enumerate(x.shape))
    # What is saved is not what the tensor holds: the logits may be written before backward, as in PyTorch.
    w = P.alias(x) if x.dtype is wide(x).dtype else wide(x)
    d = P.detach(w)
    m = P.reshape(P.max_of(d, (at,)), keep)
    s = P.reshape(P.sum_(P.exp(P.sub(d, m)), (at,)), keep)

    def softmax(w: Node, total: Node) -> Node:
        # The exponentials of the sum are used again; dividing each would take as long as an exponential.
        return P.mul(P.exp(P.sub(w, m)), P.exp(P.neg(total)))

    def s_rule(g: Node, y: Node, w: Node) -> list[Node | None]:
        return [P.mul(g, softmax(w, y))]
    total = with_gradient(P.log(s), s_rule, w)
    y = P.sub(P.reshape(P.detach(total), t.shape), P.sub(picked(d, t, at), P.reshape(m, t.shape)))

    def rule(g: Node, y: Node, w: Node, total: Node) -> list[Node | None]:
        p = softmax(w, total)
        hit = _is_class(t, w.shape[at], at)
        return [P.mul(P.sub(p, P.where(hit, P.num(p, 1), P.num(p, 0))), P.reshape(g, keep)), None]
    return with_gradient(y, rule, w, total)


@public(module="nn.functional", method=False)
def cross_entropy(input: Any, target: Any, weight: Any = None, size_average: Any = None, ignore_index: int = -100,
                  reduce: Any = None, reduction: str = "mean", label_smoothing: float = 0.0) -> Any:
    """Return the mean of -log softmax(input)[target].

    Shapes: logits (C), (N, C) or (N, C, *); classes (), (N) or (N, *), or probabilities of the logits' shape.
    Raises IndexError, when the loss is computed, for a class outside [0, C).
    """
    reduction = reduction_of(reduction, size_average, reduce)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing:g}")
    shape = input._shape
    if target._shape == shape and target._dtype.category >= 2:
        if ignore_index >= 0:
            raise RuntimeError("ignore_index is not supported for floating point target")
        return _probability_loss(input, target, weight, reduction, label_smoothing)
    if not shape:
        raise IndexError("Dimension out of range (expected to be in range of [-1, 0], but got 1)")
    at = _check_classes(input, target, weight)
    x = read(input)
    if x.dtype.category < 2:
        raise NotImplementedError("\"log_softmax_lastdim_kernel_impl\" not implemented for "
                                  f"'{dt.scalar_name(x.dtype)}'")
    if not shape[at]:
        raise RuntimeError("cross_entropy expects at least one class")
    d = wide(x).dtype
    c = _Classes(target, weight, ignore_index, d, at)
    loss = c.finish(c.keep(class_loss(x, c)), reduction)
    if label_smoothing:
        e = counted(label_smoothing, d)
        share = counted(label_smoothing / shape[at], d)
        terms = P.neg(log_softmax_node(wide(x), at))
        if weight is not None:
            terms = P.mul(terms, P.reshape(node_of(weight, d), _class_row(shape[at], at, len(shape))))
        each = P.sum_(terms, (at,))
        even = c.finish(P.where(c.valid, each, P.num(each, 0)), reduction)
        loss = P.add(P.mul(loss, P.sub(P.num(loss, 1), e)), P.mul(even, share))
    return wrap(P.convert(loss, x.dtype))


def _probability_loss(input: Any, target: Any, weight: Any, reduction: str, smoothing: float) -> Any:
    x, t = nodes_of(input, target)
    at = 1 if len(x.shape) > 1 else 0
    n = x.shape[at]
    y, t = log_softmax_node(wide(x), at), wide(t)
    if smoothing:
        t = P.add(P.mul(t, counted(1 - smoothing, t.dtype)), counted(smoothing / n, t.dtype))
    terms = P.neg(P.mul(y, t))
    if weight is not None:
        terms = P.mul(terms, P.reshape(node_of(weight, terms.dtype), _class_row(n, at, len(x.shape))))
    if reduction == "none":
        loss = P.sum_(terms, (at,))
    else:
        loss = sum_all(terms)
        if reduction == "mean":
            loss = P.div(loss, counted(x.size // n if n else 0, loss.dtype))
    return wrap(P.convert(loss, x.dtype))


@public(module="nn.functional", method=False)
def linear_cross_entropy(input: Any, linear_weight: Any, target: Any, *, linear_bias: Any = None, weight: Any = None,
                         reduction: str = "mean", ignore_index: int | None = None, label_smoothing: float = 0.0,
                         options: Any = None) -> Any:
    """Return cross_entropy(linear(input, linear_weight, linear_bias), target).

    Shapes: (N, I) or (I), weight (C, *D, I), target as in cross_entropy of (N, C, *D).
    Differs from torch: `options`, which choose how it is computed there, have no effect.
    """
    x, w = input._shape, linear_weight._shape
    if len(x) not in (1, 2):
        raise RuntimeError(f"expected input with dimensionality 1 or 2, got {len(x)}")
    if len(w) < 2:
        raise RuntimeError(f"expected linear_weight with dimensionality at least 2, got {len(w)}")
    if x[-1] != w[-1]:
        raise RuntimeError("expected equal input and linear_weight last dimensions (in_features), got "
                           f"{x[-1]} and {w[-1]}, respectively")
    if linear_bias is not None and linear_bias._shape != w[:-1]:
        raise RuntimeError(f"expected linear_bias shape {w[:-1]}, got {linear_bias._shape}")
    if len(w) > 2 and len(x) == 1:
        raise RuntimeError(f"K-dimensional loss defined by linear_weight shape {w} requires batched input, "
                           f"(N, {x[-1]}), got unbatched input with shape {x}")
    if len(x) == 2 and target._shape and target._shape[0] != x[0]:
        raise ValueError(f"Expected input batch_size ({x[0]}) to match target batch_size ({target._shape[0]}).")
    if ignore_index is not None and target._shape == (*x[:-1], *w[:-1]):
        raise RuntimeError("ignore_index cannot be specified when target contains probabilities")
    if len(w) > 2:
        linear_weight = reshape(linear_weight, -1, w[-1])
        linear_bias = None if linear_bias is None else reshape(linear_bias, -1)
    logits = reshape(casting(linear, "linear")(input, linear_weight, linear_bias), *x[:-1], *w[:-1])
    loss = casting(cross_entropy, "cross_entropy")
    return loss(logits, target, weight, ignore_index=-100 if ignore_index is None else ignore_index,
                reduction=reduction, label_smoothing=label_smoothing)
