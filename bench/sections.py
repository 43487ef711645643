"""Where Python's time goes in a step of the 64-128-10 MLP (batch 32, Adam): each statement, beside PyTorch.

Run: python bench/sections.py. One thread; microseconds, medians over steps and over three processes taking turns. The
last line is the whole step. Fanal computes in the optimizer's step, so the kernels' time is there.
"""
from __future__ import annotations

import statistics
import time
from typing import Any

import results

STATEMENTS = ("zero_grad", "forward", "loss", "backward", "step", "all")
STEPS, SKIPPED = 4000, 200


def measure(torch: Any) -> dict[str, float]:
    """Return the median microseconds of each statement."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    nn, F = torch.nn, torch.nn.functional
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = [(torch.randn(32, 64), torch.randint(0, 10, (32,))) for _ in range(8)]
    now = time.perf_counter_ns
    rows = []
    for k in range(STEPS):
        x, y = batches[k % 8]
        t0 = now()
        opt.zero_grad()
        t1 = now()
        logits = model(x)
        t2 = now()
        loss = F.cross_entropy(logits, y)
        t3 = now()
        loss.backward()
        t4 = now()
        opt.step()
        t5 = now()
        rows.append((t1 - t0, t2 - t1, t3 - t2, t4 - t3, t5 - t4, t5 - t0))
    return {name: statistics.median(column) / 1e3 for name, column in zip(STATEMENTS, zip(*rows[SKIPPED:]))}


if __name__ == "__main__":
    results.beside_torch(__file__, measure, STATEMENTS, decimals=2)
