"""The hooks of a module: their tables, their registration, and the call that runs them.

A module without hooks has no tables at all. The first touch of a table makes it and raises the module's
`_hooked` flag, which is all that `Module.__call__` has to look at; registering a global hook raises it for
every module.
"""

from __future__ import annotations

import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import fanal
from fanal import Tensor
from fanal.utils.hooks import RemovableHandle


class HookTable:
    """Make a module's table of hooks when it is first read."""

    def __init__(self, runs_in_call: bool) -> None:
        self.runs_in_call = runs_in_call

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, module: Any, owner: type | None = None) -> Any:
        if module is None:
            return self
        table = module.__dict__[self.name] = OrderedDict()
        if self.runs_in_call:
            module.__dict__["_hooked"] = True
        return table


CALL_TABLES = (
    "_backward_pre_hooks", "_backward_hooks", "_forward_pre_hooks", "_forward_hooks",
)  # fmt: skip
CALL_MARKS = ("_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")

_global_backward_pre_hooks: OrderedDict[int, Callable] = OrderedDict()
_global_backward_hooks: OrderedDict[int, Callable] = OrderedDict()
_global_forward_pre_hooks: OrderedDict[int, Callable] = OrderedDict()
_global_forward_hooks: OrderedDict[int, Callable] = OrderedDict()
_global_forward_hooks_always_called: OrderedDict[int, bool] = OrderedDict()
_global_forward_hooks_with_kwargs: OrderedDict[int, bool] = OrderedDict()
_global_buffer_registration_hooks: OrderedDict[int, Callable] = OrderedDict()
_global_module_registration_hooks: OrderedDict[int, Callable] = OrderedDict()
_global_parameter_registration_hooks: OrderedDict[int, Callable] = OrderedDict()
_GLOBAL_CALL_TABLES = (
    _global_backward_pre_hooks, _global_backward_hooks, _global_forward_pre_hooks, _global_forward_hooks,
)  # fmt: skip
_global_is_full: bool | None = None

_BOTH_KINDS = (
    "Cannot use both regular backward hooks and full backward hooks {}. Please use only one of them."
)


def _register_global(table: OrderedDict, hook: Callable, **marks: OrderedDict | None) -> RemovableHandle:
    extra = [mark for mark in marks.values() if mark is not None]
    handle = RemovableHandle(table, extra_dict=extra)
    table[handle.id] = hook
    for mark in extra:
        mark[handle.id] = True
    if any(table is one for one in _GLOBAL_CALL_TABLES):
        Hooked._hooked = True
    return handle


def register_module_buffer_registration_hook(hook: Callable) -> RemovableHandle:
    """Run `hook(module, name, buffer)` whenever any module registers a buffer.

    Its result replaces the buffer.
    """
    return _register_global(_global_buffer_registration_hooks, hook)


def register_module_module_registration_hook(hook: Callable) -> RemovableHandle:
    """Run `hook(module, name, child)` whenever any module registers a child.

    Its result replaces the child.
    """
    return _register_global(_global_module_registration_hooks, hook)


def register_module_parameter_registration_hook(hook: Callable) -> RemovableHandle:
    """Run `hook(module, name, parameter)` whenever any module registers one; its result replaces it."""
    return _register_global(_global_parameter_registration_hooks, hook)


def register_module_forward_pre_hook(hook: Callable) -> RemovableHandle:
    """Run `hook(module, args)` before the forward of every module; a result replaces the arguments."""
    return _register_global(_global_forward_pre_hooks, hook)


def register_module_forward_hook(
    hook: Callable, *, with_kwargs: bool = False, always_call: bool = False
) -> RemovableHandle:
    """Run `hook(module, args, output)` after the forward of every module; a result replaces the output."""
    return _register_global(
        _global_forward_hooks, hook,
        with_kwargs=_global_forward_hooks_with_kwargs if with_kwargs else None,
        always=_global_forward_hooks_always_called if always_call else None,
    )  # fmt: skip


