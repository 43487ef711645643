"""bfloat16 products on the matrix unit, and by multiply-adds of pairs: against float64, in every layout, form of packing and division of work."""
from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from kernel_bench import Prepared, assemble
from test_matmul_kernels import make, operand, run

from fanal.core.backends.contract import Launch
from fanal.core.backends.cpu import epilogue as epi
from fanal.core.backends.cpu import target as targets
from fanal.core.backends.cpu.matmul import matmul_launches
from fanal.core.backends.cpu.target import Target
from fanal.core.base import dtype as dt

HALF = ml_dtypes.bfloat16
HOST = targets.host()
needs_tiles = pytest.mark.skipif(not HOST.tiles, reason="no matrix unit")


@pytest.fixture(params=["tiles", "pairs"])
def target(request: pytest.FixtureRequest) -> Target:
    """This machine, multiplying bfloat16 the one way or the other."""
    if request.param == "tiles" and not HOST.tiles:
        pytest.skip("no matrix unit")
    if request.param == "pairs" and "+avx512bf16" not in HOST.features:
        pytest.skip("no multiply-adds of pairs")
    return replace(HOST, tiles=request.param == "tiles", pairs=request.param == "pairs")


def check(got: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    want, bound = wide_a @ wide_b, np.abs(wide_a) @ np.abs(wide_b)
    # Rounding to 8 bits once, and float32 sums.
    assert (np.abs(got.astype(np.float64) - want) <= 2.0 ** -8 * np.abs(want) + 1e-6 * bound).all()


@pytest.mark.parametrize("swap_b", [False, True])
@pytest.mark.parametrize("swap_a", [False, True])
@pytest.mark.parametrize("m, k, n", [(1, 1, 1), (40, 96, 70), (150, 300, 200), (7, 0, 8), (20, 37, 33)])
def test_layouts_and_edges(m: int, k: int, n: int, swap_a: bool, swap_b: bool, target: Target) -> None:
    a, b = make((m, k), HALF, swap_a), make((k, n), HALF, swap_b)
    got = run(a, b, target=target)
    check(got, a, b)
    assert (run(a, b, cuts=3, target=target) == got).all()
    assert (run(a[:1], b, target=target) == got[:1]).all() and (run(a[m // 2:], b, target=target) == got[m // 2:]).all()


def test_blocks_of_k(target: Target) -> None:
    a, b = make((160, 9000), HALF), make((9000, 40), HALF)
    got = run(a, b, target=target)
    check(got, a, b)
    assert (run(a, b, cuts=3, target=target) == got).all() and (run(a[:40], b, target=target) == got[:40]).all()


@needs_tiles
def test_b_goes_past_the_first_cache_where_rows_of_a_stay() -> None:
    """Whatever the size of the cache, the bits are the same."""
    a, b = make((100, 448), HALF), make((448, 150), HALF)
    got = [run(a, b, target=replace(HOST, l1=size << 10)) for size in (8, 48, 256)]
    check(got[0], a, b)
    assert (got[0] == got[1]).all() and (got[0] == got[2]).all()
    out, kernels = np.empty((100, 150), HALF), set()
    for size in (8, 48, 256):
        entries = matmul_launches(operand(0, a), operand(1, b), operand(2, out), None, replace(HOST, l1=size << 10))
        kernels.add(next(e.kernel.name for e in entries if isinstance(e, Launch) and e.flops))
    assert len(kernels) == 2


def test_strides_and_batches(target: Target) -> None:
    for a, b in ((make((40, 120), HALF)[:, ::2], make((60, 80), HALF)[:, ::2]),
                 (make((2, 3, 40, 60), HALF), make((3, 50, 60), HALF).swapaxes(-1, -2))):
        check(run(a, b, target=target), a, b)


@pytest.mark.parametrize("m, n", [(64, 64), (45, 50)])
def test_epilogue(m: int, n: int, target: Target) -> None:
    a, b, bias = make((m, 64), HALF), make((64, n), HALF), make((n,), HALF)
    tail = epi.chain(epi.bias(3, dt.bfloat16), epi.relu())
    plain = run(a, b, target=target).astype(np.float32)
    want = np.maximum((plain + bias.astype(np.float32)).astype(HALF), 0)
    assert (run(a, b, replace(tail, dtype=dt.bfloat16), {3: bias}, target=target) == want).all()


def test_special_values(target: Target) -> None:
    a, b = make((20, 40), HALF), make((40, 20), HALF)
    a[3, 39], a[5, 0], b[7, 4] = np.inf, np.nan, 1e-40
    got = run(a, b, target=target)
    assert np.isnan(got[5].astype(np.float32)).all() and np.isinf(got[3].astype(np.float32)).all()
    rest = [r for r in range(20) if r not in (3, 5)]
    check(got[rest], a[rest], b)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("cpu, tiles", [("sapphirerapids", True), ("znver5", False)])
def test_object_code(cpu: str, tiles: bool, swap: bool) -> None:
    target = replace(targets.named("avx512"), cpu=cpu, tiles=tiles, pairs=not tiles)
    a, b, out = make((150, 300), HALF, swap), make((300, 200), HALF, swap), np.empty((150, 200), HALF)
    for entry in matmul_launches(operand(0, a), operand(1, b), operand(2, out), target=target):
        if isinstance(entry, Launch):
            assert len(assemble(entry, target)) > 500


def test_a_new_batch_size_compiles_nothing(target: Target) -> None:
    b = make((64, 128), HALF)

    def names(rows: int) -> set[str]:
        a, out = make((rows, 64), HALF), np.empty((rows, 128), HALF)
        entries = matmul_launches(operand(0, a), operand(1, b), operand(2, out), target=target)
        Prepared(entries, {0: a, 1: b, 2: out}, target)()
        return {e.kernel.name for e in entries if isinstance(e, Launch)}
    assert names(32) == names(64) == names(65) == names(100)
