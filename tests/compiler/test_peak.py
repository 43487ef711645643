"""What a train step holds in memory at once, as bytes of its plan."""
from __future__ import annotations

import pytest

import fanal as torch
from fanal.core.engine.ledger import ledger

nn, F = torch.nn, torch.nn.functional
LAYERS, WIDTH, BATCH = 12, 128, 512


def arena(layers: list[nn.Module], dtype: torch.dtype = torch.float32) -> float:
    """Train on a stack of layers; return what a step holds beside parameters and gradients, in layers' outputs."""
    torch.manual_seed(0)
    model = nn.Sequential(*layers, nn.Linear(WIDTH, 10)).to(dtype)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(BATCH, WIDTH, dtype=dtype), torch.randint(0, 10, (BATCH,))
    ledger.executables.clear()
    for _ in range(2):
        opt.zero_grad()
        F.cross_entropy(model(x), y).backward()
        opt.step()
    plan = max((e.exe for e in ledger.executables), key=lambda exe: exe.arena_bytes)
    return plan.arena_bytes / (BATCH * WIDTH * x.itemsize)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_train_step_holds_little_more_than_what_the_backward_cannot_do_without(dtype: torch.dtype) -> None:
    # Of every layer: what went into GELU. The kernel of its gradient computes again what came out, for the weight of the
    # layer above. On top, the few values of the layer at work: GELU's inner values and gradients do not wait.
    held = arena([layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.GELU())], dtype)
    assert LAYERS <= held <= LAYERS + 6


def test_the_weight_and_bias_of_a_layer_norm_are_applied_again_in_the_backward() -> None:
    # Of every layer: the normalised rows.
    held = arena([layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH))])
    assert LAYERS <= held <= LAYERS + 4
