"""Adadelta."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.optim.update import Formula, Stepper, addcmul, axpy, check_lr, counter, zeros_like


@functools.cache
def _formula(decay: bool, maximize: bool) -> Formula:
    def rule(p: Node, g: Node, states: Sequence[Node], n: Sequence[Node]) -> tuple[Node, Sequence[Node]]:
        minus_lr, rho, share, eps, weight_decay = n
        if maximize:
            g = P.neg(g)
        if decay:
            g = axpy(g, p, weight_decay)
        v = addcmul(P.mul(states[0], rho), g, g, share)
        delta = P.mul(P.div(P.sqrt(P.add(states[1], eps)), P.sqrt(P.add(v, eps))), g)
        return axpy(p, delta, minus_lr), (v, addcmul(P.mul(states[1], rho), delta, delta, share))

    return Formula(rule, ("square_avg", "acc_delta"))


class Adadelta(Stepper):
    """Scale the gradient by the ratio of running root mean squares of past updates and gradients.

    Raises ValueError for options out of range. Source: Zeiler, "ADADELTA: an adaptive learning rate method"
    (2012).
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_lr(lr)
        for ok, name, x in (
            (0.0 <= rho <= 1.0, "rho", rho),
            (0.0 <= eps, "epsilon", eps),
            (0.0 <= weight_decay, "weight_decay", weight_decay),
        ):
            if not ok:
                raise ValueError(f"Invalid {name} value: {x}")
        super().__init__(
            params,
            {
                "lr": lr,
                "rho": rho,
                "eps": eps,
                "weight_decay": weight_decay,
                "maximize": maximize,
                "capturable": capturable,
                "foreach": foreach,
                "differentiable": differentiable,
            },
        )

    def _begin(self, p: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        state["step"], state["square_avg"], state["acc_delta"] = counter(), zeros_like(p), zeros_like(p)

    def _formula(self, group: dict[str, Any], when: float) -> Formula:
        return _formula(group["weight_decay"] != 0, bool(group["maximize"]))

    def _numbers(self, group: dict[str, Any], when: float, lr: float) -> list[float]:
        rho = group["rho"]
        return [-lr, rho, 1 - rho, group["eps"], group["weight_decay"]]
