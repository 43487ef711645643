"""Profiles: which kernels ran, for how long, and for which lines of the user's code.

Differs from torch: an event is a kernel, which may compute many operators, or a range that `record_function` marked.
A kernel runs when a value is read or an optimizer steps, and counts for the range around that, not around the operator.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from fanal.autograd.profiler_util import EventList, FunctionEvent
from fanal.core.base.dim import now
from fanal.core.base.missing import finder
from fanal.core.base.where import line
from fanal.core.engine.ledger import ledger
from fanal.core.engine.record import busy, flush

__all__ = ["profile", "record_function"]
__getattr__ = finder("torch.autograd.profiler")


class Collector:
    """Collects events between `start` and `stop`."""

    def __init__(self, with_stack: bool = False, with_flops: bool = False) -> None:
        self.with_stack, self.with_flops = with_stack, with_flops
        self.events = EventList()
        self._zero = 0
        self._before: Any = None

    def start(self) -> None:
        """Begin; what was recorded before is run first."""
        if busy():
            flush("profiler")
        self._zero = time.perf_counter_ns()
        self._before, ledger.observer = ledger.observer, self._ran
        _COLLECTORS.append(self)

    def stop(self) -> None:
        """End; what was recorded is run first."""
        if busy():
            flush("profiler")
        _COLLECTORS.remove(self)
        ledger.observer = self._before
        self.events.nest()

    def add(self, name: str, begin: int, end: int, **options: Any) -> None:
        """Add an event, with times of time.perf_counter_ns."""
        at = (begin - self._zero) / 1e3, (end - self._zero) / 1e3
        self.events.append(FunctionEvent(len(self.events), name, *at, threading.get_ident(), **options))

    def _ran(self, steps: Any, timings: list[Any]) -> None:
        """Add the kernels of a run."""
        if self._before is not None:
            self._before(steps, timings)
        launches: dict[tuple[int, int], list[Any]] = {}
        for t in timings:  # threads work side by side
            launches.setdefault((t.step, t.turn), []).append(t)
        for (i, _), parts in launches.items():
            step = steps[i] if steps is not None else None
            places = sorted({at for at in map(line, getattr(step, "where", ())) if at is not None})
            self.add(
                parts[0].label or "copy",
                min(t.begin for t in parts),
                max(t.end for t in parts),
                stack=[f"{file}({number})" for file, number in places] if self.with_stack else (),
                flops=int(now(getattr(step, "flops", 0))) if self.with_flops else 0,
                parts=[(t.part, (t.begin - self._zero) / 1e3, (t.end - self._zero) / 1e3) for t in parts],
            )


_COLLECTORS: list[Collector] = []  # those that collect


class record_function:
    """Mark what runs inside as a range of the profile: a context, or a decorator."""

    def __init__(self, name: str, args: str | None = None) -> None:
        self.name, self.args = name, args
        self._begun: list[int] = []

    def __enter__(self) -> record_function:
        self._begun.append(time.perf_counter_ns())
        return self

    def __exit__(self, *_: object) -> None:
        begin = self._begun.pop()
        for c in _COLLECTORS:
            c.add(self.name, begin, time.perf_counter_ns(), is_user_annotation=True)

    def __call__(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Return `fn`, of which every call is a range."""

        @functools.wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            with record_function(self.name, self.args):
                return fn(*args, **kwargs)

        return call


class Profile:
    """What can be asked of a profile."""

    _collector: Collector | None = None

    def _events(self) -> EventList:
        if self._collector is None:
            raise RuntimeError("Profiler didn't finish running")
        return self._collector.events

    def events(self) -> EventList:
        """Return the events in order of time."""
        return self._events()

    def key_averages(
        self, group_by_input_shape: bool = False, group_by_stack_n: int = 0, group_by_overload_name: bool = False
    ) -> EventList:
        """Return sums over events by name, and by the first `group_by_stack_n` lines of code."""
        return self._events().key_averages(group_by_input_shape, group_by_stack_n)

    def export_chrome_trace(self, path: str, use_python_export: bool = False) -> None:
        """Write the events to a file that chrome://tracing and Perfetto show; compressed if it ends in .gz."""
        main, rows = os.getpid(), []
        for e in self._events():
            args = {"lines": e.stack, "flops": e.flops} if e.stack or e.flops else {}
            kind = "user_annotation" if e.is_user_annotation else "cpu_op"
            for thread, begin, end in e.parts or [(0, *e.time_range)]:
                rows.append({"ph": "X", "cat": kind, "name": e.trace_name, "pid": main, "tid": main + thread,
                             "ts": begin, "dur": end - begin, "args": args})
        page = {"schemaVersion": 1, "displayTimeUnit": "ms", "traceEvents": rows, "traceName": path}
        with (gzip.open if path.endswith(".gz") else open)(path, "wt") as f:  # type: ignore[operator]
            json.dump(page, f)

    def export_stacks(self, path: str, metric: str = "self_cpu_time_total") -> None:
        """Write a line for each event that has lines of code: these, and its time in microseconds."""
        if metric not in ("self_cpu_time_total", "self_cuda_time_total", "self_xpu_time_total"):
            raise ValueError("metric should be one of: self_cpu_time_total, self_cuda_time_total, self_xpu_time_total")
        with open(path, "w") as f:
            for e in self._events():
                if e.stack and int(getattr(e, metric, 0)) > 0:
                    f.write(";".join(reversed(e.stack)) + f" {int(getattr(e, metric))}\n")


class profile(Profile):
    """Profile what runs inside; the older form of `torch.profiler.profile`.

    with_stack, with_flops: keep the lines of code, and count operations. The other options have no effect.
    """

    def __init__(
        self,
        enabled: bool = True,
        *,
        use_cuda: bool = False,
        use_device: str | None = None,
        record_shapes: bool = False,
        with_flops: bool = False,
        profile_memory: bool = False,
        with_stack: bool = False,
        with_modules: bool = False,
        **_: Any,
    ) -> None:
        self.enabled = enabled
        self._options = with_stack, with_flops
        self._entered = False

    def __enter__(self) -> profile:
        if self._entered:
            raise RuntimeError("Profiler context manager is not reentrant")
        self._entered = True
        if self.enabled:
            self._running = Collector(*self._options)
            self._running.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.enabled:
            self._running.stop()
            self._collector = self._running

    @property
    def function_events(self) -> EventList:
        """The events in order of time."""
        return self._events()

    @property
    def self_cpu_time_total(self) -> float:
        """The time of all events, in microseconds."""
        return self._events().self_cpu_time_total

    def table(self, *args: Any, **kwargs: Any) -> str:
        """Return the events as text. See `EventList.table`."""
        return self._events().table(*args, **kwargs)

    def total_average(self) -> Any:
        """Return the sum over all events."""
        return self._events().total_average()

    def __str__(self) -> str:
        return str(self._events()) if self._collector is not None else "<unfinished profiler_legacy.profile>"

    __repr__ = __str__
