"""Pooling over sliding windows: maximum, average and power mean."""

from __future__ import annotations

import math
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.base.shape import Shape
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import counted, number, public, read, unsupported, wide
from fanal.core.ops.pointwise import pow_node, relu_node
from fanal.core.ops.reduce import wrap_like


def spread(x: Any, n: int, op: str, name: str) -> Shape:
    """Return a pooling setting for every dimension. Raises PyTorch's error when there are too many or few."""
    values = tuple(x) if isinstance(x, (tuple, list)) else (x,)
    if len(values) == 1:
        values = values * n
    if len(values) != n:
        many = {1: "one int", 2: "two ints", 3: "three ints"}[n]
        raise RuntimeError(f"{op}: {name} must either be a single int, or a tuple of {many}")
    return tuple(int(v) for v in values)


def pooled_size(n: int, k: int, stride: int, pad: int, dilation: int, ceil: bool) -> int:
    """Return how many windows there are.

    A window that ceil_mode adds must begin inside the input or left padding.
    """
    over = n + 2 * pad - dilation * (k - 1) - 1 + (stride - 1 if ceil else 0)
    out = over // stride + 1
    if ceil and (out - 1) * stride >= n + pad:
        out -= 1
    return out


class Windows:
    """The checked geometry of a pooling call."""

    __slots__ = ("dilation", "kernel", "n", "out", "pad", "size", "stride")

    def __init__(
        self, op: str, x: Shape, kernel: Any, stride: Any, pad: Any, dilation: Any, ceil: bool, n: int
    ) -> None:
        self.n = n
        self.kernel = spread(kernel, n, op, "kernel_size")
        given = stride is not None and not (isinstance(stride, (tuple, list)) and not stride)
        self.stride = spread(stride, n, op, "stride") if given else self.kernel
        self.pad = spread(pad, n, op, "padding")
        self.dilation = spread(dilation, n, op, "dilation")
        if len(x) not in (n + 1, n + 2) or 0 in x[-n - 1 :]:
            if op.startswith("max_pool2d"):
                raise RuntimeError(
                    "Expected 3D or 4D (batch mode) tensor with optional 0 dim batch size for input, but "
                    f"got:{list(x)}"
                )
            raise RuntimeError(
                f"{op}: Expected {n + 1}D or {n + 2}D (batch mode) tensor with optional 0 dim batch size for "
                f"input, but got:{list(x)}"
            )
        if min(self.kernel) <= 0:
            raise RuntimeError(f"kernel size should be greater than zero, but got {list(self.kernel)}")
        if min(self.stride) <= 0:
            raise RuntimeError("stride should not be zero")
        if min(self.dilation) <= 0:
            where = " ".join(f"dilation{a}: {d}" for a, d in zip("THW"[-n:], self.dilation))
            raise RuntimeError(f"dilation should be greater than zero, but got {where}")
        for k, p, d in zip(self.kernel, self.pad, self.dilation):
            if p < 0:
                raise RuntimeError(f"pad must be non-negative, but got pad: {p}")
            if p > (d * (k - 1) + 1) // 2:
                raise RuntimeError(
                    "pad should be at most half of effective kernel size, but got "
                    f"pad={p}, kernel_size={k} and dilation={d}"
                )
        self.size = x[-n:]
        self.out = tuple(
            pooled_size(s, k, t, p, d, ceil)
            for s, k, t, p, d in zip(self.size, self.kernel, self.stride, self.pad, self.dilation)
        )
        if any(n < 1 for n in self.out):
            c = x[-n - 1]
            shown = ["x".join(map(str, (c, *v))) for v in (self.size, self.out)]
            raise RuntimeError(
                f"Given input size: ({shown[0]}). Calculated output size: ({shown[1]}). Output size is too "
                "small"
            )

    def margins(self, rank: int) -> tuple[Shape, Shape]:
        """Return the padding before and after each of `rank` dimensions.

        The last window may end beyond `pad`.
        """
        lead = (0,) * (rank - self.n)
        high = tuple(
            max(0, (o - 1) * s + d * (k - 1) + 1 - p - m)
            for o, s, d, k, p, m in zip(
                self.out, self.stride, self.dilation, self.kernel, self.pad, self.size
            )
        )
        return lead + self.pad, lead + high

    def sums(self, x: Node) -> Node:
        """Return (..., *out): the sum of each window of the padded input."""
        rank = len(x.shape)
        first = rank - self.n
        covered = tuple(o * k for o, k in zip(self.out, self.kernel))
        if self.stride == self.kernel and not any(self.pad) and set(self.dilation) == {1} and \
                all(c <= s for c, s in zip(covered, self.size)):
            # Windows side by side are parts of rows: one dimension after the other is summed as it lies in memory.
            x = P.corner(x, (*x.shape[:first], *covered))
            x = P.reshape(x, (*x.shape[:first], *(n for pair in zip(self.out, self.kernel) for n in pair)))
            for i in range(self.n):
                x = P.sum_(x, (first + i + 1,))
            return x
        low, high = self.margins(rank)
        w = P.window(P.pad(x, low, high, 0), tuple(range(first, rank)), self.kernel, self.stride, self.dilation)
        if w.shape[first:rank] != self.out:  # a stride that leaves elements over at the end
            w = P.corner(w, (*w.shape[:first], *self.out, *self.kernel))
        return P.sum_(w, tuple(range(rank, rank + self.n)))

    @property
    def geometry(self) -> tuple[Shape, ...]:
        """Return the parameters of the primitives of max pooling."""
        return self.kernel, self.stride, self.pad, self.dilation, self.out


