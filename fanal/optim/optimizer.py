"""The base of every optimizer: parameter groups, state, hooks and their files, laid out as PyTorch's."""

from __future__ import annotations

import functools
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from copy import deepcopy
from itertools import chain
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.base.state import grad_mode
from fanal.core.engine.handle import Handle
from fanal.core.engine.record import set_grad, set_grads
from fanal.utils.hooks import RemovableHandle

Hook = Callable[..., Any]
ParamsT = Iterable[Any] | Iterable[dict[str, Any]] | Iterable[tuple[str, Any]]
_HOOK_TABLES = (
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_state_dict_post_hooks",
    "_optimizer_load_state_dict_pre_hooks",
    "_optimizer_load_state_dict_post_hooks",
)
_global_optimizer_pre_hooks: dict[int, Hook] = OrderedDict()
_global_optimizer_post_hooks: dict[int, Hook] = OrderedDict()


class _Required:
    """The default of an option that every parameter group must give."""

    def __repr__(self) -> str:
        return "<required parameter>"


required = _Required()


def register_optimizer_step_pre_hook(hook: Hook) -> RemovableHandle:
    """Call hook(optimizer, args, kwargs) before every step of every optimizer."""
    return _add_hook(_global_optimizer_pre_hooks, hook)


def register_optimizer_step_post_hook(hook: Hook) -> RemovableHandle:
    """Call hook(optimizer, args, kwargs) after every step of every optimizer."""
    return _add_hook(_global_optimizer_post_hooks, hook)


def _add_hook(table: Any, hook: Hook, prepend: bool = False) -> RemovableHandle:
    handle = RemovableHandle(table)
    table[handle.id] = hook
    if prepend:
        table.move_to_end(handle.id, last=False)
    return handle


def _use_grad_for_differentiable(step: Hook) -> Hook:
    """Decorate the step of an optimizer: gradients of it are recorded where it was made with differentiable=True."""

    @functools.wraps(step)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with grad_mode(self.defaults["differentiable"]):
            return step(self, *args, **kwargs)

    return call


def _get_value(x: Any) -> Any:
    """Return the number that a tensor of one element holds, or the number itself."""
    return x.item() if isinstance(x, Handle) else x  # type: ignore[attr-defined]


def _default_to_fused_or_foreach(params: Any, differentiable: bool, use_fused: bool = False) -> tuple[bool, bool]:
    """Return (False, False): a step is one program, however it is written."""
    return False, False


def _type_name(x: Any) -> str:
    if isinstance(x, Handle):
        return f"torch.{dt.scalar_name(x._dtype)}Tensor"
    t = type(x)
    return t.__qualname__ if t.__module__ == "builtins" else f"{t.__module__}.{t.__qualname__}"


def _with_hooks(step: Hook) -> Hook:
    """Run hooks around a step, and note that one was taken."""

    @functools.wraps(step)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self._optimizer_step_pre_hooks or _global_optimizer_pre_hooks:
            args, kwargs = _before(self, step, args, kwargs)
        out = step(self, *args, **kwargs)
        self._opt_called = True
        if self._optimizer_step_post_hooks or _global_optimizer_post_hooks:
            for hook in list(
                chain(self._optimizer_step_post_hooks.values(), _global_optimizer_post_hooks.values())
            ):
                hook(self, (self, *args), kwargs)
        return out

    wrapper.hooked = True  # type: ignore[attr-defined]
    return wrapper


