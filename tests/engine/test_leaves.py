"""Loops about what changes around a backward, against PyTorch: leaves, .grad, views and losses made before, other loops.

All programs run in one process, as in a notebook: what earlier loops left must not be taken for what a later one does.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import leaf_programs
import pytest

import fanal
from fanal.core.engine.ledger import ledger

torch = pytest.importorskip("torch")


def leaves(m: Any) -> list[Any]:
    return [m.arange(1., 5.).requires_grad_(), m.full((4,), 0.5).requires_grad_(), m.ones(()).requires_grad_()]


def gradients(ps: list[Any]) -> list[float | None]:
    return [None if p.grad is None else p.grad.sum().item() for p in ps]


def agree(*loops: Callable[[Any], list[Any]]) -> None:
    """Run loops one after the other; each must log what PyTorch logs."""
    expected = [loop(torch) for loop in loops]
    for loop, logged in zip(loops, expected):
        assert loop(fanal) == logged


@pytest.mark.parametrize("first", range(0, 240, 20))
def test_random_loops_agree_with_torch(first: int, request: pytest.FixtureRequest) -> None:
    """240 programs, or as many as --programs says beyond 300."""
    more = max(0, request.config.getoption("programs") - 300)
    for seed in (*range(first, first + 20), *range(240 + first // 20, 240 + more, 12)):
        text = leaf_programs.source(seed)
        expected, got = leaf_programs.run(text, torch), leaf_programs.run(text, fanal)
        assert leaf_programs.agree(expected, got), f"program {seed}:\n{text}\n{expected}\n{got}"


def test_a_leaf_made_and_switched_off_before_a_read_has_its_history() -> None:
    """It ended with an AttributeError."""
    def loop(m: Any) -> list[Any]:
        (p, _, q), found = leaves(m), []
        for k in range(10):
            loss = q * 2 + p.square().sum()
            v = p[1:]
            p.requires_grad_(k > 4)
            found.append(v.sum().item())
            loss.backward()
        return [*found, *gradients([p, q])]
    agree(loop)


def test_a_gradient_that_backward_adds_to_is_the_one_that_is_read_after_it() -> None:
    """Where another parameter got its first .grad, that was read first, and added to in place of the other."""
    def loop(m: Any) -> list[Any]:
        ps, found = leaves(m), []
        for k in range(14):
            loss = ps[2] * 2 + ps[1].square().sum()
            ps[0].requires_grad_(k % 2 == 0)
            if k > 4:
                loss = loss + ps[0].square().sum()
            loss.backward()
            found.append(gradients(ps))
        return found
    agree(loop)


def test_parameters_that_take_turns_have_their_own_gradients() -> None:
    """A tensor that the matcher had taken over and that did not fit stayed where the next call was compared with it."""
    def loop(m: Any) -> list[Any]:
        ps, found = leaves(m), []
        for k in range(16):
            loss = ps[2] * 2
            ps[0].requires_grad_(True)
            if k % 3 == 1:
                ps[0], ps[1] = ps[1], ps[0]
            (loss + ps[1].square().sum()).backward()
            found.append(gradients(ps))
            for p in ps:
                p.grad = None
        return found
    agree(loop)


def test_a_gradient_that_is_used_in_the_next_loss_was_not_written_since() -> None:
    """Known segments count versions that PyTorch does not have: backward raised PyTorch's error."""
    def other(m: Any) -> list[Any]:
        p, _, q = leaves(m)
        optimizer = m.optim.AdamW([p, q], lr=0.01)
        for k in range(10):
            loss = q * 2
            v = p.sigmoid().view(2, 2)
            if k % 5 != 2:
                loss = loss + (v * 3).sum()
            if k % 3:
                optimizer.step()
        return []

    def loop(m: Any) -> list[Any]:
        ps, found = leaves(m), []
        for k in range(16):
            loss = ps[2] * 2
            if ps[0].grad is not None:
                loss = loss + (ps[0].grad * ps[0]).sum()
            if k % 3 != 1:
                loss = loss + ps[0].square().sum()
            if k <= 4:
                ps[0], ps[1] = ps[1], ps[0]
            loss.backward()
            found.append(gradients(ps))
            if k % 2:
                ps[0].grad = ps[1].grad = ps[2].grad = None
        return found
    agree(other, loop)


def test_history_that_was_freed_may_come_from_outside() -> None:
    """It ended with a ValueError, where a value kept over a flush was one that an earlier flush had kept."""
    def loop(m: Any) -> list[Any]:
        ps = leaves(m)
        optimizer = m.optim.SGD(ps, lr=0.01)
        for k in range(16):
            loss = ps[2] * 2
            first = ps[0].clone()
            if k % 4 < 2:
                loss = loss + (first * 3).sum()
            second = ps[1] * 2
            optimizer.step()
        return [loss.item(), second.sum().item()]
    agree(loop)


def test_the_gradient_of_a_leaf_written_between_two_uses_arrives_once() -> None:
    """Hooks were called for each value that was used."""
    def loop(m: Any) -> list[Any]:
        p, calls = m.arange(4.).requires_grad_(), []
        p.register_hook(lambda g: calls.append(g.tolist()))
        p.register_post_accumulate_grad_hook(lambda p: calls.append(p.grad.tolist()))
        for _ in range(5):
            first = (p * 3).sum()
            with m.no_grad():
                p.mul_(2)
            (first + (p * 5).sum()).backward()
        return calls
    agree(loop)


