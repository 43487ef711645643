"""What processes send each other, in a group of one: nothing. Outputs get what this process puts in.

With `async_op=True` a `Work` is returned, which is done. Tensors are written in place, without history, as PyTorch
does. Messages to a certain process have nobody to go to: they raise ValueError.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from datetime import timedelta
from typing import Any

import fanal
from fanal import Tensor
from fanal.distributed.group import ProcessGroup, ReduceOp, member

__all__ = [
    "Work",
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_reduce",
    "all_to_all",
    "all_to_all_single",
    "barrier",
    "broadcast",
    "broadcast_object_list",
    "gather",
    "gather_object",
    "irecv",
    "isend",
    "monitored_barrier",
    "recv",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "scatter",
    "scatter_object_list",
    "send",
]


class Work:
    """A collective under way: it is done."""

    def __init__(self, results: Sequence[Tensor] = ()) -> None:
        self._results = list(results)

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Return True."""
        return True

    def is_completed(self) -> bool:
        """Return True."""
        return True

    def is_success(self) -> bool:
        """Return True."""
        return True

    def exception(self) -> None:
        """Return None."""

    def result(self) -> list[Tensor]:
        """Return the tensors that were written."""
        return self._results


def _done(async_op: bool, *results: Tensor) -> Work | None:
    return Work(results) if async_op else None


def _check(x: Any, name: str) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(
            f"Invalid function argument. Expected parameter `{name}` of type torch.Tensor, got {type(x).__name__}"
        )


def _check_one(xs: Any, name: str, call: str, like: Tensor | None = None) -> None:
    """Check a list of tensors: one for each process, of the size of `like`."""
    if not isinstance(xs, (list, tuple)) or not all(isinstance(x, Tensor) for x in xs):
        raise TypeError(f"Invalid function argument. Expected parameter `{name}` of type List[torch.Tensor]")
    if len(xs) != 1:
        raise RuntimeError(
            f"ProcessGroupGloo::{call}: invalid {name} list at index 0 (expected length 1, got {len(xs)})"
        )
    if like is not None and xs[0].shape != like.shape:
        expected, got = (tuple(x.shape) for x in (like, xs[0]))
        raise RuntimeError(f"ProcessGroupGloo::{call}: invalid tensor size at index 0 (expected {expected}, got {got})")


def _root(rank: int | None, group_rank: int | None, call: str) -> None:
    """Check the rank that sends or receives."""
    if rank is not None and group_rank is not None:
        raise ValueError("Can't specify both the rank and the rank in the group")
    root = group_rank if rank is None else rank
    if root not in (None, 0):
        raise RuntimeError(f"ProcessGroupGloo::{call}: invalid root rank: {root}")


def _copy(to: Tensor, source: Tensor) -> None:
    with fanal.no_grad():
        to.copy_(source)


def all_reduce(
    tensor: Tensor, op: Any = ReduceOp.SUM, group: ProcessGroup | None = None, async_op: bool = False
) -> Work | None:
    """Leave a tensor as it is: the sum over one process, as every other reduction."""
    _check(tensor, "tensor")
    member(group)
    return _done(async_op, tensor)


def reduce(
    tensor: Tensor,
    dst: int | None = None,
    op: Any = ReduceOp.SUM,
    group: ProcessGroup | None = None,
    async_op: bool = False,
    group_dst: int | None = None,
) -> Work | None:
    """Leave a tensor as it is."""
    _check(tensor, "tensor")
    member(group)
    _root(dst, group_dst, "reduce")
    return _done(async_op, tensor)


def broadcast(
    tensor: Tensor,
    src: int | None = None,
    group: ProcessGroup | None = None,
    async_op: bool = False,
    group_src: int | None = None,
) -> Work | None:
    """Leave a tensor as it is."""
    _check(tensor, "tensor")
    member(group)
    _root(src, group_src, "broadcast")
    return _done(async_op, tensor)


