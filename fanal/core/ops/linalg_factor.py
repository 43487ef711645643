"""Factorisations: Cholesky, QR and its reflectors, LU, LDL."""

from __future__ import annotations

from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import public, read, wrap
from fanal.core.ops.linalg_check import (
    failure,
    need_floating,
    need_kernel,
    need_matrix,
    need_square,
    together,
    whole_part,
)
from fanal.core.ops.named import named
from fanal.core.ops.pointwise import with_gradient

_MINOR = (
    "The factorization could not be completed because the input is not positive-definite (the leading "
    "minor of order {} is not positive-definite)."
)


def _cholesky(a: Any, upper: bool) -> tuple[Any, Any]:
    need_kernel(a, "cholesky_cpu")
    y = P.lapack((P.adjoint(read(a)) if upper else read(a),), "cholesky")
    factor = P.part(y, 0)
    return wrap(P.adjoint(factor) if upper else factor), wrap(whole_part(y, 1))


@public(module="linalg", method=False, out=True, check=failure("linalg.cholesky", _MINOR))
def cholesky(input: Any, *, upper: bool = False) -> Any:
    """Return the Cholesky factor L of positive-definite matrices A = L L^H, or L^H if `upper`.

    Shapes: (*, n, n). Dtypes: float32, float64, complex64, complex128. Raises LinAlgError, naming the leading
    minor that is not positive-definite. Source: Golub & Van Loan, "Matrix Computations", 4.2, through
    LAPACK's potrf.
    """
    need_square(input, "linalg.cholesky")
    need_floating(input, "linalg.cholesky")
    return _cholesky(input, upper)


@public("cholesky", out=True, check=failure("cholesky", _MINOR))
def torch_cholesky(input: Any, upper: bool = False) -> Any:
    """Return the Cholesky factor, as torch.linalg.cholesky."""
    need_square(input, "cholesky")
    return _cholesky(input, upper)


@public(module="linalg", method=False, out=True)
def cholesky_ex(input: Any, *, upper: bool = False, check_errors: bool = False) -> Any:
    """Return the Cholesky factor and info: 0, or the order of the minor that is not positive-definite.

    Differs from torch: where info is not 0 the factor is NaN as a whole.
    """
    need_square(input, "linalg.cholesky")
    need_floating(input, "linalg.cholesky")
    factor, info = _cholesky(input, upper)
    if check_errors:
        failure("linalg.cholesky_ex", _MINOR)(info)
    return named("linalg_cholesky_ex")(factor, info)


# QR.


def _qr(A: Any, mode: str, name: str) -> Any:
    need_matrix(A, "linalg.qr")
    need_floating(A, "linalg.qr")
    need_kernel(A, "geqrf_cpu")
    if mode not in ("reduced", "complete", "r"):
        raise RuntimeError(
            f"qr received unrecognized mode '{mode}' but expected one of 'reduced' "
            f"(default), 'r', or 'complete'"
        )
    a = read(A)
    made = named(name)
    if mode == "r":
        y = P.lapack((P.detach(a),), "qr", False)
        r = _not_differentiable(P.part(y, 1), a)
        return made(wrap(P.full((0,), 0, a.dtype)), wrap(r))
    y = P.lapack((a,), "qr", mode == "complete")
    return made(wrap(P.part(y, 0)), wrap(P.part(y, 1)))


def _not_differentiable(r: Node, a: Node) -> Node:
    def rule(g: Node, y: Node, a: Node) -> list[Node]:
        raise RuntimeError(
            "The derivative of linalg.qr depends on Q, which is not computed when mode='r'. Please use "
            "linalg.qr(A, mode='reduced') if you are going to require gradients through it."
        )

    return with_gradient(r, rule, a)


@public(module="linalg", method=False, out=True)
def qr(A: Any, mode: str = "reduced") -> Any:
    """Return Q with orthonormal columns and upper triangular R, A = Q R.

    Shapes: (*, m, n) -> (*, m, k), (*, k, n) with k = min(m, n); mode "complete": k = m; "r": Q is empty. The
    gradient of mode "complete" needs m <= n. Source: Golub & Van Loan, 5.2, through LAPACK's geqrf.
    """
    return _qr(A, mode, "linalg_qr")


@public("qr", out=True)
def torch_qr(input: Any, some: bool = True) -> Any:
    """Return Q and R, as torch.linalg.qr in mode "reduced", or "complete" unless `some`."""
    return _qr(input, "reduced" if some else "complete", "qr")


