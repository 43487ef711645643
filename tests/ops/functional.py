"""One call on torch and on Fanal: values, gradients and second derivatives, or the error, must agree."""
from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as TF

import fanal
import fanal.nn.functional as FF


def ours(x: Any) -> Any:
    """Return Fanal's counterpart of a tensor (of tensors in a list)."""
    if isinstance(x, torch.Tensor):
        if x.dtype is torch.bfloat16:
            t = fanal.tensor(x.detach().float().numpy()).to(fanal.bfloat16)
        else:
            t = fanal.tensor(x.detach().numpy().copy())
        t.requires_grad = x.requires_grad
        return t
    return getattr(fanal, str(x)[6:]) if isinstance(x, torch.dtype) else x


def array(t: Any) -> np.ndarray:
    """Return the values of a tensor of either side, in double precision."""
    return np.array((t.detach() + 0).tolist(), np.float64)


def _close(a: Any, b: Any, tol: float, what: str) -> None:
    np.testing.assert_allclose(array(a), array(b), rtol=tol, atol=tol, err_msg=what)


def _first(y: Any) -> Any:
    return y[0] if isinstance(y, tuple) else y


def agree(name: str, *args: Any, tol: float = 1e-9, second: bool = True, text: bool = True, **kwargs: Any) -> None:
    """Assert that nn.functional's (or else torch's) function `name` does the same on both sides."""
    f, g = (getattr(TF, name), getattr(FF, name)) if hasattr(TF, name) else (getattr(torch, name), getattr(fanal, name))
    once = {id(v): ours(v) for v in (*args, *kwargs.values())}
    mine, options = [once[id(a)] for a in args], {k: once[id(v)] for k, v in kwargs.items()}
    try:
        want = f(*args, **kwargs)
    except Exception as e:
        try:
            array(_first(g(*mine, **options)))
        except Exception as found:
            assert isinstance(found, type(e)), (found, e)
            assert not text or str(found).split("\n")[0] == str(e).split("\n")[0]
            return
        raise AssertionError(f"{name}: torch raised {e!r}") from e
    got = g(*mine, **options)
    for a, b in zip(got if isinstance(got, tuple) else (got,), want if isinstance(want, tuple) else (want,)):
        if b is not None:
            assert str(a.dtype) == str(b.dtype) and tuple(a.shape) == tuple(b.shape)
            _close(a, b, tol, "value")
    given = [*args, *kwargs.values()]
    inputs = {id(b): b for b in given if isinstance(b, torch.Tensor) and b.requires_grad}
    pairs = [(once[i], b) for i, b in inputs.items()]
    if pairs:
        _gradients(_first(got), _first(want), pairs, tol, second)


def _gradients(got: Any, want: Any, pairs: list, tol: float, second: bool) -> None:
    assert got.requires_grad == want.requires_grad
    xs, ts = [a for a, _ in pairs], [b for _, b in pairs]
    c = torch.linspace(-1, 2, want.numel() or 1)[:want.numel()].reshape(want.shape).to(want.dtype)
    theirs = torch.autograd.grad(want, ts, c, create_graph=second, allow_unused=True)
    found = fanal.autograd.grad(got, xs, ours(c), create_graph=second, allow_unused=True)
    for a, b in zip(found, theirs):
        assert a is not None or b is None or not b.any()
        if b is not None:
            _close(a, b, 10 * tol, "gradient")
    smooth = [(a, b) for a, b in zip(found, theirs) if second and b is not None and b.requires_grad]
    if smooth:
        try:
            again = torch.autograd.grad(sum((b * b).sum() for _, b in smooth), ts, allow_unused=True)
        except (RuntimeError, NotImplementedError):
            return
        total = sum((a * a).sum() for a, _ in smooth)
        if not total.requires_grad:  # nothing but zeros
            assert not any(b.any() for b in again if b is not None)
            return
        mine = fanal.autograd.grad(total, xs, allow_unused=True)
        for a, b in zip(mine, again):
            if a is not None and b is not None:
                _close(a, b, 100 * tol, "second derivative")


class Draw:
    """Random operands in double precision, from a seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, grad: bool = True, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64).to(dtype).requires_grad_(grad)

    def rand(self, *shape: int, grad: bool = True) -> torch.Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64).requires_grad_(grad)

    def ints(self, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, high, shape, generator=self.generator)
