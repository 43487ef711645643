"""The tensor: a handle onto a storage. Its methods are installed by `ops` and `autograd`, which are above."""

from __future__ import annotations

from typing import Any
from weakref import ref

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.device import CPU, META, device
from fanal.core.base.shape import Shape, Size, contiguous_strides, is_contiguous
from fanal.core.base.state import state
from fanal.core.engine import aside
from fanal.core.engine.failure import refuse
from fanal.core.engine.handle import Chain, Handle, Origin, Storage, counted, root_array, shown_of, spread
from fanal.core.engine.level import DYNAMIC, unknowable
from fanal.core.engine.record import flush, gradient_ahead, hold, leave_path, written_ahead
from fanal.core.ir.prims import alias, given, permute, reshape
from fanal.core.ir.program import Node
from fanal.core.tensor.alias import (
    UNCOUNTED,
    arrival,
    check_origin,
    cut,
    derive,
    history,
    leaf_of,
    of_history,
    value,
)


class Tensor(Handle):
    """A multi-dimensional array of one dtype, as torch.Tensor."""

    __slots__ = ("__dict__", "__weakref__")
    __module__ = "torch"

    def __new__(cls, *args: Any, **kwargs: Any) -> Tensor:
        return _legacy_new(cls, *args, **kwargs)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    @property
    def shape(self) -> Size:
        return Size(self._shape)

    @property
    def dtype(self) -> dt.dtype:
        return self._dtype

    @property
    def device(self) -> device:
        return META if self._storage.meta else CPU

    @property
    def ndim(self) -> int:
        return len(self._shape)

    @property
    def requires_grad(self) -> bool:
        if self._path and gradient_ahead(self):  # following hands out what its tensors end as
            return False
        return self._leaf or (_promise(self) if self._path else history(self)).needs_grad or of_history(self)

    @property
    def is_leaf(self) -> bool:
        if self._leaf or (self._path and gradient_ahead(self)):
            return True
        n = _promise(self) if self._path else history(self)
        check_origin(self, n)
        return not n.needs_grad

    @property
    def _cdata(self) -> int:
        """A number of this tensor alone, while it lives; what shares its memory has another."""
        return id(self)

    @property
    def _version(self) -> int:
        if self._inference:
            raise RuntimeError("Inference tensors do not track version counter.")
        if not self._path and written_ahead(self._storage):
            leave_path()
        seen = counted(self._storage)
        return self._storage.version - seen if self._base_ref is UNCOUNTED else seen

    @staticmethod
    def _make_subclass(cls: type, data: Tensor, require_grad: bool = False) -> Any:
        return adopt(cls, data, require_grad)


def _promise(t: Handle) -> Node:
    """Return what stands for the value of a tensor that following handed out."""
    return t._node if t._chain or t._detached else t._storage.node


_legacy: Any = None


def _legacy_new(cls: type, *args: Any, **kwargs: Any) -> Tensor:
    assert _legacy is not None
    return _legacy(cls, *args, **kwargs)


def install_constructor(f: Any) -> None:
    """Install the function behind torch.Tensor(...), which stands in `ops`."""
    global _legacy
    _legacy = f


_new = object.__new__


def blank(
    cls: type,
    storage: Storage,
    chain: Chain,
    shape: Shape,
    d: dt.dtype,
    node: Node,
    strides: Shape | None,
    offset: int,
) -> Any:
    """Return a handle with every slot set, which is not the first onto its storage: see `wrap`."""
    t: Any = _new(cls)
    storage.shared = True
    t._storage, t._chain, t._shape, t._dtype = storage, chain, shape, d
    t._node, t._seen = node, storage.version
    t._strides, t._offset = strides, offset
    t._leaf = t._detached = t._retain = False
    t._grad = t._hooks = t._leaf_node = t._base_ref = t._path = None
    t._inference = state.inference
    return t


def wrap(node: Node, strides: Shape | None = None, cls: type = Tensor) -> Any:
    """Return a new tensor that owns `node`. `strides`: a dense, non-contiguous layout to keep, or None."""
    if node.home is not None:
        node = alias(node)  # one value, two tensors: each needs memory of its own
    if strides is not None and not is_contiguous(node.shape, strides):
        order = tuple(sorted(range(len(strides)), key=lambda d: (-strides[d], d)))
        inverse = tuple(order.index(d) for d in range(len(order)))
        s = Storage(permute(node, order))
        t = blank(cls, s, ((permute, (inverse,)),), node.shape, node.dtype, node, strides, 0)
    else:
        s = Storage(node)
        t = blank(cls, s, (), node.shape, node.dtype, node, None, 0)
        node.home = (ref(s), 0)
    s.shared = False
    if s.node.buffer is None:
        hold(s)
    if node.needs_grad and node.row is reshape and node.inputs and node.inputs[0].home is None:
        node.inputs[0].home = (ref(s), 0)  # keepdim=True: what backward reads of a reduction is this tensor
    return t


def wrap_array(array: np.ndarray, d: dt.dtype | None = None, cls: type = Tensor) -> Any:
    """Return a contiguous tensor of an array's numbers, which owns the array where that is C-contiguous.

    NumPy stacks and picks in the order that it finds: arrays that are turned come out turned.
    """
    return wrap(given(array if array.flags.c_contiguous else array.copy(), d), None, cls)


