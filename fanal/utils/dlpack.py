"""Memory shared with other libraries through DLPack."""

from fanal.core.base.missing import finder
from fanal.core.ops.dlpack import DLDeviceType, from_dlpack
from fanal.core.ops.dlpack import to_dlpack as to_dlpack

__all__ = ["DLDeviceType", "from_dlpack"]

__getattr__ = finder("torch.utils.dlpack")
