"""Random training loops run by PyTorch and by Fanal: where their logs part, and which statements that takes.

    python loop_runs.py FIRST COUNT             compare programs, and say which never settle
    python loop_runs.py FIRST COUNT --shrink    and print those that disagree without what is not needed for it
"""
from __future__ import annotations

import ast
import copy
import gc
import io
import pickle
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import numpy as np
import torch
from agreement import AGAIN, STALE, outcome
from loop_programs import source
from torch.utils._python_dispatch import TorchDispatchMode

import fanal
from fanal.core.engine.ledger import ledger

TOLERANCE = {"float64": 1e-9, "float32": 2e-4}  # of the largest element of a result, or of 1
FACTOR = 16.0  # of what rounding was seen to do: some runs have luck
SHAKES = 4
UNSHAKEN = ("clone", "copy", "detach", "zeros", "ones", "fill", "full", "empty", "arange", "index", "gather", "select", "slice",
            "cat", "stack", "where", "masked", "scatter", "flip", "roll", "eye", "tri", "_like", "alias", "one_hot", "relu", "embedding")
ENDED = "what rounding decides, or a gradient that is None in one run and zero in the other"
MODULES = {"copy": copy, "gc": gc, "io": io, "pickle": pickle, "random": random, "np": np, "threading": threading}


class Log:
    """What a loop shows of itself: a list of (name, value)."""

    def __init__(self, through_numpy: bool = False) -> None:
        self.found: list[tuple[str, Any]] = []
        self.kept: list[tuple[str, Any]] = []  # read at the end
        self.ticks: list[tuple[bool, dict[str, int]]] = []
        self.through_numpy = through_numpy
        self.error: BaseException | None = None

    def __call__(self, *values: Any, name: str = "logged") -> None:
        for v in values:
            if isinstance(v, (list, tuple)):
                self(*v, name=name)
            else:
                self.found.append((f"step {len(self.ticks)}, {name}", self.read(v)))

    def read(self, v: Any) -> Any:
        if not hasattr(v, "detach"):
            return v
        if v.is_sparse:
            v = v.to_dense()
        if str(v.dtype) == "torch.bfloat16":
            v = v.float()
        if self.through_numpy:  # which makes calls of its own
            return v.detach().numpy().copy()
        return np.array(v.tolist(), str(v.dtype).removeprefix("torch.").removeprefix("fanal.")).reshape(tuple(v.shape))

    def later(self, *values: Any) -> None:
        self.kept += [(f"step {len(self.ticks)}, later", v.detach().clone()) for v in values]

    def state(self, net: Any, *optimizers: Any) -> None:
        for n, p in net.named_parameters():
            self(p, name=n)
            self(p.grad, name=f"{n}.grad")
        for n, b in net.named_buffers():
            self(b, name=n)
        for o in optimizers:
            saved = o.state_dict()
            for i, s in sorted(saved["state"].items()):
                for n, t in s.items():
                    self(t, name=f"optimizer's {n} of {i}")
            for g in saved["param_groups"]:
                self(g["lr"], str(g["params"]), name="group")

    def tick(self, regular: bool) -> None:
        self.ticks.append((regular, ledger.snapshot()))

    def end(self) -> list[tuple[str, Any]]:
        if self.error is not None:
            self.found.append((f"step {len(self.ticks)}, error", outcome(self.error)))  # type: ignore[arg-type]
        for n, v in self.kept:
            self.found.append((n, self.read(v)))
        return self.found


def run(m: Any, text: str, seed: int, mode: Any = None) -> Log:
    """Run a program in a library, from a fresh state, on a thread of its own, in a mode of PyTorch's dispatch."""
    log = Log(seed % 16 == 5)
    names: dict[str, Any] = dict(MODULES)
    exec(compile(text, f"<loop {seed}>", "exec"), names)

    def work() -> None:
        random.seed(seed)
        np.random.seed(seed)
        with mode or nullcontext():
            try:
                names["run"](m, log)
            except Exception as e:
                log.error = e
            finally:
                m.set_default_dtype(m.float32)
            log.end()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    return log


class Shaken(TorchDispatchMode):
    """PyTorch whose floating results are off by some roundings, other ones for every seed."""

    def __init__(self, seed: int, size: float) -> None:
        super().__init__()
        self.generator, self.size = np.random.default_rng(seed), size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.is_view or torch.Tag.nondeterministic_seeded in func.tags or any(w in name for w in UNSHAKEN):
            return result
        for t in result if isinstance(result, (list, tuple)) else (result,):
            if torch.is_tensor(t) and t.is_floating_point() and t.layout == torch.strided and t.numel():
                t.mul_(1 + self.size * torch.as_tensor(self.generator.uniform(-1, 1, t.shape), dtype=t.dtype))
        return result


def shaken(text: str, seed: int, k: int) -> Log:
    size = {"float64": 1e-14, "float32": 2e-7}["float32" if "m.float32)" in text.split("\n")[1] else "float64"]
    if "bfloat16" in text:
        size = 4e-3
    return run(torch, text, seed, Shaken(k, size))


