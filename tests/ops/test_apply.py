"""Python functions on elements, diagonals written in place, and what a tensor tells of itself."""

import pytest
import torch

import fanal

CALLS = {
    "apply_": lambda m: m.arange(4.0).apply_(lambda x: x * x + 1),
    "apply_ to integers": lambda m: m.arange(4).view(2, 2).apply_(lambda x: x + 1),
    "map_": lambda m: m.arange(4.0).view(2, 2).map_(m.tensor([1.0, 2.0]), lambda x, y: x * 10 + y),
    "map2_": lambda m: m.zeros(3).map2_(m.ones(3), m.arange(3.0), lambda a, x, y: x + y),
    "diagonal": lambda m: m.zeros(3, 4).fill_diagonal_(2),
    "tall diagonal": lambda m: m.zeros(9, 3).fill_diagonal_(2),
    "wrapped diagonal": lambda m: m.zeros(9, 3).fill_diagonal_(2, wrap=True),
    "wide wrapped diagonal": lambda m: m.zeros(2, 5).fill_diagonal_(2, wrap=True),
    "diagonal of a transpose": lambda m: m.zeros(3, 4).t().fill_diagonal_(2),
    "diagonal of a cube": lambda m: m.zeros(2, 2, 2).fill_diagonal_(2),
}


@pytest.mark.parametrize("name", CALLS)
def test_values(name):
    for _ in range(2):
        assert CALLS[name](fanal).tolist() == CALLS[name](torch).tolist()


ERRORS = {
    "vector": lambda m: m.zeros(2).fill_diagonal_(1),
    "box": lambda m: m.zeros(2, 3, 3).fill_diagonal_(1),
    "text": lambda m: m.zeros(2).apply_(lambda x: "a"),
    "leaf": lambda m: m.zeros(2, requires_grad=True).apply_(lambda x: x),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    with pytest.raises(Exception) as expected:
        ERRORS[name](torch)
    with pytest.raises(expected.type):
        ERRORS[name](fanal)


def test_what_a_tensor_tells():
    for m in (torch, fanal):
        x = m.zeros(2, 3, 4).permute(2, 0, 1)
        assert x.dim_order() == (1, 2, 0)
        assert x.is_same_size(x) and not m.is_same_size(x, m.zeros(1))
        assert not (x.is_xla or x.is_ipu or x.is_mtia or x.is_vulkan or x.is_distributed())
        assert isinstance(m.channels_last, m.memory_format) and isinstance(m.strided, m.layout)
        assert isinstance(m.default_generator, m.Generator)
