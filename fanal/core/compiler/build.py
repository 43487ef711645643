"""Groups to loops: every view becomes an affine index, and expressions are written out at the index they are used."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fanal.core.base import dtype as dt
from fanal.core.base.dim import Dim
from fanal.core.base.shape import Shape, contiguous_strides
from fanal.core.compiler.bounds import in_range
from fanal.core.compiler.graph import READS, Value, base
from fanal.core.compiler.loopir import Access, Loop, Op, collapse
from fanal.core.ir.row import ROWS

if TYPE_CHECKING:
    from fanal.core.compiler.fuse import Group

# An index along one dimension of a value: a constant plus (loop dimension, factor) terms.
Index = tuple[int, tuple[tuple[int, int], ...]]
Map = tuple[Index, ...]
ZERO: Index = (0, ())
NOT_ZERO = 0  # in place of a dimension's size: what is checked is a divisor
# Constants that become part of a kernel's text; others are passed to it. As text, since 0.0 == -0.0.
WRITTEN = frozenset(("0", "0.0", "1", "1.0", "-1", "-1.0", "2", "2.0", "0.5", "-0.5", "inf", "-inf", "True", "False"))


def written(value: Any, dtype: dt.dtype) -> bool:
    """Tell whether a number becomes part of a kernel's text."""
    return type(value) is not Dim and (dtype is dt.bool_ or str(value) in WRITTEN)


class Split(Exception):
    """Loop dimension `dim` must be cut so that its lower part has `size`."""

    def __init__(self, dim: int, size: int) -> None:
        self.dim, self.size = dim, size


class Unmappable(Exception):
    """`value` cannot be indexed from where it is used: it must have a buffer, written by a kernel of its own."""

    def __init__(self, value: Value) -> None:
        self.value = value


def _scaled(e: Index, by: int) -> Index:
    return (e[0] * by, tuple((d, c * by) for d, c in e[1]))


def _sum(parts: Sequence[Index]) -> Index:
    total = 0
    terms: dict[int, int] = {}
    for constant, more in parts:
        total += constant
        for d, c in more:
            terms[d] = terms.get(d, 0) + c
    return total, tuple(sorted((d, c) for d, c in terms.items() if c))


def reshape_map(at: Map, shape: Shape, to: Shape, sizes: list[int]) -> Map:
    """Return the index into `to` of the element at index `at` of `shape`.

    Raises Split when a loop dimension has to be cut first, ValueError when the index is not affine.
    """
    out: list[Index] = []
    i = j = 0
    while i < len(shape) or j < len(to):
        a, b, m, n = i, j, 1, 1
        while True:  # the shortest runs of dimensions with equal products
            if i < len(shape) and (m <= n or j >= len(to)):
                m *= shape[i]
                i += 1
            else:
                n *= to[j]
                j += 1
            if m == n:
                break
        if i - a == 1 and j - b == 1:
            out.append(at[a])
            continue
        steps = contiguous_strides(shape[a:i])
        flat = _sum([_scaled(e, s) for e, s in zip(at[a:i], steps)])
        out += _cut(flat, to[b:j], sizes)
    return tuple(out)


