"""ASGD."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.optim.update import Formula, Stepper, assign, axpy, check_lr, counter, scalar, zeros_like


@functools.cache
def _formula(decay: bool, maximize: bool, averaging: bool) -> Formula:
    def rule(p: Node, g: Node, states: Sequence[Node], n: Sequence[Node]) -> tuple[Node, Sequence[Node]]:
        shrink, minus_eta, mu, weight_decay = n
        if maximize:
            g = P.neg(g)
        if decay:
            g = axpy(g, p, weight_decay)
        p = axpy(P.mul(p, shrink), g, minus_eta)
        return p, (P.add(states[0], P.mul(P.sub(p, states[0]), mu)) if averaging else P.alias(p),)

    return Formula(rule, ("ax",))


class ASGD(Stepper):
    """Averaged stochastic gradient descent: state "ax" holds the mean of the parameters.

    Raises ValueError for options out of range. Source: Polyak & Juditsky, "Acceleration of stochastic
    approximation by averaging" (1992).
    """

    _counters = ("step", "eta", "mu")

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        check_lr(lr)
        if not 0.0 <= weight_decay:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        super().__init__(
            params,
            {
                "lr": lr,
                "lambd": lambd,
                "alpha": alpha,
                "t0": t0,
                "weight_decay": weight_decay,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
                "capturable": capturable,
            },
        )

    def _begin(self, p: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        state["step"], state["eta"], state["mu"] = counter(), counter(scalar(group["lr"])), counter(1.0)
        state["ax"] = zeros_like(p)

    def _when(self, state: dict[str, Any]) -> tuple[float, float, float]:
        return scalar(state["step"]) + 1.0, scalar(state["eta"]), scalar(state["mu"])

    def _ended(self, state: dict[str, Any], group: dict[str, Any], when: tuple[float, float, float]) -> None:
        t, lr = when[0], scalar(group["lr"])
        assign(state["step"], t)
        assign(state["eta"], lr / ((1 + group["lambd"] * lr * t) ** group["alpha"]))
        assign(state["mu"], 1 / max(1, t - group["t0"]))

    def _formula(self, group: dict[str, Any], when: tuple[float, float, float]) -> Formula:
        return _formula(group["weight_decay"] != 0, bool(group["maximize"]), when[2] != 1)

    def _numbers(self, group: dict[str, Any], when: tuple[float, float, float], lr: float) -> list[float]:
        return [1 - group["lambd"] * when[1], -when[1], when[2], group["weight_decay"]]
