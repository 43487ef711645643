"""Short-time Fourier transforms: windows of a signal, each transformed; and back, by overlapping sums."""

from __future__ import annotations

from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import node_of, public, read, wrap
from fanal.core.ops.fft import transform
from fanal.core.ops.linalg_check import failure
from fanal.core.ops.pad import pad
from fanal.core.ops.shape import view_as_real


def _widened(window: Node | None, size: int, n_fft: int, d: dt.dtype) -> Node:
    """The window in the middle of a frame; ones by default."""
    w = P.full((size,), 1, d) if window is None else P.convert(window, d)
    left = (n_fft - size) // 2
    return P.pad(w, (left,), (n_fft - size - left,), 0)


def _refusal(name: str, x: Node, n_fft: int, hop: int, size: int, expected: str) -> RuntimeError:
    return RuntimeError(
        f"{name}({x.dtype.name}{list(x.shape)}, n_fft={n_fft}, hop_length={hop}, win_length={size}) : "
        f"expected {expected}"
    )


def _check_signal(x: Node, n_fft: int, hop: int, size: int, window: Any) -> None:
    expected = ""
    if x.dtype.category < 2:
        expected = "a tensor of floating point or complex values"
    elif len(x.shape) not in (1, 2):
        expected = "a 1D or 2D tensor"
    elif n_fft <= 0 or n_fft > x.shape[-1]:
        expected = f"0 < n_fft < {x.shape[-1]}, but got n_fft={n_fft}"
    elif hop <= 0:
        expected = f"hop_length > 0, but got hop_length={hop}"
    elif size <= 0 or size > n_fft:
        expected = f"0 < win_length <= n_fft, but got win_length={size}"
    elif window is not None and window._shape != (size,):
        expected = f"a 1D window tensor of size equal to win_length={size}, but got window with size {window._shape}"
    if expected:
        raise _refusal("stft", x, n_fft, hop, size, expected)


def _check_spectra(x: Node, n_fft: int, hop: int, size: int, window: Any, onesided: bool, complex_: bool) -> None:
    count, expected = n_fft // 2 + 1 if onesided else n_fft, ""
    if x.shape[-2] != count:
        expected = (
            f"the frequency dimension (3rd to the last) of the input tensor to match n_fft / 2 + 1 when "
            f"onesided=True and n_fft otherwise, {count}, but got {x.shape[-2]}"
        )
    elif not 0 < hop <= size:
        expected = f"0 < hop_length <= win_length, but got {hop}"
    elif not 0 < size <= n_fft:
        expected = f"0 < win_length <= n_fft, but got {size}"
    elif window is not None and window._shape != (size,):
        expected = f"a 1D window tensor of size {size}, but got {window._shape}"
    elif complex_ and onesided:
        expected = "onesided=False for a complex signal"
    if expected:
        raise _refusal("istft", x, n_fft, hop, size, expected)


