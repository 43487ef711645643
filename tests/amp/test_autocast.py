"""Autocast: what is cast, that gradients pass through casts, and that a training loop with it is followed."""
from __future__ import annotations

import importlib
import io
import warnings
from typing import Any

import numpy as np
import pytest

import fanal
from fanal import lens
from fanal.core.engine.ledger import ledger
from fanal.core.ops import autocast as table

torch = pytest.importorskip("torch")
BOTH = (torch, fanal)


def agree(f: Any) -> Any:
    """Run `f` with both libraries; return what both gave, as text."""
    expected, found = (str(f(library)) for library in BOTH)
    assert found == expected
    return found


# PyTorch's operators with a rule that are internal, or appear here under another name.
INTERNAL = {
    "_addmm_activation", "_convolution", "_grid_sampler_2d_cpu_fallback", "_lu_with_info", "mkldnn_rnn_layer",
    "_native_multi_head_attention", "fake_quantize_per_tensor_affine", "multilabel_margin_loss_forward", "nll_loss2d",
}
RENAMED = {"cross_entropy_loss": "cross_entropy"} | dict.fromkeys(
    (f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)), "pad")


def test_every_operator_with_a_rule_in_pytorch_has_one() -> None:
    names = torch._C._dispatch_get_all_op_names()
    ruled = {n[6:].partition(".")[0] for n in names
             if n.startswith("aten::") and torch._C._dispatch_has_kernel_for_dispatch_key(n, "AutocastCPU")}
    wanted = {RENAMED.get(n, n) for n in ruled - INTERNAL}
    wanted = {n.replace("fft_", "fft.", 1).replace("linalg_", "linalg.", 1) for n in wanted}
    assert wanted <= set(table._POLICIES)


def _call(t: Any, path: str, *args: Any, **kwargs: Any) -> str:
    f = t
    for part in path.split("."):
        f = getattr(f, part)
    with t.autocast("cpu"):
        try:
            made = f(*args, **kwargs)
        except RuntimeError as e:
            return type(e).__name__
    return str([x.dtype for x in (made if isinstance(made, tuple) else (made,))])


CASES = [
    ("mm", lambda t, x: (x, x)),
    ("Tensor.__matmul__", lambda t, x: (x, x[0])),
    ("addmm", lambda t, x: (x, x, x)),
    ("mv", lambda t, x: (x, x[0])),
    ("nn.functional.linear", lambda t, x: (x, x, x[0])),
    ("nn.functional.conv1d", lambda t, x: (x[None], x[:, :, None])),
    ("nn.functional.prelu", lambda t, x: (x, x[0, :1])),
    ("nn.functional.scaled_dot_product_attention", lambda t, x: (x[None], x[None], x[None])),
    ("einsum", lambda t, x: ("ij,jk->ki", x, x)),
    ("einsum", lambda t, x: ("ij->ji", x)),
    ("softmax", lambda t, x: (x, 1)),
    ("nn.functional.mse_loss", lambda t, x: (x.bfloat16(), x)),
    ("nn.functional.cross_entropy", lambda t, x: (x.bfloat16(), t.tensor([0, 1, 2, 3]))),
    ("nn.functional.linear_cross_entropy", lambda t, x: (x, x, t.tensor([0, 1, 2, 3]))),
    ("Tensor.prod", lambda t, x: (x.bfloat16(), 1)),
    ("linalg.qr", lambda t, x: (x.half(),)),
    ("fft.rfft", lambda t, x: (x.bfloat16(),)),
    ("cat", lambda t, x: ([x, x.bfloat16()],)),
    ("stack", lambda t, x: ([x.bfloat16(), x.bfloat16()],)),
    ("stack", lambda t, x: ([x.half(), x.bfloat16()],)),
    ("cat", lambda t, x: ([x.int(), x.bfloat16()],)),
    ("mm", lambda t, x: (x.double(), x.double())),
    ("nn.functional.pad", lambda t, x: (x.bfloat16(), (1, 1), "reflect")),
    ("nn.functional.pad", lambda t, x: (x.bfloat16(), (1, 1))),
    ("nn.functional.layer_norm", lambda t, x: (x.bfloat16(), (4,), x[0], x[0])),
    ("Tensor.addmm_", lambda t, x: (x.clone(), x, x)),
]