def test_a_graph_that_shared_a_leaf_with_another_has_one_of_its_own() -> None:
    """One backward through two graphs of before a read: the second moved the leaf of the first, and one .grad was lost."""
    def loop(m: Any) -> list[Any]:
        ps, found = leaves(m), []
        for k in range(12):
            loss = ps[2] * 2 + ps[0][1]
            h = ps[0 if k < 6 else 1] * 2
            if h.detach().sum() > 30:
                loss = loss * 0.5
            (loss + (h * 3).sum()).backward()
            found.append(gradients(ps))
            for p in ps:
                if p.grad is not None:
                    p.grad.zero_()
        return found
    agree(loop)


def test_what_is_written_with_history_later_has_none_before() -> None:
    """In a followed step it said what it would end as."""
    def loop(m: Any) -> list[Any]:
        (p, q, _), found = leaves(m), []
        for k in range(12):
            x = m.full((4,), 0.1 * k)
            found.append(p.sum().item())
            h = x.clone()
            found.append((h.requires_grad, h.is_leaf))
            h.mul_(2)
            found.append((h.requires_grad, h.is_leaf))
            h[1:].add_(q[1:])
            found.append((h.requires_grad, h.is_leaf))
        return found
    agree(loop)


@pytest.mark.parametrize("show", [lambda g: g.detach(), lambda g: g[:1], lambda g: g.data, lambda g: g.unsqueeze(0),
                                  lambda g: g], ids=["detach", "slice", "data", "unsqueeze", "itself"])
def test_what_shows_a_gradient_is_kept_when_the_next_is_computed(show: Callable[[Any], Any]) -> None:
    """Later gradients were written where it is."""
    def loop(m: Any) -> list[Any]:
        p, r, kept, found = m.tensor([1., 2.], requires_grad=True), m.zeros(2), None, []
        optimizer = m.optim.SGD([p], lr=0.1)
        for k in range(16):
            p.grad = None
            r.sum().item()
            (p * p).sum().backward()
            optimizer.step()
            if k in (4, 8) or k > 12:
                kept = show(p.grad)
            if kept is not None:
                found.append(kept.sum().item())
        return found
    agree(loop)


def test_a_hook_registered_between_a_backward_and_the_read_that_ends_its_step() -> None:
    """The tables that recognise a backward were made with the hook, and it was not called in the next step."""
    def loop(m: Any) -> list[Any]:
        p, calls, xs = m.tensor([0.5], requires_grad=True), [], [m.full((4,), 0.1 * k) for k in range(9)]

        def step(k: int, x: Any) -> None:
            if k == 6:
                p.register_hook(lambda g: calls.append(k) or g * 0.5)
            x.sum().item()
            (x.mean() + (p ** 2).sum()).backward()
            if k % 2:
                p.grad = None
        for k in range(9):
            if k in (1, 3, 5):
                p.grad = None
            else:
                step(k, xs[k])
        return [len(calls), p.grad.item()]
    agree(loop)


def test_a_tensor_that_is_made_a_leaf_in_every_step_is_followed() -> None:
    """Adversarial examples: what the segment had changed of its tensor kept it from ever coming again."""
    def loop(m: Any) -> list[Any]:
        m.manual_seed(0)
        net, found = m.nn.Linear(6, 3), []
        opt = m.optim.SGD(net.parameters(), 0.1)
        x, y = m.randn(8, 6), m.arange(8) % 3
        for k in range(30):
            before = ledger.recorded
            d = m.zeros_like(x).uniform_(-0.1, 0.1)
            d.requires_grad = True
            for _ in range(3):
                m.nn.functional.cross_entropy(net(x + d), y).backward()
                d.data = m.clamp(d + 0.05 * m.sign(d.grad.detach()), -0.1, 0.1)
                d.data = m.max(m.min(1 - x, d.data), 0 - x)
                d.grad.zero_()
            opt.zero_grad()
            loss = m.nn.functional.cross_entropy(net(x + d.detach()), y)
            loss.backward()
            opt.step()
            found.append(round(loss.item(), 4))
            assert m is torch or k < 15 or ledger.recorded == before
        return found
    agree(loop)


def test_a_leaf_that_is_frozen_and_not_by_turns_is_followed() -> None:
    def loop(m: Any) -> list[Any]:
        m.manual_seed(0)
        a, b, found = m.nn.Linear(6, 4), m.nn.Linear(4, 1), []
        opts = [m.optim.SGD(net.parameters(), 0.1) for net in (a, b)]
        x = m.randn(8, 6)
        for k in range(30):
            before = ledger.recorded
            for p in b.parameters():
                p.requires_grad_(k % 2 == 1)
            loss = b(a(x).tanh()).square().mean()
            opts[k % 2].zero_grad()
            loss.backward()
            opts[k % 2].step()
            found.append(round(loss.item(), 4))
            assert m is torch or k < 15 or ledger.recorded == before
        return [*found, *gradients([*a.parameters(), *b.parameters()])]
    expected, got = loop(torch), loop(fanal)
    assert got == pytest.approx(expected, abs=2e-4)
