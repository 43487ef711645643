"""Updates by a gradient that is zero but for a few rows: only those rows are read and written.

The gradient of a table is `put(0, index, rows)`. Plain gradient descent adds a multiple of it to the table, which
leaves all other rows as they are, to the bit, if the multiple of zero is -0. Whether it is (a learning rate may be any
number) the kernel that adds it to all rows asks first.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fanal.core.base.dtype import dtype as DType
from fanal.core.base.dtype import int32
from fanal.core.base.shape import Shape
from fanal.core.compiler.graph import Value
from fanal.core.ir.row import ROWS

_FEW = 4  # rows of the table for every row of the gradient, at least: they are read out of order, twice


def touch_rows(order: list[Value], outputs: Sequence[Value]) -> list[Value]:
    """Update the rows that a gradient has. Enters and leaves: values in an order that respects use.

    Shapes alone decide.
    """
    if not any(v.name == "put" and v.params == (0, "add") for v in order):
        return order
    uses = Counter([*(i for x in order for i in x.inputs), *outputs])
    results = set(outputs)
    made: list[Value] = []
    for v in order:
        if v.name == "add" and v in results:
            for table, step in (v.inputs, v.inputs[::-1]):
                if table.row is None and table.known is None and table.shape == v.shape and uses[step] == 1 \
                        and step.name == "mul" and _update(v, table, step, uses, made):
                    break
        made.append(v)
    return made


def _rows(gradient: Value) -> tuple[Value, Value] | None:
    """Return the index and the rows of a gradient that has few."""
    if gradient.name != "put" or gradient.params != (0, "add") or not gradient.dtype.is_floating_point:
        return None
    zero, index, new = gradient.inputs
    few = zero.name == "full" and zero.params[1] == 0 and 0 < index.size * _FEW <= gradient.shape[0]
    return (index, new) if few else None


def _update(v: Value, table: Value, step: Value, uses: Counter[Value], order: list[Value]) -> bool:
    """table + put(0, index, rows) * factor -> table with the rows at `index` written anew"""
    gradient, factor = step.inputs if step.inputs[0].shape == v.shape else step.inputs[::-1]
    found = _rows(gradient)
    if found is None or factor.size != 1 or factor.dtype is not v.dtype or gradient.shape != v.shape:
        return False
    index, new = found
    n, width = index.size, v.shape[1:]

    def make(name: str, inputs: tuple[Value, ...], *params: object) -> Value:
        row = ROWS[name]
        shape, dtype = row.shape(inputs, params), row.dtype(inputs, params)
        order.append(Value(row, inputs, params, shape, dtype, v.where))
        return order[-1]

    def full(shape: Shape, number: int, dtype: DType) -> Value:
        return make("full", (), shape, number, dtype)

    if index.shape != (n,):
        index, new = make("reshape", (index,), (n,)), make("reshape", (new,), (n, *width))
    place = index
    if uses[gradient] == 1:  # sums of rows of one index, where the last of them is among the rows
        last = make("put", (full(v.shape[:1], 0, int32), index, make("iota", (), (n,), 0, int32)), 0, "set")
        place = make("take", (last, index), 0)
        gradient = make("put", (full((n, *width), 0, v.dtype), place, new), 0, "add")
    zero = full((), 0, v.dtype)
    nothing = make("mul", (factor, zero))
    kept = make("lt", (make("div", (full((), 1, v.dtype), nothing)), zero))  # 1 / -0 is below 0
    others = make("where", (kept, table, make("add", (table, nothing))))
    change = make("mul", (make("take", (gradient, place), 0), factor))
    rows = make("add", (make("take", (table, index), 0), change))
    v.row, v.name, v.inputs, v.params = ROWS["put"], "put", (others, index, rows), (0, "set")
    return True
