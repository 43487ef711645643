"""Run one scenario with PyTorch and with Fanal, and compare what it returns or raises."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

import fanal


def plain(x: Any) -> Any:
    """Return tensors as nested lists, everything else as it is."""
    if isinstance(x, (torch.Tensor, fanal.Tensor)):
        return x.detach().tolist()
    if isinstance(x, (tuple, list)):
        return [plain(i) for i in x]
    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items()}
    return x


def close(a: Any, b: Any) -> bool:
    """Tell whether two plain results agree to single precision."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(close, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(close(a[k], b[k]) for k in a)
    if isinstance(a, complex) or isinstance(b, complex):
        return abs(a - b) <= 1e-5 * (1 + abs(a))
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=2e-5, abs_tol=1e-6)
    return a == b


def outcome(scenario: Callable, module: Any) -> Any:
    """Return what a scenario returns, or the error it raises."""
    try:
        return plain(scenario(module))
    except (RuntimeError, TypeError, ValueError, NotImplementedError, IndexError) as e:
        return e


def agree(scenario: Callable, *words: str) -> None:
    """Assert that both sides return the same, or raise the same error with `words` in both texts."""
    want, got = outcome(scenario, torch), outcome(scenario, fanal)
    if isinstance(want, Exception):
        assert isinstance(got, Exception), f"PyTorch raises {want!r}, Fanal returns {got}"
        assert isinstance(got, type(want)) or isinstance(want, type(got)), f"{want!r} against {got!r}"
        assert words, f"both raise: {want}"
        for w in words:
            assert w in str(want), f"not in PyTorch's text: {want}"
            assert w in str(got), f"not in Fanal's text: {got}"
        return
    if isinstance(got, Exception):
        raise got
    assert not words, f"nothing was raised: {want}"
    assert close(want, got), f"PyTorch: {want}\nFanal:   {got}"
