"""Dense linear algebra on stacks of matrices, in NumPy: what runs behind the `lapack` row.

Each routine takes arrays of shape (*, m, n) and returns a tuple of arrays with the same leading dimensions.
None raises: a matrix that cannot be factored gives `info` > 0, LAPACK's code, and NaN where there is no
answer. What NumPy exports of LAPACK is called; pivoted LU, substitution, LDL and the exponential are written
out here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any  # np.ndarray of floats or complex numbers
BLOCK = 32  # columns factored one by one before a matrix product updates the rest


def _info(a: Array, value: int = 0) -> Array:
    return np.full(a.shape[:-2], value, np.int64)


def _each(a: Array, whole: Callable, failed: Callable) -> tuple:
    """Run `whole` on a stack; if NumPy refuses it, matrix by matrix, with `failed` for those that it
    refuses."""
    try:
        return (*whole(a), _info(a))
    except np.linalg.LinAlgError:
        pass
    if a.ndim == 2:
        *found, info = failed(a)
        return (*found, np.asarray(info))
    parts = [_each(m, whole, failed) for m in a.reshape(-1, *a.shape[-2:])]
    return tuple(np.stack(p).reshape(*a.shape[:-2], *p[0].shape) for p in zip(*parts))


def _empty(*shapes: tuple, like: Array, dtype: Any = None) -> tuple:
    return tuple(np.full(s, np.nan, dtype or like.dtype) for s in shapes)


# Factorisations.


def cholesky(a: Array) -> tuple[Array, Array]:
    """Return the lower Cholesky factor, of which the lower triangle of `a` is read, and info."""

    def minor(m: Array) -> tuple[Array, int]:  # the first leading minor that is not positive-definite
        for k in range(1, len(m) + 1):
            try:
                np.linalg.cholesky(m[:k, :k])
            except np.linalg.LinAlgError:
                return np.full_like(m, np.nan), k
        raise AssertionError

    found, info = _each(a, lambda m: (np.linalg.cholesky(m),), minor)
    bad = ~(np.diagonal(found, 0, -2, -1).real > 0)  # NaN passes through LAPACK unnoticed
    if (bad.any(-1) & (info == 0)).any():
        info = np.where(bad.any(-1) & (info == 0), bad.argmax(-1) + 1, info)
    return found, info


def inverse(a: Array) -> tuple[Array, Array]:
    """Return inverses and info."""

    def singular(m: Array) -> tuple:
        return (*_empty(m.shape, like=m), lu(m)[2])

    return _each(a, lambda m: (np.linalg.inv(m),), singular)  # type: ignore[return-value]


def solve(a: Array, b: Array) -> tuple[Array, Array]:
    """Return X with a X = b, and info. Shapes: (*, n, n), (*, n, k) -> (*, n, k)."""
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    try:
        return np.linalg.solve(a, b), np.zeros(lead, np.int64)
    except np.linalg.LinAlgError:
        pass
    info = lu(a)[2]
    regular = (info == 0)[..., None, None]
    x = np.linalg.solve(np.where(regular, a, np.eye(a.shape[-1], dtype=a.dtype)), b)
    return np.where(regular, x, np.nan).astype(x.dtype), np.broadcast_to(info, lead)


def _size(x: Array) -> Array:
    """The magnitude by which LAPACK chooses pivots."""
    return np.abs(x.real) + np.abs(x.imag) if x.dtype.kind == "c" else np.abs(x)


def lu(a: Array) -> tuple[Array, Array, Array]:
    """Return L and U in one array, pivots (counted from 1) and info, with partial pivoting.

    Source: Golub & Van Loan, "Matrix Computations", 3.4.1 and 3.2.11 (by blocks of columns).
    """
    lead, (m, n) = a.shape[:-2], a.shape[-2:]
    a = a.reshape(math.prod(lead), m, n).copy()
    batch, k = np.arange(len(a)), min(m, n)
    pivots = np.empty((len(a), k), np.int64)
    for start in range(0, k, BLOCK):
        stop = min(start + BLOCK, k)
        for j in range(start, stop):
            p = j + _size(a[:, j:, j]).argmax(-1) if len(a) else batch
            pivots[:, j] = p
            a[batch, p], a[:, j] = a[:, j].copy(), a[batch, p]
            top = a[:, j, j, None]
            a[:, j + 1 :, j] /= np.where(top == 0, 1, top)
            a[:, j + 1 :, j + 1 : stop] -= a[:, j + 1 :, j, None] * a[:, j, None, j + 1 : stop]
        if stop < n:
            rows = substitute(a[:, start:stop, start:stop], a[:, start:stop, stop:], False, True)
            a[:, start:stop, stop:] = rows
            a[:, stop:, stop:] -= a[:, stop:, start:stop] @ rows
    zero = np.diagonal(a, 0, -2, -1) == 0
    info = np.where(zero.any(-1), zero.argmax(-1) + 1, 0) if k else np.zeros(len(a), np.int64)
    return a.reshape(*lead, m, n), pivots.reshape(*lead, k) + 1, info.reshape(lead)


def from_cholesky(f: Array, upper: bool) -> tuple[Array, Array]:
    """Return the inverse of A from its Cholesky factor, and info: the place of a zero on the diagonal."""
    with np.errstate(all="ignore"):
        t = substitute(f, np.broadcast_to(np.eye(f.shape[-1], dtype=f.dtype), f.shape), upper, False)
    th = np.conj(np.swapaxes(t, -2, -1))
    zero = np.diagonal(f, 0, -2, -1) == 0
    info = np.where(zero.any(-1), zero.argmax(-1) + 1, 0) if f.shape[-1] else _info(f)
    return np.where((info > 0)[..., None, None], np.nan, t @ th if upper else th @ t), info


def permutation(pivots: Array, m: int) -> Array:
    """Return the rows of P^T A in order, int64 (*, m), for LAPACK's pivots (*, k)."""
    lead, k = pivots.shape[:-1], pivots.shape[-1]
    order = np.tile(np.arange(m), (math.prod(lead), 1))
    batch, flat = np.arange(len(order)), pivots.reshape(len(order), k)
    for j in range(k):
        p = flat[:, j] - 1
        order[batch, p], order[:, j] = order[:, j].copy(), order[batch, p]
    return order.reshape(*lead, m)


