"""How an operator is made: operands become values of one dtype, values become tensors, functions become public names.

An operator is a plain function on tensors, composed of primitives and of other operators (called directly: a nested
call is part of the outer event). `public` puts it into the tables from which `surface` makes the torch functions,
Tensor methods, in-place and out= variants.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fanal.core.base import dtype as dt
from fanal.core.base.dim import Dim, plain, plainly, varies
from fanal.core.base.shape import Shape, contiguous_strides
from fanal.core.base.state import state
from fanal.core.engine.handle import ITSELF, Handle, Origin
from fanal.core.engine.record import Table, note_fit, runtime, unfollowable
from fanal.core.ir.prims import convert, full, given
from fanal.core.ir.program import NOWHERE, Node
from fanal.core.tensor.alias import read, value, write
from fanal.core.tensor.tensor import Tensor, wrap

Number = bool | int | float | complex
Operand = Any  # a Tensor or a Python number


class Entry:
    """A public operator and the forms in which it appears."""

    __slots__ = ("fn", "function", "inplace", "method", "module", "name", "options", "out")

    def __init__(
        self,
        name: str,
        fn: Callable,
        module: str,
        function: bool,
        method: str | None,
        inplace: bool,
        out: bool | str,
        options: dict,
    ) -> None:
        self.name, self.fn, self.module, self.function = name, fn, module, function
        self.method, self.inplace, self.out, self.options = method, inplace, out, options


ENTRIES: list[Entry] = []


class Answer:
    """The result of a call that needs values before it can go on, and is no event."""

    __slots__ = ("result",)

    def __init__(self, result: Any) -> None:
        self.result = result


def public(
    name: str | None = None,
    *,
    module: str = "torch",
    function: bool = True,
    method: bool | str = True,
    inplace: bool = False,
    out: bool | str = False,
    aliases: Sequence[str] = (),
    **options: Any,
) -> Callable:
    """Register an operator under its public names.

    module: "torch", "nn.functional", "linalg", ... where the function appears (function=False: nowhere).
    method: also a Tensor method, under this name. inplace: also `name_`, writing the result into self.
    out: accepts out=; True, "same", "apart", "alone" or "fill", see `ops.out`. aliases: further names.
    tensors: how many of the first arguments must be tensors (see `ops.arguments`). options: see engine.record.Op,
    prepare: returns (args, kwargs) for the event, given those of the call;
    ahead: given the arguments of a call that are not those expected, returns those by position for the event, or an
    `Answer` if there is to be none;
    and check: the function returns (result, info), and check(info) raises if info, once computed, tells of a failure.
    """

    def register(fn: Callable) -> Callable:
        for n in (name or fn.__name__, *aliases):
            m = n if method is True else (method or None)
            ENTRIES.append(Entry(n, fn, module, function, m, inplace, out, dict(options)))
        return fn

    return register


def is_number(x: Any) -> bool:
    """Tell whether `x` is a number as PyTorch counts them (NumPy scalars included)."""
    return isinstance(x, (bool, int, float, complex, np.number, np.bool_))


def number(x: Any, d: dt.dtype) -> Node:
    """Return a Python number as a 0-d value of dtype `d`; it may differ from step to step without recompiling."""
    if isinstance(x, (bool, np.bool_)) or d.is_complex or isinstance(x, (complex, np.complexfloating)):
        return full((), complex(x) if d.is_complex else x, d)
    if d.category == 2 or (d is dt.bool_ and isinstance(x, (float, np.floating))):  # any fraction is true
        node = given(np.array(float(x), np.float64), dt.float64)
    else:
        if d.category == 1 and not -(1 << 63) <= int(x) < 1 << 63:
            return full((), int(x), d)
        node = given(np.array(int(x), np.int64), dt.int64)
    return convert(runtime(node, x), d)


def tabled(make: Callable[..., np.ndarray], args: tuple, shape: Shape) -> Node:
    """Return the array make(*args), of this shape, as a value; it follows the sizes among the arguments."""
    node = given(np.array(make(*plainly(args))))
    if varies(args):
        node.shape = shape
        runtime(node, Table(make, args))
    return node


def check_fits(x: Any, d: dt.dtype) -> None:
    """Raise RuntimeError if a Python number has no place in dtype `d`, whenever the call comes."""
    dt.check_fits(x, d)
    note_fit(x, d)


def counted(x: int | float, d: dt.dtype) -> Node:
    """Return a number that an operation computed (a count, 1 - p) as a 0-d value of dtype `d`.

    It is an input of the program, so another value recompiles nothing; but unlike `number` it does not stand for an
    argument of the call. For arguments that also decide something else (a branch, another constant), use this one.
    """
    value = plain(x) if type(x) is Dim else x
    node = given(np.array(float(value), np.float64), dt.float64) if d.category >= 2 else \
        given(np.array(int(value), np.int64), dt.int64)
    return convert(runtime(node, x) if type(x) is Dim else node, d)


def constant(array: np.ndarray) -> Node:
    """Return an array that the arguments of a call alone determine, as a value; another one plans the segment anew."""
    node = given(np.ascontiguousarray(array) if array.ndim else array)
    node.home = NOWHERE
    return node


def result_type(*xs: Operand) -> dt.dtype:
    """Return the dtype of an operation on tensors and numbers, as torch.result_type.

    Source: PyTorch documentation, "Tensor Attributes": tensors with dimensions decide before 0-d tensors, those
    before numbers, unless a later group has a higher category.
    """
    dims: dt.dtype | None = None
    zero: dt.dtype | None = None
    nums: dt.dtype | None = None
    for x in xs:
        if isinstance(x, Handle):
            if x._shape:
                dims = x._dtype if dims is None else dt.promote_types(dims, x._dtype)
            else:
                zero = x._dtype if zero is None else dt.promote_types(zero, x._dtype)
        elif x is not None:
            d = dt.of_scalar(x)
            nums = d if nums is None else dt.promote_types(nums, d)
    found = dims
    for group in (zero, nums):
        if group is None:
            continue
        if found is None:
            found = group
        elif group.category > found.category:
            found = found.to_complex() if group.category == 3 and found.category == 2 else group
            if group is nums and dims is None and zero is not None and group.category == 2:
                found = dt.get_default()
    assert found is not None
    return found


def unsupported(kernel: str, d: dt.dtype) -> NotImplementedError:
    """Return PyTorch's error for a dtype that one of its kernels does not have."""
    return NotImplementedError(f"\"{kernel}\" not implemented for '{dt.scalar_name(d)}'")


