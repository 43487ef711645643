"""Views with history that are held over a read: what is computed from them later belongs to the same graph."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fanal
from fanal.core.engine.ledger import ledger

torch = pytest.importorskip("torch")


def base_of(m: Any, p: Any, leaf: bool) -> Any:
    return p if leaf else p * 1.5


def gradient_at_the_view(m: Any, p: Any, x: Any, leaf: bool) -> list:
    v = base_of(m, p, leaf).view(2, 3)
    a = (v * x).sum()
    read = a.item()
    b = (v * v).sum()
    return [read, *[g.tolist() for g in m.autograd.grad(a + b, [v, p])]]


def gradient_at_what_it_is_a_view_of(m: Any, p: Any, x: Any, leaf: bool) -> list:
    v = base_of(m, p, leaf).view(2, 3)
    w = v.t()
    a = (v * x).sum()
    read = a.item()
    b = (w * x.t()).exp().sum()
    return [read, *[g.tolist() for g in m.autograd.grad(a + b, [v, w, p])]]


def view_of_a_view_alone(m: Any, p: Any, x: Any, leaf: bool) -> list:
    v = base_of(m, p, leaf).view(2, 3)
    w = v[1:]
    read = x.sum().item()
    return [read, *[g.tolist() for g in m.autograd.grad((w * w).sum(), [v, p])]]


def hook(m: Any, p: Any, x: Any, leaf: bool) -> list:
    v = base_of(m, p, leaf).view(2, 3)
    a = (v * x).sum()
    read = a.item()
    seen: list = []
    v.register_hook(lambda g: (seen.append(g.tolist()), g * 2)[1])
    (a + (v * v).sum()).backward()
    found = [read, *seen, p.grad.tolist()]
    p.grad = None
    return found


def retained(m: Any, p: Any, x: Any, leaf: bool) -> list:
    v = base_of(m, p, leaf).view(2, 3)
    v.retain_grad()
    a = (v * x).sum()
    read = a.item()
    (a + (v * v).sum()).backward()
    found = [read, v.grad.tolist(), p.grad.tolist()]
    p.grad = None
    return found


def two_graphs(m: Any, p: Any, x: Any, leaf: bool) -> list:
    v = base_of(m, p, leaf).view(2, 3)
    a = (v * x).sum()
    first = a.item()
    b = (v * v * x).sum()
    second = b.item()
    return [first, second, *[g.tolist() for g in m.autograd.grad(a + b + v.sum(), [v, p])]]


def equal_views_take_turns(m: Any, p: Any, x: Any, leaf: bool) -> list:
    base = base_of(m, p, leaf)
    v, w = base.view(2, 3), base.view(2, 3)
    found = []
    for k in range(3):
        a = (v * x).sum()
        found.append(a.item())
        other = v if k % 2 else w  # the same calls with another tensor of the same make
        g = m.autograd.grad(a + (other * other).sum(), [v], retain_graph=True)
        found.append(g[0].tolist())
    return found


def views_that_are_related_or_not(m: Any, p: Any, x: Any, leaf: bool) -> list:
    base = base_of(m, p, leaf)
    v = base.view(2, 3)
    found = []
    for k in range(4):
        w = v.t() if k % 2 else base.view(2, 3).t()
        found.append((x * 2).sum().item())
        g = m.autograd.grad((w * w).sum() + v.sum(), [v], retain_graph=True)
        found.append(g[0].tolist())
    return found


def overwritten_between(m: Any, p: Any, x: Any, leaf: bool) -> list:
    v = base_of(m, p, leaf).view(2, 3)
    a = (v * x).sum()
    read = a.item()
    with m.no_grad():
        p.add_(1)
    b = (v * v).sum()
    g = m.autograd.grad(a + b, [p])
    with m.no_grad():
        p.sub_(1)
    return [read, g[0].tolist()]


PROGRAMS = [gradient_at_the_view, gradient_at_what_it_is_a_view_of, view_of_a_view_alone, hook, retained, two_graphs,
            equal_views_take_turns, views_that_are_related_or_not, overwritten_between]


@pytest.mark.parametrize("leaf", [True, False], ids=["of a leaf", "of a result"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_program(program: Any, leaf: bool) -> None:
    runs = []
    for m in (torch, fanal):
        p, x = m.arange(6.0).requires_grad_(), m.arange(6.0).reshape(2, 3) / 4
        if m is fanal:
            assert p.sum().item() == 15
        runs.append([program(m, p, x * (k + 1), leaf) for k in range(5)])
    assert _close(*runs), runs


def _close(a: Any, b: Any) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_close, a, b))
    return a == pytest.approx(b, rel=1e-5)


def test_views_of_a_leaf_that_the_segment_made() -> None:
    """The leaf is new every time, and its view is held: the read raised a KeyError."""
    for _ in range(4):
        p = fanal.arange(6.0).requires_grad_()
        v = p.view(2, 3)
        a = (v * v).sum()
        assert a.item() == 55
        (a + v.sum()).backward()
        assert p.grad.tolist() == [1, 3, 5, 7, 9, 11]


def test_a_loop_that_holds_views_is_followed() -> None:
    p, x = fanal.arange(6.0).requires_grad_(), fanal.ones(2, 3)
    for step in range(8):
        if step == 4:
            before = ledger.recorded
        v = p.view(2, 3)
        a = (v * x).sum()
        a.item()
        (a + (v * v).sum() + v.t().exp().sum()).backward()
        p.grad = None
    assert ledger.recorded == before


@pytest.mark.parametrize("leaf", [True, False])
def test_a_read_changes_no_bit(leaf: bool) -> None:
    """Contributions to the view's gradient are added in the same order, whether a value was read between or not."""
    found = set()
    for read in (False, True):
        fanal.manual_seed(0)
        p, x = fanal.randn(64).requires_grad_(), [fanal.randn(8, 8) for _ in range(4)]
        for _ in range(3):
            v = base_of(fanal, p, leaf).view(8, 8)
            a = (v * x[0]).sum() + (v.exp() * x[1]).sum()
            if read:
                a.item()
            (a + (v * x[2]).sum() + (v.sin() * x[3]).sum() + (p * 3).sum()).backward()
            bits = p.grad.numpy().tobytes()
            p.grad = None
        found.add(bits)
    assert len(found) == 1


