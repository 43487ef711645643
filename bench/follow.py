"""What it costs to follow: 20 pointwise events on tiny tensors, per event, native and in pure Python, beside PyTorch.

Run: python bench/follow.py. Times exclude the flush that runs the step, and reading the clock; they are what Python
pays while it walks through known calls. Each figure is the median over steps, and over three processes taking turns.
"""
from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

EVENTS = 20
STEPS, REPEATS = 200, 15


def chain(torch, x, y, z):  # type: ignore[no-untyped-def]
    """Twenty pointwise calls: functions, methods and operators."""
    for _ in range(4):
        x = torch.relu(x)
        x = x + y
        x = x * z
        x = torch.tanh(x)
        x = x.sigmoid()
    return x


def empty() -> float:
    """Return nanoseconds of a call of a built-in function that does nothing, in a loop: what Python itself takes here."""
    samples = []
    for _ in range(STEPS * REPEATS):
        begin = time.perf_counter_ns()
        for _ in range(EVENTS):
            len(())
        samples.append((time.perf_counter_ns() - begin) / EVENTS)
    return statistics.median(samples)


def measure(torch, grad: bool) -> float:  # type: ignore[no-untyped-def]
    """Return nanoseconds per event."""
    torch.manual_seed(0)
    y, z = torch.randn(8, 16), torch.randn(8, 16)
    x = torch.randn(8, 16)
    if grad:
        x = x.requires_grad_()
    samples = []
    for _ in range(REPEATS):
        for _ in range(STEPS):
            time.perf_counter_ns()  # the flush has left the clock cold
            before = time.perf_counter_ns()
            begin = time.perf_counter_ns()
            out = chain(torch, x, y, z)
            samples.append((time.perf_counter_ns() - begin - (begin - before)) / EVENTS)
            out.detach().sum().item()
            del out  # to free a result is no part of following
    return statistics.median(samples)


def main() -> None:
    """Measure this process's library, or run all of them in turn."""
    if len(sys.argv) > 1:
        if sys.argv[1] == "torch":
            import torch
            torch.set_num_threads(1)
        elif sys.argv[1] == "python":
            print(empty())
            return
        else:
            import fanal as torch
        with torch.no_grad():
            print(measure(torch, False))
        return
    rows: dict[str, list[float]] = {"fanal, native": [], "fanal, pure Python": [], "torch eager": [], "len(())": []}
    for _ in range(3):  # in turn: A B C D A B C D A B C D
        for name, args, env in (("fanal, native", "fanal", {}), ("fanal, pure Python", "fanal", {"FANAL_NATIVE": "0"}),
                                ("torch eager", "torch", {}), ("len(())", "python", {})):
            out = subprocess.run([sys.executable, __file__, args], env=os.environ | env, capture_output=True, text=True)
            if out.returncode:
                sys.exit(out.stderr)
            rows[name].append(float(out.stdout.split()[-1]))
    for name, values in rows.items():
        print(f"{name:20} {statistics.median(values):8.1f} ns an event")


if __name__ == "__main__":
    main()
