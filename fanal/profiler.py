"""Profiles by step: which kernels ran, for how long, and for which lines of code. See `fanal.autograd.profiler`."""

from __future__ import annotations

import enum
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from fanal.autograd.profiler import Collector, Profile
from fanal.autograd.profiler import record_function as record_function
from fanal.core.base.missing import finder

__all__ = [
    "ProfilerAction",
    "ProfilerActivity",
    "kineto_available",
    "profile",
    "record_function",
    "schedule",
    "supported_activities",
    "tensorboard_trace_handler",
]
__getattr__ = finder("torch.profiler")


class ProfilerActivity(enum.Enum):
    """What a profile is about; only the CPU is there."""

    CPU = 0
    XPU = 1
    MTIA = 2
    CUDA = 3
    HPU = 4
    PrivateUse1 = 5


class ProfilerAction(enum.Enum):
    """What to do in a step."""

    NONE = 0
    WARMUP = 1
    RECORD = 2
    RECORD_AND_SAVE = 3
    DEVICE_STOPPED = 4


_RECORDING = (ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE)


def supported_activities() -> set[ProfilerActivity]:
    """Return what can be profiled."""
    return {ProfilerActivity.CPU}


def kineto_available() -> bool:
    """Return True: there are profiles."""
    return True


def schedule(
    *, wait: int, warmup: int, active: int, repeat: int = 0, skip_first: int = 0, skip_first_wait: int = 0
) -> Callable[[int], ProfilerAction]:
    """Return the function of a step's number that says what to do in it.

    After `skip_first` steps, cycles of `wait` steps that are not profiled, `warmup` steps and `active` steps that are;
    `repeat` of them, or without end where that is 0. skip_first_wait: the first cycle does not wait.
    """
    if wait < 0 or warmup < 0 or active <= 0 or repeat < 0 or skip_first < 0:
        raise AssertionError(
            f"Invalid profiler schedule arguments. Got wait={wait} (need >= 0), warmup={warmup} (need >= 0), "
            f"active={active} (need > 0), repeat={repeat} (need >= 0), skip_first={skip_first} (need >= 0)."
        )
    if warmup == 0:
        warnings.warn("Profiler won't be using warmup, this can skew profiler results", stacklevel=2)

    def action(step: int) -> ProfilerAction:
        if step < 0:
            raise AssertionError(f"Step must be non-negative. Got {step}.")
        if step < skip_first:
            return ProfilerAction.NONE
        step += (wait if skip_first_wait else 0) - skip_first
        cycle, at = divmod(step, wait + warmup + active)
        if at < wait or (repeat and cycle >= repeat):
            return ProfilerAction.NONE
        if at < wait + warmup:
            return ProfilerAction.WARMUP
        return ProfilerAction.RECORD if at < wait + warmup + active - 1 else ProfilerAction.RECORD_AND_SAVE

    return action


def tensorboard_trace_handler(
    dir_name: str, worker_name: str | None = None, use_gzip: bool = False, use_python_export: bool = False
) -> Callable[[Any], None]:
    """Return a function for `on_trace_ready` that writes each trace to a file in a folder, for TensorBoard."""

    def write(prof: Any) -> None:
        os.makedirs(dir_name, exist_ok=True)
        worker = worker_name or f"{socket.gethostname()}_{os.getpid()}"
        file = f"{worker}.{time.time_ns()}.pt.trace.json{'.gz' if use_gzip else ''}"
        prof.export_chrome_trace(os.path.join(dir_name, file))

    return write


class profile(Profile):
    """Profile what runs inside, or the steps that a schedule says.

    schedule: see `schedule`; `step()` is called at the end of every step. on_trace_ready(profile) is called when a
    cycle has been recorded. with_stack, with_flops: keep the lines of code, and count operations; record_shapes,
    profile_memory, with_modules and the others have no effect.
    """

    def __init__(
        self,
        *,
        activities: Iterable[Any] | None = None,
        schedule: Callable[[int], ProfilerAction] | None = None,
        on_trace_ready: Callable[..., Any] | None = None,
        record_shapes: bool = False,
        profile_memory: bool = False,
        with_stack: bool = False,
        with_flops: bool = False,
        with_modules: bool = False,
        **_: Any,
    ) -> None:
        self.schedule = schedule or (lambda step: ProfilerAction.RECORD)
        self.on_trace_ready = on_trace_ready
        self.with_stack, self.with_flops = with_stack, with_flops
        self.step_num = 0
        self.current_action = self.schedule(0)
        self._marks_steps = schedule is not None
        self._mark: record_function | None = None
        self._running: Collector | None = None

    def __enter__(self) -> profile:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin with step 0."""
        self._turn()

    def step(self) -> None:
        """End a step, and begin the next."""
        self._end_mark()
        before = self.current_action
        self.step_num += 1
        self.current_action = self.schedule(self.step_num)
        if before is ProfilerAction.RECORD_AND_SAVE:
            self._finish(ready=True)
        elif before is ProfilerAction.RECORD and self.current_action not in _RECORDING:
            warnings.warn(f"Incorrect schedule: RECORD followed by {self.current_action.name}", stacklevel=2)
            self._finish(ready=False)
        self._turn()

    def stop(self) -> None:
        """End the last step."""
        self._end_mark()
        if self._running is not None:
            self._finish(ready=True)

    def add_metadata(self, key: str, value: str) -> None:
        """Take a note, without effect."""

    add_metadata_json = preset_metadata_json = add_metadata

    def _turn(self) -> None:
        if self.current_action in _RECORDING and self._running is None:
            self._running = Collector(self.with_stack, self.with_flops)
            self._running.start()
        if self._marks_steps:
            self._mark = record_function(f"ProfilerStep#{self.step_num}")
            self._mark.__enter__()

    def _end_mark(self) -> None:
        if self._mark is not None:
            self._mark.__exit__()
            self._mark = None

    def _finish(self, ready: bool) -> None:
        collector = self._running
        assert collector is not None
        self._running = None
        collector.stop()
        self._collector = collector
        if ready and self.on_trace_ready is not None:
            self.on_trace_ready(self)
