"""assert_close: are two results the same up to rounding, and where are they not?"""

from __future__ import annotations

import cmath
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import fanal
from fanal import Tensor

# dtype -> rtol, atol; others must be equal.
_TOLERANCES = {
    fanal.float16: (1e-3, 1e-5),
    fanal.bfloat16: (1.6e-2, 1e-5),
    fanal.float32: (1.3e-6, 1e-5),
    fanal.float64: (1e-7, 1e-7),
    fanal.complex32: (1e-3, 1e-5),
    fanal.complex64: (1.3e-6, 1e-5),
    fanal.complex128: (1e-7, 1e-7),
}
_DTYPE_OF_NUMBER = {int: fanal.int64, float: fanal.float64, complex: fanal.complex128}
_NUMBERS = (int, float, complex, np.number)
_SPARSE = {fanal.sparse_coo: "COO", fanal.sparse_csr: "CSR"}

Where = tuple[Any, ...]


def _plain(x: Any) -> Any:
    """Return a NumPy scalar as the Python number it is."""
    return x.item() if isinstance(x, np.generic) else x


@dataclass(frozen=True)
class _Comparison:
    """The options of a comparison."""

    allow_subclasses: bool = True
    rtol: float | None = None
    atol: float | None = None
    equal_nan: bool = False
    check_device: bool = True
    check_dtype: bool = True
    check_layout: bool = True
    check_stride: bool = False
    msg: str | Callable[[str], str] | None = None

    def fail(self, kind: type[Exception], text: str, where: Where) -> Any:
        """Raise, with the place inside a container, or the user's message."""
        if isinstance(self.msg, str):
            raise kind(self.msg)
        if where:
            text += f"\n\nThe failure occurred for item {''.join(str([k]) for k in where)}"
        raise kind(self.msg(text) if self.msg is not None else text)

    def need_both_tolerances(self, where: Where) -> None:
        if (self.rtol is None) != (self.atol is None):
            missing = "rtol" if self.rtol is None else "atol"
            text = f"Both 'rtol' and 'atol' must be either specified or omitted, but got no {missing}."
            self.fail(ValueError, text, where)

    def tolerances(self, *dtypes: Any) -> tuple[float, float]:
        if self.rtol is not None and self.atol is not None:
            return self.rtol, self.atol
        found = [_TOLERANCES.get(d, (0.0, 0.0)) for d in dtypes]
        return max(r for r, _ in found), max(a for _, a in found)

    # Containers.

    def pairs(self, a: Any, b: Any, where: Where = ()) -> list[tuple[Callable, Any, Any, Where]]:
        """Return what is to be compared, with the function that does it. Structure is checked here, before values."""
        sequences = (isinstance(x, Sequence) and not isinstance(x, str) for x in (a, b))
        if all(sequences):
            if len(a) != len(b):
                self.fail(
                    AssertionError, f"The length of the sequences mismatch: {len(a)} != {len(b)}", where
                )
            return [p for k, (x, y) in enumerate(zip(a, b)) for p in self.pairs(x, y, (*where, k))]
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            missing, additional = set(b) - set(a), set(a) - set(b)
            if missing or additional:
                self.fail(
                    AssertionError,
                    "The keys of the mappings do not match:\n"
                    f"Missing keys in the actual mapping: {sorted(missing)}\n"
                    f"Additional keys in the actual mapping: {sorted(additional)}",
                    where,
                )
            keys = list(a)
            with contextlib.suppress(TypeError):  # keys of several types have no order
                keys.sort()
            return [p for k in keys for p in self.pairs(a[k], b[k], (*where, k))]
        return [self.leaf(a, b, where)]

    def leaf(self, a: Any, b: Any, where: Where) -> tuple[Callable, Any, Any, Where]:
        if a is None or b is None:
            return self.nones, a, b, where
        if all(isinstance(x, (bool, np.bool_)) for x in (a, b)):
            return self.booleans, _plain(a), _plain(b), where
        if all(isinstance(x, _NUMBERS) and not isinstance(x, bool) for x in (a, b)):
            self.need_both_tolerances(where)
            return self.numbers, _plain(a), _plain(b), where
        tensors = self.as_tensors(a, b)
        if tensors is None:
            text = f"No comparison pair was able to handle inputs of type {type(a)} and {type(b)}."
            self.fail(TypeError, text, where)
        self.need_both_tolerances(where)
        return self.tensors, *tensors, where

    def as_tensors(self, a: Any, b: Any) -> tuple[Any, Any] | None:
        """Return two tensors, or what becomes tensors; None for anything else."""
        if not self.allow_subclasses and type(a) is not type(b):
            return None
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return a, b
        if not (isinstance(a, type(b)) or isinstance(b, type(a))):
            return None
        try:
            return fanal.as_tensor(a), fanal.as_tensor(b)
        except (TypeError, ValueError, RuntimeError):
            return None

    # Values.

    def nones(self, a: Any, b: Any, where: Where) -> None:
        if a is not b:
            self.fail(AssertionError, f"None mismatch: {a} is not {b}", where)

    def booleans(self, a: Any, b: Any, where: Where) -> None:
        if a is not b:
            self.fail(AssertionError, f"Booleans mismatch: {a} is not {b}", where)

    def numbers(self, a: Any, b: Any, where: Where) -> None:
        if self.check_dtype and type(a) is not type(b):
            self.fail(AssertionError, f"The (d)types do not match: {type(a)} != {type(b)}.", where)
        rtol, atol = self.tolerances(*(_DTYPE_OF_NUMBER[type(x)] for x in (a, b)))
        if a == b or (self.equal_nan and cmath.isnan(a) and cmath.isnan(b)):
            return
        apart = abs(a - b)
        if not (cmath.isfinite(apart) and apart <= atol + rtol * abs(b)):
            self.fail(AssertionError, _scalars("Scalars", a, b, rtol, atol), where)

    def tensors(self, a: Tensor, b: Tensor, where: Where) -> None:
        def same(name: str, x: Any, y: Any) -> None:
            if x != y:
                text = f"The values for attribute '{name}' do not match: {x} != {y}."
                self.fail(AssertionError, text, where)

        same("shape", a.shape, b.shape)
        if self.check_layout:
            same("layout", a.layout, b.layout)
        if self.check_stride and a.layout == b.layout == fanal.strided:
            same("stride()", a.stride(), b.stride())
        if self.check_device:
            same("device", a.device, b.device)
        if self.check_dtype:
            same("dtype", a.dtype, b.dtype)
        if "meta" in (a.device.type, b.device.type):
            return
        rtol, atol = self.tolerances(a.dtype, b.dtype)
        if a.layout != b.layout:
            a, b = (x.to_dense() if x.layout in _SPARSE else x for x in (a, b))
        wide = fanal.promote_types(a.dtype, b.dtype)
        a, b = (x.detach() if x.dtype is wide else x.detach().to(wide) for x in (a, b))
        if a.layout is fanal.strided:
            self.values("Tensor-likes", a, b, rtol, atol, where)
        else:
            self.sparse(a, b, rtol, atol, where)

    def sparse(self, a: Tensor, b: Tensor, rtol: float, atol: float, where: Where) -> None:
        name = f"Sparse {_SPARSE[a.layout]}"
        if a.layout is fanal.sparse_coo:
            a, b = a.coalesce(), b.coalesce()
            places = ("indices",)
            if a.sparse_dim() != b.sparse_dim():
                text = "The number of sparse dimensions in sparse COO tensors does not match"
                self.fail(AssertionError, f"{text}: {a.sparse_dim()} != {b.sparse_dim()}", where)
        else:
            places = ("crow_indices", "col_indices")
        if a._nnz() != b._nnz():
            text = f"The number of specified values in {name.replace('S', 's', 1)} tensors does not match"
            self.fail(AssertionError, f"{text}: {a._nnz()} != {b._nnz()}", where)
        for place in places:
            self.values(f"{name} {place}", getattr(a, place)(), getattr(b, place)(), 0, 0, where)
        self.values(f"{name} values", a.values(), b.values(), rtol, atol, where)

    def values(self, name: str, a: Tensor, b: Tensor, rtol: float, atol: float, where: Where) -> None:
        small = a.dtype.is_floating_point and a.dtype.itemsize == 1
        if small:
            if rtol or atol:
                text = (
                    f"Rtol={rtol} and atol={atol} are not supported for bitwise comparison of low dimensional "
                    "floats. Please use rtol=0.0 and atol=0.0."
                )
                self.fail(AssertionError, text, where)
            a, b = a.float(), b.float()
        matches = fanal.isclose(a, b, rtol=rtol, atol=atol, equal_nan=self.equal_nan)
        if matches.all():
            return
        if not a.shape:
            what = "Scalars" if name == "Tensor-likes" else name
            text = _scalars(what, a.item(), b.item(), rtol, atol)
        else:
            text = _places(name, a, b, matches, rtol, atol, small)
        self.fail(AssertionError, text, where)


