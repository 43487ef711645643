"""Mixed precision under PyTorch's names. Lower precision by autocast is refused, never pretended."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.base.missing import finder

_DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", "xla", "meta", "ipu")


class autocast:
    """Run in lower precision where it is safe: only the disabled form is supported on the CPU.

    Raises RuntimeError when enabled for the CPU. For a device that is not here it warns and does nothing, as
    torch.
    """

    def __init__(
        self, device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None
    ) -> None:
        if not isinstance(device_type, str):
            raise ValueError(f"Expected `device_type` of type `str`, got: `{type(device_type)}`")
        if device_type not in _DEVICES:
            raise RuntimeError(f"User specified an unsupported autocast device_type '{device_type}'")
        self.device, self.fast_dtype = (
            device_type,
            dtype or (dt.bfloat16 if device_type == "cpu" else dt.float16),
        )
        if enabled and device_type != "cpu":
            warnings.warn(
                f"User provided device_type of '{device_type}', but {device_type.upper()} is not available. "
                "Disabling",
                stacklevel=2,
            )
            enabled = False
        self._enabled = bool(enabled)

    def __enter__(self) -> autocast:
        if self._enabled:
            raise RuntimeError(
                "torch.autocast('cpu') is not supported: Fanal changes no precision by itself. Convert the "
                "model with model.bfloat16(), or pass enabled=False"
            )
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def __call__(self, f: Callable) -> Callable:
        @functools.wraps(f)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self:
                return f(*args, **kwargs)

        return call


class GradScaler:
    """Scale losses so that float16 gradients keep their small values.

    On a device that is not here it is disabled, with torch's warning: then `scale` returns its argument and
    `step` calls the optimizer. Enabled for the CPU, it scales and skips steps with infinite gradients.
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
        if enabled and str(device) != "cpu":
            warnings.warn(
                f"torch.{device}.amp.GradScaler is enabled, but {str(device).upper()} is not available.  "
                "Disabling.",
                stacklevel=2,
            )
            enabled = False
        if enabled and growth_factor <= 1.0:
            raise AssertionError("The growth factor must be > 1.0.")
        if enabled and backoff_factor >= 1.0:
            raise AssertionError("The backoff factor must be < 1.0.")
        self._enabled, self._device = enabled, device
        self._scale, self._growth, self._backoff = float(init_scale), growth_factor, backoff_factor
        self._interval, self._clean = growth_interval, 0
        self._found: dict[int, bool] = {}  # by optimizer, once its gradients were unscaled: some are infinite
        self._stepped: set[int] = set()

    def is_enabled(self) -> bool:
        """Tell whether anything is scaled."""
        return self._enabled

    def get_scale(self) -> float:
        """Return the factor, 1.0 when disabled."""
        return self._scale if self._enabled else 1.0

    def scale(self, outputs: Any) -> Any:
        """Return a tensor, or a nest of lists and tuples of tensors, times the factor."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, (list, tuple)):
            return type(outputs)(self.scale(o) for o in outputs)
        return outputs * self._scale

    def unscale_(self, optimizer: Any) -> None:
        """Divide the optimizer's gradients by the factor, once a step."""
        if not self._enabled:
            return
        if id(optimizer) in self._stepped:
            raise RuntimeError("unscale_() is being called after step().")
        if id(optimizer) in self._found:
            raise RuntimeError(
                "unscale_() has already been called on this optimizer since the last update()."
            )
        import fanal

        bad = False
        with fanal.no_grad():
            for group in optimizer.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.grad.mul_(1.0 / self._scale)
                        bad = bad or not bool(fanal.isfinite(p.grad).all())
        self._found[id(optimizer)] = bad

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """Call optimizer.step, unless a gradient is infinite or NaN."""
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs:
            raise RuntimeError("Closure use is not currently supported if GradScaler is enabled.")
        if id(optimizer) in self._stepped:
            raise RuntimeError("step() has already been called since the last update().")
        if id(optimizer) not in self._found:
            self.unscale_(optimizer)
        self._stepped.add(id(optimizer))
        return None if self._found[id(optimizer)] else optimizer.step(*args, **kwargs)

    def update(self, new_scale: float | None = None) -> None:
        """Adapt the factor: smaller after an infinite gradient, larger after a long time without."""
        if not self._enabled:
            return
        if new_scale is not None:
            self._scale = float(new_scale)
        elif not self._found:
            raise AssertionError("No inf checks were recorded prior to update.")
        elif any(self._found.values()):
            self._scale, self._clean = self._scale * self._backoff, 0
        else:
            self._clean += 1
            if self._clean == self._interval:
                self._scale, self._clean = self._scale * self._growth, 0
        self._found, self._stepped = {}, set()

    def get_growth_factor(self) -> float:
        """Return the factor of growth."""
        return self._growth

    def get_backoff_factor(self) -> float:
        """Return the factor of shrinking."""
        return self._backoff

    def get_growth_interval(self) -> int:
        """Return after how many clean steps the factor grows."""
        return self._interval

    def state_dict(self) -> dict:
        """Return the state for a checkpoint."""
        if not self._enabled:
            return {}
        return {
            "scale": self._scale,
            "growth_factor": self._growth,
            "backoff_factor": self._backoff,
            "growth_interval": self._interval,
            "_growth_tracker": self._clean,
        }

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over a state."""
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError(
                "The source state dict is empty, possibly because it was saved from a disabled instance of "
                "GradScaler."
            )
        self._scale, self._growth = state_dict["scale"], state_dict["growth_factor"]
        self._backoff, self._interval = state_dict["backoff_factor"], state_dict["growth_interval"]
        self._clean = state_dict["_growth_tracker"]


def custom_fwd(
    fwd: Callable | None = None, *, device_type: str = "cuda", cast_inputs: Any = None
) -> Callable:
    """Return the forward of a custom function as it is: no autocast is ever on."""
    return (
        functools.partial(custom_fwd, device_type=device_type, cast_inputs=cast_inputs)
        if fwd is None
        else fwd
    )


def custom_bwd(bwd: Callable | None = None, *, device_type: str = "cuda") -> Callable:
    """Return the backward of a custom function as it is: no autocast is ever on."""
    return functools.partial(custom_bwd, device_type=device_type) if bwd is None else bwd


def is_autocast_available(device_type: str) -> bool:
    """Return False: lower precision by autocast is not supported."""
    return False


def is_autocast_enabled(device_type: str = "cuda") -> bool:
    """Return False."""
    return False


def is_autocast_cpu_enabled() -> bool:
    """Return False."""
    return False


def get_autocast_dtype(device_type: str = "cuda") -> Any:
    """Return the dtype autocast would use."""
    return dt.bfloat16 if device_type == "cpu" else dt.float16


def get_autocast_cpu_dtype() -> Any:
    """Return bfloat16."""
    return dt.bfloat16


def get_autocast_gpu_dtype() -> Any:
    """Return float16."""
    return dt.float16


def clear_autocast_cache() -> None:
    """Do nothing: nothing is kept."""


__all__ = ["GradScaler", "autocast", "custom_bwd", "custom_fwd", "is_autocast_available"]

__getattr__ = finder("torch.amp")
