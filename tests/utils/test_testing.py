"""torch.testing: the same verdicts, texts and random tensors as PyTorch; finfo and iinfo."""
from __future__ import annotations

import collections
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fanal
from fanal.core.base import knobs

torch = pytest.importorskip("torch")

@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knobs, "compile", False)


Case = Callable[[Any, Any, Any], Any]  # library, its assert_close, its tensor

CASES: dict[str, Case] = {
    "equal": lambda lib, close, t: close(t([1.0, 2]), t([1.0, 2])),
    "one of three": lambda lib, close, t: close(t([1.0, 2, 3]), t([1.0, 2.1, 3])),
    "matrix": lambda lib, close, t: close(t([[1.0, 2], [3, 4]]), t([[1.0, 2.1], [3, 5]])),
    "integers": lambda lib, close, t: close(t([1, 2, 3]), t([1, 2, 4])),
    "integers, tolerant": lambda lib, close, t: close(t([1, 2, 3]), t([1, 2, 4]), rtol=0.1, atol=0.1),
    "large integers": lambda lib, close, t: close(t([1, 2]), t([1, 2**62])),
    "uint8": lambda lib, close, t: close(t([2], dtype=lib.uint8), t([250], dtype=lib.uint8)),
    "dtype": lambda lib, close, t: close(t([1.0]), t([1])),
    "dtype unchecked": lambda lib, close, t: close(t([1.0]), t([1]), check_dtype=False),
    "shape": lambda lib, close, t: close(t([1.0, 2]), t([1.0])),
    "0-d": lambda lib, close, t: close(t(1.0), t(2.0)),
    "floats": lambda lib, close, t: close(1.0, 2.0),
    "ints": lambda lib, close, t: close(1, 2),
    "int and float": lambda lib, close, t: close(1, 1.0),
    "complex numbers": lambda lib, close, t: close(1 + 2j, 1 + 3j),
    "numpy numbers": lambda lib, close, t: close(np.float64(1), np.float64(2)),
    "booleans": lambda lib, close, t: close(True, False),
    "None": lambda lib, close, t: close(None, 1),
    "strings": lambda lib, close, t: close("a", "b"),
    "sequence": lambda lib, close, t: close([t([1.0]), t([2.0])], [t([1.0]), t([3.0])]),
    "lengths": lambda lib, close, t: close([t([1.0])], [t([1.0]), t([3.0])]),
    "mapping": lambda lib, close, t: close({"a": t([1.0])}, collections.OrderedDict(a=t([2.0]))),
    "keys": lambda lib, close, t: close({"a": 1}, {"b": 1}),
    "nested": lambda lib, close, t: close({"a": [1, (t([1.0]), t(2))]}, {"a": [1, (t([1.0]), t(3))]}),
    "structure first": lambda lib, close, t: close([t(1.0), [1]], [t(2.0), [1, 2]]),
    "nan": lambda lib, close, t: close(t([float("nan"), 1]), t([float("nan"), 1])),
    "equal nan": lambda lib, close, t: close(t([float("nan")]), t([float("nan")]), equal_nan=True),
    "infinity": lambda lib, close, t: close(t([float("inf")]), t([1.0])),
    "message": lambda lib, close, t: close(t([1.0]), t([2.0]), msg="mine"),
    "message made": lambda lib, close, t: close([t([1.0])], [t([2.0])], msg=lambda m: "Head\n" + m),
    "rtol alone": lambda lib, close, t: close(t([1.0]), t([2.0]), rtol=1),
    "atol alone": lambda lib, close, t: close(1, 2, atol=1),
    "a list": lambda lib, close, t: close(t([1.0]), [2.0]),
    "arrays": lambda lib, close, t: close(np.array([1.0]), np.array([2.0])),
    "tensor and array": lambda lib, close, t: close(t([1.0]), np.array([2.0])),
    "float16": lambda lib, close, t: close(t([1.0], dtype=lib.float16), t([1.01], dtype=lib.float16)),
    "bfloat16": lambda lib, close, t: close(t([1.0], dtype=lib.bfloat16), t([1.01], dtype=lib.bfloat16)),
    "float8": lambda lib, close, t: close(*(t([1.0, x]).to(lib.float8_e5m2) for x in (2, 4))),
    "float8, tolerant": lambda lib, close, t: close(*[t([1.0]).to(lib.float8_e5m2)] * 2, rtol=1, atol=1),
    "complex": lambda lib, close, t: close(t([1.0 + 1j]), t([1.0 + 2j])),
    "bools": lambda lib, close, t: close(t([True]), t([False])),
    "strides": lambda lib, close, t: close(t([[1.0, 2]]).t(), t([[1.0], [2]]), check_stride=True),
    "device": lambda lib, close, t: close(t([1.0]), t([1.0]).to("meta")),
    "layout": lambda lib, close, t: close(lib.eye(3).to_sparse(), lib.eye(3)),
    "sparse": lambda lib, close, t: close(lib.eye(3).to_sparse(), (2 * lib.eye(3)).to_sparse()),
    "sparse rows": lambda lib, close, t: close(lib.eye(3).to_sparse_csr(), (2 * lib.eye(3)).to_sparse_csr()),
    "sparse places": lambda lib, close, t: close(t([1.0, 0]).to_sparse(), t([0, 1.0]).to_sparse()),
    "empty": lambda lib, close, t: close(t([]), t([])),
    "parameter": lambda lib, close, t: close(lib.nn.Parameter(t([1.0])), t([1.0])),
    "no subclasses": lambda lib, close, t: close(lib.nn.Parameter(t([1.0])), t([1.0]), allow_subclasses=False),
    "old form": lambda lib, close, t: lib.testing.assert_allclose(t([1.0]), t([2.0])),
}


