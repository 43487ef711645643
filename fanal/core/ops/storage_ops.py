"""Operators on the storage itself: resize, set, data, and what a tensor says about its memory."""
from __future__ import annotations

import math
from typing import Any
from weakref import ref

from fanal.core.base.shape import Shape
from fanal.core.engine.handle import Storage
from fanal.core.engine.record import hold, leave_path
from fanal.core.ir.prims import alias, concat, corner, full, reshape
from fanal.core.tensor.alias import value


def resize(t: Any, shape: Shape) -> Any:
    """Give `t` a new shape, keeping dtype and elements; as Tensor.resize_. New elements are undefined (zeros here).

    Raises: RuntimeError if a shared memory would have to grow.
    """
    n = math.prod(shape)
    leave_path()  # a tensor of a followed segment would get its recorded shape back
    old = value(t)
    if old.size >= n:
        new = reshape(corner(reshape(old, (old.size,)), (n,)), tuple(shape))
    else:
        if t._storage.foreign is not None:
            raise RuntimeError("Trying to resize storage that is not resizable")
        rest = full((n - old.size,), 0, t._dtype)
        new = reshape(concat((reshape(old, (old.size,)), rest), 0), tuple(shape))
    if new.home is not None:
        new = alias(new)  # one value, two storages: each needs memory of its own
    s = Storage(new, t._storage.meta)
    new.home = (ref(s), 0)
    hold(s)
    t._storage, t._chain, t._shape = s, (), tuple(shape)
    t._node, t._seen, t._strides, t._offset = new, 0, None, 0
    return t
