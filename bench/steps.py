"""Training steps of Fanal beside PyTorch eager, torch.compile and JAX, as ratios, and the floor of the machine.

Run: python bench/steps.py [--workloads mlp,cnn,gpt] [--threads 1,2] [--rounds 3] [--peers eager,compile,jax] [--keep].
Every library runs in a process of its own, in turn (A B C A B C ...), and the table shows medians over rounds of the
median step. Figures are milliseconds of wall time a step; ratios are ours over the peer's: below 1 we are faster.
The floor is what our program would take if every kernel reached the multiply-add rate or the copy bandwidth of this
machine, whichever takes longer; both are measured in the same run. `--keep` writes the table, a picture and what
machine it was to bench/results/, beside the rows that were measured on the same machine before.
"""
from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import results

HERE = Path(__file__).resolve().parent
PEERS = {
    "eager": "PyTorch as it is",
    "fused": "with its fused optimizer",
    "compile": "with the model compiled",
    "autotune": "with the model compiled in mode max-autotune",
    "whole": "with the whole step compiled: forward, backward, optimizer",
    "jax": "the same mathematics in JAX, jitted as one function",
}
FLOOR = "floor"


def timed(step, seconds: float) -> dict[str, float]:  # type: ignore[no-untyped-def]
    """Time a step after warming up; return the median in milliseconds, and the first three steps' in seconds."""
    begin = time.perf_counter()
    for _ in range(3):
        last = step()
    float(last)
    first = time.perf_counter() - begin
    for _ in range(10):
        step()
    samples = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(samples) < 10:
        t = time.perf_counter_ns()
        step()
        samples.append(time.perf_counter_ns() - t)
    return {"ms": statistics.median(samples) * 1e-6, "first": first}


def child(name: str, peer: str, threads: int, seconds: float) -> dict[str, float]:
    """Run one workload with one library in this process."""
    sys.path.insert(0, str(HERE))
    if peer == "jax":
        import jax_models
        return timed(jax_models.WORKLOADS[name](), seconds)
    if peer == FLOOR:
        import breakdown
        return {"ms": 1e3 * breakdown.floor(name, threads), "first": 0.0}
    import models
    if peer == "fanal":
        import fanal as torch
    else:
        import torch
    torch.set_num_threads(threads)
    if peer == "fused":
        for kind in ("Adam", "AdamW", "SGD"):
            plain = getattr(torch.optim, kind)
            setattr(torch.optim, kind, lambda p, plain=plain, **k: plain(p, fused=True, **k))
    step = models.WORKLOADS[name](torch)
    if peer == "compile":
        step.model.compile()
    elif peer == "autotune":
        step.model.compile(mode="max-autotune")
    elif peer == "whole":
        step = torch.compile(step)
    return timed(step, seconds)


