"""From PyTorch's calls to ours: the same arguments, and the same function in the module `fanal`.

The operator database names functions of torch, methods of Tensor, and helpers of its own that call torch; helpers are
rebuilt with `fanal` where they say `torch`.
"""
from __future__ import annotations

import importlib
import types
from typing import Any

import torch
from op_arguments import Arguments, mapped

import fanal

NUMPY_LACKS = {torch.bfloat16: torch.int16}


def looked_up(path: str) -> Any:
    """Return what torch calls `path`, in Fanal."""
    found: Any = fanal
    for part in path.removeprefix("torch.").split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            found = importlib.import_module(f"{found.__name__}.{part}")
    return found


def tensor(t: torch.Tensor) -> Any:
    """Return a tensor of ours with the same values and strides, in memory of its own."""
    t = t.detach().resolve_conj().resolve_neg()
    if t.layout == torch.sparse_csr:
        return fanal.sparse_csr_tensor(tensor(t.crow_indices()), tensor(t.col_indices()), tensor(t.values()), tuple(t.shape))
    if t.layout == torch.sparse_coo:
        return fanal.sparse_coo_tensor(tensor(t._indices()), tensor(t._values()), tuple(t.shape))
    if t.dtype in NUMPY_LACKS:
        return fanal.from_numpy(t.view(NUMPY_LACKS[t.dtype]).numpy()).view(looked_up(str(t.dtype))).clone()
    ours = fanal.from_numpy(t.numpy()).clone(memory_format=fanal.preserve_format)
    ours.sum().item() if ours.numel() else None  # its memory is its own from here on
    return ours


def copied(call: Arguments) -> Arguments:
    """Return the same arguments in other tensors of torch's."""
    return Arguments(*mapped(lambda x: x.clone() if isinstance(x, torch.Tensor) else None, call._asdict()).values())


def ours(call: Arguments) -> Arguments:
    """Return the same arguments for Fanal."""
    return Arguments(*mapped(_ours, call._asdict()).values())


def _ours(x: Any) -> Any:
    if isinstance(x, torch.Tensor):
        return tensor(x)
    if isinstance(x, (torch.dtype, torch.layout, torch.memory_format)):
        return looked_up(str(x))
    if isinstance(x, torch.device):
        return fanal.device(str(x))
    if isinstance(x, torch.Size):
        return fanal.Size(x)
    if isinstance(x, torch.nn.Module):
        return looked_up(f"nn.{type(x).__name__}")()
    return function(x) if callable(x) and not isinstance(x, type) else None


def function(f: Any) -> Any:
    """Return the counterpart of a function of torch."""
    name, home = getattr(f, "__name__", ""), getattr(f, "__module__", None) or ""
    if name and getattr(torch.Tensor, name, None) is f:
        return looked_up(f"Tensor.{name}")
    if home.startswith("torch"):  # torch._C._nn holds parts of nn.functional
        return looked_up(f"{home.replace('_C._nn', 'nn.functional').replace('_C._', '')}.{name}")
    return f


def operators(op: Any) -> tuple[Any, Any]:
    """Return what an entry of the database calls, in torch and in Fanal."""
    f = op.op
    if _helper(f):
        return _rebuilt(f, torch), _rebuilt(f, fanal)
    public = "." in op.name or callable(getattr(torch, op.name, None))
    return f, looked_up(op.name) if public else function(f)


def _helper(f: Any) -> bool:
    return isinstance(f, types.FunctionType) and f.__module__.startswith("torch.testing")


def _rebuilt(f: types.FunctionType, library: Any) -> types.FunctionType:
    def swap(value: Any, name: str = "") -> Any:
        if value is torch:
            return library
        if name == "wrapper_set_seed":  # what is timed does not seed
            return lambda op, *args, **kwargs: op(*args, **kwargs)
        return _rebuilt(value, library) if _helper(value) and value is not f else value

    def names(code: types.CodeType) -> set[str]:
        return set(code.co_names).union(*(names(c) for c in code.co_consts if isinstance(c, types.CodeType)))
    scope = {n: swap(f.__globals__[n], n) for n in names(f.__code__) | {"__builtins__"} if n in f.__globals__}
    cells = tuple(types.CellType(swap(c.cell_contents)) for c in f.__closure__ or ())
    copy = types.FunctionType(f.__code__, scope, f.__name__, f.__defaults__, cells)
    copy.__kwdefaults__ = f.__kwdefaults__
    return copy
