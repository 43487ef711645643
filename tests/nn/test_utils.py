"""Tools for modules against PyTorch's: parametrizations, normalised weights, pruning, functional calls."""

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.utils.prune

import fanal
from fanal import nn
from fanal.core.engine.ledger import ledger

PAIRS = [(fanal, nn), (torch, torch.nn)]


def close(ours, theirs):
    np.testing.assert_allclose(np.array(ours), np.array(theirs), rtol=2e-5, atol=2e-6)


def both(go):
    ours, theirs = (go(t, module) for t, module in PAIRS)
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        if isinstance(other, (torch.Tensor, fanal.Tensor)):
            close(mine.detach().tolist(), other.detach().tolist())
        else:
            assert mine == other


def linear(t, module):
    t.manual_seed(5)
    return module.Linear(3, 4)


def trained(t, net):
    """The gradients of one step, by name, after a forward in training mode."""
    x = t.tensor([[1.0, -2.0, 0.5], [0.3, 0.2, -1.0]])
    y = net(x)
    (y * y).sum().backward()
    return [
        y,
        *(p.grad for p in net.parameters()),
        [n for n, _ in net.named_parameters()],
        list(net.state_dict()),
    ]


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm"])
def test_normalised_weights(name):
    def parametrized(t, module):
        return trained(t, getattr(module.utils.parametrizations, name)(linear(t, module)))

    def hooked(t, module):
        return trained(t, getattr(module.utils, name)(linear(t, module)))

    def removed(t, module):
        net = getattr(module.utils, "remove_" + name)(getattr(module.utils, name)(linear(t, module)))
        return trained(t, net)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, about its older functions
        for go in (parametrized, hooked, removed):
            both(go)


def test_parametrization_of_ones_own():
    def go(t, module):
        class Symmetric(module.Module):
            def forward(self, x):
                return x.triu() + x.triu(1).transpose(-1, -2)

            def right_inverse(self, a):
                return a.triu()

        parametrize = module.utils.parametrize
        t.manual_seed(1)
        net = module.Linear(3, 3)
        parametrize.register_parametrization(net, "weight", Symmetric())
        names = [n for n, _ in net.named_parameters()]
        first = net.weight
        with parametrize.cached():
            same = net.weight is net.weight
        copied = copy.deepcopy(net).weight
        net.weight = t.ones(3, 3) * 2
        twos, kind = net.weight, type(net).__name__
        parametrize.remove_parametrizations(net, "weight")
        return [
            names,
            first,
            same,
            copied,
            twos,
            kind,
            type(net).__name__,
            net.weight,
            list(net.state_dict()),
        ]

    both(go)


def test_pruning():
    def go(t, module):
        prune = module.utils.prune
        net = linear(t, module)
        prune.l1_unstructured(net, "weight", amount=0.25)
        prune.ln_structured(net, "weight", amount=1, n=2, dim=0)
        prune.custom_from_mask(net, "bias", t.tensor([1.0, 0.0, 1.0, 0.0]))
        result = trained(t, net)
        result += [prune.is_pruned(net), net.weight_mask, net.weight]
        prune.remove(net, "weight")
        prune.remove(net, "bias")
        result += [prune.is_pruned(net), net.weight, net.bias]
        two = [linear(t, module), linear(t, module)]
        prune.global_unstructured([(m, "weight") for m in two], prune.L1Unstructured, amount=7)
        return result + [m.weight for m in two]

    both(go)


def test_pruning_at_random():
    def go(t, module):
        prune = module.utils.prune
        net = module.Linear(8, 8)
        t.manual_seed(3)
        prune.random_unstructured(net, "weight", amount=0.3)
        prune.random_structured(net, "weight", amount=2, dim=0)
        prune.random_unstructured(net, "bias", amount=0)  # draws nothing
        return [net.weight_mask, net.bias_mask, t.rand(2)]

    both(go)


def test_functional_call():
    def go(t, module):
        net = module.Sequential(linear(t, module), linear(t, module))
        net[1].weight = net[0].weight
        net[1] = module.Linear(4, 3)
        net[0].weight.data.fill_(1.0)
        call = t.func.functional_call if t is torch else module.utils.stateless.functional_call
        x = t.ones(1, 3)
        y = call(net, {"0.weight": t.zeros(4, 3), "0.bias": t.ones(4)}, (x,))
        return [y, net[0].weight]

    both(go)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        nn.utils.stateless.functional_call(nn.Linear(1, 1), {"w": fanal.ones(1)}, fanal.ones(1), strict=True)


def test_sequences():
    def go(t, module):
        rnn = module.utils.rnn
        given = [t.tensor([1.0, 2.0, 3.0]), t.tensor([4.0]), t.tensor([5.0, 6.0])]
        packed = rnn.pack_sequence(given, enforce_sorted=False)
        padded, lengths = rnn.pad_packed_sequence(packed, padding_value=-1.0)
        return [
            packed.data,
            packed.batch_sizes,
            packed.sorted_indices,
            packed.unsorted_indices,
            padded,
            lengths,
            rnn.pad_sequence(given, batch_first=True, padding_side="left"),
            *rnn.unpack_sequence(packed),
        ]

    both(go)
    for lengths, text in (([1, 2], "sorted in decreasing"), ([2, 0], "greater than 0"), ([2], "batch_size")):
        with pytest.raises(RuntimeError, match=text):
            nn.utils.rnn.pack_padded_sequence(fanal.ones(2, 2), lengths)


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"padding_value": -1.5, "padding_side": "left"}],
                         ids=str)
def test_sequences_that_are_in_memory_are_padded_there(options: dict) -> None:
    arrays = [np.arange(2.0 * n, dtype=np.float32).reshape(n, 2) for n in (3, 1, 4)]
    before = ledger.recorded + ledger.followed
    got = fanal.nn.utils.rnn.pad_sequence([fanal.from_numpy(a) for a in arrays], **options)
    assert ledger.recorded + ledger.followed == before, "a loop over batches of other lengths would be recorded"
    want = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(a) for a in arrays], **options)
    assert got.tolist() == want.tolist() and got.stride() == want.stride()
