"""Products of groups, and of scaled 8-bit floats, against PyTorch."""

import numpy as np
import pytest
import torch

import fanal

SHAPES = {
    "rows": ((8, 16), (3, 16, 32)),
    "columns": ((3, 16, 32), (32, 8)),
    "added up": ((16, 8), (8, 32)),
    "batches": ((3, 8, 16), (3, 16, 32)),
}


def both(name, seed=0):
    draw = np.random.default_rng(seed)
    arrays = [draw.standard_normal(s).astype(np.float32) for s in SHAPES[name]]
    return [[m.tensor(a, requires_grad=True) for a in arrays] for m in (torch, fanal)]


@pytest.mark.parametrize("name", SHAPES)
def test_groups(name):
    ends = None if name == "batches" else [2, 2, 8]
    found = []
    for m, (a, b) in zip((torch, fanal), both(name)):
        offs = None if ends is None else m.tensor(ends, dtype=m.int32)
        y = m.nn.functional.grouped_mm(a, b, offs=offs)
        g = m.linspace(-1, 1, y.numel()).view(y.shape)
        if name == "columns":  # of which PyTorch 2.13 has the gradients in memory of another order
            found.append([y])
        else:
            y.backward(g)
            found.append([y, a.grad, b.grad])
    for e, g in zip(*found):
        assert tuple(g.shape) == tuple(e.shape)
        np.testing.assert_allclose(g.detach().numpy(), e.detach().numpy(), rtol=1e-5, atol=1e-5)


def test_rows_beyond_the_last_group_are_zero():
    _, (a, b) = both("rows")
    y = fanal.nn.functional.grouped_mm(a, b, offs=fanal.tensor([2, 4, 5], dtype=fanal.int32))
    assert y.shape == (8, 32) and not y[5:].any()
    np.testing.assert_allclose(y[4].tolist(), (a[4] @ b[2]).tolist(), rtol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda m, a, b, o: (a, b, {}),
        lambda m, a, b, o: (a, b[:, :8], {"offs": o}),
        lambda m, a, b, o: (a, b, {"offs": o.long()}),
        lambda m, a, b, o: (a, b, {"offs": o[:2]}),
        lambda m, a, b, o: (a.double(), b.double(), {"offs": o}),
        lambda m, a, b, o: (a.half(), b, {"offs": o}),
        lambda m, a, b, o: (a[0], b, {"offs": o}),
        lambda m, a, b, o: (b.mT.contiguous(), b[:2], {}),
        lambda m, a, b, o: (a, b, {"offs": o, "bias": b[:, 0]}),
        lambda m, a, b, o: (a, b, {"offs": o, "out_dtype": m.bfloat16}),
    ],
)
def test_errors_of_groups(change):
    texts = []
    for m, (a, b) in zip((torch, fanal), both("rows")):
        x, y, options = change(m, a.detach(), b.detach(), m.tensor([2, 5, 8], dtype=m.int32))
        with pytest.raises(RuntimeError) as e:
            m.nn.functional.grouped_mm(x, y, **options)
        texts.append(str(e.value).split("\n")[0])
    assert texts[0] == texts[1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", None])
@pytest.mark.parametrize("recipe", ["TensorWise", "RowWise"])
def test_scaled(recipe, dtype):
    draw = np.random.default_rng(1)
    arrays = [draw.standard_normal(s).astype(np.float32) for s in ((16, 32), (64, 32), (64,))]
    scales = (0.25, 1.5) if recipe == "TensorWise" else (draw.uniform(0.5, 2, (16, 1)), draw.uniform(0.5, 2, (1, 64)))
    found = []
    for m in (torch, fanal):
        f = m.nn.functional
        kind = getattr(f.ScalingType, recipe)
        a, b, bias = (m.tensor(x) for x in arrays)
        a, b = a.to(m.float8_e4m3fn), b.to(m.float8_e4m3fn).t()
        s, t = (m.tensor(x, dtype=m.float32) for x in scales)
        options = {"bias": bias.bfloat16()} if dtype == "bfloat16" else {}
        y = f.scaled_mm(a, b, s, kind, [t], [kind], output_dtype=dtype and getattr(m, dtype), **options)
        found.append(y.float().numpy())
        with pytest.raises(ValueError, match="Invalid scaling configuration"):
            f.scaled_mm(m.ones(16, 32), b, s, kind, t, kind)
    np.testing.assert_allclose(found[1], found[0], rtol={"bfloat16": 1 / 128, "float32": 1e-5, None: 1 / 8}[dtype], atol=1e-5)
