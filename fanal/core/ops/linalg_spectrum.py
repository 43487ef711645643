"""Eigenvalues and singular values."""

from __future__ import annotations

from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.ir import prims as P
from fanal.core.ops.build import public, read, wrap
from fanal.core.ops.linalg_check import (
    failure,
    need_floating,
    need_kernel,
    need_matrix,
    need_square,
    svd_failed,
    whole_part,
)
from fanal.core.ops.named import named
from fanal.core.ops.random import randn

_eigh_failed = failure(
    "linalg.eigh",
    "The algorithm failed to converge because the input matrix is ill-conditioned or has too many repeated "
    "eigenvalues (error code: {}).",
)
_eig_failed = failure("torch.linalg.eig", "input tensor should not contain infs or NaNs.")


def _triangle_of(A: Any, UPLO: str) -> Any:
    need_square(A, "linalg.eigh")
    if UPLO.upper() not in ("L", "U"):
        raise RuntimeError(f"Expected UPLO argument to be 'L' or 'U', but got {UPLO}")
    need_kernel(A, "linalg_eigh_cpu")
    return P.adjoint(read(A)) if UPLO.upper() == "U" else read(A)


@public(module="linalg", method=False, out=True, check=_eigh_failed)
def eigh(input: Any, UPLO: str = "L") -> Any:
    """Return the eigenvalues (real, ascending) and eigenvectors of symmetric or Hermitian matrices.

    Shapes: (*, n, n) -> (*, n), (*, n, n). UPLO: the triangle that is read. The gradient of the vectors is
    finite only where the values differ. Source: Golub & Van Loan, "Matrix Computations", 8.3, through
    LAPACK's syevd.
    """
    y = P.lapack((_triangle_of(input, UPLO),), "eigh")
    made = named("linalg_eigh")
    return made(wrap(P.real(P.part(y, 0))), wrap(P.part(y, 1))), wrap(whole_part(y, 2))


@public(module="linalg", method=False, out=True, check=_eigh_failed)
def eigvalsh(input: Any, UPLO: str = "L") -> Any:
    """Return the eigenvalues of symmetric or Hermitian matrices, ascending. Shapes: (*, n, n) -> (*, n)."""
    y = P.lapack((_triangle_of(input, UPLO),), "eigvalsh")
    return wrap(P.real(P.part(y, 0))), wrap(whole_part(y, 1))


def _need_eig(A: Any, name: str) -> None:
    need_square(A, name)
    if A._dtype.category < 2:
        raise RuntimeError(f"Unknown Complex ScalarType for {dt.scalar_name(A._dtype)}")
    need_kernel(A, "linalg_eig_out_cpu")


@public(module="linalg", method=False, out=True, check=_eig_failed)
def eig(input: Any) -> Any:
    """Return the eigenvalues and eigenvectors of square matrices, complex.

    Shapes: (*, n, n) -> (*, n), (*, n, n). Source: Golub & Van Loan, 7.5, through LAPACK's geev.
    """
    _need_eig(input, "linalg.eig")
    y = P.lapack((read(input),), "eig")
    made = named("linalg_eig")
    return made(wrap(P.part(y, 0)), wrap(P.part(y, 1))), wrap(whole_part(y, 2))


@public(module="linalg", method=False, out=True, check=_eig_failed)
def eigvals(input: Any) -> Any:
    """Return the eigenvalues of square matrices, complex. Shapes: (*, n, n) -> (*, n)."""
    _need_eig(input, "linalg.eigvals")
    y = P.lapack((read(input),), "eigvals")
    return wrap(P.part(y, 0)), wrap(whole_part(y, 1))


def _need_svd(A: Any, driver: Any) -> None:
    need_matrix(A, "linalg.svd")
    need_floating(A, "linalg.svd")
    need_kernel(A, "linalg_svd_cpu")
    if driver is not None:
        raise RuntimeError(
            "torch.linalg.svd: keyword argument `driver=` is only supported on CUDA inputs with "
            "cuSOLVER backend."
        )


@public(module="linalg", method=False, out=True, check=svd_failed)
def svd(A: Any, full_matrices: bool = True, *, driver: str | None = None) -> Any:
    """Return U, singular values (descending) and V^H with A = U diag(S) V^H.

    Shapes: (*, m, n) -> (*, m, m), (*, k), (*, n, n), k = min(m, n); (*, m, k), (*, k), (*, k, n) unless
    full_matrices. Gradients go through the first k vectors, and are finite only where the values differ.
    Source: Golub & Van Loan, "Matrix Computations", 8.6, through LAPACK's gesdd.
    """
    _need_svd(A, driver)
    y = P.lapack((read(A),), "svd", bool(full_matrices))
    made = named("linalg_svd")
    return made(wrap(P.part(y, 0)), wrap(P.real(P.part(y, 1))), wrap(P.part(y, 2))), wrap(whole_part(y, 3))


@public(module="linalg", method=False, out=True, check=svd_failed)
def svdvals(A: Any, *, driver: str | None = None) -> Any:
    """Return singular values, descending. Shapes: (*, m, n) -> (*, min(m, n))."""
    _need_svd(A, driver)
    y = P.lapack((read(A),), "svdvals")
    return wrap(P.real(P.part(y, 0))), wrap(whole_part(y, 1))


