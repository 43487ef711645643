"""Switches that PyTorch programs set and ask for, where Fanal has one way only: they are kept and given back.

Fanal is deterministic in every mode and computes float32 products in float32, whatever is asked for.
"""

from __future__ import annotations

import threading
import warnings
from typing import Any

from fanal.core.base.device import CPU, device, resolve

_deterministic = {"on": False, "warn": False}
_precision = "highest"
_warn_always = False


class _Local(threading.local):
    device: Any = None


_local = _Local()


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Ask for deterministic algorithms. Fanal has no others."""
    _deterministic.update(on=bool(mode), warn=bool(warn_only))


def are_deterministic_algorithms_enabled() -> bool:
    """Tell whether deterministic algorithms were asked for."""
    return _deterministic["on"]


def is_deterministic_algorithms_warn_only_enabled() -> bool:
    """Tell whether a warning was asked for where PyTorch would raise."""
    return _deterministic["warn"]


def set_deterministic_debug_mode(debug_mode: int | str) -> None:
    """Ask for deterministic algorithms by level: 0 "default", 1 "warn", 2 "error"."""
    level = (
        {"default": 0, "warn": 1, "error": 2}.get(debug_mode, debug_mode)
        if isinstance(debug_mode, str)
        else debug_mode
    )
    if level not in (0, 1, 2):
        raise RuntimeError(
            f"invalid value of debug_mode, expected 0, 1, 2, or `default`, `warn`, `error`, but got "
            f"{debug_mode}"
        )
    use_deterministic_algorithms(level > 0, warn_only=level == 1)  # type: ignore[operator]


def get_deterministic_debug_mode() -> int:
    """Return the level set by set_deterministic_debug_mode."""
    return (1 if _deterministic["warn"] else 2) if _deterministic["on"] else 0


def set_float32_matmul_precision(precision: str) -> None:
    """Say how float32 products may be rounded: "highest", "high", "medium". Fanal always computes the
    highest."""
    global _precision
    if precision not in ("highest", "high", "medium"):
        warnings.warn(f"{precision} is not one of 'highest', 'high', or 'medium'", stacklevel=2)
        return
    _precision = precision


def get_float32_matmul_precision() -> str:
    """Return what was set."""
    return _precision


def set_default_device(where: Any) -> None:
    """Set the device of new tensors; only the CPU can be one."""
    found = CPU if where is None else resolve(where)
    if found is not CPU:
        raise RuntimeError(f"set_default_device('{where}') is not supported: new tensors are made on the CPU")
    _local.device = None if where is None else device(where)


def get_default_device() -> device:
    """Return the device of new tensors."""
    return _local.device or CPU


def set_warn_always(on: bool) -> None:
    """Say whether warnings come every time."""
    global _warn_always
    _warn_always = bool(on)


def is_warn_always_enabled() -> bool:
    """Tell whether warnings come every time."""
    return _warn_always


def compiled_with_cxx11_abi() -> bool:
    """Return True, as the builds of PyTorch do today."""
    return True


def set_flush_denormal(mode: bool) -> bool:
    """Return False: denormal numbers are kept."""
    return False


_threads_between = 1


def set_num_interop_threads(count: int) -> None:
    """Keep a number of threads between operations; Fanal runs plans one after another."""
    global _threads_between
    if count < 1:
        raise RuntimeError("set_num_interop_threads expects a positive integer")
    _threads_between = count


def get_num_interop_threads() -> int:
    """Return what was set."""
    return _threads_between
