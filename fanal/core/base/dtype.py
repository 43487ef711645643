"""Element types: PyTorch's dtypes, their categories and the promotion lattice.

Source of the promotion rules: PyTorch documentation, "Tensor Attributes", section torch.dtype.
"""

from __future__ import annotations

import functools
import math

import ml_dtypes
import numpy as np


class dtype:
    """One element type. Instances are singletons and compare by identity."""

    __slots__ = ("name", "np", "itemsize", "is_floating_point", "is_complex", "is_signed", "category", "rank")

    def __init__(self, name: str, np_dtype: object, category: int, rank: int) -> None:
        self.name = name
        self.np = np.dtype(np_dtype)  # type: ignore[call-overload]
        self.itemsize = self.np.itemsize
        self.category = category  # 0 bool, 1 integer, 2 floating, 3 complex
        self.rank = rank  # order inside a category
        self.is_floating_point = category == 2
        self.is_complex = category == 3
        self.is_signed = category >= 2 or (category == 1 and self.np.kind == "i")

    def __repr__(self) -> str:
        return f"torch.{self.name}"

    def __reduce__(self) -> tuple:
        return (by_name, (self.name,))

    def __copy__(self) -> dtype:
        return self

    def __deepcopy__(self, memo: object) -> dtype:
        return self

    def to_real(self) -> dtype:
        """Return the real type with the precision of this one."""
        return {complex32: float16, complex64: float32, complex128: float64}.get(self, self)

    def to_complex(self) -> dtype:
        """Return the complex type with the precision of this one."""
        return self if self.is_complex else {float16: complex32, float64: complex128}.get(self, complex64)


bool_ = dtype("bool", np.bool_, 0, 0)
uint8 = dtype("uint8", np.uint8, 1, 0)
int8 = dtype("int8", np.int8, 1, 1)
uint16 = dtype("uint16", np.uint16, 1, 2)
int16 = dtype("int16", np.int16, 1, 3)
uint32 = dtype("uint32", np.uint32, 1, 4)
int32 = dtype("int32", np.int32, 1, 5)
uint64 = dtype("uint64", np.uint64, 1, 6)
int64 = dtype("int64", np.int64, 1, 7)
float8_e4m3fn = dtype("float8_e4m3fn", ml_dtypes.float8_e4m3fn, 2, 0)
float8_e5m2 = dtype("float8_e5m2", ml_dtypes.float8_e5m2, 2, 0)
float8_e4m3fnuz = dtype("float8_e4m3fnuz", ml_dtypes.float8_e4m3fnuz, 2, 0)
float8_e5m2fnuz = dtype("float8_e5m2fnuz", ml_dtypes.float8_e5m2fnuz, 2, 0)
float16 = dtype("float16", np.float16, 2, 1)
bfloat16 = dtype("bfloat16", ml_dtypes.bfloat16, 2, 1)
float32 = dtype("float32", np.float32, 2, 2)
float64 = dtype("float64", np.float64, 2, 3)
# NumPy has no complex numbers of float16: pairs in memory, computed in complex64 (`ir.row.reference`).
complex32 = dtype("complex32", [("real", np.float16), ("imag", np.float16)], 3, 1)
complex64 = dtype("complex64", np.complex64, 3, 2)
complex128 = dtype("complex128", np.complex128, 3, 3)

ALL = (
    bool_,
    uint8,
    int8,
    uint16,
    int16,
    uint32,
    int32,
    uint64,
    int64,
    float8_e4m3fn,
    float8_e5m2,
    float8_e4m3fnuz,
    float8_e5m2fnuz,
    float16,
    bfloat16,
    float32,
    float64,
    complex32,
    complex64,
    complex128,
)
_BY_NAME = {d.name: d for d in ALL}
_BY_NP = {d.np: d for d in ALL}
ALIASES = {
    "float": float32,
    "double": float64,
    "half": float16,
    "long": int64,
    "int": int32,
    "short": int16,
    "chalf": complex32,
    "cfloat": complex64,
    "cdouble": complex128,
}

# The accumulator in which sums and products of a type are carried.
ACCUMULATE = dict.fromkeys((d for d in ALL if d.category == 2 and d.rank < 2), float32)


def by_name(name: str) -> dtype:
    """Return the dtype called `name`, without the "torch." prefix."""
    return _BY_NAME[name] if name in _BY_NAME else ALIASES[name]


def from_numpy(np_dtype: object) -> dtype:
    """Return the dtype of a NumPy dtype. Raises TypeError when PyTorch has none."""
    found = _BY_NP.get(np.dtype(np_dtype))  # type: ignore[call-overload]
    if found is None:
        names = ("float64, float32, float16, complex64, complex128, int64, int32, int16, int8, uint64, uint32, uint16, "
                 "uint8, and bool")
        kind = np.dtype(np_dtype).type.__name__  # type: ignore[call-overload]
        raise TypeError(
            f"can't convert np.ndarray of type numpy.{kind}. "
            f"The only supported types are: {names}."
        )
    return found


def plain(a: np.ndarray) -> np.ndarray:
    """Return an array that NumPy can compute with: complex32 as complex64, others as they are."""
    if a.dtype != complex32.np:
        return a
    parts = np.asarray(a, order="C").reshape(-1).view(np.float16)  # as one array of numbers: ten times as fast
    return parts.astype(np.float32).view(np.complex64).reshape(a.shape)


def ordered(a: np.ndarray) -> np.ndarray:
    """Return an array that NumPy can sort: in the floats of ml_dtypes it leaves NaN, and what follows, anywhere."""
    return a if a.dtype.isbuiltin == 1 else a.astype(np.float32)


