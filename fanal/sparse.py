"""Sparse tensors, as torch.sparse: COO and CSR."""

from __future__ import annotations

from typing import Any

from fanal.core.base.missing import absent
from fanal.core.ops.sparse_math import addmm, log_softmax, mm, sampled_addmm, softmax, sum

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


def __getattr__(name: str) -> Any:
    raise absent("torch.sparse", name)
