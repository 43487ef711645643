"""Discrete Fourier transforms: 16 lines side by side, one in each lane, by passes of small radices.

A unit takes 16 lines of one dimension, lays them out with real and imaginary parts apart, and runs Stockham's passes
between two buffers, so that results come out in order. No lane reads another: every pass is plain vector arithmetic,
for any size. Sizes, radices and the direction are arguments; one kernel serves all.

Sources: Cooley & Tukey (1965); Van Loan, "Computational Frameworks for the Fast Fourier Transform" (1992), 1.7.
"""

from __future__ import annotations

import functools
import math
import struct

import numpy as np

from fanal.core.backends.contract import Buf, Kernel, Launch, Temp
from fanal.core.backends.cpu.emit import LANES
from fanal.core.backends.cpu.fft_ir import source
from fanal.core.backends.cpu.matmul import TEMP_IDS
from fanal.core.backends.cpu.target import Target
from fanal.core.base import dtype as dt
from fanal.core.compiler.graph import Value, base

_MOST = 1 << 14  # the longest line whose lanes fit the second-level cache
_LARGEST = 127  # prime factor: the work of a pass grows with it


@functools.lru_cache(maxsize=256)
def _radices(n: int) -> tuple[int, ...] | None:
    """Return the radices of the passes, None if a prime factor is too large."""
    found = []
    for r in (4, 2, 3, 5, *range(7, _LARGEST + 1, 2)):
        while n % r == 0:
            found.append(r)
            n //= r
    return tuple(found) if n == 1 else None


@functools.cache
def _tables(n: int, double: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return (radix, blocks, stride) of every pass, and exp(-2 pi i k / n); kept, since plans hold their addresses."""
    passes, left, stride = [], n, 1
    for r in _radices(n) or ():
        left //= r
        passes.append((r, left, stride))
        stride *= r
    turns = np.exp(-2j * np.pi * np.arange(n) / n)
    return np.array(passes, np.int64).reshape(-1, 3), turns.astype(np.complex128 if double else np.complex64)


def fft_launches(v: Value, target: Target) -> list[Temp | Launch] | None:
    """Return the launches of a value of `fft`, one for each dimension, or None if NumPy must do it."""
    kind, backward, dims, lengths, scale = v.params
    x, sizes = v.inputs[0], dict(zip(dims, lengths))
    if x.dtype.to_real() not in (dt.float32, dt.float64) or not x.size or not v.size:
        return None
    for n in lengths:
        if n > _MOST or _radices(n) is None or (n > _MOST // 4 and v.size < 2 * n):
            return None
    last, others = (dims[-1], kind), [(d, "whole") for d in dims[:-1]]
    order = [*others, last] if kind == "real" else [last, *others]
    found: list[Temp | Launch] = []
    here, shape, of_real = base(x).id, list(x.shape), not x.dtype.is_complex
    for i, (d, what) in enumerate(order):
        after = [*shape[:d], sizes[d] if what == "whole" else v.shape[d], *shape[d + 1 :]]
        to = v.id
        if after != list(v.shape) or (what == "whole" and kind == "real"):
            temp = Temp(next(TEMP_IDS), math.prod(after) * x.dtype.to_complex().itemsize)
            found.append(temp)
            to = temp.id
        scaled = scale if i == len(order) - 1 else 1.0
        found.append(_launch(v, what, of_real, backward, d, sizes[d], shape, after, here, to, scaled, target))
        here, shape, of_real = to, after, False
    return found


def _launch(v: Value, what: str, of_real: bool, backward: bool, d: int, n: int, before: list[int], after: list[int],
            here: int, to: int, scale: float, target: Target) -> Launch:
    real = v.dtype.to_real()
    inner = math.prod(before[d + 1 :])
    lines = math.prod(before[:d]) * inner
    passes, turns = _tables(n, real is dt.float64)
    symbol = target.symbol(f"fft:{what}:{of_real}:{real.name}")
    bits = struct.unpack("<q", struct.pack("<d", scale))[0]
    words: list[Buf | int] = [Buf(here), Buf(to), passes.ctypes.data, turns.ctypes.data, len(passes), n, inner, lines,
                              before[d], after[d], int(backward), bits]
    size = real.itemsize * (2 if what == "whole" else 1)
    return Launch(
        Kernel(symbol, lambda: source(target, symbol, what, of_real, real)),
        words,
        -(-lines // LANES),
        4 * LANES * n * real.itemsize,
        int(5 * lines * n * max(1.0, math.log2(n))),
        (math.prod(before) + math.prod(after)) * size,
        (here,),
        (to,),
        f"fft {n}",
        [v.where] if v.where else [],
    )
