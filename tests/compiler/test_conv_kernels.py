"""The generated convolutions and their gradients against float64, tap by tap."""
from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from kernel_bench import Prepared, assemble

from fanal.core.backends.contract import Launch
from fanal.core.backends.cpu import conv
from fanal.core.backends.cpu import epilogue as epi
from fanal.core.backends.cpu import target as targets
from fanal.core.backends.cpu.matmul import Operand
from fanal.core.base import dtype as dt

RNG = np.random.default_rng(0)
FORCED = ["avx2", "sse2"] if targets.host().triple.startswith("x86") else []

# (N, C, O, size, kernel, stride, padding, dilation, groups)
CASES = [
    (2, 3, 5, (8, 9), (3, 3), (1, 1), (0, 0), (1, 1), 1),
    (2, 3, 5, (8, 9), (3, 3), (1, 1), (1, 1), (1, 1), 1),
    (2, 4, 6, (9, 10), (3, 3), (2, 2), (1, 1), (1, 1), 1),
    (1, 4, 6, (12, 11), (3, 2), (2, 3), (1, 0), (2, 2), 2),
    (3, 8, 8, (7, 20), (3, 3), (1, 1), (1, 1), (1, 1), 8),
    (2, 4, 12, (7, 7), (3, 3), (2, 1), (2, 0), (1, 2), 4),
    (3, 4, 33, (20,), (5,), (2,), (2,), (1,), 1),
    (2, 3, 4, (5, 6, 7), (2, 3, 3), (1, 2, 1), (1, 1, 0), (1, 1, 1), 1),
    (2, 6, 4, (5, 5), (1, 1), (1, 1), (0, 0), (1, 1), 1),
    (2, 6, 4, (5, 5), (1, 1), (1, 1), (0, 0), (1, 1), 2),
    (2, 6, 4, (5, 5), (1, 1), (2, 2), (0, 0), (1, 1), 1),
    (1, 2, 3, (6, 6), (6, 6), (1, 1), (0, 0), (1, 1), 1),
    (2, 2, 20, (9, 40), (2, 5), (3, 4), (1, 3), (1, 1), 1),
    (1, 40, 40, (6, 6), (3, 3), (1, 1), (1, 1), (1, 1), 1),
    (5, 8, 40, (5, 5), (3, 3), (1, 1), (0, 0), (1, 1), 1),  # small images, in place
    (30, 8, 80, (4, 5), (3, 3), (1, 1), (1, 1), (1, 1), 2),  # ... several to a unit, groups
    (7, 20, 36, (6, 7), (3, 3), (2, 2), (1, 1), (1, 1), 1),  # ... with a stride
    (2, 5, 20, (3, 4, 4), (2, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), 1),  # ... in three dimensions
    (2, 1, 2, (4, 4), (2, 2), (3, 3), (0, 0), (1, 1), 1),  # strides past the kernel: inputs no output reads
    (2, 16, 16, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1), 1),  # in tiles, by minimal filtering
    (5, 17, 33, (7, 9), (3, 3), (1, 1), (0, 0), (1, 1), 1),  # ... with odd extents and partial vectors
    (3, 32, 64, (26, 26), (3, 3), (1, 1), (0, 0), (1, 1), 1),
    (4, 130, 70, (5, 20), (3, 3), (1, 1), (2, 1), (1, 1), 1),  # ... in blocks of channels
    (7, 64, 150, (4, 4), (3, 3), (1, 1), (1, 1), (1, 1), 1),  # ... several images to a unit
]
TILED = CASES[-5:]


