"""Adam, and the base it shares with AdamW."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from fanal.core.engine.handle import Handle
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.optim.update import (
    Formula,
    Stepper,
    addcdiv,
    addcmul,
    axpy,
    check_flags,
    check_lr,
    counter,
    lerp,
    scalar,
    zeros_like,
)


@functools.cache
def _formula(amsgrad: bool, decay: bool, decoupled: bool, maximize: bool, near: bool) -> Formula:
    def rule(p: Node, g: Node, states: Sequence[Node], n: Sequence[Node]) -> tuple[Node, Sequence[Node]]:
        weight_decay, share1, beta2, share2, eps, minus_step = n
        if maximize:
            g = P.neg(g)
        if decay and decoupled:
            p = P.mul(p, weight_decay)
        elif decay:
            g = axpy(g, p, weight_decay)
        m = lerp(states[0], g, share1, near)
        v = addcmul(P.mul(states[1], beta2), g, g, share2)
        top = P.max_(states[2], v) if amsgrad else v
        denom = P.add(P.sqrt(top), eps)
        return addcdiv(p, m, denom, minus_step), (m, v, top) if amsgrad else (m, v)

    return Formula(
        rule, ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if amsgrad else ("exp_avg", "exp_avg_sq")
    )


class Adam(Stepper):
    """Scale each step by running means of the gradient and of its square.

    betas: decay of both means. amsgrad: keep the largest second mean. decoupled_weight_decay: as AdamW.
    Raises ValueError for options out of range. Differs from torch: `foreach`, `fused` and `capturable`
    change nothing. Source: Kingma & Ba, "Adam: a method for stochastic optimization" (2014), algorithm 1.
    """

    _missing = {
        "amsgrad": False,
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
        "decoupled_weight_decay": False,
        "fused": None,
    }

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        if isinstance(lr, Handle) and foreach and not capturable:
            raise ValueError("lr as a Tensor is not supported for capturable=False and foreach=True")
        check_lr(lr)
        if not 0.0 <= eps:
            raise ValueError(f"Invalid epsilon value: {eps}")
        for i, b in enumerate(betas):
            if not 0.0 <= scalar(b) < 1.0:
                raise ValueError(f"Invalid beta parameter at index {i}: {b}")
        if not 0.0 <= weight_decay:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        if not (all(isinstance(b, float) for b in betas) or all(isinstance(b, Handle) for b in betas)):
            raise ValueError("betas must be either both floats or both Tensors")
        if isinstance(betas[0], Handle) and foreach and not capturable:
            raise ValueError("betas[0] as a Tensor is not supported for capturable=False and foreach=True")
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": tuple(betas),
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "differentiable": differentiable,
                "fused": fused,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
        )
        check_flags(fused, foreach, differentiable)

    def _begin(self, p: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        state["step"] = counter()
        state["exp_avg"], state["exp_avg_sq"] = zeros_like(p), zeros_like(p)
        if group["amsgrad"]:
            state["max_exp_avg_sq"] = zeros_like(p)

    def _formula(self, group: dict[str, Any], when: float) -> Formula:
        return _formula(
            bool(group["amsgrad"]),
            group["weight_decay"] != 0,
            bool(group["decoupled_weight_decay"]),
            bool(group["maximize"]),
            1 - scalar(group["betas"][0]) < 0.5,
        )

    def _numbers(self, group: dict[str, Any], when: float, lr: float) -> list[float]:
        beta1, beta2 = map(scalar, group["betas"])
        decay = group["weight_decay"]
        # sqrt(v / correction) + eps is the root of v plus eps, both over the root of the correction, which the size of
        # the step takes: a division less for every element (end of section 2 of the paper).
        root = (1 - beta2**when) ** 0.5
        return [
            1 - lr * decay if group["decoupled_weight_decay"] else decay,
            1 - beta1,
            beta2,
            1 - beta2,
            group["eps"] * root,
            -(lr * root / (1 - beta1**when)),
        ]
