"""The step report: events, kernels, time, bytes and FLOPs by source line, memory, and what compiling cost.

Times come from a few runs of every program that were timed kernel by kernel; each kernel's time is then counted for
every run. A kernel fused from several lines counts for each line in equal parts.
"""

from __future__ import annotations

import linecache
import os
import resource
import statistics
import sys
from dataclasses import dataclass, field
from typing import Any, TextIO

from fanal.core.base.dim import now
from fanal.core.base.where import line
from fanal.core.compiler.steps import Repeat
from fanal.core.engine.ledger import ledger


@dataclass
class Line:
    """The cost of one line of the user's code."""

    file: str
    number: int
    seconds: float = 0.0
    nbytes: float = 0.0  # bytes read and written by its kernels, once per run
    flops: float = 0.0
    kernels: int = 0

    @property
    def text(self) -> str:
        """The source of the line."""
        return linecache.getline(self.file, self.number).strip()


@dataclass
class Report:
    """What this process did so far."""

    events_followed: int
    events_recorded: int
    diverged: int
    flushes: int
    plans: int
    kernels: int  # in use
    compiled: int  # went through LLVM; the rest came from the disk cache
    compile_seconds: float
    seconds: float  # estimated time inside kernels
    peak_bytes: int  # resident memory of the process at its peak
    lines: list[Line]
    refused: dict[str, int] = field(default_factory=dict)  # segments recorded every time, and why


def report() -> Report:
    """Return the report of this process."""
    lines: dict[tuple[str, int], Line] = {}
    total = 0.0
    for exe in ledger.executables:
        total += _add(exe, lines)
    counts = ledger.snapshot()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Report(
        counts["followed"],
        counts["recorded"],
        counts["diverged"],
        counts["flushes"],
        counts["plans"],
        counts["kernels"],
        counts["compiled"],
        ledger.compile_seconds,
        total,
        peak * (1 if sys.platform == "darwin" else 1024),
        sorted(lines.values(), key=lambda x: (-x.seconds, x.file, x.number)),
        dict(ledger.refused),
    )


def _add(exe: Any, lines: dict[tuple[str, int], Line]) -> float:
    """Add the costs of one program to its lines; return its estimated seconds."""
    if not exe.runs:
        return 0.0
    samples: dict[int, list[float]] = {}
    for profile in exe.profiles:
        once: dict[tuple[int, int], float] = {}
        for t in profile:  # threads work side by side
            once[t.step, t.turn] = max(once.get((t.step, t.turn), 0.0), (t.end - t.begin) * 1e-9)
        whole: dict[int, float] = {}
        for (step, _), seconds in once.items():
            whole[step] = whole.get(step, 0.0) + seconds
        for step, seconds in whole.items():
            samples.setdefault(step, []).append(seconds)
    total = 0.0
    for k, step in enumerate(exe.exe.lowered.steps):
        places = {at for at in map(line, getattr(step, "where", ())) if at is not None} or {
            ("(outside any line)", 0)
        }
        seconds = statistics.median(samples[k]) * exe.runs if k in samples else 0.0
        total += seconds
        for at in places:
            entry = lines.setdefault(at, Line(*at))
            share = 1 / len(places)
            entry.seconds += seconds * share
            entry.nbytes += now(getattr(step, "nbytes", 0)) * exe.runs * share
            entry.flops += now(getattr(step, "flops", 0)) * exe.runs * share
            entry.kernels += now(step.count) * len(step.launches) if isinstance(step, Repeat) else 1
    return total


def amount(n: float, unit: str) -> str:
    """Return a number with a decimal prefix: 12.3 MB."""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(n) < 1000 or prefix == "T":
            return f"{n:.0f} {prefix}{unit}" if prefix == "" else f"{n:.1f} {prefix}{unit}"
        n /= 1000
    return ""


def print_report(file: TextIO | None = None, top: int = 12) -> None:
    """Print the report as text, widest costs first. Prints nothing when no step ran."""
    out = file or sys.stderr
    r = report()
    if not r.flushes:
        return
    events = r.events_followed + r.events_recorded
    share = 100 * r.events_followed / events if events else 0.0
    print("\nfanal: what this run did", file=out)
    print(
        f"  events     {events:,}: {r.events_followed:,} followed ({share:.1f} %), {r.events_recorded:,} recorded, "
        f"{r.diverged:,} segments left half-way",
        file=out,
    )
    print(f"  programs   {r.plans:,} planned, run {r.flushes:,} times", file=out)
    cached = r.kernels - r.compiled
    print(
        f"  kernels    {r.kernels:,}: {r.compiled:,} compiled, {cached:,} from the cache; planning and compiling took "
        f"{r.compile_seconds:.2f} s",
        file=out,
    )
    print(f"  memory     {amount(r.peak_bytes, 'B')} resident at the peak", file=out)
    if r.lines and r.seconds:
        print(f"\n  {'time':>9} {'share':>6} {'bytes':>9} {'FLOPs':>9} {'rate':>13}  line", file=out)
        for entry in r.lines[:top]:
            if not entry.seconds:
                continue
            rate = entry.flops / entry.seconds
            band = entry.nbytes / entry.seconds
            speed = amount(rate, "FLOP/s") if rate > band / 4 else amount(band, "B/s")
            place = f"{os.path.basename(entry.file)}:{entry.number}"
            bar = "#" * max(1, round(20 * entry.seconds / r.lines[0].seconds))
            print(
                f"  {entry.seconds * 1e3:7.1f}ms {100 * entry.seconds / r.seconds:5.1f}% "
                f"{amount(entry.nbytes, 'B'):>9} "
                f"{amount(entry.flops, ''):>9} {speed:>13}  {place:<18} {bar:<20} {entry.text[:50]}",
                file=out,
            )
    for reason, n in sorted(r.refused.items(), key=lambda x: -x[1])[:5]:
        print(f"  not followed {n:,} times: {reason}", file=out)
