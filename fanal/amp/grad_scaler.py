"""The scaling of losses, so that small float16 gradients do not vanish."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from enum import Enum
from typing import Any

import numpy as np

import fanal
from fanal.core.base import dtype as dt
from fanal.core.tensor.tensor import Tensor


class OptState(Enum):
    """How far an optimizer is since the last update."""

    READY = 0
    UNSCALED = 1
    STEPPED = 2


class _Optimizer:
    """What is known of an optimizer since the last update."""

    def __init__(self) -> None:
        self.stage = OptState.READY
        self.found_inf: Any = None  # a tensor: some gradient is infinite or NaN


class GradScaler:
    """Scale losses, and skip the steps whose gradients came out infinite.

    For CUDA, which is not here, it warns and does nothing: then `scale` returns its argument and `step` calls the
    optimizer. The factor is a number of Python, rounded to float32 as PyTorch's tensor is.

    Source: PyTorch documentation, "Automatic Mixed Precision package", Gradient Scaling.
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if enabled and device == "cuda":
            warnings.warn(
                "torch.cuda.amp.GradScaler is enabled, but CUDA is not available.  Disabling.", stacklevel=2
            )
            enabled = False
        if enabled and growth_factor <= 1.0:
            raise AssertionError("The growth factor must be > 1.0.")
        if enabled and backoff_factor >= 1.0:
            raise AssertionError("The backoff factor must be < 1.0.")
        self._enabled, self._device = enabled, device
        self._scale, self._growth_tracker = _rounded(init_scale), 0
        self._growth_factor, self._backoff_factor = growth_factor, backoff_factor
        self._growth_interval = growth_interval
        self._scaled = False  # whether scale was called
        self._optimizers: dict[int, _Optimizer] = {}

    def is_enabled(self) -> bool:
        """Tell whether anything is scaled."""
        return self._enabled

    def scale(self, outputs: Any) -> Any:
        """Return a tensor, or the tensors of an iterable, times the factor."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            self._scaled = True
            if not outputs.dim() and outputs.dtype in dt.ACCUMULATE:
                outputs = outputs.float()  # PyTorch's factor is a float32 tensor, as wide as a loss without dimensions
            return outputs * self._scale
        if not isinstance(outputs, Iterable):
            raise ValueError("outputs must be a Tensor or an iterable of Tensors")
        items = map(self.scale, outputs)
        return type(outputs)(items) if isinstance(outputs, (list, tuple)) else items  # type: ignore[call-arg]

    def _check_scaled(self, caller: str) -> None:
        if not self._scaled:
            raise AssertionError(
                f"Attempted {caller} but _scale is None.  This may indicate your script did not use "
                "scaler.scale(loss or outputs) earlier in the iteration."
            )

    def _of(self, optimizer: Any) -> _Optimizer:
        return self._optimizers.setdefault(id(optimizer), _Optimizer())

    def unscale_(self, optimizer: Any) -> None:
        """Divide the optimizer's gradients by the factor, once a step. Does not wait for their values."""
        if not self._enabled:
            return
        self._check_scaled("unscale_")
        known = self._of(optimizer)
        if known.stage is OptState.UNSCALED:
            raise RuntimeError(
                "unscale_() has already been called on this optimizer since the last update()."
            )
        if known.stage is OptState.STEPPED:
            raise RuntimeError("unscale_() is being called after step().")
        inverse = _rounded(1.0 / self._scale)
        finite = []
        with fanal.no_grad():
            for group in optimizer.param_groups:
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    if p.grad.dtype is dt.float16:
                        raise ValueError("Attempting to unscale FP16 gradients.")
                    grad = p.grad._values() if p.grad.is_sparse else p.grad
                    finite.append(grad.isfinite().all())
                    grad.mul_(inverse)
            if finite:
                known.found_inf = fanal.stack(finite).all().logical_not()
        known.stage = OptState.UNSCALED

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """Call optimizer.step, unless a gradient is infinite or NaN."""
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs:
            raise RuntimeError("Closure use is not currently supported if GradScaler is enabled.")
        self._check_scaled("step")
        known = self._of(optimizer)
        if known.stage is OptState.STEPPED:
            raise RuntimeError("step() has already been called since the last update().")
        if known.stage is OptState.READY:
            self.unscale_(optimizer)
        if known.found_inf is None:
            raise AssertionError("No inf checks were recorded for this optimizer.")
        known.found_inf = known.found_inf.item()
        result = None if known.found_inf else optimizer.step(*args, **kwargs)
        known.stage = OptState.STEPPED
        return result

    def update(self, new_scale: Any = None) -> None:
        """Adapt the factor: smaller after an infinite gradient, larger after a long time without. Or set it."""
        if not self._enabled:
            return
        self._check_scaled("update")
        if new_scale is not None:
            if isinstance(new_scale, Tensor) and (new_scale.numel() != 1 or new_scale.requires_grad):
                raise AssertionError(
                    "new_scale should be a float or a 1-element torch.cuda.FloatTensor or "
                    "torch.FloatTensor with requires_grad=False."
                )
            self._scale = _rounded(float(new_scale))
        else:
            found = [o.found_inf for o in self._optimizers.values() if o.found_inf is not None]
            if not found:
                raise AssertionError("No inf checks were recorded prior to update.")
            self._adapt(any(map(bool, found)))
        self._optimizers = {}

    def _adapt(self, found_inf: bool) -> None:
        if found_inf:
            self._scale, self._growth_tracker = _rounded(self._scale * self._backoff_factor), 0
            return
        self._growth_tracker += 1
        if self._growth_tracker == self._growth_interval:
            grown = _rounded(self._scale * self._growth_factor)
            self._scale = grown if math.isfinite(grown) else self._scale
            self._growth_tracker = 0

    def get_scale(self) -> float:
        """Return the factor, 1.0 when disabled."""
        return self._scale if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        """Return the factor of growth."""
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        """Set the factor of growth."""
        self._growth_factor = new_factor

    def get_backoff_factor(self) -> float:
        """Return the factor of shrinking."""
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        """Set the factor of shrinking."""
        self._backoff_factor = new_factor

    def get_growth_interval(self) -> int:
        """Return after how many clean steps the factor grows."""
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        """Set after how many clean steps the factor grows."""
        self._growth_interval = new_interval

    def _get_growth_tracker(self) -> int:
        return self._growth_tracker if self._enabled else 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint; empty when disabled."""
        if not self._enabled:
            return {}
        return {
            "scale": self._scale,
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._growth_tracker,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state, PyTorch's too."""
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError(
                "The source state dict is empty, possibly because it was saved from a disabled instance of GradScaler."
            )
        self._scale, self._growth_tracker = _rounded(state_dict["scale"]), state_dict["_growth_tracker"]
        self._growth_factor, self._backoff_factor = state_dict["growth_factor"], state_dict["backoff_factor"]
        self._growth_interval = state_dict["growth_interval"]

    def __getstate__(self) -> dict[str, Any]:
        if self._enabled and self._optimizers:
            raise AssertionError(
                "A GradScaler instance may only be pickled at the beginning of an iteration, or at the end after "
                "scaler.update()."
            )
        return self.__dict__.copy()


def _rounded(x: float) -> float:
    """Return a number as float32 holds it."""
    with np.errstate(over="ignore"):
        return float(np.float32(x))