def test_leaves_that_are_new_every_step() -> None:
    """The path lets go of a leaf that moves when it runs, and the view was made from it after that."""
    kept = []
    for step in range(8):
        p = fanal.full((6,), step + 1.0).requires_grad_()
        p.sum().item()
        v = p.view(2, 3)
        (p * 2).sum().item()
        (v * v).sum().backward()
        kept.append(p.grad.tolist())
    assert kept == [[2.0 * (step + 1)] * 6 for step in range(8)]


@pytest.mark.parametrize("show", [lambda g: g.detach(), lambda g: g[1:], lambda g: g.view(2, 2)])
@pytest.mark.parametrize("kept", [1, 3])
def test_a_gradient_stays_with_its_parameter_while_a_view_of_it_is_held(show: Any, kept: int) -> None:
    """The memory went with the view, and .grad was left without a value."""
    def program(m: Any) -> list:
        p = m.arange(1.0, 5.0).requires_grad_()
        optimizer = m.optim.SGD([p], lr=0.05, momentum=0.9)
        shown: list = []
        found: list = []
        for k in range(6):
            optimizer.zero_grad()
            ((p * p).sum() * (k + 1)).backward()
            shown = [*shown, show(p.grad)][-kept:]
            shown[-1].sum().item()
            optimizer.step()
            found += [p.detach().clone(), p.grad.clone(), *(x.clone() for x in shown)]
        return [x.numpy() for x in found]
    for x, y in zip(program(torch), program(fanal)):
        np.testing.assert_allclose(y, x, rtol=1e-5)
