"""Optimizers against PyTorch: parameters, state dicts, files, errors, and how a step runs."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch

import fanal

CASES = [
    ("SGD", {"lr": 0.01}),
    ("SGD", {"lr": 0.01, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True, "maximize": True}),
    ("Adam", {"lr": 0.1}),
    ("Adam", {"lr": 0.1, "amsgrad": True, "weight_decay": 0.1, "maximize": True}),
    ("Adam", {"lr": 0.1, "foreach": True}),
    ("AdamW", {"lr": 0.1, "betas": (0.3, 0.9)}),
    ("RMSprop", {}),
    ("RMSprop", {"centered": True, "momentum": 0.9, "weight_decay": 0.1}),
    ("Adagrad", {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.2}),
    ("Adadelta", {"weight_decay": 0.1, "lr": 0.5}),
    ("Adamax", {"weight_decay": 0.1}),
    ("NAdam", {"weight_decay": 0.1}),
    ("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {"weight_decay": 0.1}),
    ("RAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("ASGD", {"weight_decay": 0.1, "t0": 3}),
    ("Rprop", {}),
    ("Adafactor", {"weight_decay": 0.1}),
    ("Muon", {}),
    ("LBFGS", {"max_iter": 4}),
    ("LBFGS", {"max_iter": 4, "line_search_fn": "strong_wolfe"}),
]


def problem(m, dtype="float64", only_matrix=False):
    """Return the parameters and the closure of a regression, the same on both sides."""
    rng = np.random.default_rng(0)
    x, y, w, b = (
        m.tensor(rng.normal(size=s), dtype=getattr(m, dtype)) for s in ((8, 4), (8, 3), (4, 3), (3,))
    )
    params = [w] if only_matrix else [w, b]
    for p in params:
        p.requires_grad_(True)
    return params, lambda: ((x.unsqueeze(-1) * w).sum(1) + b - y).square().sum()


def train(m, name, kwargs, steps=8, dtype="float64"):
    params, loss = problem(m, dtype, name == "Muon")
    optimizer = getattr(m.optim, name)(params, **kwargs)

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    for _ in range(steps):
        optimizer.step(closure)
    return params, optimizer


def values(t):
    return np.asarray(t.detach().tolist())


def same_tree(a, b, rtol, atol):
    """Compare state dicts: keys in order, tensors by value."""
    if isinstance(a, torch.Tensor):
        np.testing.assert_allclose(values(b), values(a), rtol, atol)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for k in a:
            same_tree(a[k], b[k], rtol, atol)
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for p, q in zip(a, b):
            same_tree(p, q, rtol, atol)
    elif isinstance(a, float):
        assert b == pytest.approx(a, rel=1e-6, abs=1e-9)
    else:
        assert a == b


@pytest.mark.parametrize(("name", "kwargs"), CASES)
def test_parameters_and_state(name, kwargs):
    tol = 2e-2 if name == "Muon" else 1e-6  # Muon computes in bfloat16
    theirs, a = train(torch, name, kwargs)
    ours, b = train(fanal, name, kwargs)
    for p, q in zip(theirs, ours):
        np.testing.assert_allclose(values(q), values(p), tol, tol)
    same_tree(a.state_dict(), b.state_dict(), tol, tol)
    assert repr(a) == repr(b)


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop"])
def test_float32_agrees_to_rounding(name):
    kwargs = {"lr": 0.01, "momentum": 0.9} if name == "SGD" else {"lr": 0.01}
    theirs, ours = (
        train(torch, name, kwargs, dtype="float32")[0],
        train(fanal, name, kwargs, dtype="float32")[0],
    )
    for p, q in zip(theirs, ours):
        np.testing.assert_allclose(values(q), values(p), 1e-5, 1e-6)


@pytest.mark.parametrize("name", ["SGD", "Adam", "NAdam", "ASGD"])
def test_resuming_from_torchs_state(name):
    kwargs = {"lr": 0.01, "momentum": 0.9} if name == "SGD" else {"lr": 0.01}
    theirs, a = train(torch, name, kwargs, steps=4)
    ours, loss = problem(fanal)
    b = getattr(fanal.optim, name)(ours, **kwargs)
    convert = lambda x: fanal.tensor(x.detach().numpy().copy()) if isinstance(x, torch.Tensor) else x
    state = {k: {n: convert(v) for n, v in s.items()} for k, s in a.state_dict()["state"].items()}
    b.load_state_dict({"state": state, "param_groups": copy.deepcopy(a.state_dict()["param_groups"])})
    with fanal.no_grad():
        for p, q in zip(theirs, ours):
            q.copy_(convert(p))
    _, their_loss = problem(torch)
    for p, q in zip(theirs, ours):
        p.grad, q.grad = torch.ones_like(p), fanal.ones_like(q)
    a.step()
    b.step()
    assert their_loss is not None and loss is not None
    for p, q in zip(theirs, ours):
        np.testing.assert_allclose(values(q), values(p), 1e-10)


def test_groups_and_learning_rate_as_tensor():
    out = []
    for m in (torch, fanal):
        (w, b), loss = problem(m)
        o = m.optim.Adam([{"params": [w], "lr": m.tensor(0.2)}, {"params": [b], "weight_decay": 0.1}], lr=0.1)
        for _ in range(5):
            o.zero_grad()
            loss().backward()
            o.step()
        out.append([values(w), values(b)])
    for p, q in zip(*out):
        np.testing.assert_allclose(q, p, 1e-6)


def test_complex_parameters():
    out = []
    for m in (torch, fanal):
        w = m.tensor(np.array([1 + 2j, -3j, 0.5]), requires_grad=True)
        o = m.optim.Adam([w], lr=0.1)
        for _ in range(3):
            w.grad = m.tensor(np.array([1 - 1j, 2.0, 1j]))
            o.step()
        out.append(values(w))
    np.testing.assert_allclose(out[1], out[0], 1e-12)


def test_a_parameter_without_gradient_stays():
    (w, b), _ = problem(fanal)
    o = fanal.optim.Adam([w, b])
    before = values(b)
    w.grad = fanal.ones_like(w)
    o.step()
    assert (values(b) == before).all() and set(o.state) == {w}


def test_hooks_and_closure():
    (w, b), _ = problem(fanal)
    o, seen = fanal.optim.SGD([w, b], lr=0.1), []
    handle = o.register_step_pre_hook(lambda *a: seen.append("before"))
    o.register_step_post_hook(lambda *a: seen.append("after"))
    assert o.step(lambda: seen.append(fanal.is_grad_enabled()) or 7) == 7
    handle.remove()
    o.step()
    assert seen == ["before", True, "after", "after"]


def test_pickle_and_deepcopy():
    params, o = train(fanal, "Adam", {"lr": 0.1}, steps=2)
    again = pickle.loads(pickle.dumps(o))
    assert again.state_dict()["param_groups"] == o.state_dict()["param_groups"]
    other = copy.deepcopy(o)
    assert len(other.state) == len(o.state) == len(params)
    other.step()


def test_optimizers_of_users():
    class Plain(fanal.optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        def step(self, closure=None):
            with fanal.no_grad():
                for group in self.param_groups:
                    for p in group["params"]:
                        p.add_(p.grad, alpha=-group["lr"])

    w = fanal.tensor([1.0, 2.0], requires_grad=True)
    o, calls = Plain([w], 0.5), []
    o.register_step_post_hook(lambda *a: calls.append(1))
    w.grad = fanal.tensor([1.0, 1.0])
    o.step()
    assert w.tolist() == [0.5, 1.5] and calls == [1]


ERRORS = [
    lambda m: m.optim.SGD(m.zeros(2), lr=0.1),
    lambda m: m.optim.SGD([], lr=0.1),
    lambda m: m.optim.SGD([m.zeros(2)], lr=-1.0),
    lambda m: m.optim.SGD([m.zeros(2)], lr=0.1, nesterov=True),
    lambda m: m.optim.SGD([m.zeros(2, requires_grad=True) * 2], lr=0.1),
    lambda m: m.optim.SGD([3], lr=0.1),
    lambda m: m.optim.SGD([("a", m.zeros(2)), m.zeros(2)], lr=0.1),
    lambda m: m.optim.Adam([m.zeros(2)], betas=(1.0, 0.9)),
    lambda m: m.optim.Adam([m.zeros(2)], fused=True, foreach=True),
    lambda m: m.optim.Adam([m.zeros(2)], lr=m.tensor(0.1), foreach=True),
    lambda m: m.optim.RMSprop([m.zeros(2)], alpha=-1.0),
    lambda m: m.optim.Muon([m.zeros(2)]),
    lambda m: m.optim.Adam([m.zeros(2)]).load_state_dict({"state": {}, "param_groups": []}),
]


@pytest.mark.parametrize("make", ERRORS)
def test_errors(make):
    with pytest.raises(Exception) as theirs:
        make(torch)
    with pytest.raises(type(theirs.value)) as ours:
        make(fanal)
    assert str(ours.value) == str(theirs.value)


def test_duplicate_parameters_warn():
    w = fanal.zeros(2, requires_grad=True)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        fanal.optim.SGD([w, w], lr=0.1)
    assert len(seen) == 1 and "duplicate parameters" in str(seen[0].message)
    with pytest.raises(ValueError, match="more than one parameter group"):
        fanal.optim.SGD([{"params": [w]}, {"params": [w]}], lr=0.1)


def test_differentiable_step_has_a_gradient():
    out = []
    for m in (torch, fanal):
        start = m.tensor([1.0, 2.0], requires_grad=True)
        w = start.clone()
        w.retain_grad()
        o = m.optim.SGD([w], lr=0.1, differentiable=True)
        w.grad = start * 3
        o.step()
        w.sum().backward()
        out.append(start.grad.tolist())
    np.testing.assert_allclose(out[1], out[0], 1e-6)
