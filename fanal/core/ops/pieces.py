"""Views of parts: select, narrow, unbind and the ways to split."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from fanal.core.base.dim import fixed, index, limits, whole
from fanal.core.base.shape import wrap_dim
from fanal.core.base.state import state
from fanal.core.engine.handle import Chain, Handle, Origin, counted
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node
from fanal.core.ops.build import node_of, public, read, result
from fanal.core.ops.shape import as_strided, clone, contiguous, diagonal, view_of
from fanal.core.tensor.alias import leaf_of, write_through
from fanal.core.tensor.tensor import strides_of


def sliced(t: Any, dim: int, start: int, stop: int, step: int = 1) -> Any:
    """Return t[start:stop:step] along one dimension; 0 <= start <= stop <= size, step >= 1."""
    shape, st = t._shape, strides_of(t)
    n = len(shape)
    starts = tuple(start if d == dim else 0 for d in range(n))
    stops = tuple(stop if d == dim else shape[d] for d in range(n))
    steps = tuple(step if d == dim else 1 for d in range(n))
    count = max(0, -(-(stop - start) // step))
    return view_of(
        t,
        ((P.slice_, (starts, stops, steps)),),
        (*shape[:dim], count, *shape[dim + 1 :]),
        tuple(s * step if d == dim else s for d, s in enumerate(st)),
        t._offset + start * st[dim],
    )


def dropped(t: Any, dim: int, index: int) -> Any:
    """Return t[index] along one dimension, which disappears; 0 <= index < size."""
    shape, st = t._shape, strides_of(t)
    starts = tuple(index if d == dim else 0 for d in range(len(shape)))
    stops = tuple(index + 1 if d == dim else n for d, n in enumerate(shape))
    new = (*shape[:dim], *shape[dim + 1 :])
    chain: Chain = ((P.slice_, (starts, stops, (1,) * len(shape))), (P.reshape, (new,)))
    return view_of(t, chain, new, (*st[:dim], *st[dim + 1 :]), t._offset + index * st[dim])


@public()
def select(input: Any, dim: int, index: int) -> Any:
    """Return a view of one position along a dimension."""
    n = len(input._shape)
    if not n:
        raise IndexError("select() cannot be applied to a 0-dim tensor.")
    d = wrap_dim(dim, n)
    size, i = input._shape[d], whole(index)
    if not -size <= i < size:
        raise IndexError(
            f"select(): index {i} out of range for tensor of size {list(input._shape)} at dimension {d}"
        )
    return dropped(input, d, i + size if i < 0 else i)


@public()
def narrow(input: Any, dim: int, start: Any, length: int) -> Any:
    """Return a view of `length` positions from `start` on."""
    n = len(input._shape)
    if not n:
        raise RuntimeError("narrow() cannot be applied to a 0-dim tensor.")
    if length < 0:
        raise RuntimeError("narrow(): length must be non-negative.")
    if isinstance(start, Handle) and (start._shape or start._dtype.category != 1):
        raise RuntimeError("start must be an 0-dim integral Tensor.")
    d = wrap_dim(dim, n)
    size, a = input._shape[d], index(start)
    if not -size <= a <= size:
        raise IndexError(f"start out of range (expected to be in range of [{-size}, {size}], but got {a})")
    a = a + size if a < 0 else a
    if a + length > size:
        raise RuntimeError(f"start ({a}) + length ({length}) exceeds dimension size ({size}).")
    return sliced(input, d, a, a + length)


@public(out="alone")
def narrow_copy(input: Any, dim: int, start: int, length: int) -> Any:
    """Return a copy of `length` positions from `start` on."""
    if dim >= len(input._shape) > 0:  # here, unlike narrow(), PyTorch has no text of its own
        raise RuntimeError(f"Expected dim < {len(input._shape)}, the number of dimensions, but got {dim}")
    return _copy(narrow(input, dim, start, length))


def _copy(t: Any) -> Any:
    return contiguous(clone(t))


@public(method=False, out="alone")
def select_copy(input: Any, dim: int, index: int) -> Any:
    """Return a copy of one position along a dimension."""
    return _copy(select(input, dim, index))


@public(method=False, out="alone")
def slice_copy(
    input: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Any:
    """Return a copy of input[start:end:step] along a dimension."""
    d = wrap_dim(dim, len(input._shape))
    a, b, s = limits(slice(start, end, step), input._shape[d])
    return _copy(sliced(input, d, a, max(a, b), s))


@public(out="alone")
def slice_scatter(
    input: Any, src: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Any:
    """Return input with input[start:end:step] along `dim` replaced by src."""
    return _replaced(input, src, lambda t: sliced_range(t, wrap_dim(dim, len(t._shape)), start, end, step))


def sliced_range(t: Any, d: int, start: int | None, end: int | None, step: int) -> Any:
    """Return t[start:end:step] along one dimension, by Python's rules."""
    a, b, s = limits(slice(start, end, step), t._shape[d])
    return sliced(t, d, a, max(a, b), s)


