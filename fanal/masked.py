"""Reductions and normalisations under a mask, as torch.masked. MaskedTensor is not available."""

from __future__ import annotations

from typing import Any

from fanal.core.ops import surface as _surface

_surface.install("masked")
from fanal.core.ops import masked as _masked  # noqa: E402  # after install, which sees what the import registers

globals().update(_surface.FUNCTIONS["masked"])

_REDUCTIONS = frozenset("sum prod amax amin argmax argmin mean median norm var std logsumexp".split())


def _input_mask(input: Any, *args: Any, mask: Any = None, **kwargs: Any) -> Any:
    """Return the mask as booleans of the input's shape. Raises ValueError without a mask."""
    if mask is None:
        raise ValueError("_input_mask requires explicit mask")
    return _masked.kept(input, mask)


def _output_mask(op: Any, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Return where the result of a masked function comes from at least one element kept."""
    kept = _input_mask(input, *args, **kwargs)
    if op.__name__ not in _REDUCTIONS:
        return kept
    args = args[1:] if op.__name__ == "norm" else args
    dims = _masked.dims_of(args[0] if args else kwargs.get("dim"), input.ndim)
    return kept.any(dims, keepdim=bool(kwargs.get("keepdim", False))) if input.ndim else kept


class MaskedTensor:
    """A tensor that carries its mask. Raises NotImplementedError: not available in Fanal."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("torch.masked.MaskedTensor is not available in Fanal; pass mask= to the functions of "
                                  "torch.masked")


def masked_tensor(data: Any, mask: Any, requires_grad: bool = False) -> Any:
    """Raise NotImplementedError: masked tensors are not available in Fanal."""
    return MaskedTensor(data, mask, requires_grad)


def as_masked_tensor(data: Any, mask: Any) -> Any:
    """Raise NotImplementedError: masked tensors are not available in Fanal."""
    return MaskedTensor(data, mask)


def is_masked_tensor(obj: Any, /) -> bool:
    """Return False: there are no masked tensors in Fanal."""
    return False
