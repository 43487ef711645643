"""`Module`: a function with parameters, made of other modules."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from fanal import Tensor
from fanal.nn.modules import events
from fanal.nn.modules.convert import Convertible
from fanal.nn.modules.errors import add_path, typename
from fanal.nn.modules.hooks import (
    CALL_MARKS,
    CALL_TABLES,
    _global_buffer_registration_hooks,
    _global_module_registration_hooks,
    _global_parameter_registration_hooks,
    register_module_backward_hook,
    register_module_buffer_registration_hook,
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
    register_module_full_backward_pre_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from fanal.nn.modules.mirror import TABLES, Mirror, table_of
from fanal.nn.modules.state import Stateful, _IncompatibleKeys
from fanal.nn.parameter import Buffer, Parameter

__all__ = [
    "Module",
    "_IncompatibleKeys",
    "register_module_backward_hook",
    "register_module_buffer_registration_hook",
    "register_module_forward_hook",
    "register_module_forward_pre_hook",
    "register_module_full_backward_hook",
    "register_module_full_backward_pre_hook",
    "register_module_module_registration_hook",
    "register_module_parameter_registration_hook",
]

M = TypeVar("M", bound="Module")
_PATH_IS_HELPFUL = (RuntimeError, ValueError, TypeError, IndexError)


def _forward_unimplemented(self: Module, *input: Any) -> None:
    raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')


def _addindent(text: str, spaces: int) -> str:
    return text.replace("\n", "\n" + " " * spaces)


class Module(Convertible, Stateful):
    """The base of everything in a network that has parameters or a mode.

    Parameters, buffers and child modules live in `_parameters`, `_buffers` and `_modules`; copies of their
    entries stand in `__dict__`, so that `self.weight` is an ordinary attribute read (see `mirror`).
    """

    dump_patches: bool = False
    training: bool
    call_super_init: bool = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not self.call_super_init:
            if kwargs:
                raise TypeError(
                    f"{type(self).__name__}.__init__() got an unexpected keyword argument "
                    f"'{next(iter(kwargs))}'"
                )
            if args:
                raise TypeError(
                    f"{type(self).__name__}.__init__() takes 1 positional argument but "
                    f"{len(args) + 1} were given"
                )
        owner, own = weakref.ref(self), self.__dict__
        own["training"] = True
        own["_parameters"] = Mirror(owner)
        own["_buffers"] = Mirror(owner)
        own["_non_persistent_buffers_set"] = set()
        own["_modules"] = Mirror(owner)
        if self.call_super_init:
            super().__init__(*args, **kwargs)

    forward: Callable[..., Any] = _forward_unimplemented

    def _call_impl(self, *args: Any, **kwargs: Any) -> Any:
        try:
            if events.KINDS.get(type(self), True) and not kwargs and events.follows(self, args):
                return events.one_event(self, args)
            if self._hooked:
                return self._call_hooked(args, kwargs)
            return self.forward(*args, **kwargs)
        except _PATH_IS_HELPFUL as error:  # costs nothing until there is an error
            add_path(self, error, args)
            raise

    __call__ = _call_impl

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that is state but not trained; `persistent=False` keeps it out of `state_dict`."""
        self._check_new("buffer", name, "_buffers")
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"cannot assign '{typename(tensor)}' object to buffer '{name}' (torch Tensor or None "
                "required)"
            )
        for hook in _global_buffer_registration_hooks.values():
            tensor = _replaced(hook(self, name, tensor), tensor)
        table_of(self, "_buffers")[name] = tensor
        if persistent:
            self._non_persistent_buffers_set.discard(name)
        else:
            self._non_persistent_buffers_set.add(name)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter; None keeps the name without a tensor."""
        self._check_new("parameter", name, "_parameters")
        if param is not None:
            if not isinstance(param, Parameter):
                raise TypeError(
                    f"cannot assign '{typename(param)}' object to parameter '{name}' "
                    "(torch.nn.Parameter or None required)"
                )
            if param.grad_fn:
                raise ValueError(
                    f"Cannot assign non-leaf Tensor to parameter '{name}'. Model parameters must be created "
                    f"explicitly. To express '{name}' as a function of another Tensor, compute the "
                    "value in the "
                    "forward() method."
                )
            for hook in _global_parameter_registration_hooks.values():
                param = _replaced(hook(self, name, param), param)
        table_of(self, "_parameters")[name] = param

    def _check_new(self, kind: str, name: str, table: str) -> None:
        if table not in self.__dict__:
            raise AttributeError(f"cannot assign {kind} before Module.__init__() call")
        if not isinstance(name, str):
            raise TypeError(f"{kind} name should be a string. Got {typename(name)}")
        if "." in name:
            raise KeyError(f'{kind} name can\'t contain "."')
        if name == "":
            raise KeyError(f'{kind} name can\'t be empty string ""')
        if name not in self.__dict__[table] and hasattr(self, name):
            raise KeyError(f"attribute '{name}' already exists")

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a child; it can then be read as an attribute."""
        if not isinstance(module, Module) and module is not None:
            raise TypeError(f"{typename(module)} is not a Module subclass")
        if not isinstance(name, str):
            raise TypeError(f"module name should be a string. Got {typename(name)}")
        if hasattr(self, name) and name not in self._modules:
            raise KeyError(f"attribute '{name}' already exists")
        if "." in name:
            raise KeyError(f'module name can\'t contain ".", got: {name}')
        if name == "":
            raise KeyError('module name can\'t be empty string ""')
        for hook in _global_module_registration_hooks.values():
            module = _replaced(hook(self, name, module), module)
        table_of(self, "_modules")[name] = module

    def register_module(self, name: str, module: Module | None) -> None:
        """Add a child (the same as `add_module`)."""
        self.add_module(name, module)

    def get_submodule(self, target: str) -> Module:
        """Return the module at the path `target`."""
        module: Module = self
        for part in target.split(".") if target else ():
            if not hasattr(module, part):
                raise AttributeError(module._get_name() + " has no attribute `" + part + "`")
            module = getattr(module, part)
            if not isinstance(module, Module):
                raise AttributeError("`" + part + "` is not an nn.Module")
        return module

    def set_submodule(self, target: str, module: Module, strict: bool = False) -> None:
        """Put `module` at the path `target`; if `strict`, something must be there already."""
        if target == "":
            raise ValueError("Cannot set the submodule without a target name!")
        if not isinstance(module, Module):
            raise ValueError(f"`module` is not an nn.Module, found {type(module)}")
        path, _, name = target.rpartition(".")
        parent = self.get_submodule(path)
        if strict and not hasattr(parent, name):
            raise AttributeError(parent._get_name() + " has no attribute `" + name + "`")
        if hasattr(parent, name) and not isinstance(getattr(parent, name), Module):
            raise AttributeError("`" + name + "` is not an nn.Module")
        setattr(parent, name, module)

    def _get_member(self, target: str) -> tuple[Module, str, Any]:
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if not hasattr(module, name):
            raise AttributeError(module._get_name() + " has no attribute `" + name + "`")
        return module, name, getattr(module, name)

    def get_parameter(self, target: str) -> Parameter:
        """Return the parameter at the path `target`."""
        _, name, parameter = self._get_member(target)
        if not isinstance(parameter, Parameter):
            raise AttributeError("`" + name + "` is not an nn.Parameter")
        return parameter

    def get_buffer(self, target: str) -> Tensor:
        """Return the buffer at the path `target`."""
        module, name, buffer = self._get_member(target)
        if name not in module._buffers:
            raise AttributeError("`" + name + "` is not a buffer")
        return buffer

    def apply(self: M, fn: Callable[[Module], None]) -> M:
        """Call `fn` on every module below, children first, then on this one."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def __getattr__(self, name: str) -> Any:
        # Ordinary reads never come here: it serves tables whose mirror was lost, as after a foreign
        # __setstate__.
        own = self.__dict__
        for table in TABLES:
            entries = own.get(table)
            if entries is not None and name in entries:
                return entries[name]
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    _look_up = __getattr__  # a class whose __getattr__ is another one is asked for every entry of the tables

    def _forget(self, name: str, keep: str = "") -> None:
        """Remove a name from everywhere else, before it gets a new meaning."""
        for table in TABLES:
            if table != keep and name in self.__dict__[table]:
                del table_of(self, table)[name]
        if keep and name not in self.__dict__[keep]:
            self.__dict__.pop(name, None)
        self._non_persistent_buffers_set.discard(name)

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__
        parameters = own.get("_parameters")
        if type(value) is Tensor and name in own and name in own.get("_buffers", ()) and \
                type(self).register_buffer is Module.register_buffer and not _global_buffer_registration_hooks:
            table_of(self, "_buffers")[name] = value  # another tensor in the place of one: nothing else changes
        elif isinstance(value, Parameter):
            if parameters is None:
                raise AttributeError("cannot assign parameters before Module.__init__() call")
            self._forget(name, keep="_parameters")
            self.register_parameter(name, value)
        elif parameters is None:
            if isinstance(value, Module):
                raise AttributeError("cannot assign module before Module.__init__() call")
            if isinstance(value, Buffer):
                raise AttributeError("cannot assign buffer before Module.__init__() call")
            super().__setattr__(name, value)
        elif name in parameters:
            if value is not None:
                raise TypeError(
                    f"cannot assign '{typename(value)}' as parameter '{name}' (torch.nn.Parameter or "
                    "None expected)"
                )
            self.register_parameter(name, value)
        elif isinstance(value, Module) or name in own["_modules"]:
            self._set_child(name, value)
        elif isinstance(value, Buffer) or name in own["_buffers"]:
            self._set_buffer(name, value)
        elif name in _WATCHED:
            self._set_table(name, value)
        else:
            super().__setattr__(name, value)

    def _set_child(self, name: str, value: Any) -> None:
        if value is not None and not isinstance(value, Module):
            raise TypeError(
                f"cannot assign '{typename(value)}' as child module '{name}' (torch.nn.Module or "
                "None expected)"
            )
        self._forget(name, keep="_modules")
        for hook in _global_module_registration_hooks.values():
            value = _replaced(hook(self, name, value), value)
        table_of(self, "_modules")[name] = value

    def _set_buffer(self, name: str, value: Any) -> None:
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(
                f"cannot assign '{typename(value)}' as buffer '{name}' "
                "(torch.nn.Buffer, torch.Tensor or None expected)"
            )
        if isinstance(value, Buffer):
            persistent = value.persistent
        else:
            persistent = name not in self._non_persistent_buffers_set
        self._forget(name, keep="_buffers")
        if type(self).register_buffer is Module.register_buffer or not persistent:
            self.register_buffer(name, value, persistent)
        else:  # an override may not know the argument
            self.register_buffer(name, value)

    def _set_table(self, name: str, value: Any) -> None:
        """Take notice that a whole table is replaced: its old entries go, a table of hooks may hold some. Another class
        may want its entries elsewhere."""
        own = self.__dict__
        if name == "__class__":
            super().__setattr__(name, value)
            for table in TABLES:
                table_of(self, table).renew()
            return
        if name in TABLES:
            for entry in own[name]:
                own.pop(entry, None)
            if type(value) is Mirror and value.mirrors(self):
                value.update(value)
        else:
            own["_hooked"] = True
        own[name] = value

    def __delattr__(self, name: str) -> None:
        for table in TABLES:
            if name in self.__dict__.get(table, ()):
                del table_of(self, table)[name]
                self._non_persistent_buffers_set.discard(name)
                return
        super().__delattr__(name)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        for table in TABLES:
            entries = state.get(table)
            if entries is not None:
                for name, value in entries.items():
                    if name in state and state[name] is value:
                        del state[name]
                state[table] = dict(entries)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        own = self.__dict__
        own.update(state)
        own.setdefault("_non_persistent_buffers_set", set())
        for table in TABLES:
            if table in own:
                own[table] = Mirror(weakref.ref(self), own[table])
        for name in (*CALL_TABLES, *CALL_MARKS):
            if own.get(name):
                own["_hooked"] = True
            else:
                own.pop(name, None)

    def _named_members(
        self,
        get: Callable[[Module], Any],
        prefix: str = "",
        recurse: bool = True,
        remove_duplicate: bool = True,
    ) -> Iterator[tuple[str, Any]]:
        seen = set()
        modules = (
            self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate)
            if recurse
            else [(prefix, self)]
        )
        for path, module in modules:
            for name, value in get(module):
                if value is None or id(value) in seen:
                    continue
                if remove_duplicate:
                    seen.add(id(value))
                yield (f"{path}.{name}" if path else name), value

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Yield all parameters, each once."""
        for _, parameter in self.named_parameters(recurse=recurse):
            yield parameter

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Yield (path, parameter)."""
        yield from self._named_members(lambda m: m._parameters.items(), prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Yield all buffers, each once."""
        for _, buffer in self.named_buffers(recurse=recurse):
            yield buffer

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield (path, buffer)."""
        yield from self._named_members(lambda m: m._buffers.items(), prefix, recurse, remove_duplicate)

    def children(self) -> Iterator[Module]:
        """Yield the immediate children, each once."""
        for _, module in self.named_children():
            yield module

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield (name, child), each child once."""
        seen = set()
        for name, module in self._modules.items():
            if module is not None and module not in seen:
                seen.add(module)
                yield name, module

    def modules(self) -> Iterator[Module]:
        """Yield this module and all below, each once."""
        for _, module in self.named_modules():
            yield module

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """Yield (path, module) for this module and all below."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module.named_modules(
                    memo, f"{prefix}.{name}" if prefix else name, remove_duplicate
                )

    def train(self: M, mode: bool = True) -> M:
        """Set training mode here and below."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        self.training = mode
        for module in self.children():
            module.train(mode)
        return self

    def eval(self: M) -> M:
        """Set evaluation mode here and below."""
        return self.train(False)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the engine compiles what runs, with or without being asked."""

    def _get_name(self) -> str:
        return type(self).__name__

    def extra_repr(self) -> str:
        """Return what stands between the brackets of the module's repr."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [f"({name}): " + _addindent(repr(module), 2) for name, module in self._modules.items()]
        if len(lines) == 1 and not children:
            return f"{self._get_name()}({lines[0]})"
        if lines or children:
            return f"{self._get_name()}(\n  " + "\n  ".join([*lines, *children]) + "\n)"
        return f"{self._get_name()}()"

    def __dir__(self) -> list[str]:
        keys = {*dir(type(self)), *self.__dict__, *self._parameters, *self._modules, *self._buffers}
        return sorted(key for key in keys if not key[0].isdigit())


Module.__call__ = events.callable_of(Module, Module._call_impl)  # type: ignore[method-assign]
_WATCHED = frozenset(("__class__", *TABLES, *CALL_TABLES, *CALL_MARKS))


def _replaced(result: Any, value: Any) -> Any:
    return value if result is None else result