def _cut(flat: Index, shape: Shape, sizes: list[int]) -> list[Index]:
    """Write a flattened index as one index per dimension of `shape`."""
    out: list[Index] = []
    for n in reversed(shape[1:]):
        if n == 1:
            out.append(ZERO)
            continue
        up: list[tuple[int, int]] = []
        low: list[tuple[int, int]] = []
        for d, c in flat[1]:
            if c % n == 0:
                up.append((d, c // n))
            else:
                low.append((d, c))
        constant = flat[0] % n
        least = constant + sum(c * (sizes[d] - 1) for d, c in low if c < 0)
        most = constant + sum(c * (sizes[d] - 1) for d, c in low if c > 0)
        if least < 0 or most + 1 > n:
            for d, c in low:
                if c > 0 and n % c == 0 and sizes[d] > n // c and sizes[d] % (n // c) == 0:
                    raise Split(d, n // c)
            raise ValueError("not affine")
        out.append((constant, tuple(low)))
        flat = (flat[0] // n, tuple(up))
    out.append(flat if shape else ZERO)
    out.reverse()
    return out[len(out) - len(shape):]


def through(v: Value, at: Map, sizes: list[int]) -> Map:
    """Return the index into the input of a view for index `at` into its result."""
    x = v.inputs[0]
    name = v.name
    if name == "reshape":
        try:
            found = reshape_map(at, v.shape, x.shape, sizes)
        except ValueError:
            raise Unmappable(x) from None
    elif name == "broadcast":
        found = at[len(at) - len(x.shape):]
    elif name == "permute":
        spots: list[Index] = [ZERO] * len(at)
        for e, d in zip(at, v.params[0]):
            spots[d] = e
        found = tuple(spots)
    elif name == "slice":
        starts, _, steps = v.params
        found = tuple((a + e[0] * s, tuple((d, c * s) for d, c in e[1])) for e, a, s in zip(at, starts, steps))
    elif name == "flip":
        dims = v.params[0]
        found = tuple((n - 1 - e[0], tuple((d, -c) for d, c in e[1])) if k in dims else e
                      for k, (e, n) in enumerate(zip(at, x.shape)))
    else:  # window
        dims, _, steps, gaps = v.params
        spots = list(at[:len(x.shape)])
        for k, (d, s, r) in enumerate(zip(dims, steps, gaps)):
            spots[d] = _sum([_scaled(spots[d], s), _scaled(at[len(x.shape) + k], r)])
        found = tuple(spots)
    return tuple([ZERO if n == 1 else e for e, n in zip(found, x.shape)])


def _merged(v: Value) -> list[int]:
    """Return the sizes of a reduction's dimensions, neighbours as one: how it runs over a buffer."""
    sizes: list[int] = []
    last = -2
    place = 0
    for d, n in enumerate(v.inputs[0].shape):
        if n == 1:
            continue
        if d in v.params[0]:
            if last == place - 1:
                sizes[-1] *= n
            else:
                sizes.append(n)
            last = place
        place += 1
    return sizes or [1]


class Builder:
    """Builds the loop of one group."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.ops: list[Op] = []
        self.loads: list[Access] = []
        self.load_of: dict[tuple, int] = {}
        self.memo: dict[tuple, int] = {}
        self.of_root: dict[Value, int] = {}
        self.where: dict[object, None] = {}
        self.names: list[str] = []
        self.flops = 0
        self.checks: list[tuple[Value, int]] = []  # index and size of a dimension, or divisor and NOT_ZERO

    def loop(self) -> Loop:
        """Return the group's loop, cutting loop dimensions until every index is affine."""
        outer, reduced, inner = self._domain()
        while True:
            self.sizes = [*outer, *reduced, *inner]
            try:
                return self._checked(self._loop(outer, reduced, inner))
            except Split as cut:
                d = cut.dim
                for part in (outer, reduced, inner):
                    if d < len(part):
                        part[d:d + 1] = [part[d] // cut.size, cut.size]
                        break
                    d -= len(part)
                self.__init__(self.group)  # type: ignore[misc]

    def _checked(self, loop: Loop) -> Loop:
        """Return the loop if its reduction tree is the one that its shape alone decides.

        A gather, a broadcast or a cut may keep reduced dimensions apart that otherwise run as one; then the tree, and
        with it the last bits, would depend on what is fused. Raises Unmappable: such an operand gets a buffer first,
        and what is stored beside the reduction a kernel of its own.
        """
        for v in self.group.roots:
            if v.role == "begun" and len(loop.reduced) != 1:
                raise Unmappable(v)
            if v.role == "reduce" and loop.reduced != _merged(v):
                for culprit in (v.inputs[0], *self.group.roots):
                    if not base(culprit).root or (culprit.role == "inline" and culprit.root and not culprit.forced
                                                  and culprit in self.group.roots):
                        raise Unmappable(culprit)
        return loop

    def _domain(self) -> tuple[list[int], list[int], list[int]]:
        g = self.group
        if g.kind == "loop":
            shape = max((v.shape for v in g.roots), key=lambda s: sum(n != 1 for n in s))
            return [n for n in shape if n != 1], [], []
        v = next((v for v in g.roots if v.role == "reduce"), None)
        if v is None and any(v.role == "begun" for v in g.roots):
            return [g.domain[0]], [g.domain[1]], []
        if v is None:  # a row group whose reductions went elsewhere
            return list(g.domain), [], []
        shape, dims = v.inputs[0].shape, v.params[0]
        real = [d for d in range(len(shape)) if shape[d] != 1]
        outer = [shape[d] for d in real if d not in dims]
        reduced = [shape[d] for d in real if d in dims]
        last = max(d for d in real if d in dims)
        trailing = [shape[d] for d in real if d > last]
        return outer[:len(outer) - len(trailing)], reduced, trailing

    def _whole(self, dims: range) -> tuple[Map, Shape]:
        return tuple((0, ((d, 1),)) for d in dims), tuple(self.sizes[d] for d in dims)

    def _loop(self, outer: list[int], reduced: list[int], inner: list[int]) -> Loop:
        g = self.group
        a, b = len(outer), len(outer) + len(reduced)
        kept = [*range(a), *range(b, len(self.sizes))]
        size = math.prod(self.sizes)
        row_map: Map = tuple((0, ((d, 1),)) for d in kept)
        row_shape = tuple(self.sizes[d] for d in kept)
        stores: list[tuple[int, Access]] = []
        for v in g.roots:
            try:
                at, spots = self._place(v, a, b, row_map, row_shape, size)
            except ValueError:  # its shape and the others' cut the same elements differently
                raise Unmappable(v) from None
            if v.role in ("reduce", "begun"):
                x = v.inputs[0]
                source = self.value(x, self._ones(tuple(spots), x.shape))
                self.of_root[v] = self._op("reduce" if v.role == "reduce" else "begin", (source,), v.name, v.dtype)
                self.flops += x.size
            else:
                self.of_root[v] = self.expression(v, self._ones(at, v.shape))
            self.note(v)
            if v.lies:
                into, offset, strides = v.lies
                first, steps = self._strides(strides, at)
                stores.append((self.of_root[v], Access(into.id, v.dtype, offset + first, steps)))
            elif v.output or v.outside:
                stores.append((self.of_root[v], Access(v.id, v.dtype, *self._strides(contiguous_strides(v.shape), at))))
        form = "columns" if inner else "rows"
        loop = Loop(form, outer.copy(), reduced.copy(), inner.copy(), self.ops, self.loads, stores,
                    "+".join(self.names[-12:]), list(self.where), self.flops)
        loop.of_blocks = any(v.inputs[0].role == "begun" for v in g.roots if v.role == "reduce")
        collapse(loop)
        return loop

    def _place(self, v: Value, a: int, b: int, row_map: Map, row_shape: Shape, size: int) -> tuple[Map, list[Index]]:
        """Return the index into a root, and into the operand of a reduction, from the loop dimensions."""
        kind = self.group.kind
        full, shape = self._whole(range(len(self.sizes)))
        if v.role == "begun":  # all rows of a block add to one row of sums
            columns = reshape_map(*self._whole(range(a, b)), v.shape[1:], self.sizes)
            return (ZERO, *columns), list(reshape_map(full, shape, v.inputs[0].shape, self.sizes))
        if v.role == "reduce":
            return (reshape_map(row_map, row_shape, v.shape, self.sizes),
                    self._reduce_map(v.inputs[0], v.params[0], a, b))
        if kind == "reduce" or (kind == "row" and v.size != size):
            return reshape_map(row_map, row_shape, v.shape, self.sizes), []
        return reshape_map(full, shape, v.shape, self.sizes), []

    @staticmethod
    def _ones(at: Map, shape: Shape) -> Map:
        return tuple([ZERO if n == 1 else e for e, n in zip(at, shape)])

    def _reduce_map(self, x: Value, dims: Shape, a: int, b: int) -> list[Index]:
        """Return the index into the operand of a reduction: kept runs from outer and inner, the rest from reduced."""
        shape = x.shape
        kept = [d for d in range(len(shape)) if d not in dims]
        gone = [d for d in range(len(shape)) if d in dims]
        outer_inner = [*range(a), *range(b, len(self.sizes))]
        spots: list[Index] = [ZERO] * len(shape)
        for which, loops in ((kept, outer_inner), (gone, list(range(a, b)))):
            at: Map = tuple((0, ((d, 1),)) for d in loops)
            found = reshape_map(at, tuple(self.sizes[d] for d in loops), tuple(shape[d] for d in which), self.sizes)
            for d, e in zip(which, found):
                spots[d] = ZERO if shape[d] == 1 else e
        return spots

    def note(self, v: Value) -> None:
        if v.where is not None:
            self.where[v.where] = None

    def _op(self, kind: str, args: tuple[int, ...], params: object, dtype: dt.dtype) -> int:
        self.ops.append(Op(kind, args, params, dtype))
        return len(self.ops) - 1

    def _strides(self, strides: Sequence[int], at: Map) -> tuple[int, tuple[int, ...]]:
        """Return (offset, stride per loop dimension) of an index into a buffer."""
        steps = [0] * len(self.sizes)
        offset = 0
        for e, s in zip(at, strides):
            offset += e[0] * s
            for d, c in e[1]:
                steps[d] += c * s
        return offset, tuple(steps)

    def _load(self, v: Value, shape: Shape, at: Map, extra: tuple[tuple[int, int], ...] = ()) -> int:
        offset, steps = self._strides(contiguous_strides(shape), at)
        key = (v.id, offset, steps, extra)
        found = self.load_of.get(key)
        if found is None:
            self.loads.append(Access(v.id, v.dtype, offset, steps, extra))
            found = self.load_of[key] = self._op("load", (), len(self.loads) - 1, v.dtype)
        return found

    def value(self, v: Value, at: Map) -> int:
        """Return the op of `v` at an index."""
        own = self.of_root.get(v)
        if own is not None:
            return own
        if v.root:
            return self._load(v, v.shape, at)
        if v.name == "reshape":
            under = base(v)
            if under.root:
                own = self.of_root.get(under)
                return own if own is not None else self._load(under, v.shape, at)
        key = (id(v), at)
        found = self.memo.get(key)
        if found is None:
            found = self.memo[key] = self.expression(v, at)
        return found

    def expression(self, v: Value, at: Map) -> int:
        """Write what computes `v` at an index."""
        row, name = v.row, v.name
        if row.kind == "point":  # type: ignore[union-attr]
            args = []
            n = len(v.shape)
            for x in v.inputs:
                if x.shape == v.shape:
                    args.append(self.value(x, at))
                else:
                    spots = at[n - len(x.shape):]
                    args.append(self.value(x, tuple([ZERO if k == 1 else e for e, k in zip(spots, x.shape)])))
            self.names.append(name)
            self.note(v)
            if name == "idiv":
                self.checks.append((v.inputs[1], NOT_ZERO))
            flops = row.flops  # type: ignore[union-attr]
            self.flops += flops * v.size if isinstance(flops, int) else 0
            return self._op("point", tuple(args), (row, *v.params), v.dtype)
        if name == "full":
            value = v.params[1]
            return self._op("const" if written(value, v.dtype) else "word", (), value, v.dtype)
        if name == "iota":
            e = at[v.params[1]] if v.shape else ZERO
            return self._convert(self._index(e), v.dtype)
        if name == "philox":
            flat = _sum([_scaled(e, s) for e, s in zip(at, contiguous_strides(v.shape))])
            args = [self._index(flat)]
            for x in v.inputs:
                args.append(self._convert(self.value(x, (ZERO,) * len(x.shape)), dt.int64, x.dtype))
            self.names.append(name)
            return self._op("point", tuple(args), (row,), v.dtype)
        if name in READS:
            return self._read_at(v, at)
        self.note(v)
        if name == "reshape" and base(v.inputs[0]).root and base(v.inputs[0]) not in self.of_root:
            return self._load(base(v.inputs[0]), v.shape, at)
        return self.value(v.inputs[0], through(v, at, self.sizes))

    def _index(self, e: Index) -> int:
        steps = [0] * len(self.sizes)
        for d, c in e[1]:
            steps[d] += c
        return self._op("index", (), (e[0], tuple(steps)), dt.int64)

    def _convert(self, op: int, to: dt.dtype, of: dt.dtype = dt.int64) -> int:
        return op if of is to else self._op("point", (op,), (ROWS["convert"], to), to)

    def _read_at(self, v: Value, at: Map) -> int:
        """Write `take` or `gather`: a load at a computed index, kept inside the buffer."""
        x, i = v.inputs
        dim = v.params[0]
        if v.name == "take":
            k = len(i.shape)
            spots = (*at[:dim], ZERO, *at[dim + k:])
            where = at[dim:dim + k]
        else:
            spots = (*at[:dim], ZERO, *at[dim + 1:])
            where = at
        index = self.value(i, self._ones(where, i.shape))
        if in_range(i, x.shape[dim]):
            index = self._convert(index, dt.int64, i.dtype)
        else:
            index = self.wrapped(index, i.dtype, x.shape[dim])
            self.checks.append((i, x.shape[dim]))
        under = base(x)
        self.names.append(v.name)
        self.note(v)
        own = self.of_root.get(under)
        if own is not None:  # a single element, computed in this very loop: any valid index means it
            return own
        step = contiguous_strides(x.shape)[dim]
        return self._load(under, x.shape, self._ones(spots, x.shape), ((index, step),))

    def wrapped(self, index: int, of: dt.dtype, n: int) -> int:
        """Return an index counted from the front and kept in [0, n)."""
        index = self._convert(index, dt.int64, of)
        zero, size = self._op("const", (), 0, dt.int64), self._op("word", (), n, dt.int64)
        most = self._op("word", (), n - 1, dt.int64)
        below = self._op("point", (index, zero), (ROWS["lt"],), dt.bool_)
        more = self._op("point", (index, size), (ROWS["add"],), dt.int64)
        index = self._op("point", (below, more, index), (ROWS["where"],), dt.int64)
        index = self._op("point", (index, zero), (ROWS["max"],), dt.int64)
        return self._op("point", (index, most), (ROWS["min"],), dt.int64)
