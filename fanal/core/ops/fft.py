"""Discrete Fourier transforms: torch.fft, composed of one primitive, its scale and conjugation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.base.shape import Shape, wrap_dim
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import node_of, public, store, wrap
from fanal.core.ops.factory import placed
from fanal.core.ops.rearrange import roll

# What each transform is: the kind of its primitive, and whether exp(-2 pi i...) goes with it.
_KINDS = {
    "fft": ("whole", True),
    "ifft": ("whole", False),
    "rfft": ("half", True),
    "irfft": ("real", False),
    "hfft": ("real", True),
    "ihfft": ("half", False),
}
_BOTH = {"forward": 1.0, "backward": 0.0, "ortho": 0.5}  # the power of 1/n in a transform with exp(-i...)


def _operand(input: Any, name: str, kind: str) -> Node:
    d = input._dtype
    if d in (dt.float16, dt.bfloat16, dt.complex32):
        raise RuntimeError(f"Unsupported dtype {dt.scalar_name(d)}")
    if kind == "half":
        if d.is_complex:
            found = dt.scalar_name(d)
            if name == "ihfftn":
                raise RuntimeError(f"Only supports floating-point dtypes, but found: {found}")
            raise RuntimeError(
                f"{name} expects a real{'-valued' if name[-1] == 'n' else ''} input tensor, but got {found}"
            )
        return node_of(input, d if d.category == 2 else dt.get_default())
    return node_of(input, d if d.category >= 2 else dt.get_default())


def transform(x: Node, name: str, dims: Shape, sizes: list[int], norm: str | None) -> Node:
    """Transform over `dims`, each cut or padded to its size: of the signal on the real side, for half
    spectra."""
    kind, forward = _KINDS[name]
    if norm is not None and norm not in _BOTH:
        raise RuntimeError(f'Invalid normalization mode: "{norm}"')
    for n in sizes:
        if n < 1:
            raise RuntimeError(f"Invalid number of data points ({n}) specified")
    power = _BOTH[norm or "backward"]
    scale = math.prod(sizes) ** -(power if forward else 1 - power)
    return P.fft(x, kind, not forward, dims, tuple(sizes), scale)


def _one(name: str, what: str) -> None:
    kind = _KINDS[name][0]

    def call(input: Any, n: int | None = None, dim: int = -1, norm: str | None = None) -> Any:
        if not input._shape:
            raise IndexError(f"Dimension specified as {dim} but tensor has no dimensions")
        x = _operand(input, name, kind)
        d = wrap_dim(dim, len(x.shape))
        if n is None:
            n = 2 * (x.shape[d] - 1) if kind == "real" else x.shape[d]
        return wrap(transform(x, name, (d,), [n], norm))

    call.__name__ = name
    call.__doc__ = f"""Return {what} along `dim`.

    n: the length to which the signal is cut or padded. norm: "backward" (the inverse divides by n), "ortho",
    "forward". Dtypes: float32, float64 and their complex kinds; integers are taken as floats.
    """
    public(name, module="fft", method=False, out=True)(call)


def _several(name: str, over: str, what: str, default: Any) -> None:
    """Define a transform over several dimensions."""
    full, kind = name + over, _KINDS[name][0]

    def call(input: Any, s: Any = None, dim: Any = default, norm: str | None = None) -> Any:
        x = _operand(input, name + "n", kind)
        rank = len(x.shape)
        given = [dim] if isinstance(dim, int) else None if dim is None else list(dim)
        sizes = None if s is None else [s] if isinstance(s, int) else list(s)
        if given is not None and not rank and given:
            raise IndexError(f"Dimension specified as {given[0]} but tensor has no dimensions")
        dims = None if given is None else [wrap_dim(d, rank) for d in given]
        if dims is not None and len(set(dims)) < len(dims):
            raise RuntimeError("FFT dims must be unique")
        if sizes is not None:
            if dims is not None and len(dims) != len(sizes):
                raise RuntimeError("When given, dim and shape arguments must have the same length")
            if len(sizes) > rank:
                raise RuntimeError(
                    f"Got shape with {len(sizes)} values but input tensor only has {rank} dimensions."
                )
            dims = list(range(rank - len(sizes), rank)) if dims is None else dims
        dims = list(range(rank)) if dims is None else dims
        if not dims and kind in ("half", "real"):
            raise RuntimeError(f"{name}n must transform at least one axis")
        wanted = [-1] * len(dims) if sizes is None else sizes
        found = [x.shape[d] if n == -1 else n for d, n in zip(dims, wanted)]
        if kind == "real" and wanted[-1] == -1:
            found[-1] = 2 * (x.shape[dims[-1]] - 1)
        if not dims:
            return wrap(P.alias(P.convert(x, x.dtype.to_complex())))
        return wrap(transform(x, name, tuple(dims), found, norm))

    call.__name__ = full
    call.__doc__ = f"Return {what} over several dimensions `dim`, each cut or padded to its size in `s`."
    public(full, module="fft", method=False, out=True)(call)


for _name, _what in {
    "fft": "the discrete Fourier transform",
    "ifft": "the inverse discrete Fourier transform",
    "rfft": "the half spectrum of a real signal",
    "irfft": "the real signal that has a half spectrum",
    "hfft": "the real spectrum of half a Hermitian signal",
    "ihfft": "the half Hermitian signal that has a real spectrum",
}.items():
    _one(_name, _what)
    _several(_name, "2", _what, (-2, -1))
    _several(_name, "n", _what, None)


def _shifted(name: str, amount: Callable[[int], int], what: str) -> None:
    def call(input: Any, dim: Any = None) -> Any:
        dims = (
            tuple(range(len(input._shape))) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
        )
        if not dims:
            return wrap(P.alias(node_of(input, input._dtype)))
        return roll(input, tuple(amount(input._shape[d]) for d in dims), dims)

    call.__name__, call.__doc__ = name, f"Return the input with frequency 0 moved {what}."
    public(name, module="fft", method=False)(call)


_shifted("fftshift", lambda n: n // 2, "to the middle of each dimension")
_shifted("ifftshift", lambda n: (n + 1) // 2, "from the middle of each dimension to its start")


def _frequencies(name: str, half: bool) -> None:
    def call(
        n: int, d: float = 1.0, *, out: Any = None, dtype: Any = None, layout: Any = None, device: Any = None,
        requires_grad: bool = False, pin_memory: bool = False,
    ) -> Any:  # fmt: skip
        kind = dtype or (out._dtype if out is not None else dt.get_default())
        if kind.category < 2:
            raise RuntimeError(f"{name} requires a floating point or complex dtype")
        count = n // 2 + 1 if half else n
        wide = dt.float64 if kind.category == 2 else dt.complex128
        k = P.convert(P.iota((count,), 0, dt.int64), wide)
        if not half and n:
            k = P.where(
                P.lt(P.iota((n,), 0, dt.int64), P.full((), (n + 1) // 2, dt.int64)), k, P.sub(k, P.num(k, n))
            )
        y = P.convert(P.mul(k, P.num(k, 1.0 / (n * d))) if n else k, kind)
        return placed(wrap(y), device, requires_grad) if out is None else store(out, y)

    call.__name__ = name
    call.__doc__ = f"""Return the frequencies of {"the half" if half else "the"} spectrum of n samples `d`
    apart, in cycles for each unit of `d`."""
    public(name, module="fft", method=False)(call)


_frequencies("fftfreq", False)
_frequencies("rfftfreq", True)
