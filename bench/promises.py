"""The promises that are not step times: no wait, small, steady. Each line: what, figure, limit, kept or not.

Run: python bench/promises.py [startup] [memory] [size]. Peers run in turn in processes of their own; medians of three.
"""
from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import models

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 3

MLP = """
import sys; sys.path.insert(0, {bench!r})
import {lib} as torch, models
step = models.mlp(torch)
for _ in range(3): loss = step()
loss.detach().item()
"""
GPT = """
import sys, time; sys.path.insert(0, {bench!r})
import {lib} as torch, models
step = models.gpt(torch)
begin = time.perf_counter(); step().detach().item(); print(time.perf_counter() - begin)
"""
STEADY = """
import sys, resource, gc; sys.path.insert(0, {bench!r})
import fanal as torch, models
def rss():
    gc.collect()
    return int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize()
nn, F = torch.nn, torch.nn.functional
def train(batch_of, steps):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    first = None
    for k in range(steps):
        n = batch_of(k)
        x, y = torch.randn(n, 64), torch.randint(0, 10, (n,))
        opt.zero_grad(); F.cross_entropy(model(x), y).backward(); opt.step()
        if k == steps // 10: first = rss()
    return first, rss()
for figures in (train(lambda k: 32, 20000), train(lambda k: 1 + k * 773 % 2000, 4000)): print(*figures)
"""
PEAK = """
import sys, resource; sys.path.insert(0, {bench!r})
import {lib} as torch, models
torch.set_num_threads(1)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
small = models.mlp(torch)
for _ in range(3): small()
base = int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize()
step = models.WORKLOADS[{name!r}](torch)
for _ in range(5): step()
print(peak() - base)
"""
KERNELS = """
import sys, resource, gc; sys.path.insert(0, {bench!r})
import fanal as torch
from fanal.core.backends.cpu import jit
def rss():
    gc.collect()
    return int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize()
x = torch.randn(64)
def compile_one(k):
    y = x
    for d in range(11): y = y.exp() if k >> d & 1 else y.abs()
    return y.sum().item()
compile_one(0)  # LLVM is loaded
before, had = rss(), jit.compiled
k = 1
while jit.compiled - had < 2000: compile_one(k); k += 1
print(before, rss())
"""


def run(code: str, lib: str, cache: str | None = None, name: str = "") -> tuple[float, str]:
    """Run a program; return the seconds from process start to its end, and what it printed."""
    env = os.environ | {"FANAL_CACHE_DIR": cache or ""}
    if not cache:
        env.pop("FANAL_CACHE_DIR")
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # with bytecode, as pip installs the peers
    begin = time.perf_counter()
    out = subprocess.run([sys.executable, "-c", code.format(lib=lib, bench=str(ROOT / "bench"), name=name)], env=env,
                         capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    if out.returncode:
        sys.exit(out.stderr)
    return seconds, out.stdout


def line(what: str, figure: str, limit: str, kept: bool) -> None:
    """Print one promise."""
    print(f"{what:58} {figure:>34}   {limit:>10}   {'kept' if kept else 'NOT KEPT'}", flush=True)


def startup() -> None:
    """Time from process start to the third MLP step, the first GPT step, and the import."""
    cold, warm, torch, first = [], [], [], []
    run(MLP, "fanal")
    for _ in range(ROUNDS):
        torch.append(run(MLP, "torch")[0])
        with tempfile.TemporaryDirectory() as cache:
            cold.append(run(MLP, "fanal", cache)[0])
            warm.append(run(MLP, "fanal", cache)[0])
        with tempfile.TemporaryDirectory() as cache:
            first.append(float(run(GPT, "fanal", cache)[1]))
    c, w, t, g = map(statistics.median, (cold, warm, torch, first))
    line("start to third MLP step, empty cache, to torch eager", f"{c:.2f} s / {t:.2f} s = {c / t:.2f}", "<= 1", c <= t)
    line("start to third MLP step, warm cache, to torch eager", f"{w:.2f} s / {t:.2f} s = {w / t:.2f}", "<= 0.5", w <= t / 2)
    line("first GPT step, empty cache", f"{g:.2f} s", "<= 3 s", g <= 3)
    code = "import time; t = time.perf_counter(); import {lib}; print(time.perf_counter() - t)"
    ours = statistics.median(float(run(code, "fanal")[1]) for _ in range(5))
    numpy = statistics.median(float(run(code, "numpy")[1]) for _ in range(5))
    line("import fanal, where import numpy takes 0.1 s", f"{ours:.3f} s / {numpy:.3f} s = {ours / numpy:.2f}", "<= 2.5",
         ours <= 2.5 * numpy)


def memory() -> None:
    """Resident memory over many steps, shapes and kernels, and the peaks of train steps.

    A peak is all that a model takes: its parameters, batches, gradients, optimizer's state and what a step holds. What the
    library takes for itself is no part of it: a small model trained three steps before.
    """
    rows = run(STEADY, "fanal")[1].splitlines()
    for what, row in zip(("20,000 MLP steps", "2,000 batch shapes, twice"), rows):
        a, b = map(int, row.split())
        line(f"resident memory over {what}", f"{a / 1e6:.1f} -> {b / 1e6:.1f} MB ({100 * (b / a - 1):+.1f} %)", "+-2 %",
             abs(b / a - 1) <= 0.02)
    for name in models.WORKLOADS:
        run(PEAK, "fanal", name=name)  # kernels on disk: a compiler is no part of a step
        ours, peer = (int(run(PEAK, lib, name=name)[1]) for lib in ("fanal", "torch"))
        line(f"peak memory of the step {name}, to torch", f"{ours / 1e6:.1f} / {peer / 1e6:.1f} MB = {ours / peer:.2f}",
             "<= 0.8", ours <= 0.8 * peer)
    with tempfile.TemporaryDirectory() as cache:
        a, b = map(int, run(KERNELS, "fanal", cache)[1].split())
    line("resident memory over compiling 2,000 kernels", f"{a / 1e6:.1f} -> {b / 1e6:.1f} MB", "<= +100 MB", b - a <= 1e8)


def size() -> None:
    """The wheel, and the installed core with its three dependencies."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, str(ROOT)], check=True,
                       capture_output=True)
        wheel = next(Path(folder).glob("*.whl")).stat().st_size
        line("wheel", f"{wheel / 1e6:.2f} MB", "<= 2 MB", wheel <= 2e6)
        target = Path(folder) / "site"
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--target", str(target), str(ROOT)], check=True,
                       capture_output=True)
        total = sum(f.stat().st_size for f in target.rglob("*") if f.is_file())
        line("core install with numpy, llvmlite, ml_dtypes", f"{total / 1e6:.0f} MB", "<= 280 MB", total <= 280e6)


def main() -> None:
    """Check the promises asked for, all by default."""
    for name in sys.argv[1:] or ("startup", "memory", "size"):
        {"startup": startup, "memory": memory, "size": size}[name]()


if __name__ == "__main__":
    main()
