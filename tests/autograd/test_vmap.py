"""torch.func.vmap and what it is composed with, against PyTorch: values, random numbers, errors."""

from __future__ import annotations

import numpy as np
import pytest
from sides import agree, outcome

import fanal
from fanal.core.engine.ledger import ledger

NUMBERS = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)


def _x(m):
    return m.tensor(NUMBERS)


def _net(m, seed=0):
    m.manual_seed(seed)
    return m.nn.Sequential(
        m.nn.Conv2d(1, 4, 3, padding=1), m.nn.ReLU(), m.nn.MaxPool2d(2), m.nn.Flatten(), m.nn.Linear(16, 3)
    )


def _images(m):
    return m.tensor(np.random.default_rng(1).standard_normal((6, 1, 4, 4)).astype(np.float32))


DIMS = {
    "first": lambda m: m.func.vmap(lambda x: x.sin().sum())(_x(m)),
    "in and out": lambda m: m.func.vmap(lambda x: x.cumsum(0), in_dims=1, out_dims=-1)(_x(m)),
    "negative": lambda m: m.func.vmap(lambda x: x * 2, in_dims=-1)(_x(m)),
    "shared": lambda m: m.func.vmap(lambda x, y: x @ y, in_dims=(0, None))(_x(m), _x(m).T),
    "nested structure": lambda m: m.func.vmap(
        lambda d, s: d["a"] * d["b"][0] + s, in_dims=({"a": 0, "b": (None,)}, 1)
    )({"a": _x(m), "b": (_x(m)[0],)}, _x(m).T),
    "structured results": lambda m: m.func.vmap(
        lambda x: {"a": x, "b": (x.sum(), m.ones(2))}, out_dims={"a": 1, "b": (0, None)}
    )(_x(m)),
    "keyword arguments are shared": lambda m: m.func.vmap(lambda x, y: x + y)(_x(m), y=_x(m)),
    "same for all": lambda m: m.func.vmap(lambda x: m.arange(3))(_x(m)),
    "outer product": lambda m: m.func.vmap(
        m.func.vmap(lambda a, b: a.dot(b.sin()), in_dims=(0, None)), in_dims=(None, 1)
    )(_x(m), _x(m).T),
    "chunks": lambda m: m.vmap(lambda x: (x, x.sum()), chunk_size=2, out_dims=(1, 0))(_x(m)),
}


@pytest.mark.parametrize("name", DIMS)
def test_dimensions(name):
    agree(DIMS[name])


@pytest.mark.parametrize("shape", [(4, 3), (0, 3)])
def test_chunks_are_joined_as_the_whole_is_laid_out(shape):
    def f(x):
        return x * 2

    x = fanal.arange(12.0).reshape(4, 3)[:shape[0]]
    whole = fanal.vmap(f, out_dims=(1,))(x)
    chunks = fanal.vmap(f, out_dims=(1,), chunk_size=2)(x)
    assert chunks.shape == whole.shape == shape[::-1] and fanal.equal(chunks, whole)


def _in_place(m):
    def f(x):
        y = x.clone()
        y[0] = 5
        y[1:] += x[0]
        y.view(2, 2)[1].mul_(3)
        return y.relu_()

    return m.vmap(f)(_x(m))


def _written_operand(m):
    x = _x(m)
    m.vmap(lambda x: x.add_(1))(x)
    return x


