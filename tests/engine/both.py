"""Small programs `program(m) -> tensors`, run by PyTorch and by Fanal."""
from __future__ import annotations

from typing import Any

import torch
from oracle import agree

import fanal


def of_both(program: Any) -> None:
    """Check that both libraries return the same tensors, or raise the same class of error, twice."""
    for _ in range(2):
        expected, got = outcome(program, torch), outcome(program, fanal)
        assert type(expected) is type(got), f"torch {expected}, fanal {got}"
        if isinstance(expected, str):
            assert got == expected
            continue
        assert len(got) == len(expected)
        for a, b in zip(expected, got):
            agree(a, b, text=False, strides=False)


def outcome(program: Any, m: Any) -> Any:
    try:
        found = program(m)
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        return type(error).__name__
    return found if isinstance(found, list) else [found]
