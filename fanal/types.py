"""Names for annotations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from fanal.core.base.device import device as _device
from fanal.core.base.missing import finder
from fanal.core.base.shape import Size
from fanal.core.tensor.tensor import Tensor

Number: TypeAlias = int | float | bool
Device: TypeAlias = _device | str | int | None
FileLike: TypeAlias = Any
Storage: TypeAlias = Any
_bool, _int, _float, _complex = bool, int, float, complex
_TensorOrTensors: TypeAlias = Tensor | Sequence[Tensor]
_size: TypeAlias = Size | list[int] | tuple[int, ...]

__all__ = ["Device", "FileLike", "Number", "Storage"]

__getattr__ = finder("torch.types")
