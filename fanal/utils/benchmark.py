"""Timing of statements, as torch.utils.benchmark: `Timer` and `Measurement`.

Differs from torch: the value of the statement's last expression is computed in every run, also where nothing reads it;
without that, nothing would be.
"""

from __future__ import annotations

import ast
import math
import statistics
import textwrap
import timeit
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

import fanal
from fanal.core.base.missing import finder
from fanal.core.engine.record import busy, flush

__getattr__ = finder("torch.utils.benchmark")
__all__ = ["Measurement", "TaskSpec", "Timer", "timer"]

timer = timeit.default_timer
_UNITS = (("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0))


class TaskSpec(NamedTuple):
    """What was timed."""

    stmt: str
    setup: str
    global_setup: str = ""
    label: str | None = None
    sub_label: str | None = None
    description: str | None = None
    env: str | None = None
    num_threads: int = 1

    @property
    def title(self) -> str:
        """The heading of a measurement."""
        if self.label is not None:
            return self.label + (f": {self.sub_label}" if self.sub_label else "")
        return self.stmt if "\n" not in self.stmt else f"stmt:\n{textwrap.indent(self.stmt, '  ')}"

    @property
    def setup_text(self) -> str:
        """The setup as the heading shows it, or ""."""
        if not self.setup or self.setup == "pass":
            return ""
        return f"setup:\n{textwrap.indent(self.setup, '  ')}\n" if "\n" in self.setup else f"setup: {self.setup}"


class Measurement:
    """Times of a statement, in seconds: `raw_times` of `number_per_run` runs each."""

    def __init__(
        self, number_per_run: int, raw_times: list[float], task_spec: TaskSpec, metadata: dict | None = None
    ) -> None:
        self.number_per_run, self.raw_times = number_per_run, raw_times
        self.task_spec, self.metadata = task_spec, metadata

    @cached_property
    def times(self) -> list[float]:
        """Seconds of one run, for each block."""
        return [t / self.number_per_run for t in self.raw_times]

    @property
    def mean(self) -> float:
        """The mean of `times`."""
        return statistics.fmean(self.times)

    @property
    def median(self) -> float:
        """The median of `times`."""
        return statistics.median(self.times)

    @property
    def iqr(self) -> float:
        """How far the quartiles of `times` are apart."""
        low, high = self._quartiles
        return high - low

    @property
    def _quartiles(self) -> tuple[float, float]:
        low, high = np.quantile(self.times, (0.25, 0.75))
        return float(low), float(high)

    @property
    def significant_figures(self) -> int:
        """How many digits can be trusted, by the spread of the times."""
        spread = self.iqr / math.sqrt(len(self.times)) / 1.35 * 1.645 / self.median if self.median else 0.0
        digits = -math.floor(math.log10(spread)) - 1 if spread > 0 else 4
        return max(1, min(digits, 4)) if len(self.times) > 1 else 2

    @property
    def has_warnings(self) -> bool:
        """Whether the spread is over a tenth of the median."""
        return not self.meets_confidence()

    def meets_confidence(self, threshold: float = 0.1) -> bool:
        """Tell whether the spread is under this share of the median."""
        return self.iqr / self.median < threshold if self.median else True

    def __getattr__(self, name: str) -> Any:
        if name in (*TaskSpec._fields, "title"):
            return getattr(self.task_spec, name)
        raise AttributeError(f"'Measurement' object has no attribute '{name}'")

    @property
    def as_row_name(self) -> str:
        """The name of a row of a table."""
        return self.task_spec.sub_label or self.task_spec.stmt or "[Unknown]"

    def __repr__(self) -> str:
        spec, n, at = self.task_spec, len(self.times), self.median
        unit, scale = next(((u, s) for u, s in reversed(_UNITS) if at >= s), _UNITS[0])
        threads = f"{spec.num_threads} thread{'s' if spec.num_threads > 1 else ''}"
        gap = "\n" if spec.title.startswith("stmt:\n") else ""
        lines = [spec.title + gap, *filter(None, (spec.description, spec.setup_text))]
        if n == 1:
            lines += [f"  {at / scale:.2f} {unit}", f"  1 measurement, {self.number_per_run} runs , {threads}"]
        else:
            low, high = (q / scale for q in self._quartiles)
            lines += [
                f"  Median: {at / scale:.2f} {unit}",
                f"  IQR:    {self.iqr / scale:.2f} {unit} ({low:.2f} to {high:.2f})",
                f"  {n} measurements, {self.number_per_run} runs per measurement, {threads}",
            ]
            if self.has_warnings:
                share = self.iqr / at
                why = ("suggests significant environmental influence" if share > 0.25
                       else "could indicate system fluctuation")
                lines += [f"  WARNING: Interquartile range is {100 * share:.1f}% of the median measurement.",
                          f"           This {why}."]
        return f"<torch.utils.benchmark.utils.common.Measurement object at {hex(id(self))}>\n" + "\n".join(lines)

    @staticmethod
    def merge(measurements: Iterable[Measurement]) -> list[Measurement]:
        """Return one measurement for each task, with the times of all."""
        found: dict[TaskSpec, list[float]] = {}
        for m in measurements:
            found.setdefault(m.task_spec, []).extend(m.times)
        return [Measurement(1, times, spec) for spec, times in found.items()]


class Timer:
    """Times a statement, written as text.

    setup runs once before the times are taken, with the names in `globals`, and `torch` besides. num_threads: of
    Fanal, while it runs. Raises: ValueError for what is no text, or another language than Python.
    """

    def __init__(
        self,
        stmt: str = "pass",
        setup: str = "pass",
        global_setup: str = "",
        timer: Callable[[], float] = timer,
        globals: dict[str, Any] | None = None,
        label: str | None = None,
        sub_label: str | None = None,
        description: str | None = None,
        env: str | None = None,
        num_threads: int = 1,
        language: Any = "python",
    ) -> None:
        if not isinstance(stmt, str):
            raise ValueError("Currently only a `str` stmt is supported.")
        if str(language).lower() not in ("python", "py", "language.python"):
            raise ValueError(f"Invalid language `{language}`.")
        if global_setup:
            raise ValueError("global_setup is C++ only, and only Python is timed")
        stmt, setup = (textwrap.dedent(s).strip() for s in (stmt, setup))
        self._task_spec = TaskSpec(stmt, setup, "", label, sub_label, description, env, num_threads)
        self._timer = timer
        self._globals = {"torch": fanal, **(globals or {})}
        self._run = _compiled(stmt, setup)

    def _seconds(self, number: int) -> float:
        before = fanal.get_num_threads()
        fanal.set_num_threads(self._task_spec.num_threads)
        try:
            scope = dict(self._globals)
            exec(self._run, scope)
            return max(scope["__run__"](number, self._timer, _compute), 1e-9)
        finally:
            fanal.set_num_threads(before)

    def _measured(self, number: int, times: list[float]) -> Measurement:
        return Measurement(number, times, self._task_spec)

    def timeit(self, number: int = 1_000_000) -> Measurement:
        """Return the time of `number` runs, after some that do not count."""
        self._seconds(max(int(number // 100), 2))
        return self._measured(number, [self._seconds(number)])

    def blocked_autorange(self, callback: Any = None, min_run_time: float = 0.2) -> Measurement:
        """Return times of blocks of runs, `min_run_time` seconds in all; a block is long beside what a clock costs."""
        number = 1
        while (spent := self._seconds(number)) < min_run_time / 1000 and number < 10**9:
            number *= 10
        times: list[float] = []
        while sum(times) < min_run_time:
            times.append(spent := self._seconds(number))
            if callback is not None:
                callback(number, spent)
        return self._measured(number, times)

    autorange = blocked_autorange

    def adaptive_autorange(
        self, threshold: float = 0.1, *, min_run_time: float = 0.01, max_run_time: float = 10.0, callback: Any = None
    ) -> Measurement:
        """Return times of blocks of runs, as many as make their spread less than a share of the median."""
        found = self.blocked_autorange(callback, min_run_time)
        while not (len(found.times) > 3 and found.meets_confidence(threshold)) and sum(found.raw_times) < max_run_time:
            found = self._measured(found.number_per_run, [*found.raw_times, self._seconds(found.number_per_run)])
        return found


def _compiled(stmt: str, setup: str) -> Any:
    """Return code that defines __run__(number, timer, compute): the seconds of `number` runs."""
    body = ast.parse(stmt, "<timed>").body
    if body and isinstance(body[-1], ast.Expr):
        body[-1] = ast.Assign([ast.Name("__value__", ast.Store())], body[-1].value)
    frame = ast.parse(
        "def __run__(__number__, __timer__, __compute__):\n"
        "    __value__ = None\n"
        "    __begin__ = __timer__()\n"
        "    for __i__ in range(__number__):\n"
        "        __compute__()\n"
        "    return __timer__() - __begin__\n"
    )
    function: Any = frame.body[0]
    function.body[1:1] = ast.parse(setup, "<setup>").body
    loop = next(s for s in function.body if isinstance(s, ast.For) and isinstance(s.target, ast.Name)
                and s.target.id == "__i__")
    loop.body[:0] = body
    return compile(ast.fix_missing_locations(frame), "<timed>", "exec")


def _compute() -> None:
    """Compute what was recorded and is held."""
    if busy():
        flush("benchmark")