def view_chain(
    t: Handle, chain: Chain, strides: Shape | None, offset: int | None = None, cls: type = Tensor
) -> Any:
    """Return a view of `t` by a chain of view primitives; strides and offset are the caller's reckoning."""
    base = arrival(t)  # not a copy of memory shared with NumPy: a view shows what is there when it is read
    node = derive(base, chain)
    if node is base and node.needs_grad:
        node = alias(node)  # a view has a gradient and hooks of its own, even one that changes nothing
    v = blank(
        cls,
        t._storage,
        t._chain + chain,
        node.shape,
        node.dtype,
        node,
        strides,
        t._offset if offset is None else offset,
    )
    origin = t._base_ref
    detached = False if t._leaf else t._detached  # a leaf begins a history, whatever it was cut from
    v._detached = detached
    v._base_ref = origin
    if not state.grad:
        v._detached = t._detached or t._leaf or value(t).needs_grad
        if type(origin) is Origin or not detached:
            kind = "inference" if state.inference else "no_grad"
            v._base_ref = Origin(kind, counted(t._storage), t if t._leaf else leaf_of(t))
    elif type(origin) is Origin:
        output = (0, node.row.name.strip("_").title()) if node.needs_grad else None
        v._base_ref = Origin(origin.kind, counted(t._storage), origin.leaf, output, origin.advice)
    elif t._leaf and node.needs_grad:
        v._base_ref = t  # the history of a leaf's view begins at the leaf
    if node.home is None:
        node.home = (ref(t._storage), t._storage.version)
    v._inference = t._inference
    return v


def view_of_data(t: Handle, chain: Chain, shape: Shape, strides: Shape | None, offset: int) -> Any:
    """Return a view of numbers in memory that have no history. Its value is made when somebody asks for it.

    strides: None for those of a contiguous tensor.
    """
    kept = None if strides is None or is_contiguous(shape, strides) else strides
    v = blank(Tensor, t._storage, t._chain + chain, shape, t._dtype, t._node, kept, offset)
    v._seen, v._detached, v._inference = -1, t._detached, t._inference
    origin = t._base_ref
    if not state.grad:
        v._base_ref = Origin("inference" if state.inference else "no_grad", counted(t._storage))
    else:
        v._base_ref = origin.copy(counted(t._storage), origin.leaf) if type(origin) is Origin else origin
    return v


def strides_of(t: Handle) -> Shape:
    """Return the strides of a tensor, in elements."""
    known = t._strides
    return contiguous_strides(t._shape) if known is None else known


def adopt(cls: type, data: Handle, requires_grad: bool = False) -> Any:
    """Return a handle of class `cls` that shares the storage of `data`, outside its history."""
    if hasattr(cls, "__torch_dispatch__"):
        raise RuntimeError(
            f"{cls.__name__} has a __torch_dispatch__, which is not supported: Fanal has no dispatcher below its "
            "public functions; override __torch_function__"
        )
    if data._storage.node.buffer is None:
        leave_path()  # a result of following has no value of its own yet
    t = blank(
        cls, data._storage, data._chain, data._shape, data._dtype, value(data), data._strides, data._offset
    )
    if value(data).needs_grad or data._detached:
        t._detached = cut(t._storage)
        t._seen = -1
        value(t)
    t._leaf = requires_grad
    t._inference = data._inference
    if requires_grad and data._dtype.category < 2:
        raise RuntimeError("Only Tensors of floating point and complex dtype can require gradients")
    return t


def settled(t: Handle, text: str = DYNAMIC) -> np.ndarray:
    """Return the root value of a tensor's storage. Flushes when work is pending that may change it.

    text: the error if there is none, as the tensor belongs to one example of a batch, whichever it is.
    """
    spread(t._storage)
    if t._storage.node.buffer is None or written_ahead(t._storage):
        found = aside.read(t) if t._storage.node.buffer is None else None
        if found is not None:
            return found
        flush("read")
        if t._storage.node.buffer is None:
            refuse(t._storage.node)
            raise unknowable(text)
    return root_array(
        t._storage
    )  # of the storage it has now: what was handed out while following may have moved


def compute(t: Handle, text: str = DYNAMIC) -> np.ndarray:
    """Return the value of a tensor as an array that shares the memory of its storage. Flushes. text: see `settled`."""
    if t._storage.meta:
        raise NotImplementedError("Cannot copy out of meta tensor; no data!")
    return shown_of(t, settled(t, text))


def is_ready(tensor: Any) -> bool:
    """Whether the numbers can be read without running anything, and carry no history."""
    if type(tensor) is not Tensor:
        return False
    storage = tensor._storage
    node = storage.node
    if storage.meta or node.buffer is None:
        return False
    # This is all there is to ask of most: a view of a leaf knows the leaf.
    origin = tensor._base_ref
    if origin is None or (type(origin) is Origin and origin.leaf is None):
        if not (tensor._leaf or node.needs_grad or tensor._detached or tensor._path):
            return True
    return not tensor.requires_grad
