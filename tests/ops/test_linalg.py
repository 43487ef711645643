"""torch.linalg and its older names against torch: values, gradients of two orders, named results, errors.

A case is written once, for either module. Signs and phases that are free are taken out in the case itself.
"""
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import fanal


def spd(m: Any, a: Any) -> Any:
    """Return a well-conditioned positive-definite matrix made of `a`."""
    return a @ a.mH + 2 * m.eye(a.shape[-1], dtype=a.dtype)


def regular(m: Any, a: Any) -> Any:
    """Return a well-conditioned matrix made of `a`."""
    return a + 3 * m.eye(a.shape[-1], dtype=a.dtype)


def symmetric(m: Any, a: Any) -> Any:
    """Return a Hermitian matrix with eigenvalues apart."""
    return a + a.mH + m.diag(4.0 * m.arange(a.shape[-1])).to(a.dtype)


def size(*xs: Any) -> list[Any]:
    """Return absolute values."""
    return [x.abs() for x in xs]


def eig_invariants(m: Any, a: Any) -> list[Any]:
    values, vectors = m.linalg.eig(a + m.diag(6.0 * m.arange(a.shape[-1])).to(a.dtype))
    return [values, vectors.abs()]


def least_squares(m: Any, a: Any, b: Any) -> Any:
    return m.linalg.lstsq(a, b).solution


