"""Modules that run another on several devices or processes; here that is one."""

from __future__ import annotations

from fanal.core.base.missing import finder
from fanal.nn.parallel.data_parallel import DataParallel, data_parallel
from fanal.nn.parallel.distributed import DistributedDataParallel

__all__ = ["DataParallel", "DistributedDataParallel", "data_parallel"]

__getattr__ = finder("torch.nn.parallel")
