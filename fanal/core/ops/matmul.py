"""Matrix products of every rank, and what is made of them: linear layers, distances, Kronecker and cross products."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.base.shape import Shape, broadcast_shapes, wrap_dim
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import counted, node_of, nodes_of, number, public, read, wide, wrap


def _same_dtype(a: Any, b: Any, text: str) -> None:
    """Raise if dtypes differ; `text` has {a} and {b} for the names of PyTorch's scalar types."""
    if a._dtype is not b._dtype:
        raise RuntimeError(text.format(a=dt.scalar_name(a._dtype), b=dt.scalar_name(b._dtype)))


def _check_mm(a: Any, b: Any, sizes: tuple | None = None) -> None:
    (m, k), (l, n) = sizes or (a._shape, b._shape)
    if k != l:
        raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied ({m}x{k} and {l}x{n})")
    if a._dtype is not b._dtype:
        x, y = dt.c_name(a._dtype), dt.c_name(b._dtype)
        raise RuntimeError(f"expected m1 and m2 to have the same dtype, but got: {x} != {y}")


def unrounded(a: Node, b: Node) -> Node:
    """Return a @ b in the dtype in which it is summed."""
    to = dt.ACCUMULATE.get(a.dtype)
    return P.dot(a, b, to) if to else P.dot(a, b)


def biased(a: Node, b: Node, bias: Any) -> Node:
    """Return a @ b + bias, rounded once; without a bias, a @ b."""
    if bias is None:
        return P.dot(a, b)
    return P.convert(P.add(unrounded(a, b), wide(read(bias))), a.dtype)


@public(out="alone")
def mm(input: Any, mat2: Any) -> Any:
    """Return the matrix product. Shapes: (M, K) and (K, N) -> (M, N). One dtype."""
    if len(input._shape) != 2:
        raise RuntimeError("self must be a matrix")
    if len(mat2._shape) != 2:
        raise RuntimeError("mat2 must be a matrix")
    _check_mm(input, mat2)
    return wrap(P.dot(read(input), read(mat2)))


@public("_int_mm", out="alone", method=False)
def int_mm(self: Any, mat2: Any) -> Any:
    """Return the matrix product of 8-bit integers, added up in int32. Shapes: (M, K) and (K, N) -> (M, N).

    Dtypes: int8 or uint8 with int8 -> int32.
    """
    for x, name in ((self, "self"), (mat2, "mat2")):
        if len(x._shape) != 2:
            raise RuntimeError(f"int_mm_out_cpu: Expected {name} to be of dimension 2 but got {len(x._shape)}")
    if self._shape[1] != mat2._shape[0]:
        raise RuntimeError("int_mm_out_cpu: self.size(1) needs to match mat2.size(0) but got "
                           f"{self._shape[1]} and {mat2._shape[0]}")
    for x, text, fits in ((self, "self dtype to be int8 or uint8", (dt.int8, dt.uint8)),
                          (mat2, "mat2 dtype to be of type int8", (dt.int8,))):
        if x._dtype not in fits:
            raise RuntimeError(f"int_mm_out_cpu: Expected {text} but got {dt.c_name(x._dtype)}")
    return wrap(P.dot(read(self), read(mat2), dt.int32))


def _check_bmm(a: Any, b: Any) -> None:
    for t, name in ((a, "batch1"), (b, "batch2")):
        if len(t._shape) != 3:
            raise RuntimeError(f"{name} must be a 3D tensor")
    if a._shape[0] != b._shape[0] or a._shape[2] != b._shape[1]:
        raise RuntimeError(
            f"Expected size for first two dimensions of batch2 tensor to be: [{a._shape[0]}, {a._shape[2]}] "
            f"but got: [{b._shape[0]}, {b._shape[1]}]."
        )
    _same_dtype(b, a, "expected scalar type {b} but found {a}")


@public(out="alone")
def bmm(input: Any, mat2: Any) -> Any:
    """Return the matrix products of two batches. Shapes: (B, M, K) and (B, K, N) -> (B, M, N)."""
    _check_bmm(input, mat2)
    return wrap(P.dot(read(input), read(mat2)))


