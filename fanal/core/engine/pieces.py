"""Steps that never come again: their programs run in pieces, each planned once.

A decoder with random teacher forcing, an episode of any length, a recursion over trees: every step is another
program, and planning one costs twenty times what running it does. But its parts come again. So where most segments
are new, a program is simplified as a whole, which decides the bits, and then cut at its products. What follows
(fusing, ordering, planning) changes no bits, so pieces have those of the whole.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

from fanal.core.compiler.graph import SOURCES, VIEWS, Graph, Value
from fanal.core.compiler.simplify import simplify
from fanal.core.engine.cache import Compiled, kinds
from fanal.core.engine.ledger import ledger
from fanal.core.ir.prims import input_
from fanal.core.ir.program import Node, Program

MAX_PIECES = 1024
LONGEST = 64  # values in a piece
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
            if v.row is None or (v.name not in _LIGHT and v not in mine):
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


def _cut(graph: Graph) -> list[_Piece]:
    pieces = [_Piece()]
    for v in graph.values:
        if v.row is None or v.name in _LIGHT:
            continue
        if pieces[-1].own and (v.row.kind == "contract" or len(pieces[-1].own) >= LONGEST):
            pieces.append(_Piece())
        pieces[-1].own.append(v)
    shown = _Piece()  # results that nothing but views lead to
    shown.own = list({v: None for v in graph.outputs if v.row is not None and v.name in _LIGHT})
    return [p for p in (*pieces, shown) if p.own]


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
        for v in p.reads:
            left[v] = left.get(v, 0) + 1
    for o in graph.outputs:
        left[o] = left.get(o, 0) + 1
    arrays = dict(zip(graph.given, inputs))
    for p, key in runs:
        arrays.update(zip(p.gives, _runnable(p, key).run([_array(v, arrays) for v in p.reads])))
        for v in p.reads:
            left[v] -= 1
            if not left[v]:
                arrays.pop(v, None)
    results, taken = [], set(graph.given)
    for o in graph.outputs:
        a = _array(o, arrays)
        results.append(a.copy() if o in taken or o.known is not None else a)  # the caller's own
        taken.add(o)
    return results


def _array(v: Value, arrays: dict[Value, np.ndarray]) -> np.ndarray:
    return arrays[v] if v.known is None else v.known


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
