"""Matrix products inside a program against torch.matmul in turn: `python bench/matmul.py [--dtypes float32,bfloat16,int8]`.

A program is a product, or a chain of up to 16 from K to N and back where they are small, and a flush; torch computes
the same, eagerly.
Prints GFLOP/s of one thread (its processor time) as medians, their ratio (above 1: ours is faster), and the fraction of
the machine's rate, measured in the same process: of multiply-adds on registers, for bfloat16 of those of pairs if there
are, or of the matrix unit on tiles at rest.
"""
from __future__ import annotations

import argparse
import ctypes
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from breakdown import multiply_add_rate  # noqa: E402

import fanal  # noqa: E402
from fanal.core.backends.contract import Kernel  # noqa: E402
from fanal.core.backends.cpu import jit, tiles_ir  # noqa: E402
from fanal.core.backends.cpu import target as targets  # noqa: E402
from fanal.core.backends.cpu.irtext import Writer, module  # noqa: E402

# (M, K, N, form): form "nn", "tn" (A is read transposed), "nt" (B is).
SQUARE = [(n, n, n, form) for n in (16, 32, 64, 96, 112, 128, 144, 176, 208, 256, 400, 512, 1000, 1024, 2048)
          for form in (("nn",) if n < 256 or n % 32 else ("nn", "nt", "tn"))]
SKINNY = [(128, 784, 512, "nt"), (784, 128, 512, "tn"), (2048, 64, 64, "nn"), (64, 2048, 2048, "nt"),
          (1, 4096, 4096, "nt"), (1, 4096, 4096, "nn"), (4, 512, 2048, "nt"), (4096, 16, 4096, "nn"),
          (768, 128, 65, "nn"), (768, 128, 10, "nn"), (2048, 384, 1536, "nt"), (2048, 1536, 384, "nt"),
          (1536, 2048, 384, "tn")]


def tile_rate() -> float:
    """Return the FLOP/s of the matrix unit in bfloat16, nothing loaded or stored; zero without one."""
    target = targets.host()
    if not target.tiles:
        return 0.0
    w = Writer(target, set())
    tiles_ir.configure(w)
    for register in range(8):
        w.call("void", "llvm.x86.tilezero", ("i8", str(register)))

    def step(_: str) -> list[str]:
        for c in range(4):
            w.call("void", "llvm.x86.tdpbf16ps", ("i8", str(c)), ("i8", str(4 + c // 2)), ("i8", str(6 + c % 2)))
        return []
    w.loop("0", "%hi", "1", step)
    tiles_ir.release(w)
    name = target.symbol("tile rate")
    text = module([w.function(f"void @{name}(ptr %args, i64 %lo, i64 %hi, ptr %scratch)")], w.declared)
    address = jit.compile_many([Kernel(name, lambda: text)], target)[name]
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(address)
    times = []
    for _ in range(9):
        start = time.thread_time()
        call(None, 0, 50_000, None)
        times.append(time.thread_time() - start)
    return 4 * 2 * 16 * 16 * 32 * 50_000 / statistics.median(times)


def race(functions: list[Callable[[], object]], seconds: float) -> list[float]:
    """Return the median processor time of each function, called in turn."""
    samples: list[list[float]] = [[] for _ in functions]
    for function in functions * 4:
        function()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(samples[0]) < 7:
        for function, times in zip(functions, samples, strict=True):
            start = time.thread_time()
            function()
            times.append(time.thread_time() - start)
    return [statistics.median(times) for times in samples]


def program(library: Any, a: np.ndarray, others: list[np.ndarray], dtype: str, form: str) -> Callable[[], Any]:
    """Return a function that multiplies by every one of `others` in turn, and waits for the result."""
    def prepare(x: np.ndarray, how: str) -> Any:
        x = library.tensor(x / np.abs(x).max() * 127 if dtype == "int8" else x).to(getattr(library, dtype))
        return x.t() if how == "t" else x
    first, factors = prepare(a, form[0]), [prepare(b, form[1]) for b in others]
    matmul, finish = library._int_mm if dtype == "int8" else library.matmul, library.cpu.synchronize

    def step() -> Any:
        x = first
        for b in factors:
            x = matmul(x, b)
        finish()
        return x
    return step


def measure(m: int, k: int, n: int, form: str, dtype: str, seconds: float, rate: float) -> float:
    """Print the row of one product; return the ratio."""
    rng = np.random.default_rng(0)
    flops = 2 * m * n * k
    count = 1 if form[0] == "t" or dtype == "int8" else max(1, min(16, int(2e8 / flops)))
    a = rng.standard_normal((k, m) if form[0] == "t" else (m, k)).astype(np.float32)
    others = []
    for i in range(count):  # K to N, back to K, and so on
        of, to = (n, k) if i % 2 else (k, n)
        b = (rng.standard_normal((of, to)) / of ** 0.5).astype(np.float32)
        others.append(np.ascontiguousarray(b.T) if form[1] == "t" else b)
    ours, theirs = (program(library, a, others, dtype, form) for library in (fanal, torch))
    worst = np.abs(ours().float().numpy() - theirs().float().numpy()).max()
    assert worst < {"float32": 1e-4, "bfloat16": 0.2, "int8": 1}[dtype], worst
    mine, peer = race([ours, theirs], seconds)
    speed, other = (flops * count / x * 1e-9 for x in (mine, peer))
    print(f"{m}x{k}x{n} {form}".ljust(22) + f"{dtype:9} {speed:8.1f} {other:8.1f} {peer / mine:6.2f} "
          f"{speed * 1e9 / rate:8.2f} {other * 1e9 / rate:8.2f}", flush=True)
    return peer / mine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--seconds", type=float, default=0.4)
    parser.add_argument("--only", default="", help="shapes that contain this text")
    args = parser.parse_args()
    for library in (fanal, torch):
        library.set_num_threads(1)
    vectors, tiles = multiply_add_rate(), tile_rate()
    pairs = multiply_add_rate(True) if targets.host().pairs else 0.0
    print("GFLOP/s: " + ", ".join(f"{name} {rate * 1e-9:.0f}" for name, rate in (
        ("multiply-adds", vectors), ("of pairs", pairs), ("matrix unit", tiles))))
    print(f"{'':31} {'fanal':>8} {'torch':>8} {'ratio':>6} {'of rate':>8} {'torch':>8}")
    for dtype in args.dtypes.split(","):
        rate = {"bfloat16": tiles or pairs, "int8": 2 * tiles}.get(dtype) or vectors
        worst = {}
        for shape in SQUARE + SKINNY:
            name = f"{shape[0]}x{shape[1]}x{shape[2]} {shape[3]}"
            if args.only in name:
                worst[name] = measure(*shape, dtype, args.seconds, rate)
        print(f"{dtype}: least ratio", *min((ratio, name) for name, ratio in worst.items()))


if __name__ == "__main__":
    main()
