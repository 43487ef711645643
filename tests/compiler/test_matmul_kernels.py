"""The generated matrix products against float64: every tail, layout, batch form, target and division of work."""
from __future__ import annotations

import math
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from kernel_bench import Prepared, assemble

from fanal.core.backends.contract import Buf, Launch, Temp
from fanal.core.backends.cpu import epilogue as epi
from fanal.core.backends.cpu import jit
from fanal.core.backends.cpu import target as targets
from fanal.core.backends.cpu.matmul import Operand, choose_tile, matmul_launches
from fanal.core.backends.cpu.matmul_ir import DOWN, MB, MC, NB
from fanal.core.base import dtype as dt
from fanal.core.base.dim import Dims

RNG = np.random.default_rng(0)
X86 = targets.host().triple.startswith("x86")
FORCED = ["avx2", "sse2"] if X86 else []


def make(shape: tuple[int, ...], dtype: object = np.float32, swap: bool = False) -> np.ndarray:
    if swap:
        return make((*shape[:-2], shape[-1], shape[-2]), dtype).swapaxes(-1, -2)
    return RNG.standard_normal(shape).astype(dtype)


def operand(value_id: int, x: np.ndarray) -> Operand:
    return Operand(value_id, dt.from_numpy(x.dtype), x.shape, tuple(s // x.itemsize for s in x.strides))


def run(a: np.ndarray, b: np.ndarray, epilogue=None, extra=None, target=None, cuts=1, out=None,
        sparing=False) -> np.ndarray:
    if out is None:
        lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        out = np.full((*lead, a.shape[-2], b.shape[-1]), 7, a.dtype)
    entries = matmul_launches(operand(0, a), operand(1, b), operand(2, out), epilogue, target, sparing)
    Prepared(entries, {0: a, 1: b, 2: out, **(extra or {})}, target, cuts)()
    return out


def check(a: np.ndarray, b: np.ndarray, target=None, **options: object) -> None:
    got = run(a, b, target=target, **options)
    want = a.astype(np.float64) @ b.astype(np.float64)
    bound = np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64)) + 1e-300
    eps = {np.dtype(np.float64): 2.3e-16, np.dtype(np.float32): 1.2e-7}.get(got.dtype, 8e-3)
    assert got.shape == want.shape
    assert (np.abs(got.astype(np.float64) - want) <= bound * eps * max(4, a.shape[-1] ** 0.5)).all()


@pytest.mark.parametrize("swap_b", [False, True])
@pytest.mark.parametrize("swap_a", [False, True])
@pytest.mark.parametrize("m, k, n", [(1, 1, 1), (1, 5, 130), (2, 9, 31), (3, 3, 3), (13, 17, 33), (14, 16, 32),
                                     (15, 40, 47), (29, 3, 65), (64, 32, 10), (33, 1, 100)])
def test_tails_and_layouts(m: int, k: int, n: int, swap_a: bool, swap_b: bool) -> None:
    check(make((m, k), swap=swap_a), make((k, n), swap=swap_b))


@pytest.mark.parametrize("rows", range(1, 32))
def test_every_number_of_rows(rows: int) -> None:
    check(make((rows, 24)), make((24, 40)))


@pytest.mark.parametrize("m, k, n, swap_a, swap_b", [
    (200, 300, 190, False, False), (200, 300, 190, True, True), (150, 1700, 70, False, False),
    (300, 900, 130, True, False), (20, 800, 1100, False, True), (31, 1000, 2, False, True),
    (600, 40, 600, True, False)])
def test_packed_and_blocked(m: int, k: int, n: int, swap_a: bool, swap_b: bool) -> None:
    check(make((m, k), swap=swap_a), make((k, n), swap=swap_b))


@pytest.mark.parametrize("m, k, n, swap", [(130, 60, 90, False), (40, 600, 70, True), (17, 5000, 80, False)])
def test_operands_whose_steps_are_far_apart(m: int, k: int, n: int, swap: bool) -> None:
    wide = make((k, 2000), swap=False)[:, 30:30 + m].T if swap else make((m, k + 1500))[:, 100:100 + k]
    b = make((k, n))
    check(wide, b)
    assert (run(wide, b) == run(np.ascontiguousarray(wide), b)).all()
    assert (run(wide, b, cuts=3) == run(wide, b)).all()


