"""A value read between forward and backward: the graph outlives its segment, and the loop is followed all the same."""
from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_follow import Log, agree, batches, logged, net, on_a_thread

import fanal as torch
from fanal import nn
from fanal.core.engine.ledger import ledger
from fanal.nn import functional as F

peer = pytest.importorskip("torch")


def _item(loss: Any, out: Any, y: Any) -> None:
    loss.item()


def _print(loss: Any, out: Any, y: Any) -> None:
    repr(loss)
    repr(loss.grad_fn is None)


def _accuracy(loss: Any, out: Any, y: Any) -> None:
    (out.argmax(1) == y).sum().item()


def _checks(loss: Any, out: Any, y: Any) -> None:
    if loss.isnan() or not torch.isfinite(out).all():
        raise AssertionError


READS = {"item": _item, "print": _print, "accuracy": _accuracy, "checks": _checks}


def _plain(model: Any, opt: Any, xs: list, ys: list, look: Callable) -> None:
    opt.zero_grad()
    out = model(xs[0])
    loss = F.cross_entropy(out, ys[0])
    look(loss, out, ys[0])
    loss.backward()
    opt.step()


def _middle(model: Any, opt: Any, xs: list, ys: list, look: Callable) -> None:
    opt.zero_grad()
    h = torch.relu(model[0](xs[0]))
    look(h.mean(), h, h.argmax(1))
    out = model[2](h)
    loss = F.cross_entropy(out, ys[0])
    look(loss, out, ys[0])
    loss.backward()
    opt.step()


def _micro_batches(model: Any, opt: Any, xs: list, ys: list, look: Callable) -> None:
    opt.zero_grad()
    for x, y in zip(xs, ys):
        out = model(x)
        loss = F.cross_entropy(out, y) / len(xs)
        look(loss, out, y)
        loss.backward()
    opt.step()


def _sum_of_losses(model: Any, opt: Any, xs: list, ys: list, look: Callable) -> None:
    opt.zero_grad()
    losses = []
    for x, y in zip(xs, ys):
        out = model(x)
        losses.append(F.cross_entropy(out, y))
        look(losses[-1], out, y)
    sum(losses).backward()
    opt.step()


def _two_losses(model: Any, opt: Any, xs: list, ys: list, look: Callable) -> None:
    opt.zero_grad()
    out = model(xs[0])
    loss, other = F.cross_entropy(out, ys[0]), out.square().mean()
    look(loss, out, ys[0])
    loss.backward(retain_graph=True)
    other.backward()
    opt.step()


def _clipped(model: Any, opt: Any, xs: list, ys: list, look: Callable) -> None:
    opt.zero_grad()
    out = model(xs[0])
    loss = F.cross_entropy(out, ys[0])
    look(loss, out, ys[0])
    loss.backward()
    if float(nn.utils.clip_grad_norm_(model.parameters(), 1.0)) < 100:
        opt.step()


def _gradients(model: Any, opt: Any, xs: list, ys: list, look: Callable) -> None:
    out = model(xs[0])
    loss = F.cross_entropy(out, ys[0])
    look(loss, out, ys[0])
    ps = list(model.parameters())
    for p, g in zip(ps, torch.autograd.grad(loss, ps)):
        with torch.no_grad():
            p -= 0.1 * g


def _evaluation(model: Any, opt: Any, xs: list, ys: list, look: Callable) -> None:
    _plain(model, opt, xs, ys, look)
    with torch.no_grad():
        out = model(xs[1])
        look(F.cross_entropy(out, ys[1]), out, ys[1])
    (model(xs[1]).argmax(1) == ys[1]).float().mean().item()


def _adversarial(model: Any, opt: Any, xs: list, ys: list, look: Callable) -> None:
    x = xs[0].clone().requires_grad_()
    out = model(x)
    loss = F.cross_entropy(out, ys[0])
    look(loss, out, ys[0])
    g, = torch.autograd.grad(loss, x)
    opt.zero_grad()
    out = model(x.detach() + 0.1 * g.sign())
    loss = F.cross_entropy(out, ys[0])
    look(loss, out, ys[0])
    loss.backward()
    opt.step()


