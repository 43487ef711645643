"""All parameters as one vector and back."""

from __future__ import annotations

from collections.abc import Iterable

import fanal
from fanal import Tensor

__all__ = ["parameters_to_vector", "vector_to_parameters"]


def _same_device(tensor: Tensor, device: object) -> object:
    if device is not None and tensor.device != device:
        raise TypeError("Found two parameters on different devices, this is currently not supported.")
    return tensor.device


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """Join all parameters into one vector."""
    device, parts = None, []
    for parameter in parameters:
        device = _same_device(parameter, device)
        parts.append(parameter.reshape(-1))
    return fanal.cat(parts)


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Make the parameters parts of a vector."""
    if not isinstance(vec, Tensor):
        raise TypeError(f"expected torch.Tensor, but got: {type(vec).__name__}")
    device, at = None, 0
    for parameter in parameters:
        device = _same_device(parameter, device)
        end = at + parameter.numel()
        parameter.data = vec[at:end].view_as(parameter).data
        at = end