Q33, Q44, B33, W35, T53 = (3, 3), (4, 4), (2, 3, 3), (3, 5), (5, 3)
CASES: dict[str, tuple[Callable, list[tuple[int, ...]]]] = {
    "cholesky": (lambda m, a: m.linalg.cholesky(spd(m, a)), [B33]),
    "cholesky upper": (lambda m, a: m.linalg.cholesky(spd(m, a), upper=True), [Q33]),
    "cholesky_ex": (lambda m, a: m.linalg.cholesky_ex(spd(m, a)).L, [Q33]),
    "cholesky_solve": (lambda m, a, b: m.cholesky_solve(b, m.cholesky(spd(m, a))), [B33, (2, 3, 2)]),
    "cholesky_inverse": (lambda m, a: m.cholesky_inverse(m.cholesky(spd(m, a), upper=True), upper=True), [Q33]),
    "qr square": (lambda m, a: size(*m.linalg.qr(a)), [B33]),
    "qr tall": (lambda m, a: size(*m.linalg.qr(a)), [T53]),
    "qr wide": (lambda m, a: size(*m.linalg.qr(a)), [W35]),
    "qr complete wide": (lambda m, a: size(*m.qr(a, some=False)), [W35]),
    "householder_product": (lambda m, a, t: m.linalg.householder_product(a / 2, t / 2), [(2, 5, 3), (2, 2)]),
    "ormqr": (lambda m, a, t, c: m.ormqr(a / 2, t / 2, c), [T53, (3,), (5, 2)]),
    "ormqr right": (lambda m, a, t, c: m.ormqr(a / 2, t / 2, c, left=False, transpose=True), [T53, (3,), (2, 5)]),
    "lu": (lambda m, a: list(m.linalg.lu(regular(m, a)))[1:], [B33]),
    "lu wide": (lambda m, a: list(m.linalg.lu(a))[1:], [W35]),
    "lu tall": (lambda m, a: list(m.linalg.lu(a))[1:], [T53]),
    "lu_factor": (lambda m, a: m.linalg.lu_factor(a).LU, [B33]),
    "lu_unpack": (lambda m, a: list(m.lu_unpack(*m.linalg.lu_factor(a))), [T53]),
    **{f"lu_solve {left} {adjoint}": (
        lambda m, a, b, left=left, adjoint=adjoint: m.linalg.lu_solve(
            *m.linalg.lu_factor(a), b, left=left, adjoint=adjoint), [B33, (2, 3, 3)])
       for left in (True, False) for adjoint in (True, False)},
    "inv": (lambda m, a: m.linalg.inv(regular(m, a)), [B33]),
    "solve": (lambda m, a, b: m.linalg.solve(regular(m, a), b), [B33, (4, 1, 3, 2)]),
    "solve vector": (lambda m, a, b: m.linalg.solve(regular(m, a), b), [Q33, (3,)]),
    "solve right": (lambda m, a, b: m.linalg.solve(regular(m, a), b, left=False), [B33, (2, 2, 3)]),
    "solve_triangular": (lambda m, a, b: m.linalg.solve_triangular(regular(m, a).triu(), b, upper=True), [B33, (3, 2)]),
    "solve_triangular right": (
        lambda m, a, b: m.linalg.solve_triangular(a.tril(), b, upper=False, left=False, unitriangular=True),
        [Q33, (2, 3)]),
    "triangular_solve": (lambda m, a, b: m.triangular_solve(b, regular(m, a), upper=False, transpose=True).solution,
                         [B33, (3, 2)]),
    "lstsq": (least_squares, [T53, (5, 2)]), "lstsq wide": (least_squares, [W35, (3,)]),
    "tensorinv": (lambda m, a: m.linalg.tensorinv(regular(m, a).reshape(2, 2, 4)), [Q44]),
    "tensorsolve": (lambda m, a, b: m.linalg.tensorsolve(regular(m, a).reshape(2, 2, 4), b), [Q44, (2, 2)]),
    "det": (lambda m, a: m.linalg.det(a), [B33]),
    "slogdet": (lambda m, a: list(m.linalg.slogdet(a)), [B33]),
    "logdet": (lambda m, a: m.logdet(spd(m, a)), [Q33]),
    "matrix_exp": (lambda m, a: m.matrix_exp(a), [B33]),
    "matrix_power": (lambda m, a: m.matrix_power(a, 5), [Q33]),
    "matrix_power -2": (lambda m, a: m.linalg.matrix_power(regular(m, a), -2), [Q33]),
    "pinv tall": (lambda m, a: m.linalg.pinv(a), [T53]), "pinv wide": (lambda m, a: m.pinverse(a), [W35]),
    "pinv hermitian": (lambda m, a: m.linalg.pinv(symmetric(m, a), hermitian=True), [Q33]),
    "trace": (lambda m, a: a.trace(), [W35]),
    "vander": (lambda m, a: m.linalg.vander(a, N=4), [(2, 3)]),
    "eigh": (lambda m, a: [m.linalg.eigh(symmetric(m, a))[0], m.linalg.eigh(symmetric(m, a))[1].abs()], [B33]),
    "eigh upper": (lambda m, a: m.linalg.eigh(a, UPLO="U").eigenvalues, [Q33]),
    "eigvalsh": (lambda m, a: m.linalg.eigvalsh(symmetric(m, a)), [B33]),
    "eig": (eig_invariants, [Q33]), "eigvals": (lambda m, a: m.linalg.eigvals(a).abs().sum(-1), [B33]),
    "svd tall": (lambda m, a: [x.abs() for x in m.linalg.svd(a, full_matrices=False)], [T53]),
    "svd wide": (lambda m, a: [x.abs() for x in m.linalg.svd(a, full_matrices=False)], [W35]),
    "svd phase": (lambda m, a: m.svd(a).U @ m.svd(a).V.mH, [Q33]),
    "svdvals": (lambda m, a: m.linalg.svdvals(a), [(2, 3, 4)]),
    **{f"matrix_norm {o}": (lambda m, a, o=o: m.linalg.matrix_norm(a, o, keepdim=True), [(2, 3, 4)])
       for o in ("fro", "nuc", 1, -1, 2, -2, float("inf"), -float("inf"))},
    **{f"vector_norm {o}": (lambda m, a, o=o: m.linalg.vector_norm(a, o, dim=-1), [(2, 3)])
       for o in (0.5, 1, 2, 2.5, 3, float("inf"), -float("inf"))},
    "norm nuc": (lambda m, a: m.norm(a, "nuc"), [W35]), "norm": (lambda m, a: a.norm(dim=(0, 1)), [W35]),
    **{f"cond {p}": (lambda m, a, p=p: m.linalg.cond(regular(m, a), p), [B33])
       for p in (None, -2, 1, "fro", "nuc", float("inf"))},
    "dist": (lambda m, a, b: m.dist(a, b, 3), [W35, (5,)]),
    "renorm": (lambda m, a: m.renorm(a, 2, 0, 1.5), [(3, 4)]),
    "cov": (lambda m, a: m.cov(a, aweights=m.tensor([0.5, 1.0, 2.0, 0.1], dtype=m.float64)), [(3, 4)]),
    "corrcoef": (lambda m, a: m.corrcoef(a), [(3, 4)]),
    "vecdot": (lambda m, a, b: m.linalg.vecdot(a, b, dim=0), [(3, 4), (3, 4)]),
    "multi_dot": (lambda m, a, b, c: m.linalg.multi_dot([a, b, c]), [W35, (5, 2), (2, 6)]),
}


