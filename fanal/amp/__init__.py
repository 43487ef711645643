"""Mixed precision under PyTorch's names: autocast, and the scaling of losses."""

from __future__ import annotations

from fanal.amp.autocast_mode import autocast, custom_bwd, custom_fwd, is_autocast_available
from fanal.amp.grad_scaler import GradScaler
from fanal.core.base.missing import finder

__all__ = ["GradScaler", "autocast", "custom_bwd", "custom_fwd", "is_autocast_available"]

__getattr__ = finder("torch.amp")
