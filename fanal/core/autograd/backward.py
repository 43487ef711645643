"""Reverse-mode differentiation over recorded values.

The walk visits values from the roots to the leaves in an order that respects use, asks each primitive's rule
for the gradients of its inputs, and sums what meets. Rules build values, so the same walk gives gradients of
any order. It stops where Python is called, see `callbacks`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Any

import numpy as np

from fanal.core.autograd.callbacks import Rule, Stop, hooks_of, number_of, shown, values
from fanal.core.autograd.hooks import AFTER, ARRIVING, Leaving
from fanal.core.base.dtype import scalar_name
from fanal.core.base.shape import Shape
from fanal.core.base.state import grad_mode, state
from fanal.core.base.where import show
from fanal.core.engine.carry import folded, template, unfold, unfolded
from fanal.core.engine.flush import EARLIER
from fanal.core.engine.handle import Handle
from fanal.core.engine.record import session, unfollowable
from fanal.core.ir.prims import add, alias, tape
from fanal.core.ir.prims.gradient import Sums
from fanal.core.ir.program import FREED as SPENT
from fanal.core.ir.program import WALKED, Node, postorder
from fanal.core.tensor.alias import VARIABLE
from fanal.core.tensor.tensor import Tensor, compute, wrap

FREED = (
    "Trying to backward through the graph a second time (or directly access saved tensors after they "
    "have already "
    "been freed). Saved intermediate values of the graph are freed when you call .backward() or "
    "autograd.grad(). "
    "Specify retain_graph=True if you need to backward through the graph a second time or if you need "
    "to access "
    "saved tensors after calling backward."
)


def order(roots: Sequence[Node]) -> list[Node]:
    """Return the values that gradients flow through, users before what they use."""
    def behind(n: Node) -> Iterable[Node]:
        if n.row is folded:
            unfold(n)
        return () if n.leaf is not None else [i for i in n.inputs if i.needs_grad]

    found = postorder([r for r in roots if r.needs_grad], behind)
    found.reverse()
    return found


def _saved(n: Node, g: Node, outs: Sequence[Node | None], older: dict[int, Node]) -> list[Node]:
    """Return the forward values (inputs of `n`, or `n`) that a rule's result reads: what PyTorch saves, and
    frees. What `older` values were computed from, those that are walked through and what earlier rules gave, is not
    looked at: a rule may take its gradient apart, and the search would go through all of the step, for every value."""
    mine = {id(i): i for i in n.inputs}
    mine[id(n)] = n
    found: list[Node] = []
    seen = {
        id(g),
        *(id(i) for i in g.inputs if id(i) not in mine),
    }  # a view of `g` may be built on what `g` views
    queue = [o for o in outs if o is not None]
    while queue:
        o = queue.pop()
        if id(o) in seen:
            continue
        seen.add(id(o))
        if id(o) in mine:
            found.append(mine[id(o)])
        elif id(o) not in older:
            queue.extend(o.inputs)
    return found


def _check_versions(n: Node, saved: Sequence[Node]) -> None:
    """Raise PyTorch's error if a forward value that a rule reads was overwritten since."""
    for v in saved:
        storage = v.home and v.home[0]()
        if storage is None or storage.version == v.home[1]:  # type: ignore[index]
            continue
        version = v.home[1]  # type: ignore[index]
        if n.home is not None and n.home[1] == version + 1 and n.home[0]() is storage:
            continue  # an in-place operation keeps what it overwrites itself
        if sum(k > version for k in storage.uncounted[1:]) == storage.version - version:
            continue  # all written through .data
        at = show(n.where)
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace operation: "
            f"[torch.{scalar_name(v.dtype)}Tensor {list(v.shape)}], which is output 0 of {grad_name(v)}, "
            f"is at version "
            f"{storage.version}; expected version {version} instead. Hint: enable anomaly detection to "
            f"find the "
            "operation that failed to compute its gradient, with torch.autograd.set_detect_anomaly(True)."
            + (
                f" The value was needed by '{n.row.name}' at {at}: use an out-of-place operation, or "
                f"clone() it before "
                "writing."
                if at
                else ""
            )
        )


_NAMES = {
    "sum": "SumBackward0",
    "reshape": "ViewBackward0",
    "dot": "MmBackward0",
    "max": "MaximumBackward0",
    "min": "MinimumBackward0",
    "convert": "ToCopyBackward0",
    "broadcast": "ExpandBackward0",
    "conv": "ConvolutionBackward0",
    "concat": "CatBackward0",
    "update_slice": "CopySlices",
    "tape": "AliasBackward0",
    "take": "IndexSelectBackward0",
    "strided": "AsStridedBackward0",
    "window": "UnfoldBackward0",
}