@public(out=True)
def geqrf(input: Any) -> Any:
    """Return R above Householder vectors, and their factors tau, as LAPACK's geqrf. No gradient."""
    if len(input._shape) < 2:
        raise RuntimeError("torch.geqrf: input must have at least 2 dimensions.")
    need_kernel(input, "geqrf_cpu")
    y = P.lapack((P.detach(read(input)),), "reflectors")
    return named("geqrf")(wrap(P.part(y, 0)), wrap(P.part(y, 1)))


def _check_reflectors(a: Any, tau: Any, name: str, square: bool) -> None:
    if len(a._shape) < 2:
        raise RuntimeError(f"{name}: input must have at least 2 dimensions.")
    if square and a._shape[-2] < a._shape[-1]:
        raise RuntimeError(f"{name}: input.shape[-2] must be greater than or equal to input.shape[-1]")
    if square and a._shape[-1] < tau._shape[-1]:
        raise RuntimeError(f"{name}: input.shape[-1] must be greater than or equal to tau.shape[-1]")
    if len(a._shape) - len(tau._shape) != 1:
        raise RuntimeError(
            f"{name}: Expected tau to have one dimension less than input, but got tau.ndim equal to "
            f"{len(tau._shape)} and input.ndim is equal to {len(a._shape)}"
        )
    if a._shape[:-2] != tau._shape[:-1]:
        raise RuntimeError(
            f"{name}: Expected batch dimensions of tau to be equal to input.shape[:-2], but got "
            f"{list(tau._shape[:-1])}"
        )
    if a._dtype is not tau._dtype:
        raise RuntimeError(
            f"{name}: tau dtype {dt.scalar_name(tau._dtype)} does not match input dtype "
            f"{dt.scalar_name(a._dtype)}"
        )


def _block_reflector(a: Node, tau: Node) -> tuple[Node, Node]:
    """V (*, m, k) and T (*, k, k) with H_1 ... H_k = 1 - V T V^H, for the reflectors H_i = 1 - tau_i v_i
    v_i^H.

    T = (1 + D S)^-1 D with D = diag(tau), S the strictly upper triangle of V^H V. Source: Joffrain, Low,
    Quintana-Orti, van de Geijn & Van Zee, "Accumulating Householder transformations, revisited" (2006), for
    tau that may be zero.
    """
    m, k = a.shape[-2], tau.shape[-1]
    v = P.triangle(P.corner(a, (*a.shape[:-2], m, k)), -1)
    v = P.where(P.eye(m, k), P.num(v, 1), v)
    rows = P.reshape(tau, (*tau.shape, 1))
    s = P.mul(rows, P.triangle(P.dot(P.adjoint(v), v), 1, False))
    d = P.where(P.eye(k, k), P.broadcast(rows, s.shape), P.num(s, 0))
    return v, P.part(P.lapack((s, d), "triangular", True, True), 0)


@public(module="linalg", method=False, out=True)
def householder_product(input: Any, tau: Any) -> Any:
    """Return the first n columns of the product of Householder reflectors, as geqrf gives them.

    Shapes: (*, m, n), (*, k) -> (*, m, n), k <= n <= m.
    """
    _check_reflectors(input, tau, "torch.linalg.householder_product", True)
    need_kernel(input, "orgqr_cpu")
    a = read(input)
    v, t = _block_reflector(a, read(tau))
    m, n = a.shape[-2:]
    left = P.dot(v, P.dot(t, P.adjoint(P.span(v, len(v.shape) - 2, 0, n))))
    return wrap(P.sub(P.convert(P.eye(m, n), a.dtype), left))


@public(out=True)
def orgqr(input: Any, input2: Any) -> Any:
    """Return the first columns of the product of reflectors, as torch.linalg.householder_product."""
    return householder_product(input, input2)


