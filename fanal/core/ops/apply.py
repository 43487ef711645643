"""Python functions on each element. They run on the host, one call an element, as in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fanal.core.engine.record import unfollowable
from fanal.core.ir.prims import given
from fanal.core.ops.build import assign, public
from fanal.core.tensor.tensor import compute


def _mapped(function: Callable[..., Any], self: Any, *others: Any) -> Any:
    """Replace the elements of `self` by function(element, elements of the others)."""
    if self.requires_grad:
        raise RuntimeError("Can't call apply_() or map_() on Variable that requires grad. Use var.detach() first.")
    unfollowable("a Python function is called for each element")
    values = [np.broadcast_to(compute(t), self._shape).reshape(-1).tolist() for t in (self, *others)]
    found = [function(*v) for v in zip(*values)]
    for v in found:
        if isinstance(v, (str, bytes)) or not isinstance(v, (bool, int, float, complex, np.generic)):
            raise TypeError(f"must be real number, not {type(v).__name__}")
    return assign(self, given(np.array(found).astype(self._dtype.np).reshape(self._shape), self._dtype))


@public(function=False)
def apply_(self: Any, callable: Callable[[Any], Any]) -> Any:
    """Replace each element x by callable(x)."""
    return _mapped(callable, self)


@public(function=False)
def map_(self: Any, tensor: Any, callable: Callable[[Any, Any], Any]) -> Any:
    """Replace each element x by callable(x, y), y from another tensor."""
    return _mapped(callable, self, tensor)


@public(function=False)
def map2_(self: Any, x: Any, y: Any, callable: Callable[[Any, Any, Any], Any]) -> Any:
    """Replace each element by callable of it and those of two other tensors."""
    return _mapped(callable, self, x, y)
