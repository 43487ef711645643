"""Cheap rewrites, each value looked at once: a program becomes a graph without what costs nothing to remove."""
from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from fanal.core.base.dim import fixed, plain, varies
from fanal.core.base.dtype import ACCUMULATE, int64
from fanal.core.base.dtype import dtype as DType
from fanal.core.base.shape import Shape
from fanal.core.compiler.graph import VIEWS, Graph, Value, split, unset
from fanal.core.compiler.lookups import gather_lookups
from fanal.core.compiler.one_place import one_place
from fanal.core.compiler.regions import assembled, joined
from fanal.core.compiler.sums import gather_sums
from fanal.core.compiler.touched import touch_rows
from fanal.core.ir.program import Node, Program
from fanal.core.ir.row import ROWS

# A reduction of up to _TINY trailing elements over several dimensions (a pooling window), or _TINIEST over one, in at
# least _MANY places, is written out. Shapes alone decide.
_TINY, _TINIEST, _MANY = 64, 8, 16
_SHOWING = (*VIEWS, "alias", "detach")  # what they show of a value is memory as that of the value is
_EXACT = ("max_of", "min_of")  # in whatever order
_STEPS = {"sum": "add", "prod": "mul", "max_of": "max", "min_of": "min"}


def lossless(of: DType, to: DType) -> bool:
    """Tell whether every value of `of` survives in `to`."""
    if of.category == 0:
        return True
    if of.category != to.category or of.category == 3:
        return False
    if of.category == 2:
        return to.itemsize > of.itemsize and of.itemsize >= 2
    return to.itemsize > of.itemsize and (to.is_signed or not of.is_signed)


def _full(shape: Shape, value: object, dtype: DType, where: object) -> Value:
    return Value(ROWS["full"], (), (shape, value, dtype), shape, dtype, where)


def _rewrite(row_name: str, inputs: tuple[Value, ...], node: Node, make: Callable[..., Value]) -> Value | None:
    """Return a simpler value equal to a primitive on `inputs`, or None. The result may be new."""
    if not inputs:
        return None
    x, params, shape = inputs[0], node.params, node.shape
    if node.row.kind == "view":
        if x.name == "full":
            return _full(shape, x.params[1], node.dtype, node.where) if row_name != "pad" else None
        if row_name == "reshape":
            if x.name == "reshape":
                x = x.inputs[0]
            return x if x.shape == shape else Value(node.row, (x,), (shape,), shape, node.dtype, node.where)
        if row_name == "permute":
            dims = params[0]
            if x.name == "permute":
                dims, x = tuple(x.params[0][d] for d in dims), x.inputs[0]
            if dims == tuple(range(len(dims))):
                return x
            return Value(node.row, (x,), (dims,), shape, node.dtype, node.where)
        if row_name == "broadcast":
            if x.shape == shape:
                return x
            if x.name == "broadcast":
                return Value(node.row, (x.inputs[0],), params, shape, node.dtype, node.where)
        return None
    if row_name == "update_slice":
        return assembled(x, inputs[1], params, shape, node.where, make)
    if row_name == "concat":
        return joined(inputs, params[0], shape, node.where, make)
    if row_name == "convert":
        to = params[0]
        if x.name == "full" and not x.dtype.is_complex and not to.is_complex:
            with np.errstate(all="ignore"):
                value = node.row.ref(np.asarray(fixed(x.params[1])).astype(x.dtype.np), to)
            number = value.item() if to.itemsize >= 4 else float(value)
            return _full(shape, number, to, node.where)
        while x.name == "convert" and lossless(x.inputs[0].dtype, x.dtype):
            x = x.inputs[0]
        if x.dtype is to:
            return x
        if x is not inputs[0]:
            return Value(node.row, (x,), params, shape, to, node.where)
    elif row_name == "mul":
        for one, other in ((inputs[1], x), (x, inputs[1])):
            if one.name == "full" and one.params[1] == 1 and other.shape == shape:
                return other
    elif node.row.kind == "reduce" and row_name in ("sum", "prod", "max_of", "min_of"):
        if all(x.shape[d] == 1 for d in params[0]):
            return Value(ROWS["reshape"], (x,), (shape,), shape, node.dtype, node.where) if x.shape != shape else x
        if x.size == 0 and 0 not in shape:
            if row_name in ("sum", "prod"):
                return _full(shape, int(row_name == "prod"), node.dtype, node.where)
    return None


