"""What the engine knows of a tensor: storages that hold values, and handles onto them."""

from __future__ import annotations

import itertools
from typing import Any
from weakref import ref

import numpy as np

from fanal.core.base.dtype import dtype as DType
from fanal.core.engine.cache import run_program
from fanal.core.engine.carry import history
from fanal.core.ir.prims import full, given, input_, put
from fanal.core.ir.program import Node, Program, Shape
from fanal.core.ir.row import Row

Chain = tuple[tuple[Row, tuple], ...]


births = itertools.count()  # tells which of two storages is older


class Storage:
    """A piece of memory as the user sees it: the current value, and how often it was written.

    `node` is the SSA value now held. `foreign` is set while somebody outside (NumPy, DLPack) shares the
    bytes: then a read copies what it sees, and a write lands in the very same memory at once. `shared` is set
    once a second tensor has come to show it: then it is no .grad that may serve again while nobody holds the tensor.
    `cut` is the history that tensors detached from it have been given (`tensor.alias.Cut`).
    """

    __slots__ = ("node", "version", "born", "cut", "foreign", "meta", "root", "shared", "uncounted", "__weakref__")

    def __init__(self, node: Node, meta: bool = False) -> None:
        self.node = node
        self.born = next(births)
        self.version = 0
        self.cut: Any = None
        self.foreign: Any = None
        self.meta = meta
        self.root: Any = None
        self.shared = False
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
    `_detached` that the value is cut from the history of the storage (True, or a number: see `tensor.alias.cut`).
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
    _asked = False  # of a class: it is asked about calls with its tensors, see tensor.override

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
    _detached: int
    _hooks: Any
    _leaf_node: Node | None
    _retain: bool
    _inference: bool
    _base_ref: Any
    _path: Any


ITSELF = "is being modified inplace"
BASE = "its base or another view of its base has been modified inplace"
AMBIGUOUS = (
    " Given that this use case is ambiguous and error-prone, it is forbidden. You can clarify your code by moving "
    "both the view and the inplace either both inside the {0} block (if you don't want the inplace to be tracked) "
    "or both outside (if you want the inplace to be tracked)."
)
SEVERAL = (
    " This view is the output of a function that returns multiple views. Such functions do not allow the output "
    "views to be modified inplace. You should replace the inplace operation by an out-of-place one."
)


class Origin:
    """How a view came to be, where that restricts it: PyTorch follows no in-place write through such a view, nor
    the view after a write to its base.

    `kind` is one of "several" (views that one call returned), "no_grad", "inference" and "function" (returned by a
    custom function, which says so in `advice`). `version` is that of the storage when the view was made, `leaf` the
    leaf that it shows, if any. `output` says which output of which function it is, or None if it has no history.
    """

    __slots__ = ("advice", "kind", "leaf", "output", "version")
    _leaf = False

    def __init__(
        self, kind: str, version: int, leaf: Any = None, output: tuple[int, str] | None = None, advice: str = SEVERAL
    ) -> None:
        self.kind, self.version, self.leaf, self.output, self.advice = kind, version, leaf, output, advice

    def copy(self, version: int, leaf: Any) -> Origin:
        """Return the same origin for another storage."""
        return Origin(self.kind, version, leaf, self.output, self.advice)

    def text(self, what: str) -> str:
        """Return PyTorch's message about a view to which `what` happened."""
        modes = {"inference": ("inference", "in normal mode"), "no_grad": ("no_grad", "with grad mode enabled")}
        made, now = modes.get(self.kind, modes["no_grad"])
        block = "inference_mode" if made == "inference" else made
        advice = AMBIGUOUS.format(block) if self.kind in modes else self.advice
        begin = "A view was"
        if self.output is not None:
            begin = "Output {} of {} is a view".format(*self.output)
            if self.kind not in modes:
                return f"{begin} and {what}.{advice}"
            begin += " of a view which was"
        return f"{begin} created in {made} mode and {what} {now}.{advice}"


def newest(t: Any) -> Any:
    """Return the value whose history a tensor has: that of its storage if it was not looked at since the last write."""
    st = t._storage
    return st.node if t._seen != st.version and st.node.needs_grad and not t._detached else t._node


