"""The workers of a `DataLoader`: each a dataset of its own, random numbers of its own, and a number.

Fanal's workers take turns in the calling process. What a worker's code sees is what it sees under PyTorch:
`get_worker_info`, a copy of the dataset, and `random`, `numpy.random` and the default generator seeded from
the loader's seed and the worker's number, so that augmentations draw the same numbers.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

import fanal

__all__ = ["WorkerInfo", "get_worker_info"]


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker knows of itself: number, count, seed, and its copy of the dataset."""

    id: int
    num_workers: int
    seed: int
    dataset: Any
    rng: Any = None
    worker_method: str | None = "in_process"


_current: WorkerInfo | None = None


def get_worker_info() -> WorkerInfo | None:
    """Say which worker is loading, or None where no worker is."""
    return _current


class Worker:
    """A context in which data is loaded as by worker `number`: `with worker: ...`."""

    def __init__(self, dataset: Any, number: int, num_workers: int, base_seed: int) -> None:
        # A shallow copy: a worker that sets attributes of its dataset changes only its own, and the data
        # itself is shared as it is between forked processes.
        seed = base_seed + number
        self.info = WorkerInfo(number, num_workers, seed, copy.copy(dataset))
        self.dataset = self.info.dataset
        self.fetcher: Any = None
        outside = _random_states()
        random.seed(seed)
        fanal.manual_seed(seed)
        words = (number, base_seed & 0xFFFFFFFF, base_seed >> 32, 0)
        np.random.seed(np.random.SeedSequence(words).generate_state(4))
        self._inside = _random_states()
        _restore(outside)

    def start(self, worker_init_fn: Callable[[int], object] | None) -> None:
        """Run the user's set-up of a worker."""
        if worker_init_fn is not None:
            with self:
                worker_init_fn(self.info.id)

    def __enter__(self) -> Self:
        global _current
        self._before, _current = _current, self.info
        self._outside = _random_states()
        _restore(self._inside)
        return self

    def __exit__(self, *error: object) -> None:
        global _current
        self._inside = _random_states()
        _restore(self._outside)
        _current = self._before


def _random_states() -> tuple[Any, Any, Any]:
    return random.getstate(), np.random.get_state(), fanal.get_rng_state()


def _restore(states: tuple[Any, Any, Any]) -> None:
    python, numpy, own = states
    random.setstate(python)
    np.random.set_state(numpy)
    fanal.set_rng_state(own)
