"""Accuracy of the vector functions in units in the last place, and their special values."""
from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from harness import contents, inp, run

from fanal.core.base import dtype as dt
from fanal.core.ir import prims as P
from fanal.core.ir import row as rows
from fanal.core.ir.prims.point import ELEMENTARY

ROWS = {**rows.ROWS, **{n: partial(lambda n, x: P.elementary(x, n), n) for n in ELEMENTARY}}
RNG = np.random.default_rng(1)
# name: (ranges, worst ULP in float32, in float64)
RANGES = {
    "exp": ([(-104, 89), (-1, 1)], 1.5, 2), "expm1": ([(-20, 88), (-1, 1), (-1e-4, 1e-4)], 1.5, 2),
    "log": ([(1e-38, 1e38), (0.5, 2), (0.99, 1.01), (1e-44, 1e-39)], 1.5, 2),
    "log1p": ([(-0.999, 2), (-1e-3, 1e-3), (0, 1e30)], 1.5, 2), "log2": ([(1e-38, 1e38), (0.5, 2)], 1.5, 2),
    "sin": ([(-4, 4), (-1000, 1000), (-1e8, 1e8)], 1.5, 2), "cos": ([(-4, 4), (-1000, 1000), (-1e8, 1e8)], 1.5, 2),
    "tanh": ([(-10, 10), (-1, 1), (-1e-3, 1e-3)], 1.5, 2), "erf": ([(-4, 4), (-1, 1), (-1e-4, 1e-4)], 1.5, 2),
    "erfc": ([(-4, 9), (-1e-3, 1e-3)], 1.5, 2), "atan": ([(-10, 10), (1e-30, 1e30)], 1.5, 2),
    "tan": ([(-1.5, 1.5), (-1e5, 1e5)], 1.5, 2), "asin": ([(-1, 1), (0.99, 1), (-1e-3, 1e-3)], 1.5, 2),
    "acos": ([(-1, 1), (0.99, 1), (-1, -0.99)], 1.5, 2), "atanh": ([(-1, 1), (0.99, 1), (-1e-3, 1e-3)], 1.5, 2),
    "sinh": ([(-5, 5), (-88, 88), (-1e-3, 1e-3)], 1.5, 2), "cosh": ([(-5, 5), (-88, 88)], 1.5, 2),
    "asinh": ([(-5, 5)], 1.5, 2), "sqrt": ([(0, 1e9)], 0.5, 0.5),
}
EXACT = {"exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "log2": np.log2, "sin": np.sin,
         "cos": np.cos, "tanh": np.tanh, "erf": np.vectorize(math.erf), "erfc": np.vectorize(math.erfc),
         "atan": np.arctan, "tan": np.tan, "sinh": np.sinh, "cosh": np.cosh, "asin": np.arcsin,
         "acos": np.arccos, "atanh": np.arctanh, "asinh": np.arcsinh, "sqrt": np.sqrt}


def ulps(got: np.ndarray, want: np.ndarray, of: type) -> float:
    with np.errstate(all="ignore"):
        step = np.spacing(np.abs(want).astype(of)).astype(np.longdouble)
        bad = np.abs(got.astype(np.longdouble) - want.astype(np.longdouble)) / step
        ok = np.isfinite(want.astype(of))
    assert np.array_equal(np.isfinite(got), ok)
    return float(bad[ok].max())


@pytest.mark.parametrize("d", [dt.float32, dt.float64], ids=lambda d: d.name)
@pytest.mark.parametrize("name", RANGES)
def test_accuracy(name, d):
    ranges, single, double = RANGES[name]
    for low, high in ranges:
        x = inp((20000,), d)
        if low > 0 and high / low > 1e4:
            contents[x] = np.exp(RNG.uniform(math.log(low), math.log(high), 20000)).astype(d.np)
        else:
            contents[x] = RNG.uniform(low, high, 20000).astype(d.np)
        (got,), _ = run([x], [ROWS[name](x)])
        if d is dt.float32:
            want = EXACT[name](contents[x].astype(np.float64))
            limit = single
        else:  # long double where NumPy has it, else the C library is what we can compare with
            wide = contents[x].astype(np.longdouble)
            want = EXACT[name](wide if name not in ("erf", "erfc") else contents[x])
            limit = double
        assert ulps(got, want, d.np.type) <= limit, (low, high)