def substitute(t: Array, b: Array, upper: bool, unit: bool) -> Array:
    """Return X with t X = b for triangular t, by halves. Shapes: (*, n, n), (*, n, k) -> (*, n, k).

    Source: Golub & Van Loan, "Matrix Computations", 3.1. A zero on the diagonal gives infinities and NaN.
    """
    n = t.shape[-1]
    if n > 16:
        h = n // 2
        one, two = (slice(h, n), slice(0, h)) if upper else (slice(0, h), slice(h, n))
        x1 = substitute(t[..., one, one], b[..., one, :], upper, unit)
        x2 = substitute(t[..., two, two], b[..., two, :] - t[..., two, one] @ x1, upper, unit)
        return np.concatenate((x2, x1) if upper else (x1, x2), -2)
    x = np.array(np.broadcast_to(b, (*np.broadcast_shapes(t.shape[:-2], b.shape[:-2]), *b.shape[-2:])))
    for i in reversed(range(n)) if upper else range(n):
        known = slice(i + 1, n) if upper else slice(0, i)
        x[..., i, :] -= (t[..., i, None, known] @ x[..., known, :])[..., 0, :]
        if not unit:
            x[..., i, :] /= t[..., i, i, None]
    return x


def qr(a: Array, complete: bool) -> tuple[Array, Array]:
    """Return Q and R."""
    if a.shape[-1] == 0:
        m, k = a.shape[-2], a.shape[-2] if complete else 0
        eye = np.broadcast_to(np.eye(m, k, dtype=a.dtype), (*a.shape[:-2], m, k))
        return eye, np.zeros((*a.shape[:-2], k, 0), a.dtype)
    q, r = np.linalg.qr(a, "complete" if complete else "reduced")
    return q, r


