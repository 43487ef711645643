"""How tensors are written, as text: the rules of torch's printing. Copies and pickles of tensors."""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Iterator
from textwrap import indent
from typing import Any
from weakref import ref

import numpy as np

from fanal.core.autograd.backward import grad_name
from fanal.core.autograd.forward import tangent_at
from fanal.core.base import dtype as dt
from fanal.core.base.shape import contiguous_strides
from fanal.core.base.state import state
from fanal.core.engine.handle import Handle, Storage
from fanal.core.engine.record import hold
from fanal.core.ir import prims as P
from fanal.core.ops.build import is_number, public
from fanal.core.ops.vmap import across
from fanal.core.tensor.alias import derive, value
from fanal.core.tensor.tensor import Tensor, adopt, blank, compute, settled, strides_of, wrap


class _Options:
    """What set_printoptions sets."""

    __slots__ = ("edgeitems", "linewidth", "precision", "sci_mode", "threshold")

    def __init__(self) -> None:
        self.precision, self.threshold, self.edgeitems, self.linewidth = 4, 1000.0, 3, 80
        self.sci_mode: bool | None = None


OPTIONS = _Options()
_PROFILES = {"default": (4, 1000, 3, 80), "short": (2, 1000, 2, 80), "full": (4, math.inf, 3, 80)}


