"""Hooks on what operators save for backward.

The engine saves nothing when an operator is called: its graph refers to values, and the flush decides which
stay. Inside a block with hooks, every call is followed by an event that finds the values which the new gradient rules
will read, by a dry run; they are handed to `pack`. Backward stops at each of those rules, and calls it with what
`unpack` returns in their place. Only the packed objects keep the values then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from fanal.core.autograd.callbacks import Packs, next_note, note, noted_as, number_of
from fanal.core.autograd.events import event
from fanal.core.autograd.hooks import of_value
from fanal.core.base.state import grad_mode, state
from fanal.core.engine.carry import Uncarried, moved, reads
from fanal.core.engine.record import name, session, unfollowable
from fanal.core.ir.prims import alias, detach, tape
from fanal.core.ir.program import Node
from fanal.core.tensor.alias import read, value
from fanal.core.tensor.override import overrides
from fanal.core.tensor.tensor import Tensor, wrap

Hook = Callable[[Any], Any]


def _tensors(x: Any) -> list[Any]:
    if isinstance(x, Tensor):
        return [x]
    if isinstance(x, dict):
        x = tuple(x.values())
    return [t for i in x for t in _tensors(i)] if isinstance(x, (tuple, list)) else []


def _passed_on(g: Node, y: Node, original: Node) -> list[Node | None]:
    return [g]


class Packed:
    """A value that was handed to `pack`."""

    __slots__ = ("object", "unpack")

    def __init__(self, t: Any, pack: Hook, unpack: Hook) -> None:
        self.unpack = unpack
        version = t._storage.version
        self.object = pack(t)
        if t._storage.version != version:
            raise RuntimeError(
                "A saved tensor pack hook is modifying its input in place. Tensors provided as input to pack hook "
                "cannot be modified by in-place operations as this can lead to unexpected side-effects. Please open "
                "an issue if you need to perform in-place operations on the input to a pack hook."
            )

    def tensor(self) -> Any:
        """Return what `unpack` makes of it."""
        t = self.unpack(self.object)
        if not isinstance(t, Tensor):
            raise TypeError(
                "Output of saved tensor unpack_hook expected to be a Tensor but got result of type "
                f"{type(t).__name__}"
            )
        return t


class Saved:
    """What the gradient rule of one value reads, packed."""

    def __init__(self, packs: Packs, packed: dict[int, tuple[int, Node]]) -> None:
        self.packs = packs
        self.packed = packed  # id of a value -> its place among the packs, the value
        for k, _ in packed.values():
            packs.left[k] = packs.left.get(k, 0) + 1

    def wanted(self, retain: bool) -> tuple:
        """Return what must be unpacked: the number of the packs; then a place, and whether it was asked for last."""
        which: list[Any] = [number_of(self.packs)]
        for k, _ in self.packed.values():
            if not retain:
                self.packs.left[k] -= 1
            which += (k, not self.packs.left[k])
        return tuple(which)

    def gradients(self, n: Node, g: Node, reply: Sequence[Node | None]) -> Sequence[Node | None]:
        """Call the gradient rule of `n` with unpacked values, which have the history of the originals."""
        unpacked: dict[int, Any] = {}
        for (key, (_, original)), v in zip(self.packed.items(), reply):
            unpacked[key] = v
            if original.needs_grad:
                with grad_mode(True):  # rules ask which of their inputs need a gradient
                    unpacked[key] = tape((v, original), _passed_on)

        def to(x: Node) -> Node:
            return unpacked.get(id(x), x)

        return n.row.grad(g, to(n), *map(to, n.inputs), *moved(n.params, to))  # type: ignore[misc]


def _before(*args: Any) -> None:
    with grad_mode(True):
        session.notes[next_note(Packs)].known = [read(t) for t in args]


def _after(number: int, count: int, *tensors: Any) -> tuple:
    """Return what the gradient rules of new values behind `count` results read, each value once, to be packed."""
    packs = noted_as(number)
    known = packs.known
    if known is None:  # a value was read meanwhile
        with grad_mode(True):
            known = [read(t) for t in tensors[count:]]
    shown: list[Any] = []
    places: dict[int, tuple[int, Node]] = {}
    for n in _new_values(tensors[:count], set(map(id, known))):
        try:
            found = reads(n)
        except (Uncarried, RuntimeError):
            continue  # a custom function, which packs what it saves itself; or no derivative
        for r in found:
            if id(r) not in places and (r.inputs or r.home is not None):  # not a constant of the operator
                if r.leaf is not None:
                    name(r.leaf)
                places[id(r)] = len(shown), r
                shown.append(r.leaf if r.leaf is not None else wrap(alias(detach(r))))
        of_value(n).saved = Saved(packs, {id(r): places[id(r)] for r in found if id(r) in places})
    return tuple(shown)


def _cut(t: Any) -> Any:
    return wrap(alias(detach(value(t))))


def _switch(on: bool) -> None:
    """Nothing: that calls are packed from here on, or no longer, must be seen in the stream."""


_before_event, _after_event = event("saved.before", _before), event("saved.after", _after)
_cut_event, _switch_event = event("saved.cut", _cut), event("saved.switch", _switch)


class _Saving(threading.local):
    """The hooks of this thread; it stands among the modes that answer public calls while there are any."""

    def __init__(self) -> None:
        self.hooks: list[tuple[Hook, Hook]] = []
        self.refusal: str | None = None  # why there may be none

    def __torch_function__(self, func: Callable, types: Any, args: tuple, kwargs: dict) -> Any:
        if not state.grad:
            return func(*args, **kwargs)
        if session.depth:
            unfollowable("what operators save is packed inside an event")
        packs, given = Packs(), _tensors((args, kwargs))
        note(packs)
        _before_event(*given)
        out = func(*args, **kwargs)
        results = _tensors(out)
        if results and state.grad:
            packs.objects = [self.packed(t) for t in _after_event(number_of(packs), len(results), *results, *given)]
        return out

    def packed(self, t: Any) -> Packed:
        """Pack one tensor by the innermost hooks."""
        pack, unpack = self.hooks[-1]
        hooks, self.hooks = self.hooks, []
        try:
            return Packed(t, pack, unpack)
        finally:
            self.hooks = hooks

    def enter(self, pack: Hook, unpack: Hook) -> None:
        """Use hooks from here on."""
        if self.refusal is not None:
            raise RuntimeError(self.refusal)
        if not self.hooks:
            self._switch(True)
        self.hooks = [*self.hooks, (pack, unpack)]

    def leave(self) -> None:
        """Use the hooks before."""
        self.hooks = self.hooks[:-1]
        if not self.hooks:
            self._switch(False)

    def _switch(self, on: bool) -> None:
        if on:
            overrides.modes.append(self)
        else:
            overrides.modes.remove(self)
        session.asked += 1 if on else -1
        _switch_event(on)

    def cut(self, t: Any) -> Any:
        """Return a tensor to be packed for `t`: itself, or without its history."""
        return t if t._leaf else _cut_event(t)


saving = _Saving()


def _new_values(outs: Sequence[Any], known: set[int]) -> list[Node]:
    """Return the values with history behind results, as far as those that were there before."""
    found: list[Node] = []
    seen = set(known)
    waiting = [value(t) for t in outs]
    while waiting:
        n = waiting.pop()
        if id(n) not in seen and n.needs_grad and n.leaf is None:
            seen.add(id(n))
            if n.hooks is None or n.hooks.saved is None:
                found.append(n)
                waiting.extend(n.inputs)
    return found
