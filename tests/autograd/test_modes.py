"""Gradient modes, checked side by side with PyTorch; and with segments the engine knows."""

from __future__ import annotations

import pytest
from sides import agree


def nesting(m):
    seen = [m.is_grad_enabled()]
    with m.no_grad():
        seen.append(m.is_grad_enabled())
        with m.enable_grad():
            seen.append(m.is_grad_enabled())
            with m.set_grad_enabled(False):
                seen.append(m.is_grad_enabled())
            seen.append(m.is_grad_enabled())
        seen.append(m.is_grad_enabled())
    return [*seen, m.is_grad_enabled()]


def exceptions(m):
    try:
        with m.no_grad():
            raise ValueError
    except ValueError:
        pass
    return m.is_grad_enabled()


def decorators(m):
    @m.no_grad()
    def a(x):
        """Say something."""
        return m.is_grad_enabled(), x

    @m.no_grad
    def b():
        return m.is_grad_enabled()

    @m.enable_grad()
    def c():
        return m.is_grad_enabled()

    @m.set_grad_enabled(False)
    def d():
        return m.is_grad_enabled()

    @m.inference_mode()
    def e():
        return m.is_grad_enabled(), m.is_inference_mode_enabled()

    @m.inference_mode
    def f():
        return m.is_inference_mode_enabled()

    @m.inference_mode(False)
    def g():
        return m.is_inference_mode_enabled()

    outside = m.is_grad_enabled()
    with m.no_grad():
        inner = c()
    return (
        a(3),
        a.__doc__,
        a.__name__,
        b(),
        c(),
        d(),
        e(),
        f(),
        g(),
        outside,
        inner,
        a(4),
        d(),
        m.is_grad_enabled(),
    )


def generators(m):
    @m.no_grad()
    def produce():
        got = yield m.is_grad_enabled()
        seen = [got, m.is_grad_enabled()]
        try:
            yield "thrown"
        except KeyError:
            seen.append(m.is_grad_enabled())
        yield seen
        return

    g = produce()
    seen = [
        next(g),
        m.is_grad_enabled(),
        g.send(5),
        m.is_grad_enabled(),
        g.throw(KeyError()),
        m.is_grad_enabled(),
    ]
    return seen, list(g)


def function_form(m):
    m.set_grad_enabled(False)
    off = m.is_grad_enabled()
    m.set_grad_enabled(True)
    return off, m.is_grad_enabled()


def inference_modes(m):
    with m.inference_mode():
        seen = [m.is_grad_enabled(), m.is_inference_mode_enabled()]
        with m.inference_mode(False):
            seen += [m.is_grad_enabled(), m.is_inference_mode_enabled()]
        with m.enable_grad():
            seen += [m.is_grad_enabled(), (m.ones(1, requires_grad=True) * 2).requires_grad]
    return seen


def inference_clone(m):
    with m.inference_mode():
        x = m.ones(2)
    y = x.clone()
    y.add_(1)
    return y, y.is_inference()


def version_of_inference(m):
    with m.inference_mode():
        x = m.ones(2)
    return x._version


def change_where_the_engine_knows_the_step(m):
    w = m.tensor([1.0, 2.0], requires_grad=True)
    seen = []
    for k in range(9):
        with m.set_grad_enabled(k % 3 != 2):
            y = (w * w).sum()
        seen.append((y.item(), y.requires_grad))
        if y.requires_grad:
            (y * 2).backward()
            with m.no_grad():
                w -= 0.1 * w.grad
            w.grad = None
    return seen, w


def freeze_after_some_steps(m):
    m.manual_seed(0)
    a, b = m.nn.Linear(2, 2), m.nn.Linear(2, 1)
    x, seen = m.ones(3, 2), []
    for k in range(9):
        if k == 4:
            a.weight.requires_grad = False
        if k == 7:
            a.weight.requires_grad_(True)
        loss = b(m.tanh(a(x))).pow(2).mean()
        for p in (*a.parameters(), *b.parameters()):
            p.grad = None
        loss.backward()
        seen.append((loss.item(), a.weight.grad is None))
        with m.no_grad():
            for p in (*a.parameters(), *b.parameters()):
                if p.grad is not None:
                    p -= 0.1 * p.grad
    return seen, a.weight, b.weight


def alternate_players(m):
    """Two networks that are frozen in turn, as in adversarial training."""
    m.manual_seed(0)
    g, d = m.nn.Linear(2, 2), m.nn.Linear(2, 1)
    z, seen = m.ones(3, 2), []
    for _ in range(6):
        for p in d.parameters():
            p.requires_grad_(True)
        loss = d(g(z).detach()).mean()
        loss.backward()
        with m.no_grad():
            for p in d.parameters():
                p -= 0.1 * p.grad
                p.grad = None
        for p in d.parameters():
            p.requires_grad_(False)
        loss2 = -d(g(z)).mean()
        loss2.backward()
        with m.no_grad():
            for p in g.parameters():
                p -= 0.1 * p.grad
                p.grad = None
        seen.append((loss.item(), loss2.item(), [p.grad is None for p in d.parameters()]))
    return seen, g.weight, d.weight


def backward_after_a_read(m):
    x = m.tensor([1.0, 2.0])
    seen = []
    for k in range(6):
        w = m.tensor([1.0, 2.0 + k], requires_grad=True)
        y = w * x
        z = y * y
        seen.append(z.sum().item())
        z.sum().backward()
        seen.append(w.grad.tolist())
    return seen


def backward_of_linear_after_a_read(m):
    seen = []
    w = m.tensor([1.0, 2.0], requires_grad=True)
    for _ in range(6):
        y = w * 2
        seen.append(y.sum().item())
        y.sum().backward()
        seen.append(w.grad.tolist())
    return seen


VALUES = [
    nesting,
    exceptions,
    decorators,
    generators,
    function_form,
    inference_modes,
    inference_clone,
    change_where_the_engine_knows_the_step,
    freeze_after_some_steps,
    alternate_players,
    backward_after_a_read,
    backward_of_linear_after_a_read,
]


@pytest.mark.parametrize("scenario", VALUES, ids=lambda f: f.__name__)
def test_values(scenario):
    agree(scenario)


def test_version_of_inference_tensor():
    agree(version_of_inference, "Inference tensors do not track version counter")