def flat(x: Any) -> list[Any]:
    return list(x) if isinstance(x, (list, tuple)) else [x]


def both(shape: tuple[int, ...], dtype: Any, k: int) -> tuple[Any, Any]:
    t = torch.randn(shape, generator=torch.Generator().manual_seed(k), dtype=dtype)
    return t.requires_grad_(), fanal.tensor(t.detach().numpy().copy()).requires_grad_()


def close(a: Any, b: Any, tol: float, what: str) -> None:
    a, b = a.detach(), b.detach()
    assert str(a.dtype) == str(b.dtype) and tuple(a.shape) == tuple(b.shape), what
    np.testing.assert_allclose(np.array(a.tolist()), np.array(b.tolist()), tol, tol, err_msg=what)


def differentiate(m: Any, ys: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return the gradients of a fixed real function of the results, and the gradients of their squares."""
    total = sum((y.abs() ** 2 + 0.3 * (y.real if y.dtype.is_complex else y)).sum() for y in ys)
    first = m.autograd.grad(total, xs, create_graph=True)
    again = m.autograd.grad(sum((g.abs() ** 2).sum() for g in first), xs, allow_unused=True)
    return list(first), [m.zeros_like(x) if g is None else g for g, x in zip(again, xs)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=["real", "complex"])
@pytest.mark.parametrize("name", CASES)
def test_against_torch(name: str, dtype: Any) -> None:
    fn, shapes = CASES[name]
    theirs, mine = zip(*(both(s, dtype, k) for k, s in enumerate(shapes)))
    want, got = flat(fn(torch, *theirs)), flat(fn(fanal, *mine))
    for a, b in zip(got, want, strict=True):
        close(a, b, 1e-9, "value")
    want = [y for y in want if y.requires_grad]
    got = [y for y in got if y.requires_grad]
    try:
        first, second = differentiate(torch, want, list(theirs))
    except (RuntimeError, NotImplementedError):  # torch has no second derivative
        return
    found, again = differentiate(fanal, got, list(mine))
    for a, b in zip(found, first):
        close(a, b, 1e-8, "gradient")
    for a, b in zip(again, second):
        close(a, b, 1e-6, "second derivative")


def test_gradient_of_a_singular_determinant() -> None:
    for rank in (2, 1):
        a = torch.randn(3, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        a = (a @ a.T).requires_grad_()
        b = fanal.tensor(a.detach().numpy().copy()).requires_grad_()
        torch.linalg.det(a).backward()
        fanal.linalg.det(b).backward()
        close(b.grad, a.grad, 1e-9, "gradient")


def test_eigenvalues_repeat() -> None:
    """What is not asked for is not computed: equal eigenvalues make no NaN."""
    a = fanal.eye(3, requires_grad=True)
    fanal.linalg.eigh(a).eigenvalues.sum().backward()
    assert (a.grad == fanal.eye(3)).all()
    b = fanal.eye(3, requires_grad=True)
    fanal.linalg.svd(b).S.sum().backward()
    assert (b.grad == fanal.eye(3)).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=["real", "complex"])
@pytest.mark.parametrize("hermitian", [False, True])
def test_ldl(dtype: Any, hermitian: bool) -> None:
    for k in range(8):
        a = torch.randn(2, 7, 7, dtype=dtype, generator=torch.Generator().manual_seed(k))
        a = a + (a.mH if hermitian else a.mT)
        want = torch.linalg.ldl_factor(a, hermitian=hermitian)
        got = fanal.linalg.ldl_factor(fanal.tensor(a.numpy().copy()), hermitian=hermitian)
        assert got.pivots.tolist() == want.pivots.tolist()
        close(got.LD, want.LD, 1e-9, "LD")
        b = torch.randn(7, 2, dtype=dtype)
        x = fanal.linalg.ldl_solve(got.LD, got.pivots, fanal.tensor(b.expand(2, 7, 2).numpy().copy()), hermitian=hermitian)
        close(x, torch.linalg.solve(a, b.expand(2, 7, 2)), 1e-8, "solution")


@pytest.mark.parametrize("n", [1, 40, 97])
def test_lu_by_blocks(n: int) -> None:
    for shape in ((n, n), (n, n + 30), (n + 30, n), (2, n, n)):
        a = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
        want, got = torch.linalg.lu_factor(a), fanal.linalg.lu_factor(fanal.tensor(a.numpy().copy()))
        assert got.pivots.tolist() == want.pivots.tolist()
        close(got.LU, want.LU, 1e-9, "LU")


NAMES = {
    "cholesky_ex": ("L", "info"), "eig": ("eigenvalues", "eigenvectors"), "eigh": ("eigenvalues", "eigenvectors"),
    "inv_ex": ("inverse", "info"), "ldl_factor": ("LD", "pivots"), "ldl_factor_ex": ("LD", "pivots", "info"),
    "lu": ("P", "L", "U"), "lu_factor": ("LU", "pivots"), "lu_factor_ex": ("LU", "pivots", "info"), "qr": ("Q", "R"),
    "slogdet": ("sign", "logabsdet"), "svd": ("U", "S", "Vh")}


@pytest.mark.parametrize("name", NAMES)
def test_named_results(name: str) -> None:
    for a in (2 * torch.eye(3), torch.zeros(2, 0, 0), torch.zeros(0, 3, 3)):
        want, got = getattr(torch.linalg, name)(a), getattr(fanal.linalg, name)(fanal.tensor(a.numpy()))
        assert type(got).__name__ == type(want).__name__
        for field in NAMES[name]:
            close(getattr(got, field), getattr(want, field), 1e-6, field)


ERRORS: list[Callable] = [
    *(functools.partial(lambda m, f, s: getattr(m.linalg, f)(m.zeros(s)), f=f, s=s)
      for f in ("cholesky", "inv", "det", "slogdet", "eigh", "eig", "matrix_exp", "ldl_factor") for s in ((3,), (2, 3))),
    *(functools.partial(lambda m, f: getattr(m.linalg, f)(m.ones(3, 3, dtype=m.int64)), f=f)
      for f in ("cholesky", "inv", "det", "svd", "qr", "matrix_norm", "vector_norm", "lu_factor", "eigh", "eig")),
    lambda m: m.linalg.cholesky(-m.eye(3)), lambda m: m.cholesky(m.zeros(2, 3, 3)),
    lambda m: m.linalg.inv(m.zeros(3, 3)), lambda m: m.inverse(m.diag(m.tensor([1.0, 0.0])).expand(2, 2, 2)),
    lambda m: m.linalg.solve(m.zeros(3, 3), m.ones(3)), lambda m: m.linalg.solve(m.stack([m.eye(2), m.zeros(2, 2)]), m.eye(2)),
    lambda m: m.linalg.solve(m.eye(3), m.ones(4, 2)), lambda m: m.linalg.solve(m.eye(3), m.ones(3, dtype=m.float64)),
    lambda m: m.linalg.lu_factor(m.zeros(3, 3)), lambda m: m.linalg.matrix_power(m.zeros(3, 3), -1),
    lambda m: m.cholesky_inverse(m.zeros(3, 3)), lambda m: m.linalg.qr(m.eye(2), mode="x"),
    lambda m: m.linalg.eigh(m.eye(2), UPLO="X"), lambda m: m.linalg.matrix_norm(m.eye(2), 3),
    lambda m: m.linalg.norm(m.zeros(2, 2, 2), 2), lambda m: m.linalg.vector_norm(m.zeros(0), float("inf")),
    lambda m: m.linalg.cond(m.eye(2), "x"), lambda m: m.linalg.tensorinv(m.eye(3), ind=0),
    lambda m: m.linalg.householder_product(m.zeros(2, 3), m.zeros(2)), lambda m: m.linalg.lstsq(m.ones(3), m.ones(3)),
    *(functools.partial(lambda m, f: getattr(m.linalg, f)(m.full((3, 3), float("nan"))), f=f)
      for f in ("cholesky", "svd", "svdvals", "matrix_rank")),
    lambda m: m.linalg.lu(m.eye(2), pivot=False), lambda m: m.cov(m.zeros(2, 2, 2)),
]


@pytest.mark.parametrize("call", ERRORS, ids=range(len(ERRORS)))
def test_errors(call: Callable) -> None:
    with pytest.raises(Exception) as want:
        call(torch)
    with pytest.raises(Exception) as got:
        call(fanal)
    singular = isinstance(want.value, torch.linalg.LinAlgError)
    assert isinstance(got.value, fanal.linalg.LinAlgError if singular else type(want.value))
    text = str(want.value).split("\n")[0]
    assert str(got.value).split("\n")[0] == text.replace(" inf norm", f" {float('inf')} norm")


def test_a_failure_leaves_nothing_behind() -> None:
    """The error comes at the call, and what was pending then is computed as if nothing had happened."""
    x = fanal.ones(3)
    x.add_(1)
    kept = []
    for k in range(4):
        x.mul_(2)
        try:
            kept.append(fanal.linalg.cholesky(fanal.eye(2) * (1.5 - k)))
        except fanal.linalg.LinAlgError as e:
            kept.append(str(e))
    assert x.tolist() == [32.0] * 3
    assert kept[1][0, 0].item() == pytest.approx(0.5**0.5) and all("leading minor" in t for t in kept[2:])


def test_methods_and_out() -> None:
    a = 2 * fanal.eye(3)
    assert a.det().item() == 8 and a.inverse().tolist() == (fanal.eye(3) / 2).tolist() and a.slogdet().sign.item() == 1
    out = fanal.empty(0)
    assert fanal.linalg.inv(a, out=out) is out and out[0, 0].item() == 0.5
    pair = (fanal.empty(0), fanal.empty(0))
    assert fanal.linalg.eigh(a, out=pair).eigenvalues is pair[0] and pair[0].tolist() == [2.0] * 3
    values, vectors = fanal.lobpcg(fanal.diag(fanal.arange(9.0)), k=2)
    assert values.tolist() == [8.0, 7.0] and vectors.abs().argmax(0).tolist() == [8, 7]


def test_low_rank() -> None:
    a = torch.randn(20, 3, dtype=torch.float64) @ torch.randn(3, 12, dtype=torch.float64)
    for t in (a, a.T):
        u, s, v = fanal.svd_lowrank(fanal.tensor(t.numpy().copy()), q=4)
        close((u * s) @ v.mH, t, 1e-9, "product")
        u, s, v = fanal.pca_lowrank(fanal.tensor(t.numpy().copy()), q=4)
        close((u * s) @ v.mH, t - t.mean(0), 1e-9, "centred product")


def test_the_class_of_errors_has_pytorchs_names() -> None:
    ours, theirs = fanal.linalg.LinAlgError, torch.linalg.LinAlgError
    assert ours is fanal._C._LinAlgError
    assert (ours.__name__, ours.__qualname__, ours.__module__) == (theirs.__name__, theirs.__qualname__, theirs.__module__)
