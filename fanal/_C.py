"""What programs take from PyTorch's extension module: the switches of __torch_function__."""

from __future__ import annotations

from fanal.core.base.missing import finder
from fanal.core.tensor.override import disabled as _disabled_torch_function_impl
from fanal.overrides import DisableTorchFunction, DisableTorchFunctionSubclass

__all__ = ["DisableTorchFunction", "DisableTorchFunctionSubclass", "_disabled_torch_function_impl"]

__getattr__ = finder("torch._C")
