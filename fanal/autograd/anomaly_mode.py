"""Anomaly detection under its PyTorch address."""

from __future__ import annotations

from fanal.core.autograd.modes import detect_anomaly, set_detect_anomaly

__all__ = ["detect_anomaly", "set_detect_anomaly"]
