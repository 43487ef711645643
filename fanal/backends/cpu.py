"""The processor."""

from __future__ import annotations

_NAMES = {"avx512": "AVX512", "avx2": "AVX2"}


def get_cpu_capability() -> str:
    """Return the vector instructions in use: "AVX512", "AVX2" or "DEFAULT"."""
    from fanal.core.backends.cpu.target import host

    return _NAMES.get(host().name, "DEFAULT")


__all__ = ["get_cpu_capability"]
