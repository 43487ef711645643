"""The closed table of what a checkpoint's names may mean."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from .adapter import Adapter
from .dtypes import DTYPE_OF_STORAGE, DTYPES, FOREIGN_DTYPES, numpy_dtype
from .errors import RecordError, ViewError
from .opaque import Opaque
from .safe import (
    BLOCKED_MODULES,
    Entry,
    Refused,
    build_attributes,
    build_numpy,
    hides_method,
    static_entries,
    user_globals,
)  # fmt: skip
from .storage import LoadedStorage, check_view

# Python 2 and NumPy 2 names of the same things.
_MODULE_ALIASES = {"__builtin__": "builtins", "copy_reg": "copyreg", "torch.tensor": "torch._tensor"}

_UNSUPPORTED = {
    "torch._utils._rebuild_qtensor": "quantized tensors",
    "torch._utils._rebuild_nested_tensor": "nested tensors",
    "torch._utils._rebuild_wrapper_subclass": "wrapper tensor subclasses",
    "torch._utils._rebuild_device_tensor_from_numpy": "tensors saved from XLA-like devices",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "tensors saved from XLA-like devices",
}


class StorageType:
    """A storage class named in a pickle: the dtype of the bytes, None for untyped ones."""

    __slots__ = ("dtype", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.dtype = DTYPE_OF_STORAGE.get(name)

    def __repr__(self) -> str:
        return f"<storage type {self.name}>"


class CheckpointScope:
    """What the names in one checkpoint mean while it is being read.

    ``fetch`` returns the storage behind a persistent id. With ``weights_only`` an unknown name
    ends the load; without it, it becomes ``Opaque`` data, and the library's own nn classes come
    alive from their state alone.
    """

    def __init__(
        self,
        adapter: Adapter,
        fetch: Callable[[StorageType, str, str, int], LoadedStorage],
        weights_only: bool,
    ) -> None:
        self.adapter = adapter
        self.fetch = fetch
        self.weights_only = weights_only
        self.entries = static_entries() | self._tensor_entries()
        self.user = allowed_names(adapter)
        self.found: dict[int, tuple[str, Entry]] = {}  # id of a value handed out -> its meaning
        self.own_classes: set[type] = set()  # classes whose instances a state may be given to
        self.parts: dict[str, LoadedStorage] = {}
        self.refused: list[str] = []

    # -- names

    def find(self, module: str, name: str) -> Any:
        """Return what ``module.name`` stands for."""
        module = _MODULE_ALIASES.get(module, module)
        if module.startswith("numpy._core."):
            module = "numpy.core." + module.removeprefix("numpy._core.")
        path = f"{module}.{name}"
        entry = self.entries.get(path) or self._torch_entry(module, name) or self._user_entry(module, path)
        if entry is None and not self.weights_only:
            entry = self._module_entry(module, name)
        if entry is None:
            if self.weights_only:
                raise pickle.UnpicklingError(refusal(path))
            self.refused.append(path)
            return Opaque(module, name)
        self.found[id(entry.value)] = (path, entry)
        return entry.value

    def _torch_entry(self, module: str, name: str) -> Entry | None:
        if module == "torch" and name in DTYPES:
            return self._keep(Entry(self.adapter.make_dtype(name)), f"torch.{name}")
        if module == "torch" and name in FOREIGN_DTYPES:
            return self._keep(Entry(Opaque("torch", name)), f"torch.{name}")
        if module in ("torch", "torch.cuda", "torch.storage") and name.endswith("Storage"):
            known = name in DTYPE_OF_STORAGE or name in ("UntypedStorage", "TypedStorage")
            return self._keep(Entry(StorageType(name)), f"{module}.{name}") if known else None
        return None

    def _keep(self, entry: Entry, path: str) -> Entry:
        self.entries[path] = entry
        return entry

    def _user_entry(self, module: str, path: str) -> Entry | None:
        value = self.user.get(path)
        if value is None:
            return None
        if module in BLOCKED_MODULES:
            raise pickle.UnpicklingError(
                f"Trying to load unsupported GLOBAL {path} whose module {module} is blocked."
            )
        if isinstance(value, type):
            self.own_classes.add(value)
            return self._keep(Entry(value, value, lambda *a, **k: value.__new__(value, *a, **k)), path)
        return self._keep(Entry(value, value), path)

    def _module_entry(self, module: str, name: str) -> Entry | None:
        cls = self.adapter.find_class(module, name)
        if cls is not None:
            self.own_classes.add(cls)

            def new(*args: Any, **kwargs: Any) -> Any:
                if args or kwargs:
                    raise Refused("constructor arguments: modules come back from their state alone")
                return cls.__new__(cls)

            return self._keep(Entry(cls, None, new), f"{module}.{name}")
        function = self.adapter.find_function(module, name)
        return None if function is None else self._keep(Entry(function), f"{module}.{name}")

    # -- calls

    def call(self, function: Any, args: tuple, kwargs: dict | None) -> Any:
        """Do what REDUCE asks, if the table says how."""
        if isinstance(function, Opaque):
            return self._describe(function, args, kwargs)
        path, entry = self.found.get(id(function), ("", None))
        if entry is None:
            raise pickle.UnpicklingError(
                f"refused to call a value of type {type(function).__name__} that the pickle built itself"
            )
        if entry.call is None and entry.new is None:
            return self._not_callable(path, args, kwargs)
        return self._run(path, entry.call or entry.new, args, kwargs)

    def new(self, cls: Any, args: tuple, kwargs: dict | None) -> Any:
        """Do what NEWOBJ, INST and OBJ ask, if the table says how."""
        if not isinstance(cls, Opaque):
            path, entry = self.found.get(id(cls), ("", None))
            if entry is not None and entry.new is not None:
                return self._run(path, entry.new, args, kwargs)
        return self.call(cls, args, kwargs)

    def _run(self, path: str, action: Any, args: tuple, kwargs: dict | None) -> Any:
        try:
            return action(*args, **(kwargs or {}))
        except Refused as refused:
            if not self.weights_only:
                module, _, name = path.rpartition(".")
                return Opaque(module, name, args, kwargs)
            raise pickle.UnpicklingError(f"Weights only load failed: {path} got {refused}") from None
        except (RecordError, pickle.UnpicklingError):
            raise
        except Exception as error:
            raise pickle.UnpicklingError(
                f"{path} cannot be rebuilt from what the file holds: {type(error).__name__}: {error}"
            ) from error

    def _not_callable(self, path: str, args: tuple, kwargs: dict | None) -> Any:
        if self.weights_only:
            raise pickle.UnpicklingError(
                f"refused to call {path}: it may be named in a checkpoint, not called"
            )
        self.refused.append(path)
        module, _, name = path.rpartition(".")
        return Opaque(module, name, args, kwargs)

    def _describe(self, function: Opaque, args: tuple, kwargs: dict | None) -> Opaque:
        if self.weights_only:
            raise pickle.UnpicklingError(refusal(function.path))
        name = function.name if function.args is None else f"{function.name}(...)"
        return Opaque(function.module, name, args, kwargs)

    def build(self, instance: Any, state: Any) -> Any:
        """Do what BUILD asks: give an object its state."""
        try:
            if isinstance(instance, Opaque):
                instance.state = state
            elif isinstance(instance, (np.ndarray, np.dtype)):
                build_numpy(instance, state)
            elif type(instance) is OrderedDict or _path(instance) == "argparse.Namespace":
                hidden = hides_method(type(instance), state)
                if hidden is not None:
                    raise Refused(
                        f"an attribute {hidden!r:.60} that would hide a method of {_path(instance)}"
                    )
                build_attributes(instance, state)
            elif type(instance) in self.own_classes:
                if hasattr(type(instance), "__setstate__"):
                    instance.__setstate__(state)
                else:
                    build_attributes(instance, state)
            else:
                raise Refused(f"a state for a {_path(instance)}, which has none")
        except Refused as refused:
            raise pickle.UnpicklingError(f"refused {refused}") from None
        except Exception as error:
            raise pickle.UnpicklingError(
                f"{_path(instance)} does not take the state in the file: {type(error).__name__}: {error}"
            ) from error
        return instance

    # -- storages and tensors

    def persistent(self, pid: Any) -> Any:
        """Return the storage a persistent id names."""
        if type(pid) is not tuple or not pid:
            raise pickle.UnpicklingError(f"refused a persistent id that is not a storage: {pid!r:.80}")
        kind = _text(pid[0])
        if kind == "module" and len(pid) >= 2:
            return pid[1]  # files before 1.6 keep a class beside its source text
        if kind != "storage" or len(pid) not in (5, 6):
            raise pickle.UnpicklingError(f"Only persistent_load of storage is allowed, but got {pid!r:.80}")
        storage_type, key, location, numel = pid[1], _text(pid[2]), _text(pid[3]), pid[4]
        if not isinstance(storage_type, StorageType) or type(key) is not str or type(location) is not str:
            raise pickle.UnpicklingError(f"malformed storage id {pid!r:.80}")
        if type(numel) is not int or numel < 0:
            raise RecordError(f"declares {numel!r:.40} elements", f"data/{key}", key)
        storage = self.fetch(storage_type, key, location, numel)
        view = pid[5] if len(pid) == 6 else None
        if view is None:
            return storage
        part_key, begin, count = view  # a storage that is a piece of another one
        if part_key not in self.parts:
            width = numpy_dtype(storage.dtype or "uint8").itemsize
            self.parts[part_key] = storage.part(_text(part_key), begin * width, (begin + count) * width)
        return self.parts[part_key]

    def _tensor_entries(self) -> dict[str, Entry]:
        adapter = self.adapter

        def rebuild(
            storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any = False,
            hooks: Any = None, flags: Any = None,
        ) -> Any:  # fmt: skip
            dtype = storage.dtype or "uint8" if isinstance(storage, LoadedStorage) else ""
            return self._tensor(storage, dtype, offset, shape, strides, requires_grad, hooks, flags)

        def rebuild_typed(
            storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any, hooks: Any,
            dtype: Any, flags: Any = None,
        ) -> Any:  # fmt: skip
            name = self._dtype_name(dtype)
            return self._tensor(storage, name, offset, shape, strides, requires_grad, hooks, flags)

        def parameter(data: Any, requires_grad: Any = True, hooks: Any = None) -> Any:
            if not isinstance(data, adapter.tensor_class):
                raise Refused(f"a parameter made of a {type(data).__name__}")
            _warn_hooks(hooks)
            return adapter.make_parameter(data, bool(requires_grad))

        def parameter_with_state(data: Any, requires_grad: Any, hooks: Any, state: Any) -> Any:
            result = parameter(data, requires_grad, hooks)
            self._attributes(result, state)
            return result

        def from_type(function: Any, cls: Any, args: Any, state: Any) -> Any:
            result = self.call(function, args, None)
            if not isinstance(result, adapter.tensor_class):
                raise Refused(f"a tensor rebuilt by {function!r:.80}")
            if isinstance(cls, type) and not isinstance(result, cls):
                if not issubclass(cls, adapter.tensor_class):
                    raise Refused(f"a tensor class {cls!r:.80}")
                result = adapter.as_subclass(result, cls)
            self._attributes(result, state)
            return result

        def meta(dtype: Any, shape: Any, strides: Any, requires_grad: Any) -> Any:
            name = self._dtype_name(dtype)
            spot = LoadedStorage(np.empty(0, np.uint8), name, "meta", "meta", 2**62)
            check_view(spot, name, 0, shape, strides)
            return adapter.make_meta(tuple(shape), tuple(strides), name, bool(requires_grad))

        def sparse(layout: Any, args: Any) -> Any:
            return adapter.make_sparse(str(layout), args)

        def lazy(name: str) -> Callable[..., Any]:
            return lambda requires_grad=True, *rest: adapter.make_lazy(name, bool(requires_grad))

        def device(*args: Any) -> Any:
            if not args or not all(type(arg) in (str, int) for arg in args):
                raise Refused(f"device {args!r:.60}")
            return adapter.make_device(args)

        def size(sizes: Any = ()) -> Any:
            if type(sizes) not in (tuple, list) or not all(type(n) is int for n in sizes):
                raise Refused(f"sizes {sizes!r:.60}")
            return adapter.make_size(tuple(sizes))

        def layout(name: Any) -> Any:
            if type(name) is not str:
                raise Refused("a layout without a name")
            return adapter.make_layout(name.removeprefix("torch."))

        def unsupported(what: str) -> Callable[..., Any]:
            def refuse(*args: Any) -> Any:
                raise Refused(f"{what}, which are not supported")

            return refuse

        table: dict[str, Entry] = {
            "torch._utils._rebuild_tensor": Entry(rebuild, rebuild),
            "torch._utils._rebuild_tensor_v3": Entry(rebuild_typed, rebuild_typed),
            "torch._utils._rebuild_parameter": Entry(parameter, parameter),
            "torch._utils._rebuild_parameter_with_state": Entry(parameter_with_state, parameter_with_state),
            "torch._utils._rebuild_meta_tensor_no_storage": Entry(meta, meta),
            "torch._utils._rebuild_sparse_tensor": Entry(sparse, sparse),
            "torch._tensor._rebuild_from_type_v2": Entry(from_type, from_type),
            "torch.nn.parameter.Parameter": Entry(adapter.parameter_class, parameter),
            "torch.Tensor": Entry(adapter.tensor_class),
            "torch.serialization._get_layout": Entry(layout, layout),
            "torch.device": Entry(device, device),
            "torch.Size": Entry(size, size),
        }
        table["torch._utils._rebuild_tensor_v2"] = table["torch._utils._rebuild_tensor"]
        for name in ("UninitializedParameter", "UninitializedBuffer"):
            make = lazy(name)
            table[f"torch.nn.parameter.{name}"] = Entry(make, make)
        for path, what in _UNSUPPORTED.items():
            refuse = unsupported(what)
            table[path] = Entry(refuse, refuse)
        return table

    def _tensor(
        self, storage: Any, dtype: str, offset: Any, shape: Any, strides: Any, requires_grad: Any,
        hooks: Any, flags: Any,
    ) -> Any:  # fmt: skip
        if not isinstance(storage, LoadedStorage):
            raise Refused(f"a tensor over a {type(storage).__name__} instead of a storage")
        check_view(storage, dtype, offset, shape, strides)
        _warn_hooks(hooks)
        marks = {name: bool(on) for name, on in flags.items()} if isinstance(flags, dict) else {}
        if not set(marks) <= {"conj", "neg"}:
            raise Refused(f"a tensor marked {sorted(marks)}")
        shape, strides, requires_grad = tuple(shape), tuple(strides), bool(requires_grad)
        if storage.device == "meta":
            return self.adapter.make_meta(shape, strides, dtype, requires_grad)
        if dtype not in storage.bases:
            storage.bases[dtype] = self.adapter.make_base(storage.elements(dtype), storage.device)
        if 0 in shape:
            offset = min(offset, storage.byte_size // numpy_dtype(dtype).itemsize)
        try:
            return self.adapter.make_tensor(
                storage.bases[dtype], offset, shape, strides, requires_grad, marks
            )
        except (RuntimeError, ValueError, TypeError) as error:
            raise ViewError(f"a tensor of shape {shape} and {dtype}: {error}", key=storage.key) from error

    def _dtype_name(self, dtype: Any) -> str:
        if self.adapter.kind(dtype) != "dtype":
            raise Refused(f"dtype {dtype!r:.60}")
        return self.adapter.dtype_name(dtype)

    def _attributes(self, tensor: Any, state: Any) -> None:
        if type(state) is tuple and len(state) == 2 and not state[1]:
            state = state[0]
        if not state:
            return
        hidden = hides_method(type(tensor), state) if isinstance(state, dict) else "?"
        if hidden is not None:
            raise Refused(f"a tensor attribute {hidden!r:.60} that would hide one of its own")
        self.adapter.set_state(tensor, copy.copy(state))


def allowed_names(adapter: Any) -> dict[str, Any]:
    """Return what the user has allowed, by the names that a pickle may give it: its own, and PyTorch's."""
    names = user_globals()
    for value in list(names.values()):
        public = adapter.public_name(value)
        if public is not None:
            names.setdefault(".".join(public), value)
    return names


def refusal(path: str) -> str:
    """Return the message for a name outside the table."""
    shown = path.removeprefix("builtins.")
    return (
        f"Weights only load failed. Unsupported global: GLOBAL {shown} was not an allowed global by default; "
        "nothing of it was run. If you trust it, allow it with "
        f"`fanal.serialization.add_safe_globals([{shown}])` or the "
        f"`fanal.serialization.safe_globals([{shown}])` context manager; or look at it as inert data "
        "with `weights_only=False`, which never executes anything either."
    )


def _text(value: Any) -> Any:
    return value.decode("ascii") if type(value) is bytes else value


def _path(instance: Any) -> str:
    return f"{type(instance).__module__}.{type(instance).__name__}"


def _warn_hooks(hooks: Any) -> None:
    if hooks:
        warnings.warn("backward hooks in the checkpoint are left out: they would be code", stacklevel=2)
