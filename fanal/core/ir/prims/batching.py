"""Batching rules, by family: how a primitive computes one value for each of many examples at once.

A rule is called as rule(b, node, xs, marks): `node` is the value of one example, `xs` are its operands for all
`b.size` examples, where `marks` says so with the examples in front, else the operand that all share. It returns
the values of all examples, (b.size, *node.shape). At least one operand is marked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fanal.core.ir.program import Node

if TYPE_CHECKING:
    from fanal.core.ir.batch import Batch

Rule = Callable[["Batch", Node, Sequence[Node], Sequence[bool]], Node]


def each(x: Node, size: int) -> Node:
    """Return what all examples share, once for each."""
    from fanal.core.ir.prims.view import broadcast, reshape

    return broadcast(reshape(x, (1, *x.shape)), (size, *x.shape))


def aligned(x: Node, marked: bool, rank: int) -> Node:
    """Return an operand that broadcasts with others, of which an example has at most `rank` dimensions."""
    from fanal.core.ir.prims.view import reshape

    lead, *rest = x.shape if marked else (1, *x.shape)
    return reshape(x, (lead, *(1,) * (rank - len(rest)), *rest))


def to_front(x: Node, dim: int) -> Node:
    """Move a dimension to the front."""
    from fanal.core.ir.prims.view import permute

    return permute(x, (dim, *(d for d in range(len(x.shape)) if d != dim)))


def from_front(x: Node, dim: int) -> Node:
    """Move the first dimension to `dim`."""
    from fanal.core.ir.prims.view import permute

    return permute(x, (*range(1, dim + 1), 0, *range(dim + 1, len(x.shape))))


def use(node: Node, xs: Sequence[Node], *params: Any) -> Node:
    """Record the primitive of `node` on other operands."""
    return node.row(xs, *params) if node.row.arity < 0 else node.row(*xs, *params)


def without(b: Batch, node: Node, xs: Sequence[Node], marks: Sequence[bool]) -> Node:
    """The rule of primitives whose operands are the same for all examples: what is drawn for each, is drawn whole."""
    raise AssertionError(f"{node!r} does not depend on an example")


def broadcasting(b: Batch, node: Node, xs: Sequence[Node], marks: Sequence[bool]) -> Node:
    """The rule of primitives whose operands broadcast."""
    rank = max(len(i.shape) for i in node.inputs)
    return use(node, [aligned(x, True, rank) if m else x for x, m in zip(xs, marks)], *node.params)


def ranked(b: Batch, node: Node, xs: Sequence[Node], marks: Sequence[bool]) -> Node:
    """The rule of primitives whose operands broadcast but for the last dimensions, and have equal rank."""
    return use(node, [aligned(x, m, len(i.shape)) for x, m, i in zip(xs, marks, node.inputs)], *node.params)


def shifted(params: Callable[..., tuple] = lambda size, *params: params) -> Rule:
    """The rule of primitives that do the same with one more dimension in front.

    params: (size, *params) -> the parameters, which may name dimensions or shapes.
    """

    def rule(b: Batch, node: Node, xs: Sequence[Node], marks: Sequence[bool]) -> Node:
        whole = [x if m else each(x, b.size) for x, m in zip(xs, marks)]
        return use(node, whole, *params(b.size, *node.params))

    return rule


def up(dims: Sequence[int]) -> tuple[int, ...]:
    """Return dimensions as numbered behind a new one."""
    return tuple([d + 1 for d in dims])


def spreading(b: Batch, node: Node, xs: Sequence[Node], marks: Sequence[bool]) -> Node:
    """The rule of `broadcast`."""
    return node.row(aligned(xs[0], True, len(node.shape)), (b.size, *node.shape))


def along(params: Callable[..., tuple]) -> Rule:
    """The rule of primitives that run along one dimension, and take a number without dimensions for one of it."""
    whole = shifted(params)

    def rule(b: Batch, node: Node, xs: Sequence[Node], marks: Sequence[bool]) -> Node:
        from fanal.core.ir.prims.view import reshape

        if any(i.shape for i in node.inputs):
            return whole(b, node, xs, marks)
        return reshape(whole(b, node, [reshape(x, (*x.shape, 1)) for x in xs], marks), (b.size,))

    return rule


def reading(b: Batch, node: Node, xs: Sequence[Node], marks: Sequence[bool]) -> Node:
    """The rule of `take`: indices that differ between the examples count through all of them."""
    from fanal.core.ir.prims.view import reshape

    (x, i), (of_x, of_i), (dim,) = xs, marks, node.params
    if not of_i:
        return node.row(x, i, dim + 1)
    if not of_x:
        return to_front(x, dim) if b.is_number(i) else to_front(node.row(x, i, dim), dim)
    rows, at = _rows(x, dim), _through(b, i, x.shape[dim + 1])
    found = node.row(rows, at, 0)  # (size, *i, ...)
    lead = len(i.shape)
    order = (0, *range(lead, lead + dim), *range(1, lead), *range(lead + dim, len(found.shape)))
    from fanal.core.ir.prims.view import permute

    return reshape(permute(found, order), (b.size, *node.shape))


def writing(b: Batch, node: Node, xs: Sequence[Node], marks: Sequence[bool]) -> Node:
    """The rule of `put`, as that of `take`."""
    from fanal.core.ir.prims.view import permute, reshape

    (x, i, v), (_, of_i, _), (dim, mode) = xs, marks, node.params
    x, v = (y if m else each(y, b.size) for y, m in ((x, marks[0]), (v, marks[2])))
    if not of_i:
        return node.row(x, i, v, dim + 1, mode)
    lead = len(i.shape)
    order = (0, *range(dim + 1, dim + lead), *range(1, dim + 1), *range(dim + lead, len(v.shape)))
    rows = node.row(_rows(x, dim), _through(b, i, x.shape[dim + 1]), permute(v, order), 0, mode)
    lines = (b.size, x.shape[dim + 1], *x.shape[1:dim + 1], *x.shape[dim + 2:])
    back = (0, *range(2, dim + 2), 1, *range(dim + 2, len(x.shape)))
    return permute(reshape(rows, lines), back)


def _rows(x: Node, dim: int) -> Node:
    """Return the slices of all examples along `dim`, one after another."""
    from fanal.core.ir.prims.view import permute, reshape

    n = len(x.shape)
    y = permute(x, (0, dim + 1, *range(1, dim + 1), *range(dim + 2, n)))
    return reshape(y, (y.shape[0] * y.shape[1], *y.shape[2:]))


def _through(b: Batch, i: Node, n: int) -> Node:
    """Return indices into slices of size `n` as indices into those of all examples; what was outside still is."""
    from fanal.core.ir.prims.point import add, and_, le, lt, mul, num, where
    from fanal.core.ir.prims.view import reshape

    inside = and_(le(num(i, -n), i), lt(i, num(i, n)))
    first = mul(reshape(b.numbers, (b.size, *(1,) * (len(i.shape) - 1))), num(i, n))
    at = add(first, where(lt(i, num(i, 0)), add(i, num(i, n)), i))
    return where(inside, at, num(i, b.size * n))


def one_by_one(b: Batch, node: Node, xs: Sequence[Node], marks: Sequence[bool]) -> Node:
    """The rule of `host`: its function is called for each example."""
    import numpy as np

    function, shape, dtype = node.params

    def all_examples(*arrays: Any) -> Any:
        found = [function(*[a[k] if m else a for a, m in zip(arrays, marks)]) for k in range(b.size)]
        return np.stack(found) if found else np.zeros((0, *shape), dtype.np)

    return node.row(xs, all_examples, (b.size, *shape), dtype)


def matrices(b: Batch, node: Node, xs: Sequence[Node], marks: Sequence[bool]) -> Node:
    """The rule of `dot`: with one matrix for all examples, their rows (or columns) make one product."""
    from fanal.core.ir.prims.view import permute, reshape

    x, y = xs
    alone = [math.prod(i.shape[:-2]) == 1 for i in node.inputs]
    if marks[0] and not marks[1] and alone[1]:
        k, n = y.shape[-2:]
        return reshape(node.row(reshape(x, (math.prod(x.shape[:-1]), k)), reshape(y, (k, n))), (b.size, *node.shape))
    if marks[1] and not marks[0] and alone[0]:
        m, k = x.shape[-2:]
        turn = (*range(len(y.shape) - 2), len(y.shape) - 1, len(y.shape) - 2)
        columns = permute(y, turn)  # (..., N, K)
        found = node.row(reshape(columns, (math.prod(columns.shape[:-1]), k)), permute(reshape(x, (m, k)), (1, 0)))
        return permute(reshape(found, (*columns.shape[:-1], m)), turn)
    return ranked(b, node, xs, marks)


# What the dimensions of the values of a convolution count: examples N, groups g, channels of a group in (c) and out
# (o). The batch joins the groups if both operands have one, else the dimension that only the result has as well.
_INPUT, _WEIGHT, _OUTPUT = "Ngc", "goc", "Ngo"
_ROLES = {
    "conv": (_INPUT, _WEIGHT, _OUTPUT),
    "conv_dx": (_OUTPUT, _WEIGHT, _INPUT),
    "conv_dw": (_OUTPUT, _INPUT, _WEIGHT),
}


def convolving(b: Batch, node: Node, xs: Sequence[Node], marks: Sequence[bool]) -> Node:
    """The rule of convolutions: the examples become further inputs, channels or groups of one convolution."""
    *operands, result = _ROLES[node.row.name]
    groups = node.params[-1]
    if all(marks):
        joined = "g"
    else:
        mine, other = operands if marks[0] else operands[::-1]
        joined = next(c for c in mine if c != "g" and c in result and c not in other)
    ys = [_join(x, letters, groups, joined) if m else x for x, letters, m in zip(xs, operands, marks)]
    y = node.row(*ys, *node.params[:-1], groups * b.size if joined == "g" else groups)
    return _part(y, node.shape, result, groups, joined, b.size)


def _split(shape: Sequence[int], letters: str, groups: int) -> tuple[int, ...]:
    """Return the first two sizes of a value of a convolution with the groups apart."""
    first, second = shape[:2]
    return (groups, first // groups, second) if letters == _WEIGHT else (first, groups, second // groups)


def _join(x: Node, letters: str, groups: int, joined: str) -> Node:
    """Put the examples, in front of x, into one of its dimensions."""
    from fanal.core.ir.prims.view import reshape

    sizes = _split(x.shape[1:], letters, groups)
    at = letters.index(joined)
    y = from_front(reshape(x, (x.shape[0], *sizes, *x.shape[3:])), at)
    many = [*sizes]
    many[at] *= x.shape[0]
    return reshape(y, (*_merged(many, letters), *x.shape[3:]))


def _part(y: Node, shape: Sequence[int], letters: str, groups: int, joined: str, size: int) -> Node:
    """Take the examples out of a dimension, where `_join` put them."""
    from fanal.core.ir.prims.view import reshape

    sizes = _split(shape, letters, groups)
    at = letters.index(joined)
    apart = reshape(y, (*sizes[:at], size, *sizes[at:], *shape[2:]))
    return reshape(to_front(apart, at), (size, *shape))


def _merged(sizes: Sequence[int], letters: str) -> tuple[int, int]:
    a, b, c = sizes
    return (a * b, c) if letters == _WEIGHT else (a, b * c)


def attending(b: Batch, node: Node, xs: Sequence[Node], marks: Sequence[bool]) -> Node:
    """The rule of `attention` and its gradient: examples join the batch, the first dimension of all but the result
    of `attention`, which is flat: outputs, then statistics."""
    from fanal.core.ir.prims.attention import stats_at
    from fanal.core.ir.prims.view import concat, reshape, span

    whole = [x if m else each(x, b.size) for x, m in zip(xs, marks)]
    y = use(node, [reshape(x, (x.shape[0] * x.shape[1], *x.shape[2:])) for x in whole], *node.params)
    if len(node.shape) > 1:
        return reshape(y, (b.size, *node.shape))
    end = stats_at(node.inputs[0].shape)
    cut = b.size * end
    outputs, statistics = span(y, 0, 0, cut), span(y, 0, cut, y.shape[0])
    return concat([reshape(outputs, (b.size, end)), reshape(statistics, (b.size, node.shape[0] - end))], 1)


def taped(b: Batch, node: Node, xs: Sequence[Node], marks: Sequence[bool]) -> Node:
    """The rule of the tape: its gradient rule, written for one example, runs on whichever it is, for all of them."""
    from fanal.core.ir.prims.index import take
    from fanal.core.ir.prims.view import sum_to, tape

    y = xs[0] if marks[0] else each(xs[0], b.size)
    if node.row is not tape:
        return node.row(y) if node.row.grad is None else y
    if not node.varies:
        return y
    inputs, (rule,) = node.inputs[1:], node.params

    def for_all(g: Node, y: Node, *_: Node) -> list[Node | None]:
        found = rule(take(g, b.number, 0), node, *inputs)
        return [None if o is None else b.whole(sum_to(o, i.shape)) for o, i in zip(found, inputs)]

    return tape((y, *xs[1:]), for_all)


def walking(b: Batch, node: Node, xs: Sequence[Node], marks: Sequence[bool]) -> Node:
    """The rule of `strided`: over the elements of all examples, one example after another."""
    from fanal.core.ir.prims.view import reshape

    (x,), (shape, strides, offset) = xs, node.params
    n = x.shape[1]
    return node.row(reshape(x, (b.size * n,)), (b.size, *shape), (n, *strides), offset)


def recasting(b: Batch, node: Node, xs: Sequence[Node], marks: Sequence[bool]) -> Node:
    """The rule of `recast`: a number without dimensions has a last dimension here too."""
    from fanal.core.ir.prims.view import reshape

    (x,) = xs
    y = node.row(x if len(x.shape) > 1 else reshape(x, (b.size, 1)), *node.params)
    return reshape(y, (b.size, *node.shape))
