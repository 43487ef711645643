"""Compiled objects on disk, so that a second process compiles nothing.

A bundle is one file with the objects of the kernels that were compiled or found together, so a program seen
before costs one open. Bundles never change: they are written beside and renamed, so any number of processes
may write. Whatever is wrong with the directory or a file costs time, never a result.

    <cache dir>/objects/<environment>/<kernels>.fko     environment, kernels: digests
    file: magic, 4-byte header length, JSON header {"environment", "kernels": {name: [offset, size]}},
          objects, 16-byte BLAKE2b of everything before it
"""
from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import struct
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fanal.core.base import knobs

_MAGIC = b"FANALKO1"
_SCAN = 256  # how many of the newest bundles are searched for single kernels
_SUFFIX, _PARTIAL = ".fko", ".tmp"
_ABANDONED = 3600  # seconds after which a partial file has no writer any more
_ROOM = Path(__file__).resolve().parents[2]


@functools.lru_cache(maxsize=1)
def generation() -> str:
    """Return what identifies the code that writes kernels: the emitters' files and LLVM's version."""
    import llvmlite  # the version alone; LLVM itself is not loaded

    facts = [llvmlite.__version__, platform.python_implementation()]
    for folder in ("backends", "compiler", "ir"):
        for file in sorted((_ROOM / folder).rglob("*.py")):
            status = file.stat()
            facts.append(f"{file.relative_to(_ROOM)} {status.st_size} {status.st_mtime_ns}")
    return _digest("\n".join(facts).encode())


@functools.lru_cache(maxsize=8)
def objects(target_key: str) -> Store:
    """Return the store for code of one target. `target_key` names triple, processor and features."""
    return Store(knobs.cache_dir, f"{generation()}|{target_key}", knobs.cache_bytes, knobs.cache)


