"""Executable plans: binding, memory, host steps, checks."""
from __future__ import annotations

import gc
import itertools
import random

import numpy as np
import pytest
from kernels import affine, buffers, chain, launch

import fanal
from fanal.core.backends.cpu import memory, run, threads
from fanal.core.backends.cpu.run import Executable
from fanal.core.base.dtype import float32, int64
from fanal.core.compiler import plan
from fanal.core.compiler.graph import Value
from fanal.core.compiler.loopir import Loop, Op
from fanal.core.compiler.steps import Buffer, HostStep, Lowered
from fanal.core.engine.ledger import ledger

PLUS, TWICE = affine("k_plus"), affine("k_twice", 2.0, 0.0)


def ramp(size: int) -> np.ndarray:
    return np.arange(size, dtype=np.float32)


def test_inputs_and_outputs_may_change_every_run():
    exe = Executable(chain(3, 10))
    results = []
    for k in range(6):
        x = ramp(10) + k
        y, = exe.run([x])
        np.testing.assert_array_equal(y, ((x * 0 + 1) * 1 + 1) * 2 + 1)
        results.append(y)
    assert len({memory.address_of(y) for y in results}) == 6  # nobody's result is overwritten
    given = exe.allocate()
    assert exe.run([ramp(10)], given)[0] is given[0]


def test_without_knowledge_of_object_layout(monkeypatch):
    monkeypatch.setattr(memory, "LAYOUT_KNOWN", False)
    monkeypatch.setattr(memory, "address_of", memory._address_by_name)
    exe = Executable(chain(3, 10))
    for k in range(3):
        np.testing.assert_array_equal(exe.run([ramp(10) + k])[0], np.full(10, 5, np.float32))


def test_offsets_and_known_values():
    low = Lowered([launch(PLUS, 0, 2, 3), launch(TWICE, 1, 3, 3)], [0], [2, 3, 1], buffers(range(2, 4), 4),
                  {1: ramp(6)[::2]})
    low.steps[0].args = [run.Buf(0, 4), run.Buf(2, 4)]
    exe = Executable(low)
    out = [np.zeros(4, np.float32), np.zeros(4, np.float32), None]
    a, b, known = exe.run([ramp(4)], out)
    np.testing.assert_array_equal(a, [0, 2, 3, 4])
    np.testing.assert_array_equal(b, [0, 4, 8, 0])
    np.testing.assert_array_equal(known, [0, 2, 4])
    known[:] = 9  # the caller's copy
    np.testing.assert_array_equal(exe.run([ramp(4)])[2], [0, 2, 4])


def test_a_plan_keeps_nothing_that_the_compiler_knew() -> None:
    """A third of what a plan takes was held by the sources of kernels that were long compiled."""
    def alive() -> int:
        gc.collect()
        return sum(type(o) in (Value, Loop, Op) for o in gc.get_objects())
    x, w = fanal.randn(40, 64), fanal.randn(64, 48)
    before, plans = alive(), ledger.plans
    for _ in range(3):
        fanal.relu(x @ w).add(1).softmax(-1).sum(0).tolist()
    assert ledger.plans > plans and alive() == before


def test_in_place_and_repeated_outputs():
    """An output may be an input replaced in place, an input as it is, or another output again."""
    steps = [launch(PLUS, 0, 1, 5), launch(TWICE, 1, 0, 5)]
    exe = Executable(Lowered(steps, [0, 2], [0, 1, 1, 2], buffers(range(1, 2), 5), {}))
    x, other = ramp(5), ramp(5)
    for _ in range(3):
        expected = x + 1
        a, b, c, d = exe.run([x, other])
        assert a is x and c is b and d is other
        np.testing.assert_array_equal(b, expected)
        np.testing.assert_array_equal(x, expected * 2)
    with pytest.raises(ValueError, match="has 2 inputs, got 1"):
        exe.run([x])


