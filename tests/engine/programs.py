"""Random programs in PyTorch's API, as source text: views, in-place writes, indexing, branches, autograd.

A program is a function `step(torch, F, data, params, idx, k, lr, state, mods, opt)` that returns a list of tensors.
It runs for several rounds on fresh data, so that later rounds are followed; `k` and values read back choose
branches. `state` is a list that lives over the rounds, `mods` are modules by width, `opt` is an optimizer of all
parameters.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from agreement import outcome

SHAPES = [(4, 6), (6, 4), (2, 3, 4), (5,), (3, 1), (4, 4)]


class Writer:
    """Writes one program."""

    def __init__(self, seed: int, size: int, rich: bool) -> None:
        self.rich = rich
        self.r = random.Random(seed)
        self.lines: list[str] = []
        self.tensors: list[
            tuple[str, tuple[int, ...], bool]
        ] = []  # name, shape, made here (may be written in place)
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
        plain = [
            self.unary,
            self.binary,
            self.scalar,
            self.view,
            self.view,
            self.reduce,
            self.inplace,
            self.inplace,
            self.write_view,
            self.index,
            self.set_index,
            self.matmul,
            self.select,
            self.join,
            self.clone,
            self.compare,
        ]
        rich = [
            self.function,
            self.function,
            self.dtype,
            self.far_view,
            self.far_view,
            self.write_far,
            self.hook,
            self.no_grad,
            self.read,
            self.attempt,
            self.time,
            self.keep,
            self.recall,
            self.module,
            self.penalty,
            self.pieces,
            self.where,
            self.out_of,
            self.norm,
        ]
        self.r.choice(plain + rich if self.rich else plain)()

    def unary(self) -> None:
        n, s, _ = self.pick()
        f = self.r.choice(
            [
                "tanh({})",
                "sigmoid({})",
                "relu({})",
                "exp(-{}.abs())",
                "sqrt({}.abs() + 1)",
                "sin({})",
                "neg({})",
                "square({})",
                "softmax({}, -1)",
            ]
        )
        self.new("torch." + f.format(n), s)

    def binary(self) -> None:
        a, s, _ = self.pick()
        b, _, _ = self.pick(s)
        op = self.r.choice(
            [
                "{} + {}",
                "{} - {}",
                "{} * {}",
                "{} / ({}.abs() + 1)",
                "torch.maximum({}, {})",
                "torch.where({0} > 0, {0}, {1})",
                "torch.add({}, {}, alpha=0.5)",
            ]
        )
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
        self.emit(
            self.r.choice(
                [
                    f"{n}.add_({b}.detach())",
                    f"{n}.mul_(0.5)",
                    f"{n} += 1",
                    f"{n}.copy_({b}.detach() * 2)",
                    f"{n}.zero_()",
                    f"{n}.clamp_(-1, 1)",
                ]
            )
        )

    def write_view(self) -> None:
        found = [t for t in self.tensors if t[2] and len(t[1]) >= 2]
        if not found:
            return
        n, s, _ = self.r.choice(found)
        self.emit(
            self.r.choice(
                [
                    f"{n}[0] = {self.r.random():.2f}",
                    f"{n}[:, 1:].mul_(0.5)",
                    f"{n}[0].add_(1)",
                    f"{n}.transpose(0, 1)[0] = 0.25",
                    f"{n}[..., 0] += 2",
                ]
            )
        )

    def index(self) -> None:
        n, s, _ = self.pick()
        self.new(
            self.r.choice([f"{n}[idx % {s[0]}]", f"torch.index_select({n}, 0, idx % {s[0]})"]), (3, *s[1:])
        )

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

    # The rich vocabulary.

    def function(self) -> None:
        n, s, _ = self.pick()
        f = self.r.choice(
            [
                "F.gelu({})",
                "F.silu({})",
                "F.elu({})",
                "F.leaky_relu({}, 0.1)",
                "F.softplus({})",
                "torch.cos({})",
                "torch.log({}.abs() + 1)",
                "torch.rsqrt({}.abs() + 1)",
                "{}.clamp(-0.5, 0.5)",
                "torch.erf({})",
                "torch.log1p({}.abs())",
                "F.log_softmax({}, -1)",
                "F.layer_norm({0}, {0}.shape[-1:])",
                "{}.cumsum(0)",
                "torch.flip({}, (0,))",
                "torch.roll({}, 1, 0)",
                "{0} - {0}.mean()",
                "{}.abs()",
                "torch.sign({})",
                "{0} / ({0}.std() + 1)",
                "torch.atan({})",
                "{}.pow(2)",
                "{}.sort(0)[0]",
                "{}.tril()",
                "F.normalize({}, dim=-1)",
                "F.dropout({}, 0.5, training=False)",
                "torch.nan_to_num({})",
                "torch.lerp({0}, {0}, 0.3)",
                "torch.addcmul({0}, {0}, {0}, value=0.1)",
                "F.hardtanh({})",
                "torch.square({}).sqrt()",
            ]
        )
        if "tril" in f and len(s) < 2:
            return
        self.new(f.format(n), s)

    def dtype(self) -> None:
        n, s, _ = self.pick()
        d = self.r.randrange(2)
        c, t, _ = (f"data[{d}]", self.tensors[d][1], False)
        if self.r.random() < 0.4:
            self.new(
                self.r.choice(
                    [
                        f"({c}.bfloat16() * 2).float()",
                        f"({c} * 3).long().float()",
                        f"({c} > 0).to(torch.int32) * 0.5",
                        f"(({c} > 0) & ~({c} > 1)).float()",
                        f"(({c} * 4).int() // 2 % 3).float()",
                    ]
                ),
                t,
            )
        else:
            self.new(
                self.r.choice(
                    [
                        f"({n}.double() * 0.3).float()",
                        f"{n}.to(torch.float64).exp().clamp(max=2).float()",
                        f"{n}.type(torch.float64).sum(0, keepdim=True).float() * 0.1 + {n}",
                    ]
                ),
                s,
            )

    def far_view(self) -> None:
        n, s, own = self.pick()
        if len(s) >= 5 or not all(s):
            return
        kind = self.r.randrange(9)
        if kind == 0:
            self.new(f"{n}.unsqueeze(0).expand(2, {', '.join(map(str, s))})", (2, *s), False)
        elif kind == 1 and s[0] >= 2:
            self.new(f"{n}.unfold(0, 2, 1)", (s[0] - 1, *s[1:], 2), False)
        elif kind == 2:
            self.new(f"{n}.narrow(0, {s[0] // 2}, {s[0] - s[0] // 2})", (s[0] - s[0] // 2, *s[1:]), own)
        elif kind == 3:
            self.new(f"{n}.movedim(0, -1)", (*s[1:], s[0]), own)
        elif kind == 4 and len(s) == 2:
            self.new(f"{n}.diagonal()", (min(s),), own)
        elif kind == 5:
            self.new(f"{n}.unsqueeze(-1)", (*s, 1), own)
        elif kind == 6 and len(s) == 2 and s[0] * s[1] >= 4:
            self.new(f"torch.as_strided({n}.contiguous(), (2, 2), (1, 2))", (2, 2), False)
        elif kind == 7 and 1 in s:
            d = s.index(1)
            if len(s) > 1:
                self.new(f"{n}.squeeze({d})", s[:d] + s[d + 1 :], own)
        elif kind == 8 and s[0] % 2 == 0:
            self.new(
                f"{n}.reshape(2, {', '.join(map(str, (s[0] // 2, *s[1:])))})", (2, s[0] // 2, *s[1:]), False
            )

    def write_far(self) -> None:
        found = [t for t in self.tensors if t[2] and len(t[1]) >= 2 and all(t[1])]
        if not found:
            return
        n, s, _ = self.r.choice(found)
        self.emit(
            self.r.choice(
                [
                    f"{n}.transpose(0, 1)[0][:1].mul_(2)",
                    f"{n}[:, :1].squeeze(1).add_(1)",
                    f"{n}[0].t().sub_(1)" if len(s) == 3 else f"{n}[0][1:].zero_()",
                    f"{n}.unsqueeze(0)[:, 0].fill_(0.3)",
                    f"{n}.diagonal().add_(1)",
                    f"{n}[-1:] = {n}[:1].detach() * 2",
                    f"{n}.narrow(0, 0, 1).exp_()",
                    f"{n}[..., None][0, 0] = 0.1",
                    f"{n}.view({n}.shape)[0] -= 1",
                    f"torch.relu_({n})",
                    f"{n}[0], {n}[-1] = {n}[-1].clone(), {n}[0].clone()",
                    f"{n}.swapaxes(0, -1).neg_()",
                ]
            )
        )

    def hook(self) -> None:
        n, _, _ = self.pick()
        self.emit(
            f"if {n}.requires_grad and not {n}.is_leaf and k != 1: "
            f"{n}.register_hook(lambda g: None if g is None else g * 0.5)"
        )

    def no_grad(self) -> None:
        n, s, _ = self.pick()
        m = self.name()
        self.emit("with torch.no_grad():")
        self.emit(f"    {m} = {n} * 2")
        self.emit(f"    {m}[0] += 1")
        self.tensors.append((m, s, self.r.random() < 0.5))

    def read(self) -> None:
        n, _, _ = self.pick()
        self.emit(
            ("if k == 3: " if self.r.random() < 0.4 else "")
            + self.r.choice(
                [
                    f"repr({n})",
                    f"{n}.tolist()",
                    f"{n}.sum().item()",
                    f"{n}.detach().numpy().sum()",
                    f"bool(({n} > 0).any())",
                ]
            )
        )

    def attempt(self) -> None:
        n, s, _ = self.pick()
        self.emit("try:")
        self.emit(
            "    "
            + self.r.choice(
                [
                    f"{n}.view(7, 11)",
                    f"{n} @ torch.ones(9)",
                    f"{n}[100]",
                    f"{n}.sum(7)",
                    "params[0].add_(1)",
                    f"torch.cat([{n}, torch.ones(9, 9, 9, 9)])",
                ]
            )
        )
        self.emit("except (RuntimeError, IndexError):")
        self.emit(f"    {n} * 2")

    def time(self) -> None:
        n, s, _ = self.pick()
        m = self.name()
        self.emit("outs, h = [], torch.zeros(" + repr(s) + ")")
        self.emit(f"for j in range({self.r.choice(['3', '2 + k % 2'])}):")
        self.emit(f"    h = torch.tanh(h * {self.r.choice(['0.5', 'lr', '(j + 1)'])} + {n})")
        self.emit("    outs.append(h)")
        self.emit(
            f"{m} = "
            + self.r.choice(
                [
                    "torch.stack(outs).sum(0)",
                    "sum(outs)",
                    "torch.stack(outs, -1).mean(-1)",
                    "outs[-1] + outs[0]",
                ]
            )
        )
        self.tensors.append((m, s, True))

    def keep(self) -> None:
        n, _, _ = self.pick()
        self.emit(f"state.append({n}{self.r.choice(['.detach()', '.detach().clone()', '.data'])})")
        if self.r.random() < 0.7:
            self.emit("del state[:-2]")

    def recall(self) -> None:
        n, s, _ = self.pick()
        m = self.name()
        self.emit(f"{m} = {n} + state[{self.r.choice([0, -1])}].sum() * 0.1 if state else {n} * 1")
        self.tensors.append((m, s, True))
        if self.r.random() < 0.3:
            self.emit("if state and k > 2: state[0].mul_(0.5)")

    def module(self) -> None:
        found = [t for t in self.tensors if t[1] and t[1][-1] in (4, 6)]
        if found:
            n, s, _ = self.r.choice(found)
            self.new(f"mods[{s[-1]}][{self.r.randrange(3)}]({n})", s)

    def penalty(self) -> None:
        if self.r.random() < 0.5:
            n = self.name()
            self.emit(
                f"{n}, = torch.autograd.grad(params[0].tanh().square().mean(), params[0], create_graph=True)"
            )
            self.tensors.append((n, self.tensors[2][1], False))

    def pieces(self) -> None:
        n, s, own = self.pick()
        if s[0] >= 2:
            h = -(-s[0] // 2)
            a, b = self.name(), self.name()
            self.emit(f"{a}, {b} = torch.split({n}, {h})")
            self.tensors.append((a, (h, *s[1:]), False))
            self.tensors.append((b, (s[0] - h, *s[1:]), False))

    def where(self) -> None:
        n, s, _ = self.pick()
        m, _, _ = self.pick(s)
        self.new(
            self.r.choice(
                [
                    f"torch.where({n} > {m}, {n}, {m} * lr)",
                    f"{n}.masked_fill({m} > 0.3, 0.5)",
                    f"torch.minimum({n}, {m})",
                    f"{n}.gather(0, torch.zeros({s!r}, dtype=torch.long)) * 0.5",
                    f"torch.zeros_like({n}).scatter_add(0, torch.zeros({s!r}, dtype=torch.long), {m})",
                ]
            ),
            s,
        )

    def out_of(self) -> None:
        n, s, _ = self.pick()
        m, _, _ = self.pick(s)
        t = self.name()
        self.emit(f"{t} = torch.empty({s!r})")
        self.emit(f"torch.add({n}.detach(), {m}.detach(), out={t})")
        self.tensors.append((t, s, True))

    def norm(self) -> None:
        n, s, _ = self.pick()
        self.new(
            self.r.choice(
                [
                    f"{n} / ({n}.norm() + 1)",
                    f"{n} - {n}.logsumexp(-1, keepdim=True)",
                    f"{n} * {n}.var(0, unbiased=False, keepdim=True)",
                    f"{n} + {n}.max()",
                    f"{n} + {n}.argmax(0).float()",
                    f"{n} * ({n}.prod() * 0.01)",
                ]
            ),
            s,
        )

    def begin(self) -> str:
        """Choose data and parameters; return the lines that say their shapes."""
        shapes = [self.r.choice(SHAPES) for _ in range(2)]
        for name in ("data", "params"):
            self.tensors += [(f"{name}[{i}]", shape, False) for i, shape in enumerate(shapes)]
        return f"SHAPES = {shapes!r}\n"

    def program(self) -> str:
        """Return the source of `step`."""
        grad = self.r.random() < 0.7
        declared = self.begin()
        for _ in range(self.size):
            self.step()
        if grad:
            losses = self.r.sample(self.tensors, min(3, len(self.tensors)))
            self.emit(
                "loss = "
                + " + ".join(f"(params[{i}] * params[{i}]).sum()" for i in range(2))
                + " + "
                + " + ".join(f"({n}).sum()" for n, _, _ in losses)
            )
            if self.rich and self.r.random() < 0.3:
                self.emit("loss.backward(retain_graph=True)")
                self.emit(
                    self.r.choice(
                        [
                            "loss.backward()",
                            "if k == 2: (loss * 2).backward()",
                            "if k % 2: (loss * 0.5).backward()",
                        ]
                    )
                )
            else:
                self.emit("loss.backward()")
            if self.rich and self.r.random() < 0.4:
                self.emit("opt.step()")
            elif self.r.random() < 0.5:
                self.emit("with torch.no_grad():")
                self.emit("    for p in params:")
                self.emit("        p -= 0.01 * p.grad")
        results = [n for n, _, _ in self.r.sample(self.tensors, min(4, len(self.tensors)))]
        self.emit(f"return [{', '.join(results)}" + (", loss]" if grad else "]"))
        return (
            declared
            + "def step(torch, F, data, params, idx, k, lr, state, mods, opt):\n"
            + "\n".join(self.lines)
            + "\n"
        )


def source(seed: int, size: int = 8) -> str:
    """Return program number `seed`. Odd ones use the rich vocabulary."""
    return Writer(seed, size, seed % 2 == 1).program()


def run(torch: Any, text: str, seed: int, to: Callable[[Any], Any], scale: float = 1.0, rounds: int = 5,
        cut: bool = False) -> list[list[Any]]:
    """Run a program for some rounds; return results, gradients and parameters of each, as `to` makes them.

    A program that has SIZES runs as many rounds, on data with the sizes in the place of None. `cut`: the data are cut out of
    tensors of many rows, at another place in every round, and in two rounds of three a value of theirs is read first.
    An exception ends the run and is part of the result: its class counts.
    """
    import numpy as np

    space: dict[str, Any] = {}
    exec(compile(text, f"program{seed}.py", "exec"), space)
    r = np.random.default_rng(seed)
    dtype = torch.get_default_dtype()  # float64, to see what rounding does; the numbers it begins with are the same

    def number(shape: tuple[int, ...]) -> Any:
        return torch.tensor((r.standard_normal(shape) * scale).astype(np.float32)).to(dtype)
    params = [number(s).requires_grad_() for s in space.get("PARAMS", space["SHAPES"])]
    torch.manual_seed(seed)
    nn, state = torch.nn, []  # type: ignore[var-annotated]
    torch.set_default_dtype(torch.float32)
    mods = {
        d: [nn.Linear(d, d), nn.LayerNorm(d), nn.Sequential(nn.Linear(d, d), nn.Tanh(), nn.Linear(d, d))]
        for d in (4, 6)
    }
    torch.set_default_dtype(dtype)
    for m in (m for ms in mods.values() for m in ms):
        m.to(dtype)
    weights = [p for ms in mods.values() for m in ms for p in m.parameters()]
    kind, options = [
        ("SGD", {"lr": 0.05}),
        ("SGD", {"lr": 0.05, "momentum": 0.9}),
        ("Adam", {"lr": 0.01}),
        ("AdamW", {"lr": 0.01}),
    ][seed % 4]
    opt = getattr(torch.optim, kind)([*params, *weights], **options)
    out: list[list[Any]] = []
    pools = [number((6 * rounds + s[0], *s[1:])) for s in space["SHAPES"]] if cut else []
    for k, b in enumerate(space.get("SIZES", [None] * rounds)):
        if cut:
            data = [pool[6 * k:6 * k + s[0]] for pool, s in zip(pools, space["SHAPES"])]
        else:
            data = [number(tuple(b if n is None else n for n in s)) for s in space["SHAPES"]]
        if cut and seed % 3:
            data[0].sum().item()
        idx = torch.tensor(r.integers(0, 100, 3))
        if seed % 3 or k == 3:  # others accumulate over the rounds
            for p in (*params, *weights):
                p.grad = None
        try:
            results = space["step"](
                torch, nn.functional, data, params, idx, k, 0.1 * (k + 1), state, mods, opt
            )
        except (RuntimeError, IndexError, ValueError) as e:
            out.append([outcome(e)])
            for p in (*params, *weights):  # how far backward came is nobody's promise
                p.grad = None
            continue
        out.append(
            [to(t) for t in results]
            + [None if p.grad is None else to(p.grad) for p in params]
            + [to(p) for p in params]
            + [to(w) for w in weights[:3]]
        )
    return out
