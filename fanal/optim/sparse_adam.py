"""SparseAdam."""

from __future__ import annotations

import math
from typing import Any

from fanal.core.base.state import grad_mode
from fanal.core.engine.record import flush
from fanal.core.tensor.sparse import Sparse
from fanal.optim.adamax import check_betas
from fanal.optim.optimizer import Optimizer
from fanal.optim.update import check_lr, scalar, zeros_like


class SparseAdam(Optimizer):
    """Adam on the rows that have a gradient; the moments of other rows stand still.

    Raises ValueError for options out of range, RuntimeError for dense gradients. Source: Kingma & Ba, "Adam"
    (ICLR 2015), applied to the rows of each step alone.
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        if not 0.0 < scalar(lr):
            raise ValueError(f"Invalid learning rate: {lr}")
        check_lr(lr)
        if not 0.0 < eps:
            raise ValueError(f"Invalid epsilon value: {eps}")
        check_betas(betas)
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "maximize": maximize})
        given = [p for group in self.param_groups for p in group["params"]]
        if found := [i for i, p in enumerate(given) if isinstance(p, Sparse)]:
            raise ValueError(f"Sparse params at indices {found}: SparseAdam requires dense parameter tensors")
        if found := [i for i, p in enumerate(given) if p.is_complex()]:
            raise ValueError(f"Complex params at indices {found}: SparseAdam does not support complex parameters")

    def step(self, closure: Any = None) -> Any:
        """Change the rows that have gradients. closure: evaluates the model again and returns the loss."""
        loss = None
        if closure is not None:
            with grad_mode(True):
                loss = closure()
        found = [(p, group) for group in self.param_groups for p in group["params"] if p._grad is not None]
        if not all(isinstance(p._grad, Sparse) for p, _ in found):
            raise RuntimeError("SparseAdam does not support dense gradients, please consider Adam instead")
        with grad_mode(False):
            for p, group in found:
                self._change(p, p._grad.coalesce(), group)
        flush("optimizer.step")
        return loss

    def _change(self, p: Any, g: Sparse, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["step"] = 0
            state["exp_avg"], state["exp_avg_sq"] = zeros_like(p), zeros_like(p)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        at, v = g.places[0][0], -g.stored if group["maximize"] else g.stored  # rows: (k,), their gradients: (k, D)
        old_m, old_v = state["exp_avg"].index_select(0, at), state["exp_avg_sq"].index_select(0, at)
        change_m, change_v = (v - old_m) * (1 - beta1), (v * v - old_v) * (1 - beta2)
        state["exp_avg"].index_add_(0, at, change_m)
        state["exp_avg_sq"].index_add_(0, at, change_v)
        denominator = (old_v + change_v).sqrt() + group["eps"]
        root = math.sqrt(1 - beta2 ** state["step"])
        size = float(scalar(group["lr"])) * root / (1 - beta1 ** state["step"])
        p.index_add_(0, at, (old_m + change_m) / denominator, alpha=-size)