def _mv_node(a: Node, v: Node, product: Callable[[Node, Node], Node] = P.dot) -> Node:
    return P.reshape(product(a, P.reshape(v, (v.shape[0], 1))), (a.shape[0],))


def _check_mv(a: Any, v: Any, out: Shape | None = None) -> None:
    if len(a._shape) != 2 or len(v._shape) != 1:
        raise RuntimeError(
            f"vector + matrix @ vector expected, got {1 if out is None else len(out)}, {len(a._shape)}, "
            f"{len(v._shape)}"
        )
    if a._shape[1] != v._shape[0] or out not in (None, (), (1,), (a._shape[0],)):
        rows = out[0] if out else a._shape[0]
        raise RuntimeError(
            f"size mismatch, got input ({rows}), mat ({a._shape[0]}x{a._shape[1]}), vec "
            f"({v._shape[0]})"
        )
    if a._dtype is not v._dtype:
        d, e = dt.scalar_name(a._dtype), dt.scalar_name(v._dtype)
        raise RuntimeError(f"addmv input tensors must have the same dtype, but got {e}, {d}, and {e}")


@public(out="alone")
def mv(input: Any, vec: Any) -> Any:
    """Return the matrix-vector product. Shapes: (M, K) and (K) -> (M)."""
    _check_mv(input, vec)
    return wrap(_mv_node(read(input), read(vec)))


def _dot_node(a: Node, b: Node) -> Node:
    if a.dtype.category > 1 and a.dtype.itemsize > 2:  # 16-bit products would be rounded before they are summed
        return P.sum_(P.mul(a, b), (0,))
    return P.reshape(P.dot(P.reshape(a, (1, a.size)), P.reshape(b, (b.size, 1))), ())


def _check_dot(a: Any, b: Any) -> None:
    if len(a._shape) != 1 or len(b._shape) != 1:
        raise RuntimeError(f"1D tensors expected, but got {len(a._shape)}D and {len(b._shape)}D tensors")
    _same_dtype(a, b, "dot : expected both vectors to have same dtype, but found {a} and {b}")
    if a._shape != b._shape:
        raise RuntimeError(
            f"inconsistent tensor size, expected tensor [{a._shape[0]}] and src [{b._shape[0]}] to have the "
            f"same number of elements, but got {a._shape[0]} and {b._shape[0]} elements respectively"
        )


@public(out="alone")
def dot(input: Any, tensor: Any) -> Any:
    """Return the sum of products of two vectors."""
    _check_dot(input, tensor)
    return wrap(_dot_node(read(input), read(tensor)))


@public(out="alone")
def vdot(input: Any, other: Any) -> Any:
    """Return the sum of products of two vectors, the first conjugated."""
    _check_dot(input, other)
    return wrap(_dot_node(P.conj(read(input)), read(other)))


@public(out="alone")
@public("matmul", module="linalg", method=False, out="alone")
def matmul(input: Any, other: Any) -> Any:
    """Return the matrix product. Shapes: (..., M, K) and (..., K, N) -> (..., M, N); vectors take part as in NumPy."""
    a, b = input._shape, other._shape
    if not a or not b:
        raise RuntimeError(
            f"both arguments to matmul need to be at least 1D, but they are {len(a)}D and {len(b)}D"
        )
    if len(b) == 1:
        if len(a) == 1:
            return dot(input, other)
        if len(a) == 2:
            return mv(input, other)
    elif len(a) == 2 and len(b) == 2:
        return mm(input, other)
    x, y = read(input), read(other)
    if len(a) == 1 and len(b) == 2:
        _check_mm(input, other, ((1, a[0]), b))
        return wrap(P.reshape(P.dot(P.reshape(x, (1, a[0])), y), (b[1],)))
    if len(b) <= 2:  # a stack of matrices times one: a single tall product
        rows = math.prod(a[:-1])
        if len(b) == 1:
            if a[-1] != b[0]:
                raise RuntimeError(f"size mismatch, got input ({rows}), mat ({rows}x{a[-1]}), vec ({b[0]})")
            _same_dtype(input, other, "expected scalar type {a} but found {b}")
            y = P.reshape(y, (b[0], 1))
        else:
            _check_mm(input, other, ((rows, a[-1]), b))
        return wrap(P.reshape(P.dot(P.reshape(x, (rows, a[-1])), y), (*a[:-1], *b[1:])))
    row = len(a) == 1
    if row:
        a = (1, a[0])
    batch = broadcast_shapes(a[:-2], b[:-2])
    if a[-1] != b[-2]:
        raise RuntimeError(
            "Expected size for first two dimensions of batch2 tensor to be: "
            f"[{math.prod(batch)}, {a[-1]}] but got: [{math.prod(batch)}, {b[-2]}]."
        )
    _same_dtype(input, other, "expected scalar type {a} but found {b}")
    n = max(len(a), len(b))
    x = P.reshape(x, ((1,) * (n - len(a)) + a))
    y = P.reshape(y, ((1,) * (n - len(b)) + b))
    out = P.dot(x, y)
    return wrap(P.reshape(out, (*out.shape[:-2], out.shape[-1])) if row else out)


