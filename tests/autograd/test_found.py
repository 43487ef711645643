"""Cases that random programs found: a few lines each, against PyTorch."""
from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest

import fanal

torch = pytest.importorskip("torch")


def _checkpoint(t: Any) -> Any:
    return importlib.import_module(f"{t.__name__}.utils.checkpoint").checkpoint


def hook_on_the_input_of_a_checkpoint(t: Any) -> Any:
    p, seen = t.ones(3, requires_grad=True), []
    x = p[1:]
    x.register_hook(lambda g: seen.append(1) or g * 0.5)
    p.register_hook(lambda g: seen.append(2) or g * 3)
    y = _checkpoint(t)(lambda x: t.tanh(x * 2) * x * p[0], x, use_reentrant=False)
    (y.sum() + (p * p).sum()).backward()
    return p.grad, sorted(seen)


def checkpoint_of_a_value_and_what_it_was_made_from(t: Any) -> Any:
    p = t.ones(3, requires_grad=True)
    y = _checkpoint(t)(lambda x: x * p, p * 2, use_reentrant=False)
    y.sum().backward()
    return p.grad


def requires_grad_switched_off_before_backward(t: Any) -> Any:
    p, q = t.ones(3, requires_grad=True), t.ones(3, requires_grad=True)
    y = (p * q * q).sum()
    q.requires_grad_(False)
    y.backward()
    return p.grad, q.grad


def bool_minus_tensor(t: Any) -> Any:
    return True - t.ones(3)


def extreme_of_one(t: Any) -> Any:
    x = t.tensor([[3.0], [-1.0]])
    return (x + 1).argmax(1), x.argmin(1, keepdim=True), (x * 2).max(1)[1], x[:1].argmax(), x.min(1)[0], x[:1].argmax(0)


def over_a_tensor(t: Any) -> Any:
    x = t.tensor([3.0, 7.0, -11.0, 0.1])
    return 2 / x, 1 / x, 3 / t.tensor([2, 7]), 2.5 / x.double()


def what_erfinv_keeps_is_its_operand(t: Any) -> Any:
    p = t.full((3, 3), 0.7, requires_grad=True)
    y = p.erfinv()
    with t.no_grad():
        y.mul_(2)
    y.sum().backward()
    return p.grad


def _written_before_backward(f: Callable) -> Callable:
    def case(t: Any) -> Any:
        p = t.full((3, 3), 0.7, requires_grad=True)
        x = p * 1
        y = f(t, x)
        with t.no_grad():
            x.mul_(2)
        y.sum().backward()
        return p.grad
    return case


CASES = {f.__name__: f for f in (hook_on_the_input_of_a_checkpoint, checkpoint_of_a_value_and_what_it_was_made_from,
                                 requires_grad_switched_off_before_backward, bool_minus_tensor, extreme_of_one, over_a_tensor,
                                 what_erfinv_keeps_is_its_operand)}
CASES |= {f"{name} keeps no operand": _written_before_backward(f) for name, f in {
    "reciprocal": lambda t, x: x.reciprocal(), "1 / x": lambda t, x: 1 / x, "fmod": lambda t, x: t.fmod(x, 2),
    "remainder": lambda t, x: x % 2, "exp2": lambda t, x: x.exp2()}.items()}



def _said(t: Any, x: Any) -> Any:
    if isinstance(x, (tuple, list)):
        return [_said(t, i) for i in x]
    return (x.dtype == t.float32, x.tolist()) if isinstance(x, t.Tensor) else x


def _near(a: Any, b: Any) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_near, a, b))
    return bool(a == pytest.approx(b, rel=1e-6)) if isinstance(a, float) and isinstance(b, float) else bool(a == b)


@pytest.mark.parametrize("name", CASES)
def test_found(name: str) -> None:
    said = []
    for t in (torch, fanal):
        try:
            said.append(_said(t, CASES[name](t)))
        except RuntimeError as e:
            said.append(str(e)[:60])
    assert _near(said[1], said[0])


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_keeps_no_inference_tensor(reentrant):
    for m in (torch, fanal):
        checkpoint, x = _checkpoint(m), m.ones(3).requires_grad_()
        with m.inference_mode():
            other = m.ones(3)
        with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
            checkpoint(m.add, x, other, use_reentrant=reentrant)
        with m.no_grad():
            assert checkpoint(m.add, x, other, use_reentrant=reentrant).tolist() == [2.0] * 3
        checkpoint(lambda a: a + other, x, use_reentrant=reentrant).sum().backward()
        assert x.grad.tolist() == [1.0] * 3
