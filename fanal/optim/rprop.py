"""Rprop."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.optim.update import Formula, Stepper, check_lr, counter, scalar, zeros_like


@functools.cache
def _formula(maximize: bool) -> Formula:
    def rule(p: Node, g: Node, states: Sequence[Node], n: Sequence[Node]) -> tuple[Node, Sequence[Node]]:
        down, up, smallest, largest = n
        if maximize:
            g = P.neg(g)
        product, zero = P.mul(g, states[0]), P.num(g, 0)
        turned = P.lt(product, zero)
        factor = P.where(P.lt(zero, product), up, P.where(turned, down, P.num(g, 1)))
        size = P.min_(P.max_(P.mul(states[1], factor), smallest), largest)
        g = P.where(turned, zero, g)
        return P.sub(p, P.mul(P.sign(g), size)), (g, size)

    return Formula(rule, ("prev", "step_size"))


class Rprop(Stepper):
    """Resilient propagation: each element has a step that grows while its gradient keeps its sign.

    etas: factors down and up. step_sizes: limits. Raises ValueError for options out of range. Source:
    Riedmiller & Braun, "A direct adaptive method for faster backpropagation learning" (1993).
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_lr(lr)
        if not 0.0 < etas[0] < 1.0 < etas[1]:
            raise ValueError(f"Invalid eta values: {etas[0]}, {etas[1]}")
        super().__init__(
            params,
            {
                "lr": lr,
                "etas": etas,
                "step_sizes": step_sizes,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
                "capturable": capturable,
            },
        )

    def _begin(self, p: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        lr = scalar(group["lr"])
        state["step"], state["prev"] = counter(), zeros_like(p)
        state["step_size"] = zeros_like(p, complex(lr, lr) if p._dtype.is_complex else lr)

    def _when(self, state: dict[str, Any]) -> int:
        return 0

    def _ended(self, state: dict[str, Any], group: dict[str, Any], when: int) -> None:
        super()._ended(state, group, scalar(state["step"]) + 1.0)

    def _formula(self, group: dict[str, Any], when: int) -> Formula:
        return _formula(bool(group["maximize"]))

    def _numbers(self, group: dict[str, Any], when: int, lr: float) -> list[float]:
        return [*group["etas"], *group["step_sizes"]]
