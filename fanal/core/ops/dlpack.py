"""Memory shared through DLPack's capsules, both ways, with NumPy's reading and writing of them.

Source: the DLPack specification, version 1.0 (dmlc.github.io/dlpack).
"""

from __future__ import annotations

import ctypes
import enum
from typing import Any

import numpy as np

from fanal.core.base import device as devices
from fanal.core.base import dtype as dt
from fanal.core.ops.build import public
from fanal.core.ops.numpy_share import borrow
from fanal.core.tensor.tensor import Tensor

DLDeviceType = enum.IntEnum(  # type: ignore[misc]
    "DLDeviceType",
    {
        "kDLCPU": 1, "kDLCUDA": 2, "kDLCUDAHost": 3, "kDLOpenCL": 4, "kDLVulkan": 7, "kDLMetal": 8, "kDLVPI": 9,
        "kDLROCM": 10, "kDLROCMHost": 11, "kDLExtDev": 12, "kDLCUDAManaged": 13, "kDLOneAPI": 14, "kDLWebGPU": 15,
        "kDLHexagon": 16, "kDLMAIA": 17,
    },
)  # fmt: skip
_CPU = (DLDeviceType.kDLCPU, 0)
_INTEGER, _BFLOAT = 0, 4  # codes of types; NumPy knows no bfloat16, and is shown an integer
# Where the code stands in a capsule, by the capsule's name: after data, device and ndim of the tensor, which in the
# later version follows a head of 32 bytes.
_CODE_AT = {b"dltensor": 20, b"dltensor_versioned": 52}
_INVALID = (
    "from_dlpack received an invalid capsule. Note that DLTensor capsules can be consumed only once, so you might "
    "have already constructed a tensor from it once."
)


def _type_code(capsule: Any) -> tuple[bytes, Any]:
    """Return the name of a capsule, and the code of its elements' type, in place.

    Raises: RuntimeError for a capsule that was used.
    """
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype, api.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    name = api.PyCapsule_GetName(capsule)
    if name not in _CODE_AT:
        raise RuntimeError(_INVALID)
    return name, ctypes.c_uint8.from_address(api.PyCapsule_GetPointer(capsule, name) + _CODE_AT[name])


class _Exporter:
    """Hands a capsule to NumPy, which asks objects and not capsules."""

    def __init__(self, capsule: Any) -> None:
        self.capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU


class _Writable:
    """Shows the memory of an array as one that may be written."""

    def __init__(self, a: np.ndarray) -> None:
        self.memory = a
        self.__array_interface__ = {**a.__array_interface__, "data": (a.__array_interface__["data"][0], False)}


def _export(self: Any, *, stream: Any = -1, **options: Any) -> Any:
    """Return a capsule over the memory of the tensor."""
    if self.requires_grad:
        raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
    options = {k: v for k, v in options.items() if v is not None}
    if self._dtype is not dt.bfloat16:
        return self.numpy().__dlpack__(**options)
    capsule = self.view(dt.int16).numpy().__dlpack__(**options)
    _type_code(capsule)[1].value = _BFLOAT
    return capsule


Tensor.__dlpack__ = _export  # type: ignore[attr-defined]
Tensor.__dlpack_device__ = lambda self: _CPU  # type: ignore[attr-defined]


@public(method=False, event=False)
def from_dlpack(ext_tensor: Any, *, device: Any = None, copy: bool | None = None) -> Any:
    """Return a tensor that shares the memory of a capsule, or of an object that gives one, on the CPU.

    copy=True: its own memory. Raises: RuntimeError for a capsule that was used before.
    """
    devices.resolve(device)
    capsule = _capsule(ext_tensor)
    name, code = _type_code(capsule)
    bfloat = code.value == _BFLOAT
    if bfloat:
        code.value = _INTEGER
    a = np.from_dlpack(_Exporter(capsule))
    if name == b"dltensor":  # which cannot say whether memory may be written, and NumPy takes for no
        a = np.asarray(_Writable(a))
    t = borrow(a)
    if bfloat:
        t = t.view(dt.bfloat16)
    return t.clone() if copy else t


def _capsule(x: Any) -> Any:
    """Return a capsule, or that of an object, in the later version where it has one."""
    if type(x).__name__ == "PyCapsule":
        return x
    if not hasattr(x, "__dlpack__"):
        raise RuntimeError(_INVALID)
    try:
        return x.__dlpack__(max_version=(1, 0))
    except TypeError:
        return x.__dlpack__()


@public("to_dlpack", method=False, event=False)
def to_dlpack(tensor: Any) -> Any:
    """Return a capsule over the memory of a tensor; it can be read once. Gradients do not go through it."""
    return tensor.detach().__dlpack__()
