"""What stands behind the operators, under PyTorch's names: one CPU code generator, and nothing else."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from typing import Any

from fanal.core.base.missing import absent


class Switches(types.ModuleType):
    """A backend that is not here: it is unavailable, and keeps the switches programs set on it."""

    def __init__(self, name: str, **switches: Any) -> None:
        super().__init__(f"{__name__}.{name}")
        self.__spec__ = ModuleSpec(self.__name__, None)
        self._switches = switches
        self.__dict__.update(switches)

    def is_available(self) -> bool:
        """Return False."""
        return False

    is_built = is_available

    def version(self) -> None:
        """Return None."""

    @contextmanager
    def flags(self, **switches: Any) -> Iterator[None]:
        """Set switches inside a block."""
        old = {k: self.__dict__[k] for k in switches if k in self.__dict__}
        self.__dict__.update(switches)
        try:
            yield
        finally:
            for k in switches:
                self.__dict__.pop(k, None)
            self.__dict__.update(old)

    def __repr__(self) -> str:
        return f"<module '{self.__name__}' (not available in Fanal)>"


class _Scaled:
    """Keep the switches of matrix products."""

    allow_tf32 = False
    allow_fp16_reduced_precision_reduction = True
    allow_bf16_reduced_precision_reduction = True
    fp32_precision = "ieee"


def _cuda() -> Switches:
    made = Switches(
        "cuda", matmul=_Scaled(), cufft_plan_cache=(), preferred_linalg_library=lambda backend=None: "default"
    )
    for name in ("flash", "mem_efficient", "math", "cudnn"):
        setattr(made, f"enable_{name}_sdp", lambda enabled: None)
        setattr(made, f"{name}_sdp_enabled", lambda name=name: name == "math")
    made.sdp_kernel = made.flags
    return made


cudnn = Switches(
    "cudnn",
    enabled=True,
    benchmark=False,
    deterministic=False,
    allow_tf32=True,
    benchmark_limit=10,
    fp32_precision="ieee",
)
cuda = _cuda()
mps = Switches("mps")
mkl = Switches("mkl", VERBOSE_OFF=0, VERBOSE_ON=1)
mkldnn = Switches("mkldnn", enabled=True, deterministic=False, allow_tf32=True, fp32_precision="ieee")
openmp = Switches("openmp")
opt_einsum = Switches("opt_einsum", enabled=False, strategy=None)
quantized = Switches("quantized", engine="none", supported_engines=["none"])
xeon = Switches("xeon")

# Each can be imported by its own name, too.
sys.modules.update({m.__name__: m for m in tuple(globals().values()) if isinstance(m, Switches)})


def __getattr__(name: str) -> Any:
    if name == "cpu":
        return importlib.import_module(f"{__name__}.cpu")
    raise absent("torch.backends", name)


def __dir__() -> list[str]:
    return sorted({*globals(), "cpu"})


fp32_precision = "ieee"
