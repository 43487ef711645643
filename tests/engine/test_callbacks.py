"""Python that runs between the parts of a step is followed: hooks, custom functions, checkpoints, subclasses."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from callback_loops import LOOPS

import fanal
from fanal.core.engine.ledger import ledger

torch = pytest.importorskip("torch")


def _number(t: Any) -> float:
    return float(t.item())


@pytest.mark.parametrize("loop", LOOPS, ids=lambda f: f.__name__)
def test_losses_are_pytorchs_and_the_third_step_is_followed(loop: Callable) -> None:
    step = loop(torch)
    expected = [_number(step()) for _ in range(10)]
    step = loop(fanal)
    losses = [_number(step()) for _ in range(3)]
    before, refused = ledger.snapshot(), sum(ledger.refused.values())
    later = [step() for _ in range(5)]
    after = ledger.snapshot()
    losses += [_number(t) for t in later]
    losses += [_number(step()) for _ in range(2)]
    np.testing.assert_allclose(losses, expected, rtol=2e-5)
    for count in ("recorded", "plans", "kernels", "diverged"):
        assert after[count] == before[count], (count, ledger.refused)
    assert sum(ledger.refused.values()) == refused
    assert after["flushes"] - before["flushes"] == 5
    assert after["followed"] > before["followed"]


def _setting(m: Any) -> tuple[Any, Any, Any]:
    m.manual_seed(1)
    w = m.nn.Parameter(m.randn(5, 3))
    b = m.nn.Parameter(m.randn(3))
    opt = m.optim.SGD([w, b], lr=0.1)
    x = m.randn(4, 5)

    def step(around: Callable = lambda h: h) -> Any:
        opt.zero_grad()
        loss = (around((x @ w).tanh() + b) ** 2).mean()
        loss.backward()
        opt.step()
        return loss.detach()
    return w, b, step


def a_flag_changes_what_a_hook_does(m):
    w, b, step = _setting(m)
    flag = [0]
    w.register_hook(lambda g: g.clamp(-0.1, 0.1) if flag[0] % 3 else g * 0.5)
    out = []
    for k in range(9):
        flag[0] = k // 2
        out.append(step())
    return out


def hooks_come_and_go(m):
    w, b, step = _setting(m)
    out, handle = [], None

    def halve(p):
        p.grad.mul_(0.5)

    for k in range(14):
        if k in (3, 9):
            handle = w.register_hook(lambda g: g * 0.3)
        if k in (6, 12):
            handle.remove()
        if k == 10:
            b.register_post_accumulate_grad_hook(halve)
        out.append(step())
    return out


def a_hook_adds_and_removes_others(m):
    w, b, step = _setting(m)
    seen, handles = [], []

    def on_b(g):
        seen.append("b")
        if len(seen) == 8:
            handles.append(w.register_hook(lambda g: (seen.append("w"), g * 0.2)[1]))
        if len(seen) > 16 and handles:
            handles.pop().remove()
    b.register_hook(on_b)
    return [step() for _ in range(14)], seen


def a_hook_reads_its_gradient(m):
    w, b, step = _setting(m)
    norms = []
    w.register_hook(lambda g: norms.append(g.norm().item()))
    b.register_hook(lambda g: norms.append(float((g * 2).sum())))
    return [step() for _ in range(6)], norms


def a_hook_raises_once(m):
    w, b, step = _setting(m)
    count = [0]

    def hook(g):
        count[0] += 1
        if count[0] in (2, 5):
            raise ValueError("stop here")
        return g * 0.5
    w.register_hook(hook)
    out = []
    for _ in range(9):
        try:
            out.append(step())
        except ValueError as e:
            out.append(str(e))
    return out


def a_hook_writes_in_place(m):
    w, b, step = _setting(m)
    w.register_hook(lambda g: g.mul_(0.25))
    return [step() for _ in range(5)]


def a_function_branches(m):
    flag = [False]

    class Branch(m.autograd.Function):
        @staticmethod
        def forward(ctx, h):
            ctx.save_for_backward(h)
            ctx.sign = -1 if flag[0] else 1
            return h.abs() if flag[0] else h * 1.5

        @staticmethod
        def backward(ctx, g):
            h, = ctx.saved_tensors
            return g * h.sign() if ctx.sign < 0 else g * 1.5
    _, _, step = _setting(m)
    out = []
    for k in range(10):
        flag[0] = k % 5 > 2
        out.append(step(Branch.apply))
    return out


def a_function_comes_and_goes(m):
    class Twice(m.autograd.Function):
        @staticmethod
        def forward(ctx, h):
            return h * 2

        @staticmethod
        def backward(ctx, g):
            return g * 3
    _, _, step = _setting(m)
    return [step(Twice.apply if k % 4 > 1 else lambda h: h * 2) for k in range(10)]


def a_function_is_differentiated_twice(m):
    class Square(m.autograd.Function):
        @staticmethod
        def forward(ctx, h):
            y = h * h
            ctx.save_for_backward(h, y)
            return y

        @staticmethod
        def backward(ctx, g):
            h, y = ctx.saved_tensors
            return g * 2 * h + 0 * y
    m.manual_seed(2)
    w = m.nn.Parameter(m.randn(4))
    opt = m.optim.SGD([w], lr=0.05)
    out = []
    for _ in range(6):
        opt.zero_grad()
        y = Square.apply(w.tanh()).sum()
        g, = m.autograd.grad(y, w, create_graph=True)
        (y + (g ** 2).sum()).backward()
        opt.step()
        out.append((y.detach(), g.detach(), w.grad.clone()))
    return out


def saved_tensors_are_overwritten_in_some_steps(m):
    class Keeps(m.autograd.Function):
        @staticmethod
        def forward(ctx, h):
            ctx.save_for_backward(h)
            return h * 1

        @staticmethod
        def backward(ctx, g):
            h, = ctx.saved_tensors
            return g * h
    m.manual_seed(3)
    w = m.nn.Parameter(m.randn(4))
    out = []
    for k in range(8):
        w.grad = None
        h = w * 2
        y = Keeps.apply(h).sum()
        if k in (4, 6):
            with m.no_grad():
                h.add_(1)
        try:
            y.backward()
            out.append(w.grad.clone())
        except RuntimeError as e:
            out.append(str(e)[:60])
    return out


def values_are_read_inside_a_function(m):
    seen = []

    class Peeks(m.autograd.Function):
        @staticmethod
        def forward(ctx, h):
            seen.append(h.sum().item())
            ctx.save_for_backward(h)
            return h * 2

        @staticmethod
        def backward(ctx, g):
            h, = ctx.saved_tensors
            seen.append(g.sum().item())
            return g * 2 + 0 * h
    _, _, step = _setting(m)
    return [step(Peeks.apply) for _ in range(5)], seen


def a_loss_is_read_before_backward(m):
    class Scale(m.autograd.Function):
        @staticmethod
        def forward(ctx, h):
            ctx.save_for_backward(h)
            return h * 2

        @staticmethod
        def backward(ctx, g):
            h, = ctx.saved_tensors
            return g * 2 + 0 * h
    m.manual_seed(4)
    w = m.nn.Parameter(m.randn(4))
    w.register_hook(lambda g: g * 0.5)
    opt = m.optim.SGD([w], lr=0.05)
    out = []
    for _ in range(6):
        opt.zero_grad()
        h = w.tanh()
        h.register_hook(lambda g: g * 2)
        loss = Scale.apply(h).pow(2).sum()
        out.append(loss.item())
        loss.backward()
        opt.step()
    return out


def a_graph_is_walked_twice(m):
    class Scale(m.autograd.Function):
        @staticmethod
        def forward(ctx, h):
            ctx.save_for_backward(h)
            return h * 2

        @staticmethod
        def backward(ctx, g):
            h, = ctx.saved_tensors
            return g * 2 * h
    m.manual_seed(5)
    w = m.nn.Parameter(m.randn(4))
    out = []
    for _ in range(5):
        w.grad = None
        y = Scale.apply(w * 1).sum()
        y.backward(retain_graph=True)
        y.backward()
        try:
            y.backward()
        except RuntimeError as e:
            out.append(str(e)[:40])
        out.append(w.grad.clone())
    return out


def one_optimizer_steps_twice_in_a_backward(m):
    m.manual_seed(6)
    w, b = m.nn.Parameter(m.randn(4)), m.nn.Parameter(m.randn(4))
    opt = m.optim.Adam([w, b], lr=0.1)

    def hook(p):
        opt.step()
        p.grad = None
    for p in (w, b):
        p.register_post_accumulate_grad_hook(hook)
    out = []
    for _ in range(6):
        loss = ((w * b).tanh() ** 2).sum()
        loss.backward()
        out.append((loss.detach(), opt.state[b]["step"].clone(), w.detach().clone()))
    return out


def checkpoints_draw_the_same_again(m):
    from importlib import import_module
    checkpoint = import_module(f"{m.__name__}.utils.checkpoint").checkpoint
    m.manual_seed(7)
    w = m.nn.Parameter(m.randn(4))
    out = []
    for k in range(8):
        w.grad = None
        y = checkpoint(lambda w: checkpoint(lambda w: w * m.randn(4), w, use_reentrant=False).sin() * m.rand(4),
                       w * 2, use_reentrant=k > 4)
        y.sum().backward()
        out.append((y.detach(), w.grad.clone(), m.rand(1)))
    return out


def a_checkpoint_changes_what_it_does(m):
    from importlib import import_module
    module = import_module(f"{m.__name__}.utils.checkpoint")
    m.manual_seed(8)
    w = m.nn.Parameter(m.randn(4))
    out, count = [], [0]

    def f(x):
        count[0] += 1
        if count[0] == 11:
            raise ValueError("once")
        return x.tanh() if count[0] < 9 else x.sin()
    for _ in range(9):
        w.grad = None
        try:
            y = module.checkpoint(f, w * 2, use_reentrant=False)
            y.sum().backward()
            out.append((y.detach(), w.grad.clone()))
        except ValueError as e:
            out.append(str(e))
    return out, count


def tangents_change(m):
    from importlib import import_module
    func = import_module(f"{m.__name__}.func")
    m.manual_seed(9)
    w, v = m.nn.Parameter(m.randn(4)), m.randn(4)
    opt, out, peek = m.optim.SGD([w], lr=0.1), [], []

    def f(k):
        def inner(x):
            y = (x.tanh() if k in (5, 6) else x.sin()) * v
            if k in (4, 8):
                peek.append(float(func.jvp(lambda x: x * 2, (v.sum(),), (v.sum(),))[1]))
            return y.sum()
        return inner
    for k in range(10):
        once = lambda x, k=k: func.jvp(f(k), (x,), (v,))[1]
        value, second = func.jvp(once if k % 2 else f(k), (w.detach(),), (v,))
        w.grad = second * v
        opt.step()
        out.append((value, second))
    return out, peek, [func.hessian(f(0))(w.detach()) for _ in range(3)]


def hooks_on_saved_tensors_come_and_go(m):
    from importlib import import_module
    graph = import_module(f"{m.__name__}.autograd.graph")
    _, _, step = _setting(m)
    out, kept = [], []

    def to_numpy(t):
        return t.detach().numpy().copy()

    def loss_with(pack, unpack):
        def around(h):
            with graph.saved_tensors_hooks(pack, unpack):
                return h.sin() * h
        return around
    for k in range(16):
        if k < 4 or k == 12:
            out.append(step(loss_with(lambda t: t * 2, lambda t: t / 2)))
        elif k < 8:
            out.append(step(loss_with(to_numpy, m.tensor)))
        elif k < 11:
            out.append(step(loss_with(lambda t: t, lambda t: (kept.append(t.shape[0]), t * 0.5)[1])))
        else:
            out.append(step(lambda h: h.sin() * h))
    return out, kept[:3]


def a_subclass_trains_and_steps_differ_after_backward(m):
    class Named(m.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            return super().__torch_function__(func, types, args, kwargs or {})
    m.manual_seed(10)
    w, x = m.nn.Parameter(m.randn(4)), m.randn(4).as_subclass(Named)
    opt, out = m.optim.SGD([w], lr=0.1), []
    for k in range(9):
        opt.zero_grad()
        loss = ((x * w).tanh() ** 2).sum()
        loss.backward()
        if k % 4 == 3:
            w.grad.mul_(0.5)
        opt.step()
        out.append((loss.detach(), w.detach().clone()))
    return out


def callbacks_of_two_segments_meet(m):
    from importlib import import_module
    checkpoint = import_module(f"{m.__name__}.utils.checkpoint").checkpoint
    m.manual_seed(11)
    w = m.nn.Parameter(m.randn(3, 3))
    out = []
    for k in range(6):
        w.grad = None
        h = checkpoint(lambda h: h.sin(), w * 2, use_reentrant=k % 2 > 0)
        out.append(h.sum().item())
        y = checkpoint(lambda h: h.tanh(), h * 2, use_reentrant=True)
        y.register_hook(lambda g: out.append(g.sum().item()))
        y.sum().backward()
        out.append(w.grad.clone())
        try:
            m.autograd.grad(checkpoint(lambda h: h * 2, w, use_reentrant=True).sum(), w)
        except RuntimeError as e:
            out.append(str(e)[:70])
    return out


CASES = (
    a_flag_changes_what_a_hook_does, hooks_come_and_go, a_hook_adds_and_removes_others, a_hook_reads_its_gradient,
    a_hook_raises_once, a_hook_writes_in_place, a_function_branches, a_function_comes_and_goes,
    a_function_is_differentiated_twice, saved_tensors_are_overwritten_in_some_steps,
    values_are_read_inside_a_function, a_loss_is_read_before_backward, a_graph_is_walked_twice,
    one_optimizer_steps_twice_in_a_backward, checkpoints_draw_the_same_again, a_checkpoint_changes_what_it_does,
    tangents_change, hooks_on_saved_tensors_come_and_go,
    a_subclass_trains_and_steps_differ_after_backward, callbacks_of_two_segments_meet)


def _flat(x: Any) -> list[Any]:
    if isinstance(x, (list, tuple)):
        return [i for part in x for i in _flat(part)]
    return [x] if isinstance(x, str) else np.asarray(x.tolist() if hasattr(x, "tolist") else x).reshape(-1).tolist()


@pytest.mark.parametrize("case", CASES, ids=lambda f: f.__name__)
def test_what_changes_between_steps(case: Callable) -> None:
    expected, found = _flat(case(torch)), _flat(case(fanal))
    assert len(found) == len(expected)
    for e, f in zip(expected, found):
        assert f == e if isinstance(e, str) else f == pytest.approx(e, rel=2e-5, abs=1e-6), (found, expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_dropout_in_a_checkpoint_is_the_same_again_and_followed(reentrant: bool) -> None:
    from fanal.utils.checkpoint import checkpoint
    w, masks = fanal.nn.Parameter(fanal.ones(64)), set()
    opt = fanal.optim.SGD([w], lr=0.0)
    for k in range(8):
        if k == 3:
            before = ledger.snapshot()
        opt.zero_grad()
        y = checkpoint(lambda w: fanal.nn.functional.dropout(fanal.nn.functional.dropout(w * 3, 0.3), 0.3), w,
                       use_reentrant=reentrant)
        y.sum().backward()
        opt.step()
        assert y.tolist() == w.grad.tolist()
        masks.add(tuple(y.tolist()))
    assert len(masks) == 8
    assert ledger.snapshot()["recorded"] == before["recorded"]
