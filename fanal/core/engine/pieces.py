"""Steps that never come again: their programs run in pieces, each planned once.

A decoder with random teacher forcing, an episode of any length, a recursion over trees: every step is another
program, and planning one costs twenty times what running it does. But its parts come again. So where most segments
are new, a program is simplified as a whole, which decides the bits, and then cut at its products. What follows
(fusing, ordering, planning) changes no bits, so pieces have those of the whole.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from typing import Any

import numpy as np

from fanal.core.compiler.graph import SOURCES, VIEWS, Graph, Value
from fanal.core.compiler.simplify import simplify
from fanal.core.engine.cache import Compiled, kinds
from fanal.core.engine.ledger import ledger
from fanal.core.ir.prims import input_, slice_
from fanal.core.ir.program import Node, Program

MAX_PIECES = 1024
LONGEST = 64  # values in a piece
LEAST = 64  # elements that are handed to a piece, not taken by it from where they stand
ALIKE = 4  # values in a row that show where an iteration begins
_LIGHT = frozenset((*VIEWS, *SOURCES))  # written out wherever they are read
_pieces: OrderedDict[Any, Compiled] = OrderedDict()


class _Piece:
    """Values computed together: what they read, and which of them others read."""

    def __init__(self) -> None:
        self.own: list[Value] = []
        self.reads: dict[Value, int] = {}  # from outside -> number
        self.gives: list[Value] = []

    def key(self, needed: set[Value]) -> Any:
        """Return what is equal for pieces that are computed the same way; sets what it reads and gives."""
        mine = set(self.own)
        number: dict[Value, int] = {}
        key: list[Any] = []

        def add(v: Value) -> int:
            k = number.get(v)
            if k is not None:
                return k
            if v.row is None or (_is_part(v) and v.inputs[0] not in mine) or (v.name not in _LIGHT and v not in mine):
                self.reads[v] = len(self.reads)
                key.append((v.shape, v.dtype))
            else:
                inputs = tuple([add(i) for i in v.inputs])
                gives = v in needed and v in mine
                if gives:
                    self.gives.append(v)
                key.append((v.row, inputs, v.params, kinds(v.params), v.dtype, v.shape, gives))
            k = number[v] = len(number)
            return k
        for v in self.own:
            add(v)
        return tuple(key)

    def program(self) -> Program:
        """Return the program of the piece."""
        made = {v: input_(v.shape, v.dtype) for v in self.reads}
        inputs, nodes = list(made.values()), []

        def make(v: Value) -> Node:
            n = made.get(v)
            if n is None:
                n = made[v] = Node(v.row, tuple([make(i) for i in v.inputs]), v.params,  # type: ignore[arg-type]
                                   v.shape, v.dtype)
                n.where = v.where
                nodes.append(n)
            return n
        for v in self.own:
            make(v)
        return Program(inputs, nodes, [made[v] for v in self.gives])


def _is_part(v: Value) -> bool:
    """Tell whether a value is a few elements of another one: those at any other place are read the same way."""
    return v.row is slice_ and v.inputs[0].name not in _LIGHT and math.prod(v.shape) <= LEAST


def _cut(graph: Graph) -> list[_Piece]:
    between: list[list[Value]] = [[]]  # products
    for v in graph.values:
        if v.row is None or v.name in _LIGHT:
            continue
        if v.row.kind == "contract":
            between.append([])
        between[-1].append(v)
    shown = list({v: None for v in graph.outputs  # by nothing but views
                  if v.row is not None and v.name in _LIGHT and not _is_part(v)})
    pieces = []
    for values in (*between, shown):
        for own in _short(values):
            pieces.append(_Piece())
            pieces[-1].own = own
    return pieces


def _short(values: list[Value]) -> list[list[Value]]:
    """Return values in lists of at most LONGEST. They begin with the few that come most often in a row, if they can: so
    the iterations of a loop are cut in the same places, however many there are."""
    if len(values) <= LONGEST:
        return [values] if values else []
    kinds = [(v.row, v.shape) for v in values]
    windows = [tuple(kinds[k:k + ALIKE]) for k in range(len(kinds))]
    (often, _), = Counter(windows).most_common(1)
    found, begin, latest = [], 0, 0
    for k, window in enumerate(windows):
        if k - begin == LONGEST:
            end = latest if latest > begin else k
            found.append(values[begin:end])
            begin = end
        if window == often:
            latest = k
    return [*found, values[begin:]]


def _needed(graph: Graph, pieces: list[_Piece]) -> set[Value]:
    """Return the values that some piece must leave in memory."""
    owner = {v: p for p in pieces for v in p.own if v.name not in _LIGHT}
    behind: dict[Value, tuple[Value, ...]] = {}  # a view -> the values of pieces that it shows
    needed = set(graph.outputs)
    for v in graph.values:
        found: list[Value] = []
        for i in v.inputs:
            found += behind[i] if i in behind else (i,) if i in owner else ()
        if v.row is not None and v.name in _LIGHT:
            behind[v] = tuple(found)
        else:
            p = owner.get(v)
            needed.update(i for i in found if owner[i] is not p)
    for o in graph.outputs:
        needed.update(behind.get(o, ()))
    return needed


def run_in_pieces(program: Program, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Return the outputs of a program that writes to no input."""
    graph = simplify(program)
    pieces = _cut(graph)
    needed = _needed(graph, pieces)
    runs = [(p, p.key(needed)) for p in pieces]
    left: dict[Value, int] = {}
    for p in pieces:
        for v in map(_whole, p.reads):
            left[v] = left.get(v, 0) + 1
    for o in map(_whole, graph.outputs):
        left[o] = left.get(o, 0) + 1
    arrays = dict(zip(graph.given, inputs))
    for p, key in runs:
        arrays.update(zip(p.gives, _runnable(p, key).run([_array(v, arrays) for v in p.reads])))
        for v in map(_whole, p.reads):
            left[v] -= 1
            if not left[v]:
                arrays.pop(v, None)
    results, taken = [], set(graph.given)
    for o in graph.outputs:
        a = _array(o, arrays)
        results.append(a.copy() if o in taken or o.known is not None or o not in arrays else a)  # the caller's own
        taken.add(o)
    return results


def _whole(v: Value) -> Value:
    return v.inputs[0] if v.row is not None and _is_part(v) else v


def _array(v: Value, arrays: dict[Value, np.ndarray]) -> np.ndarray:
    if v.known is not None:
        return v.known
    if v.row is not None and _is_part(v) and v not in arrays:
        return np.ascontiguousarray(slice_.ref(_array(v.inputs[0], arrays), *v.params))
    return arrays[v]


def _runnable(piece: _Piece, key: Any) -> Compiled:
    try:
        known = _pieces.get(key)
    except TypeError:  # an unhashable parameter
        known = key = None
    if known is not None:
        _pieces.move_to_end(key)
        return known
    ledger.plans += 1
    made = Compiled(piece.program())
    if key is not None:
        _pieces[key] = made
        if len(_pieces) > MAX_PIECES:
            _pieces.popitem(last=False)
    return made
