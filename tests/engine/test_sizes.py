"""Segments that come in many sizes: planned for a few of them, followed for all others, to the same bits."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_follow import Log, agree, on_a_thread

import fanal as torch
from fanal import nn
from fanal.core.base import knobs
from fanal.core.engine.branch import paths
from fanal.core.engine.ledger import ledger
from fanal.core.engine.sizes import STAYS
from fanal.nn import functional as F

SIZES = (3, 4, 5, 6, 9, 10, 11, 17, 18, 40, 50, 64, 65, 70, 12, 5, 2, 1, 31, 1, 140)


@pytest.fixture(autouse=True)
def _sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knobs, "sizes", True)


def rows(n: int, width: int = 6) -> Any:
    return torch.tensor(np.random.default_rng(n).standard_normal((n, width)).astype(np.float32))


class Attention(nn.Module):
    """A layer that keeps what it has seen by joining."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ln = nn.LayerNorm(width)

    def forward(self, x: Any, past: Any) -> Any:
        q, k, v = (t.view(1, 1, 2, -1).transpose(1, 2) for t in self.qkv(self.ln(x)).chunk(3, dim=2))
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(1, 2).reshape(1, 1, -1)), (k, v)


def write(steps: int, each: Any) -> None:
    torch.manual_seed(0)
    layers = [Attention(), Attention()]
    x, past = torch.ones(1, 1, 16), [None, None]
    with torch.no_grad():
        for i in range(steps):
            for k, layer in enumerate(layers):
                x, past[k] = layer(x, past[k])
            x = torch.tanh(x)
            each(i, x.sum().item(), past[0][0])


def test_keys_and_values_that_grow() -> None:
    def work(log: Log) -> None:
        write(70, lambda i, total, keys: log((total, keys.shape)))
    agree(work, 100)


def test_growing_plans_a_few_sizes_only() -> None:
    def body() -> tuple[int, int, int]:
        at: list[tuple[int, int]] = []
        write(80, lambda i, total, keys: at.append((ledger.recorded, ledger.plans)))
        return at[-1][1] - at[0][1], at[-1][0] - at[45][0], at[-1][1] - at[45][1]
    plans, recorded, late = on_a_thread(body)
    assert plans < 30 and recorded == late == 0


def test_training_on_batches_of_many_lengths() -> None:
    def work(log: Log) -> None:
        table = nn.Embedding(11, 8)
        model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 11))
        opt = torch.optim.AdamW([*table.parameters(), *model.parameters()], lr=1e-2)
        for n in SIZES[3:16]:
            tokens = torch.tensor(np.random.default_rng(n).integers(0, 11, (4, n + 1)))
            opt.zero_grad()
            logits = model(table(tokens[:, :-1]))
            loss = F.cross_entropy(logits.reshape(-1, 11), tokens[:, 1:].reshape(-1))
            loss.backward()
            opt.step()
            log((loss, logits.shape))
    agree(work, 50)


def test_two_sizes_at_once() -> None:
    def work(log: Log) -> None:
        w = torch.randn(6, 5, requires_grad=True)
        for a, b in zip(SIZES, reversed(SIZES)):
            scores = (rows(a) @ w) @ rows(b, 5).T
            loss = torch.softmax(scores, -1).square().sum() / (a * b)
            loss.backward()
            log((loss, w.grad))
            w.grad = None
    agree(work, 20)


