"""The processor code is generated for: vector width, registers, features, cache sizes."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fanal.core.base import knobs

from . import cache
from .host import may_use_tiles, processor_id


@dataclass(frozen=True)
class Target:
    """One instruction set, as the emitters and LLVM need to know it."""

    name: str  # "avx512", "avx2", "sse2" or "neon"
    triple: str
    cpu: str
    features: str  # LLVM's feature string
    vector_bytes: int
    registers: int  # architectural vector registers
    fma: bool  # fused multiply-add in hardware
    masks: bool  # masked loads and stores cost the same as plain ones
    l1: int  # bytes of first-level data cache
    l2: int
    tiles: bool = False  # a matrix unit (AMX) that this process may use
    pairs: bool = False  # multiply-adds of pairs of bfloat16, as many in a cycle as of float32
    copies: bool = True  # copies of the left operand of products save more time than they take

    def lanes(self, itemsize: int) -> int:
        """Return how many elements of `itemsize` bytes one vector register holds."""
        return self.vector_bytes // itemsize

    @functools.cached_property
    def key(self) -> str:
        """Return what distinguishes object code for this target from any other."""
        return "|".join((self.triple, self.cpu, self.features, self.name))

    def symbol(self, structure: str) -> str:
        """Return the kernel name that stands for `structure` on this target."""
        return "k_" + hashlib.sha256(f"{structure}|{self.key}".encode()).hexdigest()[:24]


_X86 = "x86_64-unknown-linux-gnu"
_NEON = "aarch64-unknown-linux-gnu"


def named(name: str) -> Target:
    """Return a baseline target of one instruction set, for cross-checks. Raises KeyError for unknown names."""
    table = {
        "avx512": Target("avx512", _X86, "x86-64-v4", "", 64, 32, True, True, 32 << 10, 1 << 20),
        "avx2": Target("avx2", _X86, "x86-64-v3", "", 32, 16, True, False, 32 << 10, 256 << 10),
        "sse2": Target("sse2", _X86, "x86-64", "", 16, 16, False, False, 32 << 10, 256 << 10),
        "neon": Target("neon", _NEON, "generic", "+neon", 16, 32, True, False, 64 << 10, 512 << 10),
    }
    return table[name]


def _cache(level: str, kind: str, fallback: int) -> int:
    """Return the size in bytes of one cache of the first processor."""
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            if (index / "level").read_text().strip() == level and (index / "type").read_text().strip() in (
                kind,
                "Unified",
            ):
                text = (index / "size").read_text().strip()
                return int(text.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(text[-1], 0)
        except (OSError, ValueError):
            continue
    return fallback


def _ask_llvm() -> dict[str, Any]:
    import llvmlite.binding as llvm

    return {
        "triple": llvm.get_process_triple(),
        "cpu": llvm.get_host_cpu_name(),
        "features": [name for name, present in llvm.get_host_cpu_features().items() if present],
    }


@functools.lru_cache(maxsize=1)
def host() -> Target:
    """Return the target of this machine: its best, or the one that FANAL_CPU names.

    Raises ValueError when FANAL_CPU names a target this machine cannot run.
    """
    best = _best()
    if not knobs.cpu:
        return best
    able = _RUNS[best.name]
    if knobs.cpu not in able:
        raise ValueError(f"FANAL_CPU={knobs.cpu}: this machine runs {', '.join(able)}")
    return (
        best
        if knobs.cpu == best.name
        else replace(named(knobs.cpu), triple=best.triple, l1=best.l1, l2=best.l2)
    )


_RUNS = {"avx512": ("avx512", "avx2", "sse2"), "avx2": ("avx2", "sse2"), "sse2": ("sse2",), "neon": ("neon",)}


def _best() -> Target:
    facts = cache.recall("host", processor_id(), _ask_llvm)
    triple, flags = facts["triple"], set(facts["features"])
    # Only what is present, sorted, without the name-independent noise of absent features: this enters cache keys.
    features = ",".join(f"+{name}" for name in sorted(flags))
    if triple.startswith(("aarch64", "arm64")):
        name, width, registers, fma = "neon", 16, 32, True
    elif flags >= {"avx512f", "avx512vl", "avx512bw", "avx512dq"}:
        name, width, registers, fma = "avx512", 64, 32, True
    elif flags >= {"avx2", "fma"}:
        name, width, registers, fma = "avx2", 32, 16, True
    else:
        name, width, registers, fma = "sse2", 16, 16, False
    zen = facts["cpu"].startswith("znver")
    return Target(
        name,
        triple,
        facts["cpu"],
        features,
        width,
        registers,
        fma,
        name == "avx512",
        _cache("1", "Data", 32 << 10),
        _cache("2", "Data", 256 << 10),
        flags >= {"amx-tile", "amx-bf16", "amx-int8"} and name == "avx512" and may_use_tiles(),
        # Those of other makers take longer than the float32 multiply-adds that do the same.
        "avx512bf16" in flags and name == "avx512" and zen,
        not zen,
    )
