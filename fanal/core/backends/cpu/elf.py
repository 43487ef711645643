"""A loader for the small x86-64 objects LLVM emits, so that a warm start need not load LLVM at all.

The objects are relocatable ELF files of pure code and constants: no writable data, no thread-local storage,
no constructors. Anything else raises Unsupported, and the caller loads the object through LLVM instead.
Source: System V Application Binary Interface, AMD64 Architecture Processor Supplement, section 4.4.
"""
from __future__ import annotations

import ctypes
import mmap
import platform
import struct
import sys
from collections.abc import Callable, Sequence

SUPPORTED = sys.platform.startswith("linux") and platform.machine() == "x86_64" and sys.maxsize > 1 << 32

_X86_64 = 62
_SYMTAB, _RELA, _NOBITS = 2, 4, 8
_WRITE, _ALLOC, _TLS = 1, 2, 0x400
_R_64, _R_PC32, _R_PLT32, _R_GOTPCREL, _R_PC64, _R_GOTPCRELX, _R_REX_GOTPCRELX = 1, 2, 4, 9, 24, 41, 42
_ABSOLUTE = 0xFFF1
_STUB = b"\xff\x25\0\0\0\0"  # jmp *(next instruction), followed by the 8-byte address
_PAGE = mmap.PAGESIZE


class Unsupported(Exception):
    """The object needs something this loader does not do."""


