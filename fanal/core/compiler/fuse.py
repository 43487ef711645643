"""Fusion: which values get a buffer, and which of them are computed by one kernel.

A *root* is a value that may need a buffer. Everything else is written out where it is used, at the index it is used
at. Roots over the same indices that feed each other, or read the same memory, share a kernel (a Group), and a root
needed only there gets no buffer after all.
"""
from __future__ import annotations

from typing import Any

from fanal.core.base.dim import plain
from fanal.core.compiler.graph import JOINS, READS, REDUCES, SOURCES, VIEWS, Graph, Value, base, unset
from fanal.core.compiler.tail import STRIDED, Inexpressible, TailBuilder, operand

_MAX_OPS, _MAX_READS = 50, 12  # of an expression written out in its consumer
GROUP_OPS, GROUP_READS = 96, 20
_TAIL_OPS = 8
FAR, _AGAIN_OPS = 64, 10  # values: how far away a use is far; size of an expression computed again for it
_CACHED = 1 << 20  # elements: what a second kernel may find in a cache
_LONG_ROW, _FEW_ROWS = 1 << 16, 16  # rows longer than this are kept in one kernel only when there are enough of them

CHECKED = ("gather", "take", "idiv")  # not every second operand will do
ELSEWHERE, SAME = 0, -1  # how a root reads a value: at other indices, at its own; K > 0: at the index of its row of K


class Group:
    """Roots computed by one kernel, or one step of another kind."""

    __slots__ = ("before", "checked", "domain", "kind", "number", "ops", "reads", "roots")

    def __init__(self, kind: str, domain: Any, number: int) -> None:
        self.kind = kind  # loop: size; row: (K, R); reduce: (shape, dims); or contract, join, index, host
        self.domain = domain
        self.roots: list[Value] = []
        self.reads: set[Value] = set()
        self.ops = 0
        self.before = 0  # bit set of the groups this one needs, directly or not
        self.number = number
        self.checked = False  # it computes what may turn out to be no index


def _role(v: Value, backend: Any) -> str:
    """Return how a value is computed: given, empty, inline, reduce, contract, join, index or host."""
    if v.row is None:
        return "given"
    if not backend.stores(v.dtype) or v.row.kind == "opaque":
        return "host"
    if not all(backend.stores(i.dtype) for i in v.inputs):
        return "host"
    if v.size == 0 or unset(v):
        return "empty"
    name = v.name
    if name in SOURCES or name in VIEWS or name in READS:
        return "inline"
    if v.row.kind == "point":
        return "inline" if backend.supports(v) else "host"
    if name in REDUCES:
        return "reduce"
    if name in JOINS:
        return "join"
    if name == "recur":
        return "recur"
    if not backend.special(v):
        return "host"
    return "contract" if v.row.kind in ("contract", "pool") else "special"


def _behind_views(v: Value) -> Value:
    while v.role == "inline" and v.name in VIEWS and not v.root:
        v = v.inputs[0]
    return v


def _make_root(v: Value) -> None:
    """Give what `v` shows a buffer: itself, or what it reshapes."""
    while v.name == "reshape" and v.role == "inline" and not v.root:
        v = v.inputs[0]
    if v.role != "given":
        v.root = True


def _spread_source(v: Value) -> Value:
    """Return what `v` spreads over its dimensions, or `v` when loops over them do not index that."""
    x = v
    while x.role == "inline" and not x.root and x.name in ("broadcast", "permute", "reshape"):
        source = x.inputs[0]
        if x.name == "reshape" and [n for n in x.shape if n != 1] != [n for n in source.shape if n != 1]:
            return v
        x = source
    return x if x.size < v.size else v


def _read_by(v: Value, n: int) -> Value:
    """Return what must have a buffer for a contraction to read its n-th operand."""
    i = v.inputs[n]
    if v.name not in STRIDED:
        return i
    seen = operand(i)
    if v.name != "dot" and i.shape[-1] != 1:  # attention reads rows contiguously; those of a mask may repeat
        step = seen.strides[-1]
        if step != 1 and (step or n != (3 if v.name == "attention" else 5)):
            return i
    return seen.value


def _as_it_lies(v: Value) -> Value:
    """Return what must have a buffer for `v` to be read as one piece of memory."""
    seen = operand(v)
    return seen.value if seen.contiguous else v


