"""In which order: samplers yield the keys of samples, or lists of keys.

The same seed gives PyTorch's order: each sampler makes PyTorch's draws, in PyTorch's sequence.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Generic, TypeVar

import fanal

if TYPE_CHECKING:
    from fanal import Generator, Tensor

__all__ = [
    "BatchSampler",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "SubsetRandomSampler",
    "WeightedRandomSampler",
]

Key_co = TypeVar("Key_co", covariant=True)


def draw_seed(generator: Generator | None = None) -> int:
    """Draw a seed below 2**63 from `generator`, or from the default one."""
    return int(fanal.empty((), dtype=fanal.int64).random_(generator=generator).item())


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


class Sampler(Generic[Key_co]):
    """Yield keys of samples, or lists of them. A subclass defines `__iter__`, and `__len__` where it can."""

    def __iter__(self) -> Iterator[Key_co]:
        raise NotImplementedError(f"{type(self).__name__} should define __iter__")


class SequentialSampler(Sampler[int]):
    """Yield 0, 1, 2, ... up to the length of `data_source`."""

    data_source: Sized

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler[int]):
    """Yield `num_samples` keys below the length of `data_source`, at random.

    Without replacement each pass over the data is a new permutation. Without `generator`, each iterator has
    its own, seeded by one draw from the default one.
    Raises: TypeError where `replacement` is no bool; ValueError where `num_samples` is no positive int.
    """

    data_source: Sized
    replacement: bool

    def __init__(
        self,
        data_source: Sized,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: Generator | None = None,
    ) -> None:
        self.data_source = data_source
        self.replacement = replacement
        self._num_samples = num_samples
        self.generator = generator
        if not isinstance(replacement, bool):
            raise TypeError(f"replacement should be a boolean value, but got replacement={replacement}")
        if not isinstance(self.num_samples, int) or self.num_samples <= 0:
            raise ValueError(
                f"num_samples should be a positive integer value, but got num_samples={self.num_samples}"
            )

    @property
    def num_samples(self) -> int:
        # The dataset may grow between epochs, so its length is asked for each time.
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def __iter__(self) -> Iterator[int]:
        n = len(self.data_source)
        generator = self.generator
        if generator is None:
            generator = fanal.Generator()
            generator.manual_seed(draw_seed())
        if self.replacement:
            # PyTorch draws in blocks of 32 and then the rest, even where the rest is empty.
            for _ in range(self.num_samples // 32):
                yield from fanal.randint(n, (32,), dtype=fanal.int64, generator=generator).tolist()
            rest = (self.num_samples % 32,)
            yield from fanal.randint(n, rest, dtype=fanal.int64, generator=generator).tolist()
        else:
            for _ in range(self.num_samples // n):
                yield from fanal.randperm(n, generator=generator).tolist()
            yield from fanal.randperm(n, generator=generator).tolist()[: self.num_samples % n]

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(Sampler[int]):
    """Yield the given keys in random order, each once."""

    indices: Sequence[int]

    def __init__(self, indices: Sequence[int], generator: Generator | None = None) -> None:
        self.indices = indices
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        for i in fanal.randperm(len(self.indices), generator=self.generator).tolist():
            yield self.indices[i]

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(Sampler[int]):
    """Yield `num_samples` keys, key `i` with a probability in proportion to `weights[i]`.

    Shapes: weights (N,). Raises: ValueError for other shapes, for `num_samples` that is no positive int, and
    for `replacement` that is no bool.
    """

    weights: Tensor
    num_samples: int
    replacement: bool

    def __init__(
        self,
        weights: Sequence[float],
        num_samples: int,
        replacement: bool = True,
        generator: Generator | None = None,
    ) -> None:
        if not _is_count(num_samples):
            raise ValueError(
                f"num_samples should be a positive integer value, but got num_samples={num_samples}"
            )
        if not isinstance(replacement, bool):
            raise ValueError(f"replacement should be a boolean value, but got replacement={replacement}")
        self.weights = fanal.as_tensor(weights, dtype=fanal.float64)
        if self.weights.dim() != 1:
            raise ValueError(
                "weights should be a 1d sequence but given weights have shape "
                f"{tuple(self.weights.shape)}"
            )
        self.num_samples = num_samples
        self.replacement = replacement
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        keys = fanal.multinomial(self.weights, self.num_samples, self.replacement, generator=self.generator)
        yield from keys.tolist()

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler[list[int]]):
    """Gather the keys of `sampler` into lists of `batch_size`; the last may be shorter, or is dropped.

    Raises: ValueError where `batch_size` is no positive int or `drop_last` no bool.
    """

    def __init__(self, sampler: Sampler[int] | Iterable[int], batch_size: int, drop_last: bool) -> None:
        if not _is_count(batch_size):
            raise ValueError(
                f"batch_size should be a positive integer value, but got batch_size={batch_size}"
            )
        if not isinstance(drop_last, bool):
            raise ValueError(f"drop_last should be a boolean value, but got drop_last={drop_last}")
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[list[int]]:
        keys = iter(self.sampler)
        while batch := list(itertools.islice(keys, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def __len__(self) -> int:
        n = len(self.sampler)  # type: ignore[arg-type]
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)