def least_squares(a: Array, rcond: Array, b: Array) -> tuple[Array, Array]:
    """Return the X of smallest norm that makes A X - b smallest, and the rank of A.

    Shapes: (*, m, n), (*, 1, 1), (*, m, k) -> (*, n, k), (*). Singular values up to `rcond` times the largest count as
    zero.
    """
    u, s, vh, _ = svd(a, False)
    some = s > rcond[..., 0].real * s.max(-1, initial=0, keepdims=True)
    inverse = (np.where(some, 1, 0) / np.where(some, s, 1)).astype(a.dtype)
    u, v = (np.conj(np.swapaxes(x, -2, -1)) for x in (u, vh))
    return v @ (inverse[..., None] * (u @ b)), some.sum(-1)


def reflectors(a: Array) -> tuple[Array, Array]:
    """Return R above Householder vectors, and their factors tau: LAPACK's geqrf."""
    h, tau = np.linalg.qr(a, "raw")
    return np.swapaxes(h, -2, -1), tau


def ldl(a: Array, hermitian: bool) -> tuple[Array, Array, Array]:
    """Return the LDL factors of the lower triangle in one array, pivots as LAPACK's sytrf, and info."""
    lead, n = a.shape[:-2], a.shape[-1]
    flat = np.tril(a).reshape(math.prod(lead), n, n).copy()
    pivots, info = np.zeros((len(flat), n), np.int64), np.zeros(len(flat), np.int64)
    for b in range(len(flat)):
        info[b] = _bunch_kaufman(flat[b], pivots[b], hermitian and a.dtype.kind == "c")
    return flat.reshape(*lead, n, n), pivots.reshape(*lead, n), info.reshape(lead)


def _bunch_kaufman(a: Array, pivots: Array, hermitian: bool) -> int:
    """Factor one lower triangle in place; return info.

    Source: Bunch & Kaufman, "Some stable methods for calculating inertia and solving symmetric linear
    systems" (1977), algorithm A; the layout of factors and pivots is that of LAPACK's sytf2 and hetf2 with
    uplo="L".
    """
    alpha, n, info, k = (1 + math.sqrt(17)) / 8, len(a), 0, 0
    flip: Callable = np.conj if hermitian else lambda x: x
    while k < n:
        step, swap = 1, k
        here = _size(a[k, k].real if hermitian else a[k, k])
        below = _size(a[k + 1 :, k])
        r = k + 1 + int(below.argmax()) if k + 1 < n else k
        top = below.max(initial=0)
        if max(here, top) == 0 or np.isnan(here):
            info = info or k + 1
            if hermitian:
                a[k, k] = a[k, k].real
        else:
            if here < alpha * top:
                row = max(_size(a[r, k:r]).max(initial=0), _size(a[r + 1 :, r]).max(initial=0))
                if here >= alpha * top * (top / row):
                    pass
                elif _size(a[r, r].real if hermitian else a[r, r]) >= alpha * row:
                    swap = r
                else:
                    step, swap = 2, r
            at = k + step - 1
            if swap != at:  # exchange rows and columns `at` and `swap` of the trailing triangle
                a[swap + 1 :, [at, swap]] = a[swap + 1 :, [swap, at]]
                middle = a[at + 1 : swap, at].copy()
                a[at + 1 : swap, at], a[swap, at + 1 : swap] = flip(a[swap, at + 1 : swap]), flip(middle)
                a[swap, at] = flip(a[swap, at])
                a[at, at], a[swap, swap] = a[swap, swap], a[at, at]
                if step == 2:
                    a[[at, swap], k] = a[[swap, at], k]
            if hermitian:
                for i in range(k, k + step):
                    a[i, i] = a[i, i].real
                a[swap, swap] = a[swap, swap].real
            rest = slice(k + step, n)
            block = a[k : k + step, k : k + step].copy()
            if step == 2:
                block[0, 1] = flip(block[1, 0])
            w = a[rest, k : k + step] @ np.linalg.inv(block)
            a[rest, rest] -= np.tril(w @ flip(a[rest, k : k + step]).T)
            a[rest, k : k + step] = w
            if hermitian:
                at_diagonal = np.arange(k + step, n)
                a[at_diagonal, at_diagonal] = a[at_diagonal, at_diagonal].real
        pivots[k : k + step] = swap + 1 if step == 1 else -(swap + 1)
        k += step
    return info


