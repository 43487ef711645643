"""Kernels over more memory than caches keep: the same bits, wherever the output lies and however the work is divided."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from harness import contents, execute, inp, program_of
from test_loops import gelu, layer_norm, softmax

from fanal.core.backends.cpu import target as targets
from fanal.core.backends.cpu.backend import CpuBackend
from fanal.core.backends.cpu.run import Executable
from fanal.core.base import dtype as dt
from fanal.core.compiler.pipeline import lower
from fanal.core.ir import prims as P

HOST = targets.host()
TINY = replace(HOST, l2=64)  # everything is more than its caches keep


def programs(dtype: dt.dtype) -> list:
    x, w, b = (inp(shape, dtype) for shape in ((37, 96), (96,), (96,)))
    odd = inp((9, 100), dtype)
    return [program_of([x], [softmax(x)]), program_of([x], [gelu(x)]), program_of([odd], [softmax(odd), gelu(odd)]),
            program_of([x, w, b], list(layer_norm(x, w, b))), program_of([x], [P.sum_(x, (1,)), P.mul(x, x)])]


@pytest.mark.parametrize("dtype", [dt.float32, dt.float64, dt.bfloat16], ids=lambda d: d.name)
def test_streams_have_the_bits_of_other_kernels(dtype: dt.dtype) -> None:
    for program in programs(dtype):
        arrays = [contents[i] for i in program.inputs]
        plain = Executable(lower(program, CpuBackend(HOST)), HOST).run(arrays)
        lowered = lower(program, CpuBackend(TINY))
        streamed = Executable(lowered, TINY)
        if HOST.masks:
            assert any("nontemporal" in s.kernel.source() for s in lowered.steps)
        for shift in (0, dtype.itemsize):  # rows that are aligned, and rows that are not
            outputs = []
            for a in plain:
                raw = np.zeros(a.nbytes + 128, np.uint8)
                start = -raw.ctypes.data % 64 + shift
                outputs.append(raw[start:start + a.nbytes].view(a.dtype).reshape(a.shape))
            for got, want in zip(streamed.run(arrays, outputs), plain, strict=True):
                assert got.tobytes() == want.tobytes()
        for parts in (1, 3):
            memory, _ = execute(lowered, arrays, parts)
            for output, want in zip(lowered.outputs, plain, strict=True):
                assert memory[output].tobytes() == want.tobytes()
