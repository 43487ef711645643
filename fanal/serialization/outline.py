"""A checkpoint read for its structure: tensors become outlines, no tensor data is touched.

Used to name the tensor behind a damaged record, and to list what a checkpoint would call.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .opaque import Opaque
from .scope import CheckpointScope, StorageType
from .storage import LoadedStorage
from .unpickler import Unpickler, children


class Outline:
    """A tensor of which only the storage key is known."""

    def __init__(self, key: str = "") -> None:
        self.key = key


class _Described(NamedTuple):
    """A dtype, device or size, by its text."""

    name: str


class OutlineAdapter:
    """The adapter that makes outlines instead of tensors."""

    tensor_class = parameter_class = Outline

    def kind(self, obj: object) -> str | None:
        return "dtype" if isinstance(obj, _Described) else None

    def dtype_name(self, dtype: _Described) -> str:
        return dtype.name

    def public_name(self, obj: Any) -> tuple[str, str] | None:
        return None

    def make_base(self, flat: np.ndarray, device: str) -> Any:
        return None

    def make_meta(self, shape: tuple, strides: tuple, dtype: str, requires_grad: bool) -> Outline:
        return Outline()

    def make_sparse(self, layout: str, args: Any) -> Any:
        return Opaque("torch", "sparse", args)

    def make_parameter(self, data: Outline, requires_grad: bool) -> Outline:
        return data

    def make_lazy(self, name: str, requires_grad: bool) -> Outline:
        return Outline()

    def as_subclass(self, tensor: Outline, cls: type) -> Outline:
        return tensor

    def set_state(self, tensor: Outline, state: dict[str, Any]) -> None:
        pass

    def make_dtype(self, name: str) -> _Described:
        return _Described(name)

    def make_device(self, args: tuple) -> _Described:
        return _Described(str(args))

    def make_size(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        return sizes

    def make_layout(self, name: str) -> _Described:
        return _Described(name)

    def find_class(self, module: str, name: str) -> None:
        return None

    def find_function(self, module: str, name: str) -> None:
        return None


class _OutlineScope(CheckpointScope):
    def _tensor(self, storage: Any, *rest: Any) -> Any:
        return Outline(storage.key if isinstance(storage, LoadedStorage) else "")

    def _user_entry(self, module: str, path: str) -> None:
        return None  # an outline runs nothing, not even what the user allows


class Structure(NamedTuple):
    """What an outline pass over a pickle finds."""

    value: Any
    storages: dict[str, tuple[StorageType, int]]  # key -> (type, number of elements)
    unknown: list[str]  # dotted names outside the table
    end: int  # where the pickle stops


def outline(data: bytes | memoryview, position: int = 0) -> Structure:
    """Read a pickle's structure."""
    storages: dict[str, tuple[StorageType, int]] = {}

    def fetch(storage_type: StorageType, key: str, location: str, numel: int) -> LoadedStorage:
        storages.setdefault(key, (storage_type, numel))
        # Big enough for any piece of it to be described.
        return LoadedStorage(np.empty(0, np.uint8), storage_type.dtype, key, "meta", 2**62)

    scope = _OutlineScope(OutlineAdapter(), fetch, weights_only=False)  # type: ignore[arg-type]
    reader = Unpickler(data, scope, position)
    value = reader.load()
    return Structure(value, storages, list(dict.fromkeys(scope.refused)), reader.position)


def tensor_names(value: Any, key: str) -> list[str]:
    """Return the dotted paths of all tensors that lie in one storage."""
    return [path or "(the whole checkpoint)" for path, found in _walk(value) if found == key]


def _walk(root: Any) -> Iterator[tuple[str, str]]:
    """Yield (path, storage key) for every tensor or storage, in order, each container once."""
    pending: list[tuple[str, Any]] = [("", root)]
    seen: set[int] = set()
    while pending:
        path, item = pending.pop()
        if isinstance(item, (Outline, LoadedStorage)):
            yield path, item.key
            continue
        if id(item) in seen or isinstance(item, (str, bytes, int, float)):
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            parts = [(str(name), part) for name, part in item.items()]
        elif isinstance(item, (list, tuple)):
            parts = [(str(index), part) for index, part in enumerate(item)]
        elif isinstance(item, Opaque):
            parts = [("", item.state)] + [(f"args.{i}", arg) for i, arg in enumerate(item.args or ())]
            parts += [("", dict(pair for pair in item.items if isinstance(pair, tuple) and len(pair) == 2
                                and isinstance(pair[0], (str, int))))]  # fmt: skip
        else:
            parts = [("", part) for part in children(item)]
        for name, part in reversed(parts):
            # A module's tensors sit in tables that its state_dict does not name.
            hidden = name in ("_parameters", "_buffers", "_modules", "")
            pending.append((path if hidden else f"{path}.{name}" if path else name, part))
