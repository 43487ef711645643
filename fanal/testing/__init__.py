"""Comparing results: assert_close and make_tensor."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.device import device as _device
from fanal.core.base.missing import finder
from fanal.core.tensor.tensor import Tensor, compute, strides_of

_DEFAULTS = {
    "float16": (1e-3, 1e-5),
    "bfloat16": (1.6e-2, 1e-5),
    "float32": (1.3e-6, 1e-5),
    "float64": (1e-7, 1e-7),
    "complex32": (1e-3, 1e-5),
    "complex64": (1.3e-6, 1e-5),
    "complex128": (1e-7, 1e-7),
}


def _tolerances(dtypes: Sequence[Any], rtol: float | None, atol: float | None) -> tuple[float, float]:
    if (rtol is None) != (atol is None):
        raise ValueError(
            "Both 'rtol' and 'atol' must be either specified or unspecified, but got no "
            f"{'rtol' if rtol is None else 'atol'}."
        )
    if rtol is not None and atol is not None:
        return rtol, atol
    pairs = [_DEFAULTS.get(d.name, (0.0, 0.0)) for d in dtypes]
    return max(p[0] for p in pairs), max(p[1] for p in pairs)


class _Case:
    """One comparison and its options."""

    def __init__(
        self,
        allow_subclasses: bool,
        rtol: float | None,
        atol: float | None,
        equal_nan: bool,
        check_device: bool,
        check_dtype: bool,
        check_layout: bool,
        check_stride: bool,
        msg: Any,
    ) -> None:
        self.allow_subclasses, self.rtol, self.atol, self.equal_nan = allow_subclasses, rtol, atol, equal_nan
        self.check_device, self.check_dtype, self.check_stride, self.msg = (
            check_device,
            check_dtype,
            check_stride,
            msg,
        )

    def fail(self, text: str, where: str) -> None:
        if where:
            text += f"\n\nThe failure occurred for item {where}"
        if self.msg is not None:
            text = self.msg(text) if callable(self.msg) else self.msg
        raise AssertionError(text)

    def compare(self, a: Any, b: Any, where: str = "") -> None:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            self.tensors(a, b, where)
        elif isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            import fanal

            self.tensors(
                fanal.from_numpy(np.ascontiguousarray(a)), fanal.from_numpy(np.ascontiguousarray(b)), where
            )
        elif a is None or b is None:
            if a is not b:
                self.fail(f"None mismatch: {a} is not {b}", where)
        elif isinstance(a, (bool, int, float, complex)) and isinstance(b, (bool, int, float, complex)):
            self.numbers(a, b, where)
        elif isinstance(a, Mapping) and isinstance(b, Mapping):
            if set(a) != set(b):
                self.fail(
                    "The keys of the mappings do not match:\nMissing keys in the actual mapping: "
                    f"{sorted(set(b) - set(a), key=str)}\nMissing keys in the expected mapping: "
                    f"{sorted(set(a) - set(b), key=str)}",
                    where,
                )
            for k in a:
                self.compare(a[k], b[k], f"{where}[{k!r}]")
        elif (
            isinstance(a, Sequence)
            and isinstance(b, Sequence)
            and not isinstance(a, str)
            and not isinstance(b, str)
        ):
            if len(a) != len(b):
                self.fail(f"The length of the sequences mismatch: {len(a)} != {len(b)}", where)
            for k, (x, y) in enumerate(zip(a, b)):
                self.compare(x, y, f"{where}[{k}]")
        elif isinstance(a, Tensor) or isinstance(b, Tensor):
            self.mixed(a, b, where)
        else:
            raise TypeError(f"No comparison pair was able to handle inputs of type {type(a)} and {type(b)}.")

    def mixed(self, a: Any, b: Any, where: str) -> None:
        raise TypeError(
            f"No comparison pair was able to handle inputs of type {type(a)} and {type(b)}."
            if not isinstance(a, (int, float, complex, np.ndarray))
            and not isinstance(b, (int, float, complex, np.ndarray))
            else f"A tensor is compared with {type(a if not isinstance(a, Tensor) else b)}: make both tensors"
        )

    def numbers(self, a: Any, b: Any, where: str) -> None:
        if isinstance(a, bool) and isinstance(b, bool):
            if a is not b:
                self.fail(f"Booleans mismatch: {a} is not {b}", where)
            return
        if self.check_dtype and type(a) is not type(b):
            self.fail(f"The (d)types do not match: {type(a)} != {type(b)}.", where)
        kinds = {int: dt.int64, float: dt.float64, complex: dt.complex128, bool: dt.bool_}
        rtol, atol = _tolerances([kinds[type(a)], kinds[type(b)]], self.rtol, self.atol)
        x, y = complex(a), complex(b)
        if x == y or (self.equal_nan and cmath.isnan(x) and cmath.isnan(y)):
            return
        off = abs(x - y)
        if math.isfinite(off) and off <= atol + rtol * abs(y):
            return
        self.fail(
            f"Scalars are not {'equal' if rtol == atol == 0 else 'close'}!\n\nExpected {b} but got {a}.\n"
            f"Absolute difference: {off} (up to {atol} allowed)\nRelative difference: "
            f"{off / abs(y) if y else math.inf} (up to {rtol} allowed)",
            where,
        )

    def tensors(self, a: Any, b: Any, where: str) -> None:
        if not self.allow_subclasses and type(a) is not type(b):
            raise TypeError(f"No comparison pair was able to handle inputs of type {type(a)} and {type(b)}.")
        if a.shape != b.shape:
            self.fail(f"The values for attribute 'shape' do not match: {a.shape} != {b.shape}.", where)
        if self.check_device and a.device != b.device:
            self.fail(f"The values for attribute 'device' do not match: {a.device} != {b.device}.", where)
        if self.check_dtype and a.dtype is not b.dtype:
            self.fail(f"The values for attribute 'dtype' do not match: {a.dtype} != {b.dtype}.", where)
        if self.check_stride and strides_of(a) != strides_of(b):
            self.fail(
                f"The values for attribute 'stride()' do not match: {strides_of(a)} != {strides_of(b)}.",
                where,
            )
        rtol, atol = _tolerances([a.dtype, b.dtype], self.rtol, self.atol)
        wide = dt.promote_types(a.dtype, b.dtype)
        kind = np.complex128 if wide.is_complex else np.float64 if wide.is_floating_point else wide.np
        x, y = compute(a).astype(kind), compute(b).astype(kind)
        if rtol == 0 and atol == 0:
            bad = x != y
            if self.equal_nan and wide.category >= 2:
                bad &= ~(np.isnan(x) & np.isnan(y))
        else:
            if wide.category < 2:
                x, y = x.astype(np.float64), y.astype(np.float64)
            bad = ~np.isclose(x, y, rtol=rtol, atol=atol, equal_nan=self.equal_nan)
        if not bad.any():
            return
        with np.errstate(all="ignore"):
            off = np.abs(x.astype(np.complex128 if wide.is_complex else np.float64) - y)
            relative = off / np.abs(y)
        off[~bad] = 0
        relative[~bad] = 0
        count, total = int(bad.sum()), bad.size
        text = f"Tensor-likes are not {'equal' if rtol == atol == 0 else 'close'}!\n\n"
        if total > 1:
            text += f"Mismatched elements: {count} / {total} ({count / total:.1%})\n"
            for name, values, allowed in (("absolute", off, atol), ("relative", relative, rtol)):
                at = np.unravel_index(
                    int(np.nanargmax(np.where(np.isnan(values), np.inf, values))), values.shape
                )
                text += f"Greatest {name} difference: {values[at]} at index {tuple(int(i) for i in at)}"
                text += f" (up to {allowed} allowed)\n" if rtol or atol else "\n"
        else:
            text += (
                f"Expected {y.reshape(-1)[0]} but got {x.reshape(-1)[0]}.\nAbsolute difference: "
                f"{off.reshape(-1)[0]} "
                f"(up to {atol} allowed)\nRelative difference: {relative.reshape(-1)[0]} (up to {rtol} "
                f"allowed)\n"
            )
        self.fail(text.rstrip(), where)


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

    Takes tensors, numbers, None, and sequences and mappings of them. Default tolerances depend on the dtype.
    """
    case = _Case(
        allow_subclasses, rtol, atol, equal_nan, check_device, check_dtype, check_layout, check_stride, msg
    )
    case.compare(actual, expected)


