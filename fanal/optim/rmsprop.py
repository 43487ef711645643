"""RMSprop."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.optim.update import Formula, Stepper, addcdiv, addcmul, axpy, check_lr, counter, lerp, zeros_like


@functools.cache
def _formula(momentum: bool, centered: bool, decay: bool, maximize: bool, near: bool) -> Formula:
    keys = ("square_avg", *(("grad_avg",) if centered else ()), *(("momentum_buffer",) if momentum else ()))

    def rule(p: Node, g: Node, states: Sequence[Node], n: Sequence[Node]) -> tuple[Node, Sequence[Node]]:
        minus_lr, alpha, share, eps, weight_decay, mu = n
        if maximize:
            g = P.neg(g)
        if decay:
            g = axpy(g, p, weight_decay)
        v = addcmul(P.mul(states[0], alpha), g, g, share)
        new = [v]
        if centered:
            mean = lerp(states[1], g, share, near)
            new.append(mean)
            v = addcmul(v, mean, mean, P.num(v, -1))
        root = P.add(P.sqrt(v), eps)
        if not momentum:
            return addcdiv(p, g, root, minus_lr), new
        buf = P.add(P.mul(states[-1], mu), P.div(g, root))
        return axpy(p, buf, minus_lr), [*new, buf]

    return Formula(rule, keys)


class RMSprop(Stepper):
    """Divide the gradient by a running root mean square.

    centered: by a running standard deviation. Raises ValueError for options out of range. Source: Hinton,
    "Neural networks for machine learning", lecture 6 (2012); centered: Graves (2013), arXiv:1308.0850.
    """

    _missing = {"momentum": 0, "centered": False, **Stepper._missing}

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_lr(lr)
        for ok, name, x in (
            (0.0 <= eps, "epsilon", eps),
            (0.0 <= momentum, "momentum", momentum),
            (0.0 <= weight_decay, "weight_decay", weight_decay),
            (0.0 <= alpha, "alpha", alpha),
        ):
            if not ok:
                raise ValueError(f"Invalid {name} value: {x}")
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "alpha": alpha,
                "eps": eps,
                "centered": centered,
                "weight_decay": weight_decay,
                "capturable": capturable,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
            },
        )

    def _begin(self, p: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        state["step"], state["square_avg"] = counter(), zeros_like(p)
        if group["momentum"] > 0:
            state["momentum_buffer"] = zeros_like(p)
        if group["centered"]:
            state["grad_avg"] = zeros_like(p)

    def _formula(self, group: dict[str, Any], when: float) -> Formula:
        return _formula(
            group["momentum"] > 0,
            bool(group["centered"]),
            group["weight_decay"] != 0,
            bool(group["maximize"]),
            1 - group["alpha"] < 0.5,
        )

    def _numbers(self, group: dict[str, Any], when: float, lr: float) -> list[float]:
        alpha = group["alpha"]
        return [-lr, alpha, 1 - alpha, group["eps"], group["weight_decay"], group["momentum"]]