public("__matmul__", function=False, dunder=True)(matmul)
public("__rmatmul__", function=False, dunder=True)(lambda self, other: matmul(other, self))


@public(out=True, aliases=("ger",))
def outer(input: Any, vec2: Any) -> Any:
    """Return all products of an element of `input` with one of `vec2`."""
    for t, which in ((input, "self"), (vec2, "vec2")):
        if len(t._shape) != 1:
            raise RuntimeError(f"outer: Expected 1-D argument {which}, but got {len(t._shape)}-D")
    a, b = nodes_of(input, vec2)
    a, b = P.reshape(a, (a.size, 1)), P.reshape(b, (1, b.size))
    return wrap(P.and_(a, b) if a.dtype is dt.bool_ else P.mul(a, b))


@public(out="alone")
def inner(input: Any, other: Any) -> Any:
    """Return sums of products over the last dimensions. Shapes: (..., K) and (+, K) -> (..., +)."""
    a, b = input._shape, other._shape
    if not a or not b:
        x, y = nodes_of(input, other)
        return wrap(P.mul(x, y))
    if a[-1] != b[-1]:
        raise RuntimeError(
            "inner() the last dimension must match on both input tensors but got shapes "
            f"{list(a)} and {list(b)}"
        )
    return tensordot(input, other, dims=([-1], [-1]))


def _scaled(x: Node, by: Any) -> Node:
    """by * x; an integer product takes the whole part of the factor, as PyTorch does."""
    if x.dtype.category < 2:
        by = int(by)
    return x if by == 1 else P.mul(x, counted(by, x.dtype) if x.dtype.category < 3 else number(by, x.dtype))


def _expands(shape: Shape, to: Shape) -> None:
    """Raise PyTorch's error if a value of `shape` cannot be expanded to `to`."""
    if len(shape) > len(to):
        raise RuntimeError(
            f"The number of sizes provided ({len(to)}) must be greater or equal to the "
            f"number of dimensions in the tensor ({len(shape)})"
        )
    lead = len(to) - len(shape)
    for i in reversed(range(len(shape))):
        if shape[i] not in (1, to[lead + i]):
            raise RuntimeError(
                f"The expanded size of the tensor ({to[lead + i]}) must match the existing "
                f"size ({shape[i]}) at "
                f"non-singleton dimension {lead + i}.  Target sizes: {list(to)}.  Tensor sizes: {list(shape)}"
            )


def _plus(c: Any, a: Any, b: Any, product: Callable[[Node, Node], Node], beta: Any, alpha: Any) -> Any:
    """beta * c + alpha * product(a, b); 16-bit floats are rounded once. A zero beta hides NaN in c."""
    d = b._dtype
    _same_dtype(a, b, "expected m1 and m2 to have the same dtype, but got: {a} != {b}")
    x, z = read(a), read(b)
    if alpha != 1:  # whose multiple of the gradient must not be rounded before its products
        x, z = wide(x), wide(z)
    y = _scaled(product(x, z), alpha)
    _expands(c._shape, y.shape)
    if beta != 0:
        _same_dtype(c, b, "self and mat2 must have the same dtype, but got {a} and {b}")
        y = P.add(_scaled(wide(read(c)), beta), y)
    return wrap(P.convert(y, d))