def _tiny(name: str, x: Value, dims: Shape) -> bool:
    """Tell whether a reduction is over a few elements of many places, the last dimension's among them.

    One over the first dimension is over a batch, and that of a single row is none of its own.
    """
    shape = x.shape
    if 0 in dims:
        return False
    real = [d for d in range(len(shape)) if shape[d] != 1]
    gone = [d for d in real if d in dims]
    if not gone or real[-1] != gone[-1] or not x.size or x.dtype.is_complex:
        return False
    r = math.prod(shape[d] for d in gone)
    if r > (_TINY if len(gone) > 1 else _TINIEST):
        return False
    places = x.size // r
    # Only a window over several dimensions has other bits as a kernel for rows.
    return (places if len(gone) > 1 and name not in _EXACT else plain(places)) >= _MANY


def _unrolled(make: Callable[..., Value], name: str, x: Value, n: Node) -> Value:
    """Write a reduction of a few elements as pointwise steps."""
    shape, dims, at = x.shape, n.params[0], n.where
    of, wide = x.dtype, ACCUMULATE.get(x.dtype, x.dtype)
    parts: list[Value] = []
    for spot in np.ndindex(*(fixed(shape[d]) for d in dims)):
        where = dict(zip(dims, spot))
        starts = tuple(where.get(d, 0) for d in range(len(shape)))
        stops = tuple(where[d] + 1 if d in where else k for d, k in enumerate(shape))
        piece = make("slice", (x,), (starts, stops, (1,) * len(shape)), at)
        piece.shares = bool(parts)
        part = make("reshape", (piece,), (n.shape,), at)
        parts.append(part if wide is of else make("convert", (part,), (wide,), at))
    while len(parts) > 1:  # by halves, as the lanes of a vector are: a few have the bits of the kernel for rows
        half = 1 << (len(parts) - 1).bit_length() - 1
        pairs = [make(_STEPS[name], pair, (), at) for pair in zip(parts, parts[half:])]
        parts = pairs + parts[len(pairs):half]
    return parts[0] if wide is of else make("convert", (parts[0],), (of,), at)


def _tiles(n: Node) -> bool:
    """Tell whether the windows of a fold lie side by side."""
    shape, dims, sizes, steps, gaps = n.params
    x = n.inputs[0]
    return all(k == s and (r == 1 or k == 1) for k, s, r in zip(sizes, steps, gaps)) and x.size > 0 and \
        all(shape[d] >= x.shape[d] * k for d, k in zip(dims, sizes))


def _tiled(make: Callable[..., Value], x: Value, n: Node) -> Value:
    """Write a fold of windows side by side as a permutation."""
    shape, dims, sizes, _, _ = n.params
    rank, at = len(shape), n.where
    order: list[int] = []
    joined: list[int] = []
    for d in range(rank):
        order.append(d)
        joined.append(x.shape[d])
        if d in dims:
            k = dims.index(d)
            order.append(rank + k)
            joined[-1] *= sizes[k]
    y = make("reshape", (make("permute", (x,), (tuple(order),), at),), (tuple(joined),), at)
    if tuple(joined) == tuple(shape):
        return y
    return make("pad", (y,), ((0,) * rank, tuple(a - b for a, b in zip(shape, joined)), 0), at)


