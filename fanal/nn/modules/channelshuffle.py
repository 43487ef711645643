"""Mixing of channel groups."""

from __future__ import annotations

from fanal import Tensor
from fanal.nn import functional as F
from fanal.nn.modules.module import Module

__all__ = ["ChannelShuffle"]


class ChannelShuffle(Module):
    """Interleave the channels of `groups` groups. Shapes: (*, C, H, W). Source: Zhang et al. 2018."""

    __constants__ = ["groups"]

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, input: Tensor) -> Tensor:
        return F.channel_shuffle(input, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"
