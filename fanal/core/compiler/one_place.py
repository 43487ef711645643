"""Where a program goes on with one place of a dimension, what leads there and back is computed for that place alone.

A classifier that reads the class token, or a language model that reads the last one, needs of its last block one row
of every sequence. Slices move ahead of what is done row by row; and a gradient that is zero but for one place is
followed through what keeps it so. The numbers are those of all rows, to the bit: what is left out adds zeros.
"""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fanal.core.base.dim import varies
from fanal.core.base.dtype import int64
from fanal.core.base.shape import Shape
from fanal.core.compiler.graph import REDUCES, Value
from fanal.core.compiler.loopir import column_block
from fanal.core.ir.row import ROWS

Region = tuple[int, int, int, int]  # place `at` of n in a buffer seen as (outer, n, inner): outer, n, inner, at
Cut = tuple[int, int, int, int]  # the same of a shape: dimension, start, stop, step
_ALL: Region = (1, 1, 1, 0)
_QUERIES = -1  # `outer` of a region of attention's result, which lies flat: a query, in both of its parts
_LINEAR = ("neg", "convert", "mul", "div", "add", "sub")  # what is zero where an operand is, or where both are


def one_place(order: list[Value], outputs: Sequence[Value]) -> list[Value]:
    """Compute one place where no other is needed. Enters and leaves: values in an order that respects use.

    Shapes and uses decide; no bit depends on it.
    """
    spread = any(_spread(v) for v in order)
    if not spread:
        uses = Counter(i for v in order for i in v.inputs)
        if not any(v.name == "slice" and v.inputs[0].row and uses[v.inputs[0]] == 1 and _cut(v) for v in order):
            return order
    if any(varies(v.shape) for v in order):
        return order
    if spread:
        order = _Gradients().rewritten(order)
    return _Values().rewritten(order, outputs)


