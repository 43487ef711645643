"""The same expression on torch and on Fanal: results, views and errors must agree."""
from __future__ import annotations

from typing import Any

import numpy as np
import torch

import fanal


def run(code: str, m: Any, **names: Any) -> Any:
    """Evaluate an expression, or execute statements that leave `y`; an error is a result too."""
    scope = {"m": m, "np": np, **names}
    try:
        if "y =" not in code:
            return eval(code, scope)
        exec(code, scope)
        return scope["y"]
    except Exception as e:
        return e


def flat(r: Any) -> list:
    """Return the tensors and numbers of a result in order."""
    return [i for x in r for i in flat(x)] if isinstance(r, (tuple, list)) else [r]


def values(t: Any) -> np.ndarray:
    """Return the values of a result for comparison."""
    if isinstance(t, (fanal.Tensor, torch.Tensor)):
        t = t.detach().tolist()
    return np.array(t)


def agree(a: Any, b: Any, *, rtol: float = 1e-5, text: bool = True, strides: bool = True) -> None:
    """Assert that Fanal's result `a` is torch's result `b`."""
    if isinstance(b, Exception):
        if not isinstance(a, Exception):  # in a call that is followed, an index out of range is found as values are read
            a = run("[values(t) for t in a]", fanal, a=flat(a), values=values)
        assert isinstance(a, Exception), f"torch raised {b!r}, Fanal gave {a!r}"
        assert isinstance(a, type(b)), f"{a!r} instead of {b!r}"
        if text:
            assert str(a).split("\n")[0] == str(b).split("\n")[0]
        return
    if isinstance(a, Exception):
        raise a
    ours, theirs = flat(a), flat(b)
    assert len(ours) == len(theirs)
    for p, q in zip(ours, theirs):
        if isinstance(q, torch.Tensor):
            assert tuple(p.shape) == tuple(q.shape) and str(p.dtype) == str(q.dtype)
            if strides and q._is_view():
                assert (p.stride(), p.storage_offset()) == (q.stride(), q.storage_offset())
        x, y = values(p), values(q)
        if y.dtype.kind in "fc":
            np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6)
        else:
            assert x.tolist() == y.tolist()


def check(code: str, shape: tuple[int, ...] = (2, 3, 4), **options: Any) -> None:
    """Assert that an expression of `m` (the module) and `x` (a tensor) gives the same on both."""
    a = (np.random.default_rng(0).standard_normal(shape) * 5).astype(np.float32)
    agree(run(code, fanal, x=fanal.tensor(a)), run(code, torch, x=torch.tensor(a)), **options)


def check_gradient(code: str, shape: tuple[int, ...] = (2, 3, 4)) -> None:
    """Assert that the gradient of sum(f(x)**2) agrees, where torch has one."""
    a = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    found = []
    for m in (torch, fanal):
        x = m.tensor(a, requires_grad=True)
        r = run(code, m, x=x * 1)
        if isinstance(r, Exception):
            raise r
        total = sum((y * y).sum() for y in flat(r) if y.requires_grad)
        try:
            total.backward()
        except RuntimeError:
            if m is torch:
                return
            raise
        found.append(x.grad.tolist())
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)
