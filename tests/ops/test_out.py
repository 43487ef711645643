"""out=: dtypes, shapes, shared memory and what is returned, as PyTorch has it."""

import warnings

import pytest
import torch

import fanal


def both(call):
    """Return what `call` gives on torch and on Fanal: the elements, or the class and text of the error."""
    found = []
    for m in (torch, fanal):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                r = call(m)
            found.append([x.tolist() for x in r] if isinstance(r, tuple) else r.tolist())
        except Exception as e:
            found.append((type(e).__name__, str(e).split("\n")[0]))
    return found


EXPANDED = lambda m, *shape: m.zeros(1).expand(*shape)
CALLS = {
    "filled": lambda m: m.add(m.ones(3), 1, out=m.empty(3)),
    "empty is resized": lambda m: m.mul(m.arange(3.0), 2, out=m.empty(0)),
    "cast to a wider type": lambda m: m.add(m.ones(3), 1, out=m.empty(3, dtype=m.float64)),
    "no cast to integers": lambda m: m.add(m.ones(3), 1, out=m.empty(3, dtype=m.int64)),
    "the dtype of the result": lambda m: m.mm(m.ones(2, 2), m.ones(2, 2), out=m.empty(2, 2, dtype=m.float64)),
    "gather": lambda m: m.gather(m.ones(3), 0, m.tensor([0]), out=m.empty(1, dtype=m.float64)),
    "a factory takes the dtype": lambda m: m.arange(0, 4, 1.5, out=m.empty(0, dtype=m.int64)),
    "one place for all": lambda m: m.sin(m.ones(3), out=EXPANDED(m, 3)),
    "two results": lambda m: m.sort(m.tensor([2.0, 1.0]), out=(m.empty(0), m.empty(0, dtype=m.int64))),
    "cat into itself": lambda m: (lambda x: m.cat((x[:4], x[4:]), out=x))(m.ones(8, 6)),
    "take from itself": lambda m: (lambda x: m.take(x, m.tensor([0, 1, 2, 3]), out=x))(m.ones(4)),
    "the operand itself": lambda m: (lambda x: m.add(x, 1, out=x))(m.ones(4)),
    **{f"{name} into the operand": lambda m, name=name: (lambda x: getattr(m, name)(x, out=x))(m.tensor([[-1.5, 0.3], [2.7, -0.2]]))
       for name in ("abs", "neg", "round", "floor", "ceil", "trunc", "frac", "sign", "sgn", "nan_to_num", "tril", "triu",
                    "conj_physical")},
    **{f"{name} into an operand": lambda m, name=name: (lambda x: getattr(m, name)(x, m.eye(2), out=x))(m.tensor([[-1.5, 0.3], [2.7, -0.2]]))
       for name in ("min", "max", "heaviside")},
    "bitwise_not into the operand": lambda m: (lambda x: m.bitwise_not(x, out=x))(m.tensor([1, 5])),
    "softmax into the operand": lambda m: (lambda x: m.softmax(x, 0, out=x).round(decimals=5))(m.ones(4)),
    "where into an operand": lambda m: (lambda x: m.where(x > 0, x, m.tensor(3.), out=x))(m.tensor([1., -2.])),
    "addmm into what is added": lambda m: (lambda x: m.addmm(x, m.ones(2, 2), m.eye(2), out=x))(m.ones(2, 2)),
    "index_select from itself": lambda m: (lambda x: m.index_select(x, 0, m.tensor([1, 0]), out=x))(m.ones(2)),
    "part of the operand": lambda m: (lambda x: m.add(x[:3], 1, out=x[1:]))(m.ones(4)),
    "with history": lambda m: m.add(m.ones(2, requires_grad=True), 1, out=m.empty(2)),
    "normal": lambda m: m.bernoulli(m.ones(3), out=m.empty(0)),
    "where": lambda m: m.where(m.tensor([True, False]), m.ones(2), m.zeros(2), out=m.empty(2)),
    "linear": lambda m: m.nn.functional.linear(m.ones(2, 3), m.ones(4, 3), out=m.empty(2, 4)),
    "norm": lambda m: m.norm(m.ones(4), out=m.empty(0)),
}


@pytest.mark.parametrize("name", CALLS)
def test_out(name):
    expected, got = both(CALLS[name])
    assert got == expected


def test_a_tensor_that_is_not_empty_is_resized_with_a_warning():
    for m in (torch, fanal):
        out = m.ones(2, 2)
        with pytest.warns(UserWarning, match="An output with one or more elements was resized"):
            assert m.add(m.ones(3), 1, out=out) is out
        assert out.tolist() == [2, 2, 2]


def test_the_same_calls_again_find_their_own_tensors():
    for _ in range(3):
        out = fanal.full((0,), 1.0)
        assert fanal.bernoulli(fanal.ones(3), out=out) is out
        assert out.tolist() == [1, 1, 1]
