"""The short way of the steady state gives what the long way gives, whatever happens in between.

Every workload trains the same small network with Adam, long enough for the path to be armed, and is disturbed once
in the middle and once more later; it must agree to the bit with the same loop recorded every time.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_follow import Log, agree, batches

import fanal as torch
from fanal import nn
from fanal.core.engine import steady
from fanal.core.engine.follow import paths
from fanal.core.engine.ledger import ledger
from fanal.core.engine.matcher import matcher
from fanal.core.ops import surface
from fanal.nn import functional as F

STEPS, AT = 24, (12, 19)
native = pytest.mark.skipif(matcher.name != "native", reason="the short way is the native matcher's")


class Loop:
    """A training loop whose parts a disturbance can reach."""

    def __init__(self, optimizer: str = "Adam", zero_late: bool = False) -> None:
        self.model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        self.opt = getattr(torch.optim, optimizer)(self.model.parameters(), lr=0.01)
        r = np.random.default_rng(3)
        self.data = [(torch.tensor(r.standard_normal((5, 6)).astype(np.float32)),
                      torch.tensor(r.integers(0, 3, 5))) for _ in range(4)]
        self.kept: list[Any] = []
        self.zero_late = zero_late
        self.loss: Any = None

    def step(self, k: int) -> None:
        x, y = self.data[k % 4]
        if not self.zero_late:
            self.opt.zero_grad()
        self.loss = F.cross_entropy(self.model(x), y)
        if self.zero_late:
            self.opt.zero_grad()
        self.loss.backward()
        self.opt.step()


def armed() -> bool:
    """Tell whether some path of this thread takes the short way."""
    return any(p.steady is not None for p in paths().all)


@native
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "SGD", "RMSprop"])
def test_a_plain_loop_takes_the_short_way(optimizer: str, late: bool) -> None:
    def work(log: Log) -> None:
        loop = Loop(optimizer, late)
        for k in range(STEPS):
            loop.step(k)
            log(loop.loss)
        if ledger.followed > before:
            assert armed()
        log(list(loop.model.parameters()))
    before = ledger.followed
    agree(work, 100)


def keep_gradients(loop: Loop) -> None:
    loop.kept += [p.grad for p in loop.model.parameters()]


def keep_losses(loop: Loop) -> None:
    loop.kept.append(loop.loss)


def use_a_gradient_in_a_graph(loop: Loop) -> None:
    p = loop.model[0].weight
    loop.kept.append((p.grad * p).sum())


def write_a_gradient(loop: Loop) -> None:
    loop.model[0].weight.grad.zero_()


def set_a_gradient(loop: Loop) -> None:
    p = loop.model[2].bias
    p.grad = torch.ones_like(p)


def replace_data(loop: Loop) -> None:
    loop.model[0].weight.data = torch.full((8, 6), 0.25)


def write_a_parameter(loop: Loop) -> None:
    with torch.no_grad():
        loop.model[0].weight.mul_(0.5)


def look_at_a_parameter(loop: Loop) -> None:
    loop.kept.append(float(loop.model[0].weight.sum()))


def share_a_parameter(loop: Loop) -> None:
    a = loop.model[0].weight.detach().numpy()
    a[0, 0] = 2.0


def change_the_rate(loop: Loop) -> None:
    loop.opt.param_groups[0]["lr"] = 0.5


def change_a_state(loop: Loop) -> None:
    loop.opt.state[loop.model[0].weight]["exp_avg"].zero_()


def replace_a_state(loop: Loop) -> None:
    state = loop.opt.state[loop.model[0].weight]
    state["exp_avg_sq"] = torch.ones_like(state["exp_avg_sq"])


def change_a_counter(loop: Loop) -> None:
    loop.opt.state[loop.model[0].weight]["step"].fill_(100.0)


def replace_a_counter(loop: Loop) -> None:
    for state in loop.opt.state.values():
        state["step"] = torch.tensor(7.0)


def load_states(loop: Loop) -> None:
    loop.opt.load_state_dict(loop.opt.state_dict())


def drop_a_state(loop: Loop) -> None:
    del loop.opt.state[loop.model[2].bias]


def swap_parameters(loop: Loop) -> None:
    params = loop.opt.param_groups[0]["params"]
    params[0], params[2] = params[2], params[0]


def leave_one_out(loop: Loop) -> None:
    loop.opt.param_groups[0]["params"].pop()


def change_decay(loop: Loop) -> None:
    loop.opt.param_groups[0]["weight_decay"] = 0.1


def freeze(loop: Loop) -> None:
    loop.model[0].requires_grad_(False)


def batch_is_a_state(loop: Loop) -> None:
    """One memory behind two names: the second moment of the first layer is also the next batch."""
    v = loop.opt.state[loop.model[0].weight]["exp_avg_sq"]
    loop.data = [(v[:5].detach(), y) for _, y in loop.data]


def other_batch(loop: Loop) -> None:
    loop.data = [(torch.cat([x, x]), torch.cat([y, y])) for x, y in loop.data]


def one_batch_twice(loop: Loop) -> None:
    loop.data = [loop.data[0]] * 4


def hook(loop: Loop) -> None:
    loop.model[2].weight.register_hook(lambda g: g * 2)


def attribute(loop: Loop) -> None:
    loop.loss.note = "kept"
    loop.kept.append(loop.loss)


def accumulate(loop: Loop) -> None:
    loop.opt.zero_grad = lambda: None  # type: ignore[method-assign]


def new_layer(loop: Loop) -> None:
    loop.model[2] = nn.Linear(8, 3)
    loop.opt.add_param_group({"params": list(loop.model[2].parameters()), "lr": 0.02})


DISTURBANCES: list[Callable[[Loop], None]] = [
    keep_gradients, keep_losses, use_a_gradient_in_a_graph, write_a_gradient, set_a_gradient, replace_data,
    write_a_parameter, look_at_a_parameter, share_a_parameter, change_the_rate, change_a_state, replace_a_state,
    change_a_counter, replace_a_counter, load_states, drop_a_state, swap_parameters, leave_one_out, change_decay,
    freeze, batch_is_a_state, other_batch, one_batch_twice, hook, attribute, accumulate, new_layer]


@pytest.mark.parametrize("late", [False, True], ids=["", "zero_late"])
@pytest.mark.parametrize("disturb", DISTURBANCES, ids=lambda f: f.__name__)
def test_a_disturbance_is_noticed(disturb: Callable[[Loop], None], late: bool) -> None:
    def work(log: Log) -> None:
        loop = Loop(zero_late=late)
        for k in range(STEPS):
            loop.step(k)
            log(loop.loss)
            if k in AT:
                disturb(loop)
                log([p.grad for p in loop.model.parameters()])
        log(loop.kept)
        log(list(loop.model.parameters()))
        log([v for s in loop.opt.state.values() for v in s.values()])
    agree(work, 40)


@pytest.mark.parametrize("disturb", DISTURBANCES, ids=lambda f: f.__name__)
def test_a_disturbance_between_backward_and_step(disturb: Callable[[Loop], None]) -> None:
    def work(log: Log) -> None:
        loop = Loop()
        for k in range(STEPS):
            x, y = loop.data[k % 4]
            loop.opt.zero_grad()
            loop.loss = F.cross_entropy(loop.model(x), y)
            loop.loss.backward()
            if k in AT:
                disturb(loop)
            loop.opt.step()
            log(loop.loss)
        log(loop.kept)
        log(list(loop.model.parameters()))
        log([v for s in loop.opt.state.values() for v in s.values()])
    agree(work, 40)


def test_a_leaf_made_in_the_step_and_kept() -> None:
    """The leaf of this step collects the gradient, not the one that somebody kept of the last."""
    def work(log: Log) -> None:
        w = torch.randn(6, 3)
        kept: list[Any] = []
        for x in batches(16, 4, 6):
            leaf = (x * 2).detach().requires_grad_()
            loss = (leaf @ w).square().sum()
            loss.backward()
            log(loss)
            log(leaf.grad)
            leaf.grad = None
            kept.append(leaf)
        log(kept)
    agree(work, 40)


def test_results_in_memory_that_serves_again() -> None:
    """A result that somebody keeps, as a tensor, a view, an array or a part of a graph, is never written again."""
    def work(log: Log) -> None:
        w = torch.randn(6, 3, requires_grad=True)
        kept: list[Any] = []
        for k, x in enumerate(batches(40, 4, 6)):
            out = torch.relu(x @ w.detach())
            total = out.sum()
            log(total)
            if k in (15, 16, 22):
                kept += [out, out[1:], out.numpy(), total]
            if k == 25:
                kept.append((out * w[:4, :3]).sum())
            if k == 30:
                out.mark = k
                kept.append(out)
            assert not hasattr(out, "mark") or k == 30
        log([torch.as_tensor(t) for t in kept])
        kept[-2].backward()
        log(w.grad)
    agree(work, 100)


def test_a_batch_that_several_calls_read() -> None:
    def work(log: Log) -> None:
        w = torch.randn(6, 6)
        data = batches(40, 4, 6)
        for k, (x, z) in enumerate(zip(data, data[3:])):
            if k == 20:
                z = x
            if k == 24:
                w = torch.randn(6, 6)
            y = torch.relu(x) + x @ w
            y = y * z + x
            if k % 7 == 6:  # another end
                y = y * x
            y = torch.cat([y, z]) if k > 30 else y - z
            log(y.sum())
            x = z = None
    agree(work, 150)


@native
def test_a_batch_that_several_calls_read_is_taken_over_by_the_matcher() -> None:
    w = torch.randn(6, 6)
    for x in batches(12, 4, 6):
        y = (torch.relu(x) + x @ w) * x
        float(y.sum())
    path = paths().last
    assert path is not None and path.steady is not None
    assert len(path.steady.rebound) == 1 and len(next(iter(path.steady.rebound)).uses) == 3


@native
def test_slices_made_anew_are_compared_by_the_matcher(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    dispatch = surface.dispatch
    monkeypatch.setattr(surface, "dispatch", lambda op, *a: (calls.append(op.name), dispatch(op, *a))[1])
    x, at = torch.arange(24.0).view(4, 6), torch.tensor([2, 0])
    for _ in range(12):
        calls.clear()
        y = (x[1:][:, -1].sum() + x[..., ::2][at, :2].sum()) * x[0:3, 1].sum()
        float(y)
    assert calls == []


def test_slices_with_other_limits_are_noticed() -> None:
    def work(log: Log) -> None:
        for k, x in enumerate(batches(40, 4, 6)):
            end, row = (5 if k in (17, 18, 25) else 3), (1 if k == 20 else -1)
            log(x[:, :end].sum() + x[row, 1::2].sum() * x[1:, 0].sum() + x[1 if k == 30 else slice(0, 1)].sum())
    agree(work, 150)


def test_lists_that_are_made_anew_or_changed() -> None:
    def work(log: Log) -> None:
        x, sizes = torch.arange(24.0).reshape(4, 6), [1, 2, 3]
        for k in range(40):
            if k == 15:
                sizes.reverse()
            if k == 25:
                sizes[1:] = [3]
            y = torch.cat([x * 2, x] if k % 8 else [x, x * 2])
            parts = torch.split(y, sizes, 1)
            log([y.permute([1, 0]).sum(), *parts])
    agree(work, 100)


@native
def test_lists_are_compared_by_the_matcher() -> None:
    x = torch.arange(24.0).reshape(4, 6)
    for _ in range(12):
        y = torch.cat([x, x], 1).permute([1, 0]).reshape([6, 8])
        float(y.sum())
    path = paths().last
    assert path is not None and path.steady is not None
    assert len(path.steady.listed) == 3


@native
def test_a_path_that_is_armed_for_nothing_is_armed_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch joined of examples, of which one comes twice: the short way does not take that."""
    made = []
    start = steady.Steady.__init__
    monkeypatch.setattr(steady.Steady, "__init__", lambda self, *args: (made.append(1), start(self, *args))[1])
    examples = [torch.full((1, 3), float(k)) for k in range(60)]
    scale, found = torch.ones(3), []
    for k in range(50):
        second = examples[k] if k > 5 else examples[k + 2]
        found.append((torch.cat([examples[k], examples[k + 1], second]) * scale).sum().item())
    assert found == [3.0 * (3 * k + (1 if k > 5 else 3)) for k in range(50)]
    assert 0 < len(made) <= 12
