"""Weights of convolutions in another memory format."""

from __future__ import annotations

from typing import Any

__all__ = ["convert_conv2d_weight_memory_format", "convert_conv3d_weight_memory_format"]


def _convert(module: Any, memory_format: Any, dims: int) -> Any:
    from fanal.nn.modules import conv  # the modules import this package

    kinds = (getattr(conv, f"Conv{dims}d"), getattr(conv, f"ConvTranspose{dims}d"))
    for child in module.modules():
        if isinstance(child, kinds):
            child.weight.data = child.weight.detach().clone(memory_format=memory_format)
    return module


def convert_conv2d_weight_memory_format(module: Any, memory_format: Any) -> Any:
    """Convert the weights of all two-dimensional convolutions."""
    return _convert(module, memory_format, 2)


def convert_conv3d_weight_memory_format(module: Any, memory_format: Any) -> Any:
    """Convert the weights of all three-dimensional convolutions."""
    return _convert(module, memory_format, 3)
