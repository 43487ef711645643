"""From keys to a batch: one fetcher for datasets by key, one for streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import getitem
from typing import Any

import fanal
from fanal.core.engine.ledger import ledger
from fanal.core.engine.record import flush, session
from fanal.core.tensor.host import take_rows
from fanal.utils.data.collate import default_collate
from fanal.utils.data.dataset import Subset, TensorDataset

__all__ = ["MapFetcher", "Pace", "StreamFetcher"]


PATIENCE = 4  # by so many more batches are recorded than followed, before samples are computed one by one


class Pace:
    """What a loader has found out about its dataset, which lasts for all passes over it."""

    __slots__ = ("alone", "recorded")

    def __init__(self) -> None:
        self.recorded = 0  # by so many more batches were recorded than followed, lately
        self.alone = False  # samples are computed one by one


class _Fetcher:
    """Load samples and collate them, so that what differs from batch to batch is no part of the training step.

    The operations of loading are recorded and followed like all others, and mostly run as the beginning of the step
    that uses the batch. But sequences of many lengths, say, are cut and filled in another way in every batch, and a
    step that begins so is never the same. Where loading is mostly not followed, or to load a sample computes what came
    before (it looks at a value), each sample is computed when it is loaded, and so is what collates them: a sample has
    few forms.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._recorded = 0  # calls, when the present batch began
        self._flushes: int | None = None  # when its first sample was loaded

    def _begin(self) -> None:
        self._recorded, self._flushes = ledger.recorded, None
        if self._pace.alone:
            flush("the work before a batch")

    def _load(self, load: Callable[..., Any], *args: Any) -> Any:
        """Load a sample. Its views of data are no events: they are at another place in every sample."""
        outer, session.loading = session.loading, True
        try:
            sample = load(*args)
        finally:
            session.loading = outer
        if self._flushes is None:
            self._flushes = ledger.flushes
        if ledger.flushes > self._flushes:
            self._pace.alone = True
        if self._pace.alone:
            flush("a sample")
        return sample

    def _end(self, batch: Any) -> Any:
        if self._pace.alone:
            flush("a batch")
        else:
            pace = self._pace
            pace.recorded = pace.recorded + 1 if ledger.recorded > self._recorded else max(0, pace.recorded - 1)
            pace.alone = pace.recorded > PATIENCE
        return batch


class MapFetcher(_Fetcher):
    """Fetch samples by their keys: a list of keys where `batched`, else one key."""

    def __init__(self, dataset: Any, batched: bool, collate_fn: Callable[[Any], Any], pace: Pace) -> None:
        super().__init__(pace)
        self.dataset = dataset
        self.batched = batched
        self.collate_fn = collate_fn

    def fetch(self, keys: Any) -> Any:
        dataset = self.dataset
        self._begin()
        if not self.batched:
            return self._end(self.collate_fn(self._load(getitem, dataset, keys)))
        if self.collate_fn is default_collate:
            batch = _gather_rows(dataset, keys)
            if batch is not None:
                return batch
        get_many = getattr(dataset, "__getitems__", None)
        if get_many:
            samples = self._load(get_many, keys)
        else:
            samples = [self._load(getitem, dataset, key) for key in keys]
        return self._end(self.collate_fn(samples))


class StreamFetcher(_Fetcher):
    """Fetch samples from a stream, as many as there are keys where `batched`, else one."""

    def __init__(
        self, dataset: Any, batched: bool, collate_fn: Callable[[Any], Any], drop_last: bool, pace: Pace
    ) -> None:
        super().__init__(pace)
        self.stream: Iterator[Any] = iter(dataset)
        self.batched = batched
        self.collate_fn = collate_fn
        self.drop_last = drop_last
        self.ended = False

    def fetch(self, keys: Any) -> Any:
        """Raises: StopIteration at the end, which may come in the middle of a batch."""
        if not self.batched:
            self._begin()
            return self._end(self.collate_fn(self._load(next, self.stream)))
        if self.ended:
            raise StopIteration
        self._begin()
        samples = []
        for _ in keys:
            try:
                samples.append(self._load(next, self.stream))
            except StopIteration:
                # A generator must not be asked again: the samples in hand are the last ones.
                self.ended = True
                break
        if not samples or (self.drop_last and len(samples) < len(keys)):
            raise StopIteration
        return self._end(self.collate_fn(samples))


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