def _before(self: Any, step: Hook, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    every = (self, *args)
    for hook in list(chain(_global_optimizer_pre_hooks.values(), self._optimizer_step_pre_hooks.values())):
        result = hook(self, every, kwargs)
        if result is not None:
            if not (isinstance(result, tuple) and len(result) == 2):
                raise RuntimeError(
                    f"{step} must return None or a tuple of (new_args, new_kwargs), but got {result}."
                )
            every, kwargs = result
    return tuple(every[1:]), kwargs


class Optimizer:
    """A way to change parameters so that a loss becomes smaller.

    params: tensors, (name, tensor) pairs, or dicts of a group's options with "params". defaults: options of
    groups that do not give them. Raises TypeError, ValueError for what cannot be optimized.
    """

    OptimizerPreHook = Hook
    OptimizerPostHook = Hook
    _opt_called = False
    _optimizer_step_pre_hooks: OrderedDict[int, Hook]
    _optimizer_step_post_hooks: OrderedDict[int, Hook]
    _optimizer_state_dict_pre_hooks: OrderedDict[int, Hook]
    _optimizer_state_dict_post_hooks: OrderedDict[int, Hook]
    _optimizer_load_state_dict_pre_hooks: OrderedDict[int, Hook]
    _optimizer_load_state_dict_post_hooks: OrderedDict[int, Hook]

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        self.defaults = defaults
        for table in _HOOK_TABLES:
            setattr(self, table, OrderedDict())
        self._patch_step_function()
        if isinstance(params, Handle):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or dicts, but got "
                + _type_name(params)
            )
        self.state: defaultdict[Any, Any] = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def _patch_step_function(self) -> None:
        cls = type(self)
        if not getattr(cls.step, "hooked", False):
            cls.step = _with_hooks(cls.step)  # type: ignore[method-assign, assignment]

    def __getstate__(self) -> dict[str, Any]:
        return {"defaults": self.defaults, "state": self.state, "param_groups": self.param_groups}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for table in _HOOK_TABLES:
            self.__dict__.setdefault(table, OrderedDict())
        self._patch_step_function()
        self.defaults.setdefault("differentiable", False)

    def __repr__(self) -> str:
        lines = [type(self).__name__ + " ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key != "params"]
        return "\n".join(lines) + "\n)"

    def register_step_pre_hook(self, hook: Hook) -> RemovableHandle:
        """Call hook(optimizer, args, kwargs) before each step; it may return new (args, kwargs)."""
        return _add_hook(self._optimizer_step_pre_hooks, hook)

    def register_step_post_hook(self, hook: Hook) -> RemovableHandle:
        """Call hook(optimizer, args, kwargs) after each step."""
        return _add_hook(self._optimizer_step_post_hooks, hook)

    def register_state_dict_pre_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Call hook(optimizer) before state_dict()."""
        return _add_hook(self._optimizer_state_dict_pre_hooks, hook, prepend)

    def register_state_dict_post_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Call hook(optimizer, state_dict) after state_dict(); it may return another one."""
        return _add_hook(self._optimizer_state_dict_post_hooks, hook, prepend)

    def register_load_state_dict_pre_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Call hook(optimizer, state_dict) before load_state_dict(); it may return another one."""
        return _add_hook(self._optimizer_load_state_dict_pre_hooks, hook, prepend)

    def register_load_state_dict_post_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Call hook(optimizer) after load_state_dict()."""
        return _add_hook(self._optimizer_load_state_dict_post_hooks, hook, prepend)

    def state_dict(self) -> dict[str, Any]:
        """Return the state by parameter number, and the groups with numbers for parameters.

        Tensors are shared.
        """
        for pre in self._optimizer_state_dict_pre_hooks.values():
            pre(self)
        numbers: dict[int, int] = {}
        groups, start = [], 0
        for group in self.param_groups:
            packed = {k: v for k, v in group.items() if k != "params"}
            for i, p in enumerate(group["params"], start):
                numbers.setdefault(id(p), i)
            packed["params"] = [numbers[id(p)] for p in group["params"]]
            start += len(packed["params"])
            groups.append(packed)
        state = {numbers[id(k)] if isinstance(k, Handle) else k: v for k, v in self.state.items()}
        out: dict[str, Any] = {"state": state, "param_groups": groups}
        for post in self._optimizer_state_dict_post_hooks.values():
            changed = post(self, out)
            if changed is not None:
                out = changed
        return out

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state and its groups' options.

        Tensors take the dtype of their parameter, but for "step".

        Raises ValueError when groups differ in number or size.
        """
        state_dict = state_dict.copy()
        for pre in self._optimizer_load_state_dict_pre_hooks.values():
            changed = pre(self, state_dict)
            if changed is not None:
                state_dict = changed
        groups, saved = self.param_groups, deepcopy(state_dict["param_groups"])
        if len(groups) != len(saved):
            raise ValueError("loaded state dict has a different number of parameter groups")
        if any(len(g["params"]) != len(s["params"]) for g, s in zip(groups, saved)):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of "
                "optimizer's group"
            )
        by_number = dict(
            zip(
                chain.from_iterable(s["params"] for s in saved),
                chain.from_iterable(g["params"] for g in groups),
            )
        )
        state: defaultdict[Any, Any] = defaultdict(dict)
        for k, v in state_dict["state"].items():
            if k in by_number:
                state[by_number[k]] = _cast(by_number[k], v, k, state_dict["param_groups"])
            else:
                state[k] = v
        for old, new in zip(groups, saved):
            new["params"] = old["params"]
            if "param_names" in old and "param_names" not in new:
                new["param_names"] = old["param_names"]
        self.__setstate__({"state": state, "param_groups": saved})
        for post in self._optimizer_load_state_dict_post_hooks.values():
            post(self)

    @staticmethod
    def _process_value_according_to_param_policy(
        param: Any, value: Any, param_id: Any, param_groups: list[dict], key: Any = None
    ) -> Any:
        """Return a tensor of the state as the parameter wants it: its dtype, but for a step counter."""
        if key == "step":
            for group in param_groups or ():
                if param_id in group["params"] and (group.get("fused") or group.get("capturable")):
                    return value.to(dtype=dt.float32, device=param.device)
            return value
        if param._dtype.is_floating_point:
            return value.to(dtype=param._dtype, device=param.device)
        return value.to(device=param.device)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Remove the gradients of all parameters, or set them to zero."""
        if set_to_none:
            set_grads([p for group in self.param_groups for p in group["params"] if p._grad is not None], None)
            return
        for group in self.param_groups:
            for p in group["params"]:
                g = p._grad
                if g is not None:
                    if g.requires_grad:
                        g = g.detach()
                        set_grad(p, g)
                    g.zero_()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change the parameters once. closure: evaluates the model again and returns the loss."""
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters with options of its own."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        params = param_group["params"]
        if isinstance(params, Handle):
            params = [params]
        elif isinstance(params, set):
            raise TypeError(
                "optimizer parameters need to be organized in ordered collections, but the ordering "
                "of tensors "
                "in sets will change between runs. Please use a list instead."
            )
        params = list(params)
        names = [p[0] for p in params if isinstance(p, tuple)]
        if names:
            if len(names) != len(params):
                raise ValueError(
                    "all optimizer params should be with/without names. Some param names are missing"
                )
            param_group["param_names"] = names
        params = param_group["params"] = [p[1] if isinstance(p, tuple) else p for p in params]
        for p in params:
            if not isinstance(p, Handle):
                raise TypeError(
                    f"optimizer can only optimize Tensors, but one of the params is {_type_name(p)}"
                )
            if not (self.defaults.get("differentiable") or p.is_leaf or p._retain):
                raise ValueError("can't optimize a non-leaf Tensor")
        for name, default in self.defaults.items():
            if default is required and name not in param_group:
                raise ValueError(
                    f"parameter group didn't specify a value of required optimization parameter {name}"
                )
            param_group.setdefault(name, default)
        mine = {id(p) for p in params}
        if len(mine) != len(params):
            warnings.warn(
                "optimizer contains a parameter group with duplicate parameters; in future, this "
                "will cause an "
                "error; see github.com/pytorch/pytorch/issues/40967 for more information",
                stacklevel=3,
            )
        for group in self.param_groups:
            if ("param_names" in param_group) != ("param_names" in group):
                which = "with names" if "param_names" in param_group else "without names"
                raise ValueError(
                    "all optimizer param groups should be with/without names. cannot add param group "
                    f"{which} to the optimizer"
                )
        if any(id(p) in mine for group in self.param_groups for p in group["params"]):
            raise ValueError("some parameters appear in more than one parameter group")
        self.param_groups.append(param_group)


def _cast(param: Any, value: Any, number: Any, groups: list[dict], key: Any = None) -> Any:
    """Return loaded state with its tensors as `param` wants them."""
    if isinstance(value, Handle):
        return Optimizer._process_value_according_to_param_policy(param, value, number, groups, key)
    if isinstance(value, dict):
        return {k: _cast(param, v, number, groups, k) for k, v in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return type(value)(_cast(param, v, number, groups) for v in value)  # type: ignore[call-arg]
    return value
