"""What a profile holds: events, their sums by name, and tables of these. Times are in microseconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from fanal.core.base.missing import finder

__getattr__ = finder("torch.autograd.profiler_util")


class Interval(NamedTuple):
    """A span of time."""

    start: float
    end: float

    def elapsed_us(self) -> float:
        """Return its length."""
        return self.end - self.start


def _format_time(microseconds: float) -> str:
    for size, unit in ((1e6, "s"), (1e3, "ms")):
        if microseconds >= size:
            return f"{microseconds / size:.3f}{unit}"
    return f"{microseconds:.3f}us"


class _Times:
    """What events and their sums have in common. Nothing runs on another device, or counts memory."""

    count: int
    cpu_time_total: float
    self_cpu_time_total: float
    device_time = device_time_total = self_device_time_total = 0.0
    cuda_time = cuda_time_total = self_cuda_time_total = 0.0
    cpu_memory_usage = self_cpu_memory_usage = device_memory_usage = self_device_memory_usage = 0
    is_async = is_remote = is_legacy = False
    node_id = -1
    use_device = None
    scope = 0

    @property
    def cpu_time(self) -> float:
        """The time of one call."""
        return self.cpu_time_total / self.count if self.count else 0.0

    @property
    def cpu_time_str(self) -> str:
        return _format_time(self.cpu_time)

    @property
    def cpu_time_total_str(self) -> str:
        return _format_time(self.cpu_time_total)

    @property
    def self_cpu_time_total_str(self) -> str:
        return _format_time(self.self_cpu_time_total)


class FunctionEvent(_Times):
    """A kernel that ran, or a range that `record_function` marked.

    stack: the lines of the user's code that a kernel computes. parts: what each thread did, (thread, begin, end).
    """

    count = 1

    def __init__(
        self,
        id: int,
        name: str,
        begin: float,
        end: float,
        thread: int,
        stack: Iterable[str] = (),
        flops: int = 0,
        is_user_annotation: bool = False,
        parts: Iterable[tuple[int, float, float]] = (),
    ) -> None:
        shown = "ProfilerStep*" if name.startswith("ProfilerStep#") else name  # all steps have one name
        self.id, self.name, self.trace_name, self.key = id, shown, name, shown
        self.time_range = Interval(begin, end)
        self.thread = thread
        self.stack = list(stack)
        self.flops = flops
        self.is_user_annotation = is_user_annotation
        self.parts = list(parts)
        self.input_shapes: list = []
        self.cpu_children: list[FunctionEvent] = []
        self.cpu_parent: FunctionEvent | None = None

    @property
    def cpu_time_total(self) -> float:  # type: ignore[override]
        """How long it took, with what it contains."""
        return self.time_range.elapsed_us()

    @property
    def self_cpu_time_total(self) -> float:  # type: ignore[override]
        """How long it took, without what it contains."""
        return self.cpu_time_total - sum(c.cpu_time_total for c in self.cpu_children)

    def __repr__(self) -> str:
        return (
            f"<FunctionEvent id={self.id} name={self.name} cpu_time={self.cpu_time_str} "
            f"start_us={self.time_range.start:.3f} end_us={self.time_range.end:.3f} "
            f"cpu_children={[c.id for c in self.cpu_children]} thread={self.thread}>"
        )


class FunctionEventAvg(_Times):
    """The sum over events of one name."""

    def __init__(self) -> None:
        self.key = ""
        self.count = 0
        self.cpu_time_total = self.self_cpu_time_total = 0.0
        self.flops = 0
        self.stack: list[str] = []
        self.input_shapes: list = []
        self.is_user_annotation = False

    def add(self, other: Any) -> FunctionEventAvg:
        """Add an event, or another sum."""
        if not self.count:
            self.key, self.stack = other.key, other.stack
            self.is_user_annotation = other.is_user_annotation
        self.count += other.count
        self.cpu_time_total += other.cpu_time_total
        self.self_cpu_time_total += other.self_cpu_time_total
        self.flops += other.flops
        return self

    def __repr__(self) -> str:
        return (
            f"<FunctionEventAvg key={self.key} self_cpu_time={self.self_cpu_time_total_str} "
            f"cpu_time={self.cpu_time_str} count={self.count}>"
        )


class EventList(list):
    """Events, or their sums."""

    @property
    def self_cpu_time_total(self) -> float:
        """The time of all, each moment counted once."""
        return sum(e.self_cpu_time_total for e in self)

    def nest(self) -> EventList:
        """Sort events by time, and find for each the range of its thread that it lies in."""
        self.sort(key=lambda e: (e.time_range.start, -e.time_range.end))
        open_: dict[int, list[FunctionEvent]] = {}
        for e in self:
            around = open_.setdefault(e.thread, [])
            while around and around[-1].time_range.end < e.time_range.end:
                around.pop()
            if around:
                e.cpu_parent = around[-1]
                around[-1].cpu_children.append(e)
            around.append(e)
        return self

    def key_averages(
        self, group_by_input_shapes: bool = False, group_by_stack_n: int = 0, group_by_overload_name: bool = False
    ) -> EventList:
        """Return the sums over events of one name, and of the same first `group_by_stack_n` lines."""
        found: dict[Any, FunctionEventAvg] = {}
        for e in self:
            key = (e.key, *e.stack[:group_by_stack_n])
            found.setdefault(key, FunctionEventAvg()).add(e)
        for a in found.values():
            a.stack = a.stack[:group_by_stack_n]
        return EventList(found.values())

    def total_average(self) -> FunctionEventAvg:
        """Return the sum over all."""
        total = FunctionEventAvg()
        for e in self:
            total.add(e)
        total.key, total.stack = "Total", []
        total.cpu_time_total = total.self_cpu_time_total
        return total

    def table(
        self,
        sort_by: str | None = None,
        row_limit: int = 100,
        max_src_column_width: int = 75,
        max_name_column_width: int = 55,
        max_shapes_column_width: int = 80,
        header: str | None = None,
        top_level_events_only: bool = False,
        time_unit: str | None = None,
    ) -> str:
        """Return the events as text, one a line.

        sort_by: the name of a time or count, the largest first, such as "cpu_time_total".
        """
        rows = [e for e in self if not top_level_events_only or getattr(e, "cpu_parent", None) is None]
        if sort_by is not None:
            rows.sort(key=lambda e: getattr(e, sort_by), reverse=True)
        total = self.self_cpu_time_total
        share = lambda t: f"{100 * t / total:.2f}%" if total else "0.00%"
        short = lambda s, n: s if len(s) <= n or n < 4 else s[: n - 3] + "..."
        heads = ["Name", "Self CPU %", "Self CPU", "CPU total %", "CPU total", "CPU time avg", "# of Calls"]
        counted = any(e.flops for e in rows)
        heads += ["Total MFLOPs"] if counted else []
        traced = any(e.stack for e in rows)
        lines = [
            [
                short(e.key, max_name_column_width),
                share(e.self_cpu_time_total),
                e.self_cpu_time_total_str,
                share(e.cpu_time_total),
                e.cpu_time_total_str,
                e.cpu_time_str,
                str(e.count),
                *([f"{e.flops / 1e6:.3f}"] if counted else []),
            ]
            for e in rows[:row_limit if row_limit >= 0 else None]
        ]
        widths = [max(12, *(len(x) for x in column)) for column in zip(heads, *lines)]
        rule = "  ".join("-" * w for w in widths) + "  "
        text = lambda cells: "  ".join(c.rjust(w) for c, w in zip(cells, widths)) + "  "
        places = [short(e.stack[0], max_src_column_width) if e.stack else "" for e in rows]
        head = text(heads) + ("Source Location" if traced else "")
        body = [text(line) + place for line, place in zip(lines, places)]
        top = [header] if header is not None else []
        return "\n".join([*top, rule, head, rule, *body, rule, f"Self CPU time total: {_format_time(total)}", ""])

    def __str__(self) -> str:
        return self.table()
