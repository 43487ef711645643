"""Tables that native code walks: words of memory that must be what they were, and references to set.

What a known segment must ask of its surroundings (is every `.grad` where it was, does nobody else hold this tensor, is
this parameter's value still the one in memory) is a comparison of words. A `Table` lists them once; one call of the
native matcher asks them all. Its twin in pure Python has no tables, and asks one by one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from fanal.core.backends.cpu.memory import LIST_ITEMS
from fanal.core.engine.handle import SIGNATURE, Handle, Storage
from fanal.core.engine.layout_ir import ARGS, EQUAL, HALF, INDIRECT, ITEM, OTHER, SAME, SIZE, WORD
from fanal.core.engine.matcher import matcher
from fanal.core.ir.program import Node

native: Any = matcher if matcher.name == "native" else None  # the Python twin has no tables
Condition = tuple[int, int, int, int]  # kind, a, b, what must be there: see tables_ir
Fact = tuple[Any, Any, Any]  # container, key, value: see Watch


def offsets(kind: type) -> dict[str, int]:
    """Return where an object of a class with `__slots__` keeps each of them, in bytes. Found by looking."""
    o: Any = object.__new__(kind)
    found = {}
    for name in (n for c in kind.__mro__ for n in getattr(c, "__slots__", ()) if not n.startswith("__")):
        mark = object()
        setattr(o, name, mark)
        words = (ctypes.c_uint64 * (kind.__basicsize__ // 8)).from_address(id(o))
        found[name] = 8 * list(words).index(id(mark))
    return found


HANDLE, STORAGE, NODE = offsets(Handle), offsets(Storage), offsets(Node)


def references(addresses: Iterable[int]) -> list[int]:
    """Return how many references there are to each object. By address: to name it would be another."""
    return [ctypes.c_uint32.from_address(a).value for a in addresses]


def alone(address: int, count: int) -> Condition:
    """The object at `address` has `count` references."""
    return HALF, address, 0, count


def holds(o: Any, offset: int, value: Any) -> Condition:
    """The slot of `o` at `offset` holds `value`."""
    return WORD, id(o) + offset, 0, id(value)


def element(items: list[Any], i: int) -> int:
    """Return where a list that keeps its length has element i, as an offset from the list."""
    return ctypes.c_uint64.from_address(id(items) + LIST_ITEMS).value + 8 * i - id(items)


def length(container: Any) -> Condition:
    """The list or dict has the length it has now."""
    return WORD, id(container) + SIZE, 0, len(container)


def _place_of_attributes() -> int:
    """Return where an object has its `__dict__`, in bytes; it stands before the object. 0 if it cannot be found."""
    class Probe:
        pass

    probe = Probe()
    attributes = vars(probe)
    words = list((ctypes.c_uint64 * 4).from_address(id(probe) - 32))
    return 8 * words.index(id(attributes)) - 32 if id(attributes) in words else 0


ATTRIBUTES = _place_of_attributes()


def bare(o: Any) -> list[Condition]:
    """Nothing hangs on a tensor: no attribute in its `__dict__`, and no weak reference."""
    vars(o)  # from here on there is one
    return [(WORD, id(o) + type(o).__weakrefoffset__, 0, 0), (INDIRECT, id(o) + ATTRIBUTES, SIZE, 0)]


class Words:
    """Words in memory that native code reads. They own none of the objects they point to."""

    def __init__(self, words: list[int]) -> None:
        self._words = np.array(words, np.int64)
        self.address = self._words.ctypes.data


class Table(Words):
    """Conditions, and effects: references to set (object, offset of a slot, new value), and arguments to expect.

    An argument is (step, its place, the object): the step does not own it.
    """

    def __init__(self, conditions: Sequence[Condition], effects: Sequence[tuple[Any, int, Any]] = (),
                 arguments: Sequence[tuple[Any, int, Any]] = ()) -> None:
        words: list[int] = [len(conditions), len(effects), len(arguments)]
        for c in conditions:
            words += c
        for o, offset, value in effects:
            words += id(o) + offset, id(value)
        for step, place, value in arguments:
            words += id(step) + ARGS + 8 * place, id(value)
        super().__init__(words)


class Elements(Words):
    """How another tuple, list or slice is recognised as one with the same elements: argument `place` of a step.

    The elements are the same objects; slices among them have the same limits. `other` is the next table of the step.
    """

    def __init__(self, made: type, elements: tuple, place: int, other: int) -> None:
        super().__init__([place, other, id(made), len(elements), *map(id, elements)])


UNNUMBERED = 0  # of a class that was changed too often to get another number
NEVER = 1 << 32  # what no half word holds


def version_of(cls: type) -> int:
    """Return the number that CPython gives a class until somebody changes it or one of its bases."""
    getattr(cls, "forward", None)  # a look-up numbers the class
    return ctypes.c_uint32.from_address(id(cls) + VERSION).value


def _place_of_version() -> int:
    """Return where a class keeps that number, found by changing one; 0 if it cannot be found."""
    class Probe:
        pass

    def words() -> list[int]:
        return list((ctypes.c_uint32 * 128).from_address(id(Probe)))
    seen = []
    for k in range(3):
        setattr(Probe, f"attribute{k}", None)
        changed = words()
        getattr(Probe, "forward", None)
        seen.append((changed, words()))
    places = [i for i in range(128) if all(a[i] == 0 and b[i] for a, b in seen) and len({b[i] for _, b in seen}) == 3]
    return 4 * places[0] if len(places) == 1 else 0


VERSION = _place_of_version()


class Watch:
    """Facts that can be asked for again and again: what lists, dicts, classes, storages and nodes hold.

    A fact is (container, key, value): `container[key] is value`, or the attribute `key` of a class, a storage or a
    node. Lists and dicts have kept their length, too. One native call asks all facts.
    """

    def __init__(self, facts: Sequence[Fact]) -> None:
        self.facts = facts  # keeps alive what the table points to
        self.lengths = {id(c): (c, len(c)) for c, _, _ in facts if isinstance(c, (list, dict))}
        self.keys = [(c, tuple(c)) for c, _ in self.lengths.values() if isinstance(c, dict)]
        self.table: Table | None = None
        if native is not None:
            lengths = [length(c) for c, _ in self.lengths.values()]
            self.table = Table([*lengths, *(self._condition(*fact) for fact in facts)])

    @staticmethod
    def _condition(container: Any, key: Any, value: Any) -> Condition:
        if type(container) is list:
            return INDIRECT, id(container) + LIST_ITEMS, 8 * key, id(value)
        if isinstance(container, dict):
            return ITEM, id(container), id(key), id(value)
        if isinstance(container, type):
            number = version_of(container)
            return HALF, id(container) + VERSION, 0, number if number != UNNUMBERED else NEVER
        return holds(container, (STORAGE if isinstance(container, Storage) else NODE)[key], value)

    def of(self) -> Any:
        """Return what stands for an object that has gone since its call was followed. The first facts are of its class
        and of its `__dict__`."""
        (cls, _, _), (own, _, _) = self.facts[:2]
        found = object.__new__(cls)
        object.__setattr__(found, "__dict__", own)
        return found

    def same(self, other: Watch) -> bool:
        """Tell whether another one watches the same facts."""
        return len(self.facts) == len(other.facts) and \
            all(a is c and j == k and x is y for (a, j, x), (c, k, y) in zip(self.facts, other.facts))

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Let dicts be as they were inside a block: a call that was followed is recorded after they have changed."""
        if self.hold():
            yield
            return
        known = {(id(c), key): value for c, key, value in self.facts}
        before = [(c, dict(c), {k: known.get((id(c), k), c.get(k)) for k in keys if k in c or (id(c), k) in known})
                  for c, keys in self.keys]
        try:
            for c, _, then in before:
                c.clear()
                c.update(then)
            yield
        finally:
            for c, now, _ in before:
                c.clear()
                c.update(now)

    def hold(self) -> bool:
        """Tell whether every fact holds."""
        if self.table is not None:
            return native.holds(self.table.address)
        if any(len(c) != n for c, n in self.lengths.values()):
            return False
        for container, key, value in self.facts:
            if isinstance(container, dict):
                now = container.get(key)
            else:
                now = container[key] if type(container) is list else getattr(container, key)
            if now is not value:
                return False
        return True


