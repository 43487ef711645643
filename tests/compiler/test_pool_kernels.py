"""Pooling and what surrounds it: kernels against the reference; programs that leave nothing to the host."""
from __future__ import annotations

import numpy as np
import pytest
from harness import contents, inp, program_of, run

import fanal
from fanal import nn
from fanal.core.backends.contract import Launch
from fanal.core.backends.cpu import target as targets
from fanal.core.backends.cpu.backend import CpuBackend
from fanal.core.base import dtype as dt
from fanal.core.engine.ledger import ledger
from fanal.core.ir import prims as P
from fanal.core.ir.interp import interpret
from fanal.nn import functional as F

RNG = np.random.default_rng(0)
FLOATS = [dt.float32, dt.float64, dt.bfloat16, dt.float16]

# (shape, kernel, stride, padding, dilation, out or None)
CASES = [
    ((2, 3, 24, 24), (2, 2), (2, 2), (0, 0), (1, 1), None),
    ((2, 3, 37, 41), (3, 3), (2, 2), (1, 1), (1, 1), None),
    ((3, 37, 41), (3, 3), (1, 1), (1, 1), (1, 1), None),
    ((2, 1, 37, 41), (5, 5), (3, 3), (2, 1), (1, 1), None),
    ((2, 3, 37, 41), (3, 2), (1, 3), (1, 0), (2, 3), None),
    ((2, 3, 70), (11,), (2,), (5,), (1,), None),
    ((2, 3, 7, 9, 41), (2, 3, 2), (1, 2, 2), (0, 1, 1), (1, 1, 2), None),
    ((2, 3, 10, 10), (3, 3), (2, 2), (1, 1), (1, 1), (6, 6)),  # the last window ends beyond the padding
    ((2, 3, 9, 35), (2, 2), (2, 2), (0, 0), (1, 1), None),  # side by side, a row and a column left over
    ((2, 3, 9, 67), (5, 5), (2, 2), (2, 1), (1, 1), None),
    ((2, 3, 9, 40), (1, 1), (2, 2), (0, 0), (1, 1), None),  # elements between windows
    ((2, 3, 19), (8,), (1,), (4,), (1,), None),
    ((1, 2, 5, 6, 33), (3, 3, 3), (2, 1, 2), (1, 0, 1), (1, 1, 1), None),
]


def same(got: np.ndarray, want: np.ndarray) -> None:
    # The NaN of ml_dtypes is none to NumPy.
    np.testing.assert_array_equal(got.astype(np.float64), want.astype(np.float64))


def compare(inputs, outputs, backend=None) -> list[str]:
    """Check a program against the interpreter, whole and in three parts; return its labels."""
    want = interpret(program_of(inputs, outputs), [contents[i] for i in inputs])
    got, lowered = run(inputs, outputs, backend=backend)
    cut, _ = run(inputs, outputs, parts=3, backend=backend)
    for a, b, c in zip(got, want, cut, strict=True):
        same(a, b)
        assert a.tobytes() == c.tobytes()
    assert all(isinstance(s, Launch) for s in lowered.steps)
    return [s.label for s in lowered.steps]


def pooled(case, dtype, backend=None) -> None:
    shape, kernel, stride, padding, dilation, out = case
    n = len(kernel)
    out = out or tuple((m + 2 * p - d * (k - 1) - 1) // s + 1
                       for m, k, s, p, d in zip(shape[-n:], kernel, stride, padding, dilation, strict=True))
    geometry = (kernel, stride, padding, dilation, out)
    x = inp(shape, dtype)
    contents[x] = RNG.integers(-2 if dtype.is_signed else 0, 3, shape).astype(dtype.np)  # many ties
    inputs, outputs = [x], [P.max_pool(x, *geometry), P.max_pool_at(x, *geometry)]
    if dtype.is_floating_point:
        contents[x].flat[::7] = np.nan
        contents[x].flat[::3] = -np.inf
        g = inp((*shape[:-n], *out), dtype)
        contents[g] = RNG.integers(-4, 5, g.shape).astype(dtype.np)  # exact sums
        inputs.append(g)
        outputs.append(P.max_pool_dx(g, x, *geometry))
    compare(inputs, outputs, backend)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_max_pool(case) -> None:
    pooled(case, dt.float32)


@pytest.mark.parametrize("dtype", [*FLOATS[1:], dt.int64, dt.uint8, dt.int16], ids=lambda d: d.name)
@pytest.mark.parametrize("case", CASES[:2], ids=str)
def test_dtypes(dtype, case) -> None:
    pooled(case, dtype)


@pytest.mark.skipif(not targets.host().triple.startswith("x86"), reason="instruction sets of x86")
@pytest.mark.parametrize("name", ["avx2", "sse2"])
@pytest.mark.parametrize("case", CASES[:2], ids=str)
def test_other_instruction_sets(name, case) -> None:
    pooled(case, dt.float32, CpuBackend(targets.named(name)))


