"""Tensors in nested tuples, lists and dictionaries: taken out in order, and put back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


def mapped(f: Callable, x: Any) -> Any:
    """Return a structure like `x` with f(leaf) in the place of each leaf. None is a leaf."""
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*(mapped(f, i) for i in x))
    if type(x) in (tuple, list):
        return type(x)(mapped(f, i) for i in x)
    if isinstance(x, dict):
        return type(x)((k, mapped(f, v)) for k, v in x.items())
    return f(x)


def leaves(x: Any) -> list[Any]:
    """Return the leaves of a structure, in order."""
    found: list[Any] = []
    mapped(found.append, x)
    return found


def filled(x: Any, values: Iterable[Any]) -> Any:
    """Return a structure like `x` with other leaves."""
    it = iter(values)
    return mapped(lambda leaf: next(it), x)


def structure(x: Any) -> Any:
    """Return a structure like `x` with every leaf a *, to be compared and shown."""
    return mapped(lambda leaf: Leaf(), x)


class Leaf:
    """Stands for any leaf."""

    def __repr__(self) -> str:
        return "*"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Leaf)

    __hash__ = None  # type: ignore[assignment]
