"""Modules that learn the shape of their parameters from their first input."""

from __future__ import annotations

import itertools
from typing import Any

from fanal.nn.parameter import is_lazy


class LazyModuleMixin:
    """Make a module whose `initialize_parameters(*args)` runs before its first forward.

    After that call it becomes an ordinary `cls_to_become`.
    """

    cls_to_become: type | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._load_hook = self._register_load_state_dict_pre_hook(_take_shapes, with_module=True)
        self._initialize_hook = self.register_forward_pre_hook(_infer_parameters, with_kwargs=True)

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        # Tensors without a shape cannot be detached; they are saved as they are.
        for name, tensor in itertools.chain(self._parameters.items(), self._buffers.items()):
            if tensor is not None and name not in self._non_persistent_buffers_set:
                destination[prefix + name] = tensor if is_lazy(tensor) or keep_vars else tensor.detach()

    def initialize_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Give shapes and values to the parameters, from the arguments of the first forward."""
        raise NotImplementedError(f"initialize_parameters is not implemented for {type(self).__name__}")

    def has_uninitialized_params(self) -> bool:
        """Return whether some parameter or buffer still waits for its shape."""
        return any(is_lazy(t) for t in itertools.chain(self._parameters.values(), self._buffers.values()))


def _take_shapes(module: Any, state_dict: dict, prefix: str, *rest: Any) -> None:
    """Give waiting tensors the shapes of the state that is about to be loaded."""
    for name, tensor in itertools.chain(module._parameters.items(), module._buffers.items()):
        given = state_dict.get(prefix + name)
        if tensor is not None and given is not None and is_lazy(tensor) and not is_lazy(given):
            tensor.materialize(given.shape)


def _infer_parameters(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
    module.initialize_parameters(*args, **kwargs)
    if module.has_uninitialized_params():
        raise RuntimeError(f"module {module._get_name()} has not been fully initialized")
    module._initialize_hook.remove()
    module._load_hook.remove()
    del module._initialize_hook, module._load_hook
    if module.cls_to_become is not None:
        module.__class__ = module.cls_to_become
