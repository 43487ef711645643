"""Sums over rows that a row kernel begins: one pass over memory, and the bits of a kernel of their own."""
from __future__ import annotations

import numpy as np
import pytest
from harness import check, contents, inp, program_of, run
from test_loops import gelu, mean

from fanal.core.backends.contract import Launch
from fanal.core.backends.cpu.backend import default
from fanal.core.base import dtype as dt
from fanal.core.compiler.pipeline import lower
from fanal.core.ir import prims as P
from fanal.core.ir.program import Node


def layer_norm_gradients(g: Node, x: Node, w: Node) -> list[Node]:
    """Return the gradients of x, w and b; all but the last dimension are rows."""
    dim, rows = (len(x.shape) - 1,), tuple(range(len(x.shape) - 1))
    d = P.sub(x, P.spread_back(mean(x, dim), x, dim))
    r = P.div(P.num(x, 1), P.sqrt(P.add(mean(P.mul(d, d), dim), P.num(x, 1e-5))))
    y = P.mul(d, P.spread_back(r, x, dim))
    u = P.mul(g, P.broadcast(w, x.shape))
    inner = P.sub(P.sub(u, P.spread_back(mean(u, dim), x, dim)), P.mul(y, P.spread_back(mean(P.mul(u, y), dim), x, dim)))
    return [P.mul(inner, P.spread_back(r, x, dim)), P.sum_(P.mul(g, y), rows), P.sum_(g, rows)]


def launches(inputs: list[Node], outputs: list[Node], writes: dict[int, int] | None = None) -> list[Launch]:
    return lower(program_of(inputs, outputs, writes), default()).steps


@pytest.mark.parametrize("shape", [(256, 96), (4, 75, 100), (20000, 17)], ids=str)
def test_layer_norm_backward_reads_its_operands_once(shape: tuple[int, ...]) -> None:
    g, x, w = inp(shape), inp(shape), inp(shape[-1:])
    outputs = layer_norm_gradients(g, x, w)
    row, rest = launches([g, x, w], outputs)
    assert row.nbytes < 3.1 * contents[x].nbytes
    assert rest.nbytes < 0.3 * contents[x].nbytes
    check([g, x, w], outputs, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("dtype", [dt.float32, dt.bfloat16], ids=lambda d: d.name)
def test_the_bits_are_those_of_a_kernel_of_their_own(dtype: dt.dtype) -> None:
    for shape in ((300, 70), (8, 100, 64), (5000, 130)):
        x, rows = inp(shape, dtype), tuple(range(len(shape) - 1))
        y = gelu(x)
        sums = [P.sum_(y, rows), P.max_of(y, rows)]
        (stored, *together), _ = run([x], [y, *sums])
        (_, *divided), _ = run([x], [y, *sums], parts=5)
        z = inp(shape, dtype)
        contents[z] = stored
        apart, lowered = run([z], [P.sum_(z, rows), P.max_of(z, rows)])
        assert len(lowered.steps) <= 2
        for a, b, c in zip(together, divided, apart, strict=True):
            assert a.tobytes() == b.tobytes() == c.tobytes(), shape


def test_what_follows_the_sum_stays_in_one_kernel_with_it() -> None:
    x, bias = inp((400, 96)), inp((96,))
    y = gelu(P.add(x, P.broadcast(bias, (400, 96))))
    updated = P.sub(bias, P.mul(P.sum_(y, (0,)), P.num(x, 0.01)))
    assert len(launches([x, bias], [y, updated], {1: 1})) == 2
    check([x, bias], [y, updated], writes={1: 1})


def test_a_sum_that_what_it_would_be_begun_by_needs_stays_apart() -> None:
    x = inp((400, 96))
    y = gelu(x)
    total = P.sum_(y, (0,))
    z = P.mul(P.exp(P.neg(x)), P.broadcast(total, x.shape))
    check([x], [z, P.sum_(z, (0,))], rtol=1e-4)
    check([x], [P.permute(y, (1, 0)), P.sum_(y, (0,)), P.sum_(P.permute(y, (1, 0)), (0,))], rtol=1e-4)
    part = P.sum_(P.slice_(y, (0, 0), (400, 95), (1, 1)), (0,))
    check([x], [y, part], rtol=1e-4)


def test_long_columns_are_added_up_in_the_same_order_in_both_ways() -> None:
    x = inp((70000, 16))
    y = P.mul(x, x)
    (_, together), _ = run([x], [P.sum_(y, (1,)), P.sum_(y, (0,))])
    (apart,), _ = run([x], [P.sum_(y, (0,))])
    assert together.tobytes() == apart.tobytes()
    np.testing.assert_allclose(together, (contents[x].astype(np.float64) ** 2).sum(0), 1e-5)
