"""The pool of native threads."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from kernels import buffers, chain, launch, total

from fanal.core.backends.cpu import host, threads
from fanal.core.backends.cpu.run import Executable
from fanal.core.backends.cpu.schedule import Slot, schedule
from fanal.core.compiler.steps import Lowered

BIG = 1 << 20  # bytes of work that are worth every thread


@pytest.fixture(params=[1, 2, 3])
def count(request):
    """Run with this many threads; three on two cores also sleep and wake."""
    old = threads.get_num_threads()
    threads.set_num_threads(request.param)
    yield request.param
    threads.set_num_threads(old)


@pytest.fixture
def two():
    old = threads.get_num_threads()
    threads.set_num_threads(2)
    yield
    threads.set_num_threads(old)


def sums(length: int, size: int) -> Lowered:
    """Each step reads all that the step before it wrote: x -> sum(x) / size, in every element."""
    steps = [launch(total(f"k_mean{size}", 1 / size), i, i + 1, size, size, work=BIG) for i in range(length)]
    return Lowered(steps, [0], [length], buffers(range(1, length + 1), size), {})


def test_barriers_hold(count):
    """Hundreds of dependent steps of very little work each, over many runs."""
    exe = Executable(sums(100, 16))
    stop = time.monotonic() + 1.5
    for value in range(1, 200):
        y, = exe.run([np.full(16, value, np.float32)])
        assert (y == value).all()
        if time.monotonic() > stop:
            break


def test_same_bits(count):
    x = np.linspace(-3, 3, 50_001, dtype=np.float32)
    y, = Executable(chain(7, x.size)).run([x])
    expected = x
    for i in range(7):
        expected = expected * np.float32(i % 3) + np.float32(1)
    np.testing.assert_array_equal(y, expected)


def test_set_num_threads_between_runs():
    old = threads.get_num_threads()
    exe = Executable(sums(5, 16))
    try:
        for n in (1, 2, 4, 2, 1, 3):
            threads.set_num_threads(n)
            assert threads.get_num_threads() == n
            assert (exe.run([np.full(16, n, np.float32)])[0] == n).all()
    finally:
        threads.set_num_threads(old)
    with pytest.raises(ValueError, match="positive"):
        threads.set_num_threads(0)


def test_second_python_thread_runs_alone(two):
    """While one Python thread is inside a plan, others run theirs: nobody waits and nobody mixes results."""
    plans = [Executable(sums(50, 32)) for _ in range(3)]
    errors: list[float] = []

    def work(exe: Executable, value: float) -> None:
        for _ in range(60):
            y, = exe.run([np.full(32, value, np.float32)])
            if not (y == value).all():
                errors.append(value)

    workers = [threading.Thread(target=work, args=(exe, i + 1)) for i, exe in enumerate(plans)]
    workers += [threading.Thread(target=work, args=(plans[0], 9))]  # and two share one plan
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert errors == []


def test_gil_is_released(two):
    """Python goes on while a plan runs."""
    exe = Executable(sums(200, 2048))
    ticks = []
    done = threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.001)

    worker = threading.Thread(target=tick)
    worker.start()
    begin = time.monotonic()
    exe.run([np.ones(2048, np.float32)])
    end = time.monotonic()
    done.set()
    worker.join()
    if end - begin < 0.02:
        pytest.skip("the machine was too fast to see it")
    assert sum(begin < t < end for t in ticks) >= 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_fork_inside_a_loop(two):
    """The child has no pool and one thread; the parent's pool goes on."""
    exe = Executable(sums(20, 16))
    for value in range(1, 6):
        assert (exe.run([np.full(16, value, np.float32)])[0] == value).all()
        child = os.fork()
        if child == 0:
            ok = threads.get_num_threads() == 1 and (exe.run([np.full(16, 7, np.float32)])[0] == 7).all()
            threads.set_num_threads(2)
            ok = ok and (exe.run([np.full(16, 8, np.float32)])[0] == 8).all()
            os._exit(0 if ok else 1)
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_fork_while_another_thread_runs(two):
    exe, other = Executable(sums(100, 32)), Executable(sums(10, 16))
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            exe.run([np.ones(32, np.float32)])

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                ok = all((plan.run([np.full(n, 7, np.float32)])[0] == 7).all()
                         for plan, n in ((exe, 32), (other, 16)))
                os._exit(0 if ok else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        done.set()
        worker.join()


def test_signals_go_to_python(two):
    """Pool threads have every signal masked, so handlers run as if there were none."""
    exe = Executable(sums(20, 16))
    seen = []

    def handler(*_):
        seen.append(exe.run([np.full(16, 3, np.float32)])[0][0])
        signal.setitimer(signal.ITIMER_REAL, 0.002)  # only now: on a busy machine the next would come into this one

    old = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.002)
        stop = time.monotonic() + 0.3
        other = Executable(sums(30, 16))
        while time.monotonic() < stop:
            assert (other.run([np.full(16, 5, np.float32)])[0] == 5).all()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert seen and set(seen) == {3.0}