def region_of(shape: Shape, cut: Cut) -> Region | None:
    """Return what a cut of a shape is in memory, None if that is no one place."""
    d, start, stop, step = cut
    n, outer, inner = shape[d], math.prod(shape[:d]), math.prod(shape[d + 1:])
    if step > 1 and n % step == 0 and start < step and (stop - 1 - start) // step + 1 == n // step:
        return outer * (n // step), step, inner, start
    count = stop - start
    if step == 1 and 0 < count < n and n % count == 0 and start % count == 0:
        return outer, n // count, count * inner, start // count
    return None


def along(shape: Shape, region: Region) -> Cut | None:
    """Return the cut of a shape that is a region, None if there is none."""
    _, n, inner, at = region
    below = 1
    for d in reversed(range(len(shape))):
        m = shape[d]
        if m > 1 and m % n == 0:
            if below == inner:
                return d, at, m, n
            many = m // n
            if below * many == inner:
                return d, at * many, (at + 1) * many, 1
        below *= m
    return None


def _few(shape: Shape, cut: Cut) -> Shape:
    """Return the shape of a cut."""
    d, start, stop, step = cut
    return (*shape[:d], -(-(stop - start) // step), *shape[d + 1:])


def _cut_of(shape: Shape, starts: Shape, stops: Shape, steps: Shape) -> Region | None:
    cut = [d for d, n in enumerate(shape) if starts[d] or stops[d] != n or steps[d] != 1]
    return region_of(shape, (cut[0], starts[cut[0]], stops[cut[0]], steps[cut[0]])) if len(cut) == 1 else None


def _cut(v: Value) -> Region | None:
    """Return the place that a slice shows."""
    return _cut_of(v.inputs[0].shape, *v.params)


def _spread(v: Value) -> tuple[Region, Value] | None:
    """Return where a value is not zero by construction, and what it is there."""
    if v.name == "update_slice" and v.inputs[0].name == "full" and v.inputs[0].params[1] == 0:
        region, z = _cut_of(v.shape, *v.params), v.inputs[1]
    elif v.name == "pad" and v.params[2] == 0:
        z, low = v.inputs[0], v.params[0]
        region = _cut_of(v.shape, low, tuple(a + n for a, n in zip(low, z.shape)), (1,) * len(low))
    else:
        return None
    cut = along(v.shape, region) if region else None
    return (region, z) if region and cut and _few(v.shape, cut) == z.shape else None


def _become(v: Value, name: str, inputs: tuple[Value, ...], params: tuple) -> None:
    v.row, v.name, v.inputs, v.params = ROWS[name], name, inputs, params


class _Rewrite:
    """Makes values, and cuts of values once each."""

    def __init__(self) -> None:
        self.order: list[Value] = []
        self.cuts: dict[tuple[Value, Cut], Value] = {}

    def make(self, name: str, inputs: tuple[Value, ...], params: tuple, like: Value) -> Value:
        row = ROWS[name]
        v = Value(row, inputs, params, row.shape(inputs, params), row.dtype(inputs, params), like.where)
        v.split = like.split
        self.order.append(v)
        return v

    def part(self, x: Value, cut: Cut) -> Value:
        """Return a cut of `x`."""
        if (x, cut) not in self.cuts:
            d, start, stop, step = cut
            zeros, ones = [0] * len(x.shape), [1] * len(x.shape)
            starts, stops, steps = ([*old[:d], new, *old[d + 1:]]
                                    for old, new in ((zeros, start), (x.shape, stop), (ones, step)))
            self.cuts[x, cut] = self.make("slice", (x,), (tuple(starts), tuple(stops), tuple(steps)), x)
        return self.cuts[x, cut]


def _onto(x: Value, v: Value, cut: Cut) -> Cut | None:
    """Return a cut of a pointwise result as one of its operand, None where that repeats along it."""
    d = cut[0] - (len(v.shape) - len(x.shape))
    return (d, *cut[1:]) if d >= 0 and x.shape[d] == v.shape[cut[0]] else None


class _Gradients(_Rewrite):
    """Follows values that are zero but for one place forward through a program."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[Value, tuple[Region, Value]] = {}
        self.changes: list[tuple[Value, str, tuple[Value, ...], tuple]] = []
        self.masks: dict[Region, Value] = {}
        self.saved = False  # a product became smaller

    def rewritten(self, order: list[Value]) -> list[Value]:
        for v in order:
            found = _spread(v)
            if found:
                self.note(v, *found)
            elif any(i in self.known for i in v.inputs):
                self.follow(v)
            self.order.append(v)
        if not self.saved:
            return order
        for change in self.changes:
            _become(*change)
        return self.order

    def note(self, v: Value, region: Region, z: Value) -> None:
        """Note that `v` is `z` at one place and zero elsewhere, and make it so for whoever needs all of it."""
        self.known[v] = region, z
        outer, n, inner, at = region
        if region not in self.masks:
            place = self.make("iota", (), ((n, 1), 0, int64), v)
            self.masks[region] = self.make("eq", (place, self.make("full", (), ((), at, int64), v)), (), v)
        zero = self.make("full", (), ((), 0, v.dtype), v)
        z = self.make("reshape", (z,), ((outer, 1, inner),), v)
        self.changes.append((v, "reshape", (self.make("where", (self.masks[region], z, zero), (), v),), (v.shape,)))

    def at(self, v: Value) -> Cut | None:
        """Return where `v` is not zero; None if it is not known to be zero anywhere."""
        return along(v.shape, self.known[v][0]) if v in self.known else None

    def part(self, x: Value, cut: Cut) -> Value:
        return self.known[x][1] if self.at(x) == cut else super().part(x, cut)

    def follow(self, v: Value) -> None:
        if v.name in _LINEAR:
            self.point(v)
        elif v.name == "sum":
            self.sum(v)
        elif v.name == "dot":
            self.dot(v)
        elif v.name == "attention_grad":
            self.attention(v)
        elif v.name == "reshape":
            region, z = self.known[v.inputs[0]]
            cut = along(v.shape, region)
            if cut:
                self.note(v, region, self.make("reshape", (z,), (_few(v.shape, cut),), v))
        elif v.name == "permute":
            d, *rest = self.at(v.inputs[0])  # type: ignore[misc]
            self.result(v, (v.params[0].index(d), *rest), (self.known[v.inputs[0]][1],))  # type: ignore[arg-type]

    def result(self, v: Value, cut: Cut, inputs: tuple[Value, ...]) -> None:
        """Note that `v` is zero outside a cut, and there what it makes of `inputs`."""
        region = region_of(v.shape, cut)
        if region and along(v.shape, region) == cut:
            self.note(v, region, self.make(v.name, inputs, v.params, v))

    def point(self, v: Value) -> None:
        cuts = []
        for x in v.inputs:
            at = self.at(x)
            at = at and (at[0] + len(v.shape) - len(x.shape), *at[1:])
            cuts.append(at if at and x.shape[at[0] - len(v.shape)] == v.shape[at[0]] else None)
        cut = next((c for c in cuts if c), None)
        if not cut or (v.name in ("add", "sub") and cuts != [cut, cut]) or (v.name == "div" and not cuts[0]):
            return
        if v.name == "div" and cuts[1]:
            return
        parts = [(x, _onto(x, v, cut)) for x in v.inputs]
        self.result(v, cut, tuple(self.part(x, own) if own else x for x, own in parts))

    def sum(self, v: Value) -> None:
        x, dims = v.inputs[0], v.params[0]
        (outer, n, inner, _), z = self.known[x]
        d, *rest = self.at(x)  # type: ignore[misc]
        if d < min(dims):
            self.result(v, (d - sum(k < d for k in dims), *rest), (z,))  # type: ignore[arg-type]
        elif d in dims and dims == tuple(range(len(dims))) and len(dims) < len(x.shape) and inner == v.size:
            # In every block of the sum there is at most one row, and one block of all those rows.
            if outer == 1:
                self.changes.append((v, "reshape", (z,), (v.shape,)))
            elif n >= column_block(outer * n) and outer <= column_block(outer):
                self.changes.append((v, "sum", (z,), v.params))

    def dot(self, v: Value) -> None:
        last = len(v.shape) - 1
        for side, x in enumerate(v.inputs):
            cut = self.at(x)
            if not cut:
                continue
            other = v.inputs[1 - side]
            z, d = self.known[x][1], cut[0]
            summed = d == (last - 1 if side else last)
            if summed and v.split and not v.split.few:
                return  # its sums are not in order: numbers would meet others
            if summed:
                other = self.part(other, (last if side else last - 1, *cut[1:]))
            elif d < last - 1:
                if x.shape[d] != v.shape[d]:
                    continue
                other = self.part(other, cut) if other.shape[d] != 1 else other
            inputs = (other, z) if side else (z, other)
            self.saved = True
            if summed:
                self.changes.append((v, "dot", inputs, v.params))
            else:
                self.result(v, cut, inputs)
            return

    def attention(self, v: Value) -> None:
        """Write the gradients by one query's result as products, which give the same bits."""
        q, k, w, stats, g, *mask = v.inputs
        scale, causal = v.params
        cut = self.at(g)
        b, h, n, d = q.shape
        if mask or not cut or cut[0] != 2 or _few(g.shape, cut)[2] != 1 or (causal and cut[1] != n - 1) \
                or any(x in self.known for x in (q, k, w, stats)):
            return
        make = self.make
        q, stats, g = self.part(q, cut), self.part(stats, cut), self.known[g][1]

        def turned(x: Value) -> Value:
            return make("permute", (x,), ((0, 1, 3, 2),), v)

        def stat(i: int) -> Value:
            return make("slice", (stats,), ((0, 0, 0, i), (b, h, 1, i + 1), (1,) * 4), v)

        by = make("full", (), ((), scale, q.dtype), v)
        s = make("mul", (make("dot", (q, turned(k)), (), v), by), (), v)
        y = make("div", (make("exp", (make("sub", (s, stat(0)), (), v),), (), v), stat(1)), (), v)
        p = make("mul", (make("dot", (g, turned(w)), (), v), y), (), v)
        total = make("reshape", (make("sum", (p,), ((3,),), v),), ((b, h, 1, 1),), v)
        ds = make("mul", (make("sub", (p, make("mul", (y, total), (), v)), (), v), by), (), v)
        one = make("dot", (ds, k), (), v)
        place = make("eq", (make("iota", (), ((n, 1), 0, int64), v), make("full", (), ((), cut[1], int64), v)), (), v)
        dq = make("where", (place, one, make("full", (), ((), 0, q.dtype), v)), (), v)
        parts = (dq, make("dot", (turned(ds), q), (), v), make("dot", (turned(y), g), (), v))
        shape = (b, n, 1, h, d)
        lying = [make("reshape", (make("permute", (x,), ((0, 2, 1, 3),), v),), (shape,), v) for x in parts]
        self.saved = True
        self.changes.append((v, "concat", tuple(lying), (2,)))


class _Values(_Rewrite):
    """Finds values of which one place is read, going back, and computes that."""

    def rewritten(self, order: list[Value], outputs: Sequence[Value]) -> list[Value]:
        wanted: dict[Value, Region] = dict.fromkeys(outputs, _ALL)
        of: dict[Value, list[Region]] = {}  # what a value of which one place is computed needs of its inputs
        for v in reversed(order):
            need = wanted.get(v, _ALL)
            needs = _needs(v, need) if need != _ALL else None
            if needs:
                of[v] = needs
            else:
                needs = [(v.name == "slice" and _cut(v)) or _ALL] * len(v.inputs)
            for i, region in zip(v.inputs, needs):
                wanted[i] = region if wanted.get(i, region) == region else _ALL
        for v in order:  # of an attention that is computed as a whole, no place can be cut where the result lies flat
            if v in of and any(r != _ALL and i not in of and along(i.shape, r) is None
                               for i, r in zip(v.inputs, of[v])):
                del of[v]
        if not any(v.row and v.row.kind in ("contract", "reduce") for v in of):
            return order
        few: dict[Value, Value] = {}
        for v in order:
            if v in of:
                inputs = [few.get(i) or (i if r == _ALL else self.part(i, _known(along(i.shape, r))))
                          for i, r in zip(v.inputs, of[v])]
                few[v] = self.make(v.name, tuple(inputs), _params(v, wanted[v], inputs), v)
                continue
            if v.name == "slice" and v.inputs[0] in few:
                _become(v, "reshape", (few[v.inputs[0]],), (v.shape,))
            self.order.append(v)
        return self.order


def _known(cut: Cut | None) -> Cut:
    assert cut is not None
    return cut


def _query(region: Region, attention: Value, start: int) -> int | None:
    """Return which query a place in a part of attention's result, from `start` on, belongs to."""
    b, h, n, d = attention.inputs[0].shape
    outer, places, inner, at = region
    want = (b, n, h * d) if start == 0 else (b * h, n, 2)
    return at if (outer, places, inner) == want else None


def _needs(v: Value, region: Region) -> list[Region] | None:
    """Return what a place of `v` needs of its inputs; None where it needs more than one place of each."""
    if v.row is None or not v.inputs:
        return None
    x = v.inputs[0]
    if v.name == "attention":
        q = v.inputs[0].shape
        outer, _, _, at = region
        if outer != _QUERIES or len(v.inputs) > 3 or (v.params[1] and at != q[2] - 1):
            return None
        return [(q[0] * q[1], q[2], q[3], at), _ALL, _ALL]
    if v.name == "slice" and x.name == "attention":
        query = _query(region, x, v.params[0][0])
        return None if query is None else [(_QUERIES, x.inputs[0].shape[2], -1, query)]
    cut = along(v.shape, region)
    if cut is None:
        return None
    d, *rest = cut
    needs: list[Region | None]
    if v.row.kind == "point":
        needs = []
        for i in v.inputs:
            own = _onto(i, v, cut)
            needs.append(region_of(i.shape, own) if own else _ALL)
    elif v.name in REDUCES:
        if d >= min(v.params[0]):
            return None  # one column is summed in another order than many
        kept = [k for k in range(len(x.shape)) if k not in v.params[0]]
        needs = [region_of(x.shape, (kept[d], *rest))]  # type: ignore[arg-type]
    elif v.name == "dot":
        last = len(v.shape) - 1
        needs = [region_of(i.shape, cut) if d in (own, *range(last - 1)) and i.shape[d] == v.shape[d] else _ALL
                 for i, own in zip(v.inputs, (last - 1, last))]
    elif v.name == "permute":
        needs = [region_of(x.shape, (v.params[0][d], *rest))]  # type: ignore[arg-type]
    elif v.name == "reshape":
        flat = x.name == "slice" and x.inputs[0].name == "attention"
        needs = [region if flat or along(x.shape, region) else None]
    else:
        return None
    return None if None in needs else needs  # type: ignore[return-value]


def _params(v: Value, region: Region, inputs: Sequence[Value]) -> tuple[Any, ...]:
    """Return the parameters with which one place of `v` is computed."""
    if v.name == "attention":
        return v.params[0], False
    if v.name == "slice":
        whole, out = inputs[0].size, inputs[0].inputs[0].size
        low, high = (0, out) if v.params[0][0] == 0 else (out, whole)
        return (low,), (high,), (1,)
    if v.name == "reshape":
        return (_few(v.shape, _known(along(v.shape, region))),)
    return v.params
