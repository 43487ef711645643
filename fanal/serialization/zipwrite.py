"""Write the zip layout of PyTorch checkpoints: stored records, data on 64-byte borders.

Every local header is padded by an extra field so that the record's bytes begin on an aligned
offset and can be memory-mapped as tensors. Sizes and checksum follow the data, in a descriptor,
which lets the archive be written to a pipe. Readers that compute offsets instead of looking them
up rely on exactly this arithmetic.

Source: PKWARE APPNOTE 6.3.10; layout observed in files written by PyTorch 2.13.
"""

from __future__ import annotations

import struct
import zlib
from typing import IO

import numpy as np

from .zipread import (
    CENTRAL,
    CENTRAL_MAGIC,
    END,
    END64,
    END64_MAGIC,
    END_MAGIC,
    LOCAL,
    LOCAL_MAGIC,
    LOCATOR64,
    LOCATOR64_MAGIC,
    UINT32_MAX,
)

ALIGNMENT = 64
MADE_BY = 0x031E  # Unix, version 3.0: what PyTorch writes
DESCRIPTOR_MAGIC = b"PK\x07\x08"
UTF8_FLAG, DESCRIPTOR_FLAG = 0x0800, 0x0008
PADDING_TAG = b"FB"
CHUNK = 1 << 26


class ZipWriter:
    """An archive being written front to back; nothing is ever sought."""

    def __init__(self, file: IO[bytes], folder: str, compute_crc: bool = True) -> None:
        self.file = file
        self.folder = folder
        self.compute_crc = compute_crc
        self.at = 0
        self.directory: list[bytes] = []
        self.checksums: list[int] = []

    def write(self, name: str, data: bytes | np.ndarray) -> None:
        """Append one record."""
        full_name = f"{self.folder}/{name}".encode()
        view = memoryview(data).cast("B") if len(data) else memoryview(b"")
        size = view.nbytes
        crc = zlib.crc32(view) if self.compute_crc else 0
        self.checksums.append(crc)
        header_at = self.at
        flags = UTF8_FLAG | (DESCRIPTOR_FLAG if size else 0)
        extra = self._aligning_extra(len(full_name), size)
        self._put(LOCAL.pack(LOCAL_MAGIC, 0, flags, 0, 0, 0, 0, 0, 0, len(full_name), len(extra)))
        self._put(full_name + extra)
        for begin in range(0, size, CHUNK):
            self._put(view[begin : begin + CHUNK])
        if size:
            wide = header_at >= UINT32_MAX or size >= UINT32_MAX
            self._put(struct.pack("<4sIQQ" if wide else "<4sIII", DESCRIPTOR_MAGIC, crc, size, size))
        self._list(full_name, flags, crc, size, header_at)

    def close(self) -> None:
        """Write the directory; the archive is complete after this."""
        directory_at = self.at
        for row in self.directory:
            self._put(row)
        size, count = self.at - directory_at, len(self.directory)
        # The 64-bit end record is always there, as in PyTorch's files.
        end64_at = self.at
        self._put(
            END64.pack(END64_MAGIC, END64.size - 12, MADE_BY, 45, 0, 0, count, count, size, directory_at)
        )
        self._put(LOCATOR64.pack(LOCATOR64_MAGIC, 0, end64_at, 1))
        short_count = min(count, 0xFFFF)
        self._put(
            END.pack(
                END_MAGIC, 0, 0, short_count, short_count,
                min(size, UINT32_MAX), min(directory_at, UINT32_MAX), 0,
            )
        )  # fmt: skip

    def _put(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view.nbytes:
            # Unbuffered files may take only a part; wrappers may return nothing.
            written = self.file.write(view)
            if written == 0:
                raise OSError("the file accepts no more bytes")
            written = view.nbytes if written is None else written
            view = view[written:]
            self.at += written

    def _aligning_extra(self, name_size: int, size: int) -> bytes:
        wide = b""
        if size >= UINT32_MAX:
            wide += struct.pack("<QQ", size, size)
        if self.at >= UINT32_MAX:
            wide += struct.pack("<Q", self.at)
        if wide:
            wide = struct.pack("<HH", 1, len(wide)) + wide
        begin = self.at + LOCAL.size + name_size + len(wide) + 4
        padding = -begin % ALIGNMENT
        return wide + PADDING_TAG + struct.pack("<H", padding) + b"Z" * padding

    def _list(self, name: bytes, flags: int, crc: int, size: int, header_at: int) -> None:
        wide = b""
        if size >= UINT32_MAX:
            wide += struct.pack("<QQ", size, size)
        if header_at >= UINT32_MAX:
            wide += struct.pack("<Q", header_at)
        if wide:
            wide = struct.pack("<HH", 1, len(wide)) + wide
        short_size, short_at = min(size, UINT32_MAX), min(header_at, UINT32_MAX)
        row = CENTRAL.pack(
            CENTRAL_MAGIC, 0, 0, flags, 0, 0, 0, crc, short_size, short_size,
            len(name), len(wide), 0, 0, 0, 0, short_at,
        )  # fmt: skip
        self.directory.append(row + name + wide)