def _check_max_dtype(d: dt.dtype, name: str) -> None:
    if d is dt.bool_ or d.is_complex:
        raise unsupported(name, d)


def _max_pool(
    input: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool, indices: bool, n: int
) -> Any:
    x = read(input)
    w = Windows(f"max_pool{n}d", x.shape, kernel, stride, padding, dilation, ceil, n)
    _check_max_dtype(x.dtype, f"max_pool{n}d")
    y = wrap_like(P.max_pool(x, *w.geometry), input)
    return (y, wrap_like(P.max_pool_at(x, *w.geometry), input)) if indices else y


def _check_max1(
    input: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, indices: bool, ceil: bool
) -> None:
    if len(input._shape) not in (2, 3):
        raise RuntimeError(
            "max_pool1d: Expected 2D or 3D (batch mode) tensor with optional 0 dim batch size for input, but "
            f"got:{list(input._shape)}"
        )
    k, p, d = (
        spread(v, 1, "max_pool1d", m)[0]
        for v, m in ((kernel, "kernel_size"), (padding, "padding"), (dilation, "dilation"))
    )
    s = k if stride is None or stride == () or stride == [] else spread(stride, 1, "max_pool1d", "stride")[0]
    if k <= 0:
        raise RuntimeError(f"max_pool1d() kernel_size must be greater than zero, but got {k}")
    if s <= 0:
        raise RuntimeError(f"max_pool1d() stride must be greater than zero, but got {s}")
    if p < 0:
        raise RuntimeError(f"max_pool1d() padding must be non-negative, but got {p}")
    if p > k // 2:
        raise RuntimeError(
            f"max_pool1d() padding should be at most half of kernel size, but got padding={p} and "
            f"kernel_size={k}"
        )
    if d <= 0:
        raise RuntimeError(f"max_pool1d() dilation must be greater than zero, but got {d}")
    out = pooled_size(input._shape[-1], k, s, p, d, ceil)
    if out <= 0:
        raise RuntimeError(f"max_pool1d() Invalid computed output size: {out}")
    if not indices and input._dtype.category == 1:
        raise unsupported("max_pool1d_impl", input._dtype)


