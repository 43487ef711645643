"""None in the place of a tensor that a known segment was recorded with, and that is gone since."""

import fanal as torch


def test_none_is_not_the_tensor_that_is_gone():
    def limited(low, high):
        x = torch.arange(6.0)
        return torch.clamp(x, low, high).tolist()

    for _ in range(3):
        assert limited(torch.tensor(2.0), torch.tensor(3.0)) == [2, 2, 2, 3, 3, 3]
    assert limited(None, torch.tensor(3.0)) == [0, 1, 2, 3, 3, 3]
    assert limited(torch.tensor(2.0), None) == [2, 2, 2, 3, 4, 5]


def test_none_in_an_index_is_not_the_tensor_that_is_gone():
    def picked(i):
        x = torch.arange(6).reshape(2, 3)
        return x[torch.tensor([1]), i].tolist()

    for _ in range(3):
        assert picked(torch.tensor([2])) == [5]
    assert picked(None) == [[[3, 4, 5]]]
