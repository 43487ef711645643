"""What programs take from PyTorch's extension module: switches of its dispatch."""

from __future__ import annotations

from contextlib import nullcontext as _DisableFuncTorch  # transforms are no layers of a dispatcher here

from fanal.core.base.errors import LinAlgError as _LinAlgError
from fanal.core.base.missing import finder
from fanal.core.tensor.override import disabled as _disabled_torch_function_impl
from fanal.overrides import DisableTorchFunction, DisableTorchFunctionSubclass

__all__ = ["DisableTorchFunction", "DisableTorchFunctionSubclass", "_DisableFuncTorch",
           "_LinAlgError", "_disabled_torch_function_impl"]


def _get_tracing_state() -> None:
    """Return None: nothing is ever traced."""


__getattr__ = finder("torch._C")
