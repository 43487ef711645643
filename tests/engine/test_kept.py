"""Whatever a loop keeps over the next steps keeps its values, in whichever way it is kept."""
from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import fanal


def both(pair: Any) -> list[list]:
    return [a.tolist() for a in pair]


# What is kept of y in every step, and how that is looked at after the last.
WAYS = {
    "storage": (lambda t, y: y.untyped_storage(), lambda t, s: list(bytes(s))),
    "typed storage": (lambda t, y: y.storage(), lambda t, s: s.tolist()),
    "iterator": (lambda t, y: iter(y), lambda t, s: both(s)),
    "zip": (lambda t, y: zip(y.unbind(), (y + 1).unbind()), lambda t, s: [both(pair) for pair in s]),
    "array": (lambda t, y: y.numpy(), lambda t, s: s.tolist()),
    "memoryview": (lambda t, y: memoryview(y.numpy()), lambda t, s: bytes(s)),
    "capsule": (lambda t, y: y.__dlpack__(), lambda t, s: t.from_dlpack(s).tolist()),
    "named tuple": (lambda t, y: t.sort(y, descending=True), lambda t, s: (s.values.tolist(), s.indices.tolist())),
    "part of a tuple": (lambda t, y: y.split(1)[1:], lambda t, s: both(s)),
    "two tuples": (lambda t, y: t.max(y, 1) + t.unbind(y), lambda t, s: both(s)),
    "list": (lambda t, y: list(y.chunk(2)), lambda t, s: both(s)),
    "reversed": (lambda t, y: reversed(y.chunk(2)), lambda t, s: both(s)),
    "method of a tuple": (lambda t, y: y.chunk(2).__getitem__, lambda t, s: s(0).tolist()),
    "method of a tensor": (lambda t, y: y.tolist, lambda t, s: s()),
    "closure": (lambda t, y: lambda: y.tolist(), lambda t, s: s()),
    "view": (lambda t, y: y[0].view(2, 2).T, lambda t, s: s.tolist()),
    "data": (lambda t, y: y.data, lambda t, s: s.tolist()),
    "parameter": (lambda t, y: t.nn.Parameter(y), lambda t, s: s.tolist()),
    "foreach": (lambda t, y: t._foreach_add([y, y * 2], 1), lambda t, s: both(s)),
    "packed": (lambda t, y: t.nn.utils.rnn.pack_padded_sequence(y[None], [3], batch_first=True),
               lambda t, s: s.data.tolist()),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_kept_keeps_its_values(way: str) -> None:
    keep, look = WAYS[way]

    def run(lib: Any) -> list:
        x = lib.arange(12.0).reshape(3, 4)
        kept = []
        for _ in range(12):
            x.add_(1)
            kept.append(keep(lib, x * 2))
            (x + 1).sum().item()
        return [look(lib, k) for k in kept]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # TypedStorage is deprecated
        assert run(fanal) == run(torch)
