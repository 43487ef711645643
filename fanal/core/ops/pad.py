"""Padding of the last dimensions: with a constant, by reflection, by the edge, or in a circle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import public, read
from fanal.core.ops.reduce import wrap_like


def constant_node(x: Node, pad: Sequence[int], value: Any) -> Node:
    """Pad with a constant; negative amounts crop.

    pad: (low, high) of the last dimension, then of the one before, ...
    """
    n = len(x.shape)
    low, high = [0] * n, [0] * n
    for i in range(len(pad) // 2):
        low[n - 1 - i], high[n - 1 - i] = pad[2 * i], pad[2 * i + 1]
    for d, (a, b) in enumerate(zip(low, high)):
        if x.shape[d] + a + b < 0:
            raise RuntimeError(
                f"The input size {x.shape[d]}, plus negative padding {a} and {b} resulted in a negative "
                f"output size, which is invalid. Check dimension {d} of your input."
            )
        if a < 0 or b < 0:
            # Where nothing is left of the input, the other side is padded less.
            start, stop = max(-a, 0), x.shape[d] - max(-b, 0)
            if start > stop:
                size = x.shape[d] + a + b
                x = P.span(x, d, 0, 0)
                low[d], high[d] = size, 0
                continue
            x = P.span(x, d, start, stop)
    return P.pad(x, tuple(max(a, 0) for a in low), tuple(max(b, 0) for b in high), value)


def _reflect(x: Node, d: int, a: int, b: int) -> Node:
    n = x.shape[d]
    parts = [P.flip(P.span(x, d, 1, a + 1), (d,))] if a > 0 else []
    parts.append(x)
    if b > 0:
        parts.append(P.flip(P.span(x, d, n - 1 - b, n - 1), (d,)))
    return P.concat(tuple(parts), d)


def _replicate(x: Node, d: int, a: int, b: int) -> Node:
    n = x.shape[d]
    edge = lambda k, i: P.broadcast(
        P.span(x, d, i, i + 1), tuple(k if j == d else m for j, m in enumerate(x.shape))
    )
    parts = [edge(a, 0)] if a > 0 else []
    parts.append(x)
    if b > 0:
        parts.append(edge(b, n - 1))
    return P.concat(tuple(parts), d)


def _circular(x: Node, d: int, a: int, b: int) -> Node:
    n = x.shape[d]
    if a < 0 or b < 0:
        x = P.span(x, d, max(-a, 0), n - max(-b, 0))
        n = x.shape[d]
    if a > n or b > n:
        raise RuntimeError("Padding value causes wrapping around more than once.")
    parts = [P.span(x, d, n - a, n)] if a > 0 else []
    parts.append(x)
    if b > 0:
        parts.append(P.span(x, d, 0, b))
    return P.concat(tuple(parts), d)


_ROOM = {2: (2, 3), 4: (3, 4), 6: (4, 5)}


def _check_room(x: Node, pad: Sequence[int], mode: str) -> None:
    if len(x.shape) not in _ROOM.get(len(pad), ()):
        raise NotImplementedError("Only 2D, 3D, 4D, 5D padding with non-constant padding are supported")
    k = len(pad) // 2
    if 0 in x.shape[len(x.shape) - k - (mode != "circular") :]:
        names = {1: "2D or 3D", 2: "3D or 4D", 3: "4D or 5D"}[k]
        raise RuntimeError(
            f"Expected {names} (batch mode) tensor with possibly 0 batch size and other non-zero dimensions "
            f"for input, but got: {list(x.shape)}"
        )


@public(module="nn.functional", method=False)
def pad(input: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """Pad the last dimensions of `input`.

    pad: (low, high) of the last dimension, then of the one before, ...; negative amounts crop. mode:
    "constant", "reflect", "replicate" or "circular"; the last three pad 1 to 3 dimensions of an input with
    channels.
    """
    amounts = [int(p) for p in pad]
    x = read(input)
    if len(amounts) % 2:
        raise RuntimeError("Padding length must be divisible by 2")
    if len(amounts) > 2 * len(x.shape):
        raise RuntimeError(
            "Padding length should be less than or equal to two times the input dimension but got padding "
            f"length {len(amounts)} and input of dimension {len(x.shape)}"
        )
    if mode == "constant":
        return wrap_like(constant_node(x, amounts, 0 if value is None else value), input)
    if value:
        raise RuntimeError(f'Padding mode "{mode}" doesn\'t take in value argument')
    if mode not in ("reflect", "replicate", "circular"):
        raise NotImplementedError(f"Unrecognised padding mode {mode}")
    _check_room(x, amounts, mode)
    last = len(x.shape) - 1
    for i in range(len(amounts) // 2):
        d, a, b = last - i, amounts[2 * i], amounts[2 * i + 1]
        n = x.shape[d]
        if n + a + b < 1 and mode != "circular":
            raise RuntimeError(f"input (W: {n}) is too small. Calculated output W: {n + a + b}")
        if mode == "circular":
            x = _circular(x, d, a, b)
            continue
        if mode == "reflect":
            if a >= n or b >= n:
                raise RuntimeError(
                    "Argument #4: Padding size should be less than the corresponding input dimension, but "
                    f"got: padding ({a}, {b}) at dimension {d} of input {list(input._shape)}"
                )
            x = _reflect(x, d, a, b)
        else:
            x = _replicate(x, d, a, b)
        if a < 0 or b < 0:
            x = P.span(x, d, max(-a, 0), x.shape[d] - max(-b, 0))
    return wrap_like(x, input)


@public("constant_pad_nd", method=False)
def constant_pad_nd(input: Any, pad: Sequence[int], value: Any = 0) -> Any:
    """Pad the last dimensions with a constant; negative amounts crop."""
    if len(pad) % 2:
        raise RuntimeError(f"Length of pad must be even but instead it equals {len(pad)}")
    if len(pad) > 2 * len(input._shape):
        raise RuntimeError(
            "Length of pad should be no more than twice the number of dimensions of the input. Pad length is "
            f"{len(pad)} while the input has {len(input._shape)} dimensions."
        )
    return wrap_like(constant_node(read(input), [int(p) for p in pad], value), input)
