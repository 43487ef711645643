"""What is known of numbers before they are computed: that an index which the program makes itself lies inside."""
from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from fanal.core.base.dtype import dtype as DType
from fanal.core.compiler.graph import READS, VIEWS, Value

Bounds = tuple[int | float, int | float]  # the least and the largest number that there may be; none is NaN
_ANY: Bounds = (-math.inf, math.inf)
_DEEPEST = 64  # steps that are looked back


def in_range(index: Value, n: int) -> bool:
    """Tell whether all of an index is known to be in [0, n)."""
    if index.name == "iota":  # of a named size, too
        return index.shape[index.params[1]] <= n
    found = _Search().bounds(index)
    return found is not None and found[0] >= 0 and found[1] < n


class _Search:
    """Finds bounds of values, and keeps them."""

    def __init__(self) -> None:
        self.known: dict[Value, Bounds | None] = {}
        self.depth = 0

    def bounds(self, v: Value) -> Bounds | None:
        """Return bounds of all elements, None where there are none."""
        if v not in self.known:
            self.depth += 1
            self.known[v] = _fitting(self._found(v) if self.depth < _DEEPEST else None, v.dtype)
            self.depth -= 1
        return self.known[v]

    def _found(self, v: Value) -> Bounds | None:
        if v.name == "full":
            return _constant(v.params[1], v.dtype)
        if v.name == "iota":
            n = v.shape[v.params[1]]
            return (0, n - 1) if type(n) is int and v.dtype.category == 1 else None
        if v.name in VIEWS or v.name in READS:
            return self.bounds(v.inputs[0])
        if v.name == "put" and v.params[1] == "set":
            return _either(self.bounds(v.inputs[0]), self.bounds(v.inputs[2]))
        if v.name == "where":
            return _either(self._where_true(*v.inputs[:2]), self.bounds(v.inputs[2]))
        if v.name == "convert":
            x = self.bounds(v.inputs[0])
            return x and _converted(x, v.dtype)
        if v.name in _ARITHMETIC and v.dtype.category == 1:
            a, b = map(self.bounds, v.inputs)
            return _ARITHMETIC[v.name](*a, *b) if a and b else None
        return None

    def _where_true(self, condition: Value, x: Value) -> Bounds | None:
        """Return bounds of `x` where a condition holds: of what that compares with it. NaN compares with nothing."""
        found = self.bounds(x)
        for low, high in _compared(condition):
            limit = self.bounds(low if x is high else high) if x in (low, high) else None
            if limit:
                least, most = found or _ANY
                found = (max(least, limit[0]), most) if x is high else (least, min(most, limit[1]))
        return found


_ARITHMETIC = {
    "add": lambda a, b, c, d: (a + c, b + d),
    "sub": lambda a, b, c, d: (a - d, b - c),
    "mul": lambda a, b, c, d: (min(a * c, a * d, b * c, b * d), max(a * c, a * d, b * c, b * d)),
    "min": lambda a, b, c, d: (min(a, c), min(b, d)),
    "max": lambda a, b, c, d: (max(a, c), max(b, d)),
}


def _constant(c: object, dtype: DType) -> Bounds | None:
    if type(c) not in (bool, int, float) or dtype.is_complex:
        return None
    number = float(dtype.np.type(c)) if dtype.category == 2 else c  # as it is rounded
    return (number, number) if math.isfinite(number) else None  # type: ignore[arg-type,return-value]


def _fitting(found: Bounds | None, dtype: DType) -> Bounds | None:
    """Integers that do not fit their type have wrapped, and are anywhere in it."""
    if dtype.category != 1:
        return found
    least, most = int(np.iinfo(dtype.np).min), int(np.iinfo(dtype.np).max)
    return (least, most) if found is None or found[0] < least or found[1] > most else found


def _either(a: Bounds | None, b: Bounds | None) -> Bounds | None:
    return None if a is None or b is None else (min(a[0], b[0]), max(a[1], b[1]))


def _compared(condition: Value) -> Iterator[tuple[Value, Value]]:
    """Yield pairs of which the first is at most the second where a condition holds."""
    if condition.name == "and":
        for part in condition.inputs:
            yield from _compared(part)
    elif condition.name in ("le", "lt"):
        yield condition.inputs[0], condition.inputs[1]


def _converted(found: Bounds, to: DType) -> Bounds | None:
    """Return bounds in another type if they are numbers of that: then rounding passes over neither."""
    if not all(map(math.isfinite, found)):
        return None
    if to.category == 1:
        return math.trunc(found[0]), math.trunc(found[1])
    return found if to.category == 2 and all(float(to.np.type(x)) == x for x in found) else None
