"""The pool of native threads that runs plans.

Threads start with the first plan that is worth them and then live between plans, spinning briefly and
sleeping. The calling thread takes part. One plan at a time uses the pool; a plan that finds it taken runs
on its caller alone.
"""
from __future__ import annotations

import atexit
import ctypes
import os
import signal
import threading

import numpy as np

from fanal.core.backends.contract import Kernel
from fanal.core.base import knobs

from . import host, jit, runner_ir
from .memory import DATA_OFFSET, LIST_ITEMS
from .target import Target
from .target import host as host_target


class Pool:
    """The threads of this process. Holding `lock` is the right to run a plan on them."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # re-entrant: a signal handler may run a plan, or fork, in between
        self.count = 0  # threads of a parallel plan, the caller included; 0 until asked for
        self.address = 0  # of the shared words; 0 while no thread runs
        self._words: np.ndarray | None = None
        self._threads: list[ctypes.c_void_p] = []
        self._entries: np.ndarray | None = None

    def start(self) -> int:
        """Start the threads unless they run, and return the pool's address. Call with the lock held."""
        if self.address:
            return self.address
        others = get_num_threads() - 1
        raw = np.zeros(runner_ir.POOL_BYTES + 64, np.uint8)
        skip = -raw.ctypes.data % 64
        words = raw[skip:skip + runner_ir.POOL_BYTES].view(np.int64)
        address = words.ctypes.data
        entries = np.array([[address, i + 1] for i in range(others)], np.int64)
        libc = ctypes.CDLL(None)
        libc.pthread_create.argtypes = [ctypes.c_void_p] * 4
        if self.address:  # a signal handler came here before
            return self.address
        self._words, self._entries, self.address = words, entries, address  # no call in between, so no handler
        # Signals belong to Python's main thread: the new threads inherit a full mask.
        old = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        try:
            for entry in entries:
                thread = ctypes.c_void_p()
                error = libc.pthread_create(ctypes.byref(thread), None, runner().worker, entry.ctypes.data)
                if error:
                    raise RuntimeError(f"cannot start a thread: {os.strerror(error)}")
                self._threads.append(thread)
        except BaseException:
            self.stop()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)
        return address

    def stop(self) -> None:
        """End the threads. Call with the lock held."""
        if not self.address:
            return
        runner().stop(self.address)
        libc = ctypes.CDLL(None)
        for thread in self._threads:
            libc.pthread_join(thread, None)
        self._threads.clear()
        self.address = 0

    def run(self, job: int, parallel: bool) -> None:
        """Run a job: on the calling thread alone if it is not parallel or the pool is busy."""
        if parallel and self.lock.acquire(False):
            try:
                runner().run(job, self.address or self.start())
            finally:
                self.lock.release()
        else:
            runner().run(job, None)

    def forget(self) -> None:
        """Be a pool without threads, which a forked child is: threads do not survive a fork."""
        self.lock = threading.RLock()
        self.count = 1
        self._threads.clear()
        self.address = 0


class Runner:
    """The native entry points."""

    def __init__(self, target: Target) -> None:
        name = target.symbol(f"runner {LIST_ITEMS} {DATA_OFFSET}")
        kernel = Kernel(name, lambda: runner_ir.source(name, target.triple, LIST_ITEMS, DATA_OFFSET))
        table = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int64)(jit.compile_many([kernel], target)[name])
        # run(job, pool): releases the GIL, as ctypes does for every call of this kind.
        two = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
        entry = {role: table(i) for i, role in enumerate(runner_ir.ENTRIES)}
        self.run = two(entry["run"])
        self.bind = ctypes.PYFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(
            entry["bind"])  # bind(id of a list of arrays, binding): looks at Python's objects, and keeps the GIL
        self.stop = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(entry["stop"])
        self.worker = entry["worker"]


pool = Pool()
_runner: Runner | None = None


def runner() -> Runner:
    """Return the native entry points, compiled on first use."""
    global _runner
    if _runner is None:
        _runner = Runner(host_target())
    return _runner


def get_num_threads() -> int:
    """Return how many threads a parallel plan uses."""
    if not pool.count:
        limit = min(host.cores(), runner_ir.MAX_THREADS)
        pool.count = max(1, min(knobs.threads, limit) if knobs.threads else limit)
    return pool.count


def set_num_threads(count: int) -> None:
    """Use `count` threads from the next plan on. Results do not depend on it. Raises ValueError below 1.

    More than 64 are taken as 64.
    """
    if count < 1:
        raise ValueError(f"set_num_threads expects a positive integer, got {count}")
    count = min(count, runner_ir.MAX_THREADS)
    if count != pool.count:
        with pool.lock:
            pool.stop()
            pool.count = count


def _shut_down() -> None:
    # A daemon thread of Python may be inside a plan for ever; the process ends without waiting for it.
    if pool.lock.acquire(timeout=1.0):
        pool.stop()


def _before_fork() -> None:
    pool.lock.acquire()  # no plan is running: pool threads hold nothing and wait


def _after_fork_in_parent() -> None:
    pool.lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent,
                        after_in_child=pool.forget)
atexit.register(_shut_down)
