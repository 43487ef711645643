"""`torch.multiprocessing`: Python's, with spawn."""
from __future__ import annotations

import pytest

import fanal as torch
import fanal.multiprocessing as mp


def doubled(i, queue, x):
    queue.put((i, (x * 2).tolist()))


def unlucky(i):
    if i == 1:
        raise ValueError("out of luck")


def leaves(i):
    raise SystemExit(3)


def test_spawned_processes_take_tensors_and_give_them_back():
    queue = mp.get_context("spawn").SimpleQueue()
    assert mp.spawn(doubled, (queue, torch.arange(3)), nprocs=2) is None
    assert sorted(queue.get() for _ in range(2)) == [(0, [0, 2, 4]), (1, [0, 2, 4])]


def test_what_goes_wrong_in_a_process_is_raised():
    with pytest.raises(mp.ProcessRaisedException, match=r"Process 1 terminated with the following error:\n(.*\n)*ValueError: out of luck"):
        mp.spawn(unlucky, nprocs=2)
    with pytest.raises(mp.ProcessExitedException, match="process 0 terminated with exit code 3") as caught:
        mp.spawn(leaves)
    assert (caught.value.exit_code, caught.value.error_index) == (3, 0)


def test_processes_that_are_not_waited_for():
    started = mp.spawn(unlucky, nprocs=1, join=False)
    assert len(started.pids()) == 1
    while not started.join():
        pass


def test_names_of_pythons_module():
    assert mp.Process is __import__("multiprocessing").Process and mp.cpu_count() > 0
    mp.set_sharing_strategy("file_system")
    assert mp.get_sharing_strategy() == "file_system" and mp.get_sharing_strategy() in mp.get_all_sharing_strategies()
    with pytest.raises(AssertionError, match="unknown sharing strategy 'none'"):
        mp.set_sharing_strategy("none")
    mp.set_sharing_strategy("file_descriptor")
