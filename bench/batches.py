"""A training step of the 64-128-10 MLP (batch 32, SGD) by where its batches come from, beside PyTorch.

Run: python bench/batches.py. One thread; microseconds, medians over steps and over three processes taking turns. A step
ends with the accuracy of its batch, so that labels and outputs are used once more after the loss was read.
"""
from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

import results

ROWS, BATCH, STEPS, SKIPPED = 3200, 32, 300, 100


def _cut_before(torch: Any, x: Any, y: Any) -> Iterator[Any]:
    batches = [(a.clone(), b.clone()) for a, b in zip(x.split(BATCH), y.split(BATCH))]
    while True:
        yield from batches


def _slices(torch: Any, x: Any, y: Any) -> Iterator[Any]:
    while True:
        for k in range(0, ROWS, BATCH):
            yield x[k:k + BATCH], y[k:k + BATCH]


def _loaded(torch: Any, samples: Any, scale: bool) -> Iterator[Any]:
    class Samples(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return ROWS

        def __getitem__(self, i: int) -> Any:
            a, b = samples(i)
            return ((a - 0.5) / 2 if scale else a), b
    loader = torch.utils.data.DataLoader(Samples(), BATCH, shuffle=True)
    while True:
        yield from loader


def _rows_of_a_list(torch: Any, x: Any, y: Any) -> Iterator[Any]:
    rows = [(a.clone(), int(b)) for a, b in zip(x, y)]
    return _loaded(torch, rows.__getitem__, False)


def _rows_of_a_list_scaled(torch: Any, x: Any, y: Any) -> Iterator[Any]:
    rows = [(a.clone(), int(b)) for a, b in zip(x, y)]
    return _loaded(torch, rows.__getitem__, True)


def _rows_of_a_tensor_scaled(torch: Any, x: Any, y: Any) -> Iterator[Any]:
    return _loaded(torch, lambda i: (x[i], y[i]), True)


SOURCES = {f.__name__.strip("_"): f for f in
           (_cut_before, _slices, _rows_of_a_list, _rows_of_a_list_scaled, _rows_of_a_tensor_scaled)}


def measure(torch: Any) -> dict[str, float]:
    """Return the median microseconds of a step by where the batches come from, with the making of the batch."""
    torch.set_num_threads(1)
    found = {}
    for name, source in SOURCES.items():
        torch.manual_seed(0)
        x, y = torch.randn(ROWS, 64), torch.randint(0, 10, (ROWS,))
        model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
        opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        batches, times = source(torch, x, y), []
        for _ in range(STEPS):
            begin = time.perf_counter_ns()
            inputs, labels = next(batches)
            opt.zero_grad()
            out = model(inputs)
            loss = torch.nn.functional.cross_entropy(out, labels)
            loss.backward()
            opt.step()
            loss.item()
            (out.argmax(1) == labels).sum().item()
            times.append(time.perf_counter_ns() - begin)
        found[name] = statistics.median(times[SKIPPED:]) / 1e3
    return found


if __name__ == "__main__":
    results.beside_torch(__file__, measure, SOURCES, decimals=0)
