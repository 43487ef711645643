"""Compiles and runs launches over numpy arrays, one unit range at a time: for tests and benchmarks of emitters."""
from __future__ import annotations

import ctypes
import functools
import itertools

import llvmlite.binding as llvm
import numpy as np

from fanal.core.backends.contract import Buf, Launch, Temp
from fanal.core.backends.cpu import target as targets

_SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
_CACHE: dict[tuple[str, str], object] = {}
_ENGINES: list[object] = []


@functools.cache
def machine(target: targets.Target, opt: int = 1):
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=opt, jit=target.triple.startswith("x86"))


def assemble(launch: Launch, target: targets.Target) -> bytes:
    """Return object code of a launch's kernel for any target."""
    module = llvm.parse_assembly(launch.kernel.source())
    module.verify()
    return machine(target, launch.kernel.opt).emit_object(module)


def load(launch: Launch, target: targets.Target):
    """Return the callable machine code of a launch's kernel."""
    key = (launch.kernel.name, target.key)
    if key not in _CACHE:
        module = llvm.parse_assembly(launch.kernel.source())
        module.triple = llvm.get_process_triple()
        module.verify()
        fresh = llvm.Target.from_triple(target.triple).create_target_machine(
            cpu=target.cpu, features=target.features, opt=launch.kernel.opt, jit=True) \
            if (machine(target), True)[1] else None
        engine = llvm.create_mcjit_compiler(module, fresh)
        engine.finalize_object()
        _ENGINES.append(engine)
        _CACHE[key] = _SIGNATURE(engine.get_function_address(launch.kernel.name))
    return _CACHE[key]


def aligned(nbytes: int) -> np.ndarray:
    raw = np.empty(nbytes + 64, np.uint8)
    raw[:] = 0xFF  # NaN in every floating-point type: reading what was not written shows
    start = -raw.ctypes.data % 64
    return raw[start:start + nbytes]


class Prepared:
    """Launches bound to arrays; calling it runs them. `cuts` divides every launch's units into that many ranges."""

    def __init__(self, entries, arrays: dict[int, np.ndarray], target: targets.Target | None = None, cuts: int = 1):
        target = target or targets.host()
        self.keep = [arrays]
        arrays = dict(arrays)
        self.calls = []
        for entry in entries:
            if isinstance(entry, Temp):
                arrays[entry.id] = aligned(entry.nbytes)
                continue
            words = np.array([arrays[w.value_id].ctypes.data + w.offset if isinstance(w, Buf) else w
                              for w in entry.args], np.int64)
            scratch = aligned(max(64, entry.scratch))
            self.keep += [words, scratch, arrays]
            edges = [entry.units * i // cuts for i in range(cuts + 1)]
            for lo, hi in itertools.pairwise(edges):
                self.calls.append((load(entry, target), words.ctypes.data, lo, hi, scratch.ctypes.data))

    def __call__(self) -> None:
        for function, words, lo, hi, scratch in self.calls:
            function(words, lo, hi, scratch)
