"""Sums of products are one product: of the operands side by side, along the dimension summed over.

A weight used at every step of a recurrence has as its gradient the sum over steps of a product each. One product
over all steps reads and writes the sum once and has a long inner dimension. The same goes for sums of reductions.
"""
from __future__ import annotations

from collections.abc import Sequence

from fanal.core.base.dtype import dtype as DType
from fanal.core.base.shape import Shape
from fanal.core.compiler.graph import Value, split
from fanal.core.ir.row import ROWS

_FEWEST = 4  # terms


def gather_sums(order: list[Value], outputs: Sequence[Value]) -> list[Value]:
    """Replace sums of products or reductions in a graph. Enters and leaves: values in an order that respects use.

    Shapes alone decide, so that the bits do too.
    """
    adds = [v for v in order if v.name == "add" and v.dtype.is_floating_point]
    if len(adds) < _FEWEST - 1:
        return order
    uses: dict[Value, int] = {}
    for v in [*(i for x in order for i in x.inputs), *outputs]:
        uses[v] = uses.get(v, 0) + 1
    joins = {_parts(v): v for v in order if v.name == "concat" and v.params == (0,)}
    place = {v: n for n, v in enumerate(order)}
    inner: set[Value] = set()
    before: dict[Value, list[Value]] = {}
    for root in reversed(adds):
        if root in inner:
            continue
        terms = _terms(root, uses, inner)
        for kind in (_products, _reductions):
            found = [t for t in terms if uses.get(t) == 1 and t.name in ("dot", "sum")]
            for same in _alike(found, kind is _products):
                made = kind(same, {k: v for k, v in joins.items() if place[v] < place[root]})
                if not made:
                    continue
                gone = set(same)
                terms = [*(t for t in terms if t not in gone), made[-1]]
                before.setdefault(root, []).extend(made)
        if root in before:
            _rewrite(root, terms, before[root])
    return [v for x in order for v in (*before.get(x, ()), x)]


def _terms(root: Value, uses: dict[Value, int], inner: set[Value]) -> list[Value]:
    """Return what is added up in `root`, in order; the additions on the way are used nowhere else."""
    found: list[Value] = []
    stack = [root]
    while stack:
        v = stack.pop()
        if v is root or (v.name == "add" and uses[v] == 1 and v.shape == root.shape):
            inner.add(v)
            stack += reversed(v.inputs)
        else:
            found.append(v)
    return found


def _alike(terms: list[Value], products: bool) -> list[list[Value]]:
    """Return the terms of one kind by what can be joined."""
    groups: dict[tuple[object, ...], list[Value]] = {}
    for t in terms:
        if products and t.name == "dot" and len(t.shape) == 2 and not t.params:
            groups.setdefault((t.shape, *(x.name == "permute" for x in t.inputs)), []).append(t)
        elif not products and t.name == "sum" and t.params[0] == (0,):
            groups.setdefault((t.shape, t.inputs[0].shape[1:]), []).append(t)
    return [g for g in groups.values() if len(g) >= _FEWEST]


def _new(name: str, inputs: tuple[Value, ...], params: tuple[object, ...], shape: Shape, dtype: DType,
         where: object) -> Value:
    v = Value(ROWS[name], inputs, params, shape, dtype, where)
    v.id = -2
    return v


def _parts(join: Value) -> tuple[Value, ...]:
    return tuple(p.inputs[0] if p.name == "reshape" else p for p in join.inputs)


def _joined(parts: list[Value], joins: dict[tuple[Value, ...], Value], made: list[Value]) -> Value:
    """Return two-dimensional parts one below the other: one that is there already, or a new one."""
    rows = sum(p.shape[0] for p in parts)
    shape = (rows, *parts[0].shape[1:])
    known = joins.get(tuple(p.inputs[0] if p.name == "reshape" else p for p in parts))
    if known is None:
        known = _new("concat", tuple(parts), (0,), shape, parts[0].dtype, parts[0].where)
        made.append(known)
        joins[_parts(known)] = known
    if known.shape != shape:
        known = _new("reshape", (known,), (shape,), shape, known.dtype, known.where)
        made.append(known)
    return known


def _products(terms: list[Value], joins: dict[tuple[Value, ...], Value]) -> list[Value]:
    """Return the values that make one product of several, the product last; none where that costs more."""
    m, n = terms[0].shape
    depth = sum(t.inputs[0].shape[1] for t in terms)
    if depth * (m + n) > len(terms) * m * n:
        return []
    made: list[Value] = []
    operands = []
    for side in (0, 1):
        parts = [t.inputs[side] for t in terms]
        turned = side == 0  # the dimension summed over is to come first
        if parts[0].name == "permute":
            parts, turned = [p.inputs[0] for p in parts], not turned
        if turned:
            parts = [_new("permute", (p,), ((1, 0),), (p.shape[1], p.shape[0]), p.dtype, p.where) for p in parts]
            made += parts
        whole = _joined(parts, joins, made)
        if side == 0:
            whole = _new("permute", (whole,), ((1, 0),), (m, depth), whole.dtype, whole.where)
            made.append(whole)
        operands.append(whole)
    product = _new("dot", tuple(operands), (), (m, n), terms[0].dtype, terms[0].where)
    product.split = split(*operands)
    made.append(product)
    return made


def _reductions(terms: list[Value], joins: dict[tuple[Value, ...], Value]) -> list[Value]:
    """Return the values that make one reduction of several where their operands lie together already."""
    parts = [t.inputs[0] for t in terms]
    if tuple(p.inputs[0] if p.name == "reshape" else p for p in parts) not in joins:
        return []
    made: list[Value] = []
    whole = _joined(parts, joins, made)
    made.append(_new("sum", (whole,), ((0,),), terms[0].shape, terms[0].dtype, terms[0].where))
    return made


def _rewrite(root: Value, terms: list[Value], made: list[Value]) -> None:
    """Make `root` the sum of `terms`."""
    total = terms[0]
    for t in terms[1:-1]:
        total = _new("add", (total, t), (), root.shape, root.dtype, root.where)
        made.append(total)
    if len(terms) > 1:
        root.inputs = (total, terms[-1])
        return
    made.remove(total)
    root.row, root.name, root.inputs, root.params = total.row, total.name, total.inputs, total.params
