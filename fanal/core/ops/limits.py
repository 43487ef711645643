"""What numbers a dtype holds: finfo, iinfo, the default dtype, and the legacy tensor types."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.engine.follow import dispatch
from fanal.core.engine.handle import Handle
from fanal.core.engine.matcher import matcher
from fanal.core.engine.record import Op
from fanal.core.ops.build import public
from fanal.core.ops.convert import LEGACY
from fanal.core.ops.create import filled, is_data, shape_of, tensor

_RESOLUTION = {
    "float16": 1e-3,
    "bfloat16": 1e-2,
    "float32": 1e-6,
    "float64": 1e-15,
    "float8_e4m3fn": 1.0,
    "float8_e5m2": 1.0,
    "float8_e4m3fnuz": 1.0,
    "float8_e5m2fnuz": 1.0,
}


class finfo:
    """Limits of a floating dtype, as torch.finfo."""

    __module__ = "torch"
    __slots__ = ("bits", "dtype", "eps", "max", "min", "resolution", "smallest_normal", "tiny")

    def __init__(self, type: dt.dtype | None = None) -> None:
        d = (type or dt.get_default()).to_real()
        if not isinstance(d, dt.dtype) or not d.is_floating_point:
            raise TypeError(
                "torch.finfo() requires a floating point input type. Use torch.iinfo to handle 'torch.finfo'"
            )
        info = ml_dtypes.finfo(d.np)
        self.bits, self.dtype, self.resolution = 8 * d.itemsize, d.name, _RESOLUTION[d.name]
        self.eps, self.max, self.min = float(info.eps), float(info.max), float(info.min)
        self.tiny = self.smallest_normal = float(info.tiny)

    def __repr__(self) -> str:
        return (
            f"finfo(resolution={self.resolution:g}, min={self.min:g}, max={self.max:g}, eps={self.eps:g}, "
            f"smallest_normal={self.smallest_normal:g}, tiny={self.tiny:g}, dtype={self.dtype})"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, finfo) and other.dtype == self.dtype

    def __hash__(self) -> int:
        return hash(("finfo", self.dtype))


class iinfo:
    """Limits of an integer dtype, as torch.iinfo."""

    __module__ = "torch"
    __slots__ = ("bits", "dtype", "max", "min")

    def __init__(self, type: dt.dtype) -> None:
        if type is dt.bool_:
            raise TypeError("torch.bool is not supported by torch.iinfo")
        if not isinstance(type, dt.dtype) or type.category != 1:
            raise TypeError(
                "torch.iinfo() requires an integer input type. Use torch.finfo to handle 'torch.iinfo'"
            )
        info = np.iinfo(type.np)
        self.bits, self.max, self.min, self.dtype = info.bits, int(info.max), int(info.min), type.name

    def __repr__(self) -> str:
        return f"iinfo(min={self.min:g}, max={self.max:g}, dtype={self.dtype})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, iinfo) and other.dtype == self.dtype

    def __hash__(self) -> int:
        return hash(("iinfo", self.dtype))


class _Legacy(type):
    """A type that stands for tensors of one dtype: isinstance asks the dtype, a call makes such a tensor."""

    kind: dt.dtype

    def __instancecheck__(cls, obj: object) -> bool:
        return isinstance(obj, Handle) and obj._dtype is cls.kind

    def __call__(cls, *args: Any, device: Any = None) -> Any:
        if len(args) == 1 and isinstance(args[0], Handle):
            return args[0]
        if len(args) == 1 and is_data(args[0]):
            return tensor(args[0], dtype=cls.kind)
        return filled(shape_of(args) if args else (0,), 0, cls.kind)

    @property
    def dtype(cls) -> dt.dtype:
        return cls.kind


for _d in dt.ALL:
    if _d.category < 3 and _d.itemsize and not _d.name.startswith(("float8", "uint16", "uint32", "uint64")):
        _name = f"{dt.scalar_name(_d)}Tensor"
        _type = _Legacy(
            _name, (), {"kind": _d, "__module__": "torch", "__doc__": f"Tensors of dtype {_d.name}."}
        )
        public(_name, method=False, event=False)(_type)

public("finfo", method=False, event=False)(finfo)
public("iinfo", method=False, event=False)(iinfo)


@public(method=False, event=False)
def get_default_dtype() -> dt.dtype:
    """Return the dtype of floating tensors for which none is given."""
    return dt.get_default()


_DEFAULT = Op("engine.default_dtype", dt.set_default)


def _slow_default(*args: Any) -> Any:
    return dispatch(_DEFAULT, args, {})


_default_event = matcher.function(_DEFAULT.key, _slow_default, "default_dtype", dt.set_default.__doc__, "fanal")


@public(method=False, event=False)
def set_default_dtype(d: dt.dtype) -> None:
    """Set the dtype of floating tensors for which none is given. A change is an event, as that of a mode."""
    if d is not dt.get_default():
        dt.check_default(d)
        _default_event(d)
        dt.set_default(d)  # a followed event runs nothing


@public(method=False, event=False)
def set_default_tensor_type(t: Any) -> None:
    """Set the default dtype by a legacy tensor type or its name."""
    name = t if isinstance(t, str) else t.__name__
    known = LEGACY.get(name.rpartition(".")[2])
    if known is None:
        raise TypeError(f"invalid type object: {name}")
    set_default_dtype(known)
