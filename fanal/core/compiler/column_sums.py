"""Sums over rows that a kernel begins on its way: what goes over the same elements row by row adds them up as well.

The gradients of a layer norm's weight and bias are sums over rows of what the kernel for its input's gradient computes
anyway, and a bias' gradient is the sum of what the kernel before a product writes. Such a kernel leaves the sums of
blocks of rows; the reduction, with all that follows it, goes over those. The tree of additions stays the same.
"""
from __future__ import annotations

from fanal.core.base import dtype as dt
from fanal.core.base.dim import plain
from fanal.core.compiler.fuse import GROUP_OPS, GROUP_READS, SAME, Group, scan
from fanal.core.compiler.graph import Graph, Value
from fanal.core.compiler.loopir import column_block

_FEWEST_BLOCKS = 8  # a unit of work is a block: fewer keep too few threads busy
_SHORTEST_ROW = 64  # of a kernel that would not go row by row otherwise


def begin_column_sums(graph: Graph, groups: list[Group], few: bool = False) -> None:
    """Let kernels over the same rows begin the reductions of other groups. few: those of few rows as well."""
    begun: dict[Value, Value] = {}
    for g in groups:
        if g.kind == "reduce":
            begun.update(_begin(g, groups, few))
    if begun:
        graph.values = [x for v in graph.values for x in ((begun[v], v) if v in begun else (v,))]


def _begin(g: Group, groups: list[Group], few: bool) -> dict[Value, Value]:
    """Let another kernel begin the reductions of `g`; return their sums of blocks, by reduction."""
    sums = [v for v in g.roots if v.role == "reduce"]
    shape, dims = g.domain
    kept = len(shape) - len(dims)
    length = sums[0].size
    rows = sums[0].inputs[0].size // length
    if dims != tuple(range(len(dims))) or kept < 1 or any(v.forced for v in sums):
        return {}
    if plain(rows) < (2 if few else _FEWEST_BLOCKS) * column_block(plain(rows)):
        return {}
    reads: dict[Value, int] = {}
    for v in sums:
        for x, how in scan(v, v.inputs[0]).items():
            reads[x] = how if reads.setdefault(x, how) == how else 0
    carrier = _carrier(g, groups, reads, sum(v.ops for v in sums), rows, length)
    if carrier is None:
        return {}
    carrier.kind, carrier.domain = "row", (rows, length)
    carrier.reads.update(x for x in reads if x.group is not carrier)
    carrier.ops += sum(v.ops for v in sums)
    needs = 0
    for x in reads:
        if x.group is not None and x.group is not carrier:
            needs |= x.group.before | 1 << x.group.number
    _after(groups, carrier, needs)
    _after(groups, g, carrier.before | 1 << carrier.number)
    blocks = -(-rows // column_block(rows))
    begun = {}
    for v in sums:
        of = dt.ACCUMULATE.get(v.dtype, v.dtype)
        part = Value(v.row, v.inputs, v.params, (blocks, length), of, v.where)
        part.role, part.root, part.group, part.position = "begun", True, carrier, v.position
        carrier.roots.append(part)
        v.inputs, v.params = (part,), ((0,),)
        begun[v] = part
    carrier.roots.sort(key=lambda v: v.position)
    others = {x for r in g.roots for x in scan(r, r.inputs[0] if r.role == "reduce" else None)}
    g.reads = {x for x in g.reads if x in others} | set(begun.values())
    return begun


def _carrier(g: Group, groups: list[Group], reads: dict[Value, int], ops: int, rows: int, length: int) -> Group | None:
    """Return the group that goes over most of what the reductions of `g` read, if it can begin them."""
    size = rows * length
    whole = [x for x in reads if x.size == size]
    best, most = None, 0
    for a in groups:
        shared = sum(x.group is a or x in a.reads for x in whole)
        if shared <= most or a is g or a.roots[0].forced or a.before >> g.number & 1:
            continue
        if not (a.domain == (rows, length) if a.kind == "row" else
                a.kind == "loop" and a.domain == size and length >= _SHORTEST_ROW):
            continue
        if a.ops + ops > GROUP_OPS or len(a.reads | reads.keys()) > GROUP_READS:
            continue
        fits = all(how == (SAME if x.size == size else rows) if x.group is a else
                   x.group is None or not (x.group.before >> a.number & 1) for x, how in reads.items())
        if fits:
            best, most = a, shared
    return best


def _after(groups: list[Group], g: Group, before: int) -> None:
    """Note that `g`, and what needs it, come after the groups in `before`."""
    g.before |= before
    for h in groups:
        if h.before >> g.number & 1:
            h.before |= g.before
