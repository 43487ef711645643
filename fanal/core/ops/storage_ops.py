"""Operators on the storage itself: resize, set, data, and what a tensor says about its memory."""
from __future__ import annotations

from typing import Any

from fanal.core.base.shape import Shape
from fanal.core.engine.handle import Storage
from fanal.core.engine.record import hold, leave_path
from fanal.core.ir.prims import full
from fanal.core.tensor.alias import value


def resize(t: Any, shape: Shape) -> Any:
    """Give `t` a new shape and undefined contents (zeros here), keeping its dtype; as Tensor.resize_."""
    n = 1
    for d in shape:
        n *= d
    from fanal.core.ir.prims import reshape, slice_
    leave_path()  # a tensor of a followed segment would get its recorded shape back
    old = value(t)
    if old.size >= n:
        new = reshape(slice_(reshape(old, (old.size,)), (0,), (n,), (1,)), tuple(shape))
    else:
        new = full(tuple(shape), 0, t._dtype)
    s = Storage(new, t._storage.meta)
    hold(s)
    t._storage, t._chain, t._shape = s, (), tuple(shape)
    t._node, t._seen, t._strides, t._offset = new, 0, None, 0
    return t
