"""Element types as they are named in checkpoint files."""

from __future__ import annotations

from functools import cache

import numpy as np

# dtype name -> class that names its storage in a pickle
STORAGE_CLASS = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
}
DTYPE_OF_STORAGE = {storage: dtype for dtype, storage in STORAGE_CLASS.items()}

# Younger types have no storage class: their bytes travel as an untyped storage
# and the dtype stands beside the view.
UNTYPED = (
    "uint16", "uint32", "uint64",
    "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu",
)  # fmt: skip

DTYPES = (*STORAGE_CLASS, *UNTYPED)

# Names the format knows but NumPy with ml_dtypes has no element type for.
FOREIGN_DTYPES = (
    "complex32", "quint8", "qint8", "qint32", "quint4x2", "quint2x4", "float4_e2m1fn_x2",
    "bits8", "bits16", "bits1x8", "bits2x4", "bits4x2",
    *(f"{sign}{width}" for sign in ("uint", "int") for width in range(1, 8)),
)  # fmt: skip


@cache
def numpy_dtype(name: str) -> np.dtype:
    """Return the NumPy element type of a dtype name.

    Raises: TypeError where NumPy and ml_dtypes have no such type.
    """
    if name not in DTYPES:
        raise TypeError(f"dtype {name!r} cannot be held in memory here; known: {', '.join(DTYPES)}")
    if name == "bfloat16" or name.startswith("float8"):
        import ml_dtypes  # only checkpoints that hold such tensors pay for the import

        return np.dtype(getattr(ml_dtypes, name))
    return np.dtype(name)
