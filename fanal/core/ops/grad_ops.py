"""Tensor methods of autograd: requires_grad, backward, detach, hooks."""
from __future__ import annotations

from typing import Any

from fanal.core.autograd import api, hooks
from fanal.core.autograd.callbacks import Walk, stepwise
from fanal.core.base.state import state
from fanal.core.engine.follow import dispatch
from fanal.core.engine.matcher import matcher
from fanal.core.engine.record import Op, changed, leave_path, note_leaf, unfollowable
from fanal.core.ops.build import public
from fanal.core.tensor.alias import cut, value
from fanal.core.tensor.tensor import Tensor, adopt


def requires_grad_(self: Any, requires_grad: bool = True) -> Any:
    """Say whether gradients are collected at this leaf."""
    if requires_grad and self._dtype.category < 2:
        raise RuntimeError("only Tensors of floating point dtype can require gradients")
    if not self.is_leaf:
        if not requires_grad:
            raise RuntimeError("you can only change requires_grad flags of leaf variables. If you want to "
                               "use a computed "
                               "variable in a subgraph that doesn't require differentiation use "
                               "var_no_grad = var.detach().")
        return self
    if self._leaf is not bool(requires_grad):
        if requires_grad and self._inference and not state.inference:
            raise RuntimeError("Setting requires_grad=True on inference tensor outside InferenceMode is "
                               "not allowed.")
        self._leaf = bool(requires_grad)
        self._leaf_node = None
        changed()
    return self


_OP = Op("Tensor.requires_grad_", requires_grad_)


def _slow(*args: Any) -> Any:
    return dispatch(_OP, args, {})


_event = matcher.function(_OP.key, _slow, "requires_grad_", requires_grad_.__doc__, "fanal")


def _requires_grad_(self: Any, requires_grad: bool = True) -> Any:
    """Say whether gradients are collected at this leaf."""
    _event(self, requires_grad)
    if self._leaf is not bool(requires_grad) and self.is_leaf:  # a followed event runs nothing
        note_leaf(self)
        requires_grad_(self, requires_grad)
    return self


def _set_requires_grad(self: Any, requires_grad: Any) -> None:
    if not isinstance(requires_grad, bool):
        raise RuntimeError("requires_grad must be a bool")
    _requires_grad_(self, requires_grad)


_requires_grad_.__name__ = "requires_grad_"
Tensor.requires_grad_ = _requires_grad_  # type: ignore[attr-defined]
Tensor.requires_grad = Tensor.requires_grad.setter(_set_requires_grad)  # type: ignore[attr-defined]


@public(function=False)
@stepwise
def backward(self: Any, gradient: Any = None, retain_graph: bool | None = None, create_graph: bool = False,
             inputs: Any = None) -> Walk:
    """Compute the gradients of this tensor with respect to the leaves, and add them to their .grad."""
    yield from api.backward(self, gradient, retain_graph, create_graph, inputs)


@public(function=True)
def detach(self: Any) -> Any:
    """Return a tensor that shares the storage and is cut from the history."""
    t = adopt(Tensor, self)
    t._detached = cut(t._storage)
    t._seen = -1
    value(t)  # now, while the history to be cut is at hand: a known segment copies what the tensor holds
    return t


@public(event=False)
def detach_(self: Any) -> Any:
    """Cut this tensor from its history, in place."""
    if self._chain:
        raise RuntimeError("Can't detach views in-place. Use detach() instead. If you are using "
                           "DistributedDataParallel "
                           "(DDP) for training, and gradient_as_bucket_view is set as True, gradients are "
                           "views of DDP "
                           "buckets, and hence detach_() cannot be called on these gradients. To fix this "
                           "error, please "
                           "refer to the Optimizer.zero_grad() function in torch/optim/optimizer.py as a "
                           "solution.")
    leave_path()
    unfollowable("detach_ changes a tensor in place")
    self._leaf, self._leaf_node = False, None
    self._detached, self._seen, self._retain = cut(self._storage), -1, False
    changed()
    return self


for _name in ("register_hook", "register_post_accumulate_grad_hook", "retain_grad"):
    public(_name, function=False, event=False)(getattr(hooks, _name))

__all__ = ["backward", "detach", "detach_", "requires_grad_"]
