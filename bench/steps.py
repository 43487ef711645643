"""Training steps of Fanal beside PyTorch eager, torch.compile and JAX, as ratios.

Run: python bench/steps.py [--workloads mlp,cnn,gpt] [--threads 1,2] [--rounds 3] [--peers eager,compile,jax].
Every library runs in a process of its own, in turn (A B C A B C ...), and the table shows medians over rounds of the
median step. Figures are milliseconds of wall time a step; ratios are ours over the peer's: below 1 we are faster.
"""
from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = {
    "eager": "PyTorch as it is",
    "fused": "with its fused optimizer",
    "compile": "with the model compiled",
    "autotune": "with the model compiled in mode max-autotune",
    "whole": "with the whole step compiled: forward, backward, optimizer",
    "jax": "the same mathematics in JAX, jitted as one function",
}


def timed(step, seconds: float) -> dict[str, float]:  # type: ignore[no-untyped-def]
    """Time a step after warming up; return the median in milliseconds, and the first steps' time."""
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


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", default="mlp,cnn,gpt")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--peers", default=",".join(PEERS), help="; ".join(f"{p}: {what}" for p, what in PEERS.items()))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        name, peer, threads = args.child
        print(json.dumps(child(name, peer, int(threads), args.seconds)))
        return
    peers = ["fanal", *args.peers.split(",")]
    print(f"{'workload':16} {'threads':>7} " + " ".join(f"{p:>10}" for p in peers) + "   ratio to " + ", ".join(peers[1:]))
    for name in args.workloads.split(","):
        for threads in map(int, args.threads.split(",")):
            rows: dict[str, list[float]] = {p: [] for p in peers}
            for _ in range(args.rounds):
                for p in peers:
                    env = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
                    command = [sys.executable, __file__, "--child", name, p, str(threads), "--seconds", str(args.seconds)]
                    if p == "jax":
                        env["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
                        if threads == 1 and hasattr(os, "sched_setaffinity"):
                            command = ["taskset", "-c", "0", *command]
                    out = subprocess.run(command, env=env, capture_output=True, text=True)
                    if out.returncode == 0:
                        rows[p].append(json.loads(out.stdout.splitlines()[-1])["ms"])
                    elif p == "fanal":
                        sys.exit(out.stderr)
            median = {p: statistics.median(v) if v else float("nan") for p, v in rows.items()}
            ratios = "  ".join(f"{median['fanal'] / median[p]:5.2f}" for p in peers[1:])
            print(f"{name:16} {threads:7} " + " ".join(f"{median[p]:10.3f}" for p in peers) + f"   {ratios}", flush=True)


if __name__ == "__main__":
    main()
