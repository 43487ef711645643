"""Indexing against torch: values, views, gradients, error texts."""
from __future__ import annotations

import pytest
import torch

import fanal
from tests.ops.oracle import check, check_gradient

READS = """x[0] | x[-1, :, 1:3] | x[..., 0] | x[None] | x[:, None, 1] | x[::1, ::2] | x[[0, 1]] | x[[[0, 1], [1, 2]]]
x[True] | x[False] | x[m.tensor(True)] | x[..., True] | x[m.tensor([False, True])] | x[()] | x[...] | x[:0] | x[3:1] | x[[]]
x[m.tensor([0, 1]), :, m.tensor([0, -1])] | x[:, m.tensor([0, 1]), m.tensor([0, 1])] | x[0, :, m.tensor([0, 1])]
x[m.tensor(0), :, m.tensor([0, 1])] | x[m.tensor([[0, 1], [1, 1]]), 1:, m.tensor([2, 3])] | x[x > 0] | x[np.array([0, 1])]
x[:, m.tensor([[True, False, True, True]] * 3)] | x[np.int64(1)] | x[m.tensor([], dtype=m.long)] | x[x[:, 0, 0] > 100]
x[(x > 0).any(-1), 1:] | x[m.tensor([0, 1]) + 0, m.tensor([1, 2]) - 1] | x[..., None, m.tensor([1]), None]
x[m.tensor([0, 1, 0])][:, 1] | x[1:][0, 1:] | x.transpose(0, 2)[1, ..., :2] | x[:, 1:][:, m.tensor([1, 0])]""".replace("\n", " | ").split(" | ")
ERRORS = """x[5] | x[0, 0, 0, 0] | x[1.0] | x['a'] | x[::-1] | x[::0] | x[0.5:] | x[m.tensor([True, False, True])] | x[m.tensor([0, 7])]
x[m.tensor([0, 1]), m.tensor([0, 7])] | x[m.tensor([0, 1]), m.tensor([0, 1, 2])] | x[m.tensor([.5])] | x[0, 0, 0][0]
x[m.ones(2, dtype=m.int16)] | x[0, 0, 0][0:1]""".replace("\n", " | ").split(" | ")
WRITES = [("0", "1"), (":, 1", "x[:, 0] * 2"), ("..., 1:3", "m.tensor([1., 2.])"), ("x > 0", "0."), ("x > 0", "m.tensor(3)"),
          ("m.tensor([0, 1])", "x[0]"), ("m.tensor([0, 1]), :, m.tensor([0, 3])", "m.tensor([9., 8, 7])"),
          ("x > 0", "m.ones(int((x > 0).sum()))"), ("0", "m.ones(1, 1, 3, 4)"), ("0", "m.ones(3, 4, dtype=m.long)"),
          (":, m.tensor([True, False, True])", "5."), (":, m.tensor([True, False, True])", "m.ones(2, 4) * 3"), ("True", "2."),
          ("False", "2."), ("[0, 1]", "2."), ("1, m.tensor([0, 2])", "2."), ("...", "x.flip(0)"), ("1, 1:, ::2", "m.ones(2)"),
          ("0,", "m.ones(2)"), ("m.tensor([0, 1])", "m.ones(5)"), ("m.tensor([0, 1])", "m.ones(4, dtype=m.long)"), ("0", "'a'"),
          ("0", "[1, 2]"), ("0", "1j"), ("m.tensor([0, 7])", "2."), ("0", "np.ones((3, 4), np.float32)"), ("0, 0, 0", "True")]