def counted(storage: Storage) -> int:
    """Return the version of a storage as PyTorch counts it: writes through `.data` are not seen."""
    return storage.version - (storage.uncounted[0] if storage.uncounted else 0)


def root_array(storage: Storage) -> np.ndarray:
    """Return the computed contents of a storage (the engine must have flushed)."""
    buffer = storage.node.buffer
    if buffer is None:
        raise AssertionError("the storage holds a pending value")
    return buffer


def shown_of(t: Handle, a: np.ndarray) -> np.ndarray:
    """Return what a tensor shows of `a`, the contents of its storage."""
    for row, params in t._chain:
        a = row.ref(a, *params)
    return a


def copied(t: Handle) -> np.ndarray:
    """Return a copy of the values of a tensor whose storage is computed."""
    return np.array(shown_of(t, root_array(t._storage)), order="C", copy=True)


def shared_outside(s: Storage) -> bool:
    """Tell whether somebody outside can see the bytes of a storage; note it when nobody can any more."""
    if s.foreign is None:
        return False
    if s.foreign() is not None:  # the sharing side knows who holds the bytes (ops/numpy_share.py)
        return True
    s.foreign = None
    return False


def hooked(t: Handle) -> bool:
    """Tell whether `t` is a view with a hook on its value, or on that of a view it was made from."""
    st, n = t._storage, t._node
    while n is not st.node and n.needs_grad and n.leaf is None and t._seen == st.version:
        if n.hooks is not None:
            return True
        if len(n.inputs) != 1:
            break
        n = n.inputs[0]
    return False


SIGNATURE = ("type", "shape", "dtype", "chain", "strides", "leaf", "detached", "inference", "base", "meta",
             "whole", "hooked", "cut", "needs_grad", "unshared")


def signature(t: Handle) -> tuple:
    """Return what must be equal for another tensor from outside to take the place of `t`: SIGNATURE in order."""
    s, base = t._storage, t._base_ref
    return (
        type(t),
        t._shape,
        t._dtype,
        t._chain,
        t._strides,
        t._leaf,
        t._detached,
        t._inference,
        type(base) if type(base) is not Origin else (base.kind, base.leaf is not None and base.leaf._leaf),
        s.meta,
        s.node.shape,
        hooked(t),
        None if s.cut is None else s.cut.shadow.born,  # what a detached tensor has of it, or has not
        history(s.node),
        s.foreign is None,
    )


# Gradients of tables, kept as the few rows they have until somebody looks at all of them. The gradient of an
# embedding is `put(0, index, rows)`. Its `.grad` is held by the parameter when the optimizer steps, so it would have
# to be in memory, and the next `zero_grad` drops it unseen. So its storage holds a pending value that follows from the
# index and the rows, which the step has left in memory of their own. Whoever reads it computes it, and a segment whose
# gradient was read computes it from then on.

_LEAST = 1 << 20  # bytes of a gradient: below, writing zeros is less work than this
_FEW = 4  # times the bytes of its rows


def few_rows(n: Node) -> bool:
    """Tell whether a value is large, and zero but for a few rows."""
    if n.row is not put or n.params[1] != "add" or n.inputs[0].row is not full or n.inputs[0].params[1] != 0:
        return False
    return n.nbytes >= max(_LEAST, _FEW * (n.inputs[1].nbytes + n.inputs[2].nbytes))


def keep_rows(storage: Any, n: Node, like: Node, index: np.ndarray, rows: np.ndarray) -> None:
    """Let a storage hold `n`, pending: what `like` is, of an index and rows that are in memory."""
    parts = given(index), given(rows, n.dtype)
    for part in parts:
        part.home = (ref(storage), storage.version)
    n.row, n.params, n.inputs = like.row, like.params, (like.inputs[0], *parts)
    storage.node = n


def spread(storage: Any) -> None:
    """Compute the value of a storage, if it is kept as rows."""
    n = storage.node
    if n.buffer is not None or n.row is not put or not n.inputs:
        return
    zero, index, rows = n.inputs
    if rows.buffer is not None and rows.home is not None and rows.home[0]() is storage:
        (n.buffer,) = run_program(Program([index, rows], [zero, n], [n]), [index.buffer, rows.buffer])
        n.row, n.params, n.inputs = input_, (n.shape, n.dtype), ()
