"""Square blocks that are transposed in registers, one to a register and several side by side."""
from __future__ import annotations

import ctypes

import numpy as np
import pytest

from fanal.core.backends.contract import Kernel
from fanal.core.backends.cpu import jit
from fanal.core.backends.cpu import target as targets
from fanal.core.backends.cpu.irtext import Writer, module
from fanal.core.backends.cpu.pack_ir import transpose

HOST = targets.host()


@pytest.mark.parametrize("kind, dtype", [("float", np.float32), ("double", np.float64), ("i32", np.int32)])
@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_blocks(kind: str, dtype: type, blocks: int) -> None:
    size = np.dtype(dtype).itemsize
    lanes = HOST.lanes(size)
    rows, part = lanes // blocks, 16 // size
    if rows < part:
        pytest.skip("a block is smaller than 128 bits")
    declared: set[str] = set()
    w = Writer(HOST, declared)
    vector, place = f"<{lanes} x {kind}>", w.word("%args", 0, True)
    found = transpose(w, vector, [w.load(vector, w.at(place, str(i * lanes), size), None, size) for i in range(rows)])
    for i, x in enumerate(found):
        w.store(vector, x, w.at("%scratch", str(i * lanes), size), None, size)
    name = HOST.symbol(f"blocks {kind} {blocks}")
    text = module([w.function(f"void @{name}(ptr %args, i64 %lo, i64 %hi, ptr %scratch)")], declared)
    address = jit.compile_many([Kernel(name, lambda: text)], HOST)[name]
    a, got = np.arange(rows * lanes, dtype=dtype).reshape(rows, lanes), np.zeros((rows, lanes), dtype)
    args = np.array([a.ctypes.data], np.int64)
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(address)
    run(args.ctypes.data, 0, 1, got.ctypes.data)
    want = np.zeros_like(got)
    for k, i in np.ndindex(blocks, rows):
        want[:, (i // part * blocks + k) * part + i % part] = a[i, k * rows:(k + 1) * rows]
    assert (got == want).all()
