"""Python's `multiprocessing`, with PyTorch's `spawn`.

Tensors that go to another process, as an argument or through a queue, are copied.
Differs from torch: no memory is shared between processes. `Tensor.share_memory_` is missing, and what one process
writes to a tensor another does not see.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing import *  # noqa: F403
from pathlib import Path
from typing import Any

from fanal.core.base.missing import finder

__all__ = [  # noqa: PLE0604
    "ProcessContext",
    "ProcessException",
    "ProcessExitedException",
    "ProcessRaisedException",
    "SpawnContext",
    "get_all_sharing_strategies",
    "get_sharing_strategy",
    "set_sharing_strategy",
    "spawn",
    "start_processes",
    *multiprocessing.__all__,
]

_STRATEGY = "file_descriptor"
__getattr__ = finder("torch.multiprocessing")


def get_all_sharing_strategies() -> set[str]:
    """Return PyTorch's names of ways to share memory."""
    return {"file_descriptor", "file_system"}


def get_sharing_strategy() -> str:
    """Return the name that was set. It has no effect."""
    return _STRATEGY


def set_sharing_strategy(new_strategy: str) -> None:
    """Set the name of a way to share memory, without effect. Raises AssertionError for an unknown one."""
    global _STRATEGY
    if new_strategy not in get_all_sharing_strategies():
        known = sorted(get_all_sharing_strategies())
        raise AssertionError(f"unknown sharing strategy {new_strategy!r}: expected one of {known}")
    _STRATEGY = new_strategy


class ProcessException(Exception):
    """A process ended badly: `error_index` says which of those started, `error_pid` its id, `msg` how."""

    def __init__(self, msg: str, error_index: int, pid: int) -> None:
        super().__init__(msg)
        self.msg = msg
        self.error_index = error_index
        self.error_pid = pid

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.msg, self.error_index, self.error_pid)


class ProcessRaisedException(ProcessException):
    """A process raised an exception; `msg` has its traceback."""


class ProcessExitedException(ProcessException):
    """A process was ended by a signal or by `sys.exit`."""

    def __init__(
        self, msg: str, error_index: int, error_pid: int, exit_code: int, signal_name: str | None = None
    ) -> None:
        super().__init__(msg, error_index, error_pid)
        self.exit_code = exit_code
        self.signal_name = signal_name

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.msg, self.error_index, self.error_pid, self.exit_code, self.signal_name)


class ProcessContext:
    """Processes that were started together."""

    def __init__(self, processes: list[Any], folder: tempfile.TemporaryDirectory[str]) -> None:
        self.processes = processes
        self._folder = folder  # of their tracebacks; it goes with this object
        self.sentinels = {process.sentinel: i for i, process in enumerate(processes)}

    def pids(self) -> list[int]:
        """Return the processes' ids."""
        return [process.pid for process in self.processes]

    def join(self, timeout: float | None = None, grace_period: float | None = None) -> bool:
        """Wait, up to `timeout` seconds, until a process ends; return whether all have.

        When one ends badly, the others are ended: asked, and after `grace_period` seconds, 30 unless given, killed.
        Raises: ProcessRaisedException with the traceback of an exception, ProcessExitedException.
        """
        if not self.sentinels:
            return True
        failed = None
        for sentinel in multiprocessing.connection.wait(self.sentinels, timeout):
            i = self.sentinels.pop(sentinel)
            self.processes[i].join()
            if self.processes[i].exitcode != 0:
                failed = i
                break
        if failed is None:
            if not self.sentinels:
                self._folder.cleanup()
            return not self.sentinels
        self._end(30 if grace_period is None else grace_period)
        error = self._error(failed)
        self._folder.cleanup()
        raise error

    def _end(self, grace_period: float) -> None:
        for process in self.processes:
            if process.is_alive():
                process.terminate()
        until = time.monotonic() + grace_period
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()

    def _error(self, i: int) -> ProcessException:
        process, file = self.processes[i], Path(self._folder.name, str(i))
        if file.stat().st_size:
            text = f"\n\n-- Process {i} terminated with the following error:\n{file.read_text()}"
            return ProcessRaisedException(text, i, process.pid)
        code = process.exitcode
        if code >= 0:
            return ProcessExitedException(f"process {i} terminated with exit code {code}", i, process.pid, code)
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"<Unknown signal {-code}>"
        return ProcessExitedException(f"process {i} terminated with signal {name}", i, process.pid, code, name)


SpawnContext = ProcessContext


def _run(fn: Callable[..., Any], i: int, args: tuple[Any, ...], error_file: str) -> None:
    """Call a function in a process of its own, and leave the traceback of what it raises in a file."""
    try:
        fn(i, *args)
    except KeyboardInterrupt:  # the parent has it, too
        pass
    except Exception:
        Path(error_file).write_text(traceback.format_exc())
        sys.exit(1)


def start_processes(
    fn: Callable[..., Any],
    args: tuple[Any, ...] = (),
    nprocs: int = 1,
    join: bool = True,
    daemon: bool = False,
    start_method: str = "spawn",
) -> ProcessContext | None:
    """Call `fn(i, *args)` for i in range(nprocs), each in a process of its own; see `spawn`."""
    context: Any = multiprocessing.get_context(start_method)
    folder = tempfile.TemporaryDirectory()
    processes = []
    for i in range(nprocs):
        error_file = Path(folder.name, str(i))
        error_file.touch()
        process = context.Process(target=_run, args=(fn, i, args, str(error_file)), daemon=daemon)
        process.start()
        processes.append(process)
    started = ProcessContext(processes, folder)
    if not join:
        return started
    while not started.join():
        pass
    return None


def spawn(
    fn: Callable[..., Any],
    args: tuple[Any, ...] = (),
    nprocs: int = 1,
    join: bool = True,
    daemon: bool = False,
    start_method: str = "spawn",
) -> ProcessContext | None:
    """Call `fn(i, *args)` for i in range(nprocs), each in a process of its own.

    `fn` and `args` are pickled, so `fn` is defined at the top of a module. With `join` the call waits for all and
    returns None, else it returns a `ProcessContext`.
    Raises: ProcessRaisedException with the traceback of an exception in a process, ProcessExitedException when one ends
    otherwise; the other processes are ended.
    """
    return start_processes(fn, args, nprocs, join, daemon, start_method)
