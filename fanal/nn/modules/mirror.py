"""Tables of a module whose entries also stand in its `__dict__`: reading an attribute needs no search."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

TABLES = ("_parameters", "_buffers", "_modules")
_MISSING = object()


class Mirror(dict):
    """A module's parameters, buffers or submodules: the table is the truth, `__dict__` has a copy.

    The owner is held weakly: a module is freed when its last user goes, without waiting for the cycle
    collector. A name that the class defines itself is not mirrored, because in PyTorch the class attribute is
    what is found; nor is anything where the class has a `__getattr__` of its own, which PyTorch asks for every entry.
    """

    __slots__ = ("_owner",)

    def __init__(self, owner: weakref.ref, entries: Iterable = ()) -> None:
        super().__init__(entries)
        self._owner = owner
        for name, value in self.items():
            self._show(name, value)

    def _show(self, name: str, value: Any) -> None:
        owner = self._owner()
        if owner is None:
            return
        cls = type(owner)
        if cls.__getattr__ is cls._look_up and not hasattr(cls, name):
            owner.__dict__[name] = value

    def mirrors(self, module: Any) -> bool:
        """Return whether `module` is the owner."""
        return self._owner() is module

    def _hide(self, name: str) -> None:
        owner = self._owner()
        if owner is not None:
            owner.__dict__.pop(name, None)

    def renew(self) -> None:
        """Show the entries as the owner's class, which is another one now, asks for."""
        for name, value in self.items():
            self._hide(name)
            self._show(name, value)

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        self._show(name, value)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        self._hide(name)

    def pop(self, name: str, default: Any = _MISSING) -> Any:
        if name not in self and default is not _MISSING:
            return default
        value = super().pop(name)
        self._hide(name)
        return value

    def popitem(self) -> tuple[str, Any]:
        name, value = super().popitem()
        self._hide(name)
        return name, value

    def clear(self) -> None:
        for name in self:
            self._hide(name)
        super().clear()

    def setdefault(self, name: str, default: Any = None) -> Any:
        if name not in self:
            self[name] = default
        return self[name]

    def update(self, *args: Any, **kwargs: Any) -> None:
        for name, value in dict(*args, **kwargs).items():
            self[name] = value

    def __ior__(self, other: Any) -> Mirror:
        self.update(other)
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple:
        return dict, (dict(self),)


def table_of(module: Any, table: str) -> Mirror:
    """Return a module's table, made a `Mirror` again where `__dict__` was restored by other hands."""
    entries = module.__dict__[table]
    if type(entries) is not Mirror:
        entries = module.__dict__[table] = Mirror(weakref.ref(module), entries)
    return entries
