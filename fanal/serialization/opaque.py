"""Objects of a checkpoint that are looked at, never run."""

from __future__ import annotations

from typing import Any


class Opaque:
    """What a pickle says about an object whose class is not known here.

    Nothing of it was imported or called: ``module`` and ``name`` are the text in the file,
    ``args`` what its constructor or function would have been given (None for a bare reference),
    ``kwargs`` likewise, ``state`` what its attributes would have become, ``items`` what would have
    been appended to it (values, or (key, value) pairs).
    """

    __slots__ = ("args", "items", "kwargs", "module", "name", "state")

    def __init__(self, module: str, name: str, args: tuple | None = None, kwargs: dict | None = None) -> None:
        self.module = module
        self.name = name
        self.args = args
        self.kwargs = kwargs
        self.state: Any = None
        self.items: list[Any] = []

    @property
    def path(self) -> str:
        """The dotted name of the class or function."""
        return f"{self.module}.{self.name}"

    def __repr__(self) -> str:
        if self.args is None:
            return f"<Opaque {self.path}>"
        shown = ", ".join(type(arg).__name__ for arg in self.args[:4])
        fields = ", ".join(str(key) for key in list(self.state)[:6]) if isinstance(self.state, dict) else ""
        return f"<Opaque {self.path}({shown}){' state: ' + fields if fields else ''}>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(f"{self!r} stands for an object that was never rebuilt, so it cannot be saved again")
