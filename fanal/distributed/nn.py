"""Collectives through which gradients pass, in a group of one process: results are what this process puts in.

Differs from torch: they are not deprecated here, and do not warn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fanal import Tensor
from fanal.core.base.missing import finder
from fanal.distributed.collectives import _check, _check_one, _root
from fanal.distributed.group import ProcessGroup, ReduceOp, member

__all__ = ["all_gather", "all_reduce", "all_to_all", "broadcast", "gather", "reduce", "reduce_scatter", "scatter"]

__getattr__ = finder("torch.distributed.nn")


def all_reduce(tensor: Tensor, op: Any = ReduceOp.SUM, group: ProcessGroup | None = None) -> Tensor:
    """Return a copy of a tensor: the sum over one process, as every other reduction."""
    _check(tensor, "tensor")
    member(group)
    return tensor.clone()  # type: ignore[attr-defined]


def reduce(tensor: Tensor, dst: int, op: Any = ReduceOp.SUM, group: ProcessGroup | None = None) -> Tensor:
    """Return a copy of a tensor."""
    _root(dst, None, "reduce")
    return all_reduce(tensor, op, group)


def broadcast(tensor: Tensor, src: int, group: ProcessGroup | None = None) -> Tensor:
    """Return a copy of a tensor."""
    _root(src, None, "broadcast")
    return all_reduce(tensor, group=group)


def all_gather(tensor: Tensor, group: ProcessGroup | None = None) -> tuple[Tensor, ...]:
    """Return a copy of a tensor, for each process."""
    return (all_reduce(tensor, group=group),)


def gather(tensor: Tensor, dst: int = 0, group: ProcessGroup | None = None) -> tuple[Tensor, ...]:
    """Return a copy of a tensor, for each process."""
    _root(dst, None, "gather")
    return all_gather(tensor, group)


def scatter(tensors: Sequence[Tensor], src: int = 0, group: ProcessGroup | None = None) -> Tensor:
    """Return a copy of this process's tensor, of one for each."""
    member(group)
    _root(src, None, "scatter")
    _check_one(tensors, "input tensor", "scatter")
    return all_reduce(tensors[0], group=group)


def reduce_scatter(output: Tensor, input_list: Sequence[Tensor], op: Any = ReduceOp.SUM,
                   group: ProcessGroup | None = None) -> Tensor:
    """Return a copy of this process's tensor, of one for each, all of the size of `output`."""
    member(group)
    _check(output, "output")
    _check_one(input_list, "input tensor", "reduce_scatter", output)
    return all_reduce(input_list[0], op, group)


def all_to_all(output_tensor_list: Sequence[Tensor], input_tensor_list: Sequence[Tensor],
               group: ProcessGroup | None = None) -> tuple[Tensor, ...]:
    """Return a copy of what this process sends to itself."""
    member(group)
    _check_one(input_tensor_list, "input tensor", "alltoall")
    _check_one(output_tensor_list, "output tensor", "alltoall", input_tensor_list[0])
    return all_gather(input_tensor_list[0], group)