def choose_roots(graph: Graph, backend: Any, forced: set[int]) -> None:
    """Mark roots and measure the expressions between them."""
    values = graph.values
    for n, v in enumerate(values):
        v.position = n
    for v in reversed(values):
        if v.shares:
            continue
        through, until = (v.uses, v.until) if v.name in VIEWS and not v.output else (1, v.position)
        for i in v.inputs:
            i.uses += through
            i.until = max(i.until, until)
    rows: dict[Value, set[Any]] = {}  # which rows of a value are reduced
    for v in values:
        v.role = role = _role(v, backend)
        if role != "inline" or v.output:
            v.root = True
        if id(v) in forced:
            v.root = v.forced = True
        if role == "host":
            for i in v.inputs:
                _make_root(i)
        elif v.name == "concat" and role == "join":
            for i in v.inputs:  # together with what else comes of the same operands
                if i.role == "inline" and i.row and i.row.kind == "point" and i.uses == 1 and i.size > 1:
                    i.root = True
        elif role == "special":
            for i in v.inputs[1:] or v.inputs:  # scatters start from a copy of the first
                _make_root(_spread_source(i) if v.name == "fold" else _as_it_lies(i))
        elif role == "contract":
            for n in range(len(v.inputs)):
                _make_root(_read_by(v, n))
        elif role == "recur":
            for i in v.inputs:
                _make_root(_as_it_lies(i))
        elif v.name == "window" and any(s < k for k, s in zip(v.params[1], v.params[2])):
            source = _behind_views(v)  # windows overlap: what they show is computed once
            if source.role == "inline" and (source.heavy or source.ops > 2):
                source.root = True
        elif v.name in READS:
            _make_root(v.inputs[0])
            if v.inputs[0].row is not None and not base(v.inputs[0]).root:
                _make_root(v.inputs[0])
        if role in ("given", "host", "empty"):
            continue
        if role == "reduce":
            x = v.inputs[0]
            for r in (x,) if x.root else x.reads:
                rows.setdefault(base(r), set()).add(reduce_form(v))
        v.root |= v.name == "gather" and _of_each_row(v, rows)
        _measure(v)


def _of_each_row(v: Value, rows: dict[Value, set[Any]]) -> bool:
    """Tell whether a gather reads a number of every row of what a kernel has at hand then: later no cache holds it."""
    x, index = v.inputs
    source = base(x)
    if (source.row and source.role != "contract") or index.size != v.size or v.params[0] != len(x.shape) - 1 \
            or plain(source.size) < _CACHED:
        return False
    return ("row", (v.size, x.shape[-1])) in rows.get(source, ())


def _measure(v: Value) -> None:
    ops, reads, heavy = 1, set(), False
    for i in v.inputs:
        if 1 < plain(i.size) < plain(v.size):
            source = _behind_views(i)
            if source.role == "inline" and not source.root and (source.heavy or source.ops > 3) \
                    and source.row is not None and source.row.kind == "point":
                source.root = True  # computed once, not once for every element it is spread over
                i.ops, i.reads, i.heavy = 0, frozenset((source,)), False
        if i.root:
            reads.add(i)
        else:
            ops += i.ops
            reads |= i.reads
            heavy |= i.heavy
    if v.row is not None and v.row.kind == "point":
        flops = v.row.flops
        heavy |= isinstance(flops, int) and flops >= 4
    elif v.name == "philox":
        heavy = True
    v.ops, v.reads, v.heavy = ops, frozenset(reads), heavy
    if v.root or v.role != "inline":
        return
    if v.row is not None and v.row.kind == "point":
        if plain(v.size) == 1:
            v.root = (v.uses > 1 and (ops > 8 or len(reads) > 4)) or ops > _MAX_OPS or len(reads) > _MAX_READS
        elif _rounds(v):
            v.root = True
        elif v.uses > 1:
            v.root = (heavy or ops > 2 or len(reads) > 2) and not _computed_again(v)
        else:
            v.root = ops > _MAX_OPS or len(reads) > _MAX_READS
    elif v.name in READS and v.uses > 1:
        v.root = True
    if not v.root:
        for r in reads:
            r.until = max(r.until, v.until)


