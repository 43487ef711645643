"""Linear systems: solve and inverse, triangular systems, from factors, least squares."""

from __future__ import annotations

import math
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.base.shape import broadcast_shapes
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import public, read, wrap
from fanal.core.ops.limits import finfo
from fanal.core.ops.linalg_check import (
    failure,
    need_fitting,
    need_floating,
    need_kernel,
    need_matrix,
    need_same,
    need_square,
    together,
    whole_part,
)
from fanal.core.ops.named import named
from fanal.core.ops.pointwise import with_gradient
from fanal.core.ops.shape import movedim
from fanal.core.tensor.tensor import compute

_NOT_INVERTIBLE = (
    "The diagonal element {} is zero, the inversion could not be completed because the input matrix is "
    "singular."
)
not_invertible = failure("linalg.inv", _NOT_INVERTIBLE)
singular = failure("torch.linalg.solve", "The solver failed because the input matrix is singular.")


def inverse_of(A: Any, name: str = "linalg.inv") -> tuple[Any, Any]:
    """Return the inverse and info."""
    need_square(A, name)
    need_floating(A, name, low=False)
    y = P.lapack((read(A),), "inverse")
    return wrap(P.part(y, 0)), wrap(whole_part(y, 1))


@public(module="linalg", method=False, out=True, check=not_invertible)
def inv(A: Any) -> Any:
    """Return inverses of square matrices.

    Shapes: (*, n, n). Dtypes: float32, float64, complex64, complex128. Raises LinAlgError for a singular
    matrix.
    """
    return inverse_of(A)


@public(out=True, check=not_invertible)
def inverse(input: Any) -> Any:
    """Return inverses of square matrices, as torch.linalg.inv."""
    return inverse_of(input)


@public(module="linalg", method=False, out=True)
def inv_ex(A: Any, *, check_errors: bool = False) -> Any:
    """Return inverses and info: 0, or the place of the first zero pivot. Differs from torch: there all is
    NaN."""
    found, info = inverse_of(A)
    if check_errors:
        failure("linalg.inv_ex", _NOT_INVERTIBLE)(info)
    return named("linalg_inv_ex")(found, info)


def is_vector(A: Any, B: Any) -> bool:
    """Tell whether B holds right-hand sides that are vectors, as torch.linalg.solve decides."""
    return len(B._shape) == 1 or (len(A._shape) - 1 == len(B._shape) and B._shape == A._shape[:-1])


def _solve(A: Any, B: Any, left: bool) -> tuple[Any, Any]:
    need_square(A, "linalg.solve")
    need_floating(A, "linalg.solve", low=False)
    need_same(A, B, "linalg.solve")
    a, b = read(A), read(B)
    vector = is_vector(A, B)
    if vector:
        if not left:
            raise RuntimeError(
                "linalg.solve: Vector broadcasting of the left hand side is not supported for left=False. "
                "In this case linalg.solve is equivalent to B / A.squeeze(-1)"
            )
        b = P.reshape(b, (*b.shape, 1))
        if b.shape[-2] != a.shape[-1]:
            raise RuntimeError(
                f"linalg.solve: Incompatible shapes of A and B for the equation AX = B "
                f"({a.shape[-2]}x{a.shape[-1]} and {b.shape[-2]}x1)"
            )
    else:
        need_matrix(B, "linalg.solve", "B")
        need_fitting(A, B, left, "linalg.solve")
    if not left:
        a, b = P.swap(a), P.swap(b)
    a2, b2 = together(a, b)
    y = P.lapack((a2, b2), "solve")
    x = P.part(y, 0)
    lead = a.shape[:-2]
    info, grown = whole_part(y, 1), y.shape[:-1]
    here = tuple(
        1 if n < len(grown) - len(lead) or lead[n - len(grown) + len(lead)] == 1 else k
        for n, k in enumerate(grown)
    )
    info = P.corner(info, tuple(map(min, here, grown)))
    info = P.reshape(info, lead) if info.size else P.full(lead, 0, dt.int32)
    x = x if left else P.swap(x)
    return wrap(P.reshape(x, x.shape[:-1]) if vector else x), wrap(info)


@public(module="linalg", method=False, out=True, check=singular)
def solve(A: Any, B: Any, *, left: bool = True) -> Any:
    """Return X with A X = B, or X A = B unless `left`.

    Shapes: (*, n, n), (*, n, k) or (*, n) -> as B; batches broadcast. Raises LinAlgError for a singular
    matrix. Source: Golub & Van Loan, "Matrix Computations", 3.4, through LAPACK's gesv.
    """
    return _solve(A, B, left)


