"""Reverse-mode differentiation over recorded values.

The walk visits values from the roots to the leaves in an order that respects use, asks each primitive's rule for the
gradients of its inputs, and sums what meets. Rules build values, so the same walk gives gradients of any order.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fanal.core.base.dtype import scalar_name
from fanal.core.base.shape import Shape
from fanal.core.base.state import grad_mode
from fanal.core.base.where import show
from fanal.core.engine.handle import Handle
from fanal.core.engine.record import unfollowable
from fanal.core.ir.prims import add, convert, real, sum_to
from fanal.core.ir.program import Node
from fanal.core.tensor.tensor import Tensor, wrap

FREED = ("Trying to backward through the graph a second time (or directly access saved tensors after they have already "
         "been freed). Saved intermediate values of the graph are freed when you call .backward() or autograd.grad(). "
         "Specify retain_graph=True if you need to backward through the graph a second time or if you need to access "
         "saved tensors after calling backward.")


def order(roots: Sequence[Node]) -> list[Node]:
    """Return the values that gradients flow through, users before what they use."""
    out: list[Node] = []
    seen: set[int] = set()
    stack: list[tuple[Node, bool]] = [(r, False) for r in roots if r.needs_grad]
    while stack:
        n, done = stack.pop()
        if done:
            out.append(n)
            continue
        if id(n) in seen:
            continue
        seen.add(id(n))
        stack.append((n, True))
        if n.leaf is None:
            stack.extend((i, False) for i in n.inputs if i.needs_grad and id(i) not in seen)
    out.reverse()
    return out


def _saved(n: Node, g: Node, outs: Sequence[Node | None]) -> list[Node]:
    """Return the forward values (inputs of `n`, or `n`) that a rule's result reads: what PyTorch saves, and frees."""
    mine = {id(i): i for i in n.inputs}
    mine[id(n)] = n
    found: list[Node] = []
    seen = {id(g)}
    todo = [o for o in outs if o is not None]
    while todo:
        o = todo.pop()
        if id(o) in seen:
            continue
        seen.add(id(o))
        if id(o) in mine:
            found.append(mine[id(o)])
        else:
            todo.extend(o.inputs)
    return found


def _check_versions(n: Node, saved: Sequence[Node]) -> None:
    """Raise PyTorch's error if a forward value that a rule reads was overwritten since."""
    for v in saved:
        storage = v.home and v.home[0]()
        if storage is None or storage.version == v.home[1]:  # type: ignore[index]
            continue
        version = v.home[1]  # type: ignore[index]
        at = show(n.where)
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace operation: "
            f"[torch.{scalar_name(v.dtype)}Tensor {list(v.shape)}], which is output 0 of {grad_name(v)}, is at version "
            f"{storage.version}; expected version {version} instead. Hint: enable anomaly detection to find the "
            "operation that failed to compute its gradient, with torch.autograd.set_detect_anomaly(True)."
            + (f" The value was needed by '{n.row.name}' at {at}: use an out-of-place operation, or clone() it before "
               "writing." if at else ""))


_NAMES = {"sum": "SumBackward1", "reshape": "ViewBackward0", "dot": "MmBackward0", "max": "MaximumBackward0",
          "alias": "AccumulateGrad", "tape": "TapeBackward0", "convert": "ToCopyBackward0", "permute": "PermuteBackward0",
          "broadcast": "ExpandBackward0", "slice": "SliceBackward0", "conv": "ConvolutionBackward0"}


def grad_name(n: Node) -> str:
    """Return PyTorch's name for the backward function of a value."""
    if n.leaf is not None:
        return "AccumulateGrad"
    return _NAMES.get(n.row.name, n.row.name.strip("_").title().replace("_", "") + "Backward0")


def _fit(g: Node, to: Node) -> Node:
    """Give a gradient the shape and dtype of its value."""
    if g.shape != to.shape:
        g = sum_to(g, to.shape)
    if g.dtype is not to.dtype:
        if g.dtype.is_complex and not to.dtype.is_complex:
            g = real(g)
        g = convert(g, to.dtype)
    return g


def _run_hooks(hooks: list, g: Node) -> Node:
    for hook in list(hooks):
        t = wrap(g)
        out = hook(t)
        if out is not None:
            from fanal.core.tensor.alias import read
            g = read(out)
    return g


def gradients(roots: Sequence[Node], cotangents: Sequence[Node], wanted: set[int] | None, *, create_graph: bool,
              retain: bool, accumulate: Any) -> dict[int, Node]:
    """Return the gradients at the values in `wanted` (by id); call accumulate(leaf, g) at leaves when it is None."""
    walk = order(roots)
    if wanted is not None:
        walk = _only_towards(walk, wanted)
    found: dict[int, Node] = {}
    grads: dict[int, Node] = {}
    spent: list[Node] = []
    with grad_mode(create_graph):
        for r, c in zip(roots, cotangents):
            grads[id(r)] = add(grads[id(r)], c) if id(r) in grads else c
        for n in walk:
            g = grads.pop(id(n), None)
            if g is None:
                continue
            if n.hooks:
                unfollowable("a tensor hook runs Python during backward")
                g = _run_hooks(n.hooks, g)
            if wanted is not None and id(n) in wanted:
                found[id(n)] = g
            if n.leaf is not None:
                if wanted is None:
                    accumulate(n.leaf, g)
                continue
            if n.freed:
                raise RuntimeError(FREED)
            if n.row.grad is None:
                continue
            outs = n.row.grad(g, n, *n.inputs, *n.params)
            saved = _saved(n, g, outs)
            if saved:
                _check_versions(n, saved)
                if not retain:
                    spent.append(n)
            for i, o in zip(n.inputs, outs):
                if o is not None and i.needs_grad:
                    o = _fit(o, i)
                    known = grads.get(id(i))
                    grads[id(i)] = o if known is None else add(known, o)
    for n in spent:
        n.freed = True
    return found


def _only_towards(walk: list[Node], wanted: set[int]) -> list[Node]:
    """Keep the values through which some wanted value is reached."""
    useful: set[int] = set()
    for n in reversed(walk):
        if id(n) in wanted or any(id(i) in useful for i in n.inputs):
            useful.add(id(n))
    return [n for n in walk if id(n) in useful]


def is_scalar_like(shape: Shape) -> bool:
    """Tell whether a gradient may be created implicitly for an output of this shape."""
    n = 1
    for d in shape:
        n *= d
    return n == 1


__all__ = ["FREED", "Handle", "Tensor", "gradients", "grad_name", "is_scalar_like", "order"]