def _unrolled_extreme(make: Callable[..., Value], name: str, x: Value, n: Node) -> Value:
    """Write argmax or argmin of a few elements as a chain of comparisons."""
    dim, shape, at = n.params[0], x.shape, n.where
    best = index = None
    for k in range(fixed(shape[dim])):
        starts = tuple(k if d == dim else 0 for d in range(len(shape)))
        stops = tuple(k + 1 if d == dim else m for d, m in enumerate(shape))
        piece = make("slice", (x,), (starts, stops, (1,) * len(shape)), at)
        piece.shares = k > 0
        part = make("reshape", (piece,), (n.shape,), at)
        here = make("full", (), ((), k, int64), at)
        if best is None or index is None:
            best, index = part, here
            continue
        better = make("lt", (best, part) if name == "argmax" else (part, best), (), at)
        if x.dtype.is_floating_point:  # the first NaN wins
            nan = make("not", (make("eq", (part, part), (), at),), (), at)
            first = make("and", (nan, make("eq", (best, best), (), at)), (), at)
            better = make("or", (better, first), (), at)
        best, index = make("where", (better, part, best), (), at), make("where", (better, here, index), (), at)
    assert index is not None
    return index if index.shape == n.shape else make("broadcast", (index,), (n.shape,), at)


def _swaps(dims: Shape) -> bool:
    """Tell whether a permutation exchanges the last two dimensions only."""
    n = len(dims)
    return dims == (*range(n - 2), n - 1, n - 2)


def _first_extreme(make: Callable[..., Value], name: str, x: Value, n: Node) -> Value:
    """Write argmax or argmin as the least index that holds the extreme value or NaN."""
    dim = n.params[0]
    at = n.where
    if x.shape[dim] == 1:
        return make("full", (), (n.shape, 0, int64), at)
    if x.shape[dim] <= _TINY and x.size // x.shape[dim] >= _MANY:
        return _unrolled_extreme(make, name, x, n)
    best = make("max_of" if name == "argmax" else "min_of", (x,), ((dim,),), at)
    kept = tuple(1 if d == dim else k for d, k in enumerate(x.shape))
    hit = make("eq", (x, make("reshape", (best,), (kept,), at)), (), at)
    if x.dtype.is_floating_point:
        hit = make("or", (hit, make("not", (make("eq", (x, x), (), at),), (), at)), (), at)
    index = make("iota", (), (x.shape, dim, int64), at)
    none = make("full", (), ((), x.shape[dim], int64), at)
    return make("min_of", (make("where", (hit, index, none), (), at),), ((dim,),), at)


def _masked_pool(make: Callable[..., Value], inputs: tuple[Value, ...], n: Node,
                 seen: dict[object, Value]) -> Value | None:
    """Mask the gradient of a max pooling before it is spread, where that can be told from the maxima, as after ReLU.

    An element that gets any gradient is a maximum, so `x <= 0` there is `y <= 0` of the window.
    """
    mask, zero, spread = inputs
    if spread.name != "max_pool_dx" or mask.name != "le" or zero.name != "full" or zero.params[1] != 0:
        return None
    (g, x), (high, low) = spread.inputs, mask.inputs
    y = seen.get(("max_pool", id(x), spread.params, x.dtype))
    if y is None or high is not x or low.name != "full" or low.size != 1:
        return None
    inside = make("where", (make("le", (y, low), (), n.where), zero, g), (), n.where)
    return make("max_pool_dx", (inside, x), spread.params, spread.where)


