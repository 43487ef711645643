"""Windows for spectra: torch.*_window and torch.signal.windows, from the same few formulas.

Source: Harris, "On the use of windows for harmonic analysis with the discrete Fourier transform" (1978).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.layout import strided
from fanal.core.ops.build import public
from fanal.core.ops.factory import placed
from fanal.core.tensor.tensor import wrap_array

Rule = Callable[..., np.ndarray]  # (n, ...) -> a symmetric window of n >= 2 points, in float64


def _cosines(n: int, *a: float) -> np.ndarray:
    t = 2 * np.pi * np.arange(n) / (n - 1)
    return np.asarray(sum((-1) ** k * c * np.cos(k * t) for k, c in enumerate(a)))


def _hamming(n: int, alpha: float = 0.54, beta: float | None = None) -> np.ndarray:
    return _cosines(n, alpha, 1 - alpha if beta is None else beta)


def _triangle(n: int) -> np.ndarray:
    return np.asarray(1 - np.abs(2 * np.arange(n) / (n - 1) - 1))


def _kaiser(n: int, beta: float = 12.0) -> np.ndarray:
    return np.kaiser(n, beta)


def _points(m: int, periodic: bool) -> int:
    """Return the length of the symmetric window whose first m points are wanted."""
    return m + 1 if periodic and m > 1 else m


def _old(name: str, rule: Rule) -> None:
    """Make torch.<name>."""

    def fn(
        window_length: int,
        periodic: bool = True,
        *args: Any,
        dtype: dt.dtype | None = None,
        device: Any = None,
        layout: Any = None,
        requires_grad: bool = False,
        pin_memory: bool = False,
        **options: Any,
    ) -> Any:
        d = dtype or dt.get_default()
        if not d.is_floating_point:
            raise RuntimeError(f"{name} expects floating point dtypes, got: {dt.scalar_name(d)}")
        if window_length < 0:
            raise RuntimeError(
                f"{name} requires non-negative window_length, got window_length={window_length}"
            )
        n = window_length
        values = np.ones(n) if n <= 1 else rule(_points(n, periodic), *args, **options)[:n]
        return placed(wrap_array(np.ascontiguousarray(values.astype(d.np)), d), device, requires_grad)

    fn.__name__ = name
    fn.__doc__ = f"Return the {name.replace('_', ' ')}; periodic for use in a spectrum, else symmetric."
    public(name, method=False, event=False)(fn)


_old("hann_window", lambda n: _hamming(n, 0.5))
_old("hamming_window", lambda n, alpha=0.54, beta=0.46: _hamming(n, alpha, beta))
_old("blackman_window", lambda n: _cosines(n, 0.42, 0.5, 0.08))
_old("bartlett_window", _triangle)
_old("kaiser_window", _kaiser)


def _new(name: str, rule: Rule, doc: str, check: Callable[..., None] | None = None) -> None:
    """Make torch.signal.windows.<name>; `rule` gets the symmetric length and the window's own options."""

    def fn(
        M: int,
        *,
        sym: bool = True,
        dtype: dt.dtype | None = None,
        layout: Any = strided,
        device: Any = None,
        requires_grad: bool = False,
        **options: Any,
    ) -> Any:
        d = dtype or dt.get_default()
        if check is not None:
            check(sym, **options)
        if M < 0:
            raise ValueError(f"{name} requires non-negative window length, got M={M}")
        if layout is not strided:
            raise ValueError(f"{name} is implemented for strided tensors only, got: {layout}")
        if d not in (dt.float32, dt.float64):
            raise ValueError(f"{name} expects float32 or float64 dtypes, got: {d}")
        values = np.ones(M) if M <= 1 else rule(_points(M, not sym), **options)[:M]
        return placed(wrap_array(np.ascontiguousarray(values.astype(d.np)), d), device, requires_grad)

    fn.__name__, fn.__doc__ = name, f"Return {doc} with M points; sym=False: of a window one point longer."
    public(name, module="signal.windows", method=False, event=False)(fn)


def _exponential(n: int, center: float | None = None, tau: float = 1.0) -> np.ndarray:
    return np.exp(-np.abs(np.arange(n) - ((n - 1) / 2 if center is None else center)) / tau)


def _check_exponential(sym: bool, center: float | None = None, tau: float = 1.0) -> None:
    if tau <= 0:
        raise ValueError(f"Tau must be positive, got: {tau} instead.")
    if sym and center is not None:
        raise ValueError("Center must be None for symmetric windows")


def _gaussian(n: int, std: float = 1.0) -> np.ndarray:
    return np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / std) ** 2)


def _check_gaussian(sym: bool, std: float = 1.0) -> None:
    if std <= 0:
        raise ValueError(f"Standard deviation must be positive, got: {std} instead.")


def _check_kaiser(sym: bool, beta: float = 12.0) -> None:
    if beta < 0:
        raise ValueError(f"beta must be non-negative, got: {beta} instead.")


def _check_cosines(sym: bool, a: Any) -> None:
    if not isinstance(a, Iterable):
        raise TypeError("Coefficients must be a list/tuple")
    if not a:
        raise ValueError("Coefficients cannot be empty")


_new("bartlett", _triangle, "a triangle")
_new("blackman", lambda n: _cosines(n, 0.42, 0.5, 0.08), "the Blackman window")
_new("cosine", lambda n: np.sin(math.pi / n * (np.arange(n) + 0.5)), "half a wave of the sine")
_new("exponential", _exponential, "exp(-|n - center| / tau)", _check_exponential)
_new("gaussian", _gaussian, "a Gaussian of standard deviation std", _check_gaussian)
_new("general_cosine", lambda n, a: _cosines(n, *a), "a sum of cosines with weights a", _check_cosines)
_new("general_hamming", _hamming, "alpha minus (1 - alpha) times a cosine")
_new("hamming", _hamming, "the Hamming window")
_new("hann", lambda n: _hamming(n, 0.5), "the Hann window")
_new("kaiser", _kaiser, "the Kaiser window", _check_kaiser)
_new("nuttall", lambda n: _cosines(n, 0.3635819, 0.4891775, 0.1365995, 0.0106411), "the Nuttall window")
