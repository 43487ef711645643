"""When two runs of a random program agree: a bound that follows from how well the program determines its results.

Two correct libraries round differently, and a program can enlarge that without limit. So results that differ by more
than a fixed tolerance are held against the same program computed in float64 by PyTorch: how far PyTorch's own float32
is from that, is what rounding does to this program. A multiple of it is allowed, and no more.
"""
from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

RTOL, ATOL = 2e-4, 2e-5
FACTOR = 16.0  # of the distance of float32 from float64: a small sum of roundings may be small by luck
Rounds = list[list[Any]]
STALE = "a saved value was overwritten"  # stands for PyTorch's error that says so


def wide(text: str) -> str:
    """Return the program with float64 in the place of float32."""
    return re.sub(r"torch\.float32\b", "torch.float64", text).replace(".float()", ".double()")


def _error(x: Any, exact: Any) -> float:
    """Return how far a float32 result is from the exact one, anywhere."""
    if exact is None or isinstance(exact, str) or np.shape(x) != np.shape(exact):
        return np.inf
    a, b = np.asarray(x, np.float64), np.asarray(exact, np.float64)
    with np.errstate(all="ignore"):
        distance = np.abs(a - b)[(a != b) & ~(np.isnan(a) & np.isnan(b))]
    return float(np.max(distance, initial=0.0)) if not np.isnan(distance).any() else np.inf


def _close(x: Any, y: Any, slack: float) -> bool:
    if isinstance(x, str) or x is None or isinstance(y, str) or y is None:
        return bool(x == y) if isinstance(x, str) and isinstance(y, str) else x is y
    a, b = np.asarray(x), np.asarray(y)
    if a.shape != b.shape or (isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and a.dtype != b.dtype):
        return False
    if slack == np.inf:
        return True
    if a.dtype.kind not in "fcV":  # whole numbers agree exactly, unless they were rounded from something that does not
        return bool((a == b).all()) or (slack > 0 and bool((np.abs(a.astype(float) - b.astype(float)) <= FACTOR * slack).all()))
    return bool(np.allclose(b.astype(float), a.astype(float), RTOL, ATOL + FACTOR * slack, equal_nan=True))


def disagreement(expected: Rounds, got: Rounds, exact: Callable[[], Rounds]) -> str | None:
    """Return where a run disagrees with PyTorch's, or None. `exact` runs the program in float64, if that is needed."""
    known: Rounds | None = None
    for k, (e, g) in enumerate(zip(expected, got)):
        if len(e) == len(g) and all(_close(x, y, 0.0) for x, y in zip(e, g)):
            continue
        known = known or exact()
        if len(known[k]) != len(e) or (isinstance(e[0], str) and known[k][0] != e[0]):
            return None  # rounding decides which way the program goes: from here on there is nothing to compare
        if e == [STALE] and len(g) > 1:
            return None  # PyTorch saves more than it needs and refuses; ours is the gradient of what was computed
        if len(e) != len(g):
            return f"round {k}: torch {e[:1]}, fanal {g[:1]}"
        slack = [_error(x, z) if not isinstance(x, str) and x is not None else 0.0 for x, z in zip(e, known[k])]
        for i, (x, y, s) in enumerate(zip(e, g, slack)):
            if not _close(x, y, s):
                return f"round {k}, result {i}: torch {x!r}, fanal {y!r}, rounding {s:.3g}"
    return None
