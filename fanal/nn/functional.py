"""Functions of neural networks, as torch.nn.functional."""

from __future__ import annotations

from fanal.core.base.missing import finder
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

__getattr__ = finder("torch.nn.functional")
_matcher.quicken(__name__)