def test_host_steps_between_launches():
    def host(fn, i, o, shape=(6,)):
        return HostStep(fn, (i,), (shape,), o, "host")

    low = Lowered([launch(PLUS, 0, 1, 6), host(lambda a: a.sum(0), 1, 2, (2, 3)), launch(TWICE, 2, 3, 3),
                   HostStep(lambda a, b: a + b, (3, 4), ((3,), ()), 5, "add")],
                  [0, 4], [5], {1: Buffer(24, (6,), float32), 2: Buffer(12, (3,), float32),
                                3: Buffer(12, (3,), float32), 5: Buffer(24, (3,), int64)}, {})
    exe = Executable(low)
    x = ramp(6)
    for scalar in (1.0, 2.5):
        y, = exe.run([x, np.array(scalar)])
        assert y.dtype == np.int64
        np.testing.assert_array_equal(y, ((x + 1).reshape(2, 3).sum(0) * 2 + scalar).astype(np.int64))
    timings: list[run.Timing] = []
    exe.run([x, np.array(1.0)], profile=timings)
    assert [t.label for t in timings] == ["k_plus", "host", "k_twice", "add"]
    assert [t.step for t in timings] == [0, 1, 2, 3]
    assert all(a.begin <= a.end <= b.begin for a, b in itertools.pairwise(timings))


def test_host_errors_leave_everything_usable():
    fail = [True]

    def check(a):
        if fail[0]:
            raise np.linalg.LinAlgError("singular")
        return a

    low = Lowered([launch(PLUS, 0, 1, 40_000), HostStep(check, (1,), ((40_000,),), 2, "inv"),
                   launch(TWICE, 2, 3, 40_000)], [0], [3], buffers(range(1, 4), 40_000), {})
    exe = Executable(low)
    for _ in range(3):
        fail[0] = True
        with pytest.raises(np.linalg.LinAlgError, match="singular"):
            exe.run([ramp(40_000)])
        fail[0] = False
        np.testing.assert_array_equal(exe.run([ramp(40_000)])[0], (ramp(40_000) + 1) * 2)
    cut = HostStep(lambda a: a[1:], (0,), ((4,),), 1, "cut")
    wrong = Lowered([cut], [0], [1], buffers(range(1, 2), 4), {})
    with pytest.raises(RuntimeError, match=r"cut gave shape \[3\], expected \[4\]"):
        Executable(wrong).run([ramp(4)])


def test_a_host_step_may_run_another_plan():
    inner = Executable(chain(4, 30))
    nested = HostStep(lambda a: inner.run([np.array(a)])[0], (1,), ((30,),), 2, "inner")
    join = HostStep(lambda a, b: a * 100 + b, (2, 3), ((30,), (30,)), 4, "join")
    low = Lowered([launch(PLUS, 0, 1, 30), nested, launch(PLUS, 1, 3, 30), join], [0], [4],
                  buffers(range(1, 5), 30), {})
    y, = Executable(low).run([ramp(30)])
    a = ramp(30) + 1
    np.testing.assert_array_equal(y, inner.run([a])[0] * 100 + (a + 1))


def test_a_host_step_may_run_its_own_plan():
    depth = [0]

    def again(a):
        if depth[0] == 2:
            return a
        depth[0] += 1
        return exe.run([np.array(a)])[0]

    low = Lowered([launch(PLUS, 0, 1, 8), HostStep(again, (1,), ((8,),), 2, "again"), launch(TWICE, 1, 3, 8),
                   HostStep(np.add, (2, 3), ((8,), (8,)), 4, "add")], [0], [4], buffers(range(1, 5), 8), {})
    exe = Executable(low)
    y, = exe.run([ramp(8)])
    a = ramp(8)
    np.testing.assert_array_equal(y, (a + 3) + 2 * (a + 3) + 2 * (a + 2) + 2 * (a + 1))


def test_checks_raise_index_error():
    low = Lowered([launch(PLUS, 0, 1, 2)], [0, 2], [1],
                  {1: Buffer(8, (2,), float32), 5: Buffer(8, (), int64)}, {}, [(5, 3)])
    low.steps.append(launch(affine("k_flag", 1.0, 0.0), 2, 5, 2))  # copies an int64's two halves
    exe = Executable(low)
    for code, index in ((4, 3), (-7, -7)):
        with pytest.raises(IndexError, match=f"index {index} is out"):
            exe.run([ramp(2), np.array(code)])
        exe.run([ramp(2), np.array(0)])


def test_unknown_values_are_refused():
    with pytest.raises(ValueError, match="no buffer"):
        Executable(Lowered([launch(PLUS, 0, 1, 2)], [0], [], {}, {}))


