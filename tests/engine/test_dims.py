"""Named sizes: what was computed for some is what computing with others gives, or a condition says no."""
from __future__ import annotations

import math
import operator
import pickle
import random
from typing import Any

import pytest

from fanal.core.base.dim import Dim, Dims, Formulas, limits, near, now, plain, whole

OPERATIONS = (operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, max, min,
              lambda a, b: a if a == b else b, lambda a, b: a + 1 if a < b else b, lambda a, b: divmod(a, b)[1])


def computed(seed: int, names: list[Any]) -> list[Any]:
    """Compute numbers from sizes in a random way."""
    r = random.Random(seed)
    found = [*names, 3, 16, 1]
    for _ in range(12):
        a, b = r.choice(found), r.choice(found)
        f = r.choice(OPERATIONS)
        found.append(f(a, b if b else 2))
    return found[len(names) + 3:]


@pytest.mark.parametrize("seed", range(40))
def test_other_values_give_what_computing_gives(seed: int) -> None:
    dims = Dims()
    names = [dims.name(9), dims.name(20)]
    with dims:
        found = computed(seed, names)
    served = 0
    for values in [(9, 20), (9, 21), (8, 30), (15, 16), (31, 8), (20, 20), (12, 24), (10, 30)]:
        dims.set(values)
        if dims.hold():
            served += 1
            assert [now(x) for x in found] == computed(seed, list(values))
    assert served


def test_what_is_no_polynomial_fixes_the_size() -> None:
    for use in (str, float, int, lambda n: n / 2, lambda n: n << 1, lambda n: f"{n}", lambda n: n * 1.5,
                lambda n: n ** 2, lambda n: n.bit_length(), lambda n: n < 2.5):
        dims = Dims()
        n = dims.name(9)
        with dims:
            assert use(n) == use(9)
        dims.set([10])
        assert not dims.hold()


def test_exact_quotients_need_no_condition() -> None:
    dims = Dims()
    b, t = dims.name(12), dims.name(33)
    with dims:
        size = math.prod((b, t + 1, 4, 32))
        assert size // 128 % (t + 1) == 0 and type(size // (b * 128)) is Dim
        found = [size // (b * 128), -(-t // 16), sum([b, t, 1])]
    dims.set([20, 100])
    assert [x.now() for x in found] == Formulas(dims, found).values().tolist() == [101, 7, 121]
    assert dims.hold()


def test_outside_it_is_an_int() -> None:
    dims = Dims()
    n, other = dims.name(9), Dims()
    m = other.name(4)
    assert type(n + 1) is type(n * 2) is int and n == 9 and {n: 1}[9] == 1 and f"{n}" == "9"
    assert type(pickle.loads(pickle.dumps(n))) is type(plain(n)) is int
    with other:  # the names of another step are plain to this one
        assert type(n + m) is type(m * n) is Dim and (n + m).dims is other and n > m
    other.set([5])
    assert other.hold() and (n + m) == 13


@pytest.mark.parametrize("s", [slice(None), slice(2, None), slice(-3, None), slice(None, -1), slice(1, 99, 2)])
def test_limits_are_those_of_slices(s: slice) -> None:
    dims = Dims()
    n = dims.name(9)
    with dims:
        found = limits(s, n)
    for value in (9, 10, 15, 30, 31):
        dims.set([value])
        if dims.hold():
            assert now(found) == s.indices(value)
    assert whole(n) is n and whole(2.0) == 2


def test_what_is_planned_together() -> None:
    assert [near(n) for n in (0, 1, 2, 7, 8, 31, 32)] == [(0, 0), (1, 1), (2, 7), (2, 7), (8, 31), (8, 31), (32, 127)]


def test_nothing_named_is_always_the_same() -> None:
    assert Dims().hold()
