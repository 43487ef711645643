"""Scripts for several processes, run as one. Expected values and texts are PyTorch's in a group of one process (gloo)."""
from __future__ import annotations

import numpy as np
import pytest

import fanal as torch
import fanal.distributed as dist
import fanal.distributed.nn as C
from fanal import nn
from fanal.nn.parallel import DataParallel, DistributedDataParallel


@pytest.fixture
def alone(monkeypatch):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "29500")):
        monkeypatch.setenv(name, value)
    dist.init_process_group("gloo")
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_without_a_group():
    for ask in (dist.get_rank, dist.get_world_size, dist.get_backend, dist.barrier, lambda: dist.all_reduce(torch.ones(2)),
                lambda: DistributedDataParallel(nn.Linear(2, 2)), lambda: torch.utils.data.DistributedSampler([1, 2])):
        with pytest.raises(ValueError, match="Default process group has not been initialized, please make sure to call"):
            ask()
    assert dist.is_available() and not dist.is_initialized() and not torch.distributed.is_nccl_available()
    with pytest.raises(AssertionError, match="Process group cannot be None"):
        dist.destroy_process_group()


def test_a_group_begins_and_ends(alone):
    assert (dist.get_rank(), dist.get_world_size(), dist.get_backend()) == (0, 1, "gloo")
    with pytest.raises(ValueError, match="trying to initialize the default process group twice!"):
        dist.init_process_group("gloo")
    other = dist.new_group([0])
    assert dist.get_rank(other) == 0 and dist.get_process_group_ranks(other) == [0]
    with pytest.raises(ValueError, match="world size should be less or equal"):
        dist.new_group([0, 1])
    assert dist.group.WORLD is dist.GroupMember.WORLD
    dist.destroy_process_group()
    assert not dist.is_initialized()


@pytest.mark.parametrize(("given", "kind", "text"), [
    ({"backend": "bogus"}, AssertionError, "Unknown backend type bogus"),
    ({"backend": "nccl"}, RuntimeError, "Distributed package doesn't have NCCL built in"),
    ({"backend": "gloo", "init_method": "bad://x", "rank": 0, "world_size": 1}, RuntimeError, "No rendezvous handler for bad://"),
    ({"backend": "gloo", "world_size": 2, "rank": 1}, NotImplementedError, "world_size=2"),
    ({"backend": "gloo", "init_method": "tcp://localhost:1"}, ValueError, "rank parameter missing"),
])
def test_groups_that_cannot_be(monkeypatch, given, kind, text):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(kind, match=text):
        dist.init_process_group(**given)
    assert not dist.is_initialized()


