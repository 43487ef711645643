"""Convolutions, one thread (its processor time), against torch in turn: `python bench/conv.py [seconds per case]`.

Prints milliseconds as medians for forward, input gradient and weight gradient, and the ratio (above 1: ours is
faster). Ours is called through ctypes.
"""
from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "compiler")]

from kernel_bench import Prepared  # noqa: E402

from fanal.core.backends.cpu import conv  # noqa: E402
from fanal.core.backends.cpu.matmul import Operand  # noqa: E402
from fanal.core.base import dtype as dt  # noqa: E402

# (N, C, O, size, kernel, stride, padding, groups)
CASES = [
    (64, 1, 32, 28, 3, 1, 0, 1), (64, 32, 64, 26, 3, 1, 0, 1), (16, 64, 64, 32, 3, 1, 1, 1),
    (16, 64, 128, 32, 3, 2, 1, 1), (16, 256, 256, 8, 3, 1, 1, 1), (4, 512, 512, 7, 3, 1, 1, 1),
    (8, 3, 64, 64, 7, 2, 3, 1), (16, 64, 256, 16, 1, 1, 0, 1),
    (8, 96, 96, 28, 3, 1, 1, 96), (8, 16, 32, 14, 5, 1, 2, 1),
]


def operand(value_id: int, x: np.ndarray) -> Operand:
    return Operand(value_id, dt.from_numpy(x.dtype), x.shape, tuple(s // x.itemsize for s in x.strides))


def race(ours: Callable[[], object], theirs: Callable[[], object], budget: float) -> tuple[float, float]:
    samples: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(samples[0]) < 5:
        for function, times in zip((ours, theirs), samples, strict=True):
            start = time.thread_time()
            function()
            times.append(time.thread_time() - start)
    return statistics.median(samples[0]), statistics.median(samples[1])


def measure(n: int, c: int, o: int, size: int, k: int, stride: int, pad: int, groups: int, budget: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, c, size, size)).astype(np.float32)
    w = rng.standard_normal((o, c // groups, k, k)).astype(np.float32)
    tx, tw = torch.from_numpy(x), torch.from_numpy(w)
    how = ((stride, stride), (pad, pad), (1, 1), groups)
    y = torch.conv2d(tx, tw, None, *how).numpy()
    g = rng.standard_normal(y.shape).astype(np.float32)
    tg = torch.from_numpy(g)
    arrays = {0: x, 1: w, 2: np.empty_like(y), 3: g, 4: np.empty_like(x), 5: np.empty_like(w)}
    at = {i: operand(i, v) for i, v in arrays.items()}

    def backward(which: int) -> Callable[[], object]:
        mask = [which == 0, which == 1, False]
        return lambda: torch.ops.aten.convolution_backward(tg, tx, tw, None, *how[:3], False, (0, 0), groups, mask)
    pairs = [
        (conv.conv_launches(at[0], at[1], at[2], *how), lambda: torch.conv2d(tx, tw, None, *how)),
        (conv.input_gradient_launches(at[3], at[1], at[4], *how), backward(0)),
        (conv.weight_gradient_launches(at[3], at[0], at[5], *how), backward(1)),
    ]
    flops = 2 * y.size * w[0].size
    line = f"{n}x{c}x{size}^2 -> {o}, {k}x{k}/{stride} pad {pad} groups {groups}"
    print(f"{line:46s}", end="")
    for entries, theirs in pairs:
        ours = Prepared(entries, arrays)
        ours()
        theirs()
        mine, peer = race(ours, theirs, budget)
        numbers = f" {mine * 1e3:8.3f} {peer * 1e3:8.3f} {peer / mine:5.2f} {flops / mine / 1e9:6.1f} GF |"
        print(numbers, end="", flush=True)
    print()


def main() -> None:
    torch.set_num_threads(1)
    budget = float(sys.argv[1]) if len(sys.argv) > 1 else 0.3
    print(f"{'':46s} ours  torch ratio: forward | input gradient | weight gradient")
    for case in CASES:
        measure(*case, budget)


if __name__ == "__main__":
    main()