def load(objects: Sequence[bytes], resolve: Callable[[str], int]) -> dict[str, int]:
    """Map objects into memory, executable and read-only for the life of the process.

    `resolve` gives the address of an external function. Returns the address of every global symbol.
    Raises Unsupported for objects of another machine or with unknown relocations.
    """
    parsed = [_Object(data) for data in objects]
    size = 0
    for item in parsed:
        size = item.place(size)
    image = bytearray(-(-size // _PAGE) * _PAGE or _PAGE)
    base = _map(len(image))
    addresses: dict[str, int] = {}
    try:
        for item in parsed:
            item.relocate(image, base, resolve)
            addresses.update(item.exports(base))
        ctypes.memmove(base, (ctypes.c_char * len(image)).from_buffer(image), len(image))
        _seal(base, len(image))
    except BaseException:
        _libc().munmap(ctypes.c_void_p(base), ctypes.c_size_t(len(image)))
        raise
    return addresses


class _Object:
    def __init__(self, data: bytes) -> None:
        try:
            self._parse(data)
        except (struct.error, IndexError) as error:
            raise Unsupported(f"damaged object: {error}") from error

    def _parse(self, data: bytes) -> None:
        if data[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<HH", data, 16) != (1, _X86_64):
            raise Unsupported("not a relocatable x86-64 ELF object")
        self.data = data
        start, = struct.unpack_from("<Q", data, 40)
        size, count = struct.unpack_from("<HH", data, 58)
        # name, type, flags, address, offset, size, link, info, alignment, entry size
        self.sections = [struct.unpack_from("<IIQQQQIIQQ", data, start + i * size) for i in range(count)]
        table = next((s for s in self.sections if s[1] == _SYMTAB), None)
        if table is None:
            raise Unsupported("no symbol table")
        strings = self.sections[table[6]][4]
        self.symbols: list[tuple[str, int, int, int]] = []  # (name, binding, section, value)
        for at in range(table[4], table[4] + table[5], 24):
            name, info, _, section, value, _ = struct.unpack_from("<IBBHQQ", data, at)
            end = data.index(0, strings + name)
            self.symbols.append((data[strings + name:end].decode(), info >> 4, section, value))
        names = self.sections[struct.unpack_from("<H", data, 62)[0]][4]
        self.relocations = []  # (section, offset, symbol, type, addend)
        self.loaded = set()
        for index, s in enumerate(self.sections):
            if s[2] & _ALLOC and s[5] and data[names + s[0]:names + s[0] + 9] != b".eh_frame":
                if s[2] & _TLS or (s[2] & _WRITE and not data[names + s[0]:].startswith(b".data.rel.ro")):
                    raise Unsupported("writable data")
                self.loaded.add(index)
        for s in self.sections:
            if s[1] == _RELA and s[7] in self.loaded:
                for at in range(s[4], s[4] + s[5], 24):
                    offset, info, addend = struct.unpack_from("<QQq", data, at)
                    self.relocations.append((s[7], offset, info >> 32, info & 0xFFFFFFFF, addend))

    def place(self, at: int) -> int:
        """Lay the sections and jump stubs out from offset `at`. Returns the first free offset."""
        self.offsets: dict[int, int] = {}
        for index in sorted(self.loaded):
            section = self.sections[index]
            align = max(section[8], 16)
            at = -(-at // align) * align
            self.offsets[index] = at
            at += section[5]
        at = -(-at // 16) * 16
        self.stubs: dict[int, int] = {}  # symbol -> offset of a jump to it
        for _, _, symbol, kind, _ in self.relocations:
            wants_slot = kind in (_R_GOTPCREL, _R_GOTPCRELX, _R_REX_GOTPCRELX)
            if (wants_slot or self.symbols[symbol][2] == 0) and symbol not in self.stubs:
                self.stubs[symbol] = at
                at += 16
        return at

    def address(self, symbol: int, base: int, resolve: Callable[[str], int]) -> int:
        name, _, section, value = self.symbols[symbol]
        if section == 0:
            return resolve(name)
        if section == _ABSOLUTE:
            return value
        if section not in self.offsets:
            raise Unsupported(f"symbol {name!r} in a section that is not loaded")
        return base + self.offsets[section] + value

    def relocate(self, image: bytearray, base: int, resolve: Callable[[str], int]) -> None:
        """Copy the sections into `image`, which will lie at address `base`, and fill in addresses."""
        for index, at in self.offsets.items():
            section = self.sections[index]
            if section[1] != _NOBITS:
                image[at:at + section[5]] = self.data[section[4]:section[4] + section[5]]
        for symbol, at in self.stubs.items():
            image[at:at + 14] = _STUB + struct.pack("<Q", self.address(symbol, base, resolve))
        for section, offset, symbol, kind, addend in self.relocations:
            at = self.offsets[section] + offset
            if kind in (_R_PC32, _R_PLT32):
                # Another library may be further than 2 GB away: go through a stub of our own.
                stub = self.stubs.get(symbol)
                if stub is not None and kind == _R_PC32:
                    raise Unsupported(f"data of another library: {self.symbols[symbol][0]!r}")
                target = self.address(symbol, base, resolve) if stub is None else base + stub
                struct.pack_into("<i", image, at, target + addend - (base + at))
            elif kind in (_R_GOTPCREL, _R_GOTPCRELX, _R_REX_GOTPCRELX):
                struct.pack_into("<i", image, at, self.stubs[symbol] + len(_STUB) + addend - at)
            elif kind == _R_64:
                value = self.address(symbol, base, resolve) + addend
                struct.pack_into("<Q", image, at, value & 0xFFFFFFFFFFFFFFFF)
            elif kind == _R_PC64:
                value = self.address(symbol, base, resolve) + addend - (base + at)
                struct.pack_into("<q", image, at, value)
            else:
                raise Unsupported(f"relocation type {kind}")

    def exports(self, base: int) -> dict[str, int]:
        return {name: base + self.offsets[section] + value
                for name, binding, section, value in self.symbols if binding and section in self.offsets}


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _map(size: int) -> int:
    libc = _libc()
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    address = libc.mmap(None, size, protection, flags, -1, 0)
    if address is None or address == ctypes.c_void_p(-1).value:
        raise MemoryError(f"no memory for {size} bytes of code")
    return int(address)


def _seal(address: int, size: int) -> None:
    """Make memory executable; it is never writable and executable at once."""
    protection = mmap.PROT_READ | mmap.PROT_EXEC
    if _libc().mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_int(protection)):
        raise Unsupported(f"memory cannot be made executable (errno {ctypes.get_errno()})")
