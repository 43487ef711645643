"""LAPACK called from kernels, against the same factorisations by NumPy (`factor`), in all dtypes and shapes."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fanal.core.backends.cpu.backend import default
from fanal.core.backends.cpu.lapack import library
from fanal.core.backends.cpu.run import Executable
from fanal.core.base import dtype as dt
from fanal.core.compiler.pipeline import lower
from fanal.core.compiler.steps import HostStep
from fanal.core.ir import prims as P
from fanal.core.ir.program import Program
from fanal.core.ir.row import reference

pytestmark = pytest.mark.skipif(library() is None, reason="NumPy has no LAPACK with 64-bit integers")
DTYPES = (dt.float32, dt.float64, dt.complex64, dt.complex128)
RNG = np.random.default_rng(0)


def random(d: dt.dtype, *shape: int) -> np.ndarray:
    x = RNG.standard_normal(shape)
    return (x + 1j * RNG.standard_normal(shape) if d.is_complex else x).astype(d.np)


def definite(d: dt.dtype, *shape: int) -> np.ndarray:
    a = random(d, *shape)
    return a @ np.conj(np.swapaxes(a, -2, -1)) + np.eye(shape[-1], dtype=d.np)


def run(arrays: list[np.ndarray], *params: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return every part by the kernel, and by NumPy."""
    inputs = [P.input_(a.shape, dt.from_numpy(a.dtype)) for a in arrays]
    y = P.lapack(tuple(inputs), *params)
    lowered = lower(Program(inputs, [y], [y]), default())
    assert not any(isinstance(s, HostStep) for s in lowered.steps)
    (got,) = Executable(lowered).run(arrays)
    want = reference(y)(*arrays)
    parts, at = [], 0
    from fanal.core.ir.prims.lapack import ROUTINES
    for s in ROUTINES[params[0]].shapes(*arrays[0].shape[-2:], arrays[-1].shape[-1], *params[1:]):
        n = int(np.prod(s))
        parts.append(tuple(x[..., at:at + n].reshape((*x.shape[:-1], *s)) for x in (got, want)))
        at += n
    return parts


def same(parts: list[tuple[np.ndarray, np.ndarray]], d: dt.dtype, but_signs: bool = False) -> None:
    rtol = 2e-3 if d.to_real() is dt.float32 else 1e-9
    for got, want in parts:
        if but_signs:
            got, want = np.abs(got), np.abs(want)
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * np.nanmax(np.abs(want), initial=0))


@pytest.mark.parametrize("d", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 5, 40])
def test_square(d: dt.dtype, n: int) -> None:
    a, s, b = random(d, 3, n, n) + 3 * n ** 0.5 * np.eye(n, dtype=d.np), definite(d, 3, n, n), random(d, 3, n, 4)
    for params in (("cholesky",), ("inverse",), ("ldl", False), ("ldl", True)):
        same(run([s], *params), d)
    for name in ("lu", "slogdet", "inverse"):
        same(run([a], name), d)
    if n < 40:
        same(run([a], "det"), d)
    same(run([a, b], "solve"), d)
    for upper in (False, True):
        for unit in (False, True):
            t = a / (4 * n) if unit else a
            same(run([np.ascontiguousarray(np.triu(t) if upper else np.tril(t)), b], "triangular", upper, unit), d)
    for upper in (False, True):
        t = np.linalg.cholesky(s)
        same(run([np.ascontiguousarray(np.conj(np.swapaxes(t, -2, -1))) if upper else t], "from_cholesky", upper), d)
    factor, pivots, _ = (x for _, x in run([s], "ldl", False))
    same(run([np.ascontiguousarray(factor), np.ascontiguousarray(pivots[..., None, :]), b], "ldl_solve", False), d)
    for name in ("eigh", "eigvalsh"):
        same(run([s], name), d, but_signs=True)


@pytest.mark.parametrize("d", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 3, 5), (4, 4), (37, 20)])
def test_orthogonal(d: dt.dtype, shape: tuple[int, ...]) -> None:
    a = random(d, *shape)
    for params in (("qr", False), ("qr", True), ("reflectors",), ("lu",)):
        same(run([a], *params), d)
    same(run([a], "svdvals"), d)
    for full in (False, True):
        (u, _), (s, _), (vh, _), _ = parts = run([a], "svd", full)
        same(parts[1:2], d)
        k = s.shape[-1]
        same([(u[..., :k] * s[..., None, :].astype(d.np) @ vh[..., :k, :], a)], d)
        same([(m @ np.conj(np.swapaxes(m, -2, -1)), np.eye(m.shape[-2]) + np.zeros_like(m[..., :1, :1]))
              for m in (np.conj(np.swapaxes(u, -2, -1)), vh)], d)


@pytest.mark.parametrize("d", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 3, 5), (37, 20)])
def test_least_squares(d: dt.dtype, shape: tuple[int, ...]) -> None:
    a, b = random(d, *shape), random(d, *shape[:-1], 4)
    least = np.full((*shape[:-2], 1, 1), 1e-4, d.np)
    same(run([a, least, b], "least_squares"), d)
    a[..., 1] = 2 * a[..., 0]
    (x, want), (rank, same_rank) = run([a, least, b], "least_squares")
    same([(x, want)], d)
    assert (rank == same_rank).all() and (rank == min(shape[-2], shape[-1] - 1)).all()


@pytest.mark.parametrize("d", DTYPES, ids=str)
def test_general_spectra(d: dt.dtype) -> None:
    a = random(d, 3, 6, 6)
    (values, _), (vectors, _), _ = run([a], "eig")
    same([(a @ vectors, vectors * values[..., None, :])], d)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-2), 1, rtol=1e-5)
    (alone, _), _ = run([a], "eigvals")
    same([(np.sort_complex(alone), np.sort_complex(values))], d)


@pytest.mark.parametrize("back", [False, True])
def test_row_order(back: bool) -> None:
    pivots = np.array([[[3.0, 3, 5, 4]], [[1, 2, 3, 4]]])
    (got, want), = run([pivots], "row_order", 5, back)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("d", DTYPES, ids=str)
def test_failures_are_told_as_by_the_reference(d: dt.dtype) -> None:
    """The matrix that fails is NaN, and its info is the place of the pivot in its own factors; the others are right."""
    a, b = random(d, 3, 4, 4), random(d, 3, 4, 2)
    a[1, :, 1] = 0
    s = definite(d, 3, 4, 4)
    s[1, 2, 2] = -9
    nothing = s.copy()
    nothing[2, 1, 1] = np.nan
    for arrays, name in (([a], "inverse"), ([a, b], "solve"), ([a], "lu"), ([a], "det"), ([s], "cholesky")):
        same(run(arrays, name), d)
    assert [bool(i) for i in run([nothing], "cholesky")[1][0].real] == [False, True, True]
    for name in ("eig", "svdvals"):
        assert [bool(i) for i in run([nothing], name)[-1][0].real] == [False, False, True], name
