"""Random ways from numbers in memory to batches, against PyTorch: what is computed of a batch shows its memory."""
from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import fanal

PIPELINES = 160
SHAPES = ((4,), (3, 5), (4, 5, 3), (2, 3, 4, 2))
DTYPES = ("float32", "float64", "int64", "uint8", "int8", "bool", "float16", "complex64")

# Where samples are cut out of: (library, array) -> tensor.
SOURCES: tuple[Callable[[Any, np.ndarray], Any], ...] = (
    lambda m, a: m.tensor(a),
    lambda m, a: m.from_numpy(a.copy()),
    lambda m, a: m.from_numpy(np.asfortranarray(a)),
    lambda m, a: m.tensor(a).transpose(0, -1),
    lambda m, a: m.tensor(a)[::2],
    lambda m, a: m.tensor(a).flip(0),
)
# What is done to a sample (library, sample).
CHANGES: tuple[Callable[[Any, Any], Any], ...] = (
    lambda m, x: x,
    lambda m, x: x.permute(*range(x.dim() - 1, -1, -1)),
    lambda m, x: x[::2],
    lambda m, x: x.flip(0),
    lambda m, x: x.unsqueeze(0).expand(2, *x.shape),
    lambda m, x: x.reshape(-1),
    lambda m, x: x.clone(),
    lambda m, x: x * 2,
    lambda m, x: x.contiguous(),
    lambda m, x: x.transpose(0, -1),
    lambda m, x: x[..., 1:],
    lambda m, x: x.narrow(0, 0, 1),
)
# What a dataset returns (library, sample, its number), and how the sample is found in it.
FORMS: tuple[tuple[Callable[[Any, Any, int], Any], Callable[[Any, Any], Any]], ...] = (
    (lambda m, x, i: x, lambda m, s: s),
    (lambda m, x, i: (x, i), lambda m, s: s[0]),
    (lambda m, x, i: {"x": x, "more": [x, float(i)]}, lambda m, s: s["x"]),
    (lambda m, x, i: x.numpy(), lambda m, s: m.as_tensor(s)),
)


def batches(m: Any, seed: int) -> list[Any]:
    """Return what every batch of a random pipeline has in it: dtypes, shapes, and numbers that kernels have read."""
    choose, r = random.Random(seed), np.random.default_rng(seed)
    m.manual_seed(seed)
    dtype, n = choose.choice(DTYPES), choose.choice([7, 12])
    a = r.integers(-9, 9, (n, *choose.choice(SHAPES)))
    a = a + 1j * a[::-1] if dtype == "complex64" else a
    x = choose.choice(SOURCES)(m, a.astype(dtype))
    changes = choose.choices(CHANGES, k=choose.choice([1, 2]))
    form, sample_of = choose.choice(FORMS)
    data = m.utils.data

    class Samples(data.Dataset):  # type: ignore[name-defined, misc]
        def __len__(self) -> int:
            return len(x)

        def __getitem__(self, i: int) -> Any:
            s = x[i]
            for change in changes:
                s = change(m, s)
            return form(m, s, i)
    kind = choose.choice(["plain", "plain", "subset", "several", "tensors", "padded", "joined", "single"])
    samples: Any = Samples()
    collate = None
    if kind == "subset":
        samples = data.Subset(samples, [*range(1, len(x), 2), 0])
    elif kind == "several":
        samples = data.ConcatDataset([samples, samples])
    elif kind == "tensors":
        samples = data.TensorDataset(x, m.arange(len(x)))
    elif kind == "padded":
        first = choose.random() < 0.5
        collate = lambda some: m.nn.utils.rnn.pad_sequence([sample_of(m, s) for s in some], batch_first=first)
    elif kind == "joined":
        collate = lambda some: m.cat([sample_of(m, s).reshape(1, -1) for s in some])
    found: list[Any] = []

    def look(b: Any) -> None:
        if isinstance(b, m.Tensor):
            wide = b.to(m.complex128 if b.is_complex() else m.float64)
            weighted = (wide * m.arange(b.numel()).reshape(b.shape)).sum()
            found.append((str(b.dtype), tuple(b.shape), weighted.item(), wide.mul(1).tolist()))
        elif isinstance(b, (list, tuple)):
            list(map(look, b))
        elif isinstance(b, dict):
            list(map(look, b.values()))
        else:
            found.append(b)
    loader = data.DataLoader(samples, None if kind == "single" else choose.choice([2, 3]),
                             shuffle=choose.random() < 0.5, collate_fn=collate)
    for _ in range(2):
        for b in loader:
            look(b)
    return found


def outcome(m: Any, seed: int) -> Any:
    try:
        return batches(m, seed)
    except Exception as error:
        return type(error)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", range(4))
def test_batches_are_pytorchs(part: int) -> None:
    several = range(part, PIPELINES, 4)
    wrong = [seed for seed in several
             if str(outcome(fanal, seed)).replace("fanal.", "torch.") != str(outcome(torch, seed))]
    assert not wrong
    raised = sum(isinstance(outcome(torch, seed), type) for seed in several)
    assert raised < len(several) / 3
