"""Sparse tensors: making, converting and taking them apart. The mathematics is in sparse_math.py.

Places and values are dense tensors, so everything here is made of public operators on those: it is recorded,
followed and differentiated like any other call.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base import layout as layouts
from fanal.core.base.shape import Size, wrap_dim
from fanal.core.engine.handle import Handle
from fanal.core.ops.show import array_text
from fanal.core.ops.surface import FUNCTIONS
from fanal.core.tensor.sparse import Sparse, like, make
from fanal.core.tensor.tensor import Tensor, compute, wrap_array

T = FUNCTIONS["torch"]
COO, CSR = layouts.sparse_coo, layouts.sparse_csr
OTHER_LAYOUTS = "layouts CSC, BSR and BSC are not available in Fanal; use COO or CSR"


def whole(a: np.ndarray) -> Any:
    """Return an int64 tensor with the contents of an array."""
    return wrap_array(np.ascontiguousarray(a, np.int64), dt.int64)


def _as_values(values: Any, dtype: dt.dtype | None) -> Any:
    if not isinstance(values, Handle):
        return T["tensor"](values, dtype=dtype)
    return values if dtype is None or values._dtype is dtype else values.to(dtype)


def _as_places(places: Any, name: str) -> Any:
    if not isinstance(places, Handle):
        places = T["tensor"](places, dtype=dt.int64)
    if places._dtype.category != 1:
        raise RuntimeError(f"{name} must be an int64 tensor, but got {places._dtype}")
    return places


def sparse_coo_tensor(
    indices: Any,
    values: Any = None,
    size: Any = None,
    *,
    dtype: dt.dtype | None = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
    check_invariants: bool | None = None,
    is_coalesced: bool | None = None,
) -> Any:
    """Return a sparse tensor in coordinate format. Values at equal indices add up.

    Shapes: indices (sparse_dim, nnz), values (nnz, ...). size: by default the smallest that holds indices.
    Raises RuntimeError for indices outside the size.
    """
    if values is None or (
        isinstance(indices, (tuple, list, Size)) and not isinstance(values, (Handle, list, tuple, float))
    ):
        return _empty_coo(indices, dtype)
    v = _as_values(values, dtype)
    i = _as_places(indices, "indices")
    if not (isinstance(indices, Handle) or i.numel()):
        i = i.reshape(len(size or ()) - (v.ndim - 1), 0)
    if i.ndim != 2:
        raise RuntimeError(f"indices must be sparse_dim x nnz, but got: {list(i._shape)}")
    if not v.ndim or v._shape[0] != i._shape[1]:
        raise RuntimeError(
            "number of dimensions must be sparse_dim + dense_dim and the number of values must be that of "
            f"indices, but got indices {list(i._shape)} and values {list(v._shape)}"
        )
    i = i.to(dt.int64)
    found = compute(i)
    least = tuple(int(n) + 1 for n in found.max(1)) if found.size else (0,) * i._shape[0]
    shape = (*least, *v._shape[1:]) if size is None else tuple(int(n) for n in size)
    if len(shape) != i._shape[0] + v.ndim - 1:
        raise RuntimeError(
            f"number of dimensions must be sparse_dim ({i._shape[0]}) + dense_dim ({v.ndim - 1}), but got "
            f"{len(shape)}"
        )
    if found.size and found.min() < 0:
        raise RuntimeError(f"found negative index {int(found.min())} for dim {int(np.argmin(found.min(1)))}")
    for d, (n, m) in enumerate(zip(least, shape)):
        if n > m:
            raise RuntimeError(
                f"size is inconsistent with indices: for dim {d}, size is {m} but found index {n - 1}"
            )
    return _finished(make(COO, (i,), v, shape, bool(is_coalesced)), requires_grad)


def _empty_coo(size: Any, dtype: dt.dtype | None) -> Any:
    shape = tuple(int(n) for n in size)
    return make(COO, (whole(np.zeros((len(shape), 0))),), T["zeros"](0, dtype=dtype), shape, True)


def _finished(t: Any, requires_grad: bool) -> Any:
    if requires_grad:
        t.stored = t.stored.detach().requires_grad_()
    return t


def sparse_csr_tensor(
    crow_indices: Any,
    col_indices: Any,
    values: Any,
    size: Any = None,
    *,
    dtype: dt.dtype | None = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
    check_invariants: bool | None = None,
) -> Any:
    """Return a sparse matrix in compressed row format.

    Shapes: crow_indices (rows + 1), col_indices and values (nnz).
    """
    v = _as_values(values, dtype)
    crow, col = _as_places(crow_indices, "crow_indices"), _as_places(col_indices, "col_indices")
    if crow.ndim != 1 or col.ndim != 1 or v.ndim != 1:
        raise RuntimeError(
            "sparse_csr_tensor: batches and dense dimensions are not available in Fanal; crow_indices, "
            "col_indices and values must have one dimension"
        )
    if size is None:
        size = (crow._shape[0] - 1, int(compute(col).max(initial=-1)) + 1)
    shape = tuple(int(n) for n in size)
    if len(shape) != 2 or crow._shape[0] != shape[0] + 1:
        raise RuntimeError(
            f"crow_indices.shape[-1] must be equal to nrows + 1 ({shape[0] + 1}), but got {crow._shape[0]}"
        )
    if col._shape != v._shape:
        raise RuntimeError(
            f"col_indices and values must have the same number of elements, but got {col._shape[0]} and "
            f"{v._shape[0]}"
        )
    a, b = compute(crow), compute(col)
    if a[0] != 0 or a[-1] != b.size or (np.diff(a) < 0).any():
        raise RuntimeError("`crow_indices` must begin with 0, end with nnz and not decrease")
    if b.size and (b.min() < 0 or b.max() >= shape[1]):
        raise RuntimeError(f"`0 <= col_indices < {shape[1]}` is not satisfied.")
    return _finished(make(CSR, (crow, col), v, shape, True), requires_grad)


# Conversion.


def rows_of(t: Sparse) -> tuple[Any, Any]:
    """Return the row and the column of every stored value of a matrix."""
    if t.kind is COO:
        return t.places[0][0], t.places[0][1]
    crow, col = t.places
    nnz = col._shape[0]
    row = T["searchsorted"](crow, T["arange"](nnz, dtype=crow._dtype), right=True) - 1
    return row.to(dt.int64), col.to(dt.int64)


def indices_of(t: Sparse) -> Any:
    """Return COO indices of a sparse tensor of any layout."""
    return t.places[0] if t.kind is COO else T["stack"](rows_of(t))


def to_dense(self: Any, dtype: dt.dtype | None = None, *, masked_grad: bool | None = None) -> Any:
    """Return the tensor with zeros where nothing is stored."""
    if not isinstance(self, Sparse):
        return self if dtype is None else self.to(dtype)
    i, v = indices_of(self), self.stored if dtype is None else self.stored.to(dtype)
    sparse = i._shape[0]
    if not sparse:
        return v.sum(0).to(v._dtype)
    head, rest = self._shape[:sparse], self._shape[sparse:]
    flat = T["zeros"]((math.prod(head), *rest), dtype=v._dtype)
    if v._dtype is dt.bool_:
        return flat.index_put((flat_places(i, head),), v).reshape(self._shape)
    return flat.index_add(0, flat_places(i, head), v).reshape(self._shape)


def flat_places(i: Any, shape: tuple[int, ...]) -> Any:
    """Return the position of each column of indices in a flattened tensor."""
    at = i[0]
    for d in range(1, len(shape)):
        at = at * shape[d] + i[d]
    return at


def to_sparse(
    self: Any,
    sparse_dim: int | None = None,
    *,
    layout: Any = None,
    blocksize: Any = None,
    dense_dim: int | None = None,
) -> Any:
    """Return the elements that are not zero as a sparse tensor, COO unless `layout` says CSR."""
    if isinstance(self, Sparse):
        want = COO if layout is None else layout
        return self if want is self.kind else to_sparse_csr(self) if want is CSR else to_sparse_coo(self)
    if layout is CSR:
        return to_sparse_csr(self)
    if layout not in (None, COO):
        raise NotImplementedError(f"to_sparse: {OTHER_LAYOUTS}")
    n = self.ndim if sparse_dim is None else sparse_dim
    if dense_dim is not None:
        n = self.ndim - dense_dim
    if self.ndim and not 0 < n <= self.ndim:
        raise RuntimeError(f"sparse_dim argument for to_sparse must be in [1, {self.ndim}], but got {n}")
    a = compute(self) != 0
    places = (
        np.stack(np.nonzero(a.any(tuple(range(n, a.ndim))) if n < a.ndim else a))
        if a.ndim
        else np.zeros((0, int(a)), np.int64)
    )
    i = whole(places)
    v = self[tuple(i[d] for d in range(n))] if n else self.reshape(1)[: places.shape[1]]
    return make(COO, (i,), v, self._shape, True)


def to_sparse_coo(self: Any) -> Any:
    """Return the tensor in coordinate format."""
    if not isinstance(self, Sparse):
        return to_sparse(self)
    return self if self.kind is COO else make(COO, (indices_of(self),), self.stored, self._shape, True)


def to_sparse_csr(self: Any, dense_dim: int | None = None) -> Any:
    """Return a matrix in compressed row format."""
    if isinstance(self, Sparse) and self.kind is CSR:
        return self
    t = coalesce(self if isinstance(self, Sparse) else to_sparse(self))
    if len(t._shape) != 2 or t.stored.ndim != 1:
        raise RuntimeError(
            f"to_sparse_csr: only a matrix can be compressed in Fanal, got {len(t._shape)} dimensions"
        )
    rows = compute(t.places[0])[0]
    crow = np.searchsorted(rows, np.arange(t._shape[0] + 1))
    return make(CSR, (whole(crow), t.places[0][1].clone()), t.stored, t._shape, True)


def coalesce(self: Sparse) -> Sparse:
    """Return the tensor with sorted indices, each once; values at equal indices are added."""
    if self.kind is not COO:
        raise RuntimeError("coalesce expected sparse coordinate tensor layout but got " + str(self.kind)[6:])
    if self.coalesced:
        return self
    i = compute(self.places[0])
    if not i.shape[0]:
        return make(COO, self.places, self.stored, self._shape, True)
    _, first, inverse = np.unique(
        np.ravel_multi_index(tuple(i), self._shape[: i.shape[0]]) if i.size else i[0],
        return_index=True,
        return_inverse=True,
    )
    start = T["zeros"]((first.size, *self.stored._shape[1:]), dtype=self.stored._dtype)
    where = whole(inverse.reshape(-1))
    v = (
        start.index_put((where,), self.stored)
        if self._dtype is dt.bool_
        else start.index_add(0, where, self.stored)
    )
    return make(COO, (whole(i[:, first]),), v, self._shape, True)


# Parts.


def _only(self: Any, kind: Any, name: str) -> None:
    if getattr(self, "kind", layouts.strided) is not kind:
        raise RuntimeError(
            f"{name} expected sparse {'coordinate' if kind is COO else 'row compressed'} tensor layout but "
            f"got {str(self.layout)[6:].replace('_', ' ').title().replace(' ', '')}"
        )


def indices(self: Any) -> Any:
    """Return the indices of a coalesced tensor."""
    _only(self, COO, "indices")
    if not self.coalesced:
        raise RuntimeError("Cannot get indices on an uncoalesced tensor, please call .coalesce() first")
    return self.places[0]


def values(self: Any) -> Any:
    """Return the values stored, of a coalesced tensor."""
    if not isinstance(self, Sparse):
        raise RuntimeError("values expected sparse tensor layout but got Strided")
    if self.kind is COO and not self.coalesced:
        raise RuntimeError("Cannot get values on an uncoalesced tensor, please call .coalesce() first")
    return self.stored


def crow_indices(self: Any) -> Any:
    """Return where each row of a compressed matrix begins."""
    _only(self, CSR, "crow_indices")
    return self.places[0]


def col_indices(self: Any) -> Any:
    """Return the column of each value of a compressed matrix."""
    _only(self, CSR, "col_indices")
    return self.places[1]


def sparse_dim(self: Any) -> int:
    """Return how many dimensions are indexed."""
    return (self.places[0]._shape[0] if self.kind is COO else 2) if isinstance(self, Sparse) else 0


def dense_dim(self: Any) -> int:
    """Return how many dimensions the stored values have."""
    return self.stored.ndim - 1 if isinstance(self, Sparse) else self.ndim


def sparse_mask(self: Any, mask: Sparse) -> Any:
    """Return the elements of a dense tensor at the places of a sparse one."""
    if self._shape != mask._shape:
        raise RuntimeError(
            f"sparse_mask(): operands have incompatible sizes; self has size {list(self._shape)} but mask "
            f"has size {list(mask._shape)}"
        )
    if isinstance(self, Sparse):
        self = to_dense(self)
    i = indices_of(mask)
    return like(mask, self[tuple(i[d] for d in range(i._shape[0]))])


def _convert(self: Sparse, *args: Any, **kwargs: Any) -> Any:
    """Return the tensor in another dtype."""
    v = self.stored.to(*args, **kwargs)
    return self if v is self.stored else like(self, v)


def transposed(self: Sparse, dim0: int = 0, dim1: int = 1) -> Any:
    """Exchange two indexed dimensions."""
    if self.kind is CSR:
        return transposed(to_sparse_coo(self), dim0, dim1)
    n = self.places[0]._shape[0]
    a, b = wrap_dim(dim0, len(self._shape)), wrap_dim(dim1, len(self._shape))
    if n < 2 or a >= n or b >= n:
        raise RuntimeError("transpose(): cannot exchange dense dimensions of a sparse tensor")
    order = list(range(n))
    order[a], order[b] = b, a
    shape = list(self._shape)
    shape[a], shape[b] = shape[b], shape[a]
    return make(COO, (self.places[0][whole(np.array(order))],), self.stored, tuple(shape))


def _text(self: Sparse) -> str:
    """The text of a sparse tensor, as PyTorch prints it."""
    names = ("indices",) if self.kind is COO else ("crow_indices", "col_indices")
    lines = []
    for name, part in (*zip(names, self.places), ("values", self.stored.detach())):
        shown = (
            array_text(compute(part), len(f"tensor({name}=tensor("))
            if part.numel()
            else f"[], size={tuple(part._shape)}"
        )
        lines.append(f"{name}=tensor({shown})")
    suffixes = [f"size={tuple(self._shape)}", f"nnz={self._nnz()}", f"layout={self.kind}"]
    if self._dtype not in (dt.get_default(), dt.int64, dt.bool_):
        suffixes.insert(2, f"dtype={self._dtype}")
    if self.requires_grad:
        suffixes.append("requires_grad=True" if self.is_leaf else f"grad_fn=<{self.grad_fn.name()}>")
    text = "tensor(" + _NEXT.join(lines)
    for k, suffix in enumerate(suffixes):
        column = len(text) - text.rfind("\n") + 1
        text += (_NEXT if column + len(suffix) + 2 > 80 or (k == 0 and self.kind is COO) else ", ") + suffix
    return text + ")"


_NEXT = ",\n" + " " * len("tensor(")


def _gradient(self: Sparse) -> Any:
    g = self.stored.grad
    return None if g is None else like(self, g)


def _require(self: Sparse, requires_grad: bool = True) -> Any:
    self.stored.requires_grad_(requires_grad)
    return self


def _size(self: Sparse, dim: int | None = None) -> Any:
    return Size(self._shape) if dim is None else self._shape[wrap_dim(dim, len(self._shape))]


METHODS: dict[str, Any] = {
    "coalesce": coalesce,
    "to": _convert,
    "t": transposed,
    "transpose": transposed,
    "swapaxes": transposed,
    "size": _size,
    "dim": lambda self: len(self._shape),
    "numel": lambda self: math.prod(self._shape),
    "_nnz": lambda self: self.stored._shape[0],
    "_values": lambda self: self.stored,
    "_indices": lambda self: self.places[0],
    "is_coalesced": lambda self: self.coalesced,
    "_coalesced_": lambda self, coalesced: setattr(self, "coalesced", coalesced) or self,
    "requires_grad_": _require,
    "detach": lambda self: like(self, self.stored.detach()),
    "clone": lambda self, memory_format=None: like(self, self.stored.clone()),
    "cpu": lambda self: self,
    "is_floating_point": lambda self: self._dtype.is_floating_point,
    "is_complex": lambda self: self._dtype.is_complex,
    "data_ptr": lambda self: self.stored.data_ptr(),
    "retain_grad": lambda self: self.stored.retain_grad(),
    "contiguous": lambda self, memory_format=None: self,
    "__repr__": lambda self, **options: _text(self),
    "__str__": lambda self: _text(self),
    "__len__": lambda self: self._shape[0],
    "__hash__": object.__hash__,
    "__deepcopy__": lambda self, memo: like(self, self.stored.detach().clone()),
    "numpy": lambda self, **options: _no_numpy(self),
}
for _name, _d in (
    ("float", dt.float32),
    ("double", dt.float64),
    ("half", dt.float16),
    ("bfloat16", dt.bfloat16),
    ("long", dt.int64),
    ("int", dt.int32),
    ("bool", dt.bool_),
):
    METHODS[_name] = lambda self, d=_d: _convert(self, d)
PROPERTIES: dict[str, Any] = {
    "layout": lambda self: self.kind,
    "is_sparse": lambda self: self.kind is COO,
    "is_sparse_csr": lambda self: self.kind is CSR,
    "grad": _gradient,
    "grad_fn": lambda self: self.stored.grad_fn,
    "data": lambda self: like(self, self.stored.detach()),
    "T": lambda self: transposed(self),
    "mT": lambda self: transposed(self),
}


def _no_numpy(self: Sparse) -> Any:
    name = "Sparse" if self.kind is COO else "SparseCsr"
    raise TypeError(f"can't convert {name} layout tensor to numpy. Use Tensor.to_dense() first.")


for _name, _f in METHODS.items():
    setattr(Sparse, _name, _f)
for _name, _f in PROPERTIES.items():
    setattr(Sparse, _name, property(_f))
for _f in (
    to_dense,
    to_sparse,
    to_sparse_coo,
    to_sparse_csr,
    indices,
    values,
    crow_indices,
    col_indices,
    sparse_dim,
    dense_dim,
    sparse_mask,
):
    setattr(Tensor, _f.__name__, _f)