@pytest.mark.parametrize("k", [255, 256, 2047, 2048, 2049, 4100])
def test_sums_of_any_length_go_over_k_in_order(k: int) -> None:
    # Blocks of k, rows read in place or packed and tiles of any shape give one chain of multiply-adds for an element.
    a, b = make((20, k)), make((k, 70))
    whole = run(a, b)
    assert (run(a[:1], b[:, :1])[0, 0] == whole[0, 0]) and (run(a[3:], b[:, 64:]) == whole[3:, 64:]).all()


@pytest.mark.parametrize("name", FORCED)
@pytest.mark.parametrize("m, k, n, swap_a, swap_b", [
    (5, 7, 9, False, False), (16, 12, 16, True, False), (17, 33, 41, False, True), (80, 900, 100, False, False),
    (1, 12, 20, False, False), (300, 20, 64, True, True), (1, 64, 70, False, True), (3, 37, 50, False, True)])
def test_other_instruction_sets(name: str, m: int, k: int, n: int, swap_a: bool, swap_b: bool) -> None:
    target = targets.named(name)
    for dtype in (np.float32, np.float64):
        a, b = make((m, k), dtype, swap_a), make((k, n), dtype, swap_b)
        check(a, b, target=target)
        plain, curve = run(a, b, target=target), epi.chain(epi.function("erf"), epi.function("tanh"))
        bent = np.tanh(np.vectorize(math.erf)(plain))
        assert np.allclose(run(a, b, curve, target=target), bent, atol=1e-6)


@pytest.mark.parametrize("name", ["avx512", "avx2", "sse2", "neon"])
def test_object_code_for_every_target(name: str) -> None:
    target = targets.named(name)
    for m, k, n, swap_a, swap_b in ((17, 33, 41, False, True), (300, 900, 128, True, False)):
        a, b = make((m, k), swap=swap_a), make((k, n), swap=swap_b)
        out = np.empty((m, n), np.float32)
        curve = epi.chain(epi.function("erf"), epi.function("tanh"))
        for entry in matmul_launches(operand(0, a), operand(1, b), operand(2, out), curve, target):
            if isinstance(entry, Launch):
                assert len(assemble(entry, target)) > 500


@pytest.mark.parametrize("m, k, n, swap_a, swap_b", [
    (9, 13, 21, False, False), (40, 900, 70, True, True), (200, 30, 200, False, True)])
def test_float64(m: int, k: int, n: int, swap_a: bool, swap_b: bool) -> None:
    check(make((m, k), np.float64, swap_a), make((k, n), np.float64, swap_b))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("m, k, n, swap_a, swap_b", [
    (9, 13, 21, False, False), (30, 900, 70, True, True), (200, 30, 200, False, True)])
def test_half_types_accumulate_in_float32(dtype, m: int, k: int, n: int, swap_a: bool, swap_b: bool) -> None:
    a, b = make((m, k), dtype, swap_a), make((k, n), dtype, swap_b)
    check(a, b)
    exact = run(a.astype(np.float32), b.astype(np.float32))
    plain = replace(targets.host(), tiles=False, pairs=False)  # these add in another order: test_tile_products
    assert (run(a, b, target=plain) == exact.astype(dtype)).all()
    if X86:
        check(a, b, target=targets.named("avx2"))


def test_strides_without_a_contiguous_axis() -> None:
    a, b = make((20, 60))[:, ::3], make((40, 70))[::2, ::2]
    check(a, b)
    check(make((60, 60))[::2, ::2], make((30, 50)))
    check(make((40, 30)), make((60, 400))[::2, ::2])


@pytest.mark.parametrize("a_shape, b_shape, swap_b", [
    ((4, 7, 9), (4, 9, 20), False), ((4, 7, 9), (9, 20), False), ((7, 9), (5, 9, 20), True),
    ((3, 1, 7, 9), (1, 4, 9, 20), False), ((3, 4, 7, 9), (3, 1, 9, 20), True), ((6, 1, 9), (9, 20), False),
    ((48, 64, 32), (48, 32, 64), True), ((2, 200, 30), (2, 30, 300), False)])
def test_batches(a_shape: tuple[int, ...], b_shape: tuple[int, ...], swap_b: bool) -> None:
    check(make(a_shape), make(b_shape, swap=swap_b))


