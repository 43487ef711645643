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
from fanal.core.engine.record import flush, flush_after, may_be_read, session
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import read, value, write
from fanal.core.ops.surface import event
from fanal.core.tensor.sparse import Sparse
from fanal.core.tensor.tensor import wrap_array
from fanal.optim.gather import Batch, Formula, Gathered, scalar
from fanal.optim.optimizer import Optimizer


class Numbers:
    """The numbers of one batch as values, made once per dtype."""

    def __init__(self, given: Sequence[Any]) -> None:
        self.given = given
        self.made: dict[dt.dtype, list[Node]] = {}

    def of(self, d: dt.dtype) -> list[Node]:
        """Return the numbers in dtype `d`."""
        found = self.made.get(d)
        if found is None:
            found = self.made[d] = [P.convert(value(x), d) for x in self.given]
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
    formulas: Sequence[Formula],
    counts: Sequence[int],
    params: Sequence[Any],
    grads: Sequence[Any],
    states: Sequence[Any],
    numbers: Sequence[Any],
    sizes: Sequence[int],
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


def _apply(
    f: Formula, p: Any, x: Node, g: Node, states: Sequence[Any], take: Any, n: Numbers
) -> None:
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


update = event("optim.update", _update)
_differentiable_update = event("optim.update.differentiable", _update)


def assign(t: Any, v: float) -> None:
    """Set a counter on the host. Everything pending has run, so nobody can still expect the old value."""
    known = t._storage.node.buffer
    if t._chain or known is None or not known.flags.writeable:
        write(t, P.convert(P.reshape(P.given(np.array(v, np.float64)), t._shape), t._dtype))
    else:
        known[()] = v


def zeros_like(p: Any, fill: float | complex = 0) -> Any:
    """Return a new state of the shape and dtype of `p`, in memory from the start."""
    return wrap_array(np.full(p._shape, fill, p._dtype.np), p._dtype)


def counter(start: float = 0.0) -> Any:
    """Return a counter as PyTorch keeps it.

    A tensor without dimensions, in float32 unless the default is float64.
    """
    d = dt.float64 if dt.get_default() is dt.float64 else dt.float32
    return wrap_array(np.array(start, d.np), d)


class Stepper(Optimizer):
    """An optimizer whose step is one event.

    An algorithm says how state begins, and names formula and numbers.
    """

    _gathered: Gathered | None = None

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
        return scalar(state["step"]) + 1.0

    def _standing(self, p: Any, group: dict[str, Any]) -> tuple[dict[str, Any], Hashable]:
        """Return the state of a parameter, begun if need be, and what its numbers depend on."""
        state = self.state[p]
        if not state:
            self._begin(p, state, group)
        return state, self._when(state)

    def _ended(self, state: dict[str, Any], group: dict[str, Any], when: Any) -> None:
        """Move the counters of a parameter on."""
        assign(state["step"], when)

    def counts_only(self) -> bool:
        """Tell whether numbers depend on the number of the step, which is in "step", and nothing else of a state."""
        cls = type(self)
        return (cls._when is Stepper._when and cls._standing is Stepper._standing and cls._ended is Stepper._ended)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change all parameters that have gradients.

        closure: evaluates the model again and returns the loss.
        """
        loss = None
        if closure is not None:
            with grad_mode(True):
                loss = closure()
        if session.owed and any(what is self for what in session.owed):
            flush("optimizer.step")  # the numbers of its last step are still to be read
        known, self._gathered = self._gathered, None  # an interrupted step leaves nothing that may be stale
        if known is None or not known.holds(self):
            known = Gathered(self, [b for group in self.param_groups for b in self._batches(group)])
        if known.others:
            self._step_rows(known.others)
        if known.params:
            known.count(self)
            differentiable = any(group.get("differentiable") for group in self.param_groups)
            run = _differentiable_update if differentiable else update
            run(known.formulas, known.counts, known.params, known.grads, known.states, known.numbers,
                known.sizes, differentiable)
            if not differentiable:
                self._run_pending(known)
            known.end(self)
            if not differentiable:  # otherwise the numbers may still be read
                self._gathered = known
        elif known.others:
            flush("optimizer.step")
        return loss

    def _run_pending(self, known: Gathered) -> None:
        """Run everything pending; in a hook of backward, only if somebody pending may read the counters."""
        counters = [t for b in known.batches for table in b.tables for key, t in table.items()
                    if key not in b.formula.keys and isinstance(t, Handle)] if session.driving else ()
        if any(may_be_read(t._storage) for t in counters):
            flush("optimizer.step")
        else:
            flush_after(self, "optimizer.step")

    def _step_rows(self, found: list[tuple[Any, dict[str, Any]]]) -> None:
        """Change the parameters whose gradients are sparse, of those found with their groups."""
        with grad_mode(False):
            for p, group in found:
                if p._grad is not None:
                    self._change_rows(p, p._grad, group)

    def _change_rows(self, p: Any, g: Sparse, group: dict[str, Any]) -> None:
        """Change a parameter by a sparse gradient. Raises RuntimeError where the method has no such form."""
        advice = ", please consider SparseAdam instead" if type(self).__name__ in ("Adam", "NAdam") else ""
        raise RuntimeError(f"{type(self).__name__} does not support sparse gradients{advice}")

    def _batches(self, group: dict[str, Any]) -> list[Batch]:
        """Sort the parameters of a group by what their numbers depend on."""
        found: dict[Any, Batch] = {}
        for p in group["params"]:
            if p._grad is None or isinstance(p._grad, Sparse):
                continue
            state, when = self._standing(p, group)
            b = found.get(when)
            if b is None:
                b = found[when] = Batch(self._formula(group, when), group, when)
            b.params.append(p)
            b.tables.append(state)
            for key in b.formula.keys:
                b.states.append(state[key])
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
