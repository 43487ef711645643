"""The import names `torch`, `torchvision` and `torchaudio`, for scripts started by `fanal run`."""

from fanal.compat.finder import install

__all__ = ["install"]