def test_a_dilated_window_may_miss_the_input() -> None:
    geometry = ((2,), (1,), (1,), (3,), (1,))
    x, g = inp((1, 2)), inp((1, 1))
    y, at, dx = P.max_pool(x, *geometry), P.max_pool_at(x, *geometry), P.max_pool_dx(g, x, *geometry)
    (a, b, c), _ = run([x, g], [y, at, dx])
    assert a[0, 0] == -np.inf and b[0, 0] == -1 and not c.any()


@pytest.mark.parametrize("dtype", [*FLOATS[:3], dt.bool_, dt.int16], ids=lambda d: d.name)
@pytest.mark.parametrize("n", [1, 7, 16, 33, 50])
def test_every_other_element(dtype, n) -> None:
    """Strides of two along vectors: read up to the last element of a buffer, and written between others."""
    x = inp((3, 2 * n), dtype)
    odd = P.slice_(x, (0, 1), (3, 2 * n), (1, 2))
    compare([x], [P.where(P.eq(odd, odd), odd, odd)])
    new = inp((3, n), dtype)
    compare([x, new], [P.update_slice(x, new, (0, 1), (3, 2 * n), (1, 2))])


def test_relu_after_pooling_masks_the_pooled_gradient() -> None:
    x, g = inp((4, 8, 12, 12)), inp((4, 8, 6, 6))
    relu = P.max_(x, P.num(x, 0))
    geometry = ((2, 2), (2, 2), (0, 0), (1, 1), (6, 6))
    y = P.max_pool(relu, *geometry)
    dx = P.where(P.le(relu, P.num(x, 0)), P.num(g, 0), P.max_pool_dx(g, relu, *geometry))
    labels = compare([x, g], [y, dx])
    assert [label.split()[0] for label in labels] == ["max", "max_pool", "le+where", "max_pool_dx"]


@pytest.mark.parametrize(("padding", "bias"), [(0, True), (1, False)])
def test_input_gradients_take_a_tail(padding, bias) -> None:
    g, w = inp((2, 5, 8, 9)), inp((5, 6, 3, 3))
    size = (10 - 2 * padding, 11 - 2 * padding)
    h, b = inp((2, 6, *size)), inp((1, 6, 1, 1))
    for i in (g, w, b):
        contents[i] = RNG.integers(-3, 4, i.shape).astype(np.float32)
    y = P.conv_dx(g, w, size, (1, 1), (padding, padding), (1, 1), 1)
    y = P.add(y, b) if bias else P.where(P.lt(P.num(h, 0), h), y, P.num(y, 0))
    labels = compare([g, w, h, b], [y])
    assert not any(label in ("add", "lt+where") for label in labels)


def test_averaging_windows_that_overlap_spreads_no_copies() -> None:
    g = inp((2, 3, 8, 8))
    contents[g] = RNG.integers(-3, 4, g.shape).astype(np.float32)
    spread = P.broadcast(P.reshape(g, (2, 3, 8, 8, 1, 1)), (2, 3, 8, 8, 3, 3))
    labels = compare([g], [P.fold(spread, (2, 3, 17, 17), (2, 3), (3, 3), (2, 2), (1, 1))])
    assert labels == ["fold fill"] + ["fold"] * 9


def trained(model, x, y) -> list:
    """Return the steps of the program that a step of training is, once it is known."""
    opt = fanal.optim.Adam(model.parameters())
    before = set(map(id, ledger.executables))

    def step() -> None:
        opt.zero_grad()
        F.cross_entropy(model(x), y).backward()
        opt.step()
    for _ in range(3):
        step()
    fresh = [e for e in ledger.executables if id(e) not in before]
    return max(fresh, key=lambda e: len(e.exe.lowered.steps)).exe.lowered.steps


def test_the_mnist_network_runs_without_the_host() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2),
                          nn.Flatten(), nn.Linear(16 * 12 * 12, 32), nn.ReLU(), nn.Linear(32, 10))
    steps = trained(model, fanal.randn(8, 1, 28, 28), fanal.randint(0, 10, (8,)))
    labels = [s.label for s in steps]
    assert all(isinstance(s, Launch) for s in steps), labels
    assert sum(label.startswith("max_pool") for label in labels) == 2
    assert "" not in labels and "lt+where" not in labels  # no copies; masks are done where operands are made
    assert len(labels) <= 32, labels


def test_residual_networks_run_without_the_host() -> None:
    class Block(nn.Module):
        def __init__(self, i: int, o: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
            self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
            self.down = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

        def forward(self, x):
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            return F.relu(y + self.down(x))
    model = nn.Sequential(nn.Conv2d(3, 4, 7, 2, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
                          nn.MaxPool2d(3, 2, 1), Block(4, 8, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Linear(8, 10))
    steps = trained(model, fanal.randn(2, 3, 32, 32), fanal.randint(0, 10, (2,)))
    assert all(isinstance(s, Launch) for s in steps), [s.label for s in steps]