def test_training_on_batches_of_many_sizes_and_lengths() -> None:
    """Sequences padded to the longest: a size that happens to equal another is nothing to plan for."""
    def work(log: Log, steps: int = 9) -> None:
        r = np.random.default_rng(1)
        table, head = nn.Embedding(40, 16), nn.Linear(16, 4)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        opt = torch.optim.AdamW([*table.parameters(), *layer.parameters(), *head.parameters()], lr=1e-2)
        for _ in range(steps):
            b, t = int(r.integers(8, 20)), int(r.integers(8, 40))
            padding = torch.tensor(np.arange(t)[None] >= r.integers(t // 2, t + 1, b)[:, None])
            y = layer(table(torch.tensor(r.integers(0, 40, (b, t)))), src_key_padding_mask=padding)
            opt.zero_grad()
            loss = F.cross_entropy(head(y.mean(1)), torch.tensor(r.integers(0, 4, b)))
            loss.backward()
            opt.step()
            log((loss, y.shape))
    agree(work, 12)

    def body() -> tuple[int, int, int]:
        at: list[dict[str, int]] = []
        work(lambda t: at.append((t[0].tolist(), ledger.snapshot())[1]), 70)
        return (at[-1]["plans"] - at[0]["plans"], *(at[-1][k] - at[35][k] for k in ("plans", "kernels")))
    plans, late, kernels = on_a_thread(body)
    assert plans < 25 and late < 6 and kernels == 0


class Recurrent(nn.Module):
    """Recurrent layers and a classifier of sequences."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.layers = getattr(nn, kind)(6, 8, batch_first=True, **options)
        self.out = nn.Linear(16 if options.get("bidirectional") else 8, 3)

    def forward(self, x: Any) -> Any:
        return self.out(self.layers(x)[0].mean(1))


@pytest.mark.parametrize(("kind", "options", "batches"), [
    ("LSTM", {}, (4, 4)), ("LSTM", {"num_layers": 2, "bidirectional": True}, (4, 4)), ("LSTM", {}, (2, 8)),
    ("GRU", {}, (2, 20)), ("RNN", {"bidirectional": True}, (4, 4))])
def test_sequences_of_any_length_are_one_plan(kind: str, options: dict, batches: tuple[int, int]) -> None:
    def work(log: Log, steps: int = 9) -> None:
        r = np.random.default_rng(2)
        model = Recurrent(kind, **options)
        opt = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(steps):
            b, t = int(r.integers(batches[0], batches[1] + 1)), int(r.integers(8, 40))
            opt.zero_grad()
            loss = F.cross_entropy(model(rows(b * t).view(b, t, 6)), torch.tensor(r.integers(0, 3, b)))
            loss.backward()
            opt.step()
            log((loss, model.layers.weight_hh_l0.grad))
    agree(work, 12)

    def body() -> tuple[int, int]:
        at: list[dict[str, int]] = []
        work(lambda t: at.append((t[0].tolist(), ledger.snapshot())[1]), 45)
        return at[-1]["plans"] - at[0]["plans"], at[-1]["kernels"] - at[20]["kernels"]
    plans, kernels = on_a_thread(body)
    assert plans < 18 and kernels == 0


class Packed(Recurrent):
    """The same for sequences of different lengths, packed."""

    def forward(self, x: Any, lengths: Any) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(self.layers(packed)[0], batch_first=True)
        return self.out(states.amax(1))


def test_packed_sequences_of_any_lengths_are_one_plan() -> None:
    def work(log: Log, steps: int = 9) -> None:
        r = np.random.default_rng(2)
        model = Packed("LSTM", bidirectional=True)
        opt = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(steps):
            lengths = [int(n) for n in r.integers(4, 40, 5)]
            opt.zero_grad()
            x = rows(5 * max(lengths)).view(5, -1, 6)
            loss = F.cross_entropy(model(x, lengths), torch.tensor(r.integers(0, 3, 5)))
            loss.backward()
            opt.step()
            log((loss, model.layers.weight_hh_l0.grad))
    agree(work, 12)

    def body() -> tuple[int, int]:
        at: list[dict[str, int]] = []
        work(lambda t: at.append((t[0].tolist(), ledger.snapshot())[1]), 24)
        return at[-1]["plans"] - at[0]["plans"], at[-1]["kernels"] - at[12]["kernels"]
    plans, kernels = on_a_thread(body)
    assert plans < 10 and kernels == 0


def test_sequences_whose_sizes_settle_get_a_program_of_their_own() -> None:
    def work(log: Log) -> None:
        r = np.random.default_rng(2)
        model = Recurrent("LSTM")
        opt = torch.optim.SGD(model.parameters(), lr=1e-2)
        for k in range(50):
            b, t = (3 + k, 9 + 2 * k) if k < 8 else (13, 21)
            opt.zero_grad()
            loss = F.cross_entropy(model(rows(b * t + k).flatten()[:b * t * 6].view(b, t, 6)),
                                   torch.tensor(r.integers(0, 3, b)))
            loss.backward()
            opt.step()
            log((loss, model.layers.weight_hh_l0.grad))
    agree(work, 20)


@pytest.mark.parametrize(("layers", "sizes"), [
    (lambda: [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
              nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.AdaptiveAvgPool2d(1)], lambda r: (3, *r.integers(36, 64, 2))),
    (lambda: [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.AvgPool2d(2),
              nn.AdaptiveAvgPool2d(1)], lambda r: (2, *r.integers(16, 32, 2))),
    (lambda: [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(8, 4, 1),
              nn.Upsample(scale_factor=2), nn.AdaptiveAvgPool2d(1)], lambda r: (2, *r.integers(17, 32, 2))),
    (lambda: [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(3, 2)], lambda r: (r.integers(8, 30), 9, 9)),
])
def test_images_of_any_size_are_a_few_plans(layers: Any, sizes: Any) -> None:
    def work(log: Log, steps: int = 9) -> None:
        r = np.random.default_rng(3)
        model = nn.Sequential(*layers(), nn.Flatten(), nn.LazyLinear(4))
        model(torch.ones(1, 3, *map(int, sizes(r)[1:])).repeat(2, 1, 1, 1))
        opt = torch.optim.SGD(model.parameters(), lr=1e-2)
        for _ in range(steps):
            b, h, w = map(int, sizes(r))
            x = torch.tensor(r.standard_normal((b, 3, h, w)).astype(np.float32))
            opt.zero_grad()
            loss = F.cross_entropy(model(x), torch.tensor(r.integers(0, 4, b)))
            loss.backward()
            opt.step()
            log((loss, model[0].weight.grad))
    agree(work, 15)

    def body() -> tuple[int, int]:
        at: list[dict[str, int]] = []
        work(lambda t: at.append((t[0].tolist(), ledger.snapshot())[1]), 50)
        return at[-1]["plans"] - at[0]["plans"], at[-1]["plans"] - at[25]["plans"]
    plans, late = on_a_thread(body)
    assert plans < 20 and late < 3


def test_numbers_that_are_sizes() -> None:
    def work(log: Log) -> None:
        mask = torch.ones(256, 256).tril()
        for n in SIZES:
            x = rows(n)
            y = mask[:n, :n] @ x + torch.arange(n).view(n, 1) + torch.zeros(n, 6)
            parts = (y, y.narrow(0, 0, n).flip(0), x.expand(2, n, 6).reshape(2 * n, 6), torch.full((n,), 2.5))
            log(torch.cat([t.reshape(-1) for t in parts]))
    agree(work, 20)


def test_what_is_held_keeps_its_size() -> None:
    def work(log: Log) -> None:
        kept = []
        for n in SIZES:
            x = rows(n)
            y = x * 2
            kept.append((y, y[1:], y.T))
            log((y + 1).sum())
        log([list(k) for k in kept])
        log([tuple(t.shape) for k in kept for t in k])
    agree(work, 20)


def test_a_size_that_is_written_to() -> None:
    def work(log: Log) -> None:
        for n in SIZES:
            x = rows(n).clone()
            x[:, 1] = 0.5
            x.mul_(2)
            x[-1] += 1
            log(x)
    agree(work)


def test_several_plans_for_sizes_that_begin_alike() -> None:
    """A path that turns out not to be for a size hands over to the one that is."""
    sizes = (20, 29, 18, 28, 19, 30, 17, 27, 18, 26, 20, 25, 19, 31)

    def work(log: Log) -> None:
        for n in sizes:
            x = rows(n) * 2
            y = torch.arange(n - 4).view(-1, 1).sin() + torch.ones(4)  # products of another depth below 16
            log(y.T @ y + x.sum())
    agree(work)

    def body() -> int:
        at: list[int] = []
        work(lambda t: at.append((t.tolist(), ledger.recorded)[1]))
        return at[-1] - at[7]
    assert on_a_thread(body) == 0


def test_sizes_that_come_often_have_programs_of_their_own() -> None:
    """A program of one size is faster than one that is given its sizes in every step."""
    def work(log: Log) -> None:
        w = torch.randn(6, 5, requires_grad=True)
        for k in range(200):
            n = (17, 19, 20, 22, 25, 30)[k * k % 11 % 6] if k % 12 else 16 + k % 13
            loss = torch.softmax(rows(n) @ w, -1)[:n // 2].square().sum() / n
            loss.backward()
            log((loss, w.grad))
            w.grad = None
    agree(work, 100)

    def body() -> tuple[list[bool], int]:
        at: list[tuple[bool, int]] = []
        work(lambda t: at.append((t[0].tolist(), (paths().last.sizes is not None, ledger.recorded))[1]))
        return [sized for k, (sized, _) in enumerate(at) if k % 12][-60:], at[-1][1] - at[-60][1]
    sized, recorded = on_a_thread(body)
    assert not any(sized) and recorded == 0


def test_branches_of_steps_with_named_numbers() -> None:
    def work(log: Log) -> None:
        for k, n in zip((1, 1, 1, 0, 0, 0, 1, 0, 1, 0, 0, 1, 0, 1, 1), (5, 6, 7, 5, 6, 7, 5, 6, 7, 5, 4, 5, 6, 4, 7)):
            y = torch.ones(n) * 2
            log(y + 1 if k % 2 else y - 1)
    agree(work)


@pytest.mark.parametrize("f", [
    lambda x: sum(x.unbind(0)),
    lambda x: [p.sum() for p in x.chunk(2)],
    lambda x: F.adaptive_avg_pool1d(x.T, 3),
    lambda x: F.avg_pool1d(x.T, 2) if len(x) > 1 else x,
    lambda x: x.cumsum(0).prod(0),
    lambda x: x.topk(max(1, len(x) // 2), dim=0)[0],
    lambda x: x.std(0, unbiased=False) + x.mean() + x.var(dim=1, keepdim=True),
    lambda x: F.pad(x, (0, 0, 0, -len(x) % 8)).view(-1, 8, 6).mean(1),
    lambda x: F.conv1d(x.T[None], torch.ones(2, 6, 3), padding=1),
    lambda x: x.sort(0)[0].argmax(0),
    lambda x: F.interpolate(x.T[None], scale_factor=2),
    lambda x: x[:4].sum(0) + x[-3:].sum(0),
    lambda x: torch.nn.functional.one_hot(torch.arange(len(x)) % 3, 3),
    lambda x: x.repeat(2, 1).roll(1, 0),
    lambda x: (x @ x.T).logsumexp(0).max(),
    lambda x: F.dropout(x, 0.5) + torch.rand(len(x), 1) + torch.rand_like(x),
    lambda x: torch.outer(x[:, 0], x[:, 1]).tril().diagonal(),
])
def test_operators_that_depend_on_the_size(f: Any) -> None:
    def work(log: Log) -> None:
        for n in SIZES:
            log(f(rows(n)))
    agree(work, 0)


def test_a_size_of_one_is_broadcast() -> None:
    def work(log: Log) -> None:
        for n in (4, 5, 6, 7, 8, 1, 9, 1, 10):
            log(rows(n) + rows(1) * rows(n).sum(0))
            log(rows(10) * rows(n)[0] + (rows(n) if n in (1, 10) else 0))
    agree(work)


def test_sizes_that_do_not_fit_raise_at_the_call() -> None:
    def body() -> list[str]:
        said = []
        for a, b in ((4, 4), (5, 5), (6, 6), (7, 7), (8, 8), (9, 9), (9, 8), (10, 10), (7, 6)):
            try:
                y = rows(a) + rows(b)
                said.append(str(tuple(y.shape)))
                y.sum().item()
            except RuntimeError as e:
                said.append(str(e).split(" at ")[0])
        return said
    wrong = "The size of tensor a ({}) must match the size of tensor b ({})"
    right = [str((n, 6)) for n in range(4, 11)]
    assert on_a_thread(body) == [*right[:6], wrong.format(9, 8), right[6], wrong.format(7, 6)]


def test_rows_taken_by_an_index_and_added_by_one() -> None:
    """Messages along the edges of graphs of any size."""
    def work(log: Log) -> None:
        w = torch.randn(6, 5, requires_grad=True)
        r = np.random.default_rng(0)
        for n in (20, 31, 25, 18, 27, 30, 19, 22, 28, 21, 17, 29):
            m = int(r.integers(40, 60))
            source, target = (torch.tensor(r.integers(-n, n, m)) for _ in range(2))
            h = rows(n) @ w
            h = h + torch.zeros(n, 5).index_add(0, target % n, h[source])
            h[[1, -2]].sum().backward()
            log((h, w.grad))
            w.grad = None
    agree(work, 40)


def test_planned_indices_are_checked_for_every_size() -> None:
    def body() -> list[str]:
        said = []
        for n in (12, 9, 11, 14, 10, 13, 8):
            try:
                y = rows(n)[[0, 8]] * 2
                y.sum().item()
                said.append(str(y.shape))
            except IndexError as e:
                said.append(str(e).split(" at ")[0])
        return said
    *fine, bad = on_a_thread(body)
    assert fine == ["torch.Size([2, 6])"] * 6
    assert bad.startswith("index 8 is out of bounds") and bad.endswith("with size 8")


def test_bad_indices_name_the_size_of_now() -> None:
    def body() -> str:
        for n in (4, 5, 6, 7, 8, 9, 10, 11):
            at = torch.tensor([0, n - 1 if n < 11 else n])
            try:
                F.embedding(at, rows(n)).sum().item()
            except IndexError as e:
                return str(e)
        return ""
    assert "11" in on_a_thread(body)


def test_sizes_that_stay_get_a_program_of_their_own() -> None:
    """Of the sizes that a path has run in often, in a row; in others it goes on with the program for all."""
    def work(log: Log) -> None:
        w = torch.randn(6, 5, requires_grad=True)
        for n in (17, 19, 20, *[22] * 60, *[23] * 40, 24, 22):
            loss = torch.softmax(rows(n) @ w, -1).square().sum() / n
            loss.backward()
            log((loss, w.grad))
            w.grad = None
    agree(work, 100)

    def body() -> list[tuple[bool, int]]:
        at: list[tuple[bool, int]] = []
        work(lambda t: at.append((t[0].tolist(), (
            paths().last.sizes is not None and paths().last.sizes.general is not None, ledger.plans))[1]))
        return at
    at = on_a_thread(body)
    assert [own for own, _ in at[3:63]] == [False] * STAYS + [True] * (60 - STAYS)
    assert at[62][1] == at[40][1] and not at[-1][0]


def test_a_path_that_takes_no_other_sizes_keeps_its_tensors() -> None:
    """What the loop passes again and again is not taken over anew in every step."""
    def body() -> list[bool]:
        for n in (16, 24, 200):
            x, w = rows(n), rows(n, n)
            for _ in range(5):
                (w @ x).sum()
                torch.cpu.synchronize()
        return [slot.moves for slot in paths().last.slots]
    assert on_a_thread(body) == [False, False]


def test_a_view_that_outlives_its_segment_has_plain_sizes() -> None:
    data = torch.randn(60, 4)
    for k in range(12):
        x = data[k * 3:k * 4 + 5]
        x.sum().item()
        positive = x > 0
        positive.sum().item()
        assert [type(n) for n in (*positive.shape, *x.shape)] == [int] * 4, f"step {k}"


def test_a_first_call_that_raises_leaves_no_names_behind() -> None:
    """The next recording found them among its operands."""
    def body() -> list[Any]:
        found: list[Any] = []
        for k, shape in ((4, (4, 4)), (1, (4, 4)), (1, (1,)), (5, (1,)), (1, (1, 1)), (2, (4, 4)), (3, (1,))):
            x, z = (torch.tensor(np.ones(s, np.float32)) for s in ((k, k), shape))
            try:
                y = x * z
            except RuntimeError:
                found.append("raised")
            else:
                found.append(float(y.numpy().sum()))
        return found
    assert on_a_thread(body) == [16.0, 16.0, 1.0, 25.0, 1.0, "raised", 9.0]
