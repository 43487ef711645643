"""Training that is spread over processes, for scripts that also run as one: a group of one process.

A script that asks for a group of more processes gets NotImplementedError. In a group of one, every collective does
what PyTorch's does there: an all-reduce leaves its tensor, a gather copies it. So scripts for `torchrun` run unchanged
as one process, at no cost.
"""

from __future__ import annotations

from fanal.core.base.missing import finder
from fanal.distributed.collectives import *  # noqa: F403
from fanal.distributed.collectives import __all__ as _collectives
from fanal.distributed.group import *  # noqa: F403
from fanal.distributed.group import __all__ as _groups

__all__ = [*_collectives, *_groups]  # noqa: PLE0604

__getattr__ = finder("torch.distributed")
