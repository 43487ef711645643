"""NAdam."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.optim.adamax import check_betas
from fanal.optim.update import (
    Formula,
    Stepper,
    addcdiv,
    addcmul,
    assign,
    axpy,
    check_lr,
    counter,
    lerp,
    scalar,
    zeros_like,
)


@functools.cache
def _formula(decay: bool, decoupled: bool, maximize: bool, near: bool) -> Formula:
    def rule(p: Node, g: Node, states: Sequence[Node], n: Sequence[Node]) -> tuple[Node, Sequence[Node]]:
        weight_decay, share1, beta2, share2, correction, eps, by_grad, by_mean = n
        if maximize:
            g = P.neg(g)
        if decay and decoupled:
            p = P.mul(p, weight_decay)
        elif decay:
            g = axpy(g, p, weight_decay)
        m = lerp(states[0], g, share1, near)
        v = addcmul(P.mul(states[1], beta2), g, g, share2)
        denom = P.add(P.sqrt(P.div(v, correction)), eps)
        return addcdiv(addcdiv(p, g, denom, by_grad), m, denom, by_mean), (m, v)

    return Formula(rule, ("exp_avg", "exp_avg_sq"))


class NAdam(Stepper):
    """Adam with Nesterov's momentum.

    Raises ValueError for options out of range. Source: Dozat, "Incorporating Nesterov momentum into Adam"
    (2016).
    """

    _missing = {**Stepper._missing, "decoupled_weight_decay": False}
    _counters = ("step", "mu_product")

    def __init__(
        self,
        params: Any,
        lr: Any = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
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
        if not 0.0 <= momentum_decay:
            raise ValueError(f"Invalid momentum_decay value: {momentum_decay}")
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum_decay": momentum_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "differentiable": differentiable,
            },
        )

    def _begin(self, p: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        state["step"], state["mu_product"] = counter(), counter(1.0)
        state["exp_avg"], state["exp_avg_sq"] = zeros_like(p), zeros_like(p)

    def _when(self, state: dict[str, Any]) -> tuple:
        product = state["mu_product"]
        return scalar(state["step"]) + 1.0, scalar(product), product._dtype

    def _mu(self, group: dict[str, Any], t: float) -> float:
        return group["betas"][0] * (1.0 - 0.5 * (0.96 ** (t * group["momentum_decay"])))

    def _product(self, group: dict[str, Any], when: tuple) -> float:
        """Return the product of all momenta up to this step, rounded as the counter that holds it."""
        t, product, d = when
        return float(d.np.type(product) * d.np.type(self._mu(group, t)))

    def _ended(self, state: dict[str, Any], group: dict[str, Any], when: tuple) -> None:
        assign(state["step"], when[0])
        assign(state["mu_product"], self._product(group, when))

    def _formula(self, group: dict[str, Any], when: tuple) -> Formula:
        return _formula(
            group["weight_decay"] != 0,
            bool(group["decoupled_weight_decay"]),
            bool(group["maximize"]),
            1 - group["betas"][0] < 0.5,
        )

    def _numbers(self, group: dict[str, Any], when: tuple, lr: float) -> list[float]:
        (beta1, beta2), decay, t = group["betas"], group["weight_decay"], when[0]
        mu, following, product = self._mu(group, t), self._mu(group, t + 1), self._product(group, when)
        return [
            1 - lr * decay if group["decoupled_weight_decay"] else decay,
            1 - beta1,
            beta2,
            1 - beta2,
            1 - beta2**t,
            group["eps"],
            -lr * (1.0 - mu) / (1.0 - product),
            -lr * following / (1.0 - product * following),
        ]
