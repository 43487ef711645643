"""Shapes, strides and dimension arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Shape = tuple[int, ...]
MAX_DIMS = 64


class Size(tuple):
    """A shape, as torch.Size: a tuple of ints with numel()."""

    __slots__ = ()

    def numel(self) -> int:
        return math.prod(self)

    def __repr__(self) -> str:
        return f"torch.Size([{', '.join(map(str, self))}])"

    def __add__(self, other: tuple) -> Size:  # type: ignore[override]
        return Size(tuple.__add__(self, tuple(other)))

    def __radd__(self, other: tuple) -> Size:
        return Size(tuple.__add__(tuple(other), self))

    def __mul__(self, n: object) -> Size:  # type: ignore[override]
        return Size(tuple.__mul__(self, n))  # type: ignore[operator]

    __rmul__ = __mul__  # type: ignore[assignment]

    def __getitem__(self, index):  # type: ignore[no-untyped-def, override]
        item = tuple.__getitem__(self, index)
        return Size(item) if isinstance(index, slice) else item

    def __reduce__(self) -> tuple:
        return (Size, (tuple(self),))


def contiguous_strides(shape: Sequence[int]) -> Shape:
    """Return the strides, in elements, of a C-contiguous tensor, as PyTorch reports them."""
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * max(shape[i + 1], 1)
    return tuple(strides)


def is_contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Tell whether elements lie in C order without gaps (dimensions of size 1 may have any stride)."""
    expected = 1
    for n, s in zip(reversed(shape), reversed(strides)):
        if n == 0:
            return True
        if n != 1:
            if s != expected:
                return False
            expected *= n
    return True


def broadcast_shapes(*shapes: Shape) -> Shape:
    """Return the common shape of operands. Raises RuntimeError with PyTorch's text when there is none."""
    first = shapes[0]
    for s in shapes:
        if len(s) != len(first) or s != first:  # no size is compared for nothing: it may have a name
            break
    else:
        return first
    n = max(map(len, shapes))
    out = [1] * n
    for s in shapes:
        off = n - len(s)
        for i in reversed(range(len(s))):  # the error names the last dimension that does not fit
            d, j = s[i], i + off
            if d != out[j]:
                if out[j] == 1:
                    out[j] = d
                elif d != 1:
                    a, b = out[j], d
                    raise RuntimeError(
                        f"The size of tensor a ({a}) must match the size of tensor b ({b}) at "
                        f"non-singleton dimension {j}"
                    )
    return tuple(out)


def wrap_dim(dim: int, ndim: int) -> int:
    """Return `dim` counted from the front. Raises IndexError with PyTorch's text; 0-d counts as one dimension."""
    n = ndim or 1
    if not -n <= dim < n:
        raise IndexError(
            f"Dimension out of range (expected to be in range of [{-n}, {n - 1}], but got {dim})"
        )
    return dim + n if dim < 0 else dim


def wrap_dims(dims: int | Iterable[int] | None, ndim: int) -> Shape:
    """Return sorted, unique dimensions; None means all. Raises RuntimeError for a repeated dimension."""
    if ndim > MAX_DIMS:
        raise RuntimeError(f"only tensors with up to {MAX_DIMS} dims are supported")
    if dims is None:
        return tuple(range(ndim))
    if isinstance(dims, int):
        dims = (dims,)
    out = []
    for d in dims:
        w = wrap_dim(d, ndim)
        if w in out:
            raise RuntimeError(f"dim {w} appears multiple times in the list of dims")
        out.append(w)
    return tuple(sorted(out)) if ndim else ()


def reduced_shape(shape: Shape, dims: Sequence[int], keepdim: bool = False) -> Shape:
    """Return the shape after reducing `dims`."""
    if keepdim:
        return tuple(1 if i in dims else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in dims)


def infer_size(shape: Sequence[int], numel: int) -> Shape:
    """Return `shape` with its -1 resolved for `numel` elements. Raises RuntimeError with PyTorch's texts."""
    known, hole = 1, None
    for i, n in enumerate(shape):
        if n == -1:
            if hole is not None:
                raise RuntimeError("only one dimension can be inferred")
            hole = i
        elif n < 0:
            raise RuntimeError(f"invalid shape dimension {n}")
        else:
            known *= n
    if hole is None:
        if known != numel:
            raise RuntimeError(f"shape '{list(shape)}' is invalid for input of size {numel}")
        return tuple(shape)
    if known == 0:
        if numel == 0:
            raise RuntimeError(
                f"cannot reshape tensor of 0 elements into shape {list(shape)} because the "
                "unspecified dimension size -1 can be any value and is ambiguous"
            )
        raise RuntimeError(f"shape '{list(shape)}' is invalid for input of size {numel}")
    if numel % known:
        raise RuntimeError(f"shape '{list(shape)}' is invalid for input of size {numel}")
    return tuple(numel // known if i == hole else n for i, n in enumerate(shape))


def view_strides(shape: Shape, strides: Shape, new: Shape) -> Shape | None:
    """Return the strides of a view of `new` shape over (shape, strides), or None when a copy is needed.

    Source: the chunk rule of torch.Tensor.view: dimensions merge only where stride[i] = stride[i+1] * size[i+1].
    """
    if 0 in shape:
        return strides if shape == new else contiguous_strides(new)
    if not shape:
        return (1,) * len(new)
    out = [0] * len(new)
    j = len(new) - 1
    base, have, want = strides[-1], 1, 1
    for i in range(len(shape) - 1, -1, -1):
        have *= shape[i]
        if i == 0 or (shape[i - 1] != 1 and strides[i - 1] != have * base):
            while j >= 0 and (want < have or new[j] == 1):
                out[j] = want * base
                want *= new[j]
                j -= 1
            if want != have:
                return None
            if i > 0:
                base, have, want = strides[i - 1], 1, 1
    return tuple(out) if j == -1 else None
