"""Muon."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.optim.update import Formula, Stepper, axpy, check_lr, lerp, zeros_like


def _half(x: Node) -> Node:
    return P.convert(x, dt.bfloat16)


def _wide(x: Node) -> Node:
    return P.convert(x, dt.float32)


def _product(a: Node, b: Node) -> Node:
    """Matrix product of bfloat16 values, kept in float32."""
    return P.dot(_wide(a), _wide(b))


def orthogonalize(g: Node, coefficients: Sequence[Node], eps: Node, steps: int) -> Node:
    """Return a matrix near the orthogonal factor of `g`, in bfloat16, by a quintic Newton-Schulz iteration.

    Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024).
    """
    a, b, c = coefficients
    tall = g.shape[0] > g.shape[1]
    x = _half(g)
    if tall:
        x = P.swap(x)
    wide = _wide(x)
    norm = _half(P.sqrt(P.sum_(P.mul(wide, wide), (0, 1))))
    x = P.div(x, P.max_(norm, _half(eps)))
    for _ in range(steps):
        gram = _half(_product(x, P.swap(x)))
        change = _half(P.add(P.mul(_product(gram, gram), c), P.mul(_wide(gram), b)))
        x = _half(P.add(_product(change, x), P.mul(_wide(x), a)))
    return P.swap(x) if tall else x


@functools.cache
def _formula(nesterov: bool, decay: bool, steps: int, near: bool, near_nesterov: bool) -> Formula:
    def rule(p: Node, g: Node, states: Sequence[Node], n: Sequence[Node]) -> tuple[Node, Sequence[Node]]:
        minus_lr, shrink, mu, share, eps, *coefficients = n
        buf = lerp(states[0], g, share, near)
        u = lerp(g, buf, mu, near_nesterov) if nesterov else buf
        u = orthogonalize(u, [_wide(k) for k in coefficients], _wide(eps), steps)
        if decay:
            p = P.mul(p, shrink)
        return axpy(p, P.convert(u, p.dtype), minus_lr), (buf,)

    return Formula(rule, ("momentum_buffer",))


class Muon(Stepper):
    """Step along the orthogonalized momentum of each matrix.

    Parameters are matrices. adjust_lr_fn: "original" or "match_rms_adamw", how `lr` depends on the shape.
    Raises ValueError for options out of range. Source: Jordan et al., "Muon: an optimizer for hidden layers
    in neural networks" (2024); Liu et al., "Muon is scalable for LLM training" (2025).
    """

    __module__ = "torch.optim"
    _missing: dict[str, Any] = {}
    _counters = ()

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:
        check_lr(lr, "Learning rate should be >= 0 but is: {}")
        if not 0.0 <= momentum:
            raise ValueError(f"momentum should be >= 0 but is: {momentum}")
        if not 0.0 <= weight_decay:
            raise ValueError(f"weight decay should be >= 0 but is: {weight_decay}")
        if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
            raise ValueError(f"Adjust learning rate function {adjust_lr_fn} is not supported")
        super().__init__(
            params,
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "nesterov": nesterov,
                "ns_coefficients": ns_coefficients,
                "eps": eps,
                "ns_steps": ns_steps,
                "adjust_lr_fn": adjust_lr_fn,
            },
        )
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim != 2:
                    raise ValueError(
                        f"Muon only supports 2D parameters whereas we found a parameter with size: {p.shape}"
                    )

    def _begin(self, p: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        if p._dtype.is_complex:
            raise RuntimeError("Muon does not support complex parameters")
        state["momentum_buffer"] = zeros_like(p)

    def _when(self, state: dict[str, Any]) -> tuple[int, int]:
        return state["momentum_buffer"]._shape

    def _ended(self, state: dict[str, Any], group: dict[str, Any], when: tuple[int, int]) -> None:
        pass

    def _formula(self, group: dict[str, Any], when: tuple[int, int]) -> Formula:
        if group["ns_steps"] >= 100:
            raise ValueError("Number of steps must be less than 100 for computational efficiency")
        if len(group["ns_coefficients"]) != 3:
            raise ValueError("Coefficients must be a tuple of exactly 3 values")
        return _formula(
            bool(group["nesterov"]),
            group["weight_decay"] != 0,
            group["ns_steps"],
            1 - group["momentum"] < 0.5,
            group["momentum"] < 0.5,
        )

    def _numbers(self, group: dict[str, Any], when: tuple[int, int], lr: float) -> list[float]:
        rows, columns = when
        ratio = (
            0.2 * math.sqrt(max(rows, columns))
            if group["adjust_lr_fn"] == "match_rms_adamw"
            else math.sqrt(max(1, rows / columns))
        )
        return [
            -lr * ratio,
            1 - lr * group["weight_decay"],
            group["momentum"],
            1 - group["momentum"],
            group["eps"],
            *group["ns_coefficients"],
        ]