def _replaced(t: Any, src: Any, part: Any) -> Any:
    shown = part(t)
    if shown._shape != src._shape:
        raise RuntimeError(
            f"expected src to have a size equal to the slice of self. src size = {list(src._shape)}, slice "
            f"size = {list(shown._shape)}"
        )
    n: Node = write_through(read(t), shown._chain[len(t._chain) :], node_of(src, t._dtype))
    return result(n, t)


@public(out="alone")
def select_scatter(input: Any, src: Any, dim: int, index: int) -> Any:
    """Return input with position `index` along `dim` replaced by src."""
    return _replaced(input, src, lambda t: select(t, dim, index))


@public(out="alone")
def diagonal_scatter(input: Any, src: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """Return input with a diagonal replaced by src."""
    return _replaced(input, src, lambda t: diagonal(t, offset, dim1, dim2))


@public(out="alone")
def as_strided_scatter(
    input: Any, src: Any, size: Any, stride: Any, storage_offset: int | None = None
) -> Any:
    """Return input with the elements of as_strided(input, size, stride) replaced by src."""
    return _replaced(clone(input), src, lambda t: as_strided(t, size, stride, storage_offset))


@public()
def unbind(input: Any, dim: int = 0) -> tuple:
    """Return views of all positions along a dimension."""
    if not input._shape:
        raise IndexError("Dimension specified as 0 but tensor has no dimensions")
    d = wrap_dim(dim, len(input._shape))
    return _many(tuple(dropped(input, d, i) for i in range(input._shape[d])), "Unbind")


def _many(views: tuple, name: str) -> tuple:
    """Note that one call made several views: no in-place write through one of them, or to their base, can be followed
    into their histories while gradients are recorded; as PyTorch."""
    if state.grad:
        for k, v in enumerate(views):
            v._base_ref = Origin("several", counted(v._storage), leaf_of(v), (k, name) if v.requires_grad else None)
    return views


@public(method=False, out="alone")
def unbind_copy(input: Any, dim: int = 0) -> tuple:
    """Return copies of all positions along a dimension."""
    return tuple(_copy(t) for t in unbind(input, dim))


def _need_dims(t: Any, name: str) -> None:
    if not t._shape:
        raise RuntimeError(f"{name} expects at least a 1-dimensional tensor")


def _split(input: Any, split_size: Any, dim: int = 0) -> tuple:
    if not isinstance(split_size, int):
        return _split_with_sizes(input, split_size, dim)
    k = split_size
    _need_dims(input, "split")
    d = wrap_dim(dim, len(input._shape))
    n = input._shape[d]
    if k < 0:
        raise RuntimeError(f"split expects split_size be non-negative, but got split_size={k}")
    if k == 0:
        if n:
            raise RuntimeError(
                f"split_size can only be 0 if dimension size is 0, but got dimension size of {n}"
            )
        return (sliced(input, d, 0, 0),)
    starts = [i * k for i in range(fixed(-(-max(n, 1) // k)))]
    return tuple(sliced(input, d, a, min(a + k, n)) for a in starts)


@public(method=False)
def split(tensor: Any, split_size_or_sections: Any, dim: int = 0) -> tuple:
    """Return views of `split_size_or_sections` positions each, or of the given sizes."""
    sized = isinstance(split_size_or_sections, int)
    return _many(_split(tensor, split_size_or_sections, dim), "Split" if sized else "SplitWithSizes")


@public("split", function=False)
def split_method(self: Any, split_size: Any, dim: int = 0) -> tuple:
    """Return views of `split_size` positions each, or of the given sizes."""
    return split(self, split_size, dim)


def _split_with_sizes(input: Any, split_sizes: Any, dim: int = 0) -> tuple:
    _need_dims(input, "split")
    d = wrap_dim(dim, len(input._shape))
    sizes = [whole(s) for s in split_sizes]
    n = input._shape[d]
    if any(s < 0 for s in sizes):
        raise RuntimeError(
            "split_with_sizes expects split_sizes have only non-negative entries, but got "
            f"split_sizes={sizes}"
        )
    if sum(sizes) != n:
        raise RuntimeError(
            f"split_with_sizes expects split_sizes to sum exactly to {n} (input tensor's size at dimension "
            f"{d}), but got split_sizes={sizes}"
        )
    out, at = [], 0
    for s in sizes:
        out.append(sliced(input, d, at, at + s))
        at += s
    return tuple(out)


@public()
def split_with_sizes(input: Any, split_sizes: Any, dim: int = 0) -> tuple:
    """Return views of the given sizes, which must cover the dimension."""
    return _many(_split_with_sizes(input, split_sizes, dim), "SplitWithSizes")


@public(method=False, out="alone")
def split_copy(input: Any, split_size: int, dim: int = 0) -> tuple:
    """Return copies of parts of `split_size`; the last may be smaller."""
    return tuple(_copy(t) for t in split(input, index(split_size), dim))


@public(method=False, out="alone")
def split_with_sizes_copy(input: Any, split_sizes: Any, dim: int = 0) -> tuple:
    """Return copies of parts of the given sizes."""
    return tuple(_copy(t) for t in split_with_sizes(input, split_sizes, dim))


def _chunk(input: Any, chunks: int, dim: int = 0) -> tuple:
    _need_dims(input, "chunk")
    if chunks <= 0:
        raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    d = wrap_dim(dim, len(input._shape))
    n = input._shape[d]
    if not n:
        return tuple(sliced(input, d, 0, 0) for _ in range(chunks))
    return _split(input, -(-n // chunks), d)


@public()
def chunk(input: Any, chunks: int, dim: int = 0) -> tuple:
    """Return at most `chunks` views of equal size; the last may be smaller."""
    return _many(_chunk(input, chunks, dim), "Split")


# The views of split, split_with_sizes and chunk, which may be written in place while gradients are recorded.
_UNSAFE = {"unsafe_split": _split, "unsafe_split_with_sizes": _split_with_sizes, "unsafe_chunk": _chunk}
for _name, _fn in _UNSAFE.items():
    public(_name)(_fn)


def _cuts(given: Any, indices: Any, sections: Any, name: str) -> Any:
    """Return where to split: PyTorch takes it in place, or by either name."""
    found = [x for x in (given, indices, sections) if x is not None]
    if len(found) != 1:
        raise TypeError(f"{name}() received an invalid combination of arguments: give either indices or sections")
    if isinstance(found[0], str):
        raise TypeError(f"{name}(): argument 'indices' (position 2) must be tuple of ints, not str")
    return found[0]


@public()
def tensor_split(
    input: Any,
    indices_or_sections: Any = None,
    dim: int = 0,
    *,
    indices: Any = None,
    sections: Any = None,
    tensor_indices_or_sections: Any = None,
) -> tuple:
    """Return views that divide a dimension into sections, or at indices; sizes need not be equal."""
    if not input._shape:
        raise RuntimeError(
            "tensor_split expected at least a 1-dimensional tensor, but got a tensor with 0 dims"
        )
    d = wrap_dim(dim, len(input._shape))
    given = tensor_indices_or_sections if indices_or_sections is None else indices_or_sections
    n, at = input._shape[d], _cuts(given, indices, sections, "tensor_split")
    if isinstance(at, Handle):
        if at._dtype.name != "int64":
            raise RuntimeError(
                "tensor_split expected tensor_indices_or_sections to have dtype of long, but got "
                f"{at._dtype.name}"
            )
        at = at.tolist()
    if isinstance(at, int):
        if at <= 0:
            raise RuntimeError(f"number of sections must be larger than 0, got {at}")
        q, r = divmod(n, at)
        ends = [q * (i + 1) + min(i + 1, r) for i in range(at)]
        return tuple(sliced(input, d, a, b) for a, b in zip([0, *ends], ends))
    cuts = [slice(int(i), None).indices(n)[0] for i in at]
    bounds = [0, *cuts, n]
    return tuple(sliced(input, d, a, max(a, b)) for a, b in pairwise(bounds))


def _splitter(name: str, need: int, dim: int) -> None:
    def fn(input: Any, indices_or_sections: Any = None, *, indices: Any = None, sections: Any = None) -> tuple:
        rank = len(input._shape)
        if rank < need:
            raise RuntimeError(
                f"torch.{name} requires a tensor with at least {need} dimension, but "
                f"got a tensor with {rank} dimensions!"
            )
        d, how = 0 if rank == 1 else dim, _cuts(indices_or_sections, indices, sections, name)
        n = input._shape[d]
        if isinstance(how, int) and (how <= 0 or n % how):
            raise RuntimeError(
                f"torch.{name} attempted to split along dimension {d}, but the size of the dimension {n} is "
                f"not divisible by the split_size {how}!"
            )
        return tensor_split(input, how, d)

    fn.__name__, fn.__doc__ = name, f"Return views that divide dimension {dim}, as numpy.{name}."
    public(name)(fn)


_splitter("hsplit", 1, 1)
_splitter("vsplit", 2, 0)
_splitter("dsplit", 3, 2)
