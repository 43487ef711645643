"""From LLVM IR text to callable addresses: memory, then disk, then LLVM.

Kernels keep nothing but their machine code: IR, context and module die when the object is emitted.
LLVM itself is loaded on the first kernel that is in neither cache.
"""
from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Sequence
from typing import Any

from fanal.core.backends.contract import Kernel

from . import cache, elf, host
from .target import Target
from .target import host as host_target

_addresses: dict[str, int] = {}
_lock = threading.RLock()  # one batch at a time; a batch uses several threads by itself
_symbols: dict[str, int] = {}
_linked: list[Any] = []  # what owns the code that LLVM's loader placed
compiled = 0  # kernels that went through LLVM in this process


def compile_many(kernels: Sequence[Kernel], target: Target | None = None) -> dict[str, int]:
    """Return the address of every kernel by name, compiling those not yet known.

    `target` is what the kernels' code was written for; the machine's best by default.
    Raises RuntimeError naming the kernel when LLVM refuses its IR.
    """
    missing = {k.name: k for k in kernels if k.name not in _addresses}
    if missing:
        with _lock:
            missing = {name: k for name, k in missing.items() if name not in _addresses}
            if missing:
                _compile_missing(missing, target or host_target())
    return {k.name: _addresses[k.name] for k in kernels}


def known(name: str) -> bool:
    """Tell whether a kernel is ready in this process."""
    return name in _addresses


def _compile_missing(missing: dict[str, Kernel], target: Target) -> None:
    global compiled
    store = cache.objects(target.key)
    objects = store.lookup(missing)
    fresh = [k for name, k in missing.items() if name not in objects]
    if fresh:
        objects |= _emit_all(fresh, target)
        compiled += len(fresh)
    found = _load(objects, target)
    for name in missing:
        if name not in found:
            raise RuntimeError(f"the IR of kernel {name} does not define a function of that name")
    if fresh:  # only what loads is worth keeping
        store.save(objects)
    _addresses.update((name, found[name]) for name in missing)


# Loading.

def _load(objects: dict[str, bytes], target: Target) -> dict[str, int]:
    if elf.SUPPORTED:
        try:
            return elf.load(list(objects.values()), _resolve)
        except elf.Unsupported:
            pass  # LLVM's own loader knows every relocation
    return _load_through_llvm(objects, target)


def _resolve(name: str) -> int:
    """Return the address of a C library function. LLVM calls few: memcpy, fmod, conversions of half types."""
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


def _load_through_llvm(objects: dict[str, bytes], target: Target) -> dict[str, int]:
    llvm = _llvm()
    if not _linked:
        _linked.append(llvm.create_lljit_compiler(_machine(target, 1)))
    builder = llvm.JITLibraryBuilder().add_current_process()
    for name, data in objects.items():
        builder.add_object_img(data).export_symbol(name)
    library = builder.link(_linked[0], f"kernels{len(_linked)}")
    _linked.append(library)
    return {name: library[name] for name in objects}


# Emitting.

def _llvm() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


def _machine(target: Target, opt: int) -> Any:
    """Return a code generator. Position-independent small code: an object is one mapping of its own."""
    # LLVM contracts a multiplication and an addition only where the IR says so (llvm.fmuladd or the flag
    # `contract`), which no emitter writes: no result depends on the level or on what was fused around it.
    llvm = _llvm()
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=opt, reloc="pic", codemodel="small")


def _emit_all(kernels: Sequence[Kernel], target: Target) -> dict[str, bytes]:
    """Return object code by name, several threads at work when there is enough of it."""
    waiting = list(reversed(kernels))
    done: dict[str, bytes] = {}
    errors: list[BaseException] = []
    llvm = _Llvm()

    def work() -> None:
        machines: dict[int, Any] = {}  # code generators are not shared between threads
        try:
            while waiting and not errors:
                try:
                    kernel = waiting.pop()
                except IndexError:
                    return
                if kernel.opt not in machines:
                    machines[kernel.opt] = _machine(target, kernel.opt)
                done[kernel.name] = llvm.emit(kernel, machines[kernel.opt])
        except Exception as error:  # re-raised by the caller's thread
            errors.append(error)

    helpers = [threading.Thread(target=work, name=f"fanal-compile-{i}")
               for i in range(min(host.cores(), len(kernels) // 2) - 1)]
    for helper in helpers:
        helper.start()
    try:
        work()
    finally:
        waiting.clear()
        for helper in helpers:
            helper.join()
    if errors:
        raise errors[0]
    return done


class _Llvm:
    """The two slow calls into LLVM, without llvmlite's process-wide lock.

    LLVM is thread-safe between contexts, and every kernel has its own.
    """

    def __init__(self) -> None:
        self.llvm = _llvm()
        from llvmlite.binding import ffi

        library = ctypes.CDLL(ffi.lib._name)
        pointer = ctypes.c_void_p
        self.parse = library.LLVMPY_ParseAssembly
        self.parse.argtypes, self.parse.restype = [pointer, ctypes.c_char_p, ctypes.POINTER(pointer)], pointer
        self.codegen = library.LLVMPY_TargetMachineEmitToMemory
        self.codegen.argtypes = [pointer, pointer, ctypes.c_int, ctypes.POINTER(pointer)]
        self.codegen.restype = pointer
        self.start = library.LLVMPY_GetBufferStart
        self.start.argtypes, self.start.restype = [pointer], pointer
        self.size = library.LLVMPY_GetBufferSize
        self.size.argtypes, self.size.restype = [pointer], ctypes.c_size_t
        self.free_buffer = library.LLVMPY_DisposeMemoryBuffer
        self.free_buffer.argtypes = [pointer]
        self.free_module = library.LLVMPY_DisposeModule
        self.free_module.argtypes = [pointer]
        self.free_string = library.LLVMPY_DisposeString
        self.free_string.argtypes = [pointer]

    def emit(self, kernel: Kernel, machine: Any) -> bytes:
        """Return the object code of one kernel."""
        context = self.llvm.create_context()
        error = ctypes.c_void_p()
        module = self.parse(context._ptr, kernel.source().encode(), ctypes.byref(error))
        if error.value or not module:
            raise RuntimeError(f"LLVM refuses the IR of kernel {kernel.name}: {self._take(error)}")
        try:
            buffer = self.codegen(machine._ptr, module, 1, ctypes.byref(error))
            if not buffer:
                raise RuntimeError(f"LLVM cannot compile kernel {kernel.name}: {self._take(error)}")
            try:
                return ctypes.string_at(self.start(buffer), self.size(buffer))
            finally:
                self.free_buffer(buffer)
        finally:
            self.free_module(module)  # before its context

    def _take(self, error: ctypes.c_void_p) -> str:
        if not error.value:
            return "no message"
        text = ctypes.string_at(error.value).decode(errors="replace").strip()
        self.free_string(error)
        return text


# A fork waits for a compilation under way: LLVM's own locks would stay taken in the child.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
