"""Read and write safetensors files.

A file is an 8-byte little-endian length, a JSON header of that length that maps each name to its
dtype, shape and byte range, and the tensors' bytes, without gaps.

Source: huggingface/safetensors, README, section "Format".
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterator
from typing import IO, Any, Self

import numpy as np

from .atomic import replacing
from .dtypes import numpy_dtype

MAX_HEADER = 100_000_000
MAX_COUNT = 2**48

DTYPE_CODES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0", "complex64": "C64",
    "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
}  # fmt: skip
_NAMES = {code: name for name, code in DTYPE_CODES.items()}


class SafetensorError(ValueError):
    """A safetensors file that does not keep to the format; the message names the tensor."""


def save_file(tensors: dict[str, Any], filename: Any, metadata: dict[str, str] | None = None) -> None:
    """Write named tensors to a path, whole or not at all. Views are written as what they show."""
    header, arrays = _layout(tensors, metadata)
    with replacing(filename) as file:
        file.write(header)
        for array in arrays:
            if array.nbytes:
                file.write(memoryview(array.reshape(-1).view(np.uint8)))


def save(tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> bytes:
    """Return named tensors as the bytes of a safetensors file."""
    header, arrays = _layout(tensors, metadata)
    return b"".join([header, *(array.tobytes() for array in arrays)])


def load_file(filename: Any, device: Any = "cpu") -> dict[str, Any]:
    """Read all tensors of a file, in the order of their bytes."""
    with safe_open(filename, device=device) as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def load(data: bytes) -> dict[str, Any]:
    """Return the tensors in the bytes of a safetensors file."""
    file = safe_open(io.BytesIO(data))
    return {name: file.get_tensor(name) for name in file.keys()}


class safe_open:  # a context manager, named as in the safetensors package
    """Open a safetensors file and read its tensors one at a time."""

    def __init__(self, filename: Any, framework: str = "fanal", device: Any = "cpu") -> None:
        if framework not in ("fanal", "pt", "torch", "pytorch", "numpy", "np"):
            raise SafetensorError(f"framework is 'fanal', 'pt' or 'numpy', got {framework!r}")
        self.as_numpy = framework in ("numpy", "np")
        self.device = str(device)
        self.file: IO[bytes]
        self.file = filename if hasattr(filename, "read") else open(os.fspath(filename), "rb")
        try:
            self.begin, self.tensors, self._metadata = _read_header(self.file)
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def keys(self) -> list[str]:
        """Return the tensors' names, in the order of their bytes."""
        return list(self.tensors)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def metadata(self) -> dict[str, str] | None:
        """Return the text the writer attached, None without any."""
        return self._metadata

    def get_tensor(self, name: str) -> Any:
        """Read one tensor."""
        if name not in self.tensors:
            raise SafetensorError(f"File does not contain tensor {name}")
        dtype, shape, start, stop = self.tensors[name]
        self.file.seek(self.begin + start)
        raw = np.frombuffer(bytearray(self.file.read(stop - start)), np.uint8)
        if raw.size != stop - start:
            raise SafetensorError(f"tensor {name!r}: the file ends inside its data (truncated?)")
        if dtype == "bool" and raw.size and raw.max() > 1:
            raise SafetensorError(f"tensor {name!r}: a bool is neither 0 nor 1")
        flat = raw.view(numpy_dtype(dtype))
        if self.as_numpy:
            return flat.reshape(shape)
        from .tensors import FanalAdapter, contiguous_strides

        adapter = FanalAdapter()
        return adapter.make_tensor(
            adapter.make_base(flat, self.device), 0, shape, contiguous_strides(shape), False, {}
        )


def _array(name: str, value: Any) -> tuple[str, np.ndarray]:
    """Return (dtype name, C-contiguous array) of a tensor or NumPy array."""
    if isinstance(value, np.ndarray):
        array, dtype = value, value.dtype.name
    else:
        from .tensors import Tensor, compute

        if not isinstance(value, Tensor):
            raise SafetensorError(f"tensor {name!r} is a {type(value).__name__}")
        if value._storage.meta:
            raise SafetensorError(f"tensor {name!r} is on the meta device: it has no data")
        array, dtype = compute(value), value._dtype.name
    if dtype not in DTYPE_CODES:
        raise SafetensorError(f"tensor {name!r}: the format has no code for {dtype}")
    return dtype, np.ascontiguousarray(array)