def register_module_full_backward_pre_hook(hook: Callable) -> RemovableHandle:
    """Run `hook(module, grad_output)` before the backward of every module."""
    return _register_global(_global_backward_pre_hooks, hook)


def _register_global_backward(hook: Callable, full: bool) -> RemovableHandle:
    global _global_is_full
    if _global_is_full is (not full):
        raise RuntimeError(_BOTH_KINDS.format("as a global Module hook"))
    _global_is_full = full
    return _register_global(_global_backward_hooks, hook)


def register_module_full_backward_hook(hook: Callable) -> RemovableHandle:
    """Run `hook(module, grad_input, grad_output)` in the backward of every module."""
    return _register_global_backward(hook, True)


def register_module_backward_hook(hook: Callable) -> RemovableHandle:
    """Run `hook(module, grad_input, grad_output)` in the backward of every module (the older name).

    Differs from torch: the gradients are those of the whole module, as for a full backward hook.
    """
    return _register_global_backward(hook, False)


class WithModule:
    """A hook that gets its module as first argument, without keeping the module alive."""

    def __init__(self, hook: Callable, module: Any) -> None:
        self.hook, self.module = hook, weakref.ref(module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = self.module()
        if module is None:
            raise RuntimeError("You are trying to call the hook of a dead Module!")
        return self.hook(module, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {"hook": self.hook, "module": self.module()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["module"] is None:
            raise RuntimeError("You are trying to revive the hook of a dead Module!")
        self.hook, self.module = state["hook"], weakref.ref(state["module"])


class Hooked:
    """The part of a module that registers and runs hooks."""

    # One flag for "some hook may have to run": raised on the instance by its first table, here by a global
    # hook.
    _hooked: bool = False
    _is_full_backward_hook: bool | None = None

    _backward_pre_hooks = HookTable(True)
    _backward_hooks = HookTable(True)
    _forward_pre_hooks = HookTable(True)
    _forward_pre_hooks_with_kwargs = HookTable(True)
    _forward_hooks = HookTable(True)
    _forward_hooks_with_kwargs = HookTable(True)
    _forward_hooks_always_called = HookTable(True)
    _state_dict_pre_hooks = HookTable(False)
    _state_dict_hooks = HookTable(False)
    _load_state_dict_pre_hooks = HookTable(False)
    _load_state_dict_post_hooks = HookTable(False)

    def _register_call_hook(
        self, table: str, hook: Callable, prepend: bool = False, marks: tuple[str, ...] = ()
    ) -> RemovableHandle:
        hooks, extra = getattr(self, table), [getattr(self, mark) for mark in marks]
        handle = RemovableHandle(hooks, extra_dict=extra)
        hooks[handle.id] = hook
        for mark in extra:
            mark[handle.id] = True
        if prepend:
            hooks.move_to_end(handle.id, last=False)
        self.__dict__["_hooked"] = True
        return handle

    def register_forward_pre_hook(
        self, hook: Callable, *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Run `hook(module, args)` before forward; a result replaces the arguments.

        With `with_kwargs` it is `hook(module, args, kwargs)`, and a result is (args, kwargs).
        """
        marks = ("_forward_pre_hooks_with_kwargs",) if with_kwargs else ()
        return self._register_call_hook("_forward_pre_hooks", hook, prepend, marks)

    def register_forward_hook(
        self, hook: Callable, *, prepend: bool = False, with_kwargs: bool = False, always_call: bool = False
    ) -> RemovableHandle:
        """Run `hook(module, args, output)` after forward; a result replaces the output.

        With `with_kwargs` it is `hook(module, args, kwargs, output)`; with `always_call` it also runs after
        an error in forward, with output None.
        """
        marks = ("_forward_hooks_with_kwargs",) * with_kwargs + (
            "_forward_hooks_always_called",
        ) * always_call
        return self._register_call_hook("_forward_hooks", hook, prepend, marks)

    def register_full_backward_pre_hook(self, hook: Callable, prepend: bool = False) -> RemovableHandle:
        """Run `hook(module, grad_output)` before the module's backward; a result replaces grad_output."""
        return self._register_call_hook("_backward_pre_hooks", hook, prepend)

    def _register_backward(self, hook: Callable, full: bool, prepend: bool = False) -> RemovableHandle:
        if self._is_full_backward_hook is (not full):
            raise RuntimeError(_BOTH_KINDS.format("on a single Module"))
        self._is_full_backward_hook = full
        return self._register_call_hook("_backward_hooks", hook, prepend)

    def register_full_backward_hook(self, hook: Callable, prepend: bool = False) -> RemovableHandle:
        """Run `hook(module, grad_input, grad_output)` in the module's backward.

        A result replaces grad_input.
        """
        return self._register_backward(hook, True, prepend)

    def register_backward_hook(self, hook: Callable) -> RemovableHandle:
        """Run `hook(module, grad_input, grad_output)` in the module's backward (the older name).

        Differs from torch: the gradients are those of the whole module, as for a full backward hook.
        """
        return self._register_backward(hook, False)

    def _hooks(self, table: str) -> OrderedDict:
        """Return a table without making it."""
        return self.__dict__.get(table) or OrderedDict()

    def _call_hooked(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        if not any(_GLOBAL_CALL_TABLES):
            if Hooked._hooked:
                Hooked._hooked = False
            if not any(self.__dict__.get(table) for table in CALL_TABLES):
                for name in (*CALL_TABLES, *CALL_MARKS, "_hooked"):
                    self.__dict__.pop(name, None)
                return self.forward(*args, **kwargs)
        called: set[int] = set()
        try:
            return self._run_hooks(args, kwargs, called)
        except Exception:
            for always, hooks in (
                (_global_forward_hooks_always_called, _global_forward_hooks),
                (self._hooks("_forward_hooks_always_called"), self._hooks("_forward_hooks")),
            ):
                for key, hook in list(hooks.items()):
                    if key in always and key not in called:
                        try:
                            self._run_forward_hook(key, hook, args, kwargs, None)
                        except Exception as error:
                            warnings.warn(
                                "module forward hook with ``always_call=True`` raised an exception that was "
                                f"silenced as another error was raised in forward: {error}", stacklevel=2,
                            )  # fmt: skip
            raise

    def _run_forward_hook(self, key: int, hook: Callable, args: tuple, kwargs: dict, output: Any) -> Any:
        if key in self._hooks("_forward_hooks_with_kwargs") or key in _global_forward_hooks_with_kwargs:
            return hook(self, args, kwargs, output)
        return hook(self, args, output)

    def _run_hooks(self, args: tuple, kwargs: dict[str, Any], called: set[int]) -> Any:
        with_kwargs = self._hooks("_forward_pre_hooks_with_kwargs")
        for key, hook in [*_global_forward_pre_hooks.items(), *self._hooks("_forward_pre_hooks").items()]:
            if key in with_kwargs:
                result = hook(self, args, kwargs)
                if result is not None:
                    if not (isinstance(result, tuple) and len(result) == 2):
                        raise RuntimeError(
                            "forward pre-hook must return None or a tuple of (new_args, new_kwargs), "
                            f"but got {result}."
                        )
                    args, kwargs = result
            else:
                result = hook(self, args)
                if result is not None:
                    args = result if isinstance(result, tuple) else (result,)
        pre = [*_global_backward_pre_hooks.values(), *self._hooks("_backward_pre_hooks").values()]
        full = [*_global_backward_hooks.values(), *self._hooks("_backward_hooks").values()]
        watch = BackwardWatch(self, full, pre) if pre or full else None
        if watch is not None:
            args = watch.enter(args)
        output = self.forward(*args, **kwargs)
        for key, hook in [*_global_forward_hooks.items(), *self._hooks("_forward_hooks").items()]:
            called.add(key)
            result = self._run_forward_hook(key, hook, args, kwargs, output)
            if result is not None:
                output = result
        return output if watch is None else watch.leave(output)


class BackwardWatch:
    """Show the gradients that pass a module's outputs and inputs to its backward hooks.

    An identity stands on every tensor that enters and every tensor that leaves: its backward is the place
    where the hooks run, once for all tensors of that side.
    """

    def __init__(self, module: Any, hooks: list[Callable], pre_hooks: list[Callable]) -> None:
        self.module, self.hooks, self.pre_hooks = module, hooks, pre_hooks
        self.grad_output: tuple = ()
        self.waits_for_input = False

    def _pass(self, values: tuple, show: Callable[[tuple], tuple]) -> tuple:
        """Put the identity on those of `values` that require gradients; `show` gets the gradients of all."""
        at = [i for i, v in enumerate(values) if isinstance(v, Tensor) and v.requires_grad]
        if not at or not fanal.is_grad_enabled():
            return values

        count = len(values)

        def show_all(grads: tuple) -> tuple:  # keeps none of the values
            spread: list = [None] * count
            for i, g in zip(at, grads, strict=True):
                spread[i] = g
            shown = show(tuple(spread))
            return tuple(shown[i] for i in at)

        passed = _identity().apply(show_all, *(values[i] for i in at))
        result = list(values)
        for i, value in zip(at, passed if isinstance(passed, tuple) else (passed,), strict=True):
            result[i] = value
        return tuple(result)

    def enter(self, args: tuple) -> tuple:
        passed = self._pass(args, self._at_input)
        self.waits_for_input = any(a is not b for a, b in zip(args, passed, strict=True))
        self.inputs = len(args)
        return passed

    def leave(self, output: Any) -> Any:
        if not isinstance(output, (Tensor, tuple)):
            warnings.warn(
                "For backward hooks to be called, module output should be a Tensor or a tuple of Tensors"
                f" but received {type(output)}", stacklevel=2,
            )  # fmt: skip
            return output
        if isinstance(output, Tensor):
            return self._pass((output,), self._at_output)[0]
        passed = self._pass(output, self._at_output)
        return type(output)(*passed) if hasattr(output, "_fields") else passed

    def _at_output(self, grads: tuple) -> tuple:
        for hook in self.pre_hooks:
            grads = self._changed(hook(self.module, grads), grads, "grad_output")
        self.grad_output = grads if self.waits_for_input else ()
        if not self.waits_for_input:  # no gradient will come by at the input: this is the only occasion
            for hook in self.hooks:
                result = hook(self.module, (None,) * self.inputs, grads)
                if result is not None and not (isinstance(result, tuple) and all(r is None for r in result)):
                    raise RuntimeError(
                        "Backward hook for Modules where no input requires gradient should always "
                        "return None "
                        "or None for all gradients."
                    )
        return grads

    def _at_input(self, grads: tuple) -> tuple:
        grad_output, self.grad_output = self.grad_output, ()
        for hook in self.hooks:
            grads = self._changed(hook(self.module, grads, grad_output), grads, "grad_input")
        return grads

    @staticmethod
    def _changed(result: Any, grads: tuple, name: str) -> tuple:
        if result is None:
            return grads
        result = result if isinstance(result, tuple) else (result,)
        if len(result) != len(grads):
            raise RuntimeError(
                f"Backward hook returned an invalid number of {name}, got {len(result)}, but "
                f"expected {len(grads)}"
            )
        return result


def _identity() -> Any:
    """Return the identity whose backward shows the gradients, made when the first backward hook needs it."""
    global _Identity
    if _Identity is None:

        class Identity(fanal.autograd.Function):
            @staticmethod
            def forward(ctx: Any, show: Callable[[tuple], tuple], *tensors: Tensor) -> Any:
                ctx.show = show
                ctx.set_materialize_grads(False)
                views = tuple(t.view_as(t) for t in tensors)
                return views if len(views) > 1 else views[0]

            @staticmethod
            def backward(ctx: Any, *grads: Any) -> tuple:
                return (None, *ctx.show(grads))

        _Identity = Identity
    return _Identity


_Identity: Any = None
