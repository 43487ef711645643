"""torch.func's derivatives, side by side with PyTorch: values, structures, nesting, what requires gradients, errors."""

from __future__ import annotations

import numpy as np
import pytest
from sides import agree
from test_forward import T, X, same

import fanal
import fanal.func


def pair(m):
    return m.tensor(X), m.tensor(T)


def poly(x):
    return (x.sin() * x * x).sum()


SCENARIOS = {
    "grad": lambda m, f, x, t: f.grad(poly)(x),
    "argnums": lambda m, f, x, t: f.grad(lambda a, b: (a * b.exp()).sum(), argnums=(1, 0))(x, t),
    "last argument": lambda m, f, x, t: f.grad(lambda a, b: (a * b.exp()).sum(), argnums=-1)(x, t),
    "value and aux": lambda m, f, x, t: f.grad_and_value(lambda x: (poly(x), x * 2), has_aux=True)(x),
    "keywords": lambda m, f, x, t: f.grad(lambda x, k: (x * k).sum())(x, k=t),
    "unused": lambda m, f, x, t: f.grad(lambda a, b: (b * 2).sum())(x, t),
    "vjp": lambda m, f, x, t: f.vjp(m.sin, x)[1](t),
    "vjp of several": lambda m, f, x, t: f.vjp(lambda a, b: (a * b, a.sum()), x, t)[1]((t, m.tensor(2.0).double())),
    "vjp aux": lambda m, f, x, t: f.vjp(lambda x: (x * x, x.exp()), x, has_aux=True)[2],
    "jvp": lambda m, f, x, t: f.jvp(m.sin, (x,), (t,)),
    "jvp of several": lambda m, f, x, t: f.jvp(lambda a, b: (a * b, a.sum()), (x, t), (t, x)),
    "jvp aux": lambda m, f, x, t: f.jvp(lambda x: (x * x, x.exp()), (x,), (t,), has_aux=True),
    "jvp of a constant": lambda m, f, x, t: f.jvp(lambda x: m.ones(2), (x,), (t,)),
    "linearize": lambda m, f, x, t: f.linearize(lambda x: x.sin() * x, x)[1](t),
    "jacrev": lambda m, f, x, t: f.jacrev(lambda x: x.sum(0) * x[0])(x),
    "jacfwd": lambda m, f, x, t: f.jacfwd(lambda x: x.sum(0) * x[0])(x),
    "jacobians of several": lambda m, f, x, t: (f.jacrev(lambda a, b: (a @ b.T, b[0]), (0, 1))(x, t),
                                                f.jacfwd(lambda a, b: (a @ b.T, b[0]), (0, 1))(x, t)),
    "jacobian aux": lambda m, f, x, t: (f.jacrev(lambda x: (x * x, x), has_aux=True)(x),
                                        f.jacfwd(lambda x: (x * x, x), has_aux=True)(x)),
    "hessian": lambda m, f, x, t: f.hessian(poly)(x),
    "hessian of two": lambda m, f, x, t: f.hessian(lambda a, b: (a * b.sin()).sum(), (0, 1))(x[0], t[0]),
    "grad of grad": lambda m, f, x, t: f.grad(lambda x: poly(f.grad(poly)(x)))(x),
    "third order": lambda m, f, x, t: f.grad(f.grad(f.grad(lambda x: x**5)))(x[0, 0]),
    "jvp of grad": lambda m, f, x, t: f.jvp(f.grad(poly), (x,), (t,)),
    "grad of jvp": lambda m, f, x, t: f.grad(lambda x: f.jvp(poly, (x,), (t,))[1])(x),
    "jvp of jvp": lambda m, f, x, t: f.jvp(lambda x: f.jvp(m.sin, (x,), (t * x,))[1], (x,), (t,)),
    "jvp three deep": lambda m, f, x, t: f.jvp(lambda x: f.jvp(lambda x: f.jvp(m.exp, (x * x,), (t,))[1], (x,), (t,))[1],
                                               (x,), (x,)),
    "jvp of vjp": lambda m, f, x, t: f.jvp(lambda x: f.vjp(m.sin, x)[1](x * x)[0], (x,), (t,)),
    "jacfwd of jacrev": lambda m, f, x, t: f.jacfwd(f.jacrev(lambda x: x.prod(1)))(x),
    "jacrev of jacfwd": lambda m, f, x, t: f.jacrev(f.jacfwd(lambda x: x.prod(1)))(x),
    # Perturbation confusion: d/dx (x * d/dy (x + y)) is 1, not 2. Siskind & Pearlmutter (2005).
    "confusion, forward": lambda m, f, x, t: f.jvp(
        lambda x: x * f.jvp(lambda y: x + y, (m.ones_like(x),), (m.ones_like(x),))[1], (x,), (t,)),
    "confusion, reverse": lambda m, f, x, t: f.grad(lambda x: x * f.grad(lambda y: x + y)(x * 0 + 1))(x[0, 0]),
    "confusion, mixed": lambda m, f, x, t: f.grad(
        lambda x: x * f.jvp(lambda y: x * y * y, (m.ones_like(x),), (m.ones_like(x),))[1])(x[0, 0]),
    "closure": lambda m, f, x, t: f.grad(lambda x: x * f.grad(lambda y: x * y * y)(x.detach() * 0 + 3))(x[0, 0]),
    "writes": lambda m, f, x, t: f.grad(lambda x: (m.zeros_like(x).copy_(x).mul_(x)).sum())(x),
    "complex": lambda m, f, x, t: f.jvp(lambda z: (z * z.conj()).real.sum() * z.exp(), (m.complex(x, t),), (m.complex(t, x),)),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_values(name):
    same(lambda m: SCENARIOS[name](m, m.func, *pair(m)))


def test_structures():
    def scenario(m):
        x, t = pair(m)
        f = m.func

        def g(p):
            return {"a": p["x"] * p["y"][0], "b": (p["y"][0].sum(),)}

        p = {"x": x[0], "y": [t[0]]}
        out = (f.jacrev(g)(p), f.jacfwd(g)(p), f.jvp(g, (p,), (p,)), f.vjp(g, p)[1](g(p)))
        one, two, (_, three), (four,) = out
        return (one["a"]["x"], one["b"][0]["y"][0], two["a"]["y"][0], two["b"][0]["x"], three["a"], three["b"][0],
                four["x"], four["y"][0])

    same(scenario)


def test_what_requires_gradients():
    def scenario(m):
        x, t = pair(m)
        w = m.tensor(T, requires_grad=True)
        f = m.func
        results = [
            f.grad(poly)(x), f.grad(poly)(w), f.grad(lambda x: (x * w).sum())(x), f.vjp(m.sin, x)[0],
            f.vjp(m.sin, w)[1](x)[0], f.jvp(m.sin, (x,), (t,))[1], f.jvp(m.sin, (x,), (w,))[1], f.jvp(m.sin, (w,), (t,))[0],
            f.grad(lambda x: (f.grad(poly)(x) * x).sum())(x), f.jvp(f.grad(poly), (x,), (t,))[1],
            f.jacrev(lambda x: x * w[0])(x[0]), f.linearize(m.sin, x)[1](t),
        ]
        with m.no_grad():
            results += [f.grad(poly)(w), f.jvp(m.sin, (w,), (t,))[1], f.vjp(m.sin, w)[1](x)[0]]
        return [r.requires_grad for r in results]

    agree(scenario)


def test_gradients_reach_outer_leaves():
    def scenario(m):
        x, t = pair(m)
        w, v = m.tensor(T, requires_grad=True), m.tensor(X, requires_grad=True)
        f = m.func
        y = f.grad(lambda x: (x.exp() * w).sum())(v).sum() + f.jvp(lambda x: x * w * w, (v,), (t * w,))[1].sum()
        y.backward()
        return w.grad, v.grad

    same(scenario)


def test_training_loop_over_a_transform():
    """A loop that calls a transform goes on giving the right values while it is followed."""
    def scenario(m):
        w = m.tensor(X, requires_grad=True)
        seen = []
        for k in range(6):
            x = m.tensor(T + k)
            g = m.func.grad(lambda x: (x.sin() * w).sum())(x)
            loss = (g * g).sum()
            loss.backward()
            with m.no_grad():
                w -= 0.01 * w.grad
            w.grad = None
            seen.append(loss.detach())
        return seen

    same(scenario)


def test_steps_with_grad_are_followed():
    from fanal.core.engine.ledger import ledger

    def step(x):
        return fanal.func.grad(lambda x: (x.sin() * x).sum())(x).sum().item()

    xs = [fanal.tensor(X + k) for k in range(6)]
    values = [step(x) for x in xs[:3]]
    before = ledger.recorded
    values += [step(x) for x in xs[3:]]
    assert ledger.recorded == before
    np.testing.assert_allclose(values, [(np.sin(X + k) + np.cos(X + k) * (X + k)).sum() for k in range(6)])


ERRORS = {
    "not a scalar": (lambda m, f, x: f.grad(lambda x: x)(x), "Expected f(*args) to return a scalar Tensor, got tensor with"),
    "no tensor": (lambda m, f, x: f.grad(lambda x: 3)(x), "to return a Tensor, got"),
    "aux": (lambda m, f, x: f.grad(lambda x: x.sum(), has_aux=True)(x), "should be a tuple: (output, aux)"),
    "argnums": (lambda m, f, x: f.grad(poly, argnums=2)(x), "Got argnum=2, but only 1 positional inputs"),
    "argument": (lambda m, f, x: f.grad(poly)(3.0), "Thing passed to transform API must be Tensor"),
    "primals": (lambda m, f, x: f.jvp(poly, x, x), "Expected primals to be a tuple"),
    "tangents": (lambda m, f, x: f.jvp(poly, (x,), (x, x)), "to have the same python structure"),
    "size": (lambda m, f, x: f.jvp(poly, (x,), (x[:1],)), "has a different size than that of the original"),
    "strict": (lambda m, f, x: f.jvp(lambda x: m.ones(2), (x,), (x,), strict=True), "The output of f is independent"),
    "outputs": (lambda m, f, x: f.jvp(lambda x: (x, 1), (x,), (x,)), "expected f(*primals) to return only tensors"),
    "cotangents": (lambda m, f, x: f.vjp(lambda x: (x, x), x)[1](x), "Expected pytree structure of cotangents"),
    "linearized": (lambda m, f, x: f.linearize(poly, x)[1](x[0]), "in flattened pytree doesn't match the shape"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    f, words = ERRORS[case]
    agree(lambda m: f(m, m.func, m.tensor(X)), words)
