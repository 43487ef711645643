"""The Array API standard (data-apis.org, 2024.12), where PyTorch's main namespace follows it.

NumPy 2 is the standard here. Every call is made on NumPy, PyTorch and Fanal; where PyTorch gives what the standard
wants, in values, dtype and shape, Fanal must.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fanal
from fanal.core.base import knobs
from fanal.core.engine.ledger import ledger

torch = pytest.importorskip("torch")

FLOATS, COMPLEX = ("float32", "float64"), ("complex64", "complex128")
SIGNED, UNSIGNED = ("int8", "int16", "int32", "int64"), ("uint8", "uint16", "uint32", "uint64")
INTEGERS = (*SIGNED, *UNSIGNED)
REAL, NUMERIC = (*INTEGERS, *FLOATS), (*INTEGERS, *FLOATS, *COMPLEX)
ALL = ("bool", *NUMERIC)
UNARY = {
    "abs": NUMERIC, "acos": (*FLOATS, *COMPLEX), "acosh": (*FLOATS, *COMPLEX), "asin": (*FLOATS, *COMPLEX),
    "asinh": (*FLOATS, *COMPLEX), "atan": (*FLOATS, *COMPLEX), "atanh": (*FLOATS, *COMPLEX),
    "bitwise_invert": ("bool", *INTEGERS), "ceil": REAL, "conj": COMPLEX, "cos": (*FLOATS, *COMPLEX),
    "cosh": (*FLOATS, *COMPLEX), "exp": (*FLOATS, *COMPLEX), "expm1": (*FLOATS, *COMPLEX), "floor": REAL,
    "imag": COMPLEX, "isfinite": NUMERIC, "isinf": NUMERIC, "isnan": NUMERIC, "log": (*FLOATS, *COMPLEX),
    "log1p": (*FLOATS, *COMPLEX), "log2": (*FLOATS, *COMPLEX), "log10": (*FLOATS, *COMPLEX),
    "logical_not": ("bool",), "negative": NUMERIC, "positive": NUMERIC, "real": COMPLEX,
    "reciprocal": FLOATS, "round": NUMERIC, "sign": NUMERIC, "signbit": FLOATS, "sin": (*FLOATS, *COMPLEX),
    "sinh": (*FLOATS, *COMPLEX), "square": NUMERIC, "sqrt": (*FLOATS, *COMPLEX), "tan": (*FLOATS, *COMPLEX),
    "tanh": (*FLOATS, *COMPLEX), "trunc": REAL,
}  # fmt: skip
BINARY = {
    "add": NUMERIC, "atan2": FLOATS, "bitwise_and": ("bool", *INTEGERS), "bitwise_left_shift": INTEGERS,
    "bitwise_or": ("bool", *INTEGERS), "bitwise_right_shift": INTEGERS, "bitwise_xor": ("bool", *INTEGERS),
    "copysign": FLOATS, "divide": (*FLOATS, *COMPLEX), "equal": ALL, "floor_divide": REAL, "greater": REAL,
    "greater_equal": REAL, "hypot": FLOATS, "less": REAL, "less_equal": REAL, "logaddexp": FLOATS,
    "logical_and": ("bool",), "logical_or": ("bool",), "logical_xor": ("bool",), "maximum": REAL, "minimum": REAL,
    "multiply": NUMERIC, "nextafter": FLOATS, "not_equal": ALL, "pow": NUMERIC, "remainder": REAL, "subtract": NUMERIC,
}  # fmt: skip
OPERATORS = (
    "__add__ __sub__ __mul__ __truediv__ __floordiv__ __mod__ __pow__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__ "
    "__and__ __or__ __xor__ __lshift__ __rshift__ __matmul__ __radd__ __rsub__ __rmul__ __rtruediv__"
).split()
# Calls on x (2, 3) and y (3,), real: creation, manipulation, searching, sorting, statistics, sets, linear algebra.
CALLS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "all": lambda xp, x, y: xp.all(x > 0),
    "any axis": lambda xp, x, y: xp.any(x > 0, axis=1),
    "arange": lambda xp, x, y: xp.arange(1, 10, 3),
    "arange float": lambda xp, x, y: xp.arange(0.0, 1.0, 0.25, dtype=xp.float64),
    "argmax": lambda xp, x, y: xp.argmax(x),
    "argmin axis": lambda xp, x, y: xp.argmin(x, axis=1),
    "argsort": lambda xp, x, y: xp.argsort(x, axis=0, stable=True),
    "asarray": lambda xp, x, y: xp.asarray([[1, 2], [3, 4]]),
    "asarray dtype": lambda xp, x, y: xp.asarray(x, dtype=xp.float64),
    "broadcast_to": lambda xp, x, y: xp.broadcast_to(y, (4, 3)),
    "broadcast_arrays": lambda xp, x, y: xp.broadcast_tensors(x, y)[1],
    "bool": lambda xp, x, y: np.asarray([bool(x[0, 0] > 0), x.ndim == 2]),
    "clip": lambda xp, x, y: xp.clip(x, -1, 2),
    "concat": lambda xp, x, y: xp.concat([x, x], axis=0),
    "count_nonzero": lambda xp, x, y: xp.count_nonzero(x),
    "cumulative": lambda xp, x, y: xp.cumsum(x, axis=1),
    "diff": lambda xp, x, y: xp.diff(x),
    "empty_like": lambda xp, x, y: xp.empty_like(x) * 0,
    "eye": lambda xp, x, y: xp.eye(3, 4),
    "expand_dims": lambda xp, x, y: x[None, ..., None],
    "flip": lambda xp, x, y: xp.flip(x, (0,)),
    "full": lambda xp, x, y: xp.full((2, 2), 3),
    "full_like": lambda xp, x, y: xp.full_like(x, 2),
    "getitem": lambda xp, x, y: x[-1, ::2],
    "getitem mask": lambda xp, x, y: x[x > 0],
    "isin": lambda xp, x, y: xp.isin(x, y),
    "linspace": lambda xp, x, y: xp.linspace(0.0, 1.0, 5),
    "matmul": lambda xp, x, y: xp.matmul(x, x.T),
    "matmul vector": lambda xp, x, y: x @ y,
    "max": lambda xp, x, y: xp.max(x),
    "mean": lambda xp, x, y: xp.mean(x, axis=0),
    "meshgrid": lambda xp, x, y: xp.meshgrid(y, y, indexing="ij")[0],
    "min": lambda xp, x, y: xp.min(x),
    "moveaxis": lambda xp, x, y: xp.moveaxis(x, 0, -1),
    "nonzero": lambda xp, x, y: x.nonzero(),
    "ones": lambda xp, x, y: xp.ones((2, 3)),
    "prod": lambda xp, x, y: xp.prod(x),
    "prod axis": lambda xp, x, y: xp.prod(x, axis=1),
    "repeat": lambda xp, x, y: xp.tile(y, (2,)),
    "reshape": lambda xp, x, y: xp.reshape(x, (3, 2)),
    "roll": lambda xp, x, y: xp.roll(x, 1, 0),
    "searchsorted": lambda xp, x, y: xp.searchsorted(xp.asarray([1, 2, 3]), xp.asarray([0, 2, 5])),
    "squeeze": lambda xp, x, y: xp.squeeze(x[None], 0),
    "stack": lambda xp, x, y: xp.stack((x, x), axis=1),
    "std": lambda xp, x, y: xp.std(x, correction=1),
    "sum": lambda xp, x, y: xp.sum(x),
    "sum axes": lambda xp, x, y: xp.sum(x, axis=(0, 1)),
    "sum keepdims": lambda xp, x, y: xp.sum(x, axis=1, keepdims=True),
    "sum dtype": lambda xp, x, y: xp.sum(x, dtype=xp.float64),
    "sum empty": lambda xp, x, y: xp.sum(x[:0]),
    "take": lambda xp, x, y: xp.take_along_dim(x, xp.asarray([[0], [1]]), 1) if xp is not np else
        np.take_along_axis(x, np.asarray([[0], [1]]), 1),
    "tensordot": lambda xp, x, y: xp.tensordot(x, y, ([1], [0])),
    "transpose": lambda xp, x, y: x.T,
    "mT": lambda xp, x, y: x.mT,
    "tril": lambda xp, x, y: xp.tril(x),
    "triu": lambda xp, x, y: xp.triu(x, 1),
    "unstack": lambda xp, x, y: x[0],
    "var": lambda xp, x, y: xp.var(x, axis=0, correction=0),
    "vdot": lambda xp, x, y: xp.vdot(y, y),
    "where": lambda xp, x, y: xp.where(x > 0, x, y),
    "zeros": lambda xp, x, y: xp.zeros(4),
    "zeros dtype": lambda xp, x, y: xp.zeros((2,), dtype=xp.int32),
    "linalg.cross": lambda xp, x, y: xp.linalg.cross(x, x[::1] * 2 + 1, axis=-1),
    "linalg.det": lambda xp, x, y: xp.linalg.det(x[:, :2]),
    "linalg.diagonal": lambda xp, x, y: xp.linalg.diagonal(x),
    "linalg.inv": lambda xp, x, y: xp.linalg.inv(x[:, :2]),
    "linalg.matrix_norm": lambda xp, x, y: xp.linalg.matrix_norm(x),
    "linalg.matrix_power": lambda xp, x, y: xp.linalg.matrix_power(x[:, :2], 3),
    "linalg.vector_norm": lambda xp, x, y: xp.linalg.vector_norm(x, axis=1),
    "linalg.vecdot": lambda xp, x, y: xp.linalg.vecdot(x, y),
    "linalg.solve": lambda xp, x, y: xp.linalg.solve(x[:, :2], x),
    "linalg.svdvals": lambda xp, x, y: xp.linalg.svdvals(x),
    "fft.fft": lambda xp, x, y: xp.fft.fft(x),
    "fft.rfft": lambda xp, x, y: xp.fft.rfft(x, n=4),
    "fft.irfft": lambda xp, x, y: xp.fft.irfft(xp.fft.rfft(x)),
    "fft.fftfreq": lambda xp, x, y: xp.fft.fftfreq(6),
    "fft.fftshift": lambda xp, x, y: xp.fft.fftshift(x),
    "result_type": lambda xp, x, y: xp.zeros(1, dtype=xp.result_type(x, y)),
    "can_cast": lambda xp, x, y: np.asarray(xp.can_cast(xp.int32, xp.float64)),
    "finfo": lambda xp, x, y: np.asarray([float(xp.finfo(xp.float32).eps), float(xp.finfo(xp.float64).max)]),
    "iinfo": lambda xp, x, y: np.asarray([xp.iinfo(xp.int16).max, xp.iinfo(xp.int16).min]),
    "constants": lambda xp, x, y: np.asarray([xp.pi, xp.e, xp.inf, xp.newaxis is None]),
    "scalar float": lambda xp, x, y: x + 1.5,
    "scalar int": lambda xp, x, y: 2 - x,
    "in place": lambda xp, x, y: x.__iadd__(1),
    "setitem": lambda xp, x, y: (x.__setitem__((0, slice(1, None)), 7), x)[1],
    "item": lambda xp, x, y: np.asarray([float(x[0, 0]), complex(x[0, 0]).real]),
    "index": lambda xp, x, y: np.asarray([1, 2, 3][xp.asarray(1)]),
    "size": lambda xp, x, y: np.asarray([len(x), *x.shape]),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knobs, "compile", False)


def _operand(dtype: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.integers(0, 2, (2, 3)).astype(bool)
    if dtype in INTEGERS:
        return rng.integers(-3 if dtype in SIGNED else 0, 6, (2, 3)).astype(dtype)
    a = rng.uniform(-0.9, 0.9, (2, 3))
    if dtype in FLOATS:
        a[0, 0] = [np.inf, np.nan, -0.0, 0.0][seed % 4]
    return (a + 1j * rng.uniform(-0.9, 0.9, (2, 3)) if dtype in COMPLEX else a).astype(dtype)


def _outcome(f: Callable[[], Any]) -> Any:
    """Return (dtype, shape, values), or None where there is no such function or it refuses."""
    try:
        with np.errstate(all="ignore"):
            found = np.asarray(f())
    except (AttributeError, TypeError, ValueError, RuntimeError, NotImplementedError, IndexError):
        return None
    return found.dtype, found.shape, found


def _same(a: Any, b: Any) -> bool:
    if a is None or b is None or a[:2] != b[:2]:
        return False
    return np.allclose(a[2], b[2], rtol=1e-5, atol=1e-6, equal_nan=True)


def _arrays(*values: np.ndarray) -> Iterator[tuple[Any, list[Any]]]:
    yield np, [v.copy() for v in values]
    yield torch, [torch.tensor(v) for v in values]
    yield fanal, [fanal.tensor(v) for v in values]


def _check(name: str, call: Callable[..., Any], *values: np.ndarray) -> int:
    """Compare one call; return whether PyTorch follows the standard in it."""
    standard, theirs, ours = (_outcome(lambda xp=xp, a=a: call(xp, *a)) for xp, a in _arrays(*values))
    if not _same(standard, theirs):
        return 0
    assert _same(standard, ours), (name, standard, ours)
    return 1


@pytest.mark.parametrize("table", [UNARY, BINARY], ids=["unary", "binary"])
def test_elementwise(table: dict[str, tuple[str, ...]]) -> None:
    followed = 0
    for name, dtypes in table.items():
        for dtype in dtypes:
            a, b = _operand(dtype, 1), _operand(dtype, 6)
            if "shift" in name:
                b = np.abs(b.astype(np.int64)).astype(dtype)
            values = (a,) if table is UNARY else (a, b)
            followed += _check(f"{name} {dtype}", lambda xp, *x, n=name: getattr(xp, n)(*x), *values)
    assert followed > 140  # else the comparison itself is broken


def test_operators_promote() -> None:
    """x + y of every two dtypes that the standard promotes, and with numbers."""
    followed = 0
    for kinds in ((*SIGNED, "uint8"), UNSIGNED, (*FLOATS, *COMPLEX)):
        for first in kinds:
            for second in kinds:
                values = _operand(first, 1), _operand(second, 2)
                followed += _check(f"{first} + {second}", lambda xp, x, y: x + y, *values)
    for operator in OPERATORS:
        for dtype in ("bool", "int32", "uint8", "float32", "complex64"):
            a, b = _operand(dtype, 1), _operand(dtype, 2)
            if operator == "__matmul__":
                b = b.T
            if "shift" in operator:
                b = np.abs(b)
            followed += _check(f"{operator} {dtype}", lambda xp, x, y, o=operator: getattr(x, o)(y), a, b)
    assert followed > 100


def test_functions() -> None:
    followed = 0
    for name, call in CALLS.items():
        for dtype in ("float32", "int64"):
            x = (np.arange(6).reshape(2, 3) * 7 % 5 - 1).astype(dtype)
            y = np.asarray([3, 1, 2], dtype)
            followed += _check(f"{name} {dtype}", call, x, y)
    assert followed > 120


NAMED: dict[str, Callable[[Any, Any], Any]] = {
    "sum": lambda lib, x: lib.sum(x, axis=1, keepdims=True),
    "method": lambda lib, x: x.mean(axis=(0, 1)),
    "two outputs": lambda lib, x: lib.max(x, axis=1)[0],
    "in place": lambda lib, x: x.clone().cumsum_(axis=0),
    "joined": lambda lib, x: lib.stack([x, x], axis=1),
    "elementwise": lambda lib, x: lib.add(x1=x, x2=lib.exp(a=x)),
    "linalg": lambda lib, x: lib.linalg.vector_norm(x, axis=0),
    "own name": lambda lib, x: lib.trapezoid(x, x=x),
    "twice": lambda lib, x: lib.sum(x, dim=0, axis=0),
    "functional": lambda lib, x: lib.nn.functional.softmax(x, axis=1),
}


def test_numpys_names() -> None:
    for name, call in NAMED.items():
        found = []
        for lib in (torch, fanal):
            try:
                found.append(call(lib, lib.arange(6.0).reshape(2, 3)).numpy())
            except TypeError:
                found.append(np.asarray("TypeError"))
        assert found[1].shape == found[0].shape, name
        if found[0].dtype.kind == "U":
            assert found[1] == found[0], name
        else:
            np.testing.assert_allclose(found[1], found[0], rtol=1e-6, err_msg=name)


def test_numpys_names_are_followed() -> None:
    w = fanal.ones(3, requires_grad=True)
    opt, x = fanal.optim.SGD([w], lr=0.1), fanal.arange(6.0).reshape(2, 3)
    recorded = []
    for _ in range(6):
        opt.zero_grad()
        (x * w).sum(axis=1, keepdims=True).mean(axis=0).sum().backward()
        opt.step()
        recorded.append(ledger.snapshot()["recorded"])
    assert recorded[2:] == [recorded[2]] * 4
