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
    wide, few, long = inp((37, 288), dtype), inp((3, 256), dtype), inp((7, 4096), dtype)
    top = P.spread_back(P.max_of(wide, (1,)), wide, (1,))
    total = P.log(P.sum_(P.exp(P.sub(wide, top)), (1,)))
    return [program_of([x], [softmax(x)]), program_of([x], [gelu(x)]), program_of([odd], [softmax(odd), gelu(odd)]),
            program_of([x, w, b], list(layer_norm(x, w, b))), program_of([x], [P.sum_(x, (1,)), P.mul(x, x)]),
            *(program_of([x], [softmax(x)]) for x in (wide, few, long)),
            program_of([wide], [P.sub(P.sub(wide, top), P.spread_back(total, wide, (1,))), total])]


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


@pytest.mark.skipif(not HOST.masks, reason="nothing goes past the caches")
def test_passes_that_take_long_run_side_by_side() -> None:
    counts = []
    for columns in (240, 256):
        x = inp((37, columns), dt.float32)
        (source,) = (s.kernel.source() for s in lower(program_of([x], [softmax(x)]), CpuBackend(TINY)).steps)
        counts.append(source.count("nontemporal"))
    assert counts[1] > 2 * counts[0] > 0  # together, and each alone where not all of them have rows


def test_long_work_on_part_of_a_row_asks_for_the_next() -> None:
    x = inp((9, 200), dt.float32)
    part = P.slice_(x, (0, 50), (9, 150), (1, 1))
    y = part
    for _ in range(6):
        y = gelu(y)
    kernels = [s.kernel.source() for s in lower(program_of([x], [y]), CpuBackend(HOST)).steps]
    assert any("llvm.prefetch" in text for text in kernels)


@pytest.mark.parametrize("dtype, lines", [(dt.bfloat16, 1), (dt.float32, 1), (dt.float64, 2)], ids=str)
def test_sums_of_columns_ask_for_rows_ahead(dtype: dt.dtype, lines: int) -> None:
    x = inp((70, 300), dtype)
    (source,) = (s.kernel.source() for s in lower(program_of([x], [P.sum_(x, (0,))]), CpuBackend(HOST)).steps)
    assert source.count("call void @llvm.prefetch") == 2 * lines  # of whole vectors, and of the last


def test_products_ask_for_what_their_tails_read() -> None:
    x, w, r = (inp(shape, dt.float32) for shape in ((40, 64), (64, 96), (40, 96)))
    y = P.dot(x, w)
    asked = []
    for result, inputs in ((y, [x, w]), (P.add(y, r), [x, w, r])):
        lowered = lower(program_of(inputs, [result]), CpuBackend(HOST))
        steps = [s for s in lowered.steps if "matmul" in getattr(s, "label", "")]
        asked.append(steps[0].kernel.source().count("call void @llvm.prefetch"))
    assert len(steps) == 1 and asked[1] > asked[0]
