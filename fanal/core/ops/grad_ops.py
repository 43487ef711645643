"""Tensor methods of autograd: requires_grad_, backward, detach, hooks, .grad, .data."""
from __future__ import annotations

from typing import Any

from fanal.core.autograd import api
from fanal.core.base import dtype as dt
from fanal.core.engine.handle import Handle
from fanal.core.ops.build import public
from fanal.core.tensor.alias import read, value
from fanal.core.tensor.tensor import Tensor, adopt, wrap


@public(function=False)
def requires_grad_(self: Any, requires_grad: bool = True) -> Any:
    """Say whether gradients are collected at this leaf."""
    if requires_grad and self._dtype.category < 2:
        raise RuntimeError("only Tensors of floating point dtype can require gradients")
    if not self.is_leaf:
        if not requires_grad:
            raise RuntimeError("you can only change requires_grad flags of leaf variables. If you want to use a computed "
                               "variable in a subgraph that doesn't require differentiation use var_no_grad = var.detach().")
        return self
    self._leaf = bool(requires_grad)
    self._leaf_node = None
    return self


@public(function=False)
def backward(self: Any, gradient: Any = None, retain_graph: bool | None = None, create_graph: bool = False,
             inputs: Any = None) -> None:
    """Compute the gradients of this tensor with respect to the leaves, and add them to their .grad."""
    api.backward(self, gradient, retain_graph, create_graph, inputs)


@public(function=True)
def detach(self: Any) -> Any:
    """Return a tensor that shares the storage and is cut from the history."""
    t = adopt(Tensor, self)
    t._detached = True
    t._seen = -1
    return t


__all__ = ["Handle", "dt", "read", "value", "wrap"]
