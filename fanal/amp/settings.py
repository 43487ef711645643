"""The switches of autocast: what each thread asked for, by device. Only those of the CPU change what is computed."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.base.device import device
from fanal.core.base.state import state
from fanal.core.ops.autocast import set_autocast

_DTYPES = {
    **dict.fromkeys(("cpu", "hpu", "xla", "maia"), dt.bfloat16),
    **dict.fromkeys(("cuda", "xpu", "mps", "ipu", "mtia", "privateuseone"), dt.float16),
}


_UNKNOWN = "unknown device type for autocast in get_autocast_dispatch_key_from_device_type"


class _Settings(threading.local):
    def __init__(self) -> None:
        self.dtypes = dict(_DTYPES)
        self.enabled: set[str] = set()
        self.nesting = 0


_settings = _Settings()


def is_autocast_available(device_type: str) -> bool:
    """Tell whether PyTorch knows autocast for a kind of device. Raises RuntimeError for no kind of device."""
    return device(device_type).type in _DTYPES


def _known(device_type: str, refusal: str) -> str:
    """Return a kind of device that has autocast; raise RuntimeError for another one."""
    if not is_autocast_available(device_type):
        raise RuntimeError(refusal)
    return device_type


def is_autocast_enabled(device_type: str = "cuda") -> bool:
    """Tell whether autocast is on for a kind of device."""
    return _known(device_type, _UNKNOWN) in _settings.enabled


def get_autocast_dtype(device_type: str) -> dt.dtype:
    """Return to what autocast casts on a kind of device."""
    return _settings.dtypes[_known(device_type, "unsupported scalarType")]


def is_autocast_cache_enabled() -> bool:
    """Tell whether a weight is cast once in a region of autocast."""
    return state.cast_once


def switch(device_type: str, enabled: bool, dtype: dt.dtype, once: bool, forget: bool = False) -> None:
    """Set all switches of a kind of device at once. `once`, `forget`: see `set_autocast`, for any device."""
    _settings.dtypes[_known(device_type, _UNKNOWN)] = dtype
    (_settings.enabled.add if enabled else _settings.enabled.discard)(device_type)
    set_autocast(_settings.dtypes["cpu"] if "cpu" in _settings.enabled else None, once, forget)


def set_autocast_enabled(device_type: str | bool, enabled: bool | None = None) -> None:
    """Switch autocast for a kind of device; for "cuda" if only the switch is given."""
    if isinstance(device_type, bool):
        device_type, enabled = "cuda", device_type
    switch(device_type, bool(enabled), get_autocast_dtype(device_type), state.cast_once)


def set_autocast_dtype(device_type: str, dtype: dt.dtype) -> None:
    """Set to what autocast casts on a kind of device."""
    if not isinstance(dtype, dt.dtype):
        raise TypeError(
            f"set_autocast_dtype(): argument 'dtype' (position 2) must be torch.dtype, not {type(dtype).__name__}"
        )
    switch(device_type, is_autocast_enabled(device_type), dtype, state.cast_once)


def set_autocast_cache_enabled(enabled: bool) -> None:
    """Say whether a weight is cast once in a region of autocast."""
    set_autocast(state.autocast, bool(enabled))


def clear_autocast_cache() -> None:
    """Cast every weight anew from here on."""
    set_autocast(state.autocast, state.cast_once, forget=True)


def autocast_increment_nesting() -> int:
    """Count a region of autocast; return how many there are."""
    _settings.nesting += 1
    return _settings.nesting


def autocast_decrement_nesting() -> int:
    """End a region of autocast; return how many are left."""
    _settings.nesting -= 1
    return _settings.nesting


def _deprecated(f: Callable, device_type: str, old: str, new: str) -> Callable:
    """Return the form of `f` for one kind of device, which warns."""

    def call(*args: Any) -> Any:
        warnings.warn(
            f"torch.{old} is deprecated. Please use torch.{new} instead.", DeprecationWarning, stacklevel=2
        )
        return f(device_type, *args)

    return call


for _name, _type in (("cpu", "cpu"), ("gpu", "cuda"), ("ipu", "ipu"), ("xla", "xla")):
    for _f, _arg in (
        (is_autocast_enabled, ""),
        (set_autocast_enabled, "enabled"),
        (get_autocast_dtype, ""),
        (set_autocast_dtype, "dtype"),
    ):
        _verb, _, _what = _f.__name__.partition("_autocast_")
        _old = f"{_verb}_autocast_{_name}_{_what}"
        _new = f"{_f.__name__}('{_type}'{', ' if _arg else ''}{_arg})"
        globals()[_old] = _deprecated(_f, _type, f"{_old}({_arg})", _new)