def recall(name: str, key: str, probe: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the facts that `probe` finds, from disk when they were found under the same `key` before.

    An empty key is never remembered. LLVM's version is part of the key.
    """
    if not key or not knobs.cache:
        return probe()
    import llvmlite

    key = f"{llvmlite.__version__}\n{key}"
    folder = knobs.cache_dir / "objects"
    file = folder / f"{name}-{_digest(key.encode())}.json"
    try:
        if _ours(folder.lstat()) and _ours(file.lstat()):
            entry = json.loads(file.read_bytes())
            if entry["key"] == key:
                return dict(entry["facts"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    facts = probe()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _ours(folder.lstat()):
            _write(file, json.dumps({"key": key, "facts": facts}).encode())
    except OSError:
        pass  # the store of objects warns about the same directory
    return facts


class Store:
    """Objects by kernel name, for one environment. A broken store finds nothing and keeps nothing."""

    def __init__(self, root: Path, environment: str, limit: int, enabled: bool = True) -> None:
        self.environment = environment
        self.top = root / "objects"
        self.folder = self.top / _digest(environment.encode())
        self.limit = limit
        self._room = 0  # bytes to save before the folder's size is looked at again
        self.enabled = enabled and self._prepare()
        self.index: dict[str, Path] | None = None  # kernel -> bundle, read on the first search

    def _prepare(self) -> bool:
        """Make the directories. Refuse those others may write to: that would let them execute code here."""
        try:
            for folder in (self.top, self.folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if not _ours(folder.lstat()):
                    raise PermissionError(f"{folder} can be written by another user")
        except OSError as error:
            self._disable(error)
            return False
        return True

    def _disable(self, error: OSError) -> None:
        self.enabled = False
        warnings.warn(f"fanal: compiled kernels are not kept on disk ({error}); every process compiles anew. "
                      "FANAL_CACHE_DIR names another directory, FANAL_CACHE=0 silences this.", stacklevel=2)

    def _bundle(self, names: Iterable[str]) -> Path:
        return self.folder / (_digest("\n".join(sorted(names)).encode()) + _SUFFIX)

    def lookup(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the objects found, by kernel name."""
        if not self.enabled:
            return {}
        wanted = set(names)
        found = self._read(self._bundle(wanted), wanted)
        if wanted - found.keys():
            if self.index is None:
                self.index = self._scan()
            # Bundles of other programs: open each once.
            missing = sorted(name for name in wanted - found.keys() if name in self.index)
            for file in {self.index[name]: None for name in missing}:
                found |= self._read(file, wanted - found.keys())
        return found

    def save(self, entries: dict[str, bytes]) -> None:
        """Keep objects as one bundle."""
        if not self.enabled:
            return
        at, places = 0, {}
        for name, data in entries.items():
            places[name] = (at, len(data))
            at += len(data)
        header = json.dumps({"environment": self.environment, "kernels": places}).encode()
        body = b"".join((_MAGIC, struct.pack("<I", len(header)), header, *entries.values()))
        target = self._bundle(entries)
        try:
            _write(target, body + _checksum(body))
            self._room -= len(body)
            if self._room < 0:  # looking at every file is not for every save
                self._trim()
        except OSError as error:
            self._disable(error)
            return
        if self.index is not None:
            self.index.update(dict.fromkeys(entries, target))

    def _read(self, file: Path, wanted: Iterable[str]) -> dict[str, bytes]:
        """Return the wanted objects of one bundle. A damaged bundle is removed and has none."""
        try:
            handle = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
        except OSError:
            return {}
        try:
            with os.fdopen(handle, "rb") as stream:
                if not _ours(os.fstat(handle)):
                    return {}
                data = stream.read()
                places, start = self._header(data)
                if _checksum(data[:-16]) != data[-16:]:
                    raise ValueError("checksum")
                found = {}
                for name in wanted:
                    if name in places:
                        at, size = places[name]
                        if at < 0 or size <= 0 or start + at + size > len(data) - 16:
                            raise ValueError("place")
                        found[name] = data[start + at:start + at + size]
        except (OSError, ValueError, KeyError, TypeError, struct.error):
            _remove(file)
            return {}
        try:
            os.utime(file)  # the age decides what is dropped first
        except OSError:
            pass
        return found

    def _header(self, data: bytes) -> tuple[dict[str, tuple[int, int]], int]:
        """Return where the kernels are, and where the objects start."""
        if data[:8] != _MAGIC:
            raise ValueError("magic")
        size, = struct.unpack_from("<I", data, 8)
        header = json.loads(data[12:12 + size])
        if header["environment"] != self.environment:
            raise ValueError("environment")
        return header["kernels"], 12 + size

    def _scan(self) -> dict[str, Path]:
        """Return which bundle holds which kernel, for the newest bundles."""
        index: dict[str, Path] = {}
        for _, _, file in sorted(_files(self.folder), reverse=True)[:_SCAN]:
            try:
                with open(file, "rb") as stream:
                    data = stream.read(12)
                    data += stream.read(struct.unpack_from("<I", data, 8)[0])
                for name in self._header(data)[0]:
                    index.setdefault(name, file)
            except (OSError, ValueError, KeyError, TypeError, struct.error, MemoryError):
                _remove(file)
        return index

    def _trim(self) -> None:
        """Drop the bundles longest unused, of every environment, when the size is over the limit."""
        files = []
        for folder in self.top.iterdir():
            if folder.is_dir():
                found = _files(folder)
                files += found
                if not found:
                    _remove_folder(folder)
        files.sort()
        total = sum(size for _, size, _ in files)
        if total > self.limit:
            for _, size, file in files:
                _remove(file)
                total -= size
                if total <= self.limit * 0.9:  # some room, so that not every save trims
                    break
        # Other processes save, too: look again long before the room is used up.
        self._room = max(0, self.limit - total) // 8


def _files(folder: Path) -> list[tuple[int, int, Path]]:
    """Return (time of last use, bytes, path) of a directory's bundles. Removes what killed writers left."""
    found: list[tuple[int, int, Path]] = []
    try:
        entries = os.scandir(folder)
    except OSError:
        return found
    with entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue  # another process removed it
            if entry.name.endswith(_SUFFIX):
                found.append((status.st_mtime_ns, status.st_size, Path(entry.path)))
            elif entry.name.endswith(_PARTIAL) and time.time() - status.st_mtime > _ABANDONED:
                _remove(Path(entry.path))
    return found


def _ours(status: os.stat_result) -> bool:
    """Return whether a file or directory belongs to this user and nobody else may write to it."""
    return not hasattr(os, "geteuid") or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)


def _write(file: Path, data: bytes) -> None:
    """Write a file that other processes see whole or not at all."""
    partial = file.with_name(f"{file.name}-{os.getpid()}-{threading.get_ident()}{_PARTIAL}")
    try:
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.replace(partial, file)
    except BaseException:
        _remove(partial)
        raise


def _remove(file: Path) -> None:
    try:
        file.unlink()
    except OSError:
        pass


def _remove_folder(folder: Path) -> None:
    """Remove the directory of an environment that is gone; a new one may be waiting for a file."""
    try:
        if time.time() - folder.stat().st_mtime > _ABANDONED:
            folder.rmdir()
    except OSError:
        pass


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
