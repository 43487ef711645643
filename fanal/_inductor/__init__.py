"""Of PyTorch's code generator, only the options that scripts set."""

from fanal._inductor import config as config
from fanal.core.base.missing import finder

__getattr__ = finder("torch._inductor")