def _difference(title: str, found: Any, allowed: float, exact: bool) -> str:
    return f"{title}: {found}" + ("" if exact else f" (up to {allowed} allowed)")


def _head(name: str, exact: bool) -> str:
    return f"{name} are not {'equal' if exact else 'close'}!\n\n"


def _scalars(name: str, a: Any, b: Any, rtol: float, atol: float) -> str:
    exact = rtol == 0 and atol == 0
    apart = abs(a - b)
    relative = float("inf") if b == 0 else apart / abs(b)
    return (
        f"{_head(name, exact)}Expected {b} but got {a}.\n"
        f"{_difference('Absolute difference', apart, atol, exact)}\n"
        f"{_difference('Relative difference', relative, rtol, exact)}"
    )


def _places(name: str, a: Tensor, b: Tensor, matches: Tensor, rtol: float, atol: float, small: bool) -> str:
    """Tell how many elements differ, and where most."""
    exact = rtol == 0 and atol == 0
    count, total = int((~matches).sum()), matches.numel()
    share = f"Mismatched elements: {count} / {total} ({count / total:.1%})\n"
    if small:
        first = tuple((~matches).nonzero()[0].tolist())
        return f"{name} are not 'equal'!\n\n{share}The first mismatched element is at index {first}."
    if not (a.dtype.is_floating_point or a.dtype.is_complex):
        a, b = a.to(fanal.int64), b.to(fanal.int64)
    apart = (a - b).abs().masked_fill(matches, 0)
    relative = (apart / b.abs()).masked_fill(matches, 0)
    lines = []
    for kind, values, allowed in (("absolute", apart, atol), ("relative", relative, rtol)):
        most, at = values.flatten().max(0)
        index = tuple(int(i) for i in np.unravel_index(int(at), matches.shape))
        title = f"Greatest {kind} difference"
        lines.append(_difference(title, f"{most.item()} at index {index}", allowed, exact))
    return _head(name, exact) + share + "\n".join(lines)


