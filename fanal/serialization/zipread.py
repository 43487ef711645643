"""Read the records of a zip archive, trusting nothing it says about itself.

The standard library's reader would do for honest files. This one exists because it has to
refuse, by name, what hostile or damaged files do: overlapping or duplicate entries, sizes that
the file cannot hold, names that climb out of the archive, compression bombs, wrong checksums.

Source: PKWARE APPNOTE 6.3.10, sections 4.3 and 4.5.3.
"""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from dataclasses import dataclass
from typing import IO

import numpy as np

from .errors import RecordError

LOCAL_MAGIC = b"PK\x03\x04"
CENTRAL_MAGIC = b"PK\x01\x02"
END_MAGIC = b"PK\x05\x06"
END64_MAGIC = b"PK\x06\x06"
LOCATOR64_MAGIC = b"PK\x06\x07"

LOCAL = struct.Struct("<4s5H3I2H")
CENTRAL = struct.Struct("<4s6H3I5H2I")
END = struct.Struct("<4s4H2IH")
LOCATOR64 = struct.Struct("<4sIQI")
END64 = struct.Struct("<4sQ2H2I4Q")

STORED, DEFLATED = 0, 8
ENCRYPTED_FLAG = 0x1
UINT32_MAX = 0xFFFF_FFFF
# A record of repeated bytes deflates by up to 1032. Weights do not; what shrinks more than this
# is a bomb, or zeros that are better stored as they are.
MAX_RATIO = 100
CHUNK = 1 << 24


@dataclass(frozen=True, slots=True)
class Entry:
    """One record as the central directory describes it; offsets and sizes in bytes."""

    name: str
    method: int
    crc: int
    stored_size: int
    size: int
    header_at: int
    end_limit: int  # the next record, or the central directory, begins here


class ZipReader:
    """The records of one archive, by name without the top folder (``data.pkl``, ``data/0``)."""

    def __init__(self, file: IO[bytes], check_crc: bool = True) -> None:
        self.file = file
        self.check_crc = check_crc
        self.start = file.tell()
        file.seek(0, io.SEEK_END)
        self.length = file.tell() - self.start
        entries = self._directory()
        self.folder = _top_folder(entries)
        self.entries: dict[str, Entry] = {}
        for entry in entries:
            self.entries[entry.name[len(self.folder) + 1 :] if self.folder else entry.name] = entry

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def size(self, name: str) -> int:
        """Return how many bytes a record holds."""
        return self._entry(name).size

    def read(self, name: str, key: str | None = None) -> np.ndarray:
        """Return a record's bytes (uint8, writable) after checking its checksum."""
        entry = self._entry(name)
        begin = self._data_at(entry, key)
        self.file.seek(self.start + begin)
        if entry.method == DEFLATED:
            out = self._inflate(entry, key)
        else:
            out = np.empty(entry.size, np.uint8)
            view = memoryview(out)
            for at in range(0, entry.size, CHUNK):
                part = view[at : at + CHUNK]
                data = self.file.read(len(part))
                if len(data) != len(part):
                    raise RecordError("the file ends inside this record (truncated?)", entry.name, key)
                part[:] = data
        self.verify(entry, out, key)
        return out

    def locate(self, name: str, key: str | None = None) -> tuple[int, int]:
        """Return (first byte in the file, byte count) of a stored record, for mapping it."""
        entry = self._entry(name)
        if entry.method != STORED:
            raise RecordError("is compressed, so it cannot be memory-mapped", entry.name, key)
        return self.start + self._data_at(entry, key), entry.size

    def verify(self, entry: Entry, data: np.ndarray, key: str | None) -> None:
        """Compare the bytes of a record with its checksum."""
        if not self.check_crc:
            return
        crc = zlib.crc32(memoryview(data)) if data.size else 0
        if crc != entry.crc:
            raise RecordError(
                f"CRC32 mismatch, the bytes give {crc:08x} and the archive says {entry.crc:08x}: "
                "the data was changed after it was saved",
                entry.name,
                key,
            )

    def _entry(self, name: str) -> Entry:
        entry = self.entries.get(name)
        if entry is None:
            key = name[5:] if name.startswith("data/") else None
            raise RecordError("is missing from the archive", f"{self.folder}/{name}", key)
        return entry

    def _data_at(self, entry: Entry, key: str | None) -> int:
        """Return where a record's bytes begin, from its local header, checked against the directory."""
        header = self._bytes_at(entry.header_at, LOCAL.size, entry.name)
        magic, _, _, method, _, _, _, _, _, name_size, extra_size = LOCAL.unpack(header)
        name = self._bytes_at(entry.header_at + LOCAL.size, name_size, entry.name)
        if magic != LOCAL_MAGIC or method != entry.method or name != entry.name.encode():
            raise RecordError("its header and the archive's directory disagree", entry.name, key)
        begin = entry.header_at + LOCAL.size + name_size + extra_size
        if begin + entry.stored_size > entry.end_limit:
            raise RecordError("overlaps the record after it", entry.name, key)
        return begin

    def _inflate(self, entry: Entry, key: str | None) -> np.ndarray:
        if entry.size > MAX_RATIO * max(entry.stored_size, 64):
            raise RecordError(
                f"expands {entry.stored_size} bytes to {entry.size}, more than {MAX_RATIO} times "
                "(a zip bomb?)",
                entry.name,
                key,
            )
        packed = self.file.read(entry.stored_size)
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = inflater.decompress(packed, entry.size + 1)
        except zlib.error as error:
            raise RecordError(f"cannot be decompressed: {error}", entry.name, key) from None
        if len(data) != entry.size:
            raise RecordError(
                f"decompresses to a size other than the declared {entry.size} bytes", entry.name, key
            )
        return np.frombuffer(bytearray(data), np.uint8)

    def _bytes_at(self, at: int, size: int, record: str | None = None) -> bytes:
        self.file.seek(self.start + at)
        data = self.file.read(size) if at >= 0 else b""
        if len(data) != size:
            raise RecordError("the file ends before this part of the zip archive (truncated?)", record)
        return data

    def _directory(self) -> list[Entry]:
        count, size, at, end_at = self._end_record()
        if at + size > end_at:
            raise RecordError("the zip archive's central directory lies outside the file")
        if count * CENTRAL.size > size:
            raise RecordError(f"the zip archive declares {count} records, its directory has no room for them")
        data = self._bytes_at(at, size)
        rows, position = [], 0
        for _ in range(count):
            rows.append(_central_row(data, position))
            position += rows[-1][1]
        parsed = [row[0] for row in rows]
        order = sorted({entry[-1] for entry in parsed}) + [at]
        limits = dict(itertools.pairwise(order))
        entries: dict[str, Entry] = {}
        for name, method, crc, stored, full, header_at in parsed:
            if name in entries:
                raise RecordError("is listed twice in the archive", name)
            if header_at >= at or stored > limits[header_at] - header_at:
                raise RecordError(
                    f"declares {stored} bytes, more than the file holds or overlapping another record", name
                )
            if method == STORED and stored != full:
                raise RecordError(f"is stored, yet has two sizes: {stored} and {full} bytes", name)
            entries[name] = Entry(name, method, crc, stored, full, header_at, limits[header_at])
        headers = [entry.header_at for entry in entries.values()]
        if len(set(headers)) != len(headers):
            raise RecordError("two records of the zip archive share the same bytes")
        return list(entries.values())

    def _end_record(self) -> tuple[int, int, int, int]:
        """Return (record count, directory size, directory offset, offset of the end record)."""
        tail_size = min(self.length, END.size + 0xFFFF)
        tail = self._bytes_at(self.length - tail_size, tail_size)
        found = tail.rfind(END_MAGIC)
        if found < 0 or found + END.size > len(tail):
            raise RecordError(
                "begins like a zip archive, but failed finding central directory: "
                "the file is truncated or still being written"
            )
        end_at = self.length - tail_size + found
        _, disk, first_disk, here, count, size, at, _ = END.unpack_from(tail, found)
        if 0xFFFF in (count, here) or UINT32_MAX in (size, at):
            locator = self._bytes_at(end_at - LOCATOR64.size, LOCATOR64.size)
            magic, _, end64_at, _ = LOCATOR64.unpack(locator)
            if magic == LOCATOR64_MAGIC:
                fields = END64.unpack(self._bytes_at(end64_at, END64.size))
                if fields[0] != END64_MAGIC:
                    raise RecordError("the zip archive's 64-bit end record is damaged")
                disk, first_disk, here, count, size, at = fields[4:]
                end_at = end64_at
        if disk or first_disk or here != count:
            raise RecordError("the zip archive is split over several files")
        return count, size, at, end_at


