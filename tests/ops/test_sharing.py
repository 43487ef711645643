"""Memory shared with NumPy, with buffers, and through DLPack, in both directions, as PyTorch shares it."""
from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest

import fanal

torch = pytest.importorskip("torch")


def _grid(lib: Any) -> Any:
    return lib.arange(6.0).reshape(2, 3)


def _numpy(lib: Any) -> Any:
    x = _grid(lib)
    n = x.numpy()
    n[0, 0] = 9
    x[1, 1] = 7
    return x.tolist(), n.tolist()


def _asarray_then_in_place(lib: Any) -> Any:
    x = _grid(lib)
    n = np.asarray(x)
    n[0, 0] = 9
    y = x + 1
    x.mul_(2)
    return x.tolist(), n.tolist(), y.tolist()


def _strided_array(lib: Any) -> Any:
    a = np.arange(12).reshape(3, 4)[::2, 1:]
    x = lib.from_numpy(a)
    a[0, 0] = 5
    x[1] = 8
    return x.tolist(), a.tolist(), x.stride()


def _capsule(lib: Any) -> Any:
    x, dlpack = _grid(lib), import_module(lib.__name__ + ".utils.dlpack")
    y = dlpack.from_dlpack(dlpack.to_dlpack(x.t()))
    y.fill_(4)
    return x.tolist(), y.stride()


def _capsule_of_array(lib: Any) -> Any:
    a = np.zeros((2, 2), "f4")
    lib.from_dlpack(a).fill_(4)
    return a.tolist()


def _array_of_capsule(lib: Any) -> Any:
    x = _grid(lib)
    n = np.from_dlpack(x)
    x.add_(1)
    return n.tolist()


def _copy(lib: Any) -> Any:
    x = _grid(lib)
    lib.from_dlpack(x, copy=True).fill_(4)
    return x.tolist()


def _used_twice(lib: Any) -> Any:
    capsule = lib.ones(2).__dlpack__()
    return lib.from_dlpack(capsule).tolist(), lib.from_dlpack(capsule)


def _buffer(lib: Any) -> Any:
    b = bytearray(4)
    lib.frombuffer(b, dtype=lib.uint8).fill_(7)
    return bytes(b)


def _lent_memory_does_not_grow(lib: Any) -> Any:
    x = lib.zeros(3)
    n = x.numpy()
    return n.tolist(), x.resize_(5)


def _resized_alike(lib: Any) -> Any:
    """A size that is there already leaves strides, and whose memory it is."""
    x = lib.arange(6.0).reshape(2, 3)
    x.t().resize_(3, 2)[0, 1] = 7
    return x.tolist(), x.t().resize_as_(lib.ones(3, 2)).stride()


CASES: dict[str, Callable[[Any], Any]] = {
    **{f.__name__: f for f in (
        _numpy, _asarray_then_in_place, _strided_array, _capsule, _capsule_of_array, _array_of_capsule, _copy,
        _used_twice, _buffer, _lent_memory_does_not_grow,
        _resized_alike,
    )},
    "negative strides": lambda lib: lib.from_numpy(np.arange(3)[::-1]),
    "requires grad": lambda lib: lib.ones(2, requires_grad=True).numpy(),
    "requires grad, dlpack": lambda lib: lib.ones(2, requires_grad=True).__dlpack__(),
    "forced": lambda lib: lib.ones(2, requires_grad=True).numpy(force=True).tolist(),
    "numpy scalars": lambda lib: repr(np.float32(2.5) * lib.tensor([1, 2])),
    "ufunc": lambda lib: type(np.sin(_grid(lib))).__name__,
    "object array": lambda lib: lib.from_numpy(np.array([None])),
    "text": lambda lib: lib.tensor(np.array(["a"])),
    "byte order": lambda lib: lib.from_numpy(np.zeros(2, ">f4")),
    "short buffer": lambda lib: lib.frombuffer(bytearray(b"\1\2\3"), dtype=lib.int16),
    "no capsule": lambda lib: lib.from_dlpack(3),
    "device": lambda lib: str(_grid(lib).__dlpack_device__()),
    "device types": lambda lib: [(d.name, int(d)) for d in import_module(lib.__name__ + ".utils.dlpack").DLDeviceType],
    "grown": lambda lib: lib.arange(3.0).resize_(5)[:3].tolist(),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_sharing() -> None:
    for name, case in CASES.items():
        found = []
        for lib in (torch, fanal):
            try:
                found.append(str(case(lib)))
            except (RuntimeError, TypeError, ValueError, BufferError) as e:
                found.append(f"{type(e).__name__}: {e}")
        assert found[1].replace("fanal", "torch") == found[0], name


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "bfloat16", "float64", "complex64", "uint32"])
def test_between_the_libraries(dtype: str) -> None:
    """A write on one side is seen on the other, whichever side made the memory."""
    for ours in (True, False):
        maker, taker = (fanal, torch) if ours else (torch, fanal)
        x = maker.zeros(3, dtype=getattr(maker, dtype))
        y = taker.from_dlpack(x)
        assert str(y.dtype) == str(x.dtype)
        y.fill_(1)
        assert x.tolist() == y.tolist() == maker.ones(3, dtype=getattr(maker, dtype)).tolist()
