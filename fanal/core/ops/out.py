"""out=: the result of an operator goes into a tensor that the caller gives.

Five ways, named by the operator's `out` option:
  True    the result is converted as `torch.can_cast` allows, and the tensor may be one of the operands,
  "same"  as True, but the tensor must have the dtype of the result,
  "apart" as True, but no memory may be shared,
  "alone" as "same", but no memory may be shared,
  "fill"  in a call without dtype= the tensor decides the dtype: factories, sums, means and products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.base.shape import Shape, contiguous_strides
from fanal.core.base.state import state
from fanal.core.engine.handle import Handle
from fanal.core.engine.record import leave_path
from fanal.core.ir.program import Node
from fanal.core.ops.arguments import passing
from fanal.core.ops.build import check_cast, check_single_memory, store
from fanal.core.tensor.alias import read
from fanal.core.tensor.tensor import strides_of


def accepting_out(fn: Callable, name: str, way: bool | str = True) -> Callable:
    """Return `fn` with out=: one tensor, or a tuple of tensors for an operator of several results."""

    def call(*args: Any, out: Any = None, **kwargs: Any) -> Any:
        if out is None:
            return fn(*args, **kwargs)
        several = isinstance(out, (tuple, list))
        outs = out if several else (out,)
        for o in outs:
            if not isinstance(o, Handle):
                raise TypeError(f"{name}(): argument 'out' must be Tensor, not {type(o).__name__}")
        operands = [x for x in (*args, *kwargs.values()) for x in _tensors(x)]
        if state.forward is not None and any(read(x).tangents for x in (*outs, *operands)):
            raise NotImplementedError(
                f"Trying to use forward AD with {name}_out that does not support it because it is an out= function"
            )
        if way == "fill" and kwargs.get("dtype") is None:
            kwargs["dtype"] = out._dtype
        r = fn(*args, **kwargs)
        results = r if isinstance(r, tuple) else (r,)
        if several != isinstance(r, tuple) or len(outs) != len(results):
            wanted = f"a tuple of {len(results)} Tensors" if isinstance(r, tuple) else "Tensor"
            raise TypeError(f"{name}(): argument 'out' must be {wanted}, not {type(out).__name__}")
        if state.grad and any(x.requires_grad for x in (*outs, *results)):  # type: ignore[attr-defined]
            raise RuntimeError(
                f"{name}(): functions with out=... arguments don't support automatic differentiation, but one of "
                "the arguments requires grad."
            )
        nodes = [read(x) for x in results]
        for o, n in zip(outs, nodes):
            _check(o, n, operands, way)
        leave_path()  # of an operator that is no event: a followed segment knows nothing of the write
        for o, n in zip(outs, nodes):
            store(o, n)
        if not several:
            return out
        return type(r)(outs) if type(r) is tuple else type(r)(*outs)

    return passing(call, fn, "out")


def _tensors(x: Any) -> Iterator[Handle]:
    if isinstance(x, Handle):
        yield x
    elif isinstance(x, (tuple, list)):
        yield from (i for i in x if isinstance(i, Handle))


def _check(out: Any, n: Node, operands: list[Handle], way: bool | str) -> None:
    """Raise PyTorch's RuntimeError if a result must not be put into `out`."""
    if way in (True, "apart"):
        check_cast(n.dtype, out._dtype)
    elif n.dtype is not out._dtype:
        raise RuntimeError(
            f"Expected out tensor to have dtype {dt.c_name(n.dtype)}, but got {dt.c_name(out._dtype)} instead"
        )
    check_single_memory(out)
    for x in operands:
        if x._storage is out._storage and _overlap(out, n.shape, x, way in ("alone", "apart")):
            raise RuntimeError(
                "unsupported operation: some elements of the input tensor and the written-to tensor refer to a "
                "single memory location. Please clone() the tensor before performing the operation."
            )


def _overlap(out: Handle, shape: Shape, x: Handle, whole: bool) -> bool:
    """Tell whether `out`, once it has its shape, shares bytes with `x`; being all of `x` only counts if `whole`."""
    if out is x:
        return whole
    if not (_dense(out) and _dense(x)):
        return False  # too hard to tell; PyTorch lets it pass as well
    if (out._offset, shape, strides_of(out)) == (x._offset, x._shape, strides_of(x)):
        return whole and math.prod(shape) > 0
    return out._offset < x._offset + math.prod(x._shape) and x._offset < out._offset + math.prod(shape)


def _dense(t: Handle) -> bool:
    """Tell whether the elements fill one stretch of memory, in any order."""
    if t._strides is None:
        return True
    kept = sorted((s, n) for n, s in zip(t._shape, t._strides) if n != 1)
    order: Shape = tuple(n for _, n in reversed(kept))
    return tuple(s for s, _ in reversed(kept)) == contiguous_strides(order)
