"""SparseAdam."""

from __future__ import annotations

from typing import Any

from fanal.optim.adamax import check_betas
from fanal.optim.optimizer import Optimizer
from fanal.optim.update import check_lr, scalar


class SparseAdam(Optimizer):
    """Adam for sparse gradients.

    Raises ValueError for options out of range. Differs from torch: gradients here are always dense, so a
    step raises what PyTorch raises for those.
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

    def step(self, closure: Any = None) -> Any:
        """Raise RuntimeError if any parameter has a gradient, for it is dense."""
        from fanal.core.base.state import grad_mode

        loss = None
        if closure is not None:
            with grad_mode(True):
                loss = closure()
        if any(p._grad is not None for group in self.param_groups for p in group["params"]):
            raise RuntimeError("SparseAdam does not support dense gradients, please consider Adam instead")
        return loss