def node_of(x: Operand, d: dt.dtype) -> Node:
    """Return an operand as a value of dtype `d`."""
    if isinstance(x, Handle):
        n = read(x)
        return n if n.dtype is d else convert(n, d)
    return number(x, d)


def nodes_of(*xs: Operand, to: dt.dtype | None = None) -> list[Node]:
    """Return operands as values of their common dtype, or of `to`."""
    d = to or result_type(*xs)
    return [node_of(x, d) for x in xs]


def floating(d: dt.dtype) -> dt.dtype:
    """Return the dtype in which a floating-point function of `d` is computed: integers take the default dtype."""
    return d if d.category >= 2 else dt.get_default()


def wide(x: Node) -> Node:
    """Return `x` in the precision in which it is computed: 16-bit and 8-bit floats in float32."""
    to = dt.ACCUMULATE.get(x.dtype)
    return convert(x, to) if to else x


def scaling(x: Operand, factor: Operand, d: dt.dtype) -> tuple[Node, Node]:
    """Return the operands of a product or quotient that is converted to dtype `d` afterwards.

    A factor that is a number or a 0-d tensor is not rounded to 16 bits before, as in PyTorch's kernels.
    """
    to = d if isinstance(factor, Handle) and factor._shape else dt.ACCUMULATE.get(d, d)
    return convert(node_of(x, d), to), node_of(factor, to)


def kept_strides(shape: Shape, *xs: Operand) -> Shape | None:
    """Return the dense layout a pointwise result inherits from its operands, or None when it is contiguous."""
    for x in xs:
        if isinstance(x, Handle) and x._shape == shape:
            if x._strides is None:
                return None
            st = x._strides
            order = sorted(range(len(shape)), key=lambda i: (-st[i], i))
            if 0 in st or order == list(range(len(shape))):
                return None
            dense = contiguous_strides([shape[i] for i in order])
            out = [0] * len(shape)
            for i, s in zip(order, dense):
                out[i] = s
            return tuple(out)
    return None


def result(n: Node, *like: Operand) -> Any:
    """Return a value as a new tensor, laid out as the operands it was made from."""
    meta = False
    for x in like:
        if isinstance(x, Handle):
            if x._strides is not None:
                return _meta(wrap(n, kept_strides(n.shape, *like)), like)
            meta |= x._storage.meta
    t = wrap(n)
    if meta:
        t._storage.meta = True
    return t


