"""Numbers and their parts: sums of products and quotients, angles, hypotenuses, divisors, exponents, sums of
exponentials, finite differences, indices, hashes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.shape import broadcast_shapes, reduced_shape, wrap_dims
from fanal.core.engine.handle import Handle
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import (
    Operand,
    constant,
    floating,
    is_number,
    node_of,
    nodes_of,
    number,
    public,
    read,
    result,
    result_type,
    unsupported,
    wide,
    wrap,
)
from fanal.core.ops.create import shape_of
from fanal.core.ops.join import cat
from fanal.core.ops.named import named
from fanal.core.ops.pieces import narrow, unbind
from fanal.core.ops.pointwise import add, div, floor_divide, mul, pow, remainder, sub, with_gradient
from fanal.core.ops.reduce import wrap_like
from fanal.core.ops.shape import reshape, unsqueeze


def _scaled(name: str, factor: float, doc: str) -> Any:
    def fn(input: Any) -> Any:
        if input._dtype.is_complex:
            raise RuntimeError(f"{name} is not supported for complex tensors.")
        return result(P.times(node_of(input, floating(input._dtype)), factor), input)

    fn.__name__, fn.__doc__ = name, doc
    return public(name, inplace=True, out=True)(fn)


deg2rad = _scaled("deg2rad", math.pi / 180, "Return degrees as radians.")
rad2deg = _scaled("rad2deg", 180 / math.pi, "Return radians as degrees.")


@public(out=True)
def angle(input: Any) -> Any:
    """Return the angle of complex numbers; of real ones 0, or pi below 0."""
    d = input._dtype
    if not d.is_complex:
        x = node_of(input, floating(d))
        zero = P.num(x, 0)
        side = P.where(P.lt(x, zero), P.num(x, math.pi), zero)
        y = P.where(P.ne(x, x), P.detach(x), side)
        return result(with_gradient(y, lambda g, y, x: [P.full(x.shape, 0, x.dtype)], x), input)
    z = read(input)
    w = P.detach(z)

    def rule(g: Node, y: Node, z: Node) -> list[Node | None]:
        size = P.real(P.mul(z, P.conj(z)))
        turned = P.mul(P.mul(z, P.num(z, 1j)), P.convert(P.div(g, size), z.dtype))
        return [P.where(P.eq(z, P.num(z, 0)), P.num(z, 0), turned)]

    return result(with_gradient(P.atan2(P.imag(w), P.real(w)), rule, z), input)


def _integers(name: str, f: Callable[[Node, Node], Node], doc: str) -> Any:
    """Make an operator on whole numbers, composed by f(a, b)."""

    def fn(input: Any, other: Any) -> Any:
        d = result_type(input, other)
        if d.category != 1:
            raise unsupported(f"{name}_cpu", d)
        a, b = node_of(input, d), node_of(other, d)
        return result(f(a, b), input, other)

    fn.__name__, fn.__doc__ = name, doc
    return public(name, inplace=True, out=True, tensors=2)(fn)


def _gcd(a: Node, b: Node) -> Node:
    return P.host((a, b), np.gcd, broadcast_shapes(a.shape, b.shape), a.dtype)


def _lcm(a: Node, b: Node) -> Node:
    """|a / gcd(a, b) * b|, wrapping around as machine integers do."""
    g = _gcd(a, b)
    zero = P.eq(g, P.num(g, 0))
    return P.abs_(P.where(zero, P.num(g, 0), P.mul(P.idiv(a, P.where(zero, P.num(g, 1), g)), b)))


gcd = _integers("gcd", _gcd, "Return the greatest common divisor of whole numbers.")
lcm = _integers("lcm", _lcm, "Return the least common multiple of whole numbers.")


# Integers of a float's bits, where the exponent stands in them, and the exponent of 1/2 as it stands there.
_BITS = {dt.float32: (dt.int32, 23, 126), dt.float64: (dt.int64, 52, 1022)}


def _taken_apart(x: Node) -> tuple[Node, Node]:
    """Return mantissa and exponent of float32 or float64 numbers, by their bits; zeros and what is not finite stay."""
    kind, place, half = _BITS[x.dtype]
    whole = lambda n: P.full((), n, kind)
    size = P.abs_(x)
    subnormal = P.lt(size, P.num(x, 2.0 ** (1 - half)))
    bits = P.bitcast(P.where(subnormal, P.mul(x, P.num(x, 2.0 ** (place + 1))), x), kind)
    field = whole((2 * half + 3) << place)
    exponent = P.sub(P.shr(P.and_(bits, field), whole(place)), whole(half))
    exponent = P.sub(exponent, P.where(subnormal, whole(place + 1), whole(0)))
    mantissa = P.bitcast(P.or_(P.and_(bits, P.not_(field)), whole(half << place)), x.dtype)
    usual = P.and_(P.lt(P.num(x, 0), size), P.lt(size, P.num(x, math.inf)))
    return P.where(usual, mantissa, x), P.convert(P.where(usual, exponent, whole(0)), dt.int32)


@public(out=True)
def frexp(input: Any) -> Any:
    """Return (mantissa, exponent) with input = mantissa * 2**exponent and 1/2 <= |mantissa| < 1."""
    if not input._dtype.is_floating_point:
        raise RuntimeError("torch.frexp() only supports floating-point dtypes")
    x = read(input)
    part, exponent = _taken_apart(wide(P.detach(x)))

    def rule(g: Node, y: Node, x: Node) -> list[Node | None]:
        return [P.mul(g, P.pow_(P.num(g, 2), P.neg(P.convert(exponent, g.dtype))))]

    mantissa = with_gradient(P.convert(part, x.dtype), rule, x)
    return named("frexp")(result(mantissa, input), result(exponent, input))


@public(inplace=True, out=True, tensors=2)
def ldexp(input: Any, other: Any) -> Any:
    """Return input * 2**other, in the dtype of both: whole exponents leave 16-bit floats as they are."""
    y = mul(input, pow(2.0, other))
    return result(P.convert(read(y), floating(result_type(input, other))), y)


def _log_of_sum(name: str, exp: Callable[[Node], Node], log1p: Callable[[Node], Node], doc: str) -> Any:
    """Make log(exp(a) + exp(b)) around the larger operand; equal infinities stay as they are."""

    def fn(input: Any, other: Any) -> Any:
        a, b = nodes_of(input, other)
        d = a.dtype
        if d.category < 2:
            raise unsupported(f"{name}_cpu", d)
        a, b = wide(a), wide(b)
        broadcast_shapes(a.shape, b.shape)
        x, y = P.detach(a), P.detach(b)
        first = P.lt(P.real(y), P.real(x))
        most, least = P.where(first, x, y), P.where(first, y, x)
        v = P.add(most, log1p(exp(P.sub(least, most))))
        infinite = P.eq(P.abs_(P.real(x)), P.num(P.real(x), math.inf))
        v = P.where(P.and_(infinite, P.eq(x, y)), x, v)

        def rule(g: Node, v: Node, a: Node, b: Node) -> list[Node | None]:
            one = P.num(a, 1)
            return [P.mul(g, P.conj(P.div(one, P.add(one, exp(P.sub(o, s)))))) for s, o in ((a, b), (b, a))]

        return result(P.convert(with_gradient(v, rule, a, b), d), input, other)

    fn.__name__, fn.__doc__ = name, doc
    return public(name, out=True, tensors=2)(fn)


logaddexp = _log_of_sum("logaddexp", P.exp, P.log1p, "Return log(exp(input) + exp(other)).")
logaddexp2 = _log_of_sum(
    "logaddexp2",
    lambda x: P.pow_(P.num(x, 2), x),
    lambda x: P.mul(P.log1p(x), P.num(x, 1 / math.log(2))),
    "Return log2(2**input + 2**other).",
)


@public(out=True)
def nanmean(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: dt.dtype | None = None) -> Any:
    """Return the mean over `dim` of what is not NaN."""
    from fanal.core.ops.reduce import nansum, sum

    if input._dtype.category < 2:
        raise RuntimeError("nanmean(): expected input to have floating point or complex dtype but got "
                           f"{dt.scalar_name(input._dtype)}")
    x = P.detach(read(input))
    return div(nansum(input, dim, keepdim, dtype=dtype), sum(wrap(P.eq(x, x)), dim, keepdim))


@public("__rdiv__", function=False)
def rdiv(input: Any, other: Any) -> Any:
    """Return other / input."""
    return div(other, input)


@public(function=False)
def sum_to_size(input: Any, *size: Any) -> Any:
    """Return the sum over the dimensions that broadcasting `size` to the input's shape would repeat."""
    to = shape_of(size)
    x = read(input)
    kept = x.shape[len(x.shape) - len(to) :]
    if len(to) > len(x.shape) or any(n != 1 and n != m for n, m in zip(to, kept)):
        raise RuntimeError(f"size {{{list(to)}}} is not expandable to size {{{list(x.shape)}}}.")
    if to == x.shape and to:
        return input
    return wrap_like(P.sum_to(P.convert(x, dt.int64) if x.dtype.category < 2 else x, to), input)


