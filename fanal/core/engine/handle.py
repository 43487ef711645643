"""What the engine knows of a tensor: storages that hold values, and handles onto them."""

from __future__ import annotations

from typing import Any

import numpy as np

from fanal.core.base.dtype import dtype as DType
from fanal.core.ir.program import Node, Shape
from fanal.core.ir.row import Row

Chain = tuple[tuple[Row, tuple], ...]


class Storage:
    """A piece of memory as the user sees it: the current value, and how often it was written.

    `node` is the SSA value now held. `foreign` is set while somebody outside (NumPy, DLPack) shares the
    bytes: then a read copies what it sees, and a write lands in the very same memory at once.
    """

    __slots__ = ("node", "version", "foreign", "meta", "root", "uncounted", "__weakref__")

    def __init__(self, node: Node, meta: bool = False) -> None:
        self.node = node
        self.version = 0
        self.foreign: Any = None
        self.meta = meta
        self.root: Any = None
        self.uncounted: tuple[
            int, ...
        ] = ()  # how many versions PyTorch does not count, then the latest of them

    def write(self, node: Node) -> None:
        """Replace the value; every handle onto this storage sees it from here on."""
        self.node = node
        self.version += 1


class Handle:
    """A tensor without its methods: a storage and a chain of views onto it.

    `_node` caches the value as of version `_seen`. `_leaf` says that gradients are collected here,
    `_detached` that the value is cut from the history of the storage.
    """

    __slots__ = (
        "_storage",
        "_chain",
        "_shape",
        "_dtype",
        "_node",
        "_seen",
        "_leaf",
        "_grad",
        "_strides",
        "_offset",
        "_detached",
        "_hooks",
        "_leaf_node",
        "_retain",
        "_inference",
        "_base_ref",
        "_path",
    )

    _storage: Storage
    _chain: Chain
    _shape: Shape
    _dtype: DType
    _node: Node
    _seen: int
    _leaf: bool
    _grad: Any
    _strides: Shape | None
    _offset: int
    _detached: bool
    _hooks: Any
    _leaf_node: Node | None
    _retain: bool
    _inference: bool
    _base_ref: Any
    _path: Any


def root_array(storage: Storage) -> np.ndarray:
    """Return the computed contents of a storage (the engine must have flushed)."""
    buffer = storage.node.buffer
    if buffer is None:
        raise AssertionError("the storage holds a pending value")
    return buffer


def shared_outside(s: Storage) -> bool:
    """Tell whether somebody outside can see the bytes of a storage; note it when nobody can any more."""
    if s.foreign is None:
        return False
    if s.foreign() is not None:  # the sharing side knows who holds the bytes (ops/numpy_share.py)
        return True
    s.foreign = None
    return False


def signature(t: Handle) -> tuple:
    """Return what must be equal for another tensor from outside to take the place of `t`."""
    s = t._storage
    return (
        type(t),
        t._shape,
        t._dtype,
        t._chain,
        t._strides,
        t._leaf,
        t._detached,
        t._inference,
        bool(t._hooks),
        s.meta,
        s.node.shape,
        s.node.needs_grad,
        s.foreign is None,
    )
