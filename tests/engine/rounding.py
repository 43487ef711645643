"""PyTorch that rounds otherwise: what else a correct library could make of the same program.

`Otherwise` is a mode in which every operator that rounds returns another of its correct results, drawn at random:

- An element that PyTorch computes exactly (it equals that of the same operator in float64) stays as it is: sums of small
  whole numbers, ties, masks, copies. So what a program determines is never shaken.
- Elsewhere a pointwise operator is off by up to one unit in the last place, or by as much as PyTorch itself is. Any other
  (sums, products, norms, factorisations) is that of operands which are off by up to half a unit each: backward stable
  algorithms, in whatever order they add, promise that and no more.
- Numbers of 16 bits are what float32 makes of them, rounded once. Float64 stays: there is nothing wider to hold it against.
- Of equal elements, sort, topk, kthvalue, median and mode choose another (gaps.txt).

How far such runs are from PyTorch's own is what rounding does to a program, where it stands: also where a number that is 0
in mathematics decides a branch, or is divided by.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
WIDER = {torch.float32: torch.float64, torch.complex64: torch.complex128, torch.float16: torch.float64, torch.bfloat16: torch.float64}
CONVERSIONS = {aten._to_copy.default, aten.copy_.default}  # rounded to nearest by everybody
# Means are rounded on the way to what may be exact again: 0 where all elements are equal (gaps.txt).
ROUNDED_WITHIN = {aten.native_layer_norm.default, aten.native_batch_norm.default, aten.native_group_norm.default,
                  aten.var.correction, aten.std.correction, aten.var_mean.correction}
CHOOSING = {aten.sort.default, aten.sort.stable, aten.topk.default, aten.kthvalue.default, aten.median.dim, aten.nanmedian.dim,
            aten.mode.default}
UNIT = 2.0 ** -23


class Otherwise(TorchDispatchMode):
    """Every operator that rounds returns another of its correct results; `seed` says which."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():  # of what traces functions (linearize)
            return self.another(func, args, kwargs or {})

    def another(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func is aten._efficientzerotensor.default:  # PyTorch 2.13 dies of those in a mode
            return torch.zeros(*args, **kwargs)
        if func in CHOOSING and not kwargs.get("stable"):
            return self.chosen(func, args, kwargs)
        if func.is_view or func in CONVERSIONS or torch.Tag.nondeterministic_seeded in func.tags:
            return func(*args, **kwargs)
        inputs = tree_map(_kept, (args, kwargs)) if func._schema.is_mutable else (args, kwargs)
        result = func(*args, **kwargs)
        found = [t for t in tree_flatten(result)[0] if torch.is_tensor(t)]
        rounded = [t.dtype in WIDER and t.numel() > 0 for t in found]
        if any(rounded):
            try:
                exact, other = self.wide(func, inputs, lambda t: t), None
                if torch.Tag.pointwise not in func.tags:
                    other = self.wide(func, inputs, lambda t: t * (1 + self.noise(t) * UNIT / 2))
            except (RuntimeError, NotImplementedError):  # not in float64
                return result
            for k, t in enumerate(found):
                if rounded[k]:
                    t.copy_(self.shaken(t, exact[k], other and other[k], func in ROUNDED_WITHIN))
        return result

    def noise(self, t: torch.Tensor) -> torch.Tensor:
        return torch.rand(t.shape, generator=self.generator, dtype=torch.float64) * 2 - 1

    def wide(self, func: Any, inputs: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        """Return the results of an operator in float64, of changed operands."""
        def to(x: Any) -> Any:
            if torch.is_tensor(x):
                return change(x.to(WIDER[x.dtype])).clone() if x.dtype in WIDER else x.clone()
            return WIDER.get(x, x) if isinstance(x, torch.dtype) else x
        args, kwargs = tree_map(to, inputs)
        return [t for t in tree_flatten(func(*args, **kwargs))[0] if torch.is_tensor(t)]

    def shaken(self, result: torch.Tensor, exact: torch.Tensor, other: torch.Tensor | None,
               within: bool) -> torch.Tensor:
        """Return another correct result, exact elements as they are."""
        if result.is_complex():
            parts = [None if t is None else torch.view_as_real(t.resolve_conj()) for t in (result, exact, other)]
            return torch.view_as_complex(self.shaken(*parts, within))  # type: ignore[arg-type]
        unit = exact.abs() * UNIT
        if other is None:
            error = (result - exact).abs() if result.dtype == torch.float32 else unit
            other = exact + self.noise(exact) * torch.maximum(unit, error)
        elif result.dtype == torch.float32:
            other = other + self.noise(exact) * unit
        other = torch.where((other * exact < 0) & (self.noise(other) > 0), 0.0, other)  # what may be of either sign, may be 0
        fixed = ((result.to(torch.float64) == exact) & (not within)) | ~exact.isfinite() | ~result.isfinite()
        return torch.where(fixed, result, other.to(result.dtype))

    def chosen(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Return what an operator makes of shuffled elements, with the places where they were."""
        names = [a.name for a in func._schema.arguments]
        x = args[0]
        dim = {**dict(zip(names, args)), **kwargs}.get("dim", -1)
        if not x.dim() or not x.numel():
            return func(*args, **kwargs)
        places = torch.randperm(x.shape[dim], generator=self.generator)
        values, at = func(x.index_select(dim, places), *args[1:], **kwargs)
        return values, places[at]


def _kept(x: Any) -> Any:
    return x.clone() if torch.is_tensor(x) else x
