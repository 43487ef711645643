"""Computing a value again in the backward, by the kernel that reads what it comes of there anyway.

A product reads its operand from memory, twice in a train step: forward, and for the weight's gradient. Where that
operand is a few operations on a value that the backward reads as well (GELU of what went into it, a layer norm's weight
and bias on the normalised rows), the kernel that reads it there writes the operand a second time. That costs one write,
and the operand takes no memory in between. The same goes for what is made of little, as rows of a small table are.
"""
from __future__ import annotations

from fanal.core.base.dim import plain
from fanal.core.compiler.fuse import FAR, SAME, scan
from fanal.core.compiler.graph import VIEWS, Graph, Value

_MOST_OPS = 16  # of an expression computed again
_LARGE, _LITTLE = 1 << 20, 8  # bytes of what is made of little, and how many times as large it is

Users = dict[Value, list[Value]]


def compute_again(graph: Graph) -> None:
    """Let far uses of cheap values read a twin. Enters and leaves: a graph whose roots are chosen."""
    users: Users = {}
    for v in graph.values:
        for i in v.inputs:
            users.setdefault(i, []).append(v)
    made: dict[Value, list[Value]] = {}  # by the value whose kernel computes them
    for v in graph.values:
        if not v.root or v.role != "inline" or v.output or v.ops > _MOST_OPS:
            continue
        near, far = _uses(v, users)
        if not far:
            continue
        before = far[0][-1].position
        host = _host(v, near, before, users) if v.row is not None and v.row.kind == "point" else None
        if host is not None:
            last, twins = _twins(v, far, host.position)
            last.beside = host
            made.setdefault(host, []).extend(twins)
        elif _of_little(v) and near == v.position:
            v.position = before  # it can wait
        elif _of_little(v):
            made.setdefault(v, []).extend(_twins(v, far, before)[1])
    if made:
        graph.values = [x for v in graph.values for x in (v, *made.get(v, ()))]


def _uses(v: Value, users: Users) -> tuple[int, list[list[Value]]]:
    """Return the position of the last use before a long pause, or of `v`, and the uses after it.

    Those are lists: views, each of the one before, and what reads the last.
    """
    uses: list[list[Value]] = []
    ahead = [[u] for u in users.get(v, ())]
    while ahead:
        chain = ahead.pop()
        if chain[-1].name in VIEWS and not chain[-1].root:
            ahead += [[*chain, u] for u in users.get(chain[-1], ())]
        else:
            uses.append(chain)
    uses.sort(key=lambda chain: chain[-1].position)
    at = [v.position, *(chain[-1].position for chain in uses)]
    for k in range(len(uses)):
        if at[k + 1] - at[k] >= FAR:
            return at[k], uses[k:]
    return 0, []


def _of_little(v: Value) -> bool:
    """Tell whether a large value is cheap to make of small ones."""
    return not v.heavy and plain(v.size) * v.dtype.itemsize >= _LARGE and \
        all(plain(r.size) * _LITTLE <= plain(v.size) for r in scan(v))


def _host(v: Value, near: int, before: int, users: Users) -> Value | None:
    """Return the first value after `near` that is made of the same as `v`, but for little, at the same places.

    It comes before whatever is to read the twin, so it can need none of that. One that must have a kernel of its own
    can compute nothing beside.
    """
    big = [(r, how) for r, how in scan(v).items() if plain(r.size) * 8 > plain(v.size)]
    if len(big) != 1 or big[0][1] != SAME or big[0][0].size != v.size:
        return None
    source = big[0][0]
    found: list[Value] = []
    ahead, seen = list(users.get(source, ())), set()
    while ahead:
        u = ahead.pop()
        if u in seen or u.size != v.size or u.role != "inline" or u.position >= before:
            continue
        seen.add(u)
        if not u.root:
            ahead += users.get(u, ())
        elif u.position - near >= FAR and not u.forced and (reads := scan(u)).get(source) == SAME \
                and any(r.position - near >= FAR for r in reads):  # else it may be computed before the pause as well
            found.append(u)
    return min(found, key=lambda u: u.position, default=None)


def _twins(v: Value, far: list[list[Value]], position: int) -> tuple[Value, list[Value]]:
    """Let far uses read a twin of `v`; return it, and with it the views of it."""
    twins: dict[Value, Value] = {}

    def twin(of: Value, inputs: tuple[Value, ...]) -> Value:
        if of not in twins:
            assert of.row is not None
            new = twins[of] = Value(of.row, inputs, of.params, of.shape, of.dtype, of.where)
            new.root, new.role, new.ops, new.uses = of.root, of.role, of.ops, of.uses
            new.position = position
        return twins[of]
    last = twin(v, v.inputs)
    for *views, user in far:
        old, new = v, last
        for view in views:
            new = twin(view, tuple([new if i is old else i for i in view.inputs]))
            old = view
        user.inputs = tuple([new if i is old else i for i in user.inputs])
    return last, list(twins.values())
