"""Compiling and loading kernels."""
from __future__ import annotations

import ctypes
import math
import threading

import numpy as np
import pytest
from kernels import affine

from fanal.core.backends.contract import Kernel
from fanal.core.backends.cpu import cache, elf, jit

SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


@pytest.fixture(autouse=True)
def no_disk(monkeypatch, tmp_path):
    """Keep the tests' kernels out of the user's cache."""
    monkeypatch.setattr(cache, "objects", lambda key: cache.Store(tmp_path, key, 1 << 20, enabled=False))


def call(address: int, x: np.ndarray) -> np.ndarray:
    y = np.empty_like(x)
    args = np.array([x.ctypes.data, y.ctypes.data], np.int64)
    SIGNATURE(address)(args.ctypes.data, 0, x.size, None)
    return y


def module(name: str, body: str, head: str = "") -> Kernel:
    signature = f"define void @{name}(ptr %args, i64 %lo, i64 %hi, ptr %scratch)"
    text = f"{head}\n{signature} {{\n{body}\n  ret void\n}}"
    return Kernel(name, lambda: text)


def test_compiles_once():
    kernels = [affine(f"k_once{i}", i) for i in range(5)]
    before = jit.compiled
    first = jit.compile_many(kernels)
    assert jit.compiled == before + 5
    assert jit.compile_many(kernels[::-1]) == first
    assert jit.compiled == before + 5
    x = np.arange(7, dtype=np.float32)
    for i, kernel in enumerate(kernels):
        np.testing.assert_array_equal(call(first[kernel.name], x), x * i + 1)


@pytest.mark.parametrize("own_loader", [True, False])
def test_constants_and_library_calls(own_loader, monkeypatch):
    """Constants need relocations into read-only data, library functions a jump further than 2 GB."""
    if own_loader and not elf.SUPPORTED:
        pytest.skip("objects of this platform are loaded through LLVM")
    monkeypatch.setattr(elf, "SUPPORTED", own_loader)
    name = f"k_calls{own_loader:d}"
    kernel = module(name, """
  %x = load ptr, ptr %args
  %yp = getelementptr i8, ptr %args, i64 8
  %y = load ptr, ptr %yp
  %v = load <8 x float>, ptr %x, align 4
  %w = fadd <8 x float> %v, <float 1.0, float 2.0, float 3.0, float 4.0,
                             float 5.0, float 6.0, float 7.0, float 8.0>
  store <8 x float> %w, ptr %y, align 4
  %s = extractelement <8 x float> %w, i64 0
  %e = call float @llvm.exp.f32(float %s)
  store float %e, ptr %y
  %t = getelementptr i8, ptr %y, i64 4
  %n = mul i64 %hi, 4
  %k = load float, ptr @half
  store float %k, ptr %t""", "declare float @llvm.exp.f32(float)\n@half = private constant float 0.5")
    y = call(jit.compile_many([kernel])[name], np.zeros(8, np.float32))
    np.testing.assert_array_equal(y, np.array([math.exp(1), 0.5, 3, 4, 5, 6, 7, 8], np.float32))


def test_no_contraction():
    """A product and a sum are rounded twice, whatever the machine can fuse."""
    name = "k_contract"
    address = jit.compile_many([affine(name, 1 + 2.0 ** -12, -1.0)])[name]
    x = np.full(4, 1 - 2.0 ** -12, np.float32)
    product = np.float32(x[0] * np.float32(1 + 2.0 ** -12))
    np.testing.assert_array_equal(call(address, x), np.full(4, product - 1))


def test_errors_name_the_kernel():
    with pytest.raises(RuntimeError, match="k_bad"):
        jit.compile_many([module("k_bad", "  %x = add i64 %lo, %nothing")])
    with pytest.raises(RuntimeError, match="k_other"):
        jit.compile_many([Kernel("k_other", lambda: "define void @k_else() {\n ret void\n}")])
    with pytest.raises(LookupError, match="no_such_function"):
        jit.compile_many([module("k_lost", "  call void @no_such_function()",
                                 "declare void @no_such_function()")])
    good = affine("k_good")
    assert jit.compile_many([good])["k_good"]


def test_writable_data_goes_through_llvm():
    kernel = module("k_state", "  %v = load i64, ptr @n\n  %w = add i64 %v, 1\n  store i64 %w, ptr @n\n"
                    "  %y = load ptr, ptr %args\n  store i64 %w, ptr %y", "@n = global i64 40")
    y = np.zeros(1, np.int64)
    args = np.array([y.ctypes.data], np.int64)
    run = SIGNATURE(jit.compile_many([kernel])["k_state"])
    run(args.ctypes.data, 0, 1, None)
    run(args.ctypes.data, 0, 1, None)
    assert y[0] == 42


@pytest.mark.skipif(not elf.SUPPORTED, reason="another object format")
def test_damaged_objects_are_refused():
    data = jit._emit_all([affine("k_damage")], jit.host_target())["k_damage"]
    with pytest.raises(elf.Unsupported):
        elf.load([data[:100]], jit._resolve)
    with pytest.raises(elf.Unsupported):
        elf.load([b"\x7fELF" + bytes(200)], jit._resolve)


def test_threads_compile_at_once():
    kernels = [affine(f"k_race{i}", i) for i in range(6)]
    found: list[dict[str, int]] = []
    workers = [threading.Thread(target=lambda: found.append(jit.compile_many(kernels))) for _ in range(4)]
    before = jit.compiled
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert jit.compiled == before + 6
    assert len(found) == 4 and all(item == found[0] for item in found)


def test_memory_stays_flat():
    """A kernel keeps its machine code, not its module: well under 20 kB."""

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    try:
        resident()
    except OSError:
        pytest.skip("no /proc")

    def batch(n: int) -> None:
        jit.compile_many([affine(f"k_flat{n}_{i}", i) for i in range(20)])

    batch(0)
    start = resident()
    for n in range(1, 11):
        batch(n)
    assert resident() - start < 200 * 20_000
