"""Training steps whose sizes or calls follow from their data, beside PyTorch: experts, masks, lengths, chance.

Run: python bench/loops.py. One thread; microseconds, medians over steps and over three processes taking turns. These are
the loops that a compiler of whole steps finds hard: no step is the one before. The last three never come again at all.
"""
from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import results

STEPS, SKIPPED = 120, 60
Step = Callable[[], Any]


def _trained(torch: Any, layers: list[Any], loss_of: Callable[[], Any], read_first: bool = False) -> Step:
    opt = torch.optim.Adam([p for layer in layers for p in layer.parameters()], lr=1e-3)

    def step() -> Any:
        loss = loss_of()
        if read_first and loss.item() > 1e6:
            return loss
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss
    return step


def _experts(torch: Any) -> tuple[Any, list[Any]]:
    nn = torch.nn
    return nn.Linear(64, 4), [nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)) for _ in range(4)]


def _mixture(torch: Any, gate: Any, experts: list[Any], x: Any) -> Any:
    """Rows go to two of the experts each, found by `where`."""
    weight, choice = gate(x).softmax(-1).topk(2)
    out = torch.zeros_like(x)
    for k, expert in enumerate(experts):
        row, slot = torch.where(choice == k)
        out[row] += weight[row, slot, None] * expert(x[row])
    return out


def experts_by_positions(torch: Any) -> Step:
    gate, experts = _experts(torch)

    def loss() -> Any:
        x = torch.randn(256, 64)
        return (_mixture(torch, gate, experts, x) - x).square().mean()
    return _trained(torch, [gate, *experts], loss)


def experts_by_masks(torch: Any) -> Step:
    gate, experts = _experts(torch)

    def loss() -> Any:
        x = torch.randn(256, 64)
        weight, choice = gate(x).softmax(-1).max(-1)
        out = torch.zeros_like(x)
        for k, expert in enumerate(experts):
            mine = choice == k
            if mine.any():
                out[mine] = expert(x[mine]) * weight[mine].unsqueeze(1)
        return (out - x).square().mean()
    return _trained(torch, [gate, *experts], loss)


def two_layers_of_experts(torch: Any) -> Step:
    layers = [_experts(torch) for _ in range(2)]

    def loss() -> Any:
        x = y = torch.randn(256, 64)
        for gate, experts in layers:
            x = x + _mixture(torch, gate, experts, x)
        return (x - y * 2).square().mean()
    return _trained(torch, [m for gate, experts in layers for m in (gate, *experts)], loss)


def prototypes(torch: Any) -> Step:
    nn, F = torch.nn, torch.nn.functional
    net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 16))

    def loss() -> Any:
        x, y = torch.randn(60, 32), torch.randint(0, 5, (60,))
        f = net(x)
        means = torch.stack([f[y == c].mean(0) for c in range(5)])
        return F.cross_entropy(-torch.cdist(f, means), y)
    return _trained(torch, [net], loss)


def masked_words(torch: Any) -> Step:
    nn, F = torch.nn, torch.nn.functional
    words, head = nn.Embedding(300, 64), nn.Linear(64, 300)
    layer = nn.TransformerEncoderLayer(64, 4, 128, 0.0, batch_first=True)

    def loss() -> Any:
        x = torch.randint(0, 300, (8, 32))
        y = torch.where(torch.rand(8, 32) < 0.15, x, -100)
        out = head(layer(words(x)))
        asked = y != -100
        return F.cross_entropy(out[asked], y[asked])
    return _trained(torch, [words, layer, head], loss)


def packed_sequences(torch: Any) -> Step:
    nn, F = torch.nn, torch.nn.functional
    words, cell, head = nn.Embedding(100, 32), nn.LSTM(32, 48, batch_first=True), nn.Linear(48, 2)

    def loss() -> Any:
        lengths = torch.randint(5, 30, (8,))
        x = torch.randint(0, 100, (8, int(lengths.max())))
        packed = nn.utils.rnn.pack_padded_sequence(words(x), lengths, batch_first=True, enforce_sorted=False)
        return F.cross_entropy(head(cell(packed)[1][0][-1]), torch.randint(0, 2, (8,)))
    return _trained(torch, [words, cell, head], loss)


