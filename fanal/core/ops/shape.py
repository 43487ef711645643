"""Views: tensors that show the memory of another one in a different shape, order or type."""
from __future__ import annotations

import math
import warnings
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.base import layout
from fanal.core.base.dim import index
from fanal.core.base.shape import (
    Shape,
    contiguous_strides,
    infer_size,
    is_contiguous,
    view_strides,
    wrap_dim,
    wrap_dims,
)
from fanal.core.engine.handle import Chain, Handle
from fanal.core.engine.record import unfollowable
from fanal.core.ir import prims as P
from fanal.core.ops.build import check_inplace, public, read, result, wrap
from fanal.core.tensor.alias import leaf_of, strides_as_views
from fanal.core.tensor.tensor import Tensor, blank, strides_of, view_chain


def ints(args: tuple, name: str = "", what: str = "shape") -> Shape:
    """Return sizes given as f(2, 3) or f((2, 3)). Raises TypeError for anything but integers."""
    if len(args) == 1 and isinstance(args[0], (tuple, list)):
        args = tuple(args[0])
    out = []
    for a in args:
        try:
            out.append(index(a))
        except TypeError:
            raise TypeError(f"{name}(): argument '{what}' (position 1) must be tuple of ints, not "
                            f"{type(a).__name__}") from None
    return tuple(out)


def view_of(t: Any, chain: Chain, shape: Shape, strides: Shape, offset: int | None = None) -> Any:
    """Return a view made by a chain of primitives, with the strides PyTorch reports for it."""
    return view_chain(t, chain, None if strides == contiguous_strides(shape) else strides, offset)


def tensor_text(t: Handle) -> str:
    """Name a tensor as PyTorch's texts do: torch.FloatTensor{[2, 3]}."""
    return f"torch.{dt.scalar_name(t._dtype)}Tensor{{{list(t._shape)}}}"


@public(function=False)
def view(self: Any, *sizes: Any, size: Any = None, dtype: dt.dtype | None = None) -> Any:
    """Return a view of another shape, or of the same bytes as another dtype.

    Raises RuntimeError when the strides do not allow it.
    """
    size = sizes if size is None else (size,)
    if dtype is not None or (len(size) == 1 and isinstance(size[0], dt.dtype)):
        return _view_dtype(self, dtype or size[0])
    if not size:
        raise TypeError("view() received an invalid combination of arguments - got (), but expected one of:\n"
                        " * (torch.dtype dtype)\n * (tuple of ints size)\n")
    return view_shape(self, ints(size, "view", "size"))


def view_shape(t: Any, size: Shape) -> Any:
    """Return a view of shape `size`, of which one entry may be -1."""
    shape = infer_size(size, math.prod(t._shape))
    strides = view_strides(t._shape, strides_of(t), shape)
    if strides is None:
        raise RuntimeError("view size is not compatible with input tensor's size and stride (at least one dimension "
                           "spans across two contiguous subspaces). Use .reshape(...) instead.")
    return view_of(t, ((P.reshape, (shape,)),), shape, strides)


