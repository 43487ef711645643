"""Matrix products, einsum and distances against torch."""
from __future__ import annotations

import pytest
import torch

import fanal
from tests.ops.functional import Draw, agree, array, ours

SHAPES = [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 4)), ((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((5, 2, 3),
          (3,)), ((3,), (5, 3, 2)),
          ((2, 3), (5, 3, 2)), ((5, 2, 3), (5, 3, 2)), ((5, 1, 2, 3), (4, 3, 2)), ((2, 3), (4, 5)), ((2, 3),
          (4,)), ((3,), (4, 5)),
          ((5, 2, 3), (4, 3)), ((5, 2, 3), (5, 4, 3)), ((), (3,)), ((2, 2, 3), (5, 3, 2)), ((5, 2, 3),
          (4,)), ((5, 2, 0), (0, 4))]
FORMULAS = [("ij,jk->ik", [(2, 3), (3, 4)]), ("bij,bjk->bik", [(5, 2, 3), (5, 3, 4)]), ("ii->i", [(3, 3)]),
            ("ii", [(3, 3)]),
            ("...ij,...jk->...ik", [(2, 1, 2, 3), (4, 3, 5)]), ("i,j->ij", [(2,), (3,)]),
            ("ij->", [(2, 3)]), ("ijj->ij", [(2, 3, 3)]),
            ("abc,cd,de->abe", [(2, 3, 4), (4, 5), (5, 6)]), ("i,i,i->i", [(3,), (3,), (3,)]),
            ("a...b->b...", [(2, 3, 4)]),
            ("ij,jk->ik", [(2, 1), (3, 4)]), ("ij,jk->ik", [(2, 5), (3, 4)]), ("ij,jk->iz", [(2, 3),
            (3, 4)]), ("ij,jk", [(2, 3)]),
            ("i.j", [(2, 3)]), ("ij->ii", [(2, 3)]), ("i1->i", [(2, 3)]), ("ii", [(2, 3)])]


@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_matmul_of_every_rank(a: tuple, b: tuple) -> None:
    r = Draw(0)
    agree("matmul", r(*a), r(*b))


@pytest.mark.parametrize(("formula", "shapes"), FORMULAS)
def test_einsum(formula: str, shapes: list) -> None:
    r = Draw(1)
    agree("einsum", formula, *[r(*s) for s in shapes])


def test_products() -> None:
    r = Draw(2)
    agree("addmm", r(4), r(2, 3), r(3, 4), beta=0.5, alpha=2)
    agree("addmm", torch.full((2, 4), float("nan"), dtype=torch.float64), r(2, 3), r(3, 4), beta=0)
    agree("addmm", r(5), r(2, 3), r(3, 4))
    agree("baddbmm", r(2, 4), r(5, 2, 3), r(5, 3, 4), beta=2.0)
    agree("addbmm", r(2, 4), r(5, 2, 3), r(5, 3, 4), alpha=2.0)
    agree("addbmm", r.ints(9, 2, 4), r.ints(9, 5, 2, 3), r.ints(9, 5, 3, 4), alpha=2.6)
    agree("addmv", r(2), r(2, 3), r(3))
    agree("addr", r(2, 3), r(2), r(3))
    agree("tensordot", r(2, 3, 4), r(4, 5, 3), dims=([1, 2], [2, 1]))
    agree("chain_matmul", r(2, 3), r(3, 4), r(4, 1))
    agree("kron", r(2, 3), r(4))
    agree("cross", r(2, 3), r(2, 3))
    agree("inner", r(2, 3), r(4, 2))
    agree("mm", r(2, 3), r(3, 4, grad=False, dtype=torch.float32))
    agree("bilinear", r(2, 5, 3), r(2, 5, 4), r(6, 3, 4), r(6))


def test_linear() -> None:
    r = Draw(3)
    agree("linear", r(2, 5, 3), r(4, 3), r(4))
    agree("linear", r(3), r(4, 3), r(4))
    agree("linear", r(2, 3), r(3))
    agree("linear", r(4, 5408), r(10, 1000), r(10))
    agree("linear", r(4, 3), r(2, 3), r(5))
    agree("linear", r(4, 3, dtype=torch.float32), r(2, 3), r(2, dtype=torch.float32))


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0, 2.0, 3.0, float("inf")])
def test_distances(p: float) -> None:
    r = Draw(4)
    agree("cdist", r(2, 5, 3), r(2, 4, 3), p=p, second=False)
    agree("pdist", r(5, 3), p, second=False)


def test_many_distances_by_product() -> None:
    r = Draw(5)
    agree("cdist", r(30, 3), r(4, 3), second=False)
    agree("pairwise_distance", r(3, 4), r(3, 4), p=3.0, keepdim=True)
    agree("cosine_similarity", r(3, 4), r(3, 4))
    agree("cosine_similarity", r(), r(), dim=0, second=False)


def test_operator() -> None:
    a = torch.arange(6.0).reshape(2, 3)
    assert (array(ours(a) @ ours(a.T)) == array(a @ a.T)).all()
    with pytest.raises(TypeError):
        fanal.ones(2, 2) @ "x"
