"""Hooks on what operators save for backward.

The engine saves nothing when an operator is called: its graph refers to values, and the flush decides which
stay. Inside a block with hooks, the values that the new gradient rules will read are found by a dry run and
handed to `pack`; backward calls each rule with what `unpack` returns in their place. Only the packed objects
keep the values then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from fanal.core.autograd.hooks import of_value
from fanal.core.base.state import grad_mode, state
from fanal.core.engine.carry import Uncarried, moved, reads
from fanal.core.engine.record import unfollowable
from fanal.core.ir.prims import alias, detach, tape
from fanal.core.ir.program import Node
from fanal.core.tensor.alias import read, value
from fanal.core.tensor.override import overrides
from fanal.core.tensor.tensor import Tensor, wrap

REASON = "hooks on saved tensors run Python"
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

    __slots__ = ("node", "object", "unpack")

    def __init__(self, t: Any, node: Node, pack: Hook, unpack: Hook) -> None:
        self.node, self.unpack = node, unpack
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

    def value(self) -> Node:
        """Return that as a value with the history of the original."""
        n = read(self.tensor())
        if not self.node.needs_grad:
            return n
        with grad_mode(True):  # rules ask which of their inputs need a gradient
            return tape((n, self.node), _passed_on)


class Saved:
    """What the gradient rule of one value reads, packed."""

    def __init__(self, n: Node, packed: dict[int, Packed]) -> None:
        self.packed = {id(r): packed[id(r)] for r in reads(n) if id(r) in packed}

    def gradients(self, n: Node, g: Node) -> list[Node | None]:
        """Call the gradient rule of `n` with unpacked values."""
        unfollowable(REASON)
        unpacked = {k: p.value() for k, p in self.packed.items()}

        def to(x: Node) -> Node:
            return unpacked.get(id(x), x)

        return n.row.grad(g, to(n), *map(to, n.inputs), *moved(n.params, to))  # type: ignore[misc]


class _Saving(threading.local):
    """The hooks of this thread; it stands among the modes that answer public calls while there are any."""

    def __init__(self) -> None:
        self.hooks: list[tuple[Hook, Hook]] = []
        self.refusal: str | None = None  # why there may be none

    def __torch_function__(self, func: Callable, types: Any, args: tuple, kwargs: dict) -> Any:
        with grad_mode(True):
            known = {id(read(t)) for t in _tensors((args, kwargs))}
        out = func(*args, **kwargs)
        if state.grad:
            self.save(_new_values(out, known))
        return out

    def save(self, values: list[Node]) -> None:
        """Pack what the gradient rules of new values read, each value once."""
        packed: dict[int, Packed] = {}
        for n in values:
            try:
                found = reads(n)
            except (Uncarried, RuntimeError):
                continue  # a custom function, which packs what it saves itself; or no derivative
            for r in found:
                if id(r) not in packed and (r.inputs or r.home is not None):  # not a constant of the operator
                    t = r.leaf if r.leaf is not None else wrap(alias(detach(r)))
                    packed[id(r)] = self.packed(t, r)
            of_value(n).saved = Saved(n, packed)

    def packed(self, t: Any, n: Node) -> Packed:
        """Pack one tensor of value `n` by the innermost hooks."""
        unfollowable(REASON)
        pack, unpack = self.hooks[-1]
        hooks, self.hooks = self.hooks, []
        try:
            return Packed(t, n, pack, unpack)
        finally:
            self.hooks = hooks

    def enter(self, pack: Hook, unpack: Hook) -> None:
        """Use hooks from here on."""
        if self.refusal is not None:
            raise RuntimeError(self.refusal)
        if not self.hooks:
            overrides.enter(self)
        self.hooks = [*self.hooks, (pack, unpack)]

    def leave(self) -> None:
        """Use the hooks before."""
        self.hooks = self.hooks[:-1]
        if not self.hooks:
            overrides.leave()


saving = _Saving()


def _new_values(out: Any, known: set[int]) -> list[Node]:
    """Return the values with history behind a result, as far as those that were there before."""
    found: list[Node] = []
    seen = set(known)
    waiting = [value(t) for t in _tensors(out)]
    while waiting:
        n = waiting.pop()
        if id(n) not in seen and n.needs_grad and n.leaf is None:
            seen.add(id(n))
            if n.hooks is None or n.hooks.saved is None:
                found.append(n)
                waiting.extend(n.inputs)
    return found