@pytest.mark.parametrize("name", ["exp", "expm1", "tanh", "erf", "cosh", "atan"])
def test_one_number_gets_the_bits_of_many(name):
    values = np.concatenate([RNG.uniform(-105, 90, 40), [-103.3, -88, -87.4, 88.7, 89.5, -math.inf, math.inf]])
    x = inp((len(values),), dt.float32)
    contents[x] = values.astype(np.float32)
    (many,), _ = run([x], [ROWS[name](x)])
    for value, want in zip(contents[x], many, strict=True):
        one = inp((1, 1), dt.float32)
        contents[one] = np.full((1, 1), value, np.float32)
        (row,), _ = run([one], [ROWS["broadcast"](ROWS[name](one), (1, 33))])
        assert (row == want).all(), value


@pytest.mark.parametrize("name", ["exp", "expm1", "log", "log1p", "log2", "sin", "cos", "tanh", "erf", "atan", "tan",
                                  "asin", "acos", "atanh", "cosh", "sinh", "erfc"])
@pytest.mark.parametrize("d", [dt.float32, dt.float64], ids=lambda d: d.name)
def test_special_values(name, d):
    x = inp((20,), d)
    values = [0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.0, 1e-30, -1e-30, 88.8, -103.9, -110, 120, 709.9,
              -745.2, 1e-42, 1e30, 3.0, -2.0, 2.0 ** -149]
    with np.errstate(over="ignore"):
        contents[x] = np.array(values).astype(d.np)
    (got,), _ = run([x], [ROWS[name](x)])
    with np.errstate(all="ignore"):
        want = EXACT[name](contents[x].astype(np.float64 if name in ("erf", "erfc") else np.longdouble))
        want = want.astype(d.np)
    np.testing.assert_allclose(got, want, 4 * np.finfo(d.np).eps, np.finfo(d.np).smallest_subnormal)
    zero = want == 0
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(want[zero]))


@pytest.mark.parametrize("name, end", [("erf", 4.0), ("tanh", 9.1)])
def test_curves_reach_one_and_stay_there(name, end):
    x = inp((4000,), dt.float32)
    contents[x] = np.concatenate([np.linspace(end - 0.5, end, 2000), np.geomspace(end, 3e38, 2000)]).astype(np.float32)
    (got,), _ = run([x], [ROWS[name](x)])
    assert got[0] < 1 and (got <= 1).all() and (got[2000:] == 1).all()


@pytest.mark.parametrize("d", [dt.float32, dt.float64, dt.bfloat16], ids=lambda d: d.name)
def test_pow(d):
    special = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 3.0, -3.0, math.inf, -math.inf, math.nan, 2.5, -2.5, 1e10]
    a, b = np.meshgrid(special, special)
    x, y = inp((256,), d), inp((256,), d)
    contents[x], contents[y] = a.ravel().astype(d.np), b.ravel().astype(d.np)
    (got,), _ = run([x, y], [ROWS["pow"](x, y)])
    with np.errstate(all="ignore"):
        want = np.power(contents[x].astype(np.float64), contents[y].astype(np.float64)).astype(d.np)
    eps = {dt.float32: 1.2e-7, dt.float64: 3e-16, dt.bfloat16: 8e-3}[d]
    np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), eps)
    if d is dt.float32:
        x, y = inp((5000,), d, 1e-3, 50), inp((5000,), d, -10, 10)
        (got,), _ = run([x, y], [ROWS["pow"](x, y)])
        want = contents[x].astype(np.float64) ** contents[y].astype(np.float64)
        assert ulps(got, want, np.float32) <= 0.51


def test_a_lane_does_not_see_its_neighbours():
    x = inp((64,), dt.float32)
    contents[x] = np.linspace(-3, 3, 64).astype(np.float32)
    (plain,), _ = run([x], [ROWS["sin"](x)])
    contents[x][5] = 1e20
    (mixed,), _ = run([x], [ROWS["sin"](x)])
    keep = np.arange(64) != 5
    assert plain[keep].tobytes() == mixed[keep].tobytes()


def test_scalars_and_vectors_agree():
    values = np.linspace(-2, 2, 37).astype(np.float32)
    for name in ("exp", "tanh", "erf", "sin", "log1p", "expm1"):
        x = inp((37,))
        contents[x] = np.abs(values) if name == "log1p" else values
        (whole,), _ = run([x], [ROWS[name](x)])
        for k in (0, 11, 36):
            one = inp(())
            contents[one] = contents[x][k:k + 1].reshape(())
            (y,), _ = run([one], [ROWS[name](one)])
            assert y.tobytes() == whole[k].tobytes(), name
