"""Sparse tensors against PyTorch: results, layouts, text, gradients and errors."""
from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from oracle import run

import fanal

GIVEN = """
s = m.sparse_coo_tensor([[0, 1, 1, 0], [2, 0, 2, 2]], [3., 4., 5., 1.], (2, 3))
d = m.arange(6.).reshape(2, 3) + 1
e = m.arange(12.).reshape(3, 4) - 3
c = (d - 3).relu().to_sparse_csr()
h = m.sparse_coo_tensor([[0, 2, 0]], [[1., 2.], [3., 4.], [5., 6.]], (3, 2))
"""


def both(code: str) -> tuple[Any, Any]:
    """Run statements that leave `y` on both sides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run(GIVEN + code, fanal), run(GIVEN + code, torch)


def same(a: Any, b: Any) -> None:
    """Assert that two tensors agree in layout, dtype, shape and values."""
    if isinstance(a, Exception):
        raise a
    assert str(a.layout) == str(b.layout) and str(a.dtype) == str(b.dtype) and tuple(a.shape) == tuple(b.shape)
    np.testing.assert_allclose(np.array(a.to_dense().tolist()), np.array(b.to_dense().tolist()), rtol=1e-6)


@pytest.mark.parametrize("code", [
    "s", "s.coalesce()", "h", "h.coalesce()", "c", "d.to_sparse()", "d.to_sparse(1)", "d.to_sparse(layout=m.sparse_csr)",
    "s.to_sparse_csr()", "c.to_sparse_coo()", "c.to_sparse()", "d.sparse_mask(s.coalesce())", "s.double()", "s.to(m.float64)",
    "s @ e", "s.mm(e)", "m.mm(s, e)", "m.sparse.mm(s, e)", "s @ e[:, 0]", "s.mv(e[:, 0])", "c @ e", "e.t() @ s.t()",
    "m.sparse.mm(s, e.to_sparse())", "s @ e.to_sparse()", "c @ e.to_sparse_csr()",
    *(f"m.sparse.mm(c, e, '{r}')" for r in ("sum", "mean", "amax", "amin")), "m.spmm(s, e)",
    "m.sparse.addmm(m.ones(2, 4), s, e, beta=2., alpha=.5)", "m.addmm(m.ones(2, 4), s, e)",
    "m.sparse.sampled_addmm(c, m.ones(2, 4), m.ones(4, 3), beta=0.5, alpha=2.)",
    "s + s", "s - 2 * s", "s * 2", "2 * s", "s / 2", "s * s", "s * d", "d + s", "h + h", "-s", "s.sqrt()", "m.sin(s)", "s.abs()",
    "s ** 2", "c * 2", "s.t()", "s.transpose(0, 1)", "m.cat([s, s])", "m.cat([s, s], 1)", "s[1]", "h[0]", "s.select(1, 2)",
    "m.sparse.sum(s, 0)", "m.sparse.sum(s, (0, 1))", "m.sparse.sum(d.to_sparse(1), 1)", "m.sparse.sum(h, 0)",
    "m.sparse.softmax(s, 1)", "m.sparse.log_softmax(s, 0)", "m.sparse.softmax(h, 1)", "m.zeros_like(s)", "s.clone()", "s.detach()",
    "m.sparse_coo_tensor((2, 3))", "m.sparse_coo_tensor([[0, 1]], [[1., 2.], [3., 4.]])", "m.zeros(3, 0).to_sparse()",
    "m.tensor(3.).to_sparse()", "m.sparse_coo_tensor([[0, 1]], [1, 2], dtype=m.float64)",
    "m.sparse_csr_tensor([0, 1, 2], [1, 0], [1., 2.])", "(d > 2).to_sparse()", "m.complex(d, d).to_sparse()"])
def test_results(code: str) -> None:
    a, b = both("y = " + code)
    same(a, b)


@pytest.mark.parametrize("code", [
    "s", "h", "c", "c.double()", "s.coalesce()", "m.sparse_coo_tensor((2, 3))", "s.double()", "s.clone().requires_grad_()",
    "m.sparse_csr_tensor([0, 1, 2], [1, 0], [1., 2.], dtype=m.float64)", "m.arange(400.).reshape(20, 20).to_sparse()"])
def test_text(code: str) -> None:
    a, b = both("y = " + code)
    assert repr(a) == repr(b) and str(a) == str(b)


@pytest.mark.parametrize("code", [
    "s._nnz(), s.is_sparse, s.layout, s.shape, s.size(0), s.dim(), s.ndim, s.sparse_dim(), s.dense_dim(), s.dtype, s.numel()",
    "h.sparse_dim(), h.dense_dim(), h.is_coalesced(), h.coalesce().is_coalesced(), len(h), d.layout, d.is_sparse, c.is_sparse",
    "s.coalesce().indices().tolist(), s.coalesce().values().tolist(), s._indices().tolist(), s._values().tolist()",
    "c.crow_indices().tolist(), c.col_indices().tolist(), c.values().tolist(), c.is_sparse_csr, isinstance(s, m.Tensor)",
    "s.sum().item(), m.is_tensor(s), s.requires_grad, s.is_leaf, d.sparse_dim(), d.dense_dim()"])
def test_parts(code: str) -> None:
    a, b = both("y = " + code)
    assert repr(a) == repr(b)


@pytest.mark.parametrize("code", [
    "w = m.tensor([1., 2.], requires_grad=True)\nq = m.sparse_coo_tensor([[0, 1], [1, 2]], w, (2, 3))\n(q @ e).pow(2).sum().backward()",
    "w = d.clone().requires_grad_()\n(w.to_sparse() @ e).pow(2).sum().backward()",
    "w = d.clone().requires_grad_()\n(w.to_sparse_csr() @ e).pow(2).sum().backward()",
    "w = e.requires_grad_()\n(s @ e).pow(2).sum().backward()",
    "w = d.clone().requires_grad_()\nm.sparse.softmax(w.to_sparse(), 1).to_dense().pow(2).sum().backward()",
    "w = d.clone().requires_grad_()\nm.sparse.sum(w.to_sparse(), 0).to_dense().pow(2).sum().backward()",
    "w = d.clone().requires_grad_()\nm.sparse.mm(w.to_sparse(), e.to_sparse()).to_dense().pow(2).sum().backward()",
    "w = s.coalesce().requires_grad_()\nw.to_dense().pow(2).sum().backward()",
    "w = s.coalesce().requires_grad_()\nm.sparse.mm(w, e).pow(2).sum().backward()"])
def test_gradients(code: str) -> None:
    a, b = both(code + "\ny = w.grad.to_dense()")
    same(a, b)


@pytest.mark.parametrize("code", [
    "s.indices()", "s.values()", "d.values()", "d.crow_indices()", "s.exp()", "s + d", "s.numpy()", "s.view(6)", "s.relu_()", "s @ d",
    "m.sparse_coo_tensor([[0, 1]], [1., 2., 3.], (3,))", "m.sparse_coo_tensor([[0, 1]], [1., 2.], (3, 3))", "d.to_sparse(3)",
    "m.sparse.mm(c, e, 'median')", "m.sparse.sampled_addmm(c, m.ones(2, 4), m.ones(3, 3))"])
def test_errors(code: str) -> None:
    a, b = both("y = " + code)
    assert isinstance(b, Exception), b
    assert isinstance(a, type(b)), (a, b)


def test_indices_outside_the_size() -> None:
    """PyTorch checks this only where it is asked to; what it then computes is memory of something else."""
    with pytest.raises(RuntimeError, match="size is inconsistent with indices"):
        fanal.sparse_coo_tensor([[0, 5]], [1.0, 2.0], (3,))
    with pytest.raises(RuntimeError, match="negative index"):
        fanal.sparse_coo_tensor([[0, -5]], [1.0, 2.0], (3,))


def test_products_of_a_sparse_tensor_made_beside_an_optimizer():
    code = ("import fanal; fanal.optim.Adagrad, fanal.optim.SparseAdam;"
            "print((fanal.eye(2).to_sparse() @ fanal.ones(2, 3)).tolist())")
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout == "[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]\n"


def test_legacy_types():
    """The constructors of older graph networks."""
    def made(m):
        i, v = m.tensor([[0, 1], [1, 0]]), m.tensor([2., 3.])
        a, b = m.sparse.FloatTensor(i, v, m.Size([2, 3])), m.sparse.LongTensor(i, v.long())
        empty = m.sparse.DoubleTensor(2, 3)
        kinds = [isinstance(x, t) for x in (a, b, empty) for t in (m.sparse.FloatTensor, m.sparse.LongTensor)]
        return [[x.to_dense().tolist(), str(x.dtype), x._nnz()] for x in (a, b, empty)], kinds

    assert made(fanal) == made(torch)
