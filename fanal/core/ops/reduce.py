"""Reductions: sums, means, extremes, norms and statistics over dimensions."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.base.shape import reduced_shape, wrap_dim, wrap_dims
from fanal.core.engine.handle import Handle
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node, Shape
from fanal.core.ir.row import Row
from fanal.core.ops.build import counted, floating, node_of, public, read, unsupported, wrap
from fanal.core.ops.named import named
from fanal.core.ops.pointwise import maximum, minimum, with_gradient


def keep(n: Node, shape: Shape, dims: Shape, keepdim: bool) -> Node:
    """Put back reduced dimensions as size 1."""
    return P.reshape(n, reduced_shape(shape, dims, True)) if keepdim else n


def _dims(dim: Any, n: int, empty_is_all: bool = True) -> Shape:
    if dim is not None and not isinstance(dim, int):
        dim = tuple(dim)
        if not dim and empty_is_all:
            dim = None
    return wrap_dims(dim, n)


def summed(d: dt.dtype, asked: dt.dtype | None = None) -> dt.dtype:
    """Return the dtype of a sum or product: integers take int64."""
    return asked or (dt.int64 if d.category < 2 else d)


def sum_node(x: Node, dims: Shape, keepdim: bool = False) -> Node:
    """Sum a value over dimensions (integers in int64)."""
    return keep(P.sum_(x, dims), x.shape, dims, keepdim)


@public(out="fill")
def sum(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: dt.dtype | None = None) -> Any:
    """Return the sum over `dim` (all by default). Booleans and integers are summed in int64."""
    x = node_of(input, summed(input._dtype, dtype))
    return wrap_like(sum_node(x, _dims(dim, input.ndim), keepdim), input)


@public(out="fill")
def nansum(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: dt.dtype | None = None) -> Any:
    """Return the sum over `dim`, counting NaN as zero."""
    if input._dtype.is_complex:
        raise RuntimeError("nansum on CPU does not support complex inputs")
    x = node_of(input, summed(input._dtype, dtype))
    x = P.where(P.ne(x, x), P.num(x, 0), x) if x.dtype.category >= 2 else x
    return wrap_like(sum_node(x, _dims(dim, input.ndim), keepdim), input)


def wrap_like(n: Node, input: Any) -> Any:
    """Return a reduction's value as a tensor on the device of its input."""
    t = wrap(n)
    t._storage.meta = input._storage.meta
    return t


def count(shape: Shape, dims: Shape) -> int:
    """Return how many elements are combined into one."""
    return math.prod(shape[d] for d in dims)


def rounded_once(f: Callable[[Node], Node], x: Node) -> Node:
    """Compute f of 16-bit floats in float32, as PyTorch's kernels do inside."""
    return P.convert(f(P.convert(x, dt.ACCUMULATE[x.dtype])), x.dtype)


def mean_node(x: Node, dims: Shape, keepdim: bool = False) -> Node:
    """Mean of a value over dimensions; 16-bit floats are rounded once."""
    if x.dtype in dt.ACCUMULATE:
        return rounded_once(lambda w: mean_node(w, dims, keepdim), x)
    n = count(x.shape, dims)
    return keep(P.div(P.sum_(x, dims), counted(n, x.dtype)), x.shape, dims, keepdim)


@public(out="fill")
def mean(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: dt.dtype | None = None) -> Any:
    """Return the mean over `dim` (all by default)."""
    d = dtype or input._dtype
    if d.category < 2:
        raise RuntimeError(
            "mean(): could not infer output dtype. Input dtype must be either a floating point or complex "
            f"dtype. Got: {dt.scalar_name(input._dtype)}"
        )
    return wrap_like(mean_node(node_of(input, d), _dims(dim, input.ndim), keepdim), input)


@public(out="fill")
def prod(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: dt.dtype | None = None) -> Any:
    """Return the product over one dimension, or of all elements."""
    x = node_of(input, summed(input._dtype, dtype))
    dims = _dims(dim, input.ndim)
    return wrap_like(keep(P.prod(x, dims), x.shape, dims, keepdim), input)


def _truth(input: Any, dim: Any, keepdim: bool, row: Row, empty: int) -> Any:
    x = read(input)
    b = P.convert(P.ne(x, P.num(x, 0)), dt.uint8)
    dims = _dims(dim, input.ndim)
    if count(x.shape, dims) == 0:
        y = P.full(reduced_shape(x.shape, dims), empty, dt.uint8)
    else:
        y = row(b, dims)
    y = keep(y, x.shape, dims, keepdim)
    return wrap_like(P.convert(y, dt.uint8 if input._dtype is dt.uint8 else dt.bool_), input)


