"""Options of PyTorch's code generator, without effect."""

import sys

from fanal.core.base.options import options

options(
    sys.modules[__name__],
    "triton",
    "cpp",
    "cuda",
    coordinate_descent_tuning=False,
    coordinate_descent_check_all_directions=False,
    epilogue_fusion=True,
    force_fuse_int_mm_with_mul=False,
    fx_graph_cache=True,
    max_autotune=False,
    pattern_matcher=True,
)
