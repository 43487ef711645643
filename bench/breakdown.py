"""Where the time of a training step goes, kernel by kernel: `python bench/breakdown.py [--workloads gpt] [--threads 1]`.

Prints for every kind of kernel its launches and milliseconds a step, GFLOP/s and GB/s, the floor (FLOPs at the
multiply-add rate or bytes at the copy bandwidth, both measured in this process, whichever takes longer) and the
fraction of it that is reached. Times are the wall time
of a launch's slowest thread, the least over the steps: other load only adds.
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

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

import models  # noqa: E402

import fanal as torch  # noqa: E402
from fanal.core.backends.contract import Kernel  # noqa: E402
from fanal.core.backends.cpu import jit  # noqa: E402
from fanal.core.backends.cpu import target as targets  # noqa: E402
from fanal.core.backends.cpu.irtext import Writer, module  # noqa: E402
from fanal.core.backends.cpu.register_tile_ir import multiply_add  # noqa: E402
from fanal.core.engine.ledger import ledger  # noqa: E402

_CHAINS = 12  # independent multiply-adds: more than latency times issue rate


def _best(function: Callable[[], object], seconds: float = 0.05) -> float:
    """Return the least time of a call, in seconds."""
    best, end = 1e9, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def multiply_add_rate(pairs: bool = False) -> float:
    """Return the FLOP/s of one core in float32 multiply-adds on registers, or in those of pairs of bfloat16."""
    target = targets.host()
    lanes = target.lanes(4)
    vector = f"<{lanes} x float>"
    declared: set[str] = set()
    w = Writer(target, declared)
    one = w.splat(vector, w.let("sitofp i64 %lo to float"))
    sums = w.loop("0", "%hi", "1", lambda _, *acc: [multiply_add(w, vector, one, one, x, pairs) for x in acc],
                  [(vector, one)] * _CHAINS)
    total = sums[0]
    for x in sums[1:]:
        total = w.let(f"fadd {vector} {total}, {x}")
    w.store(vector, total, "%scratch")
    name = target.symbol(f"multiply-add rate {_CHAINS} {pairs}")
    text = module([w.function(f"void @{name}(ptr %args, i64 %lo, i64 %hi, ptr %scratch)")], declared)
    address = jit.compile_many([Kernel(name, lambda: text)], target)[name]
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(address)
    out = np.zeros(64, np.float32)
    count = 100_000
    return (4 if pairs else 2) * lanes * _CHAINS * count / _best(lambda: call(None, 0, count, out.ctypes.data))


class Bandwidth:
    """Bytes a second of copying, read plus written, by how many bytes are touched."""

    def __init__(self) -> None:
        self.known: dict[int, float] = {}

    def __call__(self, nbytes: float) -> float:
        power = min(27, max(14, round(np.log2(max(1, nbytes)))))
        if power not in self.known:
            a = np.ones(1 << power - 1, np.uint8)
            b = np.ones_like(a)  # touched: the first copy would wait for its pages
            repeat = max(1, (1 << 20) >> power)

            def copy() -> None:
                for _ in range(repeat):
                    np.copyto(b, a)
            self.known[power] = (1 << power) * repeat / _best(copy)
        return self.known[power]


def profile(step: Callable[[], Any], rounds: int) -> tuple[list[tuple[str, float, int, int]], float]:
    """Return (label, seconds, flops, bytes) of every launch of a step, and the wall time of a step."""
    for _ in range(5):
        step()
    wall = []
    for _ in range(rounds):
        start = time.perf_counter()
        step()
        wall.append(time.perf_counter() - start)
    ledger.profiling = True
    for e in ledger.executables:
        e.profiles.clear()
    for _ in range(rounds):
        for e in ledger.executables:
            e.runs = 1  # the ledger times second runs
        step()
    ledger.profiling = False
    rows = []
    for e in ledger.executables:
        samples: dict[tuple[int, int], list[float]] = {}
        labels: dict[tuple[int, int], str] = {}
        for timings in e.profiles:
            once: dict[tuple[int, int], float] = {}
            for t in timings:
                labels[t.step, t.turn] = t.label
                once[t.step, t.turn] = max(once.get((t.step, t.turn), 0.0), (t.end - t.begin) * 1e-9)
            for at, seconds in once.items():
                samples.setdefault(at, []).append(seconds)
        for at, times in samples.items():
            step = e.exe.lowered.steps[at[0]]
            launch = next((one for one in getattr(step, "launches", ()) if one.label == labels[at]), step)
            rows.append((launch.label, min(times), getattr(launch, "flops", 0),
                         getattr(launch, "nbytes", 0)))
    return rows, statistics.median(wall)


def _floor(flops: int, nbytes: int, launches: int, rate: float, bandwidth: Bandwidth, threads: int) -> float:
    """Return the seconds that so many equal launches would take at the limit of the machine."""
    return max(flops / (rate * threads), nbytes / (bandwidth(nbytes / launches) * threads))


def floor(name: str, threads: int) -> float:
    """Return the seconds that a step of a workload would take if every kernel were at the limit of the machine."""
    torch.set_num_threads(threads)
    rate, bandwidth = multiply_add_rate(), Bandwidth()
    rows, _ = profile(models.WORKLOADS[name](torch), 1)
    return sum(_floor(flops, nbytes, 1, rate, bandwidth, threads) for _, _, flops, nbytes in rows)


def table(name: str, threads: int, rounds: int, rate: float, bandwidth: Bandwidth, single: bool) -> None:
    """Print the table of one workload."""
    torch.set_num_threads(threads)
    ledger.executables.clear()
    rows, wall = profile(models.WORKLOADS[name](torch), rounds)
    kinds: dict[object, list[tuple[str, float, int, int]]] = {}
    for n, row in enumerate(rows):
        kinds.setdefault(n if single else (row[0], row[2], row[3]), []).append(row)
    total = sum(row[1] for row in rows)
    print(f"\n{name}, {threads} thread{'s' if threads > 1 else ''}: median step {wall * 1e3:.3f} ms, kernels "
          f"{total * 1e3:.3f} ms in {len(rows)} launches; multiply-adds {rate * 1e-9:.0f} GFLOP/s a core")
    print(f"{'launches':>8} {'ms':>8} {'share':>6} {'GFLOP/s':>8} {'GB/s':>6} {'floor':>8} {'of floor':>8}  kernel")
    floors = 0.0
    for launches in sorted(kinds.values(), key=lambda r: -sum(x[1] for x in r)):
        seconds = sum(x[1] for x in launches)
        flops, nbytes = sum(x[2] for x in launches), sum(x[3] for x in launches)
        least = _floor(flops, nbytes, len(launches), rate, bandwidth, threads)
        floors += least
        if seconds > total / 500:
            print(f"{len(launches):8} {seconds * 1e3:8.3f} {100 * seconds / total:5.1f}% {flops / seconds * 1e-9:8.1f} "
                  f"{nbytes / seconds * 1e-9:6.1f} {least * 1e3:8.3f} {least / seconds:8.2f}  {launches[0][0][:90]}")
    print(f"{'':8} {total * 1e3:8.3f} {'':6} {'':8} {'':6} {floors * 1e3:8.3f} {floors / total:8.2f}  all", flush=True)


def main() -> None:
    """Print a table for each workload."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", default="mlp,gpt")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--single", action="store_true", help="one row for every launch, not for every kind")
    args = parser.parse_args()
    rate, bandwidth = multiply_add_rate(), Bandwidth()
    for name in models.WORKLOADS if args.workloads == "all" else args.workloads.split(","):
        for threads in map(int, args.threads.split(",")):
            table(name, threads, args.rounds, rate, bandwidth, args.single)


if __name__ == "__main__":
    main()