def test_heads_inside_the_feature_axis() -> None:
    # The layout of attention: (B, T, H, D) read as (B, H, T, D), three operands with different steps.
    qkv = make((3, 10, 3 * 4 * 8)).reshape(3, 10, 3, 4, 8)
    q, k = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in (0, 1))
    check(q, k.swapaxes(-1, -2))
    out = np.zeros((3, 10, 4, 8), np.float32)
    probabilities = make((3, 4, 10, 10))
    run(probabilities, q, out=out.transpose(0, 2, 1, 3))
    assert np.allclose(out.transpose(0, 2, 1, 3), probabilities @ q, atol=1e-5)


def test_output_contiguous_along_rows() -> None:
    a, b = make((20, 30)), make((30, 41))
    out = np.zeros((41, 20), np.float32)
    run(a, b, out=out.T)
    assert np.allclose(out.T, a @ b, atol=1e-5)


def test_zero_sizes() -> None:
    for m, k, n in ((0, 3, 4), (3, 4, 0), (0, 0, 0)):
        assert run(make((m, k)), make((k, n))).shape == (m, n)
    for m, n in ((3, 4), (40, 70)):
        assert (run(make((m, 0)), make((0, n))) == 0).all()


@pytest.mark.parametrize("m, k, n", [(9, 8, 21), (33, 16, 64), (29, 900, 65), (300, 20, 130)])
def test_epilogues(m: int, k: int, n: int) -> None:
    a, b, bias, other = make((m, k)), make((k, n)), make((n,)), make((m, n))
    plain = run(a, b)
    tail = epi.chain(epi.bias(3, dt.float32), epi.relu(), epi.residual(4, dt.float32))
    assert (run(a, b, tail, {3: bias, 4: other}) == np.maximum(plain + bias, 0) + other).all()
    rows = make((m,))
    assert (run(a, b, epi.row_bias(3, dt.float32), {3: rows}) == plain + rows[:, None]).all()
    assert np.allclose(run(a, b, epi.function("tanh")), np.tanh(plain), atol=1e-6)
    total = other.copy()
    run(a, b, epi.residual(2, dt.float32), out=total)
    assert (total == plain + other).all()


def test_epilogue_with_a_second_output() -> None:
    def emit(site: epi.Site, acc):
        site.store(0, site.offset, acc)
        return site.e.mul(acc, acc)
    a, b, before = make((17, 12)), make((12, 37)), np.zeros((17, 37), np.float32)
    square = epi.Epilogue("keep-square", emit, (Buf(3),), 6, writes=(3,))
    out = run(a, b, square, {3: before})
    assert (before == run(a, b)).all() and (out == before * before).all()


@pytest.mark.parametrize("shape, swap_a, swap_b", [
    (((100, 90), (90, 200)), False, False), (((300, 1000), (1000, 90)), True, True),
    (((5, 31, 20), (5, 20, 33)), False, True)])
def test_any_division_of_the_work_gives_the_same_bits(shape, swap_a: bool, swap_b: bool) -> None:
    a, b = make(shape[0], swap=swap_a), make(shape[1], swap=swap_b)
    whole = run(a, b)
    for cuts in (2, 3, 7):
        assert (run(a, b, cuts=cuts) == whole).all()


@pytest.mark.parametrize("shape, swap_b", [(((32, 1024), (1024, 256)), False), (((20, 256), (256, 1024)), True),
                                           (((300, 1024), (1024, 300)), False), (((5, 31, 20), (5, 20, 33)), False)])
def test_copies_of_rows_change_no_bits(shape, swap_b: bool) -> None:
    a, b = make(shape[0]), make(shape[1], swap=swap_b)
    copied, in_place = (replace(targets.host(), copies=copies) for copies in (True, False))
    whole = run(a, b, target=copied)
    for cuts in (1, 2, 7):
        assert (run(a, b, target=in_place, cuts=cuts) == whole).all()


