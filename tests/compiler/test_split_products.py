"""float32 products in parts on the matrix unit: as exact as multiply-adds, and bits that only shapes decide."""
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from kernel_bench import Prepared, assemble
from test_matmul_kernels import make, operand
from test_tile_products import needs_tiles

import fanal
from fanal.core.backends.contract import Launch
from fanal.core.backends.cpu import epilogue as epi
from fanal.core.backends.cpu import jit
from fanal.core.backends.cpu import target as targets
from fanal.core.backends.cpu.matmul import matmul_launches
from fanal.core.base import dtype as dt
from fanal.core.compiler.graph import FEW, Split, Value, split
from fanal.core.engine.ledger import ledger
from tests.ops.functional import array

MANY = FEW + 1


def run(a: np.ndarray, b: np.ndarray, cuts: int = 1, order: int = 1, tail: Any = None,
        extra: dict[int, np.ndarray] | None = None) -> np.ndarray:
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    out = np.full((*lead, a.shape[-2], b.shape[-1]), 7, np.float32)
    entries = matmul_launches(operand(0, a), operand(1, b), operand(2, out), tail, split=Split(MANY, MANY, order) if order else None)
    with np.errstate(all="ignore"):
        Prepared(entries, {0: a, 1: b, 2: out, **(extra or {})}, cuts=cuts)()
    return out


