"""Gradients on their way back: fitted to their values, and added up where they meet."""

from __future__ import annotations

from fanal.core.base.dtype import dtype as DType
from fanal.core.ir.prims.point import add, convert, real
from fanal.core.ir.prims.view import disjoint, region_of_zeros, sum_to, update_slice
from fanal.core.ir.program import Node

MOST_REGIONS = 64  # compared when gradients of slices meet


def fit(g: Node, to: Node) -> Node:
    """Give a gradient the shape and dtype of its value."""
    return cast(sum_to(g, to.shape), to.dtype)


def cast(g: Node, to: DType) -> Node:
    """Give a derivative another dtype; of a complex one, a real value sees the real part."""
    return convert(real(g) if g.dtype.is_complex and not to.is_complex else g, to)


class Sums:
    """What has arrived so far at each value."""

    def __init__(self) -> None:
        self.found: dict[int, Node] = {}
        self.regions: dict[int, list] = {}  # where gradients that are sums of regions may differ from zero

    def seed(self, n: Node, g: Node) -> None:
        """Add a gradient given from outside."""
        known = self.found.get(id(n))
        self.found[id(n)] = g if known is None else add(known, g)

    def arrive(self, n: Node, g: Node) -> None:
        """Add a gradient that a rule gives."""
        g = fit(g, n)
        known = self.found.get(id(n))
        region = region_of_zeros(g)
        if known is None:
            self.found[id(n)] = g
            if region is not None:
                self.regions[id(n)] = [region]
            return
        before = self.regions.get(id(n))
        if region is None or before is None or len(before) > MOST_REGIONS \
                or not all(disjoint(region, r) for r in before):
            self.regions.pop(id(n), None)
            self.found[id(n)] = add(known, g)
        else:  # parts of one value: each is written into its place
            self.found[id(n)] = update_slice(known, g.inputs[1], *region)
            before.append(region)

    def pop(self, n: Node) -> Node | None:
        """Take out what has arrived at a value."""
        return self.found.pop(id(n), None)