@public(out=True)
def ormqr(input: Any, input2: Any, input3: Any, left: bool = True, transpose: bool = False) -> Any:
    """Return Q C, or C Q unless `left`, or with Q^H if `transpose`: Q the product of geqrf's reflectors.

    input, input2: what geqrf returns, the reflectors and their factors tau. input3: C.
    """
    tau, other = input2, input3
    for t, which in ((input, "input"), (other, "other")):
        if len(t._shape) < 2:
            raise RuntimeError(f"torch.ormqr: {which} must have at least 2 dimensions.")
    d, what = (-2, "-2") if left else (-1, "-1")
    if other._shape[d] < tau._shape[-1]:
        raise RuntimeError(f"torch.ormqr: other.shape[{what}] must be greater than or equal to tau.shape[-1]")
    if other._shape[d] != input._shape[-2]:
        raise RuntimeError(f"torch.ormqr: other.shape[{what}] must be equal to input.shape[-2]")
    if tau._shape[-1] > input._shape[-1]:
        raise RuntimeError("torch.ormqr: tau.shape[-1] must be less than or equal to input.shape[-1]")
    _check_reflectors(input, tau, "torch.ormqr", False)
    if len(input._shape) != len(other._shape):
        raise RuntimeError(
            f"torch.ormqr: Expected other to have the same number of dimensions as input, but got "
            f"other.ndim equal to {len(other._shape)} and input.ndim is equal to {len(input._shape)}"
        )
    if input._shape[:-2] != other._shape[:-2]:
        raise RuntimeError(
            f"torch.ormqr: Expected batch dimensions of other to be equal to input.shape[:-2], but got "
            f"{list(other._shape[:-2])}"
        )
    if input._dtype is not other._dtype:
        raise RuntimeError(
            f"torch.ormqr: Expected input and other to have the same dtype, but input has dtype "
            f"{dt.scalar_name(input._dtype)} and other has dtype {dt.scalar_name(other._dtype)}"
        )
    need_kernel(input, "ormqr_cpu")
    v, t = _block_reflector(read(input), read(tau))
    if transpose:
        t = P.adjoint(t)
    c, vh = read(other), P.adjoint(v)
    if left:
        return wrap(P.sub(c, P.dot(v, P.dot(t, P.dot(vh, c)))))
    return wrap(P.sub(c, P.dot(P.dot(P.dot(c, v), t), vh)))


def _with_info(y: Node, made: Any, check: Any) -> Any:
    """Return matrix, pivots and info of a factorisation; `check` looks at info first, if given."""
    info = wrap(whole_part(y, 2))
    if check is not None:
        check(info)
    return made(wrap(P.part(y, 0)), wrap(whole_part(y, 1)), info)


# LU.

_ZERO_PIVOT = (
    "U[{0},{0}] is zero and using it on lu_solve would result in a division by zero. If you still want to "
    "perform the factorization, consider calling linalg.lu(A, pivot) or linalg.lu_factor_ex(A, pivot)"
)
_zero_pivot = failure("torch.linalg.lu_factor", _ZERO_PIVOT)


def _lu(A: Any, pivot: bool, name: str = "torch.lu_factor") -> Node:
    if len(A._shape) < 2:
        raise RuntimeError(
            f"{name}: Expected tensor with 2 or more dimensions. Got size: {list(A._shape)} instead"
        )
    need_kernel(A, "lu_cpu")
    if not pivot:
        raise RuntimeError("linalg.lu_factor: LU without pivoting is not implemented on the CPU")
    return P.lapack((read(A),), "lu")


@public(module="linalg", method=False, out=True, check=_zero_pivot)
def lu_factor(A: Any, *, pivot: bool = True) -> Any:
    """Return L and U in one matrix, and the pivots (int32, counted from 1), of A = P L U.

    Shapes: (*, m, n) -> (*, m, n), (*, min(m, n)). Raises RuntimeError for a zero pivot.
    """
    y = _lu(A, pivot)
    made = named("linalg_lu_factor")
    return made(wrap(P.part(y, 0)), wrap(whole_part(y, 1))), wrap(whole_part(y, 2))


@public(module="linalg", method=False, out=True)
def lu_factor_ex(A: Any, *, pivot: bool = True, check_errors: bool = False) -> Any:
    """Return LU, pivots and info: 0, or the place of the first zero pivot."""
    y = _lu(A, pivot)
    return _with_info(y, named("linalg_lu_factor_ex"), _zero_pivot if check_errors else None)


@public("lu", out=True)
def torch_lu(A: Any, pivot: bool = True, get_infos: bool = False) -> tuple:
    """Return LU and pivots, and info if `get_infos`; else a zero pivot raises RuntimeError."""
    found = lu_factor_ex(A, pivot=pivot, check_errors=not get_infos)
    return named("_lu_with_info")(*found) if get_infos else tuple(found[:2])


def _triangles(f: Node) -> tuple[Node, Node]:
    """L and U of an LU factorisation in one matrix."""
    (m, n), k = f.shape[-2:], min(f.shape[-2:])
    low = P.triangle(P.corner(f, (*f.shape[:-2], m, k)), -1)
    up = P.triangle(P.corner(f, (*f.shape[:-2], k, n)), 0, False)
    return P.where(P.eye(m, k), P.num(low, 1), low), up


def _permutation(pivots: Node, m: int, d: dt.dtype) -> Node:
    order = P.row_order(pivots, m, False)
    rows = P.iota((m, 1), 0, dt.int64)
    return P.convert(P.eq(P.reshape(order, (*order.shape[:-1], 1, m)), rows), d)


