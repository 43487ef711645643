"""Stochastic gradient descent."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.optim.update import Formula, Stepper, axpy, check_flags, check_lr, scalar, zeros_like


@functools.cache
def _formula(momentum: bool, nesterov: bool, decay: bool, maximize: bool) -> Formula:
    def rule(p: Node, g: Node, states: Sequence[Node], n: Sequence[Node]) -> tuple[Node, Sequence[Node]]:
        minus_lr, weight_decay, mu, share = n
        if maximize:
            g = P.neg(g)
        if decay:
            g = axpy(g, p, weight_decay)
        if not momentum:
            return axpy(p, g, minus_lr), ()
        buf = axpy(P.mul(states[0], mu), g, share)
        return axpy(p, axpy(g, buf, mu) if nesterov else buf, minus_lr), (buf,)

    return Formula(rule, ("momentum_buffer",) if momentum else ())


class SGD(Stepper):
    """Subtract the gradient times `lr`, with momentum if wanted.

    Raises ValueError for options out of range. Differs from torch: `foreach` and `fused` change nothing.
    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning" (2013).
    """

    _missing = {
        "nesterov": False,
        "maximize": False,
        "foreach": None,
        "differentiable": False,
        "fused": False,
    }
    _counters = ()

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_lr(lr)
        if momentum < 0.0:
            raise ValueError(f"Invalid momentum value: {momentum}")
        if scalar(weight_decay) < 0.0:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
                "foreach": foreach,
                "differentiable": differentiable,
                "fused": fused,
            },
        )
        check_flags(fused, foreach, differentiable)

    def _batches(self, group: dict[str, Any], ended: list[tuple]) -> list:
        momentum = group["momentum"] != 0
        f = _formula(
            momentum, bool(group["nesterov"]), scalar(group["weight_decay"]) != 0, bool(group["maximize"])
        )
        return self._share(group, f, momentum)

    def _share(self, group: dict[str, Any], f: Formula, momentum: bool) -> list:
        from fanal.optim.update import Batch

        lr, decay = -scalar(group["lr"]), scalar(group["weight_decay"])
        # A buffer begins as the first gradient: zero, plus all of it, whatever the dampening.
        first = Batch(f, [lr, decay, group["momentum"], 1.0])
        later = Batch(f, [lr, decay, group["momentum"], 1 - group["dampening"]])
        table = self.state
        for p in group["params"]:
            g = p._grad
            if g is None:
                continue
            b = later
            if momentum:
                state = table[p]
                buf = state.get("momentum_buffer")
                if buf is None:
                    buf = state["momentum_buffer"] = zeros_like(p)
                    b = first
                b.states.append(buf)
            b.params.append(p)
            b.grads.append(g)
        return [b for b in (first, later) if b.params]
