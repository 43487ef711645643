"""When two runs of a random program agree: a bound that follows from how well the program determines its results.

Two correct libraries round differently, and a program can enlarge that without limit. So results that differ by more
than a fixed tolerance are held against what PyTorch itself makes of the same program in float64, and in float32 from
numbers that are a few roundings away: how far its float32 is from those, is what rounding does to this program. A
multiple of it is allowed, and no more. Numbers of 16 bits keep their width in both, so they are also held against a run
with float64 in their place: a result may be about as far from its exact numbers as PyTorch's.
"""
from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

RTOL, ATOL = 2e-4, 2e-5
FACTOR = 16.0  # of the distance of float32 from float64: a small sum of roundings may be small by luck
COARSE = 2.0  # of the distance of 16 bits from float64: one rounding more
WIDER = {"torch.float32": "torch.float64", "torch.complex64": "torch.complex128", ".float()": ".double()", ".cfloat()": ".cdouble()"}
Rounds = list[list[Any]]
STALE = "a saved value was overwritten"  # stands for errors that say so
STALE_TEXTS = ("modified by an inplace operation", "has been modified inplace", "ZeroTensors are immutable",
               "derivative for ")
AGAIN = "a graph that was let go"  # gaps.txt: here only where something in it was saved
SHORT = ("torch.bfloat16", "torch.float16")
COPY = ".double().clone()"  # a cast makes a tensor of its own, which one from float64 to float64 would not
HALVES = {".bfloat16()": COPY, ".half()": COPY, **{f".{cast}({d})": COPY for d in SHORT for cast in ("to", "type")},
          **dict.fromkeys(SHORT, "torch.float64")}
NUDGE = 1 + 3e-7  # a few roundings of float32


def outcome(error: Exception) -> str:
    """Return what stands for an error in the results."""
    if "backward through the graph a second time" in str(error):
        return AGAIN
    return STALE if any(text in str(error) for text in STALE_TEXTS) else type(error).__name__


def wide(text: str) -> str:
    """Return the program with float64 in the place of float32, complex128 in that of complex64."""
    return _replaced(text, WIDER)


def exact(text: str) -> str | None:
    """Return the program with float64 in the place of 16-bit floats, too, or None if it has none."""
    other = _replaced(text, HALVES)
    return None if other == text else wide(other)


def _replaced(text: str, words: dict[str, str]) -> str:
    return re.sub(rf"({'|'.join(map(re.escape, words))})(?!\w)", lambda m: words[m[1]], text)


def _numbers(x: Any) -> np.ndarray:
    """Return an array as float64, a complex one as its parts: both are NaN where one is."""
    a = np.asarray(x)
    if a.dtype.kind != "c":
        return a.astype(np.float64)
    return np.where(np.isnan(a)[..., None], np.nan, np.stack([a.real, a.imag], -1).astype(np.float64))


def _error(x: Any, exact: Any) -> float:
    """Return how far a float32 result is from the exact one, anywhere."""
    if exact is None or isinstance(exact, str) or np.shape(x) != np.shape(exact):
        return np.inf
    a, b = _numbers(x), _numbers(exact)
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
        return bool((a == b).all()) or (slack > 0 and bool((np.abs(_numbers(a) - _numbers(b)) <= FACTOR * slack).all()))
    return bool(np.allclose(_numbers(b), _numbers(a), RTOL, ATOL + FACTOR * slack, equal_nan=True))


def parted(expected: Rounds, got: Rounds) -> int:
    """Return the first round in which an optimizer meets None in one run and zeros in the other, by the gradients it meets.

    It passes over None, but zeros decay and go on with their momentum: from there on the runs may part.
    """
    return next((k for k, (e, g) in enumerate(zip(expected, got)) if any(_no_gradient(x, y) for x, y in zip(e, g))), len(got))


def _as_exact(x: Any, y: Any, exact: Any) -> bool:
    """Tell whether a result is about as near to the exact numbers as PyTorch's."""
    if type(x) is not type(y) or np.shape(x) != np.shape(y) or np.asarray(x).dtype != np.asarray(y).dtype:
        return False
    return _error(y, exact) <= COARSE * _error(x, exact) < np.inf


def disagreement(expected: Rounds, got: Rounds, others: Callable[[], list[Rounds]], optimizers: Callable[[], int] | None = None,
                 exact: Callable[[], Rounds | None] = lambda: None) -> str | None:
    """Return where a run disagrees with PyTorch's, or None.

    `others`: PyTorch's runs that round differently, `optimizers`: the round from which optimizers part, `exact`: PyTorch's
    run in float64 of a program with 16-bit floats; where needed.
    """
    known: list[Rounds] | None = None
    fine: Rounds | None = None
    for k, (e, g) in enumerate(zip(expected, got)):
        if len(e) == len(g) and all(_close(x, y, 0.0) for x, y in zip(e, g)):
            continue
        if e in ([STALE], [AGAIN]) and len(g) > 1:
            return None  # PyTorch saves more than it needs and refuses; ours is the gradient of what was computed
        known = known or others()
        if any(len(o) <= k or len(o[k]) != len(e) or (isinstance(e[0], str) and o[k][0] != e[0]) for o in known):
            return None  # rounding decides which way the program goes: from here on there is nothing to compare
        if len(e) != len(g):
            return f"round {k}: torch {e[:1]}, fanal {g[:1]}"
        for i, (x, y) in enumerate(zip(e, g)):
            slack = 0.0 if isinstance(x, str) or x is None else max(_error(x, o[k][i]) for o in known)
            if not _close(x, y, slack):
                if type(x) is type(y) is np.ndarray and any(np.shape(o[k][i]) != np.shape(x) for o in known):
                    continue  # the size itself follows from rounding: positions of what is not zero
                fine = fine or exact()
                if fine is not None and k < len(fine) and len(fine[k]) == len(e) and _as_exact(x, y, fine[k][i]):
                    continue
                if _no_gradient(x, y) or (optimizers is not None and optimizers() <= k):
                    return None
                return f"round {k}, result {i}: torch {x!r}, fanal {y!r}, rounding {slack:.3g}"
    return None


def _no_gradient(x: Any, y: Any) -> bool:
    """Tell whether one of two gradients is None and the other one zero."""
    return (x is None and np.shape(y) != () and not np.any(y)) or (y is None and np.shape(x) != () and not np.any(x))