def test_the_environment_must_say_which_process_this_is(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        with pytest.raises(ValueError, match=f"env:// rendezvous: environment variable {name} expected, but not set"):
            dist.init_process_group("gloo")
        monkeypatch.setenv(name, "1")


def test_collectives_of_one(alone):
    x = torch.arange(4.0)
    same = x.tolist()
    for op in (dist.ReduceOp.SUM, dist.ReduceOp.AVG, dist.ReduceOp.PRODUCT):
        assert dist.all_reduce(x, op) is None
    work = dist.all_reduce(x, async_op=True)
    assert work.wait() and work.is_completed()
    dist.broadcast(x, 0), dist.broadcast(x, src=0), dist.reduce(x, 0), dist.barrier()
    assert x.tolist() == same
    for gathered in (lambda o: dist.all_gather([o], x), lambda o: dist.gather(x, [o], dst=0), lambda o: dist.scatter(o, [x], src=0),
                     lambda o: dist.reduce_scatter(o, [x]), lambda o: dist.all_to_all([o], [x]),
                     lambda o: dist.all_to_all_single(o, x), lambda o: dist.all_gather_into_tensor(o, x),
                     lambda o: dist.reduce_scatter_tensor(o, x)):
        out = torch.zeros(4)
        assert gathered(out) is None and out.tolist() == same
    one = [None]
    dist.all_gather_object(one, {"a": 1})
    assert one == [{"a": 1}]
    dist.scatter_object_list(one, [5])
    assert one == [5]
    dist.gather_object(3, one)
    dist.broadcast_object_list(one, src=0)
    assert one == [3]


@pytest.mark.parametrize(("call", "kind", "text"), [
    (lambda x: dist.all_gather([x, x], x), RuntimeError, "expected length 1, got 2"),
    (lambda x: dist.all_gather([torch.zeros(3)], x), RuntimeError, "invalid tensor size at index 0"),
    (lambda x: dist.broadcast(x, src=1), RuntimeError, "ProcessGroupGloo::broadcast: invalid root rank: 1"),
    (lambda x: dist.reduce(x, dst=1), RuntimeError, "ProcessGroupGloo::reduce: invalid root rank: 1"),
    (lambda x: dist.scatter(x), ValueError, "``scatter_list`` must be specified on source rank"),
    (lambda x: dist.gather(x), ValueError, "``gather_list`` must be specified on destination rank"),
    (lambda x: dist.send(x, 0), ValueError, "destination rank should not be the same as the rank of the current process"),
    (lambda x: dist.all_reduce([x]), TypeError, "Expected parameter `tensor` of type torch.Tensor"),
])
def test_wrong_collectives(alone, call, kind, text):
    with pytest.raises(kind, match=text):
        call(torch.zeros(4))


def train(wrap):
    torch.manual_seed(0)
    model = wrap(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for k in range(5):
        x = torch.from_numpy(np.random.default_rng(k).standard_normal((6, 3)).astype(np.float32))
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses


def test_wrapped_models_train_as_they_are(alone):
    assert train(lambda m: m) == train(DistributedDataParallel) == train(DataParallel)


def test_what_a_wrapped_model_is_called(alone):
    m = nn.Linear(2, 2)
    for kind in (DistributedDataParallel, DataParallel):
        wrapped = kind(m)
        assert list(wrapped.state_dict()) == ["module.weight", "module.bias"] and wrapped.module is m
        assert repr(wrapped) == f"{kind.__name__}(\n  (module): Linear(in_features=2, out_features=2, bias=True)\n)"
    wrapped = DistributedDataParallel(m)
    with wrapped.no_sync():
        assert not wrapped.require_backward_grad_sync
    assert wrapped.require_backward_grad_sync
    with pytest.raises(RuntimeError, match="not needed when a module doesn't have any parameter that requires a gradient"):
        DistributedDataParallel(nn.ReLU())
    with pytest.raises(ValueError, match=r"device_ids \[0\]"):
        DistributedDataParallel(m, device_ids=[0])


def test_a_sampler_asks_the_group(alone):
    sampler = torch.utils.data.DistributedSampler(range(5), shuffle=False)
    assert (sampler.num_replicas, sampler.rank, list(sampler)) == (1, 0, [0, 1, 2, 3, 4])


def test_sync_batch_norm_is_batch_norm(alone):
    x = torch.arange(12.0).reshape(4, 3)
    assert nn.SyncBatchNorm(3)(x).tolist() == nn.BatchNorm1d(3)(x).tolist()


def test_gradients_pass_through_collectives(alone):
    x = torch.arange(3.0).requires_grad_()
    outs = [C.all_reduce(x), C.broadcast(x * 2, 0), C.reduce(x, 0), *C.all_gather(x * 3), *C.gather(x), C.scatter([x * 5]),
            C.reduce_scatter(torch.empty(3), [x]), *C.all_to_all([torch.empty(3)], [x])]
    sum(((k + 1) * y * y).sum() for k, y in enumerate(outs)).backward()
    assert [y.tolist() for y in outs] == [[0, k, 2 * k] for k in (1, 2, 1, 3, 1, 5, 1, 1)]
    assert x.grad.tolist() == [0, 436, 872]