def errors(got: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return errors by what is added up."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    return np.abs(got - wide_a @ wide_b) / (np.abs(wide_a) @ np.abs(wide_b))


def same(x: np.ndarray, y: np.ndarray) -> bool:
    return bool(((x == y) | (np.isnan(x) & np.isnan(y))).all())


@needs_tiles
@pytest.mark.parametrize("swap_b", [False, True])
@pytest.mark.parametrize("swap_a", [False, True])
@pytest.mark.parametrize("m, k, n", [(1, 64, 70), (33, 197, 300), (70, 900, 100), (150, 31, 17)])
def test_layouts_and_edges(m: int, k: int, n: int, swap_a: bool, swap_b: bool) -> None:
    a, b = make((m, k), swap=swap_a), make((k, n), swap=swap_b)
    got = run(a, b)
    plain, worst = errors(run(a, b, order=0), a, b), errors(got, a, b)
    assert worst.max() < 2.5e-7 and np.sqrt((worst ** 2).mean()) < 1.2 * np.sqrt((plain ** 2).mean())
    assert same(run(a, b, cuts=3), got)
    assert same(run(a[m // 2:], b), got[m // 2:])
    assert same(run(a, b[:, :n - 5]), got[:, :n - 5])
    assert same(run(b.T, a.T, order=-1).T, got)  # the transposed product, summed as this one


@needs_tiles
def test_numbers_of_many_sizes() -> None:
    rng = np.random.default_rng(0)
    a, b = (x * np.exp(rng.normal(0, 8, x.shape)).astype(np.float32) for x in (make((60, 100)), make((100, 80))))
    assert errors(run(a, b), a, b).max() < 1e-6
    whole = rng.integers(-200, 200, (64, 100)).astype(np.float32)
    assert (run(whole, whole.T) == whole @ whole.T).all()
    turned = np.eye(100, dtype=np.float32)[rng.permutation(100)]
    assert (run(turned, b) == turned @ b).all() and (run(b.T, turned) == b.T @ turned).all()


@needs_tiles
def test_what_has_no_parts() -> None:
    """Infinity, NaN and what rounds to infinity: only what depends on them does."""
    a, b = make((40, 300)), make((300, 90))
    clean = run(a, b)
    a[3, 5], a[7, 7], b[20, 30], b[100, 50] = np.inf, np.nan, -np.inf, np.nan
    a.view(np.uint32)[9, 0] = 0x7FFFFFFF  # a NaN that carries into the sign
    a[11, 3], b[3, 40] = np.finfo(np.float32).max, np.finfo(np.float32).max
    b[3, 41], a[12, 20] = 0, 0
    got = run(a, b)
    with np.errstate(all="ignore"):
        want = a.astype(np.float64) @ b.astype(np.float64)
        narrow = (a @ b).astype(np.float64)
    assert (np.isnan(got) == np.isnan(want)).all()
    assert (np.isinf(got) == np.isinf(narrow)).all()
    assert (np.sign(got) == np.sign(want))[np.isinf(got)].all()
    assert np.allclose(got[11], narrow[11], rtol=1e-5, equal_nan=True)
    rows, columns = (np.delete(np.arange(n), touched) for n, touched in ((40, (3, 7, 9, 11, 12)), (90, (30, 40, 41, 50))))
    assert (got[np.ix_(rows, columns)] == clean[np.ix_(rows, columns)]).all()


@needs_tiles
def test_strides_and_batches() -> None:
    for a, b in ((make((40, 200))[:, ::2], make((100, 160))[:, ::2]),
                 (make((2, 3, 40, 70)), make((3, 50, 70)).swapaxes(-1, -2))):
        got = run(a, b)
        assert errors(got, a, b).max() < 2.5e-7 and same(run(a, b, cuts=5), got)
        a[..., 1, 1] = np.nan
        assert (np.isnan(run(a, b)) == np.isnan(a.astype(np.float64) @ b.astype(np.float64))).all()


@needs_tiles
@pytest.mark.parametrize("m, n", [(64, 64), (45, 50)])
def test_epilogue(m: int, n: int) -> None:
    a, b, bias = make((m, 400)), make((400, n)), make((n,))
    tail = epi.chain(epi.bias(3, dt.float32), epi.relu())
    assert (run(a, b, tail=tail, extra={3: bias}) == np.maximum(run(a, b) + bias, 0)).all()


def test_object_code() -> None:
    target = replace(targets.named("avx512"), cpu="sapphirerapids", tiles=True)
    for swap in (False, True):
        a, b, out = make((150, 300), swap=swap), make((300, 200), swap=swap), np.empty((150, 200), np.float32)
        for entry in matmul_launches(operand(0, a), operand(1, b), operand(2, out), target=target, split=Split(MANY, MANY)):
            if isinstance(entry, Launch):
                assert len(assemble(entry, target)) > 500


def test_shapes_decide() -> None:
    def given(*shape: int, dtype: Any = dt.float32) -> Value:
        return Value(None, (), (), shape, dtype)
    assert split(given(2, 64, 128), given(128, 512)) == (128, 128, 1)
    assert split(given(2, 64, 128), given(2, 128, 512)) is split(given(512, 512), given(512, 63)) is None
    wide = given(512, 512, dtype=dt.float64)
    assert split(wide, wide) is None
    assert Split(FEW, MANY).few and Split(MANY, FEW).few and not Split(MANY, MANY).few


@needs_tiles
@pytest.mark.parametrize("swap", [False, True])
def test_few_are_multiplied_in_order_by_the_kernels_of_many(swap: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A last partial batch compiles nothing, and has the bits of a program of its own."""
    known: set[str] = set()
    monkeypatch.setattr(jit, "known", known.__contains__)
    for rows, k in ((MANY, 300), (FEW, 300), (7, 300), (1, 300), (60, FEW), (60, 2)):
        a, b, out = make((rows, k)), make((k, 200), swap=swap), np.empty((rows, 200), np.float32)
        entries = matmul_launches(operand(0, a), operand(1, b), operand(2, out), sparing=bool(known),
                                  split=Split(rows, k))
        names = {e.kernel.name for e in entries if isinstance(e, Launch)}
        known |= names if rows == MANY else set()
        assert names <= known
        Prepared(entries, {0: a, 1: b, 2: out})()
        assert same(out, run(a, b, order=int(rows == MANY)))


def step(t: Any, look: bool) -> list[np.ndarray]:
    """A layer of which one token goes on, and products that are read, or only their transposes."""
    made = np.random.default_rng(0)
    x, w, u = (t.tensor(made.normal(0, 0.1, s).astype(np.float32), requires_grad=True)
               for s in ((4, 70, 128), (128, 160), (160, 96)))
    hidden = t.relu(x @ w)
    if look:
        hidden.sum().item()
    y = (hidden @ u)
    if look:
        y.sum().item()
    y[:, 0].sin().sum().backward()
    product = x.detach()[0] @ w.detach()
    if look:
        product.sum().item()
    return [array(v) for v in (y.detach()[:, 0], x.grad, w.grad, u.grad, (product.t() * 2).contiguous())]


def test_bits_do_not_depend_on_what_is_read() -> None:
    ledger.executables.clear()
    plain = step(fanal, False)
    for mine, read, theirs in zip(plain, step(fanal, True), step(torch, False), strict=True):
        assert (mine == read).all()
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
