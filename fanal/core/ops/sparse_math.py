"""What can be computed with sparse tensors: every operator not in the table here refuses them by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.shape import wrap_dims
from fanal.core.engine.handle import Handle
from fanal.core.ops.build import is_number
from fanal.core.ops.sparse import (
    COO,
    CSR,
    T,
    coalesce,
    flat_places,
    indices_of,
    rows_of,
    sparse_coo_tensor,
    sparse_csr_tensor,
    to_dense,
    to_sparse_coo,
    to_sparse_csr,
    transposed,
    whole,
)
from fanal.core.tensor.sparse import ELSEWHERE, Sparse, like, make
from fanal.core.tensor.tensor import compute

TABLE: dict[str, Callable] = {}


def on(*names: str) -> Callable:
    """Register a function for the public operators of these names."""

    def put(f: Callable) -> Callable:
        TABLE.update(dict.fromkeys(names, f))
        return f

    return put


def run(name: str, args: tuple, kwargs: dict) -> Any:
    """Run a public call that has a sparse operand."""
    short = name.rpartition(".")[2].strip("_")
    f = TABLE.get(short)
    kinds = {a.kind for a in (*args, *kwargs.values()) if isinstance(a, Sparse)}
    if f is None or (name.endswith("_") and not name.endswith("__")):
        back = "SparseCsrCPU" if kinds == {CSR} else "SparseCPU"
        raise NotImplementedError(
            f"Could not run 'aten::{short}' with arguments from the '{back}' backend. Fanal computes it "
            "for dense tensors only: use to_dense()"
        )
    return f(*args, **kwargs)


ELSEWHERE[Sparse] = run


# Functions that keep 0.


_LINEAR = ("neg", "conj", "real", "imag", "positive")  # do not ask for coalesced values


def _unary(name: str) -> None:
    def fn(input: Any, *args: Any, **kwargs: Any) -> Any:
        t = coalesce(input) if input.kind is COO and name not in _LINEAR else input
        return like(t, T[name](t.stored, *args, **kwargs))

    fn.__name__ = name
    TABLE[name] = fn


for _name in (
    "abs",
    "neg",
    "sqrt",
    "sin",
    "tan",
    "asin",
    "atan",
    "sinh",
    "tanh",
    "asinh",
    "atanh",
    "expm1",
    "log1p",
    "relu",
    "floor",
    "ceil",
    "round",
    "trunc",
    "sign",
    "sgn",
    "square",
    "deg2rad",
    "rad2deg",
    "erf",
    "isnan",
    "isinf",
    "angle",
    "conj",
    "real",
    "imag",
    "nan_to_num",
    "positive",
):
    _unary(_name)


@on("pow")
def pow(input: Any, exponent: Any) -> Any:
    """Return powers of the stored values, for positive exponents."""
    if not is_number(exponent) or exponent <= 0:
        raise NotImplementedError("pow of a sparse tensor is available for positive numbers as exponents")
    t = coalesce(input) if input.kind is COO else input
    return like(t, t.stored**exponent)


# Sums and products of two tensors.


def _same_shape(a: Any, b: Any, name: str) -> None:
    if a._shape != b._shape:
        raise RuntimeError(
            f"The size of tensor a {list(a._shape)} must match that of tensor b {list(b._shape)} in {name}"
        )


@on("add", "radd")
def add(input: Any, other: Any, *, alpha: Any = 1) -> Any:
    """Return input + alpha * other: sparse if both are, else dense."""
    if not (isinstance(input, Handle) and isinstance(other, Handle)):
        raise NotImplementedError("add of a sparse tensor and a number would be dense: use to_dense()")
    if isinstance(input, Sparse) and not isinstance(other, Sparse):
        raise RuntimeError("add(sparse, dense) is not supported. Use add(dense, sparse) instead.")
    if not isinstance(input, Sparse):
        return T["add"](to_dense(input), to_dense(other), alpha=alpha)
    _same_shape(input, other, "add")
    a, b = to_sparse_coo(input), to_sparse_coo(other)
    i = T["cat"]((a.places[0], b.places[0]), 1)
    v = T["cat"]((a.stored, b.stored if alpha == 1 else b.stored * alpha))
    y = coalesce(make(COO, (i,), v, a._shape))
    return to_sparse_csr(y) if input.kind is CSR else y


@on("sub", "rsub")
def sub(input: Any, other: Any, *, alpha: Any = 1) -> Any:
    """Return input - alpha * other."""
    return add(input, other, alpha=-alpha)


@on("mul", "rmul", "multiply")
def mul(input: Any, other: Any) -> Any:
    """Return the product with a number or, element by element, with a tensor: the result is sparse."""
    if not isinstance(input, Sparse):
        input, other = other, input
    if not isinstance(other, Handle) or not other._shape:
        return like(input, input.stored * other)
    _same_shape(input, other, "mul")
    if not isinstance(other, Sparse):
        i = indices_of(input)
        return like(input, input.stored * other[tuple(i[d] for d in range(i._shape[0]))])
    a, b = coalesce(to_sparse_coo(input)), coalesce(to_sparse_coo(other))
    head = a._shape[: a.places[0]._shape[0]]
    p, q = (np.ravel_multi_index(tuple(compute(t.places[0])), head) for t in (a, b))
    _, i, j = np.intersect1d(p, q, return_indices=True)
    y = make(
        COO, (whole(compute(a.places[0])[:, i]),), a.stored[whole(i)] * b.stored[whole(j)], a._shape, True
    )
    return to_sparse_csr(y) if input.kind is CSR else y


@on("div", "truediv", "divide", "true_divide")
def div(input: Any, other: Any) -> Any:
    """Return the quotient by a number."""
    if not isinstance(input, Sparse) or (isinstance(other, Handle) and other._shape):
        raise RuntimeError("Sparse division requires a scalar or zero-dim dense tensor divisor")
    return like(input, input.stored / other)


# Matrix products.


def _check_product(a: Any, b: Any, name: str) -> None:
    if len(a._shape) != 2 or len(b._shape) not in (1, 2):
        raise RuntimeError(f"{name}: expected matrices, got {list(a._shape)} and {list(b._shape)}")
    if a._shape[1] != b._shape[0]:
        raise RuntimeError(
            f"mat1 and mat2 shapes cannot be multiplied ({a._shape[0]}x{a._shape[1]} and "
            f"{'x'.join(map(str, b._shape))})"
        )
    if a._dtype is not b._dtype:
        raise RuntimeError(
            f"expected mat1 and mat2 to have the same dtype, but got: {a._dtype} != {b._dtype}"
        )


def _terms(a: Sparse, b: Any) -> tuple[Any, Any]:
    """Return the row, and the stored value times the row of b that it meets, for each stored value of a."""
    row, col = rows_of(a)
    v = a.stored if b.ndim == 1 else a.stored.unsqueeze(1)
    return row, v * b.index_select(0, col)


@on("mm", "matmul", "mv", "spmm", "rmatmul", "smm", "dsmm")
def mm(input: Any, mat2: Any, reduce: str | None = None) -> Any:
    """Return the matrix product: dense with a dense operand, sparse if both are sparse.

    reduce ("sum", "mean", "amax", "amin"): how the terms of an element are combined, for CSR times dense.
    """
    _check_product(input, mat2, "mm")
    if reduce is not None:
        return _mm_reduce(input, mat2, reduce)
    if not isinstance(input, Sparse):  # A @ S = (S.T @ A.T).T
        return mm(transposed(mat2), input.t()).t()
    if isinstance(mat2, Sparse):
        return _mm_sparse(input, mat2)
    row, terms = _terms(input, mat2)
    return T["zeros"]((input._shape[0], *mat2._shape[1:]), dtype=terms._dtype).index_add(0, row, terms)


spmm = smm = dsmm = mm


def _mm_reduce(a: Any, b: Any, reduce: str) -> Any:
    if not isinstance(a, Sparse) or a.kind is not CSR or isinstance(b, Sparse):
        raise RuntimeError("sparse.mm(reduce=): expected a CSR matrix and a dense one")
    if reduce not in ("sum", "mean", "amax", "amin"):
        raise RuntimeError(f"Expected reduce to be one of sum, mean, amax, amin, but got {reduce}")
    row, terms = _terms(a, b)
    zeros = T["zeros"]((a._shape[0], b._shape[1]), dtype=terms._dtype)
    if reduce in ("sum", "mean"):
        y = zeros.index_add(0, row, terms)
        count = (a.places[0][1:] - a.places[0][:-1]).clamp(min=1).unsqueeze(1)
        return y if reduce == "sum" else y / count.to(y._dtype)
    where = row.unsqueeze(1).expand(terms._shape)
    return zeros.scatter_reduce(0, where, terms, reduce, include_self=False)


def _mm_sparse(a: Sparse, b: Sparse) -> Any:
    """The product of two sparse matrices: each value of a meets the stored row of b that its column names."""
    left, right = coalesce(to_sparse_coo(a)), coalesce(to_sparse_coo(b))
    row, col = compute(left.places[0])
    rows_b, cols_b = compute(right.places[0])
    start, stop = (np.searchsorted(rows_b, col, side) for side in ("left", "right"))
    count = stop - start
    mine = np.repeat(np.arange(col.size), count)
    theirs = np.arange(mine.size) - np.repeat(np.cumsum(count) - count, count) + np.repeat(start, count)
    v = left.stored[whole(mine)] * right.stored[whole(theirs)]
    i = whole(np.stack([row[mine], cols_b[theirs]]))
    y = coalesce(make(COO, (i,), v, (a._shape[0], b._shape[1])))
    return to_sparse_csr(y) if a.kind is CSR and b.kind is CSR else y


@on("addmm", "sspaddmm")
def addmm(input: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """Return beta * input + alpha * (mat1 @ mat2)."""
    product = mm(mat1, mat2)
    return (
        add(input * beta, product * alpha)
        if isinstance(product, Sparse) or isinstance(input, Sparse)
        else T["add"](input * beta, product, alpha=alpha)
    )


@on("sampled_addmm")
def sampled_addmm(
    input: Any, mat1: Any, mat2: Any, *, beta: Any = 1.0, alpha: Any = 1.0, out: Any = None
) -> Any:
    """Return beta * input + alpha * (mat1 @ mat2) at the places of a CSR matrix."""
    if not isinstance(input, Sparse) or input.kind is not CSR:
        raise RuntimeError(f"sampled_addmm: Expected self to have sparse csr layout, but got {input.layout}")
    if mat1._shape[1] != mat2._shape[0] or (mat1._shape[0], mat2._shape[1]) != input._shape:
        raise RuntimeError(
            f"sampled_addmm: mat1 and mat2 shapes cannot be multiplied ({list(mat1._shape)} and "
            f"{list(mat2._shape)}) at the places of {list(input._shape)}"
        )
    row, col = rows_of(input)
    products = (mat1.index_select(0, row) * mat2.t().index_select(0, col)).sum(1)
    y = like(input, input.stored * beta + products * alpha)
    if out is None:
        return y
    out.places, out.stored = y.places, y.stored
    return out


# Reductions and normalisations.


@on("sum")
def sum(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: dt.dtype | None = None) -> Any:
    """Return the sum over `dim`: dense when no indexed dimension is left."""
    if dim is None:
        return input.stored.sum(dtype=dtype)
    if keepdim:
        raise NotImplementedError("sum of a sparse tensor with keepdim=True: use to_dense()")
    t = to_sparse_coo(input)
    dims = wrap_dims(dim if isinstance(dim, int) else tuple(dim), len(t._shape))
    n = t.places[0]._shape[0]
    v = t.stored if dtype is None else t.stored.to(dtype)
    inner = tuple(d - n + 1 for d in dims if d >= n)
    v = v.sum(inner) if inner else v
    keep = [d for d in range(n) if d not in dims]
    shape = tuple(s for d, s in enumerate(t._shape) if d not in dims)
    if not keep:
        return v.sum(0)
    return coalesce(
        make(COO, (t.places[0][whole(np.array(keep))],), v, shape, t.coalesced and len(keep) == n)
    )


def _softmax(input: Any, dim: int, dtype: dt.dtype | None, log: bool) -> Any:
    """The softmax over the stored values of each line along `dim`; what is not stored counts as -infinity."""
    t = coalesce(to_sparse_coo(input))
    v = t.stored if dtype is None else t.stored.to(dtype)
    i = compute(t.places[0])
    n = i.shape[0]
    d = wrap_dims(dim, len(t._shape))[0]
    if d >= n:
        return like(t, (T["log_softmax"] if log else T["softmax"])(v, d - n + 1))
    head = [s for k, s in enumerate(t._shape[:n]) if k != d]
    line = (
        compute(flat_places(whole(np.delete(i, d, 0)), tuple(head)))
        if head
        else np.zeros(i.shape[1], np.int64)
    )
    _, group = np.unique(line, return_inverse=True)
    where, groups = whole(group.reshape(-1)), int(group.max(initial=-1)) + 1
    start = lambda x: T["full"]((groups, *v._shape[1:]), x, dtype=v._dtype)
    top = start(-math.inf).index_reduce(0, where, v.detach(), "amax")
    shifted = v - top.index_select(0, where)
    e = shifted.exp()
    total = start(0).index_add(0, where, e).index_select(0, where)
    return like(t, shifted - total.log() if log else e / total)


@on("softmax")
def softmax(input: Any, dim: int, *, dtype: dt.dtype | None = None) -> Any:
    """Return the softmax of the stored values along `dim`."""
    return _softmax(input, dim, dtype, False)


@on("log_softmax")
def log_softmax(input: Any, dim: int, *, dtype: dt.dtype | None = None) -> Any:
    """Return the logarithm of the softmax of the stored values along `dim`."""
    return _softmax(input, dim, dtype, True)


@on("zeros_like")
def zeros_like(input: Any, **options: Any) -> Any:
    """Return a sparse tensor of the same shape with nothing stored."""
    if input.kind is CSR:
        return make(
            CSR,
            (T["zeros_like"](input.places[0]), input.places[1][:0]),
            input.stored[:0].detach(),
            input._shape,
            True,
        )
    empty = whole(np.zeros((input.places[0]._shape[0], 0)))
    return make(COO, (empty,), input.stored[:0].detach(), input._shape, True)


@on("numel")
def numel(input: Any) -> int:
    """Return the number of elements, stored or not."""
    return math.prod(input._shape)


@on("is_tensor")
def is_tensor(obj: Any) -> bool:
    """Return True."""
    return True


# Parts.


@on("cat", "concat", "concatenate")
def cat(tensors: Any, dim: int = 0, **options: Any) -> Any:
    """Return sparse tensors joined along an indexed dimension."""
    parts = [to_sparse_coo(t) for t in tensors]
    n = parts[0].places[0]._shape[0]
    d = wrap_dims(dim, len(parts[0]._shape))[0]
    if d >= n:
        raise NotImplementedError("cat of sparse tensors along a dense dimension: use to_dense()")
    places, start = [], 0
    for t in parts:
        shift = np.zeros((n, 1), np.int64)
        shift[d] = start
        places.append(t.places[0] + whole(shift))
        start += t._shape[d]
    shape = [start if k == d else m for k, m in enumerate(parts[0]._shape)]
    return make(COO, (T["cat"](places, 1),), T["cat"]([t.stored for t in parts]), tuple(shape))


@on("getitem", "select")
def select(input: Any, dim: Any, index: Any = None) -> Any:
    """Return one position of an indexed dimension, as t[index] or select(t, dim, index)."""
    dim, index = (0, dim) if index is None else (dim, index)
    if not isinstance(index, int) or not isinstance(dim, int):
        raise NotImplementedError("indexing a sparse tensor is available for one integer: use to_dense()")
    t = to_sparse_coo(input)
    d, n = wrap_dims(dim, len(t._shape))[0], t.places[0]._shape[0]
    if not -t._shape[d] <= index < t._shape[d]:
        raise IndexError(
            f"select(): index {index} out of range for tensor of size {list(t._shape)} at dimension {d}"
        )
    if d >= n:
        shape = tuple(m for k, m in enumerate(t._shape) if k != d)
        return make(COO, t.places, t.stored.select(d - n + 1, index), shape, t.coalesced)
    here = whole(np.flatnonzero(compute(t.places[0])[d] == index % t._shape[d]))
    keep = [k for k in range(n) if k != d]
    shape = tuple(t._shape[k] for k in range(len(t._shape)) if k != d)
    v = t.stored.index_select(0, here)
    if not keep:
        return v.sum(0)
    return make(
        COO,
        (t.places[0].index_select(0, whole(np.array(keep))).index_select(1, here),),
        v,
        shape,
        t.coalesced,
    )


# Differentiation: the gradient of a sparse tensor belongs to its stored values.


def _part(t: Any) -> Any:
    if isinstance(t, (tuple, list)):
        return [_part(x) for x in t]
    return t.stored if isinstance(t, Sparse) else t


def _cotangent(g: Any, of: Any) -> Any:
    """Return the cotangent of a sparse result at its places."""
    if g is None or not isinstance(of, Sparse):
        return g
    if isinstance(g, Sparse):
        return g.stored
    i = indices_of(of)
    return g[tuple(i[d] for d in range(i._shape[0]))]


def _several(x: Any) -> list:
    return list(x) if isinstance(x, (tuple, list)) else [x]


@on("grad")
def grad(outputs: Any, inputs: Any, grad_outputs: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Return gradients; that of a sparse input is sparse, with the same places."""
    from fanal.core.autograd.events import grad as dense

    outs, ins = _several(outputs), _several(inputs)
    given = None if grad_outputs is None else [_cotangent(g, o) for g, o in zip(_several(grad_outputs), outs)]
    found = dense(_part(outs), _part(ins), given, *args, **kwargs)
    return tuple(like(t, g) if isinstance(t, Sparse) and g is not None else g for t, g in zip(ins, found))


@on("backward")
def backward(tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> None:
    """Add gradients to the leaves behind sparse results."""
    from fanal.core.autograd.events import backward as dense

    given = (
        None
        if grad_tensors is None
        else [_cotangent(g, o) for g, o in zip(_several(grad_tensors), _several(tensors))]
    )
    dense(_part(_several(tensors)), given, *args, **kwargs)


__all__ = ["sparse_coo_tensor", "sparse_csr_tensor"]