@public()
def stft(
    input: Any, n_fft: int, hop_length: int | None = None, win_length: int | None = None, window: Any = None,
    center: bool = True, pad_mode: str = "reflect", normalized: bool = False, onesided: bool | None = None,
    return_complex: bool | None = None, align_to_window: bool | None = None,
) -> Any:  # fmt: skip
    """Return the spectra of overlapping frames of a signal.

    Shapes: (B, L) or (L) -> (B, F, T), F = n_fft // 2 + 1 for onesided spectra of real signals, else n_fft.
    Frames are `hop_length` apart (n_fft // 4). center: the signal is padded so that frame t is centred at t *
    hop_length. Source: Allen & Rabiner, "A unified approach to short-time Fourier analysis and synthesis"
    (1977).
    """
    hop = n_fft // 4 if hop_length is None else hop_length
    size = n_fft if win_length is None else win_length
    is_complex = input._dtype.is_complex or (window is not None and window._dtype.is_complex)
    if return_complex is None:
        if not is_complex:
            raise RuntimeError(
                "stft requires the return_complex parameter be given for real inputs, and will further "
                "require that return_complex=True in a future PyTorch release."
            )
        return_complex = True
    if not center and align_to_window is None:
        align_to_window = False
    if center and align_to_window is not None:
        raise RuntimeError("stft align_to_window should only be set when center = false.")
    rank = len(input._shape)
    if rank not in (1, 2) and not center:
        raise RuntimeError("stft: expected a 1D or 2D tensor")
    if center:
        shape = input._shape
        lead = (1,) * (3 - rank)
        padded = pad(wrap(P.reshape(read(input), lead + shape)), (n_fft // 2, n_fft // 2), pad_mode)
        x = P.reshape(read(padded), padded._shape[len(lead) :])
    else:
        x = read(input)

    _check_signal(x, n_fft, hop, size, window)
    single = len(x.shape) == 1
    x = P.reshape(x, (1, *x.shape)) if single else x
    if onesided is None:
        onesided = not is_complex
    if is_complex and onesided:
        raise RuntimeError("Cannot have onesided output if window or input is complex")
    d = x.dtype if window is None else dt.promote_types(x.dtype, window._dtype)
    w = _widened(None if window is None else read(window), size, n_fft, d)
    frames = P.mul(P.window(P.convert(x, d), (1,), (n_fft,), (hop,), (1,)), w)
    if not onesided:
        frames = P.convert(frames, d.to_complex())
    y = transform(frames, "rfft" if onesided else "fft", (2,), [n_fft], "ortho" if normalized else None)
    y = P.permute(y, (0, 2, 1))
    out = wrap(P.reshape(y, y.shape[1:]) if single else y)
    if return_complex:
        return out
    return view_as_real(out)


@public(check=failure("istft", "the windows leave a gap: window overlap add min: 1", RuntimeError))
def istft(
    input: Any, n_fft: int, hop_length: int | None = None, win_length: int | None = None, window: Any = None,
    center: bool = True, normalized: bool = False, onesided: bool | None = None, length: int | None = None,
    return_complex: bool = False,
) -> Any:  # fmt: skip
    """Return the signal whose frames have these spectra: the least-squares one, by overlapping sums.

    Shapes: (B, F, T) or (F, T) -> (B, L). Raises RuntimeError where the windows leave a gap. Source: Griffin
    & Lim, "Signal estimation from modified short-time Fourier transform" (1984), equation 6.
    """
    hop = n_fft // 4 if hop_length is None else hop_length
    size = n_fft if win_length is None else win_length
    x = read(input)
    if not x.dtype.is_complex:
        raise RuntimeError(
            "istft requires a complex-valued input tensor matching the output from stft with "
            "return_complex=True."
        )

    if not x.size:
        raise RuntimeError(f"istft({x.dtype.name}{list(x.shape)}) : input tensor cannot be empty.")
    if len(x.shape) not in (2, 3):
        raise _refusal("istft", x, n_fft, hop, size, f"a tensor with 2 or 3 dimensions, but got {len(x.shape)}")
    if onesided is None:
        onesided = x.shape[-2] != n_fft
    _check_spectra(x, n_fft, hop, size, window, onesided, return_complex)
    if onesided and window is not None and window._dtype.is_complex:
        raise RuntimeError("Cannot have onesided output if window or input is complex")
    single = len(x.shape) == 2
    x = P.reshape(x, (1, *x.shape)) if single else x
    frames_first = P.permute(x, (0, 2, 1))
    if not (onesided or return_complex):  # a real signal: half of the spectrum tells it
        frames_first = P.span(frames_first, 2, 0, n_fft // 2 + 1)
    kind = "ifft" if return_complex else "irfft"
    y = transform(frames_first, kind, (2,), [n_fft], "ortho" if normalized else None)
    d = y.dtype if window is None else dt.promote_types(y.dtype, window._dtype)
    w = _widened(None if window is None else node_of(window, window._dtype), size, n_fft, d)
    total = n_fft + hop * (y.shape[1] - 1)
    start = n_fft // 2 if center else 0
    stop = min(total, start + length) if length is not None else total - start

    def overlapped(frames: Node) -> Node:
        return P.span(P.fold(frames, (frames.shape[0], total), (1,), (n_fft,), (hop,), (1,)), 1, start, stop)

    weight = P.broadcast(P.mul(w, w), (1, y.shape[1], n_fft))
    envelope = overlapped(weight)
    thin = P.le(P.abs_(P.detach(envelope)), P.num(P.real(envelope), 1e-11))
    y = P.div(overlapped(P.mul(P.convert(y, d), w)), envelope)
    if length is not None and length > y.shape[1]:
        y = P.pad(y, (0, 0), (0, length - y.shape[1]), 0)
    info = P.sum_(P.convert(thin, dt.int64), (0, 1))
    return wrap(P.reshape(y, y.shape[1:]) if single else P.alias(y)), wrap(info)