@pytest.mark.parametrize(("path", "operands"), CASES, ids=[f"{k}-{c[0]}" for k, c in enumerate(CASES)])
def test_dtypes_of_results(path: str, operands: Any) -> None:
    agree(lambda t: _call(t, path, *operands(t, t.arange(16.0).reshape(4, 4) / 16)))


def test_a_call_with_out_is_not_cast() -> None:
    def dtypes(t: Any) -> Any:
        out = t.empty(2, 2)
        with t.autocast("cpu"):
            return t.mm(t.ones(2, 2), t.ones(2, 2), out=out).dtype
    agree(dtypes)


def test_switches() -> None:
    def walk(t: Any) -> list:
        def seen() -> tuple:
            return t.is_autocast_enabled("cpu"), t.get_autocast_dtype("cpu"), t.is_autocast_cache_enabled()
        found = [seen()]
        with t.autocast("cpu", t.float16, cache_enabled=False):
            found.append(seen())
            with t.autocast("cpu", enabled=False):
                found.append((*seen(), t.mm(t.ones(1, 1), t.ones(1, 1)).dtype))
            with t.amp.autocast(device_type="cpu", dtype=t.bfloat16):
                found.append((*seen(), t.mm(t.ones(1, 1), t.ones(1, 1)).dtype))
            found.append((*seen(), t.mm(t.ones(1, 1), t.ones(1, 1)).dtype))
        t.set_autocast_enabled("cpu", True)
        t.set_autocast_dtype("cpu", t.float16)
        found.append((*seen(), t.mm(t.ones(1, 1), t.ones(1, 1)).dtype, t.is_autocast_enabled()))
        t.set_autocast_enabled("cpu", False)
        t.set_autocast_dtype("cpu", t.bfloat16)

        @t.autocast("cpu")
        def product(x: Any) -> Any:
            """Doc."""
            return x @ x
        return [*found, seen(), product(t.ones(1, 1)).dtype, product.__name__, t.amp.is_autocast_available("meta")]
    agree(walk)


def test_what_is_refused_and_what_warns() -> None:
    def texts(t: Any) -> list:
        found = []
        for attempt in (lambda: t.autocast(3), lambda: t.autocast("meta"), lambda: t.autocast("cpu")(3),
                        lambda: t.autocast("cpu", t.float64)._enabled, lambda: t.autocast("cuda")._enabled,
                        lambda: t.cpu.amp.autocast()._enabled, lambda: t.set_autocast_dtype("cpu", 3),
                        lambda: t.amp.custom_fwd(len)):
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                try:
                    found.append(attempt())
                except (RuntimeError, TypeError, ValueError) as e:
                    found.append(f"{type(e).__name__}: {e}")
            found.append([f"{w.category.__name__}: {w.message}" for w in warned])
        return found
    agree(texts)


def test_gradients_pass_the_casts() -> None:
    def grads(t: Any) -> list[np.ndarray]:
        t.manual_seed(0)
        layer = t.nn.Linear(8, 8)
        x = t.randn(4, 8, requires_grad=True)
        with t.autocast("cpu"):
            y = layer(layer(x))
            loss = t.nn.functional.mse_loss(y, t.ones(4, 8))
        loss.backward()
        assert layer.weight.grad.dtype is t.float32
        return [g.numpy() for g in (x.grad, layer.weight.grad, layer.bias.grad)]
    for found, expected in zip(grads(fanal), grads(torch), strict=True):
        atol = 2 ** -7 * np.abs(expected).max()  # two layers round to bfloat16 forward and backward
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def test_a_weight_is_cast_once_for_each_version() -> None:
    w = fanal.nn.Parameter(fanal.ones(2, 2))
    x = fanal.ones(2, 2)
    with lens.casts() as casts, fanal.autocast("cpu"):
        fanal.mm(x, w)
        fanal.mm(x, w)
        with fanal.no_grad():
            w.mul_(2)
        y = fanal.mm(x, w)
    assert y.tolist() == [[4, 4], [4, 4]]
    assert [c.kept for c in casts] == [False, False, False, True, False, False]
    with lens.casts() as casts, fanal.autocast("cpu", cache_enabled=False):
        fanal.mm(x, w)
        fanal.mm(x, w)
    assert not any(c.kept for c in casts)