def pairs(a: np.ndarray) -> np.ndarray:
    """Return an array as complex32, each part rounded once."""
    numbers = np.asarray(a, np.result_type(a.dtype, np.complex64), order="C").reshape(-1)
    with np.errstate(all="ignore"):
        return numbers.view(numbers.real.dtype).astype(np.float16).view(complex32.np).reshape(a.shape)


_UNSIGNED = (uint16, uint32, uint64)


def promote_types(a: dtype, b: dtype) -> dtype:
    """Return the smallest dtype to which both `a` and `b` convert, as torch.promote_types."""
    if a is b:
        return a
    if a.category != b.category:
        low, high = (a, b) if a.category < b.category else (b, a)
        if high.category == 3 and low.is_floating_point:
            return promote_types(low.to_complex(), high)
        return high
    if a.category == 1:
        if a in _UNSIGNED or b in _UNSIGNED:
            raise RuntimeError(
                f"Promotion for uint16, uint32, uint64 types is not supported, "
                f"attempted to promote {_cap(a)} and {_cap(b)}"
            )
        if uint8 in (a, b) and int8 in (a, b):
            return int16
        return a if a.rank > b.rank else b
    if a.category == 2 and a.rank == b.rank == 1:  # float16 with bfloat16
        return float32
    if a.category == 2 and 0 in (a.rank, b.rank):
        if a.rank == b.rank:
            raise RuntimeError(
                f"Promotion for Float8 Types is not supported, attempted to promote {_cap(a)} and {_cap(b)}"
            )
        raise RuntimeError(
            f"Promotion for Float8 Types is not supported, attempted to promote {_cap(a)} and {_cap(b)}"
        )
    return a if a.rank > b.rank else b


_SCALAR_NAMES = {
    "bool": "Bool",
    "uint8": "Byte",
    "int8": "Char",
    "int16": "Short",
    "int32": "Int",
    "int64": "Long",
    "float16": "Half",
    "float32": "Float",
    "float64": "Double",
    "bfloat16": "BFloat16",
    "complex32": "ComplexHalf",
    "complex64": "ComplexFloat",
    "complex128": "ComplexDouble",
    "uint16": "UInt16",
    "uint32": "UInt32",
    "uint64": "UInt64",
    "float8_e4m3fn": "Float8_e4m3fn",
    "float8_e5m2": "Float8_e5m2",
    "float8_e4m3fnuz": "Float8_e4m3fnuz",
    "float8_e5m2fnuz": "Float8_e5m2fnuz",
}


def _cap(d: dtype) -> str:
    return _SCALAR_NAMES[d.name]


def scalar_name(d: dtype) -> str:
    """Return the name PyTorch's error texts use for a dtype: Float, Long, ..."""
    return _SCALAR_NAMES[d.name]


_C_NAMES = {
    "uint8": "unsigned char",
    "int8": "signed char",
    "int16": "short int",
    "int32": "int",
    "int64": "long int",
    "float16": "c10::Half",
    "bfloat16": "c10::BFloat16",
    "float32": "float",
    "float64": "double",
    "complex32": "c10::complex<c10::Half>",
    "complex64": "c10::complex<float>",
    "complex128": "c10::complex<double>",
    "uint16": "short unsigned int",
    "uint32": "unsigned int",
    "uint64": "long unsigned int",
}


def c_name(d: dtype) -> str:
    """Return the C++ type that some of PyTorch's error texts show for a dtype."""
    return f"c10::{_cap(d)}" if d.name.startswith("float8") else _C_NAMES.get(d.name, d.name)


@functools.cache
def _limits(d: dtype) -> tuple[float, float]:
    """Return the least and the largest number that has a place in a dtype of whole or real numbers."""
    if d.category == 1:
        info = np.iinfo(d.np)
        return info.min if d.is_signed else -info.max, info.max  # PyTorch lets unsigned types wrap below 0
    big = float(ml_dtypes.finfo(d.np).max)
    return -big, big


def fits(value: complex, d: dtype) -> bool:
    """Tell whether a Python number has a place in dtype `d`, as fill_ sees it."""
    if d.category in (0, 3):
        return True
    if isinstance(value, complex) and value.imag:
        return False
    value = value.real  # that a named size is below 2 ** 63 is no condition: its real part is a plain int
    low, high = _limits(d)
    return low <= value <= high or (d.category == 2 and (value != value or abs(value) == math.inf))


def check_fits(value: complex, d: dtype) -> None:
    """Raise PyTorch's RuntimeError if a Python number has no place in dtype `d`, as in fill_."""
    if not fits(value, d):
        name = f"{d.name}_t" if d.category == 1 and d.name != "int32" else c_name(d)
        raise RuntimeError(f"value cannot be converted to type {name} without overflow")


class _Default:
    """The default floating dtype, one per process as in PyTorch."""

    dtype: dtype = float32


def get_default() -> dtype:
    """Return the default floating dtype."""
    return _Default.dtype


def check_default(d: dtype) -> None:
    """Raise PyTorch's TypeError if `d` cannot be the default floating dtype."""
    if not d.is_floating_point:
        raise TypeError(f"only floating-point types are supported as the default type, got {d}")


def set_default(d: dtype) -> None:
    """Set the default floating dtype."""
    check_default(d)
    _Default.dtype = d


def of_scalar(value: object) -> dtype:
    """Return the dtype a Python number takes as a tensor of its own."""
    if isinstance(value, (bool, np.bool_)):
        return bool_
    if isinstance(value, (int, np.integer)):
        return int64
    if isinstance(value, (float, np.floating)):
        return _Default.dtype
    if isinstance(value, (complex, np.complexfloating)):
        return _Default.dtype.to_complex()
    raise TypeError(f"expected a number, got {type(value).__name__}")
