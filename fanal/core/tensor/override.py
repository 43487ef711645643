"""__torch_function__: public calls that a subclass of Tensor, another class, or a mode answers instead.

What answers is Python that runs every time. So a call it answers is no event; the calls it makes in its turn are, and
those with such arguments are matched in Python, or the matcher would answer before the class is asked. A call without
such an argument costs one look at the types of its arguments, and only where it is recorded. Under a mode, which is
asked about everything, nothing is followed.

Source: PyTorch documentation, "Extending PyTorch", section Extending torch; NumPy enhancement proposal 18.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from inspect import getattr_static
from types import FunctionType
from typing import Any

from fanal.core.base.device import device
from fanal.core.base.dtype import dtype
from fanal.core.base.shape import Size
from fanal.core.engine.follow import dispatch
from fanal.core.engine.matcher import matcher
from fanal.core.engine.record import Op, unfollowed
from fanal.core.tensor.sparse import Sparse
from fanal.core.tensor.tensor import Tensor, view_chain


class _Overrides(threading.local):
    """What this thread dispatches to."""

    def __init__(self) -> None:
        self.modes: list[Any] = []  # the innermost last
        self.recording: list[unfollowed] = []  # one for each mode
        self.subclasses = True  # whether arguments are asked
        self.everything = True  # whether modes are, too
        self.asked: list[tuple] = []  # what is being answered: by whom, a call, its arguments

    def enter(self, mode: Any) -> None:
        """Let a mode answer, and follow nothing, so that every call reaches it."""
        self.recording.append(unfollowed())
        self.recording[-1].__enter__()
        self.modes.append(mode)

    def leave(self) -> None:
        """End the innermost mode."""
        self.modes.pop()
        self.recording.pop().__exit__()


overrides = _Overrides()
# The method under which an operator of Python is answered; the others under their own name.
_METHOD_OF = {
    f"__{operator}__": method
    for operator, method in (
        pair.split("=")
        for pair in """
        add=add radd=add iadd=add_ sub=sub isub=sub_ mul=mul rmul=mul imul=mul_ truediv=div
        itruediv=div_ ifloordiv=floor_divide_ mod=remainder imod=remainder_ matmul=matmul neg=neg abs=abs pos=positive
        rand=bitwise_and ror=bitwise_or rxor=bitwise_xor ne=ne lt=lt le=le gt=gt ge=ge
        """.split()
    )
}
# Types that are known to override nothing.
_PLAIN = {Tensor, int, float, bool, complex, str, type(None), slice, type(...), dtype, device, Size}


def disabled(*args: Any, **kwargs: Any) -> Any:
    """What stands as __torch_function__ in a class to say that it overrides nothing."""
    return NotImplemented


def overrides_calls(kind: type) -> bool:
    """Tell whether a class has a __torch_function__ that is not disabled."""
    if kind is Tensor:
        return False
    f = getattr(kind, "__torch_function__", None)
    return f is not None and f is not disabled


def _unknown(args: Iterable[Any]) -> Iterator[Any]:
    for a in args:
        if type(a) not in _PLAIN:
            if isinstance(a, (tuple, list)):
                yield from _unknown(a)
            elif overrides_calls(type(a)):
                yield a


def overloaded(args: Iterable[Any]) -> list[Any]:
    """Return the arguments that answer a call, one of each type; a subclass comes before what it derives from."""
    found: list[Any] = []
    for a in _unknown(args):
        if all(type(a) is not type(b) for b in found):
            place = next((k for k, b in enumerate(found) if issubclass(type(a), type(b))), len(found))
            found.insert(place, a)
    return found


def overriding(args: tuple, kwargs: dict) -> list[Any] | None:
    """Return the arguments that answer a call, an empty list if only a mode does, or None if nothing does."""
    for a in (*args, *kwargs.values()) if kwargs else args:
        if type(a) not in _PLAIN and not (type(a) in (list, tuple) and _PLAIN.issuperset(map(type, a))):
            break
    else:
        return [] if overrides.modes and overrides.everything else None
    found = overloaded((*args, *kwargs.values())) if overrides.subclasses else []
    return found if found or (overrides.modes and overrides.everything) else None


def answer(public: Callable, found: list[Any], args: tuple, kwargs: dict) -> Any:
    """Let a mode, or one of the arguments `found`, answer a call of `public`.

    Raises TypeError when none of them does.
    """
    public = getattr(Tensor, _METHOD_OF.get(public.__name__, ""), public)
    types = tuple(map(type, found))
    if overrides.modes and overrides.everything:
        mode = overrides.modes.pop()
        try:
            out = mode.__torch_function__(public, types, args, kwargs)
        finally:
            overrides.modes.append(mode)
        if out is not NotImplemented:
            return out
    for a in found:
        with _Asking(type(a), public, args) as new:
            out = a.__torch_function__(public, types, args, kwargs) if new else NotImplemented
        if out is not NotImplemented:
            return out
    name = f"{public.__module__}.{getattr(public, '__qualname__', public)}".replace("fanal", "torch", 1)
    raise TypeError(
        f"no implementation found for '{name}' on types that implement __torch_function__: {list(types)}"
    )


class _Asking:
    """Says whether a class is not being asked the same already.

    PyTorch's own tensors answer by calling back, with a guard that only PyTorch knows of; so do ours when PyTorch asks.
    """

    def __init__(self, cls: type, func: Callable, args: tuple) -> None:
        self.call = (cls, func, *map(id, args))

    def __enter__(self) -> bool:
        new = self.call not in overrides.asked
        overrides.asked.append(self.call)
        return new

    def __exit__(self, *exc: object) -> None:
        overrides.asked.pop()


class without:
    """Ask no arguments inside a block, and with `everything` no modes either."""

    def __init__(self, everything: bool = False) -> None:
        self.everything = everything

    def __enter__(self) -> None:
        self.outer = overrides.subclasses, overrides.everything
        overrides.subclasses = False
        overrides.everything = overrides.everything and not self.everything

    def __exit__(self, *exc: object) -> None:
        overrides.subclasses, overrides.everything = self.outer


def overridable(fn: Callable, name: str, arguments: bool = True) -> Callable:
    """Return a public function that is no event so that it may be answered; without `arguments`, by modes only."""

    def call(*args: Any, **kwargs: Any) -> Any:
        found = overriding(args, kwargs) if arguments else overriding((), {})
        return fn(*args, **kwargs) if found is None else answer(call, found, args, kwargs)

    call.__name__ = call.__qualname__ = name
    call.__doc__, call.__module__ = fn.__doc__, fn.__module__
    return call


def _member(public: Callable, run: Callable) -> Callable:
    """Return what a subclass has instead of a method of Tensor that is no event: it may be answered."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        args = self, *args
        found = overriding(args, kwargs)
        return run(*args, **kwargs) if found is None else answer(public, found, args, kwargs)

    return call


