"""The fused attention against float64, and against the separate operations bit for bit."""
from __future__ import annotations

import numpy as np
import pytest
from kernel_bench import Prepared, assemble

import fanal
from fanal.core.backends.contract import Buf
from fanal.core.backends.cpu import target as targets
from fanal.core.backends.cpu.attention import attention_backward_launches, attention_launches
from fanal.core.backends.cpu.matmul import Operand
from fanal.core.base import dtype as dt
from fanal.core.ops.attention import attention_nodes
from fanal.core.ops.build import read, wrap

RNG = np.random.default_rng(0)
FORCED = ["avx2", "sse2"] if targets.host().triple.startswith("x86") else []


def operand(value_id: int, x: np.ndarray) -> Operand:
    return Operand(value_id, dt.from_numpy(x.dtype), x.shape, tuple(s // x.itemsize for s in x.strides))


class Case:
    def __init__(self, b, h, rows, keys, d, e, causal=False, mask="", dtype=np.float32, interleaved=False):
        def make(t: int, width: int) -> np.ndarray:
            if interleaved:
                return RNG.standard_normal((b, t, h, width)).astype(dtype).transpose(0, 2, 1, 3)
            return RNG.standard_normal((b, h, t, width)).astype(dtype)
        self.q, self.k, self.v, self.g = make(rows, d), make(keys, d), make(keys, e), make(rows, e)
        self.causal, self.scale, self.mask = causal, d ** -0.5, None
        if mask == "bool":
            self.mask = RNG.random((b, 1, rows, keys)) < 0.7
            self.mask[..., 0, :] = False  # a row that sees nothing
        elif mask == "keys":
            self.mask = RNG.random((b, 1, 1, keys)) < 0.7
        elif mask == "add":
            self.mask = RNG.standard_normal((1, h, rows, keys)).astype(dtype)

    def entries(self, out, target=None):
        mask = None
        if self.mask is not None:
            shape = (*self.q.shape[:3], self.k.shape[2])
            mask = operand(9, np.broadcast_to(self.mask, shape))
        q, k, v, g = (operand(i, x) for i, x in enumerate((self.q, self.k, self.v, self.g)))
        o, dq, dk, dv = (operand(4 + i, x) for i, x in enumerate(out))
        return (attention_launches(q, k, v, o, Buf(8), self.scale, self.causal, mask, target),
                attention_backward_launches(q, k, v, Buf(8), g, dq, dk, dv, self.scale, self.causal, mask, target))

    def run(self, target=None, cuts=1) -> list[np.ndarray]:
        out = [np.full_like(x, 7) for x in (self.g, self.q, self.k, self.v)]
        stats = np.full((*self.q.shape[:3], 2), 7, self.q.dtype)
        arrays = dict(enumerate((self.q, self.k, self.v, self.g, *out, stats)))
        if self.mask is not None:
            arrays[9] = self.mask
        for entries in self.entries(out, target):
            Prepared(entries, arrays, target, cuts)()
        return out

    def want(self) -> list[np.ndarray]:
        q, k, v, g = (x.astype(np.float64) for x in (self.q, self.k, self.v, self.g))
        s = q @ k.swapaxes(-1, -2) * self.scale
        if self.causal:
            s = np.where(np.tri(*s.shape[-2:], dtype=bool), s, -np.inf)
        elif self.mask is not None:
            s = np.where(self.mask, s, -np.inf) if self.mask.dtype == bool else s + self.mask
        top = s.max(-1, keepdims=True)
        p = np.exp(s - np.where(np.isinf(top), 0, top))
        p /= np.maximum(p.sum(-1, keepdims=True), 1e-300)
        dp = g @ v.swapaxes(-1, -2)
        ds = p * (dp - (p * dp).sum(-1, keepdims=True)) * self.scale
        return [p @ v, ds @ k, ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ g]

    def check(self, target=None) -> None:
        eps = 2e-6 if self.q.dtype == np.float32 else 1e-14
        for got, want in zip(self.run(target), self.want(), strict=True):
            assert np.abs(got - want).max() <= eps * max(1.0, np.abs(want).max())


CASES = [
    dict(b=1, h=1, rows=14, keys=32, d=32, e=32), dict(b=2, h=3, rows=17, keys=21, d=8, e=8),
    dict(b=2, h=2, rows=33, keys=33, d=12, e=12, causal=True), dict(b=1, h=1, rows=1, keys=1, d=1, e=1),
    dict(b=2, h=4, rows=64, keys=64, d=32, e=32, causal=True, interleaved=True),
    dict(b=1, h=2, rows=20, keys=41, d=64, e=48, mask="bool"), dict(b=2, h=2, rows=50, keys=30, d=16, e=40, mask="add"),
    dict(b=2, h=2, rows=9, keys=30, d=20, e=33, mask="keys"),
    dict(b=1, h=2, rows=70, keys=150, d=32, e=64, mask="keys"),
    dict(b=1, h=2, rows=30, keys=70, d=24, e=24, causal=True),
    dict(b=1, h=1, rows=300, keys=290, d=64, e=64, causal=True), dict(b=1, h=1, rows=9, keys=700, d=5, e=3),
    dict(b=1, h=2, rows=19, keys=23, d=9, e=10, dtype=np.float64, causal=True),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_and_gradients(case) -> None:
    Case(**case).check()


@pytest.mark.parametrize("name", FORCED)
@pytest.mark.parametrize("case", [CASES[2], CASES[5]], ids=str)
def test_other_instruction_sets(name: str, case) -> None:
    Case(**case).check(targets.named(name))


@pytest.mark.parametrize("name", ["avx512", "avx2", "sse2", "neon"])
def test_object_code_for_every_target(name: str) -> None:
    target = targets.named(name)
    case = Case(**CASES[0])
    for entries in case.entries([case.g, case.q, case.k, case.v], target):
        assert len(assemble(entries[0], target)) > 500


@pytest.mark.parametrize("case", [CASES[4], CASES[9]], ids=str)
def test_any_division_of_the_work_gives_the_same_bits(case) -> None:
    one = Case(**case)
    whole = one.run()
    for cuts in (2, 3):
        for got, want in zip(one.run(cuts=cuts), whole, strict=True):
            assert (got == want).all()


@pytest.mark.parametrize("case", [
    dict(b=2, h=3, rows=33, keys=33, d=12, e=12, causal=True), dict(b=1, h=2, rows=70, keys=50, d=32, e=20),
    dict(b=1, h=2, rows=130, keys=130, d=40, e=40, causal=True),
    dict(b=1, h=2, rows=150, keys=190, d=16, e=16, mask="bool"),
    dict(b=1, h=2, rows=150, keys=90, d=16, e=16, mask="add")], ids=str)
def test_same_bits_as_the_separate_operations(case) -> None:
    one = Case(**case)
    q, k, v = (fanal.tensor(np.ascontiguousarray(x), requires_grad=True) for x in (one.q, one.k, one.v))
    mask = None if one.mask is None else fanal.tensor(one.mask)
    y = wrap(attention_nodes(read(q), read(k), read(v), None if mask is None else read(mask), 0.0, one.causal,
                             one.scale)[0])
    y.backward(fanal.tensor(one.g))
    for got, want in zip(one.run(), (y.detach(), q.grad, k.grad, v.grad), strict=True):
        assert (got == want.numpy()).all()


def test_refusals_name_the_case() -> None:
    case = Case(**CASES[0])
    out = [case.g, case.q, case.k, case.v]
    case.q = case.q.swapaxes(-1, -2)
    with pytest.raises(ValueError, match="rows contiguously"):
        case.entries(out)
    half = Case(**{**CASES[0], "dtype": np.float16})
    with pytest.raises(TypeError, match="float16"):
        half.entries([half.g, half.q, half.k, half.v])
    long = Case(b=1, h=1, rows=1, keys=8193, d=1, e=1)
    with pytest.raises(ValueError, match="8192 keys"):
        long.entries([long.g, long.q, long.k, long.v])
