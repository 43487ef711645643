"""Memory formats and layouts: names for how elements lie in memory, as torch.memory_format and torch.layout."""

from __future__ import annotations

from collections.abc import Sequence

from fanal.core.base.shape import Shape, contiguous_strides, is_contiguous


class _Name:
    """A singleton known by its name."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"torch.{self.name}"

    def __reduce__(self) -> tuple:
        return (by_name, (self.name,))


class memory_format(_Name):
    """An order of dimensions in memory."""

    __slots__ = ()


class layout(_Name):
    """A way of storing elements; Fanal's tensors are strided."""

    __slots__ = ()


contiguous_format = memory_format("contiguous_format")
preserve_format = memory_format("preserve_format")
channels_last = memory_format("channels_last")
channels_last_3d = memory_format("channels_last_3d")
strided = layout("strided")
sparse_coo = layout("sparse_coo")
sparse_csr = layout("sparse_csr")
CONSTANTS = {
    n.name: n
    for n in (
        contiguous_format,
        preserve_format,
        channels_last,
        channels_last_3d,
        strided,
        sparse_coo,
        sparse_csr,
    )
}


def by_name(name: str) -> _Name:
    """Return the constant called `name`."""
    return CONSTANTS[name]


def format_strides(shape: Shape, to: memory_format) -> Shape:
    """Return the strides of a dense tensor in a format. Raises RuntimeError when the rank does not fit it."""
    rank = {"channels_last": 4, "channels_last_3d": 5}.get(to.name)
    if rank is None:
        return contiguous_strides(shape)
    if len(shape) != rank:
        raise RuntimeError(f"required rank {rank} tensor to use {to.name} format")
    order = (0, *range(2, rank), 1)
    dense = contiguous_strides([shape[d] for d in order])
    out = [0] * rank
    for d, s in zip(order, dense):
        out[d] = s
    return tuple(out)


def is_format(shape: Shape, strides: Sequence[int], to: memory_format) -> bool:
    """Tell whether elements lie in the order of a format, without gaps."""
    if to.name not in ("channels_last", "channels_last_3d"):
        return is_contiguous(shape, strides)
    if len(shape) != (4 if to is channels_last else 5):
        return False
    order = (0, *range(2, len(shape)), 1)
    return is_contiguous([shape[d] for d in order], [strides[d] for d in order])
