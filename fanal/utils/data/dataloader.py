"""`DataLoader`: samples in some order, in batches, as an iterable."""

from __future__ import annotations

import itertools
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from fanal.utils.data.collate import default_collate, default_convert
from fanal.utils.data.dataset import Dataset, IterableDataset
from fanal.utils.data.fetch import MapFetcher, Pace, StreamFetcher
from fanal.utils.data.sampler import BatchSampler, RandomSampler, Sampler, SequentialSampler, draw_seed
from fanal.utils.data.worker import Worker, get_worker_info

__all__ = ["DataLoader", "default_collate", "default_convert", "get_worker_info"]

Sample_co = TypeVar("Sample_co", covariant=True)

_FIXED = frozenset(("batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers"))


class _EndlessSampler(Sampler[None]):
    """Yield None for ever: a stream has no keys, and ends by itself."""

    def __iter__(self) -> Iterator[None]:
        return itertools.repeat(None)


class DataLoader(Generic[Sample_co]):
    """Iterate over a dataset in batches.

    The same seed gives PyTorch's order: an iterator draws its base seed when it is made, and the sampler
    draws at the first batch.
    Raises: ValueError for options that exclude each other.
    Differs from torch: workers take turns in the calling process (see `worker.py`); batches, their order and
    the workers' random numbers are the same, and an error in a worker is raised as it is.
    """

    def __init__(
        self,
        dataset: Dataset[Sample_co],
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Sampler | Iterable | None = None,
        batch_sampler: Sampler[list] | Iterable[list] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], object] | None = None,
        multiprocessing_context: Any = None,
        generator: Any = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ) -> None:
        streams = isinstance(dataset, IterableDataset)
        _check_workers(num_workers, timeout, prefetch_factor, persistent_workers)
        context = _check_context(multiprocessing_context, num_workers)
        _check_order(streams, batch_size, shuffle, sampler, batch_sampler, drop_last)

        if sampler is None:
            if streams:
                sampler = _EndlessSampler()
            elif shuffle:
                sampler = RandomSampler(dataset, generator=generator)  # type: ignore[arg-type]
            else:
                sampler = SequentialSampler(dataset)  # type: ignore[arg-type]
        if batch_sampler is not None:
            batch_size = None
        elif batch_size is not None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        if collate_fn is None:
            collate_fn = default_convert if batch_sampler is None else default_collate

        self.dataset = dataset
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.generator = generator
        self.collate_fn = collate_fn
        self.num_workers = num_workers
        self.prefetch_factor = 2 if num_workers > 0 and prefetch_factor is None else prefetch_factor
        self.persistent_workers = persistent_workers
        self.worker_init_fn = worker_init_fn
        self.multiprocessing_context = context
        self.in_order = in_order
        self.timeout = timeout
        self.pin_memory = pin_memory
        self.pin_memory_device = pin_memory_device
        self._streams = streams
        self._pace = Pace()
        # What `len` told of a stream; an iterator that yields more warns.
        self._told_length: int | None = None
        self._iterator: _WorkersDataLoaderIter | None = None
        self._initialized = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED and "_initialized" in self.__dict__:
            raise ValueError(
                f"{name} attribute should not be set after {type(self).__name__} is initialized; "
                "make a new one"
            )
        super().__setattr__(name, value)

    @property
    def _auto_collation(self) -> bool:
        return self.batch_sampler is not None

    @property
    def _index_sampler(self) -> Any:
        return self.sampler if self.batch_sampler is None else self.batch_sampler

    def __iter__(self) -> _BaseDataLoaderIter:
        if self.num_workers == 0:
            return _SingleProcessDataLoaderIter(self)
        if not self.persistent_workers:
            return _WorkersDataLoaderIter(self)
        if self._iterator is None:
            self._iterator = _WorkersDataLoaderIter(self)
        else:
            self._iterator._reset()
        return self._iterator

    def __len__(self) -> int:
        if not self._streams:
            return len(self._index_sampler)
        n = self._told_length = len(self.dataset)  # type: ignore[arg-type]
        if self.batch_size is None:
            return n
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)


class _BaseDataLoaderIter:
    """One pass over a loader's data."""

    def __init__(self, loader: DataLoader) -> None:
        if loader.pin_memory:
            warnings.warn(
                "'pin_memory' argument is set as true but no accelerator is found, then device pinned memory "
                "won't be used.",
                stacklevel=3,
            )
        self._loader = loader
        self._dataset = loader.dataset
        self._collate_fn = loader.collate_fn
        self._key_iter = iter(loader._index_sampler)
        # Drawn even where there is no worker to seed, as in PyTorch: the draws that follow depend on it.
        self._base_seed = draw_seed(loader.generator)
        self._num_yielded = 0

    def _fetcher(self, dataset: Any) -> MapFetcher | StreamFetcher:
        loader = self._loader
        if loader._streams:
            return StreamFetcher(
                dataset, loader._auto_collation, self._collate_fn, loader.drop_last, loader._pace
            )
        return MapFetcher(dataset, loader._auto_collation, self._collate_fn, loader._pace)

    def _next_data(self) -> Any:
        raise NotImplementedError

    def __iter__(self) -> _BaseDataLoaderIter:
        return self

    def __next__(self) -> Any:
        data = self._next_data()
        self._num_yielded += 1
        told = self._loader._told_length
        if told is not None and self._num_yielded > told:
            warnings.warn(
                f"Length of IterableDataset {self._dataset} was reported to be {told} (when accessing "
                f"len(dataloader)), but {self._num_yielded} samples have been fetched.",
                stacklevel=2,
            )
        return data

    def __len__(self) -> int:
        return len(self._loader._index_sampler)

    def __getstate__(self) -> Any:
        raise NotImplementedError(
            f"{type(self).__name__} cannot be pickled: pickle the DataLoader, and iterate over it anew"
        )


