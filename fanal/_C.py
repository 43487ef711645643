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


def _log_api_usage_once(event: str) -> None:
    """Do nothing: nobody counts what is used."""


def _jit_set_profiling_mode(enabled: bool) -> bool:
    """Return False: there is no compiler of scripts to be told."""
    return False


_jit_set_profiling_executor = _jit_set_texpr_fuser_enabled = _jit_set_profiling_mode
_jit_override_can_fuse_on_cpu = _jit_override_can_fuse_on_gpu = _jit_set_profiling_mode
_jit_set_nvfuser_enabled = _jit_set_profiling_mode

__getattr__ = finder("torch._C")
