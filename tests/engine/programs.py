"""Random programs in PyTorch's API, as source text: views, in-place writes, indexing, branches, autograd.

A program is a function `step(torch, data, params, state, k)` that returns a list of tensors. It runs for several
rounds on fresh data, so that later rounds are followed; `k` and values read back choose branches.
"""
from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

SHAPES = [(4, 6), (6, 4), (2, 3, 4), (5,), (3, 1), (4, 4)]


class Writer:
    """Writes one program."""

    def __init__(self, seed: int, size: int) -> None:
        self.r = random.Random(seed)
        self.lines: list[str] = []
        self.tensors: list[tuple[str, tuple[int, ...], bool]] = []  # name, shape, made here (may be written in place)
        self.count = 0
        self.indent = "    "
        self.size = size

    def name(self) -> str:
        self.count += 1
        return f"t{self.count}"

    def emit(self, line: str) -> None:
        self.lines.append(self.indent + line)

    def pick(self, shape: tuple[int, ...] | None = None) -> tuple[str, tuple[int, ...], bool]:
        found = [t for t in self.tensors if shape is None or t[1] == shape]
        return self.r.choice(found)

    def new(self, expr: str, shape: tuple[int, ...], own: bool = True) -> None:
        n = self.name()
        self.emit(f"{n} = {expr}")
        self.tensors.append((n, shape, own))

    def step(self) -> None:
        self.r.choice([self.unary, self.binary, self.scalar, self.view, self.view, self.reduce, self.inplace, self.inplace,
                       self.write_view, self.index, self.set_index, self.matmul, self.select, self.join, self.clone,
                       self.compare])()

    def unary(self) -> None:
        n, s, _ = self.pick()
        f = self.r.choice(["tanh({})", "sigmoid({})", "relu({})", "exp(-{}.abs())", "sqrt({}.abs() + 1)", "sin({})", "neg({})",
                           "square({})", "softmax({}, -1)"])
        self.new("torch." + f.format(n), s)

    def binary(self) -> None:
        a, s, _ = self.pick()
        b, _, _ = self.pick(s)
        op = self.r.choice(["{} + {}", "{} - {}", "{} * {}", "{} / ({}.abs() + 1)", "torch.maximum({}, {})",
                            "torch.where({0} > 0, {0}, {1})", "torch.add({}, {}, alpha=0.5)"])
        self.new(op.format(a, b), s)

    def scalar(self) -> None:
        n, s, _ = self.pick()
        c = self.r.choice(["0.5", "2", "(k + 1)", "(0.1 * k)", "lr"])
        self.new(self.r.choice(["{} * {}", "{} + {}", "{} - {}", "{} / ({} + 1)"]).format(n, c), s)

    def view(self) -> None:
        n, s, own = self.pick()
        if len(s) == 1:
            self.new(f"{n}[1:]" if s[0] > 1 else f"{n}.view(1, 1)", (s[0] - 1,) if s[0] > 1 else (1, 1), own)
            return
        kind = self.r.randrange(6)
        if kind == 0:
            self.new(f"{n}.transpose(0, 1)", (s[1], s[0], *s[2:]), own)
        elif kind == 1:
            i = self.r.randrange(s[0])
            self.new(f"{n}[{i}]", s[1:], own)
        elif kind == 2 and s[-1] > 1:
            self.new(f"{n}[..., ::2]", (*s[:-1], -(-s[-1] // 2)), own)
        elif kind == 3:
            total = 1
            for d in s:
                total *= d
            self.new(f"{n}.reshape(-1)", (total,), False)
        elif kind == 4:
            self.new(f"{n}.unsqueeze(0)", (1, *s), own)
        else:
            if self.r.random() < 0.3:
                self.new(f"{n}.detach()", s, False)
            else:
                self.new(f"{n}[:, 0:1]", (s[0], 1, *s[2:]), False)

    def reduce(self) -> None:
        n, s, _ = self.pick()
        f = self.r.choice(["sum", "mean", "amax"])
        d = self.r.randrange(len(s))
        self.new(f"{n}.{f}({d}, keepdim=True)", tuple(1 if i == d else m for i, m in enumerate(s)))

    def inplace(self) -> None:
        found = [t for t in self.tensors if t[2]]
        if not found:
            return
        n, s, _ = self.r.choice(found)
        b, _, _ = self.pick(s)
        self.emit(self.r.choice([f"{n}.add_({b}.detach())", f"{n}.mul_(0.5)", f"{n} += 1", f"{n}.copy_({b}.detach() * 2)", f"{n}.zero_()",
                                 f"{n}.clamp_(-1, 1)"]))

    def write_view(self) -> None:
        found = [t for t in self.tensors if t[2] and len(t[1]) >= 2]
        if not found:
            return
        n, s, _ = self.r.choice(found)
        self.emit(self.r.choice([f"{n}[0] = {self.r.random():.2f}", f"{n}[:, 1:].mul_(0.5)", f"{n}[0].add_(1)",
                                 f"{n}.transpose(0, 1)[0] = 0.25", f"{n}[..., 0] += 2"]))

    def index(self) -> None:
        n, s, _ = self.pick()
        self.new(self.r.choice([f"{n}[idx % {s[0]}]", f"torch.index_select({n}, 0, idx % {s[0]})"]), (3, *s[1:]))

    def set_index(self) -> None:
        found = [t for t in self.tensors if t[2]]
        if found:
            n, s, _ = self.r.choice(found)
            self.emit(f"{n}[torch.arange(1)] = 0.5" if self.r.random() < 0.5 else f"{n}[{n} > 0.5] = 0.1")

    def matmul(self) -> None:
        found = [t for t in self.tensors if len(t[1]) == 2]
        if found:
            n, s, _ = self.r.choice(found)
            self.new(f"{n} @ {n}.t() * 0.1", (s[0], s[0]))

    def select(self) -> None:
        n, s, _ = self.pick()
        self.emit("if k % 2 == 0:" if self.r.random() < 0.6 else f"if float({n}.sum()) > 0:")
        m = self.name()
        self.emit(f"    {m} = {n} * 2")
        self.emit("else:")
        self.emit(f"    {m} = {n}.tanh()")
        self.tensors.append((m, s, True))

    def join(self) -> None:
        a, s, _ = self.pick()
        b, _, _ = self.pick(s)
        self.new(f"torch.cat([{a}, {b}], 0)", (s[0] * 2, *s[1:]))

    def clone(self) -> None:
        n, s, _ = self.pick()
        self.new(f"{n}.clone()", s)

    def compare(self) -> None:
        n, s, _ = self.pick()
        self.new(f"({n} > 0).float()", s)

    def program(self) -> str:
        """Return the source of `step`."""
        grad = self.r.random() < 0.7
        for i in range(2):
            shape = self.r.choice(SHAPES)
            self.tensors.append((f"data[{i}]", shape, False))
        head = [self.tensors[0][1], self.tensors[1][1]]
        for i in range(2):
            self.tensors.append((f"params[{i}]", head[i], False))
        for _ in range(self.size):
            self.step()
        if grad:
            losses = self.r.sample(self.tensors, min(3, len(self.tensors)))
            self.emit("loss = " + " + ".join(f"(params[{i}] * params[{i}]).sum()" for i in range(2)) + " + "
                      + " + ".join(f"({n}).sum()" for n, _, _ in losses))
            self.emit("loss.backward()")
            if self.r.random() < 0.5:
                self.emit("with torch.no_grad():")
                self.emit("    for p in params:")
                self.emit("        p -= 0.01 * p.grad")
        results = [n for n, _, _ in self.r.sample(self.tensors, min(4, len(self.tensors)))]
        self.emit(f"return [{', '.join(results)}" + (", loss]" if grad else "]"))
        shapes = f"SHAPES = {head!r}\n"
        return shapes + "def step(torch, data, params, idx, k, lr):\n" + "\n".join(self.lines) + "\n"


def source(seed: int, size: int = 8) -> str:
    """Return program number `seed`."""
    return Writer(seed, size).program()


def run(torch: Any, text: str, seed: int, to: Callable[[Any], Any], rounds: int = 5) -> list[list[Any]]:
    """Run a program for some rounds; return results, gradients and parameters of each, as `to` makes them.

    An exception ends the run and is part of the result: its class counts.
    """
    import numpy as np
    space: dict[str, Any] = {}
    exec(compile(text, f"program{seed}.py", "exec"), space)
    r = np.random.default_rng(seed)
    params = [torch.tensor(r.standard_normal(s).astype(np.float32)).requires_grad_() for s in space["SHAPES"]]
    out: list[list[Any]] = []
    for k in range(rounds):
        data = [torch.tensor(r.standard_normal(s).astype(np.float32)) for s in space["SHAPES"]]
        idx = torch.tensor(r.integers(0, 100, 3))
        for p in params:
            p.grad = None
        try:
            results = space["step"](torch, data, params, idx, k, 0.1 * (k + 1))
        except (RuntimeError, IndexError, ValueError) as e:
            out.append([type(e).__name__])
            continue
        out.append([to(t) for t in results] + [None if p.grad is None else to(p.grad) for p in params] + [to(p) for p in params])
    return out