# Finite differences.


def _differences(f: Any, axis: int, at: Any, edge_order: int) -> Any:
    """The derivative of f along one dimension at distances `at`: a number, or a 1-d tensor of coordinates.

    Second order inside, where spacings may differ. Source: Fornberg, Mathematics of Computation 51 (1988).
    """
    n = f._shape[axis]
    part = lambda k, count: narrow(f, axis, k, count)
    if not isinstance(at, Handle):
        inner = div(sub(part(2, n - 2), part(0, n - 2)), 2 * at)
        left, right = div(sub(part(1, 1), part(0, 1)), at), div(sub(part(n - 1, 1), part(n - 2, 1)), at)
        if edge_order == 2:
            left = div(sub(sub(mul(part(1, 1), 4), mul(part(0, 1), 3)), part(2, 1)), 2 * at)
            right = div(add(sub(mul(part(n - 1, 1), 3), mul(part(n - 2, 1), 4)), part(n - 3, 1)), 2 * at)
        return cat((left, inner, right), axis)
    along = [1] * len(f._shape)
    along[axis] = n - 1
    h = reshape(sub(narrow(at, 0, 1, n - 1), narrow(at, 0, 0, n - 1)), tuple(along))
    step = lambda k, count: narrow(h, axis, k, count)
    slopes = div(sub(part(1, n - 1), part(0, n - 1)), h)
    slope = lambda k, count: narrow(slopes, axis, k, count)
    h1, h2 = step(0, n - 2), step(1, n - 2)
    inner = div(add(mul(slope(0, n - 2), h2), mul(slope(1, n - 2), h1)), add(h1, h2))
    left, right = slope(0, 1), slope(n - 2, 1)
    if edge_order == 2:  # the line through the first two slopes, continued by half a step
        bend = lambda k: div(sub(slope(k + 1, 1), slope(k, 1)), add(step(k, 1), step(k + 1, 1)))
        left, right = sub(left, mul(bend(0), step(0, 1))), add(right, mul(bend(n - 3), step(n - 2, 1)))
    return cat((left, inner, right), axis)


