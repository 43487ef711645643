"""Random programs over the whole surface: operators by how often people use them, run on PyTorch as they are written.

`wide_programs` knows the shape of every expression that it writes. Here PyTorch runs each line as it is written, and what
it refuses, or what is large or not finite, is not kept: so any expression can stand in the tables of `surface_operators`.
The rest of the vocabulary (modules, hooks, branches, reads, backward) is that of `wide_programs`.
"""
from __future__ import annotations

import itertools
import math
import re
import warnings
from typing import Any

import numpy as np
import surface_operators as table
import torch
import wide_programs
from wide_programs import Var, run, world  # noqa: F401  (run is what `compare` calls)

OPERATORS = {text: weight for block, weight in ((table.OFTEN, 9), (table.SOMETIMES, 3), (table.SELDOM, 1))
             for text in table.entries(block)}
TRANSFORMS, OUT, VIEWS, WRITES = map(table.entries, (table.TRANSFORMS, table.OUT, table.VIEWS, table.WRITES))
DTYPES = {*wide_programs.FLOATS, *wide_programs.INTS, "bool", "float16", "int8", "int16", "complex64", "complex128"}
SHAPES = [*wide_programs.SHAPES, (4, 6), (4, 6), (2, 0, 3)]
# The gradient of a gradient in the argument of a function.
TWICE = """def twice(torch, f, x):
    x = x.detach().clone().requires_grad_()
    y = f(x)
    g, = torch.autograd.grad(y.sum() * 0.5 + y.square().sum(), x, create_graph=True, allow_unused=True)
    g = torch.autograd.grad(g.square().sum(), x, allow_unused=True)[0] if g is not None and g.requires_grad else None
    return torch.zeros_like(x) if g is None else g
"""
# Of the transforms: what PyTorch 2.13 dies of, what gaps.txt says cannot be mapped, is another example's or operand's,
# has a tangent in float64, or another where operands are equal.
NEVER = re.compile(r"linearize.*((alpha|value)=|ldexp)|vmap.*(bincount|histc|argwhere|tri[lu]|index_select|as_strided)|_foreach"
                   r"|(jvp|jacfwd).*gaussian_nll|(jvp|jacfwd|hessian|linearize).*fmax")
# What has a gradient in 16 bits here and none in PyTorch (gaps.txt).
SHORT_ONLY = re.compile(r"special\.i1e?\(")
# Derivatives whose own gradient PyTorch gets wrong (gaps.txt): only their values are compared.
DETACHED = re.compile(r"(jvp|jacfwd|hessian|linearize|grad.*grad).*(layer|instance|batch)_norm"
                      r"|(jvp|jacfwd|hessian|linearize).*(det\(|linalg\.solve)")
# Its second derivative is NaN in PyTorch where it is 0 (gaps.txt).
DEVIATION = re.compile(r"[\w.\[\]]+\.std\([^)]*\)")
# Writes that gaps.txt says are refused where elements repeat, and PyTorch accepts.
ALIKE = re.compile(r"\.(zero|fill|masked_fill|tril)_\(|\[torch[^=]*\] =")
LARGEST = 96  # elements of a value


class Refused(Exception):
    """A line that the program should not have."""


def repeats(t: Any) -> bool:
    """Tell whether a tensor shows one element all along a dimension, as expanded ones do."""
    return 0 not in t.shape and any(n > 1 and not s for n, s in zip(t.shape, t.stride()))


def apart(t: Any) -> bool:
    """Tell whether windows of a tensor do not overlap: gaps.txt says what a write makes of those that do."""
    if 0 in t.shape:
        return True
    real = [(n, s) for n, s in zip(t.shape, t.stride()) if n > 1 and s]
    places = {sum(at) for at in itertools.product(*(range(0, n * s, s) for n, s in real))}
    return len(places) == math.prod(n for n, _ in real)


