"""Tables that native code walks: words of memory that must be what they were, and references to set.

What a known segment must ask of its surroundings (is every `.grad` where it was, does nobody else hold this tensor, is
this parameter's value still the one in memory) is a comparison of words. A `Table` lists them once; one call of the
native matcher asks them all. Its twin in pure Python has no tables, and asks one by one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fanal.core.backends.cpu.memory import LIST_ITEMS
from fanal.core.engine.handle import Handle, Storage
from fanal.core.engine.layout_ir import EQUAL, HALF, INDIRECT, ITEM, OTHER, SAME, SIZE, WORD
from fanal.core.engine.matcher import matcher
from fanal.core.ir.program import Node

native: Any = matcher if matcher.name == "native" else None  # the Python twin has no tables
Condition = tuple[int, int, int, int]  # kind, a, b, what must be there: see tables_ir


def _offsets(kind: type) -> dict[str, int]:
    """Return where an object of a class with `__slots__` keeps each of them, in bytes. Found by looking."""
    o: Any = object.__new__(kind)
    found = {}
    for name in (n for c in kind.__mro__ for n in getattr(c, "__slots__", ()) if not n.startswith("__")):
        mark = object()
        setattr(o, name, mark)
        words = (ctypes.c_uint64 * (kind.__basicsize__ // 8)).from_address(id(o))
        found[name] = 8 * list(words).index(id(mark))
    return found


HANDLE, STORAGE, NODE = _offsets(Handle), _offsets(Storage), _offsets(Node)


def references(addresses: Iterable[int]) -> list[int]:
    """Return how many references there are to each object. By address: to name it would be another."""
    return [ctypes.c_uint32.from_address(a).value for a in addresses]


def alone(address: int, count: int) -> Condition:
    """The object at `address` has `count` references."""
    return HALF, address, 0, count


def holds(o: Any, offset: int, value: Any) -> Condition:
    """The slot of `o` at `offset` holds `value`."""
    return WORD, id(o) + offset, 0, id(value)


class Table:
    """Conditions, and effects (object, offset of a slot, new value). Owns none of the objects."""

    def __init__(self, conditions: Sequence[Condition], effects: Sequence[tuple[Any, int, Any]] = ()) -> None:
        words: list[int] = [len(conditions), len(effects)]
        for c in conditions:
            words += c
        for o, offset, value in effects:
            words += id(o) + offset, id(value)
        self.words = np.array(words, np.int64)
        self.address = self.words.ctypes.data


class Elements:
    """How another tuple is recognised as one with the same elements: argument `place` of a step."""

    def __init__(self, elements: tuple, place: int) -> None:
        self.words = np.array([place, id(tuple), len(elements), *map(id, elements)], np.int64)
        self.address = self.words.ctypes.data


class Watch:
    """Facts that can be asked for again and again: what lists, dicts, storages and nodes hold.

    A fact is (container, key, value): `container[key] is value`, or the attribute `key` of a storage or a node. Lists
    among the containers have kept their length, too. One native call asks all facts.
    """

    def __init__(self, facts: Sequence[tuple[Any, Any, Any]]) -> None:
        self.facts = facts  # keeps alive what the table points to
        self.lists = {id(c): (c, len(c)) for c, _, _ in facts if type(c) is list}
        self.table: Table | None = None
        if native is not None:
            lengths = [(WORD, address + SIZE, 0, n) for address, (_, n) in self.lists.items()]
            self.table = Table([*lengths, *(self._condition(*fact) for fact in facts)])

    @staticmethod
    def _condition(container: Any, key: Any, value: Any) -> Condition:
        if type(container) is list:
            return INDIRECT, id(container) + LIST_ITEMS, 8 * key, id(value)
        if isinstance(container, dict):
            return ITEM, id(container), id(key), id(value)
        return holds(container, (STORAGE if isinstance(container, Storage) else NODE)[key], value)

    def hold(self) -> bool:
        """Tell whether every fact holds."""
        if self.table is not None:
            return native.holds(self.table.address)
        if any(len(c) != n for c, n in self.lists.values()):
            return False
        for container, key, value in self.facts:
            if isinstance(container, dict):
                now = container.get(key)
            else:
                now = container[key] if type(container) is list else getattr(container, key)
            if now is not value:
                return False
        return True


class Rebinding:
    """How another tensor from outside is recognised as one of the same make: argument `place` of a step.

    The comparisons are those of `handle.signature`, and that its value is in memory.
    """

    def __init__(self, made: tuple, place: int) -> None:
        kind, shape, dtype, chain, strides, leaf, detached, inference, _, meta, whole, needs_grad, _ = made
        entries: list[tuple[int, int, Any, int]] = [
            (0, HANDLE["_shape"], shape, EQUAL),
            (0, HANDLE["_dtype"], dtype, SAME),
            (0, HANDLE["_chain"], chain, EQUAL),
            (0, HANDLE["_strides"], strides, EQUAL),
            (0, HANDLE["_leaf"], leaf, SAME),
            (0, HANDLE["_detached"], detached, SAME),
            (0, HANDLE["_inference"], inference, SAME),
            (0, HANDLE["_hooks"], None, SAME),
            (1, STORAGE["meta"], meta, SAME),
            (1, STORAGE["foreign"], None, SAME),
            (2, NODE["shape"], whole, EQUAL),
            (2, NODE["needs_grad"], needs_grad, SAME),
            (2, NODE["buffer"], None, OTHER),
        ]
        words = [place, id(kind), HANDLE["_storage"], STORAGE["node"], len(entries)]
        for which, offset, value, how in entries:
            words += which, offset, id(value), how
        self.kept = entries
        self.words = np.array(words, np.int64)
        self.address = self.words.ctypes.data

    @staticmethod
    def serves(made: tuple) -> bool:
        """Tell whether tensors of this signature can be compared word by word."""
        hooks, history, shared = made[8], made[11], not made[12]
        return not hooks and not shared and isinstance(history, bool)