def _views(model: Any, opt: Any, xs: list, ys: list, look: Callable) -> None:
    w = model[0].weight.t()
    h = torch.relu(xs[0] @ w + model[0].bias)
    out = model[2](h)
    flat = out.view(-1)
    loss = flat.square().mean() + F.cross_entropy(out, ys[0])
    look(loss, out, ys[0])
    opt.zero_grad()
    (loss + w.square().sum()).backward()
    opt.step()
    float(flat[0])


LOOPS = {"adversarial": _adversarial, "views": _views, "plain": _plain, "middle": _middle, "micro batches": _micro_batches, "sum of losses": _sum_of_losses,
         "two losses": _two_losses, "clipped": _clipped, "gradients": _gradients, "evaluation": _evaluation}


def _trained(step: Callable, look: Callable, steps: int, log: Log, watch: Callable = lambda k: None) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    opt = torch.optim.Adam(model.parameters(), lr=0.01)
    data, r = batches(7, 4, 6), np.random.default_rng(1)
    labels = [torch.tensor(r.integers(0, 3, 4)) for _ in data]
    for k in range(steps):
        step(model, opt, [data[(k + j) % 7] for j in range(3)], [labels[(k + j) % 7] for j in range(3)],
             look)
        watch(k)
    log(list(model.parameters()))


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("read", READS)
def test_nothing_is_recorded_once_a_loop_is_known(loop: str, read: str) -> None:
    def body() -> dict[str, int]:
        marks = []

        def watch(k: int) -> None:
            marks.append(ledger.snapshot())
        _trained(LOOPS[loop], READS[read], 8, lambda x: None, watch)
        return {c: marks[-1][c] - marks[2][c] for c in ("recorded", "plans", "compiled", "diverged")}
    assert on_a_thread(body) == {"recorded": 0, "plans": 0, "compiled": 0, "diverged": 0}


@pytest.mark.parametrize("loop", LOOPS)
def test_the_same_bits_as_recorded(loop: str) -> None:
    def work(log: Log) -> None:
        def look(loss: Any, out: Any, y: Any) -> None:
            log(loss)
            log((out.argmax(1) == y).sum())
        _trained(LOOPS[loop], look, 7, log)
    agree(work, 20)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("seed", range(4))
def test_reads_that_come_and_go(loop: str, seed: int) -> None:
    def work(log: Log) -> None:
        r = random.Random(seed)

        def look(loss: Any, out: Any, y: Any) -> None:
            for f in r.sample(list(READS.values()), r.choice([0, 0, 1, 2])):
                f(loss, out, y)
            if r.random() < 0.2:
                log(loss)
        _trained(LOOPS[loop], look, 16, log)
    agree(work, 20)


def test_every_third_step_reads() -> None:
    def body() -> int:
        marks = []
        count = [0]

        def look(loss: Any, out: Any, y: Any) -> None:
            if count[0] % 3 == 0:
                loss.item()
            count[0] += 1
        _trained(_plain, look, 12, lambda x: None, lambda k: marks.append(ledger.recorded))
        return marks[-1] - marks[5]
    assert on_a_thread(body) == 0


def test_what_python_does_with_a_loss_that_was_read() -> None:
    """Second backward, retained graphs, double backward, history beyond, overwritten values: as if nothing was read."""
    def work(log: Log, torch: Any = torch) -> None:
        w = torch.ones(4).requires_grad_()
        v = torch.full((4,), 0.5).requires_grad_()
        old = None
        for k in range(24):
            x = torch.full((4,), 0.1 * k)
            h = torch.tanh(w * x + v)
            loss = (h * h).sum()
            float(loss.detach())
            try:
                kind = k % 8
                if kind < 3:
                    loss.backward()
                elif kind == 3:
                    loss.backward()
                    loss.backward()
                elif kind == 4:
                    loss.backward(retain_graph=True)
                    float(w.grad.sum())
                    (loss * 2).backward()
                elif kind == 5:
                    g, = torch.autograd.grad(loss, w, create_graph=True)
                    g.square().sum().backward()
                elif kind == 6:
                    with torch.no_grad():
                        h.mul_(2)
                    loss.backward()
                else:
                    (loss + (0 if old is None else old)).backward()
            except RuntimeError as e:
                log(str(e)[:60])
            log([w.grad, v.grad, loss.detach(), loss.requires_grad])
            if kind != 4:
                w.grad = v.grad = None
            old = (w.exp() * x).sum() if kind == 6 else None
            if k % 5 == 4:
                with torch.no_grad():
                    w -= 0.1
    agree(work)
    ours = logged(work, True)[0]
    theirs: list[Any] = []
    work(lambda x: theirs.append(_numbers(x)), peer)
    mine: list[Any] = []
    on_a_thread(lambda: work(lambda x: mine.append(_numbers(x))))
    assert len(mine) == len(theirs) == len(ours)
    for a, b in zip(mine, theirs):
        if isinstance(a, str):
            assert a == b
            continue
        for x, y in zip(a, b):
            assert (x is None) == (y is None)
            if x is not None:
                np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def _numbers(x: Any) -> Any:
    if isinstance(x, list):
        return [_numbers(i) for i in x]
    return x if x is None or isinstance(x, (str, bool)) else np.array(x.detach().numpy())


