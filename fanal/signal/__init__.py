"""Signal processing, as torch.signal."""

from fanal.signal import windows

__all__ = ["windows"]