def dense(n: Node, *like: Operand) -> Any:
    """Return a value as a new contiguous tensor, however the operands it was made from lie in memory."""
    return _meta(wrap(n), like)


def _meta(t: Any, like: Sequence[Operand]) -> Any:
    if any(isinstance(x, Handle) and x._storage.meta for x in like):
        t._storage.meta = True
    return t


def check_inplace(t: Handle, new: Node | None = None) -> None:
    """Raise PyTorch's error if `t` must not be written (with the value `new`)."""
    if state.grad:
        if t._leaf:
            raise RuntimeError("a leaf Variable that requires grad is being used in an in-place operation.")
        base = t._base_ref
        if base is not None:
            if base._leaf:
                raise RuntimeError(
                    "a view of a leaf Variable that requires grad is being used in an in-place operation."
                )
            if type(base) is Origin and (t.requires_grad or (new is not None and new.needs_grad)):
                raise RuntimeError(base.text(ITSELF))
    if t._inference and not state.inference:
        raise RuntimeError(
            "Inplace update to inference tensor outside InferenceMode is not allowed.You can make a clone "
            "to get a normal tensor before doing inplace update.See "
            "https://github.com/pytorch/rfcs/pull/17 for more details."
        )
    check_single_memory(t)


def check_single_memory(t: Handle) -> None:
    """Raise PyTorch's RuntimeError if several elements of `t` lie in one place, as in an expanded tensor."""
    if t._strides is not None and 0 not in t._shape:
        for n, s in zip(t._shape, t._strides):
            if s == 0 and n > 1:
                raise RuntimeError(
                    "unsupported operation: more than one element of the written-to tensor refers to a "
                    "single memory location. Please clone() the tensor before performing the operation."
                )


def can_cast(source: dt.dtype, to: dt.dtype) -> bool:
    """Tell whether a result of dtype `source` may be stored in `to`, as torch.can_cast."""
    if source.category > to.category:
        return False
    return not (to is dt.bool_ and source is not dt.bool_)


def check_cast(source: dt.dtype, to: dt.dtype) -> None:
    """Raise PyTorch's RuntimeError if a result of dtype `source` must not be stored in `to`."""
    if not can_cast(source, to):
        raise RuntimeError(
            f"result type {dt.scalar_name(source)} can't be cast to the desired output type {dt.scalar_name(to)}"
        )


def assign(t: Any, n: Node) -> Any:
    """Write a value into a tensor, in place, with PyTorch's checks; return the tensor."""
    check_inplace(t, n)
    if n.shape != t._shape:
        from fanal.core.base.shape import broadcast_shapes

        if broadcast_shapes(n.shape, t._shape) != t._shape:
            raise RuntimeError(
                f"output with shape {list(t._shape)} doesn't match the broadcast shape {list(n.shape)}"
            )
        from fanal.core.ir.prims import broadcast

        n = broadcast(n, t._shape)
    if n.dtype is not t._dtype:
        check_cast(n.dtype, t._dtype)
        n = convert(n, t._dtype)
    write(t, n)
    return t


def store(out: Any, n: Node) -> Any:
    """Put a result into the tensor given as out=, resizing it if its shape differs; return the tensor."""
    check_cast(n.dtype, out._dtype)
    if out._shape != n.shape:
        from fanal.core.ops.storage_ops import resize

        if 0 not in out._shape:
            warnings.warn(
                f"An output with one or more elements was resized since it had shape {list(out._shape)}, which does "
                f"not match the required output shape {list(n.shape)}. This behavior is deprecated, and in a future "
                "PyTorch release outputs will not be resized unless they have zero elements. You can explicitly "
                "reuse an out tensor t by resizing it, inplace, to zero elements with t.resize_(0).",
                UserWarning,
                stacklevel=2,
            )
        unfollowable("a tensor given as out= was resized")
        resize(out, n.shape)
    write(out, convert(n, out._dtype))
    return out


__all__ = [
    "ENTRIES",
    "Entry",
    "Handle",
    "Node",
    "Number",
    "Operand",
    "Tensor",
    "assign",
    "can_cast",
    "check_cast",
    "check_inplace",
    "check_single_memory",
    "constant",
    "counted",
    "floating",
    "is_number",
    "kept_strides",
    "node_of",
    "nodes_of",
    "number",
    "public",
    "read",
    "result",
    "result_type",
    "store",
    "unsupported",
    "value",
    "wide",
    "wrap",
    "write",
]
