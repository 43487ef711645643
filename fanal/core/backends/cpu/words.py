"""What follows, in the words of an executable, from the arrays it runs on and from named sizes."""
from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numpy as np

from fanal.core.base.dim import Dim, Dims, Formulas, now

from . import memory, threads


class Binding:
    """Which words hold the addresses of a list of arrays."""

    def __init__(self, uses: Sequence[Sequence[tuple[int, int]]], note: Callable[..., None]) -> None:
        self.count = len(uses)
        self.known = np.zeros(self.count, np.int64)
        pairs = [pair for several in uses for pair in several]
        self._own = np.array([(word, now(offset)) for word, offset in pairs], np.int64).reshape(-1, 2)
        self._owners = np.repeat(np.arange(self.count), [len(several) for several in uses])
        for k, (_, offset) in enumerate(pairs):
            note(self._own.reshape(-1), 2 * k + 1, offset)
        self.table = np.zeros(4, np.int64)
        self.address = self.table.ctypes.data
        self.native = threads.runner().bind if memory.LAYOUT_KNOWN else None
        self.arrange([])

    def arrange(self, more: Sequence[tuple[int, np.ndarray, np.ndarray]]) -> None:
        """Forget what the arrays were. `more`: further words of arrays: (which, addresses of words, offsets)."""
        owners, self.uses = self._owners, self._own
        if more:
            owners = np.concatenate([owners, *(np.full(len(at), which) for which, at, _ in more)])
            uses = np.concatenate([self._own, *(np.stack([at, offsets], 1) for _, at, offsets in more)])
            order = np.argsort(owners, kind="stable")
            owners, self.uses = owners[order], uses[order]
        self.starts = np.searchsorted(owners, np.arange(self.count + 1)).astype(np.int64)
        self.known[:] = 0
        self.table[:] = self.count, *(part.ctypes.data for part in (self.known, self.starts, self.uses))

    def bind(self, arrays: list[np.ndarray]) -> None:
        """Make the words point to these arrays."""
        if self.native is not None:
            self.native(id(arrays), self.address)
            return
        for i, array in enumerate(arrays):
            address = memory.address_of(array)
            if address != self.known[i]:
                self.known[i] = address
                for word, offset in self.uses[self.starts[i]:self.starts[i + 1]].tolist():
                    ctypes.c_int64.from_address(word).value = address + offset


class Sized:
    """What of an executable follows from named sizes: words here and there, and how much memory it needs."""

    def __init__(self, dims: Dims) -> None:
        self.dims = dims
        self.noted: dict[int, tuple[np.ndarray, list[int], list[Dim], list[int]]] = {}
        self.parts: list[tuple[np.ndarray, np.ndarray, Formulas, np.ndarray]] = []
        self._beyond: bool | None = None

    def note(self, array: np.ndarray, at: int, number: Dim, more: int) -> None:
        """Remember that array[at] is number + more."""
        _, places, numbers, others = self.noted.setdefault(array.ctypes.data, (array, [], [], []))
        places.append(at)
        numbers.append(number)
        others.append(more)

    def reaches_beyond(self, *arrays: np.ndarray) -> bool:
        """Tell whether more follows from the sizes than numbers in these arrays."""
        if self._beyond is None:
            self._beyond = bool(self.have.size) or not self.noted.keys() <= {a.ctypes.data for a in arrays}
        return self._beyond

    def follow(self) -> None:
        """Write everything anew."""
        if not self.parts:
            self.parts = [(array, np.array(places), Formulas(self.dims, numbers), np.array(others, np.int64))
                          for array, places, numbers, others in self.noted.values()]
        for array, at, formulas, more in self.parts:
            array[at] = formulas.values() + more

    def room(self, sizes: dict[int, int], scratch: list[int]) -> None:
        """Remember how much memory buffers and the scratch of launches take."""
        self.buffers = [value for value, nbytes in sizes.items() if type(nbytes) is Dim]
        self.needs = Formulas(self.dims, [n for n in [*(sizes[value] for value in self.buffers), *scratch]
                                          if type(n) is Dim])
        self.have = self.needs.values()

    def outgrown(self) -> bool:
        """Tell whether there is too little memory now."""
        return bool((self.needs.values() > self.have).any())

    def roomy(self) -> tuple[dict[int, int], int]:
        """Return more memory than is needed now, for buffers and as scratch: sizes that grow go on growing."""
        self.have = self.needs.values() * 3 // 2
        found = self.have.tolist()
        return dict(zip(self.buffers, found)), max(found[len(self.buffers):], default=0)
