"""Every operator of PyTorch's operator database, small and large: Fanal beside PyTorch eager, one thread, forward.

Run: make bench-ops, or python bench/ops.py [--ops 'linalg.*,add'] [--sizes small,large] [--seconds 0.1] [--resume].

How it is timed. A user calls an operator many times on different data before reading anything. So a repetition is

    results = [operator(*args, **kwargs) for args, kwargs in data]
    (one + one).item()

with 50 calls at the small size and 2 at the large one, each with tensors of its own. The results are kept until the next
repetition's stand in their place, so memory is allocated as in a user's loop; the number that is read makes Fanal compute
everything, and costs PyTorch an addition. Both libraries run the same text in one process, in turn (A B A B ...), after
three repetitions that are not timed: what is compared is the compiled steady state. Times are the thread's processor time;
a figure is the median of the repetitions. The data is the same in all repetitions. Where an entry cannot be enlarged (see
`op_arguments`), it has no large size, and the report says so.

Every entry runs in a process of its own; one that raises, crashes or takes longer than --timeout is listed. A run of all
entries takes most of an hour: what is measured is kept at once, and --resume goes on after the last entry that is.
"""
from __future__ import annotations

import argparse
import fnmatch
import json
import os
import select
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

for library in ("OMP", "MKL", "OPENBLAS"):  # NumPy's too; they ask when they are imported
    os.environ[f"{library}_NUM_THREADS"] = "1"

import numpy as np  # noqa: E402
import op_bridge  # noqa: E402
import results  # noqa: E402
import torch  # noqa: E402
from op_arguments import Arguments, large, shapes, small  # noqa: E402
from torch.testing._internal.common_methods_invocations import op_db  # noqa: E402

import fanal  # noqa: E402

RESULTS = results.FOLDER / "ops.txt"
HALF = results.FOLDER / "ops.jsonl"  # the records of a run of all entries, until its report is written
CALLS = {"small": 50, "large": 2}
WARM_UP = 3
LEAST = {"small": 30, "large": 3}  # repetitions
SLOW = 5.0  # seconds that three repetitions are enough for: some entries have no small sample
LIMITS = {"small": {"median": 0.5, "worst": 20.0}, "large": {"median": 1.0, "p90": 2.0, "worst": 20.0}}


def measured(op: Any) -> bool:
    """Tell whether an entry is public API that runs on the CPU."""
    internal = isinstance(op.op, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)) or op.name.startswith("torch.")
    private = (op.name.startswith("_") and not op.name.startswith("__")) or op.name == "max_pool2d_with_indices_backward"
    return bool(op.dtypes) and not (internal or private or op.name.startswith("jiterator"))


def name_of(op: Any) -> str:
    return op.name + (f" ({op.variant_test_name})" if op.variant_test_name else "")


def repetition(library: Any, run: Callable[..., Any], data: list[Arguments]) -> Callable[[], float]:
    """Return a function that runs one repetition and returns its seconds."""
    one, kept = library.ones(()), [None]
    clock = time.thread_time

    def once() -> float:
        begin = clock()
        kept[0] = [run(*args, **kwargs) for args, kwargs in data]  # type: ignore[call-overload]
        (one + one).item()
        return clock() - begin
    return once


def compare(op: Any, call: Arguments, size: str, seconds: float) -> tuple[float, ...]:
    """Return the seconds a call of torch and of Fanal, as medians."""
    torch.manual_seed(0)
    fanal.manual_seed(0)
    theirs, ours = op_bridge.operators(op)
    calls = CALLS[size]
    peer = repetition(torch, theirs, [op_bridge.copied(call) for _ in range(calls)])
    mine = repetition(fanal, ours, [op_bridge.ours(call) for _ in range(calls)])
    for _ in range(WARM_UP):
        peer(), mine()
    times: list[tuple[float, float]] = []
    begin = time.thread_time()
    while (spent := time.thread_time() - begin) < seconds or len(times) < (LEAST[size] if spent < SLOW else 3):
        times.append((peer(), mine()))
    return tuple(statistics.median(column) / calls for column in zip(*times))


def work(op: Any, sizes: list[str], seconds: float, write: Callable[[dict], None]) -> None:
    """Measure one entry, and write a record for each size."""
    dtype = torch.float32 if torch.float32 in op.dtypes else min(op.dtypes, key=str)
    name = name_of(op)
    for size in sizes:
        torch.manual_seed(0), np.random.seed(0)
        call: Arguments | None = small(op, name, dtype)
        if size == "large" and call is not None:
            call = large(op, name, dtype, call, op_bridge.operators(op)[0])
        record: dict[str, Any] = {"name": name, "size": size, "shapes": shapes(call) if call else "", "error": ""}
        if call is None:
            write({**record, "error": "not enlarged" if size == "large" else "no dense arguments"})
            continue
        try:
            record["torch"], record["fanal"] = compare(op, call, size, seconds)
        except Exception as e:
            record["error"] = f"{type(e).__name__}: {e}".replace("\n", " ")[:120]
        write(record)