class _SingleProcessDataLoaderIter(_BaseDataLoaderIter):
    def __init__(self, loader: DataLoader) -> None:
        super().__init__(loader)
        if loader.timeout != 0:
            raise AssertionError(
                f"timeout={loader.timeout} is the wait for a worker, and num_workers is 0: leave timeout at 0"
            )
        self._dataset_fetcher = self._fetcher(self._dataset)

    def _next_data(self) -> Any:
        return self._dataset_fetcher.fetch(next(self._key_iter))


class _WorkersDataLoaderIter(_BaseDataLoaderIter):
    """Hand out keys to workers in turn, `prefetch_factor` to each ahead, and return batches in that order.

    Keys are drawn ahead as PyTorch draws them, so that a sampler and a training loop that share a generator
    see the same numbers; the data itself is loaded when its turn comes.
    """

    _warned = False

    def __init__(self, loader: DataLoader) -> None:
        super().__init__(loader)
        if not _WorkersDataLoaderIter._warned:
            _WorkersDataLoaderIter._warned = True
            warnings.warn(
                f"num_workers={loader.num_workers}: Fanal loads in the calling process, with the same "
                "batches in the same order. num_workers=0 does so without this warning.",
                stacklevel=3,
            )
        n = loader.num_workers
        self._workers = [Worker(loader.dataset, i, n, self._base_seed) for i in range(n)]
        for worker in self._workers:
            worker.start(loader.worker_init_fn)
        self._reset()

    def _reset(self) -> None:
        self._key_iter = iter(self._loader._index_sampler)
        self._num_yielded = 0
        for worker in self._workers:
            with worker:
                worker.fetcher = self._fetcher(worker.dataset)
        self._active = set(self._workers)
        self._turns = itertools.cycle(self._workers)
        self._tasks: deque[tuple[Worker, Any]] = deque()
        for _ in range((self._loader.prefetch_factor or 0) * len(self._workers)):
            self._hand_out()

    def _hand_out(self) -> None:
        """Give the next keys to the next worker that still has data."""
        try:
            keys = next(self._key_iter)
        except StopIteration:
            return
        if self._active:
            worker = next(worker for worker in self._turns if worker in self._active)
            self._tasks.append((worker, keys))

    def _next_data(self) -> Any:
        while self._tasks:
            worker, keys = self._tasks.popleft()
            if worker not in self._active:
                continue
            try:
                with worker:
                    data = worker.fetcher.fetch(keys)
            except StopIteration:
                if not self._loader._streams:
                    raise
                self._active.discard(worker)
                self._hand_out()
                continue
            self._hand_out()
            return data
        raise StopIteration


# PyTorch's name for the iterator of a loader that has workers.
_MultiProcessingDataLoaderIter = _WorkersDataLoaderIter


def _check_workers(num_workers: int, timeout: float, prefetch_factor: int | None, persistent: bool) -> None:
    if num_workers < 0:
        raise ValueError(
            "num_workers option should be non-negative; use num_workers=0 to disable multiprocessing."
        )
    if timeout < 0:
        raise ValueError("timeout option should be non-negative")
    if num_workers == 0 and prefetch_factor is not None:
        raise ValueError(
            "prefetch_factor option could only be specified in multiprocessing. "
            "let num_workers > 0 to enable multiprocessing, otherwise set prefetch_factor to None."
        )
    if prefetch_factor is not None and prefetch_factor < 0:
        raise ValueError("prefetch_factor option should be non-negative")
    if persistent and num_workers == 0:
        raise ValueError("persistent_workers option needs num_workers > 0")


def _check_context(context: Any, num_workers: int) -> Any:
    if context is None:
        return None
    if num_workers == 0:
        raise ValueError(
            "multiprocessing_context can only be used with multi-process loading (num_workers > 0), "
            "but got num_workers=0"
        )
    # Imported here: few loaders name a context, and the module is slow to import.
    import multiprocessing
    from multiprocessing.context import BaseContext

    if isinstance(context, str):
        valid = multiprocessing.get_all_start_methods()
        if context not in valid:
            raise ValueError(
                f"multiprocessing_context option should specify a valid start method in {valid!r}, but got "
                f"multiprocessing_context={context!r}"
            )
        return multiprocessing.get_context(context)
    if not isinstance(context, BaseContext):
        raise TypeError(
            "multiprocessing_context option should be a valid context object or a string specifying the "
            f"start method, but got multiprocessing_context={context}"
        )
    return context


def _check_order(
    streams: bool,
    batch_size: int | None,
    shuffle: bool | None,
    sampler: Any,
    batch_sampler: Any,
    drop_last: bool,
) -> None:
    if streams:
        given = {"shuffle": shuffle or None, "sampler": sampler, "batch_sampler": batch_sampler}
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"DataLoader with IterableDataset: expected unspecified {name} option, "
                    f"but got {name}={value}"
                )
    if sampler is not None and shuffle:
        raise ValueError("sampler option is mutually exclusive with shuffle")
    if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
        raise ValueError(
            "batch_sampler option is mutually exclusive with batch_size, shuffle, sampler, and drop_last"
        )
    if batch_sampler is None and batch_size is None and drop_last:
        raise ValueError(
            "batch_size=None option disables auto-batching and is mutually exclusive with drop_last"
        )