class Rebinding(Words):
    """How another tensor from outside is recognised as one of the same make: argument `place` of a step.

    The comparisons are those of `handle.signature`, and that its value is in memory. `later` are the other uses of the
    tensor, (step, argument), which expect it from then on. `chained`: its chain of views is compared, too. `storage`:
    the only one that it may have, of which the segment's end asks the rest.
    """

    def __init__(self, made: tuple, place: int, later: Sequence[tuple[Any, int]], chained: bool = True,
                 storage: Any = None) -> None:
        t = dict(zip(SIGNATURE, made, strict=True))
        entries: list[tuple[int, int, Any, int]] = [
            (0, HANDLE["_shape"], t["shape"], EQUAL),
            (0, HANDLE["_dtype"], t["dtype"], SAME),
            (0, HANDLE["_chain"], t["chain"], EQUAL),
            (0, HANDLE["_strides"], t["strides"], EQUAL),
            (0, HANDLE["_leaf"], t["leaf"], SAME),
            (0, HANDLE["_detached"], t["detached"], SAME),
            (0, HANDLE["_inference"], t["inference"], SAME),
            (0, HANDLE["_base_ref"], None, SAME),
            (1, STORAGE["meta"], t["meta"], SAME),
            (1, STORAGE["foreign"], None, SAME),
            (1, STORAGE["cut"], None, SAME),
            (2, NODE["shape"], t["whole"], EQUAL),
            (2, NODE["needs_grad"], t["needs_grad"], SAME),
            (2, NODE["buffer"], None, OTHER),
        ]
        if not chained:
            entries = [e for e in entries if e[1] != HANDLE["_chain"] or e[0]]
        if storage is not None:
            entries = [e for e in entries if not e[0]] + [(0, HANDLE["_storage"], storage, SAME)]
        words = [place, 0, id(t["type"]), HANDLE["_storage"], STORAGE["node"], len(entries)]
        for which, offset, value, how in entries:
            words += which, offset, id(value), how
        words += len(later), *(id(step) + ARGS + 8 * argument for step, argument in later)
        super().__init__(words)
        self._kept = entries

    @staticmethod
    def serves(made: tuple) -> bool:
        """Tell whether tensors of this signature can be compared word by word."""
        t = dict(zip(SIGNATURE, made, strict=True))
        history = t["needs_grad"]  # whether gradients flow, or whose graph they flow through
        return t["base"] is type(None) and t["unshared"] and t["cut"] is None and isinstance(history, bool)
