"""From LLVM IR text to callable addresses: memory, then disk, then LLVM.

Kernels keep nothing but their machine code: the IR, the context and the module die when the object is emitted.
LLVM itself is loaded on the first kernel that is in neither cache.
"""
from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fanal.core.backends.contract import Kernel

from . import cache, elf
from .target import Target, host

if TYPE_CHECKING:
    import llvmlite.binding as llvm

_addresses: dict[str, int] = {}
_lock = threading.Lock()  # one compilation at a time; it uses all threads by itself
_symbols: dict[str, int] = {}
_keep: list[Any] = []  # what owns code that LLVM loaded
compiled = 0  # kernels that went through LLVM in this process; budgets in tests count it


def compile_many(kernels: Sequence[Kernel], target: Target | None = None) -> dict[str, int]:
    """Return the address of every kernel by name, compiling those not yet known.

    `target` is what the kernels' code was written for; the machine's best by default.
    """
    missing = {k.name: k for k in kernels if k.name not in _addresses}
    if missing:
        with _lock:
            missing = {name: k for name, k in missing.items() if name not in _addresses}
            if missing:
                _compile_missing(missing, target or host())
    return {k.name: _addresses[k.name] for k in kernels}


def _compile_missing(missing: dict[str, Kernel], target: Target) -> None:
    global compiled
    names = sorted(missing)
    store = cache.objects(target)
    objects = store.lookup(names)
    fresh = [missing[name] for name in names if name not in objects]
    if fresh:
        objects |= _emit_all(fresh, target)
        compiled += len(fresh)
    found = _load([objects[name] for name in names], target)
    for name in names:
        if name not in found:
            raise RuntimeError(f"the IR of kernel {name} does not define a function of that name")
    if fresh:  # only what loads is worth keeping
        store.save(names, objects)
    _addresses.update(found)


# Loading.

def _load(objects: Sequence[bytes], target: Target) -> dict[str, int]:
    if elf.SUPPORTED:
        try:
            return elf.load(objects, _resolve)
        except elf.Unsupported:
            pass  # LLVM's own loader knows every relocation
    return _load_through_llvm(objects, target)


def _resolve(name: str) -> int:
    """Return the address of a C library function. LLVM calls few: memcpy, fmod, half-precision conversions."""
    address = _symbols.get(name)
    if address is None:
        for library in (None, "libm.so.6", "libgcc_s.so.1"):
            try:
                function = getattr(ctypes.CDLL(library), name)
            except (OSError, AttributeError):
                continue
            address = _symbols[name] = ctypes.cast(function, ctypes.c_void_p).value or 0
            break
        else:
            raise LookupError(f"generated code calls {name}, which the C library does not have")
    return address


def _load_through_llvm(objects: Sequence[bytes], target: Target) -> dict[str, int]:
    llvm = _llvm()
    if not _keep:
        _keep.append(llvm.create_lljit_compiler(_machine(target, 1)))
    found: dict[str, int] = {}
    for data in objects:
        names = _functions(data)
        builder = llvm.JITLibraryBuilder().add_object_img(data).add_current_process()
        for name in names:
            builder.export_symbol(name)
        library = builder.link(_keep[0], f"kernels{len(_keep)}")
        _keep.append(library)
        found.update((name, library[name]) for name in names)
    return found


def _functions(data: bytes) -> list[str]:
    """Return the names of the global functions an object defines."""
    reader = _llvm().ObjectFileRef.from_data(data)
    names = []
    for section in reader.sections():
        del section
    symbols = data  # names of kernels are the only global symbols that match the pattern
    import re
    for match in re.findall(rb"\0_?(k_[0-9a-z_]+)(?=\0)", symbols):
        names.append(match.decode())
    return sorted(set(names))


# Emitting.

def _llvm() -> Any:
    import llvmlite.binding as llvm

    if not hasattr(_llvm, "ready"):
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        _llvm.ready = True
    return llvm
