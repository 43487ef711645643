"""Values that cannot be computed: raised once, everything else is as if the calls from the failing one on had not come."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fanal
from fanal.core.backends.cpu.backend import default
from fanal.core.backends.cpu.run import Executable
from fanal.core.backends.cpu.threads import set_num_threads
from fanal.core.base import dtype as dt
from fanal.core.compiler.pipeline import lower
from fanal.core.engine.ledger import ledger
from fanal.core.ir import prims as P
from fanal.core.ir.program import Program, toposort

BAD = (3, 8, 9)  # a recorded step, followed ones, one right after another


def _batches() -> list[tuple[np.ndarray, np.ndarray]]:
    r = np.random.default_rng(0)
    return [(r.integers(0, 20, 16), r.integers(0, 5, 16)) for _ in range(14)]


def _train(lib: Any, wrong: str, optimizer: str) -> tuple[list[float], list[int], list[np.ndarray]]:
    lib.manual_seed(0)
    nn, F = lib.nn, lib.nn.functional
    model = nn.Sequential(nn.Embedding(20, 8), nn.BatchNorm1d(8), nn.Linear(8, 5))
    opt = lib.optim.Adam(model.parameters(), 1e-2) if optimizer == "adam" else \
        lib.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    losses, caught = [], []
    for k, (x, y) in enumerate(_batches()):
        if k in BAD:
            (x if wrong == "input" else y)[3] = 20
        try:
            loss = F.cross_entropy(model(lib.from_numpy(x)), lib.from_numpy(y))
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.item())
        except IndexError:
            caught.append(k)
    return losses, caught, [t.detach().numpy() for t in (*model.parameters(), *model.buffers())]


@pytest.mark.parametrize("wrong, optimizer", [("input", "adam"), ("target", "sgd")])
def test_training_goes_on_after_a_bad_batch(wrong: str, optimizer: str) -> None:
    fanal.vmap(fanal.sin)(fanal.ones(2)).sum().item()  # in the same thread, long since over
    losses, caught, state = _train(fanal, wrong, optimizer)
    expected, expected_caught, expected_state = _train(torch, wrong, optimizer)
    assert caught == expected_caught == list(BAD)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    for a, b in zip(state, expected_state):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def _accumulate(lib: Any, follow: int) -> list[Any]:
    """Gradients of micro-batches add up; one of them fails when its loss is read."""
    lib.manual_seed(0)
    emb, w = lib.nn.Embedding(6, 4).double(), lib.nn.Linear(4, 1).double()  # the last losses are what little is left
    opt = lib.optim.SGD([*emb.parameters(), *w.parameters()], 0.1)
    found = []
    for k in range(follow):
        for i in ([0, 1], [2, 6 if k == follow - 2 else 3], [4, 5]):
            try:
                loss = w(emb(lib.tensor(i))).square().mean()
                loss.backward()
                found.append(loss.item())
            except IndexError:
                found.append("caught")
        found.append(w.weight.grad.sum().item())
        opt.step()
        opt.zero_grad()
    return found


@pytest.mark.parametrize("follow", [2, 6])
def test_gradients_of_a_bad_micro_batch_are_not_added(follow: int) -> None:
    ours, theirs = _accumulate(fanal, follow), _accumulate(torch, follow)
    assert [x == "caught" for x in ours] == [x == "caught" for x in theirs]
    np.testing.assert_allclose([x for x in ours if x != "caught"], [x for x in theirs if x != "caught"], rtol=1e-9)


def _written(lib: Any) -> list[Any]:
    table, count, total = lib.arange(12.0).reshape(4, 3), lib.zeros(2), lib.ones(3)
    made = lib.zeros(3) + 1
    try:
        count.add_(1)
        made.add_(2)
        rows = table[lib.tensor([0, 4]) * 1]
        total.add_(rows.sum(0))
        made.add_(3)
        count.add_(1)
        total.sum().item()
    except IndexError:
        pass
    return [t.tolist() for t in (table, count, total, made)]


def test_what_later_calls_wrote_is_taken_back() -> None:
    assert _written(fanal) == _written(torch)


def test_the_error_is_raised_once_and_again_where_the_value_is_used() -> None:
    emb = fanal.nn.Embedding(5, 2)
    rows = emb(fanal.tensor([1, 7]))
    other, view = fanal.ones(3) * 2, rows[0]
    later = rows.sum() * other
    with pytest.raises(IndexError, match="index 7 is out of bounds for dimension with size 5") as e:
        rows.sum().item()
    assert any("called at test_failure.py:" in note for note in e.value.__notes__)
    assert other.tolist() == [2.0, 2.0, 2.0]
    assert (other + 1).tolist() == [3.0, 3.0, 3.0]
    for use in (rows.tolist, view.tolist, later.tolist, lambda: rows + 1, lambda: later.sum().backward()):
        with pytest.raises(IndexError, match="index 7"):
            use()
    assert emb(fanal.tensor([1, 2])).shape == (2, 2)
    assert emb.weight.tolist() == emb(fanal.arange(5)).tolist()


def test_two_values_fail() -> None:
    t = fanal.arange(4)
    zero = fanal.tensor([1, 0])
    a, b, c = fanal.take_along_dim(t, fanal.tensor([5]), 0), fanal.div(t[:2], zero, rounding_mode="floor"), t * 2
    with pytest.raises(IndexError):
        (a + b).tolist()
    assert c.tolist() == [0, 2, 4, 6]
    with pytest.raises(IndexError):
        a.tolist()
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        b.tolist()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("early", [False, True])
def test_inputs_are_overwritten_as_a_whole_or_not_at_all(early: bool, threads: int) -> None:
    """`early`: the index depends on what was written, so the check cannot come before the write."""
    x, i, w = (P.input_((300, 400), dt.float32), P.input_((3,), dt.int64), P.input_((500, 400), dt.float32))
    written = P.add(w, P.full((500, 400), 1.0, dt.float32))
    at = P.add(i, P.convert(P.max_of(written, (0, 1)), dt.int64)) if early else i
    rows = P.take(x, at, 0)
    outputs = [P.add(rows, rows), written]
    exe = Executable(lower(Program([x, i, w], toposort(outputs), outputs, {1: 2}), default()))
    table, weights = np.random.default_rng(0).random((300, 400), np.float32), np.zeros((500, 400), np.float32)
    set_num_threads(threads)
    try:
        for bad in (299, 300, 299):
            before = weights.copy()
            index = np.array([0, bad, 1]) - (int(before[0, 0]) + 1 if early else 0)
            if bad == 300:
                with pytest.raises(IndexError):
                    exe.run([table, index, weights])
                np.testing.assert_array_equal(weights, before)
            else:
                rows_twice, _ = exe.run([table, index, weights])
                np.testing.assert_array_equal(rows_twice, table[[0, bad, 1]] * 2)
                np.testing.assert_array_equal(weights, before + 1)
    finally:
        set_num_threads(1)


@pytest.mark.parametrize("table", [False, True], ids=["classifier", "table"])
def test_nothing_is_written_before_the_last_check(table: bool) -> None:
    """What is written before it is copied in every step: a loss computed last, and rows found again, must not delay it."""
    ledger.executables.clear()
    fanal.manual_seed(0)
    nn, F = fanal.nn, fanal.nn.functional
    model = nn.Sequential(*([nn.Embedding(4000, 8), nn.Flatten(), nn.Linear(16, 10)] if table else
                            [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)]))
    opt = (fanal.optim.SGD if table else fanal.optim.Adam)(model.parameters(), lr=0.1)
    x = fanal.randint(0, 4000, (32, 2)) if table else fanal.randn(32, 64)
    y = fanal.randint(0, 10, (32,))
    for _ in range(6):
        opt.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
    lowered = max((e.exe.lowered for e in ledger.executables), key=lambda lowered: len(lowered.steps))

    def places(values: set[int]) -> list[int]:
        return [n for n, step in enumerate(lowered.steps) if not values.isdisjoint(step.writes)]

    assert max(places({code for code, _ in lowered.checks})) < min(places({*lowered.inputs} & {*lowered.outputs}))