@public(module="linalg", method=False, out=True)
def lu(A: Any, *, pivot: bool = True) -> Any:
    """Return P, L and U with A = P L U: a permutation, unit lower triangular and upper triangular matrices.

    Shapes: (*, m, n) -> (*, m, m), (*, m, k), (*, k, n), k = min(m, n).
    """
    y = _lu(A, pivot, "linalg.lu")
    low, up = _triangles(P.part(y, 0))
    order = _permutation(P.detach(P.real(P.part(y, 1))), A._shape[-2], A._dtype)
    return named("linalg_lu")(wrap(order), wrap(low), wrap(up))


@public(method=False, out=True)
def lu_unpack(LU_data: Any, LU_pivots: Any, unpack_data: bool = True, unpack_pivots: bool = True) -> Any:
    """Return P, L and U of what lu_factor returns; what is not asked for is empty."""
    if unpack_pivots and LU_pivots._dtype is not dt.int32:
        raise RuntimeError(
            "torch.lu_unpack: LU_pivots is expected to be a contiguous tensor of torch.int32 dtype.\nNote: "
            "this function is intended to be used with the output produced by torch.linalg.lu_factor"
        )
    f = read(LU_data)
    order = low = up = P.full((0,), 0, f.dtype)
    if unpack_pivots:
        order = _permutation(read(LU_pivots), f.shape[-2], f.dtype)
    if unpack_data:
        low, up = _triangles(f)
    return named("lu_unpack")(wrap(order), wrap(low), wrap(up))


# LDL.

_singular_ldl = failure("torch.linalg.ldl_factor", "The diagonal element {} of D is zero.")


def _ldl(A: Any, hermitian: bool) -> Node:
    name = "torch.linalg.ldl_factor_ex"
    need_square(A, name)
    need_floating(A, name)
    need_kernel(A, "ldl_factor_kernel_cpu")
    return P.lapack((P.detach(read(A)),), "ldl", bool(hermitian))


@public(module="linalg", method=False, out=True, check=_singular_ldl)
def ldl_factor(input: Any, *, hermitian: bool = False) -> Any:
    """Return the factors of symmetric (or Hermitian) matrices P A P^T = L D L^T in one matrix, and pivots.

    Shapes: (*, n, n) -> (*, n, n), (*, n). The lower triangle is read. Raises LinAlgError for a zero in D. No
    gradient. Source: Bunch & Kaufman (1977); the layout is LAPACK's sytrf.
    """
    y = _ldl(input, hermitian)
    made = named("linalg_ldl_factor")
    return made(wrap(P.part(y, 0)), wrap(whole_part(y, 1))), wrap(whole_part(y, 2))


@public(module="linalg", method=False, out=True)
def ldl_factor_ex(input: Any, *, hermitian: bool = False, check_errors: bool = False) -> Any:
    """Return LD, pivots and info: 0, or the place of the first zero in D."""
    y = _ldl(input, hermitian)
    return _with_info(y, named("linalg_ldl_factor_ex"), _singular_ldl if check_errors else None)


@public(module="linalg", method=False, out=True)
def ldl_solve(LD: Any, pivots: Any, B: Any, *, hermitian: bool = False) -> Any:
    """Return X with A X = B, from the LDL factors of A. Shapes: (*, n, n), (*, n), (*, n, k) -> (*, n, k)."""
    name = "torch.linalg.ldl_solve"
    need_square(LD, name)
    if len(B._shape) < 2:
        raise RuntimeError(
            f"{name}: Expected B to have at least 2 dimensions, but it has {len(B._shape)} dimensions instead"
        )
    if pivots._shape != LD._shape[:-1]:
        raise RuntimeError(
            f"{name}: Expected LD.shape[:-1] and pivots.shape to be the same, but got pivots with shape "
            f"{list(pivots._shape)} instead"
        )
    if pivots._dtype.category != 1:
        raise RuntimeError(f"{name}: Expected pivots to be integers. Got {dt.scalar_name(pivots._dtype)}")
    if LD._dtype is not B._dtype:
        raise RuntimeError(
            f"ldl_solve: Expected LD and B to have the same dtype, but found LD of type "
            f"{dt.scalar_name(LD._dtype)} and B of type {dt.scalar_name(B._dtype)} instead"
        )
    rows = P.convert(read(pivots), LD._dtype)
    rows = P.reshape(rows, (*rows.shape[:-1], 1, rows.shape[-1]))
    f, p, b = together(P.detach(read(LD)), rows, P.detach(read(B)))
    return wrap(P.part(P.lapack((f, p, b), "ldl_solve", bool(hermitian)), 0))
