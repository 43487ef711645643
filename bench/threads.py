"""How well work divides over threads: `python bench/threads.py [--workloads gpt-medium,resnet] [--threads 8,32,64]`.

For each workload: the least time of a step on one and on two threads, in turn in one process (other load only adds), and
their ratio. Then, also for more threads than this machine has cores, how its program is cut: the work of the least and the busiest thread as a fraction of an even
share, and how much longer than an even share the phases take together when each waits for its busiest thread. Work is
counted in bytes moved, or the arithmetic that takes as long, as the scheduler counts it; it is no measurement.
"""
from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

import models  # noqa: E402

import fanal as torch  # noqa: E402
from fanal.core.backends.cpu.schedule import cost  # noqa: E402
from fanal.core.engine.ledger import ledger  # noqa: E402


def speedup(step: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Return the least milliseconds of a step on one and on two threads."""
    samples: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for threads, times in samples.items():
            torch.set_num_threads(threads)
            step()  # new threads begin, and memory is where they use it
            start = time.perf_counter()
            step()
            times.append(1e3 * (time.perf_counter() - start))
    return min(samples[1]), min(samples[2])


def division(step: Callable[[], Any], threads: int) -> tuple[float, float, float]:
    """Return the least and the largest share of a thread in a step, and the length of its phases; an even share is 1."""
    torch.set_num_threads(threads)
    before = {id(e): e.runs for e in ledger.executables}
    step()
    phases: dict[tuple[int, int], list[float]] = {}
    for e in ledger.executables:
        for _ in range(e.runs - before.get(id(e), 0)):
            for phase, launch, first, width in e.exe.placed():
                load = phases.setdefault((id(e), phase), [0.0] * threads)
                for k in range(width):
                    units = launch.units * (k + 1) // width - launch.units * k // width
                    load[first + k] += cost(launch) * units / max(1, launch.units)
    total = [sum(load) for load in zip(*phases.values(), strict=True)]
    even = sum(total) / threads
    return min(total) / even, max(total) / even, sum(map(max, phases.values())) / even


def main() -> None:
    """Print both tables for each workload."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", default="gpt-medium,resnet")
    parser.add_argument("--threads", default="2,8,32,64")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    for name in models.WORKLOADS if args.workloads == "all" else args.workloads.split(","):
        step = models.WORKLOADS[name](torch)
        for _ in range(4):
            step()
        if args.rounds:
            one, two = speedup(step, args.rounds)
            print(f"{name}: {one:.2f} ms on one thread, {two:.2f} ms on two: {one / two:.2f} times as fast", flush=True)
        for threads in map(int, args.threads.split(",")):
            least, most, length = division(step, threads)
            print(f"{name}, {threads:2} threads: shares {least:.2f} to {most:.2f} of even, phases {length:.2f}", flush=True)


if __name__ == "__main__":
    main()
