"""The order in which kernels run: what they need first, and as little as possible in memory at once."""
from __future__ import annotations

import heapq

from fanal.core.base.dim import plain
from fanal.core.compiler.fuse import Group
from fanal.core.compiler.graph import Value


def order(groups: list[Group], replaced: dict[Value, Value], readers: dict[Value, list[Group]]) -> list[Group]:
    """Return groups so that needs come first, and readers of an input before what overwrites it.

    `replaced` says which values are computed into an input, `readers` who reads the inputs. A group that gives back at
    least as much memory as it takes runs as soon as it can: the product for a weight's gradient, and the update of that
    weight, before the gradient goes on to the layer below. So does what a check reads: the later a program may fail,
    the more inputs are saved in every run. The others run in the order of the program.
    """
    return _Order(groups, replaced, readers).sequence()


class _Order:
    """What is known of the groups while they are put in order, by their numbers."""

    def __init__(self, groups: list[Group], replaced: dict[Value, Value], readers: dict[Value, list[Group]]) -> None:
        self.groups = {g.number: g for g in groups}
        self.after: dict[int, set[int]] = {n: set() for n in self.groups}
        self.waits = dict.fromkeys(self.after, 0)
        self.takes = dict.fromkeys(self.after, 0)  # bytes in use afterwards, less those before
        self.users: dict[Value, set[int]] = {}  # of every buffer that lives only while the plan runs
        for g in groups:
            for v in g.roots:
                if v.outside and not v.output and v not in replaced:
                    self.takes[g.number] += v.size * v.dtype.itemsize
            for v in g.reads:
                if v.group is not None and v.group is not g:
                    self._edge(v.group, g)
                    if not v.output and v not in replaced:
                        self.users.setdefault(v, set()).add(g.number)
        for v, into in replaced.items():
            for g in readers.get(into, ()):
                self._edge(g, v.group)
        self.ready: list[tuple[int, int]] = []
        self.giving: list[tuple[int, int]] = []  # those of them that take nothing
        for v in list(self.users):
            self._last(v)

    def _edge(self, a: Group, b: Group) -> None:
        if a is not b and b.number not in self.after[a.number]:
            self.after[a.number].add(b.number)
            self.waits[b.number] += 1

    def _last(self, v: Value) -> None:
        """Note that a buffer dies with its reader, if only one is left."""
        if len(self.users[v]) == 1:
            n = next(iter(self.users[v]))
            self.takes[n] -= v.size * v.dtype.itemsize
            if not self.waits[n]:
                self._offer(n)

    def _offer(self, n: int) -> None:
        entry = (self.groups[n].roots[0].position, n)
        soon = self.groups[n].checked or plain(self.takes[n]) <= 0
        heapq.heappush(self.giving if soon else self.ready, entry)

    def sequence(self) -> list[Group]:
        """Return the groups in order."""
        for n, w in self.waits.items():
            if not w:
                self._offer(n)
        done: dict[int, None] = {}
        while self.giving or self.ready:
            n = heapq.heappop(self.giving or self.ready)[1]
            if n in done:  # offered again when it began to give
                continue
            done[n] = None
            for v in self.groups[n].reads:
                if v in self.users:
                    self.users[v].discard(n)
                    self._last(v)
            for k in self.after[n]:
                self.waits[k] -= 1
                if not self.waits[k]:
                    self._offer(k)
        assert len(done) == len(self.groups), "a cycle between kernels"
        return [self.groups[n] for n in done]