def _verdict(lib: Any, case: Case) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case(lib, lib.testing.assert_close, lib.tensor)
    except (AssertionError, TypeError, ValueError) as e:
        return f"{type(e).__name__}: {e}".replace("fanal", "torch")
    return "close"


def test_assert_close() -> None:
    for name, case in CASES.items():
        assert _verdict(fanal, case) == _verdict(torch, case), name


@pytest.mark.parametrize("dtype", ["float32", "float16", "complex64", "int8", "uint8", "int64", "bool"])
def test_make_tensor(dtype: str) -> None:
    options: list[dict[str, Any]] = [{}, {"low": -2, "high": 5}, {"exclude_zero": True}, {"noncontiguous": True}]
    if dtype in ("float32", "float16"):
        options += [{"low": 0.5, "requires_grad": True}, {"low": -3e38, "high": 3e38}]
    for chosen in options:
        made = []
        for lib in (torch, fanal):
            lib.manual_seed(1)
            t = lib.testing.make_tensor((3, 4), dtype=getattr(lib, dtype), device="cpu", **chosen)
            made.append((repr(t), t.stride(), t.requires_grad))
        assert made[0] == made[1], chosen


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"low": 3, "high": 1}, "`low` must be less than `high`"),
        ({"low": float("nan")}, "cannot be NaN"),
        ({"low": 1e39, "high": 2e39}, "only supports"),
        ({"noncontiguous": True, "memory_format": "channels_last"}, "mutually exclusive"),
        ({"dtype": "int32", "requires_grad": True}, "not supported for boolean and integral dtypes"),
    ],
)
def test_make_tensor_refuses(options: dict, error: str) -> None:
    for lib in (torch, fanal):
        chosen = {"dtype": "float32", **options}
        chosen |= {k: getattr(lib, v) for k, v in chosen.items() if isinstance(v, str)}
        with pytest.raises(ValueError, match=error):
            lib.testing.make_tensor((2,), device="cpu", **chosen)


def test_limits() -> None:
    names = ("bits", "eps", "max", "min", "tiny", "smallest_normal", "resolution", "dtype")
    for dtype in ("float32", "float64", "float16", "bfloat16", "complex64", "float8_e5m2", "int8", "int64", "uint64", "bool"):
        for kind in ("finfo", "iinfo"):
            found = []
            for lib in (torch, fanal):
                try:
                    info = getattr(lib, kind)(getattr(lib, dtype))
                    found.append([repr(info), *(getattr(info, n, None) for n in names)])
                except TypeError as e:
                    found.append(str(e))
            assert found[0] == found[1], (dtype, kind)