def _register_max(n: int) -> Any:
    """Make max_pool{n}d: with positions where they are asked for (nn.functional), never (torch), or always."""

    def pooled(
        input: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        if n == 1:
            _check_max1(input, kernel_size, stride, padding, dilation, return_indices, ceil_mode)
        return _max_pool(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, n)

    def plain(
        input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
    ) -> Any:
        return pooled(input, kernel_size, stride, padding, dilation, ceil_mode)

    def both(
        input: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = True,
    ) -> Any:
        return pooled(input, kernel_size, stride, padding, dilation, ceil_mode, True)

    name, shape = f"max_pool{n}d", f"(N, C, {('L', 'H, W', 'D, H, W')[n - 1]})"
    pooled.__doc__ = f"Return the maximum of each window of {shape}; the gradient goes to the first maximum."
    plain.__doc__ = pooled.__doc__
    both.__doc__ = f"Return the maxima of windows of {shape}, and their positions in the flattened space."
    public(name, module="nn.functional", method=False)(pooled)
    public(name, method=False)(plain)
    public(name + "_with_indices", module="nn.functional", method=False)(both)
    return both


_maxima1, *_ = map(_register_max, (1, 2, 3))
public("max_pool1d_with_indices", method=False)(
    lambda input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False: _maxima1(
        input, kernel_size, stride, padding, dilation, ceil_mode
    )
)


def _counts(w: Windows, include_pad: bool, d: dt.dtype) -> Node:
    """Return the number of elements PyTorch divides each window by: with padding, or of the input alone."""
    total: Node | None = None
    whole = lambda v: P.full((), v, dt.int64)
    for i, (n, o, k, s, p) in enumerate(zip(w.size, w.out, w.kernel, w.stride, w.pad)):
        shape = tuple(o if j == i else 1 for j in range(w.n))
        start = P.sub(P.mul(P.iota(shape, i, dt.int64), whole(s)), whole(p))
        stop = P.min_(P.add(start, whole(k)), counted(n + p if include_pad else n, dt.int64))
        if not include_pad:
            start = P.max_(start, whole(0))
        count = P.sub(stop, start)
        total = count if total is None else P.mul(total, count)
    assert total is not None
    return P.convert(total, d)


def average(x: Node, w: Windows, ceil: bool, include_pad: bool, divisor: int | None) -> Node:
    """Average every window; elements outside the input count as zeros."""
    y = w.sums(wide(x))
    if divisor is not None:
        by = number(divisor, dt.int64)
    elif ceil or (any(w.pad) and not include_pad):
        by = _counts(w, include_pad, y.dtype)
    else:
        by = counted(math.prod(w.kernel), dt.int64)
    return P.convert((P.idiv if x.dtype.category < 2 else P.div)(y, P.convert(by, y.dtype)), x.dtype)


def _check_avg(
    input: Any, kernel: Any, stride: Any, padding: Any, ceil: bool, divisor: Any, n: int
) -> Windows:
    if divisor == 0:
        raise RuntimeError("divisor must be not zero")
    if n == 1 and len(input._shape) not in (2, 3):
        raise RuntimeError(
            f"Expected 2 to 3 dimensions, but got {len(input._shape)}-dimensional tensor for argument #1 "
            "'self' (while checking arguments for avg_pool1d)"
        )
    if n == 2 and len(input._shape) == 2:
        raise IndexError("Dimension out of range (expected to be in range of [-2, 1], but got -3)")
    if input._dtype.category != 2 and input._dtype not in (dt.int64,):
        raise unsupported(f"avg_pool{max(n, 2)}d", input._dtype)
    return Windows(f"avg_pool{n}d", input._shape, kernel, stride, padding, 1, ceil, n)


@public(method=False)
@public(module="nn.functional", method=False)
def avg_pool1d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    """Return the mean of each window of (N, C, L)."""
    w = _check_avg(input, kernel_size, stride, padding, ceil_mode, None, 1)
    return wrap_like(average(read(input), w, ceil_mode, count_include_pad, None), input)


@public(module="nn.functional", method=False, out="alone")
def avg_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """Return the mean of each window of (N, C, H, W), or its sum over `divisor_override`."""
    w = _check_avg(input, kernel_size, stride, padding, ceil_mode, divisor_override, 2)
    return wrap_like(average(read(input), w, ceil_mode, count_include_pad, divisor_override), input)


@public(module="nn.functional", method=False, out="alone")
def avg_pool3d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """Return the mean of each window of (N, C, D, H, W), or its sum over `divisor_override`."""
    w = _check_avg(input, kernel_size, stride, padding, ceil_mode, divisor_override, 3)
    return wrap_like(average(read(input), w, ceil_mode, count_include_pad, divisor_override), input)


def _lp(input: Any, norm_type: float, kernel_size: Any, stride: Any, ceil_mode: bool, n: int) -> Any:
    x = read(input)
    w = Windows(f"avg_pool{n}d", x.shape, kernel_size, stride, 0, 1, ceil_mode, n)
    y = average(pow_node(x, norm_type), w, ceil_mode, True, None)
    k = counted(math.prod(w.kernel), x.dtype)
    positive = P.mul(P.sign(y), relu_node(P.abs_(y)))
    return wrap_like(pow_node(P.mul(positive, k), 1.0 / norm_type), input)


@public(module="nn.functional", method=False)
def lp_pool1d(
    input: Any, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Any:
    """Return the p-norm of each window of (N, C, L)."""
    return _lp(input, norm_type, kernel_size, stride, ceil_mode, 1)


@public(module="nn.functional", method=False)
def lp_pool2d(
    input: Any, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Any:
    """Return the p-norm of each window of (N, C, H, W)."""
    return _lp(input, norm_type, kernel_size, stride, ceil_mode, 2)


@public(module="nn.functional", method=False)
def lp_pool3d(
    input: Any, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Any:
    """Return the p-norm of each window of (N, C, D, H, W)."""
    return _lp(input, norm_type, kernel_size, stride, ceil_mode, 3)