def _central_row(data: bytes, at: int) -> tuple[tuple[str, int, int, int, int, int], int]:
    """Return (name, method, crc, stored size, size, header offset) and the row's byte count."""
    if at + CENTRAL.size > len(data):
        raise RecordError("the zip archive's central directory is cut short")
    (magic, _, _, flags, method, _, _, crc, stored, full,
     name_size, extra_size, comment_size, _, _, _, header_at) = CENTRAL.unpack_from(data, at)  # fmt: skip
    total = CENTRAL.size + name_size + extra_size + comment_size
    if magic != CENTRAL_MAGIC or at + total > len(data):
        raise RecordError("the zip archive's central directory is damaged")
    begin = at + CENTRAL.size
    try:
        name = data[begin : begin + name_size].decode()
    except UnicodeDecodeError:
        raise RecordError("the zip archive holds a name that is not UTF-8") from None
    _check_name(name)
    if flags & ENCRYPTED_FLAG:
        raise RecordError("is encrypted", name)
    if method not in (STORED, DEFLATED):
        raise RecordError(f"uses compression method {method}; only stored and deflated are read", name)
    extra = data[begin + name_size : begin + name_size + extra_size]
    wide = [value == UINT32_MAX for value in (full, stored, header_at)]
    if any(wide):
        values = iter(_zip64_values(extra, sum(wide), name))
        full, stored, header_at = (
            next(values) if is_wide else value
            for is_wide, value in zip(wide, (full, stored, header_at), strict=True)
        )
    return (name, method, crc, stored, full, header_at), total


def _zip64_values(extra: bytes, wanted: int, name: str) -> tuple[int, ...]:
    at = 0
    while at + 4 <= len(extra):
        tag, size = struct.unpack_from("<HH", extra, at)
        if tag == 1 and size >= 8 * wanted and at + 4 + size <= len(extra):
            return struct.unpack_from(f"<{wanted}Q", extra, at + 4)
        at += 4 + size
    raise RecordError("has 64-bit sizes, but the field that holds them is missing", name)


def _check_name(name: str) -> None:
    parts = name.replace("\\", "/").split("/")
    if not name or name.startswith(("/", "\\")) or ".." in parts or "\0" in name or ":" in parts[0]:
        raise RecordError("is not a name inside the archive (absolute or climbing path)", name)


def _top_folder(entries: list[Entry]) -> str:
    """Return the one folder all records lie in: the archive's name."""
    folders = {entry.name.split("/", 1)[0] if "/" in entry.name else "" for entry in entries}
    if len(folders) != 1:
        raise RecordError(f"a checkpoint's records lie in one folder; this zip has {sorted(folders)[:5]}")
    return folders.pop()
