"""Attention, one thread (its processor time), against torch in turn: `python bench/attention.py [seconds]`.

Prints milliseconds as medians for forward, then for the backward pass (torch: forward and backward less forward).
"""
from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "compiler")]

from kernel_bench import Prepared  # noqa: E402

from fanal.core.backends.contract import Buf  # noqa: E402
from fanal.core.backends.cpu.attention import attention_backward_launches, attention_launches  # noqa: E402
from fanal.core.backends.cpu.matmul import Operand  # noqa: E402
from fanal.core.base import dtype as dt  # noqa: E402

CASES = [(12, 4, 64, 32), (12, 4, 256, 64), (4, 8, 512, 64), (1, 8, 2048, 64)]  # (B, H, T, D), causal


def operand(value_id: int, x: np.ndarray) -> Operand:
    return Operand(value_id, dt.from_numpy(x.dtype), x.shape, tuple(s // x.itemsize for s in x.strides))


def measure(b: int, h: int, t: int, d: int, budget: float) -> None:
    rng = np.random.default_rng(0)
    qkv = rng.standard_normal((b, t, 3, h, d)).astype(np.float32)
    q, k, v = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    g = rng.standard_normal((b, t, h, d)).astype(np.float32).transpose(0, 2, 1, 3)
    out, dq, dk, dv = (np.empty((b, t, h, d), np.float32).transpose(0, 2, 1, 3) for _ in range(4))
    arrays = {0: q, 1: k, 2: v, 3: out, 4: np.empty((b, h, t, 2), np.float32), 5: g, 6: dq, 7: dk, 8: dv}
    o = {i: operand(i, x) for i, x in arrays.items()}
    scale = d ** -0.5
    forward = Prepared(attention_launches(o[0], o[1], o[2], o[3], Buf(4), scale, causal=True), arrays)
    backward = Prepared(attention_backward_launches(o[0], o[1], o[2], Buf(4), o[5], o[6], o[7], o[8], scale, causal=True),
                        arrays)
    leaves = [torch.from_numpy(x).requires_grad_() for x in (q, k, v)]
    tg = torch.from_numpy(g)

    def peer_forward() -> None:
        with torch.no_grad():
            F.scaled_dot_product_attention(*leaves, is_causal=True)

    def peer_both() -> None:
        torch.autograd.grad(F.scaled_dot_product_attention(*leaves, is_causal=True), leaves, tg)
    functions = (forward, backward, peer_forward, peer_both)
    times: list[list[float]] = [[] for _ in functions]
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(times[0]) < 5:
        for function, samples in zip(functions, times, strict=True):
            start = time.thread_time()
            function()
            samples.append(time.thread_time() - start)
    mine, back, peer, both = (statistics.median(s) * 1e3 for s in times)
    print(f"{b}x{h}x{t}x{d}: forward {mine:.3f} {peer:.3f} {peer / mine:.2f}   "
          f"backward {back:.3f} {both - peer:.3f} {(both - peer) / back:.2f}")


def main() -> None:
    torch.set_num_threads(1)
    budget = float(sys.argv[1]) if len(sys.argv) > 1 else 0.5
    print("BxHxTxD: ours, torch, ratio (above 1: ours is faster)")
    for case in CASES:
        measure(*case, budget)


if __name__ == "__main__":
    main()
