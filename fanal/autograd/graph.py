"""The graph of backward functions, for looking at; hooks on several tensors at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fanal.core.autograd.hooks import GradFn as Node
from fanal.core.autograd.hooks import of_leaf, of_value
from fanal.core.base.missing import finder
from fanal.core.base.removable import RemovableHandle
from fanal.core.base.state import grad_mode
from fanal.core.engine.record import changed, leave_path
from fanal.core.tensor.alias import read


class GradientEdge(NamedTuple):
    """A backward function and which of its outputs is meant."""

    node: Node
    output_nr: int
    ownership_token: Any = None


def get_gradient_edge(tensor: Any) -> GradientEdge:
    """Return where gradients of `tensor` arrive."""
    if not tensor.requires_grad:
        raise RuntimeError(
            "It is not possible to get the gradient edge for a Tensor that does not require gradients"
        )
    leave_path()
    with grad_mode(True):
        return GradientEdge(Node(read(tensor)), 0)


class saved_tensors_hooks:
    """Not supported: the engine decides itself what a backward keeps or computes again."""

    def __init__(self, pack_hook: Callable, unpack_hook: Callable) -> None:
        raise RuntimeError(
            "saved_tensors_hooks is not supported: Fanal saves no tensors when an operation is called, it "
            "decides at the flush what backward needs; use utils.checkpoint to save memory"
        )


class save_on_cpu(saved_tensors_hooks):
    """Not supported, as saved_tensors_hooks."""

    def __init__(self, pin_memory: bool = False, device_type: str = "cuda") -> None:
        super().__init__(id, id)


class disable_saved_tensors_hooks:
    """Do nothing: there are no such hooks."""

    def __init__(self, error_message: str) -> None:
        self.error_message = error_message

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass


class allow_mutation_on_saved_tensors:
    """Not supported: writing what backward needs raises the version error."""

    def __init__(self) -> None:
        raise RuntimeError("allow_mutation_on_saved_tensors is not supported: clone() what you want to write")


class _Handles:
    def __init__(self, handles: Sequence[RemovableHandle]) -> None:
        self.handles = handles

    def remove(self) -> None:
        """Remove all hooks."""
        for h in self.handles:
            h.remove()

    def __enter__(self) -> _Handles:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


def register_multi_grad_hook(tensors: Sequence[Any], fn: Callable, *, mode: str = "all") -> _Handles:
    """Run `fn` when gradients of all `tensors` have arrived (mode "all"), or with the first of them
    ("any")."""
    if mode not in ("all", "any"):
        raise ValueError(f"Expects mode to be one of ('all', 'any') but got {mode}")
    leave_path()
    changed()
    grads: list[Any] = [None] * len(tensors)
    seen = {"count": 0}

    def hook_of(k: int) -> Callable:
        def hook(g: Any) -> None:
            seen["count"] += 1
            if mode == "any":
                if seen["count"] == 1:
                    fn(g)
            else:
                grads[k] = g
            if seen["count"] == len(tensors):
                seen["count"] = 0
                if mode == "all":
                    fn(tuple(grads))
                    grads[:] = [None] * len(tensors)

        return hook

    handles = []
    for k, t in enumerate(tensors):
        with grad_mode(True):
            table = (of_leaf(t) if t._leaf else of_value(read(t))).tensor
        handle = RemovableHandle(table)
        table[handle.id] = hook_of(k)
        handles.append(handle)
    return _Handles(handles)


__all__ = [
    "GradientEdge",
    "Node",
    "allow_mutation_on_saved_tensors",
    "disable_saved_tensors_hooks",
    "get_gradient_edge",
    "register_multi_grad_hook",
    "save_on_cpu",
    "saved_tensors_hooks",
]

__getattr__ = finder("torch.autograd.graph")
