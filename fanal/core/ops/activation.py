"""Activations: pointwise nonlinearities and softmax, with gradients that fuse into one kernel."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.base.shape import wrap_dim
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node, Shape
from fanal.core.ops.build import (
    assign,
    counted,
    dense,
    floating,
    node_of,
    number,
    public,
    read,
    result,
    unsupported,
    wide,
)
from fanal.core.ops.dropout import uniform_node
from fanal.core.ops.pointwise import neg, relu_node, sigmoid, sigmoid_node, tanh, with_gradient
from fanal.core.ops.reduce import keep, sum_node

Rule = Callable[..., list[Node | None]]


def need_float(t: Any, name: str) -> Node:
    """Return the value of `t`. Raises NotImplementedError if it is not a real floating-point tensor."""
    if t._dtype.category != 2:
        raise unsupported(name, t._dtype)
    return read(t)


def _widely(f: Callable[[Node], Node], x: Node) -> Node:
    """Compute f from a value without history in wide precision, and round once."""
    return P.convert(f(wide(P.detach(x))), x.dtype)


def _steep(rule: Callable[..., Node]) -> Rule:
    """Make a gradient rule from slope(g, x) written in wide precision."""
    return lambda g, y, x: [P.convert(rule(wide(g), wide(x)), x.dtype)]


def _apply(input: Any, inplace: bool, y: Node) -> Any:
    return assign(input, y) if inplace else result(y, input)


def smooth(x: Node, f: Callable[[Node], Node], slope: Callable[[Node, Node], Node]) -> Node:
    """Return f(x) with the gradient slope(g, x); both are computed in wide precision."""
    return with_gradient(_widely(f, x), _steep(slope), x)


def gate(test: Node, g: Node, other: Any = 0) -> Node:
    """g where the test holds, else a constant."""
    return P.where(test, g, P.num(g, other))


@public("relu", module="nn.functional", method=False)
def relu_functional(input: Any, inplace: bool = False) -> Any:
    """Return max(input, 0); the gradient at 0 is 0."""
    return _apply(input, inplace, relu_node(read(input)))


public("relu_", module="nn.functional", method=False)(lambda input: relu_functional(input, True))


@public(module="nn.functional", method=False)
def relu6(input: Any, inplace: bool = False) -> Any:
    """Return min(max(input, 0), 6)."""
    return hardtanh(input, 0.0, 6.0, inplace)


@public(module="nn.functional", method=False)
def hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Any:
    """Return input limited to [min_val, max_val]; the gradient at the limits is 0."""
    if min_val > max_val:
        raise ValueError("min_val cannot be greater than max_val")
    if input._dtype is dt.bool_:
        raise RuntimeError("Bool inputs not supported for hardtanh")
    x = read(input)
    lo, hi = number(min_val, x.dtype), number(max_val, x.dtype)
    y = P.min_(P.max_(P.detach(x), lo), hi)
    return _apply(
        input, inplace, with_gradient(y, lambda g, y, x: [gate(P.not_(P.or_(P.le(x, lo), P.le(hi, x))), g)], x)
    )


public("hardtanh_", module="nn.functional", method=False)(
    lambda input, *a, **k: hardtanh(input, *a, **k, inplace=True)
)


def _leaky(x: Node, slope: Node) -> Node:
    """x where positive, slope * x elsewhere; the slope comes in the precision of the product."""
    def bend(v: Node, x: Node) -> Node:
        return P.where(P.lt(P.num(x, 0), x), v, P.convert(P.mul(wide(v), slope), x.dtype))
    d = P.detach(x)
    return with_gradient(bend(d, d), lambda g, y, x: [bend(g, x)], x)


@public(module="nn.functional", method=False)
def leaky_relu(input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    """Return input where positive, negative_slope * input elsewhere."""
    x = need_float(input, "leaky_relu_cpu")
    return _apply(input, inplace, _leaky(x, number(float(negative_slope), wide(x).dtype)))


public("leaky_relu_", module="nn.functional", method=False)(
    lambda input, negative_slope=0.01: leaky_relu(input, negative_slope, True)
)


def _elu(x: Node, alpha: float, scale: float, input_scale: float) -> Node:
    """scale * x where positive, scale * alpha * (exp(input_scale * x) - 1) elsewhere."""
    w = wide(P.detach(x))
    a, s, i = (counted(v, w.dtype) for v in (alpha * scale, scale, input_scale))
    y = P.where(P.lt(P.num(w, 0), w), P.mul(w, s), P.mul(P.expm1(P.mul(w, i)), a))

    def slope(g: Node, x: Node) -> Node:
        zero = P.num(x, 0)
        low = P.where(P.lt(x, zero), x, P.detach(x))  # at zero, its own slope is that from above
        return P.where(P.lt(zero, x), P.mul(g, s), P.mul(P.mul(g, P.mul(a, i)), P.exp(P.mul(low, i))))

    return with_gradient(P.convert(y, x.dtype), _steep(slope), x)


@public(module="nn.functional", method=False)
def elu(input: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    """Return input where positive, alpha * (exp(input) - 1) elsewhere."""
    return _apply(input, inplace, _elu(need_float(input, "elu_cpu"), float(alpha), 1.0, 1.0))


public("elu_", module="nn.functional", method=False)(lambda input, alpha=1.0: elu(input, alpha, True))
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def _both(name: str, fn: Callable, plain: Callable) -> None:
    """Register an activation in nn.functional, where it takes `inplace`, and `plain`, which does not, as torch's."""
    plain.__name__, plain.__qualname__, plain.__doc__ = name, name, fn.__doc__
    public(name, method=False, inplace=True)(plain)
    public(name, module="nn.functional", method=False)(fn)
    public(name + "_", module="nn.functional", method=False)(
        lambda input, *a, **k: fn(input, *a, **k, inplace=True)
    )


