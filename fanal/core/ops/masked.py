"""torch.masked: reductions and normalisations of the elements that a mask keeps.

A masked element is replaced by what changes nothing: 0 in a sum, 1 in a product, infinity in a minimum. Masks
broadcast to the input; mask=None keeps everything.
"""

from __future__ import annotations

import math
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.base.layout import strided
from fanal.core.base.shape import Shape
from fanal.core.engine.handle import Handle
from fanal.core.ir import prims as P
from fanal.core.ops import activation, arithmetic, pointwise, reduce, scan, sort
from fanal.core.ops.build import node_of, public, read, result, wrap
from fanal.core.ops.linalg_norm import vector_norm

Dtype = dt.dtype | None


def _check(input: Any, name: str) -> None:
    if not isinstance(input, Handle):
        raise TypeError(f"masked {name}: expected a Tensor, got {type(input).__name__}")
    if input.layout is not _strided():
        raise NotImplementedError(f"masked {name}: {input.layout} tensors are not supported in Fanal; use to_dense()")


def _strided() -> Any:
    return strided


def kept(input: Any, mask: Any) -> Any:
    """Return the mask as booleans of the input's shape."""
    m = mask
    if len(m._shape) > len(input._shape):
        raise IndexError(
            "_input_mask expected broadcastable mask (got mask dimensionality higher than of the input)"
        )
    n = node_of(m, dt.bool_)
    return wrap(n if n.shape == input._shape else P.broadcast(n, input._shape))


def _lowest(d: dt.dtype, sign: int) -> Any:
    """Return the smallest (sign=-1) or largest value of a dtype."""
    if d.category >= 2:
        return sign * math.inf
    if d is dt.bool_:
        raise TypeError("masked extremes of bool tensors are not defined")
    import numpy as np

    info = np.iinfo(d.np)
    return int(info.min if sign < 0 else info.max)


def _fill(input: Any, mask: Any, value: Any, name: str) -> Any:
    """Return the input with masked elements replaced by a number of its dtype."""
    _check(input, name)
    if mask is None:
        return input
    x = read(input)
    return result(P.where(read(kept(input, mask)), x, P.num(x, value)), input)


def dims_of(dim: Any, n: int) -> Shape:
    """Return dimensions in order; None and () mean all of them."""
    if dim is None or (not isinstance(dim, int) and not tuple(dim)):
        return tuple(range(n))
    found: list[int] = []
    n = max(n, 1)
    for d in (dim,) if isinstance(dim, int) else dim:
        if d in found:
            raise RuntimeError(f"dim={d} appears multiple times in the list of dims")
        if not -n <= d < n:
            raise IndexError(
                f"Dimension out of range (expected to be in range of [{-n}, {n - 1}], but got {d})"
            )
        found.append(d % n)
    return tuple(sorted(found))


def _public(f: Any) -> Any:
    return public(f.__name__, module="masked", method=False)(f)


@_public
def sum(input: Any, dim: Any = None, *, keepdim: bool | None = False, dtype: Dtype = None, mask: Any = None) -> Any:
    """Return the sum over `dim` of the elements kept; 0 where there are none."""
    x = _fill(input, mask, 0, "sum")
    d, dims = reduce.summed(input._dtype, dtype), dims_of(dim, input.ndim)
    return reduce.sum(x, dims, bool(keepdim), dtype=d) if input.ndim else reduce.sum(x, dtype=d)


@_public
def prod(input: Any, dim: Any = None, *, keepdim: bool | None = False, dtype: Dtype = None, mask: Any = None) -> Any:
    """Return the product over `dim` of the elements kept; 1 where there are none."""
    x = node_of(_fill(input, mask, 1, "prod"), reduce.summed(input._dtype, dtype))
    dims = dims_of(dim, input.ndim) if input.ndim else ()
    return reduce.wrap_like(reduce.keep(P.prod(x, dims), x.shape, dims, bool(keepdim)), input)


@_public
def amax(input: Any, dim: Any = None, *, keepdim: bool | None = False, dtype: Dtype = None, mask: Any = None) -> Any:
    """Return the largest element kept over `dim`; the lowest value of the dtype where there are none."""
    x = _fill(input, mask, _lowest(input._dtype, -1), "amax")
    return _as(reduce.amax(x, dims_of(dim, input.ndim) if input.ndim else (), bool(keepdim)), dtype)


@_public
def amin(input: Any, dim: Any = None, *, keepdim: bool | None = False, dtype: Dtype = None, mask: Any = None) -> Any:
    """Return the smallest element kept over `dim`; the highest value of the dtype where there are none."""
    x = _fill(input, mask, _lowest(input._dtype, 1), "amin")
    return _as(reduce.amin(x, dims_of(dim, input.ndim) if input.ndim else (), bool(keepdim)), dtype)


