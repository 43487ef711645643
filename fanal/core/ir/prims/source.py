"""Primitives that make values: what is given, constants, counters and random bits."""

from __future__ import annotations

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.ir.prims.batching import without
from fanal.core.ir.program import Node
from fanal.core.ir.row import NO_GRADIENT, prim


def _given(*_: object) -> np.ndarray:
    raise RuntimeError("the value of an input is supplied by the caller")


# An input's shape and dtype are its parameters; a runtime number is a 0-d float64 or int64 input.
input_ = prim(
    "input",
    kind="source",
    arity=0,
    shape=lambda i, p: p[0],
    dtype=lambda i, p: p[1],
    ref=_given,
    grad=NO_GRADIENT,
    batch=without,
    code=None,
    flops=0,
)
# Without a value (None), what is in memory does not matter: zeros, unless a program only hands it out.
full = prim(
    "full",
    kind="source",
    arity=0,
    shape=lambda i, p: p[0],
    dtype=lambda i, p: p[2],
    ref=lambda shape, value, dtype: np.full(shape, 0 if value is None else value, dtype.np),
    grad=NO_GRADIENT,
    batch=without,
    code=lambda e, shape, value, dtype: e.const(value, dtype),
    flops=0,
    exact=True,
)
# iota counts 0, 1, 2, ... along `dim`.
iota = prim(
    "iota",
    kind="source",
    arity=0,
    shape=lambda i, p: p[0],
    dtype=lambda i, p: p[2],
    ref=lambda shape, dim, dtype: np.broadcast_to(
        np.arange(shape[dim]).reshape([-1 if d == dim else 1 for d in range(len(shape))]), shape
    ).astype(dtype.np),
    grad=NO_GRADIENT,
    batch=without,
    code=None,
    flops=1,
    exact=True,
)

_M0, _M1, _W0, _W1 = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85


def _philox_ref(seed: np.ndarray, offset: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    n = int(np.prod(shape, dtype=np.int64))
    blocks = np.arange((n + 3) // 4, dtype=np.uint64)
    key, off = int(seed) & (1 << 64) - 1, int(offset) & (1 << 64) - 1
    low, high = np.uint64(0xFFFFFFFF), np.uint64(32)
    c = [
        blocks & low,
        blocks >> high,
        np.full_like(blocks, off & 0xFFFFFFFF),
        np.full_like(blocks, off >> 32),
    ]
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(_M0), c[2] * np.uint64(_M1)
        c = [(p1 >> high) ^ c[1] ^ np.uint64(k0), p1 & low, (p0 >> high) ^ c[3] ^ np.uint64(k1), p0 & low]
        k0, k1 = k0 + _W0 & 0xFFFFFFFF, k1 + _W1 & 0xFFFFFFFF
    return np.stack(c, -1).reshape(-1)[:n].astype(np.uint32).reshape(shape)


# 32 random bits an element: element i is word i % 4 of block i // 4, counter (block, offset), key `seed`.
# Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), Philox4x32-10.
philox = prim(
    "philox",
    kind="source",
    arity=2,
    shape=lambda i, p: p[0],
    dtype=lambda i, p: dt.uint32,
    ref=_philox_ref,
    grad=NO_GRADIENT,
    batch=without,
    code=lambda e, index, seed, offset: e.philox(index, seed, offset),
    flops=20,
    exact=True,
)


def given(array: np.ndarray, dtype: dt.dtype | None = None) -> Node:
    """Return a node that holds `array` (C-contiguous)."""
    d = dtype or dt.from_numpy(array.dtype)
    node = Node(input_, (), (array.shape, d), array.shape, d)
    node.buffer = array
    return node
