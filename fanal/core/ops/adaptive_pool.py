"""Pooling to a given size, fractional pooling, and the inverse of max pooling."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.shape import Shape
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import public, read, unsupported
from fanal.core.ops.pool import Windows, average, spread
from fanal.core.ops.random import rand
from fanal.core.ops.reduce import mean, wrap_like


def _target(x: Shape, size: Any, n: int) -> Shape:
    values = tuple(size) if isinstance(size, (tuple, list)) else (size,) * n
    if n > 1 and isinstance(size, (tuple, list)) and len(x) <= len(values):
        raise ValueError(f"Input dimension should be at least {len(values) + 1}")
    return tuple(x[-n + i] if v is None else int(v) for i, v in enumerate(values))


def _check(x: Shape, out: Shape, n: int, op: str) -> None:
    if len(x) not in (n + 1, n + 2):
        if n == 1:
            raise RuntimeError(
                f"Expected 2 to 3 dimensions, but got {len(x)}-dimensional tensor for argument #1 'self' "
                f"(while checking arguments for {op})"
            )
        colon = ":" if "max" in op else ""
        raise RuntimeError(f"{op}(): Expected {n + 1}D or {n + 2}D tensor, but got{colon} {list(x)}")
    if len(out) != n:
        raise RuntimeError(f"{op}: output_size must be {n}")
    for i in range(len(x) - n - (1 if "max" in op else 0), len(x)):
        if i > 0 and x[i] == 0:
            raise RuntimeError(
                f"{op}(): Expected input to have non-zero size for non-batch dimensions, but input has sizes "
                f"{list(x)} with dimension {i} being empty"
            )
    if min(out) < 0:
        raise RuntimeError(
            f"{op}: elements of output_size must be greater than or equal to 0 but received "
            "{" + ", ".join(map(str, out)) + "}"
        )


def _even(size: Shape, out: Shape) -> bool:
    """Tell whether all windows have one size and do not overlap."""
    return all(o > 0 and s % o == 0 for s, o in zip(size, out))


@functools.lru_cache(256)
def _spans(n: int, out: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (out, K) positions of each window, its last one repeated, and the mask of those not repeated."""
    starts = [i * n // out for i in range(out)]
    stops = [-(-(i + 1) * n // out) for i in range(out)]
    k = max((b - a for a, b in zip(starts, stops)), default=1)
    at = np.array([[min(a + j, b - 1) for j in range(k)] for a, b in zip(starts, stops)], np.int64).reshape(
        out, k
    )
    inside = np.array([[a + j < b for j in range(k)] for a, b in zip(starts, stops)], bool).reshape(out, k)
    return at, inside


def _average_along(x: Node, dim: int, out: int) -> Node:
    """Average to `out` places along one dimension, by windows that may overlap."""
    at, inside = _spans(x.shape[dim], out)
    t = P.take(x, P.given(at), dim)
    shape = tuple(n if d in (dim, dim + 1) else 1 for d, n in enumerate(t.shape))
    t = P.where(P.reshape(P.given(inside), shape), t, P.num(t, 0))
    count = P.given(np.ascontiguousarray(inside.sum(1), np.int64))
    shape = tuple(out if d == dim else 1 for d in range(len(x.shape)))
    return P.div(P.sum_(t, (dim + 1,)), P.convert(P.reshape(count, shape), x.dtype))


def _average(x: Node, out: Shape) -> Node:
    """Average the last dimensions to sizes `out`."""
    n = len(out)
    size = x.shape[-n:]
    if _even(size, out):
        k = tuple(s // o for s, o in zip(size, out))
        if 0 in x.shape:
            return P.reshape(P.corner(x, (0,) * len(x.shape)), (*x.shape[:-n], *out))
        return average(x, Windows("adaptive", x.shape, k, k, 0, 1, False, n), False, True, None)
    for i, o in enumerate(out):
        dim = len(x.shape) - n + i
        if x.shape[dim] != o:
            x = _average_along(x, dim, o)
    return x


def adaptive_average(input: Any, output_size: Any, n: int) -> Any:
    """Average the last n dimensions to the given sizes."""
    x = read(input)
    out = _target(x.shape, output_size, n)
    if out == (1,) * n and (n > 1 or len(x.shape) in (2, 3)):  # as in PyTorch, of any rank, size and dtype
        return mean(input, tuple(range(-n, 0)), True)
    _check(x.shape, out, n, f"adaptive_avg_pool{n}d")
    if x.dtype.category != 2:
        raise unsupported(f"adaptive_avg_pool{max(n, 2)}d", x.dtype)
    return wrap_like(_average(x, out), input)


@public(method=False)
@public(module="nn.functional", method=False)
def adaptive_avg_pool1d(input: Any, output_size: Any) -> Any:
    """Average (N, C, L) to length `output_size`."""
    return adaptive_average(input, output_size, 1)


@public(module="nn.functional", method=False)
def adaptive_avg_pool2d(input: Any, output_size: Any) -> Any:
    """Average (N, C, H, W) to (N, C, *output_size); None keeps a size."""
    return adaptive_average(input, output_size, 2)


@public(module="nn.functional", method=False)
def adaptive_avg_pool3d(input: Any, output_size: Any) -> Any:
    """Average (N, C, D, H, W) to (N, C, *output_size); None keeps a size."""
    return adaptive_average(input, output_size, 3)


def _flat_table(size: Shape, spans: Sequence[np.ndarray]) -> np.ndarray:
    """Return (*out, K) flat positions of the elements of every window, in row-major order."""
    n = len(size)
    table = np.zeros((1,) * (2 * n), np.int64)
    for i, (s, at) in enumerate(zip(size, spans)):
        table = table * s + at.reshape(
            [at.shape[0] if j == i else at.shape[1] if j == n + i else 1 for j in range(2 * n)]
        )
    return np.ascontiguousarray(table.reshape(*table.shape[:n], -1))


def pick(x: Node, table: Node, n: int) -> tuple[Node, Node]:
    """Return the maximum over listed elements of the last `n` dimensions, and its flat position.

    table: (*out, K), or (N, C, *out, K), of flat positions; of equals the first counts.
    """
    lead = x.shape[:-n]
    flat = P.reshape(x, (*lead, math.prod(x.shape[-n:])))
    if len(table.shape) == n + 1:
        seen = P.take(P.detach(flat), table, len(lead))
        table = P.broadcast(table, seen.shape)
    else:
        rows = (*lead, math.prod(table.shape[len(lead) :]))
        seen = P.reshape(P.gather(P.detach(flat), P.reshape(table, rows), len(lead)), table.shape)
    last = len(seen.shape) - 1
    best = P.argmax(seen, last)
    at = P.reshape(P.gather(table, P.reshape(best, (*best.shape, 1)), last), best.shape)
    y = P.gather(flat, P.reshape(at, (*lead, math.prod(at.shape[len(lead) :]))), len(lead))
    return P.reshape(y, at.shape), at


def _adaptive_max(input: Any, output_size: Any, indices: bool, n: int) -> Any:
    x = read(input)
    out = _target(x.shape, output_size, n)
    _check(x.shape, out, n, f"adaptive_max_pool{n}d")
    if x.dtype.category != 2:
        raise unsupported(f"adaptive_max_pool{max(n, 2)}d", x.dtype)
    if 0 in out or 0 in x.shape:
        shape = (*x.shape[:-n], *out)
        y, at = P.reshape(P.corner(x, (0,) * len(x.shape)), shape), P.zeros(shape, dt.int64)
    elif _even(x.shape[-n:], out):
        k = tuple(s // o for s, o in zip(x.shape[-n:], out))
        geometry = Windows(f"adaptive_max_pool{n}d", x.shape, k, k, 0, 1, False, n).geometry
        y, at = P.max_pool(x, *geometry), P.max_pool_at(x, *geometry)
    else:
        y, at = pick(
            x, P.given(_flat_table(x.shape[-n:], [_spans(s, o)[0] for s, o in zip(x.shape[-n:], out)])), n
        )
    return (wrap_like(y, input), wrap_like(at, input)) if indices else wrap_like(y, input)


def _register_adaptive_max(n: int) -> None:
    def plain(input: Any, output_size: Any, return_indices: bool = False) -> Any:
        return _adaptive_max(input, output_size, return_indices, n)

    def both(input: Any, output_size: Any, return_indices: bool = True) -> Any:
        return _adaptive_max(input, output_size, True, n)

    name = f"adaptive_max_pool{n}d"
    plain.__name__, both.__name__ = name, name + "_with_indices"
    plain.__doc__ = (
        f"Return the maximum of {n}-dimensional windows, so many that the result has `output_size`."
    )
    both.__doc__ = f"Return the maxima of {n}-dimensional windows and their flat positions."
    public(name, module="nn.functional", method=False)(plain)
    public(name + "_with_indices", module="nn.functional", method=False)(both)


for _n in (1, 2, 3):
    _register_adaptive_max(_n)
public("adaptive_max_pool1d", method=False)(
    lambda input, output_size: _adaptive_max(input, output_size, True, 1)
)


def _fractional(
    input: Any, kernel_size: Any, output_size: Any, output_ratio: Any, indices: bool, samples: Any, n: int
) -> Any:
    name = f"fractional_max_pool{n}d"
    if output_size is None and output_ratio is None:
        raise ValueError(f"{name} requires specifying either an output_size or an output_ratio")
    x = read(input)
    if len(x.shape) not in (n + 1, n + 2) or 0 in x.shape[-n - 1 :]:
        raise RuntimeError(f"{name}(): Expected {n + 1}D or {n + 2}D tensor, but got: {list(x.shape)}")
    kernel = spread(kernel_size, n, name, "kernel_size")
    size = x.shape[-n:]
    if output_size is None:
        ratio = output_ratio if isinstance(output_ratio, (tuple, list)) else (output_ratio,) * n
        output_size = tuple(int(s * r) for s, r in zip(size, ratio))
    out = spread(output_size, n, name, "output_size")
    for s, k, o, a in zip(size, kernel, out, ("time", "height", "width")[-n:]):
        if o + k - 1 > s:
            raise RuntimeError(f"{name}(): pool {a} {k} too large relative to input {a} {s}")
    single = len(x.shape) == n + 1
    batch, channels = (1 if single else x.shape[0]), x.shape[-n - 1]
    u = P.detach(read(samples))
    _check_samples(u, x, batch, channels, n)
    table: Node | None = None
    for i in range(n):
        # PyTorch's samples are ordered (w, h) in two dimensions and (t, h, w) in three.
        axis = n - 1 - i if n == 2 else i
        start = _fractional_starts(
            P.reshape(P.corner(P.span(u, 2, axis, axis + 1), (batch, channels, 1)), (batch, channels)),
            size[i],
            out[i],
            kernel[i],
        )
        shape = (batch, channels, *(out[j] if j == i else 1 for j in range(n)), *(1,) * n)
        step = P.iota((*(1,) * (n + 2), *(kernel[j] if j == i else 1 for j in range(n))), n + 2 + i, dt.int64)
        at = P.add(P.reshape(start, shape), step)
        table = at if table is None else P.add(P.mul(table, P.full((), size[i], dt.int64)), at)
    assert table is not None
    table = P.reshape(table, (batch, channels, *out, math.prod(kernel)))
    y, at = pick(P.reshape(x, (batch, channels, *size)) if single else x, table, n)
    if single:
        y, at = P.reshape(y, y.shape[1:]), P.reshape(at, at.shape[1:])
    return (wrap_like(y, input), wrap_like(at, input)) if indices else wrap_like(y, input)


def _check_samples(u: Node, x: Node, batch: int, channels: int, n: int) -> None:
    """Raise PyTorch's error unless there is a number for every window; more batches than needed may be given."""
    if u.dtype is not x.dtype and x.dtype.itemsize >= 4:
        raise RuntimeError(
            f"expected scalar type {dt.scalar_name(x.dtype)} but found {dt.scalar_name(u.dtype)}"
        )
    if len(u.shape) != 3:
        raise RuntimeError(f"Expect _random_samples to have 3 dimensions, got {len(u.shape)}")
    if u.shape[0] < batch:
        raise RuntimeError("Expect _random_samples.size(0) no less then input batch size.")
    if u.shape[1] != channels:
        raise RuntimeError("Expect _random_samples.size(1) equals to input channel size.")
    if u.shape[2] != n:
        raise RuntimeError(f"Expect _random_samples.size(2) equals to {n}; got {u.shape[2]}.")


def _fractional_starts(u: Node, size: int, out: int, kernel: int) -> Node:
    """Return (N, C, out) window starts.

    Source: Graham, "Fractional max-pooling" (2014), as PyTorch spaces them.
    """
    last = P.full((*u.shape, 1), size - kernel, dt.int64)
    if out == 1:
        return last
    u = P.reshape(u, (*u.shape, 1))
    alpha = P.num(u, (size - kernel) / (out - 1))
    i = P.iota((1, 1, out - 1), 2, u.dtype)
    first = P.sub(P.trunc(P.mul(P.add(i, u), alpha)), P.trunc(P.mul(u, alpha)))
    return P.concat((P.convert(first, dt.int64), last), 2)


def _register_fractional(n: int) -> None:
    def drawn(
        input: Any,
        kernel_size: Any,
        output_size: Any = None,
        output_ratio: Any = None,
        return_indices: bool = False,
        _random_samples: Any = None,
    ) -> tuple[tuple, dict]:
        size = input._shape
        if _random_samples is None and len(size) in (n + 1, n + 2):
            batch = size[0] if len(size) == n + 2 else 1
            d = dt.float32 if input._dtype.itemsize < 8 else input._dtype
            _random_samples = rand(batch, size[-n - 1], n, dtype=d)
        return (input, kernel_size, output_size, output_ratio, return_indices, _random_samples), {}

    def plain(
        input: Any,
        kernel_size: Any,
        output_size: Any = None,
        output_ratio: Any = None,
        return_indices: bool = False,
        _random_samples: Any = None,
    ) -> Any:
        return _fractional(input, kernel_size, output_size, output_ratio, return_indices, _random_samples, n)

    def both(
        input: Any,
        kernel_size: Any,
        output_size: Any = None,
        output_ratio: Any = None,
        return_indices: bool = True,
        _random_samples: Any = None,
    ) -> Any:
        return _fractional(input, kernel_size, output_size, output_ratio, True, _random_samples, n)

    name = f"fractional_max_pool{n}d"
    plain.__name__, both.__name__ = name, name + "_with_indices"
    plain.__doc__ = (
        "Return the maximum of windows at pseudo-random places; shapes as max_pool with `output_size`."
    )
    both.__doc__ = "Return the maxima of windows at pseudo-random places and their flat positions."
    public(name, module="nn.functional", method=False, prepare=drawn)(plain)
    public(name + "_with_indices", module="nn.functional", method=False, prepare=drawn)(both)


_register_fractional(2)
_register_fractional(3)


def _unpool(
    input: Any, indices: Any, kernel_size: Any, stride: Any, padding: Any, output_size: Any, n: int
) -> Any:
    name = f"max_unpool{n}d"
    if indices._dtype is not dt.int64:
        raise RuntimeError(
            f"elements in indices should be type int64 but got: {dt.scalar_name(indices._dtype)}"
        )
    x = read(input)
    if len(x.shape) not in (n + 1, n + 2):
        raise RuntimeError(
            f"Input to {name} should be a {n + 1}d or {n + 2}d Tensor, but got a tensor with {len(x.shape)} "
            "dimensions."
        )
    if indices._shape != x.shape:
        raise RuntimeError(
            f"Expected shape of indices to be same as that of the input tensor ({list(x.shape)}) but got "
            f"indices tensor with shape: {list(indices._shape)}"
        )
    kernel = spread(kernel_size, n, name, "kernel_size")
    given = stride is not None and not (isinstance(stride, (tuple, list)) and not stride)
    step = spread(stride, n, name, "stride") if given else kernel
    pad = spread(padding, n, name, "padding")
    usual = tuple((s - 1) * t + k - 2 * p for s, t, k, p in zip(x.shape[-n:], step, kernel, pad))
    size = usual
    if output_size is not None:
        size = tuple(output_size)
        if len(size) == n + 2:
            size = size[2:]
        elif len(size) == n + 1 and len(x.shape) == n + 1:
            size = size[1:]
        if len(size) != n:
            raise ValueError(
                f"output_size should be a sequence containing {n} or {n + 2} elements, but it has a "
                f"length of '{len(output_size)}'"
            )
        for d in range(n):
            low, high = usual[d] - step[d], usual[d] + step[d]
            if not low < size[d] < high:
                raise ValueError(
                    f'invalid output_size "{list(output_size)}" (dim {d} must be between {low} and {high})'
                )
    lead, total = x.shape[:-n], math.prod(size)
    rows = (*lead, math.prod(x.shape[-n:]))
    y = P.scatter(
        P.zeros((*lead, total), x.dtype), P.reshape(read(indices), rows), P.reshape(x, rows), len(lead), "set"
    )
    return wrap_like(P.reshape(y, (*lead, *size)), input)


def _register_unpool(n: int) -> None:
    def unpool(
        input: Any,
        indices: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        output_size: Any = None,
    ) -> Any:
        return _unpool(input, indices, kernel_size, stride, padding, output_size, n)

    unpool.__name__ = f"max_unpool{n}d"
    unpool.__doc__ = "Put values back at the positions that max pooling reports; zeros elsewhere."
    public(unpool.__name__, module="nn.functional", method=False)(unpool)


for _n in (1, 2, 3):
    _register_unpool(_n)
