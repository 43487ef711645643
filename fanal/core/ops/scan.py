"""Running combinations along a dimension: sums, products, extremes, differences, integrals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.base.shape import wrap_dim
from fanal.core.engine.handle import Handle
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import assign, dense, floating, node_of, nodes_of, public, read, unsupported
from fanal.core.ops.compare import logical_xor
from fanal.core.ops.join import cat
from fanal.core.ops.named import named
from fanal.core.ops.pieces import sliced
from fanal.core.ops.pointwise import sub, with_gradient
from fanal.core.ops.reduce import summed


@public(out="fill")
def cumsum(input: Any, dim: int, *, dtype: dt.dtype | None = None) -> Any:
    """Return running sums along a dimension. Booleans and integers are summed in int64."""
    d = wrap_dim(dim, len(input._shape))
    x = node_of(input, summed(input._dtype, dtype))
    return dense(P.scan(x, "add", d) if x.shape else P.alias(x), input)


@public(out="fill")
def cumprod(input: Any, dim: int, *, dtype: dt.dtype | None = None) -> Any:
    """Return running products along a dimension."""
    d = wrap_dim(dim, len(input._shape))
    x = node_of(input, summed(input._dtype, dtype))
    return dense(P.scan(x, "mul", d) if x.shape else P.alias(x), input)


def _in_place(name: str, fn: Any) -> None:
    def call(self: Any, dim: int, *, dtype: dt.dtype | None = None) -> Any:
        return assign(self, P.convert(read(fn(self, dim, dtype=dtype)), self._dtype))

    call.__name__, call.__doc__ = name, f"In-place form of {name[:-1]}."
    public(name, function=False)(call)


_in_place("cumsum_", cumsum)
_in_place("cumprod_", cumprod)


@public(out="same")
def logcumsumexp(input: Any, dim: int) -> Any:
    """Return log(cumsum(exp(input))) along a dimension, without overflow."""
    d = wrap_dim(dim, len(input._shape))
    x = read(input)
    if x.dtype.category < 2:
        raise unsupported("logcumsumexp_out_cpu", x.dtype)
    if not x.shape:
        return dense(P.alias(x), input)
    def spread(c: Node, x: Node, y: Node, back: bool) -> Node:
        """Sum c exp(x_i - y_k) over i <= k, by the logarithm of c: c_k for each i with `back`, else c_i for each k."""
        def total(c: Node) -> Node:
            if not back:
                return P.exp(P.sub(P.scan(P.add(P.log(c), x), "logaddexp", d), y))
            logs = P.flip(P.sub(P.log(c), P.conj(y)), (d,))
            return P.exp(P.add(P.conj(x), P.flip(P.scan(logs, "logaddexp", d), (d,))))

        if x.dtype.is_complex:
            return total(c)
        operands, zero = (c, x, y), P.num(c, 0)
        c, x, y = map(P.detach, operands)

        def rule(g: Node, v: Node, c: Node, x: Node, y: Node) -> list[Node]:
            by_c = spread(g, x, y, not back)
            one, other = P.mul(g, v), P.mul(c, by_c)
            return [by_c, one, P.neg(other)] if back else [by_c, other, P.neg(one)]

        return with_gradient(P.sub(total(P.max_(c, zero)), total(P.max_(P.neg(c), zero))), rule, *operands)

    y = P.scan(P.detach(x), "logaddexp", d)
    return dense(with_gradient(y, lambda g, y, x: [spread(g, x, y, True)], x), input)


def _running_position(x: Node, dim: int, op: str) -> Node:
    """Tell where the running extreme stands; the last of equals, NaN for good."""
    if not x.shape:
        return P.full((), 0, dt.int64)
    i = P.iota(x.shape, dim, dt.int64)
    hit = P.or_(P.eq(x, P.scan(x, op, dim)), P.ne(x, x))
    return P.scan(P.where(hit, i, P.num(i, 0)), "max", dim)


def _running_extreme(input: Any, dim: int, name: str) -> Any:
    d = wrap_dim(dim, len(input._shape))
    x = read(input)
    if x.dtype.is_complex:
        raise unsupported(f"{name}_cpu", x.dtype)
    at = _running_position(P.detach(x), d, "max" if name == "cummax" else "min")
    y = P.gather(x, at, d) if x.shape and x.size else P.alias(x)
    return named(name)(dense(y, input), dense(at, input))


@public(out="same")
def cummax(input: Any, dim: int) -> Any:
    """Return running maxima along a dimension, and where they stand (the last of equals)."""
    return _running_extreme(input, dim, "cummax")


@public(out="same")
def cummin(input: Any, dim: int) -> Any:
    """Return running minima along a dimension, and where they stand (the last of equals)."""
    return _running_extreme(input, dim, "cummin")


@public(out="same")
def diff(input: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    """Return n-th differences along a dimension."""
    if not input._shape:
        raise RuntimeError("diff expects input to be at least one-dimensional")
    if n < 0:
        raise RuntimeError(f"order must be non-negative but got {n}")
    d = wrap_dim(dim, len(input._shape))
    if not n:
        return dense(P.alias(read(input)), input)
    parts = [t for t in (prepend, input, append) if t is not None]
    t = cat(parts, d) if len(parts) > 1 else input
    for _ in range(min(n, t._shape[d])):
        size = t._shape[d]
        a, b = sliced(t, d, min(1, size), size), sliced(t, d, 0, max(size - 1, 0))
        t = logical_xor(a, b) if t._dtype is dt.bool_ else sub(a, b)
    return t


def _integral(y: Any, x: Any, dx: Any, dim: int, total: Callable[[Node, int], Node]) -> Any:
    """Return the total of the areas between neighbours. Samples of integers are added and multiplied as such."""
    d = wrap_dim(dim, len(y._shape))
    scale = 0.5
    if isinstance(x, Handle):
        a, b = nodes_of(y, x)
        if len(b.shape) == 1:
            b = P.reshape(b, tuple(b.shape[0] if k == d else 1 for k in range(len(a.shape))))
            if b.shape[d] != a.shape[d]:
                raise RuntimeError("trapezoid: There must be one `x` value for each sample point")
        e = d - len(a.shape)
        width = P.sub(_cut(b, len(b.shape) + e, 1, 0), _cut(b, len(b.shape) + e, 0, 1))
    else:
        a, scale = read(y), 0.5 * dx
    if a.dtype is dt.bool_:
        raise RuntimeError("trapezoid: received a bool input for `x` or `y`, but bool is not supported")
    area = P.add(_cut(a, d, 0, 1), _cut(a, d, 1, 0))
    if isinstance(x, Handle):
        area = P.mul(area, width)
    kind = floating(area.dtype)
    t = P.convert(total(P.convert(area, summed(area.dtype)), d), dt.ACCUMULATE.get(kind, kind))
    return dense(P.convert(P.mul(t, P.num(t, scale)), kind), y)


def _cut(x: Node, d: int, head: int, tail: int) -> Node:
    n = x.shape[d]
    return P.span(x, d, min(head, n), max(n - tail, min(head, n)))


@public(method=False, aliases=("trapz",))
def trapezoid(y: Any, x: Any = None, *, dx: Any = 1, dim: int = -1) -> Any:
    """Return the integral along a dimension by the trapezoidal rule."""
    if not y._shape[wrap_dim(dim, len(y._shape))]:
        shape = tuple(n for k, n in enumerate(y._shape) if k != wrap_dim(dim, len(y._shape)))
        return dense(P.full(shape, 0, y._dtype), y)
    if not isinstance(x, Handle) and y._dtype.category == 1:  # only a sum of samples, in int64 like `sum`
        y = y.to(dt.int64)
    return _integral(y, x, dx, dim, lambda a, d: P.sum_(a, (d,)))


@public(method=False)
def cumulative_trapezoid(y: Any, x: Any = None, *, dx: Any = 1, dim: int = -1) -> Any:
    """Return running integrals along a dimension by the trapezoidal rule."""
    return _integral(y, x, dx, dim, lambda a, d: P.scan(a, "add", d))
