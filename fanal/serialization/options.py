"""Settings of save and load, under the names of ``torch.utils.serialization.config``."""

from __future__ import annotations

from enum import Enum


class LoadEndianness(Enum):
    """Byte order assumed for files that do not say which they have."""

    NATIVE = 1
    LITTLE = 2
    BIG = 3


class _Options:
    compute_crc32 = True
    endianness: LoadEndianness | None = None


def get_crc32_options() -> bool:
    """Return whether ``save`` writes checksums and ``load`` checks them."""
    return _Options.compute_crc32


def set_crc32_options(compute_crc32: bool) -> None:
    """Set whether ``save`` writes checksums and ``load`` checks them.

    Differs from torch: its ``load`` never checks.
    """
    _Options.compute_crc32 = bool(compute_crc32)


def get_default_load_endianness() -> LoadEndianness | None:
    """Return the byte order assumed for files without a mark (None: little)."""
    return _Options.endianness


def set_default_load_endianness(endianness: LoadEndianness | None) -> None:
    """Set the byte order assumed for files without a mark."""
    if endianness is not None and not isinstance(endianness, LoadEndianness):
        raise TypeError(f"Invalid argument type in function set_default_load_endianness: {endianness!r}")
    _Options.endianness = endianness
