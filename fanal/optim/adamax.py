"""Adamax."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.optim.update import Formula, Stepper, addcdiv, axpy, check_lr, counter, lerp, zeros_like


@functools.cache
def _formula(decay: bool, maximize: bool, near: bool) -> Formula:
    def rule(p: Node, g: Node, states: Sequence[Node], n: Sequence[Node]) -> tuple[Node, Sequence[Node]]:
        minus_step, share, beta2, eps, weight_decay = n
        if maximize:
            g = P.neg(g)
        if decay:
            g = axpy(g, p, weight_decay)
        m = lerp(states[0], g, share, near)
        top = P.max_(P.mul(states[1], beta2), P.add(P.abs_(g), eps))
        return addcdiv(p, m, top, minus_step), (m, top)

    return Formula(rule, ("exp_avg", "exp_inf"))


def check_betas(betas: Sequence[float]) -> None:
    """Raise PyTorch's error for a decay outside [0, 1)."""
    for i, b in enumerate(betas):
        if not 0.0 <= b < 1.0:
            raise ValueError(f"Invalid beta parameter at index {i}: {b}")


class Adamax(Stepper):
    """Adam with the largest recent gradient in place of the root mean square.

    Raises ValueError for options out of range. Source: Kingma & Ba, "Adam: a method for stochastic
    optimization" (2014), algorithm 2.
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        check_lr(lr)
        if not 0.0 <= eps:
            raise ValueError(f"Invalid epsilon value: {eps}")
        check_betas(betas)
        if not 0.0 <= weight_decay:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
                "capturable": capturable,
            },
        )

    def _begin(self, p: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        state["step"], state["exp_avg"], state["exp_inf"] = counter(), zeros_like(p), zeros_like(p)

    def _formula(self, group: dict[str, Any], when: float) -> Formula:
        return _formula(group["weight_decay"] != 0, bool(group["maximize"]), 1 - group["betas"][0] < 0.5)

    def _numbers(self, group: dict[str, Any], when: float, lr: float) -> list[float]:
        beta1, beta2 = group["betas"]
        return [-(lr / (1 - beta1**when)), 1 - beta1, beta2, group["eps"], group["weight_decay"]]
