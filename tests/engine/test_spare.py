"""Tensors that a loop keeps until the next ones stand in their place are handed out again, and nobody can tell."""
import gc
import weakref

import numpy as np
import pytest

import fanal
from fanal.core.engine import spare
from fanal.core.engine.matcher import matcher

pytestmark = pytest.mark.skipif(matcher.name != "native", reason="the Python twin makes every tensor anew")


def loop(n, look):
    """Keep three results over the reading of a number, n times; look(k, results, expected) sees them afterwards."""
    inputs = [np.arange(5, dtype=np.float32) + i for i in range(3)]
    x = [fanal.tensor(a) for a in inputs]
    offset = fanal.zeros(())
    kept = None
    for k in range(n):
        offset.add_(1)
        kept = [t + offset for t in x]
        (offset + 1).item()
        look(k, kept, [(a + k + 1).tolist() for a in inputs])


@pytest.fixture
def entered(monkeypatch):
    """Count how often a generation serves again."""
    times = []
    enter = spare.Generation.enter
    monkeypatch.setattr(spare.Generation, "enter", lambda self, path: (times.append(1), enter(self, path)))
    return times


def test_kept_results_are_handed_out_again_and_right(entered):
    def look(k, results, expected):
        assert [r.tolist() for r in results] == expected
    loop(20, look)
    assert len(entered) > 10


def test_a_result_that_the_next_step_reads_is_handed_out_again(entered):
    w = fanal.arange(4.0)
    x, want = fanal.ones(4), np.ones(4, np.float32)
    for _ in range(20):
        x = x * 0.5 + w  # the number before comes back as a tensor from outside
        want = want * np.float32(0.5) + np.arange(4, dtype=np.float32)
        assert x.sum().item() == want.sum() and x.tolist() == want.tolist()
    assert len(entered) > 10


def test_a_view_keeps_its_memory(entered):
    views = []

    def look(k, results, expected):
        if k in (12, 13):
            views.append((results[0][1:], expected[0][1:]))
        for view, right in views:
            assert view.tolist() == right
    loop(30, look)


@pytest.mark.parametrize("generations", [2, 3, 50])
def test_results_of_several_steps_are_kept(generations):
    history = []

    def look(k, results, expected):
        history.append((results, expected))
        del history[:-generations]
        for old, right in history:
            assert [r.tolist() for r in old] == right
    loop(30, look)


def test_memory_that_numpy_shares_is_not_written():
    arrays = []

    def look(k, results, expected):
        if k % 3 == 0:
            arrays.append((results[1].numpy(), expected[1]))
            results[2].detach().numpy()[0] = 77  # shared for a moment
        for a, right in arrays:
            assert a.tolist() == right
    loop(30, look)


def test_writes_attributes_and_history_end_with_the_tensor():
    def look(k, results, expected):
        assert [r.tolist() for r in results] == expected
        assert not vars(results[2]) and results[1].grad is None and not results[1].requires_grad
        if k % 4 == 0:
            results[0].mul_(2)
            assert results[0].tolist() == [2 * e for e in expected[0]]
        if k % 5 == 0:
            results[1].requires_grad_()
            (results[1] * 3).sum().backward()
            assert results[1].grad.tolist() == [3.0] * 5
        if k % 7 == 0:
            results[2].note = "mine"
    loop(40, look)


def test_weak_references_die_with_the_tensor():
    seen = []

    def look(k, results, expected):
        if k % 6 == 5:
            seen.append(weakref.ref(results[0]))
    loop(30, look)
    gc.collect()
    assert all(r() is None for r in seen)


def test_several_outputs_and_results_with_history(entered):
    x = fanal.arange(6.0).reshape(2, 3)
    w = fanal.ones(3, requires_grad=True)
    for k in range(1, 20):
        x.add_(1)
        kept = fanal.sort(x * w, dim=1, descending=True)
        kept.values.sum().backward()
        assert kept.values.tolist() == [[2.0 + k, 1.0 + k, k], [5.0 + k, 4.0 + k, 3.0 + k]]
        assert kept.indices.tolist() == [[2, 1, 0], [2, 1, 0]] and kept.values.requires_grad
    for k in range(1, 20):
        x.add_(1)
        halves = fanal.split(x * 1, 1)
        (x + 1).sum().item()
        assert [h.tolist() for h in halves] == [[[19.0 + k, 20.0 + k, 21.0 + k]], [[22.0 + k, 23.0 + k, 24.0 + k]]]
    assert entered


def test_several_views_of_what_is_written_in_between(entered):
    """They know when they were made, which an error about them tells."""
    x, one = fanal.zeros(6), fanal.ones(())
    for k in range(50):
        kept = x.split([2, 4])
        (one + one).item()
        if k in (18, 34):
            x.add_(1)
        assert [v.tolist() for v in kept] == [[(k >= 18) + (k >= 34)] * n for n in (2, 4)]
        if k in (15, 18, 45):
            with pytest.raises(RuntimeError, match="function that returns multiple views"):
                kept[0].mul_(fanal.ones(2, requires_grad=True))
    assert len(entered) > 10


def test_big_results_are_not_kept_twice(entered):
    x = [fanal.zeros(1 << 18), fanal.zeros(1 << 18)]
    kept = None
    for _ in range(12):
        kept = [t + 1 for t in x]
        (x[0][0] + 1).item()
    assert kept and not entered


def test_a_result_whose_views_are_dropped_is_handed_out_again(entered):
    """Views of what is kept, made in the same segment: dropped unseen, sometimes kept, sometimes written through."""
    x = fanal.arange(6.0).reshape(2, 3)
    views = []
    for k in range(1, 60):
        x.add_(1)
        kept = x * 2
        flat = kept.view(6)
        row = flat[3:]
        if k % 10 == 9:
            row.mul_(-1)
        (row.sum() + kept.detach().sum()).item()
        sign = -1 if k % 10 == 9 else 1
        want = [[2.0 * (k + i) for i in range(3)], [2.0 * sign * (k + i) for i in range(3, 6)]]
        assert kept.tolist() == want
        if k % 7 == 0:
            views.append((row, want[1]))
            flat.add_(0)
        del flat, row
        for view, right in views:
            assert view.tolist() == right
    assert len(entered) > 10
