"""Functions of matrices: determinants, powers, exponential, pseudo-inverse, rank, trace."""

from __future__ import annotations

from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.engine.handle import Handle
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import node_of, public, read, wrap
from fanal.core.ops.limits import finfo
from fanal.core.ops.linalg_check import (
    need_floating,
    need_kernel,
    need_matrix,
    need_square,
    svd_failed,
    whole_part,
)
from fanal.core.ops.linalg_solve import inverse_of, not_invertible
from fanal.core.ops.named import named
from fanal.core.ops.pointwise import with_gradient
from fanal.core.ops.reduce import summed
from fanal.core.ops.shape import diagonal


@public(module="linalg", method=False, out=True)
def det(A: Any) -> Any:
    """Return determinants. Shapes: (*, n, n) -> (*). The gradient is the adjugate: right for singular matrices too."""
    need_square(A, "linalg.det")
    need_floating(A, "linalg.det")
    need_kernel(A, "lu_cpu")
    return wrap(P.part(P.lapack((read(A),), "det"), 0))


@public("det")
def torch_det(input: Any) -> Any:
    """Return determinants, as torch.linalg.det."""
    return det(input)


def _slogdet(A: Any, name: str) -> tuple[Node, Node]:
    need_square(A, name)
    need_floating(A, name, low=False)
    y = P.lapack((read(A),), "slogdet")
    return P.part(y, 0), P.real(P.part(y, 1))


@public(module="linalg", method=False, out=True)
def slogdet(A: Any) -> Any:
    """Return the sign (complex: the phase) of determinants and the logarithm of their absolute value."""
    sign, value = _slogdet(A, "linalg.slogdet")
    return named("linalg_slogdet")(wrap(sign), wrap(value))


@public("slogdet", out=True)
def torch_slogdet(input: Any) -> Any:
    """Return sign and logarithm of determinants, as torch.linalg.slogdet."""
    sign, value = _slogdet(input, "linalg.slogdet")
    return named("slogdet")(wrap(sign), wrap(value))


@public()
def logdet(input: Any) -> Any:
    """Return logarithms of determinants; NaN for a negative one, complex for complex matrices."""
    sign, value = _slogdet(input, "logdet")
    if sign.dtype.is_complex:
        return wrap(P.add(P.convert(value, sign.dtype), P.log(sign)))
    negative = P.eq(P.detach(sign), P.num(sign, -1))
    return wrap(P.where(negative, P.num(value, float("nan")), value))


@public(module="linalg", method=False)
@public("matrix_exp")
def matrix_exp(input: Any) -> Any:
    """Return the matrix exponential. Shapes: (*, n, n). Source: Higham (2005), scaling and squaring."""
    need_square(input, "linalg.matrix_exp")
    need_floating(input, "linalg.matrix_exp")
    return wrap(P.part(P.lapack((read(input),), "expm"), 0))


@public(module="linalg", method=False, out=True, check=not_invertible)
@public("matrix_power", out=True, check=not_invertible)
def matrix_power(input: Any, n: int) -> Any:
    """Return the n-th power of square matrices, of the inverse for negative n. Raises LinAlgError if there
    is none."""
    need_square(input, "linalg.matrix_power")
    a = read(input)
    info = P.full((), 0, dt.int32)
    if n < 0:
        inverse, failed = inverse_of(input)
        a, info, n = read(inverse), read(failed), -n
    size = a.shape[-1]
    eye = P.eye(size, size)
    power: Node | None = None
    while n:  # by repeated squaring
        if n & 1:
            power = a if power is None else P.dot(power, a)
        n >>= 1
        a = P.dot(a, a) if n else a
    return wrap(P.broadcast(P.convert(eye, a.dtype), a.shape) if power is None else P.alias(power)), wrap(
        info
    )


def threshold(s: Node, atol: Any, rtol: Any, size: int) -> Node:
    """The value up to which singular values count as zero: max(atol, rtol * the largest), one for each
    matrix.

    rtol is eps * `size` unless atol is given and positive.
    """
    top = P.max_of(s, (len(s.shape) - 1,)) if s.shape[-1] else P.full(s.shape[:-1], 0, s.dtype)
    eps = finfo(s.dtype).eps * size
    if rtol is None:
        if isinstance(atol, Handle):
            a = node_of(atol, s.dtype)
            rel = P.where(P.lt(P.num(a, 0), a), P.num(a, 0), P.num(a, eps))
        else:
            rel = P.num(s, 0 if atol is not None and atol > 0 else eps)
    else:
        rel = node_of(rtol, s.dtype) if isinstance(rtol, Handle) else P.num(s, float(rtol))
    least = node_of(atol, s.dtype) if isinstance(atol, Handle) else P.num(s, float(atol or 0))
    limit = P.max_(P.mul(rel, top), least)
    return P.reshape(limit, (*limit.shape, 1))


def pinv_rule(g: Node, p: Node, a: Node) -> Node:
    """The gradient of the pseudo-inverse p of a.

    Source: Golub & Pereyra, "The differentiation of pseudo-inverses and nonlinear least squares problems"
    (1973).
    """
    ph, gh = P.adjoint(p), P.adjoint(g)
    outside = P.dot(P.sub(gh, P.dot(a, P.dot(p, gh))), P.dot(p, ph))  # (1 - a p) g^H p p^H
    inside = P.dot(P.dot(ph, p), P.sub(gh, P.dot(P.dot(gh, p), a)))  # p^H p g^H (1 - p a)
    return P.add(P.sub(outside, P.dot(P.dot(ph, g), ph)), inside)