def grad_name(n: Node) -> str:
    """Return PyTorch's name for the backward function of a value."""
    n = template(n)
    if n.leaf is not None:
        return "AccumulateGrad"
    if n.row.name == "tape" and n.params:
        stated = getattr(n.params[-1], "name", None)
        if stated:
            return stated
    name = n.params[0] if n.row.name in ("elementary", "special", "special2") else n.row.name
    return _NAMES.get(name, name.strip("_").title().replace("_", "") + "Backward0")


def _check_nan(n: Node, outs: Sequence[Node | None]) -> None:
    """Raise if a rule made a NaN, naming the function and the user's line."""
    unfollowable("anomaly detection looks at every gradient")
    for k, o in enumerate(o for o in outs if o is not None):
        if o.dtype.category >= 2 and np.isnan(compute(wrap(alias(o)))).any():
            at = show(n.where)
            raise RuntimeError(
                f"Function '{grad_name(n)}' returned nan values in its {k}th output."
                + (f" Its forward ran at {at}." if at else "")
            )


def _joined(walk: Sequence[Node]) -> dict[int, Node]:
    """Return, by id, the value of a leaf at which the gradient of another value of it is collected.

    A leaf that was written between two uses is walked as two values; its gradient, and what hooks see, is their sum.
    """
    last = {id(n.leaf): n for n in walk if n.leaf is not None}
    found = {}
    for n in walk:
        if n.leaf is not None:
            end = last[id(n.leaf)]
            if end is not n and (end.shape, end.dtype) == (n.shape, n.dtype):
                found[id(n)] = end
    return found


def _uses(walk: Sequence[Node], joined: dict[int, Node]) -> dict[int, int]:
    """Count how often each leaf of the walk is used in it."""
    count = {id(n): 0 for n in walk if n.leaf is not None and id(n) not in joined}
    for n in walk:
        if n.leaf is None:
            for i in n.inputs:
                key = id(joined.get(id(i), i))
                if key in count:
                    count[key] += 1
    return count


def target(n: Node) -> int:
    """Return the key of a value whose gradient is wanted. A leaf is one target, however many values were
    read from it."""
    return id(n) if n.leaf is None else id(n.leaf)


def _stops(n: Node) -> bool:
    """Tell whether Python is called where a walk comes to a value."""
    if n.leaf is not None:
        return n.leaf._hooks is not None and n.leaf._hooks.kinds() != 0
    hooks = n.hooks
    return (hooks is not None and bool(hooks or hooks.post or hooks.saved)) or \
        (n.row is tape and isinstance(n.params[-1], Rule))


def _begins_with_stop(walk: Sequence[Node]) -> bool:
    """Tell whether Python is called anywhere on a walk; then the event that begins it must be matched in Python."""
    event, again = session.event, session.again
    stops = type(again[0]) is Stop if again is not None else any(map(_stops, walk))
    if stops and event is not None:
        event.manual = True
    return stops


