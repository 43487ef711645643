"""The seam between checkpoint files and tensors.

The file formats know NumPy arrays, names and numbers; an ``Adapter`` turns these into tensors and
back. One adapter serves Fanal; tests hand the same code PyTorch through another.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple, Protocol

import numpy as np


class StorageParts(NamedTuple):
    """A storage on its way into a file."""

    flat: np.ndarray  # all its elements, 1-d, contiguous
    key: Hashable  # equal for every tensor that shares it
    device: str  # "cpu", "cuda:0"


class TensorParts(NamedTuple):
    """A tensor on its way into a file; offset and strides count elements."""

    storage: StorageParts
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    requires_grad: bool
    cls: type | None  # a Tensor subclass, None for Tensor itself and for Parameter
    is_parameter: bool
    state: dict[str, Any]  # attributes the user set on it
    flags: dict[str, bool]  # {"conj": True}, {"neg": True} for views not yet resolved


class Adapter(Protocol):
    """What the serializer asks of a tensor library."""

    tensor_class: type
    parameter_class: type

    # saving
    def kind(self, obj: object) -> str | None:
        """Return "tensor", "lazy" (a tensor without a shape yet), "storage", "dtype", "device", "size",
        "module", or None for any other object."""

    def tensor_parts(self, tensor: Any) -> TensorParts: ...
    def storage_parts(self, storage: Any) -> tuple[StorageParts, str | None]:
        """Return the storage and its dtype, None where it is untyped."""

    def dtype_name(self, dtype: Any) -> str: ...
    def device_args(self, device: Any) -> tuple: ...
    def module_defaults(self) -> dict[str, Any]:
        """Return the attributes PyTorch expects in the state of every nn module."""

    def public_name(self, obj: Any) -> tuple[str, str] | None:
        """Return the (module, name) under which PyTorch knows a class or function of the library."""

    # loading
    def has_device(self, device: str) -> bool: ...
    def make_base(self, flat: np.ndarray, device: str) -> Any:
        """Return a flat tensor that owns (shares) the memory of ``flat``."""

    def make_tensor(
        self, base: Any, offset: int, shape: tuple, strides: tuple, requires_grad: bool, flags: dict
    ) -> Any: ...
    def make_meta(self, shape: tuple, strides: tuple, dtype: str, requires_grad: bool) -> Any: ...
    def make_sparse(self, layout: str, args: tuple) -> Any: ...
    def make_parameter(self, data: Any, requires_grad: bool) -> Any: ...
    def make_lazy(self, name: str, requires_grad: bool) -> Any: ...
    def as_subclass(self, tensor: Any, cls: type) -> Any: ...
    def set_state(self, tensor: Any, state: dict[str, Any]) -> None: ...
    def make_dtype(self, name: str) -> Any: ...
    def make_device(self, args: tuple) -> Any: ...
    def make_size(self, sizes: tuple[int, ...]) -> Any: ...
    def make_layout(self, name: str) -> Any: ...
    def find_class(self, module: str, name: str) -> type | None:
        """Return the library's own nn class that PyTorch pickles as ``module.name``."""

    def find_function(self, module: str, name: str) -> Any:
        """Return the library's own pure function that PyTorch pickles as ``module.name``."""