def _as(t: Any, dtype: Dtype) -> Any:
    return t if dtype is None or t._dtype is dtype else result(P.convert(read(t), dtype), t)


@_public
def argmax(input: Any, dim: int | None = None, *, keepdim: bool | None = False, dtype: Dtype = None,
           mask: Any = None) -> Any:
    """Return the position of the largest element kept, in the input's dtype unless another is given."""
    x = _fill(input, mask, _lowest(input._dtype, -1), "argmax")
    return _as(reduce.argmax(x, dim, bool(keepdim)), dtype or input._dtype)


@_public
def argmin(input: Any, dim: int | None = None, *, keepdim: bool | None = False, dtype: Dtype = None,
           mask: Any = None) -> Any:
    """Return the position of the smallest element kept, in the input's dtype unless another is given."""
    x = _fill(input, mask, _lowest(input._dtype, 1), "argmin")
    return _as(reduce.argmin(x, dim, bool(keepdim)), dtype or input._dtype)


def _count(input: Any, dims: Shape, keepdim: bool, mask: Any) -> Any:
    if mask is None:
        x = read(input)
        ones = P.broadcast(P.full((), 1, dt.int64), x.shape)
    else:
        ones = P.convert(read(kept(input, mask)), dt.int64)
    return wrap(reduce.sum_node(ones, dims, keepdim))


@_public
def mean(input: Any, dim: Any = None, *, keepdim: bool | None = False, dtype: Dtype = None, mask: Any = None) -> Any:
    """Return the mean over `dim` of the elements kept; NaN where there are none."""
    _check(input, "mean")
    dims = dims_of(dim, input.ndim) if input.ndim else ()
    d = dtype or input._dtype
    if mask is None and d.category < 2:
        raise RuntimeError("mean(): could not infer output dtype. Input dtype must be either a floating point or "
                           f"complex dtype. Got: {dt.scalar_name(input._dtype)}")
    if mask is None:
        return reduce.mean(input, dims, bool(keepdim), dtype=d) if input.ndim else reduce.mean(input, dtype=d)
    total = sum(input, dim, keepdim=keepdim, dtype=d, mask=mask)
    return pointwise.div(total, _count(input, dims, bool(keepdim), mask))


@_public
def median(input: Any, dim: int = -1, *, keepdim: bool = False, dtype: Dtype = None, mask: Any = None) -> Any:
    """Return the median along one dimension of the elements kept; NaN where there are none."""
    d = dims_of(dim, input.ndim)[0]
    floating = input._dtype.is_floating_point
    x = input if floating else result(P.convert(read(input), dt.float32), input)
    y = sort.nanmedian(_fill(x, mask, math.nan, "median"), d, keepdim).values
    if floating:
        return y
    if bool(reduce.any(wrap(P.ne(read(y), read(y))))):
        raise ValueError("masked median expects no fully masked out rows if dtype is not floating point")
    return _as(y, dtype or input._dtype)


@_public
def norm(input: Any, ord: float | None = 2.0, dim: Any = None, *, keepdim: bool | None = False, dtype: Dtype = None,
         mask: Any = None) -> Any:
    """Return the norm of order `ord` over `dim` of the elements kept."""
    x = _fill(input, mask, math.inf if ord == -math.inf else 0, "norm")
    dims = dims_of(dim, input.ndim) if input.ndim else ()
    return vector_norm(x, 2.0 if ord is None else ord, dims, bool(keepdim), dtype=dtype or input._dtype)


def _spread(input: Any, dim: Any, unbiased: Any, correction: Any, keepdim: bool, dtype: Dtype, mask: Any) -> Any:
    """The variance over `dim` of the elements kept, as a tensor in the dtype of the computation."""
    _check(input, "var")
    if unbiased is not None and correction is not None:
        raise AssertionError("Only one of unbiased and correction may be given")
    delta = correction if correction is not None else 1.0 if unbiased is None or unbiased else 0.0
    d = dtype or (input._dtype if input._dtype.category >= 2 else dt.float32)
    wide = d if d.category >= 2 else dt.float32
    dims = dims_of(dim, input.ndim) if input.ndim else ()
    x = node_of(input, wide)
    m = None if mask is None else read(kept(input, mask))
    hide = lambda n: n if m is None else P.where(m, n, P.num(n, 0))
    count = P.convert(read(_count(input, dims, True, mask)), wide)
    centred = P.sub(x, P.div(reduce.sum_node(hide(x), dims, True), count))
    total = reduce.sum_node(hide(P.mul(centred, P.conj(centred))), dims, True)
    left = P.sub(P.real(count), P.num(P.real(count), delta))
    y = P.div(total, P.convert(P.max_(left, P.num(left, 0)), wide))
    if not keepdim:
        y = P.reshape(y, tuple(n for k, n in enumerate(x.shape) if k not in dims))
    return y, d