def assert_close(
    actual: Any,
    expected: Any,
    *,
    allow_subclasses: bool = True,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = False,
    check_device: bool = True,
    check_dtype: bool = True,
    check_layout: bool = True,
    check_stride: bool = False,
    msg: str | Callable[[str], str] | None = None,
) -> None:
    """Raise AssertionError unless |actual - expected| <= atol + rtol * |expected|, element by element.

    Takes tensors, what becomes one, numbers, None, and sequences and mappings of them. Default tolerances depend on the
    dtype. Raises: TypeError for what cannot be compared; ValueError for one tolerance without the other.
    """
    comparison = _Comparison(
        allow_subclasses, rtol, atol, equal_nan, check_device, check_dtype, check_layout, check_stride, msg
    )
    for compare, a, b, where in comparison.pairs(actual, expected):
        compare(a, b, where)


_OLD_TOLERANCES = {fanal.float16: (1e-3, 1e-3), fanal.float32: (1e-4, 1e-5), fanal.float64: (1e-5, 1e-8)}


def assert_allclose(
    actual: Any,
    expected: Any,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = True,
    msg: str = "",
) -> None:
    """Raise AssertionError unless the values are close; dtypes may differ. assert_close has taken its place."""
    actual, expected = (x if isinstance(x, Tensor) else fanal.tensor(x) for x in (actual, expected))
    if rtol is None and atol is None:
        found = [_OLD_TOLERANCES.get(x.dtype, (0.0, 0.0)) for x in (actual, expected)]
        rtol, atol = max(r for r, _ in found), max(a for _, a in found)
    assert_close(
        actual, expected, rtol=rtol, atol=atol, equal_nan=equal_nan, check_dtype=False, msg=msg or None
    )
