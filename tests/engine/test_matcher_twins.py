"""The native matcher does what the Python one does, on random streams; threads do not disturb each other."""
from __future__ import annotations

import itertools
import random
import sys
import threading

import pytest

from fanal.core.engine import native
from fanal.core.engine.matcher import PurePython

pytestmark = pytest.mark.skipif(not native.supported(), reason="no native matcher for this interpreter")

KEYS = 3


def slow(*args, **kwargs):
    return "slow", args, tuple(kwargs.items())


def random_call(rng, objects):
    args = [rng.choice(objects) for _ in range(rng.randrange(5))]
    kwargs = {name: rng.choice(objects) for name in rng.choice([(), (), ("p",), ("p", "q"), ("q",)])}
    return rng.randrange(KEYS), args, kwargs


def chain(matcher, calls):
    steps = [matcher.new_step(key, (*args, *kwargs.values()), tuple(kwargs), i)
             for i, (key, args, kwargs) in enumerate(calls)]
    for a, b in itertools.pairwise(steps):
        matcher.link(a, b)
    return steps


def position(matcher, steps):
    cursor = matcher.get_cursor()
    return next((i for i, step in enumerate(steps) if step is cursor), None)


@pytest.mark.parametrize("seed", range(5))
def test_random_streams(seed):
    rng = random.Random(seed)
    objects = [object() for _ in range(4)]
    matchers = [native.Native(), PurePython()]
    functions = [[m.function(key, slow, "f") for key in range(KEYS)] for m in matchers]
    followed = 0
    for _ in range(200):
        stream = [random_call(rng, objects) for _ in range(rng.randrange(1, 12))]
        both = [chain(m, stream) for m in matchers]
        ring = rng.random() < 0.3
        for m, steps in zip(matchers, both, strict=True):
            if ring:
                m.link(steps[-1], steps[0])
            assert m.set_cursor(steps[0])
        for j in range(20):
            key, args, kwargs = stream[j % len(stream)] if rng.random() < 0.8 else random_call(rng, objects)
            change, i, o = rng.random(), rng.randrange(len(stream)), rng.choice(objects)
            size = len(stream[i][1]) + len(stream[i][2])
            at = rng.randrange(max(size, 1))
            for m, steps in zip(matchers, both, strict=True):
                if change < 0.1 and size:
                    m.set_arg(steps[i], at, o)
                elif 0.1 < change < 0.15:
                    m.free(steps[i])
                elif 0.15 < change < 0.2:
                    m.link(steps[i], steps[0])
                elif 0.2 < change < 0.25:
                    m.set_cursor(steps[i])
                elif 0.25 < change < 0.3:
                    m.set_out(steps[i], change)
            ours, theirs = (f[key](*args, **kwargs) for f in functions)
            assert ours == theirs
            followed += not isinstance(ours, tuple)
            assert position(matchers[0], both[0]) == position(matchers[1], both[1])
        for m in matchers:
            m.set_cursor(None)
    assert followed > 500


def test_threads_at_once():
    m = native.Native()
    f = m.function(1, slow, "f")
    failures = []

    def work():
        try:
            x = object()
            for _ in range(1000):
                steps = chain(m, [(1, [x], {})] * 5)
                if m.set_cursor(steps[0]):
                    assert [f(x) for _ in range(5)] == [0, 1, 2, 3, 4]
                assert f(x) == ("slow", (x,), ())
        except BaseException as error:
            failures.append(error)
            raise

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failures