def test_bits_of_a_row_do_not_depend_on_the_other_rows() -> None:
    a, b = make((300, 900)), make((900, 70))
    whole = run(a, b)
    for rows in (1, 2, 5, 13, 40):
        assert (run(a[:rows], b) == whole[:rows]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("k, n", [(0, 40), (5, 32), (16, 33), (37, 130), (300, 1100)])
def test_few_rows_have_the_bits_of_many(k: int, n: int, swap: bool, dtype: type) -> None:
    a, b = make((20, k), dtype), make((k, n), dtype, swap)
    whole = run(a, b)
    for rows in (1, 2, 4):
        assert (run(a[:rows], b) == whole[:rows]).all() and (run(a[:rows], b, cuts=3) == whole[:rows]).all()
    total, other = make((3, n), dtype), make((n,), dtype)
    kind = dt.from_numpy(np.dtype(dtype))
    want = whole[:3] + other + total
    run(a[:3], b, epi.chain(epi.bias(3, kind), epi.residual(2, kind)), {3: other}, out=total)
    assert (total == want).all()


@pytest.mark.parametrize("rows", [1, 3])
def test_few_rows_meet_matrices_of_a_stack_where_they_lie(rows: int) -> None:
    a, b = make((2, 3, 10, 37)), make((3, 2, 37, 70), swap=True).swapaxes(0, 1)
    few = a[:, :, :rows]
    out = np.zeros((2, 3, rows, 70), np.float32)
    launch, = matmul_launches(operand(0, few), operand(1, b), operand(2, out))
    assert isinstance(launch, Launch) and launch.scratch == 0  # nothing is packed
    whole = run(a, b)[:, :, :rows]
    assert (run(few, b) == whole).all() and (run(few, b, cuts=5) == whole).all()
    other = make(out.shape)
    assert (run(few, b, epi.residual(3, dt.float32), {3: other}) == whole + other).all()


def test_a_new_batch_size_compiles_nothing() -> None:
    def names(rows: int) -> set[str]:
        a, b, out = make((rows, 64)), make((64, 128)), np.empty((rows, 128), np.float32)
        entries = matmul_launches(operand(0, a), operand(1, b), operand(2, out))
        return {e.kernel.name for e in entries if not isinstance(e, Temp)}
    assert names(32) == names(64) == names(65) == names(100) == names(128)


@pytest.mark.parametrize("target", [None, *FORCED])
@pytest.mark.parametrize("m, k, n, swap_a, swap_b", [
    (32, 64, 128, False, False), (32, 64, 128, False, True), (33, 10, 30, False, True), (20, 5000, 130, False, False),
    (128, 7, 64, True, False), (200, 900, 600, False, False), (15, 3000, 33, False, True)])
def test_fewer_rows_take_the_kernels_of_more(m: int, k: int, n: int, swap_a: bool, swap_b: bool, target: str | None,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """A last partial batch compiles nothing, whatever its rows, and has the same bits."""
    made = targets.named(target) if target else None
    a, b = make((m, k), swap=swap_a), make((k, n), swap=swap_b)
    known: set[str] = set()
    monkeypatch.setattr(jit, "known", known.__contains__)

    def names(a: np.ndarray, sparing: bool) -> set[str]:
        out = np.empty((len(a), n), np.float32)
        return {e.kernel.name for e in matmul_launches(operand(0, a), operand(1, b), operand(2, out), None, made,
                                                       sparing) if not isinstance(e, Temp)}
    known |= names(a, False)
    whole = run(a, b, target=made)
    for rows in range(1 + swap_a, 14):
        assert names(a[:rows], True) <= known
        assert (run(a[:rows], b, target=made, sparing=True) == whole[:rows]).all()


@pytest.mark.parametrize("target", [None, *FORCED[:1]])
@pytest.mark.parametrize("swap_a, swap_b", [(False, False), (True, True)])
def test_bits_of_a_column_do_not_depend_on_the_other_columns(swap_a: bool, swap_b: bool, target: str | None) -> None:
    """Nor on how wide the tile over the last of them is."""
    made = targets.named(target) if target else None
    for m, k, most in ((37, 50, 130), (150, 20, 300), (20, 3000, 100)):
        a, b = make((m, k), swap=swap_a), make((k, most), swap=swap_b)
        whole = run(a, b, target=made)
        for n in (most - 1, most - 25, most - 40):
            assert (run(a, b[:, :n], target=made) == whole[:, :n]).all()


def test_tiles_fit_the_registers() -> None:
    for registers, lanes in ((32, 16), (16, 8), (16, 4), (32, 4)):
        for m in (1, 2, 3, 7, 14, 100):
            for n in (1, 10, 33, 65, 1000):
                height, vectors = choose_tile(m, n, lanes, registers)
                assert height * vectors + vectors + 1 <= registers + 1  # the splat may come from memory


def test_units_are_whole_tiles_high() -> None:
    """Or every unit would end with a partial tile; and they are as high as each other to within one."""
    for m, k, n in ((300, 700, 320), (788, 768, 224), (2048, 1536, 384), (1024, 1024, 1024)):
        a, b, out = (np.empty(shape, np.float32) for shape in ((m, k), (k, n), (m, n)))
        launch = matmul_launches(operand(0, a), operand(1, b), operand(2, out), target=targets.named("avx512"))[-1]
        assert isinstance(launch, Launch)
        (high, count), height = (launch.args[i] for i in (MC, MB)), choose_tile(m, n, 16, 32)[0]
        assert high % height == 0 and -(-m // height) > (high // height - 1) * count
        assert launch.units % count == 0
    a, b = make((150, 90)), make((90, 600))
    assert (run(a, b, cuts=7) == np.concatenate([run(a[i:i + 50], b) for i in (0, 50, 100)])).all()


@pytest.mark.parametrize("l2", [1 << 20, 2 << 20])
@pytest.mark.parametrize("m, k, n, swap, bound", [(2048, 384, 384, False, 1.1), (2048, 1536, 384, False, 1.1),
                                                  (1536, 2048, 384, True, 1.1), (384, 2048, 1536, True, 1.1),
                                                  (384, 2048, 384, True, 1.2)])
def test_64_threads_find_even_work(m: int, k: int, n: int, swap: bool, bound: float, l2: int) -> None:
    """The products of a transformer of width 384 and their weight gradients, whose k is long."""
    a, b = (operand(i, make(shape, swap=s)) for i, shape, s in ((0, (m, k), swap), (1, (k, n), False)))
    target = replace(targets.named("avx512"), l2=l2)
    launch = matmul_launches(a, b, operand(2, np.empty((m, n), np.float32)), target=target)[-1]
    assert isinstance(launch, Launch)
    assert -(-launch.units // 64) * 64 <= bound * launch.units


@pytest.mark.parametrize("m, k, n", [(32, 1024, 256), (32, 256, 1024), (64, 512, 512)])
def test_two_threads_share_the_weights_of_a_recurrence(m: int, k: int, n: int) -> None:
    """Each does all rows for half of the panels, which stay in its cache from step to step."""
    a, out = (operand(i, np.empty(shape, np.float32)) for i, shape in ((0, (m, k)), (2, (m, n))))
    b = replace(operand(1, np.empty((k, n), np.float32)), fixed=True)
    target = replace(targets.named("avx512"), copies=False)
    launch = matmul_launches(a, b, out, target=target)[-1]
    assert isinstance(launch, Launch)
    rows, across = launch.args[MB], launch.args[NB]
    assert launch.units == rows * across and across % 2 == 0 and (rows == 1 or launch.args[DOWN])


def test_few_rows_and_long_k_are_several_units() -> None:
    """The first linear layer after the convolutions of a small network."""
    a, b = operand(0, np.empty((64, 9216), np.float32)), operand(1, np.empty((128, 9216), np.float32).T)
    launch = matmul_launches(a, b, operand(2, np.empty((64, 128), np.float32)), target=targets.named("avx512"))[-1]
    assert isinstance(launch, Launch) and launch.units == 4


def test_a_single_row_keeps_its_kernel_where_rows_have_a_name() -> None:
    """A name that is 1 is that whenever its plan serves."""
    dims = Dims()

    def names(m: int) -> list[str]:
        a, b, out = (Operand(i, dt.float32, shape, (shape[1], 1)) for i, shape in enumerate(((m, 64), (64, 256), (m, 256))))
        return [e.kernel.name for e in matmul_launches(a, b, out) if isinstance(e, Launch)]
    with dims:
        assert names(dims.name(1)) == names(1)
        assert names(dims.name(2)) != names(2)


def test_refusals_name_the_case() -> None:
    a, b = make((4, 5)), make((5, 6))
    out = np.empty((4, 12), np.float32)[:, ::2]
    with pytest.raises(ValueError, match="contiguous along its last axis"):
        matmul_launches(operand(0, a), operand(1, b), operand(2, out))
    with pytest.raises(ValueError, match="do not fit"):
        matmul_launches(operand(0, a), operand(1, a), operand(2, np.empty((4, 5), np.float32)))
    with pytest.raises(TypeError, match="int32"):
        matmul_launches(operand(0, a.astype(np.int32)), operand(1, b), operand(2, np.empty((4, 6), np.float32)))