def ldl_solve(f: Array, pivots: Array, b: Array, hermitian: bool) -> tuple[Array]:
    """Return X with A X = b, from the factors of A. Shapes: (*, n, n), (*, n), (*, n, k) -> (*, n, k)."""
    lead, n = np.broadcast_shapes(f.shape[:-2], b.shape[:-2]), f.shape[-1]
    fs = np.broadcast_to(f, (*lead, n, n)).reshape(math.prod(lead), n, n)
    ps = np.broadcast_to(pivots, (*lead, n)).reshape(math.prod(lead), n)
    x = np.array(np.broadcast_to(b, (*lead, *b.shape[-2:]))).reshape(math.prod(lead), *b.shape[-2:])
    for i in range(len(x)):
        _ldl_solve(fs[i], ps[i].real.astype(np.int64), x[i], hermitian and f.dtype.kind == "c")
    return (x.reshape(*lead, *b.shape[-2:]),)


def _ldl_solve(f: Array, pivots: Array, x: Array, hermitian: bool) -> None:
    flip: Callable = np.conj if hermitian else lambda v: v
    n, steps, k = len(f), [], 0
    while k < n:
        steps.append((k, 1 if pivots[k] > 0 else 2))
        k += steps[-1][1]
    for k, step in steps:  # L D y = b, rows exchanged as the factors were
        at, swap = k + step - 1, abs(int(pivots[k])) - 1
        x[[at, swap]] = x[[swap, at]]
        x[k + step :] -= f[k + step :, k : k + step] @ x[k : k + step]
        block = f[k : k + step, k : k + step].copy()
        if step == 2:
            block[0, 1] = flip(block[1, 0])
            x[k : k + 2] = np.linalg.solve(block, x[k : k + 2])
        else:
            x[k] /= block[0, 0]
    for k, step in reversed(steps):
        x[k : k + step] -= flip(f[k + step :, k : k + step]).T @ x[k + step :]
        at, swap = k + step - 1, abs(int(pivots[k])) - 1
        x[[at, swap]] = x[[swap, at]]


# Spectra.


def eigh(a: Array, vectors: bool) -> tuple:
    """Return eigenvalues in ascending order, eigenvectors if wanted, and info; reads the lower triangle."""
    n = a.shape[-1]

    def failed(m: Array) -> tuple:
        return (*_empty(*((n,), (n, n))[: 1 + vectors], like=m), 1)

    return _each(
        a, (lambda m: tuple(np.linalg.eigh(m))) if vectors else lambda m: (np.linalg.eigvalsh(m),), failed
    )


def eig(a: Array, vectors: bool) -> tuple:
    """Return complex eigenvalues, eigenvectors of length 1 if wanted, and info."""
    n, d = a.shape[-1], np.result_type(a.dtype, np.complex64)

    def whole(m: Array) -> tuple:
        return tuple(np.linalg.eig(m)) if vectors else (np.linalg.eigvals(m),)

    return _each(a, whole, lambda m: (*_empty(*((n,), (n, n))[: 1 + vectors], like=m, dtype=d), 1))


