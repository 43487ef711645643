"""Options of PyTorch's tracer, without effect."""

import sys

from fanal.core.base.options import options

options(
    sys.modules[__name__],
    cache_size_limit=8,
    recompile_limit=8,
    automatic_dynamic_shapes=True,
    assume_static_by_default=True,
    suppress_errors=False,
    verbose=False,
)
