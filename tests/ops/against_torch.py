"""Comparing functions of nn.functional with PyTorch's: values and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import fanal
from fanal.core.ops.surface import FUNCTIONS

FUNCTIONAL = FUNCTIONS["nn.functional"]


def to_fanal(t: torch.Tensor, requires_grad: bool = False) -> Any:
    """Return the counterpart of a tensor."""
    return fanal.tensor(t.detach().numpy().copy(), requires_grad=requires_grad)


def array(t: Any) -> np.ndarray:
    """Return the values of a Fanal tensor, of any shape."""
    return np.asarray(t.detach().tolist()).reshape(tuple(t.shape))


def compare(
    name: str,
    *shapes: tuple[int, ...],
    args: tuple = (),
    scale: float = 1.0,
    rtol: float = 1e-4,
    atol: float = 1e-4,
    **kwargs: Any,
) -> None:
    """Call nn.functional.<name> on random inputs on both sides; compare results and gradients."""
    torch.manual_seed(len(shapes))
    theirs = [(scale * torch.randn(s)).requires_grad_() for s in shapes]
    ours = [to_fanal(t, True) for t in theirs]
    a, b = (
        getattr(torch.nn.functional, name)(*theirs, *args, **kwargs),
        FUNCTIONAL[name](*ours, *args, **kwargs),
    )
    both = list(zip(a, b)) if isinstance(a, tuple) else [(a, b)]
    for x, y in both:
        assert tuple(y.shape) == tuple(x.shape)
        np.testing.assert_allclose(array(y), x.detach().numpy(), rtol, atol)
    g = torch.randn(both[0][0].shape)
    both[0][0].backward(g)
    both[0][1].backward(to_fanal(g))
    for t, f in zip(theirs, ours):
        if t.grad is not None:
            np.testing.assert_allclose(array(f.grad), t.grad.numpy(), rtol, atol)


def same_error(name: str, *tensors: torch.Tensor, **kwargs: Any) -> None:
    """Check that both sides raise the same class with the same text."""
    try:
        getattr(torch.nn.functional, name)(*tensors, **kwargs)
    except Exception as e:
        expected = e
    else:
        raise AssertionError("PyTorch did not raise")
    try:
        named = {k: to_fanal(v) if isinstance(v, torch.Tensor) else v for k, v in kwargs.items()}
        FUNCTIONAL[name](*map(to_fanal, tensors), **named)
    except type(expected) as e:
        assert str(e).split("\n")[0] == str(expected).split("\n")[0]
    else:
        raise AssertionError(f"expected {expected!r}")