def celu(input: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    """Return max(0, x) + min(0, alpha * (exp(x / alpha) - 1))."""
    if alpha == 0:
        raise RuntimeError("ZeroDivisionError: alpha cannot be 0 for CELU")
    return _apply(input, inplace, _elu(need_float(input, "elu_cpu"), float(alpha), 1.0, 1.0 / alpha))


def selu(input: Any, inplace: bool = False) -> Any:
    """Return the self-normalising exponential linear unit. Source: Klambauer et al. 2017."""
    return _apply(input, inplace, _elu(need_float(input, "elu_cpu"), _SELU_ALPHA, _SELU_SCALE, 1.0))


_both("celu", celu, lambda input, alpha=1.0: celu(input, alpha))
_both("selu", selu, lambda input: selu(input))
_INV_SQRT2, _INV_SQRT_2PI = 1 / math.sqrt(2), 1 / math.sqrt(2 * math.pi)
_TANH_K, _TANH_C = math.sqrt(2 / math.pi), 0.044715


def gelu_node(x: Node, tanh_form: bool) -> Node:
    """x * Phi(x), or its tanh approximation. Source: Hendrycks & Gimpel 2016."""
    if not tanh_form:

        def cdf(x: Node) -> Node:
            return P.mul(P.add(P.erf(P.mul(x, P.num(x, _INV_SQRT2))), P.num(x, 1)), P.num(x, 0.5))

        def slope(g: Node, x: Node) -> Node:
            pdf = P.mul(P.exp(P.mul(P.mul(x, x), P.num(x, -0.5))), P.num(x, _INV_SQRT_2PI))
            return P.mul(g, P.add(cdf(x), P.mul(x, pdf)))

        return smooth(x, lambda x: P.mul(x, cdf(x)), slope)

    def inner(x: Node) -> Node:
        cube = P.mul(P.mul(x, x), x)
        return P.tanh(P.mul(P.num(x, _TANH_K), P.add(x, P.mul(P.num(x, _TANH_C), cube))))

    def tanh_slope(g: Node, x: Node) -> Node:
        t, one, half = inner(x), P.num(x, 1), P.num(x, 0.5)
        left = P.mul(half, P.add(one, t))
        growth = P.mul(P.num(x, _TANH_K), P.add(one, P.mul(P.num(x, 3 * _TANH_C), P.mul(x, x))))
        right = P.mul(P.mul(P.mul(half, x), P.sub(one, P.mul(t, t))), growth)
        return P.mul(g, P.add(left, right))

    return smooth(x, lambda x: P.mul(P.mul(P.num(x, 0.5), x), P.add(P.num(x, 1), inner(x))), tanh_slope)


@public(module="nn.functional", method=False, out="same")
def gelu(input: Any, *, approximate: str = "none") -> Any:
    """Return input times the normal distribution function of input; approximate: "none" or "tanh"."""
    if approximate not in ("none", "tanh"):
        raise RuntimeError("approximate argument must be either none or tanh.")
    return result(gelu_node(need_float(input, "GeluKernelImpl"), approximate == "tanh"), input)


@public(module="nn.functional", method=False)
def silu(input: Any, inplace: bool = False) -> Any:
    """Return input * sigmoid(input)."""
    if input._dtype.category < 2:
        raise unsupported("silu_cpu", input._dtype)
    x = read(input)

    def slope(g: Node, x: Node) -> Node:
        s, one = sigmoid_node(x), P.num(x, 1)
        return P.mul(P.mul(g, s), P.add(one, P.mul(x, P.sub(one, s))))

    return _apply(input, inplace, smooth(x, lambda x: P.div(x, P.add(P.num(x, 1), P.exp(P.neg(x)))), slope))


@public(module="nn.functional", method=False)
def mish(input: Any, inplace: bool = False) -> Any:
    """Return input * tanh(softplus(input)). Source: Misra 2019."""
    x = need_float(input, "mish_cpu")

    def slope(g: Node, x: Node) -> Node:
        s, t = sigmoid_node(x), P.tanh(softplus_wide(x))
        return P.mul(g, P.add(t, P.mul(P.mul(x, s), P.sub(P.num(x, 1), P.mul(t, t)))))

    return _apply(input, inplace, smooth(x, lambda x: P.mul(x, P.tanh(softplus_wide(x))), slope))


def softplus_wide(x: Node) -> Node:
    """log(1 + exp(x)) without overflow. Its parts are not smooth at 0; it is."""
    return smooth(x, lambda x: P.add(P.max_(x, P.num(x, 0)), P.log1p(P.exp(P.neg(P.abs_(x))))),
                  lambda g, x: P.mul(g, sigmoid_node(x)))


@public(module="nn.functional", method=False, out="same")
def softplus(input: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """Return log(1 + exp(beta * input)) / beta; linear where beta * input exceeds the threshold."""
    x = need_float(input, "softplus_cpu")
    w = wide(P.detach(x))
    b, limit = number(float(beta), w.dtype), number(float(threshold), w.dtype)
    z = P.mul(w, b)
    y = P.where(P.lt(limit, z), w, P.div(P.log1p(P.exp(z)), b))

    def slope(g: Node, x: Node) -> Node:
        z = P.mul(x, b)
        e = P.exp(P.where(P.lt(limit, z), P.num(z, 0), z))
        return P.where(P.lt(limit, z), g, P.div(P.mul(g, e), P.add(e, P.num(e, 1))))

    return result(with_gradient(P.convert(y, x.dtype), _steep(slope), x), input)


@public(module="nn.functional", method=False)
def softsign(input: Any) -> Any:
    """Return input / (1 + |input|)."""
    x = node_of(input, floating(input._dtype))
    return result(P.div(x, P.add(P.abs_(x), P.num(x, 1))), input)


@public(module="nn.functional", method=False)
def tanhshrink(input: Any) -> Any:
    """Return input - tanh(input)."""
    x = node_of(input, floating(input._dtype))
    return result(P.sub(x, P.tanh(x)), input)


@public(module="nn.functional", method=False)
def hardsigmoid(input: Any, inplace: bool = False) -> Any:
    """Return (input + 3) / 6 limited to [0, 1]."""
    x = need_float(input, "hardsigmoid_cpu")

    def f(x: Node) -> Node:
        six = P.num(x, 6)
        return P.div(P.min_(P.max_(P.add(x, P.num(x, 3)), P.num(x, 0)), six), six)

    return _apply(
        input,
        inplace,
        smooth(
            x,
            f,
            lambda g, x: gate(P.and_(P.lt(P.num(x, -3), x), P.lt(x, P.num(x, 3))), P.mul(g, P.num(g, 1 / 6))),
        ),
    )


@public(module="nn.functional", method=False)
def hardswish(input: Any, inplace: bool = False) -> Any:
    """Return input * hardsigmoid(input)."""
    x = need_float(input, "hardswish_cpu")

    def f(x: Node) -> Node:
        six = P.num(x, 6)
        return P.div(P.mul(x, P.min_(P.max_(P.add(x, P.num(x, 3)), P.num(x, 0)), six)), six)

    def slope(g: Node, x: Node) -> Node:
        middle = P.mul(g, P.add(P.div(x, P.num(x, 3)), P.num(x, 0.5)))
        return P.where(P.le(x, P.num(x, -3)), P.num(g, 0), P.where(P.lt(x, P.num(x, 3)), middle, g))

    return _apply(input, inplace, smooth(x, f, slope))


@public(out="same")
@public(module="nn.functional", method=False, out="same")
def hardshrink(input: Any, lambd: float = 0.5) -> Any:
    """Return input where |input| > lambd, 0 elsewhere."""
    x = need_float(input, "hardshrink_cpu")
    k = number(float(lambd), x.dtype)

    def small(x: Node) -> Node:
        return P.and_(P.le(P.neg(k), x), P.le(x, k))

    d = P.detach(x)
    y = P.where(small(d), P.num(d, 0), d)
    return result(with_gradient(y, lambda g, y, x: [P.where(small(x), P.num(g, 0), g)], x), input)


@public(module="nn.functional", method=False, out="same")
def softshrink(input: Any, lambd: float = 0.5) -> Any:
    """Return input moved towards 0 by lambd."""
    x = need_float(input, "softshrink_check")
    if not lambd >= 0:
        raise RuntimeError(
            "lambda must be in range [0, 3.40282e+38] for input dtype "
            f"{dt.scalar_name(x.dtype)}, but found {float(lambd):g}"
        )
    d = wide(P.detach(x))
    k = number(float(lambd), d.dtype)
    y = P.where(P.lt(k, d), P.sub(d, k), P.where(P.lt(d, P.neg(k)), P.add(d, k), P.mul(d, P.num(d, 0))))
    rule = lambda g, y, x: [P.where(P.and_(P.le(P.neg(k), wide(x)), P.le(wide(x), k)), P.num(g, 0), g)]
    return result(with_gradient(P.convert(y, x.dtype), rule, x), input)


def thresholded(input: Any, threshold: float, value: float, inplace: bool = False) -> Any:
    """Return input where it exceeds the threshold, `value` elsewhere."""
    x = read(input)
    t, v, d = number(threshold, x.dtype), number(value, x.dtype), P.detach(x)
    y = P.where(P.le(d, t), v, d)
    return _apply(input, inplace, with_gradient(y, lambda g, y, x: [P.where(P.le(x, t), P.num(g, 0), g)], x))


_both("threshold", thresholded, lambda input, threshold, value: thresholded(input, threshold, value))


def log_sigmoid_node(x: Node) -> Node:
    """log(sigmoid(x)), without overflow."""

    def f(x: Node) -> Node:
        return P.sub(P.min_(x, P.num(x, 0)), P.log1p(P.exp(P.neg(P.abs_(x)))))

    return smooth(x, f, lambda g, x: P.mul(g, sigmoid_node(P.neg(x))))


@public(module="nn.functional", method=False, out="same")
def logsigmoid(input: Any) -> Any:
    """Return log(sigmoid(input))."""
    return dense(log_sigmoid_node(need_float(input, "log_sigmoid_cpu")), input)


@public(module="nn.functional", method=False)
def glu(input: Any, dim: int = -1) -> Any:
    """Return a * sigmoid(b), where a and b are the halves of input along `dim`."""
    if not input._shape:
        raise RuntimeError("glu does not support scalars because halving size must be even")
    x, d = need_float(input, "glu_cpu"), wrap_dim(dim, len(input._shape))
    n = x.shape[d]
    if n % 2:
        raise RuntimeError(f"Halving dimension must be even, but dimension {d} is size {n}")
    a, b = (P.span(x, d, s, s + n // 2) for s in (0, n // 2))
    return result(P.convert(P.mul(wide(a), sigmoid_node(wide(b))), x.dtype))


@public()
@public(module="nn.functional", method=False)
def prelu(input: Any, weight: Any) -> Any:
    """Return input where positive, weight * input elsewhere; one weight, or one for each channel (dimension 1)."""
    x, w = read(input), read(weight)
    if x.dtype is not w.dtype:
        raise RuntimeError(f"prelu: Type promoting not supported. Got {x.dtype.name} and {w.dtype.name}")
    if w.size != 1:
        if not x.shape:
            raise RuntimeError("Not allow zero-dim input tensor.")
        channels = x.shape[1] if len(x.shape) > 1 else 1
        if channels != w.size:
            raise RuntimeError(
                "Mismatch of parameter numbers and input channel size. Found parameter numbers = "
                f"{w.size} and channel size = {channels}."
            )
    if len(w.shape) > 1:
        raise RuntimeError(
            f"prelu: Expected `weight` to be a scalar or 1D tensor, but got: ndim = {len(w.shape)}"
        )
    shape: Shape = () if not x.shape else (1,) * len(x.shape)
    if len(x.shape) > 1:
        shape = (1, w.size, *(1,) * (len(x.shape) - 2))
    w = P.reshape(w, shape)
    d = P.detach(x)
    y = P.where(P.lt(P.num(d, 0), d), d, P.mul(d, P.detach(w)))

    def scaled(g: Node, x: Node, w: Node) -> Node:
        """g where x is positive, w g elsewhere; the derivative by g is 1 at 0, as in PyTorch."""
        dx = P.where(P.lt(P.num(x, 0), P.detach(x)), P.detach(g), P.mul(P.detach(g), P.detach(w)))

        def rule(h: Node, _: Node, g: Node, x: Node, w: Node) -> list[Node | None]:
            below = P.not_(P.le(P.num(x, 0), x))
            return [P.where(below, P.mul(h, w), h), P.full(x.shape, 0, x.dtype), gate(below, P.mul(h, g))]
        return with_gradient(dx, rule, g, x, w)

    def rule(g: Node, y: Node, x: Node, w: Node) -> list[Node | None]:
        return [scaled(g, x, w), gate(P.not_(P.le(P.num(x, 0), x)), P.mul(g, x))]

    return result(with_gradient(y, rule, x, w), input)


def rrelu(
    input: Any, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Any:
    """Return input where positive, a * input elsewhere; a is drawn from [lower, upper), or their mean in evaluation.

    Differs from torch: the random numbers, which do not come from a `generator`.
    """
    x = need_float(input, "rrelu_with_noise_out_cpu" if training else "leaky_relu_cpu")
    if lower > upper:
        raise RuntimeError(
            f"Lower bound should be less than or equal to the upper bound, got lower={lower}, upper={upper}"
        )
    if not training:
        y = _leaky(x, counted((lower + upper) / 2, wide(x).dtype))
        return assign(input, y) if inplace else dense(y, input)
    u = wide(uniform_node(x.shape, x.dtype))
    slope = P.convert(P.add(P.mul(u, counted(upper - lower, u.dtype)), counted(lower, u.dtype)), x.dtype)
    d = P.detach(x)
    y = P.where(P.le(d, P.num(d, 0)), P.mul(d, slope), d)
    return _apply(
        input,
        inplace,
        with_gradient(y, lambda g, y, x: [P.where(P.le(x, P.num(x, 0)), P.mul(g, slope), g)], x),
    )


_both(
    "rrelu",
    rrelu,
    lambda input, lower=1 / 8, upper=1 / 3, training=False, generator=None: rrelu(input, lower, upper, training),
)


def _softmax_axis(x: Node, dim: int) -> int:
    return wrap_dim(dim, len(x.shape) or 1)


def softmax_node(x: Node, dim: int) -> Node:
    """exp(x) / sum(exp(x)) along one dimension; the gradient reads the result, as PyTorch's does."""
    if not x.size:
        return P.alias(x)
    dims = (dim,) if x.shape else ()
    w = wide(P.detach(x))
    e = P.exp(P.sub(w, keep(P.max_of(w, dims), w.shape, dims, True)))
    y = P.convert(P.div(e, sum_node(e, dims, True)), x.dtype)

    def rule(g: Node, y: Node, x: Node) -> list[Node | None]:
        g, y = wide(g), wide(y)
        mean = sum_node(P.mul(g, y), dims, True)
        return [P.convert(P.mul(P.sub(g, mean), y), x.dtype)]

    return with_gradient(y, rule, x)


def log_softmax_node(x: Node, dim: int) -> Node:
    """x - log(sum(exp(x))) along one dimension; the gradient reads the result, as PyTorch's does."""
    if not x.size:
        return P.alias(x)
    dims = (dim,) if x.shape else ()
    w = wide(P.detach(x))
    c = P.sub(w, keep(P.max_of(w, dims), w.shape, dims, True))
    y = P.sub(c, P.log(sum_node(P.exp(c), dims, True)))

    def rule(g: Node, y: Node, x: Node) -> list[Node | None]:
        g, y = wide(g), wide(y)
        return [P.convert(P.sub(g, P.mul(P.exp(y), sum_node(g, dims, True))), x.dtype)]

    return with_gradient(P.convert(y, x.dtype), rule, x)


def _implicit_dim(ndim: int) -> int:
    return 0 if ndim in (0, 1, 3) else 1


def _softmaxes(input: Any, dim: int | None, dtype: dt.dtype | None, name: str, form: Callable) -> Any:
    if dim is None:
        import warnings

        warnings.warn(
            f"Implicit dimension choice for {name} has been deprecated. Change the call to "
            "include dim=X as an argument.",
            stacklevel=4,
        )
        dim = _implicit_dim(len(input._shape))
    x = node_of(input, dtype or input._dtype)
    d = _softmax_axis(x, dim)
    if x.dtype.category != 2:
        kernel = (
            f"{name}_lastdim_kernel_impl"
            if d == len(x.shape) - 1
            else "softmax_kernel_impl"
            if name == "softmax"
            else f"{name}_kernel_impl"
        )
        raise unsupported(kernel, x.dtype)
    return dense(form(x, d), input)


@public("softmax", module="nn.functional", method=False)
def softmax_functional(
    input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: dt.dtype | None = None
) -> Any:
    """Return exp(input) / sum(exp(input)) along `dim`."""
    return _softmaxes(input, dim, dtype, "softmax", softmax_node)


@public(out="same")
@public("softmax", module="special", method=False)
def softmax(input: Any, dim: int, dtype: dt.dtype | None = None) -> Any:
    """Return exp(input) / sum(exp(input)) along `dim`."""
    return _softmaxes(input, dim, dtype, "softmax", softmax_node)


@public("log_softmax", module="nn.functional", method=False)
def log_softmax_functional(
    input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: dt.dtype | None = None
) -> Any:
    """Return the logarithm of softmax along `dim`."""
    return _softmaxes(input, dim, dtype, "log_softmax", log_softmax_node)


@public(out="same")
@public("log_softmax", module="special", method=False)
def log_softmax(input: Any, dim: int, dtype: dt.dtype | None = None) -> Any:
    """Return the logarithm of softmax along `dim`."""
    return _softmaxes(input, dim, dtype, "log_softmax", log_softmax_node)


@public(module="nn.functional", method=False)
def softmin(input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: dt.dtype | None = None) -> Any:
    """Return softmax(-input) along `dim`."""
    return _softmaxes(neg(input), dim, dtype, "softmax", softmax_node)


@public(module="nn.functional", method=False)
def gumbel_softmax(logits: Any, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Any:
    """Return a sample from the Gumbel-softmax distribution; hard: one-hot, with the gradient of the soft sample.

    Source: Jang, Gu & Poole 2017.
    """
    x = read(logits)
    d = wrap_dim(dim, len(x.shape) or 1)
    u = wide(uniform_node(x.shape, x.dtype))
    tiny = P.num(u, 2.0**-25)
    noise = P.neg(P.log(P.neg(P.log(P.add(u, tiny)))))
    z = P.div(P.add(wide(x), noise), number(float(tau), u.dtype))
    soft = softmax_node(P.convert(z, x.dtype), d)
    if not hard:
        return dense(soft, logits)
    if not x.shape:
        one = P.full((), 1, x.dtype)
    else:
        at = P.reshape(P.argmax(P.detach(soft), d), tuple(1 if i == d else n for i, n in enumerate(x.shape)))
        one = P.convert(P.eq(P.iota(x.shape, d, dt.int64), at), x.dtype)
    return dense(P.add(P.sub(one, P.detach(soft)), soft), logits)


public("tanh", module="nn.functional", method=False)(lambda input: tanh(input))
public("sigmoid", module="nn.functional", method=False)(lambda input: sigmoid(input))