def test_the_report_names_operator_dtypes_and_line() -> None:
    out = io.StringIO()
    with lens.casts() as casts, fanal.autocast("cpu"):
        y = fanal.ones(2, 3) @ fanal.ones(3, 2)
        fanal.nn.functional.l1_loss(y, y)
    casts.print(out)
    assert [(c.operator, c.source.name, c.to.name) for c in casts] == [
        ("__matmul__", "float32", "bfloat16")] * 2 + [("l1_loss", "bfloat16", "float32")] * 2
    assert "test_autocast.py" in out.getvalue()


def test_custom_functions() -> None:
    def dtypes(t: Any) -> list:
        seen = []

        class Product(t.autograd.Function):
            @staticmethod
            @t.amp.custom_fwd(device_type="cpu", cast_inputs=t.float32)
            def forward(ctx: Any, x: Any) -> Any:
                ctx.save_for_backward(x)
                seen.append((x.dtype, (x @ x).dtype))
                return x @ x

            @staticmethod
            @t.amp.custom_bwd(device_type="cpu")
            def backward(ctx: Any, g: Any) -> Any:
                x, = ctx.saved_tensors
                seen.append((x @ x).dtype)
                return g @ x.t() + x.t() @ g

        class Same(t.autograd.Function):
            @staticmethod
            @t.amp.custom_fwd(device_type="cpu")
            def forward(ctx: Any, x: Any) -> Any:
                return x * 2

            @staticmethod
            @t.amp.custom_bwd(device_type="cpu")
            def backward(ctx: Any, g: Any) -> Any:
                seen.append((g @ g).dtype)
                return g * 2
        x = t.ones(2, 2, requires_grad=True)
        with t.autocast("cpu"):
            y = Same.apply(Product.apply(x.bfloat16()))
        y.sum().backward()
        return [*seen, y.dtype, x.grad.tolist()]
    agree(dtypes)


def train(t: Any, steps: int, dtype: str, scaled: bool, clip: bool = False) -> tuple[list[float], list[dict]]:
    """Losses of a small network, and what the engine counted before each step."""
    nn = t.nn
    t.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 16),
                          nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 5))
    optimizer = t.optim.AdamW(model.parameters(), lr=1e-2)
    batches = [(t.tensor(np.random.RandomState(k).randn(8, 1, 4, 4).astype(np.float32)), t.arange(8) % 5)
               for k in range(4)]
    scaler = t.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3, enabled=scaled)
    losses, counts = [], []
    for k in range(steps):
        x, y = batches[k % 4]
        counts.append(ledger.snapshot())
        optimizer.zero_grad()
        with t.autocast("cpu", getattr(t, dtype)):
            loss = nn.functional.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        if clip:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.detach())
    return [float(x) for x in losses], counts


@pytest.mark.parametrize(("dtype", "scaled", "clip"), [("bfloat16", False, False), ("float16", True, True)])
def test_training_follows_pytorch_and_is_followed(dtype: str, scaled: bool, clip: bool) -> None:
    expected, _ = train(torch, 12, dtype, scaled, clip)
    losses, counts = train(fanal, 12, dtype, scaled, clip)
    np.testing.assert_allclose(losses, expected, rtol=2 ** -8 if dtype == "bfloat16" else 2 ** -10)
    for count in ("recorded", "plans", "kernels", "diverged"):
        assert counts[-1][count] == counts[3][count], count
    assert counts[-1]["flushes"] - counts[3]["flushes"] == 8 * (2 if scaled else 1)


def test_a_segment_of_another_autocast_is_another_one() -> None:
    x = fanal.ones(2, 2)
    float(x.sum())
    for k in range(8):
        with fanal.autocast("cpu", fanal.float16 if k % 2 else fanal.bfloat16, enabled=k % 3 != 0):
            float(x.sum())  # a flush, so that the next segment begins inside
            y = x @ x
            assert y.dtype is (fanal.float32 if k % 3 == 0 else fanal.float16 if k % 2 else fanal.bfloat16)
            assert y.tolist() == [[2, 2], [2, 2]]


def test_modules_are_where_scripts_import_them_from() -> None:
    for name in ("amp.autocast_mode", "amp.grad_scaler", "cpu.amp", "cuda.amp"):
        importlib.import_module(f"fanal.{name}")
    assert fanal.amp.autocast_mode.autocast is fanal.autocast