@public(method=False, event=False)
def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Set how tensors are written."""
    if profile is not None:
        OPTIONS.precision, OPTIONS.threshold, OPTIONS.edgeitems, OPTIONS.linewidth = _PROFILES[profile]
    for name, new in (
        ("precision", precision),
        ("threshold", threshold),
        ("edgeitems", edgeitems),
        ("linewidth", linewidth),
    ):
        if new is not None:
            setattr(OPTIONS, name, new)
    OPTIONS.sci_mode = sci_mode


@public(method=False, event=False)
def get_printoptions() -> dict[str, Any]:
    """Return how tensors are written."""
    return {name: getattr(OPTIONS, name) for name in _Options.__slots__}


@contextlib.contextmanager
def printoptions(**options: Any) -> Iterator[None]:
    """Set how tensors are written inside a `with` block."""
    old = get_printoptions()
    set_printoptions(**options)
    try:
        yield
    finally:
        for name, value in old.items():
            setattr(OPTIONS, name, value)


public("printoptions", method=False, event=False)(printoptions)


class _Format:
    """One width and style for all shown elements."""

    __slots__ = ("floating", "sci", "whole", "width")

    def __init__(self, shown: np.ndarray) -> None:
        self.floating = shown.dtype.kind == "f"
        self.whole, self.sci, self.width = True, False, 1
        if not self.floating:
            self.width = max((len(str(v)) for v in shown.ravel().tolist()), default=1)
            return
        finite = shown[np.isfinite(shown) & (shown != 0)].astype(np.float64)
        if not finite.size:
            return
        size = np.abs(finite)
        low, high = float(size.min()), float(size.max())
        self.whole = bool((finite == np.ceil(finite)).all())
        self.sci = high / low > 1000.0 or high > 1e8 or (not self.whole and low < 1e-4)
        if OPTIONS.sci_mode is not None:
            self.sci = OPTIONS.sci_mode
        style = f".{OPTIONS.precision}e" if self.sci else ".0f" if self.whole else f".{OPTIONS.precision}f"
        extra = int(self.whole and not self.sci)  # the point after a whole number
        self.width = max(1, max(len(format(v, style)) for v in finite.tolist()) + extra)

    def __call__(self, v: Any) -> str:
        if not self.floating:
            text = str(v)
        elif self.sci:
            text = format(v, f"{self.width}.{OPTIONS.precision}e")
        elif self.whole:
            text = format(v, ".0f") + ("." if math.isfinite(v) else "")
        else:
            text = format(v, f".{OPTIONS.precision}f")
        return text.rjust(self.width)


class _ComplexFormat:
    """Real and imaginary parts, each with a format of its own."""

    __slots__ = ("imag", "real", "width")

    def __init__(self, shown: np.ndarray) -> None:
        self.real, self.imag = _Format(shown.real), _Format(shown.imag)
        self.width = self.real.width + self.imag.width + 1

    def __call__(self, v: complex) -> str:
        imag = self.imag(v.imag).lstrip() + "j"
        return self.real(v.real) + ("" if imag[0] in "+-" else "+") + imag


def _edges(a: np.ndarray) -> np.ndarray:
    """Return the elements that a shortened text shows."""
    k = OPTIONS.edgeitems
    for d in range(a.ndim):
        if a.shape[d] > 2 * k:
            a = np.concatenate([a.take(range(k), d), a.take(range(a.shape[d] - k, a.shape[d]), d)], d)
    return a


def _row(a: np.ndarray, indent: int, short: bool, form: Any) -> str:
    k = OPTIONS.edgeitems
    per_line = max(1, (OPTIONS.linewidth - indent) // (form.width + 2))
    if short and not k:
        items = ["..."]
    elif short and len(a) > 2 * k:
        items = [*map(form, a[:k].tolist()), " ...", *map(form, a[-k:].tolist())]
    else:
        items = list(map(form, a.tolist()))
    lines = [", ".join(items[i : i + per_line]) for i in range(0, len(items), per_line)]
    return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"


def _nested(a: np.ndarray, indent: int, short: bool, form: Any) -> str:
    if not a.ndim:
        return form(a.item())
    if a.ndim == 1:
        return _row(a, indent, short, form)
    k = OPTIONS.edgeitems
    if short and len(a) > 2 * k:
        parts = [
            *(_nested(x, indent + 1, short, form) for x in a[:k]),
            "...",
            *(_nested(x, indent + 1, short, form) for x in a[len(a) - k :]),
        ]
    else:
        parts = [_nested(x, indent + 1, short, form) for x in a]
    return "[" + ("," + "\n" * (a.ndim - 1) + " " * (indent + 1)).join(parts) + "]"


def array_text(a: np.ndarray, indent: int) -> str:
    """Return the values of an array as nested lists."""
    if not a.size:
        return "[]"
    if a.dtype.kind not in "biufc" or (a.dtype.itemsize <= 2 and a.dtype.kind not in "biu"):
        a = a.astype(np.float32)
    short = a.size > OPTIONS.threshold
    shown = _edges(a) if short else a
    form = _ComplexFormat(shown) if a.dtype.kind == "c" else _Format(shown)
    return _nested(a, indent, short, form)


def text(t: Any) -> str:
    """Return a tensor as text."""
    mapped = across(t)
    if mapped is not None:
        level, every = mapped
        return f"BatchedTensor(lvl={level}, bdim=0, value=\n{indent(text(every), '    ')}\n)"
    plain = type(t) is Tensor or type(t).__name__ == "Parameter"
    prefix = "tensor(" if plain else f"{type(t).__name__}("
    notes = []
    default = dt.get_default()
    usual = t._dtype in (default, default.to_complex(), dt.int64, dt.bool_)
    empty = not math.prod(t._shape)
    if t._storage.meta:
        notes += ["device='meta'", f"size={tuple(t._shape)}"]
        body = "..."
        usual = t._dtype is default
    elif empty:
        notes += [f"size={tuple(t._shape)}"] if len(t._shape) != 1 else []
        body, usual = "[]", t._dtype is default
    else:
        body = array_text(dt.plain(compute(t)), len(prefix))
    if not usual:
        notes.append(f"dtype={t._dtype}")
    if value(t).needs_grad:
        notes.append(f"grad_fn=<{grad_name(value(t))}>")
    elif t.requires_grad:
        notes.append("requires_grad=True")
    if state.levels:
        d = tangent_at(value(t), state.levels[-1])
        if d is not None:
            notes.append("tangent=" + text(wrap(P.alias(d))))
    return _with_notes(prefix + body, notes, len(prefix))


def _with_notes(body: str, notes: list[str], indent: int) -> str:
    length = len(body) - body.rfind("\n") + 1
    for note in notes:
        if length + len(note) + 2 > OPTIONS.linewidth:
            body += ",\n" + " " * indent + note
            length = indent + len(note)
        else:
            body += ", " + note
            length += len(note) + 2
    return body + ")"


def _format(self: Any, spec: str) -> str:
    if not self._shape and not self._storage.meta and type(self) is Tensor:
        return format(Tensor.item(self), spec)  # type: ignore[attr-defined]
    return object.__format__(self, spec)


def _contains(self: Any, element: Any) -> bool:
    if isinstance(element, Handle) or is_number(element):
        return bool((self == element).any())
    raise RuntimeError(
        f"Tensor.__contains__ only supports Tensor or scalar, but you passed in a {type(element)}."
    )


def _deepcopy(self: Any, memo: dict) -> Any:
    """Copy the storage once for all views of it; gradients and attributes go along."""
    import copy

    if id(self) in memo:
        return memo[id(self)]
    if not self.is_leaf:
        raise RuntimeError(
            "Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol at the "
            "moment.  If you were attempting to deepcopy a module, this may be because of a torch.nn.utils."
            "weight_norm usage, see https://github.com/pytorch/pytorch/pull/103001"
        )
    if not self._storage.meta:
        settled(self)
    s = self._storage
    known = memo.get(id(s))
    if known is None:
        node = P.alias(P.detach(s.node))
        if not s.meta:
            node = P.given(settled(self).copy(), self._storage.node.dtype)
        known = memo[id(s)] = Storage(node, s.meta)
        node.home = (ref(known), 0)
        if node.buffer is None:
            hold(known)
    n = derive(known.node, self._chain)
    t = blank(type(self), known, self._chain, self._shape, self._dtype, n, self._strides, self._offset)
    t._leaf = self._leaf
    memo[id(self)] = t
    if self._grad is not None:
        t._grad = copy.deepcopy(self._grad, memo)
    t.__dict__.update(copy.deepcopy(self.__dict__, memo))
    return t


def _class_of(path: Any) -> type:
    """Return a class from its place: (module, name) for Fanal's own, which carry PyTorch's names."""
    if path is None:
        return Tensor
    if isinstance(path, type):
        return path
    return getattr(importlib.import_module(path[0]), path[1])


def rebuilt(
    path: Any, data: bytes, name: str, shape: tuple, strides: tuple | None, requires_grad: bool, state: dict
) -> Any:
    """Return an unpickled tensor."""
    d = dt.by_name(name)
    flat = np.frombuffer(data, np.uint8).copy().view(d.np)
    t = wrap(P.given(flat.reshape(shape), d), strides)
    if path is not None:
        t = adopt(_class_of(path), t)
    t._leaf = requires_grad
    t.__dict__.update(state)
    return t


def _reduce(self: Any, protocol: int) -> tuple:
    if not self.is_leaf:
        raise RuntimeError("Cannot pickle a tensor that requires grad and is not a leaf: detach() it first")
    a = np.ascontiguousarray(compute(self))
    st = strides_of(self)
    order = sorted(range(len(st)), key=lambda i: (-st[i], i))
    dense = tuple(st[i] for i in order) == contiguous_strides([self._shape[i] for i in order])
    cls: Any = type(self)
    if cls is Tensor:
        cls = None
    elif cls.__module__.startswith("torch."):
        cls = ("fanal" + cls.__module__[5:], cls.__qualname__)
    return (
        rebuilt,
        (
            cls,
            a.tobytes(),
            self._dtype.name,
            self._shape,
            self._strides if dense else None,
            self._leaf,
            dict(self.__dict__),
        ),
    )


for _name, _f in {
    "__repr__": lambda self, *, tensor_contents=None: text(self),
    "__format__": _format,
    "__contains__": _contains,
    "__deepcopy__": _deepcopy,
    "__reduce_ex__": _reduce,
}.items():
    _f.__name__ = _f.__qualname__ = _name
    setattr(Tensor, _name, _f)
