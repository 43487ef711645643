"""gradcheck and autograd.functional, side by side with PyTorch."""

from __future__ import annotations

import pytest
from sides import agree

import fanal.autograd.forward_ad


def point(m, complex_=False):
    x = m.tensor([0.6, -1.1], dtype=m.float64)
    return (m.complex(x, x.flip(0)) if complex_ else x).requires_grad_()


def bad(m, backward=2.0, jvp=2.0):
    class Bad(m.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * backward

        @staticmethod
        def jvp(ctx, t):
            return t * jvp

    return Bad.apply


def noisy(m):
    calls = []

    class Noisy(m.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            calls.append(1)
            return g * (2 + 1e-6 * len(calls))

    return Noisy.apply


def nothing_gives_one(m):
    class Two(m.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.set_materialize_grads(False)
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, g, h):
            arrived = [t * k for t, k in ((g, 2), (h, 3)) if t is not None]
            return sum(arrived) if arrived and (len(arrived) == 2 or arrived[0].any()) else m.ones(2, dtype=m.float64)

    return Two.apply


def constant(m):
    class Constant(m.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * 2 if g.any() else g + 1

    return Constant.apply


GRADCHECKS = {
    "backward": lambda m, c: c(lambda x: x.sin() * x, (point(m),)),
    "fast": lambda m, c: c(lambda x: x.sin() * x, (point(m),), fast_mode=True),
    "forward": lambda m, c: c(lambda x: (x.sin(), x.sum()), (point(m),), check_forward_ad=True),
    "forward, fast": lambda m, c: c(lambda x: x.exp(), (point(m),), check_forward_ad=True, fast_mode=True),
    "complex": lambda m, c: c(lambda z: (z.abs() * z, z.real), (point(m, True),), check_forward_ad=True),
    "complex, fast": lambda m, c: c(lambda z: z.abs() * z, (point(m, True),), check_forward_ad=True, fast_mode=True),
    "two inputs": lambda m, c: c(lambda x, y, k: x * y.exp() * k, (point(m), point(m), 3.0)),
    "batched": lambda m, c: c(lambda x: x.exp(), (point(m),), check_batched_grad=True),
    "second": lambda m, c: m.autograd.gradgradcheck(lambda x: x.sin() * x, (point(m),)),
    "second, complex": lambda m, c: m.autograd.gradgradcheck(lambda z: z * z.conj() * z, (point(m, True),)),
    "second, forward": lambda m, c: m.autograd.gradgradcheck(lambda x: x.sin(), (point(m),), check_fwd_over_rev=True,
                                                             gen_non_contig_grad_outputs=True),
    "constant": lambda m, c: c(lambda x: m.ones(2), (point(m),)),
    "nothing": lambda m, c: c(lambda x: x[:0], (point(m),)),
    "wrong, told": lambda m, c: c(bad(m, 3.0), (point(m),), raise_exception=False),
}
WRONG = {
    "backward": (lambda m, c: c(bad(m, 3.0), (point(m),)), "Jacobian mismatch for output 0 with respect to input 0"),
    "fast": (lambda m, c: c(bad(m, 3.0), (point(m),), fast_mode=True), "in fast mode"),
    "forward": (lambda m, c: c(bad(m, 2.0, 4.0), (point(m),), check_forward_ad=True),
                "Jacobian computed with forward mode mismatch for output 0 with respect to input 0"),
    "complex": (lambda m, c: c(lambda z: z.abs() * z.detach(), (point(m, True),)), "part of complex outputs only"),
    "detached": (lambda m, c: c(lambda x: x.detach() * 2, (point(m),)), "Numerical gradient for function expected to be zero"),
    "second": (lambda m, c: m.autograd.gradgradcheck(lambda x: x.sin() * x.detach(), (point(m),)), "Jacobian mismatch"),
    "noise": (lambda m, c: c(noisy(m), (point(m),)), "Backward is not reentrant"),
    "undefined": (lambda m, c: c(nothing_gives_one(m), (point(m),)), "undefined or zero"),
    "constant gradient": (lambda m, c: c(constant(m), (point(m),)), "backward not multiplied by grad_output"),
    "no input": (lambda m, c: c(lambda x: x, (m.ones(2),)), "at least one input tensor to require gradient"),
    "stride 0": (lambda m, c: c(lambda x: x.sin(), (point(m).expand(2, 2),)), "dimension with stride 0"),
}


@pytest.mark.parametrize("name", GRADCHECKS)
def test_gradcheck(name):
    agree(lambda m: GRADCHECKS[name](m, m.autograd.gradcheck))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WRONG)
def test_gradcheck_raises(name):
    f, words = WRONG[name]

    def scenario(m):
        try:
            return f(m, m.autograd.gradcheck)
        except m.autograd.gradcheck.__globals__["GradcheckError"] as e:  # on each side a class of its own
            raise RuntimeError(str(e)) from None

    agree(scenario, words)


@pytest.mark.parametrize("options", [{"check_backward_ad": False}, {"check_batched_forward_grad": True}])
def test_gradcheck_options(options):
    import torch

    for m in (torch, fanal):
        with pytest.raises(AssertionError, match="check_forward_ad"):
            m.autograd.gradcheck(lambda x: x, (point(m),), **options)


def total(x):
    return x.exp().sum()


FUNCTIONAL = {
    "forward jacobian": lambda F, x: F.jacobian(lambda x: x * x.sum(), x, vectorize=True, strategy="forward-mode"),
    "of two": lambda F, x: F.jacobian(lambda x, y: (x * y, x.sum()), (x, x), vectorize=True, strategy="forward-mode"),
    "vectorized": lambda F, x: F.jacobian(lambda x: x * x.sum(), x, vectorize=True),
    "forward hessian": lambda F, x: F.hessian(total, x, vectorize=True, outer_jacobian_strategy="forward-mode"),
    "hessian of two": lambda F, x: F.hessian(lambda x, y: (x * y).sum(), (x, x), vectorize=True,
                                             outer_jacobian_strategy="forward-mode"),
    "jvp": lambda F, x: F.jvp(lambda x: (x * x, x.sum()), x, x, strict=True),
    "hvp": lambda F, x: F.hvp(total, x, x, strict=True),
    "vhp": lambda F, x: F.vhp(lambda x, y: (x * y * y).sum(), (x, x), (x, x)),
}
STRICT = {
    "strict forward": (lambda F, x: F.jacobian(total, x, strict=True, vectorize=True, strategy="forward-mode"),
                       'and `strategy="forward-mode"` are not supported together'),
    "graph forward": (lambda F, x: F.jacobian(total, x, create_graph=True, vectorize=True, strategy="forward-mode"),
                      '`create_graph=True` and `strategy="forward-mode"`'),
    "strict vectorized": (lambda F, x: F.hessian(total, x, strict=True, vectorize=True), "`vectorized=True`"),
    "not vectorized": (lambda F, x: F.jacobian(total, x, strategy="forward-mode"), "implemented for `vectorize=True`"),
    "constant": (lambda F, x: F.jacobian(lambda x: x.detach(), x, strict=True), "does not require gradients"),
    "unused": (lambda F, x: F.vjp(lambda x, y: x * x, (x, x), x, strict=True), "user-provided function is independent of input 1"),
    "linear": (lambda F, x: F.hvp(lambda x: x.sum(), x, x, strict=True), "found that the jacobian of the user-provided"),
    "linear graph": (lambda F, x: F.jacobian(lambda x: x * 2, x, strict=True, create_graph=True),
                     "is independent of input 0. This is not allowed in strict mode when create_graph=True"),
    "v": (lambda F, x: F.jvp(total, x, (x, x)), "The given v should contain a single Tensor"),
    "size of v": (lambda F, x: F.vhp(total, x, x[:1]), "v has invalid size"),
    "no v": (lambda F, x: F.vjp(lambda x: x, x), "The vector v can only be None if"),
    "inputs": (lambda F, x: F.hvp(total, 3, x), "given to hvp must be either a Tensor or a tuple of Tensors"),
}


@pytest.mark.parametrize("name", FUNCTIONAL)
def test_functional(name):
    agree(lambda m: FUNCTIONAL[name](m.autograd.functional, m.tensor([0.6, -1.1])))


@pytest.mark.parametrize("name", STRICT)
def test_functional_raises(name):
    f, words = STRICT[name]
    agree(lambda m: f(m.autograd.functional, m.tensor([0.6, -1.1])), words)