def _distance(x: Any, y: Any) -> float:
    """Return how far two results are from each other: infinitely where they are not of one kind."""
    if isinstance(x, np.ndarray) != isinstance(y, np.ndarray) or isinstance(x, str) or x is None or isinstance(x, bool):
        return 0.0 if type(x) is type(y) and (x is y or x == y) else np.inf
    if isinstance(y, str) or y is None:
        return np.inf
    a, b = np.asarray(x), np.asarray(y)
    if a.shape != b.shape or a.dtype != b.dtype:
        return np.inf
    if a.dtype.kind in "biu":
        return 0.0 if (a == b).all() else np.inf
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    with np.errstate(all="ignore"):
        d = np.abs(a - b)[~same]
        large = np.abs(a[np.isfinite(a)])
        return float(np.max(d) / max(1.0, large.max(initial=0.0))) if not np.isnan(d).any() else np.inf


def disagreement(text: str, seed: int) -> tuple[str | None, Log, Log]:
    """Return where a program's logs part, or None, with the logs of PyTorch and of Fanal."""
    expected, got = run(torch, text, seed), run(fanal, text, seed)
    tolerance = TOLERANCE["float32" if "m.float32)" in text.split("\n")[1] else "float64"]
    others: list[Log] | None = None
    for k in range(max(len(expected.found), len(got.found))):
        if k >= min(len(expected.found), len(got.found)):
            if expected.error is not None and got.error is None:
                return None, expected, got
            ends = [log.found[k] if k < len(log.found) else "nothing more" for log in (expected, got)]
            return f"torch {ends[0]}, fanal {ends[1]}", expected, got
        (name, x), (other, y) = expected.found[k], got.found[k]
        if name.endswith("error") and (x in (STALE, AGAIN) or other != name):
            return None, expected, got  # PyTorch refuses more than we do
        distance = _distance(x, y) if name == other else np.inf
        if distance <= tolerance:
            continue
        zero = (x is None and isinstance(y, np.ndarray) and not y.any()) or (y is None and isinstance(x, np.ndarray) and not x.any())
        if zero and "grad" in name:
            return None, expected, got
        if others is None:
            others = [shaken(text, seed, s) for s in range(SHAKES)]
        if any(len(o.found) <= k or o.found[k][0] != name for o in others):
            return None, expected, got
        slack = max(_distance(x, o.found[k][1]) for o in others)
        if distance > tolerance + FACTOR * slack:
            return (f"{name}{'' if name == other else f' or {other}'}: torch {x!r}, fanal {y!r}; distance {distance:.3g}, "
                    f"rounding {slack:.3g}"), expected, got
    return None, expected, got


def unsettled(log: Log) -> dict[str, int] | None:
    """Return what was recorded and planned in the last four steps of a regular loop that took eight of one kind or more."""
    regular = 0
    while regular < len(log.ticks) and log.ticks[regular][0]:
        regular += 1
    if regular < 8:
        return None
    before, after = log.ticks[regular - 5][1], log.ticks[regular - 1][1]
    found = {c: after[c] - before[c] for c in ("recorded", "plans", "compiled", "diverged")}
    return found if found["recorded"] or found["plans"] or found["compiled"] else None


def shrunk(text: str, fails: Callable[[str], bool]) -> str:
    """Return a program that still fails, without the statements that it takes none of."""
    def bodies(tree: ast.AST) -> list[list[Any]]:
        return [b for node in ast.walk(tree) for name in ("body", "orelse") if isinstance(b := getattr(node, name, None), list) and b]
    before = ""
    while text != before:
        before, at = text, 0
        while True:  # the widest statements first
            tree, place = ast.parse(text), at
            for body in bodies(tree):
                if place < len(body):
                    del body[place]
                    if not body:
                        body.append(ast.Pass())
                    break
                place -= len(body)
            else:
                break
            other = ast.unparse(tree) + "\n"
            if other != text and fails(other):
                text = other
            else:
                at += 1
    return text


def shrink(text: str, seed: int, found: str) -> str:
    error = ", error" in found

    def fails(other: str) -> bool:
        try:
            where, expected, got = disagreement(other, seed)
        except Exception:
            return False
        return where is not None and (", error" in where) == error and (error or expected.error is None)
    return shrunk(text, fails)


def main(first: int, count: int, shrinking: bool) -> None:
    invalid, _ended, times = 0, 0, time.time()
    for seed in range(first, first + count):
        text = source(seed)
        found, expected, got = disagreement(text, seed)
        if expected.error is not None and len(expected.ticks) < 2:
            invalid += 1
            print(f"# {seed} not a program: {expected.error!r:.150}", flush=True)
        if found is not None:
            print(f"=== {seed}: {found}\n    {got.error!r}", flush=True)
            if shrinking:
                print(shrink(text, seed, found), flush=True)
        never = unsettled(got)
        if never is not None:
            print(f"--- {seed} never settles: {never}", flush=True)
    print(f"{count} programs, {invalid} invalid, {time.time() - times:.0f} s", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), "--shrink" in sys.argv)
