"""Random programs of a wider vocabulary than `programs`: mixed dtypes, modules that train and evaluate, hooks,
gradients of gradients, accumulation, writes through views of views, reads and branches on values.

A program is a function `step(torch, F, w, k)`. `w` is a world that lives over the rounds: parameters, modules,
optimizer, fresh data (`w.x`, `w.y`), integers, and what earlier rounds kept. It returns a list of tensors and numbers.
"""
from __future__ import annotations

import random
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from agreement import outcome

FLOATS = ("float32", "float64", "bfloat16")
INTS = ("int64", "int32", "uint8")
SHAPES = [(4, 6), (6, 4), (2, 3, 4), (6,), (4, 4), (3, 1), (1,), ()]


@dataclass
class Var:
    """A variable of the program."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    own: bool = True  # may be written in place
    part: bool = False  # of what was split

    @property
    def floating(self) -> bool:
        return self.dtype in FLOATS


class Writer:
    """Writes one program."""

    shapes = SHAPES[:5]  # of parameters and data

    def __init__(self, seed: int, size: int) -> None:
        self.r = random.Random(f"wide {seed}")
        self.lines: list[str] = []
        self.vars: list[Var] = []
        self.count = 0
        self.size = size

    def emit(self, *lines: str) -> None:
        self.lines += ["    " + line for line in lines]

    def fresh(self) -> str:
        self.count += 1
        return f"t{self.count}"

    def new(self, expr: str, shape: tuple[int, ...], dtype: str = "float32", own: bool = True) -> Var:
        v = Var(self.fresh(), shape, dtype, own)
        self.emit(f"{v.name} = {expr}")
        self.vars.append(v)
        return v

    def pick(self, test: Callable[[Var], bool] = lambda v: True) -> Var | None:
        found = [v for v in self.vars if test(v)]
        if not found:
            return None
        # What was made last is used most: programs become deep rather than broad.
        return found[-1 - min(int(self.r.expovariate(0.35)), len(found) - 1)]

    def float(self, least: int = 0, dtype: str | None = "float32") -> Var | None:
        return self.pick(lambda v: v.floating and len(v.shape) >= least and dtype in (None, v.dtype))

    def like(self, v: Var) -> Var:
        return self.pick(lambda u: u.shape == v.shape and u.dtype == v.dtype) or v

    # Values.

    def unary(self) -> None:
        v = self.float(dtype=None)
        if v is None:
            return
        f = self.r.choice([
            "torch.tanh({})", "torch.sigmoid({})", "F.relu({})", "torch.exp(-{}.abs())", "torch.sqrt({}.abs() + 1)",
            "{}.sin()", "-{}", "{}.square()", "F.gelu({})", "F.silu({})", "F.softplus({})", "torch.log1p({}.abs())",
            "{}.clamp(-0.5, 0.5)", "{}.clamp(min=0.1)", "torch.erf({})", "{}.reciprocal().clamp(-2, 2)", "{}.pow(3)",
            "{} ** 2", "2 ** {}.clamp(-2, 2)", "{}.float().round().to({}.dtype)", "F.hardswish({})", "F.mish({})",
            "torch.where({0} > 0.1, {0}, -0.2)", "{}.abs().pow(0.5)", "F.elu({})", "torch.atan2({0}, {0}.abs() + 1)",
            "{}.expm1().clamp(max=3)", "{}.frac()", "F.logsigmoid({})"])
        if v.dtype == "bfloat16" and any(w in f for w in ("mish", "logsig", "frac", "softplus")):
            f = "{} * 0.5"
        self.new(f.format(v.name, v.name), v.shape, v.dtype)

    def binary(self) -> None:
        v = self.float(dtype=None)
        if v is None:
            return
        u = self.like(v)
        op = self.r.choice(["{} + {}", "{} - {}", "{} * {}", "{} / ({}.abs() + 1)", "torch.maximum({}, {})", "{} + {} * lr",
                            "torch.minimum({}, {})", "torch.add({}, {}, alpha=0.5)", "torch.hypot({}, {} + 1)",
                            "torch.lerp({}, {}, 0.25)", "torch.where({} > {}, 0.5, lr)", "F.smooth_l1_loss({}, {}, reduction='none')",
                            "torch.fmod({}, {}.abs() + 1)", "torch.copysign({}, {})"])
        if v.dtype == "bfloat16" and any(w in op for w in ("hypot", "smooth", "fmod", "lerp")):
            op = "{} + {}"
        dtype = "float32" if "0.5, lr" in op else v.dtype
        self.new(op.format(v.name, u.name), v.shape, dtype)

    def scalar(self) -> None:
        v = self.float(dtype=None)
        if v is not None:
            c = self.r.choice(["0.5", "2", "(k + 1)", "lr", "-1", "True", "float(k)"])
            op = self.r.choice(["{} * {}", "{1} * {0}", "{} + {}", "{1} - {0}", "{} / ({} + 2)", "torch.mul({}, {})"])
            self.new(op.format(v.name, c), v.shape, v.dtype)

    def broadcast(self) -> None:
        v = self.float(1)
        if v is not None:
            other = self.r.choice([f"{v.name}.mean(-1, keepdim=True)", f"{v.name}[..., :1]", f"{v.name}.amax()",
                                   f"{v.name}.sum(0)", "torch.tensor(0.5)", "torch.ones(1)", "w.p[2][:1]"])
            self.new(f"{v.name} {self.r.choice('+-*')} {other}", v.shape)

    def cast(self) -> None:
        v = self.pick()
        if v is not None:
            d = self.r.choice([*FLOATS, *INTS, "bool"])
            source = v.name
            if d in INTS or d == "bool":
                source = f"({v.name}.float() * 2).round().clamp(0, 9)" if d == "uint8" else f"({v.name}.float() * 3).round()"
            how = self.r.choice(["{}.to(torch.{})", "{}.type(torch.{})", "{}.to(dtype=torch.{})"])
            self.new(how.format(source, d), v.shape, d)

    def promote(self) -> None:
        v = self.pick()
        u = v and self.pick(lambda u: u.shape == v.shape)
        if v is None or u is None:
            return
        order = ["bool", "uint8", "int32", "int64", "bfloat16", "float32", "float64"]
        op = self.r.choice(["{} + {}", "{} * {}", "torch.where({0} > 0, {0}, {1})"])
        if v.dtype == u.dtype == "bool":
            op = self.r.choice(["{} & {}", "{} | {}", "{} ^ {}", "{} == {}"])
        high = max((v.dtype, u.dtype), key=order.index)
        self.new(op.format(v.name, u.name), v.shape, high)

    def integer(self) -> None:
        v = self.pick(lambda v: v.dtype in INTS)
        if v is None:
            return
        u = self.like(v)
        f = self.r.choice(["{} // 2", "{} % 3", "{} & {}", "{} | 1", "{} ^ {}", "~{}", "{}.abs()", "-{}", "{} * {} % 7", "{} << 1",
                           "{} >> 1", "torch.maximum({}, {})", "{}.clamp(1, 3)", "{}.cumsum(0).to({}.dtype)", "{}.sort(0)[0]",
                           "torch.div({}, {} | 1, rounding_mode='floor')", "{}.flip(0)", "{}.roll(1, 0)"])
        if not v.shape and any(w in f for w in ("sort", "flip", "cumsum", "roll")):
            return
        self.new(f.format(v.name, u.name), v.shape, v.dtype)

    def boolean(self) -> None:
        v = self.pick()
        if v is not None and v.dtype != "bool":
            u = self.like(v)
            self.new(self.r.choice(["{} > {}", "{} == {}", "{} <= 0", "{} != {}", "torch.isfinite({})", "torch.logical_not({})",
                                    "torch.logical_and({}, {})", "{}.to(torch.bool)"]).format(v.name, u.name), v.shape, "bool")
        elif v is not None:
            self.new(self.r.choice(["~{}", "{} & True", "{}.logical_not()", "{}.clone()"]).format(v.name), v.shape, "bool")

    def reduce(self) -> None:
        v = self.float(1, None)
        if v is None or not all(v.shape):
            return
        d = self.r.randrange(len(v.shape))
        keep = self.r.random() < 0.5
        shape = tuple(1 if i == d else n for i, n in enumerate(v.shape) if keep or i != d)
        f = self.r.choice(["sum", "mean", "amax", "amin", "logsumexp", "var", "std", "prod", "median", "cumsum", "cumprod", "norm", "all",
                           "argmax", "max"])
        if v.dtype == "bfloat16":
            f = self.r.choice(["sum", "mean", "amax"])
        if f in ("cumsum", "cumprod"):
            self.new(f"{v.name}.{f}({d})", v.shape, v.dtype)
        elif f in ("median", "max"):
            self.new(f"{v.name}.{f}({d}, keepdim={keep})[0]", shape, v.dtype)
        elif f == "argmax":
            self.new(f"{v.name}.argmax({d}, keepdim={keep})", shape, "int64")
        elif f == "all":
            self.new(f"({v.name} > -1).all({d}, keepdim={keep})", shape, "bool")
        elif f in ("var", "std"):
            self.new(f"{v.name}.{f}({d}, unbiased=False, keepdim={keep})" if f == "var" else
                     f"({v.name}.var({d}, unbiased=False, keepdim={keep}) + 0.1).sqrt()", shape, v.dtype)
        elif f == "norm":
            self.new(f"({v.name} + 0.1).norm(dim={d}, keepdim={keep})", shape, v.dtype)
        else:
            self.new(f"{v.name}.{f}({d}, keepdim={keep})", shape, v.dtype)

    def count_up(self) -> None:
        v = self.pick(lambda v: v.dtype in (*INTS, "bool") and len(v.shape) > 0)
        if v is not None:
            self.new(self.r.choice([f"{v.name}.sum()", f"{v.name}.long().max()", f"{v.name}.any().long()",
                                    f"torch.count_nonzero({v.name})", f"{v.name}.float().mean().round().long()"]), (), "int64")

    def view(self) -> None:
        v = self.pick(lambda v: len(v.shape) > 0 and all(v.shape))
        if v is None:
            return
        s, n = v.shape, v.name
        total = int(np.prod(s))
        options: list[tuple[str, tuple[int, ...]]] = [
            (f"{n}[{self.r.randrange(s[0])}]", s[1:]), (f"{n}.unsqueeze(0)", (1, *s)), (f"{n}.unsqueeze(-1)", (*s, 1)),
            (f"{n}.movedim(0, -1)", (*s[1:], s[0])), (f"{n}[..., ::2]", (*s[:-1], -(-s[-1] // 2))), (f"{n}[-1:]", (1, *s[1:])),
            (f"{n}.narrow(0, {s[0] // 2}, {s[0] - s[0] // 2})", (s[0] - s[0] // 2, *s[1:])), (f"{n}.reshape(-1)", (total,)),
            (f"{n}.flatten()", (total,)), (f"{n}[:]", s), (f"{n}.view_as({n})", s), (f"{n}[None]", (1, *s)),
        ]
        if len(s) >= 2:
            options += [(f"{n}.transpose(0, 1)", (s[1], s[0], *s[2:])), (f"{n}[:, 0]", (s[0], *s[2:])), (f"{n}.mT", (*s[:-2], s[-1], s[-2])),
                        (f"{n}[:, 1:]", (s[0], s[1] - 1, *s[2:])), (f"{n}.permute({', '.join(map(str, reversed(range(len(s)))))})", s[::-1])]
        if len(s) == 2:
            options += [(f"{n}.diagonal()", (min(s),)), (f"{n}.t()[0]", (s[0],))]
        expr, shape = self.r.choice(options)
        if len(shape) < 5:
            self.new(expr, shape, v.dtype, v.own and "reshape" not in expr and "flatten" not in expr)

    def pieces(self) -> None:
        v = self.pick(lambda v: len(v.shape) > 0 and v.shape[0] >= 2)
        if v is None:
            return
        s, a, b = v.shape, self.fresh(), self.fresh()
        h = -(-s[0] // 2)
        how = self.r.choice([f".split({h})", ".chunk(2)", f".split([{h}, {s[0] - h}])", f".tensor_split([{h}])", "unbind"])
        own = v.own and self.r.random() < 0.3
        if how == "unbind":
            self.emit(f"{a}, {b} = {v.name}.unbind(0)[:2]")
            self.vars += [Var(a, s[1:], v.dtype, own, True), Var(b, s[1:], v.dtype, False, True)]
        else:
            self.emit(f"{a}, {b} = {v.name}{how}")
            self.vars += [Var(a, (h, *s[1:]), v.dtype, own, True), Var(b, (s[0] - h, *s[1:]), v.dtype, False, True)]

    def index(self) -> None:
        v = self.pick(lambda v: len(v.shape) > 0 and all(v.shape))
        if v is None:
            return
        n, s = v.name, v.shape
        options = [(f"{n}[w.i % {s[0]}]", (3, *s[1:])), (f"torch.index_select({n}, 0, w.i % {s[0]})", (3, *s[1:])),
                   (f"{n}.flip(0)", s), (f"{n}.roll(1, 0)", s), (f"{n}.repeat_interleave(2, 0)", (2 * s[0], *s[1:])),
                   (f"{n}.take(w.i % {int(np.prod(s))})", (3,)), (f"{n}.gather(0, torch.zeros({s!r}, dtype=torch.long))", s),
                   (f"torch.cat([{n}, {n}[:1]], 0)", (s[0] + 1, *s[1:])), (f"torch.stack([{n}, {n}], -1)", (*s, 2)),
                   (f"{n}.expand(2, {', '.join(map(str, s))}).clone()", (2, *s))]
        if v.floating and v.dtype != "bfloat16":
            options += [(f"F.pad({n}, (1, 1))", (*s[:-1], s[-1] + 2)), (f"torch.zeros_like({n}).index_add(0, w.i % {s[0]}, {n}[w.i % {s[0]}])", s),
                        (f"torch.zeros_like({n}).scatter_add(0, torch.zeros({s!r}, dtype=torch.long), {n})", s),
                        (f"{n}.masked_fill({n} > 0.3, 0.5)", s), (f"torch.where({n} > 0, {n}, {n}.detach() * 0.1)", s),
                        (f"{n}.sort(0, descending=True)[0]", s), (f"{n}.topk(1, 0)[0]", (1, *s[1:])), (f"{n}.tril()" if len(s) >= 2 else n, s)]
        expr, shape = self.r.choice(options)
        if len(shape) < 5:
            self.new(expr, shape, v.dtype, "expand" not in expr and expr != n and v.own)

    def product(self) -> None:
        v = self.float(2)
        if v is None or len(v.shape) not in (2, 3) or not all(v.shape):
            return
        n, s = v.name, v.shape
        square = (*s[:-1], s[-2])
        self.new(self.r.choice([f"{n} @ {n}.mT * 0.1", f"torch.einsum('...ij,...kj->...ik', {n}, {n}) * 0.1",
                                f"torch.matmul({n}, {n}.transpose(-1, -2)) * lr"]), square)

    def loss(self) -> None:
        v = self.float(2)
        if v is None or len(v.shape) != 2 or not all(v.shape):
            return
        s = v.shape
        target = f"w.i.repeat({-(-s[0] // 3)})[:{s[0]}] % {s[1]}"
        self.new(self.r.choice([f"F.cross_entropy({v.name}, {target})", f"F.mse_loss({v.name}, torch.zeros({s!r}))",
                                f"F.nll_loss(F.log_softmax({v.name}, 1), {target})", f"F.binary_cross_entropy_with_logits({v.name}, torch.ones({s!r}))",
                                f"F.cross_entropy({v.name}, {v.name}.detach().softmax(1))", f"F.huber_loss({v.name}, {v.name}.detach() * 0.5)",
                                f"F.cosine_similarity({v.name}, {v.name}.detach() + 1, dim=1).sum()"]), (), own=False)

    def normalize(self) -> None:
        v = self.float(1)
        if v is not None and all(v.shape):
            n = v.name
            self.new(self.r.choice([f"F.softmax({n}, -1)", f"F.log_softmax({n}, 0)", f"F.layer_norm({n}, {n}.shape[-1:], eps=0.1)",
                                    f"F.normalize({n} + 0.1, dim=-1)", f"({n} - {n}.mean()) / ({n}.std(unbiased=False) + 1)"]), v.shape)

    # Modules: linear, layer norm, batch norm, embedding, convolution, GRU cell.

    def module(self) -> None:
        v = self.pick(lambda v: v.dtype == "float32" and len(v.shape) == 2 and v.shape[1] in (4, 6) and v.shape[0] > 1)
        if v is None:
            return
        d = v.shape[1]
        which = self.r.choice(["linear", "norm", "block", "batch", "batch", "gru", "conv", "attention"])
        if which == "gru":
            self.new(f"w.m['gru{d}']({v.name}, torch.tanh({v.name}))", v.shape)
        elif which == "conv":
            self.new(f"w.m['conv']({v.name}.unsqueeze(1)).mean(1)", v.shape)
        elif which == "attention":
            self.new(f"F.scaled_dot_product_attention({v.name}[None], {v.name}[None], {v.name}[None])[0]", v.shape)
        else:
            self.new(f"w.m['{which}{d}']({v.name})", v.shape)

    def embed(self) -> None:
        self.new("w.m['table'](w.i % 5)", (3, 4))

    def mode(self) -> None:
        which = self.r.choice(["batch4", "batch6", "block4"])
        self.emit(self.r.choice([f"w.m['{which}'].train(k % 2 == 0)", f"w.m['{which}'].eval()", f"w.m['{which}'].train()",
                                 f"if k == 2: w.m['{which}'].eval()"]))

    # Writes.

    def write(self) -> None:
        v = self.pick(lambda v: v.own and all(v.shape))
        if v is None:
            return
        n, u = v.name, self.like(v).name
        if v.floating:
            c = [f"{n}.add_({u}.detach())", f"{n}.mul_(0.5)", f"{n} += 1", f"{n}.copy_({u} * 0.5)", f"{n}.zero_()", f"{n}.clamp_(-1, 1)",
                 f"{n}.sub_(lr)", f"{n}.fill_(0.3)", f"{n}.add_({u}, alpha=0.5)", f"{n} *= {u}", f"{n}.neg_()", f"{n}.masked_fill_({u} > 0.5, 0.1)",
                 f"{n}.copy_(torch.ones(1, dtype=torch.float64))", f"{n}.div_(2)"]
            if v.dtype == "float32":
                c += [f"F.relu_({n})", f"{n}.tanh_()", f"{n}.lerp_({u}, 0.5)", f"{n}.addcmul_({u}, {u}, value=0.1)", f"{n}.exp_().clamp_(max=2)"]
        elif v.dtype == "bool":
            c = [f"{n}.logical_not_()", f"{n} &= {u}", f"{n}.fill_(True)", f"{n}.copy_({u})", f"{n} |= {u}"]
        else:
            c = [f"{n} += 1", f"{n}.mul_(2)", f"{n} //= 2", f"{n}.copy_({u})", f"{n}.zero_()", f"{n}.clamp_(0, 5)", f"{n} &= 3"]
        self.emit(self.r.choice(c))

    def write_deep(self) -> None:
        v = self.pick(lambda v: v.own and len(v.shape) >= 2 and all(v.shape))
        if v is None:
            return
        n, s = v.name, v.shape
        c = [f"{n}[0] = 1", f"{n}.transpose(0, 1)[0][:1].fill_(1)", f"{n}[..., 0] += 1", f"{n}.unsqueeze(0)[:, 0].mul_(2)", f"{n}[-1:] = {n}[:1]",
             f"{n}[:, :1].squeeze(1).add_(1)", f"{n}.view({n}.shape)[0] *= 2", f"{n}.mT[..., 0, :] = 2", f"{n}[0][0:1][0:1].add_(1)",
             f"{n}[w.i[:1] % {s[0]}] = 1", f"{n}[w.i % {s[0]}, 0] = 2", f"{n}[{n} > 0] = 1", f"{n}.index_fill_(0, w.i[:1] % {s[0]}, 1)",
             f"{n}[0].copy_({n}[-1])", f"{n}.swapaxes(0, -1)[0].zero_()", f"{n}.select(0, 0).detach().add_(1)",
             f"{n}[:1], {n}[-1:] = {n}[-1:].clone(), {n}[:1].clone()", f"{n}.index_put_((w.i % {s[0]},), {n}[:1].clone(), accumulate=True)"]
        if v.floating:
            c += [f"{n}.narrow(0, 0, 1).mul_(0.5)", f"{n}.diagonal().add_(1)" if len(s) == 2 else f"{n}[0][0] = 0.5",
                  f"{n}.index_add_(0, w.i % {s[0]}, torch.ones(({3}, {', '.join(map(str, s[1:]))}), dtype={n}.dtype))",
                  f"{n}.scatter_(0, torch.zeros((1, *{s[1:]!r}), dtype=torch.long), 0.5)"]
        if v.dtype == "bool":
            c = [f"{n}[0] = True", f"{n}[..., 0] = False", f"{n}.mT[..., 0, :] = True"]
        self.emit(self.r.choice(c))

    def out_of(self) -> None:
        v = self.float(dtype=None)
        if v is not None:
            t = self.new(f"torch.empty({v.shape!r}, dtype=torch.{v.dtype})", v.shape, v.dtype)
            self.emit(f"torch.add({v.name}.detach(), {self.like(v).name}.detach(), out={t.name})")

    # The engine's edges.

    def read(self) -> None:
        v = self.pick(lambda v: all(v.shape))
        if v is not None:
            n = v.name
            self.emit(("if k == 3: " if self.r.random() < 0.4 else "") + self.r.choice(
                [f"repr({n})", f"{n}.tolist()", f"{n}.sum().item()", f"float({n}.float().mean())", f"bool(({n} > 0).any())",
                 f"w.seen.append({n}.float().sum().item())", f"len({n}.nonzero())", f"{n}.detach().clone().cpu()"]))

    def branch(self) -> None:
        v = self.float(dtype=None)
        if v is None:
            return
        m = Var(self.fresh(), v.shape, v.dtype)
        test = self.r.choice(["k % 2", "k > 1", "k == 3", f"float({v.name}.float().sum()) > 0", f"({v.name} > 0).any()", "len(w.kept) > 1"])
        yes, no = self.r.sample([f"{v.name} * 2", f"{v.name}.tanh()", f"{v.name}.clone().add_(1)", f"{v.name} - lr", f"F.relu({v.name})"], 2)
        self.emit(f"if {test}:", f"    {m.name} = {yes}", "else:", f"    {m.name} = {no}")
        self.vars.append(m)

    def loop(self) -> None:
        v = self.float()
        if v is None:
            return
        m = Var(self.fresh(), v.shape)
        body = self.r.choice([f"h = torch.tanh(h * 0.5 + {v.name})", f"h = h * lr + {v.name}.sin()", f"h = h + {v.name}; h[...] *= 0.5",
                              "h = h.clone(); h += 1"])
        times = self.r.choice(["3", "2 + k % 2", "k + 1"])
        self.emit(f"outs, h = [], torch.zeros({v.shape!r})", f"for j in range({times}):", f"    {body}", "    outs.append(h)",
                  f"{m.name} = " + self.r.choice(["torch.stack(outs).sum(0)", "sum(outs)", "outs[-1] + outs[0]"]))
        self.vars.append(m)

    def halve(self) -> None:
        v = self.float()
        if v is not None:
            m = Var(self.fresh(), v.shape)
            self.emit(f"{m.name} = {v.name}.clone()", f"while 3 < float({m.name}.detach().abs().sum()) < 1e9:", f"    {m.name} = {m.name} * 0.5")
            self.vars.append(m)

    def hook(self) -> None:
        v = self.float()
        if v is not None:
            n = v.name
            how = [f"{n}.register_hook(lambda g: g * 0.5)", f"{n}.register_hook(lambda g: None if g is None else w.seen.append(float(g.sum())))",
                   f"{n}.retain_grad()", f"{n}.register_hook(lambda g: torch.clamp(g, -1, 1))",
                   f"w.handles.append({n}.register_hook(lambda g: g + 0.1))"]
            self.emit(f"if {n}.requires_grad and not {n}.is_leaf and k != 1:",
                      "    " + self.r.choice(how[1:3] if v.part else how))  # PyTorch calls hooks of parts with None (gaps.txt)

    def leaf_hook(self) -> None:
        self.emit(self.r.choice(["if k == 1: w.handles.append(w.p[0].register_hook(lambda g: g * 2))",
                                 "if k == 3 and w.handles: w.handles.pop().remove()",
                                 "if k == 0: w.handles.append(w.p[1].register_post_accumulate_grad_hook(lambda p: w.seen.append(float(p.grad.sum()))))",
                                 "if k == 2: w.handles.append(w.m['linear4'].register_forward_hook(lambda m, a, y: y * 0.5))",
                                 "if k == 2: w.handles.append(w.m['linear6'].register_full_backward_hook(lambda m, gi, go: w.seen.append(1.0)))"]))

    def no_grad(self) -> None:
        v = self.float()
        if v is None:
            return
        m = Var(self.fresh(), v.shape, own=self.r.random() < 0.5)
        body = self.r.choice([f"{m.name} = {v.name} * 2", f"{m.name} = {v.name}.clone().add_(1)", f"{m.name} = {v.name}[...]"])
        after = self.r.choice(["pass", "w.p[2].mul_(0.9)", "w.p[2][:1] += 0.1", f"{m.name} = {m.name} + w.p[2].sum()"])
        self.emit(f"with torch.{self.r.choice(['no_grad()', 'no_grad()', 'set_grad_enabled(k % 2 == 0)'])}:", f"    {body}", f"    {after}")
        self.vars.append(m)

    def cut(self) -> None:
        v = self.float()
        if v is not None:
            self.new(f"{v.name}{self.r.choice(['.detach()', '.detach().clone()', '.detach() + 0 * ' + v.name])}", v.shape, own=self.r.random() < 0.3)

    def attempt(self) -> None:
        v = self.pick(lambda v: v.floating)
        if v is not None:
            n = v.name
            self.emit("try:", "    " + self.r.choice([f"{n}.view(7, 11)", f"{n} @ torch.ones(9)", f"{n}[100]", f"{n}.sum(7)", "w.p[0].add_(1)",
                                                      f"torch.cat([{n}, torch.ones(9, 9, 9, 9)])", f"{n}.add_(torch.ones(13, 1, 1, 1, 1))",
                                                      "w.p[0].view(-1)[0] = 1", f"{n}.backward(torch.ones(77))"]),
                      "except (RuntimeError, IndexError):", f"    {n} * 2")

    def keep(self) -> None:
        v = self.float()
        if v is not None:
            self.emit(f"w.kept.append({v.name}{self.r.choice(['.detach()', '.detach().clone()', ''])})" if self.r.random() < 0.8
                      else f"w.kept.append({v.name}.sum().item())")
            if self.r.random() < 0.7:
                self.emit("del w.kept[:-2]")

    def recall(self) -> None:
        v = self.float()
        if v is not None:
            self.new(f"{v.name} + (sum(x.detach().sum() if torch.is_tensor(x) else x for x in w.kept) * 0.1 if w.kept else 0)", v.shape)

    def second(self) -> None:
        v = self.float()
        if v is None:
            return
        kind = self.r.randrange(3)
        n = self.fresh()
        if kind == 0:
            self.emit(f"{n}, = torch.autograd.grad((w.p[0].tanh() * w.p[0]).square().mean(), w.p[0], create_graph=True)")
        elif kind == 1:
            self.emit(f"{n} = torch.autograd.grad(({v.name} * {v.name}).sum() + w.p[0].sum(), w.p[0], create_graph=True, "
                      f"allow_unused=True)[0]")
        else:
            self.emit(f"{n} = torch.autograd.grad(torch.sigmoid({v.name}).sum() + w.p[0].pow(3).sum(), w.p[0], "
                      f"retain_graph={self.r.choice(['True', 'None'])})[0]")
        self.vars.append(Var(n, self.p0, own=False))

    def function(self) -> None:
        v = self.float()
        if v is not None:
            self.new(f"w.{self.r.choice(['Double', 'Cube'])}.apply({v.name})", v.shape)

    def checkpoint(self) -> None:
        v = self.float()
        if v is not None:
            self.new(f"w.checkpoint(lambda x: torch.tanh(x * 2) * x, {v.name}, use_reentrant=False)", v.shape)

    def alias(self) -> None:
        v = self.float(1)
        if v is not None:
            n = v.name
            self.new(self.r.choice([f"{n} + {n}", f"{n} * {n}", f"torch.cat([{n}, {n}])[:{v.shape[0]}]", f"torch.stack([{n}, {n}]).sum(0)",
                                    f"torch.where({n} > 0, {n}, {n})", f"{n}[:] - {n}", f"torch.addcmul({n}, {n}, {n}, value=lr)"]), v.shape)

    def toggle(self) -> None:
        self.emit(self.r.choice(["w.p[1].requires_grad_(k % 3 != 1)", "w.p[1].requires_grad_(True)", "w.opt.param_groups[0]['lr'] = lr * 0.1",
                                 "torch.manual_seed(k); w.seen.append(float(torch.rand(3).sum()))"]))

    def step(self) -> None:
        values = [self.unary, self.unary, self.binary, self.binary, self.scalar, self.broadcast, self.cast, self.promote, self.integer,
                  self.boolean, self.reduce, self.reduce, self.count_up, self.view, self.view, self.view, self.pieces, self.index, self.index,
                  self.product, self.loss, self.normalize, self.module, self.module, self.embed]
        edges = [self.mode, self.write, self.write, self.write_deep, self.write_deep, self.out_of, self.read, self.branch, self.loop, self.halve,
                 self.hook, self.leaf_hook, self.no_grad, self.cut, self.attempt, self.keep, self.recall, self.second, self.function,
                 self.checkpoint, self.alias, self.toggle]
        self.r.choice(self.r.choice((values, edges)))()

    def train(self, losses: list[Var]) -> None:
        terms = " + ".join(f"{v.name}.float().sum()" for v in losses)
        self.emit(f"loss = (w.p[0] * w.p[0]).sum() + w.p[2].sum() * 0.1 + {terms}")
        how = self.r.randrange(6)
        if how == 0:
            self.emit("loss.backward(retain_graph=True)", self.r.choice(["loss.backward()", "if k == 2: (loss * 2).backward()",
                                                                         "(loss * w.p[0].sum()).backward()"]))
        elif how == 1:
            self.emit("gs = torch.autograd.grad(loss, w.p, create_graph=True, allow_unused=True)",
                      "(loss + sum(g.square().sum() for g in gs if g is not None) * 0.01).backward()")
        elif how == 2:
            self.emit("for part in (loss * 0.5, (w.p[0] * 3).sum()):", "    part.backward()" if self.r.random() < 0.5 else
                      "    part.backward(torch.tensor(0.5))")
        elif how == 3:
            self.emit("loss.backward(inputs=[w.p[0], w.p[2]])")
        else:
            self.emit("loss.backward()")
        self.emit(self.r.choice(["w.opt.step()", "w.opt.step()", "w.opt.step(); w.sched.step()", "torch.nn.utils.clip_grad_norm_(w.all, 1.0); w.opt.step()",
                                 "with torch.no_grad():\n        for p in w.p:\n            if p.grad is not None: p -= 0.01 * p.grad",
                                 "for p in w.p:\n        if p.grad is not None: p.data.add_(p.grad, alpha=-0.01)", "pass",
                                 "torch.nn.utils.clip_grad_value_(w.all, 0.5); w.opt.step()"]))
        self.emit(self.r.choice(["pass", "pass", "w.opt.zero_grad()", "w.opt.zero_grad(set_to_none=False)", "if k % 2: w.opt.zero_grad()"]))

    def program(self) -> str:
        """Return the source of `step`."""
        shape = self.r.choice(self.shapes)
        self.p0 = shape
        self.vars = [Var("w.x", shape, own=False), Var("w.y", self.r.choice(self.shapes), own=False), Var("w.i", (3,), "int64", False),
                     Var("w.p[0]", shape, own=False), Var("w.p[1]", (4, 6), own=False), Var("w.p[2]", (4,), own=False)]
        y = self.vars[1].shape
        self.emit("lr = 0.1 * (k + 1)")
        for _ in range(self.size):
            self.step()
        if self.r.random() < 0.75:
            floats = [v for v in self.vars if v.floating]
            self.train(self.r.sample(floats, min(3, len(floats))))
        results = self.r.sample(self.vars, min(5, len(self.vars)))
        self.lines.append(f"    return [{', '.join(v.name for v in results)}]")
        return f"SHAPES = {[shape, y]!r}\ndef step(torch, F, w, k):\n" + "\n".join(self.lines) + "\n"


def source(seed: int, size: int = 12) -> str:
    """Return program number `seed`."""
    return Writer(seed, size).program()


def world(torch: Any, shapes: list[tuple[int, ...]], r: Any, seed: int, scale: float = 1.0) -> Any:
    """Return what lives over the rounds."""
    nn, w = torch.nn, types.SimpleNamespace()
    torch.manual_seed(seed)
    dtype = torch.get_default_dtype()

    def parameter(shape: tuple[int, ...]) -> Any:
        return torch.tensor((r.standard_normal(shape) * scale).astype(np.float32)).to(dtype).requires_grad_()
    w.p = [parameter(shapes[0]), parameter((4, 6)), parameter((4,))]
    w.m = {}
    for d in (4, 6):
        w.m |= {f"linear{d}": nn.Linear(d, d), f"norm{d}": nn.LayerNorm(d), f"batch{d}": nn.BatchNorm1d(d, eps=0.1), f"gru{d}": nn.GRUCell(d, d),
                f"block{d}": nn.Sequential(nn.Linear(d, 8), nn.ReLU(), nn.BatchNorm1d(8, eps=0.1), nn.Linear(8, d))}
    w.m |= {"conv": nn.Conv1d(1, 3, 3, padding=1), "table": nn.Embedding(5, 4)}
    for m in w.m.values():  # the initial numbers are float32's, whatever computes with them
        for p in m.parameters():
            with torch.no_grad():
                p.copy_(torch.tensor((r.standard_normal(tuple(p.shape)) * 0.4).astype(np.float32)))
    w.all = [*w.p, *(p for m in w.m.values() for p in m.parameters())]
    kind, options = [("SGD", {"lr": 0.05}), ("SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}), ("Adam", {"lr": 0.01, "eps": 1e-3}),
                     ("AdamW", {"lr": 0.01, "eps": 1e-3}), ("RMSprop", {"lr": 0.01, "eps": 1e-2})][seed % 5]
    w.opt = getattr(torch.optim, kind)(w.all, **options)
    w.sched = torch.optim.lr_scheduler.StepLR(w.opt, 2, 0.5)
    w.kept, w.seen, w.handles = [], [], []
    import importlib
    w.checkpoint = importlib.import_module(f"{torch.__name__}.utils.checkpoint").checkpoint

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * 2

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x ** 3

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            x, = ctx.saved_tensors
            return 3 * x * x * g
    w.Double, w.Cube = Double, Cube
    return w


def run(torch: Any, text: str, seed: int, to: Callable[[Any], Any], scale: float = 1.0, rounds: int = 5,
        optimizer: bool = False) -> list[list[Any]]:
    """Run a program for some rounds; return results, gradients, parameters and buffers of each, as `to` makes them.

    An exception is the result of its round: its class counts, and whether it says that a saved value was overwritten.
    With `optimizer`, return the gradients that the optimizer meets in each round instead.
    """
    space: dict[str, Any] = {}
    exec(compile(text, f"wide{seed}.py", "exec"), space)
    r = np.random.default_rng(seed)
    w = world(torch, space["SHAPES"], r, seed, scale)
    dtype = torch.get_default_dtype()
    out: list[list[Any]] = []
    met: list[list[Any]] = [[] for _ in range(rounds)]
    if optimizer:
        w.opt.register_step_pre_hook(lambda *_: met[k].extend(None if p.grad is None else to(p.grad) for p in w.all))
    for k in range(rounds):
        w.x, w.y = (torch.tensor((r.standard_normal(s) * scale).astype(np.float32)).to(dtype) for s in space["SHAPES"])
        w.i = torch.tensor(r.integers(0, 100, 3))
        w.seen.clear()
        if seed % 3 or k == 3:  # others accumulate over the rounds
            for p in w.all:
                p.grad = None
        try:
            results = space["step"](torch, torch.nn.functional, w, k)
        except (RuntimeError, IndexError, ValueError, TypeError) as e:
            out.append([outcome(e)])
            for p in w.all:  # how far backward came is nobody's promise
                p.grad = None
            continue
        buffers = [w.m["batch4"].running_mean, w.m["batch6"].running_var, w.m["block4"][2].running_mean]
        parameters = [to(p) for p in w.all[:9]]
        out.append([to(t) if torch.is_tensor(t) else t for t in results] + [None if p.grad is None else to(p.grad) for p in w.all[:9]]
                   + parameters + [to(b) for b in buffers] + list(w.seen))
        if any(isinstance(p, np.ndarray) and np.isnan(p).any() for p in parameters):
            break  # gaps.txt says what gradients at NaN are
    return met if optimizer else out
