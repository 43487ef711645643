"""Norms of vectors and matrices, and what is measured by them: condition numbers, distances, renorm."""

from __future__ import annotations

import math
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.base.shape import reduced_shape, wrap_dim, wrap_dims
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node, Shape
from fanal.core.ops.build import node_of, nodes_of, public, read, wrap
from fanal.core.ops.linalg_check import need_floating, need_matrix, need_square
from fanal.core.ops.linalg_spectrum import svdvals
from fanal.core.ops.reduce import norm_node, wrap_like


def _operand(x: Any, dtype: dt.dtype | None, name: str) -> Node:
    """The value of a norm's operand in the dtype in which it is computed."""
    need_floating(x, name)
    if dtype is None:
        return read(x)
    if dtype.category < 2:
        raise RuntimeError(
            f"{name}: dtype should be floating point or complex, but got {dt.scalar_name(dtype)}"
        )
    if x._dtype.is_complex and not dtype.is_complex:
        raise RuntimeError(
            f"{name}: dtype should be complex for complex inputs, but got {dt.scalar_name(dtype)}"
        )
    if dt.promote_types(x._dtype, dtype) is not dtype:
        raise RuntimeError(
            f"{name}: the dtype of the input ({dt.scalar_name(x._dtype)}) should be convertible without "
            f"narrowing to the specified dtype ({dt.scalar_name(dtype)})"
        )
    return node_of(x, dtype)


def _vector_norm(x: Any, ord: float, dim: Any, keepdim: bool, dtype: dt.dtype | None) -> Any:
    name = "linalg.vector_norm"
    n = _operand(x, dtype, name)
    if isinstance(ord, str):
        raise TypeError(
            f"linalg_vector_norm(): argument 'ord' (position 2) must be Number, not {type(ord).__name__}"
        )
    if dim is not None and not isinstance(dim, int) and not len(dim):
        dim = None
    dims = wrap_dims(dim, len(n.shape))
    if (ord == math.inf or ord < 0) and math.prod(n.shape[d] for d in dims) == 0 and dims:
        if dim is None:
            raise RuntimeError(
                f"{name} cannot compute the {ord} norm on an empty tensor because the operation does not "
                f"have an identity"
            )
        if math.prod(reduced_shape(n.shape, dims)):
            d = next(d for d in dims if not n.shape[d])
            raise RuntimeError(
                f"{name} cannot compute the {ord} norm on the dimension {d}because this dimension is empty "
                f"and the operation does not have an identity"
            )
    return wrap_like(norm_node(n, float(ord), dims, keepdim), x)


