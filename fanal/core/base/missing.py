"""The error for a name that is not there: whether PyTorch has it, and whether Fanal will."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dis import opmap
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

# What is not planned, by pattern of the full name, and why. Everything else that PyTorch has is planned.
_NOT_PLANNED = {
    "quantized tensors are not part of Fanal": """
        torch.quant* torch.quint* torch.qint* torch.q_* torch.fake_quantize* torch.fbgemm* torch.int_repr
        torch.dequantize torch.*quantized* torch.per_*_affine* torch.per_*_symmetric torch.choose_qparams*
        torch.fused_moving_avg_obs* torch.empty_per_channel* torch.ao torch.Q*Storage torch.Tensor.q_*
        torch.Tensor.qscheme torch.Tensor.int_repr torch.Tensor.dequantize torch.Tensor.is_quantized
        torch.backends.quantized torch.qscheme torch.quantization
    """.split(),
    "Fanal has one code generator, and none of these libraries": """
        torch.cudnn_* torch.miopen_* torch.mkldnn_* torch.*_mkldnn* torch.Tensor.*mkldnn* torch.Vulkan*
        torch.is_vulkan* torch.backends.* torch.mtia torch.xpu torch.mps torch.Tensor.ipu torch.Tensor.xpu
        torch.Tensor.mtia torch.get_device_module torch.accelerator.Graph
    """.split(),
    "named dimensions, which PyTorch itself has left unfinished": """
        torch.Tensor.align_* torch.align_* torch.Tensor.refine_names torch.Tensor.rename* torch.Tensor.names
        torch.Tensor.has_names torch.Tensor.unflatten_names
    """.split(),
    "programs are followed as they run; there is no graph to script, trace, export or rewrite": """
        torch.jit.* torch.fx torch.export torch.package torch.cond torch.while_loop torch.*ScriptModule*
        torch.Script* torch.Sym* torch.sym_* torch.typename torch.compiler.* torch.import_ir_module*
        torch.parse_* torch.merge_type_from_type_comment torch.unify_type_list torch.fork torch.wait
        torch.is_tracing* torch.freeze* torch.library torch.classes torch.ops torch.onnx.dynamo*
        torch.DispatchKey* torch.ExcludeDispatchKeyGuard torch.vitals_enabled torch.set_vital
        torch.read_vitals
    """.split(),
    "the storage of a tensor is not an object of its own": """
        torch.*Storage torch.StorageBase
    """.split(),
}


@cache
def names() -> dict[str, list[str]]:
    """Return the public names of PyTorch 2.13 by module, from the list that docs/coverage.py writes."""
    found: dict[str, list[str]] = {}
    for line in Path(__file__).with_name("names.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        if not line.startswith(" "):
            path, line = line.split(":", 1)
            found[path] = []
        found[path] += line.split()
    return found


def not_planned(module: str, name: str) -> str:
    """Return why a name of PyTorch will not come, or "" if it is planned."""
    full = f"{module}.{name}"
    for why, patterns in _NOT_PLANNED.items():
        if any(fnmatchcase(full, p) for p in patterns):
            return why
    return ""


def absent(module: str, name: str) -> AttributeError | ImportError:
    """Return the error for a name that `module` (PyTorch's name of it) does not have; the caller is its __getattr__.

    Where `from module import name` asks, that is an ImportError: Python would put one without a reason in place of
    an AttributeError.
    """
    kind = "'Tensor' object" if module == "torch.Tensor" else f"module '{module}'"
    text = f"{kind} has no attribute '{name}'"
    if not name.startswith("_") and name in names().get(module, ()):
        why = not_planned(module, name)
        text += (
            f" in Fanal: not planned, {why}" if why else " in Fanal yet: it is planned; see docs/coverage.md"
        )
        if _is_imported(sys._getframe(2)):
            return ImportError(f"cannot import name '{name}' from '{module}': {text}", name=module)
    return AttributeError(text)


def _is_imported(frame: FrameType) -> bool:
    return frame.f_lasti >= 0 and frame.f_code.co_code[frame.f_lasti] == opmap["IMPORT_FROM"]


def finder(module: str) -> Callable[[str], Any]:
    """Return the __getattr__ of a module that has every name it will ever have."""

    def __getattr__(name: str) -> Any:
        raise absent(module, name)

    return __getattr__


class Absent:
    """A name of PyTorch that a class does not have; to read it is an AttributeError that says so.

    In place of a `__getattr__`, with which CPython would look up every attribute of every tensor the slow way.
    """

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __get__(self, instance: Any, owner: type) -> Any:
        raise absent(self.module, self.name)


def mark_absent(cls: type, module: str) -> None:
    """Mark the names of PyTorch's class `module` that `cls`, which is complete, does not have."""
    for name in set(names()[module]).difference(dir(cls)):
        setattr(cls, name, Absent(module, name))