def svd(a: Array, full: bool) -> tuple:
    """Return U, singular values in descending order, V^H and info."""
    m, n = a.shape[-2:]
    k, (rows, cols) = min(m, n), ((m, n) if full else (min(m, n),) * 2)
    if not k:
        lead = a.shape[:-2]
        u, v = np.eye(m, rows, dtype=a.dtype), np.eye(cols, n, dtype=a.dtype)
        return (
            np.broadcast_to(u, (*lead, m, rows)),
            np.zeros((*lead, 0), a.real.dtype),
            np.broadcast_to(v, (*lead, cols, n)),
            _info(a),
        )
    return _each(
        a, lambda x: tuple(np.linalg.svd(x, full)), lambda x: (*_empty((m, rows), (k,), (cols, n), like=x), 1)
    )


def svdvals(a: Array) -> tuple[Array, Array]:
    """Return singular values in descending order, and info."""
    k = min(a.shape[-2:])
    if not k:
        return np.zeros((*a.shape[:-2], 0), a.real.dtype), _info(a)

    def failed(m: Array) -> tuple:
        return (*_empty((k,), like=m), 1)

    return _each(a, lambda m: (np.linalg.svd(m, compute_uv=False),), failed)  # type: ignore[return-value]


# Functions of a matrix.


def slogdet(a: Array) -> tuple[Array, Array]:
    """Return the sign and the logarithm of the absolute value of determinants."""
    sign, value = np.linalg.slogdet(a)
    return sign, value


def det(a: Array) -> tuple[Array]:
    """Return determinants."""
    return (np.asarray(np.linalg.det(a)),)


def adjugate(a: Array) -> tuple[Array]:
    """Return det(a) inv(a), which exists for singular matrices too: by their singular values."""
    value, info = inverse(a)
    found = np.linalg.det(a)[..., None, None] * value
    if info.any():
        u, s, v = np.linalg.svd(a)
        others = np.where(np.eye(s.shape[-1], dtype=bool), 1, s[..., None, :]).prod(-1)
        unit = np.asarray(np.linalg.det(u @ v))[..., None, None]
        by_values = (
            unit * (np.conj(np.swapaxes(v, -2, -1)) * others[..., None, :]) @ np.conj(np.swapaxes(u, -2, -1))
        )
        found = np.where((info > 0)[..., None, None], by_values, found)
    return (found,)


_PADE = (
    64764752532480000, 32382376266240000, 7771770303897600, 1187353796428800, 129060195264000, 10559470521600,
    670442572800, 33522128640, 1323241920, 40840800, 960960, 16380, 182, 1,
)  # fmt: skip


def expm(a: Array) -> tuple[Array]:
    """Return matrix exponentials, in double precision.

    Source: Higham, "The scaling and squaring method for the matrix exponential revisited" (2005), degree 13.
    """
    if not a.size:
        return (a,)
    wide = a.astype(np.result_type(a.dtype, np.float64))
    norm = np.abs(wide).sum(-2).max(-1)
    squarings = np.where(
        norm > 5.371920351148152, np.ceil(np.log2(np.maximum(norm, 1e-30) / 5.371920351148152)), 0
    )
    squarings = np.where(np.isfinite(squarings), squarings, 0).astype(np.int64)
    x = wide * np.exp2(-squarings.astype(np.float64))[..., None, None]
    one, b = np.eye(a.shape[-1]), [float(c) for c in _PADE]
    x2 = x @ x
    x4 = x2 @ x2
    x6 = x4 @ x2
    u = x @ (x6 @ (b[13] * x6 + b[11] * x4 + b[9] * x2) + b[7] * x6 + b[5] * x4 + b[3] * x2 + b[1] * one)
    v = x6 @ (b[12] * x6 + b[10] * x4 + b[8] * x2) + b[6] * x6 + b[4] * x4 + b[2] * x2 + b[0] * one
    y = solve(v - u, v + u)[0]
    for k in range(int(squarings.max(initial=0))):
        y = np.where((squarings > k)[..., None, None], y @ y, y)
    return (y.astype(a.dtype),)
