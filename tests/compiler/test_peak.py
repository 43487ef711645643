"""What a train step holds in memory at once, as bytes of its plan."""
from __future__ import annotations

import pytest

import fanal as torch
from fanal.core.engine.ledger import ledger

nn, F = torch.nn, torch.nn.functional
LAYERS, WIDTH, BATCH = 12, 128, 512


def arena(layers: list[nn.Module], dtype: torch.dtype = torch.float32) -> float:
    """Train on a stack of layers; return what a step holds beside parameters, in layers' outputs."""
    torch.manual_seed(0)
    model = nn.Sequential(*layers, nn.Linear(WIDTH, 10)).to(dtype)
    return held(model, torch.randn(BATCH, WIDTH, dtype=dtype)) / (BATCH * WIDTH * dtype.itemsize)


def held(model: nn.Module, x: torch.Tensor) -> int:
    """Train; return the bytes that a step holds beside parameters."""
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    y = torch.randint(0, 10, (len(x),))
    ledger.executables.clear()
    for _ in range(2):
        opt.zero_grad()
        F.cross_entropy(model(x), y).backward()
        opt.step()
    plan = max((e.exe for e in ledger.executables), key=lambda exe: exe.arena_bytes)
    return plan.arena_bytes + plan.block_bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_train_step_holds_little_more_than_what_the_backward_cannot_do_without(dtype: torch.dtype) -> None:
    # Of every layer: what went into GELU. The kernel of its gradient computes again what came out, for the weight of the
    # layer above. On top, the few values of the layer at work: GELU's inner values and gradients do not wait.
    # The gradients of parameters, as large as three outputs, are written where those values were.
    most = arena([layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.GELU())], dtype)
    assert LAYERS <= most <= LAYERS + 6


def test_the_weight_and_bias_of_a_layer_norm_are_applied_again_in_the_backward() -> None:
    # Of every layer: the normalised rows.
    most = arena([layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH))])
    assert LAYERS <= most <= LAYERS + 4


class Residual(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.b = (nn.Sequential(nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.b(F.relu(self.a(x))))


def test_what_can_be_computed_before_is_not_computed_a_second_time_with_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), Residual(16),
                          nn.Flatten(), nn.Linear(16 * 64, 10))
    # Of three convolutions, each: the normalised values and those above zero; on top, the weight's gradient at work.
    assert held(model, torch.randn(32, 3, 8, 8)) <= (2 * 3 + 7) * 32 * 16 * 64 * 4


class Looked(nn.Module):
    """Twelve layers on values that rows of a small table multiply."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(16, WIDTH)
        self.first = nn.Linear(WIDTH, WIDTH)
        self.rest = nn.Sequential(*[m for _ in range(LAYERS) for m in (nn.Linear(WIDTH, WIDTH), nn.ReLU())])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.table(torch.arange(len(x)) % 16)
        return self.rest(rows * self.first(x))


def test_rows_of_a_small_table_are_looked_up_again() -> None:
    torch.manual_seed(0)
    batch = 4096
    most = held(Looked(), torch.randn(batch, WIDTH))
    # Of every layer what goes in, and of the first what comes out; on top, two values at work and the gradients.
    assert most <= (LAYERS + 3.5) * batch * WIDTH * 4
