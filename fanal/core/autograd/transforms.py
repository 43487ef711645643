"""What the transforms of torch.func are made of: variables, gradients by them, results that forget them.

A transform differentiates by variables of its own, views of what it was given. They are leaves that collect no
gradients; if the argument already has a history (it is, or depends on, a variable of a transform around this one, or
a leaf of the user's), the variable has it too. So transforms nest, and none takes another's variable for its own.
"""

from __future__ import annotations

from typing import Any

from fanal.core.autograd import api
from fanal.core.autograd.backward import order
from fanal.core.autograd.callbacks import drive, stepwise
from fanal.core.autograd.events import event
from fanal.core.base.state import forward_mode, state
from fanal.core.ir.prims import alias, detach, tape, zeros
from fanal.core.ir.program import Node
from fanal.core.tensor.alias import VARIABLE, lost, read
from fanal.core.tensor.tensor import view_chain, wrap


def _variable(t: Any) -> Any:
    """Return a tensor for a function transform to differentiate by: a view that stays part of outer transforms."""
    if t._dtype.category < 2:
        raise RuntimeError("only Tensors of floating point dtype can require gradients")
    v = view_chain(t, (), t._strides)
    if not v._node.needs_grad:
        v._leaf, v._base_ref = True, VARIABLE
    return v


def _pulled(outputs: tuple, by: tuple, cotangents: Any, create_graph: bool) -> tuple:
    """Return gradients by variables; zeros where nothing leads from the outputs to them."""
    varying = [k for k, o in enumerate(outputs) if o.requires_grad]
    if not varying:
        return tuple(wrap(zeros(x._shape, x._dtype)) for x in by)
    return drive(stepwise(api.grad)(
        [outputs[k] for k in varying],
        by,
        None if cotangents is None else [cotangents[k] for k in varying],
        retain_graph=True,
        create_graph=create_graph,
        materialize_grads=True,
    ))


def _result(t: Any, outer: tuple) -> Any:
    """Return a result of a function transform for its caller.

    It keeps its history if gradients are recorded and it depends on more than variables of transforms that are over:
    on ordinary leaves, or on `outer`, the variables of those around this one. Tangents stay.
    """
    n = read(t)
    m = _settled(n, {id(v) for v in outer})
    return t if m is n else wrap(m)


def _settled(n: Node, outer: set[int]) -> Node:
    """Return a value, and its tangents, cut from a history that leads to nothing more."""
    known = n.tangents or {}
    tangents = {level: _settled(known[level], outer) for level in state.levels if level in known}
    kept = not n.needs_grad or (state.grad and any(_beyond(m, outer) for m in order([n])))
    if kept and all(known[level] is t for level, t in tangents.items()):
        return n
    with forward_mode(None):
        m = alias(n) if kept else detach(n)
    m.tangents = tangents
    return m


def _beyond(n: Node, outer: set[int]) -> bool:
    """Tell whether a value is where gradients arrive or end, or may lead there, but for variables not in `outer`."""
    if n.leaf is None:
        return not n.inputs or (n.row is tape and n.params[0] is lost)
    return n.leaf._base_ref is not VARIABLE or id(n.leaf) in outer


variable = event("autograd.variable", _variable)
pulled = event("autograd.pulled", _pulled)
settled = event("autograd.settled", _result)