@public(out="alone")
def any(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Tell whether any element is true."""
    return _truth(input, dim, keepdim, P.max_of, 0)


@public(out="alone")
def all(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Tell whether all elements are true."""
    return _truth(input, dim, keepdim, P.min_of, 1)


def _nonempty(x: Node, dims: Shape, name: str) -> None:
    if count(x.shape, dims) == 0:
        if len(dims) == len(x.shape):
            raise RuntimeError(
                f"{name}(): Expected reduction dim to be specified for input.numel() == 0. Specify the "
                "reduction dim with the 'dim' argument."
            )
        raise IndexError(f"{name}(): Expected reduction dim {dims[0]} to have non-zero size.")


def extreme_node(x: Node, dims: Shape, keepdim: bool, row: Row, name: str) -> Node:
    """Largest or smallest over dimensions; equal elements share the gradient evenly."""
    _nonempty(x, dims, name)
    if x.dtype.is_complex:
        raise unsupported("max_values_cpu" if row is P.max_of else "min_values_cpu", x.dtype)
    if x.dtype is dt.bool_:
        return keep(P.convert(row(P.convert(x, dt.uint8), dims), dt.bool_), x.shape, dims, keepdim)
    return keep(row(x, dims), x.shape, dims, keepdim)


@public(out="alone")
def amax(input: Any, dim: Any = (), keepdim: bool = False) -> Any:
    """Return the largest element over `dim`; equal elements share the gradient."""
    dims = _dims(dim, input.ndim)
    return wrap_like(extreme_node(read(input), dims, keepdim, P.max_of, "amax"), input)


@public(out="alone")
def amin(input: Any, dim: Any = (), keepdim: bool = False) -> Any:
    """Return the smallest element over `dim`; equal elements share the gradient."""
    dims = _dims(dim, input.ndim)
    return wrap_like(extreme_node(read(input), dims, keepdim, P.min_of, "amin"), input)


@public(out="alone")
def aminmax(input: Any, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """Return the smallest and the largest elements."""
    d = None if dim is None else (dim,)
    dims = _dims(d, input.ndim)
    x = read(input)
    return named("aminmax")(
        wrap_like(extreme_node(x, dims, keepdim, P.min_of, "aminmax"), input),
        wrap_like(extreme_node(x, dims, keepdim, P.max_of, "aminmax"), input),
    )


def arg_node(x: Node, dim: int | None, keepdim: bool, row: Row) -> Node:
    """Position of an extreme along one dimension, or in the flattened value."""
    if x.dtype.is_complex:
        raise NotImplementedError(f"{row.name}(): does not support complex input")
    if x.dtype is dt.bool_:
        x = P.convert(x, dt.uint8)
    if dim is None:
        y = row(P.reshape(x, (x.size,)), 0) if x.size != 1 else P.full((), 0, dt.int64)
        return P.reshape(y, (1,) * len(x.shape)) if keepdim else y
    d = wrap_dim(dim, len(x.shape))
    if not x.shape:
        return P.full((), 0, dt.int64)
    y = row(x, d) if x.shape[d] != 1 else P.zeros(x.shape[:d] + x.shape[d + 1:], dt.int64)  # one has one position
    return keep(y, x.shape, (d,), keepdim)


def _position(input: Any, dim: int | None, keepdim: bool, row: Row, name: str) -> Any:
    x = read(input)
    if x.dtype is dt.bool_:
        raise RuntimeError(f"{name}(): does not support bool input")
    if x.size == 0 and (dim is None or x.shape[wrap_dim(dim, len(x.shape))] == 0):
        raise IndexError(f"{name}(): Expected reduction dim to be specified for input.numel() == 0.")
    return wrap_like(arg_node(x, dim, keepdim, row), input)


@public(out="alone")
def argmax(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Return the position of the largest element (the first of equals)."""
    return _position(input, dim, keepdim, P.argmax, "argmax")


@public(out="alone")
def argmin(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Return the position of the smallest element (the first of equals)."""
    return _position(input, dim, keepdim, P.argmin, "argmin")


def pick(x: Node, at: Node, dim: int) -> Node:
    """Take one element along `dim` at positions `at` (without that dimension)."""
    if not x.shape:
        return x
    i = P.reshape(at, (*at.shape[:dim], 1, *at.shape[dim:]))
    return P.reshape(P.gather(x, i, dim), at.shape)


def _extreme(input: Any, dim: Any, keepdim: bool, name: str) -> Any:
    row, arg = (P.max_of, P.argmax) if name == "max" else (P.min_of, P.argmin)
    x = read(input)
    if dim is None:
        return wrap_like(extreme_node(x, tuple(range(len(x.shape))), False, row, name), input)
    d = wrap_dim(dim, len(x.shape))
    if x.shape and x.shape[d] == 0:
        raise IndexError(f"{name}(): Expected reduction dim {d} to have non-zero size.")
    at = arg_node(x, d, False, arg)
    y = pick(x, at, d)
    dims = (d,) if x.shape else ()
    return named(name)(
        wrap_like(keep(y, x.shape, dims, keepdim), input), wrap_like(keep(at, x.shape, dims, keepdim), input)
    )


@public(out="same")
def max(input: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """Return the largest element; with `dim`, values and indices; with another tensor, the elementwise maximum."""
    if isinstance(dim, Handle) or other is not None:
        return maximum(input, dim if other is None else other)
    return _extreme(input, dim, keepdim, "max")


@public(out="same")
def min(input: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """Return the smallest element; with `dim`, values and indices; with another tensor, the elementwise minimum."""
    if isinstance(dim, Handle) or other is not None:
        return minimum(input, dim if other is None else other)
    return _extreme(input, dim, keepdim, "min")


def var_node(x: Node, dims: Shape, correction: float, keepdim: bool) -> Node:
    """Variance in two passes: mean first, then squared distances; 16-bit floats are rounded once."""
    if x.dtype in dt.ACCUMULATE:
        return rounded_once(lambda w: var_node(w, dims, correction, keepdim), x)
    n = count(x.shape, dims)
    m = mean_node(x, dims, True)
    c = P.sub(x, m)
    sq = P.real(P.mul(c, P.conj(c)))
    denominator = n - correction
    s = P.sum_(sq, dims)
    return keep(P.div(s, counted(builtins.max(denominator, 0.0), s.dtype)), x.shape, dims, keepdim)


def _correction(unbiased: Any, correction: Any) -> float:
    if correction is not None:
        return correction
    return 1 if unbiased is None or unbiased else 0


def _var_args(dim: Any, unbiased: Any) -> tuple[Any, Any]:
    return (None, dim) if isinstance(dim, bool) else (dim, unbiased)


def _need_float(input: Any, name: str) -> None:
    if input._dtype.category < 2:
        raise RuntimeError(
            f"{'var and std' if name == 'var' else name} only support floating point and complex dtypes"
        )


@public(out=True)
def var(
    input: Any, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> Any:
    """Return the variance over `dim`; divides by n - correction (1 by default)."""
    dim, unbiased = _var_args(dim, unbiased)
    _need_float(input, "var")
    return wrap_like(
        var_node(read(input), _dims(dim, input.ndim), _correction(unbiased, correction), keepdim), input
    )


def std_node(x: Node, dims: Shape, correction: float, keepdim: bool) -> Node:
    """Standard deviation over dimensions; 16-bit floats are rounded once."""
    if x.dtype in dt.ACCUMULATE:
        return rounded_once(lambda w: std_node(w, dims, correction, keepdim), x)
    return std_of(var_node(x, dims, correction, keepdim))


def std_of(v: Node) -> Node:
    """Square root whose gradient at zero variance is what PyTorch gives."""
    y = P.sqrt(P.detach(v))

    def rule(g: Node, y: Node, v: Node) -> list[Node]:
        still = P.eq(y, P.num(y, 0))  # nothing is divided there, so that the transpose of this rule is 0 too
        q = P.div(g, P.where(still, P.num(y, 1), P.mul(P.num(y, 2), y)))
        return [P.where(still, P.num(q, 0), q)]

    return with_gradient(y, rule, v)


@public(out=True)
def std(
    input: Any, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> Any:
    """Return the standard deviation over `dim`; divides by n - correction (1 by default)."""
    dim, unbiased = _var_args(dim, unbiased)
    _need_float(input, "std")
    return wrap_like(
        std_node(read(input), _dims(dim, input.ndim), _correction(unbiased, correction), keepdim),
        input,
    )


@public(method=False)
def var_mean(
    input: Any, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> Any:
    """Return variance and mean over `dim`."""
    dim, unbiased = _var_args(dim, unbiased)
    _need_float(input, "var_mean")
    x, dims = read(input), _dims(dim, input.ndim)
    return (
        wrap_like(var_node(x, dims, _correction(unbiased, correction), keepdim), input),
        wrap_like(mean_node(x, dims, keepdim), input),
    )


@public(method=False)
def std_mean(
    input: Any, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> Any:
    """Return standard deviation and mean over `dim`."""
    dim, unbiased = _var_args(dim, unbiased)
    _need_float(input, "std_mean")
    x, dims = read(input), _dims(dim, input.ndim)
    return (
        wrap_like(std_node(x, dims, _correction(unbiased, correction), keepdim), input),
        wrap_like(mean_node(x, dims, keepdim), input),
    )


def logsumexp_node(x: Node, dims: Shape, keepdim: bool = False) -> Node:
    """log(sum(exp(x))) around the largest element; the gradient is exp(x - y)."""
    d = P.detach(x)
    if not count(x.shape, dims):
        return keep(P.log(P.sum_(P.exp(x), dims)), x.shape, dims, keepdim)
    m = keep(P.max_of(P.real(d), dims), x.shape, dims, True)
    inf = P.num(m, math.inf)
    m = P.convert(P.where(P.eq(P.abs_(m), inf), P.num(m, 0), m), x.dtype)
    s = P.sum_(P.exp(P.sub(d, m)), dims)
    y = P.add(P.log(s), P.reshape(m, s.shape))
    y = with_gradient(
        y, lambda g, y, x: [P.mul(P.spread_back(g, x, dims), P.conj(P.exp(P.sub(x, P.spread_back(y, x, dims)))))], x
    )
    return keep(y, x.shape, dims, keepdim)


@public(out=True)
def logsumexp(input: Any, dim: Any, keepdim: bool = False) -> Any:
    """Return log(sum(exp(input))) over `dim`."""
    x = node_of(input, floating(input._dtype))
    return wrap_like(logsumexp_node(x, _dims(dim, input.ndim), keepdim), input)


def norm_node(x: Node, p: float, dims: Shape, keepdim: bool) -> Node:
    """The p-norm of a value over dimensions, as torch.linalg.vector_norm; 16-bit floats are rounded once."""
    if x.dtype in dt.ACCUMULATE:
        return rounded_once(lambda w: norm_node(w, p, dims, keepdim), x)
    if x.dtype is dt.complex32:
        return P.convert(norm_node(P.convert(x, dt.complex64), p, dims, keepdim), dt.float16)
    a = P.abs_(x)
    if p == math.inf or p == -math.inf:
        y = (P.max_of if p > 0 else P.min_of)(a, dims)
    elif p == 0:
        y = P.sum_(P.convert(P.ne(x, P.num(x, 0)), a.dtype), dims)
        y = with_gradient(y, lambda g, y, x: [P.zeros(x.shape, x.dtype)], x)
    elif p == 1:
        y = P.sum_(a, dims)
    elif p == 2:
        y = _norm2(x, dims)
    else:
        y = _norm_p(x, p, dims)
    return keep(y, x.shape, dims, keepdim)


def _norm_p(x: Node, p: float, dims: Shape) -> Node:
    """(sum |x|^p)^(1/p); its gradient sign(x) (|x| / y)^(p - 1) is 0 where x or y is."""
    a = P.abs_(P.detach(x))
    y = P.pow_(P.sum_(P.pow_(a, P.num(a, p)), dims), P.num(a, 1 / p))

    def rule(g: Node, y: Node, x: Node) -> list[Node]:
        a, one = P.abs_(x), P.num(y, 1)
        top, zero = P.spread_back(y, a, dims), P.num(y, 0)
        still = P.or_(P.eq(a, zero), P.eq(top, zero))
        ratio = P.div(P.where(still, one, a), P.where(still, one, top))
        slope = P.mul(P.spread_back(g, a, dims), P.pow_(ratio, P.num(y, p - 1)))
        return [P.mul(P.sign(x), P.convert(P.where(still, zero, slope), x.dtype))]

    return with_gradient(y, rule, x)


def _norm2(x: Node, dims: Shape) -> Node:
    d = P.detach(x)
    y = P.sqrt(P.sum_(P.real(P.mul(d, P.conj(d))), dims))

    def rule(g: Node, y: Node, x: Node) -> list[Node]:
        still = P.eq(y, P.num(y, 0))  # nothing is divided there, so that the transpose of this rule is 0 too
        scale = P.where(still, P.num(g, 0), P.div(g, P.where(still, P.num(y, 1), y)))
        return [P.mul(x, P.convert(P.spread_back(scale, x, dims), x.dtype))]

    return with_gradient(y, rule, x)


@public(out=True)
def count_nonzero(input: Any, dim: Any = None) -> Any:
    """Return how many elements are not zero."""
    x = read(input)
    return wrap_like(P.sum_(P.convert(P.ne(x, P.num(x, 0)), dt.int64), _dims(dim, input.ndim)), input)

