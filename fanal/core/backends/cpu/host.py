"""What this process may use of the machine: processor cores, the matrix unit."""
from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_CGROUPS = Path("/sys/fs/cgroup")


@functools.lru_cache(maxsize=1)
def cores() -> int:
    """Return how many threads run at full speed: physical cores in the affinity mask, within the quota."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
    return max(1, min(_physical(allowed), _quota()))


def _physical(allowed: set[int]) -> int:
    """Return the number of cores behind logical processors: two hyperthreads share one vector unit."""
    siblings = set()
    for cpu in allowed:
        try:
            siblings.add((_CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            return len(allowed)
    return len(siblings)


def _quota() -> int:
    """Return the processors the control groups of this process allow, rounded up."""
    limit = float(os.cpu_count() or 1)
    try:
        lines = Path("/proc/self/cgroup").read_text().split()
    except OSError:
        return int(limit)
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2: every ancestor may set a limit
            group = _CGROUPS / path.lstrip("/")
            for folder in (group, *group.parents):
                if _CGROUPS not in (folder, *folder.parents):
                    break
                limit = min(limit, _ratio(folder / "cpu.max"))
        elif "cpu" in controllers.split(","):
            room = _CGROUPS / controllers
            for folder in (room / path.lstrip("/"), room, _CGROUPS / "cpu"):
                limit = min(limit, _ratio(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"))
    return max(1, int(-(-limit // 1)))


def _ratio(*files: Path) -> float:
    """Return quota / period in processors; infinite when unlimited or unknown."""
    try:
        quota, period = (float(word) for file in files for word in file.read_text().split())
    except (OSError, ValueError):  # absent, or "max"
        return float("inf")
    return quota / period if quota > 0 and period > 0 else float("inf")


def processor_id() -> str:
    """Return what tells this kind of processor from others, features included; empty when unknown."""
    try:
        with open("/proc/cpuinfo") as file:
            block = file.read(8192).split("\n\n")[0]  # the first processor's
    except OSError:
        return ""
    wanted = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU ")
    return "\n".join([platform.machine(), *(line for line in block.split("\n") if line.startswith(wanted))])


_ARCH_PRCTL, _REQUEST_STATE, _TILE_DATA = 158, 0x1023, 18  # of Linux on x86-64


def may_use_tiles() -> bool:
    """Ask the kernel to let this process, and its threads and children, use the tile registers of AMX.

    Without that the first instruction on one ends the process. Source: Linux, Documentation/arch/x86/xstate.rst.
    """
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return False
    try:
        call = ctypes.CDLL(None).syscall
    except (OSError, AttributeError):
        return False
    return bool(call(ctypes.c_long(_ARCH_PRCTL), ctypes.c_long(_REQUEST_STATE), ctypes.c_long(_TILE_DATA)) == 0)