def _rounds(v: Value) -> bool:
    """Tell whether `v` rounds what a contraction gives to a narrower type: it is stored so, in less memory."""
    return v.name == "convert" and v.dtype.itemsize < v.inputs[0].dtype.itemsize \
        and any(r.role == "contract" and plain(r.size) == plain(v.size) for r in v.reads)


def _computed_again(v: Value) -> bool:
    """Tell whether to compute an expression again for a use far away, as in the backward, rather than keep it.

    That costs no memory traffic where all it reads is one value that is kept as long, and a bias.
    """
    if v.until - v.position < FAR or v.ops > _AGAIN_OPS:
        return False
    size = plain(v.size)
    big = [r for r in v.reads if plain(r.size) * 8 > size]
    return len(big) == 1 and v.until - big[0].until < FAR and plain(big[0].size) == size


def _spread(small: Value, big: Value) -> int:
    """Return how `big`, read at its own index, reads `small`, which it broadcasts."""
    if small.size == 1:
        return 1
    a, b = small.shape, big.shape
    if len(a) > len(b):
        return ELSEWHERE
    a = (1,) * (len(b) - len(a)) + a
    k = len(a)
    while k and a[k - 1] == 1:
        k -= 1
    return small.size if a[:k] == b[:k] else ELSEWHERE


def scan(root: Value, start: Value | None = None) -> dict[Value, int]:
    """Return what the expression of `root` reads, and how."""
    found: dict[Value, int] = {}
    stack: list[tuple[Value, int]] = []
    seen: set[tuple[int, int]] = set()

    def visit(v: Value, how: int) -> None:
        key = (id(v), how)
        if key in seen:
            return
        seen.add(key)
        if v.root or (v.name == "reshape" and base(v).root):
            v = base(v)
            old = found.get(v)
            found[v] = how if old is None or old == how else ELSEWHERE
            return
        stack.append((v, how))

    def expand(v: Value, how: int) -> None:
        if v.row.kind == "point" or v.name == "broadcast":  # type: ignore[union-attr]
            for i in v.inputs:
                if i.size == v.size:
                    visit(i, how)
                elif how == SAME:
                    visit(i, _spread(i, v))
                else:
                    visit(i, 1 if i.size == 1 else ELSEWHERE)
        elif v.name == "reshape":
            visit(v.inputs[0], how)
        else:
            for i in v.inputs:
                visit(i, 1 if i.size == 1 else ELSEWHERE)

    if start is not None:
        visit(start, SAME)
    else:
        expand(root, SAME)
    while stack:
        expand(*stack.pop())
    return found


