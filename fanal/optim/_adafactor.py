"""Adafactor."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.tensor.tensor import wrap_array
from fanal.optim.update import Formula, Stepper, axpy, check_lr, counter, lerp, scalar


def _norm(x: Node, dims: tuple[int, ...]) -> Node:
    return P.sqrt(P.sum_(P.mul(x, x), dims))


def _mean_square(g: Node, dim: int) -> Node:
    """Mean of squares along one dimension, which stays, by way of the norm as PyTorch takes it."""
    norm = _norm(g, (dim,))
    shape = tuple(1 if d == dim else n for d, n in enumerate(g.shape))
    return P.reshape(P.div(P.mul(norm, norm), P.num(norm, g.shape[dim])), shape)


@functools.cache
def _formula(matrix: bool, decay: bool, maximize: bool, near: bool) -> Formula:
    def rule(p: Node, g: Node, states: Sequence[Node], n: Sequence[Node]) -> tuple[Node, Sequence[Node]]:
        share, rho, shrink, eps1, eps1_squared, eps2, clip = n
        if maximize:
            g = P.neg(g)
        every = tuple(range(len(p.shape)))
        root = P.num(p, p.size**0.5)
        alpha = P.mul(P.max_(eps2, P.div(_norm(p, every), root)), rho)
        if decay:
            p = P.mul(p, shrink)
        if matrix:
            last = len(g.shape) - 1
            row = lerp(states[0], _mean_square(g, last), share, near)
            column = lerp(states[1], _mean_square(g, last - 1), share, near)
            mean = P.div(P.sum_(row, (last - 1,)), P.num(row, row.shape[last - 1]))
            mean = P.reshape(mean, (*row.shape[:-2], 1, 1))
            var, new = P.div(P.mul(row, column), P.max_(mean, eps1)), (row, column)
        else:
            var = lerp(states[0], P.mul(g, g), share, near)
            new = (var,)
        update = P.mul(P.div(P.num(g, 1), P.sqrt(P.max_(var, eps1_squared))), g)
        denom = P.max_(P.num(g, 1), P.div(_norm(update, every), P.mul(root, clip)))
        return axpy(p, update, P.neg(P.div(alpha, denom))), new

    return Formula(rule, ("row_var", "col_var") if matrix else ("variance",))


class Adafactor(Stepper):
    """Adam without a first mean, whose second mean is kept as a row and a column for matrices.

    lr: the largest relative step. eps: (for variances, for the size of parameters). d: clipping of updates.
    Raises ValueError for options out of range. Source: Shazeer & Stern, "Adafactor: adaptive learning rates
    with sublinear memory cost" (2018), algorithm 4.
    """

    __module__ = "torch.optim"
    _missing = {"foreach": None}

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        check_lr(lr, "Learning rate should be >= 0 but is: {}")
        if not 0.0 >= beta2_decay:
            raise ValueError(f"beta2_decay should be <= 0 but is: {beta2_decay}")
        if eps[0] is not None and not 0.0 <= eps[0]:
            raise ValueError(f"epsilon1 should be >= 0 but is: {eps[0]}")
        if not 0.0 <= eps[1]:
            raise ValueError(f"epsilon2 should be >= 0 but is: {eps[1]}")
        if not 1.0 <= d:
            raise ValueError(f"Clipping threshold d should be >= 1 but is: {d}")
        if not 0.0 <= weight_decay:
            raise ValueError(f"weight_decay should be >= 0 but is: {weight_decay}")
        super().__init__(
            params,
            {
                "lr": lr,
                "beta2_decay": beta2_decay,
                "eps": eps,
                "d": d,
                "weight_decay": weight_decay,
                "foreach": foreach,
                "maximize": maximize,
            },
        )

    def _begin(self, p: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        if p._dtype.is_complex:
            raise RuntimeError("Adafactor does not support complex parameters")
        state["step"] = counter()
        shape, d = p._shape, p._dtype
        parts = (
            {"row_var": (*shape[:-1], 1), "col_var": (*shape[:-2], 1, shape[-1])}
            if len(shape) > 1
            else {"variance": shape}
        )
        for name, s in parts.items():
            state[name] = wrap_array(np.zeros(s, d.np), d)

    def _when(self, state: dict[str, Any]) -> tuple:
        one = state.get("row_var", state.get("variance"))
        return scalar(state["step"]) + 1.0, "row_var" in state, one._dtype

    def _ended(self, state: dict[str, Any], group: dict[str, Any], when: tuple) -> None:
        super()._ended(state, group, when[0])

    def _formula(self, group: dict[str, Any], when: tuple) -> Formula:
        return _formula(
            when[1],
            group["weight_decay"] != 0,
            bool(group["maximize"]),
            when[0] ** group["beta2_decay"] < 0.5,
        )

    def _numbers(self, group: dict[str, Any], when: tuple, lr: float) -> list[float]:
        t, _, dtype = when
        eps1 = group["eps"][0]
        if eps1 is None:
            eps1 = float(ml_dtypes.finfo(dtype.np).eps)
        return [
            t ** group["beta2_decay"],
            min(lr, 1 / math.sqrt(t)),
            1 - lr * group["weight_decay"],
            eps1,
            eps1 * eps1,
            group["eps"][1],
            group["d"],
        ]
