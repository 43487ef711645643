"""Every environment switch of Fanal, typed, in one place."""

from __future__ import annotations

import os
from pathlib import Path


def _flag(name: str, default: bool) -> bool:
    value = os.environ.get(name)
    return default if value is None else value.lower() not in ("0", "", "false", "no", "off")


def _cache_dir() -> Path:
    root = os.environ.get("FANAL_CACHE_DIR")
    if root:
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fanal"


native: bool = _flag("FANAL_NATIVE", True)  # LLVM-made event matcher; off: the pure-Python one
follow: bool = _flag("FANAL_FOLLOW", True)  # follow known event streams; off: record every step
sizes: bool = _flag("FANAL_SIZES", True)  # follow steps in other sizes; off: plan every size by itself
compile: bool = _flag("FANAL_COMPILE", True)  # generate kernels; off: the NumPy interpreter runs everything
cache: bool = _flag("FANAL_CACHE", True)  # keep compiled objects on disk
cache_dir: Path = _cache_dir()
cache_bytes: int = int(os.environ.get("FANAL_CACHE_BYTES", 1 << 30))
threads: int = int(os.environ.get("FANAL_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS") or 0)  # 0: all
trace: str = os.environ.get("FANAL_TRACE", "user")  # "full" keeps Fanal's own frames in tracebacks
cpu: str = os.environ.get(
    "FANAL_CPU", ""
)  # vector target: avx512, avx2, sse2, neon; empty: the machine's best
