"""Save and load: PyTorch's checkpoint formats, read without executing them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

from fanal.core.base.device import device

from .checkpoint import (
    DEFAULT_PROTOCOL,
    load_checkpoint,
    save_checkpoint,
    unsafe_globals,
)
from .errors import RecordError
from .opaque import Opaque
from .options import (
    LoadEndianness,
    get_crc32_options,
    get_default_load_endianness,
    set_crc32_options,
    set_default_load_endianness,
)  # fmt: skip
from .safe import add_safe_globals, clear_safe_globals, get_safe_globals, safe_globals
from .storage import LoadedStorage

__all__ = [
    "DEFAULT_PROTOCOL", "LoadEndianness", "LoadedStorage", "Opaque", "RecordError", "add_safe_globals",
    "clear_safe_globals", "get_crc32_options", "get_default_load_endianness", "get_safe_globals",
    "get_unsafe_globals_in_checkpoint", "load", "safe_globals", "save", "set_crc32_options",
    "set_default_load_endianness",
]  # fmt: skip

MAP_LOCATION = Callable[[Any, str], Any] | device | str | dict[str, str] | None
_TRUE = ("1", "y", "yes", "true")


def save(
    obj: Any,
    f: Any,
    pickle_module: Any = None,
    pickle_protocol: int = DEFAULT_PROTOCOL,
    _use_new_zipfile_serialization: bool = True,
    _disable_byteorder_record: bool = False,
) -> None:
    """Save an object to a path or an open binary file, in the format ``torch.load`` reads.

    Tensors that share a storage still share it when loaded. A path is written whole or not at all:
    the old file stays until the new one is on the disk.

    Raises: OSError, with "no space left" where the disk is full; pickle.PicklingError for objects
    that have no pickle.
    Differs from torch: ``pickle_module`` other than pickle and the format before 1.6 are refused.
    """
    if pickle_module is not None and getattr(pickle_module, "__name__", "") != "pickle":
        raise RuntimeError(f"save writes with its own pickler; pickle_module {pickle_module!r} is not used")
    if not _use_new_zipfile_serialization:
        raise RuntimeError("save writes the zip format only; the format before 1.6 is read, not written")
    save_checkpoint(_adapter(), obj, f, pickle_protocol)


def load(
    f: Any,
    map_location: Any = None,
    pickle_module: Any = None,
    *,
    weights_only: bool | None = None,
    mmap: bool | None = None,
    encoding: str = "utf-8",
    **pickle_load_args: Any,
) -> Any:
    """Load what ``save`` or ``torch.save`` wrote, executing nothing the file names.

    ``weights_only=True`` (the default) refuses objects of unknown classes; False keeps them as inert
    ``Opaque`` data and brings back the library's own nn modules from their state. ``map_location`` is
    a device, a string, a dict of device names, or a function of (storage, location). ``mmap=True``
    maps tensor data instead of reading it. Every record's checksum is compared.

    Raises: pickle.UnpicklingError naming a refused object; RuntimeError (``RecordError``) naming the
    damaged tensor.
    Differs from torch: no setting runs a pickle; ``pickle_module`` is refused.
    """
    if pickle_module is not None and getattr(pickle_module, "__name__", "") != "pickle":
        raise RuntimeError("Can not safely load when an explicit pickle_module is specified")
    if weights_only is None:
        weights_only = os.getenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0").lower() not in _TRUE
    if os.getenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0").lower() in _TRUE:
        weights_only = True
    if pickle_load_args:
        warnings.warn(f"load has no use for {sorted(pickle_load_args)}", stacklevel=2)
    if isinstance(f, (str, os.PathLike)) and os.fspath(f).endswith(".safetensors"):
        from .safetensors import load_file

        return load_file(f, "cpu" if map_location is None else map_location)
    return load_checkpoint(_adapter(), f, map_location, bool(weights_only), bool(mmap), encoding)


def get_unsafe_globals_in_checkpoint(f: Any) -> list[str]:
    """Return the dotted names in a checkpoint that ``weights_only=True`` would refuse."""
    return unsafe_globals(_adapter(), f)


def _adapter() -> Any:
    from .tensors import FanalAdapter

    return FanalAdapter()