def isolated(op: Any, sizes: list[str], seconds: float, timeout: float) -> list[dict]:
    """Measure one entry in a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reader)
            with os.fdopen(writer, "w") as f:
                work(op, sizes, seconds, lambda r: print(json.dumps(r), file=f, flush=True))
        except BaseException as e:
            print(f"\n{name_of(op)}: {type(e).__name__}: {e}", file=sys.stderr)
        os._exit(0)
    os.close(writer)
    text, end = b"", time.monotonic() + timeout
    while select.select([reader], [], [], max(end - time.monotonic(), 0))[0]:
        block = os.read(reader, 1 << 16)
        if not block:
            break
        text += block
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reader)
    _, status = os.waitpid(child, 0)
    records = [json.loads(line) for line in text.splitlines()]
    missing = sizes[len(records):]
    why = "took too long" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL else f"ended, status {status}"
    return records + [{"name": name_of(op), "size": s, "shapes": "", "error": why} for s in missing[:1]]


def summary(records: list[dict], size: str) -> list[str]:
    """Return the lines of the report for one size."""
    rows = sorted((r for r in records if r["size"] == size and not r["error"]), key=lambda r: r["fanal"] / r["torch"])
    if not rows:
        return [f"{size}: nothing measured"]
    ratios = [r["fanal"] / r["torch"] for r in rows]
    figures = {"median": statistics.median(ratios), "p90": ratios[int(0.9 * (len(ratios) - 1))], "worst": ratios[-1]}
    lines = [f"{size}: {len(rows)} entries, Fanal's time over PyTorch's: " + ", ".join(
        f"{k} {v:.2f}" + (f" (limit {LIMITS[size][k]:g}: {'kept' if v <= LIMITS[size][k] else 'NOT KEPT'})"
                          if k in LIMITS[size] else "") for k, v in figures.items())]
    lines += [f"  faster than PyTorch: {sum(r < 1 for r in ratios)}; over 2x: {sum(r > 2 for r in ratios)}; "
              f"over 20x: {sum(r > 20 for r in ratios)}", "  the worst twenty:"]
    lines += [f"  {line(r)}" for r in reversed(rows[-20:])]
    for text in ("not enlarged", ""):
        names = [r["name"] + ("" if text else f" ({r['error']})") for r in records
                 if r["size"] == size and r["error"] and (r["error"] == "not enlarged") == bool(text)]
        if names:
            lines.append(f"  {text or 'not measured'} ({len(names)}): {', '.join(names)}")
    return lines


def line(r: dict) -> str:
    return f"{r['fanal'] / r['torch']:7.2f} {r['fanal'] * 1e6:10.1f} {r['torch'] * 1e6:10.1f}  {r['name']}  [{r['shapes']}]"


def main() -> None:
    """Measure, print the report, keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ops", default="*", help="names or patterns, separated by commas")
    parser.add_argument("--sizes", default="small,large")
    parser.add_argument("--seconds", type=float, default=0.1, help="of processor time for one entry at one size")
    parser.add_argument("--timeout", type=float, default=90, help="for one entry")
    parser.add_argument("--out", default="", help=f"where to keep the results; of all entries: bench/results/{RESULTS.name}")
    parser.add_argument("--resume", action="store_true", help="go on with the run of all entries that was interrupted")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    fanal.set_num_threads(1)
    sizes, wanted = options.sizes.split(","), options.ops.split(",")
    entries = [op for op in op_db if measured(op) and any(
        fnmatch.fnmatch(op.name, w) or fnmatch.fnmatch(name_of(op), w) for w in wanted)]
    print("   ratio      fanal      torch  (microseconds a call)", flush=True)
    whole = options.ops == "*"
    records: list[dict] = [json.loads(line) for line in HALF.read_text().splitlines()] \
        if whole and options.resume and HALF.exists() else []
    known = {r["name"] for r in records}
    entries = [op for op in entries if name_of(op) not in known]
    if whole and not records:
        results.replace(HALF, b"")
    progress = results.Progress(len(entries))
    for op in entries:
        progress.next(name_of(op))
        found = isolated(op, sizes, options.seconds, options.timeout)
        progress.clear()
        if whole:
            with HALF.open("a") as f:
                f.write("".join(json.dumps(r) + "\n" for r in found))
        for r in found:
            records.append(r)
            print(f"{r['size']:5} " + (f"{r['name']}: {r['error']}" if r["error"] else line(r)), flush=True)
    measured_on = f"Measured {time.strftime('%Y-%m-%d')} on {results.machine()}."
    report = [measured_on, *(text for size in sizes for text in summary(records, size))]
    print("\n" + "\n".join(report))
    out = Path(options.out) if options.out else RESULTS if whole else None
    if out:
        table = [f"{r['size']:5} {line(r)}" for r in records if not r["error"]]
        page = [*report, "", "size    ratio   fanal us   torch us  entry  [shapes]", *table, ""]
        results.replace(out, "\n".join(page).encode())
    if whole:
        HALF.unlink()


if __name__ == "__main__":
    main()