def lengths(torch: Any, read_first: bool = False) -> Step:
    nn, F = torch.nn, torch.nn.functional
    words, head = nn.Embedding(100, 32), nn.Linear(32, 100)
    layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True)
    chance = random.Random(0)

    def loss() -> Any:
        x = torch.randint(0, 100, (8, chance.randint(8, 40)))
        return F.cross_entropy(head(layer(words(x))).flatten(0, 1), x.flatten())
    return _trained(torch, [words, layer, head], loss, read_first)


def lengths_read_before_backward(torch: Any) -> Step:
    return lengths(torch, True)


def graphs(torch: Any) -> Step:
    nn, F = torch.nn, torch.nn.functional
    a, b, head = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 3)
    chance = random.Random(0)

    def loss() -> Any:
        n, edges = chance.randint(100, 200), chance.randint(400, 800)
        x, source, target = torch.randn(n, 16), torch.randint(0, n, (edges,)), torch.randint(0, n, (edges,))
        for layer in (a, b):
            h = layer(x)
            x = F.relu(torch.zeros_like(h).index_add_(0, target, h[source]))
        pooled = torch.zeros(8, 32).index_add_(0, torch.arange(n) * 8 // n, x)
        return F.cross_entropy(head(pooled), torch.randint(0, 3, (8,)))
    return _trained(torch, [a, b, head], loss)


def dropped_layers(torch: Any) -> Step:
    nn, F = torch.nn, torch.nn.functional
    layers, head = [nn.Linear(64, 64) for _ in range(6)], nn.Linear(64, 10)
    chance = random.Random(0)

    def loss() -> Any:
        x = torch.randn(32, 64)
        for layer in layers:
            if chance.random() > 0.2:
                x = x + F.relu(layer(x))
        return F.cross_entropy(head(x), torch.randint(0, 10, (32,)))
    return _trained(torch, [*layers, head], loss)


def random_teacher_forcing(torch: Any) -> Step:
    nn, F = torch.nn, torch.nn.functional
    words, cell, head = nn.Embedding(50, 32), nn.GRUCell(32, 64), nn.Linear(64, 50)
    chance = random.Random(0)

    def loss() -> Any:
        y = torch.randint(0, 50, (16, 10))
        state, x, total = torch.zeros(16, 64), y[:, 0], 0.0
        for t in range(1, 10):
            state = cell(words(x), state)
            out = head(state)
            total = total + F.cross_entropy(out, y[:, t])
            x = y[:, t] if chance.random() < 0.5 else out.argmax(1)
        return total
    return _trained(torch, [words, cell, head], loss)


def clusters(torch: Any) -> Step:
    points = torch.randn(500, 8)

    def step() -> Any:
        centres = points[torch.randperm(500)[:5]]
        for _ in range(10):
            nearest = torch.cdist(points, centres).argmin(1)
            new = torch.stack([points[nearest == k].mean(0) for k in range(5)])
            if (new - centres).abs().max() < 1e-4:
                break
            centres = new
        return centres.sum()
    return step


LOOPS = {f.__name__: f for f in (experts_by_positions, experts_by_masks, two_layers_of_experts, prototypes, masked_words,
                                 packed_sequences, lengths, lengths_read_before_backward, graphs, dropped_layers,
                                 random_teacher_forcing, clusters)}


def measure(torch: Any) -> dict[str, float]:
    """Return the median microseconds of a step of each loop, with the reading of its loss."""
    torch.set_num_threads(1)
    found = {}
    for name, make in LOOPS.items():
        torch.manual_seed(0)
        step, times = make(torch), []
        for _ in range(STEPS):
            begin = time.perf_counter_ns()
            step().item()
            times.append(time.perf_counter_ns() - begin)
        found[name] = statistics.median(times[SKIPPED:]) / 1e3
    return found


if __name__ == "__main__":
    results.beside_torch(__file__, measure, LOOPS, decimals=0)
