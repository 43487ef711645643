"""A line search that ends where the strong Wolfe conditions hold.

Source: Nocedal & Wright, "Numerical optimization" (2006), algorithms 3.5 and 3.6; the safeguards are
minFunc's (Schmidt).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Point(NamedTuple):
    """A place on the line: step, value, gradient, slope."""

    t: float
    f: float
    g: np.ndarray
    slope: float


def cubic_minimum(a: Point, b: Point, low: float | None = None, high: float | None = None) -> float:
    """Return where the cubic through two points with their slopes is least, within limits."""
    if low is None or high is None:
        low, high = min(a.t, b.t), max(a.t, b.t)
    first, second = (a, b) if a.t <= b.t else (b, a)
    d1 = a.slope + b.slope - 3 * (a.f - b.f) / (a.t - b.t) if a.t != b.t else float("nan")
    square = d1 * d1 - a.slope * b.slope
    if not square >= 0:
        return (low + high) / 2.0
    d2 = square**0.5
    bend = second.slope - first.slope + 2 * d2
    if bend == 0:
        return (low + high) / 2.0
    t = second.t - (second.t - first.t) * ((second.slope + d2 - d1) / bend)
    return min(max(t, low), high)


def strong_wolfe(
    along: Callable[[float], tuple[float, np.ndarray]],
    t: float,
    d: np.ndarray,
    f: float,
    g: np.ndarray,
    slope: float,
    c1: float = 1e-4,
    c2: float = 0.9,
    tolerance: float = 1e-9,
    limit: int = 25,
) -> tuple[float, np.ndarray, float, int]:
    """Return (value, gradient, step, evaluations) where f falls enough and the slope is small enough.

    along(t): value and gradient at step t along d. f, g, slope: at step 0.
    """
    evals = 0

    def at(t: float) -> Point:
        nonlocal evals
        evals += 1
        value, gradient = along(t)
        return Point(t, value, gradient, float(gradient @ d))

    begin = Point(0.0, f, g, slope)
    too_high = lambda x: x.f > f + c1 * x.t * slope
    flat = lambda x: abs(x.slope) <= -c2 * slope
    before, now = begin, at(t)
    bracket: list[Point] = []
    done, k = False, 0
    while k < limit:  # widen until an interval holds such a point
        if too_high(now) or (k > 1 and now.f >= before.f):
            bracket = [before, now]
        elif flat(now):
            bracket, done = [now], True
        elif now.slope >= 0:
            bracket = [before, now]
        if bracket:
            break
        following = cubic_minimum(before, now, now.t + 0.01 * (now.t - before.t), now.t * 10)
        before, now = now, at(following)
        k += 1
    if not bracket:
        bracket = [begin, now]
    low, high = (0, 1) if bracket[0].f <= bracket[-1].f else (1, 0)
    size, stuck = float(np.abs(d).max()), False
    while not done and k < limit:  # narrow it
        if abs(bracket[1].t - bracket[0].t) * size < tolerance:
            break
        t = cubic_minimum(bracket[0], bracket[1])
        left, right = sorted(p.t for p in bracket)
        margin = 0.1 * (right - left)
        if min(right - t, t - left) < margin:  # too near to an end, twice in a row or on it: step inside
            if stuck or t >= right or t <= left:
                t = right - margin if abs(t - right) < abs(t - left) else left + margin
                stuck = False
            else:
                stuck = True
        else:
            stuck = False
        now = at(t)
        k += 1
        if too_high(now) or now.f >= bracket[low].f:
            bracket[high] = now
            low, high = (0, 1) if bracket[0].f <= bracket[1].f else (1, 0)
        else:
            if flat(now):
                done = True
            elif now.slope * (bracket[high].t - bracket[low].t) >= 0:
                bracket[high] = bracket[low]
            bracket[low] = now
    best = bracket[low] if len(bracket) > 1 else bracket[0]
    return best.f, best.g, best.t, evals
