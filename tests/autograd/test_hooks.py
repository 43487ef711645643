"""Hooks, checked side by side with PyTorch."""

from __future__ import annotations

import pytest
from sides import agree


def order_of_hooks(m):
    seen = []
    x = m.tensor([1.0, 2.0], requires_grad=True)
    x.register_hook(lambda g: (seen.append(("leaf", g.tolist())), g * 2)[1])
    x.register_post_accumulate_grad_hook(lambda t: seen.append(("post", t.grad.tolist())))
    h = x * 2
    h.register_hook(lambda g: g * 10)
    h.retain_grad()
    h.register_hook(lambda g: seen.append(("second", g.tolist())))
    h.sum().backward()
    return seen, h.grad, x.grad


def retain_follows_in_place(m):
    x = m.tensor([1.0, 2.0], requires_grad=True)
    h = x * 2
    h.retain_grad()
    h.mul_(3)
    (h * h).sum().backward()
    return h.grad, x.grad, h.retains_grad


def retain_twice_accumulates(m):
    x = m.tensor([1.0, 2.0], requires_grad=True)
    h = x * 2
    h.retain_grad()
    h.retain_grad()
    y = (h * h).sum()
    y.backward(retain_graph=True)
    y.backward()
    return h.grad, x.grad


def removed(m):
    x = m.tensor([1.0], requires_grad=True)
    handle = x.register_hook(lambda g: g * 100)
    (x * 2).sum().backward()
    first = x.grad.clone()
    handle.remove()
    x.grad = None
    (x * 2).sum().backward()
    with x.register_hook(lambda g: g * 5):
        (x * 2).sum().backward()
    return first, x.grad


def leaf_hook_with_grad(m):
    seen = []
    x = m.tensor([1.0, 2.0], requires_grad=True)
    x.register_hook(lambda g: (seen.append(1), g * 2)[1])
    x.register_post_accumulate_grad_hook(lambda t: seen.append(2))
    g = m.autograd.grad((x * x).sum(), x)
    (x * x).sum().backward(inputs=[x])
    return g, x.grad, seen


def hook_sees_sum(m):
    seen = []
    x = m.tensor([1.0, 2.0], requires_grad=True)
    h = x * 2
    h.register_hook(lambda g: seen.append(g.tolist()))
    (h + h * h).sum().backward()
    return seen, x.grad


def hook_on_view(m):
    seen = []
    x = m.tensor([1.0, 2.0], requires_grad=True)
    v = x.view(2)
    v.register_hook(lambda g: seen.append(g.tolist()))
    (v * 3 + x * 5).sum().backward()
    return seen, x.grad


def hook_in_double_backward(m):
    x = m.tensor([1.0, 2.0], requires_grad=True)
    h = x**3
    h.register_hook(lambda g: g * g)
    (g,) = m.autograd.grad((h * h).sum(), x, create_graph=True)
    return g, m.autograd.grad(g.sum(), x)


def changed_size(m):
    x = m.tensor([1.0, 2.0], requires_grad=True)
    h = x * 2
    h.register_hook(lambda g: g[:1])
    h.sum().backward()


def changed_type(m):
    x = m.tensor([1.0, 2.0], requires_grad=True)
    h = x * 2
    h.register_hook(lambda g: g.double())
    h.sum().backward()


def not_a_tensor(m):
    x = m.tensor([1.0, 2.0], requires_grad=True)
    h = x * 2
    h.register_hook(lambda g: 3)
    h.sum().backward()


def without_gradient(m):
    m.ones(2).register_hook(print)


def post_on_result(m):
    (m.ones(2, requires_grad=True) * 2).register_post_accumulate_grad_hook(print)


def retain_without_gradient(m):
    m.ones(2).retain_grad()


def value_in_hook(m):
    seen = []
    x = m.tensor([1.0, 2.0], requires_grad=True)
    h = x * 2
    h.register_hook(lambda g: g * (2.0 if float(g.sum()) > 1 else 1.0))
    for _ in range(4):
        (h * h).sum().backward(retain_graph=True)
        seen.append(x.grad.tolist())
    return seen


