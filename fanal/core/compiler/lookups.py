"""Products of rows that a lookup repeats: a table with fewer rows than lookups is multiplied itself.

The product of the rows is the rows of the product, to the bit. Going back, rows that come from one place of the table
are added up before the product, not after it; so they are in the gradient of the weight.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

from fanal.core.base.shape import Shape
from fanal.core.compiler.graph import Value
from fanal.core.ir.row import ROWS

_LEAST = 2  # lookups of a row, on average
_DEPTH = 16  # of a product: below that it costs no more than the lookup


def gather_lookups(order: list[Value], outputs: Sequence[Value]) -> list[Value]:
    """Move products before lookups. Enters and leaves: values in an order that respects use.

    Shapes alone decide, so that the bits do too.
    """
    if not any(v.name == "dot" for v in order):
        return order
    uses: dict[Value, int] = {}
    for v in [*(i for x in order for i in x.inputs), *outputs]:
        uses[v] = uses.get(v, 0) + 1
    result: list[Value] = []
    known: dict[tuple, Value] = {}

    def make(name: str, inputs: tuple[Value, ...], params: tuple, like: Value) -> Value:
        key = name, inputs, params, name == "dot" and like
        if key not in known:
            row = ROWS[name]
            known[key] = Value(row, inputs, params, row.shape(inputs, params), row.dtype(inputs, params), like.where)
            known[key].split = like.split
            result.append(known[key])
        return known[key]

    for v in order:
        if v.name == "dot" and not v.params and len(v.shape) == 2:
            _before_lookup(v, make)
            if v.name == "dot":
                _sums_of_lookups(v, make)
        elif v.name == "put" and v.params == (0, "add"):
            _after_sum(v, uses, make)
        result.append(v)
    return result


Make = Callable[[str, tuple[Value, ...], tuple, Value], Value]


def _rows_of(x: Value, until: str, uses: dict[Value, int] | None) -> tuple[Value, list[Value]] | None:
    """Return the value of a primitive whose rows `x` shows in another order or shape, and the views between."""
    views: list[Value] = []
    while x.name in ("reshape", "permute"):
        y = x.inputs[0]
        if not x.size or not y.shape or x.shape[-1] != y.shape[-1] or (uses is not None and uses[x] != 1) \
                or (x.name == "permute" and x.params[0][-1] != len(x.shape) - 1):
            return None
        views.append(x)
        x = y
    return (x, views) if x.name == until and x.size and (uses is None or uses[x] == 1) else None


def _few(table: Shape, lookups: int) -> bool:
    return len(table) == 2 and 0 < table[0] * _LEAST <= lookups


def _become(v: Value, name: str, inputs: tuple[Value, ...], params: tuple) -> None:
    v.row, v.name, v.inputs, v.params = ROWS[name], name, inputs, params


def _before_lookup(v: Value, make: Make) -> None:
    """(rows of a table) b -> rows of (the table b)"""
    found = _rows_of(v.inputs[0], "take", None)
    if found is None:
        return
    lookup, views = found
    table, index = lookup.inputs
    if lookup.params != (0,) or table.shape[-1] < _DEPTH or not _few(table.shape, v.shape[0]):
        return
    for x in reversed(views):
        index = make(x.name, (index,), (x.params[0][:-1],), index)
    _become(v, "take", (make("dot", (table, v.inputs[1]), (), v), index), (0,))


def _sums_of_lookups(v: Value, make: Make) -> None:
    """a^T (rows of a table) -> (sums of rows of a)^T the table: the gradient of a weight"""
    a, b = v.inputs
    found = _rows_of(b, "take", None)
    if found is None:
        return
    lookup, views = found
    table, index = lookup.inputs
    # Sums of halves would be rounded once more.
    if lookup.params != (0,) or not _few(table.shape, b.shape[0]) or v.shape[0] < _DEPTH or v.dtype.itemsize < 4:
        return
    for x in reversed(views):
        index = make(x.name, (index,), (x.params[0][:-1],), index)
    none = make("full", (), ((table.shape[0], v.shape[0]), 0, a.dtype), v)
    sums = make("put", (none, index, _turned(a, make)), (0, "add"), v)
    _become(v, "dot", (_turned(sums, make), table), ())


def _turned(x: Value, make: Make) -> Value:
    return x.inputs[0] if x.name == "permute" else make("permute", (x,), ((1, 0),), x)


def _after_sum(v: Value, uses: dict[Value, int], make: Make) -> None:
    """sums of rows of (a b) -> (sums of rows of a) b"""
    zero, index, new = v.inputs
    found = _rows_of(new, "dot", uses)
    if found is None or zero.name != "full" or zero.params[1] != 0:
        return
    product, views = found
    if len(product.shape) != 2 or not _few(v.shape, product.shape[0]):
        return
    a, b = product.inputs
    for x in views:
        if x.name == "permute":
            back = [0] * (len(x.shape) - 1)
            for to, d in enumerate(x.params[0][:-1]):
                back[d] = to
            index = make("permute", (index,), (tuple(back),), index)
        else:
            index = make("reshape", (index,), (x.inputs[0].shape[:-1],), index)
    none = make("full", (), ((v.shape[0], a.shape[1]), 0, a.dtype), v)
    v.split = product.split
    _become(v, "dot", (make("put", (none, index, a), (0, "add"), v), b), ())
