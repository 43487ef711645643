"""Data parallelism over the GPUs of one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fanal.nn.modules.module import Module

__all__ = ["DataParallel", "data_parallel"]


class DataParallel(Module):
    """Run a module on parts of a batch, one for each GPU; where there is none, as here, on the whole batch.

    `module` is the module, and its parameters are named "module.…" as in PyTorch. The arguments about devices have no
    effect, as PyTorch's have none without a GPU.
    """

    def __init__(
        self,
        module: Module,
        device_ids: Sequence[Any] | None = None,
        output_device: Any = None,
        dim: int = 0,
    ) -> None:
        super().__init__()
        self.module = module
        self.device_ids: list[Any] = []

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return self.module(*inputs, **kwargs)


def data_parallel(
    module: Module,
    inputs: Any,
    device_ids: Sequence[Any] | None = None,
    output_device: Any = None,
    dim: int = 0,
    module_kwargs: dict[str, Any] | None = None,
) -> Any:
    """Call a module with `inputs`, a tuple or one tensor, and `module_kwargs`; see `DataParallel`."""
    if not isinstance(inputs, tuple):
        inputs = () if inputs is None else (inputs,)
    return module(*inputs, **module_kwargs or {})
