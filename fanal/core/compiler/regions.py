"""Rewrites of values put together from regions: what is written over completely is a join, and a join of the parts of
one value is that value."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from fanal.core.base.shape import Shape, contiguous_strides
from fanal.core.compiler.graph import Value
from fanal.core.compiler.tail import operand
from fanal.core.ir.row import ROWS

_MOST = 64  # regions looked at


def _along(shape: Shape, starts: Shape, stops: Shape, steps: Shape) -> int | None:
    """Return the only dimension that a region leaves incomplete, or None if there is no such thing."""
    cut = [d for d, n in enumerate(shape) if starts[d] or stops[d] != n]
    return cut[0] if len(cut) == 1 and all(s == 1 for s in steps) else None


def assembled(x: Value, new: Value, params: tuple, shape: Shape, where: Any,
              make: Callable[..., Value]) -> Value | None:
    """Return `x` with a region replaced by `new` as a join, where regions cover everything side by side."""
    d = _along(shape, *params)
    if d is None:
        return None
    parts = [(params[0][d], params[1][d], new)]
    covered = new.shape[d]
    while covered < shape[d]:
        if x.name != "update_slice" or len(parts) == _MOST or _along(shape, *x.params) != d:
            return None
        parts.append((x.params[0][d], x.params[1][d], x.inputs[1]))
        covered += x.inputs[1].shape[d]
        x = x.inputs[0]
    parts.sort(key=lambda part: part[:2])
    if any(a[1] != b[0] for a, b in zip(parts, parts[1:])):
        return None
    values = tuple(part[2] for part in parts)
    return joined(values, d, shape, where, make) or \
        Value(ROWS["concat"], values, (d,), shape, new.dtype, where)


def joined(parts: Sequence[Value], dim: int, shape: Shape, where: Any, make: Callable[..., Value]) -> Value | None:
    """Return the join of parts without copying, where they are views of one value that together show all of it.

    So it is with the gradients by q, k and v, however the model cut them out of their joint projection.
    """
    if not all(p.size for p in parts):  # what has no elements shows nothing
        return None
    whole, full = _whole(parts, dim, shape), shape
    if whole is None and all(p.name == "reshape" for p in parts):  # join what they reshape, if that is the same
        outer = math.prod(shape[:dim])
        parts = [p.inputs[0] for p in parts]
        first = parts[0].shape
        d = next((d for d in range(len(first)) if math.prod(first[:d]) == outer), None)
        if d is not None and all(len(p.shape) == len(first) and (*p.shape[:d], *p.shape[d + 1:]) ==
                                 (*first[:d], *first[d + 1:]) for p in parts):
            full = (*first[:d], sum(p.shape[d] for p in parts), *first[d + 1:])
            whole = _whole(parts, d, full)
    if whole is None:
        return None
    x, lies, dims = whole
    steps = ("reshape", lies), ("permute", dims), ("reshape", full), ("reshape", shape)
    for name, to in steps:
        if to != (x.shape if name == "reshape" else (*range(len(to)),)):
            x = make(name, (x,), (to,), where)
    return x


def _whole(parts: Sequence[Value], dim: int, shape: Shape) -> tuple[Value, Shape, Shape] | None:
    """Return the value that parts show all of, and how to see it as their join: reshaped, then permuted."""
    seen = [operand(p) for p in parts]
    x, strides, at = seen[0].value, list(seen[0].strides), 0
    for a, b in zip(seen, seen[1:]):
        if a.shape[dim] != 1:
            strides[dim] = a.strides[dim]
            break
        strides[dim] = b.offset - a.offset
    for s in seen:
        if s.value is not x or s.offset != at:
            return None
        if any(n != 1 and a != b for n, a, b in zip(s.shape, s.strides, strides)):
            return None
        at += s.shape[dim] * strides[dim]
    real = [d for d, n in enumerate(shape) if n != 1]
    order = sorted(real, key=lambda d: -strides[d])
    lies = tuple(shape[d] for d in order)
    if math.prod(lies) != x.size or tuple(strides[d] for d in order) != contiguous_strides(lies):
        return None
    return x, lies, tuple(order.index(d) for d in real)
