"""The graph of backward functions, for looking at; hooks on several tensors at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fanal.core.autograd.hooks import GradFn as Node
from fanal.core.autograd.hooks import GradientEdge, grad_fn, of_leaf, of_value
from fanal.core.autograd.saving import saving
from fanal.core.base.missing import finder
from fanal.core.base.removable import RemovableHandle
from fanal.core.base.state import grad_mode
from fanal.core.engine.record import changed, leave_path
from fanal.core.tensor.alias import read
from fanal.core.tensor.tensor import Tensor


def get_gradient_edge(tensor: Any) -> GradientEdge:
    """Return where gradients of `tensor` arrive."""
    if not tensor.requires_grad:
        raise RuntimeError(
            "It is not possible to get the gradient edge for a Tensor that does not require gradients"
        )
    leave_path()
    with grad_mode(True):
        return GradientEdge(grad_fn(read(tensor)), 0)


def increment_version(tensor: Any) -> None:
    """Count a write of the tensor, or of several, that the engine did not see."""
    leave_path()
    for t in (tensor,) if isinstance(tensor, Tensor) else tensor:
        t._storage.version += 1


class saved_tensors_hooks:
    """Hand what operators save for backward to `pack_hook`, and use what `unpack_hook` makes of its result.

    Differs from torch: what is saved are the values that the gradient rules here read, which may be fewer.
    """

    def __init__(self, pack_hook: Callable, unpack_hook: Callable) -> None:
        self.pack_hook, self.unpack_hook = pack_hook, unpack_hook

    def __enter__(self) -> Any:
        saving.enter(self.pack_hook, self.unpack_hook)

    def __exit__(self, *exc: object) -> None:
        saving.leave()


class save_on_cpu(saved_tensors_hooks):
    """Keep what operators save on the CPU, where it is already."""

    def __init__(self, pin_memory: bool = False, device_type: str = "cuda") -> None:
        super().__init__(lambda x: x, lambda x: x)


class disable_saved_tensors_hooks:
    """Raise RuntimeError(error_message) where hooks on saved tensors are used inside a block."""

    def __init__(self, error_message: str) -> None:
        self.error_message = error_message

    def __enter__(self) -> None:
        if saving.hooks:
            raise RuntimeError(self.error_message)
        self.outer, saving.refusal = saving.refusal, self.error_message

    def __exit__(self, *exc: object) -> None:
        saving.refusal = self.outer


class allow_mutation_on_saved_tensors(saved_tensors_hooks):
    """Let tensors that backward needs be written inside a block: it uses the values from before.

    What is written is never what a graph refers to, so only PyTorch's check is left out.
    """

    def __init__(self) -> None:
        super().__init__(lambda x: x.detach().clone() if x.requires_grad else x, lambda x: x)

    def clear(self) -> None:
        """Do nothing: nothing was cloned."""

    def __enter__(self) -> Any:
        super().__enter__()
        return self


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
    "increment_version",
    "register_multi_grad_hook",
    "save_on_cpu",
    "saved_tensors_hooks",
]

__getattr__ = finder("torch.autograd.graph")
