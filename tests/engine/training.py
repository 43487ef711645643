"""Small training runs whose parameters are compared bit by bit, in this process or as a program of its own.

    python training.py [--threads N] [--save FILE] model ...      prints {"digests": {...}, ...} as JSON
"""
from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "bench"))

import models
import numpy as np

import fanal

STEPS = 5
MODELS: dict[str, Callable[[Any], Any]] = {
    "mlp": lambda torch: models.mlp(torch, (16, 24, 10), 8),
    "cnn": lambda torch: models.cnn(torch, 2),
    "gpt": lambda torch: models.gpt(torch, layers=1, width=16, heads=2, context=8, batch=2, vocabulary=17),
}
Look = Callable[[Any], Any]


class Watched:
    """The module `fanal`, with optimizers that show every gradient before they use it."""

    def __init__(self, look: Look) -> None:
        self.look = look

    def __getattr__(self, name: str) -> Any:
        return Optimizers(self.look) if name == "optim" else getattr(fanal, name)


class Optimizers:
    """The module `fanal.optim`, watched."""

    def __init__(self, look: Look) -> None:
        self.look = look

    def __getattr__(self, name: str) -> Any:
        def make(parameters: Any, **options: Any) -> Any:
            parameters = list(parameters)
            made = getattr(fanal.optim, name)(parameters, **options)
            step = made.step

            def watched() -> Any:
                for p in parameters:
                    self.look(p.grad)
                return step()
            made.step = watched
            return made
        return make


def watch(module: Any, look: Look) -> None:
    """Show what a module returns, each time."""
    forward = module.forward

    def watched(*args: Any, **kwargs: Any) -> Any:
        y = forward(*args, **kwargs)
        look(y)
        return y
    module.forward = watched


def digest(model: Any) -> str:
    """Return a hash of the bits of all parameters."""
    found = hashlib.sha256()
    for p in model.parameters():
        found.update(np.ascontiguousarray(p.detach().numpy()).tobytes())
    return found.hexdigest()


def train(step: Any, steps: int = STEPS) -> str:
    """Take steps and return the digest of the parameters."""
    for _ in range(steps):
        step()
    return digest(step.model)


def fresh(name: str) -> str:
    """Return the digest after training a new model."""
    return train(MODELS[name](fanal))


def child(*arguments: str, **environment: str) -> dict[str, Any]:
    """Run this file in a process of its own and return what it printed; "stderr" among it."""
    import os
    done = subprocess.run([sys.executable, "-W", "always", str(Path(__file__).resolve()), *arguments], capture_output=True, text=True,
                          env={**os.environ, **environment}, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "stderr": done.stderr}


def main() -> None:
    """Train the models named and print what came out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int)
    parser.add_argument("--save")
    parser.add_argument("models", nargs="+")
    options = parser.parse_args()
    if options.threads:
        fanal.set_num_threads(options.threads)
    digests, kept = {}, {}
    for name in options.models:
        step = MODELS[name](fanal)
        digests[name] = train(step)
        kept |= {f"{name}.{k}": p.detach().numpy() for k, p in step.model.named_parameters()}
    if options.save:
        np.savez(options.save, **kept)
    from fanal.core.backends.cpu import jit, target
    from fanal.core.engine.ledger import ledger
    print(json.dumps({"digests": digests, "followed": ledger.followed, "compiled": jit.compiled, "target": target.host().name,
                      "threads": fanal.get_num_threads()}))


if __name__ == "__main__":
    main()
