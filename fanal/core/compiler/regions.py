"""Rewrites of values put together from regions: what is written over completely is a join, and a join of the parts of
one value is that value."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fanal.core.base.shape import Shape
from fanal.core.compiler.graph import Value
from fanal.core.ir.row import ROWS

_MOST = 64  # regions looked at


def _along(shape: Shape, starts: Shape, stops: Shape, steps: Shape) -> int | None:
    """Return the only dimension that a region leaves incomplete, or None if there is no such thing."""
    cut = [d for d, n in enumerate(shape) if starts[d] or stops[d] != n]
    return cut[0] if len(cut) == 1 and all(s == 1 for s in steps) else None


def assembled(x: Value, new: Value, params: tuple, shape: Shape, where: Any) -> Value | None:
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
    return joined(values, d, shape, where) or \
        Value(ROWS["concat"], values, (d,), shape, new.dtype, where)


def joined(parts: Sequence[Value], dim: int, shape: Shape, where: Any) -> Value | None:
    """Return the join of parts without copying, where they are those of one value, in order."""
    whole: Value | None = None
    at = 0
    for part in parts:
        piece = part.inputs[0] if part.name == "reshape" else part
        if piece.name != "slice":
            return None
        x, (starts, stops, _) = piece.inputs[0], piece.params
        d = _along(x.shape, *piece.params)
        if whole is None:
            whole, axis = x, d
        if x is not whole or d is None or d != axis or starts[d] != at \
                or math.prod(part.shape[:dim]) != math.prod(x.shape[:d]):
            return None
        at = stops[d]
    if whole is None or axis is None or at != whole.shape[axis]:
        return None
    return whole if whole.shape == shape else Value(ROWS["reshape"], (whole,), (shape,), shape, whole.dtype, where)