def assert_allclose(
    actual: Any,
    expected: Any,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = True,
    msg: str = "",
) -> None:
    """Raise AssertionError unless the values are close; dtypes and devices may differ."""
    import fanal

    actual, expected = (x if isinstance(x, Tensor) else fanal.tensor(x) for x in (actual, expected))
    if rtol is None and atol is None:
        rtol, atol = _tolerances([actual.dtype, expected.dtype], None, None)
    assert_close(
        actual,
        expected,
        rtol=rtol,
        atol=atol,
        equal_nan=equal_nan,
        check_device=True,
        check_dtype=False,
        check_stride=False,
        msg=msg or None,
    )


def make_tensor(
    *shape: Any,
    dtype: Any,
    device: Any = None,
    low: float | None = None,
    high: float | None = None,
    requires_grad: bool = False,
    noncontiguous: bool = False,
    exclude_zero: bool = False,
    memory_format: Any = None,
) -> Any:
    """Return a tensor of uniform random values in [low, high), by default -9 to 9, or 0 to 1 for bool."""
    import fanal

    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = tuple(shape[0])
    where = device if device is None else _device(device)
    low = (0 if dtype.name in ("bool", "uint8") else -9) if low is None else low
    high = (2 if dtype.name == "bool" else 10 if dtype.category < 2 else 9) if high is None else high
    if noncontiguous and shape:
        shape = (*shape[:-1], shape[-1] * 2)
    if dtype.category < 2:
        t = fanal.randint(int(low), int(high), shape, device=where).to(dtype)
    elif dtype.is_complex:
        t = fanal.complex(
            *(fanal.rand(shape, dtype=fanal.float64) * (high - low) + low for _ in range(2))
        ).to(dtype)
    else:
        t = (fanal.rand(shape, dtype=fanal.float64, device=where) * (high - low) + low).to(dtype)
    if noncontiguous and shape:
        t = t[..., ::2]
    if exclude_zero:
        t = fanal.where(t == 0, fanal.ones_like(t), t)
    return t.detach().requires_grad_() if requires_grad else t


__all__ = ["assert_allclose", "assert_close", "make_tensor"]

__getattr__ = finder("torch.testing")