# What has two underscores and is dispatched all the same.
_SPECIAL = frozenset(
    f"__{name}__" for name in "array bool complex contains float format index int iter len repr".split()
)


def _prepare(cls: type) -> None:
    """Let the methods and properties of Tensor that are no events be answered in a new subclass.

    Tensor itself keeps them as they are, so that a plain tensor pays nothing.
    """
    cls._asked = overrides_calls(cls)  # type: ignore[attr-defined]
    if not cls._asked:  # type: ignore[attr-defined]
        return
    for name in list(vars(Tensor)):
        hasattr(Tensor, name)  # a method that nobody has asked for yet is made now
        member = vars(Tensor)[name]
        if (name.startswith("_") and name not in _SPECIAL) or name == "as_subclass":
            continue
        if getattr_static(cls, name) is not member:
            continue
        if isinstance(member, property):
            setter = member.fset and _member(member.__set__, member.fset)
            getter = _member(member.__get__, member.fget)  # type: ignore[arg-type]
            setattr(cls, name, property(getter, setter, doc=member.__doc__))
        elif isinstance(member, FunctionType):
            setattr(cls, name, _member(member, member))


def as_subclass(self: Any, cls: type) -> Any:
    """Return a tensor of another class that shares storage and history."""
    if not (isinstance(cls, type) and issubclass(cls, Tensor)):
        raise RuntimeError(f"as_subclass(): cls must be a subclass of Tensor, got {cls!r}")
    return _as(self, cls)


def _view_as(t: Any, cls: type) -> Any:
    return view_chain(t, (), t._strides, cls=cls)


_AS = Op("Tensor.as_subclass", _view_as)
_as = matcher.function(_AS.key, lambda *args: dispatch(_AS, args, {}), "as_subclass", None, "fanal")


def converted(x: Any, cls: type) -> Any:
    """Return a result whose tensors are of class `cls`."""
    if isinstance(x, (tuple, list)):
        items = [converted(i, cls) for i in x]
        return type(x)(*items) if hasattr(x, "_fields") else type(x)(items)
    if isinstance(x, Tensor) and not isinstance(x, (cls, Sparse)):
        return as_subclass(x, cls)
    return x


def _default(cls: type, func: Callable, types: Iterable[type], args: tuple = (), kwargs: Any = None) -> Any:
    """Run a call as for plain tensors, and return its tensors as this class."""
    if not all(issubclass(cls, t) for t in types):
        return NotImplemented
    with _Asking(Tensor, func, args) as new, without():
        if not new:
            return NotImplemented
        out = func(*args, **(kwargs or {}))
        return out if getattr(func, "__self__", None) is vars(Tensor)["grad"] else converted(out, cls)


Tensor.__torch_function__ = classmethod(_default)  # type: ignore[attr-defined]
Tensor.__init_subclass__ = classmethod(_prepare)  # type: ignore[assignment]
Tensor.as_subclass = as_subclass  # type: ignore[attr-defined]
Sparse.__torch_function__ = disabled  # type: ignore[attr-defined]
_PLAIN.add(Sparse)
