"""The operators that PyTorch writes in Python: under torch.functional they are what they are under torch."""

from __future__ import annotations

from typing import Any

from fanal.core.base.missing import absent
from fanal.core.ops.surface import FUNCTIONS

_NAMES = """
atleast_1d atleast_2d atleast_3d block_diag broadcast_shapes broadcast_tensors cartesian_prod cdist chain_matmul einsum
istft lu meshgrid norm pca_lowrank split stft svd_lowrank tensordot unique unique_consecutive unravel_index
""".split()
__all__ = list(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise absent("torch.functional", name)
    return FUNCTIONS["torch"][name]
