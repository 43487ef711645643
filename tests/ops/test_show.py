"""Tensors are written as torch writes them."""
from __future__ import annotations

import copy
import pickle

import pytest
import torch

import fanal

TENSORS = """m.tensor(1.) | m.tensor([1., 2.]) | m.tensor([1, 2]) | m.tensor([True, False]) | m.tensor([1e10, 1.]) | m.tensor([1e-10, 1.])
m.tensor([float('nan'), float('inf'), 1.]) | m.tensor([]) | m.zeros(2, 0) | m.tensor([[1., 2], [3, 4.5]]) | m.tensor([1 + 2j]) | m.tensor(-1.5)
m.tensor(1.5, dtype=m.float64) | m.tensor([1.5], dtype=m.half) | m.tensor([1], dtype=m.int32) | m.tensor([1.], requires_grad=True)
m.tensor([1.], requires_grad=True) * 2 | m.zeros(30, 40) | m.arange(2000) | m.zeros(2, 3, 4) | m.zeros(2, device='meta') | m.tensor([1e5, 1.])
m.tensor([1e8]) | m.tensor([2e8]) | m.tensor([123456.]) | m.tensor([.00001]) | m.tensor([1., 1000.5]) | m.tensor([3., 4.e5]) | m.tensor(1e20)
m.tensor([1., float('inf')]) | m.tensor([2 ** 60, -1]) | m.tensor([1. + 0j, 1e10j, -1 - 2.5j]) | m.zeros(0, dtype=m.int64) | m.arange(30.) / 7
m.arange(60.).reshape(2, 3, 10) * 1000 | m.tensor([1.5, 2.25], dtype=m.bfloat16) | m.zeros(40, 3, dtype=m.int16) | m.zeros(1, 2000)
m.ones(7, dtype=m.float64).requires_grad_() | m.tensor(float('nan')) | m.tensor(True) | m.nn.Parameter(m.ones(2))""".replace("\n", " | ").split(" | ")


@pytest.mark.parametrize("code", TENSORS)
def test_text(code: str) -> None:
    ours, theirs = (eval(code, {"m": m}) for m in (fanal, torch))
    assert repr(ours) == repr(theirs) and str(ours) == str(theirs) and f"{ours}" == f"{theirs}"


@pytest.mark.parametrize("options", [{"precision": 2}, {"profile": "full"}, {"profile": "short"}, {"sci_mode": True},
                                     {"linewidth": 40}, {"edgeitems": 1, "threshold": 5}])
def test_options(options: dict) -> None:
    texts = []
    for m in (fanal, torch):
        m.set_printoptions(**options)
        texts.append([repr(m.arange(40.) / 3), repr(m.zeros(50, 3))])
        m.set_printoptions(profile="default")
    assert texts[0] == texts[1]


def test_copies() -> None:
    x = fanal.arange(6.0).reshape(2, 3).t().requires_grad_()
    for y in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert y.tolist() == x.tolist() and y.requires_grad and y.stride() == x.stride()
        assert y.data_ptr() != x.data_ptr()
    base = fanal.zeros(4)
    a, b = copy.deepcopy([base, base[1:]])
    a[2] = 5
    assert b.tolist() == [0.0, 5.0, 0.0] and base.tolist() == [0.0] * 4


def test_storage() -> None:
    x = fanal.arange(3, dtype=fanal.int32)
    assert x.untyped_storage().nbytes() == 12 and x.storage().tolist() == [0, 1, 2] and len(x.storage()) == 3
    assert x[1:].data_ptr() == x.data_ptr() + 4 and x.untyped_storage() == x[1:].untyped_storage()
    t = torch.arange(3, dtype=torch.int32)
    assert repr(x.untyped_storage()) == repr(t.untyped_storage())


def test_limits() -> None:
    for name in ("float16", "bfloat16", "float32", "float64"):
        ours, theirs = fanal.finfo(getattr(fanal, name)), torch.finfo(getattr(torch, name))
        assert repr(ours) == repr(theirs)
        assert all(getattr(ours, k) == getattr(theirs, k) for k in ("bits", "eps", "max", "min", "tiny", "resolution", "dtype"))
    assert repr(fanal.iinfo(fanal.uint8)) == repr(torch.iinfo(torch.uint8))


def test_format_of_a_parameter_and_saturated_float8() -> None:
    for make in (
        lambda lib: f"{lib.tensor(0.5)}",
        lambda lib: f"{lib.nn.Parameter(lib.tensor(0.5))}",
        lambda lib: repr(lib.tensor([448.0, 500.0, -1e9, float("inf"), float("nan")]).to(lib.float8_e4m3fn)),
        lambda lib: repr(lib.tensor([448.0, 7e4, -1e9, float("inf"), float("nan")]).to(lib.float8_e5m2)),
    ):
        assert make(fanal) == make(torch)