def simplify(program: Program) -> Graph:
    """Return the graph of a program: no tape, no chains of views, nothing twice, nothing dead."""
    place: dict[int, Value] = {}
    given: list[Value] = []
    order: list[Value] = []
    for n in program.inputs:
        v = place.get(id(n))
        if v is None:
            v = place[id(n)] = Value(None, (), (), n.shape, n.dtype, n.where)
        given.append(v)
    seen: dict[object, Value] = {}

    def known(n: Node) -> Value:
        v = place[id(n)] = Value(None, (), (), n.shape, n.dtype, n.where)
        v.known = n.buffer
        order.append(v)
        return v

    def make(name: str, inputs: tuple[Value, ...], params: tuple, where: object) -> Value:
        row = ROWS[name]
        v = Value(row, inputs, params, row.shape(inputs, params), row.dtype(inputs, params), where)
        v.id = -2
        order.append(v)
        return v

    def zeros(x: Node | Value) -> Value:
        return make("full", (), (x.shape, 0, x.dtype), x.where)

    def swapped(x: Value, where: object) -> Value:
        dims = (*range(len(x.shape) - 2), len(x.shape) - 1, len(x.shape) - 2)
        if x.name == "permute":
            dims, x = tuple(x.params[0][d] for d in dims), x.inputs[0]
            if dims == tuple(range(len(dims))):
                return x
        return make("permute", (x,), (dims,), where)

    uses: dict[int, int] = {}
    for n in program.nodes:
        for i in n.inputs:
            uses[id(i)] = uses.get(id(i), 0) + 1
    for o in program.outputs:
        uses[id(o)] = uses.get(id(o), 0) + 1
    for n in program.nodes:
        if id(n) in place:
            continue
        if n.buffer is not None:
            known(n)
            continue
        inputs = tuple([place.get(id(i)) or known(i) for i in n.inputs])
        row = n.row
        if unset(n) or any(map(unset, inputs)):
            memory = not inputs or (row.name in _SHOWING and unset(inputs[0]))
            if memory and uses.get(id(n)) == 1:  # nobody reads it here: it may stay as it is
                place[id(n)] = make("full", (), (n.shape, None, n.dtype), n.where)
                continue
            if not inputs:  # zeros, for all who read it
                place[id(n)] = zeros(n)
                continue
            inputs = tuple([zeros(i) if unset(i) else i for i in inputs])
        if row.kind == "tape":
            place[id(n)] = inputs[0]
            continue
        if inputs and n.size == 0 and row.kind not in ("opaque", "index"):
            place[id(n)] = zeros(n)  # what nobody else reads is not computed
            continue
        if row.name in ("argmax", "argmin") and inputs[0].size and not inputs[0].dtype.is_complex:
            place[id(n)] = _first_extreme(make, row.name, inputs[0], n)
            continue
        if row.name == "permute" and inputs[0].name == "dot" and uses.get(id(n.inputs[0])) == 1 \
                and _swaps(n.params[0]):
            a, b = inputs[0].inputs  # (a b)^T = b^T a^T, the same products in the same order
            v = make("dot", (swapped(b, n.where), swapped(a, n.where)), inputs[0].params, inputs[0].where)
            v.split = inputs[0].split and inputs[0].split.turned()
            place[id(n)] = v
            continue
        if row.name in _STEPS and _tiny(row.name, inputs[0], n.params[0]):
            place[id(n)] = _unrolled(make, row.name, inputs[0], n)
            continue
        if row.name == "where" and uses.get(id(n.inputs[2])) == 1 \
                and (v := _masked_pool(make, inputs, n, seen)) is not None:
            place[id(n)] = v
            continue
        if row.name == "fold" and _tiles(n):
            place[id(n)] = _tiled(make, inputs[0], n)
            continue
        v = _rewrite(row.name, inputs, n, make)
        if v is not None and v.id == -2:  # an existing value
            place[id(n)] = v
            continue
        if v is None:
            v = Value(row, inputs, n.params, n.shape, n.dtype, n.where)
            if row.name == "dot":
                v.split = split(*inputs)
        elif v in inputs or v.row is None:
            place[id(n)] = v
            continue
        if row.kind != "opaque":
            text = v.name in ("full", "pad") and not varies(v.params)  # 0.0 is not -0.0
            params: object = repr(v.params) if text else v.params
            key = (v.name, *map(id, v.inputs), params, v.dtype)
            try:
                twin = seen.setdefault(key, v)
            except TypeError:  # an unhashable parameter
                twin = v
            if twin is not v:
                place[id(n)] = twin
                continue
        v.id = -2
        place[id(n)] = v
        order.append(v)
    outputs = [place.get(id(o)) or known(o) for o in program.outputs]
    for rewrite in (gather_sums, gather_lookups, touch_rows, one_place):
        order = rewrite(_alive(order, outputs), outputs)
    return Graph(given, _alive(order, outputs), outputs, dict(program.writes))


def _alive(order: list[Value], outputs: list[Value]) -> list[Value]:
    alive = set(outputs)
    for v in reversed(order):
        if v in alive:
            alive.update(v.inputs)
    return [v for v in order if v in alive]
