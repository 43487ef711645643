"""Numeric checks, derivatives of functions, anomaly detection, checkpoints."""

from __future__ import annotations

import pytest
from sides import agree

import fanal


def cubes(m):
    f = m.autograd.functional
    x = m.tensor([1.0, 2.0])

    def cube(x):
        return x**3

    return (
        f.jacobian(cube, x),
        f.hessian(lambda x: (x**3).sum(), x),
        f.vjp(cube, x, m.ones(2)),
        f.jvp(cube, x, m.tensor([1.0, 0.5])),
        f.hvp(lambda x: (x**3).sum(), x, m.ones(2)),
        f.vhp(lambda x: (x**3).sum(), x, m.ones(2)),
    )


def several_inputs(m):
    f = m.autograd.functional
    a, b = m.tensor([1.0, 2.0]), m.tensor([[3.0, 4.0]])

    def g(a, b):
        return a * b.sum(), (a * b).sum()

    return (
        f.jacobian(g, (a, b)),
        f.hessian(lambda a, b: (a * a * b).sum(), (a, b)),
        f.jvp(g, (a, b), (a, b)),
        f.vjp(g, (a, b), (a, m.tensor(2.0))),
    )


def jacobian_keeps_graph(m):
    x = m.tensor([1.0, 2.0], requires_grad=True)
    j = m.autograd.functional.jacobian(lambda x: x**3, x, create_graph=True)
    return j, m.autograd.grad(j.sum(), x)


def transforms(m):
    f = m.func
    x = m.tensor([1.0, 2.0])

    def loss(x, k=2.0):
        return (x**3).sum() * k

    out, back = f.vjp(lambda x: x.sin(), x)
    return (
        f.grad(loss)(x),
        f.grad_and_value(loss)(x),
        f.grad(f.grad(lambda s: s**4))(m.tensor(2.0)),
        out,
        back(x),
        f.jacrev(lambda x: x * x)(x),
        f.hessian(loss)(x),
        f.grad(lambda a, b: (a * b).sum(), argnums=(0, 1))(x, x + 1),
    )


def gradient_of_dictionary(m):
    return m.func.grad(lambda p: (p["a"] * p["b"]).sum())({"a": m.ones(2), "b": m.full((2,), 3.0)})


def anomaly(m):
    import warnings

    x = m.tensor([0.0], requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with m.autograd.detect_anomaly():
            (x.sqrt() * 0).sum().backward()


def anomaly_off(m):
    import warnings

    x = m.tensor([0.0], requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with m.autograd.set_detect_anomaly(False):
            (x.sqrt() * 0).sum().backward()
    return x.grad, m.is_anomaly_enabled()


def _checkpointed(m, reentrant):
    from importlib import import_module

    checkpoint = import_module(f"{m.__name__}.utils.checkpoint").checkpoint
    m.manual_seed(0)
    a, b = m.nn.Linear(3, 4), m.nn.Linear(4, 2)
    x, seen, calls = m.ones(2, 3, requires_grad=True), [], []

    def part(x, k):
        calls.append(1)
        return m.tanh(a(x)) * k, x.sum()

    for _ in range(3):
        h, s = checkpoint(part, x, 2.0, use_reentrant=reentrant)
        loss = b(h).pow(2).sum() + s
        loss.backward()
        seen.append(
            (
                loss.item(),
                x.grad.tolist(),
                a.weight.grad.tolist(),
                a.bias.grad.tolist(),
                b.weight.grad.tolist(),
            )
        )
        with m.no_grad():
            for p in (*a.parameters(), *b.parameters()):
                p -= 0.1 * p.grad
                p.grad = None
            x.grad = None
    return seen, len(calls)


def checkpoint_plain(m):
    return _checkpointed(m, False)


def checkpoint_reentrant(m):
    return _checkpointed(m, True)


def checkpoint_random(m):
    from importlib import import_module

    checkpoint = import_module(f"{m.__name__}.utils.checkpoint").checkpoint
    found = []
    for reentrant in (False, True):
        m.manual_seed(3)
        x = m.ones(4, requires_grad=True)
        noise = []

        def part(x, noise=noise):
            noise.append(m.rand(4))
            return x * noise[-1]

        checkpoint(part, x, use_reentrant=reentrant).sum().backward()
        found.append((x.grad, noise[0].tolist() == noise[1].tolist(), m.rand(1)))
    return found


def checkpoint_sequence(m):
    from importlib import import_module

    sequential = import_module(f"{m.__name__}.utils.checkpoint").checkpoint_sequential
    m.manual_seed(0)
    net = m.nn.Sequential(m.nn.Linear(2, 2), m.nn.Tanh(), m.nn.Linear(2, 2), m.nn.Tanh())
    x = m.ones(1, 2, requires_grad=True)
    sequential(net, 2, x, use_reentrant=False).sum().backward()
    return x.grad, [p.grad for p in net.parameters()]


def smooth(m):
    """First and second derivatives of smooth functions."""
    found = []
    for name in (
        "exp",
        "expm1",
        "log",
        "log1p",
        "log2",
        "sqrt",
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
        "asinh",
        "atanh",
        "sigmoid",
        "erf",
        "erfc",
        "rsqrt",
        "reciprocal",
        "square",
        "erfinv",
    ):
        x = m.tensor([0.3, 0.7], dtype=m.float64, requires_grad=True)
        y = getattr(m, name)(x)
        (g,) = m.autograd.grad(y.sum(), x, create_graph=True)
        (h,) = m.autograd.grad((g * g).sum(), x, allow_unused=True) if g.requires_grad else (None,)
        found.append((name, y, g, h))
    return found


@pytest.mark.parametrize(
    "scenario",
    [
        cubes,
        several_inputs,
        jacobian_keeps_graph,
        transforms,
        gradient_of_dictionary,
        anomaly_off,
        checkpoint_plain,
        checkpoint_reentrant,
        checkpoint_random,
        checkpoint_sequence,
        smooth,
    ],
    ids=lambda f: f.__name__,
)
def test_values(scenario):
    agree(scenario)


def test_anomaly():
    agree(anomaly, "Function 'SqrtBackward0' returned nan values in its 0th output.")


def test_gradcheck():
    x = fanal.tensor([0.3, -0.8], dtype=fanal.float64, requires_grad=True)
    y = fanal.tensor([[1.5], [0.4]], dtype=fanal.float64, requires_grad=True)
    assert fanal.autograd.gradcheck(lambda a, b: (a * b).exp() @ b, (x, y))
    assert fanal.autograd.gradgradcheck(lambda a, b: (a * b).exp() / b, (x, y))
    z = fanal.tensor([0.3 + 1j, -0.8 - 0.2j], dtype=fanal.complex128, requires_grad=True)
    assert fanal.autograd.gradcheck(lambda z: z * z.conj() * z, (z,))
    assert fanal.autograd.gradcheck(lambda z: (z * z).abs(), (z,))


def test_gradcheck_finds_a_wrong_gradient():
    class Wrong(fanal.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 3

        @staticmethod
        def backward(ctx, g):
            return g * 2

    x = fanal.tensor([0.3, -0.8], dtype=fanal.float64, requires_grad=True)
    assert not fanal.autograd.gradcheck(Wrong.apply, (x,), raise_exception=False)
    with pytest.raises(fanal.autograd.GradcheckError, match="Jacobian mismatch"):
        fanal.autograd.gradcheck(Wrong.apply, (x,))


def test_what_is_missing_says_so():
    with pytest.raises(AttributeError, match="planned"):
        _ = fanal.autograd.set_multithreading_enabled