def reduce_form(v: Value) -> tuple[str, Any]:
    """Return the group kind and domain of a reduction."""
    shape, dims = v.inputs[0].shape, v.params[0]
    real = [d for d in range(len(shape)) if shape[d] != 1]
    gone = [d for d in real if d in dims]
    first = gone[0]
    if all(d in dims for d in real if d >= first):
        r = 1
        for d in gone:
            r *= shape[d]
        return "row", (v.inputs[0].size // r, r)
    return "reduce", (tuple(shape[d] for d in real), tuple(i for i, d in enumerate(real) if d in dims))


def _trails(g: Group, root: Value) -> bool:
    """Tell whether a pointwise root can be done to the elements of a contraction as they are produced."""
    first = g.roots[0]
    if first.forced or first.name not in ("dot", "conv", "conv_dx"):
        return False
    if first.name != "dot" and first.params[-1] != 1:  # rows are channels of all groups
        return False
    if first.name == "conv_dx" and set(first.params[1]) != {1}:  # with a stride it is several convolutions
        return False
    builder = TailBuilder(first)
    try:
        for v in [*g.roots[1:], root]:
            builder.add(v)
    except Inexpressible:
        return False
    return True


def _few_and_long(rows: int, length: int) -> bool:
    return plain(rows) < _FEW_ROWS and plain(length) > _LONG_ROW


class _Grouper:
    def __init__(self) -> None:
        self.groups: list[Group] = []
        self.readers: dict[Value, list[Group]] = {}

    def add(self, root: Value) -> None:
        """Put a root into a group that can take it, or into one of its own."""
        role = root.role
        if role == "inline":
            kind, domain, reads = "loop", root.size, scan(root)
        elif role == "reduce":
            kind, domain = reduce_form(root)
            reads = scan(root, root.inputs[0])
        else:
            kind, domain = role, None
            reads = {}
            for i in root.inputs:
                for k in scan(root, i):
                    reads[k] = ELSEWHERE
        needs = {v.group.number for v in reads if v.group is not None}
        before = 0
        for n in needs:
            before |= self.groups[n].before | 1 << n
        found = None
        if root.beside is not None:
            if self._fits(root, kind, domain, reads, needs, root.beside.group, True):
                found = root.beside.group
        elif kind in ("loop", "row", "reduce") and not root.forced:
            found = self._find(root, kind, domain, reads, needs)
        if found is not None and len(needs) > 1:
            for v in reads:
                b = v.group
                if b is not None and b is not found and (b.kind, b.domain) == (found.kind, found.domain) \
                        and not self._between(b, found, reads):
                    mine = {u: how for u, how in reads.items() if u.group is b}
                    if self._shapes_fit(root, kind, domain, mine, b, False):  # it is to stand in b as well
                        self._join(found, b)
            before = 0
            for v in reads:
                if v.group is not None:
                    before |= v.group.before | 1 << v.group.number
        if found is None:
            found = Group(kind, domain, len(self.groups))
            self.groups.append(found)
        root.group = found
        found.roots.append(root)
        found.ops += root.ops
        self._order(found, before & ~(1 << found.number))
        for v in reads:
            found.reads.add(v)
            if plain(v.size) >= plain(root.size) or role == "reduce":
                self.readers.setdefault(v, []).append(found)

    def _between(self, b: Group, found: Group, reads: dict[Value, int]) -> bool:
        """Tell whether something else that is read needs group b, which then cannot run with the reader."""
        return any(v.group is not None and v.group is not b and v.group is not found and v.group.before >> b.number & 1
                   for v in reads)

    def _order(self, group: Group, before: int) -> None:
        if before | group.before != group.before:
            group.before |= before
            bit = 1 << group.number
            for h in self.groups:
                if h.before & bit:
                    h.before |= group.before

    def _join(self, a: Group, b: Group) -> None:
        """Merge group b into a where both go over the same indices and neither needs the other through a third."""
        if a.roots[0].forced or b.roots[0].forced:
            return
        if a.kind != b.kind or a.domain != b.domain or a.kind not in ("loop", "row"):
            return
        if a.ops + b.ops > GROUP_OPS or len(a.reads | b.reads) > GROUP_READS:
            return
        for x, y in ((a, b), (b, a)):
            for h in self.groups:
                if h is not x and h is not y and h.before >> x.number & 1 and y.before >> h.number & 1:
                    return
        if a.kind == "row":
            rows, length = a.domain
            if _few_and_long(rows, length):
                return
        total = rows * length if a.kind == "row" else a.domain
        for x, y in ((a, b), (b, a)):  # what one reads of the other must be at its own index
            for r in x.roots:
                found = scan(r, r.inputs[0] if r.role == "reduce" else None)
                for v, how in found.items():
                    if v.group is y and not (how == SAME if v.size == total or (r.size != total and r.role != "reduce")
                                             else how == v.size):
                        return
        for v in b.roots:
            v.group = a
        a.roots = sorted(a.roots + b.roots, key=lambda v: v.position)
        a.reads |= b.reads
        a.ops += b.ops
        for v in b.reads:
            self.readers.setdefault(v, []).append(a)
        old, new = 1 << b.number, 1 << a.number
        b.roots, b.kind, b.reads = [], "gone", set()
        before = (a.before | b.before) & ~(old | new)
        for h in self.groups:
            if h.before & (old | new):  # who needs one of the two needs both, and what they need
                h.before = h.before & ~old | new | before
        a.before = before

    def _find(self, root: Value, kind: str, domain: Any, reads: dict[Value, int], needs: set[int]) -> Group | None:
        tried: set[int] = set()
        fed = sorted({v.group.number for v in reads if v.group is not None}, reverse=True)
        for number in fed:
            tried.add(number)
            g = self.groups[number]
            if self._fits(root, kind, domain, reads, needs, g):
                return g
        if root.name == "gather":  # of each row
            for g in self.readers.get(base(root.inputs[0]), ())[-4:]:
                if g.kind == "row" and g.number not in tried and self._fits(root, kind, domain, reads, needs, g):
                    return g
        size = root.inputs[0].size if root.role == "reduce" else root.size
        for v, how in reads.items():
            if how == SAME and v.size == size:
                for g in reversed(self.readers.get(v, ())[-4:]):
                    if g.number not in tried:
                        tried.add(g.number)
                        if self._fits(root, kind, domain, reads, needs, g, True):
                            return g
        return None

    def _fits(self, root: Value, kind: str, domain: Any, reads: dict[Value, int], needs: set[int], g: Group,
              sibling: bool = False) -> bool:
        if g.ops + root.ops > GROUP_OPS or len(g.reads | reads.keys()) > GROUP_READS:
            return False
        if not g.roots or g.roots[0].forced:
            return False
        bit = g.number
        if any(n != bit and self.groups[n].before >> bit & 1 for n in needs):
            return False  # the group would need itself
        mine = {v: how for v, how in reads.items() if v.group is g}
        return self._shapes_fit(root, kind, domain, mine, g, sibling)

    def _shapes_fit(self, root: Value, kind: str, domain: Any, mine: dict[Value, int], g: Group, sibling: bool) -> bool:
        if kind == "loop":
            n = domain
            if g.kind == "loop":
                return g.domain == n and all(how == SAME for how in mine.values())
            if g.kind == "row":
                rows, length = g.domain
                if n == rows * length:
                    if any(v.role == "reduce" for v in mine) and _few_and_long(rows, length):
                        return False
                    return all(how == SAME if v.size == n else how == rows == v.size for v, how in mine.items())
                return not sibling and n == rows and all(how == SAME and v.size == n for v, how in mine.items())
            if g.kind == "reduce":
                return not sibling and n == g.roots[0].size and all(how == SAME for how in mine.values())
            if g.kind == "contract":
                # The tail runs on accumulators, with few registers left: long or costly mathematics is faster as a
                # loop of its own (GELU after a 768x128x512 product: 1.9 ms in the tail, 1.2 ms apart).
                # A result that is stored anyway, such as a gradient, is read again from the cache.
                if root.heavy or g.ops + root.ops > _TAIL_OPS or g.roots[0].output:
                    return False
                return not sibling and all(how == SAME and v.size == n for v, how in mine.items()) and _trails(g, root)
            return False
        if kind == "row":
            rows, length = domain
            if g.kind == "loop":
                if g.domain != rows * length or not all(how == SAME for how in mine.values()):
                    return False
                if _few_and_long(rows, length):
                    return False
                g.kind, g.domain = "row", domain
                return True
            if g.kind != "row" or g.domain != domain:
                return False
            if any(v.role == "reduce" for v in mine) and _few_and_long(rows, length):
                return False
            return all(how == SAME if v.size == rows * length else how == rows == v.size for v, how in mine.items())
        return g.kind == "reduce" and g.domain == domain and not mine


def fuse(graph: Graph) -> list[Group]:
    """Return the groups of a graph whose roots are chosen, in no order that means anything."""
    grouper = _Grouper()
    for v in graph.values:
        if v.root and v.role not in ("given", "empty"):
            grouper.add(v)
    groups = [g for g in grouper.groups if g.roots]
    for g in groups:
        g.roots.sort(key=lambda v: v.position)
    return groups


def note_readers(groups: list[Group], values: list[Value]) -> None:
    """Mark the values that kernels other than their own read."""
    for v in values:
        if v.name in CHECKED:  # the check is a kernel of its own
            i = v.inputs[1]
            for r in (i,) if i.root else i.reads:
                r.outside = r.group is not None
        if v.name in (*CHECKED, "put", "scatter"):
            i = base(v.inputs[1])
            for r in (i,) if i.root else i.reads:
                if r.group is not None:
                    r.group.checked = True
    for g in groups:
        for v in g.reads:
            if v.group is not None and v.group is not g:
                v.outside = True
    for g in groups:
        if g.kind == "contract" and not any((v.output or v.outside) and v.dtype is g.roots[0].dtype for v in g.roots):
            g.roots[0].outside = True  # generators store at least one value of their own dtype