def _view_dtype(t: Any, d: dt.dtype) -> Any:
    old, new = t._dtype.itemsize, d.itemsize
    st = strides_of(t)
    if old == new:
        row = P.recast if d.is_complex or t._dtype.is_complex else P.bitcast
        return view_of(t, ((row, (d,)),), t._shape, st)
    what = f"to view {dt.scalar_name(t._dtype)} as {dt.scalar_name(d)} (different element sizes)"
    if not st:
        raise RuntimeError(f"self.dim() cannot be 0 {what}")
    if st[-1] != 1:
        raise RuntimeError(f"self.stride(-1) must be 1 {what}, but got {st[-1]}")
    last = t._shape[-1]
    if old > new:
        k = old // new
        return view_of(t, ((P.recast, (d,)),), (*t._shape[:-1], last * k), (*(s * k for s in st[:-1]), 1),
                       t._offset * k)
    k = new // old
    if last % k:
        raise RuntimeError(f"self.size(-1) must be divisible by {k} {what}, but got {last}")
    if t._offset % k:
        raise RuntimeError(f"self.storage_offset() must be divisible by {k} {what}, but got {t._offset}")
    for i, s in enumerate(st[:-1]):
        if s % k:
            raise RuntimeError(f"self.stride({i}) must be divisible by {k} {what}, but got {s}")
    return view_of(t, ((P.recast, (d,)),), (*t._shape[:-1], last // k), (*(s // k for s in st[:-1]), 1), t._offset // k)


@public(function=False)
def view_as(self: Any, other: Any) -> Any:
    """Return a view in the shape of `other`."""
    return view_shape(self, other._shape)


@public("reshape")
def reshape(input: Any, *size: Any, shape: Any = None) -> Any:
    """Return the elements in another shape: a view where the strides allow it, else a copy."""
    new = infer_size(ints(size if shape is None else (shape,), "reshape"), math.prod(input._shape))
    strides = view_strides(input._shape, strides_of(input), new)
    if strides is None:
        return _like(wrap(P.reshape(read(input), new)), input)
    return view_of(input, ((P.reshape, (new,)),), new, strides)


def _like(t: Any, input: Any) -> Any:
    t._storage.meta = input._storage.meta
    return t


@public(function=False)
def reshape_as(self: Any, other: Any) -> Any:
    """Return the elements in the shape of `other`."""
    return reshape(self, other._shape)


@public()
def flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Return dimensions start_dim to end_dim merged into one."""
    n = len(input._shape)
    a, b = wrap_dim(start_dim, n), wrap_dim(end_dim, n)
    if a > b:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    if not n:
        return reshape(input, (1,))
    if a == b:
        return input
    return reshape(input, (*input._shape[:a], math.prod(input._shape[a:b + 1]), *input._shape[b + 1:]))


@public()
def ravel(input: Any) -> Any:
    """Return the elements in one dimension."""
    return reshape(contiguous(input), (-1,))


@public()
def unflatten(input: Any, dim: int, sizes: Any) -> Any:
    """Return dimension `dim` split into `sizes`, of which one may be -1."""
    d = wrap_dim(dim, len(input._shape))
    sizes = ints((sizes,), "unflatten", "sizes")
    if not sizes:
        raise RuntimeError("unflatten: sizes must be non-empty")
    n = input._shape[d]
    known = math.prod(s for s in sizes if s != -1)
    if sizes.count(-1) > 1:
        raise RuntimeError("unflatten got an unexpected error:\nonly one dimension can be inferred")
    if (known != n) if -1 not in sizes else (not known or n % known):
        raise RuntimeError(f"unflatten: Provided sizes {list(sizes)} don't multiply up to the size of dim {d} ({n}) "
                           "in the input tensor")
    sizes = infer_size(sizes, n)
    return view_shape(input, (*input._shape[:d], *sizes, *input._shape[d + 1:]))


def permuted(t: Any, order: Shape) -> Any:
    """Return a view with dimensions in the given order."""
    st = strides_of(t)
    return view_of(t, ((P.permute, (order,)),), tuple(t._shape[d] for d in order), tuple(st[d] for d in order))


@public()
def permute(input: Any, *axes: Any, dims: Any = None) -> Any:
    """Return a view with its dimensions reordered."""
    order = ints(axes if dims is None else (dims,), "permute", "dims")
    n = len(input._shape)
    if len(order) != n:
        raise RuntimeError("permute(sparse_coo): number of dimensions in the tensor input does not match the length "
                           f"of the desired ordering of dimensions i.e. input.dim() = {n} is not equal to "
                           f"len(dims) = {len(order)}")
    order = tuple(wrap_dim(d, n) for d in order)
    if len(set(order)) != n:
        raise RuntimeError("permute(): duplicate dims are not allowed.")
    return permuted(input, order)


def _swapped(n: int, a: int, b: int) -> Shape:
    order = list(range(n))
    order[a], order[b] = order[b], order[a]
    return tuple(order)


@public(aliases=("swapdims",))
def transpose(input: Any, dim0: int, dim1: int) -> Any:
    """Return a view with two dimensions swapped."""
    n = len(input._shape)
    a, b = wrap_dim(dim0, n), wrap_dim(dim1, n)
    return permuted(input, _swapped(n, a, b) if n else ())


@public()
def swapaxes(input: Any, axis0: int, axis1: int) -> Any:
    """Return a view with two dimensions swapped."""
    return transpose(input, axis0, axis1)


@public()
def t(input: Any) -> Any:
    """Return a matrix transposed; vectors and numbers as they are."""
    n = len(input._shape)
    if n > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {n}D")
    return permuted(input, tuple(reversed(range(n))))


@public("_T", function=False, method="T", property=True)
def reversed_dims(self: Any) -> Any:
    """The tensor with its dimensions reversed."""
    n = len(self._shape)
    if n not in (0, 2):
        warnings.warn("The use of `x.T` on tensors of dimension other than 2 to reverse their shape is deprecated and "
                      "it will throw an error in a future release. Consider `x.mT` to transpose batches of matrices or "
                      "`x.permute(*torch.arange(x.ndim - 1, -1, -1))` to reverse the dimensions of a tensor.",
                      stacklevel=4)
    return permuted(self, tuple(reversed(range(n))))


@public("_mT", function=False, method="mT", property=True)
def matrix_transpose(self: Any) -> Any:
    """The tensor with its last two dimensions swapped."""
    n = len(self._shape)
    if not n:
        return view_chain(self, (), None)
    if n < 2:
        raise RuntimeError(f"tensor.mT is only supported on matrices or batches of matrices. Got {n}-D "
                           f"tensor.")
    return permuted(self, _swapped(n, n - 2, n - 1))


@public("_H", function=False, method="H", property=True)
def conjugate_transpose(self: Any) -> Any:
    """The matrix transposed and conjugated."""
    n = len(self._shape)
    if n not in (0, 2):
        raise RuntimeError(f"tensor.H is only supported on matrices (2-D tensors). Got {n}-D tensor."
                           + (" For batches of matrices, consider using tensor.mH" if n > 2 else ""))
    return adjoint(self) if n else conj(self)


@public("_mH", function=False, method="mH", property=True)
@public("adjoint")
def adjoint(input: Any) -> Any:
    """Return the last two dimensions swapped, conjugated."""
    n = len(input._shape)
    if not n:
        return conj(input)
    if n < 2:
        raise RuntimeError(f"tensor.adjoint() is only supported on matrices or batches of matrices. Got "
                           f"{n}-D tensor.")
    return conj(permuted(input, _swapped(n, n - 2, n - 1)))


@public()
def conj(input: Any) -> Any:
    """Return the complex conjugate; real tensors as they are.

    Differs from torch: complex conjugates have memory of their own, so there is no conjugate bit to resolve.
    """
    return result(P.conj(read(input)), input) if input._dtype.is_complex else input


@public()
def resolve_conj(input: Any) -> Any:
    """Return the input: no tensor here is a conjugate that still has to be computed."""
    return input


@public(inplace=True, out="same")
def conj_physical(input: Any) -> Any:
    """Return the complex conjugate in memory of its own."""
    return conj(input)


@public(aliases=())
def resolve_neg(input: Any) -> Any:
    """Return the input: nothing here is negated lazily."""
    return input


@public(aliases=("moveaxis",))
def movedim(input: Any, source: Any, destination: Any) -> Any:
    """Return a view with dimensions `source` moved to the positions `destination`."""
    src = (source,) if isinstance(source, int) else tuple(source)
    dst = (destination,) if isinstance(destination, int) else tuple(destination)
    n = len(input._shape)
    if len(src) != len(dst):
        raise RuntimeError(f"movedim: Invalid source or destination dims: source ({list(src)} dims) should "
                           f"contain the same "
                           f"number of dims as destination ({list(dst)} dims)")
    a, b = [wrap_dim(d, n) for d in src], [wrap_dim(d, n) for d in dst]
    for dims, given, what in ((a, src, "source"), (b, dst, "destination")):
        if len(set(dims)) != len(dims):
            raise RuntimeError(f"movedim: repeated dim in `{what}` ({list(given)})")
    if not n:
        return permuted(input, ())
    rest = iter(d for d in range(n) if d not in a)
    at = dict(zip(b, a))
    return permuted(input, tuple(at[d] if d in at else next(rest) for d in range(n)))


@public()
def squeeze(input: Any, dim: Any = None) -> Any:
    """Return a view without the dimensions of size 1 (of those in `dim`)."""
    n = len(input._shape)
    dims = wrap_dims(dim, n)
    keep = [d for d in range(n) if d not in dims or input._shape[d] != 1]
    st = strides_of(input)
    shape = tuple(input._shape[d] for d in keep)
    return view_of(input, ((P.reshape, (shape,)),), shape, tuple(st[d] for d in keep))


@public()
def unsqueeze(input: Any, dim: int) -> Any:
    """Return a view with a dimension of size 1 put in at `dim`."""
    n = len(input._shape)
    d = wrap_dim(dim, n + 1)
    st = strides_of(input)
    new = input._shape[d] * st[d] if d < n else 1
    shape = (*input._shape[:d], 1, *input._shape[d:])
    return view_of(input, ((P.reshape, (shape,)),), shape, (*st[:d], new, *st[d:]))


def expanded(t: Any, shape: Shape) -> Any:
    """Return a view repeated to `shape`, with strides 0."""
    lead = len(shape) - len(t._shape)
    st = strides_of(t)
    strides = tuple(0 if i < lead or (t._shape[i - lead] == 1 and n != 1) else st[i - lead]
                    for i, n in enumerate(shape))
    return view_chain(t, ((P.broadcast, (shape,)),), None if strides == contiguous_strides(shape) else strides)


@public(function=False)
def expand(self: Any, *sizes: Any, size: Any = None, implicit: bool = False) -> Any:
    """Return a view in which dimensions of size 1 are repeated; -1 keeps a size."""
    size = sizes if size is None else (size,)
    if not size:
        raise TypeError('expand() missing 1 required positional arguments: "size"')
    new, old = ints(size, "expand", "size"), self._shape
    lead = len(new) - len(old)
    if lead < 0:
        raise RuntimeError(f"expand({tensor_text(self)}, size={list(new)}): the number of sizes provided "
                           f"({len(new)}) must be "
                           f"greater or equal to the number of dimensions in the tensor ({len(old)})")
    out = list(new)
    for i, n in reversed([*enumerate(new)]):  # the error names the last dimension that does not fit
        have = old[i - lead] if i >= lead else 1
        if n == -1:
            if i < lead:
                raise RuntimeError("The expanded size of the tensor (-1) isn't allowed in a leading, "
                                   "non-existing "
                                   f"dimension {i}")
            n = have
        elif have not in (1, n):
            raise RuntimeError(f"The expanded size of the tensor ({n}) must match the existing size "
                               f"({have}) at non-singleton "
                               f"dimension {i}.  Target sizes: {list(new)}.  Tensor sizes: {list(old)}")
        elif n < 0:
            raise RuntimeError(f"Trying to create tensor with negative dimension {n}: {list(new)}")
        out[i] = n
    return expanded(self, tuple(out))


@public(function=False)
def expand_as(self: Any, other: Any) -> Any:
    """Return a view repeated to the shape of `other`."""
    return expand(self, other._shape)


@public()
def broadcast_to(input: Any, size: Any) -> Any:
    """Return a view repeated to `size`."""
    return expand(input, ints((size,), "broadcast_to", "size"))


@public()
def as_strided(input: Any, size: Any, stride: Any, storage_offset: int | None = None) -> Any:
    """Return a view of the storage with the given sizes, strides and offset, in elements."""
    shape, st = ints((size,), "as_strided", "size"), ints((stride,), "as_strided", "stride")
    offset = input._offset if storage_offset is None else storage_offset
    if len(shape) != len(st):
        raise RuntimeError("mismatch in length of strides and shape")
    if offset < 0:
        raise RuntimeError(f"Tensor: invalid storage offset {offset}")
    if any(s < 0 for s in st):
        raise RuntimeError(f"as_strided: Negative strides are not supported at the moment, got strides: "
                           f"{list(st)}")
    last = offset + sum((n - 1) * s for n, s in zip(shape, st)) if math.prod(shape) else offset - 1
    k, stored = input._dtype.itemsize, input._storage.node
    base = stored.size * stored.dtype.itemsize // k
    if last >= base:
        raise RuntimeError(f"setStorage: sizes {list(shape)}, strides {list(st)}, storage offset {offset}, "
                           f"and itemsize {k} "
                           f"requiring a storage size of {(last + 1) * k} are out of bounds for storage of "
                           f"size {base * k}")
    strides = None if st == contiguous_strides(shape) else st
    for t in (input, None if input._detached else leaf_of(input)):  # a leaf's view is part of the leaf
        if t is None or t._dtype is not input._dtype:
            continue
        own = strides_of(t)
        order = tuple(sorted(range(len(own)), key=lambda d: -own[d]))  # as it lies in memory
        dense = is_contiguous(tuple(t._shape[d] for d in order), tuple(own[d] for d in order))
        size, start = math.prod(t._shape), offset - t._offset
        if dense and start >= 0 and last - t._offset < size:
            chain: Chain = ((P.permute, (order,)), (P.reshape, ((size,),)), *strides_as_views(shape, st, start, size))
            return view_chain(t, chain if order != tuple(range(len(own))) else chain[1:], strides, offset)
    flat = whole(input)
    if flat._dtype is not input._dtype:
        flat = _view_dtype(flat[:base * k // flat._dtype.itemsize], input._dtype)
    return view_chain(flat, strides_as_views(shape, st, offset, flat._shape[0]), strides, offset)


def whole(t: Any) -> Any:
    """Return the storage of a tensor as a flat tensor."""
    s = t._storage
    n = P.reshape(s.node, (s.node.size,))
    flat = blank(Tensor, s, ((P.reshape, ((s.node.size,),)),), n.shape, n.dtype, n, None, 0)
    flat._detached = t._detached
    flat._seen = -1 if t._detached else s.version
    if t._leaf and not t._chain:
        flat = view_chain(t, flat._chain, None, 0)
    return flat


@public(function=False)
def unfold(self: Any, dimension: int, size: int, step: int) -> Any:
    """Return a view of all slices of `size` along a dimension, `step` apart; they become the last dimension."""
    n = len(self._shape)
    d = wrap_dim(dimension, n)
    length = self._shape[d] if n else 1
    if size > length:
        raise RuntimeError(f"maximum size for tensor at dimension {d} is {length} but size is {size}")
    if size < 0:
        raise RuntimeError(f"size is {size} but must be >= 0")
    if step <= 0:
        raise RuntimeError(f"step is {step} but must be > 0")
    if not n:
        return view_of(self, ((P.reshape, ((size,),)),), (size,), (1,)) if size else \
            view_of(self, ((P.reshape, ((1,),)), (P.slice_, ((0,), (0,), (1,)))), (0,), (1,))
    st = strides_of(self)
    count = (length - size) // step + 1
    shape = (*self._shape[:d], count, *self._shape[d + 1:], size)
    strides = (*st[:d], st[d] * step, *st[d + 1:], st[d])
    return view_of(self, ((P.window, ((d,), (size,), (step,), (1,))),), shape, strides)


@public()
def diagonal(input: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """Return a view of the diagonal of two dimensions, as the last dimension."""
    n = len(input._shape)
    a, b = wrap_dim(dim1, n), wrap_dim(dim2, n)
    if a == b:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    rows, cols = input._shape[a], input._shape[b]
    top, left = max(-offset, 0), max(offset, 0)
    k = max(min(rows - top, cols - left), 0)
    rest = tuple(d for d in range(n) if d not in (a, b))
    lead = tuple(input._shape[d] for d in rest)
    m = len(lead)
    zero, one = (0,) * m, (1,) * m
    st = strides_of(input)
    if not k:
        top = left = 0
    first = top * cols + left
    after = first + (k - 1) * (cols + 1) + 1 if k else 0
    chain: Chain = ((P.permute, ((*rest, a, b),)),
                    (P.reshape, ((*lead, rows * cols),)),
                    (P.slice_, ((*zero, first), (*lead, after), (*one, cols + 1))))
    return view_of(input, chain, (*lead, k), (*(st[d] for d in rest), st[a] + st[b]),
                   input._offset + top * st[a] + left * st[b])


@public("view_as_real", method=False)
def view_as_real(input: Any) -> Any:
    """Return complex numbers as pairs in a last dimension of size 2; a view."""
    if not input._dtype.is_complex:
        raise RuntimeError("view_as_real is only supported for complex tensors")
    shape = (*input._shape, 2)
    chain: Chain = ((P.reshape, ((*input._shape, 1),)), (P.recast, (input._dtype.to_real(),)))
    return view_of(input, chain, shape, (*(2 * s for s in strides_of(input)), 1), 2 * input._offset)


@public("view_as_complex", method=False)
def view_as_complex(input: Any) -> Any:
    """Return pairs in the last dimension as complex numbers; a view."""
    if input._dtype not in (dt.float16, dt.float32, dt.float64):
        raise RuntimeError("view_as_complex is only supported for half, float and double tensors, but got a "
                           "tensor of scalar "
                           f"type: {dt.scalar_name(input._dtype)}")
    st = strides_of(input)
    if not input._shape:
        raise RuntimeError("Input tensor must have one or more dimensions")
    if input._shape[-1] != 2:
        raise RuntimeError("Tensor must have a last dimension of size 2")
    if st[-1] != 1:
        raise RuntimeError("Tensor must have a last dimension with stride 1")
    if any(s % 2 for s in st[:-1]):
        raise RuntimeError("Tensor must have a stride divisible by 2 for all but last dimension")
    if input._offset % 2:
        raise RuntimeError("Tensor must have a storage_offset divisible by 2")
    shape = input._shape[:-1]
    chain: Chain = ((P.recast, (input._dtype.to_complex(),)), (P.reshape, (shape,)))
    return view_of(input, chain, shape, tuple(s // 2 for s in st[:-1]), input._offset // 2)


def _part(t: Any, k: int) -> Any:
    from fanal.core.ops.pieces import select
    return select(view_as_real(t), -1, k)


def _write_part(k: int) -> Any:
    def setter(self: Any, value: Any) -> None:
        (self.real if k == 0 else self.imag).copy_(value)
    return setter


@public("_real", function=False, method="real", property=True, setter=_write_part(0))
@public("real", method=False)
def real(input: Any) -> Any:
    """Return a view of the real parts; real tensors as they are."""
    return _part(input, 0) if input._dtype.is_complex else input


@public("_imag", function=False, method="imag", property=True, setter=_write_part(1))
@public("imag", method=False)
def imag(input: Any) -> Any:
    """Return a view of the imaginary parts."""
    if not input._dtype.is_complex:
        raise RuntimeError("imag is not implemented for tensors with non-complex dtypes.")
    return _part(input, 1)


@public(function=False)
def contiguous(self: Any, memory_format: Any = layout.contiguous_format) -> Any:
    """Return the tensor itself if its elements lie in the order of the format, else a copy that does."""
    if memory_format is layout.preserve_format:
        raise RuntimeError("preserve memory format is unsupported by the contiguous operator")
    if layout.is_format(self._shape, strides_of(self), memory_format):
        return self
    return _like(wrap(P.alias(read(self)), layout.format_strides(self._shape, memory_format)), self)


@public()
def clone(input: Any, *, memory_format: Any = layout.preserve_format) -> Any:
    """Return a copy; preserve_format keeps the order of dimensions in memory."""
    n = P.alias(read(input))
    if memory_format is None or memory_format is layout.preserve_format:
        return result(n, input)
    return _like(wrap(n, layout.format_strides(input._shape, memory_format)), input)


def become(t: Any, v: Any) -> Any:
    """Make the handle `t` the view `v` of itself."""
    check_inplace(t)
    unfollowable("a tensor changed its shape in place")
    t._chain, t._shape, t._strides, t._offset, t._dtype = v._chain, v._shape, v._strides, v._offset, v._dtype
    t._node, t._seen, t._leaf_node = v._node, v._seen, None
    t._detached = v._detached
    return t


def _in_place_view(name: str, fn: Any) -> None:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return become(self, fn(self, *args, **kwargs))
    call.__name__, call.__doc__ = name, f"In-place form of {name[:-1]}: changes what the tensor shows."
    public(name, function=False)(call)


for _name, _fn in {"squeeze_": squeeze, "unsqueeze_": unsqueeze, "t_": t, "transpose_": transpose,
                   "swapaxes_": swapaxes, "swapdims_": transpose, "as_strided_": as_strided}.items():
    _in_place_view(_name, _fn)


def _view_copy(name: str, fn: Any) -> None:
    def call(input: Any, *args: Any, **kwargs: Any) -> Any:
        return contiguous(clone(fn(input, *args, **kwargs)))
    call.__name__, call.__doc__ = name, f"Return a copy of what {name[:-5]} shows."
    public(name, method=False, out=True)(call)


for _name, _fn in {"permute_copy": permute, "transpose_copy": transpose, "t_copy": t, "squeeze_copy": squeeze,
                   "unsqueeze_copy": unsqueeze, "expand_copy": expand, "view_copy": view, "as_strided_copy": as_strided,
                   "unfold_copy": unfold, "diagonal_copy": diagonal, "view_as_real_copy": view_as_real,
                   "view_as_complex_copy": view_as_complex, "alias_copy": clone}.items():
    _view_copy(_name, _fn)
