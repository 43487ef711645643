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
    agree("cosine_similarity", r(3, 4), r(3, 4), eps=2.0, second=False)  # norms below it


def test_operator() -> None:
    a = torch.arange(6.0).reshape(2, 3)
    assert (array(ours(a) @ ours(a.T)) == array(a @ a.T)).all()
    with pytest.raises(TypeError):
        fanal.ones(2, 2) @ "x"


@pytest.mark.parametrize(("m", "k", "n"), [(3, 5, 7), (70, 130, 40), (1, 64, 33), (0, 4, 3), (4, 0, 3)])
@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_int_mm(kind: str, m: int, k: int, n: int) -> None:
    low, high = (0, 256) if kind == "uint8" else (-128, 128)
    r = torch.Generator().manual_seed(0)
    a = torch.randint(low, high, (m, k), generator=r).to(getattr(torch, kind))
    b = torch.randint(-128, 128, (k, n), generator=r, dtype=torch.int8)
    want = torch._int_mm(a, b)
    x, y, turned = (fanal.tensor(t.numpy()) for t in (a, b, b.t().contiguous()))
    for _ in range(2):  # recorded, then compiled
        for got in (fanal._int_mm(x, y), fanal._int_mm(x, turned.t())):
            assert got.dtype is fanal.int32 and (got.numpy() == want.numpy()).all()
        scaled = fanal._int_mm(x, y).float() * 0.5
        assert (scaled.numpy() == want.numpy() * 0.5).all()


def test_int_mm_errors() -> None:
    def errors(of: object) -> list[str]:
        a, b = of.ones(3, 5, dtype=of.int8), of.ones(5, 7, dtype=of.int8)
        found = []
        for x, y in ((a, b.t()), (a.float(), b), (a, b.int()), (a[0], b), (a, b[None])):
            with pytest.raises(RuntimeError) as error:
                of._int_mm(x, y)
            found.append(str(error.value))
        return found
    assert errors(fanal) == errors(torch)