def all_gather(
    tensor_list: list[Tensor], tensor: Tensor, group: ProcessGroup | None = None, async_op: bool = False
) -> Work | None:
    """Copy a tensor into `tensor_list[0]`."""
    _check(tensor, "tensor")
    member(group)
    _check_one(tensor_list, "output tensor", "allgather", tensor)
    _copy(tensor_list[0], tensor)
    return _done(async_op, *tensor_list)


def all_gather_into_tensor(
    output_tensor: Tensor, input_tensor: Tensor, group: ProcessGroup | None = None, async_op: bool = False
) -> Work | None:
    """Copy a tensor into another of as many elements."""
    return _into("all_gather_into_tensor", output_tensor, input_tensor, group, async_op)


def reduce_scatter_tensor(
    output: Tensor,
    input: Tensor,
    op: Any = ReduceOp.SUM,
    group: ProcessGroup | None = None,
    async_op: bool = False,
) -> Work | None:
    """Copy a tensor into another of as many elements."""
    return _into("reduce_scatter_tensor", output, input, group, async_op)


def all_to_all_single(
    output: Tensor,
    input: Tensor,
    output_split_sizes: list[int] | None = None,
    input_split_sizes: list[int] | None = None,
    group: ProcessGroup | None = None,
    async_op: bool = False,
) -> Work | None:
    """Copy a tensor into another of as many elements."""
    return _into("all_to_all_single", output, input, group, async_op)


def _into(call: str, output: Tensor, input: Tensor, group: ProcessGroup | None, async_op: bool) -> Work | None:
    _check(output, "output")
    _check(input, "input")
    member(group)
    if output.numel() != input.numel():
        raise ValueError(
            f"{call}: in a group of one process, output and input must have as many elements, "
            f"got {tuple(output.shape)} and {tuple(input.shape)}"
        )
    _copy(output, input.reshape(output.shape))
    return _done(async_op, output)


def gather(
    tensor: Tensor,
    gather_list: list[Tensor] | None = None,
    dst: int | None = None,
    group: ProcessGroup | None = None,
    async_op: bool = False,
    group_dst: int | None = None,
) -> Work | None:
    """Copy a tensor into `gather_list[0]`."""
    _check(tensor, "tensor")
    member(group)
    _root(dst, group_dst, "gather")
    if not gather_list:
        raise ValueError("Argument ``gather_list`` must be specified on destination rank.")
    _check_one(gather_list, "gather_list", "gather", tensor)
    _copy(gather_list[0], tensor)
    return _done(async_op, *gather_list)


def scatter(
    tensor: Tensor,
    scatter_list: list[Tensor] | None = None,
    src: int | None = None,
    group: ProcessGroup | None = None,
    async_op: bool = False,
    group_src: int | None = None,
) -> Work | None:
    """Copy `scatter_list[0]` into a tensor."""
    _check(tensor, "tensor")
    member(group)
    _root(src, group_src, "scatter")
    if not scatter_list:
        raise ValueError("Argument ``scatter_list`` must be specified on source rank.")
    _check_one(scatter_list, "scatter_list", "scatter", tensor)
    _copy(tensor, scatter_list[0])
    return _done(async_op, tensor)


def reduce_scatter(
    output: Tensor,
    input_list: list[Tensor],
    op: Any = ReduceOp.SUM,
    group: ProcessGroup | None = None,
    async_op: bool = False,
) -> Work | None:
    """Copy `input_list[0]` into a tensor."""
    _check(output, "output")
    member(group)
    _check_one(input_list, "input_list", "reduce_scatter", output)
    _copy(output, input_list[0])
    return _done(async_op, output)


def all_to_all(
    output_tensor_list: list[Tensor],
    input_tensor_list: list[Tensor],
    group: ProcessGroup | None = None,
    async_op: bool = False,
) -> Work | None:
    """Copy the tensor of one list into that of the other."""
    member(group)
    _check_one(input_tensor_list, "input_tensor_list", "alltoall")
    _check_one(output_tensor_list, "output_tensor_list", "alltoall", input_tensor_list[0])
    _copy(output_tensor_list[0], input_tensor_list[0])
    return _done(async_op, *output_tensor_list)


