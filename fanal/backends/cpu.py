"""The processor."""

from __future__ import annotations


def get_cpu_capability() -> str:
    """Return the vector instructions in use: "AVX512", "AVX2" or "DEFAULT"."""
    from fanal.core.backends.cpu.target import host_target

    name = str(getattr(host_target(), "name", "")).lower()
    return "AVX512" if "512" in name else "AVX2" if "avx2" in name else "DEFAULT"


__all__ = ["get_cpu_capability"]