def _layout(tensors: dict[str, Any], metadata: dict[str, str] | None) -> tuple[bytes, list[np.ndarray]]:
    """Return the length, header and arrays of a file: wide types first, then by name."""
    header: dict[str, Any] = {}
    if metadata is not None:
        if not all(isinstance(part, str) for pair in metadata.items() for part in pair):
            raise SafetensorError("metadata maps text to text")
        header["__metadata__"] = dict(metadata)
    found = []
    for name, value in tensors.items():
        if not isinstance(name, str) or name == "__metadata__":
            raise SafetensorError(f"{name!r} is no name for a tensor")
        shape = tuple(int(size) for size in value.shape)
        dtype, array = _array(name, value)
        found.append((-array.dtype.itemsize, name, dtype, shape, array))
    at, arrays = 0, []
    for _, name, dtype, shape, array in sorted(found, key=lambda row: row[:2]):
        header[name] = {
            "dtype": DTYPE_CODES[dtype],
            "shape": list(shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
        arrays.append(array)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin on an 8-byte border
    if len(text) > MAX_HEADER:
        raise SafetensorError(f"the header takes {len(text)} bytes; readers accept {MAX_HEADER}")
    return len(text).to_bytes(8, "little") + text, arrays


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise SafetensorError(f"{name!r} stands twice in the header")
        found[name] = value
    return found


def _refuse_constant(text: str) -> Any:
    raise SafetensorError(f"the header holds {text}")


def _read_header(file: IO[bytes]) -> tuple[int, dict[str, tuple[str, tuple, int, int]], dict | None]:
    """Return (where data begins, name -> (dtype, shape, start, stop), metadata), all checked."""
    file.seek(0, io.SEEK_END)
    length = file.tell()
    file.seek(0)
    size = int.from_bytes(file.read(8), "little")
    if length < 8:
        raise SafetensorError(f"a file of {length} bytes has no header (truncated?)")
    if size > MAX_HEADER:
        raise SafetensorError(f"the header declares {size} bytes; at most {MAX_HEADER} are read")
    if 8 + size > length:
        raise SafetensorError(f"the header declares {size} bytes, {length - 8} follow (truncated?)")
    text = file.read(size)
    if text[:1] != b"{":
        raise SafetensorError("the header does not begin with '{'")
    try:
        header = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except SafetensorError:
        raise
    except (ValueError, RecursionError) as error:
        raise SafetensorError(f"the header is not valid JSON: {error}") from None
    metadata = header.pop("__metadata__", None)
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(part, str) for part in metadata.values())
    ):
        raise SafetensorError("metadata maps text to text")
    tensors = {name: _checked(name, row) for name, row in header.items()}
    ordered = dict(sorted(tensors.items(), key=lambda item: item[1][2:]))
    at = 0
    for name, (_, _, start, stop) in ordered.items():
        if start != at:
            fault = "overlaps the tensor before it" if start < at else f"leaves a gap of {start - at} bytes"
            raise SafetensorError(f"tensor {name!r}: its data at byte {start} {fault}")
        at = stop
    if 8 + size + at != length:
        raise SafetensorError(
            f"the tensors take {at} bytes, the file holds {length - 8 - size} "
            f"({'truncated' if 8 + size + at > length else 'trailing bytes'}; "
            f"last tensor {next(reversed(ordered), None)!r})"
        )
    return 8 + size, ordered, metadata


def _checked(name: str, row: Any) -> tuple[str, tuple, int, int]:
    if not isinstance(row, dict) or set(row) != {"dtype", "shape", "data_offsets"}:
        raise SafetensorError(f"tensor {name!r}: its entry needs dtype, shape and data_offsets")
    code, shape, offsets = row["dtype"], row["shape"], row["data_offsets"]
    if not isinstance(code, str) or code not in _NAMES:
        raise SafetensorError(f"tensor {name!r}: dtype {code!r:.40} is not one of {', '.join(_NAMES)}")
    for field, value in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(value, list) or not all(type(n) is int and 0 <= n <= MAX_COUNT for n in value):
            raise SafetensorError(f"tensor {name!r}: {field} {value!r:.60} is not a list of counts")
    if len(offsets) != 2 or len(shape) > 64:
        raise SafetensorError(f"tensor {name!r}: {len(offsets)} offsets, {len(shape)} dimensions")
    needed = math.prod(shape) * numpy_dtype(_NAMES[code]).itemsize
    if offsets[1] - offsets[0] != needed:
        raise SafetensorError(
            f"tensor {name!r}: {code} of shape {shape} takes {needed} bytes, "
            f"its offsets span {offsets[1] - offsets[0]}"
        )
    return _NAMES[code], tuple(shape), offsets[0], offsets[1]
