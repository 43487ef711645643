"""What a train step holds in memory at once, as bytes of its plan."""
from __future__ import annotations

import fanal as torch
from fanal.core.engine.ledger import ledger

nn, F = torch.nn, torch.nn.functional
LAYERS, WIDTH, BATCH = 12, 128, 512


def test_a_train_step_holds_little_more_than_what_the_forward_saves() -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.GELU())]
    model = nn.Sequential(*layers, nn.Linear(WIDTH, 10))
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(BATCH, WIDTH), torch.randint(0, 10, (BATCH,))
    for _ in range(2):
        opt.zero_grad()
        F.cross_entropy(model(x), y).backward()
        opt.step()
    plan = max((e.exe for e in ledger.executables), key=lambda exe: exe.arena_bytes)
    one = BATCH * WIDTH * 4
    # Of every layer: what went into GELU and what came out; on top, the few values of the layer at work. GELU's inner
    # values are computed again, and no gradient waits for a weight's.
    assert 2 * LAYERS * one <= plan.arena_bytes <= (2 * LAYERS + 4) * one
