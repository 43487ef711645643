"""Functions of lists of tensors, against PyTorch."""
import numpy as np
import pytest
import torch

import fanal

CALLS = {
    "unary": lambda m, a, b: [*m._foreach_sqrt(a), *m._foreach_neg(a), *m._foreach_sign(b), *m._foreach_clone(a)],
    "numbers": lambda m, a, b: [*m._foreach_add(a, 2), *m._foreach_mul(a, [2.0, 3.0]), *m._foreach_maximum(a, 1.0),
                                *m._foreach_pow(2.0, a), *m._foreach_pow(a, [2, 3]), *m._foreach_div(a, m.tensor(2.0))],
    "lists": lambda m, a, b: [*m._foreach_sub(a, b, alpha=2), *m._foreach_minimum(a, b), *m._foreach_lerp(a, b, 0.3),
                              *m._foreach_lerp(a, b, [0.2, 0.7]), *m._foreach_clamp_max(a, b)],
    "three": lambda m, a, b: [*m._foreach_addcmul(a, a, b), *m._foreach_addcmul(a, a, b, [1, 2]),
                              *m._foreach_addcdiv(a, b, a, value=0.5), *m._foreach_addcdiv(a, b, a, m.tensor([1.0, 2.0]))],
    "reductions": lambda m, a, b: [*m._foreach_norm(a), *m._foreach_norm(a, 1), *m._foreach_norm(a, ord=3), *m._foreach_max(b)],
}
WRITES = {
    "add": lambda m, a, b: m._foreach_add_(a, b, alpha=0.5), "addcmul": lambda m, a, b: m._foreach_addcmul_(a, b, b, 2),
    "maximum": lambda m, a, b: m._foreach_maximum_(a, b), "zero": lambda m, a, b: m._foreach_zero_(a),
    "copy": lambda m, a, b: m._foreach_copy_(a, b), "sqrt": lambda m, a, b: m._foreach_sqrt_(a),
}


def lists(m):
    draw = np.random.default_rng(0)
    return ([m.tensor(draw.uniform(0.5, 2, s)) for s in ((2, 3), (4,))] for _ in range(2))


@pytest.mark.parametrize("name", CALLS)
def test_new_values(name):
    expected, got = (CALLS[name](m, *lists(m)) for m in (torch, fanal))
    assert len(got) == len(expected)
    for e, g in zip(expected, got):
        np.testing.assert_allclose(g.numpy(), e.numpy(), rtol=1e-12)


@pytest.mark.parametrize("name", WRITES)
def test_writes(name):
    found = []
    for m in (torch, fanal):
        a, b = lists(m)
        assert WRITES[name](m, a, b) is a
        found.append([t.numpy() for t in a])
    for e, g in zip(*found):
        np.testing.assert_allclose(g, e, rtol=1e-12)


def test_lists_of_other_lengths():
    for m in (torch, fanal):
        a, b = lists(m)
        with pytest.raises(RuntimeError, match="must have the same number of tensors, got 2 and 1"):
            m._foreach_add(a, b[:1])
        with pytest.raises(RuntimeError, match="must have at least one tensor"):
            m._foreach_add([], 1)
    assert not hasattr(fanal, "_foreach_nonsense")


def test_powsum():
    for args, kwargs in (((), {}), ((2,), {}), ((3,), {}), ((0.5,), {}), ((float("inf"),), {}), ((0,), {}),
                         ((), {"ord": 1}), ((2,), {"dtype": "float64"})):
        found = []
        for m in (torch, fanal):
            given = [m.tensor([1.0, -2, 3]), m.tensor([[2.0, 3], [4, 5.5]]), m.ones(0), m.tensor([3 + 4j])]
            given += [m.full((300,), 1.01).bfloat16()]
            options = {k: getattr(m, v) if k == "dtype" else v for k, v in kwargs.items()}
            found.append(m._foreach_powsum(given[:2] + given[4:] if "dtype" in kwargs else given, *args, **options))
        for e, g in zip(*found):
            assert str(g.dtype) == str(e.dtype)
            np.testing.assert_allclose(g.tolist(), e.tolist(), rtol=1e-6)
    for m in (torch, fanal):
        with pytest.raises(NotImplementedError, match="\"powsum_cpu\" not implemented for 'Long'"):
            m._foreach_powsum([m.tensor([1])])
