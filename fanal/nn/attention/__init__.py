"""What changes how scaled_dot_product_attention is computed, under PyTorch's names: here it is computed one way."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

from fanal.core.base.missing import absent


class SDPBackend(IntEnum):
    """The ways in which PyTorch computes attention."""

    ERROR = -1
    MATH = 0
    FLASH_ATTENTION = 1
    EFFICIENT_ATTENTION = 2
    CUDNN_ATTENTION = 3
    OVERRIDEABLE = 4


WARN_FOR_UNFUSED_KERNELS = False


class _Enabled(threading.local):
    def __init__(self) -> None:
        self.backends = list(SDPBackend)[1:]


_enabled = _Enabled()


def _cur_sdpa_kernel_backends(with_priority: bool = False) -> list[SDPBackend]:
    return list(_enabled.backends)


@contextmanager
def sdpa_kernel(
    backends: Sequence[SDPBackend] | SDPBackend, set_priority: bool = False
) -> Iterator[dict[str, Any]]:
    """Name the ways in which attention may be computed inside a block.

    Differs from torch: without effect. The one way here is fused where it can be, and has the same result.
    """
    if not isinstance(backends, (list, SDPBackend)):
        raise AssertionError(
            "Backend must be an instance of SDPBackend or a list of SDPBackend instances, got "
            f"{type(backends).__name__}"
        )
    outer = _enabled.backends
    _enabled.backends = list(dict.fromkeys([backends] if isinstance(backends, SDPBackend) else backends))
    try:
        yield {}
    finally:
        _enabled.backends = outer


__all__ = ["WARN_FOR_UNFUSED_KERNELS", "SDPBackend", "sdpa_kernel"]


def __getattr__(name: str) -> Any:
    if name in ("bias", "flex_attention"):
        return importlib.import_module(f"{__name__}.{name}")
    raise absent("torch.nn.attention", name)