def barrier(
    group: ProcessGroup | None = None, async_op: bool = False, device_ids: Any = None, timeout: timedelta | None = None
) -> Work | None:
    """Wait for nobody."""
    member(group)
    return _done(async_op)


def monitored_barrier(
    group: ProcessGroup | None = None, timeout: timedelta | None = None, wait_all_ranks: bool = False
) -> None:
    """Wait for nobody."""
    member(group)


# Objects: what arrives is another object, as it would be from another process.


def all_gather_object(object_list: list[Any], obj: Any, group: ProcessGroup | None = None) -> None:
    """Put a copy of an object into `object_list[0]`."""
    member(group)
    object_list[0] = deepcopy(obj)


def gather_object(
    obj: Any,
    object_gather_list: list[Any] | None = None,
    dst: int | None = None,
    group: ProcessGroup | None = None,
    group_dst: int | None = None,
) -> None:
    """Put a copy of an object into `object_gather_list[0]`."""
    member(group)
    _root(dst, group_dst, "gather")
    if not object_gather_list:
        raise ValueError("Argument ``gather_list`` must be specified on destination rank.")
    object_gather_list[0] = deepcopy(obj)


def scatter_object_list(
    scatter_object_output_list: list[Any],
    scatter_object_input_list: list[Any] | None = None,
    src: int | None = None,
    group: ProcessGroup | None = None,
    group_src: int | None = None,
) -> None:
    """Put a copy of `scatter_object_input_list[0]` into the output list."""
    member(group)
    _root(src, group_src, "scatter")
    if not isinstance(scatter_object_output_list, list) or not scatter_object_output_list:
        raise ValueError("Expected argument scatter_object_output_list to be a list of size at least 1.")
    if not scatter_object_input_list:
        raise ValueError("source rank must provide non-None scatter_object_input_list")
    scatter_object_output_list[0] = deepcopy(scatter_object_input_list[0])


def broadcast_object_list(
    object_list: list[Any],
    src: int | None = None,
    group: ProcessGroup | None = None,
    device: Any = None,
    group_src: int | None = None,
) -> None:
    """Leave a list as it is."""
    member(group)
    _root(src, group_src, "broadcast")


def send(
    tensor: Tensor,
    dst: int | None = None,
    group: ProcessGroup | None = None,
    tag: int = 0,
    group_dst: int | None = None,
) -> None:
    """Raise ValueError: a process sends nothing to itself."""
    raise _nobody(group, "destination", group_dst if dst is None else dst)


def isend(
    tensor: Tensor,
    dst: int | None = None,
    group: ProcessGroup | None = None,
    tag: int = 0,
    group_dst: int | None = None,
) -> Work | None:
    """Raise ValueError: a process sends nothing to itself."""
    raise _nobody(group, "destination", group_dst if dst is None else dst)


def recv(
    tensor: Tensor,
    src: int | None = None,
    group: ProcessGroup | None = None,
    tag: int = 0,
    group_src: int | None = None,
) -> int:
    """Raise ValueError: there is no other process to hear from."""
    raise _nobody(group, "source", group_src if src is None else src)


def irecv(
    tensor: Tensor,
    src: int | None = None,
    group: ProcessGroup | None = None,
    tag: int = 0,
    group_src: int | None = None,
) -> Work | None:
    """Raise ValueError: there is no other process to hear from."""
    raise _nobody(group, "source", group_src if src is None else src)


def _nobody(group: ProcessGroup | None, what: str, rank: int | None) -> ValueError:
    member(group)
    if rank == 0:
        return ValueError(
            f"Invalid {what} rank: {what} rank should not be the same as the rank of the current process."
        )
    return ValueError(f"Invalid {what} rank: {rank} is not in a group of one process")