INDEXES = "m.tensor([[0, 0, 1], [1, 1, 1]])"
ELEMENTS = """x.gather(0, m.tensor([[0, 1, 0], [1, 1, 0]])) | x.gather(1, m.tensor([[0], [2]])) | x.index_select(1, m.tensor([2, 0, 0]))
x.scatter(0, m.tensor([[0, 1, 0]]), 1.) | x.scatter(0, m.tensor([[0, 1, 0]]), x * 2) | x.scatter_add(1, m.tensor([[0, 0], [1, 1]]), x * 2)
x.scatter(1, m.tensor([[0, 1], [1, 2]]), x, reduce='add') | x.index_add(0, m.tensor([0, 0]), x * 2, alpha=2)
x.index_copy(1, m.tensor([0, 2]), x[:, :2] * 2) | x.index_fill(1, m.tensor([0, -1]), 3.) | x.take(m.tensor([[0, 5], [-1, 2]]))
x.put(m.tensor([0, 0, 5]), m.tensor([1., 2, 3]), accumulate=True) | x.masked_select(x > 0) | m.take_along_dim(x, m.tensor([[0], [1]]), 1)
x.masked_scatter(x > 0, m.tensor([1., 2, 3, 4, 5, 6])) | m.where(x > 0, x, 0.) | x.tril(1) | x.triu(-1)
x.index_put((m.tensor([0, 1]), m.tensor([0, 0])), m.tensor([1., 2])) | x.index_reduce(0, m.tensor([0, 0]), x, 'amax')
x.index_put((m.tensor([0, 0]), m.tensor([0, 0])), m.tensor([1., 2]), accumulate=True)""".replace("\n", " | ").split(" | ")
ELEMENTS += [f"x.scatter_reduce(1, {INDEXES}, x + 1, '{r}', include_self={s})" for r in ("sum", "prod", "mean", "amax", "amin")
             for s in (True, False)]
POSITIONS = """m.nonzero(x > 0) | m.nonzero(x > 0, as_tuple=True) | m.argwhere(x > 0) | m.where(x > 0) | m.tril_indices(3, 4, 1)
m.triu_indices(3, 4, -1) | m.nonzero(x[0, 0]) | m.nonzero(x[0, 0], as_tuple=True) | m.nonzero(m.zeros(0, 3))""".replace("\n", " | ").split(" | ")
BAD = """x.gather(0, m.tensor([[0, 1, 0, 1]])) | x.gather(0, m.tensor([0])) | x.gather(0, m.tensor([[2]])) | x.index_select(0, m.tensor([5]))
x.scatter(0, m.tensor([[5]]), 1.) | x.scatter(0, m.tensor([[0, 1, 0, 1]]), 1.) | x.masked_scatter(m.tensor([[True] * 3] * 2), m.ones(2))
x.take(m.tensor([9])) | x.index_add(0, m.tensor([1]), x) | x.masked_select(m.tensor([1, 0, 1]))""".replace("\n", " | ").split(" | ")


@pytest.mark.parametrize("code", READS + ERRORS)
def test_getitem(code: str) -> None:
    check(code)


@pytest.mark.parametrize(("at", "value"), WRITES)
def test_setitem(at: str, value: str) -> None:
    check(f"y = x.clone(); y[{at}] = {value}")


@pytest.mark.parametrize("code", [c for c in READS if "100" not in c and "False]" not in c])
def test_getitem_gradient(code: str) -> None:
    check_gradient(code)


@pytest.mark.parametrize(("at", "value"), [w for w in WRITES[:18] if "x > 0" not in w])
def test_setitem_gradient(at: str, value: str) -> None:
    check_gradient(f"y = x * 2; y[{at}] = {value}")


@pytest.mark.parametrize("code", ELEMENTS + POSITIONS + BAD)
def test_elements(code: str) -> None:
    check(code, (2, 3), strides=False)


@pytest.mark.parametrize("code", ELEMENTS)
def test_elements_gradient(code: str) -> None:
    check_gradient(code, (2, 3))


def test_views_share_memory() -> None:
    check("y = x.clone(); v = y[1, :, 1:3]; v *= 2; w = y.transpose(0, 2)[1]; w.zero_(); y[0].t()[1] = 7.")


@pytest.mark.parametrize("index", [
    "(s, [0, 1], s, [0, 1])", "([1, -1], s, s, [3, 2])", "([[1], [2]], s, [0, 3])", "(s, [0, 5], 1, [2, -3])", "(s, m.tensor([4]), s, [7])"])
def test_positions_in_dimensions_apart(index: str) -> None:
    found = []
    for m in (torch, fanal):
        x = m.arange(5 * 6 * 7 * 8, dtype=m.float32).reshape(5, 6, 7, 8).requires_grad_()
        for _ in range(3):  # the second time it is followed
            x.grad = None
            y = x[eval(index, {"s": slice(None), "m": m})]
            (y * y).sum().backward()
        found.append((y.tolist(), x.grad.tolist()))
    assert found[0] == found[1]
    with pytest.raises(IndexError):
        fanal.ones(5, 6, 7, 8)[:, fanal.tensor([0, 6]), :, fanal.tensor([0, 1])].sum().item()
    with pytest.raises(IndexError, match="shape mismatch"):
        fanal.ones(5, 6, 7, 8)[:, [0, 1], :, [0, 1, 2]]
