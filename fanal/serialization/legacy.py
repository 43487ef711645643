"""The checkpoint format before PyTorch 1.6: five pickles in a row, then the storages.

magic number | protocol version | facts about the writer | the object | storage keys |
for each key: element count (8 bytes, little endian), elements
"""

from __future__ import annotations

import pickle
from typing import IO, Any

import numpy as np

from .dtypes import numpy_dtype
from .errors import RecordError
from .opaque import Opaque
from .outline import Structure, outline

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001


class LegacyFile:
    """A checkpoint of the old format, its storages located but not copied."""

    swapped = False  # storages were always written little endian; so is every machine this runs on

    def __init__(self, file: IO[bytes]) -> None:
        self.pickled = memoryview(file.read())
        if bytes(self.pickled[257:262]) == b"ustar":
            raise RuntimeError(
                "this checkpoint is a tar archive, written by PyTorch before 0.1.10; "
                "load and save it once with a PyTorch that reads it"
            )
        magic = self._value(0, "Invalid magic number; corrupt file?")
        if magic.value != MAGIC_NUMBER:
            raise RuntimeError("Invalid magic number; corrupt file?")
        version = self._value(magic.end, "the protocol version is unreadable; corrupt file?")
        if version.value != PROTOCOL_VERSION:
            raise RuntimeError(f"Invalid protocol version: {version.value!r:.60}")
        facts = self._value(version.end, "the facts about the writer are unreadable; corrupt file?")
        self.position = facts.end
        structure = outline(self.pickled, facts.end)
        keys = self._value(structure.end, "the list of storages is unreadable; corrupt file?")
        if not isinstance(keys.value, list) or not all(type(key) is str for key in keys.value):
            raise RuntimeError("the list of storage keys is damaged; corrupt file?")
        self.places: dict[str, tuple[int, int]] = {}  # key -> (first byte, byte count)
        self._locate(keys, structure.storages)

    def _value(self, position: int, complaint: str) -> Structure:
        try:
            found = outline(self.pickled, position)
        except (pickle.UnpicklingError, RecordError) as error:
            raise RuntimeError(f"{complaint} ({error})") from error
        if isinstance(found.value, Opaque):
            raise RuntimeError(complaint)
        return found

    def _locate(self, keys: Structure, storages: dict[str, Any]) -> None:
        at, total = keys.end, len(self.pickled)
        for key in keys.value:
            if key not in storages:
                raise RecordError("is listed, but no tensor uses it", f"storage {key}", key)
            storage_type, _ = storages[key]
            width = numpy_dtype(storage_type.dtype).itemsize if storage_type.dtype else 1
            count = int.from_bytes(self.pickled[at : at + 8], "little", signed=True)
            size = count * width
            if at + 8 > total or count < 0 or at + 8 + size > total:
                raise RecordError(
                    f"needs {size} bytes, {max(total - at - 8, 0)} are left in the file (truncated?)",
                    f"storage {key}",
                    key,
                )
            self.places[key] = (at + 8, size)
            at += 8 + size

    def size(self, key: str) -> int:
        """Return how many bytes a storage has."""
        if key not in self.places:
            raise RecordError("is missing from the file", f"storage {key}", key)
        return self.places[key][1]

    def read(self, key: str) -> np.ndarray:
        """Return a storage's bytes (uint8, writable)."""
        begin, size = self.places[key]
        return np.frombuffer(bytearray(self.pickled[begin : begin + size]), np.uint8)
