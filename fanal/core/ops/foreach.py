"""torch._foreach_*: one operator on every tensor of a list, as optimizers outside of PyTorch call them.

Each is the method of Tensor on one tensor after the other: the engine fuses a step, however it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fanal.core.base import dtype as dt
from fanal.core.engine.handle import Handle
from fanal.core.ops.build import is_number, unsupported
from fanal.core.tensor.tensor import Tensor

_BOTH = frozenset(
    """abs acos add addcdiv addcmul asin atan ceil clamp_max clamp_min cos cosh div erf erfc exp expm1 floor frac lerp
    lgamma log log10 log1p log2 maximum minimum mul neg pow reciprocal round rsqrt sigmoid sign sin sinh sqrt sub tan
    tanh trunc""".split()
)
_NEW = frozenset(("clone", "max", "mm", "norm", "powsum"))
_WRITING = frozenset(("copy", "zero"))
_OF_NUMBERS = {"maximum": "clamp_min", "minimum": "clamp_max"}


def _column(x: Any, n: int) -> Sequence[Any]:
    """Return what each of `n` tensors is combined with: an element of a list, or one value for all."""
    if not isinstance(x, (list, tuple)):
        return [x] * n
    if len(x) != n and x and is_number(x[0]):
        raise RuntimeError(f"Tensor list must have same number of elements as scalar list, got {n} and {len(x)}")
    if len(x) != n:
        raise RuntimeError(f"Tensor lists must have the same number of tensors, got {n} and {len(x)}")
    return x


def _powsum(t: Any, ord: Any = 2, dtype: Any = None) -> Any:
    """Return the sum of abs(t) ** ord, rounded once."""
    if t._dtype.category < 2:
        raise unsupported("powsum_cpu", t._dtype)
    y = t.to(dt.ACCUMULATE.get(t._dtype, t._dtype)).abs().pow(ord).sum()
    return y.to(t._dtype.to_real() if dtype is None else dtype)


def _norm(t: Any, ord: Any = 2, dtype: Any = None) -> Any:
    """Return the norm of order `ord`."""
    return Tensor.norm(t, ord, dtype=dtype)  # type: ignore[attr-defined]


_OWN = {"norm": _norm, "powsum": _powsum}


def _apply(stem: str, inplace: bool, t: Any, *others: Any, **options: Any) -> Any:
    if others and is_number(others[0]):
        stem = _OF_NUMBERS.get(stem, stem)
    written = getattr(Tensor, f"{stem}_", None) if inplace else None
    if written is not None:
        return written(t, *others, **options)
    y = (_OWN.get(stem) or getattr(Tensor, stem))(t, *others, **options)
    return t.copy_(y) if inplace else y


def foreach(name: str) -> Callable | None:
    """Return the function of lists called `_foreach_...`, or None if PyTorch has none or Fanal lacks it."""
    stem = name.removeprefix("_foreach_")
    inplace = stem.endswith("_")
    stem = stem.removesuffix("_")
    if stem not in (_BOTH | _WRITING if inplace else _BOTH | _NEW):
        return None

    def call(self: Any, *others: Any, **options: Any) -> Any:
        if stem == "pow" and is_number(self):  # a number to the powers of a list
            return tuple(self**e for e in others[0])
        if not len(self):
            raise RuntimeError("Tensor list must have at least one tensor.")
        n = len(self)
        if stem in ("addcmul", "addcdiv") and len(others) == 3:
            *others, options["value"] = others  # type: ignore[assignment]
        values = options.pop("value", 1) if stem in ("addcmul", "addcdiv") else None
        if values is not None:
            values = _column(values.tolist() if isinstance(values, Handle) else values, n)
        columns = [_column(x, n) for x in others]
        made = []
        for i, t in enumerate(self):
            extra = {**options, "value": values[i]} if values is not None else options
            made.append(_apply(stem, inplace, t, *(c[i] for c in columns), **extra))
        return self if inplace else tuple(made)

    call.__name__ = call.__qualname__ = name
    what = "Add up abs(x) ** ord of" if stem == "powsum" else f"Call Tensor.{stem}{'_' * inplace} on"
    call.__doc__ = f"{what} each tensor of a list."
    return call
