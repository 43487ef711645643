"""Save and load checkpoints in PyTorch's file formats."""

from __future__ import annotations

import io
import mmap as _mmap
import os
import pickle
import sys
import zlib
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from .adapter import Adapter
from .atomic import replacing
from .dtypes import numpy_dtype
from .errors import RecordError
from .legacy import LegacyFile
from .opaque import Opaque
from .options import LoadEndianness, get_crc32_options, get_default_load_endianness
from .outline import outline, tensor_names
from .pickler import CheckpointPickler
from .scope import CheckpointScope, StorageType, allowed_names
from .storage import LoadedStorage
from .unpickler import Unpickler
from .zipread import LOCAL_MAGIC, ZipReader
from .zipwrite import ALIGNMENT, ZipWriter

DEFAULT_PROTOCOL = 2
Restore = Callable[[LoadedStorage, str], LoadedStorage]


def save_checkpoint(adapter: Adapter, obj: Any, file: Any, protocol: int = DEFAULT_PROTOCOL) -> None:
    """Write an object to a path (atomically) or to an open binary file."""
    if isinstance(file, (str, os.PathLike)):
        # Pickle first: an object that cannot be saved must not cost even a temporary file.
        pickled, storages = _pickled(adapter, obj, protocol)
        stem = os.path.splitext(os.path.basename(os.fspath(file)))[0] or "archive"
        with replacing(file) as opened:
            _write(opened, stem, pickled, storages)
    elif callable(getattr(file, "write", None)):
        _write(file, "archive", *_pickled(adapter, obj, protocol))
        if callable(getattr(file, "flush", None)):
            file.flush()
    else:
        raise AttributeError(
            "expected 'f' to be string, path, or a file-like object with a 'write' attribute, "
            f"got {file!r:.80}"
        )


def _pickled(adapter: Adapter, obj: Any, protocol: int) -> tuple[bytes, dict[str, np.ndarray]]:
    buffer = io.BytesIO()
    pickler = CheckpointPickler(buffer, adapter, protocol)
    pickler.dump(obj)
    return buffer.getvalue(), pickler.storages


def _write(file: IO[bytes], stem: str, pickled: bytes, storages: dict[str, np.ndarray]) -> None:
    archive = ZipWriter(file, stem, get_crc32_options())
    archive.write("data.pkl", pickled)
    archive.write(".format_version", b"1")
    archive.write(".storage_alignment", str(ALIGNMENT).encode())
    archive.write("byteorder", sys.byteorder.encode())
    for key, flat in storages.items():
        archive.write(f"data/{key}", flat.view(np.uint8) if flat.size else b"")
    archive.write("version", b"3\n")
    # Forty digits that identify the contents; readers show them, none needs them.
    digest = zlib.crc32(repr(archive.checksums).encode())
    archive.write(".data/serialization_id", f"{digest:020d}{zlib.adler32(pickled):020d}".encode())
    archive.close()


def load_checkpoint(
    adapter: Adapter,
    file: Any,
    map_location: Any = None,
    weights_only: bool = True,
    mmap: bool = False,
    encoding: str = "utf-8",
) -> Any:
    """Read an object from a path or an open, seekable binary file, executing nothing."""
    restore = _restorer(adapter, map_location)
    if isinstance(file, (str, os.PathLike)):
        with open(file, "rb") as opened:
            return _load(adapter, opened, restore, weights_only, os.fspath(file) if mmap else None, encoding)
    if mmap:
        raise ValueError("f must be a file path in order to use the mmap argument")
    for method in ("read", "seek", "tell"):
        if not callable(getattr(file, method, None)):
            raise AttributeError(
                f"'{type(file).__name__}' object has no attribute '{method}'. You can only load from a file "
                "that is seekable. Please pre-load the data into a buffer like io.BytesIO and try to load "
                "from it instead."
            )
    return _load(adapter, file, restore, weights_only, None, encoding)


def _load(
    adapter: Adapter, file: IO[bytes], restore: Restore, weights_only: bool, mapped: str | None, encoding: str
) -> Any:
    begin = file.tell()
    magic = file.read(len(LOCAL_MAGIC))
    file.seek(begin)
    if not magic:
        raise EOFError("Ran out of input: the checkpoint file is empty")
    source: _ZipSource | LegacyFile
    if magic == LOCAL_MAGIC:
        source = _ZipSource(ZipReader(file, get_crc32_options()), mapped)
    elif mapped is not None:
        raise RuntimeError("mmap can only be used with zip checkpoints; this file has the format before 1.6")
    else:
        source = LegacyFile(file)
    storages: dict[str, LoadedStorage] = {}

    def fetch(storage_type: StorageType, key: str, location: str, numel: int) -> LoadedStorage:
        known = storages.get(key)
        width = numpy_dtype(storage_type.dtype).itemsize if storage_type.dtype else 1
        if known is None:
            nbytes = numel * width
            held = source.size(key)
            if held != nbytes:
                raise RecordError(
                    f"holds {held} bytes, the checkpoint declares {numel} elements of "
                    f"{storage_type.name}: {nbytes} bytes",
                    f"data/{key}",
                    key,
                )
            stub = LoadedStorage(np.empty(0, np.uint8), storage_type.dtype, key, location, nbytes)
            placed = restore(stub, location)
            raw = stub.raw if placed.device == "meta" else _native(source.read(key), source.swapped, width)
            known = LoadedStorage(raw, storage_type.dtype, key, placed.device, nbytes)
            storages[key] = known
        elif known.dtype != storage_type.dtype or known.byte_size != numel * width:
            raise RecordError("is used as two different storages", f"data/{key}", key)
        return known

    scope = CheckpointScope(adapter, fetch, weights_only)
    try:
        return Unpickler(source.pickled, scope, source.position, encoding).load()
    except RecordError as error:
        raise _named(error, source) from error