def operand(value_id: int, x: np.ndarray) -> Operand:
    return Operand(value_id, dt.from_numpy(x.dtype), x.shape, tuple(s // x.itemsize for s in x.strides))


class Case:
    """Operands and float64 results of one convolution."""

    def __init__(self, n, c, o, size, kernel, stride, padding, dilation, groups, dtype=np.float32):
        self.how = (stride, padding, dilation, groups)
        self.x = RNG.standard_normal((n, c, *size)).astype(dtype)
        self.w = RNG.standard_normal((o, c // groups, *kernel)).astype(dtype)
        places = [(s + 2 * p - d * (k - 1) - 1) // t + 1
                  for s, p, d, k, t in zip(size, padding, dilation, kernel, stride, strict=True)]
        self.g = RNG.standard_normal((n, o, *places)).astype(dtype)
        padded = np.pad(self.x.astype(np.float64), [(0, 0), (0, 0), *((p, p) for p in padding)])
        grouped = padded.reshape(n, groups, c // groups, *padded.shape[2:])
        w = self.w.astype(np.float64).reshape(groups, o // groups, c // groups, *kernel)
        g = self.g.astype(np.float64).reshape(n, groups, o // groups, *places)
        y, dx, dw = np.zeros_like(g), np.zeros_like(grouped), np.zeros_like(w)
        for tap in itertools.product(*(range(k) for k in kernel)):
            at = (..., *(slice(t * d, t * d + s * (q - 1) + 1, s)
                         for t, d, s, q in zip(tap, dilation, stride, places, strict=True)))
            y += np.einsum("ngc...,gmc->ngm...", grouped[at], w[(..., *tap)])
            dx[at] += np.einsum("ngm...,gmc->ngc...", g, w[(..., *tap)])
            flat = grouped[at].reshape(n, groups, c // groups, -1)
            dw[(..., *tap)] = np.einsum("ngcp,ngmp->gmc", flat, g.reshape(n, groups, o // groups, -1))
        inner = tuple(slice(p, p + s) for p, s in zip(padding, size, strict=True))
        self.want = (y.reshape(self.g.shape), dx.reshape(padded.shape)[(..., *inner)], dw.reshape(self.w.shape))

    def entries(self, target=None, epilogue=None):
        y, dx, dw = (operand(i, a) for i, a in ((2, self.g), (4, self.x), (5, self.w)))
        x, w, g = operand(0, self.x), operand(1, self.w), operand(3, self.g)
        return (conv.conv_launches(x, w, y, *self.how, epilogue, target),
                conv.input_gradient_launches(g, w, dx, *self.how, None, target),
                conv.weight_gradient_launches(g, x, dw, *self.how, target))

    def run(self, target=None, cuts=1) -> list[np.ndarray]:
        out = [np.full_like(a, 7) for a in (self.g, self.x, self.w)]
        arrays = {0: self.x, 1: self.w, 2: out[0], 3: self.g, 4: out[1], 5: out[2]}
        for entries in self.entries(target):
            Prepared(entries, arrays, target, cuts)()
        return out

    def check(self, target=None) -> None:
        eps = 1e-5 if self.x.dtype == np.float32 else 1e-13
        for got, want in zip(self.run(target), self.want, strict=True):
            assert got.shape == want.shape
            assert np.abs(got - want).max() <= eps * max(1.0, np.abs(want).max())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_and_gradients(case) -> None:
    Case(*case).check()


@pytest.mark.parametrize("case", [CASES[3], CASES[6]], ids=str)
def test_float64(case) -> None:
    Case(*case, dtype=np.float64).check()


@pytest.mark.parametrize("name", FORCED)
@pytest.mark.parametrize("case", [CASES[1], CASES[3], CASES[4], CASES[8], CASES[15], *TILED[:2]], ids=str)
def test_other_instruction_sets(name: str, case) -> None:
    Case(*case).check(targets.named(name))


@pytest.mark.parametrize("name", ["avx512", "avx2", "sse2", "neon"])
def test_object_code_for_every_target(name: str) -> None:
    target = targets.named(name)
    for case in (CASES[1], CASES[4], CASES[15], TILED[1]):
        for entries in Case(*case).entries(target):
            for entry in entries:
                if isinstance(entry, Launch):
                    assert len(assemble(entry, target)) > 500


@pytest.mark.parametrize("case", [
    (3, 20, 40, (12, 14), (3, 3), (1, 1), (1, 1), (1, 1), 1), CASES[15], TILED[2], TILED[4],
    (20, 4, 4, (9, 9), (3, 3), (2, 2), (1, 1), (1, 1), 4)],
    ids=str)
def test_any_division_of_the_work_gives_the_same_bits(case) -> None:
    one = Case(*case)
    whole = one.run()
    for cuts in (2, 3, 5):
        for got, want in zip(one.run(cuts=cuts), whole, strict=True):
            assert (got == want).all()


@pytest.mark.parametrize("channels, side", [(64, 32), (128, 16), (256, 8), (512, 4)])
def test_64_threads_find_even_work(channels: int, side: int) -> None:
    target = replace(targets.named("avx512"), l2=2 << 20)
    x, g, out = (Operand(i, dt.float32, (32, channels, side, side), ()) for i in range(3))
    w = Operand(3, dt.float32, (channels, channels, 3, 3), ())
    how = ((1, 1), (1, 1), (1, 1), 1)
    found = [conv.conv_launches(x, w, out, *how, None, target),
             conv.input_gradient_launches(g, w, x, *how, None, target),
             conv.weight_gradient_launches(g, x, w, *how, target)]
    for entries in found:
        busiest = max((e for e in entries if isinstance(e, Launch)), key=lambda e: e.flops)
        assert -(-busiest.units // 64) * 64 <= 1.1 * busiest.units


@pytest.mark.parametrize("case", [(5, 8, 24, (10, 11), (3, 3), (1, 1), (1, 1), (1, 1), 1), CASES[15], TILED[1],
                                  TILED[4]], ids=str)
def test_images_do_not_depend_on_each_other(case) -> None:
    one = Case(*case)
    whole = one.run()
    one.x, one.g = one.x[:2].copy(), one.g[:2].copy()
    for got, want in zip(one.run()[:2], whole[:2], strict=True):
        assert (got == want[:2]).all()


def test_infinities_stay_where_they_belong() -> None:
    # Flat positions between the ends of rows are computed and dropped: nothing of them may leak.
    one = Case(1, 2, 3, (6, 6), (3, 3), (1, 1), (0, 0), (1, 1), 1)
    one.x[0, 0, 0, 5] = np.inf
    y, _, dw = one.run()
    hit = np.zeros((4, 4), bool)
    hit[0, 3] = True
    assert (np.isfinite(y).all((0, 1)) == ~hit).all()
    assert (np.isfinite(dw).all(0) == ~np.pad([[[True]]], [(0, 1), (0, 2), (2, 0)])).all()


@pytest.mark.parametrize("case", [CASES[0], CASES[1], CASES[8], CASES[14], CASES[15], *TILED[:3]], ids=str)
def test_epilogue(case) -> None:
    one = Case(*case)
    bias, other = (RNG.standard_normal(shape).astype(np.float32) for shape in (one.w.shape[0], one.g.shape))
    tail = epi.chain(epi.row_bias(6), epi.relu(), epi.residual(7))
    plain, out = one.run()[0], np.full_like(one.g, 7)
    arrays = {0: one.x, 1: one.w, 2: out, 6: bias, 7: other}
    Prepared(one.entries(epilogue=tail)[0], arrays)()
    shaped = bias.reshape(-1, *[1] * (out.ndim - 2))
    assert (out == np.maximum(plain + shaped, 0) + other).all()


@pytest.mark.parametrize("channels", [(4, 8), (16, 24)])
def test_a_new_batch_size_compiles_nothing(channels: tuple[int, int]) -> None:
    def names(n: int) -> list[str]:
        entries = Case(n, *channels, (9, 9), (3, 3), (1, 1), (1, 1), (1, 1), 1).entries()
        return [e.kernel.name for part in entries for e in part if isinstance(e, Launch)]
    assert names(1) == names(7) == names(40)


def test_numbers_that_are_none_stay_where_they_belong_in_tiles() -> None:
    # A tile's products mix its inputs, but an output is made only of those that hold its own inputs.
    one = Case(1, 16, 16, (7, 8), (3, 3), (1, 1), (1, 1), (1, 1), 1)
    one.x[0, 3, 2, 5] = np.nan
    y = one.run()[0]
    hit = np.zeros((7, 8), bool)
    hit[1:4, 4:7] = True
    assert (np.isnan(y).all((0, 1)) == hit).all() and (np.isnan(y).any((0, 1)) == hit).all()


def test_refusals_name_the_case() -> None:
    half = Case(*CASES[0], dtype=np.float16)
    with pytest.raises(TypeError, match="float16"):
        half.entries()