def every_step(m):
    """A hook put on a fresh result in every step."""
    w = m.tensor([1.0, 2.0], requires_grad=True)
    seen, losses = [], []
    for _ in range(6):
        h = w * 3
        h.register_hook(lambda g: seen.append(g.tolist()))
        loss = (h * h).sum()
        loss.backward()
        with m.no_grad():
            w -= 0.01 * w.grad
        w.grad = None
        losses.append(loss.item())
    return seen, losses, w


def hook_from_step_three(m):
    """A hook that comes when the engine already knows the step."""
    w = m.tensor([1.0, 2.0], requires_grad=True)
    seen = []
    for k in range(8):
        if k == 3:
            handle = w.register_hook(lambda g: (seen.append(g.tolist()), g * 2)[1])
        if k == 6:
            handle.remove()
        loss = (w * w).sum()
        loss.backward()
        with m.no_grad():
            w -= 0.1 * w.grad
        w.grad = None
    return seen, w


def grad_fn_hooks(m):
    seen = []
    x = m.tensor([1.0, 2.0], requires_grad=True)
    y = x.exp()
    y.grad_fn.register_prehook(lambda gs: (gs[0] * 2,))
    y.grad_fn.register_hook(lambda gi, go: seen.append((gi[0].tolist(), go[0].tolist())))
    y.sum().backward()
    return seen, x.grad


def names(m):
    x = m.tensor([1.0, 2.0], requires_grad=True)
    return [t.grad_fn.name() for t in (x * 2, x + 1, x.exp(), x.view(2, 1), x / 3, x - 1, x.tanh())], (
        x * 2
    ).grad_fn.next_functions[0][0].name()


def module_hooks(m):
    m.manual_seed(0)
    seen = []
    layer = m.nn.Linear(2, 2)
    layer.register_full_backward_hook(
        lambda mod, gi, go: seen.append([len(gi), gi[0].shape == (3, 2), go[0].tolist()])
    )
    layer.register_full_backward_pre_hook(lambda mod, go: (go[0] * 2,))
    x = m.ones(3, 2, requires_grad=True)
    layer(x).sum().backward()
    return seen, x.grad, layer.weight.grad


def multi_hook(m):
    seen = []
    a, b = m.ones(2, requires_grad=True), m.ones(2, requires_grad=True)
    handle = m.autograd.graph.register_multi_grad_hook(
        [a, b], lambda gs: seen.append([g.tolist() for g in gs])
    )
    (a * 2 + b * 3).sum().backward()
    handle.remove()
    (a * 2 + b * 3).sum().backward()
    return seen, a.grad, b.grad


VALUES = [
    order_of_hooks,
    retain_follows_in_place,
    retain_twice_accumulates,
    removed,
    leaf_hook_with_grad,
    hook_sees_sum,
    hook_on_view,
    hook_in_double_backward,
    value_in_hook,
    every_step,
    hook_from_step_three,
    grad_fn_hooks,
    names,
    module_hooks,
    multi_hook,
]
ERRORS = [
    (changed_size, "has changed the size of value"),
    (changed_type, "has changed the type of value"),
    (not_a_tensor, "expected Variable, but hook returned 'int'"),
    (without_gradient, "cannot register a hook on a tensor that doesn't require gradient"),
    (post_on_result, "post accumulate grad hooks cannot be registered on non-leaf tensors"),
    (retain_without_gradient, "can't retain_grad on Tensor that has requires_grad=False"),
]


@pytest.mark.parametrize("scenario", VALUES, ids=lambda f: f.__name__)
def test_values(scenario):
    agree(scenario)


@pytest.mark.parametrize(
    "scenario,words", [(e[0], e[1:]) for e in ERRORS], ids=lambda x: getattr(x, "__name__", "")
)
def test_errors(scenario, words):
    agree(scenario, *words)
