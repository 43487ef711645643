"""Sparse tensors: which elements are specified, and their values, both dense tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fanal.core.base.layout import layout
from fanal.core.base.shape import Shape
from fanal.core.tensor.tensor import Tensor

_new = object.__new__
ROWS_WANTED = "_sparse_gradient"  # in the __dict__ of a leaf: a gradient that is only rows is kept as such


class Sparse(Tensor):
    """A tensor without storage: `places` and `stored` values.

    Layout sparse_coo: places is (indices,), of shape (sparse_dim, nnz). Layout sparse_csr: places is
    (crow_indices, col_indices).
    Gradients belong to the stored values. Its operators stand in ops/sparse.py; all others refuse it by name.
    """

    __slots__ = ("coalesced", "kind", "places", "stored")

    coalesced: bool
    kind: layout
    places: tuple[Any, ...]
    stored: Any

    @property
    def _storage(self) -> Any:  # type: ignore[override]
        raise NotImplementedError(f"Cannot access storage of a tensor of layout {self.kind}; use to_dense()")

    @property
    def requires_grad(self) -> bool:
        return bool(self.stored.requires_grad)

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.stored.requires_grad_(value)

    @property
    def is_leaf(self) -> bool:
        return bool(self.stored.is_leaf)

    @property
    def device(self) -> Any:
        return self.stored.device


def make(kind: layout, places: tuple[Any, ...], stored: Any, shape: Shape, coalesced: bool = False) -> Any:
    """Return a sparse tensor of known shape; nothing is checked."""
    t: Any = _new(Sparse)
    t.kind, t.places, t.stored, t.coalesced = kind, places, stored, coalesced
    t._shape, t._dtype = tuple(shape), stored._dtype
    return t


def like(t: Sparse, stored: Any, coalesced: bool | None = None) -> Any:
    """Return a sparse tensor with the same places and other values."""
    return make(t.kind, t.places, stored, t._shape, t.coalesced if coalesced is None else coalesced)


# What runs a public call that has such a tensor among its arguments, by class. Empty until there is one.
ELSEWHERE: dict[type, Callable[[str, tuple, dict], Any]] = {}


def elsewhere(args: tuple, kwargs: dict) -> Callable[[str, tuple, dict], Any] | None:
    """Return what runs a call with these arguments instead of the engine."""
    for a in (*args, *kwargs.values()):
        for x in a if type(a) in (list, tuple) else (a,):
            found = ELSEWHERE.get(type(x))
            if found is not None:
                return found
    return None
