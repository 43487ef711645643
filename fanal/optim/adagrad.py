"""Adagrad."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.tensor.sparse import Sparse
from fanal.optim.update import (
    Formula,
    Stepper,
    addcdiv,
    axpy,
    check_flags,
    check_lr,
    counter,
    scalar,
    zeros_like,
)


@functools.cache
def _formula(decay: bool, maximize: bool) -> Formula:
    def rule(p: Node, g: Node, states: Sequence[Node], n: Sequence[Node]) -> tuple[Node, Sequence[Node]]:
        minus_lr, eps, weight_decay = n
        if maximize:
            g = P.neg(g)
        if decay:
            g = axpy(g, p, weight_decay)
        total = P.add(states[0], P.mul(g, g))
        return addcdiv(p, g, P.add(P.sqrt(total), eps), minus_lr), (total,)

    return Formula(rule, ("sum",))


class Adagrad(Stepper):
    """Divide the gradient by the root of the sum of all its squares.

    Raises ValueError for options out of range. Source: Duchi, Hazan & Singer, "Adaptive subgradient
    methods" (JMLR 2011).
    """

    _missing = {"foreach": None, "maximize": False, "differentiable": False, "fused": None}

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_lr(lr)
        for name, x in (
            ("lr_decay", lr_decay),
            ("weight_decay", weight_decay),
            ("initial_accumulator_value", initial_accumulator_value),
            ("epsilon", eps),
        ):
            if not 0.0 <= x:
                raise ValueError(f"Invalid {name} value: {x}")
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "eps": eps,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
                "fused": fused,
            },
        )
        check_flags(fused, foreach, differentiable)
        for group in self.param_groups:
            for p in group["params"]:
                self._begin(p, self.state[p], group)

    def _begin(self, p: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        start = group["initial_accumulator_value"]
        state["step"] = counter()
        state["sum"] = zeros_like(p, complex(start, start) if p._dtype.is_complex else start)

    def _change_rows(self, p: Any, g: Sparse, group: dict[str, Any]) -> None:
        """Change the rows that have a gradient."""
        if group["weight_decay"] != 0:
            raise RuntimeError("weight_decay option is not compatible with sparse gradients")
        state = self.state[p]
        when = self._when(state)
        rows = g.coalesce()
        at, v = rows.places[0][0], -rows.stored if group["maximize"] else rows.stored
        state["sum"].index_add_(0, at, v * v)
        deviation = state["sum"].index_select(0, at).sqrt() + group["eps"]
        lr = float(scalar(group["lr"])) / (1 + (when - 1) * group["lr_decay"])
        p.index_add_(0, at, v / deviation, alpha=-lr)
        self._ended(state, group, when)

    def share_memory(self) -> None:
        """Do nothing: threads share memory anyway, and processes do not share an optimizer's state here."""

    def _formula(self, group: dict[str, Any], when: float) -> Formula:
        return _formula(group["weight_decay"] != 0, bool(group["maximize"]))

    def _numbers(self, group: dict[str, Any], when: float, lr: float) -> list[float]:
        return [-(lr / (1 + (when - 1) * group["lr_decay"])), group["eps"], group["weight_decay"]]