class _ZipSource:
    """The parts of a zip checkpoint the loader asks for."""

    def __init__(self, archive: ZipReader, mapped: str | None) -> None:
        self.archive = archive
        self.position = 0
        if "constants.pkl" in archive:
            raise RuntimeError(
                "this is a TorchScript archive: a program, not a checkpoint. "
                "Save the module's state_dict() and load that"
            )
        self.pickled = memoryview(archive.read("data.pkl"))
        self.swapped = self._byte_order() != sys.byteorder
        self.map: np.ndarray | None = None
        if mapped is not None:
            with open(mapped, "rb") as opened:
                # Private pages: a tensor may be written to, the file never is.
                private = _mmap.mmap(opened.fileno(), 0, access=_mmap.ACCESS_COPY)
            self.map = np.frombuffer(private, np.uint8)

    def _byte_order(self) -> str:
        if "byteorder" in self.archive:
            order = bytes(self.archive.read("byteorder")).decode("ascii", "replace")
            if order not in ("little", "big"):
                raise ValueError(f"Unknown endianness type: {order}")
            return order
        default = get_default_load_endianness()
        if default is LoadEndianness.NATIVE:
            return sys.byteorder
        return "big" if default is LoadEndianness.BIG else "little"

    def size(self, key: str) -> int:
        return self.archive.size(f"data/{key}")

    def read(self, key: str) -> np.ndarray:
        name = f"data/{key}"
        if self.map is None:
            return self.archive.read(name, key)
        begin, size = self.archive.locate(name, key)
        data = self.map[begin : begin + size]
        self.archive.verify(self.archive.entries[name], data, key)
        return data


def _native(raw: np.ndarray, swapped: bool, width: int) -> np.ndarray:
    """Return bytes in this machine's order."""
    if not swapped or width == 1:
        return raw
    return raw.reshape(-1, width)[:, ::-1].reshape(-1).copy()


def _named(error: RecordError, source: Any) -> Exception:
    """Return the error with the names of the tensors it concerns."""
    if error.key is None:
        return error
    try:
        structure = outline(source.pickled, source.position)
        names = tensor_names(structure.value, error.key)
    except (pickle.UnpicklingError, RecordError):
        names = []
    if not names:
        return error
    shown = ", ".join(repr(name) for name in names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
    what = "tensor" if len(names) == 1 else "tensors"
    return RecordError(f"{what} {shown}: {error.reason}", error.record or f"data/{error.key}", error.key)


def _restorer(adapter: Adapter, map_location: Any) -> Restore:
    """Return the function that decides on which device a storage comes back."""

    def place(storage: LoadedStorage, location: str) -> LoadedStorage:
        if not adapter.has_device(location):
            raise RuntimeError(
                f"Attempting to deserialize object on a {location} device, which is not available here. "
                "Use load with map_location='cpu' to map your storages to the CPU."
            )
        return storage.to(location)

    if map_location is None:
        return place
    if isinstance(map_location, dict):
        return lambda storage, location: place(storage, str(map_location.get(location, location)))
    if isinstance(map_location, bytes):
        map_location = map_location.decode()
    if isinstance(map_location, str) or adapter.kind(map_location) == "device":
        return lambda storage, location: place(storage, str(map_location))
    if not callable(map_location):
        raise TypeError(f"map_location is a device, a string, a dict or a function, got {map_location!r:.80}")

    def restore(storage: LoadedStorage, location: str) -> LoadedStorage:
        chosen = map_location(storage, location)
        if chosen is None:
            return place(storage, location)
        if not isinstance(chosen, LoadedStorage):
            raise TypeError(f"map_location must return the storage it was given, moved; got {chosen!r:.80}")
        return place(chosen, chosen.device)

    return restore


def unsafe_globals(adapter: Adapter, file: Any) -> list[str]:
    """Return the names in a checkpoint that ``weights_only=True`` would refuse."""
    opened = open(file, "rb") if isinstance(file, (str, os.PathLike)) else file
    try:
        begin = opened.tell()
        if opened.read(len(LOCAL_MAGIC)) != LOCAL_MAGIC:
            raise ValueError("Expected input to be a checkpoint returned by fanal.save or torch.save")
        opened.seek(begin)
        archive = ZipReader(opened, get_crc32_options())
        allowed = allowed_names(adapter)
        return [name for name in outline(memoryview(archive.read("data.pkl"))).unknown if name not in allowed]
    finally:
        if opened is not file:
            opened.close()


__all__ = ["Opaque", "load_checkpoint", "save_checkpoint", "unsafe_globals"]
