"""CUDA devices: there are none. What programs call without a device does nothing; what needs one raises."""

from __future__ import annotations

import importlib
from typing import Any

from fanal.core.base.missing import absent
from fanal.core.ops.convert import LEGACY

_MISSING = (
    "Torch not compiled with CUDA enabled: Fanal computes on the CPU; guard with torch.cuda.is_available()"
)


class OutOfMemoryError(RuntimeError):
    """Memory of a device ran out."""


class AcceleratorError(RuntimeError):
    """A device failed while it computed."""


class CudaError(RuntimeError):
    """An error of the CUDA runtime."""


class DeferredCudaCallError(Exception):
    """A call that waited for the CUDA runtime failed."""


def is_available() -> bool:
    """Return False."""
    return False


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Return False."""
    return False


def is_initialized() -> bool:
    """Return False."""
    return False


def is_current_stream_capturing() -> bool:
    """Return False."""
    return False


def device_count() -> int:
    """Return 0."""
    return 0


def empty_cache() -> None:
    """Do nothing: there is no device memory."""


def ipc_collect() -> None:
    """Do nothing: there is no device memory."""


def manual_seed(seed: int) -> None:
    """Do nothing: there is no device generator."""


def manual_seed_all(seed: int) -> None:
    """Do nothing: there is no device generator."""


def memory_allocated(device: Any = None) -> int:
    """Return 0."""
    return 0


max_memory_allocated = memory_reserved = max_memory_reserved = memory_cached = max_memory_cached = (
    memory_allocated
)


def memory_stats(device: Any = None) -> dict:
    """Return no statistics."""
    return {}


def memory_summary(device: Any = None, abbreviated: bool = False) -> str:
    """Return an empty report."""
    return ""


def reset_peak_memory_stats(device: Any = None) -> None:
    """Do nothing."""


reset_max_memory_allocated = reset_max_memory_cached = reset_accumulated_memory_stats = (
    reset_peak_memory_stats
)


def get_arch_list() -> list[str]:
    """Return no architectures."""
    return []


def get_rng_state_all() -> list:
    """Return no states."""
    return []


def set_rng_state_all(new_states: Any) -> None:
    """Do nothing when there are no states."""
    if list(new_states):
        raise AssertionError(_MISSING)


class device:
    """Do nothing for a device of None or below 0; raise for any other."""

    def __init__(self, device: Any) -> None:
        if device is not None and device != -1:
            raise AssertionError(_MISSING)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass


def stream(stream: Any) -> device:
    """Return a block that does nothing; the stream must be None."""
    return device(stream)


def _needs_device(name: str) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(_MISSING)

    call.__name__ = name
    call.__doc__ = "Raise AssertionError: there is no CUDA device."
    return call


def _absent_class(name: str, error: Exception) -> type:
    """Return a class for isinstance and annotations, which has no instances."""
    def __new__(cls: type, *args: Any, **kwargs: Any) -> Any:
        raise error

    return type(name, (), {"__new__": __new__, "__module__": __name__, "__doc__": f"Raise {type(error).__name__}."})


for _name in (
    "synchronize",
    "current_device",
    "set_device",
    "get_device_name",
    "get_device_capability",
    "get_device_properties",
    "current_stream",
    "default_stream",
    "set_stream",
    "init",
    "get_rng_state",
    "set_rng_state",
    "mem_get_info",
    "seed",
    "seed_all",
    "initial_seed",
    "graph",
    "utilization",
    "can_device_access_peer",
):
    globals()[_name] = _needs_device(_name)
for _name in ("CUDAGraph", "Event", "ExternalStream", "Stream"):
    globals()[_name] = _absent_class(_name, RuntimeError(_MISSING))
for _name in LEGACY:
    _error = TypeError(f"type torch.cuda.{_name} not available. Torch not compiled with CUDA enabled.")
    globals()[_name] = _absent_class(_name, _error)
StreamContext = device


def __getattr__(name: str) -> Any:
    if name in ("amp", "random"):
        return importlib.import_module(f"{__name__}.{name}")
    raise absent("torch.cuda", name)
