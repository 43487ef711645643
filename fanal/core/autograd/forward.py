"""Forward-mode differentiation: a value whose inputs have tangents gets its own as soon as it is recorded.

The tangent of a primitive is the transpose of its gradient rule. A rule is linear in the gradient: it is run on a
symbol, what the symbol reaches is collected, and one walk back from the tangents of the inputs to the symbol gives
the tangent of the output. So a primitive has one derivative, which serves both directions and every order.

Levels nest: a tangent at one level is made of values that have tangents at the levels around it, never at its own. To
open and to close one are events, and so are a dual tensor and what is in it: a followed step has no tangents, and needs
none. In `state.levels` every level is a number of its own, so that nobody sees tangents of one that is over; callers
know a level by its place there, which is the same in every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from fanal.core.autograd.events import event
from fanal.core.base.state import forward_mode, state
from fanal.core.engine.record import leave_path, unfollowable
from fanal.core.ir.prims import alias, broadcast, full, put, scatter, tape, zeros
from fanal.core.ir.prims.gradient import Sums, cast
from fanal.core.ir.program import Node
from fanal.core.tensor.alias import HISTORY

_NOTHING: dict[int, Node] = {}  # the tangents of what varies with a symbol

_serial = count()


class levels:
    """Propagate tangents at some levels inside a `with` block."""

    __slots__ = ("active", "old")

    def __init__(self, active: tuple[int, ...]) -> None:
        self.active = active

    def __enter__(self) -> None:
        self.old = state.levels, state.forward
        state.levels, state.forward = self.active, propagate if self.active else None

    def __exit__(self, *exc: object) -> None:
        state.levels, state.forward = self.old


def _open() -> int:
    state.levels, state.forward = (*state.levels, next(_serial)), propagate
    return len(state.levels) - 1


def _close(level: int) -> None:
    state.levels = state.levels[:level] + state.levels[level + 1:]
    state.forward = propagate if state.levels else None


_open_event, _close_event = event("forward.open", _open), event("forward.close", _close)


def open_level() -> int:
    """Begin a level inside the others of this thread; return its place among them."""
    level = _open_event()
    if len(state.levels) == level:  # a followed event runs nothing
        _open()
    return level


def close_level(level: int) -> None:
    """End a level: the tangents that values have there are forgotten."""
    count = len(state.levels)
    _close_event(level)
    if len(state.levels) == count:
        _close(level)


def enable_forward(on: bool) -> None:
    """Switch forward mode on this thread; while it is off, no value has a tangent."""
    if state.levels or state.aside:
        leave_path()
        unfollowable("forward mode is switched inside a level")
    if on and state.aside is not None:
        state.levels, state.aside = state.aside, None
    elif not on and state.aside is None:
        state.levels, state.aside = (), state.levels
    state.forward = propagate if state.levels else None


def is_forward_enabled() -> bool:
    """Tell whether forward mode is on."""
    return state.aside is None


def tangent_at(n: Node, level: int) -> Node | None:
    """Return the tangent of a value at a level, None if it has none, which is zero."""
    return None if n.tangents is None else n.tangents.get(level)


def give_tangent(n: Node, level: int, t: Node) -> None:
    """Let `t` be the tangent of `n` at a level."""
    if t.shape != n.shape:
        raise RuntimeError(
            "Trying to set a forward gradient that has a different size than that of the original Tensor, this is not "
            f"supported. Tensor is of size {list(n.shape)} while the given forward gradient is of size {list(t.shape)}."
        )
    if not n.tangents:
        n.tangents = {}
    n.tangents[level] = t


def propagate(n: Node) -> None:
    """Give a new value its tangents."""
    if not any(i.tangents for i in n.inputs):
        return
    active = state.levels
    for k, level in enumerate(active):
        known = [tangent_at(i, level) for i in n.inputs]
        if any(t is not None for t in known):
            with levels(active[:k]):
                t = _tangent(n, known)
            if t is not None:
                give_tangent(n, level, t)


def _tangent(n: Node, known: Sequence[Node | None]) -> Node | None:
    """Return the tangent of a value, from those of its inputs."""
    if n.row is tape and n.params[0] in HISTORY:
        return known[0]
    if n.row in (put, scatter) and n.params[-1] == "set":
        # A tangent stays where its value does; the gradient goes to all that were written to one place, as in PyTorch.
        x, v = (zeros(i.shape, n.dtype) if t is None else t for i, t in zip(n.inputs[::2], known[::2]))
        return n.row(x, n.inputs[1], v, *n.params)
    g = alias(full(n.shape, 1, n.dtype))  # the rule is linear: its value matters only to one that takes a logarithm
    g.tangents = _NOTHING
    linear, made = {id(g)}, []  # what the symbol reaches, in the order in which it was made
    outer = state.forward

    def collect(m: Node) -> None:
        if outer is not None:
            outer(m)
        if any(id(i) in linear for i in m.inputs):
            linear.add(id(m))
            made.append(m)
            m.tangents = m.tangents or _NOTHING

    with forward_mode(collect):
        outs = _ruled(g, n)
    sums = Sums()
    for t, o in zip(known, outs):
        if t is not None and o is not None and id(o) in linear:
            sums.arrive(o, broadcast(cast(t, o.dtype), o.shape))
    for m in reversed(made):
        c = sums.pop(m)
        if c is not None:
            for i, o in zip(m.inputs, m.row.grad(c, m, *m.inputs, *m.params)):  # type: ignore[misc]
                if o is not None and id(i) in linear:
                    sums.arrive(i, o)
    found = sums.pop(g)
    if found is None and any(t is not None and o is not None for t, o in zip(known, outs)):
        return zeros(n.shape, n.dtype)  # a gradient that is zero, whatever comes
    return found


def _ruled(g: Node, n: Node) -> Sequence[Node | None]:
    """Run the gradient rule of `n`; a rule that does not exist raises PyTorch's error about forward mode."""
    try:
        return n.row.grad(g, n, *n.inputs, *n.params)  # type: ignore[misc]
    except RuntimeError as e:
        raise NotImplementedError(
            f"Trying to use forward AD with {n.row.name.strip('_')} that does not support it because it has not been "
            f"implemented yet: {e}"
        ) from e
