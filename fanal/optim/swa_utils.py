"""Averages of weights: stochastic weight averaging and exponential moving averages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

import fanal
from fanal.core.base.missing import finder
from fanal.core.base.state import grad_mode
from fanal.nn.modules.batchnorm import _BatchNorm
from fanal.nn.modules.module import Module
from fanal.optim.optimizer import Optimizer
from fanal.optim.schedule import LRScheduler, per_group

__all__ = [
    "AveragedModel",
    "update_bn",
    "SWALR",
    "get_ema_multi_avg_fn",
    "get_swa_multi_avg_fn",
    "get_ema_avg_fn",
    "get_swa_avg_fn",
]
AvgFn = Callable[[Any, Any, Any], Any]


def _check_decay(decay: float) -> None:
    if decay < 0.0 or decay > 1.0:
        raise ValueError(f"Invalid decay value {decay} provided. Please provide a value in [0,1] range.")


def get_ema_multi_avg_fn(decay: float = 0.999) -> Callable[..., None]:
    """Return a function that moves a list of averages towards a list of tensors by 1 - decay."""
    _check_decay(decay)

    def ema_update(ema_param_list: Sequence[Any], current_param_list: Sequence[Any], _: Any) -> None:
        with grad_mode(False):
            for average, now in zip(ema_param_list, current_param_list):
                if average.dtype.category >= 2:
                    average.lerp_(now, 1 - decay)
                else:
                    average.copy_(average * decay + now * (1 - decay))

    return ema_update


def get_swa_multi_avg_fn() -> Callable[..., None]:
    """Return a function that takes a list of tensors into a list of means of `num_averaged` values."""

    def swa_update(
        averaged_param_list: Sequence[Any], current_param_list: Sequence[Any], num_averaged: Any
    ) -> None:
        with grad_mode(False):
            for average, now in zip(averaged_param_list, current_param_list):
                if average.dtype.category >= 2:
                    average.lerp_(now, 1 / (num_averaged + 1))
                else:
                    average.copy_(average + (now - average) / (num_averaged + 1))

    return swa_update


def get_ema_avg_fn(decay: float = 0.999) -> AvgFn:
    """Return a function (average, now, n) -> average moved towards `now` by 1 - decay."""
    _check_decay(decay)

    def ema_update(ema_param: Any, current_param: Any, num_averaged: Any) -> Any:
        with grad_mode(False):
            return decay * ema_param + (1 - decay) * current_param

    return ema_update


def get_swa_avg_fn() -> AvgFn:
    """Return a function (average, now, n) -> mean of n + 1 values."""

    def swa_update(averaged_param: Any, current_param: Any, num_averaged: Any) -> Any:
        with grad_mode(False):
            return averaged_param + (current_param - averaged_param) / (num_averaged + 1)

    return swa_update


class AveragedModel(Module):
    """A copy of a model whose parameters are averages of the model's.

    avg_fn(average, now, n) or multi_avg_fn(averages, nows, n): how to average; the mean by default.
    use_buffers: average buffers too, instead of copying them. Source: Izmailov et al., "Averaging weights
    leads to wider optima" (2018).
    """

    def __init__(
        self,
        model: Module,
        device: Any = None,
        avg_fn: AvgFn | None = None,
        multi_avg_fn: Callable[..., None] | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        self.module = deepcopy(model)
        if device is not None:
            self.module = self.module.to(device)
        self.register_buffer("n_averaged", fanal.tensor(0, dtype=fanal.long, device=device))
        self.avg_fn, self.multi_avg_fn, self.use_buffers = avg_fn, multi_avg_fn, use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Apply the averaged model."""
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Take the model's parameters into the averages."""
        if self.use_buffers:
            mine, theirs = (
                chain(self.module.parameters(), self.module.buffers()),
                chain(model.parameters(), model.buffers()),
            )
        else:
            mine, theirs = self.parameters(), model.parameters()
        averages, now = [p.detach() for p in mine], [p.detach() for p in theirs]
        with grad_mode(False):
            if int(self.n_averaged) == 0:
                for a, p in zip(averages, now):
                    a.copy_(p)
            elif self.avg_fn is not None:
                for a, p in zip(averages, now):
                    a.copy_(self.avg_fn(a, p, self.n_averaged))
            elif self.multi_avg_fn is not None:
                for d in dict.fromkeys(a.dtype for a in averages):
                    chosen = [(a, p) for a, p in zip(averages, now) if a.dtype is d]
                    self.multi_avg_fn([a for a, _ in chosen], [p for _, p in chosen], self.n_averaged)
            else:
                mean = get_swa_avg_fn()
                for a, p in zip(averages, now):
                    a.copy_(mean(a, p, self.n_averaged))
            if not self.use_buffers:
                for a, p in zip(self.module.buffers(), model.buffers()):
                    a.detach().copy_(p.detach())
            self.n_averaged += 1


def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Compute the running statistics of every batch norm of a model anew, as plain means over `loader`."""
    norms = {m: m.momentum for m in model.modules() if isinstance(m, _BatchNorm)}
    if not norms:
        return
    was_training = model.training
    model.train()
    for m in norms:
        m.reset_running_stats()
        m.momentum = None
    with grad_mode(False):
        for batch in loader:
            x = batch[0] if isinstance(batch, (list, tuple)) else batch
            model(x if device is None else x.to(device))
    for m, momentum in norms.items():
        m.momentum = momentum
    model.train(was_training)


class SWALR(LRScheduler):
    """Move the rate to `swa_lr` in `anneal_epochs` steps, along a cosine or a line, and keep it there."""

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: Any,
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:
        for lr, group in zip(per_group("swa_lr", optimizer, swa_lr), optimizer.param_groups):
            group["swa_lr"] = lr
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}"
            )
        self._anneal_strategy = anneal_strategy
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}")
        self.anneal_epochs = anneal_epochs
        super().__init__(optimizer, last_epoch)

    def _share(self, step: int) -> float:
        """Return how far the rate has gone at a step, from 0 to 1."""
        t = max(0, min(1, step / max(1, self.anneal_epochs)))
        return t if self._anneal_strategy == "linear" else (1 - math.cos(math.pi * t)) / 2

    def get_lr(self) -> list[Any]:
        """Return the rates for the present step."""
        self._warn_outside()
        step = self._step_count - 1
        if self.anneal_epochs == 0:
            step = max(1, step)
        before, now = self._share(step - 1), self._share(step)
        lrs = []
        for group in self.optimizer.param_groups:
            lr, end = group["lr"], group["swa_lr"]
            start = end if before == 1 else (lr - before * end) / (1 - before)
            lrs.append(end * now + start * (1 - now))
        return lrs

__getattr__ = finder("torch.optim.swa_utils")