def test_no_thread_before_it_is_needed_and_a_clean_exit(tmp_path):
    script = """
import os, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from fanal.core.backends.cpu import threads
from fanal.core.backends.cpu.run import Executable
from test_threads import sums
tasks = lambda: len(os.listdir("/proc/self/task"))
threads.set_num_threads(3)
before = tasks()
exe = Executable(sums(3, 16))
assert tasks() == before
exe.run([np.ones(16, np.float32)])
assert tasks() == before + 2, tasks()
"""
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("no /proc")
    here = os.path.dirname(__file__)
    result = subprocess.run([sys.executable, "-c", script, here], capture_output=True, text=True, timeout=60,
                            check=False, env={**os.environ, "PYTHONPATH": os.path.join(here, "../.."),
                                              "OMP_NUM_THREADS": "", "FANAL_CACHE_DIR": str(tmp_path)})
    assert (result.returncode, result.stderr) == (0, "")


def test_floating_point_control_is_the_default():
    """A caller that flushes denormals to zero gets IEEE results, from every thread, and keeps its setting."""
    try:
        import torch
    except ImportError:
        pytest.skip("needs something that sets flush-to-zero")
    if not torch.set_flush_denormal(True):
        pytest.skip("not on this processor")
    try:
        tiny = np.full(60_000, 1e-40, np.float32)
        lowered = chain(2, tiny.size)
        lowered.steps[0].kernel = lowered.steps[1].kernel = _times_one()
        y, = Executable(lowered).run([tiny])
        assert (y.view(np.int32) == tiny.view(np.int32)).all()
        assert torch.tensor([1e-40]).mul(1.0).item() == 0.0  # still on for the caller
    finally:
        torch.set_flush_denormal(False)


def _times_one():
    from kernels import affine

    return affine("k_times_one", 1.0, 0.0)


def test_schedule_needs_few_barriers():
    def made(x, y, work):
        return launch(total("k", 1.0), x, y, 64, work=work)

    def none(value):
        return ()

    small, big = 1000, BIG
    # Small steps alone: one thread, no barrier, no pool.
    assert schedule([made(0, 1, small), made(1, 2, small)], 2, none) == [Slot(0, 1, False)] * 2
    # Independent big steps share a phase.
    assert [s.barrier for s in schedule([made(0, 1, big), made(0, 2, big), made(1, 3, big)], 2, none)] == \
        [False, False, True]
    # Small steps follow what made their input; those worth it spread out.
    slots = schedule([made(0, 1, 20_000), made(0, 2, 20_000), made(2, 3, small), made(3, 4, big)], 2, none)
    assert slots == [Slot(0, 1, False), Slot(1, 1, False), Slot(1, 1, False), Slot(0, 2, True)]
    # Memory that is used again is a dependence.
    again = schedule([made(0, 1, big), made(1, 2, big), made(9, 3, big)], 2, lambda v: (1,) if v == 3 else ())
    assert [s.barrier for s in again] == [False, True, True]
    # Overwriting what is still being read waits.
    assert [s.barrier for s in schedule([made(0, 1, big), made(5, 0, big)], 2, none)] == [False, True]


def test_cores_are_at_least_one():
    assert 1 <= host.cores() <= (os.cpu_count() or 1)
