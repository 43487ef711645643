"""Modules of options that scripts set for PyTorch's compiler. They are kept and given back; none has an effect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any


class Options(ModuleType):
    """A module any attribute of which may be set."""

    @contextmanager
    def patch(self, changes: Any = None, value: Any = None, **named: Any) -> Iterator[None]:
        """Set options inside of a `with`, or of a function: by name, or "part.name", as keywords or a dict."""
        wanted = {changes: value} if isinstance(changes, str) else {**(changes or {}), **named}
        before = []
        for path, new in wanted.items():
            *parts, name = path.split(".")
            place: Any = self
            for part in parts:
                place = getattr(place, part)
            before.append((place, name, hasattr(place, name), getattr(place, name, None)))
            setattr(place, name, new)
        try:
            yield
        finally:
            for place, name, there, old in reversed(before):
                setattr(place, name, old) if there else delattr(place, name)


def options(module: ModuleType, *parts: str, **defaults: Any) -> None:
    """Make a module one of options, with parts that have options of their own."""
    module.__class__ = Options
    vars(module).update(defaults, **{p: SimpleNamespace() for p in parts})
