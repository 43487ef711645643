"""Matrix products, one thread (its processor time), against torch.matmul in turn: `python bench/matmul.py [seconds per shape]`.

Prints GFLOP/s as medians and the ratio of the medians (above 1: ours is faster). Ours is called through ctypes.
"""
from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "compiler")]

from kernel_bench import Prepared  # noqa: E402

from fanal.core.backends.cpu.matmul import Operand, matmul_launches  # noqa: E402
from fanal.core.base import dtype as dt  # noqa: E402

# (batch, M, K, N, form): form "nn", "tn" (A is read transposed), "nt" (B is).
SHAPES = [
    *((0, n, n, n, "nn") for n in (16, 32, 64, 128, 256, 512, 1024, 2048)),
    (0, 32, 64, 128, "nn"),
    (0, 128, 784, 512, "nn"), (0, 784, 128, 512, "tn"), (0, 128, 512, 784, "nt"),
    (0, 768, 128, 384, "nn"), (0, 768, 128, 512, "nn"), (0, 768, 128, 128, "nn"), (0, 768, 512, 128, "nn"),
    (0, 128, 768, 512, "tn"), (0, 768, 128, 512, "nt"), (0, 768, 384, 128, "nt"), (0, 128, 768, 384, "tn"),
    (0, 512, 768, 128, "tn"),
    (48, 64, 32, 64, "nn"), (48, 64, 32, 64, "nt"), (48, 64, 64, 32, "nn"), (48, 64, 64, 32, "tn"),
    (0, 2048, 384, 1536, "nt"), (0, 2048, 1536, 384, "nt"), (0, 1536, 2048, 384, "tn"),
    (0, 768, 128, 65, "nn"), (0, 768, 128, 10, "nn"), (0, 1, 512, 512, "nn"), (0, 4, 512, 2048, "nn"),
]


def operand(value_id: int, x: np.ndarray) -> Operand:
    return Operand(value_id, dt.from_numpy(x.dtype), x.shape, tuple(s // x.itemsize for s in x.strides))


def measure(batch: int, m: int, k: int, n: int, form: str, budget: float) -> str:
    rng = np.random.default_rng(0)
    lead = (batch,) if batch else ()
    a = rng.standard_normal((*lead, k, m) if form[0] == "t" else (*lead, m, k)).astype(np.float32)
    b = rng.standard_normal((*lead, n, k) if form[1] == "t" else (*lead, k, n)).astype(np.float32)
    a = a.swapaxes(-1, -2) if form[0] == "t" else a
    b = b.swapaxes(-1, -2) if form[1] == "t" else b
    c = np.empty((*lead, m, n), np.float32)
    entries = matmul_launches(operand(0, a), operand(1, b), operand(2, c))
    ours = Prepared(entries, {0: a, 1: b, 2: c})
    ta, tb, tc = (torch.from_numpy(x) for x in (a, b, np.empty_like(c)))

    def theirs() -> None:
        torch.matmul(ta, tb, out=tc)
    ours()
    theirs()
    assert np.abs(c - tc.numpy()).max() < 1e-5 * k ** 0.5 * 10
    flops = 2 * max(batch, 1) * m * n * k
    repeat = max(1, int(2e7 / flops))
    samples: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(samples[0]) < 5:
        for function, times in zip((ours, theirs), samples, strict=True):
            start = time.thread_time()
            for _ in range(repeat):
                function()
            times.append((time.thread_time() - start) / repeat)
    mine, peer = (statistics.median(times) for times in samples)
    spec = f"{'' if not batch else f'{batch}x'}{m}x{k}x{n} {form}"
    best = flops / min(samples[0]) / 1e9
    return f"{spec:22s} {flops / mine / 1e9:7.1f} {flops / peer / 1e9:7.1f} {peer / mine:6.2f}   {best:6.1f}  " \
           f"{' + '.join(type(e).__name__ + ':' + str(e.units) for e in entries if hasattr(e, 'units'))}"


def main() -> None:
    torch.set_num_threads(1)
    budget = float(sys.argv[1]) if len(sys.argv) > 1 else 0.3
    print("shape                     ours    torch  ratio   best of ours")
    for shape in SHAPES:
        print(measure(*shape, budget), flush=True)


if __name__ == "__main__":
    main()
