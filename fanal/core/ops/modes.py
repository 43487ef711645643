"""Gradient modes as top-level names."""
from __future__ import annotations

from fanal.core.autograd import modes
from fanal.core.ops.build import public

for _name in ("no_grad", "enable_grad", "set_grad_enabled", "inference_mode", "is_grad_enabled",
              "is_inference_mode_enabled", "is_anomaly_enabled", "is_anomaly_check_nan_enabled"):
    public(_name, method=False, event=False)(getattr(modes, _name))
