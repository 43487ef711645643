"""torch.fft, stft and istft against torch: values, gradients of two orders, errors."""
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import fanal
from tests.ops.test_linalg import both, close, differentiate

ONE, MANY = ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft"), ("fft2", "rfftn", "irfftn", "hfft2", "ihfftn", "ifftn")
NORMS = (None, "ortho", "forward")


def of_real(name: str) -> bool:
    return name.startswith(("rfft", "ihfft"))


def agree(call: Callable, dtype: Any, shape: tuple[int, ...]) -> None:
    theirs, mine = both(shape, dtype, 3)
    want, got = call(torch, theirs), call(fanal, mine)
    close(got, want, 1e-10, "value")
    first, second = differentiate(torch, [want], [theirs])
    found, again = differentiate(fanal, [got], [mine])
    close(found[0], first[0], 1e-9, "gradient")
    close(again[0], second[0], 1e-9, "second derivative")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ONE)
def test_one_dimension(name: str, norm: str | None) -> None:
    for n, dim in ((None, -1), (4, 0), (7, 1), (5, -2)):
        for dtype in (torch.float64,) if of_real(name) else (torch.float64, torch.complex128):
            agree(lambda m, x: getattr(m.fft, name)(x, n, dim, norm), dtype, (5, 6))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", MANY)
def test_several_dimensions(name: str, norm: str | None) -> None:
    dtype = torch.float64 if of_real(name) else torch.complex128
    for options in ({}, {"s": (4, 7)}, {"dim": (2, 0)}, {"s": (-1, 3), "dim": (0, 1)}):
        if options or name.endswith("2"):
            agree(lambda m, x: getattr(m.fft, name)(x, **options, norm=norm), dtype, (3, 4, 5))


def test_dtypes_and_helpers() -> None:
    for d in (torch.int32, torch.bool, torch.float32, torch.complex64):
        x = torch.tensor([1, 0, 1, 1]).to(d)
        close(fanal.fft.fft(fanal.tensor(x.numpy())), torch.fft.fft(x), 1e-6, str(d))
    for n in (0, 1, 4, 5):
        close(fanal.fft.fftfreq(n, 0.5), torch.fft.fftfreq(n, 0.5), 1e-7, "fftfreq")
        if n:
            close(fanal.fft.rfftfreq(n, 0.5), torch.fft.rfftfreq(n, 0.5), 1e-7, "rfftfreq")
    x = torch.arange(20.0).reshape(4, 5)
    for dim in (None, 0, (1,)):
        for f in ("fftshift", "ifftshift"):
            close(getattr(fanal.fft, f)(fanal.tensor(x.numpy()), dim), getattr(torch.fft, f)(x, dim), 0, f)


def frames(m: Any, x: Any, **options: Any) -> Any:
    window = m.linspace(0.5, 1, options.get("win_length", 8), dtype=m.float64)
    return m.stft(x, 8, window=window, return_complex=True, **options)


@pytest.mark.parametrize("options", [
    {}, {"hop_length": 3, "normalized": True}, {"win_length": 5}, {"center": False}, {"onesided": False},
    {"pad_mode": "constant"}])
def test_stft_and_back(options: dict) -> None:
    for shape in ((40,), (2, 40)):
        agree(functools.partial(frames, **options), torch.float64, shape)
        if options.get("center", True) and "hop_length" not in options:
            window = {"win_length": options.get("win_length", 8)}
            agree(lambda m, x: m.istft(
                frames(m, x, **options), 8, normalized=options.get("normalized", False), length=37, **window,
                window=m.linspace(0.5, 1, window["win_length"], dtype=m.float64)), torch.float64, shape)


ERRORS: list[Callable] = [
    lambda m: m.fft.fft(m.ones(3), 0), lambda m: m.fft.fft(m.ones(3), norm="x"), lambda m: m.fft.fft(m.ones(3), dim=2),
    lambda m: m.fft.rfft(m.ones(3, dtype=m.complex64)), lambda m: m.fft.fft(m.ones(3, dtype=m.float16)),
    lambda m: m.fft.fft(m.ones(())), lambda m: m.fft.irfft(m.ones(1)), lambda m: m.fft.fftn(m.ones(2, 2), dim=(0, 0)),
    lambda m: m.fft.fftn(m.ones(2, 2), s=(1, 2, 3)), lambda m: m.fft.fftn(m.ones(2, 2), s=(1, 2), dim=(0,)),
    lambda m: m.fft.rfftn(m.ones(2, 2), dim=()), lambda m: m.stft(m.ones(9), 4),
    lambda m: m.fft.rfftfreq(4, dtype=m.int32),
]


@pytest.mark.parametrize("call", ERRORS, ids=range(len(ERRORS)))
def test_errors(call: Callable) -> None:
    with pytest.raises(Exception) as want:
        call(torch)
    with pytest.raises(type(want.value)) as got:
        call(fanal)
    assert str(got.value).split("\n")[0] == str(want.value).split("\n")[0]


def test_windows_that_leave_a_gap() -> None:
    x = fanal.stft(fanal.ones(40), 8, return_complex=True, window=fanal.ones(8))
    with pytest.raises(RuntimeError, match="window overlap add min: 1"):
        fanal.istft(x, 8, window=fanal.zeros(8))


@pytest.mark.parametrize("lines, length", [(1, 16), (3, 31), (20, 33), (17, 64)])
@pytest.mark.parametrize("name", ["irfft", "hfft"])
def test_a_half_spectrum_without_imaginary_parts(name: str, lines: int, length: int) -> None:
    """The imaginary parts of the other half were what had been in memory."""
    x = np.random.default_rng(0).standard_normal((lines, length)).astype(np.float32)
    expected = getattr(torch.fft, name)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(getattr(fanal.fft, name)(fanal.tensor(x)).numpy(), expected, rtol=1e-4, atol=1e-4)