@public(module="linalg", method=False, out=True)
def vector_norm(input: Any, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Return the norm of order `ord` of the elements over `dim` (all by default). The result is real."""
    return _vector_norm(input, ord, dim, keepdim, dtype)


def _pair(dim: Any, n: int, name: str) -> Shape:
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    if len(dims) != 2:
        raise RuntimeError(f"{name}: dim must be a 2-tuple. Got {' '.join(map(str, dims))}")
    a, b = (wrap_dim(d, n) for d in dims)
    if a == b:
        raise RuntimeError(f"{name}: dims must be different. Got ({dims[0]}, {dims[1]})")
    return a, b


def _matrix_norm(A: Any, ord: Any, dim: Any, keepdim: bool, dtype: dt.dtype | None) -> Any:
    name = "linalg.matrix_norm"
    need_matrix(A, name)
    rank = len(A._shape)
    if isinstance(ord, str):
        if ord not in ("fro", "nuc"):
            raise RuntimeError(f"{name}: Order {ord} not supported.")
    elif abs(ord) not in (1, 2, math.inf):
        raise RuntimeError(f"{name}: Order {ord} not supported.")
    dims = _pair(dim, rank, name)
    x = _operand(A, dtype, name)
    if ord == "fro":
        return wrap_like(norm_node(x, 2.0, tuple(sorted(dims)), keepdim), A)
    if ord == "nuc" or abs(ord) == 2:
        rest = tuple(d for d in range(rank) if d not in dims)
        s = P.real(P.part(P.lapack((P.permute(x, (*rest, *dims)),), "svdvals"), 0))
        y = P.sum_(s, (len(s.shape) - 1,)) if ord == "nuc" else _extreme(s, len(s.shape) - 1, ord)
    else:
        along, over = dims if abs(ord) == 1 else dims[::-1]
        y = _extreme(P.sum_(P.abs_(x), (along,)), over - (over > along), ord)
    return wrap_like(P.reshape(y, reduced_shape(x.shape, dims, True)) if keepdim else y, A)


def _extreme(s: Node, d: int, ord: float) -> Node:
    """The largest (ord > 0) or smallest along a dimension; the norm of nothing is 0."""
    if s.shape[d]:
        return (P.max_of if ord > 0 else P.min_of)(s, (d,))
    if ord < 0:
        raise IndexError(f"amin(): Expected reduction dim {d} to have non-zero size.")
    return P.full(reduced_shape(s.shape, (d,)), 0, s.dtype)


@public(module="linalg", method=False, out=True)
def matrix_norm(
    input: Any, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *, dtype: Any = None
) -> Any:
    """Return the norm of matrices: "fro", "nuc", or of order 1, -1, 2, -2, inf, -inf. Shapes: (*, m, n) ->
    (*)."""
    return _matrix_norm(input, ord, dim, keepdim, dtype)


@public("norm", module="linalg", method=False, out=True)
def linalg_norm(input: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Return a vector norm or a matrix norm, as numpy.linalg.norm.

    Without `ord`, the 2-norm of all elements (over `dim`). With `ord`: of vectors if `dim` is one dimension,
    or the input has one; else of matrices.
    """
    dims = (dim,) if isinstance(dim, int) else None if dim is None else tuple(dim)
    if dims is not None and len(dims) not in (1, 2):
        raise RuntimeError(f"linalg.norm: If dim is specified, it must be of length 1 or 2. Got {list(dims)}")
    rank = len(input._shape)
    if isinstance(ord, str):
        if dims is not None and len(dims) != 2:
            raise RuntimeError(f"linalg.matrix_norm: dim must be a 2-tuple. Got {' '.join(map(str, dims))}")
        return _matrix_norm(input, ord, (-2, -1) if dims is None else dims, keepdim, dtype)
    if ord is None:
        return _vector_norm(input, 2, dims, keepdim, dtype)
    if dims is None and rank not in (1, 2):
        raise RuntimeError(
            f"linalg.norm: If dim is not specified but ord is, the input must be 1D or 2D. Got {rank}D."
        )
    if (len(dims) if dims is not None else rank) == 2:
        return _matrix_norm(input, ord, (0, 1) if dims is None else dims, keepdim, dtype)
    return _vector_norm(input, ord, dims, keepdim, dtype)


@public(out="alone")
def norm(input: Any, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    """Return the p-norm of the elements over `dim`, 2 by default; with p="nuc", the nuclear norm of
    matrices."""
    if dim is not None and not isinstance(dim, int) and not len(dim):
        dim = None
    if isinstance(p, str) and p != "fro":
        return _matrix_norm(input, p, tuple(range(len(input._shape))) if dim is None else dim, keepdim, dtype)
    if p == "fro" and dim is not None and not isinstance(dim, int) and len(dim) > 2:
        raise RuntimeError(f"linalg.matrix_norm: dim must be a 2-tuple. Got {' '.join(map(str, dim))}")
    return _vector_norm(input, 2.0 if p in ("fro", None) else p, dim, keepdim, dtype)


@public(method=False, out=True)
def nuclear_norm(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Return the sum of the singular values of matrices."""
    return _matrix_norm(input, "nuc", (-2, -1) if dim is None else dim, keepdim, None)


@public(method=False, out=True)
def frobenius_norm(input: Any, dim: Any, keepdim: bool = False) -> Any:
    """Return the square root of the sum of squares over `dim`."""
    return _vector_norm(input, 2.0, dim, keepdim, None)


@public(module="linalg", method=False, out=True)
def cond(input: Any, p: Any = None) -> Any:
    """Return condition numbers |A| |inv(A)| in the norm p; by default and for 2, -2 from singular values.

    Shapes: (*, m, n) -> (*); square but for 2 and -2. Infinite for singular matrices.
    """
    need_matrix(input, "linalg.cond", "")
    if p is None or (not isinstance(p, str) and abs(p) == 2):
        s = read(svdvals(input)[0])
        if not s.shape[-1]:
            return wrap(P.full(s.shape[:-1], 0, s.dtype))
        k = s.shape[-1]
        first, last = (P.reshape(P.span(s, len(s.shape) - 1, i, i + 1), s.shape[:-1]) for i in (0, k - 1))
        return wrap(P.div(last, first) if p == -2 else P.div(first, last))
    if p not in ("fro", "nuc") and (isinstance(p, str) or abs(p) not in (1, math.inf)):
        raise RuntimeError(f"linalg.cond got an invalid norm type: {p}")
    need_floating(input, "linalg.inv", low=False)
    need_square(input, f"linalg.cond(ord={p})")
    if input.numel() == 0:
        return wrap(P.full(input._shape[:-2], 0, input._dtype.to_real()))
    y = P.lapack((read(input),), "inverse")
    inverse = wrap(P.part(y, 0))
    found = P.mul(*(read(_matrix_norm(t, p, (-2, -1), False, None)) for t in (input, inverse)))
    info = P.real(P.detach(P.part(y, 1)))
    failed = P.ne(info, P.num(info, 0))
    return wrap(P.where(failed, P.num(found, math.inf), found))


@public()
def dist(input: Any, other: Any, p: float = 2) -> Any:
    """Return the p-norm of input - other, over all elements. Shapes broadcast; dtypes promote."""
    a, b = nodes_of(input, other)
    return _vector_norm(wrap(P.sub(a, b)), p, None, False, None)


@public(inplace=True, out=True)
def renorm(input: Any, p: float, dim: int, maxnorm: float) -> Any:
    """Return the input with every slice along `dim` scaled so that its p-norm is at most `maxnorm`."""
    n = len(input._shape)
    if isinstance(p, complex):
        raise RuntimeError("renorm: p must be real-valued")
    if p <= 0:
        raise RuntimeError("renorm: non-positive-norm not supported")
    if isinstance(maxnorm, complex):
        raise RuntimeError("renorm: maxnorm must be real-valued")
    if maxnorm < 0:
        raise RuntimeError(f"renorm: expected maxnorm to be >= 0 but got {maxnorm:g}")
    if n <= 1:
        raise RuntimeError(f"renorm: input needs at least 2 dimensions, got {n} dimensions")
    d = wrap_dim(dim, n)
    need_floating(input, "linalg.vector_norm")
    x = read(input)
    wide = dt.ACCUMULATE.get(x.dtype, x.dtype)
    size = norm_node(P.convert(x, wide), float(p), tuple(i for i in range(n) if i != d), True)
    limit = P.num(size, float(maxnorm))
    scale = P.div(limit, P.add(size, P.num(size, 1e-7)))
    scale = P.where(P.lt(limit, size), scale, P.num(size, 1))
    return wrap(P.mul(x, P.convert(scale, x.dtype)))
