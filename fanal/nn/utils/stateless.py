"""A module called with other tensors than its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fanal import Tensor
from fanal.core.base.missing import finder
from fanal.nn.modules.events import apart
from fanal.nn.modules.mirror import table_of
from fanal.nn.modules.module import Module

__all__ = ["functional_call"]


def _tied_names(module: Module) -> dict[str, set[str]]:
    """Return, for each path, all paths of the same tensor."""
    by_tensor: dict[int, set[str]] = {}
    named = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in named:
        by_tensor.setdefault(id(tensor), set()).add(name)
    return {name: names for names in by_tensor.values() for name in names}


def _place(module: Module, path: str) -> tuple[dict[str, Any], str] | None:
    parent, _, name = path.rpartition(".")
    owner = module.get_submodule(parent)
    for table in ("_parameters", "_buffers"):
        entries = table_of(owner, table)
        if name in entries:
            return entries, name
    return None


@contextmanager
def swapped(
    module: Module, tensors: dict[str, Tensor], tie_weights: bool = True, strict: bool = False
) -> Iterator[None]:
    """Let the module have other tensors inside the block; what it then holds under their names flows back."""
    tied = _tied_names(module)
    unknown = [name for name in tensors if name not in tied]
    if strict:
        covered = {
            other for name in tensors if name in tied for other in (tied[name] if tie_weights else {name})
        }
        missing = [name for name in tied if name not in covered]
        if unknown or missing:
            problems = []
            if unknown:
                problems.append("Unexpected key(s): " + ", ".join(unknown) + ".")
            if missing:
                problems.append("Missing key(s): " + ", ".join(missing) + ".")
            raise RuntimeError(
                f"Error(s) in reparametrizing for {module._get_name()}:\n\t" + "\n\t".join(problems)
            )
    wanted = dict(tensors)
    if tie_weights:
        for name, tensor in tensors.items():
            for other in tied.get(name, ()):
                wanted.setdefault(other, tensor)
    restore: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for path, tensor in wanted.items():
            place = _place(module, path)
            if place is None:
                raise AttributeError(f"{module._get_name()} has no attribute `{path}`")
            entries, name = place
            restore.append((entries, name, entries[name]))
            entries[name] = tensor
        with apart():
            yield
    finally:
        for entries, name, value in reversed(restore):
            entries[name] = value


def functional_call(
    module: Module,
    parameters_and_buffers: dict[str, Tensor] | tuple[dict[str, Tensor], ...],
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """Call the module with the given tensors in place of its own parameters and buffers."""
    if isinstance(parameters_and_buffers, (tuple, list)):
        tensors: dict[str, Tensor] = {}
        for part in parameters_and_buffers:
            repeated = tensors.keys() & part.keys()
            if repeated:
                raise ValueError(
                    f"{sorted(repeated)} appeared in multiple dictionaries; behavior is ambiguous"
                )
            tensors |= part
    else:
        tensors = parameters_and_buffers
    args = () if args is None else args if isinstance(args, tuple) else (args,)
    with swapped(module, tensors, tie_weights, strict):
        return module(*args, **(kwargs or {}))

__getattr__ = finder("torch.nn.utils.stateless")
