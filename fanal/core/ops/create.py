"""Making tensors from Python data and NumPy arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fanal.core.backends.cpu.memory import aligned_copy
from fanal.core.base import device as devices
from fanal.core.base import dtype as dt
from fanal.core.base import layout as layouts
from fanal.core.base.dim import index
from fanal.core.base.shape import Shape, Size
from fanal.core.engine.handle import Handle
from fanal.core.ir.prims import full as full_p
from fanal.core.ir.prims.point import _convert_ref
from fanal.core.ops.build import public, result
from fanal.core.ops.grad_ops import requires_grad_
from fanal.core.tensor.tensor import Tensor, adopt, compute, install_constructor, wrap, wrap_array


def array_from(data: Any, d: dt.dtype | None = None) -> tuple[np.ndarray, dt.dtype]:
    """Return nested Python data as a fresh C-contiguous array and its dtype, inferred as torch.tensor does."""
    if isinstance(data, Handle):
        a = compute(data)
        src = data._dtype
    elif isinstance(data, (np.ndarray, np.generic)):
        a = np.asarray(data)
        src = dt.from_numpy(a.dtype)
    else:
        data = _plain(data)
        a = np.array(data, order="C")
        kind = a.dtype.kind
        if kind in "OUSMm":
            _explain(data)
        src = dt.int64 if kind == "u" and d is None else _OF_KIND[kind]()
    d = d or src
    if a.dtype != d.np:
        if a.dtype.kind in "iu" and d.category == 1 and a.size and not isinstance(data, (Handle, np.ndarray)):
            info = np.iinfo(d.np)
            if int(a.max()) > info.max or int(a.min()) < info.min:
                raise RuntimeError(f"value cannot be converted to type {d.np.name} without overflow")
        with np.errstate(all="ignore"):
            a = _convert_ref(dt.plain(a), d) if d is not dt.complex32 else dt.pairs(a)
    return aligned_copy(a) if isinstance(data, (Handle, np.ndarray, np.generic)) else a, d


_MANY = 8  # numbers in a list from which on it is data, such as a random batch, and no part of the program


def data_of(item: Any) -> Any:
    """Return positions that NumPy or a long list gives as a tensor that comes from outside; other items as they are."""
    if isinstance(item, np.generic):
        return item.item()
    if (isinstance(item, np.ndarray) and item.ndim and item.dtype.kind in "biu") or \
            (type(item) is list and len(item) >= _MANY and all(type(i) is int for i in item)):
        return wrap_array(*array_from(item))
    return item


_NUMBERS = frozenset((int, float, bool, complex))
_OF_KIND = {  # of a NumPy array of numbers
    "b": lambda: dt.bool_,
    "i": lambda: dt.int64,
    "u": lambda: dt.uint64,
    "f": dt.get_default,
    "c": lambda: dt.get_default().to_complex(),
}


def _plain(x: Any) -> Any:
    """Replace tensors inside nested sequences by their values."""
    if isinstance(x, (list, tuple, range)):
        return [i if type(i) in _NUMBERS else _plain(i) for i in x]
    return compute(x) if isinstance(x, Handle) else x


def _explain(data: Any) -> None:
    """Raise what torch.tensor raises for data that is not a box of numbers."""

    def walk(x: Any) -> Any:
        if isinstance(x, list):
            lengths = [walk(i) for i in x]
            for n in lengths:
                if n != lengths[0]:
                    raise ValueError(f"expected sequence of length {lengths[0]} at dim 1 (got {n})")
            return len(x)
        if isinstance(x, str):
            raise (
                ValueError("too many dimensions 'str'")
                if len(x) and x is not data
                else TypeError("new(): invalid data type 'str'")
            )
        if not isinstance(x, (bool, int, float, complex, np.ndarray, np.generic)):
            raise RuntimeError(f"Could not infer dtype of {type(x).__name__}")
        return None

    walk(data)
    raise ValueError("could not turn the given data into a tensor: rows of different lengths?")


@public(method=False, event=False)
def tensor(
    data: Any,
    *,
    dtype: dt.dtype | None = None,
    device: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Any:
    """Return a new tensor with a copy of `data` (nested sequences, numbers, arrays)."""
    where = devices.resolve(device)
    a, d = array_from(data, dtype)
    t = wrap_array(a, d)
    t._storage.meta = where is devices.META
    if requires_grad:
        requires_grad_(t)
    return t


@public(method=False, out="fill")
def zeros(
    *size: Any,
    dtype: dt.dtype | None = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    pin_memory: bool = False,
    names: Any = None,
) -> Any:
    """Return a tensor of zeros; with a sparse layout, one that stores none of them."""
    t = filled(shape_of(size), 0, dtype or dt.get_default(), device, requires_grad)
    return t if layout is None or layout is layouts.strided else t.to_sparse(layout=layout)


@public(method=False, out="fill")
def ones(
    *size: Any,
    dtype: dt.dtype | None = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    pin_memory: bool = False,
    names: Any = None,
) -> Any:
    """Return a tensor of ones."""
    return filled(shape_of(size), 1, dtype or dt.get_default(), device, requires_grad)


def shape_of(size: tuple) -> Shape:
    """Return a shape given as f(2, 3) or f((2, 3)). Raises TypeError for anything but whole numbers."""
    if len(size) == 1 and isinstance(size[0], (tuple, list)):
        size = tuple(size[0])
    out = tuple(map(_whole, size))
    if size and isinstance(size[0], (bool, np.bool_)):  # which PyTorch takes for a number in other places
        raise TypeError("argument 'size' must be tuple of ints, not bool")
    for n in out:
        if n < 0:
            raise RuntimeError(f"Trying to create tensor with negative dimension {n}: {list(out)}")
    return out


def shape_in(size: Any) -> Shape:
    """Return a shape that must be given as f((2, 3), ...)."""
    if not isinstance(size, (tuple, list)):
        raise TypeError(f"argument 'size' must be tuple of ints, not {type(size).__name__}")
    return shape_of((size,))


def _whole(n: Any) -> int:
    if isinstance(n, Handle) and n._dtype.category == 1 and math.prod(n._shape) == 1:
        n = compute(n).reshape(())
    try:
        return index(n)
    except TypeError:
        raise TypeError(
            f"argument 'size' must be tuple of ints, but found element of type {type(n).__name__}"
        ) from None


def is_data(x: Any) -> bool:
    """Tell whether a legacy constructor takes `x` for numbers, and not for sizes, which a torch.Size is."""
    return isinstance(x, (list, tuple, range, np.ndarray)) and not isinstance(x, Size)


def held(value: Any, d: dt.dtype) -> Any:
    """Return a Python number as dtype `d` holds it. Raises RuntimeError where it has no place there."""
    dt.check_fits(value, d)
    if d is dt.bool_:
        return bool(value)
    if d.category != 1:
        return value if d.is_complex else value.real
    n = int(value.real)
    return n if d.is_signed else n % (1 << 8 * d.itemsize)


def filled(shape: Shape, value: Any, d: dt.dtype, device: Any = None, requires_grad: bool = False) -> Any:
    """Return a tensor filled with one number."""
    where = devices.resolve(device)
    t = wrap(full_p(shape, held(value, d), d))
    t._storage.meta = where is devices.META
    if requires_grad:
        requires_grad_(t)
    return t


def _constructor(cls: type, *args: Any, **kwargs: Any) -> Any:
    """torch.Tensor(...): sizes, a sequence of data, or another tensor, in the default dtype."""
    if not args:
        t = filled((0,), 0, dt.get_default())
    elif isinstance(args[0], Handle):
        return adopt(cls, args[0])
    elif is_data(args[0]):
        t = tensor(args[0], dtype=dt.get_default())
    else:
        t = filled(shape_of(args), 0, dt.get_default())
    if cls is not Tensor:
        t = adopt(cls, t)
    return t


install_constructor(_constructor)
__all__ = ["Tensor", "result"]