@public("svd", out=True, check=svd_failed)
def torch_svd(input: Any, some: bool = True, compute_uv: bool = True) -> Any:
    """Return U, S and V (not its adjoint), as torch.linalg.svd; U and V are zero unless compute_uv."""
    if len(input._shape) < 2:
        raise RuntimeError(
            f"linalg.svd: input should have at least 2 dimensions, but has {len(input._shape)} "
            "dimensions instead"
        )
    made = named("svd")
    if not compute_uv:
        s, info = svdvals(input)
        lead, (m, n) = input._shape[:-2], input._shape[-2:]
        u, v = (wrap(P.full((*lead, k, k), 0, input._dtype)) for k in (m, n))
        return made(u, s, v), info
    (u, s, vh), info = svd(input, not some)
    return made(u, s, wrap(P.adjoint(read(vh)))), info


# A few of the largest.


def _orthonormal(x: Any) -> Any:
    return P.part(P.lapack((x,), "qr", False), 0)


@public(method=False)
def svd_lowrank(A: Any, q: int | None = 6, niter: int | None = 2, M: Any = None) -> tuple:
    """Return U, S and V of about the q largest singular values of A (of A - M), by random projection.

    Shapes: (*, m, n) -> (*, m, q), (*, q), (*, n, q). Source: Halko, Martinsson & Tropp, "Finding structure
    with randomness" (2011), algorithms 4.4 and 5.1.
    """
    a = read(A)
    if M is not None:
        a = P.sub(a, P.broadcast(read(M), a.shape))
    q = 6 if q is None else q
    m, n = a.shape[-2:]
    adjoint = P.adjoint(a)
    wide = m < n  # work on the smaller side
    here, there = (adjoint, a) if wide else (a, adjoint)
    start = read(randn(here.shape[-1], q, dtype=a.dtype))
    basis = _orthonormal(P.dot(here, P.broadcast(start, (*a.shape[:-2], *start.shape))))
    for _ in range(niter or 0):
        basis = _orthonormal(P.dot(here, _orthonormal(P.dot(there, basis))))
    y = P.lapack((P.dot(P.adjoint(basis), here),), "svd", False)
    u, s, v = P.dot(basis, P.part(y, 0)), P.real(P.part(y, 1)), P.adjoint(P.part(y, 2))
    return (wrap(v), wrap(s), wrap(u)) if wide else (wrap(u), wrap(s), wrap(v))


@public(method=False)
def pca_lowrank(A: Any, q: int | None = None, center: bool = True, niter: int = 2) -> tuple:
    """Return U, S and V of about the q largest principal components of the rows of A, centred unless told
    not to."""
    m, n = A._shape[-2:]
    if q is None:
        q = min(6, m, n)
    elif not 0 <= q <= min(m, n):
        raise ValueError(f"q(={q}) must be non-negative integer and not greater than min(m, n)={min(m, n)}")
    if niter < 0:
        raise ValueError(f"niter(={niter}) must be non-negative integer")
    if not center:
        return svd_lowrank(A, q, niter)
    a = read(A)
    rows = len(a.shape) - 2
    mean = P.div(P.sum_(a, (rows,)), P.num(a, m))
    return svd_lowrank(A, q, niter, wrap(P.broadcast(P.reshape(mean, (*a.shape[:-2], 1, n)), a.shape)))


@public(method=False)
def lobpcg(
    A: Any, k: int | None = None, B: Any = None, X: Any = None, n: int | None = None, iK: Any = None,
    niter: int | None = None, tol: float | None = None, largest: bool | None = None,
    method: str | None = None, tracker: Any = None, ortho_iparams: Any = None, ortho_fparams: Any = None,
    ortho_bparams: Any = None,
) -> tuple:  # fmt: skip
    """Return the k largest (or smallest) eigenvalues of A x = l B x, for positive-definite matrices, and
    vectors.

    Shapes: (*, m, m) -> (*, k), (*, m, k). Differs from torch: solved as a dense problem, to full accuracy,
    so what steers the iteration (X, n, iK, niter, tol, method, tracker, ortho_*) has no effect. Source: Golub
    & Van Loan, "Matrix Computations", 8.7.2 (B = L L^H and the eigenvectors of L^-1 A L^-H).
    """
    need_square(A, "lobpcg")
    need_kernel(A, "lobpcg")
    k = k if k is not None else 1 if X is None else X._shape[-1]
    size = A._shape[-1]
    if size < 3 * k:
        raise ValueError(
            f"LOBPCG algorithm is not applicable when the number of A rows (={size}) is smaller than 3 x "
            f"the number of requested eigenpairs (={k})"
        )
    a = read(A)
    low = None if B is None else P.part(P.lapack((read(B),), "cholesky"), 0)
    if low is not None:
        half = P.part(P.lapack((low, a), "triangular", False, False), 0)
        a = P.adjoint(P.part(P.lapack((low, P.adjoint(half)), "triangular", False, False), 0))
    y = P.lapack((a,), "eigh")
    values, vectors = P.real(P.part(y, 0)), P.part(y, 1)
    if low is not None:
        vectors = P.part(P.lapack((P.adjoint(low), vectors), "triangular", True, False), 0)
    last = len(vectors.shape) - 1
    if largest is None or largest:
        values, vectors = P.flip(values, (last - 1,)), P.flip(vectors, (last,))
    return wrap(P.span(values, last - 1, 0, k)), wrap(P.span(vectors, last, 0, k))
