"""What each pass over a row computes, keeps and stores, and what is computed between the passes."""

from __future__ import annotations

import itertools

from fanal.core.base import dtype as dt
from fanal.core.compiler.loopir import OUTER, REDUCED, Loop, Op

GROUP_ROWS = 16  # that go through the passes together, at most: a vector of numbers of rows
LONG = 8  # operations of a function whose values are computed abreast
_CACHE_COST = 6  # what takes more operations than this to compute again is kept in scratch between passes


def cost(op: Op) -> int:
    """Return about how many operations an op takes."""
    if op.kind != "point":
        return 0 if op.kind in ("const", "word") else 1
    flops = op.params[0].flops
    return flops if isinstance(flops, int) and flops else 1


class Passes:
    """Which values each pass over a row computes, keeps and stores, and which it adds to sums of columns."""

    def __init__(self, loop: Loop, abreast: bool = False) -> None:
        """`abreast`: as many groups of rows are at hand as there are passes."""
        ops = loop.ops
        self.ready = ready = [0] * len(ops)  # the first pass that can use an op
        reduces: dict[int, list[int]] = {}
        for i, op in enumerate(ops):
            before = max((ready[a] for a in loop.operands(op)), default=0)
            ready[i] = before
            if op.kind == "reduce":
                reduces.setdefault(before, []).append(i)
                ready[i] = before + 1
        first = len(loop.loads)
        outer = len(loop.outer)
        element: dict[int, list[tuple[int, int]]] = {}
        begins: dict[int, list[tuple[int, int]]] = {}
        self.row_stores = []
        for n, (i, a) in enumerate(loop.stores):
            if ops[i].kind == "begin":
                begins.setdefault(ready[i], []).append((i, first + n))
            elif any(a.strides[outer:]):
                element.setdefault(ready[i], []).append((i, first + n))
            else:
                self.row_stores.append((i, first + n))
        self.count = max([*reduces, *element, *begins, -1]) + 1
        read = {a.value for a in loop.loads}
        for p in sorted(element):  # what overwrites an operand waits until no pass reads it
            late = [s for s in element[p] if loop.stores[s[1] - first][1].value in read]
            if late and p < self.count - 1:
                element[p] = [s for s in element[p] if s not in late]
                element.setdefault(self.count - 1, []).extend(late)
        self.rows = GROUP_ROWS * (self.count if abreast else 1)  # at hand, at most
        self.reduces = [reduces.get(p, []) for p in range(self.count)]
        self.stores = [element.get(p, []) for p in range(self.count)]
        self.begins = [begins.get(p, []) for p in range(self.count)]
        self.cached: dict[int, int] = {}  # op -> slot
        self.kept: list[list[int]] = [[] for _ in range(self.count)]  # ops put into scratch, by pass
        # Numbers of a row that one pass finds and a later one needs, and where they lie; those that follow from sums
        # alone are computed between the passes, for all rows of a group at once.
        self.slots = {i: n for n, i in enumerate(itertools.chain.from_iterable(self.reduces[:-1]))}
        self.between: list[list[int]] = [[] for _ in range(self.count)]
        done: dict[int, int] = {}
        for p in range(self.count):
            self._plan(loop, p, self.roots(loop, p), done)

    @property
    def totals(self) -> int:
        """Return the bytes of scratch that hold what the passes before the last find of the rows of a group."""
        return 8 * self.rows * len(self.slots)

    def _follows(self, loop: Loop, i: int) -> bool:
        """Tell whether a number of the row follows from sums over rows alone, in floating point."""
        op = loop.ops[i]
        if not op.deps or op.kind == "reduce":
            return not op.deps or op.dtype in (dt.float32, dt.float64)
        return op.kind == "point" and op.dtype in (dt.float32, dt.float64) and not op.deps & ~OUTER \
            and all(self._follows(loop, a) for a in op.args)

    def _long(self, loop: Loop, i: int) -> bool:
        """Tell whether a number takes long: only then it pays that the rows of a group wait for each other."""
        op = loop.ops[i]
        return op.kind == "point" and (cost(op) >= LONG or any(self._long(loop, a) for a in op.args))

    def _take(self, loop: Loop, i: int) -> None:
        """Have a number of the row computed between the passes where it can be."""
        op, ready = loop.ops[i], self.ready[i]
        if not ready or op.kind != "point" or i in self.slots:
            return
        if self._follows(loop, i) and self._long(loop, i):
            self.slots[i] = len(self.slots)
            self.between[ready - 1].append(i)
            return
        for a in op.args:
            self._take(loop, a)

    def roots(self, loop: Loop, p: int) -> list[int]:
        """Return what pass `p` is for: the operands of reductions, and what is stored."""
        summed = [*self.reduces[p], *(i for i, _ in self.begins[p])]
        return [loop.ops[i].args[0] for i in summed] + [i for i, _ in self.stores[p]]

    def _plan(self, loop: Loop, p: int, roots: list[int], done: dict[int, int]) -> None:
        ops = loop.ops
        seen: set[int] = set()
        stack = list(roots)
        while stack:
            i = stack.pop()
            if i in seen:
                continue
            seen.add(i)
            if not ops[i].deps & REDUCED:
                self._take(loop, i)
                continue
            earlier = done.setdefault(i, p)
            if i in self.cached:
                continue
            if earlier < p and ops[i].kind == "point" and self._again(loop, i) > _CACHE_COST:
                self.cached[i] = len(self.cached)
                self.kept[earlier].append(i)
                continue
            stack.extend(loop.operands(ops[i]))

    def _again(self, loop: Loop, root: int) -> int:
        total, seen, stack = 0, set(), [root]
        while stack:
            i = stack.pop()
            if i in seen or not loop.ops[i].deps & REDUCED or i in self.cached:
                continue
            seen.add(i)
            total += cost(loop.ops[i])
            stack.extend(loop.operands(loop.ops[i]))
        return total