@public(inplace=True, out="same")
def addmm(input: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """Return beta * input + alpha * mat1 @ mat2."""
    for t, which in ((mat1, "mat1"), (mat2, "mat2")):
        if len(t._shape) != 2:
            raise RuntimeError(f"{which} must be a matrix, got {len(t._shape)}-D tensor")
    _check_mm(mat1, mat2)
    return _plus(input, mat1, mat2, unrounded, beta, alpha)


@public(inplace=True, out="same")
def addbmm(input: Any, batch1: Any, batch2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """Return beta * input + alpha * the sum of batch1[i] @ batch2[i]."""
    _check_bmm(batch1, batch2)
    return _plus(input, batch1, batch2, lambda a, b: P.sum_(unrounded(a, b), (0,)), beta, alpha)


@public(inplace=True, out="same")
def baddbmm(input: Any, batch1: Any, batch2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """Return beta * input + alpha * batch1 @ batch2, batch by batch."""
    _check_bmm(batch1, batch2)
    return _plus(input, batch1, batch2, unrounded, beta, alpha)


@public(inplace=True, out="same")
def addmv(input: Any, mat: Any, vec: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """Return beta * input + alpha * mat @ vec."""
    _check_mv(mat, vec, input._shape)
    return _plus(input, mat, vec, lambda a, v: _mv_node(a, v, unrounded), beta, alpha)


@public(inplace=True, out=True)
def addr(input: Any, vec1: Any, vec2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """Return beta * input + alpha * outer(vec1, vec2)."""
    for t, which in ((vec1, "vec1"), (vec2, "vec2")):
        if len(t._shape) != 1:
            raise RuntimeError(f"addr: Expected 1-D argument {which}, but got {len(t._shape)}-D")
    a, b, c = nodes_of(vec1, vec2, input)
    a, b = P.reshape(a, (a.size, 1)), P.reshape(b, (1, b.size))
    if a.dtype is dt.bool_:
        p = P.and_(a, b) if alpha else P.full((a.size, b.size), False, dt.bool_)
        return wrap(P.or_(c, p) if beta else p)
    if a.dtype.category < 2:
        for by, name in ((beta, "beta"), (alpha, "alpha")):
            if isinstance(by, float):
                raise RuntimeError(
                    f"For integral input tensors, argument {name} must not be a floating point number."
                )
    p = _scaled(P.mul(a, b), alpha)
    _expands(c.shape, p.shape)
    return wrap(p if beta == 0 else P.add(_scaled(c, beta), p))


@public(method=False)
def chain_matmul(*matrices: Any) -> Any:
    """Return the product of several matrices in the cheapest order."""
    return multi_dot(
        matrices[0] if len(matrices) == 1 and isinstance(matrices[0], (list, tuple)) else matrices
    )


@public(module="linalg", method=False, out=True)
def multi_dot(tensors: Any) -> Any:
    """Return the product of several matrices in the cheapest order; the first and the last may be vectors.

    Source: Cormen et al., "Introduction to Algorithms", matrix-chain multiplication.
    """
    ts = list(tensors)
    if len(ts) < 2:
        raise RuntimeError("multi_dot(): expected at least 2 tensors but got " + str(len(ts)))
    sizes = [t._shape for t in ts]
    if len(sizes[0]) not in (1, 2) or len(sizes[-1]) not in (1, 2):
        raise RuntimeError("multi_dot(): the first and last tensors must be 1D or 2D")
    if any(len(s) != 2 for s in sizes[1:-1]):
        raise RuntimeError("multi_dot(): the tensors between the first and the last must be 2D")
    sizes[0] = (1, *sizes[0]) if len(sizes[0]) == 1 else sizes[0]
    sizes[-1] = (*sizes[-1], 1) if len(sizes[-1]) == 1 else sizes[-1]
    for i, (p, q) in enumerate(pairwise(sizes)):
        if p[1] != q[0]:
            raise RuntimeError(
                f"multi_dot(): tensors {i} and {i + 1} with shapes {list(p)} and {list(q)} "
                "cannot be multiplied"
            )
        _same_dtype(
            ts[i], ts[i + 1], "multi_dot(): all tensors must have be the same dtype but got {a} and {b}"
        )
    nodes = [P.reshape(read(t), s) for t, s in zip(ts, sizes)]
    d = [sizes[0][0], *(s[1] for s in sizes)]
    n = len(nodes)
    cost = [[0] * n for _ in range(n)]
    cut = [[0] * n for _ in range(n)]
    for length in range(1, n):
        for i in range(n - length):
            j = i + length
            cost[i][j], cut[i][j] = min(
                (cost[i][k] + cost[k + 1][j] + d[i] * d[k + 1] * d[j + 1], k) for k in range(i, j)
            )

    def product(i: int, j: int) -> Node:
        return nodes[i] if i == j else P.dot(product(i, cut[i][j]), product(cut[i][j] + 1, j))

    shape = (*ts[0]._shape[:-1], *ts[-1]._shape[1:])
    return wrap(P.reshape(product(0, n - 1), shape))


@public(method=False, out="alone")
def tensordot(a: Any, b: Any, dims: Any = 2) -> Any:
    """Return sums of products over pairs of dimensions: the last of `a` with the first of `b`, or those listed."""
    if hasattr(dims, "_shape"):
        dims = dims.tolist()
    if isinstance(dims, int):
        if dims < 0:
            raise RuntimeError(f"tensordot expects dims >= 0, but got dims={dims}")
        if dims > min(len(a._shape), len(b._shape)):
            raise RuntimeError(f"tensordot expects dims < ndim_a or ndim_b, but got dims={dims}")
        da, db = list(range(len(a._shape) - dims, len(a._shape))), list(range(dims))
    else:
        da, db = ([int(x)] if isinstance(x, int) else [int(i) for i in x] for x in dims)
    if len(da) != len(db):
        raise RuntimeError("both dimension lists should have same length")
    _same_dtype(a, b, "both inputs should have same dtype")
    da = [wrap_dim(i, len(a._shape)) for i in da]
    db = [wrap_dim(i, len(b._shape)) for i in db]
    x, y = read(a), read(b)
    for i, j in zip(da, db):
        p, q = a._shape[i], b._shape[j]
        if p == 1 and q != 1:
            y = P.reshape(P.sum_(y, (j,)), (*y.shape[:j], 1, *y.shape[j + 1 :]))
        elif q == 1 and p != 1:
            x = P.reshape(P.sum_(x, (i,)), (*x.shape[:i], 1, *x.shape[i + 1 :]))
        elif p != q:
            raise RuntimeError(
                f"contracted dimensions need to match, but first has size {p} in dim {i} and "
                f"second has size {q} in dim {j}"
            )
    fa = [i for i in range(len(a._shape)) if i not in da]
    fb = [i for i in range(len(b._shape)) if i not in db]
    m, n, k = (
        math.prod(s) for s in ([a._shape[i] for i in fa], [b._shape[i] for i in fb], [x.shape[i] for i in da])
    )
    x = P.reshape(P.permute(x, (*fa, *da)), (m, k))
    y = P.reshape(P.permute(y, (*db, *fb)), (k, n))
    return wrap(P.reshape(P.dot(x, y), (*(a._shape[i] for i in fa), *(b._shape[i] for i in fb))))


@public(out=True)
def kron(input: Any, other: Any) -> Any:
    """Return the Kronecker product."""
    a, b = nodes_of(input, other)
    n = max(len(a.shape), len(b.shape))
    sa, sb = (1,) * (n - len(a.shape)) + a.shape, (1,) * (n - len(b.shape)) + b.shape
    x = P.reshape(a, tuple(v for s in sa for v in (s, 1)))
    y = P.reshape(b, tuple(v for s in sb for v in (1, s)))
    return wrap(
        P.reshape(P.and_(x, y) if a.dtype is dt.bool_ else P.mul(x, y), tuple(p * q for p, q in zip(sa, sb)))
    )


def _cross(a: Any, b: Any, dim: int) -> Any:
    x, y = nodes_of(a, b)
    shape = broadcast_shapes(x.shape, y.shape)
    d = wrap_dim(dim, len(shape))
    xs, ys = ([P.span(P.broadcast(n, shape), d, i, i + 1) for i in range(3)] for n in (x, y))
    parts = [P.sub(P.mul(xs[i - 2], ys[i - 1]), P.mul(xs[i - 1], ys[i - 2])) for i in range(3)]
    return wrap(P.concat(parts, d))


@public(out="alone")
def cross(input: Any, other: Any, dim: int | None = None) -> Any:
    """Return the cross product along a dimension of size 3 (the first such one by default)."""
    if dim is None:
        found = [i for i, n in enumerate(input._shape) if n == 3]
        if not found:
            raise RuntimeError("no dimension of size 3 in input")
        dim = found[0]
    return linalg_cross(input, other, dim=dim)


@public("cross", module="linalg", method=False, out=True)
def linalg_cross(input: Any, other: Any, *, dim: int = -1) -> Any:
    """Return the cross product along a dimension of size 3."""
    if len(input._shape) != len(other._shape):
        raise RuntimeError("linalg.cross: inputs must have the same number of dimensions.")
    d = wrap_dim(dim, len(input._shape))
    if input._shape[d] != 3 or other._shape[d] != 3:
        raise RuntimeError(
            f"linalg.cross: inputs dimension {dim} must have length 3. Got {input._shape[d]} and "
            f"{other._shape[d]}"
        )
    return _cross(input, other, d)


@public(module="linalg", method=False, out=True)
def vecdot(x: Any, y: Any, *, dim: int = -1) -> Any:
    """Return sums of products along a dimension, the first operand conjugated."""
    a, b = nodes_of(x, y)
    p = P.mul(P.conj(a), b)
    return wrap(P.sum_(p, (wrap_dim(dim, max(1, len(p.shape))),) if p.shape else ()))


@public(module="nn.functional", method=False, out="alone")
def linear(input: Any, weight: Any, bias: Any = None) -> Any:
    """Return input @ weight.T + bias. Shapes: (*, in), (out, in) or (in), (out) or () -> (*, out)."""
    a, w = input._shape, weight._shape
    if len(w) == 1:
        r = matmul(input, weight)
        if bias is None:
            return r
        return wrap(P.add(read(r), read(bias)))
    if len(w) != 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {len(w)}D")
    if not a:
        raise RuntimeError(f"both arguments to linear need to be at least 1D, but they are 0D and {len(w)}D")
    rows = math.prod(a[:-1])
    if a[-1] != w[1]:
        raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied ({rows}x{a[-1]} and {w[1]}x{w[0]})")
    if bias is None:
        _check_mm(input, weight, ((rows, a[-1]), (w[1], w[0])))
    else:
        _same_dtype(bias, weight, "self and mat2 must have the same dtype, but got {a} and {b}")
    _same_dtype(input, weight, "mat1 and mat2 must have the same dtype, but got {a} and {b}")
    if bias is not None:
        _expands(bias._shape, (rows, w[0]))
    y = biased(P.reshape(read(input), (rows, a[-1])), P.permute(read(weight), (1, 0)), bias)
    return wrap(P.reshape(y, (*a[:-1], w[0])))


@public(method=False)
@public(module="nn.functional", method=False)
def bilinear(input1: Any, input2: Any, weight: Any, bias: Any = None) -> Any:
    """Return x1.T @ weight[k] @ x2 for each output k, plus bias. Shapes: (*, I), (*, J), (K, I, J) -> (*, K)."""
    a, b, w = (wide(read(t)) for t in (input1, input2, weight))
    if a.shape[:-1] != b.shape[:-1]:
        raise RuntimeError("bilinear(): input batch dimensions do not match")
    k, i, j = w.shape
    if a.shape[-1] != i or b.shape[-1] != j:
        raise RuntimeError(
            f"bilinear(): input1 size does not match weight size: got {a.shape[-1]} but expected {i}"
            if a.shape[-1] != i
            else f"bilinear(): input2 size does not match weight size: got {b.shape[-1]} but expected {j}"
        )
    n = math.prod(a.shape[:-1])
    half = P.dot(P.reshape(a, (n, i)), P.reshape(P.permute(w, (1, 0, 2)), (i, k * j)))
    y = P.sum_(P.mul(P.reshape(half, (n, k, j)), P.reshape(b, (n, 1, j))), (2,))
    if bias is not None:
        y = P.add(y, node_of(bias, y.dtype))
    y = P.convert(y, input1._dtype)
    return wrap(P.reshape(y, (*a.shape[:-1], k)))
