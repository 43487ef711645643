"""Stochastic gradient descent."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.tensor.sparse import Sparse
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


@functools.lru_cache(maxsize=64)
def _minus(lr: float) -> float:
    """Return the number that a rate makes: the same object as last time, which following knows at once."""
    return -lr


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

    def _change_rows(self, p: Any, g: Sparse, group: dict[str, Any]) -> None:
        """Change the rows that have a gradient; momentum is a sparse tensor too, as in PyTorch."""
        if group["weight_decay"] != 0:
            raise RuntimeError("add(sparse, dense) is not supported: weight_decay needs dense gradients")
        fresh: Any = -g if group["maximize"] else g
        step = fresh
        if group["momentum"] != 0:
            state = self.state[p]
            old = state.get("momentum_buffer")
            if old is not None:
                step = old * group["momentum"] + fresh * (1 - group["dampening"])
            state["momentum_buffer"] = step
            if group["nesterov"]:
                step = fresh + step * group["momentum"]
        p.index_add_(0, step.places[0][0], step.stored, alpha=_minus(float(scalar(group["lr"]))))

    def _standing(self, p: Any, group: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        if not group["momentum"]:
            return _STATELESS, False
        state = self.state[p]
        first = state.get("momentum_buffer") is None
        if first:
            state["momentum_buffer"] = zeros_like(p)
        return state, first

    def _ended(self, state: dict[str, Any], group: dict[str, Any], when: bool) -> None:
        pass

    def _formula(self, group: dict[str, Any], when: bool) -> Formula:
        return _formula(
            group["momentum"] != 0,
            bool(group["nesterov"]),
            scalar(group["weight_decay"]) != 0,
            bool(group["maximize"]),
        )

    def _numbers(self, group: dict[str, Any], when: bool, lr: float) -> list[float]:
        # A buffer begins as the first gradient: zero, plus all of it, whatever the dampening.
        share = 1.0 if when else 1 - group["dampening"]
        return [-lr, scalar(group["weight_decay"]), group["momentum"], share]


_STATELESS: dict[str, Any] = {}
