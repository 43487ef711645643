"""Sparse tensors, as torch.sparse: COO and CSR."""

from __future__ import annotations

from typing import Any

import fanal
from fanal.core.base import dtype as dt
from fanal.core.base.missing import absent
from fanal.core.ops.sparse_math import addmm, log_softmax, mm, sampled_addmm, softmax, sum
from fanal.core.tensor.sparse import Sparse

__all__ = ["addmm", "check_sparse_tensor_invariants", "log_softmax", "mm", "sampled_addmm", "softmax", "sum"]


class check_sparse_tensor_invariants:
    """Context in which the invariants of sparse tensors are checked: here they always are."""

    def __init__(self, enable: bool = True) -> None:
        self.enable_ = enable

    @staticmethod
    def is_enabled() -> bool:
        """Return True."""
        return True

    @staticmethod
    def enable() -> None:
        """Do nothing: the checks are on."""

    @staticmethod
    def disable() -> None:
        """Do nothing: the checks stay on."""

    def __enter__(self) -> check_sparse_tensor_invariants:
        return self

    def __exit__(self, *error: Any) -> None:
        return None


class _Legacy(type):
    """A type that stands for sparse tensors of one dtype: isinstance asks the dtype, a call makes a COO tensor of
    indices, values and a size, or one of a size without elements."""

    kind: dt.dtype

    def __instancecheck__(cls, obj: object) -> bool:
        return isinstance(obj, Sparse) and obj.dtype is cls.kind

    def __call__(cls, *args: Any) -> Any:
        if args and isinstance(args[0], fanal.Tensor):
            return fanal.sparse_coo_tensor(*args)
        size = args[0] if len(args) == 1 and isinstance(args[0], (tuple, list)) else args or (0,)
        return fanal.sparse_coo_tensor(
            fanal.empty(len(size), 0, dtype=fanal.int64), fanal.empty(0, dtype=cls.kind), size
        )


_LEGACY = {
    "BFloat16Tensor": dt.bfloat16,
    "ByteTensor": dt.uint8,
    "CharTensor": dt.int8,
    "DoubleTensor": dt.float64,
    "FloatTensor": dt.float32,
    "HalfTensor": dt.float16,
    "IntTensor": dt.int32,
    "LongTensor": dt.int64,
    "ShortTensor": dt.int16,
}
globals().update(
    {name: _Legacy(name, (), {"kind": d, "__module__": "torch.sparse"}) for name, d in _LEGACY.items()}
)


def __getattr__(name: str) -> Any:
    raise absent("torch.sparse", name)
