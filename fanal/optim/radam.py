"""RAdam."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.optim.adamax import check_betas
from fanal.optim.update import Formula, Stepper, addcmul, axpy, check_lr, counter, lerp, zeros_like


@functools.cache
def _formula(decay: bool, decoupled: bool, maximize: bool, near: bool, rectified: bool) -> Formula:
    def rule(p: Node, g: Node, states: Sequence[Node], n: Sequence[Node]) -> tuple[Node, Sequence[Node]]:
        weight_decay, share1, beta2, share2, correction1, root_correction2, eps, lr, rectifier = n
        if maximize:
            g = P.neg(g)
        if decay and decoupled:
            p = P.mul(p, weight_decay)
        elif decay:
            g = axpy(g, p, weight_decay)
        m = lerp(states[0], g, share1, near)
        v = addcmul(P.mul(states[1], beta2), g, g, share2)
        by = P.mul(P.div(m, correction1), lr)
        if rectified:
            by = P.mul(P.mul(by, P.div(root_correction2, P.add(P.sqrt(v), eps))), rectifier)
        return P.sub(p, by), (m, v)

    return Formula(rule, ("exp_avg", "exp_avg_sq"))


def _length(beta2: float, t: float) -> tuple[float, float]:
    """Return the lengths of the simple moving average that the second mean amounts to.

    In the end, and now.
    """
    last = 2 / (1 - beta2) - 1
    return last, last - 2 * t * (beta2**t) / (1 - beta2**t)


class RAdam(Stepper):
    """Adam that waits until the variance of its second mean can be trusted.

    Raises ValueError for options out of range. Source: Liu et al., "On the variance of the adaptive
    learning rate and beyond" (2019), algorithm 2.
    """

    _missing = {**Stepper._missing, "decoupled_weight_decay": False}

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
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
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "decoupled_weight_decay": decoupled_weight_decay,
                "differentiable": differentiable,
            },
        )

    def _begin(self, p: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        state["step"], state["exp_avg"], state["exp_avg_sq"] = counter(), zeros_like(p), zeros_like(p)

    def _formula(self, group: dict[str, Any], when: float) -> Formula:
        return _formula(
            group["weight_decay"] != 0,
            bool(group["decoupled_weight_decay"]),
            bool(group["maximize"]),
            1 - group["betas"][0] < 0.5,
            _length(group["betas"][1], when)[1] > 5.0,
        )

    def _numbers(self, group: dict[str, Any], when: float, lr: float) -> list[float]:
        (beta1, beta2), decay = group["betas"], group["weight_decay"]
        last, now = _length(beta2, when)
        rectifier = (
            ((now - 4) * (now - 2) * last / ((last - 4) * (last - 2) * now)) ** 0.5 if now > 5.0 else 1.0
        )
        return [
            1 - lr * decay if group["decoupled_weight_decay"] else decay,
            1 - beta1,
            beta2,
            1 - beta2,
            1 - beta1**when,
            (1 - beta2**when) ** 0.5,
            group["eps"],
            lr,
            rectifier,
        ]