def pinv_node(a: Node, atol: Any, rtol: Any, hermitian: bool) -> Node:
    """The pseudo-inverse of matrices, by their singular values."""
    d = P.detach(a)
    if hermitian:
        y = P.lapack((d,), "eigh")
        s, u = P.real(P.part(y, 0)), P.part(y, 1)
        size, v = P.abs_(s), u
    else:
        y = P.lapack((d,), "svd", False)
        s, u, v = P.real(P.part(y, 1)), P.part(y, 0), P.adjoint(P.part(y, 2))
        size = s
    some = P.lt(threshold(size, atol, rtol, max(a.shape[-2:])), size)
    inverse = P.where(some, P.div(P.num(s, 1), P.where(some, s, P.num(s, 1))), P.num(s, 0))
    columns = P.reshape(P.convert(inverse, a.dtype), (*inverse.shape[:-1], 1, inverse.shape[-1]))
    wide = P.mul(v, columns)
    u = P.broadcast(u, (*wide.shape[:-2], *u.shape[-2:]))
    return with_gradient(P.dot(wide, P.adjoint(u)), lambda g, p, a: [pinv_rule(g, p, a)], a)


@public(module="linalg", method=False, out=True)
def pinv(input: Any, rcond: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None) -> Any:
    """Return pseudo-inverses. Shapes: (*, m, n) -> (*, n, m).

    Singular values up to max(atol, rtol * the largest) count as zero; rtol is eps * max(m, n) by default.
    hermitian: the matrices are, and their lower triangles are read. Source: Golub & Van Loan, "Matrix
    Computations", 5.5.2.
    """
    if len(input._shape) < 2 or input._dtype not in (dt.float32, dt.float64, dt.complex64, dt.complex128):
        raise RuntimeError(
            f"linalg.pinv({dt.scalar_name(input._dtype)}{{{list(input._shape)}}}): expected a tensor with 2 or more "
            f"dimensions of float, double, cfloat or cdouble types"
        )
    if hermitian:
        need_square(input, "linalg.pinv")
    return wrap(pinv_node(read(input), atol, rcond if rtol is None else rtol, hermitian))


@public()
def pinverse(input: Any, rcond: float = 1e-15) -> Any:
    """Return pseudo-inverses, as torch.linalg.pinv."""
    return pinv(input, rcond)


@public(module="linalg", method=False, out=True, check=svd_failed)
def matrix_rank(
    input: Any, tol: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None
) -> Any:
    """Return how many singular values exceed max(atol, rtol * the largest). Shapes: (*, m, n) -> (*),
    int64."""
    need_matrix(input, "torch.linalg.matrix_rank", "input")
    if input._dtype not in (dt.float32, dt.float64, dt.complex64, dt.complex128):
        raise RuntimeError("This function doesn't handle types other than float and double")
    for t, which in ((atol, "atol"), (rtol, "rtol"), (tol, "tol")):
        if isinstance(t, Handle) and t._dtype.is_complex:
            raise RuntimeError(
                f"torch.linalg.matrix_rank: {which} tensor of complex type is not supported. Got "
                f"{dt.scalar_name(t._dtype)}"
            )
    if hermitian:
        need_square(input, "linalg.matrix_rank")
    if tol is not None:
        atol, rtol = tol, 0.0
    y = P.lapack((P.detach(read(input)),), "eigvalsh" if hermitian else "svdvals")
    s, info = P.abs_(P.part(y, 0)), wrap(whole_part(y, 1))
    if not s.shape[-1]:
        return wrap(P.full(s.shape[:-1], 0, dt.int64)), info
    above = P.lt(threshold(s, atol, rtol, max(input._shape[-2:])), s)
    return wrap(P.sum_(P.convert(above, dt.int64), (len(above.shape) - 1,))), info


@public()
def trace(input: Any) -> Any:
    """Return the sum of the diagonal of a matrix. Integers are summed in int64."""
    if len(input._shape) != 2:
        raise RuntimeError("trace: expected a matrix")
    x = node_of(input, summed(input._dtype))
    (m, n), step = x.shape, x.shape[1] + 1
    flat = P.reshape(x, (m * n,))
    return wrap(P.sum_(P.slice_(flat, (0,), (min(m, n) * step - n,), (step,)) if m * n else flat, (0,)))


@public(module="linalg", method=False)
def vander(x: Any, *, N: int | None = None) -> Any:
    """Return the powers 0 ... N - 1 of each element, in rows. Shapes: (*, n) -> (*, n, N); N = n by
    default."""
    if x._dtype in (dt.float16, dt.bfloat16, dt.bool_):
        raise RuntimeError(
            f"linalg.vander supports floating point, complex, and integer tensors, but got "
            f"{dt.scalar_name(x._dtype)}"
        )
    a = node_of(x, dt.int64) if x._dtype.category < 2 else read(x)
    a = a if a.shape else P.reshape(a, (1,))
    count = a.shape[-1] if N is None else N
    if count <= 1:
        raise RuntimeError("N must be greater than 1.")
    one = P.full((*a.shape, 1), 1, a.dtype)
    rest = P.broadcast(P.reshape(a, (*a.shape, 1)), (*a.shape, count - 1))
    return wrap(P.concat((one, P.scan(rest, "mul", len(a.shape))), len(a.shape)))


@public("diagonal", module="linalg", method=False)
def linalg_diagonal(A: Any, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """Return a view of the diagonals of matrices."""
    return diagonal(A, offset, dim1, dim2)