def test_a_weight_changed_before_backward_is_noticed() -> None:
    def work(log: Log) -> None:
        ws, f = net()
        for k, x in enumerate(batches(9, 4, 6)):
            loss = f(x).square().mean()
            loss.item()
            if k in (4, 6):
                with torch.no_grad():
                    ws[2].mul_(0.5)
                float(ws[2].sum())
            try:
                loss.backward()
            except RuntimeError as e:
                log(str(e)[:120])
            log([w.grad for w in ws])
            for w in ws:
                w.grad = None
    agree(work, 10)
    assert any("modified by an inplace" in str(x) for x in logged(work, True)[0])


def test_a_hook_on_a_loss_that_was_read_runs() -> None:
    def work(log: Log) -> None:
        ws, f = net()
        for k, x in enumerate(batches(9, 4, 6)):
            loss = f(x).square().mean()
            loss.item()
            if k in (4, 6):
                loss.register_hook(lambda g: g * 3)
            loss.backward()
            log([w.grad for w in ws])
            for w in ws:
                w.grad = None
    agree(work, 10)


def test_another_model_takes_the_place_of_the_first() -> None:
    def work(log: Log) -> None:
        models = [nn.Linear(6, 3) for _ in range(3)]
        for k, x in enumerate(batches(12, 4, 6)):
            model = models[k // 3 % 3]
            loss = model(x).square().mean()
            loss.item()
            loss.backward()
            log([p.grad for m in models for p in m.parameters()])
            if k % 3 == 2:
                model.zero_grad()
    agree(work, 15)


def test_losses_kept_by_the_user_keep_their_graphs() -> None:
    def work(log: Log) -> None:
        ws, f = net()
        kept: list[Any] = []
        for x in batches(12, 4, 6):
            loss = f(x).square().mean()
            loss.item()
            kept.append(loss)
            if len(kept) == 4:
                (kept[0] * kept[2] + kept[3]).backward()
                log([w.grad for w in ws])
                for w in ws:
                    w.grad = None
                kept.clear()
        log(kept)
    agree(work, 15)


def _episode(lib: Any, policy: Any, opt: Any, states: list, choose: Callable) -> float:
    """REINFORCE: every action is read, and what it took to choose it is kept until the end."""
    logs = []
    for s in states:
        logits = policy(lib.from_numpy(s)).log_softmax(0)
        action = choose(logits)
        logs.append(logits[action] * 0.5)
    loss = -sum(logs)
    opt.zero_grad()
    loss.backward()
    opt.step()
    return loss.item()


def test_a_longer_episode_is_followed() -> None:
    """What an iteration leaves is the same however many came before it."""
    rng = np.random.default_rng(0)
    episodes = [[rng.standard_normal(4).astype("f") for _ in range(n)] for n in (5, 5, 5, 40)]

    def run(lib: Any) -> tuple[list, list]:
        lib.manual_seed(0)
        policy = lib.nn.Sequential(lib.nn.Linear(4, 8), lib.nn.Tanh(), lib.nn.Linear(8, 3))
        opt = lib.optim.SGD(policy.parameters(), 0.1)
        counts, losses = [], []
        for states in episodes:
            before = ledger.recorded
            losses.append(_episode(lib, policy, opt, states, lambda x: x.argmax().item()))
            counts.append(ledger.recorded - before)
        return losses, counts
    (losses, counts), (expected, _) = on_a_thread(lambda: run(torch)), run(peer)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert counts[2] == 0
    assert counts[3] < 60  # the sum of 40 terms, its backward and the step


def test_a_graph_dies_with_its_loss() -> None:
    def body() -> tuple[bool, int]:
        ws, f = net()
        opt = torch.optim.SGD(ws, lr=0.01)
        data = batches(5, 4, 6)

        def steps(n: int) -> Any:
            for k in range(n):
                opt.zero_grad()
                h = f(data[k % 5])
                loss = h.square().mean()
                float(loss)
                if k % 7:
                    loss.backward()
                    opt.step()
            storage = weakref.ref(h._storage)
            del h, loss
            f(data[0]).square().mean().item()
            gc.collect()
            return storage() is None, len(gc.get_objects())
        before = steps(100)[1]
        gone, after = steps(2000)
        return gone, after - before
    gone, grown = on_a_thread(body)
    assert gone
    assert grown < 60


def test_a_cotangent_that_shares_memory_is_carried() -> None:
    """What a graph that is kept reads of NumPy's memory is what was there when it was read."""
    def work(log: Log) -> None:
        w = torch.randn(3, requires_grad=True)
        for k in range(6):
            a = np.linspace(-1, 1, 3).astype(np.float32) + k
            g, = torch.autograd.grad(w.sin(), w, torch.from_numpy(a), create_graph=True)
            log(g.detach())
            a[:] = 9
            h, = torch.autograd.grad(g.sum(), w)
            log(h)
    agree(work, 0)


@pytest.mark.parametrize("leaf", [True, False])
def test_one_step_that_cannot_come_again_does_not_spoil_the_next(leaf: bool) -> None:
    """Its history was not carried, so the next segment was recorded, whose history was not carried either: for ever."""
    p, x = torch.arange(6.0).requires_grad_(), torch.ones(2, 3)
    assert p.sum().item() == 15
    grads = []
    for step in range(8):
        before = ledger.recorded
        v = (p if leaf else p * 2).view(2, 3)
        a = (v * x).sum()
        if step == 0:
            a + a * np.float32(2)  # an argument that is not compared
        assert a.item() == (15 if leaf else 30)
        (a + (v * v).sum()).backward()
        grads.append(p.grad)
        p.grad = None
    assert ledger.recorded == before
    assert [g.tolist() for g in grads] == [[1 + 2.0 * k if leaf else 2 + 8.0 * k for k in range(6)]] * 8


def test_parts_of_an_earlier_value_may_be_held_when_a_segment_ends() -> None:
    """A view of what `for part in value` gives was taken for history that nobody can keep: all was recorded ever after."""
    def program(m: Any) -> list[Any]:
        w = m.arange(6.).view(2, 3).requires_grad_()
        x, out = m.ones(4, 2), []
        for _ in range(12):
            before = ledger.recorded
            score = m.zeros(1, 3)
            for part in (x @ w).tanh():
                emitted = part[1].view(1, -1).expand(1, 3)
                score = score * 0.5 + emitted
                score.max().item()
            score.sum().backward()
            recorded = ledger.recorded - before
            out.append(w.grad.tolist())
            with m.no_grad():
                w -= w.grad * 0.1
            w.grad = None
        assert m is peer or recorded == 0
        return out
    found = on_a_thread(lambda: program(torch))
    for a, b in zip(found, program(peer)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_graphs_that_stand_on_each_other_in_many_ways() -> None:
    """Of two ways from each graph to the one before, all ways through all of them were followed, one by one."""
    def program(m: Any) -> list[Any]:
        w = m.tensor([0.5, 0.25], requires_grad=True)
        for _ in range(4):
            a, b = w * 1.0, w * 2.0
            for _ in range(24):
                c = (a + b).tanh()
                c.sum().item()
                a, b = c, (a - b).sin()
                b.sum().item()
            (a + b).sum().backward()
        return w.grad.tolist()
    np.testing.assert_allclose(on_a_thread(lambda: program(torch)), program(peer), rtol=1e-5)
