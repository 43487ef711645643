"""Batches of sequences of different lengths."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np

import fanal
from fanal import Tensor
from fanal.core.base.missing import finder
from fanal.core.ops.recurrence import packing_of
from fanal.core.tensor.host import pad_rows
from fanal.core.tensor.tensor import wrap_array

__all__ = [
    "PackedSequence", "invert_permutation", "pack_padded_sequence", "pack_sequence", "pad_packed_sequence",
    "pad_sequence", "unpack_sequence", "unpad_sequence",
]  # fmt: skip


class PackedSequence(namedtuple("_Packed", ["data", "batch_sizes", "sorted_indices", "unsorted_indices"])):
    """Sequences laid side by side, the first step of all, then the second of all that have one, and so on.

    `data` (sum of lengths, *), `batch_sizes` (T) on the CPU. Made by `pack_sequence` and
    `pack_padded_sequence`.
    """

    __slots__ = ()

    def __new__(
        cls,
        data: Any,
        batch_sizes: Tensor | None = None,
        sorted_indices: Tensor | None = None,
        unsorted_indices: Tensor | None = None,
    ) -> PackedSequence:
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        if batch_sizes is None:
            if not (isinstance(data, (list, tuple)) and len(data) == 2):
                raise AssertionError("Expected data to be a list or tuple of length 2")
            data, batch_sizes = data
        elif batch_sizes.device.type != "cpu":
            raise ValueError(
                "batch_sizes should always be on CPU. Instances of PackedSequence should never be "
                "created manually. "
                "They should be instantiated by functions like pack_sequence and "
                "pack_padded_sequences in nn.utils.rnn."
            )
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def __reduce__(self) -> tuple:
        return type(self), tuple(self)

    def _map(self, data: Tensor, move: Any) -> PackedSequence:
        """Return the same with other data; the indices go where the data are."""
        if data is self.data:
            return self
        indices = (None if i is None else move(i) for i in (self.sorted_indices, self.unsorted_indices))
        return type(self)(data, self.batch_sizes, *indices)

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """Convert dtype or device of the data."""
        data = self.data.to(*args, **kwargs)
        return self._map(data, lambda t: t.to(data.device))

    def cuda(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """Move to a GPU."""
        return self._map(self.data.cuda(*args, **kwargs), lambda t: t.cuda(*args, **kwargs))

    def cpu(self) -> PackedSequence:
        """Move to the CPU."""
        return self._map(self.data.cpu(), lambda t: t.cpu())

    def pin_memory(self) -> PackedSequence:
        """Copy to page-locked memory."""
        return self._map(self.data.pin_memory(), lambda t: t.pin_memory())

    def double(self) -> PackedSequence:
        """Cast the data to float64."""
        return self.to(dtype=fanal.double)

    def float(self) -> PackedSequence:
        """Cast the data to float32."""
        return self.to(dtype=fanal.float32)

    def half(self) -> PackedSequence:
        """Cast the data to float16."""
        return self.to(dtype=fanal.half)

    def long(self) -> PackedSequence:
        """Cast the data to int64."""
        return self.to(dtype=fanal.int64)

    def int(self) -> PackedSequence:
        """Cast the data to int32."""
        return self.to(dtype=fanal.int32)

    def short(self) -> PackedSequence:
        """Cast the data to int16."""
        return self.to(dtype=fanal.int16)

    def char(self) -> PackedSequence:
        """Cast the data to int8."""
        return self.to(dtype=fanal.int8)

    def byte(self) -> PackedSequence:
        """Cast the data to uint8."""
        return self.to(dtype=fanal.uint8)

    @property
    def is_cuda(self) -> bool:
        """Return whether the data are on a GPU."""
        return self.data.is_cuda

    def is_pinned(self) -> bool:
        """Return whether the data are in page-locked memory."""
        return self.data.is_pinned()


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """Return the permutation that undoes `permutation`."""
    if permutation is None:
        return None
    places = fanal.arange(0, permutation.numel(), dtype=permutation.dtype, device=permutation.device)
    return fanal.empty_like(permutation).scatter_(0, permutation, places)


def pack_padded_sequence(
    input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Pack a padded batch (T, B, *), or (B, T, *) with `batch_first`.

    `enforce_sorted=False` sorts by length first. The lengths are read by the program.
    """
    sizes = [int(n) for n in (lengths.tolist() if isinstance(lengths, Tensor) else lengths)]
    batch, longest = input.shape[:2] if batch_first else (input.size(1), input.size(0))
    order = None
    if not enforce_sorted:
        order, sizes = _longest_first(sizes, input.device)
    if len(sizes) != batch:
        raise RuntimeError(
            f"Expected `len(lengths)` to be equal to batch_size, but got {len(sizes)} (batch_size={batch})"
        )
    if not sizes or sizes[-1] <= 0:
        raise RuntimeError(
            "Length of all samples has to be greater than 0, but found an element in 'lengths' that is <= 0"
        )
    if any(a < b for a, b in pairwise(sizes)):
        raise RuntimeError(
            "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. You can pass "
            "`enforce_sorted=False` to pack_padded_sequence and/or pack_sequence to sidestep this "
            "requirement if you "
            "do not need ONNX exportability."
        )
    if sizes[0] > longest:
        raise RuntimeError(
            f"Expected the longest of `lengths` to be at most {longest}, the length of the batch, "
            f"but got {sizes[0]}"
        )
    batch_sizes = np.array([sum(size > t for size in sizes) for t in range(sizes[0])])
    step, sequence = np.nonzero(np.arange(batch) < batch_sizes[:, None])
    if order is not None:
        sequence = np.array(order.tolist())[sequence]
    places = sequence * longest + step if batch_first else step * batch + sequence
    data = input.flatten(0, 1).index_select(0, wrap_array(places))
    return PackedSequence(data, wrap_array(batch_sizes), order, None)


