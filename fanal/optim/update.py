"""How a step runs: one event for all parameters of all groups.

An optimizer says, per group, which formula applies and with which numbers. Python gathers tensors and
computes the numbers; the event composes the formulas from primitives and writes parameters and states.
Numbers are runtime inputs, so that a learning rate or a bias correction that changes from step to step
changes nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.state import grad_mode
from fanal.core.engine.handle import Handle
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import number, read, value, write
from fanal.core.ops.surface import event
from fanal.core.tensor.tensor import compute, wrap_array
from fanal.optim.optimizer import Optimizer

Rule = Callable[[Node, Node, Sequence[Node], Sequence[Node]], tuple[Node, Sequence[Node]]]


class Formula:
    """How one parameter changes: rule(p, g, states, numbers) -> new p, new states. Compared by identity.

    keys: the names of its states. exact: the rule wants values as they are, not complex numbers as pairs
    and 16-bit floats in float32.
    """

    __slots__ = ("__weakref__", "exact", "keys", "rule")

    def __init__(self, rule: Rule, keys: tuple[str, ...], exact: bool = False) -> None:
        self.rule, self.keys, self.exact = rule, keys, exact


class Numbers:
    """The numbers of one batch as values, made once per dtype."""

    def __init__(self, given: Sequence[float]) -> None:
        self.given = given
        self.made: dict[dt.dtype, list[Node]] = {}

    def of(self, d: dt.dtype) -> list[Node]:
        """Return the numbers in dtype `d`."""
        found = self.made.get(d)
        if found is None:
            found = self.made[d] = [number(x, d) for x in self.given]
        return found


def work(n: Node) -> Node:
    """Return a value as formulas compute with it: complex numbers as pairs, 16-bit floats in float32."""
    if n.dtype.is_complex:
        n = n if n.shape else P.reshape(n, (1,))
        return P.recast(n, n.dtype.to_real())
    wide = dt.ACCUMULATE.get(n.dtype)
    return P.convert(n, wide) if wide else n


def back(n: Node, like: Node) -> Node:
    """Undo `work`."""
    if like.dtype.is_complex:
        return P.reshape(P.recast(n, like.dtype), like.shape)
    return P.convert(n, like.dtype)


def _update(
    formulas: list[Formula],
    counts: list[int],
    params: list,
    grads: list,
    states: list,
    numbers: list[float],
    sizes: list[int],
    differentiable: bool,
) -> None:
    """Apply each formula to its share of the parameters."""
    with grad_mode(differentiable):
        take: Any = read if differentiable else value
        first = held = used = 0
        for f, count, size in zip(formulas, counts, sizes):
            n = Numbers(numbers[used : used + size])
            used += size
            k = len(f.keys)
            for p, g in zip(params[first : first + count], grads[first : first + count]):
                _apply(f, p, take(p), take(g), states[held : held + k], take, n)
                held += k
            first += count


def _apply(f: Formula, p: Any, x: Node, g: Node, states: list, take: Any, n: Numbers) -> None:
    old = [take(s) for s in states]
    if f.exact:
        new, changed = f.rule(x, g, old, n.of(x.dtype))
    else:
        wide = work(x)
        new, changed = f.rule(wide, work(g), [work(s) for s in old], n.of(wide.dtype))
        new, changed = back(new, x), [back(c, o) for c, o in zip(changed, old)]
    write(p, new)
    for s, c in zip(states, changed):
        write(s, c)


update = event("optim.update", _update, flush=True)
_differentiable_update = event("optim.update.differentiable", _update)


def scalar(x: Any) -> Any:
    """Return a number given as a number or as a tensor of one element."""
    if not isinstance(x, Handle):
        return x
    return float(compute(x).reshape(()))


def assign(t: Any, v: float) -> None:
    """Set a counter on the host. Everything pending has run, so nobody can still expect the old value."""
    known = t._storage.node.buffer
    if t._chain or known is None or not known.flags.writeable:
        write(t, P.convert(P.reshape(P.given(np.array(v, np.float64)), t._shape), t._dtype))
    else:
        known[...] = v


def zeros_like(p: Any, fill: float | complex = 0) -> Any:
    """Return a new state of the shape and dtype of `p`, in memory from the start."""
    return wrap_array(np.full(p._shape, fill, p._dtype.np), p._dtype)


def counter(start: float = 0.0) -> Any:
    """Return a counter as PyTorch keeps it.

    A tensor without dimensions, in float32 unless the default is float64.
    """
    d = dt.float64 if dt.get_default() is dt.float64 else dt.float32
    return wrap_array(np.array(start, d.np), d)


class Batch:
    """Parameters that change by one formula with the same numbers."""

    __slots__ = ("formula", "grads", "numbers", "params", "states")

    def __init__(self, formula: Formula, numbers: list[float]) -> None:
        self.formula, self.numbers = formula, numbers
        self.params: list = []
        self.grads: list = []
        self.states: list = []


class Stepper(Optimizer):
    """An optimizer whose step is one event.

    An algorithm says how state begins, and names formula and numbers.
    """

    def _begin(self, p: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Make the state of a parameter at its first step."""
        raise NotImplementedError

    def _formula(self, group: dict[str, Any], when: Any) -> Formula:
        """Return the formula of a group."""
        raise NotImplementedError

    def _numbers(self, group: dict[str, Any], when: Any, lr: float) -> list[float]:
        """Return the numbers of the formula, as Python computes them in double precision."""
        raise NotImplementedError

    def _when(self, state: dict[str, Any]) -> Hashable:
        """Return what numbers depend on besides the group: the number of this step."""
        t = state["step"]
        known = t._storage.node.buffer
        return (scalar(t) if known is None or t._chain else float(known)) + 1.0

    def _ended(self, state: dict[str, Any], group: dict[str, Any], when: Any) -> None:
        """Move the counters of a parameter on."""
        assign(state["step"], when)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change all parameters that have gradients.

        closure: evaluates the model again and returns the loss.
        """
        loss = None
        if closure is not None:
            with grad_mode(True):
                loss = closure()
        formulas: list[Formula] = []
        counts: list[int] = []
        sizes: list[int] = []
        params: list = []
        grads: list = []
        states: list = []
        numbers: list[float] = []
        ended: list[tuple] = []
        differentiable = False
        for group in self.param_groups:
            batches = self._batches(group, ended)
            differentiable |= bool(group.get("differentiable"))
            for b in batches:
                formulas.append(b.formula)
                counts.append(len(b.params))
                sizes.append(len(b.numbers))
                params += b.params
                grads += b.grads
                states += b.states
                # An object of its own for every number: the engine tells arguments apart by identity.
                numbers += [float(x) * 1.0 for x in b.numbers]
        if params:
            run = _differentiable_update if differentiable else update
            run(formulas, counts, params, grads, states, numbers, sizes, differentiable)
            for state, group, when in ended:
                self._ended(state, group, when)
        return loss

    def _batches(self, group: dict[str, Any], ended: list[tuple]) -> list[Batch]:
        """Sort the parameters of a group by what their numbers depend on."""
        found: dict[Any, Batch] = {}
        table = self.state
        for p in group["params"]:
            g = p._grad
            if g is None:
                continue
            state = table[p]
            if not state:
                self._begin(p, state, group)
            when = self._when(state)
            b = found.get(when)
            if b is None:
                b = found[when] = Batch(
                    self._formula(group, when), self._numbers(group, when, scalar(group["lr"]))
                )
            b.params.append(p)
            b.grads.append(g)
            for key in b.formula.keys:
                b.states.append(state[key])
            ended.append((state, group, when))
        return list(found.values())

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, default in self._missing.items():
                group.setdefault(name, default)
            for p in group["params"]:
                held = self.state.get(p)
                for name in self._counters:
                    if held and name in held and not isinstance(held[name], Handle):
                        held[name] = counter(float(held[name]))

    _missing: dict[str, Any] = {
        "foreach": None,
        "maximize": False,
        "differentiable": False,
        "capturable": False,
    }
    _counters: tuple[str, ...] = ("step",)


def check_lr(lr: Any, text: str = "Invalid learning rate: {}") -> None:
    """Raise PyTorch's errors for a learning rate that is negative or not one number."""
    if isinstance(lr, Handle) and int(np.prod(lr._shape)) != 1:
        raise ValueError("Tensor lr must be 1-element")
    if not 0.0 <= scalar(lr):
        raise ValueError(text.format(lr))


def check_flags(fused: Any, foreach: Any, differentiable: Any) -> None:
    """Raise PyTorch's errors for ways to run that exclude each other."""
    if fused:
        if differentiable:
            raise RuntimeError("`fused` does not support `differentiable`")
        if foreach:
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")


def lerp(a: Node, b: Node, weight: Node, near: bool) -> Node:
    """a + weight * (b - a), from the nearer end: `near` when the weight is below one half."""
    diff = P.sub(b, a)
    return P.add(a, P.mul(weight, diff)) if near else P.sub(b, P.mul(diff, P.sub(P.num(weight, 1), weight)))


def axpy(y: Node, x: Node, a: Node) -> Node:
    """y + a * x, as Tensor.add(alpha=)."""
    return P.add(y, P.mul(x, a))


def addcmul(y: Node, a: Node, b: Node, c: Node) -> Node:
    """y + c * a * b, as Tensor.addcmul(value=)."""
    return P.add(y, P.mul(P.mul(c, a), b))


def addcdiv(y: Node, a: Node, b: Node, c: Node) -> Node:
    """y + c * a / b, as Tensor.addcdiv(value=)."""
    return P.add(y, P.div(P.mul(c, a), b))
