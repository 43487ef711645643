"""Custom functions, checked side by side with PyTorch."""

from __future__ import annotations

import pytest
from sides import agree


def square(m):
    class Square(m.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return 2 * x * g

    return Square


def simple(m):
    x = m.tensor([1.0, 2.0], requires_grad=True)
    y = square(m).apply(x)
    y.sum().backward()
    return y, x.grad, y.requires_grad, y.is_leaf, y.grad_fn.name()


def double(m):
    x = m.tensor([1.0, 2.0], requires_grad=True)
    (g,) = m.autograd.grad(square(m).apply(x).sum(), x, create_graph=True)
    return g, m.autograd.grad((g * g).sum(), x)


def saved_output(m):
    class Exp(m.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, g):
            (y,) = ctx.saved_tensors
            return y * g

    x = m.tensor([1.0, 2.0], requires_grad=True)
    y = Exp.apply(x)
    (g,) = m.autograd.grad(y.sum(), x, create_graph=True)
    (h,) = m.autograd.grad(g.sum(), x, create_graph=True)
    (k,) = m.autograd.grad(h.sum(), x)
    return y, g, h, k


def several(m):
    seen = []

    class Both(m.autograd.Function):
        @staticmethod
        def forward(ctx, x, k, y, name=None):
            ctx.save_for_backward(x, y)
            seen.append(ctx.needs_input_grad)
            return x * y, x + y, k

        @staticmethod
        def backward(ctx, gp, gs, gk):
            seen.append(gk)
            x, y = ctx.saved_tensors
            return gp * y + gs, None, gp * x + gs, None

    x, y = m.tensor([1.0, 2.0], requires_grad=True), m.tensor([3.0, 4.0])
    p, s, k = Both.apply(x, 5, y, "name")
    (p * 2 + s).sum().backward()
    first = x.grad
    x.grad = None
    p, s, k = Both.apply(x, 5, y, "name")
    p.sum().backward()  # the other output gets zeros
    return p, s, k, first, x.grad, seen


def not_materialized(m):
    seen = []

    class Two(m.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.set_materialize_grads(False)
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, a, b):
            seen.append(b is None)
            return a * 2

    x = m.tensor([1.0], requires_grad=True)
    Two.apply(x)[0].sum().backward()
    return seen, x.grad


def several_double(m):
    class Two(m.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            a, b = x * x, x.exp()
            ctx.save_for_backward(x, b)
            return a, b

        @staticmethod
        def backward(ctx, ga, gb):
            x, b = ctx.saved_tensors
            return 2 * x * ga + b * gb

    x = m.tensor([1.0, 0.5], requires_grad=True)
    a, b = Two.apply(x)
    (g,) = m.autograd.grad((a * b).sum(), x, create_graph=True)
    (h,) = m.autograd.grad(g.sum(), x, create_graph=True)
    return g, h, m.autograd.grad(h.sum(), x)


def dirty(m):
    class AddOne(m.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            x.add_(1)
            ctx.mark_dirty(x)
            return x

        @staticmethod
        def backward(ctx, g):
            return g * 5

    x = m.tensor([1.0, 2.0], requires_grad=True)
    h = x * 2
    y = AddOne.apply(h)
    (y * y).sum().backward()
    return y is h, h, x.grad, h._version


def dirty_leaf(m):
    class AddOne(m.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            x.add_(1)
            ctx.mark_dirty(x)
            return x

        @staticmethod
        def backward(ctx, g):
            return g

    AddOne.apply(m.tensor([1.0], requires_grad=True))


def fixed(m):
    class Top(m.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            v, i = x.max(0)
            d = x * 0
            ctx.mark_non_differentiable(i, d)
            return v, i, d

        @staticmethod
        def backward(ctx, g, gi, gd):
            return g.expand(2)

    x = m.tensor([1.0, 2.0], requires_grad=True)
    v, i, d = Top.apply(x)
    v.backward()
    return v.requires_grad, i.requires_grad, d.requires_grad, x.grad


def split_style(m):
    class Scale(m.autograd.Function):
        @staticmethod
        def forward(x, factor=3.0):
            return x * factor

        @staticmethod
        def setup_context(ctx, inputs, output):
            _, factor = inputs
            ctx.factor = factor

        @staticmethod
        def backward(ctx, g):
            return g * ctx.factor, None

    x = m.tensor([1.0, 2.0], requires_grad=True)
    Scale.apply(x).sum().backward()
    first = x.grad.clone()
    Scale.apply(x, 4.0).sum().backward()
    return first, x.grad


def identity(m):
    class Same(m.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, g):
            return -g

    x = m.tensor([1.0, 2.0], requires_grad=True)
    y = Same.apply(x)
    (y * 2).sum().backward()
    return y is x, y, x.grad


def viewed(m):
    class View(m.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, g):
            return g * 7

    h = m.tensor([1.0, 2.0], requires_grad=True) * 1
    View.apply(h).add_(1)


def no_grad_inside(m):
    seen = []

    class F(m.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            seen.append((m.is_grad_enabled(), (x * 2).requires_grad))
            return x * 2

        @staticmethod
        def backward(ctx, g):
            seen.append((m.is_grad_enabled(), g.requires_grad))
            return g * 2

    x = m.tensor([1.0], requires_grad=True)
    F.apply(x).backward()
    m.autograd.grad(F.apply(x), x, create_graph=True)
    with m.no_grad():
        seen.append(F.apply(x).requires_grad)
    seen.append(F.apply(m.ones(1)).requires_grad)
    return seen


def second_backward(m):
    x = m.tensor([1.0], requires_grad=True)
    y = square(m).apply(x)
    y.backward()
    y.backward()


def retained(m):
    x = m.tensor([1.0], requires_grad=True)
    y = square(m).apply(x)
    y.backward(retain_graph=True)
    y.backward()
    return x.grad


def nothing_saved_twice(m):
    class Twice(m.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * 2

    x = m.tensor([1.0], requires_grad=True)
    y = Twice.apply(x)
    y.backward()
    y.backward()
    return x.grad


def saved_and_written(m):
    h = m.tensor([1.0], requires_grad=True) * 1
    y = square(m).apply(h)
    h.add_(1)
    y.backward()


def too_few(m):
    class F(m.autograd.Function):
        @staticmethod
        def forward(ctx, a, b):
            return a + b

        @staticmethod
        def backward(ctx, g):
            return g

    x = m.tensor([1.0], requires_grad=True)
    F.apply(x, x).backward()


def grad_of_number(m):
    class F(m.autograd.Function):
        @staticmethod
        def forward(ctx, a, b):
            return a + b

        @staticmethod
        def backward(ctx, g):
            return g, g

    F.apply(m.tensor([1.0], requires_grad=True), 2).backward()


def wrong_shape(m):
    class F(m.autograd.Function):
        @staticmethod
        def forward(ctx, a):
            return a * 1

        @staticmethod
        def backward(ctx, g):
            return m.ones(3)

    F.apply(m.ones(2, requires_grad=True)).sum().backward()


def wide_gradient(m):
    class F(m.autograd.Function):
        @staticmethod
        def forward(ctx, a, b):
            return a + b

        @staticmethod
        def backward(ctx, g):
            return g, g

    a, b = m.ones(2, 1, requires_grad=True), m.ones(2, 3, requires_grad=True)
    F.apply(a, b).sum().backward()
    return a.grad, b.grad


def no_backward(m):
    class F(m.autograd.Function):
        @staticmethod
        def forward(ctx, a):
            return a * 1

    F.apply(m.ones(1, requires_grad=True)).backward()


def save_number(m):
    class F(m.autograd.Function):
        @staticmethod
        def forward(ctx, a):
            ctx.save_for_backward(3)
            return a * 1

    F.apply(m.ones(1, requires_grad=True))


def once(m):
    class F(m.autograd.Function):
        @staticmethod
        def forward(ctx, a):
            ctx.save_for_backward(a)
            return a * a

        @staticmethod
        @m.autograd.function.once_differentiable
        def backward(ctx, g):
            return 2 * g * ctx.saved_tensors[0]

    x = m.ones(1, requires_grad=True)
    (g,) = m.autograd.grad(F.apply(x) ** 2, x, create_graph=True)
    g.backward()


def called(m):
    square(m)()(m.ones(1))


def in_training(m):
    """The function in a loop that is known to the engine."""
    w = m.tensor([1.0, 2.0], requires_grad=True)
    f, losses = square(m), []
    for _ in range(6):
        loss = f.apply(w * 2).sum() + (w * 3).sum()
        loss.backward()
        with m.no_grad():
            w -= 0.01 * w.grad
        w.grad = None
        losses.append(loss.item())
    return losses, w


def value_in_forward(m):
    class F(m.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.k = 2.0 if float(x.sum()) > 0 else 3.0
            return x * ctx.k

        @staticmethod
        def backward(ctx, g):
            return g * ctx.k if float(g.sum()) > 0 else g

    w = m.tensor([1.0, 2.0], requires_grad=True)
    found = []
    for _ in range(5):
        y = F.apply(w * w)
        y.sum().backward()
        found.append((y.tolist(), w.grad.tolist()))
        with m.no_grad():
            w.sub_(w.grad, alpha=0.1)
        w.grad = None
    return found


def data_written_in_forward(m):
    class Place(m.autograd.Function):
        @staticmethod
        def forward(ctx, stages, stage, k):
            ctx.k = k
            stages.data[k] = stage
            return stages

        @staticmethod
        def backward(ctx, g):
            return g, g[ctx.k], None

    w = m.tensor([1.0, 2.0], requires_grad=True)
    found = []
    for _ in range(4):
        stages = Place.apply(m.zeros(3, 2), w * 2, 0)
        first = stages[0]
        for k in (1, 2):
            stages = Place.apply(stages, (w + stages[:k].sum(0)).sin(), k)
        loss = (stages * stages).sum() + (first * 3).sum()
        loss.backward()
        found.append((stages.tolist(), w.grad.tolist()))
        w.grad = None
    return found


def sparse_saved(m):
    class Product(m.autograd.Function):
        @staticmethod
        def forward(ctx, places, values, b):
            a = m.sparse_coo_tensor(places, values, (2, 3))
            ctx.save_for_backward(a, b)
            return a @ b

        @staticmethod
        def backward(ctx, g):
            a, b = ctx.saved_tensors
            return None, (g @ b.t())[a._indices()[0], a._indices()[1]], a.t() @ g

    v, b = m.tensor([2.0, 3.0], requires_grad=True), m.ones(3, 2, requires_grad=True)
    found = []
    for _ in range(4):
        y = Product.apply(m.tensor([[0, 1], [2, 0]]), v, b)
        (y * y).sum().backward()
        found.append((y.tolist(), v.grad.tolist(), b.grad.tolist()))
    return found


VALUES = [
    simple,
    double,
    saved_output,
    several,
    not_materialized,
    several_double,
    dirty,
    fixed,
    split_style,
    identity,
    no_grad_inside,
    retained,
    nothing_saved_twice,
    wide_gradient,
    in_training,
    value_in_forward,
    data_written_in_forward,
    sparse_saved,
]
ERRORS = [
    (dirty_leaf, "a leaf Variable that requires grad has been used in an in-place operation"),
    (viewed, "is a view and is being modified inplace", "custom Function"),
    (second_backward, "Trying to backward through the graph a second time"),
    (saved_and_written, "modified by an inplace operation", "version 1; expected version 0"),
    (too_few, "returned an incorrect number of gradients (expected 2, got 1)"),
    (grad_of_number, "returned a gradient different than None at position 2"),
    (wrong_shape, "returned an invalid gradient at index 0 - got [3] but expected shape compatible with [2]"),
    (no_backward, "You must implement either the backward or vjp method"),
    (save_number, "save_for_backward can only save variables, but argument 0 is of type int"),
    (once, "differentiate twice"),
    (called, "Legacy autograd function with non-static forward method is deprecated"),
]


@pytest.mark.parametrize("scenario", VALUES, ids=lambda f: f.__name__)
def test_values(scenario):
    agree(scenario)


@pytest.mark.parametrize(
    "scenario,words", [(e[0], e[1:]) for e in ERRORS], ids=lambda x: getattr(x, "__name__", "")
)
def test_errors(scenario, words):
    agree(scenario, *words)