@public(method=False)
def gradient(input: Any, *, spacing: Any = 1, dim: Any = None, edge_order: int = 1) -> tuple:
    """Return the numerical derivative along each dimension in `dim` (all by default).

    spacing: one number, a number for each dimension, or 1-d tensors of coordinates. edge_order: 1 or 2, the order
    of the estimates at the boundaries. Raises RuntimeError for a dimension shorter than edge_order + 1.
    """
    n = len(input._shape)
    if edge_order not in (1, 2):
        raise RuntimeError("torch.gradient only supports edge_order=1 and edge_order=2.")
    if input._dtype is dt.uint8:
        raise RuntimeError("torch.gradient does not support uint8 input.")
    dims = list(range(n)) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    if len(set(wrap_dims(tuple(dims), n))) != len(dims):
        raise RuntimeError("dim appears multiple times in the list of dims")
    dims = [d % n for d in dims]
    if spacing is None or is_number(spacing):
        spacings: Sequence[Any] = [1 if spacing is None else spacing] * len(dims)
    else:
        spacings = [spacing] if isinstance(spacing, Handle) else list(spacing)
        if len(spacings) != len(dims):
            raise RuntimeError(f"torch.gradient expected spacing to be unspecified, a scalar, or a list of length "
                               f"equal to 'self.dim() = {n}', but got a list of length {len(spacings)}")
    for d, at in zip(dims, spacings):
        size = input._shape[d]
        if size < edge_order + 1:
            raise RuntimeError("torch.gradient expected each dimension size to be at least edge_order+1")
        if isinstance(at, Handle) and at._shape != (size,):
            raise RuntimeError(f"torch.gradient expected each element of 'spacing' to have one dimension, of the size "
                               f"of the dimension it belongs to, but got {list(at._shape)} for size {size}")
        if isinstance(at, Handle) and at.device != input.device:
            raise RuntimeError("torch.gradient expected each tensor to be on the same device, but got devices "
                               f"{input.device} and {at.device}!")
    return tuple(_differences(input, d, at, edge_order) for d, at in zip(dims, spacings))


# Indices and hashes.


@public(method=False)
def unravel_index(indices: Any, shape: Any) -> tuple:
    """Return the coordinates, in a tensor of the given shape, of positions in its flattened form."""
    if indices._dtype.category != 1:
        raise TypeError(f"expected 'indices' to be integer dtype, but got {indices._dtype}")
    if not isinstance(shape, (int, tuple, list)):
        raise TypeError(f"expected 'shape' to be int or sequence of ints, but got {type(shape)}")
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    for n in sizes:
        if not isinstance(n, int):
            raise TypeError(f"expected 'shape' sequence to only contain ints, but got {type(n)}")
    if any(n < 0 for n in sizes):
        raise ValueError(f"'shape' cannot have negative values, but got {sizes}")
    steps = [math.prod(sizes[k + 1 :]) for k in range(len(sizes))]
    flat = unsqueeze(indices, -1)
    whole = lambda values: wrap(constant(np.array(values, np.int64)))
    return unbind(remainder(floor_divide(flat, whole(steps)), whole(list(sizes))), -1)


