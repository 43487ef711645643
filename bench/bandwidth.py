"""How close programs bound by memory come to the speed of a copy: `python bench/bandwidth.py [--threads 1] [--only softmax]`.

Every program works on float32 tensors of 64 MB (cross-entropy: 16384 x 512). Bytes are those of what it reads and of
what it leaves, each once. Figures are GB/s by wall time, medians, beside a copy of 64 MB by the C library and PyTorch's eager
program, all in turn in one process; the fraction is of the copy's.
"""
from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

import fanal  # noqa: E402

ROWS, COLUMNS, CLASSES = 16384, 1024, 512
SIZE = ROWS * COLUMNS * 4  # bytes of a tensor
Step = Callable[[], Any]


def softmax(t: Any) -> tuple[Step, int]:
    x = t.randn(ROWS, COLUMNS)
    return lambda: t.nn.functional.softmax(x, -1), 2 * SIZE


def layer_norm(t: Any) -> tuple[Step, int]:
    x, w, b = t.randn(ROWS, COLUMNS), t.randn(COLUMNS), t.randn(COLUMNS)
    return lambda: t.nn.functional.layer_norm(x, (COLUMNS,), w, b), 2 * SIZE


def layer_norm_backward(t: Any) -> tuple[Step, int]:
    """The forward is part of it, but only its two numbers a row are kept."""
    x, w, b = (t.randn(*shape, requires_grad=True) for shape in ((ROWS, COLUMNS), (COLUMNS,), (COLUMNS,)))
    g = t.randn(ROWS, COLUMNS)

    def step() -> Any:
        for leaf in (x, w, b):
            leaf.grad = None
        t.nn.functional.layer_norm(x, (COLUMNS,), w, b).backward(g)
        return x.grad
    return step, 3 * SIZE


def gelu(t: Any) -> tuple[Step, int]:
    x = t.randn(ROWS, COLUMNS)
    return lambda: t.nn.functional.gelu(x), 2 * SIZE


def total(t: Any) -> tuple[Step, int]:
    x = t.randn(ROWS, COLUMNS)
    return lambda: x.sum(), SIZE


def adam(t: Any, kind: str = "Adam") -> tuple[Step, int]:
    """Parameter, gradient and two moments are read; all but the gradient are written."""
    p = t.randn(ROWS, COLUMNS, requires_grad=True)
    p.grad = t.randn(ROWS, COLUMNS)
    options = {} if t is fanal else {"fused": True}
    optimizer = getattr(t.optim, kind)([p], lr=1e-3, **options)
    return optimizer.step, 7 * SIZE


def adamw(t: Any) -> tuple[Step, int]:
    return adam(t, "AdamW")


def pointwise(t: Any) -> tuple[Step, int]:
    """A chain of ten operations."""
    x, y = t.randn(ROWS, COLUMNS), t.randn(ROWS, COLUMNS)

    def step() -> Any:
        z = (x * 2.0 + y).relu() - 0.5
        return (((z * z + 1.0).sqrt() - y).abs() * 0.25).clamp(max=1.0)
    return step, 3 * SIZE


def cross_entropy(t: Any) -> tuple[Step, int]:
    x, target = t.randn(ROWS, CLASSES), t.randint(0, CLASSES, (ROWS,))
    return lambda: t.nn.functional.cross_entropy(x, target), ROWS * CLASSES * 4


def cross_entropy_backward(t: Any) -> tuple[Step, int]:
    x, target = t.randn(ROWS, CLASSES, requires_grad=True), t.randint(0, CLASSES, (ROWS,))

    def step() -> Any:
        x.grad = None
        t.nn.functional.cross_entropy(x, target).backward()
        return x.grad
    return step, 2 * ROWS * CLASSES * 4


PROGRAMS = [softmax, layer_norm, layer_norm_backward, gelu, total, adam, adamw, pointwise, cross_entropy,
            cross_entropy_backward]


def race(functions: list[Step], seconds: float) -> list[float]:
    """Return the median wall time of each function, called in turn."""
    samples: list[list[float]] = [[] for _ in functions]
    for function in functions * 4:
        function()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(samples[0]) < 9:
        for function, times in zip(functions, samples, strict=True):
            start = time.perf_counter()
            kept = function()
            times.append(time.perf_counter() - start)
            del kept
    return [statistics.median(times) for times in samples]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", default="", help="programs whose name contains this text")
    args = parser.parse_args()
    for library in (fanal, torch):
        library.set_num_threads(args.threads)
    source, target = (np.ones(SIZE, np.uint8) for _ in range(2))
    print(f"{'':24} {'fanal':>7} {'torch':>7} {'copy':>7} {'of copy':>8} {'torch':>6}")
    for program in PROGRAMS:
        if args.only not in program.__name__:
            continue
        (mine, nbytes), (theirs, _) = program(fanal), program(torch)

        def ours(mine: Step = mine) -> Any:
            kept = mine()
            fanal.cpu.synchronize()
            return kept
        times = race([ours, theirs, lambda: np.copyto(target, source)], args.seconds)
        speeds = [n / x * 1e-9 for n, x in zip((nbytes, nbytes, 2 * SIZE), times, strict=True)]
        print(f"{program.__name__:24} " + " ".join(f"{x:7.2f}" for x in speeds)
              + f" {speeds[0] / speeds[2]:8.2f} {speeds[1] / speeds[2]:6.2f}", flush=True)


if __name__ == "__main__":
    main()
