"""Runs lowered programs without the engine: a loader for kernels, buffers from NumPy, steps one by one."""
from __future__ import annotations

import ctypes
import functools
import itertools

import numpy as np

from fanal.core.backends.contract import Buf, Launch, Repeat
from fanal.core.backends.cpu import target as targets
from fanal.core.backends.cpu.backend import default
from fanal.core.base import dtype as dt
from fanal.core.compiler.pipeline import lower
from fanal.core.compiler.steps import failed
from fanal.core.ir.interp import interpret
from fanal.core.ir.prims import given, input_
from fanal.core.ir.program import Node, Program, toposort

LOADED: dict[str, object] = {}
_KEEP: list[object] = []


@functools.lru_cache(maxsize=1)
def _machine():
    import llvmlite.binding as llvm
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    t = targets.host()
    return llvm.Target.from_triple(t.triple).create_target_machine(cpu=t.cpu, features=t.features, opt=1, jit=True)


def load(kernel):
    """Compile a kernel once and return it as a ctypes function."""
    import llvmlite.binding as llvm
    found = LOADED.get(kernel.name)
    if found is None:
        text = kernel.source()
        assert text == kernel.source()
        module = llvm.parse_assembly(text)
        module.verify()
        engine = llvm.create_mcjit_compiler(module, _machine())
        engine.finalize_object()
        _KEEP.append(engine)
        address = engine.get_function_address(kernel.name)
        found = LOADED[kernel.name] = ctypes.CFUNCTYPE(
            None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(address)
    return found


def aligned(nbytes: int) -> np.ndarray:
    raw = np.full(nbytes + 128, 0xA5, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start:start + nbytes]


def execute(lowered, arrays, parts: int = 1):
    """Run steps on copies of `arrays` and return the outputs' buffers as byte arrays by id."""
    memory: dict[int, np.ndarray] = {}
    kinds: dict[int, np.dtype] = {}
    for i, a in zip(lowered.inputs, arrays):
        memory[i] = aligned(a.nbytes)
        memory[i][:] = np.frombuffer(np.ascontiguousarray(a).tobytes(), np.uint8)
        kinds[i] = a.dtype
    for i, a in lowered.known.items():
        memory[i] = aligned(a.nbytes)
        memory[i][:] = np.frombuffer(np.ascontiguousarray(a).tobytes(), np.uint8)
        kinds[i] = a.dtype
    for i, b in lowered.buffers.items():
        memory[i] = aligned(b.nbytes)
        kinds[i] = b.dtype.np
    for i, _ in lowered.checks:
        memory[i][:] = 0
    steps = [s for step in lowered.steps for s in (step.unrolled() if isinstance(step, Repeat) else (step,))]
    for s in steps:
        if isinstance(s, Launch):
            words = np.array([np.uint64((memory[a.value_id].ctypes.data + a.offset) & (1 << 64) - 1)
                              if isinstance(a, Buf) else np.uint64(a & (1 << 64) - 1) for a in s.args], np.uint64)
            scratch = aligned(s.scratch)
            call = load(s.kernel)
            edges = [s.units * k // parts for k in range(parts + 1)]
            for lo, hi in reversed(list(itertools.pairwise(edges))):
                if hi > lo:
                    call(words.ctypes.data, lo, hi, scratch.ctypes.data)
        else:
            values = [memory[i].view(kinds[i]).reshape(shape) for i, shape in zip(s.inputs, s.shapes)]
            out = np.asarray(s.fn(*values)).astype(kinds[s.output])
            memory[s.output][:] = np.frombuffer(np.ascontiguousarray(out).tobytes(), np.uint8)
    for i, size in lowered.checks:
        code = int(memory[i].view(np.int64)[0])
        if code:
            raise failed(code, size)
    return memory, kinds


_RNG = np.random.default_rng(0)


def inp(shape, dtype=dt.float32, low=-2.0, high=2.0) -> Node:
    """Return a program input with random contents (kept in `contents`)."""
    n = input_(tuple(shape), dtype)
    if dtype is dt.bool_:
        a = _RNG.random(shape) < 0.5
    elif dtype.category == 1:
        info = np.iinfo(dtype.np)
        a = _RNG.integers(max(info.min, int(low)), min(info.max, int(high)), shape, dtype=np.int64, endpoint=True)
    else:
        a = _RNG.uniform(low, high, shape)
    contents[n] = np.asarray(a).astype(dtype.np)
    return n


contents: dict[Node, np.ndarray] = {}


def program_of(inputs, outputs, writes=None) -> Program:
    known = {id(i) for i in inputs}
    return Program(list(inputs), [n for n in toposort(list(outputs), known) if id(n) not in known], list(outputs),
                   writes)


def run(inputs, outputs, writes=None, parts: int = 1, backend=None, arrays=None):
    program = program_of(inputs, outputs, writes)
    lowered = lower(program, backend or default())
    arrays = arrays or [contents[i] for i in inputs]
    memory, _ = execute(lowered, arrays, parts)
    return [memory[o].view(n.dtype.np).reshape(n.shape).copy() for o, n in zip(lowered.outputs, outputs)], lowered


def check(inputs, outputs, rtol=2e-5, atol=1e-5, writes=None, exact=False, kernels=None, host=0):
    """Compare a program with the interpreter; return its labels."""
    program = program_of(inputs, outputs, writes)
    want = interpret(program, [contents[i] for i in inputs])
    got, lowered = run(inputs, outputs, writes)
    for g, w in zip(got, want):
        assert g.shape == w.shape and g.dtype == w.dtype
        if exact or w.dtype.kind in "biu":
            np.testing.assert_array_equal(g, w)
        else:
            wide = np.complex128 if w.dtype.kind == "c" else np.float64
            np.testing.assert_allclose(g.astype(wide), w.astype(wide), rtol, atol)
    labels = [s.label for s in lowered.steps]
    launches = [s for s in lowered.steps if isinstance(s, Launch)]
    assert len(lowered.steps) - len(launches) == host, labels
    if kernels is not None:
        assert len(launches) == kernels, labels
    return labels


__all__ = ["check", "contents", "execute", "given", "inp", "load", "program_of", "run"]