def _longest_first(sizes: list[int], device: Any) -> tuple[Tensor, list[int]]:
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    return fanal.tensor(order, dtype=fanal.int64, device=device), [sizes[i] for i in order]


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the padded batch (T, B, *), or (B, T, *) with `batch_first`, and the lengths (B)."""
    batch_sizes = sequence.batch_sizes.tolist()
    longest = len(batch_sizes)
    if total_length is not None:
        if total_length < longest:
            raise ValueError(
                "Expected total_length to be at least the length of the longest sequence in input, but got "
                f"total_length={total_length} and max sequence length being {longest}"
            )
    batch, rest = batch_sizes[0], tuple(sequence.data.shape[1:])
    steps = total_length or longest
    packing = packing_of(batch_sizes + [0] * (steps - longest), batch_first)
    there = packing.there.reshape(*packing.there.shape, *[1] * len(rest))
    rows = sequence.data.index_select(0, packing.rows.flatten()).unflatten(0, packing.rows.shape)
    padded = rows.masked_fill(~there, padding_value)
    lengths = wrap_array(np.array([sum(n > b for n in batch_sizes) for b in range(batch)]))
    undo = sequence.unsorted_indices
    if undo is not None:
        return padded.index_select(0 if batch_first else 1, undo), lengths.index_select(0, undo.cpu())
    return padded, lengths


def pad_sequence(
    sequences: Any, batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Tensor:
    """Pad tensors (L, *) to the longest: (T, B, *), or (B, T, *) with `batch_first`."""
    if not isinstance(sequences, Iterable):
        raise RuntimeError(
            f"pad_sequence: Expected iterable for input sequences, but got arg of type: {type(sequences)}"
        )
    sequences = tuple(sequences)
    if not sequences:
        raise RuntimeError("received an empty list of sequences")
    if padding_side not in ("left", "right"):
        raise RuntimeError(f"padding_side should be either 'right' or 'left', got '{padding_side}'")
    padded = pad_rows(sequences, padding_value, padding_side == "left", batch_first)
    if padded is not None:
        return padded
    longest, rest = max(s.size(0) for s in sequences), tuple(sequences[0].shape[1:])
    rows = []
    for sequence in sequences:
        missing = longest - sequence.size(0)
        if missing:
            padding = sequences[0].new_full((missing, *rest), padding_value)
            sequence = fanal.cat((sequence, padding) if padding_side == "right" else (padding, sequence), 0)
        rows.append(sequence)
    return fanal.stack(rows, 0 if batch_first else 1)


def unpad_sequence(padded_sequences: Tensor, lengths: Any, batch_first: bool = False) -> list[Tensor]:
    """Return the sequences of a padded batch without their padding."""
    if not batch_first:
        padded_sequences = padded_sequences.transpose(0, 1)
    sizes = lengths.tolist() if isinstance(lengths, Tensor) else lengths
    return [sequence[:size] for sequence, size in zip(padded_sequences.unbind(0), sizes, strict=True)]


def pack_sequence(sequences: Any, enforce_sorted: bool = True) -> PackedSequence:
    """Pack tensors (L, *)."""
    lengths = [s.size(0) for s in sequences]
    return pack_padded_sequence(pad_sequence(sequences), lengths, enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """Return the sequences of a packed batch."""
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)

__getattr__ = finder("torch.nn.utils.rnn")