class Writer(wide_programs.Writer):
    """Writes one program, with its first round at hand as far as it is written."""

    shapes = SHAPES

    def __init__(self, seed: int, size: int) -> None:
        super().__init__(seed, size)
        self.seed = seed
        self.space: dict[str, Any] = {}
        self.running = True

    def begin(self) -> None:
        shapes = [self.vars[0].shape, self.vars[1].shape]
        r = np.random.default_rng(self.seed)
        w = world(torch, shapes, r, self.seed)
        w.x, w.y = (torch.tensor(r.standard_normal(s).astype(np.float32)) for s in shapes)
        w.i = torch.tensor(r.integers(0, 100, 3))
        self.space = {"torch": torch, "F": torch.nn.functional, "w": w, "k": 0}
        exec(TWICE, self.space)

    def emit(self, *lines: str) -> None:
        if not self.space:
            self.begin()
        if self.running:
            exec("\n".join(lines), self.space)
        super().emit(*lines)

    def new(self, expr: str, shape: tuple[int, ...] = (), dtype: str = "float32", own: bool = True) -> Var:
        """Write a variable; what it is, PyTorch says."""
        if not self.space:
            self.begin()
        if any((eval(part, self.space) == 0).any() for part in DEVIATION.findall(expr) if not part.startswith("z.")):
            raise Refused(expr)
        name = self.fresh()
        self.emit(f"{name} = {expr}")
        value = self.checked(name)
        own = own and apart(value) and not repeats(value)
        self.vars.append(Var(name, tuple(value.shape), str(value.dtype)[6:], own))
        return self.vars[-1]

    def checked(self, name: str) -> Any:
        """Return the value of a variable; refuse what is large or not finite."""
        value = self.space[name]
        if not torch.is_tensor(value) or str(value.dtype)[6:] not in DTYPES or value.numel() > LARGEST or value.dim() > 4:
            raise Refused(name)
        if value.numel() and not value.detach().abs().to(torch.float64).max() < 50:  # NaN, too
            raise Refused(name)
        return value

    def derived(self, expr: str, x: Var) -> None:
        """Write a derivative by x, unless its strides or its dtype are what gaps.txt says PyTorch's alone are."""
        value = self.space[self.new(expr, own=False).name]
        if not value.is_contiguous() or (x.shape == () and value.dtype == torch.float64 != self.space[x.name].dtype):
            raise Refused(expr)

    def operand(self) -> Var:
        return (self.float(dtype=None) if self.r.random() < 0.8 else self.pick()) or self.vars[0]

    def fill(self, text: str, x: Var) -> str:
        """Return an expression of a table with all its operands but x."""
        y, z = self.like(x), self.pick(lambda v: v.dtype == x.dtype or self.r.random() < 0.2) or x
        n = len(x.shape)
        if ("_scatter(" in text and not apart(self.space[x.name])) or (SHORT_ONLY.search(text) and x.dtype in ("bfloat16", "float16")):
            raise Refused(text)
        return text.format(x="{x}", y="{x}" if y is x else y.name, z="{x}" if z is x else z.name, f="{f}",
                           d=self.r.randrange(-n, n) if n else 0, i=f"(w.i % {max(1, x.shape[0] if n else 1)})")

    def expression(self) -> tuple[str, Var]:
        """Return an operator of the tables, and what it is about."""
        x = self.operand()
        return self.fill(self.r.choices(list(OPERATORS), list(OPERATORS.values()))[0], x), x

    def operator(self) -> None:
        expr, x = self.expression()
        self.new(expr.replace("{x}", x.name), own=self.r.random() < 0.5)

    def curvature(self) -> None:
        expr, x = self.expression()
        if NEVER.search(expr):
            raise Refused(expr)
        self.derived(f"twice(torch, lambda z: {expr.replace('{x}', 'z')}, {x.name})", x)

    def transform(self) -> None:
        expr, x = self.expression()
        text = self.r.choice(TRANSFORMS)
        if "linearize" in text:  # what the function captures has no gradient in PyTorch
            expr = re.sub(r"\bt\d+\b|w\.p\[\d\]", r"\g<0>.detach()", expr)
        text = text.format(f=expr.replace("{x}", "z"), x=x.name)
        if "vmap" in text:  # an example has other dimensions; and what gaps.txt says of views and strides
            text = re.sub(r"w\.i % \d+", "w.i % 1", text) + ".clone(memory_format=torch.contiguous_format)"
        if "functional.jvp" in text and "mean" in text and 0 in x.shape:  # NaN, as gaps.txt says
            raise Refused(text)
        if NEVER.search(text) or ("out_dims=-1" in text and not self.mapped(text)):
            raise Refused(text)
        self.derived(text + ".detach()" * bool(DETACHED.search(text)), x)

    def mapped(self, text: str) -> bool:
        """Tell whether what is mapped depends on the example; where it does not, PyTorch 2.13 takes out_dims=-1 for a size."""
        seen: list[bool] = []
        spy = {"see": lambda y: seen.append(torch._C._functorch.is_batchedtensor(y)) or y}
        exec(re.sub(r"lambda z: (.*?), in_dims", r"lambda z: see(\1), in_dims", text), {**self.space, **spy})
        return all(seen)

    def out_of(self) -> None:
        """Write a result into a tensor that is there, a view of one, or one of another size."""
        x = self.operand()
        call = self.fill(self.r.choice(OUT), x).replace("{x}", f"{x.name}.detach()")
        value = eval(f"{call})", self.space)
        shape, dtype = tuple(value.shape), value.dtype
        target = self.r.choice([f"torch.zeros({shape}, dtype={dtype})", f"torch.empty(0, dtype={dtype})",
                                f"torch.zeros({(*shape, 2)}, dtype={dtype})[..., 0]", f"torch.zeros({shape[::-1]}, dtype={dtype}).permute(*{tuple(range(len(shape)))[::-1]})",
                                f"torch.zeros({shape}, dtype=torch.float64)"])
        self.new(target)
        self.emit(f"{call}, out={self.vars[-1].name})")
        self.vars[-1].shape = tuple(self.checked(self.vars[-1].name).shape)

    def write_through_views(self) -> None:
        x = self.pick(lambda v: v.shape != () and (v.own or (repeats(self.space[v.name]) and apart(self.space[v.name]))))
        if x is not None:
            view = x.name + "".join(self.r.choices(VIEWS, k=self.r.randint(0, 4)))
            line = view + self.r.choice(WRITES)
            if ALIKE.search(line) and repeats(eval(view, self.space)):
                raise Refused(line)
            self.emit(self.fill(line, x).replace("{x}", x.name))

    def view_of_view(self) -> None:
        """Keep a view of a view, for writes before and after it is read."""
        x = self.pick(lambda v: v.shape != ())
        if x is not None:
            self.new(x.name + "".join(self.r.choices(VIEWS, k=self.r.randint(1, 3))), own=x.own)

    def step(self) -> None:
        chosen = self.r.choices([self.operator, self.curvature, self.transform, self.out_of, self.write_through_views,
                                 self.view_of_view, super().step], [6, 1, 2, 1, 2, 1, 5])[0]
        before, known = len(self.lines), len(self.vars)
        try:
            chosen()
        except Exception:  # PyTorch's own
            del self.lines[before:], self.vars[known:]

    def train(self, losses: list[Var]) -> None:
        self.running = False  # whether backward works is a result
        super().train(losses)

    def program(self) -> str:
        state = torch.get_rng_state()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return super().program()
        finally:
            torch.set_rng_state(state)


def source(seed: int, size: int = 18) -> str:
    """Return program number `seed`."""
    return TWICE + Writer(seed, size).program()