@public(out=True)
def hash_tensor(input: Any, dim: Any = (), *, keepdim: bool = False, mode: int = 0) -> Any:
    """Return the exclusive or over `dim` of the elements' 64 bits, in uint64; narrower elements are widened first."""
    if mode != 0:
        raise RuntimeError(f"Unknown hash_tensor mode: {mode}")
    if input._dtype.is_complex:
        raise unsupported("hash_tensor", input._dtype)
    x = read(input)
    dims = wrap_dims(None if dim == () else dim, len(x.shape))
    wide = np.float64 if x.dtype.category == 2 else np.int64
    f = lambda a: np.asarray(np.bitwise_xor.reduce(a.astype(wide).view(np.uint64), axis=dims, keepdims=keepdim))
    return wrap_like(P.host((x,), f, reduced_shape(x.shape, dims, keepdim), dt.uint64), input)


@public(inplace=True, out=True)
def addcmul(input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
    """Return input + value * tensor1 * tensor2."""
    d = result_type(input, tensor1, tensor2)
    a, b, c = map(wide, nodes_of(input, tensor1, tensor2, to=d))
    broadcast_shapes(a.shape, b.shape, c.shape)
    m = P.mul(b, c) if value == 1 else P.mul(P.mul(number(value, a.dtype), b), c)
    return result(P.convert(P.add(a, m), d), input, tensor1, tensor2)


@public(inplace=True, out=True)
def addcdiv(input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
    """Return input + value * tensor1 / tensor2."""
    d = result_type(input, tensor1, tensor2)
    a, b, c = map(wide, nodes_of(input, tensor1, tensor2, to=d))
    if b.dtype.category < 2 and c.dtype.category < 2:
        raise RuntimeError("Integer division with addcdiv is no longer supported, and in a future  release "
                           "addcdiv will "
                           "perform a true division of tensor1 and tensor2.")
    broadcast_shapes(a.shape, b.shape, c.shape)
    m = P.div(P.mul(number(value, a.dtype), b), c) if value != 1 else P.div(b, c)
    return result(P.convert(P.add(a, m), d), input, tensor1, tensor2)


@public(inplace=True, out=True)
def lerp(input: Any, end: Any, weight: Operand) -> Any:
    """Return input + weight * (end - input), computed from the nearer end."""
    a, b = read(input), read(end)
    if a.dtype is not b.dtype:
        raise RuntimeError(f"expected dtype {a.dtype.name} for `end` but got dtype {b.dtype.name}")
    if a.dtype.category < 2:
        raise unsupported(f"lerp_kernel_{'scalar' if is_number(weight) else 'tensor'}", a.dtype)
    d, (a, b) = a.dtype, map(wide, (a, b))
    w = number(weight, a.dtype) if is_number(weight) else wide(node_of(weight, d))
    broadcast_shapes(a.shape, b.shape, w.shape)  # the error names sizes in the order of the operands
    diff = P.sub(b, a)
    near = P.add(a, P.mul(w, diff))
    far = P.sub(b, P.mul(diff, P.sub(P.num(w, 1), w)))
    aw = P.abs_(w)
    return result(P.convert(P.where(P.lt(aw, P.num(aw, 0.5)), near, far), d), input, end, weight)


@public(inplace=True, out=True, tensors=2)
def hypot(input: Any, other: Any) -> Any:
    """Return sqrt(input**2 + other**2); squares do not overflow."""
    a, b = nodes_of(input, other)
    if a.dtype.category != 2:
        raise unsupported("hypot_cpu", a.dtype)
    x, y = P.abs_(wide(P.detach(a))), P.abs_(wide(P.detach(b)))
    large, inf = P.max_(x, y), P.num(x, math.inf)
    ratio = P.div(P.min_(x, y), P.where(P.eq(large, P.num(x, 0)), P.num(x, 1), large))
    size = P.mul(large, P.sqrt(P.add(P.num(x, 1), P.mul(ratio, ratio))))
    size = P.where(P.or_(P.eq(x, inf), P.eq(y, inf)), inf, size)
    rule = lambda g, y, a, b: [P.div(P.mul(g, a), y), P.div(P.mul(g, b), y)]
    return result(with_gradient(P.convert(size, a.dtype), rule, a, b), input, other)


@public(inplace=True, out=True, tensors=2)
def nextafter(input: Any, other: Any) -> Any:
    """Return the next float after input, towards other. It moves with input, unless they are equal."""
    a, b = nodes_of(input, other)
    if a.dtype.category != 2:
        raise unsupported("nextafter_cpu", a.dtype)
    rule = lambda g, y, a, b: [P.where(P.eq(a, b), P.num(g, 0), g), P.zeros(b.shape, b.dtype)]
    return result(with_gradient(P.nextafter(P.detach(a), P.detach(b)), rule, a, b), input, other)
