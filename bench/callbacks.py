"""A step of the 64-128-10 MLP (batch 32, Adam) into which Python is called back, beside PyTorch.

Run: python bench/callbacks.py. One thread; microseconds, medians over steps and over three processes taking turns.
"""
from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import results

STEPS, SKIPPED = 2000, 200


def _round(torch: Any) -> Any:
    class Round(torch.autograd.Function):
        """Quantise; gradients pass straight through."""

        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return torch.round(x * 16) / 16

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g
    return Round.apply


def _plain(torch: Any, model: Any) -> Callable[[Any], Any]:
    return lambda h: h


def _custom_function(torch: Any, model: Any) -> Callable[[Any], Any]:
    return _round(torch)


def _hook_on_parameters(torch: Any, model: Any) -> Callable[[Any], Any]:
    for p in model.parameters():
        p.register_hook(lambda g: g.clamp(-1, 1))
    return lambda h: h


def _hook_on_activation(torch: Any, model: Any) -> Callable[[Any], Any]:
    def inner(h: Any) -> Any:
        h.register_hook(lambda g: g * 0.5)
        return h
    return inner


def _module_hooks(torch: Any, model: Any) -> Callable[[Any], Any]:
    for layer in model:
        layer.register_full_backward_hook(lambda module, given, back: None)
    return lambda h: h


def _checkpoint(torch: Any, model: Any) -> Callable[[Any], Any]:
    checkpoint = importlib.import_module(f"{torch.__name__}.utils.checkpoint").checkpoint
    return lambda h: checkpoint(torch.tanh, h, use_reentrant=False)


def _hooks_on_saved_tensors(torch: Any, model: Any) -> Callable[[Any], Any]:
    graph = importlib.import_module(f"{torch.__name__}.autograd.graph")

    def inner(h: Any) -> Any:
        with graph.saved_tensors_hooks(lambda t: t * 2, lambda t: t * 0.5):
            return torch.tanh(h)
    return inner


VARIANTS = {f.__name__.strip("_"): f for f in
            (_plain, _custom_function, _hook_on_parameters, _hook_on_activation, _module_hooks, _checkpoint,
             _hooks_on_saved_tensors)}


def measure(torch: Any) -> dict[str, float]:
    """Return the median microseconds of a step of each variant."""
    torch.set_num_threads(1)
    F, now = torch.nn.functional, time.perf_counter_ns
    found = {}
    for name, variant in VARIANTS.items():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
        opt = torch.optim.Adam(model.parameters(), lr=1e-3)
        batches = [(torch.randn(32, 64), torch.randint(0, 10, (32,))) for _ in range(8)]
        inner, times = variant(torch, model), []
        for k in range(STEPS):
            x, y = batches[k % 8]
            begin = now()
            opt.zero_grad()
            loss = F.cross_entropy(model[2](inner(model[1](model[0](x)))), y)
            loss.backward()
            opt.step()
            times.append(now() - begin)
        found[name] = statistics.median(times[SKIPPED:]) / 1e3
    return found


if __name__ == "__main__":
    results.beside_torch(__file__, measure, VARIANTS, decimals=1)
