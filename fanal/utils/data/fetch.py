"""From keys to a batch: one fetcher for datasets by key, one for streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import fanal
from fanal.core.tensor.host import take_rows
from fanal.utils.data.collate import default_collate
from fanal.utils.data.dataset import Subset, TensorDataset

__all__ = ["MapFetcher", "StreamFetcher"]


class MapFetcher:
    """Fetch samples by their keys: a list of keys where `batched`, else one key."""

    def __init__(self, dataset: Any, batched: bool, collate_fn: Callable[[Any], Any]) -> None:
        self.dataset = dataset
        self.batched = batched
        self.collate_fn = collate_fn

    def fetch(self, keys: Any) -> Any:
        dataset = self.dataset
        if not self.batched:
            return self.collate_fn(dataset[keys])
        if self.collate_fn is default_collate:
            batch = _gather_rows(dataset, keys)
            if batch is not None:
                return batch
        get_many = getattr(dataset, "__getitems__", None)
        samples = get_many(keys) if get_many else [dataset[key] for key in keys]
        return self.collate_fn(samples)


class StreamFetcher:
    """Fetch samples from a stream, as many as there are keys where `batched`, else one."""

    def __init__(
        self, dataset: Any, batched: bool, collate_fn: Callable[[Any], Any], drop_last: bool
    ) -> None:
        self.stream: Iterator[Any] = iter(dataset)
        self.batched = batched
        self.collate_fn = collate_fn
        self.drop_last = drop_last
        self.ended = False

    def fetch(self, keys: Any) -> Any:
        """Raises: StopIteration at the end, which may come in the middle of a batch."""
        if not self.batched:
            return self.collate_fn(next(self.stream))
        if self.ended:
            raise StopIteration
        samples = []
        for _ in keys:
            try:
                samples.append(next(self.stream))
            except StopIteration:
                # A generator must not be asked again: the samples in hand are the last ones.
                self.ended = True
                break
        if not samples or (self.drop_last and len(samples) < len(keys)):
            raise StopIteration
        return self.collate_fn(samples)


def _gather_rows(dataset: Any, keys: Any) -> list[Any] | None:
    """The batch of a `TensorDataset`, or of subsets of one, by indexing each tensor once.

    Rows gathered together are bit for bit the rows taken one by one and stacked. None where that is not
    sure: subclasses may do anything, keys may be no plain ints, and a key out of range raises as it does
    alone.
    """
    while type(dataset) is Subset and type(keys) is list and _all_ints(keys):
        indices = dataset.indices
        dataset, keys = dataset.dataset, [indices[key] for key in keys]
    if type(dataset) is not TensorDataset or type(keys) is not list or not keys or not _all_ints(keys):
        return None
    n = len(dataset)
    if min(keys) < -n or max(keys) >= n:
        return None
    if not all(type(tensor) is fanal.Tensor and tensor.is_contiguous() for tensor in dataset.tensors):
        return None
    batch = [take_rows(tensor, keys) for tensor in dataset.tensors]
    if any(rows is None for rows in batch):
        index = fanal.tensor(keys)
        pairs = zip(dataset.tensors, batch, strict=True)
        batch = [tensor[index] if rows is None else rows for tensor, rows in pairs]
    return batch


def _all_ints(keys: list[Any]) -> bool:
    return all(type(key) is int for key in keys)