@_public
def var(input: Any, dim: Any = None, unbiased: bool | None = None, *, correction: Any = None,
        keepdim: bool | None = False, dtype: Dtype = None, mask: Any = None) -> Any:
    """Return the variance over `dim` of the elements kept."""
    y, d = _spread(input, dim, unbiased, correction, bool(keepdim), dtype, mask)
    return reduce.wrap_like(P.convert(y, d), input)


@_public
def std(input: Any, dim: Any = None, unbiased: bool | None = None, *, correction: Any = None,
        keepdim: bool | None = False, dtype: Dtype = None, mask: Any = None) -> Any:
    """Return the standard deviation over `dim` of the elements kept."""
    y, d = _spread(input, dim, unbiased, correction, bool(keepdim), dtype, mask)
    return reduce.wrap_like(P.convert(P.sqrt(P.convert(y, d) if d.category >= 2 else y), d), input)


@_public
def logsumexp(input: Any, dim: Any = None, *, keepdim: bool = False, dtype: Dtype = None, mask: Any = None) -> Any:
    """Return log(sum(exp(input))) over `dim` of the elements kept; -inf where there are none."""
    x = _fill(input, mask, _lowest(input._dtype, -1), "logsumexp")
    y = reduce.logsumexp(x, dims_of(dim, input.ndim) if input.ndim else (), keepdim)
    return _as(y, dtype or input._dtype)


@_public
def logaddexp(input: Any, other: Any, *, dtype: Dtype = None, input_mask: Any = None, other_mask: Any = None) -> Any:
    """Return log(exp(input) + exp(other)); a masked element counts as -inf."""
    x = _fill(input, input_mask, _lowest(input._dtype, -1), "logaddexp")
    y = _fill(other, other_mask, _lowest(other._dtype, -1), "logaddexp")
    return _as(arithmetic.logaddexp(x, y), dtype or input._dtype)


@_public
def cumsum(input: Any, dim: int, *, dtype: Dtype = None, mask: Any = None) -> Any:
    """Return the running sum along `dim` of the elements kept."""
    d = dtype or input._dtype
    return _as(scan.cumsum(_fill(input, mask, 0, "cumsum"), dims_of(dim, input.ndim)[0], dtype=d), d)


@_public
def cumprod(input: Any, dim: int, *, dtype: Dtype = None, mask: Any = None) -> Any:
    """Return the running product along `dim` of the elements kept."""
    d = dtype or input._dtype
    return _as(scan.cumprod(_fill(input, mask, 1, "cumprod"), dims_of(dim, input.ndim)[0], dtype=d), d)


@_public
def softmax(input: Any, dim: int, *, dtype: Dtype = None, mask: Any = None) -> Any:
    """Return the softmax along `dim` of the elements kept; NaN where there are none."""
    x = _fill(input, mask, _lowest(input._dtype, -1), "softmax")
    return activation.softmax(x, dims_of(dim, input.ndim)[0], dtype=dtype or input._dtype)


@_public
def log_softmax(input: Any, dim: int, *, dtype: Dtype = None, mask: Any = None) -> Any:
    """Return the logarithm of the softmax along `dim` of the elements kept."""
    x = _fill(input, mask, _lowest(input._dtype, -1), "log_softmax")
    return activation.log_softmax(x, dims_of(dim, input.ndim)[0], dtype=dtype or input._dtype)


@_public
def softmin(input: Any, dim: int, *, dtype: Dtype = None, mask: Any = None) -> Any:
    """Return the softmax of -input along `dim` of the elements kept."""
    x = _fill(input, mask, _lowest(input._dtype, 1), "softmin")
    return activation.softmax(pointwise.neg(x), dims_of(dim, input.ndim)[0], dtype=dtype or input._dtype)


@_public
def normalize(input: Any, ord: float, dim: int, *, eps: float = 1e-12, dtype: Dtype = None, mask: Any = None) -> Any:
    """Return the elements kept, divided by their norm along `dim` or eps; 0 elsewhere."""
    length = norm(input, ord, dim, keepdim=True, dtype=dtype, mask=mask)
    return pointwise.div(_fill(input, mask, 0, "normalize"), _at_least(length, eps))


def _at_least(t: Any, low: float) -> Any:
    n = read(t)
    return result(P.max_(n, P.num(n, low)), t)