def gradients(
    roots: Sequence[Node],
    cotangents: Sequence[Node],
    wanted: set[int] | None,
    *,
    create_graph: bool,
    retain: bool,
    accumulate: Any,
    stop: bool = False,
) -> Generator[Stop, tuple, dict[int, Node]]:
    """Return the gradients at the values in `wanted` (by target); call accumulate(leaf, g) at leaves when it
    is None. `stop`: go no further than them, and leave their hooks to the walk that this one is part of."""
    walk = order(roots)
    # Of the whole walk: that a wanted value is not reached is as much a matter of what is there.
    if session.unfollowable is None and any(
            n.buffer is not None and n.leaf is None and id(n) not in unfolded.nodes for n in walk):
        unfollowable(EARLIER)  # which lets the segment run as a program: any other reason stands
    inner: set[int] | None = None
    if wanted is not None:
        walk, inner = _only_towards(walk, wanted)
    joined = _joined(walk)
    uses = _uses(walk, joined)
    older = {id(n): n for n in walk}
    found: dict[int, Node] = {}
    grads = Sums()
    spent: list[Node] = []
    with grad_mode(create_graph):
        for r, c in zip(roots, cotangents):
            grads.seed(joined.get(id(r), r), c)

        def ask(kind: str, which: Any, given: Sequence[Node | None]) -> Generator[Stop, tuple, list[Any]]:
            partial = wanted is not None and not stop
            reply = yield Stop(kind, which, tuple(map(shown, given)), create_graph, retain, partial)
            return values(reply)

        def arrive(n: Node) -> Generator[Stop, tuple, Node | None]:
            g = grads.pop(n)
            if g is None:
                return None
            kinds = 0
            if not (stop and wanted is not None and target(n) in wanted):
                if n.leaf is not None:
                    kinds = hooks_of(n.leaf)
                    if kinds & ARRIVING:
                        g, = yield from ask("leaf", n.leaf, [g])
                elif n.hooks:
                    g, = yield from ask("note", number_of(n.hooks), [g])
            if wanted is not None:
                key = target(n)
                if key in wanted:
                    found[key] = add(found[key], g) if key in found else g
            elif n.leaf is not None and n.leaf._leaf and n.leaf._base_ref is not VARIABLE:
                accumulate(n.leaf, g)  # unless it is no leaf any more, since requires_grad was switched off
                if kinds & AFTER:
                    yield from ask("after", n.leaf, ())
            return g

        if _begins_with_stop(walk):
            yield from ask("begin", None, ())
        for n in walk:
            g = yield from arrive(n)
            if g is None:
                if n.leaf is None:
                    yield from _count_down(n, uses, joined, arrive)
                continue
            if n.leaf is not None or n.row.grad is None or (inner is not None and id(n) not in inner):
                continue
            if stop and wanted is not None and target(n) in wanted:
                continue
            if n.freed == SPENT:
                raise RuntimeError(FREED)
            rule = n.params[-1] if n.row is tape else None
            packed = n.hooks.saved if n.hooks is not None else None
            outs: list[Node | None]
            if isinstance(rule, Rule):
                reply = yield from ask("note", number_of(rule.callback), rule.given(g, n))
                outs = [None, *rule.result(reply)]
            elif packed is not None:
                outs = packed.gradients(n, g, (yield from ask("unpack", packed.wanted(retain), ())))
            else:
                outs = n.row.grad(g, n, *n.inputs, *n.params)
            if n.hooks is not None and n.hooks.post:
                outs = yield from ask("note", number_of(Leaving(n.hooks)), [*outs, g])
            if not isinstance(rule, Rule):
                saved = _saved(n, g, [o for i, o in zip(n.inputs, outs) if i.needs_grad], older)
                if saved and packed is None:
                    _check_versions(n, saved)
                if (saved or packed is not None) and not retain:
                    spent.append(n)
            if state.anomaly and state.check_nan:
                _check_nan(n, outs)
            for i, o in zip(n.inputs, outs):
                if o is not None and i.needs_grad:
                    older[id(o)] = o
                    grads.arrive(joined.get(id(i), i), o)
            yield from _count_down(n, uses, joined, arrive)
    if not retain:
        for n in walk:
            if n.leaf is None:
                n.freed = n.freed or WALKED
    for n in spent:
        n.freed = SPENT
        if n.hooks is not None:
            n.hooks.saved = None
    return found


def _count_down(n: Node, uses: dict[int, int], joined: dict[int, Node], arrive: Any) -> Generator[Stop, tuple, None]:
    """Let a gradient be collected as soon as the last use of its leaf was walked, as PyTorch does."""
    for i in n.inputs:
        i = joined.get(id(i), i)
        left = uses.get(id(i))
        if left is not None:
            uses[id(i)] = left - 1
            if left == 1:
                yield from arrive(i)


def _only_towards(walk: list[Node], wanted: set[int]) -> tuple[list[Node], set[int]]:
    """Keep the values through which some wanted value is reached; also tell which of them have more behind
    them."""
    useful: set[int] = set()
    inner: set[int] = set()
    for n in reversed(walk):
        if n.leaf is None and any(id(i) in useful for i in n.inputs):
            inner.add(id(n))
            useful.add(id(n))
        elif target(n) in wanted:
            useful.add(id(n))
    return [n for n in walk if id(n) in useful], inner


def is_scalar_like(shape: Shape) -> bool:
    """Tell whether a gradient may be created implicitly for an output of this shape."""
    n = 1
    for d in shape:
        n *= d
    return n == 1


__all__ = ["FREED", "Handle", "Tensor", "gradients", "grad_name", "is_scalar_like", "order"]
