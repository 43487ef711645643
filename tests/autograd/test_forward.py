"""Forward mode, side by side with PyTorch: dual numbers, tangents of operators, views and writes, custom functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.autograd.forward_ad
from sides import agree

import fanal
import fanal.autograd.forward_ad

X = np.array([[0.3, -0.7, 1.1], [0.9, 0.2, -1.3]])
T = np.array([[1.0, 0.5, -0.25], [-1.5, 2.0, 0.75]])


def dual_of(m, x, t):
    return m.autograd.forward_ad.make_dual(m.tensor(x), m.tensor(t))


def tangent(m, x):
    return m.autograd.forward_ad.unpack_dual(x).tangent


def flat(x):
    if isinstance(x, (tuple, list)):
        return [a for i in x for a in flat(i)]
    return [None if x is None else x.detach().numpy()]


def same(scenario):
    """Assert that both give the same tensors (or None), to float64."""
    want, got = flat(scenario(torch)), flat(scenario(fanal))
    assert len(want) == len(got)
    for w, g in zip(want, got):
        assert (w is None) == (g is None), (w, g)
        if w is not None:
            assert w.dtype == g.dtype
            np.testing.assert_allclose(g, w, rtol=1e-11, atol=1e-13)


def attention(m, q, k):
    if m is torch:  # whose own has no forward mode
        return torch.softmax(torch.where(torch.ones(2, 2).tril() > 0, q @ k.mT / 3**0.5, -torch.inf), -1) @ q
    return m.nn.functional.scaled_dot_product_attention(q, k, q, is_causal=True)


OPERATORS = {
    "pointwise": lambda m, x: m.tanh(x * m.exp(x) / (1 + x * x)) - m.sigmoid(x) ** 3,
    "ties": lambda m, x: m.maximum(x, x.flip(0)) + m.relu(x) + x.clamp(-0.5, 0.5) + x.abs(),
    "where": lambda m, x: m.where(x > 0, x.log1p(), x * x),
    "pow": lambda m, x: m.pow(x.abs(), x),
    "broadcast": lambda m, x: x[:, :1] * x + x.sum(0) - x[0],
    "reduce": lambda m, x: x.var(1) + x.amax(1) + x.logsumexp(1) + x.prod(1) + x.norm(dim=1),
    "norms at zero": lambda m, x: tuple(m.linalg.vector_norm(x * 0, p) for p in (1, 2, 3)),
    "scan": lambda m, x: x.cumsum(0) + x.cumprod(1) + m.logcumsumexp(x, 1),
    "matmul": lambda m, x: (x @ x.T, m.einsum("ij,kj->ik", x, x.sin()), x @ x[0]),
    "views": lambda m, x: (x.T.reshape(-1)[1:5].view(2, 2), x.unfold(1, 2, 1), x.expand(2, 2, 3), x.diagonal()),
    "join": lambda m, x: m.cat([x, x * 2, m.ones(1, 3, dtype=x.dtype)]).roll(1, 0),
    "index": lambda m, x: (x[m.tensor([1, 0, 1])], x.gather(1, m.tensor([[2], [0]])), x.sort(1).values,
                           x.index_add(0, m.tensor([0, 0]), x.cos()), x.masked_fill(x > 0, 2.0)),
    "softmax": lambda m, x: (m.softmax(x, 1), m.log_softmax(x, 0), m.nn.functional.gelu(x)),
    "loss": lambda m, x: m.nn.functional.cross_entropy(x, m.tensor([2, 0]))
    + m.nn.functional.mse_loss(x, x.flip(0)) + m.nn.functional.smooth_l1_loss(x, x.flip(1)),
    "norm": lambda m, x: (m.nn.functional.layer_norm(x, (3,), x[0], x[1]),
                          m.nn.functional.batch_norm(x, None, None, training=True)),
    "conv": lambda m, x: m.nn.functional.conv1d(x[None], x.reshape(1, 2, 3), padding=1),
    "pool": lambda m, x: m.nn.functional.max_pool1d(x[None], 2) + m.nn.functional.avg_pool1d(x[None], 2),
    "attention": lambda m, x: attention(m, x.expand(1, 2, 2, 3), x.sin().expand(1, 2, 2, 3)),
    "linalg": lambda m, x: (m.linalg.inv(x[:, :2]), m.linalg.det(x @ x.T), m.linalg.solve(x @ x.T, x),
                            m.linalg.cholesky(x @ x.T), m.linalg.svdvals(x), m.linalg.eigvalsh(x @ x.T),
                            m.linalg.matrix_exp(x[:, :2]), m.linalg.qr(x.T).R.abs()),
    "complex": lambda m, x: (m.view_as_real(m.exp(m.complex(x, x * 2))), m.fft.rfft(x).abs(), m.complex(x, x.sin()).angle()),
    "integers": lambda m, x: (x.round(), x > 0, x.argmax(1), x.long() * x),
    "special": lambda m, x: (m.lgamma(x + 3), m.erf(x), m.special.i0(x)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_tangents_of_operators(name):
    f = OPERATORS[name]

    def scenario(m):
        with m.autograd.forward_ad.dual_level():
            y = f(m, dual_of(m, X, T))
            return [m.autograd.forward_ad.unpack_dual(o) for o in (y if isinstance(y, tuple) else (y,))
                    if o.is_floating_point()]

    same(scenario)


def writes(m):
    x = dual_of(m, X, T)
    y = m.zeros(2, 3, dtype=m.float64)
    view = y[1]
    y[0] = x[0] * 2
    view.add_(x[1])
    y[:, 1:].mul_(y[:, :2].clone())
    return tangent(m, y), tangent(m, view), tangent(m, y.T)


def writes_without_recording(m):
    x = dual_of(m, X, T).requires_grad_()
    with m.no_grad():
        y = x * x
        y.view(-1)[2:4].mul_(x[0, :2])
        y[0].zero_()
    return tangent(m, y), m.tensor(float(y.requires_grad))


def values_read_in_between(m):
    x = dual_of(m, X, T)
    y = x.sin()
    z = y.T[1:]
    y.sum().item()
    w = z * y[0, 0]
    w.sum().item()
    return tangent(m, w.exp()), tangent(m, z)


def history(m):
    x, t = m.tensor(X, requires_grad=True), m.tensor(T, requires_grad=True)
    y = m.autograd.forward_ad.make_dual(x, t).exp().sum()
    d = tangent(m, y)
    return m.autograd.grad(d, (x, t), retain_graph=True), m.autograd.grad(y, x)


def cut(m):
    x = dual_of(m, X, T)
    return tangent(m, x.detach()), tangent(m, x.data), tangent(m, x > 0), tangent(m, m.ones(2))


def switched_off(m):
    x = dual_of(m, X, T)
    fw = m.autograd.forward_ad
    with fw._set_fwd_grad_enabled(False):
        y = x * 2
        assert not fw._is_fwd_grad_enabled()
        off = tangent(m, y)
    return off, tangent(m, y), tangent(m, x * 2)


@pytest.mark.parametrize("f", [writes, writes_without_recording, values_read_in_between, history, cut, switched_off])
def test_duals(f):
    def scenario(m):
        with m.autograd.forward_ad.dual_level():
            return f(m)

    same(scenario)


def test_a_level_ends():
    def scenario(m):
        with m.autograd.forward_ad.dual_level():
            x = dual_of(m, X, T)
        with m.autograd.forward_ad.dual_level():
            return tangent(m, x * 2), tangent(m, x)

    same(scenario)


def test_known_steps_are_not_taken_for_dual_ones():
    def f(x):
        return (x * x).sum()

    x = fanal.tensor(X)
    for _ in range(4):
        f(x).item()
    with fanal.autograd.forward_ad.dual_level():
        d = tangent(fanal, f(dual_of(fanal, X, T)))
        np.testing.assert_allclose(d.item(), (2 * X * T).sum())
    for _ in range(2):
        np.testing.assert_allclose(f(x).item(), (X * X).sum())


ERRORS = {
    "no level": (lambda m, fw: fw.make_dual(m.ones(2), m.ones(2)), "no level exists"),
    "nested": (lambda m, fw: [fw.enter_dual_level(), fw.enter_dual_level()], "Nested forward mode AD is not supported"),
    "exit": (lambda m, fw: fw.exit_dual_level(), "Dual level must be a positive number"),
    "size": (lambda m, fw: (fw.enter_dual_level(), fw.make_dual(m.ones(2), m.ones(3))), "has a different size than"),
    "integers": (lambda m, fw: (fw.enter_dual_level(), fw.make_dual(m.tensor([1]), m.ones(1))),
                 "Expected primal to be floating point or complex"),
    "twice": (lambda m, fw: (fw.enter_dual_level(), fw.make_dual(dual_of(m, X, T), m.tensor(T))),
              "already has a forward gradient at the same level"),
    "out": (lambda m, fw: (fw.enter_dual_level(), m.sin(dual_of(m, X, T), out=m.empty(2, 3, dtype=m.float64))),
            "because it is an out= function"),
    "no rule": (lambda m, fw: (fw.enter_dual_level(), m.special.gammainc(dual_of(m, X + 2, T), m.tensor(X + 2))),
                "Trying to use forward AD with"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    f, words = ERRORS[case]

    def scenario(m):
        fw = m.autograd.forward_ad
        try:
            f(m, fw)
        finally:
            try:
                fw.exit_dual_level()
            except RuntimeError:
                pass

    agree(scenario, words)


def product(m):
    class Product(m.autograd.Function):
        @staticmethod
        def forward(ctx, x, y, k):
            ctx.save_for_backward(x, y)
            ctx.save_for_forward(x, y)
            ctx.k = k
            return x * y * k, x.detach() + 1

        @staticmethod
        def backward(ctx, g, h):
            x, y = ctx.saved_tensors
            return g * y * ctx.k + h, g * x * ctx.k, None

        @staticmethod
        def jvp(ctx, tx, ty, tk):
            x, y = ctx.saved_tensors
            return (tx * y + x * ty) * ctx.k, tx * 3

    return Product


def test_custom_functions():
    def scenario(m):
        x, y = m.tensor(X), m.tensor(X[::-1].copy(), requires_grad=True)
        with m.autograd.forward_ad.dual_level():
            a, b = product(m).apply(m.autograd.forward_ad.make_dual(x, m.tensor(T)), y, 2.0)
            return tangent(m, a), tangent(m, b), m.autograd.grad(a.sum(), y), tangent(m, (a * b).sum())

    same(scenario)


def test_custom_functions_that_write():
    class Double(fanal.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            return x.mul_(2)

        @staticmethod
        def jvp(ctx, t):
            return t.mul_(2)

    with fanal.autograd.forward_ad.dual_level():
        x = dual_of(fanal, X, T).clone()
        assert Double.apply(x) is x
        np.testing.assert_array_equal(tangent(fanal, x * x).numpy(), 8 * X * T)


def test_custom_functions_without_jvp():
    def scenario(m):
        class Same(m.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x * 1

        with m.autograd.forward_ad.dual_level():
            Same.apply(dual_of(m, X, T))

    agree(scenario, "You must implement the jvp function")


def test_printing():
    def scenario(m):
        with m.autograd.forward_ad.dual_level():
            return repr(dual_of(m, [1.0, 2.0], [3.0, 4.0]))

    agree(scenario)