OPERATORS = {
    "written in place": _in_place,
    "operand written in place": _written_operand,
    "advanced index": lambda m: m.vmap(lambda x: x[m.tensor([2, -1])])(_x(m)),
    "index of each example": lambda m: m.vmap(lambda x, i: x[i])(_x(m), _x(m).argsort(1)),
    "index of each example, shared values": lambda m: m.vmap(lambda i: _x(m)[:, i])(_x(m).argsort(1)),
    "scatter": lambda m: m.vmap(lambda x: m.zeros_like(x).scatter_add(0, x.argsort(), x))(_x(m)),
    "embedding": lambda m: m.vmap(m.nn.functional.embedding, in_dims=(0, None))(_x(m).argsort(1), _x(m)),
    "attention": lambda m: m.vmap(
        lambda q: m.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
    )(_images(m)[None].expand(3, 6, 1, 4, 4).mul(m.arange(1.0, 4).reshape(3, 1, 1, 1, 1))),
    "linear algebra": lambda m: m.vmap(lambda a: (m.linalg.inv(a), m.linalg.det(a), m.linalg.svdvals(a)))(
        _images(m)[:, 0]
    ),
    "batch norm in eval": lambda m: m.vmap(m.nn.BatchNorm2d(1).eval())(_images(m)[None]),
    "batch norm of a batch alone": lambda m: m.vmap(
        m.func.replace_all_batch_norm_modules_(m.nn.Sequential(m.nn.BatchNorm2d(1)))
    )(_images(m)[None]),
    "layer norm": lambda m: m.vmap(lambda x: m.nn.functional.layer_norm(x, (4,)))(_x(m)),
    "host function": lambda m: m.vmap(lambda x: m.searchsorted(x.sort().values, x))(_x(m)),
    "maximum": lambda m: m.vmap(lambda x: tuple(x.max(0)), in_dims=1)(_x(m)),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_operators(name):
    agree(OPERATORS[name])


def _per_sample(m):
    net, labels = _net(m), m.arange(6) % 3
    params = {k: v.detach() for k, v in net.named_parameters()}

    def loss(p, x, y):
        return m.nn.functional.cross_entropy(m.func.functional_call(net, p, (x[None],)), y[None])

    return m.func.vmap(m.func.grad_and_value(loss), in_dims=(None, 0, 0))(params, _images(m), labels)


def _ensemble(m):
    nets = [_net(m, seed) for seed in range(3)]
    params, buffers = m.func.stack_module_state(nets)

    def call(p, b, x):
        return m.func.functional_call(nets[0], (p, b), (x,))

    y = m.func.vmap(call, in_dims=(0, 0, None))(params, buffers, _images(m))
    y.square().mean().backward()
    return y, {k: v.grad for k, v in params.items()}


def _closed_over(m):
    w = m.ones(4, requires_grad=True)
    g = m.vmap(m.func.grad(lambda x: (w * x.square()).sum()))(_x(m))
    return g, m.autograd.grad(g.sum(), w), m.func.grad(lambda x: x.sum())(_x(m)).requires_grad


DERIVATIVES = {
    "per-sample gradients": _per_sample,
    "ensemble": _ensemble,
    "what is closed over has gradients": _closed_over,
    "gradient of a mapped function": lambda m: m.func.grad(
        lambda w: m.vmap(lambda x: m.softmax(w * x, 0).log().sigmoid().sum())(_x(m)).sum()
    )(m.ones(4)),
    "gradient of a mapped attention": lambda m: m.func.grad(
        lambda q: m.vmap(lambda q: m.nn.functional.scaled_dot_product_attention(q, q, q))(q).square().sum()
    )(_images(m)[None]),
    "jacobian": lambda m: m.func.jacrev(lambda x, y: (x.tanh() @ y, x.sum()), argnums=(0, 1))(_x(m), _x(m).T),
    "jacobian in chunks": lambda m: m.func.jacrev(lambda x: x.sin().outer(x), chunk_size=3)(_x(m)[0]),
    "jacobian and more": lambda m: m.func.jacrev(lambda d: (d["a"] ** 3, d["a"]), has_aux=True)({"a": _x(m)[0]}),
    "jacobians": lambda m: m.vmap(m.func.jacrev(lambda x: x.softmax(0)))(_x(m)),
    "hessians": lambda m: m.vmap(m.func.hessian(lambda x: x.prod()))(_x(m)),
    "hessian-vector product": lambda m: m.func.vjp(m.func.grad(lambda x: x.cos().prod()), _x(m)[0])[1](_x(m)[1]),
    "vjp of each": lambda m: m.vmap(lambda x, v: m.func.vjp(lambda x: {"a": x.exp()}, x)[1]({"a": v}))(_x(m), _x(m)),
    "batched cotangents": lambda m: m.func.vjp(lambda x: x.sigmoid(), _x(m)[0])[1] and m.vmap(
        m.func.vjp(lambda x: x.sigmoid(), _x(m)[0])[1])(m.eye(4)),
    "third derivative": lambda m: m.vmap(m.func.grad(m.func.grad(m.func.grad(m.sin))))(_x(m)[0]),
}


@pytest.mark.parametrize("name", DERIVATIVES)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_derivatives(name):
    agree(DERIVATIVES[name])


DRAWS = {
    "rand": lambda m, x: x + m.rand(4),
    "randn": lambda m, x: m.randn(3, 4),
    "randint": lambda m, x: m.randint(0, 9, (3,)),
    "randperm": lambda m, x: m.randperm(5),
    "rand_like": lambda m, x: m.rand_like(x),
    "normal_": lambda m, x: x.clone().normal_(),
    "nested": lambda m, x: m.vmap(lambda x: x + m.rand(2), randomness="different")(x),
}


@pytest.mark.parametrize("mode", ["different", "same"])
def test_random_numbers_are_those_of_pytorch(mode):
    def scenario(m):
        m.manual_seed(3)
        found = [m.vmap(lambda x, f=f: f(m, x), randomness=mode)(_x(m)) for f in DRAWS.values()]
        return [*found, m.vmap(lambda x: x + m.rand(4), randomness=mode, chunk_size=2)(_x(m))]

    agree(scenario)


def test_distributions_of_each_example():
    def scenario(m):
        m.manual_seed(3)
        f = lambda x: (m.bernoulli(x.sigmoid()), m.normal(x, x.exp()), m.multinomial(x.exp(), 2))
        return m.vmap(f, randomness="different")(_x(m))

    agree(scenario)


def test_dropout_drops_for_each_or_for_all():
    def dropped(mode):
        f = lambda x: fanal.nn.functional.dropout(fanal.ones(200), 0.5) + 0 * x.sum()
        return fanal.vmap(f, randomness=mode)(_x(fanal))

    apart, together = dropped("different"), dropped("same")
    assert not (apart[0] == apart[1]).all() and (together[0] == together[1]).all()


ERRORS = {
    "item": (lambda m, x: x.sum().item(), "vmap: It looks like you're calling .item() on a Tensor"),
    "control flow": (lambda m, x: x if x.sum() > 0 else -x, "data-dependent control flow"),
    "nonzero": (lambda m, x: x.nonzero(), "We do not support batching operators that can output dynamic shape"),
    "random": (lambda m, x: x + m.rand(4), "vmap: called random operation while in randomness error mode"),
    "no tensor": (lambda m, x: (x, "a"), "must only return Tensors, got type <class 'str'>"),
    "backward": (lambda m, x: (m.ones(4, requires_grad=True) * x).sum().backward(), "backward() called inside a functorch"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_of_the_function(name):
    f, text = ERRORS[name]
    agree(lambda m: m.vmap(lambda x: f(m, x))(_x(m)), text)


def test_writing_what_all_share():
    def scenario(m):
        shared = m.zeros(4)
        return m.vmap(lambda x: shared.__setitem__(0, x[0]))(_x(m))

    agree(scenario, "inplace arithmetic(self, *extra_args) is not possible")


CALLS = {
    "sizes": (lambda m: m.vmap(lambda x, y: x)(_x(m), m.ones(2)), "the same size in the mapped dimension, got sizes [5, 2]"),
    "structure": (lambda m: m.vmap(lambda x, y: x, in_dims=(0,))(_x(m), _x(m)), "in_dims is not compatible with the structure"),
    "in_dims": (lambda m: m.vmap(lambda x: x, in_dims=[0])(_x(m)), "expected `in_dims` to be int or a (potentially nested) tuple"),
    "float": (lambda m: m.vmap(lambda x: x, in_dims=(0.5,))(_x(m)), "in_dim must be either an integer dimension or None"),
    "range": (lambda m: m.vmap(lambda x: x, in_dims=2)(_x(m)), "Got in_dim=2 for some input, but that input is a Tensor of dimensionality 2"),
    "number": (lambda m: m.vmap(lambda x, y: x)(_x(m), 3), "We cannot vmap over non-Tensor arguments"),
    "nothing": (lambda m: m.vmap(lambda: 0)(), "got no inputs"),
    "out None": (lambda m: m.vmap(lambda x: x, out_dims=None)(_x(m)), "can not return a BatchedTensor when out_dim is None"),
    "out structure": (lambda m: m.vmap(lambda x: (x, x), out_dims=(0, 0, 0))(_x(m)), "out_dims is not compatible"),
    "out range": (lambda m: m.vmap(lambda x: x, out_dims=3)(_x(m)), "Dimension out of range"),
    "chunk": (lambda m: m.vmap(lambda x: x, chunk_size=0)(_x(m)), "chunk_size should be None or greater than 0"),
    "randomness": (lambda m: m.vmap(lambda x: x, randomness="x")(_x(m)), "Only allowed values for randomness"),
    "no scalar": (lambda m: m.func.grad(lambda x: x)(_x(m)), "Expected f(*args) to return a scalar"),
    "argnum": (lambda m: m.func.grad(lambda x: x.sum(), argnums=2)(_x(m)), "Got argnum=2, but only 1 positional inputs"),
    "cotangents": (lambda m: m.func.vjp(lambda x: (x, x), _x(m))[1](_x(m)), "Expected pytree structure of cotangents"),
    "models": (lambda m: m.func.stack_module_state([]), "Expected at least one model, got 0."),
}


@pytest.mark.parametrize("name", CALLS)
def test_errors_of_the_call(name):
    agree(*CALLS[name])


def test_an_error_ends_the_level():
    for _ in range(3):
        assert isinstance(outcome(lambda m: m.vmap(lambda x: x[9])(_x(m)), fanal), IndexError)
        agree(lambda m: m.vmap(lambda x: x * 2)(_x(m)))


def test_a_singular_matrix_among_others():
    a = fanal.eye(2).repeat(3, 1, 1)
    a[1, 0, 0] = 0
    with pytest.raises(fanal.linalg.LinAlgError, match=r"linalg.inv: \(Batch element 1\): The diagonal element 1 is zero"):
        fanal.vmap(fanal.linalg.inv)(a)


def test_an_escaped_tensor_has_no_value():
    kept = []
    fanal.vmap(lambda x: (kept.append(x * 2), x)[1])(_x(fanal))
    other = fanal.ones(3) * 2
    with pytest.raises(RuntimeError, match="escaped from inside a function being vmapped"):
        kept[0].tolist()
    assert other.tolist() == [2, 2, 2]


def test_printing_shows_all_examples():
    def scenario(m):
        seen = []
        m.vmap(m.vmap(lambda x: (seen.append(repr(x)), x)[1]))(_x(m))
        m.vmap(lambda x: (seen.append(repr(x.sum())), x)[1])(_x(m))
        return seen

    agree(scenario)


def test_mapped_functions_are_followed():
    linear = fanal.nn.Linear(4, 2)
    params = {k: v.detach() for k, v in linear.named_parameters()}
    x = _x(fanal)

    def call(p, x):
        return fanal.func.functional_call(linear, p, (x,)).square().sum()

    def training():
        loss = fanal.vmap(lambda x: linear(x).square().sum())(x).mean()
        loss.backward()
        return loss.item()

    steps = (
        lambda: fanal.vmap(fanal.func.grad(call), in_dims=(None, 0))(params, x)["weight"].sum().item(),
        lambda: fanal.func.jacrev(lambda x: x.sin())(x[0]).sum().item(),
        lambda: fanal.vmap(lambda x: x + 0 * fanal.rand(4), randomness="different")(x).sum().item(),
        training,
    )
    for step in steps:
        first = step()
        for _ in range(3):
            step()
        before = ledger.recorded
        assert step() == pytest.approx(first, rel=1e-6) and ledger.recorded == before


def test_a_branch_inside_is_recorded_after_the_fact():
    """What was followed inside a mapped function is recorded when it takes another way, with the same draws to come."""
    x = _x(fanal)

    def step(double):
        def f(x):
            y = fanal.nn.functional.dropout(x, 0.5) * 0 + x.sin()
            return y * 2 if double else y + 1

        return fanal.vmap(f, randomness="different")(x)

    for double in (False, False, False, True, False, True, True):
        want = np.sin(NUMBERS) * 2 if double else np.sin(NUMBERS) + 1
        np.testing.assert_allclose(step(double).numpy(), want, rtol=1e-6)


def test_a_value_of_all_read_inside():
    x, shared = _x(fanal), fanal.arange(4.0)
    for _ in range(4):
        got = fanal.vmap(lambda x: x * float((shared * 2).sum().item()) + shared)(x)
        np.testing.assert_allclose(got.numpy(), NUMBERS * 12 + np.arange(4), rtol=1e-6)