def run(name: str, peer: str, threads: int, seconds: float) -> float | None:
    """Return the milliseconds of a step in a process of its own; None where a peer does not run it."""
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--child", name, peer, str(threads), "--seconds", str(seconds)]
    if peer == "jax":
        env["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
        if threads == 1 and hasattr(os, "sched_setaffinity"):
            command = ["taskset", "-c", "0", *command]
    out = subprocess.run(command, env=env, capture_output=True, text=True)
    if out.returncode == 0:
        return float(json.loads(out.stdout.splitlines()[-1])["ms"])
    if peer in ("fanal", FLOOR):
        sys.exit(out.stderr)
    return None


def measure(name: str, threads: int, peers: list[str], rounds: int, seconds: float, progress: results.Progress) -> dict:
    """Return the medians of one workload by library, None for one that does not run it."""
    found: dict[str, list[float]] = {p: [] for p in peers}
    missing: set[str] = set()
    for _ in range(rounds):
        for p in peers:
            progress.next(f"{name}, {threads} thread{'s' if threads > 1 else ''}, {p}")
            if p in missing or (p == FLOOR and found[p]):
                continue
            ms = run(name, p, threads, seconds)
            if ms is None:
                missing.add(p)
            else:
                found[p].append(ms)
    return {"workload": name, "threads": threads, "ms": {p: statistics.median(v) if v else None for p, v in found.items()}}


def ratio(row: dict, peer: str) -> float:
    """Return our time over a peer's."""
    ms = row["ms"].get(peer)
    return row["ms"]["fanal"] / ms if ms else math.nan


def best(row: dict) -> float:
    """Return our time over that of the fastest peer."""
    return max((ratio(row, p) for p in PEERS if row["ms"].get(p)), default=math.nan)


def heads(peers: list[str]) -> list[str]:
    """Return what the cells of `line` are."""
    return ["workload", "threads", *(f"{p} ms" for p in peers), *(f"to {p}" for p in peers if p in PEERS), "to best", "of floor"]


def line(row: dict, peers: list[str]) -> list[str]:
    """Return the cells of a workload: times, ratios, the ratio to the best peer and the fraction of the floor."""
    times = [f"{row['ms'][p]:.3f}" if row["ms"].get(p) else "-" for p in peers]
    ratios = [f"{ratio(row, p):.2f}" if row["ms"].get(p) else "-" for p in peers if p in PEERS]
    floor = row["ms"].get(FLOOR)
    return [row["workload"], str(row["threads"]), *times, *ratios, f"{best(row):.2f}",
            f"{floor / row['ms']['fanal']:.2f}" if floor else "-"]


def picture(rows: list[dict], path: Path) -> None:
    """Draw how long a step of every library takes, ours being 1, one row for each workload."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    peers = [p for p in PEERS if any(row["ms"].get(p) for row in rows)]
    fig, ax = pyplot.subplots(figsize=(8, 2 + 0.3 * len(rows)), layout="constrained")
    for k, p in enumerate(peers):
        at = [(1 / ratio(row, p), y) for y, row in enumerate(rows) if row["ms"].get(p)]
        ax.scatter(*zip(*at), s=36, marker="os^vDP"[k % 6], label=f"{p}: {PEERS[p]}", zorder=3)
    floors = [(row["ms"][FLOOR] / row["ms"]["fanal"], y) for y, row in enumerate(rows) if row["ms"].get(FLOOR)]
    if floors:
        ax.scatter(*zip(*floors), s=60, marker="|", color="black", label="floor of the machine", zorder=3)
    ax.axvline(1, color="black", linewidth=1)
    ax.set_xscale("log")
    ax.set_yticks(range(len(rows)), [f"{row['workload']}, {row['threads']}" for row in rows])
    ax.invert_yaxis()
    ax.grid(axis="x", which="both", alpha=0.3)
    ax.set_xlabel("time of a step; Fanal's is 1, to the right is slower")
    fig.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    results.save_picture(fig, path)


def kept(rows: list[dict], workloads: Iterable[str]) -> list[dict]:
    """Return rows with those that this machine measured before for other workloads or threads, in the order of these."""
    path = results.FOLDER / "steps.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    old = before["rows"] if before.get("machine") == results.machine() else []
    every = {(row["workload"], row["threads"]): row for row in (*old, *rows)}
    order = {name: k for k, name in enumerate(workloads)}
    return sorted(every.values(), key=lambda row: (row["threads"], order.get(row["workload"], len(order))))


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", default="mlp,cnn,gpt")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--peers", default=",".join([*PEERS, FLOOR]),
                        help="; ".join(f"{p}: {what}" for p, what in PEERS.items()))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--keep", action="store_true", help="write the table, a picture and the machine to bench/results")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        name, peer, threads = args.child
        print(json.dumps(child(name, peer, int(threads), args.seconds)))
        return
    peers = ["fanal", *args.peers.split(",")]
    sys.path.insert(0, str(HERE))
    import models

    workloads = list(models.WORKLOADS) if args.workloads == "all" else args.workloads.split(",")
    counts = list(map(int, args.threads.split(",")))
    progress = results.Progress(len(workloads) * len(counts) * args.rounds * len(peers))
    print("  ".join(f"{h:>11}" for h in heads(peers)))
    rows = []
    for name in workloads:
        for threads in counts:
            rows.append(measure(name, threads, peers, args.rounds, args.seconds, progress))
            progress.clear()
            print("  ".join(f"{c:>11}" for c in line(rows[-1], peers)), flush=True)
            if args.keep:  # after every row: a long run that is stopped has lost nothing
                known = kept(rows, models.WORKLOADS)
                every = ["fanal", *PEERS, FLOOR]
                results.save("steps", __doc__ or "", heads(every), [line(r, every) for r in known], {"rows": known},
                             picture="steps.png")
                picture(known, results.FOLDER / "steps.png")


if __name__ == "__main__":
    main()
