"""Fanal: PyTorch's API, without PyTorch; fast by itself, and see-through.

This file is the door: PyTorch's top-level names. Operators come from one table; submodules are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

from fanal.core.base import dtype as _dt
from fanal.core.base.device import device as device
from fanal.core.base.dtype import dtype as dtype
from fanal.core.base.dtype import promote_types as promote_types
from fanal.core.base.layout import layout as layout
from fanal.core.base.layout import memory_format as memory_format
from fanal.core.base.missing import absent as _absent
from fanal.core.base.missing import mark_absent as _mark_absent
from fanal.core.base.shape import Size as Size
from fanal.core.engine.matcher import matcher as _matcher
from fanal.core.ops import surface as _surface
from fanal.core.tensor.tensor import Tensor as Tensor

__version__ = (
    "2.13.0+fanal0.1.0"  # scripts compare it with PyTorch's; Fanal's own number follows the plus sign
)

_SUBMODULES = (
    "nn",
    "optim",
    "utils",
    "autograd",
    "linalg",
    "fft",
    "special",
    "signal",
    "masked",
    "sparse",
    "serialization",
    "random",
    "cuda",
    "backends",
    "version",
    "testing",
    "func",
    "amp",
    "jit",
    "onnx",
    "distributed",
    "distributions",
    "lens",
    "cli",
    "compat",
    "overrides",
    "_C",
    "_dynamo",
    "_inductor",
    "types",
    "compiler",
    "cpu",
    "accelerator",
    "mps",
    "multiprocessing",
    "hub",
    "profiler",
    "functional",
    "return_types",
)
for _d in _dt.ALL:
    globals()[_d.name] = _d
for _name, _d in _dt.ALIASES.items():
    globals()[_name] = _d
globals().update(_surface.CONSTANTS)
_FUNCTIONS = _surface.FUNCTIONS["torch"]

# Names that live in a submodule, resolved on first use.
_ELSEWHERE = {
    **dict.fromkeys(("save", "load"), "serialization"),
    **dict.fromkeys(
        (
            "are_deterministic_algorithms_enabled",
            "compiled_with_cxx11_abi",
            "get_default_device",
            "get_deterministic_debug_mode",
            "get_float32_matmul_precision",
            "get_num_interop_threads",
            "is_deterministic_algorithms_warn_only_enabled",
            "is_warn_always_enabled",
            "set_default_device",
            "set_deterministic_debug_mode",
            "set_float32_matmul_precision",
            "set_flush_denormal",
            "set_num_interop_threads",
            "set_warn_always",
            "use_deterministic_algorithms",
        ),
        "core.base.settings",
    ),
    **dict.fromkeys(
        (
            "enable_grad",
            "inference_mode",
            "is_anomaly_check_nan_enabled",
            "is_anomaly_enabled",
            "is_grad_enabled",
            "is_inference_mode_enabled",
            "no_grad",
            "set_anomaly_enabled",
            "set_grad_enabled",
        ),
        "core.autograd.modes",
    ),
    **dict.fromkeys(("get_num_threads", "set_num_threads"), "core.backends.cpu.threads"),
    **dict.fromkeys(
        """
        autocast_decrement_nesting autocast_increment_nesting clear_autocast_cache
        get_autocast_cpu_dtype get_autocast_dtype get_autocast_gpu_dtype get_autocast_ipu_dtype get_autocast_xla_dtype
        is_autocast_cache_enabled is_autocast_cpu_enabled is_autocast_enabled is_autocast_ipu_enabled
        is_autocast_xla_enabled set_autocast_cache_enabled set_autocast_cpu_dtype set_autocast_cpu_enabled
        set_autocast_dtype set_autocast_enabled set_autocast_gpu_dtype set_autocast_ipu_dtype set_autocast_ipu_enabled
        set_autocast_xla_dtype set_autocast_xla_enabled
        """.split(),
        "amp.settings",
    ),
    **dict.fromkeys(("GradScaler", "autocast"), "amp"),
    **dict.fromkeys(("DisableTorchFunction", "DisableTorchFunctionSubclass"), "overrides"),
    **dict.fromkeys(("sparse_coo_tensor", "sparse_csr_tensor", "spmm", "smm", "dsmm"), "core.ops.sparse_math"),
    **dict.fromkeys(("compile",), "compiler"),
    **dict.fromkeys(("AcceleratorError", "OutOfMemoryError"), "cuda"),
    **dict.fromkeys(("default_generator",), "random"),
    **dict.fromkeys(("vmap",), "func"),
    **dict.fromkeys(
        ("_assert", "_check", "_check_index", "_check_type", "_check_value", "typename"), "core.ops.assertions"
    ),
}

_PRIVATE = {*_SUBMODULES, "core", "torch", "Any", "annotations", "importlib"}  # not what `from torch import *` gives

_mark_absent(Tensor, "torch.Tensor")


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        value = globals()[name] = _FUNCTIONS[name]
        return value
    if name in _SUBMODULES:
        try:
            return importlib.import_module(f"fanal.{name}")
        except ModuleNotFoundError as e:
            if e.name != f"fanal.{name}":
                raise
    if name in _ELSEWHERE:
        value = getattr(importlib.import_module(f"fanal.{_ELSEWHERE[name]}"), name)
        globals()[name] = value
        return value
    if name.startswith("_foreach_"):
        from fanal.core.ops.foreach import foreach

        value = foreach(name)
        if value is not None:
            globals()[name] = value
            return value
    if name == "__all__":
        return sorted({n for n in (*globals(), *_FUNCTIONS, *_ELSEWHERE) if n[0] != "_"} - _PRIVATE)
    raise _absent("torch", name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_FUNCTIONS, *_SUBMODULES, *_ELSEWHERE})


torch = importlib.import_module(__name__)  # PyTorch's package has itself under this name, and libraries use it

_matcher.quicken(__name__)
