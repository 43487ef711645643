"""A sampler that gives each of several processes its own share of a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from itertools import cycle, islice

import fanal
from fanal.distributed.group import get_rank, get_world_size
from fanal.utils.data.sampler import Sampler

__all__ = ["DistributedSampler"]


class DistributedSampler(Sampler[int]):
    """Yield every `num_replicas`-th key from `rank` on, of a permutation that all processes share.

    Keys are repeated from the front until all shares are equal, or dropped where `drop_last`. Call
    `set_epoch` before each epoch for a new permutation.
    Both are those of the default process group unless given.
    Raises: ValueError where `rank` is not below `num_replicas`, or there is no process group to ask.
    """

    def __init__(
        self,
        dataset: Sized,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        num_replicas = get_world_size() if num_replicas is None else num_replicas
        rank = get_rank() if rank is None else rank
        if not 0 <= rank < num_replicas:
            raise ValueError(f"Invalid rank {rank}, rank should be in the interval [0, {num_replicas - 1}]")
        self.dataset = dataset
        self.num_replicas = num_replicas
        self.rank = rank
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.epoch = 0
        n = len(dataset)
        self.num_samples = n // num_replicas if drop_last else -(-n // num_replicas)
        self.total_size = self.num_samples * num_replicas

    def __iter__(self) -> Iterator[int]:
        n = len(self.dataset)
        if self.shuffle:
            generator = fanal.Generator()
            generator.manual_seed(self.seed + self.epoch)
            keys = fanal.randperm(n, generator=generator).tolist()
        else:
            keys = list(range(n))
        shared = list(islice(cycle(keys), self.total_size))
        return iter(shared[self.rank :: self.num_replicas])

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation of the epoch to come; all processes give the same number."""
        self.epoch = epoch
