"""Functions of neural networks, as torch.nn.functional."""

from __future__ import annotations

import importlib
from typing import Any

from fanal.core.base.missing import absent
from fanal.core.engine.matcher import matcher as _matcher
from fanal.core.ops import surface as _surface

globals().update(_surface.FUNCTIONS.get("nn.functional", {}))

# Names that torch.nn.functional shares with torch.
_SHARED = (
    "adaptive_avg_pool1d",
    "avg_pool1d",
    "bilinear",
    "celu_",
    "channel_shuffle",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_tbc",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cosine_similarity",
    "hardshrink",
    "native_channel_shuffle",
    "pairwise_distance",
    "pdist",
    "pixel_shuffle",
    "pixel_unshuffle",
    "prelu",
    "rrelu_",
    "selu_",
    "threshold_",
)
for _name in _SHARED:
    if _name not in globals() and _name in _surface.FUNCTIONS["torch"]:
        globals()[_name] = _surface.FUNCTIONS["torch"][_name]

_GROUPED = ("grouped_mm", "scaled_mm", "ScalingType", "SwizzleType")  # written in terms of this module


def __getattr__(name: str) -> Any:
    if name in _GROUPED:
        value = globals()[name] = getattr(importlib.import_module("fanal.nn.grouped"), name)
        return value
    raise absent("torch.nn.functional", name)


_matcher.quicken(__name__)