def test_empty_programs():
    assert Executable(Lowered([], [], [], {}, {})).run([]) == []
    x = ramp(0)
    y, = Executable(Lowered([launch(PLUS, 0, 1, 0)], [0], [1], buffers(range(1, 2), 0), {})).run([x])
    assert y.shape == (0,)


def test_plans_of_many_sizes_share_a_workspace():
    plans = [(Executable(chain(5, size)), size) for size in (10, 70_000, 100, 300_000, 3)]
    for _ in range(2):
        for exe, size in plans:
            y, = exe.run([ramp(size)])
            np.testing.assert_array_equal(y, Executable(chain(5, size)).run([ramp(size)])[0])
    assert len(run._idle) <= 4


def test_random_programs():
    """Random graphs with reused memory: one thread, two threads and NumPy agree to the bit."""
    rng = random.Random(0)
    old = threads.get_num_threads()
    try:
        for trial in range(30):
            size = rng.choice([5, 1000, 40_000])
            steps, values = [], {0: ramp(size), 1: ramp(size) * 2}
            for value in range(2, 14):
                source = rng.choice(list(values)[-5:])
                kernel, scale, shift = rng.choice([(PLUS, 1, 1), (TWICE, 2, 0)])
                if rng.random() < 0.15:
                    steps.append(HostStep(lambda a: -a, (source,), ((size,),), value, "neg"))
                    values[value] = -values[source]
                else:
                    steps.append(launch(kernel, source, value, size))
                    values[value] = values[source] * np.float32(scale) + np.float32(shift)
            outputs = sorted(rng.sample(range(2, 14), 3))
            exe = Executable(Lowered(steps, [0, 1], outputs, buffers(range(2, 14), size), {}))
            for count in (1, 2):
                threads.set_num_threads(count)
                for value, y in zip(outputs, exe.run([values[0], values[1]])):
                    np.testing.assert_array_equal(y, values[value], err_msg=f"trial {trial}, {count} threads")
    finally:
        threads.set_num_threads(old)


def test_memory_plan():
    rng = random.Random(1)
    for _ in range(50):
        sizes = {v: rng.choice([0, 1, 64, 100, 5000]) for v in range(40)}
        spans = {}
        for v in sizes:
            first = rng.randrange(30)
            spans[v] = (first, first + rng.randrange(6))
        offsets, total = plan.place(spans, sizes)
        assert (offsets, total) == plan.place(dict(reversed(spans.items())), sizes)  # deterministic
        for a, size in sizes.items():
            assert offsets[a] % plan.ALIGN == 0 and offsets[a] + size <= total
            for b in range(a):
                alive = spans[a][0] <= spans[b][1] and spans[b][0] <= spans[a][1]
                apart = offsets[a] + size <= offsets[b] or offsets[b] + sizes[b] <= offsets[a]
                assert not alive or apart
    chained = {i: (i, i + 1) for i in range(100)}
    assert plan.place(chained, dict.fromkeys(chained, 640))[1] == 2 * 640


def test_memory_is_recycled():
    exe = Executable(chain(2, 100_000))
    x = ramp(100_000)
    exe.run([x])
    gc.collect()
    kept = memory._counts.live + memory._counts.kept
    for _ in range(20):
        y, = exe.run([x])
        view = y[5:].reshape(-1, 5)[1:]
        del y
        np.testing.assert_array_equal(view[0], exe.run([x])[0][10:15])
    del view
    assert memory._counts.live + memory._counts.kept <= kept + 2 * 500_000
    memory.release_kept()
    assert memory._counts.kept == 0


def test_arrays_are_aligned_and_independent():
    shapes = ((), (0,), (1,), (3, 5), (1000,))
    arrays = [memory.empty_aligned(shape, np.dtype(np.float64)) for shape in shapes]
    for array in arrays:
        assert memory.address_of(array) == array.ctypes.data and array.ctypes.data % 64 == 0
        assert array.flags.c_contiguous and array.flags.writeable
    for i, array in enumerate(arrays):
        array[...] = i
    assert all((array == i).all() for i, array in enumerate(arrays))


def test_the_arena_is_as_small_as_what_is_in_use():
    spans = {0: (0, 1), 1: (0, 3), 2: (2, 3)}  # the hole that 0 leaves is too small for 2, and 1 is in the way
    sizes = {0: 640, 1: 64, 2: 704}
    assert plan.place(spans, sizes)[1] == 704 + 64