@public(module="linalg", method=False, out=True)
def solve_ex(A: Any, B: Any, *, left: bool = True, check_errors: bool = False) -> Any:
    """Return X and info: 0, or the place of the first zero pivot. Differs from torch: there all is NaN."""
    found, info = _solve(A, B, left)
    if check_errors:
        singular(info)
    return named("linalg_solve_ex")(found, info)


@public(module="linalg", method=False, out=True)
def solve_triangular(input: Any, B: Any, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Any:
    """Return X with A X = B (or X A = B unless `left`) for triangular A, `input`.

    A zero on the diagonal gives inf and NaN.

    Shapes: (*, n, n), (*, n, k) -> (*, n, k); batches broadcast. Source: Golub & Van Loan, 3.1.
    """
    name = "linalg.solve_triangular"
    need_square(input, name)
    need_matrix(B, name, "B")
    need_fitting(input, B, left, name)
    need_same(input, B, name)
    need_kernel(input, "triangular_solve_cpu")
    a, b = together(input, B)
    if not left:
        a, b = P.swap(a), P.swap(b)
    x = P.part(P.lapack((a, b), "triangular", bool(upper) == bool(left), bool(unitriangular)), 0)
    return wrap(x if left else P.swap(x))


@public(out=True)
def triangular_solve(
    input: Any, A: Any, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> Any:
    """Return X with A X = input for triangular A (A^T X = input if `transpose`), and a copy of A."""
    for t, which in ((input, "b"), (A, "A")):
        if len(t._shape) < 2:
            raise RuntimeError(
                f"torch.triangular_solve: Expected {which} to have at least 2 dimensions, but it has "
                f"{len(t._shape)} dimensions instead"
            )
    need_square(A, "triangular_solve")
    need_fitting(A, input, True, "triangular_solve")
    need_kernel(A, "triangular_solve_cpu")
    a, b = together(A, input)
    t = P.swap(a) if transpose else a
    x = P.part(P.lapack((t, b), "triangular", bool(upper) != bool(transpose), bool(unitriangular)), 0)
    return named("triangular_solve")(wrap(x), wrap(P.alias(a)))


# From factors.


def _from_cholesky(b: Node, f: Node, upper: bool) -> Node:
    """X with A X = b, where A = f f^H, or f^H f when `upper`."""
    low, up = (P.adjoint(f), f) if upper else (f, P.adjoint(f))
    half = P.part(P.lapack((low, b), "triangular", False, False), 0)
    return P.part(P.lapack((up, half), "triangular", True, False), 0)


@public(out=True)
def cholesky_solve(input: Any, input2: Any, upper: bool = False) -> Any:
    """Return X with A X = B, for B `input` and the Cholesky factor `input2` of A.

    Shapes: (*, n, k), (*, n, n) -> (*, n, k).
    """
    for t, which in ((input, "b"), (input2, "u")):
        if len(t._shape) < 2:
            raise RuntimeError(
                f"{which} should have at least 2 dimensions, but has {len(t._shape)} dimensions instead"
            )
    m, n = input2._shape[-2:]
    if m != n:
        raise RuntimeError(
            f"cholesky_solve: A must be batches of square matrices, but they are {m} by {n} matrices"
        )
    if input._shape[-2] != n:
        raise RuntimeError(
            f"Incompatible matrix sizes for cholesky_solve: each A matrix is {n} by {n} but each b matrix is "
            f"{input._shape[-2]} by {input._shape[-1]}"
        )
    if input._dtype is not input2._dtype:
        raise RuntimeError("cholesky_solve: Expected B and L to have the same dtype")
    need_kernel(input, "cholesky_solve_cpu")
    b, f = together(input, input2)
    return wrap(_from_cholesky(b, f, upper))


@public(out=True, check=failure("cholesky_inverse", _NOT_INVERTIBLE))
def cholesky_inverse(input: Any, upper: bool = False) -> Any:
    """Return the inverse of A from its Cholesky factor. Raises LinAlgError for a zero on the factor's diagonal."""
    need_square(input, "cholesky_inverse")
    need_kernel(input, "cholesky_inverse_out_cpu")
    y = P.lapack((read(input),), "from_cholesky", upper)
    return wrap(P.part(y, 0)), wrap(whole_part(y, 1))


@public(module="linalg", method=False, out=True)
def lu_solve(LU: Any, pivots: Any, B: Any, *, left: bool = True, adjoint: bool = False) -> Any:
    """Return X with A X = B (or X A = B unless `left`; A^H for A if `adjoint`), from what lu_factor
    returns."""
    name = "linalg.lu_solve"
    if pivots._dtype is not dt.int32:
        raise RuntimeError(f"{name}: pivots should be a Tensor of scalar type torch.int32")
    need_square(LU, name)
    need_matrix(B, name, "B")
    need_fitting(LU, B, left, name)
    need_same(LU, B, name)
    n = LU._shape[-1]
    if pivots._shape[-1:] != (n,):
        raise RuntimeError(
            f"{name}: Number of pivots per batch should be same as the dimension of the matrix"
        )
    if pivots._shape[:-1] != LU._shape[:-2]:
        raise RuntimeError(
            f"{name}: Expected LU.shape[:-1] and pivots.shape to be the same, but got pivots with shape "
            f"{list(pivots._shape)} instead"
        )
    f, b = together(LU, B)
    order = P.broadcast(P.row_order(read(pivots), n, adjoint == left), f.shape[:-1])
    if not left:  # X A = B is A^H X^H = B^H
        b, adjoint = P.adjoint(b), not adjoint
    if adjoint:
        x = P.part(P.lapack((P.adjoint(f), b), "triangular", False, False), 0)
        x = P.take_rows(P.part(P.lapack((P.adjoint(f), x), "triangular", True, True), 0), order)
    else:
        x = P.part(P.lapack((f, P.take_rows(b, order)), "triangular", False, True), 0)
        x = P.part(P.lapack((f, x), "triangular", True, False), 0)
    return wrap(x if left else P.adjoint(x))


@public("lu_solve", out=True)
def torch_lu_solve(input: Any, LU_data: Any, LU_pivots: Any) -> Any:
    """Return X with A X = b, as torch.linalg.lu_solve."""
    return lu_solve(LU_data, LU_pivots, input)


# Tensors as matrices.


@public(module="linalg", method=False, out=True, check=not_invertible)
def tensorinv(input: Any, ind: int = 2) -> Any:
    """Return the inverse of `input` seen as a linear map from its last dimensions to its first `ind`."""
    if ind <= 0:
        raise RuntimeError(f"Expected a strictly positive integer for 'ind', but got {ind}")
    first, last = input._shape[:ind], input._shape[ind:]
    rows, cols = math.prod(first), math.prod(last)
    if rows != cols:
        raise RuntimeError(
            f"Expected self to satisfy the requirement prod(self.shape[ind:]) == prod(self.shape[:ind]), "
            f"but got {cols} != {rows}"
        )
    found, info = inverse_of(wrap(P.reshape(read(input), (rows, cols))))
    return wrap(P.reshape(read(found), (*last, *first))), info


@public(module="linalg", method=False, out=True, check=singular)
def tensorsolve(input: Any, other: Any, dims: Any = None) -> Any:
    """Return X with tensordot(input, X, X.ndim) = other; the dimensions `dims` of input are moved to its end first."""
    if dims is not None:
        n = len(input._shape)
        input = movedim(input, tuple(dims), tuple(range(n - len(dims), n)))
    shape = input._shape[len(other._shape) :]
    cols = math.prod(shape)
    b = read(other)
    if cols * b.size != math.prod(input._shape):
        raise RuntimeError(f"shape '{[b.size, cols]}' is invalid for input of size {math.prod(input._shape)}")
    if cols != b.size:
        raise RuntimeError(
            "Expected self to satisfy the requirement prod(self.shape[other.ndim:]) == "
            f"prod(self.shape[:other.ndim]), but got {cols} != {b.size}"
        )
    found, info = _solve(wrap(P.reshape(read(input), (b.size, cols))), wrap(P.reshape(b, (b.size,))), True)
    return wrap(P.reshape(read(found), shape)), info


# Least squares.


def _by_singular_values(a: Node, b: Node, rcond: float) -> tuple[Node, Node, Node]:
    """Return the least-squares solution of smallest norm, the rank and the singular values."""
    y = P.lapack((a,), "svd", False)
    u, s, vh = P.part(y, 0), P.real(P.part(y, 1)), P.part(y, 2)
    if s.shape[-1]:
        top = P.max_of(s, (len(s.shape) - 1,))
        some = P.lt(P.mul(P.reshape(top, (*top.shape, 1)), P.num(s, rcond)), s)
    else:
        some = P.full(s.shape, False, dt.bool_)
    inverse = P.where(some, P.div(P.num(s, 1), P.where(some, s, P.num(s, 1))), P.num(s, 0))
    column = P.convert(P.reshape(inverse, (*inverse.shape, 1)), a.dtype)
    b, u, v, column = together(b, u, P.adjoint(vh), column)
    x = P.dot(v, P.mul(column, P.dot(P.adjoint(u), b)))
    return x, P.sum_(P.convert(some, dt.int64), (len(some.shape) - 1,)), s


def _check_lstsq(A: Any, B: Any, driver: str | None) -> bool:
    """Raise PyTorch's errors; tell whether B holds vectors, and not matrices."""
    name = "torch.linalg.lstsq"
    if len(A._shape) < 2:
        raise RuntimeError(f"{name}: input must have at least 2 dimensions.")
    if len(B._shape) < 1:
        raise RuntimeError(f"{name}: other must have at least 1 dimension.")
    if A._dtype is not B._dtype:
        raise RuntimeError(
            f"{name}: Expected input and other to have the same dtype, but got input's dtype "
            f"{dt.scalar_name(A._dtype)} and other's dtype {dt.scalar_name(B._dtype)}"
        )
    if driver not in (None, "gels", "gelsy", "gelsd", "gelss"):
        raise RuntimeError(f"{name}: parameter `driver` should be one of (gels, gelsy, gelsd, gelss)")
    difference = len(A._shape) - len(B._shape)
    if difference not in (0, 1):
        raise RuntimeError(
            f"{name}: input.dim() must be greater or equal to other.dim() and (input.dim() - other.dim()) <= 1"
        )
    row = difference - 2
    if A._shape[-2] != B._shape[row]:
        raise RuntimeError(f"{name}: input.size(-2) should match other.size({row})")
    if A._dtype.to_real() not in (dt.float32, dt.float64):
        raise RuntimeError("This function doesn't handle types other than float and double")
    broadcast_shapes(A._shape[:-2], B._shape[:row])
    return difference == 1


@public(module="linalg", method=False, out=True)
def lstsq(input: Any, b: Any, rcond: Any = None, *, driver: str | None = None) -> Any:
    """Return the least-squares solution of A X = B, of smallest norm, with residuals, rank and singular values.

    Shapes: (*, m, n), (*, m, k) or (*, m) -> (*, n, k). Singular values up to `rcond` times the largest count
    as zero (eps * max(m, n) by default). Residuals, ranks and singular values are empty where PyTorch's
    `driver` (gelsy by default) does not give them. gelsy is LAPACK's, by orthogonal factors with exchanged
    columns. Differs from torch: the other drivers are computed by singular values. Source: Golub & Van Loan,
    "Matrix Computations", 5.5; the gradient: Golub & Pereyra (1973).
    """
    from fanal.core.ops.linalg_function import pinv_rule

    vector = _check_lstsq(input, b, driver)
    driver = driver or "gelsy"
    a, (m, n) = read(input), input._shape[-2:]
    b = P.reshape(read(b), (*b._shape, 1)) if vector else read(b)
    kind = a.dtype.to_real()
    eps = finfo(kind).eps * max(m, n) if rcond is None else float(rcond)
    if driver == "gelsy":
        left, right, least = together(P.detach(a), P.detach(b), P.full((1, 1), eps, a.dtype))
        y = P.lapack((left, least, right), "least_squares")
        x, rank, s = P.part(y, 0), P.convert(P.real(P.part(y, 1)), dt.int64), P.full((0,), 0, kind)
    else:
        x, rank, s = _by_singular_values(P.detach(a), P.detach(b), 0 if driver == "gels" else eps)

    def rule(g: Node, x: Node, a: Node, b: Node) -> list[Node | None]:
        from fanal.core.ops.linalg_function import pinv_node

        wide, right = together(a, b)
        inverse = pinv_node(wide, None, eps, False)
        gb = P.dot(P.adjoint(inverse), g)
        return [pinv_rule(P.dot(g, P.adjoint(right)), inverse, wide), gb]

    x = with_gradient(x, rule, a, b)
    nothing = P.full((0,), 0, kind)
    residuals = nothing
    if m > n and driver != "gelsy" and (driver == "gels" or (compute(wrap(rank)) == n).all()):
        left, right, sides = together(a, x, b)
        gap = P.sub(P.dot(left, right), sides)
        residuals = P.sum_(P.real(P.mul(gap, P.conj(gap))), (len(gap.shape) - 2,))
    found = named("linalg_lstsq")
    return found(
        wrap(P.reshape(x, x.shape[:-1]) if vector else x),
        wrap(residuals),
        wrap(P.full((0,), 0, dt.int64) if driver == "gels" else P.alias(rank)),
        wrap(s if driver in ("gelsd", "gelss") else nothing),
    )
